//! Charts as SVG: panels side by side, each with a line for each system over a number that doubles. They can be read on a
//! light and on a dark page.

use std::fmt::Write as _;

use crate::table::thousands;

/// A panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What the values are.
    pub title: String,
    /// The lines.
    pub lines: Vec<Line>,
}

/// The values of one system.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// A value for each position on the horizontal axis.
    pub values: Vec<f64>,
}

/// The size of a panel with its labels, and of the part that has the lines.
const PANEL: (f64, f64) = (330.0, 300.0);
const PLOT: (f64, f64) = (250.0, 200.0);
/// Where that part begins.
const ORIGIN: (f64, f64) = (62.0, 44.0);

/// Colours that differ for people who do not tell red from green, and on white and black.
const COLOURS: [&str; 6] = ["#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#cc79a7", "#009e73"];

/// A picture of the panels. `axis` names the numbers of the horizontal axis.
#[must_use]
pub fn svg(panels: &[Panel], axis: &str, numbers: &[u32]) -> String {
    let names: Vec<&str> =
        panels.first().map_or(Vec::new(), |it| it.lines.iter().map(|line| &*line.name).collect());
    let width = PANEL.0 * f64::from(u32::try_from(panels.len()).unwrap_or(1));
    let height = PANEL.1 + 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<style>text{{fill:#333}}line{{stroke:#999}}\
         @media(prefers-color-scheme:dark){{text{{fill:#ccc}}line{{stroke:#666}}}}</style>\n"
    );
    for (n, panel) in (0_u32..).zip(panels) {
        draw(&mut out, panel, PANEL.0 * f64::from(n), axis, numbers);
    }
    let mut x = ORIGIN.0;
    for (name, colour) in names.iter().zip(COLOURS.iter().cycle()) {
        let y = PANEL.1 + 8.0;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            y - 10.0,
            x + 18.0,
            y,
            escaped(name)
        );
        x += 40.0 + 8.0 * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
    out + "</svg>\n"
}

fn draw(out: &mut String, panel: &Panel, left: f64, axis: &str, numbers: &[u32]) {
    let (x0, y0) = (left + ORIGIN.0, ORIGIN.1);
    let most = panel.lines.iter().flat_map(|line| &line.values).copied().fold(1.0, f64::max);
    let step = step(most);
    let top = (most / step).ceil() * step;
    let logarithm = |n: u32| f64::from(n.max(1)).log2();
    let range = |numbers: &[u32]| {
        let ends = (numbers.first().copied().unwrap_or(1), numbers.last().copied().unwrap_or(1));
        (logarithm(ends.0), (logarithm(ends.1) - logarithm(ends.0)).max(1.0))
    };
    let (first, span) = range(numbers);
    let x_of = |n: u32| x0 + (logarithm(n) - first) / span * PLOT.0;
    let y_of = |value: f64| y0 + PLOT.1 - value / top * PLOT.1;
    let _ = writeln!(
        out,
        "<text x=\"{x0}\" y=\"{}\" font-weight=\"bold\">{}</text>",
        y0 - 20.0,
        escaped(&panel.title)
    );
    let mut mark = 0.0;
    while mark <= top + step / 2.0 {
        let y = y_of(mark);
        let _ = writeln!(
            out,
            "<line x1=\"{x0}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke-width=\"0.5\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            x0 + PLOT.0,
            x0 - 6.0,
            y + 4.0,
            thousands(mark)
        );
        mark += step;
    }
    let below = y0 + PLOT.1 + 18.0;
    for number in numbers {
        let x = x_of(*number);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{number}</text>"
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        x0 + PLOT.0 / 2.0,
        below + 18.0,
        escaped(axis)
    );
    for (line, colour) in panel.lines.iter().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> = numbers
            .iter()
            .zip(&line.values)
            .map(|(number, value)| format!("{:.1},{:.1}", x_of(*number), y_of(*value)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            let (x, y) = point.split_once(',').expect("two coordinates");
            let _ = writeln!(out, "<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"{colour}\"/>");
        }
    }
}

/// The distance of the marks of an axis: 1, 2 or 5 times a power of ten, so that there are four to ten of them.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let factor = [5.0, 2.0, 1.0].into_iter().find(|factor| most / (power * factor) >= 4.0);
    power * factor.unwrap_or(1.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_numbers_and_not_too_many() {
        for (most, expected) in [(41_401.0, 10_000.0), (76_568.0, 10_000.0), (900.0, 200.0)] {
            assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
            assert!((4.0..=10.0).contains(&(most / step(most))));
        }
    }

    #[test]
    fn a_chart_names_each_system_and_draws_a_line_for_it() {
        let line = |name: &str| Line { name: name.to_owned(), values: vec![10.0, 40.0] };
        let panel = Panel { title: "puts & gets".to_owned(), lines: vec![line("a"), line("<b>")] };
        let picture = svg(&[panel.clone(), panel], "clients", &[1, 16]);
        assert_eq!(picture.matches("<polyline").count(), 4);
        assert!(picture.contains(">puts &amp; gets<") && picture.contains(">&lt;b><"), "{picture}");
    }
}
