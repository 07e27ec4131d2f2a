//! Checks: what was expected, what was seen, and whether that is good.

use std::fmt;

use serde::Serialize;

use super::program::Context;

/// One check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub passed: bool,
    /// What should be seen.
    pub expected: String,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, passed, expected, seen } = self;
        let verdict = if *passed { "PASS" } else { "FAIL" };
        write!(f, "{verdict}  {name}: expected {expected}; seen: {seen}")
    }
}

/// The checks of a program so far. Each is printed when it is made.
pub struct Checks<'a> {
    context: &'a Context,
    made: Vec<Check>,
}

impl<'a> Checks<'a> {
    /// None yet.
    #[must_use]
    pub fn new(context: &'a Context) -> Self {
        Self { context, made: Vec::new() }
    }

    /// Adds one.
    pub fn record(
        &mut self,
        name: impl Into<String>,
        expected: impl Into<String>,
        passed: bool,
        seen: impl Into<String>,
    ) {
        let check = Check { name: name.into(), passed, expected: expected.into(), seen: seen.into() };
        self.context.result(&check);
        self.made.push(check);
    }

    /// Adds one whose observation says itself whether it is as expected: `Ok` and `Err` hold what was seen.
    pub fn observed(
        &mut self,
        name: impl Into<String>,
        expected: impl Into<String>,
        seen: Result<String, anyhow::Error>,
    ) {
        match seen {
            Ok(seen) => self.record(name, expected, true, seen),
            Err(error) => self.record(name, expected, false, format!("{error:#}")),
        }
    }

    /// All that were made.
    #[must_use]
    pub fn finish(self) -> Vec<Check> {
        self.made
    }
}

/// Whether there were checks, and all passed.
#[must_use]
pub fn all_passed(checks: &[Check]) -> bool {
    !checks.is_empty() && checks.iter().all(|check| check.passed)
}

/// How many passed and failed, as the last line of a table.
#[must_use]
pub fn tally(checks: &[Check]) -> String {
    let failed = checks.iter().filter(|check| !check.passed).count();
    format!("{} checks passed, {failed} failed", checks.len() - failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(passed: bool) -> Check {
        Check { name: "n".to_owned(), passed, expected: "e".to_owned(), seen: "s".to_owned() }
    }

    #[test]
    fn no_check_at_all_is_no_success() {
        assert!(!all_passed(&[]));
        assert!(all_passed(&[check(true), check(true)]));
        assert!(!all_passed(&[check(true), check(false)]));
    }

    #[test]
    fn a_line_says_what_was_expected_and_seen() {
        assert_eq!(check(false).to_string(), "FAIL  n: expected e; seen: s");
        assert_eq!(tally(&[check(true), check(false), check(true)]), "2 checks passed, 1 failed");
    }
}
