//! Bytes that are almost requests, on connections: each is answered or closed, and the port goes on.

use super::*;
use crate::fuzz::{HTTP_WORDS, cases, one, spoil};

const REQUESTS: [&str; 9] = [
    "POST /set HTTP/1.1\r\nHost: a\r\nContent-Length: 21\r\n\r\n{\"key\":\"k\",\"value\":1}",
    "GET /get/there HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /get/a%20b?consistency=stale HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT /kv/k HTTP/1.1\r\nHost: a\r\nIf-Match: \"7\"\r\nContent-Length: 3\r\n\r\nabc",
    "POST /set HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n{\"key\":\"k\",\"value\":1}\r\n0\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
    "DELETE /kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /replicate HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// What is wrong with answers, if anything is.
fn wrong(mut answers: &[u8]) -> Option<String> {
    while !answers.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut answer = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(head)) = answer.parse(answers) else {
            return Some("no head of an answer".to_owned());
        };
        let status = answer.code.unwrap_or_default();
        if status == 100 {
            answers = &answers[head..];
            continue;
        }
        if !(200..500).contains(&status) && status != 503 {
            return Some(format!("status {status}"));
        }
        let header = |name: &str| {
            let found = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        let length: usize = header("content-length")?.parse().ok()?;
        let body = answers.get(head..head + length)?;
        if length > 0 && header("content-type").as_deref() == Some("application/json") {
            let parsed: Result<serde_json::Value, _> = serde_json::from_slice(body);
            if let Err(error) = parsed {
                return Some(format!("status {status}: {error}"));
            }
        } else if length > 0 && status >= 400 {
            return Some(format!("status {status} is not JSON"));
        }
        answers = &answers[head + length..];
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_almost_requests_are_answered_or_refused() {
    let mut port = Port::new(Role::Leader).await;
    let address = port.address;
    let driver = async {
        loop {
            match port.commands.recv().await {
                Some(Command::Write { answer, .. }) => drop(answer.send(committed(7))),
                // Whatever else it is asked goes unanswered, as by a driver that stops.
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    let clients = async {
        for mut case in cases(1500) {
            let mut sent = Vec::new();
            for _ in 0..2 {
                let mut request = one(&mut case.dice, &REQUESTS).as_bytes().to_vec();
                spoil(&mut case.dice, &mut request, &HTTP_WORDS);
                sent.extend(request);
            }
            let (mut read, mut write) = TcpStream::connect(address).await.expect("it listens").into_split();
            // It may be closed before all is sent.
            write.write_all(&sent).await.ok();
            write.shutdown().await.ok();
            let mut answers = Vec::new();
            let closed = timeout(SOON, read.read_to_end(&mut answers)).await;
            let shown = || String::from_utf8_lossy(&sent).into_owned();
            assert!(closed.is_ok(), "not answered, and not closed: {:?}", shown());
            if let Some(wrong) = wrong(&answers) {
                panic!("{wrong}: {:?} is answered {:?}", shown(), String::from_utf8_lossy(&answers));
            }
        }
        let mut tcp = TcpStream::connect(address).await.expect("it listens");
        tcp.write_all(get("", "there").as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut tcp).await.0, "HTTP/1.1 200 OK", "the port goes on");
    };
    tokio::select! {
        () = clients => {}
        () = driver => unreachable!("the driver never ends"),
    }
}

#[test]
fn no_bytes_make_the_reader_of_requests_see_what_is_not_there() {
    for mut case in cases(20_000) {
        let mut bytes = [one(&mut case.dice, &REQUESTS), one(&mut case.dice, &REQUESTS)].concat().into_bytes();
        spoil(&mut case.dice, &mut bytes, &HTTP_WORDS);
        let mut rest = &bytes[..];
        while let Seen::Hot(hot, length) = look_at(rest) {
            assert!((1..=rest.len()).contains(&length), "{length} of {} bytes", rest.len());
            if let Wanted::Set(body) = hot.asked {
                assert!(body.len() < length);
            }
            rest = &rest[length..];
        }
    }
}
