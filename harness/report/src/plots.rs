//! The plots of a run as SVG, with fault intervals shaded: latency, latency quantiles, throughput, and
//! levels that the system under test adds, such as the number of transactions in doubt.

use std::{collections::BTreeMap, error::Error, ops::Range, path::Path};

use hdrhistogram::Histogram;
use history::{Event, Function, Operation, Outcome};
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

use super::{FaultInterval, RecordedRun, fault_intervals, sections::LevelChart};

/// A plot and its description.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    /// The name of its file in the run directory.
    pub(super) file: &'static str,
    /// The title.
    pub(super) title: String,
    /// The caption.
    pub(super) caption: String,
    /// The SVG document. It follows the light or dark colour scheme of the reader.
    pub(super) svg: String,
}

type DrawResult = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (920, 280);
const FONT: &str = "system-ui, sans-serif";

/// Colours of the light scheme. [`STYLE`] maps each to its dark counterpart.
const PAPER: RGBColor = RGBColor(254, 254, 253);
const INK: RGBColor = RGBColor(31, 35, 40);
const FAINT: RGBColor = RGBColor(221, 221, 215);
const FAULT: RGBColor = RGBColor(178, 34, 52);
const SERIES_COLORS: [RGBColor; 5] = [
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

/// Draws all plots of a run.
///
/// # Errors
/// A plot cannot be drawn.
pub(super) fn plots(
    run: &RecordedRun<'_>,
    faults: &[FaultInterval],
    charts: &[LevelChart],
) -> Result<Vec<Plot>, Box<dyn Error>> {
    let timed = TimedRun::of(run.events, run.operations);
    let axes = Axes::of(&[&timed])?;
    let mut plots = timed.plots(faults, &axes)?;
    for chart in charts {
        plots.push(levels(chart, faults, axes.seconds)?);
    }
    Ok(plots)
}

/// The files of the plots that every run has, which can have axes in common.
pub(super) const SHARED: &[&str] = &["latency.svg", "quantiles.svg", "rate.svg"];

/// Draws a plot of a run, by its file name, with the axes that it has in common with another run. `None` if it is
/// not one of those that every run has.
///
/// # Errors
/// A history cannot be read, or the plot cannot be drawn.
pub(super) fn plot_beside(
    run: &Path,
    other: &Path,
    file: &str,
) -> Result<Option<String>, Box<dyn Error>> {
    if !SHARED.contains(&file) {
        return Ok(None);
    }
    let read = |directory: &Path| -> Result<_, Box<dyn Error>> {
        let recorded = history::read(&directory.join("history.jsonl"))?;
        let operations = history::pair(&recorded.events).map_err(|error| error.reason)?;
        Ok((recorded.events, operations))
    };
    let [(events, operations), (other_events, other_operations)] = [read(run)?, read(other)?];
    let timed = TimedRun::of(&events, &operations);
    let axes = Axes::of(&[&timed, &TimedRun::of(&other_events, &other_operations)])?;
    let plots = timed.plots(&fault_intervals(&events), &axes)?;
    Ok(plots.into_iter().find(|plot| plot.file == file).map(|plot| plot.svg))
}

/// A run with the times that the plots need.
struct TimedRun<'a> {
    operations: &'a [Operation],
    completions: Vec<Option<u64>>,
    seconds: f64,
}

impl<'a> TimedRun<'a> {
    fn of(events: &[Event], operations: &'a [Operation]) -> Self {
        let end = events.last().map_or(0, |event| event.time);
        let time_of = |index: u64| {
            let at = events.binary_search_by_key(&index, |event| event.index);
            at.map_or(0, |at| events[at].time)
        };
        let completions = operations.iter().map(|op| op.returned_index.map(time_of)).collect();
        TimedRun { operations, completions, seconds: (end as f64 / 1e9).max(1e-3) }
    }

    fn plots(&self, faults: &[FaultInterval], axes: &Axes) -> Result<Vec<Plot>, Box<dyn Error>> {
        let TimedRun { operations, completions, .. } = self;
        Ok(vec![
            latency(operations, completions, faults, axes)?,
            quantiles(operations, faults, axes)?,
            throughput(operations, completions, faults, axes)?,
        ])
    }
}

/// The ranges of the axes of the plots that every run has.
struct Axes {
    seconds: f64,
    latency: Range<f64>,
    quantiles: Range<f64>,
    /// The upper end of the rates.
    rate: f64,
}

