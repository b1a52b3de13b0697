//! A token bucket in one atomic number: the moment at which it would have been empty.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Fills steadily, `per_fill` tokens in each interval, up to `max`.
pub(super) struct Bucket {
    start: Instant,
    /// Nanoseconds since `start` minus a full bucket's time: how far the tokens taken so far reach.
    spent: AtomicU64,
    full: u64,
    max: u64,
}

impl Bucket {
    pub fn new(max: u32, per_fill: u32, interval: Duration, now: Instant) -> Self {
        let full = interval.as_nanos() * u128::from(max) / u128::from(per_fill.max(1));
        Self {
            start: now,
            spent: AtomicU64::new(0),
            full: u64::try_from(full).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4),
            max: u64::from(max),
        }
    }

    /// Takes a token if there is one. Waits for nobody.
    pub fn take(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.start).as_nanos();
        // The clock starts with a full bucket behind it.
        let now = self.full.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX / 4));
        let taken = self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spent| {
            let empty_since = spent.max(now - self.full);
            let next = empty_since + self.full / self.max;
            (next <= now).then_some(next)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_starts_full_fills_steadily_and_never_overflows() {
        let start = crate::runtime::clock::now();
        let bucket = Bucket::new(2, 1, Duration::from_secs(1), start);
        let at = |millis| start + Duration::from_millis(millis);
        let taken = [0, 0, 0, 999, 1000, 1001, 100_000, 100_000, 100_000].map(|millis| bucket.take(at(millis)));
        assert_eq!(taken, [true, true, false, false, true, false, true, true, false]);
    }
}
