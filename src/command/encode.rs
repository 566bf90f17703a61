//! Keys of a snapshot → commands, straight from the mapped bytes into a worker's block.

use super::rewrite::{LogRules, too_long_for_proxy};
use super::target::{Dialect, Feature, Target};
use super::{jsonl, restore, stream};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::Boundary;
use crate::encoding::string::{Scratch, Str, string};
use crate::error::{Error, ErrorKind, Result};
use crate::filter::{Filter, Verdict};
use crate::rdb::scan::{Part, Span, Task};
use crate::rdb::{Format, Function, Key, Reader, Record, key_name, plain_string, type_name};
use crate::resp::write::{Chunks, Out};
use crate::tally::{Limit, Reject, Tally};
use crate::transform::Transform;
use crate::value::array::{self, Value};
use crate::value::hash::{self, Source};
use crate::value::zset::{self, Score};
use crate::value::{Head, Kind, Room, Templates, TypeByte, check, list, set, skip};

/// The form of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// SET, RPUSH, HSET …; RESTORE only for what has no commands.
    #[default]
    Commands,
    /// RESTORE for everything.
    Restore,
    /// Strings by SET, everything else by RESTORE where payload and version allow.
    Auto,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// RESP commands, for servers.
    #[default]
    Commands,
    /// JSON lines, for anybody.
    JsonLines,
}

/// What becomes of keys that the destination holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnExist {
    /// They are replaced: DEL before a key of several commands, REPLACE for RESTORE.
    #[default]
    Replace,
    /// They are added to: no DEL. For destinations known to be empty.
    Merge,
    /// RESTORE without REPLACE, so that the server refuses.
    Fail,
    /// For who reads the answers: forms that do nothing where the key is there (RESTORE without REPLACE, SET … NX,
    /// MSETNX), and EXISTS before a key of several commands, which otherwise would be replaced.
    IfNone,
    /// For who reads the answers: EXISTS before every key, and then as `Replace`.
    AskFirst,
}

/// What becomes of the run when a key cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It stops there.
    #[default]
    Stop,
    /// The key is left out and counted.
    Continue,
}

/// How keys become commands.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Which keys pass.
    pub filter: Filter,
    /// What changes.
    pub transform: Transform,
    /// What is written. For JSON lines all that follows here, but for `on_error` and `no_functions`, means nothing.
    pub form: Form,
    /// What the destination understands.
    pub target: Target,
    /// The form of values.
    pub mode: Mode,
    /// Keys that are there already.
    pub on_exist: OnExist,
    /// Keys that cannot be read.
    pub on_error: OnError,
    /// Most elements of a command.
    pub batch_elements: u64,
    /// Most bytes of a command of several elements.
    pub batch_bytes: usize,
    /// Most strings that are set by one command, MSET; 0 or 1 for none.
    pub gather: usize,
    /// In `auto`, values above so many bytes go as commands, so that the destination is not held up by one key; 0 for
    /// [`AUTO_RESTORE_BYTES`].
    pub big_key: usize,
    /// Leave out function libraries and cached scripts.
    pub no_functions: bool,
    /// Reject values of modules: a server below 6.2 ends when it is given one whose module it does not have.
    pub no_modules: bool,
    /// How commands of a log are read.
    pub log: LogRules,
}

/// Values above this size go as commands in `auto`, unless the settings say otherwise.
pub const AUTO_RESTORE_BYTES: usize = 64 << 20;
/// Strings above this size need SETRANGE: one argument may not be larger by default.
const BULK_LIMIT: usize = 512 << 20;
/// Bytes of one MSET, beyond one string.
const GATHERED_BYTES: usize = 16 << 10;
/// Bytes of one SETRANGE.
const SETRANGE_BYTES: usize = 64 << 20;
/// Longer keys are not renamed: their new name would have to be built in memory.
pub(crate) const RENAME_BYTES: usize = 8 << 20;

/// Why values of modules are not written.
pub(super) const NO_MODULES: &str = "no module was found at the destination, and a server below 6.2 ends when it is \
                                     given a value whose module it does not have";

/// What became of a key.
pub(super) enum Outcome {
    Written,
    /// No element: servers leave such keys out.
    Empty,
    /// Nothing but expired fields.
    Expired,
    Rejected {
        command: &'static str,
        error: String,
    },
}

impl Outcome {
    pub(super) fn needs(command: &'static str, feature: Feature, target: &Target) -> Outcome {
        let error = format!(
            "{command} needs {}; the target is {}",
            feature.needs(),
            target.shown()
        );
        Outcome::Rejected { command, error }
    }
}

/// A key on its way out.
pub(super) struct One<'a, 'k> {
    /// Its database at the destination.
    pub db: u64,
    /// Its name at the destination.
    pub key: &'k [u8],
    pub expire_at_ms: Option<i64>,
    pub record: Key<'a>,
    /// Its value from the first byte, to its last.
    pub value: Cursor<'a>,
    pub part: Part,
    pub templates: &'k Templates,
}

