//! `envoy.filters.network.ext_authz`: a service outside decides about each connection.
//!
//! Envoy asks at the first byte; here it is asked when the connection is accepted (and its handshake done), as nothing that it is told comes later,
//! and so that a server that speaks first says nothing to whom it may not. No decision is a refusal, unless `failure_mode_allow` says otherwise.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::ext_authz::v3 as pb;
use remora_proto::pb::envoy::service::auth::v3::CheckRequest;
use remora_proto::pb::google::protobuf::{Struct, value::Kind};

use super::{Closing, NetworkFilter, Verdict};
use crate::config::route::{Under, optional};
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::http::ext_authz::{Decision, GrpcService, Telling, connection_attributes};
use crate::http::exchange::DynamicMetadata;
use crate::listener::ConnectionInfo;
use crate::route::strings::MetadataMatcher;
use crate::telemetry::flags::ResponseFlags;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
/// The namespace of what the service tells.
const METADATA: &str = "envoy.filters.network.ext_authz";

crate::stat_group! {
    /// Under `ext_authz.<stat_prefix>.`.
    pub struct AuthzStats {
        counters: { cx_closed, denied, disabled, error, failure_mode_allowed, ok, total }
        gauges: { active }
        histograms: {}
    }
}

struct ExtAuthz(Arc<Shared>);

/// What a check takes with it while it waits.
struct Shared {
    service: GrpcService,
    failure_mode_allow: bool,
    enabled_by: Option<MetadataMatcher>,
    telling: Telling,
    stats: Arc<AuthzStats>,
}

pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = pb::ExtAuthz::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let Some(service) = &config.grpc_service else {
        return Err(Problems::one("grpc_service", "is required"));
    };
    let enabled_by = config.filter_enabled_metadata.as_ref();
    Ok(Arc::new(ExtAuthz(Arc::new(Shared {
        service: GrpcService::compile(service, cx).under("grpc_service")?,
        failure_mode_allow: config.failure_mode_allow,
        enabled_by: optional("filter_enabled_metadata", enabled_by, MetadataMatcher::compile)?,
        telling: Telling {
            certificate: config.include_peer_certificate,
            tls_session: config.include_tls_session,
            metadata: config.metadata_context_namespaces.clone(),
            labels: labels(cx.node.metadata.as_ref(), &config.bootstrap_metadata_labels_key),
        },
        stats: cx.stats.group(&format!("ext_authz.{}.", config.stat_prefix)),
    }))))
}

/// The texts under a key of the node's metadata.
fn labels(metadata: Option<&Struct>, key: &str) -> HashMap<String, String> {
    let found = metadata.and_then(|metadata| metadata.fields.get(key)?.kind.as_ref());
    let Some(Kind::StructValue(found)) = found.filter(|_| !key.is_empty()) else {
        return HashMap::new();
    };
    let text = |kind: &Option<Kind>| match kind {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    };
    let labels = found.fields.iter();
    labels.map(|(name, value)| (name.clone(), text(&value.kind))).collect()
}

impl NetworkFilter for ExtAuthz {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict {
        let shared = self.0.clone();
        let metadata = connection.extensions.get::<DynamicMetadata>();
        if shared
            .enabled_by
            .as_ref()
            .is_some_and(|matcher| !matcher.matches(metadata))
        {
            shared.stats.disabled.inc();
            return Verdict::Continue;
        }
        let question = CheckRequest {
            attributes: Some(connection_attributes(connection, &shared.telling)),
        };
        let local = connection.local.ip().map(|address| address.ip().to_string());
        shared.stats.total.inc();
        Verdict::Wait(Box::pin(async move {
            let asking = Asking::start(shared.stats.clone());
            let decision = shared.service.ask(&question, local).await;
            drop(asking);
            Box::new(move |connection: &mut ConnectionInfo| shared.act(decision, connection)) as super::Then
        }))
    }
}

