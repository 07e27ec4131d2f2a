//! A Kubernetes control plane as processes of this machine: etcd, the API server, the controllers that stores
//! need, the scheduler, and kwok, which plays the kubelets. No container runs, and no right is needed.
//!
//! Pods get addresses of the loopback network, all of which are this machine's: no route is made and none has to be
//! removed. Services therefore get no endpoints: the API server takes no loopback address there, so the controller for
//! them is left out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    bench::system::find,
    processes::{Launch, Process, ports::PortBlock},
    wait,
};

/// Addresses that pods get, from the first one on. Not the network of 127.0.0.1, where others listen.
const PODS: &str = "127.64.0.1/10";
/// How long each part may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// What StatefulSets, budgets, owner references and claims of volumes need.
const CONTROLLERS: &str =
    "statefulset-controller,disruption-controller,garbage-collector-controller,persistentvolume-binder-controller";
/// Groups of the operator's user: those of a service account, so that the API server's fairness treats it as one.
const OPERATOR_GROUPS: &str = "system:serviceaccounts,system:serviceaccounts:quorumkv-system";

/// A control plane that runs. All its processes end with it.
pub struct ControlPlane {
    /// For everything but the operator: may do all, and is never made to wait.
    pub client: Client,
    /// Kubeconfig of the operator.
    pub operator_kubeconfig: PathBuf,
    processes: Vec<Process>,
    _ports: PortBlock,
    /// Holds data, keys and logs; goes last.
    folder: TempDir,
}

/// Those who speak to the API server.
struct User {
    token: String,
    line: String,
}

impl User {
    fn new(name: &str, groups: &str) -> Self {
        let token = format!("{:032x}", rand::random::<u128>());
        Self { line: format!("{token},{name},{name},\"{groups}\"\n"), token }
    }
}

impl ControlPlane {
    /// Starts it and makes so many nodes.
    ///
    /// # Errors
    /// When a program is missing, or does not come up; the message has the end of its log.
    pub async fn start(nodes: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the control plane")?;
        let ports = PortBlock::take()?;
        let (administrator, operator) =
            (User::new("administrator", "system:masters"), User::new("quorumkv-operator", OPERATOR_GROUPS));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).with_context(|| path.display().to_string()).map(|()| path)
        };
        write("tokens.csv", &format!("{}{}", administrator.line, operator.line))?;
        let key = signing_key(folder.path())?;
        let etcd = format!("http://127.0.0.1:{}", ports.port(0));
        let server = format!("https://127.0.0.1:{}", ports.port(2));
        let mut plane = Parts { folder: folder.path(), processes: Vec::new() };
        plane.launch("etcd", etcd_arguments(folder.path(), &etcd, ports.port(1)))?;
        plane.launch("kube-apiserver", api_server_arguments(folder.path(), &etcd, ports.port(2), &key))?;
        // The API server makes its certificate when it starts.
        let certificate = folder.path().join("certificates/apiserver.crt");
        let made = wait::until("the API server has a certificate", PATIENCE, || async {
            ensure!(fs::metadata(&certificate)?.len() > 0, "it is empty");
            Ok(())
        });
        made.await.with_context(|| plane.ends())?;
        let cluster = json!({"server": server, "certificate-authority": certificate});
        let kubeconfig = |user: &User| kubeconfig(&cluster, &json!({"token": user.token}));
        let own = write("administrator.kubeconfig", &kubeconfig(&administrator))?;
        let operator_kubeconfig = write("operator.kubeconfig", &kubeconfig(&operator))?;
        let client = connect(&own).await?;
        let ready = wait::until("the API server is ready", PATIENCE, || async {
            let answer = client.request_text(http_get("/readyz")?).await?;
            ensure!(answer == "ok", "{answer}");
            Ok(())
        });
        ready.await.with_context(|| plane.ends())?;
        plane.launch("kube-controller-manager", controllers_arguments(&own))?;
        plane.launch("kube-scheduler", scheduler_arguments(&own))?;
        plane.launch("kwok", kwok_arguments(&own))?;
        let made = make_nodes(&client, nodes).await;
        made.with_context(|| plane.ends())?;
        let processes = plane.processes;
        Ok(Self { client, operator_kubeconfig, processes, _ports: ports, folder })
    }

    /// Where logs are kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Name and process id of every part.
    ///
    /// # Errors
    /// When one has ended; the message has the end of its log.
    pub fn processes(&mut self) -> anyhow::Result<Vec<(String, Pid)>> {
        let mut found = Vec::new();
        for process in &mut self.processes {
            ensure!(process.is_running(), "{}", process.output_end(20));
            found.push((process.name().to_owned(), process.pid()?));
        }
        Ok(found)
    }

    /// The last lines that every part wrote.
    #[must_use]
    pub fn ends(&self) -> String {
        self.processes.iter().map(|process| process.output_end(8)).collect()
    }
}

/// What was started so far.
struct Parts<'a> {
    folder: &'a Path,
    processes: Vec<Process>,
}

