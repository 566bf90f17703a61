//! `replay`: files into servers, clusters and proxies, also while these break.
//!
//! Sizes are such that all of it takes minutes; `REDIS_MIGRATION_LONG=1` makes them ten times larger.

mod classic;
mod faults;
mod policy;
mod resume;
mod targets;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::support::cli::{Run, Running};
use crate::support::client::Client;
use crate::support::cluster::Cluster;
use crate::support::data::{DataSet, diff, digest, expiries};
use crate::support::resp::append_command;
use crate::support::server::{Nutcracker, Server};
use crate::support::text;

/// A number of keys or commands: as it stands, or ten times as large where time does not matter.
fn scaled(n: usize) -> usize {
    if std::env::var_os("REDIS_MIGRATION_LONG").is_some_and(|value| value != "0") {
        n * 10
    } else {
        n
    }
}

/// Numbers that look like chance and are the same at every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// Much data in one file, and a server that has loaded the same file.
struct Sample {
    server: Server,
    _dir: Option<tempfile::TempDir>,
    path: PathBuf,
    digest: Option<String>,
}

impl Sample {
    fn path(&self) -> &str {
        text(&self.path)
    }

    /// Fails unless these servers together hold what the file holds, no key twice and none besides.
    fn assert_in(&self, servers: &[&Server], what: &str) {
        self.assert_in_with_drift(servers, what, 0);
    }

    /// As [`Sample::assert_in`], where keys have been moved by MIGRATE: it tells how long a key still has to live, so
    /// that its end comes later by as many milliseconds as it was under way.
    fn assert_in_with_drift(&self, servers: &[&Server], what: &str, drift_ms: i64) {
        let keys = |servers: &[&Server]| -> i64 {
            let size = |server: &&Server| {
                let mut client = server.client();
                crate::support::client::call!(client, "DBSIZE").int()
            };
            servers.iter().map(size).sum()
        };
        let sum = digest(servers);
        if keys(&[&self.server]) == keys(servers) && sum.is_some() && self.digest == sum {
            let (want, got) = (expiries(&[&self.server]), expiries(servers));
            let same = want.len() == got.len()
                && want.iter().all(|(key, at)| {
                    got.get(key)
                        .is_some_and(|other| (0..=drift_ms).contains(&(other - at)))
                });
            assert!(same, "{what}: keys expire at other times");
            return;
        }
        // Now it may take its time.
        let lines = diff(
            &self.data(),
            &DataSet::read_all(servers).without_minus_zero(),
        );
        let first: Vec<&String> = lines.iter().take(8).collect();
        // Not every number of servers has a digest, and each version has its own.
        assert!(
            lines.is_empty(),
            "{what}: {} keys differ: {first:#?}",
            lines.len()
        );
    }

    fn data(&self) -> DataSet {
        DataSet::read(&mut self.server.client()).without_minus_zero()
    }

    /// What the file holds as a snapshot.
    fn saved(&self) -> Sample {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dump.rdb");
        std::fs::copy(self.server.save(), &path).expect("a copy of the snapshot");
        let server = Server::on_snapshot("redis-7.0", &path);
        Sample {
            digest: digest(&[&server]),
            server,
            _dir: Some(dir),
            path,
        }
    }

    /// The same file as a server of this name holds it: each kind has digests of its own.
    fn held_by(&self, name: &str) -> Sample {
        let server = if self.path.extension().is_some_and(|ext| ext == "rdb") {
            Server::on_snapshot(name, &self.path)
        } else {
            Server::on_log(name, &self.path, &[])
        };
        Sample {
            digest: digest(&[&server]),
            server,
            _dir: None,
            path: self.path.clone(),
        }
    }
}

