//! Amounts as Compose writes them: `1.5g`, `1m30s`, `0.25`.

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
