//! `report`: held against what real servers say of the same files, and against the truth of the corpus.

mod servers;
mod truth;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis_migration::rdb::Attributes;
use redis_migration::rdb::write::Writer;
use serde_json::Value;

use crate::support::cli::{Run, code, program, replay_at, run, wait};
use crate::support::client::call;
use crate::support::server::Server;
use crate::support::{fixture, fixtures, log_fixture, name_of, text};

fn report(args: &[&str]) -> Run {
    run(&[&["report"], args].concat(), None)
}

fn json(run: &Run) -> Value {
    serde_json::from_slice(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stderr))
}

/// The report of a file that is whole.
fn json_of(path: &Path, args: &[&str]) -> Value {
    let run = report(&[&["--format", "json", text(path)], args].concat());
    assert_eq!(run.code, 0, "{}: {}", path.display(), run.stderr);
    json(&run)
}

fn number(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} of {value}"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name]
        .as_array()
        .unwrap_or_else(|| panic!("{name} of {value}"))
}

/// A record of CSV. Databases and names are those of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    type_name: String,
    encoding: String,
    elements: u64,
    largest: u64,
    memory: u64,
    expires_at_ms: Option<i64>,
}

/// What a strict reader makes of the CSV of a file.
fn rows_of(run: &Run) -> BTreeMap<(u64, Vec<u8>), Row> {
    // Every record must have as many fields as the first line, and all must be text.
    let mut reader = csv::ReaderBuilder::new().from_reader(&run.stdout[..]);
    let head = reader.headers().expect("a first line").clone();
    let names = "db,key,type,encoding,bytes,memory,elements,largest_element,expires_at_ms";
    assert_eq!(head.iter().collect::<Vec<_>>().join(","), names);
    let mut rows = BTreeMap::new();
    for record in reader.records() {
        let record = record.expect("a record of UTF-8");
        let number = |i: usize| record[i].parse::<u64>().expect("a number");
        let row = Row {
            type_name: record[2].to_owned(),
            encoding: record[3].to_owned(),
            memory: number(5),
            elements: number(6),
            largest: number(7),
            expires_at_ms: match &record[8] {
                "" => None,
                ms => Some(ms.parse().expect("a time")),
            },
        };
        let key = (number(0), unescaped(&record[1]));
        assert_eq!(rows.insert(key, row), None, "a key twice: {record:?}");
    }
    rows
}

/// The key that a text stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut key = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        assert!(!first.is_ascii_control(), "{text:?}");
        match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                key.push(b'\\');
                rest = after;
            }
            (b'\\', [b'x', high, low, after @ ..]) => {
                let hex = |d: &u8| char::from(*d).to_digit(16).expect("a digit") as u8;
                key.push(hex(high) << 4 | hex(low));
                rest = after;
            }
            (b'\\', _) => panic!("{text:?}"),
            _ => key.push(*first),
        }
    }
    key
}

/// Every way to count gives the same sums.
fn adds_up(report: &Value, what: &str) {
    let totals = &report["totals"];
    let numbers = ["keys", "bytes", "memory", "elements"];
    let sum = |rows: &[Value]| -> [u64; 4] {
        numbers.map(|name| rows.iter().map(|row| number(row, name)).sum())
    };
    let want: [u64; 4] = numbers.map(|name| number(totals, name));
    for name in ["types", "encodings", "dbs"] {
        assert_eq!(sum(list(report, name)), want, "{what}: {name}");
    }
    for name in ["slots", "sizes"] {
        assert_eq!(sum(list(&report[name], "buckets")), want, "{what}: {name}");
    }
    let expiry = &report["expiry"];
    let mut all = list(expiry, "buckets").to_vec();
    let expiring: u64 = all.iter().map(|row| number(row, "keys")).sum();
    assert_eq!(expiring, number(totals, "expiring"), "{what}");
    assert_eq!(number(&all[0], "keys"), number(totals, "expired"), "{what}");
    all.push(expiry["none"].clone());
    assert_eq!(sum(&all), want, "{what}: expiry");
    let root = &report["prefixes"]["root"];
    assert_eq!(sum(std::slice::from_ref(root)), want, "{what}: prefixes");
    fn inside(node: &Value, what: &str) {
        let below: u64 = list(node, "children")
            .iter()
            .map(|child| number(child, "keys"))
            .sum();
        assert!(below <= number(node, "keys"), "{what}: {node}");
        for child in list(node, "children") {
            inside(child, what);
        }
    }
    inside(root, what);
}

