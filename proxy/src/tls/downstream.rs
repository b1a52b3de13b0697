//! Server side: a `DownstreamTlsContext`, and the handshake.

use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use pb::downstream_tls_context::SessionTicketKeysType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, NoClientAuth, NoServerSessionStorage, ServerConfig};
use rustls::{DistinguishedName, HandshakeKind};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::context::{Common, Material};
use super::params::Side;
use super::report::CertificateReport;
use super::secret::Rebuild;
use super::verifier::PeerVerifier;
use super::x509::CertificateFacts;
use super::{Handshaken, TlsError, error, peer};
use crate::config::{BuildContext, Compiled, Problems};
use crate::runtime::io::Io;

/// A compiled `DownstreamTlsContext`. Keeps its identity while secrets rotate.
pub struct DownstreamTls {
    common: Common,
    require_client_certificate: bool,
    require_sni: bool,
    prefer_client_ciphers: bool,
    tickets: bool,
    sessions: bool,
    built: ArcSwapOption<Built>,
}

/// One rustls configuration per ALPN answer, all with the same tickets and certificates.
struct Built {
    /// For clients that offer no ALPN, or none that we speak: the handshake completes without, as in Envoy.
    without_alpn: Arc<ServerConfig>,
    by_alpn: Vec<(Vec<u8>, Arc<ServerConfig>)>,
    local: Option<Arc<CertificateFacts>>,
}

impl DownstreamTls {
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(config: &pb::DownstreamTlsContext, cx: &BuildContext) -> Compiled<Arc<Self>> {
        let empty = pb::CommonTlsContext::default();
        let common = config.common_tls_context.as_ref().unwrap_or(&empty);
        let common = Common::compile(common, Side::Downstream, cx).map_err(|p| p.under("common_tls_context"))?;
        if !common.has_certificates() {
            let reason = "no TLS certificates found for server context";
            return Err(Problems::one("common_tls_context.tls_certificates", reason));
        }
        let tickets = match &config.session_ticket_keys_type {
            None => true,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(disabled)) => !disabled,
            Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
                return Err(Problems::one("session_ticket_keys", "not supported"));
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
                return Err(Problems::one("session_ticket_keys_sds_secret_config", "not supported"));
            }
        };
        if config.ocsp_staple_policy != 0 {
            return Err(Problems::one(
                "ocsp_staple_policy",
                "only LENIENT_STAPLING is supported",
            ));
        }
        let flag = |wrapped: &Option<remora_proto::pb::google::protobuf::BoolValue>| {
            wrapped.as_ref().is_some_and(|wrapped| wrapped.value)
        };
        let context = Arc::new(Self {
            common,
            require_client_certificate: flag(&config.require_client_certificate),
            require_sni: flag(&config.require_sni),
            prefer_client_ciphers: config.prefer_client_ciphers,
            tickets,
            sessions: !config.disable_stateful_session_resumption,
            built: ArcSwapOption::empty(),
        });
        // Secrets that are here already must fit; those that come later are checked when they come.
        if let Some(material) = context.common.material() {
            let material = material.map_err(|problems| problems.under("common_tls_context"))?;
            context.built.store(Some(Arc::new(context.build(material)?)));
        }
        let weak: Weak<dyn Rebuild> = Arc::<Self>::downgrade(&context);
        for cell in context.common.cells() {
            cell.watch(weak.clone());
        }
        cx.secrets.register(weak);
        Ok(context)
    }

    /// Whether all secrets have arrived.
    pub fn is_ready(&self) -> bool {
        self.built.load().is_some()
    }

    /// ALPN names in the server's order of preference.
    pub fn alpn_protocols(&self) -> &[Vec<u8>] {
        &self.common.alpn
    }

    /// Does the server's part of a handshake. No time limit of its own; dropping it closes the connection.
    ///
    /// # Errors
    /// See [`TlsError`]. The peer has been sent its alert.
    pub async fn accept(&self, io: Io) -> Result<Handshaken, TlsError> {
        let built = self.built.load_full().ok_or(TlsError::SecretNotReady)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), io)
            .await
            .map_err(error::from_io)?;
        let config = {
            let hello = start.client_hello();
            if self.require_sni && hello.server_name().is_none() {
                return Err(TlsError::Handshake("SNI required:TLS_error_end".to_owned()));
            }
            let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
            let chosen = built
                .by_alpn
                .iter()
                .find(|(name, _)| offered.contains(&name.as_slice()));
            chosen.map_or(&built.without_alpn, |(_, config)| config).clone()
        };
        let stream = start.into_stream(config).await.map_err(error::from_io)?;
        let (_, session) = stream.get_ref();
        let sni = session.server_name().map(str::to_owned);
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let info = peer::info(session, built.local.as_ref(), sni);
        Ok(Handshaken {
            resumed,
            io: Io::Tls(Box::new(TlsStream::Server(stream))),
            peer: Arc::new(info),
        })
    }

    fn build(&self, material: Material) -> Compiled<Built> {
        let params = &self.common.params;
        let internal = |error: rustls::Error| Problems::one("common_tls_context.tls_params", error.to_string());
        let local = material.local.clone();
        let keys = Arc::new(material.keys);
        let verifier: Arc<dyn ClientCertVerifier> =
            match self.require_client_certificate || self.common.has_validation() {
                false => Arc::new(NoClientAuth),
                true => {
                    let hints = match self.common.suppresses_client_ca_list() {
                        true => Vec::new(),
                        false => {
                            let names = material.policy.anchors().flat_map(|trust| &trust.anchors);
                            let names = names.map(|anchor| DistinguishedName::in_sequence(&anchor.subject));
                            names.collect()
                        }
                    };
                    Arc::new(PeerVerifier {
                        policy: material.policy,
                        algorithms: params.provider.signature_verification_algorithms,
                        mandatory: self.require_client_certificate,
                        hints,
                        sni_is_san: false,
                    })
                }
            };
        let mut config = ServerConfig::builder_with_provider(params.provider.clone())
            .with_protocol_versions(&params.versions)
            .map_err(internal)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(keys);
        config.ignore_client_order = !self.prefer_client_ciphers;
        if self.tickets {
            // A new ticketer per build: a session from before a rotation is not resumed, its peer is verified again.
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(internal)?;
        }
        if !self.sessions || self.tickets {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        if !self.sessions && !self.tickets {
            config.send_tls13_tickets = 0;
        }
        let with_alpn = |name: &Vec<u8>| {
            let mut config = config.clone();
            config.alpn_protocols = vec![name.clone()];
            (name.clone(), Arc::new(config))
        };
        Ok(Built {
            by_alpn: self.common.alpn.iter().map(with_alpn).collect(),
            without_alpn: Arc::new(config),
            local,
        })
    }
}

impl Rebuild for DownstreamTls {
    fn rebuild(&self) {
        match self.common.material() {
            None => self.built.store(None),
            Some(material) => match material.and_then(|material| self.build(material)) {
                Ok(built) => self.built.store(Some(Arc::new(built))),
                Err(problems) => tracing::warn!(%problems, "downstream TLS context keeps its old secrets"),
            },
        }
    }

    fn report(&self) -> CertificateReport {
        self.common.report()
    }
}
