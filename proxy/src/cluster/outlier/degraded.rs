//! `detect_degraded_hosts`: a host that says so with a good answer is degraded for a while.

use std::time::Instant;

use super::events::Evidence;
use super::{Detector, RETURN};
use crate::cluster::host::{HealthFlag, Host};

/// What a host says by it is that others should be preferred.
pub(super) const HEADER: &str = "x-envoy-degraded";

impl Detector {
    /// The headers of an answer with this status (for gRPC, the one that its status maps to), which is a failure where it is one and nothing
    /// else. No limit and no chance is asked: a degraded host is still there for whom the others are too few. True as in [`Detector::on_response`].
    pub fn on_headers(
        &self,
        host: &Host,
        status: u16,
        headers: &http::HeaderMap,
        now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> bool {
        if !self.config.detect_degraded_hosts || status >= 500 || !headers.contains_key(HEADER) {
            return false;
        }
        if !host.state.set(HealthFlag::DegradedOutlierDetection, true) {
            return false;
        }
        self.stats.outlier().ejections_detected_degradation.inc();
        host.state.outlier.degradation.lock().begin(&self.config, now, random());
        self.log(host, "DEGRADED", Some(Evidence::Consecutive), true, now);
        true
    }

    /// Ends a degradation whose time is over; an interval without one takes one from the multiplier.
    pub(super) fn age_degradation(&self, host: &Host, now: Instant) -> bool {
        {
            let mut degradation = host.state.outlier.degradation.lock();
            if !host.state.has(HealthFlag::DegradedOutlierDetection) {
                degradation.multiplier = degradation.multiplier.saturating_sub(1);
                return false;
            }
            if degradation.until.is_some_and(|until| until > now) {
                return false;
            }
            degradation.until = None;
        }
        host.state.set(HealthFlag::DegradedOutlierDetection, false);
        self.log(host, RETURN, None, false, now);
        true
    }
}
