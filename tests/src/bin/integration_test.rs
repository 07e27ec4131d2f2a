//! See [`quorumkv_tests::lab::integration`].

use std::process::ExitCode;

use quorumkv_tests::lab::{integration, program};

fn main() -> ExitCode {
    program::main(integration::run)
}
