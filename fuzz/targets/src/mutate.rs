//! Changes to seeds that are the same on every machine, for the test that runs without libFuzzer.

/// A sequence of pseudorandom numbers that is determined by a seed (xorshift).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Creates the sequence of this seed.
    pub fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below `end`, which must be above zero.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(usize::MAX) % end
    }
}

/// Bytes at which parsers branch.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\"\\{}[],:&=%+@\r\n;-0";

/// Returns `seed` with one to four changes, which may insert parts of `other`.
pub fn changed(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        if bytes.is_empty() {
            bytes.push(TELLING[numbers.below(TELLING.len())]);
            continue;
        }
        let at = numbers.below(bytes.len());
        let length = 1 + numbers.below(bytes.len() - at).min(numbers.below(64));
        match numbers.below(7) {
            0 => bytes[at] ^= 1 << numbers.below(8),
            1 => bytes[at] = TELLING[numbers.below(TELLING.len())],
            2 => bytes.insert(at, TELLING[numbers.below(TELLING.len())]),
            3 => drop(bytes.drain(at..at + length)),
            4 => bytes.truncate(at),
            5 => {
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            _ if other.is_empty() => {}
            _ => {
                let from = numbers.below(other.len());
                let part = &other[from..other.len().min(from + length)];
                bytes.splice(at..at, part.iter().copied());
            }
        }
    }
    bytes
}
