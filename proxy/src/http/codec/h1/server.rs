//! The server driver: reads heads, lets a service answer them, writes the answers, until either side has enough.

mod deadline;
mod leave;
mod refuse;
mod request_body;
mod response;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Version};
use parking_lot::Mutex;

use super::decode::BodyDecoder;
use super::encode::{self, Framing};
use super::parse::{self, RequestHead};
use super::stream::{Stream, give_buffer};
use super::{H1Options, MAX_READ};
use crate::http::body::Body;
use crate::http::cut;
use crate::http::exchange::{Exchange, Protocol};
use crate::http::failure::Failure;
use crate::http::header_policy::path::TargetWithFragment;
use crate::http::service::{ConnectionEvent, Response, Service};
use crate::http::upgrade::UpgradeKind;
use crate::listener::ConnectionInfo;
use crate::runtime::boxed::boxed;
use crate::runtime::clock;
use crate::runtime::drain::DrainSignal;
use crate::runtime::io::Io;
use crate::runtime::wake;
use crate::telemetry::flags::ResponseFlags;
use deadline::{FAR, poll_deadline};
use leave::Leave;
pub use refuse::RefusedHead;
use refuse::{UNDERSCORE, record_cut};
pub use request_body::RequestBody;
use response::Reply;

/// Timers of a downstream connection; `None` switches one off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// How long an idle connection that is to leave is kept for one more request (`drain_timeout`); unset: 5 s.
    pub drain: Option<Duration>,
    /// Between requests (`common_http_protocol_options.idle_timeout`, 1 h).
    pub idle: Option<Duration>,
    /// From the first byte of a head to its last (`request_headers_timeout`).
    pub request_headers: Option<Duration>,
    /// From the beginning of a request to its last byte (`request_timeout`).
    pub request: Option<Duration>,
    /// How long the client may take to close when we have (`delayed_close_timeout`, 1 s).
    pub delayed_close: Option<Duration>,
    /// Without a byte in either direction inside a stream (`stream_idle_timeout`, 5 min).
    pub stream_idle: Option<Duration>,
    /// From the accept on (`common_http_protocol_options.max_connection_duration`): then the next response says that the connection closes.
    pub max_age: Option<Duration>,
}

impl Timeouts {
    fn grace(&self) -> Duration {
        self.drain.unwrap_or(leave::GRACE)
    }
}

/// Serves one connection to its end. Dropping the future cuts it.
pub async fn serve<S: Service>(
    io: Io,
    service: Arc<S>,
    connection: Arc<ConnectionInfo>,
    options: H1Options,
    timeouts: Timeouts,
    drain: DrainSignal,
) {
    let conn = Arc::new(Mutex::new(Conn {
        stream: Stream::new(io),
        body: BodyDecoder::length(0),
        received: 0,
        received_all: None,
        is_gone: false,
    }));
    let timer = Box::pin(tokio::time::sleep_until((clock::now() + FAR).into()));
    let mut driver = Driver {
        conn,
        out: Vec::new(),
        service,
        connection,
        options,
        leave: Leave::new(&drain, timeouts.grace()),
        timeouts,
        timer,
        drain,
        idle_since: clock::now(),
        requests: 0,
        stream_idle: None,
        linger: false,
    };
    driver.run().await;
}

/// The connection as shared with the body of the running request.
struct Conn {
    stream: Stream,
    body: BodyDecoder,
    /// Body bytes of the running request, decoded so far.
    received: u64,
    /// When the last of them was.
    received_all: Option<Instant>,
    /// The client has gone before the request's end.
    is_gone: bool,
}

