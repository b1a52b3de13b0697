//! How often a peer may reset its streams (`stream_reset_burst`, `stream_reset_rate`): CVE-2023-44487.

use std::time::Instant;

use super::options::H2Options;

/// A token bucket over the peer's RST_STREAMs.
pub(super) struct ResetBucket {
    /// In thousandths of a reset.
    tokens: u64,
    burst: u64,
    rate: u64,
    filled_at: Instant,
}

impl ResetBucket {
    pub(super) fn new(options: &H2Options, now: Instant) -> Self {
        let burst = u64::from(options.stream_reset_burst) * 1000;
        Self {
            tokens: burst,
            burst,
            rate: u64::from(options.stream_reset_rate),
            filled_at: now,
        }
    }

    /// Whether one more is within the limit.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let millis = u64::try_from(now.saturating_duration_since(self.filled_at).as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            self.tokens = self
                .tokens
                .saturating_add(millis.saturating_mul(self.rate))
                .min(self.burst);
            self.filled_at = now;
        }
        let enough = self.tokens >= 1000;
        self.tokens = self.tokens.saturating_sub(1000);
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reset_bucket_refills_at_its_rate() {
        let start = clock_free_instant();
        let options = H2Options {
            stream_reset_burst: 3,
            stream_reset_rate: 2,
            ..H2Options::default()
        };
        let mut bucket = ResetBucket::new(&options, start);
        let taken: Vec<bool> = (0..4).map(|_| bucket.take(start)).collect();
        assert_eq!(taken, [true, true, true, false]);
        let later = start + Duration::from_millis(500);
        assert!(bucket.take(later) && !bucket.take(later));
    }

    #[allow(clippy::disallowed_methods)]
    fn clock_free_instant() -> Instant {
        Instant::now()
    }
}
