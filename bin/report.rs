//! `report`: what is in snapshots → a table, CSV, JSON or a page.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes as Buffer;
use clap::{Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::aof::read::{Event, Reader};
use redis_migration::aof::set::Role;
use redis_migration::input::{Input, Kind, Source, name_of};
use redis_migration::pipeline::{Checksum, Progress};
use redis_migration::report::table::{Style, render};
use redis_migration::report::{By, Collection, Options, head, html};
use redis_migration::resp::write::Block;
use redis_migration::sink::Sink;
use redis_migration::sink::file::FileSink;
use redis_migration::{Error, ErrorKind, walk};

use crate::args::{FilterArgs, InputArgs, LogReadingArgs, MannersArgs, OutputArgs, SummaryArg};
use crate::outcome::{self, Exit};
use crate::run::{self, Finish};
use crate::snapshots::{self, Snapshots};
use crate::summary::{InputSummary, Log, Shown, Summary};

#[derive(Debug, Clone, Args)]
#[command(
    mut_arg("expired", |arg| arg.default_value("keep").help(
        "Keys whose time has passed: count them, and show how many they are, or leave them out"
    )),
    mut_arg("checksum", |arg| arg.long_help(
        "When to hold the checksum against the file\n\nalong: while reading, so that a mismatch is found at the end, which is \
         the default: nothing is written that would have to be taken back. first: before anything is counted. off: never."
    )),
    after_long_help = ENDING
)]
pub struct ReportArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub logs: LogReadingArgs,
    #[command(flatten)]
    pub shape: ShapeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

const ENDING: &str = "\
Memory is what a Redis 7.0 with default settings would hold once the file is loaded; the report says how far that was off \
where it was measured. Of append-only files the data set is counted that they leave.

Exit codes: 0 done; 1 a log ends within a command, and what stands before that is counted; 2 usage; 3 a file is damaged, and
of a snapshot what stands before that is counted; 5 FILE exists; 74 a local file; \
75 --lock is held; 130 and 143 signals.";

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Report")]
pub struct ShapeArgs {
    /// Form of the report
    ///
    /// table: for people, with bars as wide as the terminal. csv: a record for each key, in order of the file: db, key,
    /// type, encoding, bytes, memory, elements, largest_element, expires_at_ms; in a key a backslash is doubled, and what
    /// is no UTF-8 or a control character is \xNN. json: all that was counted. html: the same as a page that needs no
    /// network.
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub format: FormatArg,
    /// Of append-only files, count only the snapshot that they begin with
    ///
    /// Otherwise the commands behind it are applied first, as a server does that loads them, and what they leave is
    /// counted, in memory for the keys that they touch. Some commands cannot be applied without a server, such as scripts.
    #[arg(long)]
    pub base_only: bool,
    /// What bars show, and what decides which is larger: bytes in the file, estimated memory, or keys
    #[arg(long, value_enum, default_value = "bytes", value_name = "WHAT")]
    pub by: ByArg,
    /// How many of the largest keys to show
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub top: u32,
    /// Characters that end a part of a key's name, each by itself, for example :/.
    #[arg(long, value_name = "CHARS", default_value = ":", value_parser = separators)]
    pub separator: Separators,
    /// The most parts of a name that make a prefix
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub prefix_depth: u8,
    /// The most prefixes that are counted at a time
    ///
    /// Where there are more, the smallest are given up and their keys counted as (other); how much any prefix may be
    /// counted too low is part of the report. A hundred thousand take about 30 MB.
    #[arg(long, value_name = "N", default_value = "200000", value_parser = clap::value_parser!(u32).range(100..=50_000_000))]
    pub prefixes: u32,
}

/// Bytes, each of which ends a part of a name.
#[derive(Debug, Clone)]
pub struct Separators(Vec<u8>);

