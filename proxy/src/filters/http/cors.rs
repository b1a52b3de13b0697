//! `envoy.filters.http.cors`: answers preflights and lets browsers read responses, as the route's policy says.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::cors::v3 as pb;

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::live::Share;
use crate::config::route::{Under, each, optional};
use crate::config::{Compiled, Problems};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::route::strings::StringMatcher;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.cors.v3.Cors",
    compile,
    per_route: &[PerRoute {
        type_name: POLICY,
        check: |config| Policy::compile(config).map(drop),
    }],
};

const POLICY: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");
const TRUE: HeaderValue = HeaderValue::from_static("true");

crate::stat_group! {
    /// Under `http.<prefix>.cors.`.
    pub struct CorsStats {
        counters: { origin_valid, origin_invalid }
        gauges: {}
        histograms: {}
    }
}

struct Cors {
    name: Box<str>,
    stats: Arc<CorsStats>,
}

struct Policy {
    origins: Vec<StringMatcher>,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    /// A preflight from elsewhere goes upstream; else it is answered, with nothing allowed.
    forward_not_matching: bool,
    enabled: Option<Share>,
    shadow: Option<Share>,
}

/// The origin that is allowed, for the response.
#[derive(Clone)]
struct Allowed {
    origin: HeaderValue,
    policy: Arc<Policy>,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    pb::Cors::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(Stage::Filter(Arc::new(Cors {
        name: cx.name.into(),
        stats: cx.build.stats.group(&format!("{}cors.", cx.stat_prefix)),
    })))
}

impl Policy {
    fn compile(config: &[u8]) -> Compiled<Self> {
        let value = pb::CorsPolicy::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
        Ok(Self {
            origins: each(
                "allow_origin_string_match",
                &value.allow_origin_string_match,
                StringMatcher::compile,
            )?,
            methods: text("allow_methods", &value.allow_methods)?,
            headers: text("allow_headers", &value.allow_headers)?,
            expose: text("expose_headers", &value.expose_headers)?,
            max_age: text("max_age", &value.max_age)?,
            credentials: value.allow_credentials.is_some_and(|flag| flag.value),
            private_network: value.allow_private_network_access.is_some_and(|flag| flag.value),
            forward_not_matching: value.forward_not_matching_preflights.is_none_or(|flag| flag.value),
            enabled: optional("filter_enabled", value.filter_enabled.as_ref(), Share::compile)?,
            shadow: optional("shadow_enabled", value.shadow_enabled.as_ref(), Share::compile)?,
        })
    }

    /// The answer to a preflight; `origin`: the one that is allowed.
    fn preflight(&self, request: &HeaderMap, origin: Option<HeaderValue>) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        let headers = response.headers_mut();
        headers.extend(origin.map(|origin| (ACCESS_CONTROL_ALLOW_ORIGIN, origin)));
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        let mut put = |name: HeaderName, value: &Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        };
        put(ACCESS_CONTROL_ALLOW_METHODS, &self.methods);
        put(ACCESS_CONTROL_ALLOW_HEADERS, &self.headers);
        put(ACCESS_CONTROL_MAX_AGE, &self.max_age);
        if self.private_network
            && request
                .get(REQUEST_PRIVATE_NETWORK)
                .is_some_and(|value| value == "true")
        {
            headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
        response
    }
}

fn text(field: &str, value: &str) -> Compiled<Option<HeaderValue>> {
    if value.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(value).map_err(|_| Problems::one("", "is not a header value"));
    value.map(Some).under(field)
}

