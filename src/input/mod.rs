//! Opens a path or stdin and finds out what it holds.
//!
//! A snapshot in a regular uncompressed file is mapped. Whatever cannot be mapped, a pipe or a compressed file, is
//! spooled to an unlinked temporary file first and that is mapped, so that every decoder works on a
//! slice. A log is read, never mapped: somebody may be writing it.

mod mmap;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::jsonl;
pub use mmap::Mapped;

/// A file that was opened and looked at, and not read yet.
#[derive(Debug)]
pub struct Source {
    /// As the user named it; `stdin` for `-`.
    pub name: String,
    /// Where it is; `None` for stdin.
    pub path: Option<PathBuf>,
    /// What it holds, found from its first bytes.
    pub kind: Kind,
    /// Its bytes, unpacked where it was compressed. They can be read at any place.
    pub file: File,
    /// Bytes of the file as it stands, before unpacking.
    pub file_bytes: u64,
    /// Whether it was written as JSON lines; `file` has what they stand for.
    pub is_lines: bool,
    origin: Option<(PathBuf, Stamp)>,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A snapshot, or an append-only file that begins with one.
    Snapshot,
    /// Commands: an append-only file, or a command file.
    Log,
    /// Keys or commands as JSON lines. Whoever opens such a file gets what it stands for, a snapshot or a log.
    JsonLines,
    /// The manifest of an append-only file in parts.
    Manifest,
    /// A directory.
    Directory,
    /// Nothing.
    Empty,
    /// Something else.
    Unknown,
}

/// A snapshot, ready to be decoded.
#[derive(Debug)]
pub struct Input {
    /// As the user named it; `stdin` for `-`.
    pub name: String,
    /// Its bytes, unpacked where it was compressed.
    pub data: Bytes,
    /// Bytes of the file as it stands, before unpacking.
    pub file_bytes: u64,
    origin: Option<(PathBuf, Stamp)>,
}

/// How an input is opened.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Copy the file instead of mapping it: for files that something may shorten in place.
    pub no_mmap: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let meta = std::fs::metadata(path)?;
        Ok(Stamp {
            len: meta.len(),
            modified: meta.modified().ok(),
        })
    }
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

impl Kind {
    /// What a file is that begins with these bytes, a thousand of them if it has as many.
    fn of(head: &[u8]) -> Kind {
        // A manifest may begin with comments, as a log may with annotations.
        let mut lines = head.split(|b| *b == b'\n');
        let first = lines.find(|line| !line.starts_with(b"#"));
        match head {
            [] => Kind::Empty,
            [b'*', ..] => Kind::Log,
            [b'#' | b'f' | b'F', ..] if first.is_some_and(is_manifest_line) => Kind::Manifest,
            [b'#', ..] => Kind::Log,
            [b'R', b'E', ..] | [b'V', b'A', ..] | [b'V', b'K', ..] => Kind::Snapshot,
            [b'{', ..] | [0xef, 0xbb, 0xbf, b'{', ..] => Kind::JsonLines,
            _ => Kind::Unknown,
        }
    }
}

fn is_manifest_line(line: &[u8]) -> bool {
    // The words stand in any order; servers write `file` first.
    ["file ", "seq ", "type "].iter().any(|word| {
        line.len() > word.len() && line[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    })
}

impl Source {
    /// Opens `path`, or stdin for `-`. What cannot be read at any place, a pipe or a compressed file, is copied to a
    /// temporary file first; `stop` ends a long copying early.
    pub fn open(path: &Path, options: &OpenOptions, stop: &AtomicBool) -> Result<Source> {
        let stdin = path == Path::new("-");
        let name = name_of(path);
        let io = |what: &str| {
            let what = format!("{name} {what}");
            move |e: io::Error| Error::io(what.clone(), e)
        };
        let file = if stdin {
            use std::os::fd::AsFd;
            File::from(
                io::stdin()
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(io("stdin cannot be read"))?,
            )
        } else {
            File::open(path).map_err(io("cannot be opened"))?
        };
        let meta = file.metadata().map_err(io("cannot be read"))?;
        let path = (!stdin).then(|| path.to_owned());
        if meta.is_dir() {
            return Ok(Source {
                name,
                path,
                kind: Kind::Directory,
                file,
                file_bytes: 0,
                is_lines: false,
                origin: None,
            });
        }
        let origin = path
            .as_deref()
            .map(Stamp::of)
            .transpose()
            .map_err(io("cannot be read"))?;
        // A log is never mapped, so it need not be copied to be safe.
        let is_mapped = |head: &[u8]| matches!(Kind::of(head), Kind::Snapshot | Kind::JsonLines);
        let in_place = meta.is_file()
            && (!options.no_mmap || !is_mapped(&head_of(&file).map_err(io("cannot be read"))?));
        let (file, file_bytes) = if in_place {
            (file, meta.len())
        } else {
            let mut spool = Spool::create()?;
            let bytes = spool.copy(&file, stop, &io("cannot be read"))?;
            (spool.file, bytes)
        };
        let head = head_of(&file).map_err(io("cannot be read"))?;
        let unpacked = if head.starts_with(&GZIP) {
            let mut spool = Spool::create()?;
            rewind(&file).map_err(io("cannot be read"))?;
            let unpack =
                flate2::bufread::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 18, &file));
            spool.copy(unpack, stop, &broken("gzip"))?;
            Some(spool.file)
        } else if head.starts_with(&ZSTD) {
            let mut spool = Spool::create()?;
            rewind(&file).map_err(io("cannot be read"))?;
            let unpack = zstd::stream::read::Decoder::new(&file).map_err(broken("zstd"))?;
            spool.copy(unpack, stop, &broken("zstd"))?;
            Some(spool.file)
        } else {
            None
        };
        let mut untouched = in_place && unpacked.is_none();
        let mut file = unpacked.unwrap_or(file);
        let mut head = head_of(&file).map_err(io("cannot be read"))?;
        let is_lines = Kind::of(&head) == Kind::JsonLines;
        if is_lines {
            let lines = Mapped::map(&file).map_err(io("cannot be mapped"))?;
            file = jsonl::read::load(lines.bytes(), stop)?.into_file();
            untouched = false;
            head = head_of(&file).map_err(io("cannot be read"))?;
        }
        Ok(Source {
            name,
            path,
            kind: Kind::of(&head),
            file,
            file_bytes,
            is_lines,
            origin: None,
        }
        .stamped(origin.filter(|_| untouched)))
    }

    /// A regular file that is open already.
    pub fn of_file(name: &str, file: File) -> Result<Source> {
        let failed = |e| Error::io(format!("{name} cannot be read"), e);
        let head = head_of(&file).map_err(failed)?;
        Ok(Source {
            name: name.to_owned(),
            path: None,
            kind: Kind::of(&head),
            file_bytes: file.metadata().map_err(failed)?.len(),
            is_lines: false,
            file,
            origin: None,
        })
    }

    fn stamped(mut self, stamp: Option<Stamp>) -> Source {
        self.origin = self.path.clone().zip(stamp);
        self
    }

    /// Maps it, to be decoded as a snapshot.
    ///
    /// The file must not be shortened or rewritten in place while the input lives; Redis writes a
    /// snapshot aside and renames it, which is harmless.
    ///
    /// `growing`: the snapshot is the first part of a log that somebody may be writing to, so that a change of the file's
    /// size says nothing about it.
    pub fn snapshot(&self, growing: bool) -> Result<Input> {
        let mapped = Mapped::map(&self.file)
            .map_err(|e| Error::io(format!("{} cannot be mapped", self.name), e))?;
        Ok(Input {
            name: self.name.clone(),
            data: Bytes::from_owner(mapped),
            file_bytes: self.file_bytes,
            origin: self.origin.clone().filter(|_| !growing),
        })
    }
}

