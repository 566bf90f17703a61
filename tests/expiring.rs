//! Expiries in a log: relative ones, and those that must wait until the log's end.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::support::cli::{becomes, convert, convert_lines, converted};
use crate::support::client::call;
use crate::support::data::{diff, held_by, loaded};
use crate::support::resp::{lines, log_of};
use crate::support::server::{Server, available, copy_dir};
use crate::support::{log_file, log_fixture, now_ms, text};

// Relative ones.

#[test]
fn relative_expiries_need_a_moment() {
    // What stands in the log, and what it is when the log was written at 4,000,000,000.
    let cases = [
        ("EXPIRE k 100", "PEXPIREAT k 4000000100000"),
        ("PEXPIRE k 100", "PEXPIREAT k 4000000000100"),
        ("SETEX k 100 v", "SET k v PXAT 4000000100000"),
        ("PSETEX k 100 v", "SET k v PXAT 4000000000100"),
        ("SET k v EX 100", "SET k v PXAT 4000000100000"),
        ("SET k v NX PX 100", "SET k v NX PXAT 4000000000100"),
        ("GETEX k EX 100", "PEXPIREAT k 4000000100000"),
        (
            "RESTORE k 100 payload",
            "RESTORE k 4000000000100 payload ABSTTL",
        ),
        (
            "HEXPIRE k 100 FIELDS 1 f",
            "HPEXPIREAT k 4000000100000 FIELDS 1 f",
        ),
        (
            "HPEXPIRE k 100 FIELDS 1 f",
            "HPEXPIREAT k 4000000000100 FIELDS 1 f",
        ),
        (
            "HSETEX k EX 100 FIELDS 1 f v",
            "HSETEX k PXAT 4000000100000 FIELDS 1 f v",
        ),
        (
            "HGETEX k PX 100 FIELDS 1 f",
            "HPEXPIREAT k 4000000000100 FIELDS 1 f",
        ),
    ];
    for (command, want) in cases {
        let run = convert_lines(&format!("SET a 1|{command}"), &[]);
        assert_eq!(run.code, 5, "{command}: {}", run.stderr);
        let offset = format!("byte {:#x}", log_of("SET a 1").len());
        assert!(
            run.stderr.contains("--log-time") && run.stderr.contains(&offset),
            "{command}: {}",
            run.stderr
        );
        assert_eq!(lines(&run.stdout).join("|"), "SELECT 0|SET a 1");
        let want = format!("SELECT 0|{want}");
        assert_eq!(becomes(command, &["--log-time", "4000000000"]), want);
        let told = format!("#TS:4000000000|{command}");
        assert_eq!(becomes(&told, &[]), want);
        // What the log itself tells counts more.
        let args = ["--log-time", "2026-01-01T00:00:00Z"];
        assert_eq!(becomes(&told, &args), want);
    }
    // Times within a transaction count from there on, and after it.
    let script = "#TS:4000000000|MULTI|EXPIRE a 1|#TS:4000000500|EXPIRE b 1|EXEC|EXPIRE c 1";
    assert_eq!(
        becomes(script, &[]),
        "SELECT 0|MULTI|PEXPIREAT a 4000000001000|PEXPIREAT b 4000000501000|EXEC|\
         PEXPIREAT c 4000000501000"
    );
}

