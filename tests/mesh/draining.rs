//! Hosts that leave as they should: announced, finished, ended. No request notices. And listeners that ask their connections to leave.

use control_plane_mock::resources::{Variant, cluster_eds, endpoints};
use remora_tests::{Backend, Http1, Load, Sidecar, static_http, until};

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

/// Asks the listeners to drain over an hour, and says of how many connections the next answer takes leave.
async fn leaving(strategy: &str) -> usize {
    const CONNECTIONS: usize = 40;
    let backend = Backend::start("a").await;
    let bootstrap = with_listener(&backend, "");
    let flags = ["--drain-time-s", "3600", "--drain-strategy", strategy];
    let sidecar = Sidecar::start_with(&bootstrap, &flags).await.unwrap();
    let address = sidecar.listener("http").await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = Http1::connect(address).await.unwrap();
        let answer = client.get("drain.test", "/", "").await;
        assert_eq!((answer.status, answer.header("connection")), (200, None));
        clients.push(client);
    }
    let answer = sidecar.admin("POST", "/drain_listeners?graceful").await;
    assert_eq!(answer.status, 200);
    let mut left = 0;
    for client in &mut clients {
        let answer = client.get("drain.test", "/", "").await;
        // One whose moment had come may have been idle for too long already.
        let leaves = answer.status != 200 || answer.header("connection") == Some("close");
        left += usize::from(leaves);
    }
    // It accepts for as long as it drains.
    assert_eq!(
        Http1::connect(address)
            .await
            .unwrap()
            .get("drain.test", "/", "")
            .await
            .status,
        200
    );
    left
}

fn with_listener(backend: &Backend, fields: &str) -> String {
    let cluster = format!(
        r#"  - name: a
    type: STATIC
    load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
"#,
        backend.port()
    );
    static_http(fields, &cluster)
}

#[tokio::test]
async fn an_immediate_drain_asks_every_connection_to_leave() {
    assert_eq!(leaving("immediate").await, 40);
}

#[tokio::test]
async fn a_gradual_drain_asks_them_over_the_drain_time() {
    // Seconds of an hour have passed.
    let left = leaving("gradual").await;
    assert!(left < 20, "{left} of 40 at once");
}

#[tokio::test]
async fn while_health_checks_are_made_to_fail_answers_take_leave() {
    let backend = Backend::start("a").await;
    for (fields, expected) in [("", Some("close")), ("drain_type: MODIFY_ONLY", None)] {
        let sidecar = Sidecar::start(&with_listener(&backend, fields)).await.unwrap();
        let address = sidecar.listener("http").await;
        let connection = async || {
            let answer = Http1::connect(address).await.unwrap().get("drain.test", "/", "").await;
            answer.header("connection").map(str::to_owned)
        };
        assert_eq!(connection().await, None);
        sidecar.admin("POST", "/healthcheck/fail").await;
        assert_eq!(connection().await.as_deref(), expected, "{fields}");
        sidecar.admin("POST", "/healthcheck/ok").await;
        assert_eq!(connection().await, None);
    }
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing() {
    hosts_come_and_go(false).await;
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing_over_http2() {
    hosts_come_and_go(true).await;
}
