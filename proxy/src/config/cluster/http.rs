//! `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`, and the deprecated fields that it replaces.

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::upstreams::http::v3 as upstream;
use upstream::http_protocol_options::UpstreamProtocolOptions;
use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;

use crate::cluster::options::{HttpOptions, UpstreamProtocol};
use crate::cluster::outlier::ErrorMatcher;
use crate::config::route::{Under, duration, header_name, refuse};
use crate::config::{Compiled, Problems};

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[allow(deprecated)]
pub(super) fn compile(config: &pb::Cluster) -> Compiled<HttpOptions> {
    let mut options = HttpOptions::default();
    if let Some(limit) = &config.per_connection_buffer_limit_bytes {
        options.buffer_limit = limit.value;
    }
    let mut is_typed = false;
    for (name, any) in &config.typed_extension_protocol_options {
        let path = format!("typed_extension_protocol_options[{name:?}]");
        refuse(
            &path,
            any.type_url != TYPE_URL,
            &format!("{} is not supported", any.type_url),
        )?;
        let value = upstream::HttpProtocolOptions::decode(any.value.as_slice())
            .map_err(|error| Problems::one(path.as_str(), error.to_string()))?;
        typed(&value, &mut options).under(&path)?;
        is_typed = true;
    }
    if !is_typed {
        deprecated(config, &mut options)?;
    }
    if let Some(limit) = &config.max_requests_per_connection {
        options.max_requests_per_connection = Some(limit.value).filter(|limit| *limit > 0);
    }
    Ok(options)
}

fn typed(value: &upstream::HttpProtocolOptions, options: &mut HttpOptions) -> Compiled<()> {
    refuse("http_filters", !value.http_filters.is_empty(), "not supported")?;
    refuse(
        "header_validation_config",
        value.header_validation_config.is_some(),
        "not supported",
    )?;
    if let Some(predicate) = value
        .outlier_detection
        .as_ref()
        .and_then(|detection| detection.error_matcher.as_ref())
    {
        let matcher = ErrorMatcher::compile(predicate).under("outlier_detection.error_matcher")?;
        options.error_matcher = Some(matcher);
    }
    refuse(
        "request_mirror_policies",
        !value.request_mirror_policies.is_empty(),
        "not supported",
    )?;
    refuse("hash_policy", !value.hash_policy.is_empty(), "not supported")?;
    refuse("retry_policy", value.retry_policy.is_some(), "not supported")?;
    if let Some(value) = &value.common_http_protocol_options {
        common(value, options).under("common_http_protocol_options")?;
    }
    if let Some(value) = &value.upstream_http_protocol_options {
        sni(value, options).under("upstream_http_protocol_options")?;
    }
    match &value.upstream_protocol_options {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match &config.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(value)) => {
                options.protocol = UpstreamProtocol::Http2;
                options.has_http2 = true;
                http2(value, options).under("explicit_http_config.http2_protocol_options")
            }
            Some(ProtocolConfig::HttpProtocolOptions(value)) => {
                http1(value, options).under("explicit_http_config.http_protocol_options")
            }
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => Err(Problems::one(
                "explicit_http_config.http3_protocol_options",
                "not supported",
            )),
            None => Err(Problems::one("explicit_http_config.protocol_config", "required")),
        },
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
            options.protocol = UpstreamProtocol::Downstream;
            let has_http3 = config.http3_protocol_options.is_some();
            refuse(
                "use_downstream_protocol_config.http3_protocol_options",
                has_http3,
                "not supported",
            )?;
            both(&config.http_protocol_options, &config.http2_protocol_options, options)
                .under("use_downstream_protocol_config")
        }
        Some(UpstreamProtocolOptions::AutoConfig(config)) => {
            options.protocol = UpstreamProtocol::Auto;
            options.has_http2 = true;
            refuse(
                "auto_config.http3_protocol_options",
                config.http3_protocol_options.is_some(),
                "not supported",
            )?;
            both(&config.http_protocol_options, &config.http2_protocol_options, options).under("auto_config")
        }
        None => Err(Problems::one("upstream_protocol_options", "required")),
    }
}

