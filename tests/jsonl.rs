//! Snapshots and logs as JSON lines, and back: what comes into a server is what was there.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use redis_migration::ErrorKind;
use redis_migration::command::encode::{Form, Settings};
use redis_migration::filter::Filter;
use redis_migration::jsonl::read::load;
use redis_migration::pipeline::{Checksum, Options, convert_bytes};
use serde_json::{Value, json};

use crate::support::cli::{convert, converted, replay, replayed_at, run};
use crate::support::data::{DataSet, diff, held_by};
use crate::support::server::{Server, available};
use crate::support::{fixture, fixtures, log_file, log_fixture, name_of, rdb_version, resp, text};

/// What `jq -c .` makes of lines; the lines themselves where it is not installed.
pub(crate) fn through_jq(lines: Vec<u8>) -> Vec<u8> {
    let started = Command::new("jq")
        .args(["-c", "."])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut jq = match started {
        Ok(jq) => jq,
        Err(error) => {
            let required = std::env::var("REQUIRE_SERVERS").is_ok_and(|value| value == "1");
            assert!(!required, "jq: {error}");
            println!("SKIPPED: jq: {error}");
            return lines;
        }
    };
    let mut stdin = jq.stdin.take().expect("its stdin");
    let writing = std::thread::spawn(move || stdin.write_all(&lines));
    let out = jq.wait_with_output().expect("its end");
    writing.join().expect("no panic").expect("it reads all");
    assert!(out.status.success(), "jq: {}", out.status);
    out.stdout
}

/// The schema beside the description of the lines, as another program understands it.
pub(crate) struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    pub(crate) fn new() -> Schema {
        let schema = serde_json::from_str(include_str!("../src/jsonl/schema.json"));
        let mut compiler = boon::Compiler::new();
        compiler
            .add_resource("file:///schema.json", schema.expect("JSON"))
            .expect("a place");
        let mut schemas = boon::Schemas::new();
        let index = compiler
            .compile("file:///schema.json", &mut schemas)
            .expect("a schema");
        Schema { schemas, index }
    }

    fn takes(&self, line: &Value) -> bool {
        self.schemas.validate(line, self.index).is_ok()
    }

    /// The first line that it does not take.
    pub(crate) fn refuses(&self, lines: &[u8]) -> Option<String> {
        let line = parsed(lines).into_iter().find(|line| !self.takes(line))?;
        let why = self.schemas.validate(&line, self.index).err()?.to_string();
        Some(format!("{line}: {why}"))
    }
}

/// A file of lines in a directory of its own.
fn lines_file(lines: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.jsonl");
    std::fs::write(&path, lines).expect("the lines");
    (dir, path)
}

fn lines_of(path: &Path) -> Vec<u8> {
    converted(&["--format", "jsonl", "--expired", "keep", text(path)])
}

