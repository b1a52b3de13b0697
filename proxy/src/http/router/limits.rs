//! The time limits of one request: the route's, and the headers that override them (spec D.6).

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::attempt::SentAt;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::route::forward::MaxStreamDuration;
use crate::route::view::is_grpc;
use crate::route::{Forward, RetryPolicy};

static TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
static PER_TRY_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
static STREAM_DURATION_MS: HeaderName = HeaderName::from_static("x-envoy-upstream-stream-duration-ms");
static HEDGE: HeaderName = HeaderName::from_static("x-envoy-hedge-on-per-try-timeout");
pub(super) static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// See the module; `None` is no limit.
pub(super) struct Limits {
    /// From the end of the request to the end of the response, all attempts included.
    pub route: Option<Duration>,
    /// From an attempt's request to its response's head.
    pub per_try: Option<Duration>,
    /// Between two bytes of an attempt's answer, and before the first.
    pub per_try_idle: Option<Duration>,
    /// From an attempt's request to its answer's last byte: what the request asks for, or else the cluster's `max_stream_duration`.
    pub upstream_stream: Option<Duration>,
    /// A slow attempt goes on beside the next one.
    pub hedges: bool,
    /// From the first byte of the stream to its last.
    pub stream: Option<Duration>,
    pub deadline: Deadline,
}

/// What the upstream is told of a call's deadline in place of what the client said (`grpc-timeout`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deadline {
    AsItCame,
    /// What an attempt has (`max_grpc_timeout`).
    OfAttempt,
    /// What the stream has (`grpc_timeout_header_max`).
    OfStream(Duration),
}

/// Zero is no limit.
fn some(limit: Duration) -> Option<Duration> {
    Some(limit).filter(|limit| !limit.is_zero())
}

impl Limits {
    /// `hinted`: the request has `x-envoy-` headers. Then the `max_stream_duration` of the connection manager and of the cluster.
    pub fn of(
        exchange: &Exchange,
        forward: &Forward,
        policy: Option<&RetryPolicy>,
        hinted: bool,
        (of_manager, of_cluster): (Option<Duration>, Option<Duration>),
    ) -> Self {
        let headers = exchange.headers();
        let millis = |name: &HeaderName| -> Option<Duration> {
            let text = hinted.then(|| headers.get(name))??.to_str().ok()?;
            text.parse().ok().map(Duration::from_millis)
        };
        let asked = millis(&TIMEOUT_MS);
        let of_call = deprecated_grpc(forward, headers);
        // A route with `max_stream_duration` has no timeout but the one that the request asks for.
        let route = match (asked, forward.max_stream_duration) {
            (Some(asked), _) => some(asked),
            (None, Some(_)) => None,
            (None, None) => of_call.map_or(forward.timeout, some),
        };
        let per_try = millis(&PER_TRY_TIMEOUT_MS)
            .or(policy.and_then(|policy| policy.per_try_timeout))
            .and_then(some);
        let hedges = match hinted.then(|| headers.get(&HEDGE)).flatten() {
            Some(asked) if asked == "true" => true,
            Some(asked) if asked == "false" => false,
            _ => forward.hedge_on_per_try_timeout,
        };
        // An attempt's limit at or over the whole's means nothing.
        let per_try = per_try.filter(|per_try| route.is_none_or(|route| *per_try < route));
        let stream = match forward.max_stream_duration {
            Some(limits) => of_stream(limits, headers, of_manager),
            None => of_manager,
        };
        let told = (forward.max_stream_duration).filter(|limits| {
            limits.grpc_header_max.is_some() && headers.contains_key(&GRPC_TIMEOUT) && is_grpc(headers)
        });
        Self {
            deadline: match (told.and(stream), of_call) {
                (Some(stream), _) => Deadline::OfStream(stream),
                (None, Some(_)) if forward.max_stream_duration.is_none() => Deadline::OfAttempt,
                _ => Deadline::AsItCame,
            },
            route,
            // Without a limit nothing is slow, and without a policy nothing may follow.
            hedges: hedges && per_try.is_some() && policy.is_some(),
            per_try,
            per_try_idle: policy.and_then(|policy| policy.per_try_idle_timeout),
            upstream_stream: millis(&STREAM_DURATION_MS).map_or(of_cluster, some),
            stream,
        }
    }
}

impl Limits {
    /// When an attempt that was sent has to have its answer's head, and what becomes of it otherwise. Most of its time runs when the request is
    /// all there.
    pub fn of_attempt(&self, sent: &SentAt, request_ended: Option<Instant>) -> Option<(Instant, Failure)> {
        let sent = sent.get()?;
        let complete = request_ended.map(|ended| ended.max(sent));
        let too_long = Failure::MaxStreamDuration {
            request_complete: complete.is_some(),
        };
        let end = |from: Option<Instant>, limit: Option<Duration>, failure| Some((from?.checked_add(limit?)?, failure));
        let ends = [
            end(complete, self.per_try, Failure::PerTryTimeout),
            end(complete, self.per_try_idle, Failure::PerTryIdleTimeout),
            end(Some(sent), self.upstream_stream, too_long),
        ];
        ends.into_iter().flatten().min_by_key(|(end, _)| *end)
    }
}

