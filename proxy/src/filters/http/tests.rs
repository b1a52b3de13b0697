//! What the filters' tests share.

use std::sync::Arc;

use super::{Filter, FilterContext, Registration, Stage};
use crate::config::{BuildContext, Compiled};

/// Compiles a filter called `filter` of a connection manager called `in`.
pub fn compile(
    registration: Registration,
    config: &impl prost::Message,
    build: &BuildContext,
) -> Compiled<Arc<dyn Filter>> {
    let cx = FilterContext {
        name: "filter",
        stat_prefix: "http.in.",
        build,
    };
    match (registration.compile)(&config.encode_to_vec(), &cx)? {
        Stage::Filter(filter) => Ok(filter),
        Stage::Tower(_) => panic!("not a filter"),
    }
}

/// The route `/` to a cluster, with one `typed_per_filter_config` for the filter called `filter`.
pub fn route_with(type_name: &str, config: &impl prost::Message) -> Compiled<crate::http::exchange::RouteCell> {
    use remora_proto::pb::envoy::config::route::v3 as pb;
    let any = remora_proto::pb::google::protobuf::Any {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: config.encode_to_vec(),
    };
    let action = pb::RouteAction {
        cluster_specifier: Some(pb::route_action::ClusterSpecifier::Cluster("backend".into())),
        ..Default::default()
    };
    let route = pb::Route {
        r#match: Some(pb::RouteMatch {
            path_specifier: Some(pb::route_match::PathSpecifier::Prefix("/".into())),
            ..Default::default()
        }),
        action: Some(pb::route::Action::Route(action)),
        typed_per_filter_config: [("filter".to_owned(), any)].into_iter().collect(),
        ..Default::default()
    };
    let table = pb::RouteConfiguration {
        name: "table".into(),
        virtual_hosts: vec![pb::VirtualHost {
            name: "host".into(),
            domains: vec!["*".into()],
            routes: vec![route],
            ..Default::default()
        }],
        ..Default::default()
    };
    let bytes = prost::Message::encode_to_vec(&table);
    let table = Arc::new(crate::route::RouteTable::parse(bytes.into(), &BuildContext::default())?);
    let mut exchange = crate::testing::exchange("GET", "/", &[("host", "x")]);
    crate::http::select_route::select(&mut exchange, &table);
    assert!(exchange.route.route.is_some(), "the route is selected");
    Ok(exchange.route)
}

/// A static cluster without hosts.
pub fn cluster(
    name: &str,
    metadata: Option<remora_proto::pb::envoy::config::core::v3::Metadata>,
) -> crate::cluster::Cluster {
    use remora_proto::pb::envoy::config::cluster::v3 as pb;
    let config = pb::Cluster {
        name: name.into(),
        metadata,
        cluster_discovery_type: Some(pb::cluster::ClusterDiscoveryType::Type(
            pb::cluster::DiscoveryType::Static as i32,
        )),
        ..Default::default()
    };
    let bytes = prost::Message::encode_to_vec(&config);
    crate::config::cluster::compile(&bytes, &BuildContext::default()).expect("compiles")
}

#[test]
fn what_istiod_sends_compiles_or_is_refused_for_a_known_reason() {
    use prost::Message;
    use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pbh;
    let build = BuildContext::default();
    let mut good = 0;
    for manager in crate::config::listener::tests::managers() {
        let manager = pbh::HttpConnectionManager::decode(manager.as_slice()).expect("decodes");
        let (_, filters) = manager.http_filters.split_last().expect("a router");
        for filter in filters {
            let Some(pbh::http_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                continue;
            };
            let (inner, value) = remora_proto::any::content(any).expect("decodes");
            let outer = remora_proto::type_url::full_name(&any.type_url);
            let type_name = if inner.is_empty() { outer } else { inner };
            let cx = FilterContext {
                name: &filter.name,
                stat_prefix: "http.in.",
                build: &build,
            };
            let registration = super::find(type_name).unwrap_or_else(|| panic!("there is no {type_name}"));
            let compiled = (registration.compile)(&value, &cx);
            let problems = compiled.err().map(|problems| problems.to_string());
            assert_eq!(problems, None, "{}", filter.name);
            good += 1;
        }
    }
    assert!(good > 100, "{good}");
}
