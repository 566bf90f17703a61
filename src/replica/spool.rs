//! The files of a live migration: the snapshot, the delta in segments with their manifest, and what is known of them.
//!
//! With R for the snapshot's path and A for the delta's:
//!
//! ```text
//! R               the snapshot, once it is whole; R.partial until then; R.g1 … of earlier generations
//! A               a manifest as servers write it, which lists the segments
//! A.7.incr.aof    a segment: a log that goes on where segment 6 ends
//! A.spool         the state (JSON)
//! A.checkpoint    how far the destination has acknowledged it; A.keys what it may hold of what is not here any more
//! A.lock, R.lock  held while a run uses them
//! ```
//!
//! A segment begins with a line of ours and a SELECT of ours, in which `offset` is the replication offset before the
//! first byte of the source:
//!
//! ```text
//! #redis-migration source=10.0.0.1:6379 replid=8371…41e1 offset=5712\r\n
//! *2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n
//! #MS:1700000000123\r\n                                      ours too: when what follows came, in Unix milliseconds
//! *3\r\n$3\r\nSET\r\n…                                       as it came
//! ```
//!
//! So a segment alone tells the replication offset of each of its bytes: `offset` and the bytes that are not ours.
//!
//! A generation is a snapshot with the delta behind it. It ends where the source can give another snapshot only, and
//! its files stay until [`Spool::forget_previous`]. Nothing is ever removed or replaced that a spool did not make.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::stream::{Record, Splitter};
use crate::aof::checkpoint::{self, escape, load_with, parse_json, unescape, write_json};
use crate::aof::manifest::{Manifest, append_word};
use crate::error::{Error, ErrorKind, Result};
use crate::file::{Disk, remove_leftover, replace, sync_name};
use crate::input::directory_of;
use crate::resp::parse::LINE_BYTES;
use crate::resp::write::append_command;

/// What a segment's first line begins with.
const HEADER: &str = "#redis-migration ";

/// Of a source's name so much stands in a segment's first line: it must not grow too long for a line.
const SOURCE_BYTES: usize = 300;

/// Where the files of a spool are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The snapshot.
    pub rdb: PathBuf,
    /// The manifest of the delta.
    pub aof: PathBuf,
}

impl Names {
    /// The snapshot while it comes.
    pub fn partial(&self) -> PathBuf {
        with(&self.rdb, ".partial")
    }

    /// What is read by SCAN, until it is whole; then it is [`partial`](Self::partial).
    fn scanned(&self) -> PathBuf {
        with(&self.partial(), ".partial")
    }

    /// The snapshot of an earlier generation.
    pub fn rdb_of(&self, generation: u64) -> PathBuf {
        with(&self.rdb, &format!(".g{generation}"))
    }

    /// A segment of the delta.
    pub fn segment(&self, seq: u64) -> PathBuf {
        with(&self.aof, &format!(".{seq}.incr.aof"))
    }

    /// The state.
    pub fn state(&self) -> PathBuf {
        with(&self.aof, ".spool")
    }

    /// The checkpoint of whoever replays the delta.
    pub fn checkpoint(&self) -> PathBuf {
        with(&self.aof, ".checkpoint")
    }

    /// Its list of keys.
    pub fn keys(&self) -> PathBuf {
        with(&self.aof, ".keys")
    }

    fn locks(&self) -> [PathBuf; 2] {
        [with(&self.aof, ".lock"), with(&self.rdb, ".lock")]
    }

    /// What belongs to a spool beside segments and snapshots.
    fn company(&self) -> [PathBuf; 3] {
        let checkpoint = self.checkpoint();
        [checkpoint::kept(&checkpoint), checkpoint, self.keys()]
    }

    /// The number of a segment by its file's name.
    fn seq_of(&self, name: &OsStr) -> Option<u64> {
        number_in(name, &self.aof, ".", ".incr.aof")
    }

    /// The number of an earlier generation by its snapshot's name.
    fn generation_of(&self, name: &OsStr) -> Option<u64> {
        number_in(name, &self.rdb, ".g", "")
    }

    /// Segments that are there, listed or not, by number.
    fn segments_there(&self) -> Result<Vec<u64>> {
        numbers_beside(&self.aof, |name| self.seq_of(name))
    }

    /// Earlier generations of which a snapshot is there, known or not.
    fn generations_there(&self) -> Result<Vec<u64>> {
        numbers_beside(&self.rdb, |name| self.generation_of(name))
    }

    /// Whether the names can stand beside each other. Errors: `Unfit`.
    fn check(&self) -> Result<()> {
        for path in [&self.rdb, &self.aof] {
            let Some(name) = path.file_name() else {
                return Err(Error::unfit(format!(
                    "{} is not the name of a file: name one with --rdb and --aof",
                    path.display()
                )));
            };
            if name.as_bytes().contains(&b'\\') {
                return Err(Error::unfit(format!(
                    "{} holds a backslash, which no manifest can: name another file with --rdb and --aof",
                    path.display()
                )));
            }
        }
        let mut all = vec![
            self.rdb.clone(),
            self.aof.clone(),
            self.partial(),
            self.scanned(),
            self.state(),
        ];
        all.extend(self.locks());
        all.extend(self.company());
        let dirs = [&self.rdb, &self.aof].map(|path| directory_of(path).canonicalize().ok());
        let same_dir = dirs[0].is_some() && dirs[0] == dirs[1];
        let names: Vec<_> = all.iter().map(|path| path.file_name()).collect();
        let twice = (1..names.len()).any(|i| names[..i].contains(&names[i]));
        let is = |path: &Path, number: fn(&Names, &OsStr) -> Option<u64>| {
            path.file_name()
                .is_some_and(|name| number(self, name).is_some())
        };
        let numbered = is(&self.rdb, Names::seq_of) || is(&self.aof, Names::generation_of);
        match same_dir && (twice || numbered) {
            true => Err(Error::unfit(format!(
                "{} and {} would share a file: name other files with --rdb and --aof",
                self.rdb.display(),
                self.aof.display()
            ))),
            false => Ok(()),
        }
    }
}

/// How a spool is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opening {
    /// Replace files of these names that are not ours, and start over where ours cannot be gone on with.
    pub force: bool,
    /// Remove nothing that was spooled.
    pub keep: bool,
}

/// What is known of a spool, as `A.spool` holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// [`State::PROGRAM`], by which the file is known.
    pub program: String,
    /// [`State::FORMAT`]; it rises when the meaning of a field changes.
    pub format: u64,
    /// Where it comes from, as the run named it.
    pub source: String,
    /// 1 for the first snapshot; one more whenever the source could give another snapshot only.
    pub generation: u64,
    /// The source's replication id; empty where none is known, and of a source before 2.8.
    pub replid: String,
    /// Replication offset at which the delta of this generation begins.
    pub delta_offset: u64,
    /// Bytes of the snapshot, once it is whole.
    pub snapshot_bytes: Option<u64>,
    /// The first segment of this generation that was not released.
    pub first_seq: u64,
    /// The number that the next segment gets. In the file it may be one of earlier: what the manifest lists counts.
    pub next_seq: u64,
    /// The last generation of which the removals are done: keys that the one before held and it does not.
    pub reconciled: u64,
    /// Earlier generations of which the files are still there.
    pub previous: Vec<Previous>,
    /// Since which start of the machine segments are written that may not be on the disk; empty where all is, and where
    /// the machine does not tell.
    pub boot: String,
    /// When the file was written (RFC 3339).
    pub written_at: Timestamp,
}

/// A generation that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Previous {
    /// Its number.
    pub generation: u64,
    /// Name of its snapshot without a directory, by [`escape`].
    pub rdb: Option<String>,
    /// Its segments.
    pub segments: Vec<u64>,
}

