//! Small files that are replaced as a whole: checkpoints, manifests, what is told to a collector.
//!
//! The new one is written beside its place and renamed, so that no reader sees half of it. Until then its name is
//! `.redis-migration-NAME`, always the same for one file: the next run takes what a killed one left, and nothing piles up.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Error, Result};
use crate::input::directory_of;

/// Whether a file that was replaced is still whole after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// It is: either the old one or the new one is there.
    Synced,
    /// It may be empty. For what is soon written again, and must not wait for a disk that is busy.
    Unsynced,
}

/// Puts a file in its place as a whole; everybody may read it. Errors: `Io`; the old one is as it was.
pub fn replace(path: &Path, bytes: &[u8], disk: Disk) -> Result<()> {
    let failed = |e| Error::io(format!("{} cannot be written", path.display()), e);
    // Renamed over a device, it would take the device away.
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => return Err(failed(io::ErrorKind::IsADirectory.into())),
        Ok(meta) if !meta.is_file() => {
            return Err(failed(io::Error::other("it is not a regular file")));
        }
        _ => {}
    }
    let write = |mut file: &File| {
        file.write_all(bytes)?;
        // Whoever watches the run, as another user perhaps, must be able to read it.
        file.set_permissions(Permissions::from_mode(0o644))?;
        match disk {
            Disk::Synced => file.sync_all(),
            Disk::Unsynced => Ok(()),
        }
    };
    match aside(path).and_then(|aside| Some((take(&aside, true)?, aside))) {
        Some((file, aside)) => {
            let renamed = file
                .set_len(0)
                .and_then(|()| write(&file))
                .and_then(|()| std::fs::rename(&aside, path));
            if let Err(error) = renamed {
                let _ = std::fs::remove_file(&aside);
                return Err(failed(error));
            }
        }
        // Another run writes it at this moment, or the name is somebody else's: any other will do.
        None => {
            let file = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempfile_in(directory_of(path))
                .map_err(failed)?;
            write(file.as_file()).map_err(failed)?;
            // What cannot be renamed is removed when the error goes.
            file.persist(path).map_err(|e| failed(e.error))?;
        }
    }
    if disk == Disk::Synced {
        sync_name(path);
    }
    Ok(())
}

/// Removes what a killed run left beside a file that it was about to replace.
pub fn remove_leftover(path: &Path) {
    if let Some(aside) = aside(path)
        && let Some(_held) = take(&aside, false)
    {
        let _ = std::fs::remove_file(aside);
    }
}

/// Brings the name of a file to the disk, so that it survives a power cut. Where directories cannot be synced it does
/// not; nothing can be done about it.
pub fn sync_name(path: &Path) {
    if let Ok(dir) = File::open(directory_of(path)) {
        let _ = dir.sync_all();
    }
}

/// What temporary names begin with: nobody else's files have such names.
const PREFIX: &str = ".redis-migration-";

/// What the new file is called until it has its name.
fn aside(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(PREFIX);
    name.push(path.file_name()?);
    Some(directory_of(path).join(name))
}

/// Opens a file of this name for us alone: one that nobody else writes, or that a killed run left. Its lock goes when it
/// is closed. None where the name cannot be used.
fn take(aside: &Path, create: bool) -> Option<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        // In a directory where anybody may write, the name may lead elsewhere, or to a pipe that nobody reads.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
        .open(aside)
        .ok()?;
    let held = file.metadata().ok()?;
    // Another user could go on writing into it, and a file with a second name is not only what it seems.
    let is_ours =
        held.is_file() && held.nlink() <= 1 && held.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || file.try_lock().is_err() {
        return None;
    }
    // Whoever held it before may have given it its name: then it is no temporary file any more.
    let there = std::fs::symlink_metadata(aside).ok()?;
    ((there.dev(), there.ino()) == (held.dev(), held.ino())).then_some(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn there(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<OsString> = fs::read_dir(dir)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_run_left_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.checkpoint");
        let left = aside(&path).expect("a name");
        assert_eq!(left, dir.path().join(".redis-migration-log.checkpoint"));
        for disk in [Disk::Synced, Disk::Unsynced] {
            fs::write(&left, "half of something that is longer").expect("a file");
            fs::set_permissions(&left, Permissions::from_mode(0o600)).expect("it");
            replace(&path, b"whole", disk).expect("room");
            assert_eq!(fs::read(&path).expect("it"), b"whole");
            assert_eq!(there(dir.path()), ["log.checkpoint"]);
            let mode = fs::metadata(&path).expect("it").permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
        fs::write(&left, "half").expect("a file");
        remove_leftover(&path);
        assert_eq!(there(dir.path()), ["log.checkpoint"]);
        remove_leftover(&path);
        assert_eq!(there(dir.path()), ["log.checkpoint"]);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, precious) = (dir.path().join("a"), dir.path().join("precious"));
        let left = aside(&path).expect("a name");
        let kinds: [fn(&Path, &Path); 4] = [
            |precious, left| symlink(precious, left).expect("a link"),
            |precious, left| fs::hard_link(precious, left).expect("a link"),
            |_, left| fs::create_dir(left).expect("a directory"),
            |_, left| {
                let mode = rustix::fs::Mode::from_raw_mode(0o600);
                let fifo = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, left, fifo, mode, 0).expect("a pipe");
            },
        ];
        for kind in kinds {
            fs::write(&precious, "precious").expect("a file");
            kind(&precious, &left);
            replace(&path, b"whole", Disk::Synced).expect("another name");
            remove_leftover(&path);
            assert_eq!(fs::read(&path).expect("it"), b"whole");
            assert_eq!(fs::read(&precious).expect("it"), b"precious");
            assert_eq!(
                there(dir.path()),
                [".redis-migration-a", "a", "precious"],
                "it is not ours, and nothing else is left"
            );
            let _ = fs::remove_file(&left).or_else(|_| fs::remove_dir(&left));
        }
    }

    #[test]
    fn what_fails_leaves_the_old_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        fs::create_dir(&path).expect("a directory");
        let error = replace(&path, b"x", Disk::Unsynced).expect_err("a directory");
        let want = format!("{} cannot be written: is a directory", path.display());
        assert_eq!(error.to_string(), want);
        assert!(replace(Path::new("/dev/null"), b"x", Disk::Unsynced).is_err());
        // A name that is as long as names can be still has room for none beside it that tells of it.
        let long = dir.path().join("x".repeat(255));
        replace(&long, b"x", Disk::Synced).expect("another name");
        assert_eq!(there(dir.path()).len(), 2);
    }

    /// Two runs with one checkpoint are not as it should be, but what they leave is that of one of them.
    #[test]
    fn many_at_once_never_mix() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a");
        let texts: Vec<Vec<u8>> = (0..4_u8)
            .map(|i| vec![b'a' + i; 3000 * usize::from(i + 1)])
            .collect();
        replace(&path, &texts[0], Disk::Unsynced).expect("room");
        std::thread::scope(|scope| {
            for text in &texts {
                scope.spawn(|| {
                    for _ in 0..200 {
                        replace(&path, text, Disk::Unsynced).expect("room");
                        let read = fs::read(&path).expect("it is always there");
                        assert!(texts.contains(&read), "{} bytes", read.len());
                    }
                });
            }
        });
        assert_eq!(there(dir.path()), ["a"]);
    }
}
