//! Walks a file without decoding it: cuts it into tasks for the workers, notes what belongs to the
//! file as a whole, and takes the checksum while the bytes are warm.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::{Format, Reader, Record, key_name, plain_string, type_name};
use crate::cursor::{At, Cursor};
use crate::encoding::crc64::Crc64;
use crate::encoding::string::Scratch;
use crate::error::{Error, ErrorKind, Result};
use crate::value::{Cut, Templates, skip};

/// A piece of work for one worker. Which tasks a file gives depends on the file alone, never on the
/// number of workers.
#[derive(Debug, Clone)]
pub struct Task {
    /// Database at its start.
    pub db: u64,
    /// Bytes of input it accounts for.
    pub bytes: usize,
    /// What it covers.
    pub span: Span,
    /// The file's hash templates, all of which stand before the first key.
    pub templates: Arc<Templates>,
}

/// What a task covers.
#[derive(Debug, Clone, Copy)]
pub enum Span {
    /// Whole records.
    Records {
        /// Position of the first.
        from: usize,
        /// Position behind the last.
        to: usize,
    },
    /// A part of one large value.
    Part {
        /// Position of the key's record.
        record: usize,
        /// Position behind the whole value.
        value_end: usize,
        /// The part.
        part: Part,
    },
}

/// Items of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Position of the first item; 0 for "right behind the head" in the first part.
    pub pos: usize,
    /// Number of items before this part.
    pub first_item: u64,
    /// Number of items; `u64::MAX` for "all that are left" in the last part.
    pub items: u64,
    /// Whether the key begins here.
    pub first: bool,
    /// Whether the key ends here.
    pub last: bool,
}

impl Part {
    /// A value in one piece.
    pub const WHOLE: Part = Part {
        pos: 0,
        first_item: 0,
        items: u64::MAX,
        first: true,
        last: true,
    };
}

/// Whether the checksum is taken while scanning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// Take it and compare it at the end.
    Check,
    /// Leave it: it was checked before, or the user said so.
    Off,
}

/// What a scan finds out about the file as a whole.
#[derive(Debug, Clone, Default)]
pub struct FileInfo {
    /// Bytes from the magic to the end of the checksum.
    pub end: Option<u64>,
    /// Bytes behind it.
    pub trailing: u64,
    /// Keys passed so far.
    pub keys: u64,
    /// Whether the file carries a checksum (RDB 5 on, and not written as 0).
    pub has_checksum: bool,
    /// Version of the server that wrote it, with its name.
    pub server: Option<String>,
    /// Whether what follows looks like commands.
    pub commands_follow: bool,
    /// Module aux fields, by module.
    pub module_aux: Vec<(String, u64)>,
    /// Function libraries.
    pub functions: u64,
    /// What the databases hold. Of a file that names more than [`MOST_DBS`], the rest is not listed.
    pub dbs: BTreeMap<u64, Counts>,
}

/// Keys of a database.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub keys: u64,
    /// Those with an expiry.
    pub expires: u64,
    /// Those whose time has passed, where the scan was told what time it is.
    pub expired: u64,
}

/// Databases that are counted one by one: a file that lies could name billions.
pub const MOST_DBS: usize = 1 << 16;

/// Input per task.
pub const BATCH_BYTES: usize = 1 << 20;

/// Gives the tasks of a file one after the other.
#[derive(Debug)]
pub struct Scanner<'a> {
    reader: Reader<'a>,
    file: Cursor<'a>,
    format: Format,
    db: u64,
    crc: Option<Crc64>,
    crc_pos: usize,
    templates: Arc<Templates>,
    queue: VecDeque<Task>,
    cuts: Vec<Cut>,
    cut_keys: bool,
    ended: bool,
    failed: Option<Error>,
    scratch: Scratch,
    data: &'a [u8],
    /// Keys of the present database that are not in `info` yet.
    counts: Counts,
    /// Unix time in milliseconds that expiries are held against where expired keys are counted.
    pub now_ms: i64,
    /// What was found out so far.
    pub info: FileInfo,
}

impl<'a> Scanner<'a> {
    /// `cut_keys`: whether a large value may be given to several workers. `lenient`: whether an
    /// unknown file version passes.
    pub fn new(data: &'a [u8], along: Along, cut_keys: bool, lenient: bool) -> Result<Scanner<'a>> {
        let file = Cursor::new(data, 0);
        let mut c = file;
        let format = Format::parse(&mut c, lenient)?;
        Ok(Scanner {
            reader: Reader::new(file, format, c.pos()),
            file,
            format,
            db: 0,
            crc: (along == Along::Check && format.version >= 5).then(Crc64::new),
            crc_pos: 0,
            templates: Arc::default(),
            queue: VecDeque::new(),
            cuts: Vec::new(),
            cut_keys,
            ended: false,
            failed: None,
            scratch: Scratch::new(1 << 20),
            data,
            counts: Counts::default(),
            now_ms: i64::MIN,
            info: FileInfo::default(),
        })
    }

    /// Magic and version.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The next task, `None` at the end of the file. What stands before an error is given first.
    pub fn next_task(&mut self) -> Result<Option<Task>> {
        if let Some(task) = self.queue.pop_front() {
            return Ok(Some(task));
        }
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Err(error);
        }
        if self.ended {
            return Ok(None);
        }
        let mut batch = Batch {
            from: self.reader.c.pos(),
            to: self.reader.c.pos(),
            db: self.db,
        };
        if let Err(error) = self.fill(&mut batch) {
            self.failed = Some(error);
        }
        self.count_db();
        if batch.to > batch.from {
            let task = Task {
                db: batch.db,
                bytes: batch.to - batch.from,
                span: Span::Records {
                    from: batch.from,
                    to: batch.to,
                },
                templates: self.templates.clone(),
            };
            self.queue.push_front(task);
        }
        self.update_crc();
        self.next_task()
    }

