//! Upstream connections: pools per worker, keyed by everything that makes connections differ.
//!
//! In: a picked host. Out: a [`Lease`] on a connection to it, which comes home by itself when its response has ended. A pool belongs to its thread:
//! leasing an idle connection takes no lock and makes no system call.

pub mod alpn;
mod connect;
mod home;
mod local;
mod preconnect;
mod room;

use std::sync::Arc;

use crate::cluster::{Cluster, Host};
use crate::http::body::Body;
use crate::http::codec::{Head, SendError, h1, h2};
use crate::http::exchange::Protocol;
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::runtime::io::Address;
use crate::tcp::connect::OriginalSource;
use crate::tls::PeerInfo;

/// What two requests must have in common to share a connection. Compared field by field; ids are unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// [`Cluster::id`]: transport socket, protocol options and all else that the cluster's configuration says.
    pub cluster: u64,
    /// [`HostState::id`](crate::cluster::HostState::id)
    pub host: u64,
    /// `RoutingPriority::HIGH` has pools of its own, as in Envoy.
    pub high_priority: bool,
    pub protocol: Wanted,
    /// [`Alpn::id`](alpn::Alpn::id) of what the request wants offered; 0: what the transport socket says.
    pub alpn: u64,
    /// `original_src`: the client's own address is the connection's source.
    pub source: Option<OriginalSource>,
}

/// Which protocol the connection must speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Http1,
    Http2,
    /// Whatever ALPN says.
    Auto,
}

/// A connection for one request.
pub enum Lease {
    H1 {
        connection: Box<h1::ClientConnection>,
        reused: bool,
        origin: Arc<Origin>,
    },
    H2 {
        connection: h2::ClientConnection,
        reused: bool,
        origin: Arc<Origin>,
    },
}

/// What a connection learned while it was made.
#[derive(Debug, Default)]
pub struct Origin {
    pub tls: Option<Arc<PeerInfo>>,
    pub local: Option<Address>,
}

/// A connection to `host`: an idle or shareable one, else a new one. `alpn` replaces the ALPN list of the host's TLS context, unless the
/// cluster keeps its own.
///
/// # Errors
/// Connect failure or timeout, or a circuit breaker's overflow; counted in the cluster's stats.
///
/// # Cancel safety
/// Dropping the future gives up a connection that only this request waits for; one that others wait for goes on.
pub async fn lease(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    high_priority: bool,
    downstream: Protocol,
    alpn: Option<&alpn::UpstreamAlpn>,
    source: Option<OriginalSource>,
) -> Result<Lease, Failure> {
    let (key, list) = key_of(cluster, host, high_priority, downstream, alpn, source);
    if cluster.preconnect.is_some() {
        preconnect::predict(cluster, key, downstream, alpn);
    }
    if let Some(lease) = local::take(&key) {
        preconnect::keep_ahead(&key, cluster, host, list);
        return Ok(lease);
    }
    Box::pin(connect::connect(key, cluster, host, list)).await
}

fn key_of<'a>(
    cluster: &Cluster,
    host: &Host,
    high_priority: bool,
    downstream: Protocol,
    alpn: Option<&'a alpn::UpstreamAlpn>,
    source: Option<OriginalSource>,
) -> (PoolKey, Option<&'a Arc<alpn::Alpn>>) {
    let protocol = connect::wanted(cluster, host, downstream);
    let alpn = alpn
        .filter(|_| host.tls.is_some() && !cluster.istio.keeps_alpn)
        .and_then(|lists| lists.of(protocol, downstream));
    let key = PoolKey {
        cluster: cluster.id,
        host: host.state.id,
        high_priority,
        protocol,
        alpn: alpn.map_or(0, |list| list.id()),
        source,
    };
    (key, alpn)
}

impl Lease {
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::H1 { .. } => Protocol::Http11,
            Self::H2 { .. } => Protocol::Http2,
        }
    }

    pub fn origin(&self) -> &Arc<Origin> {
        match self {
            Self::H1 { origin, .. } | Self::H2 { origin, .. } => origin,
        }
    }

    /// Whether another request went over the connection before this one: only then may it have died unnoticed.
    pub fn reused(&self) -> bool {
        match self {
            Self::H1 { reused, .. } | Self::H2 { reused, .. } => *reused,
        }
    }

    /// Sends a request, waits for the response's head; see the codecs for errors and cancel safety.
    pub async fn send(self, head: Head<'_>, body: Body) -> Result<Response, SendError> {
        match self {
            Self::H1 { connection, .. } => connection.send(head, body).await,
            Self::H2 { connection, .. } => connection.send(head.to_request(body), head.interim).await,
        }
    }
}

pub use local::SWEEP_INTERVAL;
pub use preconnect::Preconnect;

/// Closes what is idle for too long, dead, or belongs to a host that is gone, on this thread. Run by each worker once a second.
pub fn sweep() {
    local::sweep();
}
