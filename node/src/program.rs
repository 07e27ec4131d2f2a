//! What the node's program does between its arguments and its end.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use tracing::warn;
use tracing_subscriber::EnvFilter;

use crate::{
    Listeners,
    config::{Cli, Command, Config, LogFormat},
    healthcheck, serve,
    shutdown::{Shutdown, on_signals},
};

/// Does what the command line asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Healthcheck { url, port }) => {
            let url = url.unwrap_or_else(|| format!("http://127.0.0.1:{port}/health"));
            runtime(1).and_then(|runtime| runtime.block_on(healthcheck::check(&url)).map_err(whole))
        }
        None => cli.arguments.check().map_err(whole).and_then(run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[allow(clippy::print_stderr, reason = "the log may not have been set up")]
            {
                eprintln!("quorumkv-node: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    config.parent_pid.map_or(Ok(()), end_with)?;
    start_log(config.log_format)?;
    allow_open_files(config.limits.connections + config.limits.peer_connections);
    runtime(config.worker_threads)?.block_on(async {
        let shutdown = Shutdown::default();
        on_signals(shutdown.draining.clone()).context("signals cannot be handled")?;
        let listeners = Listeners::bind(&config).await.map_err(whole)?;
        serve(config, listeners, shutdown).await.map_err(whole)
    })
}

/// Asks to be killed when the process that started this one ends.
fn end_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("the end of PARENT_PID cannot be noticed")?;
    // It may have ended before that was asked for.
    let started_by = getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(started_by == parent, "PARENT_PID={parent} did not start this process, or has ended");
    Ok(())
}

/// Files that a node has open beside its connections, at most.
const OTHER_FILES: u64 = 256;

/// Allows as many open files as the system lets this process have: every connection is one, and many systems begin
/// with 1024.
fn allow_open_files(connections: usize) {
    /// More than that no node needs, and no kernel gives.
    const MOST: u64 = 1 << 20;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let most = maximum.unwrap_or(MOST).min(MOST);
    let raised = match current {
        Some(current) if current < most => {
            setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum }).map_or(current, |()| most)
        }
        _ => current.unwrap_or(MOST),
    };
    let wanted = connections as u64 + OTHER_FILES;
    if raised < wanted {
        warn!(allowed = raised, wanted, "fewer files may be open than MAX_CONNECTIONS asks for; some will wait");
    }
}

/// An error whose text already says what caused it, and which therefore must not be followed by its causes.
fn whole(error: impl std::error::Error) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// One thread needs no scheduler between threads, which is fastest where several nodes share few cores.
fn runtime(worker_threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match worker_threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if worker_threads > 1 {
        builder.worker_threads(worker_threads);
    }
    builder.enable_all().build().context("the runtime cannot be started")
}

fn start_log(format: LogFormat) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) if !filter.is_empty() => {
            EnvFilter::try_new(&filter).with_context(|| format!("RUST_LOG={filter:?} is no filter such as info"))?
        }
        _ => EnvFilter::new("info"),
    };
    let ansi = std::io::stdout().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(ansi);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
