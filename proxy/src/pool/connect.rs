//! New connections: which protocol, and the connect that several requests may wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::home::{ConnectionHome, H1Home, H2Home, count_destroyed};
use super::local::Idle;
use super::room::{self, Slot};
use super::{KeptOffer, Lease, Offer, Origin, PoolKey, Wanted, local, preconnect};
use crate::cluster::breaker::Permit;
use crate::cluster::{Cluster, Host, UpstreamProtocol};
use crate::http::codec::h1::client::Closed;
use crate::http::codec::{h1, h2};
use crate::http::exchange::Protocol;
use crate::http::failure::Failure;
use crate::runtime::clock;
use crate::runtime::spawn::spawn;
use crate::tcp::connect::{Connected, Overrides, connect_with};

/// What the cluster's configuration and the downstream ask for.
pub(super) fn wanted(cluster: &Cluster, host: &Host, downstream: Protocol) -> Wanted {
    match (cluster.http.protocol, downstream) {
        (UpstreamProtocol::Http1, _) => Wanted::Http1,
        (UpstreamProtocol::Http2, _) | (UpstreamProtocol::Downstream, Protocol::Http2) => Wanted::Http2,
        (UpstreamProtocol::Downstream, _) => Wanted::Http1,
        (UpstreamProtocol::Auto, _) if host.tls.is_some() => Wanted::Auto,
        (UpstreamProtocol::Auto, _) => Wanted::Http1,
    }
}

/// A connection for one request that found none free. A request that is given up meanwhile is counted as cancelled.
pub(super) async fn connect(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    offer: Offer<'_>,
) -> Result<Lease, Failure> {
    let mut cancelled = Cancelled(Some(cluster));
    let mut waited = false;
    let result = find(key, cluster, host, offer, &mut waited).await;
    cancelled.0 = None;
    if waited {
        // There may be a place for a connection by now, or room on the one that this request did not take.
        room::wake(&key);
    }
    result
}

/// Dropped before the request has a connection or knows that it gets none.
struct Cancelled<'a>(Option<&'a Cluster>);

impl Drop for Cancelled<'_> {
    fn drop(&mut self) {
        if let Some(cluster) = self.0 {
            cluster.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// A new connection, or one that others give back; HTTP/2 requests that come together share it.
async fn find(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    offer: Offer<'_>,
    waited: &mut bool,
) -> Result<Lease, Failure> {
    let Some(permit) = cluster.breakers.try_pending(room::priority(&key)) else {
        cluster.stats.upstream_rq_pending_overflow.inc();
        return Err(Failure::QueueOverflow);
    };
    let _pending = Pending::new(key, cluster, host, permit);
    loop {
        let mut is_up = false;
        // A stream may find the shared connection full by the time it is up: then one more is opened.
        if let Some(mut connecting) = local::connecting(&key).filter(|_| !room::is_exclusive(&key)) {
            up(&mut connecting, cluster).await?;
        } else if !(cluster.preconnect.is_some() && room::comes_ahead(&key))
            && let Some(slot) = room::claim(&key, cluster, host)?
        {
            if room::is_exclusive(&key) {
                preconnect::keep_ahead(&key, cluster, host, offer);
                return own(key, cluster, host, offer, slot).await;
            }
            let mut connecting = start(key, cluster, host, offer.keep(), slot, None);
            up(&mut connecting, cluster).await?;
            is_up = true;
        } else {
            let turn = room::wait(&key, *waited);
            *waited = true;
            preconnect::keep_ahead(&key, cluster, host, offer);
            if let Some(idle) = turn.comes().await
                && let Some(lease) = local::reuse(idle)?
            {
                return Ok(lease);
            }
        }
        if let Some(lease) = local::take(&key)? {
            preconnect::keep_ahead(&key, cluster, host, offer);
            return Ok(lease);
        }
        if is_up && local::retire_useless(&key) {
            // Its SETTINGS allow no stream: the next connection would be no better.
            return Err(Failure::RemoteRefused);
        }
    }
}

/// One connection that no request waits for; false if there can be none now.
pub(super) fn ahead(key: PoolKey, cluster: &Arc<Cluster>, host: &Arc<Host>, offer: Offer<'_>) -> bool {
    // Shared connections come one after the other: what the first can carry is not known before it is up.
    if !room::is_exclusive(&key) && local::connecting(&key).is_some() {
        return false;
    }
    let Ok(Some(slot)) = room::claim(&key, cluster, host) else {
        return false;
    };
    let ahead = room::Ahead::new(key);
    if room::is_exclusive(&key) {
        let (cluster, host, offer) = (cluster.clone(), host.clone(), offer.keep());
        spawn("upstream preconnect", async move {
            let opened = shared(key, &cluster, &host, offer.lend(), slot, Some(ahead)).await;
            // Counted; nobody waits for it.
            drop(opened);
        });
    } else {
        start(key, cluster, host, offer.keep(), slot, Some(ahead));
    }
    true
}

/// Waits for a connection that others may wait for too; its failure takes them all along.
async fn up(connecting: &mut local::Connecting, cluster: &Cluster) -> Result<(), Failure> {
    let result = match connecting.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Ok(())),
        Err(_) => Err(Failure::ConnectFailure(None)),
    };
    result.inspect_err(|_| cluster.stats.upstream_rq_pending_failure_eject.inc())
}

