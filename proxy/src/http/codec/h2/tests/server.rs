use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::support::{collect, fed, get, guard, raw_client, raw_client_with, read, serve};
use crate::http::body::{Body, BodyError};
use crate::http::codec::h2::{H2Options, KeepaliveOptions};
use crate::http::failure::Failure;
use crate::http::upgrade::UpgradeKind;
use crate::runtime::clock;
use crate::runtime::drain::DrainPhase;
use crate::telemetry::flags::ResponseFlags;

const PIPE: usize = 64 * 1024;

#[tokio::test]
async fn passes_head_body_and_trailers() {
    let (io, mut server) = serve(H2Options::default(), PIPE, |exchange| {
        Box::pin(async {
            let headers = exchange.request.headers();
            assert_eq!(headers["cookie"], "a=1; b=2");
            assert_eq!(headers["te"], "trailers");
            assert!(!headers.contains_key("host"));
            assert_eq!(exchange.authority.as_ref().unwrap(), "a.example");
            let (data, trailers) = collect(exchange.request.body_mut().take()).await.unwrap();
            let body = Body::Trailers(Some(data.into()), Box::new(trailers.unwrap()));
            let mut response = Response::new(body);
            response
                .headers_mut()
                .insert("connection", HeaderValue::from_static("x-hop, close"));
            response.headers_mut().insert("x-hop", HeaderValue::from_static("1"));
            response.headers_mut().insert("x-kept", HeaderValue::from_static("1"));
            response
        })
    });
    let (mut sender, _task) = raw_client(io).await;
    let mut request = get("/");
    for (name, value) in [
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("host", "b.example"),
    ] {
        request.headers_mut().append(name, HeaderValue::from_static(value));
    }
    let (response, mut body) = sender.send_request(request, false).unwrap();
    body.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    body.send_trailers(trailers.clone()).unwrap();
    let response = response.await.unwrap();
    assert!(response.headers().contains_key("x-kept"));
    assert!(!response.headers().contains_key("x-hop") && !response.headers().contains_key("connection"));
    let mut body = response.into_body();
    assert_eq!(read(&mut body).await.unwrap(), b"hello");
    assert_eq!(body.trailers().await.unwrap().unwrap(), trailers);
    let finished = server.finished.recv().await.unwrap();
    assert_eq!((finished.code, finished.received, finished.sent), (Some(200), 5, 5));
    assert!(finished.flags.is_empty() && finished.details.is_empty());
}

#[tokio::test]
async fn a_reset_by_the_client_cancels_the_call_and_frees_its_guards() {
    let (held, dropped) = guard();
    let (running, runs) = oneshot::channel();
    let given = Mutex::new(Some((held, running)));
    let (io, mut server) = serve(H2Options::default(), PIPE, move |exchange| {
        let (held, running) = given.lock().take().unwrap();
        Box::pin(async move {
            exchange.guards.push(held);
            running.send(()).unwrap();
            std::future::pending().await
        })
    });
    let (mut sender, _task) = raw_client(io).await;
    let (response, mut body) = sender.send_request(get("/"), false).unwrap();
    runs.await.unwrap();
    body.send_reset(Reason::CANCEL);
    assert!(dropped.await.is_err());
    assert!(response.await.is_err());
    let finished = server.finished.recv().await.unwrap();
    assert_eq!(finished.code, None);
    assert!(finished.flags.contains(ResponseFlags::DOWNSTREAM_REMOTE_RESET));
    assert_eq!(finished.details, "http2.remote_reset");
}

#[tokio::test]
async fn a_lost_connection_is_a_downstream_disconnect() {
    let (running, mut runs) = tokio::sync::mpsc::channel(1);
    let (io, mut server) = serve(H2Options::default(), PIPE, move |_| {
        running.try_send(()).unwrap();
        Box::pin(std::future::pending())
    });
    let (mut sender, task) = raw_client(io).await;
    let (_response, _body) = sender.send_request(get("/"), false).unwrap();
    runs.recv().await.unwrap();
    task.abort();
    server.task.await.unwrap();
    let finished = server.finished.recv().await.unwrap();
    assert_eq!(finished.flags, ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
    assert_eq!(finished.details, "downstream_remote_disconnect");
}

#[tokio::test]
async fn a_body_that_fails_resets_the_stream() {
    let (feed, body) = fed(4);
    let body = Mutex::new(body);
    let (io, mut server) = serve(H2Options::default(), PIPE, move |_| {
        let body = body.lock().take();
        Box::pin(async { Response::new(body) })
    });
    let (mut sender, _task) = raw_client(io).await;
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    feed.send(Ok(Frame::data(Bytes::from_static(b"part")))).await.unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "part");
    let failure = BodyError::Failed(Failure::ConnectionTermination);
    feed.send(Err(failure)).await.unwrap();
    let error = body.data().await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    let finished = server.finished.recv().await.unwrap();
    assert_eq!(finished.flags, ResponseFlags::UPSTREAM_CONNECTION_TERMINATION);
    assert_eq!(
        finished.details,
        "upstream_reset_after_response_started{connection_termination}"
    );
    assert_eq!(finished.sent, 4);
}

