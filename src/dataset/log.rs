//! The commands of a log one by one, in the order in which they count.

use std::sync::atomic::Ordering::Relaxed;

use crate::aof::read::{Event, Reader, Tail, inside};
use crate::error::Result;
use crate::pipeline::Progress;
use crate::resp::parse::{Command, Record, time_of};

/// What is done with them.
pub(super) trait Take {
    /// A command, with the offset of its first byte.
    fn command(&mut self, offset: u64, command: &Command<'_>) -> Result<()>;

    /// The time of what follows, in Unix milliseconds.
    fn time(&mut self, ms: i64);

    /// A transaction begins.
    fn transaction(&mut self);
}

/// Gives all that is whole; transactions without their end count for nothing. Returns how the log ends.
pub(super) fn each(reader: &mut Reader, progress: &Progress, take: &mut impl Take) -> Result<Tail> {
    let lenient = reader.lenient();
    let mut before = reader.offset();
    loop {
        progress.check_stop()?;
        match reader.next(|_, _| false)? {
            Event::Command { offset, command } => take.command(offset, &command)?,
            Event::Transaction {
                offset,
                raw,
                discarded,
                ..
            } => {
                take.transaction();
                if !discarded {
                    transaction(offset, raw, lenient, take)?;
                }
            }
            Event::Time(ms) => take.time(ms),
            Event::Stray => {}
            Event::Dry | Event::Until => return Ok(reader.tail()),
            Event::Plain { .. } => unreachable!("no command was to go with others, unseen"),
        }
        let now = reader.offset();
        progress.done.fetch_add(now - before, Relaxed);
        before = now;
    }
}

fn transaction(mut offset: u64, raw: &[u8], lenient: bool, take: &mut impl Take) -> Result<()> {
    for record in inside(raw, lenient) {
        match record {
            Record::Command(command) => {
                let is = |name: &[u8]| command.name().eq_ignore_ascii_case(name);
                if !is(b"MULTI") && !is(b"EXEC") {
                    take.command(offset, &command)?;
                }
                offset += command.raw.len() as u64;
            }
            Record::Annotation(line) => {
                if let Some(ms) = time_of(line) {
                    take.time(ms);
                }
                offset += line.len() as u64;
            }
        }
    }
    Ok(())
}
