//! What the network filters say of a new connection.

use std::sync::Arc;

use super::journal;
use crate::filters::network::{Closing, Verdict};
use crate::listener::ConnectionInfo;
use crate::listener::active::ListenerState;
use crate::listener::chain_match::{FilterChain, Terminal};
use crate::runtime::clock;

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
        Terminal::Tcp(proxy) => Some(proxy.refuse(connection.clone())),
        _ => None,
    };
    let mut journals: Vec<_> = logged.into_iter().chain(journal(state, connection)).collect();
    for journal in &mut journals {
        journal.record.termination = closing.termination.clone().into();
        journal.record.details = closing.details;
        journal.record.flags.set(closing.flags);
    }
    clock::sleep(closing.delay).await;
}
