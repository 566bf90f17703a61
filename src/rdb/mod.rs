//! A snapshot from magic to checksum. `format.md` beside this file is FORMAT, cited by section.

pub mod expiry;
pub mod keys;
pub mod opcode;
pub mod scan;
pub mod values;
pub mod write;

use crate::cursor::{At, Cursor};
use crate::encoding::length::{count, length};
use crate::encoding::string::{Scratch, Str, skip_string, string};
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName, Result, show_key};
use crate::value::{Names, TypeByte, module};

/// Magic and version of a file (FORMAT §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    magic: [u8; 9],
    /// RDB version: 1 to 15, or 80 and 81 of Valkey.
    pub version: u16,
    /// Whether the magic is VALKEY: decides how numbers that clash are read.
    pub valkey: bool,
}

/// The highest version of the `REDIS` magic that is known.
pub const NEWEST_REDIS: u16 = 15;
/// The lowest and the highest version of the `VALKEY` magic.
pub const VALKEY: std::ops::RangeInclusive<u16> = 80..=81;

impl Format {
    /// Reads the first nine bytes. With `lenient` an unknown version passes, until something in the
    /// file is unknown too.
    pub fn parse(c: &mut Cursor<'_>, lenient: bool) -> Result<Format> {
        let start = *c;
        let shown = c
            .slice(c.pos(), c.pos() + c.remaining().min(9))
            .escape_ascii()
            .to_string();
        if shown.starts_with("VKCS") {
            return Err(start.error(ErrorKind::Vkcs));
        }
        let Ok(magic) = c.array::<9>() else {
            return Err(start.error(ErrorKind::NotRdb { found: shown }));
        };
        let (valkey, digits) = match &magic {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (false, &digits[..]),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (true, &digits[..]),
            _ => return Err(start.error(ErrorKind::NotRdb { found: shown })),
        };
        let format = std::str::from_utf8(digits)
            .ok()
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| d.parse().ok())
            .filter(|&v: &u16| v > 0)
            .map(|version| Format {
                magic,
                version,
                valkey,
            });
        match format {
            Some(format) if lenient || format.is_known() => Ok(format),
            _ => Err(start.error(ErrorKind::UnknownVersion { magic: shown })),
        }
    }

    /// Whether the version is one that this program was written for.
    pub fn is_known(&self) -> bool {
        if self.valkey {
            VALKEY.contains(&self.version)
        } else {
            (1..=NEWEST_REDIS).contains(&self.version)
        }
    }

    /// The nine bytes as text.
    pub fn magic(&self) -> String {
        self.magic.escape_ascii().to_string()
    }
}

/// What stands before a key and belongs to it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// Unix time in milliseconds at which the key expires.
    pub expire_at_ms: Option<i64>,
    /// Seconds since the last use (LRU).
    pub idle_secs: Option<u64>,
    /// Access frequency counter (LFU).
    pub freq: Option<u8>,
    /// Positions of the KEY_META record.
    pub meta: Option<(usize, usize)>,
}

/// A key and what stands before its value.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// Position of its record: of its first attribute.
    pub start: usize,
    /// Expiry and hints.
    pub attributes: Attributes,
    /// Its type.
    pub ty: TypeByte,
    /// Its name.
    pub key: Str<'a>,
}

