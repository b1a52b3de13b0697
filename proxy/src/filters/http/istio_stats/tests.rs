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
        source_canonical_revision=\"\",source_workload_namespace=\"shop\",source_principal=\"unknown\",\
        source_app=\"web\",source_version=\"\",source_cluster=\"Kubernetes\",destination_workload=\"cart-v2\",\
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
    let messages = page
        .lines()
        .find(|line| line.starts_with("istio_response_messages_total{"));
    assert!(
        messages.is_some_and(|line| line.ends_with("destination_cluster=\"unknown\"} 0")),
        "{page}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_messages_of_a_long_call_are_counted_while_it_lasts() {
    use crate::http::access_log::write_due;
    use http_body_util::BodyExt;
    let build = build();
    let config = PluginConfig {
        tcp_reporting_duration: Some(remora_proto::pb::google::protobuf::Duration { seconds: 2, nanos: 0 }),
        ..PluginConfig::default()
    };
    let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
    let mut call = exchange("POST", "/s/M", &[("content-type", "application/grpc")]);
    filter.request_headers(&mut call);
    let count = |name: &str| {
        let page = page(&build);
        let line = page.lines().find(|line| line.starts_with(&format!("istio_{name}{{")));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    let answer = |messages: usize| {
        let data = bytes::Bytes::from([0, 0, 0, 0, 0].repeat(messages));
        http::Response::new(Body::Trailers(Some(data), Box::default()))
    };
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    assert!(write_due(&mut call).is_some());
    assert_eq!(count("response_messages_total"), None, "the server is not known yet");
    let mut response = answer(2);
    filter.response_headers(&mut call, &mut response);
    call.extensions.insert(UpstreamPeer(peer()));
    response.into_body().collect().await.expect("a body");
    assert!(write_due(&mut call).is_some());
    assert_eq!(count("response_messages_total"), None, "it is not time yet");
    tokio::time::advance(std::time::Duration::from_secs(3)).await;
    assert!(write_due(&mut call).is_some());
    assert_eq!(count("response_messages_total"), Some(2));
    assert_eq!(count("requests_total"), None, "the call goes on");
    finish(&filter, &mut call, 200);
    assert_eq!(count("response_messages_total"), Some(2), "none is counted twice");
    assert_eq!(count("requests_total"), Some(1));
}

#[test]
fn a_drop_without_a_metric_drops_nothing() {
    let build = build();
    let config = PluginConfig {
        metrics: vec![MetricConfig {
            drop: true,
            tags_to_remove: vec!["reporter".into()],
            ..MetricConfig::default()
        }],
        ..PluginConfig::default()
    };
    let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
    finish(&filter, &mut exchange("GET", "/", &[]), 200);
    let page = page(&build);
    assert!(page.contains("istio_requests_total{reporter=\"source\""), "{page}");
}

/// What an expression says of an exchange; `None`: nothing.
fn value(expression: &str, exchange: &Exchange) -> Option<String> {
    let compiled = expression::Expression::compile(expression, &build().node);
    let compiled = compiled.unwrap_or_else(|problems| panic!("{expression}: {problems}"));
    let mut out = String::new();
    compiled.write(&Subject::of(exchange), &mut out).then_some(out)
}

fn known_exchange() -> Exchange {
    let tls = PeerInfo {
        uri_sans: vec!["spiffe://cluster.local/ns/shop/sa/web".into(), "spiffe://second".into()],
        dns_sans: vec!["shop.test".into()],
        subject: Some("CN=me,O=org".into()),
        certificate: Some(Arc::from(&b"x"[..])),
        version: "TLSv1.3",
        ..PeerInfo::default()
    };
    let mut connection = connection(Some(tls));
    connection.direction = Direction::Inbound;
    connection.sni = Some("shop.test".into());
    let headers = [
        ("host", "a.test"),
        ("x-a", "1"),
        ("x-a", "2"),
        ("x-empty", ""),
        ("user-agent", "ua"),
    ];
    let mut exchange = exchange_over(connection, "POST", "/p/q?x=1", &headers);
    exchange.response_code = Some(http::StatusCode::CREATED);
    exchange.details = "via upstream".into();
    exchange.bytes.received = 4;
    exchange.bytes.sent = 5;
    exchange
        .flags
        .set(crate::telemetry::flags::ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    exchange.logged_response = Some(Box::new(http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-r"),
        http::HeaderValue::from_static("rr"),
    )])));
    let mut state = crate::http::exchange::FilterState::default();
    state.0.insert("my".into(), "MINE".into());
    exchange.extensions.insert(state);
    let mut known = (*peer()).clone();
    known.labels = vec![("team".into(), "blue".into())];
    exchange.extensions.insert(DownstreamPeer(Arc::new(known)));
    exchange.route.cluster = Some(Arc::new(tests::cluster("inbound|80||", Some(service()))));
    exchange
}

