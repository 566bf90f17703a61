//! Large values: the file's elements a few at a time, and of the destination just these, so that neither side ever has
//! all of them in its hands, and the server serves others in between.
//!
//! A set whose size is that of the file and that holds all of the file's members is the same set. Where sizes differ or
//! a member is missing, the destination's elements are gone through too, to name those that should not be there.

use std::collections::HashSet;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;

use super::items::{Fields, Items, Manner, One, Rows, lists};
use super::reach::Reach;
use super::{Kind, show_string};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::string;
use crate::error::Result;
use crate::server::reply::Reply;
use crate::value::hash::{self, Source};
use crate::value::{Head, Kind as Type, Room, Templates, TypeByte, list, set, zset};

/// Elements that are asked for at once, and their bytes.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 256 << 10;
/// Bytes of one GETRANGE.
const STRING_BYTES: usize = 1 << 20;
/// Elements whose hashes are held to find those that should not be there; of more, only the number is told.
const MOST_KNOWN: usize = 4 << 20;

/// How the destination can be asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Can {
    /// SMISMEMBER and ZMSCORE.
    pub(super) many: bool,
    /// HPEXPIRETIME.
    pub(super) field_expiry: bool,
    /// Whether there may be expiries of fields that cannot be asked for.
    pub(super) blind: bool,
    /// Only by a script.
    pub(super) by_script: bool,
}

/// One large key.
pub(super) struct Pieces<'r, 's, 'k> {
    pub(super) reach: &'r mut Reach<'s>,
    pub(super) db: u64,
    pub(super) key: &'k [u8],
    pub(super) can: Can,
    pub(super) manner: Manner,
    pub(super) fields: Fields<'k>,
}

const FIELD_TIMES: &[u8] = b"return redis.call('HPEXPIRETIME',KEYS[1],'FIELDS',#ARGV,unpack(ARGV))";

