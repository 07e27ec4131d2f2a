//! What repeated measurements say together.

use std::fmt;

use serde::Serialize;

/// Median, least and most of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The one in the middle; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these; nothing where there are none.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (middle, half) = (values.len() / 2, values.len().is_multiple_of(2));
        let median = if half { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] };
        Some(Self { median, min, max })
    }

    /// Of `one / other`, each measured beside the other.
    #[must_use]
    pub fn of_ratios(one: &[f64], other: &[f64]) -> Option<Self> {
        let pairs = one.iter().zip(other).filter(|(_, other)| **other > 0.0);
        Self::of(pairs.map(|(one, other)| one / other))
    }
}

impl fmt::Display for Spread {
    /// With as many digits as the format says: `{:.2}` gives `1.23 (1.20-1.31)`. A spread of nothing is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, min, max } = self;
        let digits = f.precision().unwrap_or(0);
        write!(f, "{median:.digits$}")?;
        if min < max { write!(f, " ({min:.digits$}–{max:.digits$})") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(Spread::of([9.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, min: 1.0, max: 9.0 }));
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine was slow in the second pair: the ratio does not show it.
        let ratios = Spread::of_ratios(&[20.0, 10.0, 21.0], &[10.0, 5.0, 10.0]).expect("three pairs");
        assert_eq!(ratios, Spread { median: 2.0, min: 2.0, max: 2.1 });
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[]), None);
    }

    #[test]
    fn a_spread_reads_as_median_and_range() {
        let spread = Spread { median: 1.234, min: 1.0, max: 2.0 };
        assert_eq!((format!("{spread:.2}"), format!("{spread}")), ("1.23 (1.00–2.00)".into(), "1 (1–2)".into()));
        assert_eq!(Spread::of([5.0]).expect("one").to_string(), "5");
    }

    proptest! {
        #[test]
        fn the_median_lies_between_the_others(values in prop::collection::vec(-1e9_f64..1e9, 1..20)) {
            let Spread { median, min, max } = Spread::of(values.iter().copied()).expect("some");
            prop_assert!(min <= median && median <= max);
            let below = values.iter().filter(|value| **value <= median).count();
            prop_assert!(2 * below >= values.len());
        }
    }
}
