//! Server side: a `DownstreamTlsContext`, and the handshake.

use std::sync::{Arc, OnceLock, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use pb::downstream_tls_context::SessionTicketKeysType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    Acceptor, ClientHello, NoClientAuth, NoServerSessionStorage, ProducesTickets, ServerConfig,
    ServerSessionMemoryCache, StoresServerSessions,
};
use rustls::{
    CipherSuite, DistinguishedName, HandshakeKind, NamedGroup, SignatureAlgorithm, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use super::context::{Common, Material};
use super::keys::Keys;
use super::params::{self, Side};
use super::report::CertificateReport;
use super::secret::Rebuild;
use super::signed::{self, Notes, Remembering};
use super::stats::{Expirations, ServerSocketStats};
use super::verifier::PeerVerifier;
use super::{Handshaken, PeerInfo, TlsError, error, peer};
use crate::config::route::{Under, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::runtime::io::Io;

/// A compiled `DownstreamTlsContext`. Keeps its identity while secrets rotate.
pub struct DownstreamTls {
    common: Common,
    require_client_certificate: bool,
    require_sni: bool,
    prefer_client_ciphers: bool,
    scans: bool,
    tickets: bool,
    sessions: bool,
    built: ArcSwapOption<Built>,
    stats: OnceLock<Arc<ServerSocketStats>>,
}

/// What all handshakes between two rotations share: rustls configurations by what a client asks for, each made when first needed.
struct Built {
    recipe: Recipe,
    configs: ArcSwap<Vec<(Shape, Arc<ServerConfig>)>>,
    keys: Arc<Keys>,
}

/// What rustls would not choose as BoringSSL does, chosen for it. The default is right for TLS 1.2 clients without ALPN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// Our name for the connection's protocol. None for clients that offer no ALPN, or none that we speak: the handshake completes without, as in
    /// Envoy.
    alpn: Option<Vec<u8>>,
    /// The client's order of suites counts.
    in_clients_order: bool,
    /// All suites, where those of equal preference are in another order than ours.
    suites: Vec<CipherSuite>,
    /// The only group: our first that the client has, where rustls would choose the client's first that we have.
    group: Option<NamedGroup>,
}

/// How to make a rustls configuration: all have the same tickets, sessions and certificates.
struct Recipe {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    verifier: Arc<dyn ClientCertVerifier>,
    keys: Arc<Keys>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
    sessions: Arc<dyn StoresServerSessions>,
}

/// How many configurations a context keeps for the sake of unusual clients; who comes after that is served in our own order.
const MOST_SHAPES: usize = 64;

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
            scans: flag(&config.full_scan_certs_on_sni_mismatch),
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
        if self.stats.set(socket.clone()).is_ok() {
            socket.ssl_context_update_by_sds.add(self.common.arrived());
        }
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
    /// See [`TlsError`]. The peer has been sent its alert, and `known` says what is known of it.
    pub async fn accept(&self, io: Io, known: &mut Option<Arc<PeerInfo>>) -> Result<Handshaken, TlsError> {
        let built = self.built.load_full().ok_or(TlsError::SecretNotReady)?;
        let start = LazyConfigAcceptor::new(Acceptor::default(), io)
            .await
            .map_err(error::from_io)?;
        let (config, local, notes, suites) = {
            let hello = start.client_hello();
            if self.require_sni && hello.server_name().is_none() {
                return Err(TlsError::Handshake("SNI required:TLS_error_end".to_owned()));
            }
            let shape = self.shape(&hello);
            let chosen = built.keys.choose(&hello, &self.common.params);
            let entry = built.keys.get(chosen);
            let suites = [false, true].map(|is_tls13| {
                let kind = entry?.key.key.algorithm();
                self.suite(&hello, &shape, kind, is_tls13)
            });
            let config = built.config(shape).map_err(error::from_rustls)?;
            let notes = Notes::of_choices(self.group(&hello), chosen);
            (config, entry.map(|entry| &entry.leaf), notes, suites)
        };
        let sni = start.client_hello().server_name().map(str::to_owned);
        let (stream, notes) = signed::noting(notes, || start.into_stream(config)).await;
        let stream = match stream.map_err(error::from_io) {
            Ok(stream) => stream,
            Err(error) => {
                // Nobody is asked for a certificate before version and suite are agreed on.
                let is_agreed = matches!(error, TlsError::Verify(..)) || !notes.refused.is_empty();
                let suite = suites[usize::from(notes.is_tls13)].filter(|_| is_agreed);
                *known = Some(Arc::new(peer::refused(suite, notes.refused, local, sni)));
                return Err(error);
            }
        };
        let (_, session) = stream.get_ref();
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let of_session = notes.of_session(resumed);
        let info = peer::info(session, local, sni, of_session);
        Ok(Handshaken {
            resumed,
            signature: of_session.scheme,
            overlooked: notes.overlooked,
            io: Io::Tls(Box::new(TlsStream::Server(stream))),
            peer: Arc::new(info),
        })
    }

    /// What BoringSSL would choose for this client where it is left to its own order.
    fn shape(&self, hello: &ClientHello<'_>) -> Shape {
        let params = &self.common.params;
        let offered: Vec<&[u8]> = hello.alpn().map(Iterator::collect).unwrap_or_default();
        let alpn = self.common.alpn.iter().find(|name| offered.contains(&name.as_slice()));
        let groups = hello.named_groups().unwrap_or_default();
        let ours = || params.provider.kx_groups.iter().map(|group| group.name());
        let wanted = self.group(hello);
        let rustls = groups.iter().copied().find(|group| ours().any(|own| own == *group));
        // TLS 1.3, where BoringSSL always leaves the choice to clients: only who can speak it names its suites.
        let speaks = params.versions.contains(&&rustls::version::TLS13);
        let is_tls13 = speaks && hello.cipher_suites().iter().any(|suite| params::is_tls13(*suite));
        let in_clients_order = is_tls13 || self.prefer_client_ciphers;
        Shape {
            alpn: alpn.cloned(),
            in_clients_order,
            suites: match in_clients_order {
                true => Vec::new(),
                false => params.reordered(hello.cipher_suites()),
            },
            group: wanted.filter(|_| wanted != rustls),
        }
    }

    /// The suite that a handshake in this shape is going to have; rustls tells of that only where the handshake succeeds.
    fn suite(
        &self,
        hello: &ClientHello<'_>,
        shape: &Shape,
        kind: SignatureAlgorithm,
        is_tls13: bool,
    ) -> Option<SupportedCipherSuite> {
        let ours = &self.common.params.provider.cipher_suites;
        let offered = hello.cipher_suites();
        let known = |wanted: &CipherSuite| ours.iter().find(|own| own.suite() == *wanted).copied();
        let fits = |suite: &SupportedCipherSuite| {
            suite.tls13().is_some() == is_tls13
                && offered.contains(&suite.suite())
                && suite.usable_for_signature_algorithm(kind)
        };
        if shape.in_clients_order {
            return offered.iter().filter_map(known).find(fits);
        }
        match shape.suites.is_empty() {
            true => ours.iter().copied().find(fits),
            false => shape.suites.iter().filter_map(known).find(fits),
        }
    }

    /// The group that BoringSSL would choose for this client: our first that it has.
    fn group(&self, hello: &ClientHello<'_>) -> Option<NamedGroup> {
        let groups = hello.named_groups().unwrap_or_default();
        let mut ours = self.common.params.provider.kx_groups.iter().map(|group| group.name());
        ours.find(|group| groups.contains(group))
    }

    fn build(&self, material: Material) -> Compiled<Built> {
        let params = &self.common.params;
        let internal = |error: rustls::Error| Problems::one("common_tls_context.tls_params", error.to_string());
        let keys = Arc::new(material.keys.scanning(self.scans));
        let asks = material.policy.asks_clients();
        if self.require_client_certificate && !asks {
            tracing::warn!(
                "require_client_certificate: there is nothing to verify one by, so none is asked for, as by Envoy"
            );
        }
        let verifier: Arc<dyn ClientCertVerifier> = match asks {
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
        let recipe = Recipe {
            provider: params.provider.clone(),
            versions: params.versions.clone(),
            verifier,
            keys: keys.clone(),
            // A new ticketer per build: a session from before a rotation is not resumed, its peer is verified again.
            ticketer: match self.tickets {
                true => Some(Arc::new(Remembering(Ticketer::new().map_err(internal)?))),
                false => None,
            },
            sessions: match self.sessions {
                true => Arc::new(Remembering::<dyn StoresServerSessions>(ServerSessionMemoryCache::new(
                    SESSIONS,
                ))),
                false => Arc::new(NoServerSessionStorage {}),
            },
        };
        // What cannot be made is refused now, and not at the first handshake.
        recipe.make(&Shape::default()).map_err(internal)?;
        Ok(Built {
            recipe,
            configs: ArcSwap::default(),
            keys,
        })
    }
}

/// Sessions that TLS 1.2 clients without tickets may resume, of one context between two rotations; BoringSSL keeps 20,480 of its own.
const SESSIONS: usize = 256;

impl Built {
    fn config(&self, shape: Shape) -> Result<Arc<ServerConfig>, rustls::Error> {
        let configs = self.configs.load();
        if let Some((_, config)) = configs.iter().find(|(known, _)| *known == shape) {
            return Ok(config.clone());
        }
        let shape = match configs.len() < MOST_SHAPES {
            true => shape,
            false => Shape {
                suites: Vec::new(),
                group: None,
                ..shape
            },
        };
        let config = Arc::new(self.recipe.make(&shape)?);
        self.configs.rcu(|configs| {
            let mut configs = Vec::clone(configs);
            if !configs.iter().any(|(known, _)| *known == shape) {
                configs.push((shape.clone(), config.clone()));
            }
            configs
        });
        Ok(config)
    }
}

impl Recipe {
    fn make(&self, shape: &Shape) -> Result<ServerConfig, rustls::Error> {
        let mut provider = self.provider.clone();
        if shape.group.is_some() || !shape.suites.is_empty() {
            let own = Arc::make_mut(&mut provider);
            let place = |suite: &SupportedCipherSuite| shape.suites.iter().position(|known| *known == suite.suite());
            own.cipher_suites.sort_by_key(place);
            own.kx_groups
                .retain(|group| shape.group.is_none_or(|only| only == group.name()));
        }
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)?
            .with_client_cert_verifier(self.verifier.clone())
            .with_cert_resolver(self.keys.clone());
        config.ignore_client_order = !shape.in_clients_order;
        config.alpn_protocols.extend(shape.alpn.clone());
        config.key_log = Arc::new(signed::VersionNote);
        config.session_storage = self.sessions.clone();
        match &self.ticketer {
            Some(ticketer) => config.ticketer = ticketer.clone(),
            // TLS 1.3 has no session ids: without tickets nothing is resumed, as in Envoy.
            None => config.send_tls13_tickets = 0,
        }
        Ok(config)
    }
}

impl Rebuild for DownstreamTls {
    fn rebuild(&self, came: bool) {
        if let Some(stats) = self.stats.get().filter(|_| came) {
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
