//! What an update of a listener does to its sockets and to who is connected: the same files read by Envoy and by Remora.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use remora::runtime::clock;
use remora_tests::{External, Sidecar, ask_admin, until, within};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::envoy_or_skip;
use crate::sockets::{End, keepalive};
use crate::tcp::{Kind, Plain};

/// Fields of a listener, one version after the other.
const SHARED: &[(&str, &str)] = &[
    ("as it was", ""),
    ("an option", OPTION),
    (
        "the same option, another name in stats",
        "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}]\nstat_prefix: other",
    ),
    ("keepalive", "tcp_keepalive: {keepalive_time: 100}"),
    ("backlog", "tcp_keepalive: {keepalive_time: 100}\ntcp_backlog_size: 17"),
    ("foreign addresses", "freebind: true"),
    ("one socket", "freebind: true\nenable_reuse_port: false"),
    ("as it was again", ""),
];

const EXCLUSIVE: &[(&str, &str)] = &[
    ("as it was", "enable_reuse_port: false"),
    (
        "an option",
        "enable_reuse_port: false\nsocket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}]",
    ),
    ("backlog", "enable_reuse_port: false\ntcp_backlog_size: 17"),
    ("a socket each", ""),
    ("as it was again", "enable_reuse_port: false"),
];

/// How often new sockets are looked for, every ten milliseconds.
const LOOKS: usize = 150;

const OPTION: &str = "socket_options: [{level: 1, name: 9, int_value: 1, state: STATE_PREBIND}]";

#[tokio::test]
async fn socket_options_that_change_make_new_sockets() {
    for (name, versions) in [("shared", SHARED), ("exclusive", EXCLUSIVE)] {
        let Some(envoy) = envoy_or_skip("updates") else { return };
        let echo = Plain::start(Kind::Echo).await;
        let place = Place::new(echo.port);
        place.put(0, versions[0].1);
        let running = External::start(Path::new(&envoy), &place.bootstrap()).await;
        let theirs = place.tell(running.admin_address(), versions).await;
        drop(running);
        let place = Place::new(echo.port);
        place.put(0, versions[0].1);
        let running = Sidecar::start(&place.bootstrap()).await.unwrap();
        let ours = place.tell(running.admin_address(), versions).await;
        for needed in ["new sockets", "the same sockets", "rejected"] {
            let told = theirs.iter().any(|line| line.contains(needed));
            assert!(
                told || name == "exclusive" && needed == "new sockets",
                "{needed}: {theirs:#?}"
            );
        }
        // A backlog can be changed in place; where sockets can stand side by side, ours are new then.
        let comparable = |line: &String| match line.starts_with("backlog") {
            true => line.replace("the same sockets", "new sockets"),
            false => line.clone(),
        };
        let [theirs, ours] = [theirs, ours].map(|lines| lines.iter().map(comparable).collect::<Vec<_>>());
        assert_eq!(theirs, ours, "{name}");
    }
}

/// A directory with the file of listeners, and their port.
struct Place {
    directory: TempDir,
    port: u16,
    echo: u16,
    /// Keeps the port from others; all listeners set `SO_REUSEADDR`, and this one does not listen.
    _held: TcpSocket,
}

impl Place {
    fn new(echo: u16) -> Self {
        let held = TcpSocket::new_v4().unwrap();
        held.set_reuseaddr(true).unwrap();
        held.set_reuseport(true).unwrap();
        held.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = held.local_addr().unwrap().port();
        Self {
            directory: tempfile::tempdir().unwrap(),
            port,
            echo,
            _held: held,
        }
    }

