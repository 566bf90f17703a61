//! How far a log was converted, kept in a file between two runs.
//!
//! It is JSON, for programs as well as for people. It names the log's file by more than its name,
//! because a server may replace a file by another one of the same name: by inode and by its first
//! bytes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::encoding::crc64::crc64;
use crate::error::{Error, ErrorKind, Result};
use crate::file::{Disk, replace};

/// Most bytes that [`Head`] looks at.
pub const HEAD_MAX: u64 = 4096;

/// Larger files are no checkpoints.
const FILE_MAX: u64 = 1 << 20;

/// The state between two steps of a conversion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// [`Checkpoint::PROGRAM`], by which the file is known.
    pub program: String,
    /// [`Checkpoint::FORMAT`]; it rises when the meaning of a field changes.
    pub format: u64,
    /// The input as the user named it, by [`escape`].
    pub input: String,
    /// How far the log was read; none for "not at all".
    pub log: Option<LogPlace>,
    /// How far the output was written.
    pub output: OutputPlace,
    /// Commands written in all.
    pub commands: u64,
    /// True while a run is under way: what the output holds beyond [`OutputPlace::bytes`] belongs to
    /// no finished step. False after a clean end.
    pub open: bool,
    /// When the file was written (RFC 3339).
    pub written_at: Timestamp,
}

/// A place in a log, between two commands and outside a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogPlace {
    /// Name of the file without its directory, by [`escape`].
    pub file: String,
    /// The manifest's sequence of an incr file; none for a log of one file.
    pub seq: Option<u64>,
    /// The file's inode.
    pub inode: u64,
    /// The file's first bytes.
    pub head: Head,
    /// End of the last whole command outside MULTI, in bytes.
    pub offset: u64,
    /// The bytes before it, as far as they were looked at.
    #[serde(default)]
    pub tail: Option<Head>,
    /// The database that is selected there.
    pub db: u64,
    /// The last time annotation before it, in Unix milliseconds.
    pub time_ms: Option<i64>,
}

/// The first bytes of a file, or the last ones before a place in it, by which it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// How many there were, up to [`HEAD_MAX`].
    pub len: u64,
    /// Their CRC-64 in 16 hexadecimal digits.
    pub crc64: String,
}

/// How far the output was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputPlace {
    /// The output's file; none for a pipe or a server.
    pub file: Option<OutputFile>,
    /// The database that is selected at the end of the output; none before the first SELECT.
    pub db: Option<u64>,
    /// Bytes written in all.
    pub bytes: u64,
}

/// A file that the output went to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputFile {
    /// Its path, by [`escape`]; none for a redirected stdout.
    pub path: Option<String>,
    /// Its device.
    pub dev: u64,
    /// Its inode.
    pub inode: u64,
    /// Its length.
    pub bytes: u64,
}

impl Checkpoint {
    /// What [`Checkpoint::program`] says.
    pub const PROGRAM: &'static str = "redis-migration";

    /// What [`Checkpoint::format`] says.
    pub const FORMAT: u64 = 1;

    /// Reads a checkpoint; none if there is no such file. Errors: `Io`, and `BadCheckpoint` for a
    /// file that is something else, of another format, or damaged.
    pub fn load(path: &Path) -> Result<Option<Checkpoint>> {
        load_with(path, Checkpoint::parse)
    }

    fn parse(text: &[u8]) -> std::result::Result<Checkpoint, String> {
        let checkpoint: Checkpoint = parse_json(text, Self::PROGRAM, Self::FORMAT)?;
        if let Some(place) = &checkpoint.log {
            place.check()?;
        }
        Ok(checkpoint)
    }

    /// Writes it beside its place and renames it: after a failure, or a power cut at any moment, the
    /// old one is whole. Errors: `Io`.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

/// Writes a small file of JSON beside its place and renames it: after a failure, or a power cut at any moment, the old
/// one is whole. Errors: `Io`.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let failed =
        |e: serde_json::Error| Error::io(format!("{} cannot be written", path.display()), e.into());
    let mut text = serde_json::to_vec_pretty(value).map_err(failed)?;
    text.push(b'\n');
    replace(path, &text, Disk::Synced)
}

