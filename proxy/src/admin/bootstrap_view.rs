//! What the pages read out of the encoded bootstrap, without decoding it as a whole.

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::listener::v3::Listener;
use remora_proto::pb::google::protobuf::Any;
use remora_proto::wire::{self, Fields, Value};

/// `Bootstrap.node`, `Bootstrap.static_resources`
const NODE: u32 = 1;
const STATIC_RESOURCES: u32 = 2;
/// `HttpConnectionManager.route_config`
const ROUTE_CONFIG: u32 = 4;

/// The static resources of a kind, by their field of `Bootstrap.StaticResources`.
#[derive(Clone, Copy)]
pub(super) enum Static {
    Listeners = 1,
    Clusters = 2,
    Secrets = 3,
}

/// The node's JSON; null when there is none.
pub(super) fn node(bootstrap: &[u8]) -> serde_json::Value {
    let node = wire::bytes_field(bootstrap, NODE).ok().flatten().unwrap_or_default();
    remora_proto::json::to_json(node, "envoy.config.core.v3.Node").unwrap_or_default()
}

/// Name and bytes of each static resource of one kind, in order.
pub(super) fn resources(bootstrap: &Bytes, kind: Static) -> Vec<(String, Bytes)> {
    let section = wire::bytes_field(bootstrap, STATIC_RESOURCES)
        .ok()
        .flatten()
        .unwrap_or_default();
    let resource = |field: wire::Field<'_>| match field.value {
        Value::Len(bytes) if field.number == kind as u32 => {
            let name = wire::name(bytes).unwrap_or_default().to_owned();
            Some((name, bootstrap.slice_ref(bytes)))
        }
        _ => None,
    };
    Fields::new(section).flatten().filter_map(resource).collect()
}

/// The route configurations that stand inside the connection managers of a listener.
pub(super) fn inline_routes(listener: &[u8]) -> Vec<(String, Bytes)> {
    let Ok(listener) = Listener::decode(listener) else {
        return Vec::new();
    };
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let filters = chains.flat_map(|chain| &chain.filters);
    let configs = filters.filter_map(|filter| match &filter.config_type {
        Some(remora_proto::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    });
    configs.filter_map(route_config).collect()
}

fn route_config(config: &Any) -> Option<(String, Bytes)> {
    const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let (name, bytes) = remora_proto::any::content(config).ok()?;
    if name != MANAGER {
        return None;
    }
    let route = wire::bytes_field(&bytes, ROUTE_CONFIG).ok().flatten()?;
    let name = wire::name(route).unwrap_or_default().to_owned();
    Some((name, Bytes::copy_from_slice(route)))
}
