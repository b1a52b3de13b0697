//! What clusters do by the clock, driven by one task on the main runtime.
//!
//! In: clusters that were built anywhere and announced themselves to the [`HostRegistry`]. Out: their ticks on time, a task for each that
//! resolves names, one for each that checks its hosts. A cluster that is gone is forgotten at its next turn.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::discovery::{self, Discovery, Resolve};
use super::host::HostRegistry;
use super::{Cluster, health_check};
use crate::runtime::{clock, spawn::spawn};
use crate::telemetry::stats::Stats;

/// Upper bound of a sleep: a timer that was set meanwhile (slow start of a new host) is noticed after that at the latest.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// Runs for ever. Cancel safe: ticks are synchronous.
pub async fn maintain(registry: Arc<HostRegistry>, resolver: Arc<dyn Resolve>, stats: Stats) {
    let mut clusters: Vec<Weak<Cluster>> = Vec::new();
    loop {
        for cluster in registry.take_enrolled() {
            begin(&cluster, &resolver, &stats);
            clusters.push(cluster);
        }
        let now = clock::now();
        let mut next: Option<Instant> = None;
        clusters.retain(|cluster| {
            let Some(cluster) = cluster.upgrade() else {
                return false;
            };
            if cluster.next_tick().is_some_and(|due| due <= now) {
                cluster.tick(now, &mut || fastrand::u64(..));
            }
            next = [next, cluster.next_tick()].into_iter().flatten().min();
            true
        });
        if clusters.is_empty() {
            registry.enrolled().await;
            continue;
        }
        let rest = next.map_or(LONGEST_SLEEP, |next| {
            next.saturating_duration_since(now).min(LONGEST_SLEEP)
        });
        tokio::select! {
            () = clock::sleep(rest.max(Duration::from_millis(1))) => {}
            () = registry.enrolled() => {}
        }
    }
}

/// The cluster's own resolver, or the one for all.
fn resolver_of(cluster: &Cluster, shared: &Arc<dyn Resolve>) -> Arc<dyn Resolve> {
    let own = match &cluster.discovery {
        Discovery::Dns(config) => config.resolver.as_ref(),
        _ => None,
    };
    let Some(own) = own else {
        return shared.clone();
    };
    discovery::resolver::build(Some(own)).unwrap_or_else(|error| {
        tracing::error!(cluster = %cluster.name, %error, "the cluster's resolver cannot be made: it uses the system's");
        shared.clone()
    })
}

fn counted(inner: Arc<dyn Resolve>, stats: &Stats) -> Arc<dyn Resolve> {
    let Some(prefix) = inner.stats_prefix() else {
        return inner;
    };
    let stats = stats.group(prefix);
    Arc::new(discovery::counted::Counted { inner, stats })
}

fn begin(cluster: &Weak<Cluster>, resolver: &Arc<dyn Resolve>, stats: &Stats) {
    let Some(strong) = cluster.upgrade() else {
        return;
    };
    if strong.discovery.is_dns() {
        spawn(
            "dns discovery",
            discovery::run(cluster.clone(), counted(resolver_of(&strong, resolver), stats)),
        );
    }
    if !strong.health_checks.is_empty() {
        spawn("health checks", health_check::run(cluster.clone()));
    }
}
