//! The picture: every panel in its place.
//!
//! Lines are told apart by number, which stands at their end and in the legend, besides their colour.

use plotters::prelude::*;

use super::{Kind, Panel, Place, Series, units::with_unit};
use crate::drawing::{
    self, Area, CRIMSON, DARK, GREY, LIME_GREEN, MARGIN, PALE, SADDLE_BROWN, WIDTH,
    plot::top,
    text::{bold, left, plain, right, spread},
};

/// Of the dashboard's grid.
const COLUMNS: u32 = 24;
/// Pixels down of one unit of the grid.
const UNIT: u32 = 42;
/// Pixels between panels.
const GAP: u32 = 10;
/// Text in panels.
const SMALL: u32 = 14;
/// Pixels down of a line of such text.
const LINE: i32 = 19;
/// Names in a row of a legend are given at least so many pixels.
const LEGEND_COLUMN: i32 = 165;
/// Names that a legend has; for more there is no room.
const LEGEND_ROWS: i32 = 5;
/// Pixels across of one letter, at most: what is cut off a name that has no room.
const LETTER: i32 = 8;

/// Told apart by lightness too.
static COLOURS: [RGBColor; 7] = [
    SADDLE_BROWN,
    RGBColor(31, 119, 180),
    LIME_GREEN,
    CRIMSON,
    RGBColor(148, 103, 189),
    RGBColor(200, 160, 0),
    RGBColor(23, 190, 207),
];

/// Draws the panels, for so many seconds, as SVG and as PNG.
///
/// # Errors
/// When the drawing fails, which is a bug.
pub fn draw(panels: &[Panel], title: &str, caption: &str, seconds: u64) -> anyhow::Result<(String, Vec<u8>)> {
    let rows = panels.iter().map(|panel| panel.place.y + panel.place.height).max().unwrap_or_default();
    let svg = drawing::sheet(title, caption, rows * UNIT + GAP, |body| {
        panels.iter().try_for_each(|panel| draw_panel(&within(body, panel.place), panel, seconds as f64))
    })?;
    let png = drawing::png(&svg)?;
    Ok((svg, png))
}

/// The part of the picture that a panel has.
fn within<'a>(body: &Area<'a>, Place { x, y, width, height }: Place) -> Area<'a> {
    let margin = MARGIN.unsigned_abs();
    let across = |columns: u32| columns * (WIDTH - 2 * margin) / COLUMNS;
    let corner = (margin + across(x), y * UNIT);
    body.clone().shrink(corner, (across(width) - GAP, height * UNIT - GAP))
}

fn draw_panel(area: &Area<'_>, panel: &Panel, seconds: f64) -> anyhow::Result<()> {
    let (width, height) = size(area);
    if panel.kind == Kind::Row {
        area.draw_text(&panel.title, &left(&bold(20)), (0, height / 2))?;
        return Ok(());
    }
    area.draw(&Rectangle::new([(0, 0), (width - 1, height - 1)], PALE.stroke_width(1)))?;
    area.draw_text(&panel.title, &left(&bold(16)), (10, 16))?;
    if panel.series.is_empty() {
        area.draw_text("No data", &plain(SMALL).color(&GREY), (width / 2, height / 2))?;
        return Ok(());
    }
    match panel.kind {
        Kind::Row => Ok(()),
        Kind::Stat { names } => stat(area, panel, names, seconds),
        Kind::Timeline => timeline(area, panel, seconds),
        Kind::Lines => lines(area, panel, seconds),
    }
}

fn size(area: &Area<'_>) -> (i32, i32) {
    let (width, height) = area.dim_in_pixel();
    (i32::try_from(width).unwrap_or(i32::MAX), i32::try_from(height).unwrap_or(i32::MAX))
}

fn colour(index: usize) -> &'static RGBColor {
    &COLOURS[index % COLOURS.len()]
}

/// A name as far as there is room for it.
fn cut(name: &str, pixels: i32) -> String {
    let room = usize::try_from(pixels / LETTER).unwrap_or_default().max(4);
    if name.chars().count() <= room {
        return name.to_owned();
    }
    name.chars().take(room - 1).chain(['…']).collect()
}

