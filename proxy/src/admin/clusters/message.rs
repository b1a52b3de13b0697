//! `/clusters?format=json`: `envoy.admin.v3.Clusters`.

use remora_proto::pb::envoy::admin::v3 as pb;
use remora_proto::pb::envoy::config::cluster::v3::{CircuitBreakers, circuit_breakers::Thresholds};
use remora_proto::pb::envoy::config::core::v3::{HealthStatus, Locality, RoutingPriority};
use remora_proto::pb::envoy::r#type::v3::Percent;
use remora_proto::pb::google::protobuf::UInt32Value;

use super::view::{ClusterView, HostView, Limits};
use crate::admin::listeners;
use crate::admin::reply::{self, Reply};
use crate::cluster::host::HealthFlag;

pub(super) fn page(clusters: &[ClusterView]) -> Reply {
    reply::message(&pb::Clusters {
        cluster_statuses: clusters.iter().map(cluster).collect(),
    })
}

fn cluster(cluster: &ClusterView) -> pb::ClusterStatus {
    let outlier = cluster.outlier.as_ref();
    let thresholds = [
        thresholds(&cluster.default_limits, RoutingPriority::Default),
        thresholds(&cluster.high_limits, RoutingPriority::High),
    ];
    pb::ClusterStatus {
        name: cluster.name.to_string(),
        added_via_api: cluster.added_via_api,
        success_rate_ejection_threshold: outlier.and_then(|outlier| percent(outlier.external.threshold)),
        local_origin_success_rate_ejection_threshold: outlier.and_then(|outlier| percent(outlier.local.threshold)),
        host_statuses: cluster.hosts.iter().map(host).collect(),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: thresholds.into(),
            ..CircuitBreakers::default()
        }),
        observability_name: cluster.observability_name.clone(),
        eds_service_name: cluster.eds_service_name.clone(),
    }
}

fn host(host: &HostView) -> pb::HostStatus {
    let endpoint = &host.endpoint;
    let counts = &host.counts;
    let counters = [
        ("cx_connect_fail", counts.cx_connect_fail),
        ("cx_total", counts.cx_total),
        ("rq_error", counts.rq_error),
        ("rq_success", counts.rq_success),
        ("rq_timeout", counts.rq_timeout),
        ("rq_total", counts.rq_total),
    ];
    let gauges = [
        ("cx_active", counts.cx_active),
        ("rq_active", counts.rq_active),
        ("rq_pending_active", counts.rq_pending_active),
    ];
    let metric = |kind: pb::simple_metric::Type| {
        move |(name, value): (&str, u64)| pb::SimpleMetric {
            r#type: kind as i32,
            value,
            name: name.to_owned(),
        }
    };
    let counters = counters.into_iter().map(metric(pb::simple_metric::Type::Counter));
    let gauges = gauges.into_iter().map(metric(pb::simple_metric::Type::Gauge));
    pb::HostStatus {
        address: Some(listeners::message(&endpoint.address)),
        stats: counters.chain(gauges).collect(),
        health_status: Some(health(host)),
        success_rate: host.success_rate.and_then(percent),
        weight: endpoint.weight,
        hostname: endpoint.hostname.to_string(),
        priority: endpoint.priority,
        local_origin_success_rate: host.local_origin_success_rate.and_then(percent),
        locality: Some(Locality {
            region: endpoint.locality.region.clone(),
            zone: endpoint.locality.zone.clone(),
            sub_zone: endpoint.locality.sub_zone.clone(),
        }),
    }
}

fn health(host: &HostView) -> pb::HostHealthStatus {
    let has = |flag| host.endpoint.state.has(flag);
    let by_control_plane = if has(HealthFlag::FailedEdsHealth) {
        HealthStatus::Unhealthy
    } else if has(HealthFlag::EdsStatusDraining) {
        HealthStatus::Draining
    } else if has(HealthFlag::DegradedEdsHealth) {
        HealthStatus::Degraded
    } else {
        HealthStatus::Healthy
    };
    pb::HostHealthStatus {
        failed_active_health_check: has(HealthFlag::FailedActiveHc),
        failed_outlier_check: has(HealthFlag::FailedOutlierCheck),
        failed_active_degraded_check: has(HealthFlag::DegradedActiveHc),
        pending_dynamic_removal: has(HealthFlag::PendingDynamicRemoval),
        pending_active_hc: has(HealthFlag::PendingActiveHc),
        excluded_via_immediate_hc_fail: has(HealthFlag::ExcludedViaImmediateHcFail),
        active_hc_timeout: has(HealthFlag::ActiveHcTimeout),
        failed_degraded_outlier_detection: has(HealthFlag::DegradedOutlierDetection),
        eds_health_status: by_control_plane as i32,
    }
}

fn thresholds(limits: &Limits, priority: RoutingPriority) -> Thresholds {
    Thresholds {
        priority: priority as i32,
        max_connections: Some(UInt32Value {
            value: limits.connections,
        }),
        max_pending_requests: Some(UInt32Value {
            value: limits.pending_requests,
        }),
        max_requests: Some(UInt32Value { value: limits.requests }),
        max_retries: Some(UInt32Value { value: limits.retries }),
        ..Thresholds::default()
    }
}

/// `None` for the -1 of "not known".
fn percent(value: f64) -> Option<Percent> {
    (value >= 0.0).then_some(Percent { value })
}
