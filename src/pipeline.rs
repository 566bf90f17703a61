//! Joins the stages: one thread scans, workers encode, one thread writes, in order.
//!
//! Every task has a queue of its own for its blocks. The writer empties the queue of the oldest task, then
//! that of the next. A worker whose queue is full waits; the oldest task never waits for another one, because
//! tasks are begun in order. So a bounded number of blocks is alive, whatever the input holds.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

use bytes::Bytes;

use crate::command::encode::{Form, Mode, OnError, Settings, Worker};
use crate::command::rewrite::too_long_for_proxy;
use crate::cursor::{At, Cursor};
use crate::encoding::string::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Verdict;
use crate::input::Input;
use crate::rdb::scan::{Along, FileInfo, Scanner, Span, Task, check_whole};
use crate::rdb::{Format, Reader, Record, key_name, type_name};
use crate::resp::write::{Block, Blocks, Out, append_command};
use crate::sink::Sink;
use crate::tally::{Reject, Tally};
use crate::value::{Templates, skip};

/// When the checksum is held against the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// Before the first byte is written.
    #[default]
    First,
    /// While the file is read; a mismatch is found at its end.
    Along,
    /// Never.
    Off,
}

/// How a run is carried out; nothing of it changes what is written.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of workers.
    pub threads: usize,
    /// When the checksum is checked.
    pub checksum: Checksum,
    /// Keys of records before this byte of the file are passed over: an earlier run had them acknowledged.
    pub from: u64,
    /// Keys of records before this byte are replaced, whatever the settings say of keys that are there: an earlier run of
    /// the same load may have written them.
    pub replace_before: u64,
}

/// How far a run is, for whoever watches; and the wish that it stop.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of input that are written or checked.
    pub done: AtomicU64,
    /// Bytes of input to go through in all, the check included.
    pub total: AtomicU64,
    /// Keys read.
    pub keys: AtomicU64,
    /// Commands of logs read.
    pub commands: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
    /// Set to stop soon.
    pub stop: AtomicBool,
}

impl Progress {
    /// Errors: the run was asked to stop.
    pub fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            Err(Error::plain(ErrorKind::Stopped))
        } else {
            Ok(())
        }
    }
}

/// What a run did with one input.
#[derive(Debug, Default)]
pub struct Report {
    /// Counts of all that was written, up to the error if there is one.
    pub tally: Tally,
    /// What the file says of itself.
    pub info: FileInfo,
    /// Magic and version.
    pub magic: String,
    /// What ended the run early.
    pub error: Option<Error>,
}

/// What lasts from one input to the next: which database the destination has selected.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stream {
    /// The database that the destination has selected; `None` where that is not known.
    pub db: Option<u64>,
}

/// Blocks that are written at once.
const WRITE_BLOCKS: usize = 32;

/// Sizes that follow from the number of threads, so that memory does not.
#[derive(Debug, Clone, Copy)]
struct Budget {
    block_bytes: usize,
    tasks: usize,
    queue_blocks: usize,
    unpack_limit: usize,
}

impl Budget {
    fn for_threads(threads: usize) -> Budget {
        // Blocks stay in the cache of the core that fills them (`benches/README.md`).
        let block_bytes = 256 << 10;
        // A task's queue should hold all that a usual task gives, else its worker waits until its turn has come.
        // tasks × queue × block: 16 MiB for 2 threads, 128 MiB at the most.
        let tasks = threads + 2;
        let queue_blocks = ((128 << 20) / (tasks * block_bytes)).clamp(2, 16);
        let unpack_limit = ((48 << 20) / (3 * threads)).clamp(256 << 10, 8 << 20);
        Budget {
            block_bytes,
            tasks,
            queue_blocks,
            unpack_limit,
        }
    }
}

/// The most workers that are used.
pub const MOST_THREADS: usize = 64;

/// Writes the commands of `input` into `sink`. What could not be written is given to `reject` in order of
/// the file. The output depends on the input and `settings` alone, not on the number of threads.
pub fn convert(
    input: &Input,
    settings: &Settings,
    options: &Options,
    stream: &mut Stream,
    sink: &mut dyn Sink,
    reject: &mut (dyn FnMut(&Reject) -> Result<()> + Send),
    progress: &Progress,
) -> Report {
    let mut report = Report::default();
    if let Err(error) = run(
        input,
        settings,
        options,
        stream,
        sink,
        reject,
        progress,
        &mut report,
    ) {
        report.error = Some(error);
    }
    report
}

