//! `HealthCheck`: HTTP, gRPC and TCP.

use std::time::Duration;

use core::health_check::HealthChecker;
use prost::{Message, Name};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink as FileSink;

use crate::cluster::health_check::events::EventLog;
use crate::cluster::health_check::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, TcpCheck};
use crate::config::route::{Under, duration, each, header_name, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems};
use crate::route::strings::StringMatcher;
use crate::tls::UpstreamTransport;

const UNSPECIFIED: i32 = core::RequestMethod::MethodUnspecified as i32;
const GET: i32 = core::RequestMethod::Get as i32;
const HEAD: i32 = core::RequestMethod::Head as i32;

pub(super) fn compile(
    config: &core::HealthCheck,
    transport: &UpstreamTransport,
    cx: &BuildContext,
) -> Compiled<HealthCheck> {
    refuse("event_service", config.event_service.is_some(), "not supported")?;
    let required = |field: &str, value: &Option<remora_proto::pb::google::protobuf::Duration>| {
        let time = duration(field, value.as_ref())?.filter(|time| !time.is_zero());
        time.ok_or_else(|| Problems::one(field, "required, and greater than 0"))
    };
    let or = |field: &str, value: &Option<remora_proto::pb::google::protobuf::Duration>, default: Duration| {
        Ok(duration(field, value.as_ref())?
            .filter(|time| !time.is_zero())
            .unwrap_or(default))
    };
    let threshold = |field: &str, value: &Option<remora_proto::pb::google::protobuf::UInt32Value>| {
        let value = value.as_ref().map(|value| value.value).filter(|value| *value > 0);
        value.ok_or_else(|| Problems::one(field, "required, and greater than 0"))
    };
    let interval = required("interval", &config.interval)?;
    let no_traffic = or(
        "no_traffic_interval",
        &config.no_traffic_interval,
        Duration::from_secs(60),
    )?;
    let unhealthy = or("unhealthy_interval", &config.unhealthy_interval, interval)?;
    let alt_port = config.alt_port.as_ref().map(|port| u16::try_from(port.value));
    Ok(HealthCheck {
        timeout: required("timeout", &config.timeout)?,
        interval,
        initial_jitter: or("initial_jitter", &config.initial_jitter, Duration::ZERO)?,
        interval_jitter: or("interval_jitter", &config.interval_jitter, Duration::ZERO)?,
        interval_jitter_percent: config.interval_jitter_percent,
        unhealthy_threshold: threshold("unhealthy_threshold", &config.unhealthy_threshold)?,
        healthy_threshold: threshold("healthy_threshold", &config.healthy_threshold)?,
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: or(
            "no_traffic_healthy_interval",
            &config.no_traffic_healthy_interval,
            no_traffic,
        )?,
        unhealthy_interval: unhealthy,
        unhealthy_edge_interval: or("unhealthy_edge_interval", &config.unhealthy_edge_interval, unhealthy)?,
        healthy_edge_interval: or("healthy_edge_interval", &config.healthy_edge_interval, interval)?,
        alt_port: alt_port
            .transpose()
            .map_err(|_| Problems::one("alt_port", "must be at most 65535"))?,
        alpn: config.tls_options.as_ref().map_or_else(Vec::new, |options| {
            let names = options.alpn_protocols.iter();
            names.map(|name| name.as_bytes().to_vec()).collect()
        }),
        transport: config.transport_socket_match_criteria.as_ref().map(|criteria| {
            let has = |(key, value): &(String, _)| criteria.fields.get(key) == Some(value);
            let fitting = transport.matches.iter().find(|entry| entry.labels.iter().all(has));
            fitting.map_or(&transport.default, |entry| &entry.socket).clone()
        }),
        reuse: config.reuse_connection.as_ref().is_none_or(|reuse| reuse.value),
        events: events(config, cx)?,
        kind: kind(config.health_checker.as_ref())?,
    })
}

/// `event_logger`, and `event_log_path` of old.
#[allow(deprecated)]
fn events(config: &core::HealthCheck, cx: &BuildContext) -> Compiled<Option<EventLog>> {
    let open = |path: &str| {
        let opened = cx.access_logs.open(path, &cx.stats);
        opened.map_err(|error| Problems::one("event_log_path", format!("unable to open file '{path}': {error}")))
    };
    let mut sinks = each("event_logger", &config.event_logger, |entry| {
        let Some(any) = &entry.typed_config else {
            return Err(Problems::one("typed_config", "required"));
        };
        let (name, value) = crate::config::listener::content(any).under("typed_config")?;
        if name != FileSink::full_name() {
            return Err(Problems::one("typed_config", format!("{name} is not supported")));
        }
        let sink = FileSink::decode(&*value).map_err(|error| Problems::one("typed_config", error.to_string()))?;
        open(&sink.event_log_path).under("typed_config")
    })?;
    if !config.event_log_path.is_empty() {
        sinks.push(open(&config.event_log_path)?);
    }
    Ok((!sinks.is_empty()).then_some(EventLog {
        sinks,
        failures: config.always_log_health_check_failures,
        successes: config.always_log_health_check_success,
    }))
}

