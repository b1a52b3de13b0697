//! `envoy.config.listener.v3.Listener` → [`ListenerConfig`](crate::listener::ListenerConfig).
