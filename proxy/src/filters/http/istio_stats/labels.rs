//! Istio's standard labels, in the order in which its proxy prints them.

use std::borrow::Cow;

use remora_proto::pb::google::protobuf::value::Kind;

use super::key::{Facts, Nowhere};
use crate::cluster::Host;
use crate::filters::http::peer_metadata::Peer;

/// What nobody knows of a peer. What we do not know of ourselves is empty, as in Istio.
pub(super) const UNKNOWN: &str = "unknown";
/// What a revision is when nobody says.
const LATEST: &str = "latest";

pub(super) type Label<'a> = (&'static str, Cow<'a, str>);

/// The labels of a combination; `own` is who we are.
pub(super) fn of<'a>(facts: &Facts<'_>, own: &Peer) -> Vec<Label<'a>> {
    let fallback = facts.host.and_then(|host| endpoint(host));
    let nobody = Peer::default();
    let peer = match facts.peer {
        Some(peer) => (**peer).clone(),
        None => fallback.unwrap_or(nobody),
    };
    let namespace = namespace_of(facts.peer_principal).map_or_else(|| peer.namespace.to_string(), str::to_owned);
    let peer = Peer {
        namespace: namespace.into(),
        ..peer
    };
    let (source, destination) = if facts.inbound { (&peer, own) } else { (own, &peer) };
    let (from, to) = if facts.inbound {
        (facts.peer_principal, facts.own_principal)
    } else {
        (facts.own_principal, facts.peer_principal)
    };
    let known = |text: &str| Cow::<str>::Owned(or(text, UNKNOWN).to_owned());
    let (service, service_name) = service(facts, own);
    let reporter = if facts.inbound { "destination" } else { "source" };
    let source = Shown::new(source, facts.inbound);
    let destination = Shown::new(destination, !facts.inbound);
    let mut labels = vec![
        ("reporter", Cow::Borrowed(reporter)),
        ("source_workload", source.show(|peer| &peer.workload)),
        ("source_canonical_service", source.show(|peer| &peer.canonical_name)),
        ("source_canonical_revision", source.revision()),
        ("source_workload_namespace", source.show(|peer| &peer.namespace)),
        ("source_principal", known(from)),
        ("source_app", source.show(|peer| &peer.app)),
        ("source_version", source.show(|peer| &peer.version)),
        ("source_cluster", source.show(|peer| &peer.cluster)),
        ("destination_workload", destination.show(|peer| &peer.workload)),
        (
            "destination_workload_namespace",
            destination.show(|peer| &peer.namespace),
        ),
        ("destination_principal", known(to)),
        ("destination_app", destination.show(|peer| &peer.app)),
        ("destination_version", destination.show(|peer| &peer.version)),
        ("destination_service", service),
        (
            "destination_canonical_service",
            destination.show(|peer| &peer.canonical_name),
        ),
        ("destination_canonical_revision", destination.revision()),
        ("destination_service_name", service_name),
        ("destination_service_namespace", service_namespace(facts, &destination)),
        ("destination_cluster", destination.show(|peer| &peer.cluster)),
    ];
    if facts.tcp {
        labels.push(("request_protocol", Cow::Borrowed("tcp")));
    } else {
        let protocol = if facts.grpc.is_some() { "grpc" } else { "http" };
        let status = facts.grpc.map(|status| status.to_string()).unwrap_or_default();
        labels.push(("request_protocol", Cow::Borrowed(protocol)));
        labels.push(("response_code", Cow::Owned(facts.code.to_string())));
        labels.push(("grpc_response_status", Cow::Owned(status)));
    }
    labels.push(("response_flags", Cow::Owned(facts.flags.short())));
    labels.push(("connection_security_policy", Cow::Borrowed(security(facts))));
    labels
}

/// How many labels, from the first on, say who talks to whom: all that the numbers of gRPC messages have.
pub(super) const OF_ENDS: usize = 20;

