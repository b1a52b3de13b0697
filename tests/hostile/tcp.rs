//! Below HTTP: half-open connections, storms of resets, clients that never finish their first message, and no descriptors left.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use control_plane_mock::pki::{Authority, Leaf};
use remora::runtime::spawn::spawn;
use remora_tests::{Http1, ask_admin, until, within};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::child::Proxy;
use super::{bootstrap, cluster};

const MANAGER: &str = r#"
route_config:
  name: routes
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - {match: {prefix: /ok}, direct_response: {status: 200, body: {inline_string: ok}}}
"#;

/// Envoy's default is 1024 connections.
const ROOM: &str = "circuit_breakers: {thresholds: [{max_connections: 100000}]}";

const CLIENTS: usize = 200;

/// A proxy with a listener of HTTP for who means no harm, and below it: one of plain TCP, one that inspects first, one of TLS.
struct Scene {
    proxy: Proxy,
    tcp: SocketAddr,
    inspected: SocketAddr,
    tls: SocketAddr,
    echo: SocketAddr,
    /// Accepted by the server behind them, in turn.
    accepted: mpsc::Receiver<TcpStream>,
}

impl Scene {
    async fn start(descriptors: Option<u64>) -> Self {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let (sender, accepted) = mpsc::channel(16_384);
        spawn("server", async move {
            while let Ok((stream, _)) = server.accept().await {
                if sender.send(stream).await.is_err() {
                    break;
                }
            }
        });
        let listeners = [
            listener("tcp", "", ""),
            listener("inspected", INSPECTOR, ""),
            listener("tls", "", &context()),
            ECHO.to_owned(),
        ];
        let yaml = bootstrap(MANAGER, &cluster("server", port, ROOM));
        let yaml = yaml.replace("  clusters:\n", &format!("{}  clusters:\n", listeners.concat()));
        let proxy = Proxy::start_with(&yaml, descriptors).await;
        let addresses = ask_admin(proxy.admin, "GET", "/listeners").await.text();
        let address = |name: &str| {
            let prefix = format!("{name}::");
            let line = addresses.lines().find_map(|line| line.strip_prefix(&prefix));
            line.unwrap().parse().unwrap()
        };
        Self {
            tcp: address("tcp"),
            inspected: address("inspected"),
            tls: address("tls"),
            echo: address("echo"),
            proxy,
            accepted,
        }
    }

    /// A connection through the plain listener, and its other end.
    async fn pair(&mut self) -> (TcpStream, TcpStream) {
        let client = within("a connection", TcpStream::connect(self.tcp)).await.unwrap();
        let server = within("its other end", self.accepted.recv()).await.unwrap();
        (client, server)
    }

    /// All connections are gone, on both sides.
    async fn is_empty(&self) {
        until("the end of all connections", async || {
            let down = self.proxy.stat("listener.tcp.downstream_cx_active").await;
            let up = self.proxy.stat("cluster.server.upstream_cx_active").await;
            (down + up == 0).then_some(())
        })
        .await;
    }
}

const ECHO: &str = r#"  - name: echo
    stat_prefix: echo
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: echo
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}
"#;

const INSPECTOR: &str = r#"
    listener_filters_timeout: 1s
    listener_filters:
    - name: tls
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}"#;

fn listener(name: &str, fields: &str, context: &str) -> String {
    format!(
        r#"  - name: {name}
    stat_prefix: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}{fields}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, cluster: server}}{context}
"#
    )
}

/// A handshake has to be done within a second.
fn context() -> String {
    let identity = Authority::new("root")
        .unwrap()
        .issue(&Leaf::new().dns("a.test"))
        .unwrap();
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    format!(
        r#"
      transport_socket_connect_timeout: 1s
      transport_socket:
        name: tls
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {{tls_certificates: [{{certificate_chain: {{inline_string: {}}}, private_key: {{inline_string: {}}}}}]}}}}"#,
        quoted(&identity.chain_pem),
        quoted(&identity.key_pem)
    )
}

