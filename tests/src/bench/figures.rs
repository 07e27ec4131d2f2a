//! What was measured, by what was asked.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{
    generator::{Pace, Sample},
    spread::Spread,
    system::{Operation, Storage, System},
};

/// What a measurement is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Series {
    /// Systems beside each other, in a closed loop.
    Compare,
    /// At a fixed rate below the most that the system takes.
    OpenLoop,
    /// More and more keys.
    Keys,
    /// Larger and larger values.
    Values,
    /// More and more followers.
    Followers,
    /// More and more connections.
    Connections,
}

/// What was asked, and of whom.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// What it is part of.
    pub series: Series,
    /// Who was asked.
    pub system: System,
    /// Where it keeps data.
    pub storage: Storage,
    /// What was asked for.
    pub operation: Operation,
    /// Connections that asked.
    pub connections: usize,
    /// Keys that were asked for.
    pub keys: u64,
    /// Size of a value, in bytes.
    pub value_bytes: usize,
    /// Copies besides the first.
    pub followers: usize,
}

/// What one measurement showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Which of the repeats.
    pub repeat: usize,
    /// The rate that was asked for, of an open loop.
    pub offered: Option<f64>,
    /// Successful operations a second.
    pub per_second: f64,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: f64,
    /// 999 of 1000 took no longer, in milliseconds.
    pub p999_ms: f64,
    /// Processor time of all processes of the system, per operation, in microseconds.
    pub servers_us: f64,
    /// Processor time of the load, per operation, in microseconds.
    pub client_us: f64,
    /// Memory of all processes of the system together, in MiB.
    pub resident_mib: f64,
    /// Operations that failed.
    pub failed: u64,
}

impl Figures {
    /// Of a sample that succeeded at least once.
    #[must_use]
    pub fn of(sample: &Sample, repeat: usize, pace: Pace) -> Option<Self> {
        if sample.operations == 0 {
            return None;
        }
        let operations = sample.operations as f64;
        let ms = |share: f64| sample.latencies.value_at_quantile(share) as f64 / 1e6;
        Some(Self {
            repeat,
            offered: match pace {
                Pace::Closed => None,
                Pace::Open(per_second) => Some(per_second),
            },
            per_second: operations / sample.elapsed.as_secs_f64(),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
            p999_ms: ms(0.999),
            servers_us: sample.servers.as_secs_f64() * 1e6 / operations,
            client_us: sample.client.as_secs_f64() * 1e6 / operations,
            resident_mib: sample.resident_kib as f64 / 1024.0,
            failed: sample.failed,
        })
    }
}

/// One of the numbers in [`Figures`].
pub type Figure = fn(&Figures) -> f64;

/// What repeats of one measurement showed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What was asked.
    pub point: Point,
    /// One for each repeat.
    pub samples: Vec<Figures>,
}

impl Row {
    /// Over all repeats.
    ///
    /// # Panics
    /// Never: a row has at least one sample.
    #[must_use]
    pub fn spread(&self, figure: Figure) -> Spread {
        Spread::of(self.samples.iter().map(figure)).expect("a row begins with its first sample")
    }

    /// Operations that failed, of all repeats.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.samples.iter().map(|figures| figures.failed).sum()
    }
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { point, samples } = self;
        let figures: [(&str, Figure); 7] = [
            ("operationsPerSecond", |figures| figures.per_second),
            ("p50Ms", |figures| figures.p50_ms),
            ("p99Ms", |figures| figures.p99_ms),
            ("p999Ms", |figures| figures.p999_ms),
            ("serversMicrosecondsPerOperation", |figures| figures.servers_us),
            ("clientMicrosecondsPerOperation", |figures| figures.client_us),
            ("residentMib", |figures| figures.resident_mib),
        ];
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("asked", point)?;
        map.serialize_entry("repeats", &samples.len())?;
        map.serialize_entry("failed", &self.failed())?;
        if let Some(offered) = Spread::of(samples.iter().filter_map(|figures| figures.offered)) {
            map.serialize_entry("offeredPerSecond", &offered)?;
        }
        for (name, figure) in figures {
            map.serialize_entry(name, &self.spread(figure))?;
        }
        map.end()
    }
}

/// All that was measured, in the order in which it was first asked.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Rows(Vec<Row>);

impl Rows {
    /// Adds a sample to those of the same point.
    pub fn add(&mut self, point: Point, figures: Figures) {
        match self.0.iter_mut().find(|row| row.point == point) {
            Some(row) => row.samples.push(figures),
            None => self.0.push(Row { point, samples: vec![figures] }),
        }
    }

