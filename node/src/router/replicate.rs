//! Reads the body of `POST /replicate`, which is [`quorumkv_api::lab::ReplicateRequest`], without parsing
//! the values: they have to stay as they are, byte for byte.

use std::borrow::Cow;

use axum::body::Bytes;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use quorumkv_api::{
    Epoch, NodeId, Position, Seq, Settings,
    lab::{ReplicatedCondition, ReplicatedRequestKey},
};
use quorumkv_protocol::{Append, Change, Condition, Digest, Entry, Format, Operation, RequestKey, Write};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{checked_key, value::checked_value, writes::checked_request_id};
use crate::answer::{ApiError, parse_object};

const EXAMPLE: &str = r#"{"epoch":1,"leader":"node","prevEpoch":0,"prevSeq":0,"commitSeq":0,"entries":[{"epoch":1,"set":{"key":"name","value":"any JSON"}}]}"#;

/// Larger numbers are not exact in every JSON implementation, and no log gets there.
const LARGEST_NUMBER: u64 = (1 << 53) - 1;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body<'a> {
    epoch: Epoch,
    leader: NodeId,
    prev_epoch: Epoch,
    prev_seq: Seq,
    commit_seq: Seq,
    #[serde(borrow)]
    entries: Vec<BodyEntry<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyEntry<'a> {
    epoch: Epoch,
    #[serde(borrow)]
    set: Option<BodySet<'a>>,
    #[serde(borrow)]
    write: Option<BodyWrite<'a>>,
    barrier: Option<Nothing>,
    settings: Option<Settings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodySet<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    value: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BodyWrite<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow)]
    change: BodyChange<'a>,
    condition: Option<ReplicatedCondition>,
    request: Option<ReplicatedRequestKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
