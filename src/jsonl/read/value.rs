//! A key on its way from its lines into the snapshot.

use std::borrow::Cow;
use std::io::{self, Write};

use serde_json::value::RawValue;

use super::body::Body;
use super::line::{Field, Int, Line, Score, Text, for_each, whole};
use super::stream::Stream;
use super::{Wrong, key_name, missing};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::length::{length, write_length};
use crate::encoding::listpack::canonical_int;
use crate::encoding::string::{Str, string};
use crate::error::{Error, KeyName};
use crate::input::Spool;
use crate::jsonl::text::EXACT;
use crate::rdb::write::Writer;
use crate::rdb::{Attributes, opcode};
use crate::value::array::{Value, double_text};
use crate::value::{TypeByte, module};

/// The largest field expiry that servers store.
const MOST_EXPIRY_MS: i64 = (1 << 48) - 1;

/// A key whose last line has not come yet.
pub(super) struct Open {
    pub db: u64,
    pub key: Vec<u8>,
    pub type_name: String,
    pub attributes: Attributes,
    pub meta: Vec<u8>,
    pub cursor: Option<u64>,
    pub rdb_type: Option<u8>,
    pub part: u64,
    pub kind: Kind,
    pub elements: u64,
    /// Smallest expiry of a field.
    pub min_expire_ms: Option<i64>,
    /// Index of the last element of an array.
    pub index: Option<u64>,
    pub stream: Option<Box<Stream>>,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
    Array,
    /// Its bytes as a snapshot has them.
    Raw,
}

impl Open {
    pub fn name(&self) -> KeyName {
        key_name(self.db, &self.key, &self.type_name)
    }
}

/// The types whose values stand as their bytes.
pub(super) fn raw_type(byte: u8, is_valkey: bool) -> Option<TypeByte> {
    TypeByte::from_byte(byte, is_valkey)
        .filter(|ty| matches!(ty, TypeByte::Module2 | TypeByte::Gcra | TypeByte::PathHash))
}

impl Open {
    pub fn new(
        line: &Line<'_>,
        db: u64,
        key: Cow<'_, [u8]>,
        type_name: &str,
    ) -> Result<Open, Wrong> {
        let kind = match type_name {
            _ if line.raw.is_some() => Kind::Raw,
            "string" => Kind::String,
            "list" => Kind::List,
            "set" => Kind::Set,
            "zset" => Kind::Zset,
            "hash" => Kind::Hash,
            "stream" => Kind::Stream,
            "array" => Kind::Array,
            "" => return Err(missing("type")),
            _ => {
                return Err(Wrong::What(format!(
                    "type: {type_name:?} is none that is known, and there is no raw"
                )));
            }
        };
        let int = |value: Option<Int>, field: &str| value.map(|n| n.of(field)).transpose();
        let meta = match &line.meta {
            Some(meta) => meta.bytes()?.into_owned(),
            None => Vec::new(),
        };
        if !meta.is_empty() && !is_key_meta(&meta) {
            return Err(Wrong::what("meta: is no metadata of a key"));
        }
        Ok(Open {
            db,
            key: key.into_owned(),
            type_name: type_name.to_owned(),
            attributes: Attributes {
                expire_at_ms: line
                    .expires_at_ms
                    .map(|at| at.of("expires_at_ms"))
                    .transpose()?,
                idle_secs: int(line.idle_secs, "idle_secs")?,
                freq: line.freq.map(|n| n.of("freq")).transpose()?,
                meta: None,
            },
            meta,
            cursor: int(line.cursor, "cursor")?,
            rdb_type: line.rdb_type.map(|n| n.of("rdb_type")).transpose()?,
            part: 0,
            kind,
            elements: 0,
            min_expire_ms: None,
            index: None,
            stream: None,
        })
    }

    pub fn unfinished(&self) -> Wrong {
        Wrong::What(format!(
            "the key of the lines before is not at its end: its part {} was expected",
            self.part
        ))
    }

    /// Takes what a line has of the value.
    pub fn value(&mut self, line: &Line<'_>, body: &mut Body, version: u16) -> Result<(), Wrong> {
        if self.kind == Kind::Raw {
            let raw = line.raw.as_ref().ok_or_else(|| missing("raw"))?;
            return raw.write(body).map_err(|wrong| wrong.in_field("raw"));
        }
        let value = line.value.ok_or_else(|| missing("value"))?;
        self.typed(value, body, version)
            .map_err(|wrong| wrong.in_field("value"))
    }

