//! The sources that resources name: control planes, told apart by all that their `api_config_source` says, and files.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use remora_xds::client::file;
use remora_xds::{PathSource, Source};

use remora_proto::pb::envoy::config::core::v3 as core;

use super::route::{Under, refuse};
use super::source::{self, AdsConfig, ConfigSource};
use super::{Compiled, Problems};

/// A resource by its name and where it comes from: what two sources call by one name are two resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceKey {
    /// `None`: the bootstrap.
    pub source: Option<Arc<Source>>,
    pub name: Arc<str>,
}

impl ResourceKey {
    /// A resource of the bootstrap.
    pub fn fixed(name: &str) -> Self {
        Self {
            source: None,
            name: name.into(),
        }
    }
}

/// Names for [`Source::Named`]: the cluster's for the first configuration that leads to it, which nearly always is the only one.
#[derive(Default)]
pub struct Sources {
    known: Mutex<Vec<(Arc<str>, AdsConfig)>>,
    /// Clusters of the bootstrap that are not EDS: what a control plane may be reached through.
    clusters: Vec<Arc<str>>,
    /// The bootstrap has an `ads_config`.
    ads: bool,
    /// The node has no `id` or no `cluster`.
    nameless: bool,
}

/// Whether a node may not have anything come from anywhere, be it a file.
pub fn is_nameless(node: &core::Node) -> bool {
    node.id.is_empty() || node.cluster.is_empty()
}

/// Why.
pub const NAMELESS: &str = "node 'id' and 'cluster' are required. Set it either in 'node' config or via --service-node and --service-cluster \
                            options.";

impl Sources {
    pub fn new(clusters: Vec<Arc<str>>, ads: bool) -> Self {
        Self {
            clusters,
            ads,
            ..Self::default()
        }
    }

    /// Those of `node`, which may use none if it has no name.
    #[must_use]
    pub fn of(self, node: &core::Node) -> Self {
        Self {
            nameless: is_nameless(node),
            ..self
        }
    }

    /// The source as the xDS client knows it.
    ///
    /// # Errors
    /// A node without a name, a file (or directory to watch) that is not there, ADS where there is none, or a cluster that may not lead to a control plane; the reasons are Envoy's.
    pub fn resolve(&self, config: &ConfigSource) -> Compiled<Source> {
        refuse("", self.nameless, NAMELESS)?;
        match &config.source {
            source::Source::Ads if self.ads => Ok(Source::Ads),
            source::Source::Ads => Err(Problems::one(
                "ads",
                "ADS must be configured to support an ADS config source",
            )),
            source::Source::Path(path) => usable(path).under("path_config_source"),
            source::Source::Grpc(grpc) => self.named(grpc).map(Source::Named),
        }
    }

    /// The key of the resource `name` of `config`, or of the bootstrap where there is none. Whether the source can be used is another question:
    /// [`resolve`](Self::resolve).
    pub fn key(&self, name: &str, config: Option<&core::ConfigSource>) -> ResourceKey {
        let config = config.and_then(|config| ConfigSource::compile(config).ok());
        self.key_of(name, config.as_ref())
    }

    /// As [`key`](Self::key), of a source that is compiled already.
    pub fn key_of(&self, name: &str, config: Option<&ConfigSource>) -> ResourceKey {
        let source = config.map(|config| match &config.source {
            source::Source::Ads => Source::Ads,
            source::Source::Path(path) => Source::Path(path.clone()),
            source::Source::Grpc(grpc) => Source::Named(self.name(grpc)),
        });
        ResourceKey {
            source: source.map(Arc::new),
            name: name.into(),
        }
    }

    /// How the source called `name` is spoken to.
    pub fn find(&self, name: &str) -> Option<AdsConfig> {
        let known = self.known.lock();
        let found = known.iter().find(|(known, _)| &**known == name);
        found.map(|(_, config)| config.clone())
    }

    fn named(&self, config: &AdsConfig) -> Compiled<Arc<str>> {
        let cluster = &config.cluster_name;
        if !self.clusters.contains(cluster) {
            let reason = format!(
                "must have a statically defined non-EDS cluster: '{cluster}' does not exist, was added via api, or is an EDS cluster"
            );
            return Err(Problems::one("api_config_source", reason));
        }
        Ok(self.name(config))
    }

