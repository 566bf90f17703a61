//! What `convert` writes, loaded into a server, is what that server makes of the snapshot itself.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::support::cli::{convert, converted, run};
use crate::support::data::{DataSet, Value, diff};
use crate::support::server::{Nutcracker, Server, available};
use crate::support::{fixture, fixtures, name_of, rdb_version, resp, text};

/// Whether a server's own loader takes this snapshot.
fn loads(server: &str, snapshot: &Path) -> bool {
    let version = rdb_version(snapshot);
    // RDB 12 of a release candidate has types that the release numbered anew, but Redis still reads them.
    match server {
        "redis-8.10" => version <= 15,
        "redis-7.0" => version <= 10,
        "redis-6.2" | "redis-5.0" => version <= 9,
        "valkey-9.1" => version <= 11 || version == 80,
        other => panic!("{other}: which snapshots it loads is not known here"),
    }
}

/// The name of a server as `--target-version` takes it.
fn target(server: &str) -> &str {
    server.strip_prefix("redis-").unwrap_or(server)
}

/// Loads every fixture of the server's age twice, by its own loader and from our commands, and compares.
fn round_trips(server: &str, modes: &[&str]) {
    if !available(server) {
        return;
    }
    let own = Server::start(server);
    let ours = Server::with(server, &["--sanitize-dump-payload", "yes"]);
    let (mut own_client, mut our_client) = (own.client(), ours.client());
    let mut wrong = Vec::new();
    let mut done = 0;
    for snapshot in fixtures().iter().filter(|path| loads(server, path)) {
        own.load(snapshot);
        let exact = DataSet::read(&mut own_client);
        for mode in modes {
            let run = convert(&[
                "--mode",
                mode,
                "--target-version",
                target(server),
                text(snapshot),
            ]);
            ours.flush();
            let piped = our_client.pipe(&run.stdout, None);
            let got = DataSet::read(&mut our_client);
            let mut lines = match *mode {
                "restore" => diff(&exact, &got),
                _ => diff(
                    &exact.clone().without_minus_zero(),
                    &got.without_minus_zero(),
                ),
            };
            if run.code != 0 {
                lines.push(format!("exit {}: {}", run.code, run.stderr));
            }
            if piped.replies != resp::commands(&run.stdout).len() {
                lines.push(format!(
                    "{} replies to {} commands",
                    piped.replies,
                    resp::commands(&run.stdout).len()
                ));
            }
            lines.extend(piped.errors.into_iter().take(3));
            if !lines.is_empty() {
                wrong.push(format!(
                    "{} --mode {mode} into {server}:\n  {}",
                    name_of(snapshot),
                    lines.join("\n  ")
                ));
            }
            done += 1;
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {done} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_fixture_survives_the_way_into_redis_8_10() {
    round_trips("redis-8.10", &["commands", "restore", "auto"]);
}

#[test]
fn every_fixture_survives_the_way_into_valkey_9_1() {
    round_trips("valkey-9.1", &["commands", "restore", "auto"]);
}

#[test]
fn every_fixture_survives_the_way_into_redis_7_0() {
    round_trips("redis-7.0", &["commands", "restore", "auto"]);
}

/// What a server holds, for comparisons with what commands made.
fn held_by(server: &Server) -> DataSet {
    DataSet::read(&mut server.client()).without_minus_zero()
}

/// Converts for a server that is older than the snapshot's and compares with what `reference` makes of it.
fn downgrade(
    snapshot: &str,
    reference: &str,
    to: &str,
    mode: &str,
) -> (DataSet, DataSet, Vec<String>) {
    let (own, ours) = (Server::start(reference), Server::start(to));
    own.load(&fixture(snapshot));
    let bytes = converted(&[
        "--mode",
        mode,
        "--target-version",
        target(to),
        text(&fixture(snapshot)),
    ]);
    let piped = ours.client().pipe(&bytes, None);
    (held_by(&own), held_by(&ours), piped.errors)
}

/// Leaves of a data set what a server of 6.2 can tell of it.
fn as_6_2(data: &mut DataSet) {
    data.functions.clear();
    for record in data.dbs.values_mut().flat_map(|keys| keys.values_mut()) {
        if let Value::Stream(stream) = &mut record.value {
            stream.extras.clear();
            for group in stream.groups.values_mut() {
                group.entries_read = None;
            }
        }
    }
}

#[test]
fn a_snapshot_of_6_2_survives_the_way_into_6_2() {
    for mode in ["commands", "restore"] {
        for snapshot in ["all_types_redis-6.2_v9.rdb", "all_types_redis-5.0_v9.rdb"] {
            let (mut want, got, errors) = downgrade(snapshot, "redis-7.0", "redis-6.2", mode);
            as_6_2(&mut want);
            assert_eq!(errors, Vec::<String>::new(), "{snapshot} --mode {mode}");
            assert_eq!(
                diff(&want, &got),
                Vec::<String>::new(),
                "{snapshot} --mode {mode}"
            );
        }
    }
}

#[test]
fn a_snapshot_of_5_0_survives_the_way_into_5_0() {
    if !available("redis-5.0") {
        return;
    }
    for mode in ["commands", "restore"] {
        let (mut want, got, errors) =
            downgrade("all_types_redis-5.0_v9.rdb", "redis-7.0", "redis-5.0", mode);
        as_6_2(&mut want);
        for record in want.dbs.values_mut().flat_map(|keys| keys.values_mut()) {
            if let Value::Stream(stream) = &mut record.value {
                for group in stream.groups.values_mut() {
                    group.consumers.clear();
                    group
                        .pending
                        .values_mut()
                        .for_each(|entry| entry.delivered_at_ms = None);
                }
            }
        }
        assert_eq!(errors, Vec::<String>::new(), "--mode {mode}");
        assert_eq!(diff(&want, &got), Vec::<String>::new(), "--mode {mode}");
    }
}

#[test]
fn a_snapshot_of_valkey_9_goes_into_redis_8_10_by_commands() {
    if !available("redis-8.10") {
        return;
    }
    let (mut want, mut got, errors) = downgrade(
        "all_types_valkey-9.1_v80.rdb",
        "valkey-9.1",
        "redis-8.10",
        "commands",
    );
    as_6_2(&mut want);
    as_6_2(&mut got);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(diff(&want, &got), Vec::<String>::new());
}

#[test]
fn what_an_older_target_cannot_hold_is_rejected_by_name_and_the_rest_is_written() {
    if !available("redis-8.10") {
        return;
    }
    let snapshot = fixture("all_types_redis-8.10_v15.rdb");
    let dir = tempfile::tempdir().expect("a directory");
    let rejects = dir.path().join("rejects.csv");
    let args = [
        "--target-version",
        "7.0",
        "--on-error",
        "continue",
        "--rejects",
        text(&rejects),
        text(&snapshot),
    ];
    let run = convert(&args);
    assert_eq!(run.code, 1, "{}", run.stderr);

    let mut lines = csv::Reader::from_path(&rejects).expect("the CSV");
    assert_eq!(
        lines.headers().expect("a header"),
        ["db", "key", "type", "command", "error"].as_slice()
    );
    let mut rejected: Vec<String> = lines
        .records()
        .map(|line| line.expect("a line")[1].to_owned())
        .collect();
    rejected.sort();
    rejected.dedup();
    // Released entries belong to nobody; 7.0 knows only entries that somebody holds, and dropping them would lose them.
    let want = [
        "array:cursor",
        "array:sparse",
        "hash:field-ttl",
        "hash:field-ttl-table",
        "stream:nack",
    ];
    assert_eq!(rejected, want);

    let (own, ours) = (Server::start("redis-8.10"), Server::start("redis-7.0"));
    own.load(&snapshot);
    let piped = ours.client().pipe(&run.stdout, None);
    assert_eq!(piped.errors, Vec::<String>::new());
    let (mut want, mut got) = (held_by(&own), held_by(&ours));
    want.retain(|_, key, _| !rejected.iter().any(|name| name.as_bytes() == key));
    for data in [&mut want, &mut got] {
        for record in data.dbs.values_mut().flat_map(|keys| keys.values_mut()) {
            if let Value::Stream(stream) = &mut record.value {
                stream.extras.retain(|name, _| !name.starts_with("idmp"));
            }
        }
    }
    assert_eq!(diff(&want, &got), Vec::<String>::new());
}

#[test]
fn a_stream_for_a_server_without_streams_is_rejected() {
    let snapshot = fixture("streams_groups_redis-5.0.14_v9.rdb");
    let dir = tempfile::tempdir().expect("a directory");
    let rejects = dir.path().join("rejects.csv");
    let run = convert(&[
        "--target-version",
        "4.0",
        "--on-error",
        "continue",
        "--rejects",
        text(&rejects),
        text(&snapshot),
    ]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(resp::keys(&run.stdout).len(), 0);
    let csv = std::fs::read_to_string(&rejects).expect("the CSV");
    assert!(
        csv.lines().count() > 1 && csv.lines().skip(1).all(|line| line.contains(",stream,")),
        "{csv}"
    );

    // Without being told to go on, the first value that cannot be written ends the run.
    assert_eq!(
        convert(&["--target-version", "4.0", text(&snapshot)]).code,
        1
    );
}

#[test]
fn the_number_of_threads_does_not_show_in_the_output() {
    for snapshot in [
        "mixed_redis-7.0_v10.rdb",
        "all_types_redis-8.10_v15.rdb",
        "all_types_valkey-9.1_v80.rdb",
    ] {
        for mode in ["commands", "restore"] {
            let file = fixture(snapshot);
            let args = |threads| {
                [
                    "--mode",
                    mode,
                    "--target-version",
                    "8.10",
                    "--threads",
                    threads,
                    text(&file),
                ]
            };
            // Valkey's field expiries have no RESTORE form that Redis takes, so only the bytes are looked at.
            let one = convert(&args("1")).stdout;
            assert!(!one.is_empty());
            assert!(
                convert(&args("2")).stdout == one,
                "{snapshot} --mode {mode} --threads 2"
            );
            assert!(
                convert(&args("7")).stdout == one,
                "{snapshot} --mode {mode} --threads 7"
            );
        }
    }
}

#[test]
fn batches_keep_to_their_limits_and_to_the_value() {
    let snapshot = fixture("mixed_redis-7.0_v10.rdb");
    let (own, ours) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
    own.load(&snapshot);
    let want = held_by(&own);
    for (flag, value) in [("--batch-elements", "7"), ("--batch-bytes", "1kb")] {
        let bytes = converted(&["--target-version", "7.0", flag, value, text(&snapshot)]);
        for args in resp::commands(&bytes) {
            let per_element = match args[0].as_slice() {
                b"RPUSH" | b"SADD" => 1,
                b"HSET" | b"ZADD" => 2,
                _ => continue,
            };
            if flag == "--batch-elements" {
                assert!(
                    (args.len() - 2) / per_element <= 7,
                    "{} arguments",
                    args.len()
                );
            } else {
                let size: usize = args[2..].iter().map(Vec::len).sum();
                assert!(
                    size <= 1100 || args.len() == 2 + per_element,
                    "{size} bytes in {} arguments",
                    args.len()
                );
            }
        }
        ours.flush();
        assert_eq!(
            ours.client().pipe(&bytes, None).errors,
            Vec::<String>::new()
        );
        assert_eq!(diff(&want, &held_by(&ours)), Vec::<String>::new());
    }
}

/// A packed copy of a fixture.
fn zstd_of(snapshot: &Path, dir: &Path) -> PathBuf {
    let file = dir.join("packed");
    std::fs::write(
        &file,
        zstd::encode_all(&std::fs::read(snapshot).expect("a snapshot")[..], 3).expect("zstd"),
    )
    .expect("a file");
    file
}

#[test]
fn a_packed_input_and_stdin_give_the_same_bytes() {
    let plain = fixture("mixed_redis-7.0_v10.rdb");
    let packed = fixture("mixed_redis-7.0_v10.rdb.gz");
    let dir = tempfile::tempdir().expect("a directory");
    let zstd = zstd_of(&plain, dir.path());
    let want = converted(&[text(&plain)]);
    assert!(converted(&[text(&packed)]) == want, "gzip");
    assert!(converted(&[text(&zstd)]) == want, "zstd");
    for file in [&plain, &packed, &zstd] {
        let bytes = std::fs::read(file).expect("a file");
        let run = run(&["convert", "-"], Some(&bytes));
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stdout == want, "{} on stdin", file.display());
    }

    // A file of several gzip members is one file, as gzip itself has it.
    let bytes = std::fs::read(&plain).expect("a file");
    let mut members = Vec::new();
    for part in bytes.chunks(bytes.len() / 2) {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).expect("gzip");
        members.extend(encoder.finish().expect("gzip"));
    }
    let members = run(&["convert", "-"], Some(&members));
    assert_eq!(members.code, 0, "{}", members.stderr);
    assert!(members.stdout == want, "two gzip members");
}

#[test]
fn several_inputs_are_written_one_after_the_other() {
    let (a, b) = (
        fixture("all_types_redis-7.0_v10.rdb"),
        fixture("mixed_redis-2.2.15_v1.rdb"),
    );
    let both = converted(&["--target-version", "7.0", text(&a), text(&b)]);
    let (own, ours) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
    let mut want = DataSet::default();
    for snapshot in [&a, &b] {
        own.load(snapshot);
        let data = held_by(&own);
        for (db, keys) in data.dbs {
            want.dbs.entry(db).or_default().extend(keys);
        }
        want.functions.extend(data.functions);
    }
    assert_eq!(ours.client().pipe(&both, None).errors, Vec::<String>::new());
    assert_eq!(diff(&want, &held_by(&ours)), Vec::<String>::new());
}

#[test]
fn a_file_loaded_twice_leaves_what_it_left_the_first_time() {
    let snapshot = fixture("all_types_redis-7.0_v10.rdb");
    for mode in ["commands", "restore"] {
        let bytes = converted(&["--mode", mode, "--target-version", "7.0", text(&snapshot)]);
        let ours = Server::start("redis-7.0");
        let mut client = ours.client();
        assert_eq!(client.pipe(&bytes, None).errors, Vec::<String>::new());
        let once = DataSet::read(&mut client);
        let mut again = client.pipe(&bytes, None).errors;
        // A plain FUNCTION LOAD may refuse a library that is there; keys must not be refused or doubled.
        again.retain(|error| !error.contains("Library"));
        assert_eq!(again, Vec::<String>::new(), "--mode {mode}");
        assert_eq!(
            diff(&once, &DataSet::read(&mut client)),
            Vec::<String>::new(),
            "--mode {mode}"
        );
    }
}

#[test]
fn on_exist_decides_what_happens_to_keys_that_are_there() {
    let snapshot = fixture("mixed_redis-7.0_v10.rdb");
    let count = |args: &[&str], name: &[u8]| {
        let bytes = converted(&[args, &[text(&snapshot)]].concat());
        resp::commands(&bytes)
            .iter()
            .filter(|command| command[0] == name)
            .count()
    };
    assert!(
        count(&[], b"DEL") >= 5,
        "a list, a set, a hash, a zset and a stream begin with DEL"
    );
    assert_eq!(count(&["--on-exist", "merge"], b"DEL"), 0);

    let restores = |on_exist| {
        let bytes = converted(&["--mode", "restore", "--on-exist", on_exist, text(&snapshot)]);
        let commands = resp::commands(&bytes);
        let restores: Vec<_> = commands
            .into_iter()
            .filter(|command| command[0] == b"RESTORE")
            .collect();
        let replacing = restores
            .iter()
            .filter(|command| command.iter().any(|arg| arg == b"REPLACE"))
            .count();
        (restores.len(), replacing)
    };
    let (all, replacing) = restores("replace");
    assert!(
        all > 150 && all == replacing,
        "{all} RESTOREs, {replacing} with REPLACE"
    );
    assert_eq!(restores("fail").1, 0);

    // With `fail` the server refuses what is there and keeps it.
    let ours = Server::start("redis-7.0");
    let mut client = ours.client();
    crate::support::client::call!(client, "RPUSH", "giant:hash", "mine");
    let bytes = converted(&["--mode", "restore", "--on-exist", "fail", text(&snapshot)]);
    let errors = client.pipe(&bytes, None).errors;
    assert!(
        errors.len() == 1 && errors[0].starts_with("BUSYKEY"),
        "{errors:?}"
    );
}

#[test]
fn the_proxys_dialect_reaches_two_servers_through_the_proxy() {
    let args = [
        "--dialect",
        "twemproxy",
        "--target-version",
        "7.0",
        "--db",
        "0",
    ];
    for (snapshot, loader) in [
        ("mixed_redis-7.0_v10.rdb", "redis-7.0"),
        ("all_types_redis-7.0_v10.rdb", "redis-7.0"),
        ("all_types_redis-5.0_v9.rdb", "redis-7.0"),
        ("mixed_redis-2.2.15_v1.rdb", "redis-7.0"),
    ] {
        let own = Server::start(loader);
        own.load(&fixture(snapshot));
        let mut want = held_by(&own);
        want.retain(|db, _, _| db == 0);
        // The proxy forwards no FUNCTION; what becomes of libraries is the rejects' matter.
        want.functions.clear();
        for mode in ["commands", "restore", "auto"] {
            let run = convert(
                &[
                    &args[..],
                    &[
                        "--mode",
                        mode,
                        "--on-error",
                        "continue",
                        text(&fixture(snapshot)),
                    ],
                ]
                .concat(),
            );
            assert!(
                run.code == 0 || run.code == 1,
                "{snapshot} --mode {mode}: {}",
                run.stderr
            );
            let commands = resp::commands(&run.stdout);
            for command in &commands {
                const FORWARDED: &[&str] = &[
                    "RESTORE",
                    "SET",
                    "PSETEX",
                    "SETEX",
                    "DEL",
                    "UNLINK",
                    "RPUSH",
                    "SADD",
                    "HSET",
                    "HMSET",
                    "ZADD",
                    "PEXPIREAT",
                ];
                let name = String::from_utf8_lossy(&command[0]).into_owned();
                assert!(
                    FORWARDED.contains(&name.as_str()),
                    "{snapshot} --mode {mode}: {name}"
                );
            }
            let (a, b) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
            let proxy = Nutcracker::over(&[&a, &b]);
            let piped = proxy.client().pipe(&run.stdout, Some(commands.len()));
            assert_eq!(
                piped.errors,
                Vec::<String>::new(),
                "{snapshot} --mode {mode}"
            );
            let mut got = held_by(&a);
            let rest = held_by(&b);
            for (db, keys) in rest.dbs {
                for (key, record) in keys {
                    let twice = got.dbs.entry(db).or_default().insert(key.clone(), record);
                    assert!(twice.is_none(), "{} is in both servers", key.escape_ascii());
                }
            }
            assert_eq!(
                diff(&want, &got),
                Vec::<String>::new(),
                "{snapshot} --mode {mode}"
            );
        }
    }
}

#[test]
fn a_dialect_of_one_database_refuses_others_before_the_first_byte() {
    let snapshot = fixture("all_types_redis-7.0_v10.rdb");
    for dialect in ["cluster", "twemproxy"] {
        let run = convert(&["--dialect", dialect, text(&snapshot)]);
        assert_eq!(
            (run.code, run.stdout.len()),
            (5, 0),
            "--dialect {dialect}: {}",
            run.stderr
        );
        assert!(
            run.stderr.contains("--db") && run.stderr.contains("--db-map"),
            "{}",
            run.stderr
        );
    }
    let bytes = converted(&[
        "--dialect",
        "cluster",
        "--target-version",
        "7.0",
        "--db",
        "0",
        text(&snapshot),
    ]);
    assert!(
        resp::commands(&bytes)
            .iter()
            .all(|command| command[0] != b"SELECT")
    );
    let bytes = converted(&[
        "--dialect",
        "cluster",
        "--db-map",
        "1=0",
        "--db",
        "1",
        text(&snapshot),
    ]);
    assert_eq!(resp::key_names(&bytes), ["only-in-1", "string:text"]);
}
