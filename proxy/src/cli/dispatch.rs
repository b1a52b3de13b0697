//! What the process does, by its command line.

use std::ffi::OsString;
use std::process::ExitCode;

use super::{Command, DemoArgs, Exit, Mode, parse};

/// Runs the process that `arguments` (the program's name first) ask for, to its end.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse(arguments) {
        Ok(Command::Run(options)) if options.mode == Mode::Validate => {
            crate::filters::names::disable(&options.disabled_extensions);
            crate::validate::run(&options)
        }
        Ok(Command::Run(options)) => crate::app::run(*options),
        Ok(Command::Demo(arguments)) => demo(&arguments),
        Ok(Command::Inject(arguments)) => crate::inject::run(&arguments),
        Err(exit) => {
            print(&exit);
            ExitCode::from(exit.code)
        }
    }
}

#[cfg(feature = "demo")]
fn demo(arguments: &DemoArgs) -> ExitCode {
    crate::demo::run(arguments)
}

#[cfg(not(feature = "demo"))]
fn demo(_: &DemoArgs) -> ExitCode {
    print(&Exit {
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
fn print(exit: &Exit) {
    if exit.code == 0 {
        println!("{}", exit.message);
    } else {
        eprintln!("{}", exit.message);
    }
}
