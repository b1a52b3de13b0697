mod lenient;

use serde_json::json;

use super::*;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";

fn encode(text: &str, name: &str) -> Result<Vec<u8>, Problems> {
    encode_text(text, name, &Options::default()).map(|encoded| encoded.bytes)
}

fn json(text: &str, name: &str) -> serde_json::Value {
    let bytes = encode(text, name).expect("the text fits");
    to_json(&bytes, name).expect("the text fits")
}

/// Kind and path of every problem.
fn problems(text: &str, name: &str) -> Vec<(ProblemKind, String)> {
    let found = encode(text, name).expect_err("the text has problems");
    found
        .0
        .into_iter()
        .map(|problem| (problem.kind, problem.path))
        .collect()
}

fn reason(text: &str, name: &str) -> String {
    encode(text, name).expect_err("the text has a problem").to_string()
}

#[test]
fn yaml_bootstrap_round_trips() {
    let text = "
static_resources:
  clusters:
  - name: one
    connect_timeout: 0.25s
    type: STRICT_DNS
    perConnectionBufferLimitBytes: 32768
    load_assignment:
      cluster_name: one
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 0x50}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
    let cluster = &json(text, BOOTSTRAP)["static_resources"]["clusters"][0];
    assert_eq!(cluster["connect_timeout"], "0.250s");
    assert_eq!(cluster["type"], "STRICT_DNS");
    assert_eq!(cluster["per_connection_buffer_limit_bytes"], 32768);
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    assert_eq!(endpoint["address"]["socket_address"]["port_value"], 80);
    let options =
        &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(
        options["@type"],
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    );
    assert!(options["explicit_http_config"]["http2_protocol_options"].is_object());
    assert_eq!(
        json(&json(text, BOOTSTRAP).to_string(), BOOTSTRAP),
        json(text, BOOTSTRAP)
    );
    assert_eq!(encode("name: a", CLUSTER), encode("{\"name\": \"a\"}", CLUSTER));
}

#[test]
fn anchors_aliases_and_ignored_keys() {
    let text = "
'!ignore': &unused 1
static_resources:
  clusters:
  - {name: a, connect_timeout: &timeout 3s, metadata: &meta {filter_metadata: {x: {k: v}}}}
  - {name: b, connect_timeout: *timeout, metadata: *meta}
";
    let text = text.replace("'!ignore': &unused 1", "!ignore defs: &unused {a: 1}");
    let clusters = &json(&text, BOOTSTRAP)["static_resources"]["clusters"];
    assert_eq!(clusters[1]["connect_timeout"], "3s");
    assert_eq!(clusters[1]["metadata"], clusters[0]["metadata"]);
    assert_eq!(json("!ignore defs: {a: 1}\nname: x", CLUSTER), json!({"name": "x"}));
    // yaml-cpp knows no merge keys.
    let merged = "name: a\nmetadata: &m {}\n<<: {alt_stat_name: b}";
    assert_eq!(problems(merged, CLUSTER), [(ProblemKind::Unknown, "<<".to_owned())]);
    let bomb =
        "a: &a [1,1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]
d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]
g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]";
    assert!(reason(bomb, "google.protobuf.Struct").contains("too many values"));
}

#[test]
fn yaml_scalars_read_as_envoy_reads_them() {
    let text = "{a: 1, b: 1.5, c: yes, d: 'yes', e: ~, f: 0x1F, g: 010, h: 08, i: 5000000000, j: NULL, k: -3, l: \"5\", m: [], n: {}}";
    let read = json!({"a": 1, "b": "1.5", "c": true, "d": "yes", "e": null, "f": 31, "g": 8, "h": "08", "i": "5000000000",
        "j": null, "k": -3, "l": "5", "m": [], "n": {}});
    assert_eq!(json(text, "google.protobuf.Struct"), read);
    assert_eq!(parse(text), Ok(read));
    assert_eq!(
        json("{\"a\": 1.5, \"b\": 5000000000}", "google.protobuf.Struct"),
        json!({"a": 1.5, "b": 5000000000i64})
    );
    assert_eq!(
        reason("name: on", CLUSTER),
        "line 1: name: expected a string, found true (quote it)"
    );
    assert_eq!(json("name: 'on'", CLUSTER), json!({"name": "on"}));
}

