//! Network filters that stand before the terminal one.

use crate::listener::ConnectionInfo;

/// Whether a new connection may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Close it; the reason goes to the access log as connection termination details.
    Close(String),
}

/// A network filter that decides about a connection before its first byte is proxied.
pub trait NetworkFilter: Send + Sync + 'static {
    fn on_new_connection(&self, connection: &ConnectionInfo) -> Verdict;
}
