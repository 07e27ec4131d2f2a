//! The node's program: `quorumkv-node` serves, `quorumkv-node healthcheck` asks another one.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorumkv_node::program::main()
}
