//! What compression on the replication stream saves, and what it costs.
//!
//! A store that compresses and one that does not run at the same time and are asked in turn, so that noise of the
//! machine hits both alike. On loopback a byte costs next to nothing; so both are asked again where all that a leader
//! sends to its followers shares a rate, as on a network card. For that the program runs itself in a network namespace
//! of its own, in which packets from the address that the leader dials from are held back.

use std::{env, fmt, fmt::Write as _, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use super::{
    Measuring,
    answer::Expected,
    connection::Target,
    figures::Figures,
    generator::{Pace, Plan, fill, measure},
    request::Request,
    spread::Spread,
};
use crate::{
    lab::{program::Failure, table::table},
    processes::{Lab, LabOptions, programs},
    wait,
};

/// Rates of the leader's network, in Mbit/s.
const LIMITS: [u32; 2] = [100, 1000];
const FOLLOWERS: usize = 5;
const QUORUM: u8 = 3;
const CONNECTIONS: usize = 8;
/// In bytes.
const VALUE_SIZES: [usize; 3] = [4 << 10, 64 << 10, 1 << 20];
/// Most bytes of all values together, and most keys.
const VALUES_BYTES: usize = 64 << 20;
const KEYS: usize = 10_000;
/// Where the store that compresses begins: below the smallest value that is measured.
const COMPRESS_ABOVE: &str = "1024";
/// Address that a leader with a limit dials from.
const LIMITED_ADDRESS: &str = "127.0.0.2";
/// A few large values fill a slow network for long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);

/// Sets a namespace up and becomes the program that is named.
const INSIDE: &str = r#"
ip link set lo up
tc qdisc add dev lo root handle 1: htb
tc class add dev lo parent 1: classid 1:1 htb rate "${LIMIT}mbit" burst 128k cburst 128k
tc filter add dev lo parent 1: protocol ip u32 match ip src "$ADDRESS/32" flowid 1:1
exec "$@"
"#;

/// What values are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// Records in JSON.
    Text,
    /// Bytes that no one can make smaller.
    Random,
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "JSON text",
            Self::Random => "random",
        })
    }
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Case {
    /// Rate of what the leader sends to its followers, in Mbit/s; nothing on loopback as it is.
    pub limit: Option<u32>,
    /// Size of a value.
    pub value_bytes: usize,
    /// What values are like.
    pub content: Content,
}

/// What was measured once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// What was asked.
    pub case: Case,
    /// Whether the nodes compress.
    pub compressed: bool,
    /// Which of the repeats.
    pub repeat: usize,
    /// Writes a second.
    pub per_second: f64,
    /// Half of them took no longer, in milliseconds.
    pub p50_ms: f64,
    /// Processor time of all nodes, per write, in microseconds.
    pub servers_us: f64,
    /// Bytes that each follower was sent, per write.
    pub stream_bytes: f64,
    /// Writes that failed.
    pub failed: u64,
}

/// Measures on loopback and with every limit, or only with `limit`, which then is in force already.
///
/// # Errors
/// When the store fails, or a signal asks for the end.
pub async fn run(quick: bool, limit: Option<u32>, measuring: &mut Measuring<'_>) -> Result<Vec<Sample>, Failure> {
    let mut samples = here(quick, limit, measuring).await?;
    if limit.is_none() {
        for limit in if quick { &LIMITS[..1] } else { &LIMITS } {
            samples.extend(apart(quick, *limit, measuring).await?);
        }
    }
    Ok(samples)
}

async fn here(quick: bool, limit: Option<u32>, measuring: &Measuring<'_>) -> Result<Vec<Sample>, Failure> {
    let mut labs = [(false, lab(false, limit).await?), (true, lab(true, limit).await?)];
    let mut samples = Vec::new();
    for repeat in 0..measuring.repeats {
        for value_bytes in if quick { &VALUE_SIZES[..1] } else { &VALUE_SIZES } {
            for content in [Content::Text, Content::Random] {
                let case = Case { limit, value_bytes: *value_bytes, content };
                for (compressed, lab) in &mut labs {
                    let sampling = sample(case, *compressed, repeat, measuring.length, lab);
                    let sample = measuring.unless_interrupted(sampling).await?;
                    measuring.progress(format!("{}: {sample}", repeat + 1));
                    samples.push(sample);
                }
                // Nobody is always the first.
                labs.reverse();
            }
        }
    }
    Ok(samples)
}

