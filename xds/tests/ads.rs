//! The whole client against a scripted control plane over TCP.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test is its own runtime and has no injected clock"
)]

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use remora_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use remora_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use remora_proto::pb::google::protobuf::Any;
use remora_xds::{Client, GrpcConnector, Mode, Reference, Root, SourceConfig, channel, types};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers requests for clusters and assignments; tells the test what it was sent.
#[derive(Clone)]
struct Server {
    seen: mpsc::Sender<DiscoveryRequest>,
    seen_delta: mpsc::Sender<DeltaDiscoveryRequest>,
    clusters: usize,
    /// Bytes that each cluster has too much.
    padding: usize,
}

fn cluster(index: usize, padding: usize) -> Cluster {
    Cluster {
        name: format!("cluster-{index}"),
        alt_stat_name: "x".repeat(padding),
        ..Cluster::default()
    }
}

fn assignment(name: &str) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        ..ClusterLoadAssignment::default()
    }
}

fn any(url: &str, message: &impl Message) -> Any {
    Any {
        type_url: url.to_owned(),
        value: message.encode_to_vec(),
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Server {
    type StreamAggregatedResourcesStream = Out<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Out<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (server, mut requests) = (self.clone(), requests.into_inner());
        let (out, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let _ = server.seen.send(request.clone()).await;
                if !request.response_nonce.is_empty() {
                    continue;
                }
                let url = request.type_url.as_str();
                let resources = if url == types::CLUSTER.url {
                    (0..server.clusters)
                        .map(|index| any(url, &cluster(index, server.padding)))
                        .collect()
                } else {
                    request
                        .resource_names
                        .iter()
                        .map(|name| any(url, &assignment(name)))
                        .collect()
                };
                let response = DiscoveryResponse {
                    version_info: "1".into(),
                    nonce: "n1".into(),
                    type_url: url.to_owned(),
                    resources,
                    ..DiscoveryResponse::default()
                };
                let _ = out.send(Ok(response)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (server, mut requests) = (self.clone(), requests.into_inner());
        let (out, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let _ = server.seen_delta.send(request.clone()).await;
                if !request.response_nonce.is_empty() {
                    continue;
                }
                let url = request.type_url.as_str();
                let resource = |name: String, any: Any| Resource {
                    name,
                    version: "7".into(),
                    resource: Some(any),
                    ..Resource::default()
                };
                let resources = if url == types::CLUSTER.url {
                    (0..server.clusters)
                        .map(|index| resource(cluster(index, 0).name, any(url, &cluster(index, server.padding))))
                        .collect()
                } else {
                    let names = request.resource_names_subscribe.iter();
                    names
                        .map(|name| resource(name.clone(), any(url, &assignment(name))))
                        .collect()
                };
                let response = DeltaDiscoveryResponse {
                    nonce: "n1".into(),
                    type_url: url.to_owned(),
                    resources,
                    ..DeltaDiscoveryResponse::default()
                };
                let _ = out.send(Ok(response)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

struct Running {
    target: String,
    seen: mpsc::Receiver<DiscoveryRequest>,
    seen_delta: mpsc::Receiver<DeltaDiscoveryRequest>,
    /// Dropping it ends the server.
    _stop: oneshot::Sender<()>,
}

async fn serve(clusters: usize, padding: usize) -> Running {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let ((to_seen, seen), (to_delta, seen_delta)) = (mpsc::channel(64), mpsc::channel(64));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server {
        seen: to_seen,
        seen_delta: to_delta,
        clusters,
        padding,
    };
    let service = AggregatedDiscoveryServiceServer::new(server);
    tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let ended = async {
            let _ = stopped.await;
        };
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended)
            .await
    });
    Running {
        target,
        seen,
        seen_delta,
        _stop: stop,
    }
}

fn node() -> Node {
    Node {
        id: "test-node".into(),
        cluster: "test".into(),
        ..Node::default()
    }
}

/// Every cluster needs the assignment of its own name.
fn needs_assignment(url: &str, name: &str, _: &Bytes) -> Result<Vec<Reference>, String> {
    let is_cluster = url == types::CLUSTER.url;
    Ok(is_cluster
        .then(|| Reference::new(&types::ASSIGNMENT, name))
        .into_iter()
        .collect())
}

async fn clusters_arrive(mode: Mode, clusters: usize, padding: usize) -> Running {
    let server = serve(clusters, padding).await;
    let connector = GrpcConnector::new(channel(&server.target).unwrap());
    let (client, driver) = Client::builder(&node())
        .ads(SourceConfig::aggregated(mode), connector)
        .interpreter(needs_assignment)
        .root(Root::new(&types::CLUSTER))
        .build();
    let driver = tokio::spawn(driver.run());
    let mut updates = client.updates().await.unwrap();
    let (mut published, mut assigned) = (0, 0);
    while published < clusters {
        assert!(updates.changed().await);
        for change in updates.take().changes {
            published += usize::from(*change.ty == types::CLUSTER);
            assigned += usize::from(*change.ty == types::ASSIGNMENT);
        }
    }
    assert_eq!((published, assigned), (clusters, clusters));
    let dump = client.dump().await.unwrap();
    assert_eq!(dump.iter().filter(|entry| entry.active.is_some()).count(), 2 * clusters);
    let status = client.status().await.unwrap();
    assert!(
        status
            .types
            .iter()
            .all(|status| status.waiting.is_empty() && status.last_nack.is_none())
    );
    assert_eq!(client.stats().of(&types::CLUSTER).update_success.value(), 1);
    assert_eq!(client.stats().control_plane.connected_state.value(), 1);
    client.stop().await;
    driver.await.unwrap();
    // What was published and not yet taken is still announced; then the follower learns of the end.
    while updates.changed().await {
        updates.take();
    }
    server
}

#[tokio::test]
async fn sotw_ads_over_tcp() {
    let mut server = clusters_arrive(Mode::Sotw, 3, 0).await;
    let first = server.seen.recv().await.unwrap();
    assert_eq!(first.type_url, types::CLUSTER.url);
    assert_eq!(first.node.unwrap().id, "test-node");
    let ack = server.seen.recv().await.unwrap();
    assert_eq!(
        (ack.version_info.as_str(), ack.response_nonce.as_str(), ack.node),
        ("1", "n1", None)
    );
    let assignments = server.seen.recv().await.unwrap();
    assert_eq!(assignments.resource_names, ["cluster-0", "cluster-1", "cluster-2"]);
}

#[tokio::test]
async fn delta_ads_over_tcp() {
    let mut server = clusters_arrive(Mode::Delta, 3, 0).await;
    let first = server.seen_delta.recv().await.unwrap();
    assert_eq!(
        (first.type_url.as_str(), first.resource_names_subscribe.len()),
        (types::CLUSTER.url, 0)
    );
    assert_eq!(first.node.unwrap().id, "test-node");
    let ack = server.seen_delta.recv().await.unwrap();
    assert_eq!((ack.response_nonce.as_str(), ack.node), ("n1", None));
    let assignments = server.seen_delta.recv().await.unwrap();
    assert_eq!(
        assignments.resource_names_subscribe,
        ["cluster-0", "cluster-1", "cluster-2"]
    );
}

#[tokio::test]
async fn responses_of_tens_of_megabytes_are_taken() {
    for mode in [Mode::Sotw, Mode::Delta] {
        clusters_arrive(mode, 40, 1_000_000).await;
    }
}

#[tokio::test]
async fn a_panic_where_the_embedder_is_asked_for_a_source_costs_that_source() {
    let server = serve(2, 0).await;
    let elsewhere = |url: &str, name: &str, _: &Bytes| {
        let reference = Reference {
            source: remora_xds::Source::Named("elsewhere".into()),
            initial_fetch_timeout: std::time::Duration::from_millis(10),
            ..Reference::new(&types::ASSIGNMENT, name)
        };
        Ok((url == types::CLUSTER.url).then_some(reference).into_iter().collect())
    };
    let (client, driver) = Client::builder(&node())
        .ads(
            SourceConfig::aggregated(Mode::Sotw),
            GrpcConnector::new(channel(&server.target).unwrap()),
        )
        .named(|_| panic!("planted"))
        .interpreter(elsewhere)
        .root(Root::new(&types::CLUSTER))
        .build();
    let driver = tokio::spawn(driver.run());
    let mut updates = client.updates().await.unwrap();
    let mut published = 0;
    while published < 2 {
        assert!(updates.changed().await);
        published += updates.take().changes.len();
    }
    client.stop().await;
    driver.await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_a_target() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("xds.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (to_seen, mut seen) = mpsc::channel(64);
    let server = Server {
        seen: to_seen,
        seen_delta: mpsc::channel(1).0,
        clusters: 1,
        padding: 0,
    };
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let ended = async {
            let _ = stopped.await;
        };
        let service = AggregatedDiscoveryServiceServer::new(server);
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, ended)
            .await
    });
    let connector = Arc::new(GrpcConnector::new(
        channel(&format!("unix:{}", path.display())).unwrap(),
    ));
    let (client, driver) = Client::builder(&node())
        .ads(SourceConfig::aggregated(Mode::Sotw), connector)
        .root(Root::new(&types::CLUSTER))
        .build();
    let driver = tokio::spawn(driver.run());
    assert_eq!(seen.recv().await.unwrap().type_url, types::CLUSTER.url);
    client.stop().await;
    driver.await.unwrap();
    drop(stop);
}
