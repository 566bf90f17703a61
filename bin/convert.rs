//! `convert`: snapshots and logs → a RESP command file.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use jiff::Timestamp;
use redis_migration::aof::checkpoint::Checkpoint;
use redis_migration::command::encode::Settings;
use redis_migration::error::show_key;
use redis_migration::pipeline::{Checksum, Options, Progress};
use redis_migration::sink::file::{FileSink, OpenError};
use redis_migration::tally::Reject;
use redis_migration::{Error, ErrorKind};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{ChecksumArg, ConvertArgs, SummaryArg};
use crate::job::{Ended, Inputs, Job};
use crate::outcome::{self, Exit};
use crate::report::{Log, Shown};
use crate::target;

/// After a signal the run gets this long to end by itself: it may be waiting in a read or a write.
const GRACE: Duration = Duration::from_secs(2);

pub fn run(args: &ConvertArgs) -> Exit {
    let log = Log::new(&args.manners);
    let settings = match args.settings(Timestamp::now().as_millisecond()) {
        Ok(settings) => settings,
        Err(text) => {
            log.failure(&text);
            return Exit::Usage;
        }
    };
    if let Some(dir) = &args.input.tmp_dir
        && tempfile::env::override_temp_dir(dir).is_err()
    {
        log.failure("the directory for temporary files is set already");
        return Exit::Usage;
    }
    let _lock = match args.manners.lock.as_deref().map(lock).transpose() {
        Ok(lock) => lock,
        Err((text, exit)) => {
            log.failure(&text);
            return exit;
        }
    };
    if let Err(text) = check(args) {
        log.failure(&text);
        return Exit::Usage;
    }
    // A name that is mistyped should be found before hours of work on the inputs before it.
    for path in args.input.inputs.iter().filter(|p| *p != Path::new("-")) {
        match std::fs::metadata(path) {
            Err(error) if !args.logs.follow => {
                log.failure(&format!("{}: cannot be opened: {error}", path.display()));
                return Exit::LocalFile;
            }
            _ => {}
        }
    }
    warn_of_merging(&settings, log);

    let signal = Arc::new(AtomicUsize::new(0));
    if let Err(error) = catch_signals(&signal) {
        log.failure(&format!("signals cannot be caught: {error}"));
        return Exit::LocalFile;
    }
    let started = Instant::now();
    let progress = Arc::new(Progress::default());
    let mut shown = Shown::new(&args.manners, log);
    std::thread::scope(|scope| {
        let (done, finished) = sync_channel(1);
        let worker = {
            let (progress, settings) = (&progress, &settings);
            scope.spawn(move || {
                let exit = convert(args, settings, log, progress, started);
                let _ = done.send(());
                exit
            })
        };
        let mut since_signal: Option<Instant> = None;
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(Duration::from_millis(100))
        {
            let caught = signal.load(Ordering::Relaxed) as i32;
            if caught != 0 {
                progress.stop.store(true, Ordering::Relaxed);
                if since_signal.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    shown.clear();
                    log.failure("interrupted while waiting for a reader or a writer");
                    std::process::exit(i32::from(Exit::Signal(caught).code()));
                }
            }
            shown.update(&progress);
        }
        shown.clear();
        let finish = worker.join().expect("the converter does not panic");
        let caught = signal.load(Ordering::Relaxed) as i32;
        finish(if caught != 0 { Some(caught) } else { None })
    })
}

/// The first signal asks the run to stop, the second ends it at once.
fn catch_signals(signal: &Arc<AtomicUsize>) -> std::io::Result<()> {
    for number in [SIGINT, SIGTERM] {
        let again = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(number, 128 + number, again.clone())?;
        signal_hook::flag::register(number, again)?;
        signal_hook::flag::register_usize(number, signal.clone(), number as usize)?;
    }
    Ok(())
}

/// What is left to say once the progress bar is gone.
type Finish<'a> = Box<dyn FnOnce(Option<i32>) -> Exit + Send + 'a>;

fn convert<'a>(
    args: &'a ConvertArgs,
    settings: &Settings,
    log: Log,
    progress: &'a Progress,
    started: Instant,
) -> Finish<'a> {
    let fail = |text: String, exit: Exit| -> Finish<'a> {
        Box::new(move |_| {
            log.failure(&text);
            exit
        })
    };
    let inputs = match Inputs::open(args, progress, log) {
        Ok(inputs) => inputs,
        Err((name, error)) => {
            return Box::new(move |signal| not_opened(args, &name, &error, signal, log));
        }
    };
    let mut settings = settings.clone();
    if inputs.holds {
        let filter = &mut settings.filter;
        if filter.size.is_some() || filter.ttl.is_some() {
            return fail(
                "--size and --ttl choose by what the commands of a log do not show".to_owned(),
                Exit::Usage,
            );
        }
        // What follows takes for granted that every key is there.
        filter.keep_expired = true;
        if args.logs.hold.0 > 0 {
            settings.transform.hold_until_ms = Some(filter.now_ms.saturating_add(args.logs.hold.0));
        }
    }
    let sink = match open_sink(args, inputs.checkpoint()) {
        Ok(sink) => sink,
        Err((text, exit)) => return fail(text, exit),
    };
    let rejects = match Rejects::create(args, log) {
        Ok(rejects) => rejects,
        Err(text) => return fail(text, Exit::LocalFile),
    };
    let checksum = match args.input.checksum {
        Some(checksum) => checksum.into(),
        None if sink.partial().is_some() => ChecksumArg::Along.into(),
        None => Checksum::First,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.input.threads.map_or(cores, usize::from);
    let options = Options {
        threads,
        checksum,
        from: 0,
        replace_before: 0,
    };
    let mut job = Job::new(args, &settings, options, log, progress, sink, rejects);
    job.run(inputs);
    let ended = job.end();
    Box::new(move |signal| ending(args, ended, signal, log, started))
}

