//! Hot restart: a new process takes over from the one before it, and no connection is refused in between.
//!
//! Each process is an epoch (`--restart-epoch`), counted from 0, and listens for the next one on a unix socket that `--socket-path`,
//! `--base-id` and its epoch name. A child with epoch N, in order: connects to epoch N-1, has it close its admin server, takes its listening
//! sockets one address at a time as it comes to bind them, accepts from them beside its parent, and once it has all that it asked for at start
//! (`LIVE`), has the parent drain. `--parent-shutdown-time-s` later the parent ends, if it has not run out of connections before.
//!
//! The sockets are the same kernel objects in both processes, so what waits in an accept queue waits for whoever accepts first: nothing is lost
//! when the parent stops. All sockets of an address are taken, whatever the number of workers on either side.
//!
//! Which process is started when is not ours to decide: Envoy's `hot-restarter.py` and every supervisor that increments an epoch will do.
//! Roles and order are Envoy's; the wire is ours, so both processes must be Remora.

mod child;
mod link;
mod parent;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

pub use child::Parent;
pub use parent::{Handover, serve};

use crate::cli::Options;
use link::Link;

/// What two processes must share to understand each other: `--hot-restart-version`.
pub const VERSION: &str = "remora.1";

/// Why a process cannot be part of a chain of restarts.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    #[error(
        "no epoch {epoch} to take over from (base id {base_id}): {error}; --skip-hot-restart-on-no-parent starts without"
    )]
    NoParent { epoch: u32, base_id: u32, error: io::Error },
    #[error("the epoch before speaks hot restart version {0}, this one {VERSION}")]
    Version(String),
    #[error("hot restart socket {name}: {error}")]
    Socket { name: String, error: io::Error },
    #[error("--base-id-path: {0}")]
    BaseId(io::Error),
}

/// This process's place in the chain.
pub struct Restart {
    /// Where the next epoch knocks. `None`: another process has that place.
    socket: Option<OwnedFd>,
    parent: Option<Arc<Parent>>,
}

impl Restart {
    /// Takes its place as the options say. `None`: hot restart is off.
    ///
    /// # Errors
    /// The epoch before is not there or not ours to take over from.
    pub fn begin(options: &Options) -> Result<Option<Self>, RestartError> {
        if options.disable_hot_restart {
            return Ok(None);
        }
        let parent = match options.restart_epoch.checked_sub(1) {
            None => None,
            Some(before) => parent(options, before)?,
        };
        let socket = if options.use_dynamic_base_id {
            Some(dynamic_place(options)?)
        } else {
            place(options, options.base_id)?
        };
        Ok(Some(Self { socket, parent }))
    }

    pub fn parent(&self) -> Option<&Arc<Parent>> {
        self.parent.as_ref()
    }

    /// When the first epoch started.
    pub fn first_started_at(&self) -> Option<SystemTime> {
        self.parent.as_ref().map(|parent| parent.first_started_at())
    }

    /// The socket for the next epoch, to [`serve`] on; once.
    pub fn take_socket(&mut self) -> Option<OwnedFd> {
        self.socket.take()
    }
}

fn parent(options: &Options, before: u32) -> Result<Option<Arc<Parent>>, RestartError> {
    let name = socket_name(options, options.base_id, before);
    match Link::connect(&name) {
        Ok(link) => Parent::greet(link).map(|parent| Some(Arc::new(parent))),
        Err(error) if options.skip_hot_restart_on_no_parent => {
            tracing::warn!(%error, epoch = before, "no epoch to take over from: starting without");
            Ok(None)
        }
        Err(error) => Err(RestartError::NoParent {
            epoch: before,
            base_id: options.base_id,
            error,
        }),
    }
}

/// The place of the own epoch. A process that does without (epoch 0 of a base id that another one uses) can run, but not be taken over from.
fn place(options: &Options, base_id: u32) -> Result<Option<OwnedFd>, RestartError> {
    let name = socket_name(options, base_id, options.restart_epoch);
    match link::listen(&name, mode(options)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::warn!(
                base_id,
                epoch = options.restart_epoch,
                "another process has this base id and epoch: no hot restart from here (see --base-id, --disable-hot-restart)"
            );
            Ok(None)
        }
        Err(error) => Err(RestartError::Socket { name, error }),
    }
}

/// A base id that nobody uses, told in `--base-id-path`.
fn dynamic_place(options: &Options) -> Result<OwnedFd, RestartError> {
    loop {
        let base_id = fastrand::u32(..1 << 24);
        let name = socket_name(options, base_id, options.restart_epoch);
        match link::listen(&name, mode(options)) {
            Ok(socket) => {
                if let Some(path) = &options.base_id_path {
                    std::fs::write(path, base_id.to_string()).map_err(RestartError::BaseId)?;
                }
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(RestartError::Socket { name, error }),
        }
    }
}

fn socket_name(options: &Options, base_id: u32, epoch: u32) -> String {
    format!("{}_remora_{base_id}_{epoch}", options.socket_path)
}

/// `--socket-mode`, octal.
fn mode(options: &Options) -> u32 {
    u32::from_str_radix(&options.socket_mode, 8).unwrap_or(0o600)
}

#[cfg(test)]
mod tests;
