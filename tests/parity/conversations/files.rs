//! Configuration from files: what is noticed, what is counted, what stays in use.

use std::path::{Path, PathBuf};

use remora_tests::{External, Sidecar, until};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::envoy_or_skip;

/// How files come into the directory.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Each is renamed into place.
    Rename,
    /// As Kubernetes mounts a ConfigMap: links through `..data`, a link to a directory that is exchanged as a whole.
    ConfigMap,
    /// Each is renamed into place; for clusters another directory is watched.
    Elsewhere,
}

/// One thing that happens to the files, and the versions of CDS and LDS that are to be in use before the next; `failed`: something must have
/// been counted as wrong.
struct Step {
    name: &'static str,
    act: fn(&Files),
    cds: &'static str,
    lds: &'static str,
    failed: bool,
}

fn step(name: &'static str, cds: &'static str, lds: &'static str, act: fn(&Files)) -> Step {
    Step {
        name,
        act,
        cds,
        lds,
        failed: false,
    }
}

fn failing(name: &'static str, cds: &'static str, lds: &'static str, act: fn(&Files)) -> Step {
    Step {
        failed: true,
        ..step(name, cds, lds, act)
    }
}

struct Files {
    manner: Manner,
    directory: TempDir,
    /// How often a file was to be read again so far.
    readings: std::cell::Cell<u64>,
}

impl Files {
    fn new(manner: Manner) -> Self {
        let files = Self {
            manner,
            directory: tempfile::tempdir().unwrap(),
            readings: std::cell::Cell::new(0),
        };
        files.put(&[("cds.yaml", cds("1", &["a"])), ("lds.yaml", lds("1"))]);
        std::fs::create_dir(files.path("watched")).unwrap();
        if manner == Manner::ConfigMap {
            for name in ["cds.yaml", "lds.yaml"] {
                std::os::unix::fs::symlink(Path::new("..data").join(name), files.path(name)).unwrap();
            }
        }
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts files there in the manner of the house.
    fn put(&self, files: &[(&str, String)]) {
        let readings = match self.manner {
            Manner::Rename | Manner::Elsewhere => files.len() as u64,
            Manner::ConfigMap => 2,
        };
        self.readings.set(self.readings.get() + readings);
        if self.manner != Manner::ConfigMap {
            for (name, content) in files {
                std::fs::write(self.path("new"), content).unwrap();
                std::fs::rename(self.path("new"), self.path(name)).unwrap();
            }
            return;
        }
        let count = std::fs::read_dir(self.directory.path()).unwrap().count();
        let data = format!("..{count}");
        std::fs::create_dir(self.path(&data)).unwrap();
        for entry in std::fs::read_dir(self.path("..data")).into_iter().flatten().flatten() {
            std::fs::copy(entry.path(), self.path(&data).join(entry.file_name())).unwrap();
        }
        for (name, content) in files {
            std::fs::write(self.path(&data).join(name), content).unwrap();
        }
        std::os::unix::fs::symlink(&data, self.path("..data_tmp")).unwrap();
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
    }

    fn bootstrap(&self) -> String {
        let directory = self.directory.path().display();
        let source = |name: &str| match self.manner {
            Manner::Elsewhere if name == "cds.yaml" => format!(
                "{{path_config_source: {{path: {directory}/{name}, watched_directory: {{path: {directory}/watched}}}}, resource_api_version: V3}}"
            ),
            Manner::Rename | Manner::Elsewhere => {
                format!("{{path_config_source: {{path: {directory}/{name}}}, resource_api_version: V3}}")
            }
            Manner::ConfigMap => format!(
                "{{path_config_source: {{path: {directory}/{name}, watched_directory: {{path: {directory}}}}}, resource_api_version: V3}}"
            ),
        };
        format!(
            "node: {{id: files, cluster: files}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n\
             dynamic_resources: {{lds_config: {}, cds_config: {}}}\n",
            source("lds.yaml"),
            source("cds.yaml")
        )
    }
}

fn cds(version: &str, names: &[&str]) -> String {
    let clusters = names.iter().map(|name| {
        let kind = if *name == "bad" { "EDS" } else { "STATIC" };
        format!("- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: {kind}\n  connect_timeout: 1s\n")
    });
    format!(
        "version_info: '{version}'\nresources:\n{}",
        clusters.collect::<String>()
    )
}

fn lds(version: &str) -> String {
    format!("version_info: '{version}'\nresources: []\n")
}

enum Subject {
    External(External),
    Sidecar(Sidecar),
}

impl Subject {
    async fn get(&self, path: &str) -> String {
        match self {
            Self::External(envoy) => envoy.admin("GET", path).await.text(),
            Self::Sidecar(sidecar) => sidecar.admin("GET", path).await.text(),
        }
    }

    /// The counters of both subscriptions, and the versions that they are at.
    async fn stats(&self) -> Vec<(String, String)> {
        let text = self.get("/stats").await;
        let known = [
            "update_attempt",
            "update_failure",
            "update_rejected",
            "update_success",
            "version_text",
        ];
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let ours = lines.filter(|(name, _)| {
            let name = name
                .strip_prefix("cluster_manager.cds.")
                .or(name.strip_prefix("listener_manager.lds."));
            name.is_some_and(|name| known.contains(&name))
        });
        let mut stats: Vec<_> = ours
            .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
            .collect();
        stats.sort();
        stats
    }

