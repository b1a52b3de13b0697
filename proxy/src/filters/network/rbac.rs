//! `envoy.filters.network.rbac`: who may connect. Envoy decides at the first byte; here, when the connection is accepted (and its
//! handshake done), since nothing that these rules look at comes later. For the same reason `enforcement_type: CONTINUOUS` decides no otherwise;
//! only its counters count connections, not reads.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::rbac::v3 as pb;

use super::{Closing, NetworkFilter, Verdict};
use crate::config::listener::duration;
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::rbac::{Decider, Of, Subject, Told, hint, note, stat_name};
use crate::listener::ConnectionInfo;
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
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = pb::Rbac::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let stats = cx.stats.group::<RbacStats>(&format!("{}rbac.", config.stat_prefix));
    let counter = |name: &str| stats.dynamic.counter(name);
    let shadow = |name: &str| counter(&stat_name(&config.shadow_rules_stat_prefix, name));
    Ok(Arc::new(Rbac {
        enforced: Decider::compile(
            ("rules", config.rules.as_ref()),
            ("matcher", config.matcher.as_ref()),
            Of::Connections,
        )?,
        shadow: Decider::compile(
            ("shadow_rules", config.shadow_rules.as_ref()),
            ("shadow_matcher", config.shadow_matcher.as_ref()),
            Of::Connections,
        )?,
        delay: duration(config.delay_deny.as_ref()).unwrap_or_default(),
        allowed: counter("allowed"),
        denied: counter("denied"),
        shadow_allowed: shadow("shadow_allowed"),
        shadow_denied: shadow("shadow_denied"),
        told: Told::new(&config.shadow_rules_stat_prefix, "shadow"),
    }))
}

impl NetworkFilter for Rbac {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.decide(&Subject::of_connection(connection));
            let counter = if decision.allowed {
                &self.shadow_allowed
            } else {
                &self.shadow_denied
            };
            counter.inc();
            self.told.tell(&mut connection.extensions, METADATA, &decision);
        }
        let Some(enforced) = &self.enforced else {
            return Verdict::Continue;
        };
        let decision = enforced.decide(&Subject::of_connection(connection));
        note("enforced", &decision);
        if let Some(log) = decision.log {
            hint(&mut connection.extensions, log);
        }
        if decision.allowed {
            self.allowed.inc();
            return Verdict::Continue;
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
    use super::*;
    use remora_proto::pb::envoy::config::rbac::v3 as pbr;

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
