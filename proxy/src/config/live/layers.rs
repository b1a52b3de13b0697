//! `layered_runtime`: flat keys by layer, later layers over earlier ones.

use std::collections::{BTreeMap, HashMap};

use remora_proto::pb::envoy::config::bootstrap::v3 as pb;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};

use pb::runtime_layer::LayerSpecifier;

use super::Setting;
use crate::config::route::Fraction;
use crate::config::{Compiled, Problems};

/// The layers in order, as `/runtime` shows them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuntimeLayers(pub Vec<RuntimeLayer>);

#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeLayer {
    pub name: String,
    /// Nothing but an operator's own values at run time may change it.
    pub is_admin: bool,
    /// By dotted key.
    pub values: BTreeMap<String, RuntimeValue>,
}

/// One value, as it was written and as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeValue {
    /// Numbers and booleans in their JSON form.
    pub text: String,
    pub setting: Setting,
}

impl RuntimeLayers {
    /// The value in force.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut layers = self.0.iter().rev();
        layers
            .find_map(|layer| layer.values.get(key))
            .map(|value| value.text.as_str())
    }

    /// What is in force of each key.
    pub fn settings(&self) -> HashMap<String, Setting> {
        let values = self.0.iter().flat_map(|layer| &layer.values);
        values.map(|(key, value)| (key.clone(), value.setting)).collect()
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
    pub fn compile(config: Option<&pb::LayeredRuntime>) -> Compiled<(Self, Vec<String>)> {
        let mut layers: Vec<RuntimeLayer> = Vec::new();
        let mut warnings = Vec::new();
        let mut problems = Problems::default();
        for (index, layer) in config.into_iter().flat_map(|config| &config.layers).enumerate() {
            let mut refuse = |field: &str, reason: String| {
                let path = format!("layers[{index}].{field}");
                problems.0.extend(Problems::one(path, reason).0);
            };
            if layers.iter().any(|other| other.name == layer.name) {
                refuse("name", format!("the name {:?} stands twice", layer.name));
            }
            let mut values = BTreeMap::new();
            match &layer.layer_specifier {
                Some(LayerSpecifier::StaticLayer(fields)) => {
                    if let Err(key) = flatten("", fields, &mut values) {
                        refuse("static_layer", format!("invalid runtime entry value for {key}"));
                    }
                }
                Some(LayerSpecifier::AdminLayer(_)) => {}
                Some(LayerSpecifier::DiskLayer(_)) => refuse("disk_layer", "not supported".to_owned()),
                Some(LayerSpecifier::RtdsLayer(_)) => refuse("rtds_layer", "not supported".to_owned()),
                None => refuse("layer_specifier", "required".to_owned()),
            }
            let without_effect = values.keys().filter(|key| has_no_effect(key));
            warnings.extend(
                without_effect
                    .map(|key| format!("the runtime key {key} has no effect unless something is configured with it")),
            );
            layers.push(RuntimeLayer {
                name: layer.name.clone(),
                is_admin: matches!(layer.layer_specifier, Some(LayerSpecifier::AdminLayer(_))),
                values,
            });
        }
        problems.into_result().map(|()| (Self(layers), warnings))
    }
}

impl RuntimeValue {
    /// What an operator typed: YAML, read as yaml-cpp reads it; text that is none is text.
    pub fn typed(text: &str) -> Self {
        let plain = text.trim();
        let flag = match plain {
            _ if TRUE.contains(&plain) => Some(true),
            _ if FALSE.contains(&plain) => Some(false),
            _ => None,
        };
        let setting = match (flag, remora_proto::json::parse(text)) {
            (Some(flag), _) => Setting {
                flag: Some(flag),
                ..Setting::default()
            },
            (None, Ok(serde_json::Value::Object(fields))) => {
                let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_f64);
                let text = |name: &str| fields.get(name).and_then(serde_json::Value::as_str);
                fraction(number("numerator"), text("denominator"))
            }
            // A quoted number is a number too.
            (None, Ok(serde_json::Value::String(inner))) => of_text(&inner),
            (None, _) => of_text(plain),
        };
        Self {
            text: text.to_owned(),
            setting,
        }
    }
}

/// How yaml-cpp spells booleans.
const TRUE: &[&str] = &["true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"];
const FALSE: &[&str] = &[
    "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N",
];

const MAX_CONNECTIONS: &str = "overload.global_downstream_max_connections";

