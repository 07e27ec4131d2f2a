//! Blocks of loopback ports that nobody else uses, and who listens on a port.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

use anyhow::{Context, bail};

/// Ports in a block; the first one is the guard.
const BLOCK: u16 = 32;
/// Below this, ports belong to well-known servers.
const LOWEST: u16 = 10_000;

/// A block of ports below the range from which the system takes source ports of outgoing connections, so that
/// a node that restarts finds its port free. While this lives, no other block covers them, in any process.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// Listens on the first port of the block: the system's own lock against other test processes.
    _guard: TcpListener,
}

impl PortBlock {
    /// Takes a block in which nobody listens.
    ///
    /// # Errors
    /// When there is none.
    pub fn take() -> anyhow::Result<Self> {
        let blocks = (first_ephemeral_port().saturating_sub(LOWEST)) / BLOCK;
        if blocks == 0 {
            bail!("no ports between {LOWEST} and those of outgoing connections");
        }
        // Begin anywhere: test processes that run at once would otherwise contend for the first blocks.
        let begin: u16 = rand::random_range(0..blocks);
        for number in 0..blocks {
            let first = LOWEST + (begin + number) % blocks * BLOCK;
            let Ok(guard) = listen(first) else { continue };
            if (first + 1..first + BLOCK).all(|port| listen(port).is_ok()) {
                return Ok(Self { first, _guard: guard });
            }
        }
        bail!("every block of {BLOCK} ports from {LOWEST} on is in use")
    }

    /// The ports to use.
    #[must_use]
    pub const fn ports(&self) -> Range<u16> {
        self.first + 1..self.first + BLOCK
    }

    /// The `index`-th of them.
    ///
    /// # Panics
    /// When the block has no such port.
    #[must_use]
    pub fn port(&self, index: usize) -> u16 {
        self.ports().nth(index).expect("a store of ten nodes with three ports each fits into a block")
    }
}

fn listen(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

fn first_ephemeral_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

/// The processes of this machine that listen on any of `ports` (TCP over IPv4), by port.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn listeners(ports: Range<u16>) -> anyhow::Result<Vec<(u16, i32)>> {
    let sockets = listening_sockets(&ports)?;
    if sockets.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // A process may end while it is looked at, and those of others cannot be looked into.
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        let links: HashSet<String> = descriptors
            .flatten()
            .filter_map(|descriptor| Some(fs::read_link(descriptor.path()).ok()?.to_str()?.to_owned()))
            .collect();
        let holds = sockets.iter().filter(|(_, inode)| links.contains(&format!("socket:[{inode}]")));
        found.extend(holds.map(|(port, _)| (*port, pid)));
    }
    found.sort_unstable();
    Ok(found)
}

/// Port and inode of every socket that listens on one of `ports`.
fn listening_sockets(ports: &Range<u16>) -> anyhow::Result<Vec<(u16, u64)>> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").context("/proc/net/tcp")?;
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (*state == LISTEN && ports.contains(&port)).then_some((port, inode.parse().ok()?))
    };
    Ok(table.lines().skip(1).filter_map(socket).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_blocks_share_no_port() {
        let (one, other) = (PortBlock::take().expect("free"), PortBlock::take().expect("free"));
        assert!(one.ports().all(|port| !other.ports().contains(&port)), "{one:?} {other:?}");
        assert_eq!(one.port(0), one.ports().start);
    }

    #[test]
    fn a_listener_is_found_with_its_process() {
        let block = PortBlock::take().expect("free");
        let port = block.port(3);
        assert_eq!(listeners(block.ports()).expect("readable"), []);
        let listener = listen(port).expect("free");
        let own = i32::try_from(std::process::id()).expect("a pid");
        assert_eq!(listeners(block.ports()).expect("readable"), [(port, own)]);
        drop(listener);
        assert_eq!(listeners(block.ports()).expect("readable"), []);
    }
}
