//! Clusters whose hosts are names: who is asked for them, and that nobody is served before they are known.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use remora::runtime::spawn::spawn;
use remora_tests::{Backend, Sidecar, static_http, until};
use tokio::net::UdpSocket;
use tokio::sync::watch;

/// A name server that waits for its gate, then answers every question for an IPv4 address by 127.0.0.1.
async fn name_server(gate: watch::Receiver<bool>, asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    spawn("name server", async move {
        let mut question = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut question).await {
            asked.fetch_add(1, Ordering::Relaxed);
            let name = question[12..length].iter().position(|byte| *byte == 0).unwrap();
            let mut reply = question[..12 + name + 5].to_vec();
            // A response, recursion available; one question, one answer, nothing else.
            reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
            reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 127, 0, 0, 1]);
            let (socket, mut gate) = (socket.clone(), gate.clone());
            spawn("answer", async move {
                gate.wait_for(|open| *open).await.unwrap();
                socket.send_to(&reply, from).await.unwrap();
            });
        }
    });
    address
}

fn bootstrap(backend: &Backend, names: SocketAddr, fields: &str) -> String {
    let cluster = format!(
        r#"  - name: a
    type: STRICT_DNS
    dns_lookup_family: V4_ONLY
    {fields}
    typed_dns_resolver_config:
      name: cares
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
        resolvers: [{{socket_address: {{address: 127.0.0.1, port_value: {}}}}}]
    load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: svc.test, port_value: {}}}}}}}}}]}}]}}
"#,
        names.port(),
        backend.port()
    );
    static_http("", &cluster)
}

#[tokio::test]
async fn nobody_is_served_before_the_names_are_known() {
    let backend = Backend::start("a").await;
    let asked: Arc<AtomicUsize> = Arc::default();
    let (open, gate) = watch::channel(false);
    let names = name_server(gate, asked.clone()).await;
    let sidecar = Sidecar::start(&bootstrap(&backend, names, "")).await.unwrap();
    assert_eq!(
        sidecar.admin("GET", "/ready").await.status,
        503,
        "it waits for the name"
    );
    open.send(true).unwrap();
    assert_eq!(sidecar.first_answer().await, 200);
    until("it is ready", async || {
        (sidecar.admin("GET", "/ready").await.status == 200).then_some(())
    })
    .await;
    assert!(
        asked.load(Ordering::Relaxed) >= 1,
        "the cluster's own name server is asked"
    );
}

#[tokio::test]
async fn who_does_not_want_to_wait_does_not() {
    let backend = Backend::start("a").await;
    let (open, gate) = watch::channel(false);
    let names = name_server(gate, Arc::default()).await;
    let hasty = bootstrap(&backend, names, "wait_for_warm_on_init: false");
    let sidecar = Sidecar::start(&hasty).await.unwrap();
    assert_eq!(sidecar.admin("GET", "/ready").await.status, 200);
    assert_eq!(sidecar.first_answer().await, 503, "the name is not known yet");
    open.send(true).unwrap();
    until("a host", async || (sidecar.first_answer().await == 200).then_some(())).await;
}
