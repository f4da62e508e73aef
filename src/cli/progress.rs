//! How a build shows itself: a line where a step begins and ends, and what steps write in between, each line with the
//! step it is of, since stages run at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::display::Display;
use super::view::{self, printable};
use crate::build::{Built, Event, StepName};
use crate::engine::native::builds::Listener;

/// A line longer than this is shown in pieces, in bytes.
const LONGEST: usize = 16 << 10;

/// Writes to standard error, or to whoever keeps that in order.
pub struct Printer {
    quiet: bool,
    say: Box<dyn Fn(&str) + Send + Sync>,
    /// What was written of a line whose end has not come yet, by step.
    partial: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Printer {
    pub fn new(quiet: bool) -> Self {
        Self { quiet, say: Box::new(view::note), partial: Mutex::new(BTreeMap::new()) }
    }

    fn say(&self, text: &str) {
        (self.say)(text);
    }

    pub fn event(&self, event: &Event<'_>) {
        match event {
            Event::Warning(found) => self.say(found.render(view::color()).trim_end()),
            _ if self.quiet => {}
            Event::Started(step) => self.say(&format!("{} {}", step.tag(), printable(&step.text))),
            Event::Cached(step) => self.say(&format!("{} {} (cached)", step.tag(), printable(&step.text))),
            Event::Output { step, bytes, .. } => self.output(step, bytes),
            Event::Finished { step, took } => {
                self.flush(step);
                self.say(&format!("{} done in {}", step.tag(), seconds(*took)));
            }
        }
    }

    fn output(&self, step: &StepName, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let line = partial.entry(step.tag()).or_default();
        line.extend_from_slice(bytes);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n').or((line.len() > LONGEST).then_some(LONGEST))
        {
            let rest = line.split_off(end);
            self.say(&shown(step, line));
            let skip = usize::from(rest.first() == Some(&b'\n'));
            *line = rest[skip..].to_vec();
        }
    }

    fn flush(&self, step: &StepName) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = partial.remove(&step.tag()).filter(|line| !line.is_empty()) {
            self.say(&shown(step, &line));
        }
    }

    pub fn end(&self, built: &Built, names: &[String]) {
        if !self.quiet {
            let names = if names.is_empty() { built.image.reference.clone() } else { names.join(", ") };
            self.say(&format!("built {names}: {} steps carried out, {} remembered", built.executed, built.cached));
        }
    }
}

/// For engines whose builds are to be seen.
pub fn listener(display: &Display) -> Listener {
    let shown = display.clone();
    let say = move |text: &str| shown.say(text);
    let printer = Printer { say: Box::new(say), ..Printer::new(display.is_quiet()) };
    Arc::new(move |event| printer.event(&event))
}

/// What a program writes is shown, and steers no terminal.
fn shown(step: &StepName, line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let last = text.trim_end_matches('\r').rsplit('\r').next().unwrap_or_default();
    let clean: String = last
        .chars()
        .flat_map(|c| if c.is_control() && c != '\t' { c.escape_default().collect() } else { vec![c] })
        .collect();
    format!("{} | {clean}", step.tag())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
