//! Client side: an `UpstreamTlsContext`, and the handshake.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::client::{ClientConfig, Resumption};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, NamedGroup, SignatureScheme};
use tokio_rustls::{TlsConnector, TlsStream};

use super::context::{Common, Material};
use super::error::VerifyFailure;
use super::params::Side;
use super::report::CertificateReport;
use super::secret::Rebuild;
use super::signed::{self, Earlier, Notes};
use super::stats::{ClientSocketStats, Expirations, SslStats};
use super::verifier::PeerVerifier;
use super::verify::Unnamed;
use super::x509::CertificateFacts;
use super::{Handshaken, TlsError, error, peer, san};
use crate::config::route::{Under, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::runtime::io::Io;
use crate::telemetry::stats::Stats;

/// A compiled `UpstreamTlsContext`. Keeps its identity while secrets rotate.
pub struct UpstreamTls {
    common: Common,
    sni: Option<String>,
    auto_host_sni: bool,
    auto_sni_san_validation: bool,
    max_session_keys: usize,
    built: ArcSwapOption<Built>,
    stats: OnceLock<Counts>,
}

struct Counts {
    ssl: Arc<SslStats>,
    socket: Arc<ClientSocketStats>,
}

struct Built {
    config: Arc<ClientConfig>,
    local: Option<Arc<CertificateFacts>>,
    unnamed: Unnamed,
    /// Of each name, what the handshake was like that its sessions come from: rustls keeps these in a form of its own.
    sessions: Mutex<HashMap<String, Earlier>>,
}

impl UpstreamTls {
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(config: &pb::UpstreamTlsContext, cx: &BuildContext) -> Compiled<Arc<Self>> {
        let empty = pb::CommonTlsContext::default();
        let common = config.common_tls_context.as_ref().unwrap_or(&empty);
        let is_no_name = !config.sni.is_empty() && server_name(&config.sni).is_none();
        gather! {
            let common = Common::compile(common, Side::Upstream, cx).under("common_tls_context");
            let _quiet = refuse("allow_renegotiation", config.allow_renegotiation, "not supported");
            let _name = refuse("sni", is_no_name, "not a DNS name");
        }
        let sessions = config.max_session_keys.as_ref().map_or(1, |wrapped| wrapped.value);
        let context = Arc::new(Self {
            common,
            sni: Some(config.sni.clone()).filter(|sni| !sni.is_empty()),
            auto_host_sni: config.auto_host_sni,
            auto_sni_san_validation: config.auto_sni_san_validation,
            max_session_keys: sessions as usize,
            built: ArcSwapOption::empty(),
            stats: OnceLock::new(),
        });
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

    /// Has handshakes counted under `<prefix>ssl.`, and its certificates shown there. A context belongs to one cluster; the first call counts.
    pub fn count_into(self: &Arc<Self>, stats: &Stats, prefix: &str) {
        let socket: Arc<ClientSocketStats> = stats.group(&format!("{prefix}client_ssl_socket_factory."));
        let counts = Counts {
            ssl: stats.group(&format!("{prefix}ssl.")),
            socket: socket.clone(),
        };
        if self.stats.set(counts).is_ok() {
            socket.ssl_context_update_by_sds.add(self.common.arrived());
        }
        let expirations: Arc<Expirations> = stats.group(&format!("{prefix}ssl.certificate."));
        let weak: Weak<dyn Rebuild> = Arc::<Self>::downgrade(self);
        expirations.watch(weak);
    }

    /// Counts the outcome of a handshake.
    pub fn record(&self, outcome: &Result<Handshaken, TlsError>) {
        let Some(counts) = self.stats.get() else { return };
        counts.ssl.record(outcome);
        if matches!(outcome, Err(TlsError::SecretNotReady)) {
            counts.socket.upstream_context_secrets_not_ready.inc();
        }
    }

    /// Whether all secrets have arrived.
    pub fn is_ready(&self) -> bool {
        self.built.load().is_some()
    }

    /// The SNI is the host's own name (`auto_host_sni`): give it as the override.
    pub fn auto_host_sni(&self) -> bool {
        self.auto_host_sni
    }

    pub fn alpn_protocols(&self) -> &[Vec<u8>] {
        &self.common.alpn
    }

    /// Does the client's part of a handshake. No time limit of its own; dropping it closes the connection. An override of the SNI that
    /// is no DNS name (an IP address) sends none.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub async fn connect(
        &self,
        io: Io,
        alpn_override: Option<&[Vec<u8>]>,
        sni_override: Option<&str>,
    ) -> Result<Handshaken, TlsError> {
        let built = self.built.load_full().ok_or(TlsError::SecretNotReady)?;
        let sni = sni_override.or(self.sni.as_deref());
        let name = sni.and_then(server_name).unwrap_or_else(|| placeholder(&io));
        let sent = match &name {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        let connector = TlsConnector::from(built.config.clone());
        let key = name.to_str().into_owned();
        let notes = Notes::default();
        let (outcome, notes) = match alpn_override {
            Some(alpn) => signed::noting(notes, || connector.with_alpn(alpn.to_vec()).connect(name, io)).await,
            None => signed::noting(notes, || connector.connect(name, io)).await,
        };
        let stream = outcome.map_err(error::from_io)?;
        let (_, session) = stream.get_ref();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let group = session.negotiated_key_exchange_group().map(|group| group.name());
        let of_session = built.session(key, resumed, notes.scheme, group);
        let info = peer::info(session, built.local.as_ref(), sent, of_session);
        Ok(Handshaken {
            resumed,
            signature: of_session.scheme,
            overlooked: notes.overlooked,
            io: Io::Tls(Box::new(TlsStream::Client(stream))),
            peer: Arc::new(info),
        })
    }

    fn build(&self, material: Material) -> Compiled<Built> {
        let params = &self.common.params;
        let unnamed = material.policy.unnamed();
        let internal = |error: rustls::Error| Problems::one("common_tls_context.tls_params", error.to_string());
        let verifier = PeerVerifier {
            policy: material.policy,
            algorithms: params.provider.signature_verification_algorithms,
            mandatory: true,
            hints: Vec::new(),
            sni_is_san: self.auto_sni_san_validation,
        };
        let mut config = ClientConfig::builder_with_provider(params.provider.clone())
            .with_protocol_versions(&params.versions)
            .map_err(internal)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(material.keys));
        config.alpn_protocols = self.common.alpn.clone();
        config.resumption = match self.max_session_keys {
            0 => Resumption::disabled(),
            // rustls counts up to eight TLS 1.3 tickets as one server.
            keys => Resumption::in_memory_sessions(keys.saturating_mul(8)),
        };
        Ok(Built {
            config: Arc::new(config),
            local: material.local,
            unnamed,
            sessions: Mutex::default(),
        })
    }

    /// `auto_san_validation`: checks that the peer's certificate has the name `host`. For after the handshake, before any byte of ours.
    ///
    /// # Errors
    /// [`TlsError::Verify`] when it does not, [`TlsError::Handshake`] where there is nothing to verify a name by.
    pub fn check_name(&self, done: Handshaken, host: &str) -> Result<Handshaken, TlsError> {
        let unnamed = self
            .built
            .load()
            .as_ref()
            .map_or(Unnamed::NobodyIsNamed, |built| built.unnamed);
        if unnamed == Unnamed::NobodyIsNamed {
            return Err(TlsError::Handshake(error::unverified()));
        }
        let leaf = done.peer.certificate.as_deref();
        let facts = leaf.and_then(CertificateFacts::parse);
        if facts.is_some_and(|facts| san::is_named(&facts, host)) {
            return Ok(done);
        }
        if unnamed == Unnamed::Counted {
            if let Some(counts) = self.stats.get() {
                counts.ssl.fail_verify_san.inc();
            }
            return Ok(done);
        }
        Err(TlsError::Verify(VerifyFailure::San, error::not_named()))
    }
}

/// As many names are remembered; who comes after that is counted without what its first handshake was like.
const MOST_NAMES: usize = 1024;

impl Built {
    /// What a handshake's session is known for: of a resumed one, what its first handshake was like.
    fn session(
        &self,
        name: String,
        resumed: bool,
        scheme: Option<SignatureScheme>,
        group: Option<NamedGroup>,
    ) -> Earlier {
        let mut sessions = self.sessions.lock();
        if resumed {
            return sessions.get(&name).copied().unwrap_or_default();
        }
        let own = Earlier { scheme, group };
        if sessions.len() < MOST_NAMES || sessions.contains_key(&name) {
            sessions.insert(name, own);
        }
        own
    }
}

impl Rebuild for UpstreamTls {
    fn rebuild(&self, came: bool) {
        if let Some(counts) = self.stats.get().filter(|_| came) {
            counts.socket.ssl_context_update_by_sds.inc();
        }
        match self.common.material() {
            None => self.built.store(None),
            Some(material) => match material.and_then(|material| self.build(material)) {
                Ok(built) => self.built.store(Some(Arc::new(built))),
                Err(problems) => tracing::warn!(%problems, "upstream TLS context keeps its old secrets"),
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

/// `None` for what cannot go into an SNI.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Some(name.to_owned()),
        _ => None,
    }
}

/// rustls wants a name even where none is sent; the address keeps the session caches of hosts apart.
fn placeholder(io: &Io) -> ServerName<'static> {
    let peer = io.as_tcp().and_then(|stream| stream.peer_addr().ok());
    let ip = peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
    ServerName::IpAddress(ip.into())
}