/// One end's workload, as labels show it.
struct Shown<'a> {
    peer: &'a Peer,
    is_other: bool,
}

impl<'a> Shown<'a> {
    fn new(peer: &'a Peer, is_other: bool) -> Self {
        Self { peer, is_other }
    }

    fn show(&self, of: impl Fn(&'a Peer) -> &'a str) -> Cow<'static, str> {
        self.or(of(self.peer), UNKNOWN)
    }

    fn revision(&self) -> Cow<'static, str> {
        self.or(&self.peer.canonical_revision, LATEST)
    }

    fn or(&self, text: &str, default: &'static str) -> Cow<'static, str> {
        match text.is_empty() && self.is_other {
            true => Cow::Borrowed(default),
            false => Cow::Owned(text.to_owned()),
        }
    }
}

/// A client knows the namespace of a service by its cluster, whoever of it answers.
fn service_namespace(facts: &Facts<'_>, destination: &Shown<'_>) -> Cow<'static, str> {
    let service = facts.cluster.filter(|_| !facts.inbound);
    let service = service.and_then(|cluster| cluster.istio.service.as_ref());
    match service.filter(|service| !service.namespace.is_empty()) {
        Some(service) => Cow::Owned(service.namespace.as_str().to_owned()),
        None => destination.show(|peer| &peer.namespace),
    }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// Only the server's side knows for sure.
fn security(facts: &Facts<'_>) -> &'static str {
    match facts.inbound {
        false => UNKNOWN,
        true if !facts.peer_principal.is_empty() && !facts.own_principal.is_empty() => "mutual_tls",
        true => "none",
    }
}

/// `destination_service` and `destination_service_name`.
fn service(facts: &Facts<'_>, own: &Peer) -> (Cow<'static, str>, Cow<'static, str>) {
    let authority = String::from_utf8_lossy(facts.authority);
    let (mut host, mut name) = (authority.clone(), authority);
    let cluster = facts.cluster.map_or("", |cluster| &*cluster.name);
    match facts.nowhere {
        Nowhere::BlackHole => name = "BlackHoleCluster".into(),
        Nowhere::Passthrough => name = "PassthroughCluster".into(),
        Nowhere::No if cluster == "BlackHoleCluster" || cluster == "PassthroughCluster" => name = cluster.into(),
        Nowhere::No if cluster.starts_with("InboundPassthroughCluster") => name = cluster.into(),
        Nowhere::No => {
            if let Some(service) = facts.cluster.and_then(|cluster| cluster.istio.service.as_ref()) {
                host = service.host.as_str().into();
                name = service.name.as_str().into();
            }
        }
    }
    let default = if facts.inbound { &*own.canonical_name } else { UNKNOWN };
    let shown = |text: Cow<'_, str>| Cow::Owned(or(&text, default).to_owned());
    (shown(host), shown(name))
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<account>`
fn namespace_of(principal: &str) -> Option<&str> {
    let mut parts = principal.strip_prefix("spiffe://")?.split('/').skip(1);
    while let Some(part) = parts.next() {
        if part == "ns" {
            return parts.next();
        }
    }
    None
}

/// What istiod says of an endpoint's workload: `name;namespace;canonical-name;canonical-revision;cluster`.
fn endpoint(host: &Host) -> Option<Peer> {
    let istio = host.metadata.as_ref()?.filter_metadata.get("istio")?;
    let Some(Kind::StringValue(text)) = &istio.fields.get("workload")?.kind else {
        return None;
    };
    let mut parts = text.split(';').map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Some(Peer {
        workload: next(),
        namespace: next(),
        canonical_name: next(),
        canonical_revision: next(),
        cluster: next(),
        ..Peer::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_names_its_namespace() {
        assert_eq!(namespace_of("spiffe://cluster.local/ns/shop/sa/web"), Some("shop"));
        assert_eq!(namespace_of("spiffe://cluster.local/sa/web"), None);
        assert_eq!(namespace_of(""), None);
    }
}
