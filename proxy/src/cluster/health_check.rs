//! Active health checks.
//!
//! In: a cluster with `health_checks`. Out: the active flags of its hosts. [`Checker`] decides (sans-IO), [`probe`] asks, [`run`] keeps one task per host
//! and check on the main runtime.

pub mod events;
mod grpc;
pub mod kept;
pub mod probe;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use self::kept::Kept;
use super::Cluster;
use super::host::{HealthFlag, Host, HostState};
use crate::route::strings::StringMatcher;
use crate::runtime::{clock, spawn::spawn};
use crate::tls::UpstreamSocket;

/// With any value: the host fails its health check at once.
const IMMEDIATE_FAILURE: &str = "x-envoy-immediate-health-check-fail";

/// `HealthCheck`, under its field names.
#[derive(Clone)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    pub initial_jitter: Duration,
    pub interval_jitter: Duration,
    pub interval_jitter_percent: u32,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub no_traffic_interval: Duration,
    pub no_traffic_healthy_interval: Duration,
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    pub alt_port: Option<u16>,
    /// `tls_options.alpn_protocols`: offered instead of what the transport socket says; empty: as it says.
    pub alpn: Vec<Vec<u8>>,
    /// `transport_socket_match_criteria`: checks go over this instead of the host's own transport socket.
    pub transport: Option<UpstreamSocket>,
    /// `reuse_connection`: checks of a host go over one connection for as long as it lasts.
    pub reuse: bool,
    pub events: Option<events::EventLog>,
    pub kind: CheckKind,
}

/// What is asked.
#[derive(Clone, Debug)]
pub enum CheckKind {
    Http(HttpCheck),
    Tcp(TcpCheck),
    Grpc(GrpcCheck),
}

impl CheckKind {
    /// `HealthCheckerType`
    fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Tcp(_) => "TCP",
            Self::Grpc(_) => "GRPC",
        }
    }
}

/// `HttpHealthCheck`.
#[derive(Clone, Debug)]
pub struct HttpCheck {
    pub host: String,
    pub path: String,
    pub method: http::Method,
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// `request_headers_to_remove`
    pub without: Vec<http::HeaderName>,
    /// The body of the request.
    pub send: Vec<u8>,
    /// Found in the body of the response, in order.
    pub receive: Vec<Vec<u8>>,
    /// How much of that body is looked at; Envoy's default is 1 KiB. 0: all.
    pub response_buffer_size: u64,
    /// `service_name_matcher`, held against `x-envoy-upstream-healthchecked-cluster`.
    pub service_name: Option<StringMatcher>,
    /// Half-open ranges; Envoy's default is 200 alone.
    pub expected: Vec<(u16, u16)>,
    pub retriable: Vec<(u16, u16)>,
    pub http2: bool,
}

/// `GrpcHealthCheck`: `grpc.health.v1.Health/Check`.
#[derive(Clone, Debug, Default)]
pub struct GrpcCheck {
    pub service: String,
    pub authority: String,
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

/// `TcpHealthCheck`: `receive` must be found in the answer, in order.
#[derive(Clone, Debug, Default)]
pub struct TcpCheck {
    pub send: Vec<u8>,
    pub receive: Vec<Vec<u8>>,
}

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Degraded,
    /// The host answered that it is unwell: counts at once.
    Failure,
    /// An answer that counts towards the threshold (`retriable_statuses`).
    Retriable,
    NetworkFailure,
    Timeout,
    /// `x-envoy-immediate-health-check-fail`
    ImmediateFailure,
    /// The same, in an answer to a request that was no check.
    PassiveFailure,
}

impl Outcome {
    fn is_pass(self) -> bool {
        matches!(self, Self::Success | Self::Degraded)
    }
}

/// One host's consecutive results.
#[derive(Default)]
pub struct Checker {
    checked: bool,
    /// The last result speaks for another health than the host has, which takes more of them.
    pending: bool,
    successes: u32,
    failures: u32,
}

