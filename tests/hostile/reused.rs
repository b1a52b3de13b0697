//! Connections that end under the second request: it is sent again where that is safe, and only there.

use std::net::SocketAddr;

use remora::runtime::spawn::spawn;
use remora_tests::{Http1, Sidecar, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::races::{goaway, next_head, ok, upstream};
use super::{HTTP2, bootstrap, cluster};
use remora_tests::frames::*;

const MANAGER: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - {name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: a}}]}
"#;

/// Slow attempts are hedged, and nothing that happens here is retried by policy.
const HEDGED: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - match: {prefix: /}
      route:
        cluster: a
        timeout: 60s
        retry_policy: {retry_on: retriable-4xx, per_try_timeout: 30s}
        hedge_policy: {hedge_on_per_try_timeout: true}
"#;

const NO_ERROR: u32 = 0;

const GET: &str = "GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n";
/// Its body never ends, so nobody can have all of it.
const STREAMED: &str = "PUT / HTTP/1.1\r\nhost: a.test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n";

async fn proxy(manager: &str, upstream: SocketAddr, fields: &str) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&bootstrap(manager, &cluster("a", upstream.port(), fields)))
        .await
        .unwrap();
    let address = sidecar.listener("http").await;
    (sidecar, address)
}

fn asking(address: SocketAddr, request: &'static str) -> JoinHandle<u16> {
    spawn("client", async move {
        let mut client = Http1::connect(address).await.unwrap();
        client.send(request).await;
        client.response(&request[..request.find(' ').unwrap()]).await.status
    })
}

/// What the upstream does to the second request of its first connection.
enum End {
    Close,
    /// GOAWAY, with this as the last stream.
    GoAway(u32),
    Refuse,
}

/// The status of a second request that comes to this end, and whether it was sent again (and answered with 200 then).
async fn over_http2(request: &'static str, end: End) -> (u16, bool) {
    let (upstream, mut connections) = upstream().await;
    let (_sidecar, address) = proxy(MANAGER, upstream, HTTP2).await;
    let first = asking(address, GET);
    let mut connection = connections.recv().await.unwrap();
    let stream = next_head(&mut connection).await.stream;
    connection.send(&ok(stream, END_STREAM)).await;
    assert_eq!(first.await.unwrap(), 200);
    let mut second = asking(address, request);
    assert_eq!(next_head(&mut connection).await.stream, 3);
    match end {
        End::Close => drop(connection),
        End::GoAway(last) => {
            connection.send(&goaway(last, NO_ERROR)).await;
        }
        End::Refuse => {
            let refused = REFUSED_STREAM.to_be_bytes();
            connection.send(&frame(RST_STREAM, 0, 3, &refused)).await;
        }
    }
    tokio::select! {
        status = &mut second => (status.unwrap(), false),
        again = connections.recv() => {
            let mut again = again.unwrap();
            let stream = next_head(&mut again).await.stream;
            again.send(&ok(stream, END_STREAM)).await;
            (within("an answer", second).await.unwrap(), true)
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_over_http2() {
    assert_eq!(over_http2(GET, End::Close).await, (200, true));
    // It may have been done, or is partly gone.
    assert_eq!(over_http2(POST, End::Close).await, (503, false));
    assert_eq!(over_http2(STREAMED, End::Close).await, (503, false));
    // A peer that goes and says that it has not looked at it: nothing was done, whatever the method.
    assert_eq!(over_http2(GET, End::GoAway(1)).await, (200, true));
    assert_eq!(over_http2(POST, End::GoAway(1)).await, (200, true));
    assert_eq!(over_http2(STREAMED, End::GoAway(1)).await, (503, false));
    // The refusal of one stream is an answer of an upstream that stays; policies decide on it, as in Envoy.
    assert_eq!(over_http2(GET, End::Refuse).await, (503, false));
}

async fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = within("a request", stream.read_buf(&mut head)).await.unwrap();
        assert!(read > 0, "closed");
    }
    String::from_utf8(head).unwrap()
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// As [`over_http2`]; the upstream says `last` and closes.
async fn over_http1(manager: &str, request: &'static str, last: &str) -> (u16, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_sidecar, address) = proxy(manager, listener.local_addr().unwrap(), "").await;
    let first = asking(address, GET);
    let (mut connection, _) = within("a connection", listener.accept()).await.unwrap();
    head_of(&mut connection).await;
    connection.write_all(ANSWER).await.unwrap();
    assert_eq!(first.await.unwrap(), 200);
    let mut second = asking(address, request);
    head_of(&mut connection).await;
    connection.write_all(last.as_bytes()).await.unwrap();
    drop(connection);
    tokio::select! {
        status = &mut second => (status.unwrap(), false),
        again = listener.accept() => {
            let (mut again, _) = again.unwrap();
            head_of(&mut again).await;
            again.write_all(ANSWER).await.unwrap();
            (within("an answer", second).await.unwrap(), true)
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_over_http1() {
    for manager in [MANAGER, HEDGED] {
        assert_eq!(over_http1(manager, GET, "").await, (200, true));
        assert_eq!(over_http1(manager, POST, "").await, (503, false));
        assert_eq!(over_http1(manager, STREAMED, "").await, (503, false));
        // Half an answer, or word of one to come: the request has arrived.
        let (status, again) = over_http1(manager, GET, "HTTP/1.1 200").await;
        assert!(status >= 500 && !again, "{status}");
        let (status, again) = over_http1(manager, GET, "HTTP/1.1 103 Early Hints\r\n\r\n").await;
        assert!(status >= 500 && !again, "{status}");
    }
}