#[test]
fn every_way_to_count_gives_the_same_sums() {
    for path in fixtures() {
        let name = name_of(&path);
        let whole = json_of(&path, &["--top", "3"]);
        adds_up(&whole, &name);
        // What is counted does not depend on the workers, on names of equal weight, or on what is shown.
        for args in [
            &["--top", "3", "--threads", "7"][..],
            &["--top", "3", "--no-mmap"],
        ] {
            let mut other = json_of(&path, args);
            for name in ["created", "expiry", "inputs"] {
                other[name] = whole[name].clone();
            }
            assert_eq!(other, whole, "{name}");
        }
        let csv = report(&["--format", "csv", text(&path)]);
        let rows = rows_of(&csv);
        assert_eq!(
            rows.len() as u64,
            number(&whole["totals"], "keys"),
            "{name}"
        );
        let memory: u64 = rows.values().map(|row| row.memory).sum();
        assert_eq!(memory, number(&whole["totals"], "memory"), "{name}");
        for key in list(&whole, "largest_by_elements") {
            let row = &rows[&(number(key, "db"), exact(key))];
            assert_eq!(number(key, "elements"), row.elements, "{name}");
            assert_eq!(number(key, "largest_element"), row.largest, "{name}");
        }
        // They are the largest indeed.
        let mut most: Vec<u64> = rows.values().map(|row| row.elements).collect();
        most.sort_unstable_by(|a, b| b.cmp(a));
        most.truncate(3);
        let told = list(&whole, "largest_by_elements").iter();
        assert!(told.map(|key| number(key, "elements")).eq(most), "{name}");
    }
}

/// A snapshot of keys without values to speak of.
fn snapshot<'k>(dir: &Path, keys: impl IntoIterator<Item = &'k [u8]>) -> PathBuf {
    let path = dir.join("dump.rdb");
    let mut writer = Writer::new(Vec::new(), 10).expect("memory");
    for key in keys {
        let key = writer.key(&Attributes::default(), 0, key);
        key.and_then(|()| writer.string(b"v")).expect("memory");
    }
    std::fs::write(&path, writer.finish().expect("memory")).expect("a file");
    path
}

#[test]
fn a_key_of_any_bytes_can_be_had_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys: [&[u8]; 12] = [
        b"",
        b"plain",
        b"\\x41",
        b"back\\slash",
        b"quote\"comma,semi;",
        b"line\r\nline",
        b"\x00\x01\x7f",
        b"\xff\xfe",
        b"caf\xc3\xa9:\xe2\x82\xac",
        // A control character of two bytes, and the first half of one.
        b"\xc2\x9b31m",
        b"\xc2",
        b"=1+1",
    ];
    let path = snapshot(dir.path(), keys);
    let want: BTreeSet<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
    let csv = report(&["--format", "csv", text(&path)]);
    assert_eq!(
        csv.stdout.iter().filter(|b| **b == b'\n').count(),
        keys.len() + 1
    );
    let found = rows_of(&csv).into_keys().map(|(_, key)| key);
    assert_eq!(found.collect::<BTreeSet<_>>(), want);
    let json = json_of(&path, &["--top", "100"]);
    let found = list(&json, "largest_by_bytes").iter().map(exact);
    assert_eq!(found.collect::<BTreeSet<_>>(), want);
}

/// The bytes of a key among the largest.
fn exact(key: &Value) -> Vec<u8> {
    match key.get("key_base64") {
        Some(text) => STANDARD
            .decode(text.as_str().expect("text"))
            .expect("base64"),
        None => key["key"].as_str().expect("text").as_bytes().to_vec(),
    }
}

#[test]
fn many_prefixes_are_counted_within_bounds() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut keys: Vec<Vec<u8>> = Vec::new();
    for i in 0..60_000 {
        keys.push(format!("session/{i:x}:data").into_bytes());
        if i % 4 == 0 {
            keys.push(format!("user:{}:{i}", i % 3).into_bytes());
        }
    }
    let path = snapshot(dir.path(), keys.iter().map(|key| &key[..]));
    let args = ["--separator", ":/", "--by", "keys", "--prefixes", "500"];
    let found = json_of(&path, &args);
    adds_up(&found, "many prefixes");
    let prefixes = &found["prefixes"];
    assert_eq!(prefixes["approximate"], true);
    let lost = number(prefixes, "lost_error");
    let root = &prefixes["root"];
    for (name, keys) in [("session/", 60_000), ("user:", 15_000)] {
        let children = list(root, "children").iter();
        let node = children.into_iter().find(|node| node["prefix"] == name);
        let counted = number(node.expect("a large prefix"), "keys");
        assert!(
            counted <= keys && counted + lost >= keys,
            "{name}: {counted}, {lost}"
        );
    }
    let children = list(root, "children");
    let session = list(&children[0], "children");
    assert_eq!(session.last().expect("a child")["prefix"], "(other)");
    // With room for all of them nothing is lost.
    let whole = json_of(&path, &["--separator", ":/", "--by", "keys"]);
    assert_eq!(whole["prefixes"]["approximate"], false);
    let user = &list(&whole["prefixes"]["root"], "children")[1];
    assert_eq!(list(user, "children").len(), 3);
    assert_eq!(number(&list(user, "children")[0], "keys"), 5000);
}

