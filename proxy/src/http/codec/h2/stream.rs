//! The task of a downstream stream: request in, response out, and what ended it.

use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{COOKIE, EXPECT, HOST, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};

use super::body::{Meter, RecvBody, downstream_failure};
use super::headers;
use super::patience::{self, Patience, Progress};
use super::pump::{Pump, PumpError};
use super::server::{ActiveStream, Cut, tell};
use super::wire::{Error, Incoming, Reason, RecvStream, SendResponse};
use crate::http::access_log;
use crate::http::body::{Body, BodyError};
use crate::http::cut;
use crate::http::exchange::{Exchange, Protocol, Reset};
use crate::http::failure::Failure;
use crate::http::header_policy::path::TargetWithFragment;
use crate::http::service::{ConnectionEvent, Service};
use crate::http::upgrade::{self, Translated, UpgradeKind};
use crate::listener::ConnectionInfo;
use crate::runtime::{clock, wake};
use crate::telemetry::flags::ResponseFlags;

/// A reset for a protocol error.
const BROKE_RULES: Failure = Failure::BadRequest {
    details: "http2.remote_reset",
    status: StatusCode::BAD_REQUEST,
};

const UNDERSCORE: &str = "http2.unexpected_underscore";

/// Runs one stream to its end, recorded by [`Service::finish`].
pub(super) async fn run<S: Service>(
    service: Arc<S>,
    connection: Arc<ConnectionInfo>,
    active: ActiveStream,
    incoming: Incoming,
) {
    let Incoming {
        message,
        body,
        mut respond,
    } = incoming;
    let (mut request, size) = (message.head, message.size);
    let mut refused = message.over;
    match active.options().underscores.apply(request.headers_mut()) {
        Ok(0) => {}
        Ok(dropped) => service.event(ConnectionEvent::HeadersDropped(Protocol::Http2, dropped)),
        Err(()) => {
            service.event(ConnectionEvent::UnderscoreRejected(Protocol::Http2));
            refused = Some(UNDERSCORE);
        }
    }
    if let Some(details) = refused {
        if details != UNDERSCORE {
            service.event(ConnectionEvent::HeaderOverflow);
        }
        // As Envoy: the stream is reset, and logged as a reset of which nothing was read.
        respond.send_reset(Reason::INTERNAL_ERROR);
        return tell(&*service, &connection, ResponseFlags::DOWNSTREAM_REMOTE_RESET, details);
    }
    let pseudo = headers::pseudo_bytes(request.method(), request.uri());
    let (request, received) = receive(request, body);
    let mut exchange = Exchange::new(request, connection, Protocol::Http2);
    if let Some(target) = exchange.request.extensions_mut().remove::<TargetWithFragment>() {
        exchange.extensions.insert(target);
    }
    exchange.bytes.request_lines = (size + pseudo) as u64;
    exchange.upgrade = received.upgrade;
    exchange.authority = authority(&exchange.request);
    exchange.interim = service.proxies_interim().then(Arc::default);
    if !service.proxies_interim() && exchange.headers().contains_key(EXPECT) {
        answer_expectation(&*service, &mut exchange, &mut respond);
    }
    let sender = Sender {
        head_only: exchange.request.method() == Method::HEAD,
        translated: received.translated,
        meter: received.meter.clone(),
        stream_idle: active.options().stream_idle,
        request_timeout: active.options().request_timeout,
        patience: Patience::default(),
        respond,
    };
    let end = sender.answer(&*service, &mut exchange).await;
    if let Err(end) = end {
        ended(&*service, &active, &mut exchange, &end);
    }
    if let Some(meter) = &received.meter {
        exchange.bytes.received = meter.bytes();
        exchange.timing.request_end = meter.ended();
    } else {
        exchange.timing.request_end.get_or_insert_default();
    }
    exchange.timing.end = Some(exchange.elapsed());
    service.finish(&mut exchange);
}

/// What is remembered of a request while it travels.
struct Received {
    meter: Option<Arc<Meter>>,
    upgrade: Option<UpgradeKind>,
    translated: Option<Translated>,
}

