//! Responses of tens of megabytes, as those of large meshes are: accepted and used, though a gRPC client takes no more than four as a rule.

use std::time::Duration;

use control_plane_mock::resources::{Variant, cluster_static, hcm, listener_http, prefix, route_config};
use control_plane_mock::{Snapshot, What};
use remora::runtime::clock;
use remora_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use remora_tests::{Backend, Http1, Mesh, until};

/// Bytes of metadata that each of the clusters has.
const SHARE: usize = 10 << 20;
const CLUSTERS: usize = 4;

/// What it may take until the last byte is used, in a debug build on a busy machine.
const ENOUGH: Duration = Duration::from_secs(20);

fn large(name: &str, port: u16) -> control_plane_mock::resources::ClusterBuilder {
    cluster_static(name, [("127.0.0.1", port)]).edit(|cluster| {
        let text = Value {
            kind: Some(Kind::StringValue("x".repeat(SHARE))),
        };
        let fields = [("text".to_owned(), text)].into();
        let metadata = cluster.metadata.get_or_insert_default();
        metadata.filter_metadata.insert("large".to_owned(), Struct { fields });
    })
}

async fn forty_megabytes(variant: Variant) {
    let backend = Backend::start("a").await;
    let mesh = Mesh::start(variant).await;
    let handle = mesh.handle();
    // Until the large one has come, nobody listens there.
    handle.push_cluster(cluster_static("large 3", [("127.0.0.1", 1)]));
    let routes = route_config("routes")
        .vhost(["*"])
        .with_route(prefix("/").cluster("large 3"));
    handle.push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").inline(routes)));
    let sidecar = mesh.sidecar("large").await;
    let mut client = Http1::connect(sidecar.listener("http").await).await.unwrap();
    assert_eq!(client.get("mesh.test", "/", "").await.status, 503);

    let mark = handle.mark();
    let started = clock::now();
    let all = (0..CLUSTERS).fold(Snapshot::new(), |all, at| {
        all.with(large(&format!("large {at}"), backend.port()).build())
    });
    handle.push_all(&all);
    drop(all);
    let answered = handle.wait_from(
        mark,
        |entry| matches!(entry.what, What::Ack | What::Nack) && entry.is_of("cds"),
        ENOUGH,
    );
    let answer = answered.await.unwrap();
    assert_eq!((answer.what, answer.error), (What::Ack, None));
    let names: Vec<_> = handle
        .transcript()
        .into_iter()
        .filter(|entry| entry.index >= mark && entry.what == What::Response && entry.is_of("cds"))
        .map(|entry| entry.names)
        .collect();
    assert_eq!(names.len(), 1, "in one message: {names:?}");
    assert_eq!(names[0].len(), CLUSTERS);
    // An answer does not wait for who uses what has come.
    until("the large cluster", async || {
        let answer = client.get("mesh.test", "/", "").await;
        (answer.status == 200 && answer.header("x-backend") == Some("a")).then_some(())
    })
    .await;
    let took = clock::now().saturating_duration_since(started);
    assert!(took < ENOUGH, "{took:?}");
}

#[tokio::test]
async fn a_response_of_forty_megabytes_is_accepted_and_used() {
    forty_megabytes(Variant::Sotw).await;
}

#[tokio::test]
async fn a_delta_response_of_forty_megabytes_is_accepted_and_used() {
    forty_megabytes(Variant::Delta).await;
}
