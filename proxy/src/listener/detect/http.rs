//! HTTP by its first line, or by the HTTP/2 preface.

use super::Detection;

/// What `http_inspector` finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http {
    /// Any version of HTTP but 1.1, or a line without one (HTTP/0.9).
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
/// The first line ends within so many bytes, or the connection does: Envoy's buffer.
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
    // The method is looked at as it comes; an empty line in front of it is none.
    let method = bytes.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')).next();
    if !method.is_some_and(is_method) {
        return Detection::No;
    }
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    match memchr::memchr(b'\n', bytes) {
        Some(end) => first_line(&bytes[..end]),
        None if bytes.len() < MAX_LINE => Detection::NeedMore,
        None => Detection::Broken("first line is too long"),
    }
}

/// Method, target and version, with anything up to a space between them.
fn first_line(line: &[u8]) -> Detection<Http> {
    let is_blank = |byte: &u8| *byte <= b' ';
    let word = |rest: &mut &[u8]| -> Vec<u8> {
        let start = rest.iter().position(|byte| !is_blank(byte)).unwrap_or(rest.len());
        let text = &rest[start..];
        let end = text.iter().position(is_blank).unwrap_or(text.len());
        *rest = &text[end..];
        text[..end].to_vec()
    };
    let mut rest = line;
    let method = word(&mut rest);
    let target = word(&mut rest);
    let start = rest.iter().position(|byte| !is_blank(byte)).unwrap_or(rest.len());
    let version = &rest[start..];
    let end = version
        .iter()
        .rposition(|byte| !is_blank(byte))
        .map_or(0, |last| last + 1);
    let version = &version[..end];
    if !is_method(&method) || !is_target(&target, method == b"CONNECT") {
        return Detection::No;
    }
    match version {
        b"HTTP/1.1" => Detection::Found(Http::Http11),
        b"" => Detection::Found(Http::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Detection::Found(Http::Http10)
        }
        _ => Detection::No,
    }
}

fn is_method(method: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !method.is_empty() && method.iter().all(is_token)
}

/// A path, `*`, or an absolute URL; for CONNECT what stands behind a URL's scheme.
fn is_target(target: &[u8], is_connect: bool) -> bool {
    let is_path = |path: &[u8]| path.iter().all(|byte| (b'!'..=b'~').contains(byte));
    let mut authority = target;
    match target.first() {
        None => return false,
        Some(b'/' | b'*') => return is_path(target),
        Some(first) if !is_connect => {
            let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
            let length = target.iter().take_while(|byte| is_scheme(byte)).count();
            let Some(behind) = target[length..].strip_prefix(b"://") else {
                return false;
            };
            if !first.is_ascii_alphabetic() {
                return false;
            }
            authority = behind;
        }
        Some(_) => {}
    }
    let length = authority.iter().take_while(|byte| !matches!(byte, b'/' | b'?')).count();
    let (host, path) = authority.split_at(length);
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"!$%&'()*+,-.:;=@[]_~".contains(byte);
    host.iter().all(is_host) && !host.windows(2).any(|two| two == b"@@") && is_path(path)
}
