//! The decisions: headers of the request merged in, then one yes or no per response or failure, and the wait before the next try.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode};

use super::{RetryOn, RetryPolicy};
use crate::cluster::bugs::{Bug, planted};
use crate::http::failure::Failure;
use crate::route::view::RequestView;

const GRPC_CONDITIONS: [(u32, RetryOn); 5] = [
    (1, RetryOn::CANCELLED),
    (4, RetryOn::DEADLINE_EXCEEDED),
    (13, RetryOn::INTERNAL),
    (8, RetryOn::RESOURCE_EXHAUSTED),
    (14, RetryOn::UNAVAILABLE),
];

impl RetryPolicy {
    /// The policy for one request: the route's, with what the request's `x-envoy-*` headers add. `None`: no retries.
    pub fn for_request(route: Option<&Arc<Self>>, view: &RequestView<'_>) -> Option<Arc<Self>> {
        // One pass over the names there are costs less than five look-ups of names that hardly ever are.
        let asks = |name: &HeaderName| name.as_str().starts_with("x-envoy-retr") || name == "x-envoy-max-retries";
        if !view.headers.keys().any(asks) {
            return route.filter(|route| route.may_retry(view)).cloned();
        }
        let text = |name: &str| view.headers.get(name).and_then(|value| value.to_str().ok());
        let asked = text("x-envoy-retry-on").map(RetryOn::parse).unwrap_or_default()
            | text("x-envoy-retry-grpc-on").map(RetryOn::parse).unwrap_or_default();
        let count = text("x-envoy-max-retries").and_then(|text| text.parse::<u32>().ok());
        let codes = text("x-envoy-retriable-status-codes");
        let names = text("x-envoy-retriable-header-names");
        let plain = asked.is_empty() && count.is_none() && codes.is_none() && names.is_none();
        let policy = match (route, plain) {
            (Some(route), true) => route.clone(),
            (None, true) => return None,
            (route, false) => {
                let mut merged = route.map(|route| Self::clone(route)).unwrap_or_default();
                merged.retry_on = merged.retry_on | asked;
                merged.num_retries = count.unwrap_or(merged.num_retries);
                let codes = codes
                    .unwrap_or("")
                    .split(',')
                    .filter_map(|code| code.trim().parse::<u16>().ok());
                merged.retriable_status_codes.extend(codes);
                let names = names
                    .unwrap_or("")
                    .split(',')
                    .map(str::trim)
                    .filter(|name| !name.is_empty());
                merged
                    .retriable_headers
                    .extend(names.filter_map(crate::route::headers::HeaderMatcher::present));
                Arc::new(merged)
            }
        };
        policy.may_retry(view).then_some(policy)
    }

    fn may_retry(&self, view: &RequestView<'_>) -> bool {
        !self.retry_on.is_empty() && self.wants(view)
    }

    fn wants(&self, view: &RequestView<'_>) -> bool {
        let matchers = &self.retriable_request_headers;
        matchers.is_empty() || matchers.iter().any(|matcher| matcher.matches(view))
    }

