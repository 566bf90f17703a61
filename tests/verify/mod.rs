//! `verify`: files against servers, clusters and proxies that hold what they should, and then something else.

mod scenes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::replay::Target;
use crate::support::cli::{Run, Running, replay_at, replayed_at, run};
use crate::support::client::{Reply, call};
use crate::support::server::{Server, available};
use crate::support::{fixture, name_of, now_ms, text};

/// `redis-migration verify ARGS` of what listens on a port of this machine.
fn verify_at(port: u16, args: &[&str]) -> Run {
    let port = port.to_string();
    run(
        &[&["verify"], args, &["-h", "127.0.0.1", "-p", &port]].concat(),
        None,
    )
}

/// Database, key, kind, what was expected and what was found.
type Row = (String, String, String, String, String);

/// The differences that were listed, in order of their text.
fn rows(run: &Run) -> Vec<Row> {
    let mut csv = csv::Reader::from_reader(&run.stdout[..]);
    let header = csv.byte_headers().expect("a header").clone();
    assert_eq!(header, vec!["db", "key", "kind", "expected", "found"]);
    let mut rows: Vec<Row> = csv
        .byte_records()
        .map(|record| {
            let record = record.expect("CSV");
            let text = |i: usize| record[i].escape_ascii().to_string().replace("\\\"", "\"");
            (text(0), text(1), text(2), text(3), text(4))
        })
        .collect();
    rows.sort();
    rows
}

/// Keys that replay could not write, by database and name.
fn rejected(path: &str) -> Vec<(String, String)> {
    let mut csv = csv::Reader::from_path(path).expect("the list of rejects");
    let mut keys: Vec<(String, String)> = csv
        .byte_records()
        .map(|record| record.expect("CSV"))
        .filter(|record| &record[2] != b"function")
        .map(|record| {
            let text = |i: usize| record[i].escape_ascii().to_string().replace("\\\"", "\"");
            (text(0), text(1))
        })
        .collect();
    keys.sort();
    keys
}

/// Loads a file and holds it against what was loaded: nothing differs but what replay could not write.
fn loads_and_compares(target: &Target, file: &Path, only_db_0: bool, how: &[&[&str]]) {
    target.flush();
    let dir = tempfile::tempdir().expect("a directory");
    let rejects = text(&dir.path().join("rejects.csv")).to_owned();
    let dbs: &[&str] = if only_db_0 { &["--db", "0"] } else { &[] };
    let name = name_of(file);
    let load = [
        &[text(file), "-q", "--on-error", "continue", "--rejects"][..],
        &[&rejects],
        dbs,
    ]
    .concat();
    let loaded = replay_at(target.port(), &load);
    assert!(loaded.code <= 1, "{name}: {}", loaded.stderr);
    let gone = rejected(&rejects);
    for flags in how {
        let args = [&[text(file), "--reread-after", "20ms"][..], dbs, flags].concat();
        let run = verify_at(target.port(), &args);
        let found = rows(&run);
        let missing: Vec<(String, String)> = found
            .iter()
            .map(|row| (row.0.clone(), row.1.clone()))
            .collect();
        let all_missing = found.iter().all(|row| row.2 == "missing");
        // What replay cannot write and is not told to be missing is not compared, and counted as such: names that are
        // too long for the proxy, and hashes all of whose fields have expired.
        let refused = missing.iter().all(|key| gone.contains(key));
        let not_compared = gone.len() - missing.len().min(gone.len());
        let counted = format!("+ {not_compared} not compared");
        let says_so = not_compared == 0 || run.stderr.contains(&counted);
        let wrong = !missing.is_empty() || run.stderr.contains("longer than the proxy forwards");
        assert!(
            refused && says_so && all_missing && run.code == i32::from(wrong),
            "{name} {flags:?}: exit {}, {found:#?}\n{}",
            run.code,
            run.stderr
        );
    }
}

