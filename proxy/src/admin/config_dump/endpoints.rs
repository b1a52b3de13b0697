//! The endpoints of `?include_eds`.

use std::collections::{HashMap, HashSet};
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
use crate::cluster::host::{Health, Host, Locality};
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
    let known = Configured::of(&configured);
    for group in &mut shown.endpoints {
        group.locality.get_or_insert_default();
        let weight = known.weights.get(&place(group)).copied().flatten();
        let weight = weight.filter(|_| has_weights).unwrap_or_default();
        group.load_balancing_weight = Some(weight).filter(|_| !finds_hosts);
        for host in &mut group.lb_endpoints {
            complete(host, &known);
        }
    }
    shown.encode_to_vec().into()
}

/// What an assignment says of places and hosts, to be found without looking through it for each; the first of two that are the same counts.
struct Configured {
    /// By priority and locality.
    weights: HashMap<(u32, Locality), Option<UInt32Value>>,
    /// By encoded address.
    checks: HashMap<Vec<u8>, eds::endpoint::HealthCheckConfig>,
}

impl Configured {
    fn of(assignment: &eds::ClusterLoadAssignment) -> Self {
        let (mut weights, mut checks) = (HashMap::new(), HashMap::new());
        for group in &assignment.endpoints {
            weights.entry(place(group)).or_insert(group.load_balancing_weight);
        }
        let hosts = assignment.endpoints.iter().flat_map(|group| &group.lb_endpoints);
        for host in hosts {
            if let Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &host.host_identifier {
                let check = || endpoint.health_check_config.clone().unwrap_or_default();
                checks.entry(encoded(endpoint)).or_insert_with(check);
            }
        }
        Self { weights, checks }
    }
}

fn place(group: &eds::LocalityLbEndpoints) -> (u32, Locality) {
    (group.priority, group.locality.clone().unwrap_or_default().into())
}

fn encoded(endpoint: &eds::Endpoint) -> Vec<u8> {
    let address = endpoint.address.as_ref();
    address.map(Message::encode_to_vec).unwrap_or_default()
}

/// What Envoy says of every host.
fn complete(host: &mut eds::LbEndpoint, known: &Configured) {
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
        let checked = known.checks.get(&encoded(endpoint)).cloned();
        endpoint.health_check_config = Some(checked.unwrap_or_default());
    }
}

/// The hosts of now, by priority and locality.
fn current(cluster: &Cluster) -> eds::ClusterLoadAssignment {
    let mut groups: Vec<eds::LocalityLbEndpoints> = Vec::new();
    let mut places: HashMap<(u32, Arc<Locality>), usize> = HashMap::new();
    for host in cluster.all_hosts() {
        let known = places.get(&(host.priority, host.locality.clone())).copied();
        // Hosts that clients name come one by one.
        let index = known.filter(|_| !cluster.finds_hosts()).unwrap_or(groups.len());
        if index == groups.len() {
            places.insert((host.priority, host.locality.clone()), index);
            groups.push(eds::LocalityLbEndpoints {
                priority: host.priority,
                locality: Some(core::Locality {
                    region: host.locality.region.clone(),
                    zone: host.locality.zone.clone(),
                    sub_zone: host.locality.sub_zone.clone(),
                }),
                ..eds::LocalityLbEndpoints::default()
            });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn host(port: u32, checked_at: u32) -> eds::LbEndpoint {
        let address = core::address::Address::SocketAddress(core::SocketAddress {
            address: "10.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..core::SocketAddress::default()
        });
        let check = eds::endpoint::HealthCheckConfig {
            port_value: checked_at,
            ..eds::endpoint::HealthCheckConfig::default()
        };
        eds::LbEndpoint {
            host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(eds::Endpoint {
                address: Some(core::Address { address: Some(address) }),
                health_check_config: (checked_at > 0).then_some(check),
                ..eds::Endpoint::default()
            })),
            ..eds::LbEndpoint::default()
        }
    }

    /// A host that is known by its address has what the first of that address was configured with.
    #[test]
    fn hosts_of_now_have_what_is_configured_for_their_addresses() {
        let configured = eds::ClusterLoadAssignment {
            endpoints: vec![
                eds::LocalityLbEndpoints {
                    lb_endpoints: vec![host(1, 11), host(2, 0), host(1, 12)],
                    load_balancing_weight: Some(UInt32Value { value: 3 }),
                    ..eds::LocalityLbEndpoints::default()
                },
                eds::LocalityLbEndpoints {
                    priority: 1,
                    lb_endpoints: vec![host(3, 13)],
                    ..eds::LocalityLbEndpoints::default()
                },
            ],
            ..eds::ClusterLoadAssignment::default()
        };
        let known = Configured::of(&configured);
        let checks = [1, 2, 3, 4].map(|port| {
            let mut shown = host(port, 0);
            complete(&mut shown, &known);
            match shown.host_identifier {
                Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)) => {
                    endpoint.health_check_config.map(|check| check.port_value)
                }
                _ => None,
            }
        });
        assert_eq!(checks, [Some(11), Some(0), Some(13), Some(0)]);
        let weights = configured
            .endpoints
            .iter()
            .map(|group| known.weights.get(&place(group)));
        assert_eq!(
            weights.collect::<Vec<_>>(),
            [Some(&Some(UInt32Value { value: 3 })), Some(&None)]
        );
    }
}
