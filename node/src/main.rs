//! The node's program: `quorumkv-node` serves, `quorumkv-node healthcheck` asks another one.

use std::process::ExitCode;

/// That of musl takes a lock for every allocation.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    quorumkv_node::program::main()
}
