//! What becomes of the commands of a log: which are chosen, how they change, what they mean later, and for what they
//! are put in other words.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::cli::{becomes, convert, convert_lines, converted};
use crate::support::client::call;
use crate::support::data::{DataSet, Value, diff, held_by, loaded};
use crate::support::resp::{commands, lines, log_of};
use crate::support::script::{Scope, play};
use crate::support::server::{Nutcracker, Server, available};
use crate::support::{log_file, log_fixture, now_ms, text};

// Chosen and changed: the same script under many rules.

/// A rule: the flags, and what of a key's record they leave; the database and the name come out as they are given.
type Rule = (
    &'static [&'static str],
    fn(&mut u64, &mut Vec<u8>, &mut Option<i64>) -> bool,
);

/// What a server makes of another one's log. That is not all that the other one holds: how many entries a group has read
/// is not logged in every case.
fn reloaded(source: &Server) -> DataSet {
    held_by(&Server::on_log("redis-7.0", &source.log(), &[]))
}

fn under(data: &DataSet, rule: Rule) -> DataSet {
    let mut out = DataSet::default();
    for (db, keys) in &data.dbs {
        for (key, record) in keys {
            let (mut db, mut key, mut record) = (*db, key.clone(), record.clone());
            if rule.1(&mut db, &mut key, &mut record.expires_at_ms) {
                out.dbs.entry(db).or_default().insert(key, record);
            }
        }
    }
    out
}

fn prefixed(key: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    match key.strip_prefix(old) {
        Some(rest) => [new, rest].concat(),
        None => key.to_vec(),
    }
}

/// Plays a script into a server and loads its log under each rule: a base, and what came after it.
fn differential(scope: Scope, seeds: &[u64], target: &str, rules: &[Rule]) {
    let for_target = ["--target-version", target];
    for seed in seeds {
        let source = Server::logging("redis-7.0", &[]);
        play(&mut source.client(), *seed, scope);
        source.rewrite_log();
        play(&mut source.client(), *seed + 1000, scope);
        let all = reloaded(&source);
        assert!(all.len() > 20, "seed {seed}: {} keys", all.len());
        let live = Server::start(&format!("redis-{target}"));
        let parts = source.log();
        for rule in rules {
            let mut want = under(&all, *rule);
            if target == "6.2" {
                as_6_2(&mut want);
            }
            // Without a version of the target most commands pass unseen, which is another way through the program.
            let ways = if target == "7.0" {
                &[&for_target[..], &[]][..]
            } else {
                &[&for_target[..]]
            };
            for way in ways {
                let run = convert(&[way, rule.0, &[text(&parts)]].concat());
                let what = format!("seed {seed} {way:?} {:?}", rule.0);
                assert_eq!(run.code, 0, "{what}: {}", run.stderr);
                live.flush();
                let errors = live.client().pipe(&run.stdout, None).errors;
                assert_eq!(errors, Vec::<String>::new(), "{what}");
                let wrong = diff(&want, &held_by(&live));
                assert_eq!(wrong, Vec::<String>::new(), "{what}");
            }
        }
    }
}

/// Leaves of a data set what a server of 6.2 can tell of it.
fn as_6_2(data: &mut DataSet) {
    for record in data.dbs.values_mut().flat_map(BTreeMap::values_mut) {
        if let Value::Stream(stream) = &mut record.value {
            stream.extras.clear();
            for group in stream.groups.values_mut() {
                group.entries_read = None;
            }
        }
    }
}

const PREFIXES: &[&str] = &["a:", "b:", "c:"];

