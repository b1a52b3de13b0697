//! Outlier detection: hosts that fail are left out for a while.
//!
//! In: the outcome of each request and connection, and ticks. Out: the `failed_outlier_check` flag of hosts, and whether the cluster has to
//! sort its hosts anew. Time and randomness come in; counting is atomic, only an ejection takes the detector's lock.

mod degraded;
mod errors;
pub mod events;
mod kinds;
mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::bugs::{Bug, planted};
use super::host::{HealthFlag, Host};
use super::stats::ClusterStats;
pub use errors::ErrorMatcher;
use events::{Event, EventLog, Evidence};
pub use kinds::EjectionType;

/// `OutlierDetection`; times, counts and percentages under their Envoy names.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierConfig {
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_time_jitter: Duration,
    pub max_ejection_percent: u32,
    pub always_eject_one_host: bool,
    pub consecutive_5xx: u32,
    pub enforcing_consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub enforcing_consecutive_gateway_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failure: u32,
    pub enforcing_consecutive_local_origin_failure: u32,
    pub enforcing_success_rate: u32,
    pub enforcing_local_origin_success_rate: u32,
    pub success_rate_minimum_hosts: u32,
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation.
    pub success_rate_stdev_factor: u32,
    pub failure_percentage_threshold: u32,
    pub enforcing_failure_percentage: u32,
    pub enforcing_failure_percentage_local_origin: u32,
    pub failure_percentage_minimum_hosts: u32,
    pub failure_percentage_request_volume: u32,
    pub successful_active_health_check_uneject_host: bool,
    pub detect_degraded_hosts: bool,
}

impl Default for OutlierConfig {
    /// Envoy's defaults.
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_time_jitter: Duration::ZERO,
            max_ejection_percent: 10,
            always_eject_one_host: false,
            consecutive_5xx: 5,
            enforcing_consecutive_5xx: 100,
            consecutive_gateway_failure: 5,
            enforcing_consecutive_gateway_failure: 0,
            split_external_local_origin_errors: false,
            consecutive_local_origin_failure: 5,
            enforcing_consecutive_local_origin_failure: 100,
            enforcing_success_rate: 100,
            enforcing_local_origin_success_rate: 100,
            success_rate_minimum_hosts: 5,
            success_rate_request_volume: 100,
            success_rate_stdev_factor: 1900,
            failure_percentage_threshold: 85,
            enforcing_failure_percentage: 0,
            enforcing_failure_percentage_local_origin: 0,
            failure_percentage_minimum_hosts: 5,
            failure_percentage_request_volume: 50,
            successful_active_health_check_uneject_host: true,
            detect_degraded_hosts: false,
        }
    }
}

/// What went wrong on our side of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalFailure {
    ConnectFailed,
    ConnectTimeout,
    /// A request that ran into its (per-try) timeout.
    RequestTimeout,
    /// The stream or connection was reset before a response.
    Reset,
}

/// A host's counters for it.
#[derive(Default)]
pub struct HostOutlier {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Monitor,
    local: Monitor,
    ejection: Mutex<Ejection>,
    /// The time that it counts as degraded grows and decays as an ejection's does, on its own.
    degradation: Mutex<Ejection>,
}

/// Successes and requests of the running interval.
#[derive(Default)]
struct Monitor {
    success: AtomicU32,
    total: AtomicU32,
    /// Bits of the last interval's success rate in percent; negative when there was too little traffic. 0 bits: never computed.
    rate: AtomicU64,
}

/// A host's present or last ejection.
#[derive(Clone, Copy, Default)]
struct Ejection {
    until: Option<Instant>,
    /// Ejections so far, less one for each interval that the host was fine.
    multiplier: u32,
    /// Ejections ever.
    count: u32,
    began: Option<Instant>,
    /// When the host was last let in again.
    ended: Option<Instant>,
}

impl HostOutlier {
    /// When the present ejection ends.
    pub fn ejected_until(&self) -> Option<Instant> {
        self.ejection.lock().until
    }

    /// When it no longer counts as degraded for what it said itself.
    pub fn degraded_until(&self) -> Option<Instant> {
        self.degradation.lock().until
    }

    /// How often the host was ejected.
    pub fn ejections(&self) -> u32 {
        self.ejection.lock().count
    }

    /// Percent of the last interval's requests that succeeded, `None` if there were too few.
    pub fn success_rate(&self) -> Option<f64> {
        self.external.rate()
    }

    /// The same for local-origin outcomes.
    pub fn local_origin_success_rate(&self) -> Option<f64> {
        self.local.rate()
    }
}

