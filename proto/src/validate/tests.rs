use crate::json::{Options, encode_text};
use crate::ledger::{FindingKind, Report};
use crate::schema;
use crate::wire::Value;

use super::*;

/// Paths and reasons of what PGV says about a text.
fn findings(name: &str, text: &str) -> Vec<String> {
    let bytes = encode_text(text, name, &Options::default())
        .expect("the text fits")
        .bytes;
    let mut report = Report::new();
    validate(&bytes, name, &mut report);
    assert!(
        report.of(FindingKind::Invalid).count() == report.findings.len(),
        "{:?}",
        report.findings
    );
    report.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_of_each_kind() {
    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
    for (name, text, expected) in [
        (CLUSTER, "{name: a, connect_timeout: 1s}", None),
        (CLUSTER, "{connect_timeout: 1s}", Some("name: must not be empty")),
        (
            CLUSTER,
            "{name: a, connect_timeout: 0s}",
            Some("connect_timeout: must be greater than 0s (is 0s)"),
        ),
        (
            CLUSTER,
            "{name: a, lb_policy: 99}",
            Some("lb_policy: is not a value of the enum (is 99)"),
        ),
        (
            CLUSTER,
            "{name: a, outlier_detection: {max_ejection_percent: 101}}",
            Some("outlier_detection.max_ejection_percent: must be at most 100 (is 101)"),
        ),
        (
            CLUSTER,
            "{name: a, load_assignment: {cluster_name: a, endpoints: [{priority: 129}]}}",
            Some("load_assignment.endpoints[0].priority: must be at most 128 (is 129)"),
        ),
        (
            CLUSTER,
            "{name: a, health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1}]}",
            Some("health_checks[0].health_checker: one of its fields must be set"),
        ),
        (
            CLUSTER,
            "{name: a, health_checks: [{interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]}",
            Some("health_checks[0].timeout: is required"),
        ),
        (
            "envoy.config.route.v3.VirtualHost",
            "{name: a, domains: []}",
            Some("domains: must have at least 1 items"),
        ),
        (
            "envoy.config.core.v3.HeaderValue",
            "{key: a, value: \"b\\nc\"}",
            Some("value: must be a header value"),
        ),
        (
            "envoy.config.core.v3.HeaderValue",
            "{key: \"a\\r\", value: b}",
            Some("key: must be a header name"),
        ),
        (
            "envoy.config.route.v3.RouteAction",
            "{cluster: \"\"}",
            Some("cluster: must not be empty"),
        ),
        (
            "envoy.config.route.v3.RouteAction",
            "{cluster: a, prefix_rewrite: \"\"}",
            None,
        ),
        (
            "envoy.config.core.v3.SocketAddress",
            "{address: a, port_value: 65536}",
            Some("port_value: must be at most 65535 (is 65536)"),
        ),
        (
            "envoy.config.core.v3.SocketAddress",
            "{address: a}",
            Some("port_specifier: one of its fields must be set"),
        ),
        ("envoy.config.core.v3.Locality", "{}", None),
    ] {
        let found = findings(name, text);
        match expected {
            Some(expected) => assert!(found.iter().any(|one| one == expected), "{text}: {found:?}"),
            None => assert_eq!(found, Vec::<String>::new(), "{text}"),
        }
    }
}

#[test]
fn rules_hold_inside_any_and_typed_struct() {
    let text = "{name: x, typed_config: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct,
        type_url: type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, value: {cluster: c}}}";
    let found = findings("envoy.config.listener.v3.Filter", text);
    assert_eq!(found, ["typed_config.value.stat_prefix: must not be empty"]);
    let text = "{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s}}";
    let found = findings("envoy.config.listener.v3.Filter", text);
    assert_eq!(found, ["typed_config.cluster_specifier: one of its fields must be set"]);
}

/// Every rule in the table is one that the walker knows, so none is passed over in silence.
#[test]
fn every_rule_of_the_schema_is_understood() {
    fn look(rules: Rules, seen: &mut std::collections::BTreeSet<u8>) {
        for rule in rules.iter() {
            seen.insert(rule.op());
            if matches!(rule.op(), ops::ITEMS | ops::KEYS | ops::VALUES) {
                look(rule.nested(), seen);
            }
            if rule.op() == ops::PATTERN {
                let pattern = std::str::from_utf8(rule.bytes()).expect("UTF-8");
                assert!(regex::Regex::new(pattern).is_ok(), "{pattern}");
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    for field in schema::messages().flat_map(schema::Message::fields) {
        look(field.rules(), &mut seen);
    }
    let known = [
        ops::REQUIRED,
        ops::SKIP,
        ops::IGNORE_EMPTY,
        ops::CONST,
        ops::LT,
        ops::LTE,
        ops::GT,
        ops::GTE,
        ops::IN,
        ops::NOT_IN,
        ops::DEFINED_ONLY,
        ops::LEN,
        ops::MIN_LEN,
        ops::MAX_LEN,
        ops::LEN_BYTES,
        ops::MIN_BYTES,
        ops::MAX_BYTES,
        ops::PATTERN,
        ops::PREFIX,
        ops::SUFFIX,
        ops::CONTAINS,
        ops::NOT_CONTAINS,
        ops::TEXT_CONST,
        ops::TEXT_IN,
        ops::TEXT_NOT_IN,
        ops::EMAIL,
        ops::HOSTNAME,
        ops::IP,
        ops::IPV4,
        ops::IPV6,
        ops::URI,
        ops::URI_REF,
        ops::ADDRESS,
        ops::UUID,
        ops::HEADER_NAME,
        ops::HEADER_VALUE,
        ops::MIN_ITEMS,
        ops::MAX_ITEMS,
        ops::UNIQUE,
        ops::ITEMS,
        ops::KEYS,
        ops::VALUES,
    ];
    assert!(seen.iter().all(|op| known.contains(op)), "{seen:?}");
    assert!(seen.len() > 15, "the table has rules: {seen:?}");
}

/// All fields whose rules hold an operation.
fn fields_with(op: u8) -> impl Iterator<Item = Field> {
    schema::messages()
        .flat_map(schema::Message::fields)
        .filter(move |field| !field.is_repeated() && field.rules().has(op))
}

#[test]
fn rules_from_the_table_hold_and_break() {
    for field in fields_with(ops::MIN_LEN) {
        let at_least_one = field
            .rules()
            .iter()
            .any(|rule| rule.op() == ops::MIN_LEN && rule.number() > 0);
        let empty_passes = field.rules().has(ops::IGNORE_EMPTY) || !at_least_one;
        let value = if field.kind() == Kind::Message {
            Value::Len(&[])
        } else {
            Value::Len(b"")
        };
        assert_eq!(broken(field.rules(), field, value).is_none(), empty_passes, "{field:?}");
    }
    for field in fields_with(ops::PATTERN) {
        let value = Value::Len(b"a\x00 /?# b");
        assert!(broken(field.rules(), field, value).is_some(), "{field:?}");
    }
    for field in fields_with(ops::PREFIX) {
        assert!(broken(field.rules(), field, Value::Len(b"no")).is_some(), "{field:?}");
    }
    for field in fields_with(ops::DEFINED_ONLY) {
        assert!(
            broken(field.rules(), field, Value::Varint(12_345)).is_some(),
            "{field:?}"
        );
        let (first, _) = field
            .enumeration()
            .and_then(|item| item.values().next())
            .expect("an enum has values");
        let listed = field.rules().has(ops::IN) || field.rules().has(ops::NOT_IN);
        assert!(
            listed || broken(field.rules(), field, Value::Varint(first as u64)).is_none(),
            "{field:?}"
        );
    }
}
