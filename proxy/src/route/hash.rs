//! Hash policies: what of a request decides its host on a ring (spec D.10).

use std::time::Duration;

use http::HeaderValue;
use remora_proto::pb::envoy::config::route::v3::route_action as pba;
use remora_proto::pb::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;
use xxhash_rust::xxh64::xxh64;

use super::headers::HeaderKey;
use super::rewrite::Substitution;
use super::view::RequestView;
use crate::config::route::{Under, duration};
use crate::config::{Compiled, Problems};
use crate::http::exchange::FilterState;
use crate::runtime::io::Address;

/// One compiled `HashPolicy`.
#[derive(Debug)]
pub struct HashPolicy {
    source: Source,
    terminal: bool,
}

#[derive(Debug)]
enum Source {
    Header {
        key: HeaderKey,
        rewrite: Option<Substitution>,
    },
    Cookie(Cookie),
    Address,
    Query(String),
    State(String),
}

#[derive(Debug)]
struct Cookie {
    name: String,
    /// `None`: never generated. Zero: a session cookie.
    ttl: Option<Duration>,
    path: String,
    attributes: Vec<(String, String)>,
}

/// A request's hash, and the cookie that the response must set so that the next request has the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Hashed {
    pub hash: Option<u64>,
    pub set_cookies: Vec<HeaderValue>,
}

impl HashPolicy {
    pub fn compile(value: &pba::HashPolicy) -> Compiled<Self> {
        let source = match &value.policy_specifier {
            Some(PolicySpecifier::Header(header)) => Source::Header {
                key: HeaderKey::compile("header.header_name", &header.header_name)?,
                rewrite: (header.regex_rewrite.as_ref().map(Substitution::compile).transpose())
                    .under("header.regex_rewrite")?,
            },
            Some(PolicySpecifier::Cookie(cookie)) => Source::Cookie(Cookie {
                name: cookie.name.clone(),
                ttl: duration("cookie.ttl", cookie.ttl.as_ref())?,
                path: cookie.path.clone(),
                attributes: (cookie.attributes.iter())
                    .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
                    .collect(),
            }),
            Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => Source::Address,
            Some(PolicySpecifier::ConnectionProperties(_)) => {
                return Err(Problems::one("connection_properties.source_ip", "must be true"));
            }
            Some(PolicySpecifier::QueryParameter(query)) => Source::Query(query.name.clone()),
            Some(PolicySpecifier::FilterState(state)) => Source::State(state.key.clone()),
            None => return Err(Problems::one("policy_specifier", "is required")),
        };
        Ok(Self {
            source,
            terminal: value.terminal,
        })
    }

    fn evaluate(&self, view: &RequestView<'_>, remote: &Address, set_cookies: &mut Vec<HeaderValue>) -> Option<u64> {
        match &self.source {
            Source::Header { key, rewrite } => {
                let value = key.of(view)?;
                match rewrite {
                    None => Some(xxh64(&value, 0)),
                    Some(rewrite) => Some(xxh64(rewrite.apply(std::str::from_utf8(&value).ok()?).as_bytes(), 0)),
                }
            }
            Source::Cookie(cookie) => match view.cookie(&cookie.name) {
                Some(value) => Some(xxh64(value, 0)),
                None => cookie.generate(view, set_cookies),
            },
            Source::Address => remote.ip().map(|address| xxh64(address.ip().to_string().as_bytes(), 0)),
            Source::Query(name) => view.query_parameter(name).map(|value| xxh64(value.as_bytes(), 0)),
            Source::State(key) => view
                .extensions
                .get::<FilterState>()?
                .0
                .get(key)
                .map(|value| xxh64(value.as_bytes(), 0)),
        }
    }
}

impl Cookie {
    /// The value is a hash of the connection's addresses, so that streams of one connection agree.
    fn generate(&self, view: &RequestView<'_>, set_cookies: &mut Vec<HeaderValue>) -> Option<u64> {
        let ttl = self.ttl?;
        let addresses = format!("{}{}", view.connection.direct_remote, view.connection.local);
        let value = format!("{:x}", xxh64(addresses.as_bytes(), 0));
        let mut line = format!("{}=\"{value}\"", self.name);
        if !ttl.is_zero() {
            line.push_str(&format!("; Max-Age={}", ttl.as_secs()));
        }
        if !self.path.is_empty() {
            line.push_str(&format!("; Path={}", self.path));
        }
        for (name, attribute) in &self.attributes {
            match attribute.is_empty() {
                true => line.push_str(&format!("; {name}")),
                false => line.push_str(&format!("; {name}={attribute}")),
            }
        }
        line.push_str("; HttpOnly");
        set_cookies.extend(HeaderValue::try_from(line));
        Some(xxh64(value.as_bytes(), 0))
    }
}

/// Evaluates the policies in order: the first hash, then rotated left by one and XORed with each next; a terminal one stops.
pub fn hash(policies: &[HashPolicy], view: &RequestView<'_>, remote: &Address) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        if let Some(value) = policy.evaluate(view, remote, &mut hashed.set_cookies) {
            hashed.hash = Some(hashed.hash.map_or(value, |hash| hash.rotate_left(1) ^ value));
        }
        if policy.terminal && hashed.hash.is_some() {
            break;
        }
    }
    hashed
}
