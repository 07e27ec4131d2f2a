//! One simulated store: nodes of the real core, between which messages arrive at once and in order.
//!
//! What a manager can see of nodes is the core's own: promises, elections, barriers, members, leases, settings. Left
//! out is what it cannot see: clients, values, disks and sockets. Copies are in memory, so whatever is handed to
//! storage is held at once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Instant,
};

use quorumkv_api::{
    Epoch, NodeId, ProcessId, StorageId,
    peer::{NodeState, PeerAddress, PeerError},
};
use quorumkv_protocol::{
    Append, Effects, FollowerMessage, Hello, Identity, Input, LeaderMessage, Leading, Limits, Micros, Node, Recovered,
    ReplyBody, RequestId, StreamId, ToFollower,
};
use tokio::sync::oneshot;

/// What a node answers to a manager.
pub type Answer = Result<ReplyBody, PeerError>;

/// The nodes of one KvCluster.
#[derive(Debug, Default)]
pub struct Store {
    nodes: BTreeMap<NodeId, SimulatedNode>,
    streams: BTreeMap<StreamId, Stream>,
    asked: HashMap<RequestId, oneshot::Sender<Answer>>,
    last_id: u64,
}

#[derive(Debug)]
struct SimulatedNode {
    core: Node,
    started: Instant,
    /// What it begins streams with, and to whom, while it leads.
    leads: Option<(Hello, Vec<PeerAddress>)>,
}

#[derive(Debug)]
struct Stream {
    leader: NodeId,
    follower: NodeId,
    epoch: Epoch,
}

type Inputs = VecDeque<(NodeId, Input)>;

impl Store {
    /// A process with an empty copy comes up under this name. One that is there already is replaced.
    pub fn start(&mut self, node: NodeId, client_url: String) {
        self.end(&node);
        let identity = Identity {
            node: node.clone(),
            storage_id: StorageId::random(),
            process_id: ProcessId::random(),
            client_url,
        };
        let core = Node::new(identity, Limits::default(), Recovered::default(), Micros(0));
        self.nodes.insert(node, SimulatedNode { core, started: Instant::now(), leads: None });
        self.tick();
    }

    /// It is gone, with its copy.
    pub fn end(&mut self, node: &NodeId) {
        if self.nodes.remove(node).is_some() {
            let mut inputs = Inputs::new();
            self.break_streams(&mut inputs, |stream| stream.leader == *node || stream.follower == *node);
            self.run(inputs);
        }
    }

    /// What it says of itself.
    #[must_use]
    pub fn state(&self, node: &NodeId) -> Option<NodeState> {
        self.nodes.get(node).map(|node| node.core.state())
    }

    /// Asks a node something. The answer may take until more followers are there; if the node ends before, none comes.
    /// Nothing if there is no such node.
    pub fn ask(&mut self, node: &NodeId, input: impl FnOnce(RequestId) -> Input) -> Option<oneshot::Receiver<Answer>> {
        self.nodes.get(node)?;
        let request = RequestId(self.id());
        let (sender, receiver) = oneshot::channel();
        self.asked.insert(request, sender);
        self.run([(node.clone(), input(request))].into());
        Some(receiver)
    }

    /// Does what is due: heartbeats, commit notices, streams to followers that were not there before.
    pub fn tick(&mut self) {
        let mut inputs = Inputs::new();
        for (name, node) in &self.nodes {
            if node.core.next_deadline().is_some_and(|deadline| deadline <= node.now()) {
                inputs.push_back((name.clone(), Input::Tick));
            }
        }
        let leaders: Vec<(NodeId, Hello, Vec<PeerAddress>)> = self
            .nodes
            .iter()
            .filter_map(|(name, node)| node.leads.clone().map(|(hello, peers)| (name.clone(), hello, peers)))
            .collect();
        for (leader, hello, peers) in leaders {
            self.dial(&mut inputs, &leader, &hello, &peers);
        }
        self.asked.retain(|_, waiting| !waiting.is_closed());
        self.run(inputs);
    }

    fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Steps until nobody has anything to say any more.
    fn run(&mut self, mut inputs: Inputs) {
        while let Some((name, input)) = inputs.pop_front() {
            let Some(node) = self.nodes.get_mut(&name) else { continue };
            let (now, mut effects) = (node.now(), Effects::default());
            node.core.step(now, input, &mut effects);
            node.core.flush(now, &mut effects);
            // In memory: held at once, before anything that waits for it leaves.
            node.core.step(now, Input::Persisted(effects.ticket), &mut Effects::default());
            self.carry_out(&name, effects, &mut inputs);
        }
    }

