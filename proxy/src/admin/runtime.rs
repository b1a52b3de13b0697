//! `/runtime`: the layers of the bootstrap. Values are what a layer sets, later layers win; nothing else changes them here.

use prost::Message;
use remora_proto::pb::envoy::config::bootstrap::v3::LayeredRuntime;
use remora_proto::pb::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use remora_proto::wire;
use serde_json::{Map, Value, json};

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};

/// `Bootstrap.layered_runtime`
const LAYERED_RUNTIME: u32 = 17;

pub(super) fn runtime(state: &AdminState, _: &Query) -> Reply {
    let encoded = wire::bytes_field(&state.bootstrap, LAYERED_RUNTIME)
        .ok()
        .flatten()
        .unwrap_or_default();
    let runtime = LayeredRuntime::decode(encoded).unwrap_or_default();
    let names: Vec<_> = runtime.layers.iter().map(|layer| layer.name.as_str()).collect();
    let values: Vec<Map<String, Value>> = runtime
        .layers
        .iter()
        .map(|layer| values(&layer.layer_specifier))
        .collect();
    let mut keys: Vec<&String> = values.iter().flat_map(Map::keys).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut entries = Map::new();
    for key in keys {
        let of_layers: Vec<String> = values
            .iter()
            .map(|layer| layer.get(key).map_or_else(String::new, text))
            .collect();
        let last = of_layers.iter().rfind(|value| !value.is_empty()).cloned();
        let entry = json!({"final_value": last.unwrap_or_default(), "layer_values": of_layers});
        entries.insert(key.clone(), entry);
    }
    reply::tree(&json!({"layers": names, "entries": entries}))
}

/// A layer's values under dotted keys.
fn values(layer: &Option<LayerSpecifier>) -> Map<String, Value> {
    let mut flat = Map::new();
    if let Some(LayerSpecifier::StaticLayer(layer)) = layer {
        let tree = remora_proto::json::to_json(&layer.encode_to_vec(), "google.protobuf.Struct").unwrap_or_default();
        flatten("", &tree, &mut flat);
    }
    flat
}

fn flatten(prefix: &str, tree: &Value, flat: &mut Map<String, Value>) {
    let Value::Object(members) = tree else {
        return;
    };
    for (name, value) in members {
        let key = match prefix {
            "" => name.clone(),
            _ => format!("{prefix}.{name}"),
        };
        // A fractional percent is a value, not a level.
        match value {
            Value::Object(inner) if !inner.contains_key("numerator") => flatten(&key, value, flat),
            _ => {
                flat.insert(key, value.clone());
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
