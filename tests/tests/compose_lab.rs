//! The lab with docker compose: the file users get, the images users get, the ports users see.
//!
//! The steps share one lab and go in the order written here. Whatever becomes of them, the lab is taken down.
//! Runs where `QUORUMKV_TEST_LAYERS` names `compose` (as tests/run.sh does), or with `--include-ignored`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_api::{SettingsPatch, WriteQuorum, client::PeerClient};
use quorumkv_tests::{
    client::LabClient,
    kind::command::Command,
    load::{Limit, Load, Policy, Target},
    wait,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// The name of this lab's containers: another lab of the same user keeps its own.
const PROJECT: &str = "quorumkv-compose-test";
const SERVICES: [&str; 6] = ["leader", "follower1", "follower2", "follower3", "follower4", "follower5"];
const PATIENCE: Duration = Duration::from_secs(60);

type Outcome = anyhow::Result<()>;

struct Lab {
    runtime: Runtime,
    /// Whether an engine answered before anything was done; if not, the one started here is stopped again.
    engine_was_there: Mutex<Option<bool>>,
    /// Whether the lab is up, once that was tried.
    up: Mutex<Option<bool>>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let asked = std::env::var("QUORUMKV_TEST_LAYERS").is_ok_and(|layers| layers.split(',').any(|one| one == "compose"));
    let lab: &'static Lab = Box::leak(Box::new(Lab {
        runtime: Runtime::new().expect("a runtime"),
        engine_was_there: Mutex::new(None),
        up: Mutex::new(None),
    }));
    macro_rules! steps {
        ($($step:ident),* $(,)?) => {
            vec![$(Trial::test(stringify!($step), move || lab.run(stringify!($step), $step())).with_ignored_flag(!asked)),*]
        };
    }
    let steps = steps![
        all_six_are_healthy_and_ready,
        a_write_to_the_leader_is_read_from_every_follower,
        followers_name_the_leader_under_its_host_port,
        the_lab_begins_with_the_lab_s_settings,
        a_write_without_its_quorum_says_so_and_works_again_with_it,
        settings_are_turned_through_the_peer_port_under_load,
        the_labs_programs_find_it_in_order,
        a_follower_is_restarted_and_no_write_fails,
        the_leader_is_restarted_and_no_acknowledged_write_is_lost,
        containers_have_no_more_rights_than_they_need,
        down_leaves_nothing,
    ];
    let conclusion = libtest_mimic::run(&arguments, steps);
    let ended = lab.end();
    if conclusion.has_failed() || !ended { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

impl Lab {
    /// Runs a step on the lab, which the first one brings up.
    fn run(&self, name: &str, step: impl Future<Output = Outcome>) -> Result<(), Failed> {
        let mut up = self.up.lock().expect("no step panics with it");
        let outcome = self.runtime.block_on(async {
            if up.is_none() {
                *up = Some(false);
                let there = script("dockerd.sh", &["status"], Duration::from_secs(30)).await.is_ok();
                *self.engine_was_there.lock().expect("held for a moment") = Some(there);
                // What an interrupted run may have left.
                compose(&["down", "--volumes", "--remove-orphans"]).await?;
                // The first build of the images compiles everything in release mode.
                let began = ["up", "-d", "--build", "--wait", "--wait-timeout", "120"];
                compose_within(&began, Duration::from_mins(20)).await?;
                *up = Some(true);
            }
            ensure!(*up == Some(true), "the lab did not come up");
            step.await
        });
        let Err(error) = outcome else { return Ok(()) };
        let logs = self.runtime.block_on(compose(&["logs", "--tail", "20", "--no-color"]));
        let logs = logs.unwrap_or_else(|error| format!("no logs: {error:#}"));
        Err(Failed::from(format!("{name}: {error:#}\n{logs}")))
    }

    /// Takes the lab down, and the engine if it was started for it.
    #[expect(clippy::print_stderr, reason = "there is no test any more that could fail with it")]
    fn end(&self) -> bool {
        let Some(there) = *self.engine_was_there.lock().expect("held for a moment") else { return true };
        let ended = self.runtime.block_on(async {
            compose(&["down", "--volumes", "--remove-orphans"]).await?;
            if !there {
                script("dockerd.sh", &["stop"], PATIENCE).await?;
            }
            anyhow::Ok(())
        });
        if let Err(error) = &ended {
            eprintln!("the lab was not taken down: {error:#}");
        }
        ended.is_ok()
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate stands in the repository").to_owned()
}

async fn script(name: &str, arguments: &[&str], within: Duration) -> anyhow::Result<String> {
    let command = Command::new(repository().join("tests/cluster").join(name)).args(arguments).within(within);
    // The lab's own defaults, whatever the caller's shell holds.
    let command = ["WRITE_QUORUM", "MIN_DELAY", "MAX_DELAY", "PUBLISH_ADDRESS"]
        .into_iter()
        .fold(command.env("COMPOSE_PROJECT_NAME", PROJECT), |command, name| command.env(name, ""));
    Ok(command.output().await?)
}

async fn compose(arguments: &[&str]) -> anyhow::Result<String> {
    compose_within(arguments, Duration::from_mins(2)).await
}

async fn compose_within(arguments: &[&str], within: Duration) -> anyhow::Result<String> {
    let file = repository().join("docker-compose.yml");
    let file = file.to_str().context("the repository's path is no text")?;
    script("compose.sh", &[&["-f", file], arguments].concat(), within).await
}

fn url(node: usize) -> String {
    format!("http://127.0.0.1:{}", 5000 + node)
}

fn client() -> anyhow::Result<LabClient> {
    LabClient::new(Duration::from_secs(10))
}

fn target() -> Target {
    Target::new(url(0), (0..6).map(url))
}

/// Waits until all six say that they are ready.
async fn all_ready() -> Outcome {
    let client = client()?;
    for (node, service) in SERVICES.iter().enumerate() {
        wait::until(&format!("{service} is ready"), PATIENCE, || async {
            let answer = client.get_path(&url(node), "/readyz").await?;
            ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.text);
            Ok(())
        })
        .await?;
    }
    wait::until("every follower is caught up", PATIENCE, || async {
        let followers = client.status(&url(0)).await?.followers;
        let all = followers.iter().filter(|follower| follower.connected && follower.lag == 0).count();
        ensure!(all == 5, "{followers:?}");
        Ok(())
    })
    .await
}

/// Waits until all replicas hold the same, and gives that.
async fn equal_content() -> anyhow::Result<std::collections::BTreeMap<String, Value>> {
    let client = client()?;
    wait::until("replicas are equal", PATIENCE, || async {
        let (expected, _) = client.content(&url(0)).await?;
        for (node, service) in SERVICES.iter().enumerate().skip(1) {
            ensure!(client.content(&url(node)).await?.0 == expected, "{service} differs");
        }
        Ok(expected)
    })
    .await
}

async fn set_quorum(write_quorum: u8) -> Outcome {
    let peer = PeerClient::new(std::env::var("PEER_TOKEN").ok(), Duration::from_secs(10))?;
    let patch = SettingsPatch { write_quorum: Some(WriteQuorum(write_quorum)), ..SettingsPatch::default() };
    let reply = peer.settings("http://127.0.0.1:5100", &patch).await?;
    ensure!(reply.settings.write_quorum.0 == write_quorum, "{reply:?}");
    Ok(())
}

async fn all_six_are_healthy_and_ready() -> Outcome {
    let listed = compose(&["ps", "--all", "--format", "json"]).await?;
    // One object a line, or one array, as the version of compose has it.
    let containers: Vec<Value> = match serde_json::from_str::<Vec<Value>>(&listed) {
        Ok(array) => array,
        Err(_) => listed.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("ps prints JSON")?,
    };
    ensure!(containers.len() == 6, "{listed}");
    for container in &containers {
        ensure!(container["Health"] == "healthy" && container["State"] == "running", "{container}");
    }
    all_ready().await
}

async fn a_write_to_the_leader_is_read_from_every_follower() -> Outcome {
    let client = client()?;
    let answer = client.set_json(&url(0), &json!({"key": "compose", "value": {"n": [1, null]}})).await?;
    ensure!(answer.status == StatusCode::OK && answer.body["replicas"] == 5, "{} {}", answer.status, answer.text);
    let version = &answer.body["version"];
    let expected = json!({"key": "compose", "value": {"n": [1, null]}, "version": version});
    for (node, service) in SERVICES.iter().enumerate() {
        let found = client.get(&url(node), "compose", &format!("?minVersion={version}")).await?;
        ensure!(found.body == expected, "{service}: {}", found.text);
    }
    Ok(())
}

async fn followers_name_the_leader_under_its_host_port() -> Outcome {
    for node in 1..6 {
        let answer = client()?.set(&url(node), "k", "v").await?;
        let expected = json!({"error": "Only leader accepts writes", "leader": url(0)});
        ensure!(answer.status == StatusCode::FORBIDDEN && answer.body == expected, "{}", answer.text);
    }
    Ok(())
}

async fn the_lab_begins_with_the_lab_s_settings() -> Outcome {
    let status = client()?.status(&url(0)).await?;
    ensure!(status.write_quorum.0 == 5 && status.delay.to_string() == "10ms-150ms", "{status:?}");
    let report = Load::new(target()).clients(12).keys("begin", 15).limit(Limit::Operations(120)).run().await?;
    report.expect_no_failure()?;
    // The slowest of five takes 126.7 ms on average; less would mean that it was not waited for.
    let mean = report.latencies().mean_ms();
    ensure!((107.0..400.0).contains(&mean), "mean {mean:.1} ms");
    equal_content().await?;
    Ok(())
}

async fn a_write_without_its_quorum_says_so_and_works_again_with_it() -> Outcome {
    compose(&["stop", "follower3"]).await?;
    let answer = client()?.set(&url(0), "alone", "v").await?;
    ensure!(answer.status == StatusCode::INTERNAL_SERVER_ERROR, "{} {}", answer.status, answer.text);
    let expected = json!({"error": "Quorum not reached", "replicas": 4});
    ensure!(answer.body == expected, "{}", answer.text);
    compose(&["start", "follower3"]).await?;
    all_ready().await?;
    let answer = client()?.set(&url(0), "together", "v").await?;
    ensure!(answer.status == StatusCode::OK && answer.body["replicas"] == 5, "{} {}", answer.status, answer.text);
    Ok(())
}

async fn settings_are_turned_through_the_peer_port_under_load() -> Outcome {
    let load = Load::new(target()).clients(4).keys("turned", 10).start()?;
    for write_quorum in [1, 5, 3] {
        load.acked_more(20, PATIENCE).await?;
        set_quorum(write_quorum).await?;
        ensure!(client()?.status(&url(0)).await?.write_quorum.0 == write_quorum);
    }
    load.acked_more(20, PATIENCE).await?;
    load.stop().await?.expect_no_failure()
}

async fn a_follower_is_restarted_and_no_write_fails() -> Outcome {
    let load = Load::new(target()).clients(4).keys("restarted", 10).start()?;
    load.acked_more(20, PATIENCE).await?;
    compose(&["restart", "follower2"]).await?;
    compose(&["kill", "follower4"]).await?;
    load.acked_more(20, PATIENCE).await?;
    compose(&["start", "follower4"]).await?;
    all_ready().await?;
    load.acked_more(20, PATIENCE).await?;
    load.stop().await?.expect_no_failure()?;
    equal_content().await?;
    Ok(())
}

async fn the_leader_is_restarted_and_no_acknowledged_write_is_lost() -> Outcome {
    for how in ["restart", "kill"] {
        let load = Load::new(target()).clients(8).keys(format!("leader-{how}"), 10).reads_percent(30);
        let load = load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(5)).start()?;
        load.acked_more(30, PATIENCE).await?;
        compose(&[how, "leader"]).await?;
        if how == "kill" {
            compose(&["start", "leader"]).await?;
        }
        load.acked_more(30, PATIENCE).await?;
        let report = load.stop().await?;
        all_ready().await?;
        equal_content().await?;
        let content = client()?.final_values(&url(0)).await?;
        quorumkv_tests::history::check_with_content(&report.operations, &content)?;
    }
    Ok(())
}

