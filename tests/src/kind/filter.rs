//! Packets that are lost between pods: rules in a chain of the test's own, on every machine of the cluster.
//!
//! While a filter is open, packets to pods that are gone have no route either: by the default route they would leave
//! the cluster, and who knows who answers there.
//!
//! The machines are containers, so nothing outside the cluster is touched. All rules are replaced at one stroke; the
//! chain is emptied when a filter is opened and removed when it is closed.

use std::collections::BTreeMap;

use anyhow::Context as _;
use tokio::sync::Mutex;

use super::{
    cluster::{Kind, Machine},
    command::CommandError,
};

const CHAIN: &str = "QUORUMKV-TEST";

/// A direction in which packets are lost: from one address to another.
pub type Lost = (String, String);

/// The packet filter of a cluster.
pub struct Filter {
    kind: Kind,
    machines: Vec<Machine>,
    /// By number of the cut.
    cuts: Mutex<BTreeMap<u64, Vec<Lost>>>,
}

impl Filter {
    /// Makes the chain, with nothing in it.
    ///
    /// # Errors
    /// When a machine has no iptables.
    pub async fn open(kind: &Kind) -> anyhow::Result<Self> {
        let filter = Self { kind: kind.clone(), machines: kind.machines().await?, cuts: Mutex::default() };
        filter.load(&BTreeMap::new()).await?;
        for Machine { name: machine, pods, .. } in &filter.machines {
            // Each pod has a route of its own, which is more specific.
            filter.kind.on_machine(machine, ["ip", "route", "replace", "unreachable", pods]).await.output().await?;
            if filter.iptables(machine, &["--check", "FORWARD", "--jump", CHAIN]).await.is_err() {
                // Before what lets through whatever belongs to an open connection.
                filter.iptables(machine, &["--insert", "FORWARD", "--jump", CHAIN]).await?;
            }
        }
        Ok(filter)
    }

    /// Loses packets until [`Self::mend`] is called with the number that this gives.
    ///
    /// # Errors
    /// When a machine does not take the rules.
    pub async fn cut(&self, lost: Vec<Lost>) -> anyhow::Result<u64> {
        let mut cuts = self.cuts.lock().await;
        let number = cuts.last_key_value().map_or(0, |(last, _)| last + 1);
        cuts.insert(number, lost);
        self.load(&cuts).await?;
        Ok(number)
    }

    /// Ends a cut.
    ///
    /// # Errors
    /// When a machine does not take the rules.
    pub async fn mend(&self, number: u64) -> anyhow::Result<()> {
        let mut cuts = self.cuts.lock().await;
        cuts.remove(&number);
        self.load(&cuts).await
    }

    /// Removes the chain.
    ///
    /// # Errors
    /// When a machine keeps it.
    pub async fn close(&self) -> anyhow::Result<()> {
        for Machine { name: machine, pods, .. } in &self.machines {
            self.kind.on_machine(machine, ["ip", "route", "delete", "unreachable", pods]).await.output().await?;
            self.iptables(machine, &["--delete", "FORWARD", "--jump", CHAIN]).await?;
            self.iptables(machine, &["--flush", CHAIN]).await?;
            self.iptables(machine, &["--delete-chain", CHAIN]).await?;
        }
        Ok(())
    }

    async fn iptables(&self, machine: &str, arguments: &[&str]) -> Result<String, CommandError> {
        self.kind.on_machine(machine, ["iptables", "--wait"]).await.args(arguments).output().await
    }

    /// Replaces what the chain holds, and leaves all others alone.
    async fn load(&self, cuts: &BTreeMap<u64, Vec<Lost>>) -> anyhow::Result<()> {
        for Machine { name: machine, .. } in &self.machines {
            let restore = self.kind.on_machine(machine, ["iptables-restore", "--wait", "--noflush"]).await;
            restore.input(table(cuts)).output().await.context("the cluster's packet filter")?;
        }
        Ok(())
    }
}

fn table(cuts: &BTreeMap<u64, Vec<Lost>>) -> String {
    let lost = cuts.values().flatten();
    let rules: String = lost.map(|(from, to)| format!("-A {CHAIN} -s {from} -d {to} -j DROP\n")).collect();
    format!("*filter\n:{CHAIN} - [0:0]\n{rules}COMMIT\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_all_cuts_are_in_one_chain() {
        let lost = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let cuts = BTreeMap::from([(0, vec![lost("10.0.0.1", "10.0.0.2")]), (3, vec![lost("10.0.0.3", "10.0.0.1")])]);
        let expected = "*filter\n:QUORUMKV-TEST - [0:0]\n-A QUORUMKV-TEST -s 10.0.0.1 -d 10.0.0.2 -j DROP\n\
                        -A QUORUMKV-TEST -s 10.0.0.3 -d 10.0.0.1 -j DROP\nCOMMIT\n";
        assert_eq!(table(&cuts), expected);
    }
}
