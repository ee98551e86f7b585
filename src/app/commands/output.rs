//! Where results go.

use std::io::{self, Write};

use serde_json::Value;

/// Writes to stdout. That nobody reads on (`esker … | head`) is no error.
pub fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// JSON as it is printed: indented, with a line feed at the end.
pub fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
