//! The kinds of ejection, with the configuration and the counters of each.

use super::Detector;
use crate::telemetry::stats::Counter;

/// Why a host was ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionType {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    SuccessRateLocalOrigin,
    FailurePercentage,
    FailurePercentageLocalOrigin,
}

impl Detector {
    pub(super) fn enforcing(&self, kind: EjectionType) -> u32 {
        let config = &self.config;
        match kind {
            EjectionType::Consecutive5xx => config.enforcing_consecutive_5xx,
            EjectionType::ConsecutiveGatewayFailure => config.enforcing_consecutive_gateway_failure,
            EjectionType::ConsecutiveLocalOriginFailure => config.enforcing_consecutive_local_origin_failure,
            EjectionType::SuccessRate => config.enforcing_success_rate,
            EjectionType::SuccessRateLocalOrigin => config.enforcing_local_origin_success_rate,
            EjectionType::FailurePercentage => config.enforcing_failure_percentage,
            EjectionType::FailurePercentageLocalOrigin => config.enforcing_failure_percentage_local_origin,
        }
    }

    /// Counters of what was detected and what was enforced.
    pub(super) fn counters(&self, kind: EjectionType) -> (&Counter, &Counter) {
        let stats = self.stats.outlier();
        match kind {
            EjectionType::Consecutive5xx => (
                &stats.ejections_detected_consecutive_5xx,
                &stats.ejections_enforced_consecutive_5xx,
            ),
            EjectionType::ConsecutiveGatewayFailure => (
                &stats.ejections_detected_consecutive_gateway_failure,
                &stats.ejections_enforced_consecutive_gateway_failure,
            ),
            EjectionType::ConsecutiveLocalOriginFailure => (
                &stats.ejections_detected_consecutive_local_origin_failure,
                &stats.ejections_enforced_consecutive_local_origin_failure,
            ),
            EjectionType::SuccessRate => (
                &stats.ejections_detected_success_rate,
                &stats.ejections_enforced_success_rate,
            ),
            EjectionType::SuccessRateLocalOrigin => (
                &stats.ejections_detected_local_origin_success_rate,
                &stats.ejections_enforced_local_origin_success_rate,
            ),
            EjectionType::FailurePercentage => (
                &stats.ejections_detected_failure_percentage,
                &stats.ejections_enforced_failure_percentage,
            ),
            EjectionType::FailurePercentageLocalOrigin => (
                &stats.ejections_detected_local_origin_failure_percentage,
                &stats.ejections_enforced_local_origin_failure_percentage,
            ),
        }
    }
}
