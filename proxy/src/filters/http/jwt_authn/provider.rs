//! One issuer of tokens: where its tokens stand in requests, what makes them good, what becomes of their claims.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use remora_proto::pb::google::protobuf::{ListValue, Struct, Value as PbValue, value::Kind};
use serde_json::{Map, Value};

use super::JwtStats;
use super::keys::Keys;
use super::remote::RemoteKeys;
use super::token::{Refusal, Token};
use crate::config::route::{Under, data_source, duration, each, header_name, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::route::RequestView;
use crate::route::strings::StringMatcher;
use crate::runtime::clock;

/// The namespace of claims.
const METADATA: &str = "envoy.filters.http.jwt_authn";
/// `clock_skew_seconds` when unset.
const SKEW: i64 = 60;

pub(super) struct Provider {
    /// Empty: anybody.
    pub issuer: String,
    audiences: Vec<String>,
    subjects: Option<StringMatcher>,
    require_expiration: bool,
    max_lifetime: Option<i64>,
    skew: i64,
    keys: Source,
    places: Vec<Place>,
    forward: bool,
    payload_header: Option<HeaderName>,
    pad_payload: bool,
    payload_key: String,
    header_key: String,
    /// Claims whose words become lists.
    spaced: Vec<String>,
    claim_headers: Vec<(HeaderName, String)>,
    clear_route: bool,
}

/// Where an issuer's keys come from.
enum Source {
    Local(Keys),
    Remote(Arc<RemoteKeys>),
}

impl Source {
    fn compile(value: &pb::JwtProvider, cx: &BuildContext, stats: &Arc<JwtStats>) -> Compiled<Self> {
        match &value.jwks_source_specifier {
            Some(JwksSourceSpecifier::LocalJwks(source)) => {
                let text = data_source(source).under("local_jwks")?;
                let keys = Keys::parse(&text).map_err(|reason| Problems::one("local_jwks", reason));
                keys.map(Self::Local)
            }
            Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
                let keys = RemoteKeys::compile(remote, cx, stats).under("remote_jwks");
                keys.map(Self::Remote)
            }
            None => Err(Problems::one("jwks_source_specifier", "is required")),
        }
    }
}

fn claim_header(claim: &pb::JwtClaimToHeader) -> Compiled<(HeaderName, String)> {
    gather! {
        let _path = refuse("claim_path", !claim.claim_path.is_empty(), "is not supported");
        let _name = refuse("claim_name", claim.claim_name.is_empty(), "is required");
        let header = header_name("header_name", &claim.header_name);
    }
    Ok((header, claim.claim_name.clone()))
}

/// Where a token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(HeaderName, String),
    Parameter(String),
    Cookie(String),
}

