//! What a destination is, looked at before the first write, so that one that is not fit is found out while nothing
//! has been changed.
//!
//! [`look`] only reads. [`probe_writes`] writes, reads and removes a key of its own and is called by runs that are to
//! write. [`servers`] and [`restarted`] tell at the end whether the servers are still those that were found.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::connection::Connection;
use super::endpoint::{Address, Endpoint};
use super::reply::Reply;
use super::slots::{Slots, redirect};
use super::stats::Stats;
use crate::command::keys::slot;
use crate::command::target::{Dialect, Feature, Target, Version};
use crate::error::{Error, ErrorKind, Result};

/// What the user said of the destination.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The dialect, where it was named. A destination of another kind is an error.
    pub dialect: Option<Dialect>,
    /// That the twemproxy named is only what is expected, as by the classic command line: a destination that proves to
    /// be none is taken as what it is.
    pub prefer_twemproxy: bool,
    /// Host and port where nutcracker gives its statistics.
    pub proxy_stats: Option<(String, u16)>,
    /// Bytes of memory that the input will need about, where that is known.
    pub bytes: Option<u64>,
    /// That nothing will be written: a single server may be a replica then.
    pub only_reads: bool,
}

/// What the destination was found to be.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its kind.
    pub dialect: Dialect,
    /// Of several servers, the version whose commands all of them know; none where no server tells its own.
    pub version: Option<Version>,
    /// The server, the masters of the cluster in the order of [`Slots::nodes`], or the servers found behind the proxy.
    pub servers: Vec<ServerFound>,
    /// Keys on all of them, those included that have expired and are not yet removed.
    pub keys: u64,
    /// Whether every server told its number of keys; else [`Destination::keys`] is too low.
    pub keys_known: bool,
    /// The slot table of a cluster.
    pub slots: Option<Slots>,
    /// The longest key in bytes that the proxy forwards. [`LONGEST_KEY_TRIED`] stands for that many or more.
    pub key_limit: Option<usize>,
    /// Whether scripts may be sent by EVAL.
    pub can_eval: bool,
    /// Whether values of modules may be sent. Not to servers below 6.2 without modules: one that has not the module of
    /// a value would end.
    pub takes_modules: bool,
    /// What a person should know, in sentences.
    pub warnings: Vec<String>,
}

/// A server that holds keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFound {
    /// For messages: `host:port`, or what is known of a server behind a proxy.
    pub name: String,
    /// Changes whenever the server starts anew. Empty where it is not told.
    pub run_id: String,
    /// Seconds since it started.
    pub uptime_secs: u64,
    /// Its version.
    pub version: Option<Version>,
    /// Whether it may be written to.
    pub role: Role,
    /// Whether it still reads its own files.
    pub loading: bool,
    /// Bytes it may use for data; 0 is no limit.
    pub maxmemory: u64,
    /// What it does when they are used up.
    pub maxmemory_policy: String,
    /// Bytes it uses now.
    pub used_memory: u64,
    /// Keys in all its databases.
    pub keys: u64,
    /// Whether it told its number of keys.
    pub keys_known: bool,
    /// Behind a proxy: the name of a key that the proxy sends to this server. No such key was written.
    pub representative: Option<Vec<u8>>,
    /// Its databases that are not empty: number and keys.
    pub databases: Vec<(u64, u64)>,
}

/// Whether a server may be written to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Role {
    /// It is a master.
    Master,
    /// It follows another.
    Replica {
        /// `host:port` of its master, where it is told.
        master: Option<String>,
    },
    /// It does not say.
    #[default]
    Unknown,
}

/// Keys longer than this are not tried on a proxy.
pub const LONGEST_KEY_TRIED: usize = 1 << 20;

/// A key that nutcracker forwards when it runs with its default mbuf size; a longer one it does not.
const USUAL_KEY_LIMIT: usize = crate::command::target::TWEMPROXY_KEY_BYTES;
/// Commands sent at once through a proxy.
const PIPELINE: usize = 50;
/// So many random keys in a row must lead to servers already known, before all of them are taken to be found. Of
/// 30 equal servers one is missed once in 900 times.
const SILENT_KEYS: usize = 200;
/// Random keys tried in all.
const MOST_KEYS: usize = 4_000;
/// How often one key is asked for to see whether it always goes to the same server.
const SAME_KEY: usize = 32;
/// Clocks that differ by less are no concern.
const SKEW: Duration = Duration::from_secs(2);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(100);

/// Asks the server that a key leads to for its run_id.
pub(crate) const RUN_ID_SCRIPT: &[u8] =
    b"return string.match(redis.call('INFO','server'),'run_id:(%x+)')";
const INFO_SCRIPT: &[u8] = b"return redis.call('INFO')";
const TIME_SCRIPT: &[u8] = b"return redis.call('TIME')";

