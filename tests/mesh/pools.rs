//! Upstream connections: how many, for how long, and what happens when there may be no more.

use std::time::Duration;

use control_plane_mock::resources::{ClusterBuilder, Limits, cluster_eds, cluster_static, endpoints, prefix};
use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use remora_proto::pb::envoy::config::cluster::v3::cluster::PreconnectPolicy;
use remora_proto::pb::envoy::config::core::v3::{
    Http2ProtocolOptions, HttpProtocolOptions as CommonOptions, RoutingPriority,
};
use remora_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use remora_proto::pb::google::protobuf::{DoubleValue, Duration as PbDuration, UInt32Value};
use remora_tests::{Backend, Http1, Http2, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{One, all_to_a, cluster, everything};

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// Eight requests at once, on one connection of the client: one worker, one pool.
async fn eight_at_once(one: &One) -> Vec<u16> {
    let mut client = Http2::connect(one.address).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(client.open("GET", "m", "/", &[("x-do", "delay=20")], true).await);
    }
    let mut statuses = Vec::new();
    for stream in streams {
        statuses.push(stream.answer().await.status);
    }
    statuses
}

async fn all_wait_for_one_connection(backend: &Backend, limited: ClusterBuilder) {
    let one = One::start([limited], all_to_a()).await;
    assert_eq!(eight_at_once(&one).await, [200; 8]);
    assert_eq!((backend.requests(), backend.connections()), (8, 1));
    assert!(one.sidecar.stat("cluster.a.upstream_cx_overflow").await >= 1);
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_pending_overflow").await, 0);
    until("nobody waits", async || {
        let waiting = one.sidecar.stat("cluster.a.upstream_rq_pending_active").await;
        let open = one
            .sidecar
            .stat("cluster.a.circuit_breakers.default.rq_pending_open")
            .await;
        ((waiting, open) == (0, 0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_max_connections_wait_for_a_connection() {
    let a = Backend::start("a").await;
    let limited = cluster(&a).circuit_breakers(Limits {
        connections: Some(1),
        ..Limits::default()
    });
    all_wait_for_one_connection(&a, limited).await;
}

#[tokio::test]
async fn who_waits_for_a_connection_takes_no_place_of_a_request() {
    let limits = || Limits {
        connections: Some(1),
        requests: Some(1),
        ..Limits::default()
    };
    let a = Backend::start("a").await;
    all_wait_for_one_connection(&a, cluster(&a).circuit_breakers(limits())).await;
    // One stream at a time makes those of HTTP/2 wait as well.
    let b = Backend::start("a").await;
    let narrow = shared(cluster(&b).circuit_breakers(limits()), number(1));
    all_wait_for_one_connection(&b, narrow).await;
}

#[tokio::test]
async fn who_has_a_connection_and_no_place_leaves_it_to_others() {
    let a = Backend::start("a").await;
    let limited = cluster(&a).circuit_breakers(Limits {
        requests: Some(1),
        ..Limits::default()
    });
    let one = One::start([limited], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the first request", async || (a.requests() == 1).then_some(())).await;
    for _ in 0..3 {
        let refused = client.open("GET", "m", "/", &[], true).await;
        assert_eq!(refused.answer().await.status, 503);
    }
    assert_eq!((a.requests(), a.connections()), (1, 2));
    let stat = async |name: &str| one.sidecar.stat(&format!("cluster.a.{name}")).await;
    assert_eq!(stat("upstream_rq_active_overflow").await, 3);
    assert_eq!(stat("upstream_rq_total").await, 1);
    drop(held);
    until("room again", async || {
        let admitted = client.open("GET", "m", "/", &[], true).await;
        (admitted.answer().await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_of_one_host_have_a_limit_of_their_own() {
    let a = Backend::start("a").await;
    let limited = cluster(&a).edit(|cluster| {
        let breakers = cluster.circuit_breakers.get_or_insert_default();
        breakers.per_host_thresholds = vec![Thresholds {
            max_connections: number(1),
            ..Thresholds::default()
        }];
    });
    all_wait_for_one_connection(&a, limited).await;
}

#[tokio::test]
async fn a_full_queue_turns_requests_away() {
    let a = Backend::start("a").await;
    let limited = cluster(&a).circuit_breakers(Limits {
        connections: Some(1),
        pending_requests: Some(1),
        ..Limits::default()
    });
    let one = One::start([limited], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the first request", async || (a.requests() == 1).then_some(())).await;
    let waiting = client.open("GET", "m", "/", &[], true).await;
    until("the second one in line", async || {
        (one.sidecar.stat("cluster.a.upstream_rq_pending_active").await == 1).then_some(())
    })
    .await;
    let third = client.open("GET", "m", "/", &[], true).await.answer().await;
    assert_eq!((third.status, third.header("x-envoy-overloaded")), (503, Some("true")));
    // The connection of a request that is given up is closed; its place is free for whoever waits.
    drop(held);
    assert_eq!(waiting.answer().await.status, 200);
    assert_eq!(a.connections(), 2);
}

#[tokio::test]
async fn a_pool_of_another_priority_may_always_have_one_connection() {
    let a = Backend::start("a").await;
    let limited = cluster(&a).edit(|cluster| {
        let of = |priority: RoutingPriority| Thresholds {
            priority: priority as i32,
            max_connections: number(0),
            ..Thresholds::default()
        };
        let breakers = cluster.circuit_breakers.get_or_insert_default();
        breakers.thresholds = vec![of(RoutingPriority::Default), of(RoutingPriority::High)];
    });
    let routes = everything()
        .with_route(prefix("/high").cluster("a").edit_action(|action| {
            action.priority = RoutingPriority::High as i32;
        }))
        .with_route(prefix("/").cluster("a"));
    let one = One::start([limited], routes).await;
    for path in ["/", "/high", "/", "/high"] {
        assert_eq!(one.get(path, "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn pools_have_a_limit_and_an_idle_one_makes_room() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let both = cluster_static("a", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())]).edit(|cluster| {
        let breakers = cluster.circuit_breakers.get_or_insert_default();
        breakers.thresholds = vec![Thresholds {
            max_connection_pools: number(1),
            ..Thresholds::default()
        }];
    });
    let one = One::start([both], all_to_a()).await;
    let mut client = one.client().await;
    for _ in 0..4 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    // Round robin goes to and fro: each request closes the other host's pool.
    assert_eq!(
        (a.requests(), b.requests(), a.connections(), b.connections()),
        (2, 2, 2, 2)
    );
    let mut busy = Http2::connect(one.address).await;
    let _held = busy.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the request under way", async || {
        (a.requests() + b.requests() == 5).then_some(())
    })
    .await;
    let refused = busy.open("GET", "m", "/", &[], true).await.answer().await;
    assert_eq!(refused.status, 503);
    assert!(one.sidecar.stat("cluster.a.upstream_cx_pool_overflow").await >= 1);
}

#[tokio::test]
async fn a_connection_takes_so_many_requests() {
    for speaks_http2 in [false, true] {
        let a = Backend::start("a").await;
        let plain = match speaks_http2 {
            true => cluster(&a).http2(),
            false => cluster(&a),
        };
        let limited = plain.edit(|cluster| {
            #[allow(deprecated)]
            {
                cluster.max_requests_per_connection = number(3);
            }
        });
        let one = One::start([limited], all_to_a()).await;
        let mut client = one.client().await;
        for _ in 0..7 {
            assert_eq!(client.get("m", "/", "").await.status, 200);
        }
        assert_eq!((a.requests(), a.connections()), (7, 3), "http2: {speaks_http2}");
        assert_eq!(one.sidecar.stat("cluster.a.upstream_cx_max_requests").await, 2);
    }
}

#[tokio::test]
async fn an_ejected_hosts_connections_are_not_used_again() {
    let a = Backend::start("a").await;
    let ejecting = cluster(&a).outlier(1, Duration::from_millis(100), Duration::from_millis(50));
    let one = One::start([ejecting], all_to_a()).await;
    let mut client = one.client().await;
    assert_eq!(client.get("m", "/", "x-do: status=500\r\n").await.status, 500);
    until("the ejection", async || {
        (one.sidecar
            .stat("cluster.a.outlier_detection.ejections_enforced_total")
            .await
            == 1)
            .then_some(())
    })
    .await;
    // Alone it is in panic, or back already: either way on a new connection.
    assert_eq!(client.get("m", "/", "").await.status, 200);
    assert_eq!(a.connections(), 2);
}

#[tokio::test]
async fn a_change_of_the_host_set_may_close_connections() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let closing = cluster_eds("a").edit(|cluster| {
        let common = cluster.common_lb_config.get_or_insert_default();
        common.close_connections_on_host_set_change = true;
    });
    let one = One::start_with(
        control_plane_mock::resources::Variant::Delta,
        [closing],
        all_to_a(),
        |control| {
            control.push_endpoints(endpoints("a", [("127.0.0.1", a.port())]));
        },
    )
    .await;
    let mut client = one.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    assert_eq!(a.connections(), 1);
    let both = [("127.0.0.1", a.port()), ("127.0.0.1", b.port())];
    one.mesh.control_plane.push_endpoints(endpoints("a", both));
    until("the other host", async || {
        assert_eq!(client.get("m", "/", "").await.status, 200);
        (b.requests() > 0).then_some(())
    })
    .await;
    let before = a.requests();
    until("the first one again", async || {
        assert_eq!(client.get("m", "/", "").await.status, 200);
        (a.requests() > before).then_some(())
    })
    .await;
    assert_eq!(a.connections(), 2, "its old connection is gone");
}

/// Over HTTP/1, idle for 100 ms at most.
fn idling(cluster: ClusterBuilder) -> ClusterBuilder {
    cluster.http_options(HttpProtocolOptions {
        common_http_protocol_options: Some(briefly()),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::HttpProtocolOptions(Default::default())),
        })),
        ..HttpProtocolOptions::default()
    })
}

fn briefly() -> CommonOptions {
    CommonOptions {
        idle_timeout: Some(PbDuration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..CommonOptions::default()
    }
}

/// HTTP/2, one stream at a time where `streams` says so, and an idle timeout of a tenth of a second.
fn shared(cluster: ClusterBuilder, streams: Option<UInt32Value>) -> ClusterBuilder {
    let http2 = Http2ProtocolOptions {
        max_concurrent_streams: streams,
        ..Http2ProtocolOptions::default()
    };
    cluster.http_options(HttpProtocolOptions {
        common_http_protocol_options: Some(briefly()),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2)),
        })),
        ..HttpProtocolOptions::default()
    })
}

/// The host may be about to close it: not even until somebody sweeps.
#[tokio::test]
async fn no_request_goes_over_a_connection_that_was_idle_for_too_long() {
    let a = Backend::start("a").await;
    for cluster in [shared(cluster(&a), None), idling(cluster(&a))] {
        let one = One::start([cluster], all_to_a()).await;
        let before = a.connections();
        for _ in 0..3 {
            let answer = one.get("/", "").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
        assert_eq!(a.connections() - before, 3);
    }
}

#[tokio::test]
async fn a_shared_connection_ends_when_it_had_no_stream_for_its_idle_timeout() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let clusters = [
        shared(cluster(&a), None),
        shared(cluster_static("b", [("127.0.0.1", b.port())]), None),
    ];
    let routes = everything()
        .with_route(prefix("/b").cluster("b"))
        .with_route(prefix("/").cluster("a"));
    let one = One::start(clusters, routes).await;
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the held stream", async || (a.requests() == 1).then_some(())).await;
    let ended = async |cluster: &str| {
        let stat = async |name: &str| one.sidecar.stat(&format!("cluster.{cluster}.{name}")).await;
        let timeouts = stat("upstream_cx_idle_timeout").await;
        (timeouts == 1 && stat("upstream_cx_active").await == 0).then_some(())
    };
    assert_eq!(one.get("/b", "").await.status, 200);
    until("the end of the idle one", async || ended("b").await).await;
    // The other one is older, and has a stream.
    assert_eq!(one.sidecar.stat("cluster.a.upstream_cx_idle_timeout").await, 0);
    assert_eq!(one.sidecar.stat("cluster.a.upstream_cx_active").await, 1);
    drop(held);
    until("the end of that one", async || ended("a").await).await;
    assert_eq!(one.get("/b", "").await.status, 200);
    assert_eq!((a.connections(), b.connections()), (1, 2));
}

#[tokio::test]
async fn a_cluster_that_changed_or_went_keeps_no_idle_connections() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let plane = one.mesh.handle();
    let mut client = Http1::connect(one.address).await.unwrap();
    for connections in 1..4 {
        let changed = cluster(&a).circuit_breakers(Limits {
            connections: Some(100 + connections),
            ..Limits::default()
        });
        plane.push_cluster(changed);
        // One of this configuration, and no longer that of the one before.
        until("a connection that takes the other's place", async || {
            assert_eq!(client.get("mesh.test", "/", "").await.status, 200);
            let opened = one.sidecar.stat("cluster.a.upstream_cx_total").await;
            let active = one.sidecar.stat("cluster.a.upstream_cx_active").await;
            (opened >= u64::from(connections) && active == 1).then_some(())
        })
        .await;
    }
    plane.remove("cds", "a");
    until("no connection", async || {
        (one.sidecar.stat("cluster.a.upstream_cx_active").await == 0).then_some(())
    })
    .await;
}

