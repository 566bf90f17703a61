//! The data set that a log leaves: its commands are applied as a server does that loads it, without a server, and what
//! is left is a snapshot for everything else to read.
//!
//! ```text
//! log ─ first time ─→ touched: names that commands may change, as hashes
//! snapshot ─ walk ─→ those keys in memory ─┐
//! log ─ second time ─→ apply ──────────────┴─→ memory ─→ temporary snapshot
//! snapshot ─ all other records, as they stand ────────────────↗
//! ```
//!
//! Memory holds the values that the log touches and a hash for each of their names, whatever the snapshot's size. A log
//! without a snapshot before it makes all of its data set in memory: that much a server needs for it too.
//!
//! What it does as servers do when they load a log:
//!
//! - Nothing expires meanwhile. Expiries stay with their keys and fields, and whoever reads the snapshot has a clock.
//! - A command that a server refuses changes nothing; they are counted.
//! - A transaction without its end counts for nothing, and what is torn off at the very end is left out.
//!
//! What only the server knew that ran a command (scripts, SPOP, `XADD *`) ends the run with the command's name and place.

mod apply;
mod keyspace;
mod load;
mod log;
mod result;
mod save;
mod stream;
mod touched;
mod value;

use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;

use apply::{Rules, State};
use keyspace::{Entry, Swaps};
use log::Take;
use touched::Touched;
use value::Bytes;

use crate::aof::follow::torn_inside;
use crate::aof::read::{Reader, Tail, TailKind};
use crate::aof::set::{Piece, Role, Set, end_of_snapshot};
use crate::command::keys::for_each_key;
use crate::command::table::lookup;
use crate::cursor::At;
use crate::encoding::string::Scratch;
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName, Result};
use crate::filter::Filter;
use crate::input::{Input, Kind, name_of};
use crate::pipeline::Progress;
use crate::rdb::keys::{Keys, Met};
use crate::rdb::scan::{Along, Scanner, Task};
use crate::rdb::{Function, key_name, type_name};
use crate::resp::parse::Command;
use crate::value::Room;
use crate::walk::{self, Visitor, walk};

/// Why a command is not applied.
#[derive(Debug)]
enum Fail {
    /// A server refuses it.
    Refused,
    /// What it did cannot be told.
    Unknown(String),
}

impl Fail {
    #[cold]
    fn unknown(why: impl Into<String>) -> Fail {
        Fail::Unknown(why.into())
    }
}

type Done<T = ()> = std::result::Result<T, Fail>;

/// From when relative expiries count in a log that tells no times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// Nobody knows: a command that needs it ends the run.
    Unknown,
    /// A moment, in Unix milliseconds.
    At(i64),
    /// When its file was last written to.
    Modified,
}

/// How a data set is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How snapshots are gone through.
    pub walk: walk::Options,
    /// Whether commands are read as servers' loaders read them.
    pub lenient: bool,
    /// Whether a log that ends within a command or a transaction is an error.
    pub strict: bool,
    /// From when relative expiries count.
    pub clock: Clock,
    /// RDB version of the snapshot; `None` for the newest of the server family that wrote the input. An older one is for
    /// older servers, and the caller has to know that they hold all of it.
    pub version: Option<u16>,
    /// The largest string that is unpacked in memory, in bytes.
    pub unpack_limit: usize,
}

/// A data set.
#[derive(Debug)]
pub struct Dataset {
    /// It, as a snapshot.
    pub input: Input,
    /// How it came about.
    pub counts: Counts,
    /// Where the last log ends, if that is within a command or a transaction: what stands there was left out.
    pub torn: Option<Torn>,
}

/// How a data set came about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands of logs, those in transactions among them.
    pub commands: u64,
    /// Transactions.
    pub transactions: u64,
    /// Commands that a server refuses when it loads them.
    pub refused: u64,
    /// The first of these: its name, and the offset of its first byte.
    pub first_refused: Option<(String, u64)>,
    /// Keys that were in memory at the end.
    pub held: u64,
    /// Keys that went over from a snapshot as they stood.
    pub copied: u64,
    /// Data of modules that belongs to no key, which is left out.
    pub module_aux: u64,
}

