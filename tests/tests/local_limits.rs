//! What a node does with clients that mean harm or are too many, and with those that have no token. Real processes.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use futures::future::join_all;
use quorumkv_api::Delay;
use quorumkv_tests::{
    client::LabClient,
    processes::{Lab, LabOptions},
    wait,
};
use reqwest::{Method, StatusCode, header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

const SOON: Duration = Duration::from_secs(20);

fn options(variables: &[(&'static str, &str)]) -> LabOptions {
    let variables = variables.iter().map(|(name, value)| (0, *name, (*value).to_owned()));
    LabOptions { followers: 2, write_quorum: 2, variables: variables.collect(), ..LabOptions::default() }
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    url.trim_start_matches("http://").parse().context("an address")
}

/// Sends bytes, and gives what comes until the node closes the connection.
async fn exchange(url: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let mut tcp = TcpStream::connect(address(url)?).await?;
    // A node that has read enough may close the connection before all is sent.
    tcp.write_all(bytes).await.ok();
    let mut read = Vec::new();
    timeout(SOON, tcp.read_to_end(&mut read)).await.context("it stays open")?.ok();
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// Whether the node does all that it is there for.
async fn is_well(lab: &Lab) -> anyhow::Result<()> {
    wait::until("the node is well again", SOON, || async {
        for path in ["/health", "/readyz"] {
            let answer = lab.client().get_path(&lab.url(0), path).await?;
            ensure!(answer.status == StatusCode::OK, "{path}: {} {}", answer.status, answer.text);
        }
        let written = lab.client().set(&lab.url(0), "well", "yes").await?;
        ensure!(written.status == StatusCode::OK, "{} {}", written.status, written.text);
        let read = lab.client().get(&lab.url(0), "well", "").await?;
        ensure!(read.body["value"] == "yes", "{}", read.text);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_never_finish_a_request_do_not_keep_others_out() -> anyhow::Result<()> {
    let limits = [("MAX_CONNECTIONS", "50"), ("HEAD_TIMEOUT", "2s"), ("BODY_TIMEOUT", "2s"), ("IDLE_TIMEOUT", "3s")];
    let lab = Lab::start(options(&limits)).await?;
    let to = address(&lab.url(0))?;
    let beginnings =
        ["", "GET /get/a HT", "POST /set HTTP/1.1\r\nContent-Length: 900\r\n\r\n{", "GET /status HTTP/1.1\r\nA: "];
    let begun = Instant::now();
    let attack = (0..400).map(|number| async move {
        // Those that are not let in are not the test's business.
        let Ok(mut tcp) = TcpStream::connect(to).await else { return };
        tcp.write_all(beginnings[number % beginnings.len()].as_bytes()).await.ok();
        while tcp.write_all(b"a").await.is_ok() && begun.elapsed() < SOON {
            sleep(Duration::from_millis(200)).await;
        }
    });
    let attack = tokio::spawn(join_all(attack));
    sleep(Duration::from_millis(300)).await;
    // Whoever watches over the node finds it alive while the attack lasts.
    let client = LabClient::new(Duration::from_secs(5))?;
    wait::until("health checks are answered", Duration::from_secs(5), || async {
        let answer = client.get_path(&lab.url(0), "/health").await?;
        ensure!(answer.status == StatusCode::OK, "{} {}", answer.status, answer.text);
        Ok(())
    })
    .await?;
    timeout(SOON, attack).await.context("the attackers are all sent away")??;
    ensure!(begun.elapsed() < Duration::from_secs(15), "only after {:?}", begun.elapsed());
    is_well(&lab).await?;
    let limited = |limit: &'static str| lab.counter(0, "quorumkv_node_limited_connections_total", limit);
    ensure!(limited("limit=\"full\"").await? > 0.0, "nobody was refused");
    ensure!(limited("limit=\"head\"").await? > 0.0, "nobody was sent away for a head");
    ensure!(limited("limit=\"body\"").await? > 0.0, "nobody was sent away for a body");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_on_the_peer_port_keep_no_connection() -> anyhow::Result<()> {
    let limits = [("MAX_PEER_CONNECTIONS", "16"), ("HEAD_TIMEOUT", "2s")];
    let lab = Lab::start(LabOptions { peer_token: Some("secret".to_owned()), ..options(&limits) }).await?;
    let url = lab.peer_url(0);
    let refused = exchange(&url, b"GET /state HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    ensure!(refused.starts_with("HTTP/1.1 401") && refused.contains("connection: close"), "{refused}");
    // More than there may be, and within the reserve for those who have the token.
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(address(&url)?).await?);
    }
    let state = lab.peer().state(&url).await.context("whoever has the token is answered")?;
    ensure!(state.ready, "{state:?}");
    let closed =
        idle.iter_mut().map(|tcp| async { timeout(SOON, tcp.read_u8()).await.is_ok_and(|read| read.is_err()) });
    ensure!(join_all(closed).await.iter().all(|closed| *closed), "some stay open");
    is_well(&lab).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_on_every_way() -> anyhow::Result<()> {
    let lab = Lab::start(options(&[("MAX_WAITING_BYTES", "4194304")])).await?;
    let url = lab.url(0);
    let long = "x".repeat(200_000);
    let head = exchange(&url, format!("GET /get/a HTTP/1.1\r\nHost: a\r\nA: {long}\r\n\r\n").as_bytes()).await?;
    ensure!(head.starts_with("HTTP/1.1 431"), "a large head: {head:.300}");
    let path = exchange(&url, format!("GET /get/{long} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await?;
    ensure!(path.starts_with("HTTP/1.1 4"), "a long path: {path:.300}");
    let many = "A: b\r\n".repeat(500);
    let many = exchange(&url, format!("POST /set HTTP/1.1\r\nHost: a\r\n{many}\r\n").as_bytes()).await?;
    ensure!(many.starts_with("HTTP/1.1 431"), "many headers: {many:.300}");
    for peer in [false, true] {
        let (url, path) = if peer { (lab.peer_url(0), "/fence") } else { (url.clone(), "/set") };
        let announced = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3000000\r\n\r\n{}",
            "1".repeat(3_000_000)
        );
        let body = exchange(&url, announced.as_bytes()).await?;
        ensure!(body.starts_with("HTTP/1.1 413") || body.is_empty(), "a large body on {url}: {body:.300}");
        let chunk = format!("10000\r\n{}\r\n", "1".repeat(0x10000));
        let endless =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}", chunk.repeat(40));
        let body = exchange(&url, endless.as_bytes()).await?;
        ensure!(body.starts_with("HTTP/1.1 413") || body.is_empty(), "a body without end on {url}: {body:.300}");
    }
    let client = lab.client();
    let key = client.set(&url, &"k".repeat(1025), "v").await?;
    ensure!(key.status == StatusCode::BAD_REQUEST && key.text.contains("1..1024 bytes"), "{}", key.text);

    // Bodies share what memory there is: of these some find none left, and are told to come again.
    let large = "x".repeat(900_000);
    let writes = join_all((0..30).map(|number| {
        let request = client.request(Method::PUT, &format!("{url}/kv/large-{number}")).body(large.clone());
        async { request.send().await.map(|answer| (answer.status(), answer.headers().clone())) }
    }));
    let mut taken = 0;
    for answer in writes.await {
        // A connection may be closed before all of a body is sent that is not read.
        let Ok((status, headers)) = answer else { continue };
        match status {
            StatusCode::OK => taken += 1,
            StatusCode::SERVICE_UNAVAILABLE => ensure!(headers[header::RETRY_AFTER] == "1", "{headers:?}"),
            other => anyhow::bail!("{other}"),
        }
    }
    ensure!(taken > 0, "none was taken");
    is_well(&lab).await
}

/// Statuses, and how long those that succeeded took, of writers that all write at once, several times each.
async fn write_at_once(
    lab: &Lab,
    writers: usize,
    rounds: usize,
    native: bool,
) -> anyhow::Result<(Vec<Duration>, usize)> {
    let client = LabClient::new(SOON)?;
    let writer = |writer: usize| {
        let (client, url) = (client.clone(), lab.url(0));
        async move {
            let (mut took, mut refused) = (Vec::new(), 0);
            for round in 0..rounds {
                let key = format!("key-{writer}-{round}");
                let request = match native {
                    true => client.request(Method::PUT, &format!("{url}/kv/{key}")).body("1"),
                    false => client.request(Method::POST, &format!("{url}/set")).json(&json!({"key": key, "value": 1})),
                };
                let begun = Instant::now();
                let answer = request.send().await?;
                let (status, headers) = (answer.status(), answer.headers().clone());
                let text = answer.text().await?;
                match status {
                    StatusCode::OK => took.push(begun.elapsed()),
                    StatusCode::SERVICE_UNAVAILABLE => {
                        ensure!(headers[header::RETRY_AFTER] == "1" && text.contains("nothing was written"), "{text}");
                        refused += 1;
                    }
                    other => anyhow::bail!("{other} {text}"),
                }
            }
            anyhow::Ok((took, refused))
        }
    };
    let (mut took, mut refused) = (Vec::new(), 0);
    for written in join_all((0..writers).map(writer)).await {
        let (these, none) = written?;
        took.extend(these);
        refused += none;
    }
    took.sort();
    Ok((took, refused))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_overload_what_is_taken_keeps_its_latency_and_the_rest_is_told_to_come_again() -> anyhow::Result<()> {
    let delay = Duration::from_millis(300);
    let options = options(&[("MAX_WAITING_WRITES", "40")]);
    let lab = Lab::start(LabOptions { delay: Delay { min: delay, max: delay }, ..options }).await?;
    for native in [false, true] {
        let (calm, refused) = write_at_once(&lab, 10, 2, native).await?;
        ensure!(refused == 0 && calm.len() == 20, "{refused} of few were refused");
        let (busy, refused) = write_at_once(&lab, 300, 3, native).await?;
        ensure!(refused > 300, "only {refused} of 900 were refused");
        ensure!(busy.len() >= 40, "only {} were taken", busy.len());
        let middle = |took: &[Duration]| took[took.len() / 2];
        let (calm, busy) = (middle(&calm), middle(&busy));
        println!("median of writes that are taken: {calm:?} alone, {busy:?} under overload; {refused} refused");
        // Were all of them let in to wait, nothing would bound it. A machine with little to spare may double it.
        ensure!(busy < calm * 3, "{busy:?} instead of {calm:?}");
    }
    ensure!(lab.counter(0, "quorumkv_node_writes_refused_for_load_total", "").await? > 600.0, "they are counted");
    is_well(&lab).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_need_the_tokens_of_files_that_may_change() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("read"), "reader\n")?;
    fs::write(path("write"), "writer\n")?;
    let files = [(0, "READ_TOKEN_FILE", path("read")), (0, "WRITE_TOKEN_FILE", path("write"))];
    let lab = Lab::start(LabOptions { variables: files.to_vec(), ..options(&[]) }).await?;
    let url = lab.url(0);
    let ask = async |method: Method, path: &str, token: &str| -> anyhow::Result<u16> {
        let mut request = lab.client().request(method.clone(), &format!("{url}{path}"));
        if method != Method::GET {
            request = request.body(r#"{"key":"k","value":1}"#);
        }
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        Ok(request.send().await?.status().as_u16())
    };
    for (token, read, write) in [("", 401, 401), ("guess", 401, 401), ("writer", 200, 200), ("reader", 200, 403)] {
        for path in ["/set", "/kv/k"] {
            let method = if path == "/set" { Method::POST } else { Method::PUT };
            ensure!(ask(method, path, token).await? == write, "{token:?} {path}");
        }
        // What "guess" is answered first does not depend on whether the key is there.
        for path in ["/get_all", "/status", "/kv"] {
            ensure!(ask(Method::GET, path, token).await? == read, "{token:?} {path}");
        }
    }
    ensure!(ask(Method::GET, "/get/k", "reader").await? == 200 && ask(Method::GET, "/get/k", "").await? == 401, "/get");
    for path in ["/health", "/readyz"] {
        ensure!(ask(Method::GET, path, "").await? == 200, "{path} is open");
    }
    let metrics = lab.client().get_path(&lab.metrics_url(0), "").await?;
    ensure!(metrics.status == StatusCode::OK, "metrics are open");

    // As a Secret is renewed: another file takes the place of the first.
    fs::write(path("next"), "writer\nnext\n")?;
    fs::rename(path("next"), path("write"))?;
    let becomes = async |token: &'static str, expected: u16| {
        wait::until("the tokens change", SOON, || async {
            let status = ask(Method::POST, "/set", token).await?;
            ensure!(status == expected, "{token} is answered {status}");
            Ok(())
        })
        .await
    };
    becomes("next", 200).await?;
    becomes("writer", 200).await?;
    fs::write(path("write"), "next\n")?;
    becomes("writer", 401).await?;
    becomes("next", 200).await
}
