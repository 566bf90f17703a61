//! The snapshot of a data set: what the log left alone as it stands, the rest from memory.

use std::io::{self, Write};

use super::keyspace::Entry;
use super::{Part, Run, load, save};
use crate::cursor::Cursor;
use crate::error::{Error, KEY_SHOWN, KeyName, Result};
use crate::filter::Filter;
use crate::input::{Input, Mapped};
use crate::rdb::keys::{Keys, Met};
use crate::rdb::scan::{Along, Scanner};
use crate::rdb::write::Writer;
use crate::rdb::{Attributes, Format, NEWEST_REDIS, Reader, Record, VALKEY};
use crate::value::{Room, TypeByte};

impl Run<'_> {
    /// Writes the snapshot: what the log left alone as it stands, the rest from memory.
    pub(super) fn finish(&mut self, parts: &[Part<'_>], name: &str) -> Result<Input> {
        let inputs: Vec<&Input> = parts
            .iter()
            .filter_map(|part| part.snapshot.as_ref())
            .collect();
        let formats = inputs
            .iter()
            .map(|input| Format::parse(&mut Cursor::new(&input.data, 0), self.options.walk.lenient))
            .collect::<Result<Vec<Format>>>()?;
        let valkey = formats.iter().filter(|format| format.valkey);
        let version = self.options.version.unwrap_or_else(|| {
            let newest = valkey
                .map(|format| format.version.max(*VALKEY.start()))
                .max();
            newest.unwrap_or(NEWEST_REDIS)
        });
        let written = cannot_write;
        let file = tempfile::tempfile().map_err(|e| {
            Error::io(
                format!("no temporary file in {}", std::env::temp_dir().display()),
                e,
            )
        })?;
        let mut writer = Writer::new(file, version).map_err(written)?;
        for code in self.state.functions.values() {
            writer.function(code).map_err(written)?;
        }
        // Templates stand before the first key, and their numbers count in one file only.
        let templates = formats
            .iter()
            .position(|format| !format.valkey && version < *VALKEY.start());
        if let Some(i) = templates {
            copy_templates(inputs[i], formats[i], &mut writer)?;
        }
        for (i, (input, format)) in inputs.iter().zip(&formats).enumerate() {
            let copying = Copying {
                snapshot: i,
                valkey: format.valkey,
                into_valkey: version >= *VALKEY.start(),
                templates: templates == Some(i),
                version,
            };
            self.copy(input, &copying, &mut writer)?;
        }
        for (place, db) in self.state.keys.places() {
            if db.keys.is_empty() {
                continue;
            }
            writer
                .select(self.state.keys.swaps.db(place))
                .map_err(written)?;
            for (name, entry) in &db.keys {
                self.progress.check_stop()?;
                write(&mut writer, version, place, name, entry)?;
                self.counts.held += 1;
            }
        }
        let file = writer.finish().map_err(written)?;
        let mapped =
            Mapped::map(&file).map_err(|e| Error::io("temporary file cannot be mapped", e))?;
        Ok(Input::from_bytes(name, bytes::Bytes::from_owner(mapped)))
    }

    /// Copies what the log left alone of a snapshot.
    fn copy<W: Write>(
        &mut self,
        input: &Input,
        how: &Copying,
        writer: &mut Writer<W>,
    ) -> Result<()> {
        let written = cannot_write;
        let mut scanner = Scanner::new(&input.data, Along::Off, false, self.options.walk.lenient)?;
        let format = scanner.format();
        let mut keys = Keys::new(&input.data, format, self.options.unpack_limit);
        let mut room = Room::new(self.options.unpack_limit);
        let swaps = self.taken[how.snapshot].clone();
        let space = &self.state.keys;
        let (touched, counts) = (&self.touched, &mut self.counts);
        // The database at hand: its place, its number at the end, whether anything of it is left.
        let mut at = (u64::MAX, 0, 0, false);
        // Records that follow one another go over together.
        let mut span = 0..0;
        while let Some(task) = scanner.next_task()? {
            self.progress.check_stop()?;
            keys.for_each(&task, &Filter::default(), |met| {
                let seen = match met {
                    Met::Key(seen) => seen,
                    Met::Broken(error) | Met::BrokenAux(error) => return Err(error),
                    Met::ModuleAux(_) => {
                        counts.module_aux += 1;
                        return Ok(());
                    }
                    Met::Function(_) | Met::Aux { .. } => return Ok(()),
                };
                if at.0 != seen.db {
                    let place = swaps.place(seen.db);
                    at = (
                        seen.db,
                        place,
                        space.swaps.db(place),
                        space.keeps(how.snapshot, place),
                    );
                }
                let (_, place, db, kept) = at;
                if !kept || touched.has(place, seen.name) {
                    return Ok(());
                }
                counts.copied += 1;
                let (from, to) = (seen.record.start, seen.end);
                let at_once = how.fits(seen.record.ty, &seen.record.attributes, format);
                if at_once && from == span.end && !span.is_empty() {
                    span.end = to;
                    return Ok(());
                }
                writer.raw(&input.data[span.clone()]).map_err(written)?;
                span = 0..0;
                writer.select(db).map_err(written)?;
                if at_once {
                    span = from..to;
                    return Ok(());
                }
                let mut c = seen.value;
                let value = load::value(&mut c, seen.record.ty, &task.templates, &mut room)?;
                let entry = Entry {
                    value,
                    expire_at_ms: seen.record.attributes.expire_at_ms,
                    meta: None,
                };
                write(writer, how.version, place, seen.name, &entry)
            })?;
        }
        writer.raw(&input.data[span]).map_err(written)
    }
}