fn separators(text: &str) -> Result<Separators, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        return Err("one or more ASCII characters, for example : or :/.".to_owned());
    }
    Ok(Separators(text.as_bytes().to_vec()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    Table,
    Csv,
    Json,
    Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ByArg {
    Bytes,
    Memory,
    Keys,
}

impl From<ByArg> for By {
    fn from(by: ByArg) -> By {
        match by {
            ByArg::Bytes => By::Bytes,
            ByArg::Memory => By::Memory,
            ByArg::Keys => By::Keys,
        }
    }
}

/// Prefixes that a report tells.
const SHOWN_PREFIXES: usize = 2000;

/// After a signal the run gets this long to end by itself: it may be waiting in a read or a write.
const GRACE: Duration = Duration::from_secs(2);

pub fn run(args: &ReportArgs) -> Exit {
    let log = Log::new(&args.manners);
    let options = match options(args) {
        Ok(options) => options,
        Err(text) => {
            log.failure(&text);
            return Exit::Usage;
        }
    };
    let _lock = match run::prepare(&args.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let progress = Progress::default();
    let watch = |shown: &mut Shown, signal: Option<i32>| {
        if signal.is_some() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        let now = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (done, total) = (now(&progress.done), now(&progress.total));
        shown.tell((done, total), || {
            let percent = (done * 100).checked_div(total).unwrap_or(0);
            format!("{percent}%: {} keys", HumanCount(now(&progress.keys)))
        });
    };
    run::supervise(&args.manners, log, GRACE, watch, || {
        report(args, &options, log, &progress)
    })
}

fn options(args: &ReportArgs) -> Result<Options, String> {
    let filter = args.filter.filter(Timestamp::now().as_millisecond())?;
    let threads = threads(args);
    Ok(Options {
        filter,
        separators: args.shape.separator.0.clone(),
        prefix_depth: usize::from(args.shape.prefix_depth),
        most_prefixes: args.shape.prefixes as usize,
        shown_prefixes: SHOWN_PREFIXES,
        top: args.shape.top as usize,
        by: args.shape.by.into(),
        hide_keys: args.manners.hide_keys,
        // Two strings for each worker: 32 MiB in all, and a quarter of a megabyte where there are many.
        unpack_limit: ((32 << 20) / (2 * threads)).clamp(256 << 10, 8 << 20),
    })
}

fn threads(args: &ReportArgs) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    args.input.threads.map_or(cores, usize::from)
}

fn report<'a>(
    args: &'a ReportArgs,
    options: &Options,
    log: Log,
    progress: &Progress,
) -> Finish<'a> {
    let mut job = match Job::new(args, log) {
        Ok(job) => job,
        Err((text, exit)) => {
            return Box::new(move |_| {
                log.failure(&text);
                exit
            });
        }
    };
    job.run(options, progress);
    Box::new(move |signal| job.ending(signal))
}

/// A run.
struct Job<'a> {
    args: &'a ReportArgs,
    log: Log,
    sink: FileSink,
    summary: Summary,
    started: Instant,
    /// What ended the run, with the input's name where it is of one.
    failed: Option<(String, Error)>,
    /// The first damage of an input.
    damage: Option<(String, Error)>,
}

