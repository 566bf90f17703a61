//! A snapshot against what a destination holds now: every key with its type, value and expiry, and the keys that should
//! not be there.
//!
//! ```text
//! input ─→ walk ─ tasks ─→ judge (a worker, with its own connections) ─→ differences, in no order
//!                           │ batch of keys: pipelined reads, then our decoders on both sides
//!                           │ large values: element by element, in pieces
//!                           └ suspects: read again after a pause, and believed only then
//! ```
//!
//! Values are compared as clients see them, whatever their encoding: strings by GET or MGET, the others by DUMP, whose
//! payload goes through the decoders of snapshots. What a value is expected to be is what a replay with the same
//! selection and changes writes. The following is equal although the bytes differ, because no server keeps it:
//!
//! - a score of -0 that is 0 at the destination: what is added to a packed sorted set loses its sign;
//! - seen and active times of consumers, and records of idempotent producers, which fade by themselves;
//! - counters of a stream of RDB type 15, or of a destination before 7.0, which do not know them;
//! - consumers without pending entries before 6.2, which has no command that makes them;
//! - keys and fields whose time has passed.
//!
//! Function libraries are compared by their source, and never those that a destination has beside them. Idle times and
//! access frequencies change by being looked at, and are not compared.

mod clock;
mod digest;
mod extra;
mod functions;
mod items;
mod judge;
mod pieces;
mod reach;
mod sample;
mod stream;
mod vectors;

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::cursor::Cursor;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Filter;
use crate::input::Input;
use crate::pipeline::Progress;
use crate::rdb::scan::FileInfo;
use crate::server::endpoint::Endpoint;
use crate::server::preflight::Destination;
use crate::transform::Transform;
use crate::walk::{self, walk};

use self::clock::Clock;
use self::judge::{Judge, Worker};
use self::reach::{Pace, Reach};

pub use self::extra::Looked;
pub use self::functions::Libraries;

/// What is compared of each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All of every key.
    Full,
    /// All of so many keys, chosen evenly at random by a hash of their database and name.
    Sample {
        /// How many.
        keys: u64,
        /// Another seed chooses others.
        seed: u64,
    },
    /// SHA-1 sums that a script makes at the destination, for strings, lists, sets, sorted sets and
    /// hashes; where they differ, all of the key.
    Digest,
}

