//! A running Envoy's `/config_dump`, resource by resource.

use std::fmt::Write as _;

use prost::Message;
use remora_proto::json;
use remora_proto::pb::envoy::config::core::v3::data_source::Specifier;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use serde_json::{Map, Value};

use super::{ENDPOINTS, SECRET, Verdict};
use crate::bootstrap::{self, Bootstrap};
use crate::cli::Options;
use crate::config::fields::{self, Warning};
use crate::config::{BuildContext, Compiled, Problems};

/// Lists of a dump, and where in an item of each the resource stands. Of a dynamic listener there may be several states.
const LISTS: &[(&str, &[&[&str]])] = &[
    ("static_clusters", &[&["cluster"]]),
    ("dynamic_active_clusters", &[&["cluster"]]),
    ("dynamic_warming_clusters", &[&["cluster"]]),
    ("static_listeners", &[&["listener"]]),
    (
        "dynamic_listeners",
        &[
            &["active_state", "listener"],
            &["warming_state", "listener"],
            &["draining_state", "listener"],
        ],
    ),
    ("static_route_configs", &[&["route_config"]]),
    ("dynamic_route_configs", &[&["route_config"]]),
    ("inline_scoped_route_configs", &[&["scoped_route_configs"]]),
    ("dynamic_scoped_route_configs", &[&["scoped_route_configs"]]),
    ("static_secrets", &[&["secret"]]),
    ("dynamic_active_secrets", &[&["secret"]]),
    ("dynamic_warming_secrets", &[&["secret"]]),
    ("static_endpoint_configs", &[&["endpoint_config"]]),
    ("dynamic_endpoint_configs", &[&["endpoint_config"]]),
    ("ecds_filters", &[&["ecds_filter"]]),
];

/// What Envoy prints in place of a private key.
const REDACTED: &str = "[redacted]";

/// Counts, and the lines so far.
#[derive(Default)]
struct Report {
    text: String,
    accepted: usize,
    tolerated: usize,
    refused: usize,
}

/// # Errors
/// The text is no dump.
pub(super) fn report(text: &str, options: &Options) -> Result<Verdict, String> {
    let dump = json::parse(text).map_err(|error| error.to_string())?;
    let configs = dump.get("configs").and_then(Value::as_array);
    let configs = configs.ok_or_else(|| "not a config dump: there is no list named configs".to_owned())?;
    let cx = BuildContext::default();
    let mut report = Report::default();
    for config in configs {
        if let Some(bootstrap) = config.get("bootstrap") {
            report.bootstrap(bootstrap, options);
        }
        for (list, places) in LISTS {
            for item in config.get(*list).and_then(Value::as_array).into_iter().flatten() {
                for place in *places {
                    if let Some(found) = place.iter().try_fold(item, |value, key| value.get(*key)) {
                        report.resource(found, &cx, options);
                    }
                }
            }
        }
    }
    if report.text.is_empty() {
        return Err("no bootstrap, listener, cluster, route, secret or endpoint is in it".to_owned());
    }
    let Report {
        accepted,
        tolerated,
        refused,
        ..
    } = report;
    let _ = write!(
        report.text,
        "{accepted} accepted, {tolerated} tolerated, {refused} refused"
    );
    Ok(Verdict {
        text: report.text,
        is_ok: refused == 0,
    })
}