impl<'a> Job<'a> {
    fn new(args: &'a ReportArgs, log: Log) -> Result<Job<'a>, (String, Exit)> {
        let sink = run::open_output(&args.output)?;
        let file = args.output.output.as_deref();
        let file = file.filter(|path| *path != Path::new("-"));
        let name = file.map_or("stdout".to_owned(), |path| path.display().to_string());
        Ok(Job {
            args,
            log,
            sink,
            summary: Summary::of_nothing(name),
            started: Instant::now(),
            failed: None,
            damage: None,
        })
    }

    fn run(&mut self, options: &Options, progress: &Progress) {
        let mut collection = Collection::new(options);
        let result = self.read(&mut collection, progress);
        let result = result.and_then(|()| {
            let report = collection.report(Timestamp::now().to_string());
            let text = match self.args.shape.format {
                FormatArg::Csv => return Ok(()),
                FormatArg::Table => render(&report, &self.style()),
                FormatArg::Json => {
                    let json = serde_json::to_string_pretty(&report);
                    json.expect("a report has text for names of fields") + "\n"
                }
                FormatArg::Html => html::render(&report, options.by),
            };
            self.write(text.into_bytes())
                .map_err(|error| (String::new(), error))
        });
        self.failed = result.err();
    }

    /// Goes through all inputs. Errors are of what ends the run; damage does not.
    fn read(
        &mut self,
        collection: &mut Collection<'_>,
        progress: &Progress,
    ) -> Result<(), (String, Error)> {
        let args = self.args;
        let sets = snapshots::sets(&args.input, progress)?;
        if args.shape.format == FormatArg::Csv {
            let head = head().into_bytes();
            self.write(head).map_err(|error| (String::new(), error))?;
        }
        if !args.shape.base_only && sets.iter().any(snapshots::holds_a_log) {
            let Snapshots { inputs, torn } =
                snapshots::data_set(&sets, &args.input, &args.logs, progress, self.log)?;
            self.summary.torn = torn;
            for input in &inputs {
                self.input(collection, input, None, progress)?;
                collection.is_of_a_log(torn);
            }
            return Ok(());
        }
        for piece in sets.into_iter().flat_map(|set| set.pieces) {
            let source = &piece.source;
            let name = source.name.clone();
            let is_log = match source.kind {
                Kind::Log => true,
                Kind::Empty | Kind::Unknown => matches!(piece.role, Role::Incr { .. }),
                Kind::Snapshot | Kind::JsonLines | Kind::Manifest | Kind::Directory => false,
            };
            if is_log {
                let commands = self.commands(source, 0, progress)?;
                self.passed_over(&name, commands);
                collection.note_log(&name, source.file_bytes, commands);
                continue;
            }
            let is_part = piece.role != Role::Alone || piece.preface().is_preamble;
            let input = source
                .snapshot(is_part)
                .map_err(|error| (name.clone(), error))?;
            self.input(collection, &input, Some(source), progress)?;
        }
        if self.summary.inputs.is_empty() {
            let what = "commands, and no snapshot: a report is made of snapshots";
            let name = args
                .input
                .inputs
                .first()
                .map_or(String::new(), |path| name_of(path));
            return Err((name, Error::plain(ErrorKind::OtherKind(what))));
        }
        Ok(())
    }

    /// Counts what a snapshot holds. `source` is where it stands, and where commands may follow that are passed over.
    fn input(
        &mut self,
        collection: &mut Collection<'_>,
        input: &Input,
        source: Option<&Source>,
        progress: &Progress,
    ) -> Result<(), (String, Error)> {
        let args = self.args;
        let name = input.name.clone();
        let how = walk::Options {
            threads: threads(args),
            checksum: args.input.checksum.map_or(Checksum::Along, Into::into),
            lenient: false,
            cut_keys: false,
        };
        let sink = &mut self.sink;
        let bytes_out = &mut self.summary.bytes_out;
        let mut rows = |rows: Vec<u8>| write(sink, bytes_out, rows);
        let wants = args.shape.format == FormatArg::Csv;
        let rows: Option<&mut (dyn FnMut(Vec<u8>) -> _ + Send)> =
            if wants { Some(&mut rows) } else { None };
        let mut found = collection.read(input, &how, progress, rows);
        let error = found.error.take();
        if let (true, Some(source)) = (found.info.commands_follow, source) {
            let from = found.info.end.unwrap_or(0);
            let commands = self.commands(source, from, progress)?;
            self.passed_over(&name, commands);
            collection.note_commands(commands);
            found.info.trailing = 0;
        }
        let mut summary = InputSummary::new(name.clone(), input.file_bytes);
        summary.error = error
            .as_ref()
            .map(|error| error.describe(args.manners.hide_keys));
        summary.report = found;
        self.summary.inputs.push(summary);
        match error {
            None => {}
            Some(error) if ends(&error) => return Err((name, error)),
            Some(error) => drop(self.damage.get_or_insert((name, error))),
        }
        Ok(())
    }

    /// How many commands a log holds, up to its end or its damage.
    fn commands(
        &mut self,
        source: &Source,
        from: u64,
        progress: &Progress,
    ) -> Result<u64, (String, Error)> {
        let mut commands = 0;
        match count(source, from, progress, &mut commands) {
            Ok(()) => {}
            Err(error) if ends(&error) => return Err((source.name.clone(), error)),
            Err(error) => drop(self.damage.get_or_insert((source.name.clone(), error))),
        }
        Ok(commands)
    }

    fn passed_over(&self, name: &str, commands: u64) {
        self.log.warning(&format!(
            "{name}: {} commands of a log are not looked at; what they change is not in the report",
            HumanCount(commands)
        ));
    }

    fn write(&mut self, bytes: Vec<u8>) -> redis_migration::Result<()> {
        write(&mut self.sink, &mut self.summary.bytes_out, bytes)
    }

    fn style(&self) -> Style {
        let stdout = std::io::stdout();
        let terminal = self.args.output.output.is_none() && stdout.is_terminal();
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // The first of these that is set counts.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        let width = match terminal {
            true => terminal_size::terminal_size_of(&stdout).map(|(width, _)| usize::from(width.0)),
            false => None,
        };
        Style {
            width: width.unwrap_or(118).clamp(60, 400),
            color: terminal
                && set("NO_COLOR").is_none()
                && set("TERM").is_none_or(|term| term != "dumb"),
            unicode,
            by: self.args.shape.by.into(),
        }
    }

