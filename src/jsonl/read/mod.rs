//! JSON lines → a snapshot, and behind it commands where there are any, which is what everything else reads.
//!
//! Lines are read where they stand. In memory are: the name of the key at hand; of its value, while it goes on over
//! several lines, a few megabytes, or for a stream an entry and all pending entries, 60 bytes each; and a string with
//! escapes in it, which may be as long as [`MOST_ESCAPED`].

mod body;
mod line;
mod stream;
mod value;

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use self::body::Body;
use self::line::{Int, Line, Name, Text, for_each};
use self::value::{Kind, Open, hash, raw_type};
use super::VERSION;
use crate::cursor::{At, Cursor};
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName};
use crate::input::Spool;
use crate::rdb::write::Writer;
use crate::rdb::{Format, NEWEST_REDIS, opcode};
use crate::resp::write::append_command;
use crate::value::{Templates, TypeByte, module, skip};

/// Bytes of a line.
pub const MOST_LINE: usize = 4 << 30;
/// Bytes of a string that has escapes in it, as it stands in the line. Longer ones have to be in base64, as
/// [`write`](crate::jsonl::text::text) has them: those are decoded piece by piece.
pub const MOST_ESCAPED: usize = 64 << 20;
/// Snapshots below this version have their times in the order of the machine's bytes.
const LEAST_VERSION: u16 = 9;

/// What is wrong with a line.
#[derive(Debug)]
enum Wrong {
    /// In words that follow "line n:".
    What(String),
    /// The temporary file cannot be written.
    Io(io::Error),
}

impl Wrong {
    fn what(what: impl Into<String>) -> Wrong {
        Wrong::What(what.into())
    }

    fn json(error: serde_json::Error) -> Wrong {
        let text = error.to_string();
        // Where in the line it is helps; that the line is the first one of what was looked at does not.
        Wrong::What(match text.rsplit_once(" at line ") {
            Some((what, _)) => what.to_owned(),
            None => text,
        })
    }

    fn in_field(self, field: &str) -> Wrong {
        match self {
            Wrong::What(what) => Wrong::What(format!("{field}: {what}")),
            Wrong::Io(error) => Wrong::Io(error),
        }
    }
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Wrong {
        Wrong::Io(io::Error::other(error))
    }
}

/// Reads all lines. Errors name the line, its first byte, and the key.
pub fn load(data: &[u8], stop: &AtomicBool) -> crate::Result<Spool> {
    let mut loader = Loader::new(last_is_of_log(data))?;
    let mut pos = if data.starts_with(BOM) { BOM.len() } else { 0 };
    let mut number = 0;
    while pos < data.len() {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::plain(ErrorKind::Stopped));
        }
        let end = memchr(b'\n', &data[pos..]).map_or(data.len(), |n| pos + n);
        let line = data[pos..end].trim_ascii();
        number += 1;
        if !line.is_empty() {
            let mut name = None;
            loader
                .line(line, &mut name)
                .map_err(|wrong| error(wrong, number, pos, name))?;
        }
        pos = end + 1;
    }
    loader.end().map_err(|wrong| {
        let name = loader.open.as_ref().map(Open::name);
        error(wrong, number, data.len(), name)
    })
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn error(wrong: Wrong, line: u64, pos: usize, name: Option<KeyName>) -> Error {
    match wrong {
        Wrong::Io(e) => Error::io("temporary file cannot be written (see --tmp-dir)", e),
        Wrong::What(what) => {
            let error = Error::new(ErrorKind::BadLine { line, what }, At::file(pos as u64));
            match name {
                Some(name) => error.in_key(|| name),
                None => error,
            }
        }
    }
}

/// Whether the last line is of a log: keys come before commands, so that there are commands if it is.
fn last_is_of_log(data: &[u8]) -> bool {
    let data = data.trim_ascii_end();
    let start = memchr::memrchr(b'\n', data).map_or(0, |n| n + 1);
    serde_json::from_slice::<Line<'_>>(&data[start..])
        .is_ok_and(|line| line.command.is_some() || line.time.is_some())
}

fn key_name(db: u64, key: &[u8], type_name: &str) -> KeyName {
    KeyName {
        db,
        key: key[..key.len().min(KEY_SHOWN + 1)].to_vec(),
        type_name: type_name.to_owned(),
        rdb_version: None,
    }
}

struct Loader {
    spool: Option<Spool>,
    /// The snapshot, from its first line to the first command.
    snapshot: Option<Writer<Spool>>,
    version: u16,
    log: Option<BufWriter<Spool>>,
    log_db: Option<u64>,
    /// Whether commands follow.
    is_preamble: bool,
    open: Option<Open>,
    body: Body,
}

