//! What a connection manager does to headers, in Envoy's order.
