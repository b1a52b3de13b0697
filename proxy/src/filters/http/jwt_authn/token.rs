//! A token, taken apart and not yet believed.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
    BadAlgorithm,
    UnknownAlgorithm,
    BadKeyId,
    BadPayloadEncoding,
    BadPayload,
    /// A claim of the name is no string.
    NoString(&'static str),
    /// A claim is no whole number.
    NoNumber(&'static str),
    /// It is below zero, or too large.
    OutOfRange(&'static str),
    BadAudience,
    BadSignature,
    UnknownIssuer,
    AudienceNotAllowed,
    NoKey,
    /// Keys could not be fetched.
    FetchFailed,
    Fails,
}

impl Refusal {
    pub fn text(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::NoString(claim) => return format!("Jwt payload [{claim}] field is not a string").into(),
            Self::NoNumber(claim) => return format!("Jwt payload [{claim}] field is not an integer").into(),
            Self::OutOfRange(claim) => {
                return format!("Jwt payload [{claim}] field is not a positive 64 bit integer").into();
            }
            Self::BadAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::BadKeyId => "Jwt header [kid] field is not a string",
            Self::BadAudience => "Jwt payload [aud] field is not a string or string list",
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
        })
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
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(Refusal::BadAlgorithm)?;
        let algorithm = Algorithm::parse(algorithm).ok_or(Refusal::UnknownAlgorithm)?;
        if header.get("kid").is_some_and(|id| !id.is_string()) {
            return Err(Refusal::BadKeyId);
        }
        // Whatever must be understood to be safe (RFC 7515, 4.1.11) is not.
        if header.contains_key("crit") {
            return Err(Refusal::BadHeader);
        }
        let payload = BASE64.decode(payload_text).map_err(|_| Refusal::BadPayloadEncoding)?;
        let payload = object(&payload).ok_or(Refusal::BadPayload)?;
        check_claims(&payload)?;
        Ok(Self {
            payload,
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

    /// Seconds since the epoch.
    pub fn time(&self, name: &str) -> Option<i64> {
        let value = self.payload.get(name)?;
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds as i64))
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

/// The claims of RFC 7519 that are there are what it says; in the order of Envoy's library.
fn check_claims(payload: &Map<String, Value>) -> Result<(), Refusal> {
    let text = |name: &'static str| match payload.get(name) {
        Some(value) if !value.is_string() => Err(Refusal::NoString(name)),
        _ => Ok(()),
    };
    let time = |name: &'static str| match payload.get(name).map(Value::as_f64) {
        None => Ok(()),
        Some(None) => Err(Refusal::NoNumber(name)),
        Some(Some(seconds)) if (0.0..u64::MAX as f64).contains(&seconds) => Ok(()),
        Some(Some(_)) => Err(Refusal::OutOfRange(name)),
    };
    text("iss")?;
    text("sub")?;
    time("iat")?;
    time("nbf")?;
    time("exp")?;
    text("jti")?;
    match payload.get("aud") {
        None | Some(Value::String(_)) => Ok(()),
        Some(Value::Array(several)) if several.iter().all(Value::is_string) => Ok(()),
        Some(_) => Err(Refusal::BadAudience),
    }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes).ok()? {
        Plain(Value::Object(fields)) => Some(fields),
        Plain(_) => None,
    }
}

/// A JSON value in which no object has a key twice: whoever reads the other one would believe something else.
struct Plain(Value);

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor).map(Self)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON without a key twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(flag.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Plain(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Plain(value))) = map.next_entry::<String, Plain>()? {
            if fields.insert(key, value).is_some() {
                return Err(A::Error::custom("a key twice"));
            }
        }
        Ok(Value::Object(fields))
    }
}
