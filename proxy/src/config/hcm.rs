//! `HttpConnectionManager` → [`ConnectionManager`].

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3 as pbc;
use remora_proto::pb::envoy::extensions::filters::http::router::v3::Router as RouterConfig;
use remora_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pbh;

use super::route::{Under, duration, each, optional, refuse};
use super::{BuildContext, Compiled, Problems, gather, header_case};
use crate::filters::http::{self as filters, FilterContext, FilterList, Stage};
use crate::http::access_log::LogOptions;
use crate::http::codec::Underscores;
use crate::http::codec::h1::H1Options;
use crate::http::codec::h1::server::Timeouts;
use crate::http::codec::h2::{FloodLimits, H2Options, KeepaliveOptions};
use crate::http::header_policy::HeaderPolicy;
use crate::http::pipeline::{CodecStats, CodecType, ConnectionManager, Settings};
use crate::http::respond::LocalReply;
use crate::http::select_route::RouteSource;
use crate::http::stats::ASYNC_CLIENT;
use crate::route::RouteTable;
use crate::telemetry::access_log::AccessLog;

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

/// `common_http_protocol_options.idle_timeout` when unset.
const IDLE: Duration = Duration::from_secs(3600);
/// `stream_idle_timeout` when unset.
const STREAM_IDLE: Duration = Duration::from_secs(300);

/// `delayed_close_timeout` when unset.
const DELAYED_CLOSE: Duration = Duration::from_secs(1);

/// Compiles an encoded `HttpConnectionManager`.
///
/// # Errors
/// Every field that is wrong or that a connection manager cannot do, by its path.
pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<Arc<ConnectionManager>> {
    let value = pbh::HttpConnectionManager::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    gather! {
        let codec = codec(value.codec_type);
        let local_reply = optional("local_reply_config", value.local_reply_config.as_ref(), LocalReply::compile);
        let filters = http_filters(&value, cx);
        let timeouts = timeouts(&value);
        let log_options = log_options(&value);
        let access_logs = AccessLog::compile_all(&value.access_log, cx);
        let h1 = h1_options(&value);
        let h2 = h2_options(&value);
        let routes = routes(&value, cx);
        let header_policy = HeaderPolicy::compile(&value, cx);
        let upgrades = upgrades(&value);
        let max_stream_duration = max_stream_duration(&value);
    }
    let (filter_list, router) = filters;
    let settings = Settings {
        codec,
        h1,
        h2: H2Options {
            idle_timeout: timeouts.idle,
            stream_idle: timeouts.stream_idle,
            request_timeout: timeouts.request,
            max_connection_duration: timeouts.max_age,
            request_headers: timeouts.request_headers,
            delayed_close: timeouts.delayed_close,
            drain_timeout: timeouts.drain.unwrap_or(h2.drain_timeout),
            ..h2
        },
        timeouts,
        age_jitter: age_jitter(&value),
        stats: cx.stats.group(&format!("http.{}.", value.stat_prefix)),
        router_stats: cx.stats.group(&format!("http.{}.", value.stat_prefix)),
        mirror_stats: cx.stats.group(ASYNC_CLIENT),
        tracing_stats: cx.stats.group(&format!("http.{}.tracing.", value.stat_prefix)),
        codec_stats: CodecStats {
            http1: cx.stats.group("http1."),
            http2: cx.stats.group("http2."),
        },
        listener_stats: cx.stats.group(&listener_scope(&value, cx)),
        routes,
        snapshot: cx.snapshot.clone(),
        filters: Arc::new(filter_list),
        header_policy: Arc::new(header_policy),
        local_reply: local_reply.map(Arc::new),
        access_logs: access_logs.into(),
        log_options,
        upgrades,
        suppress_envoy_headers: router.suppress_envoy_headers,
        max_stream_duration,
    };
    Ok(ConnectionManager::new(settings))
}