/// An input, or the checkpoint, could not be opened: nothing was begun.
fn not_opened(
    args: &ConvertArgs,
    name: &str,
    error: &Error,
    signal: Option<i32>,
    log: Log,
) -> Exit {
    if let (ErrorKind::Stopped, Some(signal)) = (error.kind(), signal) {
        log.failure(&format!("{name}: interrupted; nothing was written"));
        return Exit::Signal(signal);
    }
    let next = outcome::next_step(error, args.failures.on_error.into())
        .map_or(String::new(), |n| format!(" Next: {n}."));
    // Errors of the system name the file themselves.
    let name = match error.kind() {
        ErrorKind::Io { .. } | ErrorKind::BadCheckpoint { .. } => String::new(),
        _ => format!("{name}: "),
    };
    log.failure(&format!(
        "{name}{}. Nothing was written.{next}",
        error.describe(args.manners.hide_keys)
    ));
    Exit::of(error)
}

/// The ending tells the truth: what failed, what was written all the same and where it is, the summary, and the
/// exit code.
fn ending(
    args: &ConvertArgs,
    ended: Ended,
    signal: Option<i32>,
    log: Log,
    started: Instant,
) -> Exit {
    let Ended {
        mut summary,
        sink,
        failed,
        rejected,
    } = ended;
    let hide = args.manners.hide_keys;
    if failed.as_ref().is_some_and(outcome::is_broken_pipe) {
        outcome::die_by_sigpipe();
    }
    let mut exit = if summary.torn {
        Exit::Rejected
    } else {
        Exit::Done
    };
    if let Some(error) = failed {
        let name = summary
            .inputs
            .last()
            .map_or(String::new(), |i| i.name.clone());
        let left = if summary.bytes_out == 0 {
            sink.discard();
            "nothing was written".to_owned()
        } else {
            summary.left()
        };
        match (error.kind(), signal) {
            (ErrorKind::Stopped, Some(signal)) => {
                exit = Exit::Signal(signal);
                let left = left.replace(" before it", "");
                let next = match (&args.logs.checkpoint, args.logs.follow) {
                    (Some(_), true) => format!("go on: {}", command_line()),
                    _ => "start over.".to_owned(),
                };
                log.failure(&format!(
                    "{name}: interrupted; {left}. Run the same command again to {next}"
                ));
            }
            _ => {
                exit = Exit::of(&error);
                let next = outcome::next_step(&error, args.failures.on_error.into())
                    .map_or(String::new(), |n| format!(" Next: {n}."));
                // Errors of the system name the file themselves; it may be the output.
                let name = match error.kind() {
                    ErrorKind::Io { .. } => String::new(),
                    _ => format!("{name}: "),
                };
                log.failure(&format!(
                    "{name}{}. {}.{next}",
                    error.describe(hide),
                    capital(&left)
                ));
            }
        }
    }
    match rejected {
        Ok(0) => {}
        Ok(n) => {
            let list = match &args.failures.rejects {
                Some(path) => format!("listed in {}", path.display()),
                None => "--rejects FILE lists them".to_owned(),
            };
            log.failure(&format!("{} could not be written; {list}", HumanCount(n)));
            if exit == Exit::Done {
                exit = Exit::Rejected;
            }
        }
        Err(text) => {
            log.failure(&text);
            if exit == Exit::Done {
                exit = Exit::LocalFile;
            }
        }
    }
    summary.exit = exit;
    summary.seconds = started.elapsed().as_secs_f64();
    match args.manners.summary {
        // Where nothing was read there is nothing to sum up; the failure has said all.
        SummaryArg::Text if summary.inputs.iter().all(|i| i.kind().is_empty()) => {}
        SummaryArg::Text => summary.text(log),
        SummaryArg::Json if !args.manners.quiet => eprintln!("{}", summary.json()),
        SummaryArg::Json => {}
    }
    if let Err(text) = summary.files(&args.manners) {
        log.failure(&text);
        if exit == Exit::Done {
            exit = Exit::LocalFile;
        }
    }
    exit
}

