//! The week as 168 bins of an hour, and the arithmetic on it.
//!
//! An hour is fine enough: with the few events that a person has, half-hour bins changed no score. Curves are
//! interpolated to the minute.

use event::{
    Timestamp,
    grid::{self, HOUR_MS},
};

/// Hours in a week.
pub(super) const BINS: usize = 168;

/// One value for each hour of the week, Monday 00:00 UTC first.
pub(super) type Week = [f32; BINS];

const HOURS_A_DAY: usize = 24;
/// Returns the hour of the week that a moment lies in, and how far into it the moment is, in minutes.
pub(super) fn bin_of(moment: Timestamp) -> (usize, usize) {
    let offset_ms = grid::week_offset_ms(moment);
    (
        (offset_ms / HOUR_MS) as usize,
        (offset_ms % HOUR_MS / grid::MINUTE_MS) as usize,
    )
}

/// Adds `weight` at a moment, split between the two hours whose middles are nearest.
pub(super) fn add_shared(week: &mut Week, moment: Timestamp, weight: f32) {
    let place = grid::week_offset_ms(moment) as f32 / HOUR_MS as f32 + BINS as f32 - 0.5;
    let share = place.fract();
    let first = place as usize;
    week[first % BINS] += weight * (1.0 - share);
    week[(first + 1) % BINS] += weight * share;
}

/// Returns Σ a·b, computed in eight partial sums: a fixed order that the compiler can keep in vector registers.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Returns the mean of a week's values.
pub(super) fn mean(week: &Week) -> f32 {
    week.iter().sum::<f32>() / BINS as f32
}

/// Scales a week to a mean of 1; a week of zeros becomes flat.
pub(super) fn normalize(week: &mut Week) {
    let mean = mean(week);
    if mean > 0.0 && mean.is_finite() {
        week.iter_mut().for_each(|value| *value /= mean);
    } else {
        *week = [1.0; BINS];
    }
}

/// A smoothing kernel: a Gaussian over neighbouring hours, times weights for the same hour on neighbouring days.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    /// Weights at 0, ±1, … hours.
    hours: Vec<f32>,
    /// Weights at 0, ±1, ±2, ±3 days.
    days: [f32; 4],
}

impl Kernel {
    /// Makes a kernel with this spread and the value 1 at its middle.
    pub(super) fn new(sigma_minutes: f32, days: [f32; 4]) -> Self {
        // Beyond three standard deviations a Gaussian has 0.3 % of its mass.
        let reach = (3.0 * sigma_minutes / 60.0).ceil() as usize;
        let hours = (0..=reach)
            .map(|hour| (-0.5 * (hour as f32 * 60.0 / sigma_minutes).powi(2)).exp())
            .collect();
        Self { hours, days }
    }

    /// Returns the sum of the kernel's weights.
    pub(super) fn mass(&self) -> f32 {
        let both_sides = |weights: &[f32]| weights[0] + 2.0 * weights[1..].iter().sum::<f32>();
        both_sides(&self.hours) * both_sides(&self.days)
    }

    /// Returns the circular convolution of a week with the kernel.
    pub(super) fn apply(&self, week: &Week) -> Week {
        let reach = self.hours.len() - 1;
        let near = wrapped(week, reach);
        let mut across_hours = [0.0; BINS];
        for (hour, weight) in self.hours.iter().enumerate() {
            let (before, after) = (&near[reach - hour..], &near[reach + hour..]);
            let weight = if hour == 0 { weight / 2.0 } else { *weight };
            for (bin, sum) in across_hours.iter_mut().enumerate() {
                *sum += weight * (before[bin] + after[bin]);
            }
        }
        if self.days[1..] == [0.0; 3] {
            return across_hours;
        }
        let reach = 3 * HOURS_A_DAY;
        let near = wrapped(&across_hours, reach);
        let mut across_days = [0.0; BINS];
        for (day, weight) in self.days.iter().enumerate() {
            let lag = day * HOURS_A_DAY;
            let (before, after) = (&near[reach - lag..], &near[reach + lag..]);
            let weight = if day == 0 { weight / 2.0 } else { *weight };
            for (bin, sum) in across_days.iter_mut().enumerate() {
                *sum += weight * (before[bin] + after[bin]);
            }
        }
        across_days
    }

    /// Returns the kernel's value for two moments whose slots of the week differ by this many minutes.
    pub(super) fn at_lag(&self, minutes: usize) -> f32 {
        let lag = minutes.min(grid::SLOTS - minutes);
        let day = ((lag + 720) / 1440).min(self.days.len() - 1);
        let within = lag.abs_diff(day * 1440);
        let (hour, share) = (within / 60, (within % 60) as f32 / 60.0);
        let at = |hour: usize| self.hours.get(hour).copied().unwrap_or(0.0);
        self.days[day] * (at(hour) * (1.0 - share) + at(hour + 1) * share)
    }
}

/// Returns a week with its last `reach` values prepended and its first `reach` values appended.
fn wrapped(week: &Week, reach: usize) -> Vec<f32> {
    let mut near = Vec::with_capacity(BINS + 2 * reach);
    near.extend_from_slice(&week[BINS - reach..]);
    near.extend_from_slice(week);
    near.extend_from_slice(&week[..reach]);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_keeps_mass_and_wraps_around_the_week() {
        let kernel = Kernel::new(90.0, [1.0, 0.6, 0.45, 0.4]);
        let mut week = [0.0; BINS];
        week[167] = 1.0;
        let smooth = kernel.apply(&week);
        assert!((smooth.iter().sum::<f32>() - kernel.mass()).abs() < 1e-4);
        assert!((smooth[167] - 1.0).abs() < 1e-6);
        assert!(
            (smooth[0] - smooth[166]).abs() < 1e-6,
            "Sunday's end meets Monday's beginning"
        );
        assert!((smooth[23] - 0.6).abs() < 1e-6, "the same hour of the next day");
        for lag in 0..168 {
            let direct = kernel.at_lag(lag * 60);
            assert!((direct - smooth[(167 + lag) % BINS]).abs() < 1e-6, "{lag}");
        }
    }

    #[test]
    fn shared_weight_is_centred() {
        let mut week = [0.0; BINS];
        add_shared(&mut week, "2026-01-05T00:30:00Z".parse().unwrap(), 1.0);
        assert_eq!((week[0], week[167], week[1]), (1.0, 0.0, 0.0));
        let mut week = [0.0; BINS];
        add_shared(&mut week, "2026-01-05T00:00:00Z".parse().unwrap(), 1.0);
        assert_eq!((week[0], week[167]), (0.5, 0.5));
    }
}
