//! The embedder's end of a running client.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::engine::Root;
use crate::stats::Stats;
use crate::store::status::{DumpEntry, Status};
use crate::store::{Reference, Updates};

/// The client no longer runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the xds client has stopped")]
pub struct Stopped;

pub(super) enum Command {
    Follow(oneshot::Sender<Updates>),
    Status(oneshot::Sender<Status>),
    Dump(oneshot::Sender<Vec<DumpEntry>>),
    Pin(Arc<str>, Vec<Reference>),
    Unpin(Arc<str>),
    Root(Root),
    Stop,
}

/// Talks to a running [`Driver`](super::Driver). The client stops when the last clone is dropped.
///
/// # Cancel safety
/// Every method is cancel safe; a cancelled command may or may not be carried out.
#[derive(Clone)]
pub struct ClientHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) stats: Arc<Stats>,
}

impl ClientHandle {
    /// A new follower; its first update is everything published so far.
    ///
    /// # Errors
    /// The client has stopped; that goes for all of these methods.
    pub async fn updates(&self) -> Result<Updates, Stopped> {
        self.ask(Command::Follow).await
    }

    /// The state of every type and stream, for the `/xds` page.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn status(&self) -> Result<Status, Stopped> {
        self.ask(Command::Status).await
    }

    /// Every resource with its bytes, version, time and error, active and warming: what a config dump needs.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn dump(&self) -> Result<Vec<DumpEntry>, Stopped> {
        self.ask(Command::Dump).await
    }

    /// Keeps `references` subscribed for something outside of xDS (a bootstrap cluster or listener). Once the required ones have
    /// arrived or timed out, a change of type [`PINNED`](crate::types::PINNED) with the name `owner` is published. A second call
    /// for the same owner replaces the first.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn pin(&self, owner: impl Into<Arc<str>>, references: Vec<Reference>) -> Result<(), Stopped> {
        self.send(Command::Pin(owner.into(), references)).await
    }

    /// Lets go of what `owner` pinned.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn unpin(&self, owner: impl Into<Arc<str>>) -> Result<(), Stopped> {
        self.send(Command::Unpin(owner.into())).await
    }

    /// Subscribes to everything of a further type.
    ///
    /// # Errors
    /// The client has stopped.
    pub async fn add_root(&self, root: Root) -> Result<(), Stopped> {
        self.send(Command::Root(root)).await
    }

    /// Counters, readable at any time without the client's help.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Ends the client and its streams, and completes when that has happened. What was published stays with its followers.
    pub async fn stop(&self) {
        if self.send(Command::Stop).await.is_ok() {
            self.commands.closed().await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| Stopped)
    }
}
