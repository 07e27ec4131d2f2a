//! The Secret with the token that nodes and operator present to each other.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;

use super::names;
use crate::validate::ValidCluster;

/// Key of the token in the Secret.
pub const TOKEN_KEY: &str = "token";

/// A Secret with this token. It is created once and never changed: running nodes keep the token they
/// started with. Not immutable all the same: of such a Secret a kubelet keeps what it once read for as long as any pod
/// there refers to its name, and would give it to the pods of the next KvCluster of that name.
#[must_use]
pub fn build(cluster: &ValidCluster, token: &str) -> Secret {
    Secret {
        metadata: names::metadata(cluster, names::token_secret(&cluster.name)),
        type_: Some("Opaque".to_owned()),
        string_data: Some(BTreeMap::from([(TOKEN_KEY.to_owned(), token.to_owned())])),
        ..Secret::default()
    }
}

/// A token nobody can guess.
#[must_use]
pub fn random_token() -> String {
    use rand::RngExt;
    let token: [u8; 32] = rand::rng().random();
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The token in a Secret, if it is there and readable.
#[must_use]
pub fn token_in(secret: &Secret) -> Option<String> {
    let bytes = &secret.data.as_ref()?.get(TOKEN_KEY)?.0;
    String::from_utf8(bytes.clone()).ok().filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_token_has_256_random_bits() {
        let token = random_token();
        assert_eq!(token.len(), 64);
        assert_ne!(token, random_token());
    }

    #[test]
    fn an_empty_secret_holds_no_token() {
        let with = |value: &str| Secret {
            data: Some([(TOKEN_KEY.to_owned(), ByteString(value.into()))].into()),
            ..Secret::default()
        };
        assert_eq!(token_in(&with("t")), Some("t".to_owned()));
        assert_eq!(token_in(&with("")), None);
        assert_eq!(token_in(&Secret::default()), None);
    }
}
