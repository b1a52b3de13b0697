//! Heads and chunks → bytes. Names go out in lower case, as Envoy sends them.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::parse::is_hop_by_hop;

/// How a body goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body; a `content-length` header stays as it is (HEAD, 304).
    None,
    Length(u64),
    Chunked,
    /// No body, but the coding that it would have: the answer to HEAD, where the length is not known.
    HeadChunked,
    /// A response to an HTTP/1.0 client: ends with the connection.
    UntilClose,
}

/// Appends a request head. The authority is the `host` header of `headers`; framing headers there are replaced by `framing`.
pub fn request_head(
    out: &mut Vec<u8>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    framing: Framing,
    upgrade: bool,
) {
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    if *method == Method::CONNECT {
        let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
        out.extend_from_slice(authority.or(host).unwrap_or_default());
    } else {
        out.extend_from_slice(uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = host {
        header(out, b"host", host);
    }
    for (name, value) in headers {
        // Who says that there is no body may go on saying so.
        let is_empty = framing == Framing::None && value.as_bytes() == b"0";
        let replaced = name == HOST || name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && !is_empty);
        if !replaced && (upgrade || !is_hop_by_hop(name)) {
            header(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    framing_header(out, framing);
    out.extend_from_slice(b"\r\n");
}

/// Appends a response head. `connection` is sent when set (`close`, `keep-alive`).
pub fn response_head(
    out: &mut Vec<u8>,
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    connection: Option<&'static str>,
) {
    out.extend_from_slice(if version == Version::HTTP_10 {
        b"HTTP/1.0 "
    } else {
        b"HTTP/1.1 "
    });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let upgrading = status == StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in headers {
        let replaced = name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && framing != Framing::None);
        if !replaced && (upgrading || !is_hop_by_hop(name)) {
            header(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    framing_header(out, framing);
    if let Some(connection) = connection.filter(|_| !upgrading) {
        header(out, b"connection", connection.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Envoy's reason phrases (`CodeUtility::toString`): those of RFC 9110's registry, and "Unknown" for what it does not list.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        103 | 418 | 451 => "Unknown",
        203 => "Non-Authoritative Information",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

/// Appends one chunk; empty data appends nothing (an empty chunk would end the body).
pub fn chunk(out: &mut Vec<u8>, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let mut digits = [0u8; 16];
    let mut at = digits.len();
    let mut rest = data.len();
    while rest > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[rest & 15];
        rest >>= 4;
    }
    out.reserve(data.len() + 20);
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, with trailers if there are any.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        header(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn framing_header(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::Length(length) => {
            let mut buffer = itoa::Buffer::new();
            header(
                out,
                CONTENT_LENGTH.as_str().as_bytes(),
                buffer.format(length).as_bytes(),
            );
        }
        Framing::Chunked | Framing::HeadChunked => header(out, TRANSFER_ENCODING.as_str().as_bytes(), b"chunked"),
        Framing::None | Framing::UntilClose => {}
    }
}
