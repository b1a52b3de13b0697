//! The connection of one host's checks: it lasts from check to check, until it is closed, a check fails to be asked, or times out.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;

use super::Task;
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;

/// What is kept between two checks.
#[derive(Default)]
pub enum Kept {
    #[default]
    Nothing,
    Http(Box<HttpConnection>),
    Tcp(Box<TcpConnection>),
}

/// A connection of HTTP or gRPC checks.
pub struct HttpConnection {
    sender: Sender,
    /// Drives the connection; both end together.
    _driver: Task,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection of TCP checks, and what came on it that no check has taken.
pub struct TcpConnection {
    pub io: Io,
    pub received: Vec<u8>,
}

/// Most that is read of what comes unasked.
const MOST_UNASKED: usize = 16 * 1024;

impl Kept {
    /// Completes when a connection of TCP checks is closed by the host: Envoy counts that as a failed check. That of an HTTP check may
    /// go, the next one makes another. Cancel safe.
    pub async fn lost(&mut self) {
        let Self::Tcp(tcp) = self else {
            return std::future::pending().await;
        };
        while tcp.received.len() < MOST_UNASKED {
            if !matches!(tcp.io.read_buf(&mut tcp.received).await, Ok(1..)) {
                *self = Self::Nothing;
                return;
            }
        }
        std::future::pending().await
    }

    /// The HTTP connection, if it still takes requests.
    pub(super) async fn into_http(self) -> Option<Box<HttpConnection>> {
        let Self::Http(mut connection) = self else {
            return None;
        };
        connection.is_ready().await.then_some(connection)
    }

    pub(super) fn into_tcp(self) -> Option<Box<TcpConnection>> {
        match self {
            Self::Tcp(connection) => Some(connection),
            _ => None,
        }
    }
}

impl HttpConnection {
    pub(super) async fn start(io: Io, http2: bool) -> Option<Box<Self>> {
        let io = TokioIo::new(io);
        let connection = if http2 {
            let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.ok()?;
            Self {
                sender: Sender::Http2(sender),
                _driver: drive(driver),
            }
        } else {
            let (sender, driver) = http1::handshake(io).await.ok()?;
            Self {
                sender: Sender::Http1(sender),
                _driver: drive(driver),
            }
        };
        Some(Box::new(connection))
    }

    async fn is_ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(super) async fn send(&mut self, request: http::Request<Full<Bytes>>) -> Option<http::Response<Incoming>> {
        let sent = match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        sent.ok()
    }
}

fn drive(connection: impl Future<Output = hyper::Result<()>> + Send + 'static) -> Task {
    // How it ended is known to whoever waits for an answer.
    Task(spawn("health check connection", async { drop(connection.await) }))
}
