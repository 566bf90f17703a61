//! The inputs of a run, one after the other into one output; where they go on from an earlier run, and where they are
//! followed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use jiff::Timestamp;
use redis_migration::aof::checkpoint::{
    Checkpoint, HEAD_MAX, Head, LogPlace, OutputFile, OutputPlace, escape, keep, kept,
};
use redis_migration::aof::convert::{Conversion, Rest};
use redis_migration::aof::follow::{Follower, Step, torn_inside};
use redis_migration::aof::manifest::Manifest;
use redis_migration::aof::read::{Reader, Tail, TailKind, Until};
use redis_migration::aof::set::{Piece, Role, Set, end_of_snapshot, is_gone, resume};
use redis_migration::aof::watch::Watch;
use redis_migration::command::encode::{Form, Settings};
use redis_migration::command::rewrite::Keep;
use redis_migration::input::{Kind, OpenOptions, Source, directory_of, name_of};
use redis_migration::pipeline::{Options, Progress, Stream};
use redis_migration::replay::{self, Start};
use redis_migration::replica::spool::is_segment;
use redis_migration::resp::write::Block;
use redis_migration::sink::Sink;
use redis_migration::sink::file::FileSink;
use redis_migration::sink::server::{Place, ServerSink};
use redis_migration::tally::Tally;
use redis_migration::{Error, ErrorKind, Result};

use crate::args::{InputArgs, LogArgs};
use crate::outcome::Exit;
use crate::rejects::Rejects;
use crate::summary::{InputSummary, Log, Summary};
use crate::values::{Limit, LogTime};

/// When a run is to end, it waits so long for the answers of what is on its way.
const DRAIN_FOR: Duration = Duration::from_secs(10);

/// Behind a live source expiries nearer than this stay held back, in milliseconds: a command that renews one may be on
/// its way, and a destination may stall for a while.
pub const NEAR_MS: i64 = 60_000;

/// A live source that has changed nothing for so long is quiet: its expiries are written as they are.
const QUIET: Duration = Duration::from_secs(3);

/// While a log is followed, its checkpoint is written this often.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(500);

/// Inputs that were opened and looked at, before anything is written.
pub struct Inputs {
    sets: Vec<Set>,
    /// Whether there are commands that may depend on what expires.
    pub holds: bool,
}

/// Where the commands go.
pub enum Output<'a> {
    /// Into a file or a pipe; with what a checkpoint tells of an earlier run.
    File(FileSink, Option<Box<Checkpoint>>),
    Server(Box<Server<'a>>),
}

/// A destination, and what is remembered of the way there.
pub struct Server<'a> {
    pub sink: ServerSink<'a>,
    pub keeper: Arc<Mutex<replay::Keeper>>,
    /// What an earlier run left that did not come to its end, or came to it in a log.
    pub resumed: Option<replay::Checkpoint>,
    /// Whether keys of a snapshot that the earlier run may have sent are ours to replace.
    pub ours: bool,
    /// Through a proxy: keys that lead to each of the servers behind it.
    pub representatives: Vec<Vec<u8>>,
    /// Told at the begin and the end of a snapshot and of a log, as the original does.
    pub tell: Option<Box<dyn FnMut(&'static str, bool) + Send + 'a>>,
    /// What a live source adds.
    pub live: Option<Live<'a>>,
    /// Files begun so far.
    pieces: u32,
}

/// Writes commands of its own.
pub type Writes<'a> = dyn FnMut(&mut dyn Sink, &mut Stream) -> Result<()> + Send + 'a;

/// Tells what a live run is to do.
pub type Wishes<'a> = dyn FnMut(&AtRest) -> Result<Wish> + Send + 'a;

/// What a run does beyond others whose log is still being received from a live source.
pub struct Live<'a> {
    /// The run that sent the source's snapshot before this one.
    pub earlier: Option<String>,
    /// Called before the first key of the snapshot is sent.
    pub before: Box<Writes<'a>>,
    /// Called when the snapshot is acknowledged, before anything of the log is sent.
    pub between: Box<Writes<'a>>,
    /// Called when what that sent is acknowledged too.
    pub reconciled: Box<dyn FnMut() -> Result<()> + Send + 'a>,
    /// Whether what the source does would be heard.
    pub is_heard: Box<dyn Fn() -> bool + Send + 'a>,
    /// Called when the log has no more for now: what is to be done.
    pub at_rest: Box<Wishes<'a>>,
}

/// How a run stands that has sent all there is for now.
pub struct AtRest {
    /// How far all is acknowledged.
    pub place: Place,
    /// The number of the incremental file that this is in.
    pub seq: Option<u64>,
    /// Whether expiries are still held back from before it had caught up for the first time.
    pub catching_up: bool,
    /// Whether nothing is on its way.
    pub idle: bool,
    /// How often an answer of the destination was late or lost so far.
    pub troubles: u64,
}

/// Where commands are written that were sent before.
struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _blocks: &[Block]) -> Result<()> {
        Ok(())
    }
}

/// What a live run is to do when it has sent all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Wait for more.
    Wait,
    /// End: all that was asked is done.
    End,
    /// End because of a signal.
    Stop,
}

/// Whether a live source is being written to.
struct Quiet {
    /// When it has last changed something.
    since: Instant,
    /// Changes until then.
    changes: u64,
    /// Whether what was held back since has its true time.
    settled: bool,
    /// Changes there were when the run was asked to stop.
    asked: Option<u64>,
}

impl Quiet {
    fn new() -> Quiet {
        Quiet {
            since: Instant::now(),
            changes: 0,
            settled: false,
            asked: None,
        }
    }

    /// Takes note of how many changes there were, and gives whether it has become quiet. Of a source that is not heard
    /// nothing is known.
    fn look(&mut self, changes: u64, heard: bool) -> bool {
        if changes != self.changes || !heard {
            (self.since, self.changes, self.settled) = (Instant::now(), changes, false);
        }
        !self.settled && self.since.elapsed() > QUIET
    }