    fn put(&self, version: usize, fields: &str) {
        let fields: String = fields.lines().map(|line| format!("  {line}\n")).collect();
        let text = format!(
            r#"version_info: "{version}"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}
{fields}  filter_chains:
  - filters:
    - name: tcp_proxy
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: l, cluster: echo}}
"#,
            self.port
        );
        let path = |name: &str| self.directory.path().join(name);
        std::fs::write(path("new"), text).unwrap();
        std::fs::rename(path("new"), path("lds.yaml")).unwrap();
    }

    fn bootstrap(&self) -> String {
        format!(
            r#"node: {{id: updates, cluster: updates}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources: {{lds_config: {{path_config_source: {{path: {}/lds.yaml}}, resource_api_version: V3}}}}
static_resources:
  clusters:
  - name: echo
    connect_timeout: 1s
    load_assignment: {{cluster_name: echo, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}
"#,
            self.directory.path().display(),
            self.echo
        )
    }

    /// What each version after the first does, a line each.
    async fn tell(&self, admin: SocketAddr, versions: &[(&str, &str)]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut sockets = until("sockets", async || self.sockets().filter(|sockets| !sockets.is_empty())).await;
        for (version, (name, fields)) in versions.iter().enumerate().skip(1) {
            let mut old = self.connect().await;
            let (decided, rejected) = counters(admin).await;
            self.put(version, fields);
            let rejections = until("a decision", async || {
                let (now, rejections) = counters(admin).await;
                (now > decided).then_some(rejections)
            })
            .await;
            let fate = if rejections > rejected { "rejected" } else { "accepted" };
            // New ones may be a moment from bound, if there will be any,
            for _ in 0..LOOKS {
                let replaced = self.sockets().is_some_and(|now| {
                    let is_old = |inode| sockets.iter().any(|(old, _)| old == inode);
                    !now.iter().any(|(inode, _)| is_old(inode))
                });
                if replaced || fate == "rejected" {
                    break;
                }
                clock::sleep(Duration::from_millis(10)).await;
            }
            // and the old ones from closed.
            let now = until("sockets of one version", async || {
                let now = self.sockets()?;
                let kept = now
                    .iter()
                    .filter(|(inode, _)| sockets.iter().any(|(old, _)| old == inode))
                    .count();
                (kept == 0 || kept == now.len()).then_some(now)
            })
            .await;
            let same = now.iter().any(|(inode, _)| sockets.iter().any(|(old, _)| old == inode));
            let same = if same { "the same sockets" } else { "new sockets" };
            let backlog = &now[0].1;
            self.probe(&mut old).await;
            let mut new = self.connect().await;
            drop(old);
            let probed = until("what is accepted", async || keepalive(End::Local, self.port)).await;
            self.probe(&mut new).await;
            lines.push(format!("{name}: {fate}, {same}, backlog {backlog}, keepalive {probed}"));
            drop(new);
            until("no connection", async || {
                keepalive(End::Local, self.port).is_none().then_some(())
            })
            .await;
            sockets = now;
        }
        lines
    }

    async fn connect(&self) -> TcpStream {
        let connection = TcpStream::connect(("127.0.0.1", self.port));
        let mut stream = within("a connection", connection).await.unwrap();
        self.probe(&mut stream).await;
        stream
    }

    /// It lives.
    async fn probe(&self, stream: &mut TcpStream) {
        let mut answer = [0; 4];
        within("a write", stream.write_all(b"ping")).await.unwrap();
        within("an echo", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"ping");
    }

    /// Inode and backlog of each socket that listens.
    fn sockets(&self) -> Option<Vec<(String, String)>> {
        let port = format!(":{}", self.port);
        let output = Command::new("ss").args(["-Hltne", "sport", "=", &port]).output();
        let text = String::from_utf8(output.expect("`ss` is part of iproute2").stdout).unwrap();
        text.lines()
            .map(|line| {
                let inode = line.split_once("ino:")?.1.split_whitespace().next()?;
                Some((inode.to_owned(), line.split_whitespace().nth(2)?.to_owned()))
            })
            .collect()
    }
}

/// Updates of listeners that were decided on, and those of them that were rejected.
async fn counters(admin: SocketAddr) -> (u64, u64) {
    let text = ask_admin(admin, "GET", "/stats?filter=listener_manager.lds.update")
        .await
        .text();
    let value = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("listener_manager.lds.{name}: ")));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    let rejected = value("update_rejected");
    (value("update_success") + rejected, rejected)
}
