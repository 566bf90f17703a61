//! Keys that are there already, commands that are refused, and runs that only look.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use super::{Target, log_of_increments, name, names, place, scaled, snapshot};
use crate::support::cli::{Run, Running, converted, program, replay, replay_at, replayed_at, run};
use crate::support::client::{Client, Reply, call};
use crate::support::data::{DataSet, diff, held_by};
use crate::support::resp::log_of;
use crate::support::server::{Nutcracker, Server, available};
use crate::support::{fixture, log_file, log_fixture, now_ms, text};

// Keys that are there already.

/// A snapshot of a string, a list, a set, a zset and a hash of two elements each, one of them with an expiry.
fn five_keys() -> (Server, std::path::PathBuf) {
    let source = Server::start("redis-7.0");
    let mut client = source.client();
    call!(client, "SET", "string", "new", "PXAT", "4102444800123");
    call!(client, "RPUSH", "list", "a", "b");
    call!(client, "SADD", "set", "a", "b");
    call!(client, "ZADD", "zset", "1", "a", "2", "b");
    call!(client, "HSET", "hash", "a", "1", "b", "2");
    let path = source.save();
    (source, path)
}

/// What was there before: one key of each type with something else in it, and one that no file has.
fn put_old(client: &mut Client) {
    call!(client, "SET", "string", "old");
    call!(client, "RPUSH", "list", "z");
    call!(client, "SADD", "set", "z");
    call!(client, "ZADD", "zset", "9", "a", "9", "z");
    call!(client, "HSET", "hash", "a", "old", "z", "9");
    call!(client, "PEXPIREAT", "hash", "4102444800999");
    call!(client, "SET", "other", "stays");
}

fn targets() -> Vec<Target> {
    vec![
        Target::server("redis-7.0"),
        Target::cluster(),
        Target::proxy(&[]),
    ]
}

/// As [`put_old`], wherever the keys belong.
fn fill_with_old(target: &Target) {
    let source = Server::start("redis-7.0");
    put_old(&mut source.client());
    let path = source.save();
    target.flush();
    replayed_at(target.port(), &[text(&path)]);
    assert_eq!(
        diff(&held_by(&source), &target.data()),
        Vec::<String>::new()
    );
}

#[test]
fn a_destination_with_keys_is_refused_and_left_as_it_is() {
    let (_source, path) = five_keys();
    for target in targets() {
        fill_with_old(&target);
        let before = target.data();
        let run = replay_at(target.port(), &[text(&path)]);
        assert_eq!(run.code, 5, "{}", run.stderr);
        assert!(run.stderr.contains("--on-exist"), "{}", run.stderr);
        assert_eq!(diff(&before, &target.data()), Vec::<String>::new());
    }
}

