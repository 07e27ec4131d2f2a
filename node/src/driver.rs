//! The one task that owns the core.
//!
//! It takes every command that waits, steps the core with each, flushes once, and carries the effects out in
//! the order that the core demands: install, apply, persist, send, answer. While it works the next commands
//! gather, so batches grow with the load and nothing ever lingers to fill one.

use std::collections::{HashMap, VecDeque};

use futures::FutureExt as _;
use quorumkv_api::{
    Epoch, ProcessId, Seq,
    lab::Role,
    peer::{PeerError, Refusal, SettingsEntry},
};
use quorumkv_protocol::{
    Effects, FollowerMessage, Input, Leading, Micros, Node, Operation, ReplyBody, RequestId, SnapshotSource, StreamId,
    Ticket, View, WriteId, WriteOutcome,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    acknowledgements::Acknowledgements,
    clock::Clock,
    delay::RoundTrips,
    handle::{Command, DriverHandle, Inspection, Outgoing, PeerRequest, Recovery, WriteAnswer, Written},
    limits::Limits,
    outbox::Outbox,
    storage::{Storage, StorageError},
    store::{Deviation, Snapshot},
    timer::Timer,
    wire,
};

mod admission;
mod failpoints;
mod tail;
mod waits;

use self::{admission::Admission, failpoints::Failpoints, tail::Tail, waits::Waits};

/// Commands taken at once; bounds how long answers wait for others.
const BATCH: usize = 1024;

type Reply = Result<ReplyBody, PeerError>;

/// A [`Command::Recover`] that waits for the end of its batch.
type RecoveryRequest = (Epoch, ProcessId, oneshot::Sender<Result<Recovery, PeerError>>);

/// Something that must not leave before storage holds a batch.
enum Held {
    Reply(RequestId, Reply),
    ToLeader(StreamId, FollowerMessage),
    Close(StreamId),
}

/// Owns the core and everything that its effects touch.
pub struct Driver<S> {
    node: Node,
    storage: S,
    handle: DriverHandle,
    view: watch::Sender<View>,
    leading: watch::Sender<Option<Leading>>,
    round_trips: RoundTrips,
    effects: Effects,
    next_id: u64,
    limits: Limits,
    /// Whoever waits for an answer to a write, and the bytes of its key and value.
    writes: HashMap<WriteId, (oneshot::Sender<WriteAnswer>, usize)>,
    /// Of all of them.
    waiting_bytes: usize,
    /// Of writes that are applied and not answered yet, which is for the length of a simulated round trip.
    deviations: HashMap<Seq, Deviation>,
    tail: Tail,
    requests: HashMap<RequestId, oneshot::Sender<Reply>>,
    received: Vec<(SnapshotSource, Snapshot)>,
    recoveries: Vec<RecoveryRequest>,
    outbox: Outbox,
    held: VecDeque<(Ticket, Held)>,
    durable: Ticket,
    admission: Admission,
    latency_of: Option<SettingsEntry>,
    failpoints: Failpoints,
    acknowledgements: Acknowledgements,
    waits: Waits,
}

/// What [`Driver::new`] gives beside the driver.
pub struct Attached {
    /// For everybody who asks the driver something.
    pub handle: DriverHandle,
    /// The queue that [`Driver::run`] takes.
    pub commands: mpsc::Receiver<Command>,
    /// To whom streams have to be kept, for [`crate::links`].
    pub leading: watch::Receiver<Option<Leading>>,
}

impl<S: Storage> Driver<S> {
    /// A driver of `node`, which was made at `clock`'s zero.
    pub fn new(node: Node, mut storage: S, clock: Clock, round_trips: RoundTrips) -> (Self, Attached) {
        let (view, views) = watch::channel(node.view());
        let (leading, leadings) = watch::channel(None);
        let (handle, commands) = DriverHandle::new(views, clock);
        storage.observe(&handle.metrics.storage);
        let driver = Self {
            node,
            storage,
            handle: handle.clone(),
            view,
            leading,
            round_trips,
            effects: Effects::default(),
            next_id: 0,
            limits: Limits::default(),
            writes: HashMap::new(),
            waiting_bytes: 0,
            deviations: HashMap::new(),
            tail: Tail::default(),
            requests: HashMap::new(),
            received: Vec::new(),
            recoveries: Vec::new(),
            outbox: Outbox::default(),
            held: VecDeque::new(),
            durable: Ticket::default(),
            admission: Admission::default(),
            latency_of: None,
            failpoints: Failpoints::default(),
            acknowledgements: Acknowledgements::default(),
            waits: Waits::default(),
        };
        (driver, Attached { handle, commands, leading: leadings })
    }

