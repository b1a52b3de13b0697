//! Numbers as C's `%g` prints them, which is what Envoy's stats pages show.

/// `value` with at most `precision` significant digits, without trailing zeros; scientific below 1e-4 and from 10^`precision` on.
pub fn general(value: f64, precision: usize) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or_default();
    if power < -4 || power >= precision as i32 {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_zeros(mantissa), power.abs());
    }
    let decimals = (precision as i32 - 1 - power).max(0) as usize;
    without_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn without_zeros(digits: &str) -> &str {
    if !digits.contains('.') {
        return digits;
    }
    digits.trim_end_matches('0').trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::general;

    #[test]
    fn numbers_look_as_printf_has_them() {
        let cases = [
            (0.0, 6, "0"),
            (2.05, 6, "2.05"),
            (1_800_000.0, 6, "1.8e+06"),
            (600_000.0, 6, "600000"),
            (0.00001, 6, "1e-05"),
            (0.5, 32, "0.5"),
            (14.482_758_620_689_655, 32, "14.482758620689654804891688399948"),
            (3_600_000.0, 32, "3600000"),
            (f64::NAN, 6, "nan"),
        ];
        for (value, precision, text) in cases {
            assert_eq!(general(value, precision), text);
        }
    }
}
