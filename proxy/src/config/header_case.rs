//! `Http1ProtocolOptions.header_key_format` → [`HeaderCase`].

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::Http1ProtocolOptions;
use remora_proto::pb::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use remora_proto::pb::envoy::extensions::http::header_formatters::preserve_case::v3::{
    PreserveCaseFormatterConfig, preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders,
};

use super::{Compiled, Problems};
use crate::http::codec::h1::HeaderCase;

const PRESERVE: &str = "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";

/// How either side of a connection spells header names.
///
/// # Errors
/// A formatter that there is not, by its path.
pub fn compile(options: &Http1ProtocolOptions) -> Compiled<HeaderCase> {
    let format = options.header_key_format.as_ref();
    let stateful = match format.and_then(|format| format.header_format.as_ref()) {
        None => return Ok(HeaderCase::Lower),
        Some(HeaderFormat::ProperCaseWords(_)) => return Ok(HeaderCase::Proper),
        Some(HeaderFormat::StatefulFormatter(stateful)) => stateful,
    };
    let at = |reason: String| Problems::one("header_key_format.stateful_formatter.typed_config", reason);
    let any = stateful.typed_config.as_ref();
    let any = any.ok_or_else(|| at("is required".to_owned()))?;
    let name = remora_proto::type_url::full_name(&any.type_url);
    if name != PRESERVE {
        return Err(at(format!("{name} is not supported")));
    }
    let config = PreserveCaseFormatterConfig::decode(any.value.as_slice()).map_err(|error| at(error.to_string()))?;
    let proper_others = config.formatter_type_on_envoy_headers() == FormatterTypeOnEnvoyHeaders::ProperCase;
    Ok(HeaderCase::Preserve { proper_others })
}