impl State {
    /// What [`State::program`] says.
    pub const PROGRAM: &'static str = "redis-migration spool";

    /// What [`State::format`] says.
    pub const FORMAT: u64 = 1;

    fn new(source: &str) -> State {
        State {
            program: State::PROGRAM.to_owned(),
            format: State::FORMAT,
            source: source.to_owned(),
            generation: 1,
            replid: String::new(),
            delta_offset: 0,
            snapshot_bytes: None,
            first_seq: 1,
            next_seq: 1,
            reconciled: 1,
            previous: Vec::new(),
            boot: String::new(),
            written_at: Timestamp::now(),
        }
    }

    /// Reads the state of a spool; none if there is no such file. Errors: `Io`, and `BadCheckpoint` for a file that is
    /// something else, of another format, or damaged.
    pub fn load(path: &Path) -> Result<Option<State>> {
        load_with(path, |text| {
            let state: State = parse_json(text, State::PROGRAM, State::FORMAT)?;
            if state.generation == 0 || state.first_seq == 0 || state.next_seq < state.first_seq {
                return Err("its numbers are damaged".to_owned());
            }
            let plain = |name: &String| {
                unescape(name).is_some_and(|name| {
                    Path::new(&name).file_name() == Some(&*name) && !name.as_bytes().contains(&0)
                })
            };
            match state
                .previous
                .iter()
                .filter_map(|p| p.rdb.as_ref())
                .all(plain)
            {
                true => Ok(state),
                false => Err("it names a file elsewhere".to_owned()),
            }
        })
    }
}

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The source, as the run named it, with blanks escaped.
    pub source: String,
    /// The source's replication id when the segment was begun.
    pub replid: String,
    /// Replication offset before the first byte that is the source's.
    pub offset: u64,
}

impl Header {
    /// By a segment's first line. None for a line that is something else.
    pub fn parse(line: &[u8]) -> Option<Header> {
        let text = std::str::from_utf8(line).ok()?.strip_prefix(HEADER)?;
        let (mut source, mut replid, mut offset) = (None, None, None);
        for word in text.split_ascii_whitespace() {
            match word.split_once('=')? {
                ("source", value) => source = Some(value.to_owned()),
                ("replid", value) => replid = Some(value.to_owned()),
                ("offset", value) => offset = Some(value.parse().ok()?),
                // What later versions may add.
                _ => {}
            }
        }
        Some(Header {
            source: source?,
            replid: replid?,
            offset: offset?,
        })
    }

    fn line(&self) -> String {
        let Header {
            source,
            replid,
            offset,
        } = self;
        format!("{HEADER}source={source} replid={replid} offset={offset}\r\n")
    }
}

/// Whether a file begins as a segment of any spool does. One that cannot be read does not.
pub fn is_segment(path: &Path) -> bool {
    // A pipe would be waited for.
    if !std::fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    first_bytes(path).is_ok_and(|begins| matches!(header_of(&begins, path), Ok(Some(_))))
}

/// Unix milliseconds of an `#MS:` line, which tells when what follows was received.
pub fn received_at_ms(line: &[u8]) -> Option<i64> {
    let digits = line.strip_prefix(b"#MS:")?.strip_suffix(b"\n")?;
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The files of a live migration. Clones are the same spool; its locks are given back when the last one goes.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    names: Names,
    keep: bool,
    inner: Mutex<Inner>,
    /// Given back last.
    locks: Vec<Lock>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// What the manifest lists.
    listed: Vec<u64>,
    /// Where the delta goes on, found out when the spool was opened.
    resume: Option<Resume>,
}

/// A segment that is written.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) file: Arc<File>,
    pub(super) len: u64,
    path: PathBuf,
}

/// Where the delta goes on.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) segment: Segment,
    pub(super) offset: u64,
    pub(super) db: u64,
    /// Bytes of all segments that are there.
    pub(super) bytes: u64,
}

impl Spool {
    /// Opens a spool, and brings what an earlier run left of it in order: the last segment is cut to the end of its
    /// last whole unit, and a snapshot that was not whole is removed. `source` names the source and must be what it was.
    ///
    /// With [`Opening::force`] what cannot be gone on with is removed; what can be is gone on with all the same.
    ///
    /// Errors: [`ErrorKind::SpoolInUse`], [`ErrorKind::SpoolForeign`], [`ErrorKind::SpoolDamaged`];
    /// [`ErrorKind::BadCheckpoint`] for an `A.spool` that is something else; `Io`, `Unfit`.
    pub fn open(names: Names, source: &str, opening: Opening) -> Result<Spool> {
        names.check()?;
        let locks = names
            .locks()
            .into_iter()
            .map(Lock::take)
            .collect::<Result<Vec<_>>>()?;
        let state_path = names.state();
        let recovered = match State::load(&state_path) {
            Ok(None) => {
                let found = foreign(&names)?;
                match found.first() {
                    Some(first) if !opening.force => return Err(foreign_is_there(first)),
                    _ => {}
                }
                found.iter().try_for_each(|path| remove(path))?;
                None
            }
            Ok(Some(state)) if state.source != source => {
                let why = format!("belongs to a migration from {}", state.source);
                Some((Some(state), Err(damaged(&state_path, why))))
            }
            Ok(Some(state)) => {
                let recovered = recover(&names, state.clone(), opening);
                Some((Some(state), recovered))
            }
            Err(error) if matches!(error.kind(), ErrorKind::BadCheckpoint { .. }) => {
                Some((None, Err(error)))
            }
            Err(error) => return Err(error),
        };
        let inner = match recovered {
            Some((_, Ok(inner))) => inner,
            Some((_, Err(error)))
                if !opening.force || matches!(error.kind(), ErrorKind::Io { .. }) =>
            {
                return Err(error);
            }
            other => {
                if let Some((state, _)) = other {
                    for path in foreign(&names)? {
                        remove(&path)?;
                    }
                    for previous in state.iter().flat_map(|state| &state.previous) {
                        remove_previous(&names, previous)?;
                    }
                    remove(&state_path)?;
                }
                Inner {
                    state: State::new(source),
                    listed: Vec::new(),
                    resume: None,
                }
            }
        };
        // What a run was about to replace when it was killed. The locks are ours.
        for path in [&names.aof, &state_path, &names.checkpoint()] {
            remove_leftover(path);
        }
        let mut inner = inner;
        let boot = boot();
        let was = std::mem::replace(&mut inner.state.boot, boot.clone());
        if !was.is_empty() && was != boot {
            // The end of the delta may be lost, and the destination have it. What the source would give once more would
            // not stand where it stood, for the lines that tell the time are others; so commands could not be known again.
            inner.state.replid.clear();
        }
        let spool = Spool(Arc::new(Shared {
            names,
            keep: opening.keep,
            inner: Mutex::new(inner),
            locks,
        }));
        spool.save(&mut spool.lock())?;
        let resume = spool.cut()?;
        spool.lock().resume = resume;
        Ok(spool)
    }

    /// What is known of it.
    pub fn state(&self) -> State {
        self.lock().state.clone()
    }

    /// Where its files are.
    pub fn names(&self) -> &Names {
        &self.0.names
    }

    /// Segments of this generation that the manifest lists. The last one is the one that grows.
    pub fn segments(&self) -> Vec<u64> {
        self.lock().listed.clone()
    }

    /// Removes segments of this generation before `seq`, first from the manifest. The last one always stays. Nothing
    /// happens with [`Opening::keep`].
    pub fn release_before(&self, seq: u64) -> Result<()> {
        let mut inner = self.lock();
        let Some(&last) = inner.listed.last() else {
            return Ok(());
        };
        let seq = seq.min(last);
        if self.0.keep || inner.listed.first().is_none_or(|first| *first >= seq) {
            return Ok(());
        }
        let (gone, stays): (Vec<u64>, Vec<u64>) = inner.listed.iter().partition(|s| **s < seq);
        write_manifest(self.names(), &stays)?;
        inner.listed = stays;
        for seq in gone {
            remove(&self.names().segment(seq))?;
        }
        inner.state.first_seq = seq;
        self.save(&mut inner)
    }

