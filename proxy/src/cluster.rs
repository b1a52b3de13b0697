//! Clusters and their hosts: who may get a request now, and why.
//!
//! In: compiled cluster configuration, endpoint assignments, DNS answers, results of health checks and of requests. Out: a
//! host for a request ([`Cluster::pick`]), wait-free. Host state outlives configuration: it hangs off (cluster name, address).
//!
//! Endpoints change on the main thread ([`Cluster::update_endpoints`], [`discovery`]), health also on workers ([`Cluster::observe_response`]);
//! either way the hosts are sorted anew into one immutable [`priority::PrioritySet`] that picks read. What runs by the clock (ejections that
//! end, DNS, health checks) is driven by [`maintain::maintain`] on the main runtime.

mod active;
pub mod breaker;
pub(crate) mod bugs;
pub mod discovery;
pub mod explain;
pub mod health_check;
pub mod host;
pub mod istio;
pub mod lb;
pub mod maintain;
mod members;
pub mod options;
pub mod outlier;
pub mod pick;
pub mod priority;
mod registry;
pub mod slow_start;
pub mod stats;
mod warmth;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use active::ActiveRequest;
pub use host::{Host, HostState};
pub use options::{HttpOptions, SocketOptions, UpstreamProtocol};
pub use pick::{PickContext, PickError, RetryPick};
pub use stats::ClusterStats;

use crate::config::Compiled;
use crate::config::identity::Identity;
use crate::http::failure::Failure;
use crate::http::outcome::Outcome;
use crate::tls::UpstreamTransport;
use bugs::{Bug, planted};
use discovery::Discovery;
use host::{Health, HostRegistry};
use lb::{LbConfig, Policy};
use members::Members;
use outlier::LocalFailure;

/// A cluster in use. Its configuration never changes (a changed one is another `Cluster`), its hosts do.
pub struct Cluster {
    pub name: Arc<str>,
    /// `alt_stat_name`, or else its name: what access logs call it.
    pub shown_name: Arc<str>,
    /// Unique per configuration: part of the pool key. Two clusters with equal ids share connections.
    pub id: u64,
    pub(crate) _identity: Arc<Identity>,
    pub stats: Arc<ClusterStats>,
    pub connect_timeout: Duration,
    pub http: HttpOptions,
    pub socket: SocketOptions,
    pub breakers: breaker::Breakers,
    pub pool_per_downstream_connection: bool,
    /// `preconnect_policy`
    pub preconnect: Option<crate::pool::Preconnect>,
    pub transport: UpstreamTransport,
    pub hosts: arc_swap::ArcSwap<priority::PrioritySet>,
    pub lb: LbConfig,
    pub outlier: Option<outlier::Detector>,
    pub discovery: Discovery,
    pub health_checks: Vec<health_check::HealthCheck>,
    /// `ignore_health_on_host_removal`: what discovery drops goes at once, even if health checks find it well.
    pub ignore_health_on_host_removal: bool,
    /// `close_connections_on_host_health_failure`, of connections without HTTP.
    pub closes_on_host_failure: bool,
    /// Requests that are turned away while somebody works on what is behind (`upstream.maintenance_mode.<name>`).
    pub maintenance: crate::config::live::Share,
    /// `cluster.metadata`, for access logs and subset matching.
    pub metadata: Option<Arc<remora_proto::pb::envoy::config::core::v3::Metadata>>,
    /// What Istio's own filters read of `metadata`.
    pub istio: istio::ClusterFacts,
    /// Of `filters`: what connections without HTTP begin with.
    pub metadata_exchange: Option<crate::filters::network::metadata_exchange::MetadataExchange>,
    pub(crate) registry: Arc<HostRegistry>,
    pub(crate) enrolled: std::sync::atomic::AtomicBool,
    pub(crate) follows: std::sync::atomic::AtomicBool,
    /// See [`Cluster::retire`].
    pub(crate) retired: std::sync::atomic::AtomicBool,
    pub(crate) members: Members,
    pub(crate) names: discovery::Names,
    pub(crate) warmth: warmth::Warmth,
    pub(crate) destinations: lb::original_dst::Destinations,
}

impl Cluster {
    /// The destination that a request (or connection) names for an ORIGINAL_DST cluster instead of its own; `None` elsewhere.
    pub fn named_destination(
        &self,
        headers: Option<&http::HeaderMap>,
        extensions: &http::Extensions,
    ) -> Option<std::net::SocketAddr> {
        match &self.lb.policy {
            Policy::OriginalDst(config) => config.named(headers, extensions, &self.stats.original_dst_host_invalid),
            _ => None,
        }
    }

    /// What a response tells outlier detection about its host.
    pub fn observe_response(&self, host: &Host, outcome: Outcome, now: Instant) {
        self.observe_response_with(host, outcome, now, &mut || fastrand::u64(..));
    }

    /// [`Cluster::observe_response`] with the randomness given.
    pub fn observe_response_with(&self, host: &Host, outcome: Outcome, now: Instant, random: &mut dyn FnMut() -> u64) {
        if let Some(detector) = &self.outlier
            && detector.on_response(host, outcome.status, now, random)
            && !planted(Bug::EjectionNotPublished)
        {
            self.refresh(now);
        }
    }

    /// The host took so long to answer, or has not answered for so long.
    pub fn observe_time(&self, host: &Host, time: Duration, now: Instant) {
        if let Policy::PeakEwma(policy) = &self.lb.policy
            && !planted(Bug::TimeIgnored)
        {
            policy.observe(&host.state.rtt, time, now);
        }
    }

