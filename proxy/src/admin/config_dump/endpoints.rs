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

/// The encoded `ClusterLoadAssignment` of a cluster; never builds it.
fn assignment(slot: &ClusterSlot) -> Bytes {
    if let Some(cluster) = slot.built() {
        return current(cluster).encode_to_vec().into();
    }
    let inline = || {
        let bytes = wire::bytes_field(&slot.config, LOAD_ASSIGNMENT).ok().flatten()?;
        Some(slot.config.slice_ref(bytes))
    };
    slot.endpoints().or_else(inline).unwrap_or_else(|| {
        let empty = eds::ClusterLoadAssignment {
            cluster_name: slot.name.to_string(),
            ..eds::ClusterLoadAssignment::default()
        };
        empty.encode_to_vec().into()
    })
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
        let index = match groups.iter().rposition(same) {
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
