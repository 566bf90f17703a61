//! A whole snapshot, converted in every mode. Whatever the bytes are: no panic, no command that is
//! cut off or miscounted, no error that names a byte outside the file.
//!
//! Most inputs go through scan and worker directly; one in 64 takes the whole pipeline, whose threads cost more than
//! all the rest.
#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use redis_migration::command::encode::{Mode, OnError, OnExist, Settings, Worker};
use redis_migration::command::target::{Dialect, Target};
use redis_migration::encoding::crc64::crc64;
use redis_migration::input::Input;
use redis_migration::pipeline::{Checksum, Options, Progress, Stream, convert};
use redis_migration::rdb::scan::{Along, Scanner, check_whole};
use redis_migration::resp::write::{Block, Blocks, Out};
use redis_migration::tally::Tally;
use redis_migration::{Error, Result};

static SETTINGS: LazyLock<[Settings; 5]> = LazyLock::new(|| {
    let base = Settings {
        batch_elements: 500,
        batch_bytes: 256 << 10,
        ..Settings::default()
    };
    let version = |version: &str| Target {
        version: version.parse().ok(),
        ..Target::default()
    };
    [
        base.clone(),
        Settings {
            mode: Mode::Restore,
            ..base.clone()
        },
        // What goes on behind a broken key; commands of few elements.
        Settings {
            on_error: OnError::Continue,
            on_exist: OnExist::Merge,
            batch_elements: 3,
            ..base.clone()
        },
        Settings {
            mode: Mode::Auto,
            on_error: OnError::Continue,
            target: version("7.0"),
            ..base.clone()
        },
        Settings {
            target: Target {
                dialect: Dialect::Twemproxy,
                ..version("4.0")
            },
            ..base
        },
    ]
});

fuzz_target!(|data: &[u8]| {
    for settings in &*SETTINGS {
        let mut tally = Tally::default();
        let mut pool = Pool::default();
        match direct(data, settings, &mut pool, &mut tally) {
            // A part of a key that failed is counted in its first part only where all its parts are seen.
            Ok(()) => assert!(tally.adds_up(), "{tally:?}"),
            Err(error) => judge(&error, data),
        }
        assert_eq!(commands(&pool.written), tally.commands);
    }
    if let Err(error) = check_whole(data, false, |_| Ok(())) {
        judge(&error, data);
    }
    if crc64(data) % 64 == 0 {
        for settings in &*SETTINGS {
            whole(data, settings);
        }
    }
});

fn direct(data: &[u8], settings: &Settings, pool: &mut Pool, tally: &mut Tally) -> Result<()> {
    let lenient = settings.on_error == OnError::Continue;
    let mut scanner = Scanner::new(data, Along::Off, settings.mode == Mode::Commands, lenient)?;
    let mut worker = Worker::new(settings, data, scanner.format(), 8 << 20);
    let input = Bytes::copy_from_slice(data);
    while let Some(task) = scanner.next_task()? {
        let mut out = Out::new(BLOCK, input.clone(), pool);
        let result = worker.run(&task, &mut out);
        let flushed = out.flush();
        out.recycle();
        tally.add(&worker.tally);
        result.and(flushed)?;
    }
    Ok(())
}

fn whole(data: &[u8], settings: &Settings) {
    let input = Input::from_bytes("fuzz", data.to_vec());
    let options = Options {
        threads: 2,
        checksum: Checksum::Off,
        from: 0,
        replace_before: 0,
    };
    let mut out = Vec::new();
    let mut rejects = 0;
    let mut reject = |_: &_| {
        rejects += 1;
        Ok(())
    };
    let report = convert(
        &input,
        settings,
        &options,
        &mut Stream::default(),
        &mut out,
        &mut reject,
        &Progress::default(),
    );
    match &report.error {
        Some(error) => judge(error, data),
        None => {
            assert!(report.tally.adds_up(), "{report:?}");
            assert!(rejects >= report.tally.rejected);
        }
    }
    assert_eq!(commands(&out), report.tally.commands);
}

/// An error names a byte of the file, and can be printed.
fn judge(error: &Error, data: &[u8]) {
    if let Some(at) = error.at() {
        assert!(at.offset <= data.len() as u64, "{error}");
    }
    assert!(!error.describe(true).is_empty());
    assert!(!error.describe(false).is_empty());
}

/// Counts commands; each must be whole.
fn commands(mut resp: &[u8]) -> u64 {
    let mut n = 0;
    while !resp.is_empty() {
        for _ in 0..header(&mut resp, b'*') {
            let len = header(&mut resp, b'$');
            assert_eq!(&resp[len..len + 2], b"\r\n");
            resp = &resp[len + 2..];
        }
        n += 1;
    }
    n
}

fn header(resp: &mut &[u8], sign: u8) -> usize {
    let end = resp
        .iter()
        .position(|&b| b == b'\r')
        .expect("a header ends");
    assert_eq!((resp[0], resp[end + 1]), (sign, b'\n'));
    let digits = std::str::from_utf8(&resp[1..end]).expect("digits");
    // Some servers refuse leading zeros.
    assert!(digits == "0" || !digits.starts_with('0'), "{digits}");
    *resp = &resp[end + 2..];
    digits.parse().expect("digits")
}

/// Small, so that commands of several blocks occur in small inputs.
const BLOCK: usize = 1 << 10;

#[derive(Default)]
struct Pool {
    written: Vec<u8>,
    free: Vec<Vec<u8>>,
}

impl Blocks for Pool {
    fn hand_on(&mut self, block: Block, _db: Option<u64>) -> Result<()> {
        self.written.extend_from_slice(block.bytes());
        if let Block::Owned { buffer, .. } = block {
            self.free.push(buffer);
        }
        Ok(())
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| vec![0; 2 * BLOCK])
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        self.free.push(buffer);
    }
}
