//! Clients that take their time, and clients that do not listen, over HTTP/1.

use remora_tests::{Answer, Backend, Http1, within};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::child::Proxy;
use super::{bootstrap, cluster};

const MANAGER: &str = r#"
request_headers_timeout: 1s
stream_idle_timeout: 1s
common_http_protocol_options: {idle_timeout: 2s}
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /ok}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {match: {prefix: /}, route: {cluster: a, timeout: 0s}}
"#;

const CLIENTS: usize = 200;

async fn scene() -> (Proxy, Backend) {
    let backend = Backend::start("a").await;
    let proxy = Proxy::start(&bootstrap(MANAGER, &cluster("a", backend.port(), ""))).await;
    (proxy, backend)
}

/// Many connections that each send `start` and nothing more; what each is answered.
async fn stuck(proxy: &Proxy, start: &str) -> Vec<Answer> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        client.send(start).await;
        clients.push(client);
    }
    proxy.is_well().await;
    let mut answers = Vec::new();
    for client in &mut clients {
        answers.push(client.response("POST").await);
        // It is over: the connection too.
        assert_eq!(client.rest().await, b"");
    }
    proxy.is_well().await;
    answers
}

#[tokio::test]
async fn slow_headers() {
    let (proxy, _backend) = scene().await;
    let before = proxy.peak_kib();
    for answer in stuck(&proxy, "GET / HTTP/1.1\r\nhost: slow.te").await {
        assert_eq!((answer.status, answer.text().as_str()), (408, "request header timeout"));
    }
    assert_eq!(
        proxy.stat("http.http.downstream_rq_header_timeout").await,
        CLIENTS as u64
    );
    assert!(proxy.peak_kib() - before < 16 * 1024);
}

#[tokio::test]
async fn slow_bodies() {
    let (proxy, backend) = scene().await;
    let before = proxy.peak_kib();
    for answer in stuck(
        &proxy,
        "POST / HTTP/1.1\r\nhost: slow.test\r\ncontent-length: 10\r\n\r\nabc",
    )
    .await
    {
        assert_eq!((answer.status, answer.text().as_str()), (408, "stream timeout"));
    }
    assert_eq!(proxy.stat("http.http.downstream_rq_idle_timeout").await, CLIENTS as u64);
    assert_eq!(
        proxy.stat("cluster.a.upstream_rq_active").await,
        0,
        "its upstream requests are given up"
    );
    assert!(proxy.peak_kib() - before < 24 * 1024);
    drop(backend);
}

#[tokio::test]
async fn silent_connections() {
    let (proxy, _backend) = scene().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Http1::connect(proxy.address).await.unwrap());
    }
    proxy.is_well().await;
    for client in &mut clients {
        assert_eq!(client.rest().await, b"", "closed without a word");
    }
    assert!(proxy.stat("http.http.downstream_cx_idle_timeout").await >= CLIENTS as u64);
}

/// Requests in a row from a client that reads no answer: the proxy stops reading.
#[tokio::test]
async fn answers_that_nobody_reads() {
    let (proxy, _backend) = scene().await;
    let before = proxy.peak_kib();
    let mut stream = within("a connection", TcpStream::connect(proxy.address)).await.unwrap();
    let request = "GET /ok HTTP/1.1\r\nhost: deaf.test\r\n\r\n".repeat(1000);
    let patience = std::time::Duration::from_secs(2);
    let mut sent = 0;
    while sent < 200_000 {
        match tokio::time::timeout(patience, stream.write_all(request.as_bytes())).await {
            Ok(Ok(())) => sent += 1000,
            _ => break,
        }
    }
    assert!(sent < 200_000, "it read on and on");
    proxy.is_well().await;
    assert!(proxy.peak_kib() - before < 16 * 1024);
}

/// An answer reaches a client that was still sending: its connection is not torn down over unread bytes.
#[tokio::test]
async fn an_early_answer_arrives() {
    let (proxy, _backend) = scene().await;
    for _ in 0..20 {
        let mut client = Http1::connect(proxy.address).await.unwrap();
        let body = "x".repeat(100_000);
        client
            .send(format!(
                "POST /ok HTTP/1.1\r\nhost: early.test\r\ncontent-length: 100000\r\n\r\n{body}"
            ))
            .await;
        let answer = client.response("POST").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.header("connection"), Some("close"));
    }
}
