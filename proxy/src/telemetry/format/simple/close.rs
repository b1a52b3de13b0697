//! Operators of how connections were closed. A request knows nothing of that: its line is written before its connection ends, and says what Envoy's does.

use super::Simple;
use Simple::Closing;

pub(super) const TABLE: &[(&str, Simple)] = &[
    (
        "DOWNSTREAM_DETECTED_CLOSE_TYPE",
        Closing(|v| Some(v.close.downstream.as_str())),
    ),
    (
        "UPSTREAM_DETECTED_CLOSE_TYPE",
        Closing(|v| {
            let is_known = v.exchange.is_none() || v.upstream.host.is_some();
            is_known.then_some(v.close.upstream.as_str())
        }),
    ),
    (
        "DOWNSTREAM_LOCAL_CLOSE_REASON",
        Closing(|v| Some(v.close.downstream_reason)),
    ),
    (
        "UPSTREAM_LOCAL_CLOSE_REASON",
        Closing(|v| Some(v.close.upstream_reason)),
    ),
];
