//! The manifest of a local store, as far as tests turn it.

use std::{fmt, time::Duration};

use quorumkv_api::{Delay, settings::format_duration};

/// Where the nodes keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// In memory.
    Memory,
    /// On disk.
    Persistent,
}

/// The fields of a KvCluster that tests turn.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `spec.followers`.
    pub followers: usize,
    /// `spec.writeQuorum`.
    pub write_quorum: u8,
    /// `spec.delay`.
    pub delay: Delay,
    /// `spec.writeTimeout`.
    pub write_timeout: Duration,
    /// `spec.storage.type`.
    pub storage: Storage,
    /// The annotation `quorumkv.io/switchover-to`.
    pub switchover_to: Option<String>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            followers: 5,
            write_quorum: 3,
            delay: Delay::ZERO,
            write_timeout: Duration::from_secs(5),
            storage: Storage::Memory,
            switchover_to: None,
        }
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { followers, write_quorum, delay, write_timeout, storage, switchover_to } = self;
        let (min, max) = (format_duration(delay.min), format_duration(delay.max));
        let write_timeout = format_duration(*write_timeout);
        writeln!(f, "apiVersion: quorumkv.io/v1alpha1\nkind: KvCluster\nmetadata:\n  name: demo")?;
        if let Some(node) = switchover_to {
            writeln!(f, "  annotations: {{quorumkv.io/switchover-to: \"{node}\"}}")?;
        }
        writeln!(
            f,
            "spec:\n  followers: {followers}\n  writeQuorum: {write_quorum}\n  delay: {{min: {min}, max: {max}}}\n  \
             writeTimeout: {write_timeout}"
        )?;
        match storage {
            Storage::Memory => Ok(()),
            Storage::Persistent => writeln!(f, "  storage: {{type: Persistent, size: 1Gi}}"),
        }
    }
}
