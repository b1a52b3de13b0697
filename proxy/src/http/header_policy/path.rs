//! Path normalisation: escaped slashes, then dot segments, then double slashes (spec C.4).

use std::borrow::Cow;

use http::StatusCode;
use http::uri::PathAndQuery;

use super::{HeaderPolicy, Verdict};
use crate::http::exchange::Exchange;

/// What is done to paths before anything looks at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathPolicy {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

/// `path_with_escaped_slashes_action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// In an exchange's extensions: the request target as received, where it had a fragment, which no `Uri` can hold.
#[derive(Clone, Debug)]
pub struct TargetWithFragment(pub bytes::Bytes);

impl HeaderPolicy {
    /// Fragments are for browsers: one that arrives is an error, or is left out.
    pub(super) fn fragment(&self, exchange: &mut Exchange) -> Verdict {
        if exchange.extensions.get::<TargetWithFragment>().is_none() {
            return Verdict::Continue;
        }
        if self.reject_fragments.is_on() && exchange.request.uri().path_and_query().is_some() {
            return reject();
        }
        exchange.extensions.remove::<TargetWithFragment>();
        Verdict::Continue
    }
}

pub(super) const FAILED: &str = "path_normalization_failed";
pub(super) const ABSOLUTE: &str = "absolute_path_rejected";

impl PathPolicy {
    pub(super) fn apply(self, exchange: &mut Exchange) -> Verdict {
        let Some(original) = exchange.request.uri().path_and_query() else {
            return Verdict::Continue;
        };
        // As text: an absolute URI may have a query and no path.
        if !original.as_str().starts_with('/') {
            return Verdict::Reject {
                status: StatusCode::NOT_FOUND,
                details: ABSOLUTE,
            };
        }
        if self.is_plain(original.path()) {
            return Verdict::Continue;
        }
        let original = original.clone();
        let mut redirect = false;
        let mut path = Cow::Borrowed(original.path());
        if let Some(unescaped) = unescape_slashes(&path) {
            match self.escaped_slashes {
                EscapedSlashes::Keep => {}
                EscapedSlashes::Reject => {
                    // The log shows what was refused, as Envoy's does.
                    let target = with_query(&unescaped, original.query());
                    if let Ok(target) = PathAndQuery::try_from(target) {
                        super::route::set_path(exchange, target);
                    }
                    return reject();
                }
                EscapedSlashes::UnescapeAndForward => path = Cow::Owned(unescaped),
                EscapedSlashes::UnescapeAndRedirect => {
                    redirect = true;
                    path = Cow::Owned(unescaped);
                }
            }
        }
        if self.normalize {
            match canonical(&path) {
                Some(canonical) => path = Cow::Owned(canonical),
                None => return reject(),
            }
        }
        if self.merge_slashes {
            path = Cow::Owned(merge_slashes(&path));
        }
        if path == original.path() {
            return Verdict::Continue;
        }
        let target = with_query(&path, original.query());
        if redirect {
            if let Ok(target) = PathAndQuery::try_from(&target[..]) {
                super::route::set_path(exchange, target);
            }
            return Verdict::Redirect {
                location: target,
                details: FAILED,
            };
        }
        match PathAndQuery::try_from(target) {
            Ok(target) => {
                super::route::set_path(exchange, target);
                Verdict::Continue
            }
            Err(_) => reject(),
        }
    }

    /// Most paths have nothing to normalise: one look at their bytes says so.
    fn is_plain(self, path: &str) -> bool {
        let nothing = !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep;
        let bytes = path.as_bytes();
        let is_special = |pair: &[u8]| pair[0] == b'/' && matches!(pair[1], b'/' | b'.');
        let unusual = |byte: &u8| {
            matches!(
                byte,
                b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | b'^' | b'|'
            ) || !byte.is_ascii_graphic()
        };
        nothing || !(bytes.iter().any(unusual) || bytes.windows(2).any(is_special))
    }
}

fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

fn reject() -> Verdict {
    Verdict::Reject {
        status: StatusCode::BAD_REQUEST,
        details: FAILED,
    }
}

/// `None`: there is none to unescape.
fn unescape_slashes(path: &str) -> Option<String> {
    let has = |escape: &str| {
        path.as_bytes()
            .windows(3)
            .any(|part| part.eq_ignore_ascii_case(escape.as_bytes()))
    };
    if !has("%2f") && !has("%5c") {
        return None;
    }
    Some(
        path.replace("%2F", "/")
            .replace("%2f", "/")
            .replace("%5C", "\\")
            .replace("%5c", "\\"),
    )
}

/// Unreserved escapes decoded, `\` as `/`, dot segments removed, as the URL library that Envoy uses does. `None`: an escaped NUL.
fn canonical(path: &str) -> Option<String> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path.chars();
    while let Some(character) = rest.next() {
        match character {
            '\\' => decoded.push('/'),
            '%' => match escape(rest.as_str()) {
                Some(0) => return None,
                Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                    decoded.push(char::from(byte));
                    rest.nth(1);
                }
                _ => decoded.push('%'),
            },
            '"' | '<' | '>' | '`' | '{' | '}' | '^' | '|' | ' ' => {
                decoded.push_str(&format!("%{:02X}", character as u32))
            }
            other if other.is_ascii() => decoded.push(other),
            other => {
                let mut bytes = [0; 4];
                for byte in other.encode_utf8(&mut bytes).bytes() {
                    decoded.push_str(&format!("%{byte:02X}"));
                }
            }
        }
    }
    Some(remove_dots(&decoded))
}

fn escape(rest: &str) -> Option<u8> {
    let digits = rest
        .get(..2)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

fn remove_dots(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let body = path.strip_prefix('/').unwrap_or(path);
    let mut segments = body.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                let parent = out.rfind('/').unwrap_or(0);
                out.truncate(parent);
            }
            plain => {
                out.push('/');
                out.push_str(plain);
                continue;
            }
        }
        if is_last {
            out.push('/');
        }
    }
    if out.is_empty() {
        out.push('/');
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_canonical() {
        let cases = [
            ("/a/b/../c", "/a/c"),
            ("/a/./b", "/a/b"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a//b", "/a//b"),
            ("/a//..", "/a/"),
            ("/%61%2e%2E/b", "/a../b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%zz", "/a%zz"),
            ("/...", "/..."),
            ("/a|b^c", "/a%7Cb%5Ec"),
            ("/a/.;x/..", "/a/"),
            ("//a/./b//", "//a/b//"),
        ];
        for (path, expected) in cases {
            assert_eq!(canonical(path).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(canonical("/a%00"), None);
    }

    proptest::proptest! {
        #[test]
        fn canonical_is_idempotent_and_never_panics(path in "/[a-c%./\\\\0-9]{0,24}") {
            if let Some(once) = canonical(&path) {
                proptest::prop_assert!(once.starts_with('/'));
                proptest::prop_assert!(!once.contains("/../") && !once.ends_with("/.."));
            }
        }
    }
}
