//! Runs a program to its end, within a time limit, and keeps what it printed.

use std::{ffi::OsStr, fmt::Write as _, path::PathBuf, process::Stdio, time::Duration};

use tokio::io::AsyncWriteExt;

/// Why a program did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started, or its pipes broke.
    #[error("{command}: {source}")]
    Start {
        /// The command line.
        command: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// It ended with another code than zero.
    #[error("{command} failed ({status}):\n{output}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it printed, errors last.
        output: String,
    },
    /// It did not end in time, and was killed.
    #[error("{command} did not end within {limit:?}")]
    TooLong {
        /// The command line.
        command: String,
        /// The time it was given.
        limit: Duration,
    },
}

/// A program and its arguments.
#[derive(Debug)]
pub struct Command {
    command: tokio::process::Command,
    line: String,
    input: Option<String>,
    limit: Duration,
}

impl Command {
    /// The program at `path`, with a limit of a minute.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let line = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut command = tokio::process::Command::new(&path);
        for (name, _) in std::env::vars_os() {
            if is_of_this_test(&name) {
                command.env_remove(&name);
            }
        }
        Self { command, line, input: None, limit: Duration::from_mins(1) }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        let text = argument.as_ref().to_string_lossy();
        let quote = if text.contains([' ', '"', '{']) { "'" } else { "" };
        write!(self.line, " {quote}{text}{quote}").expect("a String takes any text");
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<Argument: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = Argument>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads from its standard input.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it, and returns what it wrote to its standard output.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub async fn output(self) -> Result<String, CommandError> {
        let Self { mut command, line, input, limit } = self;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let run = async {
            let mut child = command.spawn()?;
            let stdin = child.stdin.take();
            let feed = async {
                if let (Some(mut stdin), Some(text)) = (stdin, input) {
                    stdin.write_all(text.as_bytes()).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            // Together, or a program that prints much while it reads much would block both.
            let (_, output) = tokio::try_join!(feed, child.wait_with_output())?;
            Ok(output)
        };
        let output = match tokio::time::timeout(limit, run).await {
            Err(_) => return Err(CommandError::TooLong { command: line, limit }),
            Ok(Err(source)) => return Err(CommandError::Start { command: line, source }),
            Ok(Ok(output)) => output,
        };
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let output_text = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        Err(CommandError::Failed { command: line, status: output.status, output: output_text.trim_end().to_owned() })
    }
}

/// Variables that cargo sets for the test itself. Handed on to another cargo, they make build scripts that
/// watch them run again, and with them everything that depends on those crates.
fn is_of_this_test(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
        || name == "CARGO"
        || name == "LD_LIBRARY_PATH"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_prints_is_returned() {
        let text = Command::new("cat").input("one\ntwo\n").output().await.expect("runs");
        assert_eq!(text, "one\ntwo\n");
    }

    #[tokio::test]
    async fn a_failure_names_the_command_and_what_it_said() {
        let error =
            Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]).output().await.expect_err("fails");
        let text = error.to_string();
        assert!(text.contains("sh -c 'echo no such thing >&2; exit 3'"), "{text}");
        assert!(text.contains("exit status: 3") && text.ends_with("no such thing"), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_never_ends_is_killed() {
        let error = Command::new("sleep").arg("60").within(Duration::from_millis(50)).output().await.expect_err("late");
        assert!(matches!(error, CommandError::TooLong { .. }), "{error}");
    }

    #[tokio::test]
    async fn another_cargo_is_not_told_which_package_this_test_is_of() {
        let text = Command::new("env").output().await.expect("runs");
        assert!(!text.contains("CARGO_PKG_NAME") && !text.contains("CARGO_MANIFEST_DIR"), "{text}");
    }
}