/// Looks at a destination, without writing to it. Waits up to the endpoint's timeout while it loads its data.
///
/// Errors: `Unreachable` and `Login` as for any connection; `Unfit` where the destination is not what the user said, or
/// must not be written to.
pub fn look(endpoint: &Endpoint, wish: &Wish) -> Result<Destination> {
    let kind = kind_of(endpoint)?;
    let found = match kind {
        Kind::Server { cluster: false } => Dialect::Redis,
        Kind::Server { cluster: true } => Dialect::Cluster,
        Kind::Proxy => Dialect::Twemproxy,
    };
    let expected = wish.prefer_twemproxy && wish.dialect == Some(Dialect::Twemproxy);
    if let Some(named) = wish.dialect
        && named != found
        && !expected
    {
        let is = match found {
            Dialect::Redis => "a server of its own, neither a twemproxy nor a node of a cluster",
            Dialect::Cluster => "a node of a cluster",
            Dialect::Twemproxy => "a twemproxy",
        };
        return Err(Error::unfit(format!(
            "{} is {is}; give --dialect {} instead of {}, or leave it out",
            endpoint.address,
            word(found),
            word(named)
        )));
    }
    let mut destination = match found {
        Dialect::Redis => one_server(endpoint, wish.only_reads)?,
        Dialect::Cluster => cluster(endpoint)?,
        Dialect::Twemproxy => proxy(endpoint, wish)?,
    };
    if wish.proxy_stats.is_some() && found != Dialect::Twemproxy {
        destination.warnings.push(format!(
            "{} is no twemproxy, so the statistics of one were not asked for",
            endpoint.address
        ));
    }
    let versions = destination.servers.iter().filter_map(|s| s.version);
    destination.version = versions.reduce(Version::lowest);
    if destination.dialect == Dialect::Twemproxy {
        // MODULE LIST does not go through a proxy, and not into scripts either.
        destination.takes_modules = refuses_modules(destination.version);
    }
    destination.keys = destination.servers.iter().map(|s| s.keys).sum();
    destination.keys_known =
        !destination.servers.is_empty() && destination.servers.iter().all(|s| s.keys_known);
    destination
        .warnings
        .extend(memory(&destination.servers, wish.bytes));
    Ok(destination)
}

/// Writes, reads and removes a key with a random name, on every server that was found. It would be gone after a minute
/// if this run were killed meanwhile.
///
/// Gives the database in which a proxy's servers put it, where scripts can tell.
///
/// Errors: `Unfit` where a server does not take writes, or where a proxy spreads one key over several servers
/// (`distribution: random`).
pub fn probe_writes(endpoint: &Endpoint, destination: &Destination) -> Result<Option<u64>> {
    let mut database = None;
    match (&destination.slots, destination.dialect) {
        (Some(slots), _) => {
            for (index, node) in slots.nodes().iter().enumerate() {
                if slots.holds(index) == 0 {
                    continue;
                }
                // The node holds at least one slot of 16,384, so a name is found by trying.
                let name = std::iter::repeat_with(|| random_key("probe:"))
                    .take(1_000_000)
                    .find(|name| slots.owner(slot(name)) == Some(index));
                if let Some(name) = name {
                    probe(
                        &mut Connection::open(&endpoint.at(&node.host, node.port))?,
                        &name,
                    )?;
                }
            }
        }
        (None, Dialect::Twemproxy) => {
            let mut connection = Connection::open(endpoint)?;
            probe(&mut connection, &random_key("probe:"))?;
            if destination.can_eval {
                database = database_of(&mut connection, &random_key("probe:"))?;
            }
            for server in &destination.servers {
                if let Some(name) = &server.representative {
                    probe(&mut connection, name)?;
                }
            }
        }
        (None, _) => probe(&mut Connection::open(endpoint)?, &random_key("probe:"))?,
    }
    Ok(database)
}

/// Looks again at servers that were found before. Those that do not answer are left out, which [`restarted`] then tells.
///
/// Errors: `Unreachable` and `Login`, where the proxy itself does not answer.
pub fn servers(
    endpoint: &Endpoint,
    dialect: Dialect,
    known: &[ServerFound],
) -> Result<Vec<ServerFound>> {
    let endpoints: Vec<Endpoint> = match dialect {
        Dialect::Twemproxy => {
            let mut connection = Connection::open(endpoint)?;
            let keys = known.iter();
            let keys: Vec<_> = keys.filter_map(|s| s.representative.clone()).collect();
            return behind(&mut connection, &keys);
        }
        // Whoever has its slots by now, a master is asked where it was.
        Dialect::Cluster => {
            let node = |server: &ServerFound| {
                let (host, port) = server.name.rsplit_once(':')?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Some(endpoint.at(host, port.parse().ok()?))
            };
            known.iter().filter_map(node).collect()
        }
        Dialect::Redis => vec![endpoint.clone()],
    };
    let found = endpoints.iter().filter_map(|endpoint| {
        let mut connection = Connection::open(endpoint).ok()?;
        server(&mut connection, &mut Vec::new()).ok()
    });
    Ok(found.collect())
}

/// What became of the servers between two looks, in sentences: those that were started anew, are gone, or are masters
/// no more. What was written to such a server may be lost. Empty: all is as it was.
pub fn restarted(before: &[ServerFound], now: &[ServerFound]) -> Vec<String> {
    let mut changes = Vec::new();
    for old in before.iter().filter(|old| !old.run_id.is_empty()) {
        if let Some(new) = now.iter().find(|new| new.run_id == old.run_id) {
            if let (Role::Master, Role::Replica { master }) = (&old.role, &new.role) {
                let of = master
                    .as_ref()
                    .map_or(String::new(), |m| format!(" of {m}"));
                changes.push(format!("{} has become a replica{of}", old.name));
            }
            continue;
        }
        let in_its_place = now.iter().find(|new| is_in_place_of(new, old));
        changes.push(match in_its_place {
            Some(new) if new.run_id.is_empty() => {
                format!("{} does not tell its run_id any more", old.name)
            }
            Some(new) => format!(
                "{} was started anew {} seconds ago, or another server is in its place: its run_id was {} and is {}",
                old.name, new.uptime_secs, old.run_id, new.run_id
            ),
            None => format!("{} does not answer any more", old.name),
        });
    }
    changes
}

/// Whether a server stands where one was found before: behind the same key of a proxy, or under the same name.
pub fn is_in_place_of(new: &ServerFound, old: &ServerFound) -> bool {
    match &old.representative {
        Some(key) => new.representative.as_ref() == Some(key),
        None => new.name == old.name,
    }
}

impl Destination {
    fn of(dialect: Dialect) -> Destination {
        Destination {
            dialect,
            version: None,
            servers: Vec::new(),
            keys: 0,
            keys_known: false,
            slots: None,
            key_limit: None,
            can_eval: false,
            takes_modules: true,
            warnings: Vec::new(),
        }
    }
}

