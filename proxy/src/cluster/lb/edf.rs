//! Weighted orders: earliest deadline first, computed once per set of hosts.
//!
//! Envoy keeps a heap of deadlines per worker and changes it with each pick. Its sequence is periodic, so here one period is computed when
//! hosts change and picks walk it with a cursor: the same sequence, no lock. Where a period would be too long to keep, turns are computed
//! instead: another sequence with the same shares.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::LbConfig;
use crate::cluster::host::{Host, Locality};
use crate::cluster::priority::{AssignmentPolicy, is_excluded};

/// Longest period that is kept, at least (eight turns for each entry may be, too).
const MAX_PERIOD: u64 = 8192;

/// Steps that one unit of weight is cut into when weights are not whole.
const FRACTION: f64 = 1000.0;

/// Relative error that those steps may have; beyond, the heaviest weight is cut into [`FINE`] steps.
const ROUNDING: f64 = 0.001;

/// Small enough that a million of the heaviest add up within 64 bits, large enough for 1 beside a weight of 32 bits.
const FINE: f64 = (1u64 << 44) as f64;

/// The order in which entries take turns, each as often as its weight says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Order(Turns);

#[derive(Debug, PartialEq, Eq)]
enum Turns {
    /// One period of Envoy's sequence.
    Period(Vec<u32>),
    /// A turn is a point on a line that entries share by their weights. From one turn to the next the point moves by `stride`, which has no
    /// divisor in common with the line's length: in as many turns as the line is long each point comes once, whatever the weights. The stride
    /// is the golden section of the line, as even a spread as there is.
    Line {
        /// Where each entry's part ends; the last is the length.
        ends: Vec<u64>,
        stride: u64,
    },
}

impl Default for Turns {
    fn default() -> Self {
        Self::Period(Vec::new())
    }
}

impl Order {
    /// An entry of weight 0 has no turn; nobody has one if all are.
    pub fn new(weights: &[f64]) -> Self {
        let weights = whole(weights);
        let length: u64 = weights.iter().sum();
        if length <= MAX_PERIOD.max(8 * weights.len() as u64) {
            return Self(Turns::Period(period(&weights)));
        }
        let mut end = 0;
        let ends = weights.iter().map(|weight| {
            end += weight;
            end
        });
        Self(Turns::Line {
            ends: ends.collect(),
            stride: stride(length),
        })
    }

    /// Whether nobody has a turn.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Turns::Period(period) if period.is_empty())
    }

    /// Whether the entry has any turn.
    pub fn has(&self, entry: usize) -> bool {
        match &self.0 {
            Turns::Period(period) => period.iter().any(|index| *index as usize == entry),
            Turns::Line { ends, .. } => {
                let start = entry.checked_sub(1).and_then(|before| ends.get(before)).copied();
                ends.get(entry).is_some_and(|end| *end > start.unwrap_or(0))
            }
        }
    }

    /// Whose turn the `turn`-th is.
    pub fn at(&self, turn: usize) -> Option<usize> {
        match &self.0 {
            Turns::Period(period) => Some(*period.get(turn % period.len().max(1))? as usize),
            Turns::Line { ends, stride } => {
                let length = *ends.last()?;
                let turn = u128::from(turn as u64 % length);
                let point = (turn * u128::from(*stride) % u128::from(length)) as u64;
                Some(ends.partition_point(|end| *end <= point))
            }
        }
    }
}

/// The number closest to the golden section of `length` that has no divisor in common with it.
fn stride(length: u64) -> u64 {
    const GOLDEN: f64 = 0.618_033_988_749_894_9;
    let wanted = (length as f64 * GOLDEN) as u64;
    let has_none = |stride: &u64| gcd(*stride, length) == 1;
    // 1 is one, so that something is found.
    let below = (1..=wanted).rev().find(has_none).unwrap_or(1);
    let above = (wanted..length).find(has_none).unwrap_or(below);
    match above - wanted < wanted - below {
        true => above,
        false => below,
    }
}

