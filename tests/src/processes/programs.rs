//! Finds the programs under test.

use std::{
    collections::HashMap,
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, bail, ensure};

/// The node: `QUORUMKV_NODE_BIN`, or `quorumkv-node` next to this program, made current by cargo if cargo runs us.
///
/// # Errors
/// When there is none and it cannot be built.
pub fn node() -> anyhow::Result<PathBuf> {
    find("quorumkv-node", "QUORUMKV_NODE_BIN", &[])
}

/// The node that can be told where to abort: `QUORUMKV_NODE_FAILPOINTS_BIN`, or `quorumkv-node-failpoints` as for
/// [`node`].
///
/// # Errors
/// When there is none and it cannot be built.
pub fn node_with_failpoints() -> anyhow::Result<PathBuf> {
    let features = ["--features", "quorumkv-node/failpoints"];
    find("quorumkv-node-failpoints", "QUORUMKV_NODE_FAILPOINTS_BIN", &features)
}

/// The operator: `QUORUMKV_OPERATOR_BIN`, or `quorumkv-operator` as for [`node`].
///
/// # Errors
/// When there is none and it cannot be built.
pub fn operator() -> anyhow::Result<PathBuf> {
    find("quorumkv-operator", "QUORUMKV_OPERATOR_BIN", &[])
}

/// The plugin of kubectl: `QUORUMKV_PLUGIN_BIN`, or `kubectl-kvc` as for [`node`].
///
/// # Errors
/// When there is none and it cannot be built.
pub fn plugin() -> anyhow::Result<PathBuf> {
    find("kubectl-kvc", "QUORUMKV_PLUGIN_BIN", &[])
}

fn find(program: &str, variable: &str, features: &[&str]) -> anyhow::Result<PathBuf> {
    if let Some(path) = env::var_os(variable).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{variable}={}: there is no such file", path.display());
        return Ok(path);
    }
    static FOUND: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    // Held while cargo builds: a second test waits for the first one's build.
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let found = found.get_or_insert_default();
    if let Some(path) = found.get(program) {
        return Ok(path.clone());
    }
    let folder = programs_folder()?;
    // An old program would be tested without anybody noticing, so cargo always looks. A lab program that is
    // run by hand takes what lies next to it.
    if let Some(cargo) = env::var_os("CARGO") {
        build(cargo, program, features, &folder)?;
    }
    let path = folder.join(program);
    if !path.is_file() {
        let release = if folder.ends_with("release") { " --release" } else { "" };
        bail!("no {program} in {}: cargo build{release} --bin {program}, or set {variable}", folder.display());
    }
    found.insert(program.to_owned(), path.clone());
    Ok(path)
}

/// Where cargo puts programs of the profile that this program was built in: `target/debug` or the like.
fn programs_folder() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("the path of this program")?;
    let folder = own.parent().context("a program lies in a folder")?;
    // Tests lie one deeper, in deps.
    let folder = if folder.ends_with("deps") { folder.parent().context("deps lies in a folder")? } else { folder };
    Ok(folder.to_owned())
}

fn build(cargo: OsString, program: &str, features: &[&str], folder: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(cargo);
    // The whole workspace and a small test, for the same choice of features as in other builds (see tests/run.sh).
    command.args(["build", "--quiet", "--workspace", "--bin", program, "--test", "waiting_writes"]).args(features);
    command.arg("--target-dir").arg(folder.parent().context("a profile's folder lies in the target folder")?);
    if folder.ends_with("release") {
        command.arg("--release");
    }
    // Set by cargo for this test; build scripts that watch them would run again.
    let own = ["CARGO_PKG_", "CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_PRIMARY_", "LD_LIBRARY_PATH"];
    for (name, _) in env::vars() {
        if own.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let built = command.output().context("cargo")?;
    ensure!(built.status.success(), "{program} does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    Ok(())
}