#[tokio::test]
async fn half_open_connections() {
    let mut scene = Scene::start(None).await;
    let mut pairs = Vec::new();
    for _ in 0..CLIENTS {
        let (mut client, mut server) = scene.pair().await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        within("the client's end", server.read_to_end(&mut heard))
            .await
            .unwrap();
        assert_eq!(heard, b"last words");
        pairs.push((client, server));
    }
    scene.proxy.is_well().await;
    for (client, server) in &mut pairs {
        server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        within("an answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"answer");
    }
    drop(pairs);
    scene.is_empty().await;
    scene.proxy.is_well().await;
}

#[tokio::test]
async fn reset_storm() {
    let mut scene = Scene::start(None).await;
    let before = scene.proxy.peak_kib();
    for round in 0..2000 {
        let client = within("a connection", TcpStream::connect(scene.tcp)).await.unwrap();
        // Closing will be a reset.
        rustix::net::sockopt::set_socket_linger(client.as_fd(), Some(Duration::ZERO)).unwrap();
        if round % 2 == 0 {
            let _ = client.try_write(b"half a word");
        }
        drop(client);
        while scene.accepted.try_recv().is_ok() {}
        if round % 500 == 0 {
            scene.proxy.is_well().await;
        }
    }
    let held = std::mem::replace(&mut scene.accepted, mpsc::channel(1).1);
    drop(held);
    scene.is_empty().await;
    scene.proxy.is_well().await;
    assert!(scene.proxy.peak_kib() - before < 16 * 1024);
}

/// The start of a ClientHello, and nothing more.
const START: &[u8] = b"\x16\x03\x01\x02";

#[tokio::test]
async fn slow_first_messages() {
    let scene = Scene::start(None).await;
    for address in [scene.inspected, scene.tls] {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let mut client = within("a connection", TcpStream::connect(address)).await.unwrap();
            client.write_all(START).await.unwrap();
            clients.push(client);
        }
        scene.proxy.is_well().await;
        for client in &mut clients {
            // Closed over what it had sent, or reset.
            let _ = within("the end", client.read_to_end(&mut Vec::new())).await;
        }
        scene.proxy.is_well().await;
    }
    let clients = CLIENTS as u64;
    assert_eq!(
        scene.proxy.stat("listener.inspected.downstream_pre_cx_timeout").await,
        clients
    );
    let late = "listener.tls.downstream_cx_transport_socket_connect_timeout";
    assert_eq!(scene.proxy.stat(late).await, clients);
}

/// Clients that send without end to a server that does not read: they wait, and the proxy holds no more of it than it may.
#[tokio::test]
async fn nobody_reads() {
    const STREAMS: u64 = 100;
    const LENGTH: u64 = 16 * 1024 * 1024;
    // More than the kernel's buffers of all sockets on the way are sure to take; what is sent beyond waits.
    const UNDER_WAY: u64 = STREAMS * 256 * 1024;
    let mut scene = Scene::start(None).await;
    let before = scene.proxy.peak_kib();
    let mut servers = Vec::new();
    for _ in 0..STREAMS {
        let (mut client, server) = scene.pair().await;
        servers.push(server);
        spawn("flood", async move {
            let block = vec![b'x'; 64 * 1024];
            for _ in 0..LENGTH / block.len() as u64 {
                client.write_all(&block).await.unwrap();
            }
            client.shutdown().await.unwrap();
            // Until the other end is there too.
            let _ = client.read(&mut [0]).await;
        });
    }
    until("bytes under way", async || {
        let sent = scene.proxy.stat("tcp.tcp.downstream_cx_rx_bytes_total").await;
        (sent >= UNDER_WAY).then_some(())
    })
    .await;
    scene.proxy.is_well().await;
    for server in &mut servers {
        let all = async { tokio::io::copy(server, &mut tokio::io::sink()).await };
        assert_eq!(within("all of it", all).await.unwrap(), LENGTH);
    }
    // 64 KiB each at most, of a limit of 1 MiB: the rest is what the process needs otherwise.
    let grown = scene.proxy.peak_kib() - before;
    assert!(grown < 24 * 1024, "{grown} KiB more");
    drop(servers);
    scene.is_empty().await;
    scene.proxy.is_well().await;
}

