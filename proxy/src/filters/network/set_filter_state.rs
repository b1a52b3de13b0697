//! `envoy.filters.network.set_filter_state`: puts formatted text into the connection's filter state.
//!
//! Our filters run once a connection's handshake is done, so the lists for a new connection and for a finished handshake are one after the other.

use std::sync::Arc;

use prost::Message;
use remora_proto::pb::envoy::extensions::filters::network::set_filter_state::v3::Config;

use super::{NetworkFilter, Verdict};
use crate::config::route::{each, refuse};
use crate::config::{BuildContext, Compiled, Problems};
use crate::filters::filter_state::Value;
use crate::http::exchange::Upstream;
use crate::listener::ConnectionInfo;
use crate::tcp::proxy::{CLUSTER_KEY, DISABLE_TUNNELING, IDLE_TIMEOUT};
use crate::telemetry::format::LogView;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config";

struct SetFilterState(Vec<Value>);

pub fn compile(bytes: &[u8], _cx: &BuildContext) -> Compiled<Arc<dyn NetworkFilter>> {
    let config = Config::decode(bytes).map_err(|error| Problems::one("", error.to_string()))?;
    refuse(
        "on_downstream_data",
        !config.on_downstream_data.is_empty(),
        "not supported",
    )?;
    let value = |value: &_| Value::compile(value, &[CLUSTER_KEY, DISABLE_TUNNELING, IDLE_TIMEOUT]);
    let mut values = each("on_new_connection", &config.on_new_connection, value)?;
    values.extend(each(
        "on_downstream_tls_handshake",
        &config.on_downstream_tls_handshake,
        value,
    )?);
    Ok(Arc::new(SetFilterState(values)))
}

impl NetworkFilter for SetFilterState {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict {
        let upstream = Upstream::default();
        for value in &self.0 {
            // Later values may read earlier ones.
            if let Some(text) = value.text(&LogView::of_connection(connection, &upstream)) {
                value.set(text, &mut connection.extensions);
            }
        }
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::exchange::FilterState;
    use remora_proto::pb::envoy::config::core::v3 as core;
    use remora_proto::pb::envoy::extensions::filters::common::set_filter_state::v3 as pbs;

    #[test]
    fn values_are_formatted_in_order_and_may_read_each_other() {
        let value = |key: &str, factory: &str, text: &str| pbs::FilterStateValue {
            key: Some(pbs::filter_state_value::Key::ObjectKey(key.into())),
            factory_key: factory.into(),
            value: Some(pbs::filter_state_value::Value::FormatString(
                core::SubstitutionFormatString {
                    format: Some(core::substitution_format_string::Format::TextFormatSource(
                        core::DataSource {
                            specifier: Some(core::data_source::Specifier::InlineString(text.into())),
                            ..Default::default()
                        },
                    )),
                    ..Default::default()
                },
            )),
            ..Default::default()
        };
        let config = Config {
            on_new_connection: vec![value("who", "envoy.string", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")],
            on_downstream_tls_handshake: vec![value(CLUSTER_KEY, "", "to-%FILTER_STATE(who:PLAIN)%")],
            ..Default::default()
        };
        let filter = compile(&config.encode_to_vec(), &BuildContext::default()).expect("compiles");
        let mut connection = crate::testing::connection(None);
        assert!(matches!(filter.on_new_connection(&mut connection), Verdict::Continue));
        let state = connection.extensions.get::<FilterState>().expect("set");
        assert_eq!(state.0.get(CLUSTER_KEY).map(String::as_str), Some("to-10.0.0.1"));
        let unknown = Config {
            on_new_connection: vec![value("envoy.network.upstream_server_name", "", "x")],
            ..Default::default()
        };
        assert!(compile(&unknown.encode_to_vec(), &BuildContext::default()).is_err());
    }
}
