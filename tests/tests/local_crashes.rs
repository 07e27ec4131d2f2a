//! Crashes between every two steps that matter, of managers and of nodes, over real node processes.
//!
//! A manager's steps are its effects on record and nodes; it is dropped after each number of them (`crashes/gate.rs`).
//! A node's are the failpoints in its code; it aborts at each (`quorumkv_node::failpoint`). Each time clients write,
//! somebody else takes over, and in the end nothing acknowledged is lost and all copies are equal and count.

#[path = "crashes/gate.rs"]
mod gate;
#[path = "crashes/manager.rs"]
mod manager;
#[path = "crashes/managers.rs"]
mod managers;
#[path = "crashes/nodes.rs"]
mod nodes;
#[path = "crashes/record.rs"]
mod record;
#[path = "crashes/world.rs"]
mod world;

use std::{process::ExitCode, time::Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use managers::Scenario;
use world::Storage;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let scenarios = [
        Scenario::LeaderHung,
        Scenario::LeaderLost,
        Scenario::Switchover,
        Scenario::Roll,
        Scenario::Hibernation,
        Scenario::CopyLost,
        Scenario::SettingsChanged,
        Scenario::Scaled,
        Scenario::Bootstrap,
    ];
    let managers = scenarios.map(|scenario| {
        Trial::test(format!("another_manager_takes_up_what_one_left_{scenario:?}"), move || {
            in_runtime(managers::run(scenario))
        })
    });
    let kinds = [(Storage::Persistent, false), (Storage::Memory, false)];
    let kinds = kinds.into_iter().chain([(Storage::Persistent, true), (Storage::Memory, true)]);
    let nodes = kinds.map(|(storage, pinned)| {
        let manager = if pinned { "without_a_manager" } else { "with_a_manager" };
        Trial::test(format!("a_node_that_aborts_anywhere_loses_nothing_{storage:?}_{manager}"), move || {
            in_runtime(nodes::run(storage, pinned))
        })
    });
    let table = Trial::test("every_failpoint_is_crashed_at", || Ok(nodes::all_points_are_crashed_at()?));
    let trials: Vec<Trial> = nodes.chain(managers).chain([table]).collect();
    // They wait most of the time: for leases, for silence, for each other.
    arguments.test_threads = arguments.test_threads.or(Some(trials.len()));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn in_runtime(test: impl Future<Output = anyhow::Result<String>>) -> Result<(), Failed> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failed::from)?;
    let told = runtime.block_on(test).map_err(|error| Failed::from(format!("{error:#}")))?;
    println!("\ncrashes, {told}, {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}
