//! What clients did and saw, and whether one correct register per key could have answered so.
//!
//! Every value is written at most once, so each read names the write it saw. That makes the check cheap.
//! Group a key's operations by value: the write and all reads of it. Of a group only two moments matter, the
//! earliest return `e` and the latest invocation `s`: in any order of single moments that respects real time,
//! group A must come before group B when some operation of A returned before some operation of B was invoked,
//! which is `e(A) < s(B)`. Groups are not interleaved in a correct register, so the history is linearizable
//! exactly when that relation has no cycle (and no read returned before its own write was invoked). A cycle
//! implies one of length two: in a longer one let A have the least `e`, C be the group before A and B any
//! other group with `e(B) < s(C)`; then `e(A) <= e(B) < s(C)`, so A and C already contradict each other. It
//! remains to find two groups with `e(A) < s(B)` and `e(B) < s(A)`, which a sorted sweep does.
//!
//! A read from a follower promises less ([`followers`]) and is no part of that order. What it saw was committed by
//! then, though, so it counts into its group's `e`: whoever reads from the leader afterwards must not see less.
//!
//! A write with an unknown outcome never returned: its `e` comes from reads alone, so it may have happened at
//! any time after its invocation, or never.

mod followers;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// A moment: nanoseconds since this process first asked, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Before everything that a client does.
    pub const BEGINNING: Self = Self(0);
    /// After everything that a client does.
    pub const END: Self = Self(u64::MAX);

    /// This moment, on one monotonic clock for the whole process.
    #[must_use]
    pub fn now() -> Self {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        let nanos = ORIGIN.get_or_init(Instant::now).elapsed().as_nanos();
        Self(u64::try_from(nanos).expect("584 years have not passed") + 1)
    }

    /// Time from `earlier` to this moment; zero if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answered 200.
    Acked {
        /// Place in the log.
        version: u64,
        /// Followers that had confirmed.
        replicas: usize,
    },
    /// Certainly not done: refused, or never sent.
    Refused {
        /// The answer, or why there was none.
        reason: String,
    },
    /// It may have been done, may still be, or never.
    Unknown {
        /// The answer, or why there was none.
        reason: String,
    },
}

/// What a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Gives the key a value that no other write gives it.
    Write {
        /// That value.
        value: String,
        /// What became of it.
        outcome: Outcome,
    },
    /// A successful read that claims to be linearizable. Failed reads say nothing and are not recorded.
    Read {
        /// The value seen, `None` when there was no such key.
        value: Option<String>,
        /// The version that came with it.
        version: Option<u64>,
    },
    /// A successful read that claims only to show what is committed.
    FollowerRead {
        /// The value seen, `None` when there was no such key.
        value: Option<String>,
        /// The version that came with it.
        version: Option<u64>,
        /// The version up to which the answer must be complete.
        min_version: Option<u64>,
        /// The connection it came on; each goes to one process.
        connection: u64,
    },
}

/// One operation of one client on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Who did it, for people.
    pub client: usize,
    /// The key.
    pub key: String,
    /// What was asked, and answered.
    pub action: Action,
    /// When the client began.
    pub invoked: Moment,
    /// When it had its answer, or gave up.
    pub returned: Moment,
}

impl Operation {
    /// Whether this is a write that was acknowledged.
    #[must_use]
    pub const fn is_acked_write(&self) -> bool {
        matches!(self.action, Action::Write { outcome: Outcome::Acked { .. }, .. })
    }

    /// Whether this is a write that was not acknowledged.
    #[must_use]
    pub const fn is_failed_write(&self) -> bool {
        matches!(self.action, Action::Write { outcome: Outcome::Refused { .. } | Outcome::Unknown { .. }, .. })
    }

    /// Time from invocation to answer.
    #[must_use]
    pub const fn latency(&self) -> Duration {
        self.returned.since(self.invoked)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, action, invoked, returned } = self;
        let ms = |moment: &Moment| moment.0 as f64 / 1e6;
        write!(f, "[{:.3}..{:.3} ms] client {client}: {key} ", ms(invoked), ms(returned))?;
        match action {
            Action::Write { value, outcome } => write!(f, "<- {value:?} ({outcome:?})"),
            Action::Read { value, version } => write!(f, "-> {value:?} (version {version:?})"),
            Action::FollowerRead { value, version, min_version, connection } => {
                write!(f, "-> {value:?} (version {version:?}, connection {connection}")?;
                min_version.map_or(Ok(()), |min| write!(f, ", minVersion {min}"))?;
                write!(f, ")")
            }
        }
    }
}

/// A key's value at the end, when nobody writes any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalValue {
    /// The value.
    pub value: String,
    /// Its version, where the source tells it.
    pub version: Option<u64>,
}