/// A path as messages name it.
pub fn name_of(path: &Path) -> String {
    if path == Path::new("-") {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

/// The directory in which a path stands.
pub fn directory_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

fn rewind(mut file: &File) -> io::Result<()> {
    file.seek(io::SeekFrom::Start(0)).map(drop)
}

fn head_of(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; 1024];
    let mut len = 0;
    while len < head.len() {
        match file.read_at(&mut head[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    head.truncate(len);
    Ok(head)
}

impl Input {
    /// Wraps bytes that are in memory already.
    pub fn from_bytes(name: &str, data: impl Into<Bytes>) -> Input {
        let data = data.into();
        Input {
            name: name.to_owned(),
            file_bytes: data.len() as u64,
            data,
            origin: None,
        }
    }

    /// Whether the file changed while it was mapped, which makes everything read from it doubtful.
    pub fn changed(&self) -> bool {
        self.origin
            .as_ref()
            .is_some_and(|(path, stamp)| match Stamp::of(path) {
                // A new snapshot renamed over ours leaves our bytes alone; only a file rewritten in
                // place keeps its inode, and the map follows that one by itself.
                Ok(now) => now != *stamp && same_file(path, &self.data, now.len),
                Err(_) => false,
            })
    }
}

/// Whether the file now at `path` can be the one that is mapped: same length range and same head.
fn same_file(path: &Path, data: &[u8], len: u64) -> bool {
    let mut head = [0; 64];
    let n = data.len().min(head.len()).min(len as usize);
    File::open(path)
        .and_then(|mut f| f.read_exact(&mut head[..n]))
        .is_ok()
        && head[..n] == data[..n]
}

fn broken(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |e| match e.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::InvalidData
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Other => Error::plain(ErrorKind::Packed {
            what,
            why: e.to_string(),
        }),
        _ => Error::io(format!("{what} data cannot be read"), e),
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Write::write(&mut self.file, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An unlinked temporary file that is filled and then mapped.
#[derive(Debug)]
pub struct Spool {
    file: File,
}

impl Spool {
    /// In the directory for temporary files.
    pub fn create() -> Result<Spool> {
        let file = tempfile::tempfile().map_err(|e| {
            Error::io(
                format!("no temporary file in {}", std::env::temp_dir().display()),
                e,
            )
        })?;
        Ok(Spool { file })
    }

    /// Appends.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io("temporary file cannot be written (see --tmp-dir)", e))
    }

    /// What was written, to be read again.
    pub fn into_file(self) -> File {
        self.file
    }

    fn copy(
        &mut self,
        mut from: impl Read,
        stop: &AtomicBool,
        failed: &dyn Fn(io::Error) -> Error,
    ) -> Result<u64> {
        let mut buffer = vec![0; 256 << 10];
        let mut copied = 0;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::plain(ErrorKind::Stopped));
            }
            match from.read(&mut buffer) {
                Ok(0) => return Ok(copied),
                Ok(n) => {
                    self.write(&buffer[..n])?;
                    copied += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// Maps what was written.
    pub fn into_map(self) -> Result<Mapped> {
        Mapped::map(&self.file).map_err(|e| Error::io("temporary file cannot be mapped", e))
    }
}
