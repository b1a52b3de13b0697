//! The way to a control plane: mutual TLS, and connections that die without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use control_plane_mock::pki::{Authority, Identity, Leaf};
use control_plane_mock::resources::{Variant, cluster_static};
use control_plane_mock::{Listen, What};
use remora::runtime::spawn::spawn;
use remora_tests::{Mesh, Sidecar, until};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// Points the control plane's cluster elsewhere, and changes it further.
fn through(bootstrap: &mut Value, port: u16, change: impl FnOnce(&mut Value)) {
    let cluster = &mut bootstrap["static_resources"]["clusters"][0];
    let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"] = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    change(cluster);
}

fn tcp(mesh: &Mesh) -> SocketAddr {
    match mesh.control_plane.listen() {
        Listen::Tcp(address) => *address,
        Listen::Unix(path) => panic!("{}", path.display()),
    }
}

/// Takes mutual TLS in front of the control plane.
async fn tls_front(server: &Identity, clients: &Authority, target: SocketAddr) -> u16 {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from(clients.certificate_der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let chain = vec![CertificateDer::from(server.leaf_der.clone())];
    let key = PrivateKeyDer::Pkcs8(server.key_der.clone().into());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn("tls front", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            spawn("tls front connection", async move {
                // A client that does not get in is what some of this is about.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut plane = TcpStream::connect(target).await.unwrap();
                drop(copy_bidirectional(&mut stream, &mut plane).await);
            });
        }
    });
    port
}

fn tls_socket(client: Option<&Identity>, authority: &Authority) -> Value {
    let certificates: Vec<_> = client
        .iter()
        .map(|identity| {
            json!({
                "certificate_chain": {"inline_string": identity.chain_pem},
                "private_key": {"inline_string": identity.key_pem},
            })
        })
        .collect();
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "plane.test",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_certificates": certificates,
                "validation_context": {
                    "trusted_ca": {"inline_string": authority.root_pem()},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "plane.test"}}],
                },
            },
        },
    })
}

#[tokio::test]
async fn a_control_plane_behind_mutual_tls() {
    let authority = Authority::new("root").unwrap();
    let server = authority.issue(&Leaf::new().dns("plane.test")).unwrap();
    let client = authority.issue(&Leaf::new().dns("me")).unwrap();
    for variant in [Variant::Sotw, Variant::Delta] {
        let mesh = Mesh::start(variant).await;
        let port = tls_front(&server, &authority, tcp(&mesh)).await;
        let sidecar = mesh
            .sidecar_with("one", |bootstrap| {
                through(bootstrap, port, |cluster| {
                    cluster["transport_socket"] = tls_socket(Some(&client), &authority);
                });
            })
            .await;
        let version = mesh.control_plane.push_cluster(cluster_static("a", [("127.0.0.1", 1)]));
        mesh.control_plane.wait_ack("cds", &version).await.unwrap();
        assert_eq!(sidecar.stat("control_plane.connected_state").await, 1);
        assert!(sidecar.stat("cluster.xds_cluster.ssl.handshake").await > 0);
    }
}

#[tokio::test]
async fn a_control_plane_that_is_another_or_wants_a_certificate_is_not_reached_and_the_page_says_why() {
    let (authority, other) = (Authority::new("root").unwrap(), Authority::new("other").unwrap());
    let server = authority.issue(&Leaf::new().dns("plane.test")).unwrap();
    let elsewhere = authority.issue(&Leaf::new().dns("elsewhere.test")).unwrap();
    let client = authority.issue(&Leaf::new().dns("me")).unwrap();
    // Whose certificate the server has, what the client shows and trusts.
    let cases = [
        (&elsewhere, Some(&client), &authority),
        (&server, Some(&client), &other),
        (&server, None, &authority),
    ];
    for (server, client, trusted) in cases {
        let mesh = Mesh::start(Variant::Delta).await;
        let port = tls_front(server, &authority, tcp(&mesh)).await;
        let socket = tls_socket(client, trusted);
        let sidecar = mesh
            .sidecar_with("one", |bootstrap| {
                through(bootstrap, port, |cluster| cluster["transport_socket"] = socket);
            })
            .await;
        let page = until("a failure on the page", async || {
            let page = sidecar.admin("GET", "/xds").await.text();
            page.contains("gRPC config stream to xds_cluster closed")
                .then_some(page)
        })
        .await;
        assert!(page.contains("all types from ads: not connected"), "{page}");
        assert!(page.contains(&format!("127.0.0.1:{port}")), "{page}");
        let opened = mesh.control_plane.transcript();
        assert!(opened.iter().all(|entry| entry.what != What::Open), "{opened:?}");
    }
}

/// Forwards to the control plane until it is told to swallow: connections of before that are dead from then on, and do not say so.
struct Hole {
    port: u16,
    swallowed: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Hole {
    async fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (swallowed, connections) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (until, count) = (swallowed.clone(), connections.clone());
        spawn("hole", async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let plane = TcpStream::connect(target).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_plane, to_plane) = plane.into_split();
                spawn("hole up", pump(from_client, to_plane, number, until.clone()));
                spawn("hole down", pump(from_plane, to_client, number, until.clone()));
            }
        });
        Self {
            port,
            swallowed,
            connections,
        }
    }

    fn swallow(&self) {
        let all = self.connections.load(Ordering::SeqCst);
        self.swallowed.store(all, Ordering::SeqCst);
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    number: usize,
    swallowed: Arc<AtomicUsize>,
) {
    let mut buffer = [0; 4096];
    let is_dead = || number < swallowed.load(Ordering::SeqCst);
    while let Ok(count) = from.read(&mut buffer).await {
        if is_dead() {
            // Neither end learns that the other has gone.
            if count == 0 {
                return std::future::pending().await;
            }
            continue;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn keepalive_finds_a_connection_that_died_without_a_word() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mesh = Mesh::start(variant).await;
        let hole = Hole::before(tcp(&mesh)).await;
        let sidecar: Sidecar = mesh
            .sidecar_with("one", |bootstrap| {
                through(bootstrap, hole.port, |cluster| {
                    let options = &mut cluster["typed_extension_protocol_options"]
                        ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
                    let http2 = &mut options["explicit_http_config"]["http2_protocol_options"];
                    http2["connection_keepalive"] = json!({"interval": "0.3s", "timeout": "0.5s"});
                });
            })
            .await;
        let plane = &mesh.control_plane;
        let version = plane.push_cluster(cluster_static("a", [("127.0.0.1", 1)]));
        plane.wait_ack("cds", &version).await.unwrap();
        hole.swallow();
        let version = plane.push_cluster(cluster_static("b", [("127.0.0.1", 1)]));
        plane.wait_ack("cds", &version).await.unwrap();
        assert!(hole.connections.load(Ordering::SeqCst) > 1, "over another connection");
        assert!(sidecar.stat("cluster_manager.cds.update_failure").await > 0);
        for (name, value) in [
            ("http2.keepalive_timeout", 1),
            ("upstream_cx_destroy_local_with_active_rq", 1),
            ("upstream_cx_destroy_remote", 0),
            ("upstream_rq_pending_failure_eject", 1),
            ("upstream_cx_total", 2),
        ] {
            let name = format!("cluster.xds_cluster.{name}");
            assert_eq!(sidecar.stat(&name).await, value, "{name}");
        }
        until("the cluster", async || {
            let page = sidecar.admin("GET", "/config_dump").await.text();
            page.contains("\"name\": \"b\"").then_some(())
        })
        .await;
    }
}
