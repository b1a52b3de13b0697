use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use prost::Message;
use remora_proto::pb::envoy::config::core::v3 as core;
use remora_proto::pb::envoy::config::listener::v3 as pb;
use remora_proto::pb::envoy::extensions::filters::network::direct_response::v3::Config as DirectResponse;
use remora_proto::pb::google::protobuf::{Any, BoolValue};

use super::*;
use crate::cli::DrainStrategy;
use crate::config::BuildContext;

const ECHO: &str = "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo";
const DIRECT: &str = "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config";
/// Tests fail after this; none waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    manager: ListenerManager,
    cx: BuildContext,
}

impl Bench {
    fn new(drain_time: Duration) -> Self {
        let cx = BuildContext::default();
        let workers = Arc::new(Workers::start(2).unwrap());
        let draining = Draining {
            time: drain_time,
            strategy: DrainStrategy::Immediate,
        };
        Self {
            manager: ListenerManager::new(workers, &cx.stats, draining, None),
            cx,
        }
    }

    fn apply(&self, listeners: &[pb::Listener], on_error: OnBindError) -> Result<(), Vec<BindError>> {
        let compile = |listener: &pb::Listener| {
            Arc::new(crate::config::listener::compile(&listener.encode_to_vec(), &self.cx).unwrap())
        };
        self.manager.apply(listeners.iter().map(compile), on_error)
    }

    fn address(&self, name: &str) -> SocketAddr {
        self.manager.addresses(name)[0].ip().unwrap()
    }

    fn counter(&self, name: &str) -> u64 {
        let mut found = 0;
        self.cx.stats.visit(&mut |prefix, stat, value| {
            use crate::telemetry::stats::Value;
            if format!("{prefix}{stat}") == name
                && let Value::Counter(value) | Value::Gauge(value) = value
            {
                found = value;
            }
        });
        found
    }
}

fn filter(type_url: &str, value: Vec<u8>) -> pb::Filter {
    let any = Any {
        type_url: type_url.to_owned(),
        value,
    };
    pb::Filter {
        name: "f".to_owned(),
        config_type: Some(pb::filter::ConfigType::TypedConfig(any)),
    }
}

fn echo(name: &str) -> pb::FilterChain {
    pb::FilterChain {
        name: name.to_owned(),
        filters: vec![filter(ECHO, Vec::new())],
        ..Default::default()
    }
}

fn says(text: &str) -> pb::FilterChain {
    let source = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
        ..Default::default()
    };
    let config = DirectResponse { response: Some(source) };
    pb::FilterChain {
        filters: vec![filter(DIRECT, config.encode_to_vec())],
        ..Default::default()
    }
}

/// A chain for clients that come from this port only.
fn from_port(mut chain: pb::FilterChain, port: u16) -> pb::FilterChain {
    chain.filter_chain_match = Some(pb::FilterChainMatch {
        source_ports: vec![u32::from(port)],
        ..Default::default()
    });
    chain
}

fn listener(name: &str, port: u16, chains: Vec<pb::FilterChain>) -> pb::Listener {
    let socket = core::SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(port))),
        ..Default::default()
    };
    pb::Listener {
        name: name.to_owned(),
        address: Some(core::Address {
            address: Some(core::address::Address::SocketAddress(socket)),
        }),
        filter_chains: chains,
        ..Default::default()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_update_keeps_the_socket_and_the_connections_of_unchanged_chains() {
    // No drain time: what drains is closed at once.
    let bench = Bench::new(Duration::ZERO);
    // Chains match by source port, so the client's ports are chosen before.
    let (kept, moved) = (client_socket(), client_socket());
    let (kept_port, moved_port) = (port_of(&kept), port_of(&moved));
    let chains = vec![from_port(echo("kept"), kept_port), from_port(echo("gone"), moved_port)];
    bench
        .apply(&[listener("l", 0, chains.clone())], OnBindError::ApplyNothing)
        .unwrap();
    let address = bench.address("l");
    let mut kept = connect_from(kept, address);
    let mut moved = connect_from(moved, address);
    assert_eq!(
        (ask(&mut kept, "one"), ask(&mut moved, "two")),
        ("one".to_owned(), "two".to_owned())
    );
    // The second chain becomes another one.
    let changed = vec![chains[0].clone(), says("new")];
    bench
        .apply(&[listener("l", 0, changed)], OnBindError::ApplyOthers)
        .unwrap();
    assert_eq!(bench.address("l"), address);
    assert_eq!(ask(&mut kept, "still here"), "still here");
    assert_eq!(read_all(moved), "", "the vanished chain's connection is closed");
    assert_eq!(read_all(connect(address)), "new");
    assert_eq!(bench.counter("listener_manager.listener_in_place_updated"), 1);
    assert_eq!(bench.counter("listener_manager.listener_added"), 1);
}

fn client_socket() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket
}

