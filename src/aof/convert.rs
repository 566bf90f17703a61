//! A log → commands for a destination, unit by unit.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

use super::read::{Event, Reader, Tail, inside};
use crate::command::encode::{Form, OnError, Settings};
use crate::command::rewrite::{Keep, Rewriter};
use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Verdict;
use crate::input::Input;
use crate::pipeline::{self, Options, Progress, Report, Stream};
use crate::rdb::expiry::for_each_expiry;
use crate::rdb::{Format, type_name};
use crate::resp::parse::{Command, Record};
use crate::resp::write::{Block, Blocks, Out};
use crate::sink::Sink;
use crate::sink::jsonl::JsonLines;
use crate::tally::{Reject, Tally};

/// Takes what could not be written.
pub type Rejected<'a> = dyn FnMut(&Reject) -> Result<()> + Send + 'a;

/// Where the reading of a log came to rest.
#[derive(Debug)]
pub enum Rest {
    /// There is no more for now.
    Dry(Tail),
    /// It reached the place or the time at which it was to stop.
    Until,
    /// It failed; what stands before was written.
    Failed(Error),
}

/// Writes snapshots and logs into one stream of commands, one after the other, as a server would load them.
pub struct Conversion<'s> {
    settings: &'s Settings,
    /// Which database the destination has selected.
    pub stream: Stream,
    rewriter: Rewriter<'s>,
    taken: u64,
    /// Whether commands of a log were written.
    wrote_commands: bool,
    /// Whether the snapshots written so far are Valkey's.
    is_valkey: Option<bool>,
}

