//! Every row of the table of failures is provoked beside the real Envoy, or it is said why that cannot be.

use std::collections::BTreeSet;
use std::path::Path;

use http::StatusCode;
use remora::http::failure::Failure;

use crate::harness::World;

/// How it is shown that a row is Envoy's.
enum Shown {
    /// By these cases (`world/case`): Envoy's log of each has the row's details and flags.
    By(&'static [&'static str]),
    /// Not here, and why.
    Elsewhere(&'static str),
}

fn bad(details: &'static str) -> Failure {
    let status = StatusCode::BAD_REQUEST;
    Failure::BadRequest { details, status }
}

/// The rows. Of what the client broke, one for each of the reasons that Envoy knows.
fn rows() -> Vec<(Failure, Shown)> {
    use Shown::{By, Elsewhere};
    let not_found = StatusCode::NOT_FOUND;
    vec![
        (
            Failure::RouteNotFound,
            By(&[
                "rows/no route",
                "rows/no route, to gRPC",
                "rows/no routes",
                "rows/no routes, to gRPC",
            ]),
        ),
        (
            Failure::ClusterNotFound(StatusCode::SERVICE_UNAVAILABLE),
            By(&["rows/no cluster", "rows/no cluster, to gRPC"]),
        ),
        (
            Failure::ClusterNotFound(not_found),
            By(&["rows/no cluster, 404", "rows/no cluster, 500"]),
        ),
        (
            Failure::MaintenanceMode,
            By(&["rows/maintenance", "rows/maintenance, to gRPC"]),
        ),
        (
            Failure::NoHealthyUpstream,
            By(&["rows/no host", "rows/no host, to gRPC"]),
        ),
        (
            Failure::Overflow,
            By(&["rows/too many requests", "rows/too many requests, to gRPC"]),
        ),
        (
            Failure::QueueOverflow,
            By(&["rows/a breaker", "rows/a breaker, to gRPC"]),
        ),
        (
            Failure::DropOverload { all: true },
            By(&["rows/all dropped", "rows/all dropped, to gRPC"]),
        ),
        (
            Failure::DropOverload { all: false },
            By(&["rows/almost all dropped", "rows/almost all dropped, to gRPC"]),
        ),
        (
            Failure::ConnectFailure(None),
            By(&["rows/refused", "rows/refused, to gRPC", "rows/refused again"]),
        ),
        (
            Failure::BindFailure(String::new()),
            Elsewhere("what a connect says of an address that cannot be bound: a test beside it has Envoy's words"),
        ),
        (
            Failure::ConnectTimeout,
            By(&["rows/not taken", "rows/not taken, to gRPC"]),
        ),
        (
            Failure::ConnectionTermination,
            By(&["rows/closed", "rows/closed, to gRPC", "rows/reset over TCP"]),
        ),
        (
            Failure::RemoteReset,
            By(&["rows/reset over HTTP/2", "rows/reset over HTTP/2, to gRPC"]),
        ),
        (
            Failure::RemoteRefused,
            By(&["rows/refused over HTTP/2", "rows/refused over HTTP/2, to gRPC"]),
        ),
        (
            Failure::LocalReset,
            Elsewhere("a stream that breaks within the proxy itself; no peer can ask for it"),
        ),
        (
            Failure::ProtocolError(""),
            By(&["rows/nonsense", "rows/nonsense, to gRPC"]),
        ),
        (
            Failure::ResponseTimeout,
            By(&["rows/too slow", "rows/too slow, to gRPC"]),
        ),
        (
            Failure::PerTryTimeout,
            By(&["rows/a try too slow", "rows/a try too slow, to gRPC"]),
        ),
        (
            Failure::PerTryIdleTimeout,
            By(&["rows/a try that says nothing", "rows/a try that says nothing, to gRPC"]),
        ),
        (
            Failure::MaxStreamDuration { request_complete: true },
            By(&[
                "rows/a stream to the upstream too long",
                "rows/a stream to the upstream too long, to gRPC",
            ]),
        ),
        (
            Failure::MaxStreamDuration {
                request_complete: false,
            },
            By(&["rows/a request and stream to the upstream too long"]),
        ),
        (
            Failure::StreamIdleTimeout { request_complete: true },
            By(&["rows/an idle stream", "rows/an idle stream, to gRPC"]),
        ),
        (
            Failure::StreamIdleTimeout {
                request_complete: false,
            },
            By(&["rows/an idle request", "rows/an idle request, to gRPC"]),
        ),
        (
            Failure::StreamDuration { request_complete: true },
            By(&["rows/a stream too long", "rows/a stream too long, to gRPC"]),
        ),
        (
            Failure::StreamDuration {
                request_complete: false,
            },
            By(&[
                "rows/a request and stream too long",
                "rows/a request and stream too long, to gRPC",
            ]),
        ),
        (
            Failure::RequestTimeout,
            By(&["rows/a request too slow", "rows/a request too slow, to gRPC"]),
        ),
        (Failure::RequestHeadersTimeout, By(&["rows/a head too slow"])),
        (Failure::DownstreamDisconnect, By(&["rows/a client that leaves"])),
        (Failure::DownstreamReset, By(&["rows/a stream that its client resets"])),
        (
            Failure::DrainOver,
            Elsewhere(
                "listeners drain when they are updated: http/codec/h1/tests/server.rs and http/codec/h2/tests/server.rs",
            ),
        ),
        (
            Failure::UpgradeFailed,
            By(&["rows/no upgrade", "rows/no upgrade, to gRPC"]),
        ),
        (
            Failure::PayloadTooLarge,
            By(&[
                "rows/too much to be asked for",
                "rows/too much to be asked for, to gRPC",
            ]),
        ),
        (
            Failure::RetryBufferExceeded,
            By(&[
                "rows/too much to be sent again",
                "rows/too much to be sent again, to gRPC",
            ]),
        ),
        (Failure::InternalRedirect(StatusCode::FOUND), By(&["rows/followed"])),
        (
            bad("http1.content_length_and_chunked_not_allowed"),
            By(&["rows/two lengths", "rows/two lengths, to gRPC"]),
        ),
        (bad("http1.invalid_transfer_encoding"), By(&["rows/a coding of nobody"])),
        (
            bad("http1.codec_error"),
            By(&["rows/a chunk that is none", "rows/a name with a blank"]),
        ),
        (bad("http1.body_disallowed"), By(&["rows/a tunnel with a body"])),
        (bad("http1.invalid_characters"), By(&["rows/a zero in a value"])),
        (bad("http1.invalid_url"), By(&["rows/a port that is none"])),
        (bad("http1.invalid_scheme"), By(&["rows/a scheme of others"])),
        (bad("low_version"), By(&["rows/an old version"])),
        (bad("http.invalid_authority"), By(&["rows/a host that is none"])),
        (bad("http1.unexpected_underscore"), By(&["rows/an underscore"])),
        (bad("http1.too_many_headers"), By(&["rows/many headers"])),
        (bad("http1.headers_too_large"), By(&["rows/long headers"])),
        (bad("http2.invalid.header.field"), By(&["rows/a length twice"])),
        (
            bad("http2.violation.of.messaging.rule"),
            By(&["rows/a path that is none"]),
        ),
        (bad("http2.inbound_empty_frames_flood"), By(&["rows/empty frames"])),
        (bad("http2.remote_reset"), By(&["rows/a body of another length"])),
    ]
}