/// `listener.<address>.http.<stat_prefix>.`
fn listener_scope(value: &pbh::HttpConnectionManager, cx: &BuildContext) -> String {
    let scope = match &*cx.listener_scope {
        // Compiled for itself, of no listener.
        "" => "listener..",
        scope => scope,
    };
    format!("{scope}http.{}.", value.stat_prefix)
}

fn codec(kind: i32) -> Compiled<CodecType> {
    use pbh::http_connection_manager::CodecType as Kind;
    match Kind::try_from(kind) {
        Ok(Kind::Auto) => Ok(CodecType::Auto),
        Ok(Kind::Http1) => Ok(CodecType::Http1),
        Ok(Kind::Http2) => Ok(CodecType::Http2),
        _ => Err(Problems::one("codec_type", "HTTP/3 is not supported")),
    }
}

fn timeouts(value: &pbh::HttpConnectionManager) -> Compiled<Timeouts> {
    let delayed_close = value.delayed_close_timeout.as_ref();
    let stream_idle = value.stream_idle_timeout.as_ref();
    gather! {
        let idle = idle_timeout(value);
        let request_headers = limit("request_headers_timeout", value.request_headers_timeout.as_ref(), None);
        let request = limit("request_timeout", value.request_timeout.as_ref(), None);
        let delayed_close = limit("delayed_close_timeout", delayed_close, Some(DELAYED_CLOSE));
        let stream_idle = limit("stream_idle_timeout", stream_idle, Some(STREAM_IDLE));
        let max_age = max_age(value);
        let drain = duration("drain_timeout", value.drain_timeout.as_ref());
    }
    Ok(Timeouts {
        idle,
        request_headers,
        request,
        delayed_close,
        stream_idle,
        max_age,
        drain,
    })
}

fn http_filters(value: &pbh::HttpConnectionManager, cx: &BuildContext) -> Compiled<(FilterList, RouterConfig)> {
    let Some((last, before)) = value.http_filters.split_last() else {
        return Err(Problems::one("http_filters", "the last filter must be the router"));
    };
    let stat_prefix = format!("http.{}.", value.stat_prefix);
    gather! {
        let stages = each("http_filters", before, |filter| {
            let stage = http_filter(filter, &stat_prefix, cx)?;
            Ok(stage.map(|stage| (stage, filter.name.as_str().into(), filter.disabled)))
        });
        let router = router(last).under(&format!("http_filters[{}]", before.len()));
    }
    let stages: Vec<_> = stages.into_iter().flatten().collect();
    refuse(
        "http_filters",
        stages.len() > FilterList::SWITCHES,
        "more filters than a route can switch on and off",
    )?;
    Ok((FilterList::named(stages), router))
}

/// `None`: an optional filter that we do not have.
fn http_filter(filter: &pbh::HttpFilter, stat_prefix: &str, cx: &BuildContext) -> Compiled<Option<Stage>> {
    let any = typed_config(filter)?;
    let type_name = remora_proto::type_url::full_name(&any.type_url);
    let content = remora_proto::any::content(any).map_err(|error| Problems::one("typed_config", error.to_string()))?;
    let type_name = if content.0.is_empty() { type_name } else { content.0 };
    let context = FilterContext {
        name: &filter.name,
        stat_prefix,
        build: cx,
    };
    match filters::find(type_name) {
        Some(registration) => (registration.compile)(&content.1, &context)
            .under("typed_config")
            .map(Some),
        None if filter.is_optional => Ok(None),
        None if type_name == ROUTER => Err(Problems::one("", "the router must be the last filter")),
        None => Err(Problems::one(
            "typed_config",
            format!("filter {type_name} is not supported"),
        )),
    }
}

fn router(filter: &pbh::HttpFilter) -> Compiled<RouterConfig> {
    refuse("disabled", filter.disabled, "the router cannot be switched off")?;
    let any = typed_config(filter)?;
    if remora_proto::type_url::full_name(&any.type_url) != ROUTER {
        return Err(Problems::one("typed_config", "the last filter must be the router"));
    }
    RouterConfig::decode(any.value.as_slice()).map_err(|error| Problems::one("typed_config", error.to_string()))
}

