//! Where Remora is not Envoy: on purpose, or not yet as it should be. A case that is not here must be equal; one that is here must differ.

/// A case of which something differs, and why.
pub struct Difference {
    /// `world/case`, or `world/stats`.
    pub case: &'static str,
    pub why: Why,
}

pub enum Why {
    /// The reason.
    OnPurpose(&'static str),
    /// What of Envoy is missing.
    Missing(&'static str),
    /// Envoy itself answers now so, now otherwise: why. Such a case need not differ in every run.
    Timing(&'static str),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnPurpose(reason) => write!(f, "on purpose: {reason}"),
            Self::Missing(what) => write!(f, "missing: {what}"),
            Self::Timing(why) => write!(f, "a matter of timing: {why}"),
        }
    }
}

const fn on_purpose(case: &'static str, reason: &'static str) -> Difference {
    Difference {
        case,
        why: Why::OnPurpose(reason),
    }
}

const fn missing(case: &'static str, what: &'static str) -> Difference {
    Difference {
        case,
        why: Why::Missing(what),
    }
}

const fn timing(case: &'static str, why: &'static str) -> Difference {
    Difference {
        case,
        why: Why::Timing(why),
    }
}

pub const DIFFERENCES: &[Difference] = &[
    on_purpose(
        "admin/clusters",
        "pending requests belong to a worker's pool of a cluster; hosts have no such count (rq_pending_active)",
    ),
    on_purpose(
        "retries/time for every try",
        "flags are a set, printed in the order of Envoy's table; Envoy prints them in the order of their setting",
    ),
    on_purpose(
        "retries/connect failure",
        "flags are a set, printed in the order of Envoy's table; Envoy prints them in the order of their setting",
    ),
    on_purpose(
        "codec/folded header",
        "obsolete line folding is refused (RFC 9112, 5.2 lets a server do so): a peer that reads it otherwise could be smuggled to",
    ),
    on_purpose(
        "codec/two hosts",
        "two host headers must be answered by 400 (RFC 9112, 3.2)",
    ),
    on_purpose(
        "codec/no version",
        "a request line without a version is no HTTP/1.x: 400, not an invitation to upgrade",
    ),
    on_purpose(
        "codec/a version that is none",
        "an unknown version is 400, not an invitation to upgrade",
    ),
    timing(
        "failures/connection refused, with a body",
        "the bytes of a body that arrived before the connection failed are counted",
    ),
    on_purpose(
        "xds-sotw/other routes are wanted after a NACK",
        "a listener that drains keeps the routes it has; it is not subscribed to them until the end of the drain",
    ),
    on_purpose(
        "xds-sotw/the same resource twice",
        "a name twice in one response is a server's error whatever the type; the first copy is used",
    ),
    on_purpose(
        "xds-delta/the stream is reset",
        "the version of a good resource that came beside a bad one is known, and told; Envoy forgets all of a refused response",
    ),
    missing(
        "failures/cut within the body",
        "a body cut short of its content-length is a protocol error (UPE), and it happened after the response started",
    ),
    missing("failures/599 passes", "the reason phrase of codes that have none"),
    missing(
        "failures/stats",
        "connections that fail are not counted as connections, nor resets of streams; one timeout goes uncounted",
    ),
    missing(
        "headers/escaped slashes",
        "the log of a rejected path shows it as normalised",
    ),
    missing(
        "headers/fragment",
        "a fragment is refused by path normalisation: no body, no flag",
    ),
    missing("headers/hops, escaped slashes", "a refused path closes the connection"),
    missing("headers/options *", "`*` is refused as no path"),
    missing("headers/stats", "the counters of path normalisation"),
    missing(
        "http2/to HTTP/1 with trailers",
        "HTTP/1 gets trailers without enable_trailers",
    ),
    missing(
        "http2/trailers back from HTTP/1",
        "HTTP/1 trailers are taken without enable_trailers",
    ),
    missing(
        "http2/cut",
        "a body cut short of its content-length is a protocol error (UPE)",
    ),
    missing("http2/gRPC", "%GRPC_STATUS% does not see trailers"),
    timing(
        "http2/gRPC: refused",
        "the bytes of a body that arrived before the connection failed are counted",
    ),
    missing("http2/stats", "interim responses and resets are not counted"),
    missing(
        "retries/stats",
        "`retry.upstream_rq_*` is not counted, `upstream_rq_pending_total` only for requests that had to wait",
    ),
    missing(
        "codec/trailers are dropped",
        "HTTP/1 trailers are passed without enable_trailers",
    ),
    missing(
        "codec/trailers are kept",
        "trailers go to HTTP/1 upstreams without enable_trailers there",
    ),
    missing(
        "codec/answer with trailers kept",
        "trailers of HTTP/1 upstreams are taken without enable_trailers there",
    ),
    missing("codec/zero byte in a value", "details are http1.invalid_characters"),
    missing(
        "codec/HTTP/1.0 without host",
        "HTTP/1.0 without a host is refused where no default host is set",
    ),
    missing(
        "codec/no host",
        "a missing host is found after the head was read: no body, no flag, method and path in the log",
    ),
    missing(
        "codec/a host with a path in it",
        "an authority is checked (http.invalid_authority)",
    ),
    missing("codec/connect", "CONNECT without a route for it is 404 and closes"),
    missing(
        "codec/head, chunked upstream",
        "the answer to HEAD keeps transfer-encoding",
    ),
    missing("codec/relative target", "details are http1.codec_error"),
    missing(
        "codec/the last of a connection",
        "max_requests_per_connection downstream",
    ),
    missing(
        "codec/upgrade refused",
        "a refused upgrade closes, and its route's cluster is logged",
    ),
    missing(
        "codec/stats",
        "protocol errors of a connection, and requests answered before their end, are not counted",
    ),
    missing(
        "routing/direct response to HEAD",
        "a local reply to HEAD tells the length of its body",
    ),
    missing(
        "headers/custom method",
        "a method of unknown meaning goes upstream with content-length: 0",
    ),
    missing("http2/direct", "local replies over HTTP/2 tell their length"),
    missing("http2/refused", "local replies over HTTP/2 tell their length"),
    missing("http2/timeout", "local replies over HTTP/2 tell their length"),
    missing("http2/cut by HTTP/2", "local replies over HTTP/2 tell their length"),
    missing("http2/closed", "local replies over HTTP/2 tell their length"),
];
