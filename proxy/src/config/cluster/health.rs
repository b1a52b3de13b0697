//! `HealthCheck`: HTTP, gRPC and TCP.

use std::time::Duration;

use core::health_check::HealthChecker;
use prost::{Message, Name};
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink as FileSink;
use remora_proto::pb::google::protobuf::UInt32Value;

use crate::cluster::health_check::events::EventLog;
use crate::cluster::health_check::{CheckKind, GrpcCheck, HealthCheck, HttpCheck, TcpCheck};
use crate::config::route::{Under, duration, each, header_name, mutable_name, optional, refuse};
use crate::config::{BuildContext, Compiled, Problems, gather};
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
    let required = |field: &str, value: &Option<remora_proto::pb::google::protobuf::Duration>| {
        let time = duration(field, value.as_ref())?.filter(|time| !time.is_zero());
        time.ok_or_else(|| Problems::one(field, "required, and greater than 0"))
    };
    let set = |field: &str, value: &Option<remora_proto::pb::google::protobuf::Duration>| {
        Ok(duration(field, value.as_ref())?.filter(|time| !time.is_zero()))
    };
    let threshold = |field: &str, value: &Option<UInt32Value>| {
        let value = value.as_ref().map(|value| value.value).filter(|value| *value > 0);
        value.ok_or_else(|| Problems::one(field, "required, and greater than 0"))
    };
    let alt_port =
        |port: &UInt32Value| u16::try_from(port.value).map_err(|_| Problems::one("", "must be at most 65535"));
    gather! {
        let _service = refuse("event_service", config.event_service.is_some(), "not supported");
        let timeout = required("timeout", &config.timeout);
        let interval = required("interval", &config.interval);
        let initial_jitter = set("initial_jitter", &config.initial_jitter);
        let interval_jitter = set("interval_jitter", &config.interval_jitter);
        let unhealthy_threshold = threshold("unhealthy_threshold", &config.unhealthy_threshold);
        let healthy_threshold = threshold("healthy_threshold", &config.healthy_threshold);
        let no_traffic = set("no_traffic_interval", &config.no_traffic_interval);
        let no_traffic_healthy = set("no_traffic_healthy_interval", &config.no_traffic_healthy_interval);
        let unhealthy = set("unhealthy_interval", &config.unhealthy_interval);
        let unhealthy_edge = set("unhealthy_edge_interval", &config.unhealthy_edge_interval);
        let healthy_edge = set("healthy_edge_interval", &config.healthy_edge_interval);
        let alt_port = optional("alt_port", config.alt_port.as_ref(), alt_port);
        let events = events(config, cx);
        let kind = kind(config.health_checker.as_ref());
    }
    let no_traffic = no_traffic.unwrap_or(Duration::from_secs(60));
    let unhealthy = unhealthy.unwrap_or(interval);
    Ok(HealthCheck {
        timeout,
        interval,
        initial_jitter: initial_jitter.unwrap_or_default(),
        interval_jitter: interval_jitter.unwrap_or_default(),
        interval_jitter_percent: config.interval_jitter_percent,
        unhealthy_threshold,
        healthy_threshold,
        no_traffic_interval: no_traffic,
        no_traffic_healthy_interval: no_traffic_healthy.unwrap_or(no_traffic),
        unhealthy_interval: unhealthy,
        unhealthy_edge_interval: unhealthy_edge.unwrap_or(unhealthy),
        healthy_edge_interval: healthy_edge.unwrap_or(interval),
        alt_port,
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
        events,
        kind,
    })
}

