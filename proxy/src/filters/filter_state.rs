//! `FilterStateValue`: formatted text under a key of the filter state; what the `set_filter_state` filters of HTTP and of connections share.

use remora_proto::pb::envoy::config::core::v3::SubstitutionFormatString;
use remora_proto::pb::envoy::config::core::v3::substitution_format_string::Format as Source;
use remora_proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as pbs;

use crate::config::route::{Under, data_source, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::FilterState;
use crate::telemetry::format::{Format, LogView};

/// Kinds of objects that are no more than text. Others mean something to some other part of Envoy.
const TEXT: [&str; 3] = ["envoy.string", "envoy.hashable_string", "istio.hashable_string"];

/// A compiled `FilterStateValue`.
pub struct Value {
    key: String,
    format: Format,
    skip_if_empty: bool,
}

impl Value {
    /// `known`: kinds of objects that mean something where the value is set, and are text here.
    ///
    /// # Errors
    /// Objects of other kinds, and what is not supported, by path.
    #[allow(deprecated, reason = "`read_only` is refused, not ignored")]
    pub fn compile(value: &pbs::FilterStateValue, known: &[&str]) -> Compiled<Self> {
        let Some(pbs::filter_state_value::Key::ObjectKey(key)) = &value.key else {
            return Err(Problems::one("object_key", "is required"));
        };
        let kind = match value.factory_key.as_str() {
            "" => key.as_str(),
            factory => factory,
        };
        // What is shared with upstream means nothing here: the tables refuse it, or the operator wants to run without.
        refuse(
            "factory_key",
            value.shared_with_upstream == 0 && !TEXT.contains(&kind) && !known.contains(&kind),
            "only strings are supported",
        )?;
        refuse("read_only", value.read_only, "is not supported")?;
        let Some(pbs::filter_state_value::Value::FormatString(format)) = &value.value else {
            return Err(Problems::one("format_string", "is required"));
        };
        Ok(Self {
            key: key.clone(),
            format: text_format(format).under("format_string")?,
            skip_if_empty: value.skip_if_empty,
        })
    }

    /// What `view` makes of it; `None`: empty, and not to be set then.
    pub fn text(&self, view: &LogView<'_>) -> Option<String> {
        let mut bytes = Vec::new();
        self.format.write(view, &mut bytes);
        let skipped = bytes.is_empty() && self.skip_if_empty;
        (!skipped).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn set(&self, text: String, extensions: &mut http::Extensions) {
        let state = extensions.get_or_insert_default::<FilterState>();
        state.0.insert(self.key.clone(), text);
    }
}

#[allow(deprecated, reason = "`text_format` still arrives")]
/// # Errors
/// What is no format of a text.
pub fn text_format(value: &SubstitutionFormatString) -> Compiled<Format> {
    refuse("formatters", !value.formatters.is_empty(), "is not supported")?;
    let text = match &value.format {
        Some(Source::TextFormat(text)) => text.clone(),
        Some(Source::TextFormatSource(source)) => {
            let bytes = data_source(source).under("text_format_source")?;
            String::from_utf8(bytes.into()).map_err(|_| Problems::one("text_format_source", "is not UTF-8"))?
        }
        Some(Source::JsonFormat(_)) => return Err(Problems::one("json_format", "is not supported")),
        None => return Err(Problems::one("format", "is required")),
    };
    Format::parse(&text, value.omit_empty_values)
}
