//! How results look: tables for people, JSON for programs. Standard output carries data and nothing else.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Value, json};

/// A table whose columns are as wide as their widest cell, two spaces apart, the last one ragged.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table that begins with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The text, a line a row. Control characters of cells are shown escaped, so that a name can't steer a terminal.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The text with control characters escaped.
pub fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// Writes to standard output. A reader that went away (`| head`) is no error.
pub fn out(text: &str) -> io::Result<()> {
    try_out(text).map(drop)
}

/// As [`out`]; `false` when the reader went away.
pub fn try_out(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.map(|()| true),
    }
}

/// A line on standard error: progress, or a diagnostic. One that nobody can see any more is no error.
pub fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Whether standard error may be coloured: it is a terminal, and neither `NO_COLOR` nor `TERM=dumb` says otherwise.
pub fn color() -> bool {
    io::stderr().is_terminal() && wants_color()
}

/// The same of standard output.
pub fn out_color() -> bool {
    io::stdout().is_terminal() && wants_color()
}

/// Whether standard error is a terminal whose lines can be drawn again.
pub fn is_live() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

fn wants_color() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// One JSON value on standard output, indented, with an end of line.
pub fn json(value: &impl Serialize) -> io::Result<()> {
    out(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// `1.5GB` as docker prints sizes: powers of 1000, three figures.
pub fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, 3, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// Go's `%.3g`: so many figures at most, and no zeros at the end.
fn scaled(bytes: u64, step: f64, figures: usize, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= step && unit < units.len() - 1 {
        value /= step;
        unit += 1;
    }
    let whole = format!("{value:.0}").len();
    let text = format!("{value:.*}", figures.saturating_sub(whole));
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// RFC 3339 with milliseconds, UTC; nothing for 0, which is never.
pub fn time(ms: u64) -> Value {
    let timestamp = i64::try_from(ms).ok().filter(|ms| *ms > 0).map(jiff::Timestamp::from_millisecond);
    timestamp.and_then(Result::ok).map_or(Value::Null, |timestamp| json!(format!("{timestamp:.3}")))
}

/// `2 hours ago` for a moment in milliseconds since 1970.
pub fn ago(ms: u64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    age((now - i64::try_from(ms).unwrap_or(now)) / 1000) + " ago"
}

/// The text, cut to so many characters with `…` as the last.
pub fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// `1.5 MiB` as docker prints memory: powers of 1024, four figures at most.
pub fn binary_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, 4, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

/// `5 minutes` as docker tells ages; `seconds` is the age.
pub fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (count, unit) = match seconds {
        0 => return "Less than a second".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns_and_escapes_control_characters() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(["a\u{1b}b".to_owned(), "up".to_owned()]);
        table.row(["a longer name".to_owned(), "up".to_owned()]);
        assert_eq!(table.render(), "NAME           STATE\na\\u{1b}b       up\na longer name  up\n");
    }

    #[test]
    fn sizes_and_ages_read_as_dockers() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1500, "1.5kB"), (12_300_000, "12.3MB"), (450_000_000_000, "450GB")]
        {
            assert_eq!(size(bytes), text);
        }
        for (bytes, text) in [(64 << 20, "64MiB"), (1_234_567, "1.177MiB"), (1023, "1023B")] {
            assert_eq!(binary_size(bytes), text);
        }
        for (seconds, text) in
            [(0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (7200, "2 hours"), (200_000, "2 days")]
        {
            assert_eq!(age(seconds), text);
        }
    }
}
