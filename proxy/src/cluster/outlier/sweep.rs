//! What happens at each interval: ejections end, the interval's statistics are judged, counters start over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::events::Evidence;
use super::{Detector, EjectionType, HostOutlier, Monitor};
use crate::cluster::bugs::{Bug, planted};
use crate::cluster::host::{HealthFlag, Host};

/// One of the two kinds of outcome.
struct Judge {
    monitor: fn(&HostOutlier) -> &Monitor,
    success_rate: EjectionType,
    failure_percentage: EjectionType,
}

const EXTERNAL: Judge = Judge {
    monitor: |outlier| &outlier.external,
    success_rate: EjectionType::SuccessRate,
    failure_percentage: EjectionType::FailurePercentage,
};

const LOCAL: Judge = Judge {
    monitor: |outlier| &outlier.local,
    success_rate: EjectionType::SuccessRateLocalOrigin,
    failure_percentage: EjectionType::FailurePercentageLocalOrigin,
};

/// A host's finished interval.
struct Sample<'a> {
    host: &'a Host,
    success: u32,
    total: u32,
}

impl Sample<'_> {
    fn rate(&self) -> f64 {
        100.0 * f64::from(self.success) / f64::from(self.total)
    }
}

impl Detector {
    /// Runs the sweep if its time has come. True if the cluster's hosts must be sorted anew.
    pub fn tick(&self, hosts: &[Arc<Host>], now: Instant, random: &mut dyn FnMut() -> u64) -> bool {
        {
            let mut state = self.state.lock();
            if state.next_sweep.is_none_or(|due| due > now) {
                return false;
            }
            state.next_sweep = Some(now + self.config.interval);
        }
        let mut changed = false;
        for host in hosts {
            changed |= self.age(host, now) | self.age_degradation(host, now);
        }
        changed |= self.judge(&EXTERNAL, hosts, now, random);
        if self.config.split_external_local_origin_errors {
            changed |= self.judge(&LOCAL, hosts, now, random);
        }
        changed
    }

    /// Ends an ejection whose time is over; an interval without one takes one from the multiplier.
    fn age(&self, host: &Host, now: Instant) -> bool {
        let until = {
            let mut ejection = host.state.outlier.ejection.lock();
            if !host.state.has(HealthFlag::FailedOutlierCheck) {
                ejection.multiplier = ejection.multiplier.saturating_sub(1);
                return false;
            }
            ejection.until
        };
        until.is_none_or(|until| until <= now) && !planted(Bug::NeverUnejected) && self.uneject(host, now)
    }

    fn judge(&self, judge: &Judge, hosts: &[Arc<Host>], now: Instant, random: &mut dyn FnMut() -> u64) -> bool {
        let samples: Vec<Sample<'_>> = hosts.iter().map(|host| self.sample(judge, host)).collect();
        let by_rate = self.by_success_rate(judge, &samples, now, random);
        let by_percentage = self.by_failure_percentage(judge, &samples, now, random);
        by_rate | by_percentage
    }

    fn sample<'a>(&self, judge: &Judge, host: &'a Host) -> Sample<'a> {
        let monitor = (judge.monitor)(&host.state.outlier);
        let total = monitor.total.swap(0, Ordering::Relaxed);
        let success = monitor.success.swap(0, Ordering::Relaxed).min(total);
        let sample = Sample { host, success, total };
        let rate = match total > 0 && total >= self.config.success_rate_request_volume {
            true => sample.rate(),
            false => -1.0,
        };
        // 0.0 has no bits set, which means "never computed".
        let bits = if rate == 0.0 {
            f64::MIN_POSITIVE.to_bits()
        } else {
            rate.to_bits()
        };
        monitor.rate.store(bits, Ordering::Relaxed);
        sample
    }

    /// Below the mean by more than the factor times the (population) standard deviation.
    fn by_success_rate(
        &self,
        judge: &Judge,
        samples: &[Sample<'_>],
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> bool {
        let volume = self.config.success_rate_request_volume.max(1);
        let minimum = self.config.success_rate_minimum_hosts as usize;
        let Some(eligible) = eligible(samples, volume, minimum) else {
            return false;
        };
        let count = eligible.len() as f64;
        let mean = eligible.iter().map(|sample| sample.rate()).sum::<f64>() / count;
        let variance = eligible
            .iter()
            .map(|sample| (sample.rate() - mean).powi(2))
            .sum::<f64>()
            / count;
        let threshold = mean - variance.sqrt() * f64::from(self.config.success_rate_stdev_factor) / 1000.0;
        let mut ejected = false;
        for sample in eligible.iter().filter(|sample| sample.rate() < threshold) {
            let evidence = Evidence::SuccessRate {
                host: sample.rate(),
                average: mean,
                threshold,
            };
            self.stats.outlier().ejections_success_rate.inc();
            ejected |= self.detected(sample.host, judge.success_rate, evidence, now, random);
        }
        ejected
    }

    fn by_failure_percentage(
        &self,
        judge: &Judge,
        samples: &[Sample<'_>],
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> bool {
        let volume = self.config.failure_percentage_request_volume.max(1);
        let minimum = self.config.failure_percentage_minimum_hosts as usize;
        let Some(eligible) = eligible(samples, volume, minimum) else {
            return false;
        };
        let threshold = f64::from(self.config.failure_percentage_threshold);
        let mut ejected = false;
        for sample in eligible.iter().filter(|sample| 100.0 - sample.rate() >= threshold) {
            let evidence = Evidence::FailurePercentage { host: sample.rate() };
            ejected |= self.detected(sample.host, judge.failure_percentage, evidence, now, random);
        }
        ejected
    }
}

/// The hosts with enough traffic, if there are enough of them. Ejected hosts do not take part.
fn eligible<'a>(samples: &'a [Sample<'a>], volume: u32, minimum: usize) -> Option<Vec<&'a Sample<'a>>> {
    let takes_part =
        |sample: &&Sample<'_>| sample.total >= volume && !sample.host.state.has(HealthFlag::FailedOutlierCheck);
    let eligible: Vec<_> = samples.iter().filter(takes_part).collect();
    (!eligible.is_empty() && eligible.len() >= minimum).then_some(eligible)
}
