use std::io::Write as _;

use rstest::rstest;

use super::*;

fn read(flags: &[&str]) -> Result<Arguments, String> {
    let line = std::iter::once("quorumkv-node").chain(flags.iter().copied());
    Cli::try_parse_from(line).map(|cli| cli.arguments).map_err(|error| error.to_string())
}

fn checked(flags: &[&str]) -> Result<Config, String> {
    read(flags)?.check().map_err(|error| error.to_string())
}

const LEADER: [&str; 2] = ["--node-type=leader", "--followers=http://a:5001,http://b:5001,http://c:5001"];

fn leader(flags: &[&str]) -> Result<Config, String> {
    checked(&[&LEADER, flags].concat())
}

#[test]
fn without_any_flag_a_node_is_a_follower_on_the_documented_ports() {
    let config = checked(&[]).expect("defaults are valid");
    assert_eq!((config.port, config.peer_port, config.metrics_port), (5000, 5100, Some(9100)));
    assert!(config.static_leader.is_none());
    assert!(config.advertise_url.ends_with(":5000"), "{}", config.advertise_url);
    assert_eq!(config.worker_threads, 1);
    assert_eq!(config.limits, Limits::default());
    assert!(!config.client_tokens.are_asked_for());
}

#[test]
fn the_variables_of_the_lab_make_a_leader() {
    let config = leader(&["--write-quorum=2", "--min-delay=0.01", "--max-delay=0.15"]).expect("valid");
    let StaticLeader { followers, settings } = config.static_leader.expect("a leader");
    assert_eq!(settings.write_quorum, WriteQuorum(2));
    assert_eq!(settings.delay, Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) });
    assert_eq!(settings.write_timeout, Duration::from_secs(5));
    let peers: Vec<_> = followers.iter().map(|peer| peer.peer_url.as_str()).collect();
    assert_eq!(peers, ["http://a:5100", "http://b:5100", "http://c:5100"]);
}

#[test]
fn peer_urls_may_be_given_when_they_cannot_be_derived() {
    let config = leader(&["--follower-peers=http://a:1,http://b:2,http://c:3"]).expect("valid");
    let followers = config.static_leader.expect("a leader").followers;
    assert_eq!(followers[1].peer_url, "http://b:2");
    assert_eq!(followers[1].client_url, "http://b:5001");
}

#[test]
fn an_empty_list_and_a_trailing_comma_are_no_urls() {
    assert!(checked(&["--followers="]).is_ok(), "docker compose passes empty variables");
    let config = checked(&["--node-type=leader", "--followers=http://a:1/, http://b:1,", "--write-quorum=2"]);
    assert_eq!(config.expect("valid").static_leader.expect("a leader").followers.len(), 2);
}

#[test]
fn a_metrics_port_of_zero_switches_metrics_off() {
    assert_eq!(checked(&["--metrics-port=0"]).expect("valid").metrics_port, None);
}

#[rstest]
#[case("off", Compression::Off)]
#[case("0", Compression::Off)]
#[case("4096", Compression::Above(4096))]
fn compression_begins_at_a_size_or_never(#[case] value: &str, #[case] expected: Compression) {
    let config = checked(&[&format!("--compress-above={value}")]).expect("valid");
    assert_eq!(config.compression, expected);
}

