//! `remora demo`: the proxy at work, in one process.
//!
//! In: a few arguments. Out: two sidecars under a mock control plane, four replicas, steady traffic of which every answer is checked, and one
//! scene after another of what a mesh goes through. [`scenes`] is the tour as a function; [`run`] shows it on a terminal.
//!
//! ```text
//! app ─ H1, gRPC, TCP ─▶ client sidecar ─ mTLS, H2 ─▶ server sidecar ─ H1, gRPC, TCP ─▶ replica a b (priority 0), c d (priority 1)
//!                              ▲ ADS, delta                 ▲ ADS, state of the world
//!                              └────── mock control plane ──┘
//! ```

mod config;
mod load;
mod mesh;
mod probe;
mod replica;
mod report;
mod scenes;
mod screen;
mod tally;
mod tour;

use std::process::ExitCode;

use crate::cli::DemoArgs;
use crate::runtime::spawn::install_panic_hook;

pub use report::{Report, SceneReport};
pub use tour::{DemoError, Event, Settings, scenes, serve};

/// Runs the demo to its end: success when every scene held and no request failed.
pub fn run(arguments: &DemoArgs) -> ExitCode {
    install_panic_hook();
    let settings = Settings {
        concurrency: arguments.concurrency,
        admin_port: arguments.admin_port,
        at_least: std::time::Duration::from_secs(arguments.duration),
    };
    let mut screen = screen::Screen::stdout();
    // Two threads for what is not the proxies' workers: replicas, load, both control planes.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return screen.failed(&DemoError::Io(error)),
    };
    if arguments.serve {
        return match runtime.block_on(serve(&settings, &mut |event| screen.show(event))) {
            Ok(counts) => screen.served(&counts),
            Err(error) => screen.failed(&error),
        };
    }
    match runtime.block_on(scenes(&settings, &mut |event| screen.show(event))) {
        Ok(report) => screen.summary(&report),
        Err(error) => screen.failed(&error),
    }
}
