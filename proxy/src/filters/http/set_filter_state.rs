//! `envoy.filters.http.set_filter_state`: puts formatted text into the stream's filter state.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::http::set_filter_state::v3::Config;

use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::config::route::each;
use crate::config::{Compiled, Problems};
use crate::filters::filter_state::Value;
use crate::http::exchange::Exchange;
use crate::telemetry::format::LogView;

pub const REGISTRATION: Registration = Registration {
    type_name: "envoy.extensions.filters.http.set_filter_state.v3.Config",
    compile,
    per_route: &[],
};

struct SetFilterState {
    name: Box<str>,
    values: Vec<Value>,
    clear_route: bool,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = Config::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    Ok(Stage::Filter(Arc::new(SetFilterState {
        name: cx.name.into(),
        values: each("on_request_headers", &config.on_request_headers, |value| {
            Value::compile(value, &[])
        })?,
        clear_route: config.clear_route_cache,
    })))
}

impl Filter for SetFilterState {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        for value in &self.values {
            if let Some(text) = value.text(&LogView::of(exchange)) {
                value.set(text, &mut exchange.extensions);
            }
        }
        if self.clear_route {
            exchange.route.clear();
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::filters::http::tests;
    use crate::http::exchange::FilterState;
    use crate::testing::exchange;
    use remora_proto::pb::envoy::config::core::v3::substitution_format_string::Format as Source;
    use remora_proto::pb::envoy::config::core::v3::{DataSource, SubstitutionFormatString, data_source::Specifier};
    use remora_proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as pbs;

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
