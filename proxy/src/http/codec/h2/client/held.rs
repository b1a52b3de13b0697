//! What a stream holds of its connection, and how it ended.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use super::super::wire::Error;
use super::Shared;
use crate::http::failure::Failure;

/// How an upstream stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    Complete,
    /// By us: nobody wanted the rest.
    #[default]
    Cancelled,
    /// The peer reset it.
    Reset,
    /// The peer reset it unseen.
    Refused,
    /// Otherwise: with its connection, or before it began.
    Failed,
}

impl Outcome {
    /// What `error`, which means `failure`, says of its stream.
    pub(in crate::http::codec::h2) fn of(error: Error, failure: &Failure) -> Self {
        match failure {
            Failure::RemoteReset => Self::Reset,
            Failure::RemoteRefused if error.is_reset() => Self::Refused,
            Failure::LocalReset => Self::Cancelled,
            _ => Self::Failed,
        }
    }
}

/// What lives as long as a response body: the stream's place on its connection, and the rest of the request.
pub(in crate::http::codec::h2) struct UpstreamStream {
    pump: Option<JoinHandle<()>>,
    active: Option<ActiveStream>,
}

impl UpstreamStream {
    pub(super) fn new(pump: Option<JoinHandle<()>>, active: ActiveStream) -> Self {
        Self {
            pump,
            active: Some(active),
        }
    }

    pub(in crate::http::codec::h2) fn ends(&mut self, outcome: Outcome) {
        if let Some(active) = &mut self.active {
            active.outcome = outcome;
        }
    }
}

impl Drop for UpstreamStream {
    fn drop(&mut self) {
        // A response that is over, or that nobody wants, needs no more of its request.
        if let Some(pump) = self.pump.take() {
            pump.abort();
        }
        self.active = None;
    }
}

/// A stream's place on its connection.
pub(super) struct ActiveStream {
    shared: Arc<Shared>,
    pub(super) outcome: Outcome,
}

impl ActiveStream {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        if let Some(hooks) = &shared.hooks {
            hooks.stream_began();
        }
        Self {
            shared: shared.clone(),
            outcome: Outcome::default(),
        }
    }
}

impl Drop for ActiveStream {
    fn drop(&mut self) {
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
        if let Some(hooks) = &self.shared.hooks {
            hooks.stream_ended(self.outcome);
        }
    }
}
