//! `envoy.filters.http.jwt_authn`: requests prove who sent them with JSON Web Tokens.
//!
//! In: requests with tokens, and the keys of those who issue them, configured or fetched. Out: a request whose claims can be believed, in dynamic metadata and headers; or 401.

mod keys;
mod provider;
mod remote;
mod requirement;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use remora_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::requirement_rule::RequirementType;

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::route::{Under, each, each_entry, refuse};
use crate::config::{Compiled, Problems, gather};
use crate::http::exchange::Exchange;
use crate::http::respond::local_reply;
use crate::route::RequestView;
use crate::route::matcher::RouteMatcher;
use provider::Provider;
use remote::RemoteKeys;
use requirement::Requirement;
use token::Refusal;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
    compile,
    per_route: &[PerRoute {
        type_name: PER_ROUTE,
        check: |config| RouteRule::compile(config).map(drop),
    }],
};

/// Bytes of a path that a challenge repeats.
const REALM_PATH: usize = 256;
const PER_ROUTE: &str = "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";

crate::stat_group! {
    /// Under `http.<prefix>.jwt_authn.<stat_prefix>`.
    pub struct JwtStats {
        counters: { allowed, cors_preflight_bypassed, denied, jwks_fetch_success, jwks_fetch_failed, jwt_cache_miss }
        gauges: {}
        histograms: {}
    }
}

/// What a request that waits for keys takes with it.
struct Authenticator(Arc<JwtAuthn>);

struct JwtAuthn {
    name: Box<str>,
    providers: Vec<Provider>,
    rules: Vec<Rule>,
    /// `requirement_map`, for routes.
    named: HashMap<String, Requirement>,
    /// Whether keys of some provider are fetched.
    fetches: bool,
    bypass_preflight: bool,
    /// A refusal says nothing of its reason.
    strip_response: bool,
    stats: Arc<JwtStats>,
}

struct Rule {
    matcher: RouteMatcher,
    /// `None`: matching requests need no token.
    requirement: Option<Requirement>,
}

/// `PerRouteConfig`
enum RouteRule {
    Disabled,
    Named(String),
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = pb::JwtAuthentication::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    let stats = cx
        .build
        .stats
        .group(&format!("{}jwt_authn.{}", cx.stat_prefix, config.stat_prefix));
    // By name: the order in which a token that may be anybody's is tried.
    let mut names: Vec<&str> = config.providers.keys().map(String::as_str).collect();
    names.sort_unstable();
    gather! {
        let _rules = refuse("filter_state_rules", config.filter_state_rules.is_some(), "is not supported");
        let providers = each_entry("providers", &config.providers, |_, provider| {
            Provider::compile(provider, cx.build, &stats)
        });
        let named = each_entry("requirement_map", &config.requirement_map, |name, requirement| {
            Requirement::compile(requirement, &names).map(|compiled| (name.to_owned(), compiled))
        });
        let rules = each("rules", &config.rules, |rule| Rule::compile(rule, &names, &config.requirement_map));
    }
    let named = named.into_iter().collect();
    Ok(Stage::Filter(Arc::new(Authenticator(Arc::new(JwtAuthn {
        name: cx.name.into(),
        rules,
        named,
        fetches: providers.iter().any(|provider| provider.remote().is_some()),
        providers,
        bypass_preflight: config.bypass_cors_preflight,
        strip_response: config.strip_failure_response,
        stats,
    })))))
}

impl Rule {
    fn compile(
        value: &pb::RequirementRule,
        providers: &[&str],
        named: &HashMap<String, pb::JwtRequirement>,
    ) -> Compiled<Self> {
        let missing = || Problems::one("match", "is required");
        gather! {
            let matcher = value.r#match.as_ref().ok_or_else(missing).and_then(|matcher| {
                RouteMatcher::compile(matcher).under("match")
            });
            let requirement = match &value.requirement_type {
                None => Ok(None),
                Some(RequirementType::Requires(requirement)) => {
                    Requirement::compile_optional(requirement, providers).under("requires")
                }
                Some(RequirementType::RequirementName(name)) => match named.get(name) {
                    Some(requirement) => {
                        Requirement::compile_optional(requirement, providers).under("requirement_name")
                    }
                    None => Err(Problems::one("requirement_name", format!("there is no requirement {name:?}"))),
                },
            };
        }
        Ok(Self { matcher, requirement })
    }
}

impl RouteRule {
    fn compile(config: &[u8]) -> Compiled<Self> {
        use pb::per_route_config::RequirementSpecifier as Specifier;
        let config = pb::PerRouteConfig::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
        match config.requirement_specifier {
            Some(Specifier::Disabled(true)) => Ok(Self::Disabled),
            Some(Specifier::RequirementName(name)) => Ok(Self::Named(name)),
            Some(Specifier::Disabled(false)) => Err(Problems::one("disabled", "must be true")),
            None => Err(Problems::one("requirement_specifier", "is required")),
        }
    }
}

