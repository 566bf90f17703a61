//! Commands straight into servers: one Redis, the masters of a cluster, or a twemproxy.
//!
//! ```text
//! blocks ─→ commands ─→ lanes ─→ links ─→ sockets      one thread, non-blocking
//!            │ key, slot   │ one unanswered    │ windows; bytes are kept until they are answered
//!            └ place       └ unit each         └ answers: done · refused · unknown
//! ```
//!
//! A *lane* is what has to stay in order: a key of a snapshot, a key of a log through a proxy, a slot of a cluster, the
//! whole log of one server. It has one unit unanswered at most, so that no redirect, no reconnect and no proxy can change
//! the order. Units are counted by *epochs*: the input is acknowledged up to the oldest one that has something open.
//!
//! Commands of a snapshot can be sent twice. Those of a log cannot: they go in transactions that also write down how far
//! they went (`batch.rs`), or through a script that does the same on the far side of a proxy.

pub(crate) mod answer;
mod batch;
mod epoch;
mod link;
mod payload;
mod run;
mod script;
mod snapshot;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use self::batch::LogLane;
use self::epoch::Epochs;
pub use self::epoch::Place;
use self::link::{Item, Kind, Link};
use self::payload::{Assembly, Payload};
use super::Sink;
use crate::command::encode::OnError;
use crate::command::keys::slot;
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Progress;
use crate::resp::parse::{Args, Found, Parser};
use crate::resp::write::Block;
use crate::server::endpoint::Endpoint;
use crate::server::import;
use crate::server::slots::Slots;
use crate::tally::Reject;

/// Is told of something; its error ends the run.
pub type Teller<'a, T> = Box<dyn FnMut(&T) -> Result<()> + Send + 'a>;

/// How commands are sent.
pub struct Options<'a> {
    /// The server, the proxy, or any node of the cluster.
    pub endpoint: Endpoint,
    /// What it is.
    pub dialect: Dialect,
    /// The nodes of a cluster.
    pub slots: Option<Slots>,
    /// Connections; of a cluster, to each master.
    pub connections: usize,
    /// Most commands that are unanswered on one connection.
    pub window: u32,
    /// Most bytes that are unanswered on one connection, beyond one command.
    pub window_bytes: u64,
    /// Keys that are there already.
    pub on_exist: Policy,
    /// Whether to go on behind what a server refuses.
    pub on_error: OnError,
    /// How long a destination may be away, or say "not now", before the run ends.
    pub retry_for: Duration,
    /// How long an answer may take before its connection is given up.
    pub answer_within: Duration,
    /// The proxy's own patience with its servers: what it gave up on may still happen until then.
    pub proxy_timeout: Duration,
    /// Most keys, or commands of a log, in a second.
    pub rate: Option<u64>,
    /// Most bytes in a second.
    pub rate_bytes: Option<u64>,
    /// Opens the connections in import mode ([`crate::server::import`]), turning it on.
    pub imports: bool,
    /// Sends commands of a log without a record at the destination: a broken connection may double some.
    pub at_least_once: bool,
    /// Through a proxy: keys that lead to each of the servers behind it, and the run_ids of these.
    pub routes: Vec<(Vec<u8>, String)>,
    /// Names this run, and what it writes down at the destination.
    pub run: String,
    /// Where an earlier run came to: commands of logs before it are passed over.
    pub resume: Option<Place>,
    /// Whether the destination may hold records of an earlier part of this run.
    pub resumed: bool,
    /// Takes what the destination refused, where the run goes on.
    pub reject: Teller<'a, Reject>,
    /// Writes down how far everything is acknowledged.
    pub save: Teller<'a, Place>,
    /// Told before anything behind this byte of a snapshot is sent.
    pub ahead: Teller<'a, u64>,
    /// Keys of a snapshot before this file and byte may be there because an earlier run wrote them, or because they were
    /// there before: which of it is not known.
    pub doubt_before: Option<(u32, u64)>,
}

/// What becomes of keys that the destination holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The first one ends the run.
    #[default]
    Fail,
    /// They stay as they are.
    Skip,
    /// They are replaced.
    Replace,
    /// They are added to.
    Merge,
}

