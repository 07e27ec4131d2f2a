//! Input that is almost right, for tests of whatever reads input: valid examples, changed at random.
//!
//! `cargo test` tries the same seeds every time. `QUORUMKV_FUZZ_SECONDS` makes each test go on with other seeds for so
//! long (`make fuzz`), `QUORUMKV_FUZZ_SEED` tries one. A test that fails names its seed.

use std::time::{Duration, Instant};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// One try. If it panics, its seed is printed.
pub(crate) struct Case {
    seed: u64,
    pub(crate) dice: StdRng,
}

impl Case {
    fn new(seed: u64) -> Self {
        Self { seed, dice: StdRng::seed_from_u64(seed) }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("QUORUMKV_FUZZ_SEED={} fails", self.seed);
        }
    }
}

/// So many tries, or as many as the environment says.
pub(crate) fn cases(count: u64) -> Box<dyn Iterator<Item = Case>> {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
        Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
    };
    if let Some(seed) = number("QUORUMKV_FUZZ_SEED") {
        return Box::new(std::iter::once(Case::new(seed)));
    }
    match number("QUORUMKV_FUZZ_SECONDS") {
        None => Box::new((0..count).map(Case::new)),
        Some(seconds) => {
            let end = Instant::now() + Duration::from_secs(seconds);
            Box::new(std::iter::repeat_with(|| Case::new(rand::random())).take_while(move |_| Instant::now() < end))
        }
    }
}

/// One of these.
pub(crate) fn one<'a, Item: ?Sized>(dice: &mut StdRng, of: &[&'a Item]) -> &'a Item {
    of[dice.random_range(0..of.len())]
}

/// Changes some bytes, or puts one of `words` among them, up to four times; sometimes nothing.
pub(crate) fn spoil(dice: &mut StdRng, bytes: &mut Vec<u8>, words: &[&[u8]]) {
    for _ in 0..dice.random_range(0..=4) {
        let at = dice.random_range(0..=bytes.len());
        let to = (at + dice.random_range(0..=16)).min(bytes.len());
        match dice.random_range(0..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let again = bytes[at..to].to_vec();
                bytes.splice(at..at, again);
            }
            3 => {
                let word = one(dice, words).to_vec();
                bytes.splice(at..at, word);
            }
            4 => {
                let word = one(dice, words).to_vec();
                bytes.splice(at..to, word);
            }
            5 => bytes.insert(at, dice.random()),
            6 if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
            7 if at < bytes.len() => {
                bytes[at] = one(dice, &[&0, &1, &0x7f, &0x80, &0xff, &b'"', &b'\n', &b'{']).to_owned()
            }
            _ => bytes.extend((0..dice.random_range(0..32)).map(|_| dice.random::<u8>())),
        }
    }
}

/// What readers of JSON trip over.
pub(crate) const JSON_WORDS: [&[u8]; 24] = [
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\\",
    b"-1",
    b"1e999",
    b"0.5",
    b"9007199254740993",
    b"18446744073709551615",
    b"18446744073709551616",
    b"true",
    b",",
    b":",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"{\"key\":",
    b"\"epoch\":",
    b"\"value\":",
    b"\xff",
    b"\xef\xbb\xbf",
    b"NaN",
];

/// What readers of HTTP trip over.
pub(crate) const HTTP_WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b" ",
    b":",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Idempotency-Key: a\r\n",
    b"Authorization: Bearer x\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"%00",
    b"%ff",
    b"?consistency=",
    b"/../",
    b"fffffffffffffffff\r\n",
    b"\xff\xfe",
];
