//! Which faults come when: an endless sequence of rounds, determined by a seed and a setup.

use std::{fmt, ops::RangeInclusive, time::Duration};

use quorumkv_api::Delay;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::faults::{Fault, Others, Victim, Way};
use crate::processes::Storage;

/// Followers of the store that the schedule is for.
pub const FOLLOWERS: u8 = 5;
/// The quorum that the store begins with.
pub const FIRST_QUORUM: u8 = 3;

/// How long a halted node stays halted, in milliseconds: longer than a lease of one second, sometimes too short
/// to be replaced and sometimes long enough.
const HALT_MS: RangeInclusive<u64> = 1200..=4000;
/// How long the manager is paused, in milliseconds.
const PAUSE_MS: RangeInclusive<u64> = 500..=2500;
/// How long packets are lost, in milliseconds: also longer than nodes and manager wait for each other.
const CUT_MS: RangeInclusive<u64> = 800..=6000;
/// When in a round a fault comes that does not come at once, in milliseconds: while others are being mended.
const LATER_MS: RangeInclusive<u64> = 50..=2500;
/// Simulated round trips to change between, in milliseconds.
const DELAYS_MS: [(u64, u64); 4] = [(0, 0), (0, 5), (2, 20), (10, 60)];

/// What a store and its network are like, and with that what can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Where the nodes keep their data.
    pub storage: Storage,
    /// Whether packets can be lost.
    pub partitions: bool,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.storage {
            Storage::Memory => "in memory",
            Storage::Persistent => "on disk",
        })?;
        if self.partitions { f.write_str(", with partitions") } else { Ok(()) }
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
    setup: Setup,
    /// Whether the manager can end without its nodes.
    manager_apart: bool,
    rng: StdRng,
    quorum: u8,
}

impl Schedule {
    /// The schedule that belongs to this seed, for a store of [`FOLLOWERS`] that begins with [`FIRST_QUORUM`].
    #[must_use]
    pub fn new(setup: Setup, seed: u64) -> Self {
        Self { setup, manager_apart: false, rng: StdRng::seed_from_u64(seed), quorum: FIRST_QUORUM }
    }