impl Report {
    /// Without its static resources, which stand in lists of their own.
    fn bootstrap(&mut self, value: &Value, options: &Options) {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("static_resources");
        }
        let (bytes, unknown) = match encode(&value, bootstrap::MESSAGE) {
            Ok(encoded) => encoded,
            Err(problems) => return self.add("bootstrap", "", Err(problems)),
        };
        let checked = fields::check(bootstrap::MESSAGE, &bytes, options.unsupported).and_then(|mut warnings| {
            let decoded = Bootstrap::decode_detached(bytes.clone(), options)?;
            let said = decoded.warnings.into_iter().map(|reason| Warning::new("", reason));
            warnings.extend(unknown.into_iter().chain(said));
            warnings.extend(fields::tolerated(bootstrap::MESSAGE, &bytes));
            Ok(warnings)
        });
        self.add("bootstrap", "", checked);
    }

    fn resource(&mut self, value: &Value, cx: &BuildContext, options: &Options) {
        if let Some(list) = value.as_array() {
            return list.iter().for_each(|one| self.resource(one, cx, options));
        }
        let url = value.get("@type").and_then(Value::as_str).unwrap_or_default();
        let message = remora_proto::type_url::full_name(url);
        let kind = message.rsplit('.').next().unwrap_or_default();
        let named = value.get("name").or_else(|| value.get("cluster_name"));
        let name = named.and_then(Value::as_str).unwrap_or_default();
        let mut plain: Map<String, Value> = value.as_object().cloned().unwrap_or_default();
        plain.remove("@type");
        if message == ENDPOINTS {
            without_zero_weights(&mut plain);
        }
        let checked = encode(&Value::Object(plain), message).and_then(|(bytes, unknown)| {
            let mut warnings = if message == SECRET && is_redacted(&bytes) {
                // The key is not in a dump: what else there is can still be held against the tables.
                fields::check(message, &bytes, options.unsupported)?
            } else {
                without_absent_files(super::resource(message, &bytes.clone().into(), cx, options.unsupported))?
            };
            warnings.extend(unknown);
            warnings.extend(fields::tolerated(message, &bytes));
            Ok(warnings)
        });
        self.add(kind, name, checked);
    }

    fn add(&mut self, kind: &str, name: &str, checked: Compiled<Vec<Warning>>) {
        let (word, count, lines): (_, _, Vec<String>) = match checked {
            Ok(warnings) if warnings.is_empty() => ("accepted", &mut self.accepted, Vec::new()),
            Ok(warnings) => (
                "tolerated",
                &mut self.tolerated,
                warnings.iter().map(ToString::to_string).collect(),
            ),
            Err(problems) => (
                "refused",
                &mut self.refused,
                problems.0.iter().map(ToString::to_string).collect(),
            ),
        };
        *count += 1;
        let _ = writeln!(self.text, "{}", format!("{word:9} {kind} {name}").trim_end());
        for line in lines {
            let _ = writeln!(self.text, "    {line}");
        }
    }
}

/// The encoded resource, and warnings about fields that its schema lacks.
fn encode(value: &Value, message: &str) -> Compiled<(Vec<u8>, Vec<Warning>)> {
    let options = json::Options {
        ignore_unknown: true,
        ..json::Options::default()
    };
    let encoded = json::encode_value(value, message, &options).map_err(|found| {
        let one = |problem: json::Problem| crate::config::Problem {
            path: problem.path,
            reason: problem.reason,
        };
        Problems(found.0.into_iter().map(one).collect())
    })?;
    let unknown = encoded
        .ignored
        .into_iter()
        .map(|problem| Warning::new(&problem.path, problem.reason));
    Ok((encoded.bytes, unknown.collect()))
}

/// Envoy prints a locality's weight as 0 where none is set, which no control plane may send.
fn without_zero_weights(assignment: &mut Map<String, Value>) {
    let localities = assignment.get_mut("endpoints").and_then(Value::as_array_mut);
    for locality in localities.into_iter().flatten().filter_map(Value::as_object_mut) {
        if locality.get("load_balancing_weight").and_then(Value::as_u64) == Some(0) {
            locality.remove("load_balancing_weight");
        }
    }
}

/// Files of the proxy that the dump is of are not judged where they are not: certificates, and keys, whose names are not even told.
fn without_absent_files(checked: Compiled<Vec<Warning>>) -> Compiled<Vec<Warning>> {
    let Err(Problems(problems)) = checked else {
        return checked;
    };
    let is_absent = |problem: &crate::config::Problem| {
        problem.path.ends_with("filename") && problem.reason.starts_with("cannot read ")
    };
    let (absent, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(is_absent);
    if !others.is_empty() {
        return Err(Problems(others));
    }
    let warning = |problem: crate::config::Problem| Warning::new(&problem.path, problem.reason + ": not judged");
    Ok(absent.into_iter().map(warning).collect())
}

fn is_redacted(bytes: &[u8]) -> bool {
    let Ok(Secret {
        r#type: Some(secret::Type::TlsCertificate(certificate)),
        ..
    }) = Secret::decode(bytes)
    else {
        return false;
    };
    match certificate.private_key.and_then(|key| key.specifier) {
        Some(Specifier::InlineBytes(bytes)) => bytes == REDACTED.as_bytes(),
        Some(Specifier::InlineString(text)) => text == REDACTED,
        _ => false,
    }
}