    /// Removes the files of an earlier generation. Nothing happens with [`Opening::keep`].
    pub fn forget_previous(&self, generation: u64) -> Result<()> {
        let mut inner = self.lock();
        let is_it = |previous: &Previous| previous.generation == generation;
        let Some(at) = inner
            .state
            .previous
            .iter()
            .position(is_it)
            .filter(|_| !self.0.keep)
        else {
            return Ok(());
        };
        remove_previous(self.names(), &inner.state.previous[at])?;
        inner.state.previous.remove(at);
        self.save(&mut inner)
    }

    /// Path of an earlier generation's snapshot, if it is still there.
    pub fn rdb_of_previous(&self, generation: u64) -> Option<PathBuf> {
        let inner = self.lock();
        let previous = inner
            .state
            .previous
            .iter()
            .find(|p| p.generation == generation)?;
        rdb_of(self.names(), previous).filter(|path| is_there(path).unwrap_or(true))
    }

    /// Paths of an earlier generation's segments that are still there, in order.
    pub fn segments_of_previous(&self, generation: u64) -> Vec<PathBuf> {
        let inner = self.lock();
        let previous = inner
            .state
            .previous
            .iter()
            .find(|p| p.generation == generation);
        let segments = previous.map_or(&[][..], |previous| &previous.segments);
        segments
            .iter()
            .map(|seq| self.names().segment(*seq))
            // A run may have been killed while it forgot them.
            .filter(|path| is_there(path).unwrap_or(true))
            .collect()
    }

    /// Notes that what a generation does not hold any more was removed.
    pub fn set_reconciled(&self, generation: u64) -> Result<()> {
        let mut inner = self.lock();
        inner.state.reconciled = generation;
        self.save(&mut inner)
    }

    /// Removes all files of the spool, with the checkpoint and the list of keys beside it.
    pub fn remove(&self) -> Result<()> {
        let mut inner = self.lock();
        let names = self.names();
        // If it is interrupted, what is left is taken for what was never whole, or for what is whole still.
        if inner.state.snapshot_bytes.is_some() && is_there(&names.rdb)? {
            rename(&names.rdb, &names.partial())?;
        }
        inner.state.snapshot_bytes = None;
        self.save(&mut inner)?;
        for path in names.company() {
            remove(&path)?;
        }
        remove(&names.aof)?;
        for seq in std::mem::take(&mut inner.listed) {
            remove(&names.segment(seq))?;
        }
        for previous in std::mem::take(&mut inner.state.previous) {
            remove_previous(names, &previous)?;
        }
        remove(&names.scanned())?;
        remove(&names.partial())?;
        remove(&names.state())?;
        self.0.locks.iter().for_each(Lock::forget);
        Ok(())
    }

    /// Removes all files of the spool where no snapshot was ever whole: there is nothing to go on with, and what is left
    /// would only keep another source from these names.
    pub fn remove_unused(&self) -> Result<()> {
        let state = self.state();
        let is_used = state.snapshot_bytes.is_some()
            || !state.previous.is_empty()
            || is_there(&self.names().checkpoint())?;
        if is_used { Ok(()) } else { self.remove() }
    }

    /// Notes where the source's history stands: a snapshot is on its way, and behind it the delta from `offset` on.
    /// What was whole before becomes an earlier generation.
    pub(super) fn begin(&self, replid: &str, offset: u64) -> Result<()> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let names = self.names();
        let state = &mut inner.state;
        let ended = state.snapshot_bytes.is_some();
        let aside = names.rdb_of(state.generation);
        if ended {
            if is_there(&aside)? {
                return Err(foreign_is_there(&aside));
            }
            state.previous.push(Previous {
                generation: state.generation,
                rdb: aside.file_name().map(escape),
                segments: inner.listed.clone(),
            });
            state.generation += 1;
            // Who follows the segments must not go on into those that come behind another snapshot: where a number is
            // missing it stops.
            state.next_seq += 1;
        }
        state.first_seq = state.next_seq;
        state.snapshot_bytes = None;
        state.replid = replid.to_owned();
        state.delta_offset = offset;
        self.save(inner)?;
        if ended {
            rename(&names.rdb, &aside)?;
        } else {
            for seq in &inner.listed {
                remove(&names.segment(*seq))?;
            }
        }
        inner.listed.clear();
        inner.resume = None;
        remove(&names.aof)
    }

    /// Notes that all that was written is on the disk, and that nothing more is written.
    pub(super) fn set_settled(&self) -> Result<()> {
        let mut inner = self.lock();
        inner.state.boot.clear();
        self.save(&mut inner)
    }

    /// Takes a replication id that stands for the same history, as it is after a failover.
    pub(super) fn set_replid(&self, replid: &str) -> Result<()> {
        let mut inner = self.lock();
        inner.state.replid = replid.to_owned();
        self.save(&mut inner)
    }

    /// Removes what came of a snapshot.
    pub(super) fn drop_partial(&self) -> Result<()> {
        remove(&self.names().partial())
    }

    /// A file for a snapshot that comes.
    pub(super) fn create_partial(&self) -> Result<File> {
        let path = self.names().partial();
        remove(&path)?;
        let made = File::options().write(true).create_new(true).open(&path);
        made.map_err(|e| Error::io(format!("{} cannot be created", path.display()), e))
    }

    /// Gives the snapshot its name, which was `R.partial` until now. It is whole, of so many bytes, and on the disk.
    pub fn finish_snapshot(&self, bytes: u64) -> Result<()> {
        let mut inner = self.lock();
        let names = self.names();
        if is_there(&names.rdb)? {
            return Err(foreign_is_there(&names.rdb));
        }
        // First that it is whole, then its name: so what has the name without that is never ours.
        sync_name(&names.rdb);
        inner.state.snapshot_bytes = Some(bytes);
        let named = self
            .save(&mut inner)
            .and_then(|()| rename(&names.partial(), &names.rdb));
        if named.is_err() {
            inner.state.snapshot_bytes = None;
            // Where this fails as well, the next run finds out that nothing is there.
            let _ = self.save(&mut inner);
        }
        named
    }

    /// Begins a segment, which goes on at `offset` where `db` is selected.
    pub(super) fn create_segment(&self, offset: u64, db: u64) -> Result<Segment> {
        let mut inner = self.lock();
        let seq = inner.state.next_seq;
        let path = self.names().segment(seq);
        let failed = |e| Error::io(format!("{} cannot be written", path.display()), e);
        let made = File::options().append(true).create_new(true).open(&path);
        let mut file = made.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => foreign_is_there(&path),
            _ => failed(e),
        })?;
        let header = Header {
            source: one_word(&inner.state.source),
            replid: match &inner.state.replid[..] {
                "" => "0".repeat(40),
                replid => replid.to_owned(),
            },
            offset,
        };
        let mut text = header.line().into_bytes();
        append_command(&mut text, &[b"SELECT", db.to_string().as_bytes()]);
        let mut listed = inner.listed.clone();
        listed.push(seq);
        let made = file
            .write_all(&text)
            .and_then(|()| file.sync_all())
            .map_err(failed)
            .and_then(|()| write_manifest(self.names(), &listed));
        if let Err(error) = made {
            // It is new, and nothing of it is listed.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        inner.listed = listed;
        inner.state.next_seq = seq + 1;
        Ok(Segment {
            seq,
            file: Arc::new(file),
            len: text.len() as u64,
            path,
        })
    }

    /// Where the delta goes on: behind the last whole unit. None where no snapshot is whole, or the source has no
    /// replication id to go on with; neither after a power cut.
    pub(super) fn resume(&self) -> Result<Option<Resume>> {
        let found = self.lock().resume.take();
        match found {
            Some(resume) => Ok(Some(resume)),
            None => self.cut(),
        }
    }

    /// Cuts the last segment to the end of its last whole unit.
    fn cut(&self) -> Result<Option<Resume>> {
        let (state, mut listed) = {
            let inner = self.lock();
            (inner.state.clone(), inner.listed.clone())
        };
        if state.snapshot_bytes.is_none() || state.replid.is_empty() {
            return Ok(None);
        }
        let names = self.names();
        while let Some(&seq) = listed.last() {
            let path = names.segment(seq);
            let failed = |e| Error::io(format!("{} cannot be read", path.display()), e);
            let file = File::options()
                .read(true)
                .append(true)
                .open(&path)
                .map_err(failed)?;
            let Some(whole) = last_unit(&file, &path)? else {
                // Its first line never came to the disk, so nothing behind it did.
                listed.pop();
                write_manifest(names, &listed)?;
                remove(&path)?;
                let mut inner = self.lock();
                inner.state.next_seq = seq;
                inner.listed.clone_from(&listed);
                continue;
            };
            if file.metadata().map_err(failed)?.len() > whole.len {
                file.set_len(whole.len)
                    .and_then(|()| file.sync_all())
                    .map_err(|e| Error::io(format!("{} cannot be cut", path.display()), e))?;
            }
            let mut bytes = 0;
            for seq in &listed {
                bytes += std::fs::metadata(names.segment(*seq))
                    .map_err(failed)?
                    .len();
            }
            return Ok(Some(Resume {
                segment: Segment {
                    seq,
                    file: Arc::new(file),
                    len: whole.len,
                    path,
                },
                offset: whole.offset,
                db: whole.db,
                bytes,
            }));
        }
        let segment = self.create_segment(state.delta_offset, 0)?;
        Ok(Some(Resume {
            bytes: segment.len,
            segment,
            offset: state.delta_offset,
            db: 0,
        }))
    }

    fn save(&self, inner: &mut Inner) -> Result<()> {
        inner.state.written_at = Timestamp::now();
        write_json(&self.names().state(), &inner.state)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Segment {
    /// Appends bytes. Where the disk does not take all of them, what it took stays: whoever follows may have read it, and
    /// to where it is whole the next run goes on behind it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        (&*self.file)
            .write_all(bytes)
            .map_err(|e| Error::io(format!("{} cannot be written", self.path.display()), e))?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// The end of what is whole in a segment.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    /// In the file.
    len: u64,
    /// Of the replication.
    offset: u64,
    db: u64,
}

/// Reads a segment for its last whole unit. None if not even its first line and SELECT are whole. Errors: `Io`,
/// `SpoolDamaged` for a file that begins with something else.
fn last_unit(mut file: &File, path: &Path) -> Result<Option<Whole>> {
    let mut splitter = Splitter::with_lines(0);
    let mut buffer = vec![0; 1 << 20];
    let (mut base, mut last, mut own) = (0_u64, 0, 0);
    let mut header: Option<Header> = None;
    let mut whole = None;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Error::io(
                    format!("{} cannot be read", path.display()),
                    error,
                ));
            }
        };
        let bytes = &buffer[..n];
        if base == 0 {
            header = header_of(bytes, path)?;
        }
        let Some(header) = &header else {
            return Ok(None);
        };
        let mut selected = whole.is_some();
        let fed = splitter.feed(bytes, |end, record, db, between| {
            let end = base + end as u64;
            if record == Record::Line || !selected {
                own += end - last;
            }
            selected |= record != Record::Line;
            last = end;
            if between && selected {
                whole = Some(Whole {
                    len: end,
                    offset: header.offset.saturating_add(end - own),
                    db,
                });
            }
        });
        // What is no command is what a power cut left.
        if n == 0 || fed.is_err() {
            return Ok(whole);
        }
        base += n as u64;
    }
}