    /// Whether it has changed nothing since the run was asked to stop, which is first now.
    fn is_silent(&mut self) -> bool {
        *self.asked.get_or_insert(self.changes) == self.changes
    }
}

impl<'a> Server<'a> {
    pub fn new(
        sink: ServerSink<'a>,
        keeper: Arc<Mutex<replay::Keeper>>,
        resumed: Option<replay::Checkpoint>,
        ours: bool,
        representatives: Vec<Vec<u8>>,
    ) -> Server<'a> {
        Server {
            sink,
            keeper,
            resumed,
            ours,
            representatives,
            tell: None,
            live: None,
            pieces: 0,
        }
    }

    fn keeper(&self) -> std::sync::MutexGuard<'_, replay::Keeper> {
        self.keeper
            .lock()
            .expect("nothing panics while it holds it")
    }

    fn tell(&mut self, what: &'static str, ended: bool) {
        if let Some(tell) = &mut self.tell {
            tell(what, ended);
        }
    }

    /// Takes note of the next file; one that an earlier run had begun has to be the same.
    fn begin(&mut self, file: replay::Piece) -> Result<u32> {
        let number = self.pieces;
        self.pieces += 1;
        let known = self
            .resumed
            .as_ref()
            .and_then(|resumed| resumed.pieces.get(number as usize));
        if let Some(known) = known
            && !known.is(&file)
        {
            return Err(Error::plain(ErrorKind::LogGone(format!(
                "the file {} is not the {} of the run that is to go on: to start over, remove the checkpoint and empty the \
                 destination",
                file.file.file, known.file.file
            ))));
        }
        let mut keeper = self.keeper();
        // Those behind it stay: an earlier run has begun them.
        match keeper.checkpoint.pieces.get_mut(number as usize) {
            Some(known) => *known = file,
            None => keeper.checkpoint.pieces.push(file),
        }
        drop(keeper);
        Ok(number)
    }

    /// From which byte of a snapshot on keys are sent, and up to where they are replaced in any case.
    fn from(&self, number: u32) -> (u64, u64) {
        let Some(resumed) = &self.resumed else {
            return (0, 0);
        };
        match resumed.place {
            Some(at) if at.piece > number => (u64::MAX, 0),
            Some(at) if at.piece == number && !at.in_log => {
                (at.offset, if self.ours { resumed.sent } else { 0 })
            }
            Some(_) => (0, 0),
            None => (
                0,
                if self.ours && number == 0 {
                    resumed.sent
                } else {
                    0
                },
            ),
        }
    }
}

impl Output<'_> {
    fn sink(&mut self) -> &mut dyn Sink {
        match self {
            Output::File(sink, _) => sink,
            Output::Server(server) => &mut server.sink,
        }
    }
}

/// Which inputs a run reads, and how.
#[derive(Clone, Copy)]
pub struct JobArgs<'a> {
    pub input: &'a InputArgs,
    pub logs: &'a LogArgs,
    /// The output file, where there is one.
    pub output: Option<&'a Path>,
    pub hide_keys: bool,
}

impl Inputs {
    /// Opens them all, so that a name that is mistyped is found before hours of work on the inputs before it.
    ///
    /// Errors come with the input's name.
    pub fn open(
        input: &InputArgs,
        logs: &LogArgs,
        progress: &Progress,
        log: Log,
    ) -> std::result::Result<Inputs, (String, Error)> {
        let options = OpenOptions {
            no_mmap: input.no_mmap,
        };
        let mut sets = Vec::new();
        for path in &input.inputs {
            let named = |error| (name_of(path), error);
            if logs.follow {
                wait_for(path, progress, log).map_err(named)?;
            }
            let set = Set::open(path, &options, &progress.stop).map_err(named)?;
            if logs.follow && set.pieces.iter().any(|piece| piece.source.is_lines) {
                return Err(named(Error::plain(ErrorKind::OtherKind(
                    "JSON lines, which are read once and cannot be followed; leave out --follow",
                ))));
            }
            let manifest = set.manifest.as_deref().unwrap_or(path);
            for name in &set.foreign {
                // Segments of a live migration stand beside each other: of earlier snapshots, and of other sources.
                if is_segment(&directory_of(manifest).join(name)) {
                    continue;
                }
                log.warning(&format!(
                    "{} is not listed in {}: left out",
                    name.display(),
                    manifest.display()
                ));
            }
            sets.push(set);
        }
        let is_log = |piece: &Piece| match (piece.source.kind, piece.role) {
            (Kind::Log, _) => true,
            (Kind::Snapshot, Role::Alone) => piece.preface().is_preamble,
            _ => false,
        };
        let holds = logs.follow || sets.iter().flat_map(|set| &set.pieces).any(is_log);
        Ok(Inputs { sets, holds })
    }

    /// Whether a checkpoint tells of these files, whole.
    pub fn are_those_of(&self, known: &replay::Checkpoint) -> bool {
        let pieces: Vec<&Piece> = self.sets.iter().flat_map(|set| &set.pieces).collect();
        pieces.len() == known.pieces.len()
            && pieces.iter().zip(&known.pieces).all(|(piece, known)| {
                let source = &piece.source;
                let Ok(input) = source.snapshot(true) else {
                    return false;
                };
                replay_piece(&source.name, &source.file, Some(&input.data))
                    .is_ok_and(|file| known.is(&file))
            })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let pieces = self.sets.iter().flat_map(|set| &set.pieces);
        pieces.map(|piece| piece.source.file_bytes).sum()
    }
}

/// Waits until an input is there, and a directory has its manifest.
fn wait_for(path: &Path, progress: &Progress, log: Log) -> Result<()> {
    let there = || match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => match Manifest::find(path).and_then(|m| Manifest::read(&m)) {
            Err(error) => !is_gone(&error) && !matches!(error.kind(), ErrorKind::NoManifest { .. }),
            Ok(_) => true,
        },
        // An empty file may become anything; what it is shows with its first byte.
        Ok(meta) => meta.len() > 0 || !meta.is_file(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    };
    if there() {
        return Ok(());
    }
    log.info(&format!("waiting for {}", path.display()));
    let mut watch = Watch::new();
    while !there() {
        progress.check_stop()?;
        watch.follow(if path.is_dir() {
            path
        } else {
            directory_of(path)
        });
        watch.wait(Duration::from_millis(50));
    }
    Ok(())
}

