//! Tokens of clients: who may read, and who may write too.
//!
//! Without a file for writing tokens, everybody may do everything. With one, `Authorization: Bearer <token>` is asked
//! of every request but those for health; the cluster's own token opens everything. The files are read again every
//! second: a Secret that changes takes effect without a restart, and as a file may hold several tokens, clients can be
//! given a new one before the old one goes. A file that cannot be used leaves the tokens before it in force.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::http::StatusCode;
use parking_lot::RwLock;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use super::{
    Token, equal,
    files::{self, TokenFileError, TokenFiles},
    presented,
};
use crate::answer::ApiError;

/// How often the files are read.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It changes nothing.
    Read,
    /// It may.
    Write,
}

/// A file that cannot be used: its variable, its path, and why.
type Unusable = (&'static str, PathBuf, TokenFileError);

/// What clients have to present, if anything. Clones share it.
#[derive(Clone, Default)]
pub struct ClientTokens(Option<Arc<Kept>>);

struct Kept {
    files: TokenFiles,
    tokens: RwLock<Tokens>,
}

#[derive(PartialEq, Eq)]
struct Tokens {
    read: Vec<String>,
    write: Vec<String>,
}

impl std::fmt::Debug for ClientTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the tokens: configurations are logged.
        f.debug_tuple("ClientTokens").field(&self.0.as_ref().map(|kept| &kept.files)).finish()
    }
}

impl ClientTokens {
    /// The tokens in these files.
    ///
    /// # Errors
    /// When one of them holds none; also which variable names it.
    pub fn open(files: TokenFiles) -> Result<Self, (&'static str, PathBuf, TokenFileError)> {
        let tokens = RwLock::new(load(&files)?);
        Ok(Self(Some(Arc::new(Kept { files, tokens }))))
    }

    /// Whether clients need a token at all.
    pub(crate) fn are_asked_for(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a request with this header `Authorization` may do that.
    ///
    /// # Errors
    /// 401 without a token or with a wrong one, 403 where the token does not allow so much.
    pub(crate) fn check(&self, authorization: Option<&[u8]>, access: Access, own: &Token) -> Result<(), ApiError> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let Some(presented) = presented(authorization) else {
            let error = "a token is missing (Authorization: Bearer <token>)";
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, error));
        };
        // All of them, whichever it is.
        let among = |tokens: &[String]| tokens.iter().fold(false, |is, token| is | equal(presented, token.as_bytes()));
        let (reads, writes) = {
            let tokens = kept.tokens.read();
            (among(&tokens.read), among(&tokens.write))
        };
        match (writes | own.is(presented), reads, access) {
            (true, _, _) | (false, true, Access::Read) => Ok(()),
            (false, true, Access::Write) => {
                Err(ApiError::new(StatusCode::FORBIDDEN, "this token is for reading only; nothing was written"))
            }
            (false, false, _) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the token is wrong")),
        }
    }

    /// Takes over what changes in the files, for as long as it is polled.
    pub(crate) async fn keep_up(self) {
        let Some(kept) = self.0 else { return std::future::pending().await };
        let mut ticks = interval(LOOK_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = None;
        loop {
            ticks.tick().await;
            // A file system that hangs must hold up nobody.
            let files = kept.files.clone();
            let Ok(loaded) = tokio::task::spawn_blocking(move || load(&files)).await else { continue };
            match loaded {
                Ok(tokens) => {
                    complaint = None;
                    if *kept.tokens.read() != tokens {
                        info!(
                            reading = tokens.read.len(),
                            writing = tokens.write.len(),
                            "the tokens of clients changed"
                        );
                        *kept.tokens.write() = tokens;
                    }
                }
                Err((variable, path, why)) => {
                    let said = format!("{variable}={}: {why}", path.display());
                    if complaint.as_ref() != Some(&said) {
                        error!(error = said, "the tokens of clients stay as they were");
                        complaint = Some(said);
                    }
                }
            }
        }
    }
}

