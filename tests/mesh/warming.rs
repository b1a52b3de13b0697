//! Clusters with health checks: until each host has had its first one, what stood under the name before serves, and nobody starts.

use std::net::SocketAddr;

use control_plane_mock::resources::{
    ClusterBuilder, Variant, cluster_eds, cluster_static, endpoints, hcm, listener_http, prefix,
};
use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::google::protobuf::{Duration, UInt32Value};
use remora_tests::{Backend, Load, Mesh, Sidecar, static_http, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{One, all_to_a, cluster, everything};

/// Answers health checks, when it is let.
struct Doctor {
    address: SocketAddr,
    is_in: watch::Sender<bool>,
}

impl Doctor {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_in = watch::Sender::new(false);
        let gate = is_in.subscribe();
        spawn("doctor", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut gate = gate.clone();
                spawn("check", async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                    let _ = gate.wait_for(|is_in| *is_in).await;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        Self { address, is_in }
    }

    fn comes(&self) {
        self.is_in.send_replace(true);
    }

    fn leaves(&self) {
        self.is_in.send_replace(false);
    }

    /// The cluster, its hosts checked here, and no panic where none is well.
    fn checks(&self, cluster: ClusterBuilder) -> ClusterBuilder {
        let port = u32::from(self.address.port());
        cluster.edit(|cluster| {
            let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
            let check = core::health_check::HttpHealthCheck {
                path: "/healthz".to_owned(),
                ..Default::default()
            };
            cluster.health_checks = vec![core::HealthCheck {
                timeout: seconds(30),
                interval: seconds(3600),
                no_traffic_interval: seconds(3600),
                unhealthy_threshold: Some(UInt32Value { value: 1 }),
                healthy_threshold: Some(UInt32Value { value: 1 }),
                alt_port: Some(UInt32Value { value: port }),
                health_checker: Some(core::health_check::HealthChecker::HttpHealthCheck(check)),
                ..Default::default()
            }];
            never_panics(cluster);
        })
    }
}

fn never_panics(cluster: &mut remora_proto::pb::envoy::config::cluster::v3::Cluster) {
    let common = cluster.common_lb_config.get_or_insert_default();
    common.healthy_panic_threshold = Some(Default::default());
}

async fn warming(sidecar: &Sidecar, count: u64) {
    until(&format!("{count} warming clusters"), async || {
        (sidecar.stat("cluster_manager.warming_clusters").await == count).then_some(())
    })
    .await;
}

/// The clusters of the control plane as `/config_dump` shows them, each with its number of health checks: those in use, and those that warm.
async fn dumped(sidecar: &Sidecar) -> [Vec<(String, usize)>; 2] {
    let page = sidecar.admin("GET", "/config_dump").await.text();
    let dump: serde_json::Value = serde_json::from_str(&page).unwrap();
    let is_of_clusters =
        |section: &&serde_json::Value| section["@type"] == "type.googleapis.com/envoy.admin.v3.ClustersConfigDump";
    let section = dump["configs"].as_array().unwrap().iter().find(is_of_clusters).unwrap();
    ["dynamic_active_clusters", "dynamic_warming_clusters"].map(|list| {
        let entries = section[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let entry = |entry: &serde_json::Value| {
            assert_ne!(entry["version_info"], "", "{entry}");
            let checks = entry["cluster"]["health_checks"].as_array();
            let name = entry["cluster"]["name"].as_str().unwrap().to_owned();
            (name, checks.map_or(0, Vec::len))
        };
        entries.iter().map(entry).collect()
    })
}

fn named(name: &str, checks: usize) -> (String, usize) {
    (name.to_owned(), checks)
}

#[tokio::test]
async fn checks_that_are_added_under_load_fail_nothing() {
    let (a, doctor) = (Backend::start("a").await, Doctor::new().await);
    let one = One::start([cluster(&a).edit(never_panics)], all_to_a()).await;
    let load = Load::on(one.address, "mesh.test");
    load.more(20).await;
    one.mesh.control_plane.push_cluster(doctor.checks(cluster(&a)));
    warming(&one.sidecar, 1).await;
    assert_eq!(dumped(&one.sidecar).await, [vec![named("a", 0)], vec![named("a", 1)]]);
    load.more(100).await;
    doctor.comes();
    warming(&one.sidecar, 0).await;
    assert_eq!(dumped(&one.sidecar).await, [vec![named("a", 1)], Vec::new()]);
    load.more(100).await;
    load.none_failed().await;
    assert_eq!(one.sidecar.stat("cluster.a.health_check.success").await, 1);
    assert_eq!(one.sidecar.stat("cluster.a.membership_healthy").await, 1);
}

#[tokio::test]
async fn new_hosts_of_a_changed_cluster_wait_for_their_checks() {
    let (a, b, doctor) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Doctor::new().await,
    );
    doctor.comes();
    let one = One::start([doctor.checks(cluster(&a))], all_to_a()).await;
    let load = Load::on(one.address, "mesh.test");
    load.more(20).await;
    doctor.leaves();
    let changed = doctor.checks(cluster_static("a", [("127.0.0.1", b.port())]));
    one.mesh.control_plane.push_cluster(changed);
    warming(&one.sidecar, 1).await;
    load.more(100).await;
    assert_eq!(b.requests(), 0);
    doctor.comes();
    warming(&one.sidecar, 0).await;
    load.more(100).await;
    load.none_failed().await;
    assert!(b.requests() > 0);
}

/// Its endpoints reach it while it warms, those of the version in use too.
#[tokio::test]
async fn endpoints_reach_a_cluster_that_warms() {
    let (a, b, doctor) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Doctor::new().await,
    );
    let eds = || cluster_eds("a").eds_service_name("hosts").edit(never_panics);
    let one = One::start_with(Variant::Delta, [eds()], all_to_a(), |control_plane| {
        control_plane.push_endpoints(endpoints("hosts", [("127.0.0.1", a.port())]));
    })
    .await;
    let load = Load::on(one.address, "mesh.test");
    load.more(20).await;
    one.mesh.control_plane.push_cluster(doctor.checks(eds()));
    warming(&one.sidecar, 1).await;
    let assignment = endpoints("hosts", [("127.0.0.1", b.port())]);
    one.mesh.control_plane.push_endpoints(assignment);
    until("the new host", async || (b.requests() > 0).then_some(())).await;
    warming(&one.sidecar, 1).await;
    doctor.comes();
    warming(&one.sidecar, 0).await;
    let assignment = endpoints("hosts", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())]);
    one.mesh.control_plane.push_endpoints(assignment);
    until("both hosts", async || {
        (one.sidecar.stat("cluster.a.membership_healthy").await == 2).then_some(())
    })
    .await;
    load.more(20).await;
    load.none_failed().await;
}

