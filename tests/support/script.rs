//! Some hundred commands of every type, for servers whose log is wanted.

use super::client::{Client, call};

/// Numbers that are the same at every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        // Seeds that lie close together begin far apart, and none is 0.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    /// One of the words that `|` parts.
    pub(crate) fn one_of<'a>(&mut self, of: &'a str) -> &'a str {
        self.one(&of.split('|').collect::<Vec<_>>())
    }

    pub(crate) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What a script may hold.
#[derive(Clone, Copy)]
pub(crate) struct Scope {
    pub(crate) prefixes: &'static [&'static str],
    pub(crate) dbs: &'static [&'static str],
    /// Commands with several keys of one prefix that cannot be taken apart.
    pub(crate) several_keys: bool,
    /// Commands that reach from one database into another.
    pub(crate) across: bool,
    /// RENAME and other commands that tell no type.
    pub(crate) untyped: bool,
}

/// Patterns of commands by type: `K` is a key of the prefix and of the pattern's type, `J` another one, `N` a small
/// number, `T` seconds of the future, `V` a short text.
const SINGLE: &[(&str, &str)] = &[
    (
        "string",
        "SET K V|SET K V EX T|SETEX K T V|SET K V KEEPTTL|SETNX K V|INCRBYFLOAT K:f 0.5|INCR K:n|DECRBY K:n N|APPEND K V|\
         SETRANGE K N V|GETSET K V|GETDEL K|GETEX K EX T|GETEX K PERSIST|SETBIT K:b N 1|BITFIELD K:b SET u8 N N|\
         PFADD K:h V V",
    ),
    (
        "list",
        "RPUSH K V V V|LPUSH K V|LPUSHX K V|LPOP K|RPOP K 2|LSET K 0 V|LREM K 1 V|LINSERT K BEFORE V V|LTRIM K 0 5",
    ),
    ("set", "SADD K V V V|SREM K V|SPOP K|SPOP K 2"),
    (
        "zset",
        "ZADD K N V N V|ZADD K GT CH N V|ZINCRBY K 1.5 V|ZREM K V|ZPOPMIN K|ZREMRANGEBYSCORE K 0 1|\
         GEOADD K:g 13.361389 38.115556 V",
    ),
    (
        "hash",
        "HSET K V V V V|HSETNX K V V|HMSET K V V|HINCRBY K:n V N|HINCRBYFLOAT K:n V 0.5|HDEL K V",
    ),
    (
        "stream",
        "XADD K * f V|XADD K MAXLEN ~ 20 * f V g V|XADD K NOMKSTREAM * f V|XGROUP CREATE K g N MKSTREAM|\
         XGROUP CREATE K h $ MKSTREAM|XREADGROUP GROUP g c COUNT 2 STREAMS K >|\
         XREADGROUP GROUP h d COUNT 1 NOACK STREAMS K >|XAUTOCLAIM K g e 0 0 COUNT 1|XGROUP CREATECONSUMER K g x|\
         XGROUP DELCONSUMER K g e|XTRIM K MAXLEN 10|XGROUP SETID K h 0",
    ),
];

/// For keys of any type.
const ANY: &str = "EXPIRE K T|PEXPIRE K T000|EXPIREAT K 4000000000|EXPIRE K T NX|PERSIST K|DEL K|UNLINK K|EXPIRE K -1";

/// With two keys that belong together.
const SEVERAL: &[(&str, &str)] = &[
    ("string", "BITOP OR K J K|PFMERGE K:h J:h"),
    (
        "list",
        "LMOVE K J LEFT RIGHT|RPOPLPUSH K J|SORT K ALPHA STORE J|LMPOP 2 K J LEFT",
    ),
    (
        "set",
        "SMOVE K J V|SUNIONSTORE K J K|SDIFFSTORE K J K|SINTERSTORE K J K",
    ),
    (
        "zset",
        "ZUNIONSTORE K 2 J K|ZRANGESTORE K J 0 3|GEOSEARCHSTORE K:g J:g FROMLONLAT 13 38 BYRADIUS 900 km",
    ),
    ("hash", "COPY K J REPLACE"),
    ("stream", "COPY K J"),
];

/// Sends some hundred commands. Those that the server refuses are not logged.
pub(crate) fn play(client: &mut Client, seed: u64, scope: Scope) {
    let mut dice = Dice(seed);
    let key =
        |dice: &mut Dice, prefix: &str, kind: &str| format!("{prefix}{kind}:{}", dice.below(3));
    let mut inside = 0;
    for _ in 0..900 {
        if inside == 0 && dice.below(12) == 0 {
            let db = dice.one(scope.dbs);
            call!(client, "SELECT", db);
        }
        if inside == 0 && dice.below(15) == 0 {
            call!(client, "MULTI");
            inside = 1 + dice.below(6);
        }
        let prefix = dice.one(scope.prefixes);
        let (kind, single) = SINGLE[dice.below(SINGLE.len() as u64) as usize];
        let pattern = match dice.below(10) {
            0 => dice.one_of(ANY).to_owned(),
            1 if scope.several_keys => {
                let (_, several) = SEVERAL.iter().find(|(k, _)| *k == kind).expect("each kind");
                dice.one_of(several).to_owned()
            }
            2 if scope.untyped && scope.several_keys => dice
                .one(&["RENAME K J", "RENAMENX K J", "COPY K J"])
                .to_owned(),
            3 if scope.across => {
                let db = dice.one(scope.dbs);
                let name = dice.one(&["MOVE K", "COPY K J DB", "COPY K K DB"]);
                format!("{name} {db}")
            }
            // These can be taken apart, so they may reach from one prefix into another.
            4 => match dice.below(3) {
                0 => {
                    let (a, b) = (dice.one(scope.prefixes), dice.one(scope.prefixes));
                    format!(
                        "MSET {} V {} V K V",
                        key(&mut dice, a, "string"),
                        key(&mut dice, b, "string")
                    )
                }
                1 => {
                    let (a, b) = (dice.one(scope.prefixes), dice.one(scope.prefixes));
                    format!(
                        "DEL {} {} K",
                        key(&mut dice, a, kind),
                        key(&mut dice, b, kind)
                    )
                }
                _ => format!("UNLINK {} K J", key(&mut dice, prefix, kind)),
            },
            _ => dice.one_of(single).to_owned(),
        };
        let kind = if pattern.starts_with("MSET") {
            "string"
        } else {
            kind
        };
        let mut words: Vec<String> = Vec::new();
        for word in pattern.split(' ') {
            let (first, rest) = word.split_at(1);
            words.push(match first {
                "K" | "J" if rest.is_empty() || rest.starts_with(':') => {
                    key(&mut dice, prefix, kind) + rest
                }
                "N" if rest.is_empty() => dice.below(9).to_string(),
                "V" if rest.is_empty() => format!("v{}", dice.below(12)),
                // From a quarter of an hour to months: some are held, some are not.
                "T" if rest.is_empty() || rest == "000" => {
                    format!("{}{rest}", 1000 << dice.below(14))
                }
                _ => word.to_owned(),
            });
        }
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        client.try_call(&words).expect("an answer");
        if inside > 0 {
            inside -= 1;
            if inside == 0 {
                call!(client, "EXEC");
            }
        }
    }
}