impl<'s> Conversion<'s> {
    /// A stream that begins empty, or where `stream` says.
    ///
    /// With `transform.hold_until_ms`, which a log needs, [`settle`](Self::settle) belongs to the end.
    pub fn new(settings: &'s Settings, stream: Stream) -> Conversion<'s> {
        Conversion {
            settings,
            stream,
            rewriter: Rewriter::new(settings),
            taken: 0,
            wrote_commands: false,
            is_valkey: None,
        }
    }

    /// Writes a snapshot.
    pub fn snapshot(
        &mut self,
        input: &Input,
        options: &Options,
        sink: &mut dyn Sink,
        reject: &mut Rejected<'_>,
        progress: &Progress,
    ) -> Report {
        if let Err(error) = self.fits_behind(input) {
            return Report {
                error: Some(error),
                ..Report::default()
            };
        }
        let mut report = pipeline::convert(
            input,
            self.settings,
            options,
            &mut self.stream,
            sink,
            reject,
            progress,
        );
        if self.settings.transform.hold_until_ms.is_some()
            && let Err(error) = self.hold_expiries_of(input, progress)
        {
            report.error.get_or_insert(error);
        }
        report
    }

    /// JSON lines are read as one snapshot with a log behind it, so what could not be read again is not written.
    fn fits_behind(&mut self, input: &Input) -> Result<()> {
        if self.settings.form == Form::Commands {
            return Ok(());
        }
        if self.wrote_commands {
            return Err(Error::unfit(
                "JSON lines hold keys before commands: bring a snapshot that follows a log into a file of its own",
            ));
        }
        // What cannot be parsed is told by who reads it.
        let Ok(format) = Format::parse(&mut Cursor::new(&input.data, 0), true) else {
            return Ok(());
        };
        if *self.is_valkey.get_or_insert(format.valkey) != format.valkey {
            return Err(Error::unfit(
                "JSON lines are of one kind of server: bring snapshots whose magic is VALKEY, and those whose magic is \
                 REDIS, into files of their own",
            ));
        }
        Ok(())
    }

    /// Remembers the true times of what the encoder wrote as held.
    fn hold_expiries_of(&mut self, input: &Input, progress: &Progress) -> Result<()> {
        let (filter, transform) = (&self.settings.filter, &self.settings.transform);
        let rewriter = &mut self.rewriter;
        for_each_expiry(&input.data, |one| {
            progress.check_stop()?;
            let Some(at) = transform.true_expiry(Some(one.at_ms)) else {
                return Ok(());
            };
            if transform.held(at).is_none() {
                return Ok(());
            }
            let expire_at_ms = one.record.attributes.expire_at_ms;
            let verdict = filter.verdict(
                one.db,
                one.key,
                expire_at_ms,
                || type_name(one.record.ty, one.value),
                || one.value_bytes,
            );
            if verdict == Verdict::Pass {
                rewriter.hold_key(one.db, one.key, one.field, at)?;
            }
            Ok(())
        })
    }

    /// Begins another file of a log, in database `db`: 0 at its start. `clock_ms` is the time in Unix milliseconds that
    /// relative expiries count from until the log tells its own.
    pub fn begin_file(&mut self, db: u64, clock_ms: Option<i64>) {
        self.rewriter.db = db;
        self.rewriter.time_ms = None;
        self.rewriter.clock_ms = clock_ms;
    }

    /// Goes on in a file whose last `#TS:` told this time.
    pub fn set_time(&mut self, time_ms: Option<i64>) {
        self.rewriter.time_ms = time_ms;
    }

    /// The database that the log has selected.
    pub fn db(&self) -> u64 {
        self.rewriter.db
    }

    /// The time that the log told last, in Unix milliseconds.
    pub fn time_ms(&self) -> Option<i64> {
        self.rewriter.time_ms
    }

    /// Offset behind the last unit of the log that was written: a later run goes on there. A unit that was refused is
    /// not behind it.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether expiries are held back at present.
    pub fn holds(&self) -> bool {
        self.rewriter.holds()
    }

    /// Whether there are any that were held back and have not their true times yet.
    pub fn has_held(&self) -> bool {
        self.rewriter.has_held()
    }

    /// Writes what there is of a log, as far as it is whole. Returns what was counted, and why it ended.
    pub fn log(
        &mut self,
        reader: &mut Reader,
        sink: &mut dyn Sink,
        reject: &mut Rejected<'_>,
        progress: &Progress,
    ) -> (Tally, Rest) {
        if self.settings.form == Form::Commands {
            return self.commands(reader, sink, reject, progress, true);
        }
        self.wrote_commands = true;
        // Each time begins with the database that it is in.
        self.stream.db = None;
        let mut lines = JsonLines::new(sink, progress);
        let (mut tally, rest) = self.commands(reader, &mut lines, reject, progress, false);
        tally.commands = lines.count;
        match lines.flush() {
            Ok(()) => (tally, rest),
            Err(error) => (tally, Rest::Failed(error)),
        }
    }

    /// `counts`: whether the bytes of the commands are those that are written.
    fn commands(
        &mut self,
        reader: &mut Reader,
        sink: &mut dyn Sink,
        reject: &mut Rejected<'_>,
        progress: &Progress,
        counts: bool,
    ) -> (Tally, Rest) {
        std::thread::scope(|scope| {
            let mut blocks = Beside::new(scope, sink, progress, counts);
            let mut out = Out::new(BLOCK_BYTES, bytes::Bytes::new(), &mut blocks);
            let rest = self
                .units(reader, &mut out, reject, progress)
                .unwrap_or_else(Rest::Failed);
            let flushed = out.flush();
            let mut tally = std::mem::take(&mut self.rewriter.tally);
            tally.commands = out.commands;
            match flushed.and(blocks.finish()) {
                Ok(()) => (tally, rest),
                Err(error) => (tally, Rest::Failed(error)),
            }
        })
    }

    fn units(
        &mut self,
        reader: &mut Reader,
        out: &mut Out<'_>,
        reject: &mut Rejected<'_>,
        progress: &Progress,
    ) -> Result<Rest> {
        let lenient = reader.lenient();
        let goes_on = self.settings.on_error == OnError::Continue;
        let places = self.settings.log.places;
        // Whoever reads the lines up to a time needs to know it.
        let is_json = self.settings.form == Form::JsonLines;
        self.rewriter.roll();
        self.taken = reader.offset();
        loop {
            progress.check_stop()?;
            let rewriter = &mut self.rewriter;
            let selected = &mut self.stream.db;
            match reader.next(|name, argc| rewriter.passes(name, argc))? {
                Event::Plain { raw, commands } => {
                    if places {
                        out.place(self.taken, rewriter.db, rewriter.time_ms);
                    }
                    rewriter.pass(raw, commands, selected, out)?;
                    progress.commands.fetch_add(commands, Relaxed);
                }
                Event::Command { offset, command } => {
                    let db = rewriter.db;
                    let decision = rewriter.decide(&command, db);
                    if let Some(why) = decision.refusal() {
                        if !goes_on {
                            return Err(Rewriter::refused(&command, offset, db, why));
                        }
                        reject(&Rewriter::reject(&command, db, offset, why))?;
                    }
                    if places {
                        out.place(self.taken, db, rewriter.time_ms);
                    }
                    rewriter.write(&command, &decision, selected, out)?;
                    progress.commands.fetch_add(1, Relaxed);
                }
                Event::Transaction {
                    offset,
                    raw,
                    commands,
                    discarded,
                } => {
                    if places {
                        out.place(self.taken, rewriter.db, rewriter.time_ms);
                    }
                    let unit = Unit {
                        offset,
                        raw,
                        lenient,
                        discarded,
                    };
                    unit.write(self, out, reject, goes_on)?;
                    progress.commands.fetch_add(commands, Relaxed);
                }
                Event::Time(time_ms) => {
                    rewriter.time_ms = Some(time_ms);
                    rewriter.roll();
                    if is_json {
                        out.annotation(time_ms / 1000);
                    }
                }
                Event::Stray => {
                    rewriter.tally.log.read += 1;
                    rewriter.tally.log.filtered += 1;
                }
                Event::Until => return Ok(Rest::Until),
                Event::Dry => return Ok(Rest::Dry(reader.tail())),
            }
            let now = reader.offset();
            progress.done.fetch_add(now - self.taken, Relaxed);
            self.taken = now;
        }
    }

    /// Whether a log holds commands of a database that the destination does not have or, where a server is waiting for
    /// them, with names that it does not take; nothing is written.
    pub fn check_log(&mut self, reader: &mut Reader, progress: &Progress) -> Result<()> {
        if !self.settings.target.dialect.single_db() {
            return Ok(());
        }
        let lenient = reader.lenient();
        let names = self.settings.log.places && self.settings.on_error == OnError::Stop;
        let mut db = 0;
        loop {
            progress.check_stop()?;
            let rewriter = &self.rewriter;
            let mut look = |offset: u64, command: Command<'_>| {
                let decision = rewriter.decide(&command, db);
                db = decision.selects().unwrap_or(db);
                match decision.refusal() {
                    Some(why) if decision.is_too_long() && names => {
                        Err(Rewriter::refused(&command, offset, db, why))
                    }
                    Some(why) if decision.is_of_other_db() => {
                        Err(Error::plain(ErrorKind::Databases(format!(
                            "the log holds keys of database {db}, the first at byte {offset:#x}, and {why}"
                        ))))
                    }
                    _ => Ok(()),
                }
            };
            // What is broken is reported when it is written.
            match reader.next(|_, _| false) {
                Ok(Event::Command { offset, command }) => look(offset, command)?,
                Ok(Event::Transaction { offset, raw, .. }) => {
                    for record in inside(raw, lenient) {
                        if let Record::Command(command) = record {
                            look(offset, command)?;
                        }
                    }
                }
                Ok(Event::Dry | Event::Until) | Err(_) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// Commands written so far that did more than remove a key.
    pub fn changes(&self) -> u64 {
        self.rewriter.changes
    }

    /// Writes the true times of what was held back, but for those that `keep` says.
    pub fn settle(
        &mut self,
        keep: Keep,
        sink: &mut dyn Sink,
        progress: &Progress,
    ) -> (Tally, Result<()>) {
        std::thread::scope(|scope| {
            let mut blocks = Beside::new(scope, sink, progress, true);
            let mut out = Out::new(BLOCK_BYTES, bytes::Bytes::new(), &mut blocks);
            if self.settings.log.places {
                out.place(self.taken, self.rewriter.db, self.rewriter.time_ms);
            }
            let result = self
                .rewriter
                .settle(keep, &mut self.stream.db, &mut out)
                .and_then(|()| out.flush());
            let mut tally = std::mem::take(&mut self.rewriter.tally);
            tally.commands = out.commands;
            (tally, result.and(blocks.finish()))
        })
    }
}

/// A transaction that was read whole.
struct Unit<'a> {
    offset: u64,
    raw: &'a [u8],
    lenient: bool,
    discarded: bool,
}

impl<'a> Unit<'a> {
    /// Commands with their offsets, and the times between them; MULTI and EXEC are left out.
    fn records(&self) -> impl Iterator<Item = (u64, Record<'a>)> + use<'a> {
        let mut offset = self.offset;
        inside(self.raw, self.lenient)
            .map(move |record| {
                let at = offset;
                offset += match record {
                    Record::Command(command) => command.raw.len() as u64,
                    Record::Annotation(line) => line.len() as u64,
                };
                (at, record)
            })
            .filter(|(_, record)| match record {
                Record::Command(command) => {
                    let is = |name: &[u8]| command.name().eq_ignore_ascii_case(name);
                    !is(b"MULTI") && !is(b"EXEC") && !is(b"DISCARD")
                }
                Record::Annotation(_) => true,
            })
    }

    /// Writes all of it, or nothing where one of its commands cannot be written.
    fn write(
        &self,
        conversion: &mut Conversion<'_>,
        out: &mut Out<'_>,
        reject: &mut Rejected<'_>,
        goes_on: bool,
    ) -> Result<()> {
        let rewriter = &mut conversion.rewriter;
        let selected = &mut conversion.stream.db;
        let (dialect, form) = (conversion.settings.target.dialect, conversion.settings.form);
        rewriter.tally.log.transactions += 1;
        let (time_before, mut db) = (rewriter.time_ms, rewriter.db);
        let (mut writes, mut refused, mut first_db) = (0, false, None);
        for (offset, record) in self.records() {
            match record {
                Record::Annotation(line) => rewriter.hear(line),
                Record::Command(command) => {
                    let decision = rewriter.decide(&command, db);
                    db = decision.selects().unwrap_or(db);
                    if decision.is_written() {
                        writes += 1;
                        first_db.get_or_insert(db);
                    }
                    if let Some(why) = decision.refusal() {
                        if !goes_on {
                            return Err(Rewriter::refused(&command, offset, db, why));
                        }
                        refused = true;
                    }
                }
            }
        }
        rewriter.time_ms = time_before;
        let framed = writes > 0 && !refused && !self.discarded && !dialect.single_db();
        if framed {
            rewriter.select(
                first_db.map(|db| conversion.settings.transform.db(db)),
                selected,
                out,
            )?;
            out.command(&[b"MULTI"])?;
        }
        for (offset, record) in self.records() {
            let command = match record {
                Record::Annotation(line) => {
                    rewriter.hear(line);
                    if let (Form::JsonLines, Some(time_ms)) = (form, rewriter.time_ms) {
                        out.annotation(time_ms / 1000);
                    }
                    continue;
                }
                Record::Command(command) => command,
            };
            let db = rewriter.db;
            let decision = rewriter.decide(&command, db);
            if self.discarded {
                rewriter.drop_command(&decision, false);
            } else if refused && decision.selects().is_none() {
                let why = decision
                    .refusal()
                    .unwrap_or("another command of its transaction cannot be written");
                reject(&Rewriter::reject(&command, db, offset, why))?;
                rewriter.drop_command(&decision, true);
            } else {
                rewriter.write(&command, &decision, selected, out)?;
            }
        }
        if framed {
            out.command(&[b"EXEC"])?;
        }
        Ok(())
    }
}

/// Bytes that are written at once.
const BLOCK_BYTES: usize = 256 << 10;

/// Blocks on their way to the writer. With one of its own for each of them it seldom waits, nor does it keep more than
/// the cache holds.
const QUEUE_BLOCKS: usize = 4;

/// Blocks that another thread writes, in order, while the next ones are filled. The first one waits for a second: a log
/// that is followed brings few at a time, and those need no thread.
struct Beside<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    progress: &'scope Progress,
    counts: bool,
    first: Option<Block>,
    sink: Option<&'scope mut dyn Sink>,
    writer: Option<Writer<'scope>>,
}

struct Writer<'scope> {
    blocks: SyncSender<Block>,
    free: Receiver<Vec<u8>>,
    thread: ScopedJoinHandle<'scope, Result<()>>,
}

impl<'scope, 'env> Beside<'scope, 'env> {
    fn new(
        scope: &'scope Scope<'scope, 'env>,
        sink: &'scope mut dyn Sink,
        progress: &'scope Progress,
        counts: bool,
    ) -> Self {
        Beside {
            scope,
            progress,
            counts,
            first: None,
            sink: Some(sink),
            writer: None,
        }
    }

