//! An input with everything that belongs to it: the file itself, or the files that a manifest lists.

use std::path::PathBuf;

use super::log::{self, Ending, Log};
use super::resync::is_mark;
use super::snapshot::{self, Snapshot};
use super::wording::Doing;
use super::{Fault, Options, Verdict};
use crate::aof::read::{Reader, Until};
use crate::aof::set::{Piece, Role, Set};
use crate::cursor::At;
use crate::dataset::is_log_by_name;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Kind;
use crate::pipeline::Progress;

/// What was found out about an input.
#[derive(Debug)]
pub struct Checked {
    /// As the user named it.
    pub name: String,
    /// Its manifest, if there is one.
    pub manifest: Option<PathBuf>,
    /// Its files, in the order of loading.
    pub files: Vec<CheckedFile>,
    /// Files beside the manifest that look like parts and are not listed.
    pub foreign: Vec<std::ffi::OsString>,
}

/// What was found out about a file.
#[derive(Debug)]
pub struct CheckedFile {
    /// As messages name it.
    pub name: String,
    /// Bytes of the file as it stands, before unpacking.
    pub file_bytes: u64,
    /// Its place in the whole.
    pub role: Role,
    /// The snapshot that it is, or begins with.
    pub snapshot: Option<Snapshot>,
    /// The commands that it is, or that follow the snapshot.
    pub log: Option<Log>,
    /// What is wrong with a file that is neither.
    pub error: Option<Error>,
}

impl CheckedFile {
    /// What is to be said of it in one word.
    pub fn verdict(&self) -> Verdict {
        if self.error.is_some() || self.snapshot.as_ref().is_some_and(|s| !s.is_whole()) {
            return Verdict::Damaged;
        }
        match self.log.as_ref().map(|log| &log.ending) {
            None | Some(Ending::Clean | Ending::Until) => Verdict::Whole,
            // Servers do not start then: what follows was written by one that had this part whole.
            Some(Ending::Torn(_)) if !self.is_last() => Verdict::Damaged,
            Some(Ending::Torn(_)) => Verdict::Torn,
            Some(Ending::Broken(_)) => Verdict::Damaged,
        }
    }

    /// Whether its end is the end of the whole.
    pub fn is_last(&self) -> bool {
        match self.role {
            Role::Alone => true,
            Role::Base => false,
            Role::Incr { last, .. } => last,
        }
    }
}

impl Checked {
    /// What is to be said of it in one word.
    pub fn verdict(&self) -> Verdict {
        let worst = self.files.iter().map(CheckedFile::verdict).max();
        worst.unwrap_or(Verdict::Whole)
    }
}

/// Checks all files of an input. Errors: what has nothing to do with their contents.
pub fn check(
    name: &str,
    set: &Set,
    options: &Options,
    until: Option<Until>,
    progress: &Progress,
) -> Result<Checked> {
    let mut files = Vec::new();
    let single = set.pieces.len() == 1;
    for piece in &set.pieces {
        let mut file = check_piece(piece, options, until, progress)?;
        // A base without incremental files is the last one too.
        if single && file.role == Role::Base {
            file.role = Role::Alone;
        }
        let stop = matches!(
            file.log,
            Some(Log {
                ending: Ending::Until,
                ..
            })
        );
        files.push(file);
        if stop {
            break;
        }
    }
    let mut logs = files.iter().filter_map(|file| file.log.as_ref());
    if matches!(until, Some(Until::TimeMs(_))) && !logs.any(|log| log.is_timed) {
        return Err(Error::plain(ErrorKind::NoTimes));
    }
    Ok(Checked {
        name: name.to_owned(),
        manifest: set.manifest.clone(),
        files,
        foreign: set.foreign.clone(),
    })
}

fn check_piece(
    piece: &Piece,
    options: &Options,
    until: Option<Until>,
    progress: &Progress,
) -> Result<CheckedFile> {
    let source = &piece.source;
    let mut file = CheckedFile {
        name: source.name.clone(),
        file_bytes: source.file_bytes,
        role: piece.role,
        snapshot: None,
        log: None,
        error: None,
    };
    let read_log = |from: u64| -> Result<Log> {
        let handle = source
            .file
            .try_clone()
            .map_err(|e| Error::io(format!("{} cannot be read", source.name), e))?;
        let mut reader = Reader::new(handle, &source.name, from, false, until);
        log::check(&mut reader, progress)
    };
    match source.kind {
        Kind::Snapshot => {
            let preface = piece.preface();
            // The time it was written is told in seconds.
            if let (Some(Until::TimeMs(until)), Some(written)) = (until, preface.written_ms)
                && written > until + 999
            {
                return Err(Error::plain(ErrorKind::BaseTooNew));
            }
            let input = source.snapshot(piece.role != Role::Alone || preface.is_preamble)?;
            let mut snapshot = snapshot::check(&input, options, progress)?;
            let info = &snapshot.info;
            // A snapshot that begins a log is followed by commands or by nothing; what follows another one is nobody's.
            let goes_on = info.trailing > 0 && (info.commands_follow || preface.is_preamble);
            if let (true, Some(end)) = (goes_on, info.end) {
                file.log = Some(read_log(end)?);
            }
            // Servers load such a file and ignore them. An end of an altered file, or a second file behind it, looks so.
            if let (false, Some(end)) = (goes_on, info.end)
                && info.trailing > 0
                && !is_mark(&input.data[end as usize..])
            {
                snapshot.faults.push(Fault {
                    error: Error::new(ErrorKind::Trailing(info.trailing), At::file(end)),
                    type_byte: None,
                    doing: Doing::ReadType,
                });
            }
            file.snapshot = Some(snapshot);
        }
        Kind::Log | Kind::Empty
            if source.kind == Kind::Log || piece.role != Role::Alone || is_log_by_name(piece) =>
        {
            file.log = Some(read_log(0)?);
        }
        Kind::Log | Kind::Empty | Kind::Unknown => {
            file.error = Some(Error::plain(ErrorKind::OtherKind(match source.kind {
                Kind::Empty => "the file is empty",
                _ => {
                    "neither a snapshot nor commands: a snapshot begins with REDIS or VALKEY, an append-only file with * or #"
                }
            })));
        }
        Kind::JsonLines | Kind::Manifest | Kind::Directory => {
            unreachable!("a set holds files only")
        }
    }
    Ok(file)
}
