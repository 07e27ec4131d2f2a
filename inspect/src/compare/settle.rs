//! Compares one key of two replicas while others write it.
//!
//! The version that comes with a value is the place in the log of the write that gave it. So two replicas
//! agree if they tell of the same version with the same value; and a replica that has applied the log up to a
//! version (`minVersion` waits for that) but tells of an older one has lost a write.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use quorumkv_api::lab::GetReply;
use reqwest::{Client, StatusCode, Url};
use tokio::time::{Instant, sleep};

use super::side_by_side::Kind;

/// Pause between two looks at a key that others write.
const PAUSE: Duration = Duration::from_millis(5);

/// Where both sides are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sides<'a> {
    pub(super) http: &'a Client,
    pub(super) leader: &'a str,
    pub(super) replica: &'a str,
}

/// What became of a key that differed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Both sides tell of the same write.
    Equal,
    /// They hold different stores.
    Differs(Kind),
    /// It was written so often that no write was seen on both sides.
    Never,
}

/// Value by version, of one side.
type Seen = BTreeMap<u64, String>;

/// Looks at both sides until they tell of the same write, or cannot.
pub(super) async fn settle(sides: Sides<'_>, key: &str, patience: Duration) -> anyhow::Result<Settled> {
    let Sides { http, leader, replica } = sides;
    let deadline = Instant::now() + patience;
    let (mut of_leader, mut of_replica) = (Seen::new(), Seen::new());
    let mut leaders = read(http, leader, key, 0).await?;
    loop {
        let version = remember(&leaders, &mut of_leader);
        let replicas = read(http, replica, key, version).await?;
        let replicas_version = remember(&replicas, &mut of_replica);
        if let Some(settled) = common(&of_leader, &of_replica) {
            return Ok(settled);
        }
        // The replica has applied the log up to the version that the leader told, and the leader will have up
        // to the replica's.
        let again = read(http, leader, key, replicas_version).await?;
        let unchanged = again == leaders;
        let version_now = remember(&again, &mut of_leader);
        match (leaders.is_some(), replicas.is_some()) {
            (false, false) if unchanged => return Ok(Settled::Equal),
            (true, false) if unchanged => return Ok(Settled::Differs(Kind::Missing)),
            (true, true) if unchanged && replicas_version < version => return Ok(Settled::Differs(Kind::Different)),
            (_, true) if again.is_none() => return Ok(Settled::Differs(Kind::Extra)),
            (_, true) if version_now < replicas_version => return Ok(Settled::Differs(Kind::Different)),
            _ => {}
        }
        if let Some(settled) = common(&of_leader, &of_replica) {
            return Ok(settled);
        }
        if Instant::now() >= deadline {
            return Ok(Settled::Never);
        }
        leaders = again;
        sleep(PAUSE).await;
    }
}

type Found = Option<(u64, String)>;

/// Keeps what was read; gives its version, zero for a key that is not there.
fn remember(found: &Found, seen: &mut Seen) -> u64 {
    let Some((version, value)) = found else { return 0 };
    seen.insert(*version, value.clone());
    *version
}

/// What the latest write says that both sides told of.
fn common(of_leader: &Seen, of_replica: &Seen) -> Option<Settled> {
    let (version, value) = of_leader.iter().rev().find(|(version, _)| of_replica.contains_key(version))?;
    Some(if of_replica[version] == *value { Settled::Equal } else { Settled::Differs(Kind::Different) })
}

/// A key as a node has it once it has applied the log up to `min_version`.
async fn read(http: &Client, node: &str, key: &str, min_version: u64) -> anyhow::Result<Found> {
    let mut url = key_url(node, key)?;
    url.query_pairs_mut().append_pair("consistency", "stale").append_pair("minVersion", &min_version.to_string());
    let answer = http.get(url.clone()).send().await.with_context(|| url.to_string())?;
    let status = answer.status();
    let text = answer.text().await.with_context(|| url.to_string())?;
    match status {
        StatusCode::OK => {
            let GetReply { value, version, .. } =
                serde_json::from_str(&text).with_context(|| format!("{url} answered {text}"))?;
            Ok(Some((version.0, value.get().to_owned())))
        }
        StatusCode::NOT_FOUND => Ok(None),
        status => bail!("{url} answered {status} {text}"),
    }
}

/// The URL of any key: what would mean something else in a URL is escaped.
fn key_url(node: &str, key: &str) -> anyhow::Result<Url> {
    let mut url = Url::parse(node).context("a node's URL")?;
    let mut segments = url.path_segments_mut().map_err(|()| anyhow::anyhow!("{node} has no path"))?;
    segments.pop_if_empty().push("get").push(key);
    drop(segments);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pairs: &[(u64, &str)]) -> Seen {
        pairs.iter().map(|(version, value)| (*version, (*value).to_owned())).collect()
    }

    #[test]
    fn the_latest_common_write_decides() {
        assert_eq!(common(&seen(&[(1, "a")]), &seen(&[(2, "b")])), None);
        let both = common(&seen(&[(1, "a"), (3, "c")]), &seen(&[(1, "a"), (2, "b"), (3, "c")]));
        assert_eq!(both, Some(Settled::Equal));
        let other = common(&seen(&[(1, "a"), (3, "c")]), &seen(&[(1, "a"), (3, "x")]));
        assert_eq!(other, Some(Settled::Differs(Kind::Different)));
    }

    #[test]
    fn any_key_makes_one_segment_of_a_url() {
        let url = |key| key_url("http://a:5000", key).expect("a URL").to_string();
        assert_eq!(url("a b/c?d#e%2F"), "http://a:5000/get/a%20b%2Fc%3Fd%23e%252F");
        assert_eq!(url("ü"), "http://a:5000/get/%C3%BC");
    }
}
