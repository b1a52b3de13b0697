//! `cluster.<name>.` stats.
//!
//! [`ClusterStats`] derefs to the flat ones; those with a dot in their name are nested groups. Response codes are counted through
//! arrays that their first increment allocates, so that a request neither locks nor formats.

mod subscription;

use std::ops::Deref;
use std::sync::OnceLock;

use arc_swap::ArcSwapOption;

pub use subscription::{Subscription, control_plane};

use super::breaker::Limits;
use crate::telemetry::stats::{Counter, Gauge, Histogram, StatGroup, Value};

crate::stat_group! {
    /// The stats directly under `cluster.<name>.`.
    pub struct TrafficStats {
        counters: {
            upstream_cx_total, upstream_cx_http1_total, upstream_cx_http2_total,
            upstream_cx_connect_fail, upstream_cx_connect_timeout,
            upstream_cx_idle_timeout, upstream_cx_max_duration_reached, upstream_cx_connect_attempts_exceeded,
            upstream_cx_overflow, upstream_cx_pool_overflow, upstream_cx_destroy, upstream_cx_destroy_local,
            upstream_cx_destroy_remote, upstream_cx_destroy_with_active_rq, upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote_with_active_rq, upstream_cx_close_notify, upstream_cx_rx_bytes_total,
            upstream_cx_tx_bytes_total, upstream_cx_protocol_error, upstream_cx_max_requests,
            upstream_cx_none_healthy, upstream_flow_control_backed_up_total, upstream_flow_control_drained_total,
            upstream_rq_total, upstream_rq_active_overflow, upstream_rq_pending_total, upstream_rq_pending_overflow,
            upstream_rq_pending_failure_eject, upstream_rq_cancelled,
            upstream_rq_timeout, upstream_rq_max_duration_reached, upstream_rq_per_try_timeout,
            upstream_rq_per_try_idle_timeout, upstream_rq_rx_reset, upstream_rq_tx_reset, upstream_rq_retry,
            upstream_rq_retry_backoff_exponential, upstream_rq_retry_backoff_ratelimited,
            upstream_rq_retry_limit_exceeded, upstream_rq_retry_success, upstream_rq_retry_overflow,
            upstream_rq_maintenance_mode, upstream_rq_completed,
            upstream_internal_redirect_failed_total, upstream_internal_redirect_succeeded_total,
            membership_change, retry_or_shadow_abandoned, update_attempt, update_success, update_failure,
            update_empty, update_no_rebuild, bind_errors, assignment_timeout_received,
            assignment_stale, original_dst_host_invalid, lb_recalculate_zone_structures,
            lb_healthy_panic, lb_local_cluster_not_ok, lb_zone_cluster_too_small, lb_zone_no_capacity_left,
            lb_zone_routing_all_directly, lb_zone_routing_cross_zone, lb_zone_routing_sampled,
            lb_subsets_created, lb_subsets_fallback, lb_subsets_fallback_panic, lb_subsets_removed,
            lb_subsets_selected,
        }
        gauges: {
            upstream_cx_active, upstream_cx_rx_bytes_buffered, upstream_cx_tx_bytes_buffered, upstream_rq_active,
            upstream_rq_pending_active, membership_healthy, membership_degraded, membership_excluded,
            membership_total, max_host_weight, lb_subsets_active, version, warming_state,
        }
        histograms: { upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_per_cx }
    }
}

crate::stat_group! {
    /// `outlier_detection.`
    pub struct OutlierStats {
        counters: {
            ejections_total, ejections_consecutive_5xx, ejections_enforced_total, ejections_overflow,
            ejections_success_rate,
            ejections_enforced_consecutive_5xx, ejections_detected_consecutive_5xx,
            ejections_enforced_success_rate, ejections_detected_success_rate,
            ejections_enforced_consecutive_gateway_failure, ejections_detected_consecutive_gateway_failure,
            ejections_enforced_consecutive_local_origin_failure, ejections_detected_consecutive_local_origin_failure,
            ejections_enforced_local_origin_success_rate, ejections_detected_local_origin_success_rate,
            ejections_enforced_failure_percentage, ejections_detected_failure_percentage,
            ejections_enforced_local_origin_failure_percentage, ejections_detected_local_origin_failure_percentage,
            ejections_detected_degradation,
        }
        gauges: { ejections_active }
        histograms: {}
    }
}

