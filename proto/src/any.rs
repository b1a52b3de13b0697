//! Unpacking `Any` into `prost` messages, through `TypedStruct` too.

use prost::{Message, Name};

use crate::json::{self, Options, Problems};
use crate::pb::google::protobuf::Any;
use crate::type_url::{PREFIX, full_name, is_typed_struct};

/// Why an `Any` did not become the message asked for.
#[derive(Debug, thiserror::Error)]
pub enum AnyError {
    #[error("expected {expected}, found {found:?}")]
    Type { expected: String, found: String },
    #[error("{name} is malformed: {error}")]
    Malformed { name: String, error: prost::DecodeError },
    #[error("{0}")]
    TypedStruct(Problems),
}

/// Decodes an `Any` that holds an `M`, or a `TypedStruct` that stands for one. Only the name after the last slash of the type URL counts.
///
/// # Errors
/// Another type, malformed bytes, or a struct that does not fit the message.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, AnyError> {
    let name = full_name(&any.type_url);
    if is_typed_struct(name) {
        let options = Options {
            ignore_unknown: true,
            ..Options::default()
        };
        let (name, encoded) = json::typed_struct(&any.value, &options).map_err(AnyError::TypedStruct)?;
        return decode(name, &encoded.bytes);
    }
    decode(name, &any.value)
}

/// The full name and the bytes of the message that an `Any` holds, with a `TypedStruct` replaced by what it stands for.
///
/// # Errors
/// A struct that does not fit its message, or whose type is not known.
pub fn content(any: &Any) -> Result<(&str, std::borrow::Cow<'_, [u8]>), AnyError> {
    let name = full_name(&any.type_url);
    if !is_typed_struct(name) {
        return Ok((name, any.value.as_slice().into()));
    }
    let options = Options {
        ignore_unknown: true,
        ..Options::default()
    };
    let (name, encoded) = json::typed_struct(&any.value, &options).map_err(AnyError::TypedStruct)?;
    Ok((name, encoded.bytes.into()))
}

/// Wraps a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("{PREFIX}{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

fn decode<M: Message + Name + Default>(name: &str, bytes: &[u8]) -> Result<M, AnyError> {
    if name != M::full_name() {
        return Err(AnyError::Type {
            expected: M::full_name(),
            found: name.to_owned(),
        });
    }
    M::decode(bytes).map_err(|error| AnyError::Malformed {
        name: name.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::stats::PluginConfig;
    use crate::pb::google::protobuf::Duration;

    #[test]
    fn packs_and_unpacks() {
        let duration = Duration { seconds: 3, nanos: 5 };
        let any = pack(&duration);
        assert_eq!(any.type_url, "type.googleapis.com/google.protobuf.Duration");
        assert_eq!(unpack::<Duration>(&any).expect("the same"), duration);
        let error = unpack::<PluginConfig>(&any).expect_err("another type");
        assert_eq!(
            error.to_string(),
            "expected stats.PluginConfig, found \"google.protobuf.Duration\""
        );
        let broken = Any {
            value: vec![0x0a],
            ..pack(&PluginConfig::default())
        };
        assert!(matches!(
            unpack::<PluginConfig>(&broken),
            Err(AnyError::Malformed { .. })
        ));
    }

    #[test]
    fn unpacks_what_a_typed_struct_stands_for() {
        for name in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
            let text = r#"{"type_url": "type.googleapis.com/stats.PluginConfig",
                "value": {"disable_host_header_fallback": true, "tcp_reporting_duration": "15s", "max_peer_cache_size": 7}}"#;
            let value = json::encode_text(text, name, &Options::default()).expect("fits").bytes;
            let any = Any {
                type_url: format!("{PREFIX}{name}"),
                value,
            };
            let config: PluginConfig = unpack(&any).expect("known");
            assert!(config.disable_host_header_fallback);
            assert_eq!(config.tcp_reporting_duration.map(|duration| duration.seconds), Some(15));
            assert_eq!(config.max_peer_cache_size, 7);
            assert_eq!(content(&any).expect("known").0, "stats.PluginConfig");
        }
    }
}
