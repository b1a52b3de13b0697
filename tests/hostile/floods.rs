//! The attack classes of HTTP/2, each against a proxy of its own.

use std::time::Duration;

use remora_tests::Backend;

use super::child::Proxy;
use super::{bootstrap, cluster};
use remora_tests::frames::{self, *};

const MANAGER: &str = r#"
codec_type: AUTO
stream_idle_timeout: 1s
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /ok}, direct_response: {status: 200, body: {inline_string: ok}}}
    - {match: {prefix: /}, route: {cluster: a}}
"#;

/// Memory that an attack may cost at most, in KiB: a small part of what it would take if it were believed.
const BOUND_KIB: u64 = 48 * 1024;

/// Longer than this a proxy that still reads does not let a writer wait.
const BLOCKED: Duration = Duration::from_secs(2);

struct Scene {
    proxy: Proxy,
    backend: Backend,
    peak_before: u64,
}

impl Scene {
    async fn start() -> Self {
        let backend = Backend::start("a").await;
        let proxy = Proxy::start(&bootstrap(MANAGER, &cluster("a", backend.port(), ""))).await;
        proxy.is_well().await;
        let peak_before = proxy.peak_kib();
        Self {
            proxy,
            backend,
            peak_before,
        }
    }

    /// Others are served, and the attack did not cost too much.
    async fn survives(&self) {
        self.proxy.is_well().await;
        let grown = self.proxy.peak_kib().saturating_sub(self.peak_before);
        assert!(grown < BOUND_KIB, "grew by {grown} KiB");
    }
}

/// Writes `bytes` up to `times` times, or until the proxy has enough: it hangs up, or reads no more. Says how often; others are served all along.
async fn flood(scene: &Scene, peer: &mut Peer, bytes: &[u8], times: usize) -> usize {
    for round in 0..times {
        if !peer.try_send(bytes, BLOCKED).await {
            return round;
        }
        if round % (times / 8).max(1) == 0 {
            scene.proxy.is_well().await;
        }
    }
    times
}

#[tokio::test]
async fn rapid_reset() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    let block = get("/");
    let mut id = 1;
    let mut sent = 0;
    // CVE-2023-44487: a request, and its reset at once.
    while sent < 100_000 {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
            bytes.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
            id += 2;
        }
        if !peer.try_send(&bytes, BLOCKED).await {
            break;
        }
        sent += 100;
    }
    assert!(sent < 100_000, "nobody stopped it");
    assert!(
        scene.backend.requests() < 5_000,
        "{} went on to the upstream",
        scene.backend.requests()
    );
    scene.survives().await;
}

/// CVE-2025-8671, "MadeYouReset": the client breaks the rules of a stream, so that the server is who resets.
#[tokio::test]
async fn resets_that_the_server_is_made_to_send() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    let block = get("/");
    let mut id = 1;
    let mut sent = 0;
    while sent < 100_000 {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
            // A window update of zero is an error of the stream (RFC 9113, 6.9).
            bytes.extend(frame(WINDOW_UPDATE, 0, id, &0u32.to_be_bytes()));
            id += 2;
        }
        if !peer.try_send(&bytes, BLOCKED).await {
            break;
        }
        sent += 100;
    }
    assert!(sent < 100_000, "nobody stopped it");
    scene.survives().await;
}

/// CVE-2024-27316 and its kin: a head that never ends.
#[tokio::test]
async fn continuation_flood() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    assert!(peer.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).await);
    let mut part = Vec::new();
    while part.len() < 16_000 {
        literal(&mut part, "x-more", "of it");
    }
    let sent = flood(&scene, &mut peer, &frame(CONTINUATION, 0, 1, &part), 20_000).await;
    assert!(sent < 20_000, "nobody stopped it");
    scene.survives().await;
}

/// The same with empty frames, which cost the sender next to nothing.
#[tokio::test]
async fn empty_continuations() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    assert!(peer.send(&frame(HEADERS, END_STREAM, 1, &get("/"))).await);
    let part = frame(CONTINUATION, 0, 1, &[]).repeat(1000);
    let sent = flood(&scene, &mut peer, &part, 2000).await;
    assert!(sent < 2000, "nobody stopped it");
    scene.survives().await;
}

