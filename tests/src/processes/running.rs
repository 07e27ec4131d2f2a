//! One process: started, signalled, awaited, and never left behind.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// How to start a process. Its environment holds nothing but what is named here, and `RUST_LOG`.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Name in messages and of the log file.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
}

impl Launch {
    /// The command, without output redirected.
    #[must_use]
    pub fn command(&self) -> Command {
        let Self { name: _, program, arguments, environment } = self;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().stdin(Stdio::null());
        for inherited in ["RUST_LOG", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(inherited).map(|value| (inherited, value)));
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

/// A process with its output in a file. Killed and reaped when dropped.
#[derive(Debug)]
pub struct Process {
    launch: Launch,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// A process that is not yet started, logging to `folder`.
    #[must_use]
    pub fn new(launch: Launch, folder: &Path) -> Self {
        let log = folder.join(format!("{}.log", launch.name));
        Self { launch, log, child: None }
    }

    /// Starts it; the output is added to that of earlier runs.
    ///
    /// # Errors
    /// When it runs already, or cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.launch.name);
        }
        let output = File::options().create(true).append(true).open(&self.log).context("a log file")?;
        let mut command = self.launch.command();
        command.stdout(output.try_clone().context("a log file")?).stderr(output);
        let child = command.spawn().with_context(|| format!("{} does not start", self.launch.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.launch.name))?;
        Ok(Pid::from_child(child))
    }

    /// Whether it runs (a stopped process runs).
    pub fn is_running(&mut self) -> bool {
        match &mut self.child {
            None => false,
            Some(child) => matches!(child.try_wait(), Ok(None)),
        }
    }

    /// How it ended; none while it runs, and before its first start.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid()?, signal).with_context(|| format!("{signal:?} to {}", self.launch.name))
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.child.take().expect("it has a pid").wait().context("the end of a killed process")?;
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let name = self.launch.name.clone();
        let mut child = self.child.take().with_context(|| format!("{name} does not run"))?;
        let status = wait::until(&format!("the end of {name}"), within, || {
            let look = child.try_wait();
            async move { look?.context("it still runs") }
        })
        .await;
        if status.is_err() {
            self.child = Some(child);
        }
        status
    }

    /// Everything it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it wrote, under its name.
    #[must_use]
    pub fn output_end(&self, lines: usize) -> String {
        let output = self.output();
        let all: Vec<&str> = output.lines().collect();
        let end = all[all.len().saturating_sub(lines)..].join("\n");
        format!("--- {}: the last of {} lines\n{end}\n", self.launch.name, all.len())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to do.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Prints the end of each process's output if the test that owns them is failing.
#[expect(clippy::print_stderr, reason = "the test runner shows what a failing test printed")]
pub(super) fn print_on_failure<'a>(processes: impl Iterator<Item = &'a Process>) {
    if std::thread::panicking() {
        processes.for_each(|process| eprint!("{}", process.output_end(30)));
    }
}
