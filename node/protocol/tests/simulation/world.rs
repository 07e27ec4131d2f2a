//! The clock, the queue of events, and what a run is made of.

use std::{cmp::Reverse, collections::BTreeMap, collections::BinaryHeap, fmt, time::Duration};

use quorumkv_api::NodeId;
use quorumkv_protocol::{Input, Limits, RequestId, StreamId, Ticket};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    checks::Checks,
    faults::{Fault, Weights},
    manager::{Manager, Reply, SharedRecord},
    network::{Stream, Wire},
    node::{Call, ClientWrite, SimNode},
};

/// What a run is made of.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Decides everything.
    pub(crate) seed: u64,
    /// Followers plus one, at most; the store may begin with fewer.
    pub(crate) nodes: usize,
    /// Followers plus one, to begin with.
    pub(crate) first: usize,
    /// Write quorum of the new store; as many as there are followers if that is less.
    pub(crate) quorum: u8,
    /// Whether a crashed node keeps what storage had confirmed.
    pub(crate) persistent: bool,
    /// How long faults go on, in virtual time.
    pub(crate) duration: Duration,
    /// Mean time between faults, in virtual time.
    pub(crate) fault_every: Duration,
    /// How often each kind of fault is drawn, relative to the others.
    pub(crate) weights: Weights,
    /// Probability that a fault strikes the leader.
    pub(crate) strike_leader: f64,
    /// Probability that a manager replaces a healthy leader, each time it looks.
    pub(crate) switchover: f64,
    /// Probability that a manager changes the settings, each time it looks.
    pub(crate) resettle: f64,
    /// Probability that a manager lets a node join or leave, each time it looks.
    pub(crate) reshape: f64,
    /// Longest ordinary latency of a message, in microseconds.
    pub(crate) latency: u64,
    /// Managers at work at the same time; more than one must be safe.
    pub(crate) managers: usize,
    /// Bounds of each node; small ones exercise snapshots.
    pub(crate) limits: Limits,
}

impl Plan {
    /// A plan in which the seed also decides the shape of the run: each leaves some kinds of trouble out, so
    /// that the others have room (swarm testing; Groce et al., ISSTA 2012).
    #[must_use]
    pub(crate) fn from_seed(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let nodes = [3, 3, 4, 6, 6][rng.random_range(0..5)];
        let plan = Self {
            seed,
            nodes,
            first: nodes,
            quorum: rng.random_range(1..=5),
            persistent: rng.random_bool(0.5),
            duration: Duration::from_secs(8),
            fault_every: Duration::from_millis(20 << rng.random_range(0..7)),
            weights: Weights::from_rng(&mut rng),
            strike_leader: [0.0, 0.3, 0.7][rng.random_range(0..3)],
            switchover: [0.0, 0.01, 0.1][rng.random_range(0..3)],
            resettle: [0.0, 0.1, 0.5][rng.random_range(0..3)],
            reshape: 0.0,
            latency: [400, 2_000, 20_000][rng.random_range(0..3)],
            managers: rng.random_range(1..=2),
            limits: Limits {
                retain_bytes: usize::MAX,
                retain_entries: rng.random_range(3..200),
                max_message_bytes: rng.random_range(100..4000),
                max_in_flight: rng.random_range(1..6),
            },
        };
        let plan = match rng.random_range(0..5) {
            0..2 => plan.duel(&mut rng),
            2 => plan.crawl(&mut rng),
            _ => plan,
        };
        match seed % 6 {
            0 => plan.breathe(&mut rng),
            3 => plan.breathe(&mut rng).wither(&mut rng),
            _ => plan,
        }
    }

    /// The same, with nodes that join and leave meanwhile.
    fn breathe(self, rng: &mut StdRng) -> Self {
        let nodes = self.nodes.max(rng.random_range(3..=7));
        Self {
            nodes,
            first: rng.random_range(2..=nodes),
            reshape: [0.05, 0.2, 0.5][rng.random_range(0..3)],
            // Two operators are what the numbers of sets of nodes are for.
            managers: rng.random_range(1..=2),
            ..self
        }
    }

