//! Nodes that abort at each failpoint, under load: nothing acknowledged is lost, and the store gets well again.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use anyhow::{Context, ensure};
use clap::ValueEnum as _;
use futures::future::try_join_all;
use quorumkv_api::{Delay, lab::Role};
use quorumkv_node::failpoint::Failpoint;
use quorumkv_tests::{load::Running, wait};
use tokio::time::sleep;

use super::{
    gate::Fate,
    manager::{End, Manager},
    world::{NODES, Options, PATIENCE, Storage, World, name},
};

/// Stores of one kind that go through their crashes side by side.
const STORES: usize = 5;
/// Pause of a store's client.
const CLIENT_PAUSE: Duration = Duration::from_millis(15);
/// Entries kept for followers that fall behind, and writes after which one that is gone needs a snapshot.
const LOG_ENTRIES: u32 = 16;
const FAR_BEHIND: u64 = 40;
/// A switchover may lead elsewhere; then it is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(1500);

/// How a node is brought to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A follower, by the load alone.
    Follows,
    /// The leader, by the load alone.
    Leads,
    /// A follower that is fenced for another one.
    IsFenced,
    /// A follower that is made leader.
    IsPromoted,
    /// The leader, by other settings.
    GetsSettings,
    /// The leader, when a follower has come back and is on record.
    Counts,
    /// A follower that comes back.
    ComesBack,
    /// A follower that comes back when what it lacks is no longer in the log.
    ComesBackLate,
    /// The leader, when a follower comes back so late.
    SendsSnapshot,
    /// A leader that comes back with entries that nobody else has.
    ComesBackWithMore,
    /// A leader without a manager that comes back empty; or one of its followers.
    RecoversAlone,
}

/// Which stores a point is tried in, and how.
const fn ways(point: Failpoint) -> (&'static [Storage], &'static [Way]) {
    use Failpoint as F;
    const BOTH: &[Storage] = &[Storage::Memory, Storage::Persistent];
    const DISK: &[Storage] = &[Storage::Persistent];
    match point {
        F::PromiseTaken | F::PromiseKept => (BOTH, &[Way::IsFenced]),
        F::AppendTaken | F::AppendKept => (BOTH, &[Way::Follows]),
        F::TruncationTaken | F::TruncationKept => (DISK, &[Way::ComesBackWithMore]),
        F::PromotionAccepted | F::BarrierAppended | F::BarrierKept | F::BarrierCommitted | F::StreamWelcomed => {
            (BOTH, &[Way::IsPromoted])
        }
        F::EntryAppended | F::EntryKept | F::WriteCommitted => (BOTH, &[Way::Leads]),
        F::SettingsAppended | F::SettingsKept | F::SettingsCommitted => (BOTH, &[Way::GetsSettings]),
        F::MembersCounted => (BOTH, &[Way::Counts]),
        F::HelloReceived => (BOTH, &[Way::ComesBack]),
        // A leader in memory that goes then takes the second copy of three with it.
        F::SnapshotSending => (DISK, &[Way::SendsSnapshot]),
        F::SnapshotReceived | F::SnapshotInstalled | F::SnapshotKept => (BOTH, &[Way::ComesBackLate]),
        F::GroupWritten | F::GroupSynced => (DISK, &[Way::Follows, Way::Leads]),
        F::SnapshotWritten | F::SnapshotNamed => (DISK, &[Way::ComesBackLate]),
        F::LeadershipFenced | F::CopyHandedOut | F::CopyFetched | F::CopyRestored | F::LeadershipTaken => {
            (BOTH, &[Way::RecoversAlone])
        }
    }
}

type Crash = (Failpoint, Way);

/// The crashes of stores of this kind.
fn crashes(storage: Storage, pinned_leader: bool) -> VecDeque<Crash> {
    let points = Failpoint::value_variants().iter().filter(|point| ways(**point).0.contains(&storage));
    let all = points.flat_map(|point| ways(*point).1.iter().map(|way| (*point, *way)));
    all.filter(|(_, way)| (*way == Way::RecoversAlone) == pinned_leader).collect()
}

/// A store at work.
struct Site {
    world: World,
    load: Running,
}

