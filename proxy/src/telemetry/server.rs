//! The process's own stats: `server.` and `cluster_manager.`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::stats::{Counter, Gauge, Histogram, StatGroup, Value};
use crate::runtime::{clock, spawn};

/// `envoy.admin.v3.ServerInfo.State`, numbered as there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    Live = 0,
    Draining = 1,
    PreInitializing = 2,
    Initializing = 3,
}

impl ServerState {
    /// As `/ready` and `/server_info` print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

/// The group under `server.`.
pub struct ServerStats {
    started: OnceLock<Instant>,
    state: Gauge,
    pub live: Gauge,
    pub concurrency: Gauge,
    pub hot_restart_epoch: Gauge,
    /// Hot restart is on.
    pub can_restart: AtomicBool,
    /// Downstream connections of all listeners now.
    pub total_connections: Gauge,
    certificates: OnceLock<FirstExpiration>,
    pub static_unknown_fields: Counter,
    pub dynamic_unknown_fields: Counter,
    /// Fields that were set, are not honoured, and were let through (`--unsupported=warn`).
    pub unsupported_fields: Counter,
    /// Of [`spawn::panics`], what was there at the last reset.
    panics_before: AtomicU64,
    pub initialization_time_ms: Histogram,
}

impl Default for ServerStats {
    fn default() -> Self {
        let stats = Self {
            started: OnceLock::new(),
            state: Gauge::default(),
            live: Gauge::default(),
            concurrency: Gauge::default(),
            hot_restart_epoch: Gauge::default(),
            can_restart: AtomicBool::new(false),
            total_connections: Gauge::default(),
            certificates: OnceLock::new(),
            static_unknown_fields: Counter::default(),
            dynamic_unknown_fields: Counter::default(),
            unsupported_fields: Counter::default(),
            panics_before: AtomicU64::new(0),
            initialization_time_ms: Histogram::default(),
        };
        stats.set_state(ServerState::PreInitializing);
        stats
    }
}

/// When the first certificate in use expires, in seconds since the epoch; none if there is no certificate.
type FirstExpiration = Box<dyn Fn() -> Option<i64> + Send + Sync>;

impl ServerStats {
    /// Says whom to ask for `days_until_first_cert_expiring`.
    pub fn show_certificates(&self, first: impl Fn() -> Option<i64> + Send + Sync + 'static) {
        // There is one store of secrets in a process.
        let _ = self.certificates.set(Box::new(first));
    }

