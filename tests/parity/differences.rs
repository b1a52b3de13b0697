//! Where Remora is not Envoy, and why. A case that is not here must be equal; one that is here must differ.

/// A case of which something differs, and why.
pub struct Difference {
    /// `world/case`, or `world/stats`.
    pub case: &'static str,
    pub why: Why,
}

pub enum Why {
    /// The reason.
    OnPurpose(&'static str),
    /// Envoy itself answers now so, now otherwise: why. Such a case need not differ in every run.
    Timing(&'static str),
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OnPurpose(reason) => write!(f, "on purpose: {reason}"),
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

const fn timing(case: &'static str, why: &'static str) -> Difference {
    Difference {
        case,
        why: Why::Timing(why),
    }
}

const DENIED: &str = "network RBAC decides when a connection is accepted, not at its first byte: a client that is denied reaches no upstream";

pub const DIFFERENCES: &[Difference] = &[
    on_purpose("tcp/denied", DENIED),
    on_purpose("tcp/denied by leaf", DENIED),
    on_purpose("tcp/denied by nobody", DENIED),
    on_purpose("tcp/denied unasked", DENIED),
    on_purpose(
        "tls/no suite in common",
        "a client that offers neither a suite nor a group of ours is told of by its groups; BoringSSL names the curve",
    ),
    on_purpose(
        "tls/SNI required and not there",
        "require_sni is enforced; Envoy reads it and does nothing",
    ),
    on_purpose(
        "tls/good, and not pinned",
        "rustls has no alert for a wrong hash (114): access_denied (49); the log says the same",
    ),
    on_purpose(
        "tls-upstream/no suite",
        "BoringSSL adds to the alert that it answered the first message",
    ),
    on_purpose(
        "tcp/POST",
        "a client that has said its end still gets the answer; Envoy breaks a tunnel over HTTP/1.1 off",
    ),
    on_purpose(
        "tls/required certificate, none, TLS 1.2",
        "rustls sends the alert of TLS 1.3 (116) where BoringSSL sends handshake_failure (40); the log says the same",
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
        "codec/characters that a URI escapes",
        "< > \" and ` are in no URI (RFC 3986): they go on escaped, which means the same",
    ),
    on_purpose(
        "authz/body not asked for",
        "an answer before the request's end closes the connection: the rest of the body is not read, and not counted",
    ),
    on_purpose(
        "authz/chunked",
        "an answer before the request's end closes the connection: the rest of the body is not read",
    ),
    on_purpose(
        "logging/wire, a retry",
        "Envoy counts the header bytes of an answer that it retries twice among those received, decompressed",
    ),
    on_purpose(
        "rows/a length twice, by default",
        "an invalid message resets its stream, and others on its connection go on (RFC 9113, 8.1.1)",
    ),
    on_purpose(
        "rows/a header of one hop",
        "of a head that HTTP/2 forbids the log says that it broke the rules, not which",
    ),
    timing(
        "redirects/too many",
        "the leg that was redirected is logged when its stream ends, which may be while the next case runs",
    ),
    timing(
        "redirects/by 301",
        "it follows \"too many\", whose last line may come only now",
    ),
    timing(
        "failures/stats",
        "whether a body had arrived when its connection failed decides how the request's end is counted",
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
        "xds-delta/the stream is reset",
        "the version of a good resource that came beside a bad one is known, and told; Envoy forgets all of a refused response",
    ),
    timing(
        "authz/stats",
        "a connection whose bytes come in two pieces is counted twice where its filter is not asked",
    ),
    on_purpose(
        "xds-sotw-own/the cluster changes",
        "fresh endpoints are asked for on the stream that is there; Envoy opens another and closes this one",
    ),
    on_purpose(
        "xds-delta-own/the cluster changes",
        "fresh endpoints are asked for on the stream that is there; Envoy opens another and closes this one",
    ),
    on_purpose(
        "xds-sotw-own/a cluster goes",
        "its stream is closed; Envoy says before that it wants nothing there",
    ),
    on_purpose(
        "xds-delta-own/a cluster goes",
        "its stream is closed; Envoy says before that it wants nothing there",
    ),
    timing(
        "http2/gRPC: refused",
        "the bytes of a body that arrived before the connection failed are counted",
    ),
];

/// Worlds without HTTP, and conversations with control planes.
const OTHERS: &[&str] = &[
    "tcp",
    "tls",
    "tls-upstream",
    "xds-sotw",
    "xds-delta",
    "xds-sotw-own",
    "xds-delta-own",
];

/// What HTTP is allowed to differ in, of all that is compared.
const LIMIT: usize = 10;

/// Asserts that HTTP differs on purpose in no more than it may, in nothing twice, and that all that is listed is compared.
pub fn are_few(worlds: &[&str]) {
    let world = |difference: &Difference| difference.case.split('/').next().unwrap_or_default();
    let mut on_purpose = Vec::new();
    let mut by_timing = Vec::new();
    for difference in DIFFERENCES {
        let name = world(difference);
        let is_http = worlds.contains(&name) && !OTHERS.contains(&name);
        assert!(
            is_http || OTHERS.contains(&name),
            "{}: there is no such world",
            difference.case
        );
        let same = DIFFERENCES.iter().filter(|other| other.case == difference.case).count();
        assert_eq!(same, 1, "{} is listed twice", difference.case);
        match difference.why {
            _ if !is_http => {}
            Why::OnPurpose(_) => on_purpose.push(difference.case),
            Why::Timing(_) => by_timing.push(difference.case),
        }
    }
    assert!(
        on_purpose.len() <= LIMIT,
        "{} differences in HTTP: {on_purpose:?}",
        on_purpose.len()
    );
    // Where Envoy is not equal to itself; no more of those either.
    assert!(
        by_timing.len() <= LIMIT,
        "{} are matters of timing: {by_timing:?}",
        by_timing.len()
    );
}
