//! What scenarios cost: one row for each time that something happened to a store under load.
//!
//! A [`Row`] is made of what the load's clients did and of what the store holds at the end. [`document`] is the table
//! with how it was measured, for a file.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use quorumkv_inspect::table::table;

use crate::{
    chaos::run::Summary,
    history::{Action, FinalValue, Outcome},
    load::Report,
};

/// One scenario under load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// What happened.
    pub scenario: String,
    /// From the start of the load to its end.
    pub duration: Duration,
    /// Writes that clients tried. However often one was sent, it is one.
    pub attempted: usize,
    /// Those that were answered with success.
    pub acked: usize,
    /// Acknowledged writes that are gone.
    pub lost: usize,
    /// The longest time in which no write was acknowledged.
    pub longest_outage: Duration,
}

impl Row {
    /// Of a load, and what the store held when it was over.
    #[must_use]
    pub fn of(scenario: impl Into<String>, report: &Report, content: &BTreeMap<String, FinalValue>) -> Self {
        let acked = report.acked();
        Self {
            scenario: scenario.into(),
            duration: report.elapsed,
            attempted: acked + report.failed().count(),
            acked,
            lost: lost(report, content),
            longest_outage: report.longest_gap(),
        }
    }

    /// Of a run of faults, which fails by itself when a write is lost.
    #[must_use]
    pub fn of_chaos(summary: &Summary) -> Self {
        Self {
            scenario: format!("faults, one after the other ({}, seed {})", summary.setup, summary.seed),
            duration: summary.elapsed,
            attempted: summary.attempted,
            acked: summary.acked,
            lost: 0,
            longest_outage: summary.longest_outage,
        }
    }
}

/// Acknowledged writes of which the content shows that they are gone: later ones than the one that is there, all of
/// a key that is not there or that holds what nobody wrote, and all but one of those that got the same version.
///
/// Where the last write is one of unknown outcome it may have come after all others; then the history tells.
fn lost(report: &Report, content: &BTreeMap<String, FinalValue>) -> usize {
    let mut acked: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut outcomes: HashMap<(&str, &str), Option<u64>> = HashMap::new();
    let mut versions = HashSet::new();
    let mut lost = 0;
    for operation in &report.operations {
        let Action::Write { value, outcome } = &operation.action else { continue };
        let version = match outcome {
            Outcome::Acked { version, .. } => Some(*version),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => None,
        };
        outcomes.insert((operation.key.as_str(), value.as_str()), version);
        if let Some(version) = version {
            if versions.insert(version) {
                acked.entry(&operation.key).or_default().push(version);
            } else {
                lost += 1;
            }
        }
    }
    for (key, versions) in acked {
        let found = content.get(key).and_then(|found| outcomes.get(&(key, found.value.as_str())));
        lost += match found {
            None => versions.len(),
            Some(None) => 0,
            Some(Some(last)) => versions.iter().filter(|version| *version > last).count(),
        };
    }
    lost
}

/// The table, in Markdown, which reads well on a terminal too.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let header = ["scenario", "duration", "writes attempted", "acknowledged", "lost", "longest outage"];
    let seconds = |duration: Duration| format!("{:.2} s", duration.as_secs_f64());
    let row = |row: &Row| {
        vec![
            row.scenario.clone(),
            seconds(row.duration),
            row.attempted.to_string(),
            row.acked.to_string(),
            row.lost.to_string(),
            seconds(row.longest_outage),
        ]
    };
    table(&header, 1, rows.iter().map(row))
}

/// Where and with what the rows were measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The command that measures again.
    pub command: String,
    /// Processors, kernel.
    pub machine: String,
    /// One line for each program.
    pub versions: Vec<String>,
}

impl Setting {
    /// This machine, with these versions.
    #[must_use]
    pub fn here(command: impl Into<String>, versions: Vec<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self { command: command.into(), machine: format!("{cores} cores, Linux {}", kernel.trim()), versions }
    }
}

/// The table with how it was measured.
#[must_use]
pub fn document(rows: &[Row], setting: &Setting) -> String {
    let Setting { command, machine, versions } = setting;
    let versions: String = versions.iter().map(|version| format!("- {version}\n")).collect();
    format!(
        "# What happens to writes when something happens to the store\n\nMeasured by `{command}` on {machine}.\n\n{versions}\n\
         Each row is a load on a KvCluster in a kind cluster while the scenario takes place, from before it begins until \
         the store is complete again. A write that a client sent several times is one. Lost is an acknowledged write that \
         the store does not hold at the end; besides, what every client saw is checked for linearizability, and all \
         replicas are compared. The longest outage is the longest time in which no write of any client was \
         acknowledged.\n\n{}",
        markdown(rows),
    )
}

#[cfg(test)]
mod tests;
