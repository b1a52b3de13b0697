//! Server side.
/// A compiled `DownstreamTlsContext`.
pub struct DownstreamTls;