impl Axes {
    /// Axes that have room for each of some runs.
    fn of(runs: &[&TimedRun<'_>]) -> Result<Axes, Box<dyn Error>> {
        let seconds = runs.iter().map(|run| run.seconds).fold(1e-3, f64::max);
        let latencies = runs.iter().flat_map(|run| {
            let both = run.operations.iter().zip(&run.completions);
            both.filter_map(|(op, completion)| latency_ms(op, *completion))
        });
        let latency = decades(latencies);
        let (mut quantiles, mut rate) = (Vec::new(), 1.0_f64);
        for run in runs {
            let series = quantile_series(run.operations, seconds)?;
            quantiles.extend(series.into_iter().flat_map(|(_, points)| points).map(|(_, ms)| ms));
            let counts = rate_counts(run.operations, &run.completions, seconds);
            let max = counts.values().flatten().max().copied().unwrap_or(0);
            rate = rate.max(f64::from(max) / (seconds / BUCKETS as f64) * 1.1);
        }
        Ok(Axes { seconds, latency, quantiles: decades(quantiles.into_iter()), rate })
    }
}

/// How far the time axis extends beyond the end of the run, to leave room for the legend.
const LEGEND_ROOM: f64 = 1.13;

/// Draws the axes and the fault intervals, then what `draw` adds.
fn chart<Y, S>(
    faults: &[FaultInterval],
    seconds: f64,
    y: S,
    unit: &str,
    label: &dyn Fn(&f64) -> String,
    draw: impl for<'a> FnOnce(
        &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> DrawResult,
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
        shade(&chart, &area, faults, seconds)?;
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
    let head = svg.find("<svg ").ok_or("the SVG has no opening tag")?;
    let body = head + svg[head..].find('>').ok_or("the SVG has no opening tag")? + 1;
    let (width, height) = SIZE;
    Ok(format!(
        "<svg class=\"plot\" viewBox=\"0 0 {width} {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\">{STYLE}{}",
        &svg[body..]
    ))
}

/// Shades the fault intervals, and labels those that have room for a label.
fn shade<Y: Ranged<ValueType = f64>>(
    chart: &ChartContext<'_, SVGBackend<'_>, Cartesian2d<RangedCoordf64, Y>>,
    area: &Area<'_>,
    faults: &[FaultInterval],
    seconds: f64,
) -> DrawResult {
    let (xs, ys) = chart.plotting_area().get_pixel_range();
    let pixel = |t: u64| {
        let share = (t as f64 / 1e9 / seconds).clamp(0.0, 1.0) / LEGEND_ROOM;
        xs.start + (share * f64::from(xs.end - xs.start)) as i32
    };
    let style = (FONT, 10).into_font().color(&FAULT);
    let style = style.pos(Pos::new(HPos::Left, VPos::Bottom));
    let mut free = xs.start;
    for fault in faults {
        let (from, to) = (pixel(fault.from), pixel(fault.to).max(pixel(fault.from) + 1));
        area.draw(&Rectangle::new([(from, ys.start), (to, ys.end)], FAULT.mix(0.13).filled()))?;
        let title = fault.title();
        let width = i32::try_from(title.len()).unwrap_or(99) * 5;
        if from >= free && from + width < xs.end {
            area.draw(&Text::new(title, (from, ys.start - 3), style.clone()))?;
            free = from + width;
        }
    }
    Ok(())
}

/// Formats a time in milliseconds with a suitable unit.
fn milliseconds_label(ms: &f64) -> String {
    match *ms {
        ms if ms >= 1000.0 => format!("{} s", ms / 1000.0),
        ms if ms >= 1.0 => format!("{ms} ms"),
        ms => format!("{} µs", (ms * 1000.0).round()),
    }
}

/// The smallest range between powers of ten that contains all positive values.
fn decades(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (mut min, mut max) = (f64::MAX, f64::MIN);
    for value in values.filter(|value| *value > 0.0) {
        min = min.min(value);
        max = max.max(value);
    }
    if min > max {
        return 0.1..1000.0;
    }
    let low = 10_f64.powf(min.log10().floor()).max(1e-3);
    low..(10_f64.powf(max.log10().ceil())).max(low * 10.0)
}

/// The time from the invocation to the completion.
fn latency_ms(operation: &Operation, completion: Option<u64>) -> Option<f64> {
    Some((completion?.saturating_sub(operation.invoked) as f64 / 1e6).max(1e-3))
}

/// The most marks of the latency plot: a browser renders this many without delay.
const MARKS_MAX: usize = 4000;

fn latency(
    operations: &[Operation],
    completions: &[Option<u64>],
    faults: &[FaultInterval],
    axes: &Axes,
) -> Result<Plot, Box<dyn Error>> {
    let seconds = axes.seconds;
    let timed = || {
        let both = operations.iter().zip(completions);
        both.filter_map(|(op, completion)| Some((op, latency_ms(op, *completion)?)))
    };
    let range = axes.latency.clone();
    let height = (range.end / range.start).log10();
    // Overlapping marks are merged; the grid gets coarser until few enough marks are left.
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
    let svg = chart(faults, seconds, range.log_scale(), "latency", &milliseconds_label, |chart| {
        let mut functions: Vec<Function> = marks.keys().map(|(f, _)| *f).collect();
        functions.dedup();
        for ((f, outcome), points) in &marks {
            let position = functions.iter().position(|other| other == f).unwrap_or(0);
            let color = SERIES_COLORS[position % SERIES_COLORS.len()];
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
            series.label(format!("{f} {}", outcome_name(outcome))).legend(move |(x, y)| {
                match outcome {
                    Outcome::Ok => Circle::new((x + 8, y), 3, color.filled()).into_dyn(),
                    Outcome::Fail => Cross::new((x + 8, y), 3, color.stroke_width(1)).into_dyn(),
                    Outcome::Info => TriangleMarker::new((x + 8, y), 5, color.filled()).into_dyn(),
                }
            });
        }
        Ok(())
    })?;
    let note = if drawn < total {
        format!("{total} operations as {drawn} marks; overlapping marks are merged.")
    } else {
        format!("{total} operations, one mark each.")
    };
    Ok(Plot {
        file: "latency.svg",
        title: "Latency by operation and outcome".to_owned(),
        caption: note,
        svg,
    })
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => "ok",
        Outcome::Fail => "fail",
        Outcome::Info => "info",
    }
}

