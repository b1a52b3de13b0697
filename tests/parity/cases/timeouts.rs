//! Time limits of the connection manager: who waits for whom, and what is answered when nobody comes.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get, raw};

const ROUTES: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {name: all, match: {prefix: /}, route: {cluster: a, timeout: 0s}}
"#;

pub fn world() -> World {
    let listeners = [
        listener("headers", &format!("request_headers_timeout: 0.2s\n{ROUTES}")),
        listener("idle", &format!("stream_idle_timeout: 0.2s\n{ROUTES}")),
        listener(
            "request",
            &format!("request_timeout: 0.2s\nstream_idle_timeout: 0.6s\n{ROUTES}"),
        ),
    ];
    World {
        name: "timeouts",
        yaml: bootstrap(&listeners, &[cluster("a", &["{{a}}"], "")]),
        cases: cases(),
        stats: &[
            "http.headers.downstream_rq",
            "http.idle.downstream_rq",
            "http.request.downstream_rq",
            "cluster.a.upstream_rq",
        ],
    }
}

fn h2(name: &'static str, status: u16, plan: &'static str) -> Case {
    Case {
        name,
        listener: "idle",
        wire: Wire::Http2 {
            method: "GET",
            host: "parity.test",
            path: "/",
            headers: vec![("x-do", plan)],
            body: b"",
            trailers: Vec::new(),
        },
        status,
        logs: 1,
        seen: 0,
    }
}

fn cases() -> Vec<Case> {
    let upload = "POST / HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhe";
    vec![
        raw("a head that does not end", 408, "GET / HTTP/1.1\nhost: par").on("headers"),
        get("a head in time", 200, "/direct", "").on("headers"),
        get("an answer that does not come", 504, "/", "x-do: hang\n").on("idle"),
        get("an answer that stops", 200, "/", "x-do: stall\n").on("idle"),
        raw("a request that stops", 408, upload).on("idle"),
        raw("a whole request that stops", 408, upload).on("request"),
        get("a request that was whole in time", 504, "/", "x-do: hang\n").on("request"),
        h2("over HTTP/2, an answer that does not come", 504, "hang"),
        h2("over HTTP/2, an answer that stops", 200, "stall"),
    ]
}
