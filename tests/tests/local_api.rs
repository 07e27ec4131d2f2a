//! The HTTP API, request by request, on a leader and its follower that run as processes.
//!
//! All cases share one lab: starting it takes longer than asking it.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::{
    client::{Answer, LabClient},
    processes::{Lab, LabOptions},
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const TOKEN: &str = "secret-of-the-lab";

/// Which port is asked.
#[derive(Debug, Clone, Copy)]
enum Port {
    Leader,
    Follower,
    LeaderPeer,
    FollowerPeer,
}
use Port::{Follower, FollowerPeer, Leader, LeaderPeer};

/// A request and what must be answered.
#[derive(Clone)]
struct Case {
    name: String,
    port: Port,
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    token: Option<&'static str>,
    status: u16,
    /// Parts of the `error` text.
    mentions: Vec<&'static str>,
    /// Fields the answer must have with just these values.
    fields: Vec<(&'static str, Value)>,
}

fn case(name: impl Into<String>, port: Port, method: Method, path: impl Into<String>, status: u16) -> Case {
    let (name, path) = (name.into(), path.into());
    Case { name, port, method, path, body: None, token: None, status, mentions: Vec::new(), fields: Vec::new() }
}

impl Case {
    fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn token(mut self, token: &'static str) -> Self {
        self.token = Some(token);
        self
    }

    fn mentions(mut self, text: &'static str) -> Self {
        self.mentions.push(text);
        self
    }

