//! `envoy.filters.network.rbac`: who may connect. Envoy decides at the first byte; here, when the connection is accepted (and its
//! handshake done), since nothing that these rules look at comes later. For the same reason `enforcement_type: CONTINUOUS` decides no otherwise;
//! it counts the decision again with each read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pbr::permission;
use pbr::principal::Identifier;
use prost::Message;
use remora_proto::pb::envoy::config::rbac::v3 as pbr;
use remora_proto::pb::envoy::extensions::filters::network::rbac::v3 as pb;

use super::{Closing, NetworkFilter, Verdict};
use crate::config::listener::duration;
use crate::config::route::refuse;
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::rbac::{Decider, Of, Subject, Told, hint, note, stat_name};
use crate::listener::ConnectionInfo;
use crate::runtime::io::Account;
use crate::telemetry::stats::Counter;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";

/// The namespace of what shadow rules tell.
const METADATA: &str = "envoy.filters.network.rbac";

crate::stat_group! {
    /// Under `<stat_prefix>rbac.`; names carry a configured prefix, so they are made at run time.
    pub struct RbacStats {
        counters: {}
        gauges: {}
        histograms: {}
    }
}

struct Rbac {
    enforced: Option<Decider>,
    shadow: Option<Decider>,
    delay: Duration,
    allowed: Arc<Counter>,
    denied: Arc<Counter>,
    shadow_allowed: Arc<Counter>,
    shadow_denied: Arc<Counter>,
    /// Metadata of the shadow rules, by which later filters go.
    told: Told,
    /// `enforcement_type: CONTINUOUS`
    continuous: bool,
}

/// Counts a decision again with each read.
struct Again {
    counters: Vec<Arc<Counter>>,
    /// The first read is what the decision was made for.
    is_first: AtomicBool,
}

impl Account for Again {
    fn received(&self, _: u64) {
        if !self.is_first.swap(false, Ordering::Relaxed) {
            self.counters.iter().for_each(|counter| counter.inc());
        }
    }

    fn sent(&self, _: u64) {}

    /// For Envoy's filters, the client's end is data too.
    fn peer_said_end(&self) {
        self.received(0);
    }
}

fn asks_for_header(permission: &pbr::Permission) -> bool {
    match &permission.rule {
        Some(permission::Rule::AndRules(set) | permission::Rule::OrRules(set)) => set.rules.iter().any(asks_for_header),
        Some(permission::Rule::NotRule(inner)) => asks_for_header(inner),
        Some(permission::Rule::Header(_)) => true,
        _ => false,
    }
}

fn is_by_header(principal: &pbr::Principal) -> bool {
    match &principal.identifier {
        Some(Identifier::AndIds(set) | Identifier::OrIds(set)) => set.ids.iter().any(is_by_header),
        Some(Identifier::NotId(inner)) => is_by_header(inner),
        Some(Identifier::Header(_)) => true,
        _ => false,
    }
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = pb::Rbac::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let stats = cx.stats.group::<RbacStats>(&format!("{}rbac.", config.stat_prefix));
    let counter = |name: &str| stats.dynamic.counter(name);
    let shadow = |name: &str| counter(&stat_name(&config.shadow_rules_stat_prefix, name));
    let enforced = Decider::compile(
        ("rules", config.rules.as_ref()),
        ("matcher", config.matcher.as_ref()),
        Of::Connections,
    )?;
    let shadowed = Decider::compile(
        ("shadow_rules", config.shadow_rules.as_ref()),
        ("shadow_matcher", config.shadow_matcher.as_ref()),
        Of::Connections,
    )?;
    for (field, rules) in [("rules", &config.rules), ("shadow_rules", &config.shadow_rules)] {
        let policies = rules.iter().flat_map(|rules| rules.policies.values());
        let by_header = policies
            .into_iter()
            .any(|policy| policy.permissions.iter().any(asks_for_header) || policy.principals.iter().any(is_by_header));
        refuse(
            field,
            by_header,
            "header rules are not supported: a connection has no headers",
        )?;
    }
    Ok(Arc::new(Rbac {
        enforced,
        shadow: shadowed,
        delay: duration(config.delay_deny.as_ref()).unwrap_or_default(),
        allowed: counter("allowed"),
        denied: counter("denied"),
        shadow_allowed: shadow("shadow_allowed"),
        shadow_denied: shadow("shadow_denied"),
        told: Told::new(&config.shadow_rules_stat_prefix, "shadow"),
        continuous: config.enforcement_type == pb::rbac::EnforcementType::Continuous as i32,
    }))
}