    fn carry_out(&mut self, name: &NodeId, effects: Effects, inputs: &mut Inputs) {
        // Values are not kept, so there is nothing to install or to apply.
        let Effects { leading, to_followers, to_leader, replies, close, .. } = effects;
        match leading {
            Some(Leading::Streams { hello, peers }) => {
                self.break_streams(inputs, |stream| stream.leader == *name);
                self.dial(inputs, name, &hello, &peers);
                self.leads(name, Some((hello, peers)));
            }
            Some(Leading::Stop) => {
                self.leads(name, None);
                self.break_streams(inputs, |stream| stream.leader == *name);
            }
            None => {}
        }
        for (_, id, message) in to_followers {
            if let Some(stream) = self.streams.get(&id) {
                inputs.push_back((stream.follower.clone(), self.nodes[name].delivered(id, message)));
            }
        }
        for (id, message) in to_leader {
            let Some(Stream { leader, follower: peer, epoch }) = self.streams.get(&id) else { continue };
            let (peer, epoch) = (peer.clone(), *epoch);
            let input = match message {
                FollowerMessage::Welcome(welcome) => Input::StreamUp { peer, stream: id, epoch, welcome },
                message => Input::FromFollower { peer, stream: id, message },
            };
            inputs.push_back((leader.clone(), input));
        }
        for (request, answer) in replies {
            if let Some(waiting) = self.asked.remove(&request) {
                // Whoever asked may have gone away.
                waiting.send(answer).ok();
            }
        }
        self.break_streams_of(inputs, &close);
    }

    fn leads(&mut self, name: &NodeId, leads: Option<(Hello, Vec<PeerAddress>)>) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.leads = leads;
        }
    }

    /// Opens streams to those that are there and have none from this leader.
    fn dial(&mut self, inputs: &mut Inputs, leader: &NodeId, hello: &Hello, peers: &[PeerAddress]) {
        for PeerAddress { node: follower, .. } in peers {
            let connected =
                self.streams.values().any(|stream| stream.leader == *leader && stream.follower == *follower);
            if connected || follower == leader || !self.nodes.contains_key(follower) {
                continue;
            }
            let id = StreamId(self.id());
            let stream = Stream { leader: leader.clone(), follower: follower.clone(), epoch: hello.epoch };
            self.streams.insert(id, stream);
            inputs.push_back((follower.clone(), Input::Hello { stream: id, hello: hello.clone() }));
        }
    }

    fn break_streams(&mut self, inputs: &mut Inputs, which: impl Fn(&Stream) -> bool) {
        let ids: Vec<StreamId> = self.streams.iter().filter(|(_, stream)| which(stream)).map(|(id, _)| *id).collect();
        self.break_streams_of(inputs, &ids);
    }

    /// Both ends hear of it.
    fn break_streams_of(&mut self, inputs: &mut Inputs, ids: &[StreamId]) {
        for id in ids {
            let Some(Stream { leader, follower, .. }) = self.streams.remove(id) else { continue };
            inputs.push_back((follower.clone(), Input::LeaderStreamDown { stream: *id }));
            inputs.push_back((leader, Input::StreamDown { peer: follower, stream: *id }));
        }
    }
}

