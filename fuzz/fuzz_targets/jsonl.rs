//! JSON lines, both ways. What begins as a snapshot is converted to lines, which have to come back to the same lines;
//! anything else is read as lines, which must not panic, and what is understood of them has to come back too.
#![no_main]

use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use redis_migration::command::encode::{Form, OnError, Settings, Worker};
use redis_migration::filter::Filter;
use redis_migration::jsonl::read::load;
use redis_migration::rdb::scan::{Along, Scanner};
use redis_migration::resp::write::{Block, Blocks, Out};
use redis_migration::{ErrorKind, Result};

static SETTINGS: LazyLock<Settings> = LazyLock::new(|| Settings {
    form: Form::JsonLines,
    on_error: OnError::Continue,
    filter: Filter {
        keep_expired: true,
        ..Filter::default()
    },
    ..Settings::default()
});

fuzz_target!(|data: &[u8]| {
    if data.starts_with(b"REDIS") || data.starts_with(b"VALKEY") {
        // What cannot be read to its end gives the lines before that.
        let (written, result) = lines(data);
        if result.is_ok() {
            comes_back(&written);
        }
    } else if let Some(snapshot) = read(data) {
        let (written, result) = lines(&snapshot);
        // What was loaded was written here, so all of it can be read.
        assert!(result.is_ok(), "{:?}", result.err());
        comes_back(&written);
    }
});

fn comes_back(written: &[u8]) {
    assert!(std::str::from_utf8(written).is_ok());
    let snapshot = read(written).expect("lines that were written are read");
    let (again, result) = lines(&snapshot);
    assert!(result.is_ok(), "{:?}", result.err());
    // The head of a snapshot before RDB 9 gets that version.
    assert_eq!(behind_head(written), behind_head(&again));
}

fn behind_head(lines: &[u8]) -> &[u8] {
    let head = lines.iter().position(|b| *b == b'\n');
    head.map_or(&[], |n| &lines[n + 1..])
}

/// The snapshot that lines stand for; none where they are wrong, or hold commands.
fn read(data: &[u8]) -> Option<Vec<u8>> {
    match load(data, &AtomicBool::new(false)) {
        Ok(spool) => {
            let map = spool.into_map().expect("a map");
            let bytes = map.bytes().to_vec();
            let is_snapshot = bytes.starts_with(b"REDIS") || bytes.starts_with(b"VALKEY");
            is_snapshot.then_some(bytes)
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::BadLine { .. }), "{error}");
            let at = error.at().expect("a place");
            assert!(at.offset <= data.len() as u64, "{error}");
            assert!(!error.describe(false).is_empty());
            None
        }
    }
}

fn lines(data: &[u8]) -> (Vec<u8>, Result<()>) {
    let mut pool = Pool::default();
    let result = write(data, &mut pool);
    (pool.written, result)
}

fn write(data: &[u8], pool: &mut Pool) -> Result<()> {
    let mut scanner = Scanner::new(data, Along::Off, false, false)?;
    let mut worker = Worker::new(&SETTINGS, data, scanner.format(), 8 << 20);
    let input = Bytes::copy_from_slice(data);
    while let Some(task) = scanner.next_task()? {
        let mut out = Out::new(BLOCK, input.clone(), pool);
        let result = worker.run(&task, &mut out);
        let flushed = out.flush();
        out.recycle();
        assert!(result.is_err() || worker.tally.adds_up());
        result.and(flushed)?;
    }
    Ok(())
}

/// Small, so that lines of several blocks occur in small inputs.
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
