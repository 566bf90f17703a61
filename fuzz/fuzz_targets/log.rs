//! Any bytes as a log, and as a manifest. Whatever they are: no panic, no command that is cut off or miscounted, no
//! error that names a byte outside the file, and the same outcome however the bytes come: in which pieces they are
//! read, by how much the file grows at a time, through which buffers a unit goes.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use redis_migration::Error;
use redis_migration::aof::convert::{Conversion, Rest};
use redis_migration::aof::manifest::{Entry, Manifest};
use redis_migration::aof::read::{Limits, Reader, Tail, Until};
use redis_migration::command::encode::{OnError, Settings};
use redis_migration::command::rewrite::{Keep, LogRules, Rewriter};
use redis_migration::command::target::{Dialect, Target};
use redis_migration::encoding::crc64::crc64;
use redis_migration::filter::Filter;
use redis_migration::pipeline::{Progress, Stream};
use redis_migration::resp::parse::{Broken, Command, Found, Parser};
use redis_migration::tally::{LogTally, Tally};
use redis_migration::transform::Transform;

/// Unix time in milliseconds that expiries are held until: between those that logs of tests hold.
const HOLD_UNTIL_MS: i64 = 4_000_000_000_000;

static SETTINGS: LazyLock<[Settings; 6]> = LazyLock::new(|| {
    let base = Settings {
        batch_elements: 500,
        batch_bytes: 256 << 10,
        on_error: OnError::Continue,
        filter: Filter {
            keep_expired: true,
            ..Filter::default()
        },
        ..Settings::default()
    };
    let version = |version: &str| Target {
        version: version.parse().ok(),
        ..Target::default()
    };
    [
        Settings {
            on_error: OnError::Stop,
            ..base.clone()
        },
        Settings {
            filter: Filter {
                keys: regex::bytes::RegexSet::new(["[a-m0-9]"]).ok(),
                not_dbs: vec![3],
                ..base.filter.clone()
            },
            transform: Transform {
                rename_prefix: vec![(b"k".to_vec(), b"other:".to_vec())],
                ..Transform::default()
            },
            ..base.clone()
        },
        Settings {
            target: Target {
                dialect: Dialect::Cluster,
                ..Target::default()
            },
            ..base.clone()
        },
        Settings {
            target: Target {
                dialect: Dialect::Twemproxy,
                ..version("4.0")
            },
            ..base.clone()
        },
        Settings {
            target: version("6.2"),
            transform: Transform {
                hold_until_ms: Some(HOLD_UNTIL_MS),
                ..Transform::default()
            },
            log: LogRules {
                pass_unknown: true,
                ..LogRules::default()
            },
            ..base.clone()
        },
        // Almost all passes as it stands, and is watched all the same.
        Settings {
            transform: Transform {
                hold_until_ms: Some(HOLD_UNTIL_MS),
                ..Transform::default()
            },
            ..base
        },
    ]
});

fuzz_target!(|data: &[u8]| {
    // What else has to be drawn comes from the bytes too: the same input always does the same.
    let mut dice = Dice(crc64(data) | 1);
    for lenient in [false, true] {
        pieces(data, lenient, &mut dice);
    }
    let settings = &SETTINGS[dice.roll(SETTINGS.len())];
    let lenient = dice.roll(2) == 1;
    let until = match dice.roll(8) {
        0 => Some(Until::Offset(dice.roll(data.len() + 2) as u64)),
        1 => Some(Until::TimeMs(1_700_000_000_000 + dice.roll(100_000) as i64)),
        _ => None,
    };
    log(data, settings, lenient, until, &mut dice);
    manifest(data);
});

/// Numbers that look random (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 1) as usize % sides
    }

    /// Mostly small.
    fn size(&mut self) -> usize {
        let most = [1, 3, 16, 64, 300, 5000][self.roll(6)];
        1 + self.roll(most)
    }
}

/// Records with their places, and what ended the reading.
type Records = (Vec<(usize, Found)>, Result<usize, (usize, Broken)>);

fn records(data: &[u8], lenient: bool, mut size: impl FnMut() -> usize) -> Records {
    let mut parser = Parser::new(lenient);
    let (mut found, mut start, mut have) = (Vec::new(), 0, 0);
    loop {
        match parser.next(&data[start..have], 0) {
            Ok(Found::Incomplete) if have == data.len() => return (found, Ok(start)),
            Ok(Found::Incomplete) => have = have.saturating_add(size()).min(data.len()),
            Ok(record) => {
                found.push((start, record));
                start += match record {
                    Found::Command(shape) => shape.len as usize,
                    Found::Annotation { len } => len as usize,
                    Found::Incomplete => unreachable!("handled above"),
                };
            }
            Err(broken) => return (found, Err((start, broken))),
        }
    }
}

