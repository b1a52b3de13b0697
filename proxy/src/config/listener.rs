//! `envoy.config.listener.v3.Listener` → [`ListenerConfig`].

mod chains;
pub(crate) use chains::{content, network};
mod needs;
mod raw;
mod settings;
pub(crate) use settings::{keepalive, socket_options};

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use remora_proto::pb::envoy::config::core::v3::{Address as PbAddress, SocketAddress, address};
use remora_proto::pb::envoy::config::listener::v3::Listener;
use xxhash_rust::xxh64::xxh64;

pub use needs::{ListenerNeeds, RouteRef, needs};

use super::route::{Under, each, refuse};
use super::{BuildContext, Compiled, Problem, Problems, gather};
use crate::listener::ListenerConfig;
use crate::runtime::io::Address;
use crate::telemetry::access_log::AccessLog;

/// Compiles an encoded `Listener`, everything in it included.
///
/// # Errors
/// Every field that is wrong or not supported, by path.
pub fn compile(bytes: &[u8], cx: &BuildContext) -> Compiled<ListenerConfig> {
    let config = decode(bytes)?;
    let cx = &BuildContext {
        listener_scope: scope(&config),
        direction: settings::direction(&config),
        ..cx.clone()
    };
    let mut problems = unsupported(&config);
    let mut collect = |result: Compiled<()>| problems.extend(result.err().map(|found| found.0).unwrap_or_default());
    let mut settings = None;
    let mut chains = None;
    let mut addresses = Vec::new();
    let mut access_logs = Vec::new();
    let logs = AccessLog::compile_all(&config.access_log, cx).and_then(own_logs);
    collect(logs.map(|compiled| access_logs = compiled));
    collect(settings::compile(&config, cx).map(|compiled| settings = Some(compiled)));
    collect(chains::compile(&config, bytes, cx).map(|compiled| chains = Some(compiled)));
    collect(self::addresses(&config).map(|compiled| addresses = compiled));
    let (Some(settings), Some(chains), []) = (settings, chains, &problems[..]) else {
        return Err(Problems(problems));
    };
    #[allow(deprecated)]
    let legacy_bind = config
        .deprecated_v1
        .as_ref()
        .and_then(|legacy| legacy.bind_to_port.as_ref());
    let bind = config.bind_to_port.as_ref().or(legacy_bind);
    Ok(ListenerConfig {
        name: Arc::from(config.name.as_str()),
        hash: xxh64(bytes, 0),
        addresses,
        bind_to_port: bind.is_none_or(|wrapped| wrapped.value),
        reuse_port: config.enable_reuse_port.as_ref().is_none_or(|wrapped| wrapped.value),
        chains,
        access_logs: access_logs.into(),
        settings,
        resource: None,
    })
}

/// What is written when a connection ends knows of it what its filters said, not how it came to its end.
fn own_logs(logs: Vec<AccessLog>) -> Compiled<Vec<AccessLog>> {
    let refused = logs.iter().any(AccessLog::needs_close);
    refuse(
        "access_log",
        refused,
        "how a connection was closed is known to the logs of tcp_proxy and of connection managers only",
    )?;
    Ok(logs)
}

/// `listener.<address>.`, or the `stat_prefix` in the address's place.
fn scope(config: &Listener) -> Arc<str> {
    let address = address(config.address.as_ref()).ok();
    let prefix = Some(config.stat_prefix.as_str()).filter(|prefix| !prefix.is_empty());
    Arc::from(crate::listener::stats::prefix(prefix, address.as_ref()))
}