const FILES: &[&str] = &[
    "all_types_redis-5.0_v9.rdb",
    "all_types_redis-7.0_v10.rdb",
    "all_types_redis-8.10_v15.rdb",
    "all_types_valkey-9.1_v80.rdb",
    "expired_redis-7.0_v10.rdb",
    "hash_ttl_redis-7.4.1_v12.rdb",
    "lists_compressed_redis-3.2.13_v7.rdb",
    "mixed_redis-2.2.15_v1.rdb",
    "streams_groups_redis-5.0.14_v9.rdb",
    "vectorset_redis-8.10_v15.rdb",
    "zsets_large_redis-2.4.18_v2.rdb",
];

/// Values as a whole, in pieces, and by digests.
const EACH_WAY: &[&[&str]] = &[
    &[],
    &["--big-key", "100"],
    &["--mode", "digest", "--digest-from", "1"],
];

/// Of a corpus every second file, from number `first` on: each file goes into three of the six destinations.
fn what_was_loaded_is_equal(target: &Target, only_db_0: bool, first: usize) {
    for file in FILES {
        loads_and_compares(target, &fixture(file), only_db_0, EACH_WAY);
    }
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        return;
    };
    let mut files = Vec::new();
    for dir in std::fs::read_dir(corpus).expect("the corpus") {
        let dir = dir.expect("an entry").path();
        if dir.is_dir() {
            let entries = std::fs::read_dir(dir).expect("a directory of the corpus");
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
    }
    // So many databases no server has unless it is told to.
    let is_snapshot = |path: &Path| path.extension().is_some_and(|ext| ext == "rdb");
    files.retain(|path| is_snapshot(path) && (only_db_0 || !name_of(path).starts_with("dbs-")));
    files.sort();
    assert!(files.len() > 50, "{} files of the corpus", files.len());
    for (n, file) in files.iter().enumerate().skip(first).step_by(2) {
        // Each in one of the three ways; the files of one server are much like those of another.
        loads_and_compares(target, file, only_db_0, &EACH_WAY[n % 3..=n % 3]);
    }
}

#[test]
fn what_was_loaded_into_redis_7_0_is_equal() {
    what_was_loaded_is_equal(&Target::server("redis-7.0"), false, 0);
}

#[test]
fn what_was_loaded_into_redis_6_2_is_equal() {
    if available("redis-6.2") {
        what_was_loaded_is_equal(&Target::server("redis-6.2"), false, 1);
    }
}

#[test]
fn what_was_loaded_into_redis_8_10_is_equal() {
    if available("redis-8.10") {
        what_was_loaded_is_equal(&Target::server("redis-8.10"), false, 1);
    }
}

#[test]
fn what_was_loaded_into_valkey_9_1_is_equal() {
    if available("valkey-9.1") {
        what_was_loaded_is_equal(&Target::server("valkey-9.1"), false, 0);
    }
}

#[test]
fn what_was_loaded_into_a_cluster_is_equal() {
    what_was_loaded_is_equal(&Target::cluster(), true, 0);
}

#[test]
fn what_was_loaded_through_a_twemproxy_is_equal() {
    if available("nutcracker") {
        what_was_loaded_is_equal(&Target::proxy(&[]), true, 1);
    }
}

/// A server that holds `n` strings, and its snapshot.
fn strings(n: usize) -> Server {
    let server = Server::start("redis-7.0");
    let mut file = Vec::new();
    for i in 0..n {
        let (key, value) = (format!("key:{i}"), format!("value {i}"));
        crate::support::resp::append_command(
            &mut file,
            &[b"SET", key.as_bytes(), value.as_bytes()],
        );
    }
    assert_eq!(
        server.client().pipe(&file, None).errors,
        Vec::<String>::new()
    );
    server
}

