//! The real operator, as a process of this machine.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};

use super::measure::Counters;
use crate::{
    processes::{Launch, Process, ports::PortBlock, programs},
    wait,
};

/// Its name in tables and logs.
pub const NAME: &str = "operator";

/// How it is started.
#[derive(Debug)]
pub struct Setup<'a> {
    /// By which its lease, its log and events know it.
    pub identity: &'a str,
    /// Where the API server is.
    pub kubeconfig: &'a Path,
    /// The only namespace that it watches; by default all.
    pub watches: Option<&'a str>,
    /// Namespace of its lease.
    pub lives_in: &'a str,
    /// For its log.
    pub folder: &'a Path,
}

/// An operator.
pub struct Operator {
    /// The process.
    pub process: Process,
    http: reqwest::Client,
    metrics: String,
    _ports: PortBlock,
}

impl Operator {
    /// One that is not started yet.
    ///
    /// # Errors
    /// When the program is not there and cannot be built, or no ports are free.
    pub fn new(setup: &Setup<'_>) -> anyhow::Result<Self> {
        let Setup { identity, kubeconfig, watches, lives_in, folder } = setup;
        let ports = PortBlock::take()?;
        let (health, metrics) = (ports.port(0), ports.port(1));
        let arguments = [
            ("--health-port", health.to_string()),
            ("--metrics-port", metrics.to_string()),
            ("--node-image", "localhost/quorumkv-node:played".to_owned()),
            ("--pod-name", (*identity).to_owned()),
            ("--pod-namespace", (*lives_in).to_owned()),
            ("--watch-namespace", watches.unwrap_or_default().to_owned()),
        ];
        let launch = Launch {
            name: (*identity).to_owned(),
            program: programs::operator()?,
            arguments: std::iter::once("run".to_owned())
                .chain(arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]))
                .collect(),
            environment: vec![("KUBECONFIG".to_owned(), kubeconfig.display().to_string())],
        };
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build()?;
        let metrics = format!("http://127.0.0.1:{metrics}/metrics");
        Ok(Self { process: Process::new(launch, folder), http, metrics, _ports: ports })
    }

    /// Starts it and waits until it works.
    ///
    /// # Errors
    /// When it does not start, or does not get its lease within a minute; the message has the end of its log.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let leads = wait::until("the operator holds its lease", Duration::from_secs(60), || async {
            let counters = self.counters().await?;
            ensure!(counters.sum("leading") > 0.0, "it does not yet");
            Ok(())
        });
        leads.await.with_context(|| self.process.output_end(20))
    }

    /// What it counted so far.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn counters(&self) -> anyhow::Result<Counters> {
        Counters::ask(&self.http, &self.metrics).await
    }
}