#[tokio::test]
async fn no_descriptors_left() {
    const LIMIT: u64 = 128;
    let scene = Scene::start(Some(LIMIT)).await;
    let mut good = Http1::connect(scene.proxy.address).await.unwrap();
    assert_eq!(good.get("good.test", "/ok", "").await.status, 200);
    let mut crowd = Vec::new();
    for _ in 0..CLIENTS {
        // The kernel takes them whether or not the proxy can.
        crowd.push(within("a connection", TcpStream::connect(scene.tcp)).await.unwrap());
    }
    until("the last descriptor", async || {
        (scene.proxy.descriptors() as u64 >= LIMIT - 1).then_some(())
    })
    .await;
    // Who is in is served.
    for _ in 0..20 {
        assert_eq!(good.get("good.test", "/ok", "").await.status, 200);
    }
    drop(crowd);
    drop(scene.accepted);
    // And so is who comes, once there is room again.
    scene.proxy.is_well().await;
}

/// What an idle TCP connection holds, both of its sides together, and ten thousand at once: with fewer descriptors than they need, some have no
/// host behind them.
#[tokio::test]
async fn idle_tcp_connections() {
    const WANTED: u64 = 10_000;
    /// For all that is no connection of this test's.
    const SPARE: u64 = 500;
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: Some(4 * WANTED),
        maximum: Some(limit.maximum.map_or(4 * WANTED, |maximum| maximum.max(4 * WANTED))),
    };
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Root may; others have what they have. A child inherits it.
    let _ = setrlimit(Resource::Nofile, raised).or_else(|_| setrlimit(Resource::Nofile, most));
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Two of them on either side for a connection with a host behind it; one for those that end in the proxy.
    let count = WANTED.min(descriptors.saturating_sub(WANTED + SPARE));
    let others = WANTED - count;
    assert!(
        count >= WANTED / 2,
        "{descriptors} descriptors are too few for {WANTED} connections"
    );
    let mut scene = Scene::start(None).await;
    // Its buffers and stats are there.
    let first = scene.pair().await;
    let before = scene.proxy.resident_kib();
    let mut pairs = vec![first];
    for _ in 0..count {
        pairs.push(scene.pair().await);
    }
    let mut echoes = Vec::new();
    let bytes = (scene.proxy.resident_kib().saturating_sub(before)) * 1024 / count;
    for _ in 0..others {
        echoes.push(within("a connection", TcpStream::connect(scene.echo)).await.unwrap());
    }
    for (client, server) in pairs.iter_mut().step_by(100) {
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        within("a byte", server.read_exact(&mut byte)).await.unwrap();
        assert_eq!(&byte, b"x");
    }
    for client in echoes.iter_mut().step_by(100) {
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        within("a byte", client.read_exact(&mut byte)).await.unwrap();
    }
    scene.proxy.is_well().await;
    let open = scene.proxy.stat("listener.tcp.downstream_cx_active").await;
    let open = open + scene.proxy.stat("listener.echo.downstream_cx_active").await;
    assert_eq!(open, WANTED + 1);
    // To the file descriptor itself: the test harness captures what `eprintln!` prints.
    let line = format!(
        "MEASURED: {open} idle TCP connections at once, {bytes} bytes of memory each of the {count} with a host behind them, {others} without\n"
    );
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    assert!(bytes <= 6 * 1024, "{bytes} bytes each");
    drop((pairs, echoes));
    scene.is_empty().await;
}
