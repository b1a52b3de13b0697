//! Proxies requests through the real connection manager or TCP proxy, in memory, on one thread, with fixed seeds: for callgrind.
//!
//! ```text
//! path-cost h1|h2|tcp REQUESTS
//! ```
//!
//! `benches/record.py` runs it at two counts; the difference is the cost of the requests between them. The two ends are in it: they are as
//! thin as can be, and always the same.

use std::error::Error;
use std::process::ExitCode;

use remora_benches::config;
use remora_benches::in_memory::{Proxy, answer_http, echo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const SEED: u64 = 7;
const BACKEND: &str = "backend";
const MESSAGE: [u8; 64] = [b'x'; 64];
const REQUEST: &[u8] =
    b"GET /path?query=1 HTTP/1.1\r\nhost: bench.local\r\nuser-agent: path-cost\r\naccept: */*\r\n\r\n";
/// What the response ends with.
const BODY: &[u8] = b"hello, mesh\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    fastrand::seed(SEED);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["h1", count] => h1(count).await,
        ["h2", count] => h2(count).await,
        ["tcp", count] => tcp(count).await,
        _ => Err("usage: path-cost h1|h2|tcp REQUESTS".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("path-cost: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn h1(count: &str) -> Outcome<()> {
    let proxy = Proxy::new(
        &config::http_listener(BACKEND),
        config::internal_cluster(BACKEND),
        BACKEND,
        answer_http,
    )?;
    let mut client = proxy.connect();
    let mut reply = Vec::with_capacity(4096);
    for _ in 0..count.parse()? {
        client.write_all(REQUEST).await?;
        reply.clear();
        while !reply.ends_with(BODY) {
            if client.read_buf(&mut reply).await? == 0 {
                return Err(String::from_utf8_lossy(&reply).into_owned().into());
            }
        }
        if !reply.starts_with(b"HTTP/1.1 200 OK\r\n") {
            return Err(String::from_utf8_lossy(&reply).into_owned().into());
        }
    }
    Ok(())
}

async fn tcp(count: &str) -> Outcome<()> {
    let proxy = Proxy::new(
        &config::tcp_proxy_listener(BACKEND),
        config::internal_cluster(BACKEND),
        BACKEND,
        echo,
    )?;
    let mut client = proxy.connect();
    let mut reply = MESSAGE;
    for _ in 0..count.parse()? {
        client.write_all(&MESSAGE).await?;
        client.read_exact(&mut reply).await?;
    }
    Ok(())
}

async fn h2(count: &str) -> Outcome<()> {
    let proxy = Proxy::new(
        &config::http_listener(BACKEND),
        config::internal_cluster(BACKEND),
        BACKEND,
        answer_http,
    )?;
    let mut client = H2Client::start(proxy.connect()).await?;
    for _ in 0..count.parse()? {
        client.request().await?;
    }
    Ok(())
}

/// Just enough of RFC 9113 to send one fixed request at a time and to see its response end.
struct H2Client {
    stream: DuplexStream,
    next: u32,
    /// Body bytes since the connection's window was last opened.
    consumed: u32,
    frame: Vec<u8>,
}

/// Frame types and flags, RFC 9113 section 6.
mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const ACK: u8 = 1;
    pub const END_STREAM: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

/// `:method: GET`, `:scheme: http`, `:path: /` from the static table, then `:authority: bench.local` as it stands (RFC 7541).
const HEADER_BLOCK: &[u8] = b"\x82\x86\x84\x01\x0bbench.local";
const WINDOW_STEP: u32 = 16 * 1024;

impl H2Client {
    async fn start(mut stream: DuplexStream) -> Outcome<Self> {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        let mut client = Self {
            stream,
            next: 1,
            consumed: 0,
            frame: Vec::new(),
        };
        client.send(frame::SETTINGS, 0, 0, &[]).await?;
        Ok(client)
    }

    async fn request(&mut self) -> Outcome<()> {
        let id = self.next;
        self.next += 2;
        self.send(frame::HEADERS, frame::END_STREAM | frame::END_HEADERS, id, HEADER_BLOCK)
            .await?;
        loop {
            let (kind, flags, stream) = self.receive().await?;
            match kind {
                frame::SETTINGS if flags & frame::ACK == 0 => self.send(frame::SETTINGS, frame::ACK, 0, &[]).await?,
                frame::PING if flags & frame::ACK == 0 => {
                    let payload = self.frame.clone();
                    self.send(frame::PING, frame::ACK, 0, &payload).await?;
                }
                frame::RST_STREAM | frame::GOAWAY => return Err(format!("frame type {kind}: {:?}", self.frame).into()),
                frame::DATA => self.consume().await?,
                // `:status: 200` is entry 8 of the static table.
                frame::HEADERS if self.frame.first() != Some(&0x88) => {
                    return Err(format!("not a 200: {:?}", self.frame).into());
                }
                _ => {}
            }
            if stream == id && matches!(kind, frame::DATA | frame::HEADERS) && flags & frame::END_STREAM != 0 {
                return Ok(());
            }
        }
    }

    async fn consume(&mut self) -> Outcome<()> {
        self.consumed += u32::try_from(self.frame.len())?;
        if self.consumed >= WINDOW_STEP {
            let step = std::mem::take(&mut self.consumed).to_be_bytes();
            self.send(frame::WINDOW_UPDATE, 0, 0, &step).await?;
        }
        Ok(())
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Outcome<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        Ok(self.stream.write_all(&bytes).await?)
    }

    /// Type, flags and stream of the next frame; its payload is in `self.frame`.
    async fn receive(&mut self) -> Outcome<(u8, u8, u32)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        self.frame.resize(u32::from_be_bytes([0, a, b, c]) as usize, 0);
        self.stream.read_exact(&mut self.frame).await?;
        Ok((kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff))
    }
}