/// A run over all inputs.
pub struct Job<'a> {
    args: JobArgs<'a>,
    settings: &'a Settings,
    options: Options,
    log: Log,
    progress: &'a Progress,
    conversion: Conversion<'a>,
    output: Output<'a>,
    rejects: Arc<Mutex<Rejects>>,
    /// What was done with each file.
    inputs: Vec<InputSummary>,
    /// What ended the run early.
    failed: Option<Error>,
    /// Whether a log ended within a command.
    torn: bool,
    /// As [`Ended::settled`].
    settled: bool,
    until: Option<Until>,
    timed: bool,
    /// How far the log was read.
    place: Option<LogPlace>,
    /// Where the incremental files are.
    log_dir: Option<PathBuf>,
    /// The place in the one that is kept for the next run.
    kept: Option<LogPlace>,
    /// Whether `place` tells of everything that the output holds.
    whole: bool,
    /// Whether the checkpoint tells that this run is under way.
    begun: bool,
    /// Commands and bytes of the runs before.
    before: (u64, u64),
    saved: Instant,
    saved_place: Option<LogPlace>,
}

/// What is left of a run for its ending.
pub struct Ended<'a> {
    pub summary: Summary,
    pub output: Output<'a>,
    pub failed: Option<Error>,
    /// Whether it was stopped where its live source was quiet, and everything had its true expiry.
    pub settled: bool,
}

/// How the files of the inputs are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    On,
    Stop,
}

