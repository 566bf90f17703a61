//! What belongs to an input: the file itself, or the files that a manifest lists, in the order in which servers load
//! them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::checkpoint::{LogPlace, unescape};
use super::manifest::{Entry, Manifest};
use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{Kind, OpenOptions, Source, directory_of};
use crate::rdb::scan::{Along, Scanner};
use crate::rdb::{Format, Reader, Record, plain_text};

/// A file to convert, with its place in the whole.
#[derive(Debug)]
pub struct Piece {
    /// The file.
    pub source: Source,
    /// Its place.
    pub role: Role,
}

impl Piece {
    /// What a snapshot says of the whole; nothing where it is no snapshot or cannot be read.
    pub fn preface(&self) -> Preface {
        self.source
            .snapshot(true)
            .map_or_else(|_| Preface::default(), |input| preface(&input.data))
    }
}

/// What a file is to the log that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A file by itself.
    Alone,
    /// The base that a manifest lists.
    Base,
    /// An incremental file that a manifest lists.
    Incr {
        /// Its number.
        seq: u64,
        /// Whether no other comes after it.
        last: bool,
    },
}

/// An input with everything that belongs to it.
#[derive(Debug)]
pub struct Set {
    /// In the order of loading.
    pub pieces: Vec<Piece>,
    /// Where the manifest is, if there is one.
    pub manifest: Option<PathBuf>,
    /// Files beside the manifest that look like parts and are not listed.
    pub foreign: Vec<OsString>,
}

/// A manifest is read again this often where a file that it lists was gone: its server replaces it meanwhile.
const TRIES: usize = 20;

impl Set {
    /// Opens an input: a file, a manifest, or a directory with one.
    pub fn open(path: &Path, options: &OpenOptions, stop: &AtomicBool) -> Result<Set> {
        let source = Source::open(path, options, stop)?;
        let manifest = match source.kind {
            Kind::Directory => Manifest::find(path)?,
            Kind::Manifest => path.to_owned(),
            _ => {
                return Ok(Set {
                    pieces: vec![Piece {
                        source,
                        role: Role::Alone,
                    }],
                    manifest: None,
                    foreign: Vec::new(),
                });
            }
        };
        let mut tries = 0;
        loop {
            match Set::listed(&manifest, options, stop) {
                Err(error) if tries < TRIES && is_gone(&error) => {
                    tries += 1;
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                other => return other,
            }
        }
    }

    fn listed(path: &Path, options: &OpenOptions, stop: &AtomicBool) -> Result<Set> {
        let manifest = Manifest::read(path)?;
        let open = |entry: &Entry, role: Role| {
            Ok(Piece {
                source: open_part(&manifest, path, entry, options, stop)?,
                role,
            })
        };
        let mut pieces = Vec::new();
        if let Some(base) = &manifest.base {
            pieces.push(open(base, Role::Base)?);
        }
        for (i, entry) in manifest.incr.iter().enumerate() {
            let last = i + 1 == manifest.incr.len();
            pieces.push(open(
                entry,
                Role::Incr {
                    seq: entry.seq,
                    last,
                },
            )?);
        }
        let foreign = manifest.foreign(directory_of(path)).unwrap_or_default();
        Ok(Set {
            pieces,
            manifest: Some(path.to_owned()),
            foreign,
        })
    }
}

/// Opens a file that a manifest lists.
pub fn open_part(
    manifest: &Manifest,
    manifest_path: &Path,
    entry: &Entry,
    options: &OpenOptions,
    stop: &AtomicBool,
) -> Result<Source> {
    let path = manifest.path_of(manifest_path, entry)?;
    let source = Source::open(&path, options, stop).map_err(|error| match error.kind() {
        ErrorKind::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            let name = OsStr::from_bytes(&entry.name)
                .to_string_lossy()
                .into_owned();
            Error::plain(ErrorKind::MissingPart { name })
        }
        _ => error,
    })?;
    match source.kind {
        // What is neither is broken, and whoever reads it says where.
        Kind::Snapshot | Kind::Log | Kind::Empty | Kind::Unknown => Ok(source),
        Kind::JsonLines | Kind::Manifest | Kind::Directory => {
            Err(Error::plain(ErrorKind::BadPart {
                name: source.name,
                why: "which holds neither a snapshot nor commands".to_owned(),
            }))
        }
    }
}

