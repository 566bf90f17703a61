//! Finds where a damaged snapshot can be read again.
//!
//! Nothing in the format says where a record begins. What does is that records follow each other: bytes of a value, or
//! of anything else, decode as one record now and then, and practically never as eight of them in a row, each with
//! a name of its own and a value that is clean to its last byte.

use crate::cursor::Cursor;
use crate::encoding::crc64::crc64;
use crate::encoding::string::{Scratch, Str};
use crate::error::{Error, ErrorKind, Result};
use crate::rdb::{Format, Function, Key, Reader, Record, key_name, opcode, type_name};
use crate::value::{Names, Templates, TypeByte, skip};

use super::snapshot::Values;

/// So many keys in a row must be clean before a place is believed to be the beginning of a record, or all up to the
/// end of the file. Random bytes decode as a clean record about once in a thousand places.
const CHAIN: usize = 8;

/// Values among these that are broken inside, with lengths that lead on: damage seldom comes alone.
const CHAIN_BROKEN: usize = 64;

/// Fields about the file that servers write.
const AUX: [&[u8]; 11] = [
    b"redis-ver",
    b"valkey-ver",
    b"redis-bits",
    b"ctime",
    b"used-mem",
    b"repl-stream-db",
    b"repl-id",
    b"repl-offset",
    b"aof-preamble",
    b"aof-base",
    b"lua",
];

/// What one of these weighs, or a library that says its engine.
const HEAD: i32 = 40;

/// What a hash template weighs.
const TEMPLATE: i32 = 8;

/// Databases of a higher number no server has been seen with.
const DB_PLAUSIBLE: u64 = 1 << 16;

/// Names up to this length, and up to twice the longest one that was seen, are believed to be names.
const NAME_PLAUSIBLE: usize = 512;

/// What a step costs, whatever it finds, in bytes that could be looked at in its place.
const STEP_WORK: usize = 64;

/// How a chain begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Anywhere: what it begins with must be clean.
    Unknown,
    /// Behind a record whose beginning is certain. Of what follows it some values may be broken inside.
    Known,
}

/// Records that follow each other.
#[derive(Debug)]
struct Chain {
    /// Whether they are enough to be believed.
    leads_on: bool,
    /// Whether a key behind the first one has an idle time or a frequency.
    has_eviction: bool,
    /// Positions behind the first clean keys, and what all of them up to there weigh ([`Clean::weight`]).
    ends: Vec<(usize, i32)>,
}

/// What stands at a place.
#[derive(Debug)]
pub enum Step<'a> {
    /// A key that is clean to its last byte.
    Key(Clean),
    /// SELECTDB.
    Select {
        /// The database.
        db: u64,
        /// Position behind it.
        end: usize,
    },
    /// RESIZEDB and other hints.
    Hint {
        /// Number of keys that a RESIZEDB announces.
        announced: Option<u64>,
        /// Position behind it.
        end: usize,
    },
    /// AUX, MODULE_AUX, or a function library.
    Other {
        /// Position behind it.
        end: usize,
    },
    /// HASH_TEMPLATE.
    Template {
        /// Its id.
        id: u64,
        /// Its names.
        names: Names,
        /// Position behind it.
        end: usize,
    },
    /// EOF.
    Eof {
        /// Position behind the opcode.
        end: usize,
    },
    /// Nothing that could be read.
    Broken(Broken<'a>),
}

/// A clean key.
#[derive(Debug, Clone, Copy)]
pub struct Clean {
    /// Its first byte: of its first attribute.
    pub start: usize,
    /// Position behind its name.
    pub name_end: usize,
    /// Position behind its value.
    pub end: usize,
    /// Its type.
    pub ty: TypeByte,
    /// Whether its name has no bytes.
    pub is_unnamed: bool,
    /// Whether something stands before its type that belongs to it.
    pub has_attributes: bool,
    /// Whether an idle time or a frequency stands there.
    pub has_eviction: bool,
    /// Whether its name is plain text.
    pub is_text: bool,
    /// A hash of its name.
    pub name: u64,
    /// How unlikely it is that other bytes look like it: a power of two.
    pub weight: i32,
}

/// What could not be read.
#[derive(Debug)]
pub struct Broken<'a> {
    /// Why.
    pub error: Error,
    /// The key, where its name was read.
    pub key: Option<Key<'a>>,
    /// Position behind the value, where its lengths led there.
    pub value_end: Option<usize>,
}

