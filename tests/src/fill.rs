//! Fills a store with many keys in little time.
//!
//! Requests are written one after the other without waiting for answers, as HTTP/1.1 allows, and the answers
//! counted. An HTTP client of the usual kind takes longer for a request than the store does.

use anyhow::{Context, bail, ensure};
use futures::future::try_join_all;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Each has one write under way at the store.
const CONNECTIONS: usize = 64;
/// Requests handed to the network at once.
const AT_ONCE: usize = 16;

/// Writes `prefix-0` and on, each once, with values of so many bytes.
///
/// # Errors
/// When a write is not acknowledged.
pub async fn fill(url: &str, prefix: &str, keys: usize, value_bytes: usize) -> anyhow::Result<()> {
    let authority = url.strip_prefix("http://").context("an http URL")?;
    let each = keys.div_ceil(CONNECTIONS);
    let parts = (0..CONNECTIONS).map(|number| (number * each).min(keys)..((number + 1) * each).min(keys));
    let connections = parts.map(|part| async move {
        let stream = TcpStream::connect(authority).await.context("a connection")?;
        stream.set_nodelay(true)?;
        let (read, write) = stream.into_split();
        let requests = part.clone().map(|number| request(authority, &format!("{prefix}-{number}"), value_bytes));
        tokio::try_join!(ask(write, requests), count(read, part.len())).map(|_| ())
    });
    try_join_all(connections).await.with_context(|| format!("{keys} writes"))?;
    Ok(())
}

fn request(authority: &str, key: &str, value_bytes: usize) -> String {
    let body = format!(r#"{{"key":"{key}","value":"{key:.<value_bytes$}"}}"#);
    let length = body.len();
    let head = format!("POST /set HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n");
    format!("{head}Content-Length: {length}\r\n\r\n{body}")
}

/// Gives the connection back, so that it stays open for the answers.
async fn ask(mut write: OwnedWriteHalf, requests: impl Iterator<Item = String>) -> anyhow::Result<OwnedWriteHalf> {
    let mut requests = requests.peekable();
    while requests.peek().is_some() {
        let some: String = requests.by_ref().take(AT_ONCE).collect();
        write.write_all(some.as_bytes()).await.context("the store takes no more")?;
    }
    Ok(write)
}

/// Counts the heads of answers: a body ends without a line of its own, so the next head follows in the same line.
async fn count(read: OwnedReadHalf, answers: usize) -> anyhow::Result<()> {
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    let mut acknowledged = 0;
    while acknowledged < answers {
        line.clear();
        if read.read_until(b'\n', &mut line).await? == 0 {
            bail!("the connection ended after {acknowledged} of {answers} answers");
        }
        let text = String::from_utf8_lossy(&line);
        if let Some((_, head)) = text.split_once("HTTP/1.1 ") {
            ensure!(head.starts_with("200 "), "after {acknowledged} writes: {head}");
            acknowledged += 1;
        }
    }
    Ok(())
}
