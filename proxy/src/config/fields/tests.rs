use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost::Message;
use remora_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use remora_proto::pb::google::protobuf::Any;
use remora_proto::wire;

use super::*;
use crate::config::BuildContext;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compares with a file of the checkout, or writes it when `UPDATE` is set.
fn equals_file(path: &str, text: &str) {
    let path = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("the file can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{} is not up to date: run with UPDATE=1", path.display());
}

#[test]
fn every_name_in_the_tables_exists() {
    let entries: Vec<MessageEntry> = FAMILIES.iter().flat_map(|(_, entries)| *entries).copied().collect();
    if let Err(errors) = Ledger::new(&entries) {
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        panic!("{}", text.join("\n"));
    }
}

#[test]
fn the_page_says_what_the_tables_say() {
    equals_file("docs/compatibility.md", &document::page(FAMILIES));
}

fn checked(name: &str, yaml: &str, mode: Unsupported) -> String {
    let bytes = remora_proto::json::encode_text(yaml, name, &Default::default())
        .expect("the text fits")
        .bytes;
    let show = |warnings: Vec<Warning>| warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match check(name, &bytes, mode) {
        Ok(warnings) => format!("accepted {}", show(warnings)).trim_end().to_owned(),
        Err(problems) => format!("refused {problems}"),
    }
}

#[test]
fn warnings_take_the_place_of_refusals_but_not_where_security_would_suffer() {
    let watched = "{name: a, connect_timeout: 1s, track_cluster_stats: {timeout_budgets: true}}";
    let refused = "track_cluster_stats: these stats are not kept";
    assert_eq!(
        checked(CLUSTER, watched, Unsupported::Refuse),
        format!("refused {refused}")
    );
    assert_eq!(
        checked(CLUSTER, watched, Unsupported::Warn),
        format!("accepted {refused}")
    );
    let matcher = "{name: a, connect_timeout: 1s, transport_socket_matcher: {}}";
    let refused = "refused transport_socket_matcher: match trees are not supported";
    assert_eq!(checked(CLUSTER, matcher, Unsupported::Refuse), refused);
    assert_eq!(checked(CLUSTER, matcher, Unsupported::Warn), refused);
}

#[test]
fn a_refusal_cannot_hide_behind_many_harmless_findings() {
    // 200 fields of a number that the schema lacks, then one that is refused.
    let mut bytes = [0xfa, 0x7f, 0x00].repeat(200);
    let yaml = "{name: a, connect_timeout: 1s, transport_socket_matcher: {}}";
    bytes.extend(
        remora_proto::json::encode_text(yaml, CLUSTER, &Default::default())
            .expect("the text fits")
            .bytes,
    );
    let refused = check(CLUSTER, &bytes, Unsupported::Warn).expect_err("refused");
    assert_eq!(refused.to_string(), "101 findings more than the 100 that are kept");
}

/// One resource of one recorded response.
struct Recorded {
    name: String,
    any: Any,
}

fn recorded(file: &Path) -> Vec<Recorded> {
    let bytes = std::fs::read(file).expect("the fixture can be read");
    let is_delta = file
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with("delta"));
    if is_delta {
        let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a response");
        let resource = |resource: remora_proto::pb::envoy::service::discovery::v3::Resource| {
            resource.resource.map(|any| Recorded {
                name: resource.name,
                any,
            })
        };
        return response.resources.into_iter().filter_map(resource).collect();
    }
    let response = DiscoveryResponse::decode(bytes.as_slice()).expect("a response");
    let resource = |any: Any| Recorded {
        name: wire::name(&any.value).unwrap_or_default().to_owned(),
        any,
    };
    response.resources.into_iter().map(resource).collect()
}

fn outcome(any: &Any, cx: &BuildContext) -> String {
    let name = remora_proto::type_url::full_name(&any.type_url);
    let under = |mode| match crate::validate::resource(name, &any.value.clone().into(), cx, mode) {
        Ok(_) => "accepted".to_owned(),
        Err(problems) => format!("refused\n    {}", problems.to_string().replace("; ", "\n    ")),
    };
    let strict = under(Unsupported::Refuse);
    match strict.as_str() {
        "accepted" => strict,
        _ => format!(
            "{strict}\n    with REMORA_UNSUPPORTED=warn: {}",
            under(Unsupported::Warn)
        ),
    }
}

