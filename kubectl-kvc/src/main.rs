//! `kubectl kvc`: what people do with KvClusters, from a command line.
//!
//! [`arguments`] are read, [`cluster`] finds the KvCluster through the kubeconfig, [`nodes`] reaches its pods through the
//! API server. Then one command is carried out: [`status`], [`keys`] (get and set), [`settings`] (quorum and delay),
//! [`switchover`] or [`check`]. It needs no route into the cluster and no rights but those of its user.

mod arguments;
mod check;
mod cluster;
mod failure;
mod keys;
mod nodes;
mod settings;
mod status;
mod switchover;
#[cfg(test)]
mod testing;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};

use self::{
    arguments::{Arguments, Command, Common},
    cluster::Target,
    failure::Failure,
    nodes::Tunnels,
};

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { command, common } = Arguments::parse();
    match run(command, &common).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Whoever closed this pipe does not want to know; the exit code still tells.
            writeln!(io::stderr(), "error: {failure}").ok();
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command, common: &Common) -> Result<(), Failure> {
    if let Command::Completions { shell } = command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), arguments::PROGRAM, &mut script);
        return print(&script);
    }
    let (client, namespace) = cluster::connect(common).await?;
    let (target, cluster) = Target::find(client, namespace, common.cluster.as_deref()).await?;
    let target = match command {
        Command::Status(_) | Command::Get(_) | Command::Set(_) | Command::Check(_) => {
            target.presenting(common.token.as_deref(), &cluster).await?
        }
        // These ask the API server alone.
        Command::Quorum(_) | Command::Delay(_) | Command::Switchover(_) | Command::Completions { .. } => target,
    };
    let reach = || Tunnels::new(&target);
    match command {
        Command::Status(options) => status::run(&target, reach().await?, cluster, &options, common.output).await,
        Command::Get(options) => keys::get(&target, &reach().await?, &options, common.output).await,
        Command::Set(options) => keys::set(&target, &reach().await?, &options, common.output).await,
        Command::Quorum(options) => settings::quorum(&target, &cluster, &options, common.output).await,
        Command::Delay(options) => settings::delay(&target, &cluster, &options, common.output).await,
        Command::Switchover(options) => switchover::run(&target, &cluster, &options, common.output).await,
        Command::Check(options) => check::run(&target, &reach().await?, &cluster, &options, common.output).await,
        Command::Completions { .. } => Ok(()),
    }
}

/// Writes to standard output, and fails where nobody reads it.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
}