impl Filter for Authenticator {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        if !self.0.fetches {
            return self.0.decide(exchange);
        }
        let stale = self.0.stale(exchange);
        if stale.is_empty() {
            return self.0.decide(exchange);
        }
        let filter = self.0.clone();
        Flow::Wait(Box::pin(async move {
            for keys in stale {
                keys.refresh().await;
            }
            Flow::Then(Box::new(move |exchange| filter.decide(exchange)))
        }))
    }
}

impl JwtAuthn {
    /// What the request must have; `Err`: its route asks for what there is not.
    fn requirement<'a>(&'a self, exchange: &mut Exchange) -> Result<Option<&'a Requirement>, ()> {
        Ok(match setting(exchange, &self.name, PER_ROUTE, RouteRule::compile) {
            Setting::Disabled => None,
            Setting::None => {
                let view = RequestView::of(exchange);
                let rule = self.rules.iter().find(|rule| rule.matcher.matches(&view, false));
                rule.and_then(|rule| rule.requirement.as_ref())
            }
            Setting::Own(own) => match &*own {
                RouteRule::Disabled => None,
                RouteRule::Named(name) => Some(self.named.get(name).ok_or(())?),
            },
            Setting::Broken => return Err(()),
        })
    }

    /// The key sets that must be fetched before it can be decided about the request.
    fn stale(&self, exchange: &mut Exchange) -> Vec<Arc<RemoteKeys>> {
        let mut stale = Vec::new();
        if !(self.bypass_preflight && is_preflight(exchange))
            && let Ok(Some(requirement)) = self.requirement(exchange)
        {
            requirement.stale(self, exchange, &mut stale);
        }
        stale
    }

    fn decide(&self, exchange: &mut Exchange) -> Flow {
        // What we vouch for is never what a client sent, whether a token is asked for or not.
        self.providers
            .iter()
            .for_each(|provider| provider.sanitize(exchange.request.headers_mut()));
        if self.bypass_preflight && is_preflight(exchange) {
            self.stats.cors_preflight_bypassed.inc();
            return Flow::Continue;
        }
        let requirement = match self.requirement(exchange) {
            Ok(Some(requirement)) => requirement,
            Ok(None) => {
                self.stats.allowed.inc();
                return Flow::Continue;
            }
            Err(()) => return self.misconfigured(exchange),
        };
        match requirement.check(self, exchange) {
            Ok(()) => {
                self.stats.allowed.inc();
                Flow::Continue
            }
            Err(refusal) => self.deny(exchange, refusal),
        }
    }

    fn deny(&self, exchange: &mut Exchange, refusal: Refusal) -> Flow {
        self.stats.denied.inc();
        let text = refusal.text();
        let status = match refusal {
            Refusal::AudienceNotAllowed => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        };
        let challenge = challenge(exchange, refusal);
        let details = format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"));
        let body = if self.strip_response { "" } else { &*text };
        let mut response = local_reply(exchange, status, None, body, details);
        if let Ok(challenge) = challenge
            && !self.strip_response
        {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        Flow::Respond(Box::new(response))
    }

    /// The route asks for what the filter does not have: nobody passes.
    fn misconfigured(&self, exchange: &mut Exchange) -> Flow {
        self.stats.denied.inc();
        let text = "Failed JWT authentication: wrong requirement_name";
        let details = "jwt_authn_access_denied{wrong_requirement_name}";
        let response = local_reply(exchange, StatusCode::FORBIDDEN, None, text, details);
        Flow::Respond(Box::new(response))
    }
}

fn challenge(exchange: &Exchange, refusal: Refusal) -> Result<HeaderValue, http::Error> {
    let view = RequestView::of(exchange);
    let host = view.authority.unwrap_or_default();
    let path = view.path_and_query().unwrap_or_default();
    let path = path.get(..REALM_PATH).unwrap_or(path);
    let host = String::from_utf8_lossy(host);
    let error = match refusal {
        Refusal::Missing => "",
        _ => ", error=\"invalid_token\"",
    };
    let realm = format!("{}://{host}{path}", view.scheme()).replace(['"', '\\'], "");
    Ok(HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}"))?)
}

fn is_preflight(exchange: &Exchange) -> bool {
    let has = |name: &str| exchange.headers().get(name).is_some_and(|value| !value.is_empty());
    *exchange.request.method() == Method::OPTIONS && has("origin") && has("access-control-request-method")
}

#[cfg(test)]
mod tests;