enum BodyChange<'a> {
    #[serde(borrow)]
    Json(&'a RawValue),
    Raw(String),
    Delete(Nothing),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Who sent the batch, and the batch.
pub(super) fn parse(body: &[u8]) -> Result<(NodeId, Append), ApiError> {
    let Body { epoch, leader, prev_epoch, prev_seq, commit_seq, entries } = parse_object(body, EXAMPLE)?;
    let numbers = [epoch.0, prev_epoch.0, prev_seq.0, commit_seq.0];
    if numbers.into_iter().chain(entries.iter().map(|entry| entry.epoch.0)).any(|number| number > LARGEST_NUMBER) {
        return Err(ApiError::bad_request(format!("epochs and places in the log are at most {LARGEST_NUMBER}")));
    }
    let prev = Position { epoch: prev_epoch, seq: prev_seq };
    let entries = (prev_seq.0 + 1..)
        .zip(entries)
        .map(|(seq, entry)| Ok(Entry { epoch: entry.epoch, seq: Seq(seq), operation: operation(entry)? }))
        .collect::<Result<_, ApiError>>()?;
    Ok((leader, Append { epoch, prev, commit: commit_seq, entries }))
}

fn operation(entry: BodyEntry<'_>) -> Result<Operation, ApiError> {
    let BodyEntry { epoch: _, set, write, barrier, settings } = entry;
    match (set, write, barrier, settings) {
        (Some(BodySet { key, value }), None, None, None) => {
            Ok(Operation::Put { key: copied_key(&key)?, value: copied_value(value)? })
        }
        (None, Some(write), None, None) => Ok(Operation::Write(Box::new(unusual(write)?))),
        (None, None, Some(Nothing {}), None) => Ok(Operation::Barrier),
        (None, None, None, Some(settings)) => Ok(Operation::Settings(settings)),
        _ => Err(ApiError::bad_request("each entry has exactly one of set, write, barrier, settings")),
    }
}

fn unusual(BodyWrite { key, change, condition, request }: BodyWrite<'_>) -> Result<Write, ApiError> {
    let not_base64 = |what: &str| ApiError::bad_request(format!("{what} is not base64"));
    let change = match change {
        BodyChange::Json(value) => Change::Put { format: Format::Json, value: copied_value(value)? },
        BodyChange::Raw(value) => {
            let value = BASE64.decode(value).map_err(|_| not_base64("a raw value"))?;
            Change::Put { format: Format::Raw, value: value.into() }
        }
        BodyChange::Delete(Nothing {}) => Change::Delete,
    };
    let demanded = condition.map(self::condition);
    let request = request.map(|ReplicatedRequestKey { id, digest }| {
        let digest = BASE64.decode(digest).ok().and_then(|digest| digest.try_into().ok());
        let digest = Digest(digest.ok_or_else(|| not_base64("a digest of 16 bytes"))?);
        Ok::<_, ApiError>(RequestKey { id: checked_request_id(id.as_bytes())?, digest })
    });
    Ok(Write { key: copied_key(&key)?, change, condition: demanded, request: request.transpose()? })
}

/// The core's form of a condition.
pub(super) fn condition(condition: ReplicatedCondition) -> Condition {
    match condition {
        ReplicatedCondition::Present => Condition::Present,
        ReplicatedCondition::Absent => Condition::Absent,
        ReplicatedCondition::Version(version) => Condition::Version(version),
        ReplicatedCondition::NotVersion(version) => Condition::NotVersion(version),
    }
}

fn copied_key(key: &str) -> Result<Bytes, ApiError> {
    Ok(Bytes::copy_from_slice(checked_key(key)?.as_bytes()))
}

pub(super) fn copied_value(value: &RawValue) -> Result<Bytes, ApiError> {
    Ok(Bytes::copy_from_slice(checked_value(value)?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use quorumkv_api::lab::{
        ReplicateRequest, ReplicatedChange, ReplicatedEntry, ReplicatedOperation, ReplicatedWrite,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_wire_type_writes_is_read() {
        let write = |change, condition, request| {
            ReplicatedOperation::Write(ReplicatedWrite { key: "k".to_owned(), change, condition, request })
        };
        let request = ReplicatedRequestKey { id: "id".to_owned(), digest: BASE64.encode([7; 16]) };
        let operations = [
            ReplicatedOperation::Barrier {},
            ReplicatedOperation::Settings(Settings::default()),
            ReplicatedOperation::Set { key: "k".to_owned(), value: json!({"a": [1, null]}) },
            write(ReplicatedChange::Json(json!(null)), Some(ReplicatedCondition::Absent), Some(request)),
            write(ReplicatedChange::Raw(BASE64.encode([0, 0xff])), Some(ReplicatedCondition::Version(Seq(5))), None),
            write(ReplicatedChange::Delete {}, Some(ReplicatedCondition::NotVersion(Seq(6))), None),
            write(ReplicatedChange::Delete {}, Some(ReplicatedCondition::Present), None),
        ];
        let request = ReplicateRequest {
            epoch: Epoch(3),
            leader: "n0".into(),
            prev_epoch: Epoch(2),
            prev_seq: Seq(8),
            commit_seq: Seq(7),
            entries: operations.map(|operation| ReplicatedEntry { epoch: Epoch(3), operation }).into(),
        };
        let (leader, append) = parse(&serde_json::to_vec(&request).expect("JSON")).expect("valid");
        assert_eq!(leader, "n0".into());
        assert_eq!((append.epoch, append.commit), (Epoch(3), Seq(7)));
        assert_eq!(append.prev, Position { epoch: Epoch(2), seq: Seq(8) });
        let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(br#"{"a":[1,null]}"#));
        let write = |change, condition, request| {
            Operation::Write(Box::new(Write { key: Bytes::from_static(b"k"), change, condition, request }))
        };
        let put = |format, value: &'static [u8]| Change::Put { format, value: Bytes::from_static(value) };
        let request = RequestKey { id: Bytes::from_static(b"id"), digest: Digest([7; 16]) };
        let expected = [
            Operation::Barrier,
            Operation::Settings(Settings::default()),
            Operation::Put { key, value },
            write(put(Format::Json, b"null"), Some(Condition::Absent), Some(request)),
            write(put(Format::Raw, b"\0\xff"), Some(Condition::Version(Seq(5))), None),
            write(Change::Delete, Some(Condition::NotVersion(Seq(6))), None),
            write(Change::Delete, Some(Condition::Present), None),
        ];
        let expected = (9..).zip(expected).map(|(seq, operation)| Entry { epoch: Epoch(3), seq: Seq(seq), operation });
        assert_eq!(append.entries, expected.collect::<Vec<_>>());
    }

    #[test]
    fn values_stay_as_they_were_written() {
        let body = EXAMPLE.replace(r#""any JSON""#, r#"{"z": 1.00, "a" : 123456789012345678901234567890}"#);
        let (_, append) = parse(body.as_bytes()).expect("valid");
        let Operation::Put { value, .. } = &append.entries[0].operation else { panic!("a put") };
        assert_eq!(value, r#"{"z": 1.00, "a" : 123456789012345678901234567890}"#);
    }
}
