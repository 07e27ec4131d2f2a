//! Metrics: what nodes and operator export is what is documented, and what the dashboard and the alerts ask for is
//! exported.

#[path = "metrics/dashboard.rs"]
mod dashboard;
#[path = "metrics/documented.rs"]
mod documented;
#[path = "metrics/exported.rs"]
mod exported;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = vec![
        test("every_metric_is_documented_and_no_other", documented::every_metric_is_documented_and_no_other),
        test("dashboard_and_alerts_ask_for_what_is_exported", dashboard::only_what_is_exported_is_asked_for),
        test("the_dashboard_is_one_that_grafana_takes", dashboard::it_is_one_that_grafana_takes),
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
