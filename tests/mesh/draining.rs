//! Hosts that leave as they should: announced, finished, ended. No request notices.

use control_plane_mock::resources::{Variant, cluster_eds, endpoints};
use remora_tests::{Backend, Load, until};

use super::{One, all_to_a};

/// How often a host leaves and another comes, per protocol: `REMORA_DRAINS`, else 100.
fn rounds() -> usize {
    let asked = std::env::var("REMORA_DRAINS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(100)
}

async fn members(one: &One, count: u64) {
    until("the members", async || {
        (one.sidecar.stat("cluster.a.membership_total").await == count).then_some(())
    })
    .await;
}

/// Load goes on all the time, in overlapping stretches: when the one that saw the host leave has finished, nothing is on its way to that host
/// any more, and the host may end.
async fn hosts_come_and_go(speaks_http2: bool) {
    let mut backends = [Backend::start("a").await, Backend::start("b").await];
    let cluster = match speaks_http2 {
        true => cluster_eds("a").http2(),
        false => cluster_eds("a"),
    };
    let ports = |backends: &[Backend; 2]| backends.each_ref().map(|backend| ("127.0.0.1", backend.port()));
    let both = ports(&backends);
    let one = One::start_with(Variant::Delta, [cluster], all_to_a(), |control| {
        control.push_endpoints(endpoints("a", both));
    })
    .await;
    assert_eq!(one.get("/", "").await.status, 200);
    let mut load = Load::on(one.address, "mesh.test");
    let mut total = 0;
    let rounds = rounds();
    for round in 0..rounds {
        let leaving = round % 2;
        let staying = ("127.0.0.1", backends[1 - leaving].port());
        one.mesh.control_plane.push_endpoints(endpoints("a", [staying]));
        members(&one, 1).await;
        let next = Load::on(one.address, "mesh.test");
        let (failed, sent) = load.finish().await;
        assert!(failed.is_empty(), "round {round}: {}", failed.join("\n"));
        total += sent;
        backends[leaving] = Backend::start("c").await;
        one.mesh.control_plane.push_endpoints(endpoints("a", ports(&backends)));
        members(&one, 2).await;
        load = next;
        load.more(4).await;
    }
    let (failed, sent) = load.finish().await;
    assert!(failed.is_empty(), "at the end: {}", failed.join("\n"));
    assert!(total + sent > 4 * rounds as u64);
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing() {
    hosts_come_and_go(false).await;
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing_over_http2() {
    hosts_come_and_go(true).await;
}
