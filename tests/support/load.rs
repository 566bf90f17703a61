//! Clients that write to a server as long as a test wants: a mix of everything, floods, and keys kept alive.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Reply, call};
use super::script::Dice;
use super::server::Server;

/// What a mixed load is made of.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    /// Commands whose keys cannot be taken apart, or that reach from one database into another: RENAME, COPY, …STORE.
    /// Neither a cluster nor a proxy can take them.
    pub(crate) several_keys: bool,
    /// Databases 0, 1, … so many.
    pub(crate) dbs: u64,
    /// Fields of hashes that expire.
    pub(crate) field_ttl: bool,
    /// What came with Redis 8.0 to 8.10, commands and types.
    pub(crate) newest: bool,
    /// Commands a second, of all clients together.
    pub(crate) per_second: u64,
    pub(crate) seed: u64,
}

impl Mix {
    /// What any destination can take.
    pub(crate) fn narrow() -> Mix {
        Mix {
            several_keys: false,
            dbs: 1,
            field_ttl: false,
            newest: false,
            per_second: 2000,
            seed: 0x10ad,
        }
    }

    /// What only a server of its own can take.
    pub(crate) fn wide() -> Mix {
        Mix {
            several_keys: true,
            dbs: 3,
            ..Mix::narrow()
        }
    }
}

/// The longest of the short lives that the mix gives to keys and fields.
const SHORT: Duration = Duration::from_millis(5000);

/// Patterns of commands by type, parted by `|`: `K` is a key of the pattern's type, `J` another one, `N` a small
/// number, `V` a short text, `S` milliseconds of a short life, `L` seconds of a long one, `I` an id that the stream has
/// given. What follows a colon makes keys of their own.
const SINGLE: &[(&str, &str)] = &[
    (
        "string",
        "SET K V|SET K V PX S|SET K V EX L|SETEX K L V|PSETEX K S V|SETNX K V|SET K V KEEPTTL|GETSET K V|GETDEL K|\
         GETEX K PX S|GETEX K PERSIST|APPEND K:a V|SETRANGE K:a N V|INCR K:n|INCRBY K:n N|DECR K:n|INCRBYFLOAT K:f 0.5|\
         SETBIT K:b N 1|PFADD K:h V V",
    ),
    (
        "list",
        "RPUSH K V V|RPUSH K V|LPUSH K V V|LPOP K|RPOP K|LTRIM K 0 30|LINSERT K BEFORE V V|LSET K 0 V|LREM K 1 V",
    ),
    ("set", "SADD K V V V|SADD K V|SREM K V|SPOP K|SPOP K 2"),
    (
        "zset",
        "ZADD K N V N V|ZADD K GT CH N V|ZINCRBY K 1.5 V|ZINCRBY K 0.1 V|ZREM K V|ZPOPMIN K|ZREMRANGEBYRANK K 9 -1",
    ),
    (
        "hash",
        "HSET K V V V V|HSETNX K V V|HMSET K V V|HINCRBY K:n V N|HINCRBYFLOAT K:n V 0.25|HDEL K V",
    ),
    (
        "stream",
        "XADD K * f V|XADD K MAXLEN 40 * f V g V|XTRIM K MAXLEN 20|XDEL K I|XGROUP CREATE K g $ MKSTREAM|\
         XGROUP CREATECONSUMER K g c|XREADGROUP GROUP g c COUNT 3 STREAMS K >|XREADGROUP GROUP g d COUNT 2 STREAMS K >|\
         XACK K g I|XAUTOCLAIM K g e 0 0 COUNT 1|XGROUP DELCONSUMER K g e",
    ),
];

const FIELD_TTL: &str =
    "HSET K:t V V V V|HPEXPIRE K:t S FIELDS 1 V|HEXPIRE K:t L FIELDS 1 V|HPERSIST K:t FIELDS 1 V";

