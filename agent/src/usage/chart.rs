//! Charts as SVG inside a page: stacked columns by day, and bars by name. Every value is also a tooltip in words.

use std::fmt::Write as _;

use super::statement::escape;

/// Values of one colour, one for each column.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Its name.
    pub(super) name: String,
    /// Its colour.
    pub(super) color: String,
    /// Its values.
    pub(super) values: Vec<f64>,
}

impl Series {
    /// Nothing yet in each of so many columns.
    #[must_use]
    pub(super) fn new(name: &str, color: &str, columns: usize) -> Self {
        Self { name: name.to_owned(), color: color.to_owned(), values: vec![0.0; columns] }
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 60.0;
const BOTTOM: f64 = 24.0;
const TOP: f64 = 8.0;

/// Stacked columns with a scale, and a key of the colours.
#[must_use]
pub(super) fn columns(names: &[String], series: &[Series], unit: &str) -> String {
    let sum = |place: usize| series.iter().map(|one| one.values[place]).sum::<f64>();
    let highest = (0..names.len()).map(sum).fold(0.0, f64::max);
    let top = scale(highest);
    let (room, high) = (WIDTH - LEFT, HEIGHT - BOTTOM - TOP);
    let step = room / names.len().max(1) as f64;
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} by day\">\n",
        escape(unit)
    );
    grid(&mut svg, top);
    let every = names.len().div_ceil(16).max(1);
    for (place, name) in names.iter().enumerate() {
        let x = LEFT + step * place as f64;
        let mut below = 0.0;
        for one in series.iter().filter(|one| one.values[place] > 0.0) {
            let (height, value) = (one.values[place] / top * high, one.values[place]);
            let y = TOP + high - below - height;
            let _ = writeln!(
                svg,
                "<rect x=\"{:.1}\" y=\"{y:.2}\" width=\"{:.1}\" height=\"{height:.2}\" fill=\"{}\"><title>{}: {} {} {}</title></rect>",
                x + step * 0.1,
                step * 0.8,
                one.color,
                escape(name),
                escape(&one.name),
                short(value),
                escape(unit)
            );
            below += height;
        }
        if place % every == 0 {
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                x + step / 2.0,
                HEIGHT - 6.0,
                escape(label(name))
            );
        }
    }
    svg.push_str("</svg>\n<ul class=\"key\">");
    for one in series {
        let _ = write!(
            svg,
            "<li><span style=\"background:{}\"></span>{}</li>",
            one.color,
            escape(&one.name)
        );
    }
    svg.push_str("</ul>");
    svg
}

/// Lines across, with what they stand for.
fn grid(svg: &mut String, top: f64) {
    let high = HEIGHT - BOTTOM - TOP;
    for quarter in 0..=4 {
        let share = f64::from(quarter) / 4.0;
        let y = TOP + high * (1.0 - share);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#d0d7de\"/><text x=\"{:.1}\" y=\"{:.1}\" \
             text-anchor=\"end\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            short(top * share)
        );
    }
}

/// Of `2026-11-24` month and day.
fn label(name: &str) -> &str {
    if name.len() == 10 { name.get(5..).unwrap_or(name) } else { name }
}

/// The largest of the bars, with their names; what is left is one bar more.
#[must_use]
pub(super) fn bars(values: &[(String, f64)], most: usize) -> String {
    let mut sorted: Vec<(&str, f64)> = values
        .iter()
        .filter(|(_, value)| *value > 0.0)
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    sorted.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(right.0)));
    let rest: f64 = sorted.iter().skip(most).map(|(_, value)| *value).sum();
    let others = sorted.len().saturating_sub(most);
    sorted.truncate(most);
    let words = format!("{others} others");
    if others > 0 {
        sorted.push((&words, rest));
    }
    let highest = sorted.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if highest <= 0.0 {
        return String::new();
    }
    let height = 22 * sorted.len();
    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"cost by namespace\">\n"
    );
    for (place, (name, value)) in sorted.iter().enumerate() {
        let y = 22 * place;
        let width = (WIDTH - 380.0) * value / highest;
        let _ = writeln!(
            svg,
            "<text x=\"270\" y=\"{}\" text-anchor=\"end\">{}</text><rect x=\"280\" y=\"{}\" width=\"{width:.1}\" height=\"16\" \
             fill=\"#0969da\"/><text x=\"{:.1}\" y=\"{}\">{}</text>",
            y + 15,
            escape(name),
            y + 3,
            286.0 + width,
            y + 15,
            short(*value)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round number that is not below it: 1, 2, 2.5, 5 or 10 times a power of ten.
fn scale(highest: f64) -> f64 {
    if !highest.is_finite() || highest <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|step| *step >= highest).unwrap_or(highest)
}

/// Few digits.
fn short(value: f64) -> String {
    let text = match value.abs() {
        large if large >= 1000.0 => format!("{value:.0}"),
        middle if middle >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_round_and_holds_the_highest_column() {
        for (highest, top) in
            [(0.0, 1.0), (0.7, 1.0), (1.2, 2.0), (2.4, 2.5), (26.0, 50.0), (99_999.0, 100_000.0)]
        {
            assert!((scale(highest) - top).abs() < top * 1e-9, "{highest}: {}", scale(highest));
        }
        assert_eq!(scale(f64::NAN), 1.0);
    }

    #[test]
    fn columns_stack_up_and_names_are_only_text() {
        let mut one = Series::new("<b>", "#000", 2);
        one.values = vec![1.0, 0.0];
        let svg = columns(&["2026-11-01".to_owned(), "2026-11-02".to_owned()], &[one], "EUR");
        assert_eq!(svg.matches("<rect").count(), 1, "{svg}");
        assert!(svg.contains("2026-11-01: &lt;b&gt; 1 EUR") && !svg.contains("<b>"), "{svg}");
        assert!(svg.contains(">11-02<"), "{svg}");
    }

    #[test]
    fn few_bars_are_drawn_and_the_others_are_one() {
        let values: Vec<(String, f64)> =
            (0..30).map(|one| (format!("ns-{one:02}"), f64::from(one))).collect();
        let svg = bars(&values, 20);
        assert_eq!(svg.matches("<rect").count(), 21);
        assert!(svg.contains("9 others"), "{svg}");
        assert!(svg.find("ns-29") < svg.find("ns-10"));
        assert_eq!(bars(&[], 20), "");
    }
}
