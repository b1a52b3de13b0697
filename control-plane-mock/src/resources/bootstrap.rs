//! A bootstrap file that points a sidecar (Envoy or Remora) at a control plane.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::server::Listen;

/// Which variant of the protocol the sidecar is to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variant {
    /// State of the world, aggregated.
    #[default]
    Sotw,
    /// Delta, aggregated.
    Delta,
}

/// A bootstrap (JSON, which is YAML too) with LDS and CDS over ADS from `control_plane`, and the admin listener at `admin`.
///
/// ```
/// use control_plane_mock::{Listen, resources::{Variant, bootstrap_ads}};
/// let xds = Listen::Tcp(([127, 0, 0, 1], 18000).into());
/// let text = bootstrap_ads("node-1", &xds, ([127, 0, 0, 1], 9901).into(), Variant::Delta);
/// assert!(text.contains("DELTA_GRPC"));
/// ```
pub fn bootstrap_ads(node_id: &str, control_plane: &Listen, admin: SocketAddr, variant: Variant) -> String {
    bootstrap_ads_with(node_id, control_plane, admin, variant, |_| {})
}

/// As [`bootstrap_ads`], with a last word on the JSON.
pub fn bootstrap_ads_with(
    node_id: &str,
    control_plane: &Listen,
    admin: SocketAddr,
    variant: Variant,
    change: impl FnOnce(&mut Value),
) -> String {
    let api_type = match variant {
        Variant::Sotw => "GRPC",
        Variant::Delta => "DELTA_GRPC",
    };
    let source = json!({"resource_api_version": "V3", "ads": {}});
    let mut bootstrap = json!({
        "node": {"id": node_id, "cluster": "control-plane-mock"},
        "admin": {"address": tcp_address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER}}],
            },
            "lds_config": source,
            "cds_config": source,
        },
        "static_resources": {"clusters": [xds_cluster(control_plane)]},
    });
    change(&mut bootstrap);
    // A `Value` made of strings, numbers and maps with string keys always prints.
    serde_json::to_string_pretty(&bootstrap).unwrap_or_default()
}

/// Name of the static cluster that leads to the control plane.
const XDS_CLUSTER: &str = "xds_cluster";

fn xds_cluster(control_plane: &Listen) -> Value {
    let address = match control_plane {
        Listen::Tcp(address) => tcp_address(*address),
        Listen::Unix(path) => json!({"pipe": {"path": path.display().to_string()}}),
    };
    json!({
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}},
                },
            },
        },
    })
}

fn tcp_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