/// Each line, read by another program's parser.
fn parsed(lines: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(lines).expect("JSON is UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect()
}

/// The commands of a file, with scores as their bits: 1e25 and 10000000000000000905969664 are one number.
fn commands(resp: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut commands = resp::commands(resp);
    for command in &mut commands {
        if command[0] == b"ZADD" {
            for score in command[2..].iter_mut().step_by(2) {
                let number: f64 = std::str::from_utf8(score).unwrap().parse().unwrap();
                *score = format!("{:016x}", number.to_bits()).into_bytes();
            }
        }
    }
    commands
}

/// The commands of two outputs are the same.
fn same_commands(one: &[u8], other: &[u8], what: &str) {
    let (one, other) = (commands(one), commands(other));
    let differs = one.iter().zip(&other).find(|(one, other)| one != other);
    assert!(differs.is_none(), "{what}: {differs:?}");
    assert_eq!(one.len(), other.len(), "{what}");
}

#[test]
fn every_snapshot_gives_the_same_commands_by_way_of_its_lines() {
    for snapshot in fixtures() {
        let name = name_of(&snapshot);
        let lines = lines_of(&snapshot);
        let own = converted(&["--expired", "keep", text(&snapshot)]);
        for lines in [through_jq(lines.clone()), lines.clone()] {
            let (_dir, path) = lines_file(&lines);
            let came = converted(&["--expired", "keep", text(&path)]);
            same_commands(&own, &came, &name);
            // And they come to the same lines: nothing is lost on the way that commands do not tell.
            let again = lines_of(&path);
            let behind_head = |lines: &[u8]| {
                let head = lines
                    .iter()
                    .position(|b| *b == b'\n')
                    .expect("a first line");
                lines[head..].to_vec()
            };
            assert!(
                behind_head(&again) == behind_head(&lines_of(&snapshot)),
                "{name}"
            );
        }
    }
}

#[test]
fn what_servers_hold_comes_back_by_way_of_lines() {
    for (name, least) in [("redis-8.10", 9), ("valkey-9.1", 80), ("redis-7.0", 10)] {
        if !available(name) {
            continue;
        }
        let own = Server::start(name);
        let ours = Server::with(name, &["--sanitize-dump-payload", "yes"]);
        let loads = |version: u32| match name {
            "redis-8.10" => (least..=15).contains(&version),
            "valkey-9.1" => version == least,
            _ => version == least,
        };
        let all_types = |path: &PathBuf| {
            let name = name_of(path);
            (name.starts_with("all_types_small") || name.starts_with("hash_ttl"))
                && loads(rdb_version(path))
        };
        let files: Vec<PathBuf> = fixtures().into_iter().filter(all_types).collect();
        assert!(!files.is_empty(), "{name}");
        for snapshot in files {
            own.load(&snapshot);
            let want = held_by(&own);
            assert!(want.len() > 3);
            let (_dir, path) = lines_file(&through_jq(lines_of(&snapshot)));
            for mode in ["auto", "restore", "commands"] {
                ours.flush();
                replayed_at(ours.port, &["--mode", mode, text(&path)]);
                let got = DataSet::read(&mut ours.client());
                let differs = match mode {
                    "restore" => diff(&want, &got),
                    _ => diff(
                        &want.clone().without_minus_zero(),
                        &got.without_minus_zero(),
                    ),
                };
                assert!(
                    differs.is_empty(),
                    "{} {mode} {name}: {differs:#?}",
                    name_of(&snapshot)
                );
            }
        }
    }
}

/// A server takes doubles in arrays that it would not have stored as such, and spoils them.
#[test]
fn arrays_keep_their_numbers() {
    if !available("redis-8.10") {
        return;
    }
    let server = Server::start("redis-8.10");
    let mut client = server.client();
    let texts = [
        "0.1",
        "3.25",
        "-0.0",
        "0.30000000000000004",
        "123456789.125",
        "9223372036854775807",
        "-9007199254740993",
        "007",
        "1e21",
        "inf",
        "-3.0",
        "5",
    ];
    for (n, text) in texts.iter().enumerate() {
        client.call(&[b"ARSET", b"a", n.to_string().as_bytes(), text.as_bytes()]);
    }
    let want = held_by(&server);
    assert_eq!(want.len(), 1);
    let (_dir, path) = lines_file(&lines_of(&server.save()));
    for mode in ["restore", "commands"] {
        server.flush();
        replayed_at(server.port, &["--mode", mode, text(&path)]);
        let differs = diff(&want, &held_by(&server));
        assert!(differs.is_empty(), "{mode}: {differs:#?}");
    }
}

#[test]
fn logs_come_back_with_their_transactions_times_and_databases() {
    for (log, args) in [
        ("multi_redis-2.4.18.aof", &[][..]),
        (
            "expire_relative_redis-2.6.17.aof",
            &["--log-time", "2026-11-22T00:00:00Z"],
        ),
        ("preamble_redis-5.0.14.aof", &[]),
        ("streams_redis-6.2.16.aof", &[]),
        ("timestamps_redis-7.0.15.aof", &[]),
        ("scripts_redis-7.0.15.aof", &[]),
        ("multipart_redis-7.0.15", &[]),
        ("history_redis-8.10.2", &[]),
    ] {
        let log_path = log_fixture(log);
        let own = converted(&[args, &[text(&log_path)]].concat());
        let lines = converted(&[args, &["--format", "jsonl", text(&log_path)]].concat());
        let (_dir, path) = lines_file(&through_jq(lines));
        same_commands(&own, &converted(&[text(&path)]), log);
    }
    let log = log_fixture("timestamps_redis-7.0.15.aof");
    let lines = converted(&["--format", "jsonl", text(&log)]);
    let times: Vec<Value> = parsed(&lines)
        .iter()
        .filter_map(|line| line.get("time").cloned())
        .collect();
    let (_dir, path) = lines_file(&lines);
    let second = times[0].as_i64().expect("seconds");
    let second = jiff::Timestamp::from_second(second)
        .expect("a time")
        .to_string();
    let until = |path: &Path| converted(&["--until", &second, text(path)]);
    assert!(times.len() >= 2 && until(&log).len() < converted(&[text(&log)]).len());
    assert_eq!(until(&log), until(&path));
}

#[test]
fn a_log_is_a_line_for_each_command() {
    let mut log = Vec::new();
    resp::append_command(&mut log, &[b"SELECT", b"5"]);
    resp::append_command(&mut log, &[b"SET", b"k\xff", b"v\n\""]);
    log.extend_from_slice(b"#TS:1700000000\r\n");
    resp::append_command(&mut log, &[b"MULTI"]);
    resp::append_command(&mut log, &[b"EXPIRE", b"k", b"100"]);
    resp::append_command(&mut log, &[b"DEL", b"k"]);
    resp::append_command(&mut log, &[b"EXEC"]);
    let (_dir, path) = log_file(&log);
    let run = convert(&["--format", "jsonl", "--db-map", "5=7", text(&path)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(
        parsed(&run.stdout),
        [
            json!({"db": 7, "command": ["SET", {"base64": "a/8="}, "v\n\""]}),
            json!({"time": 1_700_000_000}),
            json!({"db": 7, "command": ["MULTI"]}),
            json!({"db": 7, "command": ["PEXPIREAT", "k", "1700000100000"]}),
            json!({"db": 7, "command": ["DEL", "k"]}),
            json!({"db": 7, "command": ["EXEC"]}),
        ]
    );
    assert!(run.stderr.contains("6 lines, "), "{}", run.stderr);
}

#[test]
fn the_schema_takes_what_is_written_and_nothing_else() {
    let schema = Schema::new();
    let mut types = BTreeMap::new();
    for snapshot in fixtures() {
        let lines = lines_of(&snapshot);
        assert_eq!(schema.refuses(&lines), None, "{}", name_of(&snapshot));
        for line in parsed(&lines) {
            // Each line is taken for what it is: without a field that it needs, or with one more, it is nothing.
            let mut more = line.clone();
            more["other"] = json!(1);
            assert!(!schema.takes(&more), "{more}");
            if let Some(name) = line["type"].as_str() {
                *types.entry(name.to_owned()).or_insert(0) += 1;
                for field in ["db", "key", "type"] {
                    let mut less = line.clone();
                    less.as_object_mut().expect("an object").remove(field);
                    assert!(!schema.takes(&less), "{less}");
                }
                let mut other = line.clone();
                other["value"] = json!(true);
                assert!(!schema.takes(&other), "{other}");
            }
        }
    }
    for name in [
        "string",
        "list",
        "set",
        "zset",
        "hash",
        "stream",
        "array",
        "vectorset",
    ] {
        assert!(types.contains_key(name), "{types:?}");
    }
    for log in ["timestamps_redis-7.0.15.aof", "preamble_redis-5.0.14.aof"] {
        let lines = converted(&["--format", "jsonl", text(&log_fixture(log))]);
        assert!(parsed(&lines).iter().any(|line| line["command"].is_array()));
        assert_eq!(schema.refuses(&lines), None, "{log}");
    }
    let key = |value: Value, name: &str| json!({"db": 0, "key": "k", "type": name, "value": value});
    for (value, name) in [
        (json!(["a"]), "string"),
        (json!("a"), "list"),
        (json!([["m", "nan"]]), "zset"),
        (json!([["f"]]), "hash"),
        (json!([["f", "v", 0]]), "hash"),
        (json!([[-1, "v"]]), "array"),
        (json!({"entries": [["1", []]]}), "stream"),
        (json!({"base64": "a"}), "string"),
    ] {
        assert!(!schema.takes(&key(value.clone(), name)), "{value}");
    }
}

/// Every form that the lines of a snapshot have, from a server that has everything.
#[test]
fn each_type_is_a_line_of_its_own_form() {
    let lines = lines_of(&fixture("all_types_small_redis-8.10_v15.rdb"));
    let mut by_key: BTreeMap<String, Value> = BTreeMap::new();
    for line in parsed(&lines) {
        if let Some(key) = line["key"].as_str() {
            by_key.insert(format!("{}:{key}", line["db"]), line);
        }
    }
    // What redis-cli of the server shows for these keys, in the lines' form.
    for (key, expected) in [
        ("0:string:text", json!({"type": "string", "value": "hello"})),
        (
            "0:string:int64",
            json!({"type": "string", "value": "9223372036854775807"}),
        ),
        (
            "0:string:crlf",
            json!({"type": "string", "value": "a\r\nb\0c"}),
        ),
        (
            "0:set:intset32",
            json!({"type": "set", "value": ["-32769", "1", "2147483647"]}),
        ),
        (
            "0:zset:packed",
            json!({"type": "zset", "value": [["low", "-inf"], ["", -1.5], ["tenth", 0.1], ["one", 1], ["7", 3],
                ["high", "inf"]]}),
        ),
        (
            "0:hash:field-ttl",
            json!({"type": "hash", "value": [["a", "1", 4_102_444_800_123_i64], ["c", "three", 4_102_444_800_200_i64],
                ["b", "2"]]}),
        ),
        (
            "0:hash:template-packed-1",
            json!({"type": "hash", "value": [["id", "1"], ["city", "Bern"], ["name", "n1"]]}),
        ),
        (
            "0:array:sparse",
            json!({"type": "array", "value": [[0, "hello"], [5, "42"], [7, "3.25"], [9, "s".repeat(31)],
                [100_000, "-7"]]}),
        ),
        (
            "0:expiring:string",
            json!({"type": "string", "value": "later", "expires_at_ms": 4_102_444_800_123_i64}),
        ),
    ] {
        let mut line = by_key[key].clone();
        let fields = line.as_object_mut().expect("an object");
        fields.remove("db");
        fields.remove("key");
        assert_eq!(line, expected, "{key}");
    }
    let nacked = &by_key["0:stream:nack"]["value"];
    assert_eq!(nacked["length"], json!(4));
    assert_eq!(nacked["entries"][0], json!(["1-0", [["f", "1"]]]));
    assert_eq!(nacked["groups"][0]["name"], json!("g"));
    assert!(
        nacked["groups"][0]["released"]
            .as_array()
            .is_some_and(|ids| !ids.is_empty())
    );
    assert!(by_key["0:stream:idmp"]["value"]["idmp"]["duration_secs"] == json!(86400));
}

/// A value in many lines, of which no one is much larger than a quarter of a megabyte.
#[test]
fn large_values_go_over_several_lines() {
    if !available("redis-7.0") {
        return;
    }
    let server = Server::start("redis-7.0");
    let mut client = server.client();
    let script = b"
        for i = 1, 20000 do
            redis.call('RPUSH', 'list', 'element number ' .. i)
            redis.call('SADD', 'set', 'member number ' .. i)
            redis.call('ZADD', 'zset', i / 7, 'member number ' .. i)
            redis.call('HSET', 'hash', 'field number ' .. i, '\\255' .. i)
            redis.call('XADD', 'stream', i .. '-1', 'field', 'value number ' .. i)
        end
        redis.call('XGROUP', 'CREATE', 'stream', 'g', '0')
        for c = 1, 4 do
            redis.call('XREADGROUP', 'GROUP', 'g', 'consumer ' .. c, 'COUNT', '4000', 'STREAMS', 'stream', '>')
        end
        redis.call('SET', 'string', string.rep('\xc3\xa4\\n\"', 200000))
        redis.call('SET', 'binary', string.rep('\\255\\0', 200000))
        redis.call('RPUSH', 'giants', string.rep('a', 1500000), 'b', string.rep('\\254', 1048576))
        redis.call('HSET', 'giant', 'f', string.rep('c', 1100000))
        redis.call('PEXPIREAT', 'hash', '4102444800123')";
    let reply = client.call(&[b"EVAL", script, b"0"]);
    assert!(!format!("{reply:?}").contains("rror"), "{reply:?}");
    let want = held_by(&server);
    let lines = lines_of(&server.save());
    let mut parts: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let line_bytes = line.len();
        let line: Value = serde_json::from_slice(line).expect("JSON");
        let Some(key) = line["key"].as_str() else {
            continue;
        };
        let giant = key.starts_with("giant");
        assert!(giant || line_bytes < 300_000, "{key}: {line_bytes}");
        let part = parts.entry(key.to_owned()).or_default();
        assert_eq!(line["part"].as_u64().unwrap_or(0), *part, "{key}");
        assert!(line.get("type").is_some());
        *part += 1;
    }
    for key in [
        "list", "set", "zset", "hash", "stream", "string", "binary", "giants",
    ] {
        assert!(parts[key] >= 2, "{parts:?}");
    }
    let (_dir, path) = lines_file(&through_jq(lines.clone()));
    for mode in ["commands", "restore"] {
        server.flush();
        replayed_at(server.port, &["--mode", mode, text(&path)]);
        let differs = diff(&want, &held_by(&server));
        assert!(differs.is_empty(), "{mode}: {differs:#?}");
    }
    // Whatever line is missing is missed.
    let all: Vec<&[u8]> = lines.split_inclusive(|b| *b == b'\n').collect();
    for (n, line) in all.iter().enumerate() {
        let goes_on = line
            .starts_with(b"{\"db\":0,\"key\":\"stream\",\"type\":\"stream\",\"part\":1,")
            || line.ends_with(b"\"more\":true}\n") && n % 9 == 0;
        if !goes_on {
            continue;
        }
        let mut left = all.clone();
        left.remove(n);
        let (_dir, path) = lines_file(&left.concat());
        let run = convert(&["-q", text(&path), "-o", "/dev/null", "--force"]);
        assert_eq!(run.code, 3, "line {n}: {}", run.stderr);
        assert!(run.stderr.contains("was expected"), "{}", run.stderr);
    }
}

/// What a broken key left in the output is taken back, in it and by whoever reads it.
#[test]
fn a_key_that_breaks_in_its_middle_is_taken_back() {
    let mut file = b"REDIS0004\xfe\x02\x00\x01a\x01b\x01\x01l\x80\x00\x00\xc3\x50".to_vec();
    for i in 0..50_000 {
        match i {
            // A match at the very start of the output.
            45_000 => file.extend_from_slice(b"\xc3\x03\x05\x60\x00\x00"),
            _ => {
                file.push(60);
                file.extend_from_slice(format!("{i:060}").as_bytes());
            }
        }
    }
    file.extend_from_slice(b"\x00\x01c\x01d\xff");
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("dump.rdb");
    std::fs::write(&path, &file).expect("a snapshot");
    let run = convert(&["--format", "jsonl", "--on-error", "continue", text(&path)]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let lines = parsed(&run.stdout);
    let of_list = lines.iter().filter(|line| line["key"] == "l").count();
    assert!(of_list > 3, "{of_list}");
    let [.., dropped, last] = &lines[..] else {
        panic!("{} lines", lines.len())
    };
    assert_eq!(*dropped, json!({"db": 2, "key": "l", "dropped": true}));
    assert_eq!(
        *last,
        json!({"db": 2, "key": "c", "type": "string", "value": "d"})
    );
    let (_dir, path) = lines_file(&run.stdout);
    let came = converted(&[text(&path)]);
    assert_eq!(resp::lines(&came), ["SELECT 2", "SET a b", "SET c d"]);

    // Without the flag it ends there, and what there is of it is not taken for the whole.
    let run = convert(&["--format", "jsonl", text(&dir.path().join("dump.rdb"))]);
    assert_eq!(run.code, 3);
    let (_dir, path) = lines_file(&run.stdout);
    let run = convert(&[text(&path)]);
    assert!(
        run.code == 3 && run.stderr.contains("is not at its end"),
        "{}",
        run.stderr
    );
}

#[test]
fn selection_and_changes_hold_for_lines() {
    let snapshot = fixture("all_types_small_redis-7.0_v10.rdb");
    let args = [
        "--format",
        "jsonl",
        "--db",
        "1",
        "--key",
        "string:*",
        "--db-map",
        "1=9",
        "--add-prefix",
        "p/",
        "--no-functions",
        text(&snapshot),
    ];
    let lines = parsed(&converted(&args));
    assert_eq!(lines[0]["rdb"], "REDIS0010");
    assert_eq!(
        lines[1..],
        [json!({"db": 9, "key": "p/string:text", "type": "string", "freq": 5, "value": "in db 1"})]
    );
    let shifted = [
        "--format",
        "jsonl",
        "--key",
        "expiring:*",
        "--ttl-shift",
        "1s",
        text(&snapshot),
    ];
    for line in &parsed(&converted(&shifted))[1..] {
        if let Some(at) = line["expires_at_ms"].as_i64() {
            assert!(at % 1000 < 500 && at > 4_102_444_801_000, "{line}");
        }
    }
}

/// Lines as people write them, and every way in which they can be wrong.
#[test]
fn lines_that_are_wrong_are_named() {
    let good = concat!(
        "{\"key\":\"a\",\"db\":0,\"value\":\"1\",\"type\":\"string\"}\n",
        "\n",
        "  {\"db\":\"0\",\"key\":\"z\",\"type\":\"zset\",\"value\":[[\"m\",1e3],[\"n\",\"-0\"]]}\r\n",
        "{\"db\":0,\"key\":\"h\",\"type\":\"hash\",\"expires_at_ms\":4102444800123,\"value\":[[\"f\",\"v\",null]]}"
    );
    let (_dir, path) = lines_file(good.as_bytes());
    let came = converted(&["--on-exist", "merge", text(&path)]);
    assert_eq!(
        resp::lines(&came),
        [
            "SELECT 0",
            "SET a 1",
            "ZADD z 1000 m -0 n",
            "HSET h f v",
            "PEXPIREAT h 4102444800123"
        ]
    );
    let key = |rest: &str| format!("{{\"db\":0,\"key\":\"k\",{rest}}}");
    let stream = |rest: &str| key(&format!("\"type\":\"stream\",\"value\":{{{rest}}}"));
    for (line, says) in [
        ("{\"db\":0,\"key\":\"k\"", "EOF while parsing an object"),
        ("{", "jq -c . puts each in one"),
        ("[]", "line 2"),
        ("{}", "exactly one of"),
        (
            "{\"db\":0,\"key\":\"k\",\"function\":\"f\"}",
            "exactly one of",
        ),
        ("{\"db\":0,\"keys\":\"k\"}", "unknown field `keys`"),
        (
            "{\"key\":\"k\",\"type\":\"string\",\"value\":\"v\"}",
            "db: is missing",
        ),
        (&key("\"value\":\"v\""), "type: is missing"),
        (&key("\"type\":\"string\""), "value: is missing"),
        (
            &key("\"type\":\"string\",\"value\":12"),
            "value: invalid type: integer `12`",
        ),
        (
            &key("\"type\":\"string\",\"value\":{\"base64\":\"a\"}"),
            "base64 comes in groups of four",
        ),
        (
            &key("\"type\":\"string\",\"value\":{\"base64\":\"a=b=\"}"),
            "base64",
        ),
        (
            &key("\"type\":\"string\",\"value\":{\"base65\":\"\"}"),
            "base64",
        ),
        (
            &key("\"type\":\"lists\",\"value\":[]"),
            "\"lists\" is none that is known",
        ),
        (&key("\"type\":\"list\",\"value\":{}"), "an array"),
        (
            &key("\"type\":\"zset\",\"value\":[[\"m\",\"nan\"]]"),
            "a score",
        ),
        (
            &key("\"type\":\"zset\",\"value\":[[\"m\"]]"),
            "invalid length 1",
        ),
        (
            &key("\"type\":\"hash\",\"value\":[[\"f\",\"v\",0]]"),
            "none that servers store",
        ),
        (
            &key("\"type\":\"hash\",\"value\":[[\"f\",\"v\",1,2]]"),
            "trailing",
        ),
        (
            &key("\"type\":\"array\",\"value\":[[1,\"\"],[1,\"\"]]"),
            "index 1 is out of order",
        ),
        (
            &key("\"type\":\"set\",\"value\":[],\"freq\":256"),
            "freq: 256 is out of range",
        ),
        (
            &key("\"type\":\"set\",\"value\":[],\"expires_at_ms\":1.5"),
            "expires_at_ms: invalid type",
        ),
        (
            &key("\"type\":\"set\",\"value\":[],\"part\":1"),
            "part 0 of a set was expected",
        ),
        (
            &key("\"type\":\"set\",\"value\":[],\"more\":true"),
            "its part 1 was expected",
        ),
        (
            &key("\"type\":\"x\",\"rdb_type\":7,\"raw\":{\"base64\":\"AA==\"}"),
            "raw: is no value of type 7",
        ),
        (
            &key("\"type\":\"x\",\"rdb_type\":10,\"raw\":\"a\""),
            "none whose values stand as raw",
        ),
        (
            &key("\"type\":\"set\",\"value\":[],\"meta\":\"a\""),
            "meta: is no metadata",
        ),
        (&stream("\"entries\":[]"), "last_id: is missing"),
        (
            &stream("\"entries\":[[\"2-0\",[]],[\"1-0\",[]]]"),
            "1-0 is out of order",
        ),
        (&stream("\"entries\":[[\"2\",[]]]"), "milliseconds-sequence"),
        (
            &stream("\"entries\":[],\"length\":1,\"last_id\":\"0-0\""),
            "1 entries were to come, and 0 did",
        ),
        (
            &stream("\"entries\":[[\"2-0\",[]]],\"length\":1,\"last_id\":\"1-0\""),
            "less than that of the last",
        ),
        (
            "{\"jsonl\":\"x\",\"version\":2}",
            "version: 2 is later than 1",
        ),
        ("{\"module_aux\":\"m\",\"raw\":\"\"}", "no data of a module"),
        ("{\"db\":0,\"command\":[]}", "has no arguments"),
        ("{\"db\":0,\"command\":[1]}", "command: invalid type"),
        ("\u{1}", "line 2"),
        (
            "{\"db\":0,\"key\":\"\\ud800\",\"type\":\"set\",\"value\":[]}",
            "line 2",
        ),
    ] {
        let first = "{\"db\":0,\"key\":\"first\",\"type\":\"string\",\"value\":\"1\"}\n";
        let (_dir, path) = lines_file(format!("{first}{line}\n").as_bytes());
        let run = convert(&[text(&path)]);
        assert_eq!(run.code, 3, "{line}: {}", run.stderr);
        assert!(run.stdout.is_empty(), "{line}");
        assert!(
            run.stderr.contains("x.jsonl: line 2: "),
            "{line}: {}",
            run.stderr
        );
        assert!(run.stderr.contains(says), "{line}: {}", run.stderr);
        if line.contains("\"key\":\"k\",")
            && line.contains("\"db\":0")
            && !line.contains("more")
            && !line.contains("function")
        {
            assert!(
                run.stderr.contains("key \"k\" in db 0"),
                "{line}: {}",
                run.stderr
            );
        }
    }
    // Keys behind commands would not stand where a snapshot is loaded.
    let behind = "{\"db\":0,\"command\":[\"PING\"]}\n{\"db\":0,\"key\":\"k\",\"type\":\"set\",\"value\":[\"1\"]}\n";
    let (_dir, path) = lines_file(behind.as_bytes());
    let run = convert(&[text(&path)]);
    assert!(
        run.code == 3 && run.stderr.contains("line 2: commands stand before it"),
        "{}",
        run.stderr
    );
}

/// The lines of a snapshot in memory, all of which can be read.
fn lines_in_memory(snapshot: &[u8]) -> Vec<u8> {
    let settings = Settings {
        form: Form::JsonLines,
        filter: Filter {
            keep_expired: true,
            ..Filter::default()
        },
        ..Settings::default()
    };
    let options = Options {
        threads: 1,
        checksum: Checksum::Along,
        from: 0,
        replace_before: 0,
    };
    let (lines, report, rejects) = convert_bytes(snapshot, &settings, &options);
    assert!(report.error.is_none(), "{:?}", report.error);
    assert!(rejects.is_empty(), "{rejects:?}");
    lines
}

/// Lines with a byte or two altered, cut out or doubled: either they are refused, at a place inside the file, or what
/// is understood of them is a whole snapshot that comes back to its lines.
#[test]
fn altered_lines_are_refused_or_understood() {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let behind_head = |lines: &[u8]| {
        let head = lines.iter().position(|b| *b == b'\n');
        head.map_or(Vec::new(), |n| lines[n..].to_vec())
    };
    let (mut refused, mut understood) = (0, 0);
    for name in [
        "all_types_small_redis-8.10_v15.rdb",
        "all_types_small_valkey-9.1_v80.rdb",
    ] {
        let whole = lines_of(&fixture(name));
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        for round in 0..6000 {
            let mut line = lines[round % lines.len()].to_vec();
            for _ in 0..=next(2) {
                let at = next(line.len());
                match next(5) {
                    0 => line[at] = next(256) as u8,
                    1 => line[at] = b"0123456789-[]{},:\"\\."[next(20)],
                    2 => drop(line.remove(at)),
                    3 => line.insert(at, line[at]),
                    _ => line.truncate(at.max(1)),
                }
            }
            let altered = [lines[0], &line, lines[1]].concat();
            match load(&altered, &AtomicBool::new(false)) {
                Ok(spool) => {
                    let map = spool.into_map().expect("a map");
                    if map.bytes().starts_with(b"*") || map.bytes().starts_with(b"#") {
                        continue;
                    }
                    understood += 1;
                    let came = lines_in_memory(map.bytes());
                    let spool = load(&came, &AtomicBool::new(false)).expect("what was written");
                    let again = lines_in_memory(spool.into_map().expect("a map").bytes());
                    assert_eq!(behind_head(&came), behind_head(&again));
                }
                Err(error) => {
                    refused += 1;
                    assert!(matches!(error.kind(), ErrorKind::BadLine { .. }), "{error}");
                    let at = error.at().expect("a place").offset;
                    assert!(at <= altered.len() as u64, "{error}");
                }
            }
        }
    }
    assert!(refused > 2000 && understood > 500, "{refused} {understood}");
}

#[test]
fn lines_come_from_a_pipe_and_packed() {
    let snapshot = fixture("all_types_small_redis-7.0_v10.rdb");
    let lines = lines_of(&snapshot);
    let (_dir, path) = lines_file(&lines);
    let want = converted(&["--expired", "keep", text(&path)]);
    let piped = run(&["convert", "--expired", "keep", "-"], Some(&lines));
    assert!(piped.code == 0 && piped.stdout == want, "{}", piped.stderr);
    let gzip = Command::new("gzip")
        .arg("-k")
        .arg(&path)
        .status()
        .expect("gzip");
    assert!(gzip.success());
    let packed = path.with_extension("jsonl.gz");
    assert_eq!(converted(&["--expired", "keep", text(&packed)]), want);
    assert_eq!(
        converted(&["--expired", "keep", "--no-mmap", text(&path)]),
        want
    );
}

#[test]
fn what_is_about_commands_has_no_meaning_for_lines() {
    let snapshot = fixture("empty_redis-7.0_v10.rdb");
    for flags in [
        ["--mode", "restore"],
        ["--dialect", "twemproxy"],
        ["--target-version", "6.2"],
        ["--on-exist", "merge"],
        ["--batch-elements", "7"],
        ["--batch-bytes", "7kb"],
    ] {
        let run = convert(&[&["--format", "jsonl"], &flags[..], &[text(&snapshot)]].concat());
        assert_eq!(run.code, 2, "{flags:?}");
        assert!(
            run.stderr
                .contains(&format!("{} is about commands", flags[0])),
            "{}",
            run.stderr
        );
    }
    assert_eq!(parsed(&lines_of(&snapshot)).len(), 1);
    let (_dir, path) = lines_file(&lines_of(&snapshot));
    assert_eq!(converted(&[text(&path)]), b"");
    let run = convert(&["--follow", "--checkpoint", "x.ckpt", text(&path)]);
    assert!(
        run.code == 3 && run.stderr.contains("cannot be followed"),
        "{}",
        run.stderr
    );
    let run = replay(&["--dry-run", "-p", "1", text(&path)]);
    assert_eq!(run.code, 4, "{}", run.stderr);
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log.aof");
    std::fs::write(&log, "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n").expect("a log");
    let redis = fixture("all_types_redis-7.0_v10.rdb");
    let valkey = fixture("all_types_valkey-9.1_v80.rdb");
    for (inputs, code) in [
        ([&log, &redis], 5),
        ([&redis, &log], 0),
        ([&redis, &valkey], 5),
        ([&redis, &redis], 0),
    ] {
        let run = convert(&["--format", "jsonl", text(inputs[0]), text(inputs[1])]);
        assert_eq!(run.code, code, "{inputs:?}: {}", run.stderr);
    }
}

#[test]
fn a_select_among_the_commands_is_refused() {
    let lines = b"{\"db\":3,\"command\":[\"Select\",\"5\"]}\n{\"db\":3,\"command\":[\"SET\",\"a\",\"b\"]}\n";
    let (_dir, file) = crate::support::log_file(lines);
    let run = convert(&[text(&file)]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(
        run.stderr.contains("line 1: command: SELECT"),
        "{}",
        run.stderr
    );
}

/// The oldest type that a stream fits into is one that a server of its file's version knows.
#[test]
fn lines_of_a_7_0_are_whole_to_a_deep_check() {
    let lines = converted(&[
        "--format",
        "jsonl",
        text(&fixture("all_types_redis-7.0_v10.rdb")),
    ]);
    let run = crate::support::cli::run(&["check", "--deep", "-"], Some(&lines));
    assert_eq!(run.code, 0, "{}", String::from_utf8_lossy(&run.stdout));
}
