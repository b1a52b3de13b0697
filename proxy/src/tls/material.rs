//! Certificates, keys and trust as bytes: data sources and PEM.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::secret::SecretFile;
use super::signed::InOrder;
use super::x509::{CertificateFacts, hex};
use crate::config::route::{Under, optional, refuse_all};
use crate::config::{Compiled, Problems, gather};

/// A certificate chain with its key, ready to sign.
#[derive(Debug)]
pub struct Certificate {
    pub key: Arc<CertifiedKey>,
    pub leaf: Arc<CertificateFacts>,
    /// Where it came from, for `/certs`.
    pub path: String,
    /// See [`unnamed`].
    pub unnamed: String,
}

/// The bytes behind a data source. Blocking for files: called when configuration is compiled, never on a worker.
pub fn read(source: &DataSource) -> Compiled<Vec<u8>> {
    match &source.specifier {
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.clone()),
        Some(Specifier::InlineString(text)) => Ok(text.clone().into_bytes()),
        Some(Specifier::Filename(path)) => remora_xds::client::file::read(path.as_ref())
            .map_err(|error| Problems::one("filename", format!("cannot read {path}: {error}"))),
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| Problems::one("environment_variable", format!("{name} is not set"))),
        None => Err(Problems::one("", "empty data source")),
    }
}

/// How `/certs` names a data source.
pub fn describe(source: Option<&DataSource>) -> String {
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::Filename(path)) => path.clone(),
        Some(_) => "<inline>".to_owned(),
        None => String::new(),
    }
}

/// What Envoy tells certificates apart by in stats where they are no secrets with names: the beginning of the SHA-256 of their `inline_bytes`, and
/// for all that come otherwise that of nothing.
pub fn unnamed(source: Option<&DataSource>) -> String {
    let bytes: &[u8] = match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => &[],
    };
    hex(&Sha256::digest(bytes)[..4])
}

/// Every file that `secret` reads, for watching.
pub fn files(secret: &pb::Secret) -> Vec<SecretFile> {
    let (sources, watched) = match &secret.r#type {
        Some(pb::secret::Type::TlsCertificate(tls)) => (
            vec![&tls.certificate_chain, &tls.private_key, &tls.ocsp_staple],
            &tls.watched_directory,
        ),
        Some(pb::secret::Type::ValidationContext(context)) => {
            (vec![&context.trusted_ca, &context.crl], &context.watched_directory)
        }
        _ => return Vec::new(),
    };
    let watched = watched.as_ref().map(|directory| directory.path.clone());
    let file = |source: &Option<DataSource>| match source.as_ref()?.specifier.as_ref()? {
        Specifier::Filename(path) => Some(SecretFile {
            path: path.clone(),
            watched_directory: watched.clone(),
        }),
        _ => None,
    };
    sources.into_iter().filter_map(file).collect()
}

/// Refuses an encoded secret whose `watched_directory` cannot be watched.
pub fn check_watched(secret: &[u8]) -> Compiled<()> {
    let secret = pb::Secret::decode(secret).map_err(|error| Problems::one("", error.to_string()))?;
    let (kind, watched) = match &secret.r#type {
        Some(pb::secret::Type::TlsCertificate(tls)) => ("tls_certificate", &tls.watched_directory),
        Some(pb::secret::Type::ValidationContext(context)) => ("validation_context", &context.watched_directory),
        _ => return Ok(()),
    };
    let Some(watched) = watched else { return Ok(()) };
    let checked = remora_xds::client::file::check_directory(&watched.path);
    checked.map_err(|reason| Problems::one(format!("{kind}.watched_directory.path"), reason))
}