    /// The schedule for a store whose nodes do not end with their manager.
    #[must_use]
    pub fn with_manager_apart(self) -> Self {
        Self { manager_apart: true, ..self }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.rng.random_range(range))
    }

    fn victim(&mut self) -> Victim {
        if self.chance(50) { Victim::Leader } else { Victim::Follower(self.follower()) }
    }

    fn follower(&mut self) -> usize {
        self.rng.random_range(0..usize::from(FOLLOWERS))
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

    /// A node that ends by itself or is killed, and comes back.
    fn ending(&mut self) -> Fault {
        let victim = self.victim();
        if self.chance(75) { Fault::Kill(victim) } else { Fault::Terminate(victim) }
    }

    fn cut(&mut self) -> Fault {
        let victim = if self.chance(75) { Victim::Leader } else { Victim::Follower(self.follower()) };
        let from = match self.rng.random_range(0..100) {
            0..45 => Others::Nodes(self.rng.random_range(1..=usize::from(FOLLOWERS))),
            45..65 => Others::Manager,
            _ => Others::Everybody,
        };
        let way = match self.rng.random_range(0..100) {
            0..50 => Way::Both,
            50..75 => Way::Deaf,
            _ => Way::Mute,
        };
        Fault::Cut { victim, from, way, time: self.millis(CUT_MS) }
    }

    /// Ends of processes, so that no more than `covered` copies are lost; whether the manager's is among them.
    fn endings(&mut self, covered: u8) -> (Vec<Fault>, bool) {
        let losses = self.rng.random_range(0..=covered);
        if self.setup.storage == Storage::Memory {
            return ((0..losses).map(|_| self.ending()).collect(), false);
        }
        let mut endings: Vec<Fault> = (0..self.rng.random_range(0..=2)).map(|_| self.ending()).collect();
        match self.rng.random_range(0..100) {
            0..20 => endings.push(Fault::KillAll { volumes: losses }),
            20..32 => {
                endings.push(Fault::KillManager);
                return (endings, true);
            }
            32..70 => endings.extend((0..losses).map(|_| Fault::LoseVolume(self.victim()))),
            _ => {}
        }
        (endings, false)
    }

    fn round(&mut self) -> Round {
        let mut faults = Vec::new();
        let mut covered = covered_losses(self.quorum);
        if self.chance(35) {
            faults.push(self.change());
            // Either quorum may be in force when a copy is lost.
            covered = covered.min(covered_losses(self.quorum));
        }
        let (endings, mut manager_ends) = self.endings(covered);
        faults.extend(endings);
        if self.manager_apart && !manager_ends && self.chance(15) {
            faults.push(Fault::KillManager);
            manager_ends = true;
        }
        if self.setup.partitions && self.chance(75) {
            faults.push(self.cut());
        }
        if self.chance(20) {
            faults.push(Fault::SwitchOver(self.follower()));
        }
        if faults.is_empty() || self.chance(35) {
            faults.push(Fault::Halt(self.victim(), self.millis(HALT_MS)));
        }
        if !manager_ends && self.chance(15) {
            faults.push(Fault::PauseManager(self.millis(PAUSE_MS)));
        }
        faults.into_iter().map(|fault| self.plan(fault)).collect()
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
    use rstest::rstest;

    use super::*;

    const SETUPS: [Setup; 4] = [
        Setup { storage: Storage::Memory, partitions: false },
        Setup { storage: Storage::Memory, partitions: true },
        Setup { storage: Storage::Persistent, partitions: false },
        Setup { storage: Storage::Persistent, partitions: true },
    ];

    fn lost(round: &Round, setup: Setup) -> u8 {
        let on_disk = setup.storage == Storage::Persistent;
        round.iter().map(|planned| planned.fault.copies_lost(on_disk)).sum()
    }

    #[test]
    fn a_seed_determines_the_schedule() {
        for setup in SETUPS {
            let rounds = |seed| Schedule::new(setup, seed).take(50).collect::<Vec<_>>();
            assert_eq!(rounds(7), rounds(7));
            assert_ne!(rounds(7), rounds(8));
        }
    }

    #[test]
    fn no_round_loses_more_copies_than_each_quorum_in_it_covers() {
        for (setup, seed) in SETUPS.into_iter().flat_map(|setup| (0..50).map(move |seed| (setup, seed))) {
            let mut quorum = FIRST_QUORUM;
            for round in Schedule::new(setup, seed).take(100) {
                let mut quorums = vec![quorum];
                for planned in &round {
                    if let Fault::Change { write_quorum, .. } = planned.fault {
                        quorum = write_quorum;
                        quorums.push(quorum);
                    }
                }
                for quorum in quorums {
                    let covered = quorum.min(5 - quorum);
                    assert!(lost(&round, setup) <= covered, "{setup}, seed {seed}, quorum {quorum}: {round:?}");
                }
            }
        }
    }

    #[test]
    fn no_round_hits_more_nodes_than_there_are() {
        let hits = |fault: &Fault| {
            usize::from(matches!(fault, Fault::Kill(_) | Fault::Terminate(_) | Fault::LoseVolume(_) | Fault::Halt(..)))
        };
        for (setup, seed) in SETUPS.into_iter().flat_map(|setup| (0..50).map(move |seed| (setup, seed))) {
            for round in Schedule::new(setup, seed).take(100) {
                let hit: usize = round.iter().map(|planned| hits(&planned.fault)).sum();
                assert!(hit <= 5, "{setup}, seed {seed}: {round:?}");
            }
        }
    }

    #[test]
    fn a_manager_that_is_apart_ends_whatever_the_storage_and_is_not_paused_then() {
        for setup in SETUPS {
            let rounds = Schedule::new(setup, 1).with_manager_apart().take(300);
            let of = |round: &Round, kind: &str| round.iter().any(|planned| planned.fault.kind() == kind);
            let ends: Vec<Round> = rounds.filter(|round| of(round, "kill manager")).collect();
            assert!(ends.len() > 10, "{setup}: {} times", ends.len());
            assert!(!ends.iter().any(|round| of(round, "pause manager")), "{setup}");
        }
    }

    #[rstest]
    #[case(SETUPS[0], &["kill", "terminate", "halt", "pause manager", "change", "switchover"])]
    #[case(SETUPS[1], &["kill", "terminate", "halt", "pause manager", "change", "switchover", "cut", "cut one way"])]
    #[case(SETUPS[2], &["kill", "terminate", "lose volume", "kill all", "kill manager", "halt", "pause manager", "change", "switchover"])]
    #[case(SETUPS[3], &["lose volume", "kill all", "kill manager", "halt", "cut", "cut one way"])]
    fn every_kind_of_fault_comes_together_with_others(#[case] setup: Setup, #[case] kinds: &[&str]) {
        let rounds: Vec<Round> = Schedule::new(setup, 1).take(300).collect();
        for kind in kinds {
            let having = rounds.iter().filter(|round| round.iter().any(|planned| planned.fault.kind() == *kind));
            let together = having.filter(|round| round.len() > 1).count();
            assert!(together > 5, "{kind} comes {together} times together with others");
        }
        assert!(rounds.iter().all(|round| !round.is_empty()), "a round without a fault tests nothing");
        let two = rounds.iter().filter(|round| lost(round, setup) == 2).count();
        assert!(two > 5, "two copies are lost at once where that is covered: {two} times");
        let cuts = rounds.iter().flatten().filter(|planned| planned.fault.kind().starts_with("cut")).count();
        assert_eq!(cuts > 0, setup.partitions);
    }
}
