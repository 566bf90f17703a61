//! The data set that a log leaves, made without a server, against servers that load the same log.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use redis_migration::aof::set::Set;
use redis_migration::dataset::{self, Clock, Dataset, Options};
use redis_migration::input::OpenOptions;
use redis_migration::pipeline::{Checksum, Progress};
use redis_migration::walk;

use crate::support::client::{Client, Reply, call};
use crate::support::data::{diff, held_by};
use crate::support::resp::{append_command, log};
use crate::support::script::Dice;
use crate::support::server::{Server, available};
use crate::support::{fixture, log_file, log_fixture};

mod words;

/// How the tests make a data set, for a server of this RDB version.
fn options(version: Option<u16>) -> Options {
    Options {
        walk: walk::Options {
            threads: 2,
            checksum: Checksum::Along,
            lenient: false,
            cut_keys: false,
        },
        lenient: false,
        strict: false,
        clock: Clock::Unknown,
        version,
        unpack_limit: 1 << 20,
    }
}

fn dataset(paths: &[&Path], options: &Options) -> redis_migration::Result<Dataset> {
    let open = |path: &&Path| Set::open(path, &OpenOptions::default(), &AtomicBool::new(false));
    let sets = paths
        .iter()
        .map(open)
        .collect::<redis_migration::Result<Vec<Set>>>()?;
    dataset::of(&sets, options, &Progress::default())
}

/// A data set as a file.
pub(crate) fn snapshot_of(
    path: &Path,
    version: Option<u16>,
    clock: Clock,
) -> redis_migration::Result<(tempfile::TempDir, PathBuf)> {
    let options = Options {
        clock,
        ..options(version)
    };
    let made = dataset(&[path], &options)?;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dump.rdb");
    std::fs::write(&file, &made.input.data).expect("a snapshot");
    Ok((dir, file))
}

/// The RDB version in which a server of the tests takes a snapshot.
fn version_for(server: &str) -> Option<u16> {
    match server {
        "redis-7.0" => Some(10),
        "valkey-9.1" => Some(80),
        _ => None,
    }
}

#[test]
fn logs_leave_what_a_server_holds_that_loads_them() {
    for (server, name) in [
        ("redis-7.0", "multi_redis-2.4.18.aof"),
        ("redis-7.0", "preamble_redis-5.0.14.aof"),
        ("redis-7.0", "streams_redis-6.2.16.aof"),
        ("redis-7.0", "timestamps_redis-7.0.15.aof"),
        ("redis-7.0", "scripts_redis-7.0.15.aof"),
        ("redis-7.0", "multipart_redis-7.0.15"),
        ("redis-8.10", "history_redis-8.10.2"),
        ("valkey-9.1", "names_valkey-9.1.2"),
    ] {
        if !available(server) {
            continue;
        }
        let path = log_fixture(name);
        let want = held_by(&Server::on_log(server, &path, &[]));
        assert!(want.len() >= 2, "{name}: {} keys", want.len());
        let (_dir, file) = snapshot_of(&path, version_for(server), Clock::Unknown)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let got = held_by(&Server::on_snapshot(server, &file));
        assert_eq!(diff(&want, &got), Vec::<String>::new(), "{name}");
    }
}

/// Sends commands by chance, some of them in transactions, and gives how many were taken and how many refused.
fn send(
    client: &mut Client,
    dice: &mut Dice,
    ids: &mut words::Ids,
    newer: words::Patterns,
) -> (u64, u64) {
    let mut batch = Vec::new();
    if dice.below(3) == 0 {
        let db = dice.below(words::DBS).to_string();
        batch.push(vec![b"SELECT".to_vec(), db.into_bytes()]);
    }
    let multi = dice.below(4) == 0;
    let frame = |word: &[u8]| vec![word.to_vec()];
    batch.extend(multi.then(|| frame(b"MULTI")));
    batch.extend((0..1 + dice.below(12)).map(|_| words::command(dice, newer, ids)));
    batch.extend(multi.then(|| frame(b"EXEC")));
    let mut bytes = Vec::new();
    for command in &batch {
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        append_command(&mut bytes, &args);
    }
    client.try_send(&bytes).expect("room in the socket");
    let (mut taken, mut refused) = (0, 0);
    for command in &batch {
        match client.read_reply().expect("an answer") {
            Reply::Error(_) => refused += 1,
            Reply::Bulk(Some(id)) if command[0] == b"XADD" => {
                ids.add(String::from_utf8_lossy(&id).into_owned());
                taken += 1;
            }
            _ => taken += 1,
        }
    }
    (taken, refused)
}

