//! The data set that a log leaves, made without a server, against servers that load the same log.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use redis_migration::aof::set::Set;
use redis_migration::dataset::{self, Clock, Dataset, Options};
use redis_migration::input::OpenOptions;
use redis_migration::pipeline::{Checksum, Progress};
use redis_migration::walk;

use crate::support::client::{Reply, call};
use crate::support::data::{diff, held_by};
use crate::support::log_fixture;
use crate::support::script::Dice;
use crate::support::server::{Server, available};

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

/// Has a server log commands by chance, and holds what it has at the end against the data set of its log.
fn by_chance(server: &str, seed: u64, commands: usize, options: &[&str], rewrites: bool) {
    if !available(server) {
        return;
    }
    let live = Server::logging(server, options);
    let mut client = live.client();
    let mut dice = Dice::new(seed);
    let mut ids = words::Ids::default();
    let newer = words::newer(server);
    let (mut refused, mut taken, mut inside) = (0, 0, 0);
    for n in 0..commands {
        if rewrites && n == commands / 2 {
            live.rewrite_log();
        }
        if inside == 0 && dice.below(30) == 0 {
            call!(client, "SELECT", dice.below(words::DBS).to_string());
        }
        if inside == 0 && dice.below(25) == 0 {
            call!(client, "MULTI");
            inside = 1 + dice.below(5);
        }
        let command = words::command(&mut dice, newer, &ids);
        let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
        let reply = client.try_call(&args).expect("an answer");
        match &reply {
            Reply::Error(_) => refused += 1,
            Reply::Bulk(Some(id)) if args[0] == b"XADD" => {
                ids.add(String::from_utf8_lossy(id).into_owned());
                taken += 1;
            }
            _ => taken += 1,
        }
        if inside > 0 {
            inside -= 1;
            if inside == 0 {
                client.try_call(&[b"EXEC"]).expect("an answer");
            }
        }
    }
    if inside > 0 {
        client.try_call(&[b"EXEC"]).expect("an answer");
    }
    assert!(
        taken > refused,
        "{server}: {taken} taken, {refused} refused"
    );
    let log = live.log();
    let want = held_by(&Server::on_log(server, &log, &[]));
    assert!(want.len() > 30, "{server}: {} keys", want.len());
    let (_dir, file) = snapshot_of(&log, version_for(server), Clock::Unknown)
        .unwrap_or_else(|error| panic!("{server}, seed {seed}: {error}"));
    if std::env::var("KEEP").is_ok() {
        std::fs::copy(&file, format!("/tmp/p6/hA/{server}-{seed}.rdb")).unwrap();
        let _ = std::fs::remove_dir_all(format!("/tmp/p6/hA/{server}-{seed}.aof"));
        crate::support::server::copy_dir(&log, Path::new(&format!("/tmp/p6/hA/{server}-{seed}.aof")));
    }
    let mut got = held_by(&Server::on_snapshot(server, &file));
    assert_eq!(
        diff(&want, &got),
        Vec::<String>::new(),
        "{server}, seed {seed}"
    );
    let mut had = held_by(&live);
    for side in [&mut had, &mut got] {
        side.forget_what_no_replica_hears_of();
    }
    assert_eq!(
        diff(&had, &got),
        Vec::<String>::new(),
        "{server}, seed {seed}, before"
    );
}

#[test]
fn commands_by_chance_leave_the_same_in_redis_7_0() {
    by_chance("redis-7.0", 1, 6000, &[], false);
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
    by_chance("redis-8.10", 3, 6000, &[], false);
    by_chance("redis-8.10", 4, 6000, &[], true);
}

#[test]
fn commands_by_chance_leave_the_same_in_valkey_9_1() {
    by_chance("valkey-9.1", 5, 6000, &[], false);
    by_chance("valkey-9.1", 6, 6000, &[], true);
}

#[test]
fn zz_more() {
    let from: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    for seed in from..from + 12 {
        let server = ["redis-7.0", "redis-8.10", "valkey-9.1"][seed as usize % 3];
        let r = std::panic::catch_unwind(|| by_chance(server, seed, 10000, &[], seed % 2 == 0));
        println!("{server} {seed} {}", r.is_ok());
    }
}
