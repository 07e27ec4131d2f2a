//! How long each follower takes to confirm a write: one write at a time is followed to all of them.
//!
//! A sample for people to look at. Following every write would cost each of them something; this costs a
//! comparison, and twenty times a second a little more.

use std::time::Duration;

use quorumkv_api::{Epoch, NodeId, Seq};
use quorumkv_protocol::Micros;

/// Shortest time from one followed write to the next.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long a write is followed. Whoever confirms later is left out.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Sample {
    epoch: Epoch,
    seq: Seq,
    appended: Micros,
    followers: Vec<Follower>,
}

#[derive(Debug)]
struct Follower {
    node: NodeId,
    round_trip: Duration,
    took: Option<Duration>,
}

/// The write that is followed, and the one before it.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    under_way: Option<Sample>,
    latest: Option<Sample>,
}

impl Acknowledgements {
    /// Whether a write that is appended now shall be followed.
    #[must_use]
    pub fn wants(&self, now: Micros) -> bool {
        match (&self.under_way, &self.latest) {
            (Some(sample), _) => now.since(sample.appended) >= PATIENCE,
            (None, Some(sample)) => now.since(sample.appended) >= INTERVAL,
            (None, None) => true,
        }
    }

    /// Follows the write at `seq`; `round_trips` are those drawn for it, one per follower, or none.
    pub fn follow<'a>(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        appended: Micros,
        followers: impl Iterator<Item = &'a NodeId>,
        round_trips: &[Duration],
    ) {
        let round_trips = round_trips.iter().copied().chain(std::iter::repeat(Duration::ZERO));
        let followers = followers.zip(round_trips);
        let followers = followers.map(|(node, round_trip)| Follower { node: node.clone(), round_trip, took: None });
        let sample = Sample { epoch, seq, appended, followers: followers.collect() };
        if let Some(given_up) = self.under_way.replace(sample) {
            self.latest = Some(given_up);
        }
    }

    /// A follower holds the log of this epoch's leader up to `match_seq`. It confirms a write no earlier than
    /// its simulated round trip is over.
    pub fn acknowledged(&mut self, epoch: Epoch, node: &NodeId, match_seq: Seq, now: Micros) {
        let Some(sample) = self.under_way.as_mut().filter(|sample| sample.epoch == epoch && sample.seq <= match_seq)
        else {
            return;
        };
        let since = now.since(sample.appended);
        let followers = &mut sample.followers;
        if let Some(follower) = followers.iter_mut().find(|follower| follower.node == *node && follower.took.is_none())
        {
            follower.took = Some(since.max(follower.round_trip));
        }
        if followers.iter().all(|follower| follower.took.is_some()) {
            self.latest = self.under_way.take();
        }
    }

    /// How long the followers that confirmed the latest followed write of this epoch took for it.
    pub fn latest(&self, epoch: Epoch) -> impl Iterator<Item = (&NodeId, Duration)> {
        let sample = self.latest.iter().find(|sample| sample.epoch == epoch);
        sample.into_iter().flat_map(|sample| &sample.followers).filter_map(|it| Some((&it.node, it.took?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(2);

    fn ms(ms: u64) -> Micros {
        Micros(ms * 1000)
    }

    fn latest(acknowledgements: &Acknowledgements) -> Vec<(String, u128)> {
        acknowledgements.latest(EPOCH).map(|(node, took)| (node.0.clone(), took.as_millis())).collect()
    }

    fn following(round_trips: &[Duration]) -> Acknowledgements {
        let mut acknowledgements = Acknowledgements::default();
        acknowledgements.follow(EPOCH, Seq(7), ms(10), ["a".into(), "b".into()].iter(), round_trips);
        acknowledgements
    }

    #[test]
    fn a_confirmation_takes_as_long_as_the_slower_of_follower_and_round_trip() {
        let mut seen = following(&[Duration::from_millis(30), Duration::from_millis(1)]);
        seen.acknowledged(EPOCH, &"a".into(), Seq(9), ms(14));
        assert_eq!(latest(&seen), [], "not before all have confirmed");
        seen.acknowledged(EPOCH, &"a".into(), Seq(9), ms(90));
        seen.acknowledged(EPOCH, &"b".into(), Seq(7), ms(15));
        assert_eq!(latest(&seen), [("a".to_owned(), 30), ("b".to_owned(), 5)]);
        assert_eq!(seen.latest(Epoch(3)).count(), 0, "nothing is known of another epoch");
    }

    #[test]
    fn what_does_not_reach_the_write_or_is_of_another_epoch_confirms_nothing() {
        let mut seen = following(&[]);
        for (epoch, seq) in [(EPOCH, 6), (Epoch(1), 9)] {
            seen.acknowledged(epoch, &"a".into(), Seq(seq), ms(11));
            seen.acknowledged(epoch, &"b".into(), Seq(seq), ms(11));
        }
        assert_eq!(latest(&seen), []);
    }

    #[test]
    fn a_follower_that_does_not_confirm_is_left_out_after_a_while() {
        let mut seen = following(&[]);
        seen.acknowledged(EPOCH, &"b".into(), Seq(7), ms(12));
        assert!(!seen.wants(ms(400)), "it may still come");
        assert!(seen.wants(ms(511)));
        seen.follow(EPOCH, Seq(50), ms(511), ["a".into(), "b".into()].iter(), &[]);
        assert_eq!(latest(&seen), [("b".to_owned(), 2)]);
    }
}
