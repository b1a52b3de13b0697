//! What HTTP/2 clients are held to: header blocks in time, heads that are heads, few frames that mean little, and a goodbye that is heard.

use std::time::Duration;

use remora::runtime::clock;
use remora_tests::{Backend, Sidecar, until};

use super::{bootstrap, cluster};
use remora_tests::frames::*;

const MANAGER: &str = r#"
codec_type: HTTP2
request_headers_timeout: 0.5s
drain_timeout: 0.5s
common_http_protocol_options: {idle_timeout: 1s}
access_log:
- name: envoy.access_loggers.file
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: "{{log}}"
    log_format: {text_format_source: {inline_string: "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}}
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /ok}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

struct Scene {
    sidecar: Sidecar,
    backend: Backend,
    directory: tempfile::TempDir,
}

impl Scene {
    async fn start() -> Self {
        Self::with(MANAGER).await
    }

    async fn with(manager: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let backend = Backend::start("a").await;
        let log = directory.path().join("log");
        let manager = manager.replace("{{log}}", &log.display().to_string());
        let sidecar = Sidecar::start(&bootstrap(&manager, &cluster("a", backend.port(), "")))
            .await
            .unwrap();
        Self {
            sidecar,
            backend,
            directory,
        }
    }

    async fn connect(&self) -> Peer {
        Peer::connect(self.sidecar.listener("http").await).await
    }

    /// The lines of the access log, once there are so many.
    async fn log(&self, count: usize) -> Vec<String> {
        let path = self.directory.path().join("log");
        until("the access log", async || {
            let text = std::fs::read_to_string(&path).ok()?;
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }
}

fn post(path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "a.test"),
    ] {
        literal(&mut block, name, value);
    }
    block
}

/// All frames until the connection ends, but for those of the connection's own housekeeping.
async fn rest(peer: &mut Peer) -> Vec<Frame> {
    let mut all = Vec::new();
    while let Some(frame) = peer.next().await {
        if !matches!(frame.kind, SETTINGS | WINDOW_UPDATE | PING) {
            all.push(frame);
        }
    }
    all
}

/// Slowloris over HTTP/2: a header block that is never complete, in each of its forms.
#[tokio::test]
async fn header_blocks_come_in_time() {
    let scene = Scene::start().await;
    let part = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/ok"));
    let starts = [
        frame(HEADERS, END_STREAM, 1, &get("/ok")),
        part[..part.len() - 4].to_vec(),
        [
            frame(HEADERS, END_STREAM, 1, &get("/ok")),
            frame(CONTINUATION, 0, 1, &get("/ok")[..4]),
        ]
        .concat(),
    ];
    for (number, start) in starts.iter().enumerate() {
        let began = clock::now();
        let mut peer = scene.connect().await;
        assert!(peer.send(start).await);
        let said = rest(&mut peer).await;
        assert!(began.elapsed() >= Duration::from_millis(450), "cut before its time");
        assert!(said.iter().all(|frame| frame.kind == GOAWAY), "{said:?}");
        assert_eq!(scene.log(number + 1).await[number], "- - 0 - request_header_timeout");
    }
    assert_eq!(scene.sidecar.stat("http.http.downstream_rq_header_timeout").await, 3);
    for gauge in ["http.http.downstream_rq_active", "http2.streams_active"] {
        assert_eq!(scene.sidecar.stat(gauge).await, 0, "{gauge}");
    }
}

/// A stream that was complete before is answered, although the block behind it is late; and the same block in time is a request.
#[tokio::test]
async fn a_late_header_block_takes_no_answer_from_others() {
    let scene = Scene::start().await;
    let mut peer = scene.connect().await;
    let mut slow = get("/slow");
    literal(&mut slow, "x-do", "delay=900");
    assert!(peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &slow)).await);
    assert!(peer.send(&frame(HEADERS, END_STREAM, 3, &get("/ok"))).await);
    let said = rest(&mut peer).await;
    assert!(
        said.iter().any(|frame| frame.kind == HEADERS && frame.stream == 1),
        "{said:?}"
    );
    let mut lines = scene.log(2).await;
    lines.sort();
    assert_eq!(
        lines,
        ["- - 0 - request_header_timeout", "GET /slow 200 - via_upstream"]
    );

    let mut peer = scene.connect().await;
    let block = get("/ok");
    assert!(peer.send(&frame(HEADERS, END_STREAM, 1, &block[..10])).await);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(peer.send(&frame(CONTINUATION, END_HEADERS, 1, &block[10..])).await);
    let said = rest(&mut peer).await;
    assert_eq!(said[0].kind, HEADERS, "{said:?}");
}

