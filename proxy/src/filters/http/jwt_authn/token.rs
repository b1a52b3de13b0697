//! A token, taken apart and not yet believed.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

/// Decodes as Envoy's library does: bits that do not matter may be set.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Why a token is not believed; the words are those of Envoy's JWT library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Missing,
    NotYetValid,
    Expired,
    LivesTooLong,
    BadFormat,
    BadHeaderEncoding,
    BadHeader,
    UnknownAlgorithm,
    BadPayloadEncoding,
    BadPayload,
    BadSignature,
    UnknownIssuer,
    AudienceNotAllowed,
    NoKey,
    /// Keys could not be fetched.
    FetchFailed,
    Fails,
}

impl Refusal {
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "Jwt is missing",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::LivesTooLong => "Jwt exceeds the max lifetime",
            Self::BadFormat => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
            Self::BadHeaderEncoding => "Jwt header is an invalid Base64url encoded",
            Self::BadHeader => "Jwt header is an invalid JSON",
            Self::UnknownAlgorithm => "Jwt header [alg] is not supported",
            Self::BadPayloadEncoding => "Jwt payload is an invalid Base64url encoded",
            Self::BadPayload => "Jwt payload is an invalid JSON",
            Self::BadSignature => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::NoKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::FetchFailed => "Jwks remote fetch is failed",
            Self::Fails => "Jwt verification fails",
        }
    }
}

/// What a signature is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A compact token (RFC 7519).
pub(super) struct Token<'a> {
    pub header: Map<String, Value>,
    pub payload: Map<String, Value>,
    /// As it came: base64url without padding.
    pub payload_text: &'a str,
    /// `header.payload`, which is what is signed.
    pub signed: &'a str,
    pub signature: Vec<u8>,
    pub algorithm: Algorithm,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a str) -> Result<Self, Refusal> {
        let (signed, signature) = text.rsplit_once('.').ok_or(Refusal::BadFormat)?;
        let (header, payload_text) = signed.split_once('.').ok_or(Refusal::BadFormat)?;
        if payload_text.contains('.') {
            return Err(Refusal::BadFormat);
        }
        let header = BASE64.decode(header).map_err(|_| Refusal::BadHeaderEncoding)?;
        let header = object(&header).ok_or(Refusal::BadHeader)?;
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refusal::BadHeader)?;
        let algorithm = Algorithm::parse(algorithm).ok_or(Refusal::UnknownAlgorithm)?;
        // Whatever must be understood to be safe (RFC 7515, 4.1.11) is not.
        if header.contains_key("crit") {
            return Err(Refusal::BadHeader);
        }
        let payload = BASE64.decode(payload_text).map_err(|_| Refusal::BadPayloadEncoding)?;
        Ok(Self {
            payload: object(&payload).ok_or(Refusal::BadPayload)?,
            signature: BASE64.decode(signature).map_err(|_| Refusal::BadSignature)?,
            header,
            payload_text,
            signed,
            algorithm,
        })
    }

    pub fn claim(&self, name: &str) -> Option<&str> {
        self.payload.get(name)?.as_str()
    }

    /// Seconds since the epoch. `Err`: it is there, and no time.
    pub fn time(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.payload.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64));
        seconds.map(Some).ok_or(Refusal::BadPayload)
    }

    /// `aud`: one or several.
    pub fn audiences(&self) -> Vec<&str> {
        match self.payload.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(bytes).ok()
}
