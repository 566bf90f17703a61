//! Keys that should not be there.
//!
//! Where the destination holds as many keys as were found of one input, there are none. Else all of its names are gone
//! through by SCAN, through a proxy by a script on each of its servers, and held against the names of the inputs. Of both
//! only what fits a partition is in memory at a time: hashes of the inputs' names, and the destination's names, lie in
//! temporary files until then. A name that is in no input is looked at again before it is told of.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io::{BufReader, BufWriter, ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

use super::reach::{Asks, Reach};
use super::{Difference, Kind, Mode, Options, Take, Verifier};
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::{Filter, Verdict};
use crate::input::Input;
use crate::pipeline::Checksum;
use crate::rdb::keys::{Keys, Met};
use crate::rdb::scan::Task;
use crate::server::connection::Connection;
use crate::server::endpoint::Endpoint;
use crate::server::preflight::{self, ServerFound};
use crate::server::reply::Reply;
use crate::transform::Transform;
use crate::walk::{self, Visitor, walk};

/// Names of one partition: their hashes take 40 MiB.
const PARTITION: u64 = 2_000_000;
const MOST_PARTITIONS: u64 = 256;
/// Names that are looked at again together.
const AT_ONCE: usize = 256;
/// Names that runs write down for themselves.
const OURS: &[u8] = b"__redis-migration:";
const SCAN_SCRIPT: &[u8] = b"return redis.call('SCAN',ARGV[1],'COUNT',1000)";

/// How it was looked for keys that should not be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// It was not, and why.
    Not(String),
    /// The destination holds as many keys as were found of the input.
    Counted,
    /// All names of the destination were gone through.
    Scanned {
        /// Names, those included that were told of twice.
        names: u64,
        /// Keys that should not be there.
        extra: u64,
    },
}

pub(super) fn look(
    v: &Verifier<'_>,
    inputs: &[Input],
    walk_options: &walk::Options,
    present: u64,
    take: &mut Take<'_>,
) -> Result<Looked> {
    let options = &v.options;
    let destination = &options.destination;
    if !options.extra {
        return Ok(Looked::Not("--no-extra".to_owned()));
    }
    if let Mode::Sample { .. } = options.mode {
        return Ok(Looked::Not("a sample knows only a part".to_owned()));
    }
    let servers = preflight::servers(&options.endpoint, destination.dialect, &destination.servers)?;
    if servers.is_empty() || servers.len() < destination.servers.len() {
        return Ok(Looked::Not(
            "not all servers behind the proxy can be asked by scripts".to_owned(),
        ));
    }
    let held: u64 = servers.iter().map(|server| server.keys).sum();
    let transform = &options.transform;
    // Where two names of the inputs can be one at the destination, numbers say nothing.
    let is_plain = inputs.len() == 1 && transform.db_map.is_empty() && !transform.renames();
    let all_told = servers.iter().all(|server| server.keys_known);
    // One that was counted and has gone since would leave room for one that should not be there.
    let all_stay = v.soonest_ms.load(Ordering::Relaxed) > v.clock.now_there_ms();
    if is_plain && options.filter.is_open() && all_told && held == present && all_stay {
        return Ok(Looked::Counted);
    }
    let hasher = RandomState::default();
    let parts = (held.max(present) / PARTITION + 1).min(MOST_PARTITIONS) as usize;
    let mut known = Spool::new(parts)?;
    for input in inputs {
        known.take_names(v, input, walk_options, &hasher)?;
    }
    let mut names = Spool::new(parts)?;
    let scanned = scan_all(v, &servers, &hasher, &mut names)?;
    // What came and went meanwhile is gone by now.
    pause(v, options.reread_after)?;
    let mut reach = Reach::new(options, &v.pace, v.progress);
    let mut extra = 0;
    for n in 0..parts {
        extra += partition(v, &mut reach, known.read(n)?, names.read(n)?, &hasher, take)?;
    }
    Ok(Looked::Scanned {
        names: scanned,
        extra,
    })
}

