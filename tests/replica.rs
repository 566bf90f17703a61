//! The replica side against real sources: what is spooled is what the source holds.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redis_migration::ErrorKind;
use redis_migration::replica::receive::{Live, Options, Phase, Progress, Said, run};
use redis_migration::replica::spool::{Names, Opening, Spool};
use redis_migration::server::endpoint::{Address, Endpoint, Secret};

use crate::support::cli::{Running, converted, replayed_at};
use crate::support::client::call;
use crate::support::data::{diff, held_by, loaded};
use crate::support::relay::Relay;
use crate::support::script::{Scope, play};
use crate::support::server::{Server, available};
use crate::support::text;

const SCOPE: Scope = Scope {
    prefixes: &["a:", "b:"],
    dbs: &["0", "3", "11"],
    several_keys: true,
    across: true,
    untyped: true,
};

/// A receiver that runs, and its files.
struct Receiver {
    live: Arc<Live>,
    spool: Spool,
    thread: JoinHandle<redis_migration::Result<()>>,
}

impl Receiver {
    fn start(names: &Names, port: u16, segment_bytes: u64) -> Receiver {
        let endpoint = Endpoint::new(Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        });
        Receiver::start_at(names, endpoint, segment_bytes)
    }

    fn start_at(names: &Names, endpoint: Endpoint, segment_bytes: u64) -> Receiver {
        let source = endpoint.address.to_string();
        let spool = Spool::open(names.clone(), &source, Opening::default()).expect("a spool");
        let live = Arc::new(Live::new());
        let options = Options {
            endpoint,
            spool: spool.clone(),
            retry_for: Duration::from_secs(30),
            segment_bytes,
            tell: Box::new(|said| {
                let (Said::Info(text) | Said::Warning(text)) = said;
                println!("{text}");
            }),
        };
        let of_thread = Arc::clone(&live);
        let thread = std::thread::spawn(move || run(options, &of_thread));
        Receiver {
            live,
            spool,
            thread,
        }
    }

    fn until(&self, what: &str, is: impl Fn(&Progress) -> bool) -> Progress {
        let end = Instant::now() + Duration::from_secs(60);
        let mut progress = self.live.progress();
        while !is(&progress) {
            assert!(
                Instant::now() < end && !progress.ended,
                "{what}: {progress:?}"
            );
            progress = self.live.wait(progress.changes, Duration::from_millis(100));
        }
        progress
    }

    /// Waits until all is there that the source has written.
    fn until_caught_up(&self, source: &Server) -> Progress {
        self.until("the stream", |p| p.phase == Phase::Stream);
        let offset = offset_of(source);
        self.until("all that was written", |p| p.received >= offset)
    }

    fn end(self) -> Progress {
        self.live.stop();
        self.thread.join().expect("no panic").expect("no error");
        let progress = self.live.progress();
        assert_eq!(progress.received, progress.synced);
        progress
    }
}

fn offset_of(source: &Server) -> u64 {
    let info = call!(source.client(), "INFO", "replication").text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("master_repl_offset:"));
    line.expect("an offset").trim().parse().expect("a number")
}

fn names(dir: &tempfile::TempDir) -> Names {
    Names {
        rdb: dir.path().join("dump.rdb"),
        aof: dir.path().join("appendonly.aof"),
    }
}

