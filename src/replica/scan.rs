//! A snapshot of a source that refuses PSYNC, as managed clouds do: its keys by SCAN, their values by DUMP, written as
//! an ordinary RDB file.
//!
//! Each database is gone through twice. First SCAN names its keys, which go to a temporary file; SCAN may name a key
//! several times, so hashes of the names are sorted as in [`removals`](super::removals), and of each key one stays.
//! Then DUMP is asked for each of them, many at once, and its payload goes into the file as it comes: a value is never
//! held in memory.
//!
//! It is no snapshot of one moment. A key that changes meanwhile is there as it was when it was asked for, one that
//! vanishes is not there, and one that is made meanwhile may be missing. Its expiry is asked for before its value, because
//! it stands before it in the file: where both change between the two questions, the value has the expiry of the one before.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::removals::{Limits, Mark, NameHash, Sorted, Sorter};
use crate::cursor::Cursor;
use crate::encoding::crc64::Crc64;
use crate::encoding::length::{length, write_length};
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName, Result};
use crate::file::sync_name;
use crate::input::{Mapped, Spool};
use crate::pipeline::Progress;
use crate::rdb::opcode;
use crate::resp::write::append_command;
use crate::server::connection::{Connection, wait, words};
use crate::server::endpoint::Endpoint;
use crate::server::reply::Reply;
use crate::value::module;

/// Values that are asked for at once, and bytes that they may have together, judged by those that came lately.
const WINDOW_KEYS: usize = 64;
const WINDOW_BYTES: u64 = 1 << 20;

/// Bytes that are read at once, and that are gathered before they are written.
const READ_BYTES: usize = 64 << 10;
const WRITE_BYTES: usize = 256 << 10;

/// A status or an error of a source is no longer.
const LINE_BYTES: usize = 32 << 10;

/// Metadata of a key that stands before its value is no longer.
const META_BYTES: usize = 8 << 20;

/// Version and checksum at the end of a payload.
const FOOTER_BYTES: u64 = 10;

/// Between looks at whether the run shall stop.
const PATIENCE: Duration = Duration::from_millis(200);

/// What is to be read, and where it goes.
#[derive(Debug, Clone)]
pub struct ScanOptions {
    /// The source.
    pub endpoint: Endpoint,
    /// The file. It is written beside its place as `….partial`, and gets its name when it is whole.
    pub rdb: PathBuf,
    /// Replace the file if it is there already.
    pub force: bool,
    /// COUNT of SCAN: about so many keys are named by one answer; 0 for 1000.
    pub count: u32,
    /// Databases to read; `None` for all that the source says it has.
    pub databases: Option<Vec<u64>>,
    /// How long a source that cannot be reached, or is loading or busy, is waited for before the run fails.
    pub retry_for: Duration,
    /// Memory for telling names apart.
    pub limits: Limits,
}

