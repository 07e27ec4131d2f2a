//! Large payloads in fewer bytes, on streams whose receiver announced that it reads them.
//!
//! ```text
//! | kind 9: u8 | length of the payload: u32 | CRC32C of the payload: u32 | the payload as a block of LZ4 |
//! ```
//!
//! stands for a payload of another kind. The frame around it is an ordinary one, with the length and the
//! checksum of what is sent. The checksum within shows that the receiver has what the sender had.

use std::sync::{Arc, OnceLock};

use bytes::{BufMut as _, Bytes};
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};

use super::{Malformed, kind};
use crate::codec::{HEADER_BYTES, MAX_PAYLOAD_BYTES, frame};

/// What a receiver names in `Accept-Encoding`.
pub const ENCODING: &str = "lz4";

/// Smaller frames are never compressed: there is too little in them that repeats.
pub const SMALLEST: usize = 256;

/// Bytes of a compressed payload before the block.
const HEAD_BYTES: usize = 1 + 4 + 4;

/// LZ4 makes no more than that of one byte.
const MOST_PER_BYTE: usize = 255;

/// Pieces of a payload that are tried before the whole, and the size of each.
const PIECES: usize = 4;
const PIECE_BYTES: usize = 1024;

/// Up to this size trying the whole is as cheap.
const TRIED_WHOLE: usize = 4 * PIECES * PIECE_BYTES;

/// Whether frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Never.
    #[default]
    Off,
    /// Those that have more than so many bytes, if it makes them smaller by an eighth.
    Above(usize),
}

/// A frame that several streams send, in the form that each of them may.
#[derive(Debug, Clone)]
pub struct SharedFrame {
    plain: Bytes,
    /// The work of the first stream that asks for it; no frame where it does not pay. Small frames have no place
    /// for one.
    compressed: Option<Arc<OnceLock<Option<Bytes>>>>,
}

impl From<Bytes> for SharedFrame {
    fn from(plain: Bytes) -> Self {
        let compressed = (plain.len() > SMALLEST).then(Arc::default);
        Self { plain, compressed }
    }
}

impl SharedFrame {
    /// As it was made.
    #[must_use]
    pub fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// What a stream sends.
    #[must_use]
    pub fn sent(&self, compression: Compression) -> &Bytes {
        match (&self.compressed, compression) {
            (Some(once), Compression::Above(bytes)) if self.plain.len() > bytes => {
                once.get_or_init(|| compress(&self.plain)).as_ref().unwrap_or(&self.plain)
            }
            _ => &self.plain,
        }
    }
}

/// The frame in its compressed form, if that is smaller by an eighth.
fn compress(plain: &[u8]) -> Option<Bytes> {
    let payload = &plain[HEADER_BYTES..];
    if !promises(payload) {
        return None;
    }
    let block = block(payload);
    let bytes = HEADER_BYTES + HEAD_BYTES + block.len();
    (bytes <= plain.len() - plain.len() / 8).then(|| {
        frame(HEAD_BYTES + block.len(), |out| {
            out.put_u8(kind::COMPRESSED);
            out.put_u32_le(u32::try_from(payload.len()).expect("a frame was made of it"));
            out.put_u32_le(crc32c::crc32c(payload));
            out.put_slice(&block);
        })
    })
}

/// Whether pieces from all over a large payload get smaller. What does not would be work for nothing.
fn promises(payload: &[u8]) -> bool {
    if payload.len() <= TRIED_WHOLE {
        return true;
    }
    let pieces = payload.chunks(payload.len() / PIECES).take(PIECES);
    let sample: Vec<u8> = pieces.flat_map(|piece| &piece[..PIECE_BYTES]).copied().collect();
    block(&sample).len() <= sample.len() - sample.len() / 16
}

fn block(bytes: &[u8]) -> Vec<u8> {
    let mut block = vec![0; get_maximum_output_size(bytes.len())];
    let length = compress_into(bytes, &mut block).expect("there is room for the worst");
    block.truncate(length);
    block
}

/// The payload that a received one stands for: itself, unless it is compressed.
///
/// # Errors
/// When it is compressed, and not what a sender would have made.
pub fn expand(payload: Bytes) -> Result<Bytes, Malformed> {
    if payload.first() != Some(&kind::COMPRESSED) {
        return Ok(payload);
    }
    let Some((head, block)) = payload.split_first_chunk::<HEAD_BYTES>() else {
        return Err(Malformed::Short("the head of a compressed message"));
    };
    let [_, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let (length, checksum) = (u32::from_le_bytes([l0, l1, l2, l3]) as usize, u32::from_le_bytes([c0, c1, c2, c3]));
    // Before memory is taken for it.
    if length > MAX_PAYLOAD_BYTES || length > block.len() * MOST_PER_BYTE {
        return Err(Malformed::CompressedLength(length));
    }
    let mut plain = vec![0; length];
    match decompress_into(block, &mut plain) {
        Err(_) => Err(Malformed::Compressed("it is no block of LZ4, or one of more bytes than announced")),
        Ok(found) if found != length => Err(Malformed::Compressed("it has fewer bytes than announced")),
        Ok(_) if crc32c::crc32c(&plain) != checksum => Err(Malformed::Compressed("it has another checksum")),
        Ok(_) => Ok(plain.into()),
    }
}

#[cfg(test)]
mod tests;
