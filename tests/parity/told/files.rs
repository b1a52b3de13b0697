//! Of files: what their subscribers count, secrets whose own files change, and listeners that drain.

use std::path::{Path, PathBuf};

use control_plane_mock::pki::{Authority, Identity, Leaf};
use remora_tests::{Backend, until};
use tempfile::TempDir;

use super::{Subject, agree};
use crate::harness::envoy_or_skip;

/// A directory of configuration, and a static cluster and listener that take theirs from it.
struct Place {
    directory: TempDir,
    identities: [Identity; 2],
    port: u16,
}

impl Place {
    fn new(port: u16) -> Self {
        let authority = Authority::new("root").unwrap();
        let identity = |_| authority.issue(&Leaf::new().dns("told.test")).unwrap();
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
            identities: std::array::from_fn(identity),
            port,
        };
        place.put("cert", &place.identities[0].chain_pem);
        place.put("key", &place.identities[0].key_pem);
        place.put("eds.yaml", &place.assignments("e1", &["a"]));
        place.put("rds.yaml", &routes("r1", "routes"));
        place.put("sds.yaml", &place.secret("s1", "cert"));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        std::fs::write(self.path(".new"), content).unwrap();
        std::fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    fn assignments(&self, version: &str, names: &[&str]) -> String {
        let port = self.port;
        list(version, names.iter().map(|name| {
            format!(
                "{{'@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: {name}, endpoints: [{{lb_endpoints: \
                 [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}"
            )
        }))
    }

    fn secret(&self, version: &str, name: &str) -> String {
        let at = self.directory.path().display();
        let secret = format!(
            "{{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret, name: {name}, tls_certificate: \
             {{certificate_chain: {{filename: {at}/cert}}, private_key: {{filename: {at}/key}}}}}}"
        );
        list(version, [secret])
    }

    fn bootstrap(&self) -> String {
        let source = |name: &str| {
            format!(
                "{{path_config_source: {{path: {}}}, resource_api_version: V3}}",
                self.path(name).display()
            )
        };
        let manager = format!(
            "{{name: hcm, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: http, \
             http_filters: [{{name: router, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], rds: \
             {{route_config_name: routes, config_source: {}}}}}}}",
            source("rds.yaml")
        );
        let tls = format!(
            "{{name: tls, typed_config: {{'@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, \
             common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: cert, sds_config: {}}}]}}}}}}",
            source("sds.yaml")
        );
        let address = "{socket_address: {address: 127.0.0.1, port_value: 0}}";
        format!(
            "node: {{id: told, cluster: told}}\nadmin: {{address: {address}}}\nstatic_resources:\n  clusters:\n  - {{name: a, type: EDS, \
             connect_timeout: 1s, eds_cluster_config: {{eds_config: {}}}}}\n  listeners:\n  - {{name: http, address: {address}, filter_chains: \
             [{{filters: [{manager}]}}]}}\n  - {{name: tls, address: {address}, filter_chains: [{{transport_socket: {tls}, filters: [{manager}]}}]}}\n",
            source("eds.yaml")
        )
    }
}

fn list(version: &str, resources: impl IntoIterator<Item = String>) -> String {
    let resources: Vec<String> = resources.into_iter().collect();
    format!("version_info: '{version}'\nresources: [{}]\n", resources.join(", "))
}

fn routes(version: &str, name: &str) -> String {
    let table = format!(
        "{{'@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: {name}, virtual_hosts: [{{name: all, domains: ['*'], \
         routes: [{{match: {{prefix: /}}, route: {{cluster: a}}}}]}}]}}"
    );
    list(version, [table])
}

/// Something that happens to the files, how many attempts Envoy counts for it, and how many failed rotations.
struct Step {
    name: &'static str,
    attempts: u64,
    rotations: u64,
    act: fn(&Place),
}

fn step(name: &'static str, act: fn(&Place)) -> Step {
    Step {
        name,
        attempts: 1,
        rotations: 0,
        act,
    }
}

/// A certificate or key is exchanged; whether that fits, its two files each tell of it.
fn rotation(name: &'static str, fits: bool, act: fn(&Place)) -> Step {
    Step {
        name,
        attempts: 0,
        rotations: if fits { 0 } else { 2 },
        act,
    }
}

/// Told by Envoy when a certificate is taken into use.
const UPDATES: &str = "ssl_context_update_by_sds";

fn shown(name: &str) -> bool {
    let names = [
        "update_attempt",
        "update_success",
        "update_failure",
        "update_rejected",
        "update_empty",
        "update_no_rebuild",
        "update_time",
        "version",
        "version_text",
        "key_rotation_failed",
    ];
    let own = ["cluster.a.", "http.http.rds.routes.", "sds.cert."];
    let own = own.iter().filter_map(|prefix| name.strip_prefix(prefix));
    own.into_iter().any(|name| names.contains(&name))
}