impl<'a> Job<'a> {
    pub fn new(
        args: JobArgs<'a>,
        settings: &'a Settings,
        options: Options,
        log: Log,
        progress: &'a Progress,
        output: Output<'a>,
        rejects: Arc<Mutex<Rejects>>,
    ) -> Job<'a> {
        let until = args.logs.until.map(|limit| match limit {
            Limit::Offset(offset) => Until::Offset(offset),
            Limit::Time(time) => Until::TimeMs(time.0),
        });
        Job {
            args,
            settings,
            options,
            log,
            progress,
            conversion: Conversion::new(settings, Stream::default()),
            output,
            rejects,
            inputs: Vec::new(),
            failed: None,
            torn: false,
            settled: false,
            until,
            timed: false,
            place: None,
            log_dir: None,
            kept: None,
            whole: true,
            begun: false,
            before: (0, 0),
            saved: Instant::now(),
            saved_place: None,
        }
    }

    /// Goes through all inputs. What failed is kept in `failed`, for the ending.
    pub fn run(&mut self, inputs: Inputs) {
        if let Err(error) = self.all(inputs) {
            self.failed.get_or_insert(error);
        }
        // What was written is made true in any case, where it can be.
        if !self.failed.as_ref().is_some_and(cannot_write)
            && (!self.stopped() || self.args.logs.follow)
            && !matches!(&self.output, Output::Server(_) if self.stopped())
        {
            self.settle(Keep::None(None));
        }
        if let Output::Server(_) = self.output {
            self.end_of_server();
            return;
        }
        // Where the output holds more than the place tells, the next run takes that back by the checkpoint that is there.
        if self.args.logs.follow && self.begun && self.whole {
            self.save(false);
        }
    }

    fn stopped(&self) -> bool {
        self.failed
            .as_ref()
            .is_some_and(|error| matches!(error.kind(), ErrorKind::Stopped))
    }

    /// Brings the output into its place, if all is well, and gives what the ending has to tell.
    pub fn end(mut self) -> Ended<'a> {
        let output = match (&mut self.output, self.args.output) {
            (Output::File(sink, _), path) => {
                let output = match (path, &self.failed, sink.partial()) {
                    (_, Some(_), Some(partial)) => partial.display().to_string(),
                    (Some(path), ..) => path.display().to_string(),
                    (None, ..) => "stdout".to_owned(),
                };
                if self.failed.is_none() {
                    self.failed = sink.finish().err();
                    if self.failed.is_none() && !self.args.logs.follow {
                        self.save(false);
                    }
                }
                output
            }
            (Output::Server(server), _) => server.sink.destination(),
        };
        if let (Some(error), Some(input)) = (&self.failed, self.inputs.last_mut()) {
            input.error = Some(error.describe(self.args.hide_keys));
        }
        Ended {
            summary: Summary {
                inputs: self.inputs,
                bytes_out: self.progress.bytes_out.load(Ordering::Relaxed),
                seconds: 0.0,
                output,
                lines: self.settings.form == Form::JsonLines,
                torn: self.torn,
                sent: None,
                live: None,
                exit: Exit::Done,
            },
            output: self.output,
            failed: self.failed,
            settled: self.settled,
        }
    }

    fn all(&mut self, inputs: Inputs) -> Result<()> {
        let Inputs { sets, .. } = inputs;
        let start = match &self.output {
            Output::Server(server) => server.resumed.as_ref().and_then(|r| r.start.clone()),
            Output::File(..) => None,
        };
        let goes_on = start.is_some() || matches!(&self.output, Output::File(_, Some(_)));
        self.check_single_db(&sets, goes_on)?;
        let count = sets.len();
        for (i, set) in sets.into_iter().enumerate() {
            let last_set = i + 1 == count;
            if start.is_some() && !last_set {
                // What it goes on with is the log behind them.
                continue;
            }
            if last_set
                && let Output::Server(server) = &mut self.output
                && let Some(live) = &mut server.live
            {
                (live.between)(&mut server.sink, &mut self.conversion.stream)?;
                server.sink.drain()?;
                (live.reconciled)()?;
            }
            if self.set(set, last_set)? == Go::Stop {
                break;
            }
        }
        if matches!(self.until, Some(Until::TimeMs(_))) && !self.timed {
            return Err(Error::plain(ErrorKind::NoTimes));
        }
        Ok(())
    }

    fn set(&mut self, set: Set, last_set: bool) -> Result<Go> {
        let manifest = set.manifest.clone();
        self.log_dir = manifest
            .as_deref()
            .map(|path| directory_of(path).to_owned());
        let mut pieces = set.pieces;
        let mut from = None;
        let mut base = None;
        self.note_expiries(&pieces)?;
        let known = match &self.output {
            Output::File(_, checkpoint) => checkpoint.clone(),
            Output::Server(server) => {
                let resumed = server.resumed.as_ref();
                let start = resumed.and_then(|resumed| resumed.start.as_ref());
                if let (Some(start), Some(path)) = (start, &self.args.logs.checkpoint) {
                    base = Some(start.base);
                    pieces = resume(pieces, manifest.as_deref(), &start.log, &kept(path))?;
                    from = Some(start.log.clone());
                }
                // What a live source gave is removed by nobody else.
                let log_dir = self.log_dir.clone().filter(|_| server.live.is_none());
                server.keeper().log_dir = log_dir;
                None
            }
        };
        if let (Some(checkpoint), Some(path)) = (&known, &self.args.logs.checkpoint) {
            self.before = (checkpoint.commands, checkpoint.output.bytes);
            self.take_back(checkpoint)?;
            if let Some(place) = &checkpoint.log {
                pieces = resume(pieces, manifest.as_deref(), place, &kept(path))?;
                self.place = Some(place.clone());
                self.kept = Some(place.clone());
                // A new file, a new server behind a pipe, or a file that another program appended to has something else
                // selected, or nothing.
                let known = checkpoint.output.file.as_ref();
                let now = match &self.output {
                    Output::File(sink, _) => sink_place(sink)?,
                    Output::Server(_) => None,
                };
                let goes_on = now.is_some_and(|now| {
                    now.bytes > 0
                        && known.is_some_and(|known| {
                            (known.dev, known.inode, known.bytes) == (now.dev, now.inode, now.bytes)
                        })
                });
                self.conversion.stream.db = checkpoint.output.db.filter(|_| goes_on);
                from = Some(place.clone());
            }
        }
        let goes_on = |piece: &Piece| match (piece.role, piece.source.kind) {
            (Role::Incr { .. }, _) => true,
            (Role::Base, _) => false,
            (Role::Alone, Kind::Snapshot) => piece.preface().is_preamble,
            (Role::Alone, _) => true,
        };
        let logs = &self.args.logs;
        let needs_log = match &self.output {
            Output::File(..) => logs.checkpoint.is_some() || logs.follow,
            // A load of a snapshot can be gone on with, too.
            Output::Server(_) => logs.follow && last_set,
        };
        if needs_log && !pieces.iter().any(goes_on) {
            return Err(Error::plain(ErrorKind::OtherKind(
                "a snapshot alone, or a base without incremental files: there is nothing to go on with; leave out \
                 --checkpoint and --follow",
            )));
        }
        if self.args.logs.checkpoint.is_some() {
            // From here on the output holds what no checkpoint tells of.
            if matches!(&self.output, Output::File(sink, _) if sink.partial().is_none()) {
                self.save(true);
            }
        }
        let count = pieces.len();
        for (i, piece) in pieces.into_iter().enumerate() {
            let last = last_set && i + 1 == count;
            let from = from.take().filter(|_| i == 0);
            let base = base.take().filter(|_| i == 0);
            if self.piece(piece, last, from, base, manifest.as_deref())? == Go::Stop {
                return Ok(Go::Stop);
            }
        }
        Ok(Go::On)
    }

    /// Goes on behind a live source: what was sent last may have expiries that are still to get their true times, and who
    /// knew them is gone.
    fn note_expiries(&mut self, pieces: &[Piece]) -> Result<()> {
        let Output::Server(server) = &self.output else {
            return Ok(());
        };
        let start = server.resumed.as_ref().and_then(|r| r.start.clone());
        let (Some(Start { log: place, .. }), true) = (start, server.live.is_some()) else {
            return Ok(());
        };
        for piece in pieces {
            let until = match (piece.role, place.seq) {
                (Role::Incr { seq, .. }, Some(here)) if seq + 1 == here => None,
                (Role::Incr { seq, .. }, Some(here)) if seq == here => {
                    Some(Until::Offset(place.offset))
                }
                _ => continue,
            };
            let source = &piece.source;
            let failed = |e| Error::io(format!("{} cannot be opened twice", source.name), e);
            let file = source.file.try_clone().map_err(failed)?;
            let mut reader = Reader::new(file, &source.name, 0, false, until);
            self.conversion.begin_file(0, None);
            let unseen = Progress::default();
            let (_, rest) =
                self.conversion
                    .log(&mut reader, &mut Nowhere, &mut |_| Ok(()), &unseen);
            if let Rest::Failed(error) = rest {
                return Err(error);
            }
        }
        self.conversion.stream.db = None;
        Ok(())
    }

    /// Takes back what a run that was killed wrote behind its checkpoint.
    fn take_back(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let Output::File(sink, _) = &mut self.output else {
            return Ok(());
        };
        if !checkpoint.open || sink.partial().is_some() {
            return Ok(());
        }
        let Some(known) = &checkpoint.output.file else {
            self.log.warning(
                "the last run did not end in order, and its output was no file: what it wrote behind its last \
                 checkpoint is written again",
            );
            return Ok(());
        };
        let refuse = |why: String| {
            Error::plain(ErrorKind::LogGone(format!(
                "the last run did not end in order, and {why}"
            )))
        };
        match sink_place(sink)? {
            Some(now) if (now.dev, now.inode) == (known.dev, known.inode) => {
                if now.bytes < known.bytes {
                    return Err(refuse(format!(
                        "its output has {} bytes of the {} that the checkpoint tells of; append with >>, or give the \
                         output back",
                        now.bytes, known.bytes
                    )));
                }
                if now.bytes > known.bytes {
                    self.log.warning(&format!(
                        "the last run did not end in order: {} bytes behind its last checkpoint are taken back from the \
                         output and written again",
                        HumanCount(now.bytes - known.bytes)
                    ));
                    sink.cut(known.bytes).map_err(|e| {
                        Error::io("the output cannot be cut back".to_owned(), e)
                    })?;
                }
                Ok(())
            }
            _ => Err(refuse(
                "its output was another file: what that holds behind the last checkpoint cannot be taken back. Append to \
                 the same file"
                    .to_owned(),
            )),
        }
    }

    /// Refuses logs with several databases before the first byte is written, for destinations that have one.
    fn check_single_db(&mut self, sets: &[Set], goes_on: bool) -> Result<()> {
        if !self.settings.target.dialect.single_db() || goes_on {
            return Ok(());
        }
        for piece in sets.iter().flat_map(|set| &set.pieces) {
            let from = match piece.source.kind {
                Kind::Log => 0,
                Kind::Snapshot => match end_of_snapshot(&piece.source.snapshot(true)?.data) {
                    Some(end) => end,
                    None => continue,
                },
                _ => continue,
            };
            let mut reader = self.reader(&piece.source, from, false)?;
            self.conversion
                .check_log(&mut reader, self.progress)
                .inspect_err(|_| self.summarize(&piece.source.name, 0))?;
        }
        Ok(())
    }

    fn summarize(&mut self, name: &str, bytes: u64) {
        self.inputs.push(InputSummary::new(name.to_owned(), bytes));
    }

    fn reader(&self, source: &Source, from: u64, last: bool) -> Result<Reader> {
        let file = source
            .file
            .try_clone()
            .map_err(|e| Error::io(format!("{} cannot be opened twice", source.name), e))?;
        // An offset is one of the last file.
        let until = self
            .until
            .filter(|until| last || matches!(until, Until::TimeMs(_)));
        let lenient = self.args.logs.reading.lenient;
        Ok(Reader::new(file, &source.name, from, lenient, until))
    }

    /// The time that relative expiries count from where a log does not tell.
    fn clock(&self, file: &File) -> Option<i64> {
        match self.args.logs.reading.log_time? {
            LogTime::At(moment) => Some(moment.0),
            LogTime::Mtime => {
                let meta = file.metadata().ok()?;
                Some(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000)
            }
        }
    }

    fn piece(
        &mut self,
        piece: Piece,
        last: bool,
        from: Option<LogPlace>,
        base: Option<u64>,
        manifest: Option<&Path>,
    ) -> Result<Go> {
        let source = &piece.source;
        self.summarize(&source.name, source.file_bytes);
        let mut start = 0;
        match source.kind {
            Kind::Log => {}
            Kind::Empty => match (piece.role, &source.path) {
                (Role::Alone, path)
                    if !self.args.logs.follow
                        && self.args.logs.checkpoint.is_none()
                        && !is_named_aof(path.as_deref()) =>
                {
                    return Err(Error::new(
                        ErrorKind::OtherKind(
                            "empty: neither a snapshot nor commands (an empty append-only file is taken as such where its name ends in .aof)",
                        ),
                        redis_migration::cursor::At::file(0),
                    ));
                }
                _ => {}
            },
            // Whatever stands in an incremental file, commands were meant.
            Kind::Unknown if matches!(piece.role, Role::Incr { .. }) => {}
            _ if from.is_some() => {}
            _ => match self.snapshot(&piece, last)? {
                Some(end) => start = end,
                None => return Ok(Go::On),
            },
        }
        let db = from.as_ref().map_or(0, |place| place.db);
        self.conversion.begin_file(db, self.clock(&source.file));
        if let Some(place) = &from {
            start = place.offset;
            self.conversion.set_time(place.time_ms);
        }
        let mut reader = self.reader(source, start, last)?;
        let seq = match piece.role {
            Role::Incr { seq, .. } => Some(seq),
            Role::Alone | Role::Base => None,
        };
        self.begin_log(&reader, seq, start, base)?;
        let left = reader
            .file()
            .metadata()
            .map_or(0, |meta| meta.len().saturating_sub(start));
        self.progress.total.fetch_add(left, Ordering::Relaxed);
        let grows = piece.role != Role::Base;
        if last && grows && self.args.logs.follow {
            return self.follow(source.path.as_deref(), reader, seq, manifest);
        }
        let rest = self.commands(&mut reader)?;
        self.reach(&reader, seq, &rest)?;
        match rest {
            Rest::Until => Ok(Go::Stop),
            Rest::Failed(error) => Err(error),
            Rest::Dry(tail) if tail.kind == TailKind::Clean => Ok(Go::On),
            Rest::Dry(tail) => {
                let last_of_set =
                    !matches!(piece.role, Role::Base | Role::Incr { last: false, .. });
                self.unfinished(tail, last_of_set)?;
                Ok(Go::On)
            }
        }
    }

    /// Writes a snapshot; gives where commands follow it in the same file, if they do.
    fn snapshot(&mut self, piece: &Piece, last: bool) -> Result<Option<u64>> {
        let preface = piece.preface();
        let alone = piece.role == Role::Alone;
        let is_part = !alone || preface.is_preamble;
        let input = piece.source.snapshot(is_part)?;
        if let (Some(Until::TimeMs(until)), Some(written)) = (self.until, preface.written_ms)
            && is_part
            && written > until + 999
        {
            return Err(Error::plain(ErrorKind::BaseTooNew));
        }
        self.whole = false;
        let mut options = self.options.clone();
        if let Output::Server(server) = &mut self.output {
            let failed = |e| Error::io(format!("{} cannot be read", piece.source.name), e);
            let file = replay_piece(&piece.source.name, &piece.source.file, Some(&input.data))
                .map_err(failed)?;
            let number = server.begin(file)?;
            (options.from, options.replace_before) = server.from(number);
            server.tell("RDB", false);
            server.sink.begin_snapshot(number)?;
            if let Some(live) = server.live.as_mut().filter(|_| options.from == 0) {
                (live.before)(&mut server.sink, &mut self.conversion.stream)?;
                server.sink.drain()?;
                if let Some(run) = live.earlier.take() {
                    server.sink.forget_run(&run, &server.representatives)?;
                }
            }
            if options.from > 0 {
                self.log.info(&format!(
                    "{}: what stands before byte {:#x} is acknowledged already",
                    piece.source.name,
                    options.from.min(input.data.len() as u64)
                ));
            }
        }
        let rejects = &self.rejects;
        let mut report = self.conversion.snapshot(
            &input,
            &options,
            self.output.sink(),
            &mut |reject| lock(rejects).add(reject),
            self.progress,
        );
        if let (Output::Server(server), None) = (&mut self.output, &report.error) {
            report.error = server.sink.drain().err();
            server.tell("RDB", true);
        }
        let error = report.error.take();
        let end = report.info.end.filter(|_| report.info.commands_follow);
        // Where a log ends with its snapshot so far, it goes on there.
        let end = end.or_else(|| {
            let more = preface.is_preamble && alone && report.info.trailing == 0;
            let wanted = self.args.logs.follow || self.args.logs.checkpoint.is_some();
            report.info.end.filter(|_| last && more && wanted)
        });
        if end.is_some() {
            report.info.trailing = 0;
        }
        self.inputs.last_mut().expect("it was begun").report = report;
        match error {
            Some(error) => Err(error),
            None => Ok(end),
        }
    }

    /// Writes what a log has, and counts it.
    fn commands(&mut self, reader: &mut Reader) -> Result<Rest> {
        let rejects = &self.rejects;
        let (tally, rest) = self.conversion.log(
            reader,
            self.output.sink(),
            &mut |reject| lock(rejects).add(reject),
            self.progress,
        );
        let mut rest = rest;
        if let (Output::Server(server), Rest::Dry(_) | Rest::Until) = (&mut self.output, &rest) {
            let conversion = &self.conversion;
            server
                .sink
                .reached_in_log(conversion.taken(), conversion.db(), conversion.time_ms());
            if let Err(error) = server.sink.drain() {
                rest = Rest::Failed(error);
            }
        }
        let summary = self.inputs.last_mut().expect("it was begun");
        summary.report.tally.add(&tally);
        summary.is_log = true;
        Ok(rest)
    }

    /// A log that ends within a command or a transaction.
    fn unfinished(&mut self, tail: Tail, last_of_set: bool) -> Result<()> {
        if !last_of_set {
            return Err(torn_inside(tail));
        }
        let Some((what, more)) = torn_off(tail.kind) else {
            return Ok(());
        };
        if self.args.logs.reading.strict {
            let keeps = tail.whole;
            return Err(Error::new(
                ErrorKind::TornLog { what, keeps },
                redis_migration::cursor::At::file(tail.whole),
            ));
        }
        let name = &self.inputs.last().expect("it was begun").name;
        if self.args.logs.checkpoint.is_some() {
            let text = torn_text(name, tail, (what, &more));
            self.log.info(&format!("{text}: left to the next run"));
        } else {
            self.log.failure(&left_out(name, tail));
            self.torn = true;
        }
        Ok(())
    }

    /// Writes the true times of what was held back.
    fn settle(&mut self, keep: Keep) {
        if let Output::Server(server) = &mut self.output
            && let Err(error) = server.sink.begin_settling()
        {
            self.failed.get_or_insert(error);
            return;
        }
        let (tally, result) = self
            .conversion
            .settle(keep, self.output.sink(), self.progress);
        let result = match &mut self.output {
            Output::Server(server) => result.and_then(|()| server.sink.drain()),
            Output::File(..) => result,
        };
        if tally != Tally::default() {
            if self.inputs.is_empty() {
                self.summarize("", 0);
            }
            let summary = self.inputs.last_mut().expect("it was seen to");
            summary.report.tally.add(&tally);
        }
        if let Err(error) = result {
            self.whole = false;
            self.failed.get_or_insert(error);
        }
    }

    /// Goes on with the last file of a log, and with those that come to be behind it.
    fn follow(
        &mut self,
        path: Option<&Path>,
        reader: Reader,
        seq: Option<u64>,
        manifest: Option<&Path>,
    ) -> Result<Go> {
        let Some(path) = manifest.or(path) else {
            return Err(Error::plain(ErrorKind::OtherKind(
                "stdin, which cannot be followed; name the file",
            )));
        };
        let mut follower = Follower::new(path, seq, reader, self.until)?;
        let mut quiet = Quiet::new();
        loop {
            let rest = self.commands(follower.reader())?;
            let summary = self.inputs.last_mut().expect("it was begun");
            summary.bytes = follower.reader().read_to();
            let seq = follower.seq();
            self.reach(follower.reader(), seq, &rest)?;
            match rest {
                Rest::Until => return Ok(Go::Stop),
                Rest::Failed(error) => return Err(error),
                Rest::Dry(tail) => {
                    let waits = match &self.output {
                        Output::File(..) => self.conversion.holds(),
                        Output::Server(server) => server.keeper().holds,
                    };
                    if waits && follower.is_last() {
                        // What comes from now on comes in time. That of a live source may have been renewed there already.
                        self.settle(match &self.output {
                            Output::Server(server) if server.live.is_some() => Keep::Near(NEAR_MS),
                            _ => Keep::None(None),
                        });
                        self.log
                            .info(&format!("{}: caught up", self.current_name()));
                        self.go_on_from_here(follower.reader())?;
                        self.save(true);
                    }
                    if self.failed.is_some() {
                        return Ok(Go::Stop);
                    }
                    let step = follower.step(tail)?;
                    match step {
                        Step::Again => {}
                        Step::NextFile { afresh } => {
                            let seq = follower.seq();
                            let reader = follower.reader();
                            let name = reader.name().to_owned();
                            self.log.info(&format!("goes on in {name}"));
                            let db = if afresh { 0 } else { self.conversion.db() };
                            self.conversion.begin_file(db, self.clock(reader.file()));
                            let offset = reader.offset();
                            self.summarize(&name, 0);
                            self.begin_log(follower.reader(), seq, offset, None)?;
                            let reader = follower.reader();
                            self.place = Some(self.place_in(reader, seq, reader.offset())?);
                            self.save(true);
                        }
                        Step::Wait => {
                            // What is at rest is not brought to disk again.
                            let moved = self.place != self.saved_place;
                            if moved && self.saved.elapsed() >= CHECKPOINT_EVERY {
                                self.save(true);
                            }
                            self.progress.check_stop()?;
                            if let Output::Server(server) = &mut self.output {
                                server.sink.tick()?;
                            }
                            match self.at_rest(&mut quiet, follower.reader())? {
                                Wish::Wait => follower.wait()?,
                                Wish::End => return Ok(Go::Stop),
                                Wish::Stop => {
                                    self.settled = quiet.settled;
                                    return Err(Error::plain(ErrorKind::Stopped));
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// What a live run does where it has sent all there is.
    fn at_rest(&mut self, quiet: &mut Quiet, reader: &Reader) -> Result<Wish> {
        let Output::Server(server) = &mut self.output else {
            return Ok(Wish::Wait);
        };
        let Some(live) = &server.live else {
            return Ok(Wish::Wait);
        };
        let heard = (live.is_heard)();
        let catching_up = server.keeper().holds;
        if quiet.look(self.conversion.changes(), heard) && !catching_up {
            // Nobody writes there any more: what is near now has its own time.
            quiet.settled = true;
            self.settle_here(Keep::None(Some(NEAR_MS)), reader)?;
        }
        let Output::Server(server) = &mut self.output else {
            return Ok(Wish::Wait);
        };
        let place = server.sink.acknowledged();
        let (imports, seq) = {
            let checkpoint = &server.keeper().checkpoint;
            let piece = checkpoint.pieces.get(place.piece as usize);
            (checkpoint.imports, piece.and_then(|piece| piece.file.seq))
        };
        let counts = &server.sink.counts;
        let rest = AtRest {
            troubles: counts.reconnected + counts.again + counts.later,
            place,
            seq,
            catching_up,
            idle: server.sink.is_idle(),
        };
        let wish = match &mut server.live {
            Some(live) => (live.at_rest)(&rest)?,
            None => Wish::Wait,
        };
        if wish != Wish::Stop || quiet.settled || !(imports || self.conversion.has_held()) {
            return Ok(wish);
        }
        // A true expiry is for a destination that gets no more of a source: a command that renews it may wait for the
        // next run. Whether there will be one shows where the source is silent for a while.
        if heard && quiet.is_silent() {
            return Ok(Wish::Wait);
        }
        if imports {
            // What is there already waits for its time as long as the mode is on.
            return Ok(Wish::Stop);
        }
        let why = match heard {
            true => "the source is written to",
            false => "the source is not there, and may be written to",
        };
        self.log.warning(&format!(
            "{why}: expiries nearer than a minute stay as they were written, a minute ahead. Go on within that minute with \
             the same command, or end with --until caught-up, which writes true ones"
        ));
        Ok(Wish::Stop)
    }

    /// Writes the true times of what was held back in the middle of a log. What was written has no place of its own in
    /// it, so that what comes behind is counted anew.
    fn settle_here(&mut self, keep: Keep, reader: &Reader) -> Result<()> {
        self.settle(keep);
        self.go_on_from_here(reader)
    }

    /// Begins a log at the destination.
    fn begin_log(
        &mut self,
        reader: &Reader,
        seq: Option<u64>,
        offset: u64,
        base: Option<u64>,
    ) -> Result<()> {
        let Output::Server(server) = &mut self.output else {
            return Ok(());
        };
        let failed = |e| Error::io(format!("{} cannot be read", reader.name()), e);
        let mut file = replay_piece(reader.name(), reader.file(), None).map_err(failed)?;
        file.file.seq = seq;
        let number = server.begin(file)?;
        server.keeper().log = Some((number, reader.file().try_clone().map_err(failed)?));
        server.tell("AOF", false);
        server
            .sink
            .begin_log(number, offset, self.conversion.db(), base)
    }

    /// Nothing is held back any more: from now on the run can be gone on with in the middle of the log.
    fn go_on_from_here(&mut self, reader: &Reader) -> Result<()> {
        let Output::Server(server) = &mut self.output else {
            return Ok(());
        };
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        server.keeper().holds = false;
        let number = server.pieces - 1;
        server
            .sink
            .begin_log(number, reader.offset(), self.conversion.db(), None)
    }

    /// Waits for what is on its way, and leaves the checkpoint as the next run needs it.
    fn end_of_server(&mut self) {
        let follow = self.args.logs.follow;
        let stopped = self.stopped();
        let Output::Server(server) = &mut self.output else {
            return;
        };
        if let Some(error) = &self.failed {
            // What stands before a fault of the input is whole and goes out.
            let input_failed = !stopped && !cannot_write(error);
            if !input_failed || server.sink.drain().is_err() {
                server.sink.stop(DRAIN_FOR);
            }
            let _ = server.sink.save_now();
            if self.args.logs.checkpoint.is_none()
                && !matches!(error.kind(), ErrorKind::PayloadVersion { .. })
            {
                server.sink.abandon(&server.representatives);
            }
            return;
        }
        let result = (|| {
            if !follow {
                server.keeper().holds = false;
            }
            let in_log = server.sink.acknowledged().in_log;
            if in_log && !follow {
                let (db, at) = (self.conversion.db(), self.conversion.taken());
                server.sink.begin_log(server.pieces - 1, at, db, None)?;
            }
            server.sink.finish(&server.representatives)?;
            server.tell("AOF", true);
            let mut keeper = server.keeper();
            keeper.checkpoint.done = true;
            keeper.save()
        })();
        if let Err(error) = result {
            server.sink.stop(DRAIN_FOR);
            self.failed = Some(error);
        }
    }

    fn current_name(&self) -> &str {
        self.inputs.last().map_or("", |input| &input.name)
    }

    /// Takes note of how far a log was read and written.
    fn reach(&mut self, reader: &Reader, seq: Option<u64>, rest: &Rest) -> Result<()> {
        self.timed |= reader.timed;
        // What failed to be written was read all the same.
        self.whole = !matches!(rest, Rest::Failed(error) if cannot_write(error));
        if self.whole {
            self.place = Some(self.place_in(reader, seq, self.conversion.taken())?);
        }
        Ok(())
    }

    /// The byte `offset` of a log, as a place to go on from.
    fn place_in(&mut self, reader: &Reader, seq: Option<u64>, offset: u64) -> Result<LogPlace> {
        let failed = |e| Error::io(format!("{} cannot be read", reader.name()), e);
        let meta = reader.file().metadata().map_err(failed)?;
        let known = self
            .place
            .as_ref()
            .filter(|place| place.inode == meta.ino() && place.head.len == HEAD_MAX);
        let head = match known {
            Some(place) => place.head.clone(),
            None => Head::of(reader.file(), offset).map_err(failed)?,
        };
        let name = Path::new(reader.name())
            .file_name()
            .unwrap_or(OsStr::new("-"));
        Ok(LogPlace {
            file: escape(name),
            seq,
            inode: meta.ino(),
            head,
            offset,
            tail: Some(Head::before(reader.file(), offset).map_err(failed)?),
            db: self.conversion.db(),
            time_ms: self.conversion.time_ms(),
        })
    }

    /// Writes the checkpoint, if one is kept; what it tells of the output is on disk before.
    fn save(&mut self, open: bool) {
        // A destination's own answers say how far it has come; its sink writes that down.
        let (Some(path), Output::File(sink, _)) = (&self.args.logs.checkpoint, &self.output) else {
            return;
        };
        // Expiries that are still held back would be lost with the run: until they are written it is told as not begun.
        if open && self.conversion.holds() && self.begun {
            return;
        }
        self.begun = true;
        let place = self.place.clone();
        if let (Some(place), Some(dir)) = (&place, &self.log_dir) {
            self.kept = keep(path, dir, place, self.kept.take());
        }
        let result = sink.sync().and_then(|()| {
            let file = sink_place(sink)?.map(|place| OutputFile {
                path: self.args.output.map(|p| escape(p.as_os_str())),
                dev: place.dev,
                inode: place.inode,
                bytes: place.bytes,
            });
            let commands: u64 = self.inputs.iter().map(|i| i.report.tally.commands).sum();
            Checkpoint {
                program: Checkpoint::PROGRAM.to_owned(),
                format: Checkpoint::FORMAT,
                input: escape(self.args.input.inputs[0].as_os_str()),
                log: place,
                output: OutputPlace {
                    file,
                    db: self.conversion.stream.db,
                    bytes: self.before.1 + self.progress.bytes_out.load(Ordering::Relaxed),
                },
                commands: self.before.0 + commands,
                open,
                written_at: Timestamp::now(),
            }
            .save(path)
        });
        self.saved = Instant::now();
        self.saved_place.clone_from(&self.place);
        if let Err(error) = result {
            self.failed.get_or_insert(error);
        }
    }
}

/// Whether nothing more can be written, so that nothing can be made true that was written.
fn cannot_write(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Io { .. }
            | ErrorKind::Unreachable { .. }
            | ErrorKind::Login { .. }
            | ErrorKind::Unfit(_)
            | ErrorKind::Exists { .. }
            | ErrorKind::PayloadVersion { .. }
            | ErrorKind::Lost { .. }
            | ErrorKind::Refused { .. }
    )
}

/// What a log ends within, if it does, and how much of it is there.
fn torn_off(kind: TailKind) -> Option<(&'static str, String)> {
    match kind {
        TailKind::Clean => None,
        TailKind::Command => Some(("a command", " that is not whole".to_owned())),
        TailKind::Transaction { commands } => Some((
            "a transaction without its EXEC",
            format!(" ({} whole commands in it)", HumanCount(commands)),
        )),
    }
}

fn torn_text(name: &str, tail: Tail, (what, more): (&str, &str)) -> String {
    format!(
        "{name}: the last {} bytes, from byte {:#x} on, are {what}{more}",
        HumanCount(tail.len - tail.whole),
        tail.whole
    )
}

/// That the end of a log was left out.
pub fn left_out(name: &str, tail: Tail) -> String {
    let (what, more) = torn_off(tail.kind).unwrap_or(("nothing", String::new()));
    format!(
        "{}: left out, as servers do when they load it. The first {} bytes were taken.",
        torn_text(name, tail, (what, &more)),
        HumanCount(tail.whole)
    )
}

/// The rejects, which who reads and who sends both add to.
pub fn lock(rejects: &Mutex<Rejects>) -> std::sync::MutexGuard<'_, Rejects> {
    rejects.lock().expect("nothing panics while it holds them")
}

fn sink_place(sink: &FileSink) -> Result<Option<redis_migration::sink::file::Place>> {
    sink.place()
        .map_err(|e| Error::io("the output cannot be looked at".to_owned(), e))
}

/// A file, so that it is known again.
fn replay_piece(
    name: &str,
    file: &File,
    snapshot: Option<&[u8]>,
) -> std::io::Result<replay::Piece> {
    let meta = file.metadata()?;
    let name = Path::new(name).file_name().unwrap_or(OsStr::new("-"));
    Ok(replay::Piece {
        file: LogPlace {
            file: escape(name),
            seq: None,
            inode: meta.ino(),
            head: Head::of(file, HEAD_MAX)?,
            offset: 0,
            tail: None,
            db: 0,
            time_ms: None,
        },
        snapshot: snapshot.map(|data| {
            let end = &data[data.len().saturating_sub(8)..];
            let digits = end.iter().map(|byte| format!("{byte:02x}")).collect();
            (data.len() as u64, digits)
        }),
    })
}

/// Nothing on stdin is more likely to be the fault of what should have written there.
fn is_named_aof(path: Option<&Path>) -> bool {
    path.is_some_and(|path| {
        path.extension()
            .is_some_and(|ext| ext.eq_ignore_ascii_case("aof"))
    })
}
