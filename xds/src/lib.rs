//! An xDS v3 client that is usable on its own.
//!
//! It speaks the state-of-the-world and the delta protocol, aggregated (ADS) or one stream per type, reads files in their place
//! (`path_config_source`), keeps what it receives as encoded bytes, and publishes a resource only once everything that it refers to
//! has arrived (Envoy's warming). What a resource *means* is up to the embedder's [`Interpreter`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use remora_proto::pb::envoy::config::core::v3::Node;
//! use remora_xds::{Client, Mode, Root, types};
//!
//! let node = Node { id: "me".into(), cluster: "here".into(), ..Node::default() };
//! let (client, driver) = Client::builder(&node)
//!     .control_plane("http://127.0.0.1:18000", Mode::Delta)?
//!     .root(Root::new(&types::CLUSTER))
//!     .build();
//! let follow = async {
//!     let mut updates = client.updates().await?;
//!     while updates.changed().await {
//!         for change in updates.take().changes {
//!             println!("{} {}", change.name, if change.resource.is_some() { "is there" } else { "is gone" });
//!         }
//!     }
//!     Ok::<(), remora_xds::Stopped>(())
//! };
//! let (_, followed) = tokio::join!(driver.run(), follow);
//! # Ok(followed?)
//! # }
//! ```
//!
//! Who wants no more than that says it shorter, with [`Builder::watch`] in place of `build`.
//!
//! The rooms: [`client`] is the protocol, [`store`] the resources; [`engine`] joins the two without I/O; [`driver`] is the one task
//! that moves bytes. The control plane never waits for a follower: an [`Updates`] that is not taken coalesces.

mod bugs;
pub mod client;
pub mod driver;
pub mod engine;
pub mod stats;
pub mod store;
pub mod types;

pub use client::{Backoff, Connect, GrpcConnector, Mode, Mux, MuxConfig, RateLimit, channel};
pub use driver::{Builder, Client, ClientHandle, Driver, Stopped};
pub use engine::{Engine, Root, SourceConfig};
pub use stats::Stats;
pub use store::status::{DumpEntry, Nack, Status, StreamStatus, TypeStatus};
pub use store::{
    Change, Interpreter, Known, Now, PathSource, Reference, Resource, Source, Store, Update, Updates, decodes,
};
pub use types::{ResourceType, TypeInfo};

#[cfg(test)]
mod tests;
