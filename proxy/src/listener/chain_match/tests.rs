use super::*;

fn chain(name: &str, hash: u64) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: Arc::from(name),
        metadata: None,
        hash,
        tls: None,
        handshake_timeout: None,
        filters: Vec::new(),
        observers: Vec::new(),
        terminal: Terminal::Close,
        drain: Drain::new().0,
    })
}

fn table(chains: &[(&str, Criteria)], default: Option<&str>) -> Result<ChainTable, Duplicate> {
    let chains = chains
        .iter()
        .enumerate()
        .map(|(index, (name, criteria))| (criteria.clone(), chain(name, index as u64)))
        .collect();
    ChainTable::new(chains, default.map(|name| chain(name, 99)))
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

struct Connection {
    destination: &'static str,
    server_name: Option<&'static str>,
    transport: &'static str,
    alpn: &'static [&'static str],
    direct: &'static str,
    source: &'static str,
}

const PLAIN: Connection = Connection {
    destination: "10.0.0.1:80",
    server_name: None,
    transport: "raw_buffer",
    alpn: &[],
    direct: "192.0.2.1",
    source: "192.0.2.1:1000",
};

fn found(table: &ChainTable, connection: &Connection) -> String {
    let alpn: Vec<Vec<u8>> = connection.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let target = Target {
        destination: Some(connection.destination.parse().unwrap()),
        server_name: connection.server_name,
        transport_protocol: connection.transport,
        application_protocols: &alpn,
        direct_source: Some(connection.direct.parse().unwrap()),
        source: Some(connection.source.parse().unwrap()),
    };
    table
        .find(&target)
        .map_or("none".to_owned(), |chain| chain.name.to_string())
}

#[test]
fn an_exact_port_bucket_is_never_left_again() {
    let port = Criteria {
        destination_port: Some(80),
        server_names: texts(&["a.com"]),
        ..Criteria::default()
    };
    let table = table(&[("port", port), ("any", Criteria::default())], Some("default")).unwrap();
    assert_eq!(
        found(
            &table,
            &Connection {
                server_name: Some("a.com"),
                ..PLAIN
            }
        ),
        "port"
    );
    // The port matched, the name does not: not the wildcard-port chain, but the default.
    assert_eq!(found(&table, &PLAIN), "default");
    assert_eq!(
        found(
            &table,
            &Connection {
                destination: "10.0.0.1:81",
                ..PLAIN
            }
        ),
        "any"
    );
}

#[test]
fn the_longest_prefix_wins_and_binds() {
    let with = |ranges: &[&str], transport: Option<&str>| Criteria {
        prefix_ranges: nets(ranges),
        transport_protocol: transport.map(str::to_owned),
        ..Criteria::default()
    };
    let chains = [
        ("wide", with(&["10.0.0.0/8"], None)),
        ("narrow", with(&["10.1.0.0/16"], Some("tls"))),
        ("six", with(&["2001:db8::/32"], None)),
        ("rest", with(&[], None)),
    ];
    let table = table(&chains, None).unwrap();
    for (destination, transport, expected) in [
        ("10.2.0.1:1", "raw_buffer", "wide"),
        ("10.1.0.1:1", "tls", "narrow"),
        ("10.1.0.1:1", "raw_buffer", "none"),
        ("[2001:db8::1]:1", "raw_buffer", "six"),
        ("[2001:db9::1]:1", "raw_buffer", "rest"),
        ("[::ffff:10.2.0.1]:1", "raw_buffer", "rest"),
        ("192.0.2.7:1", "tls", "rest"),
    ] {
        assert_eq!(
            found(
                &table,
                &Connection {
                    destination,
                    transport,
                    ..PLAIN
                }
            ),
            expected,
            "{destination}"
        );
    }
}

#[test]
fn names_match_exactly_then_by_longest_suffix() {
    let named = |names: &[&str]| Criteria {
        server_names: texts(names),
        ..Criteria::default()
    };
    let chains = [
        ("exact", named(&["a.b.com"])),
        ("deep", named(&[".b.com"])),
        ("shallow", named(&[".com"])),
        // No name, as text, is any.
        ("none", named(&[""])),
    ];
    let table = table(&chains, None).unwrap();
    for (name, expected) in [
        (Some("a.b.com"), "exact"),
        (Some("x.b.com"), "deep"),
        (Some("x.y.b.com"), "deep"),
        (Some("b.com"), "shallow"),
        (Some("com"), "none"),
        (Some("a.org"), "none"),
        (None, "none"),
    ] {
        assert_eq!(
            found(
                &table,
                &Connection {
                    server_name: name,
                    ..PLAIN
                }
            ),
            expected,
            "{name:?}"
        );
    }
}