fn ahead(cluster: ClusterBuilder, per_upstream: Option<f64>, predictive: Option<f64>) -> ClusterBuilder {
    let ratio = |value: Option<f64>| value.map(|value| DoubleValue { value });
    cluster.edit(|cluster| {
        cluster.preconnect_policy = Some(PreconnectPolicy {
            per_upstream_preconnect_ratio: ratio(per_upstream),
            predictive_preconnect_ratio: ratio(predictive),
            ..PreconnectPolicy::default()
        });
    })
}

#[tokio::test]
async fn a_host_has_a_connection_more_than_it_has_requests() {
    let a = Backend::start("a").await;
    let one = One::start([ahead(cluster(&a), Some(2.0), None)], all_to_a()).await;
    let mut client = one.client().await;
    assert_eq!(client.get("m", "/", "").await.status, 200);
    until("a spare connection", async || (a.connections() == 2).then_some(())).await;
    until("it is idle", async || {
        (one.sidecar.stat("cluster.a.upstream_cx_active").await == 2).then_some(())
    })
    .await;
    // One in use and one to spare are enough.
    for _ in 0..4 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    assert_eq!((a.requests(), a.connections()), (5, 2));
}

#[tokio::test]
async fn the_next_hosts_are_connected_to_before_their_turn() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let both = cluster_static("a", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())]);
    let one = One::start([ahead(both, None, Some(2.0))], all_to_a()).await;
    let mut client = one.client().await;
    assert_eq!(client.get("m", "/", "").await.status, 200);
    // One host was asked; the other's turn comes next, and it is ready.
    assert_eq!(a.requests() + b.requests(), 1);
    until("both are connected to", async || {
        ((a.connections(), b.connections()) == (1, 1)).then_some(())
    })
    .await;
    assert_eq!(client.get("m", "/", "").await.status, 200);
    assert_eq!((a.requests(), b.requests()), (1, 1));
    assert_eq!(a.connections() + b.connections(), 2);
}