    /// Whether a response's head calls for a retry. gRPC status counts only when it stands in the head (trailers-only).
    pub fn retry_on_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        if headers.contains_key("x-envoy-ratelimited") {
            return self.retry_on.any(RetryOn::ENVOY_RATELIMITED);
        }
        let code = status.as_u16();
        if self.retry_on.any(RetryOn::SERVER_ERROR) && (500..600).contains(&code) {
            return true;
        }
        if self.retry_on.any(RetryOn::GATEWAY_ERROR) && (502..505).contains(&code) {
            return true;
        }
        if self.retry_on.any(RetryOn::RETRIABLE_4XX) && code == 409 {
            return true;
        }
        if self.retry_on.any(RetryOn::RETRIABLE_STATUS_CODES) && self.retriable_status_codes.contains(&code) {
            return true;
        }
        if self.retry_on.any(RetryOn::RETRIABLE_HEADERS)
            && (self.retriable_headers.iter()).any(|matcher| matcher.matches_response(status, headers))
        {
            return true;
        }
        let grpc = headers
            .get("grpc-status")
            .and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        grpc.is_some_and(|grpc| {
            GRPC_CONDITIONS
                .iter()
                .any(|(code, on)| *code == grpc && self.retry_on.any(*on))
        })
    }

    /// Whether a failed attempt calls for a retry; `request_sent`: the upstream got at least a byte of it.
    pub fn retry_on_failure(&self, failure: &Failure, request_sent: bool) -> bool {
        if planted(Bug::TimeoutNotRetried) && *failure == Failure::PerTryTimeout {
            return false;
        }
        let whatever = RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR | RetryOn::RESET;
        match failure {
            Failure::ConnectFailure(_) | Failure::BindFailure(_) | Failure::ConnectTimeout => {
                self.retry_on.any(whatever | RetryOn::CONNECT_FAILURE)
                    || (self.retry_on.any(RetryOn::RESET_BEFORE_REQUEST) && !request_sent)
            }
            Failure::RemoteRefused => {
                self.retry_on.any(whatever | RetryOn::REFUSED_STREAM)
                    || (self.retry_on.any(RetryOn::RESET_BEFORE_REQUEST) && !request_sent)
            }
            Failure::ConnectionTermination
            | Failure::RemoteReset
            | Failure::LocalReset
            | Failure::ProtocolError(_)
            | Failure::PerTryTimeout
            | Failure::PerTryIdleTimeout
            | Failure::MaxStreamDuration { .. } => {
                self.retry_on.any(whatever) || (self.retry_on.any(RetryOn::RESET_BEFORE_REQUEST) && !request_sent)
            }
            // Overflow of a circuit breaker is never retried; the rest is final or the client's own.
            _ => false,
        }
    }

    /// The wait before attempt `attempt` (1 is the first retry): full jitter over a doubling interval up to the maximum.
    pub fn backoff(&self, attempt: u32, random: &mut fastrand::Rng) -> Duration {
        let doubled = self.base_interval.as_nanos() << attempt.saturating_sub(1).min(32);
        let limit = doubled.min(self.max_interval.as_nanos());
        let limit = u64::try_from(limit).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random.u64(0..limit))
    }

    /// The wait that a rate-limited response asks for, drawn from `[x, 1.5 x)`; `None`: it asks for none, or for too long.
    pub fn rate_limited_backoff(
        &self,
        headers: &HeaderMap,
        now: SystemTime,
        random: &mut fastrand::Rng,
    ) -> Option<Duration> {
        let policy = self.rate_limited.as_ref()?;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let wait = policy.reset_headers.iter().find_map(|(name, format)| {
            let number = headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok()?;
            let seconds = match format {
                super::ResetFormat::Seconds => number,
                super::ResetFormat::UnixTimestamp => number.checked_sub(now)?,
            };
            let wait = Duration::from_secs(seconds);
            (wait <= policy.max_interval && wait > Duration::from_millis(1)).then_some(wait)
        })?;
        Some(wait.mul_f64(1.0 + random.f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy {
            retry_on: RetryOn::parse(on),
            retriable_status_codes: vec![418],
            ..RetryPolicy::default()
        }
    }

    fn head(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn responses_are_retried_by_their_conditions() {
        let cases: &[(&str, u16, &[(&'static str, &'static str)], bool)] = &[
            ("5xx", 500, &[], true),
            ("5xx", 499, &[], false),
            ("gateway-error", 500, &[], false),
            ("gateway-error", 503, &[], true),
            ("retriable-4xx", 409, &[], true),
            ("retriable-4xx", 404, &[], false),
            ("retriable-status-codes", 418, &[], true),
            ("connect-failure, unavailable", 200, &[("grpc-status", "14")], true),
            ("cancelled", 200, &[("grpc-status", "14")], false),
            ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
            ("envoy-ratelimited", 503, &[("x-envoy-ratelimited", "true")], true),
            ("nonsense", 503, &[], false),
        ];
        for (on, status, headers, expected) in cases {
            let status = StatusCode::from_u16(*status).expect("a status");
            assert_eq!(
                policy(on).retry_on_response(status, &head(headers)),
                *expected,
                "{on} {status}"
            );
        }
    }

    #[test]
    fn failures_are_retried_by_their_conditions() {
        let cases = [
            ("connect-failure", Failure::ConnectTimeout, false, true),
            ("connect-failure", Failure::RemoteReset, true, false),
            ("5xx", Failure::RemoteReset, true, true),
            ("refused-stream", Failure::RemoteRefused, false, true),
            ("refused-stream", Failure::RemoteReset, false, false),
            ("reset-before-request", Failure::ConnectionTermination, false, true),
            ("reset-before-request", Failure::ConnectionTermination, true, false),
            ("5xx,reset,connect-failure", Failure::Overflow, false, false),
            ("gateway-error", Failure::PerTryTimeout, true, true),
        ];
        for (on, failure, sent, expected) in cases {
            assert_eq!(
                policy(on).retry_on_failure(&failure, sent),
                expected,
                "{on} {failure:?}"
            );
        }
    }

    #[test]
    fn backoff_is_full_jitter_within_a_doubling_bound() {
        let policy = policy("5xx");
        let mut random = fastrand::Rng::with_seed(7);
        for (attempt, bound) in [(1, 25), (2, 50), (3, 100), (4, 200), (5, 250), (60, 250)] {
            let waits: Vec<_> = (0..500).map(|_| policy.backoff(attempt, &mut random)).collect();
            let bound = Duration::from_millis(bound);
            assert!(waits.iter().all(|wait| *wait < bound), "{attempt}");
            assert!(waits.iter().any(|wait| *wait > bound * 9 / 10), "{attempt}");
            assert!(waits.iter().any(|wait| *wait < bound / 10), "{attempt}");
        }
    }
}
