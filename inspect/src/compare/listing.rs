//! `GET /get_all` of one replica, entry by entry: what is read is handed on, never all of it held.

use std::{
    fmt,
    io::{self, BufReader, Read},
};

use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

/// Entries that are handed over at once.
const BATCH: usize = 256;
/// Batches that a reader may be ahead.
const AHEAD: usize = 4;

/// A key with the text of its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Box<RawValue>,
}

/// A listing that is being read.
pub(super) struct Listing {
    batches: mpsc::Receiver<Vec<Entry>>,
    batch: std::vec::IntoIter<Entry>,
    reader: JoinHandle<anyhow::Result<u64>>,
}

impl Listing {
    /// Begins to read the body of an answer.
    pub(super) fn read(answer: reqwest::Response) -> Self {
        Self::of(Body { answer, runtime: Handle::current(), rest: Bytes::new() })
    }

    fn of(body: impl Read + Send + 'static) -> Self {
        let (sender, batches) = mpsc::channel(AHEAD);
        let reader = tokio::task::spawn_blocking(move || parse(BufReader::with_capacity(64 * 1024, body), sender));
        Self { batches, batch: Vec::new().into_iter(), reader }
    }

    /// The next entry, in ascending order of keys; `None` at the end, or where reading failed.
    pub(super) async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.batch.next() {
                return Some(entry);
            }
            self.batch = self.batches.recv().await?.into_iter();
        }
    }

    /// The version up to which the listing is complete.
    ///
    /// # Errors
    /// When it could not be read to its end.
    pub(super) async fn version(self) -> anyhow::Result<u64> {
        // What is not read any more ends the reader.
        drop(self.batches);
        self.reader.await.context("the reader of a listing panicked")?
    }
}

/// The body of an answer, for a reader that blocks.
struct Body {
    answer: reqwest::Response,
    runtime: Handle,
    rest: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.runtime.block_on(self.answer.chunk()).map_err(io::Error::other)? {
                Some(chunk) => self.rest = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

fn parse(body: impl Read, sender: mpsc::Sender<Vec<Entry>>) -> anyhow::Result<u64> {
    let mut deserializer = serde_json::Deserializer::from_reader(body);
    let mut version = None;
    deserializer.deserialize_map(Answer { sender, version: &mut version }).context("the listing")?;
    deserializer.end().context("after the listing")?;
    match version {
        Some(version) => Ok(version),
        None => bail!("the listing has no version"),
    }
}

/// `{"data":{…},"version":n}`.
struct Answer<'a> {
    sender: mpsc::Sender<Vec<Entry>>,
    version: &'a mut Option<u64>,
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with data and version")
    }

    fn visit_map<Map: MapAccess<'de>>(self, mut map: Map) -> Result<(), Map::Error> {
        while let Some(field) = map.next_key::<String>()? {
            match field.as_str() {
                "data" => map.next_value_seed(Data { sender: &self.sender })?,
                "version" => *self.version = Some(map.next_value()?),
                _ => {
                    let IgnoredAny = map.next_value()?;
                }
            }
        }
        Ok(())
    }
}

/// The object of all keys.
struct Data<'a> {
    sender: &'a mpsc::Sender<Vec<Entry>>,
}

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = ();

    fn deserialize<From: Deserializer<'de>>(self, deserializer: From) -> Result<(), From::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Data<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of all keys")
    }

    fn visit_map<Map: MapAccess<'de>>(self, mut map: Map) -> Result<(), Map::Error> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut last: Option<String> = None;
        let unread = |_| Map::Error::custom("nobody reads on");
        while let Some(key) = map.next_key::<String>()? {
            // Listings are compared side by side, which needs an order.
            if last.as_ref().is_some_and(|last| *last >= key) {
                let last = last.unwrap_or_default();
                return Err(Map::Error::custom(format!("key {key:?} comes after {last:?}, out of order")));
            }
            last = Some(key.clone());
            batch.push(Entry { key, value: map.next_value()? });
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                self.sender.blocking_send(full).map_err(unread)?;
            }
        }
        self.sender.blocking_send(batch).map_err(unread)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A listing of this text.
    pub(in super::super) fn listing(text: impl Into<String>) -> Listing {
        Listing::of(std::io::Cursor::new(text.into()))
    }

    async fn read(text: &str) -> (Vec<(String, String)>, anyhow::Result<u64>) {
        let mut listing = listing(text);
        let mut entries = Vec::new();
        while let Some(Entry { key, value }) = listing.next().await {
            entries.push((key, value.get().to_owned()));
        }
        (entries, listing.version().await)
    }

    #[tokio::test]
    async fn keys_values_and_version_are_read() {
        let (entries, version) = read(r#"{"data":{"a":1,"b\n":{"x": [1, 2]},"ü":null},"version":7}"#).await;
        let expected = [("a", "1"), ("b\n", r#"{"x": [1, 2]}"#), ("ü", "null")];
        assert_eq!(entries, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(version.expect("complete"), 7);
        let (entries, version) = read(r#"{"version":0,"more":[{}],"data":{}}"#).await;
        assert_eq!((entries.len(), version.expect("complete")), (0, 0));
    }

    #[tokio::test]
    async fn a_listing_that_is_cut_short_out_of_order_or_without_a_version_is_refused() {
        for text in [
            "",
            r#"{"data":{"a":1"#,
            r#"{"data":{"a":1},"version":7"#,
            r#"{"data":{"a":1}}"#,
            r#"{"data":{"b":1,"a":2},"version":7}"#,
            r#"{"data":{"a":1,"a":2},"version":7}"#,
            r#"{"data":[],"version":7}"#,
            r#"{"error":"no"}"#,
            r#"{"data":{},"version":7}{"#,
        ] {
            read(text).await.1.expect_err(text);
        }
    }

    #[tokio::test]
    async fn a_long_listing_comes_in_pieces() {
        let entries: Vec<String> = (0..5_000).map(|key| format!(r#""{key:05}":{key}"#)).collect();
        let text = format!(r#"{{"data":{{{}}},"version":9}}"#, entries.join(","));
        let (entries, version) = read(&text).await;
        assert_eq!((entries.len(), version.expect("complete")), (5_000, 9));
        assert_eq!(entries[4_999], ("04999".to_owned(), "4999".to_owned()));
    }

    #[tokio::test]
    async fn a_reader_that_nobody_follows_ends() {
        let entries: Vec<String> = (0..5_000).map(|key| format!(r#""{key:05}":{key}"#)).collect();
        let listing = listing(format!(r#"{{"data":{{{}}},"version":9}}"#, entries.join(",")));
        let error = listing.version().await.expect_err("it was not read");
        assert!(format!("{error:#}").contains("nobody reads on"), "{error:#}");
    }
}
