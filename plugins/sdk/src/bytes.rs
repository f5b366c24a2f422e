//! Work on many bytes at a time.
//!
//! The host looks at its clock once in every round of a guest's loops, and leaves the guest's code for every copy whose length
//! is not known beforehand. So what a plugin does to every byte of a delivery goes in large steps here.
#![allow(unsafe_code)]

#[cfg(target_family = "wasm")]
use core::alloc::{GlobalAlloc as _, Layout};
#[cfg(target_family = "wasm")]
use std::alloc::handle_alloc_error;

#[cfg(target_family = "wasm")]
use crate::allocator::ALLOCATOR;

/// Bytes of one step through plain ASCII. One look at the clock for 64 bytes costs less than reading them.
const STEP_BYTES: usize = 64;

/// How far to go in small steps where a character beyond ASCII was met: names and subjects are shorter.
const SLOW_BYTES: usize = 256;

/// The bytes as text, when they are UTF-8.
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
            // The piece ends within a character.
            Err(error) if error.error_len().is_none() && piece.len() < rest.len() => error.valid_up_to(),
            Err(_) => return None,
        };
        rest = &rest[valid..];
    }
    // SAFETY: every piece was found to be whole characters, and the pieces follow each other without a gap.
    Some(unsafe { std::str::from_utf8_unchecked(bytes) })
}

#[inline]
fn is_ascii(step: &[u8; STEP_BYTES]) -> bool {
    let (words, _) = step.as_chunks();
    let all = words.iter().fold(0, |all, word| all | u64::from_le_bytes(*word));
    all & (u64::MAX / 255 * 0x80) == 0
}

/// Position of the first quote, backslash or control character, counted from `from`, or the number of bytes behind it.
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

/// Bits that [`special_bytes`] has for every byte.
#[cfg(target_feature = "simd128")]
const BITS_PER_BYTE: usize = 1;

/// The bit of every byte that is a quote, a backslash or a control character.
#[cfg(target_feature = "simd128")]
#[inline]
fn special_bytes(block: &[u8; 16]) -> u16 {
    use core::arch::wasm32::{i8x16_bitmask, u8x16_eq, u8x16_lt, u8x16_splat, v128_load, v128_or};
    // SAFETY: the block has the 16 bytes; the instruction wants no alignment.
    let block = unsafe { v128_load(block.as_ptr().cast()) };
    let quote = u8x16_eq(block, u8x16_splat(b'"'));
    let backslash = u8x16_eq(block, u8x16_splat(b'\\'));
    let control = u8x16_lt(block, u8x16_splat(b' '));
    i8x16_bitmask(v128_or(v128_or(quote, backslash), control))
}

/// Bits that [`special_bytes`] has for every byte.
#[cfg(not(target_feature = "simd128"))]
const BITS_PER_BYTE: usize = 8;

/// The high bit of every byte that is a quote, a backslash or a control character. Bytes above the lowest
/// such one may be marked wrongly, because the subtractions borrow; only the lowest counts.
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

/// An owned copy of a text, which is short as a rule.
#[cfg(not(target_family = "wasm"))]
#[inline]
pub(crate) fn owned(text: &str) -> String {
    text.to_owned()
}

/// An owned copy of a text, which is short as a rule.
#[cfg(target_family = "wasm")]
#[inline]
pub(crate) fn owned(text: &str) -> String {
    let length = text.len();
    if length == 0 || length > MOST_COPIED_BYTES {
        return text.to_owned();
    }
    // SAFETY: the layout has a size, below any limit, and the alignment of bytes. The block comes from the program's allocator,
    // asked here without the two calls that lead there, has room for `length` bytes and is apart from the text; all of
    // them are written, and they are the bytes of a text.
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

/// Up to this length a copy stays within the guest's code: two dozen instructions, where leaving it takes a hundred.
#[cfg(target_family = "wasm")]
const MOST_COPIED_BYTES: usize = 128;

/// Copies at most [`MOST_COPIED_BYTES`] in blocks from both ends, which overlap in the middle. Written out, because the
/// compiler makes of a loop the very instruction that is to be avoided.
///
/// # Safety
/// As of [`core::ptr::copy_nonoverlapping`].
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
    // SAFETY: the caller's promise; in each case the blocks from either end are not longer than the whole.
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
                    // Cut within a character, and with a byte that no text has.
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
