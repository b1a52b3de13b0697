//! Load balancing policies, one file each, wait-free `pick(&self)`.
//!
//! A [`Group`] is built with its hosts, when endpoints or their health change, and holds whatever its policy precomputes (a weighted order,
//! a ring, a table). Picking reads it and moves at most one atomic cursor.

pub mod edf;
pub mod hash;
pub mod least_request;
pub mod original_dst;
pub mod peak_ewma;
pub mod subset;
pub mod zone;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::bugs::{Bug, planted};
use super::host::Host;
use super::priority::AssignmentPolicy;
use crate::runtime::clock;

pub use least_request::LeastRequest;
pub use original_dst::OriginalDst;
pub use peak_ewma::PeakEwma;
pub use zone::{LocalCluster, ZoneAware};

/// How a cluster balances: `lb_policy` or the first supported `load_balancing_policy`, and `common_lb_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct LbConfig {
    pub policy: Policy,
    /// `healthy_panic_threshold`, whole percent.
    pub panic_threshold: u32,
    /// In panic there is no host instead of any.
    pub fail_traffic_on_panic: bool,
    pub locality_weighted: bool,
    pub zone: ZoneAware,
    /// Set where the policy cares for zones and the process knows its own.
    pub local: Option<LocalCluster>,
    pub ignore_new_hosts_until_first_hc: bool,
    pub close_connections_on_host_set_change: bool,
    pub slow_start: Option<super::slow_start::SlowStart>,
    /// `lb_subset_config`
    pub subset: Option<Arc<subset::SubsetConfig>>,
}

impl Default for LbConfig {
    fn default() -> Self {
        Self {
            policy: Policy::RoundRobin,
            panic_threshold: 50,
            fail_traffic_on_panic: false,
            locality_weighted: false,
            zone: ZoneAware::default(),
            local: None,
            ignore_new_hosts_until_first_hc: false,
            close_connections_on_host_set_change: false,
            slow_start: None,
            subset: None,
        }
    }
}

/// A cluster's policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    RoundRobin,
    LeastRequest(LeastRequest),
    Random,
    PeakEwma(PeakEwma),
    RingHash(hash::RingHash),
    Maglev(hash::Maglev),
    /// `CLUSTER_PROVIDED` of an ORIGINAL_DST cluster: hosts made from the connection's destination.
    OriginalDst(OriginalDst),
}

impl Policy {
    /// Whether requests may be kept in a locality: hashes alone say where theirs go, peak EWMA goes by time alone.
    pub fn is_zone_aware(&self) -> bool {
        matches!(self, Self::RoundRobin | Self::LeastRequest(_) | Self::Random)
    }
}

/// What one pick goes by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    pub hash: Option<u64>,
    /// Counts re-selections of one pick.
    pub attempt: u32,
    /// The clock's when unset.
    pub now: Option<Instant>,
    /// Requests under way at all hosts of the cluster, for policies of hashes.
    pub active: u64,
}

/// The hosts of one priority and health class, ready to be picked from.
#[derive(Default)]
pub struct Group {
    pools: Vec<Pool>,
    /// Order in which `pools` take turns; empty when there is one.
    order: edf::Order,
    cursor: AtomicUsize,
}

