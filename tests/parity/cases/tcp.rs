//! Connections without HTTP: `tcp_proxy` and what stands before it, listener filters, filter-chain match.

mod firsts;
mod hellos;
mod listeners;
mod trees;

use super::bootstrap;
use crate::harness::{Case, Wire, World};
use crate::tcp::Step::{self, Another, End, Half, Hello, Read, Reset, Send};
use crate::tcp::hello;

fn case(name: &'static str, listener: &'static str, count: u16, steps: &'static [Step]) -> Case {
    Case {
        name,
        listener,
        wire: Wire::Tcp(steps),
        status: count,
        logs: 1,
        seen: 0,
    }
}

fn logs(count: usize, case: Case) -> Case {
    Case { logs: count, ..case }
}

const RUNTIME: &str = "layered_runtime: {layers: [{name: limits, static_layer: {envoy.resource_limits.listener.narrow.connection_limit: 1}}]}\n";

pub fn world() -> World {
    World {
        name: "tcp",
        yaml: RUNTIME.to_owned() + &bootstrap(&listeners::listeners(), &listeners::clusters()),
        cases: [
            streams(),
            hosts(),
            tunnels(),
            trees::cases(),
            headers(),
            tlvs(),
            chains(),
            hellos::cases(),
            firsts::cases(),
        ]
        .into_iter()
        .flatten()
        .collect(),
        stats: &[
            "tcp.",
            // Its rules are looked at when it is accepted, not at its first byte.
            "!tcp.denied",
            // What comes after the client's end.
            "!tcp.post.downstream_cx_tx",
            "listener.early.",
            "listener.disabled.",
            "listener.narrow.",
            "connection_limit.",
            "listener.echo.",
            "listener.nowhere.",
            "listener.slow.",
            "listener.pp.",
            "listener.limited.",
            "cluster.echo.upstream_cx",
            "cluster.echo.upstream_rq",
            "cluster.unbound.bind",
            "cluster.unbound.upstream_cx",
            "cluster.closed.upstream_cx",
            "cluster.closed.upstream_rq",
            "cluster.empty.upstream_cx",
            "cluster.full.upstream_cx",
            "cluster.unqueued.upstream_cx",
            "cluster.unqueued.upstream_rq",
            "cluster.placeless.upstream_cx",
            "cluster.placeless.upstream_rq",
            "cluster.unpooled.upstream_cx",
            "cluster.single.upstream_cx",
            "cluster.single.upstream_rq",
            "cluster.lonely.upstream_cx",
            "cluster.lonely.upstream_rq",
            "cluster.tunnel.upstream_rq",
            "proxy_proto.",
            "downstream_cx_proxy_proto_error",
            "listener.firsts.downstream_pre",
            "listener.pp-",
            "again.",
            "local_rate_limit.",
            "listener_local_ratelimit.",
            "tls_inspector.",
            "http_inspector.",
            "allowed.",
            "denied.",
            "shadowed.",
            "found.",
            "otherwise.",
            "prefix.",
            "later.",
            "both.",
            "ranges.rbac",
            "hinted.",
            "unhinted.",
            "in the shadow.",
            "sharing",
        ],
    }
}

fn streams() -> Vec<Case> {
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    vec![
        case("echo", "echo", 5, TALK),
        case("the client ends first", "greet", 6, &[Read(6), Half, End]),
        case("server first", "greet", 11, &[Read(6), Send(b"world"), Half, End]),
        case("refused", "closed", 0, &[End]),
        case("refused three times", "thrice", 0, &[End]),
        case("no address to come from", "unbound", 0, &[End]),
        case("reset by the client", "echo", 5, &[Send(b"hello"), Read(5), Reset]),
        case("reset by the host", "break", 0, &[Send(b"hello"), End]),
        case("no host", "empty", 0, &[End]),
        case("breaker open", "full", 0, &[End]),
        case("nobody may wait for a connection", "unqueued", 0, &[End]),
        case("no place for a tunnel", "placeless", 0, &[End]),
        case("no pools", "unpooled", 5, TALK),
        case("a pool without a connection may have one", "lonely", 5, TALK),
        logs(
            2,
            case(
                "the second of one",
                "single",
                5,
                &[Send(b"hello"), Read(5), Another, Half, End],
            ),
        ),
        case("no cluster", "missing", 0, &[End]),
        case("weighted", "weighted", 5, TALK),
        case("idle", "idle", 5, &[Send(b"hello"), Read(5), End]),
        case("too long", "lasting", 5, &[Send(b"hello"), Read(5), End]),
        logs(3, case("logged at the start", "logged", 5, TALK)),
        logs(3, case("logged meanwhile", "told", 5, &[Send(b"hello"), Read(5), End])),
        logs(
            3,
            case(
                "logged meanwhile, the older field",
                "told as before",
                5,
                &[Send(b"hello"), Read(5), End],
            ),
        ),
        case("connected late", "late", 11, TALK),
        case("allowed", "allowed", 5, TALK),
        case(
            "allowed again and again",
            "again",
            15,
            &[
                Send(b"hello"),
                Read(5),
                Send(b"hello"),
                Read(5),
                Send(b"again"),
                Read(5),
                Half,
                End,
            ],
        ),
        case("denied", "denied", 0, &[Send(b"hello"), End]),
        case("denied in the shadow", "shadowed", 5, TALK),
        case("first of one", "limited", 5, TALK),
        case("second of one", "limited", 0, &[End]),
        logs(0, case("echoing", "echoing", 5, &[Send(b"hello"), Read(5), Half, End])),
        logs(
            2,
            case(
                "one too many",
                "crowded",
                5,
                &[Send(b"hello"), Read(5), Another, Half, End],
            ),
        ),
        case(
            "one more than the listener may have",
            "narrow",
            5,
            &[Send(b"hello"), Read(5), Another, Half, End],
        ),
        case("state is set", "stateful", 5, TALK),
        logs(0, case("speaking", "speaking", 6, &[End])),
        case("first of one, early", "early", 5, &[Send(b"hello"), Read(5), Half, End]),
        logs(0, case("second of one, early", "early", 0, &[End])),
    ]
}

