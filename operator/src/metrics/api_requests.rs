//! Requests to the API server, counted where they leave this process: by verb and resource, as its audit log names them.

use http::{Method, Request, Uri};
use kube::client::Body;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tower::util::MapRequestLayer;

/// What stands for requests that are of no resource, such as those for the version of the API server.
const NO_RESOURCE: &str = "none";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    resource: String,
}

/// How many there were. Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct ApiRequests(Family<RequestLabels, Counter>);

impl ApiRequests {
    /// Shows them.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Requests sent to the API server, by verb and resource; a watch counts when it begins";
        registry.register("api_requests", help, self.0.clone());
    }

    /// One leaves.
    pub fn count(&self, method: &Method, uri: &Uri) {
        let (resource, named) = resource(uri.path());
        self.0.get_or_create(&RequestLabels { verb: verb(method, uri, named), resource }).inc();
    }

    /// For a client that shall count what it sends.
    pub fn layer(&self) -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone + Send + 'static> {
        let requests = self.clone();
        MapRequestLayer::new(move |request: Request<Body>| {
            requests.count(request.method(), request.uri());
            request
        })
    }
}

/// The verb of the audit log: of reads it says how much is read.
fn verb(method: &Method, uri: &Uri, named: bool) -> &'static str {
    let watches =
        uri.query().is_some_and(|query| query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1")));
    match *method {
        Method::GET if watches => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    }
}

/// The resource in a path, with its subresource, and whether the path names one object. No name is part of it: there
/// are as many resources as kinds.
fn resource(path: &str) -> (String, bool) {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let of_version = match segments.as_slice() {
        ["api", _version, rest @ ..] | ["apis", _, _version, rest @ ..] => rest,
        _ => &[],
    };
    let rest = match of_version {
        ["namespaces", _namespace, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    match rest {
        [] => (NO_RESOURCE.to_owned(), false),
        [resource] => ((*resource).to_owned(), false),
        [resource, _name] => ((*resource).to_owned(), true),
        [resource, _name, subresource, ..] => (format!("{resource}/{subresource}"), true),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Api, api::PostParams, client::ClientBuilder};
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::{
        metrics::Metrics,
        testing::api::{Expected, service},
    };

    #[rstest]
    #[case(Method::GET, "/apis/quorumkv.io/v1alpha1/kvclusters?&limit=500", "list", "kvclusters")]
    #[case(Method::GET, "/apis/quorumkv.io/v1alpha1/kvclusters?&watch=true&timeoutSeconds=290", "watch", "kvclusters")]
    #[case(Method::GET, "/apis/quorumkv.io/v1alpha1/namespaces/a/kvclusters/demo", "get", "kvclusters")]
    #[case(
        Method::PATCH,
        "/apis/quorumkv.io/v1alpha1/namespaces/a/kvclusters/demo/status?",
        "patch",
        "kvclusters/status"
    )]
    #[case(Method::POST, "/api/v1/namespaces/a/secrets?", "create", "secrets")]
    #[case(Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/operator", "update", "leases")]
    #[case(Method::DELETE, "/api/v1/namespaces/watch/pods/demo-0", "delete", "pods")]
    #[case(Method::DELETE, "/api/v1/namespaces/a/pods?labelSelector=a", "deletecollection", "pods")]
    #[case(Method::GET, "/api/v1/namespaces/a", "get", "namespaces")]
    #[case(Method::GET, "/version", "list", NO_RESOURCE)]
    #[case(Method::HEAD, "/", "other", NO_RESOURCE)]
    fn verbs_and_resources_are_those_of_the_audit_log(
        #[case] method: Method,
        #[case] uri: &str,
        #[case] expected: &str,
        #[case] of: &str,
    ) {
        let uri: Uri = uri.parse().expect("a URI");
        let (found, named) = resource(uri.path());
        assert_eq!((verb(&method, &uri, named), found.as_str()), (expected, of));
    }

    #[tokio::test]
    async fn a_client_counts_what_it_sends_whatever_the_answer_is() {
        const SECRETS: &str = "/api/v1/namespaces/default/secrets";
        let metrics = Metrics::default();
        let (service, server) = service(vec![
            Expected::missing("/api/v1/namespaces/default/secrets/token"),
            Expected::failing(Method::POST, SECRETS, StatusCode::CONFLICT),
            Expected::written(Method::POST, SECRETS),
        ]);
        let client = ClientBuilder::new(service, "default").with_layer(&metrics.api_requests().layer()).build();
        let secrets: Api<Secret> = Api::default_namespaced(client);
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "token"}})).expect("a Secret");
        assert!(secrets.get_opt("token").await.expect("an answer").is_none());
        secrets.create(&PostParams::default(), &secret).await.expect_err("refused");
        secrets.create(&PostParams::default(), &secret).await.expect("created");
        drop(secrets);
        server.await.expect("the script was followed");
        let text = metrics.text().expect("text");
        for line in [
            r#"quorumkv_operator_api_requests_total{verb="get",resource="secrets"} 1"#,
            r#"quorumkv_operator_api_requests_total{verb="create",resource="secrets"} 2"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }
}
