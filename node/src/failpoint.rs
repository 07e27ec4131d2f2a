//! Points at which a test lets the process abort, to show that a crash exactly there loses nothing.
//!
//! [`Failpoint`] is the one table of them; what a point stands between is said there. Without the feature
//! `failpoints` every [`reached`] is empty, and nothing of this is left in the program. With it there is a second
//! program, `quorumkv-node-failpoints`, which aborts at the point that the file `QUORUMKV_FAILPOINT_FILE` names. The
//! file may come at any time: a node joins a store first, and crashes when the time has come.
//!
//! Known crates for this have actions, probabilities and names made of text, and none that aborts. Here there is one
//! action, and a point that no test crashes at does not compile in the test's `match`.

use clap::ValueEnum;

/// Where a process can abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Failpoint {
    /// A higher epoch is promised in memory | not handed to storage.
    PromiseTaken,
    /// Storage holds the promise | nobody was told.
    PromiseKept,
    /// Follower: entries are in the log in memory | not handed to storage.
    AppendTaken,
    /// Follower: storage holds the entries | they are not acknowledged.
    AppendKept,
    /// Follower: entries of an earlier leader are forgotten in memory | storage holds them.
    TruncationTaken,
    /// Follower: storage has forgotten them | what took their place is not acknowledged.
    TruncationKept,
    /// A promotion is accepted | the manager was not told.
    PromotionAccepted,
    /// Leader: the epoch's barrier is in the log in memory | not handed to storage, not sent.
    BarrierAppended,
    /// Leader: storage holds the barrier | it does not count as a copy yet.
    BarrierKept,
    /// Leader: the barrier is committed | nobody knows that the leader is active.
    BarrierCommitted,
    /// Leader: writes are in the log in memory | not handed to storage, not sent.
    EntryAppended,
    /// Leader: storage holds the writes | its own copy does not count yet.
    EntryKept,
    /// Leader: writes are committed and can be read | they are not answered.
    WriteCommitted,
    /// Leader: new settings are in the log in memory | not handed to storage, not sent.
    SettingsAppended,
    /// Leader: storage holds the new settings | its own copy does not count yet.
    SettingsKept,
    /// Leader: the new settings are committed | the manager was not told.
    SettingsCommitted,
    /// Leader: it counts the copies that the manager named | the manager was not told.
    MembersCounted,
    /// Follower: a leader opened a stream | the core has not heard of it.
    HelloReceived,
    /// Leader: a follower said what it holds | the core has not heard of it.
    StreamWelcomed,
    /// Leader: a part of a snapshot is sent | the others are not.
    SnapshotSending,
    /// Follower: a whole snapshot has arrived | it is not installed.
    SnapshotReceived,
    /// Follower: a snapshot took the place of everything in memory | storage knows nothing of it.
    SnapshotInstalled,
    /// Follower: storage holds the snapshot | it is not acknowledged.
    SnapshotKept,
    /// Disk: a group of batches is written | not synced.
    GroupWritten,
    /// Disk: a group of batches is synced | the driver was not told.
    GroupSynced,
    /// Disk: a snapshot is written and synced | it has not its name yet.
    SnapshotWritten,
    /// Disk: a snapshot has its name | what it replaces is still there.
    SnapshotNamed,
    /// Static leader: every node has promised | none was chosen.
    LeadershipFenced,
    /// Follower of a static leader: its copy is asked for | not handed out.
    CopyHandedOut,
    /// Static leader: it has fetched the most complete copy | not taken it over.
    CopyFetched,
    /// Static leader: it has taken the copy over | not promoted itself.
    CopyRestored,
    /// Static leader: it has promoted itself | counts nobody yet.
    LeadershipTaken,
}

impl Failpoint {
    /// Its name in the environment and in messages, such as `promise-taken`.
    ///
    /// # Panics
    /// Never: no point is hidden.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().expect("no point is hidden").get_name().to_owned()
    }
}

#[cfg(feature = "failpoints")]
mod switch {
    use std::{env, ffi::OsString, fs, process, sync::LazyLock};

    use super::Failpoint;

    static FILE: LazyLock<Option<OsString>> = LazyLock::new(|| env::var_os("QUORUMKV_FAILPOINT_FILE"));

    /// Aborts if this is the point that the file names.
    pub fn reached(point: Failpoint) {
        let named = FILE.as_ref().and_then(|file| fs::read_to_string(file).ok());
        if named.is_some_and(|named| named == point.name()) {
            #[expect(clippy::print_stderr, reason = "the log is written by others, who would not come to it any more")]
            {
                eprintln!("failpoint {}: aborting", point.name());
            }
            process::abort();
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod switch {
    use super::Failpoint;

    /// Nothing aborts in this build.
    pub const fn reached(_point: Failpoint) {}
}

pub use switch::*;