#[test]
fn what_stands_before_damage_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let keys: Vec<Vec<u8>> = (0..500)
        .map(|i| format!("key:{i:04}").into_bytes())
        .collect();
    let path = snapshot(dir.path(), keys.iter().map(|key| &key[..]));
    let whole = std::fs::read(&path).expect("the file");
    // A record has 12 bytes: type, length, eight of the name, length, one of the value.
    std::fs::write(&path, &whole[..9 + 12 * 300 + 5]).expect("a file");
    let run = report(&["--format", "json", text(&path)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    let found = json(&run);
    adds_up(&found, "cut");
    assert_eq!(number(&found["totals"], "keys"), 300);
    let damage = found["inputs"][0]["damage"].as_str().expect("a sentence");
    assert!(damage.contains("at byte 0xe"), "{damage}");
    assert!(run.stderr.contains(damage), "{}", run.stderr);
    let table = report(&[text(&path)]);
    assert!(String::from_utf8_lossy(&table.stdout).contains(damage));
    // Records that end early do not get the name of a whole list.
    let out = dir.path().join("keys.csv");
    let run = report(&["--format", "csv", "-o", text(&out), text(&path)]);
    assert_eq!((run.code, out.exists()), (3, false));
    let partial = std::fs::read(dir.path().join("keys.csv.partial")).expect("it");
    let rows = rows_of(&Run {
        stdout: partial,
        stderr: String::new(),
        code: 0,
    });
    assert_eq!(rows.len(), 300);
}

#[test]
fn a_value_that_cannot_be_read_is_counted_by_its_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.rdb");
    let mut writer = Writer::new(Vec::new(), 10).expect("memory");
    // A hash whose listpack gives another size than its string has.
    for (ty, key, value) in [
        (0, &b"before"[..], &b"v"[..]),
        (
            16,
            b"broken",
            b"\x20\x00\x00\x00\x02\x00\x01\x01\x01\x01\xff",
        ),
        (0, b"behind", b"v"),
    ] {
        let key = writer.key(&Attributes::default(), ty, key);
        key.and_then(|()| writer.string(value)).expect("memory");
    }
    std::fs::write(&path, writer.finish().expect("memory")).expect("a file");
    let run = report(&["--format", "json", text(&path)]);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("\"broken\" in db 0"), "{}", run.stderr);
    let found = json(&run);
    adds_up(&found, "broken");
    assert_eq!(number(&found["totals"], "keys"), 3);
    assert_eq!(number(&found["totals"], "broken"), 1);
    let rows = rows_of(&report(&["--format", "csv", text(&path)]));
    assert_eq!(rows[&(0, b"broken".to_vec())].encoding, "unreadable");
}

#[test]
fn expired_keys_are_counted_as_such() {
    let path = fixture("expired_redis-7.0_v10.rdb");
    let totals = |args: &[&str]| {
        let found = json_of(&path, args);
        adds_up(&found, "expired");
        ["keys", "expiring", "expired", "filtered"].map(|name| number(&found["totals"], name))
    };
    assert_eq!(totals(&[]), [5, 4, 3, 0]);
    assert_eq!(totals(&["--expired", "skip"]), [2, 1, 0, 3]);
    assert_eq!(totals(&["--now", "1970-01-01T00:00:00Z"]), [5, 4, 0, 0]);
    assert_eq!(totals(&["--type", "string"]), [3, 2, 1, 2]);
}

#[test]
fn a_table_is_plain_text_where_it_is_piped() {
    let path = fixture("all_types_redis-7.0_v10.rdb");
    for (locale, ascii) in [("C", true), ("C.UTF-8", false)] {
        let mut command = program(&["report", text(&path)]);
        let out = command
            .env_remove("LC_CTYPE")
            .env("LC_ALL", locale)
            .output()
            .expect("the program");
        let page = String::from_utf8(out.stdout).expect("text");
        assert_eq!(page.is_ascii(), ascii, "{page}");
        assert!(!page.contains('\x1b'), "{page}");
        for line in page.lines() {
            assert!(line.chars().count() <= 118, "{line}");
        }
        assert!(page.contains("keys        44, 4 expire"), "{page}");
    }
}

