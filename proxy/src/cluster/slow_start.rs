//! Slow start: a host that has just come (back) takes its share of the load step by step.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::host::HostState;

/// `SlowStartConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1 is linear; more starts faster.
    pub aggression: f64,
    /// Fraction of its weight that a host has at least; Envoy's default is 0.1.
    pub min_weight: f64,
}

/// When a host came into its cluster or became healthy again, and how much of its weight it has by now.
#[derive(Default)]
pub struct Ramp(Mutex<Option<(Instant, f64)>>);

impl SlowStart {
    /// How often weights are computed anew while somebody starts.
    pub fn step(&self) -> Duration {
        (self.window / 20).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// Starts the ramp of `host`.
    pub fn begin(&self, host: &HostState, now: Instant) {
        *host.ramp.0.lock() = Some((now, self.min_weight));
    }

    /// The part of its weight that `host` has: as of the last [`SlowStart::advance`].
    pub fn factor(&self, host: &HostState) -> f64 {
        host.ramp.0.lock().map_or(1.0, |(_, factor)| factor)
    }

    /// Moves the ramp of `host` to `now`; true while it is still starting, or has just ended.
    pub fn advance(&self, host: &HostState, now: Instant) -> bool {
        let mut ramp = host.ramp.0.lock();
        let Some((since, _)) = *ramp else {
            return false;
        };
        let elapsed = now.saturating_duration_since(since);
        *ramp = match elapsed >= self.window {
            true => None,
            false => Some((since, self.at(elapsed))),
        };
        true
    }

    /// Envoy's `applySlowStartFactor`.
    fn at(&self, elapsed: Duration) -> f64 {
        let time = elapsed.as_secs_f64().max(0.001) / self.window.as_secs_f64();
        time.powf(1.0 / self.aggression).max(self.min_weight).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_grows_over_the_window() {
        let slow = SlowStart {
            window: Duration::from_secs(60),
            aggression: 1.0,
            min_weight: 0.1,
        };
        let (host, start) = (HostState::new(), crate::runtime::clock::now());
        assert_eq!(slow.factor(&host), 1.0);
        slow.begin(&host, start);
        assert_eq!(slow.factor(&host), 0.1);
        // Weight 10, 15 s into 60 s: Envoy's documentation says 2.5.
        assert!(slow.advance(&host, start + Duration::from_secs(15)));
        assert_eq!(slow.factor(&host), 0.25);
        // The first second counts as any other.
        let steep = SlowStart {
            window: Duration::from_secs(5),
            min_weight: 0.01,
            ..slow.clone()
        };
        assert_eq!(steep.at(Duration::from_millis(500)), 0.1);
        assert_eq!(steep.at(Duration::ZERO), 0.01);
        assert!(slow.advance(&host, start + Duration::from_secs(60)));
        assert_eq!(slow.factor(&host), 1.0);
        assert!(!slow.advance(&host, start + Duration::from_secs(61)));
    }
}
