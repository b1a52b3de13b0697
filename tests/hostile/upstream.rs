//! Upstreams that break the rules. Whatever they send, the client gets an answer or a cut, soon; others are served; nothing of one answer gets
//! into another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora::runtime::spawn::spawn;
use remora_tests::{Answer, Backend, Ending, Http1, Sidecar, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{HTTP2, bootstrap, cluster};
use remora_tests::frames::*;

const MANAGER: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /good}, route: {cluster: good}}
    - {match: {prefix: /}, route: {cluster: bad, timeout: 2s}}
"#;

/// What an upstream does on each connection, after it has read the request's head (HTTP/1) or the first HEADERS frame (HTTP/2).
type Deed = fn() -> Vec<u8>;

struct Scene {
    sidecar: Sidecar,
    address: SocketAddr,
    _good: Backend,
}

async fn scene(bad: SocketAddr, fields: &str) -> Scene {
    let good = Backend::start("good").await;
    let clusters = cluster("good", good.port(), "") + &cluster("bad", bad.port(), fields);
    let sidecar = Sidecar::start(&bootstrap(MANAGER, &clusters)).await.unwrap();
    let address = sidecar.listener("http").await;
    Scene {
        sidecar,
        address,
        _good: good,
    }
}

impl Scene {
    async fn get(&self, path: &str) -> Answer {
        let mut client = Http1::connect(self.address).await.unwrap();
        client.get("any.test", path, "").await
    }
}

/// An upstream whose every connection does `deed`, then holds still until the proxy has had enough.
async fn upstream(deed: Deed, http2: bool) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn("bad upstream", async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn("bad connection", misbehave(stream, deed, http2));
        }
    });
    address
}

