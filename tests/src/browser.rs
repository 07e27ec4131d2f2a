//! A headless Chromium, driven over the WebDriver protocol: open a page, run a script in it, look at it.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    processes::{Launch, Process},
    wait,
};

/// How long the driver may take to start, and the browser to do something, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    http: reqwest::Client,
    session: String,
    driver: Process,
    /// Holds the browser's profile and the driver's log; goes last.
    _folder: TempDir,
}

/// The programs that a browser needs: `chromedriver` and `chromium`, or what they are called elsewhere.
#[must_use]
pub fn programs() -> Option<(PathBuf, PathBuf)> {
    let find = |names: &[&str]| {
        let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
        let places = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
        places.into_iter().find(|program| program.is_file())
    };
    Some((find(&["chromedriver"])?, find(&["chromium", "chromium-browser", "google-chrome"])?))
}

impl Browser {
    /// Starts a browser with a window of this size.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub async fn start((width, height): (u32, u32)) -> anyhow::Result<Self> {
        let (driver, browser) = programs().context("no chromedriver and chromium in PATH")?;
        let folder = tempfile::tempdir().context("a folder for the browser")?;
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let launch = Launch {
            name: "chromedriver".to_owned(),
            program: driver,
            arguments: vec!["--port=0".to_owned()],
            environment: vec![
                variable("PATH", env::var("PATH").context("PATH")?),
                variable("HOME", folder.path().display().to_string()),
            ],
        };
        let mut driver = Process::new(launch, folder.path());
        driver.start()?;
        let port = wait::until("the driver says its port", PATIENCE, || {
            let output = driver.output();
            async move {
                let port = output.split("started successfully on port ").nth(1).and_then(|rest| rest.split('.').next());
                port.and_then(|port| port.trim().parse::<u16>().ok()).with_context(|| output.clone())
            }
        })
        .await?;
        let http = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {
                "binary": browser,
                // The sandbox needs what containers and root do not give it; only a page of ours is opened.
                "args": [
                    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
                    "--hide-scrollbars", format!("--window-size={width},{height}"),
                ],
            },
        }}});
        let mut started = Self { http, session: format!("http://127.0.0.1:{port}"), driver, _folder: folder };
        let session: Value = started.ask(Method::POST, "session", Some(capabilities)).await?;
        let id = session["sessionId"].as_str().context("a session has an id")?;
        started.session = format!("{}/session/{id}", started.session);
        Ok(started)
    }

    /// Opens an address.
    ///
    /// # Errors
    /// When it does not load.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.ask(Method::POST, "url", Some(json!({"url": url}))).await
    }

    /// Gives the page another width and height, narrower ones than a window can have too.
    ///
    /// # Errors
    /// When the browser does not do it.
    pub async fn resize(&self, (width, height): (u32, u32)) -> anyhow::Result<()> {
        let metrics = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        let command = json!({"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics});
        self.ask::<Value>(Method::POST, "goog/cdp/execute", Some(command)).await?;
        Ok(())
    }

    /// What a script returns, run as the body of a function in the page.
    ///
    /// # Errors
    /// When it throws, or returns something else.
    pub async fn script<T: DeserializeOwned>(&self, script: &str) -> anyhow::Result<T> {
        self.ask(Method::POST, "execute/sync", Some(json!({"script": script, "args": []}))).await
    }

    /// Clicks what a CSS selector finds, as a person would: it must be visible and nothing may lie over it.
    ///
    /// # Errors
    /// When there is nothing to click.
    pub async fn click(&self, selector: &str) -> anyhow::Result<()> {
        let using = json!({"using": "css selector", "value": selector});
        let found: Value = self.ask(Method::POST, "element", Some(using)).await?;
        let element = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str);
        let path = format!("element/{}/click", element.context("an element has an id")?);
        self.ask(Method::POST, &path, Some(json!({}))).await
    }

    /// What the browser wrote to its console since it was last asked, level and text: errors of scripts, what
    /// could not be loaded, and what a policy forbade.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn console(&self) -> anyhow::Result<Vec<(String, String)>> {
        let lines: Vec<Value> = self.ask(Method::POST, "se/log", Some(json!({"type": "browser"}))).await?;
        let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
        Ok(lines.iter().map(|line| (text(line, "level"), text(line, "message"))).collect())
    }

    /// Ends the browser.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn quit(mut self) -> anyhow::Result<()> {
        self.ask::<Value>(Method::DELETE, "", None).await?;
        self.driver.kill()
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<T> {
        let url = format!("{}/{path}", self.session);
        let mut request = self.http.request(method, url.trim_end_matches('/'));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.with_context(|| format!("the driver, asked for {path:?}"))?;
        let failed = !answer.status().is_success();
        let mut answer: Value = answer.json().await.context("the driver's answer")?;
        let value = answer["value"].take();
        if failed {
            bail!("{path}: {} {}", value["error"], value["message"]);
        }
        serde_json::from_value(value).with_context(|| format!("the value of {path:?}"))
    }
}
