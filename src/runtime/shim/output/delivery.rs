//! Lines on their way to a service: a queue with a bound, in front of a connection that may be slow, or gone.
//!
//! While there is a connection and the queue is full, the container waits, or, with `mode: non-blocking`, its newest lines
//! are dropped. Without a connection nobody waits for longer than a moment: lines are dropped when the queue is full. They
//! are counted, and the service is told how many there were as soon as it can be.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::kept;
use super::link::{Link, Receiver, Sent};
use super::message::Form;
use crate::runtime::container::Config;
use crate::runtime::container::logs::form::Piece;

/// Bytes that wait where nothing else is asked for.
const QUEUE: u64 = 1_000_000;
/// How long a container waits for a connection that is being made.
const MOMENT: Duration = Duration::from_secs(1);
/// Between two attempts: doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long a service may take to take the last lines.
const FAREWELL: Duration = Duration::from_secs(2);

pub struct Delivery {
    receiver: Receiver,
    form: Form,
    link: Link,
    queue: VecDeque<Vec<u8>>,
    /// So many of the first have been sent.
    begun: usize,
    /// Of all in the queue.
    bytes: usize,
    most: usize,
    /// Lines are dropped rather than waited for.
    drops: bool,
    retry_at: Option<Instant>,
    pause: Duration,
    /// Until when a connection is waited for.
    patience: Option<Instant>,
    /// Why there is no connection.
    trouble: Option<String>,
    loss: Loss,
    /// When a line was dropped last.
    lost_at: Option<Instant>,
    /// So many lines who writes the files has lost since it began.
    reported: u64,
}

/// What the service was not given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Loss {
    /// Since the supervisor began.
    pub lines: u64,
    /// Why lines are dropped at the moment.
    pub reason: Option<String>,
    /// Those that the service has not been told of.
    untold: u64,
    /// Why who writes the files loses lines at the moment; they are counted above.
    full: Option<String>,
}

impl Delivery {
    pub fn new(receiver: Receiver, config: &Config) -> Self {
        let most = config.log.buffer.unwrap_or(QUEUE);
        Self {
            form: form(&receiver, config),
            link: Link::to(&receiver, config),
            receiver,
            queue: VecDeque::new(),
            begun: 0,
            bytes: 0,
            most: usize::try_from(most).unwrap_or(usize::MAX),
            drops: config.log.buffer.is_some(),
            retry_at: None,
            pause: FIRST_PAUSE,
            patience: None,
            trouble: None,
            loss: Loss::default(),
            lost_at: None,
            reported: 0,
        }
    }

    /// Whether there is somebody where it is looked for; nobody knows of a server on the network.
    pub fn is_served(&self) -> Result<(), String> {
        self.link.is_there()
    }

    /// Goes on counting from here.
    pub fn resume(&mut self, loss: Loss) {
        self.loss = loss;
    }

    pub fn loss(&self) -> &Loss {
        &self.loss
    }

    pub fn is_for_files(&self) -> bool {
        matches!(self.receiver, Receiver::Files(_))
    }

    /// Why lines are lost at the moment.
    pub fn reason(&self) -> Option<String> {
        self.loss.reason.clone().or_else(|| self.loss.full.clone())
    }

    /// The container goes by another name from now on, and its log is in this directory.
    pub fn renamed(&mut self, directory: &Path, config: &Config) {
        if let Receiver::Files(place) = &mut self.receiver {
            directory.clone_into(place);
            self.link = Link::to(&self.receiver, config);
            self.begun = 0;
        }
        self.form = form(&self.receiver, config);
    }