impl Shared {
    fn act(&self, decision: Decision, connection: &mut ConnectionInfo) -> Verdict {
        match decision {
            Decision::Granted(grant) => {
                self.stats.ok.inc();
                tell(connection, grant.metadata);
                Verdict::Continue
            }
            Decision::Denied(denial) => {
                self.stats.denied.inc();
                tell(connection, denial.metadata);
                self.close("ext_authz_denied")
            }
            Decision::None(reason) => {
                tracing::debug!(target: "ext_authz", connection = connection.id, reason, "no decision");
                self.stats.error.inc();
                if self.failure_mode_allow {
                    self.stats.failure_mode_allowed.inc();
                    return Verdict::Continue;
                }
                self.close("ext_authz_error")
            }
        }
    }

    fn close(&self, details: &'static str) -> Verdict {
        self.stats.cx_closed.inc();
        Verdict::Close(Closing {
            details,
            flags: ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE,
            reason: "ext_authz_close",
            ..Closing::default()
        })
    }
}

fn tell(connection: &mut ConnectionInfo, metadata: Option<Struct>) {
    if let Some(metadata) = metadata.filter(|metadata| !metadata.fields.is_empty()) {
        let all = connection.extensions.get_or_insert_default::<DynamicMetadata>();
        all.fields_mut(METADATA).fields.extend(metadata.fields);
    }
}

/// Counts a check for as long as it runs, or until the connection is given up.
struct Asking(Arc<AuthzStats>);

impl Asking {
    fn start(stats: Arc<AuthzStats>) -> Self {
        stats.active.inc();
        Self(stats)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use remora_proto::pb::envoy::config::core::v3 as core;
    use remora_proto::pb::envoy::r#type::matcher::v3 as pbm;

    fn config() -> pb::ExtAuthz {
        let envoy = core::grpc_service::EnvoyGrpc {
            cluster_name: "nowhere".into(),
            ..Default::default()
        };
        pb::ExtAuthz {
            stat_prefix: "tcp".into(),
            grpc_service: Some(core::GrpcService {
                target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(envoy)),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn outcome(config: &pb::ExtAuthz, cx: &BuildContext) -> Verdict {
        let filter = compile(&config.encode_to_vec(), cx).expect("compiles");
        let mut connection = crate::testing::connection(None);
        match filter.on_new_connection(&mut connection) {
            Verdict::Wait(waiting) => waiting.await(&mut connection),
            other => other,
        }
    }

    #[tokio::test]
    async fn without_a_decision_the_connection_ends_unless_failures_pass() {
        let cx = BuildContext::default();
        let Verdict::Close(closing) = outcome(&config(), &cx).await else {
            panic!("closed");
        };
        assert_eq!(closing.details, "ext_authz_error");
        assert!(closing.flags.contains(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE));
        let open = pb::ExtAuthz {
            failure_mode_allow: true,
            ..config()
        };
        assert!(matches!(outcome(&open, &cx).await, Verdict::Continue));
        let stats = cx.stats.group::<AuthzStats>("ext_authz.tcp.");
        let counted = [
            &stats.total,
            &stats.error,
            &stats.cx_closed,
            &stats.failure_mode_allowed,
            &stats.ok,
        ];
        assert_eq!(counted.map(|counter| counter.value()), [2, 2, 1, 1, 0]);
        assert_eq!(stats.active.value(), 0);
    }

    #[tokio::test]
    async fn metadata_that_is_not_there_leaves_it_disabled() {
        let cx = BuildContext::default();
        let matcher = pbm::MetadataMatcher {
            filter: "envoy.filters.network.rbac".into(),
            path: vec![pbm::metadata_matcher::PathSegment {
                segment: Some(pbm::metadata_matcher::path_segment::Segment::Key("k".into())),
            }],
            value: Some(pbm::ValueMatcher {
                match_pattern: Some(pbm::value_matcher::MatchPattern::PresentMatch(true)),
            }),
            ..Default::default()
        };
        let config = pb::ExtAuthz {
            filter_enabled_metadata: Some(matcher),
            ..config()
        };
        assert!(matches!(outcome(&config, &cx).await, Verdict::Continue));
        assert_eq!(cx.stats.group::<AuthzStats>("ext_authz.tcp.").disabled.value(), 1);
    }

    #[test]
    fn a_service_is_required() {
        let refused = compile(&pb::ExtAuthz::default().encode_to_vec(), &BuildContext::default()).err();
        assert_eq!(refused.expect("refused").0[0].path, "grpc_service");
    }
}
