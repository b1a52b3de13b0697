//! The table of failures, row by row: what provokes it, for a client that is answered in HTTP and for one that is answered in gRPC.

use remora_tests::frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, frame, literal};

use super::failures::DETECTS;
use super::{bootstrap, cluster, listener};
use crate::harness::{Case, Wire, World, get, named, raw};
use crate::tcp::Step;

const RUNTIME: &str = "node: {id: rows, cluster: rows}\nlayered_runtime: {layers: [{name: base, static_layer: {upstream.maintenance_mode.worked-upon: 100}}]}\n";

const ROUTES: &str = r#"
route_config:
  name: routes
  validate_clusters: false
  virtual_hosts:
  - name: all
    domains: ["*"]
    include_request_attempt_count: true
    routes:
    - {name: nobody, match: {prefix: /nobody}, route: {cluster: nobody}}
    - {name: nobody-404, match: {prefix: /no404}, route: {cluster: nobody, cluster_not_found_response_code: NOT_FOUND}}
    - {name: nobody-500, match: {prefix: /no500}, route: {cluster: nobody, cluster_not_found_response_code: INTERNAL_SERVER_ERROR}}
    - {name: worked-upon, match: {prefix: /worked-upon}, route: {cluster: worked-upon}}
    - {name: dropped, match: {prefix: /dropped}, route: {cluster: dropped}}
    - {name: shed, match: {prefix: /shed}, route: {cluster: shed}}
    - {name: closed, match: {prefix: /closed}, route: {cluster: closed}}
    - {name: again, match: {prefix: /again}, route: {cluster: closed, retry_policy: {retry_on: connect-failure, num_retries: 1, retry_back_off: {base_interval: 0.001s}}}}
    - {name: empty, match: {prefix: /empty}, route: {cluster: empty}}
    - {name: full, match: {prefix: /full}, route: {cluster: full}}
    - {name: crowded, match: {prefix: /crowded}, route: {cluster: crowded}}
    - {name: deaf, match: {prefix: /deaf}, route: {cluster: deaf}}
    - {name: short, match: {prefix: /short}, route: {cluster: a, timeout: 0.1s}}
    - {name: per-try, match: {prefix: /per-try}, route: {cluster: a, timeout: 5s, retry_policy: {retry_on: connect-failure, per_try_timeout: 0.1s}}}
    - {name: per-try-idle, match: {prefix: /idle-try}, route: {cluster: a, timeout: 5s, retry_policy: {retry_on: connect-failure, per_try_idle_timeout: 0.1s}}}
    - {name: long-stream, match: {prefix: /long-stream}, route: {cluster: brief, timeout: 5s}}
    - {name: bounded, match: {prefix: /bounded}, route: {cluster: a, timeout: 5s, max_stream_duration: {max_stream_duration: 0.1s}}}
    - {name: idle, match: {prefix: /idle}, route: {cluster: a, timeout: 5s, idle_timeout: 0.2s}}
    - {name: later, match: {prefix: /later}, request_body_buffer_limit: 4, route: {cluster: closed, timeout: 5s, retry_policy: {retry_on: connect-failure, num_retries: 1, retry_back_off: {base_interval: 1000s, max_interval: 1000s}}}}
    - {name: moved, match: {prefix: /moved}, route: {cluster: a, internal_redirect_policy: {}}}
    - {name: direct, match: {prefix: /direct}, direct_response: {status: 204}}
    - {name: h2, match: {prefix: /h2}, route: {cluster: h2}}
    - {name: all, match: {path: /}, route: {cluster: a}}
    - {name: all of x, match: {prefix: /x}, route: {cluster: a}}
"#;

/// Nobody delivers the routes.
const RDS: &str = r#"
rds:
  route_config_name: late
  config_source:
    resource_api_version: V3
    initial_fetch_timeout: 0.1s
    api_config_source: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: nowhere}}]}
"#;

const AUTHZ: &str = r#"          http_filters:
          - name: authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              with_request_body: {max_request_bytes: 4}
              grpc_service: {envoy_grpc: {cluster_name: authz}}
"#;

const HTTP2_STREAM: &str = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    common_http_protocol_options: {max_stream_duration: 0.1s}\n    explicit_http_config: {http_protocol_options: {}}";

fn drops(name: &str, numerator: u32) -> String {
    let policy = format!(
        "      policy: {{drop_overloads: [{{category: drop_overload, drop_percentage: {{numerator: {numerator}, denominator: MILLION}}}}]}}\n      endpoints:\n"
    );
    cluster(name, &["{{a}}"], "").replace("      endpoints:\n", &policy)
}