    async fn clusters(&self) -> Vec<String> {
        let dump: Value =
            serde_json::from_str(&self.get("/config_dump?resource=dynamic_active_clusters").await).unwrap();
        let configs = dump["configs"].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = configs
            .iter()
            .map(|config| config["cluster"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        names.sort();
        names
    }
}

fn value(stats: &[(String, String)], name: &str) -> String {
    let found = stats.iter().find(|(other, _)| other == name);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

fn failures(stats: &[(String, String)]) -> u64 {
    let wrong = stats
        .iter()
        .filter(|(name, _)| name.ends_with("update_failure") || name.ends_with("update_rejected"));
    wrong.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

fn attempts(stats: &[(String, String)]) -> u64 {
    let attempts = stats.iter().filter(|(name, _)| name.ends_with("update_attempt"));
    attempts.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

async fn live(envoy: Option<&Path>, manner: Manner, steps: &[Step]) -> Vec<String> {
    let files = Files::new(manner);
    let subject = match envoy {
        Some(program) => Subject::External(External::start(program, &files.bootstrap()).await),
        None => Subject::Sidecar(Sidecar::start(&files.bootstrap()).await.unwrap()),
    };
    let mut seen = Vec::new();
    for step in steps {
        let before = subject.stats().await;
        let (failures_before, attempts_before) = (failures(&before), attempts(&before));
        files.readings.set(0);
        (step.act)(&files);
        let attempts_then = attempts_before + files.readings.get();
        until(step.name, async || {
            let stats = subject.stats().await;
            let versions = value(&stats, "cluster_manager.cds.version_text") == step.cds
                && value(&stats, "listener_manager.lds.version_text") == step.lds;
            let failed = failures(&stats) > failures_before;
            (versions && attempts(&stats) >= attempts_then && (failed || !step.failed)).then_some(())
        })
        .await;
        let stats = subject.stats().await;
        let lines = stats.iter().map(|(name, value)| format!("{name}: {value}\n"));
        seen.push(format!(
            "{}clusters: {:?}",
            lines.collect::<String>(),
            subject.clusters().await
        ));
    }
    seen
}

async fn compare(world: &str, manner: Manner, steps: Vec<Step>) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let theirs = live(Some(Path::new(&envoy)), manner, &steps).await;
    let ours = live(None, manner, &steps).await;
    let mut wrong = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        if theirs[index] != ours[index] {
            wrong.push(format!(
                "{}:\n  Envoy:\n{}\n  Remora:\n{}\n",
                step.name, theirs[index], ours[index]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} steps differ:\n\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn files_renamed_into_place() {
    let steps = vec![
        step("start", "1", "1", |_| {}),
        step("a cluster comes", "2", "1", |files| {
            files.put(&[("cds.yaml", cds("2", &["a", "b"]))])
        }),
        step("the same again", "2", "2", |files| {
            files.put(&[("cds.yaml", cds("2", &["a", "b"]))]);
            files.put(&[("lds.yaml", lds("2"))]);
        }),
        failing("no YAML", "2", "2", |files| {
            files.put(&[("cds.yaml", "resources: [{".to_owned())])
        }),
        failing("a cluster that is refused", "2", "2", |files| {
            files.put(&[("cds.yaml", cds("3", &["a", "bad"]))])
        }),
        step("a good one again", "4", "2", |files| {
            files.put(&[("cds.yaml", cds("4", &["a", "c"]))])
        }),
        step("the file is removed", "4", "3", |files| {
            std::fs::remove_file(files.path("cds.yaml")).unwrap();
            files.put(&[("lds.yaml", lds("3"))]);
        }),
        step("and comes back", "5", "3", |files| {
            files.put(&[("cds.yaml", cds("5", &["d"]))])
        }),
        step("it is written in place", "5", "4", |files| {
            std::fs::write(files.path("cds.yaml"), cds("6", &["e"])).unwrap();
            files.put(&[("lds.yaml", lds("4"))]);
        }),
    ];
    compare("files", Manner::Rename, steps).await;
}

#[tokio::test]
async fn files_whose_changes_are_told_of_elsewhere() {
    let steps = vec![
        step("start", "1", "1", |_| {}),
        step("moves onto the file itself", "1", "2", |files| {
            files.put(&[("cds.yaml", cds("2", &["a", "b"])), ("lds.yaml", lds("2"))]);
            files.readings.set(1);
        }),
        step("something is written where it is looked", "1", "3", |files| {
            std::fs::write(files.path("watched/one"), "").unwrap();
            files.put(&[("lds.yaml", lds("3"))]);
        }),
        step("something moves in there", "2", "3", |files| {
            std::fs::rename(files.path("watched/one"), files.path("watched/other")).unwrap();
            files.readings.set(1);
        }),
    ];
    compare("files-elsewhere", Manner::Elsewhere, steps).await;
}

#[tokio::test]
async fn files_of_a_config_map() {
    let steps = vec![
        step("start", "1", "1", |_| {}),
        step("both are exchanged", "2", "2", |files| {
            files.put(&[("cds.yaml", cds("2", &["a", "b"])), ("lds.yaml", lds("2"))]);
        }),
        step("one is", "3", "2", |files| files.put(&[("cds.yaml", cds("3", &["b"]))])),
        failing("one that is refused", "3", "3", |files| {
            files.put(&[("cds.yaml", cds("4", &["b", "bad"])), ("lds.yaml", lds("3"))]);
        }),
        step("a good one again", "5", "4", |files| {
            files.put(&[("cds.yaml", cds("5", &["c"])), ("lds.yaml", lds("4"))]);
        }),
    ];
    compare("config-map", Manner::ConfigMap, steps).await;
}
