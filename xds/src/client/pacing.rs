//! When to try again, and how often to speak: back-off and the request token bucket.

use std::time::{Duration, Instant};

/// Fully jittered exponential back-off (Envoy: uniform in `[0, next)`, `next` from 500 ms, doubled, at most 30 s).
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }
}

impl Backoff {
    /// `base` and `max` are `retry_back_off.base_interval` and `max_interval` of a `GrpcService`.
    pub fn new(base: Duration, max: Duration) -> Self {
        let base = base.max(Duration::from_millis(1));
        Self {
            base,
            max: max.max(base),
            next: base,
        }
    }

    /// How long to wait before the next attempt.
    pub fn delay(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let ceiling = self.next;
        self.next = (self.next * 2).min(self.max);
        ceiling.mul_f64(rng.f64())
    }

    /// The peer has answered: start again from `base`.
    pub fn reset(&mut self) {
        self.next = self.base;
    }
}

/// `ApiConfigSource.rate_limit_settings`: one token for each message, ACKs included. Envoy's defaults are 100 and 10 a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    pub max_tokens: u32,
    /// Tokens a second.
    pub fill_rate: f64,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self {
            max_tokens: 100,
            fill_rate: 10.0,
        }
    }
}

/// The bucket of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let limit = RateLimit {
            max_tokens: limit.max_tokens.max(1),
            fill_rate: limit.fill_rate.max(0.01),
        };
        Self {
            limit,
            tokens: f64::from(limit.max_tokens),
            filled: None,
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    /// The time when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let elapsed = self
            .filled
            .map_or(Duration::ZERO, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        let filled = self.tokens + elapsed.as_secs_f64() * self.limit.fill_rate;
        self.tokens = filled.min(f64::from(self.limit.max_tokens));
        // A nanosecond of rounding must not cost another round.
        if self.tokens > 1.0 - 1e-6 {
            self.tokens = (self.tokens - 1.0).max(0.0);
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.tokens) / self.limit.fill_rate))
    }
}