/// `max_grpc_timeout` and `grpc_timeout_offset`, of a gRPC call: the client's `grpc-timeout`, at most so much, less the offset if something is left.
fn deprecated_grpc(forward: &Forward, headers: &HeaderMap) -> Option<Duration> {
    let (max, offset) = forward.grpc_timeout.filter(|_| is_grpc(headers))?;
    let asked = headers
        .get(&GRPC_TIMEOUT)
        .map_or(Duration::ZERO, |value| grpc_timeout(value).unwrap_or_default());
    let offset = offset.unwrap_or_default();
    let asked = if asked > offset { asked - offset } else { asked };
    let capped = !max.is_zero() && (asked > max || asked.is_zero());
    Some(if capped { max } else { asked })
}

/// `of_manager` stands in where the route has no duration. With `grpc_timeout_header_max`, a `grpc-timeout` takes the place of the configured duration, up to that maximum (zero: none). A call without
/// any time, or one that an offset leaves none, ends at once.
fn of_stream(limits: MaxStreamDuration, headers: &HeaderMap, of_manager: Option<Duration>) -> Option<Duration> {
    let asked = headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout);
    let (Some(max), Some(asked)) = (limits.grpc_header_max, asked) else {
        return limits.max.map_or(of_manager, some);
    };
    let asked = if max.is_zero() { asked } else { asked.min(max) };
    Some(asked.saturating_sub(limits.grpc_header_offset.unwrap_or_default()))
}

/// In milliseconds if eight digits hold them, else in the next unit that does.
pub(super) fn to_grpc_timeout(limit: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let millis = limit.as_millis();
    let units = [(1, "m"), (1000, "S"), (60_000, "M"), (3_600_000, "H")];
    let fits = units.iter().find(|(unit, _)| millis / unit <= MOST);
    let (unit, letter) = fits.unwrap_or(&units[3]);
    let text = format!("{}{letter}", (millis / unit).min(MOST));
    // Digits and a letter.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0m"))
}

/// At most eight digits and a unit (gRPC over HTTP/2, "Timeout"); anything else is no timeout.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_digits_and_a_unit() {
        let parse = |text: &str| grpc_timeout(&HeaderValue::from_str(text).expect("a value"));
        assert_eq!(parse("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(parse("5m"), Some(Duration::from_millis(5)));
        for nothing in ["", "S", "1", "1x", "-1S", "123456789S", "1 S"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_deadline_is_told_in_eight_digits() {
        let told = |millis| to_grpc_timeout(Duration::from_millis(millis));
        assert_eq!(told(500), "500m");
        assert_eq!(told(99_999_999), "99999999m");
        assert_eq!(told(100_000_000), "100000S");
        assert_eq!(told(u64::MAX), "99999999H");
    }

    #[test]
    fn the_grpc_header_takes_the_place_of_the_streams_duration() {
        let seconds = |count| Some(Duration::from_secs(count));
        let limits = |max, grpc_header_max, grpc_header_offset| MaxStreamDuration {
            max,
            grpc_header_max,
            grpc_header_offset,
        };
        let mut headers = HeaderMap::new();
        assert_eq!(
            of_stream(limits(seconds(0), seconds(0), None), &headers, seconds(99)),
            None
        );
        assert_eq!(
            of_stream(limits(seconds(3), None, None), &headers, seconds(99)),
            seconds(3)
        );
        assert_eq!(of_stream(limits(None, None, None), &headers, seconds(99)), seconds(99));
        headers.insert(GRPC_TIMEOUT.clone(), HeaderValue::from_static("10S"));
        assert_eq!(
            of_stream(limits(seconds(3), None, None), &headers, seconds(99)),
            seconds(3)
        );
        assert_eq!(
            of_stream(limits(seconds(3), seconds(0), None), &headers, seconds(99)),
            seconds(10)
        );
        assert_eq!(
            of_stream(limits(None, seconds(4), None), &headers, seconds(99)),
            seconds(4)
        );
        assert_eq!(
            of_stream(limits(None, seconds(0), seconds(11)), &headers, seconds(99)),
            seconds(0)
        );
        headers.insert(GRPC_TIMEOUT.clone(), HeaderValue::from_static("0S"));
        for max in [0, 4] {
            assert_eq!(
                of_stream(limits(seconds(3), seconds(max), None), &headers, seconds(99)),
                seconds(0)
            );
        }
    }
}