/// A snapshot of some ten thousand small keys of all types and a few large ones, in database 0. Tests that run at the
/// same time share it.
fn snapshot() -> Arc<Sample> {
    static SHARED: Mutex<Weak<Sample>> = Mutex::new(Weak::new());
    let mut shared = SHARED
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(sample) = shared.upgrade() {
        return sample;
    }
    let server = Server::start("redis-7.0");
    let mut file = Vec::new();
    let mut add = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        append_command(&mut file, &words);
    };
    let far = |i: usize| (4_102_444_800_123 + i as i64).to_string();
    for i in 0..scaled(20_000) {
        let (name, at) = (|kind: &str| format!("{kind}:{i}"), far(i));
        let (a, b) = (i.to_string(), format!("value {}", i * 7919));
        match i % 10 {
            0..=3 => add(&["SET", &name("s"), &b]),
            4 => add(&["SET", &name("s"), &a, "PXAT", &at]),
            5 => add(&["RPUSH", &name("l"), &a, &b, "c"]),
            6 => add(&["SADD", &name("u"), &a, &b, "c"]),
            7 => add(&["ZADD", &name("z"), &a, &b, "0.1", "c"]),
            8 => add(&["HSET", &name("h"), "f", &a, "g", &b]),
            _ => {
                add(&["XADD", &name("x"), "5-1", "f", &b]);
                add(&["XGROUP", "CREATE", &name("x"), "g", "0"]);
            }
        }
        if i % 30 == 5 {
            add(&["PEXPIREAT", &name("l"), &at]);
        }
    }
    for i in 0..12_000 {
        let (a, b) = (i.to_string(), format!("element {i}"));
        add(&["RPUSH", "big:list", &b]);
        add(&["SADD", "big:set", &b]);
        add(&["ZADD", "big:zset", &a, &b]);
        add(&["HSET", "big:hash", &a, &b]);
        add(&["XADD", "big:stream", &format!("{}-1", i + 1), "f", &b]);
    }
    add(&["PEXPIREAT", "big:zset", &far(0)]);
    add(&["SET", "big:string", &"0123456789abcdef".repeat(100_000)]);
    let piped = server.client().pipe(&file, None);
    assert_eq!(piped.errors, Vec::<String>::new());
    let path = server.save();
    let digest = digest(&[&server]);
    let sample = Arc::new(Sample {
        server,
        _dir: None,
        path,
        digest,
    });
    *shared = Arc::downgrade(&sample);
    sample
}

/// A log of so many commands none of which may be repeated or left out: counters, lists in order, and strings that
/// grow, spread over a hundred keys each; and the server that has loaded it.
fn log_of_increments(commands: usize) -> Sample {
    let mut bytes = Vec::new();
    for i in 0..commands {
        let (key, value) = (
            |kind: &str| format!("{kind}:{}", i / 5 % 100),
            i.to_string(),
        );
        let words = match i % 5 {
            0 | 1 => vec!["INCR".to_owned(), key("n")],
            2 => vec!["RPUSH".to_owned(), key("l"), value],
            3 => vec!["APPEND".to_owned(), key("a"), format!("{value},")],
            _ => vec!["LPUSH".to_owned(), key("m"), value],
        };
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        append_command(&mut bytes, &words);
    }
    sample_of_log(&bytes)
}

/// A log, and the server that has loaded it.
fn sample_of_log(bytes: &[u8]) -> Sample {
    let (dir, path) = crate::support::log_file(bytes);
    let server = Server::on_log("redis-7.0", &path, &[]);
    let digest = digest(&[&server]);
    Sample {
        server,
        _dir: Some(dir),
        path,
        digest,
    }
}

/// What is behind an address: one server, a cluster, or servers behind a proxy.
pub(crate) enum Target {
    Server(Server),
    Cluster(Cluster),
    Proxy(Nutcracker, Vec<Server>),
}

impl Target {
    pub(crate) fn server(name: &str) -> Target {
        Target::Server(Server::start(name))
    }

    pub(crate) fn cluster() -> Target {
        Target::Cluster(Cluster::start("redis-7.0", 3))
    }

    pub(crate) fn proxy(settings: &[(&str, &str)]) -> Target {
        Target::proxy_over("redis-7.0", settings, &[])
    }

