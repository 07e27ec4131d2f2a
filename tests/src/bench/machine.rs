//! Where it was measured, and with what.

use std::fs;

use clap::ValueEnum as _;
use serde::Serialize;

use super::system::{System, version};

/// The machine and the versions of everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// Processors that this program may use.
    pub cores: usize,
    /// What they are.
    pub processor: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Waiting and running tasks in the minute before.
    pub load_average: String,
    /// Of each system that is there.
    pub versions: Vec<String>,
}

impl Machine {
    /// This machine, now.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let information = read("/proc/cpuinfo");
        let processor = information.lines().find(|line| line.starts_with("model name"));
        let processor = processor.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
        let mut versions: Vec<String> = System::value_variants().iter().filter_map(|system| version(*system)).collect();
        // etcd is asked in two ways.
        versions.dedup();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            processor: processor.to_owned(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions,
        }
    }
}

/// The arguments that this program was started with, without where it lies.
#[must_use]
pub fn command() -> String {
    let mut words = vec!["bench".to_owned()];
    words.extend(std::env::args().skip(1));
    words.join(" ")
}
