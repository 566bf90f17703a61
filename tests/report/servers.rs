//! The report against real servers of 7.0: what each key is, what it takes in memory, which slot it is in.

use std::collections::BTreeMap;

use super::{Row, json_of, list, number, report, rows_of, snapshot};
use crate::support::client::{Client, Reply, call};
use crate::support::server::{Server, available};
use crate::support::{fixtures, name_of, rdb_version, text};

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
