//! Numbers as Grafana's units have them.

use crate::drawing::text::number;

/// A number with its unit, in three digits that count.
pub(super) fn with_unit(value: f64, unit: &str) -> String {
    let sign = if value < 0.0 { "-" } else { "" };
    let value = value.abs();
    let text = match unit {
        "s" => seconds(value),
        "bytes" => scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"]),
        "reqps" => format!("{} req/s", short(value)),
        "ops" => format!("{} ops/s", short(value)),
        "wps" => format!("{} writes/s", short(value)),
        "cps" => format!("{}/s", short(value)),
        // Grafana shows whole numbers as they are.
        _ if value.fract() == 0.0 && value < 10_000.0 => format!("{value}"),
        _ => short(value),
    };
    format!("{sign}{text}")
}

fn seconds(value: f64) -> String {
    match value {
        0.0 => "0 s".to_owned(),
        ..0.001 => format!("{} µs", number(value * 1e6)),
        ..1.0 => format!("{} ms", number(value * 1e3)),
        _ => format!("{} s", number(value)),
    }
}

fn short(value: f64) -> String {
    if value == 0.0 { "0".to_owned() } else { scaled(value, 1000.0, &["", " K", " Mil", " Bil"]) }
}

fn scaled(mut value: f64, step: f64, names: &[&str]) -> String {
    let mut names = names.iter();
    let mut name = names.next().copied().unwrap_or_default();
    while value >= step
        && let Some(next) = names.next()
    {
        value /= step;
        name = next;
    }
    format!("{}{name}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_their_unit() {
        let shown = [(0.0123, "s"), (0.000_25, "s"), (2.5, "s"), (2048.0, "bytes"), (1234.0, "reqps"), (6.0, "none")];
        let shown = shown.map(|(value, unit)| with_unit(value, unit));
        assert_eq!(shown, ["12.3 ms", "250 µs", "2.50 s", "2.00 KiB", "1.23 K req/s", "6"]);
        assert_eq!(with_unit(-3.0, "short"), "-3");
    }
}
