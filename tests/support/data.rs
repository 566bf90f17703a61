//! Everything a live server holds, read by its own commands, and how two servers differ.
//!
//! Left out are the times consumers were last seen, which no command can set; the counters of idempotent producers,
//! whose entries are over a day after the snapshot was written; and the recorded first id of streams, which follows
//! from the entries, except that servers which load an empty stream of before 7.0 record the largest id there is.

use std::collections::{BTreeMap, BTreeSet};

use super::client::{Client, Reply, call};
use super::server::Server;

type Bytes = Vec<u8>;

/// Keys by database and name, and function libraries by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct DataSet {
    pub(crate) dbs: BTreeMap<u64, BTreeMap<Bytes, Record>>,
    pub(crate) functions: BTreeMap<Bytes, Bytes>,
}

/// One key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    pub(crate) value: Value,
    pub(crate) expires_at_ms: Option<i64>,
}

/// A value as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    String(Bytes),
    List(Vec<Bytes>),
    Set(BTreeSet<Bytes>),
    /// Scores by their bits: 0 and -0 differ.
    Zset(BTreeMap<Bytes, u64>),
    Hash(BTreeMap<Bytes, Field>),
    Stream(Box<Stream>),
    Array {
        items: Vec<(String, Bytes)>,
        next: Option<String>,
    },
    /// Elements with their vectors as they are kept, and their attributes. The order in which they are linked is
    /// the server's, so DUMP differs between equal sets.
    Vectorset(BTreeMap<Bytes, (Vec<Reply>, Reply)>),
    /// A module's type, of which only DUMP tells anything; without DUMP's version and checksum.
    Other {
        kind: String,
        payload: Bytes,
    },
}

/// A hash field's value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) value: Bytes,
    pub(crate) expires_at_ms: Option<i64>,
}

/// A stream with all that commands can set of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stream {
    pub(crate) entries: Vec<(String, Vec<Bytes>)>,
    pub(crate) last_id: String,
    /// What later servers added: entries-added, max-deleted-entry-id, IDMP settings.
    pub(crate) extras: BTreeMap<String, Bytes>,
    pub(crate) groups: BTreeMap<Bytes, Group>,
}

/// A consumer group.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Group {
    pub(crate) last_delivered_id: String,
    /// Unknown to servers older than 7.0, and null where nobody knows.
    pub(crate) entries_read: Option<i64>,
    pub(crate) consumers: BTreeSet<Bytes>,
    pub(crate) pending: BTreeMap<String, Pending>,
}

/// An entry that was delivered and not acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pending {
    pub(crate) consumer: Bytes,
    /// Absent below 6.0, where only the idle time can be read.
    pub(crate) delivered_at_ms: Option<i64>,
    pub(crate) deliveries: i64,
}

impl DataSet {
    /// Reads a whole server.
    pub(crate) fn read(client: &mut Client) -> DataSet {
        let info = call!(client, "INFO", "server").text();
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let number = |text: &str| -> (u32, u32) {
            let mut parts = text.split('.').map(|part| part.parse().expect("a version"));
            (parts.next().expect("major"), parts.next().expect("minor"))
        };
        let version = number(field("redis_version:").expect("redis_version"));
        let field_ttl =
            version >= (7, 4) || field("valkey_version:").is_some_and(|v| number(v) >= (9, 0));
        let mut reader = Reader {
            client,
            version,
            field_ttl,
        };
        reader.read()
    }

    /// Reads several servers that share one data set: the masters of a cluster or those behind a proxy. A key that two
    /// of them hold fails the test, for whoever asks finds only one of its values.
    pub(crate) fn read_all(servers: &[&Server]) -> DataSet {
        let mut all = DataSet::default();
        for server in servers {
            let part = DataSet::read(&mut server.client());
            for (db, keys) in part.dbs {
                let whole = all.dbs.entry(db).or_default();
                for (key, record) in keys {
                    let name = key.escape_ascii().to_string();
                    // What the program notes for itself it notes on each server.
                    let own = is_the_programs(&key);
                    let before = whole.insert(key, record);
                    assert!(
                        before.is_none() || own,
                        "two servers hold the key \"{name}\""
                    );
                }
            }
            all.functions.extend(part.functions);
        }
        all
    }

