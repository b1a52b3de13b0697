//! Files in place of streams.

use std::path::Path;

use futures_util::{FutureExt, StreamExt};

use super::*;
use crate::client::file::watch;
use crate::store::PathSource;
use crate::types::CLUSTER;

fn path_root(path: &Path) -> Root {
    let source = PathSource {
        path: path.to_str().unwrap().into(),
        watched_directory: None,
    };
    Root {
        source: Source::Path(source),
        ..Root::new(&CLUSTER)
    }
}

#[test]
fn a_file_is_applied_without_requests_and_a_bad_one_keeps_the_last_good() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
    script
        .engine
        .add_root(path_root(Path::new("/clusters.yaml")), script.now);
    assert!(script.connect().is_empty());
    assert!(script.receive(sotw(&CLUSTER, "1", "", &[res("a", "1")])).is_empty());
    assert_eq!(script.has("cds"), ["a=1"]);
    assert!(script.receive(sotw(&CLUSTER, "2", "", &[res("a", "BAD")])).is_empty());
    script
        .engine
        .on_unreadable(script.streams[0], "gone".to_owned(), script.now);
    assert_eq!(script.has("cds"), ["a=1"]);
    let stats = script.stats.of(&CLUSTER);
    assert_eq!((stats.update_rejected.value(), stats.update_failure.value()), (1, 1));
}

#[test]
fn a_file_need_not_tell_the_type_of_its_resources() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
    script
        .engine
        .add_root(path_root(Path::new("/clusters.yaml")), script.now);
    script.connect();
    let mut file = BytesMut::new();
    wire::put_text(&mut file, 1, "1");
    wire::put_bytes(&mut file, 2, &res("a", "1").any(&CLUSTER));
    script.receive(file.freeze());
    assert_eq!(script.has("cds"), ["a=1"]);
}

/// Nobody sends heartbeats for a file; Envoy 1.40 does not look at its times to live.
#[test]
fn a_time_to_live_in_a_file_means_nothing() {
    let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
    script.engine.add_root(path_root(Path::new("/clusters")), script.now);
    script.connect();
    script.receive(sotw(&CLUSTER, "1", "", &[res("a", "1").ttl(10)]));
    script.advance(10);
    assert_eq!(script.has("cds"), ["a=1"]);
}

/// What is read while it is written ends somewhere. What ends between two fields is a message, and nobody could tell that it is not all.
#[test]
fn a_half_written_file_is_not_taken() {
    let (mut whole, mut ends) = (BytesMut::new(), Vec::new());
    wire::put_text(&mut whole, 1, "2");
    ends.push(whole.len());
    wire::put_text(&mut whole, 4, CLUSTER.url);
    ends.push(whole.len());
    for name in ["a", "b"] {
        wire::put_bytes(&mut whole, 2, &res(name, "2").any(&CLUSTER));
        ends.push(whole.len());
    }
    let whole = whole.freeze();
    for cut in 1..=whole.len() {
        let mut script = Script::with(SourceConfig::aggregated(Mode::Sotw), &[], 1);
        script.engine.add_root(path_root(Path::new("/clusters")), script.now);
        script.connect();
        script.receive(sotw(&CLUSTER, "1", "", &[res("a", "1"), res("b", "1")]));
        let read = script
            .engine
            .on_message(script.streams[0], whole.slice(..cut), script.now);
        script.look();
        assert_eq!(read.is_ok(), ends.contains(&cut), "{cut} bytes");
        if read.is_err() {
            assert_eq!(script.has("cds"), ["a=1", "b=1"], "{cut} bytes");
        }
    }
}

#[tokio::test]
async fn a_rename_into_place_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (file, next) = (directory.path().join("cds.yaml"), directory.path().join("next"));
    std::fs::write(&file, "1").unwrap();
    let source = PathSource {
        path: file.to_str().unwrap().into(),
        watched_directory: None,
    };
    let mut changes = watch(&source);
    assert!(changes.next().await.is_some(), "the file as it is");
    std::fs::write(&next, "2").unwrap();
    std::fs::rename(&next, &file).unwrap();
    assert!(changes.next().await.is_some());
}

