use rstest::rstest;
use serde_json::json;

use super::*;

fn cluster(spec: serde_json::Value) -> KvCluster {
    KvCluster::new("demo", serde_json::from_value(spec).expect("a spec"))
}

fn refusal(spec: serde_json::Value) -> String {
    cluster(spec).validate_cel().expect_err("refused").to_string()
}

#[test]
fn an_empty_spec_is_the_default_store() {
    let cluster = cluster(json!({}));
    cluster.validate_cel().expect("accepted");
    assert_eq!((cluster.spec.followers, cluster.spec.write_quorum), (5, 3));
    assert_eq!(cluster.spec.write_timeout, "5s");
    assert_eq!(cluster.spec.delay, DelayRange { min: "0ms".into(), max: "0ms".into() });
    assert_eq!(cluster.spec.storage.kind, StorageKind::Memory);
}

#[test]
fn the_schema_carries_the_same_defaults_as_the_type() {
    let crd = serde_json::to_value(KvCluster::crd()).expect("serializes");
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    assert_eq!(spec["followers"]["default"], 5);
    assert_eq!(spec["writeQuorum"]["default"], 3);
    assert_eq!(spec["writeTimeout"]["default"], "5s");
    assert_eq!(spec["delay"]["default"], json!({"min": "0ms", "max": "0ms"}));
    assert_eq!(spec["storage"]["default"]["type"], "Memory");
    assert_eq!(spec["storage"]["properties"]["type"]["default"], "Memory");
    assert_eq!(spec["dataLossPolicy"]["default"], "Halt");
    assert_eq!(spec["hibernated"]["default"], false);
}

#[rstest]
#[case(json!({"writeQuorum": 6}), "writeQuorum is above followers: lower writeQuorum to the number of followers or less")]
#[case(json!({"writeQuorum": 0}), "writeQuorum must be at least 1")]
#[case(json!({"followers": 0, "writeQuorum": 1}), "followers must be 1 to 9")]
#[case(json!({"followers": 10}), "followers must be 1 to 9")]
#[case(json!({"delay": {"min": "150ms", "max": "10ms"}}), "delay.min is above delay.max")]
#[case(json!({"delay": {"min": "10ms"}}), "delay.min is above delay.max")]
#[case(json!({"delay": {"max": "5s"}}), "delay.max must be below writeTimeout")]
#[case(json!({"delay": {"max": "5000.1ms"}}), "delay.max must be below writeTimeout")]
#[case(json!({"delay": {"max": "soon"}}), "delay.max is not a duration")]
#[case(json!({"delay": {"min": "10"}}), "delay.min is not a duration")]
#[case(json!({"delay": {"min": "-10ms"}}), "delay.min is not a duration")]
#[case(json!({"delay": {"min": ""}}), "delay.min is not a duration")]
#[case(json!({"writeTimeout": "5 s"}), "writeTimeout is not a duration")]
#[case(json!({"writeTimeout": "9999999999h"}), "writeTimeout is not a duration")]
#[case(json!({"writeTimeout": "0"}), "delay.max must be below writeTimeout")]
#[case(json!({"storage": {"type": "Memory", "size": "1Gi"}}), "belong to type Persistent")]
#[case(json!({"storage": {"type": "Persistent"}}), "storage.size is missing")]
#[case(json!({"storage": {"type": "Persistent", "size": "big"}}), "storage.size must be a quantity")]
#[case(json!({"storage": {"type": "Persistent", "size": "0"}}), "storage.size must be a quantity")]
#[case(json!({"clientTokens": {"secretName": ""}}), "clientTokens.secretName must be the name of a Secret")]
#[case(json!({"clientTokens": {"secretName": "A_b"}}), "clientTokens.secretName must be the name of a Secret")]
#[case(json!({"storage": {"whenDeleted": "Delete"}}), "storage.whenDeleted belongs to type Persistent")]
#[case(json!({"hibernated": true}), "hibernated needs storage.type Persistent")]
#[case(json!({"tls": {}}), "tls needs either secretName")]
#[case(json!({"tls": {"secretName": "s", "selfSigned": true}}), "tls needs either secretName")]
#[case(json!({"compressAbove": 255}), "compressAbove must be 256 to 4194304")]
#[case(json!({"compressAbove": 4_194_305}), "compressAbove must be 256 to 4194304")]
fn a_wrong_spec_is_refused_with_what_to_change(#[case] spec: serde_json::Value, #[case] message: &str) {
    let refusal = refusal(spec);
    assert!(refusal.contains(message), "{refusal}");
    assert!(!refusal.contains("evaluation"), "a rule failed instead of deciding: {refusal}");
}

#[rstest]
#[case(json!({"delay": {"min": "10ms", "max": "150ms"}}))]
#[case(json!({"delay": {"min": "0", "max": "0.5ms"}}))]
#[case(json!({"delay": {"max": "1m30s"}, "writeTimeout": "2m"}))]
#[case(json!({"followers": 9, "writeQuorum": 9}))]
#[case(json!({"followers": 1, "writeQuorum": 1}))]
#[case(json!({"storage": {"type": "Persistent", "size": "1Gi", "storageClassName": "fast"}}))]
#[case(json!({"compressAbove": 65_536}))]
#[case(json!({"clientTokens": {"secretName": "demo.tokens-1"}}))]
#[case(json!({"tls": {"selfSigned": true}}))]
#[case(json!({"tls": {"secretName": "demo-tls"}}))]
fn a_right_spec_is_accepted(#[case] spec: serde_json::Value) {
    cluster(spec).validate_cel().expect("accepted");
}

