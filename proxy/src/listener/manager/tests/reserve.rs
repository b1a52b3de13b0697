//! What is asked for before an update is accepted.

use remora_proto::pb::google::protobuf::BoolValue;

use super::*;

fn config(bench: &Bench, listener: &pb::Listener) -> Arc<ListenerConfig> {
    Arc::new(crate::config::listener::compile(&listener.encode_to_vec(), &bench.cx).unwrap())
}

fn reserve(bench: &Bench, listener: &pb::Listener) -> Result<(), String> {
    bench.manager.reserve(&config(bench, listener))
}

/// A port that the system gives to nobody else while the socket lives, and that any listener can have: all set SO_REUSEADDR, and this one does not
/// listen.
fn held_port() -> (socket2::Socket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let port = port_of(&socket);
    (socket, port)
}

/// Binds without SO_REUSEADDR, which would let two sockets that do not listen share a port.
fn takes(port: u16) -> std::io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into())
}

#[test]
fn a_port_in_use_is_refused_in_envoys_words_and_changes_nothing() {
    let bench = Bench::new(PATIENCE);
    let good = listener("good", 0, vec![says("good")]);
    bench
        .apply(std::slice::from_ref(&good), OnBindError::ApplyNothing)
        .unwrap();
    let (_held, port) = held_port();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    assert_eq!(
        reserve(&bench, &listener("bad", port, vec![echo("e")])),
        Err(format!("cannot bind '127.0.0.1:{port}': Address already in use"))
    );
    // One that runs and would move there stays where it is.
    assert!(reserve(&bench, &listener("good", port, vec![says("moved")])).is_err());
    assert_eq!(read_all(connect(bench.address("good"))), "good");
    assert_eq!(bench.counter("listener_manager.listener_create_failure"), 2);
    assert_eq!(bench.manager.listeners().len(), 1);
    // Refused is not remembered: the port may become free.
    drop(taken);
    let again = listener("bad", port, vec![says("now")]);
    reserve(&bench, &again).unwrap();
    bench.apply(&[good, again], OnBindError::ApplyOthers).unwrap();
    assert_eq!(read_all(connect(bench.address("bad"))), "now");
}

#[test]
fn what_is_reserved_is_ours_but_takes_no_connection_before_it_is_applied() {
    let bench = Bench::new(PATIENCE);
    let (held, port) = held_port();
    let wanted = listener("l", port, vec![says("there")]);
    reserve(&bench, &wanted).unwrap();
    drop(held);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    assert!(TcpStream::connect(address).is_err(), "it waits for its routes");
    assert!(takes(port).is_err(), "nobody else gets it");
    bench
        .apply(std::slice::from_ref(&wanted), OnBindError::ApplyOthers)
        .unwrap();
    assert_eq!(read_all(connect(address)), "there");
    // One that goes before it was applied gives its address back.
    let (held, other) = held_port();
    reserve(&bench, &listener("gone", other, vec![says("never")])).unwrap();
    drop(held);
    assert!(takes(other).is_err());
    bench.manager.release(&|name| name == "gone");
    takes(other).unwrap();
    assert_eq!(read_all(connect(address)), "there");
}

#[test]
fn two_dynamic_listeners_may_not_share_an_address_but_one_may_take_over_from_another() {
    let bench = Bench::new(Duration::ZERO);
    let (_held, port) = held_port();
    let exclusive = |name: &str, text: &str| pb::Listener {
        enable_reuse_port: Some(BoolValue { value: false }),
        ..listener(name, port, vec![says(text)])
    };
    let (a, b) = (exclusive("a", "from a"), exclusive("b", "from b"));
    // A second version may come before the first was applied: it gets the same sockets.
    reserve(&bench, &exclusive("a", "an older version")).unwrap();
    reserve(&bench, &a).unwrap();
    bench.apply(std::slice::from_ref(&a), OnBindError::ApplyOthers).unwrap();
    let refused = reserve(&bench, &b).unwrap_err();
    assert!(
        refused.starts_with(&format!(
            "error adding listener: 'b' has duplicate address '127.0.0.1:{port}' as existing listener"
        )),
        "{refused}"
    );
    // The control plane moves the address to another name: the socket goes along, and is never closed in between.
    bench.manager.release(&|name| name == "a");
    reserve(&bench, &b).unwrap();
    bench.apply(std::slice::from_ref(&b), OnBindError::ApplyOthers).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = crate::runtime::clock::now() + PATIENCE;
    // The old accept loops end on their workers, a moment later.
    while read_all(connect(address)) != "from b" {
        assert!(
            crate::runtime::clock::now() < deadline,
            "the old listener still accepts"
        );
    }
    assert_eq!(bench.manager.listeners().len(), 1);
}

