//! Latency, its quantiles, the rate and what was in doubt, over the time of a run, drawn as SVG with
//! the faults shaded. Knows numbers, nothing of verdicts.

use std::{collections::BTreeMap, error::Error, ops::Range};

use hdrhistogram::Histogram;
use plotters::{
    chart::ChartContext,
    coord::{
        Shift,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use system::protocol::Node;

use super::{tenures::Tenure, windows::Window};
use crate::history::{Function, Operation, Outcome};

/// A picture: the name of its file, what it shows, and the picture itself.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    /// The name of its file.
    pub(super) file: &'static str,
    /// What it shows.
    pub(super) title: &'static str,
    /// What to know about it.
    pub(super) note: String,
    /// The picture, a whole SVG document that is light or dark as its reader is.
    pub(super) svg: String,
}

type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (920, 280);
const FONT: &str = "system-ui, sans-serif";

/// Colours as they are drawn. [`STYLE`] gives each its dark counterpart.
const PAPER: RGBColor = RGBColor(254, 254, 253);
const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT: RGBColor = RGBColor(221, 221, 215);
const FAULT: RGBColor = RGBColor(178, 34, 52);
const HUES: [RGBColor; 5] = [
    RGBColor(31, 95, 139),
    RGBColor(176, 96, 16),
    RGBColor(104, 66, 140),
    RGBColor(45, 122, 79),
    RGBColor(110, 116, 124),
];

const STYLE: &str = "<style>\
.plot text{font-variant-numeric:tabular-nums}\
@media (prefers-color-scheme:dark){\
.plot [fill='#FEFEFD']{fill:#16181b}.plot [fill='#1F2328']{fill:#d8dade}\
.plot [stroke='#1F2328']{stroke:#d8dade}.plot [stroke='#DDDDD7']{stroke:#33373c}\
.plot [fill='#B22234']{fill:#ef6a76}\
.plot [fill='#1F5F8B']{fill:#6fb3e0}.plot [stroke='#1F5F8B']{stroke:#6fb3e0}\
.plot [fill='#B06010']{fill:#e5a04d}.plot [stroke='#B06010']{stroke:#e5a04d}\
.plot [fill='#68428C']{fill:#bb98e0}.plot [stroke='#68428C']{stroke:#bb98e0}\
.plot [fill='#2D7A4F']{fill:#6cc493}.plot [stroke='#2D7A4F']{stroke:#6cc493}\
.plot [fill='#6E747C']{fill:#9aa1aa}.plot [stroke='#6E747C']{stroke:#9aa1aa}\
}</style>";

/// All plots of a run.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn plots(
    operations: &[Operation],
    ends: &[Option<u64>],
    windows: &[Window],
    tenures: &BTreeMap<Node, Vec<Tenure>>,
    end: u64,
) -> Result<Vec<Plot>, Box<dyn Error>> {
    let seconds = (end as f64 / 1e9).max(1e-3);
    Ok(vec![
        latency(operations, ends, windows, seconds)?,
        quantiles(operations, windows, seconds)?,
        rate(operations, ends, windows, seconds)?,
        doubt(tenures, windows, seconds)?,
    ])
}

/// The axis of time goes on beyond the end by so much, for the legend to lie where no mark is.
const LEGEND_ROOM: f64 = 1.13;