#[test]
fn a_second_reading_denies_what_was_wrong_for_a_moment() {
    let server = strings(900);
    let file = server.save();
    let mut client = server.client();
    for i in (0..900).step_by(10) {
        call!(client, "SET", format!("key:{i}"), "wrong");
    }
    call!(client, "DEL", "key:5");
    call!(client, "SET", "key:7", "stays wrong");
    call!(client, "SET", "passes", "x");
    let port = server.port.to_string();
    let args = ["verify", text(&file), "-p", &port, "--reread-after", "2s"];
    let asked = |server: &Server| {
        let stats = call!(server.client(), "INFO", "commandstats").text();
        stats.contains("cmdstat_pexpiretime:calls=900,")
    };
    let mut running = Running::start(&args);
    // All of it was read once, and the run waits.
    assert!(running.until(|| asked(&server)));
    for i in (0..900).step_by(10) {
        call!(client, "SET", format!("key:{i}"), format!("value {i}"));
    }
    call!(client, "SET", "key:5", "value 5");
    // One SCAN gives all names, this one too; a pause later it is gone.
    assert!(running.until(|| {
        let stats = call!(server.client(), "INFO", "commandstats").text();
        stats.contains("cmdstat_scan:")
    }));
    call!(client, "DEL", "passes");
    let run = running.end(Duration::from_secs(30));
    let row = ["0", "key:7", "value", r#""value 7""#, r#""stays wrong""#].map(str::to_owned);
    assert_eq!(rows(&run), [row.into()], "{}", run.stderr);
    assert_eq!(run.code, 1);
    let said = "read again: 92 keys, of which 91 were as they should be then";
    assert!(run.stderr.contains(said), "{}", run.stderr);
}

#[test]
fn what_a_writer_changes_all_the_time_and_puts_right_is_no_difference() {
    let server = strings(3_000);
    let file = server.save();
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut seen_wrong = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ten keys are wrong at any time, others every few milliseconds, and none a second time.
            let mut client = server.client();
            for from in (0..3_000).step_by(10) {
                for i in from..from + 10 {
                    call!(client, "SET", format!("key:{i}"), "wrong");
                }
                std::thread::sleep(Duration::from_millis(5));
                for i in from..from + 10 {
                    call!(client, "SET", format!("key:{i}"), format!("value {i}"));
                }
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let args = [text(&file), "--reread-after", "500ms", "--summary", "json"];
            let run = verify_at(server.port, &args);
            assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
            seen_wrong += json(&run)["keys"]["denied_by_second_reading"]
                .as_u64()
                .expect("a number");
        }
    });
    // Else nothing was shown.
    assert!(seen_wrong > 0);
}

/// The summary of a run with `--summary json`.
fn json(run: &Run) -> serde_json::Value {
    let line = run.stderr.lines().find(|line| line.starts_with('{'));
    serde_json::from_str(line.expect("JSON")).expect("JSON")
}

#[test]
fn equal_values_are_known_by_their_digests_alone() {
    for name in ["redis-7.0", "redis-8.10"] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let mut client = server.client();
        for line in [
            "RPUSH l a b c",
            "SADD u x y z 17",
            "ZADD z 0.1 a -inf b 1e300 c 3 d",
            "HSET h f v g w",
            // Too long to be read, and too mixed to be packed.
            "SET s bT7wq0Zr5KxYc2HnV9uLmE4sPdGj8aRfJi3oWtQk6yXvB1MhNzUeDlC.ASg-FpO_wLb7Kq2TsYj5Xc9Rm",
        ] {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            client.call(&words);
        }
        for i in 0..3_000 {
            call!(client, "HSET", "h2", format!("f{i}"), format!("v{i}"));
        }
        if name == "redis-8.10" {
            call!(
                client,
                "HPEXPIREAT",
                "h2",
                "4102444800123",
                "FIELDS",
                "1",
                "f2999"
            );
        }
        let file = server.save();
        call!(client, "CONFIG", "RESETSTAT");
        let run = verify_at(
            server.port,
            &[text(&file), "--mode", "digest", "--digest-from", "1"],
        );
        assert_eq!(
            (run.code, rows(&run)),
            (0, vec![]),
            "{name}: {}",
            run.stderr
        );
        let stats = call!(client, "INFO", "commandstats").text();
        assert!(stats.contains("cmdstat_eval:"), "{name}: {stats}");
        for whole in ["cmdstat_dump:", "cmdstat_mget:"] {
            assert!(!stats.contains(whole), "{name}: {stats}");
        }
    }
}

