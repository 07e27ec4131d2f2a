//! The four panels.

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    element::DashedPathElement,
    prelude::*,
};

use super::{
    CRIMSON, DARK, GOLD, GREY, LIME_GREEN, PALE, SADDLE_BROWN,
    text::{bold, left, plain, right, spread},
};
use crate::lab::{
    analysis::{Analysis, Level},
    statistics::{Summary, round_up},
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Point = (i32, i32);

/// Size of most text.
const TEXT: u32 = 22;
/// Room to the right of a plot, for the names of its lines.
const NAMES: u32 = 208;
/// Least distance of two lines of text.
const LINE: i32 = 28;

/// A plot with its axes.
struct Plot<'a, 'b> {
    area: &'b Area<'a>,
    chart: ChartContext<'b, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
}

/// What the points of a line look like.
#[derive(Clone, Copy)]
enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
    /// No points; a dashed line.
    Dashes,
}

/// A line of a plot.
struct Line {
    name: &'static str,
    colour: RGBColor,
    mark: Mark,
    /// By quorum; gaps where nothing was acknowledged.
    values: Vec<(f64, f64)>,
}

impl<'a, 'b> Plot<'a, 'b> {
    /// Draws title and axes. `unit` stands beside the axis, which goes from zero to `top`.
    fn new(
        area: &'b Area<'a>,
        title: &str,
        unit: &str,
        top: f64,
        right: u32,
        analysis: &Analysis,
    ) -> anyhow::Result<Self> {
        area.draw_text(title, &left(&bold(26)), (40, 26))?;
        let quorums = || analysis.levels.iter().map(|level| f64::from(level.write_quorum));
        let (first, last) = (quorums().fold(f64::MAX, f64::min), quorums().fold(0.0, f64::max));
        let mut chart = ChartBuilder::on(area)
            .margin_top(62)
            .margin_right(right)
            .margin_left(26)
            .margin_bottom(16)
            .x_label_area_size(66)
            .y_label_area_size(84)
            .build_cartesian_2d(first - 0.6..last + 0.45, 0.0..top)?;
        let whole = |value: &f64| if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { String::new() };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(PALE)
            .axis_style(GREY)
            .x_labels(analysis.levels.len().max(2))
            .y_labels(9)
            .x_label_formatter(&whole)
            .y_label_formatter(&|value: &f64| format!("{value:.0}"))
            .label_style(plain(TEXT).color(&GREY))
            .axis_desc_style(plain(TEXT).color(&GREY))
            .x_desc("write quorum: followers that must confirm a write")
            .y_desc(unit)
            .draw()?;
        Ok(Self { area, chart })
    }

    /// Where a value is, in the pixels of the area.
    fn at(&self, (quorum, value): (f64, f64)) -> Point {
        let (x, y) = self.chart.backend_coord(&(quorum, value));
        let (left, top) = self.area.get_base_pixel();
        (x - left, y - top)
    }

    fn line(&self, line: &Line) -> anyhow::Result<()> {
        let points: Vec<Point> = line.values.iter().map(|value| self.at(*value)).collect();
        if matches!(line.mark, Mark::Dashes) {
            return self.dashes(points, line.colour);
        }
        self.area.draw(&PathElement::new(points.clone(), DARK.stroke_width(6)))?;
        self.area.draw(&PathElement::new(points.clone(), line.colour.stroke_width(4)))?;
        for point in points {
            self.mark(point, line)?;
        }
        Ok(())
    }

    fn dashes(&self, points: Vec<Point>, colour: RGBColor) -> anyhow::Result<()> {
        self.area.draw(&DashedPathElement::new(points, 7, 6, colour.stroke_width(2)))?;
        Ok(())
    }

    fn mark(&self, (x, y): Point, line: &Line) -> anyhow::Result<()> {
        let corners: &[Point] = match line.mark {
            Mark::Circle => {
                self.area.draw(&Circle::new((x, y), 8, DARK.filled()))?;
                self.area.draw(&Circle::new((x, y), 6, line.colour.filled()))?;
                return Ok(());
            }
            Mark::Dashes => return self.dashes(vec![(x - 9, y), (x + 12, y)], line.colour),
            Mark::Square => &[(-7, -7), (7, -7), (7, 7), (-7, 7)],
            Mark::Triangle => &[(0, -10), (9, 7), (-9, 7)],
            Mark::Diamond => &[(0, -10), (10, 0), (0, 10), (-10, 0)],
        };
        let mut edge: Vec<Point> = corners.iter().map(|(right, down)| (x + right, y + down)).collect();
        self.area.draw(&Polygon::new(edge.clone(), line.colour.filled()))?;
        edge.extend([edge[0], edge[1]]);
        self.area.draw(&PathElement::new(edge, DARK.stroke_width(2)))?;
        Ok(())
    }

