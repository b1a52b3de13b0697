//! `tls_params`: versions, cipher suites and groups, from BoringSSL's names to a rustls provider.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::TlsParameters;
use rustls::crypto::aws_lc_rs::{ALL_CIPHER_SUITES, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, SupportedProtocolVersion, version};

use crate::config::{Compiled, Problems};

/// Which end of a connection a context is for: the defaults differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Downstream,
    Upstream,
}

/// What a handshake may negotiate.
#[derive(Clone, Debug)]
pub struct Params {
    pub provider: Arc<CryptoProvider>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Suites of TLS 1.2 of equal preference (`[A|B]`): among them the client's order counts.
    pub tied: Vec<Vec<CipherSuite>>,
    /// Names in the configuration that BoringSSL knows and we cannot speak (TLS 1.0, RSA key exchange, CBC, P-521): left out, and told of.
    pub skipped: Vec<String>,
}

impl Params {
    /// Compiles `tls_params`; `None` means all defaults.
    ///
    /// # Errors
    /// A name that BoringSSL would not know either, or a combination that leaves nothing to negotiate.
    pub fn compile(config: Option<&TlsParameters>, side: Side) -> Compiled<Self> {
        let default = TlsParameters::default();
        let config = config.unwrap_or(&default);
        if !config.signature_algorithms.is_empty() {
            return Err(Problems::one("signature_algorithms", "not supported"));
        }
        let fips = compliance(&config.compliance_policies)?;
        let mut skipped = Vec::new();
        let versions = versions(config, side, &mut skipped)?;
        let mut provider = default_provider();
        let ranks = ranks(&config.cipher_suites, fips, &mut skipped)?;
        let supported = |suite: &CipherSuite| ALL_CIPHER_SUITES.iter().find(|known| known.suite() == *suite);
        // BoringSSL never configures TLS 1.3 suites by name; its order with AES hardware is this one.
        let tls13 = TLS13_NAMES.iter().map(|(_, suite)| suite);
        let tls13 = tls13.filter(|suite| !fips || !CHACHA.contains(suite));
        let wanted = tls13.chain(ranks.iter().flatten());
        provider.cipher_suites = wanted.filter_map(supported).copied().collect();
        provider.kx_groups = groups(&config.ecdh_curves, fips, &mut skipped)?;
        let has_tls12 = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
        let only_tls12 = versions == [&version::TLS12];
        if only_tls12 && !has_tls12 {
            return Err(Problems::one(
                "cipher_suites",
                "none of the configured TLS 1.2 cipher suites is supported",
            ));
        }
        tell(&skipped);
        // A rustls client would offer what it cannot speak, and be taken for one of TLS 1.3.
        provider
            .cipher_suites
            .retain(|suite| versions.contains(&suite.version()));
        Ok(Self {
            provider: Arc::new(provider),
            versions,
            tied: ranks.into_iter().filter(|rank| rank.len() > 1).collect(),
            skipped,
        })
    }
}

impl Params {
    /// All suites for a client that has `offered` these, in this order: among those of equal preference the client's order counts. Empty where
    /// that changes nothing.
    pub fn reordered(&self, offered: &[CipherSuite]) -> Vec<CipherSuite> {
        let place = |suite: &CipherSuite| offered.iter().position(|known| known == suite).unwrap_or(offered.len());
        let mut is_other = false;
        let mut suites: Vec<CipherSuite> = self.provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
        for rank in &self.tied {
            let mut wanted = rank.clone();
            wanted.sort_by_key(place);
            if wanted == *rank {
                continue;
            }
            is_other = true;
            let slots: Vec<usize> = (0..suites.len()).filter(|slot| rank.contains(&suites[*slot])).collect();
            for (slot, suite) in slots.into_iter().zip(wanted) {
                suites[slot] = suite;
            }
        }
        match is_other {
            true => suites,
            false => Vec::new(),
        }
    }
}

/// OpenSSL's name of a suite, as Envoy prints it.
pub fn openssl_name(suite: CipherSuite) -> &'static str {
    TLS13_NAMES
        .iter()
        .chain(TLS12_NAMES)
        .find(|(_, known)| *known == suite)
        .map_or("", |(name, _)| name)
}

/// Whether a suite is one of TLS 1.3.
pub fn is_tls13(suite: CipherSuite) -> bool {
    TLS13_NAMES.iter().any(|(_, known)| *known == suite)
}

/// Whether a suite of TLS 1.2 is for ECDSA certificates.
pub fn ecdsa_suite(suite: CipherSuite) -> bool {
    openssl_name(suite).starts_with("ECDHE-ECDSA-")
}

/// As `%DOWNSTREAM_TLS_VERSION%` prints it.
pub fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "",
    }
}

