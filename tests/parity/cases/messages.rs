//! HTTP/1 messages by the table: methods, statuses, framing of both sides, bytes where they do not belong.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, named, raw};

const ROUTES: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {name: empty, match: {prefix: /empty}, direct_response: {status: 204}}
    - {name: moved, match: {prefix: /moved}, redirect: {path_redirect: /there}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let trailers = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": \
                    type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
                    explicit_http_config: {http_protocol_options: {enable_trailers: true}}";
    let listeners = [
        listener("http", ROUTES),
        listener(
            "trailers",
            &format!(
                "http_protocol_options: {{enable_trailers: true}}\n{}",
                ROUTES.replace("cluster: a", "cluster: trailers")
            ),
        ),
        listener("interim", &format!("proxy_100_continue: true\n{ROUTES}")),
    ];
    let clusters = [cluster("a", &["{{a}}"], ""), cluster("trailers", &["{{a}}"], trailers)];
    World {
        name: "messages",
        yaml: bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &["http.http.downstream_rq", "http.interim.downstream_rq"],
    }
}

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND",
];

const STATUSES: [u16; 34] = [
    200, 201, 202, 203, 206, 207, 208, 226, 299, 300, 301, 302, 307, 308, 400, 401, 403, 405, 409, 410, 413, 418, 421,
    422, 425, 429, 431, 451, 499, 501, 502, 505, 508, 511,
];

/// Header lines, and what Envoy answers to a POST of `hello` with them.
const FRAMINGS: &[(&str, u16)] = &[
    ("content-length: 5\ncontent-length: 5", 400),
    ("content-length: 5, 5", 400),
    ("content-length: +5", 400),
    ("content-length: 5 5", 400),
    ("content-length: 99999999999999999999", 400),
    ("content-length: 0x5", 400),
    ("transfer-encoding: identity", 501),
    ("transfer-encoding: chunked, chunked", 501),
    ("transfer-encoding: chunked;q=1", 501),
    ("transfer-encoding: chunked\ntransfer-encoding: chunked", 501),
    ("transfer-encoding: xchunked", 501),
];

/// Bodies of a chunked POST, and what Envoy answers.
const CHUNKS: &[(&str, u16)] = &[
    ("5\nhello\n0\n\n", 200),
    ("05\nhello\n0\n\n", 200),
    ("A\n0123456789\n0\n\n", 200),
    ("5;name=value\nhello\n0\n\n", 200),
    ("1\nh\n1\ne\n0\n\n", 200),
    ("0\n\n", 200),
    ("-5\nhello\n0\n\n", 400),
    ("0x5\nhello\n0\n\n", 400),
    ("g\nhello\n0\n\n", 400),
    ("ffffffffffffffffff\nhello\n0\n\n", 400),
];

