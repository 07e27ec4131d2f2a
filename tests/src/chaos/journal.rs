//! What a run did so far, for the failure that it may end with.

use std::{collections::BTreeMap, sync::Mutex, time::Instant};

/// Lines with their times, and faults counted by kind.
#[derive(Debug)]
pub(super) struct Journal {
    began: Instant,
    lines: Mutex<Vec<String>>,
    kinds: Mutex<BTreeMap<&'static str, usize>>,
}

impl Default for Journal {
    fn default() -> Self {
        Self { began: Instant::now(), lines: Mutex::default(), kinds: Mutex::default() }
    }
}

impl Journal {
    pub(super) fn note(&self, what: &str) {
        let line = format!("{:8.3} s  {what}", self.began.elapsed().as_secs_f64());
        self.lines.lock().expect("nobody panics while writing it").push(line);
    }

    /// A line each.
    pub(super) fn text(&self) -> String {
        self.lines.lock().expect("nobody panics while writing it").join("\n")
    }

    /// Counts a fault of this kind.
    pub(super) fn count(&self, kind: &'static str) {
        *self.kinds.lock().expect("nobody panics while counting").entry(kind).or_default() += 1;
    }

    /// How often each kind of fault struck.
    pub(super) fn kinds(&self) -> BTreeMap<&'static str, usize> {
        self.kinds.lock().expect("nobody panics while counting").clone()
    }
}
