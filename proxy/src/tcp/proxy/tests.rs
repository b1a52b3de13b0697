use std::net::SocketAddr;

use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::endpoint::v3 as endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;

use remora_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3 as pb;

use pb::tcp_proxy::weighted_cluster::ClusterWeight;
use pb::tcp_proxy::{ClusterSpecifier, WeightedCluster};

use super::*;
use crate::config::BuildContext;
use crate::runtime::drain::Drain;
use crate::runtime::io::Address;
use crate::runtime::spawn::spawn;
use crate::snapshot::{ClusterSlot, Snapshot};

fn endpoint(address: SocketAddr) -> endpoint::LbEndpoint {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            address.port(),
        ))),
        ..Default::default()
    };
    let address = core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    };
    let endpoint = endpoint::Endpoint {
        address: Some(address),
        ..Default::default()
    };
    endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..Default::default()
    }
}

/// A context whose snapshot holds static clusters with these hosts.
fn context(clusters: &[(&str, &[SocketAddr])]) -> BuildContext {
    let cx = BuildContext::default();
    let mut snapshot = Snapshot::default();
    for (name, hosts) in clusters {
        let locality = endpoint::LocalityLbEndpoints {
            lb_endpoints: hosts.iter().map(|host| endpoint(*host)).collect(),
            ..Default::default()
        };
        let config = PbCluster {
            name: (*name).to_owned(),
            load_assignment: Some(endpoint::ClusterLoadAssignment {
                cluster_name: (*name).to_owned(),
                endpoints: vec![locality],
                ..Default::default()
            }),
            ..Default::default()
        };
        let name: Arc<str> = Arc::from(*name);
        let slot = ClusterSlot::new(name.clone(), config.encode_to_vec().into(), Arc::new(cx.clone()));
        snapshot.clusters.insert(name, Arc::new(slot));
    }
    cx.snapshot.store(Arc::new(snapshot));
    cx
}

fn proxy(cx: &BuildContext, config: pb::TcpProxy) -> Arc<TcpProxy> {
    TcpProxy::compile(&config.encode_to_vec(), cx).unwrap()
}

fn to(cluster: &str) -> pb::TcpProxy {
    pb::TcpProxy {
        stat_prefix: "p".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    }
}

/// A downstream connection in memory; the other end is the client's.
fn downstream(proxy: Arc<TcpProxy>, drain: &Drain) -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (client, io) = duplex(1024);
    let address = Address::Pipe(Arc::from("test"));
    let info = ConnectionInfo {
        id: 0,
        local: address.clone(),
        remote: address.clone(),
        direct_remote: address,
        own_local: None,
        original_destination: None,
        sni: None,
        transport_protocol: "raw_buffer",
        alpn: None,
        tls: None,
        workload: None,
        listener_name: Arc::from("l"),
        filter_chain_name: Arc::from(""),
        metadata: Default::default(),
        direction: crate::listener::Direction::Unspecified,
        accepted_at: clock::now(),
        secured_at: None,
        requests: Default::default(),
        xfcc: Default::default(),
        buffer_limit: 1 << 20,
        extensions: http::Extensions::new(),
    };
    let serving = spawn("test", proxy.serve(Io::Duplex(io), Arc::new(info), drain.signal(), &[]));
    (client, serving)
}

/// Reads its client to the end, then answers with all of it, backwards; once.
async fn backwards() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn("backend", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.unwrap();
        text.reverse();
        stream.write_all(&text).await.unwrap();
    }));
    address
}

async fn nobody() -> SocketAddr {
    // Bound and closed again.
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_half_close_is_passed_on_and_the_answer_comes_back() {
    let cx = context(&[("c", &[backwards().await])]);
    let (drain, _) = Drain::new();
    let (mut client, serving) = downstream(proxy(&cx, to("c")), &drain);
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "olleh");
    serving.await.unwrap();
    let stats: Arc<TcpStats> = cx.stats.group("tcp.p.");
    let bytes = (
        stats.downstream_cx_rx_bytes_total.value(),
        stats.downstream_cx_tx_bytes_total.value(),
    );
    assert_eq!((stats.downstream_cx_total.value(), bytes), (1, (5, 5)));
    let cluster = cx.snapshot.load().cluster("c").unwrap();
    let cx_stats = (
        cluster.stats.upstream_cx_total.value(),
        cluster.stats.upstream_cx_active.value(),
    );
    assert_eq!((cx_stats, cluster.stats.upstream_cx_destroy.value()), ((1, 0), 1));
    assert_eq!(cluster.stats.upstream_cx_tx_bytes_total.value(), 5);
}