    /// Leaves out what the closure says no to.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(u64, &[u8], &Record) -> bool) {
        for (db, keys) in &mut self.dbs {
            keys.retain(|key, record| keep(*db, key, record));
        }
        self.dbs.retain(|_, keys| !keys.is_empty());
    }

    /// Makes 0 of every score that is -0, as servers do with all that they add to a zset while it is packed. Commands
    /// cannot keep the difference: every zset they make is packed at first.
    pub(crate) fn without_minus_zero(mut self) -> DataSet {
        for record in self.dbs.values_mut().flat_map(BTreeMap::values_mut) {
            if let Value::Zset(members) = &mut record.value {
                members
                    .values_mut()
                    .filter(|bits| **bits == (-0.0f64).to_bits())
                    .for_each(|bits| *bits = 0);
            }
        }
        self
    }

    /// Leaves out what servers do not tell their own replicas: how many entries a group has read (7.0), and consumers
    /// that came into being by asking and got nothing (valkey 9.1).
    pub(crate) fn forget_what_no_replica_hears_of(&mut self) {
        for record in self.dbs.values_mut().flat_map(BTreeMap::values_mut) {
            let Value::Stream(stream) = &mut record.value else {
                continue;
            };
            for group in stream.groups.values_mut() {
                group.entries_read = None;
                group.consumers = group.pending.values().map(|p| p.consumer.clone()).collect();
            }
        }
    }

    /// Makes the ends of keys in the other the same where they lie no further apart than this, and forgets on each side
    /// what the other's server does not know.
    fn meet(&mut self, other: &mut DataSet, slack_ms: i64) {
        let near = |a: Option<i64>, b: &mut Option<i64>| {
            if let (Some(a), Some(at)) = (a, b.as_mut())
                && (a - *at).abs() <= slack_ms
            {
                *at = a;
            }
        };
        for (db, keys) in &mut self.dbs {
            for (key, record) in keys {
                let Some(got) = other.dbs.get_mut(db).and_then(|keys| keys.get_mut(key)) else {
                    continue;
                };
                near(record.expires_at_ms, &mut got.expires_at_ms);
                if let (Value::Stream(want), Value::Stream(got)) =
                    (&mut record.value, &mut got.value)
                {
                    // Servers below 8.6 take no ids that are given once.
                    let knows = |stream: &Stream| stream.extras.contains_key("idmp-duration");
                    if knows(want) != knows(got) {
                        for stream in [want, got] {
                            stream.extras.retain(|name, _| !name.starts_with("idmp-"));
                        }
                    }
                }
                // A server below 7.0 counts nothing that a later one could be asked for.
                if let (Value::Stream(want), Value::Stream(got)) =
                    (&mut record.value, &mut got.value)
                    && !want.extras.contains_key("entries-added")
                {
                    got.extras.clear();
                    // Later ones forget a pending entry as soon as it is claimed and no longer there.
                    for stream in [want, got] {
                        let there: BTreeSet<&String> =
                            stream.entries.iter().map(|e| &e.0).collect();
                        for group in stream.groups.values_mut() {
                            group.pending.retain(|id, _| there.contains(id));
                            group.consumers =
                                group.pending.values().map(|p| p.consumer.clone()).collect();
                        }
                    }
                }
            }
        }
    }

    /// How many keys there are in all databases.
    pub(crate) fn len(&self) -> usize {
        self.dbs.values().map(BTreeMap::len).sum()
    }
}

/// What a server holds.
pub(crate) fn held_by(server: &Server) -> DataSet {
    DataSet::read(&mut server.client()).without_minus_zero()
}

