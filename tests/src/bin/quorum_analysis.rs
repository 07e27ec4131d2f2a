//! See [`quorumkv_tests::lab::analysis`].

use std::process::ExitCode;

use quorumkv_tests::lab::{analysis, program};

fn main() -> ExitCode {
    program::main(analysis::run)
}