#[test]
fn the_files_own_time_serves_for_relative_expiries() {
    let path = log_fixture("expire_relative_redis-2.6.17.aof");
    let run = convert(&[text(&path)]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    let (_dir, copy) = log_file(&std::fs::read(&path).expect("the fixture"));
    let moment = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    std::fs::File::options()
        .write(true)
        .open(&copy)
        .and_then(|file| file.set_modified(moment))
        .expect("another time");
    assert_eq!(
        lines(&converted(&["--log-time", "mtime", text(&copy)])).join("|"),
        "SELECT 0|SET set-ex v PXAT 2200000000250|SET set-px v PXAT 2200000000805|\
         SET set-nx v NX PXAT 2200000000250|SET plain 1"
    );
}

// Expiries that are held back.

/// Loads a log into a server by its own loader, and what becomes of it into another one that is live; tells how these
/// differ. Without a version of the target most commands pass unseen, which is another way through the program.
fn as_loaded(server: &str, log: &Path) -> Vec<String> {
    let target = server.strip_prefix("redis-").expect("a Redis");
    let ways: &[&[&str]] = match target {
        "6.2" => &[&["--target-version", target]],
        _ => &[&["--target-version", target], &[]],
    };
    let (own, live) = (Server::on_log(server, log, &[]), Server::start(server));
    let want = held_by(&own);
    let mut wrong = Vec::new();
    for args in ways {
        live.flush();
        let bytes = converted(&[args, &[text(log)][..]].concat());
        let mut lines = live.client().pipe(&bytes, None).errors;
        lines.extend(diff(&want, &held_by(&live)));
        wrong.extend(lines.into_iter().map(|line| format!("{args:?}: {line}")));
    }
    wrong
}

/// A script with its times: PAST is over, NEAR comes before the day that is held, FAR after it; with S in seconds.
fn timed(script: &str, now: i64) -> String {
    let times = [
        ("PAST", now - 60_000),
        ("NEAR", now + 3_000_000),
        ("FAR", now + 10 * 86_400_000),
    ];
    let mut script = format!("SELECT 0|{script}");
    for (word, at) in times {
        script = script
            .replace(&format!("{word}S"), &(at / 1000).to_string())
            .replace(word, &at.to_string());
    }
    script
}

/// As [`as_loaded`] for many logs; all that differ fail the test.
fn all_as_loaded(server: &str, cases: &[(&str, &str)], now: i64) {
    let mut wrong = Vec::new();
    for (what, script) in cases {
        let (_dir, path) = log_file(&log_of(&timed(script, now)));
        for line in as_loaded(server, &path) {
            wrong.push(format!("{what}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{server}:\n{}", wrong.join("\n"));
}

#[test]
fn keys_live_through_a_log_that_renews_them_late() {
    let now = now_ms();
    let cases: &[(&str, &str)] = &[
        ("renewed", "SET k v PXAT PAST|PEXPIREAT k NEAR"),
        ("renewed for long", "SET k v PXAT PAST|PEXPIREAT k FAR"),
        ("over", "SET k v PXAT PAST|SET other v"),
        (
            "over later",
            "SET k v PXAT NEAR|SET k w PXAT PAST|SET other v",
        ),
        (
            "counted",
            "SET k 5 PXAT PAST|INCR k|INCR k|PEXPIREAT k NEAR",
        ),
        ("kept", "SET k 5 PXAT PAST|SET k 6 KEEPTTL|INCR k|PERSIST k"),
        ("set anew", "SET k v PXAT PAST|SET k w"),
        ("set anew by many", "SET k v PXAT PAST|MSET k w l x"),
        ("deleted and anew", "SET k v PXAT PAST|DEL k|SET k w"),
        (
            "deleted and pushed",
            "RPUSH k a|PEXPIREAT k PAST|DEL k|RPUSH k b",
        ),
        (
            "emptied and anew",
            "RPUSH k a|PEXPIREAT k PAST|LPOP k|RPUSH k b",
        ),
        (
            "emptied, anew, renewed",
            "RPUSH k a|PEXPIREAT k PAST|LPOP k|RPUSH k b|PEXPIREAT k FAR",
        ),
        (
            "pushed",
            "RPUSH k a|PEXPIREAT k PAST|RPUSH k b|PEXPIREAT k NEAR",
        ),
        ("renamed", "SET k v PXAT PAST|RENAME k l|PEXPIREAT l NEAR"),
        (
            "renamed and over",
            "SET k v PXAT PAST|RENAME k l|SET other v",
        ),
        (
            "renamed over a held one",
            "SET k v PXAT PAST|SET l w|RENAME l k",
        ),
        (
            "renamed over a held one, long",
            "SET k v PXAT PAST|SET l w PXAT FAR|RENAME l k",
        ),
        (
            "renamed and its name anew",
            "SET k v PXAT PAST|RENAME k l|SET k w|PERSIST l",
        ),
        ("copied", "SET k v PXAT PAST|COPY k l|PEXPIREAT l NEAR"),
        (
            "copied over a held one",
            "SET k v PXAT PAST|SET l w PXAT FAR|COPY l k REPLACE",
        ),
        (
            "copied elsewhere",
            "SET k v PXAT PAST|COPY k l DB 3|SELECT 3|PERSIST l",
        ),
        (
            "moved",
            "SET k v PXAT PAST|MOVE k 3|SELECT 3|PEXPIREAT k NEAR",
        ),
        (
            "moved over what is no more",
            "SELECT 3|RPUSH k a|PEXPIREAT k PAST|LPOP k|SELECT 0|SET k v PXAT FAR|MOVE k 3",
        ),
        (
            "swapped",
            "SET k v PXAT PAST|SWAPDB 0 3|SELECT 3|PEXPIREAT k NEAR|SELECT 0|SET k w",
        ),
        (
            "swapped and over",
            "SET k v PXAT PAST|SET l w PXAT NEAR|SWAPDB 0 3|SET k w PXAT FAR",
        ),
        ("flushed", "SET k v PXAT PAST|FLUSHALL|SET k w"),
        (
            "flushed for long",
            "SELECT 2|SET k v PXAT PAST|FLUSHDB|SET k w PXAT FAR",
        ),
        (
            "stored over",
            "SADD k 1|PEXPIREAT k PAST|SADD l 2|SUNIONSTORE k l",
        ),
        (
            "stored from",
            "SADD k 1|PEXPIREAT k PAST|SADD l 2|SUNIONSTORE m k l",
        ),
        (
            "persisted",
            "HSET k f v|PEXPIREAT k PAST|HSET k g w|PERSIST k",
        ),
        ("taken", "SET k v PXAT PAST|GETDEL k|SET k w PXAT FAR"),
        (
            "in a transaction",
            "MULTI|SET k v PXAT PAST|INCR n|EXEC|MULTI|APPEND k w|PEXPIREAT k NEAR|EXEC",
        ),
        (
            "in seconds",
            "SET k v|EXPIREAT k PASTS|APPEND k w|EXPIREAT k NEARS",
        ),
    ];
    for server in ["redis-7.0", "redis-6.2"] {
        all_as_loaded(server, cases, now);
    }
    // Written at once it is lost: this is what holding is for.
    let (_dir, path) = log_file(&log_of(&timed(cases[0].1, now)));
    let live = Server::start("redis-7.0");
    assert_eq!(
        loaded(&live, &converted(&["--hold", "0", text(&path)])).len(),
        0
    );
    assert_eq!(loaded(&live, &converted(&[text(&path)])).len(), 1);
}

#[test]
fn hash_fields_live_through_a_log_that_renews_them_late() {
    if !available("redis-8.10") {
        return;
    }
    let now = now_ms();
    let cases: &[(&str, &str)] = &[
        (
            "renewed",
            "HSET k f 1 g 2|HPEXPIREAT k PAST FIELDS 1 f|HPEXPIREAT k NEAR FIELDS 1 f",
        ),
        ("over", "HSET k f 1 g 2|HPEXPIREAT k PAST FIELDS 1 f"),
        (
            "all over",
            "HSET k f 1 g 2|HPEXPIREAT k PAST FIELDS 2 f g|SET other v",
        ),
        (
            "set with its time",
            "HSETEX k PXAT PAST FIELDS 2 f 1 g 2|HPEXPIREAT k FAR FIELDS 1 g",
        ),
        (
            "set anew",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|HSET k f 2",
        ),
        (
            "deleted and anew",
            "HSET k f 1 g 2|HPEXPIREAT k PAST FIELDS 1 f|HDEL k f|HSET k f 3",
        ),
        (
            "renamed",
            "HSET k f 1 g 2|HPEXPIREAT k PAST FIELDS 1 f|RENAME k l|HPEXPIREAT l NEAR FIELDS 1 f",
        ),
        (
            "key deleted and anew",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|DEL k|HSET k f 2",
        ),
        (
            "key and field",
            "HSET k f 1 g 2|PEXPIREAT k PAST|HPEXPIREAT k PAST FIELDS 1 f|PEXPIREAT k NEAR",
        ),
        (
            "another type",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|SET k v",
        ),
        (
            "another type by a result",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|SADD l 1|SUNIONSTORE k l",
        ),
        (
            "another type when it was empty",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|HDEL k f|RPUSH k v",
        ),
        (
            "another type that keeps its time",
            "HSET k f 1|PEXPIREAT k PAST|HPEXPIREAT k PAST FIELDS 1 f|SET k v KEEPTTL",
        ),
        (
            "another type that expires",
            "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|SET k v PXAT NEAR",
        ),
    ];
    all_as_loaded("redis-8.10", cases, now);
    // A server that loads this takes the field for expired already, and so loses what it had before it was stopped. A
    // log that is written for a live server need not.
    let script = "HSET k f 1|HPEXPIREAT k PAST FIELDS 1 f|HPERSIST k FIELDS 1 f";
    let (_dir, path) = log_file(&log_of(&timed(script, now)));
    assert_eq!(held_by(&Server::on_log("redis-8.10", &path, &[])).len(), 0);
    let live = Server::start("redis-8.10");
    assert_eq!(loaded(&live, &converted(&[text(&path)])).len(), 1);
}

#[test]
fn keys_of_a_base_live_through_the_commands_behind_it() {
    for (name, preamble) in [
        ("redis-7.0", "yes"),
        ("redis-7.0", "no"),
        ("redis-8.10", "yes"),
        ("redis-6.2", "yes"),
    ] {
        if !available(name) {
            continue;
        }
        let source = Server::logging(name, &["--aof-use-rdb-preamble", preamble]);
        let mut client = source.client();
        let fields = name == "redis-8.10";
        for key in ["renewed", "over", "kept", "anew"] {
            call!(client, "RPUSH", key, "a", "b");
            call!(client, "PEXPIRE", key, "1500");
        }
        if fields {
            call!(client, "HSET", "hash", "f", "1", "g", "2", "h", "3");
            call!(client, "HPEXPIRE", "hash", "1500", "FIELDS", "2", "f", "g");
        }
        source.rewrite_log();
        call!(client, "PEXPIRE", "renewed", "3000000");
        call!(client, "PERSIST", "kept");
        call!(client, "DEL", "anew");
        call!(client, "RPUSH", "anew", "c");
        if fields {
            call!(client, "HPEXPIRE", "hash", "3000000", "FIELDS", "1", "f");
        }
        // The log as it was while all of them lived: the server has not said yet that they are over.
        let dir = tempfile::tempdir().expect("a directory");
        let copy = dir.path().join("appendonly.aof");
        if source.log().is_dir() {
            copy_dir(&source.log(), &copy);
        } else {
            std::fs::copy(source.log(), &copy).expect("a copy");
        }
        assert_eq!(
            held_by(&source).len(),
            4 + usize::from(fields),
            "{name}: too slow"
        );
        std::thread::sleep(Duration::from_millis(1600));
        let wrong = as_loaded(name, &copy);
        assert_eq!(wrong, Vec::<String>::new(), "{name} {preamble}");
        let live = Server::start(name);
        let target = name.strip_prefix("redis-").expect("a Redis");
        let got = loaded(
            &live,
            &converted(&["--target-version", target, text(&copy)]),
        );
        assert_eq!(got.len(), 3 + usize::from(fields), "{name}");
    }
}