/// A log that ends within something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Its file.
    pub name: String,
    /// Where, and within what.
    pub tail: Tail,
}

/// The data set that these inputs leave when they are loaded one after the other.
///
/// A snapshot alone is given back as it is. Errors: those of reading them; commands whose effect cannot be told; a
/// temporary file that cannot be written.
pub fn of(sets: &[Set], options: &Options, progress: &Progress) -> Result<Dataset> {
    let mut parts = Vec::new();
    for set in sets {
        for piece in &set.pieces {
            parts.push(Part::open(piece)?);
        }
    }
    if let [part] = &mut parts[..]
        && part.log_from.is_none()
        && let Some(input) = part.snapshot.take()
    {
        return Ok(Dataset {
            input,
            counts: Counts::default(),
            torn: None,
        });
    }
    let touched = touched(&parts, options, progress)?;
    let mut run = Run {
        state: State {
            unpack_limit: options.unpack_limit,
            ..State::default()
        },
        counts: Counts::default(),
        options,
        progress,
        touched,
        taken: Vec::new(),
    };
    let mut torn = None;
    for part in &parts {
        if let Some(input) = &part.snapshot {
            run.load(input)?;
        }
        if let Some(from) = part.log_from {
            torn = run.log(part, from)?;
        }
    }
    let name = match sets {
        [set, ..] => set.manifest.as_deref().map(name_of),
        [] => None,
    };
    let name = name.or_else(|| parts.first().map(|part| part.piece.source.name.clone()));
    let input = run.finish(&parts, &name.unwrap_or_default())?;
    Ok(Dataset {
        input,
        counts: run.counts,
        torn,
    })
}

/// A file of the input.
struct Part<'a> {
    piece: &'a Piece,
    snapshot: Option<Input>,
    /// Where its commands begin, if it may have some.
    log_from: Option<u64>,
}

impl Part<'_> {
    fn open(piece: &Piece) -> Result<Part<'_>> {
        let source = &piece.source;
        let mut part = Part {
            piece,
            snapshot: None,
            log_from: Some(0),
        };
        match source.kind {
            Kind::Log => {}
            Kind::Empty if piece.role == Role::Alone && !is_log_by_name(piece) => {
                return Err(Error::new(
                    ErrorKind::OtherKind(
                        "empty: neither a snapshot nor commands (an empty append-only file is taken as such where its name ends in .aof)",
                    ),
                    At::file(0),
                ));
            }
            Kind::Empty => {}
            // Whatever stands in an incremental file, commands were meant.
            Kind::Unknown if matches!(piece.role, Role::Incr { .. }) => {}
            Kind::Snapshot | Kind::Unknown | Kind::JsonLines | Kind::Manifest | Kind::Directory => {
                let is_part = piece.role != Role::Alone || piece.preface().is_preamble;
                let input = source.snapshot(is_part)?;
                part.log_from = end_of_snapshot(&input.data);
                part.snapshot = Some(input);
            }
        }
        Ok(part)
    }

    fn reader(&self, from: u64, lenient: bool) -> Result<Reader> {
        let source = &self.piece.source;
        let file = source
            .file
            .try_clone()
            .map_err(|e| Error::io(format!("{} cannot be opened twice", source.name), e))?;
        Ok(Reader::new(file, &source.name, from, lenient, None))
    }

    fn clock_ms(&self, clock: Clock) -> Option<i64> {
        match clock {
            Clock::Unknown => None,
            Clock::At(ms) => Some(ms),
            Clock::Modified => {
                let meta = self.piece.source.file.metadata().ok()?;
                Some(meta.mtime() * 1000 + meta.mtime_nsec() / 1_000_000)
            }
        }
    }
}

pub(crate) fn is_log_by_name(piece: &Piece) -> bool {
    let path = piece.source.path.as_deref();
    path.is_some_and(|path| path.extension().is_some_and(|ext| ext == "aof"))
}