/// How often a run is looked at.
const LOOKS: u64 = 3;

/// Has a server log commands by chance, and holds what it has now and then, and at the end what another one has that
/// loads the log, against the data set of the log.
fn by_chance(server: &str, seed: u64, commands: u64, options: &[&str], rewrites: bool) {
    if !available(server) {
        return;
    }
    let live = Server::logging(server, options);
    let mut client = live.client();
    let mut dice = Dice::new(seed);
    let mut ids = words::Ids::default();
    let (mut taken, mut refused) = (0, 0);
    let log = live.log();
    // What differs between servers goes by the version that a base names; one of commands names none.
    let patterns = match options {
        [] => words::newer(server),
        _ => &[],
    };
    for look in 1..=LOOKS {
        while taken + refused < commands * look / LOOKS {
            let (more, less) = send(&mut client, &mut dice, &mut ids, patterns);
            (taken, refused) = (taken + more, refused + less);
        }
        let (_dir, file) = snapshot_of(&log, version_for(server), Clock::Unknown)
            .unwrap_or_else(|error| panic!("{server}, seed {seed}: {error}"));
        let mut got = held_by(&Server::on_snapshot(server, &file));
        let none = Vec::<String>::new();
        let want = held_by(&Server::on_log(server, &log, &[]));
        assert!(want.len() > 60, "{server}: {} keys", want.len());
        assert_eq!(
            diff(&want, &got),
            none,
            "{server}, seed {seed}, look {look}"
        );
        let mut had = held_by(&live);
        for side in [&mut had, &mut got] {
            side.forget_what_no_replica_hears_of();
        }
        assert_eq!(
            diff(&had, &got),
            none,
            "{server}, seed {seed}, look {look}, live"
        );
        if rewrites && look == 2 {
            live.rewrite_log();
        }
    }
    assert!(
        taken > 2 * refused,
        "{server}: {taken} taken, {refused} refused"
    );
}

#[test]
fn commands_by_chance_leave_the_same_in_redis_7_0() {
    by_chance("redis-7.0", 1, 5000, &[], false);
    by_chance(
        "redis-7.0",
        2,
        6000,
        &["--aof-use-rdb-preamble", "no"],
        true,
    );
}

#[test]
fn commands_by_chance_leave_the_same_in_redis_8_10() {
    by_chance("redis-8.10", 3, 5000, &[], false);
    by_chance("redis-8.10", 4, 5000, &[], true);
}

#[test]
fn commands_by_chance_leave_the_same_in_valkey_9_1() {
    by_chance("valkey-9.1", 5, 5000, &[], false);
    by_chance("valkey-9.1", 6, 5000, &[], true);
}

/// A log of these lines, in a directory of its own.
fn lines(script: &[&str]) -> (tempfile::TempDir, PathBuf) {
    log_file(&log(script))
}

/// What the data set of a snapshot and a log is, against a server that loads the one and is sent the other.
fn behind_a_snapshot(server: &str, snapshot: &str, script: &[&str]) -> dataset::Counts {
    let snapshot = fixture(snapshot);
    let live = Server::on_snapshot(server, &snapshot);
    let bytes = log(script);
    live.client().pipe(&bytes, None);
    let (dir, path) = log_file(&bytes);
    let made = dataset(&[&snapshot, &path], &options(version_for(server)));
    let made = made.unwrap_or_else(|error| panic!("{server}: {error}"));
    let file = dir.path().join("dump.rdb");
    std::fs::write(&file, &made.input.data).expect("a snapshot");
    let (mut want, mut got) = (held_by(&live), held_by(&Server::on_snapshot(server, &file)));
    for side in [&mut want, &mut got] {
        side.forget_what_no_replica_hears_of();
    }
    assert_eq!(diff(&want, &got), Vec::<String>::new(), "{server}");
    made.counts
}

