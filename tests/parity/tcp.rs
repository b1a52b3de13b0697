//! Plain connections: what a client does step by step, and backends that echo, speak first, or take tunnels.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use remora::runtime::spawn::spawn;
use remora_tests::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// One thing a client does.
#[derive(Clone, Copy)]
pub enum Step {
    Send(&'static [u8]),
    /// A ClientHello with this SNI (if it has text) and these protocols.
    Hello(&'static str, &'static [&'static str]),
    /// Reads so many bytes.
    Read(usize),
    /// Says that nothing more will come.
    Half,
    /// Reads until the other side ends.
    End,
    /// Resets the connection; the last step.
    Reset,
    /// What another connection gets meanwhile, to its end.
    Another,
}

/// Plays the steps; returns what was seen, as lines, and how many bytes came.
pub async fn play(address: SocketAddr, steps: &[Step]) -> (String, usize) {
    let mut stream = within("a connection", TcpStream::connect(address)).await.unwrap();
    let port = stream.local_addr().unwrap().port();
    let mut text = String::new();
    let (mut sent, mut got) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Send(bytes) => {
                sent.extend_from_slice(bytes);
                // The proxy may have closed already: the end tells.
                let _ = stream.write_all(bytes).await;
            }
            Step::Hello(name, protocols) => {
                let bytes = hello(name, protocols);
                sent.extend_from_slice(&bytes);
                let _ = stream.write_all(&bytes).await;
            }
            Step::Read(count) => {
                let mut buffer = vec![0; *count];
                let read = within("bytes", stream.read_exact(&mut buffer)).await;
                let _ = writeln!(text, "read: {:?}", read.map_err(|error| error.kind()));
                got.extend_from_slice(&buffer);
            }
            Step::Half => {
                let _ = stream.shutdown().await;
            }
            Step::Reset => stream.set_zero_linger().unwrap(),
            Step::End => {
                let ended = within("the end", stream.read_to_end(&mut got)).await;
                let ended = ended.map(|_| "closed").map_err(|error| error.kind());
                let _ = writeln!(text, "end: {ended:?}");
            }
            Step::Another => {
                let mut other = within("another connection", TcpStream::connect(address)).await.unwrap();
                let mut answer = Vec::new();
                let ended = within("its end", other.read_to_end(&mut answer)).await;
                let ended = ended.map_err(|error| error.kind());
                let _ = writeln!(text, "another: {ended:?} {}", answer.escape_ascii());
            }
        }
    }
    let count = got.len();
    let shown = match got == sent && count > 100 {
        true => "what was sent".to_owned(),
        false => masked(got).escape_ascii().to_string(),
    };
    let _ = writeln!(text, "got: {shown}");
    let text = text
        .replace(&format!(" {port} "), " CLIENT ")
        .replace(&format!(":{port}"), ":CLIENT");
    (
        text.replace(&format!(" {} ", address.port()), " LISTENER ")
            .replace(&format!(" {}\\r", address.port()), " LISTENER\\r"),
        count,
    )
}

/// Ports in a binary PROXY header are of the moment.
fn masked(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11") && bytes.len() >= 28 {
        bytes[24..28].copy_from_slice(b"PORT");
    }
    bytes
}

/// A ClientHello as rustls makes it.
pub fn hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    // A hello of one packet.
    provider.kx_groups = vec![rustls::crypto::aws_lc_rs::kx_group::X25519];
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.enable_sni = !name.is_empty();
    let server = if name.is_empty() { "unnamed.test" } else { name };
    let server = rustls::pki_types::ServerName::try_from(server.to_owned()).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), server).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A backend without HTTP; stops when dropped.
pub struct Plain {
    pub port: u16,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Echo,
    /// Says hello first.
    Greet,
    /// Says `direct`, and ends.
    Say,
    /// Says where the connection comes from, and ends.
    Peer,
    /// Resets its connection when something comes.
    Break,
    /// Takes CONNECT and POST as tunnels: shows the request in the tunnel, ids masked, then echoes. Refuses where the request has `x-refuse`, resets its connection once something comes where it has `x-break`,
    /// answers with headers, and trailers where there can be some, where it has `x-tell`.
    Tunnel,
}