enum Kind {
    Server { cluster: bool },
    Proxy,
}

/// Tells servers from a twemproxy, each question on a connection of its own: nutcracker closes the connection on a
/// command that it does not forward.
fn kind_of(endpoint: &Endpoint) -> Result<Kind> {
    let info = match ask_once(endpoint, &[b"INFO"])? {
        Some(reply) => reply,
        None => {
            return match ask_once(endpoint, &[b"ECHO", b"redis-migration"])? {
                None => Ok(Kind::Proxy),
                Some(_) => Err(Error::unreachable(
                    endpoint.address.to_string(),
                    "it answers PING and ECHO and closes the connection on INFO, as neither a server nor a twemproxy does",
                )),
            };
        }
    };
    let fields = match &info {
        Reply::Bulk(text) => Info::parse(text),
        Reply::Error(_) => Info::default(),
        other => {
            return Err(Error::unreachable(
                endpoint.address.to_string(),
                format!("it answers INFO with {}", shown(other)),
            ));
        }
    };
    let mut mode = fields
        .get("redis_mode")
        .or(fields.get("server_mode"))
        .map(str::to_owned);
    if mode.is_none() {
        // INFO may be forbidden; HELLO is not. It changes nothing when no protocol is named.
        if let Some(hello) = ask_once(endpoint, &[b"HELLO"])? {
            mode = pair(&hello, "mode");
        }
    }
    match mode.as_deref() {
        Some("sentinel") => Err(Error::unfit(format!(
            "{} is a Sentinel, which holds no data; give the address of the master that it watches (SENTINEL MASTERS lists them)",
            endpoint.address
        ))),
        Some("cluster") => Ok(Kind::Server { cluster: true }),
        _ => Ok(Kind::Server {
            cluster: fields.get("cluster_enabled") == Some("1"),
        }),
    }
}

fn one_server(endpoint: &Endpoint, only_reads: bool) -> Result<Destination> {
    let mut connection = Connection::open(endpoint)?;
    let mut destination = Destination::of(Dialect::Redis);
    let server = ready_server(
        &mut connection,
        endpoint.timeout,
        only_reads,
        &mut destination.warnings,
    )?;
    destination.can_eval = eval_allowed(&mut connection)?;
    destination.takes_modules = takes_modules(&mut connection, &server)?;
    let ahead = ahead_ms(&mut connection, None)?;
    destination.warnings.extend(skew(&[(&server.name, ahead)]));
    destination.servers.push(server);
    Ok(destination)
}

fn cluster(endpoint: &Endpoint) -> Result<Destination> {
    let mut connection = Connection::open(endpoint)?;
    let asked = match &endpoint.address {
        Address::Tcp { host, .. } => host.as_str(),
        Address::Unix(_) => "127.0.0.1",
    };
    let end = Instant::now() + endpoint.timeout;
    let slots = loop {
        let answer = connection.call(&[b"CLUSTER", b"SLOTS"])?;
        let slots = Slots::parse(&answer, asked).map_err(|why| {
            Error::unfit(format!(
                "the slots of the cluster at {} cannot be told: {why}",
                connection.name()
            ))
        })?;
        if !slots.covers_all() {
            return Err(uncovered(connection.name(), &slots));
        }
        // A cluster that has just been started needs a moment until it takes commands.
        match connection.call(&[b"CLUSTER", b"INFO"])? {
            Reply::Bulk(text) if Info::parse(&text).get("cluster_state") == Some("fail") => {
                if Instant::now() >= end {
                    return Err(Error::unfit(format!(
                        "{} says cluster_state:fail although every slot has a node: a master is down, or it sees too few of them",
                        connection.name()
                    )));
                }
                thread::sleep(PAUSE);
            }
            _ => break slots,
        }
    };
    let mut destination = Destination::of(Dialect::Cluster);
    destination.can_eval = true;
    let mut clocks = Vec::new();
    for node in slots.nodes() {
        let mut connection =
            Connection::open(&endpoint.at(&node.host, node.port)).map_err(announced)?;
        let server = ready_server(
            &mut connection,
            endpoint.timeout,
            false,
            &mut destination.warnings,
        )?;
        destination.can_eval &= eval_allowed(&mut connection)?;
        destination.takes_modules &= takes_modules(&mut connection, &server)?;
        clocks.push(ahead_ms(&mut connection, None)?);
        destination.servers.push(server);
    }
    let names = destination.servers.iter().map(|s| s.name.as_str());
    let clocks: Vec<_> = names.zip(clocks).collect();
    destination.warnings.extend(skew(&clocks));
    destination.slots = Some(slots);
    Ok(destination)
}

/// Where a node cannot be reached, it helps to know who gave its address.
fn announced(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Unreachable { server, why } => Error::unreachable(
            server,
            format!("{why}; this is the address that the cluster gives for one of its masters"),
        ),
        _ => error,
    }
}

fn uncovered(name: &str, slots: &Slots) -> Error {
    const SHOWN: usize = 4;
    let ranges = slots.uncovered();
    let count: u32 = ranges
        .iter()
        .map(|(first, last)| u32::from(last - first) + 1)
        .sum();
    let mut list: Vec<String> = ranges.iter().take(SHOWN).map(|r| span(*r)).collect();
    if ranges.len() > SHOWN {
        list.push("…".to_owned());
    }
    Error::unfit(format!(
        "the cluster at {name} is not whole: no node holds {count} of its 16384 slots ({})",
        list.join(", ")
    ))
}

fn span((first, last): (u16, u16)) -> String {
    if first == last {
        return first.to_string();
    }
    format!("{first}-{last}")
}