fn pause(v: &Verifier<'_>, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        v.progress.check_stop()?;
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

fn hash_of(state: &RandomState, db: u64, name: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u64(db);
    hasher.write(name);
    hasher.finish()
}

/// Temporary files, one for each partition.
struct Spool {
    files: Vec<BufWriter<File>>,
}

fn spool_failed(error: std::io::Error) -> Error {
    Error::io("a temporary file", error)
}

impl Spool {
    fn new(parts: usize) -> Result<Spool> {
        let create = |_| tempfile::tempfile().map(BufWriter::new);
        let files = (0..parts).map(create).collect::<std::io::Result<_>>();
        Ok(Spool {
            files: files.map_err(spool_failed)?,
        })
    }

    fn of(&mut self, hash: u64) -> &mut BufWriter<File> {
        // The lower bits choose a place in the set.
        let n = (hash >> 32) as usize % self.files.len();
        &mut self.files[n]
    }

    /// A partition from its beginning, which nothing is added to any more.
    fn read(&mut self, n: usize) -> Result<BufReader<File>> {
        self.files[n].flush().map_err(spool_failed)?;
        let mut file = self.files[n].get_ref().try_clone().map_err(spool_failed)?;
        file.seek(SeekFrom::Start(0)).map_err(spool_failed)?;
        Ok(BufReader::with_capacity(1 << 18, file))
    }

    /// Takes the hashes of an input's names.
    fn take_names(
        &mut self,
        v: &Verifier<'_>,
        input: &Input,
        walk_options: &walk::Options,
        hasher: &RandomState,
    ) -> Result<()> {
        let walk_options = walk::Options {
            checksum: Checksum::Off,
            ..*walk_options
        };
        let walked = walk(
            input,
            &walk_options,
            v.progress,
            |format| {
                Ok(Names {
                    keys: Keys::new(&input.data, format, 8 << 20),
                    filter: &v.options.filter,
                    transform: &v.options.transform,
                    hasher: hasher.clone(),
                    renamed: Vec::new(),
                })
            },
            |hashes: Vec<u64>| {
                for hash in hashes {
                    let file = self.of(hash);
                    file.write_all(&hash.to_le_bytes()).map_err(spool_failed)?;
                }
                Ok(())
            },
        );
        walked.error.map_or(Ok(()), Err)
    }
}

/// Hashes of all names that may be there: what was not chosen is none of our business.
struct Names<'o, 'a> {
    keys: Keys<'a>,
    filter: &'o Filter,
    transform: &'o Transform,
    hasher: RandomState,
    renamed: Vec<u8>,
}

impl Visitor for Names<'_, '_> {
    type Found = Vec<u64>;

    fn task(&mut self, task: &Task) -> Result<Vec<u64>> {
        let mut hashes = Vec::new();
        self.keys.for_each(task, self.filter, |met| {
            if let Met::Key(seen) = met
                && (seen.verdict != Verdict::Expired || self.transform.changes_expiry())
            {
                let db = self.transform.db(seen.db);
                self.transform.rename(seen.name, &mut self.renamed);
                hashes.push(hash_of(&self.hasher, db, &self.renamed));
            }
            Ok(())
        })?;
        Ok(hashes)
    }
}

/// Whether a key of the inputs that is chosen could have this name at the destination.
fn concerns(options: &Options, name: &[u8]) -> bool {
    if name.starts_with(OURS) {
        return false;
    }
    let (filter, transform) = (&options.filter, &options.transform);
    if filter.keys.is_none() && filter.not_keys.is_none() && !transform.renames() {
        return true;
    }
    let Some(rest) = name.strip_prefix(&transform.add_prefix[..]) else {
        return false;
    };
    let chosen = |original: &[u8]| {
        let mut again = Vec::new();
        transform.rename(original, &mut again);
        again == name
            && filter
                .keys
                .as_ref()
                .is_none_or(|set| set.is_match(original))
            && !filter
                .not_keys
                .as_ref()
                .is_some_and(|set| set.is_match(original))
    };
    let mut renamed = transform.rename_prefix.iter().filter_map(|(from, to)| {
        let rest = rest.strip_prefix(&to[..])?;
        Some([&from[..], rest].concat())
    });
    chosen(rest) || renamed.any(|original| chosen(&original))
}

/// Whether keys that are chosen could be in this database of the destination.
fn concerns_db(options: &Options, db: u64) -> bool {
    let (filter, transform) = (&options.filter, &options.transform);
    let leads_here = |from: &u64| transform.db(*from) == db && !filter.not_dbs.contains(from);
    match &filter.dbs {
        Some(dbs) => dbs.iter().any(leads_here),
        None if filter.not_dbs.is_empty() => true,
        None => leads_here(&db) || transform.db_map.iter().any(|(from, _)| leads_here(from)),
    }
}

/// Goes through the names of all servers, and gives their number.
fn scan_all(
    v: &Verifier<'_>,
    servers: &[ServerFound],
    hasher: &RandomState,
    names: &mut Spool,
) -> Result<u64> {
    let options = &v.options;
    let mut scanned = 0;
    let mut one = |endpoint: &Endpoint, db: Option<u64>, script_key: Option<&[u8]>| {
        let mut scan = Scan {
            v,
            endpoint: endpoint.clone(),
            db: db.filter(|_| !options.destination.dialect.single_db()),
            script_key,
            open: None,
        };
        let db = db.unwrap_or(0);
        scan.run(|name| {
            scanned += 1;
            if !concerns(options, name) {
                return Ok(());
            }
            let hash = hash_of(hasher, db, name);
            let file = names.of(hash);
            let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(spool_failed);
            put(&hash.to_le_bytes())?;
            put(&db.to_le_bytes())?;
            put(&(name.len() as u32).to_le_bytes())?;
            put(name)
        })
    };
    match (&options.destination.slots, options.destination.dialect) {
        (Some(slots), _) => {
            for (n, node) in slots.nodes().iter().enumerate() {
                if slots.holds(n) > 0 {
                    one(&options.endpoint.at(&node.host, node.port), None, None)?;
                }
            }
        }
        (None, Dialect::Twemproxy) => {
            for server in servers {
                one(&options.endpoint, None, server.representative.as_deref())?;
            }
        }
        (None, Dialect::Redis | Dialect::Cluster) => {
            for (db, _) in servers.iter().flat_map(|server| &server.databases) {
                if concerns_db(options, *db) {
                    one(&options.endpoint, Some(*db), None)?;
                }
            }
        }
    }
    Ok(scanned)
}

/// The names of one database of one server.
struct Scan<'v> {
    v: &'v Verifier<'v>,
    endpoint: Endpoint,
    db: Option<u64>,
    /// Behind a proxy: a key that leads to the server.
    script_key: Option<&'v [u8]>,
    open: Option<Connection>,
}

