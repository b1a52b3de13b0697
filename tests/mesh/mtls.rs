//! Two sidecars that know each other by SPIFFE identities.

use std::net::SocketAddr;

use control_plane_mock::pki::{Authority, Identity, Leaf};
use control_plane_mock::resources::{
    ClusterBuilder, Variant, cluster_static, hcm, listener_http, prefix, route_config, tls_downstream, tls_upstream,
};
use remora_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use remora_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, UpstreamProtocolOptions,
};
use remora_tests::{Answer, Backend, Http1, Load, Mesh, Sidecar, until};

const DOMAIN: &str = "cluster.local";

struct Pair {
    authority: Authority,
    server_plane: Mesh,
    client_plane: Mesh,
    server: Sidecar,
    _client: Sidecar,
    outbound: SocketAddr,
    backend: Backend,
}

/// A client sidecar that expects `expected` and a server sidecar that is `web` and wants peers of `accepted`.
async fn pair(expected: &str, accepted: &str) -> Pair {
    pair_speaking(
        expected,
        accepted,
        &["h2", "http/1.1"],
        |cluster| cluster.http2(),
        &["h2"],
    )
    .await
}

/// The same, with what the server's ALPN offers, and what the client's cluster speaks and offers.
async fn pair_speaking(
    expected: &str,
    accepted: &str,
    served: &[&str],
    speak: fn(ClusterBuilder) -> ClusterBuilder,
    offered: &[&str],
) -> Pair {
    let authority = Authority::new("root").unwrap();
    let backend = Backend::start("a").await;
    let server_plane = Mesh::start(Variant::Delta).await;
    publish(&server_plane, &authority, &identity(&authority, "web"));
    server_plane
        .control_plane
        .push_cluster(cluster_static("local", [("127.0.0.1", backend.port())]));
    let routes = route_config("inbound")
        .vhost(["*"])
        .with_route(prefix("/").cluster("local"));
    let tls = tls_downstream("cert")
        .validation("ca")
        .require_client_certificate()
        .alpn(served.iter().copied());
    let tls = tls.san_uri_exact(&spiffe(accepted));
    let inbound = listener_http("inbound", "127.0.0.1", 0, hcm("inbound").inline(routes)).tls(tls);
    server_plane.control_plane.push_listener(inbound);
    let server = server_plane.sidecar("server").await;
    let address = server.listener("inbound").await;

    let client_plane = Mesh::start(Variant::Sotw).await;
    publish(&client_plane, &authority, &identity(&authority, "client"));
    let tls = tls_upstream("cert", "ca")
        .alpn(offered.iter().copied())
        .san_uri_exact(&spiffe(expected));
    let remote = speak(cluster_static("remote", [("127.0.0.1", address.port())])).tls(tls);
    client_plane.control_plane.push_cluster(remote);
    let routes = route_config("outbound")
        .vhost(["*"])
        .with_route(prefix("/").cluster("remote"));
    let outbound = listener_http("outbound", "127.0.0.1", 0, hcm("outbound").inline(routes));
    client_plane.control_plane.push_listener(outbound);
    let client = client_plane.sidecar("client").await;
    let outbound = client.listener("outbound").await;
    Pair {
        authority,
        server_plane,
        client_plane,
        server,
        _client: client,
        outbound,
        backend,
    }
}

fn spiffe(account: &str) -> String {
    format!("spiffe://{DOMAIN}/ns/default/sa/{account}")
}

fn identity(authority: &Authority, account: &str) -> Identity {
    authority.issue(&Leaf::spiffe(DOMAIN, "default", account)).unwrap()
}

fn publish(mesh: &Mesh, authority: &Authority, identity: &Identity) {
    mesh.control_plane.push_secret(identity.secret("cert"));
    mesh.control_plane.push_secret(authority.secret("ca"));
}

impl Pair {
    async fn get(&self) -> Answer {
        Http1::connect(self.outbound)
            .await
            .unwrap()
            .get("mesh.test", "/", "")
            .await
    }
}

#[tokio::test]
async fn traffic_passes_between_the_right_identities() {
    let pair = pair("web", "client").await;
    let answer = pair.get().await;
    assert_eq!(
        (answer.status, answer.header("x-backend")),
        (200, Some("a")),
        "{answer:?}"
    );
    assert_eq!(pair.server.stat("http.inbound.downstream_cx_http2_total").await, 1);
    assert!(
        pair.server
            .admin("GET", "/stats")
            .await
            .text()
            .contains("ssl.handshake: 1")
    );
}

/// `auto_config`: the cluster speaks what the server chooses.
#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let auto = |cluster: ClusterBuilder| {
        let config = AutoHttpConfig {
            http_protocol_options: Some(Default::default()),
            http2_protocol_options: Some(Default::default()),
            ..Default::default()
        };
        cluster.http_options(HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::AutoConfig(config)),
            ..Default::default()
        })
    };
    for (served, http2) in [(&["h2", "http/1.1"][..], 1), (&["http/1.1"][..], 0)] {
        let pair = pair_speaking("web", "client", served, auto, &[]).await;
        assert_eq!(pair.get().await.status, 200);
        assert_eq!(pair.server.stat("http.inbound.downstream_cx_http2_total").await, http2);
        assert_eq!(
            pair.server.stat("http.inbound.downstream_cx_http1_total").await,
            1 - http2
        );
    }
}

#[tokio::test]
async fn a_server_of_another_identity_is_refused() {
    let pair = pair("database", "client").await;
    let answer = pair.get().await;
    assert_eq!(answer.status, 503);
    // Why is for the log, not for the client.
    assert!(
        answer.text().ends_with("reset reason: remote connection failure"),
        "{answer:?}"
    );
    assert_eq!(pair.backend.requests(), 0);
}

#[tokio::test]
async fn a_client_of_another_identity_is_refused() {
    let pair = pair("web", "friend").await;
    assert_eq!(pair.get().await.status, 503);
    assert_eq!(pair.backend.requests(), 0);
}

#[tokio::test]
async fn a_client_in_the_clear_is_refused() {
    let pair = pair("web", "client").await;
    let inbound = pair.server.listener("inbound").await;
    let mut client = Http1::connect(inbound).await.unwrap();
    client.send("GET / HTTP/1.1\r\nhost: m\r\n\r\n").await;
    assert_eq!(client.response("GET").await.status, 0);
    assert_eq!(pair.backend.requests(), 0);
}

#[tokio::test]
async fn certificates_rotate_under_traffic() {
    let pair = pair("web", "client").await;
    let load = Load::on(pair.outbound, "mesh.test");
    let mut last = 0;
    for _ in 0..3 {
        load.more(20).await;
        let (server, client) = (identity(&pair.authority, "web"), identity(&pair.authority, "client"));
        last = server.serial;
        pair.server_plane.control_plane.push_secret(server.secret("cert"));
        pair.client_plane.control_plane.push_secret(client.secret("cert"));
    }
    let serial = format!("{last:x}");
    until("the last certificate", async || {
        let text = pair.server.admin("GET", "/certs").await.text();
        text.contains(&serial).then_some(())
    })
    .await;
    load.more(20).await;
    load.none_failed().await;
}
