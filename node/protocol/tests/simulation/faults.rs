//! Crashes, lost copies, pauses and partitions.

use quorumkv_api::lab::Role;
use rand::{RngExt, rngs::StdRng};

use crate::{
    node::SimNode,
    world::{Event, World},
};

#[derive(Debug)]
pub(crate) enum Fault {
    Restart(usize),
    Mend(usize),
}

/// How often each kind of fault is drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weights {
    crash: u32,
    lose: u32,
    pause: u32,
    isolate: u32,
    cut: u32,
    hide: u32,
    break_streams: u32,
}

impl Weights {
    pub(crate) fn from_rng(rng: &mut StdRng) -> Self {
        let mut weight = || [0, 1, 4][rng.random_range(0..3)];
        Self {
            crash: weight(),
            lose: weight(),
            pause: weight(),
            isolate: weight(),
            cut: weight(),
            hide: weight(),
            break_streams: 1,
        }
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
        let node = self.victim();
        let Weights { crash, lose, pause, isolate, cut, hide, break_streams } = self.plan.weights;
        let mut draw = self.rng.random_range(0..crash + lose + pause + isolate + cut + hide + break_streams);
        let mut drawn = |weight: u32| {
            let hit = draw < weight;
            draw = draw.wrapping_sub(weight);
            hit
        };
        if drawn(crash) {
            self.crash(node, !self.plan.persistent);
        } else if drawn(lose) {
            self.crash(node, true);
        } else if drawn(pause) {
            let until = self.now + self.rng.random_range(50_000..3_000_000);
            self.nodes[node].pause(until);
        } else if drawn(isolate) {
            self.isolate(node);
        } else if drawn(cut) {
            let other = self.rng.random_range(0..self.nodes.len());
            self.cut(node, other);
        } else if drawn(hide) {
            let until = self.now + self.rng.random_range(100_000..4_000_000);
            self.nodes[node].cut_off_from_managers(until);
        } else {
            self.break_streams(|stream| stream.follower == node || stream.leader == node);
        }
    }

    fn victim(&mut self) -> usize {
        let leads = |node: &SimNode| node.core.as_ref().is_some_and(|core| core.view().role == Role::Leader);
        let leader = self.nodes.iter().rposition(leads);
        match leader {
            Some(leader) if self.rng.random_bool(self.plan.strike_leader) => leader,
            _ => self.rng.random_range(0..self.nodes.len()),
        }
    }

    fn crash(&mut self, index: usize, lose: bool) {
        if !self.nodes[index].is_up() {
            return;
        }
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
        remaining >= self.nodes.len() - usize::from(smallest)
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
            self.nodes[index].recover_from_pauses();
        }
    }
}
