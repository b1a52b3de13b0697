//! `/listeners` and `/drain_listeners`.

use std::sync::Arc;

use remora_proto::pb::envoy::admin::v3::{ListenerStatus, Listeners};
use remora_proto::pb::envoy::config::core::v3 as core;

use super::query::Query;
use super::reply::{self, Reply};
use super::{AdminState, DrainListeners};
use crate::runtime::io::Address;

pub(super) fn listeners(state: &AdminState, query: &Query) -> Reply {
    let listeners = state.control.listeners();
    if query.get("format") == Some("json") {
        let listener_statuses = listeners.iter().map(|(name, addresses)| ListenerStatus {
            name: name.to_string(),
            local_address: addresses.first().map(message),
            additional_local_addresses: addresses.iter().skip(1).map(message).collect(),
        });
        return reply::message(&Listeners {
            listener_statuses: listener_statuses.collect(),
        });
    }
    reply::ok(text(&listeners))
}

/// A line for each address.
fn text(listeners: &[(Arc<str>, Vec<Address>)]) -> String {
    let mut page = String::new();
    for (name, addresses) in listeners {
        for address in addresses {
            page += &format!("{name}::{address}\n");
        }
    }
    page
}

pub(super) fn drain(state: &AdminState, query: &Query) -> Reply {
    state.control.drain_listeners(DrainListeners {
        inbound_only: query.has("inboundonly"),
        graceful: query.has("graceful"),
        skip_exit: query.has("skip_exit"),
    });
    reply::done()
}

/// As the message that admin pages print.
pub(super) fn message(address: &Address) -> core::Address {
    use core::address::Address as Kind;
    let kind = match address {
        Address::Ip(ip) => Kind::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(ip.port().into())),
            ..core::SocketAddress::default()
        }),
        Address::Pipe(path) => Kind::Pipe(core::Pipe {
            path: path.to_string(),
            mode: 0,
        }),
        Address::Internal(internal) => Kind::EnvoyInternalAddress(core::EnvoyInternalAddress {
            address_name_specifier: Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                internal.listener.clone(),
            )),
            endpoint_id: internal.endpoint.clone(),
        }),
    };
    core::Address { address: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_line_of_its_own() {
        let addresses = ["[::1]:33104", "127.0.0.1:33105"].map(|address| Address::Ip(address.parse().unwrap()));
        let listeners = [(Arc::from("two"), addresses.to_vec()), (Arc::from("none"), Vec::new())];
        assert_eq!(text(&listeners), "two::[::1]:33104\ntwo::127.0.0.1:33105\n");
    }
}
