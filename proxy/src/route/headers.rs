//! Header, query and cookie matchers (spec D.2).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName};
use remora_proto::pb::envoy::config::route::v3 as pbr;

use super::strings::StringMatcher;
use super::view::{RequestView, joined};
use crate::config::route::{Under, full_regex, header_name};
use crate::config::{Compiled, Problems};
use crate::http::header_policy::path::TargetWithFragment;
use crate::http::upgrade::UpgradeKind;

/// A header by name, or one of the pseudo-headers that Envoy keeps among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderKey {
    Method,
    Path,
    Authority,
    Scheme,
    Protocol,
    /// `:status`, of a response.
    Status,
    Name(HeaderName),
}

impl HeaderKey {
    /// `host` is another name of `:authority`, as in Envoy.
    pub fn compile(field: &str, name: &str) -> Compiled<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":protocol" => Self::Protocol,
            ":status" => Self::Status,
            lower => Self::Name(header_name(field, lower)?),
        })
    }

    /// Every value of the request's header, joined with `,`.
    pub fn of<'a>(&self, view: &RequestView<'a>) -> Option<Cow<'a, [u8]>> {
        let text = |text: &'a str| Cow::Borrowed(text.as_bytes());
        match self {
            Self::Method => Some(text(view.method.as_str())),
            Self::Path => match view.extensions.get::<TargetWithFragment>() {
                Some(target) => Some(Cow::Borrowed(&target.0[..])),
                None => view.path_and_query().map(text),
            },
            Self::Authority => view.authority.map(Cow::Borrowed),
            Self::Scheme => Some(text(view.scheme())),
            Self::Protocol => match view.upgrade? {
                UpgradeKind::Upgrade(token) => Some(text(token)),
                UpgradeKind::Connect => None,
            },
            Self::Status => None,
            Self::Name(name) => joined(view.headers, name),
        }
    }
}

impl HeaderKey {
    /// The header's first value.
    pub fn first<'a>(&self, view: &RequestView<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Name(name) => Some(Cow::Borrowed(view.headers.get(name)?.as_bytes())),
            pseudo => pseudo.of(view),
        }
    }
}

/// `envoy.config.route.v3.HeaderMatcher`
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    key: HeaderKey,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Present(bool),
    Range(i64, i64),
    String(StringMatcher),
}

impl HeaderMatcher {
    #[allow(deprecated, reason = "the deprecated forms still arrive")]
    pub fn compile(value: &pbr::HeaderMatcher) -> Compiled<Self> {
        use pbr::header_matcher::HeaderMatchSpecifier as S;
        let test = match &value.header_match_specifier {
            None => Test::Present(true),
            Some(S::PresentMatch(present)) => Test::Present(*present),
            Some(S::RangeMatch(range)) => Test::Range(range.start, range.end),
            Some(S::ExactMatch(text)) => Test::String(StringMatcher::exact(text)),
            Some(S::PrefixMatch(text)) => Test::String(StringMatcher::prefix(text)),
            Some(S::SuffixMatch(text)) => Test::String(StringMatcher::suffix(text)),
            Some(S::ContainsMatch(text)) => Test::String(StringMatcher::contains(text)),
            Some(S::SafeRegexMatch(regex)) => {
                Test::String(StringMatcher::regex(full_regex(regex).under("safe_regex_match")?))
            }
            Some(S::StringMatch(string)) => Test::String(StringMatcher::compile(string).under("string_match")?),
        };
        Ok(Self {
            key: HeaderKey::compile("name", &value.name)?,
            test,
            invert: value.invert_match,
            missing_is_empty: value.treat_missing_header_as_empty,
        })
    }

    /// Matches when the header is there; `None`: `name` is no header name.
    pub fn present(name: &str) -> Option<Self> {
        Some(Self {
            key: HeaderKey::compile("name", name).ok()?,
            test: Test::Present(true),
            invert: false,
            missing_is_empty: false,
        })
    }

    pub fn matches(&self, view: &RequestView<'_>) -> bool {
        match &self.key {
            // Of several values each stands for itself: one that matches is enough. Their list as a whole matches nothing.
            HeaderKey::Name(name) if !matches!(self.test, Test::Present(_)) && is_repeated(view.headers, name) => {
                view.headers
                    .get_all(name)
                    .iter()
                    .any(|value| self.test(value.as_bytes()))
                    != self.invert
            }
            _ => self.decide(self.key.of(view).as_deref()),
        }
    }

    /// As [`matches`](Self::matches), over a response's head.
    pub fn matches_response(&self, status: http::StatusCode, headers: &HeaderMap) -> bool {
        match &self.key {
            HeaderKey::Status => self.decide(Some(status.as_str().as_bytes())),
            HeaderKey::Name(name) => self.decide(joined(headers, name).as_deref()),
            _ => self.decide(None),
        }
    }

    fn decide(&self, value: Option<&[u8]>) -> bool {
        if let Test::Present(present) = self.test {
            return (value.is_some() == present) != self.invert;
        }
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => b"",
            // Missing is no match, inverted or not.
            None => return false,
        };
        self.test(value) != self.invert
    }

    fn test(&self, value: &[u8]) -> bool {
        match &self.test {
            Test::Present(_) => true,
            Test::Range(start, end) => {
                let number = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.trim().parse::<i64>().ok());
                number.is_some_and(|number| number >= *start && number < *end)
            }
            Test::String(matcher) => matcher.matches(value),
        }
    }
}

fn is_repeated(headers: &HeaderMap, name: &http::HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// `envoy.config.route.v3.QueryParameterMatcher`
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    name: String,
    test: QueryTest,
}

#[derive(Clone, Debug)]
enum QueryTest {
    Present(bool),
    String(StringMatcher),
}

impl QueryMatcher {
    pub fn compile(value: &pbr::QueryParameterMatcher) -> Compiled<Self> {
        use pbr::query_parameter_matcher::QueryParameterMatchSpecifier as S;
        let test = match &value.query_parameter_match_specifier {
            None => QueryTest::Present(true),
            Some(S::PresentMatch(present)) => QueryTest::Present(*present),
            Some(S::StringMatch(string)) => QueryTest::String(StringMatcher::compile(string).under("string_match")?),
        };
        Ok(Self {
            name: value.name.clone(),
            test,
        })
    }

    pub fn matches(&self, view: &RequestView<'_>) -> bool {
        let value = view.query_parameter(&self.name);
        match &self.test {
            QueryTest::Present(present) => value.is_some() == *present,
            QueryTest::String(matcher) => value.is_some_and(|value| matcher.matches(value.as_bytes())),
        }
    }
}

/// `envoy.config.route.v3.CookieMatcher`: a missing cookie matches only inverted.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: String,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    pub fn compile(value: &pbr::CookieMatcher) -> Compiled<Self> {
        let Some(matcher) = &value.string_match else {
            return Err(Problems::one("string_match", "is required"));
        };
        Ok(Self {
            name: value.name.clone(),
            value: StringMatcher::compile(matcher).under("string_match")?,
            invert: value.invert_match,
        })
    }

    pub fn matches(&self, view: &RequestView<'_>) -> bool {
        let cookie = view.cookie(&self.name);
        cookie.is_some_and(|cookie| self.value.matches(cookie)) != self.invert
    }
}