#[test]
fn keys_whose_time_passes_meanwhile_are_neither_missing_nor_extra() {
    let server = strings(30);
    let mut client = server.client();
    for i in 0..10 {
        let at = (now_ms() + 1_500).to_string();
        call!(client, "SET", format!("short:{i}"), "x", "PXAT", at);
        call!(client, "HSET", format!("far:{i}"), "f", "v");
        call!(client, "EXPIRE", format!("far:{i}"), "1000");
    }
    let file = server.save();
    // A batch is read at once; the pause before the second reading lets the time pass.
    call!(client, "DEL", "short:0", "far:1");
    let args = [text(&file), "--reread-after", "2s", "--summary", "json"];
    let run = verify_at(server.port, &args);
    let row = ["0", "far:1", "missing", "hash", ""].map(str::to_owned);
    assert_eq!(rows(&run), [row.into()], "{}", run.stderr);
    let json = json(&run);
    assert_eq!(json["keys"]["expired_meanwhile"], 1, "{json}");
    // The others of the same time were equal when they were read; the count of what is there is then no longer theirs.
    assert_eq!(json["extra"]["keys"], 0, "{json}");
    let later = verify_at(server.port, &[text(&file), "--no-extra"]);
    assert!(
        later.stderr.contains("+ 10 expired + 0"),
        "{}",
        later.stderr
    );
}

#[test]
fn fields_whose_time_passes_meanwhile_are_not_missed() {
    if !available("redis-8.10") {
        return;
    }
    let server = Server::start("redis-8.10");
    let mut client = server.client();
    call!(client, "HSET", "h", "f", "v", "g", "w");
    let at = (now_ms() + 1_500).to_string();
    call!(client, "HPEXPIREAT", "h", at, "FIELDS", "1", "f");
    call!(client, "SET", "s", "x");
    let file = server.save();
    // It is gone a little early, so that it is missed at the first reading and not at the second one.
    call!(client, "HDEL", "h", "f");
    // A record of another run is no key that should not be there.
    call!(client, "SET", "__redis-migration:run", "17");
    let args = [text(&file), "--reread-after", "2s", "--summary", "json"];
    let run = verify_at(server.port, &args);
    assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
    let json = json(&run);
    assert_eq!(json["keys"]["denied_by_second_reading"], 1, "{json}");
    assert_eq!(json["extra"]["how"]["looked"], "scanned", "{json}");
}

#[test]
fn a_sample_says_how_many_of_how_many_and_finds_what_is_in_it() {
    let server = strings(5_000);
    let file = server.save();
    let mut client = server.client();
    for i in 0..5_000 {
        call!(client, "SET", format!("key:{i}"), "x");
    }
    let args = |n, seed| {
        [
            text(&file),
            "--mode",
            "sample",
            "--sample",
            n,
            "--seed",
            seed,
            "--reread-after",
            "0s",
        ]
    };
    let keys = |run: &Run| rows(run).into_iter().map(|row| row.1).collect::<Vec<_>>();
    let one = verify_at(server.port, &args("100", "1"));
    assert_eq!((one.code, keys(&one).len()), (1, 100), "{}", one.stderr);
    assert!(
        one.stderr.contains("not compared: 4,900 not in the sample"),
        "{}",
        one.stderr
    );
    assert_eq!(keys(&one), keys(&verify_at(server.port, &args("100", "1"))));
    assert_ne!(keys(&one), keys(&verify_at(server.port, &args("100", "2"))));
    let all = verify_at(server.port, &args("9000", "1"));
    assert_eq!(keys(&all).len(), 5_000);
}

