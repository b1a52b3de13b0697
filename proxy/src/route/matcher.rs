//! `RouteMatch`: the path first because it decides most, then everything else; all must hold.

use remora_proto::pb::envoy::config::route::v3 as pbr;
use remora_proto::pb::envoy::config::route::v3::route_match::PathSpecifier;

use super::headers::{CookieMatcher, HeaderMatcher, QueryMatcher};
use super::strings::{MetadataMatcher, StringMatcher};
use super::uri_template;
use super::view::RequestView;
use crate::config::live::Share;
use crate::config::route::{Under, each, full_regex, optional};
use crate::config::{Compiled, Problems};
use crate::http::exchange::{DynamicMetadata, FilterState};

/// A compiled `envoy.config.route.v3.RouteMatch`.
#[derive(Debug)]
pub struct RouteMatcher {
    pub path: PathMatcher,
    rest: Option<Box<Conditions>>,
}

/// How a path is matched. A prefix or path lies lower-cased beside its flag when case does not matter.
#[derive(Debug)]
pub enum PathMatcher {
    Prefix {
        text: Box<str>,
        case_sensitive: bool,
    },
    Exact {
        text: Box<str>,
        case_sensitive: bool,
    },
    /// Equal, or followed by `/`.
    SeparatedPrefix {
        text: Box<str>,
        case_sensitive: bool,
    },
    Regex(regex::bytes::Regex),
    Template(uri_template::Template),
    Connect,
}

/// What a route may ask beyond the path.
#[derive(Debug, Default)]
struct Conditions {
    fraction: Option<Share>,
    headers: Vec<HeaderMatcher>,
    queries: Vec<QueryMatcher>,
    cookies: Vec<CookieMatcher>,
    grpc: bool,
    tls_presented: Option<bool>,
    tls_validated: Option<bool>,
    metadata: Vec<MetadataMatcher>,
    filter_state: Vec<(String, StringMatcher)>,
}

impl RouteMatcher {
    pub fn compile(value: &pbr::RouteMatch) -> Compiled<Self> {
        let path = PathMatcher::compile(value)?;
        let tls = value.tls_context.as_ref();
        let conditions = Conditions {
            fraction: optional("runtime_fraction", value.runtime_fraction.as_ref(), Share::compile)?,
            headers: each("headers", &value.headers, HeaderMatcher::compile)?,
            queries: each("query_parameters", &value.query_parameters, QueryMatcher::compile)?,
            cookies: each("cookies", &value.cookies, CookieMatcher::compile)?,
            grpc: value.grpc.is_some(),
            tls_presented: tls.and_then(|tls| tls.presented).map(|presented| presented.value),
            tls_validated: tls.and_then(|tls| tls.validated).map(|validated| validated.value),
            metadata: each("dynamic_metadata", &value.dynamic_metadata, MetadataMatcher::compile)?,
            filter_state: each("filter_state", &value.filter_state, filter_state)?,
        };
        let rest = (!conditions.is_empty()).then(|| Box::new(conditions));
        Ok(Self { path, rest })
    }

    /// Matches whatever has a path.
    pub fn any() -> Self {
        let path = PathMatcher::Prefix {
            text: "".into(),
            case_sensitive: true,
        };
        Self { path, rest: None }
    }

    /// `ignore_parameters`: a path ends at its first `;`.
    pub fn matches(&self, view: &RequestView<'_>, ignore_parameters: bool) -> bool {
        self.path.matches(view, ignore_parameters) && self.rest.as_ref().is_none_or(|rest| rest.hold(view))
    }
}

