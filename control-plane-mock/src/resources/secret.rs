//! Secrets.

use remora_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};

use super::inline;

/// A certificate chain with its key, both PEM.
pub fn secret_cert(name: &str, chain_pem: &str, key_pem: &str) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain_pem)),
        private_key: Some(inline(key_pem)),
        ..TlsCertificate::default()
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(certificate)),
    }
}

/// Trust anchors (PEM, one or more certificates).
pub fn secret_ca(name: &str, ca_pem: &str) -> Secret {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(ca_pem)),
        ..CertificateValidationContext::default()
    };
    Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::ValidationContext(context)),
    }
}
