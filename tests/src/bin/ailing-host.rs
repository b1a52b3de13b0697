//! A host that falls ill when it is told to: it answers every GET with 200, after SIGUSR1 with 503, after SIGUSR2 two seconds late.
//!
//! `ailing-host ADDRESS`; a process of its own, so that it can be killed and stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use remora::runtime::clock;
use remora::runtime::spawn::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

const WELL: u8 = 0;
const FAILING: u8 = 1;
const SLOW: u8 = 2;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_default();
    let listener = TcpListener::bind(address).await?;
    let mode = Arc::new(AtomicU8::new(WELL));
    for (kind, ill) in [
        (SignalKind::user_defined1(), FAILING),
        (SignalKind::user_defined2(), SLOW),
    ] {
        let (mut asked, mode) = (signal(kind)?, mode.clone());
        spawn("mode", async move {
            while asked.recv().await.is_some() {
                mode.store(ill, Ordering::SeqCst);
            }
        });
    }
    loop {
        let (stream, _) = listener.accept().await?;
        spawn("connection", serve(stream, mode.clone()));
    }
}

async fn serve(mut stream: TcpStream, mode: Arc<AtomicU8>) {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let mode = mode.load(Ordering::SeqCst);
        if mode == SLOW {
            clock::sleep(Duration::from_secs(2)).await;
        }
        let status = if mode == FAILING {
            "503 Service Unavailable"
        } else {
            "200 OK"
        };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\nok");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
