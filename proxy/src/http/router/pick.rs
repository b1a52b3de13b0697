//! A host for one attempt: what the request, its route and its filters say about the choice.

use std::borrow::Cow;
use std::sync::Arc;

use remora_proto::pb::envoy::config::core::v3::Metadata;
use remora_proto::pb::google::protobuf::Struct;
use remora_proto::pb::google::protobuf::value::Kind;

use crate::cluster::lb::subset;
use crate::cluster::{Cluster, Host, PickContext, RetryPick};
use crate::http::exchange::{DynamicMetadata, Exchange};
use crate::http::failure::Failure;
use crate::route::retry::HostPredicate;
use crate::route::{Forward, RetryPolicy};

pub(super) fn pick(
    exchange: &mut Exchange,
    forward: &Forward,
    cluster: &Arc<Cluster>,
    policy: Option<&RetryPolicy>,
) -> Result<Arc<Host>, Failure> {
    let host = {
        let attempted = &exchange.upstream.attempted[..];
        let refuses = |host: &Host| policy.is_some_and(|policy| refused(policy, attempted, host));
        let retry = policy.filter(|_| !attempted.is_empty()).map(|policy| RetryPick {
            attempted,
            refuses: &refuses,
            selections: policy.host_selection_attempts,
            update_frequency: policy.previous_priorities,
        });
        let criteria = match cluster.lb.subset {
            Some(_) => criteria(exchange, forward),
            None => None,
        };
        let context = PickContext {
            hash: exchange.hash,
            retry,
            metadata_match: criteria.as_deref(),
            original_destination: cluster
                .named_destination(Some(exchange.headers()), &exchange.extensions)
                .or(exchange.connection.original_destination),
            now: None,
        };
        cluster.pick(&context).map_err(|_| Failure::NoHealthyUpstream)?
    };
    if policy.is_some() {
        exchange.upstream.attempted.push(host.clone());
    }
    Ok(host)
}

/// Whether one of the host predicates wants another host than this for a retry.
pub(crate) fn refused(policy: &RetryPolicy, attempted: &[Arc<Host>], host: &Host) -> bool {
    policy.host_predicates.iter().any(|predicate| match predicate {
        HostPredicate::PreviousHosts => attempted.iter().any(|before| Arc::ptr_eq(&before.state, &host.state)),
        HostPredicate::OmitCanaryHosts => is_canary(host),
        HostPredicate::OmitHostMetadata(metadata) => {
            let labels = metadata.filter_metadata.get(subset::NAMESPACE);
            labels.is_some_and(|labels| {
                let has = |(key, value): (&String, _)| own(host).is_some_and(|own| own.fields.get(key) == Some(value));
                !labels.fields.is_empty() && labels.fields.iter().all(has)
            })
        }
    })
}

fn own(host: &Host) -> Option<&Struct> {
    host.metadata.as_ref()?.filter_metadata.get(subset::NAMESPACE)
}

/// `envoy.lb: {canary: true}`
fn is_canary(host: &Host) -> bool {
    let value = own(host).and_then(|own| own.fields.get("canary"));
    value.is_some_and(|value| value.kind == Some(Kind::BoolValue(true)))
}

/// The route's criteria (those of its weighted cluster merged already), and over them what filters say of the request in `envoy.lb`.
fn criteria<'a>(exchange: &'a Exchange, forward: &'a Forward) -> Option<Cow<'a, Metadata>> {
    let chosen = exchange.route.route.as_ref();
    let weighted = chosen.and_then(|route| route.weighted(exchange.route.weighted));
    let route = weighted
        .and_then(|entry| entry.metadata_match.as_deref())
        .or(forward.metadata_match.as_deref());
    let said = exchange
        .extensions
        .get::<DynamicMetadata>()
        .and_then(|metadata| metadata.0.get(subset::NAMESPACE));
    let Some(said) = said else {
        return route.map(Cow::Borrowed);
    };
    let mut merged = route.cloned().unwrap_or_default();
    let fields = merged.filter_metadata.entry(subset::NAMESPACE.to_owned()).or_default();
    let said = said.fields.iter().map(|(key, value)| (key.clone(), value.clone()));
    fields.fields.extend(said);
    Some(Cow::Owned(merged))
}
