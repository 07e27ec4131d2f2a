//! Answers: where they end, and whether they are the right ones.

use anyhow::{Context as _, bail, ensure};
use memchr::memmem::Finder;

/// Headers that an answer may have.
const MOST_HEADERS: usize = 24;

/// What a request must be answered with.
#[derive(Debug, Clone)]
pub enum Expected {
    /// HTTP/1.1 with status 200 and a body that contains this.
    Http(Box<Finder<'static>>),
    /// From Redis: `OK`, and that at least so many replicas have it.
    Replicated(u64),
    /// From Redis: a value of so many bytes.
    Value(usize),
    /// gRPC with status 0.
    Grpc,
}

/// An answer that has arrived in full.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Bytes that it takes.
    pub bytes: usize,
    /// What is wrong with it, if anything is.
    pub failure: Option<String>,
}

impl Expected {
    /// A body of HTTP that contains this text.
    #[must_use]
    pub fn http(text: &str) -> Self {
        Self::Http(Box::new(Finder::new(text.as_bytes()).into_owned()))
    }

    /// The first answer in `input`, if it is there in full.
    ///
    /// # Errors
    /// When it is none of this protocol.
    pub fn take(&self, input: &[u8]) -> anyhow::Result<Option<Answer>> {
        match self {
            Self::Http(contained) => http(input, contained),
            Self::Replicated(replicas) => replicated(input, *replicas),
            Self::Value(bytes) => value(input, *bytes),
            Self::Grpc => bail!("gRPC comes in frames, not in a stream of bytes"),
        }
    }
}

fn http(input: &[u8], contained: &Finder<'_>) -> anyhow::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(input).context("no answer of HTTP")? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.context("an answer without a status")?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer that does not say how long it is")?;
    let length: usize = std::str::from_utf8(length.value)?.trim().parse().context("the length of an answer")?;
    let Some(body) = input.get(head..head + length) else { return Ok(None) };
    let good = status == 200 && contained.find(body).is_some();
    let failure = (!good).then(|| format!("{status} {}", String::from_utf8_lossy(&body[..length.min(200)])));
    Ok(Some(Answer { bytes: head + length, failure }))
}

fn replicated(input: &[u8], replicas: u64) -> anyhow::Result<Option<Answer>> {
    let Some((set, rest)) = line(input) else { return Ok(None) };
    let Some((waited, rest)) = line(rest) else { return Ok(None) };
    let have = waited.strip_prefix(b":").and_then(|number| std::str::from_utf8(number).ok()?.parse::<u64>().ok());
    let good = set == b"+OK" && have.is_some_and(|have| have >= replicas);
    let text = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    let failure = (!good).then(|| format!("{}, {}", text(set), text(waited)));
    Ok(Some(Answer { bytes: input.len() - rest.len(), failure }))
}

fn value(input: &[u8], bytes: usize) -> anyhow::Result<Option<Answer>> {
    let Some((head, rest)) = line(input) else { return Ok(None) };
    let length = head.strip_prefix(b"$").and_then(|number| std::str::from_utf8(number).ok()?.parse::<usize>().ok());
    let Some(length) = length else {
        let failure = Some(String::from_utf8_lossy(head).into_owned());
        return Ok(Some(Answer { bytes: input.len() - rest.len(), failure }));
    };
    let end = length + 2;
    let Some(content) = rest.get(..end) else { return Ok(None) };
    ensure!(content.ends_with(b"\r\n"), "a value that does not end where it says");
    let failure = (length != bytes).then(|| format!("a value of {length} bytes"));
    Ok(Some(Answer { bytes: input.len() - rest.len() + end, failure }))
}

/// The first line and what follows it.
fn line(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memmem::find(input, b"\r\n")?;
    Some((&input[..end], &input[end + 2..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SET: &str =
        "HTTP/1.1 200 OK\r\nContent-Length: 16\r\ncontent-type: application/json\r\n\r\n{\"success\":true}";

    #[rstest]
    #[case(Expected::http("\"success\":true"), SET)]
    #[case(Expected::Replicated(3), "+OK\r\n:4\r\n")]
    #[case(Expected::Value(3), "$3\r\nabc\r\n")]
    fn an_answer_is_taken_when_all_of_it_is_there(#[case] expected: Expected, #[case] text: &str) {
        let following = format!("{text}{text}");
        for end in 0..following.len() {
            let taken = expected.take(&following.as_bytes()[..end]).expect("of this protocol");
            let whole = (end >= text.len()).then_some(Answer { bytes: text.len(), failure: None });
            assert_eq!(taken, whole, "after {end} bytes");
        }
    }

    #[rstest]
    #[case(Expected::http("\"success\":true"), "HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "500 {}")]
    #[case(Expected::http("\"success\":true"), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "200 {}")]
    #[case(Expected::Replicated(3), "+OK\r\n:2\r\n", "+OK, :2")]
    #[case(Expected::Replicated(1), "-READONLY no\r\n:2\r\n", "-READONLY no, :2")]
    #[case(Expected::Replicated(1), "+OK\r\n-ERR\r\n", "+OK, -ERR")]
    #[case(Expected::Value(3), "$-1\r\n", "$-1")]
    #[case(Expected::Value(3), "$2\r\nab\r\n", "a value of 2 bytes")]
    #[case(Expected::Value(3), "-ERR\r\n", "-ERR")]
    fn another_answer_is_a_failure(#[case] expected: Expected, #[case] text: &str, #[case] failure: &str) {
        let taken = expected.take(text.as_bytes()).expect("of this protocol").expect("all of it");
        assert_eq!(taken, Answer { bytes: text.len(), failure: Some(failure.to_owned()) });
    }

    #[rstest]
    #[case(Expected::http("a"), "SSH-2.0\r\n\r\n")]
    #[case(Expected::http("a"), "HTTP/1.1 200 OK\r\n\r\n")]
    #[case(Expected::http("a"), "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")]
    #[case(Expected::Value(1), "$1\r\nabc")]
    fn what_is_no_answer_is_an_error(#[case] expected: Expected, #[case] text: &str) {
        expected.take(text.as_bytes()).expect_err(text);
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            for expected in [Expected::http("a"), Expected::Replicated(1), Expected::Value(3)] {
                if let Ok(Some(answer)) = expected.take(&bytes) {
                    prop_assert!(answer.bytes <= bytes.len());
                }
            }
        }
    }
}