/// Answers of an upstream, and what the client gets.
const ANSWERS: &[(&str, u16)] = &[
    ("HTTP/1.1 200 OK\\ncontent-length: 2\\n\\nok", 200),
    ("HTTP/1.1 200\\ncontent-length: 2\\n\\nok", 200),
    ("HTTP/1.1 200 A Reason Of Its Own\\ncontent-length: 2\\n\\nok", 200),
    ("HTTP/1.0 200 OK\\ncontent-length: 2\\n\\nok", 200),
    ("HTTP/1.0 200 OK\\n\\nall of it", 200),
    ("HTTP/1.1 200 OK\\nconnection: close\\n\\nall of it", 200),
    (
        "HTTP/1.1 200 OK\\ntransfer-encoding: chunked\\n\\n2\\nok\\n0\\n\\n",
        200,
    ),
    (
        "HTTP/1.1 200 OK\\ntransfer-encoding: chunked\\n\\n2\\nok\\n0\\nx-trailer: 1\\n\\n",
        200,
    ),
    ("HTTP/1.1 204 No Content\\n\\n", 204),
    ("HTTP/1.1 304 Not Modified\\ncontent-length: 20\\n\\n", 304),
    ("HTTP/1.1 200 OK\\ncontent-length: 0\\n\\n", 200),
    ("HTTP/1.1 200 OK\\nx-empty:\\ncontent-length: 2\\n\\nok", 200),
    ("HTTP/1.1 200 OK\\nX-Capital: Value\\nContent-Length: 2\\n\\nok", 200),
    (
        "HTTP/1.1 200 OK\\nset-cookie: a=1\\nset-cookie: b=2\\ncontent-length: 2\\n\\nok",
        200,
    ),
    ("HTTP/1.1 200 OK\\ncontent-length: 2\\ncontent-length: 3\\n\\nok", 502),
    ("HTTP/1.1 200 OK\\ncontent-length: x\\n\\nok", 502),
    ("HTTP/1.1 200 OK\\ntransfer-encoding: gzip\\n\\nok", 502),
    ("HTTP/1.1 200 OK\\nno colon\\n\\nok", 502),
    ("HTTP/1.1 200 OK\\ncontent-le", 502),
    ("HTTP/1.1 abc OK\\n\\n", 502),
    ("nonsense", 502),
];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for method in METHODS {
        for (target, what) in [
            ("/direct", "direct"),
            ("/empty", "no content"),
            ("/moved", "redirect"),
            ("/x", "proxied"),
        ] {
            let status = match target {
                "/empty" => 204,
                "/moved" => 301,
                _ => 200,
            };
            let name = named(format!("{method}, {what}"));
            cases.push(raw(
                name,
                status,
                &format!("{method} {target} HTTP/1.1\nhost: parity.test\n\n"),
            ));
        }
    }
    for status in STATUSES {
        cases.push(get(
            named(format!("status {status}")),
            status,
            "/",
            &format!("x-do: status={status}\n"),
        ));
    }
    for (lines, status) in FRAMINGS {
        let name = named(format!("framing {lines:?}"));
        cases.push(raw(
            name,
            *status,
            &format!("POST /x HTTP/1.1\nhost: parity.test\n{lines}\n\nhello"),
        ));
    }
    for (chunks, status) in CHUNKS {
        let name = named(format!("chunks {chunks:?}"));
        cases.push(raw(
            name,
            *status,
            &format!("POST /x HTTP/1.1\nhost: parity.test\ntransfer-encoding: chunked\n\n{chunks}"),
        ));
    }
    for (answer, status) in ANSWERS {
        cases.push(get(
            named(format!("answer {answer}")),
            *status,
            "/",
            &format!("x-do: raw={answer}\n"),
        ));
    }
    for byte in ['\u{1}', '\u{b}', '\u{1f}', '\u{7f}'] {
        cases.push(get(
            named(format!("byte {byte:?} in a value")),
            400,
            "/",
            &format!("name: a{byte}b\n"),
        ));
        cases.push(get(
            named(format!("byte {byte:?} in a name")),
            400,
            "/",
            &format!("na{byte}me: ab\n"),
        ));
    }
    for byte in ['(', '/', '@', '{', '"'] {
        cases.push(get(
            named(format!("{byte} in a name")),
            400,
            "/",
            &format!("na{byte}me: ab\n"),
        ));
    }
    cases.extend([
        get("a tab in a value", 200, "/", "name: a\tb\n"),
        raw(
            "trailers all the way",
            200,
            "POST /x HTTP/1.1\nhost: parity.test\ntransfer-encoding: chunked\n\n1\nx\n0\nx-trailer: 1\n\n",
        )
        .on("trailers"),
        get("trailers all the way back", 200, "/", "x-do: trailer\nte: trailers\n").on("trailers"),
        get("early hints go on", 200, "/", "x-do: early=103\n").on("interim"),
        raw(
            "an expectation goes on",
            200,
            "POST /x HTTP/1.1\nhost: parity.test\nexpect: 100-continue\ncontent-length: 2\n\nhi",
        )
        .on("interim"),
        raw(
            "another expectation",
            200,
            "POST /x HTTP/1.1\nhost: parity.test\nexpect: more\ncontent-length: 2\n\nhi",
        ),
        raw(
            "a body that is not read",
            200,
            "POST /direct HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhello",
        ),
        raw(
            "no host, with a body",
            400,
            "POST /direct HTTP/1.1\ncontent-length: 5\n\nhello",
        ),
        raw(
            "an absolute target without a path",
            200,
            "GET http://other.test HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "https without TLS",
            200,
            "GET https://other.test/ HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "another scheme",
            400,
            "GET ftp://other.test/ HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "user info in the target",
            200,
            "GET http://me@other.test/ HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw("two targets", 400, "GET /a /b HTTP/1.1\nhost: parity.test\n\n"),
        raw("lower-case method", 400, "get / HTTP/1.1\nhost: parity.test\n\n"),
        raw(
            "a method that nobody knows",
            400,
            "FROBNICATE / HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw("a method with a bracket", 400, "G[T / HTTP/1.1\nhost: parity.test\n\n"),
        raw("host with a port", 200, "GET / HTTP/1.1\nhost: parity.test:8080\n\n"),
        raw("host with user info", 200, "GET / HTTP/1.1\nhost: me@parity.test\n\n"),
        raw("host with a blank", 400, "GET / HTTP/1.1\nhost: a b\n\n"),
    ]);
    cases
}
