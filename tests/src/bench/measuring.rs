//! One measurement after the other, and what became of them.

use std::{fmt::Display, time::Duration};

use anyhow::Context as _;

use super::{
    figures::{Figures, Point, Rows, Series},
    generator::{Pace, Plan, measure},
    system::{Server, System, version},
};
use crate::lab::program::{Context, Failure};

/// What is measured, with how long and how often.
pub struct Measuring<'a> {
    context: &'a Context,
    /// How often each is repeated.
    pub repeats: usize,
    /// How long each counts.
    pub length: Duration,
    missing: Vec<System>,
    /// What was measured so far.
    pub rows: Rows,
    /// What is missing, and what went wrong with other systems.
    pub notes: Vec<String>,
}

impl<'a> Measuring<'a> {
    /// Nothing yet.
    #[must_use]
    pub fn new(context: &'a Context, repeats: usize, length: Duration) -> Self {
        Self { context, repeats, length, missing: Vec::new(), rows: Rows::default(), notes: Vec::new() }
    }

    /// Notes which of these are not on this machine.
    pub fn look_for(&mut self, systems: &[System]) {
        self.missing = systems.iter().copied().filter(|system| version(*system).is_none()).collect();
        let missing: Vec<System> = self.missing.clone();
        for system in missing.into_iter().filter(|system| *system != System::Quorumkv) {
            self.note(format!("{system}: not on this machine, so not measured"));
        }
    }

    /// Whether a system was looked for and not found. This store is started all the same: the error says why.
    #[must_use]
    pub fn is_missing(&self, system: System) -> bool {
        system != System::Quorumkv && self.missing.contains(&system)
    }

    /// Tells how far it is.
    pub fn progress(&self, line: impl Display) {
        self.context.progress(line);
    }

    /// Tells something that the report must say too.
    pub fn note(&mut self, note: String) {
        self.progress(&note);
        self.notes.push(note);
    }

    /// Does `work` unless a signal asks for the end.
    ///
    /// # Errors
    /// Those of `work`, and when it was ended.
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> Result<T, Failure> {
        self.context.unless_interrupted(async { Ok(work.await?) }).await
    }

    /// What another system failed at becomes a note; what this one failed at stays an error.
    ///
    /// # Errors
    /// When this store failed.
    pub fn unless_noted<T>(
        &mut self,
        system: System,
        what: &str,
        done: anyhow::Result<T>,
    ) -> Result<Option<T>, Failure> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(error) if system == System::Quorumkv => Err(error.context(what.to_owned()).into()),
            Err(error) => {
                self.note(format!("{what}: {error:#}"));
                Ok(None)
            }
        }
    }

    /// The most that a system took in this repeat of what `point` asks for.
    #[must_use]
    pub fn most(&self, point: Point, repeat: usize) -> Option<f64> {
        let same = |other: &Point| {
            (other.system, other.storage, other.operation) == (point.system, point.storage, point.operation)
        };
        let rows = self.rows.of(Series::Compare).filter(|row| same(&row.point));
        let samples = rows.flat_map(|row| &row.samples).filter(|figures| figures.repeat == repeat);
        samples.map(|figures| figures.per_second).reduce(f64::max)
    }

    /// Measures a point, if the system has the operation.
    ///
    /// # Errors
    /// When this store fails, or a signal asks for the end.
    pub async fn point(&mut self, point: Point, pace: Pace, repeat: usize, server: &mut Server) -> Result<(), Failure> {
        let Point { system, storage, operation, connections, keys, value_bytes, .. } = point;
        let length = self.length;
        let measuring = async {
            let target = server.target(system, operation, value_bytes).await;
            let Some(target) = target.context("before it is measured")? else { return Ok(Ok(None)) };
            let plan = Plan { targets: vec![target], keys, connections, pace, warm_up: length.mul_f64(0.15), length };
            Ok(measure(plan, server.processes()?).await.map(Some))
        };
        let measured = self.context.unless_interrupted(measuring).await?;
        let what = format!("{system}, {storage}, {operation}, {connections} connections");
        let Some(sample) = self.unless_noted(system, &what, measured)?.flatten() else { return Ok(()) };
        if let Some(failure) = &sample.failure {
            self.note(format!("{what}: {} answers were wrong, the first: {failure}", sample.failed));
        }
        let Some(figures) = Figures::of(&sample, repeat, pace) else {
            self.note(format!("{what}: nothing succeeded"));
            return Ok(());
        };
        self.progress(format!(
            "{}: {what}, {keys} keys, {value_bytes} B: {:.0}/s, p50 {:.2} ms, servers {:.0} us, client {:.0} us",
            repeat + 1,
            figures.per_second,
            figures.p50_ms,
            figures.servers_us,
            figures.client_us
        ));
        self.rows.add(point, figures);
        Ok(())
    }
}