#[tokio::test]
async fn a_shut_window_stops_the_body() {
    let (feed, body) = fed(1);
    let body = Mutex::new(body);
    let (io, mut server) = serve(H2Options::default(), PIPE, move |_| {
        let body = body.lock().take();
        Box::pin(async { Response::new(body) })
    });
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(10);
    let (mut sender, _task) = raw_client_with(&builder, io).await;
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    // One frame fills the window and waits with its rest, one fills the channel: the third has no place.
    for _ in 0..2 {
        feed.send(Ok(Frame::data(Bytes::from_static(&[1; 16])))).await.unwrap();
    }
    assert_eq!(body.data().await.unwrap().unwrap().len(), 10);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(feed.try_send(Ok(Frame::data(Bytes::new()))).is_err());
    body.flow_control().release_capacity(10).unwrap();
    drop(feed);
    assert_eq!(read(&mut body).await.unwrap().len(), 22);
    assert_eq!(server.finished.recv().await.unwrap().sent, 32);
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_refuses_the_rest() {
    let (feed, body) = fed(1);
    let body = Mutex::new(body);
    let (io, server) = serve(H2Options::default(), PIPE, move |_| {
        let body = body.lock().take();
        Box::pin(async { Response::new(body) })
    });
    let (mut sender, task) = raw_client(io).await;
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    server.drain.advance(DrainPhase::Draining);
    while sender.clone().ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.task.is_finished());
    feed.send(Ok(Frame::data(Bytes::from_static(b"late")))).await.unwrap();
    drop(feed);
    assert_eq!(read(&mut body).await.unwrap(), b"late");
    server.task.await.unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_drain_cuts_what_still_runs() {
    let (running, mut runs) = tokio::sync::mpsc::channel(1);
    let (io, mut server) = serve(H2Options::default(), PIPE, move |_| {
        running.try_send(()).unwrap();
        Box::pin(std::future::pending())
    });
    let (mut sender, _task) = raw_client(io).await;
    let (response, _body) = sender.send_request(get("/"), true).unwrap();
    runs.recv().await.unwrap();
    server.drain.advance(DrainPhase::Draining);
    while sender.clone().ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.drain.advance(DrainPhase::Closed);
    server.task.await.unwrap();
    assert!(response.await.is_err());
    let finished = server.finished.recv().await.unwrap();
    assert_eq!(finished.flags, ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
    assert_eq!(finished.details, "downstream_local_disconnect");
}

#[tokio::test]
async fn a_drain_before_the_first_byte_takes_one_stream_and_says_goodbye() {
    let (io, server) = serve(H2Options::default(), PIPE, |_| {
        Box::pin(async { Response::new(Body::Empty) })
    });
    server.drain.advance(DrainPhase::Draining);
    tokio::task::yield_now().await;
    let (mut sender, _task) = raw_client(io).await;
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    while sender.clone().ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    server.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_drained() {
    let options = H2Options {
        idle_timeout: Some(Duration::from_secs(60)),
        ..H2Options::default()
    };
    let (io, server) = serve(options, PIPE, |_| {
        Box::pin(async {
            clock::sleep(Duration::from_secs(70)).await;
            Response::new(Body::Empty)
        })
    });
    let started = clock::now();
    let (mut sender, _task) = raw_client(io).await;
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    server.task.await.unwrap();
    assert_eq!((clock::now() - started).as_secs(), 130);
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_cut_by_keepalive() {
    let keepalive = KeepaliveOptions {
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(3),
    };
    let options = H2Options {
        keepalive: Some(keepalive),
        ..H2Options::default()
    };
    let (io, server) = serve(options, PIPE, |_| Box::pin(std::future::pending()));
    let started = clock::now();
    let (_sender, connection) = h2::client::handshake::<_>(io).await.unwrap();
    // Nobody polls the connection: no PING is answered.
    server.task.await.unwrap();
    drop(connection);
    assert_eq!((clock::now() - started).as_secs(), 13);
}

#[tokio::test]
async fn trailers_keep_the_limits_too() {
    let options = H2Options {
        max_headers_count: 10,
        ..H2Options::default()
    };
    let (io, _server) = serve(options, PIPE, |exchange| {
        Box::pin(async {
            let failure = match collect(exchange.request.body_mut().take()).await {
                Err(BodyError::Failed(failure)) => failure,
                other => panic!("{other:?}"),
            };
            let row = failure.row();
            let mut response = Response::new(Body::from(row.details));
            *response.status_mut() = row.status;
            response
        })
    });
    let (mut sender, _task) = raw_client(io).await;
    let (response, mut body) = sender.send_request(get("/"), false).unwrap();
    let trailer = (HeaderName::from_static("x-trailer"), HeaderValue::from_static("1"));
    let mut trailers = HeaderMap::new();
    for (name, value) in std::iter::repeat_n(trailer, 11) {
        trailers.append(name, value);
    }
    body.send_trailers(trailers).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(
        read(&mut response.into_body()).await.unwrap(),
        b"http2.too_many_headers"
    );
}

#[tokio::test]
async fn too_many_or_too_large_headers_reset_the_stream_and_are_logged() {
    let (io, mut server) = serve(H2Options::default(), 1 << 20, |_| {
        Box::pin(async { Response::new(Body::Empty) })
    });
    let (mut sender, _task) = raw_client(io).await;
    let mut many = get("/");
    for crumb in 0..101 {
        many.headers_mut().append("cookie", HeaderValue::from(crumb));
    }
    let mut large = get("/");
    let value = HeaderValue::from_bytes(&[b'a'; 61 << 10]).unwrap();
    large.headers_mut().insert("x-large", value);
    for (request, details) in [
        (many, "http2.too_many_headers"),
        (large, "http2.header_list_size_too_large"),
    ] {
        let (response, _) = sender.send_request(request, true).unwrap();
        assert!(response.await.unwrap_err().is_reset());
        let finished = server.finished.recv().await.unwrap();
        assert_eq!((finished.code, finished.details.as_str()), (None, details));
        assert_eq!(finished.flags, ResponseFlags::DOWNSTREAM_REMOTE_RESET);
    }
    let (response, _) = sender.send_request(get("/"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn limits_streams_and_requests() {
    let options = H2Options {
        max_concurrent_streams: 3,
        max_requests_per_connection: Some(2),
        ..H2Options::default()
    };
    let (io, server) = serve(options, PIPE, |_| Box::pin(async { Response::new(Body::from("ok")) }));
    let (mut sender, _task) = raw_client(io).await;
    for _ in 0..2 {
        let (response, _) = sender.send_request(get("/"), true).unwrap();
        assert_eq!(read(response.await.unwrap().body_mut()).await.unwrap(), b"ok");
    }
    assert_eq!(sender.current_max_send_streams(), 3);
    server.task.await.unwrap();
    assert!(sender.ready().await.is_err());
}

#[tokio::test]
async fn a_reset_flood_closes_the_connection() {
    let options = H2Options {
        stream_reset_burst: 5,
        stream_reset_rate: 0,
        ..H2Options::default()
    };
    let (io, server) = serve(options, PIPE, |_| Box::pin(std::future::pending()));
    let (mut sender, task) = raw_client(io).await;
    let mut resets = 0;
    while let Ok(ready) = sender.clone().ready().await {
        sender = ready;
        let (_response, mut body) = sender.send_request(get("/"), false).unwrap();
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        body.send_reset(Reason::CANCEL);
        resets += 1;
        assert!(resets < 1000);
    }
    server.task.await.unwrap();
    task.await.unwrap();
}

#[tokio::test]
async fn a_websocket_is_an_upgrade_to_the_service_and_a_connect_to_the_client() {
    let options = H2Options {
        allow_connect: true,
        ..H2Options::default()
    };
    let (io, _server) = serve(options, PIPE, |exchange| {
        Box::pin(async {
            let websocket = UpgradeKind::Upgrade("websocket".to_owned());
            assert_eq!(exchange.upgrade.as_ref(), Some(&websocket));
            assert_eq!(UpgradeKind::of(&exchange.request), Some(websocket));
            assert_eq!(exchange.request.method(), http::Method::GET);
            let tunnel = exchange.request.body_mut().take();
            Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(tunnel)
                .unwrap()
        })
    });
    let (mut sender, _task) = raw_client(io).await;
    while !sender.is_extended_connect_protocol_enabled() {
        tokio::task::yield_now().await;
    }
    let mut request = get("/chat");
    *request.method_mut() = http::Method::CONNECT;
    request
        .extensions_mut()
        .insert(h2::ext::Protocol::from_static("websocket"));
    let (response, mut body) = sender.send_request(request, false).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("upgrade"));
    let mut echo = response.into_body();
    for word in ["one", "two"] {
        body.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(echo.data().await.unwrap().unwrap(), word);
    }
    body.send_data(Bytes::new(), true).unwrap();
    assert!(read(&mut echo).await.unwrap().is_empty());
}
