//! The parent's side: hands over what the next epoch asks for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;

use super::VERSION;
use super::link::{Link, MAX_DESCRIPTORS, Reply, Request};

/// What a process does for its child. Called on a thread of its own.
pub trait Handover: Send + 'static {
    /// When the first epoch of the chain started.
    fn first_started_at(&self) -> SystemTime;

    /// Closes the admin server's socket, soon.
    fn stop_admin(&self);

    /// The sockets that listen on an address of the configuration; none, if no listener has it.
    fn sockets(&self, listener: &str, address: &str) -> Vec<OwnedFd>;

    /// Stops accepting and asks connections to leave; the process ends when none is left.
    fn drain(&self);

    /// The child will not say any more: with its word, or because it is gone. `drained`: it had us drain, so nobody is left to serve.
    fn end(&self, asked: bool, drained: bool);
}

/// Serves children until one has taken over. Blocks: to be run on a thread of its own.
pub fn serve(socket: &OwnedFd, handover: &impl Handover) {
    loop {
        let link = match Link::accept(socket.as_fd()) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                tracing::warn!(%error, "a stranger wants to take over");
                continue;
            }
            Err(error) => {
                tracing::error!(%error, "no hot restart from here");
                return;
            }
        };
        tracing::warn!("a new epoch is starting");
        let mut drained = false;
        match talk(&link, handover, &mut drained) {
            Ok(true) => return handover.end(true, drained),
            Ok(false) => tracing::warn!(drained, "the new epoch is gone"),
            Err(error) => tracing::error!(%error, drained, "the new epoch cannot be understood"),
        }
        if drained {
            return handover.end(false, true);
        }
        // It gave up before it took over: business as usual.
    }
}

/// Answers one child. True: it asked us to end; false: it left.
fn talk(link: &Link, handover: &impl Handover, drained: &mut bool) -> io::Result<bool> {
    while let Some((request, _)) = link.receive::<Request>()? {
        match request {
            Request::Hello { version } => {
                if version != VERSION {
                    tracing::warn!(version, "the new epoch speaks another version");
                }
                let since = handover.first_started_at().duration_since(SystemTime::UNIX_EPOCH);
                let reply = Reply::Hello {
                    version: VERSION.to_owned(),
                    first_started_at: since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
                };
                link.send(&reply, &[])?;
            }
            Request::StopAdmin => {
                handover.stop_admin();
                link.send(&Reply::Done, &[])?;
            }
            Request::Sockets { listener, address } => {
                let sockets = handover.sockets(&listener, &address);
                let chunks: Vec<&[OwnedFd]> = sockets.chunks(MAX_DESCRIPTORS).collect();
                let count = chunks.len().max(1);
                for index in 0..count {
                    let chunk = chunks.get(index).copied().unwrap_or_default();
                    let descriptors: Vec<_> = chunk.iter().map(AsFd::as_fd).collect();
                    let more = index + 1 < count;
                    link.send(&Reply::Sockets { more }, &descriptors)?;
                }
            }
            Request::Drain => {
                *drained = true;
                handover.drain();
                link.send(&Reply::Done, &[])?;
            }
            Request::Terminate => {
                link.send(&Reply::Done, &[])?;
                return Ok(true);
            }
        }
    }
    Ok(false)
}