/// The values are those that Envoy prints with `%CEL(…)%` for the like.
#[test]
fn attributes_have_the_values_that_envoy_prints() {
    let exchange = known_exchange();
    for (expression, expected) in [
        ("request.path", Some("/p/q?x=1")),
        ("request.url_path", Some("/p/q")),
        ("request.query", Some("x=1")),
        ("request.host", Some("a.test")),
        ("request.method", Some("POST")),
        ("request.protocol", Some("HTTP/1.1")),
        ("request.useragent", Some("ua")),
        ("request.referer", None),
        ("request.size", Some("4")),
        ("request.headers['x-a']", Some("1,2")),
        ("request.headers[\"X-A\"]", Some("1,2")),
        ("request.headers['x-none']", None),
        ("request.headers['x-empty']", Some("")),
        ("request.headers[':method']", Some("POST")),
        ("request.headers.host", Some("a.test")),
        ("response.code", Some("201")),
        ("response.code_details", Some("via_upstream")),
        ("response.flags", Some("32")),
        ("response.grpc_status", Some("2")),
        ("response.size", Some("5")),
        ("response.headers['x-r']", Some("rr")),
        ("response.headers[':status']", Some("201")),
        ("response.headers['none']", None),
        ("response.trailers['t']", None),
        ("connection.mtls", Some("true")),
        ("connection.requested_server_name", Some("shop.test")),
        ("connection.tls_version", Some("TLSv1.3")),
        ("connection.subject_peer_certificate", Some("CN=me,O=org")),
        ("connection.dns_san_peer_certificate", Some("shop.test")),
        (
            "connection.uri_san_peer_certificate",
            Some("spiffe://cluster.local/ns/shop/sa/web"),
        ),
        ("connection.uri_san_local_certificate", None),
        ("upstream.address", None),
        ("upstream.tls_version", None),
        ("xds.cluster_name", Some("inbound|80||")),
        ("xds.route_name", None),
        ("xds.listener_direction", Some("1")),
        ("xds.node.metadata['NAMESPACE']", Some("shop")),
        ("node.metadata.LABELS.app", Some("web")),
        ("xds.node.metadata.LABELS", Some("CelMap value")),
        ("xds.node.metadata['NONE']", None),
        (
            "xds.cluster_metadata.filter_metadata['istio']['services']",
            Some("CelList value"),
        ),
        ("xds.cluster_metadata.filter_metadata.none.a", None),
        ("filter_state.my", Some("MINE")),
        ("filter_state['none']", None),
        ("filter_state.downstream_peer.workload", Some("cart-v2")),
        ("downstream_peer.namespace", Some("metadata")),
        ("filter_state.downstream_peer.labels['team']", Some("blue")),
        ("filter_state.downstream_peer.labels['none']", None),
        ("filter_state.upstream_peer.app", None),
    ] {
        assert_eq!(value(expression, &exchange).as_deref(), expected, "{expression}");
    }
    let port = exchange.connection.local.ip().map(|address| address.port().to_string());
    assert_eq!(value("string(destination.port)", &exchange), port);
    assert_eq!(
        value("destination.address", &exchange),
        Some(exchange.connection.local.to_string())
    );
    assert_eq!(
        value("source.address", &exchange),
        Some(exchange.connection.remote.to_string())
    );
}

#[test]
fn expressions_join_and_choose() {
    let exchange = known_exchange();
    for (expression, expected) in [
        ("'a b'", Some("a b")),
        ("\"\"", Some("")),
        ("404", Some("404")),
        ("true", Some("true")),
        ("request.host + ' ' + string(response.code)", Some("a.test 201")),
        ("'a' + request.headers['x-none']", None),
        (
            "has(filter_state.downstream_peer) ? filter_state.downstream_peer.service : 'nobody'",
            Some("cart"),
        ),
        (
            "has(filter_state.upstream_peer) ? filter_state.upstream_peer.app : filter_state['wasm.upstream_peer'].app",
            None,
        ),
        (
            "has(request.headers.nope) ? request.headers.nope : 'default'",
            Some("default"),
        ),
        (
            "('x-a' in request.headers) ? request.headers['x-a'] : 'none'",
            Some("1,2"),
        ),
        (
            "'x-none' in request.headers ? 'a' : ('x-a' in request.headers ? 'b' : 'c')",
            Some("b"),
        ),
        ("has(request.referer)", Some("false")),
        ("(request.method)", Some("POST")),
    ] {
        assert_eq!(value(expression, &exchange).as_deref(), expected, "{expression}");
    }
}

#[test]
fn other_expressions_are_refused() {
    let deep = format!("{}'a'{}", "(".repeat(64), ")".repeat(64));
    for expression in [
        "",
        "request.size > 3",
        "request.host == 'a'",
        "'a' + response.code",
        "nothing",
        "request.nothing",
        "request.duration",
        "request.headers",
        "request.headers[0]",
        "request.host.x",
        "filter_state.upstream_peer.color",
        "xds.node",
        "size(request.path)",
        "request.path.contains('a')",
        "'a",
        "'a\\n'",
        "has(request.headers['x-a'])",
        "has(request.host) ? 'a'",
        "request.host request.path",
        "1 + 2",
        &deep,
    ] {
        assert!(
            expression::Expression::compile(expression, &build().node).is_err(),
            "{expression}"
        );
    }
}

#[test]
fn values_of_dimensions_are_kept_apart_and_missing_ones_are_unknown() {
    let build = build();
    let dimensions = [
        ("a_code", "response.code"),
        ("b_none", "request.headers['none']"),
        ("c_empty", "request.headers['x-empty']"),
        ("d_peer", "filter_state.downstream_peer.labels['team']"),
        ("reporter", "'me'"),
    ];
    let config = PluginConfig {
        metrics: vec![MetricConfig {
            dimensions: dimensions
                .iter()
                .map(|(label, text)| ((*label).to_owned(), (*text).to_owned()))
                .collect(),
            ..MetricConfig::default()
        }],
        ..PluginConfig::default()
    };
    let filter = tests::compile(REGISTRATION, &config, &build).expect("compiles");
    finish(&filter, &mut known_exchange(), 201);
    let page = page(&build);
    let line = page
        .lines()
        .find(|line| line.starts_with("istio_requests_total{"))
        .unwrap_or_default();
    assert!(line.starts_with("istio_requests_total{reporter=\"me\","), "{page}");
    let own = ",a_code=\"201\",b_none=\"unknown\",c_empty=\"\",d_peer=\"blue\"} 1";
    assert!(line.ends_with(own), "{line}");
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
