//! The analysis in words and tables, for a terminal and as Markdown.

use std::fmt;

use quorumkv_api::settings::format_duration;

use super::{Analysis, Level};
use crate::lab::{checks::tally, table::table};

/// What was measured, in a line.
pub(super) fn conditions(analysis: &Analysis) -> String {
    let Analysis { followers, delay, clients, writes, keys, .. } = analysis;
    let (min, max) = (format_duration(delay.min), format_duration(delay.max));
    format!(
        "{followers} followers, simulated round trip {min} to {max}, {clients} clients, {writes} writes per quorum on {keys} keys"
    )
}

pub(super) fn terminal(analysis: &Analysis, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "\n{}: {}\n", analysis.store, conditions(analysis))?;
    writeln!(f, "{}", latencies(analysis))?;
    if has_published(analysis) {
        writeln!(f, "{}", beside_the_lab(analysis))?;
    }
    for file in &analysis.files {
        writeln!(f, "written: {}", file.display())?;
    }
    writeln!(f, "{}", tally(&analysis.checks))
}

pub(super) fn markdown(analysis: &Analysis) -> String {
    let mut text = format!(
        "# What a write quorum costs\n\n\
         Measured on {}: {}.\n\n\
         ![Latency, throughput and success by write quorum](quorum_analysis.png)\n\n\
         ## Latency and throughput\n\n{}\n\
         The limit is the simulated round trips alone: a write waits for the q-th fastest of n, whose mean is\n\
         min + (max - min) * q / (n + 1). Latency is what a client waited; throughput counts from the first request\n\
         to the last answer, so it contains the end, when fewer and fewer clients are left.\n\n\
         ## The leader's own clock\n\n\
         From append to answer, without the client and its connection:\n\n{}\n",
        analysis.store,
        conditions(analysis),
        latencies(analysis),
        replication(analysis),
    );
    if has_published(analysis) {
        text += &format!(
            "## Beside the classroom lab\n\n\
             The lab published these figures for the same load, its Python services and the same delay. It put 150 to\n\
             200 ms of every write down to its web framework.\n\n{}\n",
            beside_the_lab(analysis)
        );
    }
    text += "## Checks\n\n";
    for check in &analysis.checks {
        text += &format!("- {check}\n");
    }
    text += &format!("\n{}.\n", tally(&analysis.checks));
    text
}

fn has_published(analysis: &Analysis) -> bool {
    analysis.levels.iter().any(|level| level.published.is_some())
}

fn one(value: f64) -> String {
    format!("{value:.1}")
}

fn or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), one)
}

fn latencies(analysis: &Analysis) -> String {
    let header = [
        "quorum",
        "mean ms",
        "limit",
        "above",
        "median ms",
        "limit",
        "p95 ms",
        "limit",
        "p99 ms",
        "limit",
        "writes/s",
        "limit",
        "acknowledged",
    ];
    let rows = analysis.levels.iter().map(|level| {
        let Level { write_quorum, measured, limit, published: _ } = level;
        let mut row = vec![write_quorum.to_string()];
        match measured.latency_ms {
            Some(latency) => {
                let above = format!("{:+.1} %", 100.0 * (latency.mean / limit.mean.max(f64::MIN_POSITIVE) - 1.0));
                let above = if limit.mean > 0.0 { above } else { "-".to_owned() };
                row.extend([one(latency.mean), one(limit.mean), above]);
                row.extend([latency.median, limit.median, latency.p95, limit.p95, latency.p99, limit.p99].map(one));
            }
            None => row.extend(std::iter::repeat_n("-".to_owned(), 9)),
        }
        row.extend([one(measured.writes_per_second), or_dash(limit.writes_per_second)]);
        row.push(format!("{} of {}", measured.acked, measured.acked + measured.failures()));
        row
    });
    table(&header, 0, rows)
}

fn replication(analysis: &Analysis) -> String {
    let rows = analysis.levels.iter().filter_map(|level| {
        let latency = level.measured.replication_latency_ms?;
        let mut row = vec![level.write_quorum.to_string(), latency.count.to_string()];
        row.extend([latency.mean, latency.median, latency.p95, latency.p99].map(one));
        Some(row)
    });
    table(&["quorum", "writes", "mean ms", "median ms", "p95 ms", "p99 ms"], 0, rows)
}

fn beside_the_lab(analysis: &Analysis) -> String {
    let header =
        ["quorum", "mean ms", "lab", "p95 ms", "lab", "replication mean ms", "lab", "writes/s", "lab", "times the lab"];
    let rows = analysis.levels.iter().filter_map(|level| {
        let published = level.published?;
        let latency = level.measured.latency_ms;
        let replication = level.measured.replication_latency_ms;
        let rate = level.measured.writes_per_second;
        let mut row = vec![level.write_quorum.to_string()];
        row.extend([or_dash(latency.map(|latency| latency.mean)), one(published.latency[0])]);
        row.extend([or_dash(latency.map(|latency| latency.p95)), one(published.latency[2])]);
        row.extend([or_dash(replication.map(|latency| latency.mean)), one(published.replication_latency[0])]);
        row.extend([one(rate), one(published.writes_per_second), one(rate / published.writes_per_second)]);
        Some(row)
    });
    table(&header, 0, rows)
}