/// What a segment begins with; none where that never came to the disk. Errors: `SpoolDamaged`.
fn header_of(bytes: &[u8], path: &Path) -> Result<Option<Header>> {
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        let begins = &HEADER.as_bytes()[..bytes.len().min(HEADER.len())];
        return match bytes.starts_with(begins) {
            true => Ok(None),
            false => Err(no_segment(path)),
        };
    };
    match Header::parse(&bytes[..end + 1]) {
        Some(header) => Ok(Some(header)),
        None => Err(no_segment(path)),
    }
}

/// Whether a file begins as a segment does, or with as much of it as a crash may leave: part of the first line, nothing,
/// or zeros.
fn may_be_segment(path: &Path) -> Result<bool> {
    if !std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file()) {
        return Ok(false);
    }
    let begins = first_bytes(path)?;
    Ok(begins.iter().all(|b| *b == 0) || header_of(&begins, path).is_ok())
}

/// As many bytes of a file as its first line can have.
fn first_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LINE_BYTES as u64).read_to_end(&mut bytes))
        .map_err(|e| Error::io(format!("{} cannot be read", path.display()), e))?;
    Ok(bytes)
}

fn no_segment(path: &Path) -> Error {
    damaged(path, "does not begin as a segment does".to_owned())
}

/// Brings what an earlier run left in order, but for the last segment.
fn recover(names: &Names, mut state: State, opening: Opening) -> Result<Inner> {
    let rdb_there = is_there(&names.rdb)?;
    let mut listed = match is_there(&names.aof)? {
        true => Manifest::read(&names.aof).map_err(|error| match error.kind() {
            ErrorKind::Io { .. } => error,
            _ => damaged(&names.aof, format!("is no manifest of ours ({error})")),
        })?,
        false => Manifest::default(),
    };
    let ours = |entry: &crate::aof::manifest::Entry| {
        names.seq_of(OsStr::from_bytes(&entry.name)) == Some(entry.seq)
    };
    if listed.base.is_some() || !listed.history.is_empty() || !listed.incr.iter().all(ours) {
        let why = "lists files of another log".to_owned();
        return Err(damaged(&names.aof, why));
    }
    let make_way = |path: &Path| match opening.force {
        true => remove(path),
        false => Err(foreign_is_there(path)),
    };
    remove(&names.scanned())?;
    match state.snapshot_bytes {
        None => {
            remove(&names.partial())?;
            // It belongs to the generation before, and was to be renamed; or somebody put it there.
            let aside = state
                .previous
                .last()
                .and_then(|previous| rdb_of(names, previous));
            match aside {
                Some(aside) if rdb_there && !is_there(&aside)? => rename(&names.rdb, &aside)?,
                _ if rdb_there => make_way(&names.rdb)?,
                _ => {}
            }
        }
        Some(bytes) => {
            let partial = names.partial();
            let is_it = |meta: std::fs::Metadata| meta.is_file() && meta.len() == bytes;
            // It was about to be given its name.
            match !rdb_there && std::fs::symlink_metadata(&partial).is_ok_and(is_it) {
                true => rename(&partial, &names.rdb)?,
                false => remove(&partial)?,
            }
            let len = std::fs::metadata(&names.rdb).map(|meta| meta.len());
            match len {
                Ok(len) if len == bytes => {}
                Ok(len) => {
                    let why = format!("has {len} bytes where {bytes} were written");
                    return Err(damaged(&names.rdb, why));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(damaged(&names.rdb, "is not there any more".to_owned()));
                }
                Err(e) => {
                    return Err(Error::io(
                        format!("{} cannot be read", names.rdb.display()),
                        e,
                    ));
                }
            }
        }
    }
    // Where it would go when another one comes.
    let aside = names.rdb_of(state.generation);
    if is_there(&aside)? {
        make_way(&aside)?;
    }
    let stale = listed.incr.iter().all(|entry| entry.seq < state.first_seq);
    if state.snapshot_bytes.is_none() || stale {
        remove(&names.aof)?;
        listed.incr.clear();
    }
    let listed: Vec<u64> = listed.incr.iter().map(|entry| entry.seq).collect();
    for (i, &seq) in listed.iter().enumerate() {
        let path = names.segment(seq);
        if seq != listed[0] + i as u64 {
            let why = format!("lists segment {seq}, and the one before it is missing");
            return Err(damaged(&names.aof, why));
        }
        if !is_there(&path)? {
            return Err(damaged(&path, "is not there any more".to_owned()));
        }
        if header_of(&first_bytes(&path)?, &path)?.is_none() && Some(&seq) != listed.last() {
            return Err(no_segment(&path));
        }
    }
    let next = match listed.last() {
        Some(last) => last + 1,
        None => state.first_seq,
    };
    // What was about to be listed, or was not any more.
    for seq in names.segments_there()? {
        let known =
            listed.contains(&seq) || state.previous.iter().any(|p| p.segments.contains(&seq));
        let path = names.segment(seq);
        if !known
            && seq >= state.first_seq
            && seq <= next.max(state.next_seq)
            && may_be_segment(&path)?
        {
            remove(&path)?;
        }
    }
    state.next_seq = next;
    if let Some(&first) = listed.first() {
        state.first_seq = first;
    }
    Ok(Inner {
        state,
        listed,
        resume: None,
    })
}

