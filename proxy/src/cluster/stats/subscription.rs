//! What a cluster's subscription to its endpoints counts, under the cluster's own prefix.

use std::sync::Arc;

use remora_xds::stats::{ControlPlaneStats, TypeStats};
use remora_xds::types;

use crate::telemetry::stats::{Histogram, Value};

/// The client of the control plane counts into it for as long as a version of the cluster is in use; it outlives them, as the cluster's other
/// stats do.
pub struct Subscription {
    pub counters: Arc<TypeStats>,
    /// `update_duration` in milliseconds.
    durations: Arc<Histogram>,
}

impl Default for Subscription {
    fn default() -> Self {
        let durations = Arc::<Histogram>::default();
        let took = durations.clone();
        let counters = TypeStats::new(&types::ASSIGNMENT)
            .observed(move |time| took.record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)));
        Self {
            counters: Arc::new(counters),
            durations,
        }
    }
}

impl Subscription {
    /// Whether it has a stat of this name, which other clusters have as well.
    pub(super) fn replaces(name: &str) -> bool {
        matches!(
            name,
            "update_attempt"
                | "update_success"
                | "update_failure"
                | "update_empty"
                | "update_no_rebuild"
                | "assignment_use_cached"
                | "version"
        )
    }

    pub(super) fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let counters = &self.counters;
        for (name, counter) in [
            ("update_attempt", &counters.update_attempt),
            ("update_success", &counters.update_success),
            ("update_failure", &counters.update_failure),
            ("update_rejected", &counters.update_rejected),
            ("update_empty", &counters.update_empty),
            ("update_no_rebuild", &counters.update_no_rebuild),
            ("init_fetch_timeout", &counters.init_fetch_timeout),
            ("assignment_use_cached", &counters.use_cached),
        ] {
            visit(name, Value::Counter(counter.value()));
        }
        visit("update_time", Value::Gauge(counters.update_time.value()));
        visit("version", Value::Gauge(counters.version.value()));
        visit("version_text", Value::Text(counters.version_text().to_string()));
        visit("update_duration", Value::Histogram(&self.durations));
        if let Some(own) = counters.control_plane() {
            control_plane("", &own, visit);
        }
    }

    pub(super) fn reset(&self) {
        self.counters.reset();
        self.durations.reset();
    }

    pub(super) fn flush(&self) {
        self.durations.flush();
    }
}

/// `control_plane.*` of a stream, under what it is the stream of.
pub fn control_plane(prefix: &str, stats: &ControlPlaneStats, visit: &mut dyn FnMut(&str, Value<'_>)) {
    let name = |name: &str| format!("{prefix}control_plane.{name}");
    visit(&name("connected_state"), Value::Gauge(stats.connected_state.value()));
    visit(&name("pending_requests"), Value::Gauge(stats.pending_requests.value()));
    let enforced = Value::Counter(stats.rate_limit_enforced.value());
    visit(&name("rate_limit_enforced"), enforced);
    visit(&name("identifier"), Value::Text(stats.identifier()));
}