/// Heads that are none: each resets its stream, is logged, and another stream of the connection is answered.
#[tokio::test]
async fn what_is_no_head_resets_its_stream_alone() {
    let scene = Scene::start().await;
    let head = |pairs: &[(&str, &str)]| {
        let mut block = Vec::new();
        for (name, value) in pairs {
            literal(&mut block, name, value);
        }
        block
    };
    let with = |name: &str, value: &str| {
        let mut block = get("/ok");
        literal(&mut block, name, value);
        block
    };
    let twice = |name: &str, value: &str| {
        let mut block = with(name, value);
        literal(&mut block, name, value);
        block
    };
    let at = |path: &str, authority: &str| {
        head(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", authority),
        ])
    };
    let cases = [
        (at("/ok", "user:word@a.test"), "http2.invalid.header.field"),
        (at("?ok", "a.test"), "http2.violation.of.messaging.rule"),
        (at("*", "a.test"), "http2.violation.of.messaging.rule"),
        (at("", "a.test"), "http2.violation.of.messaging.rule"),
        (at("ok", "a.test"), "http2.violation.of.messaging.rule"),
        (twice("content-length", "0"), "http2.invalid.header.field"),
        (twice("host", "a.test"), "http2.invalid.header.field"),
        (with("connection", "close"), "http2.violation.of.messaging.rule"),
        (
            with("transfer-encoding", "chunked"),
            "http2.violation.of.messaging.rule",
        ),
        (with("te", "gzip"), "http2.violation.of.messaging.rule"),
        (with(":status", "200"), "http2.violation.of.messaging.rule"),
        (
            head(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test")]),
            "http2.violation.of.messaging.rule",
        ),
        (
            head(&[(":scheme", "http"), (":path", "/")]),
            "http2.violation.of.messaging.rule",
        ),
    ];
    let mut expected = Vec::new();
    for (block, details) in &cases {
        let mut peer = scene.connect().await;
        assert!(peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, block)).await);
        assert!(
            peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get("/ok")))
                .await
        );
        let said = rest(&mut peer).await;
        let reset: Vec<_> = said.iter().filter(|frame| frame.kind == RST_STREAM).collect();
        assert_eq!(reset.len(), 1, "{details}: {said:?}");
        assert_eq!((reset[0].stream, &reset[0].payload[..]), (1, &[0, 0, 0, 1][..]));
        assert!(
            said.iter()
                .any(|frame| frame.kind == DATA && frame.stream == 3 && frame.payload == b"ok")
        );
        expected.push(format!("- - 0 DPE {details}"));
        expected.push("GET /ok 200 - direct_response".to_owned());
    }
    let mut lines = scene.log(expected.len()).await;
    lines.sort();
    expected.sort();
    assert_eq!(lines, expected);
    assert_eq!(scene.backend.requests(), 0);
}

/// A body or trailers that break the rules are the client's fault, and say so.
#[tokio::test]
async fn what_breaks_a_stream_later_is_a_protocol_error() {
    let scene = Scene::start().await;
    let mut announced = post("/");
    literal(&mut announced, "content-length", "5");
    let mut trailers = Vec::new();
    literal(&mut trailers, "connection", "close");
    let cases = [
        (announced, frame(DATA, END_STREAM, 1, b"hi")),
        (
            post("/"),
            [
                frame(DATA, 0, 1, b"hi"),
                frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
            ]
            .concat(),
        ),
    ];
    for (number, (block, body)) in cases.iter().enumerate() {
        let mut peer = scene.connect().await;
        assert!(peer.send(&frame(HEADERS, END_HEADERS, 1, block)).await);
        // The stream is taken up before it breaks.
        until("the request", async || {
            (scene.backend.requests() == number as u64 + 1).then_some(())
        })
        .await;
        assert!(peer.send(body).await);
        let said = rest(&mut peer).await;
        assert!(
            said.iter()
                .any(|frame| frame.kind == RST_STREAM && frame.payload == [0, 0, 0, 1]),
            "{said:?}"
        );
        assert!(said.iter().all(|frame| frame.kind != HEADERS), "{said:?}");
        assert_eq!(scene.log(number + 1).await[number], "POST / 0 DPE http2.remote_reset");
    }
}