impl PathMatcher {
    fn compile(value: &pbr::RouteMatch) -> Compiled<Self> {
        let case_sensitive = value.case_sensitive.is_none_or(|flag| flag.value);
        let text = |text: &str| text.into();
        Ok(match &value.path_specifier {
            Some(PathSpecifier::Prefix(prefix)) => Self::Prefix {
                text: text(prefix),
                case_sensitive,
            },
            Some(PathSpecifier::Path(path)) => Self::Exact {
                text: text(path),
                case_sensitive,
            },
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
                if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                    return Err(Problems::one(
                        "path_separated_prefix",
                        "must start with / and may neither end with / nor contain ? or #",
                    ));
                }
                Self::SeparatedPrefix {
                    text: text(prefix),
                    case_sensitive,
                }
            }
            Some(PathSpecifier::SafeRegex(regex)) => Self::Regex(full_regex(regex).under("safe_regex")?),
            Some(PathSpecifier::ConnectMatcher(_)) => Self::Connect,
            Some(PathSpecifier::PathMatchPolicy(policy)) => {
                Self::Template(uri_template::Template::of_match_policy(policy).under("path_match_policy")?)
            }
            None => return Err(Problems::one("path_specifier", "is required")),
        })
    }

    fn matches(&self, view: &RequestView<'_>, ignore_parameters: bool) -> bool {
        let Some(mut path) = view.path().filter(|_| !matches!(self, Self::Connect)) else {
            return matches!(self, Self::Connect) && view.is_connect();
        };
        if ignore_parameters {
            path = path.split(';').next().unwrap_or(path);
        }
        match self {
            Self::Prefix { text, case_sensitive } => starts_with(path, text, *case_sensitive),
            Self::Exact { text, case_sensitive } => {
                path.len() == text.len() && starts_with(path, text, *case_sensitive)
            }
            Self::SeparatedPrefix { text, case_sensitive } => {
                starts_with(path, text, *case_sensitive) && matches!(path.as_bytes().get(text.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::Template(template) => template.matches(path),
            Self::Connect => false,
        }
    }

    /// How much of a matching path a prefix rewrite replaces.
    pub fn matched_len(&self, path: &str) -> usize {
        match self {
            Self::Prefix { text, .. } | Self::SeparatedPrefix { text, .. } => text.len().min(path.len()),
            _ => path.len(),
        }
    }
}

fn starts_with(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    let head = path.as_bytes().get(..prefix.len());
    head.is_some_and(|head| {
        if case_sensitive {
            head == prefix.as_bytes()
        } else {
            head.eq_ignore_ascii_case(prefix.as_bytes())
        }
    })
}

fn filter_state(
    value: &remora_proto::pb::envoy::r#type::matcher::v3::FilterStateMatcher,
) -> Compiled<(String, StringMatcher)> {
    use remora_proto::pb::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;
    match &value.matcher {
        Some(Matcher::StringMatch(string)) => {
            Ok((value.key.clone(), StringMatcher::compile(string).under("string_match")?))
        }
        Some(Matcher::AddressMatch(_)) => Err(Problems::one("address_match", "is not supported")),
        None => Err(Problems::one("matcher", "is required")),
    }
}

impl Conditions {
    fn is_empty(&self) -> bool {
        self.fraction.is_none()
            && self.headers.is_empty()
            && self.queries.is_empty()
            && self.cookies.is_empty()
            && !self.grpc
            && self.tls_presented.is_none()
            && self.tls_validated.is_none()
            && self.metadata.is_empty()
            && self.filter_state.is_empty()
    }

    fn hold(&self, view: &RequestView<'_>) -> bool {
        self.fraction.as_ref().is_none_or(|share| share.contains(view.random))
            && (!self.grpc || view.is_grpc())
            && self.headers.iter().all(|matcher| matcher.matches(view))
            && self.queries.iter().all(|matcher| matcher.matches(view))
            && self.cookies.iter().all(|matcher| matcher.matches(view))
            && self.tls_holds(view)
            && self.metadata_holds(view)
    }

    fn tls_holds(&self, view: &RequestView<'_>) -> bool {
        // A certificate that failed validation never gets as far as a request.
        let presented = view
            .connection
            .tls
            .as_ref()
            .is_some_and(|tls| tls.certificate.is_some());
        self.tls_presented.is_none_or(|expected| expected == presented)
            && self.tls_validated.is_none_or(|expected| expected == presented)
    }

    fn metadata_holds(&self, view: &RequestView<'_>) -> bool {
        if self.metadata.is_empty() && self.filter_state.is_empty() {
            return true;
        }
        let metadata = view.extensions.get::<DynamicMetadata>();
        let state = view.extensions.get::<FilterState>();
        let state_of = |key: &str| state.and_then(|state| state.0.get(key));
        self.metadata.iter().all(|matcher| matcher.matches(metadata))
            && (self.filter_state.iter())
                .all(|(key, matcher)| state_of(key).is_some_and(|value| matcher.matches(value.as_bytes())))
    }
}
