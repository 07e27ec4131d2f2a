//! Which requests are hot, told from the bytes that were read.
//!
//! Whatever is not plainly one of the two is for the router: another route, method or version of HTTP, a key
//! with anything in it that could be encoded, a body whose length is not simply said, a header that changes
//! what the request means. So nothing is decided here but which requests need no decision.

use httparse::{EMPTY_HEADER, Header, Status};
use quorumkv_api::MAX_KEY_BYTES;

/// More headers than this are not expected of a client that is in a hurry.
const MOST_HEADERS: usize = 24;

/// A head that is longer, or not complete by then, is for the router.
const MOST_HEAD_BYTES: usize = 4 * 1024;

/// A body that is longer is for the router.
const MOST_BODY_BYTES: usize = 64 * 1024;

const SET: &[u8] = b"POST /set HTTP/1.1\r\n";
const GET: &[u8] = b"GET /get/";

/// Headers that change how a request is read, or what it does.
const WITH_A_MEANING: [&str; 4] = ["transfer-encoding", "expect", "upgrade", "idempotency-key"];

/// A request that is answered without the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hot<'a> {
    pub(super) asked: Wanted<'a>,
    /// The header `Authorization`.
    pub(super) authorization: Option<&'a [u8]>,
}

/// What it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    /// `POST /set` with this body.
    Set(&'a [u8]),
    /// `GET /get/<key>`.
    Get(&'a str),
}

/// What the bytes at the beginning of a buffer are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// Too few to tell.
    Part,
    /// A request of so many bytes.
    Hot(Hot<'a>, usize),
    /// Something for the router.
    Cold,
}

/// Looks at what a buffer begins with.
pub(super) fn look_at(bytes: &[u8]) -> Seen<'_> {
    if !may_begin(bytes, SET) && !may_begin(bytes, GET) {
        return Seen::Cold;
    }
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) if head <= MOST_HEAD_BYTES => head,
        Ok(Status::Partial) if bytes.len() < MOST_HEAD_BYTES => return Seen::Part,
        Ok(_) | Err(_) => return Seen::Cold,
    };
    let (Some(path), Some(1), Some(said)) = (request.path, request.version, said(request.headers)) else {
        return Seen::Cold;
    };
    let Said { length, authorization } = said;
    let end = head + length;
    let hot = |asked| Seen::Hot(Hot { asked, authorization }, end);
    match (bytes.starts_with(SET), path.strip_prefix("/get/")) {
        (true, _) => bytes.get(head..end).map_or(Seen::Part, |body| hot(Wanted::Set(body))),
        (false, Some(key)) if length == 0 && is_plain(key) => hot(Wanted::Get(key)),
        (false, _) => Seen::Cold,
    }
}

/// Whether the part of a request that a buffer begins with is its whole head, and only its body is missing.
pub(super) fn has_head(bytes: &[u8]) -> bool {
    bytes[..bytes.len().min(MOST_HEAD_BYTES)].windows(4).any(|window| window == b"\r\n\r\n")
}

/// Whether `bytes` begin with `start`, as far as they go.
fn may_begin(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(byte, expected)| byte == expected)
}

/// What the headers say that matters.
struct Said<'a> {
    /// Of the body.
    length: usize,
    authorization: Option<&'a [u8]>,
}

/// None if it takes more to tell the body's length, or if a header says something else that matters.
fn said<'a>(headers: &[Header<'a>]) -> Option<Said<'a>> {
    let (mut length, mut authorization) = (None, None);
    for Header { name, value } in headers {
        if name.eq_ignore_ascii_case("content-length") {
            if length.is_some() || value.is_empty() || value.len() > 6 || !value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            let digits = value.iter().map(|digit| usize::from(digit - b'0'));
            length = Some(digits.fold(0, |number, digit| number * 10 + digit)).filter(|it| *it <= MOST_BODY_BYTES);
            length?;
        } else if name.eq_ignore_ascii_case("authorization") {
            if authorization.is_some() {
                return None;
            }
            authorization = Some(*value);
        } else if name.eq_ignore_ascii_case("connection") {
            if !value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if WITH_A_MEANING.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            return None;
        }
    }
    Some(Said { length: length.unwrap_or(0), authorization })
}