/// Reads a damaged snapshot record by record.
#[derive(Debug)]
pub struct Walker<'a> {
    data: &'a [u8],
    format: Format,
    values: Values,
    name: Scratch,
    /// Names that are longer are not believed where the beginning of a record is searched for.
    name_plausible: usize,
    /// Whether a key with an idle time or a frequency was seen: then others have them too.
    sees_eviction: bool,
    /// Whether a key was seen whose name is no text.
    sees_binary: bool,
    /// Bytes that were looked at one by one, roughly.
    work: usize,
    /// The file's hash templates, as far as they were met.
    pub templates: Templates,
}

impl<'a> Walker<'a> {
    /// Of a file of this format.
    pub fn new(data: &'a [u8], format: Format) -> Walker<'a> {
        Walker {
            data,
            format,
            values: Values::new(format),
            name: Scratch::new(1 << 20),
            name_plausible: NAME_PLAUSIBLE,
            sees_eviction: false,
            sees_binary: false,
            work: 0,
            templates: Templates::default(),
        }
    }

    /// Has seen a key that is one without doubt.
    pub fn see(&mut self, key: &Clean) {
        let name = 2 * (key.name_end - key.start);
        self.name_plausible = self.name_plausible.max(name);
        self.sees_eviction |= key.has_eviction;
        self.sees_binary |= !key.is_text;
    }

    /// What stands at `pos`, whose values are walked to their last byte. Nothing behind `limit` is looked at. Errors:
    /// what has nothing to do with the file's contents.
    pub fn step(&mut self, pos: usize, limit: usize, db: u64) -> Result<Step<'a>> {
        let file = Cursor::new(&self.data[..limit], 0);
        let mut reader = Reader::new(file, self.format, pos);
        let broken = |error: Error, key, value_end| match error.kind() {
            ErrorKind::Io { .. } | ErrorKind::Stopped => Err(error),
            _ => Ok(Step::Broken(Broken {
                error,
                key,
                value_end,
            })),
        };
        // The number of a RESIZEDB is passed over by whoever reads for its keys.
        let announced = (self.data.get(pos) == Some(&opcode::RESIZEDB)).then(|| {
            let mut c = file;
            c.seek(pos + 1);
            crate::encoding::length::length(&mut c).ok()
        });
        let record = match reader.next() {
            Ok(record) => record,
            Err(error) => return broken(error, None, None),
        };
        if reader.has_pending() {
            let error = Error::new(ErrorKind::Loose, crate::cursor::At::file(pos as u64));
            return broken(error, None, None);
        }
        let end = reader.c.pos();
        match record {
            Record::Key(key) => {
                let value = reader.c;
                let named = |error: Error| {
                    error.in_key(|| key_name(&key, db, type_name(key.ty, value), self.format))
                };
                let skipped = skip(&mut reader.c, key.ty, &self.templates, &mut Vec::new());
                self.work += match (key.ty, self.data.get(value.pos())) {
                    // Its bytes are passed over at once.
                    (TypeByte::String, Some(0..=0xbf)) => STEP_WORK,
                    _ => STEP_WORK + (reader.c.pos() - value.pos()),
                };
                if let Err(error) = skipped {
                    return broken(named(error), Some(key), None);
                }
                let end = reader.c.pos();
                let checked = self
                    .values
                    .check_value(value, key.ty, end, &self.templates)
                    .and_then(|()| {
                        let mut digits = itoa::Buffer::new();
                        let name = key.key.load(&mut self.name)?;
                        let name = name.as_bytes(&mut digits);
                        let packed = self.data.get(value.pos()) == Some(&0xc3);
                        let is_stray = match has_eviction(&key) {
                            true => !self.sees_eviction,
                            // Hints of Redis Enterprise, which no other server writes.
                            false => {
                                self.data[key.start] != key.ty.byte()
                                    && key.attributes.expire_at_ms.is_none()
                                    && key.attributes.meta.is_none()
                            }
                        };
                        let stray = if is_stray { STRAY } else { 0 };
                        let is_text = is_text(name);
                        let name_weight = match is_text {
                            true => name.len().min(16) as i32,
                            false if self.sees_binary => 0,
                            false => -BINARY,
                        };
                        let weight = weight(&key, packed) + name_weight - stray;
                        Ok((crc64(name), is_text, weight))
                    });
                match checked {
                    Ok((name, is_text, weight)) => Ok(Step::Key(Clean {
                        is_text,
                        start: key.start,
                        name_end: value.pos(),
                        end,
                        ty: key.ty,
                        is_unnamed: key.key.is_empty(),
                        has_eviction: has_eviction(&key),
                        has_attributes: self.data[key.start] != key.ty.byte(),
                        name,
                        weight,
                    })),
                    Err(error) => broken(named(error), Some(key), Some(end)),
                }
            }
            Record::Select(db) => Ok(Step::Select { db, end }),
            Record::Hint => Ok(Step::Hint {
                announced: announced.flatten(),
                end,
            }),
            Record::Aux { name, value } => self.other(&[name, value], end),
            Record::Function(Function::Library(code)) => self.other(&[code], end),
            Record::Function(Function::PreGa { name, engine, code }) => {
                self.other(&[name, engine, code], end)
            }
            Record::ModuleAux(_) => Ok(Step::Other { end }),
            Record::Template { id, names } => match names.check(file, &mut self.name) {
                Ok(()) => Ok(Step::Template { id, names, end }),
                Err(error) => broken(error, None, Some(end)),
            },
            Record::Eof => Ok(Step::Eof { end }),
        }
    }

