//! The bootstrap: what is known before the first byte of xDS.
//!
//! In: `-c FILE`, `--config-yaml` and the `--service-*` flags. Out: [`Bootstrap`], plain values; static resources stay encoded (D5) and
//! are slices of the one encoded message that `/config_dump` shows, so nothing is held twice and nothing of the text is held at all.

mod parts;
mod read;
mod stats;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::accesslog::v3::AccessLog;
use remora_proto::pb::envoy::config::bootstrap::v3 as pb;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_proto::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use remora_proto::pb::envoy::config::overload::v3::resource_monitor::ConfigType;
use remora_proto::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use remora_proto::pb::google::protobuf::Struct;

use crate::cli::Options;
use crate::cluster::discovery::resolver::ResolverConfig;
use crate::config::live::RuntimeLayers;
use crate::config::route::{Under, each, refuse, refuse_all};
use crate::config::sources::{NAMELESS, is_nameless};
use crate::config::{Compiled, Problems, gather, listener, resolver};
use crate::route::strings::StringMatcher;
use crate::runtime::io::Address;

use parts::{STATIC_RESOURCES, with_node, without};
pub use parts::{static_resources, without_wrong};
pub use read::origin;
pub use stats::{Buckets, Flush, StatsConfig, StatsMatcher};

pub use crate::config::source::{AdsConfig, ConfigSource, Source};

/// Full name of the message.
pub const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Everything that the bootstrap decides.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    /// Encoded, with the node as it is sent: `/config_dump`.
    pub bytes: Bytes,
    pub node: Arc<Node>,
    /// None: no admin server.
    pub admin: Option<Admin>,
    pub listeners: Vec<StaticResource>,
    pub clusters: Vec<StaticResource>,
    pub secrets: Vec<StaticResource>,
    /// `dynamic_resources.ads_config`
    pub ads: Option<AdsConfig>,
    pub lds: Option<ConfigSource>,
    pub cds: Option<ConfigSource>,
    pub stats: StatsConfig,
    pub runtime: RuntimeLayers,
    /// `application_log_config`, as a pattern of `--log-format`.
    pub log_format: Option<String>,
    /// `cluster_manager.local_cluster_name`: who this sidecar's own zone mates are; empty when unset.
    pub local_cluster: Arc<str>,
    /// `cluster_manager.outlier_detection.event_log_path`; empty when unset.
    pub outlier_event_log: String,
    /// `typed_dns_resolver_config` and the older fields; the system's when unset.
    pub resolver: Option<ResolverConfig>,
    /// `overload_manager`'s limit of all downstream connections together.
    pub max_connections: Option<u64>,
    /// Accepted without effect, or let pass by `--unsupported=warn`: to be logged once, and shown on `/xds`.
    pub warnings: Vec<String>,
}

/// `static_resources.{listeners,clusters,secrets}[i]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticResource {
    /// Empty for a listener that has none.
    pub name: Arc<str>,
    /// Encoded; a slice of [`Bootstrap::bytes`].
    pub bytes: Bytes,
}

/// `admin`
#[derive(Clone, Debug)]
pub struct Admin {
    pub address: Address,
    /// To be compiled with [`crate::telemetry::access_log`]; `access_log_path` is among them.
    pub access_log: Vec<AccessLog>,
    /// Paths that are served; all when empty.
    pub allow_paths: Vec<StringMatcher>,
}

/// The configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    /// The file, or `--config-yaml`.
    pub origin: String,
    pub problems: Problems,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error initializing configuration '{}':", self.origin)?;
        match self.problems.0.as_slice() {
            [problem] => write!(f, " {problem}"),
            problems => problems.iter().try_for_each(|problem| write!(f, "\n  {problem}")),
        }
    }
}

impl std::error::Error for LoadError {}

impl Bootstrap {
    /// Reads what the options name. Blocks on the file.
    ///
    /// # Errors
    /// A missing, malformed or unsupported configuration, with every problem and its place.
    pub fn load(options: &Options) -> Result<Self, LoadError> {
        let text = read::read(options, false)?;
        Self::decode(text.bytes, options).map(|bootstrap| Self {
            warnings: text.warnings.into_iter().chain(bootstrap.warnings).collect(),
            ..bootstrap
        })
    }

    /// As [`Bootstrap::load`], for whoever wants to know everything that is wrong: what can be understood, and the problems so far. Blocks on
    /// the file.
    ///
    /// # Errors
    /// What cannot be read at all.
    pub fn examine(options: &Options) -> Result<(Vec<u8>, Problems), LoadError> {
        read::read(options, true).map(|text| (text.bytes, text.problems))
    }

    /// The same of an encoded bootstrap.
    ///
    /// # Errors
    /// As [`Bootstrap::load`].
    pub fn decode(encoded: Vec<u8>, options: &Options) -> Result<Self, LoadError> {
        let decoded = Self::decode_detached(encoded, options);
        let whole = decoded.and_then(|bootstrap| bootstrap.check_clusters().map(|()| bootstrap));
        whole.map_err(|problems| LoadError {
            origin: origin(options),
            problems,
        })
    }

