//! Panels of lines: processor time per operation, against connections and against keys.

use std::{collections::BTreeMap, iter};

use plotters::{
    coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    prelude::*,
};

use super::{look, many, with_one_quorum};
use crate::{
    bench::{
        figures::{Row, Rows, Series},
        spread::Spread,
        system::{Operation, Storage, System},
    },
    drawing::{
        Area,
        plot::{Axis, Line, Mark, Plot, top},
        text::{number, thousands},
    },
    lab::statistics::round_up,
};

/// Room to the right of a plot, for the names of its lines and their last values.
const NAMES: u32 = 266;
/// Least distance of two numbers below a plot, as a share of its width.
const APART: f64 = 0.15;

/// A panel of lines, above a logarithmic axis.
pub(super) struct Lines {
    pub(super) title: &'static str,
    below: String,
    beside: &'static str,
    /// Whether the values are on a logarithmic axis too. Otherwise theirs begins at zero.
    logarithmic: bool,
    curves: Vec<Curve>,
}

struct Curve {
    system: System,
    name: String,
    mark: Mark,
    /// Processor time by what grows, in microseconds.
    values: Vec<(f64, Spread)>,
}

/// What writes to memory cost each system, by connections.
pub(super) fn cost(rows: &Rows) -> Option<Lines> {
    let (quorum, writes) = with_one_quorum(rows, Storage::Memory)?;
    let mut systems: BTreeMap<System, Vec<&Row>> = BTreeMap::new();
    writes.into_iter().for_each(|row| systems.entry(row.point.system).or_default().push(row));
    let curves = systems.into_iter().filter_map(|(system, rows)| {
        let mut values = values(&rows, |row| row.point.connections as f64);
        // Short measurements may find nothing, which has no place on this axis.
        values.retain(|(_, spread)| spread.min > 0.0);
        (!values.is_empty()).then(|| Curve { system, name: system.to_string(), mark: look(system).mark, values })
    });
    let curves: Vec<Curve> = curves.collect();
    (!curves.is_empty()).then(|| Lines {
        title: "CPU per write, of all processes",
        below: format!("connections; quorum {quorum}, in memory"),
        beside: "CPU µs, logarithmic",
        logarithmic: true,
        curves,
    })
}

/// What operations cost this store as keys grow.
pub(super) fn growth(rows: &Rows) -> Option<Lines> {
    let mut operations: BTreeMap<Operation, Vec<&Row>> = BTreeMap::new();
    rows.of(Series::Keys).for_each(|row| operations.entry(row.point.operation).or_default().push(row));
    let (_, first) = operations.first_key_value()?;
    let point = first.first()?.point;
    let below = format!("keys; {}, in memory", many(point.connections, "connection"));
    let curves = operations.into_iter().map(|(operation, rows)| Curve {
        system: System::Quorumkv,
        name: operation.to_string(),
        mark: if operation == Operation::Read { Mark::Square } else { Mark::Circle },
        values: values(&rows, |row| row.point.keys as f64),
    });
    Some(Lines {
        title: "CPU per operation as keys grow, of all processes",
        below,
        beside: "CPU µs",
        logarithmic: false,
        curves: curves.collect(),
    })
}

fn values(rows: &[&Row], grown: fn(&Row) -> f64) -> Vec<(f64, Spread)> {
    let mut values: Vec<(f64, Spread)> =
        rows.iter().map(|row| (grown(row), row.spread(|figures| figures.servers_us))).collect();
    values.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    values
}

impl Lines {
    pub(super) fn systems(&self) -> impl Iterator<Item = System> {
        self.curves.iter().map(|curve| curve.system)
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let spreads = || self.curves.iter().flat_map(|curve| &curve.values).map(|(_, spread)| *spread);
        let most = spreads().map(|spread| spread.max).fold(0.0, f64::max);
        if self.logarithmic {
            let least = spreads().map(|spread| spread.min).fold(f64::MAX, f64::min);
            let steps = steps(least, most);
            let range = (steps[0]..steps[steps.len() - 1]).log_scale().with_key_points(few(steps));
            self.draw_along(area, range)
        } else {
            self.draw_along(area, 0.0..top(iter::once(most)))
        }
    }

