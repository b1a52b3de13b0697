//! The members of a cluster: the one place where its hosts change.
//!
//! In: complete lists of endpoints, and the news that some host's health changed. Out: the cluster's [`PrioritySet`], swapped.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::bugs::{Bug, planted};
use super::discovery::Discovery;
use super::host::{Health, HealthFlag, Host, HostKey};
use super::lb::Policy;
use super::lb::subset::Subsets;
use super::priority::{AssignmentPolicy, PrioritySet, is_excluded};
use super::{Cluster, count_health};
use crate::config::endpoint::{Endpoint, Endpoints};
use crate::runtime::io::Address;

/// See the page.
#[derive(Default)]
pub(crate) struct Members {
    list: Mutex<List>,
    /// Set when the hosts have to be sorted anew; whoever holds `list` sees to it.
    stale: AtomicBool,
    next_step: Mutex<Option<Instant>>,
    /// When the endpoints are stale if nobody sends them again.
    stale_at: Mutex<Option<Instant>>,
    changed: Arc<tokio::sync::Notify>,
}

#[derive(Default)]
struct List {
    hosts: Vec<Arc<Host>>,
    policy: AssignmentPolicy,
}

impl Members {
    pub(super) fn next_tick(&self) -> Option<Instant> {
        [*self.next_step.lock(), *self.stale_at.lock()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether the endpoints have become too old by `now`; true once.
    pub(super) fn expire(&self, now: Instant) -> bool {
        let mut stale_at = self.stale_at.lock();
        let expired = stale_at.is_some_and(|due| due <= now);
        if expired {
            *stale_at = None;
        }
        expired
    }

    /// Slow start and original destinations; true if the hosts must be sorted anew.
    pub(super) fn advance(&self, cluster: &Cluster, now: Instant) -> bool {
        let mut next = self.next_step.lock();
        if next.is_none_or(|due| due > now) {
            return false;
        }
        if let Policy::OriginalDst(config) = &cluster.lb.policy {
            let gone = cluster.destinations.sweep();
            gone.iter().for_each(|host| host.state.left());
            *next = Some(now + config.cleanup_interval);
            return false;
        }
        let Some(slow) = &cluster.lb.slow_start else {
            *next = None;
            return false;
        };
        let hosts = cluster.hosts.load_full();
        let starting = hosts.hosts().filter(|host| slow.advance(&host.state, now)).count();
        *next = (starting > 0).then(|| now + slow.step());
        starting > 0
    }

    fn schedule(&self, at: Instant) {
        let mut next = self.next_step.lock();
        *next = Some(next.map_or(at, |next| next.min(at)));
    }
}

impl Cluster {
    /// The first timers; called once when the cluster is built.
    pub(crate) fn start(&self, now: Instant) {
        if let Policy::OriginalDst(config) = &self.lb.policy {
            self.members.schedule(now + config.cleanup_interval);
        }
        if let Some(detector) = &self.outlier {
            detector.set_hosts([].iter(), now);
        }
    }

    /// Notified when hosts have come or gone, and are there to be seen; for the one task that follows them.
    pub(super) fn membership_changed(&self) -> Arc<tokio::sync::Notify> {
        self.members.changed.clone()
    }

    /// Replaces all endpoints: an identity diff by what hosts are known by.
    pub fn set_endpoints(&self, endpoints: Endpoints, now: Instant) {
        self.set_endpoints_of(endpoints, now, now);
    }

    /// As [`Self::set_endpoints`], for endpoints that came at `arrived`: their age counts from there. Returns whether all is as it was, but for
    /// what Envoy does not look at either: their order, their age, the share that is dropped.
    pub(super) fn set_endpoints_of(&self, mut endpoints: Endpoints, arrived: Instant, now: Instant) -> bool {
        self.tell_apart(&mut endpoints.hosts);
        let keys = endpoints.hosts.iter().map(|endpoint| endpoint.host.key());
        let states = self.registry.states(&self.name, keys);
        let mut list = self.members.list.lock();
        let old: HashMap<HostKey, Arc<Host>> = list.hosts.iter().map(|host| (host.key(), host.clone())).collect();
        let mut hosts: Vec<Arc<Host>> = Vec::with_capacity(states.len());
        let mut seen: HashSet<HostKey> = HashSet::with_capacity(states.len());
        let mut changed = HashSet::new();
        let mut stays = list.policy.weighs_as(&endpoints.policy, self.lb.locality_weighted);
        for (endpoint, state) in endpoints.hosts.into_iter().zip(states) {
            let mut host = endpoint.host;
            let key = host.key();
            let known = old.get(&key);
            if planted(Bug::JoinerLeftOut) && known.is_none() && !old.is_empty() {
                continue;
            }
            seen.insert(key);
            host.state = state;
            let starts_anew = known.is_some_and(|known| self.starts_anew(known, &host));
            // Another version of the cluster, which goes on until this one is warm.
            let serves = known.is_none() && host.state.is_member();
            if known.is_none() {
                host.state.joined();
            }
            if starts_anew {
                host.state.forget_checks();
            }
            if known.is_none() || starts_anew {
                changed.insert(host.priority);
                self.welcome(&host, serves, now);
            }
            if let Some(known) = known.filter(|known| known.has_moved(&host)) {
                changed.extend([known.priority, host.priority]);
            }
            if known.is_some_and(|known| known.socket_id() != host.socket_id()) {
                // What was opened through the other socket serves nobody any more.
                host.state.drain_connections();
            }
            let was = host.state.health();
            let is_failed = endpoint.health == Health::Unhealthy && !endpoint.draining;
            host.state.set(HealthFlag::PendingDynamicRemoval, false);
            host.state.set(HealthFlag::FailedEdsHealth, is_failed);
            let drains = endpoint.draining && !planted(Bug::DrainingHostPicked);
            host.state.set(HealthFlag::EdsStatusDraining, drains);
            host.state
                .set(HealthFlag::DegradedEdsHealth, endpoint.health == Health::Degraded);
            if known.is_some() && was == Health::Unhealthy && host.state.health() == Health::Healthy {
                self.restarted(&host, now);
            }
            let same = known.filter(|known| known.same(&host));
            stays &= same.is_some() && was == host.state.health();
            hosts.push(same.cloned().unwrap_or_else(|| Arc::new(host)));
        }
        for host in &list.hosts {
            if seen.contains(&host.key()) {
                continue;
            }
            if self.keeps_removed(host) {
                host.state.set(HealthFlag::PendingDynamicRemoval, true);
                hosts.push(host.clone());
                continue;
            }
            changed.insert(host.priority);
            host.state.left();
        }
        stays &= changed.is_empty();
        self.note_age(&endpoints.policy, arrived);
        list.policy = endpoints.policy;
        list.hosts = hosts;
        self.sort(&list, now);
        self.members_changed(&changed, &list.hosts);
        drop(list);
        // Somebody may have asked for a sort and left it to us.
        self.refresh_if_stale(now);
        stays
    }

    /// An address that is named several times is as many hosts; in EDS, as in Envoy, the first alone.
    fn tell_apart(&self, endpoints: &mut Vec<Endpoint>) {
        let only_the_first = matches!(self.discovery, Discovery::Eds);
        let mut named: HashMap<Address, u32> = HashMap::with_capacity(endpoints.len());
        endpoints.retain_mut(|endpoint| {
            let times = named.entry(endpoint.host.address.clone()).or_default();
            endpoint.host.twin = *times;
            *times += 1;
            endpoint.host.twin == 0 || !only_the_first
        });
    }

    /// When endpoints that came at `arrived` are stale, if ever.
    fn note_age(&self, policy: &AssignmentPolicy, arrived: Instant) {
        *self.members.stale_at.lock() = policy.stale_after.and_then(|time| arrived.checked_add(time));
        if policy.stale_after.is_some() {
            self.stats.assignment_timeout_received.inc();
        }
    }

    /// Sorts the hosts anew after a change of health. Never waits: if somebody else sorts already, that one goes round again.
    pub fn refresh(&self, now: Instant) {
        self.members.stale.store(true, Ordering::SeqCst);
        self.refresh_if_stale(now);
    }

    fn refresh_if_stale(&self, now: Instant) {
        while self.members.stale.load(Ordering::SeqCst) {
            let Some(mut list) = self.members.list.try_lock() else {
                return;
            };
            while self.members.stale.swap(false, Ordering::SeqCst) {
                let have_gone = self.let_go(&mut list);
                self.sort(&list, now);
                self.members_changed(&have_gone, &list.hosts);
            }
        }
    }

    /// Discovery dropped the host, health checks still find it well: it stays until they do not.
    fn keeps_removed(&self, host: &Host) -> bool {
        let failed = host.state.has(HealthFlag::FailedActiveHc) || host.state.has(HealthFlag::FailedEdsHealth);
        let is_checked = !self.health_checks.is_empty() && !host.refuses_checks();
        let kept = is_checked && !self.ignore_health_on_host_removal && !failed;
        kept || planted(Bug::RemovedHostStays)
    }

    /// Removes the hosts that stayed for their health only and have lost it; the priorities that they were of.
    fn let_go(&self, list: &mut List) -> HashSet<u32> {
        let is_over = |host: &Arc<Host>| host.state.has(HealthFlag::PendingDynamicRemoval) && !self.keeps_removed(host);
        let mut changed = HashSet::new();
        if !list.hosts.iter().any(is_over) {
            return changed;
        }
        for host in list.hosts.extract_if(.., |host| is_over(host)) {
            host.state.left();
            changed.insert(host.priority);
        }
        changed
    }

    /// Hosts of these priorities came or went: each is a change, as in Envoy. Called when the hosts are sorted: who is told looks at once.
    fn members_changed(&self, priorities: &HashSet<u32>, hosts: &[Arc<Host>]) {
        if priorities.is_empty() {
            return;
        }
        self.stats.membership_change.add(priorities.len() as u64);
        if self.lb.close_connections_on_host_set_change {
            hosts.iter().for_each(|host| host.state.drain_connections());
        }
        self.members.changed.notify_one();
    }

    fn sort(&self, list: &List, now: Instant) {
        let previous = self.hosts.load_full();
        let mut next = PrioritySet::build(&list.hosts, &list.policy, &self.lb, &previous);
        if let Some(config) = &self.lb.subset {
            let subsets = Subsets::build(config, &list.hosts, &list.policy, &self.lb, previous.subsets.as_deref());
            subsets.count(previous.subsets.as_deref(), &self.stats);
            next.subsets = Some(Box::new(subsets));
        }
        next.zones.count(&self.lb, &self.stats);
        let next = Arc::new(next);
        self.hosts.store(next.clone());
        if let Some(local) = self.registry.local()
            && local.name() == &*self.name
            && !self.is_retired()
        {
            local.publish(&next, now);
        }
        if let Some(detector) = &self.outlier {
            detector.set_hosts(list.hosts.iter(), now);
        }
        self.count(list, &next);
    }

    /// The gauges of who is there. A cluster that never had a host has none that were written, as in Envoy.
    fn count(&self, list: &List, next: &PrioritySet) {
        let stats = &self.stats;
        if list.hosts.is_empty() && stats.membership_total.value() == 0 {
            return;
        }
        let excluded = |host: &&Arc<Host>| is_excluded(host, &self.lb);
        stats.membership_total.set(list.hosts.len() as u64);
        stats.membership_healthy.set(count_health(&list.hosts, Health::Healthy));
        stats
            .membership_degraded
            .set(count_health(&list.hosts, Health::Degraded));
        stats
            .membership_excluded
            .set(list.hosts.iter().filter(excluded).count() as u64);
        if !self.health_checks.is_empty() {
            let count = |flag: HealthFlag| list.hosts.iter().filter(|host| host.state.has(flag)).count() as u64;
            let failed = count(HealthFlag::FailedActiveHc);
            // Who is not checked is neither.
            let checked = list.hosts.iter().filter(|host| !host.refuses_checks()).count() as u64;
            let checks = stats.health_check();
            checks.healthy.set(checked.saturating_sub(failed));
            let degraded = count(HealthFlag::DegradedActiveHc);
            checks.degraded.replace(checks.degraded.value(), degraded);
        }
        // As Envoy: only where hosts come and go, and never less than 1.
        let comes_and_goes = match &self.discovery {
            Discovery::Eds => true,
            Discovery::Dns(config) => !config.is_logical,
            Discovery::Static | Discovery::OriginalDst => false,
        };
        if comes_and_goes {
            let heaviest = list.hosts.iter().map(|host| host.weight).max().unwrap_or(1);
            stats.max_host_weight.set(u64::from(heaviest.max(1)));
        }
        if let Some((size, least, most)) = next.hash_table() {
            stats.note_table(matches!(self.lb.policy, Policy::RingHash(_)), size, least, most);
        }
    }

    /// Checked at another place than before, no longer, or again: to Envoy it is another host.
    fn starts_anew(&self, known: &Host, host: &Host) -> bool {
        !self.health_checks.is_empty() && known.is_checked_unlike(host)
    }

    /// A host that was not here before: unhealthy until its first check where there are checks, else starting slowly. One that already serves
    /// another version of this cluster stays what it is there.
    fn welcome(&self, host: &Host, serves: bool, now: Instant) {
        if self.outlier.is_none() {
            host.state.set(HealthFlag::FailedOutlierCheck, false);
            host.state.set(HealthFlag::DegradedOutlierDetection, false);
        }
        let is_checked = !self.health_checks.is_empty() && !host.refuses_checks();
        // A state that another configuration of this cluster knows already keeps what it knows.
        if is_checked && !host.state.is_checked() && !serves {
            host.state.set(HealthFlag::FailedActiveHc, true);
            host.state
                .set(HealthFlag::PendingActiveHc, self.lb.ignore_new_hosts_until_first_hc);
        } else if !is_checked {
            host.state.set(HealthFlag::FailedActiveHc, false);
            host.state.set(HealthFlag::PendingActiveHc, false);
            self.restarted(host, now);
        }
    }

    /// Begins slow start of a host that is (again) healthy.
    pub(super) fn restarted(&self, host: &Host, now: Instant) {
        if let Some(slow) = &self.lb.slow_start {
            slow.begin(&host.state, now);
            self.members.schedule(now + slow.step());
        }
    }
}