fn stat(area: &Area<'_>, panel: &Panel, names: bool, seconds: f64) -> anyhow::Result<()> {
    let (width, height) = size(area);
    // What ended before is nobody's latest value.
    let latest = |series: &Series| series.values.last().filter(|(at, _)| *at >= seconds - 2.0).map(|(_, value)| *value);
    let shown: Vec<(&Series, f64)> = panel.series.iter().filter_map(|series| Some((series, latest(series)?))).collect();
    let each = width / i32::try_from(shown.len().max(1))?;
    for (number, (series, value)) in (0..).zip(&shown) {
        let x = number * each + each / 2;
        let (large, below) =
            if names { (series.name.clone(), "") } else { (with_unit(*value, &panel.unit), series.name.as_str()) };
        area.draw_text(&cut(&large, each * 2 / 3), &bold(26), (x, height / 2 + 4))?;
        area.draw_text(&cut(below, each), &plain(SMALL).color(&GREY), (x, height - 24))?;
    }
    Ok(())
}

fn timeline(area: &Area<'_>, panel: &Panel, seconds: f64) -> anyhow::Result<()> {
    let (width, height) = size(area);
    let names = width / 3;
    let row = (height - 70) / i32::try_from(panel.series.len())?;
    let at = |time: f64| names + pixels(time / seconds * f64::from(width - names - 12));
    for (number, series) in (0..).zip(&panel.series) {
        let top = 36 + number * row;
        area.draw_text(&cut(&series.name, names - 12), &left(&plain(SMALL)), (10, top + row / 2))?;
        for (time, value) in &series.values {
            let fill = if *value > 0.5 { SADDLE_BROWN } else { PALE };
            let corners = [(at(*time), top + 3), (at((time + 1.0).min(seconds)), top + row - 3)];
            area.draw(&Rectangle::new(corners, fill.filled()))?;
        }
    }
    for (text, fill, x) in [("yes", SADDLE_BROWN, names), ("no", PALE, names + 60)] {
        area.draw(&Rectangle::new([(x, height - 26), (x + 12, height - 14)], fill.filled()))?;
        area.draw_text(text, &left(&plain(SMALL)), (x + 18, height - 20))?;
    }
    Ok(())
}

fn lines(area: &Area<'_>, panel: &Panel, seconds: f64) -> anyhow::Result<()> {
    let (width, height) = size(area);
    let columns = (width / LEGEND_COLUMN).max(1);
    let series_count = i32::try_from(panel.series.len())?;
    let rows = ((series_count + columns - 1) / columns).min(LEGEND_ROWS);
    let legend = rows * LINE + 8;
    let most = highest(panel);
    let plot = area.clone().shrink((0, 30), (width.unsigned_abs(), (height - 30 - legend).unsigned_abs()));
    let mut chart = ChartBuilder::on(&plot)
        .margin_top(10)
        .margin_right(34)
        .margin_left(6)
        .x_label_area_size(24)
        .y_label_area_size(92)
        .build_cartesian_2d(0.0..seconds, 0.0..most)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .axis_style(GREY)
        .x_labels(5)
        .y_labels(4)
        .x_label_formatter(&|seconds| clock(*seconds))
        .y_label_formatter(&|value| with_unit(*value, &panel.unit))
        .label_style(plain(SMALL).color(&GREY))
        .draw()?;
    for (index, series) in panel.series.iter().enumerate() {
        for piece in pieces(&series.values) {
            let line = PathElement::new(piece.to_vec(), colour(index).stroke_width(2));
            chart.draw_series(std::iter::once(line))?;
        }
    }
    let (_, top_of_panel) = area.get_base_pixel();
    // Those that the legend names.
    let ends: Vec<i32> = panel
        .series
        .iter()
        .take(usize::try_from(rows * columns)?)
        .filter_map(|series| series.values.last())
        .map(|end| chart.backend_coord(end).1 - top_of_panel)
        .collect();
    for (index, y) in apart(&ends, height - legend - 32).into_iter().enumerate() {
        area.draw_text(&(index + 1).to_string(), &right(&plain(12).color(colour(index))), (width - 6, y))?;
    }
    let each = width / columns;
    for (number, (index, series)) in (0..rows * columns).zip(panel.series.iter().enumerate()) {
        let (x, y) = (8 + number % columns * each, height - legend + 10 + number / columns * LINE);
        let left_out = series_count - number;
        if number + 1 == rows * columns && left_out > 1 {
            area.draw_text(&format!("and {left_out} more"), &left(&plain(SMALL).color(&GREY)), (x + 17, y))?;
            break;
        }
        area.draw(&Rectangle::new([(x, y - 2), (x + 12, y + 2)], colour(index).filled()))?;
        let name = format!("{} {}", index + 1, series.name);
        area.draw_text(&cut(&name, each - 26), &left(&plain(SMALL).color(&DARK)), (x + 17, y))?;
    }
    Ok(())
}

