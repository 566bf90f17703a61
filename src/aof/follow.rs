//! A log that grows: where it goes on when a file has nothing more.
//!
//! A server appends to one file. When it rewrites its log it goes on in another one: from 7.0 on in the next
//! incremental file of the manifest, before that in a new file of the same name that begins with everything there was.
//! Both are followed without replaying what is known already. What cannot be followed exactly ends the run.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::checkpoint::{HEAD_MAX, Head};
use super::manifest::{Entry, Manifest};
use super::read::{Event, Reader, Tail, TailKind, Until};
use super::set::{is_gone, open_part, preface};
use super::watch::Watch;
use crate::cursor::At;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Kind, OpenOptions, Source, directory_of};
use crate::rdb::scan::{Along, Scanner};

/// A server's writes are looked for this often where nothing tells of them.
const LOOK: Duration = Duration::from_millis(50);

/// So many of the last bytes that were taken are looked at again.
const TAIL: usize = 256;

/// Follows a log from file to file.
#[derive(Debug)]
pub struct Follower {
    /// The file of one, or the manifest.
    path: PathBuf,
    /// Number of the incremental file; `None` for a log of one file.
    seq: Option<u64>,
    inode: u64,
    /// Its first bytes, and the last ones that were taken, as they were before the last wait.
    head: Head,
    tail: Vec<u8>,
    /// Replication offset at which the server closed the present file, where it says so.
    closed_at: Option<u64>,
    reader: Reader,
    until: Option<Until>,
    watch: Watch,
    /// What comes behind the present file, which is read to its end once more first.
    next: Option<Next>,
}

#[derive(Debug)]
enum Next {
    /// The next incremental file.
    Incr(u64, Source),
    /// A file that took the name of this one.
    Replaced(File),
}

/// What to do when a file has no more for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read on: there may be more in the same file.
    Again,
    /// Read on in the next file.
    NextFile {
        /// Its database is 0; otherwise the present one stays, because it goes on in the middle.
        afresh: bool,
    },
    /// Wait.
    Wait,
}

impl Follower {
    /// Goes on with `reader`, in the incremental file `seq` of the manifest at `path`, or in the file at `path`.
    pub fn new(
        path: &Path,
        seq: Option<u64>,
        reader: Reader,
        until: Option<Until>,
    ) -> Result<Follower> {
        let mut watch = Watch::new();
        watch.follow(directory_of(path));
        Ok(Follower {
            path: path.to_owned(),
            seq,
            inode: inode(&reader)?,
            head: head_of(&reader, 0)?,
            tail: Vec::new(),
            closed_at: None,
            reader,
            until,
            watch,
            next: None,
        })
    }

    /// The present file.
    pub fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Number of the present incremental file.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// Whether no other file is known to come behind the present one.
    pub fn is_last(&self) -> bool {
        self.next.is_none()
    }

    /// Waits until something may have been written. Errors: `LogGone` where the file does not hold any more what was
    /// taken from it.
    pub fn wait(&mut self) -> Result<()> {
        self.watch.wait(LOOK);
        // What is read now is taken only if it still stands behind what was read before.
        self.reader.read_ahead()?;
        self.check_cut()?;
        if head_of(&self.reader, self.head.len)? != self.head
            || last_taken(&self.reader, self.tail.len())? != self.tail
        {
            return Err(gone(format!(
                "{} holds other bytes than those that were taken from it: it was overwritten, or cut and appended to",
                self.reader.name()
            )));
        }
        Ok(())
    }

    /// What to do where the present file has no more; it ends in `tail`.
    pub fn step(&mut self, tail: Tail) -> Result<Step> {
        if let Some(next) = self.next.take() {
            return self.enter(next, tail);
        }
        if self.seq.is_some() {
            if let Some((seq, source)) = self.next_incr()? {
                self.next = Some(Next::Incr(seq, source));
                return Ok(Step::Again);
            }
        } else if let Some(file) = self.replaced()? {
            self.next = Some(Next::Replaced(file));
            return Ok(Step::Again);
        }
        self.check_cut()?;
        if self.head.len < HEAD_MAX {
            self.head = head_of(&self.reader, self.reader.offset())?;
        }
        self.tail = last_taken(&self.reader, TAIL)?;
        Ok(Step::Wait)
    }

    /// A server cuts off what it could not write whole. What was cut off further up had been taken already.
    fn check_cut(&mut self) -> Result<()> {
        let len = self
            .reader
            .file()
            .metadata()
            .map_err(|e| Error::io(format!("{} cannot be read", self.reader.name()), e))?
            .len();
        if len >= self.reader.read_to() {
            if !self.reader.unfinished_is_there()? {
                self.reader.forget_unfinished();
            }
            return Ok(());
        }
        let taken = self.reader.offset();
        if len < taken {
            return Err(gone(format!(
                "{} was cut to {len} bytes, and {taken} were written already: the server lost commands that the output holds",
                self.reader.name()
            )));
        }
        self.reader.forget_unfinished();
        Ok(())
    }