struct Driver<S> {
    conn: Arc<Mutex<Conn>>,
    out: Vec<u8>,
    service: Arc<S>,
    connection: Arc<ConnectionInfo>,
    options: H1Options,
    timeouts: Timeouts,
    /// One timer for the connection's life, moved only when it fires: a request costs it nothing.
    timer: Pin<Box<tokio::time::Sleep>>,
    drain: DrainSignal,
    leave: Leave,
    /// When the last exchange ended.
    idle_since: Instant,
    requests: u32,
    /// Of the running stream: its route may have one of its own.
    stream_idle: Option<Duration>,
    /// We end the connection, and the client may still be sending.
    linger: bool,
}

/// How the wait for a head ended.
enum Next {
    Head(Box<RequestHead>),
    Bad(Failure),
    /// Closed by the peer, idle for too long, or drained.
    Close,
}

impl<S: Service> Driver<S> {
    async fn run(&mut self) {
        loop {
            let next = self.next_head().await;
            let keep = match next {
                Next::Head(head) => boxed(|| self.handle(head)).await,
                Next::Bad(failure) => {
                    Box::pin(self.refuse(failure)).await;
                    false
                }
                Next::Close => false,
            };
            if !keep {
                break;
            }
            give_buffer(std::mem::take(&mut self.out));
        }
        let conn = self.conn.clone();
        poll_fn(|cx| conn.lock().stream.poll_shutdown(cx)).await;
        if let Some(limit) = self.timeouts.delayed_close.filter(|_| self.linger) {
            self.discard(limit).await;
        }
    }

