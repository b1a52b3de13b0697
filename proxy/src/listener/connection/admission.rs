//! What the network filters say of a new connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::journal;
use crate::filters::network::{Closing, Verdict};
use crate::listener::ConnectionInfo;
use crate::listener::active::ListenerState;
use crate::listener::chain_match::{FilterChain, Terminal};
use crate::runtime::clock;
use crate::runtime::io::{Account, Io};

/// Bounds what a client can make us read of a connection that is closed anyway.
const MOST_READS: usize = 64;

/// Why a handshake came to nothing.
pub(super) enum Unshaken {
    /// `transport_socket_connect_timeout`
    TooSlow,
    /// The peer is gone.
    Gone,
    /// Envoy's reason.
    Failed(String),
}

/// Has a connection counted and logged whose handshake has failed. Network filters that come before the last hear nothing of it.
pub(super) fn unshaken(
    chain: &FilterChain,
    state: &ListenerState,
    connection: Arc<ConnectionInfo>,
    failure: &Unshaken,
) {
    let logged = match &chain.terminal {
        Terminal::Tcp(proxy) => Some(proxy.unshaken(connection.clone()).watched(&chain.observers)),
        Terminal::Http(manager) => {
            let open = manager.settings.stats.open_connection(Some(&connection));
            if !matches!(failure, Unshaken::TooSlow) {
                open.ended_by_peer();
            }
            None
        }
        _ => None,
    };
    for mut journal in logged.into_iter().chain(journal(state, connection)) {
        let record = &mut journal.record;
        match failure {
            Unshaken::TooSlow => {
                record.termination = "transport socket timeout was reached".into();
                record.close.downstream_reason = "transport_socket_timeout";
            }
            Unshaken::Gone => {}
            Unshaken::Failed(reason) => record.downstream_failure = Some(reason.clone()),
        }
    }
}

/// What the network filters say.
pub(super) struct Admitted {
    /// Kept for as long as the connection lives.
    pub holds: Vec<Box<dyn Send>>,
    /// Told of what passes.
    pub meters: Vec<Arc<dyn Account>>,
    /// How one of them closes it.
    pub closed: Option<Closing>,
}

/// Asks the network filters, one after the other.
pub(super) async fn admitted(chain: &FilterChain, connection: &mut ConnectionInfo) -> Admitted {
    let mut admitted = Admitted {
        holds: Vec::new(),
        meters: Vec::new(),
        closed: None,
    };
    for filter in &chain.filters {
        let mut verdict = filter.on_new_connection(connection);
        while let Verdict::Wait(waiting) = verdict {
            verdict = waiting.await(connection);
        }
        match verdict {
            Verdict::Continue | Verdict::Wait(_) => {}
            Verdict::Hold(hold) => admitted.holds.push(hold),
            Verdict::Meter(meter) => admitted.meters.push(meter),
            Verdict::Close(closing) => {
                admitted.closed = Some(closing);
                break;
            }
        }
    }
    admitted
}

/// Reads what the client has sent already: unread bytes would turn the end of the connection into a reset.
pub(super) async fn end(mut io: Io) {
    let mut unread = [0; 1024];
    for _ in 0..MOST_READS {
        let read = tokio::time::timeout(Duration::ZERO, io.read(&mut unread)).await;
        if !matches!(read, Ok(Ok(1..))) {
            break;
        }
    }
    // The peer may be gone.
    let _ = io.shutdown().await;
}

/// Ends a connection that a network filter does not want, and has it logged.
pub(super) async fn close(
    chain: &FilterChain,
    state: &ListenerState,
    connection: Arc<ConnectionInfo>,
    closing: Closing,
) {
    let reason = &closing.termination;
    tracing::debug!(
        connection = connection.id,
        reason,
        details = closing.details,
        "network filter closes a connection"
    );
    let logged = match &chain.terminal {
        Terminal::Tcp(proxy) => Some(proxy.refuse(connection.clone()).watched(&chain.observers)),
        _ => None,
    };
    let mut journals: Vec<_> = logged.into_iter().chain(journal(state, connection)).collect();
    for journal in &mut journals {
        journal.record.termination = closing.termination.clone().into();
        journal.record.details = closing.details;
        journal.record.flags.set(closing.flags);
        journal.record.close.downstream_reason = closing.reason;
    }
    clock::sleep(closing.delay).await;
}
