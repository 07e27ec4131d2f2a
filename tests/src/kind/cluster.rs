//! Makes the cluster, and installs into it what this checkout builds.

use std::{
    env,
    ffi::OsStr,
    fs::File,
    iter,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::command::{Command, CommandError};
use crate::processes::programs;

/// The first time, programs and the image of the cluster's node are built.
const UP_LIMIT: Duration = Duration::from_mins(40);
/// Optimized static programs, from nothing.
const BUILD_LIMIT: Duration = Duration::from_mins(30);
const HELM_LIMIT: Duration = Duration::from_mins(4);

/// A kind cluster, with a kubeconfig of its own.
#[derive(Clone)]
pub struct Kind {
    name: String,
    root: PathBuf,
    tools: PathBuf,
    kubeconfig: PathBuf,
    /// Speaks to its API server.
    pub client: Client,
    /// What runs its machines, once that was found out.
    engine: Arc<OnceCell<&'static str>>,
    /// Held by whoever uses the cluster: one run of the tests at a time, of whichever checkout.
    _lock: Arc<File>,
}

/// A container of a pod, in one of its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    machine: String,
    id: String,
}

/// A machine of the cluster, which is a container too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// An address at which it is reached from here.
    pub address: String,
    /// The addresses of its pods, such as `10.244.0.0/24`.
    pub pods: String,
}

/// Names of the images that were loaded.
#[derive(Debug, Clone)]
pub struct Images {
    /// Repository and tag of the operator's.
    pub operator: Image,
    /// Repository and tag of the nodes'.
    pub node: Image,
}

/// An image's name in its two parts, as charts want them.
#[derive(Debug, Clone)]
pub struct Image {
    /// What stands before the colon.
    pub repository: String,
    /// What stands behind it.
    pub tag: String,
}

impl std::fmt::Display for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl Kind {
    /// Creates the cluster, or takes over the one of that name if it is there and healthy.
    ///
    /// # Errors
    /// When a program that is needed cannot be had, or the cluster does not come up.
    pub async fn up(name: &str) -> anyhow::Result<Self> {
        let root = repository();
        let scripts = root.join("tests/cluster");
        let state = cache()?.join("e2e").join(name);
        std::fs::create_dir_all(&state).with_context(|| format!("create {}", state.display()))?;
        let lock = tokio::task::spawn_blocking({
            let path = state.join("lock");
            move || lock(&path)
        });
        let lock = lock.await.context("the lock's thread ended")??;
        let kubeconfig = state.join("kubeconfig");
        Command::new(scripts.join("tools.sh")).args(["kubectl", "helm", "kind"]).within(UP_LIMIT).output().await?;
        Command::new(scripts.join("cluster.sh"))
            .args(["up", "--name", name, "--kubeconfig"])
            .arg(&kubeconfig)
            .within(UP_LIMIT)
            .output()
            .await?;
        let client = connect(&kubeconfig).await?;
        let tools = cache()?.join("bin");
        let engine = Arc::default();
        Ok(Self { name: name.to_owned(), root, tools, kubeconfig, client, engine, _lock: Arc::new(lock) })
    }

