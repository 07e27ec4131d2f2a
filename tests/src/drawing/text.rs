//! Text in a picture: its font, its sizes, numbers, and labels that do not cover each other.

use plotters::{
    prelude::*,
    style::{
        FontStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::DARK;

/// Size of most text.
pub(crate) const TEXT: u32 = 22;
/// Least distance of two lines of text.
pub(crate) const LINE: i32 = 28;

/// Regular and bold.
pub(crate) const FONTS: [&[u8]; 2] = [ttf_noto_sans::REGULAR, ttf_noto_sans::BOLD];

/// Name of the font.
pub(crate) const FAMILY: &str = "Noto Sans";

/// As the SVG names it: whoever views it may not have the font.
const FAMILIES: &str = "Noto Sans, Helvetica, Arial, sans-serif";

/// Plotters makes text smaller than it is told, by this factor.
const SHRUNK: f64 = 1.24;

/// Makes the font known to the layout.
pub(crate) fn register_fonts() -> anyhow::Result<()> {
    for (style, font) in [FontStyle::Normal, FontStyle::Bold].into_iter().zip(FONTS) {
        register_font(FAMILIES, style, font).map_err(|_| anyhow::anyhow!("the font is no font"))?;
    }
    Ok(())
}

/// Plain text, centred on its point.
pub(crate) fn plain(pixels: u32) -> TextStyle<'static> {
    styled(pixels, FontStyle::Normal)
}

/// Bold text, centred on its point.
pub(crate) fn bold(pixels: u32) -> TextStyle<'static> {
    styled(pixels, FontStyle::Bold)
}

fn styled(pixels: u32, style: FontStyle) -> TextStyle<'static> {
    let font = FontDesc::new(FontFamily::Name(FAMILIES), f64::from(pixels) * SHRUNK, style);
    TextStyle::from(font).color(&DARK).pos(Pos::new(HPos::Center, VPos::Center))
}

/// Begins at its point.
pub(crate) fn left(style: &TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Left, VPos::Center))
}

/// Ends at its point.
pub(crate) fn right(style: &TextStyle<'static>) -> TextStyle<'static> {
    style.pos(Pos::new(HPos::Right, VPos::Center))
}

/// A number that is not negative, with three digits that count, of which at most two are decimals: `61,200`, `31.3`,
/// `0.52`.
pub(crate) fn number(value: f64) -> String {
    let unit = 10_f64.powf(value.max(1.0).log10().floor() - 2.0);
    let rounded = (value / unit).round() * unit;
    let decimals = match rounded {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    thousands(&format!("{rounded:.decimals$}"))
}

/// A number in digits, with a comma before every three of its whole part.
pub(crate) fn thousands(digits: &str) -> String {
    let whole = digits.find('.').unwrap_or(digits.len());
    let mut text = String::new();
    for (index, digit) in digits.char_indices() {
        if index > 0 && index < whole && (whole - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Moves places apart until all are `gap` or more from each other, each as little as it must, and keeps their
/// order. Gives them in the order of `wanted`.
pub(crate) fn spread(wanted: &[i32], gap: i32) -> Vec<i32> {
    let length = |group: &[usize]| i32::try_from(group.len()).unwrap_or(i32::MAX);
    // Places that touch form a group, which lies around the mean of what its members want.
    let top = |group: &[usize]| {
        let sum: i32 = group.iter().map(|index| wanted[*index]).sum();
        sum / length(group) - (length(group) - 1) * gap / 2
    };
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|index| wanted[*index]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for index in order {
        let mut group = vec![index];
        while let Some(above) = groups.pop() {
            if top(&above) + length(&above) * gap <= top(&group) {
                groups.push(above);
                break;
            }
            group.splice(0..0, above);
        }
        groups.push(group);
    }
    let mut places = vec![0; wanted.len()];
    for group in groups {
        let top = top(&group);
        for (number, index) in (0..).zip(group) {
            places[index] = top + number * gap;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_three_digits_that_count() {
        let numbers =
            [(0.0, "0.00"), (0.516, "0.52"), (9.996, "10.0"), (31.26, "31.3"), (850.4, "850"), (999.6, "1,000")];
        for (value, text) in numbers.into_iter().chain([(61_234.0, "61,200"), (1_234_567.0, "1,230,000")]) {
            assert_eq!(number(value), text, "{value}");
        }
        assert_eq!(["1", "100", "1000", "1234.5678"].map(thousands), ["1", "100", "1,000", "1,234.5678"]);
    }

    #[test]
    fn places_that_do_not_touch_stay() {
        assert_eq!(spread(&[100, 10, 50], 20), [100, 10, 50]);
        assert_eq!(spread(&[], 20), [] as [i32; 0]);
    }

    #[test]
    fn places_that_touch_make_room_for_each_other() {
        assert_eq!(spread(&[100, 100], 20), [90, 110]);
        assert_eq!(spread(&[100, 102, 98, 300], 20), [100, 120, 80, 300]);
    }

    proptest! {
        #[test]
        fn no_two_places_are_too_near(wanted in prop::collection::vec(0_i32..600, 0..8), gap in 1_i32..40) {
            let places = spread(&wanted, gap);
            for (one, place) in places.iter().enumerate() {
                for (other, beside) in places.iter().enumerate().filter(|(other, _)| *other != one) {
                    prop_assert!((place - beside).abs() >= gap, "{wanted:?} -> {places:?}");
                    prop_assert!(wanted[one] >= wanted[other] || place < beside, "{wanted:?} -> {places:?}");
                }
            }
        }
    }
}
