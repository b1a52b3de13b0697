//! The `remora` program again, for tests that need it in a process of its own: Cargo tells tests only about programs of their own package.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: remora::Allocator = remora::ALLOCATOR;

fn main() -> ExitCode {
    remora::cli::main(std::env::args_os())
}