    /// Those of a series.
    pub fn of(&self, series: Series) -> impl Iterator<Item = &Row> {
        self.0.iter().filter(move |row| row.point.series == series)
    }

    /// The first that is as `wanted`.
    pub fn find(&self, series: Series, wanted: impl Fn(&Point) -> bool) -> Option<&Row> {
        self.of(series).find(|row| wanted(&row.point))
    }
}

/// One figure of `one` divided by that of `other`, repeat by repeat.
#[must_use]
pub fn ratio(one: &Row, other: &Row, figure: Figure) -> Option<Spread> {
    let pairs = one.samples.iter().filter_map(|figures| {
        let beside = other.samples.iter().find(|beside| beside.repeat == figures.repeat)?;
        Some((figure(figures), figure(beside)))
    });
    let (one, other): (Vec<f64>, Vec<f64>) = pairs.unzip();
    Spread::of_ratios(&one, &other)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::*;

    /// A write to memory by 64 connections.
    pub(crate) fn point(system: System) -> Point {
        Point {
            series: Series::Compare,
            system,
            storage: Storage::Memory,
            operation: Operation::Write { quorum: 3 },
            connections: 64,
            keys: 10_000,
            value_bytes: 256,
            followers: 5,
        }
    }

    pub(crate) fn figures(repeat: usize, per_second: f64) -> Figures {
        Figures {
            repeat,
            offered: None,
            per_second,
            p50_ms: 6.4e4 / per_second,
            p99_ms: 1e5 / per_second,
            p999_ms: 2e5 / per_second,
            servers_us: 1e6 / per_second,
            client_us: 1e5 / per_second,
            resident_mib: 60.0,
            failed: 0,
        }
    }

    #[test]
    fn figures_count_per_operation() {
        let mut latencies = Histogram::new(3).expect("three digits");
        (1..=1000).for_each(|number: u64| latencies.record(number * 1_000_000).expect("it grows"));
        let sample = Sample {
            operations: 1000,
            failed: 2,
            failure: None,
            elapsed: Duration::from_millis(500),
            latencies,
            servers: Duration::from_millis(400),
            client: Duration::from_millis(50),
            resident_kib: 2048,
        };
        let found = Figures::of(&sample, 1, Pace::Open(2100.0)).expect("it succeeded");
        assert_eq!((found.per_second, found.offered, found.failed), (2000.0, Some(2100.0), 2));
        assert_eq!((found.servers_us, found.client_us, found.resident_mib), (400.0, 50.0, 2.0));
        for (found, wanted) in [(found.p50_ms, 500.0), (found.p99_ms, 990.0), (found.p999_ms, 999.0)] {
            assert!((found - wanted).abs() < 1.0, "{found} instead of {wanted}");
        }
        assert_eq!(Figures::of(&Sample { operations: 0, ..sample }, 1, Pace::Closed), None);
    }

    #[test]
    fn samples_of_the_same_point_are_repeats_of_it() {
        let mut rows = Rows::default();
        for repeat in 0..3 {
            rows.add(point(System::Quorumkv), figures(repeat, 1000.0 + repeat as f64));
            rows.add(point(System::Redis), figures(repeat, 500.0));
        }
        assert_eq!(rows.of(Series::Compare).count(), 2);
        assert_eq!(rows.of(Series::Keys).count(), 0);
        let row = rows.find(Series::Compare, |point| point.system == System::Quorumkv).expect("it was measured");
        assert_eq!(row.spread(|figures| figures.per_second), Spread { median: 1001.0, min: 1000.0, max: 1002.0 });
        let json = serde_json::to_value(row).expect("texts are its keys");
        assert_eq!(json["operationsPerSecond"]["median"], 1001.0);
        assert_eq!((&json["asked"]["connections"], &json["repeats"]), (&64.into(), &3.into()));
    }

    #[test]
    fn a_ratio_compares_the_same_repeat() {
        let one = Row { point: point(System::Quorumkv), samples: vec![figures(0, 100.0), figures(2, 300.0)] };
        // The first repeat of the other one is missing.
        let other = Row { point: point(System::Redis), samples: vec![figures(1, 10.0), figures(2, 100.0)] };
        let found = ratio(&one, &other, |figures| figures.per_second).expect("one pair");
        assert_eq!(found, Spread { median: 3.0, min: 3.0, max: 3.0 });
    }
}