#[test]
fn a_key_in_another_database_is_a_key() {
    let (_source, path) = five_keys();
    let target = Target::server("redis-7.0");
    let mut client = target.servers()[0].client();
    call!(client, "SELECT", "7");
    call!(client, "SET", "here", "1");
    let run = replay_at(target.port(), &[text(&path)]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert_eq!(target.keys(), 1);
}

#[test]
fn fail_stops_at_a_key_that_is_there_and_leaves_it_as_it_is() {
    let (source, path) = five_keys();
    for mode in ["auto", "commands"] {
        for target in targets() {
            let args = ["--on-exist", "fail", "--mode", mode, text(&path)];
            fill_with_old(&target);
            let before = target.data();
            let run = replay_at(target.port(), &args);
            assert_eq!(run.code, 5, "--mode {mode}: {}", run.stderr);
            assert_eq!(
                diff(&before, &target.data()),
                Vec::<String>::new(),
                "--mode {mode}"
            );
            assert!(
                names(&run.stderr, &["string", "list", "set", "zset", "hash"]),
                "{}",
                run.stderr
            );
            // One that the file does not have is in nobody's way.
            target.flush();
            let other = Server::start("redis-7.0");
            call!(other.client(), "SET", "other", "stays");
            let first = replay_at(target.port(), &[text(&other.save())]);
            assert_eq!(first.code, 0, "{}", first.stderr);
            replayed_at(target.port(), &args);
            let mut want = held_by(&source);
            let kept = held_by(&other);
            want.dbs
                .get_mut(&0)
                .expect("keys")
                .extend(kept.dbs[&0].clone());
            assert_eq!(
                diff(&want, &target.data()),
                Vec::<String>::new(),
                "--mode {mode}"
            );
        }
    }
}

#[test]
fn skip_keeps_what_is_there_and_writes_the_rest() {
    let (source, path) = five_keys();
    for mode in ["auto", "commands"] {
        for target in targets() {
            fill_with_old(&target);
            let mut want = target.data();
            let more = Server::on_snapshot("redis-7.0", &path);
            call!(more.client(), "RPUSH", "fresh", "a", "b");
            let more_path = more.save();
            let args = ["--on-exist", "skip", "--mode", mode, text(&more_path)];
            replayed_at(target.port(), &args);
            let fresh = held_by(&more).dbs[&0][&b"fresh"[..]].clone();
            want.dbs
                .get_mut(&0)
                .expect("keys")
                .insert(b"fresh".to_vec(), fresh);
            assert_eq!(
                diff(&want, &target.data()),
                Vec::<String>::new(),
                "--mode {mode}"
            );
        }
    }
    drop(source);
}

/// What is there already is counted with the snapshot that it was in, and not with the log behind it.
#[test]
fn keys_add_up_where_a_log_follows() {
    let (_source, path) = five_keys();
    let log = log_of_increments(10);
    let target = Target::server("redis-7.0");
    fill_with_old(&target);
    let (_dir, place) = place();
    let summary = place("summary.json");
    let args = ["--on-exist", "skip", "--summary-file", &summary];
    let run = replayed_at(
        target.port(),
        &[&args[..], &[text(&path), log.path()]].concat(),
    );
    let words = "keys: 5 read = 0 written + 0 filtered + 0 expired + 0 rejected + 5 there already";
    assert!(run.stderr.contains(words), "{}", run.stderr);
    let bytes = std::fs::read(&summary).expect("a summary");
    let told: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(told["inputs"][0]["keys"]["existing"], 5, "{told}");
    assert_eq!(told["inputs"][1]["keys"]["existing"], 0, "{told}");
}

#[test]
fn replace_leaves_nothing_of_what_was_there() {
    let (source, path) = five_keys();
    for mode in ["auto", "commands"] {
        for target in targets() {
            fill_with_old(&target);
            let other = target.data().dbs[&0][&b"other"[..]].clone();
            let args = ["--on-exist", "replace", "--mode", mode, text(&path)];
            for _ in 0..2 {
                replayed_at(target.port(), &args);
                let mut want = held_by(&source);
                want.dbs
                    .get_mut(&0)
                    .expect("keys")
                    .insert(b"other".to_vec(), other.clone());
                assert_eq!(
                    diff(&want, &target.data()),
                    Vec::<String>::new(),
                    "--mode {mode}"
                );
            }
        }
    }
}

#[test]
fn merge_adds_to_what_is_there() {
    let (_source, path) = five_keys();
    for target in targets() {
        fill_with_old(&target);
        replayed_at(target.port(), &["--on-exist", "merge", text(&path)]);
        let model = Server::start("redis-7.0");
        let mut client = model.client();
        put_old(&mut client);
        call!(client, "SET", "string", "new", "PXAT", "4102444800123");
        call!(client, "RPUSH", "list", "a", "b");
        call!(client, "SADD", "set", "a", "b");
        call!(client, "ZADD", "zset", "1", "a", "2", "b");
        call!(client, "HSET", "hash", "a", "1", "b", "2");
        assert_eq!(diff(&held_by(&model), &target.data()), Vec::<String>::new());
    }
}

// Commands that are refused.

/// A log the second command of which no server takes.
const ONE_REFUSED: &str = "SET first 1|SET text v|LPUSH text x|SET last 1";

#[test]
fn a_refused_command_stops_a_run_or_is_listed() {
    let (_log_dir, log) = log_file(&log_of(ONE_REFUSED));
    for target in targets() {
        let run = replay_at(target.port(), &[text(&log)]);
        assert!(matches!(run.code, 1 | 5), "{}: {}", run.code, run.stderr);
        assert!(names(&run.stderr, &["WRONGTYPE"]), "{}", run.stderr);
        assert!(names(&run.stderr, &["\"text\""]), "{}", run.stderr);

        target.flush();
        let (_dir, path) = place();
        let rejects = path("rejects.csv");
        let args = ["--on-error", "continue", "--rejects", &rejects, text(&log)];
        let run = replay_at(target.port(), &args);
        assert_eq!(run.code, 1, "{}", run.stderr);
        assert!(
            names(&run.stderr, &["errors: 1, replies: 4"]),
            "{}",
            run.stderr
        );
        assert_eq!(target.keys(), 3);
        let mut lines = csv::Reader::from_path(&rejects).expect("the CSV");
        let columns = ["db", "key", "type", "command", "error"];
        assert_eq!(lines.headers().expect("a header"), columns.as_slice());
        let records: Vec<csv::StringRecord> = lines.records().map(|r| r.expect("a line")).collect();
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!((&records[0][0], &records[0][1]), ("0", "text"));
        assert!(
            records[0][3].to_uppercase().starts_with("LPUSH"),
            "{records:?}"
        );
        assert!(records[0][4].contains("WRONGTYPE"), "{records:?}");
    }
}

#[test]
fn a_refused_command_among_many_is_found_with_its_key() {
    let log = log_of_increments(scaled(10_000));
    let mut bytes = std::fs::read(&log.path).expect("the log");
    bytes.extend(log_of("LPUSH n:7 x|INCR after|INCR l:3"));
    let (_log_dir, log) = log_file(&bytes);
    for target in targets() {
        let (_dir, path) = place();
        let rejects = path("rejects.csv");
        let args = ["--on-error", "continue", "--rejects", &rejects, text(&log)];
        let run = replay_at(target.port(), &args);
        assert_eq!(run.code, 1, "{}", run.stderr);
        let csv = std::fs::read_to_string(&rejects).expect("the CSV");
        let mut keys: Vec<&str> = csv
            .lines()
            .skip(1)
            .filter_map(|l| l.split(',').nth(1))
            .collect();
        keys.sort_unstable();
        assert_eq!(keys, ["l:3", "n:7"], "{csv}");
        let want = Server::on_log("redis-7.0", &log, &[]);
        assert_eq!(diff(&held_by(&want), &target.data()), Vec::<String>::new());
    }
}

/// Such expiries are written behind the log where they still are in place; servers before 7.0 have no word for that.
#[test]
fn near_expiries_of_a_log_are_true_in_the_end_behind_a_proxy_over_older_servers() {
    if !available("redis-6.2") {
        return;
    }
    let servers: Vec<Server> = (0..2).map(|_| Server::start("redis-6.2")).collect();
    let all: Vec<&Server> = servers.iter().collect();
    let proxy = Nutcracker::with(&all, &[], &[]);
    let at = now_ms() + 3_600_000;
    let mut script = String::new();
    for i in 0..40 {
        script.push_str(&format!("SET expires:{i} 1 PXAT {at}|INCR expires:{i}|"));
        script.push_str(&format!("SET stays:{i} 1 PXAT {at}|PERSIST stays:{i}|"));
    }
    let (_dir, log) = log_file(&log_of(script.trim_end_matches('|')));
    replayed_at(proxy.port, &[text(&log)]);
    let (mut expire, mut stay) = (0, 0);
    for server in &servers {
        let mut client = server.client();
        for key in call!(client, "KEYS", "*").all_bytes() {
            let left = call!(client, "PTTL", &key).int();
            if key.starts_with(b"expires:") {
                assert!((3_500_000..=3_600_000).contains(&left), "{left} ms");
                assert_eq!(call!(client, "GET", &key).text(), "2");
                expire += 1;
            } else {
                assert!(key.starts_with(b"stays:"), "{}", key.escape_ascii());
                assert_eq!(left, -1);
                stay += 1;
            }
        }
    }
    assert_eq!((expire, stay), (40, 40));
}

#[test]
fn a_transaction_of_a_log_stays_whole_on_one_server() {
    let target = Server::start("redis-7.0");
    let mut script = String::new();
    // Larger than what is read at once, so that an answer comes while the transaction is still being read.
    for i in 0..5 {
        script.push_str(&format!("INCR single:{i}|MULTI|"));
        script.extend((0..20_000).map(|_| format!("INCR together:{i}|")));
        script.push_str("EXEC|");
    }
    let (_dir, log) = log_file(&log_of(script.trim_end_matches('|')));
    let mut monitor = target.client();
    call!(monitor, "MONITOR");
    let watching = std::thread::spawn(move || {
        let (mut executed, mut of) = (0, std::collections::BTreeMap::new());
        loop {
            let line = monitor.read_reply().expect("a line").text();
            if line.contains("\"the end\"") {
                return of;
            } else if line.to_ascii_lowercase().ends_with("\"exec\"") {
                executed += 1;
            } else if let Some(key) = line.split("\"together:").nth(1) {
                let blocks: &mut std::collections::BTreeSet<i32> =
                    of.entry(key.to_owned()).or_default();
                blocks.insert(executed);
            }
        }
    });
    replayed_at(target.port, &[text(&log)]);
    call!(target.client(), "ECHO", "the end");
    let of = watching.join().expect("the watcher");
    assert_eq!(of.len(), 5);
    let split: Vec<_> = of.iter().filter(|(_, blocks)| blocks.len() > 1).collect();
    assert!(split.is_empty(), "{split:?}");
}

/// A server that is older than the user said, or than it says itself, refuses payloads that it cannot read.
#[test]
fn where_a_payload_is_refused_values_go_as_commands() {
    if !available("redis-8.10") {
        return;
    }
    let source = Server::start("redis-8.10");
    let mut client = source.client();
    for i in 0..500 {
        let key = format!("set:{i}");
        call!(client, "SADD", &key, "a", "b", &i.to_string());
        call!(client, "SET", &format!("string:{i}"), &i.to_string());
    }
    call!(client, "RPUSH", "list", "a", "b", "c");
    let file = source.save();
    let target = Target::server("redis-7.0");
    // As 8.10 would have them, sets are listpacks, which 7.0 does not know.
    let args = ["--target-version", "8.10", text(&file)];
    let run = replayed_at(target.port(), &args);
    assert!(names(&run.stderr, &["plain commands"]), "{}", run.stderr);
    let diff = diff(&held_by(&source), &target.data());
    assert!(diff.is_empty(), "{diff:?}");
    target.flush();
    // Who wants RESTORE gets RESTORE or nothing.
    let run = replay_at(target.port(), &[&["--mode", "restore"], &args[..]].concat());
    assert_eq!(run.code, 5, "{}", run.stderr);
}

#[test]
fn a_value_that_an_older_server_cannot_hold_is_rejected_by_name() {
    if !available("redis-8.10") {
        return;
    }
    let target = Target::server("redis-7.0");
    let (_dir, path) = place();
    let rejects = path("rejects.csv");
    let file = fixture("all_types_redis-8.10_v15.rdb");
    let args = ["--on-error", "continue", "--rejects", &rejects, text(&file)];
    let run = replay_at(target.port(), &args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let mut lines = csv::Reader::from_path(&rejects).expect("the CSV");
    let rejected: std::collections::BTreeSet<String> = lines
        .records()
        .map(|line| line.expect("a line")[1].to_owned())
        .collect();
    for key in ["array:sparse", "hash:field-ttl", "stream:nack"] {
        assert!(rejected.contains(key), "{key} is not in {rejected:?}");
    }
    let own = Server::on_snapshot("redis-8.10", &file);
    let (mut want, got) = (held_by(&own), target.data());
    want.retain(|_, key, _| !rejected.contains(&*String::from_utf8_lossy(key)));
    let keys = |data: &DataSet| -> Vec<String> {
        let all = data.dbs.iter();
        all.flat_map(|(db, keys)| {
            keys.keys()
                .map(move |key| format!("{db} {}", key.escape_ascii()))
        })
        .collect()
    };
    assert_eq!(keys(&want), keys(&got));
}

#[test]
fn several_databases_are_refused_where_there_is_one_before_anything_is_written() {
    let snapshot = fixture("all_types_redis-7.0_v10.rdb");
    for target in targets().into_iter().skip(1) {
        let run = replay_at(target.port(), &["--no-functions", text(&snapshot)]);
        assert_eq!(run.code, 5, "{}", run.stderr);
        assert!(names(&run.stderr, &["--db-map"]), "{}", run.stderr);
        assert_eq!(target.keys(), 0);
        let args = [
            "--no-functions",
            "--db",
            "1",
            "--db-map",
            "1=0",
            text(&snapshot),
        ];
        replayed_at(target.port(), &args);
        assert_eq!(target.keys(), 2);
    }
}

// Inputs.

#[test]
fn what_convert_writes_is_replayed_from_a_pipe_and_from_a_file() {
    let sample = snapshot();
    let target = Target::server("redis-7.0");
    let bytes = converted(&["--target-version", "7.0", sample.path()]);
    let port = target.port().to_string();
    let run = run(
        &["replay", "-", "-h", "127.0.0.1", "-p", &port],
        Some(&bytes),
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    sample.assert_in(&target.servers(), "from a pipe");

    target.flush();
    let (_dir, path) = place();
    let file = path("commands.resp");
    std::fs::write(&file, &bytes).expect("a file");
    replayed_at(target.port(), &[&file]);
    sample.assert_in(&target.servers(), "from a file");
}

#[test]
fn a_snapshot_from_a_pipe_a_packed_one_and_a_directory_are_replayed() {
    let target = Target::server("redis-7.0");
    let mut own = Server::on_snapshot("redis-7.0", &fixture("mixed_redis-7.0_v10.rdb"));
    let port = target.port().to_string();
    let args = ["replay", "-", "-h", "127.0.0.1", "-p", &port];
    let bytes = std::fs::read(fixture("mixed_redis-7.0_v10.rdb")).expect("a snapshot");
    let piped = run(&args, Some(&bytes));
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    assert_eq!(diff(&held_by(&own), &target.data()), Vec::<String>::new());

    target.flush();
    replayed_at(
        target.port(),
        &[text(&fixture("mixed_redis-7.0_v10.rdb.gz"))],
    );
    assert_eq!(diff(&held_by(&own), &target.data()), Vec::<String>::new());

    target.flush();
    let dir = log_fixture("multipart_redis-7.0.15");
    own = Server::on_log("redis-7.0", &dir, &[]);
    replayed_at(target.port(), &[text(&dir)]);
    assert_eq!(diff(&held_by(&own), &target.data()), Vec::<String>::new());
}

#[test]
fn a_socket_and_an_address_lead_to_the_same_server() {
    let sample = snapshot();
    let (_dir, path) = place();
    let socket = path("s");
    let server = Server::with("redis-7.0", &["--unixsocket", &socket]);
    let (by_port, by_path) = (
        format!("redis://127.0.0.1:{}", server.port),
        format!("unix://{socket}"),
    );
    for args in [["-s", &socket], ["-u", &by_port], ["-u", &by_path]] {
        server.flush();
        let run = replay(&[&args[..], &[sample.path()]].concat());
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
        sample.assert_in(&[&server], args[1]);
    }
    // The number at the end of an address is the database, and keys go where the file says: it is refused or obeyed
    // in a way that is told, and never silently left aside.
    server.flush();
    let with_db = format!("{by_port}/5");
    let run = replay(&["-u", &with_db, sample.path()]);
    let data = DataSet::read(&mut server.client());
    assert!(
        run.code != 0 && data.len() == 0 || run.code == 0 && data.dbs.keys().eq(&[5]),
        "exit {}, databases {:?}: {}",
        run.code,
        data.dbs.keys(),
        run.stderr
    );
}

#[test]
fn an_empty_snapshot_is_replayed_into_nothing() {
    for target in targets() {
        replayed_at(target.port(), &[text(&fixture("empty_redis-7.0_v10.rdb"))]);
        assert_eq!(target.keys(), 0);
    }
}

#[test]
fn a_log_that_is_followed_reaches_the_destination_as_it_grows() {
    for target in [
        Target::server("redis-7.0"),
        Target::cluster(),
        Target::proxy(&[]),
    ] {
        let source = Server::logging("redis-7.0", &[]);
        let mut client = source.client();
        let (_dir, path) = place();
        let checkpoint = path("follow.checkpoint");
        let log = source.log();
        let args = ["--follow", "--checkpoint", &checkpoint, text(&log)];
        let mut total: i64 = 0;
        for round in 0..3 {
            let mut running = Running::replay_at(target.port(), &args);
            for _ in 0..300 {
                total += 1;
                call!(client, "INCR", format!("n:{}", total % 7));
                call!(client, "RPUSH", "l", total.to_string());
            }
            crate::support::cluster::until(Duration::from_secs(20), || {
                assert!(running.is_running(), "it ended by itself");
                // Those that do not have the list answer 0, or where it is.
                let len = |server: &&Server| match server.client().try_call(&[b"LLEN", b"l"]) {
                    Ok(Reply::Int(len)) => len,
                    _ => 0,
                };
                target.servers().iter().map(len).sum::<i64>() >= total
            });
            // The counters have other ways than the list.
            std::thread::sleep(Duration::from_millis(300));
            let mut got = target.data();
            got.retain(|_, key, _| !key.starts_with(b"__redis-migration"));
            assert_eq!(
                diff(&held_by(&source), &got),
                Vec::<String>::new(),
                "round {round}"
            );
            if round == 0 {
                running.kill();
            } else {
                running.terminate();
                assert_eq!(running.end(Duration::from_secs(12)).code, 143);
            }
        }
    }
}

// Runs that only look, and what runs say.

#[test]
fn a_dry_run_writes_nothing() {
    let sample = snapshot();
    for target in targets() {
        let before: Vec<String> = target.servers().iter().map(|s| writes(s)).collect();
        replayed_at(target.port(), &["--dry-run", sample.path()]);
        assert_eq!(target.keys(), 0);
        let after: Vec<String> = target.servers().iter().map(|s| writes(s)).collect();
        assert_eq!(before, after, "keys were changed");
        // What would be refused is told.
        fill_with_old(&target);
        let run = replay_at(target.port(), &["--dry-run", sample.path()]);
        assert_eq!(run.code, 5, "{}", run.stderr);
    }
    let nobody = crate::support::server::free_port();
    let run = replay_at(nobody, &["--dry-run", sample.path()]);
    assert!(matches!(run.code, 0 | 4), "{}", run.stderr);
}

/// How many changes a server has seen since it was started.
fn writes(server: &Server) -> String {
    let info = call!(server.client(), "INFO", "persistence").text();
    let line = info
        .lines()
        .find(|line| line.starts_with("rdb_changes_since_last_save"));
    line.expect("the number of changes").to_owned()
}

#[test]
fn a_success_leaves_no_helpers_behind() {
    let sample = log_of_increments(scaled(5000));
    for target in targets() {
        let (_dir, path) = place();
        let checkpoint = path("replay.checkpoint");
        for args in [
            &["--on-exist", "replace"][..],
            &["--checkpoint", &checkpoint],
        ] {
            target.flush();
            replayed_at(target.port(), &[args, &[sample.path()]].concat());
            sample.assert_in(&target.servers(), "helpers");
            let data = target.data();
            let helper = data
                .dbs
                .values()
                .flat_map(|keys| keys.keys())
                .find(|k| k.starts_with(b"__"));
            assert_eq!(helper.map(|key| key.escape_ascii().to_string()), None);
            let _ = std::fs::remove_file(&checkpoint);
        }
    }
}

#[test]
fn the_summary_accounts_for_everything() {
    let sample = snapshot();
    let keys = super::keys_in(&[&sample.server]) as u64;
    for target in targets() {
        let (_dir, path) = place();
        let file = path("summary.json");
        let args = ["--not-key", "s:*", "--summary-file", &file, sample.path()];
        let run = replay_at(target.port(), &args);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let bytes = std::fs::read(&file).expect("the summary");
        let summary: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        let count = |name: &str| {
            summary["keys"][name]
                .as_u64()
                .unwrap_or_else(|| panic!("keys.{name} in {summary}"))
        };
        assert_eq!(count("read"), keys);
        assert_eq!(count("written") as i64, target.keys());
        assert!(count("filtered") > 5000, "{summary}");
        let all = count("written") + count("filtered") + count("expired") + count("rejected");
        assert_eq!(all, keys);
        assert_eq!(summary["exit"], 0, "{summary}");
        let last = run.stderr.lines().last().expect("a last line");
        assert!(last.starts_with("errors: 0, replies: "), "{}", run.stderr);
    }
}

#[test]
fn a_quiet_run_says_nothing_but_failures() {
    let sample = snapshot();
    let target = Target::server("redis-7.0");
    let quiet = |args: &[&str]| -> Run {
        replay_at(target.port(), &[&["-q", sample.path()], args].concat())
    };
    let run = quiet(&[]);
    assert_eq!(
        (run.code, run.stderr.as_str(), run.stdout.len()),
        (0, "", 0)
    );
    let run = quiet(&[]);
    assert_eq!(run.code, 5);
    assert_ne!(run.stderr, "");
}

/// Each of the keys that go together counts.
#[test]
fn a_rate_is_one_of_keys() {
    let source = Server::start("redis-7.0");
    let mut client = source.client();
    for i in 0..1500 {
        call!(client, "SET", format!("string:{i}"), i.to_string());
    }
    let path = source.save();
    let target = Target::server("redis-7.0");
    let begin = std::time::Instant::now();
    replayed_at(target.port(), &["--rate", "1000", text(&path)]);
    assert!(
        begin.elapsed() > Duration::from_millis(1400),
        "{:?}",
        begin.elapsed()
    );
}

#[test]
fn a_rate_is_kept() {
    let sample = log_of_increments(3000);
    let target = Target::server("redis-7.0");
    let begin = std::time::Instant::now();
    replayed_at(target.port(), &["--rate", "1500", sample.path()]);
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(1400) && took < Duration::from_secs(6),
        "{took:?}"
    );
}

#[test]
fn of_two_runs_with_one_lock_the_second_ends_at_once() {
    let sample = log_of_increments(6000);
    let target = Target::server("redis-7.0");
    let (_dir, path) = place();
    let lock = path("lock");
    let args = ["--lock", &lock, "--rate", "2000", sample.path()];
    let mut first = Running::replay_at(target.port(), &args);
    assert!(super::arrive(&mut first, &target.servers(), 500));
    let second = replay_at(target.port(), &args);
    assert_eq!(second.code, 75, "{}", second.stderr);
    let first = first.end(Duration::from_secs(30));
    assert_eq!(first.code, 0, "{}", first.stderr);
    sample.assert_in(&target.servers(), "the first of two");
}

#[test]
fn wrong_usage_is_told_without_a_connection() {
    let sample = snapshot();
    let nobody = crate::support::server::free_port().to_string();
    let at = ["-h", "127.0.0.1", "-p", &nobody];
    for args in [
        &["--on-exist", "perhaps"][..],
        &["--connections", "0"],
        &["--rate", "many"],
        &["--dialect", "none"],
        &["-p", "70000"],
        &["-u", "http://127.0.0.1"],
    ] {
        let run = replay(&[&[sample.path()], &at[..], args].concat());
        assert_eq!(run.code, 2, "{args:?}: {}", run.stderr);
    }
    assert_eq!(replay(&[]).code, 2);
    let help = replay(&["-h"]);
    assert_eq!(
        help.code, 0,
        "a bare -h at the end is help: {}",
        help.stderr
    );
    assert!(!help.stdout.is_empty());
}

#[test]
fn a_password_in_an_address_is_never_shown() {
    let server = Server::start("redis-7.0");
    server.set("requirepass", "geheim");
    let sample = snapshot();
    for uri in [
        format!("redis://:geheim@127.0.0.1:{}", server.port),
        format!(
            "redis://:geheim@127.0.0.1:{}",
            crate::support::server::free_port()
        ),
    ] {
        let (_dir, path) = place();
        let (summary, checkpoint) = (path("summary.json"), path("checkpoint"));
        let args = [
            "-u",
            &uri,
            "--summary-file",
            &summary,
            "--checkpoint",
            &checkpoint,
        ];
        let run = replay(&[&args[..], &[sample.path()]].concat());
        assert!(matches!(run.code, 0 | 4), "{}", run.stderr);
        let mut all = run.stderr.into_bytes();
        all.extend(std::fs::read(&summary).unwrap_or_default());
        all.extend(std::fs::read(&checkpoint).unwrap_or_default());
        assert!(!String::from_utf8_lossy(&all).contains("geheim"));
    }
    call_without_password(&server);
}

/// Lets the server be read again.
fn call_without_password(server: &Server) {
    let mut client = server.client();
    call!(client, "AUTH", "geheim");
    call!(client, "CONFIG", "SET", "requirepass", "");
    snapshot().assert_in(&[server], "with a password");
}

#[test]
fn a_pipe_that_breaks_off_is_no_success() {
    let target = Target::server("redis-7.0");
    let bytes = converted(&["--target-version", "7.0", snapshot().path()]);
    let port = target.port().to_string();
    let mut child = program(&["replay", "-", "-h", "127.0.0.1", "-p", &port])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut input = child.stdin.take().expect("stdin");
    // Inside a command: the bytes before the last are not a boundary.
    let _ = input.write_all(&bytes[..bytes.len() / 2 - 1]);
    drop(input);
    let out = child.wait_with_output().expect("its end");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(
        matches!(out.status.code(), Some(1 | 3)),
        "{:?}: {stderr}",
        out.status
    );
    let _ = name(&snapshot().path);
}