impl Monitor {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn rate(&self) -> Option<f64> {
        let bits = self.rate.load(Ordering::Relaxed);
        let rate = f64::from_bits(bits);
        (bits != 0 && rate >= 0.0).then_some(rate)
    }
}

/// A cluster's detector.
pub struct Detector {
    pub config: OutlierConfig,
    stats: Arc<ClusterStats>,
    events: Option<EventLog>,
    state: Mutex<State>,
}

/// What an ejection decides on.
#[derive(Default)]
struct State {
    hosts: u64,
    ejected: u64,
    next_sweep: Option<Instant>,
}

impl Detector {
    pub fn new(config: OutlierConfig, stats: Arc<ClusterStats>) -> Self {
        Self {
            config,
            stats,
            events: None,
            state: Mutex::default(),
        }
    }

    /// The same, its decisions logged.
    pub fn logging(self, events: Option<EventLog>) -> Self {
        Self { events, ..self }
    }

    /// A response with this HTTP status (for gRPC, the one that its status maps to). True if a host was ejected: the cluster's hosts must be sorted anew.
    pub fn on_response(&self, host: &Host, status: u16, now: Instant, random: &mut dyn FnMut() -> u64) -> bool {
        self.external(host, status, now, random)
    }

    /// No response, for a reason on this side or in between. True as in [`Detector::on_response`].
    pub fn on_local_failure(
        &self,
        host: &Host,
        kind: LocalFailure,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> bool {
        if !self.config.split_external_local_origin_errors {
            let status = match kind {
                LocalFailure::ConnectFailed | LocalFailure::Reset => 503,
                LocalFailure::ConnectTimeout | LocalFailure::RequestTimeout => 504,
            };
            return self.external(host, status, now, random);
        }
        let outlier = &host.state.outlier;
        outlier.local.count(false);
        self.reached(&outlier.consecutive_local, self.config.consecutive_local_origin_failure)
            && self.detected(
                host,
                EjectionType::ConsecutiveLocalOriginFailure,
                Evidence::Consecutive,
                now,
                random,
            )
    }

    /// A connection is there for a request, new or not: the host was reached. Without the split, only the end of a request tells anything,
    /// unless there is nothing but the connection (`is_all`).
    pub fn on_connected(&self, host: &Host, is_all: bool) {
        let outlier = &host.state.outlier;
        if self.config.split_external_local_origin_errors {
            outlier.local.count(true);
            clear(&outlier.consecutive_local);
        } else if is_all {
            outlier.external.count(true);
            clear(&outlier.consecutive_5xx);
            clear(&outlier.consecutive_gateway);
        }
    }

    /// A passing active health check ends an ejection. True as in [`Detector::on_response`].
    pub fn on_health_check_passed(&self, host: &Host, now: Instant) -> bool {
        self.config.successful_active_health_check_uneject_host && self.uneject(host, now)
    }

    /// When [`Detector::tick`] wants to be called.
    pub fn next_tick(&self) -> Option<Instant> {
        self.state.lock().next_sweep
    }

    /// Hosts are now these; those that left take their ejections with them.
    pub(super) fn set_hosts<'a>(&self, hosts: impl Iterator<Item = &'a Arc<Host>>, now: Instant) {
        let mut state = self.state.lock();
        (state.hosts, state.ejected) = (0, 0);
        for host in hosts {
            state.hosts += 1;
            state.ejected += u64::from(host.state.has(HealthFlag::FailedOutlierCheck));
        }
        state.next_sweep.get_or_insert(now + self.config.interval);
        let active = &self.stats.outlier().ejections_active;
        active.replace(active.value(), state.ejected);
    }

    fn external(&self, host: &Host, status: u16, now: Instant, random: &mut dyn FnMut() -> u64) -> bool {
        let outlier = &host.state.outlier;
        let failed = (500..600).contains(&status);
        outlier.external.count(!failed);
        if !failed {
            clear(&outlier.consecutive_5xx);
            clear(&outlier.consecutive_gateway);
            return false;
        }
        let mut ejected = false;
        match (502..=504).contains(&status) {
            true if self.reached(&outlier.consecutive_gateway, self.config.consecutive_gateway_failure) => {
                let kind = EjectionType::ConsecutiveGatewayFailure;
                ejected |= self.detected(host, kind, Evidence::Consecutive, now, random);
            }
            true => {}
            false => clear(&outlier.consecutive_gateway),
        }
        if self.reached(&outlier.consecutive_5xx, self.config.consecutive_5xx) {
            let kind = EjectionType::Consecutive5xx;
            ejected |= self.detected(host, kind, Evidence::Consecutive, now, random);
        }
        ejected
    }

