//! The binary, as it is run by hand.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use control_plane_mock::Listen;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use remora_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

use crate::client::{Sotw, channel, names, request};

const CLUSTER: &str = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: a\n";

/// Kills the process when a test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_control-plane-mock"));
    command.args(arguments);
    command
}

fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

#[tokio::test]
async fn a_directory_is_served_and_the_transcript_printed() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), CLUSTER).unwrap();
    let socket = directory.path().join("xds.sock");
    let (dir, unix) = (directory.path().display().to_string(), socket.display().to_string());
    let mut child = command(&["--dir", &dir, "--unix", &unix, "--transcript", "--sotw-only"]);
    let mut running = Running(child.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), format!("serving 1 resources on unix:{unix}"));

    let (requests, receiver) = mpsc::channel(4);
    let mut service = AggregatedDiscoveryServiceClient::new(channel(&Listen::Unix(socket)).await);
    requests.send(request("cds", &[])).await.unwrap();
    let responses = service
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut client = Sotw::from_parts(requests, responses);
    assert_eq!(names(&client.next().await.resources), ["a"]);
    let (_requests, receiver) = mpsc::channel(1);
    let refused = service
        .delta_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    let printed: Vec<String> = lines.by_ref().take(3).collect();
    assert!(printed[0].starts_with("#1 -- Open"), "{printed:?}");
    assert_eq!(
        printed[1..],
        [
            "#1 -> Request cds node=node-1",
            "#1 <- Response cds version=1 nonce=1 names=[a]"
        ]
    );
}

#[test]
fn a_scenario_is_played_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("scenario.yaml");
    std::fs::write(directory.path().join("a.yaml"), CLUSTER).unwrap();
    std::fs::write(
        &file,
        "files: [a.yaml]\nsteps:\n- {do: remove, type: cds, name: a}\n- {at: 1, do: resend, type: cds}\n",
    )
    .unwrap();
    let mut child = command(&[
        "--scenario",
        &file.display().to_string(),
        "--listen",
        "127.0.0.1:0",
        "--manner",
        "go-control-plane",
    ]);
    let mut running = Running(child.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("serving 1 resources on "));
    assert_eq!(lines.next().unwrap(), "the scenario is over; serving on");
}

#[test]
fn what_cannot_be_served_is_said() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bad.yaml"), format!("{CLUSTER}nmae: b\n")).unwrap();
    let failed = output(&[
        "--dir",
        &directory.path().display().to_string(),
        "--listen",
        "127.0.0.1:0",
    ]);
    let error = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success());
    assert!(error.contains("bad.yaml") && error.contains("nmae"), "{error}");
    let help = String::from_utf8_lossy(&output(&["--help"]).stdout).into_owned();
    for option in [
        "--dir",
        "--scenario",
        "--listen",
        "--unix",
        "--transcript",
        "--delta-only",
        "--manner",
    ] {
        assert!(help.contains(option), "{option}");
    }
}