/// What was started, to be started again; words are quoted where a shell would take them apart, and passwords are
/// not shown.
pub fn command_line() -> String {
    let plain = |b: char| b.is_alphanumeric() || "-_=./:,@+%".contains(b);
    let given: Vec<_> = std::env::args_os().collect();
    let (words, masked) = target::masked(&given);
    let words: Vec<String> = words
        .into_iter()
        .map(|word| {
            if !word.is_empty() && word.chars().all(plain) {
                word
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        })
        .collect();
    let mut line = words.join(" ");
    if masked {
        line.push_str("\n*** stands for the password; REDISCLI_AUTH can carry it in its place");
    }
    line
}

/// What cannot be asked for together.
fn check(args: &ConvertArgs) -> Result<(), String> {
    let logs = &args.logs;
    let several = args.input.inputs.len() > 1;
    let stdin = args.input.inputs.iter().any(|p| p == Path::new("-"));
    for (given, flag) in [
        (logs.follow, "--follow"),
        (logs.checkpoint.is_some(), "--checkpoint"),
    ] {
        if given && several {
            return Err(format!("{flag} takes one input: a file or a directory"));
        }
        if given && stdin {
            return Err(format!("{flag} needs a file or a directory, not stdin"));
        }
    }
    Ok(())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

fn lock(path: &Path) -> Result<File, (String, Exit)> {
    let failed = |e: std::io::Error| (format!("{}: {e}", path.display()), Exit::LocalFile);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err((
            format!("{} is held by another run", path.display()),
            Exit::Locked,
        )),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}

fn open_sink(
    args: &ConvertArgs,
    checkpoint: Option<&Checkpoint>,
) -> Result<FileSink, (String, Exit)> {
    match &args.output.output {
        Some(path) if path != Path::new("-") => {
            let force = args.output.force;
            let opened = if args.logs.follow {
                // What an earlier run wrote there is gone on with; its checkpoint knows it.
                FileSink::append(path, force, |now| {
                    let known = checkpoint.and_then(|c| c.output.file.as_ref());
                    known.is_some_and(|known| (known.dev, known.inode) == (now.dev, now.inode))
                })
            } else {
                FileSink::create(path, force)
            };
            opened.map_err(|e| {
                let exit = match e {
                    OpenError::Exists(_) => Exit::Policy,
                    OpenError::Busy(_) => Exit::Locked,
                    OpenError::Directory(_) | OpenError::Io { .. } => Exit::LocalFile,
                };
                (e.to_string(), exit)
            })
        }
        _ => FileSink::stdout()
            .map_err(|e| (format!("stdout cannot be written: {e}"), Exit::LocalFile)),
    }
}

/// Two databases brought into one may hold keys of the same name.
fn warn_of_merging(settings: &Settings, log: Log) {
    let map = &settings.transform.db_map;
    for (from, to) in map {
        let other = map
            .iter()
            .find(|(f, t)| t == &to && f > &from)
            .map(|(f, _)| f);
        if let Some(other) = other {
            log.warning(&format!(
                "databases {from} and {other} both go to {to}: of keys with the same name the later one stays"
            ));
        }
    }
}

/// Keys that could not be written: into a CSV file, and the first few to stderr.
pub struct Rejects {
    csv: Option<csv::Writer<File>>,
    name: String,
    count: u64,
    hide_keys: bool,
    log: Log,
}

impl Rejects {
    /// So many are shown on stderr.
    const SHOWN: u64 = 5;

    fn create(args: &ConvertArgs, log: Log) -> Result<Rejects, String> {
        let path = args.failures.rejects.as_deref();
        let name = path.map_or(String::new(), |p| p.display().to_string());
        let failed = |e: &dyn std::fmt::Display| format!("{name}: {e}");
        let mut csv = path
            .map(File::create)
            .transpose()
            .map_err(|e| failed(&e))?
            .map(csv::Writer::from_writer);
        if let Some(csv) = &mut csv {
            csv.write_record(["db", "key", "type", "command", "error"])
                .map_err(|e| failed(&e))?;
        }
        Ok(Rejects {
            csv,
            name,
            count: 0,
            hide_keys: args.manners.hide_keys,
            log,
        })
    }

    pub fn add(&mut self, reject: &Reject) -> redis_migration::Result<()> {
        self.count += 1;
        let db = reject.db.map_or(String::new(), |db| db.to_string());
        if self.count <= Self::SHOWN {
            let key = show_key(&reject.key, self.hide_keys);
            let place = if db.is_empty() {
                String::new()
            } else {
                format!(" in db {db}")
            };
            self.log.failure(&format!(
                "rejected {} {key}{place}: {}",
                reject.type_name, reject.error
            ));
        }
        let Some(csv) = &mut self.csv else {
            return Ok(());
        };
        let shown = if self.hide_keys {
            show_key(&reject.key, true).into_bytes()
        } else {
            reject.key.clone()
        };
        let record: [&[u8]; 5] = [
            db.as_bytes(),
            &shown,
            reject.type_name.as_bytes(),
            reject.command.as_bytes(),
            reject.error.as_bytes(),
        ];
        csv.write_record(record).map_err(|e| {
            Error::io(
                format!("{} cannot be written", self.name),
                std::io::Error::other(e),
            )
        })
    }

    pub fn finish(mut self) -> Result<u64, String> {
        if let Some(csv) = &mut self.csv {
            csv.flush()
                .map_err(|e| format!("{} cannot be written: {e}", self.name))?;
        }
        Ok(self.count)
    }
}