    fn update_crc(&mut self) {
        let pos = self.reader.c.pos();
        if let Some(crc) = &mut self.crc {
            crc.update(&self.data[self.crc_pos..pos.max(self.crc_pos)]);
            self.crc_pos = pos.max(self.crc_pos);
        }
    }

    /// Extends a batch record by record until it is full or a large value or the end comes.
    fn fill(&mut self, batch: &mut Batch) -> Result<()> {
        while batch.to - batch.from < BATCH_BYTES {
            if !self.reader.has_pending() {
                self.plain_strings(batch);
            }
            match self.reader.next()? {
                Record::Key(key) => {
                    let value = self.reader.c;
                    skip(&mut self.reader.c, key.ty, &self.templates, &mut self.cuts).map_err(
                        |e| {
                            e.in_key(|| {
                                key_name(&key, self.db, type_name(key.ty, value), self.format)
                            })
                        },
                    )?;
                    self.info.keys += 1;
                    self.counts.keys += 1;
                    if let Some(at) = key.attributes.expire_at_ms {
                        self.counts.expires += 1;
                        self.counts.expired += u64::from(at <= self.now_ms);
                    }
                    let end = self.reader.c.pos();
                    if self.cuts.is_empty() {
                        batch.to = end;
                    } else if !self.cut_keys {
                        self.cuts.clear();
                        batch.to = end;
                    } else {
                        self.cut(key.start, end);
                        return Ok(());
                    }
                }
                Record::Select(db) => {
                    self.count_db();
                    self.db = db;
                }
                Record::Aux { name, value } => {
                    self.aux(name, value)?;
                }
                Record::ModuleAux(module) => {
                    let known = &mut self.info.module_aux;
                    match known.iter().position(|(name, _)| *name == module) {
                        Some(i) => known[i].1 += 1,
                        // A list of names is for people; a file with more modules is no longer read by one.
                        None if known.len() < 64 => known.push((module, 1)),
                        None => {}
                    }
                }
                Record::Function(_) => self.info.functions += 1,
                Record::Template { id, names } => {
                    let at = At::file(names.pos as u64);
                    if self.info.keys > 0 {
                        return Err(Error::new(
                            ErrorKind::BadTemplate("stands behind the first key"),
                            at,
                        ));
                    }
                    names.check(self.file, &mut self.scratch)?;
                    if !Arc::make_mut(&mut self.templates).insert(id, names) {
                        let what = "id occurs twice, or there are over a million templates";
                        return Err(Error::new(ErrorKind::BadTemplate(what), at));
                    }
                }
                Record::Hint => {}
                Record::Eof => {
                    batch.to = self.reader.c.pos();
                    self.ended = true;
                    return self.end();
                }
            }
            // Records without a key belong to the batch too, unless a key's attributes stand open.
            if !self.reader.has_pending() {
                batch.to = self.reader.c.pos();
            }
        }
        Ok(())
    }

    /// Passes over the records that need no more than that, as long as they come.
    #[inline]
    fn plain_strings(&mut self, batch: &mut Batch) {
        let mut pos = self.reader.c.pos();
        let full = batch.from + BATCH_BYTES;
        let (start, mut keys, mut last) = (pos, 0, pos);
        while pos < full
            && let Some(string) = plain_string(self.data, pos)
        {
            last = pos;
            pos = string.end;
            keys += 1;
        }
        if pos > start {
            self.info.keys += keys;
            self.counts.keys += keys;
            self.reader.pass(pos, last + 1);
            batch.to = pos;
        }
    }

    /// Adds what was counted since the last SELECTDB to its database.
    fn count_db(&mut self) {
        let counts = std::mem::take(&mut self.counts);
        let dbs = &mut self.info.dbs;
        if counts.keys > 0 && (dbs.len() < MOST_DBS || dbs.contains_key(&self.db)) {
            let db = dbs.entry(self.db).or_default();
            db.keys += counts.keys;
            db.expires += counts.expires;
            db.expired += counts.expired;
        }
    }