/// BoringSSL's name of a key exchange group.
pub fn group_name(group: rustls::NamedGroup) -> &'static str {
    match group {
        rustls::NamedGroup::X25519 => "X25519",
        rustls::NamedGroup::secp256r1 => "P-256",
        rustls::NamedGroup::secp384r1 => "P-384",
        rustls::NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}

fn compliance(policies: &[i32]) -> Compiled<bool> {
    match policies {
        [] => Ok(false),
        [0] => Ok(true),
        _ => Err(Problems::one("compliance_policies", "only FIPS_202205 is supported")),
    }
}

/// Logs what is left out, each name once for as long as the process lives: a mesh has the same list in hundreds of resources.
fn tell(skipped: &[String]) -> usize {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock();
    let new = skipped.iter().filter(|name| told.insert((*name).clone()));
    new.inspect(|name| {
        tracing::warn!(
            path = "tls_params",
            name,
            "left out: not among what this TLS library speaks"
        )
    })
    .count()
}

fn versions(
    config: &TlsParameters,
    side: Side,
    skipped: &mut Vec<String>,
) -> Compiled<Vec<&'static SupportedProtocolVersion>> {
    if let Some((_, name)) = OLD_VERSIONS
        .iter()
        .find(|(number, _)| *number == config.tls_minimum_protocol_version)
    {
        skipped.push((*name).to_owned());
    }
    // Envoy's defaults: 1.2 at least on both sides, at most 1.2 as a client and 1.3 as a server.
    let min = match config.tls_minimum_protocol_version {
        0 => 3,
        other => other,
    };
    let max = match (config.tls_maximum_protocol_version, side) {
        (0, Side::Downstream) => 4,
        (0, Side::Upstream) => 3.max(min),
        (other, _) => other,
    };
    let all = [(4, &version::TLS13), (3, &version::TLS12)];
    let chosen: Vec<_> = all
        .into_iter()
        .filter(|(number, _)| (min..=max).contains(number))
        .map(|(_, version)| version)
        .collect();
    if chosen.is_empty() {
        return Err(Problems::one(
            "tls_maximum_protocol_version",
            "no version between the minimum and the maximum is supported (TLSv1_2 and TLSv1_3 are)",
        ));
    }
    Ok(chosen)
}

/// Suites of TLS 1.2 in the order of preference; those of one rank are tied.
fn ranks(names: &[String], fips: bool, skipped: &mut Vec<String>) -> Compiled<Vec<Vec<CipherSuite>>> {
    let mut ranks: Vec<Vec<CipherSuite>> = Vec::new();
    if names.is_empty() {
        ranks.extend(DEFAULT_TLS12.iter().map(|rank| rank.to_vec()));
    }
    for (index, entry) in names.iter().enumerate() {
        // `[A|B]` is a group of equal preference, `A:B` a list.
        for group in entry.split(':') {
            let mut rank = Vec::new();
            for name in group.split(['[', ']', '|']).filter(|name| !name.is_empty()) {
                if let Some((_, suite)) = TLS12_NAMES.iter().find(|(known, _)| *known == name) {
                    rank.push(*suite);
                } else if BORINGSSL_ONLY.contains(&name) {
                    skipped.push(name.to_owned());
                } else {
                    return Err(Problems::one(
                        format!("cipher_suites[{index}]"),
                        format!("unknown cipher suite {name}"),
                    ));
                }
            }
            ranks.push(rank);
        }
    }
    for rank in &mut ranks {
        rank.retain(|suite| !fips || !CHACHA.contains(suite));
    }
    Ok(ranks)
}

fn groups(names: &[String], fips: bool, skipped: &mut Vec<String>) -> Compiled<Vec<&'static dyn SupportedKxGroup>> {
    if names.is_empty() {
        return Ok(match fips {
            true => vec![kx_group::SECP256R1, kx_group::SECP384R1],
            false => vec![kx_group::X25519, kx_group::SECP256R1],
        });
    }
    let mut chosen: Vec<&'static dyn SupportedKxGroup> = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    // BoringSSL gets all of them as one text.
    let names = names.iter().enumerate();
    for (index, name) in names.flat_map(|(index, entry)| entry.split(':').map(move |name| (index, name))) {
        let refused = |reason: String| Err(Problems::one(format!("ecdh_curves[{index}]"), reason));
        let (name, group): (_, Option<&'static dyn SupportedKxGroup>) = match name {
            "X25519" => (name, Some(kx_group::X25519)),
            "P-256" | "prime256v1" | "secp256r1" => ("P-256", Some(kx_group::SECP256R1)),
            "P-384" | "secp384r1" => ("P-384", Some(kx_group::SECP384R1)),
            "X25519MLKEM768" => (name, Some(kx_group::X25519MLKEM768)),
            "P-521" | "secp521r1" => ("P-521", None),
            "P-224" | "X25519Kyber768Draft00" => (name, None),
            _ => return refused(format!("unknown curve {name}")),
        };
        if known.contains(&name) {
            return refused(format!("{name} is there already"));
        }
        known.push(name);
        match group {
            Some(group) => chosen.push(group),
            None => skipped.push(name.to_owned()),
        }
    }
    match chosen.is_empty() {
        true => Err(Problems::one("ecdh_curves", "none of the curves is supported")),
        false => Ok(chosen),
    }
}

