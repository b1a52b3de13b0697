//! Upgrades and CONNECT: what a request asks for, its form in either version, and the tunnel after the answer.
//!
//! Between the codecs an upgrade is always HTTP/1's: `GET`, `connection: upgrade`, `upgrade: <token>`, answered by 101; the bodies behind are the
//! tunnel. HTTP/2 says the same as extended CONNECT with `:protocol`, answered by 200 (RFC 8441); [`from_extended_connect`] and its three
//! siblings translate.

mod tunnel;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Extensions, HeaderMap, Method, StatusCode, Version, request, response};
use sha1::{Digest, Sha1};

use super::codec::h2::Protocol;
pub use tunnel::{TunnelEnd, TunnelReason, TunnelWriter, reader_body, split_tunnel, tunnel};

/// What a request wants to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpgradeKind {
    /// `upgrade: <token>`, lower-cased (`websocket`), or extended CONNECT's `:protocol`.
    Upgrade(String),
    Connect,
}

impl UpgradeKind {
    /// What a request asks for, in whichever version's form. `h2c` is no upgrade: Envoy strips it and serves the request as it is.
    pub fn of<B>(request: &http::Request<B>) -> Option<Self> {
        Self::read(request.method(), request.headers(), request.extensions())
    }

    /// As [`Self::of`], of a head that stands alone.
    pub fn of_head(head: &request::Parts) -> Option<Self> {
        Self::read(&head.method, &head.headers, &head.extensions)
    }

    fn read(method: &Method, headers: &HeaderMap, extensions: &Extensions) -> Option<Self> {
        if *method == Method::CONNECT {
            return Some(match extensions.get::<Protocol>() {
                Some(protocol) => Self::Upgrade(protocol.as_str().to_ascii_lowercase()),
                None => Self::Connect,
            });
        }
        let token = headers.get(UPGRADE)?.to_str().ok()?.trim();
        if token.eq_ignore_ascii_case("h2c") || !names_upgrade(headers) {
            return None;
        }
        Some(Self::Upgrade(token.to_ascii_lowercase()))
    }

    pub fn is_websocket(&self) -> bool {
        matches!(self, Self::Upgrade(token) if token == "websocket")
    }
}

fn names_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// What the answer to a translated upgrade depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translated {
    token: String,
    /// The `sec-websocket-key` that the downstream sent.
    key: Option<HeaderValue>,
}

/// Downstream HTTP/2: turns extended CONNECT into HTTP/1's form, with a `sec-websocket-key` if an HTTP/1 server will want one. `None`: it is none.
pub fn from_extended_connect(head: &mut request::Parts) -> Option<Translated> {
    let protocol = head.extensions.remove::<Protocol>()?;
    let token = protocol.as_str().to_ascii_lowercase();
    let key = head.headers.get(SEC_WEBSOCKET_KEY).cloned();
    head.method = Method::GET;
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(value) = HeaderValue::from_str(&token) {
        head.headers.insert(UPGRADE, value);
    }
    if token == "websocket" && key.is_none() {
        let nonce: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
        if let Ok(value) = HeaderValue::from_str(&STANDARD.encode(nonce)) {
            head.headers.insert(SEC_WEBSOCKET_KEY, value);
        }
    }
    Some(Translated { token, key })
}

/// Downstream HTTP/2: the answer to [`from_extended_connect`]'s request. Only 101 changes.
pub fn to_extended_connect_response(translated: &Translated, head: &mut response::Parts) {
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    head.status = StatusCode::OK;
    head.headers.remove(CONNECTION);
    head.headers.remove(UPGRADE);
    head.headers.remove(CONTENT_LENGTH);
    if translated.key.is_none() {
        head.headers.remove(SEC_WEBSOCKET_ACCEPT);
    }
}

/// Upstream HTTP/2: turns HTTP/1's form into extended CONNECT. `None`: it is no upgrade. The key travels on, as Envoy sends it.
pub fn to_extended_connect(head: &mut request::Parts) -> Option<Translated> {
    let Some(UpgradeKind::Upgrade(token)) = UpgradeKind::of_head(head) else {
        return None;
    };
    if head.method != Method::CONNECT {
        head.method = Method::CONNECT;
        head.extensions.insert(Protocol::from(token.as_str()));
    }
    head.headers.remove(CONNECTION);
    head.headers.remove(UPGRADE);
    if head.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0") {
        head.headers.remove(CONTENT_LENGTH);
    }
    let key = head.headers.get(SEC_WEBSOCKET_KEY).cloned();
    Some(Translated { token, key })
}

