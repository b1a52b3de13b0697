//! Weighted orders: earliest deadline first, computed once per set of hosts.
//!
//! Envoy keeps a heap of deadlines per worker and changes it with each pick. Its sequence is periodic, so here one period is computed when
//! hosts change and picks walk it with a cursor: the same sequence, no lock.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::LbConfig;
use crate::cluster::host::{Host, Locality};
use crate::cluster::priority::{AssignmentPolicy, is_excluded};

/// Longest period kept as it is. A longer one (weights without a common divisor) is rounded to about this length, which moves no host's share by
/// more than one turn in it.
const MAX_PERIOD: u64 = 8192;

/// Steps that one unit of weight is cut into when weights are not whole.
const FRACTION: f64 = 1000.0;

/// One period of the order in which entries of these weights take turns. An entry of weight 0 has none; empty if all are.
pub fn order(weights: &[f64]) -> Vec<u32> {
    let weights = whole(weights);
    let period: u64 = weights.iter().sum();
    let mut sequence = Vec::with_capacity(period as usize);
    let mut heap: BinaryHeap<Entry> = BinaryHeap::with_capacity(weights.len());
    let mut added = 0;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0 {
            heap.push(Entry::new(index as u32, *weight, 1, added));
            added += 1;
        }
    }
    for _ in 0..period {
        let Some(entry) = heap.pop() else {
            break;
        };
        sequence.push(entry.index);
        heap.push(Entry::new(entry.index, entry.weight, entry.turn + 1, added));
        added += 1;
    }
    sequence
}

/// The weights as whole numbers without a common divisor, with a bounded sum.
fn whole(weights: &[f64]) -> Vec<u64> {
    let scale = match weights.iter().all(|weight| weight.fract() == 0.0) {
        true => 1.0,
        false => FRACTION,
    };
    let positive = |weight: &f64| match *weight > 0.0 {
        true => ((weight * scale).round() as u64).max(1),
        false => 0,
    };
    let mut whole: Vec<u64> = weights.iter().map(positive).collect();
    reduce(&mut whole);
    let sum: u64 = whole.iter().fold(0, |sum, weight| sum.saturating_add(*weight));
    let longest = MAX_PERIOD.max(8 * whole.len() as u64);
    if sum > longest {
        let ratio = longest as f64 / sum as f64;
        for weight in whole.iter_mut().filter(|weight| **weight > 0) {
            *weight = ((*weight as f64 * ratio).round() as u64).max(1);
        }
        reduce(&mut whole);
    }
    whole
}

fn reduce(weights: &mut [u64]) {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    for weight in weights {
        *weight /= divisor;
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}

/// The `turn`-th turn of an entry is due at `turn / weight`; equal deadlines go in order of insertion.
struct Entry {
    index: u32,
    weight: u64,
    turn: u64,
    added: u64,
}

impl Entry {
    fn new(index: u32, weight: u64, turn: u64, added: u64) -> Self {
        Self {
            index,
            weight,
            turn,
            added,
        }
    }
}

impl Ord for Entry {
    /// The earliest is the greatest: `BinaryHeap` pops the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u128::from(self.turn) * u128::from(other.weight);
        let theirs = u128::from(other.turn) * u128::from(self.weight);
        theirs.cmp(&mine).then(other.added.cmp(&self.added))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// A locality of a group, and its share of the load.
pub struct LocalityShare {
    pub locality: Arc<Locality>,
    pub hosts: Vec<Arc<Host>>,
    /// `load_balancing_weight`
    pub configured: u32,
    /// Envoy's `effectiveLocalityWeight`: the configured weight, less what overprovisioning cannot cover of its failed hosts.
    pub weight: f64,
}

/// The localities of `hosts` (those that may be used) among `all` (those of the priority that count). A locality without a weight gets no load.
pub fn locality_shares(
    hosts: &[Arc<Host>],
    all: &[Arc<Host>],
    policy: &AssignmentPolicy,
    lb: &LbConfig,
) -> Vec<LocalityShare> {
    let mut shares: Vec<LocalityShare> = Vec::new();
    for host in hosts {
        match shares.iter_mut().find(|share| share.locality == host.locality) {
            Some(share) => share.hosts.push(host.clone()),
            None => shares.push(LocalityShare {
                locality: host.locality.clone(),
                hosts: vec![host.clone()],
                configured: 0,
                weight: 0.0,
            }),
        }
    }
    for share in &mut shares {
        let priority = share.hosts.first().map_or(0, |host| host.priority);
        let key = (priority, share.locality.clone());
        let configured = policy.locality_weights.get(&key).copied().unwrap_or(0);
        let counts = |host: &&Arc<Host>| host.locality == share.locality && !is_excluded(host, lb);
        let total = all.iter().filter(counts).count().max(1);
        let factor = f64::from(policy.overprovisioning_factor) / 100.0;
        let available = (factor * share.hosts.len() as f64 / total as f64).min(1.0);
        share.configured = configured;
        share.weight = f64::from(configured) * available;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_envoys_order() {
        // Traced by hand through Envoy's EdfScheduler: deadlines 1/w apart, ties by insertion.
        assert_eq!(order(&[1.0, 2.0]), [1, 0, 1]);
        assert_eq!(order(&[3.0, 1.0]), [0, 0, 1, 0]);
        assert_eq!(order(&[5.0, 5.0]), [0, 1]);
        assert_eq!(order(&[1.0, 0.0, 3.0]), [2, 2, 0, 2]);
        assert_eq!(order(&[0.0, 0.0]), [0u32; 0]);
    }

    proptest::proptest! {
        #[test]
        fn each_gets_its_share_spread_evenly(weights in proptest::collection::vec(1u32..40, 2..9)) {
            let floats: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let sequence = order(&floats);
            let reduced = whole(&floats);
            for (index, weight) in reduced.iter().enumerate() {
                let turns: Vec<usize> = sequence.iter().enumerate().filter(|(_, i)| **i as usize == index).map(|(at, _)| at).collect();
                proptest::prop_assert_eq!(turns.len() as u64, *weight);
            }
        }

        #[test]
        fn a_period_is_bounded_and_nobody_starves(weights in proptest::collection::vec(1u32..u32::MAX, 2..9)) {
            let floats: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let sequence = order(&floats);
            proptest::prop_assert!(sequence.len() as u64 <= MAX_PERIOD + weights.len() as u64);
            for index in 0..weights.len() {
                proptest::prop_assert!(sequence.contains(&(index as u32)));
            }
        }
    }
}
