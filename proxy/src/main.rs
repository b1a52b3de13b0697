//! The `remora` binary: parses the command line, then runs what it asks for.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: remora::Allocator = remora::ALLOCATOR;

fn main() -> ExitCode {
    remora::cli::main(std::env::args_os())
}
