//! `envoy.filters.network.tcp_proxy`.
//!
//! In: an accepted stream. Out: the same bytes at a host of the chosen cluster: straight, or within an HTTP request (`tunneling_config`).

mod clusters;
mod config;
mod early;
mod end;
mod lease;
mod straight;
mod tlvs;
mod tunneling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::copy::{Ended, Limits, Meter, Side, both_ways};
use crate::cluster::PickContext;
use crate::cluster::breaker::{Resource, RoutingPriority};
use crate::filters::network::Observer;
use crate::http::exchange::FilterState;
use crate::http::failure::Failure;
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::Io;
use crate::snapshot::SnapshotCell;
use crate::telemetry::access_log::{AccessLog, TcpJournal};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::{LogType, TcpRecord};
pub use clusters::CLUSTER_KEY;
use clusters::Clusters;
use early::Early;
use end::{IDLE, Over, unopened};
use lease::{Bytes, Lease};
use straight::straight;
use tlvs::AddedTlvs;
use tunneling::{Driver, TunnelEnd, Tunneling, keep_trailers};

/// Filter state that says how long a connection may rest, in milliseconds.
pub const IDLE_TIMEOUT: &str = "envoy.tcp_proxy.per_connection_idle_timeout_ms";
/// Filter state that has a connection proxied as it is, whatever `tunneling_config` says.
pub const DISABLE_TUNNELING: &str = "envoy.tcp_proxy.disable_tunneling";

crate::stat_group! {
    /// Under `tcp.<stat_prefix>.`.
    pub struct TcpStats {
        counters: {
            downstream_cx_total, downstream_cx_no_route, downstream_cx_tx_bytes_total, downstream_cx_rx_bytes_total,
            early_data_received_count_total, idle_timeout, max_downstream_connection_duration, downstream_cx_drain_close,
        }
        gauges: {}
        histograms: {}
    }
}

/// A compiled `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
pub struct TcpProxy {
    clusters: Clusters,
    /// `None`: no limit. One hour by default.
    idle_timeout: Option<Duration>,
    max_connect_attempts: u32,
    backoff: Option<Backoff>,
    max_duration: Option<Duration>,
    /// Percent that `max_duration` may be longer, by chance.
    duration_jitter: f64,
    hash: Option<HashSource>,
    /// `upstream_connect_mode: ON_DOWNSTREAM_DATA`
    early: Option<Early>,
    tunneling: Option<Tunneling>,
    tlvs: Option<AddedTlvs>,
    /// `check_drain_close`
    leaves_when_asked: bool,
    stats: Arc<TcpStats>,
    snapshot: Arc<SnapshotCell>,
    access_logs: Arc<[AccessLog]>,
    log_options: LogOptions,
}

/// `backoff_options`: full jitter, as everywhere in Envoy.
struct Backoff {
    base: Duration,
    max: Duration,
}

enum HashSource {
    SourceIp,
    FilterState(String),
}

/// `access_log_options`
#[derive(Default)]
struct LogOptions {
    interval: Option<Duration>,
    on_connected: bool,
    on_start: bool,
}

/// The upstream side of a tunnel that stands.
struct Upstream {
    io: Io,
    lease: Lease,
    /// Of a tunnel within HTTP: carries bytes between `io` and the request.
    driver: Option<Driver>,
    /// Those of the answer to that request, once they have come.
    trailers: Option<oneshot::Receiver<HeaderMap>>,
}

impl TcpProxy {
    /// Serves one downstream connection to its end.
    ///
    /// # Cancel safety
    /// Dropping the future closes both sides.
    pub async fn serve(
        self: Arc<Self>,
        io: Io,
        connection: Arc<ConnectionInfo>,
        drain: DrainSignal,
        observers: &[Arc<dyn Observer>],
    ) {
        self.stats.downstream_cx_total.inc();
        // Boxed, as what follows is: the tunnel may stand for days.
        let mut journal = TcpJournal::new(&self.access_logs, connection.clone()).watched(observers);
        if self.log_options.on_start {
            journal.log(LogType::TcpConnectionStart);
        }
        let (io, upstream) = match Box::pin(self.open(io, &connection, &mut journal.record)).await {
            Ok(opened) => opened,
            Err(()) => return,
        };
        if self.log_options.on_connected {
            journal.log(LogType::TcpUpstreamConnected);
        }
        self.tunnel(io, upstream, drain, &mut journal).await;
    }

    /// A connection that a filter before this one closes: counted and logged here too, as in Envoy.
    pub fn refuse(&self, connection: Arc<ConnectionInfo>) -> Box<TcpJournal> {
        self.stats.downstream_cx_total.inc();
        TcpJournal::new(&self.access_logs, connection)
    }

    /// A connection whose handshake has failed. Envoy connects to a host before that is known; here, nobody hears of a client that is not who it
    /// should be.
    pub fn unshaken(&self, connection: Arc<ConnectionInfo>) -> Box<TcpJournal> {
        let mut journal = self.refuse(connection.clone());
        let chosen = self.clusters.choose(&connection);
        journal.record.cluster = self.snapshot.load().cluster(chosen.name);
        journal
    }

