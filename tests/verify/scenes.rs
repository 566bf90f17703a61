//! One key for each change at the destination that there can be: found and named, and nothing else.

use super::*;
use crate::support::client::{Client, Reply};

/// A key's commands, what is done to it at the destination, and what is to be told of it: kind, expected, found.
struct Scene {
    key: &'static str,
    build: &'static [&'static str],
    change: &'static [&'static str],
    rows: &'static [(&'static str, &'static str, &'static str)],
}

const fn scene(
    key: &'static str,
    build: &'static [&'static str],
    change: &'static [&'static str],
    rows: &'static [(&'static str, &'static str, &'static str)],
) -> Scene {
    Scene {
        key,
        build,
        change,
        rows,
    }
}

/// Of every server from 7.0 on. In commands `KEY` stands for the key.
const SCENES: &[Scene] = &[
    scene("s:same", &["SET KEY value"], &[], &[]),
    scene(
        "s:value",
        &["SET KEY value"],
        &["SET KEY valuf"],
        &[("value", r#""value""#, r#""valuf""#)],
    ),
    scene(
        "s:shorter",
        &["SET KEY value"],
        &["SET KEY valu"],
        &[("value", r#""value""#, r#""valu""#)],
    ),
    scene(
        "s:gone",
        &["SET KEY value"],
        &["DEL KEY"],
        &[("missing", "string", "")],
    ),
    scene(
        "s:list",
        &["SET KEY value"],
        &["DEL KEY", "RPUSH KEY value"],
        &[("type", "string", "list")],
    ),
    scene(
        "s:2ms",
        &["SET KEY v PXAT 4102444800123"],
        &["PEXPIREAT KEY 4102444800125"],
        &[("expiry", "4102444800123", "4102444800125")],
    ),
    scene(
        "s:persist",
        &["SET KEY v PXAT 4102444800123"],
        &["PERSIST KEY"],
        &[("expiry", "4102444800123", "")],
    ),
    scene(
        "s:expires",
        &["SET KEY v"],
        &["PEXPIREAT KEY 4102444800123"],
        &[("expiry", "", "4102444800123")],
    ),
    scene("l:same", &["RPUSH KEY a b c"], &[], &[]),
    scene(
        "l:element",
        &["RPUSH KEY a b c"],
        &["LSET KEY 1 x"],
        &[("element", r#"[1] "b""#, r#"[1] "x""#)],
    ),
    scene(
        "l:order",
        &["RPUSH KEY a b c"],
        &["LSET KEY 1 c", "LSET KEY 2 b"],
        &[
            ("element", r#"[1] "b""#, r#"[1] "c""#),
            ("element", r#"[2] "c""#, r#"[2] "b""#),
        ],
    ),
    scene(
        "l:more",
        &["RPUSH KEY a b c"],
        &["RPUSH KEY d"],
        &[("length", "3", "4"), ("element", "", r#"[3] "d""#)],
    ),
    scene(
        "l:less",
        &["RPUSH KEY a b c"],
        &["RPOP KEY"],
        &[("length", "3", "2"), ("element", r#"[2] "c""#, "")],
    ),
    scene(
        "l:string",
        &["RPUSH KEY a"],
        &["SET KEY a"],
        &[("type", "list", "string")],
    ),
    scene("u:same", &["SADD KEY a b c"], &[], &[]),
    scene(
        "u:more",
        &["SADD KEY a b c"],
        &["SADD KEY d"],
        &[("member", "", r#""d""#)],
    ),
    scene(
        "u:less",
        &["SADD KEY a b c"],
        &["SREM KEY b"],
        &[("member", r#""b""#, "")],
    ),
    scene(
        "u:swapped",
        &["SADD KEY 1 2 3"],
        &["SREM KEY 2", "SADD KEY 4"],
        &[("member", r#""2""#, ""), ("member", "", r#""4""#)],
    ),
    scene(
        "u:gone",
        &["SADD KEY a"],
        &["DEL KEY"],
        &[("missing", "set", "")],
    ),
    scene("z:same", &["ZADD KEY -0.5 a 1e100 b inf c"], &[], &[]),
    scene(
        "z:last-bit",
        &["ZADD KEY 0.1 a 2 b"],
        &["ZADD KEY 0.10000000000000002 a"],
        &[("score", r#""a" 0.1"#, r#""a" 0.10000000000000002"#)],
    ),
    scene(
        "z:more",
        &["ZADD KEY 1 a 2 b"],
        &["ZADD KEY 3 c"],
        &[("member", "", r#""c" 3"#)],
    ),
    scene(
        "z:less",
        &["ZADD KEY 1 a 2 b"],
        &["ZREM KEY a"],
        &[("member", r#""a" 1"#, "")],
    ),
    scene(
        "z:ttl",
        &["ZADD KEY 1 a", "PEXPIREAT KEY 4102444800123"],
        &["PEXPIREAT KEY 4102444800121"],
        &[("expiry", "4102444800123", "4102444800121")],
    ),
    scene("h:same", &["HSET KEY f v g w"], &[], &[]),
    scene(
        "h:value",
        &["HSET KEY f v g w"],
        &["HSET KEY g x"],
        &[("field", r#""g" = "w""#, r#""g" = "x""#)],
    ),
    scene(
        "h:more",
        &["HSET KEY f v"],
        &["HSET KEY g x"],
        &[("field", "", r#""g" = "x""#)],
    ),
    scene(
        "h:less",
        &["HSET KEY f v g w"],
        &["HDEL KEY f"],
        &[("field", r#""f" = "v""#, "")],
    ),
    scene(
        "x:same",
        &[
            "XADD KEY 1-1 f v",
            "XGROUP CREATE KEY g 0",
            "XREADGROUP GROUP g c STREAMS KEY >",
        ],
        &[],
        &[],
    ),
    scene(
        "x:entry",
        &["XADD KEY 1-1 f v", "XADD KEY 2-1 f w"],
        &["XADD KEY 3-1 f x"],
        &[
            ("entry", "", r#"3-1 "f" "x""#),
            ("last-id", "2-1", "3-1"),
            ("entries-added", "2", "3"),
        ],
    ),
    scene(
        "x:deleted",
        &["XADD KEY 1-1 f v", "XADD KEY 2-1 f w"],
        &["XDEL KEY 1-1"],
        &[
            ("entry", r#"1-1 "f" "v""#, ""),
            ("max-deleted-id", "0-0", "1-1"),
        ],
    ),
    scene(
        "x:last-id",
        &["XADD KEY 1-1 f v"],
        &["XSETID KEY 9-9"],
        &[("last-id", "1-1", "9-9")],
    ),
    scene(
        "x:cursor",
        &["XADD KEY 1-1 f v", "XGROUP CREATE KEY g 1-1 ENTRIESREAD 1"],
        &["XGROUP SETID KEY g 0 ENTRIESREAD 1"],
        &[("group", r#""g" last id 1-1"#, r#""g" last id 0-0"#)],
    ),
    scene(
        "x:read",
        &["XADD KEY 1-1 f v", "XGROUP CREATE KEY g 1-1 ENTRIESREAD 1"],
        &["XGROUP SETID KEY g 1-1 ENTRIESREAD 0"],
        &[("group", r#""g" entries read 1"#, r#""g" entries read 0"#)],
    ),
    scene(
        "x:group",
        &["XADD KEY 1-1 f v", "XGROUP CREATE KEY g 1-1"],
        &["XGROUP DESTROY KEY g"],
        &[("group", r#""g" last id 1-1"#, "")],
    ),
    scene(
        "x:new-group",
        &["XADD KEY 1-1 f v"],
        &["XGROUP CREATE KEY g 1-1"],
        &[("group", "", r#""g" last id 1-1"#)],
    ),
    scene(
        "x:consumer",
        &[
            "XADD KEY 1-1 f v",
            "XGROUP CREATE KEY g 1-1",
            "XGROUP CREATECONSUMER KEY g c",
        ],
        &["XGROUP DELCONSUMER KEY g c"],
        &[("consumer", r#""g" "c""#, "")],
    ),
    scene(
        "x:acked",
        &[
            "XADD KEY 1-1 f v",
            "XGROUP CREATE KEY g 1-1",
            "XCLAIM KEY g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        ],
        &["XACK KEY g 1-1"],
        &[("pending", r#""g" 1-1 of "c" at 1700000000000, 3 times"#, "")],
    ),
    scene(
        "x:owner",
        &[
            "XADD KEY 1-1 f v",
            "XGROUP CREATE KEY g 1-1",
            "XGROUP CREATECONSUMER KEY g d",
            "XCLAIM KEY g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        ],
        &["XCLAIM KEY g d 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID"],
        &[(
            "pending",
            r#""g" 1-1 of "c" at 1700000000000, 3 times"#,
            r#""g" 1-1 of "d" at 1700000000000, 3 times"#,
        )],
    ),
    scene(
        "x:count",
        &[
            "XADD KEY 1-1 f v",
            "XGROUP CREATE KEY g 1-1",
            "XCLAIM KEY g c 0 1-1 TIME 1700000000000 RETRYCOUNT 3 FORCE JUSTID",
        ],
        &["XCLAIM KEY g c 0 1-1 TIME 1700000000000 RETRYCOUNT 4 FORCE JUSTID"],
        &[(
            "pending",
            r#""g" 1-1 of "c" at 1700000000000, 3 times"#,
            r#""g" 1-1 of "c" at 1700000000000, 4 times"#,
        )],
    ),
];

/// Of servers that know expiries of fields.
const FIELD_SCENES: &[Scene] = &[
    scene(
        "h:field-ttl",
        &[
            "HSET KEY f v g w",
            "HPEXPIREAT KEY 4102444800123 FIELDS 1 f",
        ],
        &["HPEXPIREAT KEY 4102444800125 FIELDS 1 f"],
        &[(
            "field-expiry",
            r#""f" 4102444800123"#,
            r#""f" 4102444800125"#,
        )],
    ),
    scene(
        "h:field-persist",
        &[
            "HSET KEY f v g w",
            "HPEXPIREAT KEY 4102444800123 FIELDS 1 f",
        ],
        &["HPERSIST KEY FIELDS 1 f"],
        &[("field-expiry", r#""f" 4102444800123"#, r#""f" never"#)],
    ),
    scene(
        "h:field-expires",
        &["HSET KEY f v g w"],
        &["HPEXPIREAT KEY 4102444800123 FIELDS 1 f"],
        &[("field-expiry", r#""f" never"#, r#""f" 4102444800123"#)],
    ),
];

/// Of Redis 8.8 and later.
const ARRAY_SCENES: &[Scene] = &[
    scene("a:same", &["ARMSET KEY 0 a 5 b"], &[], &[]),
    scene(
        "a:element",
        &["ARMSET KEY 0 a 5 b"],
        &["ARMSET KEY 5 c"],
        &[("element", r#"[5] "b""#, r#"[5] "c""#)],
    ),
];

fn words<'a>(line: &'a str, key: &'a str) -> Vec<&'a [u8]> {
    line.split(' ')
        .map(|word| if word == "KEY" { key } else { word })
        .map(str::as_bytes)
        .collect()
}

/// The server that holds a key, or would.
fn holder<'t>(servers: &[&'t Server], key: &str) -> &'t Server {
    let holds = |server: &&&Server| {
        let reply = server.client().try_call(&[b"EXISTS", key.as_bytes()]);
        matches!(reply, Ok(Reply::Int(1)))
    };
    servers
        .iter()
        .find(holds)
        .unwrap_or_else(|| panic!("{key} is nowhere"))
}

/// Large values of which one element in the middle is changed, so that they go in pieces whatever the flags.
fn build_large(client: &mut Client) {
    for from in (0..3_000).step_by(500) {
        let name = |i: usize| format!("element-{i:05}");
        let mut list = vec!["RPUSH".to_owned(), "big:list".to_owned()];
        let mut set = vec!["SADD".to_owned(), "big:set".to_owned()];
        let mut zset = vec!["ZADD".to_owned(), "big:zset".to_owned()];
        let mut hash = vec!["HSET".to_owned(), "big:hash".to_owned()];
        for i in from..from + 500 {
            list.push(name(i));
            set.push(name(i));
            zset.extend([i.to_string(), name(i)]);
            hash.extend([name(i), i.to_string()]);
            let (id, value) = (format!("{}-1", i + 1), name(i));
            call!(client, "XADD", "big:stream", id, "f", value);
        }
        for command in [list, set, zset, hash] {
            let args: Vec<&[u8]> = command.iter().map(|word| word.as_bytes()).collect();
            client.call(&args);
        }
    }
    call!(client, "SET", "big:string", "0123456789".repeat(200_000));
}

fn change_large(servers: &[&Server]) -> Vec<Row> {
    let change = |key: &str, line: &str| {
        holder(servers, key).client().call(&words(line, key));
    };
    change("big:list", "LSET KEY 1501 x");
    change("big:set", "SREM KEY element-01501");
    change("big:set", "SADD KEY other");
    change("big:zset", "ZADD KEY 1501.0000000000002 element-01501");
    change("big:hash", "HSET KEY element-01501 x");
    change("big:stream", "XDEL KEY 1502-1");
    change("big:string", "SETRANGE KEY 1500001 x");
    let row = |key: &str, kind: &str, want: &str, got: &str| {
        (
            "0".to_owned(),
            key.to_owned(),
            kind.to_owned(),
            want.to_owned(),
            got.to_owned(),
        )
    };
    vec![
        row(
            "big:list",
            "element",
            r#"[1501] "element-01501""#,
            r#"[1501] "x""#,
        ),
        row("big:set", "member", r#""element-01501""#, ""),
        row("big:set", "member", "", r#""other""#),
        row(
            "big:zset",
            "score",
            r#""element-01501" 1501"#,
            r#""element-01501" 1501.0000000000002"#,
        ),
        row(
            "big:hash",
            "field",
            r#""element-01501" = "1501""#,
            r#""element-01501" = "x""#,
        ),
        row("big:stream", "entry", r#"1502-1 "f" "element-01501""#, ""),
        row("big:stream", "max-deleted-id", "0-0", "1502-1"),
        row(
            "big:string",
            "value",
            r#"at byte 1500001: "12345678901234567890123456789012" of 2000000 bytes"#,
            r#"at byte 1500001: "x2345678901234567890123456789012" of 2000000 bytes"#,
        ),
    ]
}

/// Loads the scenes, looks, changes everything, looks again.
fn scenes_at(source: &str, target: &Target, sets: &[&[Scene]]) {
    let source = Server::start(source);
    let mut client = source.client();
    let scenes = || sets.iter().copied().flatten();
    for scene in scenes() {
        for line in scene.build {
            client.call(&words(line, scene.key));
        }
    }
    build_large(&mut client);
    let file = source.save();
    replayed_at(target.port(), &[text(&file), "-q"]);
    let ways: &[&[&str]] = &[
        &[],
        &["--big-key", "1"],
        &["--mode", "digest", "--digest-from", "1"],
        &["--connections", "1", "--pipeline", "3"],
    ];
    let look = |way: &[&str]| {
        let args = [&[text(&file), "--reread-after", "20ms"][..], way].concat();
        verify_at(target.port(), &args)
    };
    for way in ways {
        let run = look(way);
        assert_eq!(
            (rows(&run), run.code),
            (vec![], 0),
            "{way:?}: {}",
            run.stderr
        );
    }
    let servers = target.servers();
    let mut want = change_large(&servers);
    for scene in scenes().filter(|scene| !scene.change.is_empty()) {
        let server = holder(&servers, scene.key);
        for line in scene.change {
            server.client().call(&words(line, scene.key));
        }
        for (kind, expected, found) in scene.rows {
            want.push((
                "0".to_owned(),
                scene.key.to_owned(),
                (*kind).to_owned(),
                (*expected).to_owned(),
                (*found).to_owned(),
            ));
        }
    }
    // And one that no file knows, next to a key that is there, so that it is where it belongs.
    let extra = "{l:same}extra";
    let mut client = match target {
        Target::Proxy(proxy, _) => proxy.client(),
        Target::Server(_) | Target::Cluster(_) => holder(&servers, "l:same").client(),
    };
    call!(client, "SET", extra, "x");
    let row = ["0", extra, "extra", "", "string"].map(str::to_owned);
    want.push(row.into());
    want.sort();
    for way in ways {
        let run = look(way);
        let got = rows(&run);
        let only = |here: &[Row], there: &[Row]| -> Vec<Row> {
            here.iter()
                .filter(|row| !there.contains(row))
                .cloned()
                .collect()
        };
        let (unseen, odd) = (only(&want, &got), only(&got, &want));
        assert!(
            got == want,
            "{way:?}: not told: {unseen:#?} told: {odd:#?}\n{}",
            run.stderr
        );
        assert_eq!(run.code, 1, "{way:?}: {}", run.stderr);
    }
}

#[test]
fn each_change_in_redis_7_0_is_found_and_named_and_nothing_else() {
    scenes_at("redis-7.0", &Target::server("redis-7.0"), &[SCENES]);
}

#[test]
fn each_change_in_redis_8_10_is_found_and_named_and_nothing_else() {
    if available("redis-8.10") {
        let sets = [SCENES, FIELD_SCENES, ARRAY_SCENES];
        scenes_at("redis-8.10", &Target::server("redis-8.10"), &sets);
    }
}

#[test]
fn each_change_in_valkey_9_1_is_found_and_named_and_nothing_else() {
    if available("valkey-9.1") {
        let sets = [SCENES, FIELD_SCENES];
        scenes_at("valkey-9.1", &Target::server("valkey-9.1"), &sets);
    }
}

#[test]
fn each_change_in_a_cluster_is_found_and_named_and_nothing_else() {
    scenes_at("redis-7.0", &Target::cluster(), &[SCENES]);
}

#[test]
fn each_change_behind_a_twemproxy_is_found_and_named_and_nothing_else() {
    if available("nutcracker") {
        scenes_at("redis-7.0", &Target::proxy(&[]), &[SCENES]);
    }
}
