//! The quorumkv operator.
//!
//! One reconcile is one line: [`observe`] what exists, [`validate`] the spec once, [`manage`] the nodes
//! (probe, [`decide`], act; an election is [`elect`], a wish for one [`switchover`], another number of nodes [`scale`]), [`build`] the objects, [`apply`] what differs, and
//! derive the [`status`]. What must never be forgotten is the [`record`]; what people are told are events with a [`reason`].
//! A person may [`pause`] it. Of several operators the one that holds the [`lease`] works. [`local`] runs the same decisions
//! over child processes instead of pods. Either way [`page`] shows it to people.

pub mod apply;
pub mod build;
pub mod controller;
pub mod counted;
pub mod crd;
pub mod decide;
pub mod elect;
pub mod health;
pub mod hibernation;
pub mod lease;
pub mod local;
pub mod manage;
pub mod metrics;
pub mod observe;
pub mod page;
pub mod pause;
pub mod quantity;
pub mod reason;
pub mod record;
pub mod run;
pub mod scale;
pub mod status;
pub mod switchover;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;
pub mod validate;
pub mod volumes;
pub mod watching;