/// A log that touches a few keys and moves whole databases about.
const MOVING: &[&str] = &[
    "SET new 1",
    "SWAPDB 0 5",
    "SET other 2",
    "SELECT 5",
    "RENAME new newer",
    "COPY newer copied DB 7",
    "MOVE newer 6",
    "SELECT 0",
    "SWAPDB 5 7",
    "SELECT 9",
    "SET gone 1",
    "FLUSHDB",
    "SET kept 1",
];

#[test]
fn what_a_log_leaves_alone_goes_over_as_it_stands() {
    for (server, snapshot) in [
        ("redis-7.0", "all_types_redis-7.0_v10.rdb"),
        ("redis-7.0", "mixed_redis-7.0_v10.rdb"),
        ("redis-8.10", "all_types_redis-8.10_v15.rdb"),
        ("redis-8.10", "hash_ttl_redis-7.4.1_v12.rdb"),
        ("valkey-9.1", "all_types_valkey-9.1_v80.rdb"),
    ] {
        if !available(server) {
            continue;
        }
        let counts = behind_a_snapshot(server, snapshot, MOVING);
        assert_eq!(counts.held, 4, "{snapshot}: {counts:?}");
        assert!(counts.copied > 2, "{snapshot}: {counts:?}");
    }
}

/// Every key of a snapshot with every type is copied, changed, and put back, so that each goes through memory.
#[test]
fn all_types_go_through_memory() {
    for (server, snapshot) in [
        ("redis-7.0", "all_types_redis-7.0_v10.rdb"),
        ("redis-8.10", "all_types_redis-8.10_v15.rdb"),
        ("valkey-9.1", "all_types_valkey-9.1_v80.rdb"),
    ] {
        if !available(server) {
            continue;
        }
        let names: Vec<String> = held_by(&Server::on_snapshot(server, &fixture(snapshot)))
            .dbs
            .get(&0)
            .map(|keys| keys.keys().cloned().collect::<Vec<_>>())
            .unwrap_or_default()
            .into_iter()
            .filter_map(|name| String::from_utf8(name).ok())
            .filter(|name| !name.is_empty() && !name.contains(' '))
            .collect();
        assert!(names.len() > 15, "{snapshot}: {} names", names.len());
        let script: Vec<String> = names
            .iter()
            .flat_map(|name| {
                [
                    format!("RENAME {name} {name}:2"),
                    format!("COPY {name}:2 {name}:3"),
                    format!("PEXPIREAT {name}:3 4000000000123"),
                ]
            })
            .collect();
        let script: Vec<&str> = script.iter().map(String::as_str).collect();
        let counts = behind_a_snapshot(server, snapshot, &script);
        assert_eq!(counts.held, 2 * names.len() as u64, "{snapshot}");
        assert_eq!(counts.refused, 0, "{snapshot}: {:?}", counts.first_refused);
    }
}

#[test]
fn a_flushed_snapshot_leaves_nothing() {
    let counts = behind_a_snapshot(
        "redis-7.0",
        "mixed_redis-7.0_v10.rdb",
        &["SET before 1", "FLUSHALL", "SET behind 1"],
    );
    assert_eq!((counts.held, counts.copied), (1, 0));
}

#[test]
fn a_later_snapshot_counts_before_an_earlier_one() {
    let (one, other) = (
        fixture("mixed_redis-7.0_v10.rdb"),
        fixture("all_types_redis-7.0_v10.rdb"),
    );
    let (_dir, path) = lines(&["SET behind 1"]);
    let made = dataset(&[&one, &path, &other], &options(Some(10))).expect("a data set");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("dump.rdb");
    std::fs::write(&file, &made.input.data).expect("a snapshot");
    let mut want = held_by(&Server::on_snapshot("redis-7.0", &one));
    let later = held_by(&Server::on_snapshot("redis-7.0", &other));
    for (db, keys) in later.dbs {
        want.dbs.entry(db).or_default().extend(keys);
    }
    want.functions.extend(later.functions);
    let mut got = held_by(&Server::on_snapshot("redis-7.0", &file));
    let behind = got
        .dbs
        .get_mut(&0)
        .and_then(|keys| keys.remove(&b"behind"[..]));
    assert!(behind.is_some());
    assert_eq!(diff(&want, &got), Vec::<String>::new());
}