impl Checker {
    /// Takes a result into the flags of the host; true if it became healthy, degraded or unhealthy by that.
    pub fn on(&mut self, check: &HealthCheck, state: &HostState, outcome: Outcome) -> bool {
        let first = !std::mem::replace(&mut self.checked, true);
        if state.failed_passively.swap(false, Ordering::Relaxed) {
            self.successes = 0;
        }
        state.checked.store(true, Ordering::Relaxed);
        let mut changed = state.set(HealthFlag::PendingActiveHc, false);
        let is_timeout = outcome == Outcome::Timeout;
        match outcome {
            Outcome::Success | Outcome::Degraded => {
                self.failures = 0;
                self.successes += 1;
                changed |= state.set(HealthFlag::DegradedActiveHc, outcome == Outcome::Degraded);
                if state.has(HealthFlag::FailedActiveHc) && (first || self.successes >= check.healthy_threshold) {
                    state.set(HealthFlag::ActiveHcTimeout, false);
                    state.set(HealthFlag::ExcludedViaImmediateHcFail, false);
                    changed |= state.set(HealthFlag::FailedActiveHc, false);
                }
            }
            Outcome::Failure | Outcome::ImmediateFailure | Outcome::PassiveFailure => {
                let excluded = outcome != Outcome::Failure;
                changed |= state.set(HealthFlag::ExcludedViaImmediateHcFail, excluded);
                changed |= self.fail(state, false);
            }
            Outcome::Retriable | Outcome::NetworkFailure | Outcome::Timeout => {
                self.successes = 0;
                self.failures += 1;
                if first || self.failures >= check.unhealthy_threshold {
                    changed |= self.fail(state, is_timeout);
                }
            }
        }
        self.pending = !changed && outcome.is_pass() == state.has(HealthFlag::FailedActiveHc);
        changed
    }

    /// Time to the next check after one that found this.
    fn rest(&self, check: &HealthCheck, outcome: Outcome, had_traffic: bool, random: u64) -> Duration {
        check.next_interval(outcome.is_pass(), self.pending, had_traffic, random)
    }

    fn fail(&mut self, state: &HostState, timeout: bool) -> bool {
        self.successes = 0;
        state.set(HealthFlag::ActiveHcTimeout, timeout);
        state.set(HealthFlag::FailedActiveHc, true)
    }
}

impl HealthCheck {
    /// Time to the next check, as Envoy's `HealthCheckerImplBase::interval`: by what the last one found. The edge intervals are for results that
    /// would change the host's health and are not enough yet (`pending`).
    pub fn next_interval(&self, passed: bool, pending: bool, had_traffic: bool, random: u64) -> Duration {
        let base = match (had_traffic, passed, pending) {
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, _, _) => self.no_traffic_interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, true, false) => self.interval,
            (true, false, true) => self.unhealthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
        };
        let percent = base.as_millis() as u64 * u64::from(self.interval_jitter_percent) / 100;
        let jitter = self.interval_jitter.as_millis() as u64 + percent;
        base + Duration::from_millis(random.checked_rem(jitter).unwrap_or(0))
    }
}

/// A task that ends when nobody holds it.
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Keeps a task for each host of the cluster for as long as both live.
pub async fn run(cluster: Weak<Cluster>) {
    let mut tasks: HashMap<(u64, u32), Vec<Task>> = HashMap::new();
    loop {
        let Some(strong) = cluster.upgrade() else {
            return;
        };
        let mut before = std::mem::take(&mut tasks);
        before.retain(|_, tasks| tasks.iter().any(|task| !task.0.is_finished()));
        for host in strong.all_hosts().iter().filter(|host| !host.refuses_checks()) {
            let epoch = host.state.check_epoch.load(Ordering::Relaxed);
            let start = |index| {
                let checking = check_host(cluster.clone(), host.state.clone(), epoch, index);
                Task(spawn("health check", checking))
            };
            let key = (host.state.id, epoch);
            let running = before.remove(&key);
            let running = running.unwrap_or_else(|| (0..strong.health_checks.len()).map(start).collect());
            tasks.insert(key, running);
        }
        // What is left are hosts that are gone, or checked otherwise: their tasks end.
        drop(before);
        let changed = strong.membership_changed();
        drop(strong);
        // The longest that a cluster which is gone keeps this task.
        let _ = tokio::time::timeout(Duration::from_secs(5), changed.notified()).await;
    }
}

/// Waits for the secrets that checks are made with: without them the first would only say that they are missing. Not for ever: Envoy's clusters
/// wait for theirs no longer than this (`initial_fetch_timeout` when unset).
async fn secrets(host: &Host, check: &HealthCheck) {
    const PATIENCE: Duration = Duration::from_secs(15);
    const PAUSE: Duration = Duration::from_millis(50);
    let own = host.socket();
    let socket = check.transport.as_ref().unwrap_or(&own);
    let Some(tls) = &socket.tls else { return };
    let began = clock::now();
    while !tls.is_ready() && clock::now().saturating_duration_since(began) < PATIENCE {
        clock::sleep(PAUSE).await;
    }
}

