//! Which host: policies, discovery, priorities.

use control_plane_mock::resources::{
    Variant, cluster_dns, cluster_eds, cluster_static, endpoint, endpoints, endpoints_of,
};
use remora_proto::pb::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use remora_proto::pb::envoy::config::core::v3::HealthStatus;
use remora_tests::{Backend, Http2, until};

use super::{One, all_to_a};

#[tokio::test]
async fn round_robin_is_even() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let both = cluster_static("a", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())]);
    let one = One::start([both], all_to_a()).await;
    let mut client = one.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    assert_eq!((a.requests(), b.requests()), (10, 10));
}

#[tokio::test]
async fn least_request_avoids_the_busy_host() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let both = cluster_static("a", [("127.0.0.1", a.port()), ("127.0.0.1", b.port())])
        .least_request()
        .http2();
    let one = One::start([both], all_to_a()).await;
    let mut client = Http2::connect(one.address).await;
    let mut held = Vec::new();
    for count in 1..=64 {
        held.push(client.open("GET", "m", "/", &[("x-do", "hang")], true).await);
        // A request that waits for its connection is not active yet, and counts for nobody.
        until("the next", async || {
            (a.requests() + b.requests() == count).then_some(())
        })
        .await;
    }
    // With two choices the busier host grows by one draw in four: that it is this far ahead happens once in 100,000 times.
    assert!(
        a.requests().abs_diff(b.requests()) <= 10,
        "{} {}",
        a.requests(),
        b.requests()
    );
}

#[tokio::test]
async fn names_are_resolved() {
    let a = Backend::start("a").await;
    let named = cluster_dns("a", [("localhost", a.port())]).edit(|cluster| {
        cluster.set_dns_lookup_family(DnsLookupFamily::V4Only);
    });
    let one = One::start([named], all_to_a()).await;
    until("an address", async || {
        (one.get("/", "").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn endpoints_come_and_go_in_both_variants() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let one = One::start_with(variant, [cluster_eds("a")], all_to_a(), |control_plane| {
            control_plane.push_endpoints(endpoints("a", [("127.0.0.1", a.port())]));
        })
        .await;
        assert_eq!(one.get("/", "").await.header("x-backend"), Some("a"));
        one.mesh
            .control_plane
            .push_endpoints(endpoints("a", [("127.0.0.1", b.port())]));
        until("the new host", async || {
            (one.get("/", "").await.header("x-backend") == Some("b")).then_some(())
        })
        .await;
        let before = a.requests();
        for _ in 0..4 {
            assert_eq!(one.get("/", "").await.header("x-backend"), Some("b"));
        }
        assert_eq!(a.requests(), before);
    }
}

#[tokio::test]
async fn the_second_priority_takes_over_when_the_first_is_down() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let with = |health| {
        endpoints_of("a")
            .locality(0, "r/z/s", [endpoint("127.0.0.1", a.port()).health(health)])
            .locality(1, "r/z/s", [endpoint("127.0.0.1", b.port())])
    };
    let one = One::start_with(Variant::Delta, [cluster_eds("a")], all_to_a(), |control_plane| {
        control_plane.push_endpoints(with(HealthStatus::Healthy));
    })
    .await;
    for _ in 0..4 {
        assert_eq!(one.get("/", "").await.header("x-backend"), Some("a"));
    }
    one.mesh.control_plane.push_endpoints(with(HealthStatus::Unhealthy));
    until("failover", async || {
        (one.get("/", "").await.header("x-backend") == Some("b")).then_some(())
    })
    .await;
    one.mesh.control_plane.push_endpoints(with(HealthStatus::Healthy));
    until("the way back", async || {
        (one.get("/", "").await.header("x-backend") == Some("a")).then_some(())
    })
    .await;
}
