//! Which failpoints a batch passes on its way, told from what is in it. Nothing without the feature `failpoints`.

#[cfg(feature = "failpoints")]
mod switch {
    use std::ops::RangeInclusive;

    use quorumkv_api::Seq;
    use quorumkv_protocol::{Log, Operation, Persist, Ticket};

    use crate::failpoint::{Failpoint, reached};

    /// What batches pass once storage holds them.
    #[derive(Debug, Default)]
    pub(in crate::driver) struct Failpoints {
        when_kept: Vec<(Ticket, Failpoint)>,
    }

    impl Failpoints {
        /// A batch is about to be handed to storage.
        pub(in crate::driver) fn submitting(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, leads: bool) {
            for persist in batch {
                let passed = match persist {
                    Persist::Promise(_) => vec![(Failpoint::PromiseTaken, Failpoint::PromiseKept)],
                    Persist::Truncate { .. } => vec![(Failpoint::TruncationTaken, Failpoint::TruncationKept)],
                    Persist::Snapshot(_) => vec![(Failpoint::SnapshotInstalled, Failpoint::SnapshotKept)],
                    Persist::Append(_) if !leads => vec![(Failpoint::AppendTaken, Failpoint::AppendKept)],
                    Persist::Append(places) => log
                        .entries(places.clone())
                        .map(|entry| match entry.operation {
                            Operation::Barrier => (Failpoint::BarrierAppended, Failpoint::BarrierKept),
                            Operation::Settings(_) => (Failpoint::SettingsAppended, Failpoint::SettingsKept),
                            Operation::Put { .. } | Operation::Write(_) => {
                                (Failpoint::EntryAppended, Failpoint::EntryKept)
                            }
                        })
                        .collect(),
                    Persist::Commit(_) => Vec::new(),
                };
                for (before, after) in passed {
                    reached(before);
                    self.when_kept.push((ticket, after));
                }
            }
        }

        /// Storage holds everything up to this batch.
        pub(in crate::driver) fn kept(&mut self, durable: Ticket) {
            self.when_kept.extract_if(.., |(ticket, _)| *ticket <= durable).for_each(|(_, point)| reached(point));
        }

        /// These entries have been applied.
        pub(in crate::driver) fn committed(&self, log: &Log, places: RangeInclusive<Seq>, leads: bool) {
            for entry in log.entries(places).filter(|_| leads) {
                reached(match entry.operation {
                    Operation::Barrier => Failpoint::BarrierCommitted,
                    Operation::Settings(_) => Failpoint::SettingsCommitted,
                    Operation::Put { .. } | Operation::Write(_) => Failpoint::WriteCommitted,
                });
            }
        }
    }
}

#[cfg(not(feature = "failpoints"))]
mod switch {
    use std::ops::RangeInclusive;

    use quorumkv_api::Seq;
    use quorumkv_protocol::{Log, Persist, Ticket};

    #[derive(Debug, Default)]
    pub(in crate::driver) struct Failpoints {}

    impl Failpoints {
        pub(in crate::driver) const fn submitting(&self, _: Ticket, _: &[Persist], _: &Log, _: bool) {}

        pub(in crate::driver) const fn kept(&self, _: Ticket) {}

        pub(in crate::driver) fn committed(&self, _: &Log, _: RangeInclusive<Seq>, _: bool) {}
    }
}

pub(super) use switch::Failpoints;
