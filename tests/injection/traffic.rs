//! Real traffic through real rules and real sidecars.

use std::net::SocketAddr;

use remora::runtime::spawn::spawn;
use remora_tests::{Answer, Backend, Http1, Http2, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::config::{GRPC, HTTP, Kind, MYSQL, Mode, PLAIN, Service, Trust, bootstrap};
use crate::pod::{Network, Pod};
use crate::space;

/// Ports of the application that the sidecar knows nothing of: to be passed through, and not even redirected.
const UNKNOWN: u16 = 7070;
const EXCLUDED: u16 = 15020;

const SERVER: &str = "10.77.0.2";
const CLIENT: &str = "10.77.0.1";
const OUTSIDE: &str = "10.77.0.3";

/// A client pod and a server pod with sidecars, and a pod without.
struct World {
    client: Pod,
    server: Pod,
    outside: Pod,
    _network: Network,
}

fn services(mutual: bool) -> Vec<Service> {
    let service = |name, address, port, kind, endpoint| Service {
        name,
        address,
        port,
        kind,
        endpoint,
        mutual,
    };
    vec![
        service("orders", "0.0.0.0", 80, Kind::Http, (SERVER, HTTP)),
        service("orders6", "0.0.0.0", 81, Kind::Http, ("fd77::2", HTTP)),
        service("grpc", "0.0.0.0", 90, Kind::Grpc, (SERVER, GRPC)),
        service("mysql", "10.96.0.11", 3306, Kind::Tcp, (SERVER, MYSQL)),
        service("mysql6", "fd96::11", 3306, Kind::Tcp, ("fd77::2", MYSQL)),
    ]
}

impl World {
    fn new(mode: Mode, mutual: bool) -> Self {
        let (network, trust) = (Network::new(), Trust::new());
        let mut server = network.pod(2);
        applications(&mut server);
        let config = bootstrap(&trust, &trust.identity("server"), &services(mutual), mode);
        server.inject(mode, &config);
        let mut client = network.pod(1);
        let config = bootstrap(&trust, &trust.identity("client"), &services(mutual), Mode::Redirect);
        client.inject(Mode::Redirect, &config);
        let mut outside = network.pod(3);
        applications(&mut outside);
        Self {
            client,
            server,
            outside,
            _network: network,
        }
    }
}

/// HTTP, gRPC, and servers that speak first; on every address.
fn applications(pod: &mut Pod) {
    pod.serve(|| async {
        let any = |port| SocketAddr::from(([0; 16], port));
        let http = Backend::at("http", any(HTTP)).await;
        let grpc = Backend::at("grpc", any(GRPC)).await;
        let mut greeters = Vec::new();
        for port in [MYSQL, PLAIN, UNKNOWN, EXCLUDED] {
            let listener = TcpListener::bind(any(port)).await.unwrap();
            greeters.push(spawn("greeter", greet(listener)));
        }
        (http, grpc, greeters)
    });
}

/// A server that speaks first, as MySQL does: who it thinks it talks to. Then it sends back what it gets.
async fn greet(listener: TcpListener) {
    while let Ok((mut stream, peer)) = listener.accept().await {
        spawn("greeting", async move {
            let greeting = format!("hello {}\n", peer.ip().to_canonical());
            if stream.write_all(greeting.as_bytes()).await.is_ok() {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.shutdown().await;
            }
        });
    }
}

/// Connects, takes the greeting before it says a word, and has `ping` echoed. The empty string: closed without a greeting.
async fn greeting(address: SocketAddr) -> String {
    let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    let mut line = Vec::new();
    let read = async {
        while line.last() != Some(&b'\n') {
            match stream.read_u8().await {
                Ok(byte) => line.push(byte),
                Err(_) => return,
            }
        }
        stream.write_all(b"ping").await.unwrap();
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"ping");
        // Half a close is passed on, and answered.
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut echo).await.unwrap(), 0);
    };
    within("a greeting", read).await;
    String::from_utf8(line).unwrap()
}