/// Files of these names, where there should be none.
fn foreign(names: &Names) -> Result<Vec<PathBuf>> {
    let mut paths = vec![
        names.rdb.clone(),
        names.partial(),
        names.scanned(),
        names.aof.clone(),
    ];
    paths.extend(names.company());
    let mut found = Vec::new();
    for path in paths {
        if is_there(&path)? {
            found.push(path);
        }
    }
    found.extend(
        names
            .segments_there()?
            .into_iter()
            .map(|seq| names.segment(seq)),
    );
    let earlier = names.generations_there()?.into_iter();
    found.extend(earlier.map(|generation| names.rdb_of(generation)));
    Ok(found)
}

fn rdb_of(names: &Names, previous: &Previous) -> Option<PathBuf> {
    let name = unescape(previous.rdb.as_ref()?)?;
    Some(directory_of(&names.rdb).join(name))
}

fn remove_previous(names: &Names, previous: &Previous) -> Result<()> {
    if let Some(rdb) = rdb_of(names, previous) {
        remove(&rdb)?;
    }
    previous
        .segments
        .iter()
        .try_for_each(|seq| remove(&names.segment(*seq)))
}

/// Removes a file if it is there. Errors: `Io`, also for what is no file: devices and directories are nobody's spool.
fn remove(path: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("{} cannot be removed", path.display()), e);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() || meta.is_symlink() => match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(e)),
            _ => Ok(()),
        },
        Ok(_) => Err(failed(io::Error::other("it is not a regular file"))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

fn is_there(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(
            format!("{} cannot be looked up", path.display()),
            e,
        )),
    }
}

/// Renames a file, for good.
fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to)
        .map_err(|e| Error::io(format!("{} cannot be renamed", from.display()), e))?;
    sync_name(to);
    Ok(())
}

fn foreign_is_there(path: &Path) -> Error {
    Error::plain(ErrorKind::SpoolForeign {
        path: path.display().to_string(),
    })
}

fn damaged(path: &Path, why: String) -> Error {
    Error::plain(ErrorKind::SpoolDamaged {
        path: path.display().to_string(),
        why,
    })
}