/// How it is verified.
#[derive(Debug, Clone)]
pub struct Options {
    /// The server, the proxy, or any node of the cluster.
    pub endpoint: Endpoint,
    /// What it was found to be.
    pub destination: Destination,
    /// Which keys are compared.
    pub filter: Filter,
    /// How they were changed on their way.
    pub transform: Transform,
    /// What is compared of each.
    pub mode: Mode,
    /// By how much an expiry may differ, of keys and of fields.
    pub ttl_tolerance_ms: i64,
    /// How long after the first reading of a key that differs it is read again.
    pub reread_after: Duration,
    /// Values of more bytes in the file are read in pieces.
    pub big_key: usize,
    /// Smaller values are read although digests are wanted: running a script takes a server longer.
    pub digest_from: usize,
    /// Most differences that are told of one key.
    pub most_per_key: usize,
    /// Ends the run behind so many keys that differ; 0 for never.
    pub most: u64,
    /// Whether keys are looked for that should not be there.
    pub extra: bool,
    /// Whether function libraries are compared.
    pub functions: bool,
    /// Most commands on their way on one connection.
    pub window: usize,
    /// Most keys in a second.
    pub rate: Option<u64>,
    /// Most bytes in a second, of values in the file.
    pub rate_bytes: Option<u64>,
    /// How long an answer may take.
    pub answer_within: Duration,
    /// How long to try again where the destination is away or busy.
    pub retry_for: Duration,
}

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The key is not there.
    Missing,
    /// The key is there and in no input.
    Extra,
    /// The key is of another type.
    Type,
    /// A string, or a value of a module.
    Value,
    /// Number of elements of a list, or of a large value.
    Length,
    /// Element of a list or an array, by its index.
    Element,
    /// Member of a set or a sorted set.
    Member,
    /// Score of a member.
    Score,
    /// Field of a hash, or its value.
    Field,
    /// Expiry of a field, Unix time in milliseconds.
    FieldExpiry,
    /// Expiry of the key, Unix time in milliseconds.
    Expiry,
    /// Entry of a stream.
    Entry,
    /// Last id of a stream.
    LastId,
    /// Number of entries ever added to a stream.
    EntriesAdded,
    /// Highest id ever deleted from a stream.
    MaxDeletedId,
    /// A consumer group, its last delivered id, or how many entries it has read.
    Group,
    /// A consumer of a group.
    Consumer,
    /// A pending entry: owner, time and number of its deliveries.
    Pending,
    /// Settings for idempotent producers.
    Idmp,
    /// Cursor of an array.
    Cursor,
    /// A function library, which belongs to no database; its name stands in the place of a key's.
    Function,
    /// Further differences of the same key, only counted.
    More,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 22] = [
        Kind::Missing,
        Kind::Extra,
        Kind::Type,
        Kind::Value,
        Kind::Length,
        Kind::Element,
        Kind::Member,
        Kind::Score,
        Kind::Field,
        Kind::FieldExpiry,
        Kind::Expiry,
        Kind::Entry,
        Kind::LastId,
        Kind::EntriesAdded,
        Kind::MaxDeletedId,
        Kind::Group,
        Kind::Consumer,
        Kind::Pending,
        Kind::Idmp,
        Kind::Cursor,
        Kind::Function,
        Kind::More,
    ];

    /// Whether what is told of it holds parts of the data, beside numbers and types.
    pub fn shows_data(self) -> bool {
        match self {
            Kind::Value
            | Kind::Element
            | Kind::Member
            | Kind::Score
            | Kind::Field
            | Kind::FieldExpiry
            | Kind::Entry
            | Kind::Group
            | Kind::Consumer
            | Kind::Pending => true,
            Kind::Missing
            | Kind::Extra
            | Kind::Type
            | Kind::Length
            | Kind::Expiry
            | Kind::LastId
            | Kind::EntriesAdded
            | Kind::MaxDeletedId
            | Kind::Idmp
            | Kind::Cursor
            | Kind::Function
            | Kind::More => false,
        }
    }

    /// As it is listed; these names stay.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Missing => "missing",
            Kind::Extra => "extra",
            Kind::Type => "type",
            Kind::Value => "value",
            Kind::Length => "length",
            Kind::Element => "element",
            Kind::Member => "member",
            Kind::Score => "score",
            Kind::Field => "field",
            Kind::FieldExpiry => "field-expiry",
            Kind::Expiry => "expiry",
            Kind::Entry => "entry",
            Kind::LastId => "last-id",
            Kind::EntriesAdded => "entries-added",
            Kind::MaxDeletedId => "max-deleted-id",
            Kind::Group => "group",
            Kind::Consumer => "consumer",
            Kind::Pending => "pending",
            Kind::Idmp => "idmp",
            Kind::Cursor => "cursor",
            Kind::Function => "function",
            Kind::More => "more",
        }
    }
}

/// A difference between file and destination.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Database at the destination.
    pub db: u64,
    /// The key's name there.
    pub key: Vec<u8>,
    /// What differs.
    pub kind: Kind,
    /// What the file says; empty where it has nothing.
    pub expected: String,
    /// What the destination holds; empty where it has nothing.
    pub found: String,
}

/// Why keys were not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NotCompared {
    /// Longer than the proxy forwards.
    pub too_long: u64,
    /// Without an element: servers leave such keys out.
    pub empty: u64,
    /// Not among those of the sample.
    pub not_sampled: u64,
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Keys in the inputs.
    pub read: u64,
    /// Keys that are as they should be.
    pub equal: u64,
    /// Keys that differ.
    pub different: u64,
    /// Keys that were not chosen.
    pub filtered: u64,
    /// Keys whose time had passed before the run.
    pub expired: u64,
    /// Keys whose time passed during the run, and that are gone.
    pub expired_meanwhile: u64,
    /// Keys that were not compared.
    pub not_compared: NotCompared,
    /// Keys that were read a second time.
    pub read_again: u64,
    /// Keys that differed when they were read first, and not any more when they were read again.
    pub denied: u64,
    /// Keys that were found, equal or not.
    pub present: u64,
    /// Bytes of answers, roughly.
    pub bytes: u64,
}

