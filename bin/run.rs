//! What all runs have in common: what is seen to before anything is read, signals, and the last words.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use indicatif::HumanCount;
use redis_migration::command::encode::{Form, OnError, Settings};
use redis_migration::pipeline::Progress;
use redis_migration::sink::file::{FileSink, OpenError};
use redis_migration::{Error, ErrorKind};
use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};

use crate::args::{FailureArgs, InputArgs, LogArgs, MannersArgs, OutputArgs, SummaryArg};
use crate::job::Inputs;
use crate::outcome::{self, Exit};
use crate::summary::{Log, Shown, Summary};
use crate::target;

/// Sees to what a run needs before it begins: where temporary files go, and its lock, which is held as long as what is
/// returned.
pub fn prepare(input: &InputArgs, manners: &MannersArgs, log: Log) -> Result<Option<File>, Exit> {
    if let Some(dir) = &input.tmp_dir
        && tempfile::env::override_temp_dir(dir).is_err()
    {
        log.failure("the directory for temporary files is set already");
        return Err(Exit::Usage);
    }
    let lock = manners.lock.as_deref().map(lock).transpose();
    lock.map_err(|(text, exit)| {
        log.failure(&text);
        exit
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

/// Opens what data is written to: stdout, or a file that gets its name when it is whole.
pub fn open_output(args: &OutputArgs) -> Result<FileSink, (String, Exit)> {
    match args
        .output
        .as_deref()
        .filter(|path| *path != Path::new("-"))
    {
        Some(path) => not_opened_as(FileSink::create(path, args.force)),
        None => FileSink::stdout()
            .map_err(|e| (format!("stdout cannot be written: {e}"), Exit::LocalFile)),
    }
}

/// The words and the exit code for a file that was not opened.
pub fn not_opened_as(opened: Result<FileSink, OpenError>) -> Result<FileSink, (String, Exit)> {
    opened.map_err(|error| (error.to_string(), Exit::from(&error)))
}

/// What is left to say once the progress bar is gone.
pub type Finish<'a> = Box<dyn FnOnce(Option<i32>) -> Exit + Send + 'a>;

/// Runs `work` while signals are listened to and progress is shown, and ends with what it leaves to say.
///
/// `watch` is called ten times a second, with the signal that came. `grace`: after a signal the run gets this long to end by itself, for it may be waiting in a read or a write.
pub fn supervise<'a>(
    manners: &MannersArgs,
    log: Log,
    grace: Duration,
    mut watch: impl FnMut(&mut Shown, Option<i32>),
    work: impl FnOnce() -> Finish<'a> + Send,
) -> Exit {
    let signal = Arc::new(AtomicUsize::new(0));
    if let Err(error) = catch_signals(&signal) {
        log.failure(&format!("signals cannot be caught: {error}"));
        return Exit::LocalFile;
    }
    let mut shown = Shown::new(manners, log);
    std::thread::scope(|scope| {
        let (done, finished) = sync_channel(1);
        let worker = scope.spawn(move || {
            let finish = work();
            let _ = done.send(());
            finish
        });
        let mut since_signal: Option<Instant> = None;
        while let Err(RecvTimeoutError::Timeout) = finished.recv_timeout(Duration::from_millis(100))
        {
            let caught = signal.load(Ordering::Relaxed) as i32;
            if caught != 0 && since_signal.get_or_insert_with(Instant::now).elapsed() > grace {
                shown.clear();
                log.failure("interrupted while waiting for a reader, a writer or a server");
                std::process::exit(i32::from(Exit::Signal(caught).code()));
            }
            watch(&mut shown, (caught != 0).then_some(caught));
        }
        shown.clear();
        let finish = worker.join().expect("a run does not panic");
        let caught = signal.load(Ordering::Relaxed) as i32;
        finish(if caught != 0 { Some(caught) } else { None })
    })
}

/// What most runs do meanwhile: show how far they are, and stop when a signal came.
pub fn watch(progress: &Progress) -> impl FnMut(&mut Shown, Option<i32>) {
    |shown, signal| {
        if signal.is_some() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        shown.update(progress);
    }
}

/// The first signal asks the run to stop, the second ends it at once.
fn catch_signals(signal: &Arc<AtomicUsize>) -> std::io::Result<()> {
    for number in [SIGINT, SIGTERM] {
        let again = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register_conditional_shutdown(number, 128 + number, again.clone())?;
        signal_hook::flag::register(number, again)?;
        signal_hook::flag::register_usize(number, signal.clone(), number as usize)?;
    }
    // Where files may not outgrow a limit (ulimit -f), the write shall fail as on a full disk, and the run say so.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// The ending of a run that did not begin: an input, the checkpoint or a server could not be opened.
pub fn not_opened(
    name: String,
    error: &Error,
    signal: Option<i32>,
    failures: &FailureArgs,
    manners: &MannersArgs,
    started: Instant,
    log: Log,
) -> Exit {
    let on_error = failures.on_error.into();
    let exit = say_why(&name, error, signal, on_error, manners.hide_keys, log);
    let mut summary = Summary::of_failure(name, error.describe(manners.hide_keys));
    sum_up(&mut summary, Ok(0), failures, manners, exit, started, log)
}

fn say_why(
    name: &str,
    error: &Error,
    signal: Option<i32>,
    on_error: OnError,
    hide_keys: bool,
    log: Log,
) -> Exit {
    if let (ErrorKind::Stopped, Some(signal)) = (error.kind(), signal) {
        let name = match name {
            "" => String::new(),
            name => format!("{name}: "),
        };
        log.failure(&format!(
            "{name}interrupted; this run has written nothing. Run the same command again to go on: {}",
            command_line()
        ));
        return Exit::Signal(signal);
    }
    let next = outcome::next(error, on_error);
    // Errors of the system name the file themselves.
    let name = match error.kind() {
        ErrorKind::Io { .. } | ErrorKind::BadCheckpoint { .. } => String::new(),
        _ if name.is_empty() => String::new(),
        _ => format!("{name}: "),
    };
    log.failure(&format!(
        "{name}{}. Nothing was written.{next}",
        error.describe(hide_keys)
    ));
    Exit::of(error)
}

/// Where there are commands that may depend on what expires, nothing may until they are through. Errors are of usage.
pub fn hold(settings: &mut Settings, inputs: &Inputs, logs: &LogArgs) -> Result<(), String> {
    if !inputs.holds {
        return Ok(());
    }
    let filter = &mut settings.filter;
    if filter.size.is_some() || filter.ttl.is_some() {
        return Err("--size and --ttl choose by what the commands of a log do not show".to_owned());
    }
    // What follows takes for granted that every key is there.
    filter.keep_expired = true;
    // Lines are not replayed as they are read: whoever loads them holds expiries back.
    if logs.hold.0 > 0 && settings.form == Form::Commands {
        settings.transform.hold_until_ms = Some(filter.now_ms.saturating_add(logs.hold.0));
    }
    Ok(())
}

/// What is left to say of what could not be written, the summary, and the files that were asked for.
pub fn sum_up(
    summary: &mut Summary,
    rejected: Result<u64, String>,
    failures: &FailureArgs,
    manners: &MannersArgs,
    mut exit: Exit,
    started: Instant,
    log: Log,
) -> Exit {
    match rejected {
        Ok(0) => {}
        Ok(n) => {
            let list = match &failures.rejects {
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
    match manners.summary {
        // Where nothing was read there is nothing to sum up; the failure has said all.
        SummaryArg::Text if summary.inputs.iter().all(|i| i.kind().is_empty()) => {}
        SummaryArg::Text => summary.text(log),
        SummaryArg::Json if !manners.quiet => eprintln!("{}", summary.json()),
        SummaryArg::Json => {}
    }
    if let Err(text) = summary.files(manners) {
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
        let has_source = words.iter().any(|word| word == "-sip" || word == "migrate");
        line.push_str(match has_source {
            true => {
                "\n*** stands for a password; REDIS_MIGRATION_SOURCE_AUTH can carry the source's in its place, REDISCLI_AUTH the \
                 destination's"
            }
            false => "\n*** stands for the password; REDISCLI_AUTH can carry it in its place",
        });
    }
    line
}

/// A sentence's first letter.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().collect::<String>() + chars.as_str()
    })
}

/// Two databases brought into one may hold keys of the same name.
pub fn warn_of_merging(settings: &Settings, log: Log) {
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