fn pieces(data: &[u8], lenient: bool, dice: &mut Dice) {
    let whole = records(data, lenient, || usize::MAX);
    for (start, found) in &whole.0 {
        if let Found::Command(shape) = *found {
            let raw = &data[*start..start + shape.len as usize];
            let command = Command { raw, shape };
            assert_eq!(command.args().count() as u64, command.argc());
            assert_eq!(command.args().next(), Some(command.name()));
            if shape.canonical {
                let mut again = Vec::new();
                write(&mut again, command.args());
                assert!(again == raw, "{}", raw.escape_ascii());
            }
        }
    }
    if let Err((start, broken)) = whole.1 {
        assert!(start as u64 + broken.pos <= data.len() as u64);
    }
    assert_eq!(records(data, lenient, || 1), whole);
    assert_eq!(records(data, lenient, || dice.size()), whole);
}

fn write<'a>(out: &mut Vec<u8>, args: impl ExactSizeIterator<Item = &'a [u8]>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// What a conversion did.
#[derive(Debug, PartialEq)]
struct Outcome {
    written: Vec<u8>,
    tally: Tally,
    /// What was written of expiries that were held.
    settled: Vec<u8>,
    rejects: u64,
    end: End,
    offset: u64,
    db: u64,
    time_ms: Option<i64>,
}

#[derive(Debug, PartialEq)]
enum End {
    Dry(Tail),
    Until,
    /// At which byte, if at any.
    Failed(Option<u64>),
}

/// Reads a file of `data`, which first holds nothing and grows by `grow` bytes at a time, and writes what is held at the
/// end.
fn convert(
    data: &[u8],
    settings: &Settings,
    lenient: bool,
    until: Option<Until>,
    limits: Limits,
    mut grow: impl FnMut() -> usize,
) -> Outcome {
    // One file for all runs: making one costs more than reading it.
    thread_local! {
        static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a temporary file"));
    }
    let file = FILE.with_borrow(|file| file.try_clone().expect("a second descriptor"));
    file.set_len(0).expect("an empty file");
    let append = file.try_clone().expect("a third descriptor");
    let mut reader = Reader::new(file, "fuzz", 0, lenient, until).with_limits(limits);
    let mut conversion = Conversion::new(settings, Stream::default());
    conversion.begin_file(0, Some(1_700_000_000_000));
    let mut outcome = Outcome {
        written: Vec::new(),
        tally: Tally::default(),
        settled: Vec::new(),
        rejects: 0,
        end: End::Until,
        offset: 0,
        db: 0,
        time_ms: None,
    };
    let rejects = &mut outcome.rejects;
    let mut reject = |_: &_| {
        *rejects += 1;
        Ok(())
    };
    let progress = Progress::default();
    let mut have = 0;
    outcome.end = loop {
        let more = grow().min(data.len() - have);
        append
            .write_all_at(&data[have..have + more], have as u64)
            .expect("a write");
        have += more;
        let (tally, rest) =
            conversion.log(&mut reader, &mut outcome.written, &mut reject, &progress);
        outcome.tally.add(&tally);
        match rest {
            Rest::Dry(tail) if have == data.len() => break End::Dry(tail),
            Rest::Dry(tail) => {
                assert!(
                    tail.whole <= tail.len && tail.len == have as u64,
                    "{tail:?}"
                );
            }
            Rest::Until => break End::Until,
            Rest::Failed(error) => {
                judge(&error, data);
                break End::Failed(error.at().map(|at| at.offset));
            }
        }
    };
    outcome.offset = reader.offset();
    assert!(outcome.offset <= have as u64);
    let (tally, result) = conversion.settle(Keep::None(None), &mut outcome.settled, &progress);
    result.expect("memory takes everything");
    assert_eq!(commands(&outcome.settled), tally.commands);
    assert_eq!(tally.log, LogTally::default());
    outcome.db = conversion.db();
    outcome.time_ms = conversion.time_ms();
    outcome
}