fn kind(checker: Option<&HealthChecker>) -> Compiled<CheckKind> {
    match checker {
        Some(HealthChecker::HttpHealthCheck(value)) => {
            http_check(value).under("http_health_check").map(CheckKind::Http)
        }
        Some(HealthChecker::TcpHealthCheck(value)) => tcp_check(value).under("tcp_health_check").map(CheckKind::Tcp),
        Some(HealthChecker::GrpcHealthCheck(value)) => {
            grpc_check(value).under("grpc_health_check").map(CheckKind::Grpc)
        }
        Some(HealthChecker::CustomHealthCheck(_)) => Err(Problems::one("custom_health_check", "not supported")),
        None => Err(Problems::one("health_checker", "required")),
    }
}

fn http_check(config: &core::health_check::HttpHealthCheck) -> Compiled<HttpCheck> {
    refuse("path", config.path.is_empty(), "required")?;
    refuse(
        "path",
        config.path.parse::<http::uri::PathAndQuery>().is_err(),
        "is no path",
    )?;
    let headers = each("request_headers_to_add", &config.request_headers_to_add, header)?;
    let send = optional("send", config.send.as_ref(), payload)?.unwrap_or_default();
    let carries = !matches!(config.method, GET | HEAD | UNSPECIFIED);
    refuse(
        "send",
        !send.is_empty() && !carries,
        "goes with a method that has a body",
    )?;
    let mut expected = each("expected_statuses", &config.expected_statuses, range)?;
    if expected.is_empty() {
        expected.push((200, 201));
    }
    use core::RequestMethod as Method;
    let method = match Method::try_from(config.method) {
        Ok(Method::MethodUnspecified | Method::Get) => http::Method::GET,
        Ok(Method::Connect) | Err(_) => return Err(Problems::one("method", "not supported")),
        Ok(other) => http::Method::from_bytes(other.as_str_name().as_bytes())
            .map_err(|_| Problems::one("method", "unknown value"))?,
    };
    let http2 = match config.codec_client_type {
        0 => false,
        1 => true,
        _ => return Err(Problems::one("codec_client_type", "not supported")),
    };
    Ok(HttpCheck {
        host: config.host.clone(),
        path: config.path.clone(),
        method,
        headers,
        without: each("request_headers_to_remove", &config.request_headers_to_remove, |name| {
            header_name("", name)
        })?,
        send,
        receive: each("receive", &config.receive, payload)?,
        response_buffer_size: config.response_buffer_size.as_ref().map_or(1024, |size| size.value),
        service_name: optional(
            "service_name_matcher",
            config.service_name_matcher.as_ref(),
            StringMatcher::compile,
        )?,
        expected,
        retriable: each("retriable_statuses", &config.retriable_statuses, range)?,
        http2,
    })
}

fn header(option: &core::HeaderValueOption) -> Compiled<(http::HeaderName, http::HeaderValue)> {
    let header = option.header.clone().unwrap_or_default();
    let name = header_name("header.key", &header.key)?;
    match http::HeaderValue::from_str(&header.value) {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Problems::one("header.value", "is no header value")),
    }
}

fn grpc_check(config: &core::health_check::GrpcHealthCheck) -> Compiled<GrpcCheck> {
    Ok(GrpcCheck {
        service: config.service_name.clone(),
        authority: config.authority.clone(),
        headers: each("initial_metadata", &config.initial_metadata, header)?,
    })
}

fn range(range: &remora_proto::pb::envoy::r#type::v3::Int64Range) -> Compiled<(u16, u16)> {
    match (u16::try_from(range.start), u16::try_from(range.end)) {
        (Ok(start), Ok(end)) if start >= 100 && end <= 600 && start < end => Ok((start, end)),
        _ => Err(Problems::one("", "must lie within 100..600 and not be empty")),
    }
}

fn tcp_check(config: &core::health_check::TcpHealthCheck) -> Compiled<TcpCheck> {
    refuse(
        "proxy_protocol_config",
        config.proxy_protocol_config.is_some(),
        "not supported",
    )?;
    Ok(TcpCheck {
        send: config
            .send
            .as_ref()
            .map(payload)
            .transpose()
            .under("send")?
            .unwrap_or_default(),
        receive: each("receive", &config.receive, payload)?,
    })
}

fn payload(config: &core::health_check::Payload) -> Compiled<Vec<u8>> {
    use core::health_check::payload::Payload;
    match &config.payload {
        Some(Payload::Text(hex)) => unhex(hex).ok_or_else(|| Problems::one("text", "is no hexadecimal text")),
        Some(Payload::Binary(bytes)) => Ok(bytes.clone()),
        None => Err(Problems::one("", "required")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    let nibbles = nibbles.filter(|nibbles| !nibbles.is_empty() && nibbles.len() % 2 == 0)?;
    Some(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