#[test]
fn keys_of_a_log_are_chosen_and_changed() {
    let scope = Scope {
        prefixes: PREFIXES,
        dbs: &["0", "1", "3"],
        several_keys: true,
        across: true,
        untyped: true,
    };
    let rules: &[Rule] = &[
        (&[], |_, _, _| true),
        (&["--key", "a:*"], |_, key, _| key.starts_with(b"a:")),
        (&["--not-key", "a:*"], |_, key, _| !key.starts_with(b"a:")),
        (
            &["--key-regex", "^[ab]:", "--not-key", "b:*"],
            |_, key, _| key.starts_with(b"a:"),
        ),
        (&["--rename-prefix", "a:=longer:"], |_, key, _| {
            *key = prefixed(key, b"a:", b"longer:");
            true
        }),
        (
            &["--add-prefix", "p:", "--rename-prefix", "b:="],
            |_, key, _| {
                *key = [&b"p:"[..], &prefixed(key, b"b:", b"")].concat();
                true
            },
        ),
        (&["--no-ttl"], |_, _, at| {
            *at = None;
            true
        }),
        (&["--ttl-shift", "2h"], |_, _, at| {
            *at = at.map(|at| at + 7_200_000);
            true
        }),
        (&["--hold", "0"], |_, _, _| true),
        (&["--hold", "3650d"], |_, _, _| true),
        (&["--db-map", "3=7"], |db, _, _| {
            *db = if *db == 3 { 7 } else { *db };
            true
        }),
        (
            &[
                "--key",
                "b:*",
                "--db-map",
                "0=2",
                "--db-map",
                "1=0",
                "--rename-prefix",
                "b:=z:",
                "--ttl-shift",
                "1h",
            ],
            |db, key, at| {
                let chosen = key.starts_with(b"b:");
                *db = match *db {
                    0 => 2,
                    1 => 0,
                    other => other,
                };
                *key = prefixed(key, b"b:", b"z:");
                *at = at.map(|at| at + 3_600_000);
                chosen
            },
        ),
    ];
    differential(scope, &[1, 2, 3], "7.0", rules);
    differential(scope, &[4], "6.2", &rules[..8]);
}

#[test]
fn databases_and_types_of_a_log_are_chosen() {
    let scope = Scope {
        prefixes: PREFIXES,
        dbs: &["0", "1", "3"],
        several_keys: true,
        across: false,
        untyped: false,
    };
    let rules: &[Rule] = &[
        (&["--db", "1"], |db, _, _| *db == 1),
        (&["--not-db", "0,3"], |db, _, _| *db == 1),
        (&["--db", "0,3", "--db-map", "3=1"], |db, _, _| {
            let chosen = *db != 1;
            *db = u64::from(*db == 3);
            chosen
        }),
        // The names tell the types.
        (&["--type", "list,zset"], |_, key, _| {
            let key = String::from_utf8_lossy(key);
            key.contains("list") || key.contains("zset")
        }),
        (&["--not-type", "stream", "--key", "a:*"], |_, key, _| {
            let key = String::from_utf8_lossy(key);
            key.starts_with("a:") && !key.contains("stream")
        }),
    ];
    differential(scope, &[11, 12, 13], "7.0", rules);
}

#[test]
fn commands_of_several_keys_are_taken_apart_where_that_is_exact() {
    let script = "SET a:1 x|MSET a:1 1 b:1 2 a:2 3|DEL b:1 a:1|UNLINK b:1 b:2|UNLINK a:2 b:2";
    assert_eq!(
        becomes(script, &["--key", "a:*"]),
        "SELECT 0|SET a:1 x|MSET a:1 1 a:2 3|DEL a:1|UNLINK a:2"
    );
    assert_eq!(
        becomes("MSETEX 2 a:1 1 b:1 2 PXAT 4000000000000", &["--key", "a:*"]),
        "SELECT 0|SET a:1 1 PXAT 4000000000000"
    );
    assert_eq!(
        becomes("MSETEX 2 a:1 1 b:1 2 KEEPTTL", &["--target-version", "6.0"]),
        "SELECT 0|SET a:1 1 KEEPTTL|SET b:1 2 KEEPTTL"
    );
    assert_eq!(
        becomes("MSETNX a:1 1 b:1 2|TOUCH a:1 b:1", &["--not-key", "a:*"]),
        "SELECT 0|MSET b:1 2"
    );
}