    /// Whole days; 0 once one has expired, Envoy's "none" as long as there is no certificate.
    fn days_until_first_cert_expiring(&self) -> u64 {
        let Some(first) = self.certificates.get().and_then(|first| first()) else {
            return u64::from(u32::MAX);
        };
        let now = clock::system_now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let left = first.saturating_sub(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        u64::try_from(left / 86_400).unwrap_or(0)
    }

    /// Called once, when the process starts.
    pub fn start(&self, at: Instant) {
        // A second start would be a bug of the caller; the first counts.
        let _ = self.started.set(at);
    }

    pub fn uptime_seconds(&self) -> u64 {
        self.started
            .get()
            .map_or(0, |started| clock::now().saturating_duration_since(*started).as_secs())
    }

    /// Panics of tasks and of whatever else was contained, of the whole process.
    fn task_panics(&self) -> u64 {
        spawn::panics().saturating_sub(self.panics_before.load(Ordering::Relaxed))
    }

    pub fn state(&self) -> ServerState {
        match self.state.value() {
            0 => ServerState::Live,
            1 => ServerState::Draining,
            2 => ServerState::PreInitializing,
            _ => ServerState::Initializing,
        }
    }

    /// Also sets `live`, and on the first time live `initialization_time_ms`.
    pub fn set_state(&self, state: ServerState) {
        self.state.set(state as u64);
        self.live.set(u64::from(state == ServerState::Live));
        if state == ServerState::Live
            && !self.initialization_time_ms.is_used()
            && let Some(started) = self.started.get()
        {
            let took = clock::now().saturating_duration_since(*started).as_millis();
            self.initialization_time_ms
                .record(u64::try_from(took).unwrap_or(u64::MAX));
        }
    }
}

impl StatGroup for ServerStats {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let resident = resident_bytes();
        let gauges = [
            ("compilation_settings.fips_mode", u64::from(cfg!(feature = "fips"))),
            ("concurrency", self.concurrency.value()),
            ("days_until_first_cert_expiring", self.days_until_first_cert_expiring()),
            ("live", self.live.value()),
            ("memory_allocated", resident),
            ("memory_heap_size", resident),
            ("memory_physical_size", resident),
            ("state", self.state.value()),
            ("stats_recent_lookups", 0),
            ("total_connections", self.total_connections.value()),
            ("uptime", self.uptime_seconds()),
            ("version", 0),
        ];
        gauges
            .iter()
            .for_each(|(name, value)| visit(name, Value::Gauge(*value)));
        // What nothing has set here, Envoy has not set either.
        let unset = ["parent_connections", "seconds_until_first_ocsp_response_expiring"];
        unset.iter().for_each(|name| visit(name, Value::UnwrittenGauge));
        visit("hot_restart_epoch", self.hot_restart_epoch.reading());
        if self.can_restart.load(Ordering::Relaxed) {
            let generation = self.hot_restart_epoch.value() + 1;
            visit("hot_restart_generation", Value::Gauge(generation));
        }
        let counters = [
            ("debug_assertion_failures", 0),
            ("dropped_stat_flushes", 0),
            ("envoy_bug_failures", 0),
            ("envoy_notifications", 0),
            ("task_panics", self.task_panics()),
            ("unsupported_fields", self.unsupported_fields.value()),
        ];
        // Envoy counts these up by nothing when it starts.
        for (name, value) in [
            ("dynamic_unknown_fields", self.dynamic_unknown_fields.value()),
            ("static_unknown_fields", self.static_unknown_fields.value()),
            ("wip_protos", 0),
        ] {
            let reading = match value {
                0 => Value::TouchedCounter,
                count => Value::Counter(count),
            };
            visit(name, reading);
        }
        counters
            .iter()
            .for_each(|(name, value)| visit(name, Value::Counter(*value)));
        visit("initialization_time_ms", Value::Histogram(&self.initialization_time_ms));
    }

    fn reset(&self) {
        let counters = [
            &self.static_unknown_fields,
            &self.dynamic_unknown_fields,
            &self.unsupported_fields,
        ];
        counters.iter().for_each(|counter| counter.reset());
        self.panics_before.store(spawn::panics(), Ordering::Relaxed);
    }

    fn flush(&self) {
        self.initialization_time_ms.flush();
    }
}

/// Resident memory in bytes, from the kernel; 0 where it does not say.
pub fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() * 1024
}

crate::stat_group! {
    /// The group under `cluster_manager.`.
    pub struct ClusterManagerStats {
        counters: { cluster_added, cluster_modified, cluster_removed }
        gauges: { active_clusters }
        histograms: {}
    }
}

crate::stat_group! {
    /// `runtime.`: the layers in force, and deprecated fields that were used.
    pub struct RuntimeStats {
        counters: { load_success, override_dir_not_exists, deprecated_feature_use }
        gauges: { admin_overrides_active, num_keys, num_layers, deprecated_feature_seen_since_process_start }
        histograms: {}
    }
}

impl RuntimeStats {
    /// A deprecated field was used.
    pub fn count_deprecated(&self) {
        self.deprecated_feature_use.inc();
        self.deprecated_feature_seen_since_process_start.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::render::{HistogramMode, Selection, collect, text};
    use crate::telemetry::stats::Stats;

    #[test]
    fn what_a_readiness_probe_reads_is_there_at_zero() {
        let stats = Stats::new();
        let server = stats.group::<ServerStats>("server.");
        assert_eq!(server.state(), ServerState::PreInitializing);
        server.start(clock::now());
        server.set_state(ServerState::Live);
        let filter = r"^server\.(state|live)";
        let selection = Selection {
            used_only: true,
            filter: regex::Regex::new(filter).ok(),
            ..Selection::default()
        };
        let page = text(&collect(&stats, &selection), HistogramMode::Summary);
        assert_eq!(page, "server.live: 1\nserver.state: 0\n");
    }

    #[test]
    fn memory_is_that_of_the_process() {
        assert!(resident_bytes() > 1 << 20);
    }
}
