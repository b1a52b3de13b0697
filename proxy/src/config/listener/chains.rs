//! Filter chains: what they match, their transport socket, their network filters.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use remora_proto::pb::envoy::config::core::v3::CidrRange;
use remora_proto::pb::envoy::config::listener::v3::{
    Filter as PbFilter, FilterChain as PbChain, FilterChainMatch, Listener, filter,
};
use remora_proto::pb::envoy::extensions::filters::network::direct_response::v3::Config as DirectResponse;
use remora_proto::pb::google::protobuf::Any;
use xxhash_rust::xxh64::xxh64;

use super::{BuildContext, Compiled, Problem, Problems, positive, raw};
use crate::config::gather;
use crate::config::route::{Under, each, optional, refuse};
use crate::filters::network::{self, NetworkFilter};
use crate::listener::chain_match::{ChainTable, Criteria, FilterChain, SourceType, Terminal};
use crate::runtime::drain::Drain;
use crate::tcp::TcpProxy;

pub(super) const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ECHO: &str = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo";
const DIRECT_RESPONSE: &str = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config";
/// Field numbers in `Listener`.
const FILTER_CHAINS: u64 = 3;
const DEFAULT_FILTER_CHAIN: u64 = 25;

/// All chains of a listener; `bytes` is its encoding, for the chains' hashes.
pub fn compile(config: &Listener, bytes: &[u8], cx: &BuildContext) -> Compiled<ChainTable> {
    let mut problems: Vec<Problem> = Vec::new();
    let mut chains = Vec::new();
    let encoded = raw::fields(bytes, FILTER_CHAINS);
    for (index, chain) in config.filter_chains.iter().enumerate() {
        let path = format!("filter_chains[{index}]");
        let hash = encoded.get(index).map_or(0, |bytes| xxh64(bytes, 0));
        let criteria = chain
            .filter_chain_match
            .as_ref()
            .map_or_else(|| Ok(Criteria::default()), criteria);
        let criteria = criteria.map_err(|problems| problems.under("filter_chain_match"));
        match (criteria, filter_chain(chain, hash, cx)) {
            (Ok(criteria), Ok(chain)) => chains.push((criteria, Arc::new(chain))),
            (criteria, chain) => {
                for found in [criteria.err(), chain.err()].into_iter().flatten() {
                    problems.extend(found.under(&path).0);
                }
            }
        }
    }
    let encoded = raw::fields(bytes, DEFAULT_FILTER_CHAIN);
    let default = config.default_filter_chain.as_ref().map(|chain| {
        let hash = encoded.last().map_or(0, |bytes| xxh64(bytes, DEFAULT_FILTER_CHAIN));
        filter_chain(chain, hash, cx)
            .map(Arc::new)
            .map_err(|problems| problems.under("default_filter_chain"))
    });
    let default = default.transpose().unwrap_or_else(|found| {
        problems.extend(found.0);
        None
    });
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    if chains.is_empty() && default.is_none() {
        return Err(Problems::one("filter_chains", "no filter chains specified"));
    }
    ChainTable::new(chains, default).map_err(|duplicate| {
        let reason = format!("same matching rules as filter_chains[{}]", duplicate.earlier);
        Problems::one(format!("filter_chains[{}].filter_chain_match", duplicate.chain), reason)
    })
}

fn filter_chain(config: &PbChain, hash: u64, cx: &BuildContext) -> Compiled<FilterChain> {
    #[allow(deprecated)]
    let use_proxy_proto = config.use_proxy_proto.as_ref().is_some_and(|wrapped| wrapped.value);
    let reason = "not supported: use the proxy_protocol listener filter";
    let socket = config.transport_socket.as_ref();
    gather! {
        let _current = refuse("use_proxy_proto", use_proxy_proto, reason);
        let tls = optional("transport_socket", socket, |socket| crate::config::tls::downstream(socket, cx));
        let filters = network_filters(&config.filters, cx);
        let timeout = positive("transport_socket_connect_timeout", config.transport_socket_connect_timeout.as_ref());
    }
    let (filters, terminal) = filters;
    Ok(FilterChain {
        name: Arc::from(config.name.as_str()),
        metadata: config.metadata.clone().map(Arc::new),
        hash,
        tls: tls.flatten(),
        handshake_timeout: timeout.filter(|timeout| !timeout.is_zero()),
        observers: filters.iter().filter_map(|filter| filter.observer()).collect(),
        filters,
        terminal,
        drain: Drain::new().0,
    })
}

fn network_filters(configs: &[PbFilter], cx: &BuildContext) -> Compiled<(Vec<Arc<dyn NetworkFilter>>, Terminal)> {
    let Some((last, before)) = configs.split_last() else {
        return Ok((Vec::new(), Terminal::Close));
    };
    gather! {
        let filters = each("filters", before, |config| network_filter(config, cx));
        let terminal = terminal(last, cx).under(&format!("filters[{}]", before.len()));
    }
    Ok((filters, terminal))
}

