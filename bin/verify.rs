//! `verify`: snapshots against what a destination holds now → differences as CSV.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::{ArgAction, Args, ValueEnum};
use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::command::target::{Dialect, Version};
use redis_migration::error::show_key;
use redis_migration::input::Input;
use redis_migration::pipeline::{Checksum, Progress};
use redis_migration::server::endpoint::Endpoint;
use redis_migration::server::preflight::{self, Destination, Wish};
use redis_migration::sink::file::FileSink;
use redis_migration::verify::{
    self, Counts, Difference, Libraries, Looked, Mode, Verifier, Walked,
};
use redis_migration::{Error, ErrorKind, walk};
use serde_json::{Value, json};

use crate::args::{
    DialectArg, FilterArgs, InputArgs, LogReadingArgs, MannersArgs, OutputArgs, ServerArgs,
    SummaryArg, TransformArgs, no_less_than_nothing, some_time,
};
use crate::outcome::{self, Exit};
use crate::run::{self, Finish};
use crate::snapshots::{self, Snapshots};
use crate::summary::{Log, metrics, replace};
use crate::target;
use crate::values::{ByteRate, Bytes, KeyRate, Millis};

/// After a signal the run waits for the answers of what is on its way.
const GRACE: Duration = Duration::from_secs(5);

/// A twemproxy gives the memory of no command back, so that all connections together have so many.
const PROXY_WINDOW: usize = 1024;

// -h is the host, as with redis-cli; main.rs sees to a bare one at the end.
#[derive(Debug, Clone, Args)]
#[command(
    disable_help_flag = true,
    mut_arg("checksum", |arg| arg.long_help(CHECKSUM)),
    after_long_help = EXAMPLES
)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub logs: LogReadingArgs,
    #[command(flatten)]
    pub server: ServerArgs,
    #[command(flatten)]
    pub reading: ReadingArgs,
    #[command(flatten)]
    pub comparing: ComparingArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub transform: TransformArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
    /// Print help; a bare -h at the end prints a shorter one
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

const CHECKSUM: &str = "\
When to hold the checksum against the file

first: before the first key is read. along: while reading, so that a mismatch is found at the end. off: never. The \
default is first. A file without a checksum is walked from end to end in its place.";

const EXAMPLES: &str = "\
Examples:
  redis-migration verify dump.rdb -h 127.0.0.1 -p 22121
  redis-migration verify shard1.rdb shard2.rdb -u rediss://cache.example:6380 -o differences.csv
  redis-migration verify dump.rdb -p 6379 --mode sample --sample 100000
  redis-migration verify dump.rdb -p 6379 --mode digest --rate 20000
  redis-migration verify dump.rdb -p 22121 --db-map 1=0 --db 1 --no-extra

Exit codes: 0 everything is as it should be, 1 something differs; the others are listed by redis-migration --help.";

/// How the destination is read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub struct ReadingArgs {
    /// Connections to the destination, each with a worker; of a Cluster to each master; default: one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub connections: Option<u16>,
    /// Most commands that wait for their answer on one connection; default: 1024, Cluster and twemproxy 256
    ///
    /// A twemproxy takes memory for each, and gives none back: for it all connections together have 1024 at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pipeline: Option<u32>,
    /// Read no more keys a second than this; default: no limit
    #[arg(long, value_name = "KEYS/s")]
    pub rate: Option<KeyRate>,
    /// Read no more bytes a second than this, as values take them in the file; default: no limit
    #[arg(long, value_name = "SIZE/s")]
    pub rate_bytes: Option<ByteRate>,
    /// How long connecting and the greeting may take
    ///
    /// When it passes the run ends with exit code 4, unless the destination answered before: then --retry-for counts. The
    /// answer to a command may take twelve times as long.
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = some_time)]
    pub timeout: Millis,
    /// How long to try again where the destination is away or loading
    ///
    /// Counted from its last answer; between tries the pauses grow to 5 s. Reading changes nothing, so whatever was not
    /// answered is asked again.
    #[arg(
        long,
        visible_alias = "retry",
        value_name = "DUR",
        default_value = "60s",
        value_parser = no_less_than_nothing
    )]
    pub retry_for: Millis,
    /// Values from this size on are read in pieces
    ///
    /// As they stand in the file. A server does nothing else while it gives a value in one piece, and this program holds
    /// it in memory. In pieces only some elements are in memory at a time.
    #[arg(long, value_name = "SIZE", default_value = "1mb")]
    pub big_key: Bytes,
    /// What the destination is; default: it is asked
    #[arg(long, visible_alias = "target", value_enum, value_name = "WHAT")]
    pub dialect: Option<DialectArg>,
    /// Version of the destination: X.Y, or valkey-X.Y; default: it is asked
    ///
    /// For proxies that hide it; of servers behind one, give the oldest.
    #[arg(long, value_name = "VERSION")]
    pub target_version: Option<Version>,
}