#[test]
fn what_only_the_server_knew_is_named_with_its_place() {
    for (command, why) in [
        ("EVAL return 1 k", "a script decides what it does"),
        ("FCALL f 1 k", "a script decides what it does"),
        ("SPOP s", "which members it took is not in it"),
        ("XADD x * f v", "its id is the server's clock"),
        ("INCRBYFLOAT k 0.1", "its server computes with 80 bits"),
        ("EXPIRE k 10", "a moment that the log does not tell"),
        ("SET k v EX 10", "a moment that the log does not tell"),
        (
            "JSON.SET k $ 1",
            "no command of Redis or Valkey by that name is known here",
        ),
        (
            "SET k v NEWOPTION",
            "it has an option that is not known here: NEWOPTION",
        ),
        (
            "XREADGROUP GROUP g c STREAMS x >",
            "servers log XCLAIM and XGROUP SETID in its place",
        ),
    ] {
        let (_dir, path) = lines(&["SET k v", "SADD s a b", command, "SET k w"]);
        let error = dataset(&[&path], &options(None))
            .expect_err(command)
            .to_string();
        let name = command.split(' ').next().expect("a name");
        // SET k v: 27 bytes; SADD s a b: 35.
        let start = format!("what {name} did cannot be told at byte 0x3e");
        assert!(
            error.starts_with(&start) && error.contains(why),
            "{command}: {error}"
        );
    }
}

#[test]
fn relative_expiries_count_from_what_the_log_tells_or_the_caller() {
    let expiries = |script: &[&str], clock: Clock| {
        let (dir, path) = lines(script);
        let options = Options {
            clock,
            ..options(Some(10))
        };
        let made = dataset(&[&path], &options).expect("a data set");
        let file = dir.path().join("dump.rdb");
        std::fs::write(&file, &made.input.data).expect("a snapshot");
        let held = held_by(&Server::on_snapshot("redis-7.0", &file));
        let keys = held.dbs.into_values().flatten();
        keys.filter_map(|(_, record)| record.expires_at_ms)
            .collect::<Vec<i64>>()
    };
    let script = ["SET a v EX 10", "SETEX b 20 v", "SET c v", "PEXPIRE c 30"];
    let clock = Clock::At(4_000_000_000_000);
    let want = [4_000_000_010_000, 4_000_000_020_000, 4_000_000_000_030];
    assert_eq!(expiries(&script, clock), want);
    let timed = [
        "#TS:4000000000",
        "SET a v EX 10",
        "#TS:4000000001",
        "EXPIRE a 10",
    ];
    assert_eq!(expiries(&timed, Clock::At(5)), [4_000_000_011_000]);
}

#[test]
fn an_unfinished_end_counts_for_nothing_and_is_told() {
    let whole = log(&["SET a 1", "MULTI", "SET a 2", "INCR a"]);
    for (bytes, strict) in [
        (&whole[..], false),
        (&whole[..whole.len() - 3], false),
        (&whole[..], true),
    ] {
        let (dir, path) = log_file(bytes);
        let options = Options {
            strict,
            ..options(Some(10))
        };
        let made = dataset(&[&path], &options);
        if strict {
            let error = made.expect_err("a torn log").to_string();
            assert!(
                error.contains("the log ends within a transaction without its EXEC"),
                "{error}"
            );
            continue;
        }
        let made = made.expect("a data set");
        assert_eq!(made.torn.expect("a torn end").tail.whole, 27);
        let file = dir.path().join("dump.rdb");
        std::fs::write(&file, &made.input.data).expect("a snapshot");
        let server = Server::on_snapshot("redis-7.0", &file);
        assert_eq!(call!(server.client(), "GET", "a").text(), "1");
    }
}

