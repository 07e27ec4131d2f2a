//! Managers that end after each of their steps: what they left is taken up by the next one, whatever it is.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Mutex, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use quorumkv_api::{Delay, WriteQuorum};
use quorumkv_tests::{load::Running, wait};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{
    gate::{Fate, Late, Step, by_kind},
    manager::{End, Manager},
    world::{NODES, Options, PATIENCE, Storage, World, name},
};

/// Pause of a store's client: many stores share the machine.
const CLIENT_PAUSE: Duration = Duration::from_millis(40);
/// Crashes that are tried once more in all, because the manager ended well before it came to them.
const TRIED_AGAIN: usize = 12;
/// A process that ended is started again after so long.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// What a manager is busy with when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Bootstrap,
    LeaderLost,
    LeaderHung,
    CopyLost,
    SettingsChanged,
    Switchover,
    Roll,
    Hibernation,
    Scaled,
}

impl Scenario {
    /// Kinds of steps after which a manager must have died, or the scenario was none.
    const fn must_die_after(self) -> &'static [&'static str] {
        match self {
            Self::Bootstrap => &["state", "read", "replace", "fence", "promote"],
            Self::LeaderLost | Self::LeaderHung => &["state", "read", "replace", "fence", "promote", "members"],
            Self::CopyLost => &["state", "read", "replace", "members"],
            Self::SettingsChanged => &["state", "read", "members", "settings"],
            Self::Switchover => &["state", "read", "withdraw", "replace", "fence", "promote"],
            Self::Hibernation => &["state", "read", "replace", "fence", "stop", "start", "promote", "members"],
            Self::Roll => &["state", "read", "renew", "replace", "fence", "promote", "members"],
            Self::Scaled => &["state", "read", "replace", "members"],
        }
    }

    /// Whether it can happen to a store only once.
    const fn needs_a_new_store(self) -> bool {
        matches!(self, Self::Bootstrap)
    }

    /// A manager that is replaced is no other for a leader that hangs than for one that is gone; only slower.
    const fn has_races(self) -> bool {
        !matches!(self, Self::LeaderHung)
    }

    /// Stores that go through its crashes side by side.
    const fn stores(self) -> usize {
        match self {
            // Most of the time nothing happens in them.
            Self::LeaderHung => 9,
            // They are the longest.
            Self::Roll | Self::Hibernation => 9,
            Self::LeaderLost | Self::Switchover => 7,
            Self::Bootstrap | Self::CopyLost | Self::SettingsChanged | Self::Scaled => 4,
        }
    }

    /// Does what the manager then has to deal with.
    fn disturb(self, world: &World, round: usize) -> anyhow::Result<()> {
        match self {
            Self::Bootstrap => {}
            Self::LeaderLost => world.kill(world.leader()?)?,
            Self::LeaderHung => world.signal(world.leader()?, Signal::STOP)?,
            Self::CopyLost => {
                let [follower, _] = world.followers(round)?;
                world.kill(follower)?;
                world.spawn(follower)?;
            }
            Self::SettingsChanged => {
                let mut settings = world.settings();
                let raised = settings.write_quorum == WriteQuorum(1);
                settings.write_quorum = WriteQuorum(if raised { 2 } else { 1 });
                settings.delay = Delay { min: Duration::ZERO, max: Duration::from_millis(if raised { 3 } else { 0 }) };
            }
            Self::Switchover => world.record.wish_for(name(world.followers(round)?[0])),
            Self::Roll => world.outdate(),
            Self::Hibernation => world.hibernated.store(true, Ordering::SeqCst),
            // The last node leaves, and in the next round it joins again, with the copy that it had.
            Self::Scaled => {
                let smaller = world.size.load(Ordering::Relaxed) == NODES;
                world.size.store(if smaller { NODES - 1 } else { NODES }, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Undoes what does not pass by itself. `leader` led when it began.
    async fn heal(self, world: &World, leader: Option<usize>) -> anyhow::Result<()> {
        let Some(leader) = leader else { return Ok(()) };
        match self {
            Self::LeaderLost => {
                sleep(RESTART_PAUSE).await;
                world.spawn(leader)
            }
            Self::LeaderHung => {
                // It wakes up when another one has taken over.
                let replaced = wait::until("another leader is on record", PATIENCE, || async {
                    ensure!(world.leader()? != leader, "n{leader} is");
                    Ok(())
                });
                replaced.await?;
                sleep(RESTART_PAUSE).await;
                world.signal(leader, Signal::CONT)
            }
            Self::Hibernation => {
                let asleep = wait::until("the store sleeps", PATIENCE, || async {
                    ensure!(world.sleeps(), "told to sleep and to run: {:?}", world.stage());
                    Ok(())
                });
                asleep.await?;
                world.hibernated.store(false, Ordering::SeqCst);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// When a change that was left behind arrives.
#[derive(Debug, Clone, Copy)]
enum Arrival {
    /// When all is well again.
    AtTheEnd,
    /// Right before the next manager's change of the same number.
    InBetween,
}

#[derive(Debug, Clone, Copy)]
enum Crash {
    Never,
    First,
    After(Step),
    Leaving(usize, Arrival),
}

#[derive(Debug, Default)]
struct Tally {
    died_first: usize,
    died_after: Vec<Step>,
    tried_again: usize,
    late_changes: usize,
}

/// A store at work.
struct Site {
    world: World,
    load: Running,
}

impl Site {
    async fn start(scenario: Scenario) -> anyhow::Result<Self> {
        let storage = if scenario == Scenario::Hibernation { Storage::Persistent } else { Storage::Memory };
        let options = Options { storage, failpoints: false, pinned_leader: false, log_entries: 16 };
        let world = World::start(options).await?;
        let load = world.load(CLIENT_PAUSE)?;
        if scenario != Scenario::Bootstrap {
            Manager::start(&world, Fate::Lives).await?.until_good().await?;
        }
        Ok(Self { world, load })
    }

    /// One manager that ends as is asked, and the next one. How the first one ended, and its steps and changes.
    async fn crash(
        &self,
        scenario: Scenario,
        crash: Crash,
        round: usize,
        tally: &Mutex<Tally>,
    ) -> anyhow::Result<(End, (Vec<Step>, usize))> {
        let world = &self.world;
        let before = world.record.read().record;
        let leader = world.leader().ok();
        let fate = match crash {
            Crash::Never => Fate::Lives,
            Crash::First => Fate::DiesFirst,
            Crash::After(step) => Fate::DiesAfter(step),
            Crash::Leaving(change, _) => Fate::LeavesBehind(change),
        };
        let mut first = Manager::start(world, fate).await?;
        scenario.disturb(world, round)?;
        let managers = async {
            let end = first.until_good().await?;
            let gate = first.gate().clone();
            drop(first);
            if end == End::Died {
                self.take_over(crash, gate.late()).await?;
                let mut tally = tally.lock().expect("nobody panics while counting");
                match crash {
                    Crash::Leaving(..) => tally.late_changes += 1,
                    Crash::After(step) => tally.died_after.push(step),
                    Crash::First => tally.died_first += 1,
                    Crash::Never => {}
                }
            }
            Ok((end, gate.steps()))
        };
        let (first, ()) = tokio::try_join!(managers, scenario.heal(world, leader))?;
        world.one_leads().await?;
        let after = world.record.read().record;
        ensure!(after.epoch >= before.epoch, "the epoch went from {} to {}", before.epoch, after.epoch);
        self.load.acked_more(2, PATIENCE).await?;
        Ok(first)
    }

    /// A manager that knows nothing of the one before.
    async fn take_over(&self, crash: Crash, late: Late) -> anyhow::Result<()> {
        let fate = match crash {
            Crash::Leaving(change, Arrival::InBetween) => Fate::Meets(change, late.clone()),
            _ => Fate::Lives,
        };
        let mut second = Manager::start(&self.world, fate).await?;
        second.until_good().await?;
        if let Crash::Leaving(..) = crash {
            late.arrive().await?;
            second.until_good().await?;
        }
        Ok(())
    }

    async fn finish(self) -> anyhow::Result<()> {
        if self.world.size.swap(NODES, Ordering::Relaxed) != NODES {
            Manager::start(&self.world, Fate::Lives).await?.until_good().await?;
        }
        self.world.check(self.load).await
    }
}

/// Goes through all crashes of a scenario; what was done, in one line.
pub(crate) async fn run(scenario: Scenario) -> anyhow::Result<String> {
    let tally = Mutex::default();
    let site = Site::start(scenario).await?;
    let (_, (steps, changes)) = site.crash(scenario, Crash::Never, 0, &tally).await.context("without a crash")?;
    site.finish().await.context("without a crash")?;
    let races = (1..=changes).filter(|_| scenario.has_races());
    let races = races.flat_map(|change| [Arrival::AtTheEnd, Arrival::InBetween].map(|at| Crash::Leaving(change, at)));
    let firsts = scenario.must_die_after().iter().map(|kind| Step { kind, number: 1 });
    let all: BTreeSet<Step> = steps.iter().copied().chain(firsts).collect();
    let queue = [Crash::First].into_iter().chain(all.into_iter().map(Crash::After)).chain(races);
    let queue = Mutex::new(queue.collect());
    try_join_all((0..scenario.stores()).map(|_| work(scenario, &steps, &queue, &tally))).await?;

    let Tally { died_first, died_after, tried_again: _, late_changes } =
        tally.into_inner().expect("nobody panics while counting");
    let kinds = by_kind(&died_after);
    for kind in scenario.must_die_after() {
        ensure!(died_first > 0 && kinds.contains_key(kind), "no manager died after {kind}: {kinds:?}");
    }
    ensure!(late_changes > 0 || !scenario.has_races(), "no change was left behind");
    Ok(format!(
        "{scenario:?}: managers ended before the first step and after {} others {kinds:?}; {late_changes} left a change \
         that came late",
        died_after.len()
    ))
}

/// Takes one crash after the other. A manager that died after the last step of a kind may have had more of them than
/// there were without a crash: another one has to die after the next. One that did not come to a step that belongs to
/// the scenario (a switchover may be refused in the moment it is asked for) is followed by another.
async fn work(
    scenario: Scenario,
    steps: &[Step],
    queue: &Mutex<VecDeque<Crash>>,
    tally: &Mutex<Tally>,
) -> anyhow::Result<()> {
    let mut site: Option<Site> = None;
    for round in 0.. {
        let next = queue.lock().expect("nobody panics while taking").pop_front();
        let Some(crash) = next else { break };
        if scenario.needs_a_new_store()
            && let Some(used) = site.take()
        {
            used.finish().await?;
        }
        let site = match &mut site {
            Some(site) => site,
            none => none.insert(Site::start(scenario).await?),
        };
        let done = site.crash(scenario, crash, round, tally).await;
        let (end, _) = done.with_context(|| format!("{scenario:?}, {crash:?}\n{}", site.world.output_end()))?;
        let mut queue = queue.lock().expect("nobody panics while taking");
        let Crash::After(step) = crash else { continue };
        if end == End::Done && step.number == 1 && scenario.must_die_after().contains(&step.kind) {
            let mut tally = tally.lock().expect("nobody panics while counting");
            tally.tried_again += 1;
            if tally.tried_again <= TRIED_AGAIN {
                queue.push_back(crash);
            }
        } else if end == End::Died && steps.iter().all(|known| known.kind != step.kind || known.number <= step.number) {
            let next = Step { number: step.number + 1, ..step };
            queue.push_front(Crash::After(next));
        }
    }
    match site {
        Some(site) => site.finish().await,
        None => Ok(()),
    }
}