/// Draws axes, the faults, and then what `draw` adds.
fn chart<Y, S>(
    windows: &[Window],
    seconds: f64,
    y: S,
    unit: &str,
    label: &dyn Fn(&f64) -> String,
    draw: impl for<'a> FnOnce(
        &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Drawn,
) -> Result<String, Box<dyn Error>>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    S: AsRangedCoord<CoordDescType = Y, Value = f64>,
{
    let mut svg = String::new();
    {
        let area: Area<'_> = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&PAPER)?;
        let text = (FONT, 12).into_font().color(&INK);
        let mut chart = ChartBuilder::on(&area)
            .margin_top(18)
            .margin_right(12)
            .margin_bottom(4)
            .x_label_area_size(34)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..seconds * LEGEND_ROOM, y)?;
        let digits = usize::from(seconds < 10.0);
        let time_label =
            |x: &f64| if *x <= seconds { format!("{x:.digits$}") } else { String::new() };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(FAINT)
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_labels(11)
            .y_labels(6)
            .x_label_formatter(&time_label)
            .y_label_formatter(label)
            .x_desc("seconds")
            .y_desc(unit)
            .draw()?;
        shade(&chart, &area, windows, seconds)?;
        draw(&mut chart)?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(PAPER.mix(0.85))
            .label_font((FONT, 12).into_font().color(&INK))
            .margin(6)
            .draw()?;
        area.present()?;
    }
    let head = svg.find("<svg ").ok_or("the picture has no beginning")?;
    let body = head + svg[head..].find('>').ok_or("the picture has no beginning")? + 1;
    let (width, height) = SIZE;
    Ok(format!(
        "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\">{STYLE}{}",
        &svg[body..]
    ))
}

/// Shades the times of faults, and names those that have room above them.
fn shade<Y: Ranged<ValueType = f64>>(
    chart: &ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, Y>>,
    area: &Area<'_>,
    windows: &[Window],
    seconds: f64,
) -> Drawn {
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let pixel = |t: u64| {
        let share = (t as f64 / 1e9 / seconds).clamp(0.0, 1.0) / LEGEND_ROOM;
        xs.start + (share * f64::from(xs.end - xs.start)) as i32
    };
    let style = (FONT, 10).into_font().color(&FAULT);
    let style = style.pos(Pos::new(HPos::Left, VPos::Bottom));
    let mut free = xs.start;
    for window in windows {
        let (from, to) = (pixel(window.from), pixel(window.to).max(pixel(window.from) + 1));
        area.draw(&Rectangle::new([(from, ys.start), (to, ys.end)], FAULT.mix(0.13).filled()))?;
        let title = window.title();
        let width = i32::try_from(title.len()).unwrap_or(99) * 5;
        if from >= free && from + width < xs.end {
            area.draw(&Text::new(title, (from, ys.start - 3), style.clone()))?;
            free = from + width;
        }
    }
    Ok(())
}

/// A time in milliseconds, in words.
fn time(ms: &f64) -> String {
    match *ms {
        ms if ms >= 1000.0 => format!("{} s", ms / 1000.0),
        ms if ms >= 1.0 => format!("{ms} ms"),
        ms => format!("{} µs", (ms * 1000.0).round()),
    }
}

/// Powers of ten around all of these.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut least, mut most) = (f64::MAX, f64::MIN);
    for value in values.filter(|value| *value > 0.0) {
        least = least.min(value);
        most = most.max(value);
    }
    if least > most {
        return 0.1..1000.0;
    }
    let floor = 10_f64.powf(least.log10().floor()).max(1e-3);
    floor..(10_f64.powf(most.log10().ceil())).max(floor * 10.0)
}

fn milliseconds(operation: &Operation, end: Option<u64>) -> Option<f64> {
    Some((end?.saturating_sub(operation.invoked) as f64 / 1e6).max(1e-3))
}

/// So many marks make a picture that is quickly there.
const MARKS_MAX: usize = 4000;

