//! HTTP/1 to the letter: framing, errors, versions, connections.

use super::{bootstrap, cluster, listener};
use crate::harness::{Case, World, get, raw};

const ROUTES: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {name: all, match: {prefix: /}, route: {cluster: a}}
"#;

pub fn world() -> World {
    let listeners = [
        listener("http", ROUTES),
        // What differs on purpose, so that the stats of the others can be equal.
        listener("odd", ROUTES),
        listener(
            "old",
            &format!("http_protocol_options: {{accept_http_10: true, enable_trailers: true}}\n{ROUTES}"),
        ),
        listener(
            "small",
            &format!(
                "max_request_headers_kb: 8\ncommon_http_protocol_options: {{max_headers_count: 10, max_requests_per_connection: 2}}\n{ROUTES}"
            ),
        ),
        listener(
            "upgrades",
            &format!("upgrade_configs: [{{upgrade_type: websocket}}, {{upgrade_type: other}}]\n{ROUTES}"),
        ),
        listener(
            "many",
            &format!("common_http_protocol_options: {{max_headers_count: 600}}\n{ROUTES}"),
        ),
    ];
    World {
        name: "codec",
        yaml: bootstrap(&listeners, &[cluster("a", &["{{a}}"], "")]),
        cases: cases()
            .into_iter()
            .chain(targets())
            .chain(expectations())
            .chain(handshakes())
            .collect(),
        stats: &[
            "http.http.downstream_cx_protocol",
            "http.http.downstream_rq",
            "http.small.downstream_rq",
            "http1.",
        ],
    }
}

fn post(name: &'static str, status: u16, headers_and_body: &str) -> Case {
    raw(
        name,
        status,
        &format!("POST /x HTTP/1.1\nhost: parity.test\n{headers_and_body}"),
    )
}

