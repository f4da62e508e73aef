//! `--log FILE --log-format json|text`: what engines read when this program has failed, and, with `--debug`, what it has
//! decided. Without a file it is written to standard error.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io;
use std::sync::Mutex;

use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::args::{LogFormat, Options};
use super::now;

/// Must be the first of the process.
///
/// # Errors
/// Where the file can't be written to.
pub fn start(options: &Options) -> Result<(), String> {
    let level = if options.debug { Level::DEBUG } else { Level::WARN };
    let format = Lines(options.log_format);
    let log = tracing_subscriber::fmt().with_max_level(level).event_format(format);
    let begun = match &options.log {
        None => log.with_writer(io::stderr).try_init(),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("--log {}: {error}", path.display()))?;
            log.with_writer(Mutex::new(file)).try_init()
        }
    };
    begun.map_err(|error| format!("begin the log: {error}"))
}

/// A line as logrus writes it, which is what engines parse.
struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut words = Words::default();
        event.record(&mut words);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            _ => "debug",
        };
        writeln!(out, "{}", line(self.0, level, &words.text, &now()))
    }
}

fn line(format: LogFormat, level: &str, message: &str, now: &str) -> String {
    match format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": now}).to_string(),
        LogFormat::Text => format!("time={now:?} level={level} msg={message:?}"),
    }
}

/// The message of an event, and what it is about.
#[derive(Default)]
struct Words {
    text: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name => write!(self.text, "{}{name}={value:?}", if self.text.is_empty() { "" } else { " " }),
        };
        // A string takes all.
        written.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_logrus_writes_them() {
        let of = |format| line(format, "error", "no \"x\"", "2026-01-01T00:00:00Z");
        assert_eq!(of(LogFormat::Text), r#"time="2026-01-01T00:00:00Z" level=error msg="no \"x\"""#);
        assert_eq!(of(LogFormat::Json), r#"{"level":"error","msg":"no \"x\"","time":"2026-01-01T00:00:00Z"}"#);
    }
}
