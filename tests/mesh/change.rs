//! Configuration changes under traffic: nothing fails.

use control_plane_mock::resources::{
    Variant, cluster_eds, cluster_static, endpoints, hcm, listener_http, prefix, route_config,
};
use control_plane_mock::{Ending, PATIENCE, What};
use remora_tests::{Backend, Load, until};

use super::{One, all_to_a, cluster, everything};

async fn with_endpoints(variant: Variant, backend: &Backend) -> One {
    One::start_with(
        variant,
        [cluster_eds("a"), cluster_eds("b")],
        all_to_a(),
        |control_plane| {
            control_plane.push_endpoints(endpoints("a", [("127.0.0.1", backend.port())]));
            control_plane.push_endpoints(endpoints("b", [("127.0.0.1", backend.port())]));
        },
    )
    .await
}

async fn assert_none_failed(load: Load) {
    let (failed, sent) = load.finish().await;
    assert!(
        failed.is_empty(),
        "{} of {sent} failed:\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(sent > 0);
}

#[tokio::test]
async fn endpoint_and_route_churn_fails_nothing() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let one = with_endpoints(variant, &a).await;
        let load = Load::on(one.address, "mesh.test");
        for round in 0..20_u16 {
            let port = if round % 2 == 0 { b.port() } else { a.port() };
            one.mesh
                .control_plane
                .push_endpoints(endpoints("a", [("127.0.0.1", port)]));
            let target = if round % 3 == 0 { "b" } else { "a" };
            let routes = everything()
                .with_route(prefix("/").cluster(target))
                .vhost([format!("r{round}.test")]);
            let version = one.mesh.control_plane.push_route(routes);
            one.mesh.control_plane.wait_ack("rds", &version).await.unwrap();
            load.more(10).await;
        }
        assert_none_failed(load).await;
        assert!(a.requests() > 0 && b.requests() > 0);
    }
}

#[tokio::test]
async fn cluster_and_listener_updates_fail_nothing() {
    let a = Backend::start("a").await;
    let one = One::start([cluster(&a)], all_to_a()).await;
    let load = Load::on(one.address, "mesh.test");
    for round in 1..=8_u64 {
        let changed = cluster(&a).connect_timeout(std::time::Duration::from_secs(round));
        one.mesh.control_plane.push_cluster(changed);
        let manager = hcm(&format!("http{round}")).rds("routes");
        let version = one
            .mesh
            .control_plane
            .push_listener(listener_http("http", "127.0.0.1", 0, manager));
        one.mesh.control_plane.wait_ack("lds", &version).await.unwrap();
        load.more(20).await;
    }
    assert_none_failed(load).await;
    assert_eq!(one.sidecar.listener("http").await, one.address, "the socket stays");
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let one = with_endpoints(variant, &a).await;
        let load = Load::on(one.address, "mesh.test");
        // No discovery type fits an EDS cluster without a source, and a route may not name both hosts twice.
        let bad = cluster_static("a", [("not an address", 1)]);
        one.mesh.control_plane.push_cluster(bad);
        let reason = one.mesh.control_plane.wait_nack("cds").await.unwrap();
        assert!(reason.contains('a'), "{reason}");
        one.mesh
            .control_plane
            .push_route(route_config("routes").vhost(["*"]).vhost(["*"]));
        one.mesh.control_plane.wait_nack("rds").await.unwrap();
        load.more(50).await;
        assert_none_failed(load).await;
        // And what comes after it is taken again.
        let version = one
            .mesh
            .control_plane
            .push_route(everything().with_route(prefix("/").direct_response(201, "new")));
        one.mesh.control_plane.wait_ack("rds", &version).await.unwrap();
        until("the new routes", async || {
            (one.get("/", "").await.status == 201).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_control_plane_may_vanish_and_return() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let a = Backend::start("a").await;
        let One { mesh, sidecar, address } = with_endpoints(variant, &a).await;
        let load = Load::on(address, "mesh.test");
        mesh.control_plane.disconnect(Ending::Reset);
        load.more(50).await;
        let mesh = mesh.restart().await;
        let back = |entry: &control_plane_mock::Entry| entry.what == What::Ack && entry.is_of("lds");
        mesh.control_plane.wait_for(back, PATIENCE).await.unwrap();
        load.more(50).await;
        assert_none_failed(load).await;
        mesh.control_plane
            .push_route(everything().with_route(prefix("/").direct_response(202, "again")));
        let mut client = remora_tests::Http1::connect(address).await.unwrap();
        until("the new routes", async || {
            (client.get("m", "/", "").await.status == 202).then_some(())
        })
        .await;
        drop(sidecar);
    }
}

#[tokio::test]
async fn a_cluster_waits_for_its_endpoints_before_routes_use_it() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let one = with_endpoints(Variant::Delta, &a).await;
    let load = Load::on(one.address, "mesh.test");
    one.mesh.control_plane.withhold_name("eds", "late");
    one.mesh
        .control_plane
        .push_endpoints(endpoints("late", [("127.0.0.1", b.port())]));
    one.mesh.control_plane.push_cluster(cluster_eds("late"));
    one.mesh.control_plane.wait_subscribed("eds", "late").await.unwrap();
    load.more(20).await;
    one.mesh.control_plane.release("eds");
    until("the cluster", async || {
        (one.sidecar.admin("GET", "/clusters").await.text().contains("late::")).then_some(())
    })
    .await;
    one.mesh
        .control_plane
        .push_route(everything().with_route(prefix("/").cluster("late")));
    until("the new backend", async || (b.requests() > 0).then_some(())).await;
    load.more(20).await;
    assert_none_failed(load).await;
}
