//! The files of a log with what they have lost: lines are missing while the disk is full, and it is said where.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::files::{Batch, Files};
use crate::runtime::container::logs::form::{Encoder, Piece};
use crate::runtime::container::{Config, LogForm, tag};

/// What the files have not got.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Since the supervisor began.
    pub lines: u64,
    /// Why lines are lost at the moment.
    pub reason: Option<String>,
    gap: Option<Gap>,
}

/// Lines that are missing in the files from some time on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Gap {
    lines: u64,
    /// RFC 3339.
    since: String,
}

pub struct Kept {
    files: Files,
    encoder: Encoder,
    loss: Loss,
}

impl Kept {
    /// Of this container in this directory; `None` where nothing is kept.
    pub fn new(directory: &Path, config: &Config) -> Option<Self> {
        let kept = config.log.files?;
        Some(Self { files: Files::new(directory, kept), encoder: encoder(kept.form, config), loss: Loss::default() })
    }

    /// Goes on counting from here.
    pub fn resume(&mut self, loss: Loss) {
        self.loss = loss;
    }

    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    /// The container has another name from now on, and its log another directory; files that are open are those.
    pub fn renamed(&mut self, directory: &Path, config: &Config) {
        if let Some(kept) = config.log.files {
            self.files.moved(directory);
            self.encoder = encoder(kept.form, config);
        }
    }

    /// Whether there is something to do when nothing else is.
    pub fn has_work(&self) -> bool {
        self.files.is_compressing()
    }

    /// Does a piece of that.
    pub fn work(&mut self) {
        self.files.compress();
    }

    /// Writes these down. What can't be is counted.
    pub fn write(&mut self, pieces: &[Piece<'_>]) {
        let (lost, result) = self.try_write(pieces);
        self.loss.lines += lost;
        self.loss.reason = result.err().map(|error| error.to_string());
    }

    /// How many of these were lost, and why.
    fn try_write(&mut self, pieces: &[Piece<'_>]) -> (u64, io::Result<()>) {
        let said = self.loss.gap.as_ref().map(Gap::text);
        let first = pieces.first().map(|first| first.time).unwrap_or_default();
        let notice = said.as_ref().map(|text| Piece { stream: 1, text: text.as_bytes(), time: first });
        let mut batch = Batch::default();
        for piece in notice.iter().chain(pieces) {
            if let Err(error) = self.encoder.encode(&mut batch.bytes, *piece) {
                return (pieces.len() as u64, Err(error));
            }
            batch.ends.push(batch.bytes.len());
        }
        let result = self.files.append(&mut batch);
        let left = batch.ends.len();
        let lost = left.min(pieces.len()) as u64;
        let before = self.loss.gap.take().filter(|_| left > pieces.len());
        if lost > 0 {
            let before = before.unwrap_or_else(|| Gap { lines: 0, since: format!("{first:.9}") });
            self.loss.gap = Some(Gap { lines: before.lines + lost, ..before });
        }
        (lost, result)
    }
}

impl Gap {
    fn text(&self) -> String {
        let lines = if self.lines == 1 { "1 line is".to_owned() } else { format!("{} lines are", self.lines) };
        format!("stack: {lines} missing here, since {}: the log could not be written\n", self.since)
    }
}

fn encoder(form: LogForm, config: &Config) -> Encoder {
    let tag = config.log.tag.as_ref().map(|template| ("tag".to_owned(), tag(template, config)));
    Encoder::new(form, config.log.attributes.clone().into_iter().chain(tag).collect())
}