impl Plain {
    pub async fn start(kind: Kind) -> Self {
        // On all of 127.0.0.0/8: one backend can be many hosts.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = spawn("plain backend", async move {
            while let Ok((stream, peer)) = listener.accept().await {
                drop(spawn("plain connection", async move {
                    // A proxy may break a connection off; its access log says so.
                    let _ = match kind {
                        Kind::Echo => echo(stream, b"").await,
                        Kind::Greet => echo(stream, b"hello\n").await,
                        Kind::Say => say(stream, "direct").await,
                        Kind::Peer => say(stream, &peer.ip().to_string()).await,
                        Kind::Tunnel => tunnel(stream).await,
                        Kind::Break => broken(stream).await,
                    };
                }));
            }
        });
        Self { port, accepting }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn echo(mut stream: TcpStream, first: &[u8]) -> std::io::Result<()> {
    stream.write_all(first).await?;
    let (mut reader, mut writer) = stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.shutdown().await
}

async fn say(mut stream: TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(|_| ())
}

async fn broken(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_u8().await?;
    stream.set_zero_linger()
}

async fn tunnel(mut stream: TcpStream) -> std::io::Result<()> {
    let mut start = [0; 3];
    stream.peek(&mut start).await?;
    if &start == b"PRI" {
        return tunnel_h2(stream).await.map_err(std::io::Error::other);
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).replace("\r\n", "|").to_lowercase();
    let told = if text.contains("x-tell") { TOLD } else { "" };
    if text.contains("x-refuse") {
        let refusal = format!("HTTP/1.1 403 Forbidden\r\n{told}content-length: 0\r\n\r\n");
        return stream.write_all(refusal.as_bytes()).await;
    }
    let text = without_ids(&text);
    let mut lines: Vec<&str> = text.split('|').filter(|line| !line.is_empty()).collect();
    lines[1..].sort_unstable();
    let shown = lines.join("|") + "\n";
    let breaks = text.contains("x-break");
    if !text.starts_with("post") {
        let head = format!("HTTP/1.1 200 OK\r\n{told}\r\n");
        stream.write_all(head.as_bytes()).await?;
        if breaks {
            stream.write_all(shown.as_bytes()).await?;
            return broken(stream).await;
        }
        return echo(stream, shown.as_bytes()).await;
    }
    let head = format!("HTTP/1.1 200 OK\r\n{told}transfer-encoding: chunked\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let chunk = format!("{:x}\r\n{shown}\r\n", shown.len());
    stream.write_all(chunk.as_bytes()).await?;
    if breaks {
        return broken(stream).await;
    }
    // Chunks in, the same chunks out, the last one included.
    let mut body = Vec::new();
    while !body.ends_with(b"0\r\n\r\n") {
        body.push(stream.read_u8().await?);
    }
    stream.write_all(&body).await?;
    stream.shutdown().await
}

/// Headers of an answer.
const TOLD: &str = "x-first: one\r\nx-second: two words\r\n";

/// Each UUID becomes a word.
fn without_ids(text: &str) -> String {
    let is_id = |part: &str| part.len() == 36 && part.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let parts = text.split_inclusive([' ', '|', '\n']);
    let shown = parts.map(|part| {
        let id = part.trim_end_matches([' ', '|', '\n']);
        if is_id(id) {
            part.replace(id, "ID")
        } else {
            part.to_owned()
        }
    });
    shown.collect()
}

async fn tunnel_h2(stream: TcpStream) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        drop(spawn("plain stream", async move {
            let (head, mut body) = request.into_parts();
            if head.headers.contains_key("x-refuse") {
                let response = http::Response::builder().status(403).body(()).unwrap();
                return respond.send_response(response, true).map(|_| ());
            }
            let tells = head.headers.contains_key("x-tell");
            let mut response = http::Response::new(());
            for line in TOLD.lines().filter(|_| tells) {
                let (name, value) = line.split_once(": ").unwrap();
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            let mut sender = respond.send_response(response, false)?;
            let mut lines: Vec<String> = head
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            lines.sort_unstable();
            let shown = format!("{} {} {:?}|{}\n", head.method, head.uri, head.version, lines.join("|"));
            sender.send_data(without_ids(&shown).into(), false)?;
            while let Some(data) = body.data().await {
                let data = data?;
                let _ = body.flow_control().release_capacity(data.len());
                sender.send_data(data, false)?;
            }
            if tells {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-last", "three".parse().unwrap());
                return sender.send_trailers(trailers);
            }
            sender.send_data(bytes::Bytes::new(), true)
        }));
    }
    Ok(())
}
