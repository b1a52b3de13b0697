//! Prints the clusters of any control plane, and each change to them.
//!
//! ```text
//! cargo run -p remora-xds --example watch_clusters -- http://127.0.0.1:18000 [node-id] [sotw]
//! ```

use bytes::Bytes;
use prost::Message;
use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_xds::{Client, GrpcConnector, Mode, Reference, Root, SourceConfig, channel, types};

/// Refuses what is no cluster. A real embedder also names what the cluster refers to.
fn check(_url: &str, _name: &str, bytes: &Bytes) -> Result<Vec<Reference>, String> {
    Cluster::decode(bytes.clone())
        .map(|_| Vec::new())
        .map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments
        .next()
        .ok_or("usage: watch_clusters <http://host:port | unix:/path> [node-id] [sotw]")?;
    let id = arguments.next().unwrap_or_else(|| "watch-clusters".into());
    let mode = if arguments.next().as_deref() == Some("sotw") {
        Mode::Sotw
    } else {
        Mode::Delta
    };
    let node = Node {
        id,
        cluster: "example".into(),
        ..Node::default()
    };
    let (client, driver) = Client::builder(&node)
        .ads(SourceConfig::aggregated(mode), GrpcConnector::new(channel(&target)?))
        .interpreter(check)
        .root(Root::new(&types::CLUSTER))
        .build();
    let watch = async {
        let mut updates = client.updates().await?;
        while updates.changed().await {
            for change in updates.take().changes {
                match change.resource {
                    Some(cluster) => println!(
                        "+ {} ({} bytes, version {:?})",
                        change.name,
                        cluster.bytes.len(),
                        cluster.version
                    ),
                    None => println!("- {}", change.name),
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        () = driver.run() => Ok(()),
        watched = watch => watched,
    }
}