/// What was done, for the summary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Answers to commands of the input.
    pub replies: u64,
    /// Errors among them that were not overcome.
    pub errors: u64,
    /// Units that were sent again because their answer was lost or not to be trusted.
    pub again: u64,
    /// Units that a server put off.
    pub later: u64,
    /// Redirections within a cluster.
    pub redirected: u64,
    /// Connections that had to be opened again.
    pub reconnected: u64,
    /// Keys left as they were because they were there already.
    pub existing: u64,
    /// Function libraries left as they were because they were there already.
    pub libraries_there: u64,
    /// Keys of a snapshot that a server refused.
    pub rejected: u64,
    /// Commands of a log that a server refused.
    pub rejected_of_log: u64,
    /// Commands of a log that an earlier run had applied already.
    pub passed_over: u64,
    /// Units sent again although that may double what they do.
    pub doubtful: u64,
}

/// How often acknowledged progress is written down.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// Bytes that wait in all lanes, beyond what the windows hold.
const QUEUED_BYTES: u64 = 16 << 20;
/// Commands that wait in all lanes.
const QUEUED_COMMANDS: u64 = 32 << 10;
/// Bytes of a command in which its name and its key are looked for.
const HEAD_BYTES: usize = 128 << 10;

/// A unit that waits for its lane, or for better times.
#[derive(Debug)]
struct Waiting {
    payload: Payload,
    item: Item,
}

/// How far a snapshot has come into a destination where each key is looked at before it is written. Keys are told by
/// their databases and names there.
#[derive(Debug, Clone, Default)]
pub struct Looked {
    /// The last one in the order of the snapshot; none before the first.
    pub last: Option<(u32, Vec<u8>)>,
    /// Those up to it of which is not known whether they are there: nothing of them was written.
    pub open: HashSet<(u32, Vec<u8>)>,
}

/// How much waits in all lanes.
#[derive(Debug, Default)]
struct Queued {
    bytes: u64,
    commands: u64,
}

impl Queued {
    fn add(&mut self, payload: &Payload) {
        self.bytes += payload.len() as u64;
        self.commands += 1;
    }

    fn remove(&mut self, payload: &Payload) {
        self.bytes -= payload.len() as u64;
        self.commands -= 1;
    }
}

/// A command as it stands in a block, or as it was put together.
enum Raw<'a> {
    Bytes(&'a [u8]),
    Payload(Payload),
}

impl Raw<'_> {
    fn into_payload(self) -> Payload {
        match self {
            Raw::Bytes(bytes) => Payload::Small(bytes.to_vec()),
            Raw::Payload(payload) => payload,
        }
    }
}

/// The commands of a small key from its DEL on: they go together, and can be sent again together whatever became of them.
#[derive(Debug)]
struct Group {
    bytes: Vec<u8>,
    item: Item,
}

/// What is looked at of a command before it is sent.
struct Seen<'a> {
    name: &'a [u8],
    key: Option<&'a [u8]>,
    argc: u64,
}

/// Commands on their way to a destination. See the module.
pub struct ServerSink<'a> {
    o: Options<'a>,
    progress: &'a Progress,
    links: Vec<Link>,
    /// The first link to each node of a cluster that was ever named, by its address.
    nodes: HashMap<(String, u16), usize>,
    /// The first link to each node of the slot table.
    masters: Vec<usize>,
    hasher: FixedState,
    // The stream of commands.
    parser: Parser,
    assembly: Assembly,
    /// A line that was cut by the end of a block.
    tail: Vec<u8>,
    /// The database that the stream has selected.
    db: u32,
    in_log: bool,
    // Snapshots.
    lanes: HashMap<u64, VecDeque<Waiting>, FixedState>,
    /// The lane of the last command, and whether nothing more of it is to be sent: its key is there already, or was
    /// refused.
    current: Option<u64>,
    dead: bool,
    /// The last key that was to be looked at, by its database and name.
    looked_at: Option<(u32, Vec<u8>)>,
    /// A small key whose commands are gathered to be sent together.
    group: Option<Group>,
    /// The list that is being sent, and its length so far.
    list: Option<(u64, u64)>,
    // Logs.
    log_lanes: HashMap<u64, LogLane, FixedState>,
    /// Where the unit begins to which the next commands belong, and how many of it came before.
    at: u64,
    index: u64,
    base: u64,
    last_seq: u64,
    in_group: bool,
    /// Commands of the transaction that is being read.
    open_group: usize,
    /// The next unit of the log is passed over: an earlier run had it acknowledged.
    passes_over: bool,
    // Both.
    later: Vec<(Instant, Waiting)>,
    queued: Queued,
    epochs: Epochs,
    saved: Instant,
    saved_place: Option<Place>,
    /// Since when the destination has done nothing but put off.
    put_off_since: Option<Instant>,
    put_off: u32,
    last_error: String,
    /// When a proxy last gave an answer that leaves a command unknown.
    unknown_at: Option<Instant>,
    /// When it is asked next where keys lead to, and how often yet.
    routes_due: Option<(Instant, u32)>,
    rate_from: Option<Instant>,
    sent_units: u64,
    sent_bytes: u64,
    slots_asked: Option<Instant>,
    /// Nodes whose slots another one took over while they were away.
    failed_over: u64,
    stopping: bool,
    guard_sha: String,
    tags: Vec<String>,
    /// What was done.
    pub counts: Counts,
}

