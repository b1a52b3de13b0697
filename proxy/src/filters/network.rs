//! Network filters that stand before the terminal one, and the table that finds them by type URL.

pub mod connection_limit;
pub mod istio;
pub mod local_ratelimit;
pub mod rbac;
pub mod set_filter_state;
pub mod sni_cluster;

use std::sync::Arc;
use std::time::Duration;

use crate::config::{BuildContext, Compiled};
use crate::listener::ConnectionInfo;

/// Whether a new connection may go on.
pub enum Verdict {
    Continue,
    /// Go on, and keep this for as long as the connection lives.
    Hold(Box<dyn Send>),
    /// Close it after `delay`; the reason goes to the access log as connection termination details.
    Close {
        reason: String,
        delay: Duration,
    },
}

/// A network filter that decides about a connection before its first byte is proxied.
pub trait NetworkFilter: Send + Sync + 'static {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict;
}

/// Compiles the encoded configuration of one kind of filter.
pub type Compile = fn(&[u8], &BuildContext) -> Compiled<Arc<dyn NetworkFilter>>;

/// Every network filter that is not terminal, by type URL.
pub const REGISTRY: &[(&str, Compile)] = &[
    (connection_limit::TYPE_URL, connection_limit::compile),
    (local_ratelimit::TYPE_URL, local_ratelimit::compile),
    (rbac::TYPE_URL, rbac::compile),
    (set_filter_state::TYPE_URL, set_filter_state::compile),
    (sni_cluster::TYPE_URL, sni_cluster::compile),
    (istio::STATS, istio::compile),
    (istio::METADATA_EXCHANGE, istio::compile),
];

/// The compile function of a type URL.
pub fn find(type_url: &str) -> Option<Compile> {
    REGISTRY
        .iter()
        .find(|(known, _)| *known == type_url)
        .map(|(_, compile)| *compile)
}