/// A server that has loaded its data and is a master, or may be none.
fn ready_server(
    connection: &mut Connection,
    timeout: Duration,
    may_be_replica: bool,
    warnings: &mut Vec<String>,
) -> Result<ServerFound> {
    let end = Instant::now() + timeout;
    loop {
        let mut told = Vec::new();
        let server = server(connection, &mut told)?;
        // To wait for a replica would be in vain.
        if !may_be_replica {
            must_be_master(&server)?;
        }
        if server.loading {
            if Instant::now() >= end {
                return Err(Error::unreachable(
                    connection.name(),
                    "it still reads its data from disk (LOADING); try again when it has",
                ));
            }
            thread::sleep(PAUSE);
            continue;
        }
        warnings.extend(told);
        return Ok(server);
    }
}

fn must_be_master(server: &ServerFound) -> Result<()> {
    let Role::Replica { master } = &server.role else {
        return Ok(());
    };
    let give = match master {
        Some(master) => format!("give its master, {master}"),
        None => "give its master".to_owned(),
    };
    Err(Error::unfit(format!(
        "{} is a replica, whose data are those of its master whatever is written to it; {give}",
        server.name
    )))
}

/// A server as it tells about itself. What it does not tell becomes a warning.
fn server(connection: &mut Connection, warnings: &mut Vec<String>) -> Result<ServerFound> {
    let name = connection.name().to_owned();
    let why = match connection.call(&[b"INFO"])? {
        Reply::Bulk(text) => return Ok(ServerFound::of_info(name, &text)),
        Reply::Error(text) => String::from_utf8_lossy(&text).into_owned(),
        other => shown(&other),
    };
    warnings.push(format!(
        "{name} does not answer INFO ({why}): its memory limit is not known, and a restart will not be noticed"
    ));
    let mut server = ServerFound {
        name,
        ..ServerFound::default()
    };
    let hello = connection.call(&[b"HELLO"])?;
    if let Some(version) = pair(&hello, "version") {
        let valkey = pair(&hello, "server").as_deref() == Some("valkey");
        let family = if valkey { "valkey-" } else { "" };
        server.version = format!("{family}{version}").parse().ok();
    }
    server.role = match pair(&hello, "role").as_deref() {
        Some("master") => Role::Master,
        Some("replica" | "slave") => Role::Replica { master: None },
        _ => Role::Unknown,
    };
    match connection.call(&[b"DBSIZE"])? {
        Reply::Int(keys) => {
            server.keys = u64::try_from(keys).unwrap_or(0);
            server.keys_known = true;
        }
        other => {
            if let Reply::Error(text) = &other {
                server.loading = text.starts_with(b"LOADING");
            }
            warnings.push(format!(
                "{} does not answer DBSIZE ({}): whether it holds keys is not known",
                server.name,
                shown(&other)
            ));
        }
    }
    Ok(server)
}

/// Whether a script may be run.
fn eval_allowed(connection: &mut Connection) -> Result<bool> {
    Ok(matches!(
        connection.call(&[b"EVAL", b"return 1", b"0"])?,
        Reply::Int(1)
    ))
}

/// Whether a server may be given values of modules: it has some, or refuses those of others without harm.
fn takes_modules(connection: &mut Connection, server: &ServerFound) -> Result<bool> {
    if refuses_modules(server.version) {
        return Ok(true);
    }
    let modules = connection.call(&[b"MODULE", b"LIST"])?;
    Ok(matches!(modules, Reply::Array(modules) if !modules.is_empty()))
}

fn refuses_modules(version: Option<Version>) -> bool {
    let target = Target {
        version,
        ..Target::default()
    };
    target.has(Feature::ForeignModules)
}

fn proxy(endpoint: &Endpoint, wish: &Wish) -> Result<Destination> {
    let mut destination = Destination::of(Dialect::Twemproxy);
    let before = match &wish.proxy_stats {
        Some((host, port)) => Some(Stats::read(host, *port, endpoint.timeout)?),
        None => None,
    };
    let mut connection = Connection::open(endpoint)?;
    let name = connection.name().to_owned();
    let end = Instant::now() + endpoint.timeout;
    match discover(&mut connection, end)? {
        Discovered::All(keys) => {
            destination.servers = behind(&mut connection, &keys)?;
            if destination.servers.len() < keys.len() {
                return Err(Error::unreachable(
                    &name,
                    "a server behind it answered a moment ago and does not now",
                ));
            }
            destination.can_eval = true;
            let mut clocks = Vec::new();
            for server in &destination.servers {
                must_be_master(server)?;
                let ahead = ahead_ms(&mut connection, server.representative.as_deref())?;
                clocks.push((server.name.as_str(), ahead));
            }
            destination.warnings.extend(skew(&clocks));
        }
        Discovered::NoInfo(why) => {
            destination.can_eval = true;
            destination.warnings.push(format!(
                "servers behind {name} do not allow INFO in scripts ({why}): how many they are, whether they hold keys and whether one restarts is not known"
            ));
        }
        Discovered::NoEval(why) => destination.warnings.push(format!(
            "servers behind {name} do not allow EVAL ({why}): how many they are, whether they hold keys and whether one restarts is not known, and changes that are not safe to repeat cannot be guarded"
        )),
    }
    destination.key_limit = key_limit(endpoint)?;
    if destination.key_limit.is_none() {
        destination.warnings.push(format!(
            "the longest key that {name} forwards could not be measured; with its usual settings it is {USUAL_KEY_LIMIT} bytes"
        ));
    }
    if let (Some((host, port)), Some(before)) = (&wish.proxy_stats, before) {
        let (stats, is_newer) = before.newer(host, *port, endpoint.timeout)?;
        let warnings = &mut destination.warnings;
        warnings.extend(stats.warnings(destination.servers.len()));
        if !is_newer {
            warnings.push(format!(
                "the statistics at {host}:{port} do not count yet what was sent just now, so they may not show everything; started with -i 1000, nutcracker renews them every second instead of every 30"
            ));
        }
    }
    Ok(destination)
}

