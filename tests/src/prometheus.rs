//! A Prometheus that scrapes what a test tells it to and answers queries.

use std::{env, fs, path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use reqwest::Url;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    processes::{Launch, Process, ports::PortBlock},
    wait,
};

/// How long it may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One process that is scraped every second.
#[derive(Debug, Clone)]
pub struct ScrapeTarget {
    /// Host and port of `/metrics`.
    pub address: String,
    /// Labels that every series of it gets, and that its own take precedence over.
    pub labels: Value,
}

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    http: reqwest::Client,
    url: String,
    process: Process,
    _ports: PortBlock,
    /// Holds configuration, log and data; goes last.
    _folder: TempDir,
}

/// The program, if it is installed.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join("prometheus")).find(|program| program.is_file())
}

impl Prometheus {
    /// Starts it over these targets, with the alerts in this file.
    ///
    /// # Errors
    /// When there is none, or it does not start; the message holds the end of its log.
    pub async fn start(targets: &[ScrapeTarget], rules: &str) -> anyhow::Result<Self> {
        let program = program().context("no prometheus in PATH")?;
        let ports = PortBlock::take()?;
        let folder = tempfile::tempdir().context("a folder for Prometheus")?;
        let targets = targets.iter().map(|target| json!({"targets": [target.address], "labels": target.labels}));
        let configuration = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [
                {"job_name": "quorumkv", "honor_labels": true, "static_configs": targets.collect::<Vec<_>>()},
            ],
        });
        // JSON is YAML.
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, configuration.to_string()).context("the configuration")?;
        let address = format!("127.0.0.1:{}", ports.port(0));
        let launch = Launch {
            name: "prometheus".to_owned(),
            program,
            arguments: vec![
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", folder.path().join("data").display()),
                format!("--web.listen-address={address}"),
            ],
            environment: Vec::new(),
        };
        let mut process = Process::new(launch, folder.path());
        process.start()?;
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let started = Self { http, url: format!("http://{address}"), process, _ports: ports, _folder: folder };
        wait::until("Prometheus is ready", PATIENCE, || async {
            let answer = started.http.get(format!("{}/-/ready", started.url)).send().await?;
            ensure!(answer.status().is_success(), "{}", answer.status());
            Ok(())
        })
        .await
        .with_context(|| started.process.output_end(20))?;
        Ok(started)
    }

    /// What its API answers: the field `data`.
    ///
    /// # Errors
    /// When it refuses; the message says why.
    pub async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = Url::parse_with_params(&format!("{}/api/v1/{path}", self.url), parameters)?;
        let mut answer: Value = self.http.get(url).send().await?.json().await.context("the answer")?;
        if answer["status"] != "success" {
            bail!("{path} {parameters:?}: {}", answer["error"]);
        }
        Ok(answer["data"].take())
    }

    /// How many numbers an expression gave in the last ten seconds, second by second, over all its series.
    ///
    /// # Errors
    /// When it is none.
    pub async fn numbers(&self, expression: &str) -> anyhow::Result<usize> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the time")?.as_secs();
        let (start, end) = ((now - 10).to_string(), now.to_string());
        let parameters = [("query", expression), ("start", &start), ("end", &end), ("step", "1")];
        let data = self.ask("query_range", &parameters).await?;
        let series = data["result"].as_array().context("a list of series")?;
        let values = series.iter().flat_map(|series| series["values"].as_array().into_iter().flatten());
        let number = |value: &Value| value[1].as_str().and_then(|text| text.parse::<f64>().ok());
        Ok(values.filter_map(number).filter(|number| number.is_finite()).count())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn output_end(&self, lines: usize) -> String {
        self.process.output_end(lines)
    }
}
