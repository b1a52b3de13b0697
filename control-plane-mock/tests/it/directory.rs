//! Directory mode: files in, resources out, while they change.

use std::fs;
use std::path::Path;

use control_plane_mock::ControlPlane;
use control_plane_mock::directory::{Directory, FileProblem};
use control_plane_mock::resources::cluster_static;
use tokio::sync::mpsc;

use crate::client::{Sotw, names};

fn cluster(name: &str) -> String {
    format!("\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: {name}\nconnect_timeout: 1s\n")
}

/// Writes as editors and tools do that care: a reader sees the old content or the new one, never half of it.
fn put(directory: &Path, file: &str, text: &str) {
    let temporary = directory.join(".new");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, directory.join(file)).unwrap();
}

#[tokio::test]
async fn changes_are_pushed_and_a_bad_file_keeps_its_last_good_content() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a.yaml", &cluster("a"));
    put(directory.path(), "ignored.txt", "nothing");
    let control_plane = ControlPlane::start().await.unwrap();
    control_plane.push(cluster_static("pushed", [("127.0.0.1", 1)]));
    let (report, mut problems) = mpsc::channel::<FileProblem>(8);
    let follow = Directory::new(directory.path()).follow(control_plane.handle(), move |problem| {
        report.try_send(problem.clone()).unwrap();
    });
    let follow = tokio::spawn(follow);
    let mut client = Sotw::open(&control_plane).await;
    client.ask("cds", &[]).await;
    let mut response = client.next().await;
    if names(&response.resources) == ["pushed"] {
        response = client.next().await;
    }
    assert_eq!(names(&response.resources), ["a", "pushed"]);

    put(
        directory.path(),
        "b.json",
        "{\"resources\": [{\"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\", \"name\": \"b\"}]}",
    );
    assert_eq!(names(&client.next().await.resources), ["a", "b", "pushed"]);

    put(directory.path(), "a.yaml", &format!("{}nmae: typo\n", cluster("a")));
    let problem = problems.recv().await.unwrap();
    assert!(
        problem.path.ends_with("a.yaml") && problem.reason.contains("nmae"),
        "{problem}"
    );
    put(directory.path(), "c.yaml", &cluster("c"));
    assert_eq!(
        names(&client.next().await.resources),
        ["a", "b", "c", "pushed"],
        "the bad file still counts as it was"
    );

    put(directory.path(), "c.yaml", &cluster("b"));
    let problem = problems.recv().await.unwrap();
    assert!(problem.reason.contains("b.json"), "{problem}");
    assert_eq!(names(&client.next().await.resources), ["a", "b", "pushed"]);

    fs::remove_file(directory.path().join("a.yaml")).unwrap();
    assert_eq!(names(&client.next().await.resources), ["b", "pushed"]);
    follow.abort();
}

#[test]
fn a_directory_that_is_not_there_is_an_error() {
    assert!(Directory::new("/does/not/exist").look().is_err());
}
