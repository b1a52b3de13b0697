//! What a listener says about its socket and its listener filters.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::{self as core, address::Address as AddressKind, socket_option};
use remora_proto::pb::envoy::config::listener::v3::listener::connection_balance_config::BalanceType;
use remora_proto::pb::envoy::config::listener::v3::{
    AdditionalAddress, Listener, ListenerFilter as PbFilter, ListenerFilterChainMatchPredicate as PbPredicate,
    listener_filter, listener_filter_chain_match_predicate::Rule,
};
use remora_proto::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use remora_proto::pb::google::protobuf::{BoolValue, UInt32Value};

use super::{BuildContext, Compiled, Problems, positive};
use crate::config::gather;
use crate::config::route::{Under, each, optional, refuse};
use crate::filters::listener::{local_ratelimit, original_src, proxy_protocol};
use crate::listener::balance::Balance;
use crate::listener::detect::client_hello::MAX_CLIENT_HELLO;
use crate::listener::detect::fingerprint::Wanted;
use crate::listener::{
    AddressOptions, Direction, Keepalive, ListenerFilter, ListenerFilterKind, ListenerSettings, PortPredicate,
    SocketOption, SocketState, TlsInspection,
};

const PREFIX: &str = "type.googleapis.com/envoy.extensions.filters.listener.";
/// `per_connection_buffer_limit_bytes` when it is not set.
const BUFFER_LIMIT: usize = 1024 * 1024;
/// `listener_filters_timeout` when it is not set.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// # Errors
/// Listener filters that do not exist here, and options that cannot be set.
pub fn compile(config: &Listener, cx: &BuildContext) -> Compiled<ListenerSettings> {
    let flag = |wrapped: &Option<BoolValue>| wrapped.as_ref().is_some_and(|wrapped| wrapped.value);
    gather! {
        let filters = each("listener_filters", &config.listener_filters, |filter| listener_filter(filter, cx));
        let socket_options = socket_options(&config.socket_options).under("socket_options");
        let additional = additional(config);
        let balance = balance(config);
        let pipe_mode = pipe_mode(config.address.as_ref()).under("address");
        let timeout = positive("listener_filters_timeout", config.listener_filters_timeout.as_ref());
        let ipv4_compat = ipv4_compat(config).under("address");
    }
    let mut filters = filters;
    let use_original_dst = flag(&config.use_original_dst);
    let restores = filters
        .iter()
        .any(|filter| matches!(filter.kind, ListenerFilterKind::OriginalDst));
    if use_original_dst && !restores {
        // The deprecated field implies the filter.
        filters.insert(
            0,
            ListenerFilter {
                kind: ListenerFilterKind::OriginalDst,
                disabled: None,
            },
        );
    }
    let timeout = timeout.unwrap_or(FILTERS_TIMEOUT);
    Ok(ListenerSettings {
        metadata: config.metadata.clone().map(Arc::new),
        stat_prefix: Some(config.stat_prefix.clone()).filter(|prefix| !prefix.is_empty()),
        direction: direction(config),
        use_original_dst,
        buffer_limit: config
            .per_connection_buffer_limit_bytes
            .as_ref()
            .map_or(BUFFER_LIMIT, |wrapped| wrapped.value as usize),
        backlog: config.tcp_backlog_size.as_ref().map(|wrapped| wrapped.value),
        transparent: flag(&config.transparent),
        freebind: flag(&config.freebind),
        listener_filters: filters,
        listener_filters_timeout: Some(timeout).filter(|timeout| !timeout.is_zero()),
        continue_on_listener_filters_timeout: config.continue_on_listener_filters_timeout,
        drain_modify_only: config.drain_type == 1,
        socket_options,
        keepalive: config.tcp_keepalive.as_ref().and_then(keepalive),
        additional,
        balance,
        ignores_connection_limit: config.ignore_global_conn_limit,
        connection_limit: cx.connection_limits.get(&config.name).copied(),
        pipe_mode,
        ipv4_compat,
    })
}