enum Discovered {
    /// A key for each server.
    All(Vec<Vec<u8>>),
    /// Scripts run, but not INFO in them.
    NoInfo(String),
    /// A server forbids scripts.
    NoEval(String),
}

/// Finds the servers behind a proxy by asking the servers of random keys who they are. Waits until `end` for those that
/// are down or loading.
fn discover(connection: &mut Connection, end: Instant) -> Result<Discovered> {
    // One key has one server, or the proxy is of no use. Many keys then find all of them.
    let one = vec![random_key(""); SAME_KEY];
    let ids = match run_ids(connection, &one, end)? {
        Ok(ids) => ids,
        Err(why) => return refused(connection, why, end),
    };
    if ids.windows(2).any(|pair| pair[0] != pair[1]) {
        return Err(spread(connection.name()));
    }
    let mut known = HashSet::new();
    let mut keys = Vec::new();
    let (mut silent, mut tried) = (0, 0);
    while silent < SILENT_KEYS && tried < MOST_KEYS {
        let random: Vec<_> = (0..PIPELINE).map(|_| random_key("")).collect();
        let ids = match run_ids(connection, &random, end)? {
            Ok(ids) => ids,
            Err(why) => return refused(connection, why, end),
        };
        for (id, key) in ids.into_iter().zip(random) {
            tried += 1;
            silent += 1;
            if known.insert(id) {
                keys.push(key);
                silent = 0;
            }
        }
    }
    Ok(Discovered::All(keys))
}

/// The run_id of the server of each key; or why a server refuses the script.
fn run_ids(
    connection: &mut Connection,
    keys: &[Vec<u8>],
    end: Instant,
) -> Result<std::result::Result<Vec<Vec<u8>>, String>> {
    let replies = match evals(connection, RUN_ID_SCRIPT, keys, end)? {
        Ok(replies) => replies,
        Err(why) => return Ok(Err(why)),
    };
    let ids = replies.into_iter().map(|reply| match reply {
        Reply::Bulk(id) => Ok(id),
        other => Err(shown(&other)),
    });
    Ok(ids.collect())
}

/// Runs a script once for each key. Where a server is down or loading, all of it is repeated until `end`. The inner
/// error is that of a server which does not allow the script.
fn evals(
    connection: &mut Connection,
    script: &[u8],
    keys: &[Vec<u8>],
    end: Instant,
) -> Result<std::result::Result<Vec<Reply>, String>> {
    let commands: Vec<Vec<&[u8]>> = keys
        .iter()
        .map(|key| vec![b"EVAL".as_slice(), script, b"1", key])
        .collect();
    loop {
        let replies = connection.calls(&commands)?;
        let error = replies.iter().find_map(|reply| match reply {
            Reply::Error(text) => Some(text),
            _ => None,
        });
        let Some(error) = error else {
            return Ok(Ok(replies));
        };
        let text = String::from_utf8_lossy(error).into_owned();
        match Behind::of(error) {
            Behind::Refused => return Ok(Err(text)),
            Behind::Login => {
                return Err(Error::plain(ErrorKind::Login {
                    server: connection.name().to_owned(),
                    why: format!(
                        "a server behind it wants a password ({text}), which redis_auth in the proxy's configuration gives"
                    ),
                }));
            }
            Behind::Stale => {
                return Err(Error::unfit(format!(
                    "a server behind {} is a replica ({text}); the proxy must lead to masters",
                    connection.name()
                )));
            }
            Behind::Away if Instant::now() < end => thread::sleep(PAUSE),
            Behind::Away => {
                return Err(Error::unreachable(
                    connection.name(),
                    format!(
                        "a server behind it {} (the proxy says: {text})",
                        if error.ends_with(b"Invalid argument") {
                            "is loading its data, busy or out of memory"
                        } else {
                            "does not answer"
                        }
                    ),
                ));
            }
        }
    }
}

/// What an error means that comes through a proxy.
enum Behind {
    /// The server is down, loading or busy: the proxy then answers in the words of its system. A server's own reply that
    /// begins with LOADING, BUSY or OOM does not come through, the proxy makes "Invalid argument" of it.
    Away,
    /// The server wants a password that the proxy did not give.
    Login,
    /// A replica that answers nothing.
    Stale,
    /// Anything else: the server does not allow the command.
    Refused,
}

impl Behind {
    fn of(error: &[u8]) -> Behind {
        let begins = |words: &[&str]| words.iter().any(|word| error.starts_with(word.as_bytes()));
        if begins(&[
            "ERR Connection ",
            "ERR Invalid argument",
            "ERR Broken pipe",
            "ERR Host is ",
            "ERR No route",
            "ERR Network ",
            "ERR Operation ",
            "ERR max number of clients",
            "LOADING",
            "BUSY",
            "OOM",
        ]) || error == b"ERR unknown"
        {
            Behind::Away
        } else if begins(&["NOAUTH", "WRONGPASS", "ERR invalid password"]) {
            Behind::Login
        } else if begins(&["MASTERDOWN"]) {
            Behind::Stale
        } else {
            Behind::Refused
        }
    }
}

/// What it is that a server refuses: scripts, or only INFO in them.
fn refused(connection: &mut Connection, why: String, end: Instant) -> Result<Discovered> {
    let keys: Vec<_> = (0..PIPELINE).map(|_| random_key("")).collect();
    Ok(match evals(connection, b"return 1", &keys, end)? {
        Ok(_) => Discovered::NoInfo(why),
        Err(why) => Discovered::NoEval(why),
    })
}

