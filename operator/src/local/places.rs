//! Where the nodes of a local store serve, and under which names.

use std::net::{Ipv4Addr, TcpListener};

use quorumkv_api::{NodeId, peer::PeerAddress};

use super::{LocalArgs, LocalError};
use crate::validate::Store;

/// One node's place.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Its name and URLs.
    pub(super) address: PeerAddress,
    /// Address that it listens on, and dials from.
    pub(super) host: Ipv4Addr,
    /// Port for clients.
    pub(super) port: u16,
    /// Port for control and replication.
    pub(super) peer_port: u16,
}

/// Addresses and first port of the clients' side, from which the nodes have their names.
#[derive(Debug, Clone)]
pub(super) struct Names {
    hosts: Vec<Ipv4Addr>,
    port: u16,
}

impl Names {
    pub(super) fn of(args: &LocalArgs) -> Self {
        Self { hosts: args.hosts.clone(), port: args.port }
    }

    #[cfg(test)]
    pub(super) fn on_loopback(port: u16) -> Self {
        Self { hosts: Vec::new(), port }
    }

    /// The address of a node; all have the same unless each was given its own.
    fn host(&self, ordinal: usize) -> Ipv4Addr {
        self.hosts.get(ordinal).copied().unwrap_or(Ipv4Addr::LOCALHOST)
    }

    /// Name of a node: where it serves clients.
    pub(super) fn node(&self, ordinal: usize) -> NodeId {
        NodeId(format!("{}:{}", self.host(ordinal), usize::from(self.port) + ordinal))
    }
}

/// Where the nodes will serve, once every port has been found free.
pub(super) fn places(args: &LocalArgs, store: &Store) -> Result<Vec<Place>, LocalError> {
    has_room(args, store.nodes.len().max(store.wanted))?;
    store.nodes.iter().enumerate().map(|(ordinal, node)| place(args, ordinal, node)).collect()
}

/// Whether so many nodes have addresses and ports.
pub(super) fn has_room(args: &LocalArgs, nodes: usize) -> Result<(), LocalError> {
    if !args.hosts.is_empty() && args.hosts.len() < nodes {
        return Err(LocalError::Hosts { hosts: args.hosts.len(), nodes });
    }
    let (first, second) = (usize::from(args.port.min(args.peer_port)), usize::from(args.port.max(args.peer_port)));
    if first + nodes > second {
        return Err(LocalError::Overlap { port: args.port, peer_port: args.peer_port, nodes });
    }
    Ok(())
}

/// Where a node will serve, once its ports have been found free.
pub(super) fn place(args: &LocalArgs, ordinal: usize, node: &NodeId) -> Result<Place, LocalError> {
    let host = Names::of(args).host(ordinal);
    let port = free_port(host, args.port, ordinal, "client port", &node.0)?;
    let peer_port = free_port(host, args.peer_port, ordinal, "peer port", &node.0)?;
    Ok(Place { address: address(args, ordinal, node), host, port, peer_port })
}

/// Name and URLs of a node.
pub(super) fn address(args: &LocalArgs, ordinal: usize, node: &NodeId) -> PeerAddress {
    let host = Names::of(args).host(ordinal);
    let url = |first: u16| format!("http://{host}:{}", usize::from(first) + ordinal);
    PeerAddress { node: node.clone(), client_url: url(args.port), peer_url: url(args.peer_port) }
}

fn free_port(host: Ipv4Addr, first: u16, ordinal: usize, what: &'static str, node: &str) -> Result<u16, LocalError> {
    let number = u32::from(first).saturating_add(u32::try_from(ordinal).unwrap_or(u32::MAX));
    let refused = |source| LocalError::Port { host, port: number, what, node: node.to_owned(), source };
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| refused(std::io::Error::other("there are 65535 ports")))?;
    TcpListener::bind((host, port)).map_err(refused)?;
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(port: u16, peer_port: u16, hosts: &[Ipv4Addr]) -> LocalArgs {
        LocalArgs {
            file: "m.yaml".into(),
            port,
            peer_port,
            hosts: hosts.to_vec(),
            data_dir: None,
            node_binary: None,
            log_level: "warn".into(),
            page: None,
        }
    }

    fn store(args: &LocalArgs, nodes: usize) -> Store {
        Store {
            nodes: (0..nodes).map(|n| Names::of(args).node(n)).collect(),
            names: (0..10).map(|n| Names::of(args).node(n)).collect(),
            wanted: nodes,
            settled: true,
            resting: false,
            settings: quorumkv_api::Settings::default(),
            data_loss: crate::crd::DataLossPolicy::Halt,
            switchover_to: None,
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_node_before_anything_starts() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error =
            free_port(Ipv4Addr::LOCALHOST, port, 0, "client port", "127.0.0.1:7").expect_err("taken").to_string();
        assert!(error.contains(&format!("port {port} on 127.0.0.1 (client port of node 127.0.0.1:7)")), "{error}");
        assert!(error.contains("--port"), "{error}");
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let args = args(5000, 5003, &[]);
        let error = places(&args, &store(&args, 6)).expect_err("overlap").to_string();
        assert!(error.contains("overlap for 6 nodes"), "{error}");
    }

    #[test]
    fn ports_end_at_65535() {
        let error = free_port(Ipv4Addr::LOCALHOST, 65_535, 1, "peer port", "n").expect_err("no such port").to_string();
        assert!(error.contains("65536"), "{error}");
    }

    #[test]
    fn each_node_has_the_address_that_it_was_given() {
        let hosts = [1, 2, 3].map(|last| Ipv4Addr::new(127, 0, 1, last));
        let args = args(5000, 5100, &hosts);
        assert_eq!(Names::of(&args).node(2), "127.0.1.3:5002".into());
        let error = places(&args, &store(&args, 6)).expect_err("three of six").to_string();
        assert!(error.contains("--hosts names 3 addresses for 6 nodes"), "{error}");
    }
}