pub fn world() -> World {
    let with = |name: &str, fields: &str| listener(name, &format!("{fields}\n{ROUTES}"));
    let listeners = [
        listener("http", ROUTES),
        listener("late", RDS),
        with("heads", "request_headers_timeout: 0.2s"),
        with("whole", "request_timeout: 0.2s"),
        with(
            "lenient",
            "http2_protocol_options: {override_stream_error_on_invalid_http_message: true}",
        ),
        with("detects", DETECTS),
        with(
            "strict",
            "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST, max_headers_count: 10}\nmax_request_headers_kb: 8\n\
             normalize_path: true\npath_with_escaped_slashes_action: REJECT_REQUEST",
        ),
        listener("authz", ROUTES).replace("          http_filters:\n", AUTHZ),
    ];
    let clusters = [
        cluster("a", &["{{a}}"], ""),
        cluster("h2", &["{{a}}"], super::HTTP2),
        cluster("closed", &["{{closed}}"], ""),
        cluster("nowhere", &["{{closed}}"], super::HTTP2),
        cluster("authz", &["{{authz}}"], super::HTTP2),
        cluster("worked-upon", &["{{a}}"], ""),
        cluster("empty", &[], ""),
        cluster(
            "full",
            &["{{a}}"],
            "circuit_breakers: {thresholds: [{max_pending_requests: 0, max_requests: 0, max_connections: 0}]}",
        ),
        cluster(
            "crowded",
            &["{{a}}"],
            "circuit_breakers: {thresholds: [{max_requests: 0}]}",
        ),
        cluster("deaf", &["{{deaf}}"], "").replace("connect_timeout: 1s", "connect_timeout: 0.2s"),
        cluster("brief", &["{{a}}"], HTTP2_STREAM),
        drops("dropped", 1_000_000),
        drops("shed", 999_999),
    ];
    World {
        name: "rows",
        yaml: RUNTIME.to_owned() + &bootstrap(&listeners, &clusters),
        cases: cases(),
        stats: &[
            "cluster.worked-upon.upstream_rq",
            "cluster.shed.upstream_rq",
            "cluster.dropped.upstream_rq",
            "cluster.full.upstream_rq",
            "cluster.crowded.upstream_rq",
            "cluster.brief.upstream_rq",
        ],
    }
}

/// The same request by HTTP and by gRPC; `statuses` are theirs.
fn both(name: &'static str, statuses: [u16; 2], path: &str, headers: &str) -> Vec<Case> {
    let grpc = format!("{headers}content-type: application/grpc\n");
    vec![
        get(name, statuses[0], path, headers),
        get(named(format!("{name}, to gRPC")), statuses[1], path, &grpc),
    ]
}

/// A whole text, and with a line that says gRPC behind its `host`.
fn both_raw(name: &'static str, statuses: [u16; 2], text: &str) -> Vec<Case> {
    let grpc = text.replacen(
        "\nhost: parity.test\n",
        "\nhost: parity.test\ncontent-type: application/grpc\n",
        1,
    );
    assert_ne!(text, grpc, "{name}");
    vec![
        raw(name, statuses[0], text),
        raw(named(format!("{name}, to gRPC")), statuses[1], &grpc),
    ]
}

fn on(listener: &'static str, cases: Vec<Case>) -> Vec<Case> {
    cases.into_iter().map(|case| case.on(listener)).collect()
}

/// A request that says this, over HTTP/2; `end` are the flags of its head.
fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let pseudo = [
        (":method", method),
        (":scheme", "http"),
        (":path", path),
        (":authority", "parity.test"),
    ];
    for (name, value) in pseudo.iter().chain(headers) {
        literal(&mut block, name, value);
    }
    block
}

fn get_frame(stream: u32, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head("GET", path, headers))
}

fn h2(name: &'static str, frames: u16, written: Vec<crate::harness::Written>) -> Case {
    Case {
        name,
        listener: "http",
        wire: Wire::Frames(written),
        status: frames,
        logs: 1,
        seen: 0,
    }
}

fn cases() -> Vec<Case> {
    [upstream(), timeouts(), clients(), broken(), over_http2()].concat_cases()
}

trait Concat {
    fn concat_cases(self) -> Vec<Case>;
}

impl<const N: usize> Concat for [Vec<Vec<Case>>; N] {
    fn concat_cases(self) -> Vec<Case> {
        self.into_iter().flatten().flatten().collect()
    }
}

