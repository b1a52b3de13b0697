//! What the kernel says of sockets that Envoy and Remora were told to set options on.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use remora_tests::{ask_admin, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cases::{bootstrap, cluster};
use crate::harness::Pair;

/// Each with an address of its own settings after those of the listener. Longer than an hour is the kernel's own.
const LISTENERS: &[(&str, &str, &str)] = &[
    ("nothing", "", ""),
    ("keepalive", "tcp_keepalive: {keepalive_time: 100}", ""),
    ("default", "tcp_keepalive: {}", ""),
    ("zero", "tcp_keepalive: {keepalive_time: 100, keepalive_probes: 0}", ""),
    (
        "zero here",
        "tcp_keepalive: {keepalive_time: 100}",
        "tcp_keepalive: {keepalive_interval: 0}",
    ),
    (
        "other here",
        "tcp_keepalive: {keepalive_time: 100}",
        "tcp_keepalive: {keepalive_time: 1000}",
    ),
    ("only here", "", "tcp_keepalive: {keepalive_time: 1000}"),
    ("option", OPTION, ""),
    ("no option here", OPTION, "socket_options: {}"),
    (
        "option here",
        "",
        "socket_options: {socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}]}",
    ),
];

/// `SO_KEEPALIVE`
const OPTION: &str = "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}]";

const CLUSTERS: &[(&str, &str)] = &[
    ("plain", ""),
    (
        "kept",
        "upstream_connection_options: {tcp_keepalive: {keepalive_time: 100}}",
    ),
    (
        "no time",
        "upstream_connection_options: {tcp_keepalive: {keepalive_time: 0}}",
    ),
    (
        "no probes",
        "upstream_connection_options: {tcp_keepalive: {keepalive_time: 100, keepalive_probes: 0}}",
    ),
    (
        "bound",
        "upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}, OPTIONS}",
    ),
    (
        "bound otherwise",
        "upstream_bind_config: {source_address: {address: '::1', port_value: 0}, OPTIONS, extra_source_addresses: [{address: {address: 127.0.0.6, port_value: 0}, socket_options: {}}]}",
    ),
];

#[tokio::test]
async fn keepalive_and_socket_options_are_those_of_the_address() {
    let listeners: Vec<String> = LISTENERS
        .iter()
        .map(|(name, fields, own)| listener(name, fields, own, "plain"))
        .chain(CLUSTERS.iter().map(|(name, _)| listener(name, "", "", name)))
        .collect();
    let clusters: Vec<String> = CLUSTERS
        .iter()
        .map(|(name, fields)| cluster(name, &["{{greet}}"], &fields.replace("OPTIONS", OPTION)))
        .collect();
    let Some(pair) = Pair::start("sockets", &bootstrap(&listeners, &clusters)).await else {
        return;
    };
    let [envoy, remora] = pair.admins();
    let theirs = seen(envoy, pair.greeting()).await;
    let ours = seen(remora, pair.greeting()).await;
    assert_eq!(theirs.len(), 2 * (LISTENERS.len() + CLUSTERS.len()));
    let kinds = ["100 s", "1000 s", "the kernel's", "none"];
    for kind in kinds {
        assert!(theirs.iter().any(|line| line.contains(kind)), "{kind}: {theirs:#?}");
    }
    assert_eq!(theirs, ours);
}

/// What the sockets of each address of each listener have, and of the connection to its cluster, by name.
async fn seen(admin: SocketAddr, upstream: u16) -> Vec<String> {
    let answer = ask_admin(admin, "GET", "/listeners?format=json").await;
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let mut seen = Vec::new();
    for status in json["listener_statuses"].as_array().unwrap() {
        let additional = status["additional_local_addresses"].as_array().into_iter().flatten();
        let addresses = std::iter::once(&status["local_address"]).chain(additional);
        for (index, address) in addresses.enumerate() {
            let port = address["socket_address"]["port_value"].as_u64().unwrap();
            let port = u16::try_from(port).unwrap();
            let connection = TcpStream::connect(("127.0.0.1", port));
            let mut client = within("a connection", connection).await.unwrap();
            let mut hello = [0; 6];
            within("a greeting", client.read_exact(&mut hello)).await.unwrap();
            let accepted = until("what is accepted", async || keepalive(End::Local, port)).await;
            let connected = until("what is connected", async || keepalive(End::Remote, upstream)).await;
            let name = status["name"].as_str().unwrap();
            seen.push(format!("{name} {index}: {accepted}, upstream {connected}"));
        }
    }
    seen.sort();
    seen
}

/// Which end of a connection has a port.
#[derive(Clone, Copy)]
pub enum End {
    Local,
    Remote,
}

