use quorumkv_api::{
    Delay, Epoch, Position, ProcessId, Seq, Settings, StorageId, WriteQuorum,
    peer::{FollowerState, NodeState, SettingsEntry},
};

use super::*;

const EPOCH: Epoch = Epoch(4);

fn follower(name: &str, match_seq: u64, connected: bool) -> FollowerState {
    FollowerState {
        node: name.into(),
        storage_id: None,
        match_seq: Seq(match_seq),
        connected,
        counted: connected,
        caught_up: true,
    }
}

fn inspection(role: Role) -> Inspection {
    let followers = match role {
        Role::Leader => vec![follower("f1", 9, true), follower("f2", 4, false)],
        Role::Follower => Vec::new(),
    };
    let delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };
    let settings = Settings { write_quorum: WriteQuorum(2), delay, write_timeout: Duration::from_secs(5) };
    let position = Position { epoch: EPOCH, seq: Seq(9) };
    let state = NodeState {
        node: "n1".into(),
        storage_id: StorageId::random(),
        process_id: ProcessId::random(),
        role,
        promised: EPOCH,
        epoch: EPOCH,
        leader: Some("n1".into()),
        ready: true,
        last: position,
        commit: Seq(9),
        settings: Some(SettingsEntry { position, settings }),
        followers,
        configuration: None,
    };
    Inspection { state, peers: Vec::new(), acknowledgements: vec![("f1".into(), Duration::from_millis(20))] }
}

fn shown(metrics: &Metrics, role: Role) -> String {
    metrics.render(&inspection(role), 3, 7).expect("text")
}

#[track_caller]
fn assert_shows(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|shown| shown == format!("quorumkv_node_{line}")), "{line} is missing in\n{text}");
    }
}

#[test]
fn a_leader_shows_its_settings_and_each_follower() {
    let text = shown(&Metrics::default(), Role::Leader);
    assert_shows(
        &text,
        &[
            "leader 1",
            "epoch 4",
            "commit_seq 9",
            "keys 7",
            "pending_writes 3",
            "write_quorum 2",
            "delay_min_seconds 0.01",
            "delay_max_seconds 0.15",
            "write_timeout_seconds 5.0",
            "follower_lag{follower=\"f1\"} 0",
            "follower_lag{follower=\"f2\"} 5",
            "follower_connected{follower=\"f2\"} 0",
            "follower_counted{follower=\"f1\"} 1",
            "follower_acknowledgement_seconds{follower=\"f1\"} 0.02",
        ],
    );
    assert!(!text.contains("acknowledgement_seconds{follower=\"f2\"}"), "it confirmed nothing");
}

#[test]
fn a_node_that_leads_no_more_shows_no_follower() {
    let metrics = Metrics::default();
    assert!(shown(&metrics, Role::Leader).contains("follower="));
    let text = shown(&metrics, Role::Follower);
    assert!(!text.contains("follower="), "{text}");
    assert_shows(&text, &["leader 0"]);
}

#[test]
fn what_can_go_wrong_is_shown_before_it_does() {
    let text = shown(&Metrics::default(), Role::Follower);
    assert_shows(
        &text,
        &["writes_total{outcome=\"quorum_not_reached\"} 0", "broken_streams_total{side=\"follower\"} 0"],
    );
}

#[test]
fn what_happened_is_counted() {
    let metrics = Metrics::default();
    metrics.write_answered(&WriteOutcome::QuorumNotReached { replicas: 1 });
    metrics.quorum_waited(Duration::from_millis(3));
    metrics.applied(12);
    metrics.stream_broke(Role::Leader);
    assert_shows(
        &shown(&metrics, Role::Leader),
        &[
            "writes_total{outcome=\"quorum_not_reached\"} 1",
            "quorum_wait_seconds_bucket{le=\"0.0016\"} 0",
            "quorum_wait_seconds_bucket{le=\"0.0032\"} 1",
            "applied_entries_total 12",
            "broken_streams_total{side=\"leader\"} 1",
        ],
    );
}
