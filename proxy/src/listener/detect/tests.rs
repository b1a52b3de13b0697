use proptest::prelude::*;

use super::{Detection, client_hello, fingerprint, proxy_protocol};
use crate::listener::detect::http;

/// A ClientHello as rustls writes it.
fn hello(name: Option<&'static str>, alpn: &[&str]) -> Vec<u8> {
    use rustls::pki_types::ServerName;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = match name {
        Some(name) => ServerName::try_from(name).unwrap(),
        None => ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into()),
    };
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_client_hello_tells_its_name_and_protocols() {
    let bytes = hello(Some("outbound_.80_._.web.default.svc"), &["istio-http/1.1", "istio"]);
    let limit = client_hello::MAX_CLIENT_HELLO;
    let Detection::Found(found) = client_hello::parse(&bytes, limit) else {
        unreachable!("not found")
    };
    assert_eq!(found.server_name.as_deref(), Some("outbound_.80_._.web.default.svc"));
    assert_eq!(found.alpn, [b"istio-http/1.1".to_vec(), b"istio".to_vec()]);
    for cut in 0..bytes.len() {
        assert_eq!(
            client_hello::parse(&bytes[..cut], limit),
            Detection::NeedMore,
            "{cut} bytes"
        );
    }
    assert_eq!(
        client_hello::parse(&bytes, 100),
        Detection::Broken("ClientHello too large")
    );
    let Detection::Found(bare) = client_hello::parse(&hello(None, &[]), limit) else {
        unreachable!("not found")
    };
    assert_eq!(bare, client_hello::ClientHello::default());
}

#[test]
fn a_client_hello_in_many_records_is_put_together() {
    let whole = hello(Some("a.example"), &["h2"]);
    let mut split = Vec::new();
    for piece in whole[5..].chunks(50) {
        split.extend([22, 3, 1, 0, piece.len() as u8]);
        split.extend(piece);
    }
    let limit = client_hello::MAX_CLIENT_HELLO;
    assert_eq!(client_hello::parse(&split, limit), client_hello::parse(&whole, limit));
}

