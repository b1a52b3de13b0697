//! Header names out of bytes.

use http::HeaderName;

/// Names that most requests of a mesh bring and that `http` has no constant for: each of them would be copied into an allocation of its own.
static COMMON: [HeaderName; 17] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-client-cert"),
    HeaderName::from_static("x-envoy-attempt-count"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-external-address"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-peer-metadata"),
    HeaderName::from_static("x-envoy-peer-metadata-id"),
    HeaderName::from_static("x-envoy-upstream-service-time"),
    HeaderName::from_static("x-b3-traceid"),
    HeaderName::from_static("x-b3-spanid"),
    HeaderName::from_static("x-b3-parentspanid"),
    HeaderName::from_static("x-b3-sampled"),
];

/// `None`: no header name (RFC 9110, 5.1).
pub(super) fn parse(bytes: &[u8]) -> Option<HeaderName> {
    let common = bytes
        .starts_with(b"x-")
        .then(|| COMMON.iter().find(|name| name.as_str().as_bytes() == bytes));
    match common.flatten() {
        Some(name) => Some(name.clone()),
        None => HeaderName::from_bytes(bytes).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_whoever_spells_it() {
        for name in &COMMON {
            assert_eq!(parse(name.as_str().as_bytes()).as_ref(), Some(name));
            assert_eq!(parse(name.as_str().to_uppercase().as_bytes()).as_ref(), Some(name));
        }
        assert_eq!(parse(b"x-request-ids"), Some(HeaderName::from_static("x-request-ids")));
        assert_eq!(parse(b"x request"), None);
        assert_eq!(parse(b""), None);
    }
}
