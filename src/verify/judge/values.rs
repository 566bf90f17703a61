//! A value of the file against the payload of DUMP, or, where it is large, against the destination in pieces.

use super::*;

impl<'a> Judge<'_, 'a> {
    /// Compares a value with the payload of DUMP.
    pub(super) fn dumped(
        &mut self,
        one: &One<'a>,
        dump: &[u8],
        gone_ms: i64,
        rows: &mut Rows,
    ) -> Result<()> {
        let want_ty = one.record.ty;
        let read = payload(dump).and_then(|(mut c, valkey)| {
            if c.peek() == Some(crate::rdb::opcode::KEY_META) && !valkey {
                c.skip(1).ok()?;
                module::skip_key_meta(&mut c).ok()?;
            }
            let ty = TypeByte::from_byte(c.u8().ok()?, valkey)?;
            Some((c, ty))
        });
        let Some((got, ty)) = read else {
            return Err(self.unreadable("its type is not known"));
        };
        if ty.kind() != want_ty.kind() {
            let (want, got) = (type_name(want_ty, one.value), type_name(ty, got));
            rows.push(Kind::Type, want, got);
            return Ok(());
        }
        let templates = Templates::default();
        let named = self.named(one);
        let fields = self.fields(gone_ms);
        let odd = |error: Error, name: &str| {
            let why = format!(
                "a payload of DUMP cannot be read: {}",
                error.describe(false)
            );
            Error::unfit(format!("{name}: {why}"))
        };
        let name = self.reach.name();
        match want_ty.kind() {
            Type::Stream => {
                let mut want = Stream::read(one.value, want_ty, &self.templates, &mut self.room)
                    .map_err(named)?;
                let mut got = Stream::read(got, ty, &templates, &mut self.there)
                    .map_err(|e| odd(e, &name))?;
                want.compare(&mut got, self.manner, rows);
            }
            Type::List | Type::Set | Type::Zset | Type::Hash | Type::Array => {
                self.one
                    .fill(one.value, want_ty, &self.templates, &mut self.room, fields)
                    .map_err(named)?;
                let there = Fields::There { gone_ms };
                self.two
                    .fill(got, ty, &templates, &mut self.there, there)
                    .map_err(|e| odd(e, &name))?;
                if want_ty.kind() == Type::List {
                    let (want, got) = (self.one.len(), self.two.len());
                    if want != got {
                        rows.push(Kind::Length, want.to_string(), got.to_string());
                    }
                    lists(&self.one, &self.two, 0, rows);
                } else {
                    let manner = Manner {
                        ty: want_ty.kind(),
                        ttl_tolerance_ms: self.v.options.ttl_tolerance_ms,
                    };
                    manner.sets(&mut self.one, &mut self.two, rows);
                }
            }
            // What no client can look into is compared as it stands.
            Type::Module | Type::Gcra | Type::PathHash | Type::String => {
                if type_name(want_ty, one.value) == vectors::NAME
                    && type_name(ty, got) == vectors::NAME
                    && vectors::compare(one.value, got, rows)
                {
                    return Ok(());
                }
                let from = one.value.pos();
                let want = one.value.slice(from, from + one.value_bytes);
                let mut got = got;
                let got = got.rest();
                if want != got {
                    let (want, got) = value_texts(want, got);
                    rows.push(Kind::Value, want, got);
                }
            }
        }
        Ok(())
    }

    fn unreadable(&self, why: &str) -> Error {
        Error::unfit(format!(
            "{}: a payload of DUMP cannot be read: {why}; a newer redis-migration may know it",
            self.reach.name()
        ))
    }

    /// Compares a large value in pieces.
    pub(super) fn large(
        &mut self,
        one: &One<'a>,
        key: &[u8],
        found: u64,
        gone_ms: i64,
        rows: &mut Rows,
    ) -> Result<()> {
        let ty = one.record.ty;
        let named = self.named(one);
        // What cannot be read of the file is an error of the file; the destination's name their server.
        let named = |error: Error| match error.at() {
            Some(_) => named(error),
            None => error,
        };
        if ty.kind() == Type::Stream {
            let mut large = stream::Large {
                reach: &mut self.reach,
                db: one.db,
                key,
                manner: self.manner,
                ahead_ms: self.v.clock.ahead_ms(),
            };
            return large
                .compare(one.value, ty, &self.templates, &mut self.room, rows)
                .map_err(named);
        }
        let fields = self.fields(gone_ms);
        let mut pieces = Pieces {
            reach: &mut self.reach,
            db: one.db,
            key,
            can: self.can,
            manner: Manner {
                ty: ty.kind(),
                ttl_tolerance_ms: self.v.options.ttl_tolerance_ms,
            },
            fields,
        };
        match ty.kind() {
            Type::String => pieces.string(one.value, found, &mut self.room, rows),
            _ => pieces.elements(one.value, ty, &self.templates, found, &mut self.room, rows),
        }
        .map_err(named)
    }
}

/// Two strings that differ, from where they do.
pub(super) fn value_texts(want: &[u8], got: &[u8]) -> (String, String) {
    let first = want.iter().zip(got).take_while(|(a, b)| a == b).count();
    let text = |bytes: &[u8]| show_string(bytes, 0, first, bytes.len());
    (text(want), text(got))
}
