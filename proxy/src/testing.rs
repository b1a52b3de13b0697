//! What unit tests of several rooms build requests from.

use std::sync::Arc;

use crate::http::body::Body;
use crate::http::exchange::{Exchange, Protocol};
use crate::listener::{ConnectionInfo, Direction};
use crate::runtime::io::Address;
use crate::tls::PeerInfo;

/// A connection from `10.0.0.1:1111` to `10.0.0.2:80`.
pub fn connection(tls: Option<PeerInfo>) -> ConnectionInfo {
    let address = |text: &str| Address::Ip(text.parse().expect("an address"));
    ConnectionInfo {
        id: 7,
        local: address("10.0.0.2:80"),
        remote: address("10.0.0.1:1111"),
        direct_remote: address("10.0.0.1:1111"),
        own_local: None,
        original_destination: None,
        sni: None,
        transport_protocol: if tls.is_some() { "tls" } else { "raw_buffer" },
        alpn: None,
        tls: tls.map(Arc::new),
        workload: None,
        listener_name: "listener".into(),
        filter_chain_name: "".into(),
        metadata: Default::default(),
        direction: Direction::Unspecified,
        accepted_at: crate::runtime::clock::now(),
        secured_at: None,
        requests: Default::default(),
        xfcc: Default::default(),
        buffer_limit: 1 << 20,
        extensions: http::Extensions::new(),
    }
}

/// A request over [`connection`]; its authority is its `host` header.
pub fn exchange(method: &str, target: &str, headers: &[(&str, &str)]) -> Exchange {
    exchange_over(connection(None), method, target, headers)
}

/// As [`exchange`], over a connection of one's own.
pub fn exchange_over(connection: ConnectionInfo, method: &str, target: &str, headers: &[(&str, &str)]) -> Exchange {
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::Empty).expect("a request");
    let mut exchange = Exchange::new(request, Arc::new(connection), Protocol::Http11);
    exchange.authority = exchange.headers().get("host").cloned();
    exchange
}
