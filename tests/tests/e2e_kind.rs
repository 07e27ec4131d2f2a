//! The whole product on a real cluster: the chart, the operator, stores under load, failures, clean-up.
//!
//! Each step is a test of its own, but all share one kind cluster and go in the order written here, those of
//! [`LANES`] side by side; `cargo test --test e2e_kind -- NAME` runs those whose names contain NAME, one after the
//! other, after what they need was set up. A step that fails shows what the cluster looked like.
//!
//! Runs where `QUORUMKV_TEST_LAYERS` names `e2e` (as tests/run.sh does), or with `--include-ignored`.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `QUORUMKV_KEEP_CLUSTER=1` | leave the cluster for the next run, or to look at it |
//! | `QUORUMKV_BINARIES=DIR` | make the images of the static programs there instead of building this checkout |
//! | `QUORUMKV_CHAOS_SECONDS` | time for faults under load, all runs together (20) |
//! | `QUORUMKV_CHAOS_SEEDS` | seeds of the runs, comma-separated, in turn (1,2): odd ones on volumes, even ones in memory; `random`: another one for each |
//! | `QUORUMKV_SHOWN=1` | put outputs of commands into docs/operations.md, and the dashboard into results/shown |
//! | `QUORUMKV_FAILOVERS` | how often the leader goes away in each way (2) |
//! | `QUORUMKV_E2E_TABLE=FILE` | one step at a time; write the table of scenarios, printed at the end, into that file of the repository too |
//!
//! `make e2e-table` runs all of it and writes the table; `make soak-kind` and `make failover-table-kind` run the
//! steps that these are for alone, and longer.

mod e2e {
    pub(crate) mod chaos;
    pub(crate) mod failures;
    pub(crate) mod hibernate;
    pub(crate) mod install;
    pub(crate) mod isolation;
    pub(crate) mod locks;
    pub(crate) mod machines;
    pub(crate) mod operators;
    pub(crate) mod page;
    pub(crate) mod permissions;
    pub(crate) mod plugin;
    pub(crate) mod quiet;
    pub(crate) mod refusals;
    pub(crate) mod roll;
    pub(crate) mod scale;
    pub(crate) mod service;
    pub(crate) mod settings;
    pub(crate) mod shown;
    pub(crate) mod storage;
    pub(crate) mod switchover;
    pub(crate) mod tls;
    pub(crate) mod upgrade;
    pub(crate) mod world;

    pub(crate) use quorumkv_tests::kind::store;
}

use std::{
    process::ExitCode,
    sync::{Arc, Condvar, Mutex},
};

use e2e::{
    chaos, failures, hibernate, install, isolation, locks, machines, operators, page, permissions, plugin, quiet,
    refusals, roll, scale, service, settings, shown, storage, switchover, tls, upgrade,
    world::{Step, World},
};
use libtest_mimic::{Arguments, Conclusion, Trial};

/// The steps named after their functions.
macro_rules! steps {
    ($($module:ident::$step:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($step)), |world| Box::pin($module::$step(world)))),*]
    };
}

/// On the store that most steps use, and on what all stores share.
const FIRST: &[Step] = steps![
    install::helm_installs_the_operator_where_restricted_pod_security_is_enforced,
    install::helm_test_passes,
    install::a_kvcluster_is_ready_within_60_seconds,
    machines::pods_spread_over_the_machines,
    install::kubectl_shows_the_columns,
    install::nothing_runs_with_more_rights_than_it_needs,
    permissions::operator_and_nodes_may_do_what_is_listed_and_nothing_else,
    permissions::network_policies_are_such_as_the_api_server_takes,
    refusals::wrong_specs_are_refused_with_what_to_change,
    refusals::changes_that_cannot_be_made_are_refused,
    service::a_write_through_the_service_is_read_from_every_follower,
    service::pods_reach_the_leader_and_the_followers_by_name,
    page::the_page_shows_every_node_and_changes_nothing,
    settings::the_quorum_is_turned_under_load_without_a_failed_write,
    settings::the_delay_is_turned_under_load_without_a_failed_write,
    settings::the_labs_programs_work_through_the_kubeconfig,
    settings::the_operator_restarts_amid_a_change_and_disturbs_nothing,
    failures::a_write_without_its_quorum_waits_and_then_says_so,
    failures::leader_and_operator_are_deleted_together_and_no_acknowledged_write_is_lost,
    machines::the_leaders_machine_is_lost_under_load_and_comes_back,
    machines::the_leaders_machine_is_drained_under_load_and_no_write_is_lost,
    operators::the_active_operator_of_two_is_killed_and_the_other_takes_over,
];

