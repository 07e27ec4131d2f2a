//! See [`quorumkv_tests::bench`].

use std::process::ExitCode;

use quorumkv_tests::{bench, lab::program};

fn main() -> ExitCode {
    // One of the systems that are measured is this program in another role.
    bench::serve_bare(std::env::args()).unwrap_or_else(|| program::main(bench::run))
}
