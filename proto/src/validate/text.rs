//! PGV rules of strings and bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::OnceLock;

use regex::Regex;

use crate::schema::{Rule, layout, ops};

/// How a rule is broken, in words.
pub(super) fn broken(rule: Rule, bytes: &[u8]) -> Option<String> {
    // Strings were checked to be UTF-8 before; bytes are never looked at as text but by `pattern`.
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let wanted = rule.bytes();
    let limit = rule.number();
    let chars = || text.chars().count() as u64;
    let length = bytes.len() as u64;
    let say = |holds: bool, reason: &dyn Fn() -> String| (!holds).then(reason);
    let fixed = |holds: bool, reason: &str| (!holds).then(|| reason.to_owned());
    let shown = || String::from_utf8_lossy(wanted).into_owned();
    match rule.op() {
        ops::TEXT_CONST => say(bytes == wanted, &|| format!("must be {:?}", shown())),
        ops::LEN => say(chars() == limit, &|| format!("must have {limit} characters")),
        // Bytes are at least as many as characters, and at most four times as many.
        ops::MIN_LEN if limit <= 1 => say(length >= limit, &|| "must not be empty".to_owned()),
        ops::MIN_LEN => say(chars() >= limit, &|| format!("must have at least {limit} characters")),
        ops::MAX_LEN => say(length <= limit || chars() <= limit, &|| {
            format!("must have at most {limit} characters")
        }),
        ops::LEN_BYTES => say(length == limit, &|| format!("must have {limit} bytes")),
        ops::MIN_BYTES if limit <= 1 => say(length >= limit, &|| "must not be empty".to_owned()),
        ops::MIN_BYTES => say(length >= limit, &|| format!("must have at least {limit} bytes")),
        ops::MAX_BYTES => say(length <= limit, &|| format!("must have at most {limit} bytes")),
        ops::PATTERN => say(matches(rule, text), &|| format!("must match {:?}", shown())),
        ops::PREFIX => say(bytes.starts_with(wanted), &|| format!("must start with {:?}", shown())),
        ops::SUFFIX => say(bytes.ends_with(wanted), &|| format!("must end with {:?}", shown())),
        ops::CONTAINS => say(contains(bytes, wanted), &|| format!("must contain {:?}", shown())),
        ops::NOT_CONTAINS => say(!contains(bytes, wanted), &|| format!("must not contain {:?}", shown())),
        ops::TEXT_IN => fixed(rule.texts().any(|one| one == bytes), "is not one of the values allowed"),
        ops::TEXT_NOT_IN => fixed(rule.texts().all(|one| one != bytes), "is one of the values forbidden"),
        ops::EMAIL => fixed(is_email(text), "must be an email address"),
        ops::HOSTNAME => fixed(is_hostname(text), "must be a host name"),
        ops::IP => fixed(is_ip::<IpAddr>(text, bytes, &[4, 16]), "must be an IP address"),
        ops::IPV4 => fixed(is_ip::<Ipv4Addr>(text, bytes, &[4]), "must be an IPv4 address"),
        ops::IPV6 => fixed(is_ip::<Ipv6Addr>(text, bytes, &[16]), "must be an IPv6 address"),
        ops::URI => fixed(is_uri(text), "must be an absolute URI"),
        ops::URI_REF => fixed(!text.bytes().any(|byte| byte <= b' ' || byte == 0x7f), "must be a URI"),
        ops::ADDRESS => fixed(
            is_hostname(text) || text.parse::<IpAddr>().is_ok(),
            "must be a host name or an IP address",
        ),
        ops::UUID => fixed(is_uuid(text), "must be a UUID"),
        ops::HEADER_NAME => fixed(is_header_name(text, rule.extra() == 1), "must be a header name"),
        ops::HEADER_VALUE => fixed(is_header_value(bytes, rule.extra() == 1), "must be a header value"),
        _ => None,
    }
}

/// Patterns are compiled by the first value that needs them.
fn matches(rule: Rule, text: &str) -> bool {
    static COMPILED: [OnceLock<Option<Regex>>; layout::PATTERN_COUNT] =
        [const { OnceLock::new() }; layout::PATTERN_COUNT];
    let Some(slot) = COMPILED.get(rule.extra() as usize) else {
        return true;
    };
    let compiled = slot.get_or_init(|| {
        std::str::from_utf8(rule.bytes())
            .ok()
            .and_then(|pattern| Regex::new(pattern).ok())
    });
    compiled.as_ref().is_none_or(|regex| regex.is_match(text))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Text for strings, raw network order for bytes.
fn is_ip<T: FromStr>(text: &str, bytes: &[u8], lengths: &[usize]) -> bool {
    text.parse::<T>().is_ok() || lengths.contains(&bytes.len()) && bytes.iter().any(|byte| !byte.is_ascii_graphic())
}

/// RFC 1034: labels of letters, digits and inner hyphens.
fn is_hostname(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn is_email(text: &str) -> bool {
    text.rsplit_once('@')
        .is_some_and(|(user, host)| (1..=64).contains(&user.len()) && is_hostname(host))
}

fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && !rest.is_empty()
        && !rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(position, byte)| match position {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// PGV's strict form is RFC 7230's token, with a colon in front for pseudo headers; the loose one bans what could split a header.
fn is_header_name(text: &str, strict: bool) -> bool {
    if !strict {
        return is_header_value(text.as_bytes(), false);
    }
    let token = text.strip_prefix(':').unwrap_or(text);
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&byte);
    !token.is_empty() && token.bytes().all(allowed)
}

fn is_header_value(bytes: &[u8], strict: bool) -> bool {
    if strict {
        !bytes.iter().any(|byte| matches!(byte, 0..=8 | 0x0a..=0x1f | 0x7f))
    } else {
        !bytes.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r'))
    }
}