/// What a worker keeps from one task to the next.
pub struct Worker<'s, 'a> {
    file: Cursor<'a>,
    format: Format,
    key_scratch: Scratch,
    renamed: Vec<u8>,
    /// Database of the last key written in the present task.
    pub db: Option<u64>,
    /// Keys that could not be written in the present task.
    pub rejects: Vec<Reject>,
    /// Counts of the present task.
    pub tally: Tally,
    /// Keys of records before this byte of the file are replaced, whatever the settings say: an earlier run of the same
    /// load may have written them.
    pub replace_before: u64,
    /// The task is a part of a key that cannot be read: the key's later parts are to be dropped.
    pub gone: bool,
    /// Nothing is chosen or changed and strings go by SET.
    plain_strings: bool,
    e: Encoder<'s>,
}

/// What the encoders of all types use.
pub(super) struct Encoder<'s> {
    pub settings: &'s Settings,
    /// As the settings have it, but for tasks that another run began.
    pub on_exist: OnExist,
    pub room: Room,
    pub seen: check::Seen,
    pub stage: Vec<u8>,
    /// Whether the last key was written as RESTORE.
    pub restored: bool,
}

impl<'s, 'a> Worker<'s, 'a> {
    /// `unpack_limit`: the largest string that is unpacked in memory, in bytes.
    pub fn new(
        settings: &'s Settings,
        data: &'a [u8],
        format: Format,
        unpack_limit: usize,
    ) -> Self {
        Worker {
            file: Cursor::new(data, 0),
            format,
            key_scratch: Scratch::new(unpack_limit),
            renamed: Vec::new(),
            db: None,
            rejects: Vec::new(),
            tally: Tally::default(),
            gone: false,
            replace_before: 0,
            plain_strings: settings.filter.is_open()
                && !settings.transform.renames()
                && settings.target.dialect != Dialect::Twemproxy // it limits the length of keys
                && settings.mode != Mode::Restore,
            e: Encoder {
                settings,
                on_exist: settings.on_exist,
                room: Room::new(unpack_limit),
                seen: check::Seen::default(),
                stage: Vec::new(),
                restored: false,
            },
        }
    }

    /// Writes a task's keys. Counts and rejects are the caller's to take.
    pub fn run(&mut self, task: &Task, out: &mut Out<'_>) -> Result<()> {
        self.db = None;
        out.first_db = None;
        self.rejects.clear();
        self.gone = false;
        self.tally = Tally::default();
        let settings = self.e.settings;
        let start = match task.span {
            Span::Records { from, .. } => from,
            Span::Part { record, .. } => record,
        };
        self.e.on_exist = if (start as u64) < self.replace_before {
            OnExist::Replace
        } else {
            settings.on_exist
        };
        let result = match task.span {
            Span::Records { from, to } => self
                .head(from, out)
                .and_then(|()| self.records(task, from, to, out)),
            Span::Part {
                record,
                value_end,
                part,
            } => {
                let mut reader = Reader::new(self.file, self.format, record);
                // File-level records may stand between a key's attributes and the key.
                let key = loop {
                    match reader.next() {
                        Ok(Record::Key(key)) => break Ok(key),
                        Ok(_) => {}
                        Err(error) => break Err(error),
                    }
                };
                key.and_then(|key| {
                    self.key(&mut reader, key, task, task.db, part, Some(value_end), out)
                })
            }
        };
        self.tally.commands = std::mem::take(&mut out.commands);
        result
    }

    fn is_json(&self) -> bool {
        self.e.settings.form == Form::JsonLines
    }

    /// Before the first record, what stands before all lines.
    fn head(&self, from: usize, out: &mut Out<'_>) -> Result<()> {
        let mut start = self.file;
        if !self.is_json() || Format::parse(&mut start, true)?.magic().len() != from {
            return Ok(());
        }
        jsonl::head(Reader::new(self.file, self.format, from), self.format, out)
    }

    fn records(&mut self, task: &Task, from: usize, to: usize, out: &mut Out<'_>) -> Result<()> {
        let mut reader = Reader::new(self.file, self.format, from);
        let mut db = task.db;
        while reader.c.pos() < to {
            if self.plain_strings && !reader.has_pending() {
                self.plain_strings(&mut reader, db, to, out)?;
                if reader.c.pos() >= to {
                    break;
                }
            }
            let record = reader.c.pos();
            let alone = !reader.has_pending();
            match reader.next()? {
                Record::Key(key) => self.key(&mut reader, key, task, db, Part::WHOLE, None, out)?,
                Record::Select(n) => db = n,
                Record::Function(function) => self.function(function, out)?,
                Record::Aux { name, value } => self.aux(name, value, out)?,
                // Between a key and its attributes no server writes one.
                Record::ModuleAux(module) if self.is_json() && alone => {
                    let bytes = reader.c.slice(record, reader.c.pos());
                    jsonl::module_aux(&module, bytes, out)?;
                }
                Record::ModuleAux(_) => self.tally.limit(Limit::ModuleAux, 1),
                Record::Template { .. } | Record::Hint => {}
                Record::Eof => break,
            }
        }
        Ok(())
    }