    /// A connection to the host is there for a request; for TCP (`is_all`) nothing more will tell how the host is.
    pub fn observe_connected(&self, host: &Host, is_all: bool) {
        if let Some(detector) = &self.outlier {
            detector.on_connected(host, is_all);
        }
    }

    /// What a failed attempt tells about its host. Failures that are not the host's doing (overflow, the client leaving) do not count.
    pub fn observe_failure(&self, host: &Arc<Host>, failure: &Failure, now: Instant) {
        let Some(kind) = local_failure(failure) else {
            return;
        };
        host.state.rq_error.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(detector) = &self.outlier
            && detector.on_local_failure(host, kind, now, &mut || fastrand::u64(..))
        {
            self.refresh(now);
        }
    }

    /// Replaces all endpoints by those of an encoded `ClusterLoadAssignment`. Hosts are told apart by address: one that stays keeps its state.
    ///
    /// # Errors
    /// Nothing changes if the assignment cannot be used; never happens after [`config::endpoint::check`](crate::config::endpoint::check).
    pub fn update_endpoints(&self, assignment: &[u8]) -> Compiled<()> {
        self.update_endpoints_of(assignment, crate::runtime::clock::now())
            .map(|_| ())
    }

    /// As [`Self::update_endpoints`], for an assignment that came at `arrived`. One that is too old by now (`endpoint_stale_after`) leaves no
    /// endpoint.
    ///
    /// # Errors
    /// As [`Self::update_endpoints`].
    pub fn update_endpoints_of(&self, assignment: &[u8], arrived: Instant) -> Compiled<bool> {
        let parsed = crate::config::endpoint::decode(assignment)?;
        let endpoints = crate::config::endpoint::compile(&parsed, &self.transport)?;
        let now = crate::runtime::clock::now();
        let stays = self.set_endpoints_of(endpoints, arrived, now);
        self.expire(now);
        self.note_endpoints();
        Ok(stays)
    }

    fn expire(&self, now: Instant) {
        if self.members.expire(now) {
            self.stats.assignment_stale.inc();
            self.set_endpoints(crate::config::endpoint::Endpoints::default(), now);
            // Nobody is left whose first check could be waited for.
            self.is_warm();
        }
    }

    /// The hosts now, whatever their health, in the order of their priorities.
    pub fn all_hosts(&self) -> Vec<Arc<Host>> {
        match &self.lb.policy {
            Policy::OriginalDst(_) => self.destinations.hosts(),
            _ => self.hosts.load().hosts().cloned().collect(),
        }
    }

    /// When [`Cluster::tick`] wants to be called; `None` when nothing here runs by the clock.
    pub fn next_tick(&self) -> Option<Instant> {
        let sweep = self.outlier.as_ref().and_then(outlier::Detector::next_tick);
        [sweep, self.members.next_tick()].into_iter().flatten().min()
    }

    /// Does what is due at `now`: ejections end, statistics are judged, starting hosts gain weight, unused destinations go.
    pub fn tick(&self, now: Instant, random: &mut dyn FnMut() -> u64) {
        self.expire(now);
        let mut changed = self.members.advance(self, now);
        if let Some(detector) = &self.outlier {
            let hosts = self.all_hosts();
            if self.finds_hosts() {
                detector.set_hosts(hosts.iter(), now);
            }
            changed |= detector.tick(&hosts, now, random);
        }
        if changed {
            self.refresh(now);
        }
    }

    /// No new request can find the cluster any more: another configuration took its name, or it is gone. Streams that hold it go on; idle
    /// connections, which hold it too, are closed by the next sweep.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cluster::retire`] was called.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether its hosts are the original destinations of connections.
    pub fn finds_hosts(&self) -> bool {
        matches!(self.lb.policy, Policy::OriginalDst(_))
    }

    /// Whether the cluster has to be enrolled for maintenance.
    pub fn needs_maintenance(&self) -> bool {
        self.outlier.is_some()
            || self.lb.slow_start.is_some()
            || self.finds_hosts()
            || self.discovery.is_dns()
            || !self.health_checks.is_empty()
            || self.next_tick().is_some()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for host in self.all_hosts() {
            host.state.left();
        }
        self.destinations = Default::default();
        self.members = Members::default();
        self.hosts.store(Arc::default());
        self.registry.sweep(&self.name);
    }
}

/// Envoy's mapping of reset reasons to outlier results.
fn local_failure(failure: &Failure) -> Option<LocalFailure> {
    match failure {
        Failure::ConnectFailure(_) | Failure::BindFailure(_) => Some(LocalFailure::ConnectFailed),
        Failure::ConnectTimeout => Some(LocalFailure::ConnectTimeout),
        Failure::ConnectionTermination | Failure::RemoteReset | Failure::ProtocolError(_) => Some(LocalFailure::Reset),
        Failure::ResponseTimeout | Failure::PerTryTimeout | Failure::PerTryIdleTimeout => {
            (!planted(Bug::TimeoutForgiven)).then_some(LocalFailure::RequestTimeout)
        }
        _ => None,
    }
}

/// Counts of hosts by health, for the membership gauges.
fn count_health(hosts: &[Arc<Host>], wanted: Health) -> u64 {
    hosts.iter().filter(|host| host.state.health() == wanted).count() as u64
}

#[cfg(test)]
mod tests;