impl Head {
    /// Of the first `len` bytes of a file, at most [`HEAD_MAX`]; fewer if the file has fewer. The
    /// file's own position stays where it is.
    pub fn of(file: &File, len: u64) -> io::Result<Head> {
        Head::from(file, 0, len)
    }

    /// Of the last bytes before `end`, [`HEAD_MAX`] at most.
    pub fn before(file: &File, end: u64) -> io::Result<Head> {
        let len = end.min(HEAD_MAX);
        Head::from(file, end - len, len)
    }

    fn from(file: &File, begin: u64, len: u64) -> io::Result<Head> {
        let mut bytes = vec![0; len.min(HEAD_MAX) as usize];
        let mut read = 0;
        while read < bytes.len() {
            match file.read_at(&mut bytes[read..], begin + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Head {
            len: read as u64,
            crc64: format!("{:016x}", crc64(&bytes[..read])),
        })
    }
}

/// Reads a file that `parse` understands; none if there is no such file. Errors: `Io`, and `BadCheckpoint` with what
/// `parse` says.
pub fn load_with<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> std::result::Result<T, String>,
) -> Result<Option<T>> {
    let failed = |e| Error::io(format!("{} cannot be read", path.display()), e);
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(FILE_MAX + 1)
            .read_to_end(&mut text)
            .map_err(failed)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    parse(&text).map(Some).map_err(|why| {
        Error::plain(ErrorKind::BadCheckpoint {
            path: path.display().to_string(),
            why,
        })
    })
}

/// What a checkpoint says, if `program` wrote it in `format`. Errors: why it is none, in words.
pub fn parse_json<T: for<'de> Deserialize<'de>>(
    text: &[u8],
    program: &str,
    format: u64,
) -> std::result::Result<T, String> {
    /// What every format has: enough to tell whose file it is.
    #[derive(Deserialize)]
    struct Any {
        program: String,
        format: u64,
    }
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    if text.len() as u64 > FILE_MAX {
        return Err("it is larger than any checkpoint".to_owned());
    }
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| format!("it is not whole JSON: {e}"))?;
    let any = Any::deserialize(&value).ok();
    match any.filter(|any| any.program == program) {
        None => return Err(format!("it was not written by {program}")),
        Some(any) if any.format != format => {
            return Err(format!(
                "it has format {}, and this version reads format {format}",
                any.format,
            ));
        }
        Some(_) => {}
    }
    T::deserialize(value).map_err(|e| format!("a field is damaged: {e}"))
}

impl LogPlace {
    /// Whether it can be one at all. Errors: what is wrong with it.
    pub fn check(&self) -> std::result::Result<(), String> {
        // It is opened in the log's directory and must not lead out of there.
        let is_name = unescape(&self.file).is_some_and(|name| {
            let name = name.as_bytes();
            !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/') && !name.contains(&0)
        });
        if !is_name {
            return Err(format!("its log {:?} is not the name of a file", self.file));
        }
        let is_whole =
            |head: &Head| head.len <= HEAD_MAX && head.crc64.len() == 16 && is_hex(&head.crc64);
        if !is_whole(&self.head) {
            return Err("what it says of the log's first bytes is damaged".to_owned());
        }
        if !self.tail.as_ref().is_none_or(is_whole) {
            return Err("what it says of the log's last bytes is damaged".to_owned());
        }
        Ok(())
    }

    /// In what an open file differs from the one that was read, in words; none if it is the same
    /// and still has what was read. It may have grown. Errors: `Io`.
    pub fn differs(&self, file: &File) -> Result<Option<String>> {
        let failed = |e| Error::io(format!("{} cannot be read", self.file), e);
        let meta = file.metadata().map_err(failed)?;
        let mut found = Vec::new();
        if meta.ino() != self.inode {
            found.push(format!(
                "its inode is {} and was {}",
                meta.ino(),
                self.inode
            ));
        }
        if meta.len() < self.offset {
            found.push(format!(
                "it has {} bytes and {} were read already",
                grouped(meta.len()),
                grouped(self.offset)
            ));
        }
        let head = Head::of(file, self.head.len).map_err(failed)?;
        if head.len < self.head.len {
            // Said already where more than these was read.
            if meta.len() >= self.offset {
                found.push(format!(
                    "it has {} bytes and its first {} are known",
                    grouped(head.len),
                    grouped(self.head.len)
                ));
            }
        } else if head != self.head {
            found.push(format!("its first {} bytes differ", grouped(head.len)));
        }
        // A log that lost its end, with the machine that wrote it, and grew again.
        if let Some(tail) = self.tail.as_ref().filter(|_| found.is_empty())
            && Head::before(file, self.offset).map_err(failed)? != *tail
        {
            found.push(format!(
                "the {} bytes before byte {} are not those that were read",
                grouped(tail.len),
                grouped(self.offset)
            ));
        }
        Ok((!found.is_empty()).then(|| found.join(", ")))
    }
}

