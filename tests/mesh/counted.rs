//! Stats that only whole connections show, under Envoy's names.

use control_plane_mock::resources::{Variant, hcm, listener_http};
use remora_proto::pb::envoy::config::core::v3::HttpProtocolOptions;
use remora_proto::pb::google::protobuf::Duration as PbDuration;
use remora_tests::{Backend, Http1, Http2, Sidecar, until};

use super::{One, all_to_a, cluster};

#[tokio::test]
async fn http2_streams_and_resets_are_counted_on_both_sides() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a).http2()], all_to_a()).await;
    let stat = async |name: &str| one.sidecar.stat(name).await;
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the request", async || (a.requests() == 1).then_some(())).await;
    assert_eq!(stat("http2.streams_active").await, 1);
    assert_eq!(stat("cluster.a.http2.streams_active").await, 1);
    drop(held);
    for (name, value) in [
        ("http2.streams_active", 0),
        ("http2.rx_reset", 1),
        ("cluster.a.http2.streams_active", 0),
        ("cluster.a.http2.tx_reset", 1),
    ] {
        until(name, async || (stat(name).await == value).then_some(())).await;
    }
    assert_eq!(stat("cluster.a.http2.rx_reset").await, 0);
    // The backend resets what it was asked.
    let answer = one.get("/", "x-do: reset\r\n").await;
    assert_eq!(answer.status, 503);
    until("the reset", async || {
        (stat("cluster.a.http2.rx_reset").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_without_http2_has_no_stats_of_it() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    assert_eq!(one.get("/", "").await.status, 200);
    let text = one.sidecar.admin("GET", "/stats").await.text();
    assert!(text.contains("cluster.a.upstream_cx_http1_total: 1") && !text.contains("cluster.a.http2."));
}

#[tokio::test]
async fn a_connection_that_is_too_old_is_counted_once_and_told_goodbye() {
    let a = Backend::start("a").await;
    let one = One::start_with(Variant::Sotw, [cluster(&a)], all_to_a(), |plane| {
        let old = HttpProtocolOptions {
            max_connection_duration: Some(PbDuration { seconds: 1, nanos: 0 }),
            ..HttpProtocolOptions::default()
        };
        let hcm = hcm("http").rds("routes").edit(|hcm| {
            hcm.common_http_protocol_options = Some(old);
            hcm.drain_timeout = Some(PbDuration::default());
        });
        plane.push_listener(listener_http("http", "127.0.0.1", 0, hcm));
    })
    .await;
    let stat = async |name: &str| one.sidecar.stat(name).await;
    let mut client = Http2::connect(one.address).await;
    assert_eq!(client.get("m", "/", &[]).await.status, 200);
    let name = "http.http.downstream_cx_max_duration_reached";
    until(name, async || (stat(name).await == 1).then_some(())).await;
    assert!(stat("http2.goaway_sent").await >= 1);
    let mut client = one.client().await;
    assert_eq!(client.get("m", "/", "").await.status, 200);
    until(name, async || (stat(name).await == 2).then_some(())).await;
    assert_eq!(stat("http.http.downstream_cx_idle_timeout").await, 0);
    assert_eq!(stat("http.http.downstream_cx_max_requests_reached").await, 0);
}

#[tokio::test]
async fn the_admin_server_counts_itself() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let stat = async |name: &str| one.sidecar.stat(name).await;
    assert_eq!(one.sidecar.admin("GET", "/nothing").await.status, 404);
    assert_eq!(stat("http.admin.downstream_rq_4xx").await, 1);
    assert_eq!(stat("listener.admin.http.admin.downstream_rq_4xx").await, 1);
    // The one that asks.
    assert_eq!(stat("http.admin.downstream_rq_active").await, 1);
    let (total, destroyed) = (
        stat("http.admin.downstream_cx_total").await,
        "http.admin.downstream_cx_destroy",
    );
    assert!(total >= 4, "{total}");
    until(destroyed, async || (stat(destroyed).await >= total).then_some(())).await;
    assert!(stat("http.admin.downstream_cx_rx_bytes_total").await > 0);
    // Envoy loads it twice, too.
    assert_eq!(stat("runtime.load_success").await, 2);
}

/// A chain that refuses `/denied`, compresses, and routes to a host that nobody listens at.
const CHAIN: &str = r#"admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          http_filters:
          - name: rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules: {action: DENY, policies: {denied: {permissions: [{url_path: {path: {exact: /denied}}}], principals: [{any: true}]}}}
          - name: compressor
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor
              compressor_library:
                name: gzip
                typed_config: {"@type": type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - {match: {path: /text}, direct_response: {status: 200, body: {inline_string: "some words that would be worth being compressed"}}}
              - {match: {path: /away}, redirect: {path_redirect: /text}}
              - {match: {path: /dead}, route: {cluster: dead}}
  clusters:
  - name: dead
    connect_timeout: 1s
    load_assignment: {cluster_name: dead, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}}]}]}
"#;

#[tokio::test]
async fn only_what_came_to_the_router_and_to_a_host_counts_there() {
    let sidecar = Sidecar::start(CHAIN).await.unwrap();
    let mut client = Http1::connect(sidecar.listener("http").await).await.unwrap();
    for (path, status) in [("/denied", 403), ("/nowhere", 404), ("/dead", 503)] {
        assert_eq!(client.get("m", path, "").await.status, status, "{path}");
    }
    assert_eq!(sidecar.stat("http.http.no_route").await, 1);
    let times = sidecar
        .admin("GET", "/stats?filter=upstream_rq_time&usedonly")
        .await
        .text();
    assert!(!times.contains("upstream_rq_time"), "{times}");
}

#[tokio::test]
async fn a_body_that_no_filter_changes_keeps_its_length() {
    let sidecar = Sidecar::start(CHAIN).await.unwrap();
    let mut client = Http1::connect(sidecar.listener("http").await).await.unwrap();
    let plain = client.get("m", "/text", "").await;
    assert_eq!(plain.header("content-length"), Some("47"), "{}", plain.render());
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    let away = client.get("m", "/away", "").await;
    assert_eq!((away.status, away.header("vary")), (301, Some("Accept-Encoding")));
    let small = client.get("m", "/text", "accept-encoding: gzip\r\n").await;
    assert_eq!(small.header("content-encoding"), Some("gzip"), "{}", small.render());
    assert_eq!(small.header("content-length"), None);
}