#[test]
fn several_files_are_one_data_set_and_changes_on_the_way_are_expected() {
    let (one, two) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
    for (server, db) in [(&one, "0"), (&two, "3")] {
        let mut client = server.client();
        call!(client, "SELECT", db);
        for i in 0..50 {
            call!(
                client,
                "SET",
                format!("user:{db}:{i}"),
                "v",
                "PXAT",
                "4102444800000"
            );
            call!(client, "SET", format!("other:{db}:{i}"), "v");
        }
    }
    let (one, two) = (one.save(), two.save());
    let target = Server::start("redis-7.0");
    let changes = [
        "--key",
        "user:*",
        "--db-map",
        "3=0",
        "--rename-prefix",
        "user:=u:",
        "--add-prefix",
        "p/",
        "--ttl-shift",
        "1h",
    ];
    let args = [&[text(&one), text(&two), "-q"][..], &changes].concat();
    replayed_at(target.port, &args);
    let mut client = target.client();
    // What the selection cannot have brought is none of its business.
    call!(client, "SET", "somebody:else", "x");
    let args = [
        &[text(&one), text(&two), "--reread-after", "0s"][..],
        &changes,
    ]
    .concat();
    let run = verify_at(target.port, &args);
    assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
    assert!(run.stderr.contains(": 0, of 101 names"), "{}", run.stderr);
    call!(client, "SET", "p/u:0:77", "x");
    call!(client, "DEL", "p/u:3:7");
    let run = verify_at(target.port, &args);
    let row = |key: &str, kind: &str, want: &str, got: &str| {
        ["0", key, kind, want, got].map(str::to_owned).into()
    };
    assert_eq!(
        rows(&run),
        [
            row("p/u:0:77", "extra", "", "string"),
            row("p/u:3:7", "missing", "string", "")
        ]
    );
    // Without them it is another data set.
    let run = verify_at(
        target.port,
        &[
            text(&one),
            "--no-extra",
            "--most",
            "3",
            "--reread-after",
            "0s",
        ],
    );
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("--most"), "{}", run.stderr);
    assert!(rows(&run).len() >= 3, "{:?}", rows(&run));
}

#[test]
fn a_slot_on_the_move_is_read_on_both_sides() {
    let cluster = crate::support::cluster::Cluster::start("redis-7.0", 2);
    let source = Server::start("redis-7.0");
    let mut client = source.client();
    for i in 0..20 {
        call!(client, "SET", format!("{{tag}}{i}"), i.to_string());
    }
    let file = source.save();
    let port = cluster.ports()[0];
    replayed_at(port, &[text(&file), "-q"]);
    let slot = redis_migration::command::keys::slot(b"tag");
    let from = usize::from(!cluster.slots_of(0).contains(&slot));
    let to = 1 - from;
    cluster.begin_move(from, to, slot);
    let to_port = cluster.ports()[to].to_string();
    let moved = ["MIGRATE", "127.0.0.1", &to_port, "{tag}3", "0", "5000"];
    let moved: Vec<&[u8]> = moved.iter().map(|word| word.as_bytes()).collect();
    cluster.client(from).call(&moved);
    // MGET would be no use here: each key is asked for by itself.
    let run = verify_at(port, &[text(&file), "--reread-after", "0s"]);
    assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
}

