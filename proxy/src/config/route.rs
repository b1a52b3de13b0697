//! `envoy.config.route.v3.RouteConfiguration` → [`RouteTable`](crate::route::RouteTable).