impl Loader {
    fn new(is_preamble: bool) -> crate::Result<Loader> {
        Ok(Loader {
            spool: Some(Spool::create()?),
            snapshot: None,
            version: NEWEST_REDIS,
            log: None,
            log_db: None,
            is_preamble,
            open: None,
            body: Body::default(),
        })
    }

    fn is_valkey(&self) -> bool {
        self.version >= 80
    }

    /// Reads a line. `name` is the key that it is about.
    fn line(&mut self, bytes: &[u8], name: &mut Option<KeyName>) -> Result<(), Wrong> {
        check_sizes(bytes)?;
        let line: Line<'_> = serde_json::from_slice(bytes).map_err(|error| {
            *name = named(bytes);
            not_a_line(bytes, error)
        })?;
        let kinds = [
            line.jsonl.is_some(),
            line.key.is_some(),
            line.function.is_some(),
            line.script.is_some(),
            line.module_aux.is_some(),
            line.command.is_some(),
            line.time.is_some(),
        ];
        if kinds.iter().filter(|is| **is).count() != 1 {
            return Err(Wrong::what(
                "exactly one of jsonl, key, function, script, module_aux, command and time belongs in a line",
            ));
        }
        if let Some(command) = line.command {
            return self.command(line.db, command);
        }
        if let Some(time) = line.time {
            let secs: u64 = time.of("time")?;
            return Ok(write!(self.log()?, "#TS:{secs}\r\n")?);
        }
        if self.log.is_some() {
            return Err(Wrong::what(
                "commands stand before it: keys and functions come first, as in an append-only file",
            ));
        }
        if let Some(key) = &line.key {
            return self.key(&line, key, name);
        }
        if let Some(open) = &self.open {
            *name = Some(open.name());
            return Err(open.unfinished());
        }
        if line.jsonl.is_some() {
            return self.head(&line);
        }
        if let Some(code) = &line.function {
            let code = code.bytes()?;
            return Ok(self.snapshot()?.function(&code)?);
        }
        if let Some(body) = &line.script {
            let body = body.bytes()?;
            return Ok(self.snapshot()?.aux(b"lua", &body)?);
        }
        let raw = line.raw.as_ref().ok_or_else(|| missing("raw"))?.bytes()?;
        let mut c = Cursor::new(&raw, 0);
        match c.u8() {
            Ok(opcode::MODULE_AUX) if module::skip_aux(&mut c).is_ok() && c.is_empty() => {
                Ok(self.snapshot()?.raw(&raw)?)
            }
            _ => Err(Wrong::what("raw: is no data of a module")),
        }
    }

    /// The first line, or one of a file that was put behind another.
    fn head(&mut self, line: &Line<'_>) -> Result<(), Wrong> {
        let version: u64 = line
            .version
            .ok_or_else(|| missing("version"))?
            .of("version")?;
        if version > VERSION {
            return Err(Wrong::What(format!(
                "version: {version} is later than {VERSION}, which this program knows"
            )));
        }
        let known = match &line.rdb {
            Some(magic) => {
                Format::parse(&mut Cursor::new(magic.0.as_bytes(), 0), false)
                    .map_err(|e| Wrong::What(format!("rdb: {}", e.kind())))?
                    .version
            }
            None => self.version,
        };
        if self.snapshot.is_some() {
            if (known >= 80) != self.is_valkey() {
                return Err(Wrong::what(
                    "rdb: is of Valkey where the lines before are of Redis, or the other way round; load the two one \
                     after the other",
                ));
            }
            return Ok(());
        }
        self.version = known.max(LEAST_VERSION);
        let mut marked = false;
        let is_preamble = self.is_preamble;
        let snapshot = self.begin()?;
        if let Some(aux) = line.aux {
            for_each(aux, |(field, value): (Text<'_>, Text<'_>)| {
                let (field, value) = (field.bytes()?, value.bytes()?);
                marked |= matches!(&*field, b"aof-preamble" | b"aof-base") && &*value != b"0";
                Ok(snapshot.aux(&field, &value)?)
            })
            .map_err(|wrong| wrong.in_field("aux"))?;
        }
        if is_preamble && !marked {
            snapshot.aux(b"aof-preamble", b"1")?;
        }
        Ok(())
    }

    /// The snapshot; where no line told of its head, a head that says nothing.
    fn snapshot(&mut self) -> Result<&mut Writer<Spool>, Wrong> {
        if self.snapshot.is_none() {
            let marked = self.is_preamble;
            let snapshot = self.begin()?;
            if marked {
                snapshot.aux(b"aof-preamble", b"1")?;
            }
        }
        Ok(self.snapshot.as_mut().expect("it was begun above"))
    }

    fn begin(&mut self) -> Result<&mut Writer<Spool>, Wrong> {
        let spool = self
            .spool
            .take()
            .expect("the spool is there until the snapshot or the log has it");
        Ok(self.snapshot.insert(Writer::new(spool, self.version)?))
    }

    /// A line of a key.
    fn key(
        &mut self,
        line: &Line<'_>,
        key: &Text<'_>,
        name: &mut Option<KeyName>,
    ) -> Result<(), Wrong> {
        let key = key.bytes().map_err(|wrong| wrong.in_field("key"))?;
        let db: u64 = line.db.ok_or_else(|| missing("db"))?.of("db")?;
        let type_name = line.type_name.as_ref().map_or("", |name| &name.0);
        *name = Some(key_name(db, &key, type_name));
        let part: u64 = line.part.unwrap_or(Int::ZERO).of("part")?;
        let dropped = line.dropped == Some(true);
        let mut open = match self.open.take() {
            Some(open) if open.db == db && open.key == *key => open,
            Some(open) => {
                let wrong = open.unfinished();
                *name = Some(open.name());
                self.open = Some(open);
                return Err(wrong);
            }
            // It may be that nothing of it was written.
            None if dropped => return Ok(()),
            None => {
                self.body.clear();
                Open::new(line, db, key, type_name)?
            }
        };
        if dropped {
            return Ok(());
        }
        if part != open.part || type_name != open.type_name {
            let (expected, is) = (open.part, &open.type_name);
            return Err(Wrong::What(format!(
                "part: part {expected} of a {is} was expected, and here is part {part} of a {type_name}"
            )));
        }
        open.part += 1;
        open.value(line, &mut self.body, self.version)?;
        if line.more == Some(true) {
            self.open = Some(open);
            return Ok(());
        }
        self.finish(open)
    }

    fn finish(&mut self, mut open: Open) -> Result<(), Wrong> {
        let is_valkey = self.is_valkey();
        let mut body = std::mem::take(&mut self.body);
        if is_valkey && !open.meta.is_empty() {
            return Err(Wrong::what("meta: Valkey has no key metadata"));
        }
        let (db, n) = (open.db, open.elements);
        let out = self.snapshot()?;
        out.select(db)?;
        out.raw(&open.meta)?;
        let (attributes, key) = (open.attributes, std::mem::take(&mut open.key));
        let begin = |out: &mut Writer<Spool>, ty: TypeByte| out.key(&attributes, ty.byte(), &key);
        match open.kind {
            Kind::String => {
                begin(out, TypeByte::String)?;
                body.with(|bytes| out.string(bytes))??;
            }
            Kind::List | Kind::Set | Kind::Zset => {
                let ty = match open.kind {
                    Kind::List => TypeByte::List,
                    Kind::Set => TypeByte::Set,
                    _ => TypeByte::Zset2,
                };
                begin(out, ty)?;
                out.length(n)?;
                body.with(|bytes| out.raw(bytes))??;
            }
            Kind::Array => {
                begin(out, TypeByte::Array)?;
                out.array_head(n, open.cursor)?;
                body.with(|bytes| out.raw(bytes))??;
            }
            Kind::Raw => {
                let ty = open
                    .rdb_type
                    .and_then(|ty| raw_type(ty, is_valkey))
                    .ok_or_else(|| Wrong::what("rdb_type: is none whose values stand as raw"))?;
                let whole = body.with(|bytes| {
                    let mut c = Cursor::new(bytes, 0);
                    let skipped = skip(&mut c, ty, &Templates::default(), &mut Vec::new());
                    if skipped.is_err() || !c.is_empty() {
                        return Ok(false);
                    }
                    begin(out, ty)?;
                    out.raw(bytes).map(|()| true)
                });
                if !whole?? {
                    return Err(Wrong::What(format!(
                        "raw: is no value of type {}",
                        ty.byte()
                    )));
                }
            }
            Kind::Hash => {
                body.with(|bytes| hash(out, &attributes, &key, &open, bytes, is_valkey))??
            }
            Kind::Stream => {
                let stream = open.stream.take().ok_or_else(|| missing("value"))?;
                stream.write(out, &attributes, &key)?;
            }
        }
        body.clear();
        self.body = body;
        Ok(())
    }

    /// What commands are appended to.
    fn log(&mut self) -> Result<&mut BufWriter<Spool>, Wrong> {
        if let Some(open) = &self.open {
            return Err(open.unfinished());
        }
        if self.log.is_none() {
            let spool = match self.snapshot.take() {
                Some(snapshot) => snapshot.finish()?,
                None => self
                    .spool
                    .take()
                    .expect("the spool is there until the snapshot or the log has it"),
            };
            self.log = Some(BufWriter::with_capacity(256 << 10, spool));
        }
        Ok(self.log.as_mut().expect("it was made above"))
    }

    fn command(&mut self, db: Option<Int>, args: &RawValue) -> Result<(), Wrong> {
        let db = db.map(|db| db.of::<u64>("db")).transpose()?;
        let mut argc = 0u64;
        for_each(args, |_: IgnoredAny| {
            argc += 1;
            Ok(())
        })
        .map_err(|wrong| wrong.in_field("command"))?;
        if argc == 0 {
            return Err(Wrong::what("command: has no arguments"));
        }
        let select = db.filter(|db| self.log_db != Some(*db));
        self.log_db = db.or(self.log_db);
        let log = self.log()?;
        if let Some(db) = select {
            let mut command = Vec::new();
            append_command(&mut command, &[b"SELECT", db.to_string().as_bytes()]);
            log.write_all(&command)?;
        }
        write!(log, "*{argc}\r\n")?;
        let mut is_name = true;
        for_each(args, |arg: Text<'_>| {
            // The lines behind it would go to another database than they say.
            let is_select = arg.len()? == 6 && arg.bytes()?.eq_ignore_ascii_case(b"SELECT");
            if std::mem::take(&mut is_name) && is_select {
                return Err(Wrong::what("SELECT: the database stands in db"));
            }
            write!(log, "${}\r\n", arg.len()?)?;
            arg.write(log)?;
            Ok(log.write_all(b"\r\n")?)
        })
        .map_err(|wrong| wrong.in_field("command"))
    }

    fn end(&mut self) -> Result<Spool, Wrong> {
        if let Some(open) = &self.open {
            return Err(open.unfinished());
        }
        if let Some(log) = self.log.take() {
            return log.into_inner().map_err(|e| Wrong::Io(e.into_error()));
        }
        self.snapshot()?;
        let snapshot = self.snapshot.take().expect("it was made above");
        Ok(snapshot.finish()?)
    }
}

