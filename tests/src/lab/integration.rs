//! `integration_test`: the lab's checks in the lab's order, then the errors of the API.
//!
//! Health of all nodes, write and read, replication to every follower ([`basics`]), quorum behaviour
//! ([`quorum`]), concurrent writes ([`concurrent`]), errors ([`errors`]).

mod basics;
mod concurrent;
mod errors;
mod quorum;

use std::fmt;

use clap::Parser;
use serde::Serialize;

use super::{
    checks::{Check, Checks, all_passed, tally},
    consistency::{self, EXIT_CODES},
    options::{EmbeddedOptions, Output, TargetOptions},
    program::{self, Context, Failure},
    store::{Beginning, Store},
};

/// Checks a running store from the outside: health, writes, reads, replication, quorum, concurrency, errors.
#[derive(Debug, Parser)]
#[command(name = "integration_test", version, after_help = EXIT_CODES)]
pub struct Options {
    /// Writes of the concurrency check
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    writes: u64,

    /// Clients that make them at once
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = positive)]
    clients: usize,

    /// Check only the quorum that is in force; otherwise each is set in turn, and the old one put back
    #[arg(long)]
    keep_settings: bool,

    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    target: TargetOptions,

    #[command(flatten)]
    embedded: EmbeddedOptions,
}

/// A number above zero.
pub(super) fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "write a number above zero".to_owned())
}

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What was checked.
    pub store: String,
    /// Whether every check held.
    pub passed: bool,
    /// Each check, in order.
    pub checks: Vec<Check>,
}

impl program::Options for Options {
    fn output(&self) -> Output {
        self.output
    }
}

impl program::Report for Found {
    fn passed(&self) -> bool {
        self.passed
    }
}

impl fmt::Display for Found {
    /// The checks themselves are printed when they are made.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", tally(&self.checks))
    }
}

/// Does what the arguments say.
///
/// # Errors
/// When a signal ended it, or the quorum could not be put back.
pub async fn run(options: Options, context: &Context) -> Result<Found, Failure> {
    let Options { target, embedded, writes, clients, keep_settings, output: _ } = options;
    let delay = embedded.delay().map_err(Failure::wrong_argument)?;
    let store = Store::open(&target, Beginning { write_quorum: embedded.write_quorum, delay }, context).await?;
    let mut checks = Checks::new(context);
    // Names keys of this run, so that a store may be checked again and again.
    let run = format!("integration-{:08x}", rand::random::<u32>());
    context
        .unless_interrupted(async {
            basics::health(&store, &mut checks).await;
            basics::write_and_read(&store, &run, &mut checks).await;
            basics::replication(&store, &run, &mut checks).await;
            quorum::in_force(&store, &run, &mut checks).await;
            Ok(())
        })
        .await?;
    if !keep_settings {
        let each = async {
            quorum::each(&store, &run, &mut checks).await;
            Ok(())
        };
        match store.restoring(context, each).await {
            // What cannot be read or changed is a check that fails, not the end of all checks.
            Err(Failure::Failed(error)) => {
                checks.observed("quorum changed live", "the settings can be changed", Err(error))
            }
            restored => restored?,
        }
    }
    context
        .unless_interrupted(async {
            concurrent::writes(&store, &run, writes, clients, &mut checks).await;
            consistency::check(&store, "replicas".to_owned(), &mut checks).await;
            errors::check(&store, &mut checks).await;
            Ok(())
        })
        .await?;
    let checks = checks.finish();
    Ok(Found { store: store.description.clone(), passed: all_passed(&checks), checks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let Options { writes, clients, keep_settings, .. } = Options::parse_from(["integration_test"]);
        assert_eq!((writes, clients, keep_settings), (100, 20, false));
        for wrong in ["--writes=0", "--clients=0", "--clients=-1", "--output=xml"] {
            let error = Options::try_parse_from(["integration_test", wrong]).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }
}