crate::stat_group! {
    /// `health_check.`
    pub struct HealthCheckStats {
        counters: { attempt, success, failure, passive_failure, network_failure, verify_cluster }
        gauges: { healthy, degraded }
        histograms: {}
    }
}

crate::stat_group! {
    /// `http2.`: what the codec saw on connections to the cluster's hosts.
    pub struct Http2Stats {
        counters: { rx_reset, tx_reset, keepalive_timeout }
        gauges: { streams_active }
        histograms: {}
    }
}

/// Per cluster.
#[derive(Default)]
pub struct ClusterStats {
    pub traffic: TrafficStats,
    /// `upstream_rq_200`, `upstream_rq_2xx` …
    pub responses: ResponseCodes,
    /// `upstream_rq_time`, and the same of requests that came from inside, from outside, and whose answers were canaries'.
    pub time: Histogram,
    pub internal_time: Histogram,
    pub external_time: Histogram,
    pub canary_time: Histogram,
    /// `internal.upstream_rq_*`: requests that came from inside (`x-envoy-internal`).
    pub internal: ResponseCodes,
    /// `external.upstream_rq_*`
    pub external: ResponseCodes,
    /// `canary.upstream_rq_*`: answers with `x-envoy-upstream-canary: true`.
    pub canary: ResponseCodes,
    /// `retry.upstream_rq_*`: answers that were not passed on because another attempt followed.
    pub retry: ResponseCodes,
    /// `circuit_breakers.default.` and `circuit_breakers.high.`, of the cluster's newest configuration.
    pub breakers: [ArcSwapOption<Limits>; 2],
    outlier: OnceLock<Box<OutlierStats>>,
    health_check: OnceLock<Box<HealthCheckStats>>,
    http2: OnceLock<Box<Http2Stats>>,
    subscription: OnceLock<Box<Subscription>>,
    table: OnceLock<Box<HashTable>>,
}

/// `ring_hash_lb.` or `maglev_lb.`: how large the newest table is, and how much of it its hosts have.
struct HashTable {
    is_ring: bool,
    size: Gauge,
    least: Gauge,
    most: Gauge,
}

impl ClusterStats {
    /// What the subscription to its endpoints counts, there from the first time that a version is used which has one.
    pub fn subscription(&self) -> &Subscription {
        self.subscription.get_or_init(Box::default)
    }

    /// `http2.`, which is there from the first connection that speaks it.
    pub fn http2(&self) -> &Http2Stats {
        self.http2.get_or_init(Box::default)
    }

    /// `outlier_detection.`, which is there once the cluster has had a detector.
    pub fn outlier(&self) -> &OutlierStats {
        self.outlier.get_or_init(Box::default)
    }

    /// `health_check.`, which is there once the cluster has had checks.
    pub fn health_check(&self) -> &HealthCheckStats {
        self.health_check.get_or_init(Box::default)
    }

    /// A ring (or a Maglev table) of so many entries was built, of which hosts have between `least` and `most`.
    pub fn note_table(&self, is_ring: bool, size: u64, least: u64, most: u64) {
        let table = self.table.get_or_init(|| {
            Box::new(HashTable {
                is_ring,
                size: Gauge::default(),
                least: Gauge::default(),
                most: Gauge::default(),
            })
        });
        table.size.set(size);
        table.least.set(least);
        table.most.set(most);
    }

    /// Counts a response in all its groups, as Envoy's `CodeStatsImpl::chargeResponseStat`.
    pub fn count_response(&self, status: u16, internal: bool, canary: bool) {
        self.traffic.upstream_rq_completed.inc();
        self.responses.inc(status);
        match internal {
            true => self.internal.inc(status),
            false => self.external.inc(status),
        }
        if canary {
            self.canary.inc(status);
        }
    }

