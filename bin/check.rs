//! `check`: are files whole, and what can be saved of them.

mod json;
mod save;
mod screen;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::aof::read::Until;
use redis_migration::aof::set::Set;
use redis_migration::check::set::{Checked, check};
use redis_migration::check::{Options, Verdict};
use redis_migration::input::{OpenOptions, name_of};
use redis_migration::pipeline::Progress;
use redis_migration::{Error, ErrorKind};

use crate::args::{ChecksumArg, InputArgs, MannersArgs, SummaryArg};
use crate::outcome::{self, Exit};
use crate::run::{self, Finish};
use crate::summary::{Log, metrics, replace};
use crate::values::Moment;
use save::{Refused, Saved};

/// After a signal the run gets this long to end by itself: it may be waiting in a read.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Args)]
#[command(mut_arg("checksum", |arg| arg.help(CHECKSUM).long_help(CHECKSUM_MORE)))]
pub struct CheckArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub depth: DepthArgs,
    #[command(flatten)]
    pub save: SaveArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

const CHECKSUM: &str =
    "Whether to hold the checksum against the file: first and along do, off does not";

const CHECKSUM_MORE: &str = "\
Whether to hold the checksum against the file: first and along do, off does not

It is taken while the lengths are walked. Where it is off, every value is walked to its last byte, as where there is none.";

/// How closely files are looked at, and how it is told.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Checking")]
pub struct DepthArgs {
    /// Walk every packed value to its last byte, as servers do under sanitize-dump-payload
    ///
    /// Otherwise the lengths of all records are walked and the checksum is held against the file, which is enough where
    /// it matches. Where a file has none, or it does not match, values are walked without being asked.
    #[arg(long)]
    pub deep: bool,
    /// List at most N damaged keys of a file; the others are counted
    #[arg(long, value_name = "N", default_value = "100")]
    pub most: usize,
    /// Form of what is found
    ///
    /// text: one screen a file. json: one object a line and file.
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    pub format: FormatArg,
}

/// What is written of what can be saved. The input is never touched.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Saving")]
pub struct SaveArgs {
    /// Write the whole keys of a damaged snapshot to OUT, a new snapshot
    ///
    /// All keys before and behind each hole, with functions and fields about the file. Behind a hole the next record is
    /// searched for. What is lost is listed, and what is kept and may not be what it was. The exit code is still 3: the
    /// file is damaged. A snapshot that is whole is not written again.
    #[arg(long, value_name = "OUT", conflicts_with_all = ["repair", "truncate_to"])]
    pub salvage: Option<PathBuf>,
    /// Write a copy of a damaged or torn append-only file to OUT, cut behind the last whole command
    ///
    /// Never within a transaction. Of a file in parts OUT is a directory with its manifest; files behind the cut are left
    /// out, and named.
    #[arg(long, value_name = "OUT")]
    pub repair: Option<PathBuf>,
    /// Read an append-only file up to a time only, held against its #TS lines; with --repair, copy it so far
    ///
    /// RFC 3339, or Unix seconds as @1795392000: what stands before the first #TS that is later, as redis-check-aof
    /// --truncate-to-timestamp has it, but in whole transactions and over all files.
    #[arg(long, value_name = "TIME")]
    pub truncate_to: Option<Moment>,
    /// Replace a file OUT that exists
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    Text,
    Json,
}

