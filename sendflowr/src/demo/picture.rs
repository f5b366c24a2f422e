//! A week as a small picture for the terminal.

/// Heights of a column, lowest first.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

/// Draws one row per day and one column per hour; heights are relative to the best hour of the week.
pub(super) fn week(hours: &[f64]) -> String {
    let highest = hours.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let block = |share: f64| {
        // 0 to 7: the highest share is 1.
        let height = (share / highest * (BLOCKS.len() - 1) as f64).round();
        BLOCKS[(height as usize).min(BLOCKS.len() - 1)]
    };
    let rows = DAYS.iter().zip(hours.chunks(24)).map(|(day, hours)| {
        let columns: String = hours.iter().flat_map(|share| [block(*share); 2]).collect();
        format!("  {day} {columns}")
    });
    let hours = (0..24)
        .step_by(3)
        .map(|hour| format!("{hour:<6}"))
        .collect::<String>();
    rows.chain([format!("      {hours}").trim_end().to_owned()])
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_hour_is_the_highest() {
        let mut hours = vec![0.0; 168];
        hours[24 + 19] = 0.5;
        hours[24 + 20] = 0.25;
        let picture = week(&hours);
        let tuesday = picture.lines().nth(1).unwrap();
        assert_eq!(
            tuesday,
            format!("  Tue {}██▅▅{}", "▁▁".repeat(19), "▁▁".repeat(3))
        );
        assert_eq!(picture.lines().count(), 8);
    }
}