fn receive(request: Request<()>, stream: RecvStream) -> (Request<Body>, Received) {
    let (mut head, ()) = request.into_parts();
    let upgrade = UpgradeKind::of_head(&head);
    let translated = upgrade.as_ref().and_then(|_| upgrade::from_extended_connect(&mut head));
    if head.uri.authority().is_some() {
        head.headers.remove(HOST);
    }
    if head.headers.contains_key(COOKIE) {
        headers::join_cookies(&mut head.headers);
    }
    head.version = Version::HTTP_2;
    let (body, meter) = if stream.is_end_stream() {
        (Body::Empty, None)
    } else {
        let meter = Meter::new();
        let length = headers::content_length(&head.headers);
        let body = RecvBody::downstream(stream, length, meter.clone());
        (Body::H2(Box::new(body)), Some(meter))
    };
    let received = Received {
        meter,
        upgrade,
        translated,
    };
    (Request::from_parts(head, body), received)
}

fn authority(request: &Request<Body>) -> Option<HeaderValue> {
    match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(HOST).cloned(),
    }
}

/// `expect: 100-continue` is answered here, and goes no further.
fn answer_expectation<S: Service>(service: &S, exchange: &mut Exchange, respond: &mut SendResponse) {
    let headers = exchange.request.headers_mut();
    let expects = headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expects {
        headers.remove(EXPECT);
        send_interim(service, respond, StatusCode::CONTINUE, HeaderMap::new());
    }
}

fn send_interim<S: Service>(service: &S, respond: &mut SendResponse, status: StatusCode, headers: HeaderMap) {
    let mut headers = headers;
    headers::strip_hop_by_hop(&mut headers);
    // A stream that is gone says so elsewhere.
    if respond.send_informational(status, &headers).is_ok() {
        service.event(ConnectionEvent::Interim);
    }
}

