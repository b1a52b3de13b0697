//! Log-linear histograms as Envoy's (circllhist): every bin keeps two significant decimal digits.
//!
//! In: whole numbers (milliseconds, bytes, counts). Out: quantiles and cumulative buckets, computed at scrape time. An unused histogram is an
//! empty pointer; a used one holds only the decades of values that it has seen, 720 bytes each.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// Bins of one decade: 1.0, 1.1, … 9.9 times its power of ten.
const BINS: usize = 90;
/// Powers of ten that a `u64` has.
const DECADES: usize = 20;

/// The quantiles that Envoy prints, in percent.
pub const QUANTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Envoy's default upper bounds (`histogram_bucket_settings` unset).
pub const DEFAULT_BUCKETS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0, 300000.0,
    600000.0, 1800000.0, 3600000.0,
];

/// A histogram; recording is wait-free once a decade exists.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Decades>>);

#[derive(Debug, Default)]
struct Decades {
    zero: AtomicU64,
    by_power: [OnceLock<Box<[AtomicU64; BINS]>>; DECADES],
    flushed: Mutex<Flushed>,
}

/// What the last two flushes found.
#[derive(Debug, Default)]
struct Flushed {
    /// All until then.
    total: Summary,
    /// What had come since the flush before.
    interval: Summary,
}

/// One non-empty bin: its bounds and how many values fell into it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    pub lower: f64,
    pub width: f64,
    pub count: u64,
}

impl Histogram {
    pub fn record(&self, value: u64) {
        let decades = self.0.get_or_init(Box::default);
        if value == 0 {
            decades.zero.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let power = value.ilog10() as usize;
        let digits = if power == 0 {
            value * 10
        } else {
            value / 10u64.pow(power as u32 - 1)
        };
        let bins = decades.by_power[power].get_or_init(|| Box::new([const { AtomicU64::new(0) }; BINS]));
        bins[digits as usize - 10].fetch_add(1, Ordering::Relaxed);
    }

    pub fn is_used(&self) -> bool {
        self.0.get().is_some()
    }

    /// Forgets every value (`/reset_counters`).
    pub fn reset(&self) {
        let Some(decades) = self.0.get() else { return };
        decades.zero.store(0, Ordering::Relaxed);
        for bin in decades
            .by_power
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|bins| bins.iter())
        {
            bin.store(0, Ordering::Relaxed);
        }
        *decades.flushed.lock() = Flushed::default();
    }

    /// Ends an interval: what came since the last one is what [`recorded`](Self::recorded) tells of as the interval from now on.
    pub fn flush(&self) {
        let Some(decades) = self.0.get() else { return };
        let total = self.summary();
        let mut flushed = decades.flushed.lock();
        flushed.interval = total.since(&flushed.total);
        flushed.total = total;
    }

    /// What was recorded so far, and in the last interval.
    pub fn recorded(&self) -> Recorded {
        Recorded {
            total: self.summary(),
            interval: self
                .0
                .get()
                .map(|decades| decades.flushed.lock().interval.clone())
                .unwrap_or_default(),
            bounds: None,
        }
    }

    /// What was recorded so far.
    pub fn summary(&self) -> Summary {
        let mut bins = Vec::new();
        let mut push = |lower, width, count: &AtomicU64| {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                bins.push(Bin { lower, width, count });
            }
        };
        if let Some(decades) = self.0.get() {
            push(0.0, 0.0, &decades.zero);
            for (power, own) in decades.by_power.iter().enumerate() {
                let tenth = 10f64.powi(power as i32 - 1);
                for (index, count) in own.get().iter().flat_map(|bins| bins.iter()).enumerate() {
                    // Divide for powers below ten: 11 * 0.1 is not 1.1.
                    let digits = (index + 10) as f64;
                    push(if power == 0 { digits / 10.0 } else { digits * tenth }, tenth, count);
                }
            }
        }
        Summary { bins }
    }
}

/// A histogram as a page shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    pub total: Summary,
    /// Of the last whole flush interval.
    pub interval: Summary,
    /// Upper bounds of its buckets, where they are not Envoy's default.
    pub bounds: Option<Arc<[f64]>>,
}

impl Recorded {
    pub fn bounds(&self) -> &[f64] {
        self.bounds.as_deref().unwrap_or(&DEFAULT_BUCKETS)
    }
}

/// The bins of a histogram at one moment, by lower bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    pub bins: Vec<Bin>,
}

impl Summary {
    pub fn count(&self) -> u64 {
        self.bins.iter().map(|bin| bin.count).sum()
    }

    /// An approximation, as Envoy's: each value counts as its bin's midpoint (harmonic, as circllhist's).
    pub fn sum(&self) -> f64 {
        let midpoint = |bin: &Bin| {
            let upper = bin.lower + bin.width;
            if upper == 0.0 {
                0.0
            } else {
                2.0 * bin.lower * upper / (bin.lower + upper)
            }
        };
        // From zero: an empty float sum is -0.
        self.bins
            .iter()
            .fold(0.0, |sum, bin| sum + midpoint(bin) * bin.count as f64)
    }