impl Group {
    /// `hosts` are those to pick from, `all` those of the priority (a locality's share shrinks with its health). `position` continues a rotation.
    pub fn build(
        hosts: Vec<Arc<Host>>,
        all: &[Arc<Host>],
        policy: &AssignmentPolicy,
        lb: &LbConfig,
        position: Option<usize>,
    ) -> Self {
        let by_locality =
            lb.locality_weighted && !planted(Bug::LocalityWeightsIgnored) && !policy.locality_weights.is_empty();
        if !by_locality || hosts.is_empty() {
            return Self::flat(hosts, lb, position);
        }
        let position = position.unwrap_or_else(start);
        let localities = edf::locality_shares(&hosts, all, policy, lb);
        if matches!(lb.policy, Policy::RingHash(_) | Policy::Maglev(_)) {
            // One table for all: hosts share their locality's weight by their own weights, whatever has failed beside them.
            let share = |host: &Host| -> f64 {
                let found = localities.iter().find(|share| share.locality == host.locality);
                found.map_or(0.0, |share| {
                    let sum: f64 = share.hosts.iter().map(|host| f64::from(host.weight)).sum();
                    f64::from(share.configured) / sum
                })
            };
            // Of a locality without a weight nobody is in it.
            let hosts = hosts.into_iter().filter(|host| share(host) > 0.0).collect();
            return Self {
                pools: vec![Pool::build(hosts, lb, position, share)],
                order: edf::Order::default(),
                cursor: AtomicUsize::new(position),
            };
        }
        let weights: Vec<f64> = localities.iter().map(|share| share.weight).collect();
        let order = edf::Order::new(&weights);
        if order.is_empty() {
            // No locality that is left has a weight: Envoy has no schedule of localities then, and all hosts take turns.
            return Self::flat(hosts, lb, Some(position));
        }
        Self {
            order,
            pools: localities
                .into_iter()
                .map(|share| Pool::build(share.hosts, lb, position, |_| 1.0))
                .collect(),
            cursor: AtomicUsize::new(position),
        }
    }

    /// All hosts under one policy, localities aside.
    pub fn flat(hosts: Vec<Arc<Host>>, lb: &LbConfig, position: Option<usize>) -> Self {
        let position = position.unwrap_or_else(start);
        Self {
            pools: vec![Pool::build(hosts, lb, position, |_| 1.0)],
            order: edf::Order::default(),
            cursor: AtomicUsize::new(position),
        }
    }

    /// A host for one request; `random` gives random words.
    pub fn pick(&self, turn: Turn, random: &mut dyn FnMut() -> u64) -> Option<&Arc<Host>> {
        let pool = match self.order.is_empty() {
            true => self.pools.first()?,
            false => self
                .pools
                .get(self.order.at(self.cursor.fetch_add(1, Ordering::Relaxed))?)?,
        };
        pool.pick(turn, random)
    }

    /// The host that [`Group::pick`] will come to after `ahead` others, where turns are taken; a random one where chance decides anyway.
    pub fn peek(&self, ahead: usize, random: &mut dyn FnMut() -> u64) -> Option<&Arc<Host>> {
        match self.order.is_empty() {
            true => self.pools.first()?.peek(ahead, random),
            false => {
                let turn = self.cursor.load(Ordering::Relaxed).wrapping_add(ahead);
                self.pools.get(self.order.at(turn)?)?.peek(0, random)
            }
        }
    }

    /// Where the rotation stands, for the group that replaces this one.
    pub fn position(&self) -> usize {
        match (self.order.is_empty(), self.pools.first()) {
            (true, Some(pool)) => pool.cursor.load(Ordering::Relaxed),
            _ => self.cursor.load(Ordering::Relaxed),
        }
    }

    /// See [`PrioritySet::hash_table`](super::priority::PrioritySet::hash_table).
    pub fn hash_table(&self) -> Option<(u64, u64, u64)> {
        let pool = self.pools.first()?;
        match &pool.method {
            Method::Hash(table) => Some(table.shape(pool.hosts.len())),
            _ => None,
        }
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.pools.iter().flat_map(|pool| pool.hosts.iter())
    }

    /// Those that turns come to: a locality without a weight may be passed over.
    pub fn reached(&self) -> impl Iterator<Item = &Arc<Host>> {
        let has_turns = |(index, _): &(usize, &Pool)| self.order.is_empty() || self.order.has(*index);
        let pools = self.pools.iter().enumerate().filter(has_turns);
        pools.flat_map(|(_, pool)| pool.hosts.iter())
    }

    pub fn is_empty(&self) -> bool {
        self.hosts().next().is_none()
    }
}

