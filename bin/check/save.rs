//! What is written where something can be saved: never over what was read, and under its name only when it is whole.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redis_migration::aof::set::{Piece, Role, Set};
use redis_migration::check::Options;
use redis_migration::check::repair::{Plan, copy, copy_set, partial_of, plan};
use redis_migration::check::salvage::{Salvaged, salvage};
use redis_migration::check::set::Checked;
use redis_migration::check::snapshot;
use redis_migration::input::{OpenOptions, Source, directory_of};
use redis_migration::pipeline::Progress;
use redis_migration::sink::file::{FileSink, OpenError};
use redis_migration::{Error, ErrorKind};

use super::CheckArgs;
use crate::outcome::Exit;

/// What was saved, and where.
#[derive(Debug)]
pub enum Saved {
    /// Keys of a damaged snapshot.
    Snapshot {
        path: PathBuf,
        salvaged: Box<Salvaged>,
        /// Whether what was written was read again and found whole.
        is_whole: bool,
        /// Whether the damaged one has a checksum that matches all the same, so that what decodes is what was written.
        is_vouched: bool,
        /// Commands that belong behind it and are not in it, in the order of loading.
        not_in_it: Vec<NotInIt>,
    },
    /// A repaired copy of a log.
    Log { path: PathBuf, plan: Plan },
    /// Nothing, for there was no need.
    NoNeed,
}

/// Commands that were not saved with the snapshot before them.
#[derive(Debug)]
pub struct NotInIt {
    /// Their file.
    pub name: String,
    /// The first of them.
    pub from: u64,
    pub bytes: u64,
}

/// Why nothing could be saved.
#[derive(Debug)]
pub struct Refused {
    pub text: String,
    pub exit: Exit,
    /// Whether it was the wish of whoever runs it.
    pub is_stop: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused {
            text: error.to_string(),
            exit: Exit::of(&error),
            is_stop: is_stopped(&error),
        }
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Refused {
        Refused {
            text: error.to_string(),
            exit: Exit::from(&error),
            is_stop: false,
        }
    }
}

fn policy(text: String) -> Refused {
    Refused {
        text,
        exit: Exit::Policy,
        is_stop: false,
    }
}

/// What cannot be asked for together.
pub fn usage(args: &CheckArgs) -> Result<(), String> {
    let save = &args.save;
    if save.force && save.salvage.is_none() && save.repair.is_none() {
        return Err("--force is for --salvage and --repair".to_owned());
    }
    let several = args.input.inputs.len() > 1;
    for (given, flag) in [
        (save.salvage.is_some(), "--salvage"),
        (save.repair.is_some(), "--repair"),
        (save.truncate_to.is_some(), "--truncate-to"),
    ] {
        if given && several {
            return Err(format!("{flag} takes one input: a file or a directory"));
        }
    }
    Ok(())
}

/// Saves what was asked for.
pub fn save(
    args: &CheckArgs,
    checked: &Checked,
    set: &Set,
    options: &Options,
    progress: &Progress,
) -> Result<Option<Saved>, Refused> {
    match (&args.save.salvage, &args.save.repair) {
        (Some(out), _) => save_snapshot(args, out, checked, set, options, progress).map(Some),
        (None, Some(out)) => save_log(args, out, checked, set, progress).map(Some),
        (None, None) => Ok(None),
    }
}