    /// Writes names with their marks to the right of the plot, each as near to the end of its line as the others
    /// let it, and joins it to that end.
    fn names(&self, lines: &[Line]) -> anyhow::Result<()> {
        let ends = lines.iter().filter_map(|line| Some((line, self.at(*line.values.last()?))));
        let ends: Vec<(&Line, Point)> = ends.collect();
        let wanted: Vec<i32> = ends.iter().map(|(_, (_, y))| *y).collect();
        let (right, _) = self.at((self.chart.x_range().end, 0.0));
        for ((line, (x, y)), place) in ends.into_iter().zip(spread(&wanted, LINE)) {
            let joint = vec![(x + 12, y), (right - 2, place), (right + 4, place)];
            self.area.draw(&PathElement::new(joint, GREY.stroke_width(1)))?;
            self.mark((right + 18, place), line)?;
            self.area.draw_text(line.name, &left(&plain(TEXT)), (right + 36, place))?;
        }
        Ok(())
    }
}

/// The value of each level that has one.
fn values(analysis: &Analysis, value: impl Fn(&Level) -> Option<f64>) -> Vec<(f64, f64)> {
    analysis.levels.iter().filter_map(|level| Some((f64::from(level.write_quorum), value(level)?))).collect()
}

/// The end of an axis that holds these values, and a little more.
fn top(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.fold(0.0, f64::max) * 1.06;
    let step = round_up(most / 10.0);
    ((most / step).ceil() * step).max(1.0)
}

pub(super) fn latency(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    let of = |number: fn(&Summary) -> f64| values(analysis, |level| level.measured.latency_ms.as_ref().map(number));
    let lines = [
        Line { name: "p99", colour: CRIMSON, mark: Mark::Diamond, values: of(|latency| latency.p99) },
        Line { name: "p95", colour: GOLD, mark: Mark::Triangle, values: of(|latency| latency.p95) },
        Line { name: "median", colour: LIME_GREEN, mark: Mark::Square, values: of(|latency| latency.median) },
        Line { name: "mean", colour: SADDLE_BROWN, mark: Mark::Circle, values: of(|latency| latency.mean) },
        at_best("mean, at best", values(analysis, |level| Some(level.limit.mean))),
    ];
    let top = top(lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value));
    let plot = Plot::new(area, "Latency of a write", "milliseconds", top, NAMES, analysis)?;
    for line in &lines {
        plot.line(line)?;
    }
    plot.names(&lines)
}

/// What no store can beat.
fn at_best(name: &'static str, values: Vec<(f64, f64)>) -> Line {
    Line { name, colour: DARK, mark: Mark::Dashes, values }
}

pub(super) fn throughput(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    let measured = values(analysis, |level| Some(level.measured.writes_per_second));
    let lab = values(analysis, |level| level.published.map(|published| published.writes_per_second));
    let lines = [
        Line { name: "classroom lab", colour: CRIMSON, mark: Mark::Square, values: lab },
        Line { name: "measured", colour: LIME_GREEN, mark: Mark::Circle, values: measured },
        at_best("at best", values(analysis, |level| level.limit.writes_per_second)),
    ];
    let top = top(lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value));
    let plot = Plot::new(area, "Throughput", "acknowledged writes per second", top, NAMES, analysis)?;
    for line in &lines {
        plot.line(line)?;
    }
    for value in &lines[1].values {
        // The curve falls, and what is possible lies above it: there is room to the left below a point.
        let (x, y) = plot.at(*value);
        area.draw_text(&format!("{:.0}", value.1), &right(&bold(TEXT)), (x - 6, y + 22))?;
    }
    plot.names(&lines)
}