/// A record of the file.
#[derive(Debug)]
pub enum Record<'a> {
    /// A key; its value comes next and is the caller's to read or skip.
    Key(Key<'a>),
    /// SELECTDB.
    Select(u64),
    /// FUNCTION2, or FUNCTION of a pre-release.
    Function(Function<'a>),
    /// AUX.
    Aux {
        /// Name.
        name: Str<'a>,
        /// Value.
        value: Str<'a>,
    },
    /// MODULE_AUX with the module's name.
    ModuleAux(String),
    /// HASH_TEMPLATE.
    Template {
        /// Its id.
        id: u64,
        /// Its field names.
        names: Names,
    },
    /// RESIZEDB, SLOT_INFO, SLOT_IMPORT and others that carry no data.
    Hint,
    /// EOF.
    Eof,
}

/// A function library.
#[derive(Debug, Clone, Copy)]
pub enum Function<'a> {
    /// Source with its shebang.
    Library(Str<'a>),
    /// As 7.0 rc1 and rc2 wrote it, without the shebang.
    PreGa {
        /// Library name.
        name: Str<'a>,
        /// Engine, `LUA`.
        engine: Str<'a>,
        /// Source.
        code: Str<'a>,
    },
}

impl Function<'_> {
    /// The library's source with its shebang, which is made where the file has none.
    pub fn source(&self, scratch: &mut Scratch) -> Result<Vec<u8>> {
        let mut digits = itoa::Buffer::new();
        match self {
            Function::Library(code) => Ok(code.load(scratch)?.as_bytes(&mut digits).to_vec()),
            Function::PreGa { name, engine, code } => {
                let mut source = b"#!".to_vec();
                let text = engine.load(scratch)?;
                source.extend_from_slice(&text.as_bytes(&mut digits).to_ascii_lowercase());
                source.extend_from_slice(b" name=");
                source.extend_from_slice(name.load(scratch)?.as_bytes(&mut digits));
                source.push(b'\n');
                source.extend_from_slice(code.load(scratch)?.as_bytes(&mut digits));
                Ok(source)
            }
        }
    }
}

/// Reads records one after the other.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Where it stands.
    pub c: Cursor<'a>,
    format: Format,
    pending: Attributes,
    start: Option<usize>,
    last_key: Option<usize>,
}

impl<'a> Reader<'a> {
    /// From the record at `pos` of the file.
    pub fn new(mut file: Cursor<'a>, format: Format, pos: usize) -> Reader<'a> {
        file.seek(pos);
        Reader {
            c: file,
            format,
            pending: Attributes::default(),
            start: None,
            last_key: None,
        }
    }

    /// The next record.
    #[allow(clippy::should_implement_trait)] // it fails, so it is no Iterator
    #[inline]
    pub fn next(&mut self) -> Result<Record<'a>> {
        loop {
            let pos = self.c.pos();
            let byte = self.c.u8()?;
            if let Some(ty) = TypeByte::from_byte(byte, self.format.valkey) {
                let key_pos = self.c.pos();
                let key = string(&mut self.c)?;
                self.last_key = Some(key_pos);
                let start = self.start.take().unwrap_or(pos);
                let attributes = std::mem::take(&mut self.pending);
                return Ok(Record::Key(Key {
                    start,
                    attributes,
                    ty,
                    key,
                }));
            }
            if let Some(record) = self.opcode(byte, pos)? {
                return Ok(record);
            }
        }
    }

    /// Moves to `pos`, behind a record that was read in another way and whose key stands at `key`.
    #[inline]
    pub fn pass(&mut self, pos: usize, key: usize) {
        self.c.seek(pos);
        self.last_key = Some(key);
    }

