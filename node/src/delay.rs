//! Draws the simulated round trips, from a generator that can be seeded.

use std::time::Duration;

use quorumkv_api::Delay;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Draws one round trip per follower for each write.
#[derive(Debug)]
pub struct RoundTrips {
    generator: SmallRng,
}

impl RoundTrips {
    /// Equal seeds draw equal round trips.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { generator: SmallRng::seed_from_u64(seed) }
    }

    /// Independent draws, uniform in `[delay.min, delay.max]`; none at all when nothing is simulated.
    pub fn draw(&mut self, delay: Delay, followers: usize) -> Vec<Duration> {
        if delay.is_zero() {
            return Vec::new();
        }
        (0..followers).map(|_| self.generator.random_range(delay.min..=delay.max)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAB: Delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };

    #[test]
    fn without_a_delay_nothing_is_drawn() {
        assert!(RoundTrips::seeded(1).draw(Delay::ZERO, 5).is_empty());
    }

    #[test]
    fn equal_seeds_draw_equal_round_trips_and_others_do_not() {
        assert_eq!(RoundTrips::seeded(7).draw(LAB, 5), RoundTrips::seeded(7).draw(LAB, 5));
        assert_ne!(RoundTrips::seeded(7).draw(LAB, 5), RoundTrips::seeded(8).draw(LAB, 5));
    }

    #[test]
    fn a_fixed_delay_is_drawn_exactly() {
        let fixed = Delay { min: LAB.max, max: LAB.max };
        assert_eq!(RoundTrips::seeded(1).draw(fixed, 3), [LAB.max; 3]);
    }

    /// The lab's line: the q-th fastest of five has the mean min + (max - min) * q / 6.
    #[test]
    fn the_order_statistics_of_five_draws_lie_on_the_labs_line() {
        const WRITES: u32 = 40_000;
        let mut trips = RoundTrips::seeded(2026);
        let mut sums_ms = [0.0; 5];
        for _ in 0..WRITES {
            let mut drawn = trips.draw(LAB, 5);
            assert!(drawn.iter().all(|trip| (LAB.min..=LAB.max).contains(trip)));
            drawn.sort_unstable();
            for (sum, trip) in sums_ms.iter_mut().zip(drawn) {
                *sum += trip.as_secs_f64() * 1e3;
            }
        }
        for (sum, expected) in sums_ms.into_iter().zip([33.33, 56.67, 80.0, 103.33, 126.67]) {
            let mean = sum / f64::from(WRITES);
            // The standard error of each mean is below 0.15 ms.
            assert!((mean - expected).abs() < 0.6, "mean {mean} ms, expected {expected} ms");
        }
    }
}