/// How records of a snapshot go over.
struct Copying {
    /// Its number.
    snapshot: usize,
    valkey: bool,
    into_valkey: bool,
    /// Whether its templates are those of the new one.
    templates: bool,
    version: u16,
}

impl Copying {
    /// Whether a record says the same in the new snapshot.
    fn fits(&self, ty: TypeByte, attributes: &Attributes, format: Format) -> bool {
        /// Numbers up to this one are the same in both families.
        const LAST_COMMON: u8 = 21;
        /// Before this version times may be in the byte order of their writer.
        const RDB_5_0: u16 = 9;
        let same_family = self.valkey == self.into_valkey;
        let common = ty.byte() <= LAST_COMMON && attributes.meta.is_none();
        (same_family || common)
            && (self.templates || !ty.is_template())
            && (attributes.expire_at_ms.is_none() || format.version >= RDB_5_0)
    }
}

fn write<W: Write>(
    writer: &mut Writer<W>,
    version: u16,
    db: u64,
    name: &[u8],
    entry: &Entry,
) -> Result<()> {
    if let Some(why) = save::misfit(entry, version) {
        let error = Error::unfit(format!(
            "inputs of Redis and of Valkey do not fit into one snapshot: {why}"
        ));
        return Err(error.in_key(|| KeyName {
            db,
            key: name[..name.len().min(KEY_SHOWN + 1)].to_vec(),
            type_name: "key".to_owned(),
            rdb_version: Some(version),
        }));
    }
    save::key(writer, version, name, entry).map_err(cannot_write)
}

/// Copies the templates of a snapshot.
fn copy_templates<W: Write>(input: &Input, format: Format, writer: &mut Writer<W>) -> Result<()> {
    let mut c = Cursor::new(&input.data, 0);
    Format::parse(&mut c, true)?;
    let mut reader = Reader::new(Cursor::new(&input.data, 0), format, c.pos());
    loop {
        let from = reader.c.pos();
        match reader.next()? {
            Record::Template { .. } => writer
                .raw(&input.data[from..reader.c.pos()])
                .map_err(cannot_write)?,
            Record::Key(_) | Record::Eof => return Ok(()),
            Record::Select(_)
            | Record::Function(_)
            | Record::Aux { .. }
            | Record::ModuleAux(_)
            | Record::Hint => {}
        }
    }
}

#[cold]
fn cannot_write(error: io::Error) -> Error {
    Error::io("temporary file cannot be written (see --tmp-dir)", error)
}
