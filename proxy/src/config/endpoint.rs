//! `envoy.config.endpoint.v3.ClusterLoadAssignment` → hosts by priority.
