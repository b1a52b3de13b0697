//! Bytes that are no request, or none that is served: answered by the pipeline like any other.

use http::{StatusCode, Version};

use super::Driver;
use super::response::Reply;
use crate::http::codec::unread_request;
use crate::http::exchange::{Exchange, Protocol, Reset};
use crate::http::failure::Failure;
use crate::http::service::{ConnectionEvent, Service};

pub(super) const UNDERSCORE: Failure = Failure::BadRequest {
    details: "http1.unexpected_underscore",
    status: StatusCode::BAD_REQUEST,
};

/// In an exchange's extensions: the head was no valid request; the pipeline answers with this failure and selects no route.
#[derive(Clone, Debug)]
pub struct RefusedHead(pub Failure);

impl<S: Service> Driver<S> {
    /// Answers bytes that are no request. The pipeline sees it too: it is logged and counted like any other.
    pub(super) async fn refuse(&mut self, failure: Failure) {
        if failure != Failure::RequestHeadersTimeout {
            self.service.event(ConnectionEvent::ProtocolError);
        }
        self.linger = true;
        let mut exchange = Exchange::new(unread_request(), self.connection.clone(), Protocol::Http11);
        exchange.extensions.insert(RefusedHead(failure));
        exchange.close_downstream = true;
        exchange.answered_early = true;
        let response = self.service.call(&mut exchange).await;
        let mut reply = Reply {
            version: Version::HTTP_11,
            is_head: false,
            keep_alive: false,
            tunnel: false,
        };
        self.respond(&mut exchange, response, &mut reply).await;
        exchange.timing.end = Some(exchange.elapsed());
        self.service.finish(&mut exchange);
    }
}

/// The stream ended before its time, by this.
pub(super) fn record_cut(exchange: &mut Exchange, failure: &Failure) {
    let row = failure.row();
    exchange.flags.set(row.flags);
    exchange.reset = Some(Reset::of(failure));
    exchange.details = failure.details_after_start().into();
}