    fn typed(&mut self, value: &RawValue, body: &mut Body, version: u16) -> Result<(), Wrong> {
        let elements = &mut self.elements;
        match self.kind {
            Kind::String => whole::<Text<'_>>(value)?.write(body),
            Kind::List | Kind::Set => for_each(value, |element: Text<'_>| {
                *elements += 1;
                element.write_string(body)
            }),
            Kind::Zset => for_each(value, |(member, score): (Text<'_>, Score)| {
                *elements += 1;
                member.write_string(body)?;
                Ok(body.write_all(&score.0.to_le_bytes())?)
            }),
            Kind::Hash => for_each(value, |field: Field<'_>| {
                *elements += 1;
                let at = field
                    .expires_at_ms
                    .map(|at| at.of::<i64>("a field's expiry"))
                    .transpose()?;
                if let Some(at) = at {
                    let most = if version >= 80 {
                        i64::MAX
                    } else {
                        MOST_EXPIRY_MS
                    };
                    if !(1..=most).contains(&at) {
                        return Err(Wrong::What(format!(
                            "a field's expiry of {at} is none that servers store"
                        )));
                    }
                    self.min_expire_ms = Some(self.min_expire_ms.map_or(at, |min| min.min(at)));
                }
                // Whether any has one, and the smallest of them, is known at the end: it is counted from nothing.
                write_len(body, at.map_or(0, |at| at as u64))?;
                field.name.write_string(body)?;
                field.value.write_string(body)
            }),
            Kind::Array => for_each(value, |(index, text): (Int, Text<'_>)| {
                *elements += 1;
                let index: u64 = index.of("an index")?;
                if index == u64::MAX || self.index.is_some_and(|last| last >= index) {
                    return Err(Wrong::What(format!("index {index} is out of order")));
                }
                self.index = Some(index);
                array_element(body, index, &text)
            }),
            Kind::Stream => self
                .stream
                .get_or_insert_with(|| Box::new(Stream::new(version)))
                .read(value),
            Kind::Raw => unreachable!("raw values are taken by the caller"),
        }
    }
}

fn is_key_meta(record: &[u8]) -> bool {
    let mut c = Cursor::new(record, 0);
    let begins = c.u8().is_ok_and(|byte| byte == opcode::KEY_META);
    begins && module::skip_key_meta(&mut c).is_ok() && c.is_empty()
}

fn write_len(out: &mut impl Write, n: u64) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(9);
    write_length(&mut bytes, n);
    out.write_all(&bytes)
}

/// Whether servers keep a double in an array as it is: they use its lowest bits for marks of their own, and take what
/// has something there without asking.
fn is_kept(number: f64) -> bool {
    number.is_finite() && number.to_bits() & 7 == 0
}

/// An element of an array, in the form that a server would give the text.
fn array_element(body: &mut Body, index: u64, text: &Text<'_>) -> Result<(), Wrong> {
    let mut piece = Writer::piece(body);
    if text.len()? > 32 {
        piece.length(index)?;
        piece.length(0)?;
        return text.write_string(piece.into_piece()?);
    }
    let bytes = text.bytes()?;
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
    let value = match (canonical_int(&bytes), number(&bytes)) {
        (Some(n), _) if n.unsigned_abs() <= EXACT => Value::Element(Element::Int(n)),
        (None, Some(n)) if is_kept(n) && double_text(n).as_bytes() == &*bytes => Value::Double(n),
        _ => Value::Element(Element::Bytes(&bytes)),
    };
    piece.array_element(index, value)?;
    piece.into_piece()?;
    Ok(())
}

/// Writes a hash whose fields wait in `body`, each behind its expiry.
pub(super) fn hash(
    out: &mut Writer<Spool>,
    attributes: &Attributes,
    key: &[u8],
    open: &Open,
    body: &[u8],
    is_valkey: bool,
) -> io::Result<()> {
    let n = open.elements;
    let ty = match (open.min_expire_ms, is_valkey) {
        (None, _) => TypeByte::Hash,
        (Some(_), false) => TypeByte::HashMetadata,
        (Some(_), true) => TypeByte::Hash2,
    };
    out.key(attributes, ty.byte(), key)?;
    match open.min_expire_ms {
        Some(min) if !is_valkey => out.expiring_head(min, n)?,
        _ => out.length(n)?,
    }
    let broken = |error: Error| io::Error::other(error);
    let mut c = Cursor::new(body, 0);
    for _ in 0..n {
        let at = length(&mut c).map_err(broken)?;
        let at = (at > 0).then_some(at as i64);
        let (Str::Raw(field), Str::Raw(value)) = (
            string(&mut c).map_err(broken)?,
            string(&mut c).map_err(broken)?,
        ) else {
            unreachable!("strings were written as they are");
        };
        match (open.min_expire_ms, is_valkey) {
            (Some(min), false) => out.expiring_field(min, at, field, value)?,
            _ => {
                out.string(field)?;
                out.string(value)?;
            }
        }
        if ty == TypeByte::Hash2 {
            out.raw(&at.unwrap_or(-1).to_le_bytes())?;
        }
    }
    Ok(())
}
