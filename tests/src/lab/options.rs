//! Arguments that the programs share.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, ValueEnum};
use quorumkv_api::{Delay, settings::parse_duration};
use reqwest::Url;

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// One JSON object, alone on standard output.
    Json,
}

/// Which store to work on. Without any of these a program starts one: six processes on this machine.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which store (by default six processes that the program starts, and ends)")]
pub struct TargetOptions {
    /// Client URL of the leader, such as http://127.0.0.1:5000
    #[arg(long, value_name = "URL", value_parser = base_url, requires = "follower", conflicts_with_all = ["cluster", "compose"])]
    pub leader: Option<String>,

    /// Client URL of a follower; once for each
    #[arg(long = "follower", id = "follower", value_name = "URL", value_parser = base_url, requires = "leader")]
    pub followers: Vec<String>,

    /// Peer URL of the leader, to change settings by [default: the leader's with its port + 100]
    #[arg(long, value_name = "URL", value_parser = base_url, requires = "leader")]
    pub peer: Option<String>,

    /// Token of the leader's peer port, if it asks for one
    #[arg(long, value_name = "TOKEN", env = "PEER_TOKEN", hide_env_values = true)]
    pub peer_token: Option<String>,

    /// Token to present to nodes that ask their clients for one
    #[arg(long, value_name = "TOKEN", env = quorumkv_inspect::token::VARIABLE, hide_env_values = true)]
    pub token: Option<String>,

    /// Certificates of the authorities that vouch for the leader's peer port (ca.crt), if it speaks TLS
    #[arg(long, value_name = "FILE", requires = "peer_name")]
    pub peer_ca: Option<PathBuf>,

    /// DNS name in the certificate of the leader's peer port, its PEER_TLS_NAME
    #[arg(long, value_name = "NAME", requires = "peer_ca")]
    pub peer_name: Option<String>,

    /// A KvCluster, reached through the API server that the kubeconfig names
    #[arg(long, value_name = "NAMESPACE/NAME", conflicts_with = "compose")]
    pub cluster: Option<ClusterName>,

    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "cluster")]
    pub context: Option<String>,

    /// The store that docker compose runs: leader on 127.0.0.1:5000, followers on 5001 to 5005
    #[arg(long)]
    pub compose: bool,
}

/// What a store that the program starts is started with: the lab's own settings.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "A store that the program starts")]
pub struct EmbeddedOptions {
    /// Follower acknowledgements per write, of five
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=5), conflicts_with_all = ELSEWHERE)]
    pub write_quorum: u8,

    /// Shortest simulated round trip
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse_duration, conflicts_with_all = ELSEWHERE)]
    min_delay: Duration,

    /// Longest simulated round trip
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = parse_duration, conflicts_with_all = ELSEWHERE)]
    max_delay: Duration,
}

/// Arguments that name a store which runs already.
const ELSEWHERE: [&str; 3] = ["leader", "cluster", "compose"];

impl EmbeddedOptions {
    /// The simulated round trip.
    ///
    /// # Errors
    /// When the range is empty.
    pub fn delay(&self) -> Result<Delay, String> {
        range(self.min_delay, self.max_delay)
    }
}

/// A range of simulated round trips.
#[derive(Debug, Clone, Copy, Args)]
pub struct DelayOptions {
    /// Shortest simulated round trip
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse_duration)]
    min_delay: Duration,

    /// Longest simulated round trip
    #[arg(long, value_name = "TIME", default_value = "150ms", value_parser = parse_duration)]
    max_delay: Duration,
}

impl DelayOptions {
    /// The range.
    ///
    /// # Errors
    /// When it is empty.
    pub fn delay(&self) -> Result<Delay, String> {
        range(self.min_delay, self.max_delay)
    }
}

fn range(min: Duration, max: Duration) -> Result<Delay, String> {
    if min > max {
        return Err(format!("--min-delay {min:?} is above --max-delay {max:?}"));
    }
    Ok(Delay { min, max })
}

