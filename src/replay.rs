//! How far a destination has acknowledged an input, kept in a file between two runs.
//!
//! The same command, started again, goes on there: what was acknowledged is not sent again, and what was sent without an
//! answer is told apart by the records at the destination ([`crate::sink::server`]).

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::aof::checkpoint::{Head, LogPlace, keep, load_with, parse_json, write_json};
use crate::error::{Error, Result};
use crate::sink::server::Place;

/// The state of a run into a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// [`Checkpoint::PROGRAM`], by which the file is known.
    pub program: String,
    /// [`Checkpoint::FORMAT`]; it rises when the meaning of a field changes.
    pub format: u64,
    /// Names what the run writes down at the destination.
    pub run: String,
    /// Of a live source: which of its snapshots this is, counted from 1. Otherwise 0.
    #[serde(default)]
    pub generation: u64,
    /// The inputs as the user named them, escaped.
    pub inputs: Vec<String>,
    /// The destination.
    pub destination: String,
    /// Its kind.
    pub dialect: String,
    /// Its servers when the run began, by which is known whether they are still the same.
    #[serde(default)]
    pub servers: Vec<KnownServer>,
    /// Whether it had no key when the run began.
    pub was_empty: bool,
    /// The clock when the run began, in Unix milliseconds: what counted as expired.
    pub now_ms: i64,
    /// Until when expiries were held back.
    pub hold_until_ms: Option<i64>,
    /// Whether the destination is in import mode meanwhile.
    #[serde(default)]
    pub imports: bool,
    /// Where this part of the run began in a log, if it did not begin at the start of its inputs.
    pub start: Option<Start>,
    /// The files of this part, as far as they were begun.
    pub pieces: Vec<Piece>,
    /// How far all of it is acknowledged.
    pub place: Option<At>,
    /// Snapshots: nothing behind this byte of the file at `place` was ever sent.
    pub sent: u64,
    /// Keys and commands that could not be written, and were passed over.
    #[serde(default)]
    pub rejected: u64,
    /// Whether everything was acknowledged.
    pub done: bool,
    /// When the file was written (RFC 3339).
    pub written_at: Timestamp,
}

/// A place in a log from which a run goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Where it is.
    pub log: LogPlace,
    /// What the numbers of its commands are counted from.
    pub base: u64,
}

/// A server of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownServer {
    /// Its name, for messages; in a cluster its address.
    pub name: String,
    /// Changes whenever it is started anew. Empty where it is not told.
    pub run_id: String,
    /// Behind a proxy: a key that leads there.
    pub key: Option<String>,
}

/// A file of a run, by which it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// Its name, its inode and its first bytes; the place is of no meaning.
    pub file: LogPlace,
    /// Of a snapshot: its length, and its last bytes in hexadecimal digits, which are its checksum.
    pub snapshot: Option<(u64, String)>,
}

impl Piece {
    /// Whether it is the same file; a log may have grown.
    pub fn is(&self, other: &Piece) -> bool {
        let (a, b) = (&self.file, &other.file);
        match (&self.snapshot, &other.snapshot) {
            // A copy of a snapshot is as good.
            (Some(_), Some(_)) => self.snapshot == other.snapshot && a.head == b.head,
            (None, None) => a.inode == b.inode && (a.head == b.head || a.head.len < b.head.len),
            _ => false,
        }
    }
}

/// A [`Place`], in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct At {
    /// The number of the file in `pieces`.
    pub piece: u32,
    /// Whether it is read as a log.
    pub in_log: bool,
    /// Bytes before it.
    pub offset: u64,
    /// The database selected there.
    pub db: u64,
}

/// Snapshots: so much may be sent beyond what the checkpoint tells of, before it is written anew.
const SENT_AHEAD: u64 = 32 << 20;

impl Checkpoint {
    /// What [`Checkpoint::program`] says.
    pub const PROGRAM: &'static str = "redis-migration replay";

    /// What [`Checkpoint::format`] says.
    pub const FORMAT: u64 = 1;

