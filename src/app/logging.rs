//! Log lines on stderr, and what people see while a start takes long.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, TracingSettings};

/// Crates that are only heard when the filter names them.
const QUIET: &str = "foyer=warn,foyer_storage=warn,foyer_memory=warn";
/// How often the sign of life on a terminal moves, in ms.
const TICK_MS: u64 = 120;

/// Starts logging. A panic anywhere is logged too. The message of an error says what is wrong with the filter.
pub fn start(settings: &TracingSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", settings.filter))
        .map_err(|error| format!("log = '{}': {error}; write for example info,esker=debug", settings.filter))?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| error.to_string())?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
    Ok(())
}

/// What a start is at. On a terminal one line that moves; elsewhere nothing (the log tells it).
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins.
    pub fn start() -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::default_spinner());
        bar.enable_steady_tick(Duration::from_millis(TICK_MS));
        Self { bar }
    }

    /// Says what is done now.
    pub fn phase(&self, what: impl Into<String>) {
        let what = what.into();
        tracing::debug!(phase = what, "starting");
        self.bar.set_message(what);
    }

    /// Removes the line.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