/// Which host is chosen is in the log.
fn hosts() -> Vec<Case> {
    const FROM: &[(&str, &[Step])] = &[
        (
            "hashed by its address",
            &[
                Send(b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nhello"),
                Read(5),
                Half,
                End,
            ],
        ),
        (
            "hashed by another",
            &[
                Send(b"PROXY TCP4 192.0.2.2 198.51.100.1 1000 443\r\nhello"),
                Read(5),
                Half,
                End,
            ],
        ),
        (
            "hashed by another port of it",
            &[
                Send(b"PROXY TCP4 192.0.2.2 198.51.100.1 1001 443\r\nhello"),
                Read(5),
                Half,
                End,
            ],
        ),
        (
            "hashed by an address of IPv6",
            &[
                Send(b"PROXY TCP6 2001:db8::1 2001:db8::2 1000 443\r\nhello"),
                Read(5),
                Half,
                End,
            ],
        ),
    ];
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    let hashed = FROM.iter().map(|(name, steps)| case(name, "hashed", 5, steps));
    let matched = [
        case("hashed by what a filter has set", "stated", 5, TALK),
        case("of a subset", "subset", 5, TALK),
        case("of a subset that a weight names", "weighted subset", 5, TALK),
        case("of no subset", "no subset", 0, &[End]),
    ];
    hashed.chain(matched).collect()
}

fn tunnels() -> Vec<Case> {
    const TALK: &[Step] = &[Send(b"hello"), Half, End];
    vec![
        // Half a close would break off Envoy's tunnels over HTTP/1.1.
        case("CONNECT", "connect", 85, &[Send(b"hello"), Read(85), Half, End]),
        case("CONNECT over HTTP/2", "connect2", 57, TALK),
        case("POST", "post", 73, &[Send(b"hello"), Read(73), Half, End]),
        case("POST over HTTP/2", "post2", 50, TALK),
        case("CONNECT broken off", "broken", 80, &[Read(80), Send(b"x"), End]),
        case("POST broken off", "broken post", 84, &[Read(84), Send(b"x"), End]),
        case("a tunnel that is idle", "idle tunnel", 67, &[Read(67), End]),
        case("CONNECT refused", "refused", 0, &[End]),
        case("CONNECT refused over HTTP/2", "refused2", 0, &[End]),
        case(
            "headers of the answer",
            "telling",
            84,
            &[Send(b"hello"), Read(84), Half, End],
        ),
        case("headers and trailers of the answer", "telling2", 56, TALK),
        case("headers of a refusal", "telling4", 0, &[End]),
        case("an id", "numbered", 101, &[Send(b"hello"), Read(101), Half, End]),
        case("an id elsewhere", "numbered2", 69, TALK),
        case(
            "no tunnel by state",
            "straight",
            5,
            &[Send(b"hello"), Read(5), Half, End],
        ),
        case(
            "a tunnel by state",
            "all the same",
            52,
            &[Send(b"hello"), Read(52), Half, End],
        ),
        case("idle by state", "idle by state", 5, &[Send(b"hello"), Read(5), End]),
        case("first of one, shared", "sharing", 5, TALK),
        case("second of one, shared", "sharing too", 0, &[End]),
    ]
}

fn tlvs() -> Vec<Case> {
    // Two, five, seven; two twice.
    const THREE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1e\xc0\0\x02\x01\xc6\x33\x64\x01\x03\xe8\x01\xbb\
        \x02\0\x03two\x05\0\x01z\x07\0\0\x02\0\x02\xfft\
        hello";
    const BARE: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nhello";
    const UNKNOWN: &[u8] = b"PROXY UNKNOWN\r\nhello";
    const NONE: &[u8] = b"hello, this is no header";
    let mut cases = vec![
        case(
            "TLVs in the filter state",
            "tlvs stated",
            5,
            &[Send(THREE), Read(5), Half, End],
        ),
        case(
            "no TLVs in the filter state",
            "tlvs stated",
            5,
            &[Send(BARE), Read(5), Half, End],
        ),
    ];
    // What comes back: a header of 28 bytes, 28 of ours, 18 of theirs, and what was sent.
    for (listener, counts) in [
        ("tlvs absent", [51, 33, 33, 80]),
        ("tlvs over", [75, 61, 61, 80]),
        ("tlvs behind", [79, 61, 61, 80]),
    ] {
        let kinds = [
            ("of a header with some", &[Send(THREE), Read(28), Half, End]),
            ("of a header without", &[Send(BARE), Read(28), Half, End]),
            ("of a header of nobody", &[Send(UNKNOWN), Read(28), Half, End]),
            ("of no header", &[Send(NONE), Read(28), Half, End]),
        ];
        for ((kind, steps), count) in kinds.into_iter().zip(counts) {
            cases.push(case(format!("{listener} {kind}").leak(), listener, count, steps));
        }
    }
    cases
}

fn headers() -> Vec<Case> {
    const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 1000 443\r\nhello";
    const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x16\xc0\0\x02\x01\xc6\x33\x64\x01\x03\xe8\x01\xbb\x02\0\x03two\x05\0\x01zhello";
    vec![
        case("PROXY header to upstream", "header1", 49, &[Send(b"hello"), Half, End]),
        case(
            "binary PROXY header to upstream",
            "header2",
            41,
            &[Send(b"hello"), Half, End],
        ),
        case("PROXY header", "pp", 5, &[Send(V1), Read(5), Half, End]),
        case("binary PROXY header", "pp", 5, &[Send(V2), Read(5), Half, End]),
        logs(
            0,
            case("no PROXY header", "pp", 0, &[Send(b"hello, this is no header"), End]),
        ),
        logs(
            0,
            case("broken PROXY header", "pp", 0, &[Send(b"PROXY TCP4 nonsense\r\n"), End]),
        ),
        logs(
            0,
            case(
                "unknown version of PROXY",
                "pp",
                0,
                &[Send(b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"), End],
            ),
        ),
        case(
            "PROXY header of nobody",
            "pp",
            5,
            &[Send(b"PROXY UNKNOWN\r\nhello"), Read(5), Half, End],
        ),
        case(
            "binary PROXY header of nobody",
            "pp",
            5,
            &[Send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0hello"), Read(5), Half, End],
        ),
        case("optional, and there", "pp optional", 5, &[Send(V1), Read(5), Half, End]),
        case(
            "optional, and not there",
            "pp optional",
            24,
            &[Send(b"hello, this is no header"), Read(24), Half, End],
        ),
        logs(
            0,
            case("a version that is not allowed", "pp second", 0, &[Send(V1), End]),
        ),
        case(
            "a version that is allowed",
            "pp second",
            5,
            &[Send(V2), Read(5), Half, End],
        ),
        case(
            "a TLV passes through",
            "pp through",
            45,
            &[Send(V2), Read(45), Half, End],
        ),
        case("an inspector that is disabled", "disabled", 6, &[Read(6), Half, End]),
        logs(0, case("too slow", "slow", 0, &[End])),
        case("too slow, but served", "slow but served", 6, &[Read(6), Half, End]),
    ]
}

fn chains() -> Vec<Case> {
    let chain = |name, steps| logs(0, case(name, "match", 7, steps));
    vec![
        case(
            "SNI names the cluster",
            "sni",
            u16::try_from(hello("echo", &[]).len()).unwrap(),
            &[Hello("echo", &[]), Read(1), Half, End],
        ),
        chain(
            "plaintext",
            &[Send(b"\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b"), End],
        ),
        chain("HTTP/1.1", &[Send(b"GET / HTTP/1.1\r\n\r\n"), End]),
        chain("HTTP/1.0", &[Send(b"GET / HTTP/1.0\r\n\r\n"), End]),
        chain("HTTP/2 in the clear", &[Send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), End]),
        chain("exact name", &[Hello("a.test", &[]), End]),
        chain("exact name in capitals", &[Hello("A.TEST", &[]), End]),
        chain("exact name and h2", &[Hello("a.test", &["h2"]), End]),
        chain(
            "exact name and another protocol",
            &[Hello("a.test", &["http/1.1"]), End],
        ),
        chain("wildcard", &[Hello("x.y.test", &[]), End]),
        chain("wildcard and h2", &[Hello("x.test", &["h2"]), End]),
        chain("unknown name", &[Hello("other.example", &[]), End]),
        chain(
            "unknown name and h2",
            &[Hello("other.example", &["http/1.1", "h2"]), End],
        ),
        chain("no name", &[Hello("", &[]), End]),
        chain("source range", &[Hello("b.test", &[]), End]),
        chain("source type", &[Hello("c.test", &[]), End]),
        chain(
            "destination of a PROXY header",
            &[
                Send(b"PROXY TCP4 192.0.2.1 10.1.1.1 1000 443\r\n\0\x01\x02\x03\x04\x05\x06\x07\x08\x09"),
                End,
            ],
        ),
        case("no chain", "nowhere", 0, &[End]),
    ]
}