/// Side by side: the steps of each lane one after the other, in namespaces where no other lane has anything. They wait
/// most of the time, leave the operator at work, and take no machine away.
const LANES: &[&[Step]] = &[
    steps![
        failures::a_follower_is_deleted_under_load_and_no_write_fails,
        failures::the_leader_is_deleted_under_load_and_no_acknowledged_write_is_lost,
        failures::a_leader_that_crashes_in_its_pod_comes_back_as_a_follower,
        failures::a_leader_that_hangs_is_replaced_and_takes_nothing_back,
        scale::fewer_followers_than_the_quorum_needs_are_refused,
        scale::followers_come_and_go_under_load_and_no_acknowledged_write_is_lost,
        switchover::leadership_goes_where_it_is_asked_to_under_load,
        switchover::a_wish_that_makes_no_sense_is_refused_with_an_event,
        plugin::kubectl_kvc_does_what_it_says,
        isolation::two_stores_of_one_name_do_not_touch_each_other,
        isolation::a_deleted_store_leaves_nothing_behind_and_the_other_goes_on,
        isolation::a_store_that_lost_every_copy_halts_until_a_person_decides,
    ],
    steps![
        roll::an_image_change_renews_the_followers_first_and_the_leader_last_under_load,
        roll::a_bad_image_is_held_and_taking_it_back_needs_nobody,
    ],
    steps![
        locks::clients_need_a_token_of_the_secret_and_tools_find_it,
        locks::nodes_that_refuse_the_operators_token_are_told_of,
    ],
    steps![
        tls::certificates_are_replaced_under_load_and_no_write_fails,
        tls::followers_come_and_go_and_the_store_sleeps_under_load,
    ],
    steps![
        storage::a_persistent_store_keeps_what_it_acknowledged_when_every_pod_is_killed,
        storage::volumes_that_cannot_grow_say_so_and_stay_when_the_store_is_deleted,
        hibernate::a_store_sleeps_and_wakes_up_with_everything_under_load,
        chaos::a_leader_that_goes_away_is_replaced_in_good_time,
    ],
];

/// What looks back at what the steps before did, and what all stores feel.
const LAST: &[Step] = steps![
    shown::a_person_sees_what_a_store_went_through,
    quiet::an_idle_store_changes_no_object,
    quiet::the_operator_counted_no_unexplained_error,
    chaos::faults_under_load_lose_no_acknowledged_write_and_show_no_stale_read,
    operators::an_operator_of_some_namespaces_leaves_all_others_alone,
    install::uninstalling_the_operator_leaves_stores_at_work,
    // Last: it begins where nothing of this release is there, neither operator nor KvClusters.
    upgrade::a_release_is_upgraded_under_load_and_no_pod_restarts,
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let world: &'static World = World::leaked();
    // Who asks for some steps wants to see them go; who asks for the table wants times of one scenario each.
    let together = arguments.filter.is_none() && arguments.skip.is_empty() && World::table().is_none();
    let lanes: Vec<Trial> =
        LANES.iter().flat_map(|steps| if together { lane(world, steps) } else { alone(world, steps) }).collect();
    let at_once = if together { lanes.len() } else { 1 };
    let parts = [(alone(world, FIRST), 1), (lanes, at_once), (alone(world, LAST), 1)];
    let mut failed = false;
    for (trials, threads) in parts {
        failed |= run(&arguments, trials, threads).has_failed();
    }
    let ended = world.end(!failed);
    if failed || !ended { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(arguments: &Arguments, trials: Vec<Trial>, threads: usize) -> Conclusion {
    let asked = std::env::var("QUORUMKV_TEST_LAYERS").is_ok_and(|layers| layers.split(',').any(|one| one == "e2e"));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(!asked)).collect();
    libtest_mimic::run(&Arguments { test_threads: Some(threads), ..arguments.clone() }, trials)
}

fn alone(world: &'static World, steps: &[Step]) -> Vec<Trial> {
    steps.iter().map(|&(name, step)| Trial::test(name, move || world.run(name, step))).collect()
}

/// Steps of which each waits for the one before; all have to be started.
fn lane(world: &'static World, steps: &[Step]) -> Vec<Trial> {
    let over = Arc::new((Mutex::new(0), Condvar::new()));
    let trial = |(position, &(name, step)): (usize, &Step)| {
        let over = Arc::clone(&over);
        Trial::test(name, move || {
            let (over, changed) = &*over;
            let mine = |over: &mut usize| *over < position;
            drop(changed.wait_while(over.lock().expect("nobody panics while holding it"), mine));
            let outcome = world.run(name, step);
            *over.lock().expect("nobody panics while holding it") += 1;
            changed.notify_all();
            outcome
        })
    };
    steps.iter().enumerate().map(trial).collect()
}
