//! Hosts that leave as they should: announced, finished, ended. No request notices. And listeners that ask their connections to leave.

use control_plane_mock::resources::{Variant, cluster_eds, endpoint, endpoints, endpoints_of};
use remora_proto::pb::envoy::config::core::v3::HealthStatus;
use remora_tests::frames::{self, Peer};
use remora_tests::{Backend, Http1, Load, Sidecar, static_http, until};

use super::{One, all_to_a};

/// How often a host leaves and another comes, per protocol: `REMORA_DRAINS`, else `default`.
fn rounds(default: usize) -> usize {
    let asked = std::env::var("REMORA_DRAINS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    asked.unwrap_or(default)
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
    let rounds = rounds(100);
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

/// A request whose body is half there: it goes on for as long as its host lets it.
async fn upload(one: &One) -> Http1 {
    let mut client = Http1::connect(one.address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: mesh.test\r\ncontent-length: 10\r\n\r\nhello";
    client.send(head).await;
    client
}

/// Under the same load, a host is said to drain: it gets nothing new from then on, what is on its way to it goes on and ends well, and when it
/// has ended, another is named in its place.
async fn hosts_are_told_to_drain(speaks_http2: bool) {
    const UPLOADS: usize = 4;
    let mut backends = [Backend::start("first").await, Backend::start("second").await];
    let cluster = match speaks_http2 {
        true => cluster_eds("a").http2(),
        false => cluster_eds("a"),
    };
    let assignment = |backends: &[Backend; 2], draining: Option<usize>| {
        let host = |index: usize| {
            let health = match draining == Some(index) {
                true => HealthStatus::Draining,
                false => HealthStatus::Unknown,
            };
            endpoint("127.0.0.1", backends[index].port()).health(health)
        };
        endpoints_of("a").locality(0, "", [host(0), host(1)])
    };
    let first = assignment(&backends, None);
    let one = One::start_with(Variant::Delta, [cluster], all_to_a(), |control| {
        control.push_endpoints(first);
    })
    .await;
    let healthy = async |count: u64| {
        until("healthy members", async || {
            (one.sidecar.stat("cluster.a.membership_healthy").await == count).then_some(())
        })
        .await;
    };
    assert_eq!(one.get("/", "").await.status, 200);
    let mut load = Load::on(one.address, "mesh.test");
    let (mut total, mut finished) = (0, 0);
    let rounds = rounds(25);
    for round in 0..rounds {
        let leaving = round % 2;
        let mut uploads = Vec::new();
        for _ in 0..UPLOADS {
            uploads.push(upload(&one).await);
        }
        load.more(4).await;
        let draining = assignment(&backends, Some(leaving));
        one.mesh.control_plane.push_endpoints(draining);
        healthy(1).await;
        let next = Load::on(one.address, "mesh.test");
        let (failed, sent) = load.finish().await;
        assert!(failed.is_empty(), "round {round}: {}", failed.join("\n"));
        total += sent;
        for mut client in uploads {
            client.send("world").await;
            let answer = client.response("POST").await;
            assert_eq!(
                (answer.status, answer.is_whole()),
                (200, true),
                "round {round}: {answer:?}"
            );
            finished += usize::from(answer.header("x-backend") == Some(backends[leaving].name()));
        }
        let before = backends[leaving].requests();
        next.more(10).await;
        assert_eq!(backends[leaving].requests(), before, "round {round}: it drains");
        assert_eq!(one.sidecar.stat("cluster.a.membership_total").await, 2);
        // Nothing is left at it: it may end, and its place be taken.
        backends[leaving] = Backend::start(&format!("number {round}")).await;
        one.mesh.control_plane.push_endpoints(assignment(&backends, None));
        healthy(2).await;
        load = next;
    }
    let (failed, sent) = load.finish().await;
    assert!(failed.is_empty(), "at the end: {}", failed.join("\n"));
    assert!(total + sent > 4 * rounds as u64);
    assert!(finished > rounds / 4, "{finished} uploads ended at hosts that drained");
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

/// As in Envoy: a connection at rest hears of it with its next request.
#[tokio::test]
async fn while_health_checks_are_made_to_fail_a_connection_at_rest_is_left_alone() {
    let backend = Backend::start("a").await;
    let sidecar = Sidecar::start(&with_listener(&backend, "")).await.unwrap();
    let mut peer = Peer::connect(sidecar.listener("http").await).await;
    let request = |stream| {
        let block = frames::get("/");
        frames::frame(
            frames::HEADERS,
            frames::END_HEADERS | frames::END_STREAM,
            stream,
            &block,
        )
    };
    /// Kinds of frames until one of this kind, and that.
    async fn until_kind(peer: &mut Peer, kind: u8) -> Vec<u8> {
        let mut seen = Vec::new();
        while seen.last() != Some(&kind) {
            seen.push(peer.next().await.unwrap().kind);
        }
        seen
    }
    peer.send(&request(1)).await;
    until_kind(&mut peer, frames::HEADERS).await;
    sidecar.admin("POST", "/healthcheck/fail").await;
    peer.send(&frames::frame(frames::PING, 0, 0, &[7; 8])).await;
    let seen = until_kind(&mut peer, frames::PING).await;
    assert!(!seen.contains(&frames::GOAWAY), "{seen:?}");
    peer.send(&request(3)).await;
    until_kind(&mut peer, frames::GOAWAY).await;
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing() {
    hosts_come_and_go(false).await;
}

#[tokio::test]
async fn hosts_that_drain_under_load_fail_nothing_over_http2() {
    hosts_come_and_go(true).await;
}

#[tokio::test]
async fn hosts_that_are_told_to_drain_under_load_fail_nothing_and_finish_their_streams() {
    hosts_are_told_to_drain(false).await;
}

#[tokio::test]
async fn hosts_that_are_told_to_drain_under_load_fail_nothing_and_finish_their_streams_over_http2() {
    hosts_are_told_to_drain(true).await;
}