    fn other(&mut self, strings: &[Str<'a>], end: usize) -> Result<Step<'a>> {
        match self.values.check_strings(strings) {
            Ok(()) => Ok(Step::Other { end }),
            Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => Err(error),
            Err(error) => Ok(Step::Broken(Broken {
                error,
                key: None,
                value_end: Some(end),
            })),
        }
    }

    /// Whether a file can end with an EOF opcode before `end`: with its checksum, and with nothing behind it but what
    /// follows snapshots in logs and in transfers.
    pub fn is_end(&self, end: usize) -> bool {
        let checksum = if self.format.version >= 5 { 8 } else { 0 };
        self.data.get(end + checksum..).is_some_and(may_follow)
    }

    /// Follows records from `pos` on, up to `until` at least, and beyond `pass` without ending there; see [`CHAIN`].
    fn follow(
        &mut self,
        pos: usize,
        pass: Option<usize>,
        until: usize,
        limit: usize,
        start: Start,
    ) -> Result<Chain> {
        let mut templates = Vec::new();
        let chain = self.follow_records(pos, pass, until, limit, start, &mut templates);
        for id in templates {
            self.templates.remove(id);
        }
        chain
    }

    /// The same; `templates` are those that keys behind them may refer to, and that are to be forgotten again.
    fn follow_records(
        &mut self,
        pos: usize,
        pass: Option<usize>,
        until: usize,
        limit: usize,
        start: Start,
        templates: &mut Vec<u64>,
    ) -> Result<Chain> {
        let mut chain = Chain {
            leads_on: false,
            has_eviction: false,
            ends: Vec::new(),
        };
        let (mut at, mut clean, mut broken, mut others) = (pos, 0, 0, 0);
        let mut names = Vec::new();
        let mut weight = 0;
        loop {
            if pass == Some(at) || others > 8 * CHAIN + clean {
                return Ok(chain);
            }
            let is_beyond = pass.is_none_or(|pass| at > pass);
            let is_likely = start == Start::Known || weight > 0;
            if clean >= CHAIN && is_beyond && is_likely && at >= until {
                chain.leads_on = true;
                return Ok(chain);
            }
            match self.step(at, limit, 0)? {
                Step::Key(key) => {
                    let is_first = clean == 0 && start == Start::Unknown;
                    // Bytes that repeat decode as one record again and again.
                    if names.contains(&key.name)
                        || (is_first && self.is_zeros(&key))
                        || key.name_end - key.start > self.name_plausible
                    {
                        return Ok(chain);
                    }
                    if names.len() < 2 * CHAIN {
                        names.push(key.name);
                    }
                    weight += key.weight;
                    chain.has_eviction |= clean > 0 && key.has_eviction;
                    chain.ends.push((key.end, weight));
                    clean += 1;
                    at = key.end;
                }
                Step::Select { db, end } => {
                    if db >= DB_PLAUSIBLE {
                        return Ok(chain);
                    }
                    names.clear();
                    others += 1;
                    at = end;
                }
                Step::Template {
                    id,
                    names: fields,
                    end,
                } => {
                    // They stand by the thousand before the first key, each with an id of its own.
                    if !self.templates.insert(id, fields) {
                        return Ok(chain);
                    }
                    templates.push(id);
                    weight += TEMPLATE;
                    clean += 1;
                    at = end;
                }
                Step::Other { end } => {
                    if self.may_be_head(at) {
                        weight += HEAD;
                    }
                    others += 1;
                    at = end;
                }
                Step::Hint { end, .. } => {
                    others += 1;
                    at = end;
                }
                Step::Eof { end } => {
                    chain.leads_on = self.is_end(end) && is_beyond && (is_likely || clean == 0);
                    return Ok(chain);
                }
                Step::Broken(found) => match (found.value_end, found.key) {
                    (Some(end), Some(key))
                        if start == Start::Known
                            && broken < CHAIN_BROKEN
                            && key.key.len() as usize <= self.name_plausible =>
                    {
                        broken += 1;
                        at = end;
                    }
                    _ => return Ok(chain),
                },
            }
        }
    }

    /// Whether records follow each other from `pos` on, behind a record whose beginning is certain.
    pub fn leads_on(&mut self, pos: usize) -> Result<bool> {
        let limit = self.data.len();
        let chain = self.follow(pos, None, 0, limit, Start::Known)?;
        Ok(chain.leads_on)
    }

    /// The first position in `from..to` from where records follow each other, and beyond `pass` without ending there. `progress` is called now and
    /// then with the number of bytes passed.
    pub fn find(
        &mut self,
        from: usize,
        to: usize,
        pass: Option<usize>,
        mut progress: impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<usize>> {
        // What is looked at ahead of the present place is paid for by places that were passed: so the time stays in
        // proportion to the size of the damage, whatever it consists of.
        const AHEAD: usize = 64 << 20;
        const AHEAD_LEAST: usize = 4 << 10;
        let before = self.work;
        for pos in from..to {
            if (pos - from).is_multiple_of(1 << 16) {
                progress(1 << 16)?;
            }
            if !self.may_begin(pos) {
                continue;
            }
            let earned = AHEAD + 16 * (pos - from);
            let spent = self.work - before;
            let ahead = earned.saturating_sub(spent).max(AHEAD_LEAST);
            let limit = self.data.len().min(pos.saturating_add(ahead));
            // Where the whole of the file fits, its end is its end.
            let chain = self.follow(pos, pass, 0, limit, Start::Unknown)?;
            if chain.leads_on {
                // Where those behind it have an idle time, its own is none that came about by chance.
                if chain.has_eviction {
                    self.sees_eviction = true;
                    let chain = self.follow(pos, pass, 0, limit, Start::Unknown)?;
                    return self.finer(pos, chain, limit).map(Some);
                }
                return self.finer(pos, chain, limit).map(Some);
            }
        }
        Ok(None)
    }

    /// Bytes before the true beginning of a record may look like a record that ends where one of the next ones does, and
    /// swallow what is between. Where others that weigh more than all from `pos` on lead to the same place, those are the
    /// true ones.
    fn finer(&mut self, pos: usize, chain: Chain, limit: usize) -> Result<usize> {
        /// What looks like a record among other bytes is seldom this large, and large values cost time.
        const LARGE: usize = 1 << 20;
        let (mut pos, mut ends) = (pos, chain.ends);
        'again: loop {
            let mut begin = pos;
            for (end, _) in ends.clone() {
                for inner in begin + 1..end.min(begin + LARGE) {
                    if !self.may_begin(inner) {
                        continue;
                    }
                    let other = self.follow(inner, None, end, limit, Start::Unknown)?;
                    // Where both have met, and what either weighs up to there.
                    let met = other.ends.iter().find_map(|(end, theirs)| {
                        let (_, ours) = ends.iter().find(|(known, _)| known == end)?;
                        Some((*theirs, *ours))
                    });
                    if other.leads_on && met.is_some_and(|(theirs, ours)| theirs > ours) {
                        (pos, ends) = (inner, other.ends);
                        continue 'again;
                    }
                }
                begin = end;
            }
            return Ok(pos);
        }
    }

    /// Whether a key without a name is more likely to be bytes of a run of zeros, and what comes behind that.
    pub fn is_zeros(&self, key: &Clean) -> bool {
        let behind = self.data.get(key.start + 2);
        key.is_unnamed
            && self.data[key.start] == 0
            && (self.data[key.start - 1] == 0 || behind == Some(&0))
    }

    /// Whether a record may begin at `pos`, by its first bytes; what is left is looked at closely.
    fn may_begin(&self, pos: usize) -> bool {
        let rest = &self.data[pos..];
        match *rest {
            [opcode::EOF, ..] => self.is_end(pos + 1),
            [opcode::SELECTDB, db, ..] => db < 0x80,
            [opcode::EXPIRETIME_MS, ref rest @ ..] => {
                rest.get(8).is_some_and(|byte| self.may_be_key(*byte))
            }
            [opcode::EXPIRETIME, ref rest @ ..] => {
                rest.get(4).is_some_and(|byte| self.may_be_key(*byte))
            }
            [opcode::FREQ, _, byte, ..] => self.may_be_key(byte),
            [opcode::IDLE | opcode::KEY_META, ..] => true,
            [opcode::AUX | opcode::FUNCTION2 | opcode::MODULE_AUX, ..] => self.may_be_head(pos),
            // An id in plain lengths.
            [opcode::HASH_TEMPLATE, id, ..] => id <= 0x81,
            [ty, name, ..] => match TypeByte::from_byte(ty, self.format.valkey) {
                // A name in plain lengths, an integer, or a packed one.
                // Within a run of zeros there is nothing.
                Some(_) => {
                    matches!(name, 1..=0x80 | 0xc0..=0xc3) || (name == 0 && self.data[pos - 1] != 0)
                }
                None => false,
            },
            [_] | [] => false,
        }
    }

    /// Whether what stands at `pos` looks like a field about the file, a library, or a module's own data.
    fn may_be_head(&self, pos: usize) -> bool {
        let rest = &self.data[pos..];
        match *rest {
            // Names are short and never packed.
            [opcode::AUX, len, ref rest @ ..] => {
                let name = rest.get(..usize::from(len));
                name.is_some_and(|name| AUX.contains(&name))
            }
            // Its source says its engine first. Where that is packed, it begins as it stands behind two lengths.
            [opcode::FUNCTION2, ref rest @ ..] => {
                let begin = &rest[..rest.len().min(14)];
                begin.windows(2).any(|pair| pair == b"#!")
            }
            // A module's id takes eight bytes.
            [opcode::MODULE_AUX, id, ..] => id == 0x81,
            _ => false,
        }
    }

    fn may_be_key(&self, byte: u8) -> bool {
        TypeByte::from_byte(byte, self.format.valkey).is_some()
            || matches!(byte, opcode::IDLE | opcode::FREQ | opcode::KEY_META)
    }
}

/// Whether a snapshot can end where this stands behind its checksum: nothing, the mark of a replication transfer, or the
/// head of a command or a time of a log. A single byte would say nothing: it stands there by chance now and then.
pub fn may_follow(rest: &[u8]) -> bool {
    match rest {
        [] => true,
        [b'#', ..] => rest.starts_with(b"#TS:"),
        [b'*', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            (1..=10).contains(&digits) && rest[digits..].starts_with(b"\r\n$")
        }
        _ => is_mark(rest),
    }
}

/// Whether these are the forty bytes that end a replication transfer without a length.
pub fn is_mark(rest: &[u8]) -> bool {
    rest.len() == 40 && rest.iter().all(u8::is_ascii_alphanumeric)
}

/// An idle time or a frequency takes two bytes: where no other key has one it is more likely to be the end of what
/// stands before.
const STRAY: i32 = 6;

/// Names are text but for those of a few programs, and then many are not.
const BINARY: i32 = 12;

fn is_text(name: &[u8]) -> bool {
    name.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

fn has_eviction(key: &Key<'_>) -> bool {
    key.attributes.idle_secs.is_some() || key.attributes.freq.is_some()
}

/// How unlikely it is that other bytes look like this record: a power of two, roughly. A packed value says its own size
/// and where it ends; an expiry lies in the lifetime of servers.
fn weight(key: &Key<'_>, packed: bool) -> i32 {
    const FROM_MS: i64 = 946_684_800_000; // 2000
    const TO_MS: i64 = 7_258_118_400_000; // 2200
    let value = match key.ty {
        TypeByte::String if packed => 24,
        TypeByte::String => 4,
        ty if ends_itself(ty) => 40,
        _ => 8,
    };
    let expiry = match key.attributes.expire_at_ms {
        Some(FROM_MS..TO_MS) => 20,
        Some(_) => -20,
        None => 0,
    };
    value + expiry
}

/// Whether the bytes of such a value say themselves where it ends, so that another end would have shown.
pub fn ends_itself(ty: TypeByte) -> bool {
    use TypeByte::*;
    match ty {
        HashZipmap
        | ListZiplist
        | SetIntset
        | ZsetZiplist
        | HashZiplist
        | ListQuicklist
        | StreamListpacks
        | HashListpack
        | ZsetListpack
        | ListQuicklist2
        | StreamListpacks2
        | SetListpack
        | StreamListpacks3
        | HashListpackExPreGa
        | HashListpackEx
        | StreamListpacks4
        | StreamListpacks5
        | HashTemplateListpack
        | HashTemplateListpackRef => true,
        String | List | Set | Zset | Hash | Zset2 | HashMetadataPreGa | HashMetadata | Array
        | HashTemplateArray | HashTemplateArrayRef | Gcra | Hash2 | PathHash => false,
        // A zero byte is an end of it wherever one of its opcodes may stand.
        Module2 => false,
    }
}
