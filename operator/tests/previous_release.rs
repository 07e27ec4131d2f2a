//! What the operator of the previous release made of a KvCluster, beside what this one makes of it.
//!
//! See `tests/fixtures/previous`. With `QUORUMKV_RENEW_PREVIOUS_RELEASE=1` this operator becomes the previous one.

use std::{collections::BTreeSet, env, fs};

use quorumkv_operator::{
    build::{self, secret},
    crd::KvCluster,
    validate,
};
use serde_json::{Value, json};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/previous");

fn read(name: &str) -> Value {
    let path = format!("{FIXTURES}/{name}");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What this operator makes of the KvCluster of the previous release.
fn made_now() -> Vec<Value> {
    let mut cluster: KvCluster = serde_json::from_value(read("kvcluster.json")).expect("a KvCluster is still one");
    cluster.metadata.uid = Some("@UID@".to_owned());
    let cluster = validate::validate(&cluster, "an image that it does not name").expect("and still valid");
    let build::Objects { services, budget, nodes } = build::objects(&cluster);
    let mut objects = vec![json!(secret::build(&cluster, "@TOKEN@"))];
    objects.extend(services.iter().map(|service| json!(service)));
    objects.extend([json!(budget), json!(nodes)]);
    objects
}

fn the_stateful_set(objects: &[Value]) -> &Value {
    objects.iter().find(|object| object["kind"] == "StatefulSet").expect("a StatefulSet")
}

#[test]
fn an_upgrade_from_the_previous_release_replaces_no_pod() {
    let now = made_now();
    if env::var_os("QUORUMKV_RENEW_PREVIOUS_RELEASE").is_some() {
        let text = serde_json::to_string_pretty(&now).expect("objects serialize");
        fs::write(format!("{FIXTURES}/objects.json"), text + "\n").expect("the fixture is written");
    }
    let Value::Array(before) = read("objects.json") else { panic!("objects.json is a list") };

    let (set_before, set_now) = (the_stateful_set(&before), the_stateful_set(&now));
    assert_eq!(
        set_now["spec"]["template"], set_before["spec"]["template"],
        "another template: an upgrade replaces every pod of every store. If that is worth it, say so in the changelog, \
         and renew tests/fixtures/previous once it is released"
    );
    // The API server refuses to change these.
    for field in ["serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates"] {
        assert_eq!(set_now["spec"][field], set_before["spec"][field], "spec.{field}");
    }
    // What is called otherwise now would be left behind, and nodes would not find each other by it.
    let names = |objects: &[Value]| -> BTreeSet<String> {
        objects.iter().map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])).collect()
    };
    assert_eq!(names(&now), names(&before));
}