/// The servers to which a proxy sends these keys; those that do not answer are left out.
fn behind(connection: &mut Connection, keys: &[Vec<u8>]) -> Result<Vec<ServerFound>> {
    let mut servers = Vec::new();
    for key in keys {
        if let Reply::Bulk(text) = connection.call(&[b"EVAL", INFO_SCRIPT, b"1", key])? {
            let mut server = ServerFound::of_info(String::new(), &text);
            let port = Info::parse(&text).get("tcp_port").unwrap_or("?").to_owned();
            // The proxy keeps its servers' addresses to itself.
            server.name = format!(
                "server {} on port {port} behind {}",
                server.run_id.get(..8).unwrap_or(&server.run_id),
                connection.name()
            );
            server.representative = Some(key.clone());
            servers.push(server);
        }
    }
    Ok(servers)
}

/// The longest key that a proxy forwards: it closes the connection on a longer one. None where it closes on any.
fn key_limit(endpoint: &Endpoint) -> Result<Option<usize>> {
    let mut open: Option<Connection> = None;
    let mut passes = |len: usize| -> Result<bool> {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => Connection::open(endpoint)?,
        };
        let mut key = random_key("");
        key.resize(len, b'k');
        let answered = answer(&mut connection, &[b"DUMP", &key], endpoint.timeout)?.is_some();
        if answered {
            open = Some(connection);
        }
        Ok(answered)
    };
    // The usual case first. `low` passes, `high` does not.
    let (mut low, mut high) = if passes(USUAL_KEY_LIMIT)? {
        let (mut low, mut high) = (USUAL_KEY_LIMIT, USUAL_KEY_LIMIT + 1);
        while passes(high)? {
            if high >= LONGEST_KEY_TRIED {
                return Ok(Some(LONGEST_KEY_TRIED));
            }
            (low, high) = (high, (high * 2).min(LONGEST_KEY_TRIED));
        }
        (low, high)
    } else if passes(1)? {
        (1, USUAL_KEY_LIMIT)
    } else {
        return Ok(None);
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if passes(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(Some(low))
}

/// Writes a key, reads it often, and removes it.
fn probe(connection: &mut Connection, name: &[u8]) -> Result<()> {
    match connection.call(&[b"PSETEX", name, b"60000", b"redis-migration"])? {
        Reply::Status(_) => {}
        // The slot has just moved: so there is a node that takes writes for it.
        Reply::Error(text) if redirect(&text).is_some() => return Ok(()),
        other => {
            return Err(Error::unfit(format!(
                "{} does not take writes: it answers {}",
                connection.name(),
                shown(&other).trim_end_matches('.')
            )));
        }
    }
    let reads = connection.calls(&vec![vec![b"GET".as_slice(), name]; SAME_KEY])?;
    // Where one key is spread over servers, so are the commands that remove it.
    let mut removed = false;
    for _ in 0..8 {
        let replies = connection.calls(&vec![vec![b"DEL".as_slice(), name]; SAME_KEY])?;
        removed |= replies.iter().any(|reply| matches!(reply, Reply::Int(1)));
        if removed {
            break;
        }
    }
    let there = |reply: &&Reply| matches!(reply, Reply::Bulk(value) if value == b"redis-migration");
    let found = reads.iter().filter(there).count();
    if let Some(error) = reads.iter().find(|reply| matches!(reply, Reply::Error(_))) {
        return Err(Error::unfit(format!(
            "{} took a key and does not give it back: it answers {}",
            connection.name(),
            shown(error)
        )));
    }
    if found < SAME_KEY {
        return Err(spread(connection.name()));
    }
    if !removed {
        return Err(Error::unfit(format!(
            "{} does not remove the key {} that was written to try it; it will be gone within a minute",
            connection.name(),
            String::from_utf8_lossy(name)
        )));
    }
    Ok(())
}

/// The database in which a key lands, of the sixteen that servers have by default.
fn database_of(connection: &mut Connection, name: &[u8]) -> Result<Option<u64>> {
    const SCRIPT: &[u8] =
        b"for n=0,15 do local r=redis.pcall('SELECT',n) if r.err then return -1 end \
if redis.call('EXISTS',KEYS[1])==1 then return n end end return -1";
    let replies = connection.calls(&[
        vec![b"PSETEX", name, b"60000", b"redis-migration"],
        vec![b"EVAL", SCRIPT, b"1", name],
        vec![b"DEL", name],
    ])?;
    Ok(match replies.get(1) {
        Some(Reply::Int(n)) => u64::try_from(*n).ok(),
        _ => None,
    })
}

fn spread(name: &str) -> Error {
    Error::unfit(format!(
        "the proxy at {name} sends one key now to this server, now to that (distribution: random); it must be ketama or modula"
    ))
}

impl ServerFound {
    /// A server by its own words.
    fn of_info(name: String, text: &[u8]) -> ServerFound {
        let info = Info::parse(text);
        let number = |field| info.get(field).and_then(|n| n.parse().ok()).unwrap_or(0);
        let version = match info.get("valkey_version") {
            Some(version) => Some(format!("valkey-{version}")),
            None => info.get("redis_version").map(str::to_owned),
        };
        ServerFound {
            name,
            run_id: info.get("run_id").unwrap_or_default().to_owned(),
            uptime_secs: number("uptime_in_seconds"),
            version: version.and_then(|version| version.parse().ok()),
            role: match info.get("role") {
                Some("master") => Role::Master,
                Some("slave" | "replica") => Role::Replica {
                    master: info.get("master_host").zip(info.get("master_port")).map(
                        |(host, port)| match host.contains(':') {
                            true => format!("[{host}]:{port}"),
                            false => format!("{host}:{port}"),
                        },
                    ),
                },
                _ => Role::Unknown,
            },
            loading: info.get("loading") == Some("1"),
            maxmemory: number("maxmemory"),
            maxmemory_policy: info.get("maxmemory_policy").unwrap_or_default().to_owned(),
            used_memory: number("used_memory"),
            keys: info.databases.iter().map(|(_, keys)| keys).sum(),
            keys_known: true,
            representative: None,
            databases: info.databases,
        }
    }
}

/// The answer to INFO.
#[derive(Debug, Default)]
struct Info {
    fields: HashMap<String, String>,
    databases: Vec<(u64, u64)>,
}

impl Info {
    fn parse(text: &[u8]) -> Info {
        let text = String::from_utf8_lossy(text);
        let mut info = Info::default();
        for (name, value) in text
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
        {
            // db0:keys=1,expires=0,avg_ttl=0
            let keys = value
                .strip_prefix("keys=")
                .and_then(|v| v.split(',').next());
            if let Some(db) = name.strip_prefix("db").and_then(|db| db.parse().ok())
                && let Some(keys) = keys.and_then(|keys| keys.parse().ok())
            {
                info.databases.push((db, keys));
            } else {
                info.fields.insert(name.to_owned(), value.to_owned());
            }
        }
        info
    }

    fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }
}

