//! Upstream connections: pools per worker, keyed by everything that makes connections differ.
//!
//! In: a picked host. Out: a [`Lease`] on a connection to it, which comes home by itself when its response has ended. A pool belongs to its thread:
//! leasing an idle connection takes no lock and makes no system call.

pub mod alpn;
mod connect;
pub(crate) mod home;
mod local;
pub mod name;
pub(crate) mod place;
mod preconnect;
mod room;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Cluster, Host};
use crate::http::body::Body;
use crate::http::codec::{Head, SendError, UpstreamMeter, h1, h2, header_bytes};
use crate::http::exchange::Protocol;
use crate::http::failure::Failure;
use crate::http::service::Response;
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::io::Address;
use crate::tcp::connect::{ConnectTimes, OriginalSource};
use crate::tls::PeerInfo;

/// What two requests must have in common to share a connection. Compared field by field; ids are unique in the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// [`Cluster::id`]: protocol options and all else that the cluster's configuration says.
    pub cluster: u64,
    /// [`HostState::id`](crate::cluster::HostState::id)
    pub host: u64,
    /// [`Host::socket_id`]: endpoints choose among a cluster's transport sockets by their metadata, which may change.
    pub socket: u64,
    /// `RoutingPriority::HIGH` has pools of its own, as in Envoy.
    pub high_priority: bool,
    pub protocol: Wanted,
    /// [`Alpn::id`](alpn::Alpn::id) of what the request wants offered; 0: what the transport socket says.
    pub alpn: u64,
    /// [`PeerName::id`](name::PeerName::id) where the request names its upstream; 0: nothing but the cluster says who that is.
    pub name: u64,
    /// `original_src`: the client's own address is the connection's source.
    pub source: Option<OriginalSource>,
    /// `connection_pool_per_downstream_connection`: whose requests it is for; 0: everybody's.
    pub downstream: u64,
}

/// Whose requests a connection is for, as far as that matters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Client {
    /// `original_src`
    pub source: Option<OriginalSource>,
    /// The client's connection; 0 for nobody's.
    pub connection: u64,
}

impl Client {
    pub fn of(connection: &ConnectionInfo) -> Self {
        Self {
            source: connection.extensions.get().copied(),
            connection: connection.id,
        }
    }
}

/// What a request wants of the TLS handshake otherwise than the transport socket says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Replaces the list of protocols, unless the cluster keeps its own.
    pub alpn: Option<&'a alpn::UpstreamAlpn>,
    pub name: Option<&'a Arc<PeerName>>,
}

/// What of it matters for one host.
#[derive(Clone, Copy, Debug, Default)]
struct Offer<'a> {
    alpn: Option<&'a Arc<alpn::Alpn>>,
    name: Option<&'a Arc<PeerName>>,
}

/// An [`Offer`] for a task of its own.
struct KeptOffer {
    alpn: Option<Arc<alpn::Alpn>>,
    name: Option<Arc<PeerName>>,
}

impl Offer<'_> {
    fn keep(&self) -> KeptOffer {
        KeptOffer {
            alpn: self.alpn.cloned(),
            name: self.name.cloned(),
        }
    }
}

impl KeptOffer {
    fn lend(&self) -> Offer<'_> {
        Offer {
            alpn: self.alpn.as_ref(),
            name: self.name.as_ref(),
        }
    }
}

/// Which protocol the connection must speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    Http1,
    Http2,
    /// Whatever ALPN says.
    Auto,
    /// None: bytes as they are, for a tunnel.
    Raw,
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
        place: home::Place,
    },
}

/// What a connection learned while it was made.
#[derive(Debug, Default)]
pub struct Origin {
    /// Unique among upstream connections (`%UPSTREAM_CONNECTION_ID%`).
    pub id: u64,
    pub tls: Option<Arc<PeerInfo>>,
    pub local: Option<Address>,
    pub times: Option<ConnectTimes>,
    /// Under which name it was made: its pool's key is good for as long as that lives.
    _name: Option<Arc<PeerName>>,
}

/// A connection to `host`: an idle or shareable one, else a new one; and how long it was waited for.
///
/// # Errors
/// Connect failure or timeout, or a circuit breaker's overflow ([`Failure::QueueOverflow`] without a connection, [`Failure::Overflow`] with one);
/// counted in the cluster's stats.
///
/// # Cancel safety
/// Dropping the future gives up a connection that only this request waits for; one that others wait for goes on.
pub async fn lease(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    high_priority: bool,
    downstream: Protocol,
    asked: Asked<'_>,
    client: Client,
) -> Result<(Lease, Duration), Failure> {
    let (mut key, offer) = key_of(cluster, host, high_priority, downstream, asked, client.source);
    if cluster.pool_per_downstream_connection {
        key.downstream = client.connection;
    }
    if cluster.preconnect.is_some() {
        preconnect::predict(cluster, key, downstream, asked);
    }
    if let Some(lease) = local::take(&key)? {
        preconnect::keep_ahead(&key, cluster, host, offer);
        return Ok((lease, Duration::ZERO));
    }
    let started = clock::now();
    let lease = Box::pin(connect::connect(key, cluster, host, offer)).await?;
    Ok((lease, clock::now().saturating_duration_since(started)))
}

