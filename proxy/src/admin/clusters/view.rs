//! What `/clusters` shows of a cluster, used or not.
//!
//! What the configuration says is always read from the encoded bytes. Hosts are those of the built cluster; for one that nobody has used yet
//! they are read from its assignment and dropped again, so that a scrape leaves nothing behind (D5).

use std::collections::HashSet;
use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::{CircuitBreakers, OutlierDetection};
use remora_proto::pb::envoy::config::core::v3::{Metadata, RoutingPriority};
use remora_proto::wire;

use crate::admin::AdminState;
use crate::admin::bootstrap_view::{self, Static};
use crate::cluster::explain::{BreakerState, HostCounts, HostExplanation};
use crate::cluster::host::{Health, HealthFlag, Host};
use crate::config::endpoint;
use crate::snapshot::ClusterSlot;
use crate::tls::UpstreamTransport;

/// Fields of `Cluster`.
const EDS_CLUSTER_CONFIG: u32 = 3;
const CIRCUIT_BREAKERS: u32 = 10;
const OUTLIER_DETECTION: u32 = 19;
const ALT_STAT_NAME: u32 = 28;
const LOAD_ASSIGNMENT: u32 = 33;
/// `EdsClusterConfig.service_name`
const SERVICE_NAME: u32 = 2;

pub(super) struct ClusterView {
    pub name: Arc<str>,
    pub observability_name: String,
    pub eds_service_name: String,
    pub added_via_api: bool,
    pub default_limits: Limits,
    pub high_limits: Limits,
    /// `None`: no outlier detection.
    pub outlier: Option<OutlierView>,
    /// Whether somebody has used it.
    pub built: bool,
    /// Of a built cluster only.
    pub breakers: Vec<BreakerState>,
    /// `drop_overloads`: percent of the requests that are turned away.
    pub drop_overload: Option<f64>,
    pub hosts: Vec<HostView>,
}

/// One priority of `circuit_breakers`.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub connections: u32,
    pub pending_requests: u32,
    pub requests: u32,
    pub retries: u32,
}

/// Success rates in percent over the last interval; -1 when there were too few hosts with enough requests.
#[derive(Clone, Copy)]
pub(super) struct Rates {
    pub average: f64,
    pub threshold: f64,
}

pub(super) struct OutlierView {
    pub external: Rates,
    pub local: Rates,
}

pub(super) struct HostView {
    pub endpoint: Arc<Host>,
    pub canary: bool,
    pub counts: HostCounts,
    pub success_rate: Option<f64>,
    pub local_origin_success_rate: Option<f64>,
    /// Of a built cluster only.
    pub explanation: Option<HostExplanation>,
}

/// The clusters whose names are wanted, by name.
pub(super) fn clusters(state: &AdminState, wanted: &dyn Fn(&str) -> bool) -> Vec<ClusterView> {
    let snapshot = state.snapshot.load_full();
    let fixed: HashSet<String> = bootstrap_view::resources(&state.bootstrap, Static::Clusters)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let slots = snapshot.clusters.iter().filter(|(name, _)| wanted(name));
    let mut views: Vec<_> = slots.map(|(name, slot)| view(slot, !fixed.contains(&**name))).collect();
    views.sort_by(|a, b| a.name.cmp(&b.name));
    views
}

fn view(slot: &ClusterSlot, added_via_api: bool) -> ClusterView {
    let part = |number| wire::bytes_field(&slot.config, number).ok().flatten();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let hosts = hosts(slot);
    let outlier = part(OUTLIER_DETECTION).map(|bytes| {
        let config = OutlierDetection::decode(bytes).unwrap_or_default();
        OutlierView {
            external: rates(&config, hosts.iter().filter_map(|host| host.success_rate).collect()),
            local: rates(
                &config,
                hosts.iter().filter_map(|host| host.local_origin_success_rate).collect(),
            ),
        }
    });
    let breakers = part(CIRCUIT_BREAKERS)
        .and_then(|bytes| CircuitBreakers::decode(bytes).ok())
        .unwrap_or_default();
    let service_name = part(EDS_CLUSTER_CONFIG).and_then(|eds| wire::bytes_field(eds, SERVICE_NAME).ok().flatten());
    let alternative = part(ALT_STAT_NAME).filter(|name| !name.is_empty());
    ClusterView {
        observability_name: alternative.map_or_else(|| slot.name.to_string(), text),
        name: slot.name.clone(),
        eds_service_name: service_name.map(text).unwrap_or_default(),
        added_via_api,
        default_limits: limits(&breakers, RoutingPriority::Default),
        high_limits: limits(&breakers, RoutingPriority::High),
        outlier,
        built: slot.built().is_some(),
        breakers: slot
            .built()
            .map(|cluster| cluster.explain_breakers())
            .unwrap_or_default(),
        drop_overload: slot.built().and_then(|cluster| {
            let share = cluster.hosts.load().drop_overload?;
            Some(100.0 * f64::from(share.numerator) / f64::from(share.denominator))
        }),
        hosts,
    }
}