/// Why no correct store could have produced a history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A value came out that nobody put in.
    #[error("never written: {read}")]
    NeverWritten {
        /// The read that saw it.
        read: Box<Operation>,
    },
    /// A write that was refused took effect.
    #[error("refused, yet read: {write}; {read}")]
    RefusedButRead {
        /// The refused write.
        write: Box<Operation>,
        /// The read that saw it.
        read: Box<Operation>,
    },
    /// A read returned before its write began.
    #[error("read before it was written: {read}; {write}")]
    ReadBeforeWrite {
        /// The write.
        write: Box<Operation>,
        /// The read that saw it too early.
        read: Box<Operation>,
    },
    /// Two values would each have to come before the other.
    #[error(
        "key {key:?}: {first:?} was over before {second:?} was last in use, and the other way round\n  {}",
        .operations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
    )]
    Contradiction {
        /// The key.
        key: String,
        /// One value; `None` is "no such key".
        first: Option<String>,
        /// The other value.
        second: Option<String>,
        /// Everything that was done with the two.
        operations: Vec<Operation>,
    },
    /// The content at the end lacks a write that was acknowledged and not overwritten.
    #[error("acknowledged write lost: {write}; at the end {key:?} holds {found:?}")]
    LostWrite {
        /// The key.
        key: String,
        /// The write.
        write: Box<Operation>,
        /// What is there instead.
        found: Option<FinalValue>,
    },
    /// One write was seen with two versions, or two acknowledged writes share one.
    #[error("versions disagree: {one}; {other}")]
    Version {
        /// One operation.
        one: Box<Operation>,
        /// The one that disagrees with it.
        other: Box<Operation>,
    },
    /// A process showed less than it had shown before on the same connection.
    #[error("a follower went back: {earlier}; {later}")]
    WentBack {
        /// What it showed.
        earlier: Box<Operation>,
        /// What it showed afterwards.
        later: Box<Operation>,
    },
    /// A read that asked for a version got less.
    #[error("minVersion not honoured: {read}; {write}")]
    MinVersion {
        /// The read.
        read: Box<Operation>,
        /// A write that it should have seen.
        write: Box<Operation>,
    },
    /// The same value was written twice: the test's own mistake, which would make the check worthless.
    #[error("not a usable history, a value was written twice: {one}; {other}")]
    ValueReused {
        /// One write.
        one: Box<Operation>,
        /// The other.
        other: Box<Operation>,
    },
}

/// One value of one key: its write (none for "no such key") and the reads that saw it.
struct Group<'a> {
    value: Option<&'a str>,
    write: Option<&'a Operation>,
    reads: Vec<&'a Operation>,
    /// Latest invocation.
    last_invoked: Moment,
    /// Earliest return.
    first_returned: Moment,
}

impl<'a> Group<'a> {
    fn of_absence() -> Self {
        // A key is absent from the beginning: as if it had been written then.
        Self {
            value: None,
            write: None,
            reads: Vec::new(),
            last_invoked: Moment::BEGINNING,
            first_returned: Moment::BEGINNING,
        }
    }

    fn of_write(value: &'a str, write: &'a Operation, outcome: &Outcome) -> Self {
        let acked = matches!(outcome, Outcome::Acked { .. });
        Self {
            value: Some(value),
            write: Some(write),
            reads: Vec::new(),
            last_invoked: write.invoked,
            first_returned: if acked { write.returned } else { Moment::END },
        }
    }

    /// Adds a read; `linearizable` says whether the value was in force while it ran.
    fn add(&mut self, read: &'a Operation, linearizable: bool) -> Result<(), Violation> {
        if let Some(write) = self.write
            && read.returned < write.invoked
        {
            return Err(Violation::ReadBeforeWrite { write: Box::new(write.clone()), read: Box::new(read.clone()) });
        }
        if linearizable {
            self.last_invoked = self.last_invoked.max(read.invoked);
        }
        self.first_returned = self.first_returned.min(read.returned);
        self.reads.push(read);
        Ok(())
    }

    /// Whether some operation ended before another began: then the value was certainly in force between.
    fn is_forward(&self) -> bool {
        self.first_returned < self.last_invoked
    }

    fn contradicts(&self, other: &Self) -> bool {
        self.first_returned < other.last_invoked && other.first_returned < self.last_invoked
    }
}

/// Checks that the history is linearizable, key by key.
///
/// # Errors
/// The first violation found.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    check_versions(history)?;
    followers::check(history)?;
    keys.into_iter().try_for_each(|(key, operations)| check_key(key, &operations))
}

