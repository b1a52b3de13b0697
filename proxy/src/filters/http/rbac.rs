//! `envoy.filters.http.rbac`: who may do what; a shadow set of rules is only counted and told.

use std::sync::Arc;

use http::StatusCode;
use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::rbac::v3 as pb;

use super::per_route::{Setting, setting};
use super::{Filter, FilterContext, Flow, PerRoute, Registration, Stage};
use crate::config::route::{optional, refuse};
use crate::config::{Compiled, Problems, gather};
use crate::filters::rbac::{Decider, Of, Subject, Told, hint, stat_name};
use crate::http::exchange::Exchange;
use crate::http::respond::local_reply;
use crate::telemetry::stats::Counter;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.rbac.v3.RBAC",
    compile,
    per_route: &[PerRoute {
        type_name: PER_ROUTE,
        check: |config| per_route(config).map(drop),
    }],
};

const PER_ROUTE: &str = "envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
/// The namespace of what shadow rules tell.
const METADATA: &str = "envoy.filters.http.rbac";

crate::stat_group! {
    /// Under `http.<prefix>.rbac.`; all names carry a configured prefix, so all are made at run time.
    pub struct RbacStats {
        counters: {}
        gauges: {}
        histograms: {}
    }
}

struct Rbac {
    name: Box<str>,
    rules: Rules,
    stats: Counters,
}

/// What a filter or a route enforces.
struct Rules {
    enforced: Option<Decider>,
    shadow: Option<Decider>,
    shadow_told: Told,
    enforced_told: Told,
}

struct Counters {
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    shadow_allowed: Arc<Counter>,
    shadow_denied: Arc<Counter>,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = pb::Rbac::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    let stats = cx.build.stats.group::<RbacStats>(&format!("{}rbac.", cx.stat_prefix));
    let counter = |prefix: &str, name: &str| stats.dynamic.counter(&stat_name(prefix, name));
    let (own, shadow) = (&config.rules_stat_prefix, &config.shadow_rules_stat_prefix);
    Ok(Stage::Filter(Arc::new(Rbac {
        name: cx.name.into(),
        stats: Counters {
            allowed: counter(own, "allowed"),
            denied: counter(own, "denied"),
            shadow_allowed: counter(shadow, "shadow_allowed"),
            shadow_denied: counter(shadow, "shadow_denied"),
        },
        rules: Rules::compile(&config)?,
    })))
}

/// `None`: the route turns the filter off.
fn per_route(config: &[u8]) -> Compiled<Option<Rules>> {
    let config = pb::RbacPerRoute::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    optional("rbac", config.rbac.as_ref(), Rules::compile)
}

impl Rules {
    fn compile(config: &pb::Rbac) -> Compiled<Self> {
        gather! {
            let _supported = refuse("track_per_rule_stats", config.track_per_rule_stats, "is not supported");
            let enforced = Decider::compile(
                ("rules", config.rules.as_ref()),
                ("matcher", config.matcher.as_ref()),
                Of::Requests,
            );
            let shadow = Decider::compile(
                ("shadow_rules", config.shadow_rules.as_ref()),
                ("shadow_matcher", config.shadow_matcher.as_ref()),
                Of::Requests,
            );
        }
        Ok(Self {
            enforced,
            shadow,
            shadow_told: Told::new(&config.shadow_rules_stat_prefix, "shadow"),
            enforced_told: Told::new(&config.rules_stat_prefix, "enforced"),
        })
    }

    fn apply(&self, exchange: &mut Exchange, stats: &Counters) -> Flow {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.decide(&Subject::of(exchange));
            let counter = if decision.allowed {
                &stats.shadow_allowed
            } else {
                &stats.shadow_denied
            };
            counter.inc();
            self.shadow_told.tell(&mut exchange.extensions, METADATA, &decision);
        }
        let Some(enforced) = &self.enforced else {
            return Flow::Continue;
        };
        let decision = enforced.decide(&Subject::of(exchange));
        if let Some(log) = decision.log {
            hint(&mut exchange.extensions, log);
        }
        self.enforced_told.tell(&mut exchange.extensions, METADATA, &decision);
        if decision.allowed {
            stats.allowed.inc();
            return Flow::Continue;
        }
        stats.denied.inc();
        deny(exchange, decision.denial_details())
    }
}

fn deny(exchange: &mut Exchange, details: String) -> Flow {
    let response = local_reply(exchange, StatusCode::FORBIDDEN, None, "RBAC: access denied", details);
    Flow::Respond(Box::new(response))
}

