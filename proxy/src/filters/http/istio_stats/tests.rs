use std::hash::BuildHasher;

use prost::Message;
use remora_proto::istio::stats::{MetricConfig, PluginConfig};
use remora_proto::pb::envoy::config::core::v3::{Metadata, Node};
use remora_proto::pb::google::protobuf::{ListValue, Struct, Value};

use super::super::peer_metadata::{DownstreamPeer, UpstreamPeer};
use super::*;
use crate::config::BuildContext;
use crate::filters::http::tests;
use crate::listener::Direction;
use crate::telemetry::prometheus;
use crate::telemetry::render::{Selection, collect};
use crate::telemetry::tags::TagRules;
use crate::testing::{connection, exchange, exchange_over};
use crate::tls::PeerInfo;

fn object(fields: &[(&str, Kind)]) -> Struct {
    let value = |kind: &Kind| Value {
        kind: Some(kind.clone()),
    };
    Struct {
        fields: fields
            .iter()
            .map(|(key, kind)| ((*key).to_owned(), value(kind)))
            .collect(),
    }
}

fn string(text: &str) -> Kind {
    Kind::StringValue(text.into())
}

fn build() -> BuildContext {
    let labels = object(&[
        ("app", string("web")),
        ("service.istio.io/canonical-name", string("web")),
    ]);
    let metadata = object(&[
        ("WORKLOAD_NAME", string("web-v1")),
        ("NAMESPACE", string("shop")),
        ("CLUSTER_ID", string("Kubernetes")),
        ("ISTIO_VERSION", string("1.29.6")),
        ("LABELS", Kind::StructValue(labels)),
    ]);
    let node = Node {
        metadata: Some(metadata),
        ..Node::default()
    };
    BuildContext {
        node: Arc::new(node),
        ..BuildContext::default()
    }
}

fn peer() -> Arc<Peer> {
    Arc::new(Peer {
        workload: "cart-v2".into(),
        namespace: "metadata".into(),
        canonical_name: "cart".into(),
        ..Peer::default()
    })
}

fn service() -> Metadata {
    let service = object(&[
        ("host", string("cart.shop.svc.cluster.local")),
        ("name", string("cart")),
    ]);
    let list = ListValue {
        values: vec![Value {
            kind: Some(Kind::StructValue(service)),
        }],
    };
    Metadata {
        filter_metadata: [("istio".to_owned(), object(&[("services", Kind::ListValue(list))]))].into(),
        ..Metadata::default()
    }
}

fn page(build: &BuildContext) -> String {
    let readings = collect(&build.stats, &Selection::default());
    prometheus::render(&readings, &TagRules::default(), Default::default())
}

fn finish(filter: &Arc<dyn Filter>, exchange: &mut Exchange, code: u16) {
    exchange.response_code = http::StatusCode::from_u16(code).ok();
    filter.log(exchange);
}