impl<'a> ServerSink<'a> {
    /// Opens the connections. Errors: one of them cannot be opened.
    pub fn connect(options: Options<'a>, progress: &'a Progress) -> Result<ServerSink<'a>> {
        let mut sink = ServerSink {
            progress,
            links: Vec::new(),
            nodes: HashMap::new(),
            masters: Vec::new(),
            hasher: FixedState::default(),
            parser: Parser::new(false),
            assembly: Assembly::default(),
            tail: Vec::new(),
            db: 0,
            in_log: false,
            lanes: HashMap::default(),
            current: None,
            dead: false,
            looked_at: None,
            group: None,
            list: None,
            log_lanes: HashMap::default(),
            at: 0,
            index: 0,
            base: 0,
            last_seq: 0,
            in_group: false,
            open_group: 0,
            passes_over: false,
            later: Vec::new(),
            queued: Queued::default(),
            epochs: Epochs::new(Place::default()),
            saved: Instant::now(),
            saved_place: None,
            put_off_since: None,
            put_off: 0,
            last_error: String::new(),
            unknown_at: None,
            routes_due: None,
            rate_from: None,
            sent_units: 0,
            sent_bytes: 0,
            slots_asked: None,
            failed_over: 0,
            stopping: false,
            guard_sha: batch::guard_sha(),
            tags: Vec::new(),
            counts: Counts::default(),
            o: options,
        };
        if sink.o.slots.is_some() {
            sink.find_masters();
        } else {
            for _ in 0..sink.o.connections.max(1) {
                sink.add_link(sink.o.endpoint.clone());
            }
        }
        let (kills, name) = (sink.kills(), sink.client_name());
        if kills && sink.o.resumed {
            let mut seen: Vec<&Endpoint> = Vec::new();
            for link in &sink.links {
                if !seen.contains(&&link.endpoint) {
                    link::close_those_before(&link.endpoint, &name)?;
                    seen.push(&link.endpoint);
                }
            }
        }
        for link in &mut sink.links {
            link.open(kills, sink.o.imports, &name)?;
        }
        Ok(sink)
    }

    /// What the connections of this run are called at the server.
    fn client_name(&self) -> String {
        format!("{}{}", import::CLIENT_NAME, self.o.run)
    }

    /// Whether old connections can be killed at the server: not through a proxy.
    fn kills(&self) -> bool {
        self.o.dialect != Dialect::Twemproxy
    }

    /// Nodes of a cluster whose slots went to another one because they did not come back: what they had acknowledged
    /// and not yet passed on is lost.
    pub fn failed_over(&self) -> u64 {
        self.failed_over
    }

    fn add_link(&mut self, endpoint: Endpoint) {
        // A quarter of what the proxy allows its servers.
        let patience = (!self.kills()).then(|| self.o.proxy_timeout / 4);
        let mut link = Link::new(endpoint, self.o.window, self.o.window_bytes, patience);
        let now = Instant::now();
        // Opened at once, or by the loop.
        link.down = Some(link::Down {
            since: now,
            until: now,
            attempts: 0,
        });
        self.links.push(link);
    }

    /// The first link to a node of the cluster; there are `connections` of them, one behind the other.
    fn node(&mut self, host: &str, port: u16) -> usize {
        if let Some(first) = self.nodes.get(&(host.to_owned(), port)) {
            return *first;
        }
        let first = self.links.len();
        for _ in 0..self.o.connections.max(1) {
            self.add_link(self.o.endpoint.at(host, port));
        }
        self.nodes.insert((host.to_owned(), port), first);
        first
    }

    /// Takes note of the nodes of a slot table that is new, or has changed.
    fn find_masters(&mut self) {
        let slots = self.o.slots.as_ref();
        let nodes = slots.map_or(Vec::new(), |slots| slots.nodes().to_vec());
        self.masters = nodes
            .iter()
            .map(|node| self.node(&node.host, node.port))
            .collect();
    }

    /// The link over which a lane's units go.
    #[inline]
    fn link_of(&self, lane: u64, slot: u16) -> usize {
        match &self.o.slots {
            None => (lane % self.links.len() as u64) as usize,
            Some(slots) => {
                // A slot that nobody has is asked for anywhere: the answer tells where it is, or to wait.
                let first = self.masters[slots.owner(slot).unwrap_or(0)];
                first + (lane % self.o.connections.max(1) as u64) as usize
            }
        }
    }

    /// The slot of a key, where slots matter.
    #[inline]
    fn slot_of(&self, key: &[u8]) -> u16 {
        match self.o.slots {
            Some(_) => slot(key),
            None => 0,
        }
    }

    /// Begins a snapshot, the file `piece` of the run.
    pub fn begin_snapshot(&mut self, piece: u32) -> Result<()> {
        self.drain()?;
        self.in_log = false;
        self.current = None;
        self.dead = false;
        let place = Place {
            piece,
            ..*self.epochs.latest()
        };
        self.epochs.reach(Place {
            in_log: false,
            offset: 0,
            db: 0,
            time_ms: None,
            ..place
        });
        Ok(())
    }

    /// Begins a log, the file `piece` of the run, at `offset`. Everything before it is acknowledged when this returns.
    ///
    /// `base`: what its commands are numbered from, where an earlier run has numbered them.
    pub fn begin_log(&mut self, piece: u32, offset: u64, db: u64, base: Option<u64>) -> Result<()> {
        self.drain()?;
        self.wait_for_zombies()?;
        self.in_log = true;
        self.base = base.unwrap_or(self.last_seq);
        self.at = offset;
        self.index = 0;
        let place = *self.epochs.latest();
        self.epochs.reach(Place {
            piece,
            in_log: true,
            offset,
            db,
            base: self.base,
            time_ms: None,
            ..place
        });
        // Who went on at a snapshot before it would load that over what the log had done, and pass over the log's commands
        // as applied: their records are at the destination.
        self.save_now()
    }

    /// What is written until the next log begins is of no log, although it stands where one has come to: true expiries.
    /// They can be sent again, and have no numbers: a run that is killed meanwhile and goes on reads other commands there.
    pub fn begin_settling(&mut self) -> Result<()> {
        self.drain()?;
        self.wait_for_zombies()?;
        self.in_log = false;
        self.current = None;
        self.dead = false;
        Ok(())
    }

    /// What a proxy gave up on may still be applied for a while: nothing that depends on it may be sent before.
    fn wait_for_zombies(&mut self) -> Result<()> {
        if let Some(unknown) = self.unknown_at.take() {
            let until = unknown + self.zombie_time();
            while Instant::now() < until {
                self.progress.check_stop()?;
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    fn zombie_time(&self) -> Duration {
        (self.o.proxy_timeout * 2).max(Duration::from_secs(5))
    }

    /// All of the log before this byte was given to [`write`](Sink::write), and the database and the time there are these.
    pub fn reached_in_log(&mut self, offset: u64, db: u64, time_ms: Option<i64>) {
        let place = *self.epochs.latest();
        self.epochs.reach(Place {
            offset,
            db,
            time_ms,
            ..place
        });
    }

    /// All that stands before this place is acknowledged, by this run or by the one that it goes on from.
    pub fn acknowledged(&self) -> Place {
        let place = self.epochs.acknowledged();
        match self.o.resume {
            Some(resume) if place.is_before(&resume) => Place {
                keys: place.keys,
                base: place.base,
                ..resume
            },
            _ => place,
        }
    }

    /// Which keys of a snapshot were looked at, where each is before it is written.
    pub fn looked(&self) -> Looked {
        let mut open = HashSet::new();
        let mut add = |item: &Item, command: Vec<u8>| {
            if item.kind == Kind::Gate
                && let Some(key) = key_of(&command)
            {
                open.insert((item.db, key));
            }
        };
        for link in &self.links {
            for item in link.items() {
                add(item, link.bytes_of(item).into_vec());
            }
        }
        let later = self.later.iter().map(|(_, waiting)| waiting);
        for waiting in later.chain(self.lanes.values().flatten()) {
            if waiting.item.kind == Kind::Gate {
                add(&waiting.item, waiting.payload.clone().into_vec());
            }
        }
        Looked {
            last: self.looked_at.clone(),
            open,
        }
    }

    /// The names of keys of which it is not known whether they arrived, as many as a person can look through. A key that
    /// was only asked for is in no doubt.
    pub fn unanswered(&self, most: usize) -> Vec<(u32, Vec<u8>)> {
        let mut found = Vec::new();
        for link in &self.links {
            for item in link.sent_items() {
                if found.len() >= most {
                    break;
                }
                if item.kind == Kind::Batch {
                    if let Some(lane) = self.log_lanes.get(&item.lane) {
                        found.extend(lane.keys_on_their_way());
                    }
                } else if item.kind != Kind::Gate
                    && let Some(key) = key_of(&link.head_of(&item, HEAD_BYTES))
                {
                    found.push((item.db, key));
                }
            }
        }
        // What was on a connection that broke waits for the next one.
        let waiting = self.later.iter().map(|(_, waiting)| waiting);
        found.extend(
            waiting
                .filter(|waiting| waiting.item.again && waiting.item.kind != Kind::Gate)
                .filter_map(|waiting| {
                    let key = key_of(&waiting.payload.head(HEAD_BYTES))?;
                    Some((waiting.item.db, key))
                })
                .take(most.saturating_sub(found.len())),
        );
        for lane in self.log_lanes.values() {
            found.extend(lane.keys_in_doubt());
            if found.len() >= most {
                break;
            }
        }
        found.truncate(most);
        found
    }

    #[inline]
    fn lane_of(&self, db: u32, key: &[u8]) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(db);
        hasher.write(key);
        hasher.finish()
    }

    fn command(&mut self, raw: Raw<'_>) -> Result<()> {
        match raw {
            Raw::Bytes(bytes) => {
                let seen = Seen::of(bytes);
                self.pace(&seen, bytes.len())?;
                self.route(&seen, Raw::Bytes(bytes))?;
            }
            Raw::Payload(payload) => {
                let head = payload.head(HEAD_BYTES);
                let seen = Seen::of(&head);
                self.pace(&seen, payload.len())?;
                self.route(&seen, Raw::Payload(payload))?;
            }
        }
        self.make_room()
    }

    fn route(&mut self, seen: &Seen<'_>, raw: Raw<'_>) -> Result<()> {
        if seen.name == b"SELECT" {
            let db = seen.key.and_then(|digits| std::str::from_utf8(digits).ok());
            self.db = db.and_then(|digits| digits.parse().ok()).unwrap_or(0);
            Ok(())
        } else if self.in_log {
            self.log_command(seen, raw)
        } else {
            self.snapshot_command(seen, raw)
        }
    }

    /// A line that tells where in the log the commands behind it stand: `#AT:offset:db:time`.
    fn annotation(&mut self, line: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(line).unwrap_or_default().trim_end();
        let Some(rest) = text.strip_prefix("#AT:") else {
            return Ok(());
        };
        let mut parts = rest.split(':');
        let mut number = || parts.next().and_then(|digits| digits.parse::<i64>().ok());
        let (Some(offset), Some(db)) = (number(), number()) else {
            return Ok(());
        };
        let time_ms = number();
        self.at = offset as u64;
        self.index = 0;
        let before = *self.epochs.latest();
        let place = Place {
            offset: self.at,
            db: db as u64,
            time_ms,
            ..before
        };
        self.passes_over =
            (self.o.resume).is_some_and(|resume| resume.in_log && place.is_before(&resume));
        self.epochs.reach(place);
        Ok(())
    }

    /// Keeps to the rates that were asked for. Strings of a snapshot go several keys to a command.
    fn pace(&mut self, seen: &Seen<'_>, bytes: usize) -> Result<()> {
        self.sent_units += match seen.name {
            b"MSET" | b"MSETNX" if !self.in_log => seen.argc / 2,
            _ => 1,
        };
        self.sent_bytes += bytes as u64;
        if self.o.rate.is_none() && self.o.rate_bytes.is_none() {
            return Ok(());
        }
        let from = *self.rate_from.get_or_insert_with(Instant::now);
        let due = |done: u64, rate: Option<u64>| {
            rate.map_or(0.0, |rate| done as f64 / rate.max(1) as f64)
        };
        let due = due(self.sent_units, self.o.rate).max(due(self.sent_bytes, self.o.rate_bytes));
        let due = from + Duration::from_secs_f64(due);
        while let Some(left) = due.checked_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.step(left.min(Duration::from_millis(50)))?;
        }
        // Time that was lost is not made up for at once.
        let now = Instant::now();
        if now.saturating_duration_since(due) > Duration::from_secs(1) {
            self.rate_from = Some(now);
            (self.sent_units, self.sent_bytes) = (0, 0);
        }
        Ok(())
    }

    fn block(&mut self, block: &Block) -> Result<()> {
        if self.tail.is_empty() {
            return self.bytes(block.bytes(), block);
        }
        // A line was cut by the end of the last block. Only blocks that were copied together cut lines.
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(block.bytes());
        let used = joined.len();
        let joined = Block::Owned {
            buffer: joined,
            used,
        };
        self.bytes(joined.bytes(), &joined)
    }

    fn bytes(&mut self, bytes: &[u8], block: &Block) -> Result<()> {
        let mut pos = 0;
        while pos < bytes.len() {
            let rest = &bytes[pos..];
            // What was put together so far is passed over by its length.
            let from = self.assembly.len();
            let found = self.parser.next(rest, from).map_err(|broken| {
                Error::plain(ErrorKind::Unfit(format!(
                    "a command came that is none ({}): this is a fault of the program; nothing behind it was sent",
                    broken.what
                )))
            })?;
            match found {
                Found::Command(shape) => {
                    let len = (shape.len - from) as usize;
                    if from == 0 {
                        self.command(Raw::Bytes(&rest[..len]))?;
                    } else {
                        self.assembly.push(&rest[..len])?;
                        let payload = self.assembly.take()?;
                        self.command(Raw::Payload(payload))?;
                    }
                    pos += len;
                }
                Found::Annotation { len } => {
                    self.annotation(&rest[..len as usize])?;
                    pos += len as usize;
                }
                Found::Incomplete => {
                    let looked_at = (self.parser.wants() - from).min(rest.len() as u64) as usize;
                    self.tail.extend_from_slice(&rest[looked_at..]);
                    match block {
                        _ if looked_at == 0 => {}
                        Block::Shared(shared) => {
                            self.assembly.share(shared.slice(pos..pos + looked_at))?;
                        }
                        Block::Owned { .. } => self.assembly.push(&rest[..looked_at])?,
                    }
                    pos = bytes.len();
                }
            }
        }
        Ok(())
    }
}