/// The number in a name that is that of `path`, `before`, a number as we write it, and `behind`.
fn number_in(name: &OsStr, path: &Path, before: &str, behind: &str) -> Option<u64> {
    let ours = path.file_name()?.as_bytes();
    let rest = name.as_bytes().strip_prefix(ours)?;
    let digits = rest
        .strip_prefix(before.as_bytes())?
        .strip_suffix(behind.as_bytes())?;
    let digits = std::str::from_utf8(digits).ok()?;
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

/// The numbers of the files beside `path` that have one, in order.
fn numbers_beside(path: &Path, number: impl Fn(&OsStr) -> Option<u64>) -> Result<Vec<u64>> {
    let dir = directory_of(path);
    let failed = |e| Error::io(format!("{} cannot be read", dir.display()), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        found.extend(number(&entry.map_err(failed)?.file_name()));
    }
    found.sort_unstable();
    Ok(found)
}

/// By which a start of the machine is known from others; empty where it does not tell.
fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or(String::new(), |id| id.trim().to_owned())
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// A source's name without what would end a word or a line.
fn one_word(text: &str) -> String {
    let mut word = String::new();
    for byte in text.bytes() {
        if word.len() >= SOURCE_BYTES {
            break;
        }
        match byte {
            b'!'..=b'~' => word.push(char::from(byte)),
            _ => word.push_str(&format!("\\x{byte:02x}")),
        }
    }
    word
}

/// Replaces the manifest by one that lists these segments; none of it is left where there are none.
fn write_manifest(names: &Names, listed: &[u64]) -> Result<()> {
    let path = &names.aof;
    if listed.is_empty() {
        return remove(path);
    }
    let mut text = Vec::new();
    for seq in listed {
        text.extend(b"file ");
        let segment = names.segment(*seq);
        append_word(
            &mut text,
            segment.file_name().unwrap_or_default().as_bytes(),
        );
        text.extend(format!(" seq {seq} type i\n").bytes());
    }
    replace(path, &text, Disk::Synced)
}

/// A file that is locked, and removed when it is not needed any more.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(path: PathBuf) -> Result<Lock> {
        let failed = |e| Error::io(format!("{} cannot be locked", path.display()), e);
        loop {
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                // Behind a link would be another file than the one of this name.
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::plain(ErrorKind::SpoolInUse {
                        path: path.display().to_string(),
                    }));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // Whoever held it may have removed it between the two steps: then it locks nothing.
            if is_at(&file, &path) {
                return Ok(Lock { path, file });
            }
        }
    }

    /// Removes it, while it is held. One that is not empty is somebody else's.
    fn forget(&self) {
        if is_at(&self.file, &self.path) && self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Whether an open file is the one of this name.
fn is_at(file: &File, path: &Path) -> bool {
    let of = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let there = std::fs::symlink_metadata(path).map(of);
    matches!((there, file.metadata().map(of)), (Ok(there), Ok(held)) if there == held)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn names(dir: &Path) -> Names {
        Names {
            rdb: dir.join("dump.rdb"),
            aof: dir.join("log.aof"),
        }
    }

    fn open(dir: &Path) -> Result<Spool> {
        Spool::open(names(dir), "10.0.0.1:6379", Opening::default())
    }

    fn forced(dir: &Path) -> Result<Spool> {
        let force = true;
        Spool::open(names(dir), "10.0.0.1:6379", Opening { force, keep: false })
    }

    fn there(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    /// With a snapshot of three bytes.
    fn with_snapshot(dir: &Path) -> Spool {
        let spool = open(dir).expect("a spool");
        take_snapshot(&spool, 100);
        spool
    }

    fn take_snapshot(spool: &Spool, offset: u64) {
        spool.begin(ID, offset).expect("a beginning");
        spool
            .create_partial()
            .expect("a file")
            .write_all(b"rdb")
            .expect("room");
        spool.finish_snapshot(3).expect("a snapshot");
    }

    fn command(args: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        append_command(&mut bytes, args);
        bytes
    }

    fn kind(result: Result<Spool>) -> String {
        result.expect_err("an error").to_string()
    }

    #[test]
    fn a_torn_segment_is_cut_to_its_last_unit_wherever_it_ends() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        let mut segment = spool.create_segment(100, 3).expect("a segment");
        let path = segment.path.clone();
        let begins = segment.len as usize;
        // Each with the database behind it, and whether a unit ends there.
        let pieces: [(Vec<u8>, bool, u64, bool); 9] = [
            (b"#MS:1700000000000\r\n".to_vec(), true, 3, true),
            (command(&[b"SET", b"k", b"#MS:1\r\n"]), false, 3, true),
            (command(&[b"SELECT", b"11"]), false, 11, true),
            (b"#MS:1700000000001\r\n".to_vec(), true, 11, true),
            (command(&[b"MULTI"]), false, 11, false),
            (command(&[b"SELECT", b"0"]), false, 0, false),
            (command(&[b"INCR", b"n"]), false, 0, false),
            (command(&[b"EXEC"]), false, 0, true),
            (command(&[b"PING"]), false, 0, true),
        ];
        let mut ends = vec![(begins, 100, 3)];
        let (mut len, mut offset) = (begins, 100);
        for (bytes, own, db, unit) in &pieces {
            segment.append(bytes).expect("room");
            len += bytes.len();
            offset += if *own { 0 } else { bytes.len() as u64 };
            if *unit {
                ends.push((len, offset, *db));
            }
        }
        drop((segment, spool));
        let whole = std::fs::read(&path).expect("a segment");
        for cut in 0..=whole.len() {
            for junk in [&b""[..], b"\0\0\0\0"] {
                std::fs::write(&path, [&whole[..cut], junk].concat()).expect("a segment");
                if !junk.is_empty() && (cut < begins || cut % 7 != 0) {
                    continue;
                }
                let spool = open(dir.path()).expect("a spool");
                let resume = spool.resume().expect("no error").expect("a place");
                let found = (resume.segment.len as usize, resume.offset, resume.db);
                let want = ends.iter().rev().find(|end| end.0 <= cut);
                match want {
                    Some(want) => assert_eq!(found, *want, "{cut}"),
                    // It was begun anew.
                    None => assert_eq!((found.1, found.2), (100, 0), "{cut}"),
                }
                assert_eq!(
                    std::fs::metadata(&path).expect("it").len(),
                    resume.segment.len
                );
                assert_eq!(spool.state().next_seq, 2);
                assert_eq!(spool.segments(), [1]);
                if want.is_none() {
                    drop(spool);
                    std::fs::write(&path, &whole).expect("a segment");
                }
            }
        }
    }

    #[test]
    fn a_segment_goes_on_where_it_was_cut() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        let mut segment = spool.create_segment(100, 0).expect("a segment");
        segment.append(&command(&[b"PING"])).expect("room");
        segment.append(b"*1\r\n$4\r").expect("room");
        drop((segment, spool));
        let spool = open(dir.path()).expect("a spool");
        let mut resume = spool.resume().expect("no error").expect("a place");
        resume
            .segment
            .append(&command(&[b"SET", b"k", b"v"]))
            .expect("room");
        let text = std::fs::read(spool.names().segment(1)).expect("a segment");
        let begins = format!(
            "#redis-migration source=10.0.0.1:6379 replid={ID} offset=100\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n\
             *1\r\n$4\r\nPING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
        );
        assert_eq!(text, begins.as_bytes());
        let line = &text[..memchr::memchr(b'\n', &text).expect("a line") + 1];
        let header = Header::parse(line).expect("a header");
        assert_eq!((&header.source[..], header.offset), ("10.0.0.1:6379", 100));
        assert_eq!(Header::parse(b"#TS:17\r\n"), None);
        assert_eq!(
            received_at_ms(b"#MS:1700000000123\r\n"),
            Some(1_700_000_000_123)
        );
        assert_eq!(received_at_ms(b"#TS:17\r\n"), None);
    }

    #[test]
    fn what_the_disk_does_not_take_is_not_counted() {
        let path = PathBuf::from("/dev/full");
        let Ok(file) = File::options().write(true).open(&path) else {
            return;
        };
        let file = Arc::new(file);
        let mut segment = Segment {
            seq: 1,
            file,
            len: 7,
            path,
        };
        let error = segment.append(b"bytes").expect_err("no room");
        assert!(
            error
                .to_string()
                .starts_with("/dev/full cannot be written: "),
            "{error}"
        );
        assert_eq!(segment.len, 7);
    }

    #[test]
    fn segments_are_listed_and_released() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        for offset in [100, 200, 300] {
            spool.create_segment(offset, 0).expect("a segment");
        }
        let text = |dir: &Path| std::fs::read_to_string(names(dir).aof).expect("a manifest");
        assert_eq!(
            text(dir.path()),
            "file log.aof.1.incr.aof seq 1 type i\nfile log.aof.2.incr.aof seq 2 type i\nfile log.aof.3.incr.aof seq 3 type i\n"
        );
        spool.release_before(3).expect("they are ours");
        assert_eq!(text(dir.path()), "file log.aof.3.incr.aof seq 3 type i\n");
        spool.release_before(99).expect("nothing to do");
        assert_eq!(spool.segments(), [3]);
        assert_eq!((spool.state().first_seq, spool.state().next_seq), (3, 4));
        drop(spool);
        // What a run did not come to remove, and one that it did not come to list.
        std::fs::write(names(dir.path()).segment(4), "#").expect("a segment");
        let spool = open(dir.path()).expect("a spool");
        assert_eq!(spool.state().next_seq, 4);
        assert_eq!(
            there(dir.path()),
            [
                "dump.rdb",
                "dump.rdb.lock",
                "log.aof",
                "log.aof.3.incr.aof",
                "log.aof.lock",
                "log.aof.spool"
            ]
        );
        drop(spool);
        let opening = Opening {
            force: false,
            keep: true,
        };
        let spool = Spool::open(names(dir.path()), "10.0.0.1:6379", opening).expect("a spool");
        spool.create_segment(400, 0).expect("a segment");
        spool.release_before(4).expect("nothing to do");
        assert_eq!(spool.segments(), [3, 4]);
        spool.remove().expect("all is ours");
        drop(spool);
        assert_eq!(there(dir.path()), [""; 0]);
    }

    #[test]
    fn what_was_about_to_be_replaced_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        spool.create_segment(100, 0).expect("a segment");
        drop(spool);
        let was = there(dir.path());
        for name in ["log.aof", "log.aof.spool", "log.aof.checkpoint"] {
            let left = dir.path().join(format!(".redis-migration-{name}"));
            std::fs::write(left, "half of").expect("a file");
        }
        drop(open(dir.path()).expect("a spool"));
        assert_eq!(there(dir.path()), was);
    }

    #[test]
    fn names_of_any_kind_stand_in_a_manifest() {
        for name in ["a b.aof", "größe'.aof", "\"q\".aof", "line\n\x01.aof", "-"] {
            let dir = tempfile::tempdir().expect("a directory");
            let names = Names {
                rdb: dir.path().join("r"),
                aof: dir.path().join(name),
            };
            let source = "s ü\n".repeat(200);
            let spool = Spool::open(names.clone(), &source, Opening::default()).expect("a spool");
            take_snapshot(&spool, 0);
            spool.create_segment(0, 0).expect("a segment");
            spool.create_segment(0, 0).expect("a segment");
            let manifest = Manifest::read(&names.aof).expect("a manifest");
            let path = manifest
                .path_of(&names.aof, &manifest.incr[0])
                .expect("a path");
            assert_eq!(path, names.segment(1));
            drop(spool);
            let spool = Spool::open(names, &source, Opening::default()).expect("a spool");
            assert!(spool.resume().expect("no error").is_some());
        }
        let dir = tempfile::tempdir().expect("a directory");
        for (rdb, aof) in [
            ("a", "a"),
            ("a.spool", "a"),
            ("a", "a\\b"),
            ("a.1.incr.aof", "a"),
            ("a/..", "a"),
            ("a", "a.g1"),
            ("a", "a.partial.partial"),
        ] {
            let names = Names {
                rdb: dir.path().join(rdb),
                aof: dir.path().join(aof),
            };
            let error = Spool::open(names, "s", Opening::default()).expect_err("no names");
            assert!(matches!(error.kind(), ErrorKind::Unfit(_)), "{rdb} {aof}");
        }
    }

    #[test]
    fn two_never_share_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path()).expect("a spool");
        let others = [
            names(dir.path()),
            Names {
                rdb: dir.path().join("other"),
                ..names(dir.path())
            },
            Names {
                aof: dir.path().join("other"),
                ..names(dir.path())
            },
        ];
        for other in &others {
            for force in [false, true] {
                let opening = Opening { force, keep: false };
                let error = Spool::open(other.clone(), "x", opening).expect_err("it is in use");
                assert!(
                    matches!(error.kind(), ErrorKind::SpoolInUse { .. }),
                    "{error}"
                );
                assert!(
                    error
                        .to_string()
                        .contains("name other files with --rdb and --aof")
                );
            }
        }
        let held = spool.clone();
        drop(spool);
        assert!(open(dir.path()).is_err());
        drop(held);
        open(dir.path()).expect("it is free");
        assert!(!there(dir.path()).iter().any(|name| name.ends_with(".lock")));
        // Somebody's file of that name is used and stays.
        std::fs::write(dir.path().join("log.aof.lock"), "mine").expect("a file");
        open(dir.path()).expect("it is free");
        assert!(there(dir.path()).contains(&"log.aof.lock".to_owned()));
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        for name in [
            "dump.rdb",
            "dump.rdb.partial",
            "log.aof",
            "log.aof.7.incr.aof",
            "log.aof.checkpoint",
            "log.aof.keys",
            "dump.rdb.g1",
            "dump.rdb.partial.partial",
        ] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join(name), "precious").expect("a file");
            std::fs::write(dir.path().join("log.aof.07.incr.aof"), "other").expect("a file");
            std::fs::write(dir.path().join("log.aof.1.base.rdb"), "other").expect("a file");
            let text = kind(open(dir.path()));
            assert!(
                text.contains(name) && text.contains("--force replaces it"),
                "{text}"
            );
            assert_eq!(
                std::fs::read(dir.path().join(name)).expect("it"),
                b"precious"
            );
            assert_eq!(there(dir.path()).len(), 3);
            drop(forced(dir.path()).expect("a spool"));
            assert_eq!(
                there(dir.path()),
                ["log.aof.07.incr.aof", "log.aof.1.base.rdb", "log.aof.spool"]
            );
        }
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("dump.rdb")).expect("a directory");
        assert!(open(dir.path()).is_err());
        assert!(forced(dir.path()).is_err());
        assert_eq!(there(dir.path()), ["dump.rdb"]);
        // A state that is something else.
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("log.aof.spool"), "{}").expect("a file");
        assert!(kind(open(dir.path())).contains("was not written by"));
        forced(dir.path()).expect("a spool");
        open(dir.path()).expect("it is ours now");
        // What comes while we run.
        let spool = open(dir.path()).expect("a spool");
        spool.begin(ID, 0).expect("a beginning");
        spool.create_partial().expect("a file");
        std::fs::write(dir.path().join("dump.rdb"), "precious").expect("a file");
        assert!(spool.finish_snapshot(0).is_err());
        std::fs::write(dir.path().join("log.aof.1.incr.aof"), "precious").expect("a file");
        assert!(spool.create_segment(0, 0).is_err());
        assert_eq!(
            std::fs::read(dir.path().join("log.aof.1.incr.aof")).expect("it"),
            b"precious"
        );
    }

    /// A run that ended before its snapshot was whole left its state, and then somebody used the name.
    #[test]
    fn a_snapshot_that_is_not_ours_is_left_alone_at_every_start() {
        let dir = tempfile::tempdir().expect("a directory");
        for begun in [false, true] {
            let spool = open(dir.path()).expect("a spool");
            if begun {
                spool.begin(ID, 0).expect("a beginning");
                spool.create_partial().expect("a file");
            }
            drop(spool);
            std::fs::write(dir.path().join("dump.rdb"), "precious").expect("a file");
            let text = kind(open(dir.path()));
            assert!(
                text.contains("dump.rdb is there and was not made"),
                "{text}"
            );
            let snapshot = std::fs::read(dir.path().join("dump.rdb")).expect("it");
            assert_eq!(snapshot, b"precious");
            drop(forced(dir.path()).expect("a spool"));
            assert_eq!(there(dir.path()), ["log.aof.spool"]);
        }
        // Where the snapshot goes when another one comes.
        drop(with_snapshot(dir.path()));
        std::fs::write(dir.path().join("dump.rdb.g1"), "precious").expect("a file");
        assert!(kind(open(dir.path())).contains("dump.rdb.g1 is there"));
        let spool = forced(dir.path()).expect("a spool");
        assert_eq!(spool.state().snapshot_bytes, Some(3));
    }

    #[test]
    fn segments_that_are_not_ours_are_left_alone_at_every_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        spool.create_segment(100, 0).expect("a segment");
        drop(spool);
        let next = names(dir.path()).segment(2);
        // What a crash leaves.
        for left in [&b""[..], b"#redis-mig", &[0; 4096], HEADER.as_bytes()] {
            std::fs::write(&next, left).expect("a file");
            drop(open(dir.path()).expect("a spool"));
            assert!(!next.exists(), "{}", left.escape_ascii());
        }
        std::fs::write(&next, "precious").expect("a file");
        let spool = open(dir.path()).expect("a spool");
        let error = spool.create_segment(100, 0).expect_err("no room for it");
        assert!(matches!(error.kind(), ErrorKind::SpoolForeign { .. }));
        assert_eq!(std::fs::read(&next).expect("it"), b"precious");
    }

    #[test]
    fn a_run_may_be_killed_while_a_snapshot_gets_its_name_or_loses_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        spool.create_segment(100, 0).expect("a segment");
        drop(spool);
        let (rdb, partial) = (names(dir.path()).rdb, names(dir.path()).partial());
        std::fs::rename(&rdb, &partial).expect("it");
        let spool = open(dir.path()).expect("a spool");
        assert!(rdb.exists() && !partial.exists());
        assert_eq!(spool.state().snapshot_bytes, Some(3));
        assert_eq!(spool.segments(), [1]);
        // All is removed, and something is in the way.
        let keys = spool.names().keys();
        std::fs::create_dir(&keys).expect("a directory");
        spool.remove().expect_err("it is no file");
        drop(spool);
        std::fs::remove_dir(&keys).expect("it");
        drop(open(dir.path()).expect("a spool"));
        assert_eq!(there(dir.path()), ["log.aof.spool"]);
        // What is not whole is not taken for it.
        drop(with_snapshot(dir.path()));
        std::fs::remove_file(&rdb).expect("it");
        std::fs::write(&partial, "rd").expect("a file");
        assert!(kind(open(dir.path())).contains("is not there any more"));
    }

    #[test]
    fn a_run_may_be_killed_while_it_forgets_a_generation() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        for offset in [100, 200] {
            spool.create_segment(offset, 0).expect("a segment");
        }
        spool.begin(ID, 7000).expect("a beginning");
        let segment = |seq| names(dir.path()).segment(seq);
        assert!(spool.rdb_of_previous(1).is_some());
        std::fs::remove_file(names(dir.path()).rdb_of(1)).expect("it");
        assert_eq!(spool.rdb_of_previous(1), None);
        assert_eq!(spool.segments_of_previous(1), [1, 2].map(segment));
        std::fs::remove_file(segment(1)).expect("it");
        assert_eq!(spool.segments_of_previous(1), [segment(2)]);
        spool.forget_previous(1).expect("the rest is ours");
        assert!(!segment(2).exists());
    }

    #[test]
    fn what_may_be_lost_in_a_power_cut_is_not_gone_on_with() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = with_snapshot(dir.path());
        spool.create_segment(100, 0).expect("a segment");
        drop(spool);
        // Killed, on a machine that goes on.
        let spool = open(dir.path()).expect("a spool");
        assert!(spool.resume().expect("no error").is_some());
        let state = spool.names().state();
        let was_up_before = |spool: Spool| {
            let before = State {
                boot: "another".to_owned(),
                ..spool.state()
            };
            drop(spool);
            write_json(&state, &before).expect("room");
            open(dir.path()).expect("a spool")
        };
        spool.set_settled().expect("room");
        assert_eq!(spool.state().boot, "");
        drop(spool);
        let spool = open(dir.path()).expect("a spool");
        assert!(spool.resume().expect("no error").is_some());
        let spool = was_up_before(spool);
        assert!(spool.resume().expect("no error").is_none());
        assert_eq!(spool.state().snapshot_bytes, Some(3));
        drop(spool);
        // It does not change its mind.
        let spool = open(dir.path()).expect("a spool");
        assert!(spool.resume().expect("no error").is_none());
        spool.begin(ID, 900).expect("a beginning");
        assert_eq!(spool.state().generation, 2);
    }

    #[test]
    fn a_lock_is_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        for target in ["elsewhere", "nowhere"] {
            let link = dir.path().join("log.aof.lock");
            std::fs::write(dir.path().join("elsewhere"), "").expect("a file");
            std::os::unix::fs::symlink(target, &link).expect("a link");
            let text = kind(open(dir.path()));
            assert!(text.contains("log.aof.lock cannot be locked"), "{text}");
            assert!(!dir.path().join("nowhere").exists());
            std::fs::remove_file(link).expect("it");
        }
    }

    #[test]
    fn what_is_of_another_source_or_damaged_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let make = || {
            let spool = with_snapshot(dir.path());
            for offset in [100, 200, 300] {
                spool.create_segment(offset, 0).expect("a segment");
            }
        };
        make();
        let error = Spool::open(names(dir.path()), "other", Opening::default());
        let text = error.expect_err("another source").to_string();
        assert!(
            text.contains("belongs to a migration from 10.0.0.1:6379: --force starts over"),
            "{text}"
        );
        let force = Opening {
            force: true,
            keep: false,
        };
        drop(Spool::open(names(dir.path()), "other", force).expect("a spool"));
        assert_eq!(there(dir.path()), ["log.aof.spool"]);
        std::fs::remove_file(names(dir.path()).state()).expect("it");
        let names = names(dir.path());
        type Damage = fn(&Names);
        let cases: [(&str, Damage); 8] = [
            ("is no manifest of ours", |names| {
                std::fs::write(&names.aof, "*1\r\n$4\r\nPING\r\n").expect("it")
            }),
            ("does not begin as a segment does", |names| {
                std::fs::write(names.segment(3), "*1\r\n$4\r\nPING\r\n").expect("it")
            }),
            ("is not there any more", |names| {
                std::fs::remove_file(&names.rdb).expect("it")
            }),
            ("has 4 bytes where 3", |names| {
                std::fs::write(&names.rdb, "long").expect("it")
            }),
            ("is not there any more", |names| {
                std::fs::remove_file(names.segment(2)).expect("it")
            }),
            ("is not there any more", |names| {
                std::fs::remove_file(names.segment(3)).expect("it")
            }),
            ("the one before it is missing", |names| {
                write_manifest(names, &[1, 3]).expect("it")
            }),
            ("lists files of another log", |names| {
                std::fs::write(&names.aof, "file x.1.incr.aof seq 1 type i\n").expect("it");
            }),
        ];
        for (what, damage) in cases {
            make();
            damage(&names);
            let text = kind(open(dir.path()));
            assert!(
                text.contains(what) && text.contains("--force starts over"),
                "{text}"
            );
            drop(forced(dir.path()).expect("a spool"));
            assert_eq!(there(dir.path()), ["log.aof.spool"], "{what}");
            std::fs::remove_file(names.state()).expect("it");
        }
    }

    #[test]
    fn generations() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = open(dir.path()).expect("a spool");
        // One that was never whole gives its number to the next.
        spool.begin(ID, 5).expect("a beginning");
        spool.create_partial().expect("a file");
        assert!(spool.resume().expect("no error").is_none());
        drop(spool);
        let spool = open(dir.path()).expect("a spool");
        assert_eq!(there(dir.path()).len(), 3);
        take_snapshot(&spool, 100);
        for offset in [100, 200] {
            spool.create_segment(offset, 0).expect("a segment");
        }
        let other = ID.replace('0', "f");
        spool.begin(&other, 7000).expect("a beginning");
        let state = spool.state();
        assert_eq!(
            (state.generation, state.first_seq, state.snapshot_bytes),
            (2, 4, None)
        );
        assert_eq!(
            (&state.replid[..], state.delta_offset, state.reconciled),
            (&other[..], 7000, 1)
        );
        assert!(!names(dir.path()).aof.exists());
        let rdb = spool.rdb_of_previous(1).expect("it");
        assert_eq!(rdb, names(dir.path()).rdb_of(1));
        assert_eq!(std::fs::read(&rdb).expect("it"), b"rdb");
        assert_eq!(
            spool.segments_of_previous(1),
            [1, 2].map(|seq| names(dir.path()).segment(seq))
        );
        // Killed between the state and the renaming.
        drop(spool);
        std::fs::rename(&rdb, names(dir.path()).rdb).expect("it");
        write_manifest(&names(dir.path()), &[1, 2]).expect("it");
        let spool = open(dir.path()).expect("a spool");
        assert!(rdb.exists() && !names(dir.path()).rdb.exists() && !names(dir.path()).aof.exists());
        assert_eq!(
            spool
                .segments_of_previous(1)
                .iter()
                .filter(|path| path.exists())
                .count(),
            2
        );
        // Somebody's, while another one is on its way.
        drop(spool);
        std::fs::write(names(dir.path()).rdb, "precious").expect("a file");
        assert!(kind(open(dir.path())).contains("dump.rdb is there and was not made by this run"));
        let spool = forced(dir.path()).expect("a spool");
        assert!(rdb.exists() && !names(dir.path()).rdb.exists());
        take_snapshot(&spool, 7000);
        let segment = spool.create_segment(7000, 0).expect("a segment");
        assert_eq!(segment.seq, 4);
        drop((segment, spool));
        let spool = open(dir.path()).expect("a spool");
        let resume = spool.resume().expect("no error").expect("a place");
        assert_eq!((resume.segment.seq, resume.offset), (4, 7000));
        spool.forget_previous(1).expect("it is ours");
        assert_eq!(spool.rdb_of_previous(1), None);
        spool.set_reconciled(2).expect("it");
        let state = State::load(&spool.names().state())
            .expect("no error")
            .expect("a state");
        assert_eq!(state, spool.state());
        assert!(state.previous.is_empty() && state.reconciled == 2);
        assert!(!rdb.exists() && !spool.names().segment(1).exists());
        std::fs::write(spool.names().checkpoint(), "x").expect("a file");
        spool.remove().expect("all is ours");
        assert_eq!(there(dir.path()), [""; 0]);
    }
}
