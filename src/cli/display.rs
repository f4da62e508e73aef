//! What is shown while a plan is carried out: live lines on a terminal, plain ones elsewhere, nothing when asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::bars::{Bars, Show, waits};
use super::places::Places;
use super::view;
use crate::engine::native::Watcher;
use crate::reconcile::engine::{Action, EngineError};
use crate::reconcile::execute::{Event, Skip};
use crate::reconcile::plan::{Step, Summary, describe};
use crate::reconcile::resource::Config;
use crate::runtime::image::{Progress, Wait};

/// How often a line that lives is drawn again.
const TICK: Duration = Duration::from_millis(100);

/// Steps as they come and go, on standard error.
#[derive(Clone)]
pub struct Display {
    form: Form,
    begun: Instant,
    /// Where the causes of steps stand.
    places: Option<Arc<Places>>,
}

#[derive(Clone)]
enum Form {
    Quiet,
    Plain(Arc<Bars>),
    Live(Arc<Live>),
}

impl Display {
    /// Live lines where standard error is a terminal that can move its cursor.
    pub fn new(quiet: bool) -> Self {
        let form = match (quiet, view::is_live()) {
            (true, _) => Form::Quiet,
            (false, true) => Form::Live(Arc::new(Live::new(view::color()))),
            (false, false) => Form::Plain(Arc::new(Bars::new(Show::People))),
        };
        Self { form, begun: Instant::now(), places: None }
    }

    /// The same, which shows where in the files the cause of a step that fails stands.
    pub fn with_places(self, places: Places) -> Self {
        Self { places: Some(Arc::new(places)), ..self }
    }

    pub fn is_quiet(&self) -> bool {
        matches!(self.form, Form::Quiet)
    }

    /// A line that is no step.
    pub fn say(&self, text: &str) {
        match &self.form {
            Form::Quiet => {}
            Form::Plain(_) => view::note(text),
            Form::Live(live) => live.print(text),
        }
    }

    /// A line that is said even where quiet is asked for.
    pub fn insist(&self, text: &str) {
        match &self.form {
            Form::Quiet | Form::Plain(_) => view::note(text),
            Form::Live(live) => live.print(text),
        }
    }

    pub fn step(&self, event: &Event<'_>) {
        let why = match event {
            Event::Failed { step, error, .. } => self.why(&step.action, error),
            _ => String::new(),
        };
        match &self.form {
            Form::Live(live) => live.step(event, &why),
            Form::Plain(_) => plain(event, &why),
            Form::Quiet => {
                if let Event::Failed { .. } = event {
                    plain(event, &why);
                }
            }
        }
    }

    /// What failed, where its cause stands, and what to do about it.
    fn why(&self, action: &Action, error: &EngineError) -> String {
        let text = error.to_string();
        let Some(place) = self.places.as_ref().and_then(|places| places.find(action)) else { return text };
        match text.split_once("\n  help: ") {
            Some((message, help)) => format!("{message}\n  --> {place}\n  help: {help}"),
            None => format!("{text}\n  --> {place}"),
        }
    }

    /// `hello: 1 fetched, 5 created in 2.3 s`.
    pub fn done(&self, stack: &str, summary: &Summary) {
        let time = seconds(self.begun.elapsed());
        self.say(&format!("{stack}: {} in {time}", past(summary)));
    }
}

impl Watcher for Display {
    fn progress(&self, image: &str, progress: Progress<'_>) {
        match &self.form {
            Form::Live(live) => live.pull(image, progress),
            Form::Plain(bars) => bars.progress(image, progress),
            Form::Quiet => {}
        }
    }

