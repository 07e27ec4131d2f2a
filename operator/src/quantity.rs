//! Sizes as Kubernetes writes them, `1Gi` or `1.5G`, as far as volumes need them: to be compared.

/// Powers of 1024.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Powers of 1000.
const DECIMAL: [&str; 6] = ["k", "M", "G", "T", "P", "E"];

/// How many bytes this is; none if it is no size. Exact up to nine petabytes.
#[must_use]
pub fn bytes(text: &str) -> Option<f64> {
    let number = |text: &str| {
        let digits = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        text.parse::<f64>().ok().filter(|value| digits && value.is_finite())
    };
    // Also with an exponent, such as 1e9.
    if let Some(plain) = number(text) {
        return Some(plain);
    }
    let scaled = |suffixes: &[&str], base: f64| {
        let mut scale = 1.0;
        suffixes.iter().find_map(|suffix| {
            scale *= base;
            Some(number(text.strip_suffix(suffix)?)? * scale)
        })
    };
    scaled(&BINARY, 1024.0)
        .or_else(|| scaled(&DECIMAL, 1000.0))
        .or_else(|| Some(number(text.strip_suffix('m')?)? / 1000.0))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1Gi", Some(1_073_741_824.0))]
    #[case("1024Mi", Some(1_073_741_824.0))]
    #[case("1073741824", Some(1_073_741_824.0))]
    #[case("1.5Gi", Some(1_610_612_736.0))]
    #[case("1G", Some(1e9))]
    #[case("1e9", Some(1e9))]
    #[case("1E", Some(1e18))]
    #[case("1Ei", Some(1_152_921_504_606_846_976.0))]
    #[case("500m", Some(0.5))]
    #[case("", None)]
    #[case("Gi", None)]
    #[case("inf", None)]
    #[case("1 Gi", None)]
    #[case("many", None)]
    fn a_size_is_read_as_kubernetes_reads_it(#[case] text: &str, #[case] expected: Option<f64>) {
        assert_eq!(bytes(text), expected);
    }
}