    /// A proxy in front of three servers with these options.
    pub(crate) fn proxy_over(name: &str, settings: &[(&str, &str)], options: &[&str]) -> Target {
        let servers: Vec<Server> = (0..3).map(|_| Server::with(name, options)).collect();
        let all: Vec<&Server> = servers.iter().collect();
        let proxy = Nutcracker::with(&all, settings, &[]);
        Target::Proxy(proxy, servers)
    }

    pub(crate) fn port(&self) -> u16 {
        match self {
            Target::Server(server) => server.port,
            Target::Cluster(cluster) => cluster.ports()[0],
            Target::Proxy(proxy, _) => proxy.port,
        }
    }

    /// All servers that hold data.
    pub(crate) fn servers(&self) -> Vec<&Server> {
        match self {
            Target::Server(server) => vec![server],
            Target::Cluster(cluster) => cluster.masters(),
            Target::Proxy(_, servers) => servers.iter().collect(),
        }
    }

    pub(crate) fn data(&self) -> DataSet {
        DataSet::read_all(&self.servers()).without_minus_zero()
    }

    pub(crate) fn flush(&self) {
        self.servers().into_iter().for_each(Server::flush);
    }

    pub(crate) fn keys(&self) -> i64 {
        keys_in(&self.servers())
    }
}

/// How many keys servers hold, as far as they answer.
fn keys_in(servers: &[&Server]) -> i64 {
    let size = |server: &&Server| {
        let mut client = Client::connect(server.port).ok()?;
        match client.try_call(&[b"INFO", b"keyspace"]) {
            Ok(crate::support::client::Reply::Bulk(Some(info))) => {
                let info = String::from_utf8_lossy(&info).into_owned();
                let keys = info.split("keys=").skip(1).filter_map(|rest| {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse::<i64>().ok()
                });
                Some(keys.sum::<i64>())
            }
            _ => None,
        }
    };
    servers.iter().filter_map(size).sum()
}

/// How many changes servers have seen since they were started, as far as they answer.
pub(crate) fn changes_in(servers: &[&Server]) -> u64 {
    let count = |server: &&Server| {
        let mut client = Client::connect(server.port).ok()?;
        let info = match client.try_call(&[b"INFO", b"persistence"]) {
            Ok(crate::support::client::Reply::Bulk(Some(info))) => info,
            _ => return None,
        };
        let info = String::from_utf8_lossy(&info).into_owned();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
        line?.trim().parse::<u64>().ok()
    };
    servers.iter().filter_map(count).sum()
}

/// Waits until so many changes have arrived of a run that has just been started. False if it ended before.
fn arrive(running: &mut Running, servers: &[&Server], changes: u64) -> bool {
    let before = changes_in(servers);
    running.until(|| changes_in(servers) >= before + changes)
}

/// Breaks something again and again while a program runs, with pauses of up to so many milliseconds, and tells how the
/// program ended and how often something broke. It begins when something has arrived: before, a run may give up.
fn while_running(
    mut running: Running,
    servers: &[&Server],
    times: usize,
    pause_ms: u64,
    mut breaks: impl FnMut(usize),
) -> (Run, usize) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ times as u64);
    let mut done = 0;
    arrive(&mut running, servers, 300);
    while done < times {
        std::thread::sleep(Duration::from_millis(1 + dice.below(pause_ms)));
        if !running.is_running() {
            break;
        }
        breaks(done);
        done += 1;
    }
    (running.end(Duration::from_secs(120)), done)
}

/// A directory for checkpoints, summaries and the like.
fn place() -> (tempfile::TempDir, impl Fn(&str) -> String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    (dir, move |name: &str| text(&path.join(name)).to_owned())
}

/// Whether a message names one of these.
fn names(stderr: &str, any: &[&str]) -> bool {
    let stderr = stderr.to_ascii_lowercase();
    any.iter()
        .any(|word| stderr.contains(&word.to_ascii_lowercase()))
}

/// The base name of a path, for messages.
fn name(path: &Path) -> String {
    crate::support::name_of(path)
}
