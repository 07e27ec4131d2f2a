//! A server that does nothing but answer: axum, as in the nodes, on one thread, with a constant behind one route.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde::Serialize;

use super::{Group, PATIENCE, folder, loopback, process, value};
use crate::{
    bench::{
        answer::Expected,
        connection::{Connection, Target},
        request::{Request, key},
    },
    processes::ports::PortBlock,
    wait,
};

/// First argument of the process that serves.
pub(super) const ARGUMENT: &str = "serve-bare-axum";

/// As an answer of a node.
#[derive(Serialize)]
struct Reply {
    key: String,
    value: &'static str,
    version: u64,
}

/// The program in another role, if its arguments say so: serves on a port of loopback until it is killed.
#[must_use]
pub fn serve(mut arguments: impl Iterator<Item = String>) -> Option<ExitCode> {
    if arguments.nth(1)? != ARGUMENT {
        return None;
    }
    let mut served = || {
        let port: u16 = arguments.next().context("no port")?.parse().context("a port")?;
        let bytes: usize = arguments.next().context("no size")?.parse().context("a size")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).await?;
            let value: &'static str = value(bytes).leak();
            let router = Router::new().route("/get/{key}", get(answer)).with_state(value);
            axum::serve(
                axum::serve::ListenerExt::tap_io(listener, |tcp| {
                    // As the nodes do; a connection that cannot shows in the figures.
                    tcp.set_nodelay(true).ok();
                }),
                router,
            )
            .await
        })?;
        anyhow::Ok(())
    };
    Some(if served().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn answer(Path(key): Path<String>, State(value): State<&'static str>) -> Json<Reply> {
    Json(Reply { key, value, version: 1 })
}

pub(super) async fn start(value_bytes: usize) -> anyhow::Result<Group> {
    let program = std::env::current_exe().context("the path of this program")?;
    let (ports, folder) = (PortBlock::take()?, folder()?);
    let address = loopback(&ports, 0);
    let arguments = vec![ARGUMENT.to_owned(), address.port().to_string(), value_bytes.to_string()];
    let mut process = process("axum".to_owned(), program, arguments, &folder);
    process.start()?;
    let group = Group { address, processes: vec![process], _ports: ports, _folder: folder };
    let target = target(address, &value(value_bytes))?;
    wait::until("it answers", PATIENCE, || async { Connection::open(&target).await?.exchange(0).await }).await?;
    Ok(group)
}

pub(super) fn target(address: SocketAddr, value: &str) -> anyhow::Result<Target> {
    let request = Request::get(address, &format!("/get/{}", key(0)))?;
    Ok(Target { address, request, expected: Expected::http(&format!("\"value\":\"{value}\"")) })
}

/// As the lock file of this workspace names it.
pub(super) fn version() -> Option<String> {
    let (_, after) = include_str!("../../../../Cargo.lock").split_once("name = \"axum\"\nversion = \"")?;
    Some(format!("axum {}", after.split('"').next()?))
}