/// The key that a line is about, where the line can be read as far as that.
#[cold]
fn named(line: &[u8]) -> Option<KeyName> {
    let Name { db, key, type_name } = serde_json::from_slice(line).ok()?;
    let type_name = type_name.as_ref().map_or("", |name| &name.0);
    Some(key_name(db.of("db").ok()?, &key.bytes().ok()?, type_name))
}

/// Why JSON is no line: the parser knows the place, and before that stands the name of the field.
#[cold]
fn not_a_line(line: &[u8], error: serde_json::Error) -> Wrong {
    if line == b"{" {
        return Wrong::what("an object goes over several lines; jq -c . puts each in one");
    }
    let column = error.column();
    let before = String::from_utf8_lossy(&line[..column.min(line.len())]);
    let field = Line::FIELDS
        .iter()
        .filter_map(|field| before.rfind(&format!("\"{field}\":")).map(|at| (at, field)))
        .max();
    let wrong = match Wrong::json(error) {
        Wrong::What(what) => Wrong::What(format!("{what}, at character {column}")),
        io => io,
    };
    match field {
        Some((_, field)) => wrong.in_field(field),
        None => wrong,
    }
}

fn missing(field: &str) -> Wrong {
    Wrong::What(format!("{field}: is missing"))
}

/// A line that is longer than memory should be is read where it stands, but for strings with escapes in them.
fn check_sizes(line: &[u8]) -> Result<(), Wrong> {
    if line.len() > MOST_LINE {
        return Err(Wrong::What(format!(
            "it has {} bytes, more than a line may have ({MOST_LINE})",
            line.len()
        )));
    }
    if line.len() <= MOST_ESCAPED {
        return Ok(());
    }
    let mut pos = 0;
    let mut open = None;
    let mut has_escapes = false;
    while let Some(n) = memchr2(b'"', b'\\', &line[pos..]) {
        let at = pos + n;
        pos = at + 1;
        if line[at] == b'\\' {
            has_escapes = true;
            pos += 1;
        } else if let Some(start) = open.take() {
            if has_escapes && at - start > MOST_ESCAPED {
                return Err(Wrong::What(format!(
                    "a string with escapes has {} bytes, more than {MOST_ESCAPED}: base64 may be as long as the line",
                    at - start
                )));
            }
        } else {
            open = Some(at);
            has_escapes = false;
        }
        if pos > line.len() {
            break;
        }
    }
    Ok(())
}
