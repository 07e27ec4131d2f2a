//! Settings that are turned while clients write, and the latency that follows from them.
//!
//! With round trips uniform in [min, max], the q-th fastest of five takes min + (max - min) * q / 6 on average:
//! 33.3, 56.7, 80.0, 103.3 and 126.7 ms at 10..150 ms. These tests measure time, so they run one at a time.

use std::time::Duration;

use quorumkv_api::{Delay, SettingsPatch, WriteQuorum, lab::LatencySummary};
use quorumkv_tests::{
    history::Moment,
    load::{Limit, Load, Report},
    processes::{Lab, LabOptions},
};
use rstest::rstest;
use tokio::sync::Mutex;

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(20);
const LAB_DELAY: Delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };

/// Mean of the q-th fastest of five round trips, in milliseconds.
fn expected_mean_ms(delay: Delay, write_quorum: u8) -> f64 {
    let (min, max) = (delay.min.as_secs_f64() * 1e3, delay.max.as_secs_f64() * 1e3);
    min + (max - min) * f64::from(write_quorum) / 6.0
}

/// What a run of twelve clients showed, if that is not what it should be.
fn judge(report: &Report, told: &LatencySummary, expected_ms: f64) -> Result<(), String> {
    let latencies = report.latencies();
    let (mean, p99, rate) = (latencies.mean_ms(), latencies.percentile_ms(99.0), report.writes_per_second());
    // 15 %, and 5 ms for what the machine itself takes.
    let band = expected_ms * 0.85..=expected_ms * 1.15 + 5.0;
    let limit = 12_000.0 / expected_ms;
    let near = band.contains(&mean)
        && band.contains(&told.mean)
        && (expected_ms..250.0).contains(&p99)
        && (limit * 0.75..limit * 1.15).contains(&rate);
    let seen = format!(
        "{} writes: mean {mean:.1} ms, p99 {p99:.1} ms, {rate:.1} writes/s; the leader tells {told:?}",
        latencies.count()
    );
    near.then_some(()).ok_or(seen)
}

#[rstest]
#[tokio::test]
async fn twelve_clients_wait_for_the_q_th_fastest_follower(#[values(1, 2, 3, 4, 5)] write_quorum: u8) {
    let _alone = ONE_AT_A_TIME.lock().await;
    let options = LabOptions { write_quorum, delay: LAB_DELAY, ..LabOptions::default() };
    let lab = Lab::start(options).await.expect("it starts");
    let expected = expected_mean_ms(LAB_DELAY, write_quorum);
    let mut acked = 0;
    let mut seen = Vec::new();
    // Others on this machine can only make it slower. What is slow by itself is so every time.
    for _ in 0..4 {
        let load = Load::new(lab.target()).clients(12).keys("k", 15).limit(Limit::Time(Duration::from_secs(2)));
        let report = load.run().await.expect("it runs");
        report.expect_no_failure().expect("every write is acknowledged");
        let told = lab.status(0).await.expect("an answer").replication_latency;
        acked += report.acked();
        assert_eq!(usize::try_from(told.count).expect("few"), acked, "{told:?}");
        let mean = report.latencies().mean_ms();
        assert!(mean > expected * 0.85, "{mean:.1} ms is less than {write_quorum} of five followers take");
        match judge(&report, &told, expected) {
            Ok(()) => return,
            Err(other) => seen.push(other),
        }
        // The same settings again begin a new count of latencies only if they differ.
        for delay in [Delay::ZERO, LAB_DELAY] {
            let patch = SettingsPatch { delay: Some(delay), ..SettingsPatch::default() };
            lab.change_settings(&patch).await.expect("allowed");
        }
        acked = 0;
    }
    panic!("expected a mean of {expected:.1} ms: {seen:#?}");
}