/// What servers do when their memory is full, and whether it will be.
fn memory(servers: &[ServerFound], bytes: Option<u64>) -> Vec<String> {
    let mut warnings = Vec::new();
    for server in servers.iter().filter(|server| server.maxmemory > 0) {
        let (name, policy) = (&server.name, server.maxmemory_policy.as_str());
        let limit = server.maxmemory;
        match policy.split('-').next() {
            Some("allkeys") => warnings.push(format!(
                "{name} removes keys when its {limit} bytes of memory are full (maxmemory-policy {policy}), those that were just loaded too"
            )),
            Some("volatile") => warnings.push(format!(
                "{name} removes keys that have an expiry when its {limit} bytes of memory are full (maxmemory-policy {policy})"
            )),
            _ => {}
        }
        if server.used_memory / 95 >= limit / 100 {
            warnings.push(format!(
                "{name} uses {} of its {limit} bytes of memory (maxmemory)",
                server.used_memory
            ));
        }
    }
    if let Some(bytes) = bytes
        && !servers.is_empty()
        && servers.iter().all(|server| server.maxmemory > 0)
    {
        let free = |server: &ServerFound| server.maxmemory.saturating_sub(server.used_memory);
        let free = servers.iter().map(free).fold(0, u64::saturating_add);
        if free < bytes {
            warnings.push(format!(
                "the destination has {free} bytes of memory left (maxmemory), and the input needs about {bytes}"
            ));
        }
    }
    warnings
}

/// By how much a server's clock is ahead of ours, in milliseconds; none where it does not tell, which is no reason to
/// stop. With a key, the server of that key behind a proxy is asked.
pub(crate) fn ahead_ms(connection: &mut Connection, key: Option<&[u8]>) -> Result<Option<i64>> {
    let before = now_ms();
    let reply = match key {
        Some(key) => connection.call(&[b"EVAL", TIME_SCRIPT, b"1", key])?,
        None => connection.call(&[b"TIME"])?,
    };
    // It read its clock somewhere between the question and the answer.
    let ours = before + (now_ms() - before) / 2;
    Ok(time_of(&reply).map(|theirs| theirs.saturating_sub(ours)))
}

/// Milliseconds since 1970 in an answer to TIME: seconds, microseconds.
pub(crate) fn time_of(reply: &Reply) -> Option<i64> {
    let Reply::Array(parts) = reply else {
        return None;
    };
    let number = |part: &Reply| match part {
        Reply::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
        _ => None,
    };
    let (secs, micros) = (number(parts.first()?)?, number(parts.get(1)?)?);
    secs.checked_mul(1_000)?.checked_add(micros / 1_000)
}

/// A warning about the clock that is off most, if it is off too much: the times at which keys expire are absolute.
fn skew(clocks: &[(&str, Option<i64>)]) -> Option<String> {
    let told = clocks
        .iter()
        .filter_map(|(name, ahead)| Some((name, (*ahead)?)));
    let (name, ahead) = told.max_by_key(|(_, ahead)| ahead.unsigned_abs())?;
    if u128::from(ahead.unsigned_abs()) <= SKEW.as_millis() {
        return None;
    }
    let which = if ahead > 0 { "ahead of" } else { "behind" };
    Some(format!(
        "the clock of {name} is {:.1} seconds {which} the one here: keys expire by the server's clock, at the times that stand in the input",
        ahead.unsigned_abs() as f64 / 1000.0
    ))
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A name that nobody uses. Names that differ only at their end are kept together by some hash functions of twemproxy,
/// so it is random all through.
fn random_key(what: &str) -> Vec<u8> {
    let random = || RandomState::new().build_hasher().finish();
    format!("__redis-migration:{what}{:016x}{:016x}", random(), random()).into_bytes()
}

/// The answer to a command on a connection of its own, none if it is closed instead.
fn ask_once(endpoint: &Endpoint, args: &[&[u8]]) -> Result<Option<Reply>> {
    answer(&mut Connection::open(endpoint)?, args, endpoint.timeout)
}

/// The answer to a command, none if the connection is closed instead. Silence is an error.
fn answer(connection: &mut Connection, args: &[&[u8]], timeout: Duration) -> Result<Option<Reply>> {
    let asked = Instant::now();
    match connection.call(args) {
        Ok(reply) => Ok(Some(reply)),
        Err(_) if asked.elapsed() < timeout => Ok(None),
        Err(error) => Err(error),
    }
}

/// A value of an answer that lists names and values, as HELLO's does.
fn pair(reply: &Reply, name: &str) -> Option<String> {
    let Reply::Array(items) = reply else {
        return None;
    };
    items.chunks_exact(2).find_map(|pair| match pair {
        [Reply::Bulk(found), Reply::Bulk(value)] if found == name.as_bytes() => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    })
}

/// A reply in a sentence.
fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Error(text) | Reply::Status(text) => String::from_utf8_lossy(text).into_owned(),
        Reply::Int(number) => number.to_string(),
        Reply::Nil => "nil".to_owned(),
        _ => "something else".to_owned(),
    }
}