    /// Whether attributes were read whose key has not come yet.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.start.is_some()
    }

    /// An attribute of the next key gives `None`.
    fn opcode(&mut self, byte: u8, pos: usize) -> Result<Option<Record<'a>>> {
        let c = &mut self.c;
        let hint = Ok(Some(Record::Hint));
        match byte {
            opcode::EXPIRETIME_MS => {
                let le: [u8; 8] = c.array()?;
                self.pending.expire_at_ms = Some(expire_ms(le, self.format.version));
            }
            opcode::EXPIRETIME => {
                let secs = i32::from_le_bytes(c.array()?);
                self.pending.expire_at_ms = Some(i64::from(secs) * 1000);
            }
            opcode::FREQ => self.pending.freq = Some(c.u8()?),
            opcode::IDLE => self.pending.idle_secs = Some(length(c)?),
            opcode::KEY_META if !self.format.valkey && self.format.version >= 13 => {
                module::skip_key_meta(c)?;
                self.pending.meta = Some((pos, c.pos()));
            }
            opcode::ENTERPRISE_LRU | opcode::ENTERPRISE_SLOT => drop(length(c)?),
            opcode::EOF => return Ok(Some(Record::Eof)),
            opcode::SELECTDB => return Ok(Some(Record::Select(length(c)?))),
            opcode::RESIZEDB => {
                length(c)?;
                length(c)?;
                return hint;
            }
            opcode::AUX => {
                return Ok(Some(Record::Aux {
                    name: string(c)?,
                    value: string(c)?,
                }));
            }
            opcode::MODULE_AUX => return Ok(Some(Record::ModuleAux(module::skip_aux(c)?))),
            opcode::FUNCTION_PRE_GA => {
                let (name, engine) = (string(c)?, string(c)?);
                if length(c)? != 0 {
                    skip_string(c)?;
                }
                return Ok(Some(Record::Function(Function::PreGa {
                    name,
                    engine,
                    code: string(c)?,
                })));
            }
            opcode::FUNCTION2 => return Ok(Some(Record::Function(Function::Library(string(c)?)))),
            opcode::SLOT_INFO if self.format.version >= 12 => {
                length(c)?;
                length(c)?;
                length(c)?;
                return hint;
            }
            opcode::SLOT_IMPORT if self.format.valkey => {
                skip_string(c)?;
                for _ in 0..count(c, 2, "slot ranges")? {
                    length(c)?;
                    length(c)?;
                }
                return hint;
            }
            opcode::HASH_TEMPLATE if !self.format.valkey && self.format.version >= 15 => {
                let id = length(c)?;
                let count = count(c, 1, "fields")?;
                let names = Names {
                    pos: c.pos(),
                    count,
                    packed: false,
                };
                for _ in 0..count {
                    skip_string(c)?;
                }
                return Ok(Some(Record::Template { id, names }));
            }
            _ => {
                let at = At::file(c.at().offset - 1);
                let kind = match byte {
                    6 => ErrorKind::ModulePreGa,
                    opcode::UPDATE => ErrorKind::UpdateOpcode,
                    _ => {
                        let (version, after) = (self.format.magic(), self.last_key_shown());
                        ErrorKind::UnknownType {
                            byte,
                            version,
                            after,
                        }
                    }
                };
                return Err(Error::new(kind, at));
            }
        }
        self.start.get_or_insert(pos);
        Ok(None)
    }

    fn last_key_shown(&self) -> Option<String> {
        let mut c = self.c;
        c.seek(self.last_key?);
        let mut scratch = Scratch::new(1 << 20);
        let key = string(&mut c).ok()?.load(&mut scratch).ok()?;
        Some(show_key(key.as_bytes(&mut itoa::Buffer::new()), false))
    }
}

/// A record of a string key without attributes, key and value as they stand and of less than 16 KiB: most
/// records of most files are such, and this finds their parts in the fewest steps. `None` for anything else.
#[inline]
pub fn plain_string(data: &[u8], pos: usize) -> Option<PlainString<'_>> {
    #[inline]
    fn short(rest: &[u8]) -> Option<(&[u8], &[u8])> {
        let (len, rest) = match rest {
            [b @ 0..=0x3f, rest @ ..] => (usize::from(*b), rest),
            [b @ 0x40..=0x7f, low, rest @ ..] => {
                (usize::from(*b & 0x3f) << 8 | usize::from(*low), rest)
            }
            _ => return None,
        };
        rest.split_at_checked(len)
    }
    let (0, rest) = data
        .get(pos..)?
        .split_first()
        .map(|(ty, rest)| (*ty, rest))?
    else {
        return None;
    };
    let (key, rest) = short(rest)?;
    let (value, rest) = short(rest)?;
    Some(PlainString {
        key,
        value,
        end: data.len() - rest.len(),
    })
}

/// What [`plain_string`] found.
#[derive(Debug, Clone, Copy)]
pub struct PlainString<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// Position behind the record.
    pub end: usize,
}

/// Before RDB 9 the time was in the writer's byte order. Where little-endian gives a year beyond 5000
/// and big-endian one between 1970 and then, the file is from a big-endian machine (FORMAT §2.5).
fn expire_ms(bytes: [u8; 8], version: u16) -> i64 {
    const YEAR_5000_MS: i64 = 95_617_584_000_000;
    let (le, be) = (i64::from_le_bytes(bytes), i64::from_be_bytes(bytes));
    let plausible = |ms: i64| (0..YEAR_5000_MS).contains(&ms);
    if version < 9 && !plausible(le) && plausible(be) {
        be
    } else {
        le
    }
}

