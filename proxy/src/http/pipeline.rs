//! The life of a request, outermost stage first.

/// A compiled HTTP connection manager.
pub struct ConnectionManager;