    fn name(&self, config: &AdsConfig) -> Arc<str> {
        let mut known = self.known.lock();
        if let Some((name, _)) = known.iter().find(|(_, known)| known == config) {
            return name.clone();
        }
        // What nobody names any more makes room: a control plane may tell new ones without end.
        known.retain(|(name, _)| Arc::strong_count(name) > 1);
        let name = free_name(&known, &config.cluster_name);
        known.push((name.clone(), config.clone()));
        name
    }
}

/// A file that is there and can be watched.
fn usable(source: &PathSource) -> Compiled<Source> {
    let path = Path::new(&*source.path);
    if is_text_protobuf(path) {
        return Err(Problems::one("path", TEXT_PROTOBUF));
    }
    if !path.exists() {
        let reason = format!(
            "paths must refer to an existing path in the system: '{}' does not exist",
            source.path
        );
        return Err(Problems::one("path", reason));
    }
    if let Some(directory) = &source.watched_directory {
        file::check_directory(directory).map_err(|reason| Problems::one("watched_directory.path", reason))?;
    }
    Ok(Source::Path(source.clone()))
}

/// The cluster's own name, or the first of `cluster (2)`, `cluster (3)` … that no other configuration has.
fn free_name(known: &[(Arc<str>, AdsConfig)], cluster: &str) -> Arc<str> {
    let taken = |name: &str| known.iter().any(|(known, _)| &**known == name);
    if !taken(cluster) {
        return cluster.into();
    }
    let mut numbered = (2_u64..).map(|number| format!("{cluster} ({number})"));
    numbered.find(|name| !taken(name)).unwrap_or_default().into()
}

/// Why such a file is not read.
pub const TEXT_PROTOBUF: &str = "text protobuf (.pb_text) is not read; .yaml, .json and .pb are";

