//! What is told of a control plane and of what comes from it: the same happens to Envoy and to Remora, and their stats and dumps are compared.

mod files;
mod hosts;
mod refusals;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use remora_tests::{External, Http1, Sidecar, until};
use serde_json::Value;

use crate::harness::only_in;

/// One of the two proxies.
enum Subject {
    Envoy(External),
    Remora(Sidecar),
}

impl Subject {
    async fn start(envoy: Option<&Path>, bootstrap: &str) -> Self {
        match envoy {
            Some(program) => Self::Envoy(External::start(program, bootstrap).await),
            None => Self::Remora(Sidecar::start(bootstrap).await.unwrap()),
        }
    }

    async fn get(&self, path: &str) -> String {
        match self {
            Self::Envoy(envoy) => envoy.admin("GET", path).await.text(),
            Self::Remora(sidecar) => sidecar.admin("GET", path).await.text(),
        }
    }

    /// Every stat whose name `shown` takes. Of times and durations only whether there is one: the rest is each proxy's own.
    async fn stats(&self, shown: &(dyn Fn(&str) -> bool + Sync)) -> BTreeMap<String, String> {
        let text = self.get("/stats").await;
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let lines = lines.filter(|(name, _)| shown(name));
        let value = |name: &str, value: &str| match name.rsplit('.').next() {
            Some("update_time" | "config_reload_time_ms") => (value != "0").to_string(),
            Some(last) if last.ends_with("_bytes_total") => (value != "0").to_string(),
            Some("update_duration" | "upstream_cx_connect_ms") => "there".to_owned(),
            _ => value.trim_matches('"').to_owned(),
        };
        lines
            .map(|(name, found)| (name.to_owned(), value(name, found)))
            .collect()
    }

    /// Where the listener `name` listens.
    async fn listener(&self, name: &str) -> SocketAddr {
        until("the listener", async || {
            let page = self.get("/listeners").await;
            page.lines()
                .find_map(|line| line.strip_prefix(&format!("{name}::"))?.parse().ok())
        })
        .await
    }

    /// Status of a request on a connection of its own.
    async fn ask(&self, listener: &str, path: &str) -> u16 {
        let address = self.listener(listener).await;
        let mut client = Http1::connect(address).await.unwrap();
        client.get("told.test", path, "").await.status
    }

    /// The control plane's listeners: name, and the versions that are in use and that drain.
    async fn listeners(&self) -> Vec<(String, String, String)> {
        let page = self.get("/config_dump?resource=dynamic_listeners").await;
        let dump: Value = serde_json::from_str(&page).unwrap();
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = |config: &Value, state: &str| match config[state]["listener"].is_object() {
            true => text(&config[state]["version_info"]),
            false => String::new(),
        };
        let states = configs.iter().map(|config| {
            (
                text(&config["name"]),
                version(config, "active_state"),
                version(config, "draining_state"),
            )
        });
        states.collect()
    }
}

/// Waits until `subject` tells what Envoy has told, and panics with what differs if it never does.
async fn agree(
    step: &str,
    theirs: &BTreeMap<String, String>,
    subject: &Subject,
    shown: &(dyn Fn(&str) -> bool + Sync),
    poke: impl AsyncFn(&Subject),
) {
    let text = |stats: &BTreeMap<String, String>| {
        let lines = stats.iter().map(|(name, value)| format!("{name}: {value}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let mut ours = BTreeMap::new();
    for _ in 0..LOOKS {
        poke(subject).await;
        ours = subject.stats(shown).await;
        if ours == *theirs {
            return;
        }
        remora::runtime::clock::sleep(PAUSE).await;
    }
    let (theirs, ours) = (text(theirs), text(&ours));
    let (missing, extra) = (only_in(&theirs, &ours), only_in(&ours, &theirs));
    panic!(
        "{step}:\nEnvoy:\n{}\nRemora:\n{}\n",
        missing.join("\n"),
        extra.join("\n")
    );
}

/// How often a proxy is asked again that tells something else, and how long is waited before.
const LOOKS: usize = 250;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
