//! See [`quorumkv_tests::lab::consistency`].

use std::process::ExitCode;

use quorumkv_tests::lab::{consistency, program};

fn main() -> ExitCode {
    program::main(consistency::run)
}
