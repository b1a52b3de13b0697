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
    timing(
        "http2/gRPC: refused",
        "the bytes of a body that arrived before the connection failed are counted",
    ),
    missing(
        "retries/stats",
        "`retry.upstream_rq_*` is not counted, `upstream_rq_pending_total` only for requests that had to wait",
    ),
];