fn hello(pod: &Pod, address: &str) -> String {
    let address: SocketAddr = address.parse().unwrap();
    pod.run(move || greeting(address))
        .trim_end()
        .trim_start_matches("hello ")
        .to_owned()
}

fn get(pod: &Pod, address: &str, host: &'static str) -> Answer {
    let address: SocketAddr = address.parse().unwrap();
    pod.run(move || async move {
        let mut client = Http1::connect(address).await.unwrap();
        client.get(host, "/", "").await
    })
}

fn grpc(pod: &Pod, address: &str) -> Answer {
    let address: SocketAddr = address.parse().unwrap();
    pod.run(move || async move {
        let headers = [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-do", "grpc=5"),
        ];
        let mut client = Http2::connect(address).await;
        client
            .exchange("POST", "grpc", "/shop.Orders/Get", &headers, b"", &[])
            .await
    })
}

const CLIENT_IDENTITY: &str = "URI=spiffe://cluster.local/ns/default/sa/client";

#[test]
fn http_grpc_and_tcp_by_service_address_over_mutual_tls() {
    if !space::available() {
        return;
    }
    let world = World::new(Mode::Redirect, true);
    let client = &world.client;
    for address in ["10.96.0.10:80", "10.96.0.10:81", "[fd96::10]:80", "[fd96::10]:81"] {
        let answer = get(client, address, "orders");
        assert_eq!(answer.status, 200, "{address}: {}", answer.render());
        assert!(
            answer.text().contains(CLIENT_IDENTITY),
            "{address}: {}",
            answer.render()
        );
    }
    let answer = grpc(client, "10.96.0.12:90");
    assert_eq!(answer.header("grpc-status"), Some("5"), "{}", answer.render());
    // The application sees the sidecar's loopback address, in each family its own.
    assert_eq!(hello(client, "10.96.0.11:3306"), "127.0.0.6");
    assert_eq!(hello(client, "[fd96::11]:3306"), "::6");
    let handshakes = world.server.stat("listener.0.0.0.0_15006.ssl.handshake");
    // Requests to one service may share a connection.
    assert!(handshakes >= 5, "{handshakes}");
    assert_eq!(world.server.stat("listener.0.0.0.0_15006.ssl.connection_error"), 0);
}

#[test]
fn plaintext_and_unknown_ports_are_let_in() {
    if !space::available() {
        return;
    }
    let world = World::new(Mode::Redirect, false);
    let outside = &world.outside;
    for address in ["10.77.0.2:8080", "[fd77::2]:8080"] {
        let answer = get(outside, address, "orders");
        assert_eq!(answer.status, 200, "{address}: {}", answer.render());
        assert!(!answer.text().contains("spiffe:"), "{}", answer.render());
    }
    assert_eq!(grpc(outside, "10.77.0.2:9090").header("grpc-status"), Some("5"));
    for (address, peer) in [
        // Known to be plaintext: nothing waits for the client.
        ("10.77.0.2:3307", "127.0.0.6"),
        ("[fd77::2]:3307", "::6"),
        // Not redirected at all.
        ("10.77.0.2:15020", OUTSIDE),
        ("[fd77::2]:15020", "fd77::3"),
    ] {
        assert_eq!(hello(outside, address), peer, "{address}");
    }
    // Detection on an unknown port ends with the client's first line, whatever it is.
    let unknown = outside.run(|| async {
        let mut stream = TcpStream::connect((SERVER, UNKNOWN)).await.unwrap();
        stream.write_all(b"bonjour\r\n").await.unwrap();
        let mut all = [0; 25];
        within("an echo", stream.read_exact(&mut all)).await.unwrap();
        String::from_utf8_lossy(&all).into_owned()
    });
    assert_eq!(unknown, "hello 127.0.0.6\nbonjour\r\n");
    assert!(world.server.stat("cluster.InboundPassthroughCluster.upstream_cx_total") > 0);
}