    /// Waits until all is written. Errors: what could not be.
    fn finish(mut self) -> Result<()> {
        if let (Some(block), Some(sink)) = (self.first.take(), self.sink.take()) {
            return write(&block, sink, self.progress, self.counts);
        }
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        drop(writer.blocks);
        match writer.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Blocks for Beside<'_, '_> {
    fn hand_on(&mut self, block: Block, _db: Option<u64>) -> Result<()> {
        let Some(first) = self.first.take() else {
            if self.writer.is_none() {
                self.first = Some(block);
                return Ok(());
            }
            return self.send(block);
        };
        if let Some(sink) = self.sink.take() {
            let (blocks, waiting) = sync_channel(QUEUE_BLOCKS);
            let (give_back, free) = channel();
            let (progress, counts) = (self.progress, self.counts);
            let thread = self.scope.spawn(move || {
                for block in waiting {
                    write(&block, sink, progress, counts)?;
                    if let Block::Owned { buffer, .. } = block {
                        // Nobody may want it any more.
                        let _ = give_back.send(buffer);
                    }
                }
                Ok(())
            });
            self.writer = Some(Writer {
                blocks,
                free,
                thread,
            });
        }
        self.send(first)?;
        self.send(block)
    }

    fn buffer(&mut self) -> Vec<u8> {
        let free = self.writer.as_ref().map(|writer| writer.free.try_recv());
        match free {
            Some(Ok(buffer)) => buffer,
            _ => vec![0; BLOCK_BYTES + BLOCK_BYTES / 4],
        }
    }
}

impl Beside<'_, '_> {
    fn send(&mut self, block: Block) -> Result<()> {
        match &self.writer {
            Some(writer) if writer.blocks.send(block).is_ok() => Ok(()),
            // It ended early, and says why.
            _ => self.join().and(Err(Error::plain(ErrorKind::Stopped))),
        }
    }
}

fn write(block: &Block, sink: &mut dyn Sink, progress: &Progress, counts: bool) -> Result<()> {
    sink.write(std::slice::from_ref(block))?;
    if counts {
        let len = block.bytes().len() as u64;
        progress.bytes_out.fetch_add(len, Relaxed);
    }
    Ok(())
}