    /// How long a request took, in milliseconds, of the client's side and to the last byte.
    pub fn record_time(&self, millis: u64, internal: bool, canary: bool) {
        self.time.record(millis);
        match internal {
            true => self.internal_time.record(millis),
            false => self.external_time.record(millis),
        }
        if canary {
            self.canary_time.record(millis);
        }
    }

    fn times(&self) -> [(&'static str, &Histogram); 4] {
        [
            ("upstream_rq_time", &self.time),
            ("internal.upstream_rq_time", &self.internal_time),
            ("external.upstream_rq_time", &self.external_time),
            ("canary.upstream_rq_time", &self.canary_time),
        ]
    }
}

impl Deref for ClusterStats {
    type Target = TrafficStats;

    fn deref(&self) -> &TrafficStats {
        &self.traffic
    }
}

impl StatGroup for ClusterStats {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        match self.subscription.get() {
            Some(subscription) => {
                self.traffic.visit(&mut |name, value| {
                    if !Subscription::replaces(name) {
                        visit(name, value);
                    }
                });
                subscription.visit(visit);
            }
            None => {
                self.traffic.visit(visit);
                visit("assignment_use_cached", Value::Counter(0));
            }
        }
        self.responses.visit("", visit);
        for (prefix, codes) in [
            ("internal.", &self.internal),
            ("external.", &self.external),
            ("canary.", &self.canary),
            ("retry.", &self.retry),
        ] {
            codes.visit_used(prefix, visit);
        }
        for (name, time) in self.times() {
            if time.is_used() {
                visit(name, Value::Histogram(time));
            }
        }
        for (prefix, breakers) in ["circuit_breakers.default.", "circuit_breakers.high."]
            .iter()
            .zip(&self.breakers)
        {
            if let Some(limits) = &*breakers.load() {
                limits.visit(&mut |name, value| visit(&format!("{prefix}{name}"), value));
            }
        }
        if let Some(outlier) = self.outlier.get() {
            under("outlier_detection.", &**outlier, visit);
        }
        if let Some(health_check) = self.health_check.get() {
            under("health_check.", &**health_check, visit);
        }
        if let Some(table) = self.table.get() {
            table.visit(visit);
        }
        if let Some(http2) = self.http2.get() {
            under("http2.", &**http2, visit);
        }
    }

    fn flush(&self) {
        self.traffic.flush();
        self.times().iter().for_each(|(_, time)| time.flush());
        if let Some(subscription) = self.subscription.get() {
            subscription.flush();
        }
    }

    fn reset(&self) {
        self.traffic.reset();
        if let Some(outlier) = self.outlier.get() {
            outlier.reset();
        }
        if let Some(health_check) = self.health_check.get() {
            health_check.reset();
        }
        if let Some(http2) = self.http2.get() {
            http2.reset();
        }
        if let Some(subscription) = self.subscription.get() {
            subscription.reset();
        }
        self.times().iter().for_each(|(_, time)| time.reset());
        for codes in [
            &self.responses,
            &self.internal,
            &self.external,
            &self.canary,
            &self.retry,
        ] {
            codes.reset();
        }
    }
}

