//! Processes many bytes at a time.
//!
//! The host checks its clock in every iteration of a guest's loop, and every copy of a length unknown at compile time is a call
//! out of the guest's code. Therefore everything that a plugin does with each byte of a delivery is done in large steps here.
#![allow(unsafe_code)]

#[cfg(target_family = "wasm")]
use core::alloc::{GlobalAlloc as _, Layout};
#[cfg(target_family = "wasm")]
use std::alloc::handle_alloc_error;

#[cfg(target_family = "wasm")]
use crate::allocator::ALLOCATOR;

/// The number of bytes of one step through plain ASCII. One check of the clock for 64 bytes costs less than reading them.
const STEP_BYTES: usize = 64;

/// How many bytes to check in one slow step after a character beyond ASCII: names and subjects are shorter.
const SLOW_BYTES: usize = 256;

/// Returns the bytes as text if they are UTF-8.
pub(crate) fn utf8(bytes: &[u8]) -> Option<&str> {
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some((step, behind)) = rest.split_first_chunk::<STEP_BYTES>()
            && is_ascii(step)
        {
            rest = behind;
            continue;
        }
        let piece = rest.get(..SLOW_BYTES).unwrap_or(rest);
        let valid = match std::str::from_utf8(piece) {
            Ok(_) => piece.len(),
            // The piece ends in the middle of a character.
            Err(error) if error.error_len().is_none() && piece.len() < rest.len() => error.valid_up_to(),
            Err(_) => return None,
        };
        rest = &rest[valid..];
    }
    // SAFETY: every piece was found to consist of whole characters, and the pieces follow each other without a gap.
    Some(unsafe { std::str::from_utf8_unchecked(bytes) })
}

#[inline]
fn is_ascii(step: &[u8; STEP_BYTES]) -> bool {
    let (words, _) = step.as_chunks();
    let all = words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word));
    all & (u64::MAX / 255 * 0x80) == 0
}

/// Returns the number of bytes from `from` to the first quote, backslash or control character, or to the end.
#[inline]
pub(crate) fn plain_bytes(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let special = special_bytes(block);
        if special != 0 {
            return at + special.trailing_zeros() as usize / BITS_PER_BYTE - from;
        }
        at += block.len();
    }
    while bytes
        .get(at)
        .is_some_and(|byte| *byte >= b' ' && *byte != b'"' && *byte != b'\\')
    {
        at += 1;
    }
    at - from
}

/// The number of bits that [`special_bytes`] returns for each byte.
#[cfg(target_feature = "simd128")]
const BITS_PER_BYTE: usize = 1;

/// Returns a mask with the bit set of every byte that is a quote, a backslash or a control character.
#[cfg(target_feature = "simd128")]
#[inline]
fn special_bytes(block: &[u8; 16]) -> u16 {
    use core::arch::wasm32::{i8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, v128_load, v128_or};
    // SAFETY: the block has 16 bytes; the instruction requires no alignment.
    let block = unsafe { v128_load(block.as_ptr().cast()) };
    let quote = u8x16_eq(block, u8x16_splat(b'"'));
    let backslash = u8x16_eq(block, u8x16_splat(b'\\'));
    let control = u8x16_lt(block, u8x16_splat(b' '));
    i8x16_bitmask(v128_or(v128_or(quote, backslash), control))
}

/// The number of bits that [`special_bytes`] returns for each byte.
#[cfg(not(target_feature = "simd128"))]
const BITS_PER_BYTE: usize = 8;

