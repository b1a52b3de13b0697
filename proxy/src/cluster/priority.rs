//! Hosts by priority, and how load spills between priorities.
//!
//! In: hosts with their health flags, weights of localities. Out: an immutable [`PrioritySet`], which a pick reads without waiting.
//! The arithmetic is Envoy's, integer division included.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::bugs::{Bug, planted};
use super::host::{Health, HealthFlag, Host, Locality};
use super::lb::subset::Subsets;
use super::lb::zone::Zones;
use super::lb::{Group, LbConfig, Policy};
use crate::config::route::Fraction;

/// Envoy's default `overprovisioning_factor`, in percent.
pub const OVERPROVISIONING_FACTOR: u32 = 140;

/// All hosts of a cluster at one moment.
#[derive(Default)]
pub struct PrioritySet {
    pub priorities: Vec<Priority>,
    pub loads: Loads,
    /// `lb_subset_config`: the same hosts, divided by their metadata.
    pub subsets: Option<Box<Subsets>>,
    /// [`AssignmentPolicy::drop_overload`]
    pub drop_overload: Option<Fraction>,
    /// How requests for priority 0 are divided among its localities.
    pub zones: Zones,
}

/// What a draw falls on.
pub struct Choice<'a> {
    pub group: &'a Group,
    pub priority: usize,
    /// Its degraded hosts take the request.
    pub degraded: bool,
    /// All its hosts do.
    pub panic: bool,
}

/// One priority level.
pub struct Priority {
    /// Every host, whatever its health.
    pub hosts: Vec<Arc<Host>>,
    pub availability: Availability,
    /// What healthy load is picked from: healthy hosts, or in panic all.
    pub healthy: Group,
    /// What degraded load is picked from: degraded hosts, or in panic all.
    pub degraded: Group,
}

/// Weights of localities in one priority, as `LocalityLbEndpoints.load_balancing_weight` gives them.
pub type LocalityWeights = HashMap<(u32, Arc<Locality>), u32>;

/// What an endpoint assignment says besides its hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct AssignmentPolicy {
    /// `overprovisioning_factor`, in percent.
    pub overprovisioning_factor: u32,
    /// `weighted_priority_health`: health is a share of weight, not of hosts.
    pub weighted_priority_health: bool,
    /// `drop_overloads`: the share of requests that get no host.
    pub drop_overload: Option<Fraction>,
    /// `endpoint_stale_after`: how long the endpoints may be used if nobody sends them again.
    pub stale_after: Option<Duration>,
    pub locality_weights: LocalityWeights,
}

impl AssignmentPolicy {
    /// Whether the same hosts get the same share of requests by it.
    pub fn weighs_as(&self, other: &Self, by_locality: bool) -> bool {
        self.overprovisioning_factor == other.overprovisioning_factor
            && self.weighted_priority_health == other.weighted_priority_health
            && (!by_locality || self.locality_weights == other.locality_weights)
    }
}

impl Default for AssignmentPolicy {
    fn default() -> Self {
        Self {
            overprovisioning_factor: OVERPROVISIONING_FACTOR,
            weighted_priority_health: false,
            drop_overload: None,
            stale_after: None,
            locality_weights: LocalityWeights::default(),
        }
    }
}

impl PrioritySet {
    /// Sorts `hosts` (all of a cluster) by priority and health as it is now. `previous` lends its rotation positions.
    pub fn build(hosts: &[Arc<Host>], policy: &AssignmentPolicy, lb: &LbConfig, previous: &PrioritySet) -> Self {
        let levels = hosts.iter().map(|host| host.priority as usize + 1).max().unwrap_or(1);
        let mut by_priority: Vec<Vec<Arc<Host>>> = vec![Vec::new(); levels];
        for host in hosts {
            by_priority[host.priority as usize].push(host.clone());
        }
        let availability: Vec<Availability> = by_priority.iter().map(|hosts| Availability::of(hosts, lb)).collect();
        let loads = Loads::compute(
            &availability,
            policy.overprovisioning_factor,
            policy.weighted_priority_health,
            lb.panic_threshold,
        );
        let first = by_priority.first().map_or(&[][..], Vec::as_slice);
        let zones = Zones::build(first, policy, lb, &previous.zones);
        let priorities = by_priority
            .into_iter()
            .enumerate()
            .map(|(index, hosts)| {
                Priority::build(
                    hosts,
                    availability[index],
                    loads.panic[index],
                    policy,
                    lb,
                    previous.priorities.get(index),
                )
            })
            .collect();
        Self {
            priorities,
            loads,
            subsets: None,
            drop_overload: policy.drop_overload,
            zones,
        }
    }

