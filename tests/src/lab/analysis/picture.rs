//! The picture: latency, throughput and success by write quorum, and a table; in the lab's four colours.
//!
//! Drawn once, as SVG; the PNG is that SVG rendered with a font that is part of this program, so that it looks
//! the same on a machine without fonts. Brown and red, and green and gold, are hard to tell apart for some
//! people: so no line is told by its colour alone, each has its name beside it and marks of its own shape, and
//! the light colours have dark edges.

mod panels;
mod text;

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use plotters::prelude::*;
use resvg::{tiny_skia, usvg};

use self::text::{bold, left, plain};
use super::{Analysis, report::conditions};

/// Pixels across.
const WIDTH: u32 = 1600;
/// Pixels down.
const HEIGHT: u32 = 1240;
/// Pixels of the head.
const HEAD: u32 = 116;

/// The lab's colours.
const SADDLE_BROWN: RGBColor = RGBColor(139, 69, 19);
const LIME_GREEN: RGBColor = RGBColor(50, 205, 50);
const CRIMSON: RGBColor = RGBColor(220, 20, 60);
const GOLD: RGBColor = RGBColor(255, 215, 0);
/// Text, and the edges of light colours.
const DARK: RGBColor = RGBColor(38, 34, 30);
/// Second-rate text and axes.
const GREY: RGBColor = RGBColor(105, 100, 95);
/// Lines that only help the eye.
const PALE: RGBColor = RGBColor(226, 222, 217);

/// Draws it.
///
/// # Errors
/// When there is nothing to draw, or the drawing fails, which is a bug.
pub fn svg(analysis: &Analysis) -> anyhow::Result<String> {
    anyhow::ensure!(!analysis.levels.is_empty(), "there is nothing to draw");
    text::register_fonts()?;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        head.draw_text("quorumkv: what a write quorum costs", &left(&bold(36)), (40, 44))?;
        head.draw_text(&conditions(analysis), &left(&plain(22).color(&GREY)), (40, 90))?;
        let quarters = body.split_evenly((2, 2));
        let [latency, throughput, success, summary] = quarters.as_slice() else {
            return Err(anyhow!("two by two are not four"));
        };
        panels::latency(latency, analysis)?;
        panels::throughput(throughput, analysis)?;
        panels::success(success, analysis)?;
        panels::summary(summary, analysis)?;
        root.present()?;
    }
    Ok(svg)
}

/// Renders it.
///
/// # Errors
/// When it is no SVG.
pub fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let mut fonts = usvg::fontdb::Database::new();
    for font in text::FONTS {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family(text::FAMILY);
    let options =
        usvg::Options { fontdb: Arc::new(fonts), font_family: text::FAMILY.to_owned(), ..usvg::Options::default() };
    let tree = usvg::Tree::from_str(svg, &options).context("the picture")?;
    let mut pixels = tiny_skia::Pixmap::new(WIDTH, HEIGHT).context("memory for the picture")?;
    resvg::render(&tree, tiny_skia::Transform::default(), &mut pixels.as_mut());
    pixels.encode_png().context("the picture as PNG")
}