#[rstest]
#[case(&["--port=0"], &["PORT", "'0'", "1..=65535"])]
#[case(&["--port=70000"], &["PORT", "70000", "1..=65535"])]
#[case(&["--peer-port=x"], &["PEER_PORT", "'x'"])]
#[case(&["--node-type=boss"], &["NODE_TYPE", "boss", "leader, follower"])]
#[case(&["--bind-address=here"], &["BIND_ADDRESS", "here"])]
#[case(&["--advertise-url=ftp://x"], &["ADVERTISE_URL", "ftp://x", "http://host:port"])]
#[case(&["--advertise-url=http://x:1/path"], &["ADVERTISE_URL", "without a path"])]
#[case(&["--followers=nonsense"], &["FOLLOWERS", "nonsense", "http://host:port"])]
#[case(&["--write-quorum=0"], &["WRITE_QUORUM", "'0'", "1.."])]
#[case(&["--min-delay=-1"], &["MIN_DELAY", "-1", "seconds"])]
#[case(&["--max-delay=NaN"], &["MAX_DELAY", "NaN", "seconds"])]
#[case(&["--max-delay=2h"], &["MAX_DELAY", "2h", "at most one hour"])]
#[case(&["--write-timeout=soon"], &["WRITE_TIMEOUT", "soon", "seconds"])]
#[case(&["--log-format=xml"], &["LOG_FORMAT", "xml", "text, json"])]
#[case(&["--storage=tape"], &["STORAGE", "tape", "memory, persistent"])]
#[case(&["--worker-threads=0"], &["WORKER_THREADS", "'0'", "1..=1024"])]
#[case(&["--delay-seed=dice"], &["DELAY_SEED", "dice"])]
#[case(&["--compress-above=all"], &["COMPRESS_ABOVE", "'all'", "256 to 4194304", "off"])]
#[case(&["--compress-above=255"], &["COMPRESS_ABOVE", "'255'", "256 to 4194304"])]
#[case(&["--max-connections=0"], &["MAX_CONNECTIONS", "'0'", "1..=1000000"])]
#[case(&["--max-peer-connections=4"], &["MAX_PEER_CONNECTIONS", "'4'", "16..=1000000"])]
#[case(&["--max-waiting-writes=0"], &["MAX_WAITING_WRITES", "'0'", "1..=10000000"])]
#[case(&["--max-waiting-bytes=1"], &["MAX_WAITING_BYTES", "'1'", "2097152.."])]
#[case(&["--head-timeout=10ms"], &["HEAD_TIMEOUT", "10ms", "at least one second"])]
#[case(&["--idle-timeout=never"], &["IDLE_TIMEOUT", "never", "seconds"])]
#[case(&["--read-token-file=a"], &["--write-token-file"])]
#[case(&["--write-token-file=/nonexistent"], &["WRITE_TOKEN_FILE=/nonexistent", "cannot be read"])]
#[case(&["--peer-token=a", "--peer-token-file=b"], &["--peer-token", "cannot be used with"])]
#[case(&["--node-id=two words"], &["NODE_ID", "two words"])]
#[case(&["--peer-token="], &["PEER_TOKEN", "one line"])]
#[case(&["--peer-token-file=/nonexistent"], &["PEER_TOKEN_FILE=/nonexistent"])]
#[case(&["--peer-port=5000"], &["PORT and PEER_PORT are both 5000"])]
#[case(&["--node-type=leader"], &["FOLLOWERS is empty", "NODE_TYPE=leader"])]
fn bad_values_are_refused_with_name_value_and_what_is_allowed(#[case] flags: &[&str], #[case] expected: &[&str]) {
    let refusal = checked(flags).expect_err("refused");
    for text in expected {
        assert!(refusal.contains(text), "{text:?} is missing in: {refusal}");
    }
}

#[rstest]
#[case(&["--write-quorum=4"], &["WRITE_QUORUM=4", "1..3"])]
#[case(&["--min-delay=2", "--max-delay=1"], &["MIN_DELAY=2", "MAX_DELAY=1", "above"])]
#[case(&["--max-delay=5"], &["MAX_DELAY=5", "WRITE_TIMEOUT=5", "below writeTimeout"])]
#[case(&["--write-timeout=0"], &["WRITE_TIMEOUT=0", "above zero"])]
#[case(&["--follower-peers=http://a:1"], &["FOLLOWER_PEERS has 1", "FOLLOWERS has 3"])]
fn a_leader_refuses_settings_that_cannot_work(#[case] flags: &[&str], #[case] expected: &[&str]) {
    let refusal = leader(flags).expect_err("refused");
    for text in expected {
        assert!(refusal.contains(text), "{text:?} is missing in: {refusal}");
    }
}

#[test]
fn a_follower_named_twice_is_refused() {
    let refusal = checked(&["--node-type=leader", "--followers=http://a:1,http://a:1/"]).expect_err("refused");
    assert!(refusal.contains("http://a:1 twice"), "{refusal}");
}

#[test]
fn the_token_file_may_end_with_a_newline() {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(file, "secret").expect("written");
    let flag = format!("--peer-token-file={}", file.path().display());
    assert_eq!(checked(&[&flag]).expect("valid").peer_token.as_deref(), Some("secret"));
}

#[test]
fn with_tls_followers_are_dialled_with_it() {
    let (folder, authority) = (tempfile::tempdir().expect("a folder"), crate::tls::tests::Authority::new());
    authority.write(folder.path(), &[&authority]);
    let directory = format!("--peer-tls-dir={}", folder.path().display());
    let name = format!("--peer-tls-name={}", crate::tls::tests::NAME);
    let config = leader(&[&directory, &name]).expect("valid");
    assert_eq!(config.static_leader.expect("a leader").followers[0].peer_url, "https://a:5100");
    let peers = "--follower-peers=https://a:1,https://b:2,https://c";
    let config = leader(&[&directory, &name, peers]).expect("valid");
    assert_eq!(config.static_leader.expect("a leader").followers[2].peer_url, "https://c");

    let refusal = |flags: &[&str]| leader(flags).expect_err("refused");
    let plain = refusal(&[&directory, &name, "--follower-peers=https://a:1,http://b:2,https://c"]);
    assert!(plain.contains("http://b:2, which must begin with https: PEER_TLS_DIR is set"), "{plain}");
    let secured = refusal(&[peers]);
    assert!(secured.contains("https://a:1, which must begin with http: PEER_TLS_DIR is not set"), "{secured}");
    let half = refusal(&[&directory]);
    assert!(half.contains("--peer-tls-name"), "{half}");
    let other = refusal(&[&directory, "--peer-tls-name=other"]);
    assert!(other.contains("PEER_TLS_NAME=other: peers would refuse"), "{other}");
}