#[test]
fn what_cannot_be_compared_ends_with_its_own_exit_code() {
    let server = strings(10);
    let file = server.save();
    let port = server.port;
    let none = verify_at(1, &[text(&file)]);
    assert_eq!(none.code, 4, "{}", none.stderr);
    let log = verify_at(port, &[text(&crate::support::log_fixture("nothing-here"))]);
    assert_eq!(log.code, 74, "{}", log.stderr);
    let mut bytes = std::fs::read(&file).expect("the snapshot");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    let (_dir, broken) = crate::support::log_file(&bytes);
    let run = verify_at(port, &[text(&broken)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    let scriptless = Server::with("redis-7.0", &["--rename-command", "EVAL", ""]);
    let run = verify_at(
        scriptless.port,
        &[text(&file), "--mode", "digest", "--digest-from", "1"],
    );
    assert!(
        run.code == 5 && run.stderr.contains("EVAL"),
        "{}: {}",
        run.code,
        run.stderr
    );
    // Who only reads may read a replica.
    let replica = Server::with(
        "redis-7.0",
        &["--replicaof", "127.0.0.1", &port.to_string()],
    );
    crate::support::cluster::until(Duration::from_secs(20), || {
        verify_at(replica.port, &[text(&file), "--reread-after", "0s"]).code == 0
    });
    let usage = verify_at(port, &[text(&file), "--ttl-tolerance", "-1s"]);
    assert_eq!(usage.code, 2, "{}", usage.stderr);
    // The list goes to a file, one that is there only where that is wished, and what is said of data can hide it.
    let (_place, list) = crate::support::log_file(b"there");
    call!(server.client(), "DEL", "key:3");
    call!(server.client(), "SET", "key:4", "secret");
    let args = [text(&file), "-o", text(&list), "--reread-after", "0s"];
    let refused = verify_at(port, &args);
    let told = std::fs::read_to_string(&list).expect("the list");
    assert_eq!(
        (refused.code, &told[..]),
        (5, "there"),
        "{}",
        refused.stderr
    );
    let run = verify_at(port, &[&args[..], &["--force"]].concat());
    assert_eq!((run.code, run.stdout.len()), (1, 0), "{}", run.stderr);
    let told = std::fs::read_to_string(&list).expect("the list");
    assert!(
        told.contains("0,key:3,missing,string,") && told.contains("secret"),
        "{told}"
    );
    let run = verify_at(port, &[&args[..], &["--force", "--hide-keys"]].concat());
    let told = std::fs::read_to_string(&list).expect("the list");
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(
        told.contains(",missing,string,") && !told.contains("key:") && !told.contains("secret"),
        "{told}"
    );
    // Where the run cannot begin, nothing is left.
    let place = tempfile::tempdir().expect("a directory");
    let list = place.path().join("list.csv");
    let none = verify_at(1, &[text(&file), "-o", text(&list)]);
    assert_eq!(none.code, 4, "{}", none.stderr);
    assert_eq!(std::fs::read_dir(&place).expect("it").count(), 0);
}

#[test]
fn a_server_that_goes_down_and_comes_back_is_read_on() {
    let server = strings(4_000);
    let file = server.save();
    let port = server.port.to_string();
    let args = ["verify", text(&file), "-p", &port, "--rate", "2000"];
    let began = std::time::Instant::now();
    let mut running = Running::start(&args);
    let has_begun = || {
        let stats = call!(server.client(), "INFO", "commandstats").text();
        stats.contains("cmdstat_mget:")
    };
    assert!(running.until(has_begun));
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    server.restart();
    let run = running.end(Duration::from_secs(60));
    assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
    // It kept to its rate: seven batches of 512 stand before the last one.
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_700), "{took:?}");
    // Where it stays away, the run ends.
    server.kill();
    let args = [text(&file), "--retry-for", "1s"];
    assert_eq!(verify_at(server.port, &args).code, 4);
}

#[test]
fn slots_that_move_during_the_run_are_followed() {
    let cluster = crate::support::cluster::Cluster::start("redis-7.0", 2);
    let source = strings(4_000);
    let file = source.save();
    let port = cluster.ports()[0];
    replayed_at(port, &[text(&file), "-q"]);
    let port = port.to_string();
    let args = ["verify", text(&file), "-p", &port, "--rate", "1500"];
    let mut running = Running::start(&args);
    let has_begun = || {
        let stats = call!(cluster.client(0), "INFO", "commandstats").text();
        stats.contains("cmdstat_get:")
    };
    assert!(running.until(has_begun));
    cluster.move_slots(0, 1, 400);
    let run = running.end(Duration::from_secs(60));
    assert_eq!((run.code, rows(&run)), (0, vec![]), "{}", run.stderr);
    let errors = call!(cluster.client(0), "INFO", "errorstats").text();
    assert!(errors.contains("errorstat_MOVED"), "{errors}");
}