    /// What has been added to `earlier`, an earlier moment of the same histogram.
    fn since(&self, earlier: &Self) -> Self {
        let before = |bin: &Bin| {
            let found = earlier.bins.iter().find(|other| other.lower == bin.lower);
            found.map_or(0, |other| other.count)
        };
        let added = |bin: &Bin| Bin {
            count: bin.count.saturating_sub(before(bin)),
            ..*bin
        };
        Self {
            bins: self.bins.iter().map(added).filter(|bin| bin.count > 0).collect(),
        }
    }

    /// Values in bins that begin at or below `bound`.
    pub fn count_up_to(&self, bound: f64) -> u64 {
        self.bins
            .iter()
            .take_while(|bin| bin.lower <= bound)
            .map(|bin| bin.count)
            .sum()
    }

    /// The value at `percent` (0 to 100): the sample of that rank, samples standing evenly inside their bin. `None` without samples.
    pub fn quantile(&self, percent: f64) -> Option<f64> {
        let total = self.count();
        let rank = ((total as f64 * percent / 100.0).ceil() as u64).clamp(1, total.max(1));
        let mut before = 0;
        for bin in &self.bins {
            if before + bin.count >= rank {
                let within = (rank - before) as f64 / (bin.count + 1) as f64;
                return Some(bin.lower + bin.width * within);
            }
            before += bin.count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(values: &[u64]) -> Summary {
        let histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram.summary()
    }

    fn quantiles(values: &[u64]) -> Vec<f64> {
        let summary = recorded(values);
        QUANTILES
            .iter()
            .filter_map(|percent| summary.quantile(*percent))
            .collect()
    }

    #[test]
    fn quantiles_are_those_that_envoy_prints() {
        assert_eq!(quantiles(&[0, 1, 2])[..5], [0.0, 0.0, 1.05, 2.05, 2.05]);
        assert_eq!(quantiles(&[14]), [14.5; 10]);
        let ones = quantiles(&[1, 1, 1]);
        assert!(
            (ones[0] - 1.025).abs() < 1e-9 && (ones[2] - 1.05).abs() < 1e-9 && (ones[9] - 1.075).abs() < 1e-9,
            "{ones:?}"
        );
        assert!(quantiles(&[]).is_empty());
    }

    #[test]
    fn the_sum_is_that_of_the_midpoints() {
        assert!((recorded(&[14]).sum() - 14.482_758_620_689_655).abs() < 1e-12);
        assert_eq!(recorded(&[0, 0]).sum(), 0.0);
        assert!(recorded(&[]).sum().is_sign_positive());
    }

    #[test]
    fn a_bucket_holds_what_begins_at_or_below_its_bound() {
        let summary = recorded(&[0, 1, 5, 6, 3_600_000, u64::MAX]);
        assert_eq!(
            DEFAULT_BUCKETS.map(|bound| summary.count_up_to(bound))[..4],
            [1, 2, 3, 4]
        );
        assert_eq!(summary.count_up_to(3_600_000.0), 5);
        assert_eq!(summary.count(), 6);
    }

    proptest::proptest! {
        #[test]
        fn every_value_lies_in_its_bin(value in proptest::prelude::any::<u64>()) {
            let summary = recorded(&[value]);
            let bin = summary.bins[0];
            proptest::prop_assert!(bin.lower <= value as f64);
            proptest::prop_assert!(value == 0 || (value as f64) < (bin.lower + bin.width) * 1.000_000_1);
            proptest::prop_assert!(bin.width <= bin.lower / 10.0 + 1e-9 * bin.lower);
        }
    }

    #[test]
    fn an_interval_is_what_came_between_two_flushes() {
        let histogram = Histogram::default();
        histogram.flush();
        histogram.record(3);
        assert_eq!(histogram.recorded().interval, Summary::default());
        histogram.flush();
        assert_eq!(histogram.recorded().interval, recorded(&[3]));
        [3, 70].into_iter().for_each(|value| histogram.record(value));
        histogram.flush();
        let both = histogram.recorded();
        assert_eq!((both.interval, both.total), (recorded(&[3, 70]), recorded(&[3, 3, 70])));
        histogram.flush();
        assert_eq!(histogram.recorded().interval.count(), 0);
        histogram.record(5);
        histogram.reset();
        histogram.flush();
        assert_eq!(histogram.recorded(), Recorded::default());
    }

    #[test]
    fn an_unused_histogram_is_a_pointer_and_a_flag() {
        assert!(size_of::<Histogram>() <= 16);
        let histogram = Histogram::default();
        assert!(!histogram.is_used());
        histogram.record(3);
        histogram.reset();
        assert_eq!(histogram.summary().count(), 0);
    }
}
