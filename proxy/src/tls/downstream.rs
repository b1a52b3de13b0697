//! Server side: a `DownstreamTlsContext`, and the handshake.

use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use pb::downstream_tls_context::SessionTicketKeysType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, NoClientAuth, NoServerSessionStorage, ServerConfig};
use rustls::{DistinguishedName, HandshakeKind};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::context::{Common, Material};
use super::params::{self, Side};
use super::report::CertificateReport;
use super::secret::Rebuild;
use super::stats::{Expirations, ServerSocketStats};
use super::verifier::{Keys, PeerVerifier};
use super::{Handshaken, TlsError, error, peer, signed};
use crate::config::route::{Under, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
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
    stats: OnceLock<Arc<ServerSocketStats>>,
}

/// One rustls configuration per ALPN answer, all with the same tickets and certificates.
struct Built {
    /// For clients that offer no ALPN, or none that we speak: the handshake completes without, as in Envoy.
    without_alpn: InOrder,
    by_alpn: Vec<(Vec<u8>, InOrder)>,
    keys: Arc<Keys>,
}

/// The same configuration for either side's preference of cipher suites.
struct InOrder {
    /// TLS 1.3, where BoringSSL always leaves the choice to clients.
    clients: Arc<ServerConfig>,
    /// TLS 1.2: ours, unless `prefer_client_ciphers` says otherwise.
    configured: Arc<ServerConfig>,
}

impl DownstreamTls {
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(config: &pb::DownstreamTlsContext, cx: &BuildContext) -> Compiled<Arc<Self>> {
        let empty = pb::CommonTlsContext::default();
        let common = config.common_tls_context.as_ref().unwrap_or(&empty);
        let nothing = common.tls_certificates.is_empty() && common.tls_certificate_sds_secret_configs.is_empty();
        let reason = "no TLS certificates found for server context";
        let stapling = "only LENIENT_STAPLING is supported";
        gather! {
            let common = Common::compile(common, Side::Downstream, cx).under("common_tls_context");
            let _any = refuse("common_tls_context.tls_certificates", nothing, reason);
            let tickets = tickets(config.session_ticket_keys_type.as_ref());
            let _lenient = refuse("ocsp_staple_policy", config.ocsp_staple_policy != 0, stapling);
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
            stats: OnceLock::new(),
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

    /// Has secrets that arrive counted, and its certificates shown under `<prefix>ssl.certificate.`.
    pub fn count_into(self: &Arc<Self>, socket: &Arc<ServerSocketStats>, expirations: &Expirations) {
        // A chain stays with its listener: the first is the only one.
        let _ = self.stats.set(socket.clone());
        let weak: Weak<dyn Rebuild> = Arc::<Self>::downgrade(self);
        expirations.watch(weak);
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
        let (config, local) = {
            let hello = start.client_hello();
            if self.require_sni && hello.server_name().is_none() {
                return Err(TlsError::Handshake("SNI required:TLS_error_end".to_owned()));
            }
            let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
            let chosen = built
                .by_alpn
                .iter()
                .find(|(name, _)| offered.contains(&name.as_slice()));
            let config = chosen.map_or(&built.without_alpn, |(_, config)| config);
            let config = if self.offers_tls13(&hello) {
                &config.clients
            } else {
                &config.configured
            };
            (config.clone(), built.keys.choose(&hello).map(|entry| &entry.leaf))
        };
        let (stream, signature) = signed::noting(start.into_stream(config)).await;
        let stream = stream.map_err(error::from_io)?;
        let (_, session) = stream.get_ref();
        let sni = session.server_name().map(str::to_owned);
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let info = peer::info(session, local, sni);
        Ok(Handshaken {
            resumed,
            signature,
            io: Io::Tls(Box::new(TlsStream::Server(stream))),
            peer: Arc::new(info),
        })
    }

    /// Whether TLS 1.3 is what will be agreed on: only who can speak it names its suites.
    fn offers_tls13(&self, hello: &ClientHello<'_>) -> bool {
        let speaks = self.common.params.versions.contains(&&rustls::version::TLS13);
        speaks && hello.cipher_suites().iter().any(|suite| params::is_tls13(*suite))
    }

    fn build(&self, material: Material) -> Compiled<Built> {
        let params = &self.common.params;
        let internal = |error: rustls::Error| Problems::one("common_tls_context.tls_params", error.to_string());
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
                    // Where Envoy has names or pins to match, a client without a certificate matches none of them.
                    let mandatory = self.require_client_certificate || material.policy.names_peers();
                    Arc::new(PeerVerifier {
                        policy: material.policy,
                        algorithms: params.provider.signature_verification_algorithms,
                        mandatory,
                        hints,
                        sni_is_san: false,
                    })
                }
            };
        let mut config = ServerConfig::builder_with_provider(params.provider.clone())
            .with_protocol_versions(&params.versions)
            .map_err(internal)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(keys.clone());
        config.ignore_client_order = !self.prefer_client_ciphers;
        if self.tickets {
            // A new ticketer per build: a session from before a rotation is not resumed, its peer is verified again.
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(internal)?;
        }
        if !self.sessions || self.tickets {
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
        // TLS 1.3 has no session ids: without tickets nothing is resumed, as in Envoy.
        if !self.tickets {
            config.send_tls13_tickets = 0;
        }
        let with_alpn = |name: &Vec<u8>| {
            let mut config = config.clone();
            config.alpn_protocols = vec![name.clone()];
            (name.clone(), InOrder::new(config))
        };
        Ok(Built {
            by_alpn: self.common.alpn.iter().map(with_alpn).collect(),
            without_alpn: InOrder::new(config),
            keys,
        })
    }
}

impl InOrder {
    fn new(configured: ServerConfig) -> Self {
        let mut clients = configured.clone();
        clients.ignore_client_order = false;
        Self {
            clients: Arc::new(clients),
            configured: Arc::new(configured),
        }
    }
}

impl Rebuild for DownstreamTls {
    fn rebuild(&self) {
        if let Some(stats) = self.stats.get() {
            stats.ssl_context_update_by_sds.inc();
        }
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

    fn expirations(&self, visit: &mut dyn FnMut(&str, i64)) {
        self.common.expirations(visit);
    }
}

/// Whether sessions are resumed by tickets.
fn tickets(keys: Option<&SessionTicketKeysType>) -> Compiled<bool> {
    match keys {
        None => Ok(true),
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(disabled)) => Ok(!disabled),
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => Err(Problems::one("session_ticket_keys", "not supported")),
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            Err(Problems::one("session_ticket_keys_sds_secret_config", "not supported"))
        }
    }
}
