//! Which resolver answers for names: `typed_dns_resolver_config`, and the older fields that say the same.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use remora_proto::pb::envoy::extensions::network::dns_resolver::getaddrinfo::v3::GetAddrInfoDnsResolverConfig;

use super::endpoint::{Location, location};
use super::route::{Under, each, refuse};
use super::{Compiled, Problems};
use crate::cluster::discovery::resolver::{NameServers, ResolverConfig};
use crate::runtime::io::Address;

const CARES: &str = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
const GETADDRINFO: &str =
    "type.googleapis.com/envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig";

/// `typed_dns_resolver_config`; `None` is what the system says.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn typed(config: Option<&core::TypedExtensionConfig>) -> Compiled<Option<ResolverConfig>> {
    let Some(config) = config else {
        return Ok(None);
    };
    let compiled = match &config.typed_config {
        Some(any) if any.type_url == CARES => CaresDnsResolverConfig::decode(any.value.as_slice())
            .map_err(|error| Problems::one("", error.to_string()))
            .and_then(|value| cares(&value)),
        Some(any) if any.type_url == GETADDRINFO => GetAddrInfoDnsResolverConfig::decode(any.value.as_slice())
            .map_err(|error| Problems::one("", error.to_string()))
            .map(|value| ResolverConfig::GetAddrInfo {
                retries: value.num_retries.map(|retries| retries.value),
            }),
        Some(any) => Err(Problems::one("", format!("{} is not supported", any.type_url))),
        None => Err(Problems::one("", "required")),
    };
    compiled
        .under("typed_config")
        .under("typed_dns_resolver_config")
        .map(Some)
}

/// `dns_resolution_config`.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn resolution(config: &core::DnsResolutionConfig) -> Compiled<ResolverConfig> {
    let servers = servers("resolvers", &config.resolvers)?;
    refuse("resolvers", servers.is_empty(), "at least one is required")?;
    let options = config.dns_resolver_options.unwrap_or_default();
    Ok(ResolverConfig::NameServers(NameServers {
        servers,
        over_tcp: options.use_tcp_for_dns_lookups,
        searches: !options.no_default_search_domain,
        ..NameServers::default()
    }))
}

/// A list of name servers under `field`, all of them with IP addresses.
///
/// # Errors
/// What is wrong or not supported, by path.
pub fn servers(field: &str, addresses: &[core::Address]) -> Compiled<Vec<SocketAddr>> {
    each(field, addresses, |address| match location(Some(address))? {
        Location::Address(Address::Ip(mut address)) => {
            if address.port() == 0 {
                address.set_port(53);
            }
            Ok(address)
        }
        Location::Address(_) => Err(Problems::one("", "not an IP address")),
        Location::Name(name, _) => Err(Problems::one("", format!("malformed IP address: {name}"))),
    })
}

/// Who resolves names for clusters that have no resolver of their own; `None` is what the system says.
///
/// # Errors
/// What is wrong or not supported, by path.
#[allow(deprecated)]
pub fn of_process(config: &Bootstrap) -> Compiled<Option<ResolverConfig>> {
    if config.typed_dns_resolver_config.is_some() {
        return typed(config.typed_dns_resolver_config.as_ref());
    }
    if let Some(older) = &config.dns_resolution_config {
        return resolution(older).under("dns_resolution_config").map(Some);
    }
    Ok(config.use_tcp_for_dns_lookups.then(|| {
        ResolverConfig::NameServers(NameServers {
            over_tcp: true,
            ..NameServers::default()
        })
    }))
}

fn cares(config: &CaresDnsResolverConfig) -> Compiled<ResolverConfig> {
    let options = config.dns_resolver_options.unwrap_or_default();
    let timeout = config.query_timeout_seconds.map(|seconds| seconds.value);
    refuse("query_timeout_seconds", timeout == Some(0), "must be at least 1")?;
    let tries = config.query_tries.map(|tries| tries.value);
    refuse("query_tries", tries == Some(0), "must be at least 1")?;
    let payload = config.edns0_max_payload_size.map(|size| size.value);
    let payload = payload.map(|size| u16::try_from(size).ok().filter(|size| (512..=4096).contains(size)));
    refuse("edns0_max_payload_size", payload == Some(None), "must be in 512..=4096")?;
    let defaults = NameServers::default();
    Ok(ResolverConfig::NameServers(NameServers {
        servers: servers("resolvers", &config.resolvers)?,
        only_without_system: config.use_resolvers_as_fallback,
        over_tcp: options.use_tcp_for_dns_lookups,
        searches: !options.no_default_search_domain,
        rotates: config.rotate_nameservers,
        timeout: timeout.map_or(defaults.timeout, Duration::from_secs),
        tries: tries.unwrap_or(defaults.tries),
        edns_payload: payload.flatten(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> Result<Option<ResolverConfig>, String> {
        let name = "envoy.config.core.v3.TypedExtensionConfig";
        let encoded = remora_proto::json::encode_text(text, name, &Default::default()).expect("the text fits");
        let config = core::TypedExtensionConfig::decode(encoded.bytes.as_slice()).expect("encoded");
        typed(Some(&config)).map_err(|problems| problems.to_string())
    }

    fn cares_of(fields: &str) -> Result<NameServers, String> {
        match compiled(&format!("{{name: x, typed_config: {{\"@type\": {CARES}, {fields}}}}}"))? {
            Some(ResolverConfig::NameServers(servers)) => Ok(servers),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn what_is_not_said_is_as_envoy_has_it() {
        let plain = cares_of("resolvers: [{socket_address: {address: 10.0.0.1, port_value: 0}}]").expect("compiles");
        let expected = NameServers {
            servers: vec![([10, 0, 0, 1], 53).into()],
            ..NameServers::default()
        };
        assert_eq!(plain, expected);
        assert_eq!((plain.timeout, plain.tries), (Duration::from_secs(5), 4));
        assert!(!plain.over_tcp && plain.searches && !plain.rotates && !plain.only_without_system);
    }

    #[test]
    fn every_field_is_taken() {
        let all = "resolvers: [{socket_address: {address: '::1', port_value: 54}}], use_resolvers_as_fallback: true, \
                   rotate_nameservers: true, query_timeout_seconds: 2, query_tries: 1, edns0_max_payload_size: 1400, \
                   dns_resolver_options: {use_tcp_for_dns_lookups: true, no_default_search_domain: true}";
        let expected = NameServers {
            servers: vec!["[::1]:54".parse().expect("an address")],
            only_without_system: true,
            over_tcp: true,
            searches: false,
            rotates: true,
            timeout: Duration::from_secs(2),
            tries: 1,
            edns_payload: Some(1400),
        };
        assert_eq!(cares_of(all), Ok(expected));
        let text = format!("{{name: x, typed_config: {{\"@type\": {GETADDRINFO}, num_retries: 3}}}}");
        assert_eq!(
            compiled(&text),
            Ok(Some(ResolverConfig::GetAddrInfo { retries: Some(3) }))
        );
    }

    #[test]
    fn name_servers_have_addresses() {
        let path = "typed_dns_resolver_config.typed_config.resolvers[0]";
        let named = cares_of("resolvers: [{socket_address: {address: a.test, port_value: 53}}]");
        assert_eq!(named, Err(format!("{path}: malformed IP address: a.test")));
        let pipe = cares_of("resolvers: [{pipe: {path: /x}}]");
        assert_eq!(pipe, Err(format!("{path}: not an IP address")));
    }
}
