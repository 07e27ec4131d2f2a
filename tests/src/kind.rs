//! A Kubernetes cluster of our own, made with kind, for tests of the whole product.
//!
//! [`cluster`] makes it and installs things into it, [`objects`] looks at what is there, [`tunnel`] reaches
//! Services and pods from this machine, [`diagnose`] tells what the cluster looked like when a test failed.
//! [`store`] is
//! what a person does with a KvCluster, [`operator`] what happens to the operator; [`node_ports`] reaches each pod
//! without the API server, [`filter`] loses packets between pods; [`scenarios`] tells what each scenario cost. [`command`] runs the programs that a person would run: kubectl, helm and the scripts in tests/cluster.

pub mod cluster;
pub mod command;
pub mod diagnose;
pub mod filter;
pub mod node_ports;
pub mod objects;
pub mod operator;
pub mod scenarios;
pub mod store;

pub use quorumkv_inspect::tunnel;