/// A request that waits for a connection.
struct Pending<'a> {
    key: PoolKey,
    cluster: &'a Cluster,
    host: &'a Host,
    _permit: Permit,
}

impl<'a> Pending<'a> {
    fn new(key: PoolKey, cluster: &'a Cluster, host: &'a Host, permit: Permit) -> Self {
        if cluster.preconnect.is_some() {
            room::count_pending(&key, 1);
        }
        cluster.stats.upstream_rq_pending_total.inc();
        cluster.stats.upstream_rq_pending_active.inc();
        host.state.rq_pending_active.fetch_add(1, Ordering::Relaxed);
        Self {
            key,
            cluster,
            host,
            _permit: permit,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_pending_active.dec();
        self.host.state.rq_pending_active.fetch_sub(1, Ordering::Relaxed);
        if self.cluster.preconnect.is_some() {
            room::count_pending(&self.key, -1);
        }
    }
}

/// A connection for this request alone.
async fn own(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    offer: Offer<'_>,
    slot: Slot,
) -> Result<Lease, Failure> {
    let dialled = dial(&key, cluster, host, offer).await;
    let connected = dialled.inspect_err(|failure| count_failed(key.protocol, cluster, failure))?;
    if connected.alpn() == Some(b"h2") && key.protocol == Wanted::Auto {
        share(key, cluster, host, slot, connected, offer).await?;
        return local::take(&key)?.ok_or(Failure::ConnectFailure(None));
    }
    local::lend_new(open_h1(key, cluster, host, slot, connected, offer))
}

/// Connects in a task of its own: the request that started it may be cancelled, those that joined it may not suffer.
fn start(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    offer: KeptOffer,
    slot: Slot,
    ahead: Option<room::Ahead>,
) -> local::Connecting {
    let (done, connecting) = watch::channel(None);
    local::set_connecting(&key, connecting.clone());
    let (cluster, host) = (cluster.clone(), host.clone());
    spawn("upstream connect", async move {
        let result = shared(key, &cluster, &host, offer.lend(), slot, ahead).await;
        // Nobody may be left to hear.
        let _ = done.send(Some(result));
    });
    connecting
}

async fn shared(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    offer: Offer<'_>,
    slot: Slot,
    ahead: Option<room::Ahead>,
) -> Result<(), Failure> {
    let dialled = dial(&key, cluster, host, offer).await;
    let connected = dialled.inspect_err(|failure| count_failed_connection(key.protocol, cluster, failure))?;
    // From here on it counts as what it is: idle, or shared.
    drop(ahead);
    let speaks_h2 = key.protocol == Wanted::Http2 || connected.alpn() == Some(b"h2");
    if speaks_h2 {
        return share(key, cluster, host, slot, connected, offer).await;
    }
    local::set_speaks_http1(&key);
    local::give_back(open_h1(key, cluster, host, slot, connected, offer));
    Ok(())
}

/// Makes an HTTP/2 connection and puts it where all find it.
async fn share(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    slot: Slot,
    connected: Connected,
    offer: Offer<'_>,
) -> Result<(), Failure> {
    let home = ConnectionHome::open(key, cluster, host, origin(&connected, offer), slot);
    cluster.stats.upstream_cx_http2_total.inc();
    let hooks = Arc::new(H2Home(home.clone()));
    let options = cluster.http.h2_options();
    let io = connected.io.metered(home.clone());
    let connection = h2::ClientConnection::handshake_with(io, &options, Some(hooks)).await?;
    local::put_shared(home, connection);
    Ok(())
}

fn open_h1(
    key: PoolKey,
    cluster: &Arc<Cluster>,
    host: &Arc<Host>,
    slot: Slot,
    connected: Connected,
    offer: Offer<'_>,
) -> Idle {
    if key.protocol != Wanted::Raw {
        cluster.stats.upstream_cx_http1_total.inc();
    }
    let home = ConnectionHome::open(key, cluster, host, origin(&connected, offer), slot);
    let io = connected.io.metered(home.clone());
    let mut connection = h1::ClientConnection::new(io, cluster.http.h1_options(), clock::now());
    connection.home = Some(Arc::new(H1Home(home.clone())));
    Idle {
        connection: Box::new(connection),
        home,
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

fn origin(connected: &Connected, offer: Offer<'_>) -> Origin {
    Origin {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        tls: connected.peer.clone(),
        local: connected.local.clone(),
        times: Some(connected.times),
        _name: offer.name.cloned(),
    }
}

/// A connection that never was is one all the same, and took the request that waited for it along.
fn count_failed(wanted: Wanted, cluster: &Cluster, failure: &Failure) {
    count_failed_connection(wanted, cluster, failure);
    cluster.stats.upstream_rq_pending_failure_eject.inc();
}

fn count_failed_connection(wanted: Wanted, cluster: &Cluster, failure: &Failure) {
    let stats = &cluster.stats;
    stats.upstream_cx_total.inc();
    match wanted {
        Wanted::Http1 => stats.upstream_cx_http1_total.inc(),
        Wanted::Http2 => stats.upstream_cx_http2_total.inc(),
        Wanted::Auto | Wanted::Raw => {}
    }
    let remote = !matches!(failure, Failure::ConnectTimeout | Failure::BindFailure(_));
    count_destroyed(
        stats,
        Closed {
            remote,
            ..Closed::default()
        },
    );
}

async fn dial(key: &PoolKey, cluster: &Arc<Cluster>, host: &Arc<Host>, offer: Offer<'_>) -> Result<Connected, Failure> {
    let started = clock::now();
    let mut overrides = Overrides {
        alpn: offer.alpn.map(|list| list.protocols()),
        source: key.source,
        ..Overrides::default()
    };
    if let Some(name) = offer.name {
        name.ask(&cluster.http, &mut overrides);
    }
    let result = connect_with(cluster, host, overrides).await;
    match &result {
        Ok(_) => cluster
            .stats
            .upstream_cx_connect_ms
            .record(started.elapsed().as_millis() as u64),
        Err(failure) => {
            let stats = &cluster.stats;
            stats.upstream_cx_connect_fail.inc();
            // It was one for as long as it tried.
            stats.upstream_cx_active.touch();
            stats.upstream_cx_length_ms.record(started.elapsed().as_millis() as u64);
            host.state.cx_total.fetch_add(1, Ordering::Relaxed);
            host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
            if *failure == Failure::ConnectTimeout {
                cluster.stats.upstream_cx_connect_timeout.inc();
            }
        }
    }
    result
}