#[test]
fn http_is_told_by_its_first_line() {
    use crate::listener::detect::http::{Http, parse};
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\n"[..], Detection::Found(Http::Http11)),
        (b"GET / HTTP/1.0\r\nhost: a\r\n", Detection::Found(Http::Http10)),
        (b"POST\t/x  HTTP/1.1 \r\n", Detection::Found(Http::Http11)),
        (b"BREW http://a.b/c?d HTTP/1.1\r\n", Detection::Found(Http::Http11)),
        (b"CONNECT a:1 HTTP/1.1\r\n", Detection::Found(Http::Http11)),
        // Whatever is HTTP and not 1.1 is 1.0 for Envoy.
        (b"GET /\r\n", Detection::Found(Http::Http10)),
        (b"GET / HTTP/2.1\r\n", Detection::Found(Http::Http10)),
        (b"GET / HTTP/3.0\r\n", Detection::Found(Http::Http10)),
        (b"PRI * HTTP/2.0\r\n\r\nno\r\n", Detection::Found(Http::Http10)),
        (b"\r\nPOST /x HTTP/1.1\n", Detection::No),
        (b"\r\n", Detection::No),
        (b"GET / HTTP/1.1x\r\n", Detection::No),
        (b"GET / HTTP/11.1\r\n", Detection::No),
        (b"GET x HTTP/1.1\r\n", Detection::No),
        (b"GET http:/a HTTP/1.1\r\n", Detection::No),
        (b"GET http://a@@b/ HTTP/1.1\r\n", Detection::No),
        (b"G@", Detection::No),
        (b"GET / HTTP/1.1\r", Detection::NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detection::Found(Http::Http2)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", Detection::NeedMore),
        (b"PUT /x", Detection::NeedMore),
        (b"OPT", Detection::NeedMore),
        (b"\x16\x03\x01", Detection::No),
        (b"SSH-2.0-x\r\n", Detection::No),
        (b"a b\x00", Detection::NeedMore),
    ] {
        assert_eq!(parse(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
    }
    let long = [b"GET /", &[b'a'; 70_000][..]].concat();
    assert_eq!(parse(&long[..65_535]), Detection::NeedMore);
    assert_eq!(parse(&long[..65_536]), Detection::Broken("first line is too long"));
    let fits = [&long[..65_525], b" HTTP/1.1\r\n"].concat();
    assert_eq!(parse(&fits), Detection::Found(Http::Http11));
    assert!(matches!(
        parse(&[&long[..65_526], b" HTTP/1.1\r\n"].concat()),
        Detection::Broken(_)
    ));
}

#[test]
fn proxy_headers_of_both_versions() {
    use proxy_protocol::{Header, Version, parse};
    let pair = |source: &str, destination: &str| Some((source.parse().unwrap(), destination.parse().unwrap()));
    let v1 = b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nrest";
    let expected = Header {
        version: Version::V1,
        length: v1.len() - 4,
        addresses: pair("192.0.2.1:1000", "198.51.100.1:443"),
        tlvs: Vec::new(),
    };
    assert_eq!(parse(v1), Detection::Found(expected));
    assert_eq!(
        parse(b"PROXY UNKNOWN x y\r\n"),
        Detection::Found(Header {
            version: Version::V1,
            length: 19,
            addresses: None,
            tlvs: Vec::new(),
        })
    );
    assert_eq!(parse(b"PROXY TCP4 1.2.3"), Detection::NeedMore);
    assert_eq!(parse(b"GET /"), Detection::No);
    for broken in [
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
        "PROXY TCP4 1.1.1.1 1.1.1.1 +1 2\r\n",
        // What no connection comes from, nor goes to.
        "PROXY TCP4 224.0.0.1 1.1.1.1 1 2\r\n",
        "PROXY TCP4 0.0.0.0 1.1.1.1 1 2\r\n",
        "PROXY TCP4 255.255.255.255 1.1.1.1 1 2\r\n",
        "PROXY TCP4 1.1.1.1 224.0.0.1 1 2\r\n",
        "PROXY TCP6 ff02::1 ::1 1 2\r\n",
    ] {
        assert!(matches!(parse(broken.as_bytes()), Detection::Broken(_)), "{broken}");
    }
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([192, 0, 2, 1, 198, 51, 100, 1, 3, 232, 1, 187]);
    let expected = Header {
        version: Version::V2,
        length: 28,
        addresses: pair("192.0.2.1:1000", "198.51.100.1:443"),
        tlvs: Vec::new(),
    };
    assert_eq!(parse(&v2), Detection::Found(expected.clone()));
    let (mut datagram, mut unix, mut unspecified, mut multicast) = (v2.clone(), v2.clone(), v2.clone(), v2.clone());
    (datagram[13], unix[13], unspecified[13], multicast[16]) = (0x12, 0x31, 0, 239);
    assert_eq!(parse(&datagram), Detection::Found(expected));
    for refused in [unix, unspecified, multicast] {
        assert!(matches!(parse(&refused), Detection::Broken(_)), "{refused:?}");
    }
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    assert!(matches!(parse(line(108).as_bytes()), Detection::Found(_)));
    assert!(matches!(parse(line(109).as_bytes()), Detection::Broken(_)));
    for cut in 0..v2.len() {
        assert!(matches!(parse(&v2[..cut]), Detection::NeedMore), "{cut} bytes");
    }
    assert!(matches!(
        parse(b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"),
        Detection::Broken(_)
    ));
    assert_eq!(
        parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
        Detection::Found(Header {
            version: Version::V2,
            length: 16,
            addresses: None,
            tlvs: Vec::new(),
        })
    );
}

proptest! {
    /// No bytes make a detector panic, and one that knows does not change its mind when more come.
    #[test]
    fn detectors_are_total(
        start in prop::sample::select(vec![
            &b""[..], b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03", b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11", b"GET ", b"PRI * ",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &tail].concat();
        let (mut known_http, mut known_proxy) = (None, None);
        for end in 0..=bytes.len() {
            let _ = client_hello::parse(&bytes[..end], 16 * 1024);
            let _ = fingerprint::Wanted { ja3: true, ja4: true }.take(&bytes[..end]);
            match (http::parse(&bytes[..end]), &known_http) {
                (Detection::NeedMore, None) => {}
                (now, None) => known_http = Some(now),
                (now, Some(then)) => prop_assert_eq!(&now, then),
            }
            match (proxy_protocol::parse(&bytes[..end]), &known_proxy) {
                (Detection::NeedMore, None) => {}
                (now, None) if end > 0 => known_proxy = Some(now),
                // Only the words differ: whether a line that is too long ended later is known when it did.
                (Detection::Broken(_), Some(Detection::Broken(_))) => {}
                (now, Some(then)) => prop_assert_eq!(&now, then),
                _ => {}
            }
        }
    }
}
