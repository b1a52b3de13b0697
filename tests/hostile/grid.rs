//! The rows of the smuggling grid.

/// `N` is the case's number; `\n` stands for CRLF, `|` for LF alone, `^` for CR alone.
pub const GRID: &[&str] = &[
    // Both lengths (CL.TE, TE.CL).
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 6\ntransfer-encoding: chunked\n\n0\n\nG",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\ncontent-length: 4\n\n30\nGET /smuggled-N HTTP/1.1\nhost: h\nx: 1234567890\n\n\n0\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0\ntransfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Codings dressed up (TE.TE).
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: xchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding : chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding:\tchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: \x0bchunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\n transfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding:\n chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: chunked, identity\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 5\ntransfer-encoding: identity, chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked, chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\ntransfer-encoding: identity\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: \"chunked\"\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked;q=1\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer_encoding: chunked\ncontent-length: 5\n\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: cHuNkEd\n\n0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.0\nhost: h\ntransfer-encoding: chunked\n\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Lengths.
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 44\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0, 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: +0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: -0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 0x2c\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 00\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 1 0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length:\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length : 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 18446744073709551616\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "HEAD /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "DELETE /N HTTP/1.1\nhost: h\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "OPTIONS /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n2\nab\n0\n\n",
    // Line ends.
    "POST /N HTTP/1.1|host: h|content-length: 5||0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nx: y^content-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nx: y^\ncontent-length: 0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nx: y\n^\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\n|GET /two-N HTTP/1.1\nhost: h\n\n",
    // Chunks.
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0x5\nabcde\n0\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n 5\nabcde\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5;a=b|abcde\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5;a|0\nabcde\n0\n\nGET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n5|abcde|0||GET /x-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n2\nabcd\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n10000000000000000\na\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n-1\na\n0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0\ncontent-length: 44\ntransfer-encoding: identity\nhost: evil\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0\nGET /trailer-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n0;x=GET /smuggled-N HTTP/1.1\n\n",
    // Request lines.
    "GET /N HTTP/1.1 HTTP/1.1\nhost: h\n\n",
    "GET  /N HTTP/1.1\nhost: h\n\n",
    "GET /N\tHTTP/1.1\nhost: h\n\n",
    "GET /N?a b HTTP/1.1\nhost: h\n\n",
    "GET http://h/N HTTP/1.1\nhost: other\n\n",
    "GET http://h/N HTTP/1.1\nhost: other\nhost: third\n\n",
    "GET /N HTTP/1.1\nhost: h\nhost: g\n\n",
    "GET /N HTTP/1.1\nhost: h GET /smuggled-N\n\n",
    "G\0ET /N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nx: a\0b\n\n",
    "GET /N HTTP/9.9\nhost: h\ncontent-length: 44\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    // Headers that a `connection` header is to take away.
    "POST /N HTTP/1.1\nhost: h\nconnection: content-length\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "POST /N HTTP/1.1\nhost: h\nconnection: transfer-encoding\ntransfer-encoding: chunked\n\n0\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    // Upgrades and expectations, with what might be the next request behind them.
    "GET /N HTTP/1.1\nhost: h\nconnection: upgrade\nupgrade: websocket\n\nGET /early-N HTTP/1.1\nhost: h\n\n",
    "GET /N HTTP/1.1\nhost: h\nconnection: upgrade\nupgrade: h2c\nhttp2-settings: AAMAAABk\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    "CONNECT h:80 HTTP/1.1\nhost: h:80\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\nexpect: 100-continue\ncontent-length: 36\n\nGET /body-N HTTP/1.1\nhost: h\nx: 12\n\n",
    "GET /N HTTP/1.1\nhost: h\nexpect: 100-continue\n\nGET /two-N HTTP/1.1\nhost: h\n\n",
    // As it should be.
    "GET /N HTTP/1.1\nhost: h\n\nGET /two-N HTTP/1.1\nhost: h\n\nGET /three-N HTTP/1.1\nhost: h\n\n",
    "POST /N HTTP/1.1\nhost: h\ncontent-length: 3\n\nabcPOST /two-N HTTP/1.1\nhost: h\ntransfer-encoding: chunked\n\n3\nabc\n0\n\n",
];

/// One stream of HTTP/2; its texts are written as those of [`GRID`].
#[derive(Debug)]
pub struct Stream {
    pub head: &'static [(&'static str, &'static str)],
    pub body: &'static str,
    pub trailers: &'static [(&'static str, &'static str)],
    /// Nothing is wrong with it: it arrives, once.
    pub is_good: bool,
}

const SMUGGLED: &str = "GET /smuggled-N HTTP/1.1\nhost: h\n\n";

macro_rules! head {
    ($($name:literal: $value:expr),* $(,)?) => {
        &[(":method", "POST"), (":scheme", "http"), (":path", "/N"), (":authority", "h"), $(($name, $value)),*]
    };
}

macro_rules! bare {
    ($($name:literal: $value:expr),* $(,)?) => {
        &[$(($name, $value)),*]
    };
}

