use super::*;
use crate::json::{Options, encode_text};

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

const ENTRIES: &[MessageEntry] = &[
    (
        CLUSTER,
        &[
            ("name", Verdict::Honoured),
            ("connect_timeout", Verdict::Honoured),
            ("alt_stat_name", Verdict::Harmless("only names stats")),
            (
                "lb_policy",
                Verdict::OnlyValues(
                    &[Allowed::Name("ROUND_ROBIN"), Allowed::Name("RANDOM")],
                    "no such balancer",
                ),
            ),
            ("transport_socket", Verdict::Honoured),
            ("filters", Verdict::RefusedAlways("weakens security")),
            (
                "respect_dns_ttl",
                Verdict::OnlyDefault("records are kept for the refresh rate"),
            ),
            ("dns_lookup_family", Verdict::OnlyDefaultAlways("one family only")),
            ("metadata", Verdict::Honoured),
            ("load_balancing_policy", Verdict::Honoured),
            ("upstream_bind_config", Verdict::Whole),
            (
                "per_connection_buffer_limit_bytes",
                Verdict::OnlyValues(&[Allowed::Number(32768)], "fixed buffers"),
            ),
        ],
    ),
    (
        "envoy.config.core.v3.Metadata",
        &[("filter_metadata", Verdict::Honoured)],
    ),
    (
        "envoy.config.core.v3.TransportSocket",
        &[("name", Verdict::Honoured), ("typed_config", Verdict::Honoured)],
    ),
    ("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    (
        "envoy.config.cluster.v3.LoadBalancingPolicy",
        &[("policies", Verdict::Honoured)],
    ),
    (
        "envoy.config.cluster.v3.LoadBalancingPolicy.Policy",
        &[("typed_extension_config", Verdict::Honoured)],
    ),
    (
        "envoy.config.core.v3.TypedExtensionConfig",
        &[("name", Verdict::Honoured), ("typed_config", Verdict::Honoured)],
    ),
    ("envoy.extensions.load_balancing_policies.random.v3.Random", &[]),
    (
        LISTENER,
        &[("name", Verdict::Honoured), ("filter_chains", Verdict::Honoured)],
    ),
    (
        "envoy.config.listener.v3.FilterChain",
        &[("filters", Verdict::Honoured)],
    ),
    (
        "envoy.config.listener.v3.Filter",
        &[("name", Verdict::Honoured), ("typed_config", Verdict::Honoured)],
    ),
    (
        HCM,
        &[
            ("stat_prefix", Verdict::Honoured),
            ("http_filters", Verdict::Honoured),
            ("rds", Verdict::Whole),
        ],
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        &[
            ("name", Verdict::Honoured),
            ("typed_config", Verdict::Honoured),
            ("is_optional", Verdict::Honoured),
        ],
    ),
    (
        "stats.PluginConfig",
        &[("disable_host_header_fallback", Verdict::Honoured)],
    ),
];

fn ledger() -> Ledger {
    Ledger::new(ENTRIES).expect("all names exist")
}

fn report(name: &str, text: &str) -> Report {
    let bytes = encode_text(text, name, &Options::default())
        .expect("the text fits")
        .bytes;
    let mut report = Report::new();
    check(&bytes, name, &ledger(), &mut report);
    report
}

fn found(name: &str, text: &str) -> Vec<(FindingKind, String)> {
    report(name, text)
        .findings
        .into_iter()
        .map(|finding| (finding.kind, finding.path))
        .collect()
}

#[test]
fn names_that_do_not_exist_are_errors() {
    let errors = Ledger::new(&[
        ("no.Such", &[]),
        (
            CLUSTER,
            &[
                ("nome", Verdict::Honoured),
                ("connectTimeout", Verdict::Honoured),
                ("name", Verdict::Honoured),
                ("name", Verdict::Whole),
                ("lb_policy", Verdict::OnlyValues(&[Allowed::Name("NO_SUCH")], "")),
            ],
        ),
    ])
    .expect_err("five mistakes");
    assert_eq!(
        errors,
        [
            LedgerError::Message("no.Such"),
            LedgerError::Field(CLUSTER, "nome"),
            LedgerError::Field(CLUSTER, "connectTimeout"),
            LedgerError::Twice(CLUSTER, "name"),
            LedgerError::Value(CLUSTER, "lb_policy", "NO_SUCH"),
        ]
    );
    assert_eq!(ledger().entries().count(), ENTRIES.len());
}

