//! Commands by chance: all that change something, over few keys, so that they meet.

use crate::support::script::Dice;

/// Patterns of commands by type, parted by `|`. `K` and `J` are keys of the type, `A` and `B` of any; `V` is a short
/// text, `N` a small number that may be below 0, `C` one above, `F` a number with a fraction, `I` an id of a stream, `D`
/// a database, `T` seconds of the future, `M` a moment of the future in milliseconds, `R` and `S` bounds of scores, `X`
/// and `Y` of names, `G` a group, `O` a consumer, `L` degrees.
const SINGLE: &[(&str, &str)] = &[
    (
        "string",
        "SET K V|SET K V NX|SET K V XX GET|SET K V EX T|SET K V PXAT M|SET K V KEEPTTL|SET K V XX KEEPTTL|SET K N|SETEX K T V|PSETEX K T000 V|\
         SETNX K V|GETSET K V|GETDEL K|GETEX K EX T|GETEX K PXAT M|GETEX K PERSIST|MSET K V J V|MSETNX K V J V|APPEND K V|\
         SETRANGE K C V|INCR K|DECR K|INCRBY K N|DECRBY K N|INCRBYFLOAT K F|SETBIT K C 1|SETBIT K C 0|SETBIT K 3C 1|\
         BITFIELD K SET u8 C N|BITFIELD K SET i5 #C N INCRBY u3 C N|BITFIELD K OVERFLOW SAT INCRBY i4 C N OVERFLOW FAIL INCRBY u2 C C|\
         BITFIELD K OVERFLOW SAT SET u4 C N INCRBY u7 #C N GET u4 2|BITFIELD K INCRBY i64 C N|\
         BITOP AND K J K|BITOP OR K J K J|BITOP XOR K J K J|BITOP NOT K J",
    ),
    (
        "hll",
        "PFADD K V V V|PFADD K V|PFADD K|PFCOUNT K|PFMERGE K J|PFMERGE K J K J|PFADD K many|DEL K",
    ),
    (
        "list",
        "RPUSH K V V V|LPUSH K V V|RPUSH K V|LPUSHX K V|RPUSHX K V V|LPOP K|RPOP K|LPOP K C|RPOP K C|LSET K N V|LREM K N V|\
         LINSERT K BEFORE V V|LINSERT K AFTER V V|LTRIM K N N|LTRIM K 0 9|LMOVE K J LEFT RIGHT|LMOVE K J RIGHT RIGHT|LMOVE K K RIGHT LEFT|\
         LMOVE K J LEFT LEFT|RPOPLPUSH K J|LMPOP 2 K J LEFT|LMPOP 2 K J RIGHT COUNT C|BLPOP K J 0.01|BRPOP K 0.01|BLMOVE K J LEFT RIGHT 0.01|\
         BRPOPLPUSH K J 0.01|BLMPOP 0.01 2 K J LEFT COUNT 2|SORT K ALPHA STORE J|SORT K ALPHA DESC LIMIT N C STORE J|SORT K STORE J|\
         SORT K BY weight:* LIMIT 0 4 STORE J|SORT K BY nosort LIMIT 1 2 STORE J|SORT K BY weight:* GET # GET string:* GET hash:*->V STORE J",
    ),
    (
        "set",
        "SADD K V V V|SADD K V|SREM K V V|SREM K V|SPOP K|SPOP K 2|SMOVE K J V|SINTERSTORE K J K|SINTERSTORE K J J|SUNIONSTORE K J K J|\
         SDIFFSTORE K J K|SDIFFSTORE K K J|SORT K ALPHA STORE list:1|SORT K BY nosort STORE list:2",
    ),
    (
        "zset",
        "ZADD K N V N V|ZADD K F V F V|ZADD K GT CH N V|ZADD K LT N V F V|ZADD K NX N V|ZADD K XX N V N V|ZADD K INCR F V|\
         ZADD K XX GT N V|ZADD K inf V|ZADD K -inf V|ZINCRBY K F V|ZINCRBY K N V|ZREM K V|ZREM K V V|ZREMRANGEBYRANK K N N|ZREMRANGEBYSCORE K R S|\
         ZPOPMIN K|ZPOPMAX K C|ZPOPMIN K C|ZMPOP 2 K J MIN|ZMPOP 2 K J MAX COUNT C|BZPOPMIN K J 0.01|BZPOPMAX K 0.01|\
         BZMPOP 0.01 2 K J MAX COUNT 2|ZUNIONSTORE K 2 J K|ZUNIONSTORE K 3 J K set:1 WEIGHTS F N 3|ZUNIONSTORE K 2 J set:2 AGGREGATE MAX|\
         ZUNIONSTORE K 3 J K J WEIGHTS F F F AGGREGATE SUM|ZINTERSTORE K 2 J K|ZINTERSTORE K 2 J set:1 WEIGHTS 2 F AGGREGATE MIN|ZDIFFSTORE K 2 J K|\
         ZDIFFSTORE K 3 K J set:0|ZRANGESTORE K J N N|ZRANGESTORE K J N N REV|ZRANGESTORE K J R S BYSCORE LIMIT C C|ZRANGESTORE K J S R BYSCORE REV|\
         SORT K BY nosort DESC LIMIT 0 3 STORE list:0|SORT K ALPHA STORE list:0",
    ),
    // Of one score, as ranges by name want it.
    (
        "lex",
        "ZADD K 0 V 0 V 0 V|ZADD K 0 V 0 V|ZREMRANGEBYLEX K X Y|ZRANGESTORE K J X Y BYLEX|ZRANGESTORE K J Y X BYLEX REV LIMIT 0 3|ZREM K V",
    ),
    (
        "geo",
        "GEOADD K L L V L L V|GEOADD K NX L L V|GEOADD K XX CH L L V|ZREM K V|GEOSEARCHSTORE K J FROMLONLAT L L BYRADIUS 4000 km|\
         GEOSEARCHSTORE K J FROMMEMBER V BYRADIUS 3000000 m STOREDIST|GEOSEARCHSTORE K J FROMLONLAT L L BYBOX 6000 4000 km STOREDIST|\
         GEOSEARCHSTORE K J FROMLONLAT L L BYRADIUS 9000 mi ASC COUNT 2|GEORADIUS K L L 2000 km STORE J|GEORADIUS K L L 20000000 ft DESC COUNT 3 STOREDIST J|\
         GEORADIUSBYMEMBER K V 5000 km STORE J",
    ),
    (
        "hash",
        "HSET K V V V V|HSET K V V|HSET K V N|HMSET K V V V V|HSETNX K V V|HDEL K V|HDEL K V V|HINCRBY K V N|HINCRBYFLOAT K V F",
    ),
    (
        "stream",
        "XADD K * V V|XADD K * V V|XADD K * V V V V|XADD K MAXLEN 9 * V V|XADD K MAXLEN ~ 5 * V V|XADD K NOMKSTREAM * V V|XADD K MINID I * V V|\
         XADD K MINID ~ I LIMIT 2 * V V|XADD K I V V|XTRIM K MAXLEN C|XTRIM K MAXLEN ~ 3|XTRIM K MINID I|XDEL K I|XDEL K I I|XSETID K I|\
         XGROUP CREATE K G 0 MKSTREAM|XGROUP CREATE K G $ MKSTREAM|XGROUP CREATE K G I|\
         XGROUP CREATE K G I ENTRIESREAD C|XGROUP CREATE K G 0 ENTRIESREAD 3C|XGROUP SETID K G I|XGROUP SETID K G 0 ENTRIESREAD 3C|XGROUP SETID K G $|\
         XGROUP DESTROY K G|XGROUP CREATECONSUMER K G O|XGROUP DELCONSUMER K G O|XREADGROUP GROUP G O COUNT 3 STREAMS K >|\
         XREADGROUP GROUP G O COUNT 2 STREAMS K >|XREADGROUP GROUP G O COUNT 1 NOACK STREAMS K >|XREADGROUP GROUP G O STREAMS K J > >|\
         XACK K G I|XACK K G I I|XCLAIM K G O 0 I|XCLAIM K G O 0 I I JUSTID|XCLAIM K G O 0 I TIME 1700000000000 RETRYCOUNT C FORCE|\
         XCLAIM K G O 0 I FORCE IDLE 1000|XCLAIM K G O 0 I LASTID I|XAUTOCLAIM K G O 0 0 COUNT 2|XAUTOCLAIM K G O 0 I JUSTID",
    ),
];

