//! `upstream_bind_config`, `upstream_connection_options`.

use remora_proto::pb::envoy::config::cluster::v3 as pb;
use remora_proto::pb::envoy::config::cluster::v3::upstream_connection_options::{
    FirstAddressFamilyVersion, HappyEyeballsConfig,
};
use remora_proto::pb::envoy::config::core::v3 as core;

use crate::cluster::options::{Eyeballs, SocketOptions, Source};
use crate::config::endpoint::{Location, socket_location};
use crate::config::listener::{keepalive, socket_options};
use crate::config::route::{Under, each, optional, refuse};
use crate::config::{Compiled, Problems};
use crate::runtime::io::Address;

pub(super) fn compile(config: &pb::Cluster) -> Compiled<SocketOptions> {
    let mut options = optional("upstream_bind_config", config.upstream_bind_config.as_ref(), bind)?.unwrap_or_default();
    if let Some(connection) = &config.upstream_connection_options {
        let eyeballs = optional(
            "upstream_connection_options.happy_eyeballs_config",
            connection.happy_eyeballs_config.as_ref(),
            eyeballs,
        );
        options.eyeballs = eyeballs?.unwrap_or_default();
        options.keepalive = connection.tcp_keepalive.as_ref().and_then(keepalive);
    }
    Ok(options)
}

fn eyeballs(config: &HappyEyeballsConfig) -> Compiled<Eyeballs> {
    let count = config
        .first_address_family_count
        .as_ref()
        .map_or(1, |count| count.value);
    refuse("first_address_family_count", count == 0, "must be at least 1")?;
    let v6_first = match FirstAddressFamilyVersion::try_from(config.first_address_family_version) {
        Ok(FirstAddressFamilyVersion::V4) => Some(false),
        Ok(FirstAddressFamilyVersion::V6) => Some(true),
        Ok(FirstAddressFamilyVersion::Default) => None,
        // Neither has families, and Envoy counts nothing then.
        Ok(FirstAddressFamilyVersion::Pipe | FirstAddressFamilyVersion::Internal) => return Ok(Eyeballs::default()),
        Err(_) => return Err(Problems::one("first_address_family_version", "unknown value")),
    };
    Ok(Eyeballs {
        v6_first,
        count: count as usize,
    })
}

#[allow(deprecated)]
fn bind(config: &core::BindConfig) -> Compiled<SocketOptions> {
    refuse(
        "local_address_selector",
        config.local_address_selector.is_some(),
        "not supported",
    )?;
    let mut addresses = each("source_address", config.source_address.as_slice(), address)?;
    addresses.extend(each(
        "additional_source_addresses",
        &config.additional_source_addresses,
        address,
    )?);
    addresses.extend(each(
        "extra_source_addresses",
        &config.extra_source_addresses,
        |extra| {
            let own = optional("socket_options", extra.socket_options.as_ref(), |own| {
                socket_options(&own.socket_options).under("socket_options")
            })?;
            match &extra.address {
                Some(value) => Ok(Source {
                    options: own,
                    ..address(value).under("address")?
                }),
                None => Err(Problems::one("address", "required")),
            }
        },
    )?);
    Ok(SocketOptions {
        bind: addresses,
        options: socket_options(&config.socket_options).under("socket_options")?,
        freebind: config.freebind.as_ref().is_some_and(|value| value.value),
        ..SocketOptions::default()
    })
}

fn address(value: &core::SocketAddress) -> Compiled<Source> {
    match socket_location(value)? {
        Location::Address(Address::Ip(address)) => Ok(address.into()),
        _ => Err(Problems::one("address", "must be an IP address")),
    }
}
