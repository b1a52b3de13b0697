//! Connections that misbehave, or are many, while others go on; secrets that live in files.

use std::net::SocketAddr;

use control_plane_mock::pki::{Authority, Leaf};
use remora_tests::{Backend, Load, Sidecar, until, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Listeners `http` (with an inspector before it) and `tcp` in front of one backend, and whatever else a test wants of them.
fn bootstrap(backend: u16, more: &str, more_listeners: &str) -> String {
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
{more}
static_resources:
  listeners:
  - name: http
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    listener_filters_timeout: 60s
    listener_filters:
    - name: http_inspector
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}
    filter_chains:
    - filters:
      - name: http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          route_config: {{name: r, virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: backend}}}}]}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  - name: tcp
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    connection_balance_config: {{exact_balance: {{}}}}
    filter_chains:
    - filters:
      - name: tcp_proxy
        typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: backend}}
{more_listeners}
  clusters:
  - name: backend
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 100000}}]}}
    load_assignment:
      cluster_name: backend
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {backend}}}}}}}}}]}}]
"#
    )
}

/// Zero failed requests on `http`, of which at least so many were sent.
async fn served(load: Load) {
    load.more(50).await;
    let (failed, sent) = load.finish().await;
    assert!(
        failed.is_empty(),
        "{} of {sent} failed: {:?}",
        failed.len(),
        failed.first()
    );
}

async fn active(sidecar: &Sidecar, name: &str) -> u64 {
    let address = sidecar.listener(name).await.to_string().replace(':', "_");
    sidecar.stat(&format!("listener.{address}.downstream_cx_active")).await
}

#[tokio::test]
async fn slow_and_silent_clients_keep_nobody_from_being_served() {
    let backend = Backend::start("a").await;
    let sidecar = Sidecar::start(&bootstrap(backend.port(), "", "")).await.unwrap();
    let http = sidecar.listener("http").await;
    let mut slow = Vec::new();
    for index in 0..200 {
        let mut stream = TcpStream::connect(http).await.unwrap();
        // Some say nothing, some stop within the method, some within the headers.
        let said: &[u8] = [&b""[..], b"G", b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: "][index % 3];
        stream.write_all(said).await.unwrap();
        slow.push(stream);
    }
    let load = Load::on(http, "a");
    for _ in 0..20 {
        for stream in slow.iter_mut().skip(2).step_by(3) {
            stream.write_all(b"y").await.unwrap();
        }
        load.more(5).await;
    }
    served(load).await;
    // And who was slow is served in the end.
    let mut last = slow.pop().unwrap();
    drop(slow);
    let mut first = [0; 12];
    // 199 % 3 is 1: within the method.
    last.write_all(b"ET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    within("an answer", last.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    drop(last);
    until("no connection left", async || {
        (active(&sidecar, "http").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn connections_that_are_reset_leave_nothing_behind() {
    let backend = Backend::start("a").await;
    let sidecar = Sidecar::start(&bootstrap(backend.port(), "", "")).await.unwrap();
    let (http, tcp) = (sidecar.listener("http").await, sidecar.listener("tcp").await);
    let load = Load::on(http, "a");
    for round in 0..300 {
        for address in [http, tcp] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if round % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
            }
            // The close is a reset.
            stream.set_zero_linger().unwrap();
        }
    }
    served(load).await;
    for name in ["http", "tcp"] {
        until("no connection left", async || {
            (active(&sidecar, name).await == 0).then_some(())
        })
        .await;
    }
    until("no request of the resets left", async || {
        let open = sidecar.stat("cluster.backend.upstream_rq_active").await;
        (open == 0).then_some(())
    })
    .await;
    assert_eq!(sidecar.stat("server.worker_panics").await, 0);
}

#[tokio::test]
async fn half_open_and_half_closed_connections_wait_and_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sidecar = Sidecar::start(&bootstrap(port, "", "")).await.unwrap();
    let tcp = sidecar.listener("tcp").await;
    // The client ends its side; the server answers an hour later, so to speak.
    let mut client = TcpStream::connect(tcp).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut server, _) = within("the upstream connection", listener.accept()).await.unwrap();
    let mut question = Vec::new();
    within("the half-close", server.read_to_end(&mut question))
        .await
        .unwrap();
    assert_eq!(question, b"question");
    server.write_all(b"answer").await.unwrap();
    // A server that vanishes without a word is a reset, and is passed on as the end.
    server.set_zero_linger().unwrap();
    let mut answer = [0; 6];
    within("the answer", client.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"answer");
    drop(server);
    let _ = within("the end", client.read(&mut answer)).await;
    until("no connection left", async || {
        (active(&sidecar, "tcp").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn exact_balance_spreads_connections_over_the_workers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sidecar = Sidecar::start_with(&bootstrap(port, "", ""), &["--concurrency", "3"])
        .await
        .unwrap();
    let tcp = sidecar.listener("tcp").await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(TcpStream::connect(tcp).await.unwrap());
    }
    let name = tcp.to_string().replace(':', "_");
    let loads = until("thirty connections, ten a worker", async || {
        let mut loads = Vec::new();
        for worker in 0..3 {
            let stat = format!("listener.{name}.worker_{worker}.downstream_cx_active");
            loads.push(sidecar.stat(&stat).await);
        }
        (loads.iter().sum::<u64>() == 30).then_some(loads)
    })
    .await;
    assert_eq!(loads, [10, 10, 10]);
    // They work where they were handed to.
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"x").await.unwrap();
}

#[tokio::test]
async fn the_global_limit_refuses_what_is_too_much_and_spares_who_ignores_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let limit = r#"overload_manager: {resource_monitors: [{name: envoy.resource_monitors.global_downstream_max_connections, typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 2}}]}"#;
    let free = r#"  - name: free
    ignore_global_conn_limit: true
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains: [{filters: [{name: echo, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}]}]"#;
    let sidecar = Sidecar::start(&bootstrap(port, limit, free)).await.unwrap();
    let (tcp, free) = (sidecar.listener("tcp").await, sidecar.listener("free").await);
    let first = TcpStream::connect(tcp).await.unwrap();
    let _second = TcpStream::connect(tcp).await.unwrap();
    until("two connections", async || {
        (active(&sidecar, "tcp").await == 2).then_some(())
    })
    .await;
    let mut third = TcpStream::connect(tcp).await.unwrap();
    assert!(matches!(
        within("the refusal", third.read(&mut [0])).await,
        Ok(0) | Err(_)
    ));
    let name = tcp.to_string().replace(':', "_");
    assert_eq!(
        sidecar
            .stat(&format!("listener.{name}.downstream_global_cx_overflow"))
            .await,
        1
    );
    let mut unlimited = TcpStream::connect(free).await.unwrap();
    unlimited.write_all(b"x").await.unwrap();
    within("the echo", unlimited.read_exact(&mut [0])).await.unwrap();
    // A reset: a mere end would be half of one, and wait for the other half.
    first.set_zero_linger().unwrap();
    drop(first);
    until("one connection", async || {
        (active(&sidecar, "tcp").await == 1).then_some(())
    })
    .await;
    let _again = TcpStream::connect(tcp).await.unwrap();
    until("two connections again", async || {
        (active(&sidecar, "tcp").await == 2).then_some(())
    })
    .await;
}

/// A TLS listener whose certificate is a secret in a file that names further files.
fn by_files(directory: &str) -> String {
    format!(
        r#"  - name: tls
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters: [{{name: direct, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config, response: {{inline_string: hello}}}}}}]
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            tls_certificate_sds_secret_configs: [{{name: cert, sds_config: {{path_config_source: {{path: {directory}/sds.yaml}}}}}}]"#
    )
}