/// The number of time buckets of a run.
const BUCKETS: usize = 120;

/// The bucket of a time, in seconds.
fn bucket(t: f64, seconds: f64) -> usize {
    ((t / seconds * BUCKETS as f64) as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, in seconds.
fn middle(bucket: usize, seconds: f64) -> f64 {
    (bucket as f64 + 0.5) * seconds / BUCKETS as f64
}

fn line<'a, Y: Ranged<ValueType = f64>>(
    chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    points: impl IntoIterator<Item = (f64, f64)>,
    color: RGBColor,
    label: impl Into<String>,
) -> DrawResult {
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(label)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    Ok(())
}

/// Points of a line: seconds and milliseconds.
type Points = Vec<(f64, f64)>;

/// The latency quantiles of each bucket.
fn quantile_series(
    operations: &[Operation],
    seconds: f64,
) -> Result<Vec<(&'static str, Points)>, Box<dyn Error>> {
    let mut buckets: Vec<Histogram<u64>> = Vec::with_capacity(BUCKETS);
    for _ in 0..BUCKETS {
        buckets.push(Histogram::new_with_bounds(1, 3_600_000_000, 3)?);
    }
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(returned) = operation.returned else { continue };
        let at = bucket(operation.invoked as f64 / 1e9, seconds);
        buckets[at].saturating_record(returned.saturating_sub(operation.invoked) / 1000);
    }
    let series =
        [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)].into_iter().map(|(name, quantile)| {
            let filled = buckets.iter().enumerate().filter(|(_, latencies)| !latencies.is_empty());
            let point = |(at, latencies): (usize, &Histogram<u64>)| {
                (middle(at, seconds), latencies.value_at_quantile(quantile) as f64 / 1000.0)
            };
            (name, filled.map(point).collect())
        });
    Ok(series.collect())
}

fn quantiles(
    operations: &[Operation],
    faults: &[FaultInterval],
    axes: &Axes,
) -> Result<Plot, Box<dyn Error>> {
    let (seconds, range) = (axes.seconds, axes.quantiles.clone());
    let series = quantile_series(operations, seconds)?;
    let svg = chart(faults, seconds, range.log_scale(), "latency", &milliseconds_label, |chart| {
        for ((name, points), color) in
            series.into_iter().zip([SERIES_COLORS[3], SERIES_COLORS[0], SERIES_COLORS[2]])
        {
            line(chart, points, color, name)?;
        }
        Ok(())
    })?;
    let note = "Of operations with outcome ok, by the time of their invocation.".to_owned();
    Ok(Plot {
        file: "quantiles.svg",
        title: "Latency quantiles over time".to_owned(),
        caption: note,
        svg,
    })
}