async fn misbehave(mut stream: TcpStream, deed: Deed, http2: bool) {
    if http2 {
        let mut peer = Peer::over(stream);
        peer.preface().await;
        while let Some(frame) = peer.next().await {
            if frame.kind == HEADERS {
                break;
            }
        }
        // In parts, so that a proxy that hangs up ends it.
        for part in deed().chunks(64 * 1024) {
            if !peer.send(part).await {
                return;
            }
        }
        while peer.next().await.is_some() {}
        return;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    for part in deed().chunks(64 * 1024) {
        if within("the proxy to read or hang up", stream.write_all(part))
            .await
            .is_err()
        {
            return;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

/// Response head of one stream.
fn head(stream: u32, flags: u8, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        literal(&mut block, name, value);
    }
    frame(HEADERS, flags, stream, &block)
}

fn after_settings(bytes: Vec<u8>) -> Vec<u8> {
    [settings_frame(&[]), bytes].concat()
}

/// Name, what is sent, and what the client may be answered (0: cut).
const HTTP2_DEEDS: &[(&str, Deed, &[u16])] = &[
    ("nonsense", || b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), &[502, 503]),
    (
        "goaway before anything",
        || after_settings(frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0])),
        &[503, 504],
    ),
    (
        "goaway with an error",
        || after_settings(frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])),
        &[503],
    ),
    ("no streams at all", || settings_frame(&[(3, 0)]), &[503, 504]),
    (
        "a frame that is too large",
        || after_settings(frame(DATA, 0, 1, &vec![0; 20_000])),
        &[502, 503],
    ),
    (
        "data before the head",
        || after_settings(frame(DATA, END_STREAM, 1, b"x")),
        &[502, 503],
    ),
    (
        "a head without a status",
        || after_settings(head(1, END_HEADERS | END_STREAM, &[("a", "b")])),
        &[502, 503],
    ),
    (
        "a status that is none",
        || after_settings(head(1, END_HEADERS | END_STREAM, &[(":status", "2x0")])),
        &[502, 503],
    ),
    (
        "a header in capitals",
        || after_settings(head(1, END_HEADERS | END_STREAM, &[(":status", "200"), ("A", "b")])),
        &[502, 503],
    ),
    (
        "connection headers",
        || {
            after_settings(head(
                1,
                END_HEADERS | END_STREAM,
                &[(":status", "200"), ("connection", "close")],
            ))
        },
        &[502, 503],
    ),
    (
        "a line end in a value",
        || {
            after_settings(head(
                1,
                END_HEADERS | END_STREAM,
                &[(":status", "200"), ("a", "b\r\nc: d")],
            ))
        },
        &[502, 503],
    ),
    (
        "a head of a stream that nobody opened",
        || after_settings(head(7, END_HEADERS, &[(":status", "200")])),
        &[502, 503, 504],
    ),
    (
        "a stream of its own",
        || after_settings(head(2, END_HEADERS, &[(":status", "200")])),
        &[502, 503],
    ),
    (
        "a push",
        || after_settings(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x88])),
        &[502, 503],
    ),
    (
        "a head that never ends",
        || {
            let mut bytes = after_settings(head(1, 0, &[(":status", "200")]));
            let mut part = Vec::new();
            while part.len() < 16_000 {
                literal(&mut part, "x-more", "of it");
            }
            for _ in 0..500 {
                bytes.extend(frame(CONTINUATION, 0, 1, &part));
            }
            bytes
        },
        &[502, 503],
    ),
    (
        "too many headers",
        || {
            after_settings(head(
                1,
                END_HEADERS | END_STREAM,
                &[&[(":status", "200")][..], &[("a", "b"); 300]].concat(),
            ))
        },
        &[502, 503],
    ),
    (
        "bombs",
        || {
            let mut block = Vec::new();
            literal(&mut block, ":status", "200");
            indexed_literal(&mut block, "x-bomb", &"y".repeat(3900));
            block.extend(vec![0x80 | 62; 10_000]);
            after_settings(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
        },
        &[502, 503],
    ),
    (
        "compression that is broken",
        || {
            after_settings(frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ))
        },
        &[502, 503],
    ),
    (
        "less than it said",
        || {
            let mut bytes = after_settings(head(1, END_HEADERS, &[(":status", "200"), ("content-length", "10")]));
            bytes.extend(frame(DATA, END_STREAM, 1, b"short"));
            bytes
        },
        &[0, 502],
    ),
    (
        "more than it said",
        || {
            let mut bytes = after_settings(head(1, END_HEADERS, &[(":status", "200"), ("content-length", "2")]));
            bytes.extend(frame(DATA, END_STREAM, 1, b"much longer"));
            bytes
        },
        &[0, 502],
    ),
    (
        "data behind the end",
        || {
            let mut bytes = after_settings(head(1, END_HEADERS | END_STREAM, &[(":status", "200")]));
            bytes.extend(frame(DATA, 0, 1, b"more"));
            bytes
        },
        &[200, 502],
    ),
    (
        "a window that overflows",
        || after_settings(frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffffu32.to_be_bytes())),
        &[502, 503, 504],
    ),
    (
        "pings without end",
        || after_settings(frame(PING, 0, 0, &[1; 8]).repeat(50_000)),
        &[502, 503, 504],
    ),
    (
        "settings without end",
        || settings_frame(&[(3, 100)]).repeat(50_000),
        &[502, 503, 504],
    ),
    (
        "interim answers without end",
        || {
            let interim = head(1, END_HEADERS, &[(":status", "103")]);
            after_settings(interim.repeat(20_000))
        },
        &[200, 502, 503, 504],
    ),
];

#[tokio::test]
async fn http2_upstreams_that_break_the_rules() {
    for (name, deed, allowed) in HTTP2_DEEDS {
        let scene = scene(upstream(*deed, true).await, HTTP2).await;
        // Twice: the second request meets what the first has left.
        for round in 0..2 {
            check(name, round, &scene.get("/bad").await, allowed);
        }
        let good = scene.get("/good").await;
        assert_eq!(good.status, 200, "{name}: others are not served: {good:?}");
        assert_eq!(scene.sidecar.stat("cluster.bad.upstream_rq_active").await, 0, "{name}");
    }
}

fn check(name: &str, round: usize, answer: &Answer, allowed: &[u16]) {
    let cut = matches!(answer.ending, Ending::Cut | Ending::Reset(_));
    // The second request may share a connection on which nothing more happens.
    let silent = round > 0 && answer.status == 504;
    let fine = if silent {
        true
    } else if cut {
        allowed.contains(&0)
    } else {
        allowed.contains(&answer.status)
    };
    assert!(fine, "{name}, request {round}: {answer:?}");
}

