//! Redis: a primary and replicas. A write is SET and WAIT in one go, as a client would send them that wants to know.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};

use super::{Group, Operation, PATIENCE, Setup, Storage, find, folder, loopback, process};
use crate::{
    bench::{
        answer::Expected,
        connection::{Connection, Target},
        request::{Request, key},
    },
    processes::ports::PortBlock,
    wait,
};

/// How long a write waits for its replicas, in milliseconds: as long as one of quorumkv.
const WAIT_MS: &str = "5000";

pub(super) fn program() -> Option<PathBuf> {
    find("redis-server")
}

pub(super) async fn start(setup: Setup) -> anyhow::Result<Group> {
    let Setup { storage, followers } = setup;
    let program = program().context("no redis-server in PATH: install the package redis-server")?;
    let (ports, folder) = (PortBlock::take()?, folder()?);
    let mut processes = Vec::new();
    for index in 0..=followers {
        let data = folder.path().join(format!("data{index}"));
        std::fs::create_dir(&data).context("a folder for data")?;
        let mut arguments = vec!["--port".to_owned(), ports.port(index).to_string()];
        arguments.extend(["--bind", "127.0.0.1", "--save", "", "--dir"].map(str::to_owned));
        arguments.push(data.display().to_string());
        // Five replicas ask for the same copy; waiting for more of them only delays the start.
        arguments.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
        arguments.extend(match storage {
            Storage::Memory => ["--appendonly", "no"].map(str::to_owned).to_vec(),
            Storage::Persistent => ["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned).to_vec(),
        });
        if index > 0 {
            arguments.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), ports.port(0).to_string()]);
        }
        let mut process = process(format!("redis{index}"), program.clone(), arguments, &folder);
        process.start()?;
        processes.push(process);
    }
    let group = Group { address: loopback(&ports, 0), processes, _ports: ports, _folder: folder };
    let copied = wait::until("every replica confirms a write", PATIENCE, || replicated(group.address, followers));
    copied.await.with_context(|| group.processes.iter().map(|process| process.output_end(5)).collect::<String>())?;
    Ok(group)
}

/// A write that all replicas confirm.
async fn replicated(address: SocketAddr, followers: usize) -> anyhow::Result<()> {
    let number = followers.to_string();
    let request = Request::redis(&[&["SET", &key(0), ""], &["WAIT", &number, "500"]])?;
    let expected = Expected::Replicated(u64::try_from(followers)?);
    let mut connection = Connection::open(&Target { address, request, expected }).await?;
    let failure = connection.exchange(0).await?;
    ensure!(failure.is_none(), "{}", failure.unwrap_or_default());
    Ok(())
}

pub(super) fn target(address: SocketAddr, operation: Operation, value: &str) -> anyhow::Result<Target> {
    Ok(match operation {
        Operation::Write { quorum } => {
            let request = Request::redis(&[&["SET", &key(0), value], &["WAIT", &quorum.to_string(), WAIT_MS]])?;
            Target { address, request, expected: Expected::Replicated(quorum.into()) }
        }
        Operation::Read => {
            let request = Request::redis(&[&["GET", &key(0)]])?;
            Target { address, request, expected: Expected::Value(value.len()) }
        }
    })
}