pub fn run(args: &CheckArgs) -> Exit {
    let log = Log::new(&args.manners);
    if let Err(text) = save::usage(args) {
        log.failure(&text);
        return Exit::Usage;
    }
    let _lock = match run::prepare(&args.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let progress = Progress::default();
    run::supervise(&args.manners, log, GRACE, run::watch(&progress), || {
        work(args, &progress, log)
    })
}

/// What became of one input.
struct Outcome {
    name: String,
    result: Result<Checked, Error>,
    /// What was saved of it, where that was asked for and could be done.
    saved: Option<Saved>,
    refused: Option<Refused>,
}

impl Outcome {
    fn exit(&self) -> Exit {
        let refused = self.refused.as_ref().map_or(Exit::Done, |r| r.exit);
        worse(refused, self.found())
    }

    fn found(&self) -> Exit {
        match &self.result {
            Ok(checked) => match checked.verdict() {
                Verdict::Whole => Exit::Done,
                Verdict::Torn => Exit::Rejected,
                Verdict::Damaged => Exit::Corrupt,
            },
            Err(error) => Exit::of(error),
        }
    }
}

/// Checks every input, also behind one that is damaged or cannot be read: whoever names several wants to know of all.
fn work<'a>(args: &'a CheckArgs, progress: &'a Progress, log: Log) -> Finish<'a> {
    let started = Instant::now();
    let mut outcomes = Vec::new();
    for path in &args.input.inputs {
        let name = name_of(path);
        let outcome = one(args, path, name, progress);
        let stopped = outcome.result.as_ref().is_err_and(save::is_stopped)
            || outcome.refused.as_ref().is_some_and(|r| r.is_stop);
        let shown = show(args, &outcome);
        outcomes.push(outcome);
        if let Err(error) = shown {
            return Box::new(move |_| {
                if error.kind() == std::io::ErrorKind::BrokenPipe {
                    outcome::die_by_sigpipe();
                }
                log.failure(&format!("stdout cannot be written: {error}"));
                Exit::LocalFile
            });
        }
        if stopped {
            break;
        }
    }
    Box::new(move |signal| ending(args, &outcomes, signal, started, log))
}

fn one(args: &CheckArgs, path: &Path, name: String, progress: &Progress) -> Outcome {
    let opening = OpenOptions {
        no_mmap: args.input.no_mmap,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        threads: args.input.threads.map_or(cores, usize::from),
        checksum: args.input.checksum != Some(ChecksumArg::Off),
        deep: args.depth.deep,
        most: args.depth.most,
        now_ms: Timestamp::now().as_millisecond(),
    };
    let until = args.save.truncate_to.map(|time| Until::TimeMs(time.0));
    let checked = Set::open(path, &opening, &progress.stop).and_then(|set| {
        let checked = check(&name, &set, &options, until, progress)?;
        Ok((set, checked))
    });
    let (mut saved, mut refused) = (None, None);
    let result = checked.map(|(set, checked)| {
        match save::save(args, &checked, &set, &options, progress) {
            Ok(done) => saved = done,
            Err(why) => refused = Some(why),
        }
        checked
    });
    Outcome {
        name,
        result,
        saved,
        refused,
    }
}

/// Writes what was found to stdout. What has nothing to do with a file's contents belongs to stderr, at the end.
fn show(args: &CheckArgs, outcome: &Outcome) -> std::io::Result<()> {
    let hide = args.manners.hide_keys;
    let text = match (&outcome.result, args.depth.format) {
        (Ok(checked), FormatArg::Text) => screen::of(checked, outcome.saved.as_ref(), hide),
        (Ok(checked), FormatArg::Json) => {
            format!("{}\n", json::of(checked, outcome.saved.as_ref(), hide))
        }
        (Err(_), _) => return Ok(()),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// What could not be read, a line that sums up, and the files that were asked for. The worst of all inputs decides.
fn ending(
    args: &CheckArgs,
    outcomes: &[Outcome],
    signal: Option<i32>,
    started: Instant,
    log: Log,
) -> Exit {
    let mut exit = Exit::Done;
    for outcome in outcomes {
        if let Err(error) = &outcome.result {
            if let (ErrorKind::Stopped, Some(signal)) = (error.kind(), signal) {
                log.failure(&format!("{}: interrupted", outcome.name));
                exit = Exit::Signal(signal);
                break;
            }
            log.failure(&said(outcome, error, args.manners.hide_keys));
        }
        match (&outcome.refused, signal) {
            (Some(refused), Some(signal)) if refused.is_stop => {
                log.failure(&format!("{}: interrupted; nothing was saved", outcome.name));
                exit = Exit::Signal(signal);
                break;
            }
            (Some(refused), _) => log.failure(&format!("{}. Nothing was saved.", refused.text)),
            (None, _) => {}
        }
        exit = worse(exit, outcome.exit());
    }
    let seconds = started.elapsed().as_secs_f64();
    let count = |wanted: Verdict| {
        let verdicts = outcomes.iter().filter_map(|o| o.result.as_ref().ok());
        verdicts.filter(|c| c.verdict() == wanted).count() as u64
    };
    let (whole, torn, damaged) = (
        count(Verdict::Whole),
        count(Verdict::Torn),
        count(Verdict::Damaged),
    );
    let bytes: u64 = outcomes
        .iter()
        .filter_map(|o| o.result.as_ref().ok())
        .flat_map(|c| &c.files)
        .map(|file| file.file_bytes)
        .sum();
    let rate = if seconds > 0.0 {
        bytes as f64 / seconds
    } else {
        0.0
    };
    let n = HumanCount;
    match args.manners.summary {
        SummaryArg::Text => {
            let unread = outcomes.iter().filter(|o| o.result.is_err()).count() as u64;
            let parts = [
                (whole, "whole"),
                (torn, "torn at the end"),
                (damaged, "damaged"),
                (unread, "not read"),
            ];
            let parts: Vec<String> = parts
                .iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} {what}", n(*count)))
                .collect();
            log.info(&format!(
                "{} checked: {}; {} in {seconds:.2} s ({}/s)",
                plural(outcomes.len() as u64, "input"),
                parts.join(", "),
                HumanBytes(bytes),
                HumanBytes(rate as u64)
            ));
        }
        SummaryArg::Json if !args.manners.quiet => {
            eprintln!("{}", json::summary(args, outcomes, exit, seconds));
        }
        SummaryArg::Json => {}
    }
    let gauges = || {
        metrics(&[
            (
                "check_whole",
                "Inputs of the last check that are whole.",
                whole as f64,
            ),
            (
                "check_torn",
                "Inputs of the last check that end within a command.",
                torn as f64,
            ),
            (
                "check_damaged",
                "Inputs of the last check that are damaged.",
                damaged as f64,
            ),
            (
                "check_bytes",
                "Bytes of input of the last check.",
                bytes as f64,
            ),
            ("check_seconds", "Duration of the last check.", seconds),
            (
                "check_exit_code",
                "Exit code of the last check.",
                f64::from(exit.code()),
            ),
            (
                "check_end_time_seconds",
                "Unix time at which the last check ended.",
                Timestamp::now().as_second() as f64,
            ),
        ])
    };
    let mut written = Ok(());
    if let Some(path) = &args.manners.summary_file {
        let text = format!("{:#}\n", json::summary(args, outcomes, exit, seconds));
        written = written.and(replace(path, &text, redis_migration::file::Disk::Synced));
    }
    if let Some(path) = &args.manners.metrics_file {
        written = written.and(replace(
            path,
            &gauges(),
            redis_migration::file::Disk::Synced,
        ));
    }
    if let Err(text) = written {
        log.failure(&text);
        exit = worse(exit, Exit::LocalFile);
    }
    exit
}

/// A number and what it counts.
fn plural(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {what}{s}", HumanCount(count))
}

/// Of two endings the one that must not be missed: what could not be looked at first, then damage.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Rejected => 1,
        Exit::Corrupt => 2,
        Exit::Policy => 3,
        Exit::Unreachable => 4,
        Exit::LocalFile => 5,
        Exit::Locked => 6,
        Exit::Usage => 7,
        Exit::Signal(_) => 8,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// A sentence about an input that could not be looked at, with the next step.
fn said(outcome: &Outcome, error: &Error, hide_keys: bool) -> String {
    // Errors of the system name the file themselves.
    let name = match error.kind() {
        ErrorKind::Io { .. } => String::new(),
        _ => format!("{}: ", outcome.name),
    };
    let next = outcome::next_of_reading(error);
    format!("{name}{}.{next}", error.describe(hide_keys))
}