impl Provider {
    pub fn compile(value: &pb::JwtProvider, cx: &BuildContext, stats: &Arc<JwtStats>) -> Compiled<Self> {
        let has_status = !value.failed_status_in_metadata.is_empty();
        let payload_header = Some(value.forward_payload_header.as_str()).filter(|name| !name.is_empty());
        gather! {
            let _status = refuse("failed_status_in_metadata", has_status, "is not supported");
            let keys = Source::compile(value, cx, stats);
            let lifetime = duration("max_lifetime", value.max_lifetime.as_ref());
            let subjects = optional("subjects", value.subjects.as_ref(), StringMatcher::compile);
            let places = places(value);
            let payload_header = payload_header.map(|name| header_name("forward_payload_header", name)).transpose();
            let claim_headers = each("claim_to_headers", &value.claim_to_headers, claim_header);
        }
        let normalize = value.normalize_payload_in_metadata.as_ref();
        Ok(Self {
            issuer: value.issuer.clone(),
            audiences: value
                .audiences
                .iter()
                .map(|audience| bare(audience).to_owned())
                .collect(),
            subjects,
            require_expiration: value.require_expiration,
            max_lifetime: lifetime.map(|lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
            skew: match value.clock_skew_seconds {
                0 => SKEW,
                seconds => i64::from(seconds),
            },
            keys,
            places,
            forward: value.forward,
            payload_header,
            pad_payload: value.pad_forward_payload_header,
            payload_key: value.payload_in_metadata.clone(),
            header_key: value.header_in_metadata.clone(),
            spaced: normalize
                .map(|normalize| normalize.space_delimited_claims.clone())
                .unwrap_or_default(),
            claim_headers,
            clear_route: value.clear_route_cache,
        })
    }

    /// Removes the headers that only we may set.
    pub fn sanitize(&self, headers: &mut HeaderMap) {
        for name in self
            .payload_header
            .iter()
            .chain(self.claim_headers.iter().map(|(name, _)| name))
        {
            headers.remove(name);
        }
    }

    /// The tokens that the request has where this issuer's stand.
    pub fn tokens(&self, exchange: &Exchange) -> Vec<String> {
        let view = RequestView::of(exchange);
        self.places.iter().filter_map(|place| place.token(&view)).collect()
    }

    /// The keys, if they are fetched.
    pub fn remote(&self) -> Option<&Arc<RemoteKeys>> {
        match &self.keys {
            Source::Local(_) => None,
            Source::Remote(keys) => Some(keys),
        }
    }

    /// Whether the token is this issuer's, good, and for one of `audiences` (`None`: the issuer's own list).
    pub fn verify(&self, token: &Token<'_>, audiences: Option<&[String]>) -> Result<(), Refusal> {
        self.verify_claims(token, audiences)?;
        match &self.keys {
            Source::Local(keys) => keys.verify(token),
            Source::Remote(remote) => match remote.held() {
                Some(keys) => keys.verify(token),
                None => Err(Refusal::FetchFailed),
            },
        }
    }

    /// All but the signature.
    pub fn verify_claims(&self, token: &Token<'_>, audiences: Option<&[String]>) -> Result<(), Refusal> {
        if !self.issuer.is_empty() && token.claim("iss") != Some(&self.issuer) {
            return Err(Refusal::UnknownIssuer);
        }
        if let Some(subjects) = &self.subjects
            && !subjects.matches(token.claim("sub").unwrap_or_default().as_bytes())
        {
            return Err(Refusal::Fails);
        }
        self.verify_times(token)?;
        let allowed = audiences.filter(|list| !list.is_empty()).unwrap_or(&self.audiences);
        let own = token.audiences();
        if !allowed.is_empty()
            && !own
                .iter()
                .any(|own| allowed.iter().any(|allowed| bare(allowed) == bare(own)))
        {
            return Err(Refusal::AudienceNotAllowed);
        }
        Ok(())
    }

    fn verify_times(&self, token: &Token<'_>) -> Result<(), Refusal> {
        let now = clock::system_now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let (expires, not_before) = (token.time("exp"), token.time("nbf"));
        if not_before.is_some_and(|start| now.saturating_add(self.skew) < start) {
            return Err(Refusal::NotYetValid);
        }
        if expires.is_some_and(|end| now > end.saturating_add(self.skew)) {
            return Err(Refusal::Expired);
        }
        if expires.is_none() && (self.require_expiration || self.max_lifetime.is_some()) {
            return Err(Refusal::LivesTooLong);
        }
        let (Some(limit), Some(end)) = (self.max_lifetime, expires) else {
            return Ok(());
        };
        let start = token.time("iat").or(not_before).unwrap_or(now);
        if end.saturating_sub(start) > limit {
            return Err(Refusal::LivesTooLong);
        }
        Ok(())
    }

    /// Passes on what a good token says.
    pub fn accept(&self, token: &Token<'_>, exchange: &mut Exchange) {
        if !self.forward {
            self.places.iter().for_each(|place| place.remove(exchange));
        }
        let headers = exchange.request.headers_mut();
        if let Some(name) = &self.payload_header {
            let padded = || {
                URL_SAFE_NO_PAD
                    .decode(token.payload_text)
                    .map(|bytes| URL_SAFE.encode(bytes))
            };
            let text = match self.pad_payload {
                true => padded().unwrap_or_default(),
                false => token.payload_text.to_owned(),
            };
            headers.extend(HeaderValue::try_from(text).ok().map(|value| (name.clone(), value)));
        }
        for (name, claim) in &self.claim_headers {
            let value = lookup(&token.payload, claim).and_then(header_text);
            if let Some(value) = value.and_then(|text| HeaderValue::try_from(text).ok()) {
                headers.insert(name, value);
            }
        }
        if !self.payload_key.is_empty() || !self.header_key.is_empty() {
            let metadata = exchange.extensions.get_or_insert_default::<DynamicMetadata>();
            let fields = &mut metadata.fields_mut(METADATA).fields;
            if !self.payload_key.is_empty() {
                fields.insert(self.payload_key.clone(), self.normalized(&token.payload));
            }
            if !self.header_key.is_empty() {
                fields.insert(self.header_key.clone(), object(&token.header));
            }
        }
        if self.clear_route {
            exchange.route.clear();
        }
    }

    fn normalized(&self, payload: &Map<String, Value>) -> PbValue {
        let mut payload = payload.clone();
        for claim in &self.spaced {
            if let Some(Value::String(words)) = payload.get(claim) {
                let words = words.split(' ').filter(|word| !word.is_empty());
                let list = words.map(|word| Value::String(word.to_owned())).collect();
                payload.insert(claim.clone(), Value::Array(list));
            }
        }
        object(&payload)
    }
}

fn places(value: &pb::JwtProvider) -> Compiled<Vec<Place>> {
    let mut places = each("from_headers", &value.from_headers, |header| {
        Ok(Place::Header(
            header_name("name", &header.name)?,
            header.value_prefix.clone(),
        ))
    })?;
    places.extend(value.from_params.iter().cloned().map(Place::Parameter));
    places.extend(value.from_cookies.iter().cloned().map(Place::Cookie));
    if places.is_empty() {
        places.push(Place::Header(http::header::AUTHORIZATION, "Bearer ".to_owned()));
        places.push(Place::Parameter("access_token".to_owned()));
    }
    Ok(places)
}

impl Place {
    fn token(&self, view: &RequestView<'_>) -> Option<String> {
        let text = match self {
            // Several headers are one, as in Envoy: a second token, or rubbish, is part of what is taken for the token and spoils it.
            Self::Header(name, prefix) => {
                let value = crate::route::view::joined(view.headers, name)?;
                let value = String::from_utf8_lossy(&value);
                trimmed(value.split_once(prefix.as_str())?.1).to_owned()
            }
            Self::Parameter(name) => view.query_parameter(name)?.to_owned(),
            Self::Cookie(name) => std::str::from_utf8(view.cookie(name)?).ok()?.to_owned(),
        };
        Some(text).filter(|text| !text.is_empty())
    }

