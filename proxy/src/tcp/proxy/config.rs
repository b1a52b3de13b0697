//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy` → [`TcpProxy`].

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::BackoffStrategy;
use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;
use remora_proto::pb::envoy::r#type::v3::hash_policy::PolicySpecifier;

use super::{AddedTlvs, Backoff, Clusters, Early, HashSource, LogOptions, TcpProxy, Tunneling};
use crate::config::listener::{duration, positive};
use crate::config::route::{Under, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems};
use crate::telemetry::access_log::AccessLog;

/// `idle_timeout` when it is not set.
const IDLE: Duration = Duration::from_secs(3600);

impl TcpProxy {
    /// Compiles the encoded message.
    ///
    /// # Errors
    /// Every field that is wrong or not supported, by path.
    pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<Self>> {
        let config = pb::TcpProxy::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
        refuse("on_demand", config.on_demand.is_some(), "not supported")?;
        let attempts = config.max_connect_attempts.as_ref().map_or(1, |wrapped| wrapped.value);
        refuse("max_connect_attempts", attempts == 0, "must be at least 1")?;
        let idle = positive("idle_timeout", config.idle_timeout.as_ref())?.unwrap_or(IDLE);
        let jitter = config.max_downstream_connection_duration_jitter_percentage;
        Ok(Arc::new(Self {
            clusters: Clusters::compile(&config)?,
            idle_timeout: Some(idle).filter(|idle| !idle.is_zero()),
            max_connect_attempts: attempts,
            backoff: optional("backoff_options", config.backoff_options.as_ref(), backoff)?,
            max_duration: duration(config.max_downstream_connection_duration.as_ref()),
            duration_jitter: jitter.map_or(0.0, |percent| percent.value.clamp(0.0, 100.0)),
            hash: hash(&config)?,
            early: early(&config)?,
            tlvs: AddedTlvs::compile(&config)?,
            leaves_when_asked: config.check_drain_close.is_some_and(|check| check.value),
            tunneling: optional("tunneling_config", config.tunneling_config.as_ref(), Tunneling::compile)?,
            stats: cx.stats.group(&format!("tcp.{}.", config.stat_prefix)),
            snapshot: cx.snapshot.clone(),
            access_logs: AccessLog::compile_all(&config.access_log, cx)?.into(),
            log_options: log_options(&config).under("access_log_options")?,
        }))
    }
}

fn backoff(config: &BackoffStrategy) -> Compiled<Backoff> {
    let base = duration(config.base_interval.as_ref()).unwrap_or_default();
    refuse(
        "base_interval",
        base < Duration::from_millis(1),
        "must be at least 1 ms",
    )?;
    let max = duration(config.max_interval.as_ref()).unwrap_or(base.saturating_mul(10));
    refuse(
        "max_interval",
        max < base,
        "must be greater than or equal to the base_interval",
    )?;
    Ok(Backoff { base, max })
}

fn early(config: &pb::TcpProxy) -> Compiled<Option<Early>> {
    let limit = config
        .max_early_data_bytes
        .as_ref()
        .map(|wrapped| wrapped.value as usize);
    match pb::UpstreamConnectMode::try_from(config.upstream_connect_mode) {
        // Connecting takes as long whether the client's first bytes wait in our memory or in the kernel's.
        Ok(pb::UpstreamConnectMode::Immediate) => Ok(None),
        // A chain's filters run once its handshake is done: there is nothing more to wait for.
        Ok(pb::UpstreamConnectMode::OnDownstreamTlsHandshake) => required(limit).map(|_| None),
        Ok(pb::UpstreamConnectMode::OnDownstreamData) => required(limit).map(|limit| Some(Early { limit })),
        Err(_) => Err(Problems::one("upstream_connect_mode", "unknown value")),
    }
}

fn required(limit: Option<usize>) -> Compiled<usize> {
    limit.ok_or_else(|| {
        Problems::one(
            "max_early_data_bytes",
            "must be set when upstream_connect_mode is not IMMEDIATE",
        )
    })
}

fn hash(config: &pb::TcpProxy) -> Compiled<Option<HashSource>> {
    let source = match &config.hash_policy[..] {
        [] => return Ok(None),
        [policy] => policy.policy_specifier.as_ref(),
        _ => return Err(Problems::one("hash_policy", "at most one is allowed")),
    };
    match source {
        Some(PolicySpecifier::SourceIp(_)) => Ok(Some(HashSource::SourceIp)),
        Some(PolicySpecifier::FilterState(state)) => Ok(Some(HashSource::FilterState(state.key.clone()))),
        None => Err(Problems::one("hash_policy[0].policy_specifier", "required")),
    }
}

#[allow(deprecated, reason = "the fields that came before `access_log_options` still count")]
fn log_options(config: &pb::TcpProxy) -> Compiled<LogOptions> {
    let options = config.access_log_options.unwrap_or_default();
    let legacy = config.access_log_flush_interval.as_ref();
    let has_both = config.access_log_options.is_some() && (legacy.is_some() || config.flush_access_log_on_connected);
    let reason = "only one of the older fields and of access_log_options can be given";
    refuse("", has_both, reason)?;
    let interval = duration(options.access_log_flush_interval.as_ref().or(legacy));
    refuse(
        "access_log_flush_interval",
        interval.is_some_and(|interval| interval < Duration::from_millis(1)),
        "must be at least 1 ms",
    )?;
    Ok(LogOptions {
        interval: interval.filter(|_| !config.access_log.is_empty()),
        on_connected: options.flush_access_log_on_connected || config.flush_access_log_on_connected,
        on_start: options.flush_access_log_on_start,
    })
}
