//! `check_consistency`: whether every replica holds what the leader holds, at one place in the log.
//!
//! How they are compared stands in [`quorumkv_inspect::compare`].

use std::time::Duration;

use anyhow::ensure;
use clap::Parser;
use quorumkv_inspect::compare::{Comparison, compare_with};

use super::{
    checks::Checks,
    options::{EmbeddedOptions, Output, TargetOptions},
    program::{self, Context, Failure},
    store::{Beginning, Store},
    workload::Workload,
};

/// How long a replica may be behind in a check among others.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many keys are named, where nobody says.
const NAMED: usize = 10;

/// Compares every replica's whole content with the leader's.
#[derive(Debug, Parser)]
#[command(name = "check_consistency", version, after_help = EXIT_CODES)]
pub struct Options {
    /// Writes to make before comparing [default: 150 into a store that the program starts, else none]
    #[arg(long, value_name = "N")]
    writes: Option<u64>,

    /// How long to wait for a replica that is behind, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,

    /// How many of the keys that differ are named
    #[arg(long, value_name = "N", default_value_t = NAMED)]
    show: usize,

    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    target: TargetOptions,

    #[command(flatten)]
    embedded: EmbeddedOptions,
}

/// What the exit codes mean, for `--help`.
pub(super) const EXIT_CODES: &str = "Exit code: 0 if every check held, 1 if one failed, 2 if nothing was checked \
                                     (wrong arguments, or no such store).";

impl program::Options for Options {
    fn output(&self) -> Output {
        self.output
    }
}

impl program::Report for Comparison {
    fn passed(&self) -> bool {
        self.passed
    }
}

/// Does what the arguments say.
///
/// # Errors
/// When the replicas could not be compared.
pub async fn run(options: Options, context: &Context) -> Result<Comparison, Failure> {
    let Options { target, embedded, writes, wait, show, output: _ } = options;
    let delay = embedded.delay().map_err(Failure::wrong_argument)?;
    let store = Store::open(&target, Beginning { write_quorum: embedded.write_quorum, delay }, context).await?;
    let work = async {
        let writes = writes.unwrap_or(if store.embedded { 150 } else { 0 });
        if writes > 0 {
            let workload = Workload { writes, keys: 25, clients: 8 };
            let written = workload.run(&store, "consistency", "writing", context).await?;
            if written.failures() > 0 {
                context.progress(format!("{} of {writes} writes failed: {:?}", written.failures(), written.failed));
            }
        }
        context.progress(format!("Comparing {} replicas of {}", store.replicas.len(), store.description));
        Ok(compare_with(store.token.as_deref(), &store.description, &store.replicas, Duration::from_secs(wait), show)
            .await?)
    };
    context.unless_interrupted(work).await
}

/// The comparison as one check among others.
pub(super) async fn check(store: &Store, name: String, checks: &mut Checks<'_>) {
    let token = store.token.as_deref();
    let compared =
        compare_with(token, &store.description, &store.replicas, PATIENCE, NAMED).await.and_then(|compared| {
            ensure!(compared.passed, "{}", compared.summary());
            Ok(compared.summary())
        });
    checks.observed(name, "every key equal on every replica", compared);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let Options { writes, wait, show, output, .. } = Options::parse_from(["check_consistency"]);
        assert_eq!((writes, wait, show, output), (None, 30, 10, Output::Table));
    }
}