const OLD_VERSIONS: [(i32, &str); 2] = [(1, "TLSv1_0"), (2, "TLSv1_1")];

const TLS13_NAMES: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
];

const TLS12_NAMES: &[(&str, CipherSuite)] = &[
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Envoy's default list, without the RSA key exchange that rustls does not have.
const DEFAULT_TLS12: [&[CipherSuite]; 4] = [
    &[
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ],
    &[
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ],
    &[CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384],
    &[CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384],
];

const CHACHA: [CipherSuite; 3] = [
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// What BoringSSL knows besides: accepted in a list, never negotiated.
const BORINGSSL_ONLY: &[&str] = &[
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-RSA-AES256-SHA",
    "PSK-AES128-CBC-SHA",
    "PSK-AES256-CBC-SHA",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn with_suites(names: &[&str]) -> TlsParameters {
        TlsParameters {
            cipher_suites: names.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsParameters::default()
        }
    }

    #[test]
    fn defaults_are_envoys() {
        let server = Params::compile(None, Side::Downstream).unwrap();
        assert_eq!(server.versions, [&version::TLS13, &version::TLS12]);
        let client = Params::compile(None, Side::Upstream).unwrap();
        assert_eq!(client.versions, [&version::TLS12]);
        assert!(
            client
                .provider
                .cipher_suites
                .iter()
                .all(|suite| suite.tls13().is_none())
        );
        let names: Vec<_> = client.provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(names, [rustls::NamedGroup::X25519, rustls::NamedGroup::secp256r1]);
    }

    #[test]
    fn istios_list_loses_only_rsa_key_exchange() {
        let list = [
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "AES256-GCM-SHA384",
        ];
        let params = Params::compile(Some(&with_suites(&list)), Side::Downstream).unwrap();
        assert_eq!(params.skipped, ["AES256-GCM-SHA384"]);
        assert_eq!(params.provider.cipher_suites.len(), 5);
    }

    #[test]
    fn an_older_minimum_is_1_2_and_told_of_once() {
        let with = |minimum: i32| TlsParameters {
            tls_minimum_protocol_version: minimum,
            ..TlsParameters::default()
        };
        let params = Params::compile(Some(&with(1)), Side::Downstream).unwrap();
        assert_eq!(params.versions, [&version::TLS13, &version::TLS12]);
        assert_eq!(params.skipped, ["TLSv1_0"]);
        assert_eq!(tell(&params.skipped), 0);
        assert_eq!(tell(&["of this test alone".to_owned()]), 1);
        let params = Params::compile(Some(&with(2)), Side::Upstream).unwrap();
        assert_eq!(params.versions, [&version::TLS12]);
        assert_eq!(params.skipped, ["TLSv1_1"]);
    }

    #[test]
    fn a_curve_stands_once_under_whatever_name() {
        let with = |names: &[&str]| TlsParameters {
            ecdh_curves: names.iter().map(|name| (*name).to_owned()).collect(),
            ..TlsParameters::default()
        };
        let compiled = |names: &[&str]| Params::compile(Some(&with(names)), Side::Upstream);
        assert_eq!(compiled(&["P-256:X25519"]).unwrap().provider.kx_groups.len(), 2);
        for twice in [["P-256", "P-256"], ["P-256", "prime256v1"]] {
            assert_eq!(compiled(&twice).unwrap_err().0[0].path, "ecdh_curves[1]");
        }
        assert!(compiled(&["X25519", "P-521", "P-521"]).is_err());
    }

    #[test]
    fn nonsense_is_refused_with_its_path() {
        let problem = Params::compile(
            Some(&with_suites(&["[ECDHE-RSA-AES128-GCM-SHA256|WAT]"])),
            Side::Downstream,
        );
        assert_eq!(problem.unwrap_err().0[0].path, "cipher_suites[0]");
        let old = TlsParameters {
            tls_minimum_protocol_version: 1,
            tls_maximum_protocol_version: 2,
            ..TlsParameters::default()
        };
        assert!(Params::compile(Some(&old), Side::Downstream).is_err());
        let rsa_only = TlsParameters {
            tls_maximum_protocol_version: 3,
            ..with_suites(&["AES128-GCM-SHA256"])
        };
        assert!(Params::compile(Some(&rsa_only), Side::Downstream).is_err());
    }
}
