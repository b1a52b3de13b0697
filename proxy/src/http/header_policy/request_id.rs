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
    /// Why a request is to be traced whose id says `known` and `number` so far. Every hop decides alike, by the id; only what a client asks for is
    /// drawn anew.
    fn decide(self, known: TraceReason, number: u32, asked: Asked) -> TraceReason {
        let point = u64::from(number % 10_000);
        let chosen = |fraction: Option<Fraction>, point| fraction.is_none_or(|fraction| fraction.reaches(point));
        let wanted = if known != TraceReason::NotTraced {
            known
        } else if asked.by_client && chosen(self.client, fastrand::u64(..10_000)) {
            TraceReason::ClientForced
        } else if asked.by_service {
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

/// Who asks in a header that the request is traced.
#[derive(Clone, Copy, Debug)]
struct Asked {
    by_client: bool,
    by_service: bool,
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

    /// Writes into the request's id why it is to be traced, if that can be told and the policy allows it; and says it.
    pub(super) fn mark(self, headers: &mut HeaderMap, sampling: Sampling) -> TraceReason {
        let asked = Asked {
            by_client: headers.contains_key(&X_CLIENT_TRACE_ID),
            by_service: headers.contains_key(&X_ENVOY_FORCE_TRACE),
        };
        let Some(id) = headers.get_mut(&X_REQUEST_ID) else {
            return TraceReason::NotTraced;
        };
        let Some(number) = number(id) else {
            return TraceReason::NotTraced;
        };
        let known = reason(id);
        let reason = sampling.decide(known, number, asked);
        if reason != known && self.pack_trace_reason {
            set_reason(id, reason);
        }
        reason
    }
}

/// Writes `reason` into an id that is a UUID.
fn set_reason(id: &mut HeaderValue, reason: TraceReason) {
    let mut bytes = id.as_bytes().to_vec();
    let Some(digit) = bytes.get_mut(REASON_AT).filter(|_| is_uuid(id.as_bytes())) else {
        return;
    };
    *digit = reason.digit();
    if let Ok(marked) = HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)) {
        *id = marked;
    }
}

/// What a request's id says about tracing.
pub fn reason(id: &HeaderValue) -> TraceReason {
    let id = Some(id.as_bytes()).filter(|id| is_uuid(id));
    match id.map(|id| id[REASON_AT]) {
        Some(b'9') => TraceReason::Sampled,
        Some(b'a') => TraceReason::ServiceForced,
        Some(b'b') => TraceReason::ClientForced,
        _ => TraceReason::NotTraced,
    }
}

/// A number that every hop reads from the same id.
pub fn number(id: &HeaderValue) -> Option<u32> {
    u32::from_str_radix(id.to_str().ok()?.get(..8)?, 16).ok()
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
        let mut id = generate(7);
        assert_eq!(reason(&id), TraceReason::NotTraced);
        set_reason(&mut id, TraceReason::ServiceForced);
        assert_eq!(reason(&id), TraceReason::ServiceForced);
        assert_eq!(id.as_bytes()[14], b'a');
        assert_eq!(number(&id), Some(0));
    }

    #[test]
    fn an_id_without_a_number_keeps_its_digit() {
        let mut headers = HeaderMap::new();
        let id = HeaderValue::from_static("zzzzzzzz-0f0f-9f0f-8f0f-0f0f0f0f0f0f");
        headers.insert(X_REQUEST_ID, id.clone());
        POLICY.mark(&mut headers, Sampling::default());
        assert_eq!(headers[&X_REQUEST_ID], id);
    }
}
