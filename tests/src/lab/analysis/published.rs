//! The classroom lab's published figures: 12 threads, 120 writes, five followers, delay 10 to 150 ms.

use std::time::Duration;

use quorumkv_api::Delay;
use serde::Serialize;

/// Its simulated round trip.
pub const DELAY: Delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };
/// Its clients.
pub const CLIENTS: usize = 12;

/// What the lab published for one quorum. Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Mean, median and 95th percentile of what its clients waited.
    pub latency: [f64; 3],
    /// Writes a second.
    pub writes_per_second: f64,
    /// Mean, median, 95th and 99th percentile of what its leader took to replicate.
    pub replication_latency: [f64; 4],
}

/// By write quorum, from one on.
const FIGURES: [Published; 5] = [
    figures([259.50, 253.38, 325.81], 45.65, [68.96, 60.14, 153.62, 177.67]),
    figures([298.94, 284.55, 448.03], 38.91, [89.97, 85.01, 184.77, 237.97]),
    figures([267.55, 258.67, 424.87], 43.43, [90.52, 87.19, 159.12, 170.14]),
    figures([249.21, 250.64, 321.01], 46.50, [107.44, 106.77, 154.71, 160.34]),
    figures([229.70, 228.36, 293.71], 50.18, [110.06, 108.39, 155.45, 174.00]),
];

const fn figures(latency: [f64; 3], writes_per_second: f64, replication_latency: [f64; 4]) -> Published {
    Published { latency, writes_per_second, replication_latency }
}

/// What the lab published for this quorum of five.
#[must_use]
pub fn figures_of(write_quorum: u8) -> Option<Published> {
    FIGURES.get(usize::from(write_quorum).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_figures_for_one_to_five() {
        assert_eq!(figures_of(0), None);
        assert_eq!(figures_of(6), None);
        let throughput: Vec<f64> = (1..=5).filter_map(figures_of).map(|found| found.writes_per_second).collect();
        assert_eq!(throughput, [45.65, 38.91, 43.43, 46.50, 50.18]);
    }
}
