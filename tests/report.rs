//! `report`: held against what real servers say of the same files, and against the truth of the corpus.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redis_migration::rdb::Attributes;
use redis_migration::rdb::write::Writer;
use serde_json::Value;

use crate::support::cli::{Run, code, program, run, wait};
use crate::support::client::{Client, Reply, call};
use crate::support::server::{Server, available};
use crate::support::{fixture, fixtures, log_fixture, name_of, rdb_version, text};

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

/// Keys of the databases of a server, by what its own commands say of each.
fn of_server(client: &mut Client) -> BTreeMap<(u64, Vec<u8>), Row> {
    let mut rows = BTreeMap::new();
    for db in 0..16u64 {
        call!(client, "SELECT", db.to_string());
        for key in call!(client, "KEYS", "*").all_bytes() {
            let type_name = call!(client, "TYPE", key).text();
            let elements = match &type_name[..] {
                "string" => 1,
                "list" => call!(client, "LLEN", key).int(),
                "set" => call!(client, "SCARD", key).int(),
                "zset" => call!(client, "ZCARD", key).int(),
                "hash" => call!(client, "HLEN", key).int(),
                _ => call!(client, "XLEN", key).int(),
            };
            let row = Row {
                encoding: call!(client, "OBJECT", "ENCODING", key).text(),
                elements: elements as u64,
                largest: largest_of(client, &type_name, &key),
                memory: 0,
                expires_at_ms: Some(call!(client, "PEXPIRETIME", key).int()).filter(|ms| *ms > 0),
                type_name,
            };
            rows.insert((db, key), row);
        }
    }
    rows
}

/// Bytes of the largest element, as the server sends them.
fn largest_of(client: &mut Client, type_name: &str, key: &[u8]) -> u64 {
    let lens = |reply: Reply| {
        reply
            .all_bytes()
            .into_iter()
            .map(|e| e.len())
            .collect::<Vec<_>>()
    };
    let pairs = |lens: Vec<usize>| lens.chunks(2).map(|pair| pair[0] + pair[1]).collect();
    let lens: Vec<usize> = match type_name {
        "string" => vec![call!(client, "STRLEN", key).int() as usize],
        "list" => lens(call!(client, "LRANGE", key, "0", "-1")),
        "set" => lens(call!(client, "SMEMBERS", key)),
        "zset" => lens(call!(client, "ZRANGE", key, "0", "-1")),
        "hash" => pairs(lens(call!(client, "HGETALL", key))),
        _ => {
            let entries = call!(client, "XRANGE", key, "-", "+").array();
            let fields = entries.into_iter().map(|entry| {
                let [_, fields] = &entry.array()[..] else {
                    panic!("an entry is an id and its fields");
                };
                lens(fields.clone()).iter().sum()
            });
            fields.collect()
        }
    };
    lens.into_iter().max().unwrap_or(0) as u64
}