#[test]
fn verdicts_on_set_fields() {
    use FindingKind::{Refused, RefusedAlways};
    for (text, expected) in [
        ("{name: a, connect_timeout: 1s, alt_stat_name: b}", vec![]),
        (
            "{name: a, max_requests_per_connection: 5}",
            vec![(Refused, "max_requests_per_connection")],
        ),
        (
            "{name: a, filters: [{name: x}, {name: z}]}",
            vec![(RefusedAlways, "filters[0]"), (RefusedAlways, "filters[1]")],
        ),
        ("{name: a, lb_policy: RANDOM}", vec![]),
        ("{name: a, lb_policy: MAGLEV}", vec![(Refused, "lb_policy")]),
        ("{name: a, respect_dns_ttl: false}", vec![]),
        ("{name: a, respect_dns_ttl: true}", vec![(Refused, "respect_dns_ttl")]),
        (
            "{name: a, dns_lookup_family: V4_ONLY}",
            vec![(RefusedAlways, "dns_lookup_family")],
        ),
        ("{name: a, per_connection_buffer_limit_bytes: 32768}", vec![]),
        (
            "{name: a, per_connection_buffer_limit_bytes: 1}",
            vec![(Refused, "per_connection_buffer_limit_bytes")],
        ),
        ("{name: a, metadata: {filter_metadata: {x: {y: 1}}}}", vec![]),
        (
            "{name: a, metadata: {typed_filter_metadata: {x: {'@type': type.googleapis.com/google.protobuf.Empty}}}}",
            vec![(Refused, "metadata.typed_filter_metadata[\"x\"]")],
        ),
        (
            "{name: a, upstream_bind_config: {source_address: {address: a, port_value: 1}}}",
            vec![],
        ),
    ] {
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(kind, path)| (kind, path.to_owned()))
            .collect();
        assert_eq!(found(CLUSTER, text), expected, "{text}");
    }
    assert_eq!(report(CLUSTER, "{name: a, alt_stat_name: b}").tolerated, 1);
}

#[test]
fn extensions_must_be_listed() {
    let socket =
        |config: &str| format!("{{name: a, transport_socket: {{name: x, typed_config: {{'@type': {config}}}}}}}");
    let path = "transport_socket.typed_config".to_owned();
    let known = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    assert_eq!(found(CLUSTER, &socket(known)), []);
    let unlisted = "type.googleapis.com/envoy.extensions.transport_sockets.tap.v3.Tap";
    assert_eq!(
        found(CLUSTER, &socket(unlisted))[0],
        (FindingKind::Refused, path.clone())
    );
    // Cluster.name = 1, transport_socket = 24 { typed_config = 3 { type_url = 1 } }.
    let any = [0x0a, 3, b'x', b'/', b'y'];
    let (mut inner, mut bytes) = (vec![0x0a, 1, b'n'], vec![0x0a, 1, b'a']);
    crate::wire::put_len(&mut inner, 3, &any);
    crate::wire::put_len(&mut bytes, 24, &inner);
    let mut report = Report::new();
    check(&bytes, CLUSTER, &ledger(), &mut report);
    assert_eq!(
        report.findings[0].to_string(),
        "transport_socket.typed_config: unknown extension type \"x/y\""
    );
}

#[test]
fn optional_extensions_are_passed_over() {
    let listener = |filter: &str| {
        format!(
            "{{name: l, filter_chains: [{{filters: [{{name: h, typed_config: {{'@type': type.googleapis.com/{HCM}, stat_prefix: s,
             rds: {{config_source: {{ads: {{}}}}, route_config_name: r}}, http_filters: [{filter}]}}}}]}}]}}"
        )
    };
    let buffer = "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1}";
    let path = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config";
    assert_eq!(
        found(LISTENER, &listener(&format!("{{name: b, {buffer}}}")))[0],
        (FindingKind::Refused, path.to_owned())
    );
    let passed = report(
        LISTENER,
        &listener(&format!("{{name: b, {buffer}, is_optional: true}}")),
    );
    assert_eq!((passed.findings.len(), passed.skipped), (0, 1));
    // What is supported is checked even if it is optional.
    let stats = "typed_config: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/stats.PluginConfig,
        value: {disable_host_header_fallback: true, debug: true, newer: 1}}";
    let stats = found(LISTENER, &listener(&format!("{{name: s, {stats}, is_optional: true}}")));
    let expected = [
        (FindingKind::Unknown, format!("{path}.value.newer")),
        (FindingKind::Refused, format!("{path}.value.debug")),
    ];
    assert_eq!(stats, expected);
}

