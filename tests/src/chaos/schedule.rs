//! Which faults come when: an endless sequence of rounds, determined by a seed.

use std::{fmt, ops::RangeInclusive, time::Duration};

use quorumkv_api::Delay;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Followers of the store that the schedule is for.
pub const FOLLOWERS: u8 = 5;
/// The quorum that the store begins with.
pub const FIRST_QUORUM: u8 = 3;

/// How long a halted node stays halted, in milliseconds: longer than a lease of one second, sometimes too short
/// to be replaced and sometimes long enough.
const HALT_MS: RangeInclusive<u64> = 1200..=4000;
/// How long the manager is paused, in milliseconds.
const PAUSE_MS: RangeInclusive<u64> = 500..=2500;
/// When in a round a fault comes that does not come at once, in milliseconds: while others are being mended.
const LATER_MS: RangeInclusive<u64> = 50..=2500;
/// Simulated round trips to change between, in milliseconds.
const DELAYS_MS: [(u64, u64); 4] = [(0, 0), (0, 5), (2, 20), (10, 60)];

/// Whom a fault hits; found out when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Whoever leads then.
    Leader,
    /// One of the others: the so-many-th of those that were not hit in this round, counted around.
    Follower(usize),
}

/// One thing that goes wrong, or is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL: the node's copy in memory is lost.
    Kill(Victim),
    /// SIGTERM: the node answers what is under way and ends; its copy is lost too.
    Terminate(Victim),
    /// SIGSTOP, and SIGCONT after so long: nothing is lost, but the node believes that no time has passed.
    Halt(Victim, Duration),
    /// The manager is stopped and goes on after so long.
    PauseManager(Duration),
    /// The manifest is saved with another quorum and delay.
    Change {
        /// New write quorum.
        write_quorum: u8,
        /// New simulated round trip.
        delay: Delay,
    },
}

impl Fault {
    /// Whether a copy of the data is lost by it.
    #[must_use]
    pub const fn loses_a_copy(&self) -> bool {
        matches!(self, Self::Kill(_) | Self::Terminate(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victim) => write!(f, "kill {victim:?}"),
            Self::Terminate(victim) => write!(f, "terminate {victim:?}"),
            Self::Halt(victim, time) => write!(f, "halt {victim:?} for {time:?}"),
            Self::PauseManager(time) => write!(f, "pause the manager for {time:?}"),
            Self::Change { write_quorum, delay } => write!(f, "writeQuorum {write_quorum}, delay {delay}"),
        }
    }
}

/// A fault and when it comes, counted from the beginning of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub after: Duration,
    /// What.
    pub fault: Fault,
}

/// Faults that come before the store has recovered from the others among them.
pub type Round = Vec<Planned>;

/// The rounds of a seed.
#[derive(Debug)]
pub struct Schedule {
    rng: StdRng,
    quorum: u8,
}

impl Schedule {
    /// The schedule that belongs to this seed, for a store of [`FOLLOWERS`] that begins with [`FIRST_QUORUM`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), quorum: FIRST_QUORUM }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    fn victim(&mut self) -> Victim {
        if self.chance(50) {
            Victim::Leader
        } else {
            Victim::Follower(self.rng.random_range(0..usize::from(FOLLOWERS)))
        }
    }

    /// At once, or while others are being mended.
    fn plan(&mut self, fault: Fault) -> Planned {
        let after = if self.chance(50) { Duration::ZERO } else { self.millis(LATER_MS) };
        Planned { after, fault }
    }

    fn change(&mut self) -> Fault {
        self.quorum = self.rng.random_range(1..=FOLLOWERS);
        let (min, max) = DELAYS_MS[self.rng.random_range(0..DELAYS_MS.len())];
        let delay = Delay { min: Duration::from_millis(min), max: Duration::from_millis(max) };
        Fault::Change { write_quorum: self.quorum, delay }
    }

    fn round(&mut self) -> Round {
        let mut round = Round::new();
        let mut covered = covered_losses(self.quorum);
        if self.chance(35) {
            let change = self.change();
            round.push(self.plan(change));
            // Either quorum may be in force when a copy is lost.
            covered = covered.min(covered_losses(self.quorum));
        }
        for _ in 0..self.rng.random_range(0..=covered) {
            let victim = self.victim();
            let loss = if self.chance(75) { Fault::Kill(victim) } else { Fault::Terminate(victim) };
            round.push(self.plan(loss));
        }
        if round.is_empty() || self.chance(35) {
            let halt = Fault::Halt(self.victim(), self.millis(HALT_MS));
            round.push(self.plan(halt));
        }
        if self.chance(15) {
            let pause = Fault::PauseManager(self.millis(PAUSE_MS));
            round.push(self.plan(pause));
        }
        round
    }
}

impl Iterator for Schedule {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        Some(self.round())
    }
}

/// How many of six copies may be lost at once at this quorum, with writes going on after failover.
const fn covered_losses(quorum: u8) -> u8 {
    let others = FOLLOWERS - quorum;
    if quorum < others { quorum } else { others }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_schedule() {
        let rounds = |seed| Schedule::new(seed).take(50).collect::<Vec<_>>();
        assert_eq!(rounds(7), rounds(7));
        assert_ne!(rounds(7), rounds(8));
    }

    #[test]
    fn no_round_loses_more_copies_than_each_quorum_in_it_covers() {
        for seed in 0..50 {
            let mut quorum = FIRST_QUORUM;
            for round in Schedule::new(seed).take(100) {
                let losses = round.iter().filter(|planned| planned.fault.loses_a_copy()).count();
                let mut quorums = vec![quorum];
                for planned in &round {
                    if let Fault::Change { write_quorum, .. } = planned.fault {
                        quorum = write_quorum;
                        quorums.push(quorum);
                    }
                }
                for quorum in quorums {
                    let covered = quorum.min(5 - quorum);
                    assert!(losses <= usize::from(covered), "seed {seed}, quorum {quorum}: {round:?}");
                }
            }
        }
    }

    #[test]
    fn every_kind_of_fault_comes_alone_and_together_with_others() {
        let rounds: Vec<Round> = Schedule::new(1).take(300).collect();
        let kinds: [fn(&Fault) -> bool; 6] = [
            |fault| matches!(fault, Fault::Kill(Victim::Leader)),
            |fault| matches!(fault, Fault::Kill(Victim::Follower(_))),
            |fault| matches!(fault, Fault::Terminate(_)),
            |fault| matches!(fault, Fault::Halt(..)),
            |fault| matches!(fault, Fault::PauseManager(_)),
            |fault| matches!(fault, Fault::Change { .. }),
        ];
        for (number, kind) in kinds.iter().enumerate() {
            let having = rounds.iter().filter(|round| round.iter().any(|planned| kind(&planned.fault)));
            let together = having.filter(|round| round.len() > 1).count();
            assert!(together > 5, "kind {number} comes {together} times together with others");
        }
        assert!(rounds.iter().all(|round| !round.is_empty()), "a round without a fault tests nothing");
        let two = |round: &&Round| round.iter().filter(|planned| planned.fault.loses_a_copy()).count() == 2;
        assert!(rounds.iter().filter(two).count() > 10, "two copies are lost at once where that is covered");
    }
}