#[test]
fn every_kind_of_value() {
    let route = "envoy.config.route.v3.RouteAction";
    assert_eq!(
        json("{timeout: 1.000000001s}", route),
        json!({"timeout": "1.000000001s"})
    );
    assert_eq!(json("{timeout: -0.5s}", route), json!({"timeout": "-0.500s"}));
    assert_eq!(
        json("{cluster: \"\"}", route),
        json!({"cluster": ""}),
        "a oneof member keeps its default"
    );
    assert_eq!(json("{priority: HIGH}", route), json!({"priority": "HIGH"}));
    assert_eq!(json("{priority: 1}", route), json!({"priority": "HIGH"}));
    assert_eq!(json("{priority: 77}", route), json!({"priority": 77}));
    assert_eq!(
        json("{priority: 0, prefix_rewrite: \"\"}", route),
        json!({}),
        "a default without presence is unset"
    );
    assert_eq!(json("{hash_policy: null, timeout: null}", route), json!({}));
    let source = "envoy.config.core.v3.DataSource";
    for text in ["{inline_bytes: \"+/8=\"}", "{inline_bytes: \"-_8\"}"] {
        assert_eq!(json(text, source), json!({"inline_bytes": "+/8="}));
    }
    let wrapper = |text: &str, name: &str| json(text, &format!("google.protobuf.{name}"));
    assert_eq!(wrapper("5", "UInt32Value"), json!(5));
    assert_eq!(wrapper("\"5\"", "UInt64Value"), json!("5"));
    assert_eq!(wrapper("5.0", "Int32Value"), json!(5));
    assert_eq!(wrapper("1e3", "Int64Value"), json!("1000"));
    assert_eq!(wrapper("'Infinity'", "DoubleValue"), json!("Infinity"));
    assert_eq!(wrapper("0.1", "FloatValue"), json!(0.1));
    assert_eq!(
        wrapper("'2024-02-29T12:30:00.25+01:30'", "Timestamp"),
        json!("2024-02-29T11:00:00.250Z")
    );
    assert_eq!(
        wrapper("'0001-01-01T00:00:00Z'", "Timestamp"),
        json!("0001-01-01T00:00:00Z")
    );
    assert_eq!(wrapper("[1, {a: [~]}]", "ListValue"), json!([1, {"a": [null]}]));
    let access_log = "envoy.data.accesslog.v3.HTTPAccessLogEntry";
    assert_eq!(
        json(
            "{request: {request_headers_bytes: \"18446744073709551615\"}}",
            access_log
        )["request"]["request_headers_bytes"],
        "18446744073709551615"
    );
}