/// For Redis 8.10.
const NEWEST: &[(&str, &str)] = &[
    (
        "string",
        "SET K V IFEQ V|SET K V IFNE V PX S|DELEX K IFEQ V|MSETEX 2 K V J V PX S|MSETEX 2 K V J V EX L|\
         INCREX K:n BYINT N EX L|INCREX K:n UBOUND 40 PX S",
    ),
    (
        "hash",
        "HSETEX K:t PX S FIELDS 2 V V V V|HSETEX K:t FNX EX L FIELDS 1 V V|HSETEX K:t KEEPTTL FIELDS 1 V V|\
         HGETEX K:t PX S FIELDS 1 V|HGETEX K:t EX L FIELDS 2 V V|HGETEX K:t PERSIST FIELDS 1 V|HGETDEL K:t FIELDS 1 V",
    ),
    (
        "stream",
        "XADD K KEEPREF MAXLEN 30 * f V|XADD K DELREF MAXLEN 30 * f V|XADD K ACKED MAXLEN 30 * f V|XADD K IDMP V N * f V|\
         XADD K IDMPAUTO V * f V|XDELEX K DELREF IDS 1 I|XDELEX K ACKED IDS 1 I|XACKDEL K g DELREF IDS 1 I|\
         XNACK K g FAIL IDS 1 I|XTRIM K MAXLEN 20 DELREF|XCFGSET K IDMP-DURATION 900 IDMP-MAXSIZE N|\
         XREADGROUP GROUP g c COUNT 3 CLAIM 0 STREAMS K >",
    ),
    (
        "array",
        "ARSET K N V V|ARSET K 100000 V|ARINSERT K V V|ARMSET K N V 700 V|ARDEL K N|ARSEEK K N|ARDELRANGE K 2 4|\
         ARRING K 9 V|EXPIRE K L|PEXPIRE K S|DEL K|COPY K J REPLACE",
    ),
    (
        "vectorset",
        "VADD K VALUES 3 N 0.5 1 V|VADD K VALUES 3 1 N 2 V SETATTR {}|VREM K V|VSETATTR K V {\"n\":1}|EXPIRE K L|RENAME K J",
    ),
];

/// For keys of any type.
const ANY: &str =
    "EXPIRE K L|PEXPIRE K S|PERSIST K|PEXPIREAT K 4000000000123|DEL K|UNLINK K|DEL K J|EXPIRE K -1";

/// With keys that any server can take apart.
const SPLIT: &str = "MSET K V J V|DEL K J|UNLINK K J";

const SCRIPTS: &str = "redis.call('INCR', KEYS[1]) return redis.call('APPEND', KEYS[1], ARGV[1])|\
     return redis.call('SET', KEYS[1], ARGV[1], 'PX', 100000)|\
     for i = 1, 3 do redis.call('INCRBY', KEYS[1], i) end";

/// With two keys that belong together.
const SEVERAL: &[(&str, &str)] = &[
    (
        "string",
        "BITOP OR K:b J:b K:b|PFMERGE K:h J:h|MSETNX K V J V|RENAME K J",
    ),
    (
        "list",
        "LMOVE K J LEFT RIGHT|RPOPLPUSH K J|SORT K ALPHA STORE J|RENAME K J",
    ),
    (
        "set",
        "SMOVE K J V|SUNIONSTORE K J K|SDIFFSTORE K J K|COPY K J REPLACE",
    ),
    (
        "zset",
        "ZUNIONSTORE K 2 J K|ZRANGESTORE K J 0 3|RENAMENX K J",
    ),
    ("hash", "COPY K J REPLACE|RENAME K J|MOVE K D"),
    ("stream", "COPY K J REPLACE|RENAME K J"),
];

const CLIENTS: u64 = 4;
const KEYS: u64 = 40;

