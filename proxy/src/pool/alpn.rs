//! ALPN lists that requests bring along: interned, so that a pool key compares them by a number.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use parking_lot::Mutex;

use super::Wanted;
use crate::cluster::Host;
use crate::http::exchange::Protocol;

/// A list of protocol names; equal lists have equal ids for as long as one of them lives, different ones never.
#[derive(Debug)]
pub struct Alpn {
    id: u64,
    protocols: Vec<Vec<u8>>,
}

/// What a request wants offered in its upstream TLS handshake, by the upstream's protocol. Lives in the exchange's extensions.
#[derive(Clone, Debug, Default)]
pub struct UpstreamAlpn {
    pub http10: Option<Arc<Alpn>>,
    pub http11: Option<Arc<Alpn>>,
    pub http2: Option<Arc<Alpn>>,
}

struct Interned {
    next: u64,
    lists: BTreeMap<Vec<Vec<u8>>, Weak<Alpn>>,
}

static INTERNED: Mutex<Interned> = Mutex::new(Interned {
    // Zero is the pool key's "none".
    next: 1,
    lists: BTreeMap::new(),
});

impl Alpn {
    /// The list, shared with whoever has an equal one. For compiling configuration.
    pub fn intern(protocols: Vec<Vec<u8>>) -> Arc<Self> {
        let mut interned = INTERNED.lock();
        interned.lists.retain(|_, list| list.strong_count() > 0);
        if let Some(list) = interned.lists.get(&protocols).and_then(Weak::upgrade) {
            return list;
        }
        let id = interned.next;
        interned.next += 1;
        let list = Arc::new(Self {
            id,
            protocols: protocols.clone(),
        });
        interned.lists.insert(protocols, Arc::downgrade(&list));
        list
    }

    /// Never zero.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn protocols(&self) -> &[Vec<u8>] {
        &self.protocols
    }
}

/// What is offered where neither the request nor the transport socket says anything, as Envoy does it: the protocols that the pool can speak.
/// (`auto_config` could never learn otherwise that a peer speaks HTTP/2.)
pub(super) fn unasked(host: &Host, wanted: Wanted) -> Option<&'static Arc<Alpn>> {
    static LISTS: LazyLock<[Arc<Alpn>; 3]> = LazyLock::new(|| {
        let list = |names: &[&[u8]]| Alpn::intern(names.iter().map(|name| name.to_vec()).collect());
        [list(&[b"http/1.1"]), list(&[b"h2"]), list(&[b"h2", b"http/1.1"])]
    });
    host.tls.as_ref().filter(|tls| tls.alpn_protocols().is_empty())?;
    let [http1, http2, both] = &*LISTS;
    match wanted {
        Wanted::Http1 => Some(http1),
        Wanted::Http2 => Some(http2),
        Wanted::Auto => Some(both),
        Wanted::Raw => None,
    }
}

impl UpstreamAlpn {
    pub(super) fn of(&self, wanted: Wanted, downstream: Protocol) -> Option<&Arc<Alpn>> {
        match (wanted, downstream) {
            (Wanted::Http2 | Wanted::Auto, _) => self.http2.as_ref(),
            (Wanted::Raw, _) => None,
            (Wanted::Http1, Protocol::Http10) => self.http10.as_ref(),
            (Wanted::Http1, _) => self.http11.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_share_an_id_and_different_ones_do_not() {
        let list = |names: &[&str]| Alpn::intern(names.iter().map(|name| name.as_bytes().to_vec()).collect());
        let (one, same, other) = (list(&["a", "b"]), list(&["a", "b"]), list(&["ab"]));
        assert_eq!(one.id(), same.id());
        assert_ne!(one.id(), other.id());
        assert_ne!(one.id(), 0);
        let id = one.id();
        drop((one, same));
        assert!(
            list(&["a", "b"]).id() != id,
            "an id is never given to another life of a list"
        );
    }

    #[test]
    fn the_upstreams_protocol_decides() {
        let lists = UpstreamAlpn {
            http10: Some(Alpn::intern(vec![b"http/1.0".to_vec()])),
            http11: None,
            http2: Some(Alpn::intern(vec![b"h2".to_vec()])),
        };
        let names = |wanted, downstream| lists.of(wanted, downstream).map(|list| list.protocols()[0].clone());
        assert_eq!(names(Wanted::Http1, Protocol::Http10), Some(b"http/1.0".to_vec()));
        assert_eq!(names(Wanted::Http1, Protocol::Http2), None);
        assert_eq!(names(Wanted::Http2, Protocol::Http11), Some(b"h2".to_vec()));
    }
}
