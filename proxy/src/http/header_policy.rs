//! Header policy: what Envoy's connection manager does to heads before routing and after the response.

pub mod mutations;