impl Scan<'_> {
    fn run(&mut self, mut found: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut cursor = b"0".to_vec();
        let mut heard = Instant::now();
        loop {
            self.v.progress.check_stop()?;
            // A cursor is good on every connection, so that a scan goes on where it was.
            let (next, names) = match self.step(&cursor) {
                Ok(step) => step,
                Err(error) if matches!(error.kind(), ErrorKind::Unreachable { .. }) => {
                    self.open = None;
                    if heard.elapsed() > self.v.options.retry_for {
                        return Err(error);
                    }
                    pause(self.v, Duration::from_millis(200))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            heard = Instant::now();
            self.v.pace.wait(names.len() as u64, 0, self.v.progress)?;
            for name in &names {
                found(name.bytes().unwrap_or_default())?;
            }
            if next == b"0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn step(&mut self, cursor: &[u8]) -> Result<(Vec<u8>, Vec<Reply>)> {
        let connection = match &mut self.open {
            Some(connection) => connection,
            None => {
                let mut connection = Connection::open(&self.endpoint)?;
                if let Some(db) = self.db {
                    let db = db.to_string();
                    connection.call(&[b"SELECT", db.as_bytes()])?;
                }
                connection.set_timeout(self.v.options.answer_within);
                self.open.insert(connection)
            }
        };
        let reply = match self.script_key {
            Some(key) => connection.call(&[b"EVAL", SCAN_SCRIPT, b"1", key, cursor])?,
            None => connection.call(&[b"SCAN", cursor, b"COUNT", b"1000"])?,
        };
        if let Reply::Array(mut parts) = reply {
            if let (Some(Reply::Array(names)), Some(next)) = (parts.pop(), parts.pop()) {
                return Ok((next.bytes().unwrap_or(b"0").to_vec(), names));
            }
            return Err(super::odd_answer(connection.name(), "SCAN", &Reply::Nil));
        }
        match reply.error() {
            Some(words) if words.starts_with(b"LOADING") || words.starts_with(b"BUSY") => {
                let said = String::from_utf8_lossy(words).into_owned();
                Err(Error::unreachable(connection.name(), said))
            }
            _ => Err(super::odd_answer(connection.name(), "SCAN", &reply)),
        }
    }
}

/// Tells of the names of one partition that no input has, and gives their number.
fn partition(
    v: &Verifier<'_>,
    reach: &mut Reach<'_>,
    mut known: BufReader<File>,
    mut names: BufReader<File>,
    hasher: &RandomState,
    take: &mut Take<'_>,
) -> Result<u64> {
    let mut hashes: HashSet<u64, RandomState> = HashSet::with_hasher(hasher.clone());
    let mut eight = [0; 8];
    while read_exact(&mut known, &mut eight)? {
        hashes.insert(u64::from_le_bytes(eight));
    }
    let mut extra = 0;
    let mut some: Vec<(u64, Vec<u8>)> = Vec::new();
    loop {
        let more = read_exact(&mut names, &mut eight)?;
        if more {
            let hash = u64::from_le_bytes(eight);
            read_exact(&mut names, &mut eight)?;
            let db = u64::from_le_bytes(eight);
            let mut four = [0; 4];
            read_exact(&mut names, &mut four)?;
            let mut name = vec![0; u32::from_le_bytes(four) as usize];
            read_exact(&mut names, &mut name)?;
            // A scan may tell of a key twice.
            if hashes.insert(hash) {
                some.push((db, name));
            }
        }
        if some.len() >= AT_ONCE || (!more && !some.is_empty()) {
            extra += confirm(v, reach, &some, take)?;
            some.clear();
        }
        if !more {
            return Ok(extra);
        }
    }
}

/// Whether there was something to read; a piece of it is an error.
fn read_exact(from: &mut BufReader<File>, into: &mut [u8]) -> Result<bool> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == IoKind::UnexpectedEof => Ok(false),
        Err(error) => Err(spool_failed(error)),
    }
}

fn confirm(
    v: &Verifier<'_>,
    reach: &mut Reach<'_>,
    some: &[(u64, Vec<u8>)],
    take: &mut Take<'_>,
) -> Result<u64> {
    let filter = &v.options.filter;
    let mut asks = Asks::default();
    for (db, name) in some {
        asks.push(*db, name, &[b"TYPE", name]);
    }
    let mut extra = 0;
    for ((db, name), reply) in some.iter().zip(reach.ask(&asks)?) {
        let ty = match reply {
            Reply::Status(ty) if ty == b"none" => continue,
            Reply::Status(ty) => String::from_utf8_lossy(&ty).into_owned(),
            other => return Err(super::odd_answer(&reach.name(), "TYPE", &other)),
        };
        let named = |list: &[String]| list.contains(&ty.to_ascii_lowercase());
        if filter.types.as_deref().is_some_and(|list| !named(list)) || named(&filter.not_types) {
            continue;
        }
        extra += 1;
        v.different
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        take(Difference {
            db: *db,
            key: name.clone(),
            kind: Kind::Extra,
            expected: String::new(),
            found: ty,
        })?;
        if v.has_enough() {
            return Err(Error::plain(ErrorKind::Stopped));
        }
    }
    Ok(extra)
}