#[tokio::test]
async fn each_attempt_picks_again_until_one_connects_or_none_is_left() {
    let cx = context(&[
        ("down", &[nobody().await]),
        ("half", &[nobody().await, backwards().await]),
    ]);
    let (drain, _) = Drain::new();
    let twice = |cluster| pb::TcpProxy {
        max_connect_attempts: Some(remora_proto::pb::google::protobuf::UInt32Value { value: 2 }),
        ..to(cluster)
    };
    let (mut client, _) = downstream(proxy(&cx, twice("down")), &drain);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "closed");
    let stats = cx.snapshot.load().cluster("down").unwrap().stats.clone();
    let seen = (
        stats.upstream_cx_connect_fail.value(),
        stats.upstream_cx_connect_attempts_exceeded.value(),
    );
    assert_eq!((seen, stats.upstream_cx_active.value()), ((2, 1), 0));

    // Round robin: the second attempt is the other host.
    let (mut client, _) = downstream(proxy(&cx, twice("half")), &drain);
    client.write_all(b"ab").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "ba");
}

#[tokio::test]
async fn a_failed_attempt_is_told_of_though_the_next_one_connects() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cx = context(&[("half", &[nobody().await, listener.local_addr().unwrap()])]);
    let config = pb::TcpProxy {
        max_connect_attempts: Some(remora_proto::pb::google::protobuf::UInt32Value { value: 2 }),
        ..to("half")
    };
    let proxy = proxy(&cx, config);
    let connection = Arc::new(crate::testing::connection(None));
    let logs: Arc<[AccessLog]> = Arc::default();
    let mut seen = Vec::new();
    // Round robin: of three in a row, one begins with the host that is not there.
    for _ in 0..3 {
        let mut journal = TcpJournal::new(&logs, connection.clone());
        let (_client, io) = duplex(16);
        let opened = proxy.open(Io::Duplex(io), &connection, &mut journal.record).await;
        assert!(opened.is_ok());
        seen.push((journal.record.upstream.attempts, journal.record.flags.short()));
    }
    assert!(seen.contains(&(2, "UF".to_owned())), "{seen:?}");
    assert!(
        seen.iter().all(|(attempts, flags)| (*attempts == 2) == (flags == "UF")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn without_a_cluster_the_connection_is_closed_and_counted() {
    let cx = context(&[]);
    let (drain, _) = Drain::new();
    let (mut client, serving) = downstream(proxy(&cx, to("gone")), &drain);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    serving.await.unwrap();
    let stats: Arc<TcpStats> = cx.stats.group("tcp.p.");
    assert_eq!(stats.downstream_cx_no_route.value(), 1);
}

#[tokio::test]
async fn draining_lets_a_tunnel_stand_and_closing_ends_it() {
    let cx = context(&[("c", &[backwards().await])]);
    let (drain, _) = Drain::new();
    let (mut client, serving) = downstream(proxy(&cx, to("c")), &drain);
    drain.advance(DrainPhase::Draining);
    client.write_all(b"still served").await.unwrap();
    drain.advance(DrainPhase::Closed);
    serving.await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn whoever_is_to_look_at_drains_leaves_with_his_next_byte() {
    let cx = context(&[("c", &[backwards().await])]);
    let (drain, _) = Drain::new();
    let config = pb::TcpProxy {
        check_drain_close: Some(remora_proto::pb::google::protobuf::BoolValue { value: true }),
        ..to("c")
    };
    let (mut client, serving) = downstream(proxy(&cx, config), &drain);
    let stats: Arc<TcpStats> = cx.stats.group("tcp.p.");
    client.write_all(b"before").await.unwrap();
    while stats.downstream_cx_rx_bytes_total.value() < 6 {
        tokio::task::yield_now().await;
    }
    drain.advance(DrainPhase::Draining);
    assert!(!serving.is_finished());
    client.write_all(b"after").await.unwrap();
    serving.await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(stats.downstream_cx_drain_close.value(), 1);
    assert_eq!(
        stats.downstream_cx_rx_bytes_total.value(),
        11,
        "what it said was passed on"
    );
}

#[test]
fn weights_share_the_connections() {
    let clusters = [("a", 1), ("b", 3)].map(|(name, weight)| ClusterWeight {
        name: name.to_owned(),
        weight,
        metadata_match: None,
    });
    let weighted = WeightedCluster {
        clusters: clusters.to_vec(),
    };
    let clusters = Clusters::compile(&pb::TcpProxy {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
        ..Default::default()
    });
    let clusters = clusters.unwrap();
    let connection = crate::testing::connection(None);
    fastrand::seed(7);
    let b = (0..10_000).filter(|_| clusters.choose(&connection).name == "b").count();
    assert!((7_200..7_800).contains(&b), "{b}");
}

#[test]
fn what_it_cannot_do_is_refused_by_path() {
    let cx = context(&[]);
    let refused = |config: pb::TcpProxy| {
        TcpProxy::compile(&config.encode_to_vec(), &cx).err().unwrap().0[0]
            .path
            .clone()
    };
    let tunnel = pb::TcpProxy {
        tunneling_config: Some(Default::default()),
        ..to("c")
    };
    assert_eq!(refused(tunnel), "tunneling_config.hostname");
    assert_eq!(
        refused(pb::TcpProxy {
            cluster_specifier: None,
            ..to("c")
        }),
        "cluster_specifier"
    );
    let empty = ClusterSpecifier::WeightedClusters(WeightedCluster::default());
    assert_eq!(
        refused(pb::TcpProxy {
            cluster_specifier: Some(empty),
            ..to("c")
        }),
        "weighted_clusters.clusters"
    );
}

/// Either side's reset reaches the other one, which would take what came so far for all there is.
#[tokio::test]
async fn a_reset_is_passed_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let cx = context(&[("c", &[listener.local_addr().unwrap()])]);
    let (drain, _) = Drain::new();
    for by_client in [true, false] {
        let client = tokio::net::TcpStream::connect(proxied.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = proxied.accept().await.unwrap();
        let info = Arc::new(crate::testing::connection(None));
        let serving = spawn(
            "test",
            proxy(&cx, to("c")).serve(Io::Tcp(accepted), info, drain.signal(), &[]),
        );
        let (host, _) = listener.accept().await.unwrap();
        let (mut gone, mut left) = if by_client { (client, host) } else { (host, client) };
        gone.write_all(b"x").await.unwrap();
        left.read_u8().await.unwrap();
        Io::Tcp(gone).reset_on_close();
        let error = left.read_u8().await.unwrap_err();
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "by the client: {by_client}"
        );
        serving.await.unwrap();
    }
}

/// Through HTTP/1, by CONNECT or POST.
fn tunnel(cluster: &str, use_post: bool) -> pb::TcpProxy {
    pb::TcpProxy {
        tunneling_config: Some(pb::tcp_proxy::TunnelingConfig {
            hostname: "far:1".to_owned(),
            use_post,
            ..Default::default()
        }),
        ..to(cluster)
    }
}

/// A host that reads a head and says `answer`, then closes, or stays silent.
async fn answers(answer: Option<&'static [u8]>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(spawn("backend", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap() > 0 {}
        match answer {
            Some(answer) => stream.write_all(answer).await.unwrap(),
            None => std::future::pending().await,
        }
    }));
    address
}