    /// Builds the images of this checkout and puts them onto the cluster's node. With `binaries`, from the
    /// static programs in that folder, as they are.
    ///
    /// # Errors
    /// When the build or the loading fails.
    pub async fn load_images(&self, binaries: Option<&Path>) -> anyhow::Result<Images> {
        let script = || Command::new(self.root.join("tests/cluster/image.sh")).within(BUILD_LIMIT);
        let from = |command: Command| match binaries {
            Some(folder) => command.arg("--binaries").arg(folder),
            None => command,
        };
        let context = script().arg("--context-only");
        from(if binaries.is_none() { context.arg("--build") } else { context }).output().await?;
        // The tag names the contents: what runs an older build in a cluster that was kept is replaced.
        let built = self.root.join("dist/image");
        let sums = Command::new("sha256sum")
            .args(["quorumkv-node", "quorumkv-operator"].map(|program| built.join(program)))
            .output()
            .await?;
        let tag = tag(&sums);
        let images = Images {
            operator: Image { repository: "localhost/quorumkv-operator".to_owned(), tag: tag.clone() },
            node: Image { repository: "localhost/quorumkv-node".to_owned(), tag },
        };
        let archive = self.root.join("dist/e2e-images.tar");
        from(script())
            .arg("--archive")
            .arg(&archive)
            .args(["--operator", &images.operator.to_string(), "--node", &images.node.to_string()])
            .output()
            .await?;
        Command::new(self.root.join("tests/cluster/cluster.sh"))
            .args(["load", "--name", &self.name])
            .arg(&archive)
            .output()
            .await?;
        std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))?;
        Ok(images)
    }

    /// Installs the chart of this checkout, or upgrades to it, and waits until it is up.
    ///
    /// # Errors
    /// When helm says so.
    pub async fn install(&self, release: &str, namespace: &str, images: &Images) -> Result<String, CommandError> {
        let Images { operator, node } = images;
        self.helm(["upgrade", "--install", release])
            .arg(self.root.join("charts/quorumkv"))
            .args(["--namespace", namespace, "--wait", "--timeout", "3m"])
            .args(["--set", &format!("image.repository={},image.tag={}", operator.repository, operator.tag)])
            .args(["--set", &format!("nodeImage.repository={},nodeImage.tag={}", node.repository, node.tag)])
            .args(["--set", "page.enabled=true"])
            .output()
            .await
    }

    /// `helm` with this cluster, ready to run.
    #[must_use]
    pub fn helm<Argument: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = Argument>) -> Command {
        Command::new(self.tools.join("helm"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .within(HELM_LIMIT)
    }

    /// `kubectl` with this cluster, ready to run.
    #[must_use]
    pub fn kubectl<Argument: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = Argument>) -> Command {
        Command::new(self.tools.join("kubectl")).arg("--kubeconfig").arg(&self.kubeconfig).args(arguments)
    }

    /// `kubectl kvc` with this cluster, ready to run.
    ///
    /// # Errors
    /// When the plugin is not there and cannot be built.
    pub fn kubectl_kvc<Argument: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = Argument>,
    ) -> anyhow::Result<Command> {
        let plugin = programs::plugin()?;
        // kubectl looks for its plugins there.
        let folder = plugin.parent().context("a program lies in a folder")?.to_owned();
        let others = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(iter::once(folder).chain(env::split_paths(&others)))?;
        // It takes no option before the name of a plugin.
        let kubectl = Command::new(self.tools.join("kubectl")).env("PATH", path).env("KUBECONFIG", &self.kubeconfig);
        Ok(kubectl.arg("kvc").args(arguments))
    }

    /// What `kind version` says.
    ///
    /// # Errors
    /// When kind does not run.
    pub async fn version(&self) -> Result<String, CommandError> {
        Ok(Command::new(self.tools.join("kind")).arg("version").output().await?.trim().to_owned())
    }

    /// The folder of this checkout.
    #[must_use]
    pub fn repository(&self) -> &Path {
        &self.root
    }

    /// The kubeconfig of this cluster.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl apply` of one manifest.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, manifest: &Value) -> Result<String, CommandError> {
        self.kubectl(["apply", "--filename", "-"]).input(manifest.to_string()).output().await
    }

    /// Makes a namespace that enforces the strictest Pod Security standard.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn create_restricted_namespace(&self, name: &str) -> Result<String, CommandError> {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }))
        .await
    }

    /// Deletes namespaces with all that is in them, and waits until they are gone.
    ///
    /// # Errors
    /// When they do not go away.
    pub async fn delete_namespaces(&self, names: &[&str]) -> Result<String, CommandError> {
        self.kubectl(["delete", "namespace", "--ignore-not-found", "--wait", "--timeout=2m"])
            .args(names)
            .within(Duration::from_secs(130))
            .output()
            .await
    }

    /// The container of a pod that has one, as it runs now.
    ///
    /// # Errors
    /// When nothing runs in the pod.
    pub async fn container(&self, namespace: &str, pod: &str) -> anyhow::Result<Container> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = pods.get(pod).await.with_context(|| format!("get pod {pod}"))?;
        let statuses = found.status.and_then(|status| status.container_statuses).unwrap_or_default();
        let running =
            statuses.into_iter().find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
        let id = running.and_then(|status| status.container_id);
        let id = id.as_deref().and_then(|id| id.strip_prefix("containerd://")).context("no container runs")?.to_owned();
        let machine = found.spec.and_then(|spec| spec.node_name).context("the pod is on no machine")?;
        Ok(Container { machine, id })
    }

    /// Sends a signal, such as `SIGSTOP`, to the process of a container, found by the container's id.
    ///
    /// # Errors
    /// When it is gone, or its machine cannot be entered.
    pub async fn signal_container(&self, container: &Container, signal: &str) -> Result<(), CommandError> {
        let Container { machine, id } = container;
        self.on_machine(machine, ["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", signal, id])
            .await
            .output()
            .await?;
        Ok(())
    }

    /// Sends a signal, such as `SIGSTOP`, to the process of a pod with one container.
    ///
    /// # Errors
    /// When nothing runs in the pod, or the cluster's node cannot be entered.
    pub async fn signal(&self, namespace: &str, pod: &str, signal: &str) -> anyhow::Result<()> {
        Ok(self.signal_container(&self.container(namespace, pod).await?, signal).await?)
    }

    /// A program on one of the cluster's machines, ready to run.
    pub async fn on_machine<Argument: AsRef<OsStr>>(
        &self,
        machine: &str,
        program: impl IntoIterator<Item = Argument>,
    ) -> Command {
        // kind's machines are containers, of one engine or the other.
        let find = || async {
            let podman = Command::new("podman").args(["container", "exists", machine]).output().await.is_ok();
            if podman { "podman" } else { "docker" }
        };
        let engine = *self.engine.get_or_init(find).await;
        Command::new(engine).args(["exec", "--interactive", machine]).args(program)
    }

    /// The cluster's machines.
    ///
    /// # Errors
    /// When the API server does not tell them.
    pub async fn machines(&self) -> anyhow::Result<Vec<Machine>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let nodes = nodes.list(&ListParams::default()).await.context("list the cluster's nodes")?;
        let machine = |node: Node| {
            let addresses = node.status?.addresses?;
            let address = addresses.into_iter().find(|address| address.type_ == "InternalIP")?.address;
            Some(Machine { name: node.metadata.name?, address, pods: node.spec?.pod_cidr? })
        };
        Ok(nodes.into_iter().filter_map(machine).collect())
    }

    /// Deletes the cluster.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn down(&self) -> Result<(), CommandError> {
        Command::new(self.root.join("tests/cluster/cluster.sh"))
            .args(["down", "--name", &self.name])
            .within(Duration::from_mins(2))
            .output()
            .await?;
        Ok(())
    }
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        tracing::info!("waiting for another run with this cluster");
        file.lock().with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

async fn connect(kubeconfig: &Path) -> anyhow::Result<Client> {
    let read = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    // Tests say themselves what may be tried again, and for how long.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate stands in the repository").to_owned()
}

/// The folder that the scripts in tests/cluster use too.
fn cache() -> anyhow::Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("quorumkv"))
}

/// A tag from what `sha256sum` says of the programs: the first digits of each.
fn tag(sums: &str) -> String {
    let digits = sums.lines().map(|line| line.chars().take(6).collect::<String>());
    format!("e2e-{}", digits.collect::<Vec<_>>().join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_makes_another_tag() {
        assert_eq!(tag("0123456789abcdef  node\nfedcba9876543210  operator\n"), "e2e-012345-fedcba");
    }
}
