//! What Envoy accepts although no standard asks for it; seen with `envoy --mode validate` and on its `/config_dump`.

use super::*;

const NODE: &str = "envoy.config.core.v3.Node";

/// A JSON file.
fn file(text: &str, name: &str) -> Result<Encoded, Problems> {
    let options = Options {
        format: Format::Json,
        ..Options::default()
    };
    encode_text(text, name, &options)
}

/// The message, and the paths of its notes.
fn noted(encoded: &Encoded, name: &str) -> (serde_json::Value, Vec<String>) {
    let paths = encoded.notes.iter().map(|note| note.path.clone());
    (to_json(&encoded.bytes, name).expect("well-formed"), paths.collect())
}

#[test]
fn scalars_in_quotes() {
    let flag = |text: &str| {
        json(
            &format!("{{ipv4_compat: '{text}'}}"),
            "envoy.config.core.v3.SocketAddress",
        )
    };
    for text in ["true", "True", "t", "yes", "Y", "1"] {
        assert_eq!(flag(text), json!({"ipv4_compat": true}), "{text}");
    }
    for text in ["false", "F", "no", "n", "0"] {
        assert_eq!(flag(text), json!({}), "{text}");
    }
    let wrapped = |text: &str, name: &str| json(&format!("'{text}'"), &format!("google.protobuf.{name}"));
    for (text, number) in [
        ("+5", 5),
        ("0x1F", 31),
        ("-0X1", -1),
        ("017", 17),
        ("1e3", 1000),
        ("0x1.8p3", 12),
    ] {
        assert_eq!(wrapped(text, "Int32Value"), json!(number), "{text}");
    }
    for (text, number) in [
        (" 50 ", 50.0),
        ("+.5", 0.5),
        ("5.", 5.0),
        ("-0x10", -16.0),
        ("0x1p-1", 0.5),
    ] {
        assert_eq!(wrapped(text, "DoubleValue").as_f64(), Some(number), "{text}");
    }
    assert_eq!(wrapped("-infinity", "DoubleValue"), json!("-Infinity"));
    assert_eq!(wrapped("1e400", "DoubleValue"), json!("Infinity"));
    assert_eq!(wrapped("nan", "FloatValue"), json!("NaN"));
    // Both alphabets at once, and bits that belong to no byte.
    assert_eq!(wrapped("-/-/", "BytesValue"), json!("+/+/"));
    assert_eq!(wrapped("YR", "BytesValue"), json!("YQ=="));
}

#[test]
fn enums_in_any_case_and_by_number() {
    let route = "envoy.config.route.v3.RouteAction";
    for text in ["high", "High", "\"1\"", "1"] {
        assert_eq!(
            json(&format!("{{priority: {text}}}"), route),
            json!({"priority": "HIGH"})
        );
    }
    assert!(reason("{priority: highest}", route).contains("is not a value of"));
}

#[test]
fn durations_and_wrappers_as_messages() {
    let route = "envoy.config.route.v3.RouteAction";
    let timeout = |text: &str| json(&format!("{{timeout: {text}}}"), route)["timeout"].clone();
    assert_eq!(timeout("{seconds: 1, nanos: 5}"), "1.000000005s");
    assert_eq!(timeout("{seconds: '2'}"), "2s");
    assert_eq!(timeout("{}"), "0s");
    assert!(reason("{timeout: {seconds: 1, minutes: 2}}", route).contains("timeout.minutes"));
    assert!(reason("{timeout: {seconds: 315576000001}}", route).contains("out of range"));
    let cluster = |text: &str| json(&format!("{{per_connection_buffer_limit_bytes: {text}}}"), CLUSTER);
    assert_eq!(cluster("{value: 5}"), json!({"per_connection_buffer_limit_bytes": 5}));
    assert_eq!(cluster("{}"), json!({"per_connection_buffer_limit_bytes": 0}));
    assert_eq!(cluster("~"), json!({}));
    let metadata = "{typed_filter_metadata: {a: {'@type': x/google.protobuf.Duration, value: {seconds: 5}}}}";
    let metadata = &json(metadata, "envoy.config.core.v3.Metadata")["typed_filter_metadata"]["a"];
    assert_eq!(
        metadata,
        &json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "5s"})
    );
}

#[test]
fn null_in_lists_and_maps_is_the_default() {
    assert_eq!(
        json("{client_features: [~, a]}", NODE),
        json!({"client_features": ["", "a"]})
    );
    assert_eq!(
        json("{listening_addresses: [~]}", NODE),
        json!({"listening_addresses": [{}]})
    );
    let parameters = "{dynamic_parameters: {a: ~, b: {params: {k: ~}}}}";
    assert_eq!(
        json(parameters, NODE),
        json!({"dynamic_parameters": {"a": {}, "b": {"params": {"k": ""}}}})
    );
    let metadata = "envoy.config.core.v3.Metadata";
    assert_eq!(
        json("{filter_metadata: {a: ~}}", metadata),
        json!({"filter_metadata": {"a": {}}})
    );
    assert_eq!(
        json("{fields: [~]}", "google.protobuf.Struct"),
        json!({"fields": [null]})
    );
}

