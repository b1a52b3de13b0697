//! One connection for many checks.

use super::*;

/// What a host saw, a line of each connection: how many questions it asked.
async fn counted(
    listener: tokio::net::TcpListener,
    enough: fn(&[u8]) -> bool,
    answer: &'static [u8],
    sender: tokio::sync::mpsc::Sender<usize>,
) {
    for connection in 0.. {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        loop {
            let mut asked = Vec::new();
            while !enough(&asked) {
                match stream.read_buf(&mut asked).await {
                    Ok(1..) => {}
                    _ => break,
                }
            }
            if !enough(&asked) {
                break;
            }
            sender.try_send(connection).expect("somebody looks");
            stream.write_all(answer).await.expect("answered");
        }
    }
}

/// Which connections `count` checks in a row use.
async fn used(check: core::HealthCheck, answer: &'static [u8], count: usize) -> Vec<usize> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let cluster = cluster(check, listener.local_addr().expect("bound").port());
    let host = cluster.all_hosts().remove(0);
    let enough: fn(&[u8]) -> bool = match cluster.health_checks[0].kind {
        CheckKind::Tcp(_) => |asked| asked == b"PING",
        _ => |asked| asked.ends_with(b"\r\n\r\n"),
    };
    let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
    let server = spawn("test", counted(listener, enough, answer, sender));
    let mut kept = Kept::default();
    let mut used = Vec::new();
    for _ in 0..count {
        let found = probe::probe(&cluster, &host, &cluster.health_checks[0], &mut kept).await;
        assert_eq!(found.0, Outcome::Success);
        used.push(receiver.recv().await.expect("it was asked"));
    }
    server.abort();
    used
}

fn once(check: &core::HealthCheck) -> core::HealthCheck {
    core::HealthCheck {
        reuse_connection: Some(remora_proto::pb::google::protobuf::BoolValue { value: false }),
        ..check.clone()
    }
}

#[tokio::test]
async fn an_http_check_keeps_its_connection_unless_told_otherwise() {
    let check = check(http());
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine";
    assert_eq!(used(check.clone(), answer, 3).await, [0, 0, 0]);
    assert_eq!(used(once(&check), answer, 3).await, [0, 1, 2]);
    let closing = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nfine";
    assert_eq!(used(check, closing, 3).await, [0, 1, 2]);
}

fn ping() -> core::HealthCheck {
    check(core::health_check::HealthChecker::TcpHealthCheck(
        core::health_check::TcpHealthCheck {
            send: Some(text("PING")),
            receive: vec![text("PONG")],
            ..Default::default()
        },
    ))
}

#[tokio::test]
async fn a_tcp_check_keeps_its_connection_unless_told_otherwise() {
    assert_eq!(used(ping(), b"PONG", 3).await, [0, 0, 0]);
    assert_eq!(used(once(&ping()), b"PONG", 3).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_host_that_closes_the_connection_of_its_tcp_checks_fails_one() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut hourly = ping();
    hourly.unhealthy_threshold = Some(number(1));
    hourly.no_traffic_interval = Some(PbDuration {
        seconds: 3600,
        nanos: 0,
    });
    let cluster = cluster(hourly, listener.local_addr().expect("bound").port());
    let running = spawn("test", run(Arc::downgrade(&cluster)));
    let (mut stream, _) = listener.accept().await.expect("the check's connection");
    let mut asked = [0; 4];
    stream.read_exact(&mut asked).await.expect("asked");
    stream.write_all(b"PONG").await.expect("answered");
    let state = cluster.all_hosts()[0].state.clone();
    let becomes = async |text: &str| {
        let deadline = clock::now() + Duration::from_secs(20);
        while state.flags_text() != text {
            assert!(clock::now() < deadline, "never {text}");
            tokio::task::yield_now().await;
        }
    };
    becomes("healthy").await;
    drop(stream);
    becomes("/failed_active_hc").await;
    let stats = cluster.stats.health_check();
    // As Envoy counts it: no attempt was made.
    assert_eq!((stats.attempt.value(), stats.network_failure.value()), (1, 1));
    running.abort();
}

#[tokio::test]
async fn a_check_that_timed_out_takes_its_connection_with_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut quick = check(http());
    quick.timeout = Some(PbDuration {
        seconds: 0,
        nanos: 10_000_000,
    });
    let cluster = cluster(quick, listener.local_addr().expect("bound").port());
    let host = cluster.all_hosts().remove(0);
    let mut kept = Kept::default();
    let found = probe::probe(&cluster, &host, &cluster.health_checks[0], &mut kept).await;
    assert_eq!(found.0, Outcome::Timeout);
    assert!(matches!(kept, Kept::Nothing));
    let (mut stream, _) = listener.accept().await.expect("the check's connection");
    let mut rest = Vec::new();
    // Over, one way or the other.
    let _ = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn checks_over_http2_keep_their_connection() {
    let http2 = core::health_check::HealthChecker::HttpHealthCheck(core::health_check::HttpHealthCheck {
        path: "/".to_owned(),
        codec_client_type: 1,
        ..Default::default()
    });
    let grpc = core::health_check::HealthChecker::GrpcHealthCheck(Default::default());
    for (kind, expected) in [(http2, Outcome::Success), (grpc, Outcome::Failure)] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let cluster = cluster(check(kind), listener.local_addr().expect("bound").port());
        let host = cluster.all_hosts().remove(0);
        let server = spawn("test", async move {
            // The one connection that is accepted.
            let (stream, _) = listener.accept().await.expect("a connection");
            let answer = |_| async { Ok::<_, hyper::Error>(http::Response::new(String::new())) };
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                .serve_connection(io, hyper::service::service_fn(answer))
                .await;
        });
        let mut kept = Kept::default();
        for _ in 0..3 {
            let found = probe::probe(&cluster, &host, &cluster.health_checks[0], &mut kept).await;
            assert_eq!(found.0, expected);
        }
        server.abort();
    }
}