fn port_of(socket: &socket2::Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

fn connect_from(socket: socket2::Socket, address: SocketAddr) -> TcpStream {
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn an_equal_listener_is_not_touched() {
    let bench = Bench::new(PATIENCE);
    let config = listener("l", 0, vec![echo("e")]);
    bench
        .apply(std::slice::from_ref(&config), OnBindError::ApplyNothing)
        .unwrap();
    let mut open = connect(bench.address("l"));
    assert_eq!(ask(&mut open, "hi"), "hi");
    bench
        .apply(std::slice::from_ref(&config), OnBindError::ApplyOthers)
        .unwrap();
    assert_eq!(ask(&mut open, "hi"), "hi");
    assert_eq!(bench.counter("listener_manager.listener_modified"), 0);
    assert!(bench.manager.is_busy());
}

#[test]
fn a_removed_listener_stops_accepting_and_its_connections_drain() {
    let bench = Bench::new(Duration::ZERO);
    bench
        .apply(&[listener("l", 0, vec![echo("e")])], OnBindError::ApplyNothing)
        .unwrap();
    let address = bench.address("l");
    let mut open = connect(address);
    assert_eq!(ask(&mut open, "hi"), "hi");
    bench.apply(&[], OnBindError::ApplyOthers).unwrap();
    assert_eq!(read_all(open), "");
    // The sockets close on their workers, a moment later.
    let refused = || TcpStream::connect(address).is_err();
    let deadline = crate::runtime::clock::now() + PATIENCE;
    while !refused() {
        assert!(crate::runtime::clock::now() < deadline, "still accepts");
        std::thread::yield_now();
    }
    assert!(bench.manager.listeners().is_empty());
    assert_eq!(bench.counter("listener_manager.listener_removed"), 1);
}

#[test]
fn a_bind_error_names_listener_address_and_reason_and_nothing_is_applied() {
    let bench = Bench::new(PATIENCE);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let configs = [
        listener("bad", port, vec![echo("e")]),
        listener("good", 0, vec![says("good")]),
    ];
    let errors = bench.apply(&configs, OnBindError::ApplyNothing).unwrap_err();
    let text = errors[0].to_string();
    assert!(
        text.starts_with(&format!(
            "cannot bind listener 'bad' to 127.0.0.1:{port}: Address already in use"
        )),
        "{text}"
    );
    assert!(bench.manager.listeners().is_empty());
    let errors = bench.apply(&configs, OnBindError::ApplyOthers).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(read_all(connect(bench.address("good"))), "good");
}

#[test]
fn two_listeners_may_not_share_an_address() {
    let bench = Bench::new(PATIENCE);
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let configs = [
        listener("a", free, vec![echo("e")]),
        listener("b", free, vec![says("b")]),
    ];
    let errors = bench.apply(&configs, OnBindError::ApplyOthers).unwrap_err();
    assert!(
        errors[0]
            .to_string()
            .contains("duplicate address of existing listener 'a'")
    );
    assert_eq!(bench.manager.listeners().len(), 1);
}

#[test]
fn what_is_handed_off_goes_to_the_exact_address_before_the_wildcard() {
    let bench = Bench::new(PATIENCE);
    let unbound = |name: &str, ip: &str, port: u16| {
        let mut listener = listener(name, port, vec![echo("e")]);
        if let Some(core::address::Address::SocketAddress(socket)) =
            &mut listener.address.as_mut().unwrap().address.as_mut()
        {
            socket.address = ip.to_owned();
        }
        listener.bind_to_port = Some(BoolValue { value: false });
        listener
    };
    let listeners = [
        unbound("any", "0.0.0.0", 80),
        unbound("exact", "10.0.0.1", 80),
        unbound("any of six", "::", 80),
        unbound("another port", "10.0.0.1", 81),
    ];
    bench.apply(&listeners, OnBindError::ApplyNothing).unwrap();
    let directory = bench.manager.shared.directory.load();
    let found = |address: &str| {
        let found = directory.find(address.parse().unwrap());
        found.map(|listener| listener.name.to_string())
    };
    assert_eq!(found("10.0.0.1:80").as_deref(), Some("exact"));
    assert_eq!(found("10.0.0.2:80").as_deref(), Some("any"));
    assert_eq!(found("[fd00::1]:80").as_deref(), Some("any of six"));
    assert_eq!(found("10.0.0.1:81").as_deref(), Some("another port"));
    assert_eq!(found("10.0.0.2:81"), None);
}

#[test]
fn a_connection_without_a_chain_is_closed_and_counted() {
    let bench = Bench::new(PATIENCE);
    let chains = vec![from_port(echo("never"), 1)];
    bench
        .apply(
            &[pb::Listener {
                stat_prefix: "p".to_owned(),
                ..listener("l", 0, chains)
            }],
            OnBindError::ApplyNothing,
        )
        .unwrap();
    assert_eq!(read_all(connect(bench.address("l"))), "");
    assert_eq!(bench.counter("listener.p.no_filter_chain_match"), 1);
    assert_eq!(bench.counter("listener.p.downstream_cx_total"), 0);
}

#[test]
fn inspectors_choose_the_chain_and_lose_no_byte() {
    let bench = Bench::new(PATIENCE);
    let http = pb::FilterChainMatch {
        application_protocols: vec!["http/1.1".to_owned()],
        ..Default::default()
    };
    let chains = vec![
        pb::FilterChain {
            filter_chain_match: Some(http),
            ..echo("http")
        },
        says("not http"),
    ];
    let inspector = |kind: &str| pb::ListenerFilter {
        name: kind.to_owned(),
        config_type: Some(pb::listener_filter::ConfigType::TypedConfig(Any {
            type_url: format!("type.googleapis.com/envoy.extensions.filters.listener.{kind}"),
            value: Vec::new(),
        })),
        ..Default::default()
    };
    let config = pb::Listener {
        listener_filters: vec![
            inspector("tls_inspector.v3.TlsInspector"),
            inspector("http_inspector.v3.HttpInspector"),
        ],
        ..listener("l", 0, chains)
    };
    bench.apply(&[config], OnBindError::ApplyNothing).unwrap();
    let address = bench.address("l");
    assert_eq!(ask(&mut connect(address), "GET / HTTP/1.1\r\n"), "GET / HTTP/1.1\r\n");
    // In pieces: the first look is not enough.
    let mut slow = connect(address);
    slow.write_all(b"GET / HT").unwrap();
    slow.write_all(b"TP/1.1\r\nhost: a\r\n").unwrap();
    let mut answer = vec![0; 25];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(answer, b"GET / HTTP/1.1\r\nhost: a\r\n");
    let mut other = connect(address);
    other.write_all(b"\x00\x01").unwrap();
    assert_eq!(read_all(other), "not http");
    assert_eq!(bench.counter("http_inspector.http11_found"), 2);
}

mod reserve;