/// One period of Envoy's sequence for whole weights.
fn period(weights: &[u64]) -> Vec<u32> {
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

/// The weights as whole numbers without a common divisor.
fn whole(weights: &[f64]) -> Vec<u64> {
    let heaviest = weights.iter().copied().fold(0.0, f64::max);
    let is_close =
        |weight: &f64| ((weight * FRACTION).round() - weight * FRACTION).abs() <= ROUNDING * weight * FRACTION;
    // What is not positive has no turn.
    let scale = match weights.iter().all(|weight| weight.fract() == 0.0) {
        true => 1.0,
        false if weights.iter().all(is_close) => FRACTION,
        false => FINE / heaviest,
    };
    let mut whole: Vec<u64> = weights.iter().map(|weight| (weight * scale).round() as u64).collect();
    reduce(&mut whole);
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

    fn order(weights: &[f64]) -> Vec<u32> {
        match Order::new(weights).0 {
            Turns::Period(period) => period,
            Turns::Line { .. } => panic!("too long for a sequence"),
        }
    }

    /// How many of the `turns` from `first` on each entry has.
    fn turns(order: &Order, entries: usize, first: usize, turns: usize) -> Vec<usize> {
        let mut counts = vec![0; entries];
        for turn in first..first + turns {
            counts[order.at(turn).expect("a turn")] += 1;
        }
        counts
    }

    #[test]
    fn turns_come_in_envoys_order() {
        // Traced by hand through Envoy's EdfScheduler: deadlines 1/w apart, ties by insertion.
        assert_eq!(order(&[1.0, 2.0]), [1, 0, 1]);
        assert_eq!(order(&[3.0, 1.0]), [0, 0, 1, 0]);
        assert_eq!(order(&[5.0, 5.0]), [0, 1]);
        assert_eq!(order(&[1.0, 0.0, 3.0]), [2, 2, 0, 2]);
        assert_eq!(order(&[0.0, 0.0]), [0u32; 0]);
        assert!(Order::new(&[0.0]).is_empty() && Order::default().at(3).is_none());
    }

    #[test]
    fn a_light_entry_is_not_rounded_up() {
        let order = Order::new(&[1.0, 100_000.0]);
        for first in [0, 7, 12_345_678] {
            assert_eq!(turns(&order, 2, first, 100_001), [1, 100_000]);
        }
        // A thousand light ones share 1000 of 1,001,000 turns.
        let mut weights = vec![1.0; 1000];
        weights.push(1_000_000.0);
        let counts = turns(&Order::new(&weights), 1001, 3, 1_001_000);
        assert!(counts[..1000].iter().all(|count| *count == 1), "{counts:?}");
        // The least beside the greatest, and what slow start makes of them.
        for (light, heavy) in [(1.0, f64::from(u32::MAX)), (0.1, f64::from(u32::MAX)), (0.001_23, 1.0)] {
            let Turns::Line { ends, .. } = Order::new(&[light, heavy]).0 else {
                panic!("a period of {light} and {heavy} is kept");
            };
            let share = ends[0] as f64 / ends[1] as f64;
            let exact = light / (light + heavy);
            assert!((share / exact - 1.0).abs() < 0.01, "{share} for {exact}");
        }
    }

    #[test]
    fn long_orders_are_spread_evenly() {
        // A fifth, and shares without a common divisor: no hundred turns are far from it.
        let order = Order::new(&[20_011.0, 30_011.0, 50_021.0]);
        for first in (0..100_000).step_by(997) {
            let counts = turns(&order, 3, first, 100);
            for (count, share) in counts.iter().zip([20, 30, 50]) {
                assert!(count.abs_diff(share) <= 3, "{counts:?} from {first}");
            }
        }
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
        fn memory_is_bounded_and_shares_are_exact(weights in proptest::collection::vec(1u32..60_000, 2..9)) {
            let floats: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let order = Order::new(&floats);
            let kept = match &order.0 {
                Turns::Period(period) => period.len() as u64,
                Turns::Line { ends, .. } => ends.len() as u64,
            };
            proptest::prop_assert!(kept <= MAX_PERIOD);
            let sum: usize = weights.iter().map(|weight| *weight as usize).sum();
            for (count, weight) in turns(&order, weights.len(), 11, sum).into_iter().zip(&weights) {
                proptest::prop_assert_eq!(count, *weight as usize);
            }
        }
    }
}