fn log(data: &[u8], settings: &Settings, lenient: bool, until: Option<Until>, dice: &mut Dice) {
    let usual = Limits::default();
    let all = || usize::MAX;
    let whole = convert(data, settings, lenient, until, usual, all);
    assert_eq!(commands(&whole.written), whole.tally.commands);
    assert!(
        whole.tally.adds_up() || matches!(whole.end, End::Failed(_)),
        "{:?}",
        whole.tally
    );
    if settings.on_error == OnError::Continue {
        assert_eq!(whole.rejects, whole.tally.log.rejected);
    }
    let small = Limits {
        read_bytes: dice.size(),
        ..usual
    };
    let pieces = convert(data, settings, lenient, until, small, || dice.size());
    same(&pieces, &whole);
    assert!(pieces.settled == whole.settled);

    // A command that went through a temporary file is always looked at; where nothing is chosen or changed the others
    // pass unseen, and with them what no server would log.
    let small = Limits {
        read_bytes: dice.size(),
        most_in_memory: [1, 64, 256, 1000][dice.roll(4)],
    };
    let spooled = convert(data, settings, lenient, until, small, || dice.size());
    if !Rewriter::new(settings).passes(b"INCR", 2) {
        same(&spooled, &whole);
    }

    let cut = &data[..dice.roll(data.len() + 1)];
    let part = convert(cut, settings, lenient, until, usual, all);
    assert!(whole.written.starts_with(&part.written));
    assert!(part.offset <= whole.offset);
}

fn same(one: &Outcome, other: &Outcome) {
    assert_eq!((&one.end, one.offset), (&other.end, other.offset));
    assert_eq!((&one.tally, one.rejects), (&other.tally, other.rejects));
    assert_eq!((one.db, one.time_ms), (other.db, other.time_ms));
    assert!(
        one.written == other.written,
        "{}\n--\n{}",
        one.written.escape_ascii(),
        other.written.escape_ascii()
    );
}

/// An error names a byte of the file, and can be printed.
fn judge(error: &Error, data: &[u8]) {
    if let Some(at) = error.at() {
        assert!(at.offset <= data.len() as u64, "{error}");
    }
    assert!(!error.describe(true).is_empty());
    assert!(!error.describe(false).is_empty());
}

/// Counts commands; each must be whole, and as a server would write it.
fn commands(resp: &[u8]) -> u64 {
    let mut parser = Parser::new(false);
    let (mut rest, mut n) = (resp, 0);
    while !rest.is_empty() {
        match parser.next(rest, 0) {
            Ok(Found::Command(shape)) => {
                assert!(shape.canonical);
                rest = &rest[shape.len as usize..];
            }
            other => panic!("{other:?} in {}", resp.escape_ascii()),
        }
        n += 1;
    }
    n
}

/// What is accepted as a manifest is the same when it is written as servers write it.
fn manifest(data: &[u8]) {
    let manifest = match Manifest::parse(data) {
        Ok(manifest) => manifest,
        Err(error) => return judge(&error, data),
    };
    let mut text = b"#\n".to_vec();
    let lists = [
        (manifest.base.as_slice(), 'b'),
        (&manifest.history[..], 'h'),
        (&manifest.incr[..], 'i'),
    ];
    for (entries, kind) in lists {
        entries
            .iter()
            .for_each(|entry| line(&mut text, entry, kind));
    }
    match Manifest::parse(&text) {
        Ok(again) => assert_eq!(again, manifest),
        // A line may have grown beyond what servers read.
        Err(error) => assert!(
            text.split(|b| *b == b'\n').any(|line| line.len() > 1000),
            "{error}: {}",
            text.escape_ascii()
        ),
    }
}

fn line(text: &mut Vec<u8>, entry: &Entry, kind: char) {
    text.extend_from_slice(b"file \"");
    for &byte in &entry.name {
        match byte {
            b'\\' | b'"' => text.extend_from_slice(&[b'\\', byte]),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            0x07 => text.extend_from_slice(b"\\a"),
            0x08 => text.extend_from_slice(b"\\b"),
            b' '..=b'~' => text.push(byte),
            _ => text.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    text.extend_from_slice(format!("\" seq {} type {kind}", entry.seq).as_bytes());
    for (word, offset) in [
        ("startoffset", entry.start_offset),
        ("endoffset", entry.end_offset),
    ] {
        if let Some(offset) = offset {
            text.extend_from_slice(format!(" {word} {offset}").as_bytes());
        }
    }
    text.push(b'\n');
}
