//! The chart's Grafana dashboard as a picture, where there is no Grafana: its own queries, asked of a real Prometheus,
//! drawn in its own grid.
//!
//! It is no screenshot, and says so: panels, titles, places, units, legends and queries are the dashboard's, the strokes
//! are this project's. [`ask`] gets the numbers, [`draw`] makes the picture.

mod drawn;
mod units;

use std::{fs, ops::Range, path::Path};

use anyhow::Context as _;
use serde_json::Value;

pub use self::drawn::draw;
use crate::prometheus::Prometheus;

/// Where the dashboard is, in the repository.
pub const FILE: &str = "charts/quorumkv/files/dashboards/quorumkv.json";

/// What the variables of the dashboard stand for.
#[derive(Debug, Clone)]
pub struct Variables {
    /// Namespace of the store.
    pub namespace: String,
    /// Its name.
    pub kvcluster: String,
    /// What Grafana would make `$__rate_interval`, such as `10s`: at least four scrapes.
    pub rate_interval: String,
}

impl Variables {
    fn fill_in(&self, query: &str) -> String {
        let Self { namespace, kvcluster, rate_interval } = self;
        query
            .replace("$namespace", namespace)
            .replace("$kvcluster", kvcluster)
            .replace("$__rate_interval", rate_interval)
    }
}

/// How a panel shows its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The title of what follows.
    Row,
    /// The latest values, with their names or in their place.
    Stat {
        /// Only names are shown.
        names: bool,
    },
    /// When each was one, and when zero.
    Timeline,
    /// Lines.
    Lines,
}

/// Where a panel is, in the dashboard's own units: 24 across.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Across.
    pub width: u32,
    /// Down.
    pub height: u32,
}

/// One line of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// As the legend has it.
    pub name: String,
    /// Seconds since the beginning of what is shown, and values; finite, and in order of time.
    pub values: Vec<(f64, f64)>,
}

/// A panel with what Prometheus answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// How it is shown.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// Grafana's name of the unit.
    pub unit: String,
    /// What is shown.
    pub series: Vec<Series>,
}

/// Reads the dashboard and asks every query of it for this time, in seconds since 1970, second by second.
///
/// # Errors
/// When the file is no dashboard, or Prometheus refuses a query.
pub async fn ask(
    prometheus: &Prometheus,
    repository: &Path,
    variables: &Variables,
    time: Range<u64>,
) -> anyhow::Result<Vec<Panel>> {
    let text = fs::read_to_string(repository.join(FILE)).context(FILE)?;
    let dashboard: Value = serde_json::from_str(&text).context(FILE)?;
    let mut panels = Vec::new();
    for described in dashboard["panels"].as_array().context("a dashboard has panels")? {
        let mut panel = panel(described)?;
        for target in described["targets"].as_array().into_iter().flatten() {
            let query = variables.fill_in(target["expr"].as_str().context("a target has an expr")?);
            let (start, end) = (time.start.to_string(), time.end.to_string());
            let parameters = [("query", query.as_str()), ("start", &start), ("end", &end), ("step", "1")];
            let data = prometheus.ask("query_range", &parameters).await.with_context(|| panel.title.clone())?;
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let found = data["result"].as_array().into_iter().flatten();
            panel.series.extend(found.filter_map(|result| series(result, legend, time.start)));
        }
        panels.push(panel);
    }
    Ok(panels)
}

fn panel(described: &Value) -> anyhow::Result<Panel> {
    let title = described["title"].as_str().context("a panel has a title")?.to_owned();
    let place = |name: &str| {
        let number = described["gridPos"][name].as_u64().and_then(|number| u32::try_from(number).ok());
        number.with_context(|| format!("{title} has no {name}"))
    };
    let kind = match described["type"].as_str().context("a panel has a type")? {
        "row" => Kind::Row,
        "stat" => Kind::Stat { names: described["options"]["textMode"] == "name" },
        "state-timeline" => Kind::Timeline,
        "timeseries" => Kind::Lines,
        other => anyhow::bail!("{title} is of type {other}, which nothing here draws"),
    };
    let place = Place { x: place("x")?, y: place("y")?, width: place("w")?, height: place("h")? };
    let unit = described["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or("none").to_owned();
    Ok(Panel { title, kind, place, unit, series: Vec::new() })
}

/// A series, unless no number of it is finite.
fn series(result: &Value, legend: &str, start: u64) -> Option<Series> {
    let number = |pair: &Value| {
        let (time, value): (f64, f64) = (pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?);
        value.is_finite().then_some((time - start as f64, value))
    };
    let values: Vec<(f64, f64)> = result["values"].as_array()?.iter().filter_map(number).collect();
    (!values.is_empty()).then(|| Series { name: legend_of(legend, &result["metric"]), values })
}

/// The legend with labels in the place of their names in braces; all labels where there is no legend.
fn legend_of(legend: &str, labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
    if legend.is_empty() {
        return labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    }
    let mut text = legend.to_owned();
    for (name, value) in labels {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    // A label that a series does not have is empty.
    while let Some((before, rest)) = text.split_once("{{") {
        let after = rest.split_once("}}").map_or("", |(_, after)| after);
        text = format!("{before}{after}");
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_legend_names_labels_that_are_there() {
        let labels = json!({"pod": "demo-1", "status": "2xx"});
        assert_eq!(legend_of("{{pod}} {{status}}", &labels), "demo-1 2xx");
        assert_eq!(legend_of("failed {{error}}", &labels), "failed");
        assert_eq!(legend_of("", &labels), "pod=demo-1 status=2xx");
    }

    #[test]
    fn what_is_no_number_is_a_gap() {
        let result = json!({"metric": {}, "values": [[101, "1.5"], [102, "NaN"], [103, "+Inf"], [104, "2"]]});
        let series = series(&result, "one", 100).expect("numbers");
        assert_eq!(series.values, [(1.0, 1.5), (4.0, 2.0)]);
        assert_eq!(super::series(&json!({"metric": {}, "values": [[101, "NaN"]]}), "none", 100), None);
    }
}
