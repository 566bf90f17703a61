//! The command table against the servers it was made from, and its keys and slots against what servers say.

use std::collections::BTreeMap;

use redis_migration::command::keys::{for_each_key, slot};
use redis_migration::command::table::{Spec, commands, lookup};

use crate::support::client::{Client, Reply, call};
use crate::support::server::{Nutcracker, Server, available};

/// Name → arity and write flag, as COMMAND tells them.
fn told(client: &mut Client) -> BTreeMap<String, (i64, bool)> {
    fn visit(row: Reply, all: &mut BTreeMap<String, (i64, bool)>) {
        let mut row = row.array();
        let subcommands = row.swap_remove(9).array();
        let flags = row.swap_remove(2).all_bytes();
        let arity = row.swap_remove(1).int();
        let name = row.swap_remove(0).text().to_uppercase();
        all.insert(name, (arity, flags.contains(&b"write".to_vec())));
        for sub in subcommands {
            visit(sub, all);
        }
    }
    let mut all = BTreeMap::new();
    for row in call!(client, "COMMAND").array() {
        visit(row, &mut all);
    }
    all
}

fn with_subcommands() -> impl Iterator<Item = &'static Spec> {
    commands()
        .iter()
        .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
}

#[test]
fn the_table_is_what_servers_tell() {
    if !available("redis-8.10") || !available("valkey-9.1") {
        return;
    }
    let told = ["redis-8.10", "valkey-9.1"].map(|name| told(&mut Server::start(name).client()));
    let [redis, valkey] = &told;
    for spec in with_subcommands() {
        let here: Vec<_> = told.iter().filter_map(|all| all.get(spec.name)).collect();
        // Never told: it is only written to files.
        if spec.name == "GCRASETVALUE" {
            assert!(here.is_empty());
            continue;
        }
        assert_eq!(
            spec.redis.is_some(),
            redis.contains_key(spec.name),
            "{}",
            spec.name
        );
        assert_eq!(
            spec.valkey.is_some(),
            valkey.contains_key(spec.name),
            "{}",
            spec.name
        );
        let write = here.iter().any(|(_, write)| *write);
        assert_eq!(spec.write, write, "{}", spec.name);
        let arity = match here[..] {
            [(one, _), (other, _)] if one != other => -one.abs().min(other.abs()),
            _ => here[0].0,
        };
        assert_eq!(i64::from(spec.arity), arity, "{}", spec.name);
    }
    for name in redis.keys().chain(valkey.keys()) {
        assert!(
            with_subcommands().any(|spec| spec.name == name),
            "{name} is new"
        );
    }
}

