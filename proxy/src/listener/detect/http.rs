//! HTTP by its first line, or by the HTTP/2 preface.

use super::Detection;

/// What `http_inspector` finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    Http10,
    Http11,
    /// The HTTP/2 preface, in the clear.
    Http2,
}

impl Http {
    /// The application protocol that filter chains match.
    pub fn protocol(self) -> &'static str {
        match self {
            Self::Http10 => "http/1.0",
            Self::Http11 => "http/1.1",
            Self::Http2 => "h2c",
        }
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// As much of a request line as Envoy looks at.
const MAX_LINE: usize = 64 * 1024;

/// Looks at the start of a plaintext stream.
pub fn parse(bytes: &[u8]) -> Detection<Http> {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return match common == PREFACE.len() {
            true => Detection::Found(Http::Http2),
            false => Detection::NeedMore,
        };
    }
    // A peer may send empty lines before its first request (RFC 9112 section 2.2).
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = &bytes[start..];
    let end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let method = memchr::memchr(b' ', line).map_or(line, |space| &line[..space]);
    if method.len() == line.len() {
        // No space yet: still a method, as long as every byte may stand in one.
        let open = end.is_none() && line.len() <= 32 && line.iter().all(is_token);
        return if open { Detection::NeedMore } else { Detection::No };
    }
    if method.is_empty() || !method.iter().all(is_token) || line.iter().any(|byte| *byte < 0x20 && *byte != b'\r') {
        return Detection::No;
    }
    let Some(_) = end else {
        return if line.len() < MAX_LINE {
            Detection::NeedMore
        } else {
            Detection::No
        };
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    match version {
        b"HTTP/1.1" => Detection::Found(Http::Http11),
        b"HTTP/1.0" => Detection::Found(Http::Http10),
        _ => Detection::No,
    }
}

fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