pub fn is_text_protobuf(path: &Path) -> bool {
    path.to_string_lossy().to_ascii_lowercase().ends_with(".pb_text")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn grpc(cluster: &str, delta: bool) -> ConfigSource {
        let text = format!(
            "{{api_config_source: {{api_type: {}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: {cluster}}}}}]}}, \
             initial_fetch_timeout: 3s}}",
            if delta { "DELTA_GRPC" } else { "GRPC" }
        );
        compile(&text).expect("a source")
    }

    fn compile(text: &str) -> Compiled<ConfigSource> {
        let name = "envoy.config.core.v3.ConfigSource";
        let encoded = remora_proto::json::encode_text(text, name, &Default::default()).expect("YAML");
        let message: core::ConfigSource = prost::Message::decode(encoded.bytes.as_slice()).expect("a message");
        ConfigSource::compile(&message)
    }

    #[test]
    fn one_cluster_may_lead_to_sources_that_speak_differently() {
        let sources = Sources::new(vec!["agent".into()], false);
        let (sotw, delta) = (grpc("agent", false), grpc("agent", true));
        assert_eq!(sotw.initial_fetch_timeout, Duration::from_secs(3));
        let names: Vec<_> = [&sotw, &delta, &sotw].map(|config| sources.resolve(config)).into();
        let named = |name: &str| Ok(Source::Named(name.into()));
        assert_eq!(names, [named("agent"), named("agent (2)"), named("agent")]);
        assert!(sources.find("agent (2)").expect("known").delta);
        assert!(!sources.find("agent").expect("known").delta);
    }

    #[test]
    fn what_nobody_names_any_more_is_forgotten() {
        let sources = Sources::new(vec!["agent".into()], false);
        let numbered = |seconds: u64| {
            let mut config = grpc("agent", false);
            if let source::Source::Grpc(grpc) = &mut config.source {
                grpc.authority = seconds.to_string();
            }
            sources.resolve(&config).expect("a source")
        };
        let kept = numbered(0);
        (1..100).for_each(|seconds| drop(numbered(seconds)));
        assert_eq!(sources.known.lock().len(), 2);
        assert_eq!(kept, Source::Named("agent".into()));
        assert_eq!(numbered(100), Source::Named("agent (2)".into()));
    }

    #[test]
    fn a_control_plane_is_reached_through_a_static_cluster() {
        let refused = Sources::new(vec!["agent".into()], false).resolve(&grpc("other", false));
        let reason = refused.expect_err("refused").to_string();
        assert!(
            reason.contains("statically defined non-EDS cluster: 'other'"),
            "{reason}"
        );
    }

    #[test]
    fn ads_needs_an_ads_config() {
        let ads = compile("{ads: {}, resource_api_version: V3}").expect("a source");
        assert_eq!(Sources::new(Vec::new(), true).resolve(&ads), Ok(Source::Ads));
        let reason = Sources::default().resolve(&ads).expect_err("refused").to_string();
        assert!(reason.contains("ADS must be configured"), "{reason}");
    }

    #[test]
    fn a_file_must_be_there() {
        let missing = compile("{path_config_source: {path: /nowhere/at/all.yaml}}").expect("a source");
        let reason = Sources::default().resolve(&missing).expect_err("refused").to_string();
        assert!(reason.contains("'/nowhere/at/all.yaml' does not exist"), "{reason}");
        let text = compile("{path_config_source: {path: /nowhere/at/all.pb_text}}").expect("a source");
        let reason = Sources::default().resolve(&text).expect_err("refused").to_string();
        assert_eq!(reason, format!("path_config_source.path: {TEXT_PROTOBUF}"));
    }

    #[test]
    fn a_directory_to_watch_must_be_there() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| place.path().join(name).display().to_string();
        std::fs::write(at("cds.yaml"), "").expect("a file");
        let source = |directory: &str| {
            let (path, directory) = (at("cds.yaml"), at(directory));
            let text = format!("{{path_config_source: {{path: {path}, watched_directory: {{path: {directory}}}}}}}");
            Sources::default().resolve(&compile(&text).expect("a source"))
        };
        let reason = source("none").expect_err("refused").to_string();
        let expected = format!(
            "path_config_source.watched_directory.path: unable to add filesystem watch for file {}/: No such file or directory",
            at("none")
        );
        assert_eq!(reason, expected);
        assert!(source(".").is_ok());
    }

    #[test]
    fn rest_google_grpc_and_self_are_refused_with_a_reason() {
        let refused = |text: &str| compile(text).expect_err("refused").to_string();
        let rest = refused(
            "{api_config_source: {api_type: REST, transport_api_version: V3, cluster_names: [x], refresh_delay: 1s}}",
        );
        assert!(rest.contains("only GRPC and DELTA_GRPC"), "{rest}");
        let google = refused(
            "{api_config_source: {api_type: GRPC, transport_api_version: V3, \
             grpc_services: [{google_grpc: {target_uri: x, stat_prefix: x}}]}}",
        );
        assert!(google.contains("only envoy_grpc"), "{google}");
        assert!(refused("{self: {}}").contains("self"));
    }

    #[test]
    fn keys_tell_sources_apart_and_the_bootstrap_from_all() {
        let sources = Sources::new(vec!["agent".into()], true);
        let file = compile("{path_config_source: {path: /a.yaml}}").expect("a source");
        let ads = compile("{ads: {}}").expect("a source");
        let configs = [
            None,
            Some(&ads),
            Some(&file),
            Some(&grpc("agent", false)),
            Some(&grpc("agent", true)),
        ];
        let keys = configs.map(|config| sources.key_of("name", config));
        for (at, key) in keys.iter().enumerate() {
            let again = sources.key_of("name", configs[at]);
            assert!(
                keys.iter()
                    .enumerate()
                    .all(|(other, known)| (*known == again) == (other == at)),
                "{key:?}"
            );
        }
    }

    #[test]
    fn what_is_no_single_stream_of_its_own_is_refused_with_its_place() {
        let service = "{envoy_grpc: {cluster_name: a}}";
        let of = |api_type: &str, services: &str| {
            format!(
                "{{api_config_source: {{api_type: {api_type}, transport_api_version: V3, grpc_services: [{services}]}}}}"
            )
        };
        let cases = [
            (
                of("AGGREGATED_GRPC", service),
                "api_config_source.api_type: aggregated streams are what `ads` is for",
            ),
            (
                of("AGGREGATED_DELTA_GRPC", service),
                "api_config_source.api_type: aggregated streams are what `ads` is for",
            ),
            (
                of("REST", service),
                "api_config_source.api_type: only GRPC and DELTA_GRPC are supported",
            ),
            (
                "{api_config_source: {transport_api_version: V3}}".to_owned(),
                "api_config_source.api_type: only GRPC and DELTA_GRPC are supported",
            ),
        ];
        for (text, reason) in cases {
            let refused = compile(&text).expect_err("refused").to_string();
            assert!(refused.starts_with(reason), "{text}: {refused}");
        }
    }

    fn spoken_to_as(text: &str) -> Compiled<AdsConfig> {
        compile(text).map(|config| match config.source {
            source::Source::Grpc(grpc) => *grpc,
            other => panic!("no stream: {other:?}"),
        })
    }

    #[test]
    fn transport_api_version_v2_is_refused_and_auto_means_v3() {
        let of = |version: &str| {
            spoken_to_as(&format!(
                "{{api_config_source: {{api_type: GRPC, {version} grpc_services: [{{envoy_grpc: {{cluster_name: a}}}}]}}}}"
            ))
        };
        let v3 = of("transport_api_version: V3,");
        assert!(v3.is_ok());
        assert_eq!(of("transport_api_version: AUTO,"), v3);
        assert_eq!(of(""), v3);
        let refused = of("transport_api_version: V2,").expect_err("refused").to_string();
        assert_eq!(refused, "api_config_source.transport_api_version: only V3 is supported");
    }

    #[test]
    fn a_second_control_plane_to_fail_over_to_is_refused_and_so_is_none() {
        let primary = "{envoy_grpc: {cluster_name: a}}";
        for services in ["", &format!("{primary}, {{envoy_grpc: {{cluster_name: b}}}}")] {
            let text = format!(
                "{{api_config_source: {{api_type: GRPC, transport_api_version: V3, grpc_services: [{services}]}}}}"
            );
            let refused = compile(&text).expect_err("refused").to_string();
            assert_eq!(refused, "api_config_source.grpc_services: exactly one is needed");
        }
    }

    #[test]
    fn retry_back_off_of_a_source_replaces_half_a_second_and_thirty() {
        let of = |retry: &str| {
            spoken_to_as(&format!(
                "{{api_config_source: {{api_type: GRPC, transport_api_version: V3, \
                 grpc_services: [{{envoy_grpc: {{cluster_name: a, retry_policy: {{{retry}}}}}}}]}}}}"
            ))
        };
        // How long the first and the eighth attempt may wait at most, as the longest of many say.
        let longest = |retry: &str| {
            let config = of(retry).expect("accepted").mux();
            let mut rng = fastrand::Rng::with_seed(1);
            let mut longest = [Duration::ZERO; 2];
            for _ in 0..1000 {
                let mut backoff = config.backoff.clone();
                let delays: Vec<_> = (0..8).map(|_| backoff.delay(&mut rng)).collect();
                longest = [longest[0].max(delays[0]), longest[1].max(delays[7])];
            }
            longest
        };
        let cases = [
            ("", 500, 30_000),
            ("retry_back_off: {base_interval: 0.1s, max_interval: 0.2s}", 100, 200),
            // Ten times the base, where nothing is said.
            ("retry_back_off: {base_interval: 0.1s}", 100, 1000),
        ];
        for (retry, first, eighth) in cases {
            for (longest, limit) in longest(retry).into_iter().zip([first, eighth]) {
                let limit = Duration::from_millis(limit);
                assert!(
                    longest < limit && longest > limit * 9 / 10,
                    "{retry}: {longest:?} of {limit:?}"
                );
            }
        }
        let refused = [
            (
                "{base_interval: 0.1s, max_interval: 0.05s}",
                "max_interval: must be at least base_interval",
            ),
            ("{max_interval: 5s}", "base_interval: must be at least 1ms"),
            ("{base_interval: 0s}", "base_interval: must be at least 1ms"),
        ];
        for (backoff, reason) in refused {
            let refused = of(&format!("retry_back_off: {backoff}"))
                .expect_err("refused")
                .to_string();
            let place = "api_config_source.grpc_services[0].envoy_grpc.retry_policy.retry_back_off";
            assert_eq!(refused, format!("{place}.{reason}"));
        }
    }
}