/// What becomes of everything that istiod sent in each recorded scenario.
#[test]
fn istiods_configuration_has_the_outcomes_that_are_written_down() {
    let fixtures = root().join("tests/fixtures/istio");
    let mut text = String::new();
    let cx = BuildContext::default();
    let mut listing: Vec<PathBuf> = Vec::new();
    for scenario in std::fs::read_dir(&fixtures).expect("the fixtures are there").flatten() {
        for proxy in std::fs::read_dir(scenario.path()).into_iter().flatten().flatten() {
            for file in std::fs::read_dir(proxy.path()).into_iter().flatten().flatten() {
                let path = file.path();
                if path.extension().is_some_and(|extension| extension == "pb") {
                    listing.push(path);
                }
            }
        }
    }
    listing.sort();
    for file in &listing {
        let mut outcomes: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in recorded(file) {
            outcomes
                .entry(outcome(&resource.any, &cx))
                .or_default()
                .push(resource.name);
        }
        let name = file.strip_prefix(&fixtures).expect("it is below").display().to_string();
        text += &format!("{name}\n");
        for (outcome, mut names) in outcomes {
            names.sort();
            text += &match outcome.as_str() {
                "accepted" => format!("  accepted: {}\n", names.len()),
                _ => format!("  {}: {outcome}\n", names.join(", ")),
            };
        }
    }
    equals_file("tests/fixtures/istio-outcomes.txt", &text);
    let of = |scenario: &str| {
        let files = text.split("\n").skip_while(|line| !line.starts_with(scenario));
        let rest = files.take_while(|line| line.starts_with(' ') || line.starts_with(scenario));
        rest.map(|line| format!("{line}\n")).collect::<String>()
    };
    for scenario in [
        "default",
        "strict-canary",
        "tproxy",
        "security",
        "traffic",
        "egress",
        "envoyfilter",
        "gateway",
    ] {
        assert!(of(scenario).contains("accepted"), "{scenario} is not there");
        assert!(!of(scenario).contains("refused"), "{scenario}:\n{}", of(scenario));
    }
    for scenario in ["telemetry", "hbone"] {
        let outcomes = of(scenario);
        let refused = outcomes.matches(": refused\n").count();
        let tolerated = outcomes.matches("with REMORA_UNSUPPORTED=warn: accepted").count();
        assert_eq!(
            refused, tolerated,
            "{scenario} does not run under a warning:\n{outcomes}"
        );
    }
}

/// What a control plane can offer and is not taken: each with the place of the field and why, never in silence.
#[test]
fn discovery_services_that_are_not_there_are_refused_with_their_path_and_why() {
    const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
    const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    const ADS: &str = "{ads: {}, resource_api_version: V3}";
    let grpc = "grpc_services: [{envoy_grpc: {cluster_name: x}}]";
    let cases = [
        (
            BOOTSTRAP,
            format!("{{layered_runtime: {{layers: [{{name: r, rtds_layer: {{name: r, rtds_config: {ADS}}}}}]}}}}"),
            "layered_runtime.layers[0].rtds_layer: runtime values are not discovered (RTDS)",
        ),
        (
            BOOTSTRAP,
            "{layered_runtime: {layers: [{name: d, disk_layer: {symlink_root: /r}}]}}".to_owned(),
            "layered_runtime.layers[0].disk_layer: ",
        ),
        (
            BOOTSTRAP,
            format!(
                "{{cluster_manager: {{load_stats_config: {{api_type: GRPC, transport_api_version: V3, {grpc}}}}}}}"
            ),
            "cluster_manager.load_stats_config: loads are not reported (LRS)",
        ),
        (
            BOOTSTRAP,
            format!("{{hds_config: {{api_type: GRPC, transport_api_version: V3, {grpc}}}}}"),
            "hds_config: ",
        ),
        (
            BOOTSTRAP,
            "{dynamic_resources: {cds_resources_locator: 'xdstp://a/b/*'}}".to_owned(),
            "dynamic_resources.cds_resources_locator: xdstp collections are not supported",
        ),
        (
            BOOTSTRAP,
            "{dynamic_resources: {cds_config: {path_config_source: {path: /a, poll_interval: 1s}}}}".to_owned(),
            "dynamic_resources.cds_config.path_config_source.poll_interval: ",
        ),
        (
            BOOTSTRAP,
            "{dynamic_resources: {cds_config: {authorities: [{name: a}], ads: {}}}}".to_owned(),
            "dynamic_resources.cds_config.authorities",
        ),
        (
            MANAGER,
            format!(
                "{{stat_prefix: x, scoped_routes: {{name: s, scope_key_builder: {{fragments: [{{header_value_extractor: {{name: h, element_separator: ',', index: 0}}}}]}}, scoped_rds: {{scoped_rds_config_source: {ADS}}}}}}}"
            ),
            "scoped_routes: scoped routes are not supported",
        ),
        (
            MANAGER,
            format!("{{stat_prefix: x, route_config: {{name: r, vhds: {{config_source: {ADS}}}}}}}"),
            "route_config.vhds: virtual hosts cannot be discovered one by one",
        ),
        (
            MANAGER,
            format!(
                "{{stat_prefix: x, rds: {{route_config_name: r, config_source: {ADS}}}, http_filters: [{{name: f, config_discovery: {{config_source: {ADS}, type_urls: [a]}}}}]}}"
            ),
            "http_filters[0].config_discovery: extensions cannot be discovered",
        ),
        (
            CLUSTER,
            "{name: a, connect_timeout: 1s, lrs_server: {self: {}}}".to_owned(),
            "lrs_server: loads are not reported",
        ),
    ];
    for (message, yaml, expected) in cases {
        let outcome = checked(message, &yaml, Unsupported::Refuse);
        assert!(
            outcome.starts_with("refused ") && outcome.contains(expected),
            "{yaml}\n{outcome}\nlacks {expected}"
        );
    }
}

#[test]
fn a_resource_in_the_place_of_an_extension_is_called_that() {
    let yaml = "{name: a, connect_timeout: 1s, typed_extension_protocol_options: \
        {x: {'@type': type.googleapis.com/envoy.config.cluster.v3.Cluster}}}";
    let refused = checked(CLUSTER, yaml, Unsupported::Warn);
    assert!(
        refused.starts_with("refused typed_extension_protocol_options"),
        "{refused}"
    );
    let reason = "envoy.config.cluster.v3.Cluster is a resource, not the configuration of an extension";
    assert!(refused.ends_with(reason), "{refused}");
}
