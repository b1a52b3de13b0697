//! `io.istio.http.peer_metadata`: workloads tell each other who they are, in two headers that never reach the application.

mod peer;

use std::cell::RefCell;
use std::sync::Arc;

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use remora_proto::istio::peer_metadata::{Config, Discovery, DiscoveryMethod, Propagation, PropagationMethod};

use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::cluster::Cluster;
use crate::config::route::{Under, each};
use crate::config::{Compiled, Problems};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::router;
use crate::route::Action;
use crate::snapshot::SnapshotCell;

pub use peer::Peer;
#[cfg(test)]
pub(crate) use peer::tests::node as test_node;

pub const REGISTRATION: Registration = Registration {
    type_name: "io.istio.http.peer_metadata.Config",
    compile,
    per_route: &[],
};

const METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
const METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");
/// Peers that a thread remembers by the bytes of their header; Istio's number.
const REMEMBERED: usize = 500;

/// The filter state `downstream_peer`. Lives in the exchange's extensions.
#[derive(Clone)]
pub struct DownstreamPeer(pub Arc<Peer>);

/// The filter state `upstream_peer`. Lives in the exchange's extensions.
#[derive(Clone)]
pub struct UpstreamPeer(pub Arc<Peer>);

struct PeerMetadata {
    name: Box<str>,
    discover_downstream: bool,
    discover_upstream: bool,
    /// What the client is told in responses, and hosts in requests.
    tell_downstream: bool,
    tell_upstream: Option<Told>,
    own: HeaderValue,
    own_id: HeaderValue,
    snapshot: Arc<SnapshotCell>,
}

/// Whom requests tell.
#[derive(Clone, Copy)]
struct Told {
    skip_external: bool,
}

/// What the client's headers were, before they were removed.
#[derive(Clone, Copy)]
struct Asked {
    metadata: bool,
    id: bool,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = Config::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    let told = propagation("upstream_propagation", &config.upstream_propagation)?;
    let node = &cx.build.node;
    let own = Peer::of_node(node).encode(&config.additional_labels);
    Ok(Stage::Filter(Arc::new(PeerMetadata {
        name: cx.name.into(),
        discover_downstream: discovery("downstream_discovery", &config.downstream_discovery)?,
        discover_upstream: discovery("upstream_discovery", &config.upstream_discovery)?,
        tell_downstream: propagation("downstream_propagation", &config.downstream_propagation)?.is_some(),
        tell_upstream: told,
        own: HeaderValue::try_from(own).map_err(|error| Problems::one("", error.to_string()))?,
        own_id: HeaderValue::from_str(&node.id).map_err(|_| Problems::one("", "the node's id is no header value"))?,
        snapshot: cx.build.snapshot.clone(),
    })))
}

/// Whether peers are known by headers. There is no workload discovery to ask: it finds nobody, as where istiod does not serve it.
fn discovery(field: &str, methods: &[DiscoveryMethod]) -> Compiled<bool> {
    let by_headers = each(field, methods, |method| match method.method_specifier {
        Some(Discovery::IstioHeaders(_)) => Ok(true),
        Some(Discovery::WorkloadDiscovery(_)) => Ok(false),
        Some(Discovery::Baggage(_)) => Err(Problems::one("baggage", "is not supported")),
        None => Err(Problems::one("method_specifier", "is required")),
    })?;
    Ok(by_headers.contains(&true))
}

fn propagation(field: &str, methods: &[PropagationMethod]) -> Compiled<Option<Told>> {
    let told = each("", methods, |method| match method.method_specifier {
        Some(Propagation::IstioHeaders(headers)) => Ok(Told {
            skip_external: headers.skip_external_clusters,
        }),
        Some(Propagation::Baggage(_)) => Err(Problems::one("baggage", "is not supported")),
        None => Err(Problems::one("method_specifier", "is required")),
    });
    Ok(told.under(field)?.first().copied())
}

impl Filter for PeerMetadata {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        if self.discover_downstream {
            let headers = exchange.request.headers_mut();
            let asked = Asked {
                metadata: headers.contains_key(METADATA),
                id: headers.contains_key(METADATA_ID),
            };
            if asked.metadata || asked.id {
                let peer = take(headers);
                exchange.extensions.insert(asked);
                if let Some(peer) = peer {
                    exchange.extensions.insert(DownstreamPeer(peer));
                }
            }
        }
        if let Some(told) = self.tell_upstream
            && !self.is_outsider(exchange, told)
        {
            let headers = exchange.request.headers_mut();
            headers.insert(METADATA_ID, self.own_id.clone());
            headers.insert(METADATA, self.own.clone());
        }
        Flow::Continue
    }

    fn response_headers(&self, exchange: &mut Exchange, response: &mut http::Response<Body>) -> Flow {
        let headers = response.headers_mut();
        if self.discover_upstream
            && let Some(peer) = take(headers)
        {
            exchange.extensions.insert(UpstreamPeer(peer));
        }
        if self.tell_downstream
            && let Some(asked) = exchange.extensions.get::<Asked>()
        {
            if asked.id {
                headers.insert(METADATA_ID, self.own_id.clone());
            }
            if asked.metadata {
                headers.insert(METADATA, self.own.clone());
            }
        }
        Flow::Continue
    }
}

