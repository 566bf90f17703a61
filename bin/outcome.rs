//! Error or rejected keys → exit code.

use std::process::ExitCode;

use redis_migration::command::encode::OnError;
use redis_migration::sink::file::OpenError;
use redis_migration::{Error, ErrorKind};

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked is done.
    Done,
    /// Finished, but something was rejected.
    Rejected,
    /// Wrong usage.
    Usage,
    /// Input corrupt, truncated or of an unknown version.
    Corrupt,
    /// The destination cannot be reached, or refused the login.
    Unreachable,
    /// Stopped by policy.
    Policy,
    /// A local file could not be read or written.
    LocalFile,
    /// `--lock`, or a file of the spool, is held by another run.
    Locked,
    /// Interrupted by this signal.
    Signal(i32),
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Rejected => 1,
            Exit::Usage => 2,
            Exit::Corrupt => 3,
            Exit::Unreachable => 4,
            Exit::Policy => 5,
            Exit::LocalFile => 74,
            Exit::Locked => 75,
            Exit::Signal(signal) => 128 + signal as u8,
        }
    }

    /// The code for a library error.
    pub fn of(error: &Error) -> Exit {
        match error.kind() {
            ErrorKind::Io { .. } => Exit::LocalFile,
            ErrorKind::Unreachable { .. } | ErrorKind::Login { .. } => Exit::Unreachable,
            ErrorKind::Databases(_)
            | ErrorKind::Unfit(_)
            | ErrorKind::Command { .. }
            | ErrorKind::UnknownEffect { .. }
            | ErrorKind::LogGone(_)
            | ErrorKind::NoTimes
            | ErrorKind::BaseTooNew
            | ErrorKind::BadCheckpoint { .. }
            | ErrorKind::Exists { .. }
            | ErrorKind::PayloadVersion { .. }
            | ErrorKind::Lost { .. }
            | ErrorKind::Refused { .. }
            | ErrorKind::SpoolForeign { .. }
            | ErrorKind::SpoolDamaged { .. } => Exit::Policy,
            ErrorKind::SpoolInUse { .. } => Exit::Locked,
            _ => Exit::Corrupt,
        }
    }
}

impl From<&OpenError> for Exit {
    /// The code for an output that was not opened.
    fn from(error: &OpenError) -> Exit {
        match error {
            OpenError::Exists(_) => Exit::Policy,
            OpenError::Busy(_) => Exit::Locked,
            OpenError::Directory(_) | OpenError::Io { .. } => Exit::LocalFile,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Whether a write failed because nobody reads the pipe any more.
pub fn is_broken_pipe(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Ends the program as a program ends that never heard of SIGPIPE: silently, and the shell sees 141. Not every
/// byte arrived, so it must not look like success.
pub fn die_by_sigpipe() -> ! {
    let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
    std::process::exit(141)
}

/// What a person can do about an error, as a sentence that follows another one; empty where there is nothing.
pub fn next(error: &Error, on_error: OnError) -> String {
    next_step(error, on_error).map_or(String::new(), |step| format!(" Next: {step}."))
}

/// The same for those who read keys and write none: what the flags of the others do is not to be had there.
pub fn next_of_reading(error: &Error) -> String {
    match error.kind() {
        // What can be done about a refusal is said of commands that write.
        ErrorKind::Refused { .. } => String::new(),
        _ => match next(error, OnError::Stop) {
            step if step.contains("--on-error") => {
                " Next: redis-migration check tells what of it is whole, and check --salvage OUT saves that.".to_owned()
            }
            step => step,
        },
    }
}

/// What a person can do about an error, where there is something.
fn next_step(error: &Error, on_error: OnError) -> Option<&'static str> {
    if on_error == OnError::Continue && Exit::of(error) == Exit::Corrupt {
        return Some("compare what was kept with what you expect before you use it");
    }
    Some(match error.kind() {
        ErrorKind::Checksum { .. } => {
            "the file was damaged after it was written: fetch it again, or save what can be read with --on-error continue"
        }
        ErrorKind::Truncated { .. } | ErrorKind::BadCount { .. } => {
            "the file is not whole: was it copied while it was written? Fetch it again, or save what can be read with --on-error continue"
        }
        ErrorKind::UnknownVersion { .. } | ErrorKind::UnknownType { .. } => {
            "a newer redis-migration may know it; --on-error continue keeps what stands before it"
        }
        ErrorKind::NotRdb { .. } => {
            "is it the right file? A snapshot begins with REDIS or VALKEY, an append-only file with * or #"
        }
        ErrorKind::BadLog { .. } => {
            "if nothing of use stands behind it, redis-migration check --repair OUT writes a copy of what stands before it"
        }
        ErrorKind::TornLog { .. } => "was it copied while it was written? Fetch it again",
        ErrorKind::Command { .. } => {
            "--on-error continue leaves out such commands and lists them with --rejects FILE; --not-key and --not-db leave them out by name"
        }
        ErrorKind::UnknownEffect { .. } => "let a server load the log, and take a snapshot of that",
        ErrorKind::MissingPart { .. } => {
            "was the directory copied while the server rewrote its log? Copy it again, all files of one moment"
        }
        ErrorKind::NoManifest { .. } => {
            "name the directory that holds the manifest, usually appendonlydir"
        }
        ErrorKind::SeveralManifests { .. } => "name the manifest instead of the directory",
        ErrorKind::BadLine { .. } => {
            "correct the line, or make the file again; nothing of it was used"
        }
        ErrorKind::NoTimes => "give a byte offset instead",
        ErrorKind::BaseTooNew => "an older backup is needed",
        ErrorKind::BadManifest { .. } | ErrorKind::BadPart { .. } => {
            "servers would refuse it too; compare it with the files beside it"
        }
        ErrorKind::BadCheckpoint { .. } => {
            "is it the right file? To start over, remove it and empty the destination"
        }
        ErrorKind::Packed { .. } => "fetch the file again",
        ErrorKind::Exists { .. } => {
            "--on-exist skip leaves such keys as they are, --on-exist replace replaces them"
        }
        ErrorKind::PayloadVersion { .. } => {
            "the server is older than it said: --mode commands needs no payloads, --target-version names its version"
        }
        ErrorKind::Refused { .. } => {
            "act on the server's words; --on-error continue leaves out what is refused for good and lists it with --rejects FILE"
        }
        ErrorKind::OtherKind(_) | ErrorKind::LogGone(_) | ErrorKind::Vkcs | ErrorKind::Changed => {
            return None;
        }
        ErrorKind::Databases(_) | ErrorKind::Stopped => return None,
        ErrorKind::SpoolInUse { .. }
        | ErrorKind::SpoolForeign { .. }
        | ErrorKind::SpoolDamaged { .. } => return None,
        // Their sentences say it themselves: it depends on what the server answered.
        ErrorKind::Unreachable { .. } | ErrorKind::Login { .. } | ErrorKind::Unfit(_) => {
            return None;
        }
        ErrorKind::Io { source, .. } => match source.kind() {
            std::io::ErrorKind::StorageFull => "free some space and run the same command again",
            std::io::ErrorKind::FileTooLarge => {
                "raise the limit of the size of files (ulimit -f) and run the same command again"
            }
            std::io::ErrorKind::PermissionDenied => {
                "run it as a user who may, or change the file's permissions"
            }
            _ => return None,
        },
        _ => {
            "--on-error continue leaves out keys that cannot be read and lists them with --rejects FILE"
        }
    })
}
