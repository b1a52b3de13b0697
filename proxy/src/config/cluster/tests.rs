use std::collections::BTreeMap;

use prost::Message;
use remora_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use remora_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use remora_proto::pb::google::protobuf::Duration as PbDuration;

use super::*;
use crate::cluster::PickContext;
use crate::cluster::breaker::{Resource, RoutingPriority};

/// What istiod sends, recorded: (scenario/node, resources).
fn recorded(file: &str) -> Vec<(String, DeltaDiscoveryResponse)> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/istio");
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root).expect("the fixtures are part of the repository");
    let scenarios = entries.map(|entry| entry.expect("an entry").path());
    for scenario in scenarios.filter(|path| path.is_dir()) {
        for node in std::fs::read_dir(scenario).expect("a directory") {
            let path = node.expect("an entry").path().join(file);
            let Ok(bytes) = std::fs::read(&path) else {
                continue;
            };
            let response = DeltaDiscoveryResponse::decode(bytes.as_slice()).expect("a recorded response");
            found.push((path.display().to_string(), response));
        }
    }
    assert!(found.len() >= 10, "{found:?}");
    found
}

fn resources(file: &str) -> Vec<(String, Vec<u8>)> {
    let all = recorded(file).into_iter().flat_map(|(path, response)| {
        let any = move |resource: remora_proto::pb::envoy::service::discovery::v3::Resource| {
            (path.clone(), resource.resource.expect("a resource").value)
        };
        response.resources.into_iter().map(any)
    });
    all.collect()
}

/// What is wrong with a cluster of these fields.
fn refusal(fields: &str) -> Option<String> {
    let text = format!("{{name: a, connect_timeout: 1s, {fields}}}");
    let name = "envoy.config.cluster.v3.Cluster";
    let encoded = remora_proto::json::encode_text(&text, name, &Default::default()).expect("the text fits");
    needs(&encoded.bytes).err().map(|problems| problems.to_string())
}

/// `HttpProtocolOptions` with this protocol.
fn speaking(protocol: &str) -> String {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    format!("typed_extension_protocol_options: {{o: {{'@type': type.googleapis.com/{options}, {protocol}}}}}")
}

#[test]
fn auto_config_needs_sockets_with_alpn() {
    let auto = speaking("auto_config: {}");
    let extension = "'@type': type.googleapis.com/envoy.extensions.transport_sockets";
    let tls = &format!("{{name: t, typed_config: {{{extension}.tls.v3.UpstreamTlsContext}}}}");
    let raw = &format!("{{name: r, typed_config: {{{extension}.raw_buffer.v3.RawBuffer}}}}");
    let behind = |inner: &str| {
        let header = format!("{extension}.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {{}}");
        format!("{{name: p, typed_config: {{{header}, transport_socket: {inner}}}}}")
    };
    let of = |default: &str, matched: &str| {
        let matches = format!("[{{name: m, match: {{}}, transport_socket: {matched}}}]");
        refusal(&format!(
            "{auto}, transport_socket: {default}, transport_socket_matches: {matches}"
        ))
    };
    let why = "typed_extension_protocol_options[\"o\"].auto_config: needs ALPN, which a transport socket of the cluster does not have";
    let why = Some(why.to_owned());
    assert_eq!(refusal(&auto), why);
    assert_eq!(of(tls, tls), None);
    assert_eq!(of(&behind(tls), tls), None);
    assert_eq!(of(&behind(raw), tls), why);
    assert_eq!(of(tls, raw), why);
    assert_eq!(of(raw, tls), why);
}

