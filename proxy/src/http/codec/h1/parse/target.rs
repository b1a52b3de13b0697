//! The request line: methods, targets, versions.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};

use super::{CODEC_ERROR, is_authority};
use crate::http::failure::Failure;

/// Methods that Envoy's parser knows, but for those that [`Method`] has a name for; others are refused (`allow_custom_methods`).
const KNOWN_METHODS: [&str; 25] = [
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "QUERY",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

pub(super) fn method(name: &str) -> Result<Method, Failure> {
    let method = Method::from_bytes(name.as_bytes()).map_err(|_| CODEC_ERROR)?;
    let standard = matches!(
        method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::DELETE
            | Method::CONNECT
            | Method::OPTIONS
            | Method::TRACE
            | Method::PATCH
    );
    if standard || KNOWN_METHODS.contains(&name) {
        Ok(method)
    } else {
        Err(CODEC_ERROR)
    }
}

/// What a request line asks for.
pub(super) struct Target {
    pub(super) uri: Uri,
    /// Path, query and fragment, if there is a fragment: the URI has none.
    pub(super) fragment: Option<Bytes>,
}

impl Target {
    /// All four forms (RFC 9112 section 3.2).
    pub(super) fn parse(method: &Method, target: Bytes) -> Result<Self, Failure> {
        if *method == Method::CONNECT {
            return Self::authority_form(target);
        }
        if target.starts_with(b"/") {
            let fragment = with_fragment(&target, 0);
            return Ok(Self {
                uri: to_uri(target)?,
                fragment,
            });
        }
        if target.starts_with(b"*") {
            return match *method {
                Method::OPTIONS => Ok(Self {
                    uri: to_uri(target)?,
                    fragment: None,
                }),
                _ => Err(INVALID_URL),
            };
        }
        Self::absolute_form(target)
    }

    fn authority_form(target: Bytes) -> Result<Self, Failure> {
        check_authority(&target, true)?;
        let uri = Uri::from_maybe_shared(target).map_err(|_| INVALID_URL)?;
        Ok(Self { uri, fragment: None })
    }

    fn absolute_form(target: Bytes) -> Result<Self, Failure> {
        let scheme = memchr::memmem::find(&target, b"://").ok_or(CODEC_ERROR)?;
        let is_http = |scheme: &[u8]| scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https");
        match target.get(..scheme) {
            Some(scheme) if is_http(scheme) => {}
            Some(scheme) if !scheme.is_empty() && scheme.iter().all(u8::is_ascii_alphanumeric) => {
                return Err(INVALID_SCHEME);
            }
            _ => return Err(CODEC_ERROR),
        }
        let start = scheme + 3;
        let rest = target.get(start..).unwrap_or_default();
        let end = rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len());
        if rest.get(end) == Some(&b'#') {
            return Err(CODEC_ERROR);
        }
        let authority = rest.get(..end).unwrap_or_default();
        if !authority.iter().all(|byte| is_authority(*byte)) {
            return Err(CODEC_ERROR);
        }
        // User info in a target names nobody's host (RFC 9110, 4.2.4): it goes no further.
        let user = memchr::memchr(b'@', authority).map_or(0, |at| at + 1);
        check_authority(authority.get(user..).unwrap_or_default(), false)?;
        let fragment = with_fragment(&target, start + end);
        let target = match user {
            0 => target,
            user => Bytes::from([target.slice(..start), target.slice(start + user..)].concat()),
        };
        Ok(Self {
            uri: to_uri(target)?,
            fragment,
        })
    }
}

/// `host` or `host:port` with a host that is one and a port that is one.
fn check_authority(authority: &[u8], needs_port: bool) -> Result<(), Failure> {
    let text = std::str::from_utf8(authority).map_err(|_| INVALID_URL)?;
    let (host_ok, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(INVALID_URL)?;
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err(INVALID_URL),
            };
            (address.parse::<Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let plain = host.bytes().all(|byte| is_authority(byte) && !b"@[]".contains(&byte));
            (!host.is_empty() && plain, port)
        }
    };
    let port_ok = match port {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => !needs_port,
    };
    if host_ok && port_ok { Ok(()) } else { Err(INVALID_URL) }
}

fn with_fragment(target: &Bytes, path: usize) -> Option<Bytes> {
    memchr::memchr(b'#', target).map(|_| target.slice(path..))
}

/// What no URI may have in it, but Envoy passes on, goes on escaped: it is the same to whoever reads it as a URI.
fn to_uri(target: Bytes) -> Result<Uri, Failure> {
    const UNSAFE: &[u8] = b"<>\"`";
    if let Ok(uri) = Uri::from_maybe_shared(target.clone()) {
        return Ok(uri);
    }
    if !target.iter().any(|byte| UNSAFE.contains(byte)) {
        return Err(CODEC_ERROR);
    }
    let mut escaped = Vec::with_capacity(target.len() + 16);
    for byte in target {
        match byte {
            b'<' => escaped.extend_from_slice(b"%3C"),
            b'>' => escaped.extend_from_slice(b"%3E"),
            b'"' => escaped.extend_from_slice(b"%22"),
            b'`' => escaped.extend_from_slice(b"%60"),
            byte => escaped.push(byte),
        }
    }
    Uri::from_maybe_shared(Bytes::from(escaped)).map_err(|_| CODEC_ERROR)
}

/// Whether the buffer begins with a request line of another HTTP than 1.0 and 1.1: of none (0.9), or of one with two digits.
pub(super) fn is_of_other_version(buffer: &[u8]) -> bool {
    let end = memchr::memchr2(b'\r', b'\n', buffer).unwrap_or(buffer.len());
    let Ok(line) = std::str::from_utf8(buffer.get(..end).unwrap_or_default()) else {
        return false;
    };
    let mut words = line.split(' ');
    let (name, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let version_is_other = match (words.next(), words.next()) {
        (None, _) => end < buffer.len(),
        (Some(version), None) => match version.strip_prefix("HTTP/").map(str::as_bytes) {
            Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
            _ => false,
        },
        (Some(_), Some(_)) => false,
    };
    version_is_other && target.starts_with('/') && method(name).is_ok()
}

const INVALID_SCHEME: Failure = Failure::BadRequest {
    details: "http1.invalid_scheme",
    status: StatusCode::BAD_REQUEST,
};
const INVALID_URL: Failure = Failure::BadRequest {
    details: "http1.invalid_url",
    status: StatusCode::BAD_REQUEST,
};