    /// Counts a failure; true, starting over, each time the threshold is met.
    fn reached(&self, counter: &AtomicU32, threshold: u32) -> bool {
        if counter.fetch_add(1, Ordering::Relaxed) + 1 != threshold {
            return false;
        }
        counter.store(0, Ordering::Relaxed);
        true
    }

    /// A monitor found the host to be an outlier; ejects it if chance and limits let it.
    fn detected(
        &self,
        host: &Host,
        kind: EjectionType,
        evidence: Evidence,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> bool {
        if host.state.has(HealthFlag::FailedOutlierCheck) {
            return false;
        }
        self.counters(kind).0.inc();
        if kind == EjectionType::Consecutive5xx {
            // An older name of the same.
            self.stats.outlier().ejections_consecutive_5xx.inc();
        }
        let mut state = self.state.lock();
        if !self.may_eject(&state) {
            self.stats.outlier().ejections_overflow.inc();
            return false;
        }
        if matches!(kind, EjectionType::Consecutive5xx | EjectionType::SuccessRate) {
            self.stats.outlier().ejections_total.inc();
        }
        if random() % 100 >= u64::from(self.enforcing(kind)) {
            self.log(host, kind.name(), Some(evidence), false, now);
            return false;
        }
        if !host.state.set(HealthFlag::FailedOutlierCheck, true) {
            return false;
        }
        state.ejected += 1;
        self.stats.outlier().ejections_active.set(state.ejected);
        self.stats.outlier().ejections_enforced_total.inc();
        self.counters(kind).1.inc();
        host.state.outlier.ejection.lock().begin(&self.config, now, random());
        self.log(host, kind.name(), Some(evidence), true, now);
        host.state.drain_connections();
        true
    }

    /// Writes a decision to the event log.
    fn log(&self, host: &Host, kind: &'static str, evidence: Option<Evidence>, enforced: bool, now: Instant) {
        let Some(events) = &self.events else {
            return;
        };
        let ejection = *host.state.outlier.ejection.lock();
        let last = match evidence {
            Some(_) => ejection.ended,
            None => ejection.began,
        };
        let event = Event {
            kind,
            ejections: ejection.count,
            since_last: last.map(|last| now.saturating_duration_since(last).as_secs()),
            evidence,
            enforced,
        };
        events.write(host, &event, now);
    }

    /// The share of ejected hosts may not pass `max_ejection_percent` with one more.
    fn may_eject(&self, state: &State) -> bool {
        let percent = u64::from(self.config.max_ejection_percent);
        let fits = 100 * (state.ejected + 1) <= percent * state.hosts;
        fits || (state.ejected == 0 && self.config.always_eject_one_host) || planted(Bug::EjectsEverybody)
    }

    fn uneject(&self, ejected: &Host, now: Instant) -> bool {
        let host = &ejected.state;
        let mut state = self.state.lock();
        if !host.set(HealthFlag::FailedOutlierCheck, false) {
            return false;
        }
        state.ejected = state.ejected.saturating_sub(1);
        self.stats.outlier().ejections_active.set(state.ejected);
        {
            let mut ejection = host.outlier.ejection.lock();
            ejection.until = None;
            ejection.ended = Some(now);
        }
        clear(&host.outlier.consecutive_5xx);
        clear(&host.outlier.consecutive_gateway);
        clear(&host.outlier.consecutive_local);
        self.log(ejected, RETURN, None, false, now);
        true
    }
}

impl Ejection {
    /// `base × n`, at most the maximum, plus jitter; `n` grows until the maximum is met.
    fn begin(&mut self, config: &OutlierConfig, now: Instant, random: u64) {
        let longest = config.max_ejection_time;
        if config.base_ejection_time * self.multiplier < longest + config.base_ejection_time {
            self.multiplier += 1;
        }
        self.count += 1;
        let time = (config.base_ejection_time * self.multiplier).min(longest);
        let jitter = match config.max_ejection_time_jitter.as_millis() as u64 {
            0 => Duration::ZERO,
            most => Duration::from_millis(random % (most + 1)),
        };
        self.began = Some(now);
        self.until = Some(now + time + jitter);
    }
}

/// Envoy's returns have no type of their own: the first of the enumeration.
const RETURN: &str = "CONSECUTIVE_5XX";

/// Most requests succeed: a store would take the cache line from the other workers for nothing.
fn clear(counter: &AtomicU32) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
