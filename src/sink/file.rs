//! A RESP command file: stdout, a pipe, or a file that gets its name when it is whole.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Sink;
use crate::error::{Error, Result};
use crate::file::sync_name;
use crate::resp::write::Block;

/// Writes to a file, a pipe or a terminal.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    name: String,
    atomic: Option<Atomic>,
}

/// A file that is written to, and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its device.
    pub dev: u64,
    /// Its inode.
    pub inode: u64,
    /// Bytes in it.
    pub bytes: u64,
}

#[derive(Debug)]
struct Atomic {
    partial: PathBuf,
    target: PathBuf,
}

/// Why an output file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is there already.
    #[error("{} exists already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// Another run is writing it.
    #[error("{} is being written by another run", .0.display())]
    Busy(PathBuf),
    /// It is a directory.
    #[error("{} is a directory", .0.display())]
    Directory(PathBuf),
    /// The system's word.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Pipes are raised to this size: fewer switches between writer and reader.
const PIPE_BYTES: usize = 1 << 20;

impl FileSink {
    /// Stdout, whatever it is.
    pub fn stdout() -> io::Result<FileSink> {
        use std::os::fd::AsFd;
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        // Not a pipe, or no right to a larger one: the size it has will do.
        let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
        Ok(FileSink {
            file,
            name: "stdout".to_owned(),
            atomic: None,
        })
    }

    /// `path`, written beside its place as `path.partial` and renamed by [`finish`](Self::finish). A
    /// device or a pipe is written as it is.
    pub fn create(path: &Path, force: bool) -> std::result::Result<FileSink, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let name = path.display().to_string();
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(OpenError::Directory(path.to_owned())),
            Ok(meta) if !meta.is_file() => {
                let file = OpenOptions::new()
                    .write(true)
                    .open(path)
                    .map_err(io(path))?;
                let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_BYTES);
                return Ok(FileSink {
                    file,
                    name,
                    atomic: None,
                });
            }
            Ok(_) if !force => return Err(OpenError::Exists(path.to_owned())),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io(path)(e)),
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            // In a directory where anybody may write, the name may lead to a file that is to be emptied.
            .custom_flags(OFlags::NOFOLLOW.bits() as i32)
            .open(&partial)
            .map_err(io(&partial))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy(partial)),
            Err(TryLockError::Error(e)) => return Err(io(&partial)(e)),
        }
        // What an earlier run left of itself goes only now that nobody is writing it.
        file.set_len(0).map_err(io(&partial))?;
        let atomic = Some(Atomic {
            partial,
            target: path.to_owned(),
        });
        Ok(FileSink { file, name, atomic })
    }

    /// `path`, appended to in place, for output that never is whole. `known` says whether a file that is there already
    /// may be gone on with; with `force` one that may not is emptied.
    pub fn append(
        path: &Path,
        force: bool,
        known: impl FnOnce(&Place) -> bool,
    ) -> std::result::Result<FileSink, OpenError> {
        let io = |source| OpenError::Io {
            path: path.to_owned(),
            source,
        };
        let name = path.display().to_string();
        match std::fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(OpenError::Directory(path.to_owned())),
            Ok(meta) if !meta.is_file() => return FileSink::create(path, force),
            _ => {}
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Busy(path.to_owned())),
            Err(TryLockError::Error(e)) => return Err(io(e)),
        }
        let sink = FileSink {
            file,
            name,
            atomic: None,
        };
        if let Some(place) = sink.place().map_err(io)?
            && place.bytes > 0
            && !known(&place)
        {
            if !force {
                return Err(OpenError::Exists(path.to_owned()));
            }
            sink.file.set_len(0).map_err(io)?;
        }
        Ok(sink)
    }

    /// Which file it is and how long; `None` for a pipe or a device.
    pub fn place(&self) -> io::Result<Option<Place>> {
        use std::os::unix::fs::MetadataExt;
        let meta = self.file.metadata()?;
        Ok(meta.is_file().then(|| Place {
            dev: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
        }))
    }

    /// Takes back what a file holds behind `bytes`.
    pub fn cut(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        // Only what was opened for appending finds the new end by itself.
        self.file.seek(io::SeekFrom::End(0)).map(drop)
    }

    /// Brings what was written to disk; a pipe has none.
    pub fn sync(&self) -> Result<()> {
        match self.place() {
            Ok(Some(_)) => self.file.sync_data(),
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        }
        .map_err(|e| Error::io(format!("{} cannot be written", self.name), e))
    }

    /// Where the bytes are until [`finish`](Self::finish): `….partial`, or nothing that can be named.
    pub fn partial(&self) -> Option<&Path> {
        self.atomic.as_ref().map(|a| a.partial.as_path())
    }

    /// Gives a whole file its name, after its bytes are on disk.
    pub fn finish(&mut self) -> Result<()> {
        let Some(Atomic { partial, target }) = self.atomic.take() else {
            return Ok(());
        };
        let failed = |e| Error::io(format!("{} cannot be completed", target.display()), e);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&partial, &target).map_err(failed)?;
        sync_name(&target);
        Ok(())
    }

    /// Removes what was written, where nothing of use was.
    pub fn discard(self) {
        if let Some(Atomic { partial, .. }) = self.atomic {
            let _ = std::fs::remove_file(partial);
        }
    }
}

impl Sink for FileSink {
    fn write(&mut self, blocks: &[Block]) -> Result<()> {
        let failed = |name: &str, e| Error::io(format!("{name} cannot be written"), e);
        if let [block] = blocks {
            return self
                .file
                .write_all(block.bytes())
                .map_err(|e| failed(&self.name, e));
        }
        let mut slices: Vec<IoSlice<'_>> = blocks.iter().map(|b| IoSlice::new(b.bytes())).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.file.write_vectored(left) {
                Ok(0) => return Err(failed(&self.name, io::ErrorKind::WriteZero.into())),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(&self.name, e)),
            }
        }
        Ok(())
    }
}

/// For what is not made of commands.
impl Write for FileSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_not_followed_to_what_it_leads_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, precious) = (dir.path().join("out"), dir.path().join("precious"));
        std::fs::write(&precious, "precious").expect("a file");
        std::os::unix::fs::symlink(&precious, dir.path().join("out.partial")).expect("a link");
        let error = FileSink::create(&path, true).expect_err("a link");
        assert!(matches!(error, OpenError::Io { .. }), "{error}");
        assert_eq!(std::fs::read(&precious).expect("it"), b"precious");
    }
}