#[tokio::test]
async fn what_is_moved_beside_a_file_is_noticed_only_where_the_directory_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("cds.yaml"), "1").unwrap();
    let source = |watched_directory| PathSource {
        path: at("cds.yaml").to_str().unwrap().into(),
        watched_directory,
    };
    let mut by_path = watch(&source(None));
    let mut by_directory = watch(&source(Some(directory.path().to_str().unwrap().into())));
    assert!(by_path.next().await.is_some() && by_directory.next().await.is_some());
    // Both have heard of it by the time that one tells; and the file is another by then.
    std::fs::write(at("cds.yaml"), "22").unwrap();
    std::fs::write(at("new"), "").unwrap();
    std::fs::rename(at("new"), at("other")).unwrap();
    assert!(by_directory.next().await.is_some());
    assert!(by_path.next().now_or_never().is_none());
    std::fs::rename(at("other"), at("cds.yaml")).unwrap();
    assert!(by_path.next().await.is_some() && by_directory.next().await.is_some());
}

#[tokio::test]
async fn a_swapped_symlink_of_the_watched_directory_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for version in ["v1", "v2"] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("cds.yaml"), version).unwrap();
    }
    std::os::unix::fs::symlink("v1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/cds.yaml", at("cds.yaml")).unwrap();
    let source = PathSource {
        path: at("cds.yaml").to_str().unwrap().into(),
        watched_directory: Some(root.path().to_str().unwrap().into()),
    };
    let mut changes = watch(&source);
    assert!(changes.next().await.is_some());
    std::os::unix::fs::symlink("v2", at("..tmp")).unwrap();
    std::fs::rename(at("..tmp"), at("..data")).unwrap();
    assert!(changes.next().await.is_some());
    assert_eq!(std::fs::read_to_string(at("cds.yaml")).unwrap(), "v2");
}

#[tokio::test]
async fn without_a_directory_to_watch_the_file_is_polled() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("later");
    let file = directory.join("cds.yaml");
    let source = PathSource {
        path: file.to_str().unwrap().into(),
        watched_directory: None,
    };
    let mut changes = watch(&source);
    assert!(changes.next().await.is_some());
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(&file, "1").unwrap();
    assert!(changes.next().await.is_some());
    // In place it stays the file that it was.
    std::fs::write(&file, "22").unwrap();
    let looked = tokio::time::timeout(Duration::from_millis(600), changes.next()).await;
    assert!(looked.is_err(), "no move");
    std::fs::write(directory.join("next"), "3").unwrap();
    std::fs::rename(directory.join("next"), &file).unwrap();
    assert!(changes.next().await.is_some());
}

#[tokio::test]
async fn the_whole_client_follows_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let (file, next) = (directory.path().join("cds"), directory.path().join("next"));
    std::fs::write(&file, sotw(&CLUSTER, "1", "", &[res("a", "1")])).unwrap();
    let node = remora_proto::pb::envoy::config::core::v3::Node::default();
    let (client, driver) = crate::Client::builder(&node)
        .decode_files(|content, _| Ok(Bytes::copy_from_slice(content)))
        .root(path_root(&file))
        .build();
    let driver = tokio::spawn(driver.run());
    let mut updates = client.updates().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        assert!(updates.changed().await);
        for change in updates.take().changes {
            seen.push(read(&change.resource.unwrap().bytes).1);
            if seen.len() == 1 {
                std::fs::write(&next, sotw(&CLUSTER, "2", "", &[res("a", "2")])).unwrap();
                std::fs::rename(&next, &file).unwrap();
            }
        }
    }
    assert_eq!(seen, ["1", "2"]);
    client.stop().await;
    driver.await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let node = remora_proto::pb::envoy::config::core::v3::Node::default();
    let (client, driver) = crate::Client::builder(&node)
        .decode_files(|_, _| Err("no YAML".to_owned()))
        .root(Root {
            initial_fetch_timeout: Duration::ZERO,
            ..path_root(&directory.path().join("cds"))
        })
        .build();
    let driver = tokio::spawn(driver.run());
    let mut updates = client.updates().await.unwrap();
    // A follower is woken for what it follows first, too: there is nothing.
    while updates.take().initialized != [&CLUSTER] {
        assert!(updates.changed().await);
    }
    let status = client.status().await.unwrap();
    let failure = status.streams[0].failure.as_deref().unwrap();
    assert!(failure.contains("cds: "), "{failure}");
    client.stop().await;
    driver.await.unwrap();
}

/// Whoever names a file may be a control plane: what could block or never end is not read.
#[test]
fn only_a_regular_file_is_read() {
    use crate::client::file::read;
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    for path in [&*fifo, Path::new("/dev/zero"), directory.path()] {
        assert_eq!(read(path), Err("is no regular file".to_owned()), "{}", path.display());
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "content").unwrap();
    std::os::unix::fs::symlink(&file, directory.path().join("link")).unwrap();
    assert_eq!(read(&directory.path().join("link")), Ok(b"content".to_vec()));
}
