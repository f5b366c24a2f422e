//! Numbers that look random and depend on nothing but their input.

use event::UniversalId;

/// Derives a number from a person's id, with all bits equally random.
pub(crate) fn of_person(person: &UniversalId) -> u64 {
    let digits = &person.as_str()["sf_".len()..][..16];
    mix(u64::from_str_radix(digits, 16).expect("an id is `sf_` and 32 hexadecimal digits"))
}

/// Applies the output function of SplitMix64: every bit of the input flips half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Returns `share / 2^64` of `count`: a fraction instead of a remainder, because it uses every bit.
pub(crate) fn fraction(share: u64, count: u64) -> u64 {
    ((u128::from(share) * u128::from(count)) >> u64::BITS) as u64
}