fn word(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Redis => "redis",
        Dialect::Cluster => "cluster",
        Dialect::Twemproxy => "twemproxy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &[u8] =
        b"# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
        run_id:0123456789abcdef\r\nuptime_in_seconds:77\r\n\r\n# Memory\r\nused_memory:1000\r\n\
        maxmemory:5000\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\nloading:0\r\n\
        # Replication\r\nrole:master\r\n# Keyspace\r\n\
        db0:keys=12,expires=1,avg_ttl=0\r\ndb3:keys=30,expires=0,avg_ttl=0,subexpiry=0\r\n";

    #[test]
    fn servers_by_their_own_words() {
        let found = ServerFound::of_info("h:1".to_owned(), INFO);
        assert_eq!(found.version, Some("valkey-9.1.2".parse().unwrap()));
        assert_eq!(
            (&*found.run_id, found.uptime_secs),
            ("0123456789abcdef", 77)
        );
        assert_eq!((found.used_memory, found.maxmemory), (1000, 5000));
        assert_eq!(found.maxmemory_policy, "allkeys-lru");
        assert_eq!((&found.role, found.loading), (&Role::Master, false));
        assert_eq!(
            (found.keys, &*found.databases),
            (42, [(0, 12), (3, 30)].as_slice())
        );

        let text = b"redis_version:5.0.6\r\nloading:1\r\nrole:slave\r\nmaster_host:::1\r\nmaster_port:6379\r\n";
        let found = ServerFound::of_info("h:1".to_owned(), text);
        assert_eq!(found.version, Some("5.0.6".parse().unwrap()));
        let master = Some("[::1]:6379".to_owned());
        assert_eq!(
            (found.role, found.loading),
            (Role::Replica { master }, true)
        );
        // Whatever comes, it is read.
        for text in [
            &b""[..],
            b":",
            b"db:keys=",
            b"db0:keys=x",
            b"\xff:\xff",
            b"maxmemory:-1",
        ] {
            let found = ServerFound::of_info(String::new(), text);
            assert_eq!((found.keys, found.version, found.maxmemory), (0, None, 0));
        }
    }

    #[test]
    fn memory_that_will_not_do() {
        let server = |maxmemory, used_memory, policy: &str| ServerFound {
            name: "h:1".to_owned(),
            maxmemory,
            used_memory,
            maxmemory_policy: policy.to_owned(),
            ..ServerFound::default()
        };
        let told = |servers: &[ServerFound], bytes| memory(servers, bytes).join("; ");
        assert_eq!(told(&[server(0, 500, "allkeys-lru")], Some(9_000)), "");
        assert_eq!(told(&[server(10_000, 500, "noeviction")], Some(9_000)), "");
        assert!(told(&[server(10_000, 500, "allkeys-lfu")], None).contains("allkeys-lfu"));
        assert!(told(&[server(10_000, 500, "volatile-ttl")], None).contains("have an expiry"));
        assert!(
            told(&[server(10_000, 9_600, "noeviction")], None).contains("uses 9600 of its 10000")
        );
        let two = [
            server(10_000, 500, "noeviction"),
            server(10_000, 12_000, "noeviction"),
        ];
        assert!(told(&two, Some(9_501)).contains("has 9500 bytes of memory left"));
        // One without a limit can take anything.
        assert_eq!(
            told(&[server(10_000, 500, ""), server(0, 500, "")], Some(99_000)),
            ""
        );
    }

    #[test]
    fn clocks() {
        assert_eq!(skew(&[]), None);
        assert_eq!(
            skew(&[("a", None), ("b", Some(2_000)), ("c", Some(-2_000))]),
            None
        );
        let warning = skew(&[("a", Some(2_500)), ("b", Some(-3_600_000)), ("c", None)]).unwrap();
        assert!(warning.contains("b is 3600.0 seconds behind"), "{warning}");
        assert!(
            skew(&[("a", Some(2_500))])
                .unwrap()
                .contains("2.5 seconds ahead")
        );
        let bulk = |text: &str| Reply::Bulk(text.as_bytes().to_vec());
        let time = |parts: &[&str]| time_of(&Reply::Array(parts.iter().map(|p| bulk(p)).collect()));
        assert_eq!(time(&["1795575350", "609465"]), Some(1_795_575_350_609));
        for bad in [&["1"][..], &["x", "1"], &["9223372036854775807", "1"], &[]] {
            assert_eq!(time(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn servers_that_are_others_now() {
        let server = |name: &str, run_id: &str, key: Option<&str>| ServerFound {
            name: name.to_owned(),
            run_id: run_id.to_owned(),
            role: Role::Master,
            representative: key.map(|key| key.as_bytes().to_vec()),
            ..ServerFound::default()
        };
        let before = [
            server("a", "1", None),
            server("b", "2", None),
            server("c", "", None),
        ];
        assert_eq!(restarted(&before, &before), [""; 0]);
        let now = [server("b", "3", None), server("a", "1", None)];
        let told = restarted(&before, &now);
        assert!(
            told.len() == 1 && told[0].starts_with("b was started anew"),
            "{told:?}"
        );
        let told = restarted(&before, &now[1..]);
        assert!(
            told.len() == 1 && told[0].starts_with("b does not answer"),
            "{told:?}"
        );
        let master = Some("x:1".to_owned());
        let replica = ServerFound {
            role: Role::Replica { master },
            ..server("a", "1", None)
        };
        assert_eq!(
            restarted(&before[..1], &[replica]),
            ["a has become a replica of x:1"]
        );
        // Behind a proxy the key is what leads to a server.
        let before = [server("x 1", "1", Some("k")), server("x 2", "2", Some("l"))];
        let told = restarted(&before, &[server("x 9", "9", Some("l")), before[0].clone()]);
        assert!(
            told.len() == 1 && told[0].starts_with("x 2 was started anew"),
            "{told:?}"
        );
    }
}