/// A run that meets a command that it must refuse: what it says and does, with and without --on-error continue.
fn refuses(what: &str, refused: &str, args: &[&str]) {
    let (dir, path) = log_file(&log_of(&format!("SET a:0 1|{refused}|SET a:last 1")));
    let offset = format!("{:#x}", log_of("SET a:0 1").len());
    let mut words = refused.split(' ');
    let name = words.next().unwrap_or_default();
    // The first key stands behind the name in all but these, of which one has a key and others have none.
    let key = match name {
        "FUNCTION" => "",
        "EVAL" | "BITOP" => words
            .nth(if name == "EVAL" { 2 } else { 1 })
            .unwrap_or_default(),
        _ => words.next().unwrap_or_default(),
    };
    let run = convert(&[args, &[text(&path)]].concat());
    assert_eq!(run.code, 5, "{what}: {}", run.stderr);
    assert!(
        run.stderr.contains(name) && run.stderr.contains(&offset) && run.stderr.contains(what),
        "{what} at {offset}: {}",
        run.stderr
    );
    let rejects = dir.path().join("rejects.csv");
    let goes_on = [
        "--on-error",
        "continue",
        "--rejects",
        text(&rejects),
        text(&path),
    ];
    let run = convert(&[args, &goes_on].concat());
    assert_eq!(run.code, 1, "{what}: {}", run.stderr);
    let out = lines(&run.stdout);
    let written: Vec<&str> = out.iter().map(String::as_str).collect();
    let kept = written.strip_prefix(&["SELECT 0"]).unwrap_or(&written);
    assert_eq!(kept, ["SET a:0 1", "SET a:last 1"], "{what}");
    let csv = std::fs::read_to_string(&rejects).expect("the list");
    let row = csv.lines().nth(1).unwrap_or_default();
    assert!(
        row.contains(&format!(",{name},"))
            && row.contains(&offset)
            && row.contains(what)
            && row.contains(key),
        "{what}: {csv}"
    );
    assert_eq!(csv.lines().count(), 2, "{what}: {csv}");
}

#[test]
fn what_cannot_be_taken_apart_is_refused_by_name() {
    let key = &["--key", "a:*"][..];
    let cases: &[(&str, &str, &[&str])] = &[
        ("only 1 of its 2 keys", "RENAME a:1 b:1", key),
        ("only 1 of its 2 keys", "RENAME b:1 a:1", key),
        ("only 1 of its 2 keys", "COPY a:1 b:1", key),
        ("only 1 of its 2 keys", "LMOVE a:1 b:1 LEFT LEFT", key),
        ("only 2 of its 3 keys", "SUNIONSTORE a:1 a:2 b:1", key),
        ("only 2 of its 3 keys", "ZUNIONSTORE a:1 2 a:2 b:1", key),
        ("only some are chosen", "FLUSHALL", key),
        ("only some are chosen", "FLUSHDB", key),
        ("only some keys are chosen", "SWAPDB 0 1", key),
        ("only some are chosen", "EVAL return(0) 0", key),
        ("their names change", "FLUSHALL", &["--add-prefix", "p"]),
        (
            "only some are chosen or they change",
            "FLUSHALL",
            &["--db-map", "7=8"],
        ),
        ("only some keys are chosen", "SWAPDB 0 1", &["--db", "0"]),
        (
            "only some keys are chosen",
            "SWAPDB 0 1",
            &["--db-map", "7=8"],
        ),
        ("is not chosen", "MOVE a:1 1", &["--db", "0"]),
        ("is not chosen", "COPY a:1 a:2 DB 1", &["--db", "0"]),
        ("no command of any known server", "NOSUCH a:1", &[]),
    ];
    for (why, command, args) in cases {
        // The renamed name of the last key is not what is asked for.
        if args.contains(&"--add-prefix") {
            let run = convert_lines(&format!("SET a:0 1|{command}"), args);
            assert_eq!(run.code, 5, "{command}: {}", run.stderr);
            assert!(run.stderr.contains(why), "{command}: {}", run.stderr);
            continue;
        }
        refuses(why, command, args);
    }
    assert_eq!(
        becomes("NOSUCH a:1", &["--unknown-commands", "pass"]),
        "SELECT 0|NOSUCH a:1"
    );
}

