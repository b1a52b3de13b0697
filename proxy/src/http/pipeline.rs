//! The life of a request, outermost stage first.

/// A compiled HTTP connection manager.
pub struct ConnectionManager;

impl ConnectionManager {
    /// Serves one downstream connection to its end.
    pub async fn serve(
        self: std::sync::Arc<Self>,
        _io: crate::runtime::io::Io,
        _connection: std::sync::Arc<crate::listener::ConnectionInfo>,
        _drain: crate::runtime::drain::DrainSignal,
    ) {
    }
}
