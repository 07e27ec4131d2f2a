//! The four panels.

use plotters::{coord::types::RangedCoordf64, prelude::*};

use crate::{
    drawing::{
        Area, CRIMSON, DARK, GOLD, GREY, LIME_GREEN, MARGIN, PALE, SADDLE_BROWN,
        plot::{Axis, Line, Mark, Plot, top},
        text::{LINE, TEXT, bold, left, plain, right},
        title,
    },
    lab::{
        analysis::{Analysis, Level},
        statistics::Summary,
    },
};

/// Room to the right of a plot, for the names of its lines.
const NAMES: u32 = 208;

/// A plot by write quorum. `unit` stands beside the axis, which goes from zero to `top`.
fn plot<'a, 'b>(
    area: &'b Area<'a>,
    title: &str,
    unit: &str,
    top: f64,
    names: u32,
    analysis: &Analysis,
) -> anyhow::Result<Plot<'a, 'b, RangedCoordf64, RangedCoordf64>> {
    let quorums = || analysis.levels.iter().map(|level| f64::from(level.write_quorum));
    let (first, last) = (quorums().fold(f64::MAX, f64::min), quorums().fold(0.0, f64::max));
    // For a value to the left of the first point.
    let room = (0.15 * (last - first)).clamp(0.6, 0.95);
    let x = Axis {
        name: "write quorum: followers that must confirm a write",
        range: first - room..last + 0.45,
        numbers: analysis.levels.len().max(2),
        written: |value| if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { String::new() },
    };
    let y = Axis { name: unit, range: 0.0..top, numbers: 9, written: |value| format!("{value:.0}") };
    Plot::new(area, title, x, y, names)
}

/// The value of each level that has one.
fn values(analysis: &Analysis, value: impl Fn(&Level) -> Option<f64>) -> Vec<(f64, f64)> {
    analysis.levels.iter().filter_map(|level| Some((f64::from(level.write_quorum), value(level)?))).collect()
}

pub(super) fn latency(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    let of = |number: fn(&Summary) -> f64| values(analysis, |level| level.measured.latency_ms.as_ref().map(number));
    let lines = [
        Line::new("p99", CRIMSON, Mark::Diamond, of(|latency| latency.p99)),
        Line::new("p95", GOLD, Mark::Triangle, of(|latency| latency.p95)),
        Line::new("median", LIME_GREEN, Mark::Square, of(|latency| latency.median)),
        Line::new("mean", SADDLE_BROWN, Mark::Circle, of(|latency| latency.mean)),
        at_best("mean, at best", values(analysis, |level| Some(level.limit.mean))),
    ];
    let top = top(lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value));
    let plot = plot(area, "Latency of a write", "milliseconds", top, NAMES, analysis)?;
    for line in &lines {
        plot.line(line)?;
    }
    plot.names(&lines)
}

/// What no store can beat.
fn at_best(name: &str, values: Vec<(f64, f64)>) -> Line {
    Line::new(name, DARK, Mark::Dashes, values)
}

pub(super) fn throughput(area: &Area<'_>, analysis: &Analysis) -> anyhow::Result<()> {
    let measured = values(analysis, |level| Some(level.measured.writes_per_second));
    let lab = values(analysis, |level| level.published.map(|published| published.writes_per_second));
    let lines = [
        Line::new("classroom lab", CRIMSON, Mark::Square, lab),
        Line::new("measured", LIME_GREEN, Mark::Circle, measured),
        at_best("at best", values(analysis, |level| level.limit.writes_per_second)),
    ];
    let top = top(lines.iter().flat_map(|line| &line.values).map(|(_, value)| *value));
    let plot = plot(area, "Throughput", "acknowledged writes per second", top, NAMES, analysis)?;
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
    let plot = plot(area, "Success", "acknowledged writes, %", 112.0, 40, analysis)?;
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
    const COLUMN: i32 = 104;
    const ROW: i32 = 54;
    const HEADER: i32 = 92;
    title(area, "In numbers")?;
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
    let (right, bottom) = (i32::try_from(width)? - MARGIN, i32::try_from(height)?);
    for (number, [upper, lower]) in (0..).zip(header) {
        let x = MARGIN + COLUMN / 2 + number * COLUMN;
        area.draw_text(upper, &bold(TEXT), (x, HEADER - 14))?;
        area.draw_text(lower, &plain(TEXT).color(&GREY), (x, HEADER + 12))?;
    }
    // As many rows as there is room for: nine followers are the most that a store has.
    let count = i32::try_from(analysis.levels.len())?;
    let row = ROW.min((bottom - HEADER - 50) / count);
    for (number, level) in (0..).zip(&analysis.levels) {
        let y = HEADER + 50 + row / 2 + number * row - 16;
        if number % 2 == 0 {
            area.draw(&Rectangle::new([(MARGIN, y - row / 2), (right, y + row / 2)], PALE.mix(0.45).filled()))?;
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
            area.draw_text(&cell, &style, (MARGIN + COLUMN / 2 + column * COLUMN, y))?;
        }
    }
    let end = HEADER + 34 + count * row;
    for (number, note) in (0..).zip(notes(analysis)) {
        let y = end + 34 + number * LINE;
        if y + LINE < bottom {
            area.draw_text(&note, &left(&plain(TEXT - 2).color(&GREY)), (MARGIN, y))?;
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