/// How two sides differ that ought to become equal soon, or nothing as soon as they are. Both must be at rest: no client
/// writes any more, and no key's end is near. Keys of the program's own do not count.
///
/// `slack_ms` is how far the ends of keys may lie apart: sources below 7.0 tell their replicas how long a key has still to
/// live, and not until when, so that the time under way is added.
pub(crate) fn differences_left(
    limit: std::time::Duration,
    slack_ms: i64,
    want: &[&Server],
    got: impl Fn() -> DataSet,
) -> Vec<String> {
    let end = std::time::Instant::now() + limit;
    loop {
        let mut want = DataSet::read_all(want).without_minus_zero();
        let mut got = got();
        for side in [&mut want, &mut got] {
            side.retain(|_, key, _| !is_the_programs(key));
        }
        for side in [&mut want, &mut got] {
            side.forget_what_no_replica_hears_of();
        }
        want.meet(&mut got, slack_ms);
        let lines = diff(&want, &got);
        if lines.is_empty() || std::time::Instant::now() > end {
            return lines;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// Whether a key holds what the program notes for itself while it works.
pub(crate) fn is_the_programs(key: &[u8]) -> bool {
    key.starts_with(b"__redis-migration")
}

/// The digest of what several servers hold together: equal sets of keys of database 0 have equal ones, however they are
/// shared out. For sets that are too large to be read. It knows whether a key expires and not when, and of streams
/// only the entries; [`expiries`] tells the former.
///
/// A server mixes the number of each database that is not empty into its digest once, so that of an even number of
/// servers that is not in the sum; an uneven number must hold something.
pub(crate) fn digest(servers: &[&Server]) -> Option<String> {
    let (mut sum, mut holding) = ([0u8; 20], 0);
    for server in servers {
        let mut client = server.client();
        let digest = call!(client, "DEBUG", "DIGEST").text();
        holding += usize::from(call!(client, "DBSIZE").int() > 0);
        for (byte, digits) in sum.iter_mut().zip(digest.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).expect("digits");
            *byte ^= u8::from_str_radix(digits, 16).expect("hexadecimal digits");
        }
    }
    (holding % 2 == 1).then(|| sum.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The keys of database 0 of several servers that expire, with the moments (Redis 7.0 on).
pub(crate) fn expiries(servers: &[&Server]) -> BTreeMap<Bytes, i64> {
    let mut found = BTreeMap::new();
    // One script instead of a question for each of some hundred thousand keys.
    const SCRIPT: &str = "local out = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        local at = redis.call('PEXPIRETIME', key) \
        if at >= 0 then out[#out + 1] = key out[#out + 1] = string.format('%.0f', at) end end return out";
    for server in servers {
        let flat = call!(server.client(), "EVAL", SCRIPT, "0").all_bytes();
        for pair in flat.chunks(2) {
            let at = String::from_utf8_lossy(&pair[1]).parse().expect("a moment");
            found.insert(pair[0].clone(), at);
        }
    }
    found
}

/// What a server holds after these commands, none of which it may refuse.
pub(crate) fn loaded(server: &Server, bytes: &[u8]) -> DataSet {
    server.flush();
    let errors = server.client().pipe(bytes, None).errors;
    assert_eq!(errors, Vec::<String>::new());
    held_by(server)
}

/// A line for each key or library that differs; nothing when both hold the same.
pub(crate) fn diff(want: &DataSet, got: &DataSet) -> Vec<String> {
    let mut lines = Vec::new();
    let none = BTreeMap::new();
    for db in want
        .dbs
        .keys()
        .chain(got.dbs.keys())
        .collect::<BTreeSet<_>>()
    {
        let (a, b) = (
            want.dbs.get(db).unwrap_or(&none),
            got.dbs.get(db).unwrap_or(&none),
        );
        for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
            let name = format!("db {db} key \"{}\"", key.escape_ascii());
            match (a.get(key), b.get(key)) {
                (Some(_), None) => lines.push(format!("{name}: missing")),
                (None, Some(_)) => lines.push(format!("{name}: should not be there")),
                (Some(x), Some(y)) if x != y => {
                    let (x, y) = (readable(x), readable(y));
                    // From a little before the first difference on, so that long values tell where they part.
                    let same = x
                        .bytes()
                        .zip(y.bytes())
                        .take_while(|(a, b)| a == b)
                        .count()
                        .saturating_sub(60);
                    let part = |text: &str| {
                        String::from_utf8_lossy(&text.as_bytes()[same..text.len().min(same + 300)])
                            .into_owned()
                    };
                    lines.push(format!(
                        "{name}:\n    want …{}\n    got  …{}",
                        part(&x),
                        part(&y)
                    ));
                }
                _ => {}
            }
        }
    }
    if want.functions != got.functions {
        lines.push(format!(
            "functions: want {:?}, got {:?}",
            want.functions.keys(),
            got.functions.keys()
        ));
    }
    lines
}

/// TIME's answer in milliseconds.
fn ms(time: Reply) -> i64 {
    let parts: Vec<i64> = time
        .array()
        .into_iter()
        .map(|part| part.text().parse().expect("a number"))
        .collect();
    parts[0] * 1000 + parts[1] / 1000
}

/// A record for people: bytes as text, not as numbers.
fn readable(record: &Record) -> String {
    let numbers = regex::Regex::new(r"\[(\d+(?:, \d+)*)\]").expect("a pattern");
    let text = |found: &regex::Captures| {
        let bytes: Option<Bytes> = found[1].split(", ").map(|n| n.parse().ok()).collect();
        bytes.map_or_else(
            || found[0].to_owned(),
            |bytes| format!("\"{}\"", bytes.escape_ascii()),
        )
    };
    numbers
        .replace_all(&format!("{record:?}"), text)
        .into_owned()
}

struct Reader<'c> {
    client: &'c mut Client,
    version: (u32, u32),
    field_ttl: bool,
}

impl Reader<'_> {
    fn read(&mut self) -> DataSet {
        let mut data = DataSet::default();
        let keyspace = call!(self.client, "INFO", "keyspace").text();
        for line in keyspace.lines().filter_map(|line| line.strip_prefix("db")) {
            let Some((db, _)) = line.split_once(':') else {
                continue;
            };
            call!(self.client, "SELECT", db);
            let mut keys = BTreeMap::new();
            for key in call!(self.client, "KEYS", "*").all_bytes() {
                let expires_at_ms = self.expires_at_ms(&key);
                let value = self.value(&key);
                keys.insert(
                    key,
                    Record {
                        value,
                        expires_at_ms,
                    },
                );
            }
            if !keys.is_empty() {
                data.dbs.insert(db.parse().expect("a database"), keys);
            }
        }
        if self.version >= (7, 0) {
            for library in call!(self.client, "FUNCTION", "LIST", "WITHCODE").array() {
                let mut library = library.pairs();
                let mut take = |name: &str| {
                    library
                        .remove(name)
                        .expect("a library's name and code")
                        .bytes()
                };
                data.functions
                    .insert(take("library_name"), take("library_code"));
            }
        }
        data
    }

    fn expires_at_ms(&mut self, key: &[u8]) -> Option<i64> {
        if self.version >= (7, 0) {
            return Some(call!(self.client, "PEXPIRETIME", key).int()).filter(|at| *at >= 0);
        }
        // Exact only if the clock did not tick between the two readings of it.
        loop {
            call!(self.client, "MULTI");
            call!(self.client, "TIME");
            call!(self.client, "PTTL", key);
            call!(self.client, "TIME");
            let mut replies = call!(self.client, "EXEC").array().into_iter();
            let mut next = || replies.next().expect("three replies");
            let (before, ttl, after) = (ms(next()), next().int(), ms(next()));
            if ttl < 0 {
                return None;
            }
            if before == after {
                return Some(before + ttl);
            }
        }
    }

    fn value(&mut self, key: &[u8]) -> Value {
        let kind = call!(self.client, "TYPE", key).text();
        match kind.as_str() {
            "string" => Value::String(call!(self.client, "GET", key).bytes()),
            "list" => Value::List(call!(self.client, "LRANGE", key, "0", "-1").all_bytes()),
            "set" => Value::Set(
                call!(self.client, "SMEMBERS", key)
                    .all_bytes()
                    .into_iter()
                    .collect(),
            ),
            "zset" => {
                let items = call!(self.client, "ZRANGE", key, "0", "-1", "WITHSCORES").all_bytes();
                let score = |text: &Bytes| {
                    std::str::from_utf8(text)
                        .ok()
                        .and_then(|t| t.parse::<f64>().ok())
                        .expect("a score")
                };
                Value::Zset(
                    items
                        .chunks(2)
                        .map(|pair| (pair[0].clone(), score(&pair[1]).to_bits()))
                        .collect(),
                )
            }
            "hash" => Value::Hash(self.hash(key)),
            "stream" => Value::Stream(Box::new(self.stream(key))),
            "array" => self.array(key),
            "vectorset" => {
                let count = call!(self.client, "VCARD", key).text();
                let elements = call!(self.client, "VRANDMEMBER", key, count).all_bytes();
                let mut read = |element: Bytes| {
                    let raw = call!(self.client, "VEMB", key, element, "RAW").array();
                    let attributes = call!(self.client, "VGETATTR", key, element);
                    (element, (raw, attributes))
                };
                Value::Vectorset(elements.into_iter().map(&mut read).collect())
            }
            _ => {
                let mut payload = call!(self.client, "DUMP", key).bytes();
                payload.truncate(payload.len() - 10);
                Value::Other { kind, payload }
            }
        }
    }

    fn hash(&mut self, key: &[u8]) -> BTreeMap<Bytes, Field> {
        let items = call!(self.client, "HGETALL", key).all_bytes();
        let mut fields: BTreeMap<Bytes, Field> = items
            .chunks(2)
            .map(|pair| {
                (
                    pair[0].clone(),
                    Field {
                        value: pair[1].clone(),
                        expires_at_ms: None,
                    },
                )
            })
            .collect();
        if self.field_ttl && !fields.is_empty() {
            let count = fields.len().to_string();
            let mut args: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
            args.extend(fields.keys().map(Bytes::as_slice));
            let times = self.client.call(&args).array();
            for (field, at) in fields.values_mut().zip(times) {
                field.expires_at_ms = Some(at.int()).filter(|at| *at >= 0);
            }
        }
        fields
    }

    fn array(&mut self, key: &[u8]) -> Value {
        let mut flat = Vec::new();
        for reply in call!(self.client, "ARSCAN", key, "0", "18446744073709551614").array() {
            match reply {
                Reply::Array(Some(pair)) => flat.extend(pair),
                other => flat.push(other),
            }
        }
        let mut flat = flat.into_iter();
        let mut items = Vec::new();
        while let (Some(index), Some(element)) = (flat.next(), flat.next()) {
            items.push((index.text(), element.bytes()));
        }
        let next = match self.client.try_call(&[b"ARNEXT", key]) {
            Ok(Reply::Error(_) | Reply::Bulk(None)) => None,
            Ok(reply) => Some(reply.text()),
            Err(error) => panic!("ARNEXT: {error}"),
        };
        Value::Array { items, next }
    }

    fn stream(&mut self, key: &[u8]) -> Stream {
        let mut stream = Stream::default();
        for entry in call!(self.client, "XRANGE", key, "-", "+").array() {
            let mut entry = entry.array().into_iter();
            let id = entry.next().expect("an id").text();
            stream
                .entries
                .push((id, entry.next().expect("fields").all_bytes()));
        }
        if self.version < (6, 0) {
            self.old_groups(key, &mut stream);
            return stream;
        }
        let mut info = call!(self.client, "XINFO", "STREAM", key, "FULL", "COUNT", "0").pairs();
        stream.last_id = info
            .remove("last-generated-id")
            .expect("last-generated-id")
            .text();
        for name in [
            "entries-added",
            "max-deleted-entry-id",
            "idmp-duration",
            "idmp-maxsize",
        ] {
            if let Some(value) = info.remove(name) {
                stream.extras.insert(name.to_owned(), value.bytes());
            }
        }
        for group in info.remove("groups").expect("groups").array() {
            let mut group = group.pairs();
            let mut take = |name: &str| group.remove(name);
            let mut record = Group {
                last_delivered_id: take("last-delivered-id").expect("last-delivered-id").text(),
                entries_read: match take("entries-read") {
                    Some(Reply::Int(read)) => Some(read),
                    _ => None,
                },
                ..Group::default()
            };
            for consumer in take("consumers").expect("consumers").array() {
                record
                    .consumers
                    .insert(consumer.pairs().remove("name").expect("a name").bytes());
            }
            let pending = take("pel")
                .or_else(|| take("pending"))
                .expect("pending entries");
            for entry in pending.array() {
                let mut entry = entry.array().into_iter();
                let mut next = || entry.next().expect("id, consumer, time, count");
                let id = next().text();
                // An entry that was released belongs to nobody, which is said in one of two ways.
                let consumer = match next() {
                    Reply::Bulk(None) => Bytes::new(),
                    name => name.bytes(),
                };
                let delivered_at_ms = Some(next().int());
                record.pending.insert(
                    id,
                    Pending {
                        consumer,
                        delivered_at_ms,
                        deliveries: next().int(),
                    },
                );
            }
            stream
                .groups
                .insert(take("name").expect("a name").bytes(), record);
        }
        stream
    }

    /// Groups as Redis 5.0 tells them: without delivery times, and consumers only as owners of pending entries,
    /// because it has no command that makes one.
    fn old_groups(&mut self, key: &[u8], stream: &mut Stream) {
        let mut info = call!(self.client, "XINFO", "STREAM", key).pairs();
        stream.last_id = info
            .remove("last-generated-id")
            .expect("last-generated-id")
            .text();
        for group in call!(self.client, "XINFO", "GROUPS", key).array() {
            let mut group = group.pairs();
            let name = group.remove("name").expect("a name").bytes();
            let mut record = Group {
                last_delivered_id: group
                    .remove("last-delivered-id")
                    .expect("last-delivered-id")
                    .text(),
                ..Group::default()
            };
            for entry in call!(self.client, "XPENDING", key, name, "-", "+", "100000").array() {
                let mut entry = entry.array().into_iter();
                let mut next = || entry.next().expect("id, consumer, idle time, count");
                let id = next().text();
                let consumer = next().bytes();
                next();
                record.pending.insert(
                    id,
                    Pending {
                        consumer,
                        delivered_at_ms: None,
                        deliveries: next().int(),
                    },
                );
            }
            stream.groups.insert(name, record);
        }
    }
}