/// For keys of any type, the wrong ones among them.
const ANY: &str = "DEL A|DEL A B|UNLINK A|EXPIRE A T|PEXPIRE A T000|EXPIREAT A 4000000000|PEXPIREAT A M|EXPIRE A T NX|EXPIRE A T XX|PEXPIREAT A M GT|\
     PEXPIREAT A M LT|EXPIRE A -1|PERSIST A|RENAME A B|RENAMENX A B|COPY A B|COPY A B REPLACE|COPY A B DB D|COPY A B DB D REPLACE|MOVE A D|\
     SWAPDB D D|APPEND A V|RPUSH A V|SADD A V|HSET A V V|ZADD A 1 V|XADD A * V V|INCR A|SET A V KEEPTTL|SET weight:V N|SET A V";

/// What came later: to Redis.
const NEWER_REDIS: &[(&str, &str)] = &[
    (
        "string",
        "SET K V IFEQ V|SET K V IFNE V EX T|DELEX K IFEQ V|DELEX K|MSETEX 2 K V J V EX T|MSETEX 2 K V J V KEEPTTL|MSETEX 2 K V J V NX|\
         MSETEX 1 K V XX PXAT M|INCREX K BYINT N EX T|INCREX K UBOUND 5|BITOP DIFF K J K|BITOP DIFF1 K J K J|BITOP ANDOR K J K J|BITOP ONE K J K J",
    ),
    (
        "list",
        "LMOVEM K J LEFT RIGHT COUNT 3 OBO|LMOVEM K J LEFT LEFT COUNT 2 BULK|LMOVEM K J RIGHT LEFT COUNT 3 BULK|LMOVEM K J RIGHT RIGHT COUNT 2 OBO|\
       LMOVEM K K RIGHT LEFT COUNT 2 BULK|LMOVEM K J LEFT RIGHT EXACTLY 2 OBO|LMOVEM K J RIGHT RIGHT EXACTLY 2 BULK|LMOVEM K J LEFT RIGHT",
    ),
    (
        "zset",
        "ZUNIONSTORE K 2 J K AGGREGATE COUNT|ZINTERSTORE K 2 J K WEIGHTS 2 F AGGREGATE COUNT",
    ),
    ("hash", FIELDS),
    (
        "stream",
        "XADD K KEEPREF MAXLEN 7 * V V|XADD K DELREF MAXLEN 6 * V V|XADD K ACKED MAXLEN 5 * V V|XADD K IDMP V N * V V|XADD K IDMPAUTO V * V V|\
         XDELEX K DELREF IDS 1 I|XDELEX K ACKED IDS 2 I I|XDELEX K KEEPREF IDS 1 I|XACKDEL K G DELREF IDS 1 I|XACKDEL K G ACKED IDS 2 I I|XACKDEL K G IDS 1 I|\
         XNACK K G FAIL IDS 1 I|XNACK K G SILENT IDS 2 I I|XNACK K G FATAL IDS 1 I|XNACK K G FAIL IDS 1 I RETRYCOUNT C FORCE|XTRIM K MAXLEN 4 DELREF|XTRIM K MINID I ACKED|\
         XCFGSET K IDMP-DURATION 900 IDMP-MAXSIZE C|XREADGROUP GROUP G O COUNT 3 CLAIM 0 STREAMS K >",
    ),
    (
        "array",
        "ARSET K C V V|ARSET K 100000 V|ARINSERT K V V|ARINSERT K V|ARMSET K C V 700 V|ARDEL K C C|ARSEEK K C|ARDELRANGE K C C|ARDELRANGE K 3 100 C C|ARSET K C F|ARSET K C 3C",
    ),
    ("ring", "ARRING K 4 V|ARRING K 4 V V V|ARRING K 4 V V|DEL K"),
];

