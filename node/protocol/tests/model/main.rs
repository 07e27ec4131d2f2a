//! Small stores of the real core in every order in which things can happen, by stateright.
//!
//! Each [`Instance`] begins with a leader that is active, and allows a bounded number of elections, writes, faults
//! and changes of the quorum, in any order and between any two steps. One action is one message taken, with all that
//! the core does about it, or one step of a manager; a call of a manager and its answer are one action, as are the end
//! of a process and the start of the next. Time is an action too: more than a lease passes, on all clocks alike. What
//! is lost is what a stream held as it closed, and what a manager that begins again does not wait for.
//!
//! Left to the simulation: torn batches, clocks that differ, simulated delay, the beginning of a store, larger stores.

mod manager;
mod model;
mod node;
#[cfg(feature = "planted-bugs")]
mod planted_bugs;
mod store;

use std::time::Instant;

use model::{
    Action, CHANGED, CHANGED_NODES_THEN_LED, CHANGED_THEN_LED, FAILOVER, Instance, JOINED, LEFT, Move, OVERTAKEN, READ,
    READMITTED, RESTARTED, SECOND_FAILOVER, SNAPSHOT,
};
use stateright::{Checker, Model};
use store::Budget;

const NONE: Budget = Budget {
    elections: 0,
    writes: 0,
    reads: 0,
    settings: 0,
    waits: 0,
    crashes: 0,
    losses: 0,
    breaks: 0,
    moves: 0,
    reminders: 0,
};

const SMALL: Instance = Instance {
    name: "",
    nodes: 3,
    first: 3,
    moves: &[],
    prelude: &[],
    quorum: 1,
    changes: &[],
    managers: 1,
    left: NONE,
    disk: false,
    leases: false,
    notices: false,
    snapshots: false,
    depth: None,
    goals: &[],
    bug: None,
};

pub(crate) fn instances() -> Vec<Instance> {
    vec![
        Instance {
            name: "failover, q 1 of 2",
            left: Budget { elections: 1, writes: 2, ..NONE },
            goals: &[FAILOVER],
            ..SMALL
        },
        Instance {
            name: "failover, q 2 of 2",
            quorum: 2,
            left: Budget { elections: 1, writes: 2, ..NONE },
            goals: &[FAILOVER],
            ..SMALL
        },
        Instance {
            name: "two failovers",
            left: Budget { elections: 2, writes: 1, ..NONE },
            goals: &[FAILOVER, SECOND_FAILOVER],
            ..SMALL
        },
        Instance {
            name: "two operators",
            managers: 2,
            left: Budget { elections: 2, writes: 1, ..NONE },
            goals: &[FAILOVER, OVERTAKEN],
            ..SMALL
        },
        Instance {
            name: "failover, q 2 of 3",
            nodes: 4,
            first: 4,
            quorum: 2,
            left: Budget { elections: 1, writes: 2, ..NONE },
            goals: &[FAILOVER],
            ..SMALL
        },
        Instance {
            name: "failover, q 3 of 3",
            nodes: 4,
            first: 4,
            quorum: 3,
            left: Budget { elections: 1, writes: 1, ..NONE },
            goals: &[FAILOVER],
            ..SMALL
        },
        Instance {
            name: "quorum raised",
            changes: &[2],
            left: Budget { elections: 2, writes: 1, settings: 1, ..NONE },
            goals: &[CHANGED, CHANGED_THEN_LED],
            ..SMALL
        },
        Instance {
            name: "quorum lowered",
            quorum: 2,
            changes: &[1],
            left: Budget { elections: 2, writes: 1, settings: 1, ..NONE },
            goals: &[CHANGED, CHANGED_THEN_LED],
            ..SMALL
        },
        Instance {
            name: "crash with disk",
            disk: true,
            depth: Some(24),
            left: Budget { elections: 1, writes: 1, crashes: 1, ..NONE },
            goals: &[FAILOVER, RESTARTED],
            ..SMALL
        },
        Instance {
            name: "lost disk",
            left: Budget { elections: 2, writes: 1, losses: 1, ..NONE },
            goals: &[FAILOVER, READMITTED],
            ..SMALL
        },
        Instance {
            name: "lost disk, snapshots",
            snapshots: true,
            left: Budget { elections: 0, writes: 1, losses: 1, ..NONE },
            goals: &[READMITTED, SNAPSHOT],
            ..SMALL
        },
        Instance {
            name: "leases",
            leases: true,
            left: Budget { elections: 1, writes: 1, reads: 2, waits: 1, ..NONE },
            goals: &[FAILOVER, READ],
            ..SMALL
        },
    ]
    .into_iter()
    .chain(of_nodes_that_come_and_go())
    .collect()
}

