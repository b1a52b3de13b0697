//! The certificates of a context behind rustls's resolver traits, and which of several a server shows: as Envoy's default selector chooses.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{NamedGroup, SignatureAlgorithm, SignatureScheme};

use super::material::Certificate;
use super::params::{Params, ecdsa_suite, is_tls13};
use super::signed;
use super::x509::CertificateFacts;

/// The certificates of one context, in its order.
#[derive(Debug)]
pub struct Keys {
    entries: Vec<Entry>,
    /// By DNS name, `.example.com` for `*.example.com`: the first certificate of each kind of key that has the name.
    names: HashMap<String, Vec<usize>>,
    scans: bool,
}

/// One certificate as the resolver sees it.
#[derive(Debug)]
pub struct Entry {
    pub key: Arc<CertifiedKey>,
    pub leaf: Arc<CertificateFacts>,
}

impl Entry {
    pub fn of(certificate: &Certificate) -> Self {
        Self {
            key: certificate.key.clone(),
            leaf: certificate.leaf.clone(),
        }
    }

    fn kind(&self) -> SignatureAlgorithm {
        self.key.key.algorithm()
    }
}

/// What the client can verify of ECDSA; no curves: it wants something else.
type Curves = Vec<NamedGroup>;

impl Keys {
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut names: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for name in &entry.leaf.server_names {
                let name = name
                    .strip_prefix('*')
                    .filter(|rest| rest.starts_with('.'))
                    .unwrap_or(name);
                let known = names.entry(name.to_owned()).or_default();
                if !known.iter().any(|other| entries[*other].kind() == entry.kind()) {
                    known.push(index);
                }
            }
        }
        Self {
            entries,
            names,
            scans: false,
        }
    }

    /// `full_scan_certs_on_sni_mismatch`: who asks for a name that no certificate has is served as who asks for none.
    pub fn scanning(self, scans: bool) -> Self {
        Self { scans, ..self }
    }

    pub fn get(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Which certificate this client is shown.
    pub fn choose(&self, hello: &ClientHello<'_>, params: &Params) -> usize {
        match self.entries.len() {
            0 | 1 => 0,
            _ => self.choose_for(hello.server_name().unwrap_or_default(), &curves(hello, params)),
        }
    }

    /// A name counts before the kind of key, and a certificate that the client may not be able to use before one of another name.
    fn choose_for(&self, name: &str, curves: &Curves) -> usize {
        let named = |name: &str| {
            let indices = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
            let fitting = indices.iter().find(|index| self.fits(**index, curves));
            fitting.or(indices.first()).copied()
        };
        let wildcard = || {
            // `.example.com`, after one label at least.
            let dot = name.char_indices().skip(1).find(|(_, character)| *character == '.')?.0;
            named(&name[dot..]).filter(|_| dot + 1 < name.len())
        };
        if !name.is_empty() {
            let found = named(name).or_else(wildcard);
            if let Some(index) = found.or((!self.scans).then_some(0)) {
                return index;
            }
        }
        (0..self.entries.len())
            .find(|index| self.fits(*index, curves))
            .unwrap_or_default()
    }

    /// ECDSA for whoever can use it, and something else for others.
    fn fits(&self, index: usize, curves: &Curves) -> bool {
        match self.entries[index].leaf.curve {
            Some(curve) => curves.contains(&curve),
            None => curves.is_empty(),
        }
    }
}

/// Of TLS 1.3, the algorithms say it; before, groups and suites do.
fn curves(hello: &ClientHello<'_>, params: &Params) -> Curves {
    let speaks = params.versions.contains(&&rustls::version::TLS13);
    let suites = hello.cipher_suites();
    if speaks && suites.iter().any(|suite| is_tls13(*suite)) {
        let of_scheme = |scheme: &SignatureScheme| match *scheme {
            SignatureScheme::ECDSA_NISTP256_SHA256 => Some(NamedGroup::secp256r1),
            SignatureScheme::ECDSA_NISTP384_SHA384 => Some(NamedGroup::secp384r1),
            SignatureScheme::ECDSA_NISTP521_SHA512 => Some(NamedGroup::secp521r1),
            _ => None,
        };
        return hello.signature_schemes().iter().filter_map(of_scheme).collect();
    }
    let ours = &params.provider.cipher_suites;
    let is_ours = |suite| ours.iter().any(|own| own.suite() == suite) && ecdsa_suite(suite);
    if !suites.iter().any(|suite| is_ours(*suite)) {
        return Curves::new();
    }
    let known = [NamedGroup::secp256r1, NamedGroup::secp384r1, NamedGroup::secp521r1];
    let groups = hello.named_groups().unwrap_or_default().iter().copied();
    groups.filter(|group| known.contains(group)).collect()
}

impl ResolvesServerCert for Keys {
    /// What was chosen when the ClientHello came: what rustls says of it here is less.
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get(signed::chosen()).map(|entry| entry.key.clone())
    }
}

impl ResolvesClientCert for Keys {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let signs = |entry: &&Entry| entry.key.key.choose_scheme(schemes).is_some();
        self.entries.iter().find(signs).map(|entry| entry.key.clone())
    }

    fn has_certs(&self) -> bool {
        !self.entries.is_empty()
    }
}