    /// Cluster, host, connection; as many attempts as configured, each with a pick of its own.
    async fn open(&self, io: Io, connection: &ConnectionInfo, record: &mut TcpRecord) -> Result<(Io, Upstream), ()> {
        let chosen = self.clusters.choose(connection);
        let Some(cluster) = self.snapshot.load().cluster(chosen.name) else {
            self.stats.downstream_cx_no_route.inc();
            record.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
            record.close.downstream_reason = unopened::NO_CLUSTER;
            return Err(());
        };
        record.cluster = Some(cluster.clone());
        let io = match &self.early {
            Some(early) => early.wait(io, &self.stats).await?,
            None => io,
        };
        let context = PickContext {
            hash: self.hash(connection),
            original_destination: cluster
                .named_destination(None, &connection.extensions)
                .or(connection.original_destination),
            metadata_match: chosen.metadata_match,
            ..PickContext::default()
        };
        while record.upstream.attempts < self.max_connect_attempts {
            if let (Some(backoff), 1..) = (&self.backoff, record.upstream.attempts) {
                clock::sleep(backoff.pause(record.upstream.attempts)).await;
            }
            if cluster.breakers.is_full(RoutingPriority::Default, Resource::Connection) {
                cluster.stats.upstream_cx_overflow.inc();
                record.upstream.host = None;
                record.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
                record.close.downstream_reason = unopened::OVERFLOW;
                return Err(());
            }
            let Ok(host) = cluster.pick(&context) else {
                record.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                record.close.downstream_reason = unopened::NO_HOST;
                return Err(());
            };
            record.upstream.attempts += 1;
            record.upstream.host = Some(host.clone());
            let attempt = match &self.tunneling {
                None => straight(&cluster, &host, self.tlvs.as_ref(), record).await,
                Some(_) if is_set(connection, DISABLE_TUNNELING) => {
                    straight(&cluster, &host, self.tlvs.as_ref(), record).await
                }
                Some(tunneling) => {
                    let answered = timeout(self.idle(connection), tunneling.open(&cluster, &host, record)).await;
                    let Some(opened) = answered else {
                        self.stats.idle_timeout.inc();
                        record.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                        record.close.downstream_reason = IDLE;
                        return Err(());
                    };
                    opened
                }
            };
            match attempt {
                Ok(upstream) => return Ok((io, upstream)),
                // Nobody else may wait for a connection: an attempt that did not come to the host.
                Err(Failure::QueueOverflow) => record.upstream.host = None,
                // There is a connection to it, and no place for a tunnel.
                Err(Failure::Overflow) => {}
                Err(failure) => {
                    if !matches!(failure, Failure::BindFailure(_)) {
                        // It stays, whatever comes of later attempts: as in Envoy.
                        record.flags.set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                    }
                    if let Some(reason) = failure.transport_reason() {
                        record.upstream.failure_reason = Some(reason.to_owned());
                    }
                }
            }
        }
        cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
        record.close.downstream_reason = unopened::NOT_CONNECTED;
        record.flags.set(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        Err(())
    }

    fn hash(&self, connection: &ConnectionInfo) -> Option<u64> {
        let of = |text: &str| xxhash_rust::xxh64::xxh64(text.as_bytes(), 0);
        match self.hash.as_ref()? {
            HashSource::SourceIp => Some(of(&connection.remote.ip()?.ip().to_string())),
            HashSource::FilterState(key) => Some(of(connection.extensions.get::<FilterState>()?.0.get(key)?)),
        }
    }

    async fn tunnel(&self, mut io: Io, upstream: Upstream, drain: DrainSignal, journal: &mut TcpJournal) {
        let Upstream {
            io: mut upstream,
            lease,
            driver,
            trailers,
        } = upstream;
        let asks = self.leaves_when_asked.then(|| drain.clone());
        let meter = Bytes::new(&self.stats, &lease, asks);
        let is_tunnel = driver.is_some();
        let over = self
            .carry((&mut io, &mut upstream), (&lease, &meter), driver, drain, journal)
            .await;
        if over.is_by_host() {
            lease.ends_by_host();
        }
        if over == Over::Broken {
            // What had come before is the client's. Whoever takes none of it for so long has left.
            let patience = self.idle(&journal.record.connection).unwrap_or(PATIENCE);
            let _ = tokio::time::timeout(patience, rest(&mut upstream, &mut io, &meter)).await;
        }
        over.tell(&io, &upstream);
        journal.record.flags.set(over.flags());
        journal.record.close = over.close();
        if is_tunnel {
            // The reason is the tunnel's, not that of the connection that it goes through.
            journal.record.close.upstream_reason = "";
        }
        meter.report(&mut journal.record.bytes);
        keep_trailers(&mut journal.record, trailers);
    }

    /// Carries bytes both ways until that is over.
    async fn carry(
        &self,
        (io, upstream): (&mut Io, &mut Io),
        (lease, meter): (&Lease, &Bytes<'_>),
        mut driver: Option<Driver>,
        mut drain: DrainSignal,
        journal: &mut TcpJournal,
    ) -> Over {
        let over = async {
            match self.max_duration {
                Some(limit) => clock::sleep(limit.mul_f64(1.0 + fastrand::f64() * self.duration_jitter / 100.0)).await,
                None => std::future::pending().await,
            }
        };
        let limits = Limits {
            idle: self.idle(&journal.record.connection),
            buffer: journal.record.connection.buffer_limit,
        };
        let tls = (io.is_tls(), upstream.is_tls());
        let mut copying = std::pin::pin!(both_ways(io, upstream, limits, meter));
        let mut over = std::pin::pin!(over);
        let mut copied = false;
        let interval = journal.watches.iter().map(|watch| watch.interval()).min();
        let mut due = interval.map(|interval| clock::now() + interval);
        let accepted = journal.record.connection.accepted_at;
        let mut line = self.log_options.interval.map(|interval| accepted + interval);
        loop {
            tokio::select! {
                biased;
                ended = &mut copying, if !copied => {
                    copied = true;
                    // A tunnel within HTTP may still hold bytes of ours; an error takes them along.
                    if driver.is_none() || !matches!(ended, Ended::Both(_)) {
                        return self.ended(ended, tls);
                    }
                }
                end = driven(&mut driver) => match end {
                    TunnelEnd::Delivered if copied => return Over::Delivered,
                    TunnelEnd::Delivered => driver = None,
                    // It has an end that the copy would take for a proper one.
                    TunnelEnd::Broken => return Over::Broken,
                },
                // TCP has no way to ask a peer to leave: its connections live until the drain time is over.
                () = drain.reached(DrainPhase::Closed) => return Over::Drained,
                () = lease.host_fails() => return Over::HostFailed,
                () = &mut over => {
                    self.stats.max_downstream_connection_duration.inc();
                    return Over::Lasted;
                }
                () = until(due) => {
                    meter.report(&mut journal.record.bytes);
                    journal.look();
                    due = interval.map(|interval| clock::now() + interval);
                }
                () = until(line) => {
                    meter.report(&mut journal.record.bytes);
                    journal.log(LogType::TcpPeriodic);
                    line = self.log_options.interval.map(|interval| clock::now() + interval);
                }
            }
        }
    }

    /// What a filter before has said, else what is configured.
    fn idle(&self, connection: &ConnectionInfo) -> Option<Duration> {
        let own = state(connection, IDLE_TIMEOUT).and_then(|text| text.parse().ok());
        own.map_or(self.idle_timeout, |own| {
            Some(Duration::from_millis(own)).filter(|idle| !idle.is_zero())
        })
    }

    /// `tls`: whether either side speaks it, downstream first.
    fn ended(&self, ended: Ended, tls: (bool, bool)) -> Over {
        match ended {
            Ended::Both(last) => Over::Finished(last),
            Ended::Idle => {
                self.stats.idle_timeout.inc();
                Over::Idle
            }
            Ended::Left => {
                self.stats.downstream_cx_drain_close.inc();
                Over::Left
            }
            Ended::Error(side, error) => {
                tracing::debug!(?side, %error, "a proxied connection ends");
                let is_tls = match side {
                    Side::Downstream => tls.0,
                    Side::Upstream => tls.1,
                };
                Over::failed(side, &error, is_tls)
            }
        }
    }
}

/// For how long a client may take nothing of what is left, where it may be idle for ever.
const PATIENCE: Duration = Duration::from_secs(60);

/// Passes on what is left of a tunnel that is broken.
async fn rest(from: &mut Io, to: &mut Io, meter: &Bytes<'_>) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        meter.passed(Side::Upstream, count as u64);
    }
}

/// `None`: it took longer than it may.
async fn timeout<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Never, where nothing is due.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => clock::sleep(due.saturating_duration_since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// The end of a tunnel within HTTP; never, where there is none.
async fn driven(driver: &mut Option<Driver>) -> TunnelEnd {
    match driver {
        Some(driver) => driver.await,
        None => std::future::pending().await,
    }
}

/// Filter state that is text.
fn state<'a>(connection: &'a ConnectionInfo, key: &str) -> Option<&'a str> {
    let state = connection.extensions.get::<FilterState>()?;
    state.0.get(key).map(String::as_str)
}

fn is_set(connection: &ConnectionInfo, key: &str) -> bool {
    state(connection, key) == Some("true")
}

impl Backoff {
    /// Before the attempt after `failed` ones.
    fn pause(&self, failed: u32) -> Duration {
        let ceiling = self
            .base
            .saturating_mul(1 << failed.saturating_sub(1).min(16))
            .min(self.max);
        ceiling.mul_f64(fastrand::f64())
    }
}

#[cfg(test)]
mod tests;
