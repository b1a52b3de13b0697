//! Which addresses listeners have, and whether two of them have one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::claims::any_port;
use crate::listener::ListenerConfig;
use crate::listener::active::ActiveListener;
use crate::listener::bind::BindError;
use crate::runtime::io::Address;

/// Whether an update leaves the sockets as they are.
pub(super) fn keeps_sockets(listener: &ActiveListener, config: &ListenerConfig) -> bool {
    listener.configured == config.addresses && listener.bind_to_port == config.bind_to_port
}

/// Sockets on an address of the configuration that a listener of this process has and that cannot be bound a second time.
pub(super) fn sockets_of_a_neighbour(
    active: &BTreeMap<Arc<str>, Arc<ActiveListener>>,
    address: &Address,
) -> Vec<OwnedFd> {
    if any_port(address) {
        return Vec::new();
    }
    for listener in active.values() {
        let sockets = listener.sockets.lock();
        if let Some((_, sockets)) = sockets.iter().find(|(configured, _)| configured == address) {
            let copies = sockets.iter().filter_map(|socket| socket.copy().ok());
            return copies.map(OwnedFd::from).collect();
        }
    }
    Vec::new()
}

pub(super) fn duplicate_address(name: &str, address: &Address) -> String {
    format!(
        "error adding listener: '{name}' has duplicate address '{address}' as existing listener, to check if the listener has duplicated \
         addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener"
    )
}

/// Two listeners on one address: the later by name is refused, as Envoy refuses the later one added.
pub(super) fn duplicates(wanted: &BTreeMap<Arc<str>, Arc<ListenerConfig>>) -> Vec<BindError> {
    let mut seen: BTreeMap<&Address, &Arc<str>> = BTreeMap::new();
    let mut errors = Vec::new();
    for config in wanted.values() {
        for address in config.addresses.iter().filter(|address| !any_port(address)) {
            if let Some(other) = seen.insert(address, &config.name) {
                let reason = format!("duplicate address of existing listener '{other}'");
                errors.push(BindError {
                    listener: config.name.clone(),
                    address: address.clone(),
                    reason: std::io::Error::new(std::io::ErrorKind::AddrInUse, reason),
                });
            }
        }
    }
    errors
}
