use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use tokio::sync::{mpsc, oneshot};

use super::support::{collect, fed, frame, read};
use crate::http::body::{Body, BodyError};
use crate::http::codec::h2::{ClientConnection, ClientHooks, H2Options, Outcome};
use crate::http::failure::Failure;
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;

type Incoming = (Request<RecvStream>, SendResponse<Bytes>);

enum Command {
    GoAway,
    Cut,
}

struct Peer {
    incoming: mpsc::Receiver<Incoming>,
    commands: mpsc::Sender<Command>,
}

impl Peer {
    async fn next(&mut self) -> Incoming {
        self.incoming.recv().await.unwrap()
    }
}

async fn connect(builder: &h2::server::Builder, hooks: Option<Arc<dyn ClientHooks>>) -> (ClientConnection, Peer) {
    connect_with(builder, hooks, &H2Options::default()).await
}

async fn connect_with(
    builder: &h2::server::Builder,
    hooks: Option<Arc<dyn ClientHooks>>,
    options: &H2Options,
) -> (ClientConnection, Peer) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let builder = builder.clone();
    let (sender, incoming) = mpsc::channel(64);
    let (commands, mut orders) = mpsc::channel(1);
    spawn("raw server", async move {
        let mut connection = builder.handshake(far).await.unwrap();
        loop {
            tokio::select! {
                Some(order) = orders.recv() => match order {
                    Command::GoAway => connection.graceful_shutdown(),
                    Command::Cut => return,
                },
                accepted = connection.accept() => match accepted {
                    Some(Ok(incoming)) => sender.send(incoming).await.unwrap(),
                    _ => return,
                },
            }
        }
    });
    let client = ClientConnection::handshake_with(Io::Duplex(near), options, hooks);
    (client.await.unwrap(), Peer { incoming, commands })
}

