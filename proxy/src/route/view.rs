//! What matchers look at: a request by reference, nothing copied.

use std::borrow::Cow;

use http::{Extensions, HeaderMap, Method, Uri};

use crate::http::exchange::Exchange;
use crate::http::upgrade::UpgradeKind;
use crate::listener::ConnectionInfo;

/// A request as routes, hash policies and access-log filters see it.
#[derive(Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    pub authority: Option<&'a [u8]>,
    pub connection: &'a ConnectionInfo,
    /// Holds [`DynamicMetadata`](crate::http::exchange::DynamicMetadata) and filter state.
    pub extensions: &'a Extensions,
    /// The token of an extended CONNECT or upgrade.
    pub upgrade: Option<&'a UpgradeKind>,
    pub internal: bool,
    /// The stream's random number: one for every choice, so that they agree.
    pub random: u64,
}

impl<'a> RequestView<'a> {
    pub fn of(exchange: &'a Exchange) -> Self {
        Self {
            method: exchange.request.method(),
            uri: exchange.request.uri(),
            headers: exchange.request.headers(),
            authority: exchange.authority.as_ref().map(http::HeaderValue::as_bytes),
            connection: &exchange.connection,
            extensions: &exchange.extensions,
            upgrade: exchange.upgrade.as_ref(),
            internal: exchange.internal,
            random: exchange.random,
        }
    }

    /// `:path` with its query; `None` for a CONNECT that names only an authority.
    pub fn path_and_query(&self) -> Option<&'a str> {
        self.uri.path_and_query().map(http::uri::PathAndQuery::as_str)
    }

    /// `:path` up to the query.
    pub fn path(&self) -> Option<&'a str> {
        self.uri.path_and_query().map(http::uri::PathAndQuery::path)
    }

    pub fn query(&self) -> Option<&'a str> {
        self.uri.query()
    }

    /// A CONNECT that is not an extended one.
    pub fn is_connect(&self) -> bool {
        self.method == Method::CONNECT && self.path_and_query().is_none()
    }

    /// `:scheme`: of the URI, else what `x-forwarded-proto` says, else what the connection is.
    pub fn scheme(&self) -> &'a str {
        if let Some(scheme) = self.uri.scheme_str() {
            return scheme;
        }
        match self.headers.get("x-forwarded-proto").map(http::HeaderValue::as_bytes) {
            Some(b"http") => "http",
            Some(b"https") => "https",
            _ if self.connection.tls.is_some() => "https",
            _ => "http",
        }
    }

    /// A gRPC request by its content type.
    pub fn is_grpc(&self) -> bool {
        self.path().is_some() && is_grpc(self.headers)
    }

    /// The first value of a query parameter, as written (spec D.2: not decoded).
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        query_parameter(self.query()?, name)
    }

    /// The first cookie of that name.
    pub fn cookie(&self, name: &str) -> Option<&'a [u8]> {
        cookie(self.headers, name)
    }
}

/// The first value of `name` in a query string, as written.
pub fn query_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The first cookie of that name; surrounding quotes are not part of it.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    for value in headers.get_all(http::header::COOKIE) {
        for pair in value.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let Some(split) = pair.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            if &pair[..split] == name.as_bytes() {
                let value = pair[split + 1..].trim_ascii();
                let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
                return Some(unquoted.unwrap_or(value));
            }
        }
    }
    None
}

/// `application/grpc`, or that with a `+` suffix; of several content types, their list is looked at.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = joined(headers, &http::header::CONTENT_TYPE);
    let rest = content_type
        .as_deref()
        .and_then(|value| value.strip_prefix(b"application/grpc".as_slice()));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

/// Every value of a header, joined with `,`; a lone value is not copied.
pub fn joined<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_taken_as_written_and_the_first_wins() {
        assert_eq!(query_parameter("a=1&b&a=2&c=%20", "a"), Some("1"));
        assert_eq!(query_parameter("a=1&b&a=2&c=%20", "b"), Some(""));
        assert_eq!(query_parameter("a=1&b&a=2&c=%20", "c"), Some("%20"));
        assert_eq!(query_parameter("a=1", "d"), None);
    }

    #[test]
    fn cookies_are_found_over_several_headers() {
        let mut headers = HeaderMap::new();
        headers.append("cookie", http::HeaderValue::from_static("a=1; b=\"two\""));
        headers.append("cookie", http::HeaderValue::from_static("c = 3"));
        assert_eq!(cookie(&headers, "b"), Some(b"two".as_slice()));
        assert_eq!(cookie(&headers, "a"), Some(b"1".as_slice()));
        assert_eq!(cookie(&headers, "d"), None);
    }

    #[test]
    fn grpc_needs_the_exact_type_or_a_plus() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpc; x", false),
            ("application/grpc;x", false),
            ("Application/grpc", false),
            ("application/grpc,text/html", false),
            ("text/html,application/grpc", false),
        ] {
            let mut headers = HeaderMap::new();
            for line in value.split(',') {
                headers.append("content-type", http::HeaderValue::from_static(line));
            }
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}