/// Asserts that the files hold what the source does.
fn assert_same(names: &Names, source: &Server, into: &str) {
    let want = held_by(source);
    assert!(want.len() > 10);
    let commands = converted(&[text(&names.rdb), text(&names.aof)]);
    let got = loaded(&Server::start(into), &commands);
    let lines = diff(&want, &got);
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

fn spooled(name: &str, options: &[&str], write: impl Fn(&Server, u64)) {
    if !available(name) || !available("valkey-9.1") {
        return;
    }
    let source = Server::with(name, options);
    write(&source, 1);
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let receiver = Receiver::start(&names, source.port, 20_000);
    receiver.until("the snapshot", |p| p.snapshot_whole);
    for seed in 2..8 {
        write(&source, seed);
    }
    let mut writer = source.client();
    call!(writer, "SET", "last", "one");
    let begun = Instant::now();
    assert_eq!(call!(writer, "WAIT", "1", "1000").int(), 1);
    println!("WAIT took {:?}", begun.elapsed());
    let progress = receiver.until_caught_up(&source);
    assert_eq!(progress.received, offset_of(&source));
    assert!(progress.segment > 2, "{progress:?}");
    receiver.end();
    // Streams of Redis 8 have settings that no other server knows.
    let into = if name == "redis-8.10" {
        name
    } else {
        "valkey-9.1"
    };
    assert_same(&names, &source, into);
}

/// What servers of every version know.
fn write_plain(source: &Server, seed: u64) {
    let mut client = source.client();
    for db in ["0", "9"] {
        call!(client, "SELECT", db);
        for n in 0..200 {
            let key = format!("{seed}:{n}");
            call!(client, "SET", key, "value");
            call!(client, "PEXPIREAT", key, "4000000000000");
            call!(client, "RPUSH", "list", key);
            call!(client, "MULTI");
            call!(client, "INCR", "counter");
            call!(client, "SADD", format!("set:{}", n % 7), key);
            call!(client, "EXEC");
            call!(client, "HSET", "hash", key, "x".repeat(n));
            call!(
                client,
                "EVAL",
                "redis.call('APPEND', KEYS[1], ARGV[1])",
                "1",
                "text",
                key
            );
        }
    }
}

fn write_all(source: &Server, seed: u64) {
    play(&mut source.client(), seed, SCOPE);
}

const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

#[test]
fn a_source_is_spooled() {
    spooled("redis-7.0", &["--repl-diskless-sync", "no"], write_all);
}

#[test]
fn a_source_without_a_disk_is_spooled() {
    let options = [&["--repl-diskless-sync", "yes"], &AT_ONCE[..]].concat();
    spooled("redis-7.0", &options, write_all);
}

#[test]
fn a_source_that_waits_for_more_replicas_is_spooled() {
    spooled(
        "redis-7.0",
        &["--repl-diskless-sync-delay", "2"],
        write_plain,
    );
}

#[test]
fn new_sources_are_spooled() {
    for name in ["valkey-9.1", "redis-8.10"] {
        spooled(name, &AT_ONCE, write_all);
    }
}

#[test]
fn old_sources_are_spooled() {
    for name in ["redis-6.2", "redis-5.0"] {
        for diskless in ["yes", "no"] {
            let options = [&["--repl-diskless-sync", diskless], &AT_ONCE[..]].concat();
            spooled(name, &options, write_plain);
        }
    }
}

#[test]
fn another_run_goes_on_where_the_files_end() {
    if !available("redis-7.0") || !available("valkey-9.1") {
        return;
    }
    let source = Server::with("redis-7.0", &["--repl-diskless-sync-delay", "0"]);
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    for seed in 1..6 {
        let receiver = Receiver::start(&names, source.port, 50_000);
        play(&mut source.client(), seed, SCOPE);
        receiver.until_caught_up(&source);
        let progress = receiver.end();
        assert_eq!((progress.generation, progress.full_resyncs), (1, 0));
        // What was written half when the run was killed.
        let mut last = progress.segment;
        let spool = names.segment(last);
        let mut bytes = std::fs::read(&spool).expect("a segment");
        bytes.extend(b"*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$3\r\na");
        std::fs::write(&spool, bytes).expect("a segment");
        last += 1;
        std::fs::write(names.segment(last), "#redis-mig").expect("a segment that is not listed");
        play(&mut source.client(), seed + 100, SCOPE);
    }
    let receiver = Receiver::start(&names, source.port, 50_000);
    receiver.until_caught_up(&source);
    receiver.end();
    assert_same(&names, &source, "valkey-9.1");
}

#[test]
fn a_link_that_is_cut_is_found_again() {
    if !available("redis-7.0") || !available("valkey-9.1") {
        return;
    }
    let source = Server::with(
        "redis-7.0",
        &[
            "--repl-diskless-sync-delay",
            "0",
            "--repl-backlog-size",
            "50mb",
        ],
    );
    let relay = Relay::start(source.port);
    play(&mut source.client(), 1, SCOPE);
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let receiver = Receiver::start(&names, relay.port, 50_000);
    receiver.until("the snapshot", |p| p.snapshot_whole);
    for seed in 2..8 {
        play(&mut source.client(), seed, SCOPE);
        if seed % 2 == 0 {
            relay.reset();
        } else {
            relay.cut();
        }
        receiver.until("another connection", |p| {
            p.connected && p.reconnects == seed - 1
        });
    }
    receiver.until_caught_up(&source);
    let progress = receiver.end();
    assert!(progress.reconnects > 2, "{progress:?}");
    assert_eq!((progress.generation, progress.full_resyncs), (1, 0));
    assert_same(&names, &source, "valkey-9.1");
}

#[test]
fn what_cannot_be_gone_on_with_becomes_another_generation() {
    if !available("redis-7.0") || !available("valkey-9.1") {
        return;
    }
    let source = Server::with("redis-7.0", &["--repl-diskless-sync-delay", "0"]);
    play(&mut source.client(), 1, SCOPE);
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let receiver = Receiver::start(&names, source.port, 50_000);
    receiver.until_caught_up(&source);
    // As if it were another server, which happens to hold the same.
    call!(source.client(), "DEBUG", "CHANGE-REPL-ID");
    call!(source.client(), "CLIENT", "KILL", "TYPE", "replica");
    play(&mut source.client(), 2, SCOPE);
    receiver.until("another generation", |p| {
        p.generation == 2 && p.snapshot_whole
    });
    let state = receiver.spool.state();
    assert_eq!(state.previous.len(), 1);
    assert!(receiver.spool.rdb_of_previous(1).expect("it").exists());
    assert!(
        receiver
            .spool
            .segments_of_previous(1)
            .iter()
            .all(|path| path.exists())
    );
    play(&mut source.client(), 3, SCOPE);
    receiver.until_caught_up(&source);
    assert_same(&names, &source, "valkey-9.1");
    receiver.spool.forget_previous(1).expect("it is ours");
    receiver.spool.set_reconciled(2).expect("it");
    let spool = receiver.spool.clone();
    let progress = receiver.end();
    assert_eq!(progress.full_resyncs, 1);
    spool.remove().expect("all is ours");
    drop(spool);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it").count(), 0);
}

/// The delta is a log that grows from file to file, as a server's does when it rewrites it.
#[test]
fn the_delta_is_followed_while_it_grows() {
    if !available("redis-7.0") {
        return;
    }
    let source = Server::with("redis-7.0", &AT_ONCE);
    let destination = Server::start("redis-7.0");
    write_all(&source, 1);
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let receiver = Receiver::start(&names, source.port, 5_000);
    receiver.until("a segment", |p| p.segment > 0);
    replayed_at(destination.port, &[text(&names.rdb)]);
    let follow = ["--follow", "--on-exist", "merge", text(&names.aof)];
    let mut follower = Running::replay_at(destination.port, &follow);
    for seed in 2..8 {
        write_all(&source, seed);
    }
    call!(source.client(), "SET", "the last", "one");
    let progress = receiver.until_caught_up(&source);
    assert!(progress.segment > 20, "{progress:?}");
    let arrived = || call!(destination.client(), "EXISTS", "the last").int() == 1;
    assert!(follower.until(arrived), "{:?}", follower.kill());
    let mut got = held_by(&destination);
    got.retain(|_, key, _| !key.starts_with(b"__redis-migration:"));
    let lines = diff(&held_by(&source), &got);
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    follower.terminate();
    // What was followed may go, the rest stays.
    receiver
        .spool
        .release_before(progress.segment - 3)
        .expect("it is ours");
    assert_eq!(receiver.spool.segments().len(), 4);
    write_all(&source, 9);
    receiver.until_caught_up(&source);
    receiver.end();
}

#[test]
fn a_user_who_may_be_a_replica_and_nothing_else() {
    if !available("redis-7.0") || !available("valkey-9.1") {
        return;
    }
    let source = Server::with("redis-7.0", &AT_ONCE);
    let mut client = source.client();
    call!(
        client,
        "ACL",
        "SETUSER",
        "copier",
        "on",
        ">secret",
        "+psync",
        "+replconf",
        "+ping"
    );
    call!(client, "CONFIG", "SET", "requirepass", "other");
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let mut endpoint = Endpoint::new(Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port: source.port,
    });
    let refused = |endpoint: Endpoint| {
        let receiver = Receiver::start_at(&names, endpoint, 1 << 20);
        let error = receiver
            .thread
            .join()
            .expect("no panic")
            .expect_err("a refusal");
        assert!(matches!(error.kind(), ErrorKind::Login { .. }), "{error}");
    };
    refused(endpoint.clone());
    endpoint.user = Some("copier".to_owned());
    endpoint.password = Some(Secret::new("wrong"));
    refused(endpoint.clone());
    endpoint.password = Some(Secret::new("secret"));
    let receiver = Receiver::start_at(&names, endpoint.clone(), 1 << 20);
    receiver.until("the stream", |p| p.phase == Phase::Stream);
    call!(client, "SET", "k", "v");
    assert_eq!(call!(client, "WAIT", "1", "1000").int(), 1);
    let progress = receiver.end();
    assert_eq!(progress.source_version, None);
    call!(client, "ACL", "SETUSER", "copier", "-psync");
    refused(endpoint);
}