/// Whether a file that a manifest lists is not there.
pub fn is_gone(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::MissingPart { .. } => true,
        ErrorKind::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

/// The files that are left to convert for a run that goes on at `place`. Errors: the file of that place is not there any
/// more, is another one, or is not followed by the next one.
///
/// `kept` is a second name that an earlier run may have given the file.
pub fn resume(
    pieces: Vec<Piece>,
    manifest: Option<&Path>,
    place: &LogPlace,
    kept: &Path,
) -> Result<Vec<Piece>> {
    let gone = |why: String| {
        Error::plain(ErrorKind::LogGone(format!(
            "the checkpoint tells of {}, and {why}; what it was cannot be gone on with. To start over, remove the checkpoint \
             and empty the destination",
            place.file
        )))
    };
    let same = |source: &Source| match place.differs(&source.file)? {
        Some(why) => Err(gone(why)),
        None => Ok(()),
    };
    let Some(seq) = place.seq else {
        let mut pieces = pieces;
        return match &pieces[..] {
            [piece] if manifest.is_none() => same(&piece.source).map(|()| pieces),
            // A server of 7.0 or later took the old file as its base.
            [piece, ..] if piece.role == Role::Base && named(&piece.source, &place.file) => {
                same(&piece.source)?;
                if let [first, ..] = &mut pieces[..] {
                    first.role = Role::Incr {
                        seq: 0,
                        last: false,
                    };
                }
                Ok(pieces)
            }
            _ => Err(gone("the input is not that file".to_owned())),
        };
    };
    let number = |piece: &Piece| match piece.role {
        Role::Incr { seq, .. } => Some(seq),
        _ => None,
    };
    let Some(manifest) = manifest else {
        return Err(gone("the input has no incremental files".to_owned()));
    };
    let mut left: Vec<Piece> = pieces
        .into_iter()
        .filter(|piece| number(piece).is_some_and(|n| n >= seq))
        .collect();
    if left.first().and_then(number) != Some(seq) {
        // The server does not list it any more. It may not have removed it yet, or an earlier run kept it.
        let own = directory_of(manifest).join(unescape(&place.file).unwrap_or_default());
        let open = |path: &Path| {
            Source::open(path, &OpenOptions::default(), &AtomicBool::new(false))
                .ok()
                .filter(|source| matches!(place.differs(&source.file), Ok(None)))
        };
        let source = open(&own).or_else(|| open(kept)).ok_or_else(|| {
            gone(
                "the log was rewritten since, and that file is gone with what it had got meanwhile"
                    .to_owned(),
            )
        })?;
        if left.first().and_then(number) != Some(seq + 1) {
            return Err(gone(format!("incremental file {} is not there", seq + 1)));
        }
        let role = Role::Incr { seq, last: false };
        left.insert(0, Piece { source, role });
    }
    same(&left[0].source)?;
    Ok(left)
}

fn named(source: &Source, name: &str) -> bool {
    let path = source.path.as_deref().and_then(Path::file_name);
    path.is_some_and(|path| Some(path) == unescape(name).as_deref())
}

/// Bytes of a snapshot up to its end, where it is whole and commands follow it.
pub fn end_of_snapshot(data: &[u8]) -> Option<u64> {
    let mut scanner = Scanner::new(data, Along::Off, false, false).ok()?;
    while scanner.next_task().ok()?.is_some() {}
    scanner.info.end.filter(|_| scanner.info.commands_follow)
}

/// What the first records of a snapshot say of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Preface {
    /// It was written as the first part of an append-only file.
    pub is_preamble: bool,
    /// When it was written, in Unix milliseconds.
    pub written_ms: Option<i64>,
}

/// Reads the fields that stand before the first key of a snapshot. What is broken is left to whoever converts it.
pub fn preface(data: &[u8]) -> Preface {
    let mut preface = Preface::default();
    let mut c = Cursor::new(data, 0);
    let Ok(format) = Format::parse(&mut c, true) else {
        return preface;
    };
    let mut reader = Reader::new(Cursor::new(data, 0), format, c.pos());
    while let Ok(Record::Aux { name, value }) = reader.next() {
        match (&plain_text(name)[..], &plain_text(value)[..]) {
            (b"aof-preamble" | b"aof-base", value) => preface.is_preamble |= value != b"0",
            (b"ctime", value) => {
                preface.written_ms = std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse::<i64>().ok())
                    .map(|seconds| seconds.saturating_mul(1000));
            }
            _ => {}
        }
    }
    preface
}