/// A server that loads a log goes on behind what it refuses.
#[test]
fn what_a_server_refuses_changes_nothing_and_is_counted() {
    let script = [
        "SET a text",
        "RPUSH a 1",
        "INCR a",
        "HSET h f v",
        "HSET h f",
        "LSET nokey 0 v",
        "RENAME nokey a",
        "ZADD z 1 m nan n",
        "SETRANGE a -1 x",
        "XADD x 5-5 f v",
        "XADD x 5-5 f v",
        "XGROUP CREATE x g 0",
        "XGROUP CREATE x g 0",
        "SELECT -1",
        "RESTORE b 0 payload",
        "SADD s m",
    ];
    let (dir, path) = lines(&script);
    let want = held_by(&Server::on_log("redis-7.0", &path, &[]));
    let made = dataset(&[&path], &options(Some(10))).expect("a data set");
    assert_eq!(made.counts.refused, 11);
    assert_eq!(made.counts.first_refused, Some(("RPUSH".to_owned(), 30)));
    let file = dir.path().join("dump.rdb");
    std::fs::write(&file, &made.input.data).expect("a snapshot");
    let got = held_by(&Server::on_snapshot("redis-7.0", &file));
    assert_eq!(diff(&want, &got), Vec::<String>::new());
    assert_eq!(got.len(), 4);
}

#[test]
fn a_snapshot_alone_is_given_back_as_it_is() {
    let path = fixture("mixed_redis-7.0_v10.rdb");
    let made = dataset(&[&path], &options(None)).expect("a data set");
    assert!(made.input.data[..] == std::fs::read(&path).expect("a file")[..]);
}

