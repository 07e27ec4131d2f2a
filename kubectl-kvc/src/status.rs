//! `status`: what the KvCluster, its pods and its nodes say, side by side.

mod look;
mod view;

use std::io::{IsTerminal as _, stdout};

use quorumkv_operator::crd::KvCluster;
use tokio::time::sleep;

use self::look::Looker;
use crate::{
    arguments::{Output, StatusOptions},
    cluster::Target,
    failure::Failure,
    nodes::Reach,
    print,
};

/// Moves to the upper left of a terminal and empties it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(crate) async fn run(
    target: &Target,
    reach: impl Reach,
    cluster: KvCluster,
    options: &StatusOptions,
    output: Output,
) -> Result<(), Failure> {
    let mut looker = Looker::new(target, &cluster, reach).await?;
    let mut cluster = cluster;
    loop {
        let view = looker.look(target, &cluster).await?;
        let text = match output {
            Output::Json if options.watch => format!("{}\n", serde_json::to_string(&view).expect("a view is JSON")),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&view).expect("a view is JSON")),
            Output::Table if options.watch && stdout().is_terminal() => format!("{CLEAR}{view}"),
            Output::Table if options.watch => format!("{view}\n"),
            Output::Table => view.to_string(),
        };
        print(text.as_bytes())?;
        if !options.watch {
            return Ok(());
        }
        sleep(options.interval).await;
        cluster = target.get().await?;
    }
}