/// One byte that stands for four thousand: an entry of the dynamic table, referred to again and again.
#[tokio::test]
async fn hpack_bomb() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    let mut block = get("/");
    indexed_literal(&mut block, "x-bomb", &"y".repeat(3900));
    // The first entry of the dynamic table (RFC 7541, 2.3.3).
    block.extend(vec![0x80 | 62; 10_000]);
    bomb(&scene, &mut peer, &block).await;
}

/// The same with crumbs of a cookie, which some count as one header.
#[tokio::test]
async fn cookie_crumbs() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    let mut block = get("/");
    indexed_literal(&mut block, "cookie", "a=b");
    block.extend(vec![0x80 | 62; 12_000]);
    bomb(&scene, &mut peer, &block).await;
    let answered = scene.backend.requests();
    assert_eq!(answered, 0, "a head over the limit went on to the upstream");
}

async fn bomb(scene: &Scene, peer: &mut Peer, block: &[u8]) {
    let mut id = 1;
    for round in 0..200 {
        if !peer
            .try_send(&frame(HEADERS, END_HEADERS | END_STREAM, id, block), BLOCKED)
            .await
        {
            break;
        }
        id += 2;
        if round % 50 == 0 {
            scene.proxy.is_well().await;
        }
    }
    scene.survives().await;
}

/// Large answers that the client asks for and never takes: no window at all.
#[tokio::test]
async fn window_stall() {
    let scene = Scene::start().await;
    // SETTINGS_INITIAL_WINDOW_SIZE 0
    let mut peer = Peer::connect_with(scene.proxy.address, &[(4, 0)]).await;
    let mut block = get("/large");
    literal(&mut block, "x-do", "body=200000");
    let mut bytes = Vec::new();
    for stream in 0..200 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * stream, &block));
    }
    assert!(peer.send(&bytes).await);
    // Every stream is reset when it has been idle for too long: the client's patience ends nothing, ours does.
    let mut resets = 0;
    while resets < 200 {
        match peer.next().await {
            Some(reset) if reset.kind == RST_STREAM => resets += 1,
            Some(ping) if ping.kind == PING && ping.flags & ACK == 0 => {
                peer.send(&frame(PING, ACK, 0, &ping.payload)).await;
            }
            Some(_) => {}
            None => break,
        }
        if resets == 1 {
            scene.proxy.is_well().await;
        }
    }
    assert_eq!(scene.proxy.stat("http.http.downstream_rq_idle_timeout").await, 200);
    scene.survives().await;
}

/// Frames that each ask for an answer, from a client that reads none.
#[tokio::test]
async fn settings_and_ping_floods() {
    let scene = Scene::start().await;
    let ping = frame(PING, 0, 0, &[1; 8]).repeat(500);
    let settings = settings_frame(&[(3, 100)]).repeat(500);
    for kind in [ping, settings] {
        let mut peer = Peer::connect(scene.proxy.address).await;
        flood(&scene, &mut peer, &kind, 2000).await;
        scene.survives().await;
    }
}

/// Frames that mean nothing, and cost a look each.
#[tokio::test]
async fn frames_without_a_meaning() {
    let scene = Scene::start().await;
    let kinds = [
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]),
        frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()),
        frame(DATA, 0, 1, &[]),
        // Of a type that nobody knows (RFC 9113, 4.1).
        frame(0xee, 0, 0, &[0; 100]),
    ];
    for kind in kinds {
        let mut peer = Peer::connect(scene.proxy.address).await;
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "bad.test"),
        ] {
            frames::literal(&mut block, name, value);
        }
        assert!(peer.send(&frame(HEADERS, END_HEADERS, 1, &block)).await);
        flood(&scene, &mut peer, &kind.repeat(500), 1000).await;
        scene.survives().await;
    }
}

/// More streams than are allowed are refused, and the connection lives on.
#[tokio::test]
async fn too_many_streams() {
    let scene = Scene::start().await;
    let mut peer = Peer::connect(scene.proxy.address).await;
    let mut block = get("/hang");
    literal(&mut block, "x-do", "hang");
    let mut bytes = Vec::new();
    for stream in 0..1200 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * stream, &block));
    }
    assert!(peer.send(&bytes).await);
    let mut refused = 0;
    while refused < 1200 - 1024 {
        let Some(frame) = peer.next().await else { break };
        if frame.kind == RST_STREAM && frame.payload == REFUSED_STREAM.to_be_bytes() {
            refused += 1;
        }
    }
    assert!(
        refused >= 1200 - 1024,
        "only {refused} of the streams over the limit were refused"
    );
    scene.survives().await;
}
