//! In which order the addresses of one host are tried (`happy_eyeballs_config`).

use std::net::SocketAddr;

use remora::runtime::spawn::spawn;
use remora_tests::{until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::cases::bootstrap;
use crate::harness::Pair;

const FAMILIES: &[&[u8]] = &[&[4, 4, 4, 6, 6], &[6, 4, 4, 6, 6, 6], &[4, 4]];

const CONFIGS: &[&str] = &[
    "",
    "happy_eyeballs_config: {}",
    "happy_eyeballs_config: {first_address_family_version: V6}",
    "happy_eyeballs_config: {first_address_family_version: V4, first_address_family_count: 2}",
    "happy_eyeballs_config: {first_address_family_version: V6, first_address_family_count: 2}",
    "happy_eyeballs_config: {first_address_family_count: 3}",
    "happy_eyeballs_config: {first_address_family_version: PIPE, first_address_family_count: 2}",
];

#[tokio::test]
async fn addresses_are_tried_in_the_order_that_is_asked_for() {
    let mut hosts: Vec<Vec<Host>> = Vec::new();
    for families in FAMILIES {
        let mut host = Vec::new();
        for (index, family) in families.iter().enumerate() {
            host.push(Host::start(*family, format!("v{family} #{index}")).await);
        }
        hosts.push(host);
    }
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (at, host) in hosts.iter().enumerate() {
        for (index, config) in CONFIGS.iter().enumerate() {
            let name = format!("l{at}-{index}");
            listeners.push(listener(&name));
            clusters.push(cluster(&name, host, config));
        }
    }
    let Some(pair) = Pair::start("eyeballs", &bootstrap(&listeners, &clusters)).await else {
        return;
    };
    let mut orders = Vec::new();
    for (at, host) in hosts.iter_mut().enumerate() {
        for (index, config) in CONFIGS.iter().enumerate() {
            let name = format!("l{at}-{index}");
            let theirs = order(pair.envoy(&name), host).await;
            let ours = order(pair.remora(&name), host).await;
            assert_eq!(theirs, ours, "{:?} with {config:?}", FAMILIES[at]);
            orders.push(theirs);
        }
    }
    orders.sort();
    orders.dedup();
    assert!(orders.len() >= 8, "the configurations differ: {orders:#?}");
}

/// Who answers, again and again, while whoever has answered goes away.
async fn order(proxy: SocketAddr, hosts: &mut [Host]) -> Vec<String> {
    let mut order = Vec::new();
    for _ in 0..hosts.len() {
        let mut name = String::new();
        let mut stream = within("a connection", TcpStream::connect(proxy)).await.unwrap();
        within("a name", stream.read_to_string(&mut name)).await.unwrap();
        let host = hosts.iter_mut().find(|host| host.name == name);
        host.unwrap_or_else(|| panic!("{name:?} is not one of them"))
            .stop()
            .await;
        order.push(name);
    }
    for host in hosts {
        host.listen();
    }
    order
}

/// Says its name, and ends.
struct Host {
    name: String,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    /// Keeps the port while it does not listen.
    _held: TcpSocket,
}

impl Host {
    async fn start(family: u8, name: String) -> Self {
        let any: SocketAddr = if family == 6 { "[::1]:0" } else { "127.0.0.1:0" }.parse().unwrap();
        let held = bound(any);
        let mut host = Self {
            name,
            address: held.local_addr().unwrap(),
            accepting: None,
            _held: held,
        };
        host.listen();
        host
    }

    fn listen(&mut self) {
        let listener = bound(self.address).listen(16).unwrap();
        let name = self.name.clone();
        self.accepting = Some(spawn("named backend", accept(listener, name)));
    }

    async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        // Its socket is closed a moment later at most.
        until("a refusal", async || {
            TcpStream::connect(self.address).await.is_err().then_some(())
        })
        .await;
    }
}

async fn accept(listener: TcpListener, name: String) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let _ = stream.write_all(name.as_bytes()).await;
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

fn cluster(name: &str, hosts: &[Host], config: &str) -> String {
    let address = |host: &Host| {
        let (ip, port) = (host.address.ip(), host.address.port());
        format!("{{socket_address: {{address: \"{ip}\", port_value: {port}}}}}")
    };
    let others: Vec<String> = hosts[1..]
        .iter()
        .map(|host| format!("{{address: {}}}", address(host)))
        .collect();
    format!(
        "  - name: {name}\n    connect_timeout: 5s\n    upstream_connection_options: {{{config}}}\n    load_assignment: {{cluster_name: {name}, endpoints: \
         [{{lb_endpoints: [{{endpoint: {{address: {}, additional_addresses: [{}]}}}}]}}]}}\n",
        address(&hosts[0]),
        others.join(", ")
    )
}

fn listener(name: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, cluster: {name}}}
"#
    )
}
