//! Which addresses listeners have, and whether two of them have one.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::claims::any_port;
use crate::listener::active::ActiveListener;
use crate::listener::bind::BindError;
use crate::listener::{ListenerConfig, ListenerSettings};
use crate::runtime::io::Address;

/// What an update means for the sockets of a listener.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sockets {
    Stay,
    /// They stay, with another backlog or mode.
    Settable,
    /// The listener goes elsewhere, or wants sockets of other options beside the old ones.
    New,
    /// There can be no others beside those that there are.
    Refused(String),
}

impl Sockets {
    pub(super) fn after(listener: &ActiveListener, config: &ListenerConfig) -> Self {
        let old = listener.state.load();
        let (settings, old) = (&config.settings, &old.settings);
        if listener.reuse_port != config.reuse_port {
            let name = &config.name;
            return Self::Refused(format!(
                "Listener {name}: reuse port cannot be changed during an update"
            ));
        }
        if listener.configured != config.addresses || listener.bind_to_port != config.bind_to_port {
            return Self::New;
        }
        if !config.bind_to_port || settings.finds_sockets_of(old) {
            return Self::Stay;
        }
        let has_ip = config.addresses.iter().any(|address| address.ip().is_some());
        if config.reuse_port && has_ip {
            return Self::New;
        }
        let same_but_settable = ListenerSettings {
            backlog: settings.backlog,
            pipe_mode: settings.pipe_mode,
            ..old.clone()
        };
        // Pipes have no options that matter.
        if !has_ip || settings.finds_sockets_of(&same_but_settable) {
            return Self::Settable;
        }
        match config.addresses.iter().find(|address| !any_port(address)) {
            Some(address) => Self::Refused(duplicate_address(&config.name, address)),
            None => Self::New,
        }
    }
}

/// Sockets on an address of the configuration that a listener of this process has and that cannot be bound a second time.
pub(super) fn sockets_of_a_neighbour(
    active: &BTreeMap<Arc<str>, Arc<ActiveListener>>,
    config: &ListenerConfig,
    address: &Address,
) -> Vec<OwnedFd> {
    if any_port(address) {
        return Vec::new();
    }
    for listener in active.values() {
        // Its own ones of other options are what it shall not have.
        let is_own = config.reuse_port && address.ip().is_some() && listener.name == config.name;
        if is_own && !config.settings.finds_sockets_of(&listener.state.load().settings) {
            continue;
        }
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

/// An update that cannot be: the listener stays as it is.
pub(super) fn refusal(config: &ListenerConfig, reason: String) -> BindError {
    BindError {
        listener: config.name.clone(),
        address: config.addresses.first().cloned().unwrap_or(Address::Pipe("".into())),
        reason: std::io::Error::new(std::io::ErrorKind::AddrInUse, reason),
    }
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
