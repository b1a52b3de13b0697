//! The far ends of a measurement: a backend that costs next to nothing, and clients for what wrk and h2load cannot do.
//!
//! ```text
//! peer serve-http ADDRESS...                             answers every request without a body with a small 200
//! peer serve-echo ADDRESS...                             sends back what it gets
//! peer serve-sink ADDRESS...                             takes everything, and says at the end how many bytes that were
//! peer ping ADDRESS CONNECTIONS SIZE SECONDS             one message of SIZE bytes in flight per connection
//! peer bulk ADDRESS SECONDS                              one stream as fast as it goes, counted in blocks of 64 KiB that arrived
//! peer paced ADDRESS CONNECTIONS RATE SECONDS            HTTP/1.1 requests on a fixed schedule (open loop), RATE a second in all
//! peer identities DIRECTORY                              a certificate authority and two workload identities, as PEM
//! ```
//!
//! Clients print one line of JSON. Latencies of `paced` count from when a request was due, not from when it could be sent.

use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use control_plane_mock::pki::{Authority, Leaf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\nserver: peer\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello, mesh\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(words: &[&str]) -> Outcome<()> {
    match words {
        ["serve-http", addresses @ ..] => serve(addresses, Kind::Http).await,
        ["serve-echo", addresses @ ..] => serve(addresses, Kind::Echo).await,
        ["serve-sink", addresses @ ..] => serve(addresses, Kind::Sink).await,
        ["bulk", address, seconds] => bulk(address.parse()?, span(seconds)?).await,
        ["ping", address, connections, size, seconds] => {
            let (connections, size) = (connections.parse()?, size.parse()?);
            ping(address.parse()?, connections, size, span(seconds)?).await
        }
        ["paced", address, connections, rate, seconds] => {
            let (connections, rate) = (connections.parse()?, rate.parse()?);
            paced(address.parse()?, connections, rate, span(seconds)?).await
        }
        ["identities", directory] => identities(Path::new(directory)),
        _ => Err("see the top of benches/src/bin/peer.rs for what it takes".into()),
    }
}

fn span(seconds: &str) -> Outcome<Duration> {
    Ok(Duration::try_from_secs_f64(seconds.parse()?)?)
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Echo,
    Sink,
}

async fn serve(addresses: &[&str], kind: Kind) -> Outcome<()> {
    let mut accepting = JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address.parse::<SocketAddr>()?).await?;
        accepting.spawn(accept(listener, kind));
    }
    accepting.join_all().await;
    Ok(())
}

async fn accept(listener: TcpListener, kind: Kind) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        // Either way of ending is the client's business.
        match kind {
            Kind::Http => connections.spawn(async { answer(stream).await.unwrap_or_default() }),
            Kind::Echo => connections.spawn(async { echo(stream).await.unwrap_or_default() }),
            Kind::Sink => connections.spawn(async { sink(stream).await.unwrap_or_default() }),
        };
    }
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    let mut matched = 0;
    let mut answers = Vec::new();
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        answers.clear();
        for byte in &buffer[..count] {
            matched = match (*byte == END_OF_HEAD[matched], *byte) {
                (true, _) => matched + 1,
                (false, b'\r') => 1,
                (false, _) => 0,
            };
            if matched == END_OF_HEAD.len() {
                matched = 0;
                answers.extend_from_slice(RESPONSE);
            }
        }
        stream.write_all(&answers).await?;
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn sink(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut total: u64 = 0;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.write_all(&total.to_be_bytes()).await;
        }
        total += count as u64;
    }
}

async fn bulk(address: SocketAddr, span: Duration) -> Outcome<()> {
    const BLOCK: usize = 64 * 1024;
    let mut stream = TcpStream::connect(address).await?;
    let block = vec![b'x'; BLOCK];
    let started = Instant::now();
    while started.elapsed() < span {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    let arrived = stream.read_u64().await?;
    let seconds = started.elapsed().as_secs_f64();
    let line = serde_json::json!({ "requests": arrived / BLOCK as u64, "seconds": seconds, "p99_us": null });
    println!("{line}");
    Ok(())
}

async fn ping(address: SocketAddr, connections: usize, size: usize, span: Duration) -> Outcome<()> {
    let started = Instant::now();
    let end = started + span;
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (message, mut reply) = (vec![b'x'; size], vec![0; size]);
            let mut latencies = Vec::new();
            let mut now = Instant::now();
            while now < end {
                stream.write_all(&message).await?;
                stream.read_exact(&mut reply).await?;
                let then = std::mem::replace(&mut now, Instant::now());
                latencies.push(micros(now - then));
            }
            Outcome::Ok(latencies)
        });
    }
    report(clients, started).await
}

async fn paced(address: SocketAddr, connections: u32, rate: f64, span: Duration) -> Outcome<()> {
    let started = Instant::now();
    let interval = Duration::try_from_secs_f64(f64::from(connections) / rate)?;
    let mut clients = JoinSet::new();
    for index in 0..connections {
        let first = started + interval * index / connections;
        clients.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\n\r\n");
            let mut latencies = Vec::new();
            let mut due = first;
            let mut reply = Vec::new();
            while due < started + span {
                tokio::time::sleep_until(due).await;
                stream.write_all(request.as_bytes()).await?;
                read_response(&mut stream, &mut reply).await?;
                latencies.push(micros(due.elapsed()));
                due += interval;
            }
            Outcome::Ok(latencies)
        });
    }
    report(clients, started).await
}

/// Reads one response of `serve-http` that came through a proxy: a head, and a body of the length that [`RESPONSE`] has.
async fn read_response(stream: &mut TcpStream, reply: &mut Vec<u8>) -> Outcome<()> {
    const BODY: usize = 12;
    reply.clear();
    loop {
        if stream.read_buf(reply).await? == 0 {
            return Err("the connection ended inside a response".into());
        }
        let head = reply
            .windows(END_OF_HEAD.len())
            .position(|window| window == END_OF_HEAD);
        if head.is_some_and(|head| reply.len() >= head + END_OF_HEAD.len() + BODY) {
            break;
        }
    }
    if reply.starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(reply).into_owned().into())
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

async fn report(mut clients: JoinSet<Outcome<Vec<u32>>>, started: Instant) -> Outcome<()> {
    let mut all = Vec::new();
    while let Some(latencies) = clients.join_next().await {
        all.extend(latencies??);
    }
    let seconds = started.elapsed().as_secs_f64();
    all.sort_unstable();
    let at = |share: f64| all.get(((all.len() as f64 * share) as usize).min(all.len().saturating_sub(1)));
    let (p50, p99) = (at(0.5).unwrap_or(&0), at(0.99).unwrap_or(&0));
    let line = serde_json::json!({ "requests": all.len(), "seconds": seconds, "p50_us": p50, "p99_us": p99 });
    println!("{line}");
    Ok(())
}

fn identities(directory: &Path) -> Outcome<()> {
    std::fs::create_dir_all(directory)?;
    let authority = Authority::new("bench")?;
    std::fs::write(directory.join("ca.pem"), authority.root_pem())?;
    for name in ["client", "server"] {
        let identity = authority.issue(&Leaf::spiffe("cluster.local", "default", name))?;
        std::fs::write(directory.join(format!("{name}.pem")), &identity.chain_pem)?;
        std::fs::write(directory.join(format!("{name}.key")), &identity.key_pem)?;
    }
    Ok(())
}
