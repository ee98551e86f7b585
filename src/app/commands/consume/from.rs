//! Where to begin: `beginning`, `end`, an offset, `-N`, a time.

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Beginning,
    End,
    Offset(i64),
    /// So many before the end of each partition.
    Last(i64),
    /// Milliseconds since the Unix epoch.
    TimestampMs(i64),
}

/// Reads it.
pub fn parse(text: &str) -> Result<From, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
    match text {
        "beginning" | "earliest" => return Ok(From::Beginning),
        "end" | "latest" => return Ok(From::End),
        _ => {}
    }
    if let Some(offset) = number(text) {
        return Ok(From::Offset(offset));
    }
    if let Some(last) = text.strip_prefix('-').and_then(number) {
        return Ok(From::Last(last));
    }
    if let Some(at_ms) = timestamp_ms(text) {
        return Ok(From::TimestampMs(at_ms));
    }
    Err("write beginning, end, an offset, -N, a time such as 2026-01-31T12:00:00Z, or @ and milliseconds".to_owned())
}

/// A time as people write it: RFC 3339, or `@` and milliseconds since the Unix epoch.
pub fn timestamp_ms(text: &str) -> Option<i64> {
    match text.strip_prefix('@') {
        Some(at_ms) => at_ms.parse().ok().filter(|at_ms| *at_ms >= 0),
        None => rfc3339_ms(text),
    }
}

/// `2026-01-31T12:00:00.123Z`, `2026-01-31 12:00:00+02:00` (RFC 3339), as milliseconds since the Unix epoch.
fn rfc3339_ms(text: &str) -> Option<i64> {
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = text.get(from..to)?;
        part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
    };
    let is = |at: usize, one_of: &[u8]| text.as_bytes().get(at).is_some_and(|byte| one_of.contains(byte));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    // 60 is a leap second; it is the next one's begin.
    if !separated || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction_ms = 0;
    if is(at, b".") {
        let length = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        let kept = digits(at + 1, at + 1 + length.min(3))?;
        fraction_ms = kept * 10_i64.pow(3 - length.min(3) as u32);
        at += 1 + length;
    }
    let offset_minutes = match &text[at..] {
        "Z" | "z" => 0,
        zone if zone.len() == 6 && is(at + 3, b":") => {
            let minutes = digits(at + 1, at + 3)? * 60 + digits(at + 4, at + 6)?;
            match zone.as_bytes()[0] {
                b'+' => minutes,
                b'-' => -minutes,
                _ => return None,
            }
        }
        _ => return None,
    };
    let seconds =
        days_since_epoch(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset_minutes * 60;
    Some(seconds * 1_000 + fraction_ms)
}

/// Days from 1970-01-01 in the Gregorian calendar: whole years are counted from March, so that a leap day is the last one.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_year = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let before_month = (153 * month + 2) / 5;
    before_year + before_month + day - 1 - 719_468
}
