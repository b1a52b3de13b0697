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

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Refuses what is no cluster. A real embedder also names what the cluster refers to.
fn check(_url: &str, _name: &str, bytes: &Bytes) -> Result<Vec<Reference>, String> {
    let read = Cluster::decode(bytes.clone());
    read.map(|_| Vec::new()).map_err(|error| error.to_string())
}

/// Tells of every cluster that comes, changes or goes, until it is dropped.
pub async fn watch(target: &str, node: Node, mode: Mode, mut tell: impl FnMut(String)) -> Outcome {
    let (client, driver) = Client::builder(&node)
        .ads(SourceConfig::aggregated(mode), GrpcConnector::new(channel(target)?))
        .interpreter(check)
        .root(Root::new(&types::CLUSTER))
        .build();
    let follow = async {
        let mut updates = client.updates().await?;
        while updates.changed().await {
            for change in updates.take().changes {
                tell(match change.resource {
                    Some(new) => format!("+ {} ({} bytes)", change.name, new.bytes.len()),
                    None => format!("- {}", change.name),
                });
            }
        }
        Ok(())
    };
    tokio::select! { () = driver.run() => Ok(()), followed = follow => followed }
}

#[tokio::main]
async fn main() -> Outcome {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let target = words
        .first()
        .ok_or("usage: watch_clusters <http://host:port | unix:/path> [node-id] [sotw]")?;
    let mode = if words.len() > 2 { Mode::Sotw } else { Mode::Delta };
    let id = words.get(1).map_or("watch-clusters", String::as_str);
    let node = Node {
        id: id.into(),
        cluster: "example".into(),
        ..Node::default()
    };
    watch(target, node, mode, |line| println!("{line}")).await
}
