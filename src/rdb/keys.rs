//! The records of a task, key by key, for whoever looks at a snapshot without writing commands of it.

use super::scan::{Span, Task};
use super::{
    Attributes, Format, Function, Key, PlainString, Reader, Record, key_name, opcode, plain_string,
    type_name,
};
use crate::cursor::Cursor;
use crate::encoding::string::{Scratch, Str};
use crate::error::{Error, Result};
use crate::filter::{Filter, Verdict};
use crate::value::{Kind, TypeByte, module, skip};

/// What was met.
#[derive(Debug)]
pub enum Met<'a, 'k> {
    /// A key.
    Key(Seen<'a, 'k>),
    /// A key whose name cannot be read. What follows it can where `Err` is not returned.
    Broken(Error),
    /// Data of a module that belongs to no key, and whose strings cannot be read. It comes before its [`Met::ModuleAux`].
    BrokenAux(Error),
    /// A function library.
    Function(Function<'a>),
    /// An AUX record.
    Aux {
        /// Name.
        name: Str<'a>,
        /// Value.
        value: Str<'a>,
    },
    /// Data of a module that belongs to no key.
    ModuleAux(String),
}

/// A key with its name and its value's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a, 'k> {
    /// Its database.
    pub db: u64,
    /// Its name.
    pub name: &'k [u8],
    /// Attributes, type, and the name as it stands.
    pub record: Key<'a>,
    /// The value's first byte.
    pub value: Cursor<'a>,
    /// Position behind the value.
    pub end: usize,
    /// What the selection says.
    pub verdict: Verdict,
}

impl Seen<'_, '_> {
    /// Bytes that the value takes in the file.
    pub fn value_bytes(&self) -> usize {
        self.end - self.value.pos()
    }

    /// Bytes that the whole record takes in the file: attributes, type, name and value.
    pub fn record_bytes(&self) -> usize {
        self.end - self.record.start
    }
}

/// Reads tasks that cover whole records.
#[derive(Debug)]
pub struct Keys<'a> {
    file: Cursor<'a>,
    format: Format,
    scratch: Scratch,
}

impl<'a> Keys<'a> {
    /// `unpack_limit`: the largest name that is unpacked in memory, in bytes.
    pub fn new(data: &'a [u8], format: Format, unpack_limit: usize) -> Keys<'a> {
        Keys {
            file: Cursor::new(data, 0),
            format,
            scratch: Scratch::new(unpack_limit),
        }
    }

    /// The file's magic and version.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Pushes what a task covers, which must be whole records. Errors: of `f`, and of what cannot be passed over.
    pub fn for_each(
        &mut self,
        task: &Task,
        filter: &Filter,
        mut f: impl FnMut(Met<'a, '_>) -> Result<()>,
    ) -> Result<()> {
        let Span::Records { from, to } = task.span else {
            unreachable!("keys are not cut for those who look at them whole");
        };
        let mut reader = Reader::new(self.file, self.format, from);
        let mut db = task.db;
        while reader.c.pos() < to {
            let pos = reader.c.pos();
            if !reader.has_pending()
                && let Some(plain) = plain_string(self.file.data(), pos)
            {
                let seen = self.plain(plain, pos, db, filter);
                reader.pass(plain.end, pos + 1);
                f(Met::Key(seen))?;
                continue;
            }
            let mut at = reader.c;
            match reader.next()? {
                Record::Key(record) => {
                    let value = reader.c;
                    let named = |e: Error| e.in_key(|| self.key_name(&record, db, value));
                    skip(&mut reader.c, record.ty, &task.templates, &mut Vec::new())
                        .map_err(named)?;
                    let end = reader.c.pos();
                    let mut digits = itoa::Buffer::new();
                    let name = match record.key.load(&mut self.scratch) {
                        Ok(name) => name.as_bytes(&mut digits),
                        Err(error) => {
                            let name =
                                key_name(&record, db, type_name(record.ty, value), self.format);
                            f(Met::Broken(error.in_key(|| name)))?;
                            continue;
                        }
                    };
                    let verdict = filter.verdict(
                        db,
                        name,
                        record.attributes.expire_at_ms,
                        || type_name(record.ty, value),
                        || (end - value.pos()) as u64,
                    );
                    f(Met::Key(Seen {
                        db,
                        name,
                        record,
                        value,
                        end,
                        verdict,
                    }))?;
                }
                Record::Select(n) => db = n,
                Record::Function(function) => f(Met::Function(function))?,
                Record::Aux { name, value } => f(Met::Aux { name, value })?,
                Record::ModuleAux(module) => {
                    // Attributes that stand open would come between, which no server writes.
                    if at.u8()? == opcode::MODULE_AUX
                        && let Err(error) = module::check_aux(&mut at, &mut self.scratch)
                    {
                        f(Met::BrokenAux(error))?;
                    }
                    f(Met::ModuleAux(module))?;
                }
                Record::Template { .. } | Record::Hint => {}
                Record::Eof => break,
            }
        }
        Ok(())
    }

    /// Most records of most files: nothing of them need be unpacked.
    #[inline]
    fn plain(&self, plain: PlainString<'a>, pos: usize, db: u64, filter: &Filter) -> Seen<'a, 'a> {
        let mut value = self.file;
        // A short length may stand in the longer form too, so the name's own first byte says where the name begins.
        let head = match self.file.data()[pos + 1] {
            0..=0x3f => 1,
            _ => 2,
        };
        value.seek(pos + 1 + head + plain.key.len());
        let verdict = filter.verdict(
            db,
            plain.key,
            None,
            || Kind::String.name().to_owned(),
            || (plain.end - value.pos()) as u64,
        );
        Seen {
            db,
            name: plain.key,
            record: Key {
                start: pos,
                attributes: Attributes::default(),
                ty: TypeByte::String,
                key: Str::Raw(plain.key),
            },
            value,
            end: plain.end,
            verdict,
        }
    }

    fn key_name(&self, record: &Key<'_>, db: u64, value: Cursor<'_>) -> crate::error::KeyName {
        key_name(record, db, type_name(record.ty, value), self.format)
    }
}