fn save_snapshot(
    args: &CheckArgs,
    out: &Path,
    checked: &Checked,
    set: &Set,
    options: &Options,
    progress: &Progress,
) -> Result<Saved, Refused> {
    let damaged = checked.files.iter().zip(&set.pieces).find(|(file, _)| {
        file.snapshot
            .as_ref()
            .is_some_and(|snapshot| !snapshot.is_whole())
    });
    let Some((file, piece)) = damaged else {
        return match checked.files.iter().any(|file| file.snapshot.is_some()) {
            true => Ok(Saved::NoNeed),
            false => Err(policy(format!(
                "{}: there is no snapshot in it; --repair OUT makes a copy of a log up to where it breaks",
                checked.name
            ))),
        };
    };
    not_in_place(out, set)?;
    let input = piece.source.snapshot(piece.role != Role::Alone)?;
    let mut sink = FileSink::create(out, args.save.force)?;
    match salvage(&input.data, &mut sink, options.most, progress) {
        Ok((salvaged, _)) => {
            sink.finish()?;
            // What is given to a server should not be taken for good unread.
            let written = Source::open(out, &OpenOptions::default(), &progress.stop)?;
            let again = snapshot::check(&written.snapshot(false)?, options, progress)?;
            let is_vouched = file
                .snapshot
                .as_ref()
                .is_some_and(|s| matches!(s.checksum, snapshot::Checksum::Matches(_)));
            Ok(Saved::Snapshot {
                path: out.to_owned(),
                is_whole: again.is_whole(),
                is_vouched,
                not_in_it: not_in_it(&salvaged, &input.data, piece, set),
                salvaged: Box::new(salvaged),
            })
        }
        Err(error) => {
            sink.discard();
            Err(error.into())
        }
    }
}

/// The commands that belong behind a snapshot: those behind it in its file, and files behind that.
fn not_in_it(salvaged: &Salvaged, data: &[u8], piece: &Piece, set: &Set) -> Vec<NotInIt> {
    let behind = salvaged
        .end
        .filter(|end| matches!(data.get(*end as usize), Some(b'*' | b'#')))
        .map(|from| NotInIt {
            name: piece.source.name.clone(),
            from,
            bytes: data.len() as u64 - from,
        });
    let others = set
        .pieces
        .iter()
        .skip_while(|other| !std::ptr::eq(*other, piece))
        .skip(1)
        .filter(|other| other.source.file_bytes > 0)
        .map(|other| NotInIt {
            name: other.source.name.clone(),
            from: 0,
            bytes: other.source.file_bytes,
        });
    behind.into_iter().chain(others).collect()
}

fn save_log(
    args: &CheckArgs,
    out: &Path,
    checked: &Checked,
    set: &Set,
    progress: &Progress,
) -> Result<Saved, Refused> {
    let plan = plan(checked, set).map_err(|why| policy(format!("{}: {why}", checked.name)))?;
    if plan.bytes_left_out == 0 && args.save.truncate_to.is_none() {
        return Ok(Saved::NoNeed);
    }
    not_in_place(out, set)?;
    match (&set.manifest, &set.pieces[..]) {
        (None, [piece]) => {
            let mut sink = FileSink::create(out, args.save.force)?;
            let keep = plan.keep.first().copied().unwrap_or(0);
            match copy(&piece.source.file, keep, &mut sink, progress) {
                Ok(()) => sink.finish()?,
                Err(error) => {
                    sink.discard();
                    return Err(error.into());
                }
            }
        }
        _ => {
            // A directory of somebody else's would go with all that is in it, so none is replaced.
            if out.exists() {
                return Err(policy(format!(
                    "{} exists already, and a directory is not replaced: remove it, or name another one",
                    out.display()
                )));
            }
            let partial = partial_of(out);
            if partial.symlink_metadata().is_ok() {
                return Err(policy(format!(
                    "{} exists: a killed run may have left it, or it is something else; remove it, or name another OUT",
                    partial.display()
                )));
            }
            copy_set(set, &plan, out, progress)?;
        }
    }
    Ok(Saved::Log {
        path: out.to_owned(),
        plan,
    })
}

/// What is read must not be written over, by whatever name.
fn not_in_place(out: &Path, set: &Set) -> Result<(), Refused> {
    let place = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let paths = set
        .pieces
        .iter()
        .filter_map(|piece| piece.source.path.as_deref());
    let dirs = set.manifest.as_deref().map(directory_of);
    for path in paths.chain(set.manifest.as_deref()).chain(dirs) {
        for out in [out, &partial_of(out)] {
            if place(out).is_some() && place(out) == place(path) {
                return Err(policy(format!(
                    "{} is what is read; nothing is repaired in place, also with --force",
                    out.display()
                )));
            }
        }
    }
    Ok(())
}

/// Whether an error of the run is the end of it.
pub fn is_stopped(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Stopped)
}
