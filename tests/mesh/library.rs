//! `remora-xds` without the proxy: its example, as a stranger would use it.

use control_plane_mock::ControlPlane;
use control_plane_mock::resources::{Variant, bootstrap_ads, cluster_static, hcm, listener_http};
use control_plane_mock::scenario::Scenario;
use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_tests::{Load, Sidecar, within};
use remora_xds::Mode;
use tokio::sync::mpsc;

#[allow(
    dead_code,
    clippy::print_stdout,
    reason = "a whole program; its main is not called here"
)]
#[path = "../../xds/examples/watch_clusters.rs"]
mod example;

#[tokio::test]
async fn the_example_watches_the_clusters_of_a_control_plane() {
    for mode in [Mode::Sotw, Mode::Delta] {
        let control_plane = ControlPlane::start().await.unwrap();
        let target = format!("http://{}", control_plane.addr().unwrap());
        let node = Node {
            id: "me".to_owned(),
            cluster: "example".to_owned(),
            ..Node::default()
        };
        control_plane.push_cluster(cluster_static("a", [("127.0.0.1", 1)]));
        let (lines, mut told) = mpsc::channel(64);
        let watch = example::watch(&target, node, mode, move |line| lines.try_send(line).unwrap());
        let script = async {
            assert!(told.recv().await.unwrap().starts_with("+ a ("));
            control_plane.push_cluster(cluster_static("b", [("127.0.0.1", 1)]));
            assert!(told.recv().await.unwrap().starts_with("+ b ("));
            control_plane.push_raw("cds", "b", [0x0a, 0x7f]);
            let reason = control_plane.wait_nack("cds").await.unwrap();
            assert!(!reason.is_empty());
            control_plane.remove("cds", "b");
            assert_eq!(told.recv().await.unwrap(), "- b");
        };
        let watched = within("the script", async {
            tokio::select! {
                () = script => None,
                watched = watch => Some(watched.map_err(|error| error.to_string())),
            }
        });
        assert_eq!(watched.await, None, "it watches for as long as it is let");
    }
}

/// What docs promise, comments and imports included.
#[test]
fn the_example_is_forty_lines() {
    let text = include_str!("../../xds/examples/watch_clusters.rs");
    assert!(text.lines().count() <= 40);
}

/// The scenario that comes with the mock, from its file to its end, under load.
#[tokio::test]
async fn the_mocks_scenario_of_a_bad_day_disturbs_no_request() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../control-plane-mock/examples/trouble.yaml");
    let scenario = Scenario::load(&path).unwrap();
    let control_plane = ControlPlane::builder()
        .snapshot(&scenario.initial)
        .start()
        .await
        .unwrap();
    // The file has a port of its own; a test takes what is free.
    control_plane.push_listener(listener_http("http", "127.0.0.1", 0, hcm("http").rds("routes")));
    let handle = control_plane.handle();
    let playing = spawn("scenario", async move { scenario.play(&handle).await });
    let admin = ([127, 0, 0, 1], 0).into();
    let bootstrap = bootstrap_ads("bad-day", control_plane.listen(), admin, Variant::Sotw);
    let sidecar = Sidecar::start(&bootstrap).await.unwrap();
    let load = Load::on(sidecar.listener("http").await, "mesh.test");
    within("the end of the scenario", playing).await.unwrap();
    load.more(10).await;
    load.none_failed().await;
    let clusters = sidecar.admin("GET", "/clusters").await.text();
    assert!(!clusters.contains("more::"), "{clusters}");
}
