use super::write::EXPIRE_IF;
use super::*;
use crate::command::target::Target;
use crate::error::Result;
use crate::filter::{Filter, patterns};
use crate::resp::parse::{Commands, Record};
use crate::resp::write::{Block, Blocks, Out};
use crate::transform::Transform;

#[derive(Default)]
struct Collect(Vec<u8>);

impl Blocks for Collect {
    fn hand_on(&mut self, block: Block, _: Option<u64>) -> Result<()> {
        self.0.extend_from_slice(block.bytes());
        Ok(())
    }
    fn buffer(&mut self) -> Vec<u8> {
        vec![0; 64]
    }
}

fn resp(line: &str) -> Vec<u8> {
    let words: Vec<&str> = line.split(' ').collect();
    let mut out = format!("*{}\r\n", words.len());
    for word in words {
        out.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    out.into_bytes()
}

fn lines(resp: &[u8]) -> Vec<String> {
    Commands::new(resp, false)
        .map(|record| match record {
            Record::Command(command) => command
                .args()
                .map(|arg| String::from_utf8_lossy(arg).into_owned())
                .collect::<Vec<_>>()
                .join(" "),
            Record::Annotation(line) => panic!("{line:?}"),
        })
        .collect()
}

/// What is written for commands, one after the other; `!why` for one that is refused.
fn rewritten(settings: &Settings, time_ms: Option<i64>, commands: &[&str]) -> Vec<String> {
    let mut rewriter = Rewriter::new(settings);
    rewriter.time_ms = time_ms;
    let mut selected = Some(0);
    let mut all = Vec::new();
    for command in commands {
        let raw = resp(command);
        let Some(Record::Command(command)) = Commands::new(&raw, false).next() else {
            panic!("{command} is a command");
        };
        let mut blocks = Collect::default();
        let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
        let name = command.name();
        if rewriter.passes(name, command.argc()) {
            rewriter
                .pass(&raw, 1, &mut selected, &mut out)
                .expect("memory");
        } else {
            let decision = rewriter.decide(&command, rewriter.db);
            if let Some(why) = decision.refusal() {
                all.push(format!("!{why}"));
            }
            rewriter
                .write(&command, &decision, &mut selected, &mut out)
                .expect("memory");
        }
        out.flush().expect("memory");
        drop(out);
        all.extend(lines(&blocks.0));
    }
    assert!(rewriter.tally.log.adds_up());
    if settings.transform.hold_until_ms.is_some() {
        let mut blocks = Collect::default();
        let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
        rewriter
            .settle(Keep::None(None), &mut selected, &mut out)
            .expect("memory");
        out.flush().expect("memory");
        drop(out);
        all.push("--".to_owned());
        all.extend(lines(&blocks.0));
    }
    all
}

fn target(dialect: Dialect, version: &str) -> Settings {
    Settings {
        target: Target {
            dialect,
            version: version.parse().ok(),
            key_bytes: None,
        },
        ..Settings::default()
    }
}

fn keys(glob: &str) -> Settings {
    Settings {
        filter: Filter {
            keys: patterns(&[glob.to_owned()], &[]).expect("a glob"),
            ..Filter::default()
        },
        ..Settings::default()
    }
}

/// Each command by itself: what is written, joined by `; `.
fn each(settings: &Settings, cases: &[(&str, &str)]) {
    for (command, want) in cases {
        let got = rewritten(settings, None, &[command]).join("; ");
        if let Some(want) = want.strip_suffix('…') {
            assert!(got.starts_with(want), "{command}: {got}");
        } else {
            assert_eq!(&got, want, "{command}");
        }
    }
}

#[test]
fn a_server_gets_what_stands_there() {
    each(
        &Settings::default(),
        &[
            ("set k v", "set k v"),
            ("SET k v PXAT 2000000000000", "SET k v PXAT 2000000000000"),
            ("SET k v KEEPTTL", "SET k v KEEPTTL"),
            ("SET k v IFEQ w GET", "SET k v"),
            (
                "SET k v XX GET PXAT 2000000000000",
                "SET k v XX PXAT 2000000000000",
            ),
            (
                "PEXPIREAT k 2000000000000 XX",
                "PEXPIREAT k 2000000000000 XX",
            ),
            ("zadd k 1 m", "zadd k 1 m"),
            (
                "XGROUP CREATE k g 0 ENTRIESREAD 3",
                "XGROUP CREATE k g 0 ENTRIESREAD 3",
            ),
            ("PING", ""),
            ("REPLCONF GETACK *", ""),
            ("PUBLISH c m", ""),
            ("GET k", ""),
            ("SELECT 3", ""),
            ("FLUSHALL ASYNC", "FLUSHALL ASYNC"),
            ("SWAPDB 0 1", "SWAPDB 0 1"),
            ("EVAL s 0", "EVAL s 0"),
            ("FUNCTION LOAD REPLACE code", "FUNCTION LOAD REPLACE code"),
            ("SCRIPT LOAD s", "SCRIPT LOAD s"),
            ("NOSUCH k", "!NOSUCH is no command of any known server…"),
            ("EXPIRE k 10", "!EXPIRE expires a while after…"),
            ("SET k v EX 10", "!SET expires a while after…"),
            ("SETEX k 10 v", "!SETEX expires a while after…"),
            (
                "RESTORE k 10 payload-of-10",
                "!RESTORE expires a while after…",
            ),
            ("RESTORE k 0 payload-of-10", "RESTORE k 0 payload-of-10"),
            ("EXPIREAT k 2000000000", "PEXPIREAT k 2000000000000"),
        ],
    );
    let unknown = Settings {
        log: LogRules {
            pass_unknown: true,
            ..LogRules::default()
        },
        ..Settings::default()
    };
    each(&unknown, &[("NOSUCH k", "NOSUCH k")]);
}

#[test]
fn servers_that_would_end_are_given_no_values_of_modules() {
    let settings = Settings {
        no_modules: true,
        ..Settings::default()
    };
    each(
        &settings,
        &[
            ("RESTORE k 0 \x07payload", "!no module was found…"),
            ("RESTORE k 0 \x06payload REPLACE", "!no module was found…"),
            ("RESTORE k 0 \x05payload", "RESTORE k 0 \x05payload"),
        ],
    );
}

#[test]
fn a_command_is_told_by_its_first_key() {
    for (command, key) in [
        ("SET a b", Some("a")),
        ("BITOP NOT b a", Some("b")),
        ("EVAL script 2 a b", Some("a")),
        ("EVAL script 0", None),
        ("FUNCTION LOAD code", None),
        ("NOSUCH a b", Some("a")),
    ] {
        let raw = resp(command);
        let Some(Record::Command(parsed)) = Commands::new(&raw, false).next() else {
            panic!("{command} is a command");
        };
        let told = Rewriter::reject(&parsed, 0, 0, "why").key;
        assert_eq!(told, key.unwrap_or_default().as_bytes(), "{command}");
        let error = Rewriter::refused(&parsed, 0, 0, "why").to_string();
        match key {
            Some(key) => assert!(error.contains(&format!("key \"{key}\"")), "{error}"),
            None => assert!(!error.contains("key "), "{error}"),
        }
    }
}

#[test]
fn databases_are_selected_where_commands_need_them() {
    let commands = [
        "SELECT 1", "SELECT 2", "SET a 1", "SET b 1", "SELECT 0", "DEL a",
    ];
    assert_eq!(
        rewritten(&Settings::default(), None, &commands),
        ["SELECT 2", "SET a 1", "SET b 1", "SELECT 0", "DEL a"]
    );
    let mapped = Settings {
        transform: Transform {
            db_map: [(2, 0)].into(),
            ..Transform::default()
        },
        ..Settings::default()
    };
    assert_eq!(
        rewritten(&mapped, None, &commands),
        ["SET a 1", "SET b 1", "DEL a"]
    );
    let one = Settings {
        filter: Filter {
            dbs: Some(vec![2]),
            ..Filter::default()
        },
        ..Settings::default()
    };
    assert_eq!(
        rewritten(&one, None, &commands),
        ["SELECT 2", "SET a 1", "SET b 1"]
    );
    assert_eq!(
        rewritten(&one, None, &["FLUSHALL", "SELECT 2", "FLUSHDB", "MOVE k 0"]),
        [
            "SELECT 2",
            "FLUSHDB",
            "FLUSHDB",
            "!MOVE leads to a database that is not chosen"
        ]
    );
}

#[test]
fn relative_times_become_absolute() {
    let at = Some(1_000_000);
    let all = rewritten(
        &Settings::default(),
        at,
        &[
            "EXPIRE k 10",
            "PEXPIRE k 10 GT",
            "SETEX k 10 v",
            "PSETEX k 10 v",
            "SET k v NX EX 10",
            "GETEX k EX 10",
            "GETEX k PERSIST",
            "GETEX k",
            "HEXPIRE k 10 NX FIELDS 1 f",
            "HSETEX k EX 10 FIELDS 1 f v",
            "HSETEX k FIELDS 1 EX v EX 10",
            "HGETEX k PX 10 FIELDS 1 f",
            "MSETEX 2 a 1 b 2 EX 10",
            "RESTORE k 10 payload-of-10 REPLACE IDLETIME 5",
            "SET k v IFEQ EX PX 10",
        ],
    );
    assert_eq!(
        all,
        [
            "PEXPIREAT k 1010000",
            "PEXPIREAT k 1000010",
            "SET k v PXAT 1010000",
            "SET k v PXAT 1000010",
            "SET k v NX PXAT 1010000",
            "PEXPIREAT k 1010000",
            "PERSIST k",
            "HPEXPIREAT k 1010000 FIELDS 1 f",
            "HSETEX k PXAT 1010000 FIELDS 1 f v",
            "HSETEX k PXAT 1010000 FIELDS 1 EX v",
            "HPEXPIREAT k 1000010 FIELDS 1 f",
            "SET a 1 PXAT 1010000",
            "SET b 2 PXAT 1010000",
            "RESTORE k 1000010 payload-of-10 REPLACE ABSTTL IDLETIME 5",
            "SET k v PXAT 1000010",
        ]
    );
}

#[test]
fn only_chosen_keys_pass() {
    each(
        &keys("a*"),
        &[
            ("SET a1 v", "SET a1 v"),
            ("SET b1 v", ""),
            ("DEL b1 a1 a2 b2", "DEL a1 a2"),
            ("MSET b1 1 a1 2 a2 3", "MSET a1 2 a2 3"),
            ("MSETNX b1 1 a1 2", "MSET a1 2"),
            (
                "MSETEX 2 b1 1 a1 2 PXAT 2000000000000",
                "SET a1 2 PXAT 2000000000000",
            ),
            ("RENAME a1 a2", "RENAME a1 a2"),
            ("RENAME b1 b2", ""),
            (
                "RENAME a1 b2",
                "!only 1 of its 2 keys are chosen, and RENAME cannot be split",
            ),
            ("SUNIONSTORE a1 a2 b1", "!only 2 of its 3 keys…"),
            ("FLUSHDB", "!FLUSHDB concerns all keys…"),
            ("SWAPDB 0 1", "!SWAPDB concerns all keys…"),
            ("EVAL s 1 a1", "EVAL s 1 a1"),
            ("EVAL s 0", "!which keys EVAL uses cannot be told…"),
            ("XGROUP CREATE a1 g 0", "XGROUP CREATE a1 g 0"),
            ("XGROUP CREATE b1 g 0", ""),
        ],
    );
    let lists = Settings {
        filter: Filter {
            types: Some(vec!["list".into()]),
            ..Filter::default()
        },
        ..Settings::default()
    };
    each(
        &lists,
        &[
            ("RPUSH l 1", "RPUSH l 1"),
            ("SET s 1", ""),
            ("DEL s", "DEL s"),
            ("PEXPIREAT s 2000000000000", "PEXPIREAT s 2000000000000"),
        ],
    );
}

#[test]
fn keys_get_their_new_names_wherever_they_stand() {
    let renames = Settings {
        transform: Transform {
            add_prefix: b"p:".to_vec(),
            ..Transform::default()
        },
        ..Settings::default()
    };
    each(
        &renames,
        &[
            ("SET k v", "SET p:k v"),
            ("MSET a a b b", "MSET p:a a p:b b"),
            ("EVAL s 2 a b a", "EVAL s 2 p:a p:b a"),
            (
                "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
                "ZUNIONSTORE p:d 2 p:a p:b WEIGHTS 1 2",
            ),
            ("SORT a BY x STORE d", "SORT p:a BY x STORE p:d"),
            ("XGROUP CREATE k g 0", "XGROUP CREATE p:k g 0"),
            ("SETEX k 10 v", "!SETEX…"),
            ("EXPIREAT k 5", "PEXPIREAT p:k 5000"),
            ("FLUSHALL", "!FLUSHALL…"),
            ("BITOP AND d a b", "BITOP AND p:d p:a p:b"),
        ],
    );
}

#[test]
fn expiries_are_changed_or_left_out() {
    let shifted = Settings {
        transform: Transform {
            ttl_shift_ms: 1,
            ..Transform::default()
        },
        ..Settings::default()
    };
    each(
        &shifted,
        &[
            ("SET k v PXAT 5000", "SET k v PXAT 5001"),
            ("PEXPIREAT k 5000 GT", "PEXPIREAT k 5001"),
            (
                "HPEXPIREAT k 5000 FIELDS 1 f",
                "HPEXPIREAT k 5001 FIELDS 1 f",
            ),
        ],
    );
    let none = Settings {
        transform: Transform {
            no_ttl: true,
            ..Transform::default()
        },
        ..Settings::default()
    };
    each(
        &none,
        &[
            ("SET k v XX PXAT 5000", "SET k v XX"),
            ("PEXPIREAT k 5000", ""),
            ("HSETEX k PXAT 5000 FIELDS 1 f v", "HSETEX k FIELDS 1 f v"),
            (
                "RESTORE k 5000 payload-of-10 ABSTTL",
                "RESTORE k 0 payload-of-10",
            ),
            ("PERSIST k", "PERSIST k"),
        ],
    );
}

#[test]
fn older_servers_get_their_own_words() {
    each(
        &target(Dialect::Redis, "6.0"),
        &[
            ("SET k v PXAT 5000", "SET k v; PEXPIREAT k 5000"),
            ("SET k v KEEPTTL", "SET k v KEEPTTL"),
            ("PEXPIREAT k 5000 XX", "PEXPIREAT k 5000"),
            (
                "XGROUP CREATE k g 0 MKSTREAM ENTRIESREAD 3",
                "XGROUP CREATE k g 0 MKSTREAM",
            ),
            (
                "XSETID k 1-1 ENTRIESADDED 5 MAXDELETEDID 0-0",
                "XSETID k 1-1",
            ),
            (
                "XADD k MAXLEN = 5 1-1 ENTRIESADDED 2",
                "XADD k MAXLEN = 5 1-1 ENTRIESADDED 2",
            ),
            ("XADD k IDMP p i 1-1 IDMP 2", "XADD k 1-1 IDMP 2"),
            ("LMOVE a b RIGHT LEFT", "RPOPLPUSH a b"),
            ("LMOVE a b LEFT LEFT", "!LMOVE needs Redis 6.2…"),
            (
                "HSETEX k PXAT 5000 FIELDS 1 f v",
                "!HPEXPIREAT needs Redis 7.4 or Valkey 9.0…",
            ),
            ("HSETEX k KEEPTTL FIELDS 1 f v", "HSET k f v"),
            ("COPY a b", "!COPY needs Redis 6.2…"),
        ],
    );
    each(
        &target(Dialect::Redis, "3.2"),
        &[
            ("UNLINK a b", "DEL a b"),
            ("HSET k a 1 b 2", "HMSET k a 1 b 2"),
            ("HSETEX k KEEPTTL FIELDS 2 a 1 b 2", "HMSET k a 1 b 2"),
            ("HSET k a 1", "HSET k a 1"),
            ("SET k v KEEPTTL", "!SET … KEEPTTL needs Redis 6.0"),
            ("XADD k 1-1 f v", "!XADD needs Redis 5.0…"),
            ("FLUSHALL ASYNC", "FLUSHALL"),
        ],
    );
    each(
        &target(Dialect::Redis, "7.4"),
        &[
            (
                "HSETEX k PXAT 5000 FIELDS 2 f v g w",
                "HSET k f v g w; HPEXPIREAT k 5000 FIELDS 2 f g",
            ),
            (
                "HSETEX k KEEPTTL FIELDS 1 f v",
                "!HSETEX … KEEPTTL needs Redis 8.0 or Valkey 9.0",
            ),
        ],
    );
}

#[test]
fn a_cluster_gets_one_slot_a_command() {
    each(
        &target(Dialect::Cluster, ""),
        &[
            ("SELECT 0", ""),
            ("DEL a b", "DEL a; DEL b"),
            ("DEL {x}a {x}b", "DEL {x}a {x}b"),
            ("MSET a 1 b 2", "SET a 1; SET b 2"),
            ("RENAME {x}a {x}b", "RENAME {x}a {x}b"),
            ("RENAME a b", "!RENAME with keys of several slots…"),
            ("FLUSHALL", "!FLUSHALL empties…"),
            ("SWAPDB 0 1", "!a cluster knows no SWAPDB"),
            ("EVAL s 0", "!EVAL without keys…"),
            ("FUNCTION LOAD c", "FUNCTION LOAD c"),
            ("SCRIPT LOAD s", ""),
        ],
    );
    assert_eq!(
        rewritten(
            &target(Dialect::Cluster, ""),
            None,
            &["SELECT 1", "SET a 1"]
        ),
        [
            "!the destination has database 0 only; choose a database with --db N and bring it there with --db-map N=0"
        ]
    );
}

#[test]
fn a_proxy_gets_what_it_forwards() {
    each(
        &target(Dialect::Twemproxy, ""),
        &[
            ("SET k v PXAT 5000", "SET k v PXAT 5000"),
            ("DEL a b", "DEL a; DEL b"),
            (
                "PEXPIREAT k 5000 XX",
                "EVAL return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2)) 1 k PEXPIREAT 5000 XX",
            ),
            (
                "XADD k 1-1 f v",
                "EVAL return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2)) 1 k XADD 1-1 f v",
            ),
            (
                "XGROUP CREATE k g 0",
                "EVAL return redis.call(ARGV[1],ARGV[2],KEYS[1],unpack(ARGV,3)) 1 k XGROUP CREATE g 0",
            ),
            (
                "RENAME {x}a {x}b",
                "!RENAME with keys that may be on several servers…",
            ),
            ("SINTERSTORE d a", "!SINTERSTORE with keys…"),
            ("EVAL s 1 k", "EVAL s 1 k"),
            ("FUNCTION LOAD c", "!twemproxy forwards no FUNCTION…"),
        ],
    );
}

#[test]
fn near_expiries_wait_for_the_end() {
    let held = Settings {
        transform: Transform {
            hold_until_ms: Some(9000),
            ..Transform::default()
        },
        ..Settings::default()
    };
    let all = rewritten(
        &held,
        None,
        &[
            "SET a v PXAT 5000",
            "PEXPIREAT a 6000",
            "SET b v PXAT 5000",
            "PEXPIREAT b 9000",
            "SET c v PXAT 5000",
            "DEL c",
            "SET d v PXAT 5000",
            "RENAME d e",
            "SET f v PXAT 5000",
            "PERSIST f",
            "SELECT 1",
            "SET g v PXAT 7000",
            "MOVE g 2",
            "HSETEX h PXAT 5000 FIELDS 2 x 1 y 2",
            "HPEXPIREAT h 9999 FIELDS 1 y",
        ],
    );
    let end = all.iter().position(|line| line == "--").expect("an end");
    assert_eq!(all[0], "SET a v PXAT 9000");
    assert_eq!(all[1], "PEXPIREAT a 9000");
    assert_eq!(
        all[end + 1..],
        [
            "SELECT 0",
            "PEXPIREAT a 6000 XX",
            "PEXPIREAT e 5000 XX",
            "SELECT 1",
            "HPEXPIREAT h 5000 XX FIELDS 1 x",
            "SELECT 2",
            "PEXPIREAT g 7000 XX",
        ]
    );
    let old = Settings {
        target: Target {
            version: "6.2".parse().ok(),
            ..Target::default()
        },
        ..held
    };
    assert_eq!(
        rewritten(&old, None, &["SET a v PXAT 5000"])[2],
        format!("EVAL {EXPIRE_IF} 1 a 5000")
    );

    let proxy = Settings {
        target: Target {
            dialect: Dialect::Twemproxy,
            version: None,
            key_bytes: None,
        },
        ..old
    };
    let all = rewritten(
        &proxy,
        None,
        &["SET a v PXAT 5000", "HPEXPIREAT h 5000 FIELDS 1 f"],
    );
    assert_eq!(
        all[3..],
        [
            format!("EVAL {EXPIRE_IF} 1 a 5000"),
            format!("EVAL {RUN_KEY_FIRST} 1 h HPEXPIREAT 5000 XX FIELDS 1 f"),
        ]
    );
}

#[test]
fn a_command_that_is_too_short_never_passes_unseen() {
    for settings in [Settings::default(), target(Dialect::Redis, "7.0")] {
        each(
            &settings,
            &[
                ("RPUSH k", "!RPUSH: it has too few arguments"),
                ("ZADD k 1", "!ZADD: it has too few arguments"),
            ],
        );
    }
}

#[test]
fn behind_a_live_source_near_expiries_stay_held_and_far_ones_are_settled() {
    let now = jiff::Timestamp::now().as_millisecond();
    let settings = Settings {
        transform: Transform {
            hold_until_ms: Some(now + 86_400_000),
            ..Transform::default()
        },
        ..target(Dialect::Redis, "7.2")
    };
    let mut rewriter = Rewriter::new(&settings);
    let mut selected = Some(0);
    let (near, far) = (now + 5_000, now + 600_000);
    rewriter.hold_key(0, b"near", None, near).expect("memory");
    rewriter.hold_key(0, b"far", None, far).expect("memory");
    let settled = |rewriter: &mut Rewriter<'_>, keep: Keep, selected: &mut Option<u64>| {
        let mut blocks = Collect::default();
        let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
        rewriter.settle(keep, selected, &mut out).expect("memory");
        out.flush().expect("memory");
        drop(out);
        lines(&blocks.0)
    };
    let all = settled(&mut rewriter, Keep::Near(60_000), &mut selected);
    assert_eq!(all, [format!("PEXPIREAT far {far} XX")]);

    let written = |rewriter: &mut Rewriter<'_>, words: &[&str], selected: &mut Option<u64>| {
        let mut raw = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        crate::resp::write::append_command(&mut raw, &words);
        let mut blocks = Collect::default();
        let mut out = Out::new(1 << 20, bytes::Bytes::new(), &mut blocks);
        for record in Commands::new(&raw, false) {
            let Record::Command(command) = record else {
                panic!("a command")
            };
            let decision = rewriter.decide(&command, 0);
            rewriter
                .write(&command, &decision, selected, &mut out)
                .expect("memory");
        }
        out.flush().expect("memory");
        drop(out);
        lines(&blocks.0).join("; ")
    };
    rewriter.roll();
    let at = (now + 7_000).to_string();
    let line = written(&mut rewriter, &["PEXPIREAT", "other", &at], &mut selected);
    let later: i64 = line
        .strip_prefix("PEXPIREAT other ")
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .expect(&line);
    assert!((now + 60_000..now + 120_000).contains(&later), "{line}");
    let distant = (now + 900_000).to_string();
    let line = written(
        &mut rewriter,
        &["PEXPIREAT", "third", &distant],
        &mut selected,
    );
    assert_eq!(line, format!("PEXPIREAT third {distant}"));

    // What the source removes is no change of which anybody has to wait for the end.
    assert_eq!(rewriter.changes, 2);
    assert_eq!(
        written(&mut rewriter, &["DEL", "near"], &mut selected),
        "DEL near"
    );
    assert_eq!(rewriter.changes, 2);
    let all = settled(&mut rewriter, Keep::None(Some(60_000)), &mut selected);
    assert_eq!(all, [format!("PEXPIREAT other {at} XX")]);
    assert!(rewriter.holds());
    let none = settled(&mut rewriter, Keep::None(None), &mut selected);
    assert!(none.is_empty() && !rewriter.holds());
}