impl SimulatedNode {
    fn now(&self) -> Micros {
        Micros(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A message of this leader as its follower receives it.
    fn delivered(&self, stream: StreamId, message: ToFollower) -> Input {
        match message {
            ToFollower::Append { epoch, prev, commit, entries } => {
                let entries = self.core.log().entries(entries).cloned().collect();
                let message = LeaderMessage::Append(Append { epoch, prev, commit, entries });
                Input::FromLeader { stream, message }
            }
            ToFollower::Heartbeat { epoch, commit, sent } => {
                Input::FromLeader { stream, message: LeaderMessage::Heartbeat { epoch, commit, sent } }
            }
            ToFollower::Snapshot { epoch, meta } => Input::SnapshotReceived { stream, epoch, meta },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread::sleep, time::Duration};

    use quorumkv_api::{
        Settings, SettingsPatch, WriteQuorum,
        lab::Role,
        peer::{Configuration, FenceReply, Member, MembersRequest, PromoteRequest},
    };

    use super::*;

    fn name(n: usize) -> NodeId {
        NodeId(format!("demo-{n}"))
    }

    fn peers(nodes: usize) -> Vec<PeerAddress> {
        let address =
            |n| PeerAddress { node: name(n), client_url: format!("http://demo-{n}"), peer_url: String::new() };
        (0..nodes).map(address).collect()
    }

    fn answered(receiver: Option<oneshot::Receiver<Answer>>) -> Answer {
        receiver.expect("the node is there").try_recv().expect("answered at once")
    }

    fn fence(store: &mut Store, node: usize, epoch: u64) -> FenceReply {
        let asked = store.ask(&name(node), |request| Input::Fence { request, epoch: Epoch(epoch) });
        let Ok(ReplyBody::Fenced(reply)) = answered(asked) else { panic!("demo-{node} is not fenced") };
        reply
    }

    /// Six nodes of which `demo-0` was promoted in epoch 1, all recorded.
    fn led() -> (Store, Vec<Member>) {
        let mut store = Store::default();
        (0..6).for_each(|n| store.start(name(n), String::new()));
        let replies: Vec<FenceReply> = (0..6).map(|n| fence(&mut store, n, 1)).collect();
        let members: Vec<Member> =
            replies.iter().map(|reply| Member { name: reply.node.clone(), storage_id: reply.storage_id }).collect();
        let promote = PromoteRequest {
            epoch: Epoch(1),
            storage_id: replies[0].storage_id,
            process_id: replies[0].process_id,
            peers: peers(6),
            members: members.clone(),
            lease_wait_ms: 0,
            bootstrap: Some(Settings::default()),
            configuration: Configuration::default(),
        };
        let asked = store.ask(&name(0), |request| Input::Promote { request, promote });
        answered(asked).expect("promoted");
        (store, members)
    }

    #[test]
    fn a_promoted_node_leads_and_the_others_catch_up() {
        let (store, _) = led();
        let state = store.state(&name(0)).expect("there");
        assert_eq!((state.role, state.ready, state.epoch), (Role::Leader, true, Epoch(1)), "{state:?}");
        assert!(state.followers.len() == 5 && state.followers.iter().all(|one| one.connected && one.caught_up));
        let follower = store.state(&name(4)).expect("there");
        assert!(follower.ready && follower.leader == Some(name(0)), "{follower:?}");
    }

    #[test]
    fn a_higher_epoch_ends_leadership() {
        let (mut store, _) = led();
        let reply = fence(&mut store, 0, 2);
        assert_eq!(reply.previous_promise, Epoch(1));
        assert_eq!(store.state(&name(0)).expect("there").role, Role::Follower);
        let asked = store.ask(&name(0), |request| Input::Fence { request, epoch: Epoch(1) });
        answered(asked).expect_err("promised");
    }

    #[test]
    fn a_node_that_comes_back_learns_and_counts_once_it_is_recorded() {
        let (mut store, mut members) = led();
        let seen = |store: &Store| {
            let state = store.state(&name(0)).expect("there");
            state.followers.into_iter().find(|one| one.node == name(3)).expect("a follower")
        };
        store.end(&name(3));
        assert!(!seen(&store).connected);
        store.start(name(3), String::new());
        let back = seen(&store);
        assert!(back.connected && back.caught_up && !back.counted, "{back:?}");
        members[3].storage_id = back.storage_id.expect("it presented its copy");
        let configuration = Configuration::default();
        let members = MembersRequest { epoch: Epoch(1), peers: peers(6), members, configuration };
        let asked = store.ask(&name(0), |request| Input::Members { request, members });
        answered(asked).expect("taken");
        assert!(seen(&store).counted);
    }

    #[test]
    fn settings_are_committed_by_the_followers_that_are_there() {
        let (mut store, _) = led();
        let patch = SettingsPatch { write_quorum: Some(WriteQuorum(5)), ..SettingsPatch::default() };
        let asked = store.ask(&name(0), |request| Input::ChangeSettings { request, patch });
        let Ok(ReplyBody::Settings(reply)) = answered(asked) else { panic!("not applied") };
        assert_eq!(reply.settings.write_quorum, WriteQuorum(5));
        let refused = store.ask(&name(1), |request| Input::ChangeSettings { request, patch });
        answered(refused).expect_err("a follower");
    }

    #[test]
    fn heartbeats_keep_the_lease_of_a_leader() {
        let (mut store, _) = led();
        let end = Instant::now() + Duration::from_millis(400);
        while Instant::now() < end {
            sleep(Duration::from_millis(25));
            store.tick();
        }
        // Whoever was fenced tells how much of a lease is left that it granted.
        assert!(fence(&mut store, 2, 2).lease_remaining_ms > 700);
    }
}