#[allow(clippy::too_many_arguments)] // the body of `convert`, with its report
fn run(
    input: &Input,
    settings: &Settings,
    options: &Options,
    stream: &mut Stream,
    sink: &mut dyn Sink,
    reject: &mut (dyn FnMut(&Reject) -> Result<()> + Send),
    progress: &Progress,
    report: &mut Report,
) -> Result<()> {
    let data: &[u8] = &input.data;
    let lenient = settings.on_error == OnError::Continue;
    report.magic = Format::parse(&mut Cursor::new(data, 0), lenient)?.magic();
    // Who wants what can be kept of a damaged file does not want to be stopped before it.
    let first = options.checksum == Checksum::First && !lenient;
    progress.total.fetch_add(
        data.len() as u64 * (1 + u64::from(first)),
        Ordering::Relaxed,
    );
    if first {
        check_whole(data, lenient, |n| {
            progress.done.fetch_add(n as u64, Ordering::Relaxed);
            progress.check_stop()
        })?;
    }
    if settings.target.dialect.single_db() {
        check_keys(data, settings, lenient)?;
    }
    let along = if options.checksum == Checksum::Off || first {
        Along::Off
    } else {
        Along::Check
    };
    // The lines of a key are numbered, so one worker writes them all.
    let cut_keys = settings.mode == Mode::Commands && settings.form == Form::Commands;
    let mut scanner = Scanner::new(data, along, cut_keys, lenient)?;
    let format = scanner.format();
    let threads = options.threads.clamp(1, MOST_THREADS);
    let budget = Budget::for_threads(threads);
    let pool = pool(threads)?;
    let buffers = Buffers {
        free: Mutex::default(),
        block_bytes: budget.block_bytes,
        keep: 16 * threads,
    };
    let workers: Mutex<Vec<Worker<'_, '_>>> = Mutex::default();

    let (scan_result, written) = std::thread::scope(|threads| {
        let (order, tasks) = sync_channel::<Pending>(budget.tasks);
        let mut writer = Writer {
            sink,
            reject,
            stream,
            buffers: &buffers,
            progress,
            tally: Tally::default(),
            dropped: None,
        };
        let writing = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn_scoped(threads, move || {
                let result = writer.run(tasks);
                (result, writer.tally)
            })
            .map_err(|e| Error::io("threads cannot be started", e));
        let writing = match writing {
            Ok(writing) => writing,
            Err(error) => return (Err(error), None),
        };
        let scan_result = pool.in_place_scope_fifo(|scope| -> Result<()> {
            while let Some(task) = scanner.next_task()? {
                progress.check_stop()?;
                let (start, begins) = match task.span {
                    Span::Records { from, .. } => (from, true),
                    Span::Part { record, part, .. } => (record, part.first),
                };
                if (start as u64) < options.from {
                    progress
                        .done
                        .fetch_add(task.bytes as u64, Ordering::Relaxed);
                    continue;
                }
                let (blocks, queue) = sync_channel(budget.queue_blocks);
                let pending = Pending {
                    queue,
                    bytes: task.bytes,
                    span: task.span,
                    place: begins.then_some((start as u64, task.db)),
                };
                // The writer has ended: its own error says why.
                if order.send(pending).is_err() {
                    return Ok(());
                }
                let (workers, buffers) = (&workers, &buffers);
                let data_bytes = input.data.clone();
                scope.spawn_fifo(move |_| {
                    let spare = workers
                        .lock()
                        .expect("no worker panics while it holds the list")
                        .pop();
                    let mut worker = spare.unwrap_or_else(|| {
                        let mut worker = Worker::new(settings, data, format, budget.unpack_limit);
                        worker.replace_before = options.replace_before;
                        worker
                    });
                    work(&mut worker, &task, data_bytes, buffers, blocks);
                    workers
                        .lock()
                        .expect("no worker panics while it holds the list")
                        .push(worker);
                });
            }
            Ok(())
        });
        drop(order);
        (
            scan_result,
            Some(writing.join().expect("the writer does not panic")),
        )
    });
    report.info = scanner.info.clone();
    if let Some((result, tally)) = written {
        report.tally = tally;
        result?;
    }
    scan_result?;
    if !format.is_known() {
        // It was read to its end, as the user wished; whether it was understood, nobody knows.
        return Err(Error::new(
            ErrorKind::UnknownVersion {
                magic: format.magic(),
            },
            At::file(0),
        ));
    }
    if input.changed() {
        return Err(Error::plain(ErrorKind::Changed));
    }
    Ok(())
}

/// The workers' threads.
pub(crate) fn pool(threads: usize) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("worker-{i}"))
        .build()
        .map_err(|e| Error::io("threads cannot be started", std::io::Error::other(e)))
}

