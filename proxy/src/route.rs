//! Route tables: compiled virtual hosts, matchers, actions, hash policy.
//!
//! In: an encoded `RouteConfiguration`. Out: for a request, its [`VirtualHost`] and [`Route`]. A virtual host stays encoded until the first
//! request for one of its domains; the index over domains is all that is built when the table arrives.

/// A compiled route configuration.
pub struct RouteTable;
/// A compiled virtual host.
pub struct VirtualHost;
/// A compiled route.
pub struct Route;
