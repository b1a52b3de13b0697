//! The app: steady traffic over long-lived connections. Each request is due at its own time, whatever became of those before it, and each
//! answer is checked: status, body, who gave it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::config::{FRESH_PATH, GRPC_PATH, REVISION};
use super::replica::{CLIENT_CERTIFICATE, NAMES, WHO, authority, grpc_frame};
use super::tally::{Answer, Kind, Tally};
use crate::runtime::clock;
use crate::runtime::spawn::spawn;

/// Connections, and the time between two requests on each.
const HTTP: (usize, Duration) = (8, Duration::from_millis(40));
const GRPC: (usize, Duration) = (2, Duration::from_millis(200));
const TCP: (usize, Duration) = (4, Duration::from_millis(100));
/// TCP connections, and handshakes between the sidecars, made for one request.
const SHORT: Duration = Duration::from_millis(200);
/// Streams that each gRPC connection carries at once.
const STREAMS: usize = 4;
/// Sizes of bodies, in turn: none, one packet, several frames.
const SIZES: [usize; 3] = [0, 200, 40_000];
/// A request without an answer has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// Where the app finds its sidecar.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    pub http: SocketAddr,
    pub tcp: SocketAddr,
}

/// Running traffic.
pub struct Load {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What one generator needs.
#[derive(Clone)]
struct Generator {
    tally: Arc<Tally>,
    stop: watch::Receiver<bool>,
}

impl Load {
    pub fn start(targets: Targets, tally: &Arc<Tally>) -> Self {
        let stop = watch::Sender::new(false);
        let generator = || Generator {
            tally: tally.clone(),
            stop: stop.subscribe(),
        };
        let mut tasks = Vec::new();
        for _ in 0..HTTP.0 {
            tasks.push(spawn("http load", http(targets.http, HTTP.1, Kind::Http, generator())));
        }
        tasks.push(spawn(
            "handshake load",
            http(targets.http, SHORT, Kind::Fresh, generator()),
        ));
        for _ in 0..GRPC.0 {
            tasks.push(spawn("grpc load", grpc(targets.http, generator())));
        }
        for index in 0..TCP.0 {
            tasks.push(spawn("tcp load", tcp(targets.tcp, index, generator())));
        }
        tasks.push(spawn("short tcp load", tcp_short(targets.tcp, generator())));
        Self { stop, tasks }
    }

    /// Ends it; what is in flight is still waited for and counted.
    pub async fn finish(self) {
        self.stop.send_replace(true);
        for task in self.tasks {
            // A panic of a generator is logged, and its requests are missing.
            let _ = task.await;
        }
    }
}

impl Generator {
    /// Waits for the next request to be due; false at the end.
    async fn due(&mut self, ticks: &mut Interval) -> bool {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => false,
            _ = ticks.tick() => true,
        }
    }
}

fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

async fn limited<T>(exchange: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let limited = tokio::time::timeout(LIMIT, exchange).await;
    limited.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
}

async fn connect(target: SocketAddr) -> Result<TcpStream, String> {
    let socket = TcpStream::connect(target)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    socket.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(socket)
}

/// One connection, kept as long as the proxy keeps it.
async fn http(target: SocketAddr, period: Duration, kind: Kind, mut generator: Generator) {
    let (mut ticks, mut open) = (ticks(period), None);
    let mut number = 0;
    while generator.due(&mut ticks).await {
        let (started, body) = (clock::now(), payload(number));
        number += 1;
        let outcome = limited(http_exchange(target, &mut open, kind, &body, &generator.tally)).await;
        if outcome.is_err() {
            open = None;
        }
        generator.tally.record(kind, started, outcome);
    }
}

