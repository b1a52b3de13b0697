//! The `x-envoy-*` request headers that are between a client and this router: read, removed, or added for the upstream.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::limits::{GRPC_TIMEOUT, to_grpc_timeout};
use crate::http::exchange::Exchange;
use crate::http::header_policy::remove_envoy;

/// What the router acts on and does not pass on.
const CONSUMED: [&str; 12] = [
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-expected-rq-timeout-ms",
];

pub(super) const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");
pub(in crate::http) const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");

/// Whether a request says anything to the router. Most do not: one look over the names is less than a lookup of each.
pub(super) fn any(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-envoy-"))
}

/// Whether a timeout is to be answered by 204.
pub(super) fn wants_no_content(headers: &HeaderMap) -> bool {
    headers.contains_key("x-envoy-upstream-rq-timeout-alt-response")
}

/// Removes what only this router was meant to read. To be called once it was read.
pub(super) fn consume(headers: &mut HeaderMap) {
    remove_envoy(headers, &CONSUMED);
}

/// Tells the upstream which attempt this is, and how long it has; `expected`: none for no limit, or where it is not to be told; `after_timeout`:
/// for a retry, whether the attempt before it took too long.
/// `deadline`: in place of the client's `grpc-timeout`.
pub(super) fn announce(
    exchange: &mut Exchange,
    expected: Option<Duration>,
    after_timeout: Option<bool>,
    deadline: Option<Duration>,
) {
    let settings = exchange.route.virtual_host.as_ref().map(|host| &host.settings);
    let wants_count = settings.is_some_and(|settings| settings.include_request_attempt_count);
    let after_timeout =
        after_timeout.filter(|_| settings.is_some_and(|settings| settings.include_is_timeout_retry_header));
    let attempt = exchange.upstream.attempts;
    let headers = exchange.request.headers_mut();
    if wants_count {
        headers.insert(ATTEMPT_COUNT, attempt_count(attempt));
    }
    if let Some(after_timeout) = after_timeout {
        let value = HeaderValue::from_static(if after_timeout { "true" } else { "false" });
        headers.insert(IS_TIMEOUT_RETRY, value);
    }
    if let Some(deadline) = deadline {
        headers.insert(GRPC_TIMEOUT.clone(), to_grpc_timeout(deadline));
    }
    if let Some(expected) = expected {
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        // The route timeout where none is configured: no need to print it anew for each request.
        let value = if millis == 15_000 {
            HeaderValue::from_static("15000")
        } else {
            HeaderValue::from(millis)
        };
        headers.insert(EXPECTED_TIMEOUT, value);
    }
}

pub(in crate::http) fn attempt_count(attempts: u32) -> HeaderValue {
    if attempts == 1 {
        HeaderValue::from_static("1")
    } else {
        HeaderValue::from(attempts)
    }
}
