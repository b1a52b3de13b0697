use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::google::protobuf::Duration as PbDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::BuildContext;

mod dialing;
mod membership;
mod passive;
mod reuse;

fn number(value: u32) -> remora_proto::pb::google::protobuf::UInt32Value {
    remora_proto::pb::google::protobuf::UInt32Value { value }
}

fn check(kind: core::health_check::HealthChecker) -> core::HealthCheck {
    core::HealthCheck {
        timeout: Some(PbDuration { seconds: 1, nanos: 0 }),
        interval: Some(PbDuration { seconds: 5, nanos: 0 }),
        unhealthy_threshold: Some(number(2)),
        healthy_threshold: Some(number(3)),
        health_checker: Some(kind),
        ..Default::default()
    }
}

fn http() -> core::health_check::HealthChecker {
    core::health_check::HealthChecker::HttpHealthCheck(core::health_check::HttpHealthCheck {
        path: "/healthz".to_owned(),
        ..Default::default()
    })
}

fn cluster(check: core::HealthCheck, port: u16) -> Arc<Cluster> {
    built(&config(check, port))
}

fn built(config: &pb::Cluster) -> Arc<Cluster> {
    let built = crate::config::cluster::compile(&config.encode_to_vec(), &BuildContext::default());
    Arc::new(built.unwrap_or_else(|problems| panic!("{problems}")))
}