/// Where [`keep`] keeps an incremental file for the checkpoint at `path`.
pub fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".kept");
    PathBuf::from(name)
}

/// Gives the incremental file that a checkpoint tells of a second name beside the checkpoint, so that what the server
/// appends to it before it rewrites its log, and then removes the file, is still there for the next run. On another file
/// system, or without the right to, it does nothing.
///
/// `before` is the place of which the file had the name until now; a file that is not ours keeps it. Returns the place
/// of which the file has it.
pub fn keep(
    path: &Path,
    log_dir: &Path,
    place: &LogPlace,
    before: Option<LogPlace>,
) -> Option<LogPlace> {
    let (Some(_), Some(name)) = (place.seq, unescape(&place.file)) else {
        return before;
    };
    let kept = kept(path);
    let is_of = |place: &LogPlace| {
        File::open(&kept).is_ok_and(|file| matches!(place.differs(&file), Ok(None)))
    };
    if std::fs::symlink_metadata(&kept).is_ok() {
        if is_of(place) {
            return Some(place.clone());
        }
        if !before.as_ref().is_some_and(is_of) {
            return before;
        }
        drop(std::fs::remove_file(&kept));
    }
    if std::fs::hard_link(log_dir.join(name), &kept).is_err() {
        return None;
    }
    if is_of(place) {
        return Some(place.clone());
    }
    // Another file has taken the log's name meanwhile.
    drop(std::fs::remove_file(&kept));
    None
}

/// A name as text, without loss: a backslash becomes `\\`, and a byte that is not part of a UTF-8
/// character becomes `\x` and two hexadecimal digits. Most names stay as they are.
pub fn escape(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The name that [`escape`] made into a text; none if it never makes such a text.
pub fn unescape(text: &str) -> Option<OsString> {
    let mut name = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                name.push(b'\\');
                rest = after;
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| is_hex(d))?;
                name.push(u8::from_str_radix(digits, 16).ok()?);
                rest = after;
            }
            (b'\\', _) => return None,
            (byte, _) => name.push(*byte),
        }
    }
    let name = OsString::from_vec(name);
    (escape(&name) == text).then_some(name)
}