impl Pieces<'_, '_, '_> {
    /// A string of `found` bytes at the destination.
    pub(super) fn string(
        &mut self,
        mut c: Cursor<'_>,
        found: u64,
        room: &mut Room,
        rows: &mut Rows,
    ) -> Result<()> {
        let value = string(&mut c)?.load(&mut room.one)?;
        let mut digits = itoa::Buffer::new();
        let value = value.as_bytes(&mut digits);
        let found = usize::try_from(found).unwrap_or(usize::MAX);
        let mut at = 0;
        while at < value.len() || at < found {
            let want = &value[at.min(value.len())..value.len().min(at + STRING_BYTES)];
            let (from, to) = (at.to_string(), (at + STRING_BYTES - 1).to_string());
            let args: [&[u8]; 4] = [b"GETRANGE", self.key, from.as_bytes(), to.as_bytes()];
            let reply = self.ask(&args)?;
            let got = reply.bytes().unwrap_or_default();
            let first = want.iter().zip(got).take_while(|(a, b)| a == b).count();
            if first < want.len() || first < got.len() {
                let text = |known, len| show_string(known, at, at + first, len);
                rows.push(Kind::Value, text(want, value.len()), text(got, found));
                return Ok(());
            }
            at += STRING_BYTES;
        }
        Ok(())
    }

    /// A list, set, sorted set or hash of `found` elements at the destination.
    pub(super) fn elements(
        &mut self,
        mut c: Cursor<'_>,
        ty: TypeByte,
        templates: &Templates,
        found: u64,
        room: &mut Room,
        rows: &mut Rows,
    ) -> Result<()> {
        let file = c;
        let head = Head::parse(&mut c, ty, templates)?;
        let n = head.items;
        let mut boundary = Boundary::default();
        let mut part = Part {
            want: Items::default(),
            before: 0,
            missing: false,
            known: Some(HashSet::default()),
            hasher: RandomState::default(),
        };
        match ty.kind() {
            Type::List => list::for_each(&mut c, ty, n, room, &mut boundary, |element| {
                part.want.push(element, None, 0);
                self.if_full(&mut part, rows)
            })?,
            Type::Set => set::for_each(&mut c, ty, n, room, &mut boundary, |member| {
                part.want.push(member, None, 0);
                self.if_full(&mut part, rows)
            })?,
            Type::Zset => zset::for_each(&mut c, ty, n, room, &mut boundary, |member, score| {
                let bits = score.value().to_bits() as i64;
                part.want.push(member, None, bits);
                self.if_full(&mut part, rows)
            })?,
            Type::Hash => {
                let source = Source {
                    file,
                    templates,
                    head,
                };
                let fields = self.fields;
                hash::for_each(
                    &mut c,
                    ty,
                    n,
                    source,
                    room,
                    &mut boundary,
                    |field, value, at| {
                        if let Some(at) = fields.expiry(at) {
                            part.want.push(field, Some(value), at.unwrap_or(-1));
                        }
                        self.if_full(&mut part, rows)
                    },
                )?;
            }
            other => unreachable!("{other:?} is not read in pieces here"),
        }
        self.hold(&mut part, rows)?;
        let expected = part.before;
        if ty.kind() == Type::List {
            if expected != found {
                rows.push(Kind::Length, expected.to_string(), found.to_string());
                let mut got = Items::default();
                self.range(expected, 16, &mut got)?;
                lists(&Items::default(), &got, expected, rows);
            }
            return Ok(());
        }
        if (expected != found || part.missing) && !rows.is_full() {
            match part.known.take() {
                Some(known) => self.strangers(&known, &part.hasher, rows)?,
                None if expected != found => {
                    rows.push(Kind::Length, expected.to_string(), found.to_string());
                }
                None => {}
            }
        }
        Ok(())
    }

    fn ask(&mut self, args: &[&[u8]]) -> Result<Reply> {
        self.reach.one(self.db, self.key, args)
    }

    fn if_full(&mut self, part: &mut Part, rows: &mut Rows) -> Result<()> {
        match part.want.len() >= AT_ONCE || part.want.bytes() >= BYTES_AT_ONCE {
            true => self.hold(part, rows),
            false => Ok(()),
        }
    }

    /// Holds the elements that were gathered against the destination's.
    fn hold(&mut self, part: &mut Part, rows: &mut Rows) -> Result<()> {
        if part.want.is_empty() {
            return Ok(());
        }
        if self.manner.ty == Type::List {
            let mut got = Items::default();
            self.range(part.before, part.want.len() as u64, &mut got)?;
            lists(&part.want, &got, part.before, rows);
        } else {
            self.look_up(part, rows)?;
            part.remember();
        }
        part.before += part.want.len() as u64;
        part.want.clear();
        Ok(())
    }

    fn range(&mut self, from: u64, n: u64, got: &mut Items) -> Result<()> {
        let (first, last) = (from.to_string(), (from + n - 1).to_string());
        let reply = self.ask(&[b"LRANGE", self.key, first.as_bytes(), last.as_bytes()])?;
        for element in self.list("LRANGE", &reply)? {
            got.push(Element::Bytes(element.bytes().unwrap_or_default()), None, 0);
        }
        Ok(())
    }

    fn list<'a>(&self, command: &str, reply: &'a Reply) -> Result<&'a [Reply]> {
        reply
            .array()
            .ok_or_else(|| super::odd_answer(&self.reach.name(), command, reply))
    }

    /// Asks for members, scores, or fields with their expiries by name.
    fn look_up(&mut self, part: &mut Part, rows: &mut Rows) -> Result<()> {
        let names: Vec<&[u8]> = part.want.iter().map(|one| one.name).collect();
        let replies = match self.manner.ty {
            Type::Hash => self.many(b"HMGET", &names)?,
            Type::Set if self.can.many => self.many(b"SMISMEMBER", &names)?,
            Type::Zset if self.can.many => self.many(b"ZMSCORE", &names)?,
            Type::Set => self.each(b"SISMEMBER", &names)?,
            _ => self.each(b"ZSCORE", &names)?,
        };
        let times = self.field_times(&names)?;
        for (n, reply) in replies.iter().enumerate() {
            let want = part.want.get(n);
            let got = match (self.manner.ty, reply) {
                (_, Reply::Nil) | (Type::Set, Reply::Int(0)) => None,
                (Type::Set, _) => Some(want),
                (Type::Zset, score) => Some(One {
                    number: score
                        .text()
                        .and_then(|text| crate::value::zset::number(text.as_bytes()))
                        .unwrap_or(f64::NAN)
                        .to_bits() as i64,
                    ..want
                }),
                (_, value) => Some(One {
                    value: value.bytes().unwrap_or_default(),
                    number: times
                        .as_ref()
                        .map_or(if self.can.blind { want.number } else { -1 }, |times| {
                            times.get(n).copied().unwrap_or(-1)
                        }),
                    ..want
                }),
            };
            match got {
                Some(got) => self.manner.same(want, got, rows),
                None => {
                    part.missing = true;
                    self.manner.alone(Some(want), None, rows);
                }
            }
        }
        Ok(())
    }

    /// When fields expire, -1 for never; none where the destination knows no such thing.
    fn field_times(&mut self, names: &[&[u8]]) -> Result<Option<Vec<i64>>> {
        if self.manner.ty != Type::Hash || !self.can.field_expiry {
            return Ok(None);
        }
        let count = names.len().to_string();
        let head: Vec<&[u8]> = match self.can.by_script {
            true => vec![b"EVAL", FIELD_TIMES, b"1", self.key],
            false => vec![b"HPEXPIRETIME", self.key, b"FIELDS", count.as_bytes()],
        };
        let args = [&head[..], names].concat();
        let reply = self.ask(&args)?;
        let times = self.list("HPEXPIRETIME", &reply)?;
        let time = |reply: &Reply| reply.int().filter(|at| *at >= 0).unwrap_or(-1);
        Ok(Some(times.iter().map(time).collect()))
    }

    fn many(&mut self, command: &'static [u8], names: &[&[u8]]) -> Result<Vec<Reply>> {
        let args = [&[command, self.key][..], names].concat();
        match self.ask(&args)? {
            Reply::Array(replies) if replies.len() == names.len() => Ok(replies),
            other => Err(super::odd_answer(
                &self.reach.name(),
                &String::from_utf8_lossy(command),
                &other,
            )),
        }
    }

    fn each(&mut self, command: &'static [u8], names: &[&[u8]]) -> Result<Vec<Reply>> {
        let mut asks = super::reach::Asks::default();
        for name in names {
            asks.push(self.db, self.key, &[command, self.key, name]);
        }
        self.reach.ask(&asks)
    }

    /// Names the elements of the destination that are not known.
    fn strangers(
        &mut self,
        known: &HashSet<u64, RandomState>,
        hasher: &RandomState,
        rows: &mut Rows,
    ) -> Result<()> {
        let (command, width): (&[u8], usize) = match self.manner.ty {
            Type::Set => (b"SSCAN", 1),
            Type::Zset => (b"ZSCAN", 2),
            _ => (b"HSCAN", 2),
        };
        let mut cursor = b"0".to_vec();
        // A scan may tell of an element twice.
        let mut told = HashSet::new();
        loop {
            let reply = self.ask(&[command, self.key, &cursor, b"COUNT", b"500"])?;
            let parts = self.list("SCAN", &reply)?;
            let (next, found) = match parts {
                [next, Reply::Array(found)] => (next.bytes().unwrap_or(b"0").to_vec(), found),
                _ => return Err(super::odd_answer(&self.reach.name(), "SCAN", &reply)),
            };
            for one in found.chunks_exact(width) {
                let name = one[0].bytes().unwrap_or_default();
                let hash = hasher.hash_one(name);
                if known.contains(&hash) || !told.insert(hash) {
                    continue;
                }
                let value = one.get(1).and_then(Reply::bytes).unwrap_or_default();
                let number = match self.manner.ty {
                    Type::Zset => crate::value::zset::number(value)
                        .unwrap_or(f64::NAN)
                        .to_bits() as i64,
                    _ => -1,
                };
                let got = One {
                    name,
                    value,
                    number,
                };
                self.manner.alone(None, Some(got), rows);
            }
            if next == b"0" || rows.is_full() {
                return Ok(());
            }
            cursor = next;
        }
    }
}

/// Elements of the file on their way through.
struct Part {
    want: Items,
    /// How many came before them.
    before: u64,
    missing: bool,
    /// All that came so far; none where they were too many.
    known: Option<HashSet<u64, RandomState>>,
    hasher: RandomState,
}

impl Part {
    fn remember(&mut self) {
        let Some(known) = &mut self.known else {
            return;
        };
        if known.len() + self.want.len() > MOST_KNOWN {
            self.known = None;
            return;
        }
        for one in self.want.iter() {
            known.insert(self.hasher.hash_one(one.name));
        }
    }
}