/// Command lines of every form of keys; `""` is an empty argument. What they would do does not matter.
const LINES: &str = r#"
GET k
SET k v
SET k v PXAT 1700000000000 NX
set k v keepttl
GETSET k v
GETDEL k
GETEX k PERSIST
APPEND k v
INCR k
INCRBYFLOAT k 1
INCREX k BYINT 1 EX 5
SETRANGE k 0 v
SUBSTR k 0 1
SETEX k 1 v
PSETEX k 1 v
SETNX k v
DIGEST k
DELEX k IFEQ v
DELIFEQ k v
SETBIT k 1 1
BITCOUNT k
BITFIELD k SET u8 0 1
BITFIELD_RO k GET u8 0
PFADD k a b
EXPIRE k 1
PEXPIREAT k 1 NX
PERSIST k
TTL k
TYPE k
DUMP k
RESTORE k 0 v REPLACE ABSTTL
RESTORE-ASKING k 0 v
MOVE k 1
RPUSH k a b c
LPUSHX k a
LPOP k 2
LINSERT k BEFORE a b
LSET k 0 a
LREM k 0 a
LTRIM k 0 1
LPOS k a
SADD k a b
SREM k a
SPOP k 2
SSCAN k 0
HSET k f v g w
HMSET k f v
HDEL k f g
HSETEX k PX 5 FIELDS 1 f v
HGETEX k PERSIST FIELDS 1 f
HGETDEL k FIELDS 1 f
HPEXPIREAT k 1 FIELDS 1 f
HPERSIST k FIELDS 1 f
HINCRBY k f 1
ZADD k NX 1 a 2 b
ZREM k a b
ZINCRBY k 1 a
ZPOPMIN k 2
ZRANGE k 0 -1
ZREMRANGEBYSCORE k 0 1
GEOADD k 1 2 m
GEOSEARCH k FROMMEMBER m BYRADIUS 1 m
GEORADIUS_RO k 1 2 3 m
GEORADIUSBYMEMBER_RO k m 3 m
XADD k 1-1 f v
XADD k MAXLEN = 5 1-1 f v
XDEL k 1-1
XTRIM k MAXLEN 5
XSETID k 1-1
XACK k g 1-1
XACKDEL k g IDS 1 1-1
XDELEX k IDS 1 1-1
XNACK k g FAIL IDS 1 1-1
XCLAIM k g c 0 1-1
XAUTOCLAIM k g c 0 0
XPENDING k g
XRANGE k - +
XCFGSET k IDMP-DURATION 5
XIDMPRECORD k p i 1-1
ARSET k 0 v
ARMSET k 0 v 1 w
ARDEL k 0
ARGREP k 0 1 EXACT v
VADD k VALUES 1 1 m
VREM k m
VSIM k ELE m
VSETATTR k m {}
SORT_RO k
DEL a
DEL a b c
UNLINK a b
EXISTS a b b
TOUCH a b
WATCH a b
MGET a b c
MSET a 1
MSET a 1 b 2 c 3
MSETNX a 1 b 2
SINTER a b
SUNION a
SDIFF a b c
PFCOUNT a b
SINTERSTORE d a b
SUNIONSTORE d a
SDIFFSTORE d a b c
PFMERGE d a
PFMERGE d a b
BITOP AND d a b
BITOP NOT d a
RENAME a b
RENAMENX a b
COPY a b
COPY a b DB 1 REPLACE
LMOVE a b LEFT RIGHT
BLMOVE a b LEFT RIGHT 0
LMOVEM a b LEFT RIGHT COUNT 2
BLMOVEM a b LEFT RIGHT 0 COUNT 2
RPOPLPUSH a b
BRPOPLPUSH a b 0
SMOVE a b m
LCS a b
LCS a b IDX MINMATCHLEN 4
ZRANGESTORE d s 0 1
GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 m
BLPOP a 0
BLPOP a b c 0
BRPOP a b 0
BZPOPMIN a b 0
BZPOPMAX a 0
EVAL s 0
EVAL s 0 a
EVAL s 1 a
EVAL s 2 a b c d
EVAL s +1 a
EVAL s 01 a
EVAL_RO s 1 a
EVALSHA s 2 a b
EVALSHA_RO s 1 a
FCALL f 0
FCALL f 2 a b c
FCALL_RO f 1 a
ZUNIONSTORE d 1 a
ZUNIONSTORE d 2 a b WEIGHTS 1 2 AGGREGATE MAX
ZINTERSTORE d 2 a b
ZDIFFSTORE d 3 a b c
ZUNION 2 a b
ZINTER 1 a WITHSCORES
ZDIFF 2 a b
ZINTERCARD 2 a b LIMIT 1
SINTERCARD 2 a b
SDIFFCARD 2 a b
SUNIONCARD 1 a
LMPOP 1 a LEFT
LMPOP 2 a b RIGHT COUNT 5
BLMPOP 0 2 a b LEFT
ZMPOP 1 a MIN
BZMPOP 0 2 a b MAX COUNT 5
MSETEX 1 a 1
MSETEX 2 a 1 b 2 PXAT 1700000000000
MSETEX 2 a 1 b 2 NX KEEPTTL
SORT k
SORT k BY p GET store GET # LIMIT 0 5 ASC ALPHA
SORT k STORE d
SORT k STORE d STORE e
SORT k BY store STORE d
SORT k LIMIT store get store d
SORT k LIMIT 0 store get store STORE d
SORT k get store desc store d
GEORADIUS k 1 2 3 m
GEORADIUS k 1 2 3 m STORE d
GEORADIUS k 1 2 3 m COUNT 5 ASC STOREDIST d
GEORADIUS k 1 2 3 m STORE d STOREDIST e
GEORADIUS k 1 2 3 m STOREDIST e STORE d
GEORADIUS k 1 2 3 m STORE store STORE d
GEORADIUSBYMEMBER k store 3 m
GEORADIUSBYMEMBER k m 3 m storedist d
GEORADIUSBYMEMBER k m 3 m WITHDIST STORE d
XREAD STREAMS a 0
XREAD STREAMS a b 0 0
XREAD COUNT 5 BLOCK 0 STREAMS a b c 0 0 $
XREAD streams streams 0
XREAD MAXCOUNT 1 MAXSIZE 5 STREAMS a 0
XREADGROUP GROUP g c STREAMS a >
XREADGROUP GROUP streams streams COUNT 1 NOACK STREAMS a b > 0
XREADGROUP GROUP g c CLAIM 5 STREAMS a >
MIGRATE h 1 k 0 5
MIGRATE h 1 k 0 5 COPY REPLACE
MIGRATE h 1 k 0 5 AUTH KEYS
MIGRATE h 1 "" 0 5
MIGRATE h 1 "" 0 5 KEYS a
MIGRATE h 1 "" 0 5 COPY REPLACE KEYS a b c
MIGRATE h 1 "" 0 5 AUTH KEYS KEYS a
MIGRATE h 1 "" 0 5 AUTH2 KEYS KEYS KEYS a b
XGROUP CREATE k g 0 MKSTREAM
XGROUP SETID k g 0 ENTRIESREAD 5
XGROUP CREATECONSUMER k g c
XGROUP DELCONSUMER k g c
xgroup destroy k g
XGROUP HELP
XINFO STREAM k FULL
XINFO GROUPS k
XINFO CONSUMERS k g
OBJECT ENCODING k
OBJECT FREQ k
OBJECT HELP
MEMORY USAGE k SAMPLES 0
MEMORY DOCTOR
HIMPORT SET k fields a b
HIMPORT PREPARE fields a b
HIMPORT DISCARD fields
PFDEBUG GETREG k
PFSELFTEST
PING
ECHO k
SELECT 1
SWAPDB 0 1
FLUSHALL
FLUSHDB ASYNC
MULTI
EXEC
DISCARD
UNWATCH
PUBLISH c m
SPUBLISH c m
SUBSCRIBE c
SSUBSCRIBE c
SUNSUBSCRIBE c
CLUSTERSCAN 0
KEYS k
SCAN 0
RANDOMKEY
DBSIZE
INFO
WAIT 0 0
SCRIPT LOAD s
SCRIPT FLUSH
FUNCTION LOAD code
FUNCTION DELETE lib
FUNCTION FLUSH
CONFIG GET k
CLIENT ID
COMMAND GETKEYS GET k
COMMAND
DEBUG OBJECT k
AUTH k
HELLO 3
REPLCONF ACK 5
"#;

