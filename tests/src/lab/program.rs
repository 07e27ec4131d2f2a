//! What surrounds each program: progress, signals, output, exit code.
//!
//! 0: every check held. 1: a check failed, or could not be made. 2: nothing was checked, because the arguments
//! do not fit or the store that they name is not there. 128 + n: ended by signal n.

use std::{
    borrow::Cow,
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::options::Output;

/// Why a program ended without a report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments do not fit, or name what is not there.
    #[error("{0:#}")]
    WrongUse(anyhow::Error),
    /// A signal asked for the end.
    #[error("interrupted")]
    Interrupted {
        /// Number of the signal.
        signal: u8,
    },
    /// A step failed.
    #[error("{0:#}")]
    Failed(#[from] anyhow::Error),
}

impl Failure {
    /// [`Self::WrongUse`] of any error.
    pub fn wrong_use(error: impl Into<anyhow::Error>) -> Self {
        Self::WrongUse(error.into())
    }

    /// [`Self::WrongUse`] with this text.
    pub fn wrong_argument(text: impl Into<Cow<'static, str>>) -> Self {
        Self::WrongUse(anyhow::Error::msg(text.into()))
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::WrongUse(_) => 2,
            Self::Interrupted { signal } => 128 + signal,
            Self::Failed(_) => 1,
        }
    }
}

/// What a program found. Displayed as a table, serialized as JSON.
pub trait Report: Serialize + Display {
    /// Whether every check held.
    fn passed(&self) -> bool;
}

/// Arguments of a program.
pub trait Options: Parser {
    /// How the result is printed.
    fn output(&self) -> Output;
}

/// Where a program tells how far it is, and hears that it shall end.
#[derive(Debug)]
pub struct Context {
    output: Output,
    signals: watch::Receiver<Signals>,
}

/// Signals that ask for the end.
#[derive(Debug, Clone, Copy, Default)]
struct Signals {
    count: usize,
    last: u8,
}

impl Context {
    /// Prints a line of progress, on standard error.
    pub fn progress(&self, line: impl Display) {
        // Nobody may be listening; that is no reason to stop.
        writeln!(std::io::stderr(), "{line}").ok();
    }

    /// Prints a line that belongs to the table, as soon as it is known; to standard error beside JSON.
    pub fn result(&self, line: impl Display) {
        match self.output {
            Output::Table => writeln!(std::io::stdout(), "{line}").ok(),
            Output::Json => writeln!(std::io::stderr(), "{line}").ok(),
        };
    }

    /// A bar up to `total`. Only terminals show it.
    pub fn bar(&self, label: &str, total: u64) -> ProgressBar {
        if !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{msg:24} {wide_bar} {pos:>6}/{len} {elapsed:>4}");
        let bar = ProgressBar::new(total).with_message(label.to_owned());
        bar.set_style(style.expect("the template is constant and valid"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    }

    /// Does `work`, unless a signal asks for the end before it is done.
    ///
    /// # Errors
    /// Those of `work`, and [`Failure::Interrupted`].
    pub async fn unless_interrupted<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => done,
            signal = self.signalled(1) => Err(Failure::Interrupted { signal }),
        }
    }

    /// One that hears no signals.
    #[cfg(test)]
    pub(super) fn silent() -> Self {
        Self { output: Output::Table, signals: watch::channel(Signals::default()).1 }
    }

    /// Waits for the `count`-th signal; gives its number.
    pub(super) async fn signalled(&self, count: usize) -> u8 {
        let mut signals = self.signals.clone();
        match signals.wait_for(|signals| signals.count >= count).await {
            Ok(signals) => signals.last,
            // Signals end with the runtime.
            Err(_) => std::future::pending().await,
        }
    }
}

/// Parses the arguments, runs the program, prints what it found.
pub fn main<Arguments, Found, Run>(run: Run) -> ExitCode
where
    Arguments: Options,
    Found: Report,
    Run: AsyncFnOnce(Arguments, &Context) -> Result<Found, Failure>,
{
    let options = Arguments::parse();
    let output = options.output();
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(output, Err::<Found, _>(Failure::wrong_use(error))),
    };
    let found = runtime.block_on(async {
        let (sender, signals) = watch::channel(Signals::default());
        let listener = tokio::spawn(listen(sender));
        let found = run(options, &Context { output, signals }).await;
        listener.abort();
        found
    });
    // A read that nobody waits for any more must not hold up the end.
    runtime.shutdown_background();
    finish(output, found)
}

/// Counts the signals that ask for the end.
async fn listen(sender: watch::Sender<Signals>) {
    let kinds = [(SignalKind::interrupt(), 2), (SignalKind::terminate(), 15), (SignalKind::hangup(), 1)];
    let heard = kinds.map(|(kind, number)| {
        let sender = sender.clone();
        async move {
            let mut stream = signal(kind).expect("these signals can be caught");
            while stream.recv().await.is_some() {
                sender.send_modify(|signals| *signals = Signals { count: signals.count + 1, last: number });
            }
        }
    });
    futures::future::join_all(heard).await;
}

fn finish<Found: Report>(output: Output, found: Result<Found, Failure>) -> ExitCode {
    let (passed, text) = match (&found, output) {
        (Ok(report), Output::Table) => (report.passed(), report.to_string()),
        (Ok(report), Output::Json) => (report.passed(), json_text(report)),
        (Err(_), Output::Table) => (false, String::new()),
        (Err(failure), Output::Json) => (false, json_text(&json!({"passed": false, "error": failure.to_string()}))),
    };
    // The reader of the output may have gone; the exit code still tells.
    std::io::stdout().write_all(text.as_bytes()).ok();
    match found {
        Ok(_) if passed => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(failure) => {
            writeln!(std::io::stderr(), "error: {failure}").ok();
            ExitCode::from(failure.exit_code())
        }
    }
}

/// One JSON object and the end of its line.
///
/// # Panics
/// When a report has a key that is no text, which is a bug.
pub(crate) fn json_text(report: &impl Serialize) -> String {
    serde_json::to_string_pretty(report).expect("reports have no keys but texts") + "\n"
}
