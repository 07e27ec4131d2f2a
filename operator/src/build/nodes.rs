//! The StatefulSet: one pod per node, all alike. Which one leads is decided later, and by nothing in here.

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{
            Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath,
            ObjectFieldSelector, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodAffinityTerm, PodAntiAffinity,
            PodReadinessGate, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretKeySelector,
            SecretVolumeSource, SecurityContext, Volume, VolumeMount, VolumeResourceRequirements,
            WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use quorumkv_api::{
    CLIENT_PORT, METRICS_PORT, PEER_PORT,
    lab::Role,
    tls::{AUTHORITIES, CERTIFICATE, KEY},
};

use super::{names, secret};
use crate::{
    counted::GATE,
    crd::WhenDeleted,
    validate::{PodOptions, ValidCluster, ValidStorage, ValidTls},
};

/// Name of the container, of which there is one.
pub const CONTAINER: &str = "node";
/// The user and group of the image.
const USER: i64 = 65532;
/// Where a Persistent node keeps its data.
const DATA_DIRECTORY: &str = "/data";
pub(crate) const DATA_VOLUME: &str = "data";
/// Where the tokens of clients are, if they need any.
const TOKENS_DIRECTORY: &str = "/etc/quorumkv/tokens";
const TOKENS_VOLUME: &str = "client-tokens";
/// Keys of their Secret, and names of their files.
const TOKEN_KEYS: [(&str, &str); 2] = [("read", "READ_TOKEN_FILE"), ("write", "WRITE_TOKEN_FILE")];
/// Where nodes that speak TLS find their certificates.
const TLS_DIRECTORY: &str = "/etc/quorumkv/peer-tls";
const TLS_VOLUME: &str = "peer-tls";
/// Of files in Secrets: for the nodes' own group, which fsGroup makes theirs, and for nobody else.
const SECRET_MODE: i32 = 0o440;
/// Longer than any write is likely to wait for its quorum.
const GRACE_SECONDS: i64 = 30;

/// Builds it. Quorum and delay are left out: a change of them must not replace pods.
#[must_use]
pub fn build(cluster: &ValidCluster) -> StatefulSet {
    let claims = match &cluster.storage {
        ValidStorage::Memory => None,
        ValidStorage::Persistent { size, class, .. } => Some(vec![claim(size, class.clone())]),
    };
    let nodes = if cluster.stopped { 0 } else { cluster.store.nodes.len() };
    StatefulSet {
        metadata: names::metadata(cluster, cluster.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: i32::try_from(nodes).ok(),
            service_name: Some(names::nodes_service(&cluster.name)),
            selector: names::selector(&cluster.name),
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator replaces pods itself: it knows which copies count.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            revision_history_limit: Some(3),
            template: template(cluster),
            volume_claim_templates: claims,
            persistent_volume_claim_retention_policy: retention(&cluster.storage),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// That volumes stay is what Kubernetes does by itself, so nothing is said of it. They always stay when nodes stop.
fn retention(storage: &ValidStorage) -> Option<StatefulSetPersistentVolumeClaimRetentionPolicy> {
    match storage {
        ValidStorage::Persistent { when_deleted: WhenDeleted::Delete, .. } => {
            Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Delete".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            })
        }
        ValidStorage::Persistent { when_deleted: WhenDeleted::Retain, .. } | ValidStorage::Memory => None,
    }
}

fn template(cluster: &ValidCluster) -> PodTemplateSpec {
    let PodOptions {
        image,
        image_pull_policy,
        image_pull_secrets,
        resources,
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        annotations,
        compress_above: _,
        client_tokens,
    } = cluster.pods.clone();
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image),
        image_pull_policy: image_pull_policy.map(|policy| policy.as_str().to_owned()),
        resources,
        ..container(cluster)
    };
    let some = |empty: bool| (!empty).then_some(());
    let tokens = client_tokens.map(tokens_volume);
    let volumes: Vec<Volume> = tokens.into_iter().chain(cluster.tls.as_ref().map(tls_volume)).collect();
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            // A new pod follows until it is promoted, so only the leader's label ever has to be changed.
            labels: Some(names::role_labels(&cluster.name, Role::Follower)),
            annotations: some(annotations.is_empty()).map(|()| annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![container],
            readiness_gates: Some(vec![PodReadinessGate { condition_type: GATE.to_owned() }]),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                run_as_user: Some(USER),
                run_as_group: Some(USER),
                fs_group: Some(USER),
                seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
                ..PodSecurityContext::default()
            }),
            image_pull_secrets: some(image_pull_secrets.is_empty()).map(|()| image_pull_secrets),
            node_selector: some(node_selector.is_empty()).map(|()| node_selector),
            tolerations: some(tolerations.is_empty()).map(|()| tolerations),
            affinity: Some(affinity.unwrap_or_else(|| apart(&cluster.name))),
            topology_spread_constraints: some(topology_spread_constraints.is_empty())
                .map(|()| topology_spread_constraints),
            volumes: some(volumes.is_empty()).map(|()| volumes),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &ValidCluster) -> Container {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    };
    // The whole directory: a single file of a Secret that is mounted never changes.
    let secret = |name: &str, path: &str| VolumeMount { read_only: Some(true), ..mount(name, path) };
    let data = matches!(cluster.storage, ValidStorage::Persistent { .. }).then(|| mount(DATA_VOLUME, DATA_DIRECTORY));
    let tokens = cluster.pods.client_tokens.is_some().then(|| secret(TOKENS_VOLUME, TOKENS_DIRECTORY));
    let tls = cluster.tls.is_some().then(|| secret(TLS_VOLUME, TLS_DIRECTORY));
    let mounts: Vec<VolumeMount> = data.into_iter().chain(tokens).chain(tls).collect();
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    Container {
        env: Some(environment(cluster)),
        ports: Some(vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)]),
        startup_probe: Some(probe("/health", 1, 60)),
        // Memory goes with the process, so a slow node is given a long time before it is killed.
        liveness_probe: Some(probe("/health", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        volume_mounts: (!mounts.is_empty()).then_some(mounts),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn environment(cluster: &ValidCluster) -> Vec<EnvVar> {
    let plain = |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), value_from: None };
    let from = |name: &str, source| EnvVar { name: name.to_owned(), value: None, value_from: Some(source) };
    let own_name = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.name".to_owned(),
        }),
        ..EnvVarSource::default()
    };
    let token = EnvVarSource {
        secret_key_ref: Some(SecretKeySelector {
            name: names::token_secret(&cluster.name),
            key: secret::TOKEN_KEY.to_owned(),
            optional: None,
        }),
        ..EnvVarSource::default()
    };
    let mut environment = vec![
        from("NODE_ID", own_name),
        plain("NODE_TYPE", "follower".to_owned()),
        plain("PORT", CLIENT_PORT.to_string()),
        plain("PEER_PORT", PEER_PORT.to_string()),
        plain("METRICS_PORT", METRICS_PORT.to_string()),
        plain("ADVERTISE_URL", names::client_url(&cluster.name, &cluster.namespace, "$(NODE_ID)")),
        from("PEER_TOKEN", token),
        plain("LOG_FORMAT", "json".to_owned()),
    ];
    match cluster.storage {
        ValidStorage::Memory => environment.push(plain("STORAGE", "memory".to_owned())),
        ValidStorage::Persistent { .. } => {
            environment.push(plain("STORAGE", "persistent".to_owned()));
            environment.push(plain("DATA_DIR", DATA_DIRECTORY.to_owned()));
        }
    }
    if cluster.tls.is_some() {
        environment.push(plain("PEER_TLS_DIR", TLS_DIRECTORY.to_owned()));
        environment.push(plain("PEER_TLS_NAME", names::tls_name(&cluster.name, &cluster.namespace)));
    }
    environment.extend(cluster.pods.compress_above.map(|bytes| plain("COMPRESS_ABOVE", bytes.to_string())));
    if cluster.pods.client_tokens.is_some() {
        let file = |(key, variable): (&str, &str)| plain(variable, format!("{TOKENS_DIRECTORY}/{key}"));
        environment.extend(TOKEN_KEYS.map(file));
    }
    environment
}