    /// What the draw `random` falls on if the load is spread as `loads` say.
    pub fn choose(&self, loads: &Loads, random: u64) -> Option<Choice<'_>> {
        let (index, degraded) = loads.choose(random);
        let priority = self.priorities.get(index)?;
        let group = match degraded {
            true => &priority.degraded,
            false => &priority.healthy,
        };
        Some(Choice {
            group,
            priority: index,
            degraded,
            panic: self.loads.panic.get(index).copied().unwrap_or(false),
        })
    }

    /// Entries of the last priority's table of hashes, and the fewest and the most that one of its hosts has; `None`: there is none.
    pub fn hash_table(&self) -> Option<(u64, u64, u64)> {
        self.priorities.last()?.healthy.hash_table()
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flat_map(|priority| priority.hosts.iter())
    }
}

impl Priority {
    fn build(
        hosts: Vec<Arc<Host>>,
        availability: Availability,
        panic: bool,
        policy: &AssignmentPolicy,
        lb: &LbConfig,
        previous: Option<&Priority>,
    ) -> Self {
        let usable = |health: Health| -> Vec<Arc<Host>> {
            let wanted = |host: &&Arc<Host>| panic || host.state.health() == health;
            hosts.iter().filter(wanted).cloned().collect()
        };
        let group = |health: Health, previous: Option<&Group>| {
            let position = previous.map(Group::position);
            // In panic the whole priority takes turns: weights of localities count for tables of hashes alone.
            let hashes = matches!(lb.policy, Policy::RingHash(_) | Policy::Maglev(_));
            match panic && !hashes {
                true => Group::flat(usable(health), lb, position),
                false => Group::build(usable(health), &hosts, policy, lb, position),
            }
        };
        let healthy = group(Health::Healthy, previous.map(|priority| &priority.healthy));
        let degraded = match panic || availability.degraded > 0 {
            true => group(Health::Degraded, previous.map(|priority| &priority.degraded)),
            false => Group::default(),
        };
        Self {
            availability,
            healthy,
            degraded,
            hosts,
        }
    }
}

/// How many hosts of a priority there are, and how many may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    pub hosts: u64,
    /// Not counted at all: draining, waiting for their first health check, or told to go away by one.
    pub excluded: u64,
    pub healthy: u64,
    pub degraded: u64,
    /// The same as sums of weights: of all that count, healthy, degraded.
    pub weights: [u64; 3],
}

impl Availability {
    fn of(hosts: &[Arc<Host>], lb: &LbConfig) -> Self {
        let mut sum = Self::default();
        for host in hosts {
            sum.hosts += 1;
            if is_excluded(host, lb) {
                sum.excluded += 1;
                continue;
            }
            let weight = u64::from(host.weight);
            sum.weights[0] += weight;
            match host.state.health() {
                Health::Healthy => {
                    sum.healthy += 1;
                    sum.weights[1] += weight;
                }
                Health::Degraded => {
                    sum.degraded += 1;
                    sum.weights[2] += weight;
                }
                Health::Unhealthy => {}
            }
        }
        sum
    }

    /// `(counted, healthy, degraded)`, as hosts or as weight.
    fn shares(&self, weighted: bool) -> (u64, u64, u64) {
        match weighted {
            true => (self.weights[0], self.weights[1], self.weights[2]),
            false => (self.hosts - self.excluded, self.healthy, self.degraded),
        }
    }
}

pub(super) fn is_excluded(host: &Host, lb: &LbConfig) -> bool {
    host.state.has(HealthFlag::ExcludedViaImmediateHcFail)
        || host.state.has(HealthFlag::EdsStatusDraining)
        || (lb.ignore_new_hosts_until_first_hc && host.state.has(HealthFlag::PendingActiveHc))
}

/// One value a priority; no allocation for as many as are used in practice, since a retry that turns to other priorities makes its own.
pub type PerPriority<T> = SmallVec<[T; 8]>;

/// Percent of the load for each priority, and which are in panic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    pub healthy: PerPriority<u32>,
    pub degraded: PerPriority<u32>,
    pub panic: PerPriority<bool>,
    /// Healthy and degraded availability of each priority, in percent, overprovisioned.
    pub available: PerPriority<(u32, u32)>,
}