impl Counts {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Counts) {
        self.read += other.read;
        self.equal += other.equal;
        self.different += other.different;
        self.filtered += other.filtered;
        self.expired += other.expired;
        self.expired_meanwhile += other.expired_meanwhile;
        self.not_compared.too_long += other.not_compared.too_long;
        self.not_compared.empty += other.not_compared.empty;
        self.not_compared.not_sampled += other.not_compared.not_sampled;
        self.read_again += other.read_again;
        self.denied += other.denied;
        self.present += other.present;
        self.bytes += other.bytes;
    }
}

/// What became of one input.
#[derive(Debug)]
pub struct Walked {
    /// What was compared.
    pub counts: Counts,
    /// What the file says of itself.
    pub info: FileInfo,
    /// Magic and version.
    pub magic: String,
    /// What ended the run early.
    pub error: Option<Error>,
}

/// Takes differences; its error ends the run.
pub type Take<'t> = dyn FnMut(Difference) -> Result<()> + Send + 't;

/// Holds inputs against a destination.
pub struct Verifier<'p> {
    options: Options,
    clock: Clock,
    pace: Pace,
    progress: &'p Progress,
    /// Keys that differ, of all workers.
    different: AtomicU64,
    /// Of the sample: the highest hash that belongs to it.
    sample_up_to: Option<u64>,
    /// The nearest expiry of the keys that were compared, Unix time in milliseconds.
    soonest_ms: AtomicI64,
    /// Function libraries of the inputs.
    libraries: Mutex<functions::Expected>,
}