/// The fields of the cluster itself, before there was a typed extension.
#[allow(deprecated)]
fn deprecated(config: &pb::Cluster, options: &mut HttpOptions) -> Compiled<()> {
    if let Some(value) = &config.common_http_protocol_options {
        common(value, options).under("common_http_protocol_options")?;
    }
    if let Some(value) = &config.upstream_http_protocol_options {
        sni(value, options).under("upstream_http_protocol_options")?;
    }
    both(&config.http_protocol_options, &config.http2_protocol_options, options)?;
    let is_downstream =
        config.protocol_selection == pb::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32;
    refuse(
        "http_protocol_options",
        config.http_protocol_options.is_some() && config.http2_protocol_options.is_some() && !is_downstream,
        "goes with http2_protocol_options only where protocol_selection is USE_DOWNSTREAM_PROTOCOL",
    )?;
    if is_downstream {
        options.protocol = UpstreamProtocol::Downstream;
    } else if config.http2_protocol_options.is_some() {
        options.protocol = UpstreamProtocol::Http2;
    }
    Ok(())
}

fn both(
    first: &Option<core::Http1ProtocolOptions>,
    second: &Option<core::Http2ProtocolOptions>,
    options: &mut HttpOptions,
) -> Compiled<()> {
    if let Some(value) = first {
        http1(value, options).under("http_protocol_options")?;
    }
    if let Some(value) = second {
        options.has_http2 = true;
        http2(value, options).under("http2_protocol_options")?;
    }
    Ok(())
}

fn common(value: &core::HttpProtocolOptions, options: &mut HttpOptions) -> Compiled<()> {
    // `max_connection_duration_jitter` is for connections of clients: Envoy has none for its own.
    if let Some(idle) = duration("idle_timeout", value.idle_timeout.as_ref())? {
        // Zero switches it off.
        options.idle_timeout = Some(idle).filter(|idle| !idle.is_zero());
    }
    let set = |field, value| Ok(duration(field, value)?.filter(|time| !time.is_zero()));
    options.max_connection_duration = set("max_connection_duration", value.max_connection_duration.as_ref())?;
    options.max_stream_duration = set("max_stream_duration", value.max_stream_duration.as_ref())?;
    if let Some(count) = &value.max_headers_count {
        options.max_headers_count = count.value;
    }
    if let Some(size) = &value.max_response_headers_kb {
        options.max_response_headers_bytes = Some(size.value.saturating_mul(1024));
    }
    if let Some(limit) = &value.max_requests_per_connection {
        options.max_requests_per_connection = Some(limit.value).filter(|limit| *limit > 0);
    }
    Ok(())
}

fn sni(value: &core::UpstreamHttpProtocolOptions, options: &mut HttpOptions) -> Compiled<()> {
    options.auto_sni = value.auto_sni;
    options.auto_san_validation = value.auto_san_validation;
    if !value.override_auto_sni_header.is_empty() {
        let name = header_name("override_auto_sni_header", &value.override_auto_sni_header)?;
        options.override_auto_sni_header = Some(name);
    }
    Ok(())
}

fn http1(value: &core::Http1ProtocolOptions, options: &mut HttpOptions) -> Compiled<()> {
    options.header_case = crate::config::header_case::compile(value)?;
    refuse(
        "send_fully_qualified_url",
        value.send_fully_qualified_url,
        "not supported",
    )?;
    options.accept_http_10 = value.accept_http_10;
    options.enable_trailers = value.enable_trailers;
    Ok(())
}

fn http2(value: &core::Http2ProtocolOptions, options: &mut HttpOptions) -> Compiled<()> {
    refuse(
        "custom_settings_parameters",
        !value.custom_settings_parameters.is_empty(),
        "not supported",
    )?;
    refuse("allow_metadata", value.allow_metadata, "not supported")?;
    let set = |target: &mut u32, value: &Option<remora_proto::pb::google::protobuf::UInt32Value>| {
        if let Some(value) = value {
            *target = value.value;
        }
    };
    set(&mut options.header_table_size, &value.hpack_table_size);
    set(&mut options.max_concurrent_streams, &value.max_concurrent_streams);
    set(&mut options.initial_stream_window, &value.initial_stream_window_size);
    set(
        &mut options.initial_connection_window,
        &value.initial_connection_window_size,
    );
    options.allow_connect = value.allow_connect;
    options.floods = crate::config::hcm::floods(value);
    if let Some(keepalive) = &value.connection_keepalive {
        options.keepalive_interval = duration("connection_keepalive.interval", keepalive.interval.as_ref())?;
        options.keepalive_timeout = duration("connection_keepalive.timeout", keepalive.timeout.as_ref())?;
    }
    Ok(())
}
