//! Encoded resources of the sizes that are measured.

use bytes::Bytes;
use control_plane_mock::pki::{Authority, Identity};
use control_plane_mock::resources::{cluster_static, endpoints, hcm, listener_http, listener_tcp, route_config};
use prost::{DecodeError, Message};
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::core::v3::{
    Address, EnvoyInternalAddress, TransportSocket, address, envoy_internal_address, transport_socket,
};
use remora_proto::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use remora_proto::pb::envoy::config::listener::v3::Listener;
use remora_proto::pb::envoy::config::route::v3::RouteConfiguration;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CommonTlsContext, DownstreamTlsContext, UpstreamTlsContext, secret,
};
use remora_proto::pb::google::protobuf::{Any, BoolValue};

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

/// The same for the server's side of a mesh pair: mutual TLS.
pub fn mesh_listener(cluster: &str, own: &Identity, root: &Authority) -> Vec<u8> {
    let mut listener = Listener::from(listener_http(
        "bench",
        "127.0.0.1",
        1,
        hcm("bench").inline(route_config("bench").vhost(["*"]).route("/", cluster)),
    ));
    let context = DownstreamTlsContext {
        common_tls_context: Some(mutual(own, root)),
        require_client_certificate: Some(BoolValue { value: true }),
        ..Default::default()
    };
    for chain in &mut listener.filter_chains {
        chain.transport_socket = Some(tls("DownstreamTlsContext", context.encode_to_vec()));
    }
    listener.encode_to_vec()
}

/// As [`internal_cluster`], for the client's side of a mesh pair: HTTP/2 over mutual TLS.
pub fn mesh_cluster(name: &str, own: &Identity, root: &Authority) -> Result<Bytes, DecodeError> {
    let mut cluster = Cluster::decode(internal_cluster(name))?;
    let context = UpstreamTlsContext {
        common_tls_context: Some(mutual(own, root)),
        ..Default::default()
    };
    cluster.transport_socket = Some(tls("UpstreamTlsContext", context.encode_to_vec()));
    cluster.typed_extension_protocol_options =
        Cluster::from(cluster_static(name, []).http2()).typed_extension_protocol_options;
    Ok(cluster.encode_to_vec().into())
}

fn mutual(own: &Identity, root: &Authority) -> CommonTlsContext {
    let own = match own.secret("own").r#type {
        Some(secret::Type::TlsCertificate(certificate)) => vec![certificate],
        _ => Vec::new(),
    };
    let root = match root.secret("root").r#type {
        Some(secret::Type::ValidationContext(context)) => Some(ValidationContextType::ValidationContext(context)),
        _ => None,
    };
    CommonTlsContext {
        tls_certificates: own,
        validation_context_type: root,
        alpn_protocols: vec!["h2".to_owned()],
        ..Default::default()
    }
}

fn tls(context: &str, value: Vec<u8>) -> TransportSocket {
    let any = Any {
        type_url: format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{context}"),
        value,
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any)),
    }
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
