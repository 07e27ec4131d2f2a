//! Packets that are lost between nodes: a network namespace for the whole test, and a packet filter in it.
//!
//! The namespace has nothing but a loopback device. Nodes have addresses of their own on it ([`Hosts::Own`]) and
//! dial from them, so a packet shows from which node it comes. Manager and clients share an address; the manager
//! dials peer ports, clients dial client ports. Nothing outside the namespace is touched, and it goes with the
//! last process in it.
//!
//! [`Hosts::Own`]: crate::processes::Hosts::Own

use std::{
    collections::BTreeMap,
    env,
    io::Write as _,
    process::{Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context, bail, ensure};

use super::faults::{Others, Way};
use crate::processes::programs;

/// Set for the process inside.
const INSIDE: &str = "QUORUMKV_TEST_NAMESPACE";
/// Address of manager and clients.
const MANAGER: &str = "127.0.0.1";

/// Whether this process runs in a namespace of its own.
#[must_use]
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Why no network namespace can be made, if it is a matter of permission: root may, most others may not.
///
/// # Errors
/// When a program is missing.
pub fn obstacle() -> anyhow::Result<Option<String>> {
    let tried = Command::new("unshare").args(["--net", "--", "true"]).output();
    let tried = tried.context("no unshare, which partitions need: install the package util-linux")?;
    if !tried.status.success() {
        return Ok(Some(String::from_utf8_lossy(&tried.stderr).trim().to_owned()));
    }
    for (program, package) in [("ip", "iproute2"), ("iptables-restore", "iptables")] {
        let path = env::var_os("PATH").unwrap_or_default();
        let there = env::split_paths(&path).any(|folder| folder.join(program).is_file());
        ensure!(there, "no {program} in PATH, which partitions need: install the package {package}");
    }
    Ok(None)
}

/// Runs this program again in a namespace of its own.
///
/// # Errors
/// When it fails there; what it says stands in the output.
pub fn run_inside() -> anyhow::Result<()> {
    let own = env::current_exe().context("the path of this program")?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", r#"ip link set lo up && exec "$0""#]).arg(own);
    command.env(INSIDE, "1").stdin(Stdio::null());
    // Cargo stays outside: it may want the network.
    command.env("QUORUMKV_NODE_BIN", programs::node()?).env("QUORUMKV_OPERATOR_BIN", programs::operator()?);
    let status = command.status().context("unshare")?;
    ensure!(status.success(), "it failed in its network namespace, see above ({status})");
    Ok(())
}

/// A node as the filter knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    address: String,
    peer_port: String,
}

impl Place {
    pub(super) fn of(peer_url: &str) -> anyhow::Result<Self> {
        let authority = peer_url.strip_prefix("http://").and_then(|authority| authority.rsplit_once(':'));
        let (address, port) = authority.with_context(|| format!("{peer_url}: address and port"))?;
        Ok(Self { address: address.to_owned(), peer_port: port.to_owned() })
    }
}

/// The packet filter of this process's namespace.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// Rules of the cuts in force, by number of the cut.
    cuts: Mutex<BTreeMap<u64, Vec<String>>>,
}

impl Network {
    /// Loses packets until [`Self::mend`] is called with the number that this gives.
    pub(super) fn cut(&self, victim: &Place, others: &[Place], from: Others, way: Way) -> anyhow::Result<u64> {
        ensure!(is_inside(), "packets are lost only in a network namespace of the test's own");
        let mut cuts = self.cuts.lock().expect("nobody panics while changing rules");
        let number = cuts.last_key_value().map_or(0, |(last, _)| last + 1);
        cuts.insert(number, rules(victim, others, from, way));
        load(&cuts)?;
        Ok(number)
    }

    /// Ends a cut.
    pub(super) fn mend(&self, number: u64) -> anyhow::Result<()> {
        let mut cuts = self.cuts.lock().expect("nobody panics while changing rules");
        cuts.remove(&number);
        load(&cuts)
    }
}

fn rules(victim: &Place, others: &[Place], from: Others, way: Way) -> Vec<String> {
    let (deaf, mute) = (way != Way::Mute, way != Way::Deaf);
    let count = match from {
        Others::Nodes(count) => count,
        Others::Manager => 0,
        Others::Everybody => others.len(),
    };
    let mut rules = Vec::new();
    for other in others.iter().take(count) {
        let (ours, theirs) = (&victim.address, &other.address);
        rules.extend(deaf.then(|| format!("-s {theirs} -d {ours}")));
        rules.extend(mute.then(|| format!("-s {ours} -d {theirs}")));
    }
    if !matches!(from, Others::Nodes(_)) {
        let Place { address, peer_port } = victim;
        rules.extend(deaf.then(|| format!("-s {MANAGER} -d {address} -p tcp --dport {peer_port}")));
        rules.extend(mute.then(|| format!("-s {address} -d {MANAGER} -p tcp --sport {peer_port}")));
    }
    rules
}

/// Replaces all rules at one stroke.
fn load(cuts: &BTreeMap<u64, Vec<String>>) -> anyhow::Result<()> {
    let rules: String = cuts.values().flatten().map(|rule| format!("-A INPUT {rule} -j DROP\n")).collect();
    let table = format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n");
    let mut command = Command::new("iptables-restore");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("iptables-restore")?;
    child.stdin.take().expect("it is piped").write_all(table.as_bytes()).context("iptables-restore")?;
    let output = child.wait_with_output().context("iptables-restore")?;
    if !output.status.success() {
        bail!("iptables-restore: {}\n{table}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_names_both_ends_of_what_is_lost() {
        let place = |n: u8| Place::of(&format!("http://127.0.1.{n}:{}", 7000 + u16::from(n))).expect("a URL");
        let others = [place(2), place(3)];
        let rules = |from, way| rules(&place(1), &others, from, way);
        assert_eq!(rules(Others::Nodes(1), Way::Both), ["-s 127.0.1.2 -d 127.0.1.1", "-s 127.0.1.1 -d 127.0.1.2"]);
        assert_eq!(rules(Others::Nodes(2), Way::Deaf), ["-s 127.0.1.2 -d 127.0.1.1", "-s 127.0.1.3 -d 127.0.1.1"]);
        assert_eq!(rules(Others::Manager, Way::Mute), ["-s 127.0.1.1 -d 127.0.0.1 -p tcp --sport 7001"]);
        assert_eq!(rules(Others::Everybody, Way::Both).len(), 6);
    }
}