/// What is compared, and where it is told.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Comparing")]
pub struct ComparingArgs {
    /// What is compared
    ///
    /// full: type, value and expiry of every key. sample: the same of --sample keys, chosen evenly at random. digest: of
    /// every key, but of values only SHA-1 sums, which a script makes at the destination: less goes over the network, and
    /// the server has more to do. Where they differ, and for streams, modules, small and large values, as full.
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "full",
        default_value_if("sample", clap::builder::ArgPredicate::IsPresent, "sample")
    )]
    pub mode: ModeArg,
    /// How many keys --mode sample compares; default: 10000. Alone it stands for the mode too
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub sample: Option<u64>,
    /// Another number chooses other keys for the sample
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Values of fewer bytes in the file are read in --mode digest too: a script takes a server longer than a small answer
    #[arg(long, value_name = "SIZE", default_value = "1kb")]
    pub digest_from: Bytes,
    /// By how much an expiry may differ, of keys and of hash fields
    ///
    /// Servers tell the moment to the millisecond from 7.0 on. Before, what the reading itself leaves open is added, and
    /// the run says how much that is.
    #[arg(long, value_name = "DUR", default_value = "0s", value_parser = no_less_than_nothing)]
    pub ttl_tolerance: Millis,
    /// How long after the first reading a key that differs is read again; only what differs then too is told
    #[arg(long, value_name = "DUR", default_value = "1s", value_parser = no_less_than_nothing)]
    pub reread_after: Millis,
    /// Do not look for keys that should not be there
    #[arg(long)]
    pub no_extra: bool,
    /// Do not compare function libraries
    #[arg(long)]
    pub no_functions: bool,
    /// Stop behind so many keys that differ; default: never
    #[arg(long, value_name = "N")]
    pub most: Option<u64>,
    /// Most differences that are listed of one key; the others are counted
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub most_per_key: u64,
}

/// What is compared of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    Full,
    Sample,
    Digest,
}

pub fn run(args: &VerifyArgs) -> Exit {
    let log = Log::new(&args.manners);
    let now_ms = Timestamp::now().as_millisecond();
    // What is wrong with the flags is said before anything is connected to.
    if let Err(text) = args.check(now_ms) {
        log.failure(&text);
        return Exit::Usage;
    }
    let endpoint = match target::destination(&args.server, args.reading.timeout.0) {
        Ok(endpoint) => endpoint,
        Err((text, exit)) => {
            log.failure(&text);
            return exit;
        }
    };
    let _lock = match run::prepare(&args.input, &args.manners, log) {
        Ok(lock) => lock,
        Err(exit) => return exit,
    };
    let sink = match run::open_output(&args.output) {
        Ok(sink) => sink,
        Err((text, exit)) => {
            log.failure(&text);
            return exit;
        }
    };
    let started = Instant::now();
    let progress = Progress::default();
    let watch = |shown: &mut crate::summary::Shown, signal: Option<i32>| {
        if signal.is_some() {
            progress.stop.store(true, Ordering::Relaxed);
        }
        let (done, total) = (
            progress.done.load(Ordering::Relaxed),
            progress.total.load(Ordering::Relaxed),
        );
        let keys = progress.keys.load(Ordering::Relaxed);
        shown.tell((done, total), || {
            let percent = (done * 100).checked_div(total).unwrap_or(0);
            format!("{percent}%: {} keys", HumanCount(keys))
        });
    };
    run::supervise(&args.manners, log, GRACE, watch, || {
        let run = Run {
            args,
            log,
            progress: &progress,
            now_ms,
        };
        let mut report = Report::default();
        let failed = run.go(&endpoint, sink, &mut report).err();
        Box::new(move |signal| run.ending(report, failed, signal, started)) as Finish<'_>
    })
}

