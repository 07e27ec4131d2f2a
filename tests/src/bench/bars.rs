//! What is wanted of this store, and what of it was reached. Judged by medians.

use serde::Serialize;

use super::{
    figures::{Figure, Row, Rows, Series, ratio},
    spread::Spread,
    system::{Operation, Storage, System},
};
use crate::lab::checks::Check;

/// One thing that is wanted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What.
    pub name: String,
    /// How much of it.
    pub wanted: String,
    /// What was found; nothing where it was not measured.
    pub found: Option<String>,
    /// Whether that is enough; nothing where it was not measured.
    pub passed: Option<bool>,
}

/// Which side of a number is wanted.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

impl Wanted {
    fn bar(self, name: String, unit: &str, found: Option<Spread>) -> Bar {
        let (words, passed) = match self {
            Self::AtLeast(least) => (format!("at least {least}{unit}"), found.map(|found| found.median >= least)),
            Self::AtMost(most) => (format!("at most {most}{unit}"), found.map(|found| found.median <= most)),
        };
        Bar { name, wanted: words, found: found.map(|found| format!("{found:.2}")), passed }
    }
}

const PER_SECOND: Figure = |figures| figures.per_second;
const SERVERS: Figure = |figures| figures.servers_us;
const P50: Figure = |figures| figures.p50_ms;

/// Judges everything that was measured.
#[must_use]
pub fn judge(rows: &Rows, delay: &[Check]) -> Vec<Bar> {
    let write = Operation::Write { quorum: 3 };
    let row = |system, storage, operation, connections| {
        rows.find(Series::Compare, |point| {
            (point.system, point.storage, point.operation, point.connections)
                == (system, storage, operation, connections)
        })
    };
    let beside = |other, storage, operation, connections, figure: Figure| {
        both(
            row(System::Quorumkv, storage, operation, connections),
            row(other, storage, operation, connections),
            figure,
        )
    };
    let mut bars = Vec::new();
    for storage in [Storage::Memory, Storage::Persistent] {
        let times = if storage == Storage::Memory { 6.0 } else { 3.0 };
        for (other, least) in [(System::Redis, 1.0), (System::EtcdGateway, times)] {
            for connections in [64, 256] {
                let found = beside(other, storage, write, connections, PER_SECOND);
                let name = format!("writes/s, {storage}, q 3, {connections} connections, beside {other}");
                bars.push(Wanted::AtLeast(least).bar(name, "x", found));
            }
        }
    }
    for connections in [64, 256] {
        let found = beside(System::Redis, Storage::Memory, write, connections, SERVERS);
        let name = format!("CPU per write, memory, q 3, {connections} connections, beside Redis");
        bars.push(Wanted::AtMost(1.0).bar(name, "x", found));
    }
    let found = beside(System::Redis, Storage::Memory, write, 1, P50);
    bars.push(Wanted::AtMost(1.2).bar("p50 of a write, memory, q 3, 1 connection, beside Redis".into(), "x", found));
    let found = beside(System::Axum, Storage::Memory, Operation::Read, 64, PER_SECOND);
    bars.push(Wanted::AtLeast(0.9).bar("reads/s, 64 connections, beside bare axum".into(), "x", found));
    let open =
        rows.find(Series::OpenLoop, |point| (point.system, point.storage) == (System::Quorumkv, Storage::Memory));
    let found = open.map(|row| row.spread(|figures| figures.p999_ms));
    bars.push(Wanted::AtMost(10.0).bar("p99.9 at 70 % of the most, open loop, memory".into(), " ms", found));
    for connections in [64, 256] {
        let of = |quorum| row(System::Quorumkv, Storage::Memory, Operation::Write { quorum }, connections);
        let name = format!("writes/s, memory, q 5 beside q 1, {connections} connections");
        bars.push(Wanted::AtLeast(0.9).bar(name, "x", both(of(5), of(1), PER_SECOND)));
    }
    for (operation, name) in [(write, "write"), (Operation::Read, "read")] {
        let mut sizes: Vec<&Row> = rows.of(Series::Keys).filter(|row| row.point.operation == operation).collect();
        sizes.sort_by_key(|row| row.point.keys);
        let most = sizes.last().copied().filter(|row| row.point.keys >= 1_000_000);
        let name = format!("CPU per {name}, a million keys beside a thousand");
        bars.push(Wanted::AtMost(1.2).bar(name, "x", both(most, sizes.first().copied(), SERVERS)));
    }
    bars.extend(delay.iter().map(|check| {
        let Check { name, passed, expected, seen } = check.clone();
        Bar { name: format!("delay, {name}"), wanted: expected, found: Some(seen), passed: Some(passed) }
    }));
    bars
}

fn both(one: Option<&Row>, other: Option<&Row>, figure: Figure) -> Option<Spread> {
    ratio(one?, other?, figure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::tests::{figures, point};

    fn bar<'a>(bars: &'a [Bar], name: &str) -> &'a Bar {
        bars.iter().find(|bar| bar.name == name).unwrap_or_else(|| panic!("no {name} in {bars:#?}"))
    }

    #[test]
    fn a_bar_is_judged_by_what_was_measured_and_stays_open_otherwise() {
        let mut rows = Rows::default();
        for (repeat, (own, other)) in [(1200.0, 1000.0), (900.0, 1000.0), (1500.0, 1000.0)].into_iter().enumerate() {
            rows.add(point(System::Quorumkv), figures(repeat, own));
            rows.add(point(System::Redis), figures(repeat, other));
            rows.add(point(System::EtcdGateway), figures(repeat, 500.0));
        }
        let bars = judge(&rows, &[]);
        let beside = bar(&bars, "writes/s, memory, q 3, 64 connections, beside Redis");
        assert_eq!((beside.passed, beside.found.as_deref()), (Some(true), Some("1.20 (0.90–1.50)")));
        assert_eq!(bar(&bars, "writes/s, memory, q 3, 64 connections, beside etcd, JSON").passed, Some(false));
        let missing = bar(&bars, "writes/s, disk, q 3, 256 connections, beside Redis");
        assert_eq!((missing.passed, &missing.found), (None, &None));
    }
}
