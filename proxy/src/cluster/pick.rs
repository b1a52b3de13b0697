//! Picking a host for one request.
//!
//! In: what the request brings along ([`PickContext`]). Out: a host of the priorities (or of the subset that the request asks for), picked
//! again while a retry's predicates refuse it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use remora_proto::pb::envoy::config::core::v3::Metadata;

use super::bugs::{Bug, planted};
use super::lb::zone::Zones;
use super::lb::{Policy, Turn, original_dst, subset};
use super::priority::{Loads, PerPriority, PrioritySet};
use super::{Cluster, Host};
use crate::http::failure::Failure;

/// What a load balancer may look at for one request.
#[derive(Default)]
pub struct PickContext<'a> {
    /// From the route's hash policies.
    pub hash: Option<u64>,
    /// Set for retries.
    pub retry: Option<RetryPick<'a>>,
    /// The subset that the route asks for, in the namespace `envoy.lb`.
    pub metadata_match: Option<&'a Metadata>,
    /// Downstream's original destination, for ORIGINAL_DST clusters.
    pub original_destination: Option<SocketAddr>,
    /// The clock's when unset.
    pub now: Option<Instant>,
}

/// What a retry wants otherwise than a first attempt.
#[derive(Clone, Copy)]
pub struct RetryPick<'a> {
    /// Hosts of the earlier attempts, in order.
    pub attempted: &'a [Arc<Host>],
    /// The host predicates: whether another host is wanted than this.
    pub refuses: &'a (dyn Fn(&Host) -> bool + Sync),
    /// `host_selection_retry_max_attempts`: how often a refused host is picked anew; then it is taken.
    pub selections: u32,
    /// `previous_priorities`: after each so many attempts their priorities are left out.
    pub update_frequency: Option<u32>,
}

/// Why no host was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// No host that may be used (`no_healthy_upstream`, response flag `UH`).
    NoHealthyHost,
}

impl Cluster {
    /// A host for one request. Waits for nobody and allocates nothing, but for the first request to a new original destination, which makes
    /// its host, and a retry that turns to other priorities where there are more than eight.
    ///
    /// # Errors
    /// No host may be used.
    pub fn pick(&self, context: &PickContext<'_>) -> Result<Arc<Host>, PickError> {
        self.pick_with(context, &mut || fastrand::u64(..))
    }

    /// [`Cluster::pick`] with the randomness given.
    ///
    /// # Errors
    /// No host may be used.
    pub fn pick_with(
        &self,
        context: &PickContext<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Arc<Host>, PickError> {
        let picked = match &self.lb.policy {
            Policy::OriginalDst(config) => self.pick_destination(context, config.port_override),
            _ => {
                let hosts = self.hosts.load();
                match (&self.lb.subset, &hosts.subsets) {
                    (Some(config), Some(subsets)) if !planted(Bug::SubsetIgnored) => subset::Search {
                        config,
                        subsets,
                        everybody: &hosts,
                        stats: &self.stats,
                    }
                    .pick(context, &mut |set| self.pick_from(set, context, random)),
                    _ => self.pick_from(&hosts, context, random),
                }
            }
        };
        picked.ok_or_else(|| {
            self.stats.upstream_cx_none_healthy.inc();
            PickError::NoHealthyHost
        })
    }

    /// A host that a pick after this one is likely to get, `ahead` others before it; `None` where nothing can be foretold: hashes and active
    /// requests decide anew each time.
    pub fn peek(&self, ahead: usize, random: &mut dyn FnMut() -> u64) -> Option<Arc<Host>> {
        let hosts = self.hosts.load();
        if self.lb.subset.is_some() || matches!(hosts.zones, Zones::On(_)) {
            return None;
        }
        let choice = hosts.choose(&hosts.loads, random())?;
        choice.group.peek(ahead, random).cloned()
    }

    /// Whether the request with this random number is one of those that the endpoints' `drop_overloads` turn away.
    pub fn drops(&self, random: u64) -> Option<Failure> {
        let share = self.hosts.load().drop_overload.filter(|share| share.contains(random))?;
        let all = share.numerator >= share.denominator;
        Some(Failure::DropOverload { all })
    }

    /// Whether the request with this random number is one of those that maintenance turns away; counts it.
    pub fn is_in_maintenance(&self, random: u64) -> bool {
        let share = self.maintenance.now();
        let turned_away = share.numerator > 0 && share.contains(random);
        if turned_away {
            self.stats.upstream_rq_maintenance_mode.inc();
        }
        turned_away
    }

    fn pick_from(
        &self,
        hosts: &PrioritySet,
        context: &PickContext<'_>,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<Arc<Host>> {
        let turned = context.retry.as_ref().and_then(|retry| turned_loads(hosts, retry));
        let loads = turned.as_ref().unwrap_or(&hosts.loads);
        let selections = context.retry.as_ref().map_or(0, |retry| retry.selections);
        let active = match &self.lb.policy {
            Policy::RingHash(_) | Policy::Maglev(_) => self.stats.upstream_rq_active.value(),
            _ => 0,
        };
        let mut attempt = 0;
        loop {
            let draw = match (&self.lb.policy, context.hash) {
                (Policy::RingHash(_) | Policy::Maglev(_), Some(hash)) => hash,
                _ => random(),
            };
            let choice = hosts.choose(loads, draw)?;
            let mut group = choice.group;
            if choice.panic {
                self.stats.lb_healthy_panic.inc();
                if self.lb.fail_traffic_on_panic {
                    return None;
                }
            } else if let (Zones::On(routes), 0, false) = (&hosts.zones, choice.priority, planted(Bug::ZonesIgnored)) {
                group = routes.group(group, choice.degraded, &self.lb, &self.stats, random)?;
            }
            let turn = Turn {
                hash: context.hash,
                attempt,
                now: context.now,
                active,
            };
            let host = group.pick(turn, random)?;
            let refused = context.retry.as_ref().is_some_and(|retry| (retry.refuses)(host));
            if attempt == selections || !refused || planted(Bug::RetryStays) {
                return Some(host.clone());
            }
            attempt += 1;
        }
    }

    fn pick_destination(&self, context: &PickContext<'_>, port_override: Option<u16>) -> Option<Arc<Host>> {
        let mut address = context.original_destination?;
        if let Some(port) = port_override {
            address.set_port(port);
        }
        Some(self.destinations.host(address, |address| {
            let mut host = original_dst::make_host(&self.registry, &self.name, address);
            host.use_socket(self.transport.default.clone());
            host
        }))
    }
}

/// `previous_priorities`: the loads without the priorities of earlier attempts; `None` where they are as ever. Attempts count in batches of
/// the update frequency; when nothing that could take load is left, all are forgotten.
fn turned_loads(hosts: &PrioritySet, retry: &RetryPick<'_>) -> Option<Loads> {
    let frequency = retry.update_frequency? as usize;
    let mut excluded = PerPriority::from_elem(false, hosts.priorities.len());
    let mut turned = None;
    for batch in retry.attempted.chunks_exact(frequency.max(1)) {
        for host in batch {
            if let Some(excluded) = excluded.get_mut(host.priority as usize) {
                *excluded = true;
            }
        }
        turned = hosts.loads.without(&excluded);
        if turned.is_none() {
            excluded.fill(false);
            turned = hosts.loads.without(&excluded);
        }
    }
    turned
}