/// The key's name for messages. A name that cannot be unpacked is left empty: the error at hand says more.
pub fn key_name(key: &Key<'_>, db: u64, type_name: String, format: Format) -> KeyName {
    let mut scratch = Scratch::new(1 << 20);
    let name = match key.key {
        Str::Lzf { len, .. } if len > 1 << 20 => Vec::new(),
        other => match other.load(&mut scratch) {
            Ok(element) => {
                let mut buffer = itoa::Buffer::new();
                let bytes = element.as_bytes(&mut buffer);
                bytes[..bytes.len().min(KEY_SHOWN + 1)].to_vec()
            }
            Err(_) => Vec::new(),
        },
    };
    KeyName {
        db,
        key: name,
        type_name,
        rdb_version: Some(format.version),
    }
}

/// A short string of the file as text; empty where it is long or broken.
pub fn plain_text(text: Str<'_>) -> Vec<u8> {
    if text.len() > 1024 {
        return Vec::new();
    }
    let mut scratch = Scratch::new(1 << 16);
    text.load(&mut scratch)
        .map(|element| element.as_bytes(&mut itoa::Buffer::new()).to_vec())
        .unwrap_or_default()
}

/// A key's type as the TYPE command names it; modules by their own names.
pub fn type_name(ty: TypeByte, value: Cursor<'_>) -> String {
    let mut c = value;
    match ty {
        TypeByte::Module2 => match length(&mut c) {
            Ok(id) => module::type_name(id),
            Err(_) => "module".to_owned(),
        },
        _ => ty.kind().name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bytes: &[u8]) -> Result<Format> {
        Format::parse(&mut Cursor::new(bytes, 0), false)
    }

    #[test]
    fn magics() {
        assert_eq!(format(b"REDIS0011").unwrap().version, 11);
        assert!(format(b"VALKEY080").unwrap().valkey);
        for bad in [
            &b"REDIS0000"[..],
            b"REDIS0016",
            b"REDIS0080",
            b"VALKEY079",
            b"VALKEY082",
            b"REDIS00x1",
        ] {
            assert!(
                matches!(
                    format(bad).unwrap_err().kind(),
                    ErrorKind::UnknownVersion { .. }
                ),
                "{bad:?}"
            );
        }
        for bad in [&b""[..], b"REDI", b"PK\x03\x04abcdefg"] {
            assert!(
                matches!(format(bad).unwrap_err().kind(), ErrorKind::NotRdb { .. }),
                "{bad:?}"
            );
        }
        assert!(matches!(
            format(b"VKCS\x01\x01\x00\x00x").unwrap_err().kind(),
            ErrorKind::Vkcs
        ));
        let lenient = Format::parse(&mut Cursor::new(b"REDIS0099", 0), true);
        assert_eq!(lenient.unwrap().version, 99);
    }

    #[test]
    fn big_endian_times_of_old_files() {
        let ms = 1_900_000_000_000i64;
        assert_eq!(expire_ms(ms.to_le_bytes(), 6), ms);
        assert_eq!(expire_ms(ms.to_be_bytes(), 6), ms);
        assert_ne!(expire_ms(ms.to_be_bytes(), 9), ms);
    }

    #[test]
    fn attributes_belong_to_the_next_key() {
        let file = b"\xf8\x05\xfc\x01\0\0\0\0\0\0\0\x00\x01a\x01b\x00\x01c\x01d\xff";
        let mut reader = Reader::new(Cursor::new(file, 0), format(b"REDIS0011").unwrap(), 0);
        let Record::Key(key) = reader.next().unwrap() else {
            panic!()
        };
        assert_eq!(
            (
                key.start,
                key.attributes.expire_at_ms,
                key.attributes.idle_secs
            ),
            (0, Some(1), Some(5))
        );
        skip_string(&mut reader.c).unwrap();
        let Record::Key(key) = reader.next().unwrap() else {
            panic!()
        };
        assert_eq!((key.start, key.attributes.expire_at_ms), (16, None));
        skip_string(&mut reader.c).unwrap();
        assert!(matches!(reader.next().unwrap(), Record::Eof));
    }

    #[test]
    fn an_unknown_byte_is_named() {
        let file = b"\x00\x01a\x01b\x40";
        let mut reader = Reader::new(Cursor::new(file, 100), format(b"REDIS0011").unwrap(), 0);
        reader.next().unwrap();
        skip_string(&mut reader.c).unwrap();
        let text = reader.next().unwrap_err().to_string();
        assert_eq!(
            text,
            "unknown type 64 (0x40) in a file of version REDIS0011, after key \"a\" at byte 0x69"
        );
    }
}
