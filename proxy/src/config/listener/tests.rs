use std::path::Path;

use remora_proto::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

use super::*;
use crate::config::source::Source;
use crate::config::tls::SecretRef;

/// Every encoded listener that a real istiod has sent, with where it is from.
fn istio() -> Vec<(String, Vec<u8>)> {
    let sent = raw_istio().into_iter();
    sent.map(|(place, bytes)| (place, routed_only(&bytes))).collect()
}

fn raw_istio() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/istio");
    let mut listeners = Vec::new();
    let scenarios = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    for scenario in scenarios.filter(|path| path.is_dir()) {
        for node in std::fs::read_dir(scenario).unwrap() {
            let file = node.unwrap().path().join("delta-lds.pb");
            let response = DeltaDiscoveryResponse::decode(std::fs::read(&file).unwrap().as_slice()).unwrap();
            for resource in response.resources {
                let place = format!("{} in {}", resource.name, file.display());
                listeners.push((place, resource.resource.unwrap().value));
            }
        }
    }
    listeners
}

/// Every HTTP connection manager that istiod sends, encoded.
pub fn managers() -> Vec<Vec<u8>> {
    use remora_proto::pb::envoy::config::listener::v3::filter::ConfigType;
    let mut managers = Vec::new();
    for (_, bytes) in raw_istio() {
        let listener = decode(&bytes).unwrap();
        for filter in listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain)
            .flat_map(|chain| &chain.filters)
        {
            if let Some(ConfigType::TypedConfig(any)) = &filter.config_type
                && any.type_url.ends_with(".HttpConnectionManager")
            {
                managers.push(any.value.clone());
            }
        }
    }
    managers
}

/// The listener without the HTTP filters in front of its routers: those have tests of their own.
fn routed_only(listener: &[u8]) -> Vec<u8> {
    use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    let mut listener = decode(listener).unwrap();
    let chains = listener
        .filter_chains
        .iter_mut()
        .chain(&mut listener.default_filter_chain);
    for filter in chains.flat_map(|chain| &mut chain.filters) {
        let Some(remora_proto::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(any)) =
            &mut filter.config_type
        else {
            continue;
        };
        if any.type_url.ends_with(".HttpConnectionManager") {
            let mut manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
            manager
                .http_filters
                .drain(..manager.http_filters.len().saturating_sub(1));
            any.value = manager.encode_to_vec();
        }
    }
    listener.encode_to_vec()
}

/// Refused for what it would open if it were dropped, or for what would be missing.
const REFUSED: &[&str] = &[
    "config_discovery: not supported",
    "envoy_internal_address: not supported",
];

#[test]
fn what_istiod_sends_compiles_or_is_refused_for_a_known_reason() {
    let cx = BuildContext::default();
    let (mut good, mut refused) = (0, 0);
    for (place, bytes) in istio() {
        match compile(&bytes, &cx) {
            Ok(config) => {
                good += 1;
                // Where warnings are wanted, listeners inside the process are there, and nothing reaches them.
                let inside = place.starts_with("connect_originate ") || place.starts_with("main_internal ");
                assert_eq!(config.addresses.is_empty(), inside, "{place}");
            }
            Err(problems) => {
                refused += 1;
                for problem in problems.0 {
                    let text = problem.to_string();
                    assert!(REFUSED.iter().any(|known| text.contains(known)), "{place}: {text}");
                }
            }
        }
    }
    assert!(good > 5 * refused && good > 50, "{good} good, {refused} refused");
}

#[test]
fn virtual_inbound_names_its_secrets_and_its_matches() {
    let all = istio();
    let (_, bytes) = all
        .iter()
        .find(|(place, _)| place.starts_with("virtualInbound in") && place.contains("default/server"))
        .unwrap();
    let needs = needs(bytes).unwrap();
    assert_eq!(needs.name, "virtualInbound");
    let cluster = |secret: &SecretRef| match secret.source.as_ref().map(|source| &source.source) {
        Some(Source::Grpc(grpc)) => grpc.cluster_name.to_string(),
        other => panic!("{other:?}"),
    };
    let names: Vec<_> = needs
        .secrets
        .iter()
        .map(|secret| (secret.name.as_str(), cluster(secret)))
        .collect();
    let agent = || "sds-grpc".to_owned();
    assert_eq!(names, [("ROOTCA", agent()), ("default", agent())]);
    let config = compile(bytes, &BuildContext::default()).unwrap();
    assert!(config.bind_to_port && config.settings.listener_filters_timeout.is_none());
    assert!(config.chains.all().any(|chain| chain.tls.is_some()));
    // Compiled from the same bytes again: the same hashes, so nothing would be drained.
    let again = compile(bytes, &BuildContext::default()).unwrap();
    let hashes = |config: &ListenerConfig| config.chains.all().map(|chain| chain.hash).collect::<Vec<_>>();
    assert_eq!((config.hash, hashes(&config)), (again.hash, hashes(&again)));
}

#[test]
fn outbound_listeners_name_their_routes() {
    let all = istio();
    let (_, bytes) = all
        .iter()
        .find(|(place, _)| place.starts_with("0.0.0.0_80 in") && place.contains("default/client"))
        .unwrap();
    let routes = needs(bytes).unwrap().routes;
    let [route] = routes.as_slice() else {
        panic!("{routes:?}")
    };
    assert_eq!((route.name.as_str(), &route.source.source), ("80", &Source::Ads));
    assert_eq!(route.stat_prefix, "outbound_0.0.0.0_80;");
    assert!(!compile(bytes, &BuildContext::default()).unwrap().bind_to_port);
}

#[test]
fn problems_carry_their_path() {
    use remora_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch};
    let chain = |server_name: &str| FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: vec![server_name.to_owned()],
            ..FilterChainMatch::default()
        }),
        filters: vec![Filter {
            name: "x".to_owned(),
            config_type: None,
        }],
        ..FilterChain::default()
    };
    let listener = Listener {
        enable_mptcp: true,
        filter_chains: vec![chain("*w.x.com")],
        ..Listener::default()
    };
    let problems = compile(&listener.encode_to_vec(), &BuildContext::default())
        .err()
        .unwrap();
    let paths: Vec<_> = problems.0.iter().map(|problem| problem.path.as_str()).collect();
    let expected = [
        "enable_mptcp",
        "filter_chains[0].filter_chain_match.server_names[0]",
        "filter_chains[0].filters[0].typed_config",
        "address",
    ];
    assert_eq!(paths, expected);
    assert!(compile(b"\xff\xff", &BuildContext::default()).is_err());
}
