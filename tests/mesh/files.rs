//! No control plane: resources come from files that are exchanged under traffic.

use std::path::{Path, PathBuf};

use control_plane_mock::pki::{Authority, Identity, Leaf};
use remora_tests::{Backend, Http1, Load, Sidecar, until};
use tempfile::TempDir;

use crate::connections::trusting;

/// A proxy whose listeners, clusters and endpoints are files of one directory.
struct Standalone {
    directory: TempDir,
    sidecar: Sidecar,
    manner: Manner,
}

/// How files get into the directory.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Each is renamed into place.
    Rename,
    /// As Kubernetes mounts a ConfigMap: files are links through `..data`, a link to a directory that is exchanged as a whole.
    ConfigMap,
}

impl Standalone {
    async fn start(manner: Manner, port: u16) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let first = [
            ("lds.yaml", lds("a")),
            ("cds.yaml", cds(&path, "a")),
            ("eds.yaml", eds(port)),
        ];
        put(manner, &path, 0, &first);
        if manner == Manner::ConfigMap {
            for (name, _) in &first {
                std::os::unix::fs::symlink(Path::new("..data").join(name), path.join(name)).unwrap();
            }
        }
        let source = |name: &str| {
            let path = path.display();
            match manner {
                Manner::Rename => format!("{{path_config_source: {{path: {path}/{name}}}}}"),
                Manner::ConfigMap => {
                    format!("{{path_config_source: {{path: {path}/{name}, watched_directory: {{path: {path}}}}}}}")
                }
            }
        };
        let bootstrap = format!(
            "node: {{id: files, cluster: files}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n\
             dynamic_resources: {{lds_config: {}, cds_config: {}}}\n",
            source("lds.yaml"),
            source("cds.yaml")
        );
        let sidecar = Sidecar::start(&bootstrap).await.unwrap();
        Self {
            directory,
            sidecar,
            manner,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Brings a cluster in, then a listener that sends everything to it.
    async fn switch_to(&self, cluster: &str, round: usize) {
        let path = self.path();
        put(self.manner, &path, round, &[("cds.yaml", cds(&path, cluster))]);
        until("the cluster", async || {
            let page = self.sidecar.admin("GET", "/clusters").await.text();
            page.contains(&format!("{cluster}::")).then_some(())
        })
        .await;
        put(self.manner, &path, round + 10, &[("lds.yaml", lds(cluster))]);
        until("traffic of the cluster", async || {
            let name = format!("cluster.{cluster}.upstream_rq_total");
            (self.stat(&name).await > 0).then_some(())
        })
        .await;
    }

    async fn stat(&self, name: &str) -> u64 {
        self.sidecar.stat(name).await
    }
}

/// Puts files into the directory, as `manner` does it.
fn put(manner: Manner, directory: &Path, round: usize, files: &[(&str, String)]) {
    match manner {
        Manner::Rename => {
            for (name, content) in files {
                let new = directory.join(format!(".{name}.new"));
                std::fs::write(&new, content).unwrap();
                std::fs::rename(&new, directory.join(name)).unwrap();
            }
        }
        Manner::ConfigMap => {
            let data = directory.join(format!("..{round}"));
            std::fs::create_dir(&data).unwrap();
            // All that was there and is not replaced comes along.
            for entry in std::fs::read_dir(directory.join("..data"))
                .into_iter()
                .flatten()
                .flatten()
            {
                std::fs::copy(entry.path(), data.join(entry.file_name())).unwrap();
            }
            for (name, content) in files {
                std::fs::write(data.join(name), content).unwrap();
            }
            let link = directory.join("..data_tmp");
            std::os::unix::fs::symlink(format!("..{round}"), &link).unwrap();
            std::fs::rename(&link, directory.join("..data")).unwrap();
        }
    }
}

fn eds(port: u16) -> String {
    format!(
        "resources:\n- '@type': type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment\n  cluster_name: web\n  endpoints:\n  \
         - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]\n"
    )
}

/// In the order in which they come. One that a listener may still route to is not taken away.
const CLUSTERS: [&str; 3] = ["a", "second", "third"];

/// The clusters up to `last`, whose endpoints are those of `web`, in a file of their own.
fn cds(directory: &Path, last: &str) -> String {
    let count = CLUSTERS.iter().position(|name| *name == last).unwrap() + 1;
    let names = &CLUSTERS[..count];
    let clusters = names.iter().map(|name| {
        format!(
            "- '@type': type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: EDS\n  connect_timeout: 1s\n  \
             eds_cluster_config: {{service_name: web, eds_config: {{path_config_source: {{path: {0}/eds.yaml, watched_directory: {{path: \
             {0}}}}}}}}}\n",
            directory.display()
        )
    });
    format!("version_info: '{last}'\nresources:\n{}", clusters.collect::<String>())
}

fn lds(cluster: &str) -> String {
    format!(
        r#"version_info: "{cluster}"
resources:
- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: http
  address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
  filter_chains:
  - filters:
    - name: envoy.filters.network.http_connection_manager
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: http
        http_filters:
        - name: envoy.filters.http.router
          typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
        route_config:
          name: inline
          virtual_hosts:
          - {{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}
"#
    )
}

async fn files_are_exchanged(manner: Manner) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let standalone = Standalone::start(manner, a.port()).await;
    let (path, address) = (standalone.path(), standalone.sidecar.listener("http").await);
    let load = Load::on(address, "file.test");
    load.more(10).await;

    // Endpoints alone.
    put(manner, &path, 1, &[("eds.yaml", eds(b.port()))]);
    until("the new endpoint", async || (b.requests() > 0).then_some(())).await;
    load.more(10).await;

    // A new cluster, and a listener that uses it. Files are independent of each other, so whoever writes them keeps the order.
    standalone.switch_to("second", 2).await;
    load.more(10).await;

    // What is not usable changes nothing, and is counted.
    put(manner, &path, 3, &[("cds.yaml", "resources: [{".to_owned())]);
    until("a failure to read", async || {
        (standalone.stat("cluster_manager.cds.update_failure").await > 0).then_some(())
    })
    .await;
    let bad = lds("second").replace("port_value: 0", "port_value: 77777");
    put(manner, &path, 4, &[("lds.yaml", bad)]);
    until("a refusal", async || {
        (standalone.stat("listener_manager.lds.update_rejected").await > 0).then_some(())
    })
    .await;
    load.more(10).await;

    // And what comes after it is taken again.
    standalone.switch_to("third", 5).await;
    load.more(10).await;
    load.none_failed().await;
    assert_eq!(standalone.sidecar.listener("http").await, address, "the socket stays");
}

#[tokio::test]
async fn files_renamed_into_place_are_taken_under_traffic() {
    files_are_exchanged(Manner::Rename).await;
}

#[tokio::test]
async fn a_config_map_is_followed_under_traffic() {
    files_are_exchanged(Manner::ConfigMap).await;
}

#[tokio::test]
async fn a_file_that_is_not_there_ends_the_start_with_its_name() {
    let bootstrap = "node: {id: files, cluster: files}\n\
                     dynamic_resources: {cds_config: {path_config_source: {path: /nowhere/cds.yaml}}}\n";
    let error = Sidecar::start(bootstrap).await.err().unwrap();
    assert!(error.contains("'/nowhere/cds.yaml' does not exist"), "{error}");
}

/// A listener, its routes, its cluster, its endpoints and its certificate; all but listener and cluster in files of their own, under names that every
/// such set has.
fn named_alike(directory: &Path, own: &str, port: u16, identity: &Identity) -> (String, String) {
    let indented = |pem: &str| pem.replace('\n', "\n        ");
    let files = [
        ("eds.yaml", eds(port)),
        (
            "rds.yaml",
            format!(
                "resources:\n- '@type': type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: local_route\n  \
                 virtual_hosts: [{{name: all, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: {own}}}}}]}}]\n"
            ),
        ),
        (
            "sds.yaml",
            format!(
                "resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  name: server_cert\n  \
                 tls_certificate:\n    certificate_chain:\n      inline_string: |\n        {}\n    private_key:\n      inline_string: |\n        {}\n",
                indented(&identity.chain_pem),
                indented(&identity.key_pem)
            ),
        ),
    ];
    let files = files.map(|(name, content)| (format!("{own}-{name}"), content));
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    put(Manner::Rename, directory, 0, &files);
    let source = |name: &str| format!("{{path_config_source: {{path: {}/{own}-{name}}}}}", directory.display());
    let cluster = format!(
        "  - {{name: {own}, type: EDS, eds_cluster_config: {{service_name: web, eds_config: {}}}}}\n",
        source("eds.yaml")
    );
    let listener = format!(
        r#"  - name: {own}
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {{tls_certificate_sds_secret_configs: [{{name: server_cert, sds_config: {sds}}}]}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {own}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          rds: {{route_config_name: local_route, config_source: {rds}}}
"#,
        sds = source("sds.yaml"),
        rds = source("rds.yaml"),
    );
    (listener, cluster)
}

#[tokio::test]
async fn what_two_files_call_by_one_name_are_two_resources() {
    let directory = tempfile::tempdir().unwrap();
    let (mut listeners, mut clusters, mut backends) = (String::new(), String::new(), Vec::new());
    for own in ["one", "two"] {
        let (backend, authority) = (Backend::start(own).await, Authority::new(own).unwrap());
        let identity = authority.issue(&Leaf::new().dns("a.test")).unwrap();
        let (listener, cluster) = named_alike(directory.path(), own, backend.port(), &identity);
        listeners += &listener;
        clusters += &cluster;
        backends.push((own, backend, authority));
    }
    let bootstrap = format!(
        "node: {{id: files, cluster: files}}\nadmin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}\n\
         static_resources:\n  listeners:\n{listeners}  clusters:\n{clusters}"
    );
    let sidecar = Sidecar::start(&bootstrap).await.unwrap();
    for (own, backend, authority) in &backends {
        // A certificate of the other authority would end the handshake.
        let stream = trusting(authority.certificate_der(), sidecar.listener(own).await).await;
        let answer = Http1::over(Box::new(stream.unwrap())).get("a.test", "/", "").await;
        assert_eq!((answer.status, backend.requests()), (200, 1), "{own}");
    }
}