fn cases() -> Vec<Case> {
    let long = "y".repeat(61 * 1024);
    vec![
        post("content length", 200, "content-length: 5\n\nhello"),
        post(
            "chunked",
            200,
            "transfer-encoding: chunked\n\n5\nhello\n6;ext=1\n world\n0\n\n",
        ),
        post("chunked in capitals", 200, "Transfer-Encoding: Chunked\n\n1\nx\n0\n\n"),
        post(
            "trailers are dropped",
            200,
            "transfer-encoding: chunked\n\n1\nx\n0\nx-trailer: 1\n\n",
        ),
        post(
            "trailers are kept",
            200,
            "transfer-encoding: chunked\n\n1\nx\n0\nx-trailer: 1\n\n",
        )
        .on("old"),
        post("no body", 200, "\n"),
        post("empty body", 200, "content-length: 0\n\n"),
        post(
            "both lengths",
            400,
            "content-length: 5\ntransfer-encoding: chunked\n\n0\n\n",
        ),
        post("two lengths", 400, "content-length: 5\ncontent-length: 6\n\nhello!"),
        post("a length that is none", 400, "content-length: 5x\n\nhello"),
        post("a negative length", 400, "content-length: -1\n\n"),
        post("a coding that is unknown", 501, "transfer-encoding: gzip\n\n"),
        post(
            "a coding before chunked",
            501,
            "transfer-encoding: gzip, chunked\n\n0\n\n",
        ),
        post(
            "blanks behind a chunk size",
            200,
            "transfer-encoding: chunked\n\n5  \nhello\n6\t;ext=1\n world\n0 \n\n",
        ),
        post(
            "a blank before a chunk size",
            400,
            "transfer-encoding: chunked\n\n 5\nhello\n0\n\n",
        ),
        post(
            "trailers too large",
            431,
            &format!("transfer-encoding: chunked\n\n1\nx\n0\nx-trailer: {long}\n\n"),
        ),
        post(
            "many trailers that are dropped",
            200,
            &format!("transfer-encoding: chunked\n\n1\nx\n0\n{}\n", "t: 1\n".repeat(101)),
        ),
        post(
            "many trailers",
            431,
            &format!("transfer-encoding: chunked\n\n1\nx\n0\n{}\n", "t: 1\n".repeat(101)),
        )
        .on("old"),
        post("a chunk size that is none", 400, "transfer-encoding: chunked\n\nzz\n"),
        get("garbage in a name", 400, "/", "na me: x\n"),
        get("space before the colon", 400, "/", "name : x\n"),
        get("no colon", 400, "/", "name\n"),
        get("zero byte in a value", 400, "/", "name: a\0b\n"),
        get("folded header", 200, "/", "name: a\n b\n").on("odd"),
        raw("garbage", 400, "\u{1}\u{2}\u{3}\n\n"),
        raw("no version", 426, "GET /\n\n").on("odd"),
        raw("a version that is none", 426, "GET / HTTP/3.7\nhost: parity.test\n\n").on("odd"),
        raw("HTTP/1.0 refused", 426, "GET / HTTP/1.0\nhost: parity.test\n\n"),
        raw("HTTP/1.0", 200, "GET / HTTP/1.0\nhost: parity.test\n\n").on("old"),
        raw("HTTP/1.0 without host", 400, "GET / HTTP/1.0\n\n").on("old"),
        raw(
            "HTTP/1.0 kept alive",
            200,
            "GET / HTTP/1.0\nhost: parity.test\nconnection: keep-alive\n\n",
        )
        .on("old"),
        raw("no host", 400, "GET / HTTP/1.1\n\n"),
        raw("two hosts", 200, "GET / HTTP/1.1\nhost: a\nhost: b\n\n").on("odd"),
        raw("an empty host", 200, "GET / HTTP/1.1\nhost:\n\n"),
        raw("a host with a path in it", 400, "GET / HTTP/1.1\nhost: a/b\n\n"),
        raw(
            "an empty line first",
            200,
            "\nGET /direct HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "connect",
            404,
            "CONNECT parity.test:443 HTTP/1.1\nhost: parity.test:443\n\n",
        ),
        raw("head", 200, "HEAD / HTTP/1.1\nhost: parity.test\n\n"),
        raw(
            "head, chunked upstream",
            200,
            "HEAD / HTTP/1.1\nhost: parity.test\nx-do: chunked\n\n",
        ),
        get("relative target", 400, "noslash", ""),
        get("too many bytes of header", 431, "/", &format!("x-long: {long}\n")),
        get(
            "too many bytes for the small one",
            431,
            "/",
            &format!("x-long: {}\n", &long[..9000]),
        )
        .on("small"),
        get("too many headers", 431, "/", &"x-many: 1\n".repeat(12)).on("small"),
        get("underscore kept", 200, "/", "x_y: 1\n"),
        raw(
            "two in a row",
            200,
            "GET /direct HTTP/1.1\nhost: parity.test\n\nGET /direct HTTP/1.1\nhost: parity.test\n\n",
        )
        .answers(2),
        raw(
            "the last of a connection",
            200,
            "GET /direct HTTP/1.1\nhost: s\n\nGET /direct HTTP/1.1\nhost: s\n\n",
        )
        .on("small")
        .answers(2),
        get("close", 200, "/direct", "connection: close\n"),
        get("close, forwarded", 200, "/", "connection: close\n"),
        get("chunked answer", 200, "/", "x-do: chunked\n"),
        get("answer with trailers", 200, "/", "x-do: trailer\n"),
        get("answer with trailers kept", 200, "/", "x-do: trailer\nte: trailers\n").on("old"),
        get("204", 204, "/", "x-do: status=204\n"),
        get(
            "204 with a length",
            502,
            "/",
            "x-do: raw=HTTP/1.1 204 No Content\\ncontent-length: 3\\n\\nall\n",
        ),
        get(
            "204 with chunks",
            502,
            "/",
            "x-do: raw=HTTP/1.1 204 No Content\\ntransfer-encoding: chunked\\n\\n0\\n\\n\n",
        ),
        get("304", 304, "/", "x-do: status=304\n"),
        get("early hints", 200, "/", "x-do: early=103\n"),
        post("expect continue", 200, "expect: 100-continue\ncontent-length: 2\n\nhi"),
        get("upgrade refused", 403, "/", "connection: upgrade\nupgrade: websocket\n"),
        get(
            "upgrade to h2c is ignored",
            200,
            "/",
            "connection: upgrade, http2-settings\nupgrade: h2c\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\n",
        ),
        get("large answer", 200, "/", "x-do: body=100000\n"),
        get("until close", 200, "/", "x-do: raw=HTTP/1.1 200 OK\\n\\nall\n"),
    ]
}

