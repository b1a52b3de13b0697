//! The endpoints of `?include_eds`.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::admin::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as eds;
use remora_proto::pb::google::protobuf::UInt32Value;
use remora_proto::wire;
use remora_xds::types;

use super::collect::{any_of, section as make_section};
use super::{Item, List, Section};
use crate::admin::AdminState;
use crate::admin::bootstrap_view::{self, Static};
use crate::admin::listeners;
use crate::cluster::Cluster;
use crate::cluster::host::{Health, Host};
use crate::snapshot::ClusterSlot;

/// `Cluster.load_assignment`
const LOAD_ASSIGNMENT: u32 = 33;

pub(super) fn section(state: &AdminState) -> Section {
    let snapshot = state.snapshot.load_full();
    let fixed: HashSet<String> = bootstrap_view::resources(&state.bootstrap, Static::Clusters)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut slots: Vec<Arc<ClusterSlot>> = snapshot.clusters.iter().map(|(_, slot)| slot.clone()).collect();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let (own, theirs): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| fixed.contains(&*slot.name));
    let own = own.into_iter().map(|slot| {
        Item::new(&slot.name.clone(), move || {
            pb::endpoints_config_dump::StaticEndpointConfig {
                endpoint_config: Some(any_of(&types::ASSIGNMENT, &assignment(&slot))),
                last_updated: None,
            }
        })
    });
    let theirs = theirs.into_iter().map(|slot| {
        Item::new(&slot.name.clone(), move || {
            pb::endpoints_config_dump::DynamicEndpointConfig {
                endpoint_config: Some(any_of(&types::ASSIGNMENT, &assignment(&slot))),
                ..pb::endpoints_config_dump::DynamicEndpointConfig::default()
            }
        })
    });
    let lists = vec![
        List {
            field: "static_endpoint_configs",
            message: "envoy.admin.v3.EndpointsConfigDump.StaticEndpointConfig",
            items: own.collect(),
        },
        List {
            field: "dynamic_endpoint_configs",
            message: "envoy.admin.v3.EndpointsConfigDump.DynamicEndpointConfig",
            items: theirs.collect(),
        },
    ];
    make_section("envoy.admin.v3.EndpointsConfigDump", String::new(), lists)
}

/// Hosts that a priority has more than it needs, in per cent, unless told otherwise.
const OVERPROVISIONING: u32 = 140;

/// The encoded `ClusterLoadAssignment` of a cluster; never builds it. As in Envoy, what is not configured has its default.
fn assignment(slot: &ClusterSlot) -> Bytes {
    let delivered = slot.endpoints();
    let has_weights = delivered.is_some();
    let inline = || {
        let bytes = wire::bytes_field(&slot.config, LOAD_ASSIGNMENT).ok().flatten()?;
        Some(slot.config.slice_ref(bytes))
    };
    let configured = delivered.or_else(inline);
    let configured = configured.and_then(|bytes| eds::ClusterLoadAssignment::decode(bytes).ok());
    let configured = configured.unwrap_or_default();
    let finds_hosts = slot.built().is_some_and(|cluster| cluster.finds_hosts());
    let mut shown = match slot.built() {
        Some(cluster) => current(cluster),
        None => configured.clone(),
    };
    shown.cluster_name = slot.name.to_string();
    let factor = configured
        .policy
        .as_ref()
        .and_then(|policy| policy.overprovisioning_factor);
    shown.policy = Some(eds::cluster_load_assignment::Policy {
        overprovisioning_factor: Some(factor.unwrap_or(UInt32Value {
            value: OVERPROVISIONING,
        })),
        ..eds::cluster_load_assignment::Policy::default()
    });
    for group in &mut shown.endpoints {
        group.locality.get_or_insert_default();
        let same = |other: &&eds::LocalityLbEndpoints| {
            other.priority == group.priority
                && other.locality.clone().unwrap_or_default() == group.locality.clone().unwrap_or_default()
        };
        let weight = configured
            .endpoints
            .iter()
            .find(same)
            .and_then(|other| other.load_balancing_weight);
        let weight = weight.filter(|_| has_weights).unwrap_or_default();
        group.load_balancing_weight = Some(weight).filter(|_| !finds_hosts);
        for host in &mut group.lb_endpoints {
            complete(host, &configured);
        }
    }
    shown.encode_to_vec().into()
}

/// What Envoy says of every host.
fn complete(host: &mut eds::LbEndpoint, configured: &eds::ClusterLoadAssignment) {
    use core::HealthStatus;
    host.load_balancing_weight.get_or_insert(UInt32Value { value: 1 });
    host.health_status = match host.health_status() {
        HealthStatus::Unknown | HealthStatus::Healthy => HealthStatus::Healthy,
        HealthStatus::Degraded => HealthStatus::Degraded,
        _ => HealthStatus::Unhealthy,
    } as i32;
    let Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &mut host.host_identifier else {
        return;
    };
    if endpoint.health_check_config.is_none() {
        let hosts = configured.endpoints.iter().flat_map(|group| &group.lb_endpoints);
        let mut endpoints = hosts.filter_map(|host| match &host.host_identifier {
            Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => Some(endpoint),
            _ => None,
        });
        let same = endpoints.find(|other| other.address == endpoint.address);
        let checked = same.and_then(|other| other.health_check_config.clone());
        endpoint.health_check_config = Some(checked.unwrap_or_default());
    }
}

/// The hosts of now, by priority and locality.
fn current(cluster: &Cluster) -> eds::ClusterLoadAssignment {
    let mut groups: Vec<eds::LocalityLbEndpoints> = Vec::new();
    for host in cluster.all_hosts() {
        let locality = core::Locality {
            region: host.locality.region.clone(),
            zone: host.locality.zone.clone(),
            sub_zone: host.locality.sub_zone.clone(),
        };
        let same = |group: &eds::LocalityLbEndpoints| {
            group.priority == host.priority && group.locality.as_ref() == Some(&locality)
        };
        // Hosts that clients name come one by one.
        let index = match groups.iter().rposition(same).filter(|_| !cluster.finds_hosts()) {
            Some(index) => index,
            None => {
                groups.push(eds::LocalityLbEndpoints {
                    priority: host.priority,
                    locality: Some(locality),
                    ..eds::LocalityLbEndpoints::default()
                });
                groups.len() - 1
            }
        };
        groups[index].lb_endpoints.push(endpoint(&host));
    }
    eds::ClusterLoadAssignment {
        cluster_name: cluster.name.to_string(),
        endpoints: groups,
        ..eds::ClusterLoadAssignment::default()
    }
}

fn endpoint(host: &Host) -> eds::LbEndpoint {
    let health = match host.state.health() {
        Health::Healthy => core::HealthStatus::Healthy,
        Health::Degraded => core::HealthStatus::Degraded,
        Health::Unhealthy => core::HealthStatus::Unhealthy,
    };
    let additional = host
        .additional_addresses
        .iter()
        .map(|address| eds::endpoint::AdditionalAddress {
            address: Some(listeners::message(address)),
        });
    eds::LbEndpoint {
        health_status: health as i32,
        metadata: host.metadata.as_deref().cloned(),
        load_balancing_weight: Some(UInt32Value { value: host.weight }),
        host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
            address: Some(listeners::message(&host.address)),
            hostname: host.hostname.to_string(),
            additional_addresses: additional.collect(),
            ..eds::Endpoint::default()
        })),
    }
}
