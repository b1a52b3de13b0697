//! The `remora` binary: parses the command line, then runs what it asks for.

use std::process::ExitCode;

use remora::cli::{self, Command, Mode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Command::Run(options)) if options.mode == Mode::Validate => remora::validate::run(&options),
        Ok(Command::Run(options)) => remora::app::run(*options),
        Ok(Command::Demo(arguments)) => demo(&arguments),
        Err(exit) => {
            print(&exit);
            ExitCode::from(exit.code)
        }
    }
}

#[cfg(feature = "demo")]
fn demo(arguments: &cli::DemoArgs) -> ExitCode {
    remora::demo::run(arguments)
}

#[cfg(not(feature = "demo"))]
fn demo(_: &cli::DemoArgs) -> ExitCode {
    print(&cli::Exit {
        message: "this build has no demo: build with the `demo` feature".to_owned(),
        code: 1,
    });
    ExitCode::FAILURE
}

#[allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "help, version and usage errors belong there"
)]
fn print(exit: &cli::Exit) {
    if exit.code == 0 {
        println!("{}", exit.message);
    } else {
        eprintln!("{}", exit.message);
    }
}
