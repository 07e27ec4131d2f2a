//! See [`quorumkv_tests::lab::performance`].

use std::process::ExitCode;

use quorumkv_tests::lab::{performance, program};

fn main() -> ExitCode {
    program::main(performance::run)
}