    fn remove(&self, exchange: &mut Exchange) {
        match self {
            Self::Header(name, _) => {
                exchange.request.headers_mut().remove(name);
            }
            Self::Parameter(name) => remove_parameter(exchange, name),
            // Cookies stay, as in Envoy.
            Self::Cookie(_) => {}
        }
    }
}

/// What lies around a token in a header and cannot be part of it; if nothing can, all of it is taken for one.
fn trimmed(text: &str) -> &str {
    let is_foreign = |char: char| !char.is_ascii_alphanumeric() && !"-_.".contains(char);
    match text.trim_matches(is_foreign) {
        "" => text,
        token => token,
    }
}

fn remove_parameter(exchange: &mut Exchange, name: &str) {
    let uri = exchange.request.uri();
    let Some(query) = uri.query() else { return };
    let is_it = |pair: &&str| pair.split('=').next() == Some(name);
    if !query.split('&').any(|pair| is_it(&pair)) {
        return;
    }
    let kept: Vec<_> = query.split('&').filter(|pair| !is_it(pair)).collect();
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{}", uri.path(), kept.join("&")),
    };
    if let Ok(path) = http::uri::PathAndQuery::try_from(path) {
        crate::http::header_policy::route::set_path(exchange, path);
    }
}

/// An audience without its scheme and final slash: how Envoy compares them.
fn bare(audience: &str) -> &str {
    let rest = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// A claim by its path; dots lead into objects.
fn lookup<'a>(payload: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = payload.get(path) {
        return Some(value);
    }
    let (first, rest) = path.split_once('.')?;
    lookup(payload.get(first)?.as_object()?, rest)
}

fn header_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) => Some(value.to_string()),
        Value::Number(number) => Some(match number.as_f64() {
            // As Envoy prints what is not whole.
            Some(real) if real.fract() != 0.0 => format!("{real:.6}"),
            _ => number.to_string(),
        }),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => Some(STANDARD.encode(json_text(value))),
    }
}

/// JSON as protobuf's library writes it: an angle bracket, which only a string can have, by its number.
fn json_text(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e")
}

fn object(fields: &Map<String, Value>) -> PbValue {
    let fields = fields
        .iter()
        .map(|(key, value)| (key.clone(), convert(value)))
        .collect();
    PbValue {
        kind: Some(Kind::StructValue(Struct { fields })),
    }
}

fn convert(value: &Value) -> PbValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(list) => Kind::ListValue(ListValue {
            values: list.iter().map(convert).collect(),
        }),
        Value::Object(fields) => return object(fields),
    };
    PbValue { kind: Some(kind) }
}