#[test]
fn a_grpc_health_check_needs_http2() {
    let check = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {}}";
    let of = |fields: &str| refusal(&format!("health_checks: [{check}]{fields}"));
    let speaking = |protocol: &str| of(&format!(", {}", speaking(protocol)));
    let why = Some("health_checks[0].grpc_health_check: the cluster must support HTTP/2".to_owned());
    assert_eq!(of(""), why);
    assert_eq!(of(", protocol_selection: USE_DOWNSTREAM_PROTOCOL"), why);
    assert_eq!(of(", http2_protocol_options: {}"), None);
    assert_eq!(speaking("explicit_http_config: {http_protocol_options: {}}"), why);
    assert_eq!(speaking("explicit_http_config: {http2_protocol_options: {}}"), None);
    assert_eq!(speaking("use_downstream_protocol_config: {}"), why);
    assert_eq!(
        speaking("use_downstream_protocol_config: {http2_protocol_options: {}}"),
        None
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    let check = |kind: &str| {
        let rest = "timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1";
        format!("http2_protocol_options: {{}}, health_checks: [{{{rest}, {kind}}}]")
    };
    let host = "[{header: {key: Host, value: b}}]";
    let table = [
        (
            check(&format!("http_health_check: {{path: /, request_headers_to_add: {host}}}")),
            "health_checks[0].http_health_check.request_headers_to_add[0].header.key",
        ),
        (
            check("http_health_check: {path: /, request_headers_to_remove: [host]}"),
            "health_checks[0].http_health_check.request_headers_to_remove[0]",
        ),
        (
            check(&format!("grpc_health_check: {{initial_metadata: {host}}}")),
            "health_checks[0].grpc_health_check.initial_metadata[0].header.key",
        ),
        (
            "lb_subset_config: {subset_selectors: [{keys: [a, b], fallback_keys_subset: [a]}]}".to_owned(),
            "lb_subset_config.subset_selectors[0].fallback_keys_subset",
        ),
        (
            "http_protocol_options: {}, http2_protocol_options: {}".to_owned(),
            "http_protocol_options",
        ),
        (
            "load_assignment: {cluster_name: a, policy: {drop_overloads: [{category: b, drop_percentage: {numerator: 101}}]}}".to_owned(),
            "load_assignment.policy.drop_overloads[0].drop_percentage",
        ),
    ];
    for (fields, path) in table {
        let problem = refusal(&fields).unwrap_or_else(|| panic!("{fields} passed"));
        assert!(problem.starts_with(&format!("{path}: ")), "{problem}");
    }
}

/// As in Envoy, which has one checker per cluster.
#[test]
fn a_second_health_check_is_refused() {
    let refusal = |checks: usize| {
        let check = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}";
        let checks = vec![check; checks].join(", ");
        refusal(&format!("health_checks: [{checks}]"))
    };
    assert_eq!(refusal(1), None);
    assert_eq!(refusal(2), Some("health_checks: only one is supported".to_owned()));
}

#[test]
fn the_only_upstream_filter_is_istios_metadata_exchange() {
    let cluster = |filter: &str| {
        let text = format!("{{name: a, connect_timeout: 1s, filters: [{{name: f, typed_config: {filter}}}]}}");
        let name = "envoy.config.cluster.v3.Cluster";
        remora_proto::json::encode_text(&text, name, &Default::default())
            .expect("the text fits")
            .bytes
    };
    let exchange = r#"{"@type": "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange", protocol: istio-peer-exchange}"#;
    let built = compile(&cluster(exchange), &BuildContext::default()).expect("compiles");
    assert!(built.metadata_exchange.is_some());
    let echo = r#"{"@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}"#;
    let refused = needs(&cluster(echo)).expect_err("refused").to_string();
    let reason = "envoy.extensions.filters.network.echo.v3.Echo is not supported as an upstream filter";
    assert_eq!(refused, format!("filters[0].typed_config: {reason}"));
}

/// Every cluster that istiod sends compiles, but for transport sockets that are not TLS (they belong to the TLS room), and says the same twice.
#[test]
fn istiods_clusters_compile() {
    let cx = BuildContext::default();
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let mut compiled = 0;
    for (_, bytes) in resources("delta-cds.pb") {
        let verdict = needs(&bytes);
        let built = compile(&bytes, &cx);
        assert_eq!(verdict.is_ok(), built.is_ok());
        match built {
            Ok(_) => compiled += 1,
            Err(problems) => {
                for problem in problems.0 {
                    *refused.entry(problem.reason).or_default() += 1;
                }
            }
        }
    }
    let expected = ["internal_upstream.v3", "proxy_protocol.v3"];
    let surprising: Vec<_> = refused
        .keys()
        .filter(|reason| !expected.iter().any(|expected| reason.contains(expected)))
        .collect();
    assert!(surprising.is_empty(), "{refused:#?}");
    assert!(compiled > 200, "{compiled} compiled, {refused:#?}");
}

