//! A small public key infrastructure: certificate authorities and SPIFFE leaves, made on the spot, wrong ones too.
//!
//! ```
//! use control_plane_mock::pki::{Authority, Leaf};
//! let root = Authority::new("example root")?;
//! let leaf = root.issue(&Leaf::spiffe("cluster.local", "default", "web").dns("web.default"))?;
//! assert!(leaf.chain_pem.starts_with("-----BEGIN CERTIFICATE-----"));
//! # Ok::<(), control_plane_mock::pki::PkiError>(())
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, OtherNameValue, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SanType, SerialNumber,
};
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use time::{Duration, OffsetDateTime};

use crate::resources;

/// A certificate could not be made: a name that is no IA5 string, or a key that does not sign.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct PkiError(#[from] rcgen::Error);

/// A certificate authority with an ECDSA P-256 key. Clones share key and serial numbers.
#[derive(Clone, Debug)]
pub struct Authority {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    /// Intermediates from this one up to, but without, the root; empty for a root.
    chain_pem: String,
    root_pem: String,
    serial: AtomicU64,
}

/// What a leaf is to say.
#[derive(Clone, Debug)]
pub struct Leaf {
    uris: Vec<String>,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Types and texts.
    other_names: Vec<(Vec<u64>, String)>,
    common_name: Option<String>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// A leaf with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The leaf and the intermediates above it, PEM.
    pub chain_pem: String,
    /// Private key, PKCS#8 PEM.
    pub key_pem: String,
    /// The leaf alone, DER.
    pub leaf_der: Vec<u8>,
    /// Private key, PKCS#8 DER.
    pub key_der: Vec<u8>,
    /// Serial number, rising with each certificate of one authority.
    pub serial: u64,
}

