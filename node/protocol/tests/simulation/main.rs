//! A whole store under virtual time: the real core on simulated nodes, network, disks, managers and clients.
//!
//! One seed decides everything: who is slow, what is lost, who crashes and when, what clients do. After
//! every event the invariants of [`checks`] are tested; a run that breaks one prints the seed that replays it.
//!
//! [`world::World`] owns the clock and the queue of events. [`node`] carries out a core's effects, as the real shell
//! does; [`network`] has streams that keep order until they break, and calls that may be lost; [`manager`]
//! does what the operator does, and may crash between any two steps; [`faults`] makes trouble.

mod checks;
mod faults;
mod manager;
mod network;
mod node;
#[cfg(feature = "planted-bugs")]
mod planted_bugs;
mod world;

use world::{Outcome, Plan, run};

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    match (number("SEED"), number("SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 1..count.unwrap_or(1000) + 1,
    }
}

#[test]
fn no_seed_breaks_an_invariant() {
    let mut sum = Outcome::default();
    let (mut runs, mut recovered) = (0, 0);
    for seed in seeds() {
        let outcome = run(Plan::from_seed(seed)).unwrap_or_else(|violation| panic!("{violation}"));
        runs += 1;
        recovered += usize::from(outcome.recovered);
        sum.acknowledged += outcome.acknowledged;
        sum.unknown += outcome.unknown;
        sum.reads += outcome.reads;
        sum.leaders += outcome.leaders;
        sum.crashes += outcome.crashes;
        sum.losses += outcome.losses;
        sum.snapshots += outcome.snapshots;
        sum.settings_changes += outcome.settings_changes;
        sum.joined += outcome.joined;
        sum.left += outcome.left;
    }
    println!("{runs} runs, {recovered} served again after the faults: {sum:?}");
    // The others halted, as they must, for want of recorded copies.
    assert!(recovered * 10 >= runs * 9, "only {recovered} of {runs} runs served again");
    // A run in which little happens proves little.
    if runs >= 100 {
        assert!(sum.acknowledged > runs * 20, "{sum:?}");
        assert!(sum.reads > runs && sum.leaders > runs && sum.snapshots > runs / 2, "{sum:?}");
        assert!(sum.settings_changes > runs && sum.losses > runs, "{sum:?}");
        assert!(sum.joined > runs / 10 && sum.left > runs / 10, "{sum:?}");
    }
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    for seed in [3, 17, 92] {
        let replay = || run(Plan::from_seed(seed)).unwrap_or_else(|violation| panic!("{violation}"));
        assert_eq!(replay(), replay());
    }
}