    /// As [`Bootstrap::decode`], of one whose static clusters may stand elsewhere (in a dump).
    ///
    /// # Errors
    /// Every problem by path.
    pub fn decode_detached(encoded: Vec<u8>, options: &Options) -> Compiled<Self> {
        let skeleton = without(&encoded, STATIC_RESOURCES)?;
        let config =
            pb::Bootstrap::decode(skeleton.as_slice()).map_err(|error| Problems::one("", error.to_string()))?;
        let node = node(config.node.clone().unwrap_or_default(), options);
        let bytes = with_node(encoded, &node)?;
        compile(bytes, &config, node, options)
    }

    /// Control planes are reached through static clusters, and the local cluster is one.
    fn check_clusters(&self) -> Compiled<()> {
        let mut problems = Problems::default();
        let local = &*self.local_cluster;
        let has_local = local.is_empty() || self.clusters.iter().any(|cluster| *cluster.name == *local);
        let reason = format!("local cluster '{local}' must be defined");
        problems.keep(refuse("cluster_manager.local_cluster_name", !has_local, &reason));
        let grpc = |source: &Option<ConfigSource>| match source.as_ref().map(|own| &own.source) {
            Some(Source::Grpc(grpc)) => Some(grpc.cluster_name.clone()),
            _ => None,
        };
        let named = [
            ("ads_config", self.ads.as_ref().map(|ads| ads.cluster_name.clone())),
            ("lds_config.api_config_source", grpc(&self.lds)),
            ("cds_config.api_config_source", grpc(&self.cds)),
        ];
        for (field, name) in named {
            let Some(name) = name else { continue };
            let is_unknown = !self.clusters.iter().any(|cluster| cluster.name == name);
            let path = format!("dynamic_resources.{field}.grpc_services[0].envoy_grpc.cluster_name");
            let reason = format!("unknown gRPC client cluster '{name}'");
            problems.keep(refuse(&path, is_unknown, &reason));
        }
        problems.into_result()
    }
}

fn compile(bytes: Bytes, config: &pb::Bootstrap, node: Node, options: &Options) -> Compiled<Bootstrap> {
    let [listeners, clusters, secrets] = static_resources(&bytes)?;
    let dynamic = config.dynamic_resources.clone().unwrap_or_default();
    let sourced = |source: &Option<_>, field: &str| {
        let compiled = source.as_ref().map(ConfigSource::compile).transpose();
        compiled.under(field).under("dynamic_resources")
    };
    let ads = dynamic.ads_config.as_ref().map(AdsConfig::compile).transpose();
    let manager = config.cluster_manager.as_ref();
    gather! {
        let ads = ads.under("ads_config").under("dynamic_resources");
        let lds = sourced(&dynamic.lds_config, "lds_config");
        let cds = sourced(&dynamic.cds_config, "cds_config");
        let runtime = RuntimeLayers::compile(config.layered_runtime.as_ref()).under("layered_runtime");
        let admin = admin(config.admin.as_ref()).under("admin");
        let stats = StatsConfig::compile(config, &options.stats_tags).under("stats_config");
        let log_format = log_format(config);
        let max_connections = max_connections(config).under("overload_manager");
        let resolver = resolver::of_process(config);
        let _sources = consistent(&dynamic, &node);
    }
    let (runtime, warnings) = runtime;
    let max_connections = max_connections.or_else(|| runtime.max_connections());
    Ok(Bootstrap {
        bytes,
        node: Arc::new(node),
        admin,
        listeners,
        clusters,
        secrets,
        ads,
        lds,
        cds,
        stats,
        runtime,
        log_format,
        max_connections,
        resolver,
        local_cluster: manager.map_or("", |manager| &manager.local_cluster_name).into(),
        outlier_event_log: manager
            .and_then(|manager| manager.outlier_detection.as_ref())
            .map_or_else(String::new, |detection| detection.event_log_path.clone()),
        warnings,
    })
}

/// What sources want of each other: a stream where one is `ads`, a name for whoever has one, be it a file.
fn consistent(dynamic: &pb::bootstrap::DynamicResources, node: &Node) -> Compiled<()> {
    let sources = || [&dynamic.lds_config, &dynamic.cds_config].into_iter().flatten();
    let wants_ads =
        sources().any(|source| matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_))));
    let is_sourced = dynamic.ads_config.is_some() || sources().next().is_some();
    refuse_all(&[
        (
            "dynamic_resources.ads_config",
            dynamic.ads_config.is_none() && wants_ads,
            "required: a source is `ads`",
        ),
        ("node", is_sourced && is_nameless(node), NAMELESS),
    ])
}

