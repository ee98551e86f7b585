//! What a setting is: its name in three places, its form and bounds.

use std::path::PathBuf;

use super::settings::Settings;
use super::units::{parse_bytes, parse_ms, show_bytes, show_ms};

/// What a setting's value looks like, with its bounds (both inclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text; the hint names it in help.
    Text(&'static str),
    /// A size; bounds in bytes.
    Size(u64, u64),
    /// A duration; bounds in ms.
    Duration(u64, u64),
    /// A whole number.
    Count(u64, u64),
    /// `true` or `false`.
    Flag,
    /// Operations per second, or `unlimited`.
    Rate,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// `host:port`.
    Address,
}

/// A checked value, in base units.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text, choices, addresses.
    Text(String),
    /// Bytes, ms or a count, by the key's kind.
    Number(u64),
    /// A flag.
    Flag(bool),
    /// A rate; infinity for `unlimited`.
    Rate(f64),
}

impl Value {
    pub(super) fn text(&self) -> String {
        if let Self::Text(text) = self { text.clone() } else { String::new() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.text().into()
    }

    pub(super) fn number(&self) -> u64 {
        if let Self::Number(number) = self { *number } else { 0 }
    }

    pub(super) fn size(&self) -> usize {
        usize::try_from(self.number()).unwrap_or(usize::MAX)
    }

    pub(super) fn int(&self) -> i32 {
        i32::try_from(self.number()).unwrap_or(i32::MAX)
    }
}

/// What holds when nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// Nothing: the setting is off or found out.
    None,
    /// This value.
    Is(&'static str),
    /// It depends on the object store.
    ByStore {
        /// On file and memory stores.
        local: &'static str,
        /// On S3.
        s3: &'static str,
    },
}

/// One setting.
pub struct Key {
    /// Name: `table.key`, or just `key`. The flag is `--table-key`, the variable `ESKER_TABLE_KEY`.
    pub name: &'static str,
    /// What it looks like.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// Whether `esker serve -h` shows it; `--help` shows all.
    pub common: bool,
    /// Meaning, in a sentence.
    pub doc: &'static str,
    /// Puts the checked value where it belongs; the message says what to write instead.
    pub apply: fn(&mut Settings, &Value) -> Result<(), String>,
}

impl Key {
    /// `--flush-linger`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace(['.', '_'], "-")
    }

    /// `ESKER_FLUSH_LINGER`.
    pub fn variable(&self) -> String {
        format!("ESKER_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }

    /// What stands for the value in help.
    pub fn hint(&self) -> &'static str {
        match self.kind {
            Kind::Text(hint) => hint,
            Kind::Size(..) => "SIZE",
            Kind::Duration(..) => "DURATION",
            Kind::Count(..) => "N",
            Kind::Flag => "BOOL",
            Kind::Rate => "PER-SECOND",
            Kind::Choice(_) => "WORD",
            Kind::Address => "HOST:PORT",
        }
    }

    /// Default in words.
    pub fn default_text(&self) -> String {
        match self.default {
            Default::None => "none".to_owned(),
            Default::Is(value) => value.to_owned(),
            Default::ByStore { local, s3 } => format!("{local} (file, memory), {s3} (s3)"),
        }
    }

    /// Bounds in words; empty if there are none.
    pub fn bounds_text(&self) -> String {
        match self.kind {
            Kind::Size(min, max) => format!("{}..{}", show_bytes(min), show_bytes(max)),
            Kind::Duration(min, max) => format!("{}..{}", show_ms(min), show_ms(max)),
            Kind::Count(min, max) => format!("{min}..{max}"),
            Kind::Choice(words) => words.join(", "),
            Kind::Flag => "true, false".to_owned(),
            Kind::Rate => "1 or more, or unlimited".to_owned(),
            Kind::Text(_) | Kind::Address => String::new(),
        }
    }

    /// Checks a value's form and bounds. The message says what to write instead.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        let within = |value: u64, min: u64, max: u64| {
            if (min..=max).contains(&value) {
                Ok(Value::Number(value))
            } else {
                Err(format!("must be within {}", self.bounds_text()))
            }
        };
        match self.kind {
            Kind::Text(_) if text.is_empty() => Err("must not be empty".to_owned()),
            Kind::Text(_) => Ok(Value::Text(text.to_owned())),
            Kind::Size(min, max) => within(parse_bytes(text)?, min, max),
            Kind::Duration(min, max) => within(parse_ms(text)?, min, max),
            Kind::Count(min, max) => {
                let number =
                    text.replace('_', "").parse().map_err(|_| format!("must be a whole number within {min}..{max}"))?;
                within(number, min, max)
            }
            Kind::Flag => match text {
                "true" | "yes" | "on" | "1" => Ok(Value::Flag(true)),
                "false" | "no" | "off" | "0" => Ok(Value::Flag(false)),
                _ => Err("must be true or false".to_owned()),
            },
            Kind::Rate if text == "unlimited" => Ok(Value::Rate(f64::INFINITY)),
            Kind::Rate => match text.parse::<u32>() {
                Ok(rate) if rate > 0 => Ok(Value::Rate(f64::from(rate))),
                _ => Err("must be a whole number per second, 1 or more, or 'unlimited'".to_owned()),
            },
            Kind::Choice(words) if words.contains(&text) => Ok(Value::Text(text.to_owned())),
            Kind::Choice(words) => Err(format!("must be one of: {}", words.join(", "))),
            Kind::Address => check_address(text).map(|()| Value::Text(text.to_owned())),
        }
    }
}

/// `host:port`, `[::1]:port`; the port may be 0.
pub(super) fn check_address(text: &str) -> Result<(), String> {
    let hint = "must be host:port, like 127.0.0.1:9092";
    let (host, port) = text.rsplit_once(':').ok_or(hint)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_v6 || host.contains(['/', ' ', '@']) {
        return Err(hint.to_owned());
    }
    port.parse::<u16>().map(|_| ()).map_err(|_| format!("'{port}' is no port (0..65535); {hint}"))
}
