use std::time::Duration;

use quorumkv_api::{Epoch, Position, Seq, lab::Role};
use quorumkv_protocol::{Format, Micros, Operation, View, WriteOutcome};
use rstest::rstest;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    auth::{ClientTokens, Token, TokenFiles},
    clock::Clock,
    handle::{Command, DriverHandle},
    limits::Limits,
    store::Snapshot,
};

mod fuzz;

const SOON: Duration = Duration::from_secs(5);

/// A header that changes nothing but who answers.
const COLD: &str = "Connection: keep-alive, and-nothing-else\r\n";

fn view(role: Role) -> View {
    View {
        role,
        epoch: Epoch(4),
        leader: Some("leader".into()),
        leader_url: Some("http://leader:5000".to_owned()),
        ready: true,
        lease_until: Some(Micros(u64::MAX)),
        last: Position { epoch: Epoch(4), seq: Seq(9) },
        commit: Seq(9),
        settings: None,
        pending_writes: 0,
    }
}

/// A client port on loopback, whose driver is the test.
struct Port {
    address: std::net::SocketAddr,
    commands: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
    until: CancellationToken,
    serving: JoinHandle<()>,
}

impl Port {
    async fn new(role: Role) -> Self {
        Self::asking_for(role, ClientTokens::default()).await
    }