async fn the_labs_programs_find_it_in_order() -> Outcome {
    let before = client()?.status(&url(0)).await?;
    for (program, arguments) in [
        (env!("CARGO_BIN_EXE_integration_test"), ["--compose", "--writes=40"]),
        (env!("CARGO_BIN_EXE_check_consistency"), ["--compose", "--show=3"]),
    ] {
        Command::new(program).args(arguments).within(PATIENCE).output().await?;
    }
    let after = client()?.status(&url(0)).await?;
    ensure!((before.write_quorum, before.delay) == (after.write_quorum, after.delay), "not put back: {after:?}");
    Ok(())
}

async fn containers_have_no_more_rights_than_they_need() -> Outcome {
    let configured = compose(&["config", "--format", "json"]).await?;
    let configured: Value = serde_json::from_str(&configured)?;
    for service in SERVICES {
        let service = &configured["services"][service];
        ensure!(service["read_only"] == true && service["cap_drop"] == json!(["ALL"]), "{service}");
        for port in service["ports"].as_array().context("ports")? {
            ensure!(port["host_ip"] == "127.0.0.1", "open to other machines: {port}");
        }
    }
    Ok(())
}

async fn down_leaves_nothing() -> Outcome {
    compose(&["down", "--volumes", "--remove-orphans"]).await?;
    let left = compose(&["ps", "--all", "--quiet"]).await?;
    ensure!(left.trim().is_empty(), "containers are left: {left}");
    for node in 0..6 {
        if let Ok(answer) = client()?.get_path(&url(node), "/health").await {
            bail!("{} still answers: {}", url(node), answer.text);
        }
    }
    Ok(())
}