#[tokio::test]
async fn settings_turned_under_load_fail_no_write_and_move_the_latency() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let options = LabOptions { write_quorum: 3, delay: LAB_DELAY, ..LabOptions::default() };
    let lab = Lab::start(options).await.expect("it starts");
    let load = Load::new(lab.target()).clients(12).keys("k", 15).start().expect("it starts");
    let slow = Delay { min: Duration::from_millis(100), max: Duration::from_millis(200) };
    let steps = [(5, LAB_DELAY), (1, LAB_DELAY), (4, slow), (2, slow), (2, Delay::ZERO), (3, LAB_DELAY)];
    let mut windows = Vec::new();
    for (write_quorum, delay) in steps {
        let patch = SettingsPatch {
            write_quorum: Some(WriteQuorum(write_quorum)),
            delay: Some(delay),
            ..SettingsPatch::default()
        };
        let asked = Moment::now();
        let reply = lab.change_settings(&patch).await.expect("allowed");
        assert_eq!((reply.settings.write_quorum.0, reply.settings.delay), (write_quorum, delay));
        let status = lab.status(0).await.expect("an answer");
        assert_eq!((status.write_quorum.0, status.delay), (write_quorum, delay), "told as soon as it is answered");
        let from = Moment::now();
        assert!(from.since(asked) < Duration::from_secs(1), "applied after {:?}", from.since(asked));
        load.acked_more(180, PATIENCE).await.expect("writes go on");
        windows.push((write_quorum, delay, from, Moment::now()));
    }
    let report = load.stop().await.expect("it ends");
    report.expect_no_failure().expect("no change costs a write");
    let means: Vec<f64> =
        windows.iter().map(|(_, _, from, to)| report.latencies_between(*from, *to).mean_ms()).collect();
    for ((write_quorum, delay, ..), mean) in windows.iter().zip(&means) {
        let expected = expected_mean_ms(*delay, *write_quorum);
        assert!(*mean > expected * 0.85, "q={write_quorum}, {delay}: mean {mean:.1} ms, expected {expected:.1}");
    }
    // Other work on this machine adds to all of them.
    let [all, one, four_slow, two_slow, none, three] = means[..] else { panic!("six windows: {means:?}") };
    assert!(all > one * 2.0, "126.7 to 33.3 ms by nature: {means:.1?}");
    assert!(four_slow > two_slow * 1.05, "166.7 to 133.3 ms by nature: {means:.1?}");
    assert!(two_slow > none * 4.0, "133.3 ms to next to nothing by nature: {means:.1?}");
    assert!(three > none * 2.5 && three < all, "80.0 ms by nature: {means:.1?}");
    lab.equal_content(lab.followers()).await.expect("replicas are equal");
}

#[tokio::test]
async fn a_follower_learns_the_settings_from_the_log() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let lab =
        Lab::start(LabOptions { followers: 2, write_quorum: 1, ..LabOptions::default() }).await.expect("it starts");
    let patch = SettingsPatch { write_timeout: Some(Duration::from_secs(2)), ..SettingsPatch::default() };
    lab.change_settings(&patch).await.expect("allowed");
    for index in lab.indices() {
        let told = quorumkv_tests::wait::until("the node tells the new timeout", PATIENCE, || async {
            let status = lab.status(index).await?;
            anyhow::ensure!(status.write_timeout == "2s" && status.write_quorum.0 == 1, "{status:?}");
            Ok(())
        });
        told.await.expect("settings travel like writes");
    }
}

#[tokio::test]
async fn a_slow_follower_does_not_slow_the_others() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(LabOptions { write_quorum: 4, ..LabOptions::default() }).await.expect("it starts");
    lab.node(5).signal(rustix::process::Signal::STOP).expect("it runs");
    let load = Load::new(lab.target()).clients(4).keys("k", 10).value_bytes(10_000);
    let report = load.limit(Limit::Operations(800)).run().await.expect("it runs");
    report.expect_no_failure().expect("four of five confirm");
    // One that waited for the hung follower would take until the timeout, five seconds.
    let worst = report.latencies().percentile_ms(99.0);
    assert!(worst < 1000.0, "p99 {worst:.1} ms with one follower hung");
}
