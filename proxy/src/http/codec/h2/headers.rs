//! Heads between the versions: what is HTTP/1's alone goes, what HTTP/2 says in pseudo headers moves.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Uri, Version, request};

use super::wire::Protocol;
use crate::http::failure::Failure;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Names and values of a request's pseudo headers.
pub(super) fn pseudo_bytes(method: &Method, uri: &Uri) -> usize {
    let target = uri
        .path_and_query()
        .map_or(0, |target| ":path".len() + target.as_str().len());
    let authority = uri
        .authority()
        .map_or(0, |authority| ":authority".len() + authority.as_str().len());
    let scheme = uri.scheme_str().map_or(0, |scheme| ":scheme".len() + scheme.len());
    ":method".len() + method.as_str().len() + target + authority + scheme
}

pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// RFC 9113 8.2.3: cookie crumbs become one header before anybody else reads them.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else { return };
    let Some(second) = crumbs.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, value);
    }
}

/// Removes what belongs to one HTTP/1 hop (RFC 9113 8.2.2), `te: trailers` excepted.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
        .filter(|name| name != TE)
        .collect();
    for name in &nominated {
        headers.remove(name);
    }
    for name in [
        CONNECTION,
        TRANSFER_ENCODING,
        UPGRADE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    keep_te_trailers(headers);
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == TE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
        || *name == HTTP2_SETTINGS
}

fn keep_te_trailers(headers: &mut HeaderMap) {
    let Some(te) = headers.get(TE) else { return };
    let wants_trailers = te
        .to_str()
        .is_ok_and(|te| te.split(',').any(|token| token.trim().eq_ignore_ascii_case("trailers")));
    headers.remove(TE);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes a request head fit for HTTP/2: `host` (which wins, because rewrites set it) or the URI's authority becomes `:authority`.
///
/// # Errors
///
/// When the head has no authority, or one that HTTP/2 cannot say.
pub(super) fn to_h2_request(head: &mut request::Parts) -> Result<(), Failure> {
    const UNSAYABLE: Failure = Failure::ProtocolError("http2.invalid_authority");
    strip_hop_by_hop(&mut head.headers);
    let host = head.headers.remove(HOST);
    let has_all = head.uri.authority().is_some() && head.uri.scheme().is_some();
    head.version = Version::HTTP_2;
    if has_all && host.is_none() {
        return Ok(());
    }
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    if let Some(host) = host {
        uri.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| UNSAYABLE)?);
    }
    if uri.authority.is_none() {
        return Err(UNSAYABLE);
    }
    let plain_connect = head.method == Method::CONNECT && head.extensions.get::<Protocol>().is_none();
    if plain_connect {
        uri.scheme = None;
        uri.path_and_query = None;
    } else {
        uri.scheme.get_or_insert_with(|| scheme(&head.headers));
        uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    }
    head.uri = Uri::from_parts(uri).map_err(|_| UNSAYABLE)?;
    Ok(())
}

/// Envoy's rule for a request that does not bring a scheme: `x-forwarded-proto`, which the connection manager has set.
fn scheme(headers: &HeaderMap) -> Scheme {
    match headers.get(X_FORWARDED_PROTO) {
        Some(proto) if proto.as_bytes().eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        _ => Scheme::HTTP,
    }
}