impl<'p> Verifier<'p> {
    /// Looks at the destination's clock, and at the inputs where a sample of their keys is to be chosen.
    pub fn new(
        options: Options,
        inputs: &[Input],
        walk_options: &walk::Options,
        progress: &'p Progress,
    ) -> Result<Verifier<'p>> {
        if options.mode == Mode::Digest && !options.destination.can_eval {
            return Err(Error::unfit(
                "digests are made by a script, and the destination runs none for this user: allow EVAL there, or leave \
                 out --mode digest",
            ));
        }
        let clock = Clock::look(&options)?;
        let sample_up_to = match options.mode {
            Mode::Sample { keys, seed } => Some(sample::threshold(
                inputs,
                walk_options,
                &options,
                keys,
                seed,
                progress,
            )?),
            Mode::Full | Mode::Digest => None,
        };
        Ok(Verifier {
            pace: Pace::new(options.rate, options.rate_bytes),
            clock,
            options,
            progress,
            different: AtomicU64::new(0),
            sample_up_to,
            soonest_ms: AtomicI64::new(i64::MAX),
            libraries: Mutex::default(),
        })
    }

    /// How exactly expiries can be read, as a sentence; none where it is to the millisecond.
    pub fn uncertainty(&self) -> Option<String> {
        self.clock.uncertainty()
    }

    /// Compares one input. Differences come in no particular order.
    pub fn input(
        &self,
        input: &Input,
        walk_options: &walk::Options,
        take: &mut Take<'_>,
    ) -> Walked {
        let threads = walk_options.threads.clamp(1, crate::pipeline::MOST_THREADS);
        let unpack_limit = ((48 << 20) / (3 * threads)).clamp(256 << 10, 8 << 20);
        let walked = walk(
            input,
            walk_options,
            self.progress,
            |format| {
                let reach = Reach::new(&self.options, &self.pace, self.progress);
                Ok(Worker::new(
                    &input.data,
                    format,
                    unpack_limit,
                    Judge::new(self, reach, unpack_limit),
                ))
            },
            |found: Vec<Difference>| found.into_iter().try_for_each(&mut *take),
        );
        let mut counts = Counts::default();
        let mut error = walked.error;
        let mut judges: Vec<Judge<'_, '_>> =
            walked.visitors.into_iter().map(Worker::judge).collect();
        if error.is_none() {
            error = self.last_readings(&mut judges, take).err();
        }
        for judge in &mut judges {
            // What was found before an error is true all the same.
            let told = judge.take_found().into_iter().try_for_each(&mut *take);
            error = error.or(told.err());
            counts.add(&judge.counts());
        }
        Walked {
            counts,
            info: walked.info,
            magic: walked.format.map_or(String::new(), |f| f.magic()),
            error,
        }
    }

    /// What still waits for its second reading, all workers at once.
    fn last_readings(&self, judges: &mut [Judge<'_, '_>], take: &mut Take<'_>) -> Result<()> {
        let results: Vec<Result<Vec<Difference>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = judges
                .iter_mut()
                .filter(|judge| judge.has_suspects())
                .map(|judge| scope.spawn(|| judge.read_again(true).map(|()| judge.take_found())))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a judge does not panic"))
                .collect()
        });
        for found in results {
            found?.into_iter().try_for_each(&mut *take)?;
        }
        Ok(())
    }

    /// Compares the function libraries that the inputs were found to hold.
    pub fn libraries(&self, take: &mut Take<'_>) -> Result<Libraries> {
        let expected = self
            .libraries
            .lock()
            .expect("nothing panics while it holds them");
        expected.compare(&self.options, take)
    }

    /// Looks for keys that should not be there. `present`: how many keys of the inputs were found.
    pub fn extras(
        &self,
        inputs: &[Input],
        walk_options: &walk::Options,
        present: u64,
        take: &mut Take<'_>,
    ) -> Result<Looked> {
        extra::look(self, inputs, walk_options, present, take)
    }

    /// Whether as many keys differ as are wanted.
    pub fn has_enough(&self) -> bool {
        let most = self.options.most;
        most > 0 && self.different.load(Ordering::Relaxed) >= most
    }
}

/// A destination that answers what it should not.
fn odd_answer(server: &str, command: &str, reply: &crate::server::reply::Reply) -> Error {
    let said = match reply.error() {
        Some(words) => String::from_utf8_lossy(words).into_owned(),
        None => "something else than was asked for".to_owned(),
    };
    Error::plain(ErrorKind::Refused {
        server: server.to_owned(),
        command: command.to_owned(),
        key: Vec::new(),
        db: 0,
        reply: said,
    })
}

/// Bytes as they are listed: quoted, escaped, cut at 64 bytes.
fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 64;
    let text = crate::error::show_key(&bytes[..bytes.len().min(SHOWN)], false);
    match bytes.len() {
        len if len > SHOWN => format!("{text}… {len} bytes"),
        _ => text,
    }
}

/// A string of which these bytes are known, from `from` on, and its length, so that what differs at `first` is seen: as a
/// whole, or from there.
fn show_string(known: &[u8], from: usize, first: usize, len: usize) -> String {
    const WHOLE: usize = 48;
    const PART: usize = 32;
    if first < WHOLE && from == 0 {
        let text = show(&known[..known.len().min(64)]);
        return match len {
            65.. => format!("{text}… {len} bytes"),
            _ => text,
        };
    }
    let part = &known[(first - from).min(known.len())..];
    let text = show(&part[..part.len().min(PART)]);
    format!("at byte {first}: {text} of {len} bytes")
}

/// A payload of DUMP: its body from the type byte on, and whether its numbers are Valkey's.
fn payload(dump: &[u8]) -> Option<(Cursor<'_>, bool)> {
    let (body, version) = dump.split_at_checked(dump.len().checked_sub(10)?)?;
    let version = u16::from_le_bytes([version[0], version[1]]);
    Some((Cursor::new(body, 0), version >= 80))
}