fn work(
    worker: &mut Worker<'_, '_>,
    task: &Task,
    input: Bytes,
    buffers: &Buffers,
    queue: SyncSender<Message>,
) {
    let mut blocks = ToWriter {
        queue: &queue,
        buffers,
    };
    let mut out = Out::new(buffers.block_bytes, input, &mut blocks);
    let result = worker.run(task, &mut out).and_then(|()| out.flush());
    let (result, unflushed) = match result {
        // What stands before the error is whole and goes out.
        Err(e) if !matches!(e.kind(), ErrorKind::Stopped) => (Err(e), out.flush()),
        other => (other, Ok(())),
    };
    out.recycle();
    let done = TaskDone {
        tally: std::mem::take(&mut worker.tally),
        rejects: std::mem::take(&mut worker.rejects),
        db: worker.db,
        gone: worker.gone,
        error: result.and(unflushed).err(),
    };
    // Nobody listens any more: the run is over and has its own error.
    let _ = queue.send(Message::Done(Box::new(done)));
}

struct Pending {
    queue: Receiver<Message>,
    bytes: usize,
    span: Span,
    /// Where it begins and in which database, if that is between two keys.
    place: Option<(u64, u64)>,
}

enum Message {
    Block(Block, Option<u64>),
    Done(Box<TaskDone>),
}

struct TaskDone {
    tally: Tally,
    rejects: Vec<Reject>,
    db: Option<u64>,
    gone: bool,
    error: Option<Error>,
}

/// Buffers that were written and may be filled again.
struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
    block_bytes: usize,
    keep: usize,
}

impl Buffers {
    fn get(&self) -> Vec<u8> {
        let free = self
            .free
            .lock()
            .expect("nothing panics while it holds the list")
            .pop();
        // A little more than a block, so that the command that fills it rarely makes it grow.
        free.unwrap_or_else(|| vec![0; self.block_bytes + self.block_bytes / 4])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut free = self
            .free
            .lock()
            .expect("nothing panics while it holds the list");
        if free.len() < self.keep && buffer.len() <= 2 * self.block_bytes {
            free.push(buffer);
        }
    }
}

struct ToWriter<'a> {
    queue: &'a SyncSender<Message>,
    buffers: &'a Buffers,
}

impl Blocks for ToWriter<'_> {
    fn hand_on(&mut self, block: Block, db: Option<u64>) -> Result<()> {
        self.queue
            .send(Message::Block(block, db))
            .map_err(|_| Error::plain(ErrorKind::Stopped))
    }

    fn buffer(&mut self) -> Vec<u8> {
        self.buffers.get()
    }

    fn recycle(&mut self, buffer: Vec<u8>) {
        self.buffers.put(buffer);
    }
}

struct Writer<'a> {
    sink: &'a mut dyn Sink,
    reject: &'a mut (dyn FnMut(&Reject) -> Result<()> + Send),
    stream: &'a mut Stream,
    buffers: &'a Buffers,
    progress: &'a Progress,
    tally: Tally,
    /// Record of a large key that broke in one of its parts; what is left of it is dropped.
    dropped: Option<usize>,
}

