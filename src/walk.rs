//! Goes through a snapshot with all workers, for whoever looks at it without writing commands of it: the same scan and
//! the same tasks as [`pipeline::convert`](crate::pipeline::convert), and what each task gives is taken in order.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, sync_channel};

use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Input;
use crate::pipeline::{Checksum, MOST_THREADS, Progress, pool};
use crate::rdb::Format;
use crate::rdb::scan::{Along, FileInfo, Scanner, Task, check_whole};

/// How a snapshot is gone through.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Number of workers.
    pub threads: usize,
    /// When the checksum is checked.
    pub checksum: Checksum,
    /// Whether an unknown file version passes.
    pub lenient: bool,
    /// Whether a large value may be given to several workers.
    pub cut_keys: bool,
}

/// A worker: what it keeps from one task to the next is its own.
pub trait Visitor: Send {
    /// What a task gives.
    type Found: Send;

    /// Looks at what the task covers. An error ends the run, behind all that stands before it in the file.
    fn task(&mut self, task: &Task) -> Result<Self::Found>;
}

/// What is left of the way through a snapshot.
#[derive(Debug)]
pub struct Walked<V> {
    /// The workers, with what they kept. Where `error` is set they may have seen a little of what stands behind it.
    pub visitors: Vec<V>,
    /// What the file says of itself.
    pub info: FileInfo,
    /// Magic and version, where they could be read.
    pub format: Option<Format>,
    /// What ended the run early.
    pub error: Option<Error>,
}

/// Goes through `input`. `new` makes a worker; `take` is given what each task gave, in order of the file, with the
/// bytes that it covers.
pub fn walk<V: Visitor>(
    input: &Input,
    options: &Options,
    progress: &Progress,
    new: impl Fn(Format) -> Result<V> + Sync,
    mut take: impl FnMut(V::Found) -> Result<()> + Send,
) -> Walked<V> {
    let mut walked = Walked {
        visitors: Vec::new(),
        info: FileInfo::default(),
        format: None,
        error: None,
    };
    let visitors = Mutex::new(Vec::new());
    if let Err(error) = run(
        input,
        options,
        progress,
        &new,
        &mut take,
        &visitors,
        &mut walked,
    ) {
        walked.error = Some(error);
    }
    walked.visitors = visitors
        .into_inner()
        .expect("no worker panics while it holds the list");
    walked
}

fn run<V: Visitor>(
    input: &Input,
    options: &Options,
    progress: &Progress,
    new: &(impl Fn(Format) -> Result<V> + Sync),
    take: &mut (impl FnMut(V::Found) -> Result<()> + Send),
    visitors: &Mutex<Vec<V>>,
    walked: &mut Walked<V>,
) -> Result<()> {
    let data: &[u8] = &input.data;
    let lenient = options.lenient;
    let format = Format::parse(&mut Cursor::new(data, 0), lenient)?;
    walked.format = Some(format);
    let first = options.checksum == Checksum::First;
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
    let along = match options.checksum {
        Checksum::Along => Along::Check,
        Checksum::First | Checksum::Off => Along::Off,
    };
    let mut scanner = Scanner::new(data, along, options.cut_keys, lenient)?;
    let threads = options.threads.clamp(1, MOST_THREADS);
    let pool = pool(threads)?;
    let (scanned, taken) = std::thread::scope(|scope| {
        let (order, tasks) = sync_channel::<(Receiver<Result<V::Found>>, usize)>(threads + 2);
        let taking = std::thread::Builder::new()
            .name("taker".to_owned())
            .spawn_scoped(scope, move || -> Result<()> {
                for (found, bytes) in tasks {
                    // A worker that gave nothing has panicked; its own message says why.
                    let found = found
                        .recv()
                        .map_err(|_| Error::plain(ErrorKind::Stopped))??;
                    take(found)?;
                    progress.done.fetch_add(bytes as u64, Ordering::Relaxed);
                }
                Ok(())
            });
        let taking = match taking {
            Ok(taking) => taking,
            Err(e) => return (Err(Error::io("threads cannot be started", e)), Ok(())),
        };
        let scanned = pool.in_place_scope_fifo(|scope| -> Result<()> {
            while let Some(task) = scanner.next_task()? {
                progress.check_stop()?;
                let (give, found) = sync_channel(1);
                // The taker has ended: its own error says why.
                if order.send((found, task.bytes)).is_err() {
                    return Ok(());
                }
                scope.spawn_fifo(move |_| {
                    let spare = visitors
                        .lock()
                        .expect("no worker panics while it holds the list")
                        .pop();
                    let result = spare
                        .map_or_else(|| new(format), Ok)
                        .and_then(|mut visitor| {
                            let result = visitor.task(&task);
                            visitors
                                .lock()
                                .expect("no worker panics while it holds the list")
                                .push(visitor);
                            result
                        });
                    // Nobody listens any more: the run is over and has its own error.
                    let _ = give.send(result);
                });
            }
            Ok(())
        });
        drop(order);
        (scanned, taking.join().expect("what takes does not panic"))
    });
    walked.info = scanner.info.clone();
    taken?;
    scanned?;
    if !format.is_known() {
        // It was read to its end, as the user wished; whether it was understood, nobody knows.
        return Err(Error::new(
            ErrorKind::UnknownVersion {
                magic: format.magic(),
            },
            crate::cursor::At::file(0),
        ));
    }
    if input.changed() {
        return Err(Error::plain(ErrorKind::Changed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Filter, Verdict};
    use crate::rdb::keys::{Keys, Met};

    struct Names<'a>(Keys<'a>);

    impl Visitor for Names<'_> {
        type Found = Vec<String>;

        fn task(&mut self, task: &Task) -> Result<Vec<String>> {
            let mut names = Vec::new();
            self.0.for_each(task, &Filter::default(), |met| {
                if let Met::Key(seen) = met {
                    assert_eq!(seen.verdict, Verdict::Pass);
                    names.push(format!("{}:{}", seen.db, seen.name.escape_ascii()));
                }
                Ok(())
            })?;
            Ok(names)
        }
    }

    #[test]
    fn all_that_stands_before_an_error_is_given_in_order() {
        let mut file = b"REDIS0004".to_vec();
        for db in 0..3 {
            file.extend_from_slice(&[0xfe, db]);
            for i in 0..20_000 {
                file.extend_from_slice(b"\x00\x09");
                file.extend_from_slice(format!("key{i:06}").as_bytes());
                file.extend_from_slice(&[60]);
                file.extend_from_slice(&[b'x'; 60]);
            }
        }
        for (tail, broken) in [(&b"\xff"[..], false), (b"\x00\x09cut", true)] {
            let input = Input::from_bytes("memory", [&file[..], tail].concat());
            for threads in [1, 3] {
                let options = Options {
                    threads,
                    checksum: Checksum::Along,
                    lenient: false,
                    cut_keys: false,
                };
                let mut names = Vec::new();
                let walked = walk(
                    &input,
                    &options,
                    &Progress::default(),
                    |format| Ok(Names(Keys::new(&input.data, format, 1 << 20))),
                    |found| {
                        names.extend(found);
                        Ok(())
                    },
                );
                assert_eq!(walked.error.is_some(), broken);
                assert_eq!(walked.info.keys, 60_000);
                let expected =
                    (0..3).flat_map(|db| (0..20_000).map(move |i| format!("{db}:key{i:06}")));
                assert!(names.iter().cloned().eq(expected));
            }
        }
    }
}