#[tokio::test]
async fn a_new_cluster_is_there_when_its_hosts_were_checked() {
    let (a, b, doctor) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Doctor::new().await,
    );
    let routes = everything()
        .with_route(prefix("/b").cluster("b"))
        .with_route(prefix("/").cluster("a"));
    let one = One::start([cluster(&a)], routes).await;
    let active = one.sidecar.stat("cluster_manager.active_clusters").await;
    one.mesh.control_plane.push_cluster(doctor.checks(cluster(&b)));
    warming(&one.sidecar, 1).await;
    assert_eq!(one.get("/b", "").await.status, 503);
    assert_eq!(dumped(&one.sidecar).await, [vec![named("a", 0)], vec![named("b", 1)]]);
    assert_eq!(one.sidecar.stat("cluster_manager.active_clusters").await, active);
    doctor.comes();
    warming(&one.sidecar, 0).await;
    assert_eq!(one.get("/b", "").await.status, 200);
    let [in_use, cold] = dumped(&one.sidecar).await;
    assert_eq!((in_use.len(), cold.len()), (2, 0));
    assert_eq!(one.sidecar.stat("cluster_manager.active_clusters").await, active + 1);
    // One that warms and goes away is forgotten.
    doctor.leaves();
    one.mesh
        .control_plane
        .push_cluster(doctor.checks(cluster_static("c", [("127.0.0.1", b.port())])));
    warming(&one.sidecar, 1).await;
    one.mesh.control_plane.remove("cds", "c").unwrap();
    warming(&one.sidecar, 0).await;
}

