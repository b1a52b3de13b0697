//! `x-request-id`: made, kept, and marked with why a request is traced (spec C.8).

use http::{HeaderMap, HeaderName, HeaderValue};

use super::X_REQUEST_ID;
use crate::config::route::Fraction;

/// A static: a name given as text is parsed anew by every look-up.
static X_ENVOY_FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
static X_CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");

/// `tracing` of a connection manager, or of a route: how many are traced. `None`: all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// Of those that ask for it (`x-client-trace-id`).
    pub client: Option<Fraction>,
    /// Of the others.
    pub random: Option<Fraction>,
    /// Of all that would be.
    pub overall: Option<Fraction>,
}

impl Sampling {
    /// Why the request is to be traced. Every hop decides alike, by the id; only what a client asks for is drawn anew.
    pub fn decide(self, headers: &HeaderMap) -> TraceReason {
        let Some(point) = sampling_point(headers) else {
            return TraceReason::NotTraced;
        };
        let chosen = |fraction: Option<Fraction>, point| fraction.is_none_or(|fraction| fraction.reaches(point));
        let known = reason(headers);
        let wanted = if known != TraceReason::NotTraced {
            known
        } else if headers.contains_key(&X_CLIENT_TRACE_ID) && chosen(self.client, fastrand::u64(..10_000)) {
            TraceReason::ClientForced
        } else if headers.contains_key(&X_ENVOY_FORCE_TRACE) {
            TraceReason::ServiceForced
        } else if chosen(self.random, point) {
            TraceReason::Sampled
        } else {
            TraceReason::NotTraced
        };
        match chosen(self.overall, point) {
            true => wanted,
            false => TraceReason::NotTraced,
        }
    }
}

/// What a connection manager does about request ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestIdPolicy {
    pub generate: bool,
    /// Keep an id that came from outside.
    pub preserve_external: bool,
    pub always_in_response: bool,
    /// Whether the reason for tracing is written into the id.
    pub pack_trace_reason: bool,
    pub use_for_sampling: bool,
}

/// Why a request is traced: the version digit of its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceReason {
    NotTraced,
    Sampled,
    ServiceForced,
    ClientForced,
}

impl TraceReason {
    fn digit(self) -> u8 {
        match self {
            Self::NotTraced => b'4',
            Self::Sampled => b'9',
            Self::ServiceForced => b'a',
            Self::ClientForced => b'b',
        }
    }
}

/// Where a UUID's version digit is.
const REASON_AT: usize = 14;

impl RequestIdPolicy {
    pub(super) fn request(self, headers: &mut HeaderMap, is_edge: bool) {
        if !self.generate {
            return;
        }
        let keep = headers.contains_key(&X_REQUEST_ID) && (!is_edge || self.preserve_external);
        if !keep {
            headers.insert(X_REQUEST_ID, generate(fastrand::u128(..)));
        }
    }

    pub(super) fn response(self, request: &HeaderMap, response: &mut HeaderMap) {
        if !self.always_in_response && !request.contains_key(&X_ENVOY_FORCE_TRACE) {
            return;
        }
        if let Some(id) = request.get(&X_REQUEST_ID) {
            response.insert(X_REQUEST_ID, id.clone());
        }
    }

    /// Writes `reason` into the request's id, if it is a UUID and the policy allows it.
    pub fn set_reason(self, headers: &mut HeaderMap, reason: TraceReason) {
        let Some(id) = headers
            .get(&X_REQUEST_ID)
            .filter(|id| self.pack_trace_reason && is_uuid(id.as_bytes()))
        else {
            return;
        };
        if id.as_bytes()[REASON_AT] == reason.digit() {
            return;
        }
        let mut bytes = id.as_bytes().to_vec();
        bytes[REASON_AT] = reason.digit();
        if let Ok(id) = HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)) {
            headers.insert(X_REQUEST_ID, id);
        }
    }
}

/// What the request's id says about tracing.
pub fn reason(headers: &HeaderMap) -> TraceReason {
    let id = headers
        .get(&X_REQUEST_ID)
        .map(HeaderValue::as_bytes)
        .filter(|id| is_uuid(id));
    match id.map(|id| id[REASON_AT]) {
        Some(b'9') => TraceReason::Sampled,
        Some(b'a') => TraceReason::ServiceForced,
        Some(b'b') => TraceReason::ClientForced,
        _ => TraceReason::NotTraced,
    }
}

/// A number in `0..10_000` that every hop derives from the same id.
pub fn sampling_point(headers: &HeaderMap) -> Option<u64> {
    let id = headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    let first = u32::from_str_radix(id.get(..8)?, 16).ok()?;
    Some(u64::from(first) % 10_000)
}

fn is_uuid(id: &[u8]) -> bool {
    id.len() == 36
}

/// A random (version 4) UUID from 128 random bits.
pub fn generate(random: u128) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = random.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    // Hexadecimal digits and dashes are always a header value.
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RequestIdPolicy = RequestIdPolicy {
        generate: true,
        preserve_external: false,
        always_in_response: false,
        pack_trace_reason: true,
        use_for_sampling: true,
    };

    #[test]
    fn ids_are_version_4_uuids() {
        let id = generate(u128::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(generate(0), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn an_edge_replaces_what_came_from_outside() {
        let with = |policy: RequestIdPolicy, is_edge| {
            let mut headers = HeaderMap::new();
            headers.insert(X_REQUEST_ID, HeaderValue::from_static("theirs"));
            policy.request(&mut headers, is_edge);
            headers[&X_REQUEST_ID] == "theirs"
        };
        assert!(with(POLICY, false));
        assert!(!with(POLICY, true));
        assert!(with(
            RequestIdPolicy {
                preserve_external: true,
                ..POLICY
            },
            true
        ));
    }

    #[test]
    fn reasons_are_read_back() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, generate(7));
        assert_eq!(reason(&headers), TraceReason::NotTraced);
        POLICY.set_reason(&mut headers, TraceReason::ServiceForced);
        assert_eq!(reason(&headers), TraceReason::ServiceForced);
        assert_eq!(headers[&X_REQUEST_ID].as_bytes()[14], b'a');
        assert_eq!(sampling_point(&headers), Some(0));
    }
}