/// Goes through the logs for the names that they touch.
fn touched(parts: &[Part<'_>], options: &Options, progress: &Progress) -> Result<Touched> {
    let mut touched = Touched::default();
    let snapshots = parts.iter().filter(|part| part.snapshot.is_some()).count();
    for part in parts {
        if let Some(input) = part.snapshot.as_ref().filter(|_| snapshots > 1) {
            see(input, options, progress, &mut touched)?;
        }
        let Some(from) = part.log_from.filter(|_| snapshots > 0) else {
            continue;
        };
        touched.begin_file();
        let mut reader = part.reader(from, options.lenient)?;
        log::each(&mut reader, progress, &mut touched)?;
    }
    touched.swaps = Swaps::default();
    Ok(touched)
}

/// Notes the names of a snapshot, where there are several.
fn see(input: &Input, options: &Options, progress: &Progress, touched: &mut Touched) -> Result<()> {
    let mut scanner = Scanner::new(&input.data, Along::Off, false, options.walk.lenient)?;
    let mut keys = Keys::new(&input.data, scanner.format(), options.unpack_limit);
    while let Some(task) = scanner.next_task()? {
        progress.check_stop()?;
        keys.for_each(&task, &Filter::default(), |met| {
            match met {
                Met::Key(seen) => {
                    let place = touched.swaps.place(seen.db);
                    touched.see(place, seen.name);
                }
                Met::Broken(error) | Met::BrokenAux(error) => return Err(error),
                Met::Function(_) | Met::Aux { .. } | Met::ModuleAux(_) => {}
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The making of a data set.
struct Run<'o> {
    state: State,
    counts: Counts,
    options: &'o Options,
    progress: &'o Progress,
    touched: Touched,
    /// The databases as they were when each snapshot was loaded.
    taken: Vec<Swaps>,
}

impl Run<'_> {
    /// Takes into memory what the log touches of a snapshot.
    fn load(&mut self, input: &Input) -> Result<()> {
        let swaps = self.state.keys.swaps.clone();
        let functions = Mutex::new(Vec::new());
        let (touched, unpack_limit) = (&self.touched, self.options.unpack_limit);
        let keys = &mut self.state.keys;
        let walked = walk(
            input,
            &self.options.walk,
            self.progress,
            |format| {
                Ok(Loading {
                    keys: Keys::new(&input.data, format, unpack_limit),
                    room: Room::new(unpack_limit),
                    touched,
                    swaps: &swaps,
                    functions: &functions,
                })
            },
            |found| {
                for (place, name, entry) in found {
                    keys.at_place(place).keys.insert(name, entry);
                }
                Ok(())
            },
        );
        // One file in another's place says nothing of what follows.
        if let Some(error) = walked.error {
            return Err(error);
        }
        if let Some(server) = walked.info.server.as_deref() {
            self.state.rules = Rules::of(server);
        }
        let functions = functions.into_inner().expect("no worker panicked");
        self.state.functions.extend(functions);
        self.state.keys.snapshots += 1;
        self.taken.push(swaps);
        Ok(())
    }

    /// Applies the commands of a log.
    fn log(&mut self, part: &Part<'_>, from: u64) -> Result<Option<Torn>> {
        let mut reader = part.reader(from, self.options.lenient)?;
        let len = reader.file().metadata().map_or(0, |meta| meta.len());
        let bytes = len.saturating_sub(from);
        self.progress.total.fetch_add(bytes, Relaxed);
        self.state.keys.select(0);
        self.state.time_ms = None;
        self.state.clock_ms = part.clock_ms(self.options.clock);
        let tail = log::each(&mut reader, self.progress, self)?;
        let what = match tail.kind {
            TailKind::Clean => return Ok(None),
            TailKind::Command => "a command",
            TailKind::Transaction { .. } => "a transaction without its EXEC",
        };
        if matches!(part.piece.role, Role::Base | Role::Incr { last: false, .. }) {
            return Err(torn_inside(tail));
        }
        if self.options.strict {
            let keeps = tail.whole;
            return Err(Error::new(
                ErrorKind::TornLog { what, keeps },
                At::file(tail.whole),
            ));
        }
        Ok(Some(Torn {
            name: part.piece.source.name.clone(),
            tail,
        }))
    }
}

impl Take for Run<'_> {
    fn command(&mut self, offset: u64, command: &Command<'_>) -> Result<()> {
        self.counts.commands += 1;
        self.progress.commands.fetch_add(1, Relaxed);
        let mut args = Vec::with_capacity(command.argc().min(1 << 10) as usize);
        args.extend(command.args());
        match self.state.apply(&args) {
            Ok(()) => Ok(()),
            Err(Fail::Refused) => {
                self.counts.refused += 1;
                self.counts
                    .first_refused
                    .get_or_insert_with(|| (command.name().escape_ascii().to_string(), offset));
                Ok(())
            }
            Err(Fail::Unknown(why)) => Err(unknown(&args, self.state.keys.db(), offset, why)),
        }
    }

    fn time(&mut self, ms: i64) {
        self.state.time_ms = Some(ms);
    }

    fn transaction(&mut self) {
        self.counts.transactions += 1;
    }
}

#[cold]
fn unknown(args: &[&[u8]], db: u64, offset: u64, why: String) -> Error {
    let name = args.first().copied().unwrap_or_default();
    let command = name[..name.len().min(64)].escape_ascii().to_string();
    let error = Error::new(ErrorKind::UnknownEffect { command, why }, At::file(offset));
    let mut first = None;
    if let Some(spec) = lookup(name) {
        // Where the keys cannot be told, none is named.
        let _ = for_each_key(spec, args.iter().copied(), |_, key| {
            first.get_or_insert(key);
        });
    }
    match first {
        Some(key) => error.in_key(|| KeyName {
            db,
            key: key[..key.len().min(KEY_SHOWN + 1)].to_vec(),
            type_name: "command".to_owned(),
            rdb_version: None,
        }),
        None => error,
    }
}

/// A worker that loads what is touched.
struct Loading<'a, 't> {
    keys: Keys<'a>,
    room: Room,
    touched: &'t Touched,
    swaps: &'t Swaps,
    functions: &'t Mutex<Vec<(Bytes, Bytes)>>,
}

impl Visitor for Loading<'_, '_> {
    type Found = Vec<(u64, Bytes, Entry)>;

    fn task(&mut self, task: &Task) -> Result<Self::Found> {
        let mut found = Vec::new();
        let Loading { keys, room, .. } = self;
        let format = keys.format();
        let (touched, swaps, functions) = (self.touched, self.swaps, self.functions);
        keys.for_each(task, &Filter::default(), |met| {
            let seen = match met {
                Met::Key(seen) => seen,
                Met::Broken(error) | Met::BrokenAux(error) => return Err(error),
                Met::Function(function) => {
                    let one = library(function, &mut room.one)?;
                    functions.lock().expect("no worker panicked").push(one);
                    return Ok(());
                }
                Met::Aux { .. } | Met::ModuleAux(_) => return Ok(()),
            };
            let place = swaps.place(seen.db);
            if !touched.has(place, seen.name) {
                return Ok(());
            }
            let mut c = seen.value;
            let named = |error: Error| {
                error.in_key(|| {
                    key_name(
                        &seen.record,
                        seen.db,
                        type_name(seen.record.ty, seen.value),
                        format,
                    )
                })
            };
            let value =
                load::value(&mut c, seen.record.ty, &task.templates, room).map_err(named)?;
            if load::is_empty(&value) {
                return Ok(());
            }
            let attributes = seen.record.attributes;
            let entry = Entry {
                value,
                expire_at_ms: attributes.expire_at_ms,
                meta: attributes.meta.map(|(from, to)| c.slice(from, to).into()),
            };
            found.push((place, seen.name.into(), entry));
            Ok(())
        })?;
        Ok(found)
    }
}

/// A library of a snapshot: its name and its source.
fn library(function: Function<'_>, scratch: &mut Scratch) -> Result<(Bytes, Bytes)> {
    let mut text = |text: crate::encoding::string::Str<'_>| -> Result<Vec<u8>> {
        let text = text.load(scratch)?;
        Ok(text.as_bytes(&mut itoa::Buffer::new()).to_vec())
    };
    Ok(match function {
        Function::Library(code) => {
            let code = text(code)?;
            let name = apply::library_name(&code).unwrap_or_default().into();
            (name, code.into())
        }
        Function::PreGa { name, engine, code } => {
            let (name, engine, code) = (text(name)?, text(engine)?, text(code)?);
            let line = [b"#!", &engine[..], b" name=", &name, b"\n", &code].concat();
            (name.into(), line.into())
        }
    })
}
