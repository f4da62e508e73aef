//! Waiting for many descriptors at once (epoll(7)).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a descriptor was registered under.
pub type Token = u64;

/// Descriptors and the tokens they report.
pub struct Poller {
    epoll: Epoll,
    next: Token,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?, next: 0 })
    }

    /// A token that was never used, so that a report of a descriptor that was closed meanwhile is nobody's.
    pub fn token(&mut self) -> Token {
        self.next += 1;
        self.next
    }

    /// Reports as long as there is something to read.
    pub fn add_readable(&self, descriptor: impl AsFd, token: Token) -> io::Result<()> {
        Ok(self.epoll.add(descriptor, EpollEvent::new(EpollFlags::EPOLLIN, token))?)
    }

    /// Reports each time that it becomes readable or writable, once.
    pub fn add_edges(&self, descriptor: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        Ok(self.epoll.add(descriptor, EpollEvent::new(flags, token))?)
    }

    /// The tokens of what is ready; none when the time is over.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let milliseconds = timeout.map(|timeout| u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX));
        let timeout = milliseconds.map_or(EpollTimeout::NONE, EpollTimeout::from);
        let mut events = [EpollEvent::empty(); 256];
        match self.epoll.wait(&mut events, timeout) {
            Ok(count) => Ok(events[..count].iter().map(EpollEvent::data).collect()),
            Err(nix::Error::EINTR) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }
}
