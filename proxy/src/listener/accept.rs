//! Listener: accept.
