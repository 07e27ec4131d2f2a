//! What a page draws, made of what the manager knows and what the nodes answered. Pure.

use std::{collections::HashMap, time::Duration};

use quorumkv_api::{
    Delay, Epoch, NodeId, Seq, Settings,
    lab::{FollowerStatus, Role, StatusReply},
    settings::format_duration,
};
use serde::Serialize;

use super::{
    load::LoadState,
    news::Item,
    source::{NodeInfo, StoreView},
    window::Distribution,
};
use crate::decide::Presence;

/// Everything that a page shows at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Frame {
    /// Milliseconds since 1970.
    pub(super) at: i64,
    pub(super) ready: bool,
    pub(super) message: String,
    pub(super) remark: Option<String>,
    pub(super) wanted: SettingsFrame,
    #[serde(flatten)]
    pub(super) nodes: Nodes,
    pub(super) point: Point,
    pub(super) latency: Distribution,
    pub(super) load: LoadState,
    /// What happened since the last frame.
    pub(super) news: Vec<Item>,
}

/// One place on the lines.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Point {
    pub(super) at: i64,
    /// Acknowledged writes a second.
    pub(super) rate: f64,
    pub(super) mean_ms: Option<f64>,
    pub(super) theory_ms: Option<f64>,
}

/// Settings, with numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SettingsFrame {
    write_quorum: u8,
    delay_min_ms: f64,
    delay_max_ms: f64,
    write_timeout: String,
}

impl From<Settings> for SettingsFrame {
    fn from(settings: Settings) -> Self {
        let Settings { write_quorum, delay, write_timeout } = settings;
        Self {
            write_quorum: write_quorum.0,
            delay_min_ms: ms(delay.min),
            delay_max_ms: ms(delay.max),
            write_timeout: format_duration(write_timeout),
        }
    }
}

/// What the nodes say, put together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Nodes {
    pub(super) leader: Option<NodeId>,
    pub(super) epoch: Epoch,
    /// What the leader committed.
    pub(super) applied: Option<SettingsFrame>,
    pub(super) commit: Seq,
    pub(super) keys: usize,
    /// Followers whose stream is up.
    pub(super) connected: usize,
    /// What the mean latency of a write should be, from the delay that is simulated.
    pub(super) theory_ms: Option<f64>,
    pub(super) nodes: Vec<NodeFrame>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeFrame {
    pub(super) node: NodeId,
    pub(super) state: NodeState,
    epoch: Option<Epoch>,
    /// Last entry of its log; what the leader knows of it, where it does not answer.
    seq: Option<Seq>,
    /// How many entries it is behind the leader.
    lag: Option<u64>,
    /// How long it took to confirm one of the latest writes.
    ack_ms: Option<f64>,
}

/// What a node is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NodeState {
    /// Leads and takes writes.
    Leads,
    /// Was elected and does not yet take writes.
    Settling,
    /// Believes that it leads; another does.
    Replaced,
    /// Is connected and up to date.
    Follows,
    /// Is connected and learns what it missed.
    CatchingUp,
    /// The leader has no stream to it.
    Disconnected,
    /// Answers, and there is no leader.
    Waiting,
    /// Its process is there and does not answer.
    Silent,
    /// Its process was halted from a page.
    Halted,
    /// Its process is about to end.
    Stopping,
    /// Nothing runs.
    Down,
}

/// Puts the answers together; `answers` holds those that are fresh.
pub(super) fn nodes(view: &StoreView, answers: &HashMap<NodeId, &StatusReply>) -> Nodes {
    let leads = |status: &&&StatusReply| status.role == Role::Leader;
    // One that has been replaced may not know it yet.
    let leader = answers.values().filter(leads).max_by_key(|status| status.epoch).copied();
    let followers = leader.map(|leader| leader.followers.as_slice()).unwrap_or_default();
    let connected = followers.iter().filter(|follower| follower.connected).count();
    let settings = leader.filter(|leader| leader.ready).and_then(settings_of);
    let described = view.nodes.iter().map(|info| {
        let answer = answers.get(&info.node).copied();
        let follower = followers.iter().find(|follower| follower.node == info.node);
        NodeFrame {
            node: info.node.clone(),
            state: state(info, answer, follower, leader),
            epoch: answer.map(|answer| answer.epoch),
            seq: answer.map(|answer| answer.last_seq).or(follower.map(|follower| follower.match_seq)),
            lag: follower.map(|follower| follower.lag),
            ack_ms: follower.filter(|follower| follower.connected).and_then(|follower| follower.acknowledgement_ms),
        }
    });
    Nodes {
        leader: leader.filter(|leader| leader.ready).map(|leader| leader.node.clone()),
        epoch: answers.values().map(|status| status.epoch).max().unwrap_or_default(),
        applied: settings.map(SettingsFrame::from),
        commit: answers.values().map(|status| status.commit_seq).max().unwrap_or_default(),
        keys: leader.map_or(0, |leader| leader.keys),
        connected,
        theory_ms: settings.and_then(|settings| theory_ms(settings, connected)),
        nodes: described.collect(),
    }
}

