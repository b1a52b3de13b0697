//! Connections to hosts that change, die or grow old, and endpoints that do.

use std::time::Duration;

use control_plane_mock::pki::{Authority, Leaf};
use control_plane_mock::resources::{
    ClusterBuilder, Variant, cluster_eds, cluster_static, endpoint, endpoints, endpoints_of, hcm, listener_http, pack,
    prefix, route_config, tls_downstream, tls_upstream,
};
use remora::runtime::spawn::spawn;
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::cluster::v3::cluster::TransportSocketMatch;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use remora_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use remora_proto::pb::envoy::extensions::upstreams::http::v3 as http_options;
use remora_proto::pb::google::protobuf::{Duration as PbDuration, Struct, Value, value::Kind};
use remora_tests::{Backend, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{One, all_to_a, cluster};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The host asks for the socket of this name by its metadata.
fn asks_for(port: u16, socket: &str) -> control_plane_mock::resources::EndpointsBuilder {
    let mut host = endpoint("127.0.0.1", port).build();
    let name = Value {
        kind: Some(Kind::StringValue(socket.to_owned())),
    };
    let fields = [("socket".to_owned(), name)].into();
    host.metadata.get_or_insert_default().filter_metadata =
        [("envoy.transport_socket_match".to_owned(), Struct { fields })].into();
    endpoints_of("a").edit(|assignment| {
        assignment.endpoints.push(Default::default());
        assignment.endpoints[0].lb_endpoints.push(host);
    })
}

/// Endpoints of one cluster choose among its transport sockets by their metadata: a connection that was made through one is none for requests
/// that are to go through another. Nothing else tells the two apart, neither the cluster nor the address.
#[tokio::test]
async fn a_host_that_changes_its_transport_socket_gets_other_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (first_bytes, mut seen) = mpsc::channel(16);
    let server = spawn("backend", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let first_bytes = first_bytes.clone();
            spawn("connection", async move {
                let mut asked = Vec::new();
                let mut is_first = true;
                while matches!(stream.read_buf(&mut asked).await, Ok(1..)) {
                    if std::mem::take(&mut is_first) {
                        first_bytes.send(asked[0]).await.unwrap();
                    }
                    if asked.ends_with(b"\r\n\r\n") {
                        asked.clear();
                        stream.write_all(ANSWER).await.unwrap();
                    }
                }
            });
        }
    });
    let in_the_clear_or_not = cluster_eds("a")
        .tls(tls_upstream("cert", "ca"))
        .edit(|cluster: &mut Cluster| {
            let matched = |name: &str, socket| TransportSocketMatch {
                name: name.to_owned(),
                r#match: Some(Struct {
                    fields: [(
                        "socket".to_owned(),
                        Value {
                            kind: Some(Kind::StringValue(name.to_owned())),
                        },
                    )]
                    .into(),
                }),
                transport_socket: socket,
            };
            let plain = core::TransportSocket {
                name: "envoy.transport_sockets.raw_buffer".to_owned(),
                config_type: Some(core::transport_socket::ConfigType::TypedConfig(pack(
                    &RawBuffer::default(),
                ))),
            };
            let tls = cluster.transport_socket.take();
            cluster.transport_socket_matches = vec![matched("tls", tls), matched("plain", Some(plain))];
        });
    let authority = Authority::new("root").unwrap();
    let own = authority
        .issue(&Leaf::spiffe("cluster.local", "default", "client"))
        .unwrap();
    let one = One::start_with(Variant::Delta, [in_the_clear_or_not], all_to_a(), |plane| {
        plane.push_secret(own.secret("cert"));
        plane.push_secret(authority.secret("ca"));
        plane.push_endpoints(asks_for(port, "plain"));
    })
    .await;
    let mut client = one.client().await;
    for _ in 0..3 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    assert_eq!(seen.recv().await, Some(b'G'));
    one.mesh.control_plane.push_endpoints(asks_for(port, "tls"));
    until("a handshake", async || {
        // This host does not speak TLS: what is not sent over the old connection fails.
        let status = client.get("m", "/", "").await.status;
        (status == 503).then_some(())
    })
    .await;
    assert_eq!(seen.recv().await, Some(0x16), "a TLS record");
    until("the end of the old one", async || {
        (one.sidecar.stat("cluster.a.upstream_cx_active").await == 0).then_some(())
    })
    .await;
    server.abort();
}

