//! Crashes, lost copies, pauses and partitions.

use rand::RngExt;

use crate::{
    node::SimNode,
    world::{Event, World},
};

#[derive(Debug)]
pub(crate) enum Fault {
    Restart(usize),
    Mend(usize),
}

impl SimNode {
    /// A paused node answers nobody.
    pub(crate) fn cut_from_managers(&self, now: u64) -> bool {
        !self.is_up() || self.paused_until(now).is_some()
    }
}

impl World {
    pub(crate) fn next_fault(&mut self) {
        if self.quiet {
            return;
        }
        let mean = u64::try_from(self.plan.fault_every.as_micros()).unwrap_or(u64::MAX);
        let after = self.rng.random_range(mean / 4..mean * 2);
        self.schedule(after, Event::NextFault);
        let node = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..10) {
            0..4 => self.crash(node),
            4..6 => {
                let until = self.now + self.rng.random_range(50_000..3_000_000);
                self.nodes[node].pause(until);
            }
            6..8 => self.isolate(node),
            8 => {
                let other = self.rng.random_range(0..self.nodes.len());
                self.cut(node, other);
            }
            _ => self.break_streams(|stream| stream.follower == node || stream.leader == node),
        }
    }

    fn crash(&mut self, index: usize) {
        if !self.nodes[index].is_up() {
            return;
        }
        let lose = !self.plan.persistent || self.rng.random_bool(0.2);
        if lose && !self.covered_without(index) {
            return;
        }
        self.outcome.crashes += 1;
        self.outcome.losses += usize::from(lose);
        let mut node = std::mem::replace(&mut self.nodes[index], SimNode::new_down());
        node.crash(self, lose);
        self.nodes[index] = node;
        self.break_streams(|stream| stream.follower == index || stream.leader == index);
        let after = self.rng.random_range(10_000..1_500_000);
        self.schedule(after, Event::Fault(Fault::Restart(index)));
    }

    /// Whether the recorded copies that remain without this one can still elect a leader. Losing more is
    /// refused by the election, for good, which is right but teaches nothing more.
    fn covered_without(&self, lost: usize) -> bool {
        let remaining = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(index, node)| {
                let recorded = |member: &quorumkv_api::peer::Member| {
                    member.name == node.name && member.storage_id == node.storage_id
                };
                *index != lost && self.record.record.members.iter().any(recorded)
            })
            .count();
        let smallest = self
            .nodes
            .iter()
            .filter_map(|node| node.core.as_ref())
            .flat_map(|core| core.log().settings().iter().map(|entry| entry.settings.write_quorum.0))
            .min()
            .unwrap_or(1);
        remaining >= self.nodes.len() - usize::from(smallest) && remaining + 1 >= self.nodes.len() / 2
    }

    fn isolate(&mut self, index: usize) {
        for other in 0..self.nodes.len() {
            if self.rng.random_bool(0.8) {
                self.cut(index, other);
            }
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.cut[a][b] = true;
        self.cut[b][a] = true;
        let after = self.rng.random_range(100_000..4_000_000);
        self.schedule(after, Event::Fault(Fault::Mend(a)));
    }

    pub(crate) fn fault(&mut self, fault: Fault) -> Result<(), String> {
        match fault {
            Fault::Restart(index) => self.restart(index),
            Fault::Mend(index) => self.mend(index),
        }
        Ok(())
    }

    fn restart(&mut self, index: usize) {
        if self.nodes[index].is_up() {
            return;
        }
        let mut node = std::mem::replace(&mut self.nodes[index], SimNode::new_down());
        node.start(self);
        self.nodes[index] = node;
    }

    fn mend(&mut self, index: usize) {
        for other in 0..self.nodes.len() {
            self.cut[index][other] = false;
            self.cut[other][index] = false;
        }
        // What was under way when the cut began is gone, so the streams are, too.
        self.break_streams(|stream| stream.follower == index || stream.leader == index);
    }

    /// Ends all trouble: what is left is to recover.
    pub(crate) fn heal(&mut self) {
        self.quiet = true;
        for index in 0..self.nodes.len() {
            self.mend(index);
            self.restart(index);
        }
    }
}