#[test]
fn an_outbound_request_is_labelled_with_service_and_peer() {
    let build = build();
    let filter = tests::compile(REGISTRATION, &PluginConfig::default(), &build).expect("compiles");
    let cluster = Arc::new(tests::cluster("outbound|80||cart", Some(service())));
    for _ in 0..2 {
        let mut exchange = exchange("GET", "/", &[("host", "cart")]);
        exchange.route.cluster = Some(cluster.clone());
        exchange.extensions.insert(UpstreamPeer(peer()));
        exchange.upstream.tls = Some(Arc::new(PeerInfo {
            uri_sans: vec!["spiffe://cluster.local/ns/shop/sa/cart".into()],
            ..PeerInfo::default()
        }));
        finish(&filter, &mut exchange, 200);
    }
    let line = "istio_requests_total{reporter=\"source\",source_workload=\"web-v1\",source_canonical_service=\"web\",\
        source_canonical_revision=\"latest\",source_workload_namespace=\"shop\",source_principal=\"unknown\",\
        source_app=\"web\",source_version=\"unknown\",source_cluster=\"Kubernetes\",destination_workload=\"cart-v2\",\
        destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",\
        destination_app=\"unknown\",destination_version=\"unknown\",destination_service=\"cart.shop.svc.cluster.local\",\
        destination_canonical_service=\"cart\",destination_canonical_revision=\"latest\",destination_service_name=\"cart\",\
        destination_service_namespace=\"shop\",destination_cluster=\"unknown\",request_protocol=\"http\",\
        response_code=\"200\",grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"unknown\"} 2\n";
    let page = page(&build);
    assert!(page.contains(line), "{page}");
    assert!(
        page.contains("# TYPE istio_request_duration_milliseconds histogram\n"),
        "{page}"
    );
    assert!(
        page.contains("istio_build{component=\"proxy\",tag=\"1.29.6\"} 1\n"),
        "{page}"
    );
    let text = crate::telemetry::render::text(&collect(&build.stats, &Selection::default()), Default::default());
    assert!(
        text.contains("istiocustom.istio_requests_total.reporter.source.source_workload.web-v1."),
        "{text}"
    );
}