async fn lab(compressed: bool, limit: Option<u32>) -> anyhow::Result<Lab> {
    let above = if compressed { COMPRESS_ABOVE } else { "off" };
    let mut variables: Vec<_> = (0..=FOLLOWERS).map(|node| (node, "COMPRESS_ABOVE", above.to_owned())).collect();
    // However this program ends, in its namespace too.
    variables.extend((0..=FOLLOWERS).map(|node| (node, "PARENT_PID", std::process::id().to_string())));
    variables.extend(limit.map(|_| (0, "SOURCE_ADDRESS", LIMITED_ADDRESS.to_owned())));
    let options = LabOptions {
        followers: FOLLOWERS,
        write_quorum: QUORUM,
        write_timeout: WRITE_TIMEOUT,
        variables,
        ..LabOptions::default()
    };
    Lab::start(options).await
}

async fn sample(
    case: Case,
    compressed: bool,
    repeat: usize,
    length: Duration,
    lab: &mut Lab,
) -> anyhow::Result<Sample> {
    let Case { limit, value_bytes, content } = case;
    let address: SocketAddr = lab.url(0).trim_start_matches("http://").parse().context("the leader's address")?;
    // Each connection has a value of its own: what comes twice in a frame would compress, however random it is.
    let values = (0..CONNECTIONS).map(|number| value(content, value_bytes, (repeat * CONNECTIONS + number) as u64));
    let targets = values.map(|value| {
        Ok(Target { address, request: Request::put(address, &value)?, expected: Expected::http("\"success\":true") })
    });
    let targets = targets.collect::<anyhow::Result<Vec<_>>>()?;
    // Few writes take much time there.
    let length = if limit.is_some() { length * 3 } else { length };
    let keys = (VALUES_BYTES / value_bytes).min(KEYS) as u64;
    let (pace, connections, warm_up) = (Pace::Closed, CONNECTIONS, length.mul_f64(0.25));
    let servers = lab.indices().map(|index| lab.node(index).pid()).collect::<anyhow::Result<_>>()?;
    // Memory for keys and log costs only once. It would be a matter of minutes on a slow network, and none there.
    if let Some(target) = targets.first().filter(|_| limit.is_none()) {
        fill(target.clone(), keys, CONNECTIONS).await.context("filling it")?;
    }
    let before = counted(lab).await?;
    let measured = measure(Plan { targets, keys, connections, pace, warm_up, length }, servers).await?;
    let after = counted(lab).await?;
    let figures = Figures::of(&measured, repeat, pace).with_context(|| format!("no write succeeded: {measured:?}"))?;
    let (writes, bytes) = (after.0 - before.0, after.1 - before.1);
    Ok(Sample {
        case,
        compressed,
        repeat,
        per_second: figures.per_second,
        p50_ms: figures.p50_ms,
        servers_us: figures.servers_us,
        stream_bytes: bytes / writes / FOLLOWERS as f64,
        failed: figures.failed,
    })
}

/// Writes and sent bytes that the leader counted, once all followers have everything.
async fn counted(lab: &Lab) -> anyhow::Result<(f64, f64)> {
    let reached = wait::until("every follower has everything", PATIENCE, || async {
        let status = lab.status(0).await?;
        let all = status.followers.iter().all(|follower| follower.match_seq == status.last_seq);
        ensure!(all, "{:?} of {}", status.followers, status.last_seq);
        Ok(())
    });
    reached.await?;
    let writes = lab.counter(0, "quorumkv_node_writes_total", "committed").await?;
    Ok((writes, lab.counter(0, "quorumkv_node_stream_bytes_total", "sent").await?))
}