/// A host that answers the first request of each connection, and ends the connection when the second has come: no look at the connection could
/// have told. What may be repeated is; nothing else.
#[tokio::test]
async fn a_request_that_a_dying_connection_swallowed_is_repeated_if_it_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = spawn("dying backend", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            spawn("connection", async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    assert!(stream.read_buf(&mut asked).await.unwrap() > 0);
                }
                stream.write_all(ANSWER).await.unwrap();
                stream.read_buf(&mut asked).await.unwrap();
            });
        }
    });
    let one = One::start([cluster_static("a", [("127.0.0.1", port)])], all_to_a()).await;
    let mut client = one.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("m", "/", "").await.status, 200);
    }
    // The first had nothing to be lost on; each of the others was lost once.
    assert_eq!(one.sidecar.stat("cluster.a.upstream_cx_total").await, 20);
    assert_eq!(
        one.sidecar.stat("cluster.a.upstream_rq_retry").await,
        0,
        "no policy asked for it"
    );
    client
        .send("POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\n\r\n")
        .await;
    let answer = client.response("POST").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    server.abort();
}

/// The same race as on HTTP/1 (see `pools`): the host ends an idle HTTP/2 connection without a word, and the next request must not go out on it.
/// A POST, so that nothing is repeated.
#[tokio::test]
async fn an_http2_connection_that_the_host_has_closed_is_never_used_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (closed, mut closes) = mpsc::channel(1);
    let server = spawn("closing backend", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
            // Sends what is queued, then nobody is there: neither GOAWAY nor a reset.
            let flushed = tokio::time::timeout(Duration::from_millis(5), connection.accept()).await;
            assert!(flushed.is_err(), "no request but one");
            drop(respond);
            drop(connection);
            if closed.send(()).await.is_err() {
                return;
            }
        }
    });
    let one = One::start([cluster_static("a", [("127.0.0.1", port)]).http2()], all_to_a()).await;
    let mut client = one.client().await;
    for round in 1..=100 {
        client
            .send("POST / HTTP/1.1\r\nhost: m\r\ncontent-length: 0\r\n\r\n")
            .await;
        assert_eq!(client.response("POST").await.status, 200, "request {round}");
        closes.recv().await.unwrap();
    }
    assert_eq!(one.sidecar.stat("cluster.a.upstream_rq_total").await, 100);
    assert_eq!(one.sidecar.stat("cluster.a.upstream_cx_total").await, 100);
    server.abort();
}

fn span(milliseconds: i32) -> Option<PbDuration> {
    Some(PbDuration {
        seconds: i64::from(milliseconds / 1000),
        nanos: milliseconds % 1000 * 1_000_000,
    })
}

#[tokio::test]
async fn a_connection_takes_requests_for_so_long() {
    for speaks_http2 in [false, true] {
        let a = Backend::start("a").await;
        let plain = cluster(&a);
        let explicit = http_options::http_protocol_options::ExplicitHttpConfig {
            protocol_config: speaks_http2.then(|| {
                http_options::http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                    core::Http2ProtocolOptions::default(),
                )
            }),
        };
        let upstream = match speaks_http2 {
            true => explicit,
            false => http_options::http_protocol_options::ExplicitHttpConfig {
                protocol_config: Some(
                    http_options::http_protocol_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                        core::Http1ProtocolOptions::default(),
                    ),
                ),
            },
        };
        let limited = plain.http_options(http_options::HttpProtocolOptions {
            common_http_protocol_options: Some(core::HttpProtocolOptions {
                max_connection_duration: span(400),
                ..core::HttpProtocolOptions::default()
            }),
            upstream_protocol_options: Some(
                http_options::http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(upstream),
            ),
            ..http_options::HttpProtocolOptions::default()
        });
        let one = One::start([limited], all_to_a()).await;
        let mut client = one.client().await;
        // A request that lasts longer than its connection may is not cut.
        assert_eq!(client.get("m", "/", "x-do: delay=700\r\n").await.status, 200);
        assert_eq!((a.requests(), a.connections()), (1, 1));
        for _ in 0..3 {
            assert_eq!(client.get("m", "/", "").await.status, 200);
        }
        let connections = a.connections();
        assert_eq!(a.requests(), 4);
        assert!(connections >= 2, "http2: {speaks_http2}");
        until("the end of the last", async || {
            let reached = one.sidecar.stat("cluster.a.upstream_cx_max_duration_reached").await;
            let active = one.sidecar.stat("cluster.a.upstream_cx_active").await;
            (reached == connections as u64 && active == 0).then_some(())
        })
        .await;
    }
}

