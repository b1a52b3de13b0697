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
use crate::runtime::io::Io;

/// Bounds what a client can make us read of a connection that is closed anyway.
const MOST_READS: usize = 64;

/// What the network filters hold for the connection, and how one of them closes it.
pub(super) async fn admitted(
    chain: &FilterChain,
    connection: &mut ConnectionInfo,
) -> (Vec<Box<dyn Send>>, Option<Closing>) {
    let mut holds = Vec::new();
    for filter in &chain.filters {
        let mut verdict = filter.on_new_connection(connection);
        while let Verdict::Wait(waiting) = verdict {
            verdict = waiting.await(connection);
        }
        match verdict {
            Verdict::Continue | Verdict::Wait(_) => {}
            Verdict::Hold(hold) => holds.push(hold),
            Verdict::Close(closing) => return (holds, Some(closing)),
        }
    }
    (holds, None)
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
