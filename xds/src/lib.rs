//! An xDS v3 client that is usable on its own.
//!
//! It speaks the state-of-the-world and the delta protocol, aggregated (ADS) or one stream per type, reads files in their place
//! (`path_config_source`), keeps what it receives as encoded bytes, and publishes a resource only once everything that it refers to
//! has arrived (Envoy's warming). What a resource *means* is up to the embedder's [`Interpreter`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use remora_proto::pb::envoy::config::core::v3::Node;
//! use remora_xds::{Client, GrpcConnector, Mode, Root, SourceConfig, channel, types};
//!
//! let node = Node { id: "me".into(), cluster: "here".into(), ..Node::default() };
//! let connector = GrpcConnector::new(channel("http://127.0.0.1:18000")?);
//! let (client, driver) = Client::builder(&node)
//!     .ads(SourceConfig::aggregated(Mode::Delta), connector)
//!     .root(Root::new(&types::CLUSTER))
//!     .build();
//! let watch = async {
//!     let mut updates = client.updates().await?;
//!     while updates.changed().await {
//!         for change in updates.take().changes {
//!             println!("{} {}", change.name, if change.resource.is_some() { "is there" } else { "is gone" });
//!         }
//!     }
//!     Ok::<(), remora_xds::Stopped>(())
//! };
//! let (_, watched) = tokio::join!(driver.run(), watch);
//! # Ok(watched?)
//! # }
//! ```
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
pub use store::{Change, Interpreter, Known, Now, PathSource, Reference, Resource, Source, Store, Update, Updates};
pub use types::{ResourceType, TypeInfo};

#[cfg(test)]
mod tests;
