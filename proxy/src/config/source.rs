//! Where resources come from: `ConfigSource` and `ApiConfigSource`.

use std::sync::Arc;
use std::time::Duration;

use remora_proto::pb::envoy::config::core::v3 as core;
use remora_xds::client::{Backoff, RateLimit};
use remora_xds::{Mode, MuxConfig, PathSource};

use core::api_config_source::ApiType;
use core::config_source::ConfigSourceSpecifier as Specifier;
use core::grpc_service::TargetSpecifier;

use crate::config::route::{Under, duration, refuse};
use crate::config::{Compiled, Problems, gather};

/// `core.v3.ConfigSource`
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigSource {
    pub source: Source,
    /// How long to wait for a first answer; zero is for ever.
    pub initial_fetch_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// [`Bootstrap::ads`](crate::bootstrap::Bootstrap::ads)
    Ads,
    /// A file that is watched.
    Path(PathSource),
    /// A stream of its own for this type of resource.
    Grpc(Box<AdsConfig>),
}

/// `core.v3.ApiConfigSource`: how a control plane is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct AdsConfig {
    /// The delta protocol instead of state of the world.
    pub delta: bool,
    /// The static cluster that leads to the control plane.
    pub cluster_name: Arc<str>,
    /// `:authority` of the calls; the cluster's name when empty.
    pub authority: String,
    /// Headers of each stream.
    pub initial_metadata: Vec<(String, Vec<u8>)>,
    pub node_on_first_message_only: bool,
    /// `max_tokens` and `fill_rate` (a second) of requests; unlimited when none.
    pub rate_limit: Option<(u32, f64)>,
    /// Base and maximum of the reconnect back-off.
    pub backoff: Option<(Duration, Duration)>,
}

impl ConfigSource {
    /// # Errors
    /// A source that does not exist here, by path.
    pub fn compile(config: &core::ConfigSource) -> Compiled<Self> {
        let source = match &config.config_source_specifier {
            Some(Specifier::Ads(_)) => Ok(Source::Ads),
            #[allow(deprecated)]
            Some(Specifier::Path(path)) => Ok(Source::Path(PathSource {
                path: path.as_str().into(),
                watched_directory: None,
            })),
            Some(Specifier::PathConfigSource(path)) => Ok(Source::Path(PathSource {
                path: path.path.as_str().into(),
                watched_directory: path
                    .watched_directory
                    .as_ref()
                    .map(|watched| watched.path.as_str().into()),
            })),
            Some(Specifier::ApiConfigSource(api)) => {
                let grpc = AdsConfig::compile(api).under("api_config_source");
                grpc.map(|grpc| Source::Grpc(Box::new(grpc)))
            }
            Some(Specifier::Self_(_)) => Err(Problems::one("self", "Envoy does not implement it either: say `ads`")),
            None => Err(Problems::one("config_source_specifier", "required")),
        };
        gather! {
            let source = source;
            let timeout = duration("initial_fetch_timeout", config.initial_fetch_timeout.as_ref());
        }
        Ok(Self {
            source,
            initial_fetch_timeout: timeout.unwrap_or(Duration::from_secs(15)),
        })
    }
}

impl AdsConfig {
    /// # Errors
    /// A control plane that cannot be spoken to, by path.
    pub fn compile(config: &core::ApiConfigSource) -> Compiled<Self> {
        // AUTO is what is meant where nothing is said; Envoy speaks V3 then, too.
        let is_known = [core::ApiVersion::Auto, core::ApiVersion::V3]
            .iter()
            .any(|version| *version as i32 == config.transport_api_version);
        let names_clusters = config.api_type != ApiType::Rest as i32 && !config.cluster_names.is_empty();
        let service = match config.grpc_services.as_slice() {
            [service] => Ok(service),
            _ => Err(Problems::one("grpc_services", "exactly one is needed")),
        };
        gather! {
            let delta = is_delta(config.api_type).under("api_type");
            let _names = refuse("cluster_names", names_clusters, "is for REST: GRPC and DELTA_GRPC must not have a cluster name specified");
            let _version = refuse("transport_api_version", !is_known, "only V3 is supported");
            let service = service.and_then(|service| grpc_service(service).under("grpc_services[0]"));
        }
        let (grpc, metadata, backoff) = service;
        Ok(Self {
            delta,
            cluster_name: grpc.cluster_name.as_str().into(),
            authority: grpc.authority.clone(),
            initial_metadata: metadata,
            node_on_first_message_only: config.set_node_on_first_message_only,
            rate_limit: config.rate_limit_settings.as_ref().map(|limit| {
                let default = RateLimit::default();
                (
                    limit.max_tokens.map_or(default.max_tokens, |tokens| tokens.value),
                    limit.fill_rate.map_or(default.fill_rate, |rate| rate.value),
                )
            }),
            backoff,
        })
    }