#[tokio::test]
async fn a_tunnel_whose_host_ends_first_ends_with_its_client() {
    for use_post in [false, true] {
        let host = answers(Some(b"HTTP/1.1 200 OK\r\n\r\nhi")).await;
        let cx = context(&[("c", &[host])]);
        let (drain, _) = Drain::new();
        let (mut client, serving) = downstream(proxy(&cx, tunnel("c", use_post)), &drain);
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hi");
        drop(client);
        tokio::time::timeout(Duration::from_secs(10), serving)
            .await
            .expect("it ends")
            .unwrap();
        let cluster = cx.snapshot.load().cluster("c").unwrap();
        assert_eq!(cluster.stats.upstream_rq_active.value(), 0, "POST: {use_post}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_that_is_not_answered_is_idle() {
    let cx = context(&[("c", &[answers(None).await])]);
    let (drain, _) = Drain::new();
    let config = pb::TcpProxy {
        idle_timeout: Some(remora_proto::pb::google::protobuf::Duration { seconds: 1, nanos: 0 }),
        ..tunnel("c", false)
    };
    let (mut client, serving) = downstream(proxy(&cx, config), &drain);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "closed");
    serving.await.unwrap();
    let stats: Arc<TcpStats> = cx.stats.group("tcp.p.");
    assert_eq!(stats.idle_timeout.value(), 1);
    assert_eq!(
        cx.snapshot
            .load()
            .cluster("c")
            .unwrap()
            .stats
            .upstream_rq_active
            .value(),
        0
    );
}
