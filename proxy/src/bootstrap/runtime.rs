//! `layered_runtime`: flat keys by layer, later layers over earlier ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use remora_proto::pb::envoy::config::bootstrap::v3 as pb;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use pb::runtime_layer::LayerSpecifier;

use crate::config::{Compiled, Problems};

/// The layers in order, as `/runtime` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeLayers(pub Vec<RuntimeLayer>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeLayer {
    pub name: String,
    /// Nothing but an operator's own values at run time may change it.
    pub is_admin: bool,
    /// Dotted keys; numbers and booleans in their JSON form.
    pub values: BTreeMap<String, String>,
}

impl RuntimeLayers {
    /// The value in force.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find_map(|layer| layer.values.get(key))
            .map(String::as_str)
    }

    /// How many keys some layer sets.
    pub fn key_count(&self) -> usize {
        let keys: BTreeSet<&String> = self.0.iter().flat_map(|layer| layer.values.keys()).collect();
        keys.len()
    }

    /// `overload.global_downstream_max_connections`, where no resource monitor says it.
    pub fn max_connections(&self) -> Option<u64> {
        self.get(MAX_CONNECTIONS)?.parse().ok()
    }

    /// How many connections listeners may have, by name. What is no number is no limit, as in Envoy.
    pub fn connection_limits(&self) -> HashMap<String, u64> {
        let keys = self.0.iter().flat_map(|layer| layer.values.keys());
        let limit = |key: &String| Some((limited(key)?.to_owned(), self.get(key)?.parse().ok()?));
        keys.filter_map(limit).collect()
    }

    /// With warnings about keys that have no effect here.
    pub(super) fn compile(config: Option<&pb::LayeredRuntime>) -> Compiled<(Self, Vec<String>)> {
        let mut layers: Vec<RuntimeLayer> = Vec::new();
        let mut warnings = Vec::new();
        let mut problems = Problems::default();
        for (index, layer) in config.into_iter().flat_map(|config| &config.layers).enumerate() {
            let mut refuse = |field: &str, reason: String| {
                problems
                    .0
                    .extend(Problems::one(format!("layers[{index}].{field}"), reason).0);
            };
            if layers.iter().any(|other| other.name == layer.name) {
                refuse("name", format!("the name {:?} stands twice", layer.name));
            }
            let mut values = BTreeMap::new();
            match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(fields)) => flatten("", fields, &mut values),
                Some(LayerSpecifier::AdminLayer(_)) => {}
                Some(LayerSpecifier::DiskLayer(_)) => refuse("disk_layer", "not supported".to_owned()),
                Some(LayerSpecifier::RtdsLayer(_)) => refuse("rtds_layer", "not supported".to_owned()),
                None => refuse("layer_specifier", "required".to_owned()),
            }
            let without_effect = values
                .keys()
                .filter(|key| !HARMLESS.contains(&key.as_str()) && *key != MAX_CONNECTIONS && limited(key).is_none());
            warnings.extend(without_effect.map(|key| format!("the runtime key {key} has no effect")));
            layers.push(RuntimeLayer {
                name: layer.name.clone(),
                is_admin: matches!(layer.layer_specifier, Some(LayerSpecifier::AdminLayer(_))),
                values,
            });
        }
        problems.into_result().map(|()| (Self(layers), warnings))
    }
}

const MAX_CONNECTIONS: &str = "overload.global_downstream_max_connections";

/// The listener that a key limits.
fn limited(key: &str) -> Option<&str> {
    key.strip_prefix("envoy.resource_limits.listener.")?
        .strip_suffix(".connection_limit")
}

/// Keys that a mesh sets and that tune what is not here: RE2's programs, the heap monitor, load balancer rebuilds, and permission to use
/// a field that is always allowed.
const HARMLESS: &[&str] = &[
    "re2.max_program_size.error_level",
    "re2.max_program_size.warn_level",
    "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst",
    "envoy.reloadable_features.fixed_heap_use_allocated",
    "envoy.reloadable_features.coalesce_lb_rebuilds_on_batch_update",
];

/// Maps are levels of a dotted key, except for a fractional percentage.
fn flatten(prefix: &str, fields: &Struct, values: &mut BTreeMap<String, String>) {
    for (key, value) in &fields.fields {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match &value.kind {
            Some(Kind::StructValue(inner)) if !inner.fields.contains_key("numerator") => flatten(&name, inner, values),
            _ => {
                values.insert(name, text(value));
            }
        }
    }
}

fn text(value: &Value) -> String {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::BoolValue(flag)) => flag.to_string(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::StructValue(fields)) => {
            let part = |name: &str| fields.fields.get(name).map(text).unwrap_or_default();
            format!(
                "{{\"numerator\":{},\"denominator\":\"{}\"}}",
                part("numerator"),
                part("denominator")
            )
        }
        _ => String::new(),
    }
}
