//! How checks connect.

use prost::Name;
use remora_proto::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use remora_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use remora_proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};

use super::*;

fn socket<M: Message + Name>(name: &str, message: &M) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/{}", M::full_name()),
            value: message.encode_to_vec(),
        })),
    }
}

fn proxied() -> core::TransportSocket {
    let raw = socket("envoy.transport_sockets.raw_buffer", &RawBuffer {});
    let proxied = ProxyProtocolUpstreamTransport {
        config: Some(core::ProxyProtocolConfig::default()),
        transport_socket: Some(raw),
        ..Default::default()
    };
    socket("envoy.transport_sockets.upstream_proxy_protocol", &proxied)
}

/// What one check sends up to the end of its request, and from which address.
async fn seen(listener: tokio::net::TcpListener, config: pb::Cluster) -> (String, String) {
    let cluster = built(&config);
    let host = cluster.all_hosts().remove(0);
    let server = async {
        let (mut stream, peer) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.expect("a head") > 0);
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("answered");
        (String::from_utf8(head).expect("text"), peer.ip().to_string())
    };
    let mut kept = Kept::default();
    let (seen, found) = tokio::join!(
        server,
        probe::probe(&cluster, &host, &cluster.health_checks[0], &mut kept)
    );
    assert_eq!(found.0, Outcome::Success);
    seen
}

#[tokio::test]
async fn checks_begin_with_the_proxy_header_and_come_from_the_bound_address() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut config = config(check(http()), port);
    config.transport_socket = Some(proxied());
    config.upstream_bind_config = Some(core::BindConfig {
        source_address: Some(core::SocketAddress {
            address: "127.0.0.9".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(0)),
            ..Default::default()
        }),
        ..Default::default()
    });
    let (head, peer) = seen(listener, config).await;
    assert!(head.starts_with("PROXY "), "{head}");
    assert!(head.contains("\r\nGET /healthz HTTP/1.1\r\n"), "{head}");
    assert_eq!(peer, "127.0.0.9");
}

#[tokio::test]
async fn the_socket_that_a_check_chooses_brings_its_header() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let yes = Value {
        kind: Some(Kind::BoolValue(true)),
    };
    let labels = Struct {
        fields: [("checks".to_owned(), yes)].into(),
    };
    let mut check = check(http());
    check.transport_socket_match_criteria = Some(labels.clone());
    let mut config = config(check, port);
    config.transport_socket_matches = vec![pb::cluster::TransportSocketMatch {
        name: "for checks".to_owned(),
        r#match: Some(labels),
        transport_socket: Some(proxied()),
    }];
    let (head, _) = seen(listener, config).await;
    assert!(head.starts_with("PROXY "), "{head}");
}
