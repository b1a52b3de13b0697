//! Timeouts, retries, breakers, ejection, drain.

use std::time::Duration;

use control_plane_mock::resources::{Limits, Variant, cluster_static, listener_tcp, prefix};
use prost::{Message, Name};
use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::route::v3::HedgePolicy;
use remora_proto::pb::envoy::config::route::v3::retry_policy::{RetryPriority, retry_priority};
use remora_proto::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use remora_proto::pb::google::protobuf::Any;
use remora_tests::{Backend, Http1, Http2, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{One, Refusing, all_to_a, cluster, everything};

#[tokio::test]
async fn a_route_timeout_is_a_504() {
    let a = Backend::start("a").await;
    let routes = everything().with_route(prefix("/").cluster("a").timeout(Duration::from_millis(50)));
    let one = One::start([cluster(&a)], routes).await;
    let answer = one.get("/", "x-do: hang\r\n").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "upstream request timeout")
    );
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_timeout").await, 1);
}

#[tokio::test]
async fn a_connect_failure_is_retried_on_another_host() {
    let a = Backend::start("a").await;
    let refusing = Refusing::new();
    let both = cluster_static("a", [("127.0.0.1", refusing.port()), ("127.0.0.1", a.port())]);
    let routes = everything().with_route(prefix("/").cluster("a").retry("connect-failure", 3));
    let one = One::start([both], routes).await;
    for _ in 0..6 {
        assert_eq!(one.get("/", "").await.status, 200);
    }
    assert!(one.sidecar.stat("cluster.a.upstream_rq_retry").await > 0);
}

/// A pooled connection that the host ends when the next request comes is no attempt of that request: the host is as well as before.
#[tokio::test]
async fn a_connection_that_died_unnoticed_does_not_count_against_its_priority() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = spawn("forgetful backend", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut asked).await.unwrap() > 0, "a whole request");
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst";
            stream.write_all(answer).await.unwrap();
            // The next one is read, and then there is no answer.
            assert!(stream.read_u8().await.is_ok(), "a second request");
        }
    });
    let second = Backend::start("second").await;
    let both = cluster_static("a", [("127.0.0.1", port), ("127.0.0.1", second.port())]).edit(|cluster| {
        let assignment = cluster.load_assignment.as_mut().unwrap();
        let mut later = assignment.endpoints[0].clone();
        later.lb_endpoints.remove(0);
        later.priority = 1;
        assignment.endpoints[0].lb_endpoints.truncate(1);
        assignment.endpoints.push(later);
    });
    let route = prefix("/").cluster("a").retry("5xx", 1).edit_action(|action| {
        let turning = PreviousPrioritiesConfig { update_frequency: 1 };
        let config_type = retry_priority::ConfigType::TypedConfig(Any {
            type_url: PreviousPrioritiesConfig::type_url(),
            value: turning.encode_to_vec(),
        });
        action.retry_policy.as_mut().unwrap().retry_priority = Some(RetryPriority {
            name: "envoy.retry_priorities.previous_priorities".to_owned(),
            config_type: Some(config_type),
        });
    });
    let one = One::start([both], everything().with_route(route)).await;
    let mut client = one.client().await;
    for round in 0..2 {
        let answer = client.get("m", "/", "").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "first"),
            "request {round}"
        );
    }
    assert_eq!(second.requests(), 0);
    first.abort();
}

#[tokio::test]
async fn a_5xx_is_retried_as_often_as_allowed() {
    let a = Backend::start("a").await;
    let routes = everything()
        .with_route(prefix("/").cluster("a").retry("5xx", 2))
        .edit(|routes| {
            routes.virtual_hosts[0].include_request_attempt_count = true;
        });
    let one = One::start([cluster(&a)], routes).await;
    assert_eq!(
        one.get("/", "x-do: status=503|status=500|status=200\r\n").await.status,
        200
    );
    assert_eq!(a.requests(), 3);
    assert_eq!(one.get("/", "x-do: status=503\r\n").await.status, 503);
    assert_eq!(a.requests(), 6);
}