    /// The same driver with these limits instead of the default ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Works until `stop` completes.
    ///
    /// # Errors
    /// When storage fails: nothing that this node says afterwards could be relied on.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: impl Future<Output = ()>,
    ) -> Result<(), StorageError> {
        let clock = self.handle.clock;
        let mut timer = Timer::new(clock);
        let mut batch = Vec::with_capacity(BATCH);
        let mut stop = std::pin::pin!(stop);
        loop {
            let deadline = self.node.next_deadline();
            let room_changed = self.storage.room_changed();
            tokio::select! {
                biased;
                ticket = self.storage.durable() => {
                    let ticket = ticket?;
                    self.kept(ticket, clock.now());
                }
                () = &mut stop => return Ok(()),
                _ = commands.recv_many(&mut batch, BATCH) => {}
                () = room_changed, if self.admission.is_waiting() => {}
                () = timer.until(deadline) => {}
            }
            // Read once, after everything has arrived: for a batch, no time passes.
            let now = clock.now();
            self.let_in(&mut batch, now);
            if self.node.next_deadline().is_some_and(|deadline| deadline <= now) {
                self.node.step(now, Input::Tick, &mut self.effects);
            }
            self.flush(now)?;
        }
    }

    /// Completes a batch, and the ones after it that storage keeps at once.
    fn flush(&mut self, now: Micros) -> Result<(), StorageError> {
        loop {
            self.node.flush(now, &mut self.effects);
            self.carry_out();
            self.measure_waits(now);
            match self.storage.durable().now_or_never() {
                None => break,
                Some(ticket) => self.kept(ticket?, now),
            }
        }
        self.publish();
        for (epoch, process_id, answer) in std::mem::take(&mut self.recoveries) {
            drop(answer.send(self.recovery(epoch, process_id)));
        }
        self.tail.answer(self.node.log(), self.handle.store.applied());
        Ok(())
    }

    fn take(&mut self, command: Command, now: Micros) {
        let input = match command {
            Command::Write { operation, answer } => self.propose(operation, answer, now),
            Command::Batch { writes } => {
                for (operation, answer) in writes {
                    let input = self.propose(operation, answer, now);
                    self.node.step(now, input, &mut self.effects);
                }
                return;
            }
            Command::ReadLog { from, answer } => {
                // As with recoveries.
                self.tail.ask(from, answer);
                return;
            }
            Command::Peer { request, answer } => self.request(request, answer),
            Command::Inspect(answer) => {
                // Whoever asked may have gone since.
                drop(answer.send(self.inspect()));
                return;
            }
            Command::Recover { epoch, process_id, answer } => {
                // Store and core agree only between batches.
                self.recoveries.push((epoch, process_id, answer));
                return;
            }
            Command::StreamUp { peer, stream, epoch, welcome, outbound } => {
                self.outbox.open(stream, outbound);
                Input::StreamUp { peer, stream, epoch, welcome }
            }
            Command::FromFollower { peer, stream, message } => {
                if let FollowerMessage::Ack { epoch, match_seq, .. } = &message {
                    self.acknowledgements.acknowledged(*epoch, &peer, *match_seq, now);
                }
                Input::FromFollower { peer, stream, message }
            }
            Command::StreamDown { peer, stream } => {
                self.outbox.close(stream);
                Input::StreamDown { peer, stream }
            }
            Command::Hello { stream, hello, outbound } => {
                self.outbox.open(stream, outbound);
                Input::Hello { stream, hello }
            }
            Command::FromLeader { stream, message } => Input::FromLeader { stream, message },
            Command::SnapshotReceived { stream, epoch, meta, snapshot } => {
                self.received.push((SnapshotSource::Stream(stream), snapshot));
                Input::SnapshotReceived { stream, epoch, meta }
            }
            Command::LeaderStreamDown { stream } => {
                self.outbox.close(stream);
                Input::LeaderStreamDown { stream }
            }
            Command::Stop => Input::Stop,
        };
        self.node.step(now, input, &mut self.effects);
    }

    fn propose(&mut self, operation: Operation, answer: oneshot::Sender<WriteAnswer>, now: Micros) -> Input {
        let write = WriteId(self.new_id());
        let bytes = operation.weight();
        self.waiting_bytes += bytes;
        self.writes.insert(write, (answer, bytes));
        let round_trips = self.round_trips.draw(self.node.delay_in_force(), self.node.follower_count());
        if self.acknowledgements.wants(now)
            && self.view.borrow().ready
            && let Some(Leading::Streams { hello, peers }) = &*self.leading.borrow()
        {
            // The followers in the core's order; an active leader gives the write the next place in its log.
            let (seq, followers) = (self.node.log().last_seq().next(), peers.iter().map(|peer| &peer.node));
            self.acknowledgements.follow(hello.epoch, seq, now, followers, &round_trips);
        }
        Input::Propose { write, operation, round_trips }
    }

    fn request(&mut self, request: PeerRequest, answer: oneshot::Sender<Reply>) -> Input {
        let id = RequestId(self.new_id());
        self.requests.insert(id, answer);
        match request {
            PeerRequest::Fence(epoch) => Input::Fence { request: id, epoch },
            PeerRequest::Promote(promote) => Input::Promote { request: id, promote },
            PeerRequest::Members(members) => Input::Members { request: id, members },
            PeerRequest::Settings(patch) => Input::ChangeSettings { request: id, patch },
            PeerRequest::Replicate { leader, append } => Input::Replicate { request: id, leader, append },
            PeerRequest::Restore { meta, snapshot, entries } => {
                self.received.push((SnapshotSource::Request(id), snapshot));
                Input::Restore { request: id, meta, entries }
            }
        }
    }

    fn inspect(&self) -> Inspection {
        let peers = match &*self.leading.borrow() {
            Some(Leading::Streams { peers, .. }) => peers.clone(),
            Some(Leading::Stop) | None => Vec::new(),
        };
        let state = self.node.state();
        let acknowledgements = self.acknowledgements.latest(state.epoch);
        let acknowledgements = acknowledgements.map(|(node, took)| (node.clone(), took)).collect();
        Inspection { state, peers, acknowledgements }
    }

    fn recovery(&self, epoch: Epoch, process_id: ProcessId) -> Result<Recovery, PeerError> {
        let state = self.node.state();
        let refuse = |reason, error: String| Err(PeerError { error, reason, promised: state.promised });
        if state.process_id != process_id {
            return refuse(Refusal::OtherProcess, format!("this is process {}, not {process_id}", state.process_id));
        }
        if state.promised != epoch || state.role == Role::Leader || state.epoch == epoch {
            let text = format!("a copy is handed out only while epoch {epoch} is promised and has no leader");
            return refuse(Refusal::StaleEpoch, text);
        }
        let meta = self.node.snapshot_meta();
        let snapshot = self.handle.store.snapshot();
        assert_eq!(snapshot.applied, meta.outline.last, "everything committed is applied between batches");
        let log = self.node.log();
        let prev = log.position_at(snapshot.applied).expect("the log reaches up to its commit");
        let tail = wire::append(epoch, prev, snapshot.applied, log.entries(prev.seq.next()..=log.last_seq()));
        Ok(Recovery { promised: state.promised, meta, snapshot, tail })
    }

    /// Carries out what a flush gave, in the order that keeps every promise.
    fn carry_out(&mut self) {
        if let Some(source) = self.effects.install.take() {
            let handed_in = self.received.drain(..).find(|(from, _)| *from == source);
            let (_, snapshot) = handed_in.expect("the core installs only what was handed in");
            self.handle.store.install(snapshot);
            self.handle.metrics.snapshot_installed();
        }
        // What the core did not want in this batch it will never want.
        self.received.clear();
        self.apply();
        if !self.effects.persist.is_empty() {
            let (ticket, log, store) = (self.effects.ticket, self.node.log(), &self.handle.store);
            self.failpoints.submitting(ticket, &self.effects.persist, log, self.node.follower_count() > 0);
            self.storage.submit(ticket, &self.effects.persist, log, store);
        }
        self.admission.handed_over();
        if let Some(leading) = self.effects.leading.take() {
            let leads = |leading: &Leading| match leading {
                Leading::Streams { hello, .. } => Some(hello.epoch),
                Leading::Stop => None,
            };
            let epoch = leads(&leading);
            let before = self.leading.send_replace(Some(leading));
            if epoch.is_some() && epoch != before.as_ref().and_then(leads) {
                self.handle.metrics.elected();
            }
        }
        self.send_to_followers();
        self.answer_writes();
        // Nobody waits for those that another leader proposed, or that were given up.
        self.deviations.retain(|seq, _| self.node.owes_answer(*seq));
        self.hold_back();
        self.effects.clear();
    }

    fn apply(&mut self) {
        let (applied, commit) = (self.handle.store.applied(), self.effects.commit);
        if commit <= applied {
            return;
        }
        let deviations = self.handle.store.apply(self.node.log().entries(applied.next()..=commit));
        self.handle.metrics.applied(commit.0 - applied.0);
        self.tail.leave_out(deviations.iter().map(|(seq, _)| *seq), self.node.log().base());
        self.deviations.extend(deviations);
        self.failpoints.committed(self.node.log(), applied.next()..=commit, self.node.follower_count() > 0);
        let settings = self.node.log().committed_settings();
        if settings != self.latency_of {
            self.latency_of = settings;
            self.handle.latency.reset();
        }
    }

    fn measure_waits(&mut self, now: Micros) {
        if self.node.follower_count() == 0 {
            self.waits.clear();
            return;
        }
        self.waits.appended(self.node.log().last_seq(), now);
        let metrics = &self.handle.metrics;
        self.waits.committed(self.handle.store.applied(), now, |took| metrics.quorum_waited(took));
    }

    fn send_to_followers(&mut self) {
        let (log, store) = (self.node.log(), &self.handle.store);
        for (_, stream, message) in self.effects.to_followers.drain(..) {
            self.outbox.send_to_follower(stream, message, log, store, &self.handle.metrics);
        }
        self.outbox.end_of_batch();
    }

    fn answer_writes(&mut self) {
        if self.effects.answers.is_empty() {
            return;
        }
        let now = self.handle.clock.now();
        let metrics = &self.handle.metrics;
        let took = self.effects.answers.iter().filter_map(|(_, outcome)| match outcome {
            WriteOutcome::Committed { appended, .. } => Some(now.since(*appended)),
            _ => None,
        });
        self.handle.latency.record(took.inspect(|latency| metrics.write_took(*latency)));
        for (write, outcome) in self.effects.answers.drain(..) {
            metrics.write_answered(&outcome);
            let (answer, bytes) = self.writes.remove(&write).expect("the core answers every write once");
            self.waiting_bytes -= bytes;
            let deviation = match &outcome {
                WriteOutcome::Committed { version, .. } if !self.deviations.is_empty() => {
                    self.deviations.remove(version)
                }
                _ => None,
            };
            // The client may have hung up; its write stays what it is.
            drop(answer.send(Ok(Written { outcome, deviation })));
        }
    }

    /// Queues what waits for storage, and lets go of what does not have to.
    fn hold_back(&mut self) {
        let ticket = self.effects.ticket;
        let replies = self.effects.replies.drain(..).map(|(request, reply)| Held::Reply(request, reply));
        self.held.extend(replies.map(|held| (ticket, held)));
        let messages = self.effects.to_leader.drain(..).map(|(stream, message)| Held::ToLeader(stream, message));
        self.held.extend(messages.map(|held| (ticket, held)));
        self.held.extend(self.effects.close.drain(..).map(|stream| (ticket, Held::Close(stream))));
        self.release();
    }

    fn kept(&mut self, ticket: Ticket, now: Micros) {
        self.durable = self.durable.max(ticket);
        self.failpoints.kept(ticket);
        self.node.step(now, Input::Persisted(ticket), &mut self.effects);
        self.release();
    }

    fn release(&mut self) {
        while let Some((_, held)) = self.held.pop_front_if(|(ticket, _)| *ticket <= self.durable) {
            match held {
                Held::Reply(request, reply) => {
                    let answer = self.requests.remove(&request).expect("the core replies to every request once");
                    drop(answer.send(reply));
                }
                Held::ToLeader(stream, message) => {
                    self.outbox.send(stream, Outgoing::Frame(wire::follower_message(&message)));
                }
                Held::Close(stream) => self.outbox.close(stream),
            }
        }
    }

    fn publish(&mut self) {
        let view = self.node.view();
        self.view.send_if_modified(|shown| {
            let changed = *shown != view;
            if changed {
                *shown = view;
            }
            changed
        });
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}