/// Returns a mask with the high bit set of every byte that is a quote, a backslash or a control character. Bytes above the lowest
/// such byte may be marked wrongly, because the subtractions borrow; only the lowest one counts.
#[cfg(not(target_feature = "simd128"))]
#[inline]
fn special_bytes(block: &[u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(*block);
    let quote = word ^ (ONES * b'"' as u64);
    let backslash = word ^ (ONES * b'\\' as u64);
    let below_ones = (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash);
    let below_blank = word.wrapping_sub(ONES * b' ' as u64) & !word;
    (below_ones | below_blank) & (ONES * 0x80)
}

/// Returns an owned copy of a text, which is usually short.
#[cfg(not(target_family = "wasm"))]
#[inline]
pub(crate) fn owned(text: &str) -> String {
    text.to_owned()
}

/// Returns an owned copy of a text, which is usually short.
#[cfg(target_family = "wasm")]
#[inline]
pub(crate) fn owned(text: &str) -> String {
    let length = text.len();
    if length == 0 || length > MOST_COPIED_BYTES {
        return text.to_owned();
    }
    // SAFETY: the layout has a nonzero size, below any limit, and the alignment of bytes. The block comes from the program's
    // allocator, called here directly instead of through the two calls that lead to it, has room for `length` bytes and does not
    // overlap the text; all of them are written, and they are the bytes of a text.
    unsafe {
        let layout = Layout::from_size_align_unchecked(length, 1);
        let block = ALLOCATOR.alloc(layout);
        if block.is_null() {
            handle_alloc_error(layout);
        }
        copy(text.as_ptr(), block, length);
        String::from_raw_parts(block, length, length)
    }
}

/// The longest text that is copied by the guest's own code, in two dozen instructions; a call out of it takes a hundred.
#[cfg(target_family = "wasm")]
const MOST_COPIED_BYTES: usize = 128;

/// Copies at most [`MOST_COPIED_BYTES`] in blocks from both ends, which overlap in the middle. Unrolled by hand, because the
/// compiler turns a loop into the very instruction that is to be avoided.
///
/// # Safety
/// See [`core::ptr::copy_nonoverlapping`].
#[cfg(target_family = "wasm")]
unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    macro_rules! blocks {
        ($bytes:literal: $($count:literal),+) => {{
            $(
                core::ptr::copy_nonoverlapping(from.add($bytes * ($count - 1)), to.add($bytes * ($count - 1)), $bytes);
                let last = length - $bytes * $count;
                core::ptr::copy_nonoverlapping(from.add(last), to.add(last), $bytes);
            )+
        }};
    }
    // SAFETY: guaranteed by the caller; in each case the blocks from either end are not longer than the whole text.
    unsafe {
        match length {
            0 => {}
            1 => blocks!(1: 1),
            2..4 => blocks!(2: 1),
            4..8 => blocks!(4: 1),
            8..16 => blocks!(8: 1),
            16..32 => blocks!(16: 1),
            32..64 => blocks!(16: 1, 2),
            _ => blocks!(16: 1, 2, 3, 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_utf8_as_the_standard_library_does() {
        let texts = ["", "a", "é", "€", "😀", "plain text ", "\u{7f}\u{80}"];
        for first in texts {
            for second in texts {
                for length in 0..300 {
                    let mut text = "x".repeat(length).into_bytes();
                    text.extend(first.bytes().chain(second.bytes()));
                    text.extend("é".repeat(length % 150).bytes());
                    assert_eq!(utf8(&text), std::str::from_utf8(&text).ok());
                    // Cut in the middle of a character, and with a byte that never occurs in UTF-8.
                    text.pop();
                    assert_eq!(utf8(&text), std::str::from_utf8(&text).ok());
                    if let Some(byte) = text.get_mut(length) {
                        *byte = 0xff;
                    }
                    assert_eq!(utf8(&text), std::str::from_utf8(&text).ok());
                }
            }
        }
    }

    #[test]
    fn finds_the_first_special_byte_at_every_place() {
        for length in 0..70 {
            for place in 0..=length {
                for special in [b'"', b'\\', 0, 0x1f] {
                    let mut bytes = vec![b'x'; length];
                    bytes[length / 2..].fill(0xff);
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = special;
                    }
                    for from in 0..=place {
                        assert_eq!(plain_bytes(&bytes, from), place - from);
                    }
                }
            }
        }
    }
}