#[allow(deprecated)]
fn config(check: core::HealthCheck, port: u16) -> pb::Cluster {
    use remora_proto::pb::envoy::config::endpoint::v3 as epb;
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: "127.0.0.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
            ..Default::default()
        })),
    };
    let endpoint = epb::LbEndpoint {
        host_identifier: Some(epb::lb_endpoint::HostIdentifier::Endpoint(epb::Endpoint {
            address: Some(address),
            ..Default::default()
        })),
        ..Default::default()
    };
    let is_grpc = matches!(
        check.health_checker,
        Some(core::health_check::HealthChecker::GrpcHealthCheck(_))
    );
    pb::Cluster {
        name: "checked".to_owned(),
        http2_protocol_options: is_grpc.then(Default::default),
        health_checks: vec![check],
        load_assignment: Some(epb::ClusterLoadAssignment {
            endpoints: vec![epb::LocalityLbEndpoints {
                lb_endpoints: vec![endpoint],
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn thresholds_count_but_for_the_first_result() {
    let cluster = cluster(check(http()), 1);
    let (check, host) = (&cluster.health_checks[0], &cluster.all_hosts()[0]);
    let state = &host.state;
    assert_eq!(state.flags_text(), "/failed_active_hc");
    let mut checker = Checker::default();
    let mut on = |outcome| (checker.on(check, state, outcome), state.flags_text());
    let flags = |changed: bool, text: &str| (changed, text.to_owned());
    assert_eq!(on(Outcome::Success), flags(true, "healthy"));
    assert_eq!(on(Outcome::NetworkFailure), flags(false, "healthy"));
    assert_eq!(on(Outcome::Success), flags(false, "healthy"));
    assert_eq!(on(Outcome::Timeout), flags(false, "healthy"));
    assert_eq!(on(Outcome::Timeout), flags(true, "/failed_active_hc/active_hc_timeout"));
    assert!(!on(Outcome::Success).0);
    assert!(!on(Outcome::Success).0);
    assert_eq!(on(Outcome::Success), flags(true, "healthy"));
    // A bad answer counts at once.
    assert_eq!(on(Outcome::Failure), flags(true, "/failed_active_hc"));
    assert_eq!(
        on(Outcome::ImmediateFailure),
        flags(true, "/failed_active_hc/excluded_via_immediate_hc_fail")
    );
}

#[test]
fn the_interval_follows_health_and_traffic() {
    let cluster = cluster(check(http()), 1);
    let check = &cluster.health_checks[0];
    assert_eq!(check.next_interval(true, false, false, 0), Duration::from_secs(60));
    assert_eq!(check.next_interval(true, false, true, 0), Duration::from_secs(5));
    let jittered = HealthCheck {
        interval_jitter_percent: 50,
        ..check.clone()
    };
    assert_eq!(
        jittered.next_interval(true, false, true, 2499),
        Duration::from_millis(7499)
    );
}

/// The example in Envoy's source, and the other way round.
#[test]
fn edge_intervals_are_for_changes_that_are_not_complete() {
    let seconds = |seconds| Some(PbDuration { seconds, nanos: 0 });
    let edged = core::HealthCheck {
        interval: seconds(1),
        unhealthy_interval: seconds(2),
        healthy_edge_interval: seconds(3),
        unhealthy_edge_interval: seconds(4),
        no_traffic_interval: seconds(5),
        no_traffic_healthy_interval: seconds(6),
        ..check(http())
    };
    let cluster = cluster(edged, 1);
    let (check, host) = (&cluster.health_checks[0], &cluster.all_hosts()[0]);
    let mut checker = Checker::default();
    let mut after = |outcome, had_traffic| {
        checker.on(check, &host.state, outcome);
        checker.rest(check, outcome, had_traffic, 0).as_secs()
    };
    use Outcome::{Degraded, Failure, Success, Timeout};
    assert_eq!(after(Success, true), 1, "the first one is enough");
    let falls_ill = [Timeout, Timeout, Timeout].map(|outcome| after(outcome, true));
    assert_eq!(falls_ill, [4, 2, 2]);
    let gets_well = [Success, Success, Success, Success].map(|outcome| after(outcome, true));
    assert_eq!(gets_well, [3, 3, 1, 1]);
    let degraded = [Degraded, Success, Failure].map(|outcome| after(outcome, true));
    assert_eq!(degraded, [1, 1, 2]);
    let without_traffic = [Success, Success, Success, Success, Timeout, Timeout].map(|outcome| after(outcome, false));
    assert_eq!(without_traffic, [5, 5, 6, 6, 5, 5]);
}

#[tokio::test]
async fn an_http_check_asks_as_envoy_does() {
    for (status, expected) in [("200 OK", Outcome::Success), ("404 Not Found", Outcome::Failure)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.expect("a head") > 0);
            }
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("answered");
            String::from_utf8(head).expect("text").to_lowercase()
        };
        let cluster = cluster(check(http()), port);
        let host = cluster.all_hosts().remove(0);
        let mut kept = Kept::default();
        let (head, outcome) = tokio::join!(
            server,
            probe::probe(&cluster, &host, &cluster.health_checks[0], &mut kept)
        );
        assert_eq!(outcome.0, expected);
        assert!(head.starts_with("get /healthz http/1.1\r\n"), "{head}");
        assert!(
            head.contains("host: checked\r\n") && head.contains("user-agent: envoy/hc\r\n"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_checked_cluster_serves_once_its_host_has_passed() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let tcp = core::health_check::HealthChecker::TcpHealthCheck(Default::default());
    let cluster = cluster(check(tcp), port);
    assert!(cluster.hosts.load().loads.panic[0]);
    let running = spawn("test", run(Arc::downgrade(&cluster)));
    let (_connection, _) = listener.accept().await.expect("the check's connection");
    let deadline = clock::now() + Duration::from_secs(20);
    while cluster.all_hosts()[0].state.has(HealthFlag::FailedActiveHc) {
        assert!(clock::now() < deadline, "never became healthy");
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.all_hosts()[0].state.flags_text(), "healthy");
    running.abort();
}

/// Answers one connection after another: reads until `enough`, writes the bytes that are next, closes.
async fn scripted(listener: tokio::net::TcpListener, answers: Vec<Vec<u8>>, enough: fn(&[u8]) -> bool) {
    for answer in answers {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut asked = Vec::new();
        while !enough(&asked) {
            assert!(stream.read_buf(&mut asked).await.expect("a question") > 0);
        }
        stream.write_all(&answer).await.expect("answered");
    }
}

async fn outcomes(
    kind: core::health_check::HealthChecker,
    answers: &[&[u8]],
    enough: fn(&[u8]) -> bool,
) -> Vec<Outcome> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let cluster = cluster(check(kind), listener.local_addr().expect("bound").port());
    let host = cluster.all_hosts().remove(0);
    let answers: Vec<Vec<u8>> = answers.iter().map(|answer| answer.to_vec()).collect();
    let count = answers.len();
    let server = spawn("test", scripted(listener, answers, enough));
    let mut outcomes = Vec::new();
    for _ in 0..count {
        outcomes.push(
            probe::probe(&cluster, &host, &cluster.health_checks[0], &mut Kept::default())
                .await
                .0,
        );
    }
    server.await.expect("the server");
    outcomes
}

fn text(value: &str) -> core::health_check::Payload {
    let hex = value.bytes().map(|byte| format!("{byte:02x}")).collect();
    core::health_check::Payload {
        payload: Some(core::health_check::payload::Payload::Text(hex)),
    }
}

#[tokio::test]
async fn a_tcp_check_looks_for_its_patterns_in_order() {
    let kind = core::health_check::HealthChecker::TcpHealthCheck(core::health_check::TcpHealthCheck {
        send: Some(text("PING")),
        receive: vec![text("PO"), text("G")],
        ..Default::default()
    });
    let found = outcomes(kind, &[b"xxPOxNxG", b"GPO", b""], |asked| asked == b"PING").await;
    assert_eq!(
        found,
        [Outcome::Success, Outcome::NetworkFailure, Outcome::NetworkFailure]
    );
}

#[tokio::test]
async fn an_http_check_may_look_at_body_and_service() {
    use remora_proto::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
    let kind = core::health_check::HealthChecker::HttpHealthCheck(core::health_check::HttpHealthCheck {
        path: "/".to_owned(),
        receive: vec![text("fine")],
        service_name_matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix("web".to_owned())),
            ..Default::default()
        }),
        ..Default::default()
    });
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 200 OK\r\nx-envoy-upstream-healthchecked-cluster: web-1\r\ncontent-length: 6\r\n\r\nI fine",
        b"HTTP/1.1 200 OK\r\nx-envoy-upstream-healthchecked-cluster: web-1\r\ncontent-length: 4\r\n\r\nbad.",
        b"HTTP/1.1 200 OK\r\nx-envoy-upstream-healthchecked-cluster: db\r\ncontent-length: 4\r\n\r\nfine",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine",
    ];
    let found = outcomes(kind, &answers, |asked| asked.ends_with(b"\r\n\r\n")).await;
    assert_eq!(
        found,
        [Outcome::Success, Outcome::Failure, Outcome::Failure, Outcome::Failure]
    );
}