impl Loads {
    /// Envoy's `LoadBalancerBase::recalculatePerPriorityState` and what follows it. `factor` and `panic_threshold` in percent.
    pub fn compute(levels: &[Availability], factor: u32, weighted: bool, panic_threshold: u32) -> Self {
        let share = |part: u64, of: u64| match of {
            0 => 0,
            _ => (u64::from(factor) * part / of).min(100) as u32,
        };
        let (healthy, degraded): (PerPriority<u32>, PerPriority<u32>) = levels
            .iter()
            .map(|level| {
                let (counted, healthy, degraded) = level.shares(weighted);
                (share(healthy, counted), share(degraded, counted))
            })
            .unzip();
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        let mut loads = Self::spread(&healthy, &degraded, total);
        loads.available = healthy.iter().copied().zip(degraded.iter().copied()).collect();
        loads.panic = levels
            .iter()
            .map(|level| total != 100 && in_panic(level, panic_threshold))
            .collect();
        if total == 0 && panic_threshold == 0 {
            if let Some(first) = loads.healthy.first_mut() {
                *first = 100;
            }
        } else if loads.panic.iter().all(|panic| *panic) {
            loads.by_host_count(levels);
        }
        loads
    }

    /// Splits 100 among the priorities in order, healthy hosts of all of them before degraded ones.
    fn spread(healthy: &[u32], degraded: &[u32], total: u32) -> Self {
        let mut remaining = 100;
        let mut split = |availability: &[u32]| -> PerPriority<u32> {
            let take = |available: &u32| {
                let load = (available * 100).checked_div(total).unwrap_or(0).min(remaining);
                remaining -= load;
                load
            };
            availability.iter().map(take).collect()
        };
        let mut loads = Self {
            healthy: split(healthy),
            degraded: split(degraded),
            ..Self::default()
        };
        if total == 0 || planted(Bug::LoadIsLost) {
            return loads;
        }
        // What integer division left over goes to the first priority that can take anything.
        if let Some(first) = healthy.iter().position(|available| *available > 0) {
            loads.healthy[first] += remaining;
        } else if let Some(first) = degraded.iter().position(|available| *available > 0) {
            loads.degraded[first] += remaining;
        }
        loads
    }

    /// The load without some priorities, as Envoy's `PreviousPrioritiesRetryPriority` spreads it; `None` if the others cannot take any.
    pub fn without(&self, excluded: &[bool]) -> Option<Self> {
        let kept = |degraded: bool| -> PerPriority<u32> {
            let of = |(index, (healthy, sick)): (usize, &(u32, u32))| match excluded.get(index) {
                Some(true) => 0,
                _ if degraded => *sick,
                _ => *healthy,
            };
            self.available.iter().enumerate().map(of).collect()
        };
        let (healthy, degraded) = (kept(false), kept(true));
        let total = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
        (total > 0).then(|| Self {
            panic: self.panic.clone(),
            available: self.available.clone(),
            ..Self::spread(&healthy, &degraded, total)
        })
    }

    /// Everything is in panic: load by number of hosts, health aside.
    fn by_host_count(&mut self, levels: &[Availability]) {
        let total: u64 = levels.iter().map(|level| level.hosts).sum();
        let mut remaining = 100;
        for (index, level) in levels.iter().enumerate() {
            let load = (100 * level.hosts).checked_div(total).unwrap_or(0) as u32;
            self.healthy[index] = load;
            self.degraded[index] = 0;
            remaining -= load;
        }
        let first = levels.iter().position(|level| level.hosts > 0).unwrap_or(0);
        if let Some(load) = self.healthy.get_mut(first) {
            *load += remaining;
        }
    }

    /// Index of the priority that `random` falls on, and whether it falls on its degraded hosts.
    pub fn choose(&self, random: u64) -> (usize, bool) {
        if self.healthy.first() == Some(&100) {
            return (0, false);
        }
        let draw = (random % 100) as u32 + 1;
        let mut sum = 0;
        for (loads, degraded) in [(&self.healthy, false), (&self.degraded, true)] {
            for (index, load) in loads.iter().enumerate() {
                sum += load;
                if draw <= sum {
                    return (index, degraded);
                }
            }
        }
        (0, false)
    }
}

/// Whether so few hosts are fit that all are used.
pub(super) fn in_panic(level: &Availability, threshold: u32) -> bool {
    let counted = level.hosts - level.excluded;
    let percent = |part: u64| match counted {
        0 => 0.0,
        _ => 100.0 * part as f64 / counted as f64,
    };
    percent(level.healthy) + percent(level.degraded) < f64::from(threshold)
}

#[cfg(test)]
mod tests;