/// Upstream HTTP/2: the answer to [`to_extended_connect`]'s request. 200 becomes 101; a server that follows RFC 8441 to the letter sends no
/// `sec-websocket-accept`, so it is computed.
pub fn from_extended_connect_response(translated: &Translated, head: &mut response::Parts) {
    if head.status != StatusCode::OK {
        return;
    }
    head.status = StatusCode::SWITCHING_PROTOCOLS;
    head.version = Version::HTTP_11;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(value) = HeaderValue::from_str(&translated.token) {
        head.headers.insert(UPGRADE, value);
    }
    let Some(key) = &translated.key else { return };
    if translated.token == "websocket" && !head.headers.contains_key(SEC_WEBSOCKET_ACCEPT) {
        head.headers
            .insert(SEC_WEBSOCKET_ACCEPT, websocket_accept(key.as_bytes()));
    }
}

/// The authority that a CONNECT asks for, with its port.
pub fn connect_target(head: &request::Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => head.headers.get(HOST)?.to_str().ok(),
    }
}

/// RFC 6455 4.2.2: the base64 of the SHA-1 of the key and a fixed GUID.
fn websocket_accept(key: &[u8]) -> HeaderValue {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let mut text = key.to_vec();
    text.extend_from_slice(GUID);
    let accept = STANDARD.encode(Sha1::digest(&text));
    HeaderValue::from_str(&accept).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut request = http::Request::builder().method(method).uri("/chat");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn tells_an_upgrade_from_a_plain_request() {
        let asks = |headers| UpgradeKind::of_head(&parts(Method::GET, headers));
        let websocket = Some(UpgradeKind::Upgrade("websocket".to_owned()));
        assert_eq!(
            asks(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]),
            websocket
        );
        assert_eq!(asks(&[("upgrade", "websocket")]), None);
        assert_eq!(asks(&[("connection", "upgrade")]), None);
        assert_eq!(
            asks(&[("connection", "upgrade, http2-settings"), ("upgrade", "h2c")]),
            None
        );
        assert_eq!(
            UpgradeKind::of_head(&parts(Method::CONNECT, &[])),
            Some(UpgradeKind::Connect)
        );
    }

    #[test]
    fn an_upgrade_survives_the_way_over_http2() {
        let headers = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let original = parts(Method::GET, &headers);
        let mut head = original.clone();
        let sent = to_extended_connect(&mut head).unwrap();
        assert_eq!(head.method, Method::CONNECT);
        assert_eq!(head.extensions.get::<Protocol>().unwrap().as_str(), "websocket");
        assert!(!head.headers.contains_key(UPGRADE) && !head.headers.contains_key(CONNECTION));
        let received = from_extended_connect(&mut head).unwrap();
        assert_eq!(head.method, original.method);
        assert_eq!(head.headers, original.headers);

        let mut answer = response::Response::new(()).into_parts().0;
        from_extended_connect_response(&sent, &mut answer);
        assert_eq!(answer.status, StatusCode::SWITCHING_PROTOCOLS);
        // The example of RFC 6455 1.3.
        assert_eq!(answer.headers[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        to_extended_connect_response(&received, &mut answer);
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.headers.contains_key(SEC_WEBSOCKET_ACCEPT) && !answer.headers.contains_key(UPGRADE));
    }

    #[test]
    fn a_key_is_made_for_a_client_that_has_none() {
        let mut head = parts(Method::CONNECT, &[]);
        head.extensions.insert(Protocol::from("websocket"));
        let translated = from_extended_connect(&mut head).unwrap();
        assert_eq!(head.headers[SEC_WEBSOCKET_KEY].len(), 24);
        let mut answer = response::Response::builder()
            .status(101)
            .header(SEC_WEBSOCKET_ACCEPT, "x")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        to_extended_connect_response(&translated, &mut answer);
        assert!(!answer.headers.contains_key(SEC_WEBSOCKET_ACCEPT));
    }
}