impl Filter for Rbac {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        match setting(exchange, &self.name, PER_ROUTE, per_route) {
            Setting::None => self.rules.apply(exchange, &self.stats),
            Setting::Disabled => Flow::Continue,
            Setting::Own(own) => match &*own {
                Some(rules) => rules.apply(exchange, &self.stats),
                None => Flow::Continue,
            },
            Setting::Broken => {
                self.stats.denied.inc();
                deny(exchange, "rbac_access_denied_matched_policy[none]".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::http::exchange::DynamicMetadata;
    use crate::testing::exchange;
    use remora_proto::pb::envoy::config::rbac::v3 as pbr;
    use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;

    fn deny_path(path: &str) -> pbr::Rbac {
        let matcher = pbm::StringMatcher {
            match_pattern: Some(pbm::string_matcher::MatchPattern::Prefix(path.into())),
            ..Default::default()
        };
        let rule = pbr::permission::Rule::UrlPath(pbm::PathMatcher {
            rule: Some(pbm::path_matcher::Rule::Path(matcher)),
        });
        let policy = pbr::Policy {
            permissions: vec![pbr::Permission { rule: Some(rule) }],
            principals: vec![pbr::Principal {
                identifier: Some(pbr::principal::Identifier::Any(true)),
            }],
            ..Default::default()
        };
        pbr::Rbac {
            action: pbr::rbac::Action::Deny as i32,
            policies: [("deny it".to_owned(), policy)].into_iter().collect(),
            ..Default::default()
        }
    }

    fn filter(config: &pb::Rbac, build: &BuildContext) -> Arc<dyn Filter> {
        let cx = FilterContext {
            name: "envoy.filters.http.rbac",
            stat_prefix: "http.in.",
            build,
        };
        match compile(&config.encode_to_vec(), &cx).expect("compiles") {
            Stage::Filter(filter) => filter,
            Stage::Tower(_) => panic!("a filter"),
        }
    }

    fn read(exchange: &Exchange, key: &str) -> Option<String> {
        use remora_proto::pb::google::protobuf::value::Kind;
        let metadata = exchange.extensions.get::<DynamicMetadata>()?;
        match metadata.value(METADATA, &[key.to_owned()])?.kind.as_ref()? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }

    #[test]
    fn a_denied_request_is_answered_and_named() {
        let build = BuildContext::default();
        let config = pb::Rbac {
            rules: Some(deny_path("/admin")),
            ..Default::default()
        };
        let filter = filter(&config, &build);
        let mut denied = exchange("GET", "/admin/x", &[]);
        let Flow::Respond(response) = filter.request_headers(&mut denied) else {
            panic!("an answer");
        };
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(denied.details, "rbac_access_denied_matched_policy[deny_it]");
        let mut allowed = exchange("GET", "/", &[]);
        assert!(matches!(filter.request_headers(&mut allowed), Flow::Continue));
        let stats = build.stats.group::<RbacStats>("http.in.rbac.");
        let count = |name: &str| stats.dynamic.counter(name).value();
        assert_eq!((count("allowed"), count("denied")), (1, 1));
    }

    #[test]
    fn shadow_rules_tell_and_let_pass() {
        let build = BuildContext::default();
        let config = pb::Rbac {
            shadow_rules: Some(deny_path("/checked")),
            shadow_rules_stat_prefix: "istio_ext_authz_".into(),
            ..Default::default()
        };
        let filter = filter(&config, &build);
        let mut checked = exchange("GET", "/checked", &[]);
        assert!(matches!(filter.request_headers(&mut checked), Flow::Continue));
        assert_eq!(
            read(&checked, "istio_ext_authz_shadow_effective_policy_id").as_deref(),
            Some("deny it")
        );
        assert_eq!(
            read(&checked, "istio_ext_authz_shadow_engine_result").as_deref(),
            Some("denied")
        );
        let mut other = exchange("GET", "/", &[]);
        assert!(matches!(filter.request_headers(&mut other), Flow::Continue));
        assert_eq!(read(&other, "istio_ext_authz_shadow_effective_policy_id"), None);
        let stats = build.stats.group::<RbacStats>("http.in.rbac.");
        assert_eq!(stats.dynamic.counter("istio_ext_authz_.shadow_denied").value(), 1);
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_status() {
        let build = BuildContext::default();
        let config = pb::Rbac {
            rules: Some(deny_path("/")),
            ..Default::default()
        };
        let mut call = exchange("POST", "/svc/Method", &[("content-type", "application/grpc")]);
        let Flow::Respond(response) = filter(&config, &build).request_headers(&mut call) else {
            panic!("an answer");
        };
        assert_eq!(response.headers()["grpc-status"], "7");
    }
}