#[rstest]
#[case(json!({"followers": 5}), json!({"followers": 2}), "lower writeQuorum to the number of followers or less")]
#[case(json!({}), json!({"storage": {"type": "Persistent", "size": "1Gi"}}), "storage.type cannot be changed")]
#[case(
    json!({"storage": {"type": "Persistent", "size": "10Gi"}}),
    json!({"storage": {"type": "Persistent", "size": "9000Mi"}}),
    "storage.size cannot shrink"
)]
#[case(
    json!({"storage": {"type": "Persistent", "size": "1Gi", "storageClassName": "fast"}}),
    json!({"storage": {"type": "Persistent", "size": "1Gi"}}),
    "storage.storageClassName cannot be changed"
)]
#[case(json!({}), json!({"tls": {"selfSigned": true}}), "tls cannot be changed")]
#[case(json!({"tls": {"selfSigned": true}}), json!({}), "tls cannot be changed")]
#[case(json!({"tls": {"secretName": "a"}}), json!({"tls": {"secretName": "b"}}), "tls cannot be changed")]
fn what_cannot_change_is_refused(
    #[case] old: serde_json::Value,
    #[case] new: serde_json::Value,
    #[case] message: &str,
) {
    let refusal = cluster(new).validate_cel_update(&cluster(old)).expect_err("refused").to_string();
    assert!(refusal.contains(message), "{refusal}");
}

#[rstest]
#[case(json!({"writeQuorum": 3}), json!({"writeQuorum": 5, "delay": {"max": "1s"}}))]
#[case(json!({"followers": 5}), json!({"followers": 9}))]
#[case(json!({"followers": 5}), json!({"followers": 1, "writeQuorum": 1}))]
#[case(
    json!({"storage": {"type": "Persistent", "size": "1Gi"}}),
    json!({"storage": {"type": "Persistent", "size": "1024Mi"}})
)]
#[case::a_volume_grows(
    json!({"storage": {"type": "Persistent", "size": "1Gi"}}),
    json!({"storage": {"type": "Persistent", "size": "2Gi"}})
)]
#[case::another_thought_about_the_data(
    json!({"storage": {"type": "Persistent", "size": "1Gi"}}),
    json!({"storage": {"type": "Persistent", "size": "1Gi", "whenDeleted": "Delete"}})
)]
#[case::asleep(
    json!({"storage": {"type": "Persistent", "size": "1Gi"}}),
    json!({"storage": {"type": "Persistent", "size": "1Gi"}, "hibernated": true})
)]
#[case(json!({"tls": {"selfSigned": true}}), json!({"tls": {"selfSigned": true}, "writeQuorum": 2}))]
fn what_can_change_is_accepted(#[case] old: serde_json::Value, #[case] new: serde_json::Value) {
    cluster(new).validate_cel_update(&cluster(old)).expect("accepted");
}

/// Where no volume can grow, the wish for larger ones must not be there for ever.
#[rstest]
#[case::to_what_they_have("1Gi", true)]
#[case::to_something_in_between("1500Mi", true)]
#[case::below_what_they_have("512Mi", false)]
fn a_size_that_no_volume_has_can_be_taken_back(#[case] size: &str, #[case] accepted: bool) {
    let of_size = |size: &str| cluster(json!({"storage": {"type": "Persistent", "size": size}}));
    let mut wished_for = of_size("2Gi");
    wished_for.status = Some(KvClusterStatus { volume_size: Some("1Gi".into()), ..KvClusterStatus::default() });
    let changed = KvCluster { status: wished_for.status.clone(), ..of_size(size) };
    assert_eq!(changed.validate_cel_update(&wished_for).is_ok(), accepted);
}

#[rstest]
#[case("0demo")]
#[case("a-name-of-forty-six-characters-is-one-too-long")]
#[case("with.dots")]
fn a_name_that_makes_no_service_name_is_refused(#[case] name: &str) {
    let cluster = KvCluster::new(name, cluster(json!({})).spec);
    assert!(cluster.validate_cel().expect_err("refused").to_string().contains("metadata.name must start"));
}

#[test]
fn the_definition_in_the_repository_is_the_generated_one() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let generated = definition_yaml().expect("YAML");
    let committed = std::fs::read_to_string(root.join("crds/kvcluster.yaml")).expect("crds/kvcluster.yaml");
    assert_eq!(committed, generated, "crds/kvcluster.yaml is stale: run `make crds`");
    if let Ok(copy) = std::fs::read_to_string(root.join("charts/quorumkv/files/crds/kvcluster.yaml")) {
        assert_eq!(copy, generated, "the chart's copy is stale: run `make crds`");
    }
}

#[test]
fn the_definition_reads_back_from_its_yaml() {
    let read: serde_json::Value = serde_saphyr::from_str(&definition_yaml().expect("YAML")).expect("parses");
    assert_eq!(read, serde_json::to_value(KvCluster::crd()).expect("serializes"));
}

#[rstest]
#[case("kvcluster.yaml")]
#[case("kvcluster-minimal.yaml")]
#[case("kvcluster-persistent.yaml")]
fn the_examples_are_accepted(#[case] file: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(file);
    let text = std::fs::read_to_string(path).expect("the example");
    let cluster: KvCluster = serde_saphyr::from_str(&text).expect("a KvCluster");
    cluster.validate_cel().expect("accepted");
}

#[test]
fn no_field_has_an_unsigned_format() {
    let crd = serde_json::to_string(&KvCluster::crd()).expect("serializes");
    assert!(!crd.contains("\"uint"), "the API server warns of unsigned formats");
}

#[test]
fn no_rule_computes_its_message() {
    let crd = serde_json::to_string(&KvCluster::crd()).expect("serializes");
    assert!(!crd.contains("messageExpression"), "the API server refuses the definition as too costly");
}