    /// The incremental file that follows the present one, once the manifest lists it.
    fn next_incr(&mut self) -> Result<Option<(u64, Source)>> {
        let Some(seq) = self.seq else { return Ok(None) };
        let manifest = match Manifest::read(&self.path) {
            Ok(manifest) => manifest,
            // It is replaced by a rename; for that moment a directory may even be away.
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let has_seq = |entry: &&Entry| entry.seq == seq;
        let incr = manifest.incr.iter().find(has_seq);
        let history = manifest.history.iter().find(has_seq);
        // The line goes with the file, and what it said must be known when the next one comes. It says nothing again where
        // the server goes on in the same file.
        match (incr, history) {
            (Some(entry), _) => self.closed_at = entry.end_offset,
            (None, Some(entry)) => self.closed_at = entry.end_offset.or(self.closed_at),
            (None, None) => {}
        }
        if let Some(ours) = incr.or(history) {
            let path = manifest.path_of(&self.path, ours)?;
            if std::fs::metadata(path).is_ok_and(|meta| meta.ino() != self.inode) {
                return Err(gone(format!(
                    "{} was replaced by another file of its name: the log was started anew",
                    self.reader.name()
                )));
            }
        }
        let Some(next) = manifest.incr.iter().find(|entry| entry.seq > seq) else {
            if manifest.incr.last().is_some_and(|last| last.seq < seq) || manifest.incr.is_empty() {
                return Err(gone(format!(
                    "{} is not listed any more, and no later file is: the log was started anew",
                    self.reader.name()
                )));
            }
            return Ok(None);
        };
        if next.seq != seq + 1 {
            return Err(gone(format!(
                "behind incremental file {seq} the manifest lists {}: files between them are missing",
                next.seq
            )));
        }
        // Servers of 8.0 on note their replication offsets. Where these are the same nothing is proved: without replicas
        // they do not move while the log is off. But then the file comes in another way than by a rewrite.
        let moved =
            matches!((self.closed_at, next.start_offset), (Some(end), Some(start)) if end != start);
        if moved || self.watch.was_renamed_to(OsStr::from_bytes(&next.name)) {
            return Err(gone(format!(
                "the log was switched off between incremental files {seq} and {}, and what happened meanwhile is in the new base only",
                next.seq
            )));
        }
        let stop = AtomicBool::new(false);
        match open_part(&manifest, &self.path, next, &OpenOptions::default(), &stop) {
            Ok(source) => Ok(Some((next.seq, source))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file that took the present one's name.
    fn replaced(&self) -> Result<Option<File>> {
        let failed = |e| Error::io(format!("{} cannot be opened", self.path.display()), e);
        let file = match File::open(&self.path) {
            Ok(file) => file,
            // Between two renames, or for a while.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let inode = file.metadata().map_err(failed)?.ino();
        Ok((inode != self.inode).then_some(file))
    }

    /// Goes over to the next file, where the present one was read to its end.
    fn enter(&mut self, next: Next, tail: Tail) -> Result<Step> {
        if tail.kind != TailKind::Clean {
            return Err(torn_inside(tail));
        }
        let lenient = self.reader.lenient();
        let (name, file, from, afresh) = match next {
            Next::Incr(seq, source) => {
                self.seq = Some(seq);
                (source.name, source.file, 0, true)
            }
            Next::Replaced(file) => {
                let from = self.place_in(&file)?;
                (self.reader.name().to_owned(), file, from, false)
            }
        };
        let reader = Reader::new(file, &name, from, lenient, self.until);
        self.inode = inode(&reader)?;
        self.head = head_of(&reader, 0)?;
        self.tail.clear();
        self.closed_at = None;
        self.reader = reader;
        Ok(Step::NextFile { afresh })
    }

    /// Where in a rewritten file the log goes on: behind the snapshot that it begins with, and behind what was logged
    /// while that was written, which both files hold. Both begin that part with a SELECT.
    fn place_in(&self, file: &File) -> Result<u64> {
        let name = self.reader.name();
        let failed = |e| Error::io(format!("{name} cannot be read"), e);
        let unclear = |why: &str| {
            gone(format!(
                "{name} was rewritten, and where its new file goes on cannot be told for certain: {why}"
            ))
        };
        let Some(base) = self.snapshot_end(file)? else {
            return Err(unclear("it does not begin with a snapshot as a log does"));
        };
        let meta = file.metadata().map_err(failed)?;
        let new_len = meta.len();
        if new_len == base {
            return Ok(base);
        }
        let (old, end) = (self.reader.file(), self.reader.offset());
        let place_behind = |select: u64| -> Result<Option<u64>> {
            let len = end - select;
            let fits = len <= new_len - base
                && same_bytes((old, select), (file, base), len).map_err(failed)?;
            Ok(fits.then_some(base + len))
        };
        let mut places = Vec::new();
        for select in self.reader.selects().rev() {
            places.extend(place_behind(select)?);
        }
        if places.is_empty() {
            // It is further up: there were very many since, or this run began behind it.
            self.for_each_select(|select| {
                places.extend(place_behind(select)?);
                Ok(())
            })?;
        }
        // The server's child creates the new file at the moment from which on commands are in both. Where the old one was
        // not written since, the new one may go on with the same bytes and mean others.
        let modified = old.metadata().and_then(|meta| meta.modified());
        let at_rest =
            matches!((meta.created(), modified), (Ok(born), Ok(written)) if written <= born);
        match places[..] {
            [place] if !at_rest => Ok(place),
            [] if at_rest => Ok(base),
            [] => Err(unclear("it does not go on with the end of the old one")),
            [_] => Err(unclear(
                "it goes on with what the old one ends with, which may be the same again",
            )),
            _ => Err(unclear(
                "it goes on with what the old one holds several times",
            )),
        }
    }

    /// Bytes of the snapshot that a log begins with; none if the file begins with something else.
    fn snapshot_end(&self, file: &File) -> Result<Option<u64>> {
        let name = self.reader.name();
        let file = file
            .try_clone()
            .map_err(|e| Error::io(format!("{name} cannot be read"), e))?;
        let source = Source::of_file(name, file)?;
        if source.kind != Kind::Snapshot {
            return Ok(None);
        }
        let input = source.snapshot(true)?;
        if !preface(&input.data).is_preamble {
            return Ok(None);
        }
        let mut scanner = Scanner::new(&input.data, Along::Off, false, false)?;
        while scanner.next_task()?.is_some() {}
        Ok(Some(scanner.info.end.unwrap_or(0)))
    }

    /// Reads the present file once more, from its beginning to where it was read, for the offsets of its SELECTs.
    fn for_each_select(&self, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let (name, end) = (self.reader.name(), self.reader.offset());
        let from = self.snapshot_end(self.reader.file())?.unwrap_or(0);
        let file = self
            .reader
            .file()
            .try_clone()
            .map_err(|e| Error::io(format!("{name} cannot be read"), e))?;
        let until = Some(Until::Offset(end));
        let mut reader = Reader::new(file, name, from, self.reader.lenient(), until);
        let plain = |name: &[u8], _| {
            !["SELECT", "MULTI", "EXEC", "DISCARD"]
                .iter()
                .any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
        };
        loop {
            match reader.next(plain)? {
                Event::Command { offset, command }
                    if command.name().eq_ignore_ascii_case(b"SELECT") =>
                {
                    each(offset)?;
                }
                Event::Dry | Event::Until => return Ok(()),
                _ => {}
            }
        }
    }
}

/// The error of a file that ends in the middle of something although others come after it.
pub fn torn_inside(tail: Tail) -> Error {
    let what = match tail.kind {
        TailKind::Transaction { .. } => "a transaction, and it is not the last file",
        _ => "a command, and it is not the last file",
    };
    let keeps = tail.whole;
    Error::new(ErrorKind::TornLog { what, keeps }, At::file(tail.whole))
}

fn gone(why: String) -> Error {
    Error::plain(ErrorKind::LogGone(why))
}

fn inode(reader: &Reader) -> Result<u64> {
    reader
        .file()
        .metadata()
        .map(|meta| meta.ino())
        .map_err(|e| Error::io(format!("{} cannot be read", reader.name()), e))
}

/// The first bytes of the present file.
fn head_of(reader: &Reader, len: u64) -> Result<Head> {
    Head::of(reader.file(), len)
        .map_err(|e| Error::io(format!("{} cannot be read", reader.name()), e))
}

/// The last bytes of the present file that were taken; none if it does not reach so far.
fn last_taken(reader: &Reader, len: usize) -> Result<Vec<u8>> {
    let end = reader.offset();
    let from = end.saturating_sub(len as u64);
    let mut bytes = vec![0; (end - from) as usize];
    match reader.file().read_exact_at(&mut bytes, from) {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
        Err(e) => Err(Error::io(format!("{} cannot be read", reader.name()), e)),
    }
}

/// Whether `len` bytes of two files are the same.
fn same_bytes(a: (&File, u64), b: (&File, u64), len: u64) -> io::Result<bool> {
    let (mut one, mut two) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut done = 0;
    while done < len {
        // Most differ soon.
        let most = if done == 0 { 512 } else { one.len() };
        let n = (len - done).min(most as u64) as usize;
        a.0.read_exact_at(&mut one[..n], a.1 + done)?;
        b.0.read_exact_at(&mut two[..n], b.1 + done)?;
        if one[..n] != two[..n] {
            return Ok(false);
        }
        done += n as u64;
    }
    Ok(true)
}