/// The monitor of downstream connections, if there is one; others are refused by the field tables.
fn max_connections(config: &pb::Bootstrap) -> Compiled<Option<u64>> {
    let monitors = config
        .overload_manager
        .iter()
        .flat_map(|manager| &manager.resource_monitors);
    for monitor in monitors {
        let Some(ConfigType::TypedConfig(any)) = &monitor.config_type else {
            continue;
        };
        if any.type_url != DOWNSTREAM_CONNECTIONS {
            continue;
        }
        let config = DownstreamConnectionsConfig::decode(any.value.as_slice())
            .map_err(|error| Problems::one("resource_monitors", error.to_string()))?;
        let max = u64::try_from(config.max_active_downstream_connections)
            .ok()
            .filter(|max| *max > 0);
        let reason = "max_active_downstream_connections: must be greater than 0";
        return max.map(Some).ok_or_else(|| Problems::one("resource_monitors", reason));
    }
    Ok(None)
}

const DOWNSTREAM_CONNECTIONS: &str =
    "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";

/// `node`, with what the command line and the program say of it, as Envoy fills it in. Of the build's metadata `revision.status` is not told:
/// nothing here knows it. Of the extensions those are told that this program has.
fn node(mut node: Node, options: &Options) -> Node {
    use remora_proto::pb::envoy::config::core::v3::{BuildVersion, node::UserAgentVersionType};
    use remora_proto::pb::envoy::r#type::v3::SemanticVersion;
    if !options.service_node.is_empty() {
        node.id.clone_from(&options.service_node);
    }
    if !options.service_cluster.is_empty() {
        node.cluster.clone_from(&options.service_cluster);
    }
    if !options.service_zone.is_empty() {
        node.locality
            .get_or_insert_default()
            .zone
            .clone_from(&options.service_zone);
    }
    let mut numbers = crate::cli::ENVOY_VERSION
        .split('.')
        .map(|part| part.parse().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    let version = SemanticVersion {
        major_number: next(),
        minor_number: next(),
        patch: next(),
    };
    // Control planes choose what to send by this name and version.
    node.user_agent_name = "envoy".to_owned();
    node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(BuildVersion {
        version: Some(version),
        metadata: Some(build()),
    }));
    node.extensions = crate::filters::names::announced();
    node
}

/// `user_agent_build_version.metadata`, under Envoy's keys.
fn build() -> Struct {
    use remora_proto::pb::google::protobuf::{Value, value::Kind};
    let known = [
        ("build.type", crate::cli::BUILD),
        ("revision.sha", crate::cli::COMMIT),
        ("ssl.version", crate::cli::CRYPTO),
    ];
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    Struct {
        fields: known.map(|(key, value)| (key.to_owned(), text(value))).into(),
    }
}

fn admin(config: Option<&pb::Admin>) -> Compiled<Option<Admin>> {
    use remora_proto::pb::envoy::config::core::v3::address::Address;
    let Some(config) = config.filter(|config| config.address.is_some()) else {
        return Ok(None);
    };
    let mut access_log = config.access_log.clone();
    #[allow(deprecated)]
    let path = config.access_log_path.as_str();
    if !path.is_empty() {
        access_log.push(file_log(path));
    }
    let has_mode = matches!(
        config.address.as_ref().and_then(|address| address.address.as_ref()),
        Some(Address::Pipe(pipe)) if pipe.mode != 0
    );
    gather! {
        let _mode = refuse("address.pipe.mode", has_mode, "not supported");
        let address = listener::address(config.address.as_ref()).under("address");
        let allow_paths = each("allow_paths", &config.allow_paths, StringMatcher::compile);
    }
    Ok(Some(Admin {
        address,
        access_log,
        allow_paths,
    }))
}

fn file_log(path: &str) -> AccessLog {
    use remora_proto::pb::envoy::config::accesslog::v3::access_log::ConfigType;
    use remora_proto::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
    AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(ConfigType::TypedConfig(remora_proto::any::pack(&FileAccessLog {
            path: path.to_owned(),
            ..FileAccessLog::default()
        }))),
        ..AccessLog::default()
    }
}

/// A JSON format is a pattern whose text is the JSON object, as in Envoy.
fn log_format(config: &pb::Bootstrap) -> Compiled<Option<String>> {
    use pb::bootstrap::application_log_config::log_format::LogFormat;
    let configured = config.application_log_config.as_ref();
    let format = configured.and_then(|config| config.log_format.as_ref());
    Ok(match format.and_then(|format| format.log_format.as_ref()) {
        None => None,
        Some(LogFormat::TextFormat(text)) => Some(text.clone()),
        Some(LogFormat::JsonFormat(json)) => {
            let bytes = json.encode_to_vec();
            let value = remora_proto::json::to_json(&bytes, "google.protobuf.Struct")
                .map_err(|error| Problems::one("application_log_config.log_format.json_format", error.to_string()))?;
            Some(value.to_string())
        }
    })
}

#[cfg(test)]
mod tests;
