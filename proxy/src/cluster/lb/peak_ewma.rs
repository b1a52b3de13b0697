//! Peak EWMA: of two hosts the one where a request is likely to be answered sooner.
//!
//! A host's cost is its round trip time, as a moving average that jumps to each peak and forgets it exponentially, times its requests. The
//! configuration and the cost are those of Envoy's contrib policy, the average is Finagle's, which gave the policy its name: contrib's own
//! never leaves a value while samples are young, and drops every answer within a millisecond.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::cluster::host::Host;
use crate::runtime::clock;

/// `PeakEwma`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakEwma {
    /// How long it takes until an observation counts for 1/e.
    pub decay: Duration,
    /// What a host without an observation is held for.
    pub default_rtt: Duration,
    /// The cost of a host that has requests and has answered none yet.
    pub penalty: f64,
}

/// Observations carry their time as distance from here: they outlive configurations.
static EPOCH: LazyLock<Instant> = LazyLock::new(clock::now);

/// The average of one host. Two words that need not agree: a reader between the two writes errs by one observation's age.
#[derive(Default)]
pub struct Average {
    /// Milliseconds, the bits of an `f64`; 0 when nothing was observed.
    value: AtomicU64,
    /// Nanoseconds after [`EPOCH`].
    at: AtomicU64,
}

impl PeakEwma {
    /// The host answered after `rtt`.
    pub fn observe(&self, average: &Average, rtt: Duration, now: Instant) {
        let sample = (rtt.as_secs_f64() * 1e3).max(f64::MIN_POSITIVE);
        let before = f64::from_bits(average.value.load(Ordering::Relaxed));
        let weight = self.weight(average, now);
        let value = match before > 0.0 && sample < before {
            true => before * weight + sample * (1.0 - weight),
            // The first, or a peak.
            false => sample,
        };
        average.value.store(value.to_bits(), Ordering::Relaxed);
        average.at.store(nanos(now), Ordering::Relaxed);
    }

    /// Two different hosts, and of them the cheaper.
    pub fn pick(&self, hosts: &[Arc<Host>], now: Instant, random: &mut dyn FnMut() -> u64) -> usize {
        let count = hosts.len();
        let draw = random();
        let first = (draw % count as u64) as usize;
        let mut second = ((draw >> 16) % count as u64) as usize;
        if second == first {
            second = (second + 1) % count;
        }
        let (mine, theirs) = (self.cost(&hosts[first], now), self.cost(&hosts[second], now));
        let takes_first = match mine == theirs {
            // A bit that had no part in the draws above.
            true => draw >> 63 != 0,
            false => mine < theirs,
        };
        if takes_first { first } else { second }
    }

    /// What a request to the host costs now.
    pub fn cost(&self, host: &Host, now: Instant) -> f64 {
        let active = f64::from(host.state.rq_active.load(Ordering::Relaxed));
        match self.rtt(&host.state.rtt, now) {
            Some(rtt) => rtt * (active + 1.0),
            None if active > 0.0 => self.penalty + active,
            None => self.default_rtt.as_secs_f64() * 1e3,
        }
    }

    /// The average in milliseconds, less what has been forgotten since: a slow host that nobody asks any more gets another chance.
    pub fn rtt(&self, average: &Average, now: Instant) -> Option<f64> {
        let value = f64::from_bits(average.value.load(Ordering::Relaxed));
        (value > 0.0).then(|| value * self.weight(average, now))
    }

    /// What is left of an observation by `now`.
    fn weight(&self, average: &Average, now: Instant) -> f64 {
        let age = nanos(now).saturating_sub(average.at.load(Ordering::Relaxed));
        (-(age as f64) / self.decay.as_nanos() as f64).exp()
    }
}

fn nanos(now: Instant) -> u64 {
    now.saturating_duration_since(*EPOCH).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::io::Address;

    fn policy() -> PeakEwma {
        PeakEwma {
            decay: Duration::from_secs(10),
            default_rtt: Duration::from_millis(10),
            penalty: 1e6,
        }
    }

    fn host(active: u32) -> Arc<Host> {
        let host = Host::new(Address::Ip(([10, 0, 0, 1], 80).into()));
        host.state.rq_active.store(active, Ordering::Relaxed);
        Arc::new(host)
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn peaks_count_at_once_and_are_forgotten_slowly() {
        let (policy, average) = (policy(), Average::default());
        let start = *EPOCH;
        assert_eq!(policy.rtt(&average, start), None);
        policy.observe(&average, MS(20), start);
        assert_eq!(policy.rtt(&average, start), Some(20.0));
        policy.observe(&average, MS(100), start);
        assert_eq!(policy.rtt(&average, start), Some(100.0));
        // One decay time later: 1/e of the peak, the rest is the new sample.
        let later = start + policy.decay;
        policy.observe(&average, MS(10), later);
        let kept = (-1.0f64).exp();
        let got = policy.rtt(&average, later).expect("observed");
        assert!((got - (100.0 * kept + 10.0 * (1.0 - kept))).abs() < 1e-9, "{got}");
        // Nobody asks: it fades.
        let faded = policy.rtt(&average, later + policy.decay).expect("observed");
        assert!((faded - got * kept).abs() < 1e-9, "{faded}");
    }

    #[test]
    fn costs_are_envoys() {
        let policy = policy();
        let now = *EPOCH;
        assert_eq!(policy.cost(&host(0), now), 10.0);
        assert_eq!(policy.cost(&host(3), now), 1_000_003.0);
        let busy = host(3);
        policy.observe(&busy.state.rtt, MS(5), now);
        assert_eq!(policy.cost(&busy, now), 20.0);
    }

    #[test]
    fn the_faster_of_two_is_taken_and_ties_are_drawn() {
        let policy = policy();
        let hosts = [host(0), host(0), host(0)];
        policy.observe(&hosts[0].state.rtt, MS(50), *EPOCH);
        policy.observe(&hosts[1].state.rtt, MS(2), *EPOCH);
        let pick = |first: u64, second: u64, low: u64| {
            // The low bits choose the first host, those from 16 on the second; bit 0 breaks ties.
            let fits = |draw: &u64| draw % 3 == first && (draw >> 16) % 3 == second && draw >> 63 == low;
            let draw = (0..3 << 16)
                .map(|draw: u64| draw | low << 63)
                .find(fits)
                .expect("a draw");
            policy.pick(&hosts, *EPOCH, &mut || draw)
        };
        assert_eq!((pick(0, 1, 0), pick(1, 0, 1)), (1, 1));
        assert_eq!((pick(0, 2, 0), pick(2, 1, 0)), (2, 1));
        let equal = [host(0), host(0)];
        let mut rng = fastrand::Rng::with_seed(3);
        let mut seen = [0; 2];
        for _ in 0..1000 {
            seen[policy.pick(&equal, *EPOCH, &mut || rng.u64(..))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 400), "{seen:?}");
    }
}