pub(super) fn success(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    let plot = Plot::new(area, "Success", "acknowledged writes, %", 112.0, 40, analysis)?;
    for level in &analysis.levels {
        let quorum = f64::from(level.write_quorum);
        let acked = level.measured.success_percent();
        let (left, bottom) = plot.at((quorum - 0.3, 0.0));
        let (right, middle) = plot.at((quorum + 0.3, acked));
        let (_, top) = plot.at((quorum, 100.0));
        for (upper, lower, colour) in [(top, middle, CRIMSON), (middle, bottom, LIME_GREEN)] {
            if upper < lower {
                let corners = [(left, upper), (right, lower)];
                area.draw(&Rectangle::new(corners, colour.filled()))?;
                area.draw(&Rectangle::new(corners, DARK.stroke_width(1)))?;
            }
        }
        let name = if acked < 100.0 { format!("{acked:.1} %") } else { "100 %".to_owned() };
        area.draw_text(&name, &plain(TEXT), (i32::midpoint(left, right), top - 18))?;
    }
    Ok(())
}

pub(super) fn summary(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    const LEFT: i32 = 40;
    const COLUMN: i32 = 104;
    const ROW: i32 = 54;
    const HEADER: i32 = 92;
    area.draw_text("In numbers", &left(&bold(26)), (LEFT, 26))?;
    let one = |value: f64| format!("{value:.1}");
    let or_dash = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), one);
    let header = [
        ["write", "quorum"],
        ["mean", "ms"],
        ["at best", "ms"],
        ["p99", "ms"],
        ["measured", "writes/s"],
        ["at best", "writes/s"],
        ["lab", "writes/s"],
    ];
    let (width, height) = area.dim_in_pixel();
    let (right, bottom) = (i32::try_from(width)? - LEFT, i32::try_from(height)?);
    for (number, [upper, lower]) in (0..).zip(header) {
        let x = LEFT + COLUMN / 2 + number * COLUMN;
        area.draw_text(upper, &bold(TEXT), (x, HEADER - 14))?;
        area.draw_text(lower, &plain(TEXT).color(&GREY), (x, HEADER + 12))?;
    }
    // As many rows as there is room for: nine followers are the most that a store has.
    let count = i32::try_from(analysis.levels.len())?;
    let row = ROW.min((bottom - HEADER - 50) / count);
    for (number, level) in (0..).zip(&analysis.levels) {
        let y = HEADER + 50 + row / 2 + number * row - 16;
        if number % 2 == 0 {
            area.draw(&Rectangle::new([(LEFT, y - row / 2), (right, y + row / 2)], PALE.mix(0.45).filled()))?;
        }
        let Level { write_quorum, measured, limit, published } = level;
        let cells = [
            write_quorum.to_string(),
            or_dash(measured.latency_ms.map(|latency| latency.mean)),
            one(limit.mean),
            or_dash(measured.latency_ms.map(|latency| latency.p99)),
            one(measured.writes_per_second),
            or_dash(limit.writes_per_second),
            or_dash(published.map(|published| published.writes_per_second)),
        ];
        for (column, cell) in (0..).zip(cells) {
            let style = if matches!(column, 0 | 1 | 4) { bold(TEXT + 2) } else { plain(TEXT + 2) };
            area.draw_text(&cell, &style, (LEFT + COLUMN / 2 + column * COLUMN, y))?;
        }
    }
    let end = HEADER + 34 + count * row;
    for (number, note) in (0..).zip(notes(analysis)) {
        let y = end + 34 + number * LINE;
        if y + LINE < bottom {
            area.draw_text(&note, &left(&plain(TEXT - 2).color(&GREY)), (LEFT, y))?;
        }
    }
    Ok(())
}

/// What the words in the table mean.
fn notes(analysis: &Analysis) -> Vec<String> {
    let Analysis { followers, delay, clients, levels, .. } = analysis;
    let ms = |duration: std::time::Duration| duration.as_secs_f64() * 1e3;
    let (min, width) = (ms(delay.min), ms(delay.max) - ms(delay.min));
    let mut notes = vec![
        format!(
            "At best: the q-th fastest of {followers} simulated round trips takes {min} + {width} q / {} ms",
            followers + 1
        ),
        format!("on average, and each of {clients} clients has one write under way."),
    ];
    if levels.iter().any(|level| level.published.is_some()) {
        notes.push("Lab: what the classroom lab published for the same load.".to_owned());
    }
    notes
}
