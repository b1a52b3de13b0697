//! What istiod sends, and random messages, held against `prost-reflect` over the full descriptors.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use proptest::prelude::*;
use prost_reflect::prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use remora_proto::json::{Options, Style, encode_text, merge, to_json, write_json};
use remora_proto::ledger::Report;
use remora_proto::validate::validate;
use serde_json::{Value, json};

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    POOL.get_or_init(|| DescriptorPool::decode(bytes).expect("the build script wrote it"))
}

fn dynamic(bytes: &[u8], name: &str) -> DynamicMessage {
    let descriptor = pool().get_message_by_name(name).expect("in the pool");
    DynamicMessage::decode(descriptor, bytes).expect("well-formed")
}

fn theirs(bytes: &[u8], name: &str) -> Value {
    let options = SerializeOptions::new().use_proto_field_name(true);
    let value = dynamic(bytes, name)
        .serialize_with_options(serde_json::value::Serializer, &options)
        .expect("serializes");
    plain_numbers(value)
}

fn ours(bytes: &[u8], name: &str) -> Value {
    plain_numbers(to_json(bytes, name).expect("well-formed"))
}

/// `1` and `1.0` are one number in JSON, but two in `serde_json`.
fn plain_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(plain_numbers).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| (key, plain_numbers(value)))
            .collect(),
        other => other,
    }
}

/// Every stored response, with the message it is.
fn responses() -> Vec<(PathBuf, Vec<u8>, &'static str)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/istio");
    let folders = |path: &Path| {
        std::fs::read_dir(path)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
    };
    let mut found = Vec::new();
    for file in folders(&root)
        .flat_map(|scenario| folders(&scenario).collect::<Vec<_>>())
        .flat_map(|node| folders(&node).collect::<Vec<_>>())
    {
        let name = file
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        let message = if name.starts_with("delta-") { "Delta" } else { "" };
        if name.ends_with(".pb") {
            let message = if message.is_empty() { SOTW } else { DELTA };
            let bytes = std::fs::read(&file).expect("readable");
            found.push((file, bytes, message));
        }
    }
    assert!(found.len() >= 100, "only {} fixtures", found.len());
    found
}

const SOTW: &str = "envoy.service.discovery.v3.DiscoveryResponse";
const DELTA: &str = "envoy.service.discovery.v3.DeltaDiscoveryResponse";

#[test]
fn json_of_every_fixture_is_that_of_prost_reflect() {
    for (file, bytes, name) in responses() {
        assert_eq!(ours(&bytes, name), theirs(&bytes, name), "{}", file.display());
    }
}

#[test]
fn every_fixture_survives_json_and_back_in_each_style() {
    for (file, bytes, name) in responses() {
        let before = dynamic(&bytes, name);
        for (pretty, json_names) in [(false, false), (true, true)] {
            let mut text = Vec::new();
            write_json(
                &bytes,
                name,
                &mut text,
                Style {
                    pretty,
                    json_names,
                    redact: false,
                },
            )
            .expect("well-formed");
            let text = String::from_utf8(text).expect("JSON is UTF-8");
            let back = encode_text(&text, name, &Options::default())
                .map_err(|error| format!("{}: {error}", file.display()))
                .expect("JSON of ours");
            let after = dynamic(&back.bytes, name);
            assert_eq!(opened(&after), opened(&before), "{}", file.display());
        }
    }
}

/// Map order inside an `Any`'s bytes is free, so those are compared decoded.
fn opened(message: &DynamicMessage) -> Value {
    theirs(&message.encode_to_vec(), message_name(message))
}

fn message_name(message: &DynamicMessage) -> &'static str {
    use prost_reflect::ReflectMessage;
    let name = message.descriptor().full_name().to_owned();
    [SOTW, DELTA]
        .into_iter()
        .find(|known| *known == name)
        .expect("one of the two")
}

#[test]
fn every_fixture_is_valid() {
    for (file, bytes, name) in responses() {
        let mut report = Report::new();
        validate(&bytes, name, &mut report);
        assert_eq!(report.findings, [], "{}", file.display());
    }
}

