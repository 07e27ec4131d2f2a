//! Panels of bars: operations a second, systems beside each other.
//!
//! The bars lie, so that there is room for the name of each before it and for its value behind it: no label can come
//! to lie on another one, however near the values are.

use std::collections::BTreeMap;

use plotters::{
    coord::{ranged1d::Ranged as _, types::RangedCoordf64},
    prelude::*,
};

use super::{CONNECTIONS, Look, look, many, usual, with_one_quorum, writes};
use crate::{
    bench::{
        figures::{Row, Rows, Series},
        spread::Spread,
        system::{Operation, Storage, System},
    },
    drawing::{
        Area, DARK, GREY, MARGIN,
        plot::whisker,
        text::{TEXT, bold, left, number, plain, right, thousands},
        title,
    },
};

/// Where bars begin.
const ZERO: i32 = 232;
/// Room for a value behind the longest bar.
const VALUE: i32 = 128;
/// Where the first bar begins.
const TOP: i32 = 92;
/// Room below the last one.
const BOTTOM: i32 = 20;
/// Room for a note below the last one.
const NOTE: i32 = 40;
/// Most pixels from one bar to the next.
const STEP: i32 = 46;
/// Most groups of connections.
const GROUPS: usize = 3;

/// A panel of bars.
pub(super) struct Bars {
    pub(super) title: &'static str,
    /// What the numbers of the groups count.
    by: &'static str,
    /// What the values count, and under which conditions.
    unit: String,
    groups: BTreeMap<usize, Vec<Bar>>,
    note: Option<&'static str>,
}

struct Bar {
    system: System,
    per_second: Spread,
}

/// By quorum, with the usual number of connections.
pub(super) fn writes_in_memory(rows: &Rows) -> Option<Bars> {
    let writes = writes(rows, Storage::Memory);
    let connections = usual(writes.iter().map(|(_, row)| row.point.connections), CONNECTIONS)?;
    let chosen = writes.into_iter().filter(|(_, row)| row.point.connections == connections);
    let groups = groups(chosen.map(|(quorum, row)| (usize::from(quorum), row)));
    let is_etcd = |bar: &Bar| matches!(bar.system, System::EtcdGateway | System::EtcdGrpc);
    let etcd = groups.values().flatten().any(is_etcd);
    Some(Bars {
        title: "Writes in memory",
        by: "quorum",
        unit: format!("writes per second, {}", many(connections, "connection")),
        groups,
        note: etcd.then_some("etcd always asks a majority; here it writes files without waiting for them"),
    })
}

/// By connections: on disk only one quorum is measured.
pub(super) fn writes_on_disk(rows: &Rows) -> Option<Bars> {
    let (quorum, writes) = with_one_quorum(rows, Storage::Persistent)?;
    Some(Bars {
        title: "Writes on disk, with fsync",
        by: "connections",
        unit: format!("writes per second, quorum {quorum}"),
        groups: by_connections(writes.into_iter()),
        note: None,
    })
}

/// By connections.
pub(super) fn reads(rows: &Rows) -> Option<Bars> {
    let reads = rows.of(Series::Compare).filter(|row| {
        let point = &row.point;
        (point.operation, point.storage) == (Operation::Read, Storage::Memory)
    });
    let groups = by_connections(reads);
    let unit = "reads per second".to_owned();
    (!groups.is_empty()).then_some(Bars { title: "Reads in memory", by: "connections", unit, groups, note: None })
}

fn groups<'a>(rows: impl Iterator<Item = (usize, &'a Row)>) -> BTreeMap<usize, Vec<Bar>> {
    let mut groups: BTreeMap<usize, Vec<Bar>> = BTreeMap::new();
    for (number, row) in rows {
        let bar = Bar { system: row.point.system, per_second: row.spread(|figures| figures.per_second) };
        groups.entry(number).or_default().push(bar);
    }
    groups.values_mut().for_each(|bars| bars.sort_by_key(|bar| bar.system));
    groups
}

