//! Formats the comparison as text and as one self-contained HTML page.

use std::fmt::Write as _;

use inference::Estimate;

use super::score::{Measure, Policy, SIZES, Scores};
use super::verdict::{Figure, Row, Verdict};
use crate::output;

/// Width of the bars on the terminal.
const BAR: usize = 30;

/// The report in both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) text: String,
    pub(crate) html: String,
}

pub(crate) fn page(scores: &Scores, rows: &[Row], verdict: &Verdict) -> Page {
    Page {
        text: text(scores, rows, verdict),
        html: html(scores, rows, verdict),
    }
}

fn what(measure: Measure) -> &'static str {
    match measure {
        Measure::Acts => {
            "acts within 2 h of the chosen minute, in windows with an act, of people without deliveries"
        }
        Measure::Mail => {
            "clicks within a day on mail that arrived within an hour of the chosen minute, weighted by rarity; nothing is told of \
             times near which too little mail arrived"
        }
    }
}

/// Returns a figure in per cent, or nothing if it is not known, not even 0.
fn percent(figure: &Figure) -> String {
    if !figure.is_known() {
        return String::new();
    }
    let Estimate { value, low, high } = figure.estimate;
    format!("{:.1} [{:.1}, {:.1}]", 100.0 * value, 100.0 * low, 100.0 * high)
}

fn header(measure: Measure) -> Vec<String> {
    let mut header = vec!["policy".to_owned()];
    for hours in measure.windows() {
        header.push(format!("{hours} h, % [95 %]"));
        header.push("sendflowr ahead by".to_owned());
    }
    header.push("bits".to_owned());
    header
}

fn size_header(measure: Measure) -> Vec<String> {
    let policy = format!("{} h, % [95 %], by clicks before", measure.windows()[0]);
    let names = SIZES.iter().map(|(_, _, name)| (*name).to_owned());
    std::iter::once(policy).chain(names).collect()
}

fn cells(row: &Row) -> Vec<String> {
    let mut cells = vec![row.policy.name().to_owned()];
    for (rate, behind) in row.rates.iter().zip(&row.behind) {
        cells.push(percent(rate));
        let is_rival = row.policy != Policy::Model;
        cells.push(if is_rival { percent(behind) } else { String::new() });
    }
    cells.push(
        row.bits
            .map_or(String::new(), |bits| format!("{:.3}", bits.value)),
    );
    cells
}

fn size_cells(row: &Row) -> Vec<String> {
    std::iter::once(row.policy.name().to_owned())
        .chain(row.by_size.iter().map(percent))
        .collect()
}

/// The figures of the report: header and rows of each table.
fn tables(measure: Measure, rows: &[Row]) -> [(Vec<String>, Vec<Vec<String>>); 2] {
    [
        (header(measure), rows.iter().map(cells).collect()),
        (size_header(measure), rows.iter().map(size_cells).collect()),
    ]
}

fn text(scores: &Scores, rows: &[Row], verdict: &Verdict) -> String {
    let mut text = format!(
        "{} people, tested from {} to {}\n{}\n\n",
        scores.people.len(),
        scores.from,
        scores.until,
        what(scores.measure)
    );
    for (header, table) in tables(scores.measure, rows) {
        let names: Vec<&str> = header.iter().map(String::as_str).collect();
        text += &output::table(&names, &table);
        text += "\n\n";
    }
    let known = || rows.iter().filter(|row| row.rates[0].is_known());
    let most = known()
        .map(|row| row.rates[0].estimate.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    for row in known() {
        let length = (row.rates[0].estimate.value / most * BAR as f64).round() as usize;
        let _ = writeln!(text, "{:<28} {}", row.policy.name(), "█".repeat(length));
    }
    if let Some(calibration) = calibration(&scores.confidences) {
        let _ = write!(text, "\nconfidence, stated/observed, by tenth:");
        for (stated, happened) in &calibration.tenths {
            let _ = write!(text, " {stated:.2}/{happened:.2}");
        }
        let _ = writeln!(text, "\nexpected calibration error {:.3}", calibration.error);
    }
    let _ = write!(text, "\nverdict: {}", verdict.sentence(scores.measure));
    text
}

/// How far the stated confidence is from what was observed.
struct Calibration {
    tenths: Vec<(f64, f64)>,
    error: f64,
}

fn calibration(confidences: &[(f64, bool)]) -> Option<Calibration> {
    if confidences.len() < 100 {
        return None;
    }
    let mut sorted = confidences.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut tenths, mut error) = (Vec::new(), 0.0);
    for tenth in sorted.chunks(sorted.len().div_ceil(10)) {
        let count = tenth.len() as f64;
        let stated = tenth.iter().map(|(confidence, _)| confidence).sum::<f64>() / count;
        let happened = tenth.iter().filter(|(_, hit)| *hit).count() as f64 / count;
        error += (stated - happened).abs() * count / sorted.len() as f64;
        tenths.push((stated, happened));
    }
    Some(Calibration { tenths, error })
}