pub(super) fn direction(config: &Listener) -> Direction {
    match config.traffic_direction {
        1 => Direction::Inbound,
        2 => Direction::Outbound,
        _ => Direction::Unspecified,
    }
}

fn balance(config: &Listener) -> Compiled<Balance> {
    match config
        .connection_balance_config
        .as_ref()
        .map(|config| &config.balance_type)
    {
        None => Ok(Balance::Even),
        Some(Some(BalanceType::ExactBalance(_))) => Ok(Balance::Exact),
        Some(Some(_)) => Err(Problems::one(
            "connection_balance_config.balance_type",
            "only exact_balance is supported",
        )),
        Some(None) => Err(Problems::one("connection_balance_config.balance_type", "required")),
    }
}

/// What each of `additional_addresses` has of its own.
fn additional(config: &Listener) -> Compiled<Vec<AddressOptions>> {
    each(
        "additional_addresses",
        &config.additional_addresses,
        |own: &AdditionalAddress| {
            let options = own.socket_options.as_ref();
            gather! {
                let socket_options = optional("socket_options.socket_options", options, |own| {
                    socket_options(&own.socket_options)
                });
                let pipe_mode = pipe_mode(own.address.as_ref()).under("address");
            }
            Ok(AddressOptions {
                socket_options,
                keepalive: own.tcp_keepalive.as_ref().map(keepalive),
                pipe_mode,
            })
        },
    )
}

/// `tcp_keepalive`: its times are whole seconds. Any zero turns it off.
pub fn keepalive(config: &core::TcpKeepalive) -> Option<Keepalive> {
    let value = |wrapped: &Option<UInt32Value>| wrapped.as_ref().map(|wrapped| wrapped.value);
    let seconds = |wrapped| value(wrapped).map(|value| Duration::from_secs(u64::from(value)));
    let fields = [
        &config.keepalive_probes,
        &config.keepalive_time,
        &config.keepalive_interval,
    ];
    let off = fields.into_iter().any(|field| value(field) == Some(0));
    (!off).then(|| Keepalive {
        probes: value(&config.keepalive_probes),
        time: seconds(&config.keepalive_time),
        interval: seconds(&config.keepalive_interval),
    })
}

/// `socket_options`, of a listener or of an upstream bind.
///
/// # Errors
/// Numbers that no system call takes, options without a value.
pub fn socket_options(config: &[core::SocketOption]) -> Compiled<Vec<SocketOption>> {
    let number = |value: i64, field: &str| i32::try_from(value).map_err(|_| Problems::one(field, "out of range"));
    each("", config, |option| {
        gather! {
            let level = number(option.level, "level");
            let name = number(option.name, "name");
            let value = match &option.value {
                Some(socket_option::Value::IntValue(value)) => {
                    number(*value, "int_value").map(|value| value.to_ne_bytes().to_vec())
                }
                Some(socket_option::Value::BufValue(value)) => Ok(value.clone()),
                None => Err(Problems::one("value", "required")),
            };
        }
        Ok(SocketOption {
            level,
            name,
            value,
            state: match option.state {
                0 => SocketState::PreBind,
                1 => SocketState::Bound,
                _ => SocketState::Listening,
            },
        })
    })
}

/// `pipe.mode`; zero is none.
fn pipe_mode(config: Option<&core::Address>) -> Compiled<Option<u32>> {
    let Some(AddressKind::Pipe(pipe)) = config.and_then(|address| address.address.as_ref()) else {
        return Ok(None);
    };
    let mode = Some(pipe.mode).filter(|mode| *mode != 0);
    match mode {
        Some(_) if pipe.path.starts_with('@') => {
            Err(Problems::one("pipe.mode", "cannot be set for an abstract socket"))
        }
        Some(mode) if mode > 0o777 => Err(Problems::one("pipe.mode", "must be at most 0777")),
        mode => Ok(mode),
    }
}