/// The fewest, the most, and the usual or middle ones between them.
fn by_connections<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<usize, Vec<Bar>> {
    let mut groups = groups(rows.map(|row| (row.point.connections, row)));
    let all: Vec<usize> = groups.keys().copied().collect();
    if let [least, between @ .., most] = all.as_slice()
        && all.len() > GROUPS
    {
        let middle = if between.contains(&CONNECTIONS) { CONNECTIONS } else { between[between.len() / 2] };
        groups.retain(|connections, _| [*least, middle, *most].contains(connections));
    }
    groups
}

impl Bars {
    pub(super) fn systems(&self) -> impl Iterator<Item = System> {
        self.groups.values().flatten().map(|bar| bar.system)
    }

    pub(super) fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        let Self { title: heading, by, unit, groups, note } = self;
        title(area, heading)?;
        let grey = left(&plain(TEXT).color(&GREY));
        area.draw_text(by, &grey, (MARGIN, 64))?;
        area.draw_text(unit, &grey, (ZERO, 64))?;
        let (width, height) = area.dim_in_pixel();
        let below = if note.is_some() { BOTTOM + NOTE } else { BOTTOM };
        let (width, bottom) = (i32::try_from(width)?, i32::try_from(height)? - below);
        let most = groups.values().flatten().map(|bar| bar.per_second.max).fold(f64::MIN_POSITIVE, f64::max);
        let scale = Scale { values: RangedCoordf64::from(0.0..most), right: width - VALUE };
        // Between groups is half a bar.
        let halves: usize = groups.values().map(|bars| 2 * bars.len() + 1).sum();
        let step = (2 * (bottom - TOP) / (i32::try_from(halves)? - 1)).min(STEP);
        let mut y = TOP;
        for (number, bars) in groups {
            let end = y + i32::try_from(bars.len())? * step;
            let name = thousands(&number.to_string());
            area.draw_text(&name, &left(&bold(TEXT)), (MARGIN, i32::midpoint(y, end)))?;
            for bar in bars {
                bar.draw(area, y + step / 2, step * 7 / 20, &scale)?;
                y += step;
            }
            y += step / 2;
        }
        let end = y - step / 2;
        area.draw(&PathElement::new(vec![(ZERO, TOP - 2), (ZERO, end + 2)], GREY.stroke_width(2)))?;
        if let Some(note) = note {
            area.draw_text(note, &left(&plain(TEXT - 2).color(&GREY)), (MARGIN, end + NOTE / 2 + 6))?;
        }
        Ok(())
    }
}

/// Where values lie.
struct Scale {
    values: RangedCoordf64,
    right: i32,
}

impl Scale {
    fn at(&self, value: f64) -> i32 {
        self.values.map(&value, (ZERO, self.right))
    }
}

impl Bar {
    /// Around `y`, `half` up and down.
    fn draw(&self, area: &Area<'_>, y: i32, half: i32, scale: &Scale) -> anyhow::Result<()> {
        let Self { system, per_second: Spread { median, min, max } } = *self;
        let Look { colour, stripes, mark: _ } = look(system);
        let style = if system == System::Quorumkv { bold(TEXT) } else { plain(TEXT) };
        area.draw_text(&system.to_string(), &right(&style), (ZERO - 12, y))?;
        let end = scale.at(median);
        let corners = [(ZERO, y - half), (end, y + half)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        if let Some(colour) = stripes {
            for x in (ZERO + 8..end - 1).step_by(10) {
                area.draw(&PathElement::new(vec![(x, y - half), (x, y + half)], colour.stroke_width(2)))?;
            }
        }
        area.draw(&Rectangle::new(corners, DARK.stroke_width(1)))?;
        whisker(area, (scale.at(min), y), (scale.at(max), y), (0, 6))?;
        area.draw_text(&number(median), &left(&style), (scale.at(max) + 12, y))?;
        Ok(())
    }
}