/// Envoy's limits, of frames that mean little, and the connection's end beyond them.
#[tokio::test]
async fn frames_that_mean_little_are_counted() {
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]);
    let update = frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
    let empty = frame(DATA, 0, 1, &[]);
    let strict = format!(
        "{MANAGER}http2_protocol_options:\n  max_consecutive_inbound_frames_with_empty_payload: 3\n  max_inbound_priority_frames_per_stream: 2\n  \
         max_inbound_window_update_frames_per_data_frame_sent: 1\n"
    );
    // The frame, how many are allowed and not allowed, by default and where less is configured.
    let rows = [
        (&priority, [200, 201], [4, 5], "codec_error:Too_many_PRIORITY_frames"),
        (&update, [7, 8], [7, 8], "codec_error:Too_many_WINDOW_UPDATE_frames"),
        (&empty, [1, 2], [3, 4], "http2.inbound_empty_frames_flood"),
    ];
    for (manager, is_strict) in [(MANAGER, false), (&strict[..], true)] {
        let scene = Scene::with(manager).await;
        let mut line = 0;
        for (kind, default, configured, details) in rows {
            let counts = if is_strict { configured } else { default };
            for (count, is_flood) in counts.into_iter().zip([false, true]) {
                let mut hang = post("/hang");
                literal(&mut hang, "x-do", "hang");
                let mut peer = scene.connect().await;
                assert!(peer.send(&frame(HEADERS, END_HEADERS, 1, &hang)).await);
                // The stream is taken up before the flood comes.
                until("the request", async || {
                    (scene.backend.requests() == line as u64 + 1).then_some(())
                })
                .await;
                assert!(peer.send(&kind.repeat(count)).await);
                if !is_flood {
                    // It is still there, and the stream can be ended.
                    assert!(peer.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await);
                }
                let lines = scene.log(line + 1).await;
                let expected = if is_flood {
                    format!("POST /hang 0 DPE {details}")
                } else {
                    "POST /hang 0 DR http2.remote_reset".to_owned()
                };
                assert_eq!(lines[line], expected, "{count} of {details}");
                line += 1;
            }
        }
    }
}

/// Answers that pile up before they can be written: Envoy's limit on them, and its words.
#[tokio::test]
async fn answers_that_wait_are_counted() {
    let scene = Scene::with(&format!(
        "{MANAGER}http2_protocol_options: {{max_outbound_control_frames: 4}}\n"
    ))
    .await;
    let ping = frame(PING, 0, 0, &[1; 8]);
    for (line, count) in [4, 5].into_iter().enumerate() {
        let mut hang = post("/hang");
        literal(&mut hang, "x-do", "hang");
        let mut peer = scene.connect().await;
        assert!(peer.send(&frame(HEADERS, END_HEADERS, 1, &hang)).await);
        until("the request", async || {
            (scene.backend.requests() == line as u64 + 1).then_some(())
        })
        .await;
        // So little comes in one piece.
        assert!(peer.send(&ping.repeat(count)).await);
        if count == 4 {
            assert!(peer.send(&frame(RST_STREAM, 0, 1, &8u32.to_be_bytes())).await);
        }
        let expected = [
            "POST /hang 0 DR http2.remote_reset",
            "POST /hang 0 DPE codec_error:Too_many_control_frames_in_the_outbound_queue.",
        ];
        assert_eq!(scene.log(line + 1).await[line], expected[line]);
    }
}

/// A client that never answers the PING of a goodbye does not keep its connection for ever.
#[tokio::test]
async fn a_goodbye_without_an_answer_ends() {
    let scene = Scene::start().await;
    let began = clock::now();
    let mut peer = scene.connect().await;
    assert!(
        peer.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/ok")))
            .await
    );
    let said = rest(&mut peer).await;
    let goodbyes: Vec<_> = said.iter().filter(|frame| frame.kind == GOAWAY).collect();
    let last = |frame: &Frame| u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
    assert_eq!(
        goodbyes.iter().map(|frame| last(frame)).collect::<Vec<_>>(),
        [0x7fff_ffff, 1]
    );
    // The idle timeout, and the drain's.
    assert!(began.elapsed() >= Duration::from_millis(1400), "{:?}", began.elapsed());
}

/// What a client still sends when we have closed does not reset the connection under an answer that it has not read yet.
#[tokio::test]
async fn bytes_behind_the_end_take_no_answer_back() {
    let scene = Scene::start().await;
    for _ in 0..20 {
        let mut peer = scene.connect().await;
        let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &get("/ok"));
        // An error of the connection, and much behind it.
        bytes.extend(frame(PING, 0, 0, b"short"));
        bytes.extend(frame(DATA, 0, 1, &[0; 16_000]).repeat(20));
        assert!(peer.send(&bytes).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let said = rest(&mut peer).await;
        assert!(said.iter().any(|frame| frame.kind == GOAWAY), "{said:?}");
    }
}
