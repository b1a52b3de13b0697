use super::*;

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

fn encode(text: &str, name: &str) -> Result<Vec<u8>, Problems> {
    encode_text(text, name, &Options::default()).map(|encoded| encoded.bytes)
}

fn json(text: &str, name: &str) -> serde_json::Value {
    let bytes = encode(text, name).unwrap_or_else(|problems| panic!("{problems}"));
    to_json(&bytes, name).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn yaml_bootstrap_round_trips() {
    let text = "
static_resources:
  clusters:
  - name: one
    connect_timeout: 0.25s
    type: STRICT_DNS
    perConnectionBufferLimitBytes: 32768
    load_assignment:
      cluster_name: one
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 0x50}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
";
    let cluster = &json(text, BOOTSTRAP)["static_resources"]["clusters"][0];
    assert_eq!(cluster["connect_timeout"], "0.250s");
    assert_eq!(cluster["type"], "STRICT_DNS");
    assert_eq!(cluster["per_connection_buffer_limit_bytes"], 32768);
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    assert_eq!(endpoint["address"]["socket_address"]["port_value"], 80);
    let options = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["@type"], "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
    assert!(options["explicit_http_config"]["http2_protocol_options"].is_object());
    assert_eq!(json(&json(text, BOOTSTRAP).to_string(), BOOTSTRAP), json(text, BOOTSTRAP));
    assert_eq!(encode("name: a", CLUSTER), encode("{\"name\": \"a\"}", CLUSTER));
}