/// Colours that print well and can be distinguished without colour vision: the model's, the others'.
const COLOURS: [&str; 2] = ["#0b5fa5", "#9aa5b1"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#1c2733}\
    table{border-collapse:collapse;font-size:13px;margin-bottom:1.5em}th,td{padding:.25em .7em;border-bottom:1px solid #dde3e9;text-align:left}\
    .verdict{font-size:18px;padding:.8em 1em;background:#eef3f8;border-left:5px solid #0b5fa5}svg text{font:12px system-ui,sans-serif}";

fn html(scores: &Scores, rows: &[Row], verdict: &Verdict) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Timing backtest</title><style>{STYLE}</style></head><body>\n\
         <h1>Timing backtest</h1>\n<p class=\"verdict\">Verdict: {}</p>\n<p>{} people, tested from {} to {}. Each policy chose knowing only what \
         came before. Counted are {}. Intervals hold 95 % of bootstrap draws over people.</p>\n",
        escape(&verdict.sentence(scores.measure)),
        scores.people.len(),
        scores.from,
        scores.until,
        escape(what(scores.measure)),
    );
    for (window, hours) in scores.measure.windows().iter().enumerate() {
        let bars: Vec<Bar> = rows
            .iter()
            .filter_map(|row| Bar::of(row, &row.rates[window]))
            .collect();
        if !bars.is_empty() {
            let _ = write!(html, "<h2>Windows of {hours} h</h2>\n{}", bars_svg(&bars));
        }
    }
    html += "<h2>By size of history</h2>\n";
    for (size, (_, _, name)) in SIZES.iter().enumerate() {
        let bars: Vec<Bar> = rows
            .iter()
            .filter_map(|row| Bar::of(row, &row.by_size[size]))
            .collect();
        if !bars.is_empty() {
            let _ = write!(html, "<h3>{name} clicks</h3>\n{}", bars_svg(&bars));
        }
    }
    if let Some(calibration) = calibration(&scores.confidences) {
        let _ = write!(
            html,
            "<h2>Confidence</h2>\n<p>Stated confidence against observed frequency, by tenth of the decisions; on the line they are equal. Expected \
             calibration error {:.3}.</p>\n{}",
            calibration.error,
            calibration_svg(&calibration)
        );
    }
    html += "<h2>Figures</h2>\n";
    for (header, table) in tables(scores.measure, rows) {
        html += "<table><tr>";
        for name in header {
            let _ = write!(html, "<th>{}</th>", escape(&name));
        }
        html += "</tr>\n";
        for cells in table {
            html += "<tr>";
            for cell in cells {
                let _ = write!(html, "<td>{}</td>", escape(&cell));
            }
            html += "</tr>\n";
        }
        html += "</table>\n";
    }
    html += "</body></html>\n";
    html
}

struct Bar {
    name: &'static str,
    ours: bool,
    rate: Estimate,
}

impl Bar {
    /// Returns the bar of a rate, if it is known.
    fn of(row: &Row, rate: &Figure) -> Option<Self> {
        rate.is_known().then(|| Self {
            name: row.policy.name(),
            ours: row.policy == Policy::Model,
            rate: rate.estimate,
        })
    }
}

/// Draws horizontal bars with whiskers, on a scale of their own.
fn bars_svg(bars: &[Bar]) -> String {
    let most = bars
        .iter()
        .map(|bar| bar.rate.high.max(bar.rate.value))
        .fold(f64::MIN_POSITIVE, f64::max);
    let place = |rate: f64| 220.0 + rate / most * 520.0;
    let height = bars.len() * 26 + 6;
    let mut svg =
        format!("<svg viewBox=\"0 0 860 {height}\" width=\"860\" height=\"{height}\" role=\"img\">\n");
    for (row, bar) in bars.iter().enumerate() {
        let top = row * 26 + 4;
        let (low, value, high) = (place(bar.rate.low), place(bar.rate.value), place(bar.rate.high));
        let colour = COLOURS[usize::from(!bar.ours)];
        let _ = writeln!(
            svg,
            "<text x=\"212\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"220\" y=\"{top}\" width=\"{:.1}\" height=\"18\" \
             fill=\"{colour}\"/><path d=\"M{low:.1} {y}H{high:.1}\" stroke=\"#1c2733\" stroke-width=\"1.5\"/><text x=\"{:.1}\" \
             y=\"{}\">{:.1} %</text>",
            top + 14,
            escape(bar.name),
            value - 220.0,
            high + 8.0,
            top + 14,
            100.0 * bar.rate.value,
            y = top + 9,
        );
    }
    svg + "</svg>\n"
}

fn calibration_svg(calibration: &Calibration) -> String {
    let most = calibration
        .tenths
        .iter()
        .fold(0.05, |most: f64, (a, b)| most.max(*a).max(*b));
    let (x, y) = (
        |share: f64| 40.0 + share / most * 300.0,
        |share: f64| 320.0 - share / most * 300.0,
    );
    let mut svg = String::from("<svg viewBox=\"0 0 380 350\" width=\"380\" height=\"350\" role=\"img\">\n");
    let _ = writeln!(
        svg,
        "<path d=\"M40 320L340 20\" stroke=\"#9aa5b1\"/><path d=\"M40 20V320H340\" fill=\"none\" stroke=\"#1c2733\"/>\
         <text x=\"340\" y=\"340\" text-anchor=\"end\">stated, to {:.0} %</text><text x=\"44\" y=\"16\">observed</text>",
        100.0 * most
    );
    for (stated, happened) in &calibration.tenths {
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{}\"/>",
            x(*stated),
            y(*happened),
            COLOURS[0]
        );
    }
    svg + "</svg>\n"
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
