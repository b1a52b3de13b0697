//! Upstream connections: a handle that many requests share, and the task that moves its frames.

mod driver;
mod held;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use http::header::UPGRADE;
use http::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::bell::{Bell, Rope};
use super::body::{RecvBody, upstream_failure};
use super::headers;
use super::keepalive::{Keepalive, Timer};
use super::options::H2Options;
use super::pump::{Pump, PumpError};
use super::wire::{Connection, Message, Reason, RecvStream, ResponseFuture, SendRequest};
use crate::http::body::{Body, BodyError};
use crate::http::codec::{Interim, InterimStatus, SendError};
use crate::http::failure::Failure;
use crate::http::upgrade::{self, Translated};
use crate::runtime::io::Io;
use crate::runtime::spawn::spawn;
use driver::{Driver, Line};
use held::ActiveStream;
pub use held::Outcome;
pub(super) use held::UpstreamStream;

/// A pooled upstream connection. Clones share it; when the last one and the last stream are gone, it closes.
#[derive(Clone)]
pub struct ClientConnection {
    sender: SendRequest,
    shared: Arc<Shared>,
}

/// What a pool wants to hear. Called on the worker's thread, never with a lock held.
pub trait ClientHooks: Send + Sync + 'static {
    /// A stream takes its place on the connection.
    fn stream_began(&self) {}

    /// The peer did not answer a ping: the connection is given up.
    fn ping_unanswered(&self) {}

    /// A stream is over: there may be room for another.
    fn stream_ended(&self, outcome: Outcome) {
        let _ = outcome;
    }

    /// The connection has taken as many requests as it may.
    fn worn_out(&self) {}

    /// The connection is over, for this reason; `None`: as it should be.
    fn closed(&self, failure: Option<Failure>) {
        let _ = failure;
    }
}

struct Shared {
    options: H2Options,
    /// Those that have a place.
    streams: AtomicU32,
    /// Streams opened so far.
    opened: AtomicU32,
    /// No new streams: GOAWAY, closed, or closing.
    unavailable: AtomicBool,
    /// Set to cut the connection.
    cut: AtomicBool,
    driver: AtomicWaker,
    /// Told when the peer's SETTINGS are there, or will never be.
    settled: Notify,
    hooks: Option<Arc<dyn ClientHooks>>,
    /// Rung when the peer has said something that nobody has read.
    rope: Arc<Rope>,
    /// Gone with the task.
    line: Mutex<Option<Line>>,
}

impl ClientConnection {
    /// Sends the preface and starts the connection's task; see [`Self::handshake_with`].
    ///
    /// # Errors
    ///
    /// When the connection fails at once.
    pub async fn handshake(io: Io, options: &H2Options) -> Result<Self, Failure> {
        Self::handshake_with(io, options, None).await
    }

    /// As [`Self::handshake`], with somebody to tell what happens. Does not wait for the peer's SETTINGS.
    ///
    /// # Errors
    ///
    /// When the connection fails at once.
    pub async fn handshake_with(
        io: Io,
        options: &H2Options,
        hooks: Option<Arc<dyn ClientHooks>>,
    ) -> Result<Self, Failure> {
        let bell = Bell::new();
        let rope = bell.rope();
        let (sender, connection) = Connection::client(io, options, bell);
        let keepalive = options
            .keepalive
            .map(|keepalive| Keepalive::new(connection.ping(), keepalive));
        let shared = Arc::new(Shared {
            options: options.clone(),
            streams: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            unavailable: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            driver: AtomicWaker::new(),
            settled: Notify::new(),
            hooks,
            rope,
            line: Mutex::new(Some(Line::new(connection))),
        });
        let driver = Driver {
            keepalive,
            max_age: options.max_connection_duration.map(Timer::after),
            settled: false,
            shared: shared.clone(),
        };
        spawn("http2 upstream", driver);
        Ok(Self { sender, shared })
    }

    /// Whether it still takes streams: false after a GOAWAY, when it is too old, closing or closed, as far as the socket can tell.
    pub fn is_available(&self) -> bool {
        self.shared.hear();
        if self.shared.unavailable.load(Ordering::Relaxed) {
            return false;
        }
        let takes_streams = self.sender.takes_streams();
        if !takes_streams {
            self.retire();
        }
        takes_streams
    }

    /// Whether the peer has said GOAWAY.
    pub fn was_asked_to_leave(&self) -> bool {
        self.sender.was_asked_to_leave()
    }

    /// Whether one more stream fits in the peer's limit and ours. Cheap: does not look for a GOAWAY, which [`Self::send`] reports with the request.
    pub fn can_take_stream(&self) -> bool {
        self.active_streams() < self.max_streams()
    }

    /// Streams that fit in the peer's limit and ours; 0 once it takes none.
    pub fn max_streams(&self) -> u32 {
        if self.shared.unavailable.load(Ordering::Relaxed) {
            return 0;
        }
        // Until its SETTINGS come ours holds, as Envoy does.
        let peer = self.sender.max_streams().unwrap_or(u32::MAX);
        peer.min(self.shared.options.max_concurrent_streams)
    }

