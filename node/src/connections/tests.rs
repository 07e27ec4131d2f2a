use axum::{
    body::{Body, Bytes},
    routing::{get, post},
};
use rstest::rstest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::*;

const SOON: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    let short = Duration::from_millis(500);
    Limits {
        connections: 2,
        peer_connections: 2,
        head_timeout: short,
        body_timeout: short,
        idle_timeout: short,
        answer_timeout: short,
        ..Limits::default()
    }
}

/// A port with a route that takes a body, one that takes its time, and one whose answer is large.
struct Site {
    address: std::net::SocketAddr,
    metrics: Metrics,
    until: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn new() -> Self {
        let large = || async { Body::from(vec![b'x'; 64 * 1024 * 1024]) };
        let slow = || async {
            sleep(Duration::from_millis(1500)).await;
            "done"
        };
        let router = axum::Router::new()
            .route("/body", post(|body: Bytes| async move { body.len().to_string() }))
            .route("/slow", get(slow))
            .route("/large", get(large));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (metrics, until) = (Metrics::default(), CancellationToken::new());
        let door = Door::new(Port::Peer, &limits(), &metrics);
        let serving = tokio::spawn(http::listen(listener, None, router, door, until.clone()));
        Self { address, metrics, until, serving }
    }

    async fn connect(&self, text: &str) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.expect("it listens");
        tcp.write_all(text.as_bytes()).await.expect("sent");
        tcp
    }

    /// Whether that limit ended one connection, and nothing another.
    fn ended(&self, limit: Ended) -> bool {
        let metrics = self.metrics.connections.of(Port::Peer);
        Ended::ALL.iter().all(|other| metrics.count(*other) == u64::from(*other as usize == limit as usize))
    }

    fn open(&self) -> u64 {
        self.metrics.connections.of(Port::Peer).open.get()
    }
}

/// What comes until the connection is closed.
async fn all(tcp: &mut TcpStream) -> String {
    let mut read = Vec::new();
    // A connection that is cut off ends with an error.
    timeout(SOON, tcp.read_to_end(&mut read)).await.expect("it is closed").ok();
    String::from_utf8_lossy(&read).into_owned()
}

#[rstest]
#[case::nothing("", Ended::head, "")]
#[case::half_a_head("GET /slow HTTP/1.1\r\nHost: ", Ended::head, "")]
#[case::half_a_body("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc", Ended::body, "")]
#[case::one_request("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Ended::idle, "HTTP/1.1 200 OK")]
#[case::another_half(
    "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\nHost: ",
    Ended::idle,
    "HTTP/1.1 404"
)]
#[tokio::test]
async fn who_keeps_a_node_waiting_is_sent_away(#[case] sent: &str, #[case] limit: Ended, #[case] answer: &str) {
    let site = Site::new().await;
    let mut tcp = site.connect(sent).await;
    let begun = Instant::now();
    let answered = all(&mut tcp).await;
    assert!(begun.elapsed() >= Duration::from_millis(400), "not before its time: {:?}", begun.elapsed());
    assert!(answered.starts_with(answer), "{answered}");
    assert!(site.ended(limit), "{:?}", site.metrics.connections);
    assert_eq!(site.open(), 0);
}

#[tokio::test]
async fn who_sends_byte_after_byte_gains_nothing() {
    let site = Site::new().await;
    let (mut read, mut write) = site.connect("GET /slow HTTP/1.1\r\nHost: ").await.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    let begun = Instant::now();
    let mut answered = Vec::new();
    timeout(SOON, read.read_to_end(&mut answered)).await.expect("it is closed").ok();
    assert!(begun.elapsed() < Duration::from_secs(3) && answered.is_empty(), "{:?}", begun.elapsed());
    trickle.abort();
}