#[test]
fn an_inbound_request_knows_whether_it_came_over_mutual_tls() {
    let build = build();
    let config = PluginConfig {
        disable_host_header_fallback: true,
        ..PluginConfig::default()
    };
    let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
    let tls = PeerInfo {
        uri_sans: vec!["spiffe://cluster.local/ns/other/sa/cart".into()],
        local_uri_sans: vec!["spiffe://cluster.local/ns/shop/sa/web".into()],
        ..PeerInfo::default()
    };
    for tls in [Some(tls), None] {
        let mut connection = connection(tls);
        connection.direction = Direction::Inbound;
        let mut exchange = exchange_over(connection, "GET", "/", &[("host", "ignored")]);
        exchange.extensions.insert(DownstreamPeer(peer()));
        finish(&filter, &mut exchange, 503);
    }
    let page = page(&build);
    let count = |labels: &[&str]| {
        let lines = page.lines().filter(|line| line.starts_with("istio_requests_total"));
        lines
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .count()
    };
    let mutual = [
        "source_workload_namespace=\"other\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    assert_eq!(count(&mutual), 1, "{page}");
    let plain = [
        "source_workload_namespace=\"metadata\"",
        "connection_security_policy=\"none\"",
    ];
    assert_eq!(count(&plain), 1, "{page}");
    assert_eq!(
        count(&["destination_service_name=\"web\"", "response_code=\"503\""]),
        2,
        "{page}"
    );
}

#[test]
fn configured_changes_apply_to_their_metric() {
    let build = build();
    let config = PluginConfig {
        metrics: vec![
            MetricConfig {
                name: "requests_total".into(),
                dimensions: [("url_path".to_owned(), "request.url_path".to_owned())].into(),
                tags_to_remove: vec!["response_code".into()],
                ..MetricConfig::default()
            },
            MetricConfig {
                name: "request_duration_milliseconds".into(),
                drop: true,
                ..MetricConfig::default()
            },
        ],
        ..PluginConfig::default()
    };
    let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
    for path in ["/a?x", "/b", "/a"] {
        finish(&filter, &mut exchange("GET", path, &[]), 200);
    }
    let page = page(&build);
    let requests: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .collect();
    assert_eq!(requests.len(), 2, "{page}");
    assert!(
        requests[0].ends_with("url_path=\"/a\"} 2") && !requests[0].contains("response_code="),
        "{page}"
    );
    assert!(!page.contains("istio_request_duration_milliseconds"));
    let bytes = page.lines().find(|line| line.starts_with("istio_request_bytes_count"));
    assert!(
        bytes.is_some_and(|line| line.contains("response_code=\"200\"") && line.ends_with(" 3")),
        "{page}"
    );
}

#[test]
fn a_grpc_call_has_its_status_and_messages() {
    let build = build();
    let filter = tests::compile(REGISTRATION, &PluginConfig::default(), &build).expect("compiles");
    let mut call = exchange("POST", "/s/M", &[("content-type", "application/grpc")]);
    filter.request_headers(&mut call);
    let mut response = http::Response::new(Body::Empty);
    response.headers_mut().insert("grpc-status", http::HeaderValue::from(5));
    filter.response_headers(&mut call, &mut response);
    finish(&filter, &mut call, 200);
    let page = page(&build);
    assert!(
        page.contains("request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"5\""),
        "{page}"
    );
    assert!(page.contains("istio_response_messages_total{"), "{page}");
}

#[test]
fn a_connection_is_reported_while_it_lasts_and_when_it_ends() {
    use crate::telemetry::access_log::TcpJournal;
    let build = build();
    let stats = IstioStats::compile(&PluginConfig::default().encode_to_vec(), "istio.stats", &build).expect("compiles");
    let observer: Arc<dyn crate::filters::network::Observer> = Arc::new(TcpObserver(Arc::new(stats)));
    assert_eq!(observer.watch().interval(), std::time::Duration::from_secs(5));
    let mut tcp = connection(None);
    tcp.direction = Direction::Inbound;
    tcp.workload = Some(peer().into());
    let mut journal = TcpJournal::new(&Arc::from([]), Arc::new(tcp)).watched(&[observer]);
    journal.record.cluster = Some(Arc::new(tests::cluster("inbound|5432||", Some(service()))));
    let look = |journal: &mut TcpJournal, bytes: u64| {
        journal.record.bytes.received = bytes;
        for watch in &mut journal.watches {
            watch.look(&journal.record);
        }
    };
    look(&mut journal, 3);
    look(&mut journal, 7);
    let middle = page(&build);
    let of = |page: &str, name: &str| {
        let line = page
            .lines()
            .find(|line| line.starts_with(&format!("istio_tcp_{name}{{")));
        line.map(str::to_owned).unwrap_or_default()
    };
    assert!(of(&middle, "received_bytes_total").ends_with(" 7"), "{middle}");
    assert!(of(&middle, "connections_opened_total").ends_with(" 1"), "{middle}");
    assert!(of(&middle, "connections_closed_total").ends_with(" 0"), "{middle}");
    journal.record.bytes.sent = 9;
    drop(journal);
    let page = page(&build);
    assert!(of(&page, "sent_bytes_total").ends_with(" 9"), "{page}");
    let closed = of(&page, "connections_closed_total");
    for label in [
        "reporter=\"destination\"",
        "source_workload=\"cart-v2\"",
        "destination_service_name=\"cart\"",
        "request_protocol=\"tcp\",response_flags=\"-\",connection_security_policy=\"none\"} 1",
    ] {
        assert!(closed.contains(label), "{closed}");
    }
    assert!(!closed.contains("response_code"), "{closed}");
}

#[test]
fn a_borrowed_key_finds_its_owned_self() {
    let mut exchange = exchange("GET", "/", &[("host", "a")]);
    exchange.response_code = Some(http::StatusCode::OK);
    let facts = Facts::of(&exchange, true);
    let key = facts.key(3, "x");
    let hasher = foldhash::fast::FixedState::with_seed(1);
    assert_eq!(hasher.hash_one(&key), hasher.hash_one(key.to_owned()));
    assert!(hashbrown::Equivalent::equivalent(&key, &key.to_owned()));
    assert!(!hashbrown::Equivalent::equivalent(&facts.key(3, "y"), &key.to_owned()));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let config = PluginConfig {
        metrics: vec![MetricConfig {
            r#match: "response.code == 200".into(),
            ..MetricConfig::default()
        }],
        ..PluginConfig::default()
    };
    let problems = tests::compile(REGISTRATION, &config, &build()).err().expect("refused");
    assert_eq!(problems.0[0].path, "metrics[0].match");
}