fn hosts(slot: &ClusterSlot) -> Vec<HostView> {
    if let Some(cluster) = slot.built() {
        return cluster.explain().into_iter().map(used).collect();
    }
    unused_hosts(slot).into_iter().map(unused).collect()
}

fn used(explanation: HostExplanation) -> HostView {
    HostView {
        endpoint: explanation.host.clone(),
        canary: is_canary(explanation.host.metadata.as_deref()),
        counts: explanation.counts,
        success_rate: explanation.success_rate,
        local_origin_success_rate: explanation.local_origin_success_rate,
        explanation: Some(explanation),
    }
}

fn unused(host: Host) -> HostView {
    HostView {
        canary: is_canary(host.metadata.as_deref()),
        endpoint: Arc::new(host),
        counts: HostCounts::default(),
        success_rate: None,
        local_origin_success_rate: None,
        explanation: None,
    }
}

/// The endpoints of a cluster that is not built; none where they are DNS names.
pub(in crate::admin) fn unused_hosts(slot: &ClusterSlot) -> Vec<Host> {
    let assignment = slot.endpoints();
    let inline = || wire::bytes_field(&slot.config, LOAD_ASSIGNMENT).ok().flatten();
    let Some(bytes) = assignment.as_deref().or_else(inline) else {
        return Vec::new();
    };
    let compiled = endpoint::decode(bytes).and_then(|parsed| endpoint::compile(&parsed, &UpstreamTransport::default()));
    let endpoints = compiled.map(|endpoints| endpoints.hosts).unwrap_or_default();
    let flagged = |endpoint: endpoint::Endpoint| {
        let state = &endpoint.host.state;
        match endpoint.health {
            _ if endpoint.draining => state.set(HealthFlag::EdsStatusDraining, true),
            Health::Unhealthy => state.set(HealthFlag::FailedEdsHealth, true),
            Health::Degraded => state.set(HealthFlag::DegradedEdsHealth, true),
            Health::Healthy => false,
        };
        endpoint.host
    };
    endpoints.into_iter().map(flagged).collect()
}

fn is_canary(metadata: Option<&Metadata>) -> bool {
    use remora_proto::pb::google::protobuf::value::Kind;
    let value = metadata
        .and_then(|metadata| metadata.filter_metadata.get("envoy.lb"))
        .and_then(|of_lb| of_lb.fields.get("canary"))
        .and_then(|value| value.kind.as_ref());
    matches!(value, Some(Kind::BoolValue(true)))
}

fn limits(breakers: &CircuitBreakers, priority: RoutingPriority) -> Limits {
    let found = breakers.thresholds.iter().find(|own| own.priority == priority as i32);
    let thresholds = found.cloned().unwrap_or_default();
    Limits {
        connections: thresholds.max_connections.map_or(1024, |limit| limit.value),
        pending_requests: thresholds.max_pending_requests.map_or(1024, |limit| limit.value),
        requests: thresholds.max_requests.map_or(1024, |limit| limit.value),
        retries: thresholds.max_retries.map_or(3, |limit| limit.value),
    }
}

/// Mean of the hosts' rates, and below which of them a host is ejected (mean − factor × standard deviation). A host has a rate only
/// if it had `success_rate_request_volume` requests.
fn rates(config: &OutlierDetection, rates: Vec<f64>) -> Rates {
    let minimum = config.success_rate_minimum_hosts.map_or(5, |hosts| hosts.value);
    if rates.is_empty() || rates.len() < minimum as usize {
        return Rates {
            average: -1.0,
            threshold: -1.0,
        };
    }
    let count = rates.len() as f64;
    let average = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - average).powi(2)).sum::<f64>() / count;
    let factor = f64::from(config.success_rate_stdev_factor.map_or(1900, |factor| factor.value)) / 1000.0;
    Rates {
        average,
        threshold: average - factor * variance.sqrt(),
    }
}