impl Rbac {
    fn go_on(&self, counters: Vec<Arc<Counter>>) -> Verdict {
        match self.continuous && !counters.is_empty() {
            true => Verdict::Meter(Arc::new(Again {
                counters,
                is_first: AtomicBool::new(true),
            })),
            false => Verdict::Continue,
        }
    }
}

impl NetworkFilter for Rbac {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict {
        let mut again = Vec::new();
        if let Some(shadow) = &self.shadow {
            let decision = shadow.decide(&Subject::of_connection(connection));
            let counter = if decision.allowed {
                &self.shadow_allowed
            } else {
                &self.shadow_denied
            };
            counter.inc();
            again.push(counter.clone());
            self.told.tell(&mut connection.extensions, METADATA, &decision);
        }
        let Some(enforced) = &self.enforced else {
            return self.go_on(again);
        };
        let decision = enforced.decide(&Subject::of_connection(connection));
        note("enforced", &decision);
        if let Some(log) = decision.log {
            hint(&mut connection.extensions, log);
        }
        if decision.allowed {
            self.allowed.inc();
            again.push(self.allowed.clone());
            return self.go_on(again);
        }
        self.denied.inc();
        Verdict::Close(Closing {
            termination: decision.denial_details(),
            delay: self.delay,
            reason: "rbac_deny_close",
            ..Closing::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use remora_proto::pb::envoy::config::route::v3::HeaderMatcher;

    use super::*;

    #[test]
    fn a_continuous_decision_is_counted_with_each_read() {
        let cx = BuildContext::default();
        let any = pbr::Policy {
            permissions: vec![pbr::Permission {
                rule: Some(permission::Rule::Any(true)),
            }],
            principals: vec![pbr::Principal {
                identifier: Some(Identifier::Any(true)),
            }],
            ..Default::default()
        };
        let rules = pbr::Rbac {
            policies: [("all".to_owned(), any)].into(),
            ..Default::default()
        };
        let config = pb::Rbac {
            rules: Some(rules.clone()),
            shadow_rules: Some(rules),
            stat_prefix: "tcp.".into(),
            enforcement_type: pb::rbac::EnforcementType::Continuous as i32,
            ..Default::default()
        };
        let filter = compile(&config.encode_to_vec(), &cx).expect("compiles");
        let Verdict::Meter(account) = filter.on_new_connection(&mut crate::testing::connection(None)) else {
            panic!("it is not told of reads");
        };
        let counted = || {
            let stats = cx.stats.group::<RbacStats>("tcp.rbac.");
            ["allowed", "shadow_allowed"].map(|name| stats.dynamic.counter(name).value())
        };
        account.received(5);
        assert_eq!(counted(), [1, 1]);
        account.received(5);
        account.received(1);
        account.peer_said_end();
        assert_eq!(counted(), [4, 4]);
    }

    #[test]
    fn header_rules_are_refused_wherever_they_stand() {
        let header = pbr::Permission {
            rule: Some(permission::Rule::Header(HeaderMatcher {
                name: "a".into(),
                ..Default::default()
            })),
        };
        let not = pbr::Permission {
            rule: Some(permission::Rule::NotRule(Box::new(header))),
        };
        let policy = pbr::Policy {
            permissions: vec![not],
            principals: vec![pbr::Principal {
                identifier: Some(Identifier::Any(true)),
            }],
            ..Default::default()
        };
        let config = pb::Rbac {
            shadow_rules: Some(pbr::Rbac {
                policies: [("p".to_owned(), policy)].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let problems = compile(&config.encode_to_vec(), &BuildContext::default())
            .err()
            .expect("refused");
        assert_eq!(problems.0[0].path, "shadow_rules");
    }

    #[test]
    fn absent_rules_let_pass_and_empty_ones_do_not() {
        let cx = BuildContext::default();
        let verdict = |rules: Option<pbr::Rbac>| {
            let config = pb::Rbac {
                rules,
                stat_prefix: "tcp.".into(),
                ..Default::default()
            };
            let filter = compile(&config.encode_to_vec(), &cx).expect("compiles");
            filter.on_new_connection(&mut crate::testing::connection(None))
        };
        assert!(matches!(verdict(None), Verdict::Continue));
        let Verdict::Close(closing) = verdict(Some(pbr::Rbac::default())) else {
            panic!("closed");
        };
        assert_eq!(closing.termination, "rbac_access_denied_matched_policy[none]");
        assert_eq!(
            cx.stats
                .group::<RbacStats>("tcp.rbac.")
                .dynamic
                .counter("denied")
                .value(),
            1
        );
    }
}
