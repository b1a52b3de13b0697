//! `control-plane-mock`: serves a directory or a scenario over xDS until it is told to stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use control_plane_mock::directory::Directory;
use control_plane_mock::scenario::Scenario;
use control_plane_mock::script::Script;
use control_plane_mock::{ControlPlane, Handle, Manner, Snapshot};

/// An xDS control plane to test against: state of the world and delta, aggregated and per type.
#[derive(Debug, Parser)]
#[command(name = "control-plane-mock", version)]
struct Arguments {
    /// Serve the resources in this directory (*.yaml, *.yml, *.json), and follow its changes.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Play this scenario.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// Listen on this TCP address; port 0 picks a free one.
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:18000",
        conflicts_with = "unix"
    )]
    listen: SocketAddr,
    /// Listen on this unix socket.
    #[arg(long, value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Print every message seen and sent.
    #[arg(long)]
    transcript: bool,
    /// Answer the state-of-the-world methods with UNIMPLEMENTED.
    #[arg(long, conflicts_with = "sotw_only")]
    delta_only: bool,
    /// Answer the delta methods with UNIMPLEMENTED.
    #[arg(long)]
    sotw_only: bool,
    /// Which implementation to behave like.
    #[arg(long, value_enum, default_value = "plain")]
    manner: MannerArgument,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MannerArgument {
    /// Answers with whatever of the requested names exists.
    Plain,
    /// Answers a named type only when everything of it is asked for, and ignores stale nonces.
    GoControlPlane,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "control-plane-mock: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let scenario = arguments.scenario.as_deref().map(Scenario::load).transpose()?;
    let directory = arguments.dir.as_deref().map(first_look).transpose()?;
    let mut initial = directory.as_ref().map(Directory::snapshot).unwrap_or_default();
    merge(&mut initial, scenario.as_ref().map(|scenario| &scenario.initial));

    let manner = match arguments.manner {
        MannerArgument::Plain => Manner::Plain,
        MannerArgument::GoControlPlane => Manner::GoControlPlane,
    };
    let only_delta = (arguments.delta_only || arguments.sotw_only).then_some(arguments.delta_only);
    let script = Script {
        manner,
        only_delta,
        ..Script::default()
    };
    let builder = ControlPlane::builder().script(script).snapshot(&initial);
    let builder = match &arguments.unix {
        Some(path) => builder.unix(path),
        None => builder.tcp(arguments.listen),
    };
    let control_plane = builder.start().await?;
    say(&format!(
        "serving {} resources on {}",
        initial.len(),
        control_plane.listen()
    ));

    let handle = control_plane.handle();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        () = follow(directory, &handle) => {}
        () = play(scenario, &handle) => {}
        () = print(arguments.transcript, &handle) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    control_plane.shutdown().await;
    Ok(())
}

/// At start a bad file is an error; later it is a message, and the last good content is served on.
fn first_look(path: &std::path::Path) -> Result<Directory, String> {
    let mut directory = Directory::new(path);
    let look = directory
        .look()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if look.problems.is_empty() {
        return Ok(directory);
    }
    let lines: Vec<String> = look.problems.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
}

fn merge(into: &mut Snapshot, more: Option<&Snapshot>) {
    if let Some(more) = more {
        into.merge(more);
    }
}

async fn follow(directory: Option<Directory>, handle: &Handle) {
    match directory {
        Some(directory) => {
            let report = |problem: &_| say(&format!("not loaded, the last good content is served on: {problem}"));
            directory.follow(handle.clone(), report).await;
        }
        None => std::future::pending().await,
    }
}

async fn play(scenario: Option<Scenario>, handle: &Handle) {
    if let Some(scenario) = scenario {
        scenario.play(handle).await;
        say("the scenario is over; serving on");
    }
    std::future::pending().await
}

async fn print(wanted: bool, handle: &Handle) {
    if !wanted {
        return std::future::pending().await;
    }
    let mut from = 0;
    loop {
        for entry in handle.next_entries(from).await {
            from = entry.index + 1;
            say(&entry.to_string());
        }
    }
}

fn say(line: &str) {
    // A reader that went away is no reason to stop serving.
    let _ = writeln!(io::stdout(), "{line}");
}