impl Site {
    async fn start(options: Options) -> anyhow::Result<Self> {
        let world = World::start(options).await?;
        let load = world.load(CLIENT_PAUSE)?;
        let site = Self { world, load };
        match options.pinned_leader {
            true => site.leads_alone().await?,
            false => drop(Manager::start(&site.world, Fate::Lives).await?.until_good().await?),
        }
        Ok(site)
    }

    /// One node aborts and comes back, and all is well again.
    async fn crash(&self, (point, way): Crash, round: usize) -> anyhow::Result<()> {
        let world = &self.world;
        let point = point.name();
        self.load.acked_more(5, PATIENCE).await?;
        if way == Way::RecoversAlone {
            self.come_back_empty(&point).await?;
        } else {
            let mut manager = Manager::start(world, Fate::Lives).await?;
            ensure!(manager.until_good().await? == End::Done, "this manager does not die");
            tokio::select! {
                worked = manager.work(PATIENCE, |_| false) => drop(worked?),
                led = self.lead_to(way, &point, round) => led?,
            }
        }
        let aborted = world.aborted(&point)?.with_context(|| format!("nobody aborts at {point}"))?;
        world.disarm();
        world.spawn(aborted)?;
        match way {
            Way::RecoversAlone => self.leads_alone().await?,
            _ => {
                Manager::start(world, Fate::Lives).await?.until_good().await?;
                world.one_leads().await?;
            }
        }
        self.load.acked_more(5, PATIENCE).await
    }

    /// Brings a node to the point, and waits until it has aborted there.
    async fn lead_to(&self, way: Way, point: &str, round: usize) -> anyhow::Result<()> {
        let world = &self.world;
        let leader = world.leader()?;
        let [one, other] = world.followers(round)?;
        match way {
            Way::Follows => world.arm(one, point)?,
            Way::Leads => world.arm(leader, point)?,
            Way::IsFenced | Way::IsPromoted => {
                world.arm(one, point)?;
                let wanted = if way == Way::IsPromoted { one } else { other };
                while world.aborted(point)?.is_none() {
                    if world.record.wish().is_none() && world.leader().is_ok_and(|leader| leader != wanted) {
                        world.record.wish_for(name(wanted));
                    }
                    tokio::time::timeout(ASK_AGAIN, self.aborted(point)).await.unwrap_or(Ok(()))?;
                }
            }
            Way::GetsSettings => {
                world.arm(leader, point)?;
                let mut settings = world.settings();
                let max = if settings.delay == Delay::ZERO { Duration::from_millis(2) } else { Duration::ZERO };
                settings.delay = Delay { min: Duration::ZERO, max };
            }
            Way::Counts => {
                world.kill(one)?;
                world.spawn(one)?;
                wait::until("its copy is on record", PATIENCE, || async {
                    let copy = world.state(one).await?.storage_id;
                    let record = world.record.read().record;
                    ensure!(record.members.iter().any(|member| member.storage_id == copy), "{record:?}");
                    Ok(())
                })
                .await?;
                world.arm(leader, point)?;
            }
            Way::ComesBack | Way::ComesBackLate | Way::SendsSnapshot => {
                world.kill(one)?;
                if way != Way::ComesBack {
                    self.load.acked_more(FAR_BEHIND, PATIENCE).await?;
                }
                world.arm(if way == Way::SendsSnapshot { leader } else { one }, point)?;
                world.spawn(one)?;
            }
            Way::ComesBackWithMore => self.come_back_with_more(leader, [one, other], point).await?,
            Way::RecoversAlone => unreachable!("there is no manager then"),
        }
        self.aborted(point).await
    }

    async fn aborted(&self, point: &str) -> anyhow::Result<()> {
        let what = format!("a node aborts at {point}");
        wait::until(&what, PATIENCE, || async { self.world.aborted(point)?.context("all run") }).await.map(drop)
    }