/// Whether a key is the same in a path as in the store, whoever reads the path.
fn is_plain(key: &str) -> bool {
    let plain = |byte| matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':');
    (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const WRITE: &[u8] = b"POST /set HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc";
    const READ: &[u8] =
        b"GET /get/a-b_c.d:1 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer t\r\nConnection: Keep-Alive\r\n\r\n";

    #[test]
    fn the_two_hot_requests_are_recognized_and_end_where_they_end() {
        let two = [WRITE, READ].concat();
        let hot = |asked, authorization, bytes| Seen::Hot(Hot { asked, authorization }, bytes);
        assert_eq!(look_at(&two), hot(Wanted::Set(b"abc"), None, WRITE.len()));
        assert_eq!(look_at(&two[WRITE.len()..]), hot(Wanted::Get("a-b_c.d:1"), Some(b"Bearer t"), READ.len()));
        for whole in [WRITE, READ] {
            for length in 0..whole.len() {
                assert_eq!(look_at(&whole[..length]), Seen::Part, "{length} bytes");
            }
        }
    }

    #[rstest]
    #[case::another_route("POST /batch HTTP/1.1\r\n\r\n")]
    #[case::another_method("PUT /set HTTP/1.1\r\n\r\n")]
    #[case::an_older_version("POST /set HTTP/1.0\r\nContent-Length: 0\r\n\r\n")]
    #[case::an_older_version_of_a_read("GET /get/a HTTP/1.0\r\n\r\n")]
    #[case::a_query("GET /get/a?minVersion=2 HTTP/1.1\r\n\r\n")]
    #[case::an_encoded_key("GET /get/a%20b HTTP/1.1\r\n\r\n")]
    #[case::a_key_with_a_slash("GET /get/a/b HTTP/1.1\r\n\r\n")]
    #[case::no_key("GET /get/ HTTP/1.1\r\n\r\n")]
    #[case::a_read_with_a_body("GET /get/a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx")]
    #[case::a_body_in_chunks("POST /set HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")]
    #[case::two_lengths("POST /set HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na")]
    #[case::a_length_that_is_none("POST /set HTTP/1.1\r\nContent-Length: +1\r\n\r\na")]
    #[case::an_empty_length("POST /set HTTP/1.1\r\nContent-Length:\r\n\r\na")]
    #[case::a_long_body("POST /set HTTP/1.1\r\nContent-Length: 65537\r\n\r\na")]
    #[case::a_length_that_overflows("POST /set HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\na")]
    #[case::one_that_expects_an_answer("POST /set HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n")]
    #[case::a_request_id("POST /set HTTP/1.1\r\nIdempotency-Key: a\r\nContent-Length: 1\r\n\r\na")]
    #[case::the_last_of_its_connection("GET /get/a HTTP/1.1\r\nConnection: close\r\n\r\n")]
    #[case::two_tokens("GET /get/a HTTP/1.1\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n")]
    #[case::no_http("GET /get/a\r\n\r\n")]
    #[case::a_header_that_is_none("GET /get/a HTTP/1.1\r\na b: c\r\n\r\n")]
    fn anything_else_is_for_the_router(#[case] text: &str) {
        assert_eq!(look_at(text.as_bytes()), Seen::Cold);
    }

    #[test]
    fn a_head_that_does_not_end_is_for_the_router() {
        let endless = format!("POST /set HTTP/1.1\r\nA: {}", "a".repeat(MOST_HEAD_BYTES));
        assert_eq!(look_at(endless.as_bytes()), Seen::Cold);
        let key = format!("GET /get/{} HTTP/1.1\r\n\r\n", "k".repeat(MAX_KEY_BYTES + 1));
        assert_eq!(look_at(key.as_bytes()), Seen::Cold);
    }

    #[test]
    fn a_head_is_told_from_a_body_that_is_missing() {
        let head = WRITE.len() - 3;
        assert!(!has_head(&WRITE[..head - 1]));
        assert!(has_head(&WRITE[..head]) && has_head(&WRITE[..head + 1]));
    }

    proptest! {
        /// Whatever is read, a hot request is within the bytes, and the same whatever follows.
        #[test]
        fn bytes_that_follow_change_nothing(
            start in prop::sample::select(vec![WRITE.to_vec(), READ.to_vec(), SET.to_vec(), GET.to_vec()]),
            change in any::<(prop::sample::Index, u8)>(),
            rest in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut bytes = start;
            let position = change.0.index(bytes.len());
            bytes[position] = change.1;
            let alone = look_at(&bytes);
            let followed = [&bytes[..], &rest].concat();
            match alone {
                Seen::Hot(_, length) => {
                    prop_assert!(length <= bytes.len());
                    prop_assert_eq!(look_at(&followed), alone);
                }
                Seen::Cold => prop_assert_eq!(look_at(&followed), Seen::Cold),
                Seen::Part => {}
            }
        }
    }
}
