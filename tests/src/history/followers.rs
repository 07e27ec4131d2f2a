//! What a read from a follower promises: on one connection, which goes to one process, a key never falls back to an
//! earlier version, and an answer to `minVersion` is complete up to that version. That a value really was committed
//! under its version is checked with all other versions, and that it was written at all with all other reads.

use std::collections::{BTreeMap, HashMap};

use super::{Action, Operation, Outcome, Violation};

/// Acknowledged writes of each key, by version.
type Acked<'a> = HashMap<&'a str, BTreeMap<u64, &'a Operation>>;

pub(super) fn check(history: &[Operation]) -> Result<(), Violation> {
    let mut acked: Acked<'_> = HashMap::new();
    for operation in history {
        if let Action::Write { outcome: Outcome::Acked { version, .. }, .. } = &operation.action {
            acked.entry(&operation.key).or_default().insert(*version, operation);
        }
    }
    let mut reads: Vec<&Operation> =
        history.iter().filter(|operation| matches!(operation.action, Action::FollowerRead { .. })).collect();
    // On one connection one read follows the other.
    reads.sort_by_key(|read| read.invoked);
    let mut seen: HashMap<(u64, &str), (u64, &Operation)> = HashMap::new();
    for read in reads {
        let Action::FollowerRead { version, min_version, connection, .. } = &read.action else { continue };
        // Versions begin with one; no such key is before all of them.
        let version = version.unwrap_or(0);
        let (highest, earlier) = seen.entry((*connection, &read.key)).or_insert((version, read));
        if version < *highest {
            return Err(Violation::WentBack { earlier: Box::new(earlier.clone()), later: Box::new(read.clone()) });
        }
        (*highest, *earlier) = (version, read);
        let Some(min) = min_version else { continue };
        let due = acked.get(read.key.as_str()).and_then(|writes| writes.range(..=*min).next_back());
        if let Some((due, write)) = due
            && version < *due
        {
            return Err(Violation::MinVersion { read: Box::new(read.clone()), write: Box::new((*write).clone()) });
        }
    }
    Ok(())
}