fn request(body: Body) -> Request<Body> {
    Request::post("/path?query")
        .header("host", "a.example")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn translates_an_http1_head_and_passes_trailers_back() {
    let (client, mut peer) = connect(&h2::server::Builder::new(), None).await;
    let mut sent = request(Body::from("hello"));
    for (name, value) in [
        ("connection", "x-hop, keep-alive"),
        ("keep-alive", "1"),
        ("x-hop", "1"),
        ("te", "gzip, trailers"),
        ("x-forwarded-proto", "https"),
    ] {
        sent.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    let serve = async {
        let (request, mut respond) = peer.next().await;
        assert_eq!(request.uri(), "https://a.example/path?query");
        let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["te", "x-forwarded-proto"]);
        assert_eq!(request.headers()["te"], "trailers");
        assert_eq!(read(&mut request.into_body()).await.unwrap(), b"hello");
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"world"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        body.send_trailers(trailers).unwrap();
    };
    let (response, ()) = tokio::join!(client.send(sent, None), serve);
    assert_eq!(client.active_streams(), 1);
    let (data, trailers) = collect(response.unwrap().into_body()).await.unwrap();
    assert_eq!(data, b"world");
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(client.active_streams(), 0);
}

#[tokio::test]
async fn trailers_over_the_limit_are_a_protocol_error() {
    let (client, mut peer) = connect(&h2::server::Builder::new(), None).await;
    let serve = async {
        let (_, mut respond) = peer.next().await;
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        let mut trailers = HeaderMap::new();
        for _ in 0..=H2Options::default().max_headers_count {
            trailers.append("x-trailer", HeaderValue::from_static("1"));
        }
        body.send_trailers(trailers).unwrap();
    };
    let (response, ()) = tokio::join!(client.send(request(Body::Empty), None), serve);
    let error = collect(response.unwrap().into_body()).await.unwrap_err();
    let expected = Failure::ProtocolError("http2.too_many_headers");
    assert!(matches!(error, BodyError::Failed(failure) if failure == expected));
    assert_eq!(client.active_streams(), 0);
}

#[tokio::test]
async fn resets_and_losses_have_names() {
    let (client, mut peer) = connect(&h2::server::Builder::new(), None).await;
    for (reason, failure) in [
        (Reason::REFUSED_STREAM, Failure::RemoteRefused),
        (Reason::INTERNAL_ERROR, Failure::RemoteReset),
    ] {
        let serve = async {
            let (_request, mut respond) = peer.next().await;
            respond.send_reset(reason);
        };
        let (response, ()) = tokio::join!(client.send(request(Body::Empty), None), serve);
        assert_eq!(response.unwrap_err().failure, failure);
    }
    let cut = async {
        let held = peer.next().await;
        peer.commands.send(Command::Cut).await.unwrap();
        held
    };
    let (response, _held) = tokio::join!(client.send(request(Body::Empty), None), cut);
    assert_eq!(response.unwrap_err().failure, Failure::ConnectionTermination);
    let refused = client.send(request(Body::from("kept")), None).await.unwrap_err();
    assert_eq!(collect(refused.body.unwrap()).await.unwrap().0, b"kept");
    assert!(!client.is_available() && !client.can_take_stream());
    assert_eq!(client.active_streams(), 0);
}

#[tokio::test]
async fn a_goaway_ends_new_streams_and_keeps_old_ones() {
    struct Hooks(mpsc::Sender<Option<Failure>>, AtomicU32);
    impl ClientHooks for Hooks {
        fn stream_ended(&self, _: Outcome) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
        fn closed(&self, failure: Option<Failure>) {
            self.0.try_send(failure).unwrap();
        }
    }
    let (sender, mut closed) = mpsc::channel(1);
    let hooks = Arc::new(Hooks(sender, AtomicU32::new(0)));
    let (client, mut peer) = connect(&h2::server::Builder::new(), Some(hooks.clone())).await;
    let serve = async {
        let (_request, mut respond) = peer.next().await;
        respond.send_response(Response::new(()), false).unwrap()
    };
    let (response, mut body) = tokio::join!(client.send(request(Body::Empty), None), serve);
    let response = response.unwrap();
    peer.commands.send(Command::GoAway).await.unwrap();
    while client.is_available() {
        tokio::task::yield_now().await;
    }
    body.send_data(Bytes::from_static(b"late"), true).unwrap();
    assert_eq!(collect(response.into_body()).await.unwrap().0, b"late");
    assert_eq!(hooks.1.load(Ordering::Relaxed), 1);
    assert_eq!(closed.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_connection_takes_as_many_requests_as_it_may() {
    struct Hooks(AtomicU32);
    impl ClientHooks for Hooks {
        fn worn_out(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let hooks = Arc::new(Hooks(AtomicU32::new(0)));
    let options = H2Options {
        max_requests_per_connection: Some(2),
        ..H2Options::default()
    };
    let (client, mut peer) = connect_with(&h2::server::Builder::new(), Some(hooks.clone()), &options).await;
    for _ in 0..2 {
        assert!(client.is_available() && hooks.0.load(Ordering::Relaxed) == 0);
        let serve = async {
            let (_request, mut respond) = peer.next().await;
            respond.send_response(Response::new(()), true).unwrap();
        };
        let (response, ()) = tokio::join!(client.send(request(Body::Empty), None), serve);
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
    assert!(!client.is_available());
    assert_eq!(hooks.0.load(Ordering::Relaxed), 1);
    let refused = client.send(request(Body::from("kept")), None).await.unwrap_err();
    assert_eq!(refused.failure, Failure::RemoteRefused);
    assert!(refused.body.is_some(), "it can go on another connection");
}

#[tokio::test]
async fn dropping_a_response_resets_its_stream() {
    let (client, mut peer) = connect(&h2::server::Builder::new(), None).await;
    let (feed, upload) = fed(1);
    let serve = async {
        let (request, mut respond) = peer.next().await;
        (request, respond.send_response(Response::new(()), false).unwrap())
    };
    let (response, (_request, mut body)) = tokio::join!(client.send(request(upload), None), serve);
    drop(response.unwrap());
    let reason = std::future::poll_fn(|cx| body.poll_reset(cx)).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
    feed.closed().await;
    assert_eq!(client.active_streams(), 0);
}

#[tokio::test]
async fn a_request_body_that_fails_resets_the_stream() {
    let (client, mut peer) = connect(&h2::server::Builder::new(), None).await;
    let (feed, upload) = fed(1);
    let fail = async {
        let (request, respond) = peer.next().await;
        let failure = BodyError::Failed(Failure::DownstreamReset);
        feed.send(Err(failure)).await.unwrap();
        let error = read(&mut request.into_body()).await.unwrap_err();
        drop(respond);
        error.reason()
    };
    let (response, reason) = tokio::join!(client.send(request(upload), None), fail);
    assert_eq!(response.unwrap_err().failure, Failure::DownstreamReset);
    assert_eq!(reason, Some(Reason::CANCEL));
}

#[tokio::test]
async fn an_unread_response_pushes_back_and_the_request_still_flows() {
    let (near, far) = tokio::io::duplex(1024);
    let options = H2Options {
        initial_stream_window: 100,
        ..H2Options::default()
    };
    let (sent, told) = oneshot::channel();
    spawn("raw server", async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        spawn(
            "raw connection",
            async move { while connection.accept().await.is_some() {} },
        );
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.reserve_capacity(1000);
        while body.capacity() < 100 {
            std::future::poll_fn(|cx| body.poll_capacity(cx)).await;
        }
        assert_eq!(body.capacity(), 100);
        body.send_data(Bytes::from_static(&[1; 1000]), true).unwrap();
        sent.send(read(&mut request.into_body()).await.unwrap()).unwrap();
    });
    let client = ClientConnection::handshake(Io::Duplex(near), &options).await.unwrap();
    let (feed, upload) = fed(1);
    let response = client.send(request(upload), None).await.unwrap();
    for _ in 0..10 {
        feed.send(Ok(Frame::data(Bytes::from_static(b"x")))).await.unwrap();
    }
    drop(feed);
    assert_eq!(told.await.unwrap().len(), 10);
    assert_eq!(collect(response.into_body()).await.unwrap().0.len(), 1000);
}

#[tokio::test]
async fn an_upgrade_goes_as_extended_connect_if_the_peer_takes_it() {
    let upgrade = || {
        let (feed, body) = fed(1);
        let mut request = request(body);
        *request.method_mut() = http::Method::GET;
        for (name, value) in [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "a2V5"),
        ] {
            request.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        (feed, request)
    };
    let (client, _peer) = connect(&h2::server::Builder::new(), None).await;
    let (_feed, sent) = upgrade();
    assert_eq!(
        client.send(sent, None).await.unwrap_err().failure,
        Failure::UpgradeFailed
    );

    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    let (client, mut peer) = connect(&builder, None).await;
    let (feed, sent) = upgrade();
    let serve = async {
        let (request, mut respond) = peer.next().await;
        assert_eq!(request.method(), http::Method::CONNECT);
        let protocol = request.extensions().get::<h2::ext::Protocol>().unwrap();
        assert_eq!(protocol.as_str(), "websocket");
        (
            request.into_body(),
            respond.send_response(Response::new(()), false).unwrap(),
        )
    };
    let (response, (mut up, mut down)) = tokio::join!(client.send(sent, None), serve);
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert!(response.headers().contains_key("sec-websocket-accept"));
    feed.send(Ok(Frame::data(Bytes::from_static(b"ping")))).await.unwrap();
    assert_eq!(up.data().await.unwrap().unwrap(), "ping");
    down.send_data(Bytes::from_static(b"pong"), false).unwrap();
    let data = frame(&mut response.into_body()).await.unwrap().unwrap();
    assert_eq!(data.into_data().unwrap(), "pong");
}

#[tokio::test]
async fn the_peers_limit_bounds_streams() {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    let (client, mut peer) = connect(&builder, None).await;
    let serve = async {
        let (_request, mut respond) = peer.next().await;
        respond.send_response(Response::new(()), false).unwrap()
    };
    let (response, _body) = tokio::join!(client.send(request(Body::Empty), None), serve);
    assert!(client.is_available() && !client.can_take_stream());
    drop(response.unwrap());
    assert!(client.can_take_stream());
    client.close();
    assert!(!client.is_available());
}
