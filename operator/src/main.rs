//! `quorumkv-operator run | local | crd`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorumkv_operator::{
    crd, local, run,
    telemetry::{self, LogFormat},
};

/// Operates quorumkv stores: on Kubernetes, or as processes on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Operate the KvClusters of a Kubernetes cluster
    Run(run::RunArgs),
    /// Run one KvCluster as processes on this machine, without Kubernetes
    Local(local::LocalArgs),
    /// Print the CustomResourceDefinition
    Crd,
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(args) => {
            telemetry::init(args.log_format, "info");
            run::run(args).await.map_err(anyhow::Error::from)
        }
        Command::Local(args) => {
            telemetry::init(LogFormat::Text, "warn");
            local::run(args).await.map_err(anyhow::Error::from)
        }
        Command::Crd => print_definition(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn print_definition() -> anyhow::Result<()> {
    use std::io::Write;
    Ok(std::io::stdout().write_all(crd::definition_yaml()?.as_bytes())?)
}

#[expect(clippy::print_stderr, reason = "the last words of a program go where people look for them")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("quorumkv-operator: {error}");
    ExitCode::FAILURE
}
