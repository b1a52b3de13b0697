//! Any `tower::Layer` as a stage of the filter list.
//!
//! The layer's service is built once; its inner service is [`Next`]. A request carries a slot through the layer in its extensions: when the layer
//! calls `Next`, the request comes out of the slot, runs through the rest of the chain, and its response goes back in.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tower::{BoxError, Layer, Service, ServiceExt};

use super::{Chain, NextFuture};
use crate::http::body::Body;
use crate::http::exchange::Exchange;
use crate::http::failure::Failure;
use crate::http::service::Response;

type Request = http::Request<Body>;
type BoxService = tower::util::BoxCloneSyncService<Request, Response, BoxError>;

/// A layer's service, ready to be cloned for each request.
pub struct TowerStage {
    service: BoxService,
}

impl TowerStage {
    /// Builds the layer's service around the rest of the chain.
    pub fn new<L>(layer: &L) -> Self
    where
        L: Layer<Next>,
        L::Service: Service<Request, Response = Response> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Error: Into<BoxError>,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        Self {
            service: BoxService::new(layer.layer(Next).map_err(Into::into)),
        }
    }

    /// Runs the layer around the stages of `chain` from `from` on.
    ///
    /// # Errors
    /// What the rest of the chain failed with, if the layer passed that on; [`Failure::LocalReset`] for an error of its own.
    pub async fn call<'a>(
        &self,
        exchange: &'a mut Exchange,
        chain: &'a dyn Chain,
        from: usize,
    ) -> Result<Response, Failure> {
        let slot = Slot::default();
        let mut request = std::mem::replace(&mut exchange.request, Request::new(Body::Empty));
        // What the log reads if the layer answers by itself.
        *exchange.request.method_mut() = request.method().clone();
        *exchange.request.uri_mut() = request.uri().clone();
        *exchange.request.headers_mut() = request.headers().clone();
        request.extensions_mut().insert(slot.clone());
        let mut call = Box::pin(self.service.clone().oneshot(request));
        let mut exchange = Some(exchange);
        let mut rest: Option<NextFuture<'a>> = None;
        let outcome = poll_fn(|cx| {
            loop {
                if let Poll::Ready(outcome) = call.as_mut().poll(cx) {
                    return Poll::Ready(outcome);
                }
                if let Some(request) = slot.take_request(cx)
                    && let Some(exchange) = exchange.take()
                {
                    exchange.request = request;
                    rest = Some(chain.run(from, exchange));
                }
                let Some(running) = &mut rest else { return Poll::Pending };
                let response = std::task::ready!(running.as_mut().poll(cx));
                rest = None;
                slot.put_response(response);
            }
        })
        .await;
        outcome.map_err(|error| match error.downcast::<Failed>() {
            Ok(failed) => failed.0,
            Err(_) => Failure::LocalReset,
        })
    }
}

/// The rest of the chain, as a layer sees it. It can be called once per request: a request has one body.
#[derive(Clone, Copy, Debug)]
pub struct Next;

impl Service<Request> for Next {
    type Response = Response;
    type Error = BoxError;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Some(slot) = request.extensions_mut().remove::<Slot>() else {
            return Box::pin(async { Err("the request lost its extensions in a layer".into()) });
        };
        slot.put_request(request);
        Box::pin(poll_fn(move |cx| slot.poll_response(cx)))
    }
}

/// A failure on its way through a layer's error type.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.details())]
struct Failed(Failure);

#[derive(Clone, Default)]
struct Slot(Arc<Mutex<SlotState>>);

#[derive(Default)]
struct SlotState {
    request: Option<Request>,
    response: Option<Result<Response, Failure>>,
    chain: Option<Waker>,
    layer: Option<Waker>,
}

impl Slot {
    fn take_request(&self, cx: &Context<'_>) -> Option<Request> {
        let mut state = self.0.lock();
        state.chain = Some(cx.waker().clone());
        state.request.take()
    }

    fn put_request(&self, request: Request) {
        let mut state = self.0.lock();
        state.request = Some(request);
        if let Some(waker) = state.chain.take() {
            waker.wake();
        }
    }

    fn put_response(&self, response: Result<Response, Failure>) {
        let mut state = self.0.lock();
        state.response = Some(response);
        if let Some(waker) = state.layer.take() {
            waker.wake();
        }
    }

    fn poll_response(&self, cx: &Context<'_>) -> Poll<Result<Response, BoxError>> {
        let mut state = self.0.lock();
        match state.response.take() {
            Some(response) => Poll::Ready(response.map_err(|failure| Failed(failure).into())),
            None => {
                state.layer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
