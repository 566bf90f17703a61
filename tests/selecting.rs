//! Which keys pass, and what is changed of those that do.

use std::collections::BTreeSet;

use crate::support::cli::{convert, converted};
use crate::support::data::{DataSet, Value};
use crate::support::resp::{commands, key_names, keys};
use crate::support::server::Server;
use crate::support::{fixture, text};

const ALL: &str = "all_types_redis-7.0_v10.rdb";

/// The commands a fixture becomes with some flags.
fn with(snapshot: &str, args: &[&str]) -> Vec<u8> {
    converted(
        &[
            &["--target-version", "7.0"],
            args,
            &[text(&fixture(snapshot))],
        ]
        .concat(),
    )
}

/// What a server holds after those.
fn loaded(snapshot: &str, args: &[&str]) -> DataSet {
    let server = Server::start("redis-7.0");
    let errors = server.client().pipe(&with(snapshot, args), None).errors;
    assert_eq!(errors, Vec::<String>::new());
    DataSet::read(&mut server.client())
}

#[test]
fn databases_are_chosen_by_number() {
    let dbs = |args: &[&str]| {
        keys(&with(ALL, args))
            .into_iter()
            .map(|(db, _)| db)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(dbs(&[]), BTreeSet::from([0, 1, 3]));
    assert_eq!(dbs(&["--db", "1"]), BTreeSet::from([1]));
    assert_eq!(dbs(&["--db", "0,3"]), BTreeSet::from([0, 3]));
    assert_eq!(dbs(&["--not-db", "0,3"]), BTreeSet::from([1]));
    assert_eq!(dbs(&["--db", "7"]), BTreeSet::new());
}

#[test]
fn keys_are_chosen_by_pattern() {
    let names = |args: &[&str]| key_names(&with(ALL, &[&["--db", "0"], args].concat()));
    assert_eq!(
        names(&["--key", "zset:*"]),
        ["zset:geo", "zset:long", "zset:packed", "zset:skiplist"]
    );
    assert_eq!(
        names(&["--key", "zset:*", "--not-key", "*:[gl]*"]),
        ["zset:packed", "zset:skiplist"]
    );
    assert_eq!(
        names(&["--key", "set:intset??"]),
        ["set:intset16", "set:intset32", "set:intset64"]
    );
    assert_eq!(
        names(&["--key-regex", "^set:intset(16|64)$"]),
        ["set:intset16", "set:intset64"]
    );
    assert_eq!(
        names(&["--key", "set:intset*", "--not-key-regex", "[46]$"]),
        ["set:intset32"]
    );
    // Given twice it is one or the other.
    assert_eq!(
        names(&["--key", "zset:geo", "--key", "set:table"]),
        ["set:table", "zset:geo"]
    );
    // A key need not be text.
    let binary = keys(&with(ALL, &["--key", "string:\\\u{fffd}*"]));
    assert!(binary.len() <= 1);
    assert_eq!(names(&["--key", ""]).len(), 1, "the empty key");
}

#[test]
fn keys_are_chosen_by_type() {
    let prefixes = |args: &[&str]| -> BTreeSet<String> {
        let names = key_names(&with(
            ALL,
            &[&["--db", "0", "--not-key", "expiring:*"], args].concat(),
        ));
        names
            .iter()
            .filter_map(|name| name.split_once(':'))
            .map(|(prefix, _)| prefix.to_owned())
            .collect()
    };
    for kind in ["string", "list", "set", "zset", "hash", "stream"] {
        assert_eq!(
            prefixes(&["--type", kind]),
            BTreeSet::from([kind.to_owned()])
        );
        assert!(!prefixes(&["--not-type", kind]).contains(kind));
    }
    assert_eq!(
        prefixes(&["--type", "zset,hash"]),
        BTreeSet::from(["hash".to_owned(), "zset".to_owned()])
    );
}

#[test]
fn keys_are_chosen_by_expiry() {
    let names = |ttl: &str| key_names(&with(ALL, &["--db", "0", "--ttl", ttl]));
    assert_eq!(names("0s.."), ["expiring:list", "expiring:string"]);
    assert!(
        !names("none")
            .iter()
            .any(|name| name.starts_with("expiring:"))
    );
    assert!(names("none").len() > 20);
    assert_eq!(names("0s..1h"), Vec::<String>::new());
}

#[test]
fn keys_are_chosen_by_size() {
    let giants = |size: &str| key_names(&with("mixed_redis-7.0_v10.rdb", &["--size", size]));
    let big = giants("20kb..");
    assert!(
        big.iter().all(|name| name.starts_with("giant:")) && big.len() >= 4,
        "{big:?}"
    );
    assert!(
        giants("..1kb")
            .iter()
            .all(|name| !name.starts_with("giant:"))
    );
    assert!(giants("1gb..").is_empty());
}

#[test]
fn expired_keys_are_left_out_and_can_be_kept() {
    const EXPIRED: &str = "expired_redis-7.0_v10.rdb";
    assert_eq!(key_names(&with(EXPIRED, &[])), ["lives", "lives:long"]);
    let all = [
        "gone:hash",
        "gone:list",
        "gone:string",
        "lives",
        "lives:long",
    ];
    assert_eq!(key_names(&with(EXPIRED, &["--expired", "keep"])), all);
    // Before their time they were keys like others; after the year 2100 one more is gone.
    assert_eq!(
        key_names(&with(EXPIRED, &["--now", "2020-01-01T00:00:00Z"])),
        all
    );
    assert_eq!(
        key_names(&with(EXPIRED, &["--now", "2101-01-01T00:00:00Z"])),
        ["lives"]
    );
}

#[test]
fn databases_and_names_can_be_changed() {
    let moved = keys(&with(
        ALL,
        &["--db", "1,3", "--db-map", "1=5", "--db-map", "3=6"],
    ));
    let want = [
        (5, "only-in-1"),
        (5, "string:text"),
        (6, "only-in-3"),
        (6, "string:text"),
    ];
    assert_eq!(
        moved,
        want.into_iter()
            .map(|(db, key)| (db, key.as_bytes().to_vec()))
            .collect()
    );

    assert_eq!(
        key_names(&with(
            ALL,
            &["--key", "set:intset*", "--rename-prefix", "set:=bag:"]
        )),
        ["bag:intset16", "bag:intset32", "bag:intset64"]
    );
    assert_eq!(
        key_names(&with(ALL, &["--key", "zset:geo", "--add-prefix", "old:"])),
        ["old:zset:geo"]
    );
    // In every command of a value, XGROUP's included, and under RESTORE too.
    for mode in ["commands", "restore"] {
        let data = loaded(
            ALL,
            &[
                "--mode",
                mode,
                "--key",
                "stream:*",
                "--rename-prefix",
                "stream:=river:",
            ],
        );
        assert!(
            data.dbs[&0].keys().all(|key| key.starts_with(b"river:")) && data.len() >= 5,
            "{:?}",
            data.dbs[&0].keys()
        );
        let Value::Stream(stream) = &data.dbs[&0][&b"river:groups"[..]].value else {
            panic!("not a stream")
        };
        assert_eq!(stream.groups.len(), 2);
    }
}

#[test]
fn expiries_can_be_moved_or_dropped() {
    let key = &b"expiring:string"[..];
    for mode in ["commands", "restore"] {
        let at = |args: &[&str]| {
            loaded(
                ALL,
                &[&["--mode", mode, "--key", "expiring:*"], args].concat(),
            )
            .dbs[&0][key]
                .expires_at_ms
        };
        assert_eq!(at(&[]), Some(4102444800123), "--mode {mode}");
        assert_eq!(at(&["--no-ttl"]), None, "--mode {mode}");
        assert_eq!(
            at(&["--ttl-shift", "1h"]),
            Some(4102444800123 + 3_600_000),
            "--mode {mode}"
        );
        assert_eq!(
            at(&["--ttl-shift=-1h"]),
            Some(4102444800123 - 3_600_000),
            "--mode {mode}"
        );
    }
}

#[test]
fn a_filter_that_nothing_passes_writes_no_key_and_no_select() {
    let bytes = with(ALL, &["--key", "there is no such key"]);
    assert!(
        commands(&bytes)
            .iter()
            .all(|command| command[0] == b"FUNCTION"),
        "{}",
        String::from_utf8_lossy(&bytes)
    );
}

#[test]
fn expiries_of_hash_fields_are_shifted_too_or_the_key_is_rejected() {
    let snapshot = fixture("hash_ttl_redis-7.4.1_v12.rdb");
    let times = |args: &[&str]| -> Vec<i64> {
        commands(&converted(&[args, &[text(&snapshot)]].concat()))
            .iter()
            .filter(|command| command[0] == b"HPEXPIREAT")
            .map(|command| text_of(&command[2]).parse().expect("a time"))
            .collect()
    };
    let plain = times(&[]);
    assert!(!plain.is_empty());
    let later: Vec<i64> = plain.iter().map(|at| at + 3_600_000).collect();
    // A payload cannot be changed inside, so these keys go as commands in restore mode as well.
    for mode in ["commands", "restore", "auto"] {
        assert_eq!(
            times(&["--mode", mode, "--ttl-shift", "1h"]),
            later,
            "--mode {mode}"
        );
        assert_eq!(times(&["--mode", mode, "--no-ttl"]), Vec::<i64>::new());
    }
    let proxy = ["--dialect", "twemproxy", "--ttl-shift", "1h"];
    let run = convert(&[&proxy[..], &[text(&snapshot)]].concat());
    assert_eq!(run.code, 1);
    assert!(
        run.stderr
            .contains("cannot be changed inside a RESTORE payload"),
        "{}",
        run.stderr
    );
}

fn text_of(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}