fn check_key(key: &str, operations: &[&Operation]) -> Result<(), Violation> {
    let mut refused: HashMap<&str, &Operation> = HashMap::new();
    let mut groups: HashMap<Option<&str>, Group<'_>> = HashMap::from([(None, Group::of_absence())]);
    for &operation in operations {
        let Action::Write { value, outcome } = &operation.action else { continue };
        let earlier = refused.get(value.as_str()).copied().or_else(|| groups.get(&Some(value.as_str()))?.write);
        if let Some(one) = earlier {
            return Err(Violation::ValueReused { one: Box::new(one.clone()), other: Box::new(operation.clone()) });
        }
        if matches!(outcome, Outcome::Refused { .. }) {
            refused.insert(value, operation);
        } else {
            groups.insert(Some(value), Group::of_write(value, operation, outcome));
        }
    }
    for &operation in operations {
        let (value, linearizable) = match &operation.action {
            Action::Read { value, .. } => (value, true),
            Action::FollowerRead { value, .. } => (value, false),
            Action::Write { .. } => continue,
        };
        let Some(group) = groups.get_mut(&value.as_deref()) else {
            let read = Box::new(operation.clone());
            let write = value.as_deref().and_then(|value| refused.get(value));
            return Err(match write {
                Some(&write) => Violation::RefusedButRead { write: Box::new(write.clone()), read },
                None => Violation::NeverWritten { read },
            });
        };
        group.add(operation, linearizable)?;
    }
    match find_contradiction(groups.into_values().collect()) {
        None => Ok(()),
        Some((first, second)) => {
            let mut involved: Vec<Operation> = [&first, &second]
                .into_iter()
                .flat_map(|group| group.write.into_iter().chain(group.reads.iter().copied()))
                .cloned()
                .collect();
            involved.sort_by_key(|operation| operation.invoked);
            Err(Violation::Contradiction {
                key: key.to_owned(),
                first: first.value.map(str::to_owned),
                second: second.value.map(str::to_owned),
                operations: involved,
            })
        }
    }
}

/// Two groups that contradict each other, if there are any. At least one of such a pair is a forward group.
fn find_contradiction(groups: Vec<Group<'_>>) -> Option<(Group<'_>, Group<'_>)> {
    let (mut forward, other): (Vec<_>, Vec<_>) = groups.into_iter().partition(Group::is_forward);
    forward.sort_by_key(|group| group.first_returned);
    // Sorted by their beginning, the intervals of forward groups are disjoint unless two neighbours overlap.
    if let Some(at) = (1..forward.len()).find(|&at| forward[at - 1].contradicts(&forward[at])) {
        let second = forward.swap_remove(at);
        return Some((forward.swap_remove(at - 1), second));
    }
    // Disjoint, so of those that begin before the other group's last invocation the last one reaches furthest.
    for group in other {
        let before = forward.partition_point(|candidate| candidate.first_returned < group.last_invoked);
        if before > 0 && forward[before - 1].contradicts(&group) {
            return Some((forward.swap_remove(before - 1), group));
        }
    }
    None
}

/// A version belongs to one write, and each read of a write tells the same one.
fn check_versions(history: &[Operation]) -> Result<(), Violation> {
    let mut by_version: HashMap<u64, (&Operation, &str)> = HashMap::new();
    for operation in history {
        let (version, value) = match &operation.action {
            Action::Write { value, outcome: Outcome::Acked { version, .. } } => (*version, value),
            Action::Read { value: Some(value), version: Some(version) }
            | Action::FollowerRead { value: Some(value), version: Some(version), .. } => (*version, value),
            Action::Write { .. } | Action::Read { .. } | Action::FollowerRead { .. } => continue,
        };
        let (one, seen) = *by_version.entry(version).or_insert((operation, value));
        if seen != value || one.key != operation.key {
            return Err(Violation::Version { one: Box::new(one.clone()), other: Box::new(operation.clone()) });
        }
    }
    Ok(())
}

/// Checks the history together with the content found after it: no acknowledged write may be lost.
///
/// `content` is everything the store holds, read when nobody wrote any more; keys that the history never
/// wrote are ignored.
///
/// # Errors
/// The first violation found.
pub fn check_with_content(history: &[Operation], content: &BTreeMap<String, FinalValue>) -> Result<(), Violation> {
    check(history)?;
    let after = history.iter().map(|operation| operation.returned).max().unwrap_or(Moment::BEGINNING);
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        keys.entry(&operation.key).or_default().push(operation);
    }
    for (key, mut operations) in keys {
        let found = content.get(key);
        // The end is one more read, after everything else.
        let last = Operation {
            client: usize::MAX,
            key: key.to_owned(),
            action: Action::Read {
                value: found.map(|found| found.value.clone()),
                version: found.and_then(|found| found.version),
            },
            invoked: Moment(after.0 + 1),
            returned: Moment(after.0 + 1),
        };
        operations.push(&last);
        match check_key(key, &operations) {
            Err(Violation::Contradiction { .. }) => {
                let write = last_acked(&operations).expect("the key has operations");
                return Err(Violation::LostWrite {
                    key: key.to_owned(),
                    write: Box::new(write.clone()),
                    found: found.cloned(),
                });
            }
            other => other?,
        }
    }
    Ok(())
}

/// The acknowledged write (or, with none, any operation) that began last.
fn last_acked<'a>(operations: &[&'a Operation]) -> Option<&'a Operation> {
    let acked = operations.iter().filter(|operation| operation.is_acked_write());
    acked.max_by_key(|operation| operation.invoked).or(operations.first()).copied()
}

#[cfg(test)]
mod tests;