#[test]
fn values_out_of_range_are_named() {
    for (text, name) in [
        ("{timeout: 5}", "envoy.config.route.v3.RouteAction"),
        ("{timeout: 5m}", "envoy.config.route.v3.RouteAction"),
        ("{timeout: 1.s}", "envoy.config.route.v3.RouteAction"),
        ("{timeout: 0.1234567891s}", "envoy.config.route.v3.RouteAction"),
        ("{timeout: 315576000001s}", "envoy.config.route.v3.RouteAction"),
        ("{priority: higher}", "envoy.config.route.v3.RouteAction"),
        ("{priority: 1.0}", "envoy.config.route.v3.RouteAction"),
        (
            "{timeout: {seconds: 1, nanos: 1000000000}}",
            "envoy.config.route.v3.RouteAction",
        ),
        (
            "{timeout: {seconds: 1, nanos: -1}}",
            "envoy.config.route.v3.RouteAction",
        ),
        ("{port_value: -1}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: 1.5}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: '4294967296'}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: '+-1'}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: ' 1'}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: '0x'}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: ''}", "envoy.config.core.v3.SocketAddress"),
        ("{port_value: true}", "envoy.config.core.v3.SocketAddress"),
        ("{ipv4_compat: 1}", "envoy.config.core.v3.SocketAddress"),
        ("{ipv4_compat: 'on'}", "envoy.config.core.v3.SocketAddress"),
        ("{inline_bytes: '?'}", "envoy.config.core.v3.DataSource"),
        ("{inline_bytes: 'YQ='}", "envoy.config.core.v3.DataSource"),
        ("{inline_bytes: 'Y Q='}", "envoy.config.core.v3.DataSource"),
        ("'2023-02-29T00:00:00Z'", "google.protobuf.Timestamp"),
        ("'2023-02-28 00:00:00Z'", "google.protobuf.Timestamp"),
        ("[a]", "google.protobuf.Struct"),
        ("{start: [1]}", "envoy.type.v3.Int64Range"),
    ] {
        let found = problems(text, name);
        assert!(
            matches!(found[0].0, ProblemKind::Value | ProblemKind::Unknown),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn all_problems_are_collected_with_their_paths_and_lines() {
    let text = "
static_resources:
  listeners:
  - name: 1
    filter_chains:
    - filters:
      - name: a
      - name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: 5
          no_such: {deep: [1]}
  clusters:
  - {name: a, metadata: {filter_metadata: {a.b: 5}}, type: EDS, cluster_type: {name: x}}
  - {transport_socket: {typed_config: {'@type': x/no.Such, a: 1}}}
  - {transport_socket: {typed_config: {a: 1}}}
";
    let hcm = "static_resources.listeners[0].filter_chains[0].filters[1].typed_config";
    let expected = [
        (ProblemKind::Value, "static_resources.listeners[0].name".to_owned()),
        (ProblemKind::Value, format!("{hcm}.stat_prefix")),
        (ProblemKind::Unknown, format!("{hcm}.no_such")),
        (
            ProblemKind::Value,
            "static_resources.clusters[0].metadata.filter_metadata[\"a.b\"]".to_owned(),
        ),
        (
            ProblemKind::Oneof,
            "static_resources.clusters[0].cluster_type".to_owned(),
        ),
        (
            ProblemKind::UnknownType,
            "static_resources.clusters[1].transport_socket.typed_config".to_owned(),
        ),
        (
            ProblemKind::UnknownType,
            "static_resources.clusters[2].transport_socket.typed_config".to_owned(),
        ),
    ];
    assert_eq!(problems(text, BOOTSTRAP), expected);
    let first = encode(text, BOOTSTRAP).expect_err("problems").0.remove(0);
    assert_eq!(
        (first.line, first.reason.as_str()),
        (4, "expected a string, found 1 (quote it)")
    );
    assert_eq!(problems("{a: 1", CLUSTER)[0].0, ProblemKind::Syntax);
    assert!(encode("{}", "no.Such").is_err());
}

#[test]
fn unknown_fields_can_be_counted_instead() {
    let options = Options {
        ignore_unknown: true,
        ..Options::default()
    };
    let encoded = encode_text("{name: a, newer: {x: [1]}, alt_stat_name: b}", CLUSTER, &options).expect("fits");
    assert_eq!(
        encoded
            .ignored
            .iter()
            .map(|problem| problem.path.as_str())
            .collect::<Vec<_>>(),
        ["newer"]
    );
    assert_eq!(
        to_json(&encoded.bytes, CLUSTER).expect("well-formed"),
        json!({"name": "a", "alt_stat_name": "b"})
    );
}

#[test]
fn the_type_of_an_any_may_stand_last() {
    let early = "{name: a, typed_config: {'@type': type.googleapis.com/google.protobuf.Duration, value: 2s}}";
    let late = "{name: a, typed_config: {value: 2s, '@type': type.googleapis.com/google.protobuf.Duration}}";
    let name = "envoy.config.core.v3.TypedExtensionConfig";
    assert_eq!(encode(early, name), encode(late, name));
    assert_eq!(json(late, name)["typed_config"]["value"], "2s");
    let unknown = [0x0a, 3, b'x', b'/', b'y', 0x12, 1, 0xff];
    assert_eq!(
        to_json(&unknown, "google.protobuf.Any").expect("well-formed"),
        json!({"@type": "x/y", "value": "/w=="})
    );
}

#[test]
fn json_syntax_errors_have_a_place() {
    let strict = Options {
        format: Format::Json,
        ..Options::default()
    };
    for (text, place) in [
        ("{\"name\": \"a\",,}", "line 1, column 14"),
        ("{\"name\": \"\\ud800\\u0041\"}", "line 1, column 23"),
        ("{\"name\": 1e400}", "line 1, column 15"),
        ("null", "line 1, column 1"),
        ("", "line 1, column 1"),
        ("{\"name\" \"a\"}", "line 1, column 9"),
        ("{\n\"name\": tru}", "line 2, column 9"),
        ("{\"name\": \"a\"} x", "line 1, column 15"),
        ("{\"name\": \"\\ud800\"}", "line 1, column 17"),
        ("{\"priority\": 01}", "line 1, column 16"),
        ("{\"name\": \"a", "line 1, column 12"),
    ] {
        let error = encode_text(text, CLUSTER, &strict).expect_err("not JSON").to_string();
        assert!(error.contains(place), "{text}: {error}");
    }
    let escaped = json("{\"name\": \"\\u00e9\\ud83d\\ude00\\n\\/\"}", CLUSTER);
    assert_eq!(escaped["name"], "é😀\n/");
    assert_eq!(json(&escaped.to_string(), CLUSTER), escaped);
}

#[test]
fn nesting_has_a_limit() {
    let text = format!("{}1{}", "{\"a\":".repeat(120), "}".repeat(120));
    assert_eq!(problems(&text, "google.protobuf.Struct")[0].0, ProblemKind::Depth);
    let late = format!(
        "{{\"x\": {}1{}, \"@type\": \"a/b\"}}",
        "[".repeat(5000),
        "]".repeat(5000)
    );
    assert!(reason(&late, "google.protobuf.Any").contains("nested too deeply"));
    let mut bytes = vec![0x20, 1];
    for _ in 0..300 {
        let mut outer = Vec::new();
        // ListValue in Value: 6, Value in ListValue: 1.
        crate::wire::put_len(&mut outer, 1, &bytes);
        bytes.clear();
        crate::wire::put_len(&mut bytes, 6, &outer);
    }
    assert!(matches!(
        to_json(&bytes, "google.protobuf.Value"),
        Err(WriteError::Depth)
    ));
}

#[test]
fn pretty_and_redacted() {
    let text = "{name: s, tls_certificate: {private_key: {inline_string: key}, certificate_chain: {filename: c.pem}, password: {inline_bytes: QQ==}}}";
    let name = "envoy.extensions.transport_sockets.tls.v3.Secret";
    let mut out = Vec::new();
    let style = Style {
        pretty: true,
        json_names: false,
        redact: true,
    };
    write_json(&encode(text, name).expect("fits"), name, &mut out, style).expect("well-formed");
    let expected = "{\n \"name\": \"s\",\n \"tls_certificate\": {\n  \"certificate_chain\": {\n   \"filename\": \"c.pem\"\n  },\n  \"private_key\": {\n   \"inline_string\": \"[redacted]\"\n  },\n  \"password\": {\n   \"inline_bytes\": \"W3JlZGFjdGVkXQ==\"\n  }\n }\n}";
    assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
}

#[test]
fn merging_replaces_scalars_appends_lists_and_joins_messages() {
    let first = encode("{name: a, connect_timeout: 1s, type: EDS, eds_cluster_config: {service_name: x}, dns_resolvers: [{pipe: {path: p}}]}", CLUSTER).expect("fits");
    let second = encode("{name: b, cluster_type: {name: c}, eds_cluster_config: {eds_config: {ads: {}}}, dns_resolvers: [{pipe: {path: q}}]}", CLUSTER).expect("fits");
    let merged = to_json(&merge(&first, &second, CLUSTER).expect("well-formed"), CLUSTER).expect("well-formed");
    assert_eq!(merged["name"], "b");
    assert_eq!(merged["connect_timeout"], "1s");
    assert_eq!(merged.get("type"), None, "the other member of the oneof won");
    assert_eq!(
        merged["eds_cluster_config"],
        json!({"service_name": "x", "eds_config": {"ads": {}}})
    );
    assert_eq!(merged["dns_resolvers"].as_array().map(Vec::len), Some(2));
    assert_eq!(merge(&[0x0a], &[], LISTENER), Err(crate::wire::WireError::Truncated));
}