/// A Valkey sends an older form, without the times of fields, to those that do not say their version.
#[test]
fn times_of_fields_arrive() {
    if !available("valkey-9.1") {
        return;
    }
    let source = Server::with("valkey-9.1", &AT_ONCE);
    let write = |when: &str| {
        let mut client = source.client();
        for n in 0..10 {
            let key = format!("{when}:{n}");
            call!(client, "HSET", key, "f", "v", "g", "w");
            call!(
                client,
                "HPEXPIREAT",
                key,
                "4000000000000",
                "FIELDS",
                "1",
                "f"
            );
        }
    };
    write("before");
    let dir = tempfile::tempdir().expect("a directory");
    let names = names(&dir);
    let receiver = Receiver::start(&names, source.port, 1 << 20);
    receiver.until("the stream", |p| p.phase == Phase::Stream);
    write("after");
    receiver.until_caught_up(&source);
    receiver.end();
    assert_same(&names, &source, "valkey-9.1");
}

/// A source that sends its snapshot and everything else a byte at a time.
#[test]
fn a_source_that_drips_is_spooled() {
    if !available("redis-7.0") || !available("valkey-9.1") {
        return;
    }
    for diskless in ["yes", "no"] {
        let options = [&["--repl-diskless-sync", diskless], &AT_ONCE[..]].concat();
        let source = Server::with("redis-7.0", &options);
        for n in 0..20 {
            call!(source.client(), "SET", format!("before:{n}"), "value");
        }
        let relay = Relay::start(source.port);
        relay.drip(true);
        let dir = tempfile::tempdir().expect("a directory");
        let names = names(&dir);
        let receiver = Receiver::start(&names, relay.port, 300);
        receiver.until("the stream", |p| p.phase == Phase::Stream);
        for n in 0..20 {
            call!(source.client(), "SET", format!("after:{n}"), "value");
        }
        receiver.until_caught_up(&source);
        receiver.end();
        assert_same(&names, &source, "valkey-9.1");
    }
}