/// The leader's settings as it committed them; none before the first.
fn settings_of(status: &StatusReply) -> Option<Settings> {
    let StatusReply { write_quorum, delay, write_timeout, .. } = status;
    let write_timeout = quorumkv_api::settings::parse_duration(write_timeout).ok()?;
    (write_quorum.0 > 0).then_some(Settings { write_quorum: *write_quorum, delay: *delay, write_timeout })
}

/// The mean of the q-th fastest of n round trips that are uniform between min and max.
fn theory_ms(Settings { write_quorum, delay: Delay { min, max }, .. }: Settings, followers: usize) -> Option<f64> {
    let quorum = usize::from(write_quorum.0);
    let reached = quorum <= followers && !max.is_zero();
    reached.then(|| ms(min) + ms(max.saturating_sub(min)) * quorum as f64 / (followers as f64 + 1.0))
}

fn state(
    info: &NodeInfo,
    answer: Option<&StatusReply>,
    follower: Option<&FollowerStatus>,
    leader: Option<&StatusReply>,
) -> NodeState {
    match info.presence {
        Presence::Absent | Presence::NotRunning => return NodeState::Down,
        Presence::Running if info.halted => return NodeState::Halted,
        Presence::Stopping => return NodeState::Stopping,
        Presence::Running => {}
    }
    let Some(answer) = answer else { return NodeState::Silent };
    let Some(leader) = leader else { return NodeState::Waiting };
    if leader.node == answer.node {
        return if leader.ready { NodeState::Leads } else { NodeState::Settling };
    }
    match follower {
        _ if answer.role == Role::Leader => NodeState::Replaced,
        Some(follower) if follower.connected && answer.ready => NodeState::Follows,
        Some(follower) if follower.connected => NodeState::CatchingUp,
        _ => NodeState::Disconnected,
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use quorumkv_api::WriteQuorum;
    use rstest::rstest;

    use super::*;
    use crate::page::tests::{leader, status, view};

    fn states(view: &StoreView, answers: &[StatusReply]) -> Vec<NodeState> {
        let answers = answers.iter().map(|status| (status.node.clone(), status)).collect();
        nodes(view, &answers).nodes.iter().map(|node| node.state).collect()
    }

    #[test]
    fn each_node_is_shown_as_what_it_is() {
        let mut view = view(6);
        view.nodes[3].presence = Presence::NotRunning;
        view.nodes[4].halted = true;
        let mut learning = status("n2");
        learning.ready = false;
        let answers = [leader("n0", 6), status("n1"), learning, status("n4")];
        use NodeState::{CatchingUp, Down, Follows, Halted, Leads, Silent};
        assert_eq!(states(&view, &answers), [Leads, Follows, CatchingUp, Down, Halted, Silent]);
    }

    #[test]
    fn a_leader_that_was_replaced_is_not_shown_as_the_leader() {
        let mut new = leader("n1", 3);
        new.epoch = Epoch(9);
        new.followers[0].connected = false;
        let answers = [leader("n0", 3), new, status("n2")];
        use NodeState::{Follows, Leads, Replaced};
        assert_eq!(states(&view(3), &answers), [Replaced, Leads, Follows]);
    }

    #[test]
    fn nodes_without_a_leader_wait() {
        let answers = [status("n0"), status("n1")];
        assert_eq!(states(&view(3), &answers), [NodeState::Waiting, NodeState::Waiting, NodeState::Silent]);
    }

    #[rstest]
    #[case::the_labs_line(3, 5, Some(80.0))]
    #[case::all(5, 5, Some(126.666_666))]
    #[case::fewer_followers(3, 4, Some(94.0))]
    #[case::no_quorum(3, 2, None)]
    fn the_theory_is_the_order_statistic_of_the_connected(
        #[case] quorum: u8,
        #[case] followers: usize,
        #[case] mean: Option<f64>,
    ) {
        let delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };
        let settings = Settings { write_quorum: WriteQuorum(quorum), delay, ..Settings::default() };
        let found = theory_ms(settings, followers);
        assert_eq!(found.is_some(), mean.is_some());
        assert!((found.unwrap_or_default() - mean.unwrap_or_default()).abs() < 1e-3, "{found:?}");
        assert_eq!(theory_ms(Settings { delay: Delay::ZERO, ..settings }, 5), None, "nothing is simulated");
    }
}
