//! Frame by frame: GOAWAY against requests that are on their way, on both sides of the proxy, and extended CONNECT (RFC 8441).

use std::net::SocketAddr;

use remora::runtime::spawn::spawn;
use remora_tests::{Http1, Sidecar, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{HTTP2, bootstrap, cluster};
use remora_tests::frames::*;

const MANAGER: &str = r#"
codec_type: AUTO
upgrade_configs: [{upgrade_type: websocket}]
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /once}, route: {cluster: a}}
    - {match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: refused-stream, num_retries: 3}}}
"#;

const NO_ERROR: u32 = 0;

pub fn goaway(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

/// The head of a 200 on a stream.
pub fn ok(stream: u32, flags: u8) -> Vec<u8> {
    // `:status: 200` is entry 8 of the static table (RFC 7541).
    frame(HEADERS, END_HEADERS | flags, stream, &[0x88])
}

/// Connections that the proxy opens, one after the other, their preface read and our SETTINGS sent.
pub async fn upstream() -> (SocketAddr, mpsc::Receiver<Peer>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel(16);
    spawn("raw upstream", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut peer = Peer::over(stream);
            peer.preface().await;
            peer.send(&settings_frame(&[])).await;
            if sender.send(peer).await.is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

async fn proxy(upstream: SocketAddr, manager: &str, fields: &str) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&bootstrap(manager, &cluster("a", upstream.port(), fields)))
        .await
        .unwrap();
    let address = sidecar.listener("http").await;
    (sidecar, address)
}

/// The next HEADERS frame; everything before it is passed over.
pub async fn next_head(peer: &mut Peer) -> Frame {
    next(peer, HEADERS).await
}

async fn next(peer: &mut Peer, kind: u8) -> Frame {
    loop {
        let frame = peer.next().await.expect("the connection goes on");
        if frame.kind == kind {
            return frame;
        }
    }
}

async fn get(address: SocketAddr, path: &'static str) -> u16 {
    let mut client = Http1::connect(address).await.unwrap();
    client.get("a.test", path, "").await.status
}

fn asking(address: SocketAddr, path: &'static str) -> tokio::task::JoinHandle<u16> {
    spawn("client", async move { get(address, path).await })
}

/// A GOAWAY that leaves a request out: it was not looked at, so it may be sent again, and is, on another connection.
#[tokio::test]
async fn a_request_that_a_goaway_leaves_out_is_sent_again() {
    let (upstream, mut connections) = upstream().await;
    let (_sidecar, address) = proxy(upstream, MANAGER, HTTP2).await;
    let client = asking(address, "/");
    let mut first = connections.recv().await.unwrap();
    assert_eq!(next_head(&mut first).await.stream, 1);
    first.send(&goaway(0, NO_ERROR)).await;
    let mut second = within("another connection", connections.recv()).await.unwrap();
    let stream = next_head(&mut second).await.stream;
    second.send(&ok(stream, END_STREAM)).await;
    assert_eq!(client.await.unwrap(), 200);
}

/// Without a policy that says so it is not: the client is told.
#[tokio::test]
async fn a_request_that_a_goaway_leaves_out_is_refused_without_a_policy() {
    let (upstream, mut connections) = upstream().await;
    let (_sidecar, address) = proxy(upstream, MANAGER, HTTP2).await;
    let client = asking(address, "/once");
    let mut first = connections.recv().await.unwrap();
    next_head(&mut first).await;
    first.send(&goaway(0, NO_ERROR)).await;
    assert_eq!(client.await.unwrap(), 503);
}

/// A GOAWAY that includes it: the answer may still come. The next request goes elsewhere.
#[tokio::test]
async fn a_request_that_a_goaway_includes_is_answered() {
    let (upstream, mut connections) = upstream().await;
    let (_sidecar, address) = proxy(upstream, MANAGER, HTTP2).await;
    let early = asking(address, "/once");
    let mut first = connections.recv().await.unwrap();
    next_head(&mut first).await;
    // In two steps, as a graceful server does, the answer between them.
    first.send(&goaway(0x7fff_ffff, NO_ERROR)).await;
    first.send(&ok(1, 0)).await;
    first.send(&goaway(1, NO_ERROR)).await;
    let late = asking(address, "/once");
    let mut second = within("another connection", connections.recv()).await.unwrap();
    let stream = next_head(&mut second).await.stream;
    second.send(&ok(stream, END_STREAM)).await;
    assert_eq!(late.await.unwrap(), 200);
    first.send(&frame(DATA, END_STREAM, 1, b"at last")).await;
    assert_eq!(early.await.unwrap(), 200);
}

/// A last stream that rises, and one that was never opened: no harm, no hang.
#[tokio::test]
async fn goaways_that_make_no_sense() {
    let ways: [&[u8]; 3] = [
        &[goaway(0, NO_ERROR), goaway(1, NO_ERROR)].concat(),
        &goaway(5, NO_ERROR),
        &[goaway(1, NO_ERROR), goaway(0x7fff_ffff, 1), ok(1, END_STREAM)].concat(),
    ];
    for way in ways {
        let (upstream, mut connections) = upstream().await;
        let (_sidecar, address) = proxy(upstream, MANAGER, HTTP2).await;
        let client = asking(address, "/once");
        let mut first = connections.recv().await.unwrap();
        next_head(&mut first).await;
        first.send(way).await;
        drop(first);
        let status = within("an answer", client).await.unwrap();
        assert!([200, 502, 503].contains(&status), "{status}");
        // The next connection is as good as ever.
        let client = asking(address, "/once");
        let mut second = within("another connection", connections.recv()).await.unwrap();
        let stream = next_head(&mut second).await.stream;
        second.send(&ok(stream, END_STREAM)).await;
        assert_eq!(client.await.unwrap(), 200);
    }
}

/// A client's own GOAWAY: what it has asked for is answered, and the connection ends.
#[tokio::test]
async fn a_client_that_says_goodbye_gets_its_answers() {
    let (upstream, mut connections) = upstream().await;
    let (_sidecar, address) = proxy(upstream, MANAGER, HTTP2).await;
    let mut client = Peer::connect(address).await;
    client
        .send(&frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            &remora_tests::frames::get("/once"),
        ))
        .await;
    let mut server = connections.recv().await.unwrap();
    let stream = next_head(&mut server).await.stream;
    client.send(&goaway(0, NO_ERROR)).await;
    server.send(&ok(stream, END_STREAM)).await;
    let head = next_head(&mut client).await;
    assert_eq!((head.stream, head.flags & END_STREAM), (1, END_STREAM));
    while client.next().await.is_some() {}
}

