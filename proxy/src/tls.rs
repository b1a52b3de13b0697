//! TLS on both sides: rustls configurations behind `ArcSwap`, SPIFFE/SAN verification, ALPN policy, rotation.
//!
//! In: transport sockets and secrets. Out: an [`Io`] with a verified [`PeerInfo`]. New certificates apply to new handshakes
//! only: a context keeps its identity while the rustls configuration inside it is swapped.

pub mod context;
pub mod downstream;
pub mod error;
pub mod keys;
pub mod material;
pub mod params;
pub mod peer;
pub mod report;
pub mod revocation;
pub mod san;
pub mod secret;
pub mod signed;
pub mod spiffe;
pub mod stats;
pub mod upstream;
pub mod verifier;
pub mod verify;
pub mod walk;
pub mod x509;

use std::sync::Arc;

pub use downstream::DownstreamTls;
pub use secret::{SecretCell, SecretStore};
pub use upstream::UpstreamTls;

use crate::runtime::io::Io;

/// Has the cryptography gather the entropy that its first random number takes, on a thread of its own: aws-lc measures the jitter of the CPU for 420
/// million instructions then, a tenth of a second in which a first listener would not be built.
pub fn gather_entropy() {
    let gather = || {
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        // Whoever needs random numbers learns by itself that there are none.
        let _ = random.fill(&mut [0; 32]);
    };
    // Without the thread it is gathered when it is needed.
    let _ = std::thread::Builder::new().name("entropy".to_owned()).spawn(gather);
}

/// What a handshake told about the peer and the connection; formatted once per connection, read by access logs, XFCC and RBAC.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// URI SANs of the peer's certificate, in its order.
    pub uri_sans: Vec<String>,
    pub dns_sans: Vec<String>,
    /// RFC 2253 subject.
    pub subject: Option<String>,
    pub issuer: Option<String>,
    /// Lower-case hex, as in Envoy's `DOWNSTREAM_PEER_SERIAL`.
    pub serial: Option<String>,
    /// SHA-256 of the DER certificate, lower-case hex (XFCC `Hash`).
    pub sha256: Option<String>,
    /// The leaf as DER; PEM is made only where a log or header asks for it.
    pub certificate: Option<Arc<[u8]>>,
    /// The whole chain as presented, DER.
    pub chain: Vec<Arc<[u8]>>,
    pub local_uri_sans: Vec<String>,
    pub local_dns_sans: Vec<String>,
    pub local_subject: Option<String>,
    /// Our own certificate, for what few logs ask for.
    pub local: Option<Arc<x509::CertificateFacts>>,
    /// When the handshake was over.
    pub done: Option<std::time::Instant>,
    /// `TLSv1.3`, `TLSv1.2`
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite, as Envoy prints it.
    pub cipher: &'static str,
    /// BoringSSL's name of the key exchange group, as Envoy counts it; of a resumed TLS 1.2 session that of its first handshake.
    pub group: &'static str,
    pub alpn: Option<Vec<u8>>,
    pub sni: Option<String>,
}

/// A handshake that failed, by whose fault; `Display` is the `transport_failure_reason`.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Envoy: "TLS_error:|…"
    #[error("TLS_error:|{0}")]
    Handshake(String),
    /// The peer's certificate was refused, or missing.
    #[error("TLS_error:|{1}")]
    Verify(error::VerifyFailure, String),
    /// The context's secrets have not arrived; Envoy refuses the connection (`downstream_context_secrets_not_ready`).
    #[error("TLS secret is not supplied by SDS")]
    SecretNotReady,
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A cluster's transport sockets: the default and the `transport_socket_matches`, first match by endpoint metadata wins.
#[derive(Default)]
pub struct UpstreamTransport {
    pub default: UpstreamSocket,
    pub matches: Vec<TransportMatch>,
}

/// One transport socket of a cluster.
#[derive(Clone, Default)]
pub struct UpstreamSocket {
    /// `None` is plaintext.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The PROXY header that comes before anything else.
    pub header: Option<Arc<crate::tcp::proxy_header::ProxyHeader>>,
    /// Its kind is not supported, and the operator wants to run without: nobody connects through it, least of all without what it would do.
    pub unusable: bool,
    /// Of its configuration; none of plaintext.
    pub identity: Option<Arc<crate::config::identity::Identity>>,
}

impl UpstreamSocket {
    /// Differs where connections through it differ: part of the pool key.
    pub fn id(&self) -> u64 {
        self.identity.as_ref().map_or(0, |identity| identity.id())
    }

    /// Whether a handshake can agree on a protocol; of one that cannot be used nobody knows.
    pub fn has_alpn(&self) -> bool {
        self.tls.is_some() || self.unusable
    }
}

impl UpstreamTransport {
    /// Has the handshakes and certificates of all sockets counted under the cluster's prefix.
    pub fn count_into(&self, stats: &crate::telemetry::stats::Stats, prefix: &str) {
        let sockets = self.matches.iter().map(|entry| &entry.socket);
        for tls in sockets.chain([&self.default]).filter_map(|socket| socket.tls.as_ref()) {
            tls.count_into(stats, prefix);
        }
    }
}

/// One entry of `transport_socket_matches`.
pub struct TransportMatch {
    pub name: String,
    /// Must equal the endpoint's `envoy.transport_socket_match` metadata in each of these fields; empty matches all.
    pub labels: Vec<(String, remora_proto::pb::google::protobuf::Value)>,
    pub socket: UpstreamSocket,
}

/// A finished handshake.
pub struct Handshaken {
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// How the peer has proven its certificate, now or when the session was made; none where it showed none.
    pub signature: Option<rustls::SignatureScheme>,
    /// Why the peer would have been refused, but for `ACCEPT_UNTRUSTED`.
    pub overlooked: Option<error::VerifyFailure>,
    pub io: Io,
    pub peer: Arc<PeerInfo>,
}

#[cfg(test)]
mod tests;
