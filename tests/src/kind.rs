//! A Kubernetes cluster of our own, made with kind, for tests of the whole product.
//!
//! [`cluster`] makes it and installs things into it, [`objects`] looks at what is there, [`tunnel`] reaches
//! Services and pods from this machine, [`diagnose`] tells what the cluster looked like when a test failed.
//! [`command`] runs the programs that a person would run: kubectl, helm and the scripts in tests/cluster.

pub mod cluster;
pub mod command;
pub mod diagnose;
pub mod objects;
pub mod tunnel;