    fn waiting(&self, image: &str, wait: &Wait<'_>) {
        self.say(&format!("{image}: waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason));
    }
}

/// What was done, in the words of what was to be done.
fn past(summary: &Summary) -> String {
    let counts = [
        (summary.pull, "fetched"),
        (summary.create, "created"),
        (summary.update, "updated"),
        (summary.restart, "started"),
        (summary.replace, "replaced"),
        (summary.remove, "removed"),
    ];
    let parts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    if parts.is_empty() { "nothing to do".to_owned() } else { parts.join(", ") }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn plain(event: &Event<'_>, why: &str) {
    match event {
        Event::Started { .. } => {}
        Event::Finished { step, .. } => view::note(&format!("  done     {}", describe(&step.action))),
        Event::Failed { step, .. } => view::note(&format!("  failed   {}: {why}", describe(&step.action))),
        Event::Skipped { step, because, .. } => {
            view::note(&format!("  skipped  {} ({})", describe(&step.action), reason(*because)));
        }
    }
}

fn reason(because: Skip) -> &'static str {
    match because {
        Skip::Cancelled => "interrupted",
        Skip::Requires(_) => "needs one that failed",
    }
}

/// Lines that live at the bottom of the terminal, one a step that runs; what is over stands above them.
struct Live {
    lines: MultiProgress,
    color: bool,
    running: Mutex<BTreeMap<usize, Running>>,
}

struct Running {
    line: ProgressBar,
    begun: Instant,
    /// Of the image that is pulled.
    reference: Option<String>,
    /// Received and whole size of each layer that is being fetched.
    layers: BTreeMap<String, (u64, u64)>,
}

impl Live {
    fn new(color: bool) -> Self {
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { lines, color, running: Mutex::default() }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<usize, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, text: &str) {
        // A terminal that has gone shows nothing any more.
        self.lines.println(text).ok();
    }

    fn step(&self, event: &Event<'_>, why: &str) {
        match event {
            Event::Started { index, step } => {
                let line = self.lines.add(spinner(&describe(&step.action)));
                line.enable_steady_tick(TICK);
                let running = Running { line, begun: Instant::now(), reference: pulled(step), layers: BTreeMap::new() };
                self.running().insert(*index, running);
            }
            Event::Finished { index, step } => {
                let time = self.end(*index);
                // Looking is no news, unless something was found.
                if !matches!(step.action, Action::Check { .. }) {
                    self.print(&format!("{} {}  {}", self.sign("32", "✔"), describe(&step.action), seconds(time)));
                }
            }
            Event::Failed { index, step, .. } => {
                self.end(*index);
                self.print(&format!("{} {}: {why}", self.sign("31", "✘"), describe(&step.action)));
            }
            Event::Skipped { index, step, because } => {
                self.end(*index);
                self.print(&format!("{} {} ({})", self.sign("33", "-"), describe(&step.action), reason(*because)));
            }
        }
    }

    fn sign(&self, color: &str, sign: &str) -> String {
        if self.color { format!("\x1b[{color}m{sign}\x1b[0m") } else { sign.to_owned() }
    }

    /// Takes its line away, and says how long it took.
    fn end(&self, index: usize) -> Duration {
        let Some(running) = self.running().remove(&index) else { return Duration::ZERO };
        running.line.finish_and_clear();
        self.lines.remove(&running.line);
        running.begun.elapsed()
    }

    fn pull(&self, reference: &str, progress: Progress<'_>) {
        if let Progress::Waiting { layer, holder } = progress {
            return self.print(&format!("{reference}: {}", waits(layer, holder)));
        }
        let Progress::Downloading { layer, received, size } = progress else { return };
        for running in self.running().values_mut().filter(|one| one.reference.as_deref() == Some(reference)) {
            if running.layers.is_empty() {
                running.line.set_style(bar());
            }
            running.layers.insert(layer.to_string(), (received, size));
            let sum = |part: fn(&(u64, u64)) -> u64| running.layers.values().map(part).sum();
            running.line.set_length(sum(|(_, size)| *size));
            running.line.set_position(sum(|(received, _)| *received));
        }
    }
}

/// The reference of the image that this step fetches.
fn pulled(step: &Step) -> Option<String> {
    match &step.action {
        Action::Create { config: Config::Image(image), .. } => Some(image.reference.clone()),
        _ => None,
    }
}

fn spinner(text: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}  {elapsed}");
    ProgressBar::new_spinner()
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()))
        .with_message(text.to_owned())
}

fn bar() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} {msg}  [{bar:30}] {bytes}/{total_bytes}  {elapsed}");
    style.map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_in_words_of_the_past() {
        let summary = Summary { pull: 1, create: 5, remove: 2, ..Summary::default() };
        assert_eq!(past(&summary), "1 fetched, 5 created, 2 removed");
        assert_eq!(past(&Summary::default()), "nothing to do");
    }
}