async fn check_host(cluster: Weak<Cluster>, state: Arc<HostState>, epoch: u32, index: usize) {
    let mut checker = Checker::default();
    let mut kept = Kept::default();
    let mut was_lost = false;
    loop {
        let Some((strong, host)) = still_there(&cluster, &state) else {
            return;
        };
        let Some(check) = strong.health_checks.get(index) else {
            return;
        };
        let stats = strong.stats.health_check();
        if !checker.checked {
            secrets(&host, check).await;
        }
        if !checker.checked && !check.initial_jitter.is_zero() {
            let most = check.initial_jitter.as_millis() as u64;
            clock::sleep(Duration::from_millis(fastrand::u64(..=most))).await;
        }
        let (outcome, status) = match was_lost {
            true => (Outcome::NetworkFailure, 0),
            false => {
                stats.attempt.inc();
                probe::probe(&strong, &host, check, &mut kept).await
            }
        };
        if state.check_epoch.load(Ordering::Relaxed) != epoch {
            return;
        }
        if state.failed_passively.load(Ordering::Relaxed) {
            checker.checked = true;
        }
        let first = !checker.checked;
        settle(&strong, &host, check, (outcome, status), first, || {
            checker.on(check, &state, outcome)
        });
        strong.is_warm();
        let had_traffic = strong.stats.upstream_cx_total.value() > 0;
        let rest = checker.rest(check, outcome, had_traffic, fastrand::u64(..));
        drop(strong);
        was_lost = tokio::select! {
            () = clock::sleep(rest) => false,
            () = kept.lost() => true,
        };
    }
}

/// Counts and logs what was found, has `take` put it into the flags, and lets the cluster know.
fn settle(
    cluster: &Cluster,
    host: &Host,
    check: &HealthCheck,
    (outcome, status): (Outcome, u16),
    first: bool,
    take: impl FnOnce() -> bool,
) {
    let stats = cluster.stats.health_check();
    let flags = || [HealthFlag::FailedActiveHc, HealthFlag::DegradedActiveHc].map(|flag| host.state.has(flag));
    let [was_failed, was_degraded] = flags();
    match outcome {
        Outcome::Success | Outcome::Degraded => stats.success.inc(),
        _ => stats.failure.inc(),
    }
    match outcome {
        Outcome::NetworkFailure | Outcome::Timeout => stats.network_failure.inc(),
        Outcome::PassiveFailure => stats.passive_failure.inc(),
        _ => {}
    }
    let changed = take();
    if let Some(log) = &check.events {
        let [is_failed, is_degraded] = flags();
        let checked = events::Checked {
            cluster: &cluster.name,
            host,
            checker: check.kind.name(),
            outcome,
            status,
            first,
            failed: [was_failed, is_failed],
            degraded: [was_degraded, is_degraded],
        };
        log.write(&checked, clock::now());
    }
    apply(cluster, host, outcome, changed);
}

impl Cluster {
    /// The headers of an answer to a request, with its status: by them a host may ask for fewer requests, and where there are health checks
    /// for none. Callable from any thread; time ends the one, a passed check the other.
    pub fn observe_headers(&self, host: &Host, status: u16, headers: &http::HeaderMap, now: Instant) {
        if let Some(detector) = &self.outlier
            && detector.on_headers(host, status, headers, now, &mut || fastrand::u64(..))
        {
            self.refresh(now);
        }
        if self.health_checks.is_empty() || !headers.contains_key(IMMEDIATE_FAILURE) {
            return;
        }
        if host.refuses_checks() || !host.state.is_member() || self.is_retired() {
            return;
        }
        let state = &host.state;
        for check in &self.health_checks {
            let first = !state.is_checked();
            settle(self, host, check, (Outcome::PassiveFailure, 0), first, || {
                state.checked.store(true, Ordering::Relaxed);
                state.failed_passively.store(true, Ordering::Relaxed);
                let is_excluded = state.set(HealthFlag::ExcludedViaImmediateHcFail, true);
                state.set(HealthFlag::FailedActiveHc, true) | is_excluded
            });
        }
    }
}

/// The cluster and the host as it is configured now, while both are there.
fn still_there(cluster: &Weak<Cluster>, state: &Arc<HostState>) -> Option<(Arc<Cluster>, Arc<Host>)> {
    let cluster = cluster.upgrade()?;
    let host = cluster
        .all_hosts()
        .into_iter()
        .find(|host| Arc::ptr_eq(&host.state, state))?;
    Some((cluster, host))
}

fn apply(cluster: &Cluster, host: &Host, outcome: Outcome, mut changed: bool) {
    let now = clock::now();
    if outcome.is_pass() && !host.state.has(HealthFlag::FailedActiveHc) {
        let detector = cluster.outlier.as_ref();
        changed |= detector.is_some_and(|detector| detector.on_health_check_passed(host, now));
        if changed {
            cluster.restarted(host, now);
        }
    } else if changed {
        host.state.drain_connections();
    }
    if changed {
        cluster.refresh(now);
    }
}

#[cfg(test)]
mod tests;
