//! Prints the clusters of any control plane, and each change to them:
//! `cargo run -p remora-xds --example watch_clusters -- http://127.0.0.1:18000 [node-id] [sotw]`

use remora_proto::pb::envoy::config::cluster::v3::Cluster;
use remora_proto::pb::envoy::config::core::v3::Node;
use remora_xds::{Client, Mode, Root, decodes, types};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Tells of every cluster that comes, changes or goes, until it is dropped. What is no cluster is NACKed.
pub async fn watch(target: &str, node: Node, mode: Mode, mut tell: impl FnMut(String)) -> Outcome {
    Client::builder(&node)
        .control_plane(target, mode)?
        .interpreter(decodes::<Cluster>)
        .root(Root::new(&types::CLUSTER))
        .watch(|change| match change.resource {
            Some(new) => tell(format!("+ {} ({} bytes)", change.name, new.bytes.len())),
            None => tell(format!("- {}", change.name)),
        })
        .await;
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let mut words = std::env::args().skip(1);
    let usage = "usage: watch_clusters <http://host:port | unix:/path> [node-id] [sotw]";
    let target = words.next().ok_or(usage)?;
    let node = Node {
        id: words.next().unwrap_or_else(|| "watch-clusters".into()),
        cluster: "example".into(),
        ..Node::default()
    };
    let mode = words.next().map_or(Mode::Delta, |_| Mode::Sotw);
    watch(&target, node, mode, |line| println!("{line}")).await
}
