//! Files with tokens, as a Secret that is mounted has them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

/// No file with tokens is longer.
const MOST_BYTES: u64 = 64 * 1024;

/// Where the tokens of clients are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFiles {
    /// Of clients that only read.
    pub read: Option<PathBuf>,
    /// Of clients that read and write.
    pub write: PathBuf,
}

/// Why a file holds no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It is not there, or not for this process.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// It is no file for tokens.
    #[error("has more than {MOST_BYTES} bytes")]
    TooLong,
    /// It holds nothing.
    #[error("must hold a token, a line of visible ASCII characters")]
    Empty,
    /// A line of it can be sent in no header.
    #[error("line {0} must be a token: visible ASCII characters and nothing else")]
    Line(usize),
    /// Whoever has that token could write.
    #[error("line {0} is a token for writing too")]
    Shared(usize),
}

/// The tokens of a file, one a line; there is at least one.
pub(super) fn read(path: &Path) -> Result<Vec<String>, TokenFileError> {
    let mut text = String::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(TokenFileError::TooLong);
    }
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let token = |(number, line): (usize, &str)| {
        let line = line.trim_end();
        let visible = line.bytes().all(|byte| byte.is_ascii_graphic());
        if visible { Ok(line.to_owned()) } else { Err(TokenFileError::Line(number)) }
    };
    let tokens = lines.map(token).collect::<Result<Vec<_>, _>>()?;
    if tokens.is_empty() { Err(TokenFileError::Empty) } else { Ok(tokens) }
}
