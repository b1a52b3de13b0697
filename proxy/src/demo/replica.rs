//! The application's replicas: an echo over HTTP/1, gRPC and TCP that says who answered, and that fails or goes down when told to.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mesh::SERVER_NAME;
use crate::runtime::spawn::spawn;

/// Names of the replicas. The first two have priority 0.
pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Who answered.
pub const WHO: &str = "x-replica";
/// SHA-256 of the client certificate that the server sidecar has seen.
pub const CLIENT_CERTIFICATE: &str = "x-client-certificate";

/// What a replica does to HTTP and gRPC; TCP is always served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Serving,
    /// Answers 503, or gRPC UNAVAILABLE.
    Failing,
    /// Cuts the connections it has and every new one.
    Down,
}

/// One running replica; it stops when it is dropped.
pub struct Replica {
    pub http: SocketAddr,
    pub grpc: SocketAddr,
    pub tcp: SocketAddr,
    mode: watch::Sender<Mode>,
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    received: AtomicU64,
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

impl Replica {
    /// Listens on three free ports of 127.0.0.1.
    pub async fn start(name: &'static str) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            name,
            received: AtomicU64::new(0),
        });
        let mode = watch::Sender::new(Mode::Serving);
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
        for (protocol, address) in addresses.iter_mut().enumerate() {
            let listener = TcpListener::bind(*address).await?;
            *address = listener.local_addr()?;
            let (shared, watched) = (shared.clone(), mode.subscribe());
            match protocol {
                0 => drop(spawn(
                    "replica",
                    accept(listener, watched, move |socket| http1(shared.clone(), socket)),
                )),
                1 => drop(spawn(
                    "replica",
                    accept(listener, watched, move |socket| http2(shared.clone(), socket)),
                )),
                _ => drop(spawn("replica", accept_tcp(listener, watched, shared))),
            }
        }
        let [http, grpc, tcp] = addresses;
        Ok(Self {
            http,
            grpc,
            tcp,
            mode,
            shared,
        })
    }

    /// Takes effect at once, for open connections too.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// HTTP and gRPC requests that came in, answered well or not.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

/// Accepts until the replica is dropped; `serve` gets the socket and the mode as it is when a request comes.
async fn accept<F>(
    listener: TcpListener,
    mode: watch::Receiver<Mode>,
    serve: impl Fn((TcpStream, watch::Receiver<Mode>)) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut dropped = mode.clone();
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = dropped.wait_for(|_| false) => return,
        };
        let Ok((socket, _)) = socket else { continue };
        let mut down = mode.clone();
        let served = serve((socket, mode.clone()));
        spawn("replica connection", async move {
            tokio::select! {
                () = served => {}
                // Also when the replica is dropped.
                _ = down.wait_for(|mode| *mode == Mode::Down) => {}
            }
        });
    }
}

fn http1(shared: Arc<Shared>, (socket, mode): (TcpStream, watch::Receiver<Mode>)) -> impl Future<Output = ()> + Send {
    let service = service_fn(move |request| answer(shared.clone(), mode.clone(), request, false));
    async move {
        // How a connection ends is the sidecar's affair.
        let _ = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), service)
            .await;
    }
}

fn http2(shared: Arc<Shared>, (socket, mode): (TcpStream, watch::Receiver<Mode>)) -> impl Future<Output = ()> + Send {
    let service = service_fn(move |request| answer(shared.clone(), mode.clone(), request, true));
    async move {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        // As above.
        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
    }
}

/// Echoes the body; a gRPC message is echoed as it is framed.
async fn answer(
    shared: Arc<Shared>,
    mode: watch::Receiver<Mode>,
    request: Request<Incoming>,
    grpc: bool,
) -> Result<Reply, hyper::Error> {
    shared.received.fetch_add(1, Ordering::Relaxed);
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut reply = match (*mode.borrow() == Mode::Serving, grpc) {
        (true, false) => Response::new(Full::new(body).boxed()),
        (true, true) => Response::new(
            Full::new(body)
                .with_trailers(std::future::ready(Some(Ok(status(0)))))
                .boxed(),
        ),
        (false, true) => with_headers(status(14)),
        (false, false) => {
            let mut reply = Response::new(Full::new(Bytes::from_static(b"made to fail")).boxed());
            *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            reply
        }
    };
    let headers = reply.headers_mut();
    if grpc {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    }
    headers.insert(WHO, HeaderValue::from_static(shared.name));
    if let Some(hash) = certificate_hash(&head.headers) {
        headers.insert(CLIENT_CERTIFICATE, hash);
    }
    Ok(reply)
}

fn with_headers(headers: HeaderMap) -> Reply {
    let mut reply = Response::new(Full::default().boxed());
    *reply.headers_mut() = headers;
    reply
}

fn status(code: u32) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(code))])
}

/// `Hash` of `x-forwarded-client-cert`.
fn certificate_hash(headers: &HeaderMap) -> Option<HeaderValue> {
    let xfcc = headers.get("x-forwarded-client-cert")?.to_str().ok()?;
    let hash = xfcc.split([';', ',']).find_map(|part| part.strip_prefix("Hash="))?;
    HeaderValue::from_str(hash).ok()
}

async fn accept_tcp(listener: TcpListener, mut dropped: watch::Receiver<Mode>, shared: Arc<Shared>) {
    loop {
        let socket = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = dropped.wait_for(|_| false) => return,
        };
        let Ok((socket, _)) = socket else { continue };
        let name = shared.name;
        // A cut connection shows at the other end, where it is counted.
        spawn(
            "replica connection",
            async move { drop(echo_lines(name, socket).await) },
        );
    }
}

/// Each line comes back with the replica's name in front.
async fn echo_lines(name: &'static str, mut socket: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = socket.split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    while read.read_line(&mut line).await? > 0 {
        write.write_all(format!("{name} {line}").as_bytes()).await?;
        line.clear();
    }
    write.shutdown().await
}

/// A gRPC request or response body of one message.
pub fn grpc_frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// `host` of the app's requests.
pub fn authority() -> HeaderValue {
    HeaderValue::from_static(SERVER_NAME)
}