/// Completions by outcome in each bucket.
fn rate_counts(
    operations: &[Operation],
    completions: &[Option<u64>],
    seconds: f64,
) -> BTreeMap<Outcome, [u32; BUCKETS]> {
    let mut counts: BTreeMap<Outcome, [u32; BUCKETS]> = BTreeMap::new();
    for (operation, completion) in operations.iter().zip(completions) {
        let Some(completion) = completion else { continue };
        let counts = counts.entry(operation.outcome).or_insert([0; BUCKETS]);
        counts[bucket(*completion as f64 / 1e9, seconds)] += 1;
    }
    counts
}

fn throughput(
    operations: &[Operation],
    completions: &[Option<u64>],
    faults: &[FaultInterval],
    axes: &Axes,
) -> Result<Plot, Box<dyn Error>> {
    let Axes { seconds, rate: top, .. } = *axes;
    let counts = rate_counts(operations, completions, seconds);
    let width = seconds / BUCKETS as f64;
    let label = |rate: &f64| format!("{rate:.0}");
    let svg = chart(faults, seconds, 0.0..top, "operations per second", &label, |chart| {
        for (outcome, counts) in &counts {
            let color = match outcome {
                Outcome::Ok => SERIES_COLORS[0],
                Outcome::Fail => SERIES_COLORS[4],
                Outcome::Info => SERIES_COLORS[1],
            };
            let points = counts.iter().enumerate();
            let points = points.map(|(at, n)| (middle(at, seconds), f64::from(*n) / width));
            line(chart, points, color, outcome_name(*outcome))?;
        }
        Ok(())
    })?;
    let note = "By the time of their completion.".to_owned();
    Ok(Plot {
        file: "rate.svg",
        title: "Operations per second by outcome".to_owned(),
        caption: note,
        svg,
    })
}

/// Draws the maximum level of each series in each bucket.
fn levels(
    chart_data: &LevelChart,
    faults: &[FaultInterval],
    seconds: f64,
) -> Result<Plot, Box<dyn Error>> {
    let series = chart_data.series.iter();
    let series: Vec<(&str, [i32; BUCKETS])> =
        series.map(|(name, changes)| (name.as_str(), max_levels(changes, seconds))).collect();
    let top = series.iter().flat_map(|(_, max)| max).max().copied().unwrap_or(0);
    let top = f64::from(top.max(3)) * 1.15;
    let label = |count: &f64| format!("{count:.0}");
    let svg = chart(faults, seconds, 0.0..top, &chart_data.unit, &label, |chart| {
        for ((name, max), color) in series.iter().zip(SERIES_COLORS.iter().cycle()) {
            let points = max.iter().enumerate();
            let points = points.map(|(at, n)| (middle(at, seconds), f64::from(*n)));
            line(chart, points, *color, *name)?;
        }
        Ok(())
    })?;
    let LevelChart { file, title, caption, .. } = chart_data;
    Ok(Plot { file, title: title.clone(), caption: caption.clone(), svg })
}

fn max_levels(changes: &[(i64, i32)], seconds: f64) -> [i32; BUCKETS] {
    let mut changes = changes.to_vec();
    changes.sort_unstable();
    let mut max = [0; BUCKETS];
    let (mut level, mut at) = (0, 0);
    for (t, change) in changes {
        let next = bucket((t as f64 / 1e9).max(0.0), seconds);
        max[at..=next].iter_mut().for_each(|count| *count = level.max(*count));
        level += change;
        at = next;
        max[at] = max[at].max(level);
    }
    max[at..].iter_mut().for_each(|count| *count = level.max(*count));
    max
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_bucket_is_its_maximum() {
        let second = 1_000_000_000;
        let changes =
            [(60 * second, 1), (61 * second, 1), (61 * second + 1, -1), (90 * second, -1)];
        let max = max_levels(&changes, 120.0);
        assert_eq!((max[59], max[60], max[61], max[62], max[90], max[91]), (0, 1, 2, 1, 1, 0));
    }
}