fn connect(protocol: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    literal(&mut block, ":method", "CONNECT");
    if let Some(protocol) = protocol {
        literal(&mut block, ":protocol", protocol);
    }
    for (name, value) in [
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "a.test"),
        ("sec-websocket-version", "13"),
    ] {
        literal(&mut block, name, value);
    }
    block
}

fn manager(allow_connect: bool) -> String {
    format!("{MANAGER}http2_protocol_options: {{allow_connect: {allow_connect}}}\n")
}

/// Whether the proxy's SETTINGS allow extended CONNECT (SETTINGS_ENABLE_CONNECT_PROTOCOL, 8).
async fn allows_connect(client: &mut Peer) -> bool {
    let settings = next(client, SETTINGS).await;
    settings.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1])
}

/// From the first frame to the last, to an HTTP/1 server: the upgrade's own form there, bytes both ways, and the end.
#[tokio::test]
async fn extended_connect_to_an_http1_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_sidecar, address) = proxy(listener.local_addr().unwrap(), &manager(true), "").await;
    let mut client = Peer::connect(address).await;
    assert!(allows_connect(&mut client).await);
    client
        .send(&frame(HEADERS, END_HEADERS, 1, &connect(Some("websocket"))))
        .await;
    let (mut server, _) = within("the upgrade", listener.accept()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        within("the head", server.read_buf(&mut head)).await.unwrap();
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
    for line in [
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-key: ",
    ] {
        assert!(head.contains(line), "{head}");
    }
    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello";
    server.write_all(answer.as_bytes()).await.unwrap();
    let head = next_head(&mut client).await;
    assert_eq!((head.flags & END_STREAM, head.payload[0]), (0, 0x88));
    assert_eq!(next(&mut client, DATA).await.payload, b"hello");
    client.send(&frame(DATA, 0, 1, b"good day")).await;
    let mut said = [0; 8];
    within("bytes", server.read_exact(&mut said)).await.unwrap();
    assert_eq!(&said, b"good day");
    client.send(&frame(DATA, END_STREAM, 1, b"bye")).await;
    let mut rest = Vec::new();
    within("the end", server.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, b"bye");
}

/// An answer that is no upgrade is none on HTTP/2 either: what a client would take for a tunnel is over at once.
#[tokio::test]
async fn extended_connect_that_the_server_does_not_understand() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_sidecar, address) = proxy(listener.local_addr().unwrap(), &manager(true), "").await;
    let mut client = Peer::connect(address).await;
    client
        .send(&frame(HEADERS, END_HEADERS, 1, &connect(Some("websocket"))))
        .await;
    let (mut server, _) = within("the upgrade", listener.accept()).await.unwrap();
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    server.write_all(answer.as_bytes()).await.unwrap();
    let head = next_head(&mut client).await;
    assert_eq!((head.flags & END_STREAM, head.payload[0]), (END_STREAM, 0x88));
}

/// Where it is not allowed, or not whole, its stream is reset, and the connection goes on.
#[tokio::test]
async fn extended_connect_that_is_not_allowed_or_none() {
    let (upstream, _connections) = upstream().await;
    for (allowed, block) in [
        (false, connect(Some("websocket"))),
        // A scheme and a path belong to a CONNECT with a protocol only.
        (true, connect(None)),
    ] {
        let (_sidecar, address) = proxy(upstream, &manager(allowed), HTTP2).await;
        let mut client = Peer::connect(address).await;
        assert_eq!(allows_connect(&mut client).await, allowed);
        client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        let reset = next(&mut client, RST_STREAM).await;
        assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 1][..]));
        client.send(&frame(PING, 0, 0, b"together")).await;
        assert_eq!(next(&mut client, PING).await.payload, b"together");
    }
}
