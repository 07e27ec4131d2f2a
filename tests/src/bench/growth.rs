//! What this store costs as something grows: keys, values, followers, connections.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hyper::Method;
use serde::Serialize;

use super::{
    Measuring, VALUE_BYTES,
    figures::{Point, Rows, Series},
    generator::Pace,
    request::key,
    system::{Operation, Server, Setup, Storage, System, value},
};
use crate::{client::LabClient, lab::program::Failure};

/// Most bytes of all values together where those grow.
const VALUES_BYTES: usize = 64 << 20;
/// Writes in one request when many keys are filled in.
const BATCH: u64 = 500;
/// Such requests under way.
const BATCHES: usize = 8;

/// How far things grow.
#[derive(Debug, Clone)]
pub struct Sizes {
    /// Numbers of keys, growing.
    pub keys: Vec<u64>,
    /// Sizes of a value, in bytes.
    pub values: Vec<usize>,
    /// Numbers of followers.
    pub followers: Vec<usize>,
    /// Numbers of connections.
    pub connections: Vec<usize>,
    /// Connections where nothing else is said.
    pub usual_connections: usize,
    /// Keys where nothing else is said.
    pub usual_keys: u64,
    /// Followers where nothing else is said.
    pub usual_followers: usize,
}

/// What the growth of keys says of memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyMemory {
    /// Between so many keys,
    pub from: u64,
    /// and so many,
    pub to: u64,
    /// a node took so many bytes for each key more.
    pub bytes: f64,
}

/// Lets everything grow.
///
/// # Errors
/// When the store fails, or a signal asks for the end.
pub async fn run(sizes: &Sizes, measuring: &mut Measuring<'_>) -> Result<(), Failure> {
    keys(sizes, measuring).await?;
    let setup = Setup { storage: Storage::Memory, followers: sizes.usual_followers };
    let mut server = Server::start(System::Quorumkv, setup).await?;
    for repeat in 0..measuring.repeats {
        for value_bytes in &sizes.values {
            let keys = (VALUES_BYTES / value_bytes).min(usize::try_from(sizes.usual_keys).unwrap_or(usize::MAX)) as u64;
            let point = Point { series: Series::Values, keys, value_bytes: *value_bytes, ..usual(sizes, setup) };
            measuring.point(point, Pace::Closed, repeat, &mut server).await?;
        }
        for connections in &sizes.connections {
            let point = Point { series: Series::Connections, connections: *connections, ..usual(sizes, setup) };
            measuring.point(point, Pace::Closed, repeat, &mut server).await?;
        }
    }
    drop(server);
    for repeat in 0..measuring.repeats {
        for followers in &sizes.followers {
            let setup = Setup { storage: Storage::Memory, followers: *followers };
            let mut server = Server::start(System::Quorumkv, setup).await?;
            let point = Point { series: Series::Followers, ..usual(sizes, setup) };
            measuring.point(point, Pace::Closed, repeat, &mut server).await?;
        }
    }
    Ok(())
}

/// A write that more than half of the followers confirm.
fn usual(sizes: &Sizes, setup: Setup) -> Point {
    let Setup { storage, followers } = setup;
    Point {
        series: Series::Keys,
        system: System::Quorumkv,
        storage,
        operation: Operation::Write { quorum: u8::try_from(followers / 2 + 1).unwrap_or(u8::MAX) },
        connections: sizes.usual_connections,
        keys: sizes.usual_keys,
        value_bytes: VALUE_BYTES,
        followers,
    }
}

/// One store that is filled further and further.
async fn keys(sizes: &Sizes, measuring: &mut Measuring<'_>) -> Result<(), Failure> {
    let setup = Setup { storage: Storage::Memory, followers: sizes.usual_followers };
    let mut server = Server::start(System::Quorumkv, setup).await?;
    let mut filled = 0;
    for keys in &sizes.keys {
        let write = Point { series: Series::Keys, keys: *keys, ..usual(sizes, setup) };
        let target = server.target(System::Quorumkv, write.operation, VALUE_BYTES).await?;
        let url = format!("http://{}", target.context("this store takes writes")?.address);
        measuring.progress(format!("filling in keys up to {keys}"));
        measuring.unless_interrupted(fill_in(&url, filled, *keys)).await?;
        filled = *keys;
        for repeat in 0..measuring.repeats {
            for operation in [write.operation, Operation::Read] {
                measuring.point(Point { operation, ..write }, Pace::Closed, repeat, &mut server).await?;
            }
        }
    }
    Ok(())
}

/// Writes the keys from the `from`-th to the one before the `to`-th, many in each request.
async fn fill_in(url: &str, from: u64, to: u64) -> anyhow::Result<()> {
    let client = LabClient::new(std::time::Duration::from_secs(30))?;
    let (client, url, value) = (&client, &format!("{url}/batch"), &value(VALUE_BYTES));
    let first = (from..to).step_by(usize::try_from(BATCH)?);
    let requests = stream::iter(first).map(|first| async move {
        let writes =
            (first..to.min(first + BATCH)).map(|number| format!(r#"{{"key":"{}","value":"{value}"}}"#, key(number)));
        let body = format!(r#"{{"writes":[{}]}}"#, writes.collect::<Vec<_>>().join(","));
        let answer = client.send(client.request(Method::POST, url).body(body)).await?;
        let results = answer.body["results"].as_array().context("an answer to many writes")?;
        ensure!(results.iter().all(|result| result["status"] == 200), "{}", answer.text);
        Ok(())
    });
    requests.buffer_unordered(BATCHES).try_collect().await
}

/// What a key costs, from the least and the largest number of them.
#[must_use]
pub fn key_memory(rows: &Rows) -> Option<KeyMemory> {
    let mut resident = BTreeMap::new();
    for row in rows.of(Series::Keys) {
        // Reads come last, when the log has been filled by writes.
        resident.insert(row.point.keys, (row.spread(|figures| figures.resident_mib).median, row.point.followers));
    }
    let ((from, (less, _)), (to, (more, followers))) = (resident.first_key_value()?, resident.last_key_value()?);
    let bytes = (more - less) * f64::from(1 << 20) / (to.checked_sub(*from).filter(|keys| *keys > 0)? as f64);
    Some(KeyMemory { from: *from, to: *to, bytes: bytes / (followers + 1) as f64 })
}
