//! Metrics: what nodes and operator export is what is documented, what the dashboard and the alerts ask for is
//! exported, and a Prometheus that scrapes real nodes has an answer to every query of the dashboard.
//!
//! Where there is no Prometheus and none can be installed, that last test is listed as ignored, and a line says why.
//!
//! `QUORUMKV_DASHBOARD=FILE` keeps the dashboard as it was drawn from those answers, as PNG.

#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "metrics/documented.rs"]
mod documented;
#[path = "metrics/exported.rs"]
mod exported;
#[path = "metrics/scraped.rs"]
mod scraped;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::prometheus;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = prometheus::program().is_none();
    if missing {
        println!("left out: the dashboard's queries, for there is no prometheus in PATH");
    }
    let trials = vec![
        test("every_metric_is_documented_and_no_other", documented::every_metric_is_documented_and_no_other),
        test("dashboard_and_alerts_ask_for_what_is_exported", dashboard::only_what_is_exported_is_asked_for),
        test("the_dashboard_is_one_that_grafana_takes", dashboard::it_is_one_that_grafana_takes),
        test("every_query_of_the_dashboard_has_an_answer", scraped::every_query_has_an_answer)
            .with_ignored_flag(missing),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn test(name: &str, run: fn() -> anyhow::Result<()>) -> Trial {
    Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// A file of the repository.
fn repository(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}
