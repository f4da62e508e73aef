//! Amounts as Compose writes them: `1.5g`, `1m30s`, `0.25`.

/// A number or boolean that is written without quotes where text is wanted, as Compose makes text of it: `0x10` is 16,
/// `010` is 8, `1.50` is 1.5, `True` is true. Whoever means the letters quotes them.
pub fn as_text(written: String) -> String {
    match written.as_str() {
        "true" | "True" | "TRUE" => return "true".into(),
        "false" | "False" | "FALSE" => return "false".into(),
        _ => {}
    }
    let plain = written.replace('_', "");
    let (sign, digits) = match plain.strip_prefix(['-', '+']) {
        Some(digits) => (if plain.starts_with('-') { "-" } else { "" }, digits),
        None => ("", plain.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return written;
    }
    if let Some(number) = whole(digits) {
        return if number == 0 { "0".into() } else { format!("{sign}{number}") };
    }
    match digits {
        ".inf" | ".Inf" | ".INF" => return format!("{}Inf", if sign.is_empty() { "+" } else { sign }),
        ".nan" | ".NaN" | ".NAN" if sign.is_empty() => return "NaN".into(),
        _ => {}
    }
    let letters = digits.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c));
    let number = digits.parse::<f64>().ok().filter(|_| letters && digits.bytes().any(|byte| byte.is_ascii_digit()));
    number.map_or(written, |number| format!("{sign}{}", shortest(number)))
}

fn whole(digits: &str) -> Option<u64> {
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'o', ..] => (&digits[2..], 8),
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    let sign = digits.starts_with(['+', '-']);
    if sign { None } else { u64::from_str_radix(digits, radix).ok() }
}

/// The fewest digits that mean this number; with an exponent from a million on and below 0.0001.
fn shortest(number: f64) -> String {
    let text = format!("{number:e}");
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    match exponent.parse::<i32>() {
        Ok(exponent) if number != 0.0 && !(-4..6).contains(&exponent) => {
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{number}"),
    }
}

/// Bytes: a number with an optional unit `b k m g t p` (also `kb`, `KiB`), all powers of 1024.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix('b').map_or(unit.as_str(), |unit| unit.strip_suffix('i').unwrap_or(unit)) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    scaled(number, 1u64 << shift)
}

/// Milliseconds of a Go-style duration: numbers with `ns us ms s m h d w`, joined. A bare `0` is allowed.
pub fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total_ns: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit_ns: u64 = match unit.trim() {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return None,
        };
        total_ns = total_ns.checked_add(scaled(number, unit_ns)?)?;
        rest = tail;
    }
    Some(total_ns / 1_000_000)
}

/// Billionths of `0.5` and the like.
pub fn nanos(text: &str) -> Option<u64> {
    scaled(text.trim(), 1_000_000_000)
}

/// Millionths of `0.5` and the like.
pub fn millionths(text: &str) -> Option<u32> {
    u32::try_from(scaled(text.trim(), 1_000_000)?).ok()
}

/// Permission bits. A number written without quotes is octal with a leading 0, else decimal, as YAML reads it;
/// a quoted one is always octal.
pub fn mode(text: &str, quoted: bool) -> Option<u32> {
    let octal = text
        .strip_prefix("0o")
        .or_else(|| if quoted { Some(text) } else { text.strip_prefix('0').filter(|rest| !rest.is_empty()) });
    let mode = match octal {
        Some(digits) => u32::from_str_radix(digits, 8).ok()?,
        None => text.parse().ok()?,
    };
    (mode <= 0o7777).then_some(mode)
}

/// `number` (decimal, optional fraction) times `unit`, rounded down, exact in integers.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(15)];
    let part = match fraction {
        "" => 0,
        digits => u128::from(digits.parse::<u64>().ok()?) * u128::from(unit) / 10u128.pow(digits.len() as u32),
    };
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_text() {
        let table = [
            ("1.50", "1.5"),
            ("1.0", "1"),
            ("010", "8"),
            ("0777", "511"),
            ("09", "9"),
            ("0x1F", "31"),
            ("0o14", "12"),
            ("0b11", "3"),
            ("+5", "5"),
            ("-5", "-5"),
            ("-017", "-15"),
            ("1_000", "1000"),
            ("1e3", "1000"),
            ("1e10", "1e+10"),
            ("0.00001", "1e-05"),
            ("1234567.0", "1.234567e+06"),
            ("123456.789", "123456.789"),
            (".5", "0.5"),
            ("00", "0"),
            ("-0.0", "-0"),
            ("12345678901234567890", "12345678901234567890"),
            (".inf", "+Inf"),
            ("-.Inf", "-Inf"),
            (".nan", "NaN"),
            ("True", "true"),
            ("FALSE", "false"),
            ("yes", "yes"),
            ("1.2.3", "1.2.3"),
            ("12:30", "12:30"),
            ("2001-01-01", "2001-01-01"),
            ("1m", "1m"),
            ("e5", "e5"),
            (".", "."),
            ("-", "-"),
            ("", ""),
        ];
        for (written, expected) in table {
            assert_eq!(as_text(written.to_owned()), expected, "{written}");
        }
    }

    #[test]
    fn sizes() {
        let table = [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("1k", Some(1024)),
            ("1KB", Some(1024)),
            ("1KiB", Some(1024)),
            ("64m", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("512 MB", Some(512 << 20)),
            ("2T", Some(2 << 40)),
            ("100b", Some(100)),
            ("", None),
            ("-1", None),
            ("1x", None),
            ("1ib", None),
            ("1.2.3g", None),
            ("99999999999999p", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn durations() {
        let table = [
            ("1m30s", Some(90_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("2h", Some(7_200_000)),
            ("1d", Some(86_400_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("1500us", Some(1)),
            ("30", None),
            ("", None),
            ("s", None),
            ("1y", None),
            ("-5s", None),
            ("999999999999w", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration_ms(text), expected, "{text}");
        }
    }

    #[test]
    fn fractions_and_modes() {
        assert_eq!(nanos("0.5"), Some(500_000_000));
        assert_eq!(nanos("2"), Some(2_000_000_000));
        assert_eq!(nanos(".25"), Some(250_000_000));
        assert_eq!(nanos("half"), None);
        assert_eq!(millionths("0.1"), Some(100_000));
        assert_eq!(mode("0440", false), Some(0o440));
        assert_eq!(mode("0o440", false), Some(0o440));
        assert_eq!(mode("440", true), Some(0o440));
        assert_eq!(mode("288", false), Some(0o440));
        assert_eq!(mode("0", false), Some(0));
        assert_eq!(mode("99999", true), None);
    }
}