/// The listener that a key limits.
fn limited(key: &str) -> Option<&str> {
    key.strip_prefix("envoy.resource_limits.listener.")?
        .strip_suffix(".connection_limit")
}

/// Whether Envoy reads this key of its own accord and we do not. Any other is read by what is configured with it.
fn has_no_effect(key: &str) -> bool {
    let known = HARMLESS.contains(&key)
        || HONOURED.contains(&key)
        || limited(key).is_some()
        || key.starts_with(MAINTENANCE_MODE);
    !known && BUILT_IN.iter().any(|prefix| key.starts_with(prefix))
}

/// What the keys that stand nowhere in a configuration start with.
const BUILT_IN: &[&str] = &[
    "circuit_breakers.",
    "conn_pool.",
    "envoy.",
    "fault.",
    "health_check.",
    "http.",
    "listener.",
    "load_balancing.",
    "mongo.",
    "outlier_detection.",
    "overload.",
    "ratelimit.",
    "re2.",
    "redis.",
    "regex.",
    "tcp.",
    "tracing.",
    "upstream.",
    "zookeeper.",
];

/// Those of them that count here.
const HONOURED: &[&str] = &[
    MAX_CONNECTIONS,
    fault::ABORT_GRPC,
    fault::ABORT_HTTP,
    fault::ABORT_PERCENT,
    fault::DELAY_MS,
    fault::DELAY_PERCENT,
    fault::MAX_ACTIVE,
    REJECT_FRAGMENTS,
];

/// With a cluster's name behind it: the share of its requests that are answered by 503.
pub const MAINTENANCE_MODE: &str = "upstream.maintenance_mode.";

/// Whether a request whose path has a fragment is refused, rather than served without it. On by default.
pub const REJECT_FRAGMENTS: &str = "envoy.reloadable_features.http_reject_path_with_fragment";

/// The keys of the fault filter where its configuration names no others.
pub mod fault {
    pub const ABORT_GRPC: &str = "fault.http.abort.grpc_status";
    pub const ABORT_HTTP: &str = "fault.http.abort.http_status";
    pub const ABORT_PERCENT: &str = "fault.http.abort.abort_percent";
    pub const DELAY_MS: &str = "fault.http.delay.fixed_duration_ms";
    pub const DELAY_PERCENT: &str = "fault.http.delay.fixed_delay_percent";
    pub const MAX_ACTIVE: &str = "fault.http.max_active_faults";
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
///
/// # Errors
/// The key of a value that is none.
fn flatten(prefix: &str, fields: &Struct, values: &mut BTreeMap<String, RuntimeValue>) -> Result<(), String> {
    for (key, value) in &fields.fields {
        let name = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        let setting = match &value.kind {
            Some(Kind::StructValue(inner)) if !is_fraction(inner) => {
                flatten(&name, inner, values)?;
                continue;
            }
            Some(Kind::StructValue(inner)) => {
                let denominator = inner.fields.get("denominator").map(text);
                fraction(inner.fields.get("numerator").and_then(number), denominator.as_deref())
            }
            Some(Kind::BoolValue(flag)) => Setting {
                flag: Some(*flag),
                ..Setting::default()
            },
            Some(Kind::NumberValue(number)) => Setting::number(*number),
            Some(Kind::StringValue(text)) => of_text(text),
            Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => return Err(name),
        };
        let text = text(value);
        values.insert(name, RuntimeValue { text, setting });
    }
    Ok(())
}

fn is_fraction(fields: &Struct) -> bool {
    ["numerator", "denominator"]
        .iter()
        .any(|name| fields.fields.contains_key(*name))
}

fn number(value: &Value) -> Option<f64> {
    match value.kind {
        Some(Kind::NumberValue(number)) => Some(number),
        _ => None,
    }
}

/// What is no fraction is not set.
fn fraction(numerator: Option<f64>, denominator: Option<&str>) -> Setting {
    let denominator = match denominator {
        None | Some("HUNDRED" | "0") => 100,
        Some("TEN_THOUSAND" | "1") => 10_000,
        Some("MILLION" | "2") => 1_000_000,
        Some(_) => return Setting::default(),
    };
    let fraction = numerator.filter(|number| *number >= 0.0).map(|number| Fraction {
        numerator: number as u32,
        denominator,
    });
    Setting {
        fraction,
        ..Setting::default()
    }
}

fn of_text(text: &str) -> Setting {
    text.trim().parse().map_or_else(|_| Setting::default(), Setting::number)
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
