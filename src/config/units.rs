//! Sizes and durations as people write them: `8MiB`, `250ms`.

/// Size suffixes and what they multiply by. Decimal and binary ones mean different things, as they say.
const SIZES: &[(&str, u64)] = &[
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// Duration suffixes in milliseconds.
const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// A size in bytes: a whole number with an optional suffix (`65536`, `64KiB`, `8 MiB`, `1GB`).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let hint = "write a size like 65536, 512KiB, 8MiB or 1GiB";
    let (number, suffix) = split(text).ok_or_else(|| hint.to_owned())?;
    let factor = if suffix.is_empty() { Some(1) } else { lookup(SIZES, suffix) };
    let factor = factor.ok_or_else(|| format!("'{suffix}' is no unit of size; {hint}"))?;
    number.checked_mul(factor).ok_or_else(|| "the size does not fit in 64 bits".to_owned())
}

/// A duration in milliseconds: a whole number with a suffix (`250ms`, `30s`, `5min`, `12h`, `7d`); `0` needs none.
pub fn parse_ms(text: &str) -> Result<u64, String> {
    let hint = "write a duration with its unit, like 250ms, 30s, 5min, 12h or 7d";
    let (number, suffix) = split(text).ok_or_else(|| hint.to_owned())?;
    if suffix.is_empty() {
        return if number == 0 { Ok(0) } else { Err(format!("the unit is missing; {hint}")) };
    }
    let factor = lookup(DURATIONS, suffix).ok_or_else(|| format!("'{suffix}' is no unit of time; {hint}"))?;
    number.checked_mul(factor).ok_or_else(|| "the duration does not fit in 64 bits".to_owned())
}

/// The shortest exact way to write a size with binary suffixes; [`parse_bytes`] reads it back.
pub fn show_bytes(bytes: u64) -> String {
    for (suffix, factor) in [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(factor) {
            return format!("{}{suffix}", bytes / factor);
        }
    }
    bytes.to_string()
}

/// The shortest exact way to write a duration; [`parse_ms`] reads it back.
pub fn show_ms(ms: u64) -> String {
    for (suffix, factor) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)] {
        if ms > 0 && ms.is_multiple_of(factor) {
            return format!("{}{suffix}", ms / factor);
        }
    }
    if ms == 0 { "0".to_owned() } else { format!("{ms}ms") }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim()))
}

fn lookup(table: &[(&str, u64)], suffix: &str) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    table.iter().find(|(name, _)| *name == suffix).map(|(_, factor)| *factor)
}