    pub fn active_streams(&self) -> u32 {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// The last stream that `max_requests_per_connection` allows is the last that the connection takes.
    fn count_opened(&self) {
        let Some(limit) = self.shared.options.max_requests_per_connection else {
            return;
        };
        if self.shared.opened.fetch_add(1, Ordering::Relaxed) + 1 == limit {
            self.retire();
            if let Some(hooks) = &self.shared.hooks {
                hooks.worn_out();
            }
        }
    }

    /// Takes no more streams; closes when those that run have ended and the handles are dropped.
    pub fn retire(&self) {
        self.shared.unavailable.store(true, Ordering::Relaxed);
    }

    /// Cuts the connection with all its streams.
    pub fn close(&self) {
        self.retire();
        self.shared.cut.store(true, Ordering::Relaxed);
        self.shared.driver.wake();
    }

    /// Sends a request and waits for the response's head. Until then the request body is sent by this future; what is left of it then (a
    /// bidirectional stream) by a task that lives as long as the response body.
    ///
    /// An upgrade in HTTP/1's form goes as extended CONNECT and is answered in HTTP/1's form again.
    ///
    /// # Errors
    ///
    /// When no response arrived; the request is given back if nothing of it was sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future resets the stream (CANCEL).
    pub async fn send(&self, request: Request<Body>, sink: Option<&Interim>) -> Result<Response<Body>, SendError> {
        if request.headers().contains_key(UPGRADE) {
            self.settled().await;
        }
        let mut waiting = self.start(request)?;
        let mut interim = None;
        let (message, stream, pump) = poll_fn(|cx| waiting.poll(cx, sink, &mut interim)).await?;
        let (mut head, ()) = message.head.into_parts();
        if let Some(status) = interim {
            head.extensions.insert(InterimStatus(status));
        }
        if let Some(details) = message.over {
            return Err(lost(Failure::ProtocolError(details)));
        }
        if let Some(translated) = &waiting.translated {
            upgrade::from_extended_connect_response(translated, &mut head);
        }
        if stream.is_end_stream() {
            waiting.active.outcome = Outcome::Complete;
            return Ok(Response::from_parts(head, Body::Empty));
        }
        let length = headers::content_length(&head.headers).filter(|_| !waiting.head_only);
        let pump = pump.map(|pump| spawn("http2 request body", finish_pump(pump)));
        let upstream = UpstreamStream::new(pump, waiting.active);
        let body = RecvBody::upstream(stream, length, upstream);
        Ok(Response::from_parts(head, Body::H2(Box::new(body))))
    }

    /// Waits for the peer's SETTINGS, without which nobody knows whether it takes extended CONNECT.
    pub async fn settled(&self) {
        let mut settled = pin!(self.shared.settled.notified());
        settled.as_mut().enable();
        let unsettled = self.sender.max_streams().is_none();
        if unsettled && !self.shared.unavailable.load(Ordering::Relaxed) {
            settled.await;
        }
    }

    fn start(&self, request: Request<Body>) -> Result<Waiting, SendError> {
        if !self.is_available() {
            return Err(SendError {
                failure: Failure::RemoteRefused,
                body: Some(request.into_body()),
            });
        }
        let (mut head, body) = request.into_parts();
        let translated = upgrade::to_extended_connect(&mut head);
        if translated.is_some() && !self.sender.takes_connect() {
            return Err(lost(Failure::UpgradeFailed));
        }
        headers::to_h2_request(&mut head).map_err(lost)?;
        let head_only = head.method == Method::HEAD;
        let end = body.is_empty();
        let (response, stream) = match self.sender.send_request(&head, end) {
            Ok(stream) => stream,
            Err(error) => {
                return Err(SendError {
                    failure: upstream_failure(error),
                    body: Some(body),
                });
            }
        };
        self.count_opened();
        let replay = match &body {
            Body::Empty => Some(Body::Empty),
            Body::Full(bytes) => Some(Body::Full(bytes.clone())),
            _ => None,
        };
        let pump = (!end).then(|| Pump::new(stream, body));
        Ok(Waiting {
            response,
            pump,
            replay,
            active: ActiveStream::new(&self.shared),
            translated,
            head_only,
        })
    }
}

fn lost(failure: Failure) -> SendError {
    SendError { failure, body: None }
}

/// A request whose response has not begun.
struct Waiting {
    response: ResponseFuture,
    pump: Option<Pump>,
    /// The body, where all of it is still there.
    replay: Option<Body>,
    active: ActiveStream,
    translated: Option<Translated>,
    head_only: bool,
}

impl Waiting {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sink: Option<&Interim>,
        interim: &mut Option<StatusCode>,
    ) -> Poll<Result<(Message<Response<()>>, RecvStream, Option<Pump>), SendError>> {
        if let Some(pump) = &mut self.pump
            && let Poll::Ready(done) = pump.poll(cx)
        {
            if let Err(PumpError::Body(error)) = done {
                pump.reset(Reason::CANCEL);
                let failure = match error {
                    BodyError::Failed(failure) => failure,
                    BodyError::Other(_) => Failure::LocalReset,
                };
                return Poll::Ready(Err(lost(failure)));
            }
            // Of a reset or a lost connection the response tells, and it may be there in full.
            self.pump = None;
        }
        if let Some(head) = self.response.take_interim() {
            let (status, headers) = *head;
            interim.get_or_insert(status);
            if let Some(sink) = sink {
                sink.put(status, headers);
            }
        }
        match self.response.poll(cx) {
            Poll::Ready(Ok((message, stream))) => Poll::Ready(Ok((message, stream, self.pump.take()))),
            Poll::Ready(Err(error)) => {
                let failure = upstream_failure(error);
                self.active.outcome = Outcome::of(error, &failure);
                // A reset is an answer to this request. The end of the connection is none, where not even an interim response has come.
                let body = self.replay.take().filter(|_| !error.is_reset() && interim.is_none());
                Poll::Ready(Err(SendError { failure, body }))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Sends the rest of a request body while the response goes its own way.
async fn finish_pump(mut pump: Pump) {
    if let Err(PumpError::Body(_)) = poll_fn(|cx| pump.poll(cx)).await {
        pump.reset(Reason::CANCEL);
    }
}
