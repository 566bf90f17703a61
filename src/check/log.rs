//! A log: every command of it, as redis-check-aof reads them.

use std::sync::atomic::Ordering;

use crate::aof::read::{Event, Reader, Tail, inside};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Progress;
use crate::resp::parse::Record;

/// What was found out about a log.
#[derive(Debug)]
pub struct Log {
    /// Where it begins in its file: behind the snapshot, if there is one.
    pub from: u64,
    /// Bytes of its file.
    pub size: u64,
    /// Bytes up to the end of the last command outside transactions.
    pub ok_up_to: u64,
    /// The line in which that is, as redis-check-aof counts them.
    pub ok_up_to_line: u64,
    /// Commands, without MULTI and EXEC.
    pub commands: u64,
    /// Transactions.
    pub transactions: u64,
    /// Whether it has `#TS` lines at all, also behind the place up to which it was read.
    pub is_timed: bool,
    /// The first and the last time that it tells, in Unix milliseconds.
    pub times_ms: Option<(i64, i64)>,
    /// How it ends.
    pub ending: Ending,
}

/// How a log ends.
#[derive(Debug)]
pub enum Ending {
    /// Behind a command.
    Clean,
    /// Within a command or a transaction.
    Torn(Tail),
    /// It cannot be read any further.
    Broken(Error),
    /// It was read up to a time and no further.
    Until,
}

/// Reads a log to its end. Errors: what has nothing to do with the log's contents.
pub fn check(reader: &mut Reader, progress: &Progress) -> Result<Log> {
    let size = |reader: &Reader| {
        let meta = reader.file().metadata();
        meta.map(|meta| meta.len())
            .map_err(|e| Error::io(format!("{} cannot be read", reader.name()), e))
    };
    let mut log = Log {
        from: reader.offset(),
        size: size(reader)?,
        ok_up_to: reader.offset(),
        ok_up_to_line: 1,
        commands: 0,
        transactions: 0,
        is_timed: false,
        times_ms: None,
        ending: Ending::Clean,
    };
    progress
        .total
        .fetch_add(log.size.saturating_sub(log.from), Ordering::Relaxed);
    loop {
        progress.check_stop()?;
        // The reader passes over plain commands itself, and asks of each of them once.
        let mut lines = 0;
        let event = reader.next(|name, argc| {
            let plain = !is_mark(name);
            lines += if plain { lines_of(argc) } else { 0 };
            plain
        });
        log.ok_up_to_line += lines;
        match event {
            Ok(Event::Plain { commands, .. }) => log.commands += commands,
            Ok(Event::Command { command, .. }) => {
                log.commands += 1;
                log.ok_up_to_line += lines_of(command.shape.argc);
            }
            Ok(Event::Transaction { raw, commands, .. }) => {
                log.commands += commands;
                log.transactions += 1;
                for record in inside(raw, false) {
                    match record {
                        Record::Command(command) => {
                            log.ok_up_to_line += lines_of(command.shape.argc);
                        }
                        Record::Annotation(line) => log.see_time(line),
                    }
                }
            }
            Ok(Event::Time(time_ms)) => log.see(time_ms),
            Ok(Event::Stray) => {}
            Ok(Event::Until) => {
                log.ending = Ending::Until;
                break;
            }
            Ok(Event::Dry) => {
                let tail = reader.tail();
                log.size = tail.len;
                if tail.whole < tail.len {
                    log.ending = Ending::Torn(tail);
                }
                break;
            }
            Err(error) => match error.kind() {
                ErrorKind::BadLog { .. } => {
                    log.ending = Ending::Broken(error);
                    break;
                }
                _ => return Err(error),
            },
        }
        let now = reader.offset();
        progress
            .done
            .fetch_add(now - log.ok_up_to, Ordering::Relaxed);
        progress.commands.store(log.commands, Ordering::Relaxed);
        log.ok_up_to = now;
    }
    log.ok_up_to = reader.offset();
    log.is_timed = reader.timed;
    Ok(log)
}

impl Log {
    fn see_time(&mut self, line: &[u8]) {
        if let Some(time_ms) = crate::resp::parse::time_of(line) {
            self.see(time_ms);
        }
    }

    fn see(&mut self, time_ms: i64) {
        let first = self.times_ms.map_or(time_ms, |(first, _)| first);
        self.times_ms = Some((first, time_ms));
    }

    /// What redis-check-aof prints of a log.
    pub fn analyzed(&self, name: &str) -> String {
        format!(
            "AOF analyzed: filename={name}, size={}, ok_up_to={}, ok_up_to_line={}, diff={}",
            self.size,
            self.ok_up_to,
            self.ok_up_to_line,
            self.size - self.ok_up_to
        )
    }
}

/// Commands that begin or end a transaction are no plain ones.
fn is_mark(name: &[u8]) -> bool {
    [&b"MULTI"[..], b"EXEC", b"DISCARD"]
        .iter()
        .any(|mark| name.eq_ignore_ascii_case(mark))
}

/// Lines of a command, as redis-check-aof counts them: of its head, and of the head and the end of each argument.
fn lines_of(argc: u64) -> u64 {
    1 + 2 * argc
}