#[test]
fn istiods_endpoints_compile() {
    let mut hosts = 0;
    for (path, bytes) in resources("delta-eds.pb") {
        crate::config::endpoint::check(&bytes).unwrap_or_else(|problems| panic!("{path}: {problems}"));
        let assignment = crate::config::endpoint::decode(&bytes).expect("checked");
        let endpoints = crate::config::endpoint::compile(&assignment, &UpstreamTransport::default()).expect("checked");
        hosts += endpoints.hosts.len();
    }
    assert!(hosts >= 200, "{hosts}");
}

/// istiod names the pods behind a tunnel so: all by the listener that digs it, each by its own identifier.
#[test]
fn endpoints_behind_one_internal_listener_are_told_apart() {
    use remora_proto::pb::envoy::config::core::v3 as core;
    use remora_proto::pb::envoy::config::endpoint::v3 as endpoint;
    let named = |id: &str| {
        let internal = core::EnvoyInternalAddress {
            address_name_specifier: Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                "connect_originate".to_owned(),
            )),
            endpoint_id: id.to_owned(),
        };
        let address = core::Address {
            address: Some(core::address::Address::EnvoyInternalAddress(internal)),
        };
        let endpoint = endpoint::Endpoint {
            address: Some(address),
            ..Default::default()
        };
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        }
    };
    let assignment = ClusterLoadAssignment {
        endpoints: vec![endpoint::LocalityLbEndpoints {
            lb_endpoints: vec![named("10.0.0.1:80"), named("10.0.0.2:80")],
            ..Default::default()
        }],
        ..Default::default()
    };
    let endpoints = crate::config::endpoint::compile(&assignment, &UpstreamTransport::default()).expect("compiles");
    let names: Vec<_> = endpoints
        .hosts
        .iter()
        .map(|endpoint| endpoint.host.address.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "envoy://connect_originate/10.0.0.1:80",
            "envoy://connect_originate/10.0.0.2:80"
        ]
    );
}

fn number(value: u32) -> remora_proto::pb::google::protobuf::UInt32Value {
    remora_proto::pb::google::protobuf::UInt32Value { value }
}

fn cluster(change: impl FnOnce(&mut pb::Cluster)) -> Compiled<Cluster> {
    let mut config = pb::Cluster {
        name: "a:b".to_owned(),
        ..pb::Cluster::default()
    };
    change(&mut config);
    let bytes = config.encode_to_vec();
    let built = compile(&bytes, &BuildContext::default());
    assert_eq!(needs(&bytes).is_ok(), built.is_ok());
    built
}

#[test]
fn defaults_are_envoys() {
    let cx = BuildContext::default();
    let config = pb::Cluster {
        name: "a:b".to_owned(),
        ..pb::Cluster::default()
    };
    let built = compile(&config.encode_to_vec(), &cx).expect("a minimal cluster");
    assert_eq!(built.connect_timeout, Duration::from_secs(5));
    assert_eq!(built.http, HttpOptions::default());
    assert_eq!(built.lb, LbConfig::default());
    assert_eq!(built.breakers.limit(RoutingPriority::High, Resource::Request), 1024);
    assert_eq!(built.breakers.limit(RoutingPriority::Default, Resource::Retry), 3);
    assert!(built.outlier.is_none() && built.pick(&PickContext::default()).is_err());
    let mut prefixes = std::collections::BTreeSet::new();
    cx.stats.visit(&mut |prefix, _, _| {
        prefixes.insert(prefix.to_owned());
    });
    assert_eq!(prefixes.into_iter().collect::<Vec<_>>(), ["cluster.a_b."]);
}