    /// The quorum changes and nodes leave while a follower hears of nothing; then it may be the only one to answer.
    fn wither(self, rng: &mut StdRng) -> Self {
        let nodes = rng.random_range(4..=5);
        Self {
            nodes,
            first: nodes,
            quorum: 2,
            persistent: true,
            fault_every: Duration::from_millis(rng.random_range(100..800)),
            weights: Weights::cut_and_black_out(),
            switchover: 0.0,
            resettle: 0.5,
            reshape: 0.5,
            latency: 2_000,
            managers: 1,
            ..self
        }
    }

    /// A slow network that carries an entry at a time, so that leaders end while an earlier epoch's entries
    /// are still on their way.
    fn crawl(self, rng: &mut StdRng) -> Self {
        Self {
            nodes: 3,
            first: 3,
            quorum: 1,
            persistent: true,
            fault_every: Duration::from_millis(rng.random_range(50..800)),
            weights: Weights::crash_and_depose(),
            strike_leader: 0.7,
            switchover: [0.0, 0.1][rng.random_range(0..2)],
            resettle: 0.0,
            latency: [4_000, 20_000][rng.random_range(0..2)],
            managers: 1,
            limits: Limits { max_message_bytes: 100, max_in_flight: 1, ..self.limits },
            ..self
        }
    }

    /// Few nodes and one kind of trouble, again and again: a leader that goes on while another is elected.
    fn duel(self, rng: &mut StdRng) -> Self {
        let nodes = [3, 3, 4, 6][rng.random_range(0..4)];
        Self {
            nodes,
            first: nodes,
            quorum: rng.random_range(1..=3),
            fault_every: Duration::from_millis(rng.random_range(600..2000)),
            weights: Weights::depose_only(),
            strike_leader: [0.0, 0.3][rng.random_range(0..2)],
            switchover: 0.0,
            resettle: [0.0, 0.05][rng.random_range(0..2)],
            latency: 400,
            managers: 1,
            ..self
        }
    }
}

/// What a run amounted to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Writes answered with success.
    pub(crate) acknowledged: usize,
    /// Writes answered otherwise, or never.
    pub(crate) unknown: usize,
    /// Linearizable reads.
    pub(crate) reads: usize,
    /// Leaders that became active.
    pub(crate) leaders: usize,
    /// Crashes of nodes.
    pub(crate) crashes: usize,
    /// Copies lost.
    pub(crate) losses: usize,
    /// Snapshots installed.
    pub(crate) snapshots: usize,
    /// Settings entries committed.
    pub(crate) settings_changes: usize,
    /// Nodes that joined, as the record has it.
    pub(crate) joined: usize,
    /// Nodes that left.
    pub(crate) left: usize,
    /// Whether the store served again once the faults had ended.
    pub(crate) recovered: bool,
    /// A hash over every event, equal for equal runs.
    pub(crate) trace: u64,
}

/// An invariant does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// What does not hold.
    pub(crate) what: String,
    /// The seed that replays it.
    pub(crate) seed: u64,
    /// Virtual time, in microseconds.
    pub(crate) at: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {} us; replay with SEED={})", self.what, self.at, self.seed)
    }
}

impl std::error::Error for Violation {}

#[derive(Debug)]
pub(crate) enum Event {
    Deliver { stream: StreamId, to_leader: bool, wire: Wire },
    StreamClosed { stream: StreamId, at_leader: bool },
    Dial { from: usize, process: u64, peer: NodeId },
    Persisted { node: usize, process: u64, ticket: Ticket },
    Wake { node: usize, process: u64 },
    Call { node: usize, manager: usize, turn: u64, call: Call },
    Reply { manager: usize, turn: u64, node: usize, reply: Box<Reply> },
    Manager { manager: usize, turn: u64 },
    Client { client: usize },
    Fault(Fault),
    Resettle { node: usize },
    NextFault,
}

#[derive(Debug)]
struct Queued {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) rng: StdRng,
    pub(crate) now: u64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) cut: Vec<Vec<bool>>,
    pub(crate) record: SharedRecord,
    pub(crate) managers: Vec<Manager>,
    pub(crate) checks: Checks,
    pub(crate) outcome: Outcome,
    pub(crate) quiet: bool,
    next_id: u64,
}

