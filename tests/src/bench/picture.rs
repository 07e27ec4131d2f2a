//! The picture: what the tables say of throughput, processor time and growth, in up to four panels.
//!
//! A panel whose part was not measured is left out. Systems differ in lightness, not only in colour; the two ways to
//! ask etcd have stripes, so that only two plain colours and two striped ones are to be told apart.

mod bars;
mod lines;

use std::collections::BTreeSet;

use plotters::prelude::*;

use self::{bars::Bars, lines::Lines};
use super::{
    Found,
    figures::{Row, Rows, Series},
    system::{Operation, Storage, System},
};
use crate::drawing::{self, Area, CRIMSON, DARK, GOLD, LIME_GREEN, SADDLE_BROWN, plot::Mark};

/// Panels of a picture.
const PANELS: usize = 4;
/// Connections where one number of them is shown.
const CONNECTIONS: usize = 64;
/// The quorum where one is shown.
const QUORUM: u8 = 3;

/// A picture that is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// As SVG.
    pub svg: String,
    /// As PNG.
    pub png: Vec<u8>,
    /// Titles of its panels.
    pub shows: Vec<String>,
}

/// Draws what was measured; nothing where no panel has anything to show.
///
/// # Errors
/// When the drawing fails, which is a bug.
pub fn draw(found: &Found) -> anyhow::Result<Option<Picture>> {
    let panels = panels(&found.rows);
    if panels.is_empty() {
        return Ok(None);
    }
    let svg = svg(&panels, found)?;
    let png = drawing::png(&svg)?;
    Ok(Some(Picture { svg, png, shows: panels.iter().map(|panel| panel.title().to_owned()).collect() }))
}

/// Of what was measured.
fn panels(rows: &Rows) -> Vec<Panel> {
    let panels = [
        bars::writes_in_memory(rows).map(Panel::Bars),
        bars::writes_on_disk(rows).map(Panel::Bars),
        lines::cost(rows).map(Panel::Lines),
        lines::growth(rows).map(Panel::Lines),
        // Takes the place of another one that is missing.
        bars::reads(rows).map(Panel::Bars),
    ];
    panels.into_iter().flatten().take(PANELS).collect()
}

fn svg(panels: &[Panel], found: &Found) -> anyhow::Result<String> {
    let columns = panels.len().min(2);
    let grid = (panels.len().div_ceil(columns), columns);
    let systems: BTreeSet<System> = panels.iter().flat_map(Panel::systems).collect();
    let title = if systems.len() > 1 { "What quorumkv can do beside others" } else { "What quorumkv can do" };
    drawing::svg(title, &conditions(found), grid, |areas| {
        areas.iter().zip(panels).try_for_each(|(area, panel)| panel.draw(area))
    })
}

enum Panel {
    Bars(Bars),
    Lines(Lines),
}

impl Panel {
    fn title(&self) -> &'static str {
        match self {
            Self::Bars(bars) => bars.title,
            Self::Lines(lines) => lines.title,
        }
    }

    fn systems(&self) -> Vec<System> {
        match self {
            Self::Bars(bars) => bars.systems().collect(),
            Self::Lines(lines) => lines.systems().collect(),
        }
    }

    fn draw(&self, area: &Area<'_>) -> anyhow::Result<()> {
        match self {
            Self::Bars(bars) => bars.draw(area),
            Self::Lines(lines) => lines.draw(area),
        }
    }
}

/// What all panels have in common, in a line.
fn conditions(found: &Found) -> String {
    fn same<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
        let first = all.next()?;
        all.all(|other| other == first).then_some(first)
    }
    let rows = || found.rows.of(Series::Compare).chain(found.rows.of(Series::Keys));
    let mut parts = Vec::new();
    parts.extend(same(rows().map(|row| row.point.value_bytes)).map(|bytes| format!("values of {bytes} bytes")));
    parts.extend(same(rows().map(|row| row.point.followers)).map(|followers| many(followers, "follower")));
    parts.push(format!("one machine with {}", many(found.machine.cores, "core")));
    let repeats: BTreeSet<usize> = rows().map(|row| row.samples.len()).collect();
    let repeats = match (repeats.first(), repeats.last()) {
        (Some(least), Some(most)) if least < most => format!("medians of {least} to {most} repeats"),
        (Some(1), _) => return format!("{}; each measured once", parts.join(", ")),
        (_, most) => format!("medians of {} repeats", most.copied().unwrap_or_default()),
    };
    format!("{}; {repeats}, whiskers from least to most", parts.join(", "))
}

/// How a system looks.
#[derive(Debug, Clone, Copy)]
struct Look {
    colour: RGBColor,
    mark: Mark,
    /// Colour of stripes across its bars.
    stripes: Option<RGBColor>,
}

const fn look(system: System) -> Look {
    match system {
        System::Quorumkv => Look { colour: LIME_GREEN, mark: Mark::Circle, stripes: None },
        System::Redis => Look { colour: CRIMSON, mark: Mark::Square, stripes: None },
        System::EtcdGateway => Look { colour: SADDLE_BROWN, mark: Mark::Diamond, stripes: Some(WHITE) },
        System::EtcdGrpc => Look { colour: GOLD, mark: Mark::Triangle, stripes: Some(DARK) },
        System::Axum => Look { colour: WHITE, mark: Mark::Circle, stripes: None },
    }
}

/// Writes that were compared, by their quorum.
fn writes(rows: &Rows, storage: Storage) -> Vec<(u8, &Row)> {
    let rows = rows.of(Series::Compare).filter(|row| row.point.storage == storage);
    let writes = rows.filter_map(|row| match row.point.operation {
        Operation::Write { quorum } => Some((quorum, row)),
        Operation::Read => None,
    });
    writes.collect()
}

/// Those with the usual quorum, or the largest one if that was not measured, and this quorum.
fn with_one_quorum(rows: &Rows, storage: Storage) -> Option<(u8, Vec<&Row>)> {
    let writes = writes(rows, storage);
    let quorum = usual(writes.iter().map(|(quorum, _)| *quorum), QUORUM)?;
    Some((quorum, writes.into_iter().filter(|(other, _)| *other == quorum).map(|(_, row)| row).collect()))
}

/// `wanted` if it was measured, or the most that was.
fn usual<T: Ord>(measured: impl Iterator<Item = T>, wanted: T) -> Option<T> {
    let measured: BTreeSet<T> = measured.collect();
    if measured.contains(&wanted) { Some(wanted) } else { measured.into_iter().next_back() }
}

fn many(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

#[cfg(test)]
pub(super) mod tests;
