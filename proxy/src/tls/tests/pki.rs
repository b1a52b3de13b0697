//! A small PKI.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};
use remora_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};

use crate::tls::x509::CertificateFacts;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub pem: String,
}

/// What a leaf shall be like.
#[derive(Default)]
pub struct Wish {
    pub uri: Option<&'static str>,
    pub dns: Vec<&'static str>,
    pub expired: bool,
    pub client_only: bool,
    pub is_ca: bool,
    /// Its common name; "leaf" when empty.
    pub common_name: &'static str,
    /// Its key is one for RSA.
    pub rsa: bool,
    /// Its key usage; none of that when empty.
    pub usages: Vec<KeyUsagePurpose>,
}

pub struct Issued {
    /// PEM, leaf first.
    pub chain: String,
    pub key: String,
    pub sha256: String,
}

impl Wish {
    pub fn uri(uri: &'static str) -> Self {
        Self {
            uri: Some(uri),
            ..Self::default()
        }
    }
}

impl Authority {
    pub fn new() -> Self {
        Self::named("root")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(authority_params(name), key).unwrap();
        Self {
            pem: issuer.pem(),
            issuer,
        }
    }

    pub fn issue(&self, wish: &Wish) -> Issued {
        let key = match wish.rsa {
            true => KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
            false => KeyPair::generate().unwrap(),
        };
        let leaf = leaf_params(wish).signed_by(&key, &self.issuer).unwrap();
        Issued::new(leaf.pem(), &key, leaf.der())
    }

    pub fn issue_through(&self, wish: &Wish) -> Issued {
        let key = KeyPair::generate().unwrap();
        let middle =
            CertifiedIssuer::signed_by(authority_params("middle"), KeyPair::generate().unwrap(), &self.issuer).unwrap();
        let leaf = leaf_params(wish).signed_by(&key, &middle).unwrap();
        Issued::new(leaf.pem() + &middle.pem(), &key, leaf.der())
    }

    /// A list that is valid from one year to another and has these serial numbers on it, as PEM.
    pub fn revoke(&self, serials: &[u8], years: (i32, i32)) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(vec![*serial]),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(years.0, 1, 1),
            next_update: date_time_ymd(years.1, 1, 1),
            crl_number: SerialNumber::from(vec![1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// The authority's certificate as a leaf.
    pub fn own(&self) -> Issued {
        Issued::new(self.pem.clone(), self.issuer.key(), self.issuer.der())
    }
}

impl Issued {
    fn new(chain: String, key: &KeyPair, der: &[u8]) -> Self {
        let facts = CertificateFacts::parse(der).unwrap();
        Self {
            chain,
            key: key.serialize_pem(),
            sha256: facts.sha256,
        }
    }
}

pub fn inline(text: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf_params(wish: &Wish) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "mesh");
    params.distinguished_name.push(
        DnType::CommonName,
        if wish.common_name.is_empty() {
            "leaf"
        } else {
            wish.common_name
        },
    );
    params.serial_number = Some(SerialNumber::from(vec![0x2a]));
    let uris = wish.uri.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
    let names = wish
        .dns
        .iter()
        .map(|name| SanType::DnsName((*name).try_into().unwrap()));
    params.subject_alt_names = uris.chain(names).collect();
    if wish.expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    if wish.client_only {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
    params.key_usages.clone_from(&wish.usages);
    if wish.is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    }
    params
}