const CLIENTS: usize = 4;
const SETTLING: Duration = Duration::from_secs(12);

impl World {
    fn new(plan: Plan) -> Self {
        let nodes = plan.nodes;
        let mut world = Self {
            rng: StdRng::seed_from_u64(plan.seed),
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            nodes: Vec::new(),
            streams: BTreeMap::new(),
            cut: vec![vec![false; nodes]; nodes],
            record: SharedRecord::new(plan.first),
            managers: Vec::new(),
            checks: Checks::default(),
            outcome: Outcome::default(),
            quiet: false,
            next_id: 0,
            plan,
        };
        for index in 0..nodes {
            let node = SimNode::new(&mut world, index);
            world.nodes.push(node);
        }
        for manager in 0..world.plan.managers {
            world.managers.push(Manager::default());
            let after = world.rng.random_range(0..50_000);
            world.schedule(after, Event::Manager { manager, turn: 0 });
        }
        for client in 0..CLIENTS {
            world.schedule(200_000, Event::Client { client });
        }
        world.schedule(500_000, Event::NextFault);
        world
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn schedule(&mut self, after: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Queued { at: self.now + after, order: self.order, event }));
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver { stream, to_leader, wire } => self.deliver(stream, to_leader, wire),
            Event::StreamClosed { stream, at_leader } => self.stream_closed(stream, at_leader),
            Event::Dial { from, process, peer } => {
                self.dial(from, process, &peer);
                Ok(())
            }
            Event::Persisted { node, process, ticket } => self.persisted(node, process, ticket),
            Event::Wake { node, process } => self.wake(node, process),
            Event::Call { node, manager, turn, call } => self.call(node, manager, turn, call),
            Event::Reply { manager, turn, node, reply } => {
                self.manager_reply(manager, turn, node, *reply);
                Ok(())
            }
            Event::Manager { manager, turn } => {
                self.manager_turn(manager, turn);
                Ok(())
            }
            Event::Client { client } => self.client(client),
            Event::Fault(fault) => self.fault(fault),
            Event::Resettle { node } => {
                let (request, patch) = (RequestId(self.id()), self.random_settings());
                self.input(node, Input::ChangeSettings { request, patch })
            }
            Event::NextFault => {
                self.next_fault();
                Ok(())
            }
        }
    }

    /// A client does one thing with one node, then waits.
    fn client(&mut self, client: usize) -> Result<(), String> {
        let after = self.rng.random_range(500..20_000);
        if !self.quiet {
            self.schedule(after, Event::Client { client });
        }
        let node = self.rng.random_range(0..self.nodes.len());
        if self.rng.random_bool(0.3) {
            return self.read(node);
        }
        let key = self.rng.random_range(0..8_u8);
        let write = ClientWrite { key, value: self.id() };
        self.propose(node, write)
    }

    fn run(mut self) -> Result<Outcome, Violation> {
        let faults_end = u64::try_from(self.plan.duration.as_micros()).unwrap_or(u64::MAX);
        let end = faults_end + u64::try_from(SETTLING.as_micros()).unwrap_or(u64::MAX);
        let mut healed = false;
        while let Some(Reverse(Queued { at, order, event })) = self.queue.pop() {
            if at > end {
                break;
            }
            self.now = at;
            if !healed && at >= faults_end {
                healed = true;
                self.heal();
            }
            self.outcome.trace = self.outcome.trace.rotate_left(5) ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ order;
            let result = self.handle(event);
            result.map_err(|what| Violation { what, seed: self.plan.seed, at: self.now })?;
        }
        self.check_end().map_err(|what| Violation { what, seed: self.plan.seed, at: self.now })?;
        Ok(self.outcome)
    }
}

/// Runs one plan.
///
/// # Errors
/// The first invariant that does not hold.
pub(crate) fn run(plan: Plan) -> Result<Outcome, Violation> {
    World::new(plan).run()
}
