//! Rates of people's mails, and their uncertainty.
//!
//! The mails of one person are correlated. A group's mails count as the number of independent mails that has the same
//! variance (design effect, Rao and Scott, "A simple method for the analysis of clustered binary data", 1992); with that
//! number, the intervals are Wilson's (1927) for a rate, Newcombe's (1998, method 10) for a difference and Katz's (1978)
//! for a ratio. These hold where clicks are few, while a bootstrap over people that finds no click at all is certain of it.

use super::{Estimate, ModelEstimate};

/// Two-sided 95 %.
pub(super) const Z_95: f64 = 1.96;

/// Two-sided 99.9 %: what every look must reach, so that looking every day finds a lift where there is none less often than
/// a single look at 95 %. In a thousand simulations with 8,000 mails a day to groups that are alike, daily looks found one in 2.2 %
/// of the quarters and 8.9 % of the years, at the last four weeks each day, and in 2.0 % of the years with a fixed beginning. At 95 %
/// once the planned number of mails is reached, it was 45 % of the quarters. A normal mixture (Robbins, 1970), which holds for ever
/// but only with a fixed beginning, would demand much the same: 3.0 to 3.7 standard errors.
pub(super) const Z_999: f64 = 3.29;

/// Trials and hits of people.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    people: usize,
    trials: f64,
    hits: f64,
    /// Sums over people of hits², hits · trials and trials².
    hits_squared: f64,
    hits_by_trials: f64,
    trials_squared: f64,
}

impl Tally {
    /// Counts a person; a person without trials is not counted.
    pub(super) fn person(&mut self, trials: usize, hits: usize) {
        if trials == 0 {
            return;
        }
        let (trials, hits) = (trials as f64, hits as f64);
        self.people += 1;
        self.trials += trials;
        self.hits += hits;
        self.hits_squared += hits * hits;
        self.hits_by_trials += hits * trials;
        self.trials_squared += trials * trials;
    }

    pub(super) fn people(&self) -> usize {
        self.people
    }

    pub(super) fn trials(&self) -> usize {
        self.trials as usize
    }

    pub(super) fn hits(&self) -> usize {
        self.hits as usize
    }

    fn rate(&self) -> f64 {
        self.hits / self.trials
    }

    /// Returns the variance of the rate over people, divided by what it would be if every trial were a different
    /// person; not below 1, because with few people it looks small by chance.
    pub(super) fn design_effect(&self) -> f64 {
        let rate = self.rate();
        let independent = rate * (1.0 - rate) / self.trials;
        // With a rate of 0 or 1, or without people, nothing can be said about how people differ.
        if self.people < 2 || independent.is_nan() || independent <= 0.0 {
            return 1.0;
        }
        let residuals =
            self.hits_squared - 2.0 * rate * self.hits_by_trials + rate * rate * self.trials_squared;
        let people = self.people as f64;
        let clustered = people / (people - 1.0) * residuals / (self.trials * self.trials);
        (clustered / independent).max(1.0)
    }

    /// Returns the number of independent trials that carry as much information.
    fn effective(&self) -> f64 {
        self.trials / self.design_effect()
    }

    /// Returns the rate with Wilson's interval.
    pub(super) fn wilson(&self, z: f64) -> Estimate {
        let (rate, n, z2) = (self.rate(), self.effective(), z * z);
        let middle = (rate + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = z / (1.0 + z2 / n) * (rate * (1.0 - rate) / n + z2 / (4.0 * n * n)).sqrt();
        // At rates of 0 and 1 the ends are exactly 0 and 1, except for rounding.
        Estimate {
            value: rate,
            low: (middle - half).clamp(0.0, rate),
            high: (middle + half).clamp(rate, 1.0),
        }
    }
}

/// Returns the rate of `a` minus that of `b`.
pub(super) fn difference(a: &Tally, b: &Tally, z: f64) -> Option<Estimate> {
    if a.people == 0 || b.people == 0 {
        return None;
    }
    let (a, b) = (a.wilson(z), b.wilson(z));
    let value = a.value - b.value;
    Some(Estimate {
        value,
        low: value - (a.value - a.low).hypot(b.high - b.value),
        high: value + (a.high - a.value).hypot(b.value - b.low),
    })
}

/// Returns the rate of `a` divided by that of `b`, minus 1.
pub(super) fn relative(a: &Tally, b: &Tally) -> Option<Estimate> {
    if a.hits == 0.0 || b.hits == 0.0 {
        return None;
    }
    let ratio = a.rate() / b.rate();
    let variance = |tally: &Tally| (1.0 - tally.rate()) / (tally.effective() * tally.rate());
    let half = Z_95 * (variance(a) + variance(b)).sqrt();
    Some(Estimate {
        value: ratio - 1.0,
        low: ratio * (-half).exp() - 1.0,
        high: ratio * half.exp() - 1.0,
    })
}

/// Weighted trials of people.
#[derive(Debug, Clone, Default)]
pub(super) struct Weighted {
    people: Vec<WeightedPerson>,
    mails: usize,
    weights_squared: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct WeightedPerson {
    trials: f64,
    weight: f64,
    hits: f64,
}

impl Weighted {
    /// Counts a person's trials, each with its weight and whether it was a hit.
    pub(super) fn person(&mut self, trials: impl Iterator<Item = (f64, bool)>) {
        let mut person = WeightedPerson::default();
        for (weight, is_hit) in trials {
            person.trials += 1.0;
            person.weight += weight;
            person.hits += if is_hit { weight } else { 0.0 };
            self.weights_squared += weight * weight;
            self.mails += usize::from(weight > 0.0);
        }
        if person.trials > 0.0 {
            self.people.push(person);
        }
    }

    /// Returns the estimates; `None` if nothing has weight. The intervals are normal, with the variance of people's
    /// residuals (linearization of a ratio): for weighted means no better intervals are established.
    pub(super) fn estimate(&self) -> Option<ModelEstimate> {
        let sum = |of: fn(&WeightedPerson) -> f64| self.people.iter().map(of).sum::<f64>();
        let (trials, weight, hits) = (
            sum(|person| person.trials),
            sum(|person| person.weight),
            sum(|person| person.hits),
        );
        if weight == 0.0 {
            return None;
        }
        let (ips, snips) = (hits / trials, hits / weight);
        Some(ModelEstimate {
            ips: self.interval(ips, trials, |person| person.hits - ips * person.trials),
            snips: self.interval(snips, weight, |person| person.hits - snips * person.weight),
            effective_sample_size: weight * weight / self.weights_squared,
            mails: self.mails,
        })
    }

    fn interval(&self, value: f64, total: f64, residual: impl Fn(&WeightedPerson) -> f64) -> Estimate {
        let people = self.people.len() as f64;
        let squares: f64 = self.people.iter().map(|person| residual(person).powi(2)).sum();
        let correction = if people > 1.0 {
            people / (people - 1.0)
        } else {
            1.0
        };
        let half = Z_95 * (correction * squares).sqrt() / total;
        Estimate {
            value,
            low: value - half,
            high: value + half,
        }
    }
}

#[cfg(test)]
mod tests;