/// What came later: to Valkey.
const NEWER_VALKEY: &[(&str, &str)] = &[
    ("stream", COUNTERS),
    ("hash", FIELDS),
    ("string", "DELIFEQ K V|SET K V IFEQ V|MSETEX 2 K V J V EX T"),
];

/// Redis 8.10 takes a number of added entries below that of read ones, and does not load what it saves then.
const COUNTERS: &str =
    "XSETID K 9999999999999-C ENTRIESADDED 3C MAXDELETEDID I|XGROUP CREATE K G I ENTRIESREAD C";

/// Fields that expire.
const FIELDS: &str = "HSETEX K EX T FIELDS 2 V V V V|HSETEX K FNX EX T FIELDS 1 V V|HSETEX K FXX KEEPTTL FIELDS 1 V V|HSETEX K KEEPTTL FIELDS 1 V V|\
     HSETEX K PXAT M FIELDS 1 V V|HSETEX K FIELDS 1 V V|HGETEX K EX T FIELDS 2 V V|HGETEX K PERSIST FIELDS 1 V|HGETDEL K FIELDS 1 V|HGETDEL K FIELDS 2 V V|\
     HEXPIRE K T FIELDS 1 V|HPEXPIREAT K M FIELDS 2 V V|HEXPIRE K T NX FIELDS 1 V|HPEXPIREAT K M GT FIELDS 1 V|HPEXPIRE K T000 LT FIELDS 2 V V|HEXPIRE K T XX FIELDS 1 V|\
     HPERSIST K FIELDS 2 V V|HINCRBY K V N|HINCRBYFLOAT K V F|HSET K V V|HDEL K V|HEXPIRE K 0 FIELDS 1 V";

