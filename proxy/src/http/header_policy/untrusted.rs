//! `x-envoy-*` headers that only a trusted client may send.

use http::HeaderMap;

/// Removed from external requests (spec C.7).
const EXTERNAL_REMOVED: &[&str] = &[
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-ip-tags",
    "x-envoy-original-url",
    "x-envoy-hedge-on-per-try-timeout",
];

/// Removed as well from requests that enter the mesh here.
const EDGE_REMOVED: &[&str] = &[
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-original-path",
    "x-envoy-original-host",
];

/// Removes what a request from outside may not say; `edge`: it enters the mesh here.
pub(super) fn remove(headers: &mut HeaderMap, edge: bool) {
    remove_envoy(headers, EXTERNAL_REMOVED);
    if edge {
        remove_envoy(headers, EDGE_REMOVED);
    }
}

/// Removes those of `names`, which all begin with `x-envoy-`. Most requests have none of them: a look over what there is costs less than
/// looking each of them up.
pub(in crate::http) fn remove_envoy(headers: &mut HeaderMap, names: &[&str]) {
    let is_meant = |name: &str| name.starts_with("x-envoy-") && names.contains(&name);
    while let Some(name) = headers.keys().find(|name| is_meant(name.as_str())).cloned() {
        headers.remove(name);
    }
}
