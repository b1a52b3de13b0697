//! `envoy.filters.http.set_filter_state`: puts formatted text into the stream's filter state.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3::substitution_format_string::Format as Source;
use remora_proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as pbs;
use remora_proto::pb::envoy::extensions::filters::http::set_filter_state::v3::Config;

use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::config::route::{Under, data_source, each, refuse};
use crate::config::{Compiled, Problems};
use crate::http::exchange::{Exchange, FilterState};
use crate::telemetry::format::{Format, LogView};

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.set_filter_state.v3.Config",
    compile,
    per_route: &[],
};

/// Kinds of objects that are no more than text. Others mean something to some other part of Envoy.
const TEXT: [&str; 3] = ["envoy.string", "envoy.hashable_string", "istio.hashable_string"];

struct SetFilterState {
    name: Box<str>,
    values: Vec<Value>,
    clear_route: bool,
}

struct Value {
    key: String,
    format: Format,
    skip_if_empty: bool,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = Config::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(Stage::Filter(Arc::new(SetFilterState {
        name: cx.name.into(),
        values: each("on_request_headers", &config.on_request_headers, Value::compile)?,
        clear_route: config.clear_route_cache,
    })))
}

impl Value {
    #[allow(deprecated, reason = "`read_only` is refused, not ignored")]
    fn compile(value: &pbs::FilterStateValue) -> Compiled<Self> {
        let Some(pbs::filter_state_value::Key::ObjectKey(key)) = &value.key else {
            return Err(Problems::one("object_key", "is required"));
        };
        let kind = if value.factory_key.is_empty() {
            key
        } else {
            &value.factory_key
        };
        refuse(
            "factory_key",
            !TEXT.contains(&kind.as_str()),
            "only strings are supported",
        )?;
        refuse("read_only", value.read_only, "is not supported")?;
        refuse(
            "shared_with_upstream",
            value.shared_with_upstream != 0,
            "is not supported",
        )?;
        let Some(pbs::filter_state_value::Value::FormatString(format)) = &value.value else {
            return Err(Problems::one("format_string", "is required"));
        };
        Ok(Self {
            key: key.clone(),
            format: text_format(format).under("format_string")?,
            skip_if_empty: value.skip_if_empty,
        })
    }
}

#[allow(deprecated, reason = "`text_format` still arrives")]
fn text_format(value: &remora_proto::pb::envoy::config::core::v3::SubstitutionFormatString) -> Compiled<Format> {
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

impl Filter for SetFilterState {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        for value in &self.values {
            let mut bytes = Vec::new();
            value.format.write(&LogView::of(exchange), &mut bytes);
            if bytes.is_empty() && value.skip_if_empty {
                continue;
            }
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let state = exchange.extensions.get_or_insert_default::<FilterState>();
            state.0.insert(value.key.clone(), text);
        }
        if self.clear_route {
            exchange.route.route = None;
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::filters::http::tests;
    use crate::testing::exchange;
    use remora_proto::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source::Specifier};

    fn config(factory: &str) -> Config {
        let source = DataSource {
            specifier: Some(Specifier::InlineString("<%REQ(:AUTHORITY)%>".into())),
            ..Default::default()
        };
        let format = SubstitutionFormatString {
            format: Some(Source::TextFormatSource(source)),
            ..Default::default()
        };
        Config {
            on_request_headers: vec![pbs::FilterStateValue {
                key: Some(pbs::filter_state_value::Key::ObjectKey("who".into())),
                factory_key: factory.into(),
                value: Some(pbs::filter_state_value::Value::FormatString(format)),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn formatted_text_becomes_state() {
        let build = BuildContext::default();
        let filter = tests::compile(REGISTRATION, &config("envoy.string"), &build).expect("compiles");
        let mut request = exchange("GET", "/", &[("host", "a.test")]);
        filter.request_headers(&mut request);
        let state = request.extensions.get::<FilterState>().expect("state");
        assert_eq!(state.0["who"], "<a.test>");
    }

    #[test]
    fn an_object_with_a_meaning_of_its_own_is_refused() {
        let build = BuildContext::default();
        let problems = tests::compile(REGISTRATION, &config(""), &build)
            .err()
            .expect("refused");
        assert_eq!(problems.0[0].path, "on_request_headers[0].factory_key");
    }
}
