//! A live page on which one sees the quorum: who leads, who follows how closely, how long writes take.
//!
//! One self-contained document, and server-sent events for what moves. A [`Source`] is the world a page shows
//! and may change: the processes of `local`, or the KvClusters of Kubernetes. [`feed`] asks the nodes of one
//! store while somebody looks, once for all who look; [`frame`] makes of their answers what the page draws;
//! [`news`] is what happened; [`load`] writes, if a person wants to see something move. [`routes`] is the HTTP
//! side, and [`guard`] keeps other web sites out.

mod document;
mod feed;
mod frame;
mod guard;
pub mod kubernetes;
mod load;
pub mod news;
mod routes;
pub mod source;
#[cfg(test)]
mod tests;
mod window;

pub use self::{
    guard::Hosts,
    news::News,
    routes::{Page, http_client, router},
    source::{Abilities, Change, NodeAction, NodeInfo, Refused, Source, StoreName, StoreView},
};