/// Reasons of what is refused before there is anything to fail: by the header policy, and of heads that reset their stream.
const REFUSED: &[(&str, &str)] = &[
    ("missing_host_header", "rows/no host at all"),
    ("query_missing_content_type", "rows/QUERY of nothing"),
    ("path_normalization_failed", "rows/a slash in disguise"),
    ("absolute_path_rejected", "rows/an absolute target without a path"),
    ("rejecting_because_detection_failed", "rows/nobody's address"),
    ("http2.unexpected_underscore", "rows/an underscore over HTTP/2"),
    ("http2.too_many_headers", "rows/many headers over HTTP/2"),
    ("http2.header_list_size_too_large", "rows/long headers over HTTP/2"),
];

/// Reasons that stand in the sources of `http` and are no row: why.
const NO_ROWS: &[(&str, &str)] = &[
    (
        "http1.content_length_not_allowed",
        "an upstream's fault: logged as its protocol error",
    ),
    (
        "http1.response_headers_too_large",
        "an upstream's fault: logged as its protocol error",
    ),
    (
        "http2.invalid_authority",
        "a request that HTTP/2 cannot say: logged as a protocol error",
    ),
];

/// What Envoy's own log says that the row does not.
pub fn contradiction(case: &str, theirs: &str) -> Option<String> {
    let wanted = |details: &str| {
        let start = format!(" details={}", details.trim_end_matches('}'));
        (!theirs.contains(&start)).then(|| format!("{case}: Envoy does not say {details}:\n{theirs}"))
    };
    let of_policy = REFUSED.iter().find(|(_, known)| *known == case);
    if let Some((details, _)) = of_policy {
        return wanted(details);
    }
    let rows = rows();
    let (failure, _) = rows
        .iter()
        .find(|(_, shown)| matches!(shown, Shown::By(cases) if cases.contains(&case)))?;
    let row = failure.row();
    let flags = format!(" flags={} ", row.flags.short());
    wanted(row.details).or_else(|| {
        let short = row.flags.short();
        let among = [format!(" flags={short},"), format!(",{short} long=")];
        let has = row.flags.is_empty() || theirs.contains(&flags) || among.iter().any(|text| theirs.contains(text));
        (!has).then(|| format!("{case}: Envoy does not set{flags}:\n{theirs}"))
    })
}