/// Runs this program in a network namespace of its own.
async fn apart(quick: bool, limit: u32, measuring: &mut Measuring<'_>) -> Result<Vec<Sample>, Failure> {
    let obstacle = match inside(limit).arg("true").output().await {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    };
    if let Some(obstacle) = obstacle {
        measuring.note(format!(
            "compression at {limit} Mbit/s: not measured; it takes root, unshare, ip and tc: {obstacle}"
        ));
        return Ok(Vec::new());
    }
    let folder = tempfile::tempdir().context("a folder")?;
    let mut command = inside(limit);
    command.arg(env::current_exe().context("the path of this program")?).args(quick.then_some("--quick"));
    let (repeats, seconds) = (measuring.repeats.to_string(), measuring.length.as_secs_f64().to_string());
    command.args(["--part", "compression", "--output", "json", "--limit", &limit.to_string()]);
    command.args(["--repeats", &repeats, "--seconds", &seconds, "--results"]).arg(folder.path());
    command.env("QUORUMKV_NODE_BIN", programs::node()?).stdin(Stdio::null()).stderr(Stdio::inherit());
    let running = async { command.output().await.context("this program in a namespace") };
    let output = measuring.unless_interrupted(running).await?;
    let read = || -> anyhow::Result<Vec<Sample>> {
        ensure!(output.status.success(), "it failed in its network namespace, see above ({})", output.status);
        let found: Value = serde_json::from_slice(&output.stdout)?;
        Ok(serde_json::from_value(found["compression"].clone())?)
    };
    Ok(read().with_context(|| format!("compression at {limit} Mbit/s"))?)
}

fn inside(limit: u32) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-ec", INSIDE, "sh"]).kill_on_drop(true);
    command.env("LIMIT", limit.to_string()).env("ADDRESS", LIMITED_ADDRESS);
    command
}

/// A value that no other seed gives.
fn value(content: Content, bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(seed);
    match content {
        Content::Random => {
            let mut value = vec![0; bytes];
            random.fill(&mut value[..]);
            value
        }
        Content::Text => {
            let mut text = String::with_capacity(bytes + 256);
            while text.len() < bytes {
                record(&mut text, &mut random);
            }
            text.truncate(bytes);
            text.into_bytes()
        }
    }
}

/// As applications keep them: the same fields again and again, some words, many numbers.
fn record(text: &mut String, random: &mut StdRng) {
    const FIRST: [&str; 8] = ["Ada", "Boris", "Carmen", "Dilnoza", "Emeka", "Fatima", "Greta", "Hiroshi"];
    const LAST: [&str; 8] = ["Abel", "Baptiste", "Castillo", "Dvorak", "Eriksen", "Ferrari", "Gupta", "Haddad"];
    const CITY: [&str; 8] = ["Aarhus", "Bogota", "Chisinau", "Dakar", "Essen", "Fukuoka", "Goa", "Haifa"];
    let (first, last, city) = (random.random_range(0..8), random.random_range(0..8), random.random_range(0..8));
    let (first, last, city): (&str, &str, &str) = (FIRST[first], LAST[last], CITY[city]);
    let mut number = |most: u32| random.random_range(0..most);
    write!(
        text,
        r#"{{"id":{},"name":"{first} {last}","email":"{first}.{last}{}@example.org","city":"{city}","active":{},"#,
        number(1_000_000_000),
        number(100),
        number(4) > 0,
    )
    .expect("a text takes everything");
    write!(
        text,
        r#""balance":{}.{:02},"visits":{},"updated":"2025-{:02}-{:02}T{:02}:{:02}:{:02}Z"}},"#,
        number(100_000),
        number(100),
        number(1000),
        number(12) + 1,
        number(28) + 1,
        number(24),
        number(60),
        number(60),
    )
    .expect("a text takes everything");
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, compressed, per_second, p50_ms, servers_us, stream_bytes, failed, repeat: _ } = self;
        let Case { limit, value_bytes, content } = case;
        write!(
            f,
            "{}, {value_bytes} B of {content}, {}: {per_second:.0}/s, p50 {p50_ms:.2} ms, servers {servers_us:.0} us, \
             {stream_bytes:.0} B to each follower, {failed} failed",
            network(*limit),
            mode(*compressed),
        )
    }
}

fn network(limit: Option<u32>) -> String {
    limit.map_or_else(|| "loopback".to_owned(), |limit| format!("{limit} Mbit/s"))
}

const fn mode(compressed: bool) -> &'static str {
    if compressed { "LZ4" } else { "off" }
}