impl Writer<'_> {
    fn run(&mut self, tasks: Receiver<Pending>) -> Result<()> {
        for task in tasks {
            self.task(task)?;
        }
        Ok(())
    }

    fn task(&mut self, task: Pending) -> Result<()> {
        let record = match task.span {
            Span::Part { record, .. } => Some(record),
            Span::Records { .. } => None,
        };
        let drop_it = record.is_some() && record == self.dropped;
        if let Some((offset, db)) = task.place {
            self.sink.reached(offset, db, self.tally.read)?;
        }
        let mut selected = false;
        let mut blocks: Vec<Block> = Vec::new();
        let mut done = None;
        let mut waiting = VecDeque::new();
        while done.is_none() {
            // Take what is there, and wait only where there is nothing.
            match task.queue.recv() {
                Ok(message) => waiting.push_back(message),
                Err(_) => return Err(Error::plain(ErrorKind::Stopped)),
            }
            while waiting.len() < WRITE_BLOCKS {
                match task.queue.try_recv() {
                    Ok(message) => waiting.push_back(message),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            for message in waiting.drain(..) {
                match message {
                    Message::Done(d) => done = Some(d),
                    Message::Block(..) if drop_it => {}
                    Message::Block(block, db) => {
                        if let (Some(db), false) = (db, selected) {
                            selected = true;
                            if self.stream.db != Some(db) {
                                blocks.push(select(db));
                                self.tally.commands += 1;
                            }
                        }
                        blocks.push(block);
                    }
                }
            }
            let bytes: usize = blocks.iter().map(|b| b.bytes().len()).sum();
            if !blocks.is_empty() {
                self.sink.write(&blocks)?;
                self.progress
                    .bytes_out
                    .fetch_add(bytes as u64, Ordering::Relaxed);
            }
            for block in blocks.drain(..) {
                if let Block::Owned { buffer, .. } = block {
                    self.buffers.put(buffer);
                }
            }
        }
        let done = done.expect("the loop ends with it");
        if drop_it {
            return Ok(());
        }
        if done.db.is_some() {
            self.stream.db = done.db;
        }
        if done.gone {
            self.dropped = record;
        }
        for reject in &done.rejects {
            (self.reject)(reject)?;
        }
        self.tally.add(&done.tally);
        self.progress
            .keys
            .fetch_add(done.tally.read, Ordering::Relaxed);
        self.progress
            .done
            .fetch_add(task.bytes as u64, Ordering::Relaxed);
        done.error.map_or(Ok(()), Err)
    }
}

fn select(db: u64) -> Block {
    let mut buffer = Vec::new();
    append_command(&mut buffer, &[b"SELECT", db.to_string().as_bytes()]);
    Block::Owned {
        used: buffer.len(),
        buffer,
    }
}

/// Refuses keys of other databases than 0 before the first byte is written, for destinations that have one; and where a
/// server is waiting for them, names that it does not take.
fn check_keys(data: &[u8], settings: &Settings, lenient: bool) -> Result<()> {
    let file = Cursor::new(data, 0);
    let mut c = file;
    let format = Format::parse(&mut c, lenient)?;
    let mut reader = Reader::new(file, format, c.pos());
    let mut scratch = Scratch::new(1 << 20);
    let growth = settings.transform.growth();
    let limit = settings
        .target
        .key_limit()
        .filter(|_| settings.log.places && !lenient)
        .map(|limit| limit.saturating_sub(growth));
    let mut found: Vec<u64> = Vec::new();
    let mut db = 0;
    // The size of a template hash comes from its template; for passing over values any will do that is known.
    let mut templates = Templates::default();
    // What is broken is reported, with all that belongs to it, when it is converted.
    while let Ok(record) = reader.next() {
        match record {
            Record::Select(n) => db = n,
            Record::Template { id, names } => drop(templates.insert(id, names)),
            Record::Eof => break,
            Record::Key(key) => {
                let value = reader.c;
                if skip(&mut reader.c, key.ty, &templates, &mut Vec::new()).is_err() {
                    break;
                }
                let of_other_db = settings.transform.db(db) != 0 && !found.contains(&db);
                let too_long = limit.is_some_and(|limit| key.key.len() > limit as u64);
                if !of_other_db && !too_long {
                    continue;
                }
                let Ok(name) = key.key.load(&mut scratch) else {
                    break;
                };
                let verdict = settings.filter.verdict(
                    db,
                    name.as_bytes(&mut itoa::Buffer::new()),
                    key.attributes.expire_at_ms,
                    || type_name(key.ty, value),
                    || (reader.c.pos() - value.pos()) as u64,
                );
                if verdict == Verdict::Pass && too_long {
                    let bytes = name.len();
                    return Err(Error::plain(ErrorKind::Unfit(format!(
                        "a name is too long (--on-error continue leaves out such keys and lists them with --rejects FILE): {}",
                        too_long_for_proxy(bytes, &settings.target)
                    )))
                    .in_key(|| key_name(&key, db, type_name(key.ty, value), format)));
                }
                if verdict == Verdict::Pass && of_other_db {
                    found.push(db);
                }
                if found.len() > 16 {
                    break;
                }
            }
            _ => {}
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let list = found
        .iter()
        .take(16)
        .map(u64::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    let more = if found.len() > 16 { " and more" } else { "" };
    Err(Error::plain(ErrorKind::Databases(format!(
        "the file holds keys of database {list}{more}, and the destination has database 0 only; \
         choose one with --db N and bring it there with --db-map N=0"
    ))))
}

/// Converts bytes in memory into memory: for tests and fuzzers.
pub fn convert_bytes(
    data: &[u8],
    settings: &Settings,
    options: &Options,
) -> (Vec<u8>, Report, Vec<Reject>) {
    let input = Input::from_bytes("memory", Bytes::copy_from_slice(data));
    let (mut out, mut rejects) = (Vec::new(), Vec::new());
    let mut keep = |reject: &Reject| {
        rejects.push(reject.clone());
        Ok(())
    };
    let report = convert(
        &input,
        settings,
        options,
        &mut Stream::default(),
        &mut out,
        &mut keep,
        &Progress::default(),
    );
    (out, report, rejects)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::length::write_length;

    /// A string, a list of 3 MiB whose element number `broken` does not unpack, a string.
    fn snapshot(broken: Option<usize>) -> Vec<u8> {
        let mut file = b"REDIS0004\xfe\x02\x00\x01a\x01b\x01\x01l".to_vec();
        write_length(&mut file, 50_000);
        for i in 0..50_000 {
            if broken == Some(i) {
                // A match at the very start of the output.
                file.extend_from_slice(b"\xc3\x03\x05\x60\x00\x00");
            } else {
                file.push(60);
                file.extend_from_slice(format!("{i:060}").as_bytes());
            }
        }
        file.extend_from_slice(b"\x00\x01c\x01d\xff");
        file
    }

    /// Number of commands; fails where one is cut off.
    fn whole_commands(mut resp: &[u8]) -> u64 {
        fn number(resp: &mut &[u8], mark: u8) -> usize {
            let end = resp.iter().position(|b| *b == b'\r').expect("a line end");
            assert_eq!(resp[0], mark);
            let n = std::str::from_utf8(&resp[1..end]).unwrap().parse().unwrap();
            *resp = &resp[end + 2..];
            n
        }
        let mut n = 0;
        while !resp.is_empty() {
            for _ in 0..number(&mut resp, b'*') {
                let len = number(&mut resp, b'$');
                assert_eq!(&resp[len..len + 2], b"\r\n");
                resp = &resp[len + 2..];
            }
            n += 1;
        }
        n
    }

    fn run(file: &[u8], on_error: OnError, threads: usize) -> (Vec<u8>, Report, Vec<Reject>) {
        let settings = Settings {
            on_error,
            batch_elements: 500,
            batch_bytes: 256 << 10,
            ..Settings::default()
        };
        convert_bytes(
            file,
            &settings,
            &Options {
                threads,
                checksum: Checksum::Along,
                from: 0,
                replace_before: 0,
            },
        )
    }

    #[test]
    fn a_key_in_parts_is_the_same_for_any_number_of_threads() {
        let file = snapshot(None);
        let (one, report, _) = run(&file, OnError::Stop, 1);
        assert!(report.error.is_none() && report.tally.adds_up());
        assert_eq!((report.tally.read, report.tally.written), (3, 3));
        assert_eq!(whole_commands(&one), report.tally.commands);
        for threads in [2, 7] {
            assert_eq!(run(&file, OnError::Stop, threads).0, one);
        }
    }

    #[test]
    fn a_key_that_breaks_in_a_later_part_is_taken_back() {
        for broken in [10, 30_000, 49_999] {
            for threads in [1, 3] {
                let file = snapshot(Some(broken));
                let (out, report, rejects) = run(&file, OnError::Continue, threads);
                assert!(report.error.is_none(), "{:?}", report.error);
                assert_eq!(
                    (
                        report.tally.read,
                        report.tally.written,
                        report.tally.rejected
                    ),
                    (3, 2, 1)
                );
                assert_eq!((rejects.len(), &rejects[0].key[..]), (1, &b"l"[..]));
                let tail = b"*3\r\n$3\r\nSET\r\n$1\r\nc\r\n$1\r\nd\r\n";
                let before = out
                    .strip_suffix(tail)
                    .expect("the key behind it is written");
                let taken_back = before.ends_with(b"*2\r\n$3\r\nDEL\r\n$1\r\nl\r\n");
                let nothing = !before.windows(5).any(|w| w == b"RPUSH");
                assert!(taken_back || nothing);
                // The counts of parts that were dropped are dropped too.
                assert_eq!(whole_commands(&out), report.tally.commands);

                let (out, report, _) = run(&file, OnError::Stop, threads);
                assert!(report.error.expect("it stops").key().is_some());
                assert!(out.starts_with(
                    b"*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n"
                ));
                assert!(!out.ends_with(tail));
                whole_commands(&out);
            }
        }
    }

    #[test]
    fn an_unknown_version_stops_or_is_read_and_named() {
        let file = b"REDIS0099\x00\x01a\x01b\xff\0\0\0\0\0\0\0\0";
        for (on_error, commands) in [(OnError::Stop, 0), (OnError::Continue, 2)] {
            let (out, report, _) = run(file, on_error, 1);
            assert_eq!(whole_commands(&out), commands);
            let error = report.error.expect("the version is unknown");
            assert!(
                matches!(error.kind(), ErrorKind::UnknownVersion { .. }),
                "{error}"
            );
        }
    }
}