const fn bad(head: &'static [(&'static str, &'static str)], body: &'static str) -> Stream {
    Stream {
        head,
        body,
        trailers: &[],
        is_good: false,
    }
}

const fn good(head: &'static [(&'static str, &'static str)], body: &'static str) -> Stream {
    Stream {
        is_good: true,
        ..bad(head, body)
    }
}

const fn trailing(trailers: &'static [(&'static str, &'static str)], is_good: bool) -> Stream {
    Stream {
        trailers,
        is_good,
        ..bad(head!(), SMUGGLED)
    }
}

/// HTTP/2 that would be two requests if it were written down as HTTP/1.
pub const STREAMS: &[Stream] = &[
    // Lengths that are not the body's (H2.CL).
    bad(head!("content-length": "0"), SMUGGLED),
    bad(head!("content-length": "1"), SMUGGLED),
    bad(head!("content-length": "5000"), SMUGGLED),
    bad(head!("content-length": "0", "content-length": "36"), SMUGGLED),
    bad(head!("content-length": "0", "content-length": "0"), SMUGGLED),
    bad(head!("content-length": "0, 36"), SMUGGLED),
    bad(head!("content-length": "+0"), SMUGGLED),
    bad(head!("content-length": "0x0"), SMUGGLED),
    bad(head!("content-length": ""), SMUGGLED),
    bad(head!("content-length": "18446744073709551616"), SMUGGLED),
    // Codings (H2.TE).
    bad(
        head!("transfer-encoding": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(head!("transfer-encoding": "identity"), SMUGGLED),
    bad(
        head!("connection": "transfer-encoding", "transfer-encoding": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    good(
        head!("transfer_encoding": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    good(head!("te": "trailers"), SMUGGLED),
    // Lines inside of names and values.
    bad(
        head!("x": "y\ntransfer-encoding: chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(head!("x": "y\n\nGET /smuggled-N HTTP/1.1\nhost: h\nx: y"), ""),
    bad(head!("x": "y||GET /smuggled-N HTTP/1.1|host: h|x: y"), ""),
    bad(head!("x": "y^^GET /smuggled-N HTTP/1.1^host: h^x: y"), ""),
    bad(head!("x": "y\0\n\nGET /smuggled-N HTTP/1.1\nhost: h\nx: y"), ""),
    bad(head!("x: y\n\nGET /smuggled-N HTTP/1.1\nhost": "h"), ""),
    bad(
        head!("x: y\ntransfer-encoding": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(
        head!("transfer-encoding ": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(
        head!("transfer-encoding:": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(head!("": "x"), ""),
    bad(
        head!("Transfer-Encoding": "chunked"),
        "0\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n",
    ),
    bad(head!("Content-Length": "0"), SMUGGLED),
    // Lines inside of what becomes the request line.
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N HTTP/1.1\nhost: h\n\nGET /smuggled-N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N HTTP/1.1|host: h||GET /smuggled-N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N HTTP/1.1", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET /smuggled-N HTTP/1.1\nhost: h\n\nGET", ":scheme": "http", ":path": "/N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET /smuggled-N", ":scheme": "http", ":path": "/N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":authority": "h\n\nGET /smuggled-N HTTP/1.1\nhost: h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":authority": "h/smuggled-N"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http://h/smuggled-N HTTP/1.1\nx: y", ":path": "/N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "smuggled-N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "", ":authority": "h"),
        "",
    ),
    // Pseudo headers where they may not be, more of them, or fewer.
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":path": "/smuggled-N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", "x": "y", ":path": "/smuggled-N", ":authority": "h"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":authority": "h", ":status": "200"),
        "",
    ),
    bad(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":authority": "user@h"),
        "",
    ),
    bad(head!("host": "a", "host": "b"), ""),
    bad(head!("connection": "close"), ""),
    bad(head!("upgrade": "h2c", "http2-settings": "AAMAAABk"), ""),
    bad(bare!(":method": "CONNECT", ":authority": "h:80"), SMUGGLED),
    bad(
        bare!(":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": "/early-N", ":authority": "h"),
        SMUGGLED,
    ),
    // Trailers.
    trailing(&[("x", "y\n\nGET /smuggled-N HTTP/1.1\nhost: h\n\n")], false),
    trailing(&[("transfer-encoding", "chunked")], false),
    trailing(&[("content-length", "0")], true),
    trailing(&[(":path", "/smuggled-N")], false),
    trailing(&[("x", "y")], true),
    // As it should be.
    good(head!(), SMUGGLED),
    good(head!("content-length": "5"), "hello"),
    good(
        bare!(":method": "GET", ":scheme": "http", ":path": "/N", ":authority": "h"),
        SMUGGLED,
    ),
    good(
        bare!(":method": "HEAD", ":scheme": "http", ":path": "/N", ":authority": "h"),
        "",
    ),
    good(
        bare!(":method": "DELETE", ":scheme": "http", ":path": "/N", ":authority": "h"),
        SMUGGLED,
    ),
    good(head!("expect": "100-continue"), SMUGGLED),
];
