//! The replication and failover rules.
