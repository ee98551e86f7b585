//! Times, sizes and bytes as people read them. Pure.

use std::fmt::Write as _;

/// Milliseconds since the Unix epoch as UTC, to the millisecond (RFC 3339); the number itself if no calendar has it.
pub fn time(ms: i64) -> String {
    // Days are turned into dates as in "chrono-Compatible Low-Level Date Algorithms" (H. Hinnant): years begin in March, and
    // 400 of them, an era, always have the same number of days.
    const DAY_MS: i64 = 86_400_000;
    const ERA_DAYS: i64 = 146_097;
    let shifted = ms.div_euclid(DAY_MS) + 719_468;
    let (era, day) = (shifted.div_euclid(ERA_DAYS), shifted.rem_euclid(ERA_DAYS));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        return format!("{ms} ms");
    }
    let of_day = ms.rem_euclid(DAY_MS);
    let (hours, minutes) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (seconds, millis) = (of_day / 1_000 % 60, of_day % 1_000);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

/// A number of bytes in the unit that suits it.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `1 thing`, `2 things`, `2 batches`.
pub fn count(number: usize, thing: &str) -> String {
    let ending = match number {
        1 => "",
        _ if thing.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{number} {thing}{ending}")
}

/// Bytes of a key or value: text in quotes if it is text, otherwise hexadecimal; at most `limit` characters of it.
pub fn bytes(bytes: &[u8], limit: usize) -> String {
    let (text, whole) = match std::str::from_utf8(bytes) {
        Ok(text) => {
            let shown: String = text.chars().take(limit).flat_map(char::escape_debug).collect();
            (format!("\"{shown}\""), text.chars().nth(limit).is_none())
        }
        Err(_) => (format!("0x{}", hex(&bytes[..bytes.len().min(limit / 2)])), bytes.len() <= limit / 2),
    };
    if whole { text } else { format!("{text}… ({} bytes)", bytes.len()) }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[path = "words/tests.rs"]
mod tests;