#[test]
fn the_last_of_equal_yaml_keys_counts_and_is_told() {
    let text = "
node: {id: a, cluster: x}
static_resources: {clusters: [{name: a, type: EDS, metadata: {filter_metadata: {m: {k: 1, k: 2}}}, type: STATIC}]}
node: {id: b}
admin: {profile_path: p}
admin: ~
";
    let anchored = text.replace("cluster: x", "cluster: &x x");
    for text in [text, &anchored] {
        let encoded = encode_text(text, BOOTSTRAP, &Options::default()).expect("fits");
        let (read, paths) = noted(&encoded, BOOTSTRAP);
        let cluster = json!({"name": "a", "type": "STATIC", "metadata": {"filter_metadata": {"m": {"k": 2}}}});
        assert_eq!(
            read,
            json!({"node": {"id": "b"}, "static_resources": {"clusters": [cluster]}})
        );
        assert_eq!(paths.len(), 4, "{paths:?}");
    }
    let encoded = encode_text(text, BOOTSTRAP, &Options::default()).expect("fits");
    let told: Vec<String> = encoded.notes.iter().map(ToString::to_string).collect();
    assert_eq!(told[2], "line 4: node: the field stands twice: the last one counts");
    // The entries of a map keep their places.
    let map = "{params: {a: x, b: yy, c: zzz, b: w, c: v}}";
    let read = json(map, "xds.core.v3.ContextParams");
    assert_eq!(read, json!({"params": {"a": "x", "b": "w", "c": "v"}}));
}

#[test]
fn equal_json_keys_are_joined() {
    let text = r#"{"node":{"id":"a","cluster":"x","id":"b"},"static_resources":{"clusters":[{"name":"a"}]},
        "node":{"id":"c"},"static_resources":{"clusters":[{"name":"b"}],"clusters":[{"name":"c"}]}}"#;
    let (read, paths) = noted(&file(text, BOOTSTRAP).expect("fits"), BOOTSTRAP);
    let clusters = json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]);
    assert_eq!(
        read,
        json!({"node": {"id": "c", "cluster": "x"}, "static_resources": {"clusters": clusters}})
    );
    assert_eq!(
        paths,
        ["node.id", "node", "static_resources", "static_resources.clusters"]
    );
    let refused = |text: &str, name: &str| file(text, name).expect_err("refused").0.remove(0).kind;
    assert_eq!(refused(r#"{"type":"EDS","type":"EDS"}"#, CLUSTER), ProblemKind::Oneof);
    assert_eq!(
        refused(r#"{"params":{"a":"x","a":"y"}}"#, "xds.core.v3.ContextParams"),
        ProblemKind::Duplicate
    );
    assert_eq!(
        refused(r#"{"a":1,"a":2}"#, "google.protobuf.Struct"),
        ProblemKind::Duplicate
    );
}

#[test]
fn a_json_file_may_be_sloppy() {
    let read = |text: &str| to_json(&file(text, NODE).expect("fits").bytes, NODE).expect("well-formed");
    let sloppy = "{id: 'a\"\\'b', 'cluster': \"x\ty\", client_features: ['z',],}";
    assert_eq!(
        read(sloppy),
        json!({"id": "a\"'b", "cluster": "x\ty", "client_features": ["z"]})
    );
    for text in [
        "{,}",
        "{id: 'a',,}",
        "{5: 'x'}",
        "{null: 'x'}",
        "{id: x}",
        "{} // x",
        "{}{}",
    ] {
        let problem = file(text, NODE).expect_err(text).0.remove(0);
        assert_eq!(problem.kind, ProblemKind::Syntax, "{text}");
    }
    // Text of unknown notation is YAML when it is not strict JSON: numbers with a fraction are strings there.
    assert_eq!(json("{metadata: {a: 1.5}}", NODE), json!({"metadata": {"a": "1.5"}}));
}

#[test]
fn an_empty_document_is_no_configuration() {
    for text in ["", "# only\n", "~", "null", "---\n", "---\n...\n"] {
        assert!(reason(text, BOOTSTRAP).contains("the document is empty"), "{text:?}");
    }
    assert_eq!(json("{}", BOOTSTRAP), json!({}));
    assert_eq!(json("~", "google.protobuf.Value"), json!(null));
}

#[test]
fn only_the_first_document_is_read() {
    for text in ["id: a\n---\nid: b\n", "id: a\n---\n{ [", "id: &x a\n---\nid: b\n"] {
        let encoded = encode_text(text, NODE, &Options::default()).expect(text);
        assert_eq!(noted(&encoded, NODE).0, json!({"id": "a"}), "{text:?}");
        assert_eq!(encoded.notes.len(), 1, "{text:?}");
    }
    assert!(
        parse("a: 1\n---\nb: 1").is_err(),
        "whoever reads trees splits documents first"
    );
}
