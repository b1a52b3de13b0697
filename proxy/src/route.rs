//! Route tables: compiled virtual hosts, matchers, actions, hash policy.
//!
//! In: an encoded `RouteConfiguration`. Out: for a request, its [`VirtualHost`] and [`Route`]. A virtual host stays encoded until the first
//! request for one of its domains; the index over domains is all that is built when the table arrives.
//!
//! ```text
//! RouteTable ─ virtual_host(authority) ─▶ VirtualHost ─ select(view) ─▶ Route ─ action ─▶ Forward ─ cluster.choose ─▶ name
//! ```

pub mod clusters;
pub mod domains;
pub mod forward;
pub mod hash;
pub mod headers;
pub mod matcher;
pub mod per_filter;
pub mod redirect;
pub mod retry;
pub mod rewrite;
pub mod stats;
pub mod strings;
pub mod table;
pub mod uri_template;
pub mod view;
pub mod virtual_host;
pub mod wire;

pub use clusters::{Chosen, ClusterSpecifier};
pub use forward::Forward;
pub use retry::RetryPolicy;
pub use table::{RouteTable, TableSettings};
pub use view::RequestView;
pub use virtual_host::{Action, Decorator, HostSettings, Route, VirtualHost};

#[cfg(test)]
mod tests;
