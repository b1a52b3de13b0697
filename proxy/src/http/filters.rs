//! The filter stage: drives the chain's list of filters around the router.

mod body;
mod tower_stage;

use std::pin::Pin;
use std::sync::Arc;

use tower::Layer;

pub use tower_stage::{Next, TowerStage};

use super::exchange::Exchange;
use super::failure::Failure;
use super::respond;
use super::select_route;
use super::service::{Response, TryService};
use crate::filters::http::per_route::filters_off;
use crate::filters::http::{FilterList, Flow, Stage};
use crate::runtime::boxed::boxed;

pub struct FiltersLayer {
    filters: Arc<FilterList>,
}

impl FiltersLayer {
    pub fn new(filters: &Arc<FilterList>) -> Self {
        Self {
            filters: filters.clone(),
        }
    }
}

impl<S> Layer<S> for FiltersLayer {
    type Service = Filtered<S>;

    fn layer(&self, inner: S) -> Filtered<S> {
        Filtered {
            filters: self.filters.clone(),
            inner,
        }
    }
}

/// See the module.
pub struct Filtered<S> {
    filters: Arc<FilterList>,
    inner: S,
}

impl<S: TryService> TryService for Filtered<S> {
    async fn try_call(&self, exchange: &mut Exchange) -> Result<Response, Failure> {
        if self.filters.is_empty() {
            return self.inner.try_call(exchange).await;
        }
        exchange.filters_off = filters_off(exchange, &self.filters);
        self.through(0, exchange).await
    }

    fn finish(&self, exchange: &mut Exchange) {
        self.inner.finish(exchange);
        for (index, stage) in self.filters.stages().iter().enumerate().rev() {
            if let Stage::Filter(filter) = stage
                && exchange.filters_off & FilterList::bit(index) == 0
            {
                filter.log(exchange);
            }
        }
    }
}

/// A chain whose rest can be run from inside a tower layer.
pub trait Chain: Send + Sync {
    /// The stages from `from` on, then the router, then back through the same stages.
    fn run<'a>(&'a self, from: usize, exchange: &'a mut Exchange) -> NextFuture<'a>;
}

impl<S: TryService> Chain for Filtered<S> {
    fn run<'a>(&'a self, from: usize, exchange: &'a mut Exchange) -> NextFuture<'a> {
        boxed(|| self.through(from, exchange))
    }
}

impl<S: TryService> Filtered<S> {
    async fn through(&self, from: usize, exchange: &mut Exchange) -> Result<Response, Failure> {
        let stages = &self.filters.stages()[from..];
        let (passed, answer) = self.toward(from, exchange).await;
        let mut response = match answer {
            Ok(response) => response,
            // Filters see the answers to failures too, as in Envoy; a tower layer around them sees the failure itself.
            Err(failure) if from == 0 && passed > 0 && failure.is_answered() => respond::respond(exchange, &failure),
            Err(failure) => return Err(failure),
        };
        for (index, stage) in stages[..passed].iter().enumerate().rev() {
            if let Stage::Filter(filter) = stage
                && exchange.filters_off & FilterList::bit(from + index) == 0
            {
                let flow = filter.response_headers(exchange, &mut response);
                if let Some(replacement) = settle(flow, exchange).await {
                    response = replacement;
                }
            }
        }
        if self.filters.phases().response_body && from == 0 {
            body::filter_response(&self.filters, exchange, &mut response);
        }
        Ok(response)
    }

    /// Through the request phases to whatever answers; with how many stages saw the request themselves.
    async fn toward(&self, from: usize, exchange: &mut Exchange) -> (usize, Result<Response, Failure>) {
        let stages = &self.filters.stages()[from..];
        for (index, stage) in stages.iter().enumerate() {
            if exchange.filters_off & FilterList::bit(from + index) != 0 {
                continue;
            }
            select_route::select_again(exchange);
            match stage {
                Stage::Filter(filter) => {
                    let flow = filter.request_headers(exchange);
                    if let Some(response) = settle(flow, exchange).await {
                        return (index + 1, Ok(response));
                    }
                }
                Stage::Tower(tower) => return (index, tower.call(exchange, self, from + index + 1).await),
            }
        }
        (stages.len(), self.route(exchange).await)
    }

    async fn route(&self, exchange: &mut Exchange) -> Result<Response, Failure> {
        select_route::select_again(exchange);
        if self.filters.phases().request_body {
            body::filter_request(&self.filters, exchange);
        }
        self.inner.try_call(exchange).await
    }
}

/// The rest of the chain, as a tower stage runs it.
pub type NextFuture<'a> = Pin<Box<dyn Future<Output = Result<Response, Failure>> + Send + 'a>>;

/// Waits as long as the filter wants. `Some`: it answered.
async fn settle(mut flow: Flow, exchange: &mut Exchange) -> Option<Response> {
    loop {
        match flow {
            Flow::Continue => return None,
            Flow::Respond(response) => return Some(*response),
            Flow::Wait(future) => flow = future.await,
            Flow::Then(go_on) => flow = go_on(exchange),
        }
    }
}