/// With both keys demanded: a pod waits for a Secret that lacks one, and the kubelet's event names it.
fn tokens_volume(secret: String) -> Volume {
    secret_volume(TOKENS_VOLUME, secret, &TOKEN_KEYS.map(|(key, _)| key))
}

/// What an operator lays by in the Secret for later is left out.
fn tls_volume(tls: &ValidTls) -> Volume {
    secret_volume(TLS_VOLUME, tls.secret.clone(), &[CERTIFICATE, KEY, AUTHORITIES])
}

fn secret_volume(name: &str, secret: String, keys: &[&str]) -> Volume {
    let item = |key: &&str| KeyToPath { key: (*key).to_owned(), path: (*key).to_owned(), mode: None };
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            items: Some(keys.iter().map(item).collect()),
            default_mode: Some(SECRET_MODE),
            optional: None,
        }),
        ..Volume::default()
    }
}

fn probe(path: &str, period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("client".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// Prefers machines without another node of the same store.
fn apart(cluster: &str) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(names::selector(cluster)),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn claim(size: &str, class: Option<String>) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA_VOLUME.to_owned()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: class,
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(size.to_owned()))].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::valid_cluster;

    fn pod(cluster: &ValidCluster) -> PodSpec {
        build(cluster).spec.expect("a spec").template.spec.expect("a pod")
    }

    #[test]
    fn the_stateful_set_leaves_replacing_pods_to_the_operator() {
        let spec = build(&valid_cluster()).spec.expect("a spec");
        assert_eq!(spec.replicas, Some(6));
        assert_eq!(spec.update_strategy.and_then(|strategy| strategy.type_).as_deref(), Some("OnDelete"));
        assert_eq!(spec.pod_management_policy.as_deref(), Some("Parallel"));
        assert_eq!(spec.service_name.as_deref(), Some("demo-nodes"));
    }

    #[test]
    fn pods_meet_the_restricted_standard() {
        let pod = pod(&valid_cluster());
        let of_pod = pod.security_context.expect("a context");
        let of_container = pod.containers[0].security_context.clone().expect("a context");
        assert_eq!((of_pod.run_as_non_root, of_pod.run_as_user), (Some(true), Some(65532)));
        assert_eq!(of_pod.seccomp_profile.expect("a profile").type_, "RuntimeDefault");
        assert_eq!(of_container.allow_privilege_escalation, Some(false));
        assert_eq!(of_container.read_only_root_filesystem, Some(true));
        assert_eq!(of_container.capabilities.and_then(|caps| caps.drop), Some(vec!["ALL".to_owned()]));
        assert_eq!(pod.automount_service_account_token, Some(false));
    }

    #[test]
    fn a_node_is_told_its_name_and_address_but_no_settings() {
        let env = pod(&valid_cluster()).containers[0].env.clone().expect("variables");
        let value = |name: &str| env.iter().find(|var| var.name == name).and_then(|var| var.value.clone());
        assert_eq!(value("ADVERTISE_URL").as_deref(), Some("http://$(NODE_ID).demo-nodes.default.svc:5000"));
        assert_eq!(value("NODE_TYPE").as_deref(), Some("follower"));
        assert!(
            env.iter()
                .all(|var| !["WRITE_QUORUM", "MIN_DELAY", "MAX_DELAY", "WRITE_TIMEOUT"].contains(&var.name.as_str()))
        );
        let position = |name: &str| env.iter().position(|var| var.name == name);
        assert!(position("NODE_ID") < position("ADVERTISE_URL"), "a variable is expanded only by later ones");
    }

    #[test]
    fn nodes_compress_only_where_the_spec_says_so() {
        let mut cluster = valid_cluster();
        let variable = |cluster: &ValidCluster| {
            let env = pod(cluster).containers[0].env.clone().expect("variables");
            env.into_iter().find(|var| var.name == "COMPRESS_ABOVE").and_then(|var| var.value)
        };
        assert_eq!(variable(&cluster), None);
        cluster.pods.compress_above = Some(65_536);
        assert_eq!(variable(&cluster).as_deref(), Some("65536"));
    }

    #[test]
    fn tokens_of_clients_are_mounted_where_the_nodes_look_for_them() {
        let mut cluster = valid_cluster();
        cluster.pods.client_tokens = Some("tokens".to_owned());
        let pod = pod(&cluster);
        let volumes = pod.volumes.expect("volumes");
        let secret = volumes[0].secret.as_ref().expect("a Secret");
        assert_eq!(secret.secret_name.as_deref(), Some("tokens"));
        let container = &pod.containers[0];
        let mount = &container.volume_mounts.as_ref().expect("mounts")[0];
        assert_eq!((mount.name.as_str(), mount.read_only), (volumes[0].name.as_str(), Some(true)));
        for (variable, key) in [("READ_TOKEN_FILE", "read"), ("WRITE_TOKEN_FILE", "write")] {
            let value = container.env.as_ref().expect("variables").iter().find(|var| var.name == variable);
            let path = value.and_then(|var| var.value.as_deref()).expect("a path");
            assert_eq!(path, format!("{}/{key}", mount.mount_path));
            assert!(secret.items.as_ref().expect("items").iter().any(|item| item.key == key && item.path == key));
        }
    }

    #[test]
    fn a_persistent_node_gets_a_volume_and_is_told_where() {
        let cluster = ValidCluster { storage: persistent(Some("fast"), WhenDeleted::Retain), ..valid_cluster() };
        let claims = build(&cluster).spec.expect("a spec").volume_claim_templates.expect("claims");
        assert_eq!(claims[0].spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()), Some("fast"));
        let container = &pod(&cluster).containers[0];
        assert_eq!(container.volume_mounts.as_ref().expect("mounts")[0].mount_path, "/data");
        assert!(container.env.as_ref().expect("variables").iter().any(|var| var.name == "DATA_DIR"));
    }

    #[test]
    fn a_node_that_speaks_tls_finds_its_certificates_in_a_volume() {
        assert_eq!(pod(&valid_cluster()).volumes, None);
        let tls = Some(ValidTls { secret: "demo-peer-tls".into(), self_signed: true });
        let pod = pod(&ValidCluster { tls, ..valid_cluster() });
        let volume = &pod.volumes.as_ref().expect("volumes")[0];
        let source = volume.secret.as_ref().expect("a Secret");
        assert_eq!(source.secret_name.as_deref(), Some("demo-peer-tls"));
        let mount = &pod.containers[0].volume_mounts.as_ref().expect("mounts")[0];
        assert_eq!((&mount.name, mount.read_only, &mount.sub_path), (&volume.name, Some(true), &None));
        let env = pod.containers[0].env.as_ref().expect("variables");
        let value = |name: &str| env.iter().find(|var| var.name == name).and_then(|var| var.value.as_deref());
        assert_eq!(value("PEER_TLS_DIR"), Some(mount.mount_path.as_str()));
        assert_eq!(value("PEER_TLS_NAME"), Some("demo-nodes.default.svc"));
    }

    #[test]
    fn certificates_and_tokens_of_clients_have_a_volume_each() {
        let mut cluster = valid_cluster();
        cluster.pods.client_tokens = Some("demo-tokens".into());
        cluster.tls = Some(ValidTls { secret: "demo-peer-tls".into(), self_signed: true });
        let pod = pod(&cluster);
        let secrets = pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref());
        let secrets: Vec<_> = secrets.filter_map(|source| source.secret_name.as_deref()).collect();
        assert_eq!(secrets, ["demo-tokens", "demo-peer-tls"]);
        let volumes: Vec<_> = pod.volumes.iter().flatten().map(|volume| &volume.name).collect();
        let mounts = pod.containers[0].volume_mounts.iter().flatten();
        assert_eq!(mounts.map(|mount| &mount.name).collect::<Vec<_>>(), volumes);
    }

    fn persistent(class: Option<&str>, when_deleted: WhenDeleted) -> ValidStorage {
        ValidStorage::Persistent { size: "1Gi".into(), class: class.map(str::to_owned), when_deleted }
    }

    #[test]
    fn a_store_that_is_stopped_has_no_pod_and_the_same_template() {
        let (awake, stopped) = (valid_cluster(), ValidCluster { stopped: true, ..valid_cluster() });
        assert_eq!(build(&stopped).spec.expect("a spec").replicas, Some(0));
        assert_eq!(template(&stopped), template(&awake), "it would be replaced once more when it wakes up");
    }

    #[test]
    fn volumes_go_with_the_store_only_where_the_spec_says_so_and_never_when_nodes_stop() {
        let policy = |when_deleted| {
            let cluster = ValidCluster { storage: persistent(None, when_deleted), ..valid_cluster() };
            build(&cluster).spec.expect("a spec").persistent_volume_claim_retention_policy
        };
        assert_eq!(policy(WhenDeleted::Retain), None, "what Kubernetes does by itself");
        let delete = policy(WhenDeleted::Delete).expect("a policy");
        assert_eq!((delete.when_deleted.as_deref(), delete.when_scaled.as_deref()), (Some("Delete"), Some("Retain")));
    }

    /// Another template is another revision of the StatefulSet: an upgrade of the operator would replace every pod of
    /// every store, followers first and then by a switchover. If that is what a change is worth, say so in the
    /// changelog and put the new fingerprints here.
    #[test]
    fn an_upgrade_of_the_operator_replaces_no_pod() {
        let persistent = persistent(None, WhenDeleted::Retain);
        let fingerprints = [ValidStorage::Memory, persistent].map(|storage| {
            let template = template(&ValidCluster { storage, ..valid_cluster() });
            format!("{:016x}", super::super::fnv1a(&serde_json::to_vec(&template).expect("a template serializes")))
        });
        assert_eq!(fingerprints, ["7bafc04ee9c60206", "0a7a3bc9df55ca03"]);
    }
}
