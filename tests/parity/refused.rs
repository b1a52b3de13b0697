//! Configuration that is refused when it is read, by both for the same reason: bootstraps, and what they name.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use remora_tests::{External, Sidecar, until};
use tempfile::TempDir;

use crate::harness::envoy_or_skip;

const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}\n";
const NODE: &str = "node: {id: refused, cluster: refused}\n";

/// A bootstrap, words of Envoy's that say what is wrong with it, and the field that ours names; nothing is wrong where those are empty.
struct Case {
    name: &'static str,
    bootstrap: String,
    reason: &'static str,
    field: &'static str,
}

fn case(name: &'static str, bootstrap: String, field: &'static str, reason: &'static str) -> Case {
    Case {
        name,
        bootstrap,
        reason,
        field,
    }
}

/// What Envoy says as it ends; `None`: it runs.
async fn complaint(program: &OsStr, bootstrap: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let [config, log] = ["envoy.yaml", "log"].map(|name| directory.path().join(name));
    std::fs::write(&config, bootstrap).unwrap();
    let mut process = Command::new(program)
        .arg("-c")
        .arg(&config)
        .args(["--concurrency", "1", "-l", "info", "--disable-hot-restart"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let ended = until("a start or an end", async || {
        let ended = process.try_wait().unwrap().is_some();
        let runs = std::fs::read_to_string(&log).is_ok_and(|text| text.contains("starting main dispatch loop"));
        (ended || runs).then_some(ended)
    })
    .await;
    let _ = process.kill();
    let _ = process.wait();
    ended.then(|| String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned())
}

async fn compare(world: &str, cases: &[Case]) {
    let Some(envoy) = envoy_or_skip(world) else { return };
    let mut wrong = Vec::new();
    for case in cases {
        let theirs = complaint(&envoy, &case.bootstrap).await;
        let ours = Sidecar::start(&case.bootstrap).await.err();
        let is_right = |said: &Option<String>, fields: &[&str]| match said {
            Some(said) => !case.reason.is_empty() && fields.iter().all(|field| said.contains(field)),
            None => case.reason.is_empty(),
        };
        if !is_right(&theirs, &[case.reason]) || !is_right(&ours, &[case.field, case.reason]) {
            wrong.push(format!("{}:\n  Envoy: {theirs:?}\n  Remora: {ours:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An empty set of resources, and secrets that are to be watched where there is nothing.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.put("none.yaml", "resources: []\n");
        place
    }

    fn put(&self, name: &str, content: &str) {
        std::fs::write(self.0.path().join(name), content).unwrap();
    }

    fn path(&self) -> std::path::Display<'_> {
        self.0.path().display()
    }

    /// A source; `watched` is a name in this place.
    fn source(&self, file: &str, watched: &str) -> String {
        let at = self.path();
        match watched {
            "" => format!("{{resource_api_version: V3, path_config_source: {{path: {at}/{file}}}}}"),
            name => format!(
                "{{resource_api_version: V3, path_config_source: {{path: {at}/{file}, watched_directory: {{path: {at}/{name}}}}}}}"
            ),
        }
    }
}

fn endpoints_from(source: &str) -> String {
    format!(
        "static_resources: {{clusters: [{{name: a, type: EDS, connect_timeout: 1s, eds_cluster_config: {{eds_config: {source}}}}}]}}\n"
    )
}

fn secrets(of_tls: &str, more: &str) -> String {
    format!(
        "static_resources:\n  clusters:\n  - {{name: t, type: STATIC, connect_timeout: 1s, transport_socket: {{name: tls, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, common_tls_context: {{{of_tls}}}}}}}}}\n{more}"
    )
}

#[tokio::test]
async fn files_that_cannot_be_watched() {
    let place = Place::new();
    let authority = control_plane_mock::pki::Authority::new("root").unwrap();
    place.put("ca", authority.root_pem());
    let context = format!(
        "{{trusted_ca: {{filename: {at}/ca}}, watched_directory: {{path: {at}/missing}}}}",
        at = place.path()
    );
    let root = |source: String| format!("{NODE}{ADMIN}dynamic_resources: {{cds_config: {source}}}\n");
    let dynamic = "path_config_source.watched_directory.path";
    let reason = "unable to add filesystem watch for file";
    let sds = |source: &str| {
        let named = format!("validation_context_sds_secret_config: {{name: s, sds_config: {source}}}");
        format!("{NODE}{ADMIN}{}", secrets(&named, ""))
    };
    let cases = [
        case(
            "a directory that is there",
            root(place.source("none.yaml", ".")),
            "",
            "",
        ),
        case("what is none", root(place.source("none.yaml", "none.yaml")), "", ""),
        case("none", root(place.source("none.yaml", "missing")), dynamic, reason),
        case(
            "no file either",
            root(place.source("missing.yaml", "missing")),
            "path_config_source.path",
            "paths must refer to an existing path in the system",
        ),
        case(
            "endpoints",
            format!("{NODE}{ADMIN}{}", endpoints_from(&place.source("none.yaml", "missing"))),
            dynamic,
            reason,
        ),
        case("secrets", sds(&place.source("none.yaml", "missing")), dynamic, reason),
        // Nobody watches what the bootstrap itself says.
        case(
            "a static secret",
            format!(
                "{ADMIN}{}",
                secrets(
                    "",
                    &format!("  secrets:\n  - {{name: s, validation_context: {context}}}\n")
                )
            ),
            "",
            "",
        ),
        case(
            "a context in place",
            format!("{ADMIN}{}", secrets(&format!("validation_context: {context}"), "")),
            "",
            "",
        ),
    ];
    compare("refused-watches", &cases).await;
}

/// Clusters and secrets out of files: what they name cannot be watched, and they are refused.
#[tokio::test]
async fn what_is_delivered_and_names_a_directory_that_is_not_there() {
    let Some(envoy) = envoy_or_skip("refused-deliveries") else {
        return;
    };
    let place = Place::new();
    let authority = control_plane_mock::pki::Authority::new("root").unwrap();
    place.put("ca", authority.root_pem());
    let type_url = "type.googleapis.com/envoy";
    place.put(
        "cds.yaml",
        &format!(
            "version_info: '1'\nresources:\n- {{'@type': {type_url}.config.cluster.v3.Cluster, name: b, type: EDS, connect_timeout: 1s, \
             eds_cluster_config: {{eds_config: {}}}}}\n- {{'@type': {type_url}.config.cluster.v3.Cluster, name: c, type: STATIC, connect_timeout: 1s}}\n",
            place.source("none.yaml", "missing")
        ),
    );
    place.put(
        "sds.yaml",
        &format!(
            "version_info: '1'\nresources:\n- {{'@type': {type_url}.extensions.transport_sockets.tls.v3.Secret, name: s, validation_context: \
             {{trusted_ca: {{filename: {at}/ca}}, watched_directory: {{path: {at}/missing}}}}}}\n",
            at = place.path()
        ),
    );
    let named = format!(
        "validation_context_sds_secret_config: {{name: s, sds_config: {}}}",
        place.source("sds.yaml", "")
    );
    let bootstrap = format!(
        "{NODE}{ADMIN}{}dynamic_resources: {{cds_config: {}}}\n",
        secrets(&named, ""),
        place.source("cds.yaml", "")
    );
    let wanted = ["cluster_manager.cds.update_rejected: 1", "sds.s.update_rejected: 1"];
    let told = |stats: String| {
        wanted
            .iter()
            .all(|line| stats.lines().any(|told| told == *line))
            .then_some(())
    };
    let theirs = External::start(Path::new(&envoy), &bootstrap).await;
    until("Envoy's refusals", async || {
        told(theirs.admin("GET", "/stats").await.text())
    })
    .await;
    let ours = Sidecar::start(&bootstrap).await.unwrap();
    until("our refusals", async || told(ours.admin("GET", "/stats").await.text())).await;
    let page = ours.admin("GET", "/xds").await.text();
    let reason = format!(
        "unable to add filesystem watch for file {}/missing/: No such file",
        place.path()
    );
    for field in [
        "eds_cluster_config.eds_config.path_config_source.watched_directory.path",
        "validation_context.watched_directory.path",
    ] {
        assert!(page.contains(&format!("{field}: {reason}")), "{field}: {page}");
    }
}

fn control_plane(source: &str) -> String {
    format!(
        "static_resources: {{clusters: [{{name: xds, type: STATIC, connect_timeout: 1s, typed_extension_protocol_options: \
         {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {{http2_protocol_options: {{}}}}}}}}}}]}}\n\
         dynamic_resources: {{{source}}}\n"
    )
}

fn routes_from(source: &str) -> String {
    let hcm = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    format!(
        "static_resources: {{listeners: [{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: \
         [{{name: hcm, typed_config: {{'@type': type.googleapis.com/{hcm}, stat_prefix: h, rds: {{route_config_name: r, config_source: {source}}}, \
         http_filters: [{{name: r, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]}}]}}\n"
    )
}

const NAMELESS: &str = "node 'id' and 'cluster' are required";

/// Whoever has a source needs a name, though it be a file.
#[tokio::test]
async fn nodes_without_a_name() {
    let place = Place::new();
    let file = place.source("none.yaml", "");
    let roots = |node: &str, field: &str| format!("{node}{ADMIN}dynamic_resources: {{{field}: {file}}}\n");
    let sds = secrets(
        &format!("validation_context_sds_secret_config: {{name: s, sds_config: {file}}}"),
        "",
    );
    let ads =
        "ads_config: {api_type: GRPC, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}";
    let cases = [
        case("clusters", roots("", "cds_config"), "node: ", NAMELESS),
        case("listeners", roots("", "lds_config"), "node: ", NAMELESS),
        case("no cluster", roots("node: {id: a}\n", "cds_config"), "node: ", NAMELESS),
        case("no id", roots("node: {cluster: a}\n", "lds_config"), "node: ", NAMELESS),
        case("a stream", format!("{ADMIN}{}", control_plane(ads)), "node: ", NAMELESS),
        case(
            "endpoints",
            format!("{ADMIN}{}", endpoints_from(&file)),
            "clusters[0].eds_cluster_config.eds_config: ",
            NAMELESS,
        ),
        case(
            "routes",
            format!("{ADMIN}{}", routes_from(&file)),
            "rds.config_source: ",
            NAMELESS,
        ),
        case("secrets", format!("{ADMIN}{sds}"), "sds_config: ", NAMELESS),
        case("none of these", ADMIN.to_owned(), "", ""),
    ];
    compare("refused-nameless", &cases).await;
}

#[tokio::test]
async fn control_planes_that_cannot_be_spoken_to_as_is_said() {
    let service = "{envoy_grpc: {cluster_name: xds}}";
    let ads = |fields: &str| {
        let source = format!("ads_config: {{transport_api_version: V3, {fields}}}, cds_config: {{ads: {{}}}}");
        format!("{NODE}{ADMIN}{}", control_plane(&source))
    };
    let own = |fields: &str| {
        let source = format!(
            "cds_config: {{resource_api_version: V3, api_config_source: {{transport_api_version: V3, {fields}}}}}"
        );
        format!("{NODE}{ADMIN}{}", control_plane(&source))
    };
    let with = |key: &str| {
        format!(
            "api_type: GRPC, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}, initial_metadata: [{{key: '{key}', value: v}}]}}]"
        )
    };
    let names = |api_type: &str| format!("api_type: {api_type}, cluster_names: [xds], grpc_services: [{service}]");
    let (named, modified) = ("must not have a cluster name specified", "host header");
    let at = "initial_metadata[0].key: ";
    let cases = [
        case(
            "names beside GRPC",
            ads(&names("GRPC")),
            "ads_config.cluster_names: ",
            named,
        ),
        case(
            "beside delta",
            ads(&names("DELTA_GRPC")),
            "ads_config.cluster_names: ",
            named,
        ),
        case(
            "of a source of its own",
            own(&names("GRPC")),
            "cds_config.api_config_source.cluster_names: ",
            named,
        ),
        case(
            "no service",
            own("api_type: GRPC, cluster_names: [xds]"),
            "cluster_names: ",
            named,
        ),
        case("host", ads(&with("host")), at, modified),
        case("Host", own(&with("Host")), at, modified),
        case("a pseudo-header", ads(&with(":authority")), at, modified),
        // Which it cannot be, but is let say.
        case("content-type", own(&with("content-type")), "", ""),
        case("another", ads(&with("x-key")), "", ""),
    ];
    compare("refused-sources", &cases).await;
}