    fn field(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }
}

/// `POST /set` of something that is no write. The key, where there is one, is "bad".
fn bad_set(name: &str, body: impl Into<Vec<u8>>, mentions: &'static str) -> Case {
    case(format!("set refuses {name}"), Leader, Method::POST, "/set", 400).body(body).mentions(mentions)
}

fn bad_sets() -> Vec<Case> {
    let long_key = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(1025));
    // 342 characters of three bytes are 1026 bytes, though fewer than 1024 characters.
    let long_in_bytes = format!(r#"{{"key":"{}","value":1}}"#, "\u{20ac}".repeat(342));
    let mut cases = vec![
        bad_set("an empty body", "", "empty"),
        bad_set("white space", "  \n", "empty"),
        bad_set("text that is no JSON", "key=bad&value=1", "JSON object"),
        bad_set("a cut-off object", r#"{"key":"bad","value":"#, "not valid JSON"),
        bad_set("two objects", r#"{"key":"bad","value":1}{"key":"bad","value":2}"#, "trailing"),
        bad_set("single quotes", "{'key':'bad','value':1}", "not valid JSON"),
        bad_set("an array", r#"["bad",1]"#, "JSON object"),
        bad_set("null", "null", "JSON object"),
        bad_set("a number that is none", r#"{"key":"bad","value":01}"#, "not valid JSON"),
        bad_set("NaN", r#"{"key":"bad","value":NaN}"#, "not valid JSON"),
        bad_set("a missing key", r#"{"value":1}"#, "missing field `key`"),
        bad_set("a missing value", r#"{"key":"bad"}"#, "missing field `value`"),
        bad_set("an empty key", r#"{"key":"","value":1}"#, "1..1024 bytes"),
        bad_set("a number as key", r#"{"key":7,"value":1}"#, "string"),
        bad_set("null as key", r#"{"key":null,"value":1}"#, "string"),
        bad_set("an object as key", r#"{"key":{},"value":1}"#, "string"),
        bad_set("a key of 1025 bytes", long_key, "1..1024 bytes"),
        bad_set("a key of 1026 bytes in 342 characters", long_in_bytes, "1..1024 bytes"),
        bad_set("a misspelt field", r#"{"key":"bad","valeu":1,"value":1}"#, "valeu"),
        bad_set("a key given twice", r#"{"key":"bad","key":"bad","value":1}"#, "duplicate"),
        bad_set("a lone surrogate", r#"{"key":"\ud800","value":1}"#, "not valid JSON"),
        bad_set("bytes that are no UTF-8", b"{\"key\":\"\xff\xfe\",\"value\":1}".to_vec(), "JSON"),
    ];
    let large = format!(r#"{{"key":"bad","value":"{}"}}"#, "x".repeat(1024 * 1024));
    cases.push(
        case("set refuses a body above 1 MiB", Leader, Method::POST, "/set", 413).body(large).mentions("1048576 bytes"),
    );
    cases
}

fn refusals() -> Vec<Case> {
    let not_leader = |case: Case| case.mentions("Only leader accepts writes").field("leader", json!("LEADER"));
    let batch = |epoch: u64| {
        let batch = json!({"epoch": epoch, "leader": "x", "prevEpoch": 0, "prevSeq": 0, "commitSeq": 0, "entries": []});
        batch.to_string()
    };
    let replicate = |name, port, status| case(name, port, Method::POST, "/replicate", status).token(TOKEN);
    let settings = |name, port, status| case(name, port, Method::PUT, "/settings", status).token(TOKEN);
    let mut cases = vec![
        not_leader(case("a follower sends writers to the leader", Follower, Method::POST, "/set", 403))
            .body(r#"{"key":"bad","value":1}"#),
        case("a follower does not read for the leader", Follower, Method::GET, "/get/x?consistency=linearizable", 403)
            .field("leader", json!("LEADER")),
        case("a key that is not there is not found", Leader, Method::GET, "/get/nothing", 404)
            .field("error", json!("Key not found")),
        case("a key that is not there is not found on a follower", Follower, Method::GET, "/get/nothing", 404)
            .field("error", json!("Key not found")),
        case("a value that nests without end is refused", Leader, Method::POST, "/set", 400)
            .body(format!(r#"{{"key":"deep","value":{}{}}}"#, "[".repeat(101), "]".repeat(101)))
            .mentions("deeper than 100 levels"),
        case("a key of no bytes is refused", Leader, Method::GET, "/get/", 400).mentions("1..1024 bytes"),
        case("a long key is refused", Leader, Method::GET, format!("/get/{}", "k".repeat(1025)), 400)
            .mentions("1..1024 bytes"),
        case("a key that is no text is refused", Leader, Method::GET, "/get/%ff", 400),
        case("an unknown consistency is refused", Leader, Method::GET, "/get/x?consistency=perfect", 400)
            .mentions("linearizable"),
        case("a version that is no number is refused", Follower, Method::GET, "/get/x?minVersion=new", 400),
        case("the leader takes no replication", Leader, Method::POST, "/replicate", 403)
            .token(TOKEN)
            .body(batch(1))
            .field("error", json!("Only followers accept replication")),
        replicate("a follower refuses an epoch that is over", Follower, 409).body(batch(0)),
        case("replication without the peer token is refused", Follower, Method::POST, "/replicate", 401).body(batch(0)),
        case("replication with another token is refused", Follower, Method::POST, "/replicate", 401)
            .token("guess")
            .body(batch(0)),
        replicate("a replication that is no batch is refused", Follower, 400).body("{}").mentions("missing field"),
        replicate("a replication of nothing is refused", Follower, 400).body(""),
        case("the peer port wants the token", LeaderPeer, Method::GET, "/state", 401).mentions("token"),
        case("the peer port wants the right token", LeaderPeer, Method::GET, "/state", 401).token("guess"),
        case("the peer port of a follower wants the token", FollowerPeer, Method::GET, "/stream", 401),
        case("the peer port has no such route", LeaderPeer, Method::GET, "/set", 404).token(TOKEN),
        case("the peer port has no such method", LeaderPeer, Method::DELETE, "/settings", 405).token(TOKEN),
        case("a stale fence is refused", FollowerPeer, Method::POST, "/fence", 409).token(TOKEN).body(r#"{"epoch":0}"#),
        settings("a follower changes no settings", FollowerPeer, 403).body(r#"{"writeQuorum":1}"#),
        settings("a quorum above the followers is refused", LeaderPeer, 400)
            .body(r#"{"writeQuorum":3}"#)
            .mentions("writeQuorum 3 is outside 1..2"),
        settings("a quorum of zero is refused", LeaderPeer, 400).body(r#"{"writeQuorum":0}"#).mentions("1..2"),
        settings("an empty range of delays is refused", LeaderPeer, 400)
            .body(r#"{"delay":{"min":"20ms","max":"10ms"}}"#)
            .mentions("delay.min 20ms is above delay.max 10ms"),
        settings("a delay as long as the timeout is refused", LeaderPeer, 400)
            .body(r#"{"delay":{"min":"0","max":"5s"}}"#)
            .mentions("below writeTimeout 5s"),
        settings("a delay without a unit is refused", LeaderPeer, 400)
            .body(r#"{"delay":{"min":"10","max":"150"}}"#)
            .mentions("not a duration"),
        settings("misspelt settings are refused", LeaderPeer, 400).body(r#"{"writeQorum":1}"#).mentions("writeQorum"),
    ];
    for path in ["/", "/nothing", "/set/x", "/get", "/metrics", "/SET"] {
        cases.push(case(format!("there is no route {path}"), Leader, Method::GET, path, 404));
    }
    let wrong_methods = [
        (Method::GET, "/set"),
        (Method::PUT, "/set"),
        (Method::POST, "/get/x"),
        (Method::DELETE, "/get_all"),
        (Method::POST, "/status"),
        (Method::PATCH, "/health"),
        (Method::GET, "/replicate"),
    ];
    for (method, path) in wrong_methods {
        cases.push(case(format!("{path} does not take {method}"), Leader, method, path, 405));
    }
    cases
}

/// The lab of this program, started by the first test that needs it.
struct Shared {
    lab: Mutex<Option<Arc<Lab>>>,
    runtime: tokio::runtime::Runtime,
}

impl Shared {
    fn lab(&self) -> Arc<Lab> {
        let mut lab = self.lab.lock().unwrap_or_else(PoisonError::into_inner);
        let started = lab.get_or_insert_with(|| {
            let options = LabOptions {
                followers: 2,
                write_quorum: 2,
                peer_token: Some(TOKEN.to_owned()),
                ..LabOptions::default()
            };
            Arc::new(self.runtime.block_on(Lab::start(options)).expect("the lab starts"))
        });
        Arc::clone(started)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let shared: Arc<Shared> = Arc::new(Shared { lab: Mutex::new(None), runtime });
    let mut trials = Vec::new();
    for case in bad_sets().into_iter().chain(refusals()) {
        let shared = Arc::clone(&shared);
        trials.push(Trial::test(case.name.clone(), move || {
            let lab = shared.lab();
            shared.runtime.block_on(refused(&lab, &case))
        }));
    }
    macro_rules! answers {
        ($($test:ident),* $(,)?) => {
            $(
                let shared_here = Arc::clone(&shared);
                trials.push(Trial::test(stringify!($test), move || {
                    let lab = shared_here.lab();
                    shared_here.runtime.block_on($test(&lab))
                }));
            )*
        };
    }
    answers![
        a_write_is_answered_with_replicas_and_version,
        a_written_key_is_read_with_its_version,
        any_json_value_is_kept_byte_for_byte,
        any_text_up_to_1024_bytes_is_a_key,
        a_body_of_just_1_mib_is_taken,
        the_content_type_does_not_matter,
        get_all_holds_every_key,
        a_read_says_how_consistent_it_wants_to_be,
        a_read_waits_for_a_version,
        the_leader_tells_its_status,
        a_follower_tells_its_status,
        health_and_readiness_are_answered_by_all,
        metrics_are_served_on_their_own_port,
        the_health_check_of_the_program_says_what_the_node_says,
        a_manager_sees_the_state_of_a_node,
    ];
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The processes end with the lab; statics are not dropped.
    shared.lab.lock().unwrap_or_else(PoisonError::into_inner).take();
    conclusion.exit_code()
}

fn url(lab: &Lab, port: Port) -> String {
    match port {
        Leader => lab.url(0),
        Follower => lab.url(1),
        LeaderPeer => lab.peer_url(0),
        FollowerPeer => lab.peer_url(1),
    }
}

macro_rules! check {
    ($condition:expr, $($text:tt)+) => { if $condition {} else { return Err(Failed::from(format!($($text)+))); } };
}

/// Sends the case, compares the answer, and sees that nothing was written.
async fn refused(lab: &Lab, case: &Case) -> Result<(), Failed> {
    let Case { name: _, port, method, path, body, token, status, mentions, fields } = case;
    let client = LabClient::new(Duration::from_secs(10))?;
    let mut request = client.request(method.clone(), &format!("{}{path}", url(lab, *port)));
    if let Some(body) = body {
        request = request.body(body.clone());
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await?;
    let headers = response.headers().clone();
    let actual = response.status().as_u16();
    let text = response.text().await?;
    check!(actual == *status, "answered {actual} {text:.500}, expected {status}");
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    check!(content_type == "application/json", "content-type is {content_type:?}: {text}");
    if *status == 405 {
        check!(headers.contains_key("allow"), "405 without the header Allow");
    }
    let body: Value = serde_json::from_str(&text)?;
    let error = body["error"].as_str().unwrap_or_default();
    check!(!error.is_empty(), "no error text: {text}");
    for part in mentions {
        check!(error.contains(part), "{error:?} does not mention {part:?}");
    }
    for (field, expected) in fields {
        let expected = if expected == "LEADER" { json!(lab.url(0)) } else { expected.clone() };
        check!(body[field] == expected, "{field} is {}, expected {expected}", body[field]);
    }
    let kept = client.get(&lab.url(0), "bad", "").await?;
    check!(kept.status == StatusCode::NOT_FOUND, "something was written: {:.200}", kept.text);
    Ok(())
}

fn client() -> Result<LabClient, Failed> {
    Ok(LabClient::new(Duration::from_secs(10))?)
}

/// Writes, and gives the version.
async fn written(lab: &Lab, body: &str) -> Result<u64, Failed> {
    let client = client()?;
    let request = client.request(Method::POST, &format!("{}/set", lab.url(0))).body(body.to_owned());
    let answer = client.send(request).await?;
    check!(answer.status == StatusCode::OK, "answered {} {}", answer.status, answer.text);
    Ok(answer.body["version"].as_u64().ok_or("no version")?)
}

async fn get(lab: &Lab, node: usize, key_and_query: &str) -> Result<Answer, Failed> {
    Ok(client()?.get(&lab.url(node), key_and_query, "").await?)
}

async fn a_write_is_answered_with_replicas_and_version(lab: &Lab) -> Result<(), Failed> {
    let first = client()?.set(&lab.url(0), "answered", "a").await?;
    let second = client()?.set(&lab.url(0), "answered", "b").await?;
    let version = |answer: &Answer| answer.body["version"].as_u64();
    let expected = json!({"success": true, "replicas": 2, "version": version(&first)});
    check!(first.status == StatusCode::OK && first.body == expected, "{} {}", first.status, first.text);
    check!(version(&second) > version(&first), "{} is not after {}", second.text, first.text);
    Ok(())
}

async fn a_written_key_is_read_with_its_version(lab: &Lab) -> Result<(), Failed> {
    let version = written(lab, r#"{"key":"read","value":"v"}"#).await?;
    let expected = json!({"key": "read", "value": "v", "version": version});
    for node in lab.indices() {
        // The leader has it now, a follower once it has heard of the commit.
        let query = if node == 0 { "read".to_owned() } else { format!("read?minVersion={version}") };
        let answer = get(lab, node, &query).await?;
        check!(answer.status == StatusCode::OK && answer.body == expected, "node {node}: {}", answer.text);
    }
    Ok(())
}

async fn any_json_value_is_kept_byte_for_byte(lab: &Lab) -> Result<(), Failed> {
    let values = [
        "null",
        "true",
        "0",
        "-1.50e+10",
        "123456789012345678901234567890",
        "1e400",
        r#""""#,
        r#""\u00e9 \n \ud83d\ude00 é 😀""#,
        "[]",
        "[1, [2, {}], null]",
        r#"{"z":1,"a":{"b":[true]},"z":2}"#,
    ];
    for value in values {
        let version = written(lab, &format!(r#"{{"key":"any","value":{value}}}"#)).await?;
        let expected = format!(r#"{{"key":"any","value":{value},"version":{version}}}"#);
        for node in lab.indices() {
            let answer = get(lab, node, &format!("any?minVersion={version}")).await?;
            check!(answer.text == expected, "node {node}: {:.200} instead of {expected:.200}", answer.text);
        }
    }
    Ok(())
}

async fn any_text_up_to_1024_bytes_is_a_key(lab: &Lab) -> Result<(), Failed> {
    let longest = "k".repeat(1024);
    let keys = [
        ("k", "k"),
        ("a/b//c", "a/b//c"),
        ("with space", "with%20space"),
        ("100%", "100%25"),
        ("?&#=+", "%3F%26%23%3D+"),
        ("schlüssel €", "schl%C3%BCssel%20%E2%82%AC"),
        ("\"quoted\"\n", "%22quoted%22%0A"),
        (longest.as_str(), longest.as_str()),
    ];
    for (key, path) in keys {
        let version = written(lab, &json!({"key": key, "value": path}).to_string()).await?;
        let answer = get(lab, 0, path).await?;
        let expected = json!({"key": key, "value": path, "version": version});
        check!(answer.body == expected, "{key:?}: {}", answer.text);
    }
    Ok(())
}

async fn a_body_of_just_1_mib_is_taken(lab: &Lab) -> Result<(), Failed> {
    let frame = r#"{"key":"large","value":""}"#.len();
    let value = "x".repeat(1024 * 1024 - frame);
    let version = written(lab, &format!(r#"{{"key":"large","value":"{value}"}}"#)).await?;
    for node in lab.indices() {
        let answer = get(lab, node, &format!("large?minVersion={version}")).await?;
        check!(answer.body["value"] == value.as_str(), "node {node} answers {} bytes", answer.text.len());
    }
    Ok(())
}

async fn the_content_type_does_not_matter(lab: &Lab) -> Result<(), Failed> {
    let client = client()?;
    for content_type in ["application/json", "application/x-www-form-urlencoded", "text/plain"] {
        let request = client.request(Method::POST, &format!("{}/set", lab.url(0)));
        let request = request.header("content-type", content_type).body(r#"{"key":"typed","value":1}"#);
        let answer = client.send(request).await?;
        check!(answer.status == StatusCode::OK, "{content_type}: {}", answer.text);
    }
    Ok(())
}

async fn get_all_holds_every_key(lab: &Lab) -> Result<(), Failed> {
    let mut version = 0;
    for number in 0..20 {
        version = written(lab, &format!(r#"{{"key":"all-{number}","value":{number}}}"#)).await?;
    }
    for node in lab.indices() {
        let answer = client()?.get_path(&lab.url(node), &format!("/get_all?minVersion={version}")).await?;
        check!(answer.status == StatusCode::OK, "{}", answer.text);
        check!(answer.body["version"].as_u64() >= Some(version), "version {}", answer.body["version"]);
        for number in 0..20 {
            let value = &answer.body["data"][format!("all-{number}")];
            check!(*value == number, "node {node}: all-{number} is {value}");
        }
    }
    Ok(())
}

async fn a_read_says_how_consistent_it_wants_to_be(lab: &Lab) -> Result<(), Failed> {
    let version = written(lab, r#"{"key":"consistent","value":1}"#).await?;
    get(lab, 1, &format!("consistent?minVersion={version}")).await?;
    for (node, consistency) in [(0, "linearizable"), (0, "stale"), (1, "stale")] {
        let answer = get(lab, node, &format!("consistent?consistency={consistency}")).await?;
        check!(answer.body["value"] == 1, "node {node}, {consistency}: {} {}", answer.status, answer.text);
    }
    Ok(())
}

async fn a_read_waits_for_a_version(lab: &Lab) -> Result<(), Failed> {
    let wanted = lab.status(0).await?.last_seq.0 + 3;
    let (client, follower, path) = (client()?, lab.url(1), format!("/get_all?minVersion={wanted}"));
    let writing = async {
        for number in 0..3 {
            written(lab, &format!(r#"{{"key":"waited-for","value":{number}}}"#)).await?;
        }
        Ok::<_, Failed>(())
    };
    let (answer, writes) = tokio::join!(client.get_path(&follower, &path), writing);
    writes?;
    let answer = answer?;
    check!(answer.body["version"].as_u64() >= Some(wanted), "{} {}", answer.status, answer.text);
    Ok(())
}

async fn the_leader_tells_its_status(lab: &Lab) -> Result<(), Failed> {
    written(lab, r#"{"key":"status","value":1}"#).await?;
    let answer = client()?.get_path(&lab.url(0), "/status").await?;
    let status = &answer.body;
    let expected = [
        ("role", json!("leader")),
        ("leader", json!(lab.url(0))),
        ("ready", json!(true)),
        ("writeQuorum", json!(2)),
        ("delay", json!({"min": "0s", "max": "0s"})),
        ("writeTimeout", json!("5s")),
    ];
    for (field, value) in expected {
        check!(status[field] == value, "{field} is {}, expected {value}", status[field]);
    }
    check!(status["epoch"].as_u64() >= Some(1), "epoch {}", status["epoch"]);
    check!(status["keys"].as_u64() >= Some(1), "keys {}", status["keys"]);
    check!(status["lastSeq"].as_u64() >= status["commitSeq"].as_u64(), "{}", answer.text);
    for field in ["count", "mean", "median", "p95", "p99"] {
        check!(status["replicationLatency"][field].as_f64() > Some(0.0), "replicationLatency.{field}: {}", answer.text);
    }
    let followers = status["followers"].as_array().ok_or("no followers")?;
    let urls: Vec<Value> = followers.iter().map(|follower| follower["url"].clone()).collect();
    check!(urls == [json!(lab.url(1)), json!(lab.url(2))], "{urls:?}");
    for follower in followers {
        check!(follower["connected"] == true, "{follower}");
        check!(follower["matchSeq"].as_u64() >= Some(1) && follower["lag"].is_u64(), "{follower}");
    }
    Ok(())
}

async fn a_follower_tells_its_status(lab: &Lab) -> Result<(), Failed> {
    let status = lab.status(1).await?;
    let leader = lab.status(0).await?;
    check!(status.role == quorumkv_api::lab::Role::Follower && status.ready, "{status:?}");
    check!(status.leader == Some(lab.url(0)) && status.epoch == leader.epoch, "{status:?}");
    check!(status.write_quorum.0 == 2 && status.followers.is_empty(), "{status:?}");
    Ok(())
}

async fn health_and_readiness_are_answered_by_all(lab: &Lab) -> Result<(), Failed> {
    for node in lab.indices() {
        for path in ["/health", "/readyz"] {
            let answer = client()?.get_path(&lab.url(node), path).await?;
            check!(answer.status == StatusCode::OK && answer.body.is_object(), "node {node} {path}: {}", answer.text);
        }
    }
    Ok(())
}

async fn metrics_are_served_on_their_own_port(lab: &Lab) -> Result<(), Failed> {
    for node in lab.indices() {
        let metrics = client()?.get_path(&lab.metrics_url(node), "").await?;
        check!(metrics.status == StatusCode::OK, "{}", metrics.text);
        check!(metrics.text.contains("quorumkv_node_"), "{}", metrics.text);
        check!(metrics.text.lines().any(|line| line.starts_with("# TYPE quorumkv_node_")), "{}", metrics.text);
    }
    Ok(())
}

async fn the_health_check_of_the_program_says_what_the_node_says(lab: &Lab) -> Result<(), Failed> {
    let program = quorumkv_tests::processes::programs::node()?;
    let ask = |url: String| std::process::Command::new(&program).args(["healthcheck", "--url", &url]).output();
    let ready = ask(format!("{}/readyz", lab.url(0)))?;
    check!(ready.status.success(), "{ready:?}");
    let absent = ask(format!("{}/nothing", lab.url(0)))?;
    check!(absent.status.code() == Some(1), "{absent:?}");
    let nobody = ask("http://127.0.0.1:1/health".to_owned())?;
    check!(nobody.status.code() == Some(1) && !nobody.stderr.is_empty(), "{nobody:?}");
    Ok(())
}

async fn a_manager_sees_the_state_of_a_node(lab: &Lab) -> Result<(), Failed> {
    let leader = lab.peer().state(&lab.peer_url(0)).await?;
    let follower = lab.peer().state(&lab.peer_url(1)).await?;
    check!(leader.followers.iter().all(|follower| follower.counted && follower.caught_up), "{leader:?}");
    check!(follower.leader == Some(leader.node.clone()) && follower.promised == leader.epoch, "{follower:?}");
    Ok(())
}