/// Routing, and what upstreams do.
fn upstream() -> Vec<Vec<Case>> {
    vec![
        both("no route", [404, 200], "/none", ""),
        on("late", both("no routes", [404, 200], "/", "")),
        both("no cluster", [503, 200], "/nobody", ""),
        both("no cluster, 404", [404, 200], "/no404", ""),
        both("no cluster, 500", [500, 200], "/no500", ""),
        both("maintenance", [503, 200], "/worked-upon", ""),
        both("all dropped", [503, 200], "/dropped", ""),
        both("almost all dropped", [503, 200], "/shed", ""),
        both("no host", [503, 200], "/empty", ""),
        both("a breaker", [503, 200], "/full", ""),
        both("too many requests", [503, 200], "/crowded", ""),
        both("refused", [503, 200], "/closed", ""),
        both("refused again", [503, 200], "/again", ""),
        both("not taken", [503, 200], "/deaf", ""),
        both("closed", [503, 200], "/", "x-do: reset\n"),
        both("reset over TCP", [503, 200], "/", "x-do: abort\n"),
        both("reset over HTTP/2", [503, 200], "/h2", "x-do: abort\n"),
        both("refused over HTTP/2", [503, 200], "/h2", "x-do: reset\n"),
        both("nonsense", [502, 200], "/", "x-do: raw=nonsense\\n\\n\n"),
        both(
            "followed",
            [503, 200],
            "/moved",
            "x-do: status=302,header=location:http://parity.test/empty\n",
        )
        .into_iter()
        .map(|case| case.logs(2))
        .collect(),
    ]
}

fn timeouts() -> Vec<Vec<Case>> {
    let upload = "POST /x HTTP/1.1\nhost: parity.test\ncontent-length: 5\n\nhe";
    vec![
        both("too slow", [504, 200], "/short", "x-do: hang\n"),
        both(
            "too slow, as nobody may know",
            [504, 200],
            "/short",
            "x-do: hang\nx-envoy-upstream-rq-timeout-alt-response: 1\n",
        ),
        both("a try too slow", [504, 200], "/per-try", "x-do: hang\n"),
        both("a try that says nothing", [504, 200], "/idle-try", "x-do: hang\n"),
        both(
            "a stream to the upstream too long",
            [504, 200],
            "/long-stream",
            "x-do: hang\n",
        ),
        both("a stream too long", [504, 200], "/bounded", "x-do: hang\n"),
        both_raw(
            "a request and stream too long",
            [408, 200],
            &upload.replace("/x", "/bounded"),
        ),
        vec![raw(
            "a request and stream to the upstream too long",
            408,
            &upload.replace("/x", "/long-stream"),
        )],
        both("an idle stream", [504, 200], "/idle", "x-do: hang\n"),
        both_raw("an idle request", [408, 200], &upload.replace("/x", "/idle")),
        on("whole", both_raw("a request too slow", [408, 200], upload)),
        vec![raw("a head too slow", 408, "GET / HTTP/1.1\nhost: par").on("heads")],
    ]
}

/// What clients do, and ask for.
fn clients() -> Vec<Vec<Case>> {
    const STALL: &[u8] = b"GET /x HTTP/1.1\r\nhost: parity.test\r\nx-do: stall\r\n\r\n";
    let leaves = |name: &'static str, steps: &'static [Step]| Case {
        wire: Wire::Tcp(steps),
        ..get(name, 8, "/x", "")
    };
    vec![
        vec![leaves("a client that leaves", &[Step::Send(STALL), Step::Read(8)])],
        both(
            "no upgrade",
            [403, 200],
            "/x",
            "connection: upgrade\nupgrade: websocket\n",
        ),
        on(
            "authz",
            both_raw(
                "too much to be asked for",
                [413, 200],
                &format!(
                    "POST /x HTTP/1.1\nhost: parity.test\nx: {}\ncontent-length: 8\n\n12345678",
                    "y".repeat(100)
                ),
            ),
        ),
        on("detects", both("nobody's address", [401, 200], "/x", "")),
        on("strict", both("a slash in disguise", [400, 200], "/a%2fb", "")),
        both(
            "an absolute target without a path",
            [404, 200],
            "http://parity.test?x=/y",
            "",
        ),
        vec![raw("QUERY of nothing", 400, "QUERY /x HTTP/1.1\nhost: parity.test\n\n")],
    ]
}