fn ipv4_compat(config: &Listener) -> Compiled<bool> {
    let Some(AddressKind::SocketAddress(socket)) = config.address.as_ref().and_then(|address| address.address.as_ref())
    else {
        return Ok(false);
    };
    let can = match socket.address.parse() {
        Ok(IpAddr::V6(ip)) => ip.is_unspecified() || ip.to_ipv4_mapped().is_some(),
        // What is no address is told elsewhere.
        Ok(IpAddr::V4(_)) | Err(_) => socket.address.contains(':'),
    };
    refuse(
        "socket_address.ipv4_compat",
        socket.ipv4_compat && !can,
        "only the IPv6 address '::' or an IPv4-mapped IPv6 address can have it",
    )?;
    Ok(socket.ipv4_compat)
}

fn listener_filter(config: &PbFilter, cx: &BuildContext) -> Compiled<ListenerFilter> {
    gather! {
        let kind = listener_filter_kind(config, cx);
        let disabled = optional("filter_disabled", config.filter_disabled.as_ref(), predicate);
    }
    Ok(ListenerFilter { kind, disabled })
}

fn listener_filter_kind(config: &PbFilter, cx: &BuildContext) -> Compiled<ListenerFilterKind> {
    let any = match &config.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) => any,
        Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(Problems::one("config_discovery", "not supported"));
        }
        None => return Err(Problems::one("typed_config", "required")),
    };
    let broken = |error: prost::DecodeError| Problems::one("typed_config", error.to_string());
    Ok(match any.type_url.strip_prefix(PREFIX) {
        Some("original_dst.v3.OriginalDst") => ListenerFilterKind::OriginalDst,
        Some("http_inspector.v3.HttpInspector") => ListenerFilterKind::HttpInspector,
        Some("tls_inspector.v3.TlsInspector") => {
            let inspector = TlsInspector::decode(any.value.as_slice()).map_err(broken)?;
            let max = inspector
                .max_client_hello_size
                .as_ref()
                .map(|wrapped| wrapped.value as usize);
            let is_set = |value: &Option<BoolValue>| value.as_ref().is_some_and(|wrapped| wrapped.value);
            ListenerFilterKind::TlsInspector(TlsInspection {
                max_hello: max.unwrap_or(MAX_CLIENT_HELLO).min(MAX_CLIENT_HELLO),
                close_on_error: inspector.close_connection_on_client_hello_parsing_errors,
                fingerprints: Wanted {
                    ja3: is_set(&inspector.enable_ja3_fingerprinting),
                    ja4: is_set(&inspector.enable_ja4_fingerprinting),
                },
            })
        }
        _ if any.type_url == proxy_protocol::TYPE_URL => {
            let filter = proxy_protocol::compile(&any.value, cx).map_err(|problems| problems.under("typed_config"));
            ListenerFilterKind::ProxyProtocol(Arc::new(filter?))
        }
        _ if any.type_url == local_ratelimit::TYPE_URL => {
            let filter = local_ratelimit::compile(&any.value, cx).map_err(|problems| problems.under("typed_config"));
            ListenerFilterKind::LocalRateLimit(Arc::new(filter?))
        }
        _ if any.type_url == original_src::TYPE_URL => {
            let filter = original_src::compile(&any.value).map_err(|problems| problems.under("typed_config"));
            ListenerFilterKind::OriginalSrc(filter?)
        }
        _ => {
            let reason = format!("listener filter {} is not supported", any.type_url);
            return Err(Problems::one("typed_config", reason));
        }
    })
}

fn predicate(config: &PbPredicate) -> Compiled<PortPredicate> {
    let all = |rules: &[PbPredicate]| each("rules", rules, predicate);
    Ok(match &config.rule {
        Some(Rule::OrMatch(set)) => PortPredicate::Or(all(&set.rules).under("or_match")?),
        Some(Rule::AndMatch(set)) => PortPredicate::And(all(&set.rules).under("and_match")?),
        Some(Rule::NotMatch(rule)) => PortPredicate::Not(Box::new(predicate(rule).under("not_match")?)),
        Some(Rule::AnyMatch(_)) => PortPredicate::Any,
        Some(Rule::DestinationPortRange(range)) => PortPredicate::Ports(range.start..range.end),
        None => return Err(Problems::one("rule", "required")),
    })
}
