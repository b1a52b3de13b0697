//! What the network filters say of a new connection.

use std::sync::Arc;
use std::time::Duration;

use super::journal;
use crate::filters::network::Verdict;
use crate::listener::ConnectionInfo;
use crate::listener::active::ListenerState;
use crate::listener::chain_match::{FilterChain, Terminal};
use crate::runtime::clock;

/// What the network filters hold for the connection, and the reason and delay of the one that closes it.
pub(super) fn admitted(
    chain: &FilterChain,
    connection: &mut ConnectionInfo,
) -> (Vec<Box<dyn Send>>, Option<(String, Duration)>) {
    let mut holds = Vec::new();
    for filter in &chain.filters {
        match filter.on_new_connection(connection) {
            Verdict::Continue => {}
            Verdict::Hold(hold) => holds.push(hold),
            Verdict::Close { reason, delay } => return (holds, Some((reason, delay))),
        }
    }
    (holds, None)
}

/// Ends a connection that a network filter does not want, and has it logged.
pub(super) async fn close(
    chain: &FilterChain,
    state: &ListenerState,
    connection: Arc<ConnectionInfo>,
    reason: &str,
    delay: Duration,
) {
    tracing::debug!(connection = connection.id, reason, "network filter closes a connection");
    let logged = match &chain.terminal {
        Terminal::Tcp(proxy) => Some(proxy.refuse(connection.clone())),
        _ => None,
    };
    let mut journals: Vec<_> = logged.into_iter().chain(journal(state, connection)).collect();
    for journal in &mut journals {
        journal.record.termination = reason.to_owned().into();
    }
    clock::sleep(delay).await;
}