/// Digits as this program writes them.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A number with commas between thousands.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn sample() -> Checkpoint {
        Checkpoint {
            program: Checkpoint::PROGRAM.to_owned(),
            format: Checkpoint::FORMAT,
            input: "/data/appendonlydir".to_owned(),
            log: Some(LogPlace {
                file: "appendonly.aof.2.incr.aof".to_owned(),
                seq: Some(2),
                inode: 77,
                head: Head {
                    len: 9,
                    crc64: "e9c6d914c4b8d9ca".to_owned(),
                },
                offset: 1234,
                tail: None,
                db: 3,
                time_ms: Some(1_700_000_000_000),
            }),
            output: OutputPlace {
                file: Some(OutputFile {
                    path: Some("out.resp".to_owned()),
                    dev: 1,
                    inode: u64::MAX,
                    bytes: 99,
                }),
                db: None,
                bytes: 99,
            },
            commands: 12,
            open: true,
            written_at: "2026-11-24T23:51:00.5Z".parse().expect("a time"),
        }
    }

    fn entries(dir: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn comes_back_as_it_was_saved() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.checkpoint");
        assert_eq!(Checkpoint::load(&path).expect("no file"), None);
        let mut checkpoint = sample();
        checkpoint.save(&path).expect("a save");
        assert_eq!(
            Checkpoint::load(&path).expect("a load"),
            Some(checkpoint.clone())
        );
        let log = checkpoint.log.as_mut().expect("a place");
        log.seq = None;
        log.time_ms = None;
        checkpoint.output.file = None;
        checkpoint.output.db = Some(15);
        checkpoint.open = false;
        checkpoint.save(&path).expect("a save over the first");
        assert_eq!(Checkpoint::load(&path).expect("a load"), Some(checkpoint));
        assert_eq!(entries(dir.path()), ["log.checkpoint"]);
        let mode = fs::metadata(&path).expect("it").permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn is_readable_text() {
        let text = serde_json::to_string_pretty(&sample()).expect("a text");
        for line in [
            "  \"program\": \"redis-migration\",",
            "  \"format\": 1,",
            "      \"crc64\": \"e9c6d914c4b8d9ca\"",
            "  \"written_at\": \"2026-11-24T23:51:00.5Z\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_save_that_fails_leaves_all_as_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let message = |path: &Path| sample().save(path).expect_err("no place").to_string();
        let missing = dir.path().join("missing/log.checkpoint");
        let text = message(&missing);
        assert!(
            text.starts_with(&format!("{} cannot be written: ", missing.display())),
            "{text}"
        );
        assert!(entries(dir.path()).is_empty());
        // A path that is a directory.
        let place = dir.path().join("place");
        fs::create_dir(&place).expect("a directory");
        fs::write(place.join("inside"), "a").expect("a file");
        assert!(message(&place).contains("cannot be written: is a directory"));
        assert!(message(Path::new("/dev/null")).contains("not a regular file"));
        assert_eq!(entries(dir.path()), ["place"]);
        assert_eq!(entries(&place), ["inside"]);
        // A directory that is in truth a file.
        let file = dir.path().join("file");
        sample().save(&file).expect("a save");
        assert!(message(&file.join("x")).contains("cannot be written"));
        assert_eq!(Checkpoint::load(&file).expect("a load"), Some(sample()));
        assert_eq!(entries(dir.path()), ["file", "place"]);
    }

    #[test]
    fn a_temporary_that_cannot_get_its_name_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let long = dir.path().join("x".repeat(300));
        assert!(sample().save(&long).is_err());
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn a_name_alone_is_one_of_the_working_directory() {
        let path = PathBuf::from(format!(".checkpoint-test-{}", std::process::id()));
        assert_eq!(Checkpoint::load(&path).expect("no file"), None);
        let saved = sample().save(&path);
        let loaded = Checkpoint::load(&path);
        let _ = fs::remove_file(&path);
        saved.expect("a save");
        assert_eq!(loaded.expect("a load"), Some(sample()));
    }

    #[test]
    fn a_file_is_kept_and_nobody_elses_is_touched() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.checkpoint");
        let place = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).expect("a file");
            let file = File::open(&path).expect("it");
            LogPlace {
                file: name.to_owned(),
                inode: file.metadata().expect("it").ino(),
                head: Head::of(&file, 3).expect("it"),
                offset: 3,
                ..sample().log.expect("a place")
            }
        };
        let (one, two) = (place("one"), place("two"));
        let first = keep(&path, dir.path(), &one, None);
        assert_eq!(first, Some(one.clone()));
        assert_eq!(keep(&path, dir.path(), &one, first.clone()), first);
        fs::remove_file(dir.path().join("one")).expect("it");
        assert_eq!(fs::read(kept(&path)).expect("it is kept"), b"one");
        let second = keep(&path, dir.path(), &two, first.clone());
        assert_eq!(second, Some(two.clone()));
        assert_eq!(fs::read(kept(&path)).expect("it is kept"), b"two");
        // Somebody else's.
        fs::remove_file(kept(&path)).expect("it");
        fs::write(kept(&path), "precious").expect("a file");
        assert_eq!(keep(&path, dir.path(), &two, first.clone()), first);
        assert_eq!(fs::read(kept(&path)).expect("it"), b"precious");
        // A log of one file is not kept: its server puts another one in its place.
        let single = LogPlace { seq: None, ..two };
        assert_eq!(keep(&path, dir.path(), &single, None), None);
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.checkpoint");
        let why = |text: &[u8]| {
            fs::write(&path, text).expect("a file");
            let error = Checkpoint::load(&path).expect_err("not a checkpoint");
            match error.kind() {
                ErrorKind::BadCheckpoint { path: named, why } => {
                    assert_eq!(named, &path.display().to_string());
                    why.clone()
                }
                other => panic!("{other}"),
            }
        };
        assert_eq!(why(b""), "it is empty");
        assert!(why(b"*1\r\n$4\r\nPING\r\n").starts_with("it is not whole JSON: "));
        assert!(why(b"\xff\xfe\0").starts_with("it is not whole JSON: "));
        for other in [
            &b"{}"[..],
            b"[]",
            b"null",
            b"17",
            b"{\"program\":\"x\",\"format\":1}",
        ] {
            assert_eq!(why(other), "it was not written by redis-migration");
        }
        let text = serde_json::to_string_pretty(&sample()).expect("a text");
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1).into_bytes()
        };
        assert_eq!(
            why(&with("\"format\": 1", "\"format\": 2")),
            "it has format 2, and this version reads format 1"
        );
        for (from, to) in [
            ("\"offset\": 1234", "\"offset\": -1"),
            ("\"offset\": 1234", "\"offset\": \"1234\""),
            ("\"offset\": 1234,", ""),
            ("\"open\": true", "\"shut\": true"),
            ("\"commands\"", "\"more\": 1, \"commands\""),
            ("2026-11-24T", "2026-13-24T"),
        ] {
            let why = why(&with(from, to));
            assert!(why.starts_with("a field is damaged: "), "{to}: {why}");
        }
        for name in ["", ".", "..", "a/b", "a\\\\x2", "\\\\x41", "a\\u0000"] {
            let why = why(&with("appendonly.aof.2.incr.aof", name));
            assert!(why.contains("is not the name of a file"), "{name}: {why}");
        }
        for (from, to) in [
            ("e9c6d914c4b8d9ca", "e9c6d914c4b8d9cg"),
            ("e9c6d914c4b8d9ca", "e9c6"),
            ("\"len\": 9", "\"len\": 4097"),
        ] {
            assert!(why(&with(from, to)).contains("first bytes"));
        }
        // Cut anywhere, it is never taken for whole.
        for cut in 0..text.len() {
            why(&text.as_bytes()[..cut]);
        }
        fs::write(&path, vec![b' '; FILE_MAX as usize + 1]).expect("a file");
        assert!(Checkpoint::load(&path).is_err());
        let error = Checkpoint::load(dir.path()).expect_err("a directory");
        assert!(matches!(error.kind(), ErrorKind::Io { .. }));
    }

    #[test]
    fn names_of_any_bytes_come_back() {
        for (name, text) in [
            (&b"appendonly.aof"[..], "appendonly.aof"),
            ("größe 鍵".as_bytes(), "größe 鍵"),
            (b"a\xffb\xc3", "a\\xffb\\xc3"),
            (b"a\\xff", "a\\\\xff"),
            (b"\"\n\x01", "\"\n\x01"),
            (b"", ""),
        ] {
            let name = OsStr::from_bytes(name);
            assert_eq!(escape(name), text);
            assert_eq!(unescape(text).as_deref(), Some(name));
        }
        // Every pair of bytes.
        for pair in 0..=u16::MAX {
            let name = OsString::from_vec(pair.to_be_bytes().to_vec());
            assert_eq!(unescape(&escape(&name)), Some(name));
        }
        for text in [
            "\\",
            "\\x",
            "\\x4",
            "\\xFF",
            "\\x41",
            "\\n",
            "a\\xc3\\xbc",
            "\\x+1",
        ] {
            assert_eq!(unescape(text), None, "{text}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log.checkpoint");
        let mut checkpoint = sample();
        let name = OsStr::from_bytes(b"log\xff\\.aof");
        checkpoint.log.as_mut().expect("a place").file = escape(name);
        checkpoint.save(&path).expect("a save");
        let loaded = Checkpoint::load(&path).expect("a load").expect("a file");
        assert_eq!(
            unescape(&loaded.log.expect("a place").file).as_deref(),
            Some(name)
        );
    }

    #[test]
    fn heads() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "123456789").expect("a file");
        let file = File::open(&path).expect("it");
        let head = |len| Head::of(&file, len).expect("its first bytes");
        assert_eq!(head(9).crc64, "e9c6d914c4b8d9ca");
        assert_eq!(head(9), head(u64::MAX));
        assert_eq!((head(0).len, head(4).len), (0, 4));
        assert_eq!(head(0).crc64, "0000000000000000");
        fs::write(&path, vec![7; 5000]).expect("a file");
        assert_eq!(head(5000).len, HEAD_MAX);
    }

    #[test]
    fn knows_the_file_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let bytes: Vec<u8> = (0..10_000_u32).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).expect("a file");
        let open = || File::open(&path).expect("it");
        let file = open();
        let inode = file.metadata().expect("its inode").ino();
        let place = LogPlace {
            inode,
            head: Head::of(&file, bytes.len() as u64).expect("its first bytes"),
            offset: 9_000,
            ..sample().log.expect("a place")
        };
        let differs = |place: &LogPlace| place.differs(&open()).expect("an answer");
        assert_eq!(differs(&place), None);
        // Grown.
        fs::write(&path, [&bytes[..], b"more"].concat()).expect("a longer one");
        assert_eq!(differs(&place), None);
        // Cut behind what was read, then before it, then within the first bytes.
        let cut = |len| {
            let file = File::options().write(true).open(&path).expect("it");
            file.set_len(len).expect("its length");
        };
        cut(9_000);
        assert_eq!(differs(&place), None);
        cut(8_999);
        let text = "it has 8,999 bytes and 9,000 were read already";
        assert_eq!(differs(&place).as_deref(), Some(text));
        cut(10);
        let text = "it has 10 bytes and 9,000 were read already";
        assert_eq!(differs(&place).as_deref(), Some(text));
        // With little read.
        let early = LogPlace {
            offset: 5,
            ..place.clone()
        };
        let text = "it has 10 bytes and its first 4,096 are known";
        assert_eq!(differs(&early).as_deref(), Some(text));
        // Rewritten in place.
        let mut other = bytes.clone();
        other[4095] ^= 1;
        fs::write(&path, &other).expect("another one");
        let text = "its first 4,096 bytes differ";
        assert_eq!(differs(&place).as_deref(), Some(text));
        // Between the first and the last bytes nothing is looked at.
        other[4095] ^= 1;
        other[4096] ^= 1;
        fs::write(&path, &other).expect("another one");
        assert_eq!(differs(&place), None);
        let place = LogPlace {
            tail: Some(Head::before(&file, 9_000).expect("its last bytes")),
            ..place
        };
        assert_eq!(differs(&place), None);
        other[8999] ^= 1;
        fs::write(&path, &other).expect("another one");
        let text = "the 4,096 bytes before byte 9,000 are not those that were read";
        assert_eq!(differs(&place).as_deref(), Some(text));
        // Replaced by a copy. The first file is still open, so that its inode is not given anew.
        fs::write(dir.path().join("copy"), &bytes).expect("a copy");
        fs::rename(dir.path().join("copy"), &path).expect("a rename");
        let now = open().metadata().expect("its inode").ino();
        let text = format!("its inode is {now} and was {inode}");
        assert_eq!(differs(&place), Some(text.clone()));
        // Replaced by another.
        fs::write(dir.path().join("copy"), "short").expect("a copy");
        fs::rename(dir.path().join("copy"), &path).expect("a rename");
        let now = open().metadata().expect("its inode").ino();
        let text = format!(
            "its inode is {now} and was {inode}, it has 5 bytes and 9,000 were read already"
        );
        assert_eq!(differs(&place), Some(text));
    }

    #[test]
    fn a_file_that_was_short_is_known_by_what_it_had() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "*1\r\n").expect("a file");
        let file = File::open(&path).expect("it");
        let place = LogPlace {
            inode: file.metadata().expect("its inode").ino(),
            head: Head::of(&file, HEAD_MAX).expect("its first bytes"),
            offset: 0,
            ..sample().log.expect("a place")
        };
        assert_eq!(place.head.len, 4);
        fs::write(&path, "*1\r\n$4\r\nPING\r\n").expect("a longer one");
        assert_eq!(place.differs(&file).expect("an answer"), None);
        fs::write(&path, "*2\r\n$4\r\nPING\r\n").expect("another one");
        let text = "its first 4 bytes differ";
        assert_eq!(
            place.differs(&file).expect("an answer").as_deref(),
            Some(text)
        );
    }

    #[test]
    fn thousands() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(grouped(n), text);
        }
    }
}