#[test]
fn a_file_is_written_whole_and_not_over_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, out) = (
        fixture("mixed_redis-7.0_v10.rdb"),
        dir.path().join("report.json"),
    );
    let args = ["--format", "json", "-o", text(&out), text(&path)];
    let first = report(&args);
    assert_eq!((first.code, first.stdout.len()), (0, 0), "{}", first.stderr);
    let written = std::fs::read(&out).expect("the report");
    let again = report(&args);
    assert_eq!(again.code, 5, "{}", again.stderr);
    assert!(again.stderr.contains("--force"));
    assert_eq!(std::fs::read(&out).expect("the report"), written);
    assert_eq!(report(&[&args[..], &["--force"]].concat()).code, 0);
    let names: BTreeSet<_> = std::fs::read_dir(dir.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn names_can_be_hidden() {
    let path = fixture("mixed_redis-7.0_v10.rdb");
    for format in ["table", "csv", "json"] {
        let run = report(&["--hide-keys", "--format", format, text(&path)]);
        assert_eq!(run.code, 0);
        let page = String::from_utf8(run.stdout).expect("text");
        assert!(!page.contains("user") && page.contains('#'), "{page}");
    }
}

#[test]
fn of_a_log_its_data_set_is_counted_or_its_base_alone() {
    for name in [
        "multi_redis-2.4.18.aof",
        "preamble_redis-5.0.14.aof",
        "multipart_redis-7.0.15",
    ] {
        let log = log_fixture(name);
        let run = report(&["--format", "json", text(&log)]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let whole = json(&run);
        let server = Server::start("redis-7.0");
        let loaded = replay_at(server.port, &[text(&log)]);
        assert_eq!(loaded.code, 0, "{}", loaded.stderr);
        let keyspace = call!(server.client(), "INFO", "keyspace").text();
        let keys: u64 = keyspace
            .lines()
            .filter_map(|line| {
                line.split_once(":keys=")?
                    .1
                    .split_once(',')?
                    .0
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        assert_eq!(whole["totals"]["keys"], keys, "{name}: {keyspace}");

        let base = report(&["--base-only", "--format", "json", text(&log)]);
        if name.starts_with("multi_") {
            assert_eq!((base.code, base.stdout.len()), (2, 0), "{}", base.stderr);
            assert!(base.stderr.contains("no snapshot"), "{}", base.stderr);
            continue;
        }
        assert_eq!(base.code, 0, "{}", base.stderr);
        assert!(base.stderr.contains("not looked at"), "{}", base.stderr);
        let base = json(&base);
        let inputs = base["inputs"].as_array().expect("a list");
        assert!(inputs.iter().any(|input| input["has_log"] == true));
        assert_ne!(base["totals"]["bytes"], whole["totals"]["bytes"], "{name}");
    }
}

#[test]
fn a_closed_reader_ends_it_as_sigpipe_does() {
    let path = fixture("mixed_redis-7.0_v10.rdb");
    let args = [&["report", "--format", "csv"][..], &[text(&path); 12]].concat();
    let mut child = program(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    drop(child.stdout.take());
    assert_eq!(code(wait(&mut child, Duration::from_secs(20))), 141);
}

#[test]
fn a_log_that_ends_within_a_command_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log.aof");
    std::fs::write(
        &log,
        "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n*2\r\n$3\r\nDE",
    )
    .expect("a log");
    let run = run(&["report", "--format", "json", text(&log)], None);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(report["totals"]["keys"], 1);
    let input = &report["inputs"][0];
    assert_eq!(input["has_log"], true);
    let damage = input["damage"].as_str().expect("words");
    assert!(damage.contains("within a command"), "{damage}");
}

#[test]
fn a_broken_log_behind_the_snapshot_is_told_by_base_only_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log.aof");
    let mut bytes = std::fs::read(fixture("all_types_redis-7.0_v10.rdb")).expect("a snapshot");
    bytes.extend_from_slice(b"*1\r\n$4\r\nPING\r\n*x\r\n");
    std::fs::write(&log, bytes).expect("a log");
    let run = run(
        &["report", "--base-only", "--format", "json", text(&log)],
        None,
    );
    assert_eq!(run.code, 3, "{}", run.stderr);
    let report: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(report["totals"]["keys"], 44);
}