/// The logs of the project, and of a corpus where there is one, that are whole and that this server can load.
fn logs() -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = [
        "multipart_redis-7.0.15",
        "preamble_redis-5.0.14.aof",
        "scripts_redis-7.0.15.aof",
        "streams_redis-6.2.16.aof",
        "timestamps_redis-7.0.15.aof",
    ]
    .map(|name| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("testdata/aof")
            .join(name)
    })
    .to_vec();
    if let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") {
        for server in [
            "redis-2.4.18",
            "redis-5.0.14",
            "redis-6.2.16",
            "redis-7.0.15",
        ] {
            let dir = Path::new(&corpus).join(server);
            for entry in std::fs::read_dir(dir).expect("a directory of the corpus") {
                let path = entry.expect("an entry").path();
                let name = name_of(&path);
                let is_whole = name.starts_with("aof-") && !name.contains("-trunc-");
                if is_whole && !name.ends_with(".json") {
                    logs.push(path);
                }
            }
        }
        assert!(logs.len() > 20, "{} logs", logs.len());
    }
    logs
}

#[test]
fn of_logs_the_data_set_is_compared_that_they_leave() {
    let server = Server::start("redis-7.0");
    let mut client = server.client();
    for log in logs() {
        let name = log.display();
        call!(client, "FLUSHALL");
        call!(client, "FUNCTION", "FLUSH");
        let flags = ["--log-time", "@1795305600"];
        let loaded = replay_at(server.port, &[&flags[..], &[text(&log)]].concat());
        assert_eq!(loaded.code, 0, "{name}: {}", loaded.stderr);
        let args = [&flags[..], &["--reread-after", "10ms", text(&log)]].concat();
        let equal = verify_at(server.port, &args);
        assert_eq!(
            (equal.code, rows(&equal)),
            (0, Vec::new()),
            "{name}: {}",
            equal.stderr
        );

        // One key less, and one that is another.
        let Reply::Bulk(Some(key)) = call!(client, "RANDOMKEY") else {
            continue; // nothing in database 0
        };
        call!(client, "DEL", key);
        call!(client, "SET", "nobody's", "x");
        let differs = verify_at(server.port, &args);
        let kinds: Vec<String> = rows(&differs).into_iter().map(|row| row.2).collect();
        assert_eq!((differs.code, kinds.len()), (1, 2), "{name}: {kinds:?}");
        for kind in ["missing", "extra"] {
            assert!(kinds.iter().any(|k| k == kind), "{name}: {kinds:?}");
        }
    }
}

#[test]
fn libraries_are_compared() {
    let cluster = Target::cluster();
    let server = Server::start("redis-7.0");
    let load = |name: &str, body: &str| {
        let code = format!("#!lua name={name}\nredis.register_function('{name}', {body})");
        call!(server.client(), "FUNCTION", "LOAD", "REPLACE", code);
    };
    load("one", "function() return 1 end");
    load("two", "function() return 2 end");
    call!(server.client(), "SET", "key", "value");
    let file = server.save();
    let verify = |port: u16, more: &[&str]| {
        let run = verify_at(
            port,
            &[&[text(&file), "--reread-after", "0s"], more].concat(),
        );
        let rows: Vec<_> = rows(&run).into_iter().map(|row| (row.1, row.2)).collect();
        (run.code, rows, run.stderr)
    };
    let function = |name: &str| (name.to_owned(), "function".to_owned());
    let (code, found, words) = verify(server.port, &[]);
    assert_eq!((code, found), (0, Vec::new()), "{words}");
    assert!(words.contains("function libraries: 2 compared"), "{words}");
    load("one", "function() return 3 end");
    call!(server.client(), "FUNCTION", "DELETE", "two");
    let (code, found, words) = verify(server.port, &[]);
    assert_eq!(
        (code, found),
        (1, vec![function("one"), function("two")]),
        "{words}"
    );
    let (code, found, words) = verify(server.port, &["--no-functions"]);
    assert_eq!((code, found), (0, Vec::new()), "{words}");

    // Each master has all of them.
    let loaded = replay_at(cluster.port(), &[text(&file)]);
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    let (code, found, words) = verify(cluster.port(), &[]);
    assert_eq!((code, found), (0, Vec::new()), "{words}");
    let Target::Cluster(nodes) = &cluster else {
        unreachable!("it was started as one")
    };
    call!(nodes.client(2), "FUNCTION", "FLUSH");
    let (code, found, words) = verify(cluster.port(), &[]);
    assert_eq!(
        (code, found),
        (1, vec![function("one"), function("two")]),
        "{words}"
    );
}