#[test]
fn the_control_plane_cannot_take_an_address_of_the_bootstrap() {
    let bench = Bench::new(PATIENCE);
    let (_held, port) = held_port();
    let fixed = listener("static", port, vec![says("static")]);
    bench
        .apply(std::slice::from_ref(&fixed), OnBindError::ApplyNothing)
        .unwrap();
    // An update of the control plane does not name it, and does not take it away.
    bench.manager.release(&|_| true);
    let refused = reserve(&bench, &listener("dynamic", port, vec![echo("e")])).unwrap_err();
    assert!(refused.contains("has duplicate address"), "{refused}");
}

/// `SO_KEEPALIVE`, before it is bound.
fn with_option(listener: pb::Listener, value: i64) -> pb::Listener {
    let option = core::SocketOption {
        level: 1,
        name: 9,
        value: Some(core::socket_option::Value::IntValue(value)),
        ..Default::default()
    };
    pb::Listener {
        socket_options: vec![option],
        ..listener
    }
}

#[test]
fn other_socket_options_make_other_sockets_beside_the_old_ones() {
    let bench = Bench::new(PATIENCE);
    let (_held, port) = held_port();
    let first = listener("l", port, vec![echo("e")]);
    bench
        .apply(std::slice::from_ref(&first), OnBindError::ApplyOthers)
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut old = connect(address);
    assert_eq!(ask(&mut old, "old"), "old");
    let listening = bench.manager.listeners()[0].clone();
    // Of two updates that are accepted before one is applied, the later one decides.
    reserve(&bench, &with_option(first.clone(), 0)).unwrap();
    let second = with_option(first, 1);
    reserve(&bench, &second).unwrap();
    bench
        .apply(std::slice::from_ref(&second), OnBindError::ApplyOthers)
        .unwrap();
    assert!(!Arc::ptr_eq(&listening, &bench.manager.listeners()[0]));
    assert_eq!(bench.counter("listener_manager.listener_modified"), 1);
    assert_eq!(bench.counter("listener_manager.listener_in_place_updated"), 0);
    // Who was connected is served until the drain time is over, and whoever comes is served too, by whichever socket.
    assert_eq!(ask(&mut old, "still"), "still");
    for _ in 0..50 {
        assert_eq!(ask(&mut connect(address), "new"), "new");
    }
}

#[test]
fn a_socket_that_nobody_can_stand_beside_keeps_its_options() {
    let bench = Bench::new(PATIENCE);
    let (_held, port) = held_port();
    let exclusive = pb::Listener {
        enable_reuse_port: Some(BoolValue { value: false }),
        ..listener("l", port, vec![says("first")])
    };
    bench
        .apply(std::slice::from_ref(&exclusive), OnBindError::ApplyOthers)
        .unwrap();
    let refused = reserve(&bench, &with_option(exclusive.clone(), 1)).unwrap_err();
    assert!(
        refused.starts_with(&format!(
            "error adding listener: 'l' has duplicate address '127.0.0.1:{port}' as existing listener"
        )),
        "{refused}"
    );
    let shared = pb::Listener {
        enable_reuse_port: None,
        ..exclusive.clone()
    };
    assert_eq!(
        reserve(&bench, &shared).unwrap_err(),
        "Listener l: reuse port cannot be changed during an update"
    );
    // Counted is only what the system does not give.
    assert_eq!(bench.counter("listener_manager.listener_create_failure"), 0);
    // A backlog can change where it is.
    let short = pb::Listener {
        tcp_backlog_size: Some(remora_proto::pb::google::protobuf::UInt32Value { value: 17 }),
        ..exclusive
    };
    reserve(&bench, &short).unwrap();
    bench.apply(&[short], OnBindError::ApplyOthers).unwrap();
    assert_eq!(bench.counter("listener_manager.listener_in_place_updated"), 1);
    assert_eq!(read_all(connect(bench.address("l"))), "first");
}

#[test]
fn a_pipe_stays_where_it_is_and_gets_its_new_mode() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new(PATIENCE);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    let at = |mode: u32| {
        let pipe = core::Pipe {
            path: path.display().to_string(),
            mode,
        };
        pb::Listener {
            address: Some(core::Address {
                address: Some(core::address::Address::Pipe(pipe)),
            }),
            ..with_option(listener("p", 0, vec![says("piped")]), i64::from(mode))
        }
    };
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    for (wanted, updates) in [(0o600, 0), (0o666, 1)] {
        let listener = at(wanted);
        reserve(&bench, &listener).unwrap();
        bench.apply(&[listener], OnBindError::ApplyOthers).unwrap();
        assert_eq!(mode(), wanted);
        assert_eq!(bench.counter("listener_manager.listener_in_place_updated"), updates);
        let mut said = String::new();
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "piped");
    }
}