/// Asserts that every variant of the enum, and every reason in the sources, is a row, and that its cases are there.
pub fn are_complete(worlds: &[World]) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proxy/src/http");
    let rows = rows();
    let known: BTreeSet<String> = rows
        .iter()
        .map(|(failure, _)| {
            let text = format!("{failure:?}");
            text.split([' ', '(']).next().unwrap().to_owned()
        })
        .collect();
    let table = std::fs::read_to_string(sources.join("failure.rs")).unwrap();
    assert_eq!(variants(&table), known, "the enum, and its rows");
    let details: BTreeSet<&str> = rows
        .iter()
        .map(|(failure, _)| failure.details())
        .chain(REFUSED.iter().chain(NO_ROWS).map(|(details, _)| *details))
        .collect();
    let mut missing: Vec<String> = Vec::new();
    for_each_source(&sources, &mut |text| {
        missing.extend(
            reasons(text)
                .filter(|reason| !details.contains(reason))
                .map(str::to_owned),
        );
    });
    assert!(missing.is_empty(), "reasons without a row: {missing:?}");
    let there: BTreeSet<String> = worlds
        .iter()
        .flat_map(|world| world.cases.iter().map(|case| format!("{}/{}", world.name, case.name)))
        .collect();
    for (failure, shown) in &rows {
        match shown {
            Shown::By(cases) => {
                assert!(!cases.is_empty(), "{failure:?}");
                for case in *cases {
                    assert!(there.contains(*case), "there is no {case}");
                }
            }
            Shown::Elsewhere(reason) => assert!(!reason.is_empty(), "{failure:?}"),
        }
    }
    for (_, case) in REFUSED {
        assert!(there.contains(*case), "there is no {case}");
    }
}

/// The names of the variants.
fn variants(source: &str) -> BTreeSet<String> {
    let (_, body) = source.split_once("pub enum Failure {\n").unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let names = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?;
        name.starts_with(|first: char| first.is_ascii_uppercase())
            .then(|| name.split(['(', ' ', ',']).next().unwrap().to_owned())
    });
    names.collect()
}

/// Response-code details of the codecs in a source, without its tests.
fn reasons(source: &str) -> impl Iterator<Item = &str> {
    let texts = source.split('"').skip(1).step_by(2);
    texts.filter(|text| {
        let codec = ["http.", "http1.", "http2."]
            .iter()
            .any(|prefix| text.starts_with(prefix));
        codec
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'.' | b'_' | b'0'..=b'9'))
            && text.contains('_')
    })
}

fn for_each_source(directory: &Path, act: &mut dyn FnMut(&str)) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            for_each_source(&path, act);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).unwrap();
            act(text.split("#[cfg(test)]").next().unwrap());
        }
    }
}