impl VerifyArgs {
    fn check(&self, now_ms: i64) -> Result<(), String> {
        self.filter.filter(now_ms).map(drop)
    }
}

/// What a run found out.
#[derive(Default)]
struct Report {
    destination: String,
    inputs: Vec<(String, u64, Walked)>,
    looked: Option<Looked>,
    libraries: Option<Libraries>,
    /// Differences by kind, in the order of [`verify::Kind::ALL`].
    kinds: Vec<u64>,
    uncertainty: Option<String>,
    /// Whether it ended because enough keys differ.
    has_enough: bool,
    /// Whether a log ends within something, which was left out.
    torn: bool,
}

impl Report {
    fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for (_, _, walked) in &self.inputs {
            all.add(&walked.counts);
        }
        all
    }

    fn extra(&self) -> u64 {
        self.of_kind(verify::Kind::Extra)
    }

    fn of_kind(&self, kind: verify::Kind) -> u64 {
        let place = verify::Kind::ALL.iter().position(|other| *other == kind);
        place.and_then(|n| self.kinds.get(n)).copied().unwrap_or(0)
    }
}

struct Run<'a> {
    args: &'a VerifyArgs,
    log: Log,
    progress: &'a Progress,
    now_ms: i64,
}

/// An error, and the input or the file it is about.
type Failed = (String, Error);

