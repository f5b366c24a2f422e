//! The function from a curve to the probability that its choice is right, fitted to what people did afterwards.
//!
//! The choice at a moment is made with the curve of what came before, and the person's later acts show whether it was right.

use super::held_back::HeldBack;
use crate::model::Population;
use crate::model::tables::CONFIDENCE_TERMS;
use event::grid::HOUR_MS;

/// Lengths of the windows that are tried, in hours.
const WINDOWS_HOURS: [i64; 2] = [24, 168];

/// With fewer outcomes than this the function stays as it was.
const ENOUGH: usize = 400;

/// Weight, in outcomes, of the function that the fit started from.
const PRIOR: f64 = 20.0;

/// Steps of Newton's method; it converges after six.
const STEPS: usize = 10;

/// Returns the refitted function, or `None` if there are too few outcomes to fit it to.
pub(super) fn refit(population: &Population, moments: &[HeldBack]) -> Option<[f32; CONFIDENCE_TERMS]> {
    let outcomes: Vec<Outcome> = moments.iter().flat_map(outcomes_at).collect();
    if outcomes.len() < ENOUGH {
        return None;
    }
    let start: [f64; CONFIDENCE_TERMS] =
        std::array::from_fn(|term| f64::from(population.tables.confidence[term]));
    Some(logistic(&outcomes, start).map(|term| term as f32))
}

/// One outcome: the terms of the function, and whether the person acted soon enough after the chosen minute.
type Outcome = ([f64; CONFIDENCE_TERMS], bool);

fn outcomes_at(moment: &HeldBack) -> Vec<Outcome> {
    let HeldBack {
        cut, curve, future, ..
    } = moment;
    let mut outcomes = Vec::new();
    for hours in WINDOWS_HOURS {
        let window = *cut..cut.plus_millis(hours * HOUR_MS);
        if !future.iter().any(|act| window.contains(act)) {
            continue;
        }
        let ranges = [window.clone()];
        let Some(best) = curve.best(&ranges) else { continue };
        let end = best.at.plus_millis(curve.span_ms());
        let hit = future.iter().any(|act| best.at <= *act && *act < end);
        outcomes.push((curve.confidence_terms(best.at, &ranges), hit));
    }
    outcomes
}

/// Logistic regression by Newton's method, shrunk towards `start`.
fn logistic(outcomes: &[Outcome], start: [f64; CONFIDENCE_TERMS]) -> [f64; CONFIDENCE_TERMS] {
    let mut weights = start;
    for _ in 0..STEPS {
        let mut gradient: [f64; CONFIDENCE_TERMS] =
            std::array::from_fn(|term| PRIOR * (start[term] - weights[term]));
        let mut curvature = [[0.0; CONFIDENCE_TERMS]; CONFIDENCE_TERMS];
        for (term, row) in curvature.iter_mut().enumerate() {
            row[term] = PRIOR;
        }
        for (terms, hit) in outcomes {
            let odds: f64 = terms
                .iter()
                .zip(weights)
                .map(|(term, weight)| term * weight)
                .sum();
            let chance = 1.0 / (1.0 + (-odds).exp());
            for row in 0..CONFIDENCE_TERMS {
                gradient[row] += terms[row] * (f64::from(u8::from(*hit)) - chance);
                for column in 0..CONFIDENCE_TERMS {
                    curvature[row][column] += terms[row] * terms[column] * chance * (1.0 - chance);
                }
            }
        }
        let step = solve(curvature, gradient);
        for (weight, step) in weights.iter_mut().zip(step) {
            *weight += step;
        }
    }
    weights
}

/// Solves a small positive definite system by elimination.
fn solve<const N: usize>(mut matrix: [[f64; N]; N], mut right: [f64; N]) -> [f64; N] {
    for pivot in 0..N {
        let (above, below) = matrix.split_at_mut(pivot + 1);
        let pivot_row = &above[pivot];
        for (row, values) in below.iter_mut().enumerate() {
            let factor = values[pivot] / pivot_row[pivot];
            for (value, subtrahend) in values.iter_mut().zip(pivot_row) {
                *value -= factor * subtrahend;
            }
            right[pivot + 1 + row] -= factor * right[pivot];
        }
    }
    for row in (0..N).rev() {
        for column in row + 1..N {
            right[row] -= matrix[row][column] * right[column];
        }
        right[row] /= matrix[row][row];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logistic_regression_finds_the_map_that_made_the_data() {
        let truth = [-0.4, 0.9, 0.2, -0.3];
        let mut outcomes = Vec::new();
        let mut state = 1_u64;
        let mut noise = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for _ in 0..40_000 {
            let terms = [1.0, 4.0 * noise() - 2.0, 3.0 * noise(), 2.0 * noise()];
            let odds: f64 = terms.iter().zip(truth).map(|(term, weight)| term * weight).sum();
            outcomes.push((terms, noise() < 1.0 / (1.0 + (-odds).exp())));
        }
        for (found, truth) in logistic(&outcomes, [0.0; 4]).into_iter().zip(truth) {
            assert!((found - truth).abs() < 0.1, "{found} for {truth}");
        }
    }
}