fn key_of<'a>(
    cluster: &Cluster,
    host: &Host,
    high_priority: bool,
    downstream: Protocol,
    asked: Asked<'a>,
    source: Option<OriginalSource>,
) -> (PoolKey, Offer<'a>) {
    let protocol = connect::wanted(cluster, host, downstream);
    let alpn = asked
        .alpn
        .filter(|_| host.tls.is_some() && !cluster.istio.keeps_alpn)
        .and_then(|lists| lists.of(protocol, downstream))
        .or_else(|| alpn::unasked(host, protocol));
    let name = asked.name.filter(|_| host.tls.is_some());
    let key = PoolKey {
        cluster: cluster.id,
        host: host.state.id,
        socket: host.socket_id(),
        high_priority,
        protocol,
        alpn: alpn.map_or(0, |list| list.id()),
        name: name.map_or(0, |name| name.id()),
        source,
        downstream: 0,
    };
    (key, Offer { alpn, name })
}

/// A connection to `host` that nobody used before and nobody will after, for whatever its holder sends over it.
///
/// # Errors
/// As [`lease`].
pub async fn raw(
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    high_priority: bool,
    name: Option<&Arc<PeerName>>,
    source: Option<OriginalSource>,
) -> Result<(Lease, Duration), Failure> {
    let name = name.filter(|_| host.tls.is_some());
    let key = raw_key(cluster, host, high_priority, name, source);
    let started = clock::now();
    let lease = Box::pin(connect::connect(key, cluster, host, Offer { alpn: None, name })).await?;
    Ok((lease, clock::now().saturating_duration_since(started)))
}

fn raw_key(
    cluster: &Cluster,
    host: &Host,
    high_priority: bool,
    name: Option<&Arc<PeerName>>,
    source: Option<OriginalSource>,
) -> PoolKey {
    PoolKey {
        cluster: cluster.id,
        host: host.state.id,
        socket: host.socket_id(),
        high_priority,
        protocol: Wanted::Raw,
        alpn: 0,
        name: name.map_or(0, |name| name.id()),
        source,
        downstream: 0,
    }
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
            Self::H1 { origin, .. } => origin,
            Self::H2 { place, .. } => place.origin(),
        }
    }

    /// Whether another request went over the connection before this one: only then may it have died unnoticed.
    pub fn reused(&self) -> bool {
        match self {
            Self::H1 { reused, .. } | Self::H2 { reused, .. } => *reused,
        }
    }

    /// Gives the connection to `body` and what comes back, as they are; only a [`raw`] one can be given.
    pub fn tunnel(self, body: Body) -> Result<Response, SendError> {
        match self {
            Self::H1 { connection, .. } => Ok(connection.tunnel(body)),
            Self::H2 { .. } => Err(SendError {
                failure: Failure::UpgradeFailed,
                body: Some(body),
            }),
        }
    }

    /// Sends a request, waits for the response's head; see the codecs for errors and cancel safety.
    pub async fn send(self, head: Head<'_>, body: Body) -> Result<Response, SendError> {
        match self {
            Self::H1 { connection, .. } => connection.send(head, body).await,
            Self::H2 {
                connection, mut place, ..
            } => {
                let mut sending = pin!(connection.send(head.to_request(body), head.interim));
                let sent = poll_fn(|cx| place.step(|| sending.as_mut().poll(cx))).await;
                match head.meter {
                    None => sent,
                    Some(meter) => metered(head, meter, sent),
                }
            }
        }
    }
}

/// Counts the heads of an HTTP/2 request and response, uncompressed.
fn metered(head: Head<'_>, meter: &UpstreamMeter, sent: Result<Response, SendError>) -> Result<Response, SendError> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let authority = head.headers.get(http::header::HOST).map_or(0, http::HeaderValue::len);
    let pseudo = ":method:path:scheme".len() + head.method.as_str().len() + target + "http".len();
    // `host` is counted already, and becomes `:authority`.
    let renamed = ":authority".len() - "host".len();
    let renamed = if authority > 0 { renamed } else { 0 };
    meter.note(|counts| {
        counts.header_sent += header_bytes(head.headers) + (pseudo + renamed) as u64;
        if let Ok(response) = &sent {
            counts.header_received += header_bytes(response.headers()) + ":status".len() as u64 + 3;
        }
    });
    sent
}

pub use local::SWEEP_INTERVAL;
pub use name::PeerName;
pub use preconnect::Preconnect;

/// Closes what is idle for too long, dead, or belongs to a host that is gone, on this thread. Run by each worker once a second.
pub fn sweep() {
    local::sweep();
}
