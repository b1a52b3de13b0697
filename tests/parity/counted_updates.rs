//! What a series of updates of listeners leaves in the counters of their manager: the same files read by Envoy and by Remora.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use remora::runtime::clock;
use remora_tests::{External, Sidecar, ask_admin, until};
use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::harness::envoy_or_skip;

/// Without what is of the moment: when something was, how long it took, what still drains, and how far the workers are.
const LEFT_OUT: [&str; 5] = ["update_time", "update_duration", "draining", "worker", "create_success"];

/// How often counters are looked at again, every ten milliseconds.
const LOOKS: usize = 300;

#[tokio::test]
async fn updates_of_listeners_are_counted_alike() {
    let Some(envoy) = envoy_or_skip("counted updates") else {
        return;
    };
    let place = Place::new();
    place.put(0, &place.versions()[0].1);
    let running = External::start(Path::new(&envoy), &place.bootstrap()).await;
    let theirs = place.tell(running.admin_address(), &[]).await;
    drop(running);
    let place = Place::new();
    place.put(0, &place.versions()[0].1);
    let running = Sidecar::start(&place.bootstrap()).await.unwrap();
    let ours = place.tell(running.admin_address(), &theirs).await;
    for needed in [
        "listener_in_place_updated: 6",
        "listener_added: 4",
        "listener_removed: 3",
        "lds.update_rejected: 2",
        "lds.update_failure: 1",
    ] {
        assert!(theirs.iter().any(|line| line.contains(needed)), "{needed}: {theirs:#?}");
    }
    assert_eq!(theirs, ours);
}

struct Place {
    directory: TempDir,
    /// Ports that nobody else gets; all listeners set `SO_REUSEADDR`, and these do not listen.
    held: [TcpSocket; 3],
}

impl Place {
    fn new() -> Self {
        let held = [(); 3].map(|()| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.set_reuseport(true).unwrap();
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            socket
        });
        Self {
            directory: tempfile::tempdir().unwrap(),
            held,
        }
    }

    /// A listener at one of the ports: its chains (what they match, and the name of their stats), and the default one.
    fn listener(&self, name: &str, port: usize, chains: &[(&str, &str)], default: &str) -> String {
        let port = self.held[port].local_addr().unwrap().port();
        let filters = |prefix: &str| {
            format!(
                r#"[{{name: tcp_proxy, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: {prefix}, cluster: nowhere}}}}]"#
            )
        };
        let mut text = format!(
            r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: {name}
  address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
  filter_chains:
"#
        );
        for (matches, prefix) in chains {
            text += &format!(
                "  - filter_chain_match: {{{matches}}}\n    filters: {}\n",
                filters(prefix)
            );
        }
        if !default.is_empty() {
            text += &format!("  default_filter_chain: {{filters: {}}}\n", filters(default));
        }
        text
    }

    fn versions(&self) -> Vec<(&'static str, String)> {
        let a = |chains: &[(&str, &str)], default: &str| self.listener("a", 0, chains, default);
        let (one, two) = ([("", "first")], [("", "second")]);
        let three = [("", "second"), ("destination_port: 1", "third")];
        let b = self.listener("b", 1, &one, "");
        let moved = self.listener("a", 2, &two, "");
        let wrong = self.listener("b", 1, &[("", "first"), ("", "again")], "");
        let same_place = self.listener("c", 1, &one, "");
        vec![
            ("one", a(&one, "")),
            ("another", a(&one, "") + &b),
            ("the same", a(&one, "") + &b),
            ("a chain changed", a(&two, "") + &b),
            ("a chain added", a(&three, "") + &b),
            ("a chain removed", a(&two, "") + &b),
            ("a default chain added", a(&two, "default") + &b),
            ("a default chain changed", a(&two, "other") + &b),
            ("a default chain removed", a(&two, "") + &b),
            ("another port", moved.clone() + &b),
            ("one removed", moved.clone()),
            ("one that is wrong", moved.clone() + &wrong),
            ("one of a taken place", moved.clone() + &b + &same_place),
            ("both again", moved + &b),
            ("no list", "5".to_owned()),
            ("none", String::new()),
            ("one again", a(&one, "")),
        ]
    }

    fn put(&self, version: usize, resources: &str) {
        let resources = match resources {
            "" => " []\n".to_owned(),
            "5" => " 5\n".to_owned(),
            some => format!("\n{some}"),
        };
        let path = |name: &str| self.directory.path().join(name);
        std::fs::write(
            path("new"),
            format!("version_info: \"{version}\"\nresources:{resources}"),
        )
        .unwrap();
        std::fs::rename(path("new"), path("lds.yaml")).unwrap();
    }

    fn bootstrap(&self) -> String {
        format!(
            r#"node: {{id: updates, cluster: updates}}
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
dynamic_resources: {{lds_config: {{path_config_source: {{path: {}/lds.yaml}}, resource_api_version: V3}}}}
static_resources: {{clusters: [{{name: nowhere, load_assignment: {{cluster_name: nowhere}}}}]}}
"#,
            self.directory.path().display()
        )
    }

    /// The counters after each version, a line each. Remora decides first and changes its listeners then: what they come to is waited for where it is
    /// `expected`, but not for ever.
    async fn tell(&self, admin: SocketAddr, expected: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        for (version, (name, resources)) in self.versions().iter().enumerate() {
            if version > 0 {
                self.put(version, resources);
            }
            // The first version is there before the first look.
            let told = until("a decision", async || {
                let told = counters(admin).await;
                let attempts = told.iter().find_map(|line| line.strip_prefix("lds.update_attempt: "))?;
                let decided: u64 = told.iter().filter_map(|line| decisions(line)).sum();
                (attempts == (version + 1).to_string() && decided == version as u64 + 1).then_some(told)
            })
            .await;
            let mut line = format!("{name}: {}", told.join(", "));
            for _ in 0..LOOKS {
                if expected.get(version).is_none_or(|expected| *expected == line) {
                    break;
                }
                clock::sleep(Duration::from_millis(10)).await;
                line = format!("{name}: {}", counters(admin).await.join(", "));
            }
            lines.push(line);
        }
        // One worker: each new listener and each changed one is taken over once.
        until("the worker", async || {
            let text = ask_admin(admin, "GET", "/stats?filter=^listener_manager").await.text();
            let value = |name: &str| {
                let name = format!("listener_manager.listener_{name}: ");
                text.lines()
                    .find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
            };
            (value("create_success")? == value("added")? + value("modified")?).then_some(())
        })
        .await;
        lines
    }
}

/// Of a counter of decisions, its value.
fn decisions(line: &str) -> Option<u64> {
    let kinds = ["success", "rejected", "failure"];
    let value = kinds
        .iter()
        .find_map(|kind| line.strip_prefix(&format!("lds.update_{kind}: ")))?;
    value.parse().ok()
}

async fn counters(admin: SocketAddr) -> Vec<String> {
    let text = ask_admin(admin, "GET", "/stats?filter=^listener_manager").await.text();
    let mut lines: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("listener_manager."))
        // The hash of a version is each proxy's own.
        .filter(|line| !line.starts_with("lds.version:") && !LEFT_OUT.iter().any(|part| line.contains(part)))
        .map(str::to_owned)
        .collect();
    lines.sort_unstable();
    lines
}
