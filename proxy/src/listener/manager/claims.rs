//! Who has which address: what lets a dynamic listener be refused before its update is accepted, as Envoy does.
//!
//! A listener that passed its check keeps its addresses, and sockets that are bound but do not listen yet, until it is applied or gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::listener::ListenerConfig;
use crate::listener::bind::Bound;
use crate::runtime::io::Address;

/// Addresses by listener.
#[derive(Default)]
pub(super) struct Claims(BTreeMap<Arc<str>, Claim>);

struct Claim {
    /// Of the configuration that was checked last.
    addresses: Vec<Address>,
    bind_to_port: bool,
    reuse_port: bool,
    /// No push of the control plane takes it away: the bootstrap has it.
    fixed: bool,
    sockets: Option<Vec<Vec<Bound>>>,
}

impl Claims {
    /// The listener that has one of these addresses, and the address.
    pub(super) fn conflict<'a>(&self, config: &'a ListenerConfig) -> Option<(&'a Address, &Arc<str>)> {
        let others = self.0.iter().filter(|(name, _)| **name != config.name);
        let taken: Vec<_> = others
            .flat_map(|(name, claim)| claim.addresses.iter().map(move |address| (address, name)))
            .collect();
        let exact = config.addresses.iter().filter(|address| !any_port(address));
        exact
            .filter_map(|wanted| {
                let (_, name) = taken.iter().find(|(address, _)| *address == wanted)?;
                Some((wanted, *name))
            })
            .next()
    }

    /// `sockets`: to listen on when the listener is applied; `None`: it stays where it is.
    pub(super) fn put(&mut self, config: &ListenerConfig, sockets: Option<Vec<Vec<Bound>>>) {
        let claim = Claim {
            addresses: config.addresses.clone(),
            bind_to_port: config.bind_to_port,
            reuse_port: config.reuse_port,
            fixed: false,
            sockets,
        };
        self.0.insert(config.name.clone(), claim);
    }

    /// The sockets that this version of the listener, or another one in the same place, has reserved.
    pub(super) fn take_sockets(&mut self, config: &ListenerConfig) -> Option<Vec<Vec<Bound>>> {
        let same_place = |claim: &&mut Claim| {
            claim.addresses == config.addresses
                && claim.bind_to_port == config.bind_to_port
                && claim.reuse_port == config.reuse_port
        };
        self.0.get_mut(&config.name).filter(same_place)?.sockets.take()
    }

    /// What was applied without a check has its addresses for good.
    pub(super) fn fix<'a>(&mut self, applied: impl Iterator<Item = &'a Arc<ListenerConfig>>) {
        for config in applied {
            if !self.0.contains_key(&config.name) {
                self.put(config, None);
                self.0.entry(config.name.clone()).and_modify(|claim| claim.fixed = true);
            }
        }
    }

    /// Lets go of listeners that an update takes away.
    pub(super) fn release(&mut self, gone: &dyn Fn(&str) -> bool) {
        self.0.retain(|name, claim| claim.fixed || !gone(name));
    }
}

/// Two listeners may ask for any port.
pub(super) fn any_port(address: &Address) -> bool {
    address.ip().is_some_and(|address| address.port() == 0)
}
