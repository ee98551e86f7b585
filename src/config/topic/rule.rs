//! Judging one config value.

use super::{ConfigError, ConfigType, Rule};

/// Parses `value` as `kind` and holds it against `rule`.
pub fn check(name: &str, kind: ConfigType, rule: Rule, value: &str) -> Result<(), ConfigError> {
    reason(kind, rule, value.trim())
        .map_or(Ok(()), |reason| Err(ConfigError::Invalid { name: name.to_owned(), value: value.to_owned(), reason }))
}

/// Why the value is wrong, or `None`.
fn reason(kind: ConfigType, rule: Rule, value: &str) -> Option<String> {
    match kind {
        ConfigType::Int | ConfigType::Long | ConfigType::Short => {
            let (low, high, bits) = match kind {
                ConfigType::Int => (i64::from(i32::MIN), i64::from(i32::MAX), 32),
                ConfigType::Short => (i64::from(i16::MIN), i64::from(i16::MAX), 16),
                _ => (i64::MIN, i64::MAX, 64),
            };
            match value.parse::<i64>() {
                Ok(number) if (low..=high).contains(&number) => number_reason(rule, number),
                _ => Some(format!("Not a number of type {kind:?} ({bits} bits)")),
            }
        }
        ConfigType::Double => match value.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                let fraction = rule == Rule::Fraction;
                (fraction && !(0.0..=1.0).contains(&number)).then(|| "Value must be between 0 and 1".to_owned())
            }
            _ => Some("Not a number of type Double".to_owned()),
        },
        ConfigType::Boolean => {
            if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") {
                return Some("Expected value to be either true or false".to_owned());
            }
            text_reason(rule, &value.to_ascii_lowercase())
        }
        ConfigType::String => text_reason(rule, value),
        ConfigType::List => list_reason(rule, value),
    }
}

fn number_reason(rule: Rule, number: i64) -> Option<String> {
    match rule {
        Rule::AtLeast(low) if number < low => Some(format!("Value must be at least {low}")),
        Rule::Between(low, high) if !(low..=high).contains(&number) => {
            Some(format!("Value must be between {low} and {high}"))
        }
        Rule::GzipLevel if number != -1 && !(1..=9).contains(&number) => {
            Some("Value must be between 1 and 9 or equal to -1".to_owned())
        }
        _ => None,
    }
}

fn text_reason(rule: Rule, value: &str) -> Option<String> {
    match rule {
        Rule::OneOf(allowed) if !allowed.contains(&value) => {
            Some(format!("String must be one of: {}", allowed.join(", ")))
        }
        Rule::Only(only, _, _) if value == only => None,
        Rule::Only(_, known, sentence) if known.contains(&value) => Some(sentence.to_owned()),
        Rule::Only(only, _, _) => Some(format!("String must be one of: {only}")),
        _ => None,
    }
}

fn list_reason(rule: Rule, value: &str) -> Option<String> {
    let parts = || list_parts(value);
    match rule {
        Rule::Subset(allowed) => parts()
            .find(|part| !allowed.contains(part))
            .map(|part| format!("String '{part}' must be one of: {}", allowed.join(", "))),
        Rule::Replicas if value == "*" => None,
        Rule::Replicas => parts().find(|part| !is_replica(part)).map(|part| {
            format!("'{part}' is not a [partitionId]:[brokerId] pair; expected such pairs separated by commas, or '*'")
        }),
        _ => None,
    }
}

/// The parts of a list value: trimmed, empty ones left out.
pub fn list_parts(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn is_replica(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker))
}