/// `event_logger`, and `event_log_path` of old.
#[allow(deprecated)]
fn events(config: &core::HealthCheck, cx: &BuildContext) -> Compiled<Option<EventLog>> {
    let open = |path: &str| {
        let opened = cx.access_logs.open(path, &cx.stats);
        opened.map_err(|error| Problems::one("event_log_path", format!("unable to open file '{path}': {error}")))
    };
    let sinks = each("event_logger", &config.event_logger, |entry| {
        let Some(any) = &entry.typed_config else {
            return Err(Problems::one("typed_config", "required"));
        };
        let (name, value) = crate::config::listener::content(any).under("typed_config")?;
        if name != FileSink::full_name() {
            return Err(Problems::one("typed_config", format!("{name} is not supported")));
        }
        let sink = FileSink::decode(&*value).map_err(|error| Problems::one("typed_config", error.to_string()))?;
        open(&sink.event_log_path).under("typed_config")
    });
    let legacy = Some(config.event_log_path.as_str()).filter(|path| !path.is_empty());
    gather! {
        let sinks = sinks;
        let legacy = legacy.map(open).transpose();
    }
    let sinks: Vec<_> = sinks.into_iter().chain(legacy).collect();
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
    let is_path = config.path.parse::<http::uri::PathAndQuery>().is_ok();
    let why = if config.path.is_empty() {
        "required"
    } else {
        "is no path"
    };
    let service_name = config.service_name_matcher.as_ref();
    gather! {
        let _path = refuse("path", !is_path, why);
        let headers = each("request_headers_to_add", &config.request_headers_to_add, header);
        let send = optional("send", config.send.as_ref(), payload);
        let expected = each("expected_statuses", &config.expected_statuses, range);
        let method = method(config.method).under("method");
        let http2 = match config.codec_client_type {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Problems::one("codec_client_type", "not supported")),
        };
        let without = each("request_headers_to_remove", &config.request_headers_to_remove, |name| {
            free_header("", name)
        });
        let receive = each("receive", &config.receive, payload);
        let service_name = optional("service_name_matcher", service_name, StringMatcher::compile);
        let retriable = each("retriable_statuses", &config.retriable_statuses, range);
    }
    let send = send.unwrap_or_default();
    let carries = !matches!(config.method, GET | HEAD | UNSPECIFIED);
    refuse(
        "send",
        !send.is_empty() && !carries,
        "goes with a method that has a body",
    )?;
    let mut expected = expected;
    if expected.is_empty() {
        expected.push((200, 201));
    }
    Ok(HttpCheck {
        host: config.host.clone(),
        path: config.path.clone(),
        method,
        headers,
        without,
        send,
        receive,
        response_buffer_size: config.response_buffer_size.as_ref().map_or(1024, |size| size.value),
        service_name,
        expected,
        retriable,
        http2,
    })
}

fn method(method: i32) -> Compiled<http::Method> {
    use core::RequestMethod as Method;
    match Method::try_from(method) {
        Ok(Method::MethodUnspecified | Method::Get) => Ok(http::Method::GET),
        Ok(Method::Connect) | Err(_) => Err(Problems::one("", "not supported")),
        Ok(other) => {
            http::Method::from_bytes(other.as_str_name().as_bytes()).map_err(|_| Problems::one("", "unknown value"))
        }
    }
}

/// The name of a header that a check may add, or do without.
fn free_header(field: &str, name: &str) -> Compiled<http::HeaderName> {
    let name = header_name(field, name)?;
    refuse(field, name == http::header::HOST, "the host header may not be modified")?;
    Ok(name)
}

fn header(option: &core::HeaderValueOption) -> Compiled<(http::HeaderName, http::HeaderValue)> {
    let header = option.header.clone().unwrap_or_default();
    gather! {
        let name = mutable_name("header.key", &header.key);
        let value = http::HeaderValue::from_str(&header.value)
            .map_err(|_| Problems::one("header.value", "is no header value"));
    }
    Ok((name, value))
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
    let has_header = config.proxy_protocol_config.is_some();
    gather! {
        let _plain = refuse("proxy_protocol_config", has_header, "not supported");
        let send = optional("send", config.send.as_ref(), payload);
        let receive = each("receive", &config.receive, payload);
    }
    Ok(TcpCheck {
        send: send.unwrap_or_default(),
        receive,
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
