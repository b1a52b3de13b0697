//! Messages of gRPC calls: counted when a call is over, and of a long one while it lasts.

use std::sync::Arc;

use crate::filters::http::grpc_call::GrpcCall;
use crate::telemetry::stats::Counter;

/// Where one combination's messages are counted; `None`: dropped by configuration.
#[derive(Clone)]
pub(super) struct Messages {
    pub requests: Option<Arc<Counter>>,
    pub responses: Option<Arc<Counter>>,
}

impl Messages {
    pub fn add(&self, requests: u64, responses: u64) {
        for (counter, by) in [(&self.requests, requests), (&self.responses, responses)] {
            if let Some(counter) = counter {
                counter.add(by);
            }
        }
    }
}

/// What was told of a call so far, by each filter that tells. Lives in the exchange's extensions.
#[derive(Clone)]
pub(super) struct Told(Vec<Of>);

#[derive(Clone)]
struct Of {
    filter: u64,
    messages: Messages,
    requests: u64,
    responses: u64,
}

impl Told {
    /// Nothing yet by `filter`; `others`: what others told.
    pub fn new(filter: u64, messages: Messages, others: Option<Self>) -> Self {
        let mut all = others.map_or_else(Vec::new, |others| others.0);
        all.push(Of {
            filter,
            messages,
            requests: 0,
            responses: 0,
        });
        Self(all)
    }

    pub fn is_of(&self, filter: u64) -> bool {
        self.0.iter().any(|of| of.filter == filter)
    }

    /// Counts what has come since the last time.
    pub fn tell(&mut self, filter: u64, call: &GrpcCall) {
        for of in self.0.iter_mut().filter(|of| of.filter == filter) {
            of.add(call);
            (of.requests, of.responses) = (call.requests(), call.responses());
        }
    }

    /// Counts the rest of a call that is over.
    pub fn finish(&self, filter: u64, call: &GrpcCall) {
        self.0
            .iter()
            .filter(|of| of.filter == filter)
            .for_each(|of| of.add(call));
    }
}

impl Of {
    fn add(&self, call: &GrpcCall) {
        let new = |now: u64, before| now.saturating_sub(before);
        self.messages.add(
            new(call.requests(), self.requests),
            new(call.responses(), self.responses),
        );
    }
}