/// How long the only connection with this port may idle before the kernel probes: `/proc/net/tcp` shows its timer. `None` while there are
/// several, or while another timer runs.
pub fn keepalive(end: End, port: u16) -> Option<&'static str> {
    const ESTABLISHED: &str = "01";
    const KEEPALIVE: &str = "02";
    let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let shown = format!(":{port:04X}");
    // There may be thousands of others.
    let candidates = text.lines().filter(|line| line.contains(&shown));
    let mut timers = candidates.filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = match end {
            End::Local => fields[1],
            End::Remote => fields[2],
        };
        (address.ends_with(&shown) && fields[3] == ESTABLISHED).then(|| fields[5].to_owned())
    });
    let only = timers.next().filter(|_| timers.next().is_none())?;
    let (kind, hundredths) = only.split_once(':')?;
    let seconds = u64::from_str_radix(hundredths, 16).ok()? / 100;
    match (kind, seconds) {
        ("00", _) => Some("none"),
        (KEEPALIVE, 0..=100) => Some("100 s"),
        (KEEPALIVE, 101..=1000) => Some("1000 s"),
        (KEEPALIVE, _) => Some("the kernel's"),
        _ => None,
    }
}

fn listener(name: &str, fields: &str, own: &str, cluster: &str) -> String {
    let address = "address: {socket_address: {address: 127.0.0.1, port_value: 0}}";
    let line = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let own = if own.is_empty() {
        String::new()
    } else {
        format!(", {own}")
    };
    format!(
        r#"  - name: {name}
    {address}
    additional_addresses: [{{{address}{own}}}]
{}    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: sockets, cluster: {cluster}}}
"#,
        line(fields)
    )
}

#[tokio::test]
async fn pipes_are_listened_on_and_connected_to() {
    // Who connects to `in` is led through two sockets in the file system, and one that has only a name.
    let listeners = [
        pipe("open", "{path: \"{{log}}.open\", mode: 438}", "private"),
        pipe("private", "{path: \"{{log}}.private\", mode: 384}", "abstract"),
        pipe("abstract", "{path: \"@{{log}}\"}", "greet"),
        listener("in", "", "", "open"),
    ];
    let to = |name: &str, path: &str| {
        let endpoint = format!("{{address: {{pipe: {{path: \"{path}\"}}}}}}");
        format!(
            "  - name: {name}\n    connect_timeout: 1s\n    load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: \
             {endpoint}}}]}}]}}\n"
        )
    };
    let clusters = [
        to("open", "{{log}}.open"),
        to("private", "{{log}}.private"),
        to("abstract", "@{{log}}"),
        cluster("greet", &["{{greet}}"], ""),
    ];
    let Some(pair) = Pair::start("pipes", &bootstrap(&listeners, &clusters)).await else {
        return;
    };
    let through = [pair.envoy("in"), pair.remora("in")];
    for ((admin, address), log) in pair.admins().into_iter().zip(through).zip(pair.logs()) {
        let mut client = within("a connection", TcpStream::connect(address)).await.unwrap();
        client.write_all(b"through three pipes").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        within("an answer", client.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "hello\nthrough three pipes");
        let mode = |suffix: &str| {
            let path = format!("{}{suffix}", log.display());
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode(".open"), mode(".private")), (0o666, 0o600));
        let text = ask_admin(admin, "GET", "/listeners").await.text();
        let line = format!("private::{}.private", log.display());
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }
}

fn pipe(name: &str, address: &str, cluster: &str) -> String {
    format!(
        r#"  - name: {name}
    address: {{pipe: {address}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {name}, cluster: {cluster}}}
"#
    )
}

#[tokio::test]
async fn backlog_and_foreign_addresses_are_as_asked_for() {
    // An address that no interface has.
    let foreign =
        listener("foreign", "freebind: true", "", "greet").replace("address: 127.0.0.1", "address: 192.0.2.1");
    let listeners = [
        listener("short", "tcp_backlog_size: 7", "", "greet"),
        listener("long", "tcp_backlog_size: 100\nenable_reuse_port: false", "", "greet"),
        foreign,
    ];
    let yaml = bootstrap(&listeners, &[cluster("greet", &["{{greet}}"], "")]);
    let Some(pair) = Pair::start("backlogs", &yaml).await else {
        return;
    };
    for (name, backlog) in [("short", "7"), ("long", "100")] {
        for address in [pair.envoy(name), pair.remora(name)] {
            let sockets = listening(address);
            assert!(
                !sockets.is_empty() && sockets.iter().all(|shown| shown == backlog),
                "{name}: {sockets:?}"
            );
            assert!(name == "short" || sockets.len() == 1, "{name}: {sockets:?}");
        }
    }
    for address in [pair.envoy("foreign"), pair.remora("foreign")] {
        assert!(address.ip().to_string() == "192.0.2.1" && !listening(address).is_empty());
    }
}

/// The backlog of each socket that listens on this address.
fn listening(address: SocketAddr) -> Vec<String> {
    let output = Command::new("ss").args(["-Hltn", "src", &address.to_string()]).output();
    let output = output.expect("`ss` is part of iproute2");
    let text = String::from_utf8(output.stdout).unwrap();
    let backlog = |line: &str| line.split_whitespace().nth(2).unwrap().to_owned();
    text.lines().map(backlog).collect()
}