/// The race that answers 503 (UC): the host ends an idle connection, without a word, and the next request goes out on it. No retries are
/// configured, and a POST would not be repeated anyway: the proxy has to look before it sends.
#[tokio::test]
async fn a_connection_that_the_host_has_closed_is_never_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (closed, mut closes) = mpsc::channel(1);
    let server = spawn("closing backend", async move {
        let mut connections = 0u32;
        while let Ok((mut stream, _)) = listener.accept().await {
            connections += 1;
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\nbody") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0, "a whole request");
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
            // On the loop-back interface the end has arrived when this returns.
            drop(stream);
            if closed.send(connections).await.is_err() {
                return;
            }
        }
    });
    let one = One::start([cluster_static("a", [("127.0.0.1", port)])], all_to_a()).await;
    let mut client = one.client().await;
    for round in 1..=200 {
        client
            .send("POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 4\r\n\r\nbody")
            .await;
        assert_eq!(client.response("POST").await.status, 200, "request {round}");
        assert_eq!(
            closes.recv().await,
            Some(round),
            "each goes over a connection of its own"
        );
    }
    // Not by a second try.
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_total").await, 200);
    assert_eq!(
        one.sidecar.stat("cluster.a.upstream_cx_destroy_with_active_rq").await,
        0
    );
    server.abort();
}