/// `NAMESPACE/NAME` of a KvCluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for ClusterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("write NAMESPACE/NAME, such as default/demo".to_owned()),
        }
    }
}

/// A URL of a node's port, without a slash at its end.
fn base_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; write a URL such as http://127.0.0.1:5000"))?;
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err("write a URL such as http://127.0.0.1:5000".to_owned());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Where a leader's peer port is if nobody says: at the same host, its port 100 higher, as everywhere here.
///
/// # Errors
/// When there is no such port.
pub(super) fn peer_of(client_url: &str) -> Result<String, String> {
    let not = |what: &str| format!("{client_url} {what}: say with --peer where its peer port is");
    let mut url = Url::parse(client_url).map_err(|_| not("is no URL"))?;
    let port = url.port_or_known_default().and_then(|port| port.checked_add(100));
    url.set_port(Some(port.ok_or_else(|| not("has no port below 65436"))?)).map_err(|()| not("has no host"))?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};
    use rstest::rstest;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        target: TargetOptions,
        #[command(flatten)]
        embedded: EmbeddedOptions,
    }

    fn parse(arguments: &str) -> Result<Program, clap::Error> {
        Program::try_parse_from(["program"].into_iter().chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_defaults_are_the_labs() {
        Program::command().debug_assert();
        let Program { target, embedded } = parse("").expect("nothing is needed");
        assert_eq!((target.leader, target.cluster, target.compose), (None, None, false));
        assert_eq!(embedded.write_quorum, 5);
        let delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };
        assert_eq!(embedded.delay(), Ok(delay));
    }

    #[test]
    fn urls_lose_the_slash_at_their_end() {
        let given = parse("--leader http://a:5000/ --follower http://b:5000 --follower http://c/kv/").expect("URLs");
        assert_eq!(given.target.leader.as_deref(), Some("http://a:5000"));
        assert_eq!(given.target.followers, ["http://b:5000", "http://c/kv"]);
    }

    #[rstest]
    #[case("--leader http://a:5000")]
    #[case("--follower http://a:5000")]
    #[case("--leader a:5000 --follower http://b:5000")]
    #[case("--leader http:// --follower http://b:5000")]
    #[case("--leader ftp://a --follower http://b:5000")]
    #[case("--leader http://a --follower http://b --compose")]
    #[case("--leader http://a --follower http://b --cluster default/demo")]
    #[case("--compose --cluster default/demo")]
    #[case("--cluster demo")]
    #[case("--cluster /demo")]
    #[case("--cluster a/b/c")]
    #[case("--context kind")]
    #[case("--peer http://a:5100")]
    #[case("--leader http://a --follower http://b --peer-ca ca.crt")]
    #[case("--leader http://a --follower http://b --peer-name nodes")]
    #[case("--write-quorum 0")]
    #[case("--write-quorum 6")]
    #[case("--compose --write-quorum 3")]
    #[case("--compose --max-delay 1s")]
    #[case("--min-delay 10")]
    #[case("extra")]
    fn what_does_not_fit_together_is_refused(#[case] arguments: &str) {
        let error = parse(arguments).expect_err(arguments);
        assert_eq!(error.exit_code(), 2, "{error}");
    }

    #[test]
    fn an_empty_range_of_delays_is_refused() {
        let program = parse("--min-delay 20ms --max-delay 10ms").expect("each is a duration");
        assert!(program.embedded.delay().expect_err("empty").contains("above --max-delay"));
    }

    #[rstest]
    #[case("http://127.0.0.1:5000", Some("http://127.0.0.1:5100"))]
    #[case("http://leader", Some("http://leader:180"))]
    #[case("http://leader:65500", None)]
    fn the_peer_port_is_a_hundred_higher(#[case] client: &str, #[case] peer: Option<&str>) {
        assert_eq!(peer_of(client).ok().as_deref(), peer);
    }
}
