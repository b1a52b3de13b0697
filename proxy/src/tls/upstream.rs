//! Client side.
/// A compiled `UpstreamTlsContext`.
pub struct UpstreamTls;