async fn http_exchange(
    target: SocketAddr,
    open: &mut Option<http1::SendRequest<Full<Bytes>>>,
    kind: Kind,
    body: &Bytes,
    tally: &Tally,
) -> Result<Answer, String> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(if kind == Kind::Fresh { FRESH_PATH } else { "/" });
    request.headers_mut().insert(header::HOST, authority());
    // A request that never left because the proxy had announced the end of the connection goes over the next one.
    for _ in 0..2 {
        let sender = match open.take() {
            Some(sender) => Some(sender),
            None => Some(open_http1(target).await?),
        };
        let Some(mut sender) = sender else { break };
        if sender.ready().await.is_err() {
            tally.lost_connection(kind);
            continue;
        }
        match sender.try_send_request(request).await {
            Ok(response) => {
                let answer = check_http(response, body).await?;
                *open = Some(sender);
                return Ok(answer);
            }
            Err(mut error) => {
                request = error.take_message().ok_or_else(|| describe(error.error()))?;
                tally.lost_connection(kind);
            }
        }
    }
    Err("two connections ended before the request left".to_owned())
}

async fn open_http1(target: SocketAddr) -> Result<http1::SendRequest<Full<Bytes>>, String> {
    let socket = connect(target).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| describe(&error))?;
    // Its end shows at the sender.
    spawn("app connection", async move { drop(connection.await) });
    Ok(sender)
}

async fn check_http(response: Response<Incoming>, sent: &Bytes) -> Result<Answer, String> {
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| format!("response cut short: {}", describe(&error)))?
        .to_bytes();
    if head.status != http::StatusCode::OK {
        return Err(format!(
            "status {}, body {:?}",
            head.status,
            String::from_utf8_lossy(&body)
        ));
    }
    if body != *sent {
        return Err(format!("a body of {} bytes came back as {}", sent.len(), body.len()));
    }
    answer(&head.headers)
}

fn answer(headers: &HeaderMap) -> Result<Answer, String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let who = text(WHO).ok_or("nobody says that they answered")?;
    let watched = [REVISION, "server", CLIENT_CERTIFICATE];
    let headers = watched
        .into_iter()
        .filter_map(|name| Some((name, text(name)?.to_owned())))
        .collect();
    Ok(Answer {
        replica: replica(who)?,
        headers,
    })
}

fn replica(name: &str) -> Result<usize, String> {
    let known = NAMES.iter().position(|known| *known == name);
    known.ok_or_else(|| format!("answered by {name:?}, whoever that is"))
}

/// One connection with several streams at once.
async fn grpc(target: SocketAddr, mut generator: Generator) {
    let mut open: Option<http2::SendRequest<Full<Bytes>>> = None;
    let (mut ticks, mut number) = (ticks(GRPC.1), 0);
    while generator.due(&mut ticks).await {
        let started = clock::now();
        if let Some(mut sender) = open.take() {
            match sender.ready().await {
                Ok(()) => open = Some(sender),
                Err(_) => generator.tally.lost_connection(Kind::Grpc),
            }
        }
        let sender = match open.take() {
            Some(sender) => Ok(sender),
            None => limited(open_http2(target)).await,
        };
        let sender = match sender {
            Ok(sender) => sender,
            Err(reason) => {
                generator.tally.record(Kind::Grpc, started, Err(reason));
                continue;
            }
        };
        let exchange = |number| {
            let (sender, tally) = (sender.clone(), generator.tally.clone());
            async move {
                let outcome = limited(grpc_exchange(target, sender, &payload(number), &tally)).await;
                tally.record(Kind::Grpc, started, outcome);
            }
        };
        futures_util::future::join_all((number..number + STREAMS).map(exchange)).await;
        number += STREAMS;
        open = Some(sender);
    }
}