    /// Reads a checkpoint; none if there is no such file. Errors: `Io`, and `BadCheckpoint` for a file that is something
    /// else, of another format, or damaged.
    pub fn load(path: &Path) -> Result<Option<Checkpoint>> {
        load_with(path, |text| {
            let checkpoint: Checkpoint = parse_json(text, Self::PROGRAM, Self::FORMAT)?;
            if let Some(start) = &checkpoint.start {
                start.log.check()?;
            }
            for piece in &checkpoint.pieces {
                piece.file.check()?;
            }
            Ok(checkpoint)
        })
    }

    /// Writes it beside its place and renames it. Errors: `Io`.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

/// What the run and the sink know together of the checkpoint.
#[derive(Debug)]
pub struct Keeper {
    path: Option<std::path::PathBuf>,
    /// What is written next.
    pub checkpoint: Checkpoint,
    /// Whether expiries are held back: then the log cannot be gone on with in its middle.
    pub holds: bool,
    /// The log that is read, by its number in `checkpoint.pieces`.
    pub log: Option<(u32, File)>,
    /// Where the incremental files of a log are, of which one is kept for the next run.
    pub log_dir: Option<std::path::PathBuf>,
    kept: Option<LogPlace>,
}

impl Keeper {
    /// The incremental file in which the next run goes on, where it goes on in one.
    pub fn goes_on_in(&self) -> Option<u64> {
        if self.holds {
            return None;
        }
        self.checkpoint.start.as_ref()?.log.seq
    }

    /// Writes to `path`, if there is one, and goes on from `checkpoint`.
    pub fn new(path: Option<&Path>, checkpoint: Checkpoint, holds: bool) -> Arc<Mutex<Keeper>> {
        let kept = checkpoint.start.as_ref().map(|start| start.log.clone());
        Arc::new(Mutex::new(Keeper {
            path: path.map(Path::to_owned),
            checkpoint,
            holds,
            log: None,
            log_dir: None,
            kept,
        }))
    }

    /// Everything before this place is acknowledged.
    pub fn reach(&mut self, place: &Place) -> Result<()> {
        let checkpoint = &mut self.checkpoint;
        checkpoint.place = Some(At {
            piece: place.piece,
            in_log: place.in_log,
            offset: place.offset,
            db: place.db,
        });
        if !place.in_log {
            checkpoint.sent = checkpoint.sent.max(place.offset);
        } else if !self.holds
            && let Some(piece) = checkpoint.pieces.get(place.piece as usize)
        {
            let read = self
                .log
                .as_ref()
                .filter(|(number, _)| *number == place.piece);
            let tail = read
                .map(|(_, file)| Head::before(file, place.offset))
                .transpose();
            let name = &piece.file.file;
            let log = LogPlace {
                offset: place.offset,
                tail: tail.map_err(|e| Error::io(format!("{name} cannot be read"), e))?,
                db: place.db,
                time_ms: place.time_ms,
                ..piece.file.clone()
            };
            if let (Some(path), Some(dir)) = (&self.path, &self.log_dir) {
                self.kept = keep(path, dir, &log, self.kept.take());
            }
            checkpoint.start = Some(Start {
                log,
                base: place.base,
            });
        }
        self.save()
    }

    /// Whether bytes of a snapshot before this one may be sent: the checkpoint has to tell of it first.
    pub fn send_up_to(&mut self, offset: u64) -> Result<()> {
        if offset > self.checkpoint.sent {
            self.checkpoint.sent = offset + SENT_AHEAD;
            self.save()?;
        }
        Ok(())
    }

    /// Writes it as it is.
    pub fn save(&mut self) -> Result<()> {
        let Some(path) = &self.path else {
            return Ok(());
        };
        self.checkpoint.written_at = Timestamp::now();
        // A run that goes on from a place of its own needs nothing of what stood before.
        let mut written = self.checkpoint.clone();
        if !self.holds && written.place.is_some_and(|place| place.in_log) {
            written.place = None;
            written.pieces = Vec::new();
        }
        written.save(path)
    }
}
