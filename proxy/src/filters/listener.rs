//! Listener filters with a configuration of their own. The driver in [`inspect`](crate::listener::inspect) runs them, and those that only look at bytes
//! ([`detect`](crate::listener::detect)).

pub mod local_ratelimit;
pub mod original_src;
pub mod proxy_protocol;