impl<'a> Seen<'a> {
    fn of(head: &'a [u8]) -> Seen<'a> {
        let mut args = Args::of(head);
        let argc = args.left();
        let name = args.next().unwrap_or_default();
        let key = key_behind(name, &mut args);
        Seen { argc, name, key }
    }
}

/// The key of a command of which the first bytes are at hand.
fn key_of(head: &[u8]) -> Option<Vec<u8>> {
    let mut args = Args::of(head);
    let name = args.next()?;
    key_behind(name, &mut args).map(<[u8]>::to_vec)
}

/// Whether a command of a snapshot or of a log is about no key.
fn is_keyless(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"FUNCTION") || name.eq_ignore_ascii_case(b"SCRIPT")
}

/// The first key behind a command's name: in most the next argument, in a few the one behind a subcommand, in scripts
/// the one behind the text and the count.
#[inline]
fn key_behind<'a>(name: &[u8], args: &mut Args<'a>) -> Option<&'a [u8]> {
    match name.len() {
        6 | 8 if is_keyless(name) => None,
        4 | 7 if name.eq_ignore_ascii_case(b"EVAL") || name.eq_ignore_ascii_case(b"EVALSHA") => {
            args.nth(2)
        }
        6 if name.eq_ignore_ascii_case(b"XGROUP") => args.nth(1),
        _ => args.next(),
    }
}

impl Sink for ServerSink<'_> {
    fn write(&mut self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            self.block(block)?;
        }
        self.end_group_of_key();
        // What is there is sent, and what came is read, without waiting.
        self.step(Duration::ZERO)
    }

    fn reached(&mut self, offset: u64, db: u64, keys: u64) -> Result<()> {
        debug_assert!(self.assembly.is_empty());
        self.end_group_of_key();
        (self.o.ahead)(&offset)?;
        let place = *self.epochs.latest();
        self.epochs.reach(Place {
            offset,
            db,
            keys,
            ..place
        });
        Ok(())
    }
}
