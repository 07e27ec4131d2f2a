//! A plot of lines, each with its name where it ends.

use plotters::{
    coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
    element::DashedPathElement,
    prelude::*,
};

use super::{
    Area, DARK, GREY, PALE, Point,
    text::{LINE, TEXT, left, plain, spread},
    title,
};
use crate::lab::statistics::round_up;

/// An axis of a plot.
pub(crate) struct Axis<'t, R> {
    /// What stands beside it.
    pub(crate) name: &'t str,
    /// From where to where.
    pub(crate) range: R,
    /// Most numbers beside it, unless the range names them itself.
    pub(crate) numbers: usize,
    /// How a number is written.
    pub(crate) written: fn(&f64) -> String,
}

/// A plot with its axes.
pub(crate) struct Plot<'a, 'b, X: Ranged, Y: Ranged> {
    area: &'b Area<'a>,
    chart: ChartContext<'b, SVGBackend<'a>, Cartesian2d<X, Y>>,
}

/// What the points of a line look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Circle,
    Square,
    Triangle,
    Diamond,
    /// No points; a dashed line.
    Dashes,
}

/// A line of a plot.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: RGBColor,
    pub(crate) mark: Mark,
    /// By what grows to the right; gaps where there is no value.
    pub(crate) values: Vec<(f64, f64)>,
}

impl Line {
    pub(crate) fn new(name: impl Into<String>, colour: RGBColor, mark: Mark, values: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), colour, mark, values }
    }
}

impl<'a, 'b, X, Y> Plot<'a, 'b, X, Y>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    /// Draws title and axes, with so many pixels to the right for the names of the lines.
    pub(crate) fn new(
        area: &'b Area<'a>,
        heading: &str,
        x: Axis<'_, impl AsRangedCoord<CoordDescType = X, Value = f64>>,
        y: Axis<'_, impl AsRangedCoord<CoordDescType = Y, Value = f64>>,
        names: u32,
    ) -> anyhow::Result<Self> {
        title(area, heading)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(62)
            .margin_right(names)
            .margin_left(18)
            .margin_bottom(16)
            .x_label_area_size(66)
            .y_label_area_size(100)
            .build_cartesian_2d(x.range, y.range)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(PALE)
            .axis_style(GREY)
            .x_labels(x.numbers)
            .y_labels(y.numbers)
            .x_label_formatter(&x.written)
            .y_label_formatter(&y.written)
            .label_style(plain(TEXT).color(&GREY))
            .axis_desc_style(plain(TEXT).color(&GREY))
            .x_desc(x.name)
            .y_desc(y.name)
            .draw()?;
        Ok(Self { area, chart })
    }

    /// Where a value is, in the pixels of the area.
    pub(crate) fn at(&self, value: (f64, f64)) -> Point {
        let (x, y) = self.chart.backend_coord(&value);
        let (left, top) = self.area.get_base_pixel();
        (x - left, y - top)
    }

    /// Draws a line and its marks.
    pub(crate) fn line(&self, line: &Line) -> anyhow::Result<()> {
        let points: Vec<Point> = line.values.iter().map(|value| self.at(*value)).collect();
        if line.mark == Mark::Dashes {
            return self.dashes(points, line.colour);
        }
        self.area.draw(&PathElement::new(points.clone(), DARK.stroke_width(6)))?;
        self.area.draw(&PathElement::new(points.clone(), line.colour.stroke_width(4)))?;
        for point in points {
            self.mark(point, line)?;
        }
        Ok(())
    }

    /// Draws how far the values spread from which a point of a line is the median.
    pub(crate) fn whisker(&self, x: f64, least: f64, most: f64) -> anyhow::Result<()> {
        whisker(self.area, self.at((x, least)), self.at((x, most)), (7, 0))
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
    pub(crate) fn names(&self, lines: &[Line]) -> anyhow::Result<()> {
        let ends = lines.iter().filter_map(|line| Some((line, self.at(*line.values.last()?))));
        let ends: Vec<(&Line, Point)> = ends.collect();
        let wanted: Vec<i32> = ends.iter().map(|(_, (_, y))| *y).collect();
        let (right, _) = self.at((self.chart.x_range().end, self.chart.y_range().end));
        for ((line, (x, y)), place) in ends.into_iter().zip(spread(&wanted, LINE)) {
            let joint = vec![(x + 12, y), (right - 2, place), (right + 4, place)];
            self.area.draw(&PathElement::new(joint, GREY.stroke_width(1)))?;
            self.mark((right + 18, place), line)?;
            self.area.draw_text(&line.name, &left(&plain(TEXT)), (right + 36, place))?;
        }
        Ok(())
    }
}

/// Draws a line from one point to the other, across both of which goes one of twice `half`. Nothing where the two are
/// one.
pub(crate) fn whisker(area: &Area<'_>, from: Point, to: Point, half: Point) -> anyhow::Result<()> {
    if from == to {
        return Ok(());
    }
    area.draw(&PathElement::new(vec![from, to], DARK.stroke_width(2)))?;
    for (x, y) in [from, to] {
        let across = vec![(x - half.0, y - half.1), (x + half.0, y + half.1)];
        area.draw(&PathElement::new(across, DARK.stroke_width(2)))?;
    }
    Ok(())
}

/// The end of an axis from zero that holds these values, and a little more.
pub(crate) fn top(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.fold(0.0, f64::max) * 1.06;
    let step = round_up(most / 10.0);
    ((most / step).ceil() * step).max(1.0)
}