fn latency(
    operations: &[Operation],
    ends: &[Option<u64>],
    windows: &[Window],
    seconds: f64,
) -> Result<Plot, Box<dyn Error>> {
    let timed = || {
        let both = operations.iter().zip(ends);
        both.filter_map(|(op, end)| Some((op, milliseconds(op, *end)?)))
    };
    let range = decades(timed().map(|(_, ms)| ms));
    let height = (range.end / range.start).log10();
    // One mark for all that would lie on each other; coarser until there are few enough.
    type Series = BTreeMap<(Function, Outcome), BTreeMap<(u32, u32), (f64, f64)>>;
    let mut marks = Series::new();
    for grain in [3.0, 4.0, 6.0, 8.0, 12.0] {
        marks.clear();
        for (op, ms) in timed() {
            let at = op.invoked as f64 / 1e9;
            let x = at / seconds * f64::from(SIZE.0) / grain;
            let y = (ms / range.start).log10() / height * f64::from(SIZE.1) / grain;
            let series = marks.entry((op.f, op.outcome)).or_default();
            series.entry((x as u32, y as u32)).or_insert((at, ms));
        }
        if marks.values().map(BTreeMap::len).sum::<usize>() <= MARKS_MAX {
            break;
        }
    }
    let drawn: usize = marks.values().map(BTreeMap::len).sum();
    let total = timed().count();
    let svg = chart(windows, seconds, range.log_scale(), "latency", &time, |chart| {
        for ((f, outcome), points) in &marks {
            let color = HUES[*f as usize];
            let points = points.values().copied();
            let series = match outcome {
                Outcome::Ok => chart
                    .draw_series(points.map(|at| Circle::new(at, 2, color.filled()).into_dyn()))?,
                Outcome::Fail => chart.draw_series(
                    points.map(|at| Cross::new(at, 3, color.stroke_width(1)).into_dyn()),
                )?,
                Outcome::Info => chart.draw_series(
                    points.map(|at| TriangleMarker::new(at, 5, color.filled()).into_dyn()),
                )?,
            };
            let outcome = *outcome;
            series.label(format!("{f} {}", name(outcome))).legend(move |(x, y)| match outcome {
                Outcome::Ok => Circle::new((x + 8, y), 3, color.filled()).into_dyn(),
                Outcome::Fail => Cross::new((x + 8, y), 3, color.stroke_width(1)).into_dyn(),
                Outcome::Info => TriangleMarker::new((x + 8, y), 5, color.filled()).into_dyn(),
            });
        }
        Ok(())
    })?;
    let note = if drawn < total {
        format!("{total} operations as {drawn} marks: one for all that lie on each other.")
    } else {
        format!("{total} operations, a mark each.")
    };
    Ok(Plot { file: "latency.svg", title: "Latency by operation and outcome", note, svg })
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

/// In so many parts a run is looked at.
const PARTS: usize = 120;

/// Which part a time falls into.
fn part(t: f64, seconds: f64) -> usize {
    ((t / seconds * PARTS as f64) as usize).min(PARTS - 1)
}

/// The middle of a part, in seconds.
fn middle(part: usize, seconds: f64) -> f64 {
    (part as f64 + 0.5) * seconds / PARTS as f64
}

fn line<'a, Y: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    points: impl IntoIterator<Item = (f64, f64)>,
    color: RGBColor,
    label: impl Into<String>,
) -> Drawn {
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    Ok(())
}

fn quantiles(
    operations: &[Operation],
    windows: &[Window],
    seconds: f64,
) -> Result<Plot, Box<dyn Error>> {
    let mut parts: Vec<Histogram<u64>> = Vec::with_capacity(PARTS);
    for _ in 0..PARTS {
        parts.push(Histogram::new_with_bounds(1, 3_600_000_000, 3)?);
    }
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(returned) = operation.returned else { continue };
        let at = part(operation.invoked as f64 / 1e9, seconds);
        parts[at].saturating_record(returned.saturating_sub(operation.invoked) / 1000);
    }
    let series: Vec<(&str, Vec<(f64, f64)>)> = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)]
        .into_iter()
        .map(|(name, quantile)| {
            let filled = parts.iter().enumerate().filter(|(_, part)| !part.is_empty());
            let point = |(at, part): (usize, &Histogram<u64>)| {
                (middle(at, seconds), part.value_at_quantile(quantile) as f64 / 1000.0)
            };
            (name, filled.map(point).collect())
        })
        .collect();
    let range = decades(series.iter().flat_map(|(_, points)| points).map(|(_, ms)| *ms));
    let svg = chart(windows, seconds, range.log_scale(), "latency", &time, |chart| {
        for ((name, points), color) in series.into_iter().zip([HUES[3], HUES[0], HUES[2]]) {
            line(chart, points, color, name)?;
        }
        Ok(())
    })?;
    let note = "Of operations that were ok, by when they were invoked.".to_owned();
    Ok(Plot { file: "quantiles.svg", title: "Latency quantiles over time", note, svg })
}