#[test]
fn the_way_out_is_open_and_the_proxy_itself_is_a_black_hole() {
    if !space::available() {
        return;
    }
    let world = World::new(Mode::Redirect, true);
    let client = &world.client;
    // Nobody knows these: they go where they were going, from the pod's own address.
    assert_eq!(hello(client, "10.77.0.3:7070"), CLIENT);
    assert_eq!(hello(client, "[fd77::3]:7070"), "fd77::1");
    // HTTP too: nobody looks into it.
    assert_eq!(get(client, "10.77.0.3:8080", "any").status, 200);
    assert!(client.stat("cluster.PassthroughCluster.upstream_cx_total") >= 3);
    // To the proxy's own ports.
    assert_eq!(hello(client, "127.0.0.1:15001"), "");
    assert_eq!(hello(&world.outside, "10.77.0.2:15006"), "");
    // Still there.
    assert_eq!(get(client, "10.96.0.10:80", "orders").status, 200);
}

#[test]
fn a_pod_calls_itself() {
    if !space::available() {
        return;
    }
    let world = World::new(Mode::Redirect, true);
    let server = &world.server;
    // By its service: out through the sidecar, and in again through it.
    let inbound = server.stat("listener.0.0.0.0_15006.downstream_cx_total");
    let answer = get(server, "10.96.0.10:80", "orders");
    assert_eq!(answer.status, 200, "{}", answer.render());
    assert!(
        answer
            .text()
            .contains("URI=spiffe://cluster.local/ns/default/sa/server"),
        "{}",
        answer.render()
    );
    assert_eq!(hello(server, "10.96.0.11:3306"), "127.0.0.6");
    assert_eq!(hello(server, "[fd96::11]:3306"), "::6");
    assert_eq!(server.stat("listener.0.0.0.0_15006.downstream_cx_total"), inbound + 3);
    // By its own address, and by loopback: without the sidecar.
    assert_eq!(hello(server, "10.77.0.2:3306"), SERVER);
    assert_eq!(hello(server, "127.0.0.1:3306"), "127.0.0.1");
    assert_eq!(server.stat("listener.0.0.0.0_15006.downstream_cx_total"), inbound + 3);
}

/// Every connection to the application has the source 127.0.0.6. Ports of it must be good for each destination anew, or 28,000 connections in
/// all would be the end; here, with a hundred ports, it would be after a hundred.
#[test]
fn one_source_address_is_good_for_every_destination() {
    if !space::available() {
        return;
    }
    const DESTINATIONS: u16 = 4;
    const EACH: usize = 70;
    let mut world = World::new(Mode::Redirect, false);
    world.server.run(|| async {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40099").unwrap();
    });
    world.server.serve(|| async {
        let mut greeters = Vec::new();
        for port in UNKNOWN + 1..=UNKNOWN + DESTINATIONS {
            let listener = TcpListener::bind(SocketAddr::from(([0; 16], port))).await.unwrap();
            greeters.push(spawn("greeter", greet(listener)));
        }
        greeters
    });
    let greetings = world.outside.run(|| async {
        let (mut open, mut greetings) = (Vec::new(), Vec::new());
        for port in UNKNOWN + 1..=UNKNOWN + DESTINATIONS {
            for _ in 0..EACH {
                let mut stream = within("a connection", TcpStream::connect((SERVER, port)))
                    .await
                    .unwrap();
                stream.write_all(b"?").await.unwrap();
                open.push(stream);
            }
        }
        for stream in &mut open {
            let mut greeting = [0; 16];
            let read = within("a greeting", stream.read_exact(&mut greeting)).await;
            let text = read.map(|_| String::from_utf8_lossy(&greeting).into_owned());
            greetings.push(text.map_err(|error| error.to_string()));
        }
        greetings
    });
    let expected = vec![Ok("hello 127.0.0.6\n".to_owned()); EACH * usize::from(DESTINATIONS)];
    assert_eq!(greetings, expected);
}