#[test]
fn the_first_supported_balancer_counts() {
    let policy = |name: &str| {
        let package = name.replace("PickFirst", "pick_first").to_lowercase();
        format!(
            "{{typed_extension_config: {{name: {name}, typed_config:
             {{'@type': type.googleapis.com/envoy.extensions.load_balancing_policies.{package}.v3.{name}}}}}}}"
        )
    };
    let cluster = |policies: &[&str]| {
        let list: Vec<_> = policies.iter().map(|name| policy(name)).collect();
        format!(
            "{{name: a, load_balancing_policy: {{policies: [{}]}}}}",
            list.join(", ")
        )
    };
    assert_eq!(found(CLUSTER, &cluster(&["Random", "Maglev", "Subset"])), []);
    // Envoy has the first and would take it; gRPC alone has the second.
    let later = found(CLUSTER, &cluster(&["Maglev", "PickFirst", "Random"]));
    let expected = [FindingKind::Refused, FindingKind::PassedOver];
    assert_eq!(
        later,
        expected.map(|kind| (kind, "load_balancing_policy.policies".to_owned()))
    );
    // What is no policy is none that Envoy would take, even if both know what it is.
    let other = "{typed_extension_config: {name: x, typed_config: {'@type': type.googleapis.com/google.protobuf.Struct, value: {}}}}";
    let mixed = format!(
        "{{name: a, load_balancing_policy: {{policies: [{other}, {}]}}}}",
        policy("Random")
    );
    assert_eq!(
        found(CLUSTER, &mixed),
        [(FindingKind::PassedOver, "load_balancing_policy.policies".to_owned())]
    );
    let none = report(CLUSTER, &cluster(&["Maglev"])).findings;
    assert_eq!(none.len(), 1, "{none:?}");
    assert_eq!(none[0].path, "load_balancing_policy.policies");
    assert!(none[0].reason.contains("load_balancing_policies.maglev.v3.Maglev"));
}

#[test]
fn unknown_malformed_and_deep() {
    let mut bytes = vec![0x0a, 1, b'a'];
    crate::wire::put_len(&mut bytes, 9999, b"x");
    let mut report = Report::new();
    check(&bytes, CLUSTER, &ledger(), &mut report);
    assert_eq!(
        (report.unknown, report.findings[0].path.as_str(), report.is_clean()),
        (1, "#9999", true)
    );
    for malformed in [&[0x0a, 9][..], &[0x0a, 1, 0xff], &[0x08, 1]] {
        let mut report = Report::new();
        check(malformed, CLUSTER, &ledger(), &mut report);
        assert!(report.of(FindingKind::Malformed).count() > 0, "{malformed:?}");
        assert!(!report.is_clean());
    }
    // An Any's type URL is a string.
    let mut report = Report::new();
    check(&[0x08, 0], "google.protobuf.Any", &ledger(), &mut report);
    assert_eq!(report.of(FindingKind::Malformed).count(), 1);
    let mut report = Report::new();
    check(&[], "no.Such", &ledger(), &mut report);
    assert!(!report.is_clean());
}

#[test]
fn a_report_keeps_a_bounded_number_of_findings() {
    let mut bytes = vec![0x0a, 1, b'a'];
    for _ in 0..500 {
        crate::wire::put_len(&mut bytes, 9999, b"x");
    }
    let mut report = Report::new();
    check(&bytes, CLUSTER, &ledger(), &mut report);
    assert_eq!(
        (report.unknown, report.findings.len(), report.dropped),
        (500, Report::LIMIT, 400)
    );
}

#[test]
fn tolerated_fields_can_be_listed() {
    let bytes = encode_text("{name: a, alt_stat_name: b}", CLUSTER, &Options::default())
        .expect("fits")
        .bytes;
    let mut report = Report::detailed();
    check(&bytes, CLUSTER, &ledger(), &mut report);
    assert_eq!(report.findings[0].to_string(), "alt_stat_name: only names stats");
    assert!(report.is_clean());
}