#[test]
fn a_transaction_is_filtered_in_its_parts_and_refused_as_a_whole() {
    let script = "SET a:0 1|MULTI|SET a:1 1|SET b:1 1|SELECT 1|SET a:2 1|SELECT 0|EXEC|\
                  MULTI|SET b:2 1|EXEC|SET a:last 1";
    assert_eq!(
        becomes(script, &["--key", "a:*"]),
        "SELECT 0|SET a:0 1|MULTI|SET a:1 1|SELECT 1|SET a:2 1|EXEC|SELECT 0|SET a:last 1"
    );
    assert_eq!(
        becomes(script, &["--db", "1"]),
        "SELECT 1|MULTI|SET a:2 1|EXEC"
    );

    let script = "SET a:0 1|MULTI|SET a:1 1|RENAME a:1 b:1|SET a:2 1|EXEC|SET a:last 1";
    let run = convert_lines(script, &["--key", "a:*"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    assert_eq!(lines(&run.stdout).join("|"), "SELECT 0|SET a:0 1");
    let dir = tempfile::tempdir().expect("a directory");
    let rejects = dir.path().join("rejects.csv");
    let args = [
        "--key",
        "a:*",
        "--on-error",
        "continue",
        "--rejects",
        text(&rejects),
    ];
    let run = convert_lines(script, &args);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert_eq!(
        lines(&run.stdout).join("|"),
        "SELECT 0|SET a:0 1|SET a:last 1"
    );
    let csv = std::fs::read_to_string(&rejects).expect("the list");
    assert_eq!(csv.lines().count(), 4, "{csv}");
    assert!(csv.contains("another command of its transaction"), "{csv}");
    assert!(run.stderr.contains("3 rejected"), "{}", run.stderr);
}

#[test]
fn commands_about_whole_databases_follow_them() {
    let script = "SET a 1|SELECT 1|SET b 1|FLUSHDB|SELECT 0|FLUSHDB|SET c 1";
    assert_eq!(becomes(script, &["--db", "1"]), "SELECT 1|SET b 1|FLUSHDB");
    assert_eq!(
        becomes(script, &["--db-map", "0=5"]),
        "SELECT 5|SET a 1|SELECT 1|SET b 1|FLUSHDB|SELECT 5|FLUSHDB|SET c 1"
    );
    // All databases are those that were chosen.
    assert_eq!(
        becomes(
            "SET a 1|FLUSHALL|SET b 1",
            &["--db", "0,2", "--db-map", "2=7"]
        ),
        "SELECT 0|SET a 1|FLUSHDB|SELECT 7|FLUSHDB|SELECT 0|SET b 1"
    );
    assert_eq!(
        becomes("SET a 1|MOVE a 3|COPY a b DB 3", &["--db-map", "3=4"]),
        "SELECT 0|SET a 1|MOVE a 4|COPY a b DB 4"
    );
    assert_eq!(
        becomes("SET a 1|SWAPDB 0 1|FLUSHALL ASYNC", &[]),
        "SELECT 0|SET a 1|SWAPDB 0 1|FLUSHALL ASYNC"
    );
}

#[test]
fn idempotent_entries_of_a_stream_keep_their_record() {
    let script = "XADD s IDMP p i1 1-1 f v|XADD s MINID = 1-1 KEEPREF IDMP 5-5 6-6 2-1 IDMP v|\
                  XADD s IDMPAUTO p 3-1 f v|XADD s 4-1 IDMP * IDMPAUTO v";
    assert_eq!(
        becomes(script, &[]),
        "SELECT 0|XADD s 1-1 f v|XIDMPRECORD s p i1 1-1|XADD s MINID = 1-1 KEEPREF 2-1 IDMP v|\
         XIDMPRECORD s 5-5 6-6 2-1|XADD s 3-1 f v|XADD s 4-1 IDMP * IDMPAUTO v"
    );
    let run = convert_lines(script, &["--target-version", "8.2"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(
        lines(&run.stdout).join("|"),
        "SELECT 0|XADD s 1-1 f v|XADD s MINID = 1-1 KEEPREF 2-1 IDMP v|XADD s 3-1 f v|XADD s 4-1 IDMP * IDMPAUTO v"
    );
    assert!(run.stderr.contains("idempotence"), "{}", run.stderr);
    if !available("redis-8.10") {
        return;
    }
    // Both servers know the entries, which are not old yet: none of them is added again.
    let (one, two) = (format!("{}-1", now_ms()), format!("{}-2", now_ms()));
    let script = format!("XADD s IDMP p i1 {one} f v|XADD s KEEPREF IDMP 5-5 6-6 {two} IDMP v");
    let (_dir, path) = log_file(&log_of(&script));
    let (own, ours) = (
        Server::on_log("redis-8.10", &path, &[]),
        Server::start("redis-8.10"),
    );
    let errors = ours.client().pipe(&converted(&[text(&path)]), None).errors;
    assert_eq!(errors, Vec::<String>::new());
    for server in [&own, &ours] {
        let mut client = server.client();
        assert_eq!(
            call!(client, "XADD", "s", "IDMP", "p", "i1", "*", "f", "v").text(),
            one
        );
        assert_eq!(
            call!(client, "XADD", "s", "IDMP", "5-5", "6-6", "*", "f", "v").text(),
            two
        );
    }
}

// Dialects.

#[test]
fn a_log_goes_into_a_cluster() {
    let cluster = Server::with("redis-7.0", &["--cluster-enabled", "yes"]);
    let mut client = cluster.client();
    call!(client, "CLUSTER", "ADDSLOTSRANGE", "0", "16383");
    while !call!(client, "CLUSTER", "INFO")
        .text()
        .contains("cluster_state:ok")
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    let scope = Scope {
        prefixes: &["{a}:", "{b}:", "{c}:"],
        dbs: &["0"],
        several_keys: true,
        across: false,
        untyped: true,
    };
    for seed in [21, 22] {
        let source = Server::logging("redis-7.0", &[]);
        play(&mut source.client(), seed, scope);
        let args = ["--dialect", "cluster", "--target-version", "7.0"];
        let bytes = converted(&[&args[..], &[text(&source.log())]].concat());
        for command in commands(&bytes) {
            let name = String::from_utf8_lossy(&command[0]).into_owned();
            assert!(
                !["SELECT", "MULTI", "EXEC"].contains(&name.as_str()),
                "{name}"
            );
        }
        let got = loaded(&cluster, &bytes);
        assert_eq!(
            diff(&reloaded(&source), &got),
            Vec::<String>::new(),
            "seed {seed}"
        );
    }
    for (script, why) in [
        ("RENAME a b", "of several slots"),
        ("SUNIONSTORE {a}1 {a}2 b", "of several slots"),
        ("FLUSHALL", "a cluster"),
        ("SWAPDB 0 1", "SWAPDB"),
        ("MOVE a 1", "MOVE"),
    ] {
        refuses(why, script, &["--dialect", "cluster"]);
    }
    assert_eq!(
        becomes(
            "RENAME {a}1 {a}2|DEL {a}1 {a}2|DEL a b",
            &["--dialect", "cluster", "--hold", "0"]
        ),
        "RENAME {a}1 {a}2|DEL {a}1 {a}2|DEL a|DEL b"
    );
}

#[test]
fn a_log_goes_through_the_proxy() {
    let scope = Scope {
        prefixes: PREFIXES,
        dbs: &["0"],
        several_keys: false,
        across: false,
        untyped: false,
    };
    for seed in [31, 32, 33] {
        let source = Server::logging("redis-7.0", &[]);
        play(&mut source.client(), seed, scope);
        let args = ["--dialect", "twemproxy", "--target-version", "7.0"];
        let bytes = converted(&[&args[..], &[text(&source.log())]].concat());
        let (a, b) = (Server::start("redis-7.0"), Server::start("redis-7.0"));
        let proxy = Nutcracker::over(&[&a, &b]);
        let piped = proxy.client().pipe(&bytes, Some(commands(&bytes).len()));
        assert_eq!(piped.errors, Vec::<String>::new(), "seed {seed}");
        let mut got = held_by(&a);
        for (key, record) in held_by(&b).dbs.remove(&0).unwrap_or_default() {
            let twice = got.dbs.entry(0).or_default().insert(key.clone(), record);
            assert!(twice.is_none(), "{} is in both servers", key.escape_ascii());
        }
        assert_eq!(
            diff(&reloaded(&source), &got),
            Vec::<String>::new(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_proxy_gets_what_it_forwards() {
    let args = ["--dialect", "twemproxy"];
    let first = "EVAL return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2)) 1";
    let second = "EVAL return redis.call(ARGV[1],ARGV[2],KEYS[1],unpack(ARGV,3)) 1";
    assert_eq!(
        becomes(
            "SELECT 0|MULTI|MSET a 1 b 2|XADD s 1-1 f v|EXEC|XGROUP CREATE s g 0|UNLINK a b",
            &args
        ),
        format!(
            "SET a 1|SET b 2|{first} s XADD 1-1 f v|{second} s XGROUP CREATE g 0|UNLINK a|UNLINK b"
        )
    );
    for (command, why) in [
        ("RENAME a b", "on several servers"),
        ("FLUSHDB", "twemproxy"),
        ("SWAPDB 0 1", "twemproxy"),
        ("FUNCTION LOAD code", "twemproxy"),
        ("LMOVE a b LEFT LEFT", "on several servers"),
    ] {
        refuses(why, command, &args);
    }
}

#[test]
fn a_log_of_several_databases_is_refused_before_its_first_byte() {
    let script = "SET a 1|SELECT 1|SET b 1";
    for dialect in ["cluster", "twemproxy"] {
        let args = ["--dialect", dialect];
        let run = convert_lines(script, &args);
        assert_eq!(
            (run.code, run.stdout.len()),
            (5, 0),
            "{dialect}: {}",
            run.stderr
        );
        assert!(
            run.stderr.contains("--db") && run.stderr.contains("--db-map"),
            "{}",
            run.stderr
        );
        // Within a transaction too, and behind a snapshot.
        let run = convert_lines("SET a 1|MULTI|SELECT 1|SET b 1|EXEC", &args);
        assert_eq!(
            (run.code, run.stdout.len()),
            (5, 0),
            "{dialect}: {}",
            run.stderr
        );
        let mut bytes = std::fs::read(log_fixture("preamble_redis-5.0.14.aof")).expect("a fixture");
        bytes.extend(log_of(script));
        let (_dir, path) = log_file(&bytes);
        let run = convert(&["--dialect", dialect, text(&path)]);
        assert_eq!(
            (run.code, run.stdout.len()),
            (5, 0),
            "{dialect}: {}",
            run.stderr
        );
        let chosen = [&args[..], &["--db", "1", "--db-map", "1=0"]].concat();
        assert_eq!(becomes(script, &chosen), "SET b 1");
        // A database that is only selected is none that has keys.
        assert_eq!(
            becomes("SET a 1|SELECT 1|SELECT 0|SET b 1", &args),
            "SET a 1|SET b 1"
        );
    }
}
