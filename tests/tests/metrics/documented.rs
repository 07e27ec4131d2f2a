//! docs/metrics.md against the registries.

use std::fs;

use anyhow::{Context, ensure};

use crate::{exported, exported::Metric, repository};

const PAGE: &str = "docs/metrics.md";

/// The row that a metric should have.
fn row(metric: &Metric) -> String {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let cells = [&format!("`{}`", metric.name), &metric.kind, &labels.join(", "), metric.unit(), &metric.help];
    // A cell without anything in it is one space wide.
    cells
        .iter()
        .map(|cell| if cell.is_empty() { "|".to_owned() } else { format!("| {cell}") })
        .collect::<Vec<_>>()
        .join(" ")
        + " |"
}

pub(crate) fn every_metric_is_documented_and_no_other() -> anyhow::Result<()> {
    let page = fs::read_to_string(repository(PAGE)).context(PAGE)?;
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `quorumkv_")).collect();
    let expected: Vec<String> = exported::metrics()?.iter().map(row).collect();
    ensure!(expected.len() > 30, "only {} metrics were found", expected.len());
    let missing: Vec<&String> = expected.iter().filter(|row| !rows.contains(&row.as_str())).collect();
    let wrong: Vec<&&str> = rows.iter().filter(|row| !expected.iter().any(|expected| expected == *row)).collect();
    ensure!(missing.is_empty() && wrong.is_empty(), "{PAGE} lacks {missing:#?}\nand should not have {wrong:#?}");
    ensure!(rows == expected, "{PAGE} has the rows in another order, or twice, than:\n{}", expected.join("\n"));
    Ok(())
}
