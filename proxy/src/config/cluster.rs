//! `envoy.config.cluster.v3.Cluster` → [`Cluster`](crate::cluster::Cluster).