fn load(TokenFiles { read, write }: &TokenFiles) -> Result<Tokens, Unusable> {
    const READ: &str = "READ_TOKEN_FILE";
    let from = |variable, path: &PathBuf| files::read(path).map_err(|why| (variable, path.clone(), why));
    let writing = from("WRITE_TOKEN_FILE", write)?;
    let Some(path) = read else { return Ok(Tokens { read: Vec::new(), write: writing }) };
    let reading = from(READ, path)?;
    if let Some(at) = reading.iter().position(|token| writing.contains(token)) {
        return Err((READ, path.clone(), TokenFileError::Shared(at + 1)));
    }
    Ok(Tokens { read: reading, write: writing })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rstest::rstest;
    use tempfile::TempDir;

    use super::*;

    /// Tokens in files, and the folder that holds them.
    fn tokens(read: &str, write: &str) -> (TempDir, Result<ClientTokens, Unusable>) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("read"), read).expect("written");
        fs::write(folder.path().join("write"), write).expect("written");
        let files = TokenFiles { read: Some(folder.path().join("read")), write: folder.path().join("write") };
        let opened = ClientTokens::open(files);
        (folder, opened)
    }

    fn status(tokens: &ClientTokens, header: Option<&str>, access: Access) -> u16 {
        let own = Token::new(Some("own"));
        let checked = tokens.check(header.map(str::as_bytes), access, &own);
        checked.err().map_or(200, |error| error.status.as_u16())
    }

    #[rstest]
    #[case(None, 401, 401)]
    #[case(Some("Bearer reader"), 200, 403)]
    #[case(Some("Bearer next-reader"), 200, 403)]
    #[case(Some("Bearer writer"), 200, 200)]
    #[case(Some("bearer writer"), 200, 200)]
    #[case(Some("Bearer own"), 200, 200)]
    #[case(Some("Bearer "), 401, 401)]
    #[case(Some("Bearer write"), 401, 401)]
    #[case(Some("Bearer writer2"), 401, 401)]
    #[case(Some("Bearer reader\nnext-reader"), 401, 401)]
    #[case(Some("writer"), 401, 401)]
    #[case(Some("Basic writer"), 401, 401)]
    fn a_token_allows_what_it_is_for(#[case] header: Option<&str>, #[case] read: u16, #[case] write: u16) {
        let (_folder, tokens) = tokens("reader\nnext-reader\n", "\nwriter \n");
        let tokens = tokens.expect("tokens");
        assert_eq!((status(&tokens, header, Access::Read), status(&tokens, header, Access::Write)), (read, write));
    }

    #[test]
    fn without_files_nobody_needs_a_token() {
        assert_eq!(status(&ClientTokens::default(), None, Access::Write), 200);
    }

    #[test]
    fn without_a_file_for_reading_only_writers_are_let_in() {
        let (folder, _) = tokens("reader", "writer");
        let files = TokenFiles { read: None, write: folder.path().join("write") };
        let tokens = ClientTokens::open(files).expect("tokens");
        assert_eq!(status(&tokens, Some("Bearer reader"), Access::Read), 401);
        assert_eq!(status(&tokens, Some("Bearer writer"), Access::Read), 200);
    }

    #[rstest]
    #[case("reader", "", "WRITE_TOKEN_FILE", "must hold a token")]
    #[case("", "writer", "READ_TOKEN_FILE", "must hold a token")]
    #[case("reader", "two words", "WRITE_TOKEN_FILE", "line 1 must be a token")]
    #[case("a\nwriter", "writer", "READ_TOKEN_FILE", "line 2 is a token for writing too")]
    fn files_that_hold_no_tokens_are_refused(
        #[case] read: &str,
        #[case] write: &str,
        #[case] expected: &str,
        #[case] text: &str,
    ) {
        let (_folder, opened) = tokens(read, write);
        let (variable, _, why) = opened.expect_err("refused");
        assert_eq!(variable, expected);
        assert!(why.to_string().contains(text), "{why}");
    }

    #[tokio::test]
    async fn what_changes_in_the_files_takes_effect_and_what_is_no_token_does_not() {
        let (folder, opened) = tokens("reader", "writer");
        let opened = opened.expect("tokens");
        let keeping = tokio::spawn(opened.clone().keep_up());
        let write = folder.path().join("write");
        let soon = async |header: &str, expected: u16| {
            for _ in 0..200 {
                if status(&opened, Some(header), Access::Write) == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("{header} is not answered {expected}");
        };
        fs::write(&write, "writer\nnext").expect("written");
        soon("Bearer next", 200).await;
        assert_eq!(status(&opened, Some("Bearer writer"), Access::Write), 200, "both are good meanwhile");
        fs::write(&write, "next").expect("written");
        soon("Bearer writer", 401).await;
        fs::write(&write, "").expect("written");
        tokio::time::sleep(LOOK_AGAIN + LOOK_AGAIN / 2).await;
        assert_eq!(status(&opened, Some("Bearer next"), Access::Write), 200, "nobody is locked out by a mistake");
        assert_eq!(status(&opened, None, Access::Write), 401, "and nobody let in");
        keeping.abort();
    }
}