    fn cut(&mut self, record: usize, value_end: usize) {
        let mut part = Part {
            items: 0,
            last: false,
            ..Part::WHOLE
        };
        let mut from = record;
        let ends = self.cuts.drain(..).map(Some).chain([None]);
        for end in ends {
            let (to, items) = match end {
                Some(cut) => (cut.pos, cut.item - part.first_item),
                None => (value_end, u64::MAX),
            };
            part.items = items;
            part.last = end.is_none();
            self.queue.push_back(Task {
                db: self.db,
                bytes: to - from,
                span: Span::Part {
                    record,
                    value_end,
                    part,
                },
                templates: self.templates.clone(),
            });
            from = to;
            if let Some(cut) = end {
                part = Part {
                    pos: cut.pos,
                    first_item: cut.item,
                    first: false,
                    ..part
                };
            }
        }
    }

    fn aux(&mut self, name: super::Str<'_>, value: super::Str<'_>) -> Result<()> {
        // Names and values that anything is made of are short.
        if name.len() > 64 || value.len() > 1024 {
            return Ok(());
        }
        let (mut one, mut two) = (Scratch::new(1 << 16), Scratch::new(1 << 16));
        let (mut a, mut b) = (itoa::Buffer::new(), itoa::Buffer::new());
        let name = name.load(&mut one)?.as_bytes(&mut a).to_ascii_lowercase();
        let value = value.load(&mut two)?;
        let value = value.as_bytes(&mut b);
        match &name[..] {
            b"redis-ver" => self.info.server = Some(format!("Redis {}", value.escape_ascii())),
            b"valkey-ver" => self.info.server = Some(format!("Valkey {}", value.escape_ascii())),
            _ => {}
        }
        Ok(())
    }

    /// Behind the EOF opcode: the checksum, and whatever follows it.
    fn end(&mut self) -> Result<()> {
        self.update_crc();
        let c = &mut self.reader.c;
        if self.format.version >= 5 {
            let at = c.at();
            let stored = u64::from_le_bytes(c.array()?);
            self.info.has_checksum = stored != 0;
            if let Some(crc) = self.crc.take()
                && stored != 0
                && stored != crc.value()
            {
                return Err(Error::new(
                    ErrorKind::Checksum {
                        stored,
                        computed: crc.value(),
                    },
                    at,
                ));
            }
        }
        self.info.end = Some(c.pos() as u64);
        // Forty bytes of a replication transfer and the like are nobody's data; commands are.
        self.info.commands_follow = matches!(c.peek(), Some(b'*' | b'#'));
        self.info.trailing = c.remaining() as u64;
        Ok(())
    }
}

#[derive(Debug)]
struct Batch {
    from: usize,
    to: usize,
    db: u64,
}

/// Checks a whole file before anything is made of it: its checksum or, where it carries none, that it
/// can be walked from end to end. `stop` and `progress` are called between pieces.
pub fn check_whole(
    data: &[u8],
    lenient: bool,
    mut step: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let format = Format::parse(&mut Cursor::new(data, 0), lenient)?;
    // Most files end with their checksum. If it matches nothing else need be read; if not, the scan
    // finds out whether it is wrong or only something follows it.
    if format.version >= 5
        && let Some((body, stored)) = data.split_last_chunk::<8>()
        && *stored != [0; 8]
    {
        let mut crc = Crc64::new();
        for piece in body.chunks(1 << 20) {
            crc.update(piece);
            step(piece.len())?;
        }
        if crc.value() == u64::from_le_bytes(*stored) {
            return Ok(());
        }
    }
    let mut scanner = Scanner::new(data, Along::Check, false, lenient)?;
    while let Some(task) = scanner.next_task()? {
        step(task.bytes / 2)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_depend_on_the_file_alone() {
        let mut file = b"REDIS0004\x00\x01a\x01b\x01\x01l".to_vec();
        crate::encoding::length::write_length(&mut file, 40_000);
        for _ in 0..40_000 {
            file.extend_from_slice(&[60]);
            file.extend_from_slice(&[b'x'; 60]);
        }
        file.extend_from_slice(b"\x00\x01c\x01d\xff");
        let mut scanner = Scanner::new(&file, Along::Check, true, false).unwrap();
        let mut spans = Vec::new();
        let mut bytes = 0;
        while let Some(task) = scanner.next_task().unwrap() {
            bytes += task.bytes;
            spans.push(task.span);
        }
        assert_eq!(bytes, file.len() - 9);
        assert!(matches!(spans[0], Span::Records { from: 9, to: 14 }));
        let parts: Vec<Part> = spans
            .iter()
            .filter_map(|s| match s {
                Span::Part { part, .. } => Some(*part),
                Span::Records { .. } => None,
            })
            .collect();
        assert_eq!(parts.len(), 3);
        assert!(parts[0].first && !parts[0].last && parts[2].last && !parts[2].first);
        assert_eq!(parts[1].first_item, parts[0].items);
        assert_eq!(scanner.info.keys, 3);
    }

    #[test]
    fn what_stands_before_an_error_comes_first() {
        let file = b"REDIS0004\x00\x01a\x01b\x00\x01c\x05d";
        let mut scanner = Scanner::new(file, Along::Check, true, false).unwrap();
        let task = scanner.next_task().unwrap().unwrap();
        assert!(matches!(task.span, Span::Records { from: 9, to: 14 }));
        let error = scanner.next_task().unwrap_err();
        assert_eq!(error.key().unwrap().key, b"c");
        assert!(scanner.next_task().unwrap().is_none());
    }
}
