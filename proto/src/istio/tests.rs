use prost::{Message, Name};

use super::*;
use crate::json::{Options, encode_text, to_json};

/// The struct decodes what JSON made by the descriptor, and encodes it again to the same.
fn agrees<M: Message + Name + Default>(text: &str) -> M {
    let name = M::full_name();
    let bytes = encode_text(text, &name, &Options::default())
        .expect("the text fits")
        .bytes;
    let message = M::decode(bytes.as_slice()).expect("the descriptor and the struct agree");
    let before = to_json(&bytes, &name).expect("well-formed");
    assert_eq!(to_json(&message.encode_to_vec(), &name).expect("well-formed"), before);
    message
}

#[test]
fn alpn() {
    let config: alpn::FilterConfig = agrees(
        "{alpn_override: [{alpn_override: [istio-http/1.0, istio, http/1.0]}, {upstream_protocol: HTTP2, alpn_override: [istio-h2]}]}",
    );
    assert_eq!(config.by_protocol()[&alpn::Protocol::Http2], ["istio-h2"]);
    assert_eq!(config.by_protocol()[&alpn::Protocol::Http10].len(), 3);
}

#[test]
fn metadata_exchange() {
    let config: metadata_exchange::MetadataExchange =
        agrees("{protocol: istio-peer-exchange, enable_discovery: true, additional_labels: [a]}");
    assert!(config.enable_discovery);
    assert_eq!(
        (config.protocol.as_str(), config.additional_labels.len()),
        ("istio-peer-exchange", 1)
    );
}

#[test]
fn peer_metadata() {
    let config: peer_metadata::Config = agrees(
        "{downstream_discovery: [{istio_headers: {}}, {workload_discovery: {}}], upstream_discovery: [{baggage: {}}],
          upstream_propagation: [{istio_headers: {skip_external_clusters: true}}], downstream_propagation: [{baggage: {}}],
          shared_with_upstream: true, additional_labels: [b]}",
    );
    let propagation = config.upstream_propagation[0].method_specifier;
    assert_eq!(
        propagation,
        Some(peer_metadata::Propagation::IstioHeaders(peer_metadata::IstioHeaders {
            skip_external_clusters: true
        }))
    );
    assert_eq!(config.downstream_discovery.len(), 2);
}

#[test]
fn stats() {
    let config: stats::PluginConfig = agrees(
        "{debug: true, max_peer_cache_size: -1, stat_prefix: p, field_separator: f, value_separator: v,
          disable_host_header_fallback: true, tcp_reporting_duration: 15s, reporter: SERVER_GATEWAY, rotation_interval: 1s,
          graceful_deletion_interval: 2s, metrics: [{dimensions: {a: b}, name: m, tags_to_remove: [t], match: m, drop: true}],
          definitions: [{name: d, value: '1', type: HISTOGRAM}]}",
    );
    assert_eq!(config.metrics[0].dimensions["a"], "b");
    assert_eq!(config.definitions[0].r#type(), stats::MetricType::Histogram);
    assert_eq!(config.reporter(), stats::Reporter::ServerGateway);
}

#[test]
fn peak_ewma() {
    let config: crate::contrib::PeakEwma = agrees(
        "{decay_time: 5s, aggregation_interval: 0.1s, max_samples_per_host: 10, default_rtt: 0.02s, penalty_value: 1.5}",
    );
    assert_eq!(config.penalty_value.map(|penalty| penalty.value), Some(1.5));
}