/// A TLS connection to `a.test` at `address`, if its certificate is of the authority whose certificate is `root`.
pub(crate) async fn trusting(root: &[u8], address: SocketAddr) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from(root.to_vec()))
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
    connector.connect(name, stream).await.ok()
}

/// The certificate that a TLS listener shows now, and what it says.
async fn shown(address: SocketAddr, root: &[u8]) -> Option<Vec<u8>> {
    let mut stream = trusting(root, address).await?;
    let mut said = [0; 5];
    stream.read_exact(&mut said).await.ok()?;
    assert_eq!(&said, b"hello");
    let (_, session) = stream.get_ref();
    session.peer_certificates()?.first().map(|leaf| leaf.to_vec())
}

#[tokio::test]
async fn a_certificate_in_files_is_rotated_by_moving_new_ones_in_place() {
    let backend = Backend::start("a").await;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let authority = Authority::new("root").unwrap();
    let issue = || authority.issue(&Leaf::new().dns("a.test")).unwrap();
    let place = |name: &str, text: &str| {
        std::fs::write(at("new"), text).unwrap();
        std::fs::rename(at("new"), at(name)).unwrap();
    };
    let first = issue();
    place("cert.pem", &first.chain_pem);
    place("key.pem", &first.key_pem);
    let secret = format!(
        r#"resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: cert
  tls_certificate: {{certificate_chain: {{filename: {0}/cert.pem}}, private_key: {{filename: {0}/key.pem}}}}
"#,
        directory.path().display()
    );
    place("sds.yaml", &secret);
    let listener = by_files(&directory.path().display().to_string());
    // Whoever has a source has to have a name.
    let named = format!(
        "node: {{id: files, cluster: files}}\n{}",
        bootstrap(backend.port(), "", &listener)
    );
    let sidecar = Sidecar::start(&named).await.unwrap();
    let tls = sidecar.listener("tls").await;
    let root = authority.certificate_der();
    assert_eq!(shown(tls, root).await, Some(first.leaf_der));
    let second = issue();
    place("cert.pem", &second.chain_pem);
    // Whoever comes now still gets a certificate that fits its key.
    assert!(shown(tls, root).await.is_some());
    until("both files to have told of it", async || {
        (sidecar.stat("sds.cert.key_rotation_failed").await == 2).then_some(())
    })
    .await;
    place("key.pem", &second.key_pem);
    until("the second certificate", async || {
        (shown(tls, root).await? == second.leaf_der).then_some(())
    })
    .await;
}