    /// The leader goes with an entry that no follower has; they go on with others at its place.
    async fn come_back_with_more(&self, leader: usize, followers: [usize; 2], point: &str) -> anyhow::Result<()> {
        let world = &self.world;
        followers.into_iter().try_for_each(|follower| world.kill(follower))?;
        // What a follower may have got just before it was killed is nobody's own.
        let shared = wait::until("the leader answers", PATIENCE, || world.state(leader)).await?.last;
        wait::until("the leader has an entry of its own", PATIENCE, || async {
            let state = world.state(leader).await?;
            ensure!(state.last > shared, "{state:?}");
            Ok(())
        })
        .await?;
        // Written as well: it is another thread that does it.
        sleep(Duration::from_millis(100)).await;
        world.kill(leader)?;
        followers.into_iter().try_for_each(|follower| world.spawn(follower))?;
        wait::until("a follower leads", PATIENCE, || async {
            let state = world.state(world.leader()?).await?;
            ensure!(state.role == Role::Leader && state.ready, "{state:?}");
            Ok(())
        })
        .await?;
        world.arm(leader, point)?;
        world.spawn(leader)
    }

    /// The leader without a manager goes with its disk, and comes back; whoever gets to the point aborts there.
    async fn come_back_empty(&self, point: &str) -> anyhow::Result<()> {
        let world = &self.world;
        world.kill(0)?;
        world.wipe(0)?;
        (0..NODES).try_for_each(|node| world.arm(node, point))?;
        world.spawn(0)?;
        self.aborted(point).await
    }

    async fn leads_alone(&self) -> anyhow::Result<()> {
        let url = self.world.address(0).client_url;
        let waited = wait::until("the leader leads and all count", PATIENCE, || async {
            let status = self.world.client.status(&url).await?;
            let there = status.followers.iter().filter(|follower| follower.connected && follower.lag == 0).count();
            ensure!(status.role == Role::Leader && status.ready && there + 1 == NODES, "{status:?}");
            Ok(())
        });
        waited.await
    }
}

/// Goes through all crashes of stores of this kind; what was done, in one line.
pub(crate) async fn run(storage: Storage, pinned_leader: bool) -> anyhow::Result<String> {
    let options = Options { storage, failpoints: true, pinned_leader, log_entries: LOG_ENTRIES };
    // What is truncated must not have left the new leader's log meanwhile.
    let (long, short): (VecDeque<Crash>, VecDeque<Crash>) =
        crashes(storage, pinned_leader).into_iter().partition(|(_, way)| *way == Way::ComesBackWithMore);
    let count = long.len() + short.len();
    let mut points: Vec<String> = long.iter().chain(&short).map(|(point, _)| point.name()).collect();
    points.dedup();
    let (long, short) = (Mutex::new(long), Mutex::new(short));
    let sites = (0..STORES).map(|_| work(options, &short));
    let roomy = work(Options { log_entries: 65_536, ..options }, &long);
    tokio::try_join!(try_join_all(sites), roomy)?;
    let manager = if pinned_leader { "without a manager" } else { "with a manager" };
    Ok(format!("{storage:?} {manager}: {count} aborts at {} points: {}", points.len(), points.join(" ")))
}

async fn work(options: Options, queue: &Mutex<VecDeque<Crash>>) -> anyhow::Result<()> {
    let mut site: Option<Site> = None;
    for round in 0.. {
        let next = queue.lock().expect("nobody panics while taking").pop_front();
        let Some(crash) = next else { break };
        let site = match &mut site {
            Some(site) => site,
            none => none.insert(Site::start(options).await?),
        };
        let done = site.crash(crash, round).await;
        done.with_context(|| format!("{options:?}, {crash:?}\n{}", site.world.output_end()))?;
    }
    let Some(Site { world, load }) = site else { return Ok(()) };
    world.check(load).await
}

/// Whether every point is crashed at in some kind of store.
pub(crate) fn all_points_are_crashed_at() -> anyhow::Result<()> {
    let kinds = [Storage::Memory, Storage::Persistent].into_iter().flat_map(|kind| [(kind, false), (kind, true)]);
    let all: Vec<Crash> = kinds.flat_map(|(storage, pinned)| crashes(storage, pinned)).collect();
    for point in Failpoint::value_variants() {
        ensure!(all.iter().any(|(crashed, _)| crashed == point), "no node ever crashes at {}", point.name());
    }
    Ok(())
}
