//! `istio.alpn`: HTTP over mutual TLS offers a list of its own, so that the peer's filter chains know it for HTTP between sidecars.

use std::sync::Arc;

use prost::Message;
use remora_proto::istio::alpn::{AlpnOverride, FilterConfig, Protocol};

use super::{Filter, FilterContext, Flow, Registration, Stage};
use crate::config::{Compiled, Problems};
use crate::http::exchange::Exchange;
use crate::pool::alpn::{Alpn, UpstreamAlpn};

pub const REGISTRATION: Registration = Registration {
    type_name: "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
    compile,
    per_route: &[],
};

/// Promises a preamble of metadata on the connection, which HTTP connections do without.
const PEER_EXCHANGE: &str = "istio-peer-exchange";

struct AlpnFilter {
    name: Box<str>,
    lists: UpstreamAlpn,
}

fn compile(config: &[u8], cx: &FilterContext<'_>) -> Compiled<Stage> {
    let config = FilterConfig::decode(config).map_err(|error| Problems::one("", error.to_string()))?;
    let mut lists = UpstreamAlpn::default();
    for (index, one) in config.alpn_override.iter().enumerate() {
        let list = alpn(one).map_err(|problems| problems.under(&format!("alpn_override[{index}]")))?;
        match one.upstream_protocol() {
            Protocol::Http10 => lists.http10 = list,
            Protocol::Http11 => lists.http11 = list,
            Protocol::Http2 => lists.http2 = list,
        }
    }
    Ok(Stage::Filter(Arc::new(AlpnFilter {
        name: cx.name.into(),
        lists,
    })))
}

fn alpn(one: &AlpnOverride) -> Compiled<Option<Arc<Alpn>>> {
    let offered = one.alpn_override.iter().filter(|name| *name != PEER_EXCHANGE);
    let names: Vec<Vec<u8>> = offered.map(|name| name.clone().into_bytes()).collect();
    if names.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err(Problems::one("alpn_override", "a protocol name has 1 to 255 bytes"));
    }
    Ok((!names.is_empty()).then(|| Alpn::intern(names)))
}

impl Filter for AlpnFilter {
    fn name(&self) -> &str {
        &self.name
    }

    fn request_headers(&self, exchange: &mut Exchange) -> Flow {
        exchange.extensions.insert(self.lists.clone());
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::BuildContext;
    use crate::testing::exchange;

    fn run(overrides: &[(Protocol, &[&str])]) -> Compiled<UpstreamAlpn> {
        let alpn_override = overrides.iter().map(|(protocol, names)| AlpnOverride {
            upstream_protocol: *protocol as i32,
            alpn_override: names.iter().map(|name| (*name).to_owned()).collect(),
        });
        let config = FilterConfig {
            alpn_override: alpn_override.collect(),
        };
        let build = BuildContext::default();
        let cx = FilterContext {
            name: "istio.alpn",
            stat_prefix: "http.x.",
            build: &build,
        };
        let Stage::Filter(filter) = compile(&config.encode_to_vec(), &cx)? else {
            panic!("a filter");
        };
        let mut exchange = exchange("GET", "/", &[]);
        assert!(matches!(filter.request_headers(&mut exchange), Flow::Continue));
        Ok(exchange.extensions.get::<UpstreamAlpn>().expect("lists").clone())
    }

    #[test]
    fn each_protocol_has_its_list_without_the_preamble() {
        let lists = run(&[
            (
                Protocol::Http11,
                &["istio-peer-exchange", "istio-http/1.1", "istio", "http/1.1"],
            ),
            (Protocol::Http2, &["istio-h2", "istio", "h2"]),
        ]);
        let lists = lists.expect("compiles");
        let http11 = lists.http11.expect("a list");
        assert_eq!(
            http11.protocols(),
            [b"istio-http/1.1".to_vec(), b"istio".to_vec(), b"http/1.1".to_vec()]
        );
        assert!(lists.http10.is_none());
        assert_ne!(lists.http2.expect("a list").id(), http11.id());
    }

    #[test]
    fn an_impossible_name_is_refused() {
        let problems = run(&[(Protocol::Http2, &["h2", ""])]).expect_err("refused");
        assert_eq!(problems.0[0].path, "alpn_override[0].alpn_override");
    }
}
