//! What the tests and the lab's programs are made of.
//!
//! [`load`] writes and reads like many clients and remembers it, [`follower_reads`] reads from every node, [`fill`]
//! only writes much; [`history`] tells whether a correct store could have answered so. [`processes`] runs nodes, and
//! the operator's local mode, as processes of this machine, [`kind`] runs them on Kubernetes; [`chaos`] strikes both,
//! [`recovery`] watches a node come back. [`client`] speaks to the client port, [`wait`] waits for conditions.
//! [`browser`] looks at the page, [`prometheus`] at the metrics, [`dashboard`] draws what the dashboard asks of it; [`lab`] holds the lab's programs, [`bench`]
//! measures speed beside other systems, [`fleet`] what very many stores cost; `drawing` makes pictures of what they measured.

pub mod bench;
pub mod browser;
pub mod chaos;
pub mod client;
pub mod dashboard;
mod drawing;
pub mod fill;
pub mod fleet;
pub mod follower_reads;
pub mod history;
pub mod kind;
pub mod lab;
pub mod load;
pub mod processes;
pub mod prometheus;
pub mod recovery;

pub use quorumkv_inspect::wait;