impl Filter for Cors {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        let Some(origin) = exchange
            .headers()
            .get(ORIGIN)
            .filter(|origin| !origin.is_empty())
            .cloned()
        else {
            return Flow::Continue;
        };
        // As in Envoy, what a route answers itself has no policy.
        let forwards = exchange
            .route
            .route
            .as_ref()
            .is_some_and(|route| route.forward().is_some());
        if !forwards {
            return Flow::Continue;
        }
        let Setting::Own(policy) = setting(exchange, &self.name, POLICY, Policy::compile) else {
            return Flow::Continue;
        };
        let among = |share: &Option<Share>| share.as_ref().map(|share| share.contains(exchange.random));
        let enabled = among(&policy.enabled).unwrap_or(true);
        if !enabled && !among(&policy.shadow).unwrap_or(false) {
            return Flow::Continue;
        }
        let allowed = policy.origins.iter().any(|matcher| matcher.matches(origin.as_bytes()));
        let counter = if allowed {
            &self.stats.origin_valid
        } else {
            &self.stats.origin_invalid
        };
        counter.inc();
        if !enabled {
            return Flow::Continue;
        }
        let asked = exchange.headers().get(ACCESS_CONTROL_REQUEST_METHOD);
        let preflight = *exchange.request.method() == Method::OPTIONS && asked.is_some_and(|method| !method.is_empty());
        let answer = (preflight && (allowed || !policy.forward_not_matching))
            .then(|| policy.preflight(exchange.headers(), allowed.then(|| origin.clone())));
        if allowed {
            exchange.extensions.insert(Allowed { origin, policy });
        }
        let Some(response) = answer else {
            return Flow::Continue;
        };
        exchange.details = "cors_response".into();
        Flow::Respond(Box::new(response))
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut Response<Body>) -> Flow {
        let Some(Allowed { origin, policy }) = exchange.extensions.get::<Allowed>() else {
            return Flow::Continue;
        };
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if policy.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
        if let Some(expose) = &policy.expose {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::filters::http::tests;
    use crate::testing::exchange;
    use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;
    use remora_proto::pb::google::protobuf::BoolValue;

    fn policy() -> pb::CorsPolicy {
        let exact = pbm::string_matcher::MatchPattern::Exact("https://a.test".into());
        pb::CorsPolicy {
            allow_origin_string_match: vec![pbm::StringMatcher {
                match_pattern: Some(exact),
                ..Default::default()
            }],
            allow_methods: "GET,POST".into(),
            expose_headers: "x-b".into(),
            max_age: "86400".into(),
            allow_credentials: Some(BoolValue { value: true }),
            ..Default::default()
        }
    }

    fn request(method: &str, origin: &str, policy: &pb::CorsPolicy) -> Exchange {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        let mut exchange = exchange(method, "/", &headers);
        exchange.route = tests::route_with(POLICY, policy).expect("compiles");
        exchange
    }

    #[test]
    fn a_preflight_is_answered_for_whom_it_concerns() {
        let build = BuildContext::default();
        let filter = tests::compile(REGISTRATION, &pb::Cors {}, &build).expect("compiles");
        let mut known = request("OPTIONS", "https://a.test", &policy());
        let Flow::Respond(response) = filter.request_headers(&mut known) else {
            panic!("an answer");
        };
        assert_eq!(response.headers()["access-control-allow-methods"], "GET,POST");
        assert_eq!(response.headers()["access-control-allow-origin"], "https://a.test");
        let mut response = *response;
        filter.response_headers(&mut known, &mut response);
        assert_eq!(response.headers()["access-control-expose-headers"], "x-b");
        let mut unknown = request("OPTIONS", "https://b.test", &policy());
        assert!(matches!(filter.request_headers(&mut unknown), Flow::Continue));
        let strict = pb::CorsPolicy {
            forward_not_matching_preflights: Some(BoolValue { value: false }),
            ..policy()
        };
        let mut unknown = request("OPTIONS", "https://b.test", &strict);
        let Flow::Respond(response) = filter.request_headers(&mut unknown) else {
            panic!("an answer");
        };
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        let stats = build.stats.group::<CorsStats>("http.in.cors.");
        assert_eq!((stats.origin_valid.value(), stats.origin_invalid.value()), (1, 2));
    }

    #[test]
    fn a_response_is_opened_to_an_allowed_origin_only() {
        let build = BuildContext::default();
        let filter = tests::compile(REGISTRATION, &pb::Cors {}, &build).expect("compiles");
        for (origin, expected) in [("https://a.test", Some("x-b")), ("https://b.test", None)] {
            let mut exchange = request("GET", origin, &policy());
            let mut response = Response::new(Body::Empty);
            assert!(matches!(filter.request_headers(&mut exchange), Flow::Continue));
            filter.response_headers(&mut exchange, &mut response);
            let exposed = response.headers().get("access-control-expose-headers");
            assert_eq!(exposed.map(HeaderValue::as_bytes), expected.map(str::as_bytes));
        }
    }

    #[test]
    fn a_bad_policy_is_refused_when_its_route_arrives() {
        let bad = pb::CorsPolicy {
            allow_methods: "a\nb".into(),
            ..policy()
        };
        let problems = tests::route_with(POLICY, &bad).err().expect("refused").to_string();
        assert!(
            problems.contains("typed_per_filter_config[\"filter\"].allow_methods"),
            "{problems}"
        );
    }
}