#[test]
fn keys_of_other_databases_cannot_be_where_there_is_one() {
    let source = Server::start("redis-7.0");
    call!(source.client(), "SET", "x", "1");
    let mut other = source.client();
    call!(other, "SELECT", "1");
    call!(other, "SET", "x", "1");
    let file = source.save();
    let cluster = Target::cluster();
    let loaded = replay_at(cluster.port(), &["--db", "0", text(&file)]);
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    let run = verify_at(cluster.port(), &[text(&file)]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert!(run.stderr.contains("--db-map N=0"), "{}", run.stderr);
    assert_eq!(
        verify_at(cluster.port(), &["--db", "0", text(&file)]).code,
        0
    );
}

#[test]
fn a_key_that_goes_makes_no_room_for_a_stranger() {
    let server = strings(600);
    call!(server.client(), "SET", "short", "x", "PX", "2500");
    let file = server.save();
    call!(server.client(), "SET", "stranger", "x");
    // The one that expires is read first or last; in any case it is gone before names are counted.
    let run = verify_at(
        server.port,
        &[text(&file), "--rate", "150", "--threads", "1"],
    );
    assert_eq!(run.code, 1, "{}", run.stderr);
    let rows = rows(&run);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((&rows[0].1[..], &rows[0].2[..]), ("stranger", "extra"));
}

#[test]
fn a_digest_knows_its_type() {
    let server = Server::start("redis-7.0");
    let element = "x".repeat(3000);
    call!(server.client(), "RPUSH", "list", &element);
    let file = server.save();
    let args = [
        text(&file),
        "--mode",
        "digest",
        "--digest-from",
        "1",
        "--reread-after",
        "0s",
    ];
    assert_eq!(verify_at(server.port, &args).code, 0);
    call!(server.client(), "SET", "list", format!("3000:{element}"));
    let run = verify_at(server.port, &args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(rows(&run)[0].2, "type");
}

/// Large values of an 8.10 at a 7.0, which knows no expiry of fields.
#[test]
fn expiries_of_fields_that_are_not_there_are_told_of_large_hashes_too() {
    if !available("redis-8.10") {
        return;
    }
    let source = Server::start("redis-8.10");
    let server = Server::start("redis-7.0");
    for i in 0..200 {
        for client in [&mut source.client(), &mut server.client()] {
            call!(client, "HSET", "h", format!("field {i}"), "value");
        }
    }
    call!(
        source.client(),
        "HPEXPIREAT",
        "h",
        "4102444800000",
        "FIELDS",
        "1",
        "field 7"
    );
    let file = source.save();
    for size in ["1mb", "1kb"] {
        let args = [text(&file), "--big-key", size, "--reread-after", "0s"];
        let run = verify_at(server.port, &args);
        let kinds: Vec<String> = rows(&run).into_iter().map(|row| row.2).collect();
        assert_eq!(
            (run.code, kinds),
            (1, vec!["field-expiry".to_owned()]),
            "{size}: {}",
            run.stderr
        );
    }
}

#[test]
fn a_database_that_others_are_mapped_onto_is_looked_through() {
    let server = Server::start("redis-7.0");
    let at = |db: &str, key: &str| {
        let mut client = server.client();
        call!(client, "SELECT", db);
        call!(client, "SET", key, "x");
    };
    for db in ["0", "1", "2"] {
        at(db, &format!("key{db}"));
    }
    let file = server.save();
    call!(server.client(), "FLUSHALL");
    let how = ["--not-db", "1", "--db-map", "2=1", text(&file)];
    let loaded = replay_at(server.port, &how);
    assert_eq!(loaded.code, 0, "{}", loaded.stderr);
    assert_eq!(verify_at(server.port, &how).code, 0);
    at("1", "stranger");
    let run = verify_at(server.port, &how);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(rows(&run)[0].1, "stranger");
}
