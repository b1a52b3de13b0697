//! Listener: bind.