fn steps() -> Vec<Step> {
    vec![
        step("something is moved beside them, then the same again", |place| {
            place.put("other", "");
            place.put("eds.yaml", &place.assignments("e1", &["a"]));
        }),
        step("endpoints of another cluster", |place| {
            place.put("eds.yaml", &place.assignments("e2", &["z"]));
        }),
        step("no endpoints", |place| {
            place.put("eds.yaml", &place.assignments("e3", &[]))
        }),
        step("those of another cluster beside", |place| {
            place.put("eds.yaml", &place.assignments("e4", &["z", "a"]));
        }),
        step("twice the same", |place| {
            place.put("eds.yaml", &place.assignments("e5", &["a", "a"]));
        }),
        step("good ones", |place| {
            place.put("eds.yaml", &place.assignments("e6", &["a"]))
        }),
        step("nothing that can be read", |place| {
            place.put("eds.yaml", "resources: [{")
        }),
        step("another secret", |place| {
            place.put("sds.yaml", &place.secret("s2", "other"))
        }),
        step("no secret", |place| place.put("sds.yaml", &list("s3", []))),
        step("the secret", |place| place.put("sds.yaml", &place.secret("s4", "cert"))),
        step("other routes", |place| place.put("rds.yaml", &routes("r2", "others"))),
        step("no routes", |place| place.put("rds.yaml", &list("r3", []))),
        step("the routes", |place| place.put("rds.yaml", &routes("r4", "routes"))),
        rotation("a key that is none", false, |place| place.put("key", "no key")),
        rotation("a certificate beside it", false, |place| {
            place.put("cert", &place.identities[1].chain_pem);
        }),
        rotation("its key", true, |place| place.put("key", &place.identities[1].key_pem)),
        rotation("a certificate of another key", false, |place| {
            place.put("cert", &place.identities[0].chain_pem);
        }),
    ]
}

#[tokio::test]
async fn subscriptions_to_files() {
    let Some(envoy) = envoy_or_skip("told-files") else {
        return;
    };
    let backend = Backend::start("a").await;
    let places = [Place::new(backend.port()), Place::new(backend.port())];
    let theirs = Subject::start(Some(Path::new(&envoy)), &places[0].bootstrap()).await;
    let ours = Subject::start(None, &places[1].bootstrap()).await;
    for subject in [&theirs, &ours] {
        assert_eq!(subject.ask("http", "/").await, 200);
    }
    for step in steps() {
        let count = async |ending: &str| -> u64 {
            let stats = theirs.stats(&|name| shown(name) || name.ends_with(UPDATES)).await;
            let counted = stats.iter().filter(|(name, _)| name.ends_with(ending));
            counted.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
        };
        let before = (
            count("update_attempt").await,
            count("rotation_failed").await,
            count(UPDATES).await,
        );
        (step.act)(&places[0]);
        (step.act)(&places[1]);
        until(step.name, async || {
            let attempted = count("update_attempt").await >= before.0 + step.attempts;
            let failed = count("rotation_failed").await >= before.1 + step.rotations;
            let is_rotation = step.attempts == 0 && step.rotations == 0;
            let rotated = !is_rotation || count(UPDATES).await > before.2;
            (attempted && failed && rotated).then_some(())
        })
        .await;
        agree(step.name, &theirs.stats(&shown).await, &ours, &shown, async |_| {}).await;
    }
}

/// Files of listeners, each version with the port that it listens on; 0: there is none.
const LISTENERS: [(&str, usize); 4] = [("1", 1), ("2", 2), ("3", 1), ("4", 0)];

#[tokio::test]
async fn listeners_that_drain_are_dumped() {
    let Some(envoy) = envoy_or_skip("told-draining") else {
        return;
    };
    let mut told = Vec::new();
    for envoy in [Some(Path::new(&envoy)), None] {
        let directory = tempfile::tempdir().unwrap();
        let ports: Vec<std::net::TcpListener> = (0..2)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let numbers: Vec<u16> = ports.iter().map(|held| held.local_addr().unwrap().port()).collect();
        drop(ports);
        let put = |(version, port): (&str, usize)| {
            let listener = |port: &u16| {
                format!(
                    "{{'@type': type.googleapis.com/envoy.config.listener.v3.Listener, name: l, address: {{socket_address: {{address: 127.0.0.1, \
                     port_value: {port}}}}}, filter_chains: [{{filters: [{{name: tcp, typed_config: {{'@type': \
                     type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: l, cluster: none}}}}]}}]}}"
                )
            };
            let text = list(
                version,
                port.checked_sub(1).and_then(|at| numbers.get(at)).map(listener),
            );
            std::fs::write(directory.path().join(".new"), text).unwrap();
            std::fs::rename(directory.path().join(".new"), directory.path().join("lds.yaml")).unwrap();
        };
        put(LISTENERS[0]);
        let bootstrap = format!(
            "node: {{id: told, cluster: told}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n\
             dynamic_resources: {{lds_config: {{path_config_source: {{path: {}/lds.yaml}}, resource_api_version: V3}}}}\n",
            directory.path().display()
        );
        let subject = Subject::start(envoy, &bootstrap).await;
        let mut seen = vec![subject.listeners().await];
        for version in &LISTENERS[1..] {
            put(*version);
            let drains = until("the version", async || {
                let stats = subject.stats(&|name| name == "listener_manager.lds.version_text").await;
                let listeners = subject.listeners().await;
                let is_new = stats.values().all(|text| text == version.0);
                let drains = listeners
                    .iter()
                    .any(|(_, active, draining)| active != version.0 || !draining.is_empty());
                let is_there = listeners
                    .iter()
                    .all(|(_, active, _)| version.1 == 0 || active == version.0);
                (is_new && drains && is_there).then_some(listeners)
            })
            .await;
            seen.push(drains);
        }
        until("the end of all", async || {
            subject.listeners().await.is_empty().then_some(())
        })
        .await;
        told.push(seen);
    }
    let state = |active: &str, draining: &str| vec![("l".to_owned(), active.to_owned(), draining.to_owned())];
    let expected = vec![state("1", ""), state("2", "1"), state("3", "1"), state("", "1")];
    assert_eq!(told, [expected.clone(), expected]);
}