impl Run<'_> {
    fn go(&self, endpoint: &Endpoint, sink: FileSink, report: &mut Report) -> Result<(), Failed> {
        report.destination = endpoint.address.to_string();
        report.kinds = vec![0; verify::Kind::ALL.len()];
        let found = snapshots::open(&self.args.input, &self.args.logs, self.progress, self.log)
            .and_then(|snapshots| match self.look(endpoint) {
                Ok(destination) => Ok((snapshots, destination)),
                Err(error) => Err((String::new(), error)),
            });
        let (Snapshots { inputs, torn }, destination) = match found {
            Ok(found) => found,
            Err(failed) => {
                sink.discard();
                return Err(failed);
            }
        };
        report.torn = torn;
        let nameless = |error| (String::new(), error);
        let walk_options = self.walk_options();
        let options = self.options(endpoint, destination);
        let verifier =
            Verifier::new(options, &inputs, &walk_options, self.progress).map_err(nameless)?;
        report.uncertainty = verifier.uncertainty();
        let mut list = List::create(sink, self.args.manners.hide_keys).map_err(nameless)?;
        let compared = self.compare(&verifier, &inputs, &walk_options, &mut list, report);
        // As many as were asked for are all of them.
        let whole = compared.is_ok() || report.has_enough;
        if let Some(partial) = list.finish(whole).map_err(nameless)? {
            self.log.failure(&format!(
                "the differences until then are in {}",
                partial.display()
            ));
        }
        compared
    }

    fn compare(
        &self,
        verifier: &Verifier<'_>,
        inputs: &[Input],
        walk_options: &walk::Options,
        list: &mut List,
        report: &mut Report,
    ) -> Result<(), Failed> {
        let mut kinds = std::mem::take(&mut report.kinds);
        let mut take = |difference: Difference| {
            let kind = verify::Kind::ALL.iter().position(|k| *k == difference.kind);
            kinds[kind.expect("all kinds are among all")] += 1;
            list.add(&difference)
        };
        let result = (|| {
            for input in inputs {
                let mut walked = verifier.input(input, walk_options, &mut take);
                let error = walked.error.take();
                report
                    .inputs
                    .push((input.name.clone(), input.file_bytes, walked));
                if let Some(error) = error {
                    return Err((input.name.clone(), error));
                }
            }
            let present = report.counts().present;
            let looked = verifier
                .extras(inputs, walk_options, present, &mut take)
                .map_err(|error| (String::new(), error))?;
            report.looked = Some(looked);
            let libraries = verifier.libraries(&mut take);
            report.libraries = Some(libraries.map_err(|error| (String::new(), error))?);
            Ok(())
        })();
        report.kinds = kinds;
        report.has_enough = verifier.has_enough();
        result
    }

    /// Finds out what the destination is, and says so.
    fn look(&self, endpoint: &Endpoint) -> Result<Destination, Error> {
        let wish = Wish {
            dialect: self.args.reading.dialect.map(Into::into),
            only_reads: true,
            ..Wish::default()
        };
        let mut destination = preflight::look(endpoint, &wish)?;
        if let Some(version) = self.args.reading.target_version {
            destination.version = Some(version);
        }
        self.log.info(&target::introduced(endpoint, &destination));
        Ok(destination)
    }

    fn walk_options(&self) -> walk::Options {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.args.reading.connections.or(self.args.input.threads);
        walk::Options {
            threads: threads.map_or(cores, usize::from),
            checksum: self.args.input.checksum.map_or(Checksum::First, Into::into),
            lenient: false,
            cut_keys: false,
        }
    }

    fn options(&self, endpoint: &Endpoint, destination: Destination) -> verify::Options {
        let (reading, comparing) = (&self.args.reading, &self.args.comparing);
        let millis = |time: Millis| Duration::from_millis(time.0.unsigned_abs());
        let workers = self.walk_options().threads.max(1);
        let window = reading.pipeline.map(|n| n as usize);
        let window = match destination.dialect {
            Dialect::Redis => window.unwrap_or(1024),
            Dialect::Cluster => window.unwrap_or(256),
            Dialect::Twemproxy => window.unwrap_or(256).min(PROXY_WINDOW / workers).max(1),
        };
        verify::Options {
            endpoint: endpoint.clone(),
            filter: self
                .args
                .filter
                .filter(self.now_ms)
                .expect("the flags were checked before"),
            transform: self.args.transform.transform(),
            mode: match comparing.mode {
                ModeArg::Full => Mode::Full,
                ModeArg::Digest => Mode::Digest,
                ModeArg::Sample => Mode::Sample {
                    keys: comparing.sample.unwrap_or(10_000),
                    seed: comparing.seed,
                },
            },
            ttl_tolerance_ms: comparing.ttl_tolerance.0,
            reread_after: millis(comparing.reread_after),
            big_key: usize::try_from(reading.big_key.0).unwrap_or(usize::MAX),
            digest_from: usize::try_from(comparing.digest_from.0).unwrap_or(usize::MAX),
            most_per_key: usize::try_from(comparing.most_per_key).unwrap_or(usize::MAX),
            most: comparing.most.unwrap_or(0),
            extra: !comparing.no_extra,
            functions: !comparing.no_functions,
            window,
            rate: reading.rate.map(|rate| rate.0),
            rate_bytes: reading.rate_bytes.map(|rate| rate.0),
            answer_within: millis(reading.timeout).saturating_mul(12),
            retry_for: millis(reading.retry_for),
            destination,
        }
    }

    /// What is left to say: what differs, what was not looked at, and the exit code.
    fn ending(
        &self,
        report: Report,
        failed: Option<Failed>,
        signal: Option<i32>,
        started: Instant,
    ) -> Exit {
        let manners = &self.args.manners;
        let counts = report.counts();
        // What is too long for the proxy cannot have come by it.
        let wrong = counts.different
            + counts.not_compared.too_long
            + report.extra()
            + report.of_kind(verify::Kind::Function);
        let mut exit = match wrong {
            0 if !report.torn => Exit::Done,
            _ => Exit::Rejected,
        };
        if self.args.transform.transform().changes_expiry() && counts.expired > 0 {
            self.log.warning(&format!(
                "{} keys whose time in the file has passed were not compared, though their times were changed on the way: \
                 --now TIME, with the time of the load, compares those that lived then",
                HumanCount(counts.expired)
            ));
        }
        if let Some((name, error)) = &failed {
            if outcome::is_broken_pipe(error) {
                outcome::die_by_sigpipe();
            }
            exit = self.say_why(name, error, signal, &report);
        }
        let seconds = started.elapsed().as_secs_f64();
        let json = json_of(&report, exit, seconds, failed.as_ref(), manners.hide_keys);
        match manners.summary {
            SummaryArg::Text if report.inputs.is_empty() => {}
            SummaryArg::Text => self.text(&report, seconds),
            SummaryArg::Json if !manners.quiet => eprintln!("{json}"),
            SummaryArg::Json => {}
        }
        let disk = redis_migration::file::Disk::Synced;
        let files = [
            (&manners.summary_file, format!("{json:#}\n")),
            (&manners.metrics_file, gauges(&report, exit, seconds)),
        ];
        for (path, text) in files {
            if let Some(path) = path
                && let Err(text) = replace(path, &text, disk)
            {
                self.log.failure(&text);
                if exit == Exit::Done {
                    exit = Exit::LocalFile;
                }
            }
        }
        exit
    }

    fn say_why(&self, name: &str, error: &Error, signal: Option<i32>, report: &Report) -> Exit {
        let counts = report.counts();
        let so_far = format!(
            "Until then {} keys were equal and {} different",
            HumanCount(counts.equal),
            HumanCount(counts.different + report.extra())
        );
        match (error.kind(), signal) {
            (ErrorKind::Stopped, Some(signal)) => {
                self.log.failure(&format!("interrupted. {so_far}."));
                Exit::Signal(signal)
            }
            (ErrorKind::Stopped, None) if report.has_enough => {
                let what = "as many keys differ as --most allows, so the rest was not looked at";
                self.log.failure(&format!("{what}. {so_far}."));
                Exit::Rejected
            }
            _ => {
                let next = outcome::next_of_reading(error);
                // Errors of the system name the file themselves.
                let name = match error.kind() {
                    ErrorKind::Io { .. } => String::new(),
                    _ if name.is_empty() => String::new(),
                    _ => format!("{name}: "),
                };
                let words = error.describe(self.args.manners.hide_keys);
                self.log.failure(&format!("{name}{words}. {so_far}.{next}"));
                Exit::of(error)
            }
        }
    }

    fn text(&self, report: &Report, seconds: f64) {
        let (log, n) = (self.log, HumanCount);
        for (name, bytes, walked) in &report.inputs {
            let by = walked
                .info
                .server
                .as_ref()
                .map_or(String::new(), |server| format!(", written by {server}"));
            let size = HumanBytes(*bytes);
            log.info(&format!("{name}: {} {size}{by}", walked.magic));
        }
        let c = report.counts();
        let not = c.not_compared;
        log.info(&format!(
            "keys: {} read = {} equal + {} different + {} filtered + {} expired + {} expired meanwhile + {} not compared",
            n(c.read),
            n(c.equal),
            n(c.different),
            n(c.filtered),
            n(c.expired),
            n(c.expired_meanwhile),
            n(not.too_long + not.empty + not.not_sampled)
        ));
        let mut why = Vec::new();
        for (count, what) in [
            (not.not_sampled, "not in the sample"),
            (not.too_long, "longer than the proxy forwards"),
            (not.empty, "without an element, which no server keeps"),
        ] {
            if count > 0 {
                why.push(format!("{} {what}", n(count)));
            }
        }
        if !why.is_empty() {
            log.info(&format!("not compared: {}", why.join(", ")));
        }
        if let Some(looked) = &report.looked {
            log.info(&format!(
                "keys that should not be there: {}",
                match looked {
                    Looked::Not(why) => format!("not looked for ({why})"),
                    Looked::Counted =>
                        "none, it holds as many keys as were found of the input".to_owned(),
                    Looked::Scanned { names, extra } =>
                        format!("{}, of {} names gone through", n(*extra), n(*names)),
                }
            ));
        }
        match &report.libraries {
            None | Some(Libraries::None) => {}
            Some(Libraries::Not(count, why)) => {
                let count = n(*count);
                log.info(&format!("function libraries: {count} not compared ({why})"));
            }
            Some(Libraries::Compared(count)) => {
                log.info(&format!("function libraries: {} compared", n(*count)));
            }
        }
        let kinds = verify::Kind::ALL.iter().zip(&report.kinds);
        let kinds: Vec<String> = kinds
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| format!("{} {}", n(*count), kind.name()))
            .collect();
        if !kinds.is_empty() {
            log.info(&format!("differences: {}", kinds.join(", ")));
        }
        if c.read_again > 0 {
            log.info(&format!(
                "read again: {} keys, of which {} were as they should be then",
                n(c.read_again),
                n(c.denied)
            ));
        }
        if let Some(uncertainty) = &report.uncertainty {
            log.warning(uncertainty);
        }
        let compared = c.equal + c.different + c.expired_meanwhile;
        let rate = if seconds > 0.0 {
            (compared as f64 / seconds) as u64
        } else {
            0
        };
        log.info(&format!(
            "{} keys compared with {} in {seconds:.2} s ({} keys/s)",
            n(compared),
            report.destination,
            n(rate)
        ));
    }
}

