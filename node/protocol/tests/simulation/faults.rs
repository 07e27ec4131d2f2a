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
    /// A leader that was cut off, and perhaps replaced, meets some of the others again.
    Return(usize),
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
    blackout: u32,
    depose: u32,
    break_streams: u32,
}

impl Weights {
    pub(crate) fn depose_only() -> Self {
        Self { depose: 1, ..Self::none() }
    }

    pub(crate) fn crash_and_depose() -> Self {
        Self { crash: 3, cut: 1, isolate: 1, depose: 1, ..Self::none() }
    }

    pub(crate) fn cut_and_black_out() -> Self {
        Self { cut: 3, blackout: 2, hide: 1, ..Self::none() }
    }

    fn none() -> Self {
        Self { crash: 0, lose: 0, pause: 0, isolate: 0, cut: 0, hide: 0, blackout: 0, depose: 0, break_streams: 0 }
    }

    pub(crate) fn from_rng(rng: &mut StdRng) -> Self {
        let mut weight = || [0, 1, 4][rng.random_range(0..3)];
        Self {
            crash: weight(),
            lose: weight(),
            pause: weight(),
            isolate: weight(),
            cut: weight(),
            hide: weight(),
            blackout: weight(),
            depose: weight(),
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
        let Weights { crash, lose, pause, isolate, cut, hide, blackout, depose, break_streams } = self.plan.weights;
        let mut draw =
            self.rng.random_range(0..crash + lose + pause + isolate + cut + hide + blackout + depose + break_streams);
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
        } else if drawn(blackout) {
            self.blackout();
        } else if drawn(depose) {
            self.depose();
        } else {
            self.break_streams(|stream| stream.follower == node || stream.leader == node);
        }
    }

    /// The leader, with a few companions, is out of the managers' sight and mostly of the others', while it
    /// goes on to lead: the others elect another. Then the two sides meet again in part. Nearly every rule
    /// of failover is there for some course of this.
    fn depose(&mut self) {
        let Some(leader) = self.leader() else { return };
        let mut with_leader = vec![false; self.nodes.len()];
        with_leader[leader] = true;
        for _ in 0..self.rng.random_range(0..3) {
            let companion = self.rng.random_range(0..self.nodes.len());
            with_leader[companion] = true;
        }
        let cut = self.rng.random_bool(0.75);
        let until = self.now + self.rng.random_range(500_000..4_000_000);
        for a in 0..self.nodes.len() {
            if with_leader[a] || self.rng.random_bool(0.2) {
                self.nodes[a].cut_off_from_managers(until);
            }
            for b in 0..self.nodes.len() {
                if cut && with_leader[a] != with_leader[b] && a != b {
                    self.cut[a][b] = true;
                }
            }
        }
        if self.rng.random_bool(0.5) {
            // Settings under way as the leader is cut off.
            self.schedule(0, Event::Resettle { node: leader });
        }
        let after = self.rng.random_range(200_000..2_500_000);
        self.schedule(after, Event::Fault(Fault::Return(leader)));
        self.schedule(until - self.now + 300_000, Event::Fault(Fault::Mend(leader)));
    }

    fn returns(&mut self, leader: usize) {
        let all = self.rng.random_bool(0.3);
        let one = self.rng.random_range(0..self.nodes.len());
        let lose = !self.plan.persistent || self.rng.random_bool(0.5);
        for other in 0..self.nodes.len() {
            if other != leader && (other == one || all && self.plan.persistent) {
                self.crash(other, lose && other == one);
            }
        }
        if all {
            // It is the only one left for a while.
            self.nodes[leader].show_to_managers();
        }
        if one != leader && self.rng.random_bool(0.5) {
            // The others get hold of one that was with the leader.
            self.nodes[one].show_to_managers();
            for other in 0..self.nodes.len() {
                self.cut[other][one] = other == leader;
                self.cut[one][other] = other == leader;
            }
            return;
        }
        for other in 0..self.nodes.len() {
            if self.rng.random_bool(0.5) {
                self.cut[leader][other] = false;
                self.cut[other][leader] = false;
                self.break_streams(|stream| {
                    stream.leader == leader && stream.follower == other
                        || stream.leader == other && stream.follower == leader
                });
            }
        }
    }

    fn leader(&self) -> Option<usize> {
        let leads = |node: &SimNode| node.core.as_ref().is_some_and(|core| core.view().role == Role::Leader);
        self.nodes.iter().rposition(leads)
    }

    /// Many nodes lose their power at the same moment, and with it whatever storage had not confirmed.
    fn blackout(&mut self) {
        if !self.plan.persistent {
            return;
        }
        for node in 0..self.nodes.len() {
            if self.rng.random_bool(0.8) {
                self.crash(node, false);
            }
        }
    }

    fn victim(&mut self) -> usize {
        let leader = self.leader();
        match leader {
            Some(leader) if self.rng.random_bool(self.plan.strike_leader) => leader,
            _ => self.rng.random_range(0..self.nodes.len()),
        }
    }

    pub(crate) fn crash(&mut self, index: usize, lose: bool) {
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
        let after = if self.rng.random_bool(0.5) { 20_000 } else { 1_500_000 };
        let after = self.rng.random_range(1_000..after);
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
        remaining >= self.record.record.membership.nodes - usize::from(smallest)
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
            Fault::Return(leader) if !self.quiet => self.returns(leader),
            Fault::Return(_) => {}
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
