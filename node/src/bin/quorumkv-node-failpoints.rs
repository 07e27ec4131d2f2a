//! The node's program for tests: it aborts where it is told to, see [`quorumkv_node::failpoint`].

use std::process::ExitCode;

fn main() -> ExitCode {
    quorumkv_node::program::main()
}