    /// What is left to say: damage, what failed, and the summary.
    fn ending(mut self, signal: Option<i32>) -> Exit {
        let hide = self.args.manners.hide_keys;
        let mut whole = true;
        let mut exit = match self.summary.torn {
            true => Exit::Rejected,
            false => Exit::Done,
        };
        if let Some((name, error)) = &self.damage {
            exit = Exit::of(error);
            self.log.failure(&format!(
                "{name}: {}. What could be read is in the report.{}",
                error.describe(hide),
                outcome::next_of_reading(error)
            ));
        }
        if let Some((name, error)) = self.failed.take() {
            if outcome::is_broken_pipe(&error) {
                outcome::die_by_sigpipe();
            }
            exit = self.failure(&name, &error, signal);
            whole = false;
        } else if self.damage.is_some() && self.args.shape.format == FormatArg::Csv {
            // Records that end early are not given the name of a list that is whole.
            if let Some(partial) = self.sink.partial() {
                let kept = format!("the records are in {}", partial.display());
                self.log.failure(&kept);
            }
        } else if let Err(error) = self.sink.finish() {
            exit = self.failure("", &error, signal);
        }
        self.sum_up(exit, whole)
    }

    fn failure(&mut self, name: &str, error: &Error, signal: Option<i32>) -> Exit {
        let name = match error.kind() {
            ErrorKind::Io { .. } => String::new(),
            _ if name.is_empty() => String::new(),
            _ => format!("{name}: "),
        };
        if let Some(partial) = self.sink.partial() {
            let _ = std::fs::remove_file(partial);
        }
        match (error.kind(), signal) {
            (ErrorKind::Stopped, Some(signal)) => {
                self.log
                    .failure(&format!("{name}interrupted; there is no report"));
                Exit::Signal(signal)
            }
            (ErrorKind::OtherKind(_), _) => {
                self.log.failure(&format!("{name}{error}"));
                Exit::Usage
            }
            _ => {
                let text = error.describe(self.args.manners.hide_keys);
                self.log
                    .failure(&format!("{name}{text}.{}", outcome::next_of_reading(error)));
                Exit::of(error)
            }
        }
    }

    /// `whole`: whether the run came to its end.
    fn sum_up(mut self, mut exit: Exit, whole: bool) -> Exit {
        let manners = &self.args.manners;
        self.summary.exit = exit;
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        match manners.summary {
            SummaryArg::Text if !whole => {}
            SummaryArg::Text => {
                let inputs = &self.summary.inputs;
                let bytes: u64 = inputs.iter().map(|input| input.bytes).sum();
                let keys: u64 = inputs.iter().map(|input| input.report.tally.read).sum();
                let seconds = self.summary.seconds;
                self.log.info(&format!(
                    "{} keys in {} looked at in {seconds:.2} s ({}/s)",
                    HumanCount(keys),
                    HumanBytes(bytes),
                    HumanBytes((bytes as f64 / seconds.max(1e-9)) as u64),
                ));
            }
            SummaryArg::Json if !manners.quiet => eprintln!("{}", self.summary.json()),
            SummaryArg::Json => {}
        }
        if let Err(text) = self.summary.files(manners) {
            self.log.failure(&text);
            if exit == Exit::Done {
                exit = Exit::LocalFile;
            }
        }
        exit
    }
}

/// Counts the commands of a log from a byte of its file on.
fn count(
    source: &Source,
    from: u64,
    progress: &Progress,
    commands: &mut u64,
) -> redis_migration::Result<()> {
    let file = source.file.try_clone();
    let file = file.map_err(|e| Error::io(format!("{} cannot be read", source.name), e))?;
    let mut reader = Reader::new(file, &source.name, from, false, None);
    loop {
        progress.check_stop()?;
        match reader.next(|_, _| true)? {
            Event::Plain { commands: some, .. } | Event::Transaction { commands: some, .. } => {
                *commands += some;
            }
            Event::Command { .. } => *commands += 1,
            Event::Time(_) | Event::Stray => {}
            Event::Dry | Event::Until => return Ok(()),
        }
    }
}

fn write(sink: &mut FileSink, bytes_out: &mut u64, bytes: Vec<u8>) -> redis_migration::Result<()> {
    *bytes_out += bytes.len() as u64;
    sink.write(&[Block::Shared(Buffer::from(bytes))])
}

/// Whether an error ends the run; damage of one input does not keep the others from being read.
fn ends(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Io { .. } | ErrorKind::Stopped => true,
        _ => Exit::of(error) != Exit::Corrupt,
    }
}
