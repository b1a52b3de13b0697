//! Encoded resources of the sizes that are measured.

use bytes::Bytes;
use control_plane_mock::resources::{cluster_static, endpoints, hcm, listener_http, listener_tcp, route_config};
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::core::v3::{Address, EnvoyInternalAddress, address, envoy_internal_address};
use remora_proto::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use remora_proto::pb::envoy::config::listener::v3::Listener;
use remora_proto::pb::envoy::config::route::v3::RouteConfiguration;

/// Name of service `index` of a large mesh.
pub fn service(index: usize) -> String {
    format!("svc-{index}.default.svc.cluster.local")
}

/// A cluster whose only host is the internal listener `name`.
pub fn internal_cluster(name: &str) -> Bytes {
    let specifier = envoy_internal_address::AddressNameSpecifier::ServerListenerName(name.to_owned());
    let internal = EnvoyInternalAddress {
        address_name_specifier: Some(specifier),
        ..Default::default()
    };
    let address = Address {
        address: Some(address::Address::EnvoyInternalAddress(internal)),
    };
    let endpoint = Endpoint {
        address: Some(address),
        ..Default::default()
    };
    let host = LbEndpoint {
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    };
    let mut cluster = Cluster::from(cluster_static(name, []));
    cluster.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![host],
            ..Default::default()
        }],
        ..Default::default()
    });
    cluster.encode_to_vec().into()
}

/// An HTTP listener that routes everything to `cluster`.
pub fn http_listener(cluster: &str) -> Vec<u8> {
    let routes = route_config("bench").vhost(["*"]).route("/", cluster);
    Listener::from(listener_http("bench", "127.0.0.1", 1, hcm("bench").inline(routes))).encode_to_vec()
}

/// A TCP listener to `cluster`.
pub fn tcp_proxy_listener(cluster: &str) -> Vec<u8> {
    Listener::from(listener_tcp("bench", "127.0.0.1", 1, cluster)).encode_to_vec()
}

/// `count` virtual hosts with two domains and one route each.
pub fn virtual_hosts(count: usize) -> Bytes {
    let mut config = RouteConfiguration::from(route_config("bench").vhost(["*"]).route("/", "fallback"));
    for index in 0..count {
        let name = service(index);
        let short = name.split('.').next().unwrap_or_default();
        let one = route_config("one").vhost([name.as_str(), short]).route("/", &name);
        config.virtual_hosts.extend(RouteConfiguration::from(one).virtual_hosts);
    }
    config.encode_to_vec().into()
}

/// A static cluster of `hosts` made-up hosts.
pub fn cluster(index: usize, hosts: usize) -> Cluster {
    let name = service(index);
    let addresses: Vec<String> = (0..hosts).map(|host| host_address(index, host)).collect();
    cluster_static(&name, addresses.iter().map(|address| (address.as_str(), 8080))).into()
}

/// The assignment of an EDS cluster of five made-up hosts.
pub fn assignment(index: usize) -> Bytes {
    let addresses: Vec<String> = (0..5).map(|host| host_address(index, host)).collect();
    let hosts = addresses.iter().map(|address| (address.as_str(), 8080));
    endpoints(&service(index), hosts).build().encode_to_vec().into()
}

fn host_address(index: usize, host: usize) -> String {
    format!("10.{}.{}.{}", index / 250, index % 250, 1 + host)
}