async fn grpc_exchange(
    target: SocketAddr,
    mut sender: http2::SendRequest<Full<Bytes>>,
    message: &[u8],
    tally: &Tally,
) -> Result<Answer, String> {
    let frame = grpc_frame(message);
    let mut request = Request::new(Full::new(frame.clone()));
    *request.method_mut() = Method::POST;
    let uri = http::Uri::builder()
        .scheme("http")
        .authority(authority().as_bytes())
        .path_and_query(GRPC_PATH)
        .build();
    *request.uri_mut() = uri.map_err(|error| error.to_string())?;
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
    request
        .headers_mut()
        .insert(header::TE, http::HeaderValue::from_static("trailers"));
    let response = match sender.try_send_request(request).await {
        Ok(response) => response,
        // As gRPC clients do: a stream that the server never saw is opened again elsewhere.
        Err(mut error) => {
            let request = error.take_message().ok_or_else(|| describe(error.error()))?;
            tally.lost_connection(Kind::Grpc);
            let mut sender = open_http2(target).await?;
            sender.send_request(request).await.map_err(|error| describe(&error))?
        }
    };
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map_err(|error| format!("response cut short: {}", describe(&error)))?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let status = trailers.get("grpc-status").or(head.headers.get("grpc-status"));
    if head.status != http::StatusCode::OK || status.is_none_or(|status| status != "0") {
        return Err(format!("status {}, grpc-status {status:?}", head.status));
    }
    if body.to_bytes() != frame {
        return Err("the message came back otherwise".to_owned());
    }
    answer(&head.headers)
}

async fn open_http2(target: SocketAddr) -> Result<http2::SendRequest<Full<Bytes>>, String> {
    let socket = connect(target).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (sender, connection) = handshake.map_err(|error| describe(&error))?;
    // Its end shows at the sender.
    spawn("app connection", async move { drop(connection.await) });
    Ok(sender)
}

/// One connection, which nothing but the end of the demo may end.
async fn tcp(target: SocketAddr, index: usize, mut generator: Generator) {
    let (mut ticks, mut open, mut number) = (ticks(TCP.1), None, 0_u64);
    let mut first = true;
    while generator.due(&mut ticks).await {
        let started = clock::now();
        let line = format!("connection {index} line {number}\n");
        number += 1;
        if open.is_none() && !std::mem::take(&mut first) {
            generator.tally.lost_connection(Kind::Tcp);
        }
        let outcome = limited(tcp_exchange(target, &mut open, &line)).await;
        if outcome.is_err() {
            open = None;
        }
        generator.tally.record(Kind::Tcp, started, outcome);
    }
}

async fn tcp_exchange(
    target: SocketAddr,
    open: &mut Option<BufReader<TcpStream>>,
    line: &str,
) -> Result<Answer, String> {
    let socket = match open {
        Some(socket) => socket,
        None => open.insert(BufReader::new(connect(target).await?)),
    };
    socket
        .write_all(line.as_bytes())
        .await
        .map_err(|error| format!("write: {error}"))?;
    let mut reply = String::new();
    let read = socket
        .read_line(&mut reply)
        .await
        .map_err(|error| format!("read: {error}"))?;
    if read == 0 {
        return Err("connection closed by the proxy".to_owned());
    }
    check_line(&reply, line)
}

/// A connection for each line, closed in order: the end must arrive too.
async fn tcp_short(target: SocketAddr, mut generator: Generator) {
    let (mut ticks, mut number) = (ticks(SHORT), 0_u64);
    while generator.due(&mut ticks).await {
        let (started, line) = (clock::now(), format!("short line {number}\n"));
        number += 1;
        let exchange = async {
            let mut socket = connect(target).await?;
            let failed = |error: std::io::Error| error.to_string();
            socket.write_all(line.as_bytes()).await.map_err(failed)?;
            socket.shutdown().await.map_err(failed)?;
            let mut reply = String::new();
            socket.read_to_string(&mut reply).await.map_err(failed)?;
            check_line(&reply, &line)
        };
        let outcome = limited(exchange).await;
        generator.tally.record(Kind::Tcp, started, outcome);
    }
}

fn check_line(reply: &str, sent: &str) -> Result<Answer, String> {
    match reply.split_once(' ') {
        Some((who, line)) if line == sent => Ok(Answer {
            replica: replica(who)?,
            headers: Vec::new(),
        }),
        _ => Err(format!("{sent:?} came back as {reply:?}")),
    }
}

fn payload(number: usize) -> Bytes {
    let size = SIZES[number % SIZES.len()];
    format!("{number:08} ").bytes().cycle().take(size).collect()
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
