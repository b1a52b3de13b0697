//! `envoy.filters.network.tcp_proxy`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use super::connect::{Connected, connect};
use super::copy::{Ended, Meter, Side, both_ways};
use crate::cluster::breaker::{Permit, RoutingPriority};
use crate::cluster::{Cluster, Host, PickContext};
use crate::config::listener::duration;
use crate::config::route::each;
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::network::Observer;
use crate::http::exchange::ByteCounts;
use crate::http::failure::Failure;
use crate::listener::ConnectionInfo;
use crate::runtime::clock;
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::Io;
use crate::snapshot::SnapshotCell;
use crate::telemetry::access_log::{AccessLog, TcpJournal};
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::TcpRecord;

crate::stat_group! {
    /// Under `tcp.<stat_prefix>.`.
    pub struct TcpStats {
        counters: {
            downstream_cx_total, downstream_cx_no_route, downstream_cx_tx_bytes_total, downstream_cx_rx_bytes_total,
            downstream_flow_control_paused_reading_total, downstream_flow_control_resumed_reading_total,
            early_data_received_count_total, idle_timeout, max_downstream_connection_duration,
            on_demand_cluster_attempt, on_demand_cluster_missing, on_demand_cluster_success,
            on_demand_cluster_timeout, upstream_flush_total
        }
        gauges: { downstream_cx_tx_bytes_buffered, downstream_cx_rx_bytes_buffered, upstream_flush_active }
        histograms: {}
    }
}

/// A compiled `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`.
pub struct TcpProxy {
    clusters: Clusters,
    /// `None`: no limit. One hour by default.
    idle_timeout: Option<Duration>,
    max_connect_attempts: u32,
    max_duration: Option<Duration>,
    hash_source_ip: bool,
    stats: Arc<TcpStats>,
    snapshot: Arc<SnapshotCell>,
    access_logs: Arc<[AccessLog]>,
}

enum Clusters {
    One(Arc<str>),
    /// Name and the upper end of its share; the last end is the total.
    Weighted(Vec<(Arc<str>, u64)>),
}

