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
    let subset = "{name: a, connect_timeout: 1s, connection_pool_per_downstream_connection: true}";
    let refused = "refused connection_pool_per_downstream_connection: pools are shared";
    assert_eq!(checked(CLUSTER, subset, Unsupported::Refuse), refused);
    assert_eq!(checked(CLUSTER, subset, Unsupported::Warn), refused);
}

#[test]
fn a_refusal_cannot_hide_behind_many_harmless_findings() {
    // 200 fields of a number that the schema lacks, then one that is refused.
    let mut bytes = [0xfa, 0x7f, 0x00].repeat(200);
    let yaml = "{name: a, connect_timeout: 1s, connection_pool_per_downstream_connection: true}";
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
    match crate::validate::resource(name, &any.value.clone().into(), cx, Unsupported::Refuse) {
        Ok(_) => "accepted".to_owned(),
        Err(problems) => format!("refused\n    {}", problems.to_string().replace("; ", "\n    ")),
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