#[tokio::test]
async fn the_first_listeners_wait_for_the_checks_of_the_first_clusters() {
    let (a, doctor) = (Backend::start("a").await, Doctor::new().await);
    let mesh = Mesh::start(Variant::Sotw).await;
    mesh.control_plane.push_cluster(doctor.checks(cluster(&a)));
    mesh.control_plane.push_route(all_to_a());
    let manager = hcm("http").rds("routes");
    let version = mesh
        .control_plane
        .push_listener(listener_http("http", "127.0.0.1", 0, manager));
    let sidecar = mesh.sidecar("one").await;
    mesh.control_plane.wait_ack("lds", &version).await.unwrap();
    warming(&sidecar, 1).await;
    assert!(sidecar.proxy.control.manager.addresses("http").is_empty());
    assert_eq!(sidecar.admin("GET", "/ready").await.status, 503);
    doctor.comes();
    assert_eq!(sidecar.first_answer().await, 200);
    until("readiness", async || {
        (sidecar.admin("GET", "/ready").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_static_listeners_wait_for_the_checks_of_static_clusters() {
    let (a, doctor) = (Backend::start("a").await, Doctor::new().await);
    let cluster = format!(
        r#"  - name: a
    type: STATIC
    common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
    health_checks:
    - timeout: 30s
      interval: 60s
      unhealthy_threshold: 1
      healthy_threshold: 1
      alt_port: {}
      http_health_check: {{path: /healthz}}
    load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
"#,
        doctor.address.port(),
        a.port()
    );
    let sidecar = Sidecar::start(&static_http("", &cluster)).await.unwrap();
    assert_eq!(sidecar.admin("GET", "/ready").await.status, 503);
    doctor.comes();
    assert_eq!(sidecar.first_answer().await, 200);
    until("readiness", async || {
        (sidecar.admin("GET", "/ready").await.status == 200).then_some(())
    })
    .await;
}

/// The same where EDS names the hosts of a static cluster.
#[tokio::test]
async fn the_first_listeners_wait_for_the_checks_of_hosts_that_eds_names() {
    let (a, b, doctor) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Doctor::new().await,
    );
    let mesh = Mesh::start(Variant::Sotw).await;
    mesh.control_plane.push_cluster(cluster(&b));
    mesh.control_plane
        .push_endpoints(endpoints("a", [("127.0.0.1", a.port())]));
    mesh.control_plane.push_route(all_to_a());
    let manager = hcm("http").rds("routes");
    let version = mesh
        .control_plane
        .push_listener(listener_http("http", "127.0.0.1", 0, manager));
    let checked = serde_json::json!({
        "name": "a",
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [{
            "timeout": "30s",
            "interval": "60s",
            "unhealthy_threshold": 1,
            "healthy_threshold": 1,
            "alt_port": doctor.address.port(),
            "http_health_check": {"path": "/healthz"},
        }],
    });
    let sidecar = mesh
        .sidecar_with("one", |bootstrap| {
            let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().unwrap();
            clusters.push(checked);
        })
        .await;
    mesh.control_plane.wait_ack("lds", &version).await.unwrap();
    until("the check", async || {
        (sidecar.stat("cluster.a.health_check.attempt").await == 1).then_some(())
    })
    .await;
    assert!(sidecar.proxy.control.manager.addresses("http").is_empty());
    doctor.comes();
    assert_eq!(sidecar.first_answer().await, 200);
}