const HTTP1_DEEDS: &[(&str, Deed, &[u16])] = &[
    ("nothing, and no end", || Vec::new(), &[504]),
    ("nonsense", || b"\x16\x03\x01nonsense\r\n\r\n".to_vec(), &[502]),
    (
        "both lengths",
        || b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        &[502],
    ),
    (
        "two lengths",
        || b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd".to_vec(),
        &[502],
    ),
    (
        "a length that overflows",
        || b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nabcd".to_vec(),
        &[502],
    ),
    (
        "a coding that is unknown",
        || b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabcd".to_vec(),
        &[502],
    ),
    ("a zero byte", || b"HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n".to_vec(), &[502]),
    (
        "a chunk size that overflows",
        || b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nx".to_vec(),
        &[0, 502],
    ),
    (
        "a chunk that is too long",
        || b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n".to_vec(),
        &[0, 502],
    ),
    (
        "a chunk line that never ends",
        || {
            [
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;".to_vec(),
                vec![b'x'; 1 << 20],
            ]
            .concat()
        },
        &[0, 502],
    ),
    (
        "trailers that never end",
        || {
            [
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n".to_vec(),
                b"a: b\r\n".repeat(200_000),
            ]
            .concat()
        },
        &[0, 502],
    ),
    (
        "a head that never ends",
        || [b"HTTP/1.1 200 OK\r\n".to_vec(), b"a: b\r\n".repeat(200_000)].concat(),
        &[502, 503],
    ),
    (
        "a line that never ends",
        || [b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'x'; 1 << 20]].concat(),
        &[502, 503],
    ),
    (
        "interim answers without end",
        || b"HTTP/1.1 103 Early\r\n\r\n".repeat(100_000),
        &[502, 503, 504],
    ),
    (
        "switching that nobody asked for",
        || {
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"
                .to_vec()
        },
        &[502, 503],
    ),
];

#[tokio::test]
async fn http1_upstreams_that_break_the_rules() {
    for (name, deed, allowed) in HTTP1_DEEDS {
        let scene = scene(upstream(*deed, false).await, "").await;
        for round in 0..2 {
            check(name, round, &scene.get("/bad").await, allowed);
        }
        let good = scene.get("/good").await;
        assert_eq!(good.status, 200, "{name}: others are not served: {good:?}");
    }
}

/// What an upstream sends unasked is never taken for the answer to the next request.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_nobodys() {
    let deeds: [Deed; 3] = [
        || {
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond"
                .to_vec()
        },
        || b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond".to_vec(),
        || b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\nsecond".to_vec(),
    ];
    for deed in deeds {
        let scene = scene(upstream(deed, false).await, "").await;
        let mut client = Http1::connect(scene.address).await.unwrap();
        for _ in 0..3 {
            let answer = client.get("any.test", "/bad", "").await;
            assert!(!answer.text().contains("second"), "{answer:?}");
            assert!(
                answer.is_whole() && matches!(answer.status, 200 | 204 | 304),
                "{answer:?}"
            );
        }
    }
}

/// The next connection would be no better: a request opens one, or few where it was sent before that was known.
#[tokio::test]
async fn a_host_that_allows_no_stream_is_not_stormed() {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let bad = listener.local_addr().unwrap();
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    spawn("bad upstream", async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::Relaxed);
            spawn("bad connection", async move {
                let mut peer = Peer::over(stream);
                // No stream at once (SETTINGS_MAX_CONCURRENT_STREAMS).
                peer.send(&settings_frame(&[(3, 0)])).await;
                peer.preface().await;
                while let Some(got) = peer.next().await {
                    if got.kind == HEADERS {
                        let refused = REFUSED_STREAM.to_be_bytes();
                        peer.send(&frame(RST_STREAM, 0, got.stream, &refused)).await;
                    }
                }
            });
        }
    });
    let scene = scene(bad, HTTP2).await;
    for _ in 0..5 {
        assert_eq!(scene.get("/").await.status, 503);
    }
    let opened = opened.load(Ordering::Relaxed);
    assert!(opened <= 20, "{opened} connections for five requests");
}