    /// Writes records of the most common kind, as long as they come and nothing is asked of them but SET.
    fn plain_strings(
        &mut self,
        reader: &mut Reader<'a>,
        db: u64,
        to: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let (data, settings) = (self.file.data(), self.e.settings);
        if self.is_json() {
            return self.plain_lines(reader, db, to, out);
        }
        if self.e.on_exist == OnExist::AskFirst {
            return Ok(());
        }
        if settings.gather > 1 {
            return self.gathered_strings(reader, db, to, out);
        }
        let if_none = self.e.on_exist == OnExist::IfNone;
        let mut pos = reader.c.pos();
        let (mut keys, mut last) = (0, pos);
        while pos < to
            && let Some(string) = plain_string(data, pos)
        {
            if keys == 0 {
                Self::select(&mut self.db, settings, db, out)?;
            }
            if if_none {
                out.command(&[b"SET", string.key, string.value, b"NX"])?;
            } else {
                out.set(string.key, string.value)?;
            }
            keys += 1;
            last = pos;
            pos = string.end;
        }
        if keys > 0 {
            reader.pass(pos, last + 1);
            self.tally.read += keys;
            self.tally.written += keys;
        }
        Ok(())
    }

    /// As [`plain_strings`](Self::plain_strings), a line each.
    fn plain_lines(
        &mut self,
        reader: &mut Reader<'a>,
        db: u64,
        to: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let data = self.file.data();
        let mut shown = Vec::new();
        crate::jsonl::text::uint(&mut shown, self.e.settings.transform.db(db));
        let mut pos = reader.c.pos();
        let (mut keys, mut last) = (0, pos);
        while pos < to
            && let Some(string) = plain_string(data, pos)
        {
            jsonl::plain_string(&shown, string.key, string.value, out)?;
            keys += 1;
            last = pos;
            pos = string.end;
        }
        if keys > 0 {
            reader.pass(pos, last + 1);
            self.tally.read += keys;
            self.tally.written += keys;
        }
        Ok(())
    }

    /// As [`plain_strings`](Self::plain_strings), several by one command.
    fn gathered_strings(
        &mut self,
        reader: &mut Reader<'a>,
        db: u64,
        to: usize,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let (data, settings) = (self.file.data(), self.e.settings);
        let name: &[u8] = match self.e.on_exist {
            OnExist::IfNone => b"MSETNX",
            _ => b"MSET",
        };
        let mut pairs = Vec::with_capacity(settings.gather);
        let mut pos = reader.c.pos();
        loop {
            pairs.clear();
            let (mut bytes, mut last) = (0, pos);
            while pairs.len() < settings.gather
                && bytes < GATHERED_BYTES
                && pos < to
                && let Some(string) = plain_string(data, pos)
            {
                bytes += string.end - pos;
                last = pos;
                pos = string.end;
                pairs.push((string.key, string.value));
            }
            if pairs.is_empty() {
                return Ok(());
            }
            Self::select(&mut self.db, settings, db, out)?;
            out.array(1 + 2 * pairs.len() as u64);
            out.bulk(name);
            for (key, value) in &pairs {
                out.bulk(key);
                out.bulk(value);
            }
            out.end()?;
            reader.pass(pos, last + 1);
            self.tally.read += pairs.len() as u64;
            self.tally.written += pairs.len() as u64;
        }
    }