#[test]
fn keys_are_what_servers_tell() {
    let lines: Vec<&str> = LINES.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() >= 150);
    let mut compared = vec![0; lines.len()];
    let mut wrong = Vec::new();
    for name in ["redis-7.0", "redis-8.10", "valkey-9.1"] {
        if !available(name) {
            continue;
        }
        let server = Server::start(name);
        let mut client = server.client();
        for (line, compared) in lines.iter().zip(&mut compared) {
            // Redis 7.0 tells all places where the result might go, and then uses the last one only.
            if name == "redis-7.0"
                && line.starts_with("GEORADIUS")
                && line.matches("STORE").count() > 1
            {
                continue;
            }
            let argv: Vec<&[u8]> = line
                .split(' ')
                .map(|arg| if arg == "\"\"" { "" } else { arg }.as_bytes())
                .collect();
            let mut ours: Vec<Vec<u8>> = Vec::new();
            let spec = lookup(argv[0]).expect(line);
            for_each_key(spec, argv.iter().copied(), |_, key| ours.push(key.to_vec())).expect(line);
            let asked = [&[&b"COMMAND"[..], b"GETKEYS"], &argv[..]].concat();
            let theirs = match client.try_call(&asked).expect("an answer") {
                // What this server does not know, another does.
                Reply::Error(text) if text.contains("Invalid command specified") => continue,
                // Redis 7.0 answers for commands with arguments only.
                Reply::Error(text) if text.contains("'command|getkeys'") => continue,
                Reply::Error(text) if text.contains("no key arguments") => Vec::new(),
                Reply::Error(text) => {
                    wrong.push(format!("{name}: {line}: {text}"));
                    continue;
                }
                keys => keys.all_bytes(),
            };
            if ours != theirs {
                wrong.push(format!("{name}: {line}: {theirs:?}, not {ours:?}"));
            }
            *compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    if ["redis-7.0", "redis-8.10", "valkey-9.1"]
        .into_iter()
        .all(available)
    {
        for (line, compared) in lines.iter().zip(compared) {
            assert!(compared > 0, "no server knows {line}");
        }
    }
}

#[test]
fn slots_are_what_a_cluster_tells() {
    let server = Server::with("redis-7.0", &["--cluster-enabled", "yes"]);
    let mut client = server.client();
    let mut state = 42_u64;
    let mut next = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    for _ in 0..2_000 {
        let key: Vec<u8> = (0..next(24))
            .map(|_| match next(4) {
                0 => b'{',
                1 => b'}',
                _ => next(256) as u8,
            })
            .collect();
        let told = call!(client, "CLUSTER", "KEYSLOT", key).int();
        assert_eq!(i64::from(slot(&key)), told, "{key:?}");
    }
}

#[test]
fn a_twemproxy_forwards_what_the_table_says() {
    let server = Server::start("redis-7.0");
    let proxy = Nutcracker::over(&[&server]);
    for spec in with_subcommands() {
        let mut words: Vec<&str> = spec.name.split('|').collect();
        let own = words.len();
        // The second argument of a script is how many keys follow.
        if spec.name.starts_with("EVAL") {
            words.extend(["return 1", "1", "k"]);
        } else {
            words.push("k");
        }
        words.resize(64, "1");
        let argv: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let is_answered = |argc: usize| proxy.client().try_call(&argv[..argc]).is_ok();
        match spec.proxy {
            None => {
                let least = (spec.arity.unsigned_abs() as usize).max(own);
                for argc in [least, least + 1] {
                    assert!(!is_answered(argc), "{} with {argc}", spec.name);
                }
            }
            Some((least, most)) => {
                // An odd number, as MSET needs it.
                let top = if most == u32::MAX { 63 } else { most as usize };
                let least = least as usize;
                assert!(is_answered(least), "{} with {least}", spec.name);
                assert!(is_answered(top), "{} with {top}", spec.name);
                if least > own {
                    assert!(!is_answered(least - 1), "{} with {}", spec.name, least - 1);
                }
                if most != u32::MAX {
                    assert!(!is_answered(top + 1), "{} with {}", spec.name, top + 1);
                }
            }
        }
    }
}