/// A filter that others follow.
fn network_filter(config: &PbFilter, cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let any = typed_config(config)?;
    refuse(
        "typed_config",
        is_terminal(&any.type_url),
        "terminal filter must be the last filter in a network filter chain",
    )?;
    let (name, value) = content(any).under("typed_config")?;
    let type_url = format!("{}{name}", remora_proto::type_url::PREFIX);
    let compile = network::find(&type_url).ok_or_else(|| unknown(&type_url))?;
    compile(&value, cx).under("typed_config")
}

/// The last filter, which takes the connection.
fn terminal(config: &PbFilter, cx: &BuildContext) -> Compiled<Terminal> {
    let any = typed_config(config)?;
    let terminal = match any.type_url.as_str() {
        HCM => crate::config::hcm::compile(&any.value, cx).map(Terminal::Http),
        TCP_PROXY => TcpProxy::compile(&any.value, cx).map(Terminal::Tcp),
        ECHO => Ok(Terminal::Echo),
        DIRECT_RESPONSE => direct_response(&any.value),
        url if network::find(url).is_some() => Err(Problems::one(
            "",
            "non-terminal filter is the last filter in a network filter chain",
        )),
        url => return Err(unknown(url)),
    };
    terminal.under("typed_config")
}

fn is_terminal(type_url: &str) -> bool {
    [HCM, TCP_PROXY, ECHO, DIRECT_RESPONSE].contains(&type_url)
}

fn unknown(type_url: &str) -> Problems {
    Problems::one("typed_config", format!("network filter {type_url} is not supported"))
}

/// The full name and the bytes of a configuration; a `TypedStruct` stands for the type that it names.
pub(crate) fn content(any: &Any) -> Compiled<(&str, std::borrow::Cow<'_, [u8]>)> {
    remora_proto::any::content(any).map_err(|error| Problems::one("", error.to_string()))
}

pub(super) fn typed_config(config: &PbFilter) -> Compiled<&Any> {
    match &config.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Ok(any),
        Some(filter::ConfigType::ConfigDiscovery(_)) => Err(Problems::one("config_discovery", "not supported")),
        None => Err(Problems::one("typed_config", "required")),
    }
}

fn direct_response(bytes: &[u8]) -> Compiled<Terminal> {
    let config = DirectResponse::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    let body = match &config.response {
        Some(source) => crate::tls::material::read(source).map_err(|problems| problems.under("response"))?,
        None => Vec::new(),
    };
    Ok(Terminal::DirectResponse(body.into()))
}

fn criteria(config: &FilterChainMatch) -> Compiled<Criteria> {
    let port = |value: u32, path: &str| {
        let port = u16::try_from(value).ok().filter(|port| *port > 0);
        port.ok_or_else(|| Problems::one(path, "must be between 1 and 65535"))
    };
    let has_suffix = !config.address_suffix.is_empty() || config.suffix_len.is_some();
    let destination_port = config.destination_port.as_ref();
    let direct = &config.direct_source_prefix_ranges;
    gather! {
        let _no_suffix = refuse("address_suffix", has_suffix, "not supported");
        let destination_port = destination_port.map(|wrapped| port(wrapped.value, "destination_port")).transpose();
        let prefix_ranges = ranges(&config.prefix_ranges, "prefix_ranges");
        let server_names = each("server_names", &config.server_names, |name| server_name(name));
        let direct_source_prefix_ranges = ranges(direct, "direct_source_prefix_ranges");
        let source_prefix_ranges = ranges(&config.source_prefix_ranges, "source_prefix_ranges");
        let source_ports = each("source_ports", &config.source_ports, |value| port(*value, ""));
    }
    Ok(Criteria {
        destination_port,
        prefix_ranges,
        server_names,
        transport_protocol: Some(config.transport_protocol.clone()).filter(|protocol| !protocol.is_empty()),
        application_protocols: config.application_protocols.clone(),
        direct_source_prefix_ranges,
        source_type: match config.source_type {
            1 => SourceType::SameIpOrLoopback,
            2 => SourceType::External,
            _ => SourceType::Any,
        },
        source_prefix_ranges,
        source_ports,
    })
}

/// Lower case, without the star of a wildcard: what is left begins with a dot, and whatever begins so matches as a wildcard does, as in Envoy.
fn server_name(name: &str) -> Compiled<String> {
    let name = name.to_ascii_lowercase();
    if name.contains('*') && !name.starts_with("*.") {
        let reason = format!("partial wildcards are not supported in \"server_names\": {name}");
        return Err(Problems::one("", reason));
    }
    Ok(name.strip_prefix('*').unwrap_or(&name).to_owned())
}

fn ranges(configs: &[CidrRange], field: &str) -> Compiled<Vec<IpNet>> {
    each(field, configs, |config| {
        let ip = config.address_prefix.parse();
        let length = config.prefix_len.as_ref().map_or(0, |wrapped| wrapped.value);
        ip.ok()
            .and_then(|ip| network(ip, length))
            .ok_or_else(|| Problems::one("", "malformed IP range"))
    })
}

/// A `CidrRange`; a length that is longer than the address is the whole address, as in Envoy.
pub(crate) fn network(ip: IpAddr, length: u32) -> Option<IpNet> {
    let whole = if ip.is_ipv4() { 32 } else { 128 };
    let length = u8::try_from(length).unwrap_or(u8::MAX).min(whole);
    IpNet::new(ip, length).ok().map(|net| net.trunc())
}