/// Several clients at work. They end when this is dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    port: AtomicU16,
    ended: AtomicBool,
    done: AtomicU64,
    /// Refusals by their first word, for a look at what a mix does.
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Load {
    /// Begins to write a mix of all that a server knows.
    pub(crate) fn mixed(server: &Server, mix: Mix) -> Load {
        Load::of(server.port, CLIENTS, move |client, shared| {
            mixed(mix, client, shared)
        })
    }

    /// Begins to write large strings, so many bytes a second, over and over to the same two hundred keys; and a list
    /// that tells their order.
    pub(crate) fn flood(server: &Server, value_len: usize, bytes_per_second: u64) -> Load {
        Load::of(server.port, 1, move |_, shared| {
            flood(value_len, bytes_per_second, shared)
        })
    }

    fn of(port: u16, clients: u64, work: impl Fn(u64, &Shared) + Clone + Send + 'static) -> Load {
        let shared = Arc::new(Shared::default());
        shared.port.store(port, Ordering::SeqCst);
        let threads = (0..clients)
            .map(|client| {
                let (shared, work) = (Arc::clone(&shared), work.clone());
                std::thread::spawn(move || work(client, &shared))
            })
            .collect();
        Load { shared, threads }
    }

    /// How many commands have been answered.
    pub(crate) fn done(&self) -> u64 {
        self.shared.done.load(Ordering::SeqCst)
    }

    /// Waits until so many more commands have been answered.
    pub(crate) fn does(&self, commands: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        let want = self.done() + commands;
        while self.done() < want {
            assert!(
                Instant::now() < end,
                "the load does not get on: {}",
                self.done()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the load, and tells how many commands of it were answered and what was refused.
    pub(crate) fn stop(mut self) -> (u64, BTreeMap<String, u64>) {
        self.end();
        (
            self.done(),
            std::mem::take(&mut self.shared.errors.lock().expect("no other panic")),
        )
    }

    fn end(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        STOPPED.set(Some(Instant::now()));
    }
}

thread_local! {
    /// When the last load of this test has ended.
    static STOPPED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Waits until the short lives are over that loads of this test have given, so that what is left stays while it is
/// compared.
pub(crate) fn rest() {
    if let Some(stopped) = STOPPED.get() {
        std::thread::sleep((SHORT + Duration::from_millis(200)).saturating_sub(stopped.elapsed()));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// A connection, as soon as there is one. A server that has been killed may come back.
    fn connect(&self) -> Option<Client> {
        while !self.has_ended() {
            if let Ok(client) = Client::connect(self.port.load(Ordering::SeqCst)) {
                return Some(client);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// Keeps to a pace: sleeps until so much of it is due.
    fn sleep_until(&self, due: Instant) {
        while !self.has_ended() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

/// One client of a mix.
fn mixed(mix: Mix, number: u64, shared: &Shared) {
    let mut dice = Dice::new(mix.seed * CLIENTS + number + 1);
    let mut ids: VecDeque<(String, String)> = VecDeque::new();
    let begin = Instant::now();
    let mut sent = 0;
    while let Some(mut client) = shared.connect() {
        while !shared.has_ended() {
            let batch = batch(mix, &mut dice, &ids);
            let mut bytes = Vec::new();
            for words in &batch {
                let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
                super::resp::append_command(&mut bytes, &words);
            }
            if client.try_send(&bytes).is_err() {
                break;
            }
            let mut answers = Vec::new();
            while answers.len() < batch.len() {
                match client.read_reply() {
                    Ok(reply) => answers.push(reply),
                    Err(_) => break,
                }
            }
            shared
                .done
                .fetch_add(answers.len() as u64, Ordering::SeqCst);
            for (words, answer) in batch.iter().zip(&answers) {
                match answer {
                    Reply::Error(text) => {
                        let first = text.split(' ').next().unwrap_or_default();
                        let what = format!("{first} {}", words[0]);
                        let mut errors = shared.errors.lock().expect("no other panic");
                        *errors.entry(what).or_default() += 1;
                    }
                    Reply::Bulk(Some(id)) if words[0] == "XADD" => {
                        let id = String::from_utf8_lossy(id).into_owned();
                        ids.push_back((words[1].clone(), id));
                        if ids.len() > 400 {
                            ids.pop_front();
                        }
                    }
                    _ => {}
                }
            }
            if answers.len() < batch.len() {
                break;
            }
            sent += batch.len() as u64;
            shared.sleep_until(
                begin + Duration::from_micros(sent * 1_000_000 * CLIENTS / mix.per_second),
            );
        }
        if shared.has_ended() {
            return;
        }
    }
}

/// Some commands that are sent together.
fn batch(mix: Mix, dice: &mut Dice, ids: &VecDeque<(String, String)>) -> Vec<Vec<String>> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<String>>();
    let mut batch = vec![words(&format!("SELECT {}", dice.below(mix.dbs)))];
    let mut inside = 0;
    for _ in 0..12 {
        if inside == 0 && dice.below(16) == 0 {
            batch.push(words("MULTI"));
            inside = 1 + dice.below(4);
        }
        batch.push(one(mix, dice, ids));
        if inside > 0 {
            inside -= 1;
            if inside == 0 {
                batch.push(words("EXEC"));
            }
        }
    }
    if inside > 0 {
        batch.push(words("EXEC"));
    }
    batch
}

fn one(mix: Mix, dice: &mut Dice, ids: &VecDeque<(String, String)>) -> Vec<String> {
    let (kind, single) = SINGLE[dice.below(SINGLE.len() as u64) as usize];
    let (kind, pattern) = match dice.below(20) {
        0 | 1 => (kind, dice.one_of(ANY)),
        2 => ("string", dice.one_of(SPLIT)),
        3 => {
            let key = format!("string:{}:n", dice.below(KEYS));
            let value = dice.below(100).to_string();
            let script = dice.one_of(SCRIPTS);
            return ["EVAL", script, "1", &key, &value]
                .map(str::to_owned)
                .into();
        }
        4 if mix.several_keys => {
            let (_, several) = SEVERAL.iter().find(|(k, _)| *k == kind).expect("each kind");
            (kind, dice.one_of(several))
        }
        5 if mix.field_ttl => ("hash", dice.one_of(FIELD_TTL)),
        6..=8 if mix.newest => {
            let (kind, newest) = NEWEST[dice.below(NEWEST.len() as u64) as usize];
            (kind, dice.one_of(newest))
        }
        _ => (kind, dice.one_of(single)),
    };
    let mut words: Vec<String> = Vec::new();
    for word in pattern.split(' ') {
        let (first, rest) = word.split_at(1);
        let word = match first {
            "K" | "J" if rest.is_empty() || rest.starts_with(':') => {
                format!("{kind}:{}{rest}", dice.below(KEYS))
            }
            "N" if rest.is_empty() => dice.below(9).to_string(),
            "D" if rest.is_empty() => dice.below(mix.dbs).to_string(),
            "V" if rest.is_empty() => format!("v{}", dice.below(30)),
            "S" if rest.is_empty() => {
                (500 + dice.below(SHORT.as_millis() as u64 - 500)).to_string()
            }
            "L" if rest.is_empty() => (200 + dice.below(100_000)).to_string(),
            // The id belongs to a stream, and the stream's name has been chosen already.
            "I" if rest.is_empty() && !ids.is_empty() => {
                let (key, id) = &ids[dice.below(ids.len() as u64) as usize];
                words[1].clone_from(key);
                id.clone()
            }
            "I" if rest.is_empty() => "1-1".to_owned(),
            _ => word.to_owned(),
        };
        words.push(word);
    }
    words
}

fn flood(value_len: usize, bytes_per_second: u64, shared: &Shared) {
    let mut dice = Dice::new(0xf100d);
    // Bytes that do not compress, so that a snapshot of them is as large as they are.
    let mut noise = Vec::new();
    while noise.len() < value_len + 4096 {
        noise.extend_from_slice(&dice.below(1 << 31).to_le_bytes()[..3]);
    }
    let begin = Instant::now();
    let mut sent = 0_u64;
    let mut number = 0_u64;
    while let Some(mut client) = shared.connect() {
        while !shared.has_ended() {
            let mut bytes = Vec::new();
            for _ in 0..4 {
                let at = dice.below(4096) as usize;
                let (key, order) = (format!("flood:{}", number % 200), number.to_string());
                super::resp::append_command(
                    &mut bytes,
                    &[b"SET", key.as_bytes(), &noise[at..at + value_len]],
                );
                super::resp::append_command(
                    &mut bytes,
                    &[b"RPUSH", b"flood:order", order.as_bytes()],
                );
                number += 1;
            }
            if client.try_send(&bytes).is_err() || (0..8).any(|_| client.read_reply().is_err()) {
                break;
            }
            shared.done.fetch_add(8, Ordering::SeqCst);
            sent += bytes.len() as u64;
            shared.sleep_until(begin + Duration::from_micros(sent * 1_000_000 / bytes_per_second));
        }
        if shared.has_ended() {
            return;
        }
    }
}

/// Keys with lives of half a second to five that a client renews all the time, and that are therefore always there. They
/// are written once: one that is lost somewhere does not come back by its renewal.
pub(crate) struct Renewal {
    ended: Arc<AtomicBool>,
    /// Keys that were gone at the source itself, because the machine had no time for the client.
    lost: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
    count: usize,
    fields: bool,
    port: u16,
}

impl Renewal {
    /// Writes so many keys and begins to renew them.
    pub(crate) fn start(server: &Server, count: usize) -> Renewal {
        Renewal::of(server, count, false)
    }

    /// Hashes that stay, with a field `f` each that has a short life.
    pub(crate) fn of_fields(server: &Server, count: usize) -> Renewal {
        Renewal::of(server, count, true)
    }

    fn of(server: &Server, count: usize, fields: bool) -> Renewal {
        let mut client = server.client();
        for i in 0..count {
            let (key, value) = (renewed(i), i.to_string());
            if fields {
                call!(client, "HSET", key, "f", value, "stays", value);
            } else {
                match i % 4 {
                    0 => call!(client, "SET", key, value),
                    1 => call!(client, "RPUSH", key, value, "b"),
                    2 => call!(client, "HSET", key, "f", value),
                    _ => call!(client, "ZADD", key, value, "m"),
                };
            }
            let mut bytes = Vec::new();
            renew(&mut bytes, i, &life_ms(i).to_string(), fields);
            client.try_send(&bytes).expect("room in the socket");
            client.read_reply().expect("an answer");
        }
        let ended = Arc::new(AtomicBool::new(false));
        let lost = Arc::new(Mutex::new(Vec::new()));
        let (end, gone) = (Arc::clone(&ended), Arc::clone(&lost));
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                let mut bytes = Vec::new();
                for i in 0..count {
                    renew(&mut bytes, i, &life_ms(i).to_string(), fields);
                }
                client.try_send(&bytes).expect("room in the socket");
                for i in 0..count {
                    let answer = client.read_reply().expect("an answer");
                    if ![Reply::Int(1), Reply::Array(Some(vec![Reply::Int(1)]))].contains(&answer) {
                        gone.lock().expect("no other panic").push(renewed(i));
                    }
                }
                std::thread::sleep(Duration::from_millis(80));
            }
        });
        Renewal {
            ended,
            lost,
            thread: Some(thread),
            count,
            fields,
            port: server.port,
        }
    }

    /// The names of the keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> {
        (0..self.count).map(renewed)
    }

    /// Keys that the source itself has lost so far.
    pub(crate) fn lost(&self) -> Vec<String> {
        self.lost.lock().expect("no other panic").clone()
    }

    /// Ends it, and gives the keys a life that lasts for the rest of the test.
    pub(crate) fn keep(mut self) {
        let mut client = Client::connect(self.port).expect("a source that runs");
        self.end();
        for i in 0..self.count {
            let mut bytes = Vec::new();
            renew(&mut bytes, i, "3600000", self.fields);
            client.try_send(&bytes).expect("room in the socket");
            client.read_reply().expect("an answer");
        }
    }

    fn end(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.end();
    }
}

fn renew(bytes: &mut Vec<u8>, i: usize, life_ms: &str, fields: bool) {
    let (key, life) = (renewed(i), life_ms.as_bytes());
    if fields {
        let words: [&[u8]; 6] = [b"HPEXPIRE", key.as_bytes(), life, b"FIELDS", b"1", b"f"];
        super::resp::append_command(bytes, &words);
    } else {
        super::resp::append_command(bytes, &[b"PEXPIRE", key.as_bytes(), life]);
    }
}

fn renewed(i: usize) -> String {
    format!("renewed:{i}")
}

fn life_ms(i: usize) -> u64 {
    500 + i as u64 * 173 % 4500
}