/// Each by itself on keys of its own, so that nothing that comes later hides it. `K` is a key.
const EACH: &[&str] = &[
    "ZADD K 5 a|ZADD K GT 3 a 1 b",
    "ZADD K 5 a|ZADD K GT 7 a",
    "ZADD K 5 a|ZADD K LT 7 a 1 b",
    "ZADD K 5 a|ZADD K LT 3 a",
    "ZADD K 5 a|ZADD K NX 3 a 1 b",
    "ZADD K 5 a|ZADD K XX 3 a 1 b",
    "ZADD K 5 a|ZADD K INCR 0.1 a",
    "ZADD K 5 a|ZADD K GT INCR -1 a",
    "ZADD K 1 a 2 b 3 c|ZREMRANGEBYRANK K -2 -1",
    "ZADD K 1 a 2 b 3 c|ZREMRANGEBYSCORE K (1 2",
    "ZADD K 0 a 0 b 0 c|ZREMRANGEBYLEX K (a [b",
    "ZADD K 0 a 1 b 0 c 7 a2|ZREMRANGEBYLEX K [a [b",
    "ZADD K 1 a 2 b 3 c|ZPOPMAX K 2",
    "ZADD K 1 a 2 b 3 c|ZRANGESTORE K:2 K 0 1 REV",
    "ZADD K 0.3 a 0.2 b|ZADD K:2 0.2 a|ZADD K:3 0.1 a 1 b 2 c|ZUNIONSTORE K:4 3 K:3 K:2 K WEIGHTS 1 1 1",
    "ZADD K inf a|ZADD K:2 -inf a|ZUNIONSTORE K:3 2 K K:2|ZINTERSTORE K:4 2 K K:2 WEIGHTS 0 1",
    "RPUSH K a b a c a|LREM K -2 a",
    "RPUSH K a b a c a|LREM K 2 a",
    "RPUSH K a b a c a|LREM K 0 a",
    "RPUSH K a b c d e|LTRIM K -3 -2",
    "RPUSH K a b c|LINSERT K AFTER b x|LSET K -1 y",
    "RPUSH K a b c|LMOVE K K:2 RIGHT LEFT|LMOVE K K:2 LEFT LEFT|RPOPLPUSH K K",
    "RPUSH K 10 9 1 2|SORT K STORE K:2|SORT K ALPHA DESC LIMIT 1 2 STORE K:3",
    "RPUSH K 3 1 2|SET w1 30|SET w2 10|SET w3 20|SORT K BY w* GET # GET w* GET h*->f STORE K:2",
    "RPUSH K c a b d e|SORT K BY nosort DESC STORE K:2|SORT K BY nosort DESC LIMIT 1 2 STORE K:3",
    "RPUSH K 3 1 2|SET a1 z|SET a2 x|SET a3 y|SORT K BY a* ALPHA STORE K:2",
    "SADD K a b c|SADD K:2 b c d|SDIFFSTORE K:3 K K:2|SINTERSTORE K:4 K K:2|SUNIONSTORE K:5 K K:2|SMOVE K K:2 a",
    "SET K v PXAT 4000000000123|SET K w KEEPTTL|APPEND K x|SETRANGE K 5 y",
    "SET K v PXAT 4000000000123|PEXPIREAT K 4000000000999 GT|PEXPIREAT K 4000000000500 LT|PEXPIREAT K 4000000000400 NX",
    "SET K v PXAT 4000000000123|RENAME K K:2|COPY K:2 K:3|GETSET K:2 w",
    "SET K 10|INCRBY K -3|DECRBY K 2|SETBIT K 20 1|BITFIELD K SET i8 #1 -3 OVERFLOW SAT INCRBY u4 3 -9",
    "BITFIELD K OVERFLOW SAT SET i8 0 -9223372036854775808|BITFIELD K:2 OVERFLOW SAT SET i63 0 -9000000000000000000",
    "BITFIELD K OVERFLOW SAT SET u4 0 99 INCRBY i5 4 100|BITFIELD K:2 OVERFLOW FAIL SET u2 9 7|BITFIELD K:3 SET u4 2 -1",
    "HSET K f 1 g 2|HINCRBY K f 5|HSETNX K f 9|HDEL K g",
    "XADD K 1-1 a b|XADD K 2-1 a b|XADD K 3-1 a b|XDEL K 3-1|XTRIM K MAXLEN 1|XSETID K 9-9 ENTRIESADDED 50 MAXDELETEDID 4-4",
    "XADD K 1-1 a b|XADD K 2-1 c d|XGROUP CREATE K g 0|XCLAIM K g c 0 1-1 2-1 TIME 1000 RETRYCOUNT 3 FORCE JUSTID LASTID 2-1|XACK K g 1-1|\
     XDEL K 2-1|XGROUP CREATECONSUMER K g d",
    "XADD K 1-1 a b|XGROUP CREATE K g 0|XCLAIM K g c 0 1-1 TIME 1000 RETRYCOUNT 3 FORCE JUSTID|XGROUP DELCONSUMER K g c",
    "PFADD K a b c|PFCOUNT K|PFADD K:2 c d|PFMERGE K:3 K K:2|PFCOUNT K:3|PFADD K:3 e",
];

#[test]
fn each_command_leaves_what_a_server_makes_of_it() {
    let script: Vec<String> = EACH
        .iter()
        .enumerate()
        .flat_map(|(n, case)| {
            let key = format!("case{n}");
            let line = move |line: &str| {
                line.trim()
                    .split(' ')
                    .map(|word| match word.strip_prefix('K') {
                        Some(rest) if rest.is_empty() || rest.starts_with(':') => {
                            format!("{key}{rest}")
                        }
                        _ => word.to_owned(),
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            case.split('|').map(line).collect::<Vec<_>>()
        })
        .collect();
    let (dir, path) = log_file(&log(&script));
    let want = held_by(&Server::on_log("redis-7.0", &path, &[]));
    let made = dataset(&[&path], &options(Some(10))).expect("a data set");
    let file = dir.path().join("dump.rdb");
    std::fs::write(&file, &made.input.data).expect("a snapshot");
    let got = held_by(&Server::on_snapshot("redis-7.0", &file));
    assert_eq!(diff(&want, &got), Vec::<String>::new());
    assert!(want.len() > EACH.len());
}
