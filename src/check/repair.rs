//! A repaired copy of a log: what stands before the place where it breaks, ends, or reaches a time. The log itself is
//! never touched.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::log::Ending;
use super::set::{Checked, CheckedFile};
use crate::aof::manifest::{Entry, Manifest, append_word};
use crate::aof::set::Set;
use crate::error::{Error, Result};
use crate::file::sync_name;
use crate::input::directory_of;
use crate::pipeline::Progress;

/// What a repaired copy consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Bytes that are kept of each of the first files.
    pub keep: Vec<u64>,
    /// Names of the files that are left out, because they come behind the cut.
    pub left_out: Vec<String>,
    /// Bytes that are left out, these files included.
    pub bytes_left_out: u64,
}

/// Why there can be no repaired copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A snapshot has no place where it could be cut.
    #[error(
        "the snapshot in it is damaged, and a snapshot cannot be cut: --salvage OUT saves its keys"
    )]
    Snapshot,
    /// No log.
    #[error("it is no append-only file; --salvage OUT saves the keys of a snapshot")]
    NoLog,
    /// Something that could not be read as what it must be.
    #[error("a file of it is neither a snapshot nor commands")]
    Unknown,
}

/// Where an input that was checked is to be cut.
pub fn plan(checked: &Checked, set: &Set) -> std::result::Result<Plan, Unfit> {
    let mut plan = Plan {
        keep: Vec::new(),
        left_out: Vec::new(),
        bytes_left_out: 0,
    };
    if checked.files.iter().all(|file| file.log.is_none()) {
        return Err(
            match checked.files.iter().any(|file| file.error.is_some()) {
                true => Unfit::Unknown,
                false => Unfit::NoLog,
            },
        );
    }
    let mut is_cut = false;
    for file in &checked.files {
        if is_cut {
            plan.bytes_left_out += file.file_bytes;
            plan.left_out.push(file.name.clone());
            continue;
        }
        let (keep, all) = kept(file)?;
        plan.bytes_left_out += all - keep;
        plan.keep.push(keep);
        is_cut = file
            .log
            .as_ref()
            .is_some_and(|log| !matches!(log.ending, Ending::Clean));
    }
    // Those behind the time up to which it was read were not looked at.
    for piece in set.pieces.iter().skip(checked.files.len()) {
        plan.bytes_left_out += piece.source.file_bytes;
        plan.left_out.push(piece.source.name.clone());
    }
    Ok(plan)
}

/// Bytes of a file that are kept, and all of them.
fn kept(file: &CheckedFile) -> std::result::Result<(u64, u64), Unfit> {
    if file.error.is_some() {
        return Err(Unfit::Unknown);
    }
    match (&file.snapshot, &file.log) {
        (Some(snapshot), _) if !snapshot.is_whole() => Err(Unfit::Snapshot),
        (_, Some(log)) => Ok((log.ok_up_to, log.size)),
        (Some(snapshot), None) => Ok((snapshot.bytes, snapshot.bytes)),
        (None, None) => Err(Unfit::Unknown),
    }
}

/// Copies the first bytes of a file.
pub fn copy(from: &File, bytes: u64, mut to: impl Write, progress: &Progress) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < bytes {
        progress.check_stop()?;
        let most = buffer
            .len()
            .min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        let n = match from.read_at(&mut buffer[..most], at) {
            // It was cut meanwhile.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other,
        }
        .map_err(|e| Error::io("the log cannot be read", e))?;
        to.write_all(&buffer[..n])
            .map_err(|e| Error::io("the repaired copy cannot be written", e))?;
        at += n as u64;
    }
    Ok(())
}

/// Writes a repaired copy of an append-only file in parts into the directory `out`, which must not be there, nor what
/// [`partial_of`] names: its files by their names, and a manifest that lists these. The directory has its name when all of it is on the disk.
pub fn copy_set(set: &Set, plan: &Plan, out: &Path, progress: &Progress) -> Result<()> {
    let Some(path) = &set.manifest else {
        unreachable!("the caller saw a manifest");
    };
    let failed = |e| Error::io(format!("{} cannot be written", out.display()), e);
    let manifest = Manifest::read(path)?;
    let partial = partial_of(out);
    // What is there already is nobody's to remove: this fails then.
    std::fs::create_dir(&partial).map_err(failed)?;
    let entries = manifest
        .base
        .iter()
        .map(|entry| (entry, 'b'))
        .chain(manifest.incr.iter().map(|entry| (entry, 'i')));
    let mut text = Vec::new();
    let written = entries
        .zip(&set.pieces)
        .zip(&plan.keep)
        .try_for_each(|(((entry, kind), piece), keep)| {
            let name = OsStr::from_bytes(&entry.name);
            let file = File::create_new(partial.join(name)).map_err(failed)?;
            copy(&piece.source.file, *keep, &file, progress)?;
            file.sync_all().map_err(failed)?;
            append_entry(&mut text, entry, kind);
            Ok(())
        })
        .and_then(|()| {
            let name = path
                .file_name()
                .unwrap_or(OsStr::new("appendonly.aof.manifest"));
            let mut file = File::create_new(partial.join(name)).map_err(failed)?;
            file.write_all(&text).map_err(failed)?;
            file.sync_all().map_err(failed)?;
            std::fs::rename(&partial, out).map_err(failed)
        });
    match written {
        Ok(()) => {
            sync_name(out);
            Ok(())
        }
        Err(error) => {
            let _ = std::fs::remove_dir_all(&partial);
            Err(error)
        }
    }
}

/// Where a directory is written until it is whole.
pub fn partial_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    directory_of(out).join(name)
}

/// Appends the line of a file. The offset at which its server closed it is left out: it may have been cut since.
fn append_entry(text: &mut Vec<u8>, entry: &Entry, kind: char) {
    text.extend(b"file ");
    append_word(text, &entry.name);
    text.extend(format!(" seq {} type {kind}", entry.seq).bytes());
    if let Some(offset) = entry.start_offset {
        text.extend(format!(" startoffset {offset}").bytes());
    }
    text.push(b'\n');
}
