//! The expiries of a snapshot, of keys and of hash fields, without their values.

use super::scan::{Along, Scanner, Span};
use super::{Key, Reader, Record};
use crate::cursor::Cursor;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::Scratch;
use crate::error::Result;
use crate::value::hash::{self, Source};
use crate::value::{Head, Room, skip};

/// A key with an expiry, or a field with one.
#[derive(Debug, Clone, Copy)]
pub struct Expiring<'a> {
    /// Database in the file.
    pub db: u64,
    /// The key's name.
    pub key: &'a [u8],
    /// Its record.
    pub record: &'a Key<'a>,
    /// Bytes that its value takes in the file.
    pub value_bytes: u64,
    /// Its value from the first byte.
    pub value: Cursor<'a>,
    /// The field; `None` for the key itself.
    pub field: Option<&'a [u8]>,
    /// Unix time in milliseconds.
    pub at_ms: i64,
}

/// Gives every expiry to `found`, in the order of the file. What cannot be read is passed over: whoever converts the
/// file reports it.
pub fn for_each_expiry(
    data: &[u8],
    mut found: impl FnMut(&Expiring<'_>) -> Result<()>,
) -> Result<()> {
    let mut scanner = Scanner::new(data, Along::Off, false, true)?;
    let format = scanner.format();
    let file = Cursor::new(data, 0);
    let mut scratch = Scratch::new(1 << 20);
    let mut room = Room::new(8 << 20);
    while let Ok(Some(task)) = scanner.next_task() {
        let Span::Records { from, to } = task.span else {
            continue;
        };
        let mut reader = Reader::new(file, format, from);
        let mut db = task.db;
        while reader.c.pos() < to {
            let Ok(record) = reader.next() else {
                break;
            };
            let key = match record {
                Record::Key(key) => key,
                Record::Select(n) => {
                    db = n;
                    continue;
                }
                Record::Eof => break,
                _ => continue,
            };
            let value = reader.c;
            if skip(&mut reader.c, key.ty, &task.templates, &mut Vec::new()).is_err() {
                break;
            }
            if key.attributes.expire_at_ms.is_none() && !key.ty.has_field_expiry() {
                continue;
            }
            let mut digits = itoa::Buffer::new();
            let Ok(name) = key.key.load(&mut scratch) else {
                continue;
            };
            let one = Expiring {
                db,
                key: name.as_bytes(&mut digits),
                record: &key,
                value_bytes: (reader.c.pos() - value.pos()) as u64,
                value,
                field: None,
                at_ms: 0,
            };
            if let Some(at_ms) = key.attributes.expire_at_ms {
                found(&Expiring { at_ms, ..one })?;
            }
            if !key.ty.has_field_expiry() {
                continue;
            }
            let mut c = value;
            let Ok(head) = Head::parse(&mut c, key.ty, &task.templates) else {
                continue;
            };
            let source = Source {
                file: value,
                templates: &task.templates,
                head,
            };
            let mut failed = Ok(());
            let mut boundary = Boundary::default();
            // A field that cannot be read ends the walk here as it does where the key is written.
            let _ = hash::for_each(
                &mut c,
                key.ty,
                head.items,
                source,
                &mut room,
                &mut boundary,
                |field, _, expiry| {
                    if let (Some(at_ms), true) = (expiry, failed.is_ok()) {
                        let mut digits = itoa::Buffer::new();
                        failed = found(&Expiring {
                            field: Some(field.as_bytes(&mut digits)),
                            at_ms,
                            ..one
                        });
                    }
                    Ok(())
                },
            );
            failed?;
        }
    }
    Ok(())
}