/// The list of differences: stdout, or a file that has its name when it is whole.
struct List {
    csv: csv::Writer<FileSink>,
    hide_keys: bool,
}

impl List {
    fn create(sink: FileSink, hide_keys: bool) -> Result<List, Error> {
        let mut list = List {
            csv: csv::Writer::from_writer(sink),
            hide_keys,
        };
        list.record(&[b"db", b"key", b"kind", b"expected", b"found"])?;
        Ok(list)
    }

    fn add(&mut self, difference: &Difference) -> Result<(), Error> {
        let Difference {
            db,
            key,
            kind,
            expected,
            found,
        } = difference;
        let hidden = |text: &[u8]| show_key(text, true).into_bytes();
        let key = match self.hide_keys {
            true => hidden(key),
            false => key.clone(),
        };
        // Texts that are parts of the data are as much of a secret as its names.
        let side = |text: &str| match self.hide_keys && kind.shows_data() && !text.is_empty() {
            true => hidden(text.as_bytes()),
            false => text.as_bytes().to_vec(),
        };
        self.record(&[
            itoa::Buffer::new().format(*db).as_bytes(),
            &key,
            kind.name().as_bytes(),
            &side(expected),
            &side(found),
        ])
    }

    fn record(&mut self, record: &[&[u8]; 5]) -> Result<(), Error> {
        self.csv
            .write_record(record)
            .map_err(|error| match error.into_kind() {
                csv::ErrorKind::Io(error) => failed(error),
                other => failed(std::io::Error::other(format!("{other:?}"))),
            })
    }

