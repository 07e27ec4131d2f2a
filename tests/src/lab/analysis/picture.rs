//! The picture: latency, throughput and success by write quorum, and a table; in the lab's four colours.

mod panels;

use anyhow::anyhow;

use super::{Analysis, report::conditions};
use crate::drawing;

/// Draws it.
///
/// # Errors
/// When there is nothing to draw, or the drawing fails, which is a bug.
pub fn svg(analysis: &Analysis) -> anyhow::Result<String> {
    anyhow::ensure!(!analysis.levels.is_empty(), "there is nothing to draw");
    drawing::svg("quorumkv: what a write quorum costs", &conditions(analysis), (2, 2), |quarters| {
        let [latency, throughput, success, summary] = quarters else {
            return Err(anyhow!("two by two are not four"));
        };
        panels::latency(latency, analysis)?;
        panels::throughput(throughput, analysis)?;
        panels::success(success, analysis)?;
        panels::summary(summary, analysis)
    })
}
