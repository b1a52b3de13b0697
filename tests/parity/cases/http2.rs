//! HTTP/2 from the client, to HTTP/1 and HTTP/2 upstreams.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World};

const MANAGER: &str = r#"
codec_type: AUTO
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
    - {name: short, match: {prefix: /short}, route: {cluster: h2, timeout: 0.1s}}
    - {name: grpc, match: {prefix: /grpc}, route: {cluster: h2}}
    - {name: h1, match: {prefix: /h1}, route: {cluster: h1}}
    - {name: h2, match: {prefix: /h2}, route: {cluster: h2}}
"#;

pub fn world() -> World {
    let clusters = [
        cluster("h1", &["{{a}}"], ""),
        cluster("h2", &["{{b}}"], super::HTTP2),
        cluster("closed", &["{{closed}}"], ""),
    ];
    World {
        name: "http2",
        yaml: bootstrap(&[listener("http", MANAGER), listener("other", MANAGER)], &clusters),
        cases: cases(),
        stats: &[
            "http.http.downstream_rq",
            "http.http.downstream_cx_http2",
            "cluster.h1.upstream_rq",
            "cluster.h2.upstream_rq",
        ],
    }
}

fn h2(
    name: &'static str,
    status: u16,
    path: &'static str,
    headers: &[(&'static str, &'static str)],
    body: &'static [u8],
) -> Case {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let wire = Wire::Http2 {
        method,
        host: "parity.test",
        path,
        headers: headers.to_vec(),
        body,
        trailers: Vec::new(),
    };
    Case {
        name,
        listener: "http",
        wire,
        status,
        logs: 1,
        seen: 0,
    }
}

fn with_trailers(mut case: Case) -> Case {
    if let Wire::Http2 { trailers, .. } = &mut case.wire {
        trailers.push(("x-trailer", "1"));
    }
    case
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const TE: (&str, &str) = ("te", "trailers");

fn cases() -> Vec<Case> {
    vec![
        h2("direct", 200, "/direct", &[], b""),
        h2("no route", 404, "/none", &[], b""),
        h2("to HTTP/1", 200, "/h1/x?y=z", &[("x-a", "1")], b""),
        h2(
            "to HTTP/1 with a body",
            200,
            "/h1",
            &[("content-length", "5")],
            b"hello",
        ),
        h2("to HTTP/1 with a body of unknown length", 200, "/h1", &[], b"hello"),
        h2("to HTTP/2", 200, "/h2/x?y=z", &[("x-a", "1")], b""),
        h2("to HTTP/2 with a body", 200, "/h2", &[], b"hello"),
        with_trailers(h2("to HTTP/2 with trailers", 200, "/h2", &[], b"hello")),
        with_trailers(h2("to HTTP/1 with trailers", 200, "/h1", &[], b"hello")),
        h2("trailers back", 200, "/h2", &[("x-do", "trailer")], b""),
        h2("trailers back from HTTP/1", 200, "/h1", &[("x-do", "trailer")], b""),
        h2("cookies", 200, "/h1", &[("cookie", "a=1"), ("cookie", "b=2")], b""),
        h2("204", 204, "/h1", &[("x-do", "status=204")], b""),
        h2("early hints", 200, "/h1", &[("x-do", "early=103")], b""),
        h2("refused", 503, "/closed", &[], b""),
        h2("timeout", 504, "/short", &[("x-do", "hang")], b""),
        h2("cut", 200, "/h1", &[("x-do", "cut")], b""),
        h2("cut by HTTP/2", 503, "/h2", &[("x-do", "cut")], b""),
        h2("closed", 503, "/h1", &[("x-do", "reset")], b""),
        h2("gRPC", 200, "/grpc", &[GRPC, TE], b"\0\0\0\0\x02hi"),
        h2(
            "gRPC status",
            200,
            "/grpc",
            &[GRPC, TE, ("x-do", "grpc=5")],
            b"\0\0\0\0\0",
        ),
        h2("gRPC: no route", 200, "/none", &[GRPC, TE], b"\0\0\0\0\0"),
        // Whether the body has come when the connection fails is a matter of timing, and so are its stats.
        h2("gRPC: refused", 200, "/closed", &[GRPC, TE], b"\0\0\0\0\0").on("other"),
        h2("large answer", 200, "/h1", &[("x-do", "body=200000")], b""),
    ]
}