    /// Reads what the client still sends, for a while: closing over unread bytes would reset the connection, and take our answer back
    /// before the client has read it.
    async fn discard(&mut self, limit: Duration) {
        let deadline = clock::now() + limit;
        poll_fn(|cx| {
            let mut conn = self.conn.lock();
            loop {
                match conn.stream.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => conn.stream.read.clear(),
                    Poll::Pending => break,
                }
            }
            drop(conn);
            if poll_deadline(self.timer.as_mut(), Some(deadline), cx) {
                self.service.event(ConnectionEvent::DelayedClose);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// When the connection is as old as it may become.
    fn expiry(&self) -> Option<Instant> {
        self.timeouts.max_age.map(|age| self.connection.accepted_at + age)
    }

    /// Waits for the next request head. Cancel safe: what was read stays in the connection's buffer.
    async fn next_head(&mut self) -> Next {
        let idle_since = self.idle_since;
        let mut head_since: Option<Instant> = None;
        poll_fn(|cx| {
            let mut conn = self.conn.lock();
            loop {
                match parse::request(&mut conn.stream.read, &self.options) {
                    Ok(Some(mut head)) => {
                        let next = match self.options.underscores.apply(head.request.headers_mut()) {
                            Ok(dropped) => {
                                if dropped > 0 {
                                    self.service
                                        .event(ConnectionEvent::HeadersDropped(Protocol::Http11, dropped));
                                }
                                Next::Head(head)
                            }
                            Err(()) => {
                                self.service
                                    .event(ConnectionEvent::UnderscoreRejected(Protocol::Http11));
                                Next::Bad(UNDERSCORE)
                            }
                        };
                        return Poll::Ready(next);
                    }
                    Err(failure) => return Poll::Ready(Next::Bad(failure)),
                    Ok(None) => {}
                }
                match conn.stream.poll_fill(cx) {
                    Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Next::Close),
                    Poll::Ready(Ok(_)) if self.timeouts.request_headers.is_some() => {
                        head_since = head_since.or_else(|| Some(clock::now()));
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            let partial = !conn.stream.read.is_empty();
            if self.leave.poll_over(cx) && !partial {
                return Poll::Ready(Next::Close);
            }
            let mut is_old = false;
            let deadline = match head_since {
                Some(since) if partial => self.timeouts.request_headers.map(|limit| since + limit),
                _ => {
                    let idle = self.timeouts.idle.map(|limit| idle_since + limit);
                    // Nobody uses it: there is no answer that could say that it closes.
                    let grace = match self.requests {
                        0 => Duration::ZERO,
                        _ => self.timeouts.grace(),
                    };
                    let old = self.expiry().map(|expiry| expiry + grace);
                    let sooner = idle.into_iter().chain(self.leave.deadline()).min();
                    is_old = old.is_some_and(|old| sooner.is_none_or(|sooner| old < sooner));
                    sooner.into_iter().chain(old).min()
                }
            };
            drop(conn);
            if !poll_deadline(self.timer.as_mut(), deadline, cx) {
                return Poll::Pending;
            }
            if partial {
                return Poll::Ready(Next::Bad(Failure::RequestHeadersTimeout));
            }
            if is_old {
                self.service.event(ConnectionEvent::MaxDuration);
            } else if self.leave.deadline().is_none() {
                self.service.event(ConnectionEvent::IdleTimeout);
            }
            Poll::Ready(Next::Close)
        })
        .await
    }

    /// Runs one exchange. Says whether the connection can carry another.
    async fn handle(&mut self, head: Box<RequestHead>) -> bool {
        let version = head.request.version();
        let method = head.request.method().clone();
        let upgrade = UpgradeKind::of(&head.request);
        let tunnel = upgrade.is_some() || method == Method::CONNECT;
        let has_body = tunnel || !head.body.is_done();
        let marks;
        {
            let mut conn = self.conn.lock();
            conn.received = 0;
            conn.received_all = None;
            marks = (conn.stream.consumed() - head.wire_bytes as u64, conn.stream.sent);
            conn.body = if tunnel { BodyDecoder::UntilClose } else { head.body };
        }
        let proxies_interim = self.service.proxies_interim();
        let expects = head.expect_continue && !proxies_interim;
        if expects && !self.send_continue(version).await {
            return false;
        }
        let body = if has_body { self.request_body() } else { Body::Empty };
        let protocol = if version == Version::HTTP_10 {
            Protocol::Http10
        } else {
            Protocol::Http11
        };
        let request = head.request.map(|()| body);
        let mut exchange = Exchange::new(request, self.connection.clone(), protocol);
        exchange.upgrade = upgrade;
        if let Some(target) = head.fragment {
            exchange.extensions.insert(TargetWithFragment(target));
        }
        exchange.interim = proxies_interim.then(Arc::default);
        self.requests += 1;
        self.stream_idle = self.timeouts.stream_idle;
        let is_old = self.expiry().is_some_and(|expiry| exchange.started >= expiry);
        if is_old {
            self.service.event(ConnectionEvent::MaxDuration);
        }
        exchange.last_of_connection = self.options.max_requests.is_some_and(|max| self.requests >= max);
        exchange.close_downstream |= is_old || exchange.last_of_connection;
        exchange.bytes.request_headers = head.wire_bytes as u64;
        exchange.bytes.request_lines = head.line_bytes as u64;
        if !has_body {
            exchange.timing.request_end = Some(Duration::ZERO);
        }
        if expects {
            exchange.request.headers_mut().remove(http::header::EXPECT);
        }
        let keep = match self.call(&mut exchange).await {
            Ok(response) => {
                self.stream_idle = exchange.stream_idle.unwrap_or(self.stream_idle);
                let mut reply = Reply {
                    version,
                    is_head: method == Method::HEAD,
                    keep_alive: head.keep_alive,
                    tunnel,
                };
                self.respond(&mut exchange, response, &mut reply).await && reply.keep_alive
            }
            Err(failure) => {
                exchange.response_code = None;
                record_cut(&mut exchange, &failure);
                false
            }
        };
        if exchange.flags.contains(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR) {
            self.service.event(ConnectionEvent::ProtocolError);
        }
        self.account(&mut exchange, marks);
        let end = exchange.elapsed();
        exchange.timing.end = Some(end);
        self.idle_since = exchange.started + end;
        self.service.finish(&mut exchange);
        keep && self.conn.lock().body.is_done()
    }

    /// What the request brought, and what its bytes on the wire were since the `marks`.
    fn account(&self, exchange: &mut Exchange, marks: (u64, u64)) {
        let conn = self.conn.lock();
        exchange.bytes.received = exchange.bytes.received.max(conn.received);
        if let Some(at) = conn.received_all {
            exchange.timing.request_end = Some(at.saturating_duration_since(exchange.started));
        }
        exchange.bytes.wire_received = conn.stream.consumed() - marks.0;
        exchange.bytes.wire_sent = conn.stream.sent - marks.1;
    }

    /// Answers an expectation. Says whether the client still listens.
    async fn send_continue(&mut self, version: Version) -> bool {
        self.service.event(ConnectionEvent::Interim);
        let head: &[u8] = match version {
            Version::HTTP_10 => b"HTTP/1.0 100 Continue\r\n\r\n",
            _ => b"HTTP/1.1 100 Continue\r\n\r\n",
        };
        self.out.extend_from_slice(head);
        self.flush(&mut Body::Empty, None).await.is_ok()
    }

    fn request_body(&self) -> Body {
        Body::H1Request(RequestBody {
            conn: self.conn.clone(),
            limits: self.options.trailers(),
            keep_trailers: self.options.enable_trailers,
            underscores: self.options.underscores,
            ended: false,
        })
    }

    /// Lets the service answer, and watches for the client to go away meanwhile.
    async fn call(&mut self, exchange: &mut Exchange) -> Result<Response, Failure> {
        let service = self.service.clone();
        let started = exchange.started;
        let (mut stream_idle, whole_request) = (self.timeouts.stream_idle, self.timeouts.request);
        let interim = exchange.interim.clone();
        let mut written = 0;
        let mut call = std::pin::pin!(service.call(exchange));
        let response = poll_fn(|cx| {
            let (polled, wish) = wake::lend(|| call.as_mut().poll(cx));
            stream_idle = wish.patience.unwrap_or(stream_idle);
            if let Some((status, headers)) = interim.as_ref().and_then(|interim| interim.take()) {
                service.event(ConnectionEvent::Interim);
                let version = Version::HTTP_11;
                encode::response_head(&mut self.out, version, status, &headers, Framing::None, None);
            }
            let mut conn = self.conn.lock();
            if let Poll::Ready(response) = polled {
                // An answer that is to say so has nobody to go to, and is none.
                return Poll::Ready(if conn.is_gone {
                    Err(Failure::DownstreamDisconnect)
                } else {
                    Ok(response)
                });
            }
            if self.leave.poll_over_when_busy(cx) {
                return Poll::Ready(Err(Failure::DrainOver));
            }
            if self.out.len() > written {
                // Of an error the read side tells.
                let _ = conn.stream.poll_write_all(cx, &self.out, &mut written);
            }
            // Pipelined bytes are kept, up to one read's worth; the next head waits for its turn.
            while conn.body.is_done() && conn.stream.read.len() < MAX_READ {
                match conn.stream.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::DownstreamDisconnect)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            let request_complete = conn.body.is_done();
            let idle = stream_idle.map(|limit| started.max(conn.stream.last_activity.unwrap_or(started)) + limit);
            let whole = whole_request.filter(|_| !request_complete).map(|limit| started + limit);
            drop(conn);
            let failure = if poll_deadline(self.timer.as_mut(), idle, cx) {
                Some(Failure::StreamIdleTimeout { request_complete })
            } else if poll_deadline(self.timer.as_mut(), whole, cx) {
                Some(Failure::RequestTimeout)
            } else {
                None
            };
            if let Some(failure) = failure {
                return match cut::with(failure.clone(), || call.as_mut().poll(cx)) {
                    Poll::Ready(response) => Poll::Ready(Ok(response)),
                    Poll::Pending => Poll::Ready(Err(failure)),
                };
            }
            if poll_deadline(self.timer.as_mut(), wish.at, cx) {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        self.out.drain(..written);
        response
    }
}