/// Request lines, in all forms of a target.
fn targets() -> Vec<Case> {
    let to = |name, status, target: &str| raw(name, status, &format!("GET {target} HTTP/1.1\nhost: parity.test\n\n"));
    vec![
        to("absolute", 200, "http://other.test/x"),
        to("absolute in capitals", 200, "HTTP://OTHER.test/x"),
        to("absolute, no path", 200, "http://other.test"),
        to("absolute, a query and no path", 404, "http://other.test?x=/y"),
        to("absolute, a port", 200, "http://other.test:65535/x"),
        to("absolute, a port that is none", 400, "http://other.test:65536/x"),
        to("absolute, letters for a port", 400, "http://other.test:8x/x"),
        to("absolute, a colon and no port", 400, "http://other.test:/x"),
        to("absolute, a port and no host", 400, "http://:80/x"),
        to("absolute, nothing behind the scheme", 400, "http://"),
        to("absolute, no host", 400, "http:///x"),
        to("absolute, a user", 200, "http://user:word@other.test/x"),
        to("absolute, an empty user", 200, "http://@other.test/x"),
        to("absolute, two users", 400, "http://user@other.test@third.test/x"),
        to("absolute, an IPv6 address", 200, "http://[::1]:80/x"),
        to("absolute, half an IPv6 address", 400, "http://[::1/x"),
        to("absolute, an address that is none", 400, "http://[zz]/x"),
        to("absolute, another scheme", 400, "ftp://other.test/x"),
        to("absolute, a fragment", 400, "http://other.test/x#y"),
        to("absolute, a fragment and no path", 400, "http://other.test#y"),
        to("a query and no path", 400, "?x"),
        to("a fragment and no path", 400, "#x"),
        to("an asterisk", 400, "*"),
        to("an asterisk and more", 400, "*x"),
        raw("OPTIONS *", 404, "OPTIONS * HTTP/1.1\nhost: parity.test\n\n"),
        to("characters that a URI escapes", 200, "/x<y>?q=\"`").on("odd"),
        to("characters that are let pass", 200, "/x{y}|?q={z}\\^'"),
        raw(
            "connect without a port",
            400,
            "CONNECT parity.test HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw(
            "connect to a port that is none",
            400,
            "CONNECT parity.test:65536 HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw("connect to a path", 400, "CONNECT /x HTTP/1.1\nhost: parity.test\n\n"),
        raw(
            "a method that nobody knows",
            400,
            "BREW / HTTP/1.1\nhost: parity.test\n\n",
        ),
        raw("QUERY of nothing", 400, "QUERY / HTTP/1.1\nhost: parity.test\n\n"),
        raw(
            "QUERY",
            200,
            "QUERY / HTTP/1.1\nhost: parity.test\ncontent-type: text/plain\ncontent-length: 1\n\nx",
        ),
        raw("HTTP/1.2", 426, "GET / HTTP/1.2\nhost: parity.test\n\n"),
        raw("HTTP/1.1 and more", 400, "GET / HTTP/1.1x\nhost: parity.test\n\n"),
        raw("HTTP in lower case", 400, "GET / http/1.1\nhost: parity.test\n\n"),
        get("more headers than most allow", 200, "/direct", &many(300)).on("many"),
        get("more headers than are allowed", 431, "/direct", &many(700)).on("many"),
        get(
            "an answer with many headers",
            502,
            "/",
            &format!(
                "x-do: raw=HTTP/1.1 200 OK\\n{}content-length: 0\\n\\n\n",
                many(300).replace('\n', "\\n")
            ),
        ),
    ]
}

fn many(count: usize) -> String {
    (0..count).map(|number| format!("x{number}: 1\n")).collect()
}

/// `expect: 100-continue`, with a body and without.
fn expectations() -> Vec<Case> {
    let from_old = |name, headers_and_body: &str| {
        raw(
            name,
            200,
            &format!("POST /x HTTP/1.0\nhost: parity.test\nexpect: 100-continue\n{headers_and_body}"),
        )
        .on("old")
    };
    vec![
        get("expect without a body", 200, "/", "expect: 100-continue\n"),
        post(
            "expect with an empty body",
            200,
            "expect: 100-continue\ncontent-length: 0\n\n",
        ),
        post("expect something else", 200, "expect: 200-ok\ncontent-length: 2\n\nhi"),
        post(
            "expect more",
            200,
            "expect: 100-continue, more\ncontent-length: 2\n\nhi",
        ),
        from_old("expect by HTTP/1.0", "content-length: 2\n\nhi"),
        from_old("expect by HTTP/1.0 without a body", "\n"),
    ]
}

/// Upgrades that the upstream answers otherwise.
fn handshakes() -> Vec<Case> {
    const WEBSOCKET: &str = "connection: upgrade\nupgrade: websocket\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-version: 13\n";
    let asks =
        |name, status: u16| get(name, status, "/", &format!("{WEBSOCKET}x-do: status={status}\n")).on("upgrades");
    vec![
        asks("a websocket, answered by 200", 200),
        asks("a websocket, answered by 204", 204),
        asks("a websocket, answered by a redirect", 302),
        asks("a websocket, refused", 403),
        asks("a websocket, failed", 500),
        get(
            "another upgrade, answered by 200",
            200,
            "/",
            "connection: upgrade\nupgrade: other\nx-do: status=200\n",
        )
        .on("upgrades"),
    ]
}