    async fn asking_for(role: Role, tokens: ClientTokens) -> Self {
        let (sender, views) = watch::channel(view(role));
        let (driver, commands) = DriverHandle::new(views, Clock::start());
        let mut state = Snapshot::default();
        state.put(b"there", Format::Json, b"[1, 2]", Seq(3));
        state.put(b"bytes", Format::Raw, b"\0\xff", Seq(4));
        driver.store.install(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let until = CancellationToken::new();
        let port = ClientPort::new(driver, Token::new(None), until.clone()).guarded(tokens, &Limits::default());
        let door = Door::new(crate::metrics::requests::Port::Client, &Limits::default(), &port.driver.metrics);
        let serving = tokio::spawn(serve(listener, port, door, until.clone()));
        Self { address, commands, view: sender, until, serving }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    /// The next write that reaches the driver: its key, and where its answer goes.
    async fn write(&mut self) -> (String, tokio::sync::oneshot::Sender<crate::handle::WriteAnswer>) {
        let Some(Command::Write { operation: Operation::Put { key, .. }, answer }) = self.commands.recv().await else {
            panic!("a write")
        };
        (String::from_utf8(key.to_vec()).expect("text"), answer)
    }
}

fn committed(version: u64) -> crate::handle::WriteAnswer {
    Ok(WriteOutcome::Committed { version: Seq(version), replicas: 3, appended: Micros(0) }.into())
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /set HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn get(headers: &str, key: &str) -> String {
    format!("GET /get/{key} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")
}

/// One answer without its date, its headers in the order of their names.
async fn answer(tcp: &mut TcpStream) -> (String, Vec<String>, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(SOON, tcp.read_u8()).await.expect("an answer").expect("a head"));
    }
    let head = String::from_utf8(head).expect("text");
    let mut lines = head.trim_end().split("\r\n").map(str::to_owned);
    let status = lines.next().expect("a status");
    let mut headers: Vec<String> = lines.collect();
    headers.sort();
    let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    let mut body = vec![0; length.parse().expect("a number")];
    timeout(SOON, tcp.read_exact(&mut body)).await.expect("an answer").expect("a body");
    let before = headers.len();
    headers.retain(|line| !line.starts_with("date: "));
    assert_eq!(headers.len() + 1, before, "one date");
    (status, headers, String::from_utf8(body).expect("text"))
}

async fn closed(tcp: &mut TcpStream) -> bool {
    matches!(timeout(SOON, tcp.read(&mut [0])).await, Ok(Ok(0) | Err(_)))
}

#[rstest]
#[case::a_write(
    Role::Leader,
    post("", r#"{"key":"k","value":[1, "x"]}"#),
    post(COLD, r#"{"key":"k","value":[1, "x"]}"#)
)]
#[case::no_body(Role::Leader, post("", ""), post(COLD, ""))]
#[case::no_json(Role::Leader, post("", "{"), post(COLD, "{"))]
#[case::no_key(Role::Leader, post("", r#"{"value":1}"#), post(COLD, r#"{"value":1}"#))]
#[case::an_empty_key(Role::Leader, post("", r#"{"key":"","value":1}"#), post(COLD, r#"{"key":"","value":1}"#))]
#[case::a_key_of_another_type(Role::Leader, post("", r#"{"key":1,"value":1}"#), post(COLD, r#"{"key":1,"value":1}"#))]
#[case::a_value(Role::Leader, get("", "there"), get(COLD, "there"))]
#[case::a_value_of_bytes(Role::Leader, get("", "bytes"), get(COLD, "bytes"))]
#[case::no_value(Role::Leader, get("", "absent"), get(COLD, "absent"))]
#[case::a_value_on_a_follower(Role::Follower, get("", "there"), get(COLD, "there"))]
#[tokio::test]
async fn a_hot_answer_is_the_routers(#[case] role: Role, #[case] hot: String, #[case] cold: String) {
    let mut port = Port::new(role).await;
    let (mut one, mut other) = (port.connect().await, port.connect().await);
    one.write_all(hot.as_bytes()).await.expect("sent");
    other.write_all(cold.as_bytes()).await.expect("sent");
    let answers = async { (answer(&mut one).await, answer(&mut other).await) };
    let driver = async {
        loop {
            let (_, answer) = port.write().await;
            answer.send(committed(7)).expect("somebody waits");
        }
    };
    let (hot, cold) = tokio::select! {
        answers = answers => answers,
        () = driver => unreachable!("the driver never ends"),
    };
    assert_eq!(hot, cold);
}

#[rstest]
#[case::nobody("", 401, 401)]
#[case::a_stranger("Authorization: Bearer guess\r\n", 401, 401)]
#[case::a_reader("Authorization: Bearer reader\r\n", 200, 403)]
#[case::a_writer("authorization: bearer writer\r\n", 200, 200)]
#[case::two_at_once("Authorization: Bearer writer\r\nAuthorization: Bearer writer\r\n", 401, 401)]
#[tokio::test]
async fn tokens_hold_for_hot_requests_as_for_others(#[case] header: &str, #[case] read: u16, #[case] write: u16) {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, token) in [("read", "reader"), ("write", "writer")] {
        std::fs::write(folder.path().join(name), token).expect("written");
    }
    let files = TokenFiles { read: Some(folder.path().join("read")), write: folder.path().join("write") };
    let tokens = ClientTokens::open(files).expect("tokens");
    let mut port = Port::asking_for(Role::Leader, tokens).await;
    let address = port.address;
    let answers = async {
        for more in ["", COLD] {
            let headers = format!("{header}{more}");
            for (request, expected) in
                [(get(&headers, "there"), read), (post(&headers, r#"{"key":"k","value":1}"#), write)]
            {
                let mut tcp = TcpStream::connect(address).await.expect("it listens");
                tcp.write_all(request.as_bytes()).await.expect("sent");
                let (status, ..) = answer(&mut tcp).await;
                assert!(status.starts_with(&format!("HTTP/1.1 {expected} ")), "{request}: {status}");
                assert!(expected != 401 || closed(&mut tcp).await, "strangers keep no connection");
            }
        }
    };
    let driver = async {
        loop {
            let (_, answer) = port.write().await;
            assert_eq!(write, 200, "only a writer's write gets there");
            answer.send(committed(7)).expect("somebody waits");
        }
    };
    tokio::select! {
        () = answers => {}
        () = driver => unreachable!("the driver never ends"),
    }
}

#[rstest]
#[case::no_leader(WriteOutcome::NotLeader)]
#[case::no_quorum(WriteOutcome::QuorumNotReached { replicas: 1 })]
#[case::not_active(WriteOutcome::NotActive)]
#[tokio::test]
async fn a_failed_write_is_answered_as_by_the_router(#[case] outcome: WriteOutcome) {
    let mut port = Port::new(Role::Leader).await;
    let mut answers = Vec::new();
    for headers in ["", COLD] {
        let mut tcp = port.connect().await;
        tcp.write_all(post(headers, r#"{"key":"k","value":1}"#).as_bytes()).await.expect("sent");
        port.write().await.1.send(Ok(outcome.clone().into())).expect("somebody waits");
        answers.push(answer(&mut tcp).await);
        if outcome == WriteOutcome::NotLeader {
            assert!(closed(&mut tcp).await, "it sends the client elsewhere");
        }
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn pipelined_writes_are_begun_together_and_answered_in_order() {
    let mut port = Port::new(Role::Leader).await;
    let mut tcp = port.connect().await;
    let bodies = ["a", "b", "c"].map(|key| post("", &format!(r#"{{"key":"{key}","value":1}}"#)));
    let all = [&bodies[..], &[post("", "no object"), get("", "there")]].concat().concat();
    tcp.write_all(all.as_bytes()).await.expect("sent");
    let mut waiting = Vec::new();
    for expected in ["a", "b", "c"] {
        let (key, answer) = port.write().await;
        assert_eq!(key, expected, "in the order in which they were sent, and none waits for the one before");
        waiting.push(answer);
    }
    let numbered: Vec<_> = (1..).zip(waiting).collect();
    for (version, waiting) in numbered.into_iter().rev() {
        waiting.send(committed(version)).expect("somebody waits");
    }
    for version in 1..=3 {
        let (status, _, body) = answer(&mut tcp).await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert_eq!(body, format!(r#"{{"success":true,"replicas":3,"version":{version}}}"#));
    }
    assert_eq!(answer(&mut tcp).await.0, "HTTP/1.1 400 Bad Request");
    assert_eq!(answer(&mut tcp).await.2, r#"{"key":"there","value":[1, 2],"version":3}"#);
}

#[tokio::test]
async fn a_read_sees_the_writes_that_were_pipelined_before_it() {
    let mut port = Port::new(Role::Leader).await;
    let mut tcp = port.connect().await;
    let both = [post("", r#"{"key":"k","value":1}"#), get("", "there")].concat();
    tcp.write_all(both.as_bytes()).await.expect("sent");
    let (_, waiting) = port.write().await;
    assert!(timeout(Duration::from_millis(50), tcp.read_u8()).await.is_err(), "nothing is answered yet");
    waiting.send(committed(1)).expect("somebody waits");
    answer(&mut tcp).await;
    assert_eq!(answer(&mut tcp).await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_request_may_come_in_pieces_and_the_router_takes_over_within_a_read() {
    let port = Port::new(Role::Follower).await;
    let mut tcp = port.connect().await;
    let rest = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let all = [&get("", "there"), rest, &get("", "there")].concat();
    let (first, second) = all.split_at(30);
    tcp.write_all(first.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(20)).await;
    tcp.write_all(second.as_bytes()).await.expect("sent");
    let value = answer(&mut tcp).await;
    assert_eq!(answer(&mut tcp).await.2, r#"{"role":"follower","status":"healthy"}"#);
    assert_eq!(answer(&mut tcp).await, value);
}

#[tokio::test]
async fn who_met_the_leader_on_a_connection_is_not_answered_by_a_follower_on_it() {
    let port = Port::new(Role::Leader).await;
    let mut tcp = port.connect().await;
    tcp.write_all(get("", "there").as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut tcp).await.0, "HTTP/1.1 200 OK");
    port.view.send_replace(view(Role::Follower));
    tcp.write_all(get("", "there").as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut tcp).await.0, "HTTP/1.1 403 Forbidden");
    assert!(closed(&mut tcp).await);
}

#[tokio::test]
async fn draining_ends_idle_connections_and_answers_what_is_under_way() {
    let mut port = Port::new(Role::Leader).await;
    let (mut idle, mut busy) = (port.connect().await, port.connect().await);
    busy.write_all(post("", r#"{"key":"k","value":1}"#).as_bytes()).await.expect("sent");
    let (_, waiting) = port.write().await;
    port.until.cancel();
    assert!(closed(&mut idle).await);
    assert!(!port.serving.is_finished());
    waiting.send(committed(1)).expect("somebody waits");
    let (status, headers, _) = answer(&mut busy).await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(headers.contains(&"connection: close".to_owned()), "{headers:?}");
    assert!(closed(&mut busy).await);
    timeout(SOON, port.serving).await.expect("it ends").expect("no panic");
}

#[test]
fn a_panic_is_an_answer() {
    let answer = guarded(|| -> Result<(), ApiError> { panic!("a bug") }).expect_err("no success");
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
}
