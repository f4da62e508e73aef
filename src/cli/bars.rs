//! How far a pull or push is: bars on a terminal, lines elsewhere, JSON lines for programs.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::view;
use crate::engine::native::Watcher;
use crate::runtime::image::{Digest, Progress, Wait};

const STYLE: &str = "{prefix:12} {wide_bar} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {msg:10}";
const DONE: &str = "{prefix:12} {msg}";
const TICK: Duration = Duration::from_millis(250);
/// A program is told of a layer again when so many bytes more have come.
const STEP: u64 = 1 << 20;

/// Where progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Bars where standard error is a terminal, else lines.
    People,
    Programs,
    Nothing,
}

pub struct Bars {
    show: Show,
    terminal: Option<MultiProgress>,
    layers: Mutex<HashMap<String, Layer>>,
    style: (ProgressStyle, ProgressStyle),
}

struct Layer {
    bar: Option<ProgressBar>,
    begun: Instant,
    bytes: u64,
    said: u64,
}

impl Bars {
    pub fn new(show: Show) -> Self {
        let terminal = show == Show::People && view::is_live();
        let style = |text: &str| ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar());
        Self {
            show,
            terminal: terminal.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr())),
            layers: Mutex::default(),
            style: (style(STYLE).progress_chars("=> "), style(DONE)),
        }
    }

    pub fn is_silent(&self) -> bool {
        self.show == Show::Nothing
    }

    /// Writes something while there are no bars in the way.
    pub fn above(&self, write: impl FnOnce()) {
        match &self.terminal {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// A line on standard error, above the bars.
    pub fn line(&self, text: &str) {
        if !self.is_silent() {
            self.above(|| view::note(text));
        }
    }

    fn program(&self, value: &serde_json::Value) {
        // A reader that has gone does not stop a pull.
        drop(view::out(&format!("{value}\n")));
    }

    fn step(&self, image: &str, layer: &Digest, verb: &str, current: u64, total: u64) {
        let short = &layer.hex()[..12];
        let mut layers = self.layers.lock().expect("no holder panics");
        let fresh = !layers.contains_key(layer.hex());
        let known = layers.entry(layer.hex().to_owned()).or_insert_with(|| {
            let bar = self.terminal.as_ref().map(|bars| {
                let bar =
                    bars.add(ProgressBar::new(total).with_style(self.style.0.clone()).with_prefix(short.to_owned()));
                bar.set_position(current);
                bar.reset_eta();
                // Also while nothing comes: what is shown is how far it got.
                bar.enable_steady_tick(TICK);
                bar
            });
            Layer { bar, begun: Instant::now(), bytes: current, said: current }
        });
        if let Some(bar) = &known.bar {
            bar.set_message(verb.to_owned());
            bar.set_position(current);
            return;
        }
        if self.show == Show::Programs && (fresh || current >= known.said + STEP || current == total) {
            known.said = current;
            let layer = layer.as_str();
            self.program(&json!({"image": image, "layer": layer, "state": verb, "current": current, "total": total}));
        }
        if self.show == Show::People && fresh {
            view::note(&format!("{short}: {verb} {}", view::size(total)));
        }
        known.bytes = known.bytes.min(current);
        known.said = known.said.max(current);
    }

    fn state(&self, image: &str, layer: &Digest, state: &str, last: bool) {
        let short = &layer.hex()[..12];
        let mut layers = self.layers.lock().expect("no holder panics");
        let known = layers.get(layer.hex());
        match (&self.terminal, self.show) {
            (Some(bars), _) => {
                let bar = known.and_then(|known| known.bar.clone()).unwrap_or_else(|| {
                    bars.add(ProgressBar::no_length().with_style(self.style.1.clone()).with_prefix(short.to_owned()))
                });
                let text = known.map_or_else(|| state.to_owned(), |known| format!("{state}{}", rate(known)));
                if last {
                    bar.set_style(self.style.1.clone());
                    bar.finish_with_message(text);
                } else {
                    bar.set_message(state.to_owned());
                }
                layers.entry(layer.hex().to_owned()).or_insert(Layer {
                    bar: Some(bar),
                    begun: Instant::now(),
                    bytes: 0,
                    said: 0,
                });
            }
            (None, Show::Programs) => {
                self.program(&json!({"image": image, "layer": layer.as_str(), "state": state}));
            }
            (None, Show::People) if last => {
                view::note(&format!("{short}: {state}{}", known.map(rate).unwrap_or_default()));
            }
            _ => {}
        }
    }
}

/// `0123456789ab: waiting for process 12 (stack pull), which fetches layers`.
pub fn waits(layer: &Digest, holder: &str) -> String {
    format!("{}: waiting for {holder}, which fetches layers", &layer.hex()[..12])
}

/// `, 12.3MB at 4.56MB/s`, of what came over the network now.
fn rate(layer: &Layer) -> String {
    let bytes = layer.bar.as_ref().map_or(layer.said, ProgressBar::position).saturating_sub(layer.bytes);
    if bytes == 0 {
        return String::new();
    }
    let seconds = layer.begun.elapsed().as_secs_f64().max(0.001);
    format!(", {} at {}/s", view::size(bytes), view::size((bytes as f64 / seconds) as u64))
}

impl Watcher for Bars {
    fn progress(&self, image: &str, progress: Progress<'_>) {
        match progress {
            _ if self.show == Show::Nothing => {}
            Progress::Resolved { digest, layers } if self.show == Show::Programs => {
                self.program(&json!({"image": image, "state": "resolved", "digest": digest, "layers": layers}));
            }
            Progress::Resolved { layers, .. } => self.line(&format!("{image}: {layers} layers")),
            Progress::Present { layer } => self.state(image, layer, "is here", true),
            Progress::Waiting { layer, holder } if self.show == Show::Programs => {
                let (layer, state) = (layer.as_str(), "waiting");
                self.program(&json!({"image": image, "layer": layer, "state": state, "for": holder}));
            }
            Progress::Waiting { layer, holder } => self.line(&waits(layer, holder)),
            Progress::Downloading { layer, received, size } => self.step(image, layer, "downloading", received, size),
            Progress::Unpacking { layer } => self.state(image, layer, "unpacking", false),
            Progress::Unpacked { layer } => self.state(image, layer, "done", true),
            Progress::Uploading { layer, sent, size } => self.step(image, layer, "uploading", sent, size),
            Progress::Uploaded { layer } => self.state(image, layer, "is there", true),
        }
    }

    fn waiting(&self, image: &str, wait: &Wait<'_>) {
        if self.show == Show::Programs {
            let value = json!({"image": image, "state": "waiting", "for": wait.host, "reason": wait.reason,
                "seconds": wait.seconds});
            return self.program(&value);
        }
        self.line(&format!("{image}: waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason));
    }
}
