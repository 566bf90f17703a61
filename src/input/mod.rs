//! Opens a path or stdin, finds out what it holds and gives its bytes as one slice.
//!
//! A regular uncompressed file is mapped. Whatever cannot be mapped, a pipe or a compressed file, is
//! spooled to an unlinked temporary file first and that is mapped, so that every decoder works on a
//! slice.

mod mmap;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::cursor::At;
use crate::error::{Error, ErrorKind, Result};
pub use mmap::Mapped;

/// An opened input.
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

impl Input {
    /// Opens `path`, or stdin for `-`.
    ///
    /// The file must not be shortened or rewritten in place while the input lives; Redis writes a
    /// snapshot aside and renames it, which is harmless. `stop` ends a long spooling early.
    pub fn open(path: &Path, options: &OpenOptions, stop: &AtomicBool) -> Result<Input> {
        let stdin = path == Path::new("-");
        let name = if stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
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
        if meta.is_dir() {
            return Err(Error::plain(ErrorKind::OtherKind(
                "a directory: this version converts snapshots; name the base .rdb file in it",
            )));
        }
        let origin = (!stdin)
            .then(|| Stamp::of(path))
            .transpose()
            .map_err(io("cannot be read"))?;
        let mappable = meta.is_file() && !options.no_mmap;
        let raw = if mappable {
            Mapped::map(&file).map_err(io("cannot be mapped"))?
        } else {
            let mut spool = Spool::create()?;
            spool.copy(&file, stop, &io("cannot be read"))?;
            spool.into_map()?
        };
        let file_bytes = raw.bytes().len() as u64;
        let start = raw.bytes();
        let mapped = if start.starts_with(&GZIP) {
            let mut spool = Spool::create()?;
            let unpack = flate2::bufread::MultiGzDecoder::new(start);
            spool.copy(unpack, stop, &broken("gzip"))?;
            spool.into_map()?
        } else if start.starts_with(&ZSTD) {
            let mut spool = Spool::create()?;
            let unpack = zstd::stream::read::Decoder::with_buffer(start).map_err(broken("zstd"))?;
            spool.copy(unpack, stop, &broken("zstd"))?;
            spool.into_map()?
        } else {
            raw
        };
        let input = Input {
            name,
            data: Bytes::from_owner(mapped),
            file_bytes,
            origin: origin
                .filter(|_| mappable)
                .map(|stamp| (path.to_owned(), stamp)),
        };
        input.check_kind()?;
        Ok(input)
    }

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

    /// Refuses, by name, kinds of files that belong to other subcommands or versions.
    fn check_kind(&self) -> Result<()> {
        let other = |what| Err(Error::plain(ErrorKind::OtherKind(what)));
        match self.data.first() {
            None => Err(Error::new(
                ErrorKind::Truncated { wanted: 9, left: 0 },
                At::file(0),
            )),
            Some(b'*' | b'#') => other(
                "an append-only file or RESP commands: this version converts snapshots (RDB) only",
            ),
            Some(b'f') if self.data.starts_with(b"file ") => other(
                "a manifest of an append-only file: this version converts snapshots (RDB) only",
            ),
            _ => Ok(()),
        }
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

    fn copy(
        &mut self,
        mut from: impl Read,
        stop: &AtomicBool,
        failed: &dyn Fn(io::Error) -> Error,
    ) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::plain(ErrorKind::Stopped));
            }
            match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => self.write(&buffer[..n])?,
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