impl Parts<'_> {
    fn launch(&mut self, name: &str, arguments: Vec<String>) -> anyhow::Result<()> {
        let missing = || format!("no {name} in PATH: tests/cluster/tools.sh kubernetes kwok builds it");
        let program = find(name).with_context(missing)?;
        // kwok looks for a configuration there.
        let environment = vec![("HOME".to_owned(), self.folder.display().to_string())];
        let mut process = Process::new(Launch { name: name.to_owned(), program, arguments, environment }, self.folder);
        process.start()?;
        self.processes.push(process);
        Ok(())
    }

    fn ends(&self) -> String {
        self.processes.iter().map(|process| process.output_end(8)).collect()
    }
}

fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

fn etcd_arguments(folder: &Path, url: &str, peer_port: u16) -> Vec<String> {
    let peer = format!("http://127.0.0.1:{peer_port}");
    flags([
        ("name", "fleet".to_owned()),
        ("data-dir", folder.join("etcd").display().to_string()),
        ("listen-client-urls", url.to_owned()),
        ("advertise-client-urls", url.to_owned()),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("fleet={peer}")),
        ("log-level", "warn".to_owned()),
        // Nothing of it outlives the run.
        ("unsafe-no-fsync", "true".to_owned()),
    ])
}

fn api_server_arguments(folder: &Path, etcd: &str, port: u16, key: &Path) -> Vec<String> {
    let key = key.display().to_string();
    flags([
        ("etcd-servers", etcd.to_owned()),
        ("bind-address", "127.0.0.1".to_owned()),
        ("advertise-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("cert-dir", folder.join("certificates").display().to_string()),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", key.clone()),
        ("service-account-signing-key-file", key),
        ("service-cluster-ip-range", "10.96.0.0/12".to_owned()),
        // Its own Service would need an address that others can reach.
        ("endpoint-reconciler-type", "none".to_owned()),
        ("authorization-mode", "RBAC".to_owned()),
        ("token-auth-file", folder.join("tokens.csv").display().to_string()),
        // The first wants an account for every pod, the second a controller that takes taints away from nodes.
        ("disable-admission-plugins", "ServiceAccount,TaintNodesByCondition".to_owned()),
    ])
}

fn controllers_arguments(kubeconfig: &Path) -> Vec<String> {
    flags([
        ("kubeconfig", kubeconfig.display().to_string()),
        ("controllers", CONTROLLERS.to_owned()),
        ("leader-elect", "false".to_owned()),
        ("secure-port", "0".to_owned()),
        // The default of 20 requests a second would be what is measured.
        ("kube-api-qps", "1000".to_owned()),
        ("kube-api-burst", "2000".to_owned()),
        ("concurrent-statefulset-syncs", "20".to_owned()),
    ])
}

fn scheduler_arguments(kubeconfig: &Path) -> Vec<String> {
    flags([
        ("kubeconfig", kubeconfig.display().to_string()),
        ("leader-elect", "false".to_owned()),
        ("secure-port", "0".to_owned()),
        ("kube-api-qps", "1000".to_owned()),
        ("kube-api-burst", "2000".to_owned()),
    ])
}

fn kwok_arguments(kubeconfig: &Path) -> Vec<String> {
    flags([
        ("kubeconfig", kubeconfig.display().to_string()),
        ("manage-all-nodes", "true".to_owned()),
        ("cidr", PODS.to_owned()),
        ("node-ip", "127.0.0.1".to_owned()),
        // No port of its own.
        ("node-port", "0".to_owned()),
    ])
}

/// The API server signs tokens of service accounts with it; nobody here has one.
fn signing_key(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("service-account.key");
    let made = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out"])
        .arg(&path)
        .output()
        .context("openssl, which makes a key for the API server")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok(path)
}

/// Of one cluster and one user.
pub(super) fn kubeconfig(cluster: &Value, user: &Value) -> String {
    // JSON is YAML.
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fleet",
        "clusters": [{"name": "fleet", "cluster": cluster}],
        "users": [{"name": "fleet", "user": user}],
        "contexts": [{"name": "fleet", "context": {"cluster": "fleet", "user": "fleet"}}],
    })
    .to_string()
}

/// A client of the cluster in a kubeconfig.
///
/// # Errors
/// When it is no kubeconfig.
pub async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).context("the kubeconfig")?;
    Ok(Client::try_from(Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?)?)
}

fn http_get(path: &str) -> anyhow::Result<axum::http::Request<Vec<u8>>> {
    Ok(axum::http::Request::get(path).body(Vec::new())?)
}

/// Makes nodes and waits until kwok says that they are ready.
async fn make_nodes(client: &Client, count: usize) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    for number in 0..count {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("node-{number:03}"), "annotations": {"kwok.x-k8s.io/node": "fake"}},
        });
        nodes.create(&PostParams::default(), &serde_json::from_value(node)?).await.context("make a node")?;
    }
    wait::until("every node is ready", PATIENCE, || async {
        let found = nodes.list(&Default::default()).await?;
        let ready = |node: &&Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        let ready = found.items.iter().filter(ready).count();
        ensure!(ready == count, "{ready} of {count} are");
        Ok(())
    })
    .await
}