impl HashTable {
    fn visit(&self, visit: &mut dyn FnMut(&str, Value<'_>)) {
        if self.is_ring {
            visit("ring_hash_lb.size", self.size.reading());
            visit("ring_hash_lb.min_hashes_per_host", self.least.reading());
            visit("ring_hash_lb.max_hashes_per_host", self.most.reading());
        } else {
            visit("maglev_lb.min_entries_per_host", self.least.reading());
            visit("maglev_lb.max_entries_per_host", self.most.reading());
        }
    }
}

fn under(prefix: &str, group: &dyn StatGroup, visit: &mut dyn FnMut(&str, Value<'_>)) {
    let mut name = prefix.to_owned();
    group.visit(&mut |stat, value| {
        name.truncate(prefix.len());
        name.push_str(stat);
        visit(&name, value);
    });
}

/// Counters of responses by code (100 to 599) and class.
#[derive(Default)]
pub struct ResponseCodes {
    classes: [Counter; 5],
    codes: [OnceLock<Box<[Counter]>>; 5],
}

impl ResponseCodes {
    /// Counts one response; codes outside 100..=599 count nowhere, as in Envoy.
    pub fn inc(&self, status: u16) {
        let (class, code) = (usize::from(status / 100), usize::from(status % 100));
        if !(1..=5).contains(&class) {
            return;
        }
        self.classes[class - 1].inc();
        let codes = self.codes[class - 1].get_or_init(|| (0..100).map(|_| Counter::default()).collect());
        codes[code].inc();
    }

    pub(crate) fn reset(&self) {
        let codes = self
            .codes
            .iter()
            .filter_map(OnceLock::get)
            .flat_map(|codes| codes.iter());
        self.classes.iter().chain(codes).for_each(Counter::reset);
    }

    /// How often `status` was counted.
    pub fn value(&self, status: u16) -> u64 {
        let (class, code) = (usize::from(status / 100), usize::from(status % 100));
        let codes = self.codes.get(class.wrapping_sub(1)).and_then(OnceLock::get);
        codes.map_or(0, |codes| codes[code].value())
    }

    /// All classes and the codes seen, as `<prefix>upstream_rq_<code>`.
    fn visit(&self, prefix: &str, visit: &mut dyn FnMut(&str, Value<'_>)) {
        for (class, counter) in self.classes.iter().enumerate() {
            if counter.value() == 0 {
                continue;
            }
            visit(
                &format!("{prefix}upstream_rq_{}xx", class + 1),
                Value::Counter(counter.value()),
            );
        }
        for (class, codes) in self.codes.iter().enumerate() {
            let seen = codes.get().into_iter().flat_map(|codes| codes.iter().enumerate());
            for (code, counter) in seen.filter(|(_, counter)| counter.value() > 0) {
                let status = (class + 1) * 100 + code;
                visit(
                    &format!("{prefix}upstream_rq_{status}"),
                    Value::Counter(counter.value()),
                );
            }
        }
    }

    /// The same, with `upstream_rq_completed` in front, for a group that only exists once used.
    pub(crate) fn visit_used(&self, prefix: &str, visit: &mut dyn FnMut(&str, Value<'_>)) {
        let completed: u64 = self.classes.iter().map(Counter::value).sum();
        if completed == 0 {
            return;
        }
        visit(&format!("{prefix}upstream_rq_completed"), Value::Counter(completed));
        self.visit(prefix, visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::breaker::{Breakers, Thresholds};

    #[test]
    fn responses_are_named_by_code_class_and_origin() {
        let stats = ClusterStats::default();
        stats.count_response(200, true, false);
        stats.count_response(503, false, true);
        stats.count_response(999, false, false);
        stats.outlier().ejections_active.set(7);
        let thresholds = Thresholds {
            max_requests: 3,
            track_remaining: true,
            ..Thresholds::default()
        };
        let breakers = Breakers::new(Thresholds::default(), thresholds, [None; 2], &stats);
        drop(breakers.try_request(crate::cluster::breaker::RoutingPriority::High));
        let mut seen = std::collections::BTreeMap::new();
        stats.visit(&mut |name, value| {
            if let Value::Counter(value) | Value::Gauge(value) = value {
                assert!(seen.insert(name.to_owned(), value).is_none(), "{name} twice");
            }
        });
        for (name, value) in [
            ("upstream_rq_completed", 3),
            ("upstream_rq_200", 1),
            ("upstream_rq_2xx", 1),
            ("internal.upstream_rq_200", 1),
            ("external.upstream_rq_503", 1),
            ("canary.upstream_rq_5xx", 1),
            ("outlier_detection.ejections_active", 7),
            ("circuit_breakers.high.remaining_rq", 3),
        ] {
            assert_eq!(seen.get(name), Some(&value), "{name}");
        }
        assert!(!seen.contains_key("circuit_breakers.default.remaining_rq"));
        assert!(!seen.contains_key("internal.upstream_rq_503"));
        assert!(!seen.contains_key("upstream_rq_999"));
        stats.reset();
        assert_eq!(
            (stats.responses.value(200), stats.outlier().ejections_active.value()),
            (0, 7)
        );
    }
}