/// Where a new rotation begins.
fn start() -> usize {
    fastrand::usize(..) >> 1
}

/// Hosts under one policy.
struct Pool {
    hosts: Vec<Arc<Host>>,
    cursor: AtomicUsize,
    method: Method,
}

/// A policy with what it precomputed for these hosts.
enum Method {
    Rotate,
    /// Weighted: hosts in earliest-deadline-first order.
    Ordered(edf::Order),
    LeastRequest(LeastRequest),
    /// With the weights that the order was made of.
    LeastRequestOrdered(LeastRequest, edf::Order, Vec<f64>),
    Random,
    PeakEwma(PeakEwma),
    Hash(hash::Table),
}

impl Pool {
    /// `share` scales the weight of a host.
    fn build(hosts: Vec<Arc<Host>>, lb: &LbConfig, position: usize, share: impl Fn(&Host) -> f64) -> Self {
        let weight = |host: &Arc<Host>| {
            let slow = lb.slow_start.as_ref().map_or(1.0, |slow| slow.factor(&host.state));
            f64::from(host.weight) * slow * share(host)
        };
        let weights: Vec<f64> = hosts.iter().map(weight).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let method = match (&lb.policy, equal) {
            (Policy::RoundRobin, true) => Method::Rotate,
            (Policy::RoundRobin, false) => Method::Ordered(edf::Order::new(&weights)),
            (Policy::LeastRequest(config), true) => Method::LeastRequest(*config),
            (Policy::LeastRequest(config), false) => {
                Method::LeastRequestOrdered(*config, edf::Order::new(&weights), weights)
            }
            (Policy::Random, _) => Method::Random,
            (Policy::PeakEwma(config), _) => Method::PeakEwma(*config),
            (Policy::RingHash(config), _) => Method::Hash(hash::Table::ring(config, &hosts, &weights)),
            (Policy::Maglev(config), _) => Method::Hash(hash::Table::maglev(config, &hosts, &weights)),
            (Policy::OriginalDst(_), _) => Method::Random,
        };
        Self {
            hosts,
            cursor: AtomicUsize::new(position),
            method,
        }
    }

    fn pick(&self, turn: Turn, random: &mut dyn FnMut() -> u64) -> Option<&Arc<Host>> {
        let count = self.hosts.len();
        if count <= 1 {
            return self.hosts.first();
        }
        let index = match &self.method {
            Method::Rotate => self.cursor.fetch_add(1, Ordering::Relaxed) % count,
            Method::Ordered(order) => self.next_of(order),
            Method::LeastRequest(config) => config.pick(&self.hosts, random),
            Method::LeastRequestOrdered(config, order, weights) => {
                config.pick_weighted(&self.hosts, weights, || self.next_of(order), random)
            }
            Method::Random => (random() % count as u64) as usize,
            Method::PeakEwma(config) => config.pick(&self.hosts, turn.now.unwrap_or_else(clock::now), random),
            Method::Hash(table) => {
                let hash = turn.hash.unwrap_or_else(random);
                table.pick(hash, turn.attempt, &self.hosts, turn.active)?
            }
        };
        if planted(Bug::Starves) && index + 1 == count {
            return self.hosts.first();
        }
        self.hosts.get(index)
    }

    fn peek(&self, ahead: usize, random: &mut dyn FnMut() -> u64) -> Option<&Arc<Host>> {
        let turn = self.cursor.load(Ordering::Relaxed).wrapping_add(ahead);
        let index = match &self.method {
            Method::Rotate => turn % self.hosts.len().max(1),
            Method::Ordered(order) => order.at(turn)?,
            Method::Random => (random() % self.hosts.len().max(1) as u64) as usize,
            _ => return None,
        };
        self.hosts.get(index)
    }

    fn next_of(&self, order: &edf::Order) -> usize {
        order.at(self.cursor.fetch_add(1, Ordering::Relaxed)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
