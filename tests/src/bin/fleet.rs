//! See [`quorumkv_tests::fleet`].

use clap::Parser as _;
use quorumkv_tests::fleet::{self, Options};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();
    tokio::select! {
        outcome = fleet::run(options) => outcome,
        // What was started ends with what is dropped here.
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}