impl Authority {
    /// A self-signed root, valid from a day ago for ten years.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn new(name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = ca_params(name, 1);
        let certificate = params.self_signed(&key)?;
        let root_pem = certificate.pem();
        Ok(Self::from_parts(params, key, certificate, String::new(), root_pem))
    }

    /// An intermediate signed by this authority.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn intermediate(&self, name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = ca_params(name, self.next_serial());
        let certificate = params.signed_by(&key, &self.inner.issuer)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.inner.chain_pem);
        Ok(Self::from_parts(
            params,
            key,
            certificate,
            chain_pem,
            self.inner.root_pem.clone(),
        ))
    }

    /// Issues a leaf with a fresh key, fit for clients and servers. Issuing again is rotation: new key, higher serial.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn issue(&self, leaf: &Leaf) -> Result<Identity, PkiError> {
        let serial = self.next_serial();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = leaf.params(serial)?.signed_by(&key, &self.inner.issuer)?;
        Ok(Identity {
            chain_pem: format!("{}{}", certificate.pem(), self.inner.chain_pem),
            key_pem: key.serialize_pem(),
            leaf_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
            serial,
        })
    }

    /// This authority's own certificate, as if it were a leaf.
    pub fn identity(&self) -> Identity {
        let key = self.inner.issuer.key();
        Identity {
            chain_pem: self.inner.certificate.pem(),
            key_pem: key.serialize_pem(),
            leaf_der: self.inner.certificate.der().to_vec(),
            key_der: key.serialize_der(),
            serial: 1,
        }
    }

    /// The root above (PEM): what peers are to trust.
    pub fn root_pem(&self) -> &str {
        &self.inner.root_pem
    }

    /// This authority's own certificate, DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.inner.certificate.der()
    }

    /// A revocation list of this authority (PEM), valid for a day, of the certificates with these serial numbers.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn revoke(&self, serials: &[u64]) -> Result<String, PkiError> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now() - Duration::HOUR,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now() - Duration::HOUR,
            next_update: now() + Duration::DAY,
            crl_number: SerialNumber::from(self.next_serial()),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.inner.issuer)?.pem()?)
    }

    /// The root above as an SDS validation context.
    pub fn secret(&self, name: &str) -> Secret {
        resources::secret_ca(name, self.root_pem())
    }

    fn from_parts(
        params: CertificateParams,
        key: KeyPair,
        certificate: Certificate,
        chain_pem: String,
        root_pem: String,
    ) -> Self {
        let issuer = Issuer::new(params, key);
        let inner = Inner {
            issuer,
            certificate,
            chain_pem,
            root_pem,
            serial: AtomicU64::new(1),
        };
        Self { inner: Arc::new(inner) }
    }

    fn next_serial(&self) -> u64 {
        self.inner.serial.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Leaf {
    /// A workload identity `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, valid from an hour ago for a day.
    pub fn spiffe(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Self::new().uri(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// A leaf without names, valid from an hour ago for a day.
    pub fn new() -> Self {
        let now = now();
        Self {
            uris: Vec::new(),
            dns: Vec::new(),
            addresses: Vec::new(),
            other_names: Vec::new(),
            common_name: None,
            not_before: now - Duration::HOUR,
            not_after: now + Duration::DAY,
        }
    }

    /// Adds a URI SAN.
    pub fn uri(mut self, uri: &str) -> Self {
        self.uris.push(uri.to_owned());
        self
    }

    /// Adds a DNS SAN.
    pub fn dns(mut self, name: &str) -> Self {
        self.dns.push(name.to_owned());
        self
    }

    /// Adds an IP address SAN.
    pub fn ip(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Adds an `otherName` SAN: its type by numbers, and a text.
    pub fn other_name(mut self, oid: &[u64], text: &str) -> Self {
        self.other_names.push((oid.to_vec(), text.to_owned()));
        self
    }

    /// Sets the subject's common name; there is no subject otherwise.
    pub fn common_name(mut self, name: &str) -> Self {
        self.common_name = Some(name.to_owned());
        self
    }

    /// Sets when it is valid, in seconds from now (negative for the past).
    pub fn valid(mut self, from_secs: i64, to_secs: i64) -> Self {
        let now = now();
        self.not_before = now + Duration::seconds(from_secs);
        self.not_after = now + Duration::seconds(to_secs);
        self
    }

    /// Ran out an hour ago.
    pub fn expired(self) -> Self {
        self.valid(-2 * 3600, -3600)
    }

    /// Becomes valid in an hour.
    pub fn not_yet_valid(self) -> Self {
        self.valid(3600, 2 * 3600)
    }

    /// The leaf signed by its own key.
    ///
    /// # Errors
    /// See [`PkiError`].
    pub fn self_signed(&self) -> Result<Identity, PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = self.params(1)?.self_signed(&key)?;
        Ok(Identity {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            leaf_der: certificate.der().to_vec(),
            key_der: key.serialize_der(),
            serial: 1,
        })
    }

    fn params(&self, serial: u64) -> Result<CertificateParams, PkiError> {
        let mut params = params(serial);
        if let Some(name) = &self.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        for uri in &self.uris {
            params
                .subject_alt_names
                .push(SanType::URI(Ia5String::try_from(uri.as_str())?));
        }
        for name in &self.dns {
            params
                .subject_alt_names
                .push(SanType::DnsName(Ia5String::try_from(name.as_str())?));
        }
        params
            .subject_alt_names
            .extend(self.addresses.iter().copied().map(SanType::IpAddress));
        let other_names = self.other_names.iter().cloned();
        let other_names = other_names.map(|(oid, text)| SanType::OtherName((oid, OtherNameValue::Utf8String(text))));
        params.subject_alt_names.extend(other_names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl Default for Leaf {
    fn default() -> Self {
        Self::new()
    }
}

impl Identity {
    /// As an SDS certificate.
    pub fn secret(&self, name: &str) -> Secret {
        resources::secret_cert(name, &self.chain_pem, &self.key_pem)
    }
}

fn ca_params(name: &str, serial: u64) -> CertificateParams {
    let mut params = params(serial);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = now() - Duration::DAY;
    params.not_after = now() + Duration::days(3650);
    params
}

fn params(serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