    /// Whether there is nothing to send.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && (self.loss.untold == 0 || self.link.is_down())
    }

    /// Whether the container must wait.
    pub fn is_full(&self, now: Instant) -> bool {
        self.bytes >= self.most && self.is_worth_waiting(now)
    }

    /// Whether lines that find no room are kept all the same, since no more come before these have gone.
    fn is_worth_waiting(&self, now: Instant) -> bool {
        !self.drops && (self.link.is_up() || self.patience.is_some_and(|until| now < until))
    }

    fn has_room(&self, length: usize) -> bool {
        self.queue.is_empty() || self.bytes + length <= self.most
    }

    pub fn take(&mut self, pieces: &[Piece<'_>], now: Instant) {
        for piece in pieces {
            let message = self.form.message(*piece);
            if !self.has_room(message.len()) {
                self.pump(now);
            }
            if self.has_room(message.len()) || self.is_worth_waiting(now) {
                self.push(message);
            } else {
                self.lose(1, None, now);
            }
        }
        self.pump(now);
    }

    fn push(&mut self, message: Vec<u8>) {
        self.bytes += message.len();
        self.queue.push_back(message);
    }

    fn pop(&mut self) {
        self.begun = 0;
        self.bytes -= self.queue.pop_front().map_or(0, |message| message.len());
    }

    fn lose(&mut self, lines: u64, reason: Option<String>, now: Instant) {
        self.lost_at = Some(now);
        self.loss.lines += lines;
        self.loss.untold += lines;
        let reason = reason.or_else(|| self.trouble.clone());
        self.loss.reason = Some(reason.unwrap_or_else(|| "lines come faster than they are taken".to_owned()));
    }

    /// Sends as much as goes now.
    pub fn pump(&mut self, now: Instant) {
        while self.has_more(now) {
            if self.link.is_down() && !self.connect(now) || !self.link.is_up() {
                return;
            }
            let Some(first) = self.queue.front() else { return };
            match self.link.send(&first[self.begun..]) {
                Ok(Sent::Bytes(count)) => {
                    self.begun += count;
                    if self.begun >= self.queue.front().map_or(0, Vec::len) {
                        self.pop();
                        self.pause = FIRST_PAUSE;
                        self.trouble = None;
                    }
                }
                Ok(Sent::Later) => return,
                Ok(Sent::Never(error)) => {
                    self.pop();
                    self.lose(1, Some(error.desc().to_owned()), now);
                }
                Err(error) => self.lost(&error, now),
            }
        }
    }

    /// When all is sent, and nothing was dropped for a moment, the service is told what it was not.
    fn has_more(&mut self, now: Instant) -> bool {
        let is_over = self.lost_at.is_none_or(|at| at + MOMENT <= now);
        if self.queue.is_empty() && self.loss.untold > 0 && is_over && self.link.is_up() {
            let lines = std::mem::take(&mut self.loss.untold);
            let reason = self.loss.reason.take().unwrap_or_default();
            let text = format!("stack: {lines} line(s) were dropped before this: {reason}\n");
            let piece = Piece { stream: 1, text: text.as_bytes(), time: jiff::Timestamp::now() };
            self.push(self.form.message(piece));
        }
        !self.queue.is_empty()
    }

    /// Whether there is hope.
    fn connect(&mut self, now: Instant) -> bool {
        if self.retry_at.is_some_and(|at| now < at) {
            return false;
        }
        if self.retry_at.take().is_none() {
            self.patience = Some(now + MOMENT);
        }
        (self.reported, self.loss.full) = (0, None);
        if let Err(error) = self.link.begin(now) {
            self.failed(&error, now);
            return false;
        }
        true
    }

    /// The connection, which will be there again in a moment, or it will not.
    fn lost(&mut self, error: &io::Error, now: Instant) {
        self.patience = Some(now + MOMENT);
        self.failed(error, now);
    }

    /// What had been begun is sent again as a whole.
    fn failed(&mut self, error: &io::Error, now: Instant) {
        self.link.close();
        self.begun = 0;
        self.trouble = Some(error.to_string());
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    pub fn source(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        self.link.source(!self.queue.is_empty())
    }

    /// When something has to be done next.
    pub fn next(&self) -> Option<Instant> {
        let retry = self.retry_at.filter(|_| !self.queue.is_empty());
        let telling = self.lost_at.filter(|_| self.queue.is_empty() && self.loss.untold > 0 && self.link.is_up());
        let telling = telling.map(|at| at + MOMENT);
        let patience = self.patience.filter(|_| self.bytes >= self.most && !self.link.is_up());
        [retry, telling, patience, self.link.until()].into_iter().flatten().min()
    }

    /// Something has happened with the connection, or it is time.
    pub fn proceed(&mut self, now: Instant) {
        let was_up = self.link.is_up();
        let proceeded = self.link.proceed(now);
        self.listen();
        match proceeded {
            Err(error) => self.failed(&error, now),
            Ok(()) if was_up && self.link.is_down() && !self.queue.is_empty() => {
                self.lost(&io::ErrorKind::ConnectionAborted.into(), now);
            }
            Ok(()) => {}
        }
        if self.patience.is_some_and(|until| until <= now) || self.link.is_up() {
            self.patience = None;
        }
        self.pump(now);
    }

    /// Who writes the files says what it has lost: the last line counts.
    fn listen(&mut self) {
        let heard = self.link.listen();
        let mut lines = heard.split(|byte| *byte == b'\n').rev();
        if let Some(report) = lines.find_map(|line| serde_json::from_slice::<kept::Loss>(line).ok()) {
            self.loss.lines += report.lines.saturating_sub(self.reported);
            self.reported = report.lines;
            self.loss.full = report.reason;
        }
    }

    /// Sends the rest, while it is taken, and waits until it is written.
    pub fn finish(&mut self) {
        let begun = Instant::now();
        let mut now = begun;
        self.lost_at = None;
        self.pump(now);
        while !self.queue.is_empty() && now < begun + FAREWELL && self.retry_at.is_none() {
            let Some((descriptor, flags)) = self.source() else { break };
            let left = PollTimeout::try_from((begun + FAREWELL).saturating_duration_since(now));
            let waited = poll(&mut [PollFd::new(descriptor, flags)], left.unwrap_or(PollTimeout::ZERO));
            if waited.is_err_and(|error| error != nix::Error::EINTR) {
                break;
            }
            now = Instant::now();
            self.proceed(now);
        }
        if self.queue.is_empty() && self.link.shut() {
            self.wait_until(begun + FAREWELL);
        }
        let left = self.queue.len() as u64;
        if left > 0 {
            self.lose(left, None, now);
            self.queue.clear();
            self.bytes = 0;
        }
    }

    /// For the end of who is spoken to.
    fn wait_until(&mut self, until: Instant) {
        while let Some((descriptor, _)) = self.link.source(false) {
            let left = until.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if !matches!(poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], left), Ok(1..)) {
                return;
            }
            if self.link.proceed(Instant::now()).is_err() {
                return;
            }
            self.listen();
        }
    }
}

fn form(receiver: &Receiver, config: &Config) -> Form {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    Form::of(receiver, config, host.unwrap_or_else(|| "-".to_owned()), std::process::id())
}
