//! The distributions that the simulation draws from.

use rand::{Rng, RngExt as _, SeedableRng, rngs::StdRng};

/// Returns a separate generator for each (world, person, purpose): adding a draw for one does not affect the others.
pub(crate) fn generator(seed: u64, stream: u64, purpose: u64) -> StdRng {
    // Odd multipliers keep the three numbers distinct; the generator's own seeding mixes the bits.
    StdRng::seed_from_u64(
        seed ^ stream.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ purpose.wrapping_mul(0xD1B5_4A32_D192_ED03),
    )
}

/// Draws a normal deviate (Box and Muller).
pub(crate) fn normal(rng: &mut impl Rng, mean: f64, deviation: f64) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    mean + deviation * radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

/// Draws a log-normal deviate with this median.
pub(crate) fn log_normal(rng: &mut impl Rng, median: f64, deviation: f64) -> f64 {
    median * normal(rng, 0.0, deviation).exp()
}

/// Draws an exponential deviate with this mean.
pub(crate) fn exponential(rng: &mut impl Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

/// Draws an index with these weights.
pub(crate) fn weighted(rng: &mut impl Rng, weights: &[f64]) -> usize {
    let mut rest = rng.random::<f64>() * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        rest -= weight;
        if rest < 0.0 {
            return index;
        }
    }
    weights.len() - 1
}
