//! `convert`: snapshots and logs → a RESP command file.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use redis_migration::aof::checkpoint::Checkpoint;
use redis_migration::command::encode::Settings;
use redis_migration::pipeline::{Checksum, Options, Progress};
use redis_migration::sink::file::FileSink;
use redis_migration::{Error, ErrorKind};

use crate::args::{ChecksumArg, ConvertArgs};
use crate::job::{Ended, Inputs, Job, JobArgs, Output, lock};
use crate::outcome::{self, Exit};
use crate::rejects::Rejects;
use crate::run::{self, Finish};
use crate::summary::{Log, Summary};

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
    if let Err(text) = check(args) {
        log.failure(&text);
        return Exit::Usage;
    }
    let _lock = match run::prepare(&args.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    run::warn_of_merging(&settings, log);
    let started = Instant::now();
    let progress = Progress::default();
    run::supervise(&args.manners, log, GRACE, run::watch(&progress), || {
        convert(args, &settings, log, &progress, started)
    })
}

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
    let not_opened = |name: String, error: Error| -> Finish<'a> {
        let (failures, manners) = (&args.failures, &args.manners);
        Box::new(move |signal| {
            run::not_opened(name, &error, signal, failures, manners, started, log)
        })
    };
    let checkpoint = match args.logs.checkpoint.as_deref().map(Checkpoint::load) {
        None => None,
        Some(Ok(checkpoint)) => checkpoint,
        Some(Err(error)) => return not_opened(String::new(), error),
    };
    let inputs = match Inputs::open(&args.input, &args.logs, progress, log) {
        Ok(inputs) => inputs,
        Err((name, error)) => return not_opened(name, error),
    };
    let mut settings = settings.clone();
    if let Err(text) = run::hold(&mut settings, &inputs, &args.logs) {
        return fail(text, Exit::Usage);
    }
    let sink = match open_sink(args, checkpoint.as_ref()) {
        Ok(sink) => sink,
        Err((text, exit)) => return fail(text, exit),
    };
    let rejects = match Rejects::create(
        args.failures.rejects.as_deref(),
        false,
        args.manners.hide_keys,
        log,
    ) {
        Ok(rejects) => Arc::new(Mutex::new(rejects)),
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
    let what = JobArgs {
        input: &args.input,
        logs: &args.logs,
        output: args.output.output.as_deref(),
        hide_keys: args.manners.hide_keys,
    };
    let output = Output::File(sink, checkpoint.map(Box::new));
    let mut job = Job::new(
        what,
        &settings,
        options,
        log,
        progress,
        output,
        rejects.clone(),
    );
    job.run(inputs);
    let Ended {
        summary,
        output,
        failed,
        ..
    } = job.end();
    let Output::File(sink, _) = output else {
        unreachable!("it is what it was")
    };
    let rejected = lock(&rejects).finish();
    let ended = Converted {
        summary,
        sink,
        failed,
        rejected,
    };
    Box::new(move |signal| ending(args, ended, signal, log, started))
}

/// The ending tells the truth: what failed, what was written all the same and where it is, the summary, and the
/// exit code.
fn ending(
    args: &ConvertArgs,
    ended: Converted,
    signal: Option<i32>,
    log: Log,
    started: Instant,
) -> Exit {
    let Converted {
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
                    (Some(_), true) => format!("go on: {}", run::command_line()),
                    _ => "start over.".to_owned(),
                };
                log.failure(&format!(
                    "{name}: interrupted; {left}. Run the same command again to {next}"
                ));
            }
            _ => {
                exit = Exit::of(&error);
                let next = outcome::next(&error, args.failures.on_error.into());
                // Errors of the system name the file themselves; it may be the output.
                let name = match error.kind() {
                    ErrorKind::Io { .. } => String::new(),
                    _ => format!("{name}: "),
                };
                log.failure(&format!(
                    "{name}{}. {}.{next}",
                    error.describe(hide),
                    run::capital(&left)
                ));
            }
        }
    }
    run::sum_up(
        &mut summary,
        rejected,
        &args.failures,
        &args.manners,
        exit,
        started,
        log,
    )
}

/// What is left of a run for its ending.
struct Converted {
    summary: Summary,
    sink: FileSink,
    failed: Option<Error>,
    rejected: Result<u64, String>,
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

fn open_sink(
    args: &ConvertArgs,
    checkpoint: Option<&Checkpoint>,
) -> Result<FileSink, (String, Exit)> {
    match &args.output.output {
        Some(path) if path != Path::new("-") && args.logs.follow => {
            // What an earlier run wrote there is gone on with; its checkpoint knows it.
            let opened = FileSink::append(path, args.output.force, |now| {
                let known = checkpoint.and_then(|c| c.output.file.as_ref());
                known.is_some_and(|known| (known.dev, known.inode) == (now.dev, now.inode))
            });
            run::not_opened_as(opened)
        }
        _ => run::open_output(&args.output),
    }
}