#[tokio::test]
async fn a_grpc_check_passes_only_when_the_service_serves() {
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;

    let kind = core::health_check::HealthChecker::GrpcHealthCheck(core::health_check::GrpcHealthCheck {
        service_name: "shop".to_owned(),
        ..Default::default()
    });
    for (status, code, expected) in [
        (1, "0", Outcome::Success),
        (2, "0", Outcome::Failure),
        (1, "13", Outcome::Failure),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let cluster = cluster(check(kind.clone()), listener.local_addr().expect("bound").port());
        let host = cluster.all_hosts().remove(0);
        let answer = move |request: http::Request<hyper::body::Incoming>| async move {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.uri().authority().map(|name| name.as_str()), Some("checked"));
            let asked = request.into_body().collect().await?.to_bytes();
            assert_eq!(&asked[..], b"\0\0\0\0\x06\x0a\x04shop");
            let data = Frame::data(bytes::Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static(code));
            let frames = [Ok::<_, hyper::Error>(data), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures_util::stream::iter(frames));
            Ok::<_, hyper::Error>(http::Response::new(body))
        };
        let server = spawn("test", async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            let io = hyper_util::rt::TokioIo::new(stream);
            let service = hyper::service::service_fn(answer);
            let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(io, service)
                .await;
        });
        let outcome = probe::probe(&cluster, &host, &cluster.health_checks[0], &mut Kept::default()).await;
        assert_eq!(outcome.0, expected, "{status} {code}");
        server.abort();
    }
    let closing = core::health_check::HealthChecker::GrpcHealthCheck(Default::default());
    assert_eq!(outcomes(closing, &[b""], |_| true).await, [Outcome::NetworkFailure]);
}

#[tokio::test]
async fn headers_of_an_answer_degrade_or_exclude_as_envoy_reads_them() {
    let kind = core::health_check::HealthChecker::HttpHealthCheck(core::health_check::HttpHealthCheck {
        path: "/".to_owned(),
        ..Default::default()
    });
    let answers: [&[u8]; 4] = [
        // Whatever it says.
        b"HTTP/1.1 200 OK\r\nx-envoy-degraded: 1\r\ncontent-length: 0\r\n\r\n",
        // Envoy looks for it in answers that fail the check alone.
        b"HTTP/1.1 200 OK\r\nx-envoy-immediate-health-check-fail: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nx-envoy-immediate-health-check-fail: 1\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\nx-envoy-degraded: 1\r\ncontent-length: 0\r\n\r\n",
    ];
    let found = outcomes(kind, &answers, |asked| asked.ends_with(b"\r\n\r\n")).await;
    assert_eq!(
        found,
        [
            Outcome::Degraded,
            Outcome::Success,
            Outcome::ImmediateFailure,
            Outcome::Failure
        ]
    );
}