#[tokio::test]
async fn who_waits_for_the_node_waits_as_long_as_it_takes() {
    let site = Site::new().await;
    let mut tcp = site.connect("GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(all(&mut tcp).await.ends_with("done"));
}

#[tokio::test]
async fn who_does_not_take_his_answer_is_sent_away() {
    let site = Site::new().await;
    let mut tcp = site.connect("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for _ in 0..400 {
        if site.ended(Ended::answer) {
            break;
        }
        sleep(Duration::from_millis(25)).await;
    }
    assert!(site.ended(Ended::answer), "{:?}", site.metrics.connections);
    assert!(all(&mut tcp).await.len() < 64 * 1024 * 1024);
}

#[tokio::test]
async fn who_takes_his_answer_slowly_gets_all_of_it() {
    let site = Site::new().await;
    let mut tcp = site.connect("GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    let (mut buffer, mut read, begun) = (vec![0; 4 * 1024 * 1024], 0, Instant::now());
    loop {
        sleep(Duration::from_millis(60)).await;
        match timeout(SOON, tcp.read(&mut buffer)).await.expect("more") {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(error) => panic!("{error} after {read} bytes and {:?}", begun.elapsed()),
        }
    }
    assert!(read > 64 * 1024 * 1024 && begun.elapsed() > Duration::from_millis(600), "{read} {:?}", begun.elapsed());
}

#[tokio::test]
async fn beyond_the_limit_there_is_one_request_each_and_then_none() {
    let site = Site::new().await;
    let request = "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut kept = vec![site.connect("GET").await, site.connect("GET").await];
    // They are accepted before what follows.
    while site.open() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    let beyond = all(&mut site.connect(request).await).await;
    assert!(beyond.starts_with("HTTP/1.1 200 OK") && beyond.contains("connection: close"), "{beyond}");
    for _ in 0..RESERVE {
        kept.push(site.connect("GET").await);
    }
    while site.open() < (2 + RESERVE) as u64 {
        sleep(Duration::from_millis(1)).await;
    }
    let refused = all(&mut site.connect("").await).await;
    let body = refused.split("\r\n\r\n").nth(1).expect("a body");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("retry-after: 1"), "{refused}");
    assert!(refused.contains(&format!("content-length: {}\r\n", body.len())), "{refused}");
    assert!(serde_json::from_str::<quorumkv_api::lab::ErrorReply>(body).is_ok(), "{body}");
    drop(kept);
    while site.open() > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    assert!(all(&mut site.connect(request).await).await.starts_with("HTTP/1.1 200 OK"), "there is room again");
}

#[tokio::test]
async fn the_end_waits_for_answers_and_for_nothing_else() {
    let site = Site::new().await;
    let mut busy = site.connect("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut idle = site.connect("").await;
    while site.open() < 2 {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(Duration::from_millis(50)).await;
    site.until.cancel();
    assert_eq!(all(&mut idle).await, "");
    assert!(all(&mut busy).await.ends_with("done"));
    timeout(SOON, site.serving).await.expect("it ends").expect("no panic");
}

#[test]
fn a_deadline_is_of_what_is_waited_for() {
    let ticks = Arc::new(AtomicU64::new(100));
    let waits = Waits::new(&limits(), TICK);
    let pulse = |phase| {
        let pulse = Pulse::new(Arc::clone(&ticks), false);
        pulse.set(phase);
        pulse
    };
    for (phase, why) in [(Phase::Idle, Ended::idle), (Phase::Head, Ended::head), (Phase::Body, Ended::body)] {
        assert_eq!(pulse(phase).overdue(102, &waits), None, "{phase:?}");
        assert_eq!(pulse(phase).overdue(103, &waits), Some(why), "{phase:?}");
    }
    for phase in [Phase::Working, Phase::Free] {
        assert_eq!(pulse(phase).overdue(1_000_000, &waits), None, "{phase:?}");
    }
    let slow = pulse(Phase::Body);
    let then = slow.now();
    ticks.store(102, Ordering::Relaxed);
    slow.still(then, Phase::Body);
    assert_eq!(slow.overdue(103, &waits), Some(Ended::body), "more of the same body is no new one");
    slow.still(then, Phase::Head);
    assert_eq!(slow.overdue(103, &waits), None);
}