/// What was measured, as a table.
#[must_use]
pub fn tables(samples: &[Sample]) -> String {
    let header = [
        "leader's network",
        "values",
        "compression",
        "bytes",
        "writes/s",
        "beside off",
        "p50 ms",
        "CPU µs per write",
        "beside off",
        "bytes to each follower",
        "failed",
    ];
    let mut cases: Vec<(Case, bool)> = Vec::new();
    for Sample { case, compressed, .. } in samples {
        if !cases.contains(&(*case, *compressed)) {
            cases.push((*case, *compressed));
        }
    }
    // On below off, however they came.
    cases.sort_by_key(|(case, compressed)| {
        (case.limit.unwrap_or(u32::MAX), case.value_bytes, case.content == Content::Random, *compressed)
    });
    let rows = cases.iter().map(|(case, compressed)| {
        let of = |compressed: bool, figure: fn(&Sample) -> f64| -> Vec<f64> {
            samples
                .iter()
                .filter(|sample| (sample.case, sample.compressed) == (*case, compressed))
                .map(figure)
                .collect()
        };
        let spread = |figure: fn(&Sample) -> f64, digits: usize| {
            Spread::of(of(*compressed, figure)).map_or_else(String::new, |spread| format!("{spread:.digits$}"))
        };
        let beside = |figure: fn(&Sample) -> f64| {
            let ratios = Spread::of_ratios(&of(true, figure), &of(false, figure)).filter(|_| *compressed);
            ratios.map_or_else(String::new, |ratios| format!("{ratios:.2}"))
        };
        vec![
            network(case.limit),
            case.content.to_string(),
            mode(*compressed).to_owned(),
            case.value_bytes.to_string(),
            spread(|sample| sample.per_second, 0),
            beside(|sample| sample.per_second),
            spread(|sample| sample.p50_ms, 2),
            spread(|sample| sample.servers_us, 0),
            beside(|sample| sample.servers_us),
            spread(|sample| sample.stream_bytes, 0),
            of(*compressed, |sample| sample.failed as f64).iter().sum::<f64>().to_string(),
        ]
    });
    table(&header, 3, rows)
}

/// The report of this part alone, below its title and where it was measured.
#[must_use]
pub fn report(samples: &[Sample]) -> String {
    format!(
        "A leader and {FOLLOWERS} followers in memory as processes of this machine, write quorum {QUORUM}, {CONNECTIONS} \
         connections that write in a closed loop, each a value of its own: records in JSON, or random bytes. LZ4: every node \
         has `COMPRESS_ABOVE={COMPRESS_ABOVE}`; off: every node has `COMPRESS_ABOVE=off`. Both stores run at once and are \
         asked in turn. With a limit, everything that the leader sends to its followers shares that rate (`tc`, in a network \
         namespace); what clients send does not. CPU is that of all six nodes together; bytes are those of the frames that \
         the leader sent to each follower, per write. A figure is the median of its repeats, with least and most; \"beside \
         off\" is the ratio, repeat by repeat.\n\n{}",
        tables(samples)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(compressed: bool, repeat: usize, per_second: f64) -> Sample {
        let case = Case { limit: Some(100), value_bytes: 4096, content: Content::Text };
        let (p50_ms, servers_us, stream_bytes) = (1.0, 1e6 / per_second, 4200.0);
        Sample { case, compressed, repeat, per_second, p50_ms, servers_us, stream_bytes, failed: 0 }
    }

    #[test]
    fn a_row_with_compression_stands_below_and_beside_the_one_without() {
        let found =
            tables(&[sample(true, 0, 300.0), sample(false, 0, 100.0), sample(false, 1, 100.0), sample(true, 1, 500.0)]);
        let rows: Vec<Vec<&str>> = found.lines().skip(2).map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(rows.len(), 2, "{found}");
        assert_eq!(rows[0][1..7], ["100 Mbit/s", "JSON text", "off", "4096", "100", ""], "{found}");
        assert_eq!(rows[1][3..7], ["LZ4", "4096", "400 (300–500)", "4.00 (3.00–5.00)"], "{found}");
    }

    #[test]
    fn values_are_as_long_as_asked_and_differ_by_their_seed() {
        for content in [Content::Text, Content::Random] {
            let values: Vec<_> = (0..3).map(|seed| value(content, 5000, seed)).collect();
            assert!(values.iter().all(|value| value.len() == 5000));
            assert!(values[0] != values[1] && values[1] != values[2] && values[0] == value(content, 5000, 0));
        }
        let text = String::from_utf8(value(Content::Text, 5000, 0)).expect("text");
        let record = format!("{}}}", text.split_inclusive("},").next().expect("a record").trim_end_matches("},"));
        serde_json::from_str::<Value>(&record).expect("JSON");
    }
}