/// Places for the numbers at the ends of lines: none over another, none below `lowest`.
fn apart(ends: &[i32], lowest: i32) -> Vec<i32> {
    const EACH: i32 = 14;
    let mut places = spread(ends, EACH);
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(places[*index]));
    let mut below = lowest + EACH;
    for index in order {
        places[index] = places[index].min(below - EACH);
        below = places[index];
    }
    places
}

/// The upper end of a panel's axis: the largest value, and a little more.
fn highest(panel: &Panel) -> f64 {
    let values = || panel.series.iter().flat_map(|series| series.values.iter().map(|(_, value)| *value));
    let most = values().fold(0.0, f64::max);
    // Times are fractions of a second, which the axis of counts would round up to one.
    if most > 0.0 && most < 1.0 { most * 1.1 } else { top(values()) }
}

/// A line is broken where seconds are missing.
fn pieces(values: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    values.chunk_by(|(one, _), (next, _)| next - one < 2.5)
}

fn clock(seconds: f64) -> String {
    format!("{}:{:02}", pixels(seconds) / 60, pixels(seconds) % 60)
}

/// Far below what a float can tell apart.
#[expect(clippy::cast_possible_truncation, reason = "positions in a picture are small")]
fn pixels(value: f64) -> i32 {
    value.round() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::tests::{assert_readable, texts};

    fn panel(kind: Kind, place: Place, unit: &str, series: &[(&str, f64)]) -> Panel {
        let line = |(name, value): &(&str, f64)| Series {
            name: (*name).to_owned(),
            values: (0..60).map(|second| (f64::from(second), value * f64::from(1 + second % 7))).collect(),
        };
        Panel {
            title: format!("{kind:?} {}", place.x),
            kind,
            place,
            unit: unit.to_owned(),
            series: series.iter().map(line).collect(),
        }
    }

    fn panels() -> Vec<Panel> {
        let at = |x, y, width, height| Place { x, y, width, height };
        let pods =
            [("demo-0", 1.0), ("demo-1", 1.0), ("demo-2", 3.0), ("demo-3", 90.0), ("demo-4", 0.0), ("demo-5", 7.0)];
        vec![
            panel(Kind::Stat { names: true }, at(0, 0, 6, 4), "none", &[("demo-0", 1.0)]),
            panel(Kind::Stat { names: false }, at(6, 0, 18, 4), "none", &[("epoch", 1.0), ("write quorum", 3.0)]),
            panel(Kind::Row, at(0, 4, 24, 1), "none", &[]),
            panel(Kind::Lines, at(0, 5, 8, 8), "reqps", &pods),
            panel(Kind::Lines, at(8, 5, 8, 8), "s", &[("p50", 0.0004), ("p99", 0.01)]),
            panel(Kind::Lines, at(16, 5, 8, 8), "bytes", &[]),
            panel(Kind::Timeline, at(0, 13, 6, 8), "none", &[("Ready", 1.0), ("Degraded", 0.0), ("Paused", 0.0)]),
        ]
    }

    #[test]
    fn every_panel_is_readable_in_its_place() {
        let (svg, png) = draw(&panels(), "Dashboard", "drawn from its queries", 60).expect("drawn");
        assert_readable("the dashboard", &svg);
        let texts = texts(&svg);
        for text in ["Lines 0", "3 demo-2", "2 p99", "No data", "write quorum", "Ready", "0:20"] {
            assert!(texts.iter().any(|shown| shown == text), "{text:?} is not among {texts:?}");
        }
        assert!(png.starts_with(b"\x89PNG"));
    }

    #[test]
    fn numbers_at_the_ends_of_lines_stay_above_the_axis() {
        assert_eq!(apart(&[100, 100, 20], 100), [86, 100, 20]);
        assert_eq!(apart(&[50], 100), [50]);
    }

    #[test]
    fn what_has_no_room_in_the_legend_is_counted() {
        let many: Vec<(String, f64)> = (0..40).map(|number| (format!("series {number}"), 1.0)).collect();
        let many: Vec<(&str, f64)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let place = Place { x: 0, y: 0, width: 8, height: 8 };
        let (svg, _) = draw(&[panel(Kind::Lines, place, "short", &many)], "one", "", 60).expect("drawn");
        assert!(texts(&svg).contains(&"and 26 more".to_owned()), "{:?}", texts(&svg));
    }

    #[test]
    fn a_line_is_broken_where_nothing_was_measured() {
        let values = [(0.0, 1.0), (1.0, 1.0), (9.0, 1.0)];
        assert_eq!(pieces(&values).map(<[_]>::len).collect::<Vec<_>>(), [2, 1]);
    }
}
