//! The dashboard and the alerts as files: what they ask for, and whether Grafana can read the dashboard.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{exported, repository};

pub(crate) const DASHBOARD: &str = "charts/quorumkv/files/dashboards/quorumkv.json";
pub(crate) const ALERTS: &str = "charts/quorumkv/files/rules.yaml";

/// The dashboard, read.
pub(crate) struct Dashboard(Value);

impl Dashboard {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(repository(DASHBOARD)).context(DASHBOARD)?;
        Ok(Self(serde_json::from_str(&text).context(DASHBOARD)?))
    }

    fn list(&self, pointer: &str) -> anyhow::Result<&Vec<Value>> {
        self.0.pointer(pointer).and_then(Value::as_array).with_context(|| format!("{pointer} is a list"))
    }

    /// Panels that show something.
    fn panels(&self) -> anyhow::Result<impl Iterator<Item = &Value>> {
        Ok(self.list("/panels")?.iter().filter(|panel| panel["type"] != "row"))
    }

    /// Every query, with the title of its panel.
    pub(crate) fn queries(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut queries = Vec::new();
        for panel in self.panels()? {
            let title = panel["title"].as_str().context("a panel has a title")?;
            let targets = panel["targets"].as_array().with_context(|| format!("{title} has targets"))?;
            ensure!(!targets.is_empty(), "{title} asks for nothing");
            for target in targets {
                let expression = target["expr"].as_str().with_context(|| format!("{title}: a target has an expr"))?;
                queries.push((title.to_owned(), expression.to_owned()));
            }
        }
        Ok(queries)
    }

    /// Its variables whose values come from Prometheus: name and query.
    pub(crate) fn variables(&self) -> anyhow::Result<Vec<(String, String)>> {
        let variables = self.list("/templating/list")?.iter().filter(|variable| variable["type"] == "query");
        let pair =
            |variable: &Value| Some((variable["name"].as_str()?.to_owned(), variable["query"].as_str()?.to_owned()));
        variables.map(|variable| pair(variable).context("a variable has a name and a query")).collect()
    }
}

/// The names of this project's series in an expression.
fn series_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("quorumkv_")).map(str::to_owned).collect()
}

pub(crate) fn only_what_is_exported_is_asked_for() -> anyhow::Result<()> {
    let exported: BTreeSet<String> = exported::metrics()?.iter().flat_map(|metric| metric.series()).collect();
    let dashboard = Dashboard::read()?;
    let alerts = fs::read_to_string(repository(ALERTS)).context(ALERTS)?;
    let queries = dashboard.queries()?.into_iter().chain(dashboard.variables()?);
    let asked: BTreeSet<String> = queries.flat_map(|(_, query)| series_in(&query)).collect();
    let alerting = series_in(&alerts);
    ensure!(asked.len() > 20 && alerting.len() > 5, "asked for: {asked:?}; by alerts: {alerting:?}");
    let unknown: Vec<&String> = asked.union(&alerting).filter(|series| !exported.contains(*series)).collect();
    ensure!(unknown.is_empty(), "nobody exports {unknown:?}; there are {exported:#?}");
    Ok(())
}

pub(crate) fn it_is_one_that_grafana_takes() -> anyhow::Result<()> {
    let dashboard = Dashboard::read()?;
    let version = dashboard.0["schemaVersion"].as_u64().context("a schema version")?;
    ensure!(version >= 38, "schema version {version} is older than Grafana 10");
    for name in ["title", "uid"] {
        ensure!(dashboard.0[name].as_str().is_some_and(|text| !text.is_empty()), "the dashboard has no {name}");
    }
    let names: Vec<&str> = dashboard.list("/templating/list")?.iter().filter_map(|it| it["name"].as_str()).collect();
    ensure!(names == ["datasource", "namespace", "kvcluster"], "{names:?}");

    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard.list("/panels")? {
        let title = panel["title"].as_str().context("a panel has a title")?;
        ensure!(ids.insert(panel["id"].as_u64().context("a panel has an id")?), "{title} has another panel's id");
        let place = |name: &str| panel["gridPos"][name].as_u64().with_context(|| format!("{title} has no {name}"));
        let (x, y, width, height) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + width <= 24, "{title} is beyond the right edge");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            ensure!(cells.insert(cell), "{title} lies over another panel");
        }
    }
    for panel in dashboard.panels()? {
        let title = &panel["title"];
        ensure!(panel["datasource"]["uid"] == "${datasource}", "{title} has a data source of its own");
        let targets = panel["targets"].as_array().with_context(|| format!("{title} has targets"))?;
        let letters: BTreeSet<&str> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
        ensure!(letters.len() == targets.len(), "{title} has targets of one refId");
    }
    for (title, query) in dashboard.queries()? {
        let of_a_store = query.contains(r#"namespace="$namespace""#) && query.contains("$kvcluster");
        // Errors of the operator are of no store, and what it sends to the API server.
        let of_the_operator =
            ["reconcile", "api_requests"].map(|name| query.contains(&format!("quorumkv_operator_{name}")));
        ensure!(of_a_store || of_the_operator.contains(&true), "{title} asks for all stores: {query}");
    }
    Ok(())
}