impl PeerMetadata {
    /// Whether the request goes where nothing is to be told of us.
    fn is_outsider(&self, exchange: &Exchange, told: Told) -> bool {
        let Some(cluster) = self.cluster(exchange) else {
            return false;
        };
        let external = &*cluster.name == "PassthroughCluster" || cluster.istio.external;
        cluster.istio.disable_mx || (told.skip_external && external)
    }

    /// The cluster that the router is going to choose.
    fn cluster(&self, exchange: &Exchange) -> Option<Arc<Cluster>> {
        let route = exchange.route.route.as_ref()?;
        let Action::Forward(forward) = &route.action else {
            return None;
        };
        let chosen = router::choose(exchange, forward).1?;
        self.snapshot.load().cluster(&chosen.cluster)
    }
}

thread_local! {
    static KNOWN: RefCell<HashMap<HeaderValue, Arc<Peer>>> = RefCell::default();
}

/// Removes both headers; the peer that they describe.
fn take(headers: &mut HeaderMap) -> Option<Arc<Peer>> {
    headers.remove(METADATA_ID);
    let metadata = headers.remove(METADATA)?;
    KNOWN.with_borrow_mut(|known| {
        if let Some(peer) = known.get(&metadata) {
            return Some(peer.clone());
        }
        let peer = Arc::new(Peer::decode(metadata.as_bytes())?);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(metadata, peer.clone());
        Some(peer)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::testing::exchange;
    use remora_proto::istio::peer_metadata::{IstioHeaders, WorkloadDiscovery};

    fn filter(config: &Config) -> Arc<dyn Filter> {
        let build = BuildContext {
            node: Arc::new(peer::tests::node()),
            ..BuildContext::default()
        };
        let cx = FilterContext {
            name: "istio.metadata_exchange",
            stat_prefix: "http.x.",
            build: &build,
        };
        match compile(&config.encode_to_vec(), &cx).expect("compiles") {
            Stage::Filter(filter) => filter,
            Stage::Tower(_) => panic!("a filter"),
        }
    }

    fn find() -> Vec<DiscoveryMethod> {
        let method = |method| DiscoveryMethod {
            method_specifier: Some(method),
        };
        vec![
            method(Discovery::IstioHeaders(IstioHeaders::default())),
            method(Discovery::WorkloadDiscovery(WorkloadDiscovery {})),
        ]
    }

    fn tell() -> Vec<PropagationMethod> {
        vec![PropagationMethod {
            method_specifier: Some(Propagation::IstioHeaders(IstioHeaders::default())),
        }]
    }

    #[test]
    fn two_sidecars_learn_of_each_other_and_the_application_of_neither() {
        let client = filter(&Config {
            upstream_discovery: find(),
            upstream_propagation: tell(),
            ..Config::default()
        });
        let server = filter(&Config {
            downstream_discovery: find(),
            downstream_propagation: tell(),
            ..Config::default()
        });
        let mut outbound = exchange("GET", "/", &[]);
        client.request_headers(&mut outbound);
        assert_eq!(
            outbound.headers()["x-envoy-peer-metadata-id"],
            "sidecar~10.0.0.9~web-1.shop~shop.svc.cluster.local"
        );
        let mut inbound = exchange("GET", "/", &[]);
        *inbound.request.headers_mut() = outbound.headers().clone();
        server.request_headers(&mut inbound);
        assert!(inbound.headers().is_empty());
        let seen = inbound.extensions.get::<DownstreamPeer>().expect("a peer");
        assert_eq!((&*seen.0.workload, &*seen.0.canonical_name), ("web-v1", "web"));
        let mut response = http::Response::new(Body::Empty);
        server.response_headers(&mut inbound, &mut response);
        assert!(response.headers().contains_key(METADATA));
        client.response_headers(&mut outbound, &mut response);
        assert!(response.headers().is_empty());
        let seen = outbound.extensions.get::<UpstreamPeer>().expect("a peer");
        assert_eq!(&*seen.0.namespace, "shop");
    }

    #[test]
    fn a_client_that_told_nothing_is_told_nothing() {
        let server = filter(&Config {
            downstream_discovery: find(),
            downstream_propagation: tell(),
            ..Config::default()
        });
        let mut plain = exchange("GET", "/", &[]);
        let mut response = http::Response::new(Body::Empty);
        server.request_headers(&mut plain);
        server.response_headers(&mut plain, &mut response);
        assert!(response.headers().is_empty());
    }

    #[test]
    fn rubbish_is_removed_and_nobody() {
        let server = filter(&Config {
            downstream_discovery: find(),
            ..Config::default()
        });
        let mut odd = exchange(
            "GET",
            "/",
            &[("x-envoy-peer-metadata", "%%%"), ("x-envoy-peer-metadata-id", "x")],
        );
        server.request_headers(&mut odd);
        assert!(odd.headers().is_empty() && odd.extensions.get::<DownstreamPeer>().is_none());
    }
}