/// A protobuf duration; negative ones are none.
pub fn duration(config: Option<&remora_proto::pb::google::protobuf::Duration>) -> Option<Duration> {
    let config = config?;
    let seconds = u64::try_from(config.seconds).ok()?;
    let nanos = u32::try_from(config.nanos)
        .ok()
        .filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// A duration that must not be negative.
///
/// # Errors
/// It is.
pub fn positive(
    field: &str,
    config: Option<&remora_proto::pb::google::protobuf::Duration>,
) -> Compiled<Option<Duration>> {
    let found = duration(config);
    refuse(
        field,
        config.is_some() && found.is_none(),
        "must be a positive duration",
    )?;
    Ok(found)
}

/// An `Address` that can be bound or connected to.
///
/// # Errors
/// Names that want resolving, UDP, missing parts.
pub fn address(config: Option<&PbAddress>) -> Compiled<Address> {
    match config.and_then(|config| config.address.as_ref()) {
        Some(address::Address::SocketAddress(socket)) => {
            socket_address(socket).map_err(|problems| problems.under("socket_address"))
        }
        Some(address::Address::Pipe(pipe)) => {
            let is_long = pipe.path.len() >= MAX_PIPE;
            refuse("pipe.path", is_long, "exceeds the 107 bytes of a unix socket's path")?;
            Ok(Address::Pipe(Arc::from(pipe.path.as_str())))
        }
        Some(address::Address::EnvoyInternalAddress(_)) => {
            Err(Problems::one("envoy_internal_address", "not supported"))
        }
        None => Err(Problems::one("", "required")),
    }
}

fn socket_address(socket: &SocketAddress) -> Compiled<Address> {
    let has_namespace = !socket.network_namespace_filepath.is_empty();
    gather! {
        let _tcp = refuse("protocol", socket.protocol != 0, "only TCP is supported");
        let _here = refuse("network_namespace_filepath", has_namespace, "not supported");
        let ip = socket.address.parse::<std::net::IpAddr>().map_err(|_| {
            Problems::one("address", format!("malformed IP address: {}", socket.address))
        });
        let port = match &socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => {
                u16::try_from(*port).map_err(|_| Problems::one("port_value", "must be at most 65535"))
            }
            Some(PortSpecifier::NamedPort(_)) => Err(Problems::one("named_port", "not supported")),
            None => Ok(0),
        };
    }
    Ok(Address::Ip(std::net::SocketAddr::new(ip, port)))
}

fn decode(bytes: &[u8]) -> Compiled<Listener> {
    Listener::decode(bytes).map_err(|error| Problems::one("", error.to_string()))
}

fn addresses(config: &Listener) -> Compiled<Vec<Address>> {
    if config.listener_specifier.is_some() {
        // An internal listener has none. The tables refuse it; where the operator wants warnings, it is there and nothing reaches it.
        return Ok(Vec::new());
    }
    gather! {
        let first = address(config.address.as_ref()).under("address");
        let additional = each("additional_addresses", &config.additional_addresses, |additional| {
            address(additional.address.as_ref()).under("address")
        });
    }
    Ok(std::iter::once(first).chain(additional).collect())
}

/// `sockaddr_un.sun_path`, its final zero included.
const MAX_PIPE: usize = 108;

/// Fields whose absence would change what the listener does.
fn unsupported(config: &Listener) -> Vec<Problem> {
    let fields = [
        ("fcds_config", config.fcds_config.is_some()),
        ("filter_chain_matcher", config.filter_chain_matcher.is_some()),
        (
            "per_connection_buffer_high_watermark_timeout",
            config.per_connection_buffer_high_watermark_timeout.is_some(),
        ),
        ("udp_listener_config", config.udp_listener_config.is_some()),
        ("api_listener", config.api_listener.is_some()),
        ("enable_mptcp", config.enable_mptcp),
        (
            "tcp_fast_open_queue_length",
            config.tcp_fast_open_queue_length.is_some(),
        ),
        ("stats_matcher", config.stats_matcher.is_some()),
    ];
    let set = fields.iter().filter(|(_, set)| *set);
    set.map(|(field, _)| Problem {
        path: (*field).to_owned(),
        reason: "not supported".to_owned(),
    })
    .collect()
}

#[cfg(test)]
pub(crate) mod tests;
