//! What must hold at every moment of a run, and at its end.

use std::collections::BTreeMap;

use quorumkv_api::{Epoch, NodeId, Seq, lab::Role};
use quorumkv_protocol::{
    Effects, Entry, Input, Node, Operation, ReplyBody, RequestId,
    election::{self, Shortfall},
};

use crate::world::World;

#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// The one committed log, as first seen on any node.
    log: Vec<Entry>,
    leaders: BTreeMap<Epoch, NodeId>,
    active: Option<Epoch>,
    acknowledged: Vec<Seq>,
    /// The last entry that was acknowledged under each epoch's leader.
    acknowledged_by: BTreeMap<Epoch, Seq>,
    /// Everything up to here was acknowledged or read: later reads must include it.
    observed: Seq,
}

impl Checks {
    pub(crate) fn is_first_commit_of(&self, entry: &Entry) -> bool {
        entry.seq.0 == self.log.len() as u64 + 1
    }

    fn epoch_of(&self, seq: Seq) -> Option<Epoch> {
        let place = usize::try_from(seq.0).ok()?.checked_sub(1)?;
        self.log.get(place).map(|entry| entry.epoch)
    }

    /// Every node commits the same entry at the same place.
    pub(crate) fn committed(&mut self, node: &NodeId, entry: &Entry) -> Result<(), String> {
        let index = usize::try_from(entry.seq.0).expect("small") - 1;
        match self.log.get(index) {
            None if index == self.log.len() => self.log.push(entry.clone()),
            None => return Err(format!("{node} commits {} beyond anything committed", entry.position())),
            Some(first) if first == entry => {}
            Some(first) => {
                let (a, b) = (first.position(), entry.position());
                return Err(format!("two different entries are committed at {}: {a}, and {b} on {node}", entry.seq));
            }
        }
        Ok(())
    }

    /// A linearizable read shows everything that was acknowledged or read before it.
    pub(crate) fn read(&mut self, node: &NodeId, applied: Seq) -> Result<(), String> {
        if applied < self.observed {
            return Err(format!(
                "{node} serves a stale read: it is at {applied}, {} was observed before",
                self.observed
            ));
        }
        self.observed = applied;
        Ok(())
    }
}

impl World {
    pub(crate) fn check_acknowledged(
        &mut self,
        index: usize,
        version: Seq,
        operation: &Operation,
        replicas: usize,
    ) -> Result<(), String> {
        let committed = usize::try_from(version.0).ok().and_then(|place| self.checks.log.get(place - 1));
        if committed.map(|entry| &entry.operation) != Some(operation) {
            let name = &self.nodes[index].name;
            return Err(format!("{name} acknowledges a write at {version} that is not what is committed there"));
        }
        if replicas == 0 {
            return Err(format!("a write at {version} is acknowledged with no replica"));
        }
        let epoch = self.nodes[index].core.as_ref().map(|core| core.view().epoch).unwrap_or_default();
        let last = self.checks.acknowledged_by.entry(epoch).or_default();
        *last = version.max(*last);
        self.checks.acknowledged.push(version);
        self.checks.observed = self.checks.observed.max(version);
        Ok(())
    }

    /// One leader per epoch; an active leader has every committed entry.
    pub(crate) fn check_node(&mut self, index: usize) -> Result<(), String> {
        let node = &self.nodes[index];
        let Some(core) = &node.core else { return Ok(()) };
        let view = core.view();
        if view.role != Role::Leader {
            return Ok(());
        }
        // One that lacks an acknowledged write would wait for followers that rightly refuse it, and keep others away.
        if !self.checks.leaders.contains_key(&view.epoch)
            && let Some(last) = self.checks.acknowledged_by.range(..view.epoch).map(|(_, last)| *last).max()
            && core.log().epoch_at(last) != self.checks.epoch_of(last)
        {
            return Err(format!("{} is promoted to epoch {} without the write at {last}", node.name, view.epoch));
        }
        let first = self.checks.leaders.entry(view.epoch).or_insert_with(|| node.name.clone());
        if *first != node.name {
            return Err(format!("epoch {} has two leaders, {first} and {}", view.epoch, node.name));
        }
        if view.ready && self.checks.active.is_none_or(|epoch| epoch < view.epoch) {
            self.checks.active = Some(view.epoch);
            self.outcome.leaders += 1;
            if view.last.seq < Seq(self.checks.log.len() as u64) {
                return Err(format!("{} leads epoch {} without every committed entry", node.name, view.epoch));
            }
        }
        Ok(())
    }

    /// Nobody leads although all nodes are up: right only if the recorded copies that are left cannot prove
    /// to have every acknowledged write.
    fn check_halt(&mut self) -> Result<(), String> {
        let present = self.present();
        let states: Vec<_> = self.nodes.iter().filter_map(|node| node.core.as_ref().map(Node::state)).collect();
        let epoch = self.record.epoch.next().next();
        let mut answers = Vec::new();
        for node in &mut self.nodes[..present] {
            let now = node.time(self.now);
            let mut effects = Effects::default();
            let Some(core) = &mut node.core else { return Err(format!("{} is down", node.name)) };
            core.step(now, Input::Fence { request: RequestId(0), epoch }, &mut effects);
            match effects.replies.pop() {
                Some((_, Ok(ReplyBody::Fenced(reply)))) => answers.push(reply),
                other => return Err(format!("{} is not fenced: {other:?}", node.name)),
            }
        }
        match election::elect(&self.record.record, &[], &answers, &[]) {
            Err(Shortfall::Recovery { .. }) => Ok(()),
            other => {
                Err(format!("no leader serves after the faults ended: {states:#?}, but an election gives {other:?}"))
            }
        }
    }

    /// After all faults were healed: every acknowledged write is in every replica, and all are equal.
    pub(crate) fn check_end(&mut self) -> Result<(), String> {
        let leader = self.nodes.iter().find(|node| {
            node.core.as_ref().is_some_and(|core| {
                let view = core.view();
                view.role == Role::Leader && view.ready && Some(view.epoch) == self.checks.active
            })
        });
        let Some(leader) = leader else {
            return self.check_halt();
        };
        self.outcome.recovered = true;
        for node in &self.nodes[..self.present()] {
            if node.applied != leader.applied || node.state != leader.state {
                return Err(format!(
                    "{} ends at {} with {} keys, the leader {} at {} with {}",
                    node.name,
                    node.applied,
                    node.state.len(),
                    leader.name,
                    leader.applied,
                    leader.state.len()
                ));
            }
        }
        let mut expected = BTreeMap::new();
        for entry in &self.checks.log {
            if let Operation::Put { key, value } = &entry.operation {
                expected.insert(key.clone(), (entry.seq, value.clone()));
            }
        }
        if expected != leader.state {
            return Err("the final state is not what the committed log adds up to".to_owned());
        }
        let last = Seq(self.checks.log.len() as u64);
        match self.checks.acknowledged.iter().find(|version| **version > last) {
            Some(version) => Err(format!("the write acknowledged at {version} is lost")),
            None => Ok(()),
        }
    }
}