fn of_nodes_that_come_and_go() -> Vec<Instance> {
    vec![
        Instance {
            name: "a node joins",
            first: 2,
            moves: &[Move::Join],
            left: Budget { elections: 1, writes: 1, moves: 1, ..NONE },
            goals: &[JOINED, CHANGED_NODES_THEN_LED, FAILOVER],
            ..SMALL
        },
        Instance {
            name: "a node leaves",
            moves: &[Move::Leave],
            left: Budget { elections: 1, writes: 1, moves: 1, ..NONE },
            goals: &[LEFT, CHANGED_NODES_THEN_LED, FAILOVER],
            ..SMALL
        },
        Instance {
            name: "a node leaves, two failovers",
            moves: &[Move::Leave],
            left: Budget { elections: 2, writes: 1, moves: 1, ..NONE },
            goals: &[LEFT, CHANGED_NODES_THEN_LED, FAILOVER, SECOND_FAILOVER],
            ..SMALL
        },
        Instance {
            name: "a node leaves, two operators",
            managers: 2,
            moves: &[Move::Leave],
            left: Budget { elections: 1, writes: 1, moves: 1, reminders: 1, ..NONE },
            goals: &[LEFT, CHANGED_NODES_THEN_LED],
            ..SMALL
        },
        // The follower that has not heard of the lower quorum, n2, is not the one that leaves.
        Instance {
            name: "quorum lowered, then a node leaves",
            nodes: 4,
            first: 4,
            quorum: 2,
            changes: &[1],
            moves: &[Move::Leave],
            prelude: &[Action::Change(0), Action::Down(0, 1), Action::Up(0, 1), Action::Down(0, 3), Action::Up(0, 3)],
            left: Budget { elections: 1, writes: 1, settings: 1, moves: 1, ..NONE },
            depth: Some(16),
            goals: &[LEFT],
            ..SMALL
        },
    ]
}

/// Checks one instance; prints what was seen.
fn check(instance: Instance) {
    let began = Instant::now();
    let (name, depth) = (instance.name, instance.depth);
    let checker = instance.checker().threads(2);
    let checker = match depth {
        Some(depth) => checker.target_max_depth(depth),
        None => checker,
    };
    let checker = checker.spawn_bfs().join();
    let reached = checker.max_depth();
    let extent = if depth.is_none_or(|depth| reached < depth) { "exhausted" } else { "all up to that depth" };
    let (states, unique) = (checker.state_count(), checker.unique_state_count());
    println!("{name}: {states} states, {unique} unique, depth {reached}, {extent}, {:.1?}", began.elapsed());
    checker.assert_properties();
}

/// `MODEL` picks instances by a part of their name, `MODEL_DEPTH` moves the bound of those that have one; zero takes it
/// away.
#[test]
fn no_order_of_events_breaks_a_rule() {
    let only = std::env::var("MODEL").unwrap_or_default();
    let depth = std::env::var("MODEL_DEPTH").ok().map(|text| text.parse::<usize>().expect("a number"));
    let mut checked = 0;
    for mut instance in instances().into_iter().filter(|instance| instance.name.contains(&only)) {
        if instance.depth.is_some() && depth.is_some() {
            instance.depth = depth.filter(|depth| *depth > 0);
        }
        check(instance);
        checked += 1;
    }
    assert!(checked > 0, "no instance is called {only:?}");
}
