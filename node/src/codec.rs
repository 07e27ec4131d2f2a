//! Frames of the replication stream: a length, a checksum, a payload.
//!
//! ```text
//! | payload length: u32 | CRC32C of the payload: u32 | payload |      all numbers little-endian
//! ```
//!
//! What a payload says is [`crate::wire`]'s business.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Largest payload. An entry is at most a little over one MiB, and larger batches are split.
pub const MAX_PAYLOAD_BYTES: usize = 4 * 1024 * 1024;

/// Bytes before a payload.
pub const HEADER_BYTES: usize = 8;

/// Why a stream cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A length that no sender produces.
    #[error("a frame announces {length} bytes, more than the allowed {MAX_PAYLOAD_BYTES}")]
    TooLarge {
        /// The announced length.
        length: usize,
    },
    /// The payload is not what was sent.
    #[error("a frame of {length} bytes has the checksum {found:08x} instead of {expected:08x}")]
    Checksum {
        /// Length of the payload.
        length: usize,
        /// What the header says.
        expected: u32,
        /// What the payload has.
        found: u32,
    },
    /// The connection broke, also in the middle of a frame.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
}

/// Splits a byte stream into payloads.
#[derive(Debug, Default)]
pub struct FrameDecoder;

impl Decoder for FrameDecoder {
    type Item = Bytes;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let Some(mut header) = source.get(..HEADER_BYTES) else { return Ok(None) };
        let length = header.get_u32_le() as usize;
        let expected = header.get_u32_le();
        if length > MAX_PAYLOAD_BYTES {
            return Err(FrameError::TooLarge { length });
        }
        if source.len() < HEADER_BYTES + length {
            source.reserve(HEADER_BYTES + length - source.len());
            return Ok(None);
        }
        source.advance(HEADER_BYTES);
        let payload = source.split_to(length).freeze();
        let found = crc32c::crc32c(&payload);
        if found != expected {
            return Err(FrameError::Checksum { length, expected, found });
        }
        Ok(Some(payload))
    }
}

/// Makes one frame; `capacity` is a guess at the payload's size that saves growing.
///
/// # Panics
/// When `write` produces more than [`MAX_PAYLOAD_BYTES`]: the receiver would have to drop the stream.
pub fn frame(capacity: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES + capacity);
    buffer.put_bytes(0, HEADER_BYTES);
    write(&mut buffer);
    let (header, payload) = buffer.split_at_mut(HEADER_BYTES);
    assert!(payload.len() <= MAX_PAYLOAD_BYTES, "a payload of {} bytes was built", payload.len());
    let length = u32::try_from(payload.len()).expect("checked just above");
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    buffer.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(payload: &[u8]) -> Bytes {
        frame(payload.len(), |buffer| buffer.extend_from_slice(payload))
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_into_packets(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
            packet in 1_usize..64,
        ) {
            let sent: Vec<u8> = payloads.iter().flat_map(|payload| of(payload)).collect();
            let mut buffer = BytesMut::new();
            let mut received = Vec::new();
            for bytes in sent.chunks(packet) {
                buffer.extend_from_slice(bytes);
                while let Some(payload) = FrameDecoder.decode(&mut buffer).expect("sound frames") {
                    received.push(payload.to_vec());
                }
            }
            prop_assert_eq!(received, payloads);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn a_flipped_bit_is_never_taken_for_a_frame(
            payload in prop::collection::vec(any::<u8>(), 1..200),
            position in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut bytes = of(&payload).to_vec();
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
            let decoded = FrameDecoder.decode(&mut BytesMut::from(&bytes[..]));
            // A longer length waits for bytes that will not come; everything else is refused.
            prop_assert!(matches!(decoded, Err(_) | Ok(None)), "accepted {decoded:?}");
            prop_assert!(position < 4 || decoded.is_err());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_memory_is_reserved() {
        let mut buffer = BytesMut::from(&[0xff_u8; 8][..]);
        let refused = FrameDecoder.decode(&mut buffer).expect_err("four GiB");
        assert!(matches!(refused, FrameError::TooLarge { length: 0xffff_ffff }), "{refused}");
        assert!(buffer.capacity() < 1024);
    }

    #[test]
    fn a_stream_that_ends_within_a_frame_is_an_error() {
        let whole = of(b"payload");
        let mut buffer = BytesMut::from(&whole[..whole.len() - 1]);
        assert!(FrameDecoder.decode(&mut buffer).expect("not yet complete").is_none());
        assert!(matches!(FrameDecoder.decode_eof(&mut buffer), Err(FrameError::Io(_))));
    }
}