/// Requests that are none.
fn broken() -> Vec<Vec<Case>> {
    let post = |more: &str| format!("POST /x HTTP/1.1\nhost: parity.test\n{more}");
    vec![
        both_raw(
            "two lengths",
            [400, 400],
            &post("content-length: 5\ntransfer-encoding: chunked\n\n0\n\n"),
        ),
        both_raw("a coding of nobody", [501, 501], &post("transfer-encoding: gzip\n\n")),
        both_raw(
            "a chunk that is none",
            [400, 200],
            &post("transfer-encoding: chunked\n\nzz\n"),
        ),
        both_raw("a zero in a value", [400, 400], &post("x: a\0b\n\n")),
        both_raw("a name with a blank", [400, 400], &post("na me: x\n\n")),
        both_raw(
            "a port that is none",
            [400, 400],
            "GET http://parity.test:65536/x HTTP/1.1\nhost: parity.test\n\n",
        ),
        both_raw(
            "a scheme of others",
            [400, 400],
            "GET ftp://x/ HTTP/1.1\nhost: parity.test\n\n",
        ),
        both_raw("an old version", [426, 426], "GET / HTTP/1.0\nhost: parity.test\n\n"),
        vec![
            raw("no host at all", 400, "GET / HTTP/1.1\n\n"),
            raw(
                "a tunnel with a body",
                400,
                "CONNECT parity.test:80 HTTP/1.1\nhost: parity.test:80\ncontent-length: 3\n\n",
            ),
            raw(
                "a tunnel in chunks",
                501,
                "CONNECT parity.test:80 HTTP/1.1\nhost: parity.test:80\ntransfer-encoding: chunked\n\n",
            ),
            raw("a host that is none", 400, "GET / HTTP/1.1\nhost: a/b\n\n"),
            raw(
                "nobody asked, to gRPC",
                200,
                "GET / HTTP/1.1\ncontent-type: application/grpc\n\n",
            ),
        ],
        on("strict", both("an underscore", [400, 400], "/x", "x_y: 1\n")),
        on(
            "strict",
            both("many headers", [431, 431], "/x", &"x-many: 1\n".repeat(12)),
        ),
        on(
            "strict",
            both("long headers", [431, 431], "/x", &format!("x: {}\n", "y".repeat(9000))),
        ),
    ]
}

/// What can be said over HTTP/2 alone.
fn over_http2() -> Vec<Vec<Case>> {
    use crate::harness::Written::{Bytes, Pause, Until};
    let reset = || Bytes(frame(RST_STREAM, 0, 1, &8u32.to_be_bytes()));
    // Who answers it has seen all that came before.
    let ping = || [Bytes(frame(PING, 0, 0, &[0; 8])), Until(PING)];
    let one = |name, headers: &[(&str, &str)]| h2(name, 1, vec![Bytes(get_frame(1, "/x", headers)), Until(RST_STREAM)]);
    let begun = |path, headers: &[(&str, &str)]| Bytes(frame(HEADERS, END_HEADERS, 1, &head("POST", path, headers)));
    let data = |flags, bytes: &[u8]| Bytes(frame(DATA, flags, 1, bytes));
    let many: Vec<(&str, &str)> = vec![("x-many", "1"); 12];
    let long = "y".repeat(9000);
    let hang = || Bytes(get_frame(1, "/x", &[("x-do", "hang")]));
    let later = |name, headers: &[(&str, &str)]| {
        let [asks, told] = ping();
        let written = vec![
            begun("/later", headers),
            asks,
            told,
            // The first attempt fails, the next is far away.
            Pause(200),
            data(0, b"12345678"),
            Until(DATA),
        ];
        h2(name, 2, written)
    };
    let [asks, told] = ping();
    let [again_asks, again_told] = ping();
    let [flood_asks, flood_told] = ping();
    vec![vec![
        h2(
            "a stream that its client resets",
            0,
            vec![hang(), asks, told, reset(), again_asks, again_told],
        ),
        h2(
            "an answer that its client resets",
            1,
            vec![Bytes(get_frame(1, "/x", &[("x-do", "stall")])), Until(HEADERS), reset()],
        ),
        one("a length twice", &[("content-length", "0"), ("content-length", "0")]).on("lenient"),
        Case {
            status: 0,
            ..one(
                "a length twice, by default",
                &[("content-length", "0"), ("content-length", "0")],
            )
        },
        one("a header of one hop", &[("connection", "close")]).on("lenient"),
        h2(
            "a path that is none",
            1,
            vec![Bytes(get_frame(1, "x", &[])), Until(RST_STREAM)],
        )
        .on("lenient"),
        one("an underscore over HTTP/2", &[("x_y", "1")]).on("strict"),
        one("many headers over HTTP/2", &many).on("strict"),
        one("long headers over HTTP/2", &[("x", &long)]).on("strict"),
        h2(
            "a fragment over HTTP/2",
            1,
            vec![Bytes(get_frame(1, "/direct#y", &[])), Until(HEADERS)],
        ),
        h2(
            "empty frames",
            0,
            vec![
                begun("/x", &[]),
                flood_asks,
                flood_told,
                Bytes(frame(DATA, 0, 1, &[]).repeat(10)),
                Until(GOAWAY),
            ],
        ),
        h2(
            "a body of another length",
            1,
            vec![
                begun("/x", &[("content-length", "5")]),
                data(END_STREAM, b"no"),
                Until(RST_STREAM),
            ],
        ),
        later("too much to be sent again", &[]),
        later(
            "too much to be sent again, to gRPC",
            &[("content-type", "application/grpc")],
        ),
    ]]
}