    /// Writes SELECT where the database changes within a task.
    #[inline]
    fn select(
        selected: &mut Option<u64>,
        settings: &Settings,
        db: u64,
        out: &mut Out<'_>,
    ) -> Result<()> {
        // Each line names its database.
        if settings.target.dialect.single_db() || settings.form == Form::JsonLines {
            return Ok(());
        }
        let db = settings.transform.db(db);
        if *selected == Some(db) {
            return Ok(());
        }
        match *selected {
            None => out.first_db = Some(db),
            Some(_) => {
                let mut digits = itoa::Buffer::new();
                out.command(&[b"SELECT", digits.format(db).as_bytes()])?;
            }
        }
        *selected = Some(db);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)] // one caller for each of two shapes of a task
    fn key(
        &mut self,
        reader: &mut Reader<'a>,
        record: Key<'a>,
        task: &Task,
        db: u64,
        part: Part,
        value_end: Option<usize>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let settings = self.e.settings;
        let value = reader.c;
        let skip_value = |c: &mut Cursor<'a>| match value_end {
            Some(end) => {
                c.seek(end);
                Ok(())
            }
            None => skip(c, record.ty, &task.templates, &mut Vec::new()),
        };
        self.tally.read += u64::from(part.first);
        let name = |type_name| key_name(&record, db, type_name, self.format);
        let mut digits = itoa::Buffer::new();
        let key = match record.key.load(&mut self.key_scratch) {
            Ok(key) => key.as_bytes(&mut digits),
            Err(error) => {
                let error = error.in_key(|| name(type_name(record.ty, value)));
                self.reject_broken(error, &record, db, b"", part)?;
                return skip_value(&mut reader.c);
            }
        };
        let verdict = settings.filter.verdict(
            db,
            key,
            record.attributes.expire_at_ms,
            || type_name(record.ty, value),
            || {
                let mut c = value;
                // The scan passed over this value already; a length of 0 is never asked for.
                skip_value(&mut c).map_or(0, |()| (c.pos() - value.pos()) as u64)
            },
        );
        if verdict != Verdict::Pass {
            match verdict {
                Verdict::Expired => self.tally.expired += u64::from(part.first),
                _ => self.tally.filtered += u64::from(part.first),
            }
            return skip_value(&mut reader.c);
        }
        let refused = if settings.transform.renames() && key.len() > RENAME_BYTES {
            Some("its name is too long to be changed".to_owned())
        } else if settings
            .target
            .key_limit()
            .is_some_and(|limit| key.len() > limit)
        {
            Some(too_long_for_proxy(key.len(), &settings.target))
        } else if settings.no_modules && record.ty.kind() == Kind::Module {
            Some(NO_MODULES.to_owned())
        } else {
            None
        };
        let new_key = if settings.transform.renames() && refused.is_none() {
            settings.transform.rename(key, &mut self.renamed);
            &self.renamed[..]
        } else {
            key
        };
        if refused.is_none() {
            Self::select(&mut self.db, settings, db, out)?;
        }
        out.handed_on = false;
        let mark = out.mark();
        let one = One {
            db: settings.transform.db(db),
            key: new_key,
            expire_at_ms: settings.transform.expiry(record.attributes.expire_at_ms),
            record,
            value,
            part,
            templates: &task.templates,
        };
        if refused.is_none() && part.first && self.e.on_exist == OnExist::AskFirst {
            out.array(2);
            out.bulk(b"EXISTS");
            out.bulk_any(new_key)?;
            // It must be possible to take it back: the key may turn out to have no element.
            out.end_in_block();
        }
        let result = match refused {
            Some(error) => Ok(Outcome::Rejected {
                command: if record.ty.kind() == Kind::Module {
                    "RESTORE"
                } else {
                    "SET"
                },
                error,
            }),
            None => {
                let (c, tally) = (&mut reader.c, &mut self.tally);
                match settings.form {
                    Form::Commands => self.e.one(&one, c, &skip_value, out, tally),
                    Form::JsonLines => self.e.lines(&one, c, &skip_value, out, tally),
                }
            }
        };
        let result = result.map_err(|e| e.in_key(|| name(type_name(record.ty, value))));
        match result {
            Ok(Outcome::Written) => {
                self.tally.written += u64::from(part.last);
                if part.first && settings.form == Form::Commands {
                    self.count_attributes(&record);
                }
            }
            Ok(Outcome::Empty) => {
                out.take_back(mark);
                self.tally.filtered += 1;
                self.tally.limit(Limit::EmptyKeys, 1);
            }
            Ok(Outcome::Expired) => {
                out.take_back(mark);
                self.tally.expired += 1;
            }
            Ok(Outcome::Rejected { command, error }) => {
                if part.first {
                    out.take_back(mark);
                    self.tally.rejected += 1;
                    self.rejects.push(Reject {
                        db: Some(db),
                        key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
                        type_name: type_name(record.ty, value),
                        command: command.to_owned(),
                        error,
                    });
                }
                reader.c = value;
                skip_value(&mut reader.c)?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::Stopped | ErrorKind::Io { .. }) => {
                return Err(error);
            }
            Err(error) => {
                // What was written of this key goes: out of the block, or by DEL where it left already. In any
                // case no command may stay unfinished.
                if !out.take_back(mark) {
                    out.drop_unfinished();
                }
                if settings.on_error == OnError::Continue && (out.handed_on || !part.first) {
                    match settings.form {
                        Form::Commands => out.command(&[b"DEL", new_key])?,
                        Form::JsonLines => {
                            jsonl::dropped(settings.transform.db(db), new_key, out)?;
                        }
                    }
                }
                let key = key[..key.len().min(Reject::KEY_BYTES)].to_vec();
                self.reject_broken(error, &record, db, &key, part)?;
                reader.c = value;
                skip_value(&mut reader.c)?;
            }
        }
        Ok(())
    }

    /// A key that cannot be read ends the run, or is counted where the user said so.
    fn reject_broken(
        &mut self,
        error: Error,
        record: &Key<'_>,
        db: u64,
        key: &[u8],
        part: Part,
    ) -> Result<()> {
        if self.e.settings.on_error == OnError::Stop {
            self.tally.read -= u64::from(part.first);
            return Err(error);
        }
        self.tally.rejected += 1;
        self.rejects.push(Reject {
            db: Some(db),
            key: key.to_vec(),
            type_name: record.ty.kind().name().to_owned(),
            command: String::new(),
            error: error.to_string(),
        });
        self.gone |= !(part.first && part.last);
        Ok(())
    }

    fn count_attributes(&mut self, record: &Key<'_>) {
        let attributes = &record.attributes;
        if attributes.meta.is_some() && !(self.e.restored && self.e.takes_meta()) {
            self.tally.limit(Limit::KeyMeta, 1);
        }
        if self.e.restored && self.e.settings.target.has(Feature::RestoreAbsTtl) {
            return;
        }
        self.tally
            .limit(Limit::IdleTimes, u64::from(attributes.idle_secs.is_some()));
        self.tally
            .limit(Limit::Frequencies, u64::from(attributes.freq.is_some()));
    }

    fn function(&mut self, function: Function<'_>, out: &mut Out<'_>) -> Result<()> {
        let settings = self.e.settings;
        if settings.no_functions {
            return Ok(());
        }
        let code = &function.source(&mut self.e.room.one)?[..];
        if settings.form == Form::JsonLines {
            self.tally.libraries += 1;
            return jsonl::single("function", code, out);
        }
        let refused = if settings.target.dialect == Dialect::Twemproxy {
            Some(
                "twemproxy forwards no FUNCTION LOAD: load it into each server directly".to_owned(),
            )
        } else if !settings.target.has(Feature::Functions) {
            Some(format!(
                "FUNCTION LOAD needs {}; the target is {}",
                Feature::Functions.needs(),
                settings.target.shown()
            ))
        } else {
            None
        };
        if let Some(error) = refused {
            self.tally.libraries_rejected += 1;
            let first_line = code.split(|b| *b == b'\n').next().unwrap_or_default();
            self.rejects.push(Reject {
                db: None,
                key: first_line[..first_line.len().min(Reject::KEY_BYTES)].to_vec(),
                type_name: "function".to_owned(),
                command: "FUNCTION LOAD".to_owned(),
                error,
            });
            return Ok(());
        }
        self.tally.libraries += 1;
        match self.e.on_exist {
            OnExist::Replace => out.command(&[b"FUNCTION", b"LOAD", b"REPLACE", code]),
            OnExist::Merge | OnExist::Fail | OnExist::IfNone | OnExist::AskFirst => {
                out.command(&[b"FUNCTION", b"LOAD", code])
            }
        }
    }

    /// Up to 6.2 snapshots carry the scripts that replicas may be asked for by EVALSHA.
    fn aux(&mut self, name: Str<'_>, value: Str<'_>, out: &mut Out<'_>) -> Result<()> {
        if !jsonl::is_script(name) || self.e.settings.no_functions {
            return Ok(());
        }
        if self.e.settings.target.dialect == Dialect::Twemproxy {
            self.tally.limit(Limit::Scripts, 1);
            return Ok(());
        }
        let mut digits = itoa::Buffer::new();
        let body = value.load(&mut self.e.room.one)?;
        self.tally.libraries += 1;
        let body = body.as_bytes(&mut digits);
        match self.e.settings.form {
            Form::Commands => out.command(&[b"SCRIPT", b"LOAD", body]),
            Form::JsonLines => jsonl::single("script", body, out),
        }
    }
}

