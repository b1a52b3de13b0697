//! The accept loop: one per socket, on its worker. No error ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};

use super::active::{ActiveListener, Shared};
use super::balance::{Parcel, Placed};
use super::bind::Bound;
use super::connection;
use crate::runtime::drain::{DrainPhase, DrainSignal};
use crate::runtime::io::{Address, Io};
use crate::runtime::spawn::spawn;
use crate::runtime::{clock, worker};

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Accepts until `stop` says to leave; the socket closes with it. Must run on the worker that shall own the connections.
pub async fn run(shared: Arc<Shared>, listener: Arc<ActiveListener>, bound: Bound, mut stop: DrainSignal) {
    let socket = match bound {
        Bound::Tcp(socket) => TcpListener::from_std(socket).map(Socket::Tcp),
        Bound::Unix(socket) => UnixListener::from_std(socket).map(Socket::Unix),
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %listener.name, %error, "cannot watch a listening socket");
            return;
        }
    };
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.reached(DrainPhase::Draining) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((io, local, remote)) => {
                failures = 0;
                // One at a time, as Envoy unless told otherwise.
                listener.stats.listener.connections_accepted_per_socket_event.record(1);
                place(&shared, &listener, io, local, remote);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                failures += 1;
                let pause = backoff(failures);
                tracing::warn!(listener = %listener.name, %error, ?pause, "cannot accept");
                tokio::select! {
                    () = stop.reached(DrainPhase::Draining) => return,
                    () = clock::sleep(pause) => {}
                }
            }
        }
    }
    // Who is connected already, as far as he knows, is not reset with the socket.
    for _ in 0..LAST {
        // Beyond what a task may do in one turn: this is its last.
        let accepted = tokio::task::unconstrained(socket.accept()).now_or_never();
        let Some(Ok((io, local, remote))) = accepted else {
            return;
        };
        place(&shared, &listener, io, local, remote);
    }
}

/// As many are taken from a queue when its socket is to close: more than come meanwhile.
const LAST: usize = 4096;

/// Has the connection served, here or on a less loaded worker; or refuses it, if there are too many.
fn place(shared: &Arc<Shared>, listener: &Arc<ActiveListener>, io: Io, local: Address, remote: Address) {
    let state = listener.state.load();
    let Some(admitted) = shared.limit.admit(state.settings.ignores_connection_limit) else {
        listener.stats.listener.downstream_global_cx_overflow.inc();
        return;
    };
    let Some(listed) = listener.limit.admit(false) else {
        listener.stats.listener.downstream_cx_overflow.inc();
        return;
    };
    let admitted = (admitted, listed);
    let here = worker::index().unwrap_or_default();
    let placed = Placed::new(listener, here, state.settings.balance);
    let (shared, listener, open) = (shared.clone(), listener.clone(), shared.open.clone());
    let workers = shared.workers.upgrade().filter(|_| placed.worker() != here);
    let Some(workers) = workers else {
        // Nobody waits for it; it ends by its peer, its timeouts or its chain's drain.
        drop(spawn("connection", async move {
            connection::serve(shared, listener, io, local, remote).await;
            drop((placed, admitted, open));
        }));
        return;
    };
    match Parcel::pack(io) {
        Ok(parcel) => workers.run(placed.worker(), "connection", move || async move {
            match parcel.unpack() {
                Ok(io) => connection::serve(shared, listener, io, local, remote).await,
                Err(error) => tracing::warn!(%error, "a connection is lost between workers"),
            }
            drop((placed, admitted, open));
        }),
        Err(error) => tracing::warn!(%error, "a connection is lost between workers"),
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<(Io, Address, Address)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                let local = stream.local_addr()?;
                stream.set_nodelay(true)?;
                Ok((Io::Tcp(stream), Address::accepted(local), Address::accepted(remote)))
            }
            Self::Unix(listener) => {
                let (stream, remote) = listener.accept().await?;
                let path = |address: tokio::net::unix::SocketAddr| {
                    let path = address.as_pathname().map(|path| path.to_string_lossy().into_owned());
                    Address::Pipe(path.unwrap_or_default().into())
                };
                let local = path(stream.local_addr()?);
                Ok((Io::Unix(stream), local, path(remote)))
            }
        }
    }
}

/// Errors of the connection that was to be accepted: the next one may be fine.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::Interrupted
    )
}

/// Out of descriptors or memory: 10 ms, doubling to 1 s, with full jitter so that the workers do not come back at once.
fn backoff(failures: u32) -> Duration {
    let ceiling = 10_u64.saturating_mul(1 << failures.min(7)).min(1000);
    Duration::from_millis(fastrand::u64(5..=ceiling))
}
