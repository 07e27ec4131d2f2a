//! What can be asked for.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use quorumkv_api::settings::parse_duration;

/// Its file name, by which kubectl finds it.
pub(crate) const PROGRAM: &str = "kubectl-kvc";

/// Looks at a KvCluster, reads and writes its keys, turns its settings, hands its leadership over.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, bin_name = "kubectl kvc", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What every command takes.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Common {
    /// Namespace of the KvCluster [default: the kubeconfig's]
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig [default: its current one]
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Name of the KvCluster [default: the only one in the namespace]
    #[arg(short, long, global = true)]
    pub(crate) cluster: Option<String>,
    /// Token to present to nodes that ask for one [default: one of the Secret that the KvCluster names]
    #[arg(long, global = true, env = quorumkv_inspect::token::VARIABLE, hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// How to print what was found
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show who leads and follows, how far behind, and whose copies count
    Status(StatusOptions),
    /// Print the value of a key
    Get(GetOptions),
    /// Give a key a value
    Set(SetOptions),
    /// Set how many followers a write waits for, and wait until that is in force
    Quorum(QuorumOptions),
    /// Set the simulated round trip, and wait until that is in force
    Delay(DelayOptions),
    /// Hand leadership to a pod, and wait for the outcome
    Switchover(SwitchoverOptions),
    /// Compare every replica's content with the leader's
    Check(CheckOptions),
    /// Print a script that completes this command's arguments
    Completions {
        /// Of which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Show it again and again, until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Pause between two looks, with --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) interval: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct GetOptions {
    /// The key
    pub(crate) key: String,
    /// Read what this pod has committed, perhaps behind, instead of asking the leader
    #[arg(long, value_name = "POD")]
    pub(crate) from: Option<String>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct SetOptions {
    /// The key
    pub(crate) key: String,
    /// The value: JSON; what is no JSON is taken as a text
    pub(crate) value: String,
    /// Take the value as a text, whatever it looks like
    #[arg(long)]
    pub(crate) text: bool,
    /// Name of this write, under which it is done at most once [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct QuorumOptions {
    /// Followers that a write waits for
    pub(crate) followers: u8,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct DelayOptions {
    /// Shortest round trip, such as 10ms
    #[arg(value_parser = parse_duration)]
    pub(crate) min: Duration,
    /// Longest round trip, such as 150ms
    #[arg(value_parser = parse_duration)]
    pub(crate) max: Duration,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct SwitchoverOptions {
    /// The pod that shall lead
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Args)]
pub(crate) struct CheckOptions {
    /// How many of the keys that differ are named
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub(crate) show: usize,
    #[command(flatten)]
    pub(crate) patience: Patience,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Patience {
    /// How long to wait for what was asked for
    #[arg(long = "timeout", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub(crate) limit: Duration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_description_of_the_arguments_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn namespace_cluster_and_output_may_stand_behind_the_command() {
        let read = Arguments::try_parse_from([
            "kubectl-kvc",
            "delay",
            "10ms",
            "150ms",
            "-n",
            "team",
            "-c",
            "demo",
            "-o",
            "json",
        ]);
        let Arguments { command, common } = read.expect("valid");
        assert_eq!((common.namespace.as_deref(), common.cluster.as_deref()), (Some("team"), Some("demo")));
        assert_eq!(common.output, Output::Json);
        assert!(matches!(command, Command::Delay(DelayOptions { max, .. }) if max == Duration::from_millis(150)));
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), PROGRAM, &mut script);
            let script = String::from_utf8(script).expect("a text");
            assert!(script.contains("switchover") && script.contains(PROGRAM), "{shell}: {script}");
        }
    }
}