fn typed_config(filter: &pbh::HttpFilter) -> Compiled<&remora_proto::pb::google::protobuf::Any> {
    match &filter.config_type {
        Some(pbh::http_filter::ConfigType::TypedConfig(any)) => Ok(any),
        Some(pbh::http_filter::ConfigType::ConfigDiscovery(_)) => Err(Problems::one(
            "config_discovery",
            "extension discovery is not supported",
        )),
        None => Err(Problems::one("typed_config", "is required")),
    }
}

fn routes(value: &pbh::HttpConnectionManager, cx: &BuildContext) -> Compiled<RouteSource> {
    use pbh::http_connection_manager::RouteSpecifier;
    match &value.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => {
            let key = cx.sources.key(&rds.route_config_name, rds.config_source.as_ref());
            let last = cx.last_routes.of(&key);
            Ok(RouteSource::Rds(key, last))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            let table = RouteTable::parse(config.encode_to_vec().into(), cx).under("route_config")?;
            Ok(RouteSource::Inline(Arc::new(table)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err(Problems::one("scoped_routes", "is not supported")),
        None => Err(Problems::one("route_specifier", "is required")),
    }
}

#[allow(deprecated, reason = "the older fields still count")]
fn log_options(value: &pbh::HttpConnectionManager) -> Compiled<LogOptions> {
    let interval = |path: &str, interval| {
        let interval = duration(path, interval)?;
        let short = interval.is_some_and(|interval| interval < Duration::from_millis(1));
        refuse(path, short, "must be at least 1 ms")?;
        Ok(interval)
    };
    let Some(options) = &value.access_log_options else {
        return Ok(LogOptions {
            on_new_request: value.flush_access_log_on_new_request,
            on_tunnel: false,
            interval: interval("access_log_flush_interval", value.access_log_flush_interval.as_ref())?,
        });
    };
    let both = "cannot be combined with access_log_options";
    refuse(
        "flush_access_log_on_new_request",
        value.flush_access_log_on_new_request,
        both,
    )?;
    refuse(
        "access_log_flush_interval",
        value.access_log_flush_interval.is_some(),
        both,
    )?;
    Ok(LogOptions {
        on_new_request: options.flush_access_log_on_new_request,
        on_tunnel: options.flush_log_on_tunnel_successfully_established,
        interval: interval(
            "access_log_options.access_log_flush_interval",
            options.access_log_flush_interval.as_ref(),
        )?,
    })
}

fn max_stream_duration(value: &pbh::HttpConnectionManager) -> Compiled<Option<Duration>> {
    let common = value.common_http_protocol_options.as_ref();
    let value = common.and_then(|options| options.max_stream_duration.as_ref());
    limit("common_http_protocol_options.max_stream_duration", value, None)
}

fn h1_options(value: &pbh::HttpConnectionManager) -> Compiled<H1Options> {
    let default = H1Options::default();
    let h1 = value.http_protocol_options.as_ref();
    let case = h1
        .map(header_case::compile)
        .transpose()
        .under("http_protocol_options")?;
    Ok(H1Options {
        header_case: case.unwrap_or_default(),
        max_head_bytes: max_head_bytes(value, default.max_head_bytes),
        max_headers: max_headers(value, default.max_headers),
        accept_http_10: h1.is_some_and(|options| options.accept_http_10),
        enable_trailers: h1.is_some_and(|options| options.enable_trailers),
        max_requests: max_requests(value),
        underscores: underscores(value),
        ..default
    })
}

fn h2_options(value: &pbh::HttpConnectionManager) -> Compiled<H2Options> {
    let default = H2Options::default();
    let h2 = value.http2_protocol_options.clone().unwrap_or_default();
    let number = |field: &Option<remora_proto::pb::google::protobuf::UInt32Value>, default: u32| {
        field.as_ref().map_or(default, |value| value.value)
    };
    Ok(H2Options {
        max_concurrent_streams: number(&h2.max_concurrent_streams, default.max_concurrent_streams),
        initial_stream_window: number(&h2.initial_stream_window_size, default.initial_stream_window),
        initial_connection_window: number(&h2.initial_connection_window_size, default.initial_connection_window),
        header_table_size: number(&h2.hpack_table_size, default.header_table_size),
        max_header_list_size: u32::try_from(max_head_bytes(value, default.max_header_list_size as usize))
            .unwrap_or(u32::MAX),
        max_headers_count: max_headers(value, default.max_headers_count),
        allow_connect: h2.allow_connect,
        keepalive: keepalive(h2.connection_keepalive.as_ref()).under("http2_protocol_options.connection_keepalive")?,
        max_requests_per_connection: max_requests(value),
        underscores: underscores(value),
        floods: floods(&h2),
        ..default
    })
}

/// Of either side.
pub(super) fn floods(value: &pbc::Http2ProtocolOptions) -> FloodLimits {
    let default = FloodLimits::default();
    let empty = value.max_consecutive_inbound_frames_with_empty_payload.as_ref();
    let priorities = value.max_inbound_priority_frames_per_stream.as_ref();
    let updates = value.max_inbound_window_update_frames_per_data_frame_sent.as_ref();
    let outbound = value.max_outbound_frames.as_ref();
    let controls = value.max_outbound_control_frames.as_ref();
    FloodLimits {
        empty_in_a_row: empty.map_or(default.empty_in_a_row, |limit| limit.value),
        priorities_per_stream: priorities.map_or(default.priorities_per_stream, |limit| limit.value),
        window_updates_per_data_frame: updates.map_or(default.window_updates_per_data_frame, |limit| limit.value),
        outbound_frames: outbound.map_or(default.outbound_frames, |limit| limit.value),
        outbound_control_frames: controls.map_or(default.outbound_control_frames, |limit| limit.value),
    }
}

/// `common_http_protocol_options.headers_with_underscores_action`
fn underscores(value: &pbh::HttpConnectionManager) -> Underscores {
    use pbc::http_protocol_options::HeadersWithUnderscoresAction as Action;
    let common = value.common_http_protocol_options.as_ref();
    match common.map(pbc::HttpProtocolOptions::headers_with_underscores_action) {
        Some(Action::RejectRequest) => Underscores::Reject,
        Some(Action::DropHeader) => Underscores::Drop,
        Some(Action::Allow) | None => Underscores::Allow,
    }
}

fn max_age(value: &pbh::HttpConnectionManager) -> Compiled<Option<Duration>> {
    let age = value.common_http_protocol_options.as_ref();
    limit(
        "common_http_protocol_options.max_connection_duration",
        age.and_then(|common| common.max_connection_duration.as_ref()),
        None,
    )
}

/// `common_http_protocol_options.max_connection_duration_jitter`, in percent.
fn age_jitter(value: &pbh::HttpConnectionManager) -> f64 {
    let common = value.common_http_protocol_options.as_ref();
    let jitter = common.and_then(|common| common.max_connection_duration_jitter.as_ref());
    jitter.map_or(0.0, |percent| percent.value)
}

fn keepalive(settings: Option<&pbc::KeepaliveSettings>) -> Compiled<Option<KeepaliveOptions>> {
    let Some(settings) = settings else { return Ok(None) };
    let interval = limit("interval", settings.interval.as_ref(), None)?;
    let timeout = limit("timeout", settings.timeout.as_ref(), None)?;
    match (interval, timeout) {
        (Some(interval), Some(timeout)) => Ok(Some(KeepaliveOptions { interval, timeout })),
        (None, _) => Ok(None),
        (Some(_), None) => Err(Problems::one("timeout", "is required")),
    }
}

fn max_head_bytes(value: &pbh::HttpConnectionManager, default: usize) -> usize {
    value
        .max_request_headers_kb
        .as_ref()
        .map_or(default, |kib| kib.value as usize * 1024)
}

fn max_headers(value: &pbh::HttpConnectionManager, default: usize) -> usize {
    let common = value.common_http_protocol_options.as_ref();
    common
        .and_then(|common| common.max_headers_count.as_ref())
        .map_or(default, |count| count.value as usize)
}

/// `common_http_protocol_options.max_requests_per_connection`; zero is none.
fn max_requests(value: &pbh::HttpConnectionManager) -> Option<u32> {
    let common = value.common_http_protocol_options.as_ref()?;
    let limit = common.max_requests_per_connection.as_ref()?.value;
    (limit > 0).then_some(limit)
}

fn idle_timeout(value: &pbh::HttpConnectionManager) -> Compiled<Option<Duration>> {
    let common = value.common_http_protocol_options.as_ref();
    let idle = common.and_then(|common| common.idle_timeout.as_ref());
    limit("common_http_protocol_options.idle_timeout", idle, Some(IDLE))
}

/// A time limit: `default` when unset, none when zero.
fn limit(
    path: &str,
    value: Option<&remora_proto::pb::google::protobuf::Duration>,
    default: Option<Duration>,
) -> Compiled<Option<Duration>> {
    match value {
        None => Ok(default),
        Some(_) => Ok(duration(path, value)?.filter(|limit| !limit.is_zero())),
    }
}

/// Upgrade types that are allowed unless a route says otherwise, in lower case.
fn upgrades(value: &pbh::HttpConnectionManager) -> Compiled<Vec<String>> {
    let mut allowed = Vec::new();
    for (index, upgrade) in value.upgrade_configs.iter().enumerate() {
        refuse(
            "filters",
            !upgrade.filters.is_empty(),
            "a filter chain of its own is not supported",
        )
        .under(&format!("upgrade_configs[{index}]"))?;
        if upgrade.enabled.is_none_or(|enabled| enabled.value) {
            allowed.push(upgrade.upgrade_type.to_ascii_lowercase());
        }
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(fields: &str) -> Result<LogOptions, String> {
        const NAME: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let yaml = format!("{{stat_prefix: s, {fields}}}");
        let encoded = remora_proto::json::encode_text(&yaml, NAME, &Default::default()).expect("it fits");
        let value = pbh::HttpConnectionManager::decode(encoded.bytes.as_slice()).expect("a message");
        log_options(&value).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_older_fields_of_access_logs_stand_alone() {
        let meanwhile = |millis| LogOptions {
            interval: Some(Duration::from_millis(millis)),
            ..LogOptions::default()
        };
        assert_eq!(options("access_log_flush_interval: 0.2s"), Ok(meanwhile(200)));
        let newer = "access_log_options: {access_log_flush_interval: 1s}";
        assert_eq!(options(newer), Ok(meanwhile(1000)));
        for older in ["flush_access_log_on_new_request: true", "access_log_flush_interval: 1s"] {
            let refused = options(&format!("{newer}, {older}")).unwrap_err();
            assert!(
                refused.contains("cannot be combined with access_log_options"),
                "{refused}"
            );
        }
        let short = options("access_log_options: {access_log_flush_interval: 0.0005s}").unwrap_err();
        assert_eq!(
            short,
            "access_log_options.access_log_flush_interval: must be at least 1 ms"
        );
    }

    #[test]
    fn connections_may_become_older_by_chance() {
        let settings = |common: &str| {
            let yaml = format!(
                r#"{{stat_prefix: m, route_config: {{}}, common_http_protocol_options: {{{common}}}, http_filters: [{{name: r, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}"#
            );
            let name = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
            let encoded = remora_proto::json::encode_text(&yaml, name, &Default::default()).unwrap();
            let manager = compile(&encoded.bytes, &BuildContext::default());
            let manager = manager.unwrap_or_else(|problems| panic!("{problems}"));
            [0.0, 0.5].map(|random| manager.settings.max_age(random).map(|age| age.as_secs()))
        };
        let jitter = "max_connection_duration_jitter: {value: 40}";
        assert_eq!(settings("max_connection_duration: 100s"), [Some(100), Some(100)]);
        assert_eq!(
            settings(&format!("max_connection_duration: 100s, {jitter}")),
            [Some(100), Some(120)]
        );
        assert_eq!(settings(jitter), [None, None]);
    }
}
