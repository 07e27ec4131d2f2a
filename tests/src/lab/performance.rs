//! `performance_test`: the lab's load, what it cost, and whether the replicas are equal afterwards.

use std::fmt::{self, Write as _};

use clap::Parser;
use quorumkv_api::Delay;
use serde::Serialize;

use super::{
    analysis::limit::{Limit, LimitFigures},
    checks::{Check, Checks, all_passed, tally},
    consistency::{self, EXIT_CODES},
    integration::positive,
    options::{EmbeddedOptions, Output, TargetOptions},
    program::{self, Context, Failure},
    statistics::histogram,
    store::{Beginning, Store},
    table::table,
    workload::{Measured, Workload},
};

/// Bars of the distribution.
const BARS: usize = 15;

/// Measures a load: by default 150 writes on 25 keys by 8 clients, as in the lab.
#[derive(Debug, Parser)]
#[command(name = "performance_test", version, after_help = EXIT_CODES)]
pub struct Options {
    /// Writes, of all clients together
    #[arg(long, value_name = "N", default_value_t = 150, value_parser = clap::value_parser!(u64).range(1..))]
    writes: u64,

    /// Keys that they are spread over
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = positive)]
    keys: usize,

    /// Clients, each with one write under way
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = positive)]
    clients: usize,

    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    target: TargetOptions,

    #[command(flatten)]
    embedded: EmbeddedOptions,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// What was measured.
    pub store: String,
    /// Whether every check held.
    pub passed: bool,
    /// Clients, each with one write under way.
    pub clients: usize,
    /// Keys that were written.
    pub keys: usize,
    /// Write quorum in force.
    pub write_quorum: u8,
    /// Simulated round trip in force.
    pub delay: Delay,
    /// What the writes cost.
    pub measured: Measured,
    /// What the simulated delay alone costs.
    pub limit: LimitFigures,
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

/// Does what the arguments say.
///
/// # Errors
/// When a signal ended it, or the leader does not answer.
pub async fn run(options: Options, context: &Context) -> Result<Found, Failure> {
    let Options { target, embedded, writes, keys, clients, output: _ } = options;
    let delay = embedded.delay().map_err(Failure::wrong_argument)?;
    let store = Store::open(&target, Beginning { write_quorum: embedded.write_quorum, delay }, context).await?;
    let work = async {
        let before = store.status().await?;
        let mut checks = Checks::new(context);
        let measured = Workload { writes, keys, clients }.run(&store, "performance", "writing", context).await?;
        let measured = measured.with_replication(&store).await?;
        measured.check_success("writes".to_owned(), writes, &mut checks);
        measured.check_replicas("replicas".to_owned(), before.write_quorum.0, &mut checks);
        consistency::check(&store, "consistency".to_owned(), &mut checks).await;
        let checks = checks.finish();
        let followers = u8::try_from(store.followers().len()).unwrap_or(u8::MAX);
        Ok(Found {
            store: store.description.clone(),
            passed: all_passed(&checks),
            clients,
            keys,
            write_quorum: before.write_quorum.0,
            delay: before.delay,
            measured,
            limit: Limit::new(before.delay, before.write_quorum.0, followers).figures(clients),
            checks,
        })
    };
    context.unless_interrupted(work).await
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, clients, keys, write_quorum, delay, measured, limit, checks, passed: _ } = self;
        writeln!(f, "\n{store}: write quorum {write_quorum}, simulated round trip {delay}")?;
        writeln!(
            f,
            "{} of {} writes acknowledged ({:.1} %) on {keys} keys by {clients} clients in {:.2} s\n",
            measured.acked,
            measured.acked + measured.failures(),
            measured.success_percent(),
            measured.seconds
        )?;
        let ms = |value: f64| format!("{value:.1}");
        let dash = || "-".to_owned();
        let mut rows = Vec::new();
        if let Some(latency) = &measured.latency_ms {
            let numbers = [latency.min, latency.mean, latency.median, latency.p95, latency.p99, latency.max];
            let mut row = vec!["at the clients".to_owned()];
            row.extend(numbers.map(ms));
            row.push(format!("{:.1}", measured.writes_per_second));
            rows.push(row);
        }
        if let Some(latency) = &measured.replication_latency_ms {
            let name = "at the leader *".to_owned();
            let [mean, median, p95, p99] = [latency.mean, latency.median, latency.p95, latency.p99].map(ms);
            rows.push(vec![name, dash(), mean, median, p95, p99, dash(), dash()]);
        }
        if let Some(rate) = limit.writes_per_second {
            let [mean, median, p95, p99] = [limit.mean, limit.median, limit.p95, limit.p99].map(ms);
            rows.push(vec!["the delay alone".to_owned(), dash(), mean, median, p95, p99, dash(), format!("{rate:.1}")]);
        }
        let header = ["latency in ms", "min", "mean", "median", "p95", "p99", "max", "writes/s"];
        write!(f, "{}", table(&header, 1, rows))?;
        writeln!(f, "* from append to answer, of all writes since its settings last changed\n")?;
        write!(f, "{}", bars(&measured.latencies_ms))?;
        writeln!(f, "{}", tally(checks))
    }
}

/// The distribution of latencies, a bar for each range.
fn bars(ms: &[f64]) -> String {
    const WIDEST: usize = 50;
    let mut text = String::new();
    if ms.is_empty() {
        return text;
    }
    let (width, counts) = histogram(ms, BARS);
    let most = counts.iter().copied().max().unwrap_or(1).max(1);
    let places = usize::from(width < 1.0) * 2;
    for (number, count) in counts.iter().enumerate() {
        let (from, to) = (number as f64 * width, (number + 1) as f64 * width);
        // A count that is not zero has a bar.
        let bar = "#".repeat((count * WIDEST).div_ceil(most));
        writeln!(text, "{from:>7.places$} to {to:>6.places$} ms {count:>6} {bar}").expect("a String takes everything");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_labs_load() {
        let Options { writes, keys, clients, .. } = Options::parse_from(["performance_test"]);
        assert_eq!((writes, keys, clients), (150, 25, 8));
        for wrong in ["--writes=0", "--keys=0", "--clients=0"] {
            let error = Options::try_parse_from(["performance_test", wrong]).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{error}");
        }
    }

    #[test]
    fn every_range_that_holds_a_write_has_a_bar() {
        let mut ms = vec![5.0; 200];
        ms.push(140.0);
        let text = bars(&ms);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains('#')).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("      0 to     10 ms    200 ###"), "{text}");
        assert!(lines[1].ends_with("ms      1 #"), "{text}");
        assert_eq!(bars(&[]), "");
    }
}
