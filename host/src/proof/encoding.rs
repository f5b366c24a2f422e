//! Decodes text to bytes, with the leniency that providers and operators need, and no more.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::plugin::types::Encoding;

/// Padding and the unused bits of the last character carry nothing, so neither is required to be canonical.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);

const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Returns the bytes that `text` encodes, or `None` if it is not valid in this encoding.
pub(crate) fn decode(text: &str, encoding: Encoding) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Some(text.as_bytes().to_vec()),
        Encoding::Hex => hex::decode(text).ok(),
        Encoding::Base64 => decode_base64(text),
    }
}

/// Decodes base64 in either alphabet, padded or not.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let is_url_safe = text.bytes().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if is_url_safe { &URL_SAFE } else { &STANDARD };
    engine.decode(text).ok()
}

/// Returns the bytes whose letters in Latin-1 are this text, as headers are passed to plugins and taken from them.
pub(crate) fn latin1_bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|letter| u8::try_from(letter).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_alphabets_padded_or_not() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(decode(text, Encoding::Base64), Some(vec![0xfb, 0xff]), "{text}");
        }
        for text in ["+_8=", "a b=", "§"] {
            assert_eq!(decode(text, Encoding::Base64), None, "{text}");
        }
    }

    #[test]
    fn letters_of_latin_1_are_bytes() {
        assert_eq!(latin1_bytes("aÿ"), Some(vec![b'a', 0xff]));
        assert_eq!(latin1_bytes("Ā"), None);
    }

    #[test]
    fn reads_either_case_of_hexadecimal() {
        assert_eq!(decode("aBcD", Encoding::Hex), Some(vec![0xab, 0xcd]));
        assert_eq!(decode("abc", Encoding::Hex), None);
        assert_eq!(decode("abé", Encoding::Utf8).unwrap(), "abé".as_bytes());
    }
}