#[tokio::test]
async fn a_slow_attempt_is_hedged_and_the_first_good_answer_wins() {
    let a = Backend::start("a").await;
    let route = prefix("/").cluster("a").retry("5xx", 1);
    let route = route.per_try_timeout(Duration::from_millis(50)).edit_action(|action| {
        action.hedge_policy = Some(HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..HedgePolicy::default()
        });
    });
    let routes = everything().with_route(route).edit(|routes| {
        routes.virtual_hosts[0].include_request_attempt_count = true;
    });
    let one = One::start([cluster(&a)], routes).await;
    let answer = one.get("/", "x-do: hang|header=x-from:second\r\n").await;
    assert_eq!((answer.status, answer.header("x-from")), (200, Some("second")));
    // A bad answer is not taken while the slow attempt may still give a better one.
    let answer = one.get("/", "x-do: delay=500,header=x-from:first|status=503\r\n").await;
    assert_eq!((answer.status, answer.header("x-from")), (200, Some("first")));
    assert_eq!(a.requests(), 4);
    // The attempts that lost are gone.
    until("no attempt under way", async || {
        (one.sidecar.stat("cluster.a.upstream_rq_active").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_attempt_needs_a_place_among_the_requests() {
    let a = Backend::start("a").await;
    let hedge = prefix("/hedged")
        .cluster("a")
        .retry("5xx", 2)
        .per_try_timeout(Duration::from_millis(50))
        .edit_action(|action| {
            action.hedge_policy = Some(HedgePolicy {
                hedge_on_per_try_timeout: true,
                ..HedgePolicy::default()
            });
        });
    let retried = prefix("/").cluster("a").retry("5xx", 3);
    let routes = everything().with_route(hedge).with_route(retried).edit(|routes| {
        routes.virtual_hosts[0].include_request_attempt_count = true;
    });
    let limited = cluster(&a).circuit_breakers(Limits {
        requests: Some(1),
        ..Limits::default()
    });
    let one = One::start([limited], routes).await;
    // A failed attempt has given its place back by the time of the next.
    let retried = one.get("/", "x-do: status=503|status=503|status=200\r\n").await;
    assert_eq!(retried.status, 200);
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_active_overflow").await, 0);
    // One that is hedged keeps its own, and goes on when there is none for another.
    let answer = one.get("/hedged", "x-do: delay=400,header=x-from:first\r\n").await;
    assert_eq!((answer.status, answer.header("x-from")), (200, Some("first")));
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_active_overflow").await, 1);
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the first request", async || (a.requests() == 5).then_some(())).await;
    let refused = one.get("/", "x-do: status=200\r\n").await;
    assert_eq!((refused.status, a.requests()), (503, 5));
    drop(held);
}

#[tokio::test]
async fn a_full_breaker_answers_503_at_once() {
    let a = Backend::start("a").await;
    let limited = cluster(&a)
        .circuit_breakers(Limits {
            requests: Some(1),
            ..Limits::default()
        })
        .http2();
    let one = One::start([limited], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let held = client.open("GET", "m", "/", &[("x-do", "hang")], true).await;
    until("the first request", async || (a.requests() == 1).then_some(())).await;
    let answer = one.get("/", "").await;
    assert_eq!(
        (answer.status, answer.header("x-envoy-overloaded")),
        (503, Some("true"))
    );
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_active_overflow").await, 1);
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_pending_overflow").await, 0);
    drop(held);
    // The permit comes back when the stream ends.
    until("room again", async || {
        (one.get("/", "").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_failing_host_is_ejected_and_comes_back() {
    let (a, b) = (Backend::start("good").await, Backend::start("bad").await);
    let both = cluster_static("a", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())]);
    let both = both.outlier(3, Duration::from_millis(300), Duration::from_millis(50));
    let one = One::start([both], all_to_a()).await;
    b.fail_with(Some(500));
    let mut client = one.client().await;
    until("the ejection", async || {
        client.get("m", "/", "").await;
        (one.sidecar.stat("cluster.a.outlier_detection.ejections_active").await == 1).then_some(())
    })
    .await;
    b.fail_with(None);
    let before = b.requests();
    until("its return", async || {
        let answer = client.get("m", "/", "").await;
        assert_eq!(answer.status, 200, "an ejected host gets nothing");
        (b.requests() > before).then_some(())
    })
    .await;
    assert_eq!(
        one.sidecar.stat("cluster.a.outlier_detection.ejections_active").await,
        0
    );
}

#[tokio::test]
async fn a_host_that_refuses_tcp_connections_is_ejected() {
    let a = Backend::start("a").await;
    let refusing = Refusing::new();
    let both = cluster_static("a", [("127.0.0.1", refusing.port()), ("127.0.0.1", a.port())]);
    let minute = Duration::from_secs(60);
    let mesh = Mesh::start(Variant::Delta).await;
    mesh.control_plane.push_cluster(both.outlier(2, minute, minute));
    mesh.control_plane
        .push_listener(listener_tcp("tcp", "127.0.0.1", 0, "a"));
    let sidecar = mesh.sidecar("one").await;
    let address = sidecar.listener("tcp").await;
    let mut kept = Vec::new();
    until("the ejection", async || {
        kept.push(Http1::connect(address).await.unwrap());
        (sidecar.stat("cluster.a.outlier_detection.ejections_active").await == 1).then_some(())
    })
    .await;
    for _ in 0..4 {
        let mut client = Http1::connect(address).await.unwrap();
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
}

#[tokio::test]
async fn a_drain_lets_requests_finish_and_asks_connections_to_leave() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let mut idle = one.client().await;
    assert_eq!(idle.get("m", "/", "").await.status, 200);
    let mut busy = one.client().await;
    busy.send("GET / HTTP/1.1\r\nhost: m\r\nx-do: delay=200\r\n\r\n").await;
    until("the request under way", async || (a.requests() == 2).then_some(())).await;
    one.sidecar.proxy.control.drain_and_quit();
    let answer = busy.response("GET").await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    until("the end of listening", async || {
        Http1::connect(one.address).await.is_err().then_some(())
    })
    .await;
    // Idle connections have nothing to wait for, so this does not take the whole drain time.
    remora_tests::within("the end", one.sidecar.proxy.finished()).await;
}

#[tokio::test]
async fn an_answer_that_asks_to_be_left_alone_takes_its_host_out_until_a_check_passes() {
    use remora_proto::pb::envoy::config::core::v3 as core;
    use remora_proto::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
    let a = Backend::start("a").await;
    let seconds = |seconds| Some(PbDuration { seconds, nanos: 0 });
    let checked = cluster(&a).edit(|cluster| {
        cluster.health_checks = vec![core::HealthCheck {
            timeout: seconds(30),
            // The first check alone runs while the test does.
            interval: seconds(3600),
            no_traffic_interval: seconds(3600),
            unhealthy_threshold: Some(UInt32Value { value: 1 }),
            healthy_threshold: Some(UInt32Value { value: 1 }),
            health_checker: Some(core::health_check::HealthChecker::HttpHealthCheck(
                core::health_check::HttpHealthCheck {
                    path: "/healthz".to_owned(),
                    ..Default::default()
                },
            )),
            ..Default::default()
        }];
        let common = cluster.common_lb_config.get_or_insert_default();
        common.healthy_panic_threshold = Some(Default::default());
    });
    let one = One::start([checked], everything().with_route(prefix("/").cluster("a"))).await;
    until("the host passed its check", async || {
        (one.sidecar.stat("cluster.a.membership_healthy").await == 1).then_some(())
    })
    .await;
    assert_eq!(one.get("/", "").await.status, 200);
    let asks = "x-do: header=x-envoy-immediate-health-check-fail:1\r\n";
    let answer = one.get("/", asks).await;
    // The client sees it too, as behind Envoy.
    let header = answer.header("x-envoy-immediate-health-check-fail");
    assert_eq!((answer.status, header), (200, Some("1")));
    assert_eq!(one.get("/", "").await.status, 503);
    assert_eq!(one.sidecar.stat("cluster.a.health_check.passive_failure").await, 1);
    let clusters = one.sidecar.admin("GET", "/clusters").await;
    let flags = "::health_flags::/failed_active_hc/excluded_via_immediate_hc_fail";
    assert!(clusters.text().contains(flags), "{}", clusters.text());
}
