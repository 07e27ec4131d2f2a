//! What pictures of measurements are drawn with: [`plot`] has axes and lines, [`text`] labels.
//!
//! A picture is drawn once, as SVG; the PNG is that SVG rendered with a font that is part of this program, so that it
//! looks the same on a machine without fonts. Brown and red, and green and gold, are hard to tell apart for some
//! people: so nothing is told by its colour alone, each thing has its name beside it, lines have marks of their own
//! shape, and the light colours have dark edges.

pub(crate) mod plot;
pub(crate) mod text;

use std::sync::Arc;

use anyhow::Context as _;
use plotters::{coord::Shift, prelude::*};
use resvg::{tiny_skia, usvg};

use self::text::{TEXT, bold, left, plain};

/// Pixels across.
pub(crate) const WIDTH: u32 = 1600;
/// Pixels down of the head.
pub(crate) const HEAD: u32 = 116;
/// Pixels down of a panel.
pub(crate) const PANEL: u32 = 562;
/// Pixels to the left of head and panels.
pub(crate) const MARGIN: i32 = 40;

/// The classroom lab's colours.
pub(crate) const SADDLE_BROWN: RGBColor = RGBColor(139, 69, 19);
pub(crate) const LIME_GREEN: RGBColor = RGBColor(50, 205, 50);
pub(crate) const CRIMSON: RGBColor = RGBColor(220, 20, 60);
pub(crate) const GOLD: RGBColor = RGBColor(255, 215, 0);
/// Text, and the edges of light colours.
pub(crate) const DARK: RGBColor = RGBColor(38, 34, 30);
/// Second-rate text and axes.
pub(crate) const GREY: RGBColor = RGBColor(105, 100, 95);
/// Lines that only help the eye.
pub(crate) const PALE: RGBColor = RGBColor(226, 222, 217);

/// Where something is drawn.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Pixels to the right and down.
pub(crate) type Point = (i32, i32);

/// Draws a picture: a head, and below it so many rows and columns of panels, which `draw` gets row by row.
///
/// # Errors
/// When the drawing fails, which is a bug.
pub(crate) fn svg(
    title: &str,
    conditions: &str,
    (rows, columns): (usize, usize),
    draw: impl FnOnce(&[Area<'_>]) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let below = PANEL * u32::try_from(rows)?;
    sheet(title, conditions, below, |body| draw(&body.split_evenly((rows, columns))))
}

/// Draws a picture: a head, and below it so many pixels, which `draw` fills.
///
/// # Errors
/// When the drawing fails, which is a bug.
pub(crate) fn sheet(
    title: &str,
    conditions: &str,
    below: u32,
    draw: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    text::register_fonts()?;
    let height = HEAD + below;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(HEAD);
        head.draw_text(title, &left(&bold(36)), (MARGIN, 44))?;
        head.draw_text(conditions, &left(&plain(TEXT).color(&GREY)), (MARGIN, 90))?;
        draw(&body)?;
        root.present()?;
    }
    Ok(svg)
}

/// Writes the title of a panel.
pub(crate) fn title(area: &Area<'_>, title: &str) -> anyhow::Result<()> {
    area.draw_text(title, &left(&bold(26)), (MARGIN, 26))?;
    Ok(())
}

/// Renders a picture.
///
/// # Errors
/// When it is no SVG.
pub(crate) fn png(svg: &str) -> anyhow::Result<Vec<u8>> {
    let tree = tree(svg)?;
    let size = tree.size().to_int_size();
    let mut pixels = tiny_skia::Pixmap::new(size.width(), size.height()).context("memory for the picture")?;
    resvg::render(&tree, tiny_skia::Transform::default(), &mut pixels.as_mut());
    pixels.encode_png().context("the picture as PNG")
}

/// The picture as it is rendered.
fn tree(svg: &str) -> anyhow::Result<usvg::Tree> {
    let mut fonts = usvg::fontdb::Database::new();
    for font in text::FONTS {
        fonts.load_font_data(font.to_vec());
    }
    fonts.set_sans_serif_family(text::FAMILY);
    let options =
        usvg::Options { fontdb: Arc::new(fonts), font_family: text::FAMILY.to_owned(), ..usvg::Options::default() };
    usvg::Tree::from_str(svg, &options).context("the picture")
}

#[cfg(test)]
pub(crate) mod tests {
    use resvg::tiny_skia::Rect;

    use super::*;

    /// All texts of a picture.
    pub(crate) fn texts(svg: &str) -> Vec<String> {
        texts_of(&tree(svg).expect("an SVG")).into_iter().map(|(text, _)| text).collect()
    }

    /// Each with the pixels that its letters fill.
    fn texts_of(tree: &usvg::Tree) -> Vec<(String, Rect)> {
        fn collect(group: &usvg::Group, texts: &mut Vec<(String, Rect)>) {
            for node in group.children() {
                match node {
                    usvg::Node::Group(group) => collect(group, texts),
                    usvg::Node::Text(text) => {
                        let words: String = text.chunks().iter().map(usvg::TextChunk::text).collect();
                        texts.push((words.trim().to_owned(), text.flattened().abs_bounding_box()));
                    }
                    usvg::Node::Path(_) | usvg::Node::Image(_) => {}
                }
            }
        }
        let mut texts = Vec::new();
        collect(tree.root(), &mut texts);
        texts
    }

    /// Fails where a text covers another one or leaves the picture.
    pub(crate) fn assert_readable(what: &str, svg: &str) {
        let tree = tree(svg).expect("an SVG");
        let (size, texts) = (tree.size(), texts_of(&tree));
        for (number, (text, place)) in texts.iter().enumerate() {
            let inside = place.left() >= 0.0
                && place.top() >= 0.0
                && place.right() <= size.width()
                && place.bottom() <= size.height();
            assert!(inside, "{what}: {text:?} at {place:?} leaves the picture");
            for (other, beside) in &texts[number + 1..] {
                assert!(
                    place.intersect(beside).is_none(),
                    "{what}: {text:?} at {place:?} covers {other:?} at {beside:?}"
                );
            }
        }
    }

    #[test]
    fn texts_that_cover_each_other_are_noticed() {
        let svg = |y| {
            let draw = |areas: &[Area<'_>]| {
                title(&areas[0], "one")?;
                areas[0].draw_text("other", &left(&plain(TEXT)), (MARGIN + 10, y))?;
                Ok(())
            };
            svg("head", "conditions", (1, 1), draw).expect("drawn")
        };
        assert_readable("beside each other", &svg(60));
        let covering = std::panic::catch_unwind(|| assert_readable("covering", &svg(30)));
        assert!(covering.is_err(), "noticed");
    }

    #[test]
    fn the_png_is_as_large_as_the_picture() {
        let svg = svg("head", "conditions", (2, 1), |_| Ok(())).expect("drawn");
        let pixels = tiny_skia::Pixmap::decode_png(&png(&svg).expect("rendered")).expect("a PNG");
        assert_eq!((pixels.width(), pixels.height()), (WIDTH, HEAD + 2 * PANEL));
        png("no picture").expect_err("no SVG");
    }
}