#[test]
fn problems_name_their_field() {
    let table: [(&str, fn(&mut pb::Cluster)); 8] = [
        ("name", |config| config.name.clear()),
        ("connect_timeout", |config| {
            config.connect_timeout = Some(PbDuration { seconds: -1, nanos: 0 })
        }),
        ("lb_policy", |config| config.lb_policy = 99),
        ("lb_policy", |config| config.lb_policy = 6),
        ("eds_cluster_config", |config| {
            config.cluster_discovery_type = Some(pb::cluster::ClusterDiscoveryType::Type(3))
        }),
        ("queuing_policies", |config| {
            config.queuing_policies = Some(Default::default())
        }),
        ("outlier_detection.max_ejection_percent", |config| {
            config.outlier_detection = Some(pb::OutlierDetection {
                max_ejection_percent: Some(number(101)),
                ..Default::default()
            });
        }),
        ("load_assignment.endpoints[0].lb_endpoints[0].endpoint", |config| {
            let mut group = remora_proto::pb::envoy::config::endpoint::v3::LocalityLbEndpoints::default();
            group.lb_endpoints.push(Default::default());
            config.load_assignment = Some(ClusterLoadAssignment {
                endpoints: vec![group],
                ..ClusterLoadAssignment::default()
            });
        }),
    ];
    for (path, change) in table {
        let problems = cluster(change).err().unwrap_or_else(|| panic!("{path} passed"));
        assert_eq!(problems.0[0].path, path);
    }
}

#[test]
fn an_outlier_message_that_is_empty_switches_it_on() {
    let built = cluster(|config| config.outlier_detection = Some(pb::OutlierDetection::default())).expect("compiles");
    assert_eq!(
        built.outlier.as_ref().map(|detector| &detector.config),
        Some(&OutlierConfig::default())
    );
    let long = cluster(|config| {
        config.outlier_detection = Some(pb::OutlierDetection {
            base_ejection_time: Some(PbDuration { seconds: 900, nanos: 0 }),
            ..Default::default()
        });
    });
    let long = long.expect("compiles");
    let detector = long.outlier.as_ref().expect("a detector");
    assert_eq!(detector.config.max_ejection_time, Duration::from_secs(900));
}

#[test]
fn the_first_policy_that_we_have_wins() {
    let any = |name: &str| pb::load_balancing_policy::Policy {
        typed_extension_config: Some(core::TypedExtensionConfig {
            name: "x".to_owned(),
            typed_config: Some(remora_proto::pb::google::protobuf::Any {
                type_url: format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}"),
                value: Vec::new(),
            }),
        }),
    };
    let list = |names: &[&str]| {
        let policies = names.iter().map(|name| any(name)).collect();
        cluster(|config| config.load_balancing_policy = Some(pb::LoadBalancingPolicy { policies }))
    };
    let built = list(&["unheard_of.v3.Of", "random.v3.Random", "round_robin.v3.RoundRobin"]).expect("compiles");
    assert_eq!(built.lb.policy, Policy::Random);
    let refused = list(&["unheard_of.v3.Of"]).err().expect("nothing to use");
    assert_eq!(refused.0[0].path, "load_balancing_policy.policies");
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = needs(&bytes);
        let _ = crate::config::endpoint::check(&bytes);
    }
}

#[test]
fn weights_add_up_within_32_bits() {
    let check = |zones: &[(u32, u32, u32)]| {
        let zone = |(priority, weight, host): &(u32, u32, u32)| {
            format!(
                "{{locality: {{zone: z{weight}}}, priority: {priority}, load_balancing_weight: {weight}, lb_endpoints: [{{load_balancing_weight: \
                 {host}, endpoint: {{address: {{socket_address: {{address: 10.0.0.1, port_value: 80}}}}}}}}]}}"
            )
        };
        let zones: Vec<String> = zones.iter().map(zone).collect();
        let yaml = format!("{{cluster_name: c, endpoints: [{}]}}", zones.join(", "));
        let name = "envoy.config.endpoint.v3.ClusterLoadAssignment";
        let encoded = remora_proto::json::encode_text(&yaml, name, &Default::default()).expect("an assignment");
        crate::config::endpoint::check(&encoded.bytes).map_err(|problems| problems.to_string())
    };
    assert_eq!(
        check(&[(0, u32::MAX - 1, 1), (0, 1, u32::MAX), (1, u32::MAX, 1)]),
        Ok(())
    );
    let localities = check(&[(0, u32::MAX, 1), (0, 1, 1)]).expect_err("the localities");
    assert!(
        localities.starts_with("endpoints[1].load_balancing_weight: weights add up to more than 4294967295"),
        "{localities}"
    );
    // The same locality twice is one.
    let hosts = check(&[(0, 1, 1), (0, 1, u32::MAX)]).expect_err("the hosts");
    assert!(hosts.starts_with("endpoints[1].lb_endpoints: weights"), "{hosts}");
}
