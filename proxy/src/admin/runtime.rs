//! `/runtime`: the layers of the bootstrap, later layers win; `/runtime_modify`: what an operator sets in the admin layer.

use http::StatusCode;
use serde_json::{Map, json};

use super::AdminState;
use super::query::Query;
use super::reply::{self, Reply};

pub(super) const MODIFY: &str = "/runtime_modify";

const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n\
    \x20      or send the parameters as form values\n\
    use an empty value to remove a previously added override";

pub(super) fn runtime(state: &AdminState, _: &Query) -> Reply {
    let layers = state.runtime.layers();
    let names: Vec<_> = layers.0.iter().map(|layer| layer.name.as_str()).collect();
    let mut keys: Vec<&String> = layers.0.iter().flat_map(|layer| layer.values.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let mut entries = Map::new();
    for key in keys {
        let of_layers = layers.0.iter().map(|layer| layer.values.get(key));
        let of_layers: Vec<&str> = of_layers
            .map(|value| value.map_or("", |value| value.text.as_str()))
            .collect();
        let last = layers.get(key).unwrap_or_default();
        let entry = json!({"final_value": last, "layer_values": of_layers});
        entries.insert(key.clone(), entry);
    }
    reply::tree(&json!({"layers": names, "entries": entries}))
}

pub(super) fn modify(state: &AdminState, query: &Query) -> Reply {
    if query.pairs().is_empty() {
        return reply::bad_request(USAGE.to_owned());
    }
    match state.runtime.modify(query.pairs()) {
        Ok(()) => reply::done(),
        Err(none) => reply::text(StatusCode::SERVICE_UNAVAILABLE, none.to_string()),
    }
}
