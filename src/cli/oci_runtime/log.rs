//! `--log FILE --log-format json|text`: what engines read when this program has failed.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::args::LogFormat;

/// Appends one line. Who can't be told by a file is told by standard error alone.
pub fn write(path: &Path, format: LogFormat, level: &str, message: &str, now: &str) {
    let line = match format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": now}).to_string(),
        LogFormat::Text => format!("time={now:?} level={level} msg={message:?}"),
    };
    let written = OpenOptions::new().create(true).append(true).open(path).and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        tracing::warn!(%error, path = %path.display(), "write the log");
    }
}
