//! Brings what was written to the disk, many writes at once, on a thread of its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two times, unless somebody waits.
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Syncer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Has something to read when a sync was done.
    pub(super) wake: UnixStream,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: UnixStream,
}

#[derive(Debug, Default)]
struct State {
    /// Written since, in this order.
    files: Vec<Arc<File>>,
    /// What was written reaches so far, and what is on the disk.
    written: u64,
    synced: u64,
    urgent: bool,
    busy: bool,
    end: bool,
    failed: Option<io::Error>,
}

impl Syncer {
    pub(super) fn start() -> io::Result<Syncer> {
        let (wake, theirs) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: theirs,
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("spool-sync".to_owned())
            .spawn(move || for_thread.run())?;
        Ok(Syncer {
            shared,
            thread: Some(thread),
            wake,
        })
    }

    /// Says that a file was written, and how far what was written reaches now.
    pub(super) fn wrote(&self, file: &Arc<File>, to: u64) {
        let mut state = self.shared.lock();
        if !state
            .files
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, file))
        {
            state.files.push(Arc::clone(file));
            self.shared.changed.notify_all();
        }
        state.written = to;
    }

    /// Has what was written brought to the disk at once.
    pub(super) fn urge(&self) {
        let mut state = self.shared.lock();
        if !state.files.is_empty() {
            state.urgent = true;
            self.shared.changed.notify_all();
        }
    }

    /// How far what is on the disk reaches. Errors: what the disk said; nothing more is brought there.
    pub(super) fn synced(&self) -> io::Result<u64> {
        self.shared.lock().result()
    }

    /// Waits until all that was written is on the disk.
    pub(super) fn flush(&self) -> io::Result<u64> {
        let mut state = self.shared.lock();
        loop {
            let synced = state.result()?;
            if state.files.is_empty() && !state.busy {
                return Ok(synced);
            }
            state.urgent = true;
            self.shared.changed.notify_all();
            state = self.shared.wait(state, PAUSE);
        }
    }

    /// Waits until something was brought to the disk, or for so long.
    pub(super) fn pause(&self, limit: Duration) {
        let state = self.shared.lock();
        if !state.files.is_empty() || state.busy {
            drop(self.shared.wait(state, limit));
        }
    }

    /// Counts from `from` on, for other files than before; those must be on the disk.
    pub(super) fn reset(&self, from: u64) -> io::Result<()> {
        self.flush()?;
        let mut state = self.shared.lock();
        (state.written, state.synced) = (from, from);
        Ok(())
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.lock().end = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn result(&self) -> io::Result<u64> {
        match &self.failed {
            Some(error) => Err(match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            None => Ok(self.synced),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, limit);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn run(&self) {
        let mut next = Instant::now();
        let mut state = self.lock();
        loop {
            if state.failed.is_some() || (state.files.is_empty() && state.end) {
                return;
            }
            let left = next.saturating_duration_since(Instant::now());
            if state.files.is_empty() {
                state.urgent = false;
                state = self.wait(state, Duration::from_secs(3600));
                continue;
            }
            if !state.urgent && !state.end && !left.is_zero() {
                state = self.wait(state, left);
                continue;
            }
            let files = std::mem::take(&mut state.files);
            let to = state.written;
            state.urgent = false;
            state.busy = true;
            drop(state);
            let result = files.iter().try_for_each(|file| file.sync_data());
            state = self.lock();
            state.busy = false;
            match result {
                Ok(()) => state.synced = to,
                Err(error) => state.failed = Some(error),
            }
            next = Instant::now() + PAUSE;
            self.changed.notify_all();
            let _ = (&self.wake).write(&[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_synced_soon_and_at_once() {
        let syncer = Syncer::start().expect("a thread");
        let file = Arc::new(tempfile::tempfile().expect("a file"));
        assert_eq!(syncer.synced().expect("it"), 0);
        syncer.reset(100).expect("nothing to wait for");
        syncer.wrote(&file, 110);
        let end = Instant::now() + Duration::from_secs(10);
        while syncer.synced().expect("it") != 110 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(syncer.synced().expect("it"), 110);
        let begun = Instant::now();
        for to in 111..131 {
            syncer.wrote(&file, to);
            assert_eq!(syncer.flush().expect("it"), to);
        }
        assert!(begun.elapsed() < PAUSE * 19, "each at once");
        syncer.wrote(&file, 140);
        syncer.urge();
        syncer.reset(7).expect("it");
        assert_eq!(syncer.synced().expect("it"), 7);
    }

    #[test]
    fn a_disk_that_fails_is_told() {
        let syncer = Syncer::start().expect("a thread");
        let (a, _b) = UnixStream::pair().expect("a pair");
        // A socket cannot be synced.
        let file = Arc::new(File::from(std::os::fd::OwnedFd::from(a)));
        syncer.wrote(&file, 5);
        assert!(syncer.flush().is_err());
        assert!(syncer.synced().is_err());
        syncer.wrote(&file, 6);
        assert!(syncer.flush().is_err());
    }
}