impl TcpProxy {
    /// Compiles the encoded message.
    ///
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<Self>> {
        let config = pb::TcpProxy::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
        let refused = [
            ("on_demand", config.on_demand.is_some()),
            ("metadata_match", config.metadata_match.is_some()),
            ("tunneling_config", config.tunneling_config.is_some()),
            ("backoff_options", config.backoff_options.is_some()),
            ("proxy_protocol_tlvs", !config.proxy_protocol_tlvs.is_empty()),
            ("upstream_connect_mode", config.upstream_connect_mode != 0),
            ("max_early_data_bytes", config.max_early_data_bytes.is_some()),
            (
                "max_downstream_connection_duration_jitter_percentage",
                config.max_downstream_connection_duration_jitter_percentage.is_some(),
            ),
        ];
        let problems: Vec<_> = refused.iter().filter(|(_, set)| *set).collect();
        if let Some((field, _)) = problems.first() {
            return Err(Problems::one(*field, "not supported"));
        }
        let attempts = config.max_connect_attempts.as_ref().map_or(1, |wrapped| wrapped.value);
        if attempts == 0 {
            return Err(Problems::one("max_connect_attempts", "must be at least 1"));
        }
        let idle = duration(config.idle_timeout.as_ref()).unwrap_or(Duration::from_secs(3600));
        Ok(Arc::new(Self {
            clusters: Clusters::compile(config.cluster_specifier.as_ref())?,
            idle_timeout: Some(idle).filter(|idle| !idle.is_zero()),
            max_connect_attempts: attempts,
            max_duration: duration(config.max_downstream_connection_duration.as_ref()),
            hash_source_ip: hashes_source_ip(&config)?,
            stats: cx.stats.group(&format!("tcp.{}.", config.stat_prefix)),
            snapshot: cx.snapshot.clone(),
            access_logs: each("access_log", &config.access_log, |log| AccessLog::compile(log, cx))?.into(),
        }))
    }

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
        let connected = Box::pin(self.open(&connection, &mut journal.record)).await;
        let Ok((connected, lease)) = connected else { return };
        self.tunnel(io, connected, &lease, drain, &mut journal).await;
    }

    /// Cluster, host, connection; as many attempts as configured, each with a pick of its own.
    async fn open(&self, connection: &ConnectionInfo, record: &mut TcpRecord) -> Result<(Connected, Lease), ()> {
        let Some(cluster) = self.snapshot.load().cluster(self.clusters.choose()) else {
            self.stats.downstream_cx_no_route.inc();
            record.flags.set(ResponseFlags::NO_CLUSTER_FOUND);
            return Err(());
        };
        record.cluster = Some(cluster.clone());
        let hash = match (self.hash_source_ip, connection.remote.ip()) {
            (true, Some(remote)) => Some(xxhash_rust::xxh64::xxh64(remote.ip().to_string().as_bytes(), 0)),
            _ => None,
        };
        while record.upstream.attempts < self.max_connect_attempts {
            let Some(permit) = cluster.breakers.try_connection(RoutingPriority::Default) else {
                cluster.stats.upstream_cx_overflow.inc();
                record.flags.set(ResponseFlags::UPSTREAM_OVERFLOW);
                return Err(());
            };
            let context = PickContext {
                hash,
                original_destination: connection.original_destination,
                ..PickContext::default()
            };
            let Ok(host) = cluster.pick(&context) else {
                record.flags.set(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return Err(());
            };
            record.upstream.attempts += 1;
            record.upstream.host = Some(host.clone());
            let lease = Lease::open(&cluster, &host, permit);
            match connect(&cluster, &host).await {
                Ok(connected) => {
                    let took = clock::now().saturating_duration_since(lease.started);
                    cluster
                        .stats
                        .upstream_cx_connect_ms
                        .record(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                    record.upstream.local = connected.local.clone();
                    record.upstream.tls = connected.peer.clone();
                    record.workload = connected.workload.clone();
                    return Ok((connected, lease));
                }
                Err(failure) => {
                    cluster.stats.upstream_cx_connect_fail.inc();
                    host.state.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
                    if failure == Failure::ConnectTimeout {
                        cluster.stats.upstream_cx_connect_timeout.inc();
                    }
                    if let Failure::ConnectFailure(reason) = failure {
                        record.upstream.failure_reason = reason;
                    }
                }
            }
        }
        cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
        record
            .flags
            .set(ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        Err(())
    }

    async fn tunnel(
        &self,
        mut io: Io,
        connected: Connected,
        lease: &Lease,
        mut drain: DrainSignal,
        journal: &mut TcpJournal,
    ) {
        let TcpJournal { record, watches, .. } = journal;
        let mut upstream = connected.io;
        let meter = Bytes {
            stats: &self.stats,
            lease,
            totals: Default::default(),
        };
        let over = async {
            match self.max_duration {
                Some(limit) => clock::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        let watching = async {
            let Some(interval) = watches.iter().map(|watch| watch.interval()).min() else {
                return std::future::pending().await;
            };
            loop {
                clock::sleep(interval).await;
                meter.read(&mut record.bytes);
                for watch in &mut *watches {
                    watch.look(record);
                }
            }
        };
        tokio::select! {
            biased;
            ended = both_ways(&mut io, &mut upstream, self.idle_timeout, &meter) => match ended {
                Ended::Both => {}
                Ended::Idle => {
                    self.stats.idle_timeout.inc();
                    lease.cluster.stats.upstream_cx_idle_timeout.inc();
                    record.flags.set(ResponseFlags::STREAM_IDLE_TIMEOUT);
                }
                Ended::Error(side, error) => {
                    let flag = match side {
                        Side::Downstream => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
                        Side::Upstream => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                    };
                    tracing::debug!(?side, %error, "a proxied connection ends");
                    record.flags.set(flag);
                }
            },
            // TCP has no way to ask a peer to leave: its connections live until the drain time is over.
            () = drain.reached(DrainPhase::Closed) => {}
            () = watching => {}
            () = over => {
                self.stats.max_downstream_connection_duration.inc();
                record.flags.set(ResponseFlags::DURATION_TIMEOUT);
            }
        }
        meter.read(&mut record.bytes);
    }
}

impl Clusters {
    fn compile(config: Option<&pb::tcp_proxy::ClusterSpecifier>) -> Compiled<Self> {
        match config {
            Some(pb::tcp_proxy::ClusterSpecifier::Cluster(name)) => Ok(Self::One(Arc::from(name.as_str()))),
            Some(pb::tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => {
                let mut total = 0;
                let mut ends = Vec::new();
                for (index, cluster) in weighted.clusters.iter().enumerate() {
                    let path = |field: &str| format!("weighted_clusters.clusters[{index}].{field}");
                    if cluster.weight == 0 {
                        return Err(Problems::one(path("weight"), "must be at least 1"));
                    }
                    if cluster.metadata_match.is_some() {
                        return Err(Problems::one(path("metadata_match"), "not supported"));
                    }
                    total += u64::from(cluster.weight);
                    ends.push((Arc::from(cluster.name.as_str()), total));
                }
                match ends.is_empty() {
                    true => Err(Problems::one("weighted_clusters.clusters", "required")),
                    false => Ok(Self::Weighted(ends)),
                }
            }
            None => Err(Problems::one("cluster_specifier", "required")),
        }
    }

    fn choose(&self) -> &str {
        match self {
            Self::One(name) => name,
            Self::Weighted(ends) => {
                let total = ends.last().map_or(1, |(_, end)| *end);
                let draw = fastrand::u64(..total);
                ends.iter().find(|(_, end)| draw < *end).map_or("", |(name, _)| name)
            }
        }
    }
}

/// One upstream connection in the books, for as long as it lives.
struct Lease {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    started: Instant,
    _permit: Permit,
}

impl Lease {
    fn open(cluster: &Arc<Cluster>, host: &Arc<Host>, permit: Permit) -> Self {
        cluster.stats.upstream_cx_total.inc();
        cluster.stats.upstream_cx_active.inc();
        // A TCP tunnel is one request to Envoy's books too.
        cluster.stats.upstream_rq_total.inc();
        host.state.cx_total.fetch_add(1, Ordering::Relaxed);
        host.state.cx_active.fetch_add(1, Ordering::Relaxed);
        host.state.rq_total.fetch_add(1, Ordering::Relaxed);
        Self {
            cluster: cluster.clone(),
            host: host.clone(),
            started: clock::now(),
            _permit: permit,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let stats = &self.cluster.stats;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let length = clock::now().saturating_duration_since(self.started);
        stats
            .upstream_cx_length_ms
            .record(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        self.host.state.cx_active.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Bytes<'a> {
    stats: &'a TcpStats,
    lease: &'a Lease,
    totals: [std::sync::atomic::AtomicU64; 2],
}

impl Bytes<'_> {
    fn read(&self, counts: &mut ByteCounts) {
        let [received, sent] = &self.totals;
        counts.received = received.load(Ordering::Relaxed);
        counts.sent = sent.load(Ordering::Relaxed);
    }
}

impl Meter for Bytes<'_> {
    fn passed(&self, from: Side, bytes: u64) {
        let cluster = &self.lease.cluster.stats;
        let (total, ours, theirs) = match from {
            Side::Downstream => (
                &self.totals[0],
                &self.stats.downstream_cx_rx_bytes_total,
                &cluster.upstream_cx_tx_bytes_total,
            ),
            Side::Upstream => (
                &self.totals[1],
                &self.stats.downstream_cx_tx_bytes_total,
                &cluster.upstream_cx_rx_bytes_total,
            ),
        };
        total.store(total.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        ours.add(bytes);
        theirs.add(bytes);
    }
}

fn hashes_source_ip(config: &pb::TcpProxy) -> Compiled<bool> {
    use remora_proto::pb::envoy::r#type::v3::hash_policy::PolicySpecifier;
    match &config.hash_policy[..] {
        [] => Ok(false),
        [policy] if matches!(policy.policy_specifier, Some(PolicySpecifier::SourceIp(_))) => Ok(true),
        _ => Err(Problems::one("hash_policy", "only one source_ip policy is supported")),
    }
}

#[cfg(test)]
mod tests;
