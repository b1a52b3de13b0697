//! Who has which address: what lets a dynamic listener be refused before its update is accepted, as Envoy does.
//!
//! A listener that passed its check keeps its addresses, and sockets that are bound but do not listen yet, until it is applied or gone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::listener::bind::Bound;
use crate::listener::{ListenerConfig, ListenerSettings};
use crate::runtime::io::Address;

/// Addresses by listener, and the other way round.
#[derive(Default)]
pub(super) struct Claims {
    by_name: BTreeMap<Arc<str>, Claim>,
    owners: BTreeMap<Address, Arc<str>>,
}

struct Claim {
    /// Of the configuration that was checked last.
    addresses: Vec<Address>,
    bind_to_port: bool,
    reuse_port: bool,
    settings: ListenerSettings,
    /// No push of the control plane takes it away: the bootstrap has it.
    fixed: bool,
    sockets: Option<Vec<Vec<Bound>>>,
}

impl Claims {
    /// The address of these that another listener has.
    pub(super) fn conflict<'a>(&self, config: &'a ListenerConfig) -> Option<&'a Address> {
        let mut exact = config.addresses.iter().filter(|address| !any_port(address));
        exact.find(|address| self.owners.get(*address).is_some_and(|owner| *owner != config.name))
    }

    /// `sockets`: to listen on when the listener is applied; `None`: it stays where it is.
    pub(super) fn put(&mut self, config: &ListenerConfig, sockets: Option<Vec<Vec<Bound>>>) {
        self.insert(config, sockets, false);
    }

    fn insert(&mut self, config: &ListenerConfig, sockets: Option<Vec<Vec<Bound>>>, fixed: bool) {
        self.forget(&config.name);
        for address in config.addresses.iter().filter(|address| !any_port(address)) {
            self.owners.insert(address.clone(), config.name.clone());
        }
        let claim = Claim {
            addresses: config.addresses.clone(),
            bind_to_port: config.bind_to_port,
            reuse_port: config.reuse_port,
            settings: config.settings.clone(),
            fixed,
            sockets,
        };
        self.by_name.insert(config.name.clone(), claim);
    }

    fn forget(&mut self, name: &str) {
        let Some(claim) = self.by_name.remove(name) else {
            return;
        };
        for address in &claim.addresses {
            if self.owners.get(address).is_some_and(|owner| **owner == *name) {
                self.owners.remove(address);
            }
        }
    }

    /// The sockets that this version of the listener, or another one that wants the same, has reserved.
    pub(super) fn take_sockets(&mut self, config: &ListenerConfig) -> Option<Vec<Vec<Bound>>> {
        let same_place = |claim: &&mut Claim| {
            claim.addresses == config.addresses
                && claim.bind_to_port == config.bind_to_port
                && claim.reuse_port == config.reuse_port
                && config.settings.finds_sockets_of(&claim.settings)
        };
        self.by_name.get_mut(&config.name).filter(same_place)?.sockets.take()
    }

    /// The bootstrap's listeners have their addresses for good.
    pub(super) fn fix<'a>(&mut self, applied: impl Iterator<Item = &'a Arc<ListenerConfig>>) {
        for config in applied {
            self.insert(config, None, true);
        }
    }

    /// Lets go of listeners that an update takes away.
    pub(super) fn release(&mut self, gone: &dyn Fn(&str) -> bool) {
        let claims = self.by_name.iter();
        let released = claims.filter(|(name, claim)| !claim.fixed && gone(name));
        let released: Vec<Arc<str>> = released.map(|(name, _)| name.clone()).collect();
        for name in released {
            self.forget(&name);
        }
    }
}

/// Two listeners may ask for any port.
pub(super) fn any_port(address: &Address) -> bool {
    address.ip().is_some_and(|address| address.port() == 0)
}
