//! Listener: detect.