impl ScanOptions {
    /// All of a source, with what is usual.
    pub fn new(endpoint: Endpoint, rdb: impl Into<PathBuf>) -> ScanOptions {
        ScanOptions {
            endpoint,
            rdb: rdb.into(),
            force: false,
            count: 1000,
            databases: None,
            retry_for: Duration::from_secs(60),
            limits: Limits::default(),
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanReport {
    /// Keys in the file.
    pub keys: u64,
    /// Keys that SCAN named and that were not there any more when they were asked for.
    pub gone: u64,
    /// Databases that were gone through.
    pub databases: Vec<u64>,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Reads a source into an RDB file. `tell` is given sentences for people: what is left out, what is tried again.
///
/// Errors: `Login` where the user lacks a permission; `Unreachable` where the source stays away, or loads or is busy,
/// for longer than `retry_for`; `Unfit` where it knows no SCAN or DUMP, or a payload is none; `Io` for the file, also
/// where it is there already; `Stopped`. The file does not have its name then, and what there was of it is gone.
pub fn scan(
    options: &ScanOptions,
    progress: &Progress,
    tell: &mut dyn FnMut(&str),
) -> Result<ScanReport> {
    let mut source = Source {
        options,
        progress,
        tell,
        connection: None,
        run_id: None,
        opened: 0,
        met: false,
        failing: None,
        wait: FIRST_WAIT,
        has_pexpiretime: false,
    };
    // Whether it answers is found out before a file is begun.
    let about = source.about()?;
    let mut file = Writer::create(&options.rdb, options.force)?;
    let result = run(&mut source, &about, &mut file);
    match result.and_then(|report| file.finish().map(|bytes| (report, bytes))) {
        Ok((report, bytes)) => Ok(ScanReport { bytes, ..report }),
        Err(error) => {
            file.discard();
            Err(error)
        }
    }
}

fn run(source: &mut Source<'_>, about: &About, file: &mut Writer) -> Result<ScanReport> {
    let functions = source.functions()?;
    let guess = match &functions {
        Some(payload) => footer(payload).map_or(0, |(version, _)| version),
        None => about.payload_version(),
    };
    file.begin(guess)?;
    let ctime = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
        .to_string();
    for (name, value) in [
        (about.version_aux(), &about.version[..]),
        ("redis-bits", "64"),
        ("ctime", &ctime),
    ] {
        // They came with this version.
        if guess >= 7 && !value.is_empty() {
            file.byte(opcode::AUX)?;
            file.string(name.as_bytes())?;
            file.string(value.as_bytes())?;
        }
    }
    if let Some(payload) = functions {
        // A run of FUNCTION2 records, as the file has them.
        let (version, body) = footer(&payload).ok_or_else(|| source.bad_payload("FUNCTION"))?;
        check_crc(&source.name(), &payload)?;
        file.saw(version);
        file.write(body)?;
    }
    let mut report = ScanReport {
        keys: 0,
        gone: 0,
        databases: source.databases(about)?,
        bytes: 0,
    };
    for db in report.databases.clone() {
        let (names, sorted) = source.names(db)?;
        let mut dumps = Dumps {
            db,
            names,
            sorted,
            again: VecDeque::new(),
            asked: VecDeque::new(),
            begun: false,
            // What large values would cost the source is found out with one.
            lately: WINDOW_BYTES,
            moved: false,
        };
        dumps.run(source, file, &mut report)?;
    }
    file.byte(opcode::EOF)?;
    Ok(report)
}

/// What a source says of itself; empty where it does not.
#[derive(Debug, Default)]
struct About {
    version: String,
    valkey: bool,
    cluster: bool,
    /// Databases with keys.
    keyspace: Option<Vec<u64>>,
}

impl About {
    fn parse(info: &str) -> About {
        let mut about = About::default();
        for line in info.lines() {
            let Some((name, value)) = line.trim().split_once(':') else {
                if line.starts_with("# Keyspace") {
                    about.keyspace.get_or_insert_default();
                }
                continue;
            };
            match name {
                "redis_version" if !about.valkey => about.version = value.to_owned(),
                "valkey_version" => {
                    about.version = value.to_owned();
                    about.valkey = true;
                }
                "redis_mode" | "server_mode" => about.cluster |= value == "cluster",
                "cluster_enabled" => about.cluster |= value == "1",
                _ => {
                    if let Some(db) = name.strip_prefix("db").and_then(|db| db.parse().ok())
                        && value.starts_with("keys=")
                    {
                        about.keyspace.get_or_insert_default().push(db);
                    }
                }
            }
        }
        about
    }

    fn version_aux(&self) -> &'static str {
        match self.valkey {
            true => "valkey-ver",
            false => "redis-ver",
        }
    }

    /// The RDB version that its payloads most likely have (FORMAT §1.3); the first one tells.
    fn payload_version(&self) -> u16 {
        let mut parts = self
            .version
            .split('.')
            .map(|part| part.parse().unwrap_or(0));
        let version: (u16, u16) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        match version {
            _ if self.valkey && version >= (9, 0) => 80,
            _ if self.valkey => 11,
            (0..=2, _) => 6,
            (3, 0 | 1) => 6,
            (3, _) => 7,
            (4, _) => 8,
            (5 | 6, _) => 9,
            (7, 0 | 1) => 10,
            (7, 2 | 3) => 11,
            _ => 12,
        }
    }
}

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The source, connected or not.
struct Source<'a> {
    options: &'a ScanOptions,
    progress: &'a Progress,
    tell: &'a mut dyn FnMut(&str),
    /// With the database that is selected there.
    connection: Option<(Connection, u64)>,
    /// Which process answers, where it says so.
    run_id: Option<Vec<u8>>,
    /// How many connections were opened.
    opened: u64,
    /// Whether it was ever reached: one that never was is more likely a wrong address.
    met: bool,
    /// Since when nothing was to be had of it.
    failing: Option<Instant>,
    wait: Duration,
    has_pexpiretime: bool,
}

impl Source<'_> {
    fn name(&self) -> String {
        self.options.endpoint.address.to_string()
    }

    /// A connection with this database selected, made anew where there is none.
    fn connected(&mut self, db: u64) -> Result<&mut Connection> {
        let endpoint = &self.options.endpoint;
        let (mut connection, selected) = match self.connection.take() {
            Some(open) => open,
            None => {
                let mut connection = Connection::open(endpoint)?;
                self.met = true;
                self.opened += 1;
                let info = connection.call(&[b"INFO", b"server"])?;
                let run_id = info.bytes().and_then(|info| {
                    let mut lines = info.split(|byte| *byte == b'\n');
                    lines.find_map(|line| line.strip_prefix(b"run_id:"))
                });
                self.run_id = run_id.map(<[u8]>::to_vec);
                // Of a key that nobody has.
                let asked = connection.call(&[b"PEXPIRETIME", b"redis-migration:no-such-key"])?;
                // A node of a cluster that has not its slot knows the command all the same.
                self.has_pexpiretime = match &asked {
                    Reply::Int(_) => true,
                    Reply::Error(said) => is_redirect(said) || said.starts_with(b"CLUSTERDOWN"),
                    _ => false,
                };
                (connection, 0)
            }
        };
        if selected != db {
            let reply = connection.call(&[b"SELECT", db.to_string().as_bytes()])?;
            if let Some(said) = reply.error() {
                return Err(self.refused("SELECT", b"", db, said));
            }
        }
        Ok(&mut self.connection.insert((connection, db)).0)
    }

    /// One command; a source that is away, loading or busy is waited for.
    fn call(&mut self, db: u64, args: &[&[u8]]) -> Result<Reply> {
        loop {
            self.progress.check_stop()?;
            let result = self.connected(db).and_then(|there| there.call(args));
            match result {
                Ok(Reply::Error(said)) if is_passing(&said) => {
                    let error = self.refused(&text(args[0]), b"", db, &said);
                    self.pause(error)?;
                }
                Ok(reply) => {
                    self.failing = None;
                    return Ok(reply);
                }
                Err(error) => self.pause(error)?,
            }
        }
    }

    /// Gives the connection up and waits a little. Errors: the error itself, where waiting would not help, or has not
    /// for too long.
    fn pause(&mut self, error: Error) -> Result<()> {
        self.connection = None;
        let passing = matches!(error.kind(), ErrorKind::Unreachable { .. });
        let first = self.failing.is_none();
        let since = *self.failing.get_or_insert_with(Instant::now);
        if !passing || !self.met || since.elapsed() >= self.options.retry_for {
            return Err(error);
        }
        if first {
            self.wait = FIRST_WAIT;
            (self.tell)(&format!(
                "{error}; trying again for {} seconds",
                self.options.retry_for.as_secs()
            ));
        }
        let end = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        while Instant::now() < end {
            self.progress.check_stop()?;
            std::thread::sleep(PATIENCE.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn refused(&self, command: &str, key: &[u8], db: u64, said: &[u8]) -> Error {
        let server = self.name();
        let reply = words(said, &self.options.endpoint);
        if said.starts_with(b"NOPERM") {
            return Error::plain(ErrorKind::Login {
                server,
                why: format!(
                    "the user may not use {command} on every key; ACL SETUSER … ~* +scan +dump +pttl +pexpiretime \
                     +select +info +function|dump gives what is needed; it answered {reply}"
                ),
            });
        }
        let why = format!("{command} in database {db} was answered with {reply}");
        let error = match is_passing(said) {
            true => Error::unreachable(server, why),
            false => Error::unfit(format!(
                "{server}: {why}; without SCAN, DUMP and PTTL a source cannot be read in this way"
            )),
        };
        match key {
            b"" => error,
            key => error.in_key(|| key_name(db, key)),
        }
    }

    fn bad_payload(&self, what: &str) -> Error {
        Error::unfit(format!(
            "{}: the payload of {what} DUMP is too short to be one",
            self.name()
        ))
    }

    fn about(&mut self) -> Result<About> {
        let reply = self.call(0, &[b"INFO"])?;
        let about = match reply.error() {
            // Some users may not use it. What it tells is found out in other ways.
            Some(_) => About::default(),
            None => About::parse(&String::from_utf8_lossy(reply.bytes().unwrap_or_default())),
        };
        if about.cluster {
            let text = format!(
                "{} is a node of a cluster: only its own slots are read; run once for each master",
                self.name()
            );
            (self.tell)(&text);
        }
        Ok(about)
    }

    /// The payload of all function libraries; `None` for a source without.
    fn functions(&mut self) -> Result<Option<Vec<u8>>> {
        match self.call(0, &[b"FUNCTION", b"DUMP"])? {
            Reply::Bulk(payload) => Ok(Some(payload)),
            Reply::Error(said) if !said.to_ascii_lowercase().starts_with(b"err unknown") => {
                let said = words(&said, &self.options.endpoint);
                let text =
                    format!("function libraries are left out: FUNCTION DUMP answered {said}");
                (self.tell)(&text);
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    fn databases(&mut self, about: &About) -> Result<Vec<u64>> {
        let mut dbs = if let Some(dbs) = &self.options.databases {
            dbs.clone()
        } else if let Some(dbs) = &about.keyspace {
            // Nodes of a cluster may have several, from Valkey 9.0 on.
            dbs.clone()
        } else if about.cluster {
            vec![0]
        } else {
            let reply = self.call(0, &[b"CONFIG", b"GET", b"databases"])?;
            let count = reply.array().and_then(|pair| pair.get(1)?.int());
            let mut dbs = Vec::new();
            for db in 0..count.filter(|n| (1..=1 << 20).contains(n)).unwrap_or(16) as u64 {
                // The first that is not there is the end of them.
                let there = db == 0
                    || self
                        .call(0, &[b"SELECT", db.to_string().as_bytes()])?
                        .is_ok();
                // It is selected now, and nobody noted that.
                self.connection = self.connection.take().map(|(open, _)| (open, db));
                if !there {
                    self.connection = None;
                    break;
                }
                dbs.push(db);
            }
            dbs
        };
        dbs.sort_unstable();
        dbs.dedup();
        Ok(dbs)
    }

    /// The names of all keys of a database, and where each of them stands once.
    fn names(&mut self, db: u64) -> Result<(Mapped, Sorted)> {
        let count = match self.options.count {
            0 => 1000,
            count => count,
        };
        let count = count.to_string();
        let (mut spool, mut end) = (Spool::create()?, 0u64);
        let mut sorter = Sorter::new(self.options.limits);
        let hash = NameHash::default();
        let mut piece = Vec::new();
        let mut cursor = b"0".to_vec();
        let mut of = None;
        loop {
            let reply = self.call(db, &[b"SCAN", &cursor, b"COUNT", count.as_bytes()])?;
            let (next, keys) = match &reply {
                Reply::Error(said) => return Err(self.refused("SCAN", b"", db, said)),
                Reply::Array(parts) => match &parts[..] {
                    [Reply::Bulk(next), Reply::Array(keys)] => (next, keys),
                    _ => return Err(self.no_scan()),
                },
                _ => return Err(self.no_scan()),
            };
            for key in keys {
                let Some(key) = key.bytes() else {
                    return Err(self.no_scan());
                };
                // 0 is a place like any other here.
                let place = end + piece.len() as u64;
                write_length(&mut piece, key.len() as u64);
                piece.extend_from_slice(key);
                let hash = hash.of(key);
                sorter.add(Mark { db, hash, place })?;
            }
            spool.write(&piece)?;
            end += piece.len() as u64;
            piece.clear();
            piece.shrink_to(WRITE_BYTES);
            cursor.clone_from(next);
            // A cursor means something to the process that gave it. Another one is asked from the beginning; what it
            // names again is told apart like any repeat.
            let by = match &self.run_id {
                Some(run_id) => (0, run_id.clone()),
                // It may be another one behind each connection.
                None => (self.opened, Vec::new()),
            };
            if of.is_some() && of != Some(by.clone()) {
                let what = match &self.run_id {
                    Some(_) => "the source was started again or is another server now",
                    None => {
                        "the connection broke, and whether the source is still the same process it does not tell"
                    }
                };
                (self.tell)(&format!("{what}: database {db} is gone through anew"));
                cursor = b"0".to_vec();
                of = Some(by);
                continue;
            }
            of = Some(by);
            if cursor == b"0" {
                break;
            }
        }
        Ok((spool.into_map()?, sorter.finish()?))
    }

    fn no_scan(&self) -> Error {
        Error::unreachable(self.name(), "its answer to SCAN is none")
    }
}

/// Whether an error goes away by itself.
fn is_passing(said: &[u8]) -> bool {
    let passing: [&[u8]; 6] = [
        b"LOADING",
        b"BUSY ",
        b"MASTERDOWN",
        b"TRYAGAIN",
        b"CLUSTERDOWN",
        b"ERR max number of clients",
    ];
    passing.iter().any(|word| said.starts_with(word))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The version of a payload, and what stands before it; `None` where it is too short.
fn footer(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (body, footer) = payload.split_last_chunk::<{ FOOTER_BYTES as usize }>()?;
    Some((u16::from_le_bytes([footer[0], footer[1]]), body))
}

fn check_crc(server: &str, payload: &[u8]) -> Result<()> {
    let mut crc = Crc64::new();
    if let Some((body, stored)) = payload.split_last_chunk::<8>() {
        crc.update(body);
        same_crc(server, u64::from_le_bytes(*stored), crc.value())?;
    }
    Ok(())
}

/// 0 is written where none was computed.
fn same_crc(server: &str, stored: u64, computed: u64) -> Result<()> {
    match stored == computed || stored == 0 {
        true => Ok(()),
        false => Err(Error::unfit(format!(
            "{server}: the checksum of a payload of DUMP does not match: it says {stored:016x}, its bytes give \
             {computed:016x}; try again, and if that does not help, something on the way changes bytes"
        ))),
    }
}

/// The second time through a database.
struct Dumps {
    db: u64,
    names: Mapped,
    sorted: Sorted,
    /// Keys to be asked for once more, by their places.
    again: VecDeque<u64>,
    /// Keys whose answers have not come yet.
    asked: VecDeque<u64>,
    /// Whether the database was named in the file.
    begun: bool,
    /// Bytes of the values that came lately.
    lately: u64,
    /// Whether it was told that slots move.
    moved: bool,
}

impl Dumps {
    fn run(
        &mut self,
        source: &mut Source<'_>,
        file: &mut Writer,
        report: &mut ScanReport,
    ) -> Result<()> {
        loop {
            // Those whose answers were lost are asked for first.
            while let Some(place) = self.asked.pop_back() {
                self.again.push_front(place);
            }
            let Some(first) = self.next()? else {
                return Ok(());
            };
            self.again.push_front(first);
            let result = self.session(source, file, report);
            // A record that was not whole is taken back whatever happened to it.
            file.take_back()?;
            match result {
                Ok(()) => return Ok(()),
                Err(error) => source.pause(error)?,
            }
        }
    }

    fn next(&mut self) -> Result<Option<u64>> {
        match self.again.pop_front() {
            Some(place) => Ok(Some(place)),
            None => Ok(self.sorted.next()?.map(|mark| mark.place)),
        }
    }

    /// As far as one connection goes.
    fn session(
        &mut self,
        source: &mut Source<'_>,
        file: &mut Writer,
        report: &mut ScanReport,
    ) -> Result<()> {
        source.connected(self.db)?;
        let Some((connection, _)) = source.connection.take() else {
            return Ok(());
        };
        let mut stream = Stream {
            connection,
            timeout: source.options.endpoint.timeout,
            progress: source.progress,
            out: Vec::new(),
            sent: 0,
            input: vec![0; READ_BYTES],
            from: 0,
            filled: 0,
        };
        let expiry = match source.has_pexpiretime {
            true => &b"PEXPIRETIME"[..],
            false => b"PTTL",
        };
        loop {
            source.progress.check_stop()?;
            let most = (WINDOW_BYTES / self.lately.max(1)).clamp(1, WINDOW_KEYS as u64) as usize;
            // Refilled by halves, so that commands go out many at once.
            if self.asked.len() <= most / 2 {
                while self.asked.len() < most
                    && let Some(place) = self.next()?
                {
                    let key = name_at(self.names.bytes(), place)?;
                    append_command(&mut stream.out, &[expiry, key]);
                    append_command(&mut stream.out, &[b"DUMP", key]);
                    self.asked.push_back(place);
                    if stream.out.len() > WRITE_BYTES {
                        break;
                    }
                }
            }
            let Some(place) = self.asked.front().copied() else {
                break;
            };
            let key = name_at(self.names.bytes(), place)?;
            let at = stream.head()?;
            let received_ms = now_ms();
            let at = match at {
                Head::Int(n) => n,
                Head::Error(said) => {
                    // The other answer is of no use, and neither is the connection, unless the slot has moved.
                    if !is_redirect(&said) {
                        return Err(source.refused(&text(expiry), key, self.db, &said));
                    }
                    // Should the value come all the same, when it expires is not known.
                    -2
                }
                Head::Bulk(_) | Head::Nil => return Err(stream.unexpected()),
            };
            let again = match stream.head()? {
                Head::Bulk(len) => {
                    if at == -2 {
                        // It came back between the two questions, and when it expires is not known.
                        stream.pass(len)?;
                        true
                    } else {
                        let expire_at_ms = match at {
                            ..0 => None,
                            at if source.has_pexpiretime => Some(at),
                            left => Some(received_ms.saturating_add(left)),
                        };
                        if !self.begun {
                            self.begun = true;
                            file.byte(opcode::SELECTDB)?;
                            file.length(self.db)?;
                        }
                        file.open_record()?;
                        record(&mut stream, file, key, expire_at_ms, len)
                            .map_err(|error| error.in_key(|| key_name(self.db, key)))?;
                        file.close_record();
                        self.lately = len.max(self.lately - self.lately / 8);
                        report.keys += 1;
                        source.progress.keys.fetch_add(1, Relaxed);
                        source.progress.done.fetch_add(len, Relaxed);
                        false
                    }
                }
                Head::Nil => {
                    report.gone += 1;
                    false
                }
                Head::Error(said) if is_redirect(&said) => {
                    if !self.moved {
                        self.moved = true;
                        (source.tell)(
                            "slots of the cluster move while it is read: keys that are elsewhere now are left out",
                        );
                    }
                    report.gone += 1;
                    false
                }
                Head::Error(said) => return Err(source.refused("DUMP", key, self.db, &said)),
                Head::Int(_) => return Err(stream.unexpected()),
            };
            self.asked.pop_front();
            if again {
                self.again.push_back(place);
            }
            source.failing = None;
        }
        source.connection = Some((stream.connection, self.db));
        Ok(())
    }
}

fn key_name(db: u64, key: &[u8]) -> KeyName {
    KeyName {
        db,
        key: key[..key.len().min(KEY_SHOWN + 1)].to_vec(),
        type_name: "asked for by DUMP".to_owned(),
        rdb_version: None,
    }
}

fn is_redirect(said: &[u8]) -> bool {
    said.starts_with(b"MOVED ") || said.starts_with(b"ASK ")
}

fn name_at(names: &[u8], place: u64) -> Result<&[u8]> {
    let mut c = Cursor::new(names, 0);
    c.seek(
        usize::try_from(place)
            .unwrap_or(usize::MAX)
            .min(names.len()),
    );
    let len = length(&mut c)?;
    c.take_len(len)
}

fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// Writes the payload of `len` bytes that comes as a record: what stands before the value, type, key, value.
fn record(
    stream: &mut Stream<'_>,
    file: &mut Writer,
    key: &[u8],
    expire_at_ms: Option<i64>,
    len: u64,
) -> Result<()> {
    let mut crc = Crc64::new();
    let Some(mut left) = len.checked_sub(FOOTER_BYTES).filter(|left| *left > 0) else {
        return Err(stream.short());
    };
    if let Some(at) = expire_at_ms {
        file.byte(opcode::EXPIRETIME_MS)?;
        file.write(&at.to_le_bytes())?;
    }
    let first = stream.byte()?;
    crc.update(&[first]);
    left -= 1;
    if first == opcode::KEY_META {
        // It belongs to the key and stands before it in the file too. Only its own form tells where it ends, so more
        // and more is read until it does.
        let mut head = Vec::new();
        let end = loop {
            let mut c = Cursor::new(&head, 0);
            if module::skip_key_meta(&mut c).is_ok() && !c.is_empty() {
                break c.pos();
            }
            if left == 0 {
                return Err(stream.short());
            }
            if head.len() > META_BYTES {
                return Err(Error::unfit(format!(
                    "{}: the metadata in a payload of DUMP has more than {META_BYTES} bytes",
                    stream.connection.name()
                )));
            }
            for _ in 0..(head.len() as u64).clamp(64, left.max(64)).min(left) {
                head.push(stream.byte()?);
                left -= 1;
            }
        };
        crc.update(&head);
        file.byte(first)?;
        file.write(&head[..end])?;
        file.byte(head[end])?;
        file.string(key)?;
        file.write(&head[end + 1..])?;
    } else {
        file.byte(first)?;
        file.string(key)?;
    }
    while left > 0 {
        let piece = stream.some(left)?;
        crc.update(piece);
        file.write(piece)?;
        left -= piece.len() as u64;
    }
    let mut footer = [0; FOOTER_BYTES as usize];
    for byte in &mut footer {
        *byte = stream.byte()?;
    }
    let [low, high, stored @ ..] = footer;
    crc.update(&[low, high]);
    same_crc(
        stream.connection.name(),
        u64::from_le_bytes(stored),
        crc.value(),
    )?;
    stream.line_end()?;
    file.saw(u16::from_le_bytes([low, high]));
    Ok(())
}

/// Answers that are taken as they come.
struct Stream<'a> {
    connection: Connection,
    timeout: Duration,
    progress: &'a Progress,
    /// Commands, of which the first `sent` bytes were sent.
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    from: usize,
    filled: usize,
}

/// How an answer begins.
enum Head {
    Int(i64),
    /// So many bytes follow, and a line end.
    Bulk(u64),
    Nil,
    Error(Vec<u8>),
}

impl Stream<'_> {
    fn fail(&self, why: impl Into<String>) -> Error {
        Error::unreachable(self.connection.name(), why)
    }

    fn unexpected(&self) -> Error {
        self.fail("its answers do not fit what was asked")
    }

    fn short(&self) -> Error {
        Error::unfit(format!(
            "{}: the payload of DUMP is too short to be one",
            self.connection.name()
        ))
    }

    /// Reads more, and sends what waits; returns once something came.
    fn fill(&mut self) -> Result<()> {
        if self.from == self.filled {
            (self.from, self.filled) = (0, 0);
        } else if self.filled == self.input.len() {
            self.input.copy_within(self.from..self.filled, 0);
            self.filled -= self.from;
            self.from = 0;
        }
        let broke = |e: io::Error| format!("the connection broke: {e}");
        let mut silent_since = Instant::now();
        loop {
            while self.sent < self.out.len() {
                match self
                    .connection
                    .write(&[IoSlice::new(&self.out[self.sent..])])
                {
                    Ok(n) => self.sent += n,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(self.fail(broke(e))),
                }
                silent_since = Instant::now();
            }
            if self.sent == self.out.len() {
                self.out.clear();
                self.sent = 0;
                if self.connection.wants_write() {
                    self.connection.flush().map_err(|e| self.fail(broke(e)))?;
                }
            }
            match self.connection.read(&mut self.input[self.filled..]) {
                Ok(0) => {
                    return Err(self.fail("the connection was closed while values were read"));
                }
                Ok(n) => {
                    self.filled += n;
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(self.fail(broke(e))),
            }
            self.progress.check_stop()?;
            if silent_since.elapsed() >= self.timeout {
                let secs = self.timeout.as_secs_f64();
                return Err(self.fail(format!("no answer within {secs} s")));
            }
            let writing = self.sent < self.out.len() || self.connection.wants_write();
            let until = Instant::now() + PATIENCE.min(self.timeout);
            wait(self.connection.fd(), writing, until);
        }
    }

    /// The first line of an answer.
    fn head(&mut self) -> Result<Head> {
        let mut looked = 0;
        let end = loop {
            let window = &self.input[self.from..self.filled];
            if let Some(at) = memchr::memchr(b'\n', &window[looked..]) {
                break looked + at;
            }
            looked = window.len();
            if looked > LINE_BYTES {
                return Err(self.fail("a line of an answer has no end"));
            }
            self.fill()?;
        };
        let line = &self.input[self.from..self.from + end];
        let Some((kind, rest)) = line.strip_suffix(b"\r").and_then(|line| line.split_first())
        else {
            return Err(self.fail("what it answers is no RESP"));
        };
        let number = || std::str::from_utf8(rest).ok()?.parse::<i64>().ok();
        let head = match (kind, number()) {
            (b'-', _) => Some(Head::Error(rest.to_vec())),
            (b':', Some(n)) => Some(Head::Int(n)),
            (b'$', Some(-1)) => Some(Head::Nil),
            (b'$', Some(n)) => u64::try_from(n).ok().map(Head::Bulk),
            _ => None,
        };
        let head = head.ok_or_else(|| self.fail("what it answers is no RESP"))?;
        self.from += end + 1;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.some(1)?[0])
    }

    /// At least one of the next bytes, at most so many.
    fn some(&mut self, most: u64) -> Result<&[u8]> {
        if self.from == self.filled {
            self.fill()?;
        }
        let there = self.filled - self.from;
        let from = self.from;
        self.from += there.min(usize::try_from(most).unwrap_or(there));
        Ok(&self.input[from..self.from])
    }

    fn line_end(&mut self) -> Result<()> {
        match (self.byte()?, self.byte()?) {
            (b'\r', b'\n') => Ok(()),
            _ => Err(self.fail("a string of an answer does not end where it should")),
        }
    }

    /// Passes over a string.
    fn pass(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            len -= self.some(len)?.len() as u64;
        }
        self.line_end()
    }
}

/// The file on its way to its name.
struct Writer {
    file: File,
    partial: PathBuf,
    target: PathBuf,
    buffer: Vec<u8>,
    /// Bytes that were written, and their checksum.
    written: u64,
    crc: Crc64,
    /// Where the record began that is not whole, and the checksum there, where that was passed.
    open: Option<(u64, Option<Crc64>)>,
    /// The version in the header.
    guess: u16,
    /// The highest version of a payload.
    version: u16,
}

impl Writer {
    fn create(target: &Path, force: bool) -> Result<Writer> {
        let failed = |what: &str, e| Error::io(format!("{} {what}", target.display()), e);
        if !force && target.symlink_metadata().is_ok() {
            let why = "it exists already; --force replaces it";
            let error = io::Error::new(io::ErrorKind::AlreadyExists, why);
            return Err(failed("cannot be written", error));
        }
        let mut partial = target.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // In a directory where anybody may write, the name may lead to a file that is to be emptied.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
            .open(&partial)
            .map_err(|e| failed("cannot be written", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let error = io::Error::new(io::ErrorKind::WouldBlock, "another run writes it");
                return Err(failed("cannot be written", error));
            }
            Err(TryLockError::Error(e)) => return Err(failed("cannot be locked", e)),
        }
        file.set_len(0)
            .map_err(|e| failed("cannot be written", e))?;
        Ok(Writer {
            file,
            partial,
            target: target.to_owned(),
            buffer: Vec::with_capacity(WRITE_BYTES + READ_BYTES),
            written: 0,
            crc: Crc64::new(),
            open: None,
            guess: 0,
            version: 0,
        })
    }

    fn failed(&self, e: io::Error) -> Error {
        Error::io(format!("{} cannot be written", self.partial.display()), e)
    }

    /// Writes the header; should payloads be of another version, it is put right at the end.
    fn begin(&mut self, version: u16) -> Result<()> {
        self.guess = version;
        self.write(&header(version))
    }

    fn saw(&mut self, version: u16) {
        self.version = self.version.max(version);
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        match self.buffer.len() >= WRITE_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn byte(&mut self, byte: u8) -> Result<()> {
        self.write(&[byte])
    }

    fn length(&mut self, n: u64) -> Result<()> {
        write_length(&mut self.buffer, n);
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<()> {
        self.length(bytes.len() as u64)?;
        bytes
            .chunks(READ_BYTES)
            .try_for_each(|piece| self.write(piece))
    }

    fn flush(&mut self) -> Result<()> {
        let mut from = 0;
        if let Some((start, crc @ None)) = &mut self.open {
            from = (*start - self.written) as usize;
            self.crc.update(&self.buffer[..from]);
            *crc = Some(self.crc.clone());
        }
        self.crc.update(&self.buffer[from..]);
        self.file
            .write_all_at(&self.buffer, self.written)
            .map_err(|e| self.failed(e))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn open_record(&mut self) -> Result<()> {
        self.open = Some((self.written + self.buffer.len() as u64, None));
        Ok(())
    }

    fn close_record(&mut self) {
        self.open = None;
    }

    /// Takes back the record that was begun and not closed, if there is one.
    fn take_back(&mut self) -> Result<()> {
        match self.open.take() {
            None => {}
            Some((start, None)) => self.buffer.truncate((start - self.written) as usize),
            Some((start, Some(crc))) => {
                self.buffer.clear();
                self.written = start;
                self.crc = crc;
                self.file.set_len(start).map_err(|e| self.failed(e))?;
            }
        }
        Ok(())
    }

    /// Adds the checksum, brings all to disk, and gives the file its name. Returns its bytes.
    fn finish(&mut self) -> Result<u64> {
        self.flush()?;
        if self.version != 0 && self.version != self.guess {
            self.file
                .write_all_at(&header(self.version), 0)
                .map_err(|e| self.failed(e))?;
            self.crc = Crc64::new();
            let mut piece = vec![0; WRITE_BYTES];
            let mut at = 0;
            while at < self.written {
                let n = piece.len().min((self.written - at) as usize);
                self.file
                    .read_exact_at(&mut piece[..n], at)
                    .map_err(|e| self.failed(e))?;
                self.crc.update(&piece[..n]);
                at += n as u64;
            }
        }
        let version = if self.version == 0 {
            self.guess
        } else {
            self.version
        };
        // Checksums came with this one (FORMAT §5.1).
        if version >= 5 {
            self.buffer
                .extend_from_slice(&self.crc.value().to_le_bytes());
            self.flush()?;
        }
        let failed = |e| Error::io(format!("{} cannot be completed", self.target.display()), e);
        self.file.sync_all().map_err(failed)?;
        std::fs::rename(&self.partial, &self.target).map_err(failed)?;
        sync_name(&self.target);
        Ok(self.written)
    }

    fn discard(self) {
        let _ = std::fs::remove_file(&self.partial);
    }
}

/// Magic and version (FORMAT §1.2).
fn header(version: u16) -> Vec<u8> {
    match version {
        80.. => format!("VALKEY{version:03}"),
        _ => format!("REDIS{:04}", version.max(1)),
    }
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::{Format, Reader, Record};
    use crate::server::endpoint::Address;
    use crate::value::{Templates, skip};
    use std::collections::{HashMap, HashSet};
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;

    /// At the end of an answer: the connection ends there.
    const CUT: &[u8] = b"-- cut --";

    /// Answers every command by `answer`, which may end the connection by `None`.
    fn fake(mut answer: impl FnMut(&[Vec<u8>]) -> Option<Vec<u8>> + Send + 'static) -> ScanOptions {
        fake_pipelined(move |args, _| answer(args))
    }

    /// As [`fake`], told how many bytes wait behind the command.
    fn fake_pipelined(
        mut answer: impl FnMut(&[Vec<u8>], usize) -> Option<Vec<u8>> + Send + 'static,
    ) -> ScanOptions {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while let Some(args) = command(&mut reader) {
                    let Some(out) = answer(&args, reader.buffer().len()) else {
                        break;
                    };
                    let cut = out.strip_suffix(CUT);
                    if stream.write_all(cut.unwrap_or(&out)).is_err() || cut.is_some() {
                        break;
                    }
                }
            }
        });
        let mut endpoint = Endpoint::new(Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        });
        endpoint.timeout = Duration::from_secs(2);
        ScanOptions {
            retry_for: Duration::from_secs(2),
            ..ScanOptions::new(endpoint, "")
        }
    }

    fn command(reader: &mut impl BufRead) -> Option<Vec<Vec<u8>>> {
        let number = |reader: &mut dyn BufRead| -> Option<usize> {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            line.get(1..)?.trim().parse().ok()
        };
        let count = number(reader)?;
        let mut args = Vec::new();
        for _ in 0..count {
            let mut arg = vec![0; number(reader)? + 2];
            reader.read_exact(&mut arg).ok()?;
            arg.truncate(arg.len() - 2);
            args.push(arg);
        }
        Some(args)
    }

    fn bulk(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::resp::write::append_bulk(&mut out, bytes);
        out
    }

    fn named(cursor: &str, keys: &[&str]) -> Vec<u8> {
        let mut out = b"*2\r\n".to_vec();
        out.extend(bulk(cursor.as_bytes()));
        out.extend(format!("*{}\r\n", keys.len()).into_bytes());
        keys.iter().for_each(|key| out.extend(bulk(key.as_bytes())));
        out
    }

    fn payload(body: &[u8], version: u16) -> Vec<u8> {
        let mut out = body.to_vec();
        out.extend_from_slice(&version.to_le_bytes());
        out.extend_from_slice(&crate::encoding::crc64::crc64(&out).to_le_bytes());
        out
    }

    /// What every source answers to the first words.
    fn usual(args: &[Vec<u8>]) -> Vec<u8> {
        match &args[0][..] {
            b"PING" => b"+PONG\r\n".to_vec(),
            b"SELECT" => b"+OK\r\n".to_vec(),
            b"INFO" => {
                bulk(b"redis_version:7.2.4\r\nrun_id:a\r\n# Keyspace\r\ndb0:keys=3,expires=0\r\n")
            }
            b"PEXPIRETIME" if args[1].starts_with(b"redis-migration") => b":-2\r\n".to_vec(),
            b"PEXPIRETIME" => b":-1\r\n".to_vec(),
            b"SCAN" => named("0", &["a", "b", "a"]),
            b"DUMP" => bulk(&payload(b"\x00\x01v", 11)),
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }

    struct Done {
        result: Result<ScanReport>,
        /// Expiries by name, and the magic.
        keys: HashMap<Vec<u8>, Option<i64>>,
        magic: String,
        told: Vec<String>,
    }

    fn go(mut options: ScanOptions) -> Done {
        let dir = tempfile::tempdir().unwrap();
        options.rdb = dir.path().join("a.rdb");
        let mut told = Vec::new();
        let result = scan(&options, &Progress::default(), &mut |text| {
            told.push(text.to_owned())
        });
        let (mut keys, mut magic) = (HashMap::new(), String::new());
        if let Ok(report) = &result {
            let bytes = std::fs::read(&options.rdb).unwrap();
            assert_eq!(bytes.len() as u64, report.bytes);
            crate::rdb::scan::check_whole(&bytes, false, |_| Ok(())).unwrap();
            let (body, stored) = bytes.split_last_chunk().unwrap();
            assert_eq!(
                u64::from_le_bytes(*stored),
                crate::encoding::crc64::crc64(body)
            );
            let mut c = Cursor::new(&bytes, 0);
            let format = Format::parse(&mut c, false).unwrap();
            magic = format.magic();
            let mut reader = Reader::new(Cursor::new(&bytes, 0), format, c.pos());
            let (mut db, mut seen) = (0, HashSet::new());
            loop {
                match reader.next().unwrap() {
                    Record::Select(n) => db = n,
                    Record::Key(key) => {
                        let name = crate::rdb::plain_text(key.key);
                        assert!(seen.insert((db, name.clone())), "twice");
                        keys.insert(name, key.attributes.expire_at_ms);
                        let templates = Templates::default();
                        skip(&mut reader.c, key.ty, &templates, &mut Vec::new()).unwrap();
                    }
                    Record::Eof => break,
                    _ => {}
                }
            }
            assert_eq!(seen.len() as u64, report.keys);
        } else {
            assert!(!options.rdb.exists());
        }
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, usize::from(result.is_ok()));
        Done {
            result,
            keys,
            magic,
            told,
        }
    }

    #[test]
    fn keys_that_are_named_twice_are_written_once() {
        for memory_bytes in [1, 1 << 20] {
            let done = go(ScanOptions {
                limits: Limits { memory_bytes },
                ..fake(|args| Some(usual(args)))
            });
            let report = done.result.unwrap();
            assert_eq!((report.keys, report.gone), (2, 0));
            assert_eq!(report.databases, [0]);
            assert_eq!(done.magic, "REDIS0011");
            assert_eq!(done.told, Vec::<String>::new());
        }
    }

    #[test]
    fn another_version_of_payloads_than_was_thought() {
        for (version, magic) in [(12, "REDIS0012"), (80, "VALKEY080"), (9, "REDIS0009")] {
            let done = go(fake(move |args| {
                Some(match &args[0][..] {
                    b"DUMP" => bulk(&payload(b"\x00\x01v", version)),
                    _ => usual(args),
                })
            }));
            assert_eq!((done.result.unwrap().keys, &done.magic[..]), (2, magic));
        }
    }

    #[test]
    fn keys_that_vanish_and_come_back() {
        let mut asked = 0;
        let done = go(fake(move |args| {
            Some(match &args[0][..] {
                b"SCAN" => named("0", &["here", "gone", "back", "expires"]),
                b"PEXPIRETIME" if args[1] == b"back" => {
                    asked += 1;
                    format!(":{}\r\n", if asked == 1 { -2 } else { 77 }).into_bytes()
                }
                b"PEXPIRETIME" if args[1] == b"expires" => b":88\r\n".to_vec(),
                b"DUMP" if args[1] == b"gone" => b"$-1\r\n".to_vec(),
                _ => usual(args),
            })
        }));
        let report = done.result.unwrap();
        assert_eq!((report.keys, report.gone), (3, 1));
        assert_eq!(done.keys[&b"here"[..]], None);
        assert_eq!(done.keys[&b"back"[..]], Some(77));
        assert_eq!(done.keys[&b"expires"[..]], Some(88));
    }

    #[test]
    fn time_left_where_the_moment_is_not_told() {
        let before = now_ms();
        let done = go(fake(|args| {
            Some(match &args[0][..] {
                b"PEXPIRETIME" => b"-ERR unknown command 'PEXPIRETIME'\r\n".to_vec(),
                b"PTTL" if args[1] == b"a" => b":1000\r\n".to_vec(),
                b"PTTL" => b":-1\r\n".to_vec(),
                _ => usual(args),
            })
        }));
        done.result.unwrap();
        let at = done.keys[&b"a"[..]].unwrap();
        assert!((before + 1000..=now_ms() + 1000).contains(&at), "{at}");
        assert_eq!(done.keys[&b"b"[..]], None);
    }

    #[test]
    fn metadata_of_a_key_stands_before_it() {
        // One class of a module with one number, and one with many strings.
        let mut long = b"\xf3\x01abcd".to_vec();
        (0..1000).for_each(|_| long.extend_from_slice(b"\x05\x03xyz"));
        long.extend_from_slice(b"\x00\x00\x01v");
        for body in [&b"\xf3\x01abcd\x02\x05\x00\x00\x01v"[..], &long] {
            let body = body.to_vec();
            let done = go(fake(move |args| {
                Some(match &args[0][..] {
                    b"DUMP" => bulk(&payload(&body, 13)),
                    _ => usual(args),
                })
            }));
            assert_eq!(done.result.unwrap().keys, 2);
        }
    }

    #[test]
    fn a_node_of_a_cluster_tells_moments_and_may_have_several_databases() {
        let mut asked = 0;
        let done = go(fake(move |args| {
            Some(match &args[0][..] {
                b"INFO" => bulk(
                    b"redis_mode:cluster\r\nrun_id:a\r\n# Keyspace\r\ndb0:keys=3\r\ndb2:keys=3\r\n",
                ),
                b"PEXPIRETIME" if args[1].starts_with(b"redis-migration") => {
                    b"-MOVED 7 127.0.0.1:1\r\n".to_vec()
                }
                // The slot comes back between the two questions.
                b"PEXPIRETIME" if args[1] == b"b" => {
                    asked += 1;
                    match asked {
                        1 => b"-MOVED 7 127.0.0.1:1\r\n".to_vec(),
                        _ => b":99\r\n".to_vec(),
                    }
                }
                b"PEXPIRETIME" => b":88\r\n".to_vec(),
                b"PTTL" => panic!("it tells the moment"),
                _ => usual(args),
            })
        }));
        let report = done.result.unwrap();
        assert_eq!((report.keys, report.gone), (4, 0));
        assert_eq!(report.databases, [0, 2]);
        assert_eq!(done.keys[&b"a"[..]], Some(88));
        assert_eq!(done.keys[&b"b"[..]], Some(99));
    }

    #[test]
    fn values_are_asked_for_one_by_one_until_it_is_known_that_they_are_small() {
        // Behind the first value nothing was asked for that a large one would have kept.
        let many: Vec<String> = (0..200).map(|n| format!("key:{n}")).collect();
        let (mut large, mut most) = (0, 0);
        let (told, heard) = std::sync::mpsc::channel();
        let done = go(fake_pipelined(move |args, waiting| {
            Some(match &args[0][..] {
                b"SCAN" => {
                    let names: Vec<&str> = many.iter().map(String::as_str).collect();
                    named("0", &names)
                }
                b"DUMP" => {
                    large += 1;
                    if large == 1 {
                        told.send(waiting).unwrap();
                    }
                    most = waiting.max(most);
                    if large == 200 {
                        told.send(most).unwrap();
                    }
                    bulk(&payload(b"\x00\x01v", 11))
                }
                _ => usual(args),
            })
        }));
        assert_eq!(done.result.unwrap().keys, 200);
        assert_eq!(heard.recv().unwrap(), 0);
        assert!(heard.recv().unwrap() > 0);
    }

    #[test]
    fn payloads_that_are_none() {
        let mut wrong = payload(b"\x00\x01v", 11);
        wrong[2] ^= 1;
        for (body, said) in [
            (wrong, "does not match"),
            (b"0123456789".to_vec(), "too short"),
            (Vec::new(), "too short"),
            (payload(b"\xf3\x01abcd\x05", 13), "too short"),
        ] {
            let done = go(fake(move |args| {
                Some(match &args[0][..] {
                    b"DUMP" => bulk(&body),
                    _ => usual(args),
                })
            }));
            let error = done.result.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn refusals() {
        let refuse = |what: &'static [u8], said: &'static [u8]| {
            go(fake(move |args| {
                Some(match &args[0][..] {
                    name if name == what => [b"-", said, b"\r\n"].concat(),
                    _ => usual(args),
                })
            }))
        };
        for what in [&b"SCAN"[..], b"DUMP", b"SELECT"] {
            let mut done = refuse(what, b"NOPERM this user has no permissions");
            if what == b"SELECT" {
                // Database 0 needs none.
                assert!(done.result.is_ok());
                done = go(ScanOptions {
                    databases: Some(vec![3]),
                    ..fake(|args| {
                        Some(match &args[0][..] {
                            b"SELECT" => b"-NOPERM no\r\n".to_vec(),
                            _ => usual(args),
                        })
                    })
                });
            }
            let error = done.result.unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
            assert!(error.to_string().contains("+dump"), "{error}");
        }
        let error = refuse(b"DUMP", b"ERR unknown command 'DUMP'")
            .result
            .unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unfit(_)), "{error}");
        // What it may not tell is found out otherwise.
        let done = refuse(b"INFO", b"NOPERM no");
        assert_eq!(done.result.unwrap().databases.len(), 16);
        let done = refuse(b"FUNCTION", b"NOPERM no");
        assert!(done.told[0].contains("function libraries are left out"));
        let done = refuse(b"DUMP", b"MOVED 1 127.0.0.1:1");
        assert!(done.told[0].contains("slots"), "{:?}", done.told);
        assert_eq!(done.result.unwrap().gone, 2);
        let error = refuse(b"SCAN", b"LOADING it is").result.unwrap_err();
        assert!(error.to_string().contains("LOADING"), "{error}");
    }

    #[test]
    fn a_source_that_comes_back_goes_on_and_another_one_begins_anew() {
        for other in [false, true] {
            let (mut dumps, mut scans) = (0, 0);
            let done = go(fake(move |args| {
                Some(match &args[0][..] {
                    b"SCAN" => {
                        scans += 1;
                        match (scans, &args[1][..]) {
                            (1, b"0") => named("5", &["a"]),
                            (2, b"5") => return None,
                            (_, b"5") => named("0", &["b"]),
                            (_, b"0") => named("5", &["c"]),
                            other => panic!("{other:?}"),
                        }
                    }
                    b"DUMP" => {
                        dumps += 1;
                        match dumps {
                            // In the middle of a value.
                            1 => [&b"$10000\r\n\x00abc"[..], CUT].concat(),
                            // A value of several buffers, cut in the middle.
                            2 => [&b"$1000000\r\n\x00"[..], &[b'x'; 700_000], CUT].concat(),
                            _ => usual(args),
                        }
                    }
                    b"INFO" if other && scans > 1 => bulk(b"run_id:b\r\n"),
                    _ => usual(args),
                })
            }));
            let report = done.result.unwrap();
            assert_eq!(report.keys, if other { 3 } else { 2 });
            assert_eq!(report.gone, 0);
            let anew = done.told.iter().any(|text| text.contains("anew"));
            assert_eq!(anew, other, "{:?}", done.told);
        }
    }

    /// A cursor that another process gave names only some of the keys.
    #[test]
    fn a_source_that_does_not_tell_who_it_is_begins_anew_when_a_connection_broke() {
        let mut scans = 0;
        let done = go(fake(move |args| {
            Some(match &args[0][..] {
                b"INFO" => b"-NOPERM no\r\n".to_vec(),
                b"SCAN" if args[1] != b"0" && args[1] != b"5" => panic!("{args:?}"),
                b"SCAN" => {
                    scans += 1;
                    match (scans, &args[1][..]) {
                        (1, _) => named("5", &["a"]),
                        (2, _) => return None,
                        (_, b"5") => named("0", &[]),
                        _ => named("0", &["b", "c"]),
                    }
                }
                _ => usual(args),
            })
        }));
        let keys = ["a", "b", "c"].map(|name| name.as_bytes().to_vec());
        assert!(keys.iter().all(|key| done.keys.contains_key(key)));
        assert!(done.told.iter().any(|text| text.contains("does not tell")));
    }

    #[test]
    fn a_source_that_was_never_there_is_not_waited_for() {
        let options = ScanOptions {
            retry_for: Duration::from_secs(600),
            ..ScanOptions::new(
                Endpoint::new(Address::Tcp {
                    host: "127.0.0.1".to_owned(),
                    port: 1,
                }),
                "",
            )
        };
        let error = go(options).result.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Unreachable { .. }),
            "{error}"
        );
    }

    #[test]
    fn files_that_are_there_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let rdb = dir.path().join("a.rdb");
        std::fs::write(&rdb, "mine").unwrap();
        let options = ScanOptions {
            rdb: rdb.clone(),
            ..fake(|args| Some(usual(args)))
        };
        let error = scan(&options, &Progress::default(), &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        assert_eq!(std::fs::read(&rdb).unwrap(), b"mine");
        let options = ScanOptions {
            force: true,
            ..options
        };
        scan(&options, &Progress::default(), &mut |_| {}).unwrap();
        assert!(std::fs::read(&rdb).unwrap().starts_with(b"REDIS0011"));
    }

    #[test]
    fn what_servers_tell_of_themselves() {
        let about =
            About::parse("redis_version:7.2.4\r\nvalkey_version:9.1.0\r\nredis_mode:cluster\r\n");
        assert!(about.valkey && about.cluster && about.keyspace.is_none());
        assert_eq!(about.payload_version(), 80);
        let about = About::parse("# Keyspace\r\ndb0:keys=1,expires=0\r\ndb12:keys=1\r\n");
        assert_eq!(about.keyspace, Some(vec![0, 12]));
        for (version, payload) in [
            ("2.8.24", 6),
            ("3.2.0", 7),
            ("4.0.1", 8),
            ("6.2", 9),
            ("7.0.15", 10),
        ] {
            assert_eq!(
                About::parse(&format!("redis_version:{version}")).payload_version(),
                payload
            );
        }
    }
}