/// `auto_config`: what the peer agrees to in ALPN is spoken.
#[tokio::test]
async fn the_peer_says_by_alpn_which_protocol_is_spoken() {
    let authority = Authority::new("root").unwrap();
    let own = authority.issue(&Leaf::spiffe("cluster.local", "default", "a")).unwrap();
    let offers: [(&[&str], bool); 3] = [(&["h2", "http/1.1"], true), (&["http/1.1"], false), (&[], false)];
    for (offered, speaks_http2) in offers {
        let backend = Backend::start("b").await;
        let plane = Mesh::start(Variant::Delta).await;
        plane.control_plane.push_secret(own.secret("cert"));
        plane
            .control_plane
            .push_cluster(cluster_static("local", [("127.0.0.1", backend.port())]));
        let routes = route_config("inbound")
            .vhost(["*"])
            .with_route(prefix("/").cluster("local"));
        let tls = tls_downstream("cert").alpn(offered.iter().copied());
        plane
            .control_plane
            .push_listener(listener_http("inbound", "127.0.0.1", 0, hcm("inbound").inline(routes)).tls(tls));
        let server = plane.sidecar("server").await;
        let port = server.listener("inbound").await.port();
        let auto = cluster_static("a", [("127.0.0.1", port)])
            .tls(tls_upstream("cert", "ca"))
            .http_options(http_options::HttpProtocolOptions {
                upstream_protocol_options: Some(
                    http_options::http_protocol_options::UpstreamProtocolOptions::AutoConfig(Default::default()),
                ),
                ..http_options::HttpProtocolOptions::default()
            });
        let one = One::start_with(Variant::Delta, [auto], all_to_a(), |plane| {
            plane.push_secret(own.secret("cert"));
            plane.push_secret(authority.secret("ca"));
        })
        .await;
        let mut client = one.client().await;
        for _ in 0..3 {
            let answer = client.get("m", "/", "").await;
            assert_eq!(answer.status, 200, "{offered:?}: {answer:?}");
        }
        let counted = [
            server.stat("http.inbound.downstream_cx_http1_total").await,
            server.stat("http.inbound.downstream_cx_http2_total").await,
            one.sidecar.stat("cluster.a.upstream_cx_http1_total").await,
            one.sidecar.stat("cluster.a.upstream_cx_http2_total").await,
        ];
        let expected = if speaks_http2 { [0, 1, 0, 1] } else { [1, 0, 1, 0] };
        assert_eq!(counted, expected, "{offered:?}");
    }
}

fn going_stale(backend: &Backend, milliseconds: i32) -> control_plane_mock::resources::EndpointsBuilder {
    endpoints("a", [("127.0.0.1", backend.port())]).edit(|assignment| {
        assignment.policy = Some(Policy {
            endpoint_stale_after: span(milliseconds),
            ..Policy::default()
        });
    })
}

#[tokio::test]
async fn endpoints_that_nobody_sends_again_go_stale() {
    let a = Backend::start("a").await;
    let one = One::start_with(Variant::Delta, [eds()], all_to_a(), |plane| {
        plane.push_endpoints(going_stale(&a, 1500));
    })
    .await;
    let stale = async || one.sidecar.stat("cluster.a.assignment_stale").await;
    // Sent again in time (with another term, so that there is something to send), they stay.
    for more in 1..=3 {
        assert_eq!(one.get("/", "").await.status, 200);
        tokio::time::sleep(Duration::from_millis(800)).await;
        one.mesh.control_plane.push_endpoints(going_stale(&a, 1500 + more));
    }
    assert_eq!((one.get("/", "").await.status, stale().await), (200, 0));
    until("no host", async || (one.get("/", "").await.status == 503).then_some(())).await;
    assert_eq!(stale().await, 1);
    assert_eq!(one.sidecar.stat("cluster.a.membership_total").await, 0);
    one.mesh.control_plane.push_endpoints(going_stale(&a, 60_000));
    until("the host is back", async || {
        (one.get("/", "").await.status == 200).then_some(())
    })
    .await;
}

/// `connection_pool_per_downstream_connection`: no two clients share a connection.
#[tokio::test]
async fn each_client_may_have_connections_of_its_own() {
    for (own, expected) in [(false, 1), (true, 2)] {
        let a = Backend::start("a").await;
        let one = One::start(
            [cluster(&a).edit(|cluster| cluster.connection_pool_per_downstream_connection = own)],
            all_to_a(),
        )
        .await;
        let (mut first, mut second) = (one.client().await, one.client().await);
        for _ in 0..3 {
            assert_eq!(first.get("m", "/", "").await.status, 200);
            assert_eq!(second.get("m", "/", "").await.status, 200);
        }
        assert_eq!((a.requests(), a.connections()), (6, expected));
    }
}

fn eds() -> ClusterBuilder {
    cluster_eds("a")
}