/// As above, one after the other: each leaves its port waiting for a minute (`TIME_WAIT`), for its destination only. There are 60,000 of them where
/// `REMORA_CONNECTIONS=60000` says so, with the ports that the system has; else fewer, with as many fewer ports.
#[test]
fn connections_that_are_over_block_no_other_destination() {
    if !space::available() {
        return;
    }
    const DESTINATIONS: u16 = 4;
    const AT_ONCE: usize = 50;
    const FEW: usize = 3_000;
    let asked = std::env::var("REMORA_CONNECTIONS").ok();
    let count: usize = asked.map_or(FEW, |count| count.parse().unwrap());
    let is_short = count <= FEW;
    let mut world = World::new(Mode::Redirect, false);
    world.server.run(move || async move {
        if is_short {
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40999").unwrap();
        }
        // Loopback could take a port again at once otherwise.
        std::fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0").unwrap();
    });
    world.server.serve(|| async {
        let mut greeters = Vec::new();
        for port in UNKNOWN + 1..=UNKNOWN + DESTINATIONS {
            let listener = TcpListener::bind(SocketAddr::from(([0; 16], port))).await.unwrap();
            greeters.push(spawn("greeter", greet(listener)));
        }
        greeters
    });
    let greeted = world.outside.run(move || async move {
        let mut greeted = 0;
        for _ in 0..count / AT_ONCE {
            let mut open = Vec::with_capacity(AT_ONCE);
            for index in 0..AT_ONCE {
                let port = UNKNOWN + 1 + u16::try_from(index).unwrap() % DESTINATIONS;
                let mut stream = within("a connection", TcpStream::connect((SERVER, port)))
                    .await
                    .unwrap();
                stream.write_all(b"?").await.unwrap();
                // It ends first, so it is the proxy whose port waits.
                stream.shutdown().await.unwrap();
                open.push(stream);
            }
            for mut stream in open {
                let mut greeting = String::new();
                let read = within("a greeting", stream.read_to_string(&mut greeting)).await;
                greeted += usize::from(read.is_ok() && greeting == "hello 127.0.0.6\n?");
            }
        }
        greeted
    });
    assert_eq!(greeted, count / AT_ONCE * AT_ONCE);
    let waiting = world.server.run(|| async {
        let text = std::fs::read_to_string("/proc/thread-self/net/sockstat").unwrap();
        let tcp = text
            .lines()
            .find_map(|line| line.strip_prefix("TCP: "))
            .unwrap()
            .to_owned();
        let mut words = tcp.split(' ').skip_while(|word| *word != "tw");
        words.nth(1).unwrap().parse::<usize>().unwrap()
    });
    // More than one destination alone could have, where there were so many.
    let needed = if is_short { 1_000 } else { 28_232 };
    assert!(waiting > needed.min(count * 3 / 4), "only {waiting} ports wait");
}

#[test]
fn tproxy_keeps_the_source_address() {
    if !space::available() {
        return;
    }
    let world = World::new(Mode::Tproxy, true);
    let inbound = "listener.0.0.0.0_15006.downstream_cx_total";
    // Over mutual TLS and in plaintext, the application sees who called.
    assert_eq!(hello(&world.client, "10.96.0.11:3306"), CLIENT);
    assert_eq!(hello(&world.client, "[fd96::11]:3306"), "fd77::1");
    assert_eq!(hello(&world.outside, "10.77.0.2:3307"), OUTSIDE);
    assert_eq!(hello(&world.outside, "[fd77::2]:3307"), "fd77::3");
    let answer = get(&world.client, "10.96.0.10:80", "orders");
    assert_eq!(answer.status, 200, "{}", answer.render());
    assert!(answer.text().contains(CLIENT_IDENTITY), "{}", answer.render());
    assert_eq!(get(&world.outside, "10.77.0.2:8080", "orders").status, 200);
    assert_eq!(world.server.stat(inbound), 6);
    // Ports that are left alone, the pod itself, and what it sends.
    assert_eq!(hello(&world.outside, "10.77.0.2:15020"), OUTSIDE);
    assert_eq!(hello(&world.server, "10.77.0.2:3306"), SERVER);
    assert_eq!(hello(&world.server, "10.77.0.3:7070"), SERVER);
    assert_eq!(world.server.stat(inbound), 6);
    // Calling its own service leads in again.
    assert_eq!(hello(&world.server, "10.96.0.11:3306"), SERVER);
    assert_eq!(world.server.stat(inbound), 7);
}
