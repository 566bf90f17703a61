//! The connection to a source: a buffer that is filled, words that are sent without waiting.

use std::io::{self, IoSlice, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::error::{Error, ErrorKind};
use crate::resp::write::append_command;
use crate::server::connection::Connection;

/// So much is read at once at most.
const BUFFER: usize = 1 << 20;

/// A line of the handshake is no longer.
const LINE_BYTES: usize = 64 << 10;

/// Words that wait for a source that does not read; more are not added.
const WAITING: usize = 16 << 10;

/// Stopping is looked for this often.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Why a link is not gone on with.
#[derive(Debug)]
pub(super) enum Stop {
    /// It broke, or what came is not what was expected: another connection may do.
    Lost(Error),
    /// The source cannot serve us now, in its words.
    Later(String),
    /// Nothing helps.
    Fatal(Error),
    /// The run was asked to stop.
    Asked,
}

#[derive(Debug)]
pub(super) struct Wire {
    connection: Connection,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
    /// When a byte came last.
    pub(super) heard: Instant,
}

impl Wire {
    pub(super) fn new(connection: Connection) -> Wire {
        Wire {
            connection,
            buffer: vec![0; BUFFER],
            start: 0,
            end: 0,
            out: Vec::new(),
            heard: Instant::now(),
        }
    }

    /// What was read and not taken.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Takes the first bytes.
    pub(super) fn take(&mut self, n: usize) {
        self.start += n;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Waits until there is something to read, or `wake` has something, and reads what is there. Whether anything was.
    pub(super) fn fill(
        &mut self,
        wake: Option<&UnixStream>,
        timeout: Duration,
    ) -> Result<bool, Stop> {
        self.flush()?;
        if self.read()? {
            return Ok(true);
        }
        let mut flags = PollFlags::IN;
        if !self.out.is_empty() || self.connection.wants_write() {
            flags |= PollFlags::OUT;
        }
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let socket = self.connection.fd();
        let mut fds = vec![PollFd::from_borrowed_fd(socket, flags)];
        fds.extend(wake.map(|wake| PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)));
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => {}
            Err(error) if error == rustix::io::Errno::INTR => {}
            Err(error) => return Err(self.lost(&format!("it cannot be waited for: {error}"))),
        }
        drop(fds);
        if let Some(mut wake) = wake {
            // Nonblocking; what it says is only that something happened.
            while matches!(wake.read(&mut [0; 64]), Ok(64)) {}
        }
        self.flush()?;
        self.read()
    }

    /// Reads until nothing is there or the buffer is full.
    fn read(&mut self) -> Result<bool, Stop> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let before = self.end;
        while self.end < self.buffer.len() {
            match self.connection.read(&mut self.buffer[self.end..]) {
                // What came before the end counts; the end comes again.
                Ok(0) if self.end > before => break,
                Ok(0) => return Err(self.lost("the source closed the connection")),
                Ok(n) => self.end += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) if self.end > before => break,
                Err(error) => return Err(self.lost(&format!("the connection broke: {error}"))),
            }
        }
        let came = self.end > before;
        if came {
            self.heard = Instant::now();
        }
        Ok(came)
    }

    /// Sends a command, as soon as the source takes it.
    pub(super) fn send(&mut self, args: &[&[u8]]) -> Result<(), Stop> {
        if self.out.len() < WAITING {
            append_command(&mut self.out, args);
        }
        self.flush()
    }

    /// Sends a line end: a sign of life that stands for nothing.
    pub(super) fn send_newline(&mut self) -> Result<(), Stop> {
        if self.out.is_empty() {
            self.out.push(b'\n');
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), Stop> {
        let mut sent = 0;
        let result = loop {
            let step = match sent < self.out.len() {
                true => self.connection.write(&[IoSlice::new(&self.out[sent..])]),
                false => break self.connection.flush().map(drop),
            };
            match step {
                Ok(n) => sent += n,
                Err(error) => break Err(error),
            }
        };
        self.out.drain(..sent);
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            // What the source said before it closed can still be read.
            Err(_) if self.end > self.start => Ok(()),
            Err(error) => Err(self.lost(&format!("the connection broke: {error}"))),
            Ok(()) => Ok(()),
        }
    }

    /// The next line that is not empty, without its line end. Waits while the source gives signs of life, at most
    /// `patience` after the last one. Nothing is sent meanwhile: a source that waits for more replicas before it begins a
    /// snapshot (repl-diskless-sync-delay) counts from the last byte that it got.
    pub(super) fn line(&mut self, patience: Duration, stop: &AtomicBool) -> Result<Vec<u8>, Stop> {
        self.heard = Instant::now();
        loop {
            let blank = |b: &&u8| matches!(b, b'\r' | b'\n');
            let skip = self.bytes().iter().take_while(blank).count();
            self.take(skip);
            let bytes = self.bytes();
            if let Some(end) = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_BYTES)]) {
                let line = &bytes[..end];
                let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
                self.take(end + 1);
                return Ok(line);
            }
            if bytes.len() >= LINE_BYTES {
                return Err(self.lost("what it answers is no line"));
            }
            if stop.load(Ordering::Relaxed) {
                return Err(Stop::Asked);
            }
            if self.heard.elapsed() > patience {
                return Err(self.silent(patience));
            }
            self.fill(None, LOOK)?;
        }
    }

    /// So many bytes, and the line end behind them: an answer of which the length was read.
    pub(super) fn bulk(
        &mut self,
        len: usize,
        patience: Duration,
        stop: &AtomicBool,
    ) -> Result<Vec<u8>, Stop> {
        if len + 2 > self.buffer.len() {
            return Err(self.lost("its answer is too long"));
        }
        while self.bytes().len() < len + 2 {
            if stop.load(Ordering::Relaxed) {
                return Err(Stop::Asked);
            }
            if self.heard.elapsed() > patience {
                return Err(self.silent(patience));
            }
            self.fill(None, LOOK)?;
        }
        let answer = self.bytes()[..len].to_vec();
        self.take(len + 2);
        Ok(answer)
    }

    /// An error of this link.
    pub(super) fn lost(&self, why: &str) -> Stop {
        Stop::Lost(Error::unreachable(self.connection.name(), why))
    }

    /// Nothing came for so long.
    pub(super) fn silent(&self, patience: Duration) -> Stop {
        self.lost(&format!(
            "nothing came from it for {} s",
            patience.as_secs_f64()
        ))
    }

    /// A login that was refused.
    pub(super) fn login(&self, why: String) -> Stop {
        Stop::Fatal(Error::plain(ErrorKind::Login {
            server: self.connection.name().to_owned(),
            why,
        }))
    }

    /// The source's name.
    pub(super) fn name(&self) -> &str {
        self.connection.name()
    }
}
