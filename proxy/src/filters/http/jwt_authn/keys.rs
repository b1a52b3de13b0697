//! Sets of keys (RFC 7517), and signatures held against them.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::token::{Algorithm, Refusal, Token};

/// The keys of one issuer.
pub(super) struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    material: Material,
}

enum Material {
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    /// A point, uncompressed.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl Keys {
    /// Parses a JSON Web Key Set; keys of unknown kinds are left out, as Envoy does.
    ///
    /// # Errors
    /// It is no key set, or has no key that can be used.
    pub fn parse(text: &[u8]) -> Result<Self, &'static str> {
        let set: Value = serde_json::from_slice(text).map_err(|_| "Jwks is an invalid JSON")?;
        let keys = set
            .get("keys")
            .and_then(Value::as_array)
            .ok_or("Jwks does not have [keys] field")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err("Jwks doesn't have any valid public key");
        }
        Ok(Self(keys))
    }

    /// Whether one of the keys has signed the token.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), Refusal> {
        let id = token.header.get("kid").and_then(Value::as_str);
        let mut refusal = Refusal::NoKey;
        for key in &self.0 {
            let another = matches!((id, &key.id), (Some(wanted), Some(own)) if wanted != own);
            let other_use = key.algorithm.is_some_and(|algorithm| algorithm != token.algorithm);
            if another || other_use {
                continue;
            }
            match key.material.verify(token) {
                Some(true) => return Ok(()),
                // A key of another kind than the algorithm wants is no reason to say more.
                Some(false) | None => refusal = Refusal::Fails,
            }
        }
        Err(refusal)
    }
}

impl Key {
    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?.trim_end_matches('=')).ok();
        let point = |size: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            let fits = x.len() <= size && y.len() <= size;
            // SEC 1, 2.3.3: both coordinates at full length.
            let pad = |number: &[u8]| [vec![0; size - number.len()], number.to_vec()].concat();
            fits.then(|| [vec![4], pad(&x), pad(&y)].concat())
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa {
                modulus: bytes("n")?,
                exponent: bytes("e")?,
            },
            ("EC", Some("P-256") | None) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("EC", Some("P-521")) => Material::P521(point(66)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes("x")?),
            ("oct", _) => Material::Secret(bytes("k")?),
            _ => return None,
        };
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::parse(name)?),
            None => None,
        };
        Some(Self {
            id: text("kid").map(str::to_owned),
            algorithm,
            material,
        })
    }
}

impl Material {
    /// `None`: not a key for the token's algorithm. The key decides what it can verify, never the token.
    fn verify(&self, token: &Token<'_>) -> Option<bool> {
        let (signed, signature) = (token.signed.as_bytes(), token.signature.as_slice());
        let public = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(signed, signature).is_ok()
        };
        Some(match (self, token.algorithm) {
            (Self::Rsa { modulus, exponent }, algorithm) => {
                let key = RsaPublicKeyComponents {
                    n: modulus.as_slice(),
                    e: exponent.as_slice(),
                };
                key.verify(rsa(algorithm)?, signed, signature).is_ok()
            }
            (Self::P256(key), Algorithm::Es256) => public(&signature::ECDSA_P256_SHA256_FIXED, key),
            (Self::P384(key), Algorithm::Es384) => public(&signature::ECDSA_P384_SHA384_FIXED, key),
            (Self::P521(key), Algorithm::Es512) => public(&signature::ECDSA_P521_SHA512_FIXED, key),
            (Self::Ed25519(key), Algorithm::EdDsa) => public(&signature::ED25519, key),
            (Self::Secret(key), algorithm) => {
                let key = hmac::Key::new(mac(algorithm)?, key);
                hmac::verify(&key, signed, signature).is_ok()
            }
            _ => return None,
        })
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn mac(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    Some(match algorithm {
        Algorithm::Hs256 => hmac::HMAC_SHA256,
        Algorithm::Hs384 => hmac::HMAC_SHA384,
        Algorithm::Hs512 => hmac::HMAC_SHA512,
        _ => return None,
    })
}
