//! What the network filters say of a new connection.

use std::sync::Arc;
use std::time::Duration;

use super::journal;
use crate::filters::network::Verdict;
use crate::listener::ConnectionInfo;
use crate::listener::active::ListenerState;
use crate::listener::chain_match::{FilterChain, Terminal};
use crate::runtime::clock;
use crate::telemetry::flags::ResponseFlags;

/// How a filter ends a connection that it does not want.
pub(super) struct Closing {
    /// For the log; empty: the flags say it.
    reason: String,
    flags: ResponseFlags,
    delay: Duration,
}

/// What the network filters hold for the connection, and how the first that does not want it ends it.
pub(super) fn admitted(chain: &FilterChain, connection: &mut ConnectionInfo) -> (Vec<Box<dyn Send>>, Option<Closing>) {
    let mut holds = Vec::new();
    for filter in &chain.filters {
        let closing = match filter.on_new_connection(connection) {
            Verdict::Continue => continue,
            Verdict::Hold(hold) => {
                holds.push(hold);
                continue;
            }
            Verdict::Limit { delay } => Closing {
                reason: String::new(),
                flags: ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
                delay,
            },
            Verdict::Close { reason, delay } => Closing {
                reason,
                flags: ResponseFlags::default(),
                delay,
            },
        };
        return (holds, Some(closing));
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
    let Closing { reason, flags, delay } = closing;
    tracing::debug!(connection = connection.id, reason, "network filter closes a connection");
    let logged = match &chain.terminal {
        Terminal::Tcp(proxy) => Some(proxy.refuse(connection.clone())),
        _ => None,
    };
    let mut journals: Vec<_> = logged.into_iter().chain(journal(state, connection)).collect();
    for journal in &mut journals {
        journal.record.flags.set(flags);
        journal.record.termination = reason.clone().into();
    }
    clock::sleep(delay).await;
}
