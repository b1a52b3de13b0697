//! What a request calls its upstream (`auto_sni`, `auto_san_validation`): connections made under one name are for no other.
//!
//! Names come with requests, so that anybody can bring as many as they like: one is known for as long as a request or a connection has it.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use http::{HeaderMap, HeaderValue};

use crate::cluster::HttpOptions;
use crate::tcp::connect::Overrides;

/// The name of a peer. On one thread equal names have equal ids while one of them lives; different ones never do.
#[derive(Debug)]
pub struct PeerName {
    id: u64,
    host: Box<str>,
    is_address: bool,
}

/// Of this thread, as pools are.
struct Known {
    /// By the name in lower case.
    names: HashMap<Box<str>, Weak<PeerName>>,
    /// With so many, those that nobody has any more are forgotten.
    full: usize,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known { names: HashMap::new(), full: FEWEST });
}

/// Names that are kept without looking whether they are needed.
const FEWEST: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl PeerName {
    /// What a request with these headers and this authority (as they will be sent) calls the hosts of a cluster; `None` where that does not
    /// matter. The first value of the configured header goes first.
    pub fn of(options: &HttpOptions, headers: &HeaderMap, authority: &[u8]) -> Option<Arc<Self>> {
        if !options.auto_sni && !options.auto_san_validation {
            return None;
        }
        let named = options
            .override_auto_sni_header
            .as_ref()
            .and_then(|name| headers.get(name))
            .map(HeaderValue::as_bytes);
        let said = named.filter(|value| !value.is_empty()).unwrap_or(authority);
        // What is no text is nobody's name, but it is still asked for.
        let said = String::from_utf8_lossy(said);
        let (host, is_address) = host_of(&said);
        let matters = options.auto_san_validation || !(is_address || host.is_empty());
        matters.then(|| Self::known(host, is_address))
    }

    fn known(host: &str, is_address: bool) -> Arc<Self> {
        let key = host.to_ascii_lowercase();
        KNOWN.with_borrow_mut(|known| {
            if let Some(name) = known.names.get(key.as_str()).and_then(Weak::upgrade) {
                return name;
            }
            if known.names.len() >= known.full {
                known.names.retain(|_, name| name.strong_count() > 0);
                known.full = (2 * known.names.len()).max(FEWEST);
            }
            let name = Arc::new(Self {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                host: host.into(),
                is_address,
            });
            known.names.insert(key.into(), Arc::downgrade(&name));
            name
        })
    }

    /// Never zero.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What a handshake under this name has to do otherwise. An address is no SNI: the transport socket's stays.
    pub(crate) fn ask<'a>(&'a self, options: &HttpOptions, overrides: &mut Overrides<'a>) {
        overrides.sni = Some(&*self.host).filter(|host| options.auto_sni && !self.is_address && !host.is_empty());
        overrides.san = Some(&*self.host).filter(|_| options.auto_san_validation);
    }
}

/// The host of an authority without its port, and whether it is an address. As in Envoy, what follows the last colon is a port if it is a
/// number that can be one.
fn host_of(authority: &str) -> (&str, bool) {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => authority,
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare.unwrap_or(host).parse::<IpAddr>() {
        Ok(_) => (bare.unwrap_or(host), true),
        Err(_) => (host, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HttpOptions {
        HttpOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..HttpOptions::default()
        }
    }

    fn named(authority: &str) -> Arc<PeerName> {
        PeerName::of(&options(), &HeaderMap::new(), authority.as_bytes()).expect("a name")
    }

    #[test]
    fn ports_go_and_addresses_are_no_sni() {
        for (authority, host, is_address) in [
            ("a.test", "a.test", false),
            ("a.test:8080", "a.test", false),
            ("a.test:", "a.test:", false),
            ("a.test:99999", "a.test:99999", false),
            ("10.0.0.1:80", "10.0.0.1", true),
            ("[::1]:80", "::1", true),
            ("[::1]", "::1", true),
            ("", "", false),
        ] {
            assert_eq!(host_of(authority), (host, is_address), "{authority}");
        }
        let name = named("10.0.0.1:80");
        let mut overrides = Overrides::default();
        name.ask(&options(), &mut overrides);
        assert_eq!((overrides.sni, overrides.san), (None, Some("10.0.0.1")));
        let sni_alone = HttpOptions {
            auto_san_validation: false,
            ..options()
        };
        let name = named("a.test");
        name.ask(&sni_alone, &mut overrides);
        assert_eq!((overrides.sni, overrides.san), (Some("a.test"), None));
    }

    #[test]
    fn equal_names_are_one_for_as_long_as_somebody_has_them() {
        let name = named("a.test");
        assert_eq!(named("A.TEST:443").id(), name.id());
        let id = name.id();
        drop(name);
        assert_ne!(named("a.test").id(), id);
        // Names that nobody has do not pile up.
        let kept = named("kept.test");
        for index in 0..10 * FEWEST {
            named(&format!("{index}.test"));
        }
        assert!(KNOWN.with_borrow(|known| known.names.len()) <= FEWEST + 1);
        assert_eq!(named("kept.test").id(), kept.id());
    }

    #[test]
    fn a_header_may_say_the_name() {
        let options = HttpOptions {
            override_auto_sni_header: Some(http::HeaderName::from_static("x-name")),
            ..options()
        };
        let of = |value: Option<&'static str>| {
            let value = value.map(|value| {
                (
                    http::HeaderName::from_static("x-name"),
                    http::HeaderValue::from_static(value),
                )
            });
            let headers: HeaderMap = value.into_iter().collect();
            PeerName::of(&options, &headers, b"a.test")
                .expect("a name")
                .host
                .to_string()
        };
        assert_eq!(of(Some("b.test:1")), "b.test");
        assert_eq!((of(Some("")), of(None)), ("a.test".to_owned(), "a.test".to_owned()));
        let sni_alone = HttpOptions {
            auto_san_validation: false,
            ..options
        };
        assert!(PeerName::of(&self::options(), &HeaderMap::new(), b"a\xff").is_some());
        assert!(PeerName::of(&sni_alone, &HeaderMap::new(), b"10.0.0.1").is_none());
        assert!(PeerName::of(&HttpOptions::default(), &HeaderMap::new(), b"a.test").is_none());
    }
}