    /// How the xDS client speaks to it.
    pub fn mux(&self) -> MuxConfig {
        let mode = if self.delta { Mode::Delta } else { Mode::Sotw };
        let mut config = MuxConfig::new(mode);
        config.node_on_first_message_only = self.node_on_first_message_only;
        config.rate_limit = self
            .rate_limit
            .map(|(max_tokens, fill_rate)| RateLimit { max_tokens, fill_rate });
        if let Some((base, max)) = self.backoff {
            config.backoff = Backoff::new(base, max);
        }
        config
    }
}

/// Keys that end in `-bin` have any bytes, the others a header's.
type Metadata = Vec<(String, Vec<u8>)>;

fn is_delta(api_type: i32) -> Compiled<bool> {
    match ApiType::try_from(api_type) {
        Ok(ApiType::Grpc) => Ok(false),
        Ok(ApiType::DeltaGrpc) => Ok(true),
        // Envoy refuses them too, wherever the client could meet one.
        Ok(ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc) => Err(Problems::one(
            "",
            "aggregated streams are what `ads` is for: use GRPC or DELTA_GRPC",
        )),
        _ => Err(Problems::one("", "only GRPC and DELTA_GRPC are supported")),
    }
}

/// From which pause to which a control plane is asked again.
type Pauses = Option<(Duration, Duration)>;

fn grpc_service(service: &core::GrpcService) -> Compiled<(&core::grpc_service::EnvoyGrpc, Metadata, Pauses)> {
    let Some(TargetSpecifier::EnvoyGrpc(grpc)) = &service.target_specifier else {
        return Err(Problems::one("target_specifier", "only envoy_grpc is supported"));
    };
    let (retry, field) = match &grpc.retry_policy {
        Some(own) => (Some(own), "envoy_grpc.retry_policy"),
        None => (service.retry_policy.as_ref(), "retry_policy"),
    };
    gather! {
        let metadata = metadata(service);
        let backoff = backoff(retry).under(field);
    }
    Ok((grpc, metadata, backoff))
}

fn metadata(service: &core::GrpcService) -> Compiled<Metadata> {
    super::route::each("initial_metadata", &service.initial_metadata, |header| {
        super::route::mutable_name("key", &header.key)?;
        let value = match header.value.as_str() {
            "" => header.raw_value.clone(),
            value => value.as_bytes().to_vec(),
        };
        let fits = header.key.ends_with("-bin") || http::HeaderValue::from_bytes(&value).is_ok();
        super::route::refuse("value", !fits, "is not a header value")?;
        Ok((header.key.to_ascii_lowercase(), value))
    })
}

fn backoff(retry: Option<&core::RetryPolicy>) -> Compiled<Pauses> {
    let limited = retry.is_some_and(|retry| retry.num_retries.is_some());
    super::route::refuse("num_retries", limited, "a control plane is asked again without end")?;
    let Some(backoff) = retry.and_then(|retry| retry.retry_back_off.as_ref()) else {
        return Ok(None);
    };
    let base = duration("retry_back_off.base_interval", backoff.base_interval.as_ref())?;
    let Some(base) = base.filter(|base| *base >= Duration::from_millis(1)) else {
        return Err(Problems::one("retry_back_off.base_interval", "must be at least 1ms"));
    };
    let max = duration("retry_back_off.max_interval", backoff.max_interval.as_ref())?;
    let max = max.unwrap_or(base.saturating_mul(10));
    super::route::refuse(
        "retry_back_off.max_interval",
        max < base,
        "must be at least base_interval",
    )?;
    Ok(Some((base, max)))
}