#[test]
fn istios_permissive_inbound_chains() {
    let port = |transport: &str, alpn: &[&str]| Criteria {
        destination_port: Some(8080),
        transport_protocol: Some(transport.to_owned()),
        application_protocols: texts(alpn),
        ..Criteria::default()
    };
    let chains = [
        (
            "mtls-http",
            port("tls", &["istio-http/1.0", "istio-http/1.1", "istio-h2"]),
        ),
        ("http", port("raw_buffer", &["http/1.1", "h2c"])),
        ("mtls-tcp", port("tls", &["istio-peer-exchange", "istio"])),
        ("tcp", port("raw_buffer", &[])),
        ("tls-passthrough", port("tls", &[])),
        (
            "blackhole",
            Criteria {
                destination_port: Some(15006),
                ..Criteria::default()
            },
        ),
        ("catchall", Criteria::default()),
    ];
    let table = table(&chains, None).unwrap();
    let to = |transport, alpn| Connection {
        destination: "10.0.0.1:8080",
        transport,
        alpn,
        ..PLAIN
    };
    assert_eq!(found(&table, &to("tls", &["istio-h2", "istio", "h2"])), "mtls-http");
    // The client's order decides, not the chains'.
    assert_eq!(found(&table, &to("tls", &["istio", "istio-h2"])), "mtls-tcp");
    assert_eq!(found(&table, &to("tls", &["h2", "http/1.1"])), "tls-passthrough");
    assert_eq!(found(&table, &to("raw_buffer", &["http/1.1"])), "http");
    assert_eq!(found(&table, &to("raw_buffer", &["http/1.0"])), "tcp");
    assert_eq!(found(&table, &to("raw_buffer", &[])), "tcp");
    assert_eq!(
        found(
            &table,
            &Connection {
                destination: "10.0.0.1:15006",
                ..PLAIN
            }
        ),
        "blackhole"
    );
    assert_eq!(found(&table, &PLAIN), "catchall");
}

#[test]
fn sources_come_last_in_their_order() {
    let chains = [
        (
            "proxy",
            Criteria {
                direct_source_prefix_ranges: nets(&["198.51.100.0/24"]),
                ..Criteria::default()
            },
        ),
        (
            "local",
            Criteria {
                source_type: SourceType::SameIpOrLoopback,
                ..Criteria::default()
            },
        ),
        (
            "external-net",
            Criteria {
                source_type: SourceType::External,
                source_prefix_ranges: nets(&["192.0.2.0/24"]),
                ..Criteria::default()
            },
        ),
        (
            "port",
            Criteria {
                source_ports: vec![7],
                ..Criteria::default()
            },
        ),
    ];
    let table = table(&chains, Some("default")).unwrap();
    for (direct, source, expected) in [
        ("198.51.100.9", "127.0.0.1:1", "proxy"),
        ("127.0.0.1", "127.0.0.1:1", "local"),
        ("10.0.0.1", "10.0.0.1:7", "local"),
        ("192.0.2.1", "192.0.2.1:7", "external-net"),
        // The external bucket exists and has no place for it: no way back to the one of any type.
        ("203.0.113.1", "203.0.113.1:7", "default"),
    ] {
        assert_eq!(
            found(
                &table,
                &Connection {
                    direct,
                    source,
                    ..PLAIN
                }
            ),
            expected,
            "{direct} {source}"
        );
    }
}

#[test]
fn chains_that_ask_for_the_same_are_refused() {
    let one = Criteria {
        server_names: texts(&["a.com", "b.com"]),
        ..Criteria::default()
    };
    let other = Criteria {
        server_names: texts(&["c.com", "b.com"]),
        ..Criteria::default()
    };
    let refused = table(&[("one", one.clone()), ("other", other)], None).err();
    assert_eq!(refused, Some(Duplicate { chain: 1, earlier: 0 }));
    let apart = Criteria {
        destination_port: Some(1),
        ..one.clone()
    };
    assert!(table(&[("one", one), ("apart", apart)], None).is_ok());
}

#[test]
fn an_update_keeps_the_chains_whose_hash_stays() {
    let old = table(&[("kept", Criteria::default())], Some("default")).unwrap();
    let moved = Criteria {
        destination_port: Some(1),
        ..Criteria::default()
    };
    let new = table(&[("kept", moved.clone()), ("new", Criteria::default())], None).unwrap();
    let adopted = new.adopting(&old);
    let kept = |table: &ChainTable, index: usize| table.all().nth(index).unwrap().clone();
    assert!(Arc::ptr_eq(&kept(&adopted, 0), &kept(&old, 0)));
    assert!(Arc::ptr_eq(&kept(&adopted, 1), &kept(&new, 1)));
    assert_eq!(
        found(
            &adopted,
            &Connection {
                destination: "10.0.0.1:1",
                ..PLAIN
            }
        ),
        "kept"
    );
}