/// Writes down why a stream ended before its response did, or why its connection had to.
fn ended<S: Service>(service: &S, active: &ActiveStream, exchange: &mut Exchange, end: &Failure) {
    let gone = matches!(end, Failure::DownstreamReset | Failure::DownstreamDisconnect);
    match active.cut() {
        Some(Cut::Local) if gone => {
            record(exchange, &Failure::DownstreamDisconnect);
            exchange.details = Cow::Borrowed("downstream_local_disconnect");
        }
        Some(Cut::Broken(details)) if gone || matches!(end, Failure::BadRequest { .. }) => {
            if exchange.response_code.is_none() {
                // What an answer that nobody got said is not what ended the stream.
                exchange.flags = ResponseFlags::default();
            }
            exchange.flags.set(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
            exchange.reset = Some(Reset::ByClient);
            exchange.details = Cow::Borrowed(details);
        }
        _ => {
            record(exchange, end);
            if *end == Failure::DownstreamReset || *end == BROKE_RULES {
                service.event(ConnectionEvent::StreamReset);
                active.count_reset();
            }
        }
    }
}

fn record(exchange: &mut Exchange, failure: &Failure) {
    let row = failure.row();
    exchange.flags.set(row.flags);
    exchange.reset = Some(Reset::of(failure));
    exchange.details = Cow::Borrowed(failure.details_after_start());
}

/// The way back to the client.
struct Sender {
    respond: SendResponse,
    /// Tells whether the request has ended; `None`: it had no body.
    meter: Option<Arc<Meter>>,
    stream_idle: Option<Duration>,
    request_timeout: Option<Duration>,
    patience: Patience,
    /// The answer to HEAD has no body, whatever the service says.
    head_only: bool,
    translated: Option<Translated>,
}

impl Sender {
    async fn answer<S: Service>(mut self, service: &S, exchange: &mut Exchange) -> Result<(), Failure> {
        let response = {
            let interim = exchange.interim.clone();
            let started = exchange.started;
            let mut call = pin!(service.call(exchange));
            // The response first: a reset that comes with it changes nothing any more. A reset drops the call, which cancels the request.
            poll_fn(|cx| {
                let (polled, wish) = wake::lend(|| call.as_mut().poll(cx));
                self.stream_idle = wish.patience.unwrap_or(self.stream_idle);
                if let Some((status, headers)) = interim.as_ref().and_then(|interim| interim.take()) {
                    send_interim(service, &mut self.respond, status, headers);
                }
                if let Poll::Ready(response) = polled {
                    return Poll::Ready(Ok(response));
                }
                if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
                    return Poll::Ready(Err(gone(reset)));
                }
                let limit = self.limit(started);
                let deadline = limit.as_ref().map(|(at, _)| *at).into_iter().chain(wish.at).min();
                if !deadline.is_some_and(|deadline| self.patience.is_over(deadline, cx)) {
                    return Poll::Pending;
                }
                match limit.filter(|(at, _)| *at <= clock::now()) {
                    Some((_, failure)) => match cut::with(failure.clone(), || call.as_mut().poll(cx)) {
                        Poll::Ready(response) => Poll::Ready(Ok(response)),
                        Poll::Pending => Poll::Ready(Err(failure)),
                    },
                    None => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                }
            })
            .await?
        };
        exchange.response_code = Some(response.status());
        if exchange.upgrade.is_some()
            && (response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS)
        {
            service.established(exchange);
        }
        self.send(response, exchange).await
    }

    /// When the wait for a response ends, and what that is.
    fn limit(&self, started: Instant) -> Option<(Instant, Failure)> {
        let request_complete = self.request_over();
        let moved = self.meter.as_ref().map_or(started, |meter| meter.last_moved());
        let idle =
            patience::after(moved, self.stream_idle).map(|at| (at, Failure::StreamIdleTimeout { request_complete }));
        let whole = patience::after(started, self.request_timeout.filter(|_| !request_complete))
            .map(|at| (at, Failure::RequestTimeout));
        idle.into_iter().chain(whole).min_by_key(|(at, _)| *at)
    }

    fn request_over(&self) -> bool {
        is_over(self.meter.as_deref())
    }

    async fn send(mut self, response: Response<Body>, exchange: &mut Exchange) -> Result<(), Failure> {
        let (mut head, mut body) = response.into_parts();
        if let Some(translated) = &self.translated {
            upgrade::to_extended_connect_response(translated, &mut head);
        }
        headers::strip_hop_by_hop(&mut head.headers);
        if self.head_only {
            body = Body::Empty;
        }
        exchange.timing.first_downstream_tx = Some(exchange.elapsed());
        exchange.answered_early = !self.request_over();
        let end = body.is_empty();
        if let Err(error) = self.respond.send_response(head.status, &head.headers, end) {
            // The client has seen no code, and no headers.
            exchange.response_code = None;
            exchange.logged_response = None;
            return Err(gone(error));
        }
        if end {
            exchange.upstream.body_ends();
            return Ok(());
        }
        let stream = self.respond.into_stream();
        let meter = self.meter;
        let mut pump = Pump::new(stream, body)
            .keeping_trailers(exchange.logged_response.is_some())
            .metering(exchange.upstream.meter.as_ref());
        let mut progress = Progress::new();
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = pump.poll(cx) {
                return Poll::Ready(sent);
            }
            let moved = meter.as_ref().map(|meter| meter.last_moved());
            let since = progress.since(pump.sent()).max(moved.unwrap_or(exchange.started));
            exchange.bytes.sent = pump.sent();
            let line = access_log::write_due(exchange);
            let idle = patience::after(since, self.stream_idle);
            let Some(deadline) = line.into_iter().chain(idle).min() else {
                return Poll::Pending;
            };
            if !self.patience.is_over(deadline, cx) {
                return Poll::Pending;
            }
            if idle != Some(deadline) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let request_complete = is_over(meter.as_deref());
            let failure = Failure::StreamIdleTimeout { request_complete };
            Poll::Ready(Err(PumpError::Body(BodyError::Failed(failure))))
        })
        .await;
        exchange.bytes.sent = pump.sent();
        exchange.logged_trailers = pump.trailers.take();
        sent.map_err(|error| unsent(&mut pump, error))
    }
}

/// Whether a request has ended; `None`: it had no body.
fn is_over(meter: Option<&Meter>) -> bool {
    meter.is_none_or(|meter| meter.ended().is_some())
}

/// What it means for a stream that its body was not sent in full.
fn unsent(pump: &mut Pump, error: PumpError) -> Failure {
    match error {
        PumpError::Stream(error) => gone(error),
        PumpError::Body(error) => {
            pump.reset(Reason::INTERNAL_ERROR);
            match error {
                BodyError::Failed(failure) => failure,
                BodyError::Other(_) => Failure::LocalReset,
            }
        }
    }
}

fn gone(error: Error) -> Failure {
    match error.reason() {
        // By the client, or by the codec for a body or trailers that break the rules.
        Some(Reason::PROTOCOL_ERROR) => BROKE_RULES,
        Some(_) => Failure::DownstreamReset,
        None => downstream_failure(error),
    }
}
