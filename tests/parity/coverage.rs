//! Every honoured field of connection managers and routes is set in some world, or it is said where else it is compared.

use std::path::Path;

use remora_proto::ledger::{FindingKind, Ledger, MessageEntry, Report, Verdict, check};

use super::harness::World;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// The sections of docs/compatibility.md that are held against the worlds.
const SECTIONS: [&str; 2] = ["HTTP", "Routes"];

/// Fields that no world can show, by the test that does.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.tracing",
        "nothing in it has an effect without a provider, and providers are refused",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.rds",
        "the conversations with a control plane (conversations.rs)",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds.config_source",
        "the conversations with a control plane (conversations.rs)",
    ),
    (
        "envoy.extensions.filters.network.http_connection_manager.v3.Rds.route_config_name",
        "the conversations with a control plane (conversations.rs)",
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.auto_config",
        "tests/mesh/mtls.rs: it needs ALPN",
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig.http_protocol_options",
        "tests/mesh/mtls.rs: it needs ALPN",
    ),
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig.http2_protocol_options",
        "tests/mesh/mtls.rs: it needs ALPN",
    ),
    (
        "envoy.config.core.v3.UpstreamHttpProtocolOptions.auto_sni",
        "tests/parity/peer_names.rs: it needs TLS",
    ),
    (
        "envoy.config.core.v3.UpstreamHttpProtocolOptions.auto_san_validation",
        "tests/parity/peer_names.rs: it needs TLS",
    ),
    (
        "envoy.config.core.v3.UpstreamHttpProtocolOptions.override_auto_sni_header",
        "tests/parity/peer_names.rs: it needs TLS",
    ),
    (
        "envoy.config.core.v3.HttpProtocolOptions.max_connection_duration_jitter",
        "config/hcm.rs: chance cannot be compared",
    ),
    (
        "envoy.config.common.matcher.v3.MatchPredicate.and_match",
        "cluster/outlier/errors.rs: every combination",
    ),
    (
        "envoy.config.common.matcher.v3.MatchPredicate.not_match",
        "cluster/outlier/errors.rs: every combination",
    ),
    (
        "envoy.config.common.matcher.v3.MatchPredicate.any_match",
        "cluster/outlier/errors.rs: every combination",
    ),
];

/// A message of the page, and its fields: honoured or not.
type Row = (&'static str, Vec<(&'static str, bool)>);

/// Asserts that the worlds set every field.
pub fn is_complete(worlds: &[World]) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/compatibility.md");
    let page: &'static str = Box::leak(std::fs::read_to_string(page).unwrap().into_boxed_str());
    let sections = read(page);
    let all: Vec<&Row> = sections.iter().flat_map(|(_, rows)| rows).collect();
    let encoded: Vec<Vec<u8>> = worlds.iter().map(encode).collect();
    let mut missing = Vec::new();
    for (_, rows) in sections.iter().filter(|(name, _)| SECTIONS.contains(name)) {
        for (message, fields) in rows {
            for (field, _) in fields.iter().filter(|(_, honoured)| *honoured) {
                let path = format!("{message}.{field}");
                let is_set = is_set(&encoded, &all, message, field);
                let elsewhere = ELSEWHERE.iter().any(|(known, _)| *known == path);
                if !is_set && !elsewhere {
                    missing.push(path);
                }
            }
        }
    }
    assert!(
        missing.is_empty(),
        "{} fields are set in no world:\n{}",
        missing.len(),
        missing.join("\n")
    );
}

/// Whether any of the bootstraps sets the field: the check finds it when that field alone is refused.
fn is_set(bootstraps: &[Vec<u8>], all: &[&Row], message: &str, field: &str) -> bool {
    const HERE: &str = "this one";
    let entries: Vec<MessageEntry> = all
        .iter()
        .map(|(name, fields)| {
            let verdict = |(known, honoured): &(&'static str, bool)| {
                let verdict = match honoured {
                    true if *name == message && *known == field => Verdict::Refused(HERE),
                    true => Verdict::Honoured,
                    false => Verdict::Harmless("something else"),
                };
                (*known, verdict)
            };
            let fields: &'static [(&'static str, Verdict)] = Vec::leak(fields.iter().map(verdict).collect());
            (*name, fields)
        })
        .collect();
    let ledger = Ledger::new(&entries).unwrap();
    bootstraps.iter().any(|bytes| {
        let mut report = Report::new();
        check(bytes, BOOTSTRAP, &ledger, &mut report);
        report.of(FindingKind::Refused).any(|finding| finding.reason == HERE)
    })
}

/// The page's sections.
fn read(page: &'static str) -> Vec<(&'static str, Vec<Row>)> {
    let mut sections: Vec<(&str, Vec<Row>)> = Vec::new();
    for line in page.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            sections.push((name, Vec::new()));
            continue;
        }
        let Some((_, rows)) = sections.last_mut() else { continue };
        if let Some(name) = line.strip_prefix("### ") {
            rows.push((name.trim_matches('`'), Vec::new()));
            continue;
        }
        let Some((_, fields)) = rows.last_mut() else { continue };
        if let Some(honoured) = line.strip_prefix("- honoured: ") {
            fields.extend(honoured.split(", ").map(|field| (field.trim_matches('`'), true)));
        } else if let Some((field, _)) = line.strip_prefix("- `").and_then(|rest| rest.split_once('`')) {
            fields.push((field, false));
        }
    }
    sections
}

/// The world's bootstrap, whoever its backends are.
fn encode(world: &World) -> Vec<u8> {
    let mut yaml = world.yaml.replace("{{log}}", "/dev/null");
    while let Some((before, rest)) = yaml.split_once("{{") {
        let (_, after) = rest.split_once("}}").unwrap();
        yaml = format!("{before}1{after}");
    }
    let encoded = remora_proto::json::encode_text(&yaml, BOOTSTRAP, &Default::default());
    encoded
        .unwrap_or_else(|problems| panic!("{}: {problems}", world.name))
        .bytes
}