    fn draw_along<Y>(
        &self,
        area: &Area<'_>,
        range: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    ) -> anyhow::Result<()>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut grown: Vec<f64> = self.curves.iter().flat_map(|curve| &curve.values).map(|(x, _)| *x).collect();
        grown.sort_by(f64::total_cmp);
        grown.dedup();
        let (first, last) = (grown[0], grown[grown.len() - 1]);
        let room = (last / first).powf(0.08).max(1.3);
        let below = Axis {
            name: &self.below,
            range: (first / room..last * room).log_scale().with_key_points(apart(&grown)),
            numbers: grown.len(),
            written,
        };
        let beside = Axis { name: self.beside, range, numbers: 9, written };
        let plot = Plot::new(area, self.title, below, beside, NAMES)?;
        for (x, Spread { min, max, .. }) in self.curves.iter().flat_map(|curve| &curve.values) {
            plot.whisker(*x, *min, *max)?;
        }
        let lines: Vec<Line> = self.curves.iter().map(Curve::line).collect();
        lines.iter().try_for_each(|line| plot.line(line))?;
        plot.names(&lines)
    }
}

impl Curve {
    /// Named with its last value.
    fn line(&self) -> Line {
        let medians: Vec<(f64, f64)> = self.values.iter().map(|(x, spread)| (*x, spread.median)).collect();
        let last = medians.last().map_or_else(String::new, |(_, last)| format!(": {} µs", number(*last)));
        Line::new(format!("{}{last}", self.name), look(self.system).colour, self.mark, medians)
    }
}

/// A number beside an axis.
fn written(value: &f64) -> String {
    let is_whole = |value: f64| (value - value.round()).abs() < 1e-9;
    match *value {
        value if value >= 1e6 && is_whole(value / 1e6) => format!("{:.0} million", value / 1e6),
        value if is_whole(value) => thousands(&format!("{value:.0}")),
        value => format!("{value:.2}"),
    }
}

/// 1, 2, 5, 10 and so on, from one that is not above `least` to one that is not below `most`.
fn steps(least: f64, most: f64) -> Vec<f64> {
    // A step is at most two and a half times the one before.
    let first = round_up(least / 2.5);
    let mut steps = vec![first];
    let mut last = first;
    while last < most || steps.len() < 2 {
        last = round_up(last * 1.5);
        steps.push(last);
    }
    steps
}

/// All of them, or if they are many only 1, 10, 100 and so on.
fn few(mut steps: Vec<f64>) -> Vec<f64> {
    if steps.len() > 8 {
        steps.retain(|step| (step.log10() - step.log10().round()).abs() < 1e-9);
    }
    steps
}

/// Of ascending numbers, those that have room beside each other on a logarithmic axis.
fn apart(grown: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (grown.first(), grown.last()) else { return Vec::new() };
    let width = (last / first).ln();
    let mut chosen = vec![*first];
    for number in &grown[1..] {
        let before = chosen[chosen.len() - 1];
        if (number / before).ln() >= APART * width {
            chosen.push(*number);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_hold_what_they_must() {
        assert_eq!(steps(21.0, 45.0), [10.0, 20.0, 50.0]);
        assert_eq!(steps(7.0, 7.0), [5.0, 10.0]);
        assert_eq!(few(steps(1.5, 3000.0)), [1.0, 10.0, 100.0, 1000.0]);
    }

    proptest! {
        #[test]
        fn all_values_lie_within_the_steps(least in 1e-3_f64..1e4, times in 1.0_f64..1e5) {
            let steps = steps(least, least * times);
            prop_assert!(steps[0] <= least * (1.0 + 1e-9) && steps[steps.len() - 1] >= least * times * (1.0 - 1e-9));
            prop_assert!(steps[0] >= least / 5.1 && few(steps.clone()).len() <= 9, "{steps:?}");
            prop_assert!(steps.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    #[test]
    fn numbers_below_a_plot_are_apart_and_written_short() {
        assert_eq!(apart(&[1.0, 64.0, 256.0]), [1.0, 64.0, 256.0]);
        assert_eq!(apart(&[60.0, 64.0, 256.0]), [60.0, 256.0]);
        assert_eq!(apart(&[64.0]), [64.0]);
        let numbers = [1.0, 0.05, 256.0, 10_000.0, 1e6, 2_500_000.0];
        assert_eq!(numbers.map(|value| written(&value)), ["1", "0.05", "256", "10,000", "1 million", "2,500,000"]);
    }
}