fn rate(
    operations: &[Operation],
    ends: &[Option<u64>],
    windows: &[Window],
    seconds: f64,
) -> Result<Plot, Box<dyn Error>> {
    let mut counts: BTreeMap<Outcome, [u32; PARTS]> = BTreeMap::new();
    for (operation, end) in operations.iter().zip(ends) {
        let Some(end) = end else { continue };
        let counts = counts.entry(operation.outcome).or_insert([0; PARTS]);
        counts[part(*end as f64 / 1e9, seconds)] += 1;
    }
    let width = seconds / PARTS as f64;
    let most = counts.values().flatten().max().copied().unwrap_or(0);
    let top = (f64::from(most) / width * 1.1).max(1.0);
    let label = |rate: &f64| format!("{rate:.0}");
    let svg = chart(windows, seconds, 0.0..top, "operations a second", &label, |chart| {
        for (outcome, counts) in &counts {
            let color = match outcome {
                Outcome::Ok => HUES[0],
                Outcome::Fail => HUES[4],
                Outcome::Info => HUES[1],
            };
            let points = counts.iter().enumerate();
            let points = points.map(|(at, n)| (middle(at, seconds), f64::from(*n) / width));
            line(chart, points, color, name(*outcome))?;
        }
        Ok(())
    })?;
    let note = "By when they ended.".to_owned();
    Ok(Plot { file: "rate.svg", title: "Operations a second by outcome", note, svg })
}

fn doubt(
    tenures: &BTreeMap<Node, Vec<Tenure>>,
    windows: &[Window],
    seconds: f64,
) -> Result<Plot, Box<dyn Error>> {
    let mut series: Vec<(Node, [i32; PARTS])> = Vec::new();
    for (node, tenures) in tenures {
        let mut changes: Vec<(i64, i32)> = Vec::new();
        for tenure in tenures {
            if let Some(voted) = tenure.voted.filter(|voted| *voted < tenure.to) {
                changes.push((voted, 1));
                changes.push((tenure.to, -1));
            }
        }
        changes.sort_unstable();
        let mut most = [0; PARTS];
        let (mut now, mut at) = (0, 0);
        for (t, change) in changes {
            let next = part((t as f64 / 1e9).max(0.0), seconds);
            most[at..=next].iter_mut().for_each(|part| *part = now.max(*part));
            now += change;
            at = next;
            most[at] = most[at].max(now);
        }
        most[at..].iter_mut().for_each(|part| *part = now.max(*part));
        series.push((*node, most));
    }
    let top = series.iter().flat_map(|(_, most)| most).max().copied().unwrap_or(0);
    let top = f64::from(top.max(3)) * 1.15;
    let label = |count: &f64| format!("{count:.0}");
    let svg = chart(windows, seconds, 0.0..top, "transactions", &label, |chart| {
        for ((node, most), color) in series.iter().zip(HUES.iter().cycle()) {
            let points = most.iter().enumerate();
            let points = points.map(|(at, n)| (middle(at, seconds), f64::from(*n)));
            line(chart, points, *color, node.to_string())?;
        }
        Ok(())
    })?;
    let note = "The most at a time that a replica had voted yes on and not heard the end of: each \
                holds the lock of its key."
        .to_owned();
    Ok(Plot { file: "in-doubt.svg", title: "In doubt, by replica", note, svg })
}