/// The databases of a run.
pub(super) const DBS: u64 = 3;

/// Patterns by type.
pub(super) type Patterns = &'static [(&'static str, &'static str)];

/// What a server knows.
pub(super) fn newer(server: &str) -> Patterns {
    match server {
        "redis-8.10" => NEWER_REDIS,
        "valkey-9.1" => NEWER_VALKEY,
        _ => &[("stream", COUNTERS)],
    }
}

/// Ids of entries that a server has given, of which some are asked for again.
#[derive(Default)]
pub(super) struct Ids(Vec<String>);

impl Ids {
    pub(super) fn add(&mut self, id: String) {
        self.0.push(id);
        if self.0.len() > 60 {
            self.0.remove(0);
        }
    }

    fn one(&self, dice: &mut Dice) -> String {
        match self.0.len() {
            0 => format!("{}-{}", dice.below(3), 1 + dice.below(9)),
            _ if dice.below(12) == 0 => format!("{}", 1 + dice.below(4)),
            n => self.0[dice.below(n as u64) as usize].clone(),
        }
    }
}

/// One command.
pub(super) fn command(dice: &mut Dice, newer: Patterns, ids: &Ids) -> Vec<Vec<u8>> {
    let (kind, pattern) = match dice.below(16) {
        0 => ("string", dice.one_of(ANY)),
        1..=4 if !newer.is_empty() => {
            let (kind, patterns) = newer[dice.below(newer.len() as u64) as usize];
            (kind, dice.one_of(patterns))
        }
        _ => {
            let (kind, patterns) = SINGLE[dice.below(SINGLE.len() as u64) as usize];
            (kind, dice.one_of(patterns))
        }
    };
    if pattern == "PFADD K many" {
        let mut words = vec![b"PFADD".to_vec(), key(dice, kind)];
        words.extend((0..300).map(|_| dice.below(1_000_000).to_string().into_bytes()));
        return words;
    }
    pattern
        .split(' ')
        .map(|word| fill(dice, kind, ids, word))
        .collect()
}

fn key(dice: &mut Dice, kind: &str) -> Vec<u8> {
    format!("{kind}:{}", dice.below(5)).into_bytes()
}

fn fill(dice: &mut Dice, kind: &str, ids: &Ids, word: &str) -> Vec<u8> {
    const KINDS: &str = "string|string|list|set|zset|hash|stream|hll|geo|array";
    let (first, rest) = word.split_at(1);
    if word == "T000" {
        return format!("{}000", 1000 + dice.below(5) * 1000).into_bytes();
    }
    if let Some(behind) = word.strip_suffix('C').filter(|before| !before.is_empty()) {
        // `#C`, `3C`: a number behind it.
        return format!("{behind}{}", dice.below(9)).into_bytes();
    }
    if let Some(before) = word
        .strip_suffix('V')
        .filter(|before| before.ends_with([':', '>']))
    {
        return format!("{before}{}", dice.below(6)).into_bytes();
    }
    if !rest.is_empty() {
        return word.as_bytes().to_vec();
    }
    let text = match first {
        "K" | "J" => return key(dice, kind),
        "A" | "B" => {
            let kind = dice.one_of(KINDS).to_owned();
            return key(dice, &kind);
        }
        "V" => match dice.below(12) {
            0 => return vec![0, 0xff, b'\r', b'\n', dice.below(3) as u8],
            1 => return vec![b'x'; 70 + dice.below(3) as usize],
            2 => String::new(),
            3..=6 => dice.below(6).to_string(),
            _ => format!("v{}", dice.below(6)),
        },
        "N" => (dice.below(13) as i64 - 4).to_string(),
        "C" => dice.below(9).to_string(),
        "F" => dice
            .one_of("0.1|0.2|-0.3|1.5|2.75|1e10|3.0|0.7|-1.1|1e-5")
            .to_owned(),
        "I" => ids.one(dice),
        "D" => dice.below(DBS).to_string(),
        "T" => (1000 + dice.below(5) * 1000).to_string(),
        "M" => format!("400000000{}123", dice.below(4)),
        "R" => dice.one_of("-inf|0|(1|-3|2.5|(-2").to_owned(),
        "S" => dice.one_of("+inf|4|(3|9|0.3|inf").to_owned(),
        "X" => dice.one_of("-|[v1|(v2|[0|(3").to_owned(),
        "Y" => dice.one_of("+|[v4|(v3|[5|(v1").to_owned(),
        "G" => dice.one_of("g|h").to_owned(),
        "O" => dice.one_of("c|d").to_owned(),
        "L" => (dice.below(120) as f64 * 0.731 - 43.0).to_string(),
        _ => word.to_owned(),
    };
    text.into_bytes()
}