/// Bytes that an element will take, roughly: decides only how commands are cut.
#[inline]
fn size(element: Element<'_>) -> usize {
    match element {
        Element::Bytes(bytes) => bytes.len(),
        Element::Int(_) => 20,
    }
}

impl Encoder<'_> {
    /// Whether a value of this type has no commands in the dialect.
    fn only_restore(&self, ty: TypeByte) -> bool {
        match ty.kind() {
            Kind::Module | Kind::Gcra | Kind::PathHash => true,
            Kind::Stream | Kind::Array => self.settings.target.dialect == Dialect::Twemproxy,
            Kind::Hash => {
                self.settings.target.dialect == Dialect::Twemproxy
                    && ty.has_field_expiry()
                    && !self.settings.transform.no_ttl
            }
            Kind::String | Kind::List | Kind::Set | Kind::Zset => false,
        }
    }

    /// Whether a key is written as RESTORE, unless its payload turns out to be one that servers read
    /// differently.
    fn goes_as_restore(&self, record: &Key<'_>) -> bool {
        match self.settings.mode {
            Mode::Commands => self.only_restore(record.ty),
            Mode::Restore => true,
            Mode::Auto => {
                let hints =
                    record.attributes.idle_secs.is_some() || record.attributes.freq.is_some();
                self.only_restore(record.ty)
                    || (record.ty != TypeByte::String || hints || record.attributes.meta.is_some())
                        && self.settings.target.has(Feature::Restore)
                        && self
                            .settings
                            .target
                            .takes_payload(restore::version(record.ty))
            }
        }
    }

    /// Whether RESTORE takes key metadata before the value.
    pub(super) fn takes_meta(&self) -> bool {
        self.settings.target.has(Feature::KeyMeta) && self.settings.target.takes_payload(13)
    }

    fn one<'a>(
        &mut self,
        one: &One<'a, '_>,
        c: &mut Cursor<'a>,
        skip_value: &dyn Fn(&mut Cursor<'a>) -> Result<()>,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<Outcome> {
        let ty = one.record.ty;
        self.restored = false;
        if self.goes_as_restore(&one.record) {
            skip_value(c)?;
            let big = match self.settings.big_key {
                0 => AUTO_RESTORE_BYTES,
                bytes => bytes,
            };
            let large = c.pos() - one.value.pos() > big;
            let shifted = ty.has_field_expiry() && self.settings.transform.changes_expiry();
            let cut = self.settings.mode == Mode::Auto && large && !self.only_restore(ty);
            if !cut && !shifted {
                match self.restore(one, c.pos(), out, tally)? {
                    restore::Done::Outcome(outcome) => {
                        if matches!(outcome, Outcome::Written) {
                            self.restored = true;
                            tally.as_restore += 1;
                            let unasked = self.settings.mode == Mode::Commands;
                            tally.limit(Limit::AsRestore, u64::from(unasked));
                        }
                        return Ok(outcome);
                    }
                    // Servers on either side of 8.8 read this payload differently; commands are exact.
                    restore::Done::Boundary => tally.limit(Limit::AsCommands, 1),
                }
            }
            *c = one.value;
            let outcome = self.commands(one, c, out, tally);
            *c = one.value;
            skip_value(c)?;
            return outcome;
        }
        self.commands(one, c, out, tally)
    }

    fn limits(&self) -> (u64, usize) {
        let elements = if self.settings.target.has(Feature::Variadic) {
            self.settings.batch_elements
        } else {
            1
        };
        (elements, self.settings.batch_bytes)
    }

    /// Writes a key, or a part of one, as commands; leaves `c` behind what was read.
    fn commands(
        &mut self,
        one: &One<'_, '_>,
        c: &mut Cursor<'_>,
        out: &mut Out<'_>,
        tally: &mut Tally,
    ) -> Result<Outcome> {
        let ty = one.record.ty;
        let kind = ty.kind();
        let target = &self.settings.target;
        if kind == Kind::String {
            let value = string(c)?;
            return self.string(one, value, out);
        }
        match kind {
            Kind::Stream if !target.has(Feature::Streams) => {
                return Ok(Outcome::needs("XADD", Feature::Streams, target));
            }
            Kind::Array if !target.has(Feature::Arrays) => {
                return Ok(Outcome::needs("ARMSET", Feature::Arrays, target));
            }
            Kind::Hash if !target.has(Feature::FieldExpiry) && self.writes_field_expiry(ty) => {
                return Ok(Outcome::needs("HPEXPIREAT", Feature::FieldExpiry, target));
            }
            Kind::Stream if !target.has(Feature::Xnack) && stream::has_released(one)? => {
                return Ok(Outcome::needs("XNACK", Feature::Xnack, target));
            }
            _ if self.only_restore(ty) => {
                // It is here, and not on its way as RESTORE, because the payload would have to change.
                let error = match kind {
                    Kind::Hash => {
                        "the expiries of its fields cannot be changed inside a RESTORE payload, and the dialect has no \
                         commands for them"
                    }
                    _ => {
                        "it holds an entry of a size that servers before and after 8.8 store differently, and the \
                         dialect has no commands for it"
                    }
                }
                .to_owned();
                return Ok(Outcome::Rejected {
                    command: "RESTORE",
                    error,
                });
            }
            _ => {}
        }
        let mark = out.mark();
        if one.part.first {
            let first: &[&[u8]] = match self.on_exist {
                OnExist::Replace | OnExist::AskFirst => &[b"DEL"],
                // What another try left of the key goes; the answer to EXISTS told that nothing else is there.
                OnExist::IfNone => &[b"EXISTS", b"DEL"],
                OnExist::Merge | OnExist::Fail => &[],
            };
            for name in first {
                out.array(2);
                out.bulk(name);
                out.bulk_any(one.key)?;
                // It must be possible to take it back: the key may turn out to have no element.
                out.end_in_block();
            }
        }
        let head = Head::parse(c, ty, one.templates)?;
        let whole_items = head.items;
        if !one.part.first {
            c.seek(one.part.pos);
        }
        let items = one.part.items.min(whole_items - one.part.first_item);
        let limits = self.limits();
        let mut boundary = Boundary::default();
        let mut expired_fields = 0;
        let key = one.key;
        let elements = match kind {
            Kind::List => {
                let expected = if ty == TypeByte::List { items } else { 0 };
                let mut chunks = Chunks::new("RPUSH", key, 1, limits, expected);
                list::for_each(c, ty, items, &mut self.room, &mut boundary, |element| {
                    chunks.push(out, size(element), |out| out.bulk_element_any(element))
                })?;
                chunks.close(out)?;
                chunks.total
            }
            Kind::Set => {
                let expected = if ty == TypeByte::Set { items } else { 0 };
                let mut chunks = Chunks::new("SADD", key, 1, limits, expected);
                set::for_each(c, ty, items, &mut self.room, &mut boundary, |member| {
                    chunks.push(out, size(member), |out| out.bulk_element_any(member))
                })?;
                chunks.close(out)?;
                chunks.total
            }
            Kind::Zset => {
                let expected = if matches!(ty, TypeByte::Zset | TypeByte::Zset2) {
                    items
                } else {
                    0
                };
                let mut chunks = Chunks::new("ZADD", key, 2, limits, expected);
                zset::for_each(
                    c,
                    ty,
                    items,
                    &mut self.room,
                    &mut boundary,
                    |member, score| {
                        chunks.push(out, size(member), |out| {
                            match score {
                                Score::Text(text) => out.bulk(text),
                                Score::Double(value) => out.bulk_double(value),
                                Score::Int(n) => out.bulk_int(n),
                            }
                            out.bulk_element_any(member)
                        })
                    },
                )?;
                chunks.close(out)?;
                chunks.total
            }
            Kind::Hash => {
                let source = Source {
                    file: one.value,
                    templates: one.templates,
                    head,
                };
                let verb = if target.has(Feature::HsetMany) {
                    "HSET"
                } else {
                    "HMSET"
                };
                let expected = if ty == TypeByte::Hash { items } else { 0 };
                let mut chunks = Chunks::new(verb, key, 2, limits, expected);
                let filter = &self.settings.filter;
                let from = *c;
                hash::for_each(
                    c,
                    ty,
                    items,
                    source,
                    &mut self.room,
                    &mut boundary,
                    |field, value, expiry| {
                        if expiry.is_some_and(|at| at <= filter.now_ms) && !filter.keep_expired {
                            expired_fields += 1;
                            return Ok(());
                        }
                        chunks.push(out, size(field) + size(value), |out| {
                            out.bulk_element_any(field)?;
                            out.bulk_element_any(value)
                        })
                    },
                )?;
                chunks.close(out)?;
                let total = chunks.total;
                if self.writes_field_expiry(ty) {
                    self.field_expiry(one, from, items, source, out)?;
                }
                total
            }
            Kind::Array => {
                let mut chunks = Chunks::new("ARMSET", key, 2, limits, items);
                array::for_each(c, items, &mut self.room.one, |index, value| {
                    let bytes = match value {
                        Value::Element(element) => size(element),
                        Value::Double(_) => 24,
                    };
                    chunks.push(out, bytes, |out| {
                        let mut digits = itoa::Buffer::new();
                        out.bulk(digits.format(index).as_bytes());
                        match value {
                            Value::Element(element) => out.bulk_element_any(element),
                            Value::Double(value) => {
                                out.bulk(array::double_text(value).as_bytes());
                                Ok(())
                            }
                        }
                    })
                })?;
                chunks.close(out)?;
                if let (Some(cursor), true) = (head.cursor, one.part.last) {
                    let mut digits = itoa::Buffer::new();
                    // ARSEEK names the next index to insert at, the file the last one inserted.
                    out.command(&[
                        b"ARSEEK",
                        key,
                        digits.format(cursor.wrapping_add(1)).as_bytes(),
                    ])?;
                }
                chunks.total
            }
            Kind::Stream => {
                self.stream(one, c, items, whole_items, out, tally)?;
                // A stream may be empty.
                1
            }
            Kind::String | Kind::Module | Kind::Gcra | Kind::PathHash => {
                unreachable!("{kind:?} is written above or as RESTORE")
            }
        };
        tally.limit(Limit::ExpiredFields, expired_fields);
        if elements == 0 && one.part.first && one.part.last {
            // Where the name alone fills a block its DEL is on its way; the key does not exist in the file either.
            out.take_back(mark);
            return Ok(if expired_fields > 0 {
                Outcome::Expired
            } else {
                Outcome::Empty
            });
        }
        if let (Some(at), true) = (one.expire_at_ms, one.part.last) {
            self.expire(key, at, out)?;
        }
        Ok(Outcome::Written)
    }

    fn writes_field_expiry(&self, ty: TypeByte) -> bool {
        ty.has_field_expiry() && !self.settings.transform.no_ttl
    }

    fn string(&mut self, one: &One<'_, '_>, value: Str<'_>, out: &mut Out<'_>) -> Result<Outcome> {
        let value = value.load(&mut self.room.one)?;
        if value.len() > BULK_LIMIT
            && let Element::Bytes(bytes) = value
        {
            match self.on_exist {
                OnExist::Replace | OnExist::AskFirst => out.command(&[b"DEL", one.key])?,
                OnExist::IfNone => {
                    out.command(&[b"EXISTS", one.key])?;
                    out.command(&[b"DEL", one.key])?;
                }
                OnExist::Merge | OnExist::Fail => {}
            }
            let mut offset = 0;
            for piece in bytes.chunks(SETRANGE_BYTES) {
                let mut digits = itoa::Buffer::new();
                out.command(&[
                    b"SETRANGE",
                    one.key,
                    digits.format(offset).as_bytes(),
                    piece,
                ])?;
                offset += piece.len();
            }
            if let Some(at) = one.expire_at_ms {
                self.expire(one.key, at, out)?;
            }
            return Ok(Outcome::Written);
        }
        let with_expiry = one
            .expire_at_ms
            .filter(|_| self.settings.target.has(Feature::SetPxat));
        let if_none = self.on_exist == OnExist::IfNone;
        out.array(3 + 2 * u64::from(with_expiry.is_some()) + u64::from(if_none));
        out.raw(b"$3\r\nSET\r\n");
        out.bulk_any(one.key)?;
        out.bulk_element_any(value)?;
        if let Some(at) = with_expiry {
            out.bulk(b"PXAT");
            // SET takes no time before 1970; both are past, and the key goes at once.
            out.bulk_int(at.max(1));
        }
        if if_none {
            out.bulk(b"NX");
        }
        out.end()?;
        if let (Some(at), None) = (one.expire_at_ms, with_expiry) {
            self.expire(one.key, at, out)?;
        }
        Ok(Outcome::Written)
    }

    /// The expiry of a key that is written already.
    pub(super) fn expire(&self, key: &[u8], at_ms: i64, out: &mut Out<'_>) -> Result<()> {
        let mut digits = itoa::Buffer::new();
        if self.settings.target.has(Feature::PExpireAt) {
            out.command(&[b"PEXPIREAT", key, digits.format(at_ms).as_bytes()])
        } else {
            let secs = at_ms.div_euclid(1000) + i64::from(at_ms.rem_euclid(1000) > 0);
            out.command(&[b"EXPIREAT", key, digits.format(secs).as_bytes()])
        }
    }

    /// HPEXPIREAT for the fields that have an expiry, those next to each other with one time together.
    fn field_expiry(
        &mut self,
        one: &One<'_, '_>,
        mut c: Cursor<'_>,
        items: u64,
        source: Source<'_, '_>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let settings = self.settings;
        let (key, filter) = (one.key, &settings.filter);
        let (max_elements, max_bytes) = self.limits();
        let mut group = Group {
            stage: &mut self.stage,
            count: 0,
            at: 0,
        };
        group.stage.clear();
        let write = |group: &mut Group<'_>, out: &mut Out<'_>| -> Result<()> {
            if group.count == 0 {
                return Ok(());
            }
            out.array(5 + group.count);
            out.bulk(b"HPEXPIREAT");
            out.bulk_any(key)?;
            out.bulk_int(group.at);
            out.bulk(b"FIELDS");
            out.bulk_int(group.count as i64);
            out.large(group.stage)?;
            group.stage.clear();
            group.count = 0;
            out.end()
        };
        let mut boundary = Boundary::default();
        hash::for_each(
            &mut c,
            one.record.ty,
            items,
            source,
            &mut self.room,
            &mut boundary,
            |field, _, expiry| {
                let Some(at) = expiry.filter(|at| *at > filter.now_ms || filter.keep_expired)
                else {
                    return Ok(());
                };
                let at = settings.transform.expiry(Some(at)).unwrap_or(at).max(0);
                if at != group.at || group.count >= max_elements || group.stage.len() >= max_bytes {
                    write(&mut group, out)?;
                }
                group.at = at;
                if size(field) >= crate::resp::write::LARGE {
                    write(&mut group, out)?;
                    out.array(6);
                    out.bulk(b"HPEXPIREAT");
                    out.bulk_any(key)?;
                    out.bulk_int(at);
                    out.bulk(b"FIELDS");
                    out.bulk_int(1);
                    out.bulk_element_any(field)?;
                    return out.end();
                }
                group.push(field);
                Ok(())
            },
        )?;
        write(&mut group, out)
    }
}

/// Arguments gathered until it is known how many there are.
pub(super) struct Group<'a> {
    pub stage: &'a mut Vec<u8>,
    pub count: u64,
    pub at: i64,
}

impl Group<'_> {
    pub(super) fn push(&mut self, element: Element<'_>) {
        let mut digits = itoa::Buffer::new();
        let bytes = element.as_bytes(&mut digits);
        let mut len = itoa::Buffer::new();
        self.stage.push(b'$');
        self.stage
            .extend_from_slice(len.format(bytes.len()).as_bytes());
        self.stage.extend_from_slice(b"\r\n");
        self.stage.extend_from_slice(bytes);
        self.stage.extend_from_slice(b"\r\n");
        self.count += 1;
    }
}