#[test]
fn each_key_is_what_a_server_of_7_0_says_that_it_is() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::start("redis-7.0");
    let mut files = 0;
    for path in fixtures() {
        // What 7.0 cannot load, and what would be gone when it has.
        if rdb_version(&path) > 10 || name_of(&path).starts_with("expired") {
            continue;
        }
        files += 1;
        let name = name_of(&path);
        server.load(&path);
        let want = of_server(&mut server.client());
        let run = report(&["--format", "csv", text(&path)]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let mut found = rows_of(&run);
        for row in found.values_mut() {
            assert!(row.memory > 0);
            row.memory = 0;
        }
        for (key, row) in &want {
            assert_eq!(
                found.get(key),
                Some(row),
                "{name}: {}",
                key.1.escape_ascii()
            );
        }
        assert_eq!(found.len(), want.len(), "{name}");
    }
    assert!(files > 15, "{files} snapshots");
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

/// What is put into a server, and by how much the estimate may be off, in thousandths of what it takes.
type Load = (&'static str, fn(&mut Client), f64);

/// Filled by commands of the server itself.
const LOADS: [Load; 9] = [
    (
        "strings",
        |c| {
            fill(
                c,
                "for i=1,3000 do redis.call('set','key:'..i,string.rep('x',i%200)) end",
            )
        },
        5.0,
    ),
    (
        "integers",
        |c| fill(c, "for i=1,3000 do redis.call('set','n:'..i,i*7919) end"),
        5.0,
    ),
    (
        "expiring",
        |c| {
            fill(
                c,
                "for i=1,3000 do redis.call('set','e:'..i,'value','ex',100000) end",
            )
        },
        5.0,
    ),
    (
        "lists",
        |c| {
            fill(
                c,
                "for i=1,300 do for j=1,i do redis.call('rpush','l:'..i,string.rep('y',j%300)) end end",
            )
        },
        5.0,
    ),
    (
        "sets",
        |c| {
            fill(
                c,
                "for i=1,300 do for j=1,i do redis.call('sadd','s:'..i,'member'..j); redis.call('sadd','i:'..i,j*i) end end",
            );
            fill(c, "for j=1,2000 do redis.call('sadd','large',j) end");
        },
        5.0,
    ),
    // Levels of a skip list are drawn by lot.
    (
        "zsets",
        |c| {
            fill(
                c,
                "for i=1,300 do for j=1,i do redis.call('zadd','z:'..i,j/7,'member'..j) end end",
            )
        },
        10.0,
    ),
    (
        "hashes",
        |c| {
            fill(
                c,
                "for i=1,600,3 do for j=1,i do redis.call('hset','h:'..i,'field'..j,'value'..j) end end",
            );
            fill(
                c,
                "for i=1,200 do redis.call('hset','w:'..i,'field',string.rep('z',65+i)) end",
            );
        },
        5.0,
    ),
    (
        "streams",
        |c| {
            fill(
                c,
                "for i=1,100 do for j=1,i*3 do redis.call('xadd','x:'..i,(1700000000000+j*37)..'-0','field','value'..j) end end",
            )
        },
        30.0,
    ),
    (
        "groups",
        |c| {
            fill(
                c,
                "for i=1,20 do for j=1,200 do redis.call('xadd','x:'..i,(1700000000000+j*37)..'-0','f','v'..j) end end",
            );
            fill(
                c,
                "for i=1,20 do redis.call('xgroup','create','x:'..i,'workers','0') for k=1,3 do redis.call('xreadgroup','group','workers','consumer'..k,'count','50','streams','x:'..i,'>') end end",
            );
        },
        50.0,
    ),
];

fn fill(client: &mut Client, script: &str) {
    call!(client, "EVAL", script, "0");
}

fn used_memory(client: &mut Client) -> i64 {
    let info = call!(client, "INFO", "memory").text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"));
    line.expect("used_memory").parse().expect("a number")
}

#[test]
fn memory_is_what_a_server_of_7_0_takes() {
    if !available("redis-7.0") {
        return;
    }
    let writer = Server::start("redis-7.0");
    let empty = used_memory(&mut Server::start("redis-7.0").client());
    for (name, load, thousandths) in LOADS {
        writer.flush();
        load(&mut writer.client());
        let file = writer.save();
        let reader = Server::on_snapshot("redis-7.0", &file);
        let mut client = reader.client();
        let grown = (used_memory(&mut client) - empty) as f64;
        let found = json_of(&file, &[]);
        let totals = &found["totals"];
        let estimate = (number(totals, "memory") + number(totals, "tables")) as f64;
        let off = (estimate - grown) * 1000.0 / grown;
        println!("{name}: {grown} bytes, estimated {estimate}, off by {off:.1}/1000");
        assert!(
            off.abs() < thousandths,
            "{name}: {estimate} for {grown}, {off:.1}/1000"
        );
        // What the report says of itself.
        let stated = found["memory_model"]["error_percent"].as_f64();
        assert!(stated.expect("a number") * 10.0 >= thousandths);
        if name == "streams" || name == "groups" {
            // MEMORY USAGE takes 240 bytes for each node of a tree, far more than there are.
            continue;
        }
        // MEMORY USAGE has no table of expiries, entries of tables at 24 bytes of 32, and shared numbers at 16.
        let mut usage = 0;
        for key in call!(client, "KEYS", "*").all_bytes() {
            usage += call!(client, "MEMORY", "USAGE", key, "SAMPLES", "0").int();
        }
        let totals = number(totals, "memory") as f64;
        let ratio = totals / usage as f64;
        let range = if name == "expiring" {
            1.6..1.65
        } else {
            0.98..1.20
        };
        assert!(
            range.contains(&ratio),
            "{name}: {totals} for {usage}, {ratio:.3}"
        );
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
fn slots_are_those_of_a_cluster() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::with("redis-7.0", &["--cluster-enabled", "yes"]);
    let mut client = server.client();
    let keys: [&[u8]; 8] = [
        b"",
        b"foo",
        b"{user}:1",
        b"{user}:2",
        b"a{}b",
        b"x{{y}}z",
        b"\xff\x00{\xfe}",
        b"123456789",
    ];
    let mut want: BTreeMap<u64, u64> = BTreeMap::new();
    for key in keys {
        let slot = call!(client, "CLUSTER", "KEYSLOT", key).int();
        *want.entry(slot as u64).or_default() += 1;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let found = json_of(&snapshot(dir.path(), keys), &["--by", "keys"]);
    let slots = &found["slots"];
    let told = list(slots, "largest").iter();
    let told: BTreeMap<u64, u64> = told
        .map(|row| (number(row, "slot"), number(row, "keys")))
        .collect();
    assert_eq!(told, want);
    assert_eq!(number(slots, "used"), want.len() as u64);
    assert_eq!(number(&slots["most"], "keys"), 2);
    for bucket in list(slots, "buckets") {
        let (from, to) = (number(bucket, "from"), number(bucket, "to"));
        let inside: u64 = want.range(from..=to).map(|(_, keys)| keys).sum();
        assert_eq!(number(bucket, "keys"), inside, "{from} to {to}");
    }
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
fn a_log_is_not_counted_and_that_is_said() {
    let alone = log_fixture("multi_redis-2.4.18.aof");
    let run = report(&[text(&alone)]);
    assert_eq!((run.code, run.stdout.len()), (2, 0), "{}", run.stderr);
    assert!(run.stderr.contains("no snapshot"), "{}", run.stderr);
    for name in ["preamble_redis-5.0.14.aof", "multipart_redis-7.0.15"] {
        let run = report(&["--format", "json", text(&log_fixture(name))]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("not looked at"), "{}", run.stderr);
        let inputs = json(&run)["inputs"].clone();
        let inputs = inputs.as_array().expect("a list");
        assert!(inputs.iter().any(|input| input["has_log"] == true));
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

/// Snapshots of the corpus, each with its truth.
fn corpus_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            corpus_files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rdb")
            && path.with_extension("json").exists()
        {
            found.push(path);
        }
    }
}

/// An expiry that the truth does not know to the millisecond.
const ABOUT: i64 = i64::MIN;

/// What a truth says of each key.
fn truth(path: &Path) -> BTreeMap<(u64, Vec<u8>), Row> {
    let bytes = std::fs::read(path.with_extension("json")).expect("a truth");
    let truth: Value = serde_json::from_slice(&bytes).expect("JSON");
    let decoded = |text: &Value| {
        STANDARD
            .decode(text.as_str().expect("text"))
            .expect("base64")
    };
    let mut rows = BTreeMap::new();
    for (db, records) in truth["dbs"].as_object().expect("databases") {
        for record in records.as_array().expect("records") {
            let value = &record["value"];
            let type_name = match record["type"].as_str().expect("a type") {
                "vectorset" => "vectorset",
                "module" => record["module_type"].as_str().expect("a module's type"),
                other => other,
            };
            let elements = match type_name {
                "list" | "set" | "zset" | "hash" => {
                    value.as_array().expect("elements").len() as u64
                }
                "stream" => number(value, "length"),
                "array" => number(value, "count"),
                _ => 1,
            };
            let mut row = Row {
                type_name: type_name.to_owned(),
                encoding: String::new(),
                elements,
                largest: 0,
                memory: 0,
                expires_at_ms: record["expires_at_ms"].as_i64(),
            };
            // Of the oldest servers only whole seconds can be asked for.
            let precision = record["expires_precision_ms"].as_i64();
            if precision.is_some_and(|ms| ms > 1) {
                row.expires_at_ms = row.expires_at_ms.map(|_| ABOUT);
            }
            rows.insert(
                (db.parse().expect("a number"), decoded(&record["key"])),
                row,
            );
        }
    }
    rows
}

/// What is wrong with the report of a file of the corpus.
fn compare(path: &Path) -> Option<String> {
    let want = truth(path);
    let run = report(&["--format", "csv", text(path)]);
    if run.code != 0 {
        return Some(run.stderr);
    }
    let mut found = rows_of(&run);
    for row in found.values_mut() {
        (row.largest, row.memory) = (0, 0);
        row.encoding.clear();
    }
    let of = |rows: &BTreeMap<(u64, Vec<u8>), Row>, key: &(u64, Vec<u8>)| rows.get(key).cloned();
    for key in want.keys().chain(found.keys()) {
        let (truth, mut told) = (of(&want, key), of(&found, key));
        if let (Some(truth), Some(told)) = (&truth, &mut told)
            && truth.expires_at_ms == Some(ABOUT)
        {
            told.expires_at_ms = told.expires_at_ms.map(|_| ABOUT);
        }
        if truth != told {
            return Some(format!(
                "{}: {truth:?} is told as {told:?}",
                key.1.escape_ascii()
            ));
        }
    }
    let whole = json_of(path, &[]);
    adds_up(&whole, text(path));
    let keys = number(&whole["totals"], "keys");
    let expiring = want.values().filter(|row| row.expires_at_ms.is_some());
    if keys < want.len() as u64 || number(&whole["totals"], "expiring") != expiring.count() as u64 {
        return Some(format!("totals {}", whole["totals"]));
    }
    None
}

#[test]
fn totals_are_the_truth_of_the_corpus() {
    let Ok(corpus) = std::env::var("REDIS_MIGRATION_CORPUS") else {
        println!("SKIPPED: REDIS_MIGRATION_CORPUS is not set");
        return;
    };
    let mut files = Vec::new();
    corpus_files(Path::new(&corpus), &mut files);
    files.sort();
    assert!(files.len() > 100, "{} files of the corpus", files.len());
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(what) = compare(file) {
                        let line = format!("{}: {what}", file.display());
                        wrong.lock().expect("no other panic").push(line);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no other panic");
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        files.len(),
        wrong.join("\n")
    );
}