#[test]
fn merging_is_what_protobuf_does() {
    let all = responses();
    let lists: Vec<_> = all.iter().filter(|(_, _, name)| *name == SOTW).collect();
    for pair in lists.windows(2) {
        let [(_, first, _), (_, second, _)] = pair else {
            continue;
        };
        let merged = merge(first, second, SOTW).expect("well-formed");
        let mut expected = dynamic(first, SOTW);
        expected.merge(second.as_slice()).expect("well-formed");
        assert_eq!(dynamic(&merged, SOTW), expected);
    }
}

/// Messages with all kinds of fields, for random bytes.
const MIXED: &[&str] = &[
    "envoy.config.cluster.v3.Cluster",
    "envoy.config.listener.v3.Listener",
    "envoy.config.route.v3.RouteConfiguration",
    "envoy.config.bootstrap.v3.Bootstrap",
    "envoy.config.core.v3.Metadata",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    "envoy.admin.v3.ClusterStatus",
    "envoy.data.accesslog.v3.HTTPAccessLogEntry",
    "google.protobuf.Struct",
    "google.protobuf.Any",
    "stats.PluginConfig",
    "opentelemetry.proto.common.v1.AnyValue",
];

/// Field numbers and lengths that make sense more often than those of plain noise.
fn near_protobuf() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        (1u32..60, any::<u64>()).prop_map(|(number, value)| {
            let mut out = Vec::new();
            remora_proto::wire::put_tag(&mut out, number, 0);
            remora_proto::wire::put_varint(&mut out, value);
            out
        }),
        (1u32..60, "[a-z/.]{0,9}").prop_map(|(number, text)| {
            let mut out = Vec::new();
            remora_proto::wire::put_len(&mut out, number, text.as_bytes());
            out
        }),
        prop::collection::vec(any::<u8>(), 0..9),
    ];
    leaf.prop_recursive(6, 64, 4, |inner| {
        (1u32..60, prop::collection::vec(inner, 0..4)).prop_map(|(number, parts)| {
            let mut out = Vec::new();
            remora_proto::wire::put_len(&mut out, number, &parts.concat());
            out
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn bytes_never_panic(bytes in near_protobuf()) {
        for name in MIXED {
            let mut report = Report::detailed();
            validate(&bytes, name, &mut report);
            let _ = to_json(&bytes, name);
            let _ = merge(&bytes, &bytes, name);
        }
    }

    #[test]
    fn what_the_walk_passes_can_be_decoded_and_written(bytes in near_protobuf()) {
        for name in MIXED {
            let mut report = Report::new();
            validate(&bytes, name, &mut report);
            if report.findings.is_empty() {
                let descriptor = pool().get_message_by_name(name).expect("in the pool");
                prop_assert!(DynamicMessage::decode(descriptor, bytes.as_slice()).is_ok());
                let json = to_json(&bytes, name).expect("the walk passed it");
                // An `Any` of a type that nobody knows has a form of ours only.
                let options = SerializeOptions::new().use_proto_field_name(true);
                let expected = dynamic(&bytes, name).serialize_with_options(serde_json::value::Serializer, &options);
                if let Ok(expected) = expected {
                    prop_assert_eq!(plain_numbers(json.clone()), plain_numbers(expected));
                    let back = encode_text(&json.to_string(), name, &Options::default()).expect("JSON of ours");
                    prop_assert_eq!(ours(&back.bytes, name), ours(&bytes, name));
                }
            }
        }
    }

    #[test]
    fn text_never_panics(text in "[-a-z{}\\[\\]:,\"'0-9&*!#|>@. \n]{0,80}") {
        for name in ["google.protobuf.Struct", "envoy.config.bootstrap.v3.Bootstrap", "google.protobuf.Any"] {
            if let Ok(encoded) = encode_text(&text, name, &Options::default()) {
                prop_assert!(to_json(&encoded.bytes, name).is_ok());
            }
        }
    }
}