impl Certificate {
    /// Reads a chain and its key and checks that they belong together.
    pub fn compile(config: &pb::TlsCertificate) -> Compiled<Self> {
        let refused = [
            ("pkcs12", config.pkcs12.is_some()),
            ("private_key_provider", config.private_key_provider.is_some()),
            ("password", config.password.is_some()),
            ("tls_params", config.tls_params.is_some()),
        ];
        gather! {
            let _supported = refuse_all(&refused.map(|(field, set)| (field, set, "not supported")));
            let chain = chain(config.certificate_chain.as_ref()).under("certificate_chain");
            let key = private_key(config.private_key.as_ref()).under("private_key");
            let staple = optional("ocsp_staple", config.ocsp_staple.as_ref(), read);
        }
        let (chain, leaf) = chain;
        let may_sign = CertificateFacts::may_sign(&chain[0]);
        let mut certified = CertifiedKey::from_der(chain, key, &default_provider())
            .map_err(|error| Problems::one("private_key", error.to_string()))?;
        certified.ocsp = staple;
        certified.key = Arc::new(InOrder(certified.key));
        // BoringSSL looks at this of keys that could do something else too.
        if certified.key.algorithm() == rustls::SignatureAlgorithm::ECDSA && !may_sign {
            let reason = "failed to load certificate chain: the leaf's key usage lacks digitalSignature";
            return Err(Problems::one("certificate_chain", reason));
        }
        Ok(Self {
            key: Arc::new(certified),
            leaf: Arc::new(leaf),
            path: describe(config.certificate_chain.as_ref()),
            unnamed: unnamed(config.certificate_chain.as_ref()),
        })
    }
}

/// All certificates of a PEM bundle; at least one.
pub fn certificates(pem: &[u8]) -> Compiled<Vec<CertificateDer<'static>>> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(Problems::one("", "no certificate in PEM")),
        Err(error) => Err(Problems::one("", format!("bad PEM: {error}"))),
    }
}

/// All revocation lists of a PEM bundle.
pub fn revocation_lists(pem: &[u8]) -> Compiled<Vec<CertificateRevocationListDer<'static>>> {
    let parsed: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    parsed.map_err(|error| Problems::one("", format!("bad PEM: {error}")))
}

/// A chain, and what its leaf says.
fn chain(source: Option<&DataSource>) -> Compiled<(Vec<CertificateDer<'static>>, CertificateFacts)> {
    let chain = certificates(&required(source)?)?;
    let leaf = CertificateFacts::parse(&chain[0]);
    let leaf = leaf.ok_or_else(|| Problems::one("", "the leaf is no X.509 certificate"))?;
    Ok((chain, leaf))
}

fn private_key(source: Option<&DataSource>) -> Compiled<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(&required(source)?)
        .map_err(|error| Problems::one("", format!("no private key in PEM: {error}")))
}

fn required(source: Option<&DataSource>) -> Compiled<Vec<u8>> {
    read(source.ok_or_else(|| Problems::one("", "required"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_come_in_bytes_are_told_apart_and_others_are_not() {
        let of = |specifier: Specifier| {
            unnamed(Some(&DataSource {
                specifier: Some(specifier),
                ..DataSource::default()
            }))
        };
        assert_eq!(of(Specifier::InlineString("abc".to_owned())), "e3b0c442");
        assert_eq!(of(Specifier::Filename("abc".to_owned())), "e3b0c442");
        assert_eq!(of(Specifier::InlineBytes(b"abc".to_vec())), "ba7816bf");
    }

    #[test]
    fn an_environment_variable_is_a_source_and_a_missing_one_an_error() {
        let named = |name: &str| DataSource {
            specifier: Some(Specifier::EnvironmentVariable(name.to_owned())),
            ..DataSource::default()
        };
        let path = std::env::var("PATH").expect("every process has it");
        assert_eq!(read(&named("PATH")).expect("set"), path.into_bytes());
        let missing = read(&named("REMORA_NO_SUCH_VARIABLE")).expect_err("not set");
        assert_eq!(
            missing.to_string(),
            "environment_variable: REMORA_NO_SUCH_VARIABLE is not set"
        );
    }
}