    /// Gives it its name where it is whole; else gives the name that it has.
    fn finish(self, whole: bool) -> Result<Option<PathBuf>, Error> {
        let sink = self.csv.into_inner();
        let mut sink = sink.map_err(|error| failed(error.into_error()))?;
        if whole {
            sink.finish()?;
            return Ok(None);
        }
        Ok(sink.partial().map(Path::to_owned))
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("the list of differences cannot be written", error)
}

fn json_of(
    report: &Report,
    exit: Exit,
    seconds: f64,
    failed: Option<&Failed>,
    hide_keys: bool,
) -> Value {
    let counts = |c: &Counts| {
        json!({
            "read": c.read,
            "compared": c.equal + c.different + c.expired_meanwhile,
            "equal": c.equal,
            "different": c.different,
            "filtered": c.filtered,
            "expired": c.expired,
            "expired_meanwhile": c.expired_meanwhile,
            "not_compared": {
                "not_in_sample": c.not_compared.not_sampled,
                "too_long_for_proxy": c.not_compared.too_long,
                "empty": c.not_compared.empty,
            },
            "read_again": c.read_again,
            "denied_by_second_reading": c.denied,
        })
    };
    let libraries = match &report.libraries {
        None | Some(Libraries::None) => json!({"compared": 0, "not_compared": 0}),
        Some(Libraries::Not(count, why)) => {
            json!({"compared": 0, "not_compared": count, "why": why})
        }
        Some(Libraries::Compared(count)) => json!({"compared": count, "not_compared": 0}),
    };
    let looked = match &report.looked {
        None => json!({"looked": "no"}),
        Some(Looked::Not(why)) => json!({"looked": "no", "why": why}),
        Some(Looked::Counted) => json!({"looked": "counted"}),
        Some(Looked::Scanned { names, .. }) => json!({"looked": "scanned", "names": names}),
    };
    let kinds = verify::Kind::ALL.iter().zip(&report.kinds);
    let kinds: serde_json::Map<String, Value> = kinds
        .filter(|(_, n)| **n > 0)
        .map(|(kind, n)| (kind.name().to_owned(), json!(n)))
        .collect();
    let all = report.counts();
    json!({
        "program": "redis-migration",
        "version": env!("CARGO_PKG_VERSION"),
        "time": Timestamp::now().to_string(),
        "exit": exit.code(),
        "destination": report.destination,
        "keys": counts(&all),
        "libraries": libraries,
        "extra": {"keys": report.extra(), "how": looked},
        "differences": kinds,
        "expiries": report.uncertainty.as_deref().unwrap_or("to the millisecond"),
        "bytes_read": all.bytes,
        "seconds": seconds,
        "error": failed.map(|(_, error)| error.describe(hide_keys)),
        "inputs": report.inputs.iter().map(|(name, bytes, walked)| json!({
            "name": name,
            "magic": walked.magic,
            "server": walked.info.server,
            "bytes": bytes,
            "checksum": walked.info.has_checksum,
            "keys": counts(&walked.counts),
        })).collect::<Vec<_>>(),
    })
}

fn gauges(report: &Report, exit: Exit, seconds: f64) -> String {
    let c = report.counts();
    let not = c.not_compared;
    let not = not.too_long + not.empty + not.not_sampled;
    metrics(&[
        (
            "verify_keys_read",
            "Keys read from the inputs of the last verify.",
            c.read as f64,
        ),
        (
            "verify_keys_equal",
            "Keys that were as they should be.",
            c.equal as f64,
        ),
        (
            "verify_keys_different",
            "Keys that differed.",
            c.different as f64,
        ),
        (
            "verify_keys_extra",
            "Keys that should not be there.",
            report.extra() as f64,
        ),
        (
            "verify_keys_not_compared",
            "Keys that were not compared.",
            not as f64,
        ),
        ("verify_seconds", "Duration of the last verify.", seconds),
        (
            "verify_exit_code",
            "Exit code of the last verify.",
            f64::from(exit.code()),
        ),
        (
            "verify_end_time_seconds",
            "Unix time at which the last verify ended.",
            Timestamp::now().as_second() as f64,
        ),
    ])
}
