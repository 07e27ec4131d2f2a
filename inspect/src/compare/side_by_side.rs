//! Walks listings side by side, all in the same order of keys, and tells where they differ from the first.

use super::listing::{Entry, Listing};

/// How a replica differs from the leader in one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The leader has it, the replica has not.
    Missing,
    /// The replica has it, the leader has not.
    Extra,
    /// Both have it, not the same.
    Different,
}

/// A key in which a replica differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) key: String,
    pub(super) kind: Kind,
}

/// What a walk gave, by listing. The first one is the leader's and differs nowhere.
pub(super) struct Compared {
    pub(super) differences: Vec<Vec<Difference>>,
    pub(super) keys: Vec<u64>,
    /// The listing's version, or why it could not be read to its end: the rest then says nothing.
    pub(super) versions: Vec<anyhow::Result<u64>>,
}

/// Compares the listings with the first. Holds a few entries of each, and the keys that differ.
pub(super) async fn side_by_side(mut listings: Vec<Listing>) -> Compared {
    let mut differences = vec![Vec::new(); listings.len()];
    let mut keys = vec![0; listings.len()];
    let mut heads = Vec::with_capacity(listings.len());
    for listing in &mut listings {
        heads.push(listing.next().await);
    }
    while let Some(key) = heads.iter().flatten().map(|entry| &entry.key).min().cloned() {
        let (leaders, others) = heads.split_first().expect("there is a key, so there is a listing");
        let expected = of(leaders.as_ref(), &key);
        for (number, head) in (1..).zip(others) {
            let kind = match (expected, of(head.as_ref(), &key)) {
                (Some(expected), Some(found)) if expected.value.get() == found.value.get() => continue,
                (Some(_), Some(_)) => Kind::Different,
                (Some(_), None) => Kind::Missing,
                (None, Some(_)) => Kind::Extra,
                (None, None) => continue,
            };
            differences[number].push(Difference { key: key.clone(), kind });
        }
        for ((head, listing), keys) in heads.iter_mut().zip(&mut listings).zip(&mut keys) {
            if of(head.as_ref(), &key).is_some() {
                *keys += 1;
                *head = listing.next().await;
            }
        }
    }
    let mut versions = Vec::with_capacity(listings.len());
    for listing in listings {
        versions.push(listing.version().await);
    }
    Compared { differences, keys, versions }
}

fn of<'a>(head: Option<&'a Entry>, key: &str) -> Option<&'a Entry> {
    head.filter(|entry| entry.key == key)
}

#[cfg(test)]
mod tests {
    use super::{super::listing::tests::listing, *};

    async fn compare(listings: &[&str]) -> Compared {
        side_by_side(listings.iter().map(|text| listing(*text)).collect()).await
    }

    fn found(compared: &Compared, number: usize) -> Vec<(&str, Kind)> {
        compared.differences[number].iter().map(|difference| (difference.key.as_str(), difference.kind)).collect()
    }

    #[tokio::test]
    async fn planted_differences_are_found_and_nothing_else() {
        let compared = compare(&[
            r#"{"data":{"a":1,"b":2,"c":3,"e":{"x":1}},"version":4}"#,
            r#"{"data":{"a":1,"b":2,"c":3,"e":{"x":1}},"version":4}"#,
            r#"{"data":{"b":2,"c":4,"d":4,"e":{"x":1},"z":0},"version":5}"#,
            r#"{"data":{},"version":4}"#,
        ])
        .await;
        assert!(found(&compared, 0).is_empty() && found(&compared, 1).is_empty());
        let expected = [("a", Kind::Missing), ("c", Kind::Different), ("d", Kind::Extra), ("z", Kind::Extra)];
        assert_eq!(found(&compared, 2), expected);
        assert_eq!(found(&compared, 3), ["a", "b", "c", "e"].map(|key| (key, Kind::Missing)));
        assert_eq!(compared.keys, [4, 4, 5, 0]);
        let versions: Vec<u64> = compared.versions.into_iter().map(|version| version.expect("complete")).collect();
        assert_eq!(versions, [4, 4, 5, 4]);
    }

    #[tokio::test]
    async fn a_value_of_another_type_or_spelling_is_another_value() {
        let compared = compare(&[
            r#"{"data":{"a":1,"b":{"x":1,"y":2},"c":1.0},"version":1}"#,
            r#"{"data":{"a":"1","b":{"y":2,"x":1},"c":1},"version":1}"#,
        ])
        .await;
        assert_eq!(found(&compared, 1), ["a", "b", "c"].map(|key| (key, Kind::Different)));
    }

    #[tokio::test]
    async fn a_listing_that_breaks_off_is_told() {
        let compared = compare(&[
            r#"{"data":{"a":1,"b":2},"version":1}"#,
            r#"{"data":{"a":1,"b""#,
            r#"{"data":{"a":1,"b":2},"version":1}"#,
        ])
        .await;
        assert_eq!(compared.versions.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
        assert!(found(&compared, 2).is_empty());
    }
}
