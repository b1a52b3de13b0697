//! Network filters that stand before the terminal one, and the table that finds them by type URL.

pub mod connection_limit;
pub mod ext_authz;
pub mod istio_stats;
pub mod local_ratelimit;
pub mod metadata_exchange;
pub mod rbac;
pub mod set_filter_state;
pub mod sni_cluster;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{BuildContext, Compiled};
use crate::listener::ConnectionInfo;
use crate::runtime::io::Account;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format::TcpRecord;

/// Whether a new connection may go on.
pub enum Verdict {
    Continue,
    /// Go on, and keep this for as long as the connection lives.
    Hold(Box<dyn Send>),
    /// Go on, and tell this of what passes.
    Meter(Arc<dyn Account>),
    Close(Closing),
    /// Somebody has to be asked; what this yields then decides. Nothing of the connection is read until then.
    Wait(Pin<Box<dyn Future<Output = Then> + Send>>),
}

/// Decides once the waiting is over.
pub type Then = Box<dyn FnOnce(&mut ConnectionInfo) -> Verdict + Send>;

/// How a connection ends that may not go on, and what the access log says of it.
#[derive(Default)]
pub struct Closing {
    /// `%CONNECTION_TERMINATION_DETAILS%`
    pub termination: String,
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    pub flags: ResponseFlags,
    /// `%DOWNSTREAM_LOCAL_CLOSE_REASON%`
    pub reason: &'static str,
    /// It stays open, and silent, for so long.
    pub delay: Duration,
    /// Kept until it is closed.
    pub held: Option<Box<dyn Send>>,
}

/// A network filter that decides about a connection before its first byte is proxied.
pub trait NetworkFilter: Send + Sync + 'static {
    fn on_new_connection(&self, connection: &mut ConnectionInfo) -> Verdict;

    /// What both ends are to tell each other before anything else.
    fn preamble(&self) -> Option<&metadata_exchange::MetadataExchange> {
        None
    }

    /// Who is to hear of the bytes of a connection that `tcp_proxy` passes on.
    fn observer(&self) -> Option<Arc<dyn Observer>> {
        None
    }
}

/// Hears of proxied connections.
pub trait Observer: Send + Sync + 'static {
    /// A connection begins.
    fn watch(&self) -> Box<dyn Watch>;
}

/// Hears of one proxied connection.
pub trait Watch: Send + 'static {
    /// How often it wants to hear.
    fn interval(&self) -> Duration;

    /// The record as it stands, with all bytes so far.
    fn look(&mut self, record: &TcpRecord);

    /// The connection is over.
    fn end(&mut self, record: &TcpRecord);
}

/// Compiles the encoded configuration of one kind of filter.
pub type Compile = fn(&[u8], &BuildContext) -> Compiled<Arc<dyn NetworkFilter>>;

/// Every network filter that is not terminal, by type URL.
pub const REGISTRY: &[(&str, Compile)] = &[
    (connection_limit::TYPE_URL, connection_limit::compile),
    (ext_authz::TYPE_URL, ext_authz::compile),
    (local_ratelimit::TYPE_URL, local_ratelimit::compile),
    (rbac::TYPE_URL, rbac::compile),
    (set_filter_state::TYPE_URL, set_filter_state::compile),
    (sni_cluster::TYPE_URL, sni_cluster::compile),
    (istio_stats::TYPE_URL, istio_stats::compile),
    (metadata_exchange::TYPE_URL, metadata_exchange::compile),
];

/// The compile function of a type URL.
pub fn find(type_url: &str) -> Option<Compile> {
    REGISTRY
        .iter()
        .find(|(known, _)| *known == type_url)
        .map(|(_, compile)| *compile)
}
