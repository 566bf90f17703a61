//! A snapshot: its lengths and its checksum at the speed of the scan, and its values to the last byte where that is not
//! enough.

use std::sync::atomic::Ordering;

use super::wording::Doing;
use super::{Fault, Options};
use crate::cursor::Cursor;
use crate::encoding::string::{Scratch, Str};
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Filter;
use crate::input::Input;
use crate::pipeline::{Checksum as When, Progress};
use crate::rdb::keys::{Keys, Met, Seen};
use crate::rdb::scan::{Along, FileInfo, Scanner, Task};
use crate::rdb::{Format, Function, Reader, Record, key_name, plain_text, type_name};
use crate::value::check::{Seen as Elements, check as check_value};
use crate::value::{Kind, Room, Templates, TypeByte, module};
use crate::walk::{self, Visitor};

/// What was found out about a snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// Magic and version, where they could be read.
    pub format: Option<Format>,
    /// What the file says of itself, and what its databases hold, as far as its lengths could be followed.
    pub info: FileInfo,
    /// AUX fields that stand before the first key, without the bodies of scripts.
    pub aux: Vec<Aux>,
    /// Bodies of scripts among them.
    pub scripts: u64,
    /// Its checksum.
    pub checksum: Checksum,
    /// Whether every value was walked to its last byte.
    pub deep: bool,
    /// What is broken, in order of the file; at most as many as were asked for.
    pub faults: Vec<Fault>,
    /// What is broken beside these.
    pub more_faults: u64,
    /// Bytes of the file, unpacked; commands may follow the snapshot.
    pub bytes: u64,
}

/// Name and value of an AUX field.
pub type Aux = (Vec<u8>, Vec<u8>);

/// What the checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// The version has none (RDB 4 and before).
    BeforeItsTime,
    /// The file was saved without one.
    None,
    /// It was not held against the file.
    Unasked,
    /// It matches.
    Matches(u64),
    /// It does not.
    Mismatch {
        /// As it stands in the file.
        stored: u64,
        /// As it should be.
        computed: u64,
    },
    /// It was not reached: the file cannot be followed so far.
    NotReached,
}

impl Snapshot {
    /// Whether nothing is broken.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.more_faults == 0
    }
}

/// Checks a snapshot. Errors: what has nothing to do with the file's contents; what is broken is in what is returned.
pub fn check(input: &Input, options: &Options, progress: &Progress) -> Result<Snapshot> {
    let data: &[u8] = &input.data;
    let mut snapshot = Snapshot {
        format: None,
        info: FileInfo::default(),
        aux: Vec::new(),
        scripts: 0,
        checksum: Checksum::NotReached,
        deep: false,
        faults: Vec::new(),
        more_faults: 0,
        bytes: data.len() as u64,
    };
    match Format::parse(&mut Cursor::new(data, 0), false) {
        Ok(format) => snapshot.format = Some(format),
        Err(error) => {
            snapshot.faults.push(broken(error)?);
            return Ok(snapshot);
        }
    }
    (snapshot.aux, snapshot.scripts) = aux_of(data);
    let broke = scan(data, options, progress, &mut snapshot)?;
    if input.changed() {
        return Err(Error::plain(ErrorKind::Changed));
    }
    let vouched = matches!(snapshot.checksum, Checksum::Matches(_));
    if options.deep || !vouched {
        look_deep(input, options, progress, &mut snapshot)?;
        snapshot.deep = true;
    }
    // What the scan broke at stands behind all that the deep walk found, for that ends there too.
    snapshot.faults.extend(broke);
    Ok(snapshot)
}

/// Walks the file by its lengths, with its checksum. Gives what it broke at.
fn scan(
    data: &[u8],
    options: &Options,
    progress: &Progress,
    snapshot: &mut Snapshot,
) -> Result<Option<Fault>> {
    let along = match options.checksum {
        true => Along::Check,
        false => Along::Off,
    };
    progress
        .total
        .fetch_add(data.len() as u64, Ordering::Relaxed);
    let mut scanner = Scanner::new(data, along, false, false)?;
    scanner.now_ms = options.now_ms;
    let error = loop {
        progress.check_stop()?;
        match scanner.next_task() {
            Ok(Some(task)) => {
                progress
                    .done
                    .fetch_add(task.bytes as u64, Ordering::Relaxed);
            }
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    snapshot.info = scanner.info.clone();
    let info = &mut snapshot.info;
    let fault = error.map(broken).transpose()?;
    snapshot.checksum = match (&fault, info.end) {
        (None, _) if scanner.format().version < 5 => Checksum::BeforeItsTime,
        (None, _) if !info.has_checksum => Checksum::None,
        (None, _) if !options.checksum => Checksum::Unasked,
        (None, Some(end)) => {
            // The scan has read it, so it stands there.
            let stored = data[..end as usize].last_chunk::<8>();
            Checksum::Matches(stored.map_or(0, |bytes| u64::from_le_bytes(*bytes)))
        }
        (None, None) => Checksum::NotReached,
        (Some(fault), _) => match *fault.error.kind() {
            ErrorKind::Checksum { stored, computed } => {
                // The scan stops there, and the file goes on behind it.
                let end = fault.error.at().map_or(0, |at| at.offset) + 8;
                info.end = Some(end);
                info.trailing = snapshot.bytes - end;
                info.commands_follow = matches!(data.get(end as usize), Some(b'*' | b'#'));
                Checksum::Mismatch { stored, computed }
            }
            _ => Checksum::NotReached,
        },
    };
    Ok(fault)
}

/// A fault, unless the error has nothing to do with the file's contents.
fn broken(error: Error) -> Result<Fault> {
    match error.kind() {
        ErrorKind::Stopped | ErrorKind::Io { .. } | ErrorKind::Changed => Err(error),
        _ => Ok(Fault {
            doing: Doing::of(&error),
            type_byte: None,
            error,
        }),
    }
}

/// The AUX fields that stand before the first key, and the number of scripts among them. What is broken is left to the
/// scan.
fn aux_of(data: &[u8]) -> (Vec<Aux>, u64) {
    /// No server writes more; a list of them is for people.
    const MOST: usize = 64;
    let (mut aux, mut scripts) = (Vec::new(), 0);
    let mut c = Cursor::new(data, 0);
    let Ok(format) = Format::parse(&mut c, false) else {
        return (aux, scripts);
    };
    let mut reader = Reader::new(Cursor::new(data, 0), format, c.pos());
    while let Ok(Record::Aux { name, value }) = reader.next() {
        match plain_text(name) {
            name if name == b"lua" => scripts += 1,
            name if aux.len() < MOST => aux.push((name, plain_text(value))),
            _ => {}
        }
    }
    (aux, scripts)
}

fn look_deep(
    input: &Input,
    options: &Options,
    progress: &Progress,
    snapshot: &mut Snapshot,
) -> Result<()> {
    let walking = walk::Options {
        threads: options.threads,
        checksum: When::Off,
        lenient: false,
        cut_keys: false,
    };
    let Snapshot {
        faults,
        more_faults,
        ..
    } = snapshot;
    let walked = walk::walk(
        input,
        &walking,
        progress,
        |format| Ok(Deep::new(&input.data, format, options)),
        |(found, more)| {
            *more_faults += more;
            for fault in found {
                match faults.len() < options.most {
                    true => faults.push(fault),
                    false => *more_faults += 1,
                }
            }
            Ok(())
        },
    );
    match walked.error {
        // What is broken the scan has found too.
        Some(error) => broken(error).map(drop),
        None => Ok(()),
    }
}

/// Bytes of a string that is unpacked in memory; larger ones go through a temporary file.
const UNPACK_LIMIT: usize = 8 << 20;

/// Walks the values of tasks to their last byte.
struct Deep<'a> {
    keys: Keys<'a>,
    values: Values,
    most: usize,
}

impl<'a> Deep<'a> {
    fn new(data: &'a [u8], format: Format, options: &Options) -> Deep<'a> {
        Deep {
            keys: Keys::new(data, format, UNPACK_LIMIT),
            values: Values::new(format),
            most: options.most,
        }
    }
}

impl Visitor for Deep<'_> {
    /// What is broken, and how much is beside that.
    type Found = (Vec<Fault>, u64);

    fn task(&mut self, task: &Task) -> Result<(Vec<Fault>, u64)> {
        let Deep { keys, values, most } = self;
        let (mut faults, mut more) = (Vec::new(), 0);
        let format = keys.format();
        let mut note = |error: Error, type_byte, doing| -> Result<()> {
            let fault = broken(error)?;
            match faults.len() < *most {
                true => faults.push(Fault {
                    type_byte,
                    doing,
                    ..fault
                }),
                false => more += 1,
            }
            Ok(())
        };
        keys.for_each(task, &Filter::default(), |met| match met {
            Met::Key(seen) => match values.check(&seen, &task.templates) {
                Ok(()) => Ok(()),
                Err(error) => {
                    let Seen {
                        db, record, value, ..
                    } = seen;
                    let error =
                        error.in_key(|| key_name(&record, db, type_name(record.ty, value), format));
                    note(error, Some(record.ty.byte()), Doing::ReadObjectValue)
                }
            },
            Met::Broken(error) | Met::BrokenAux(error) => note(error, None, Doing::ReadKey),
            Met::Function(function) => match values.check_function(function) {
                Ok(()) => Ok(()),
                Err(error) => note(error, None, Doing::ReadFunctions),
            },
            Met::Aux { name, value } => match values.check_strings(&[name, value]) {
                Ok(()) => Ok(()),
                Err(error) => note(error, None, Doing::ReadAux),
            },
            Met::ModuleAux(_) => Ok(()),
        })?;
        Ok((faults, more))
    }
}

/// What a walk over values needs from one to the next.
#[derive(Debug)]
pub struct Values {
    version: u16,
    room: Room,
    elements: Elements,
    text: Scratch,
}

impl Values {
    /// Of a file of this format.
    pub fn new(format: Format) -> Values {
        Values {
            version: format.version,
            room: Room::new(UNPACK_LIMIT),
            elements: Elements::default(),
            text: Scratch::new(UNPACK_LIMIT),
        }
    }

    /// Walks a key's value to its last byte.
    pub fn check(&mut self, seen: &Seen<'_, '_>, templates: &Templates) -> Result<()> {
        if let Some((from, _)) = seen.record.attributes.meta {
            let mut c = seen.value;
            c.seek(from + 1);
            module::check_key_meta(&mut c, &mut self.text)?;
        }
        self.check_value(seen.value, seen.record.ty, seen.end, templates)
    }

    /// Walks the value at `c`, which ends at `end`, to its last byte.
    pub fn check_value(
        &mut self,
        mut c: Cursor<'_>,
        ty: TypeByte,
        end: usize,
        templates: &Templates,
    ) -> Result<()> {
        let start = c;
        let since = ty.restore_version();
        // RESTORE tells nothing of versions before 6. Valkey's numbers go on from 80, and up to 11 they are Redis's.
        if since > 6 && since > self.version {
            return Err(start.error(ErrorKind::TypeSince {
                byte: ty.byte(),
                since,
                version: self.version,
            }));
        }
        let found = check_value(&mut c, ty, templates, &mut self.room, &mut self.elements)?;
        debug_assert_eq!(c.pos(), end);
        if found.elements == 0 && ty.kind() != Kind::Stream {
            return Err(start.error(ErrorKind::Empty));
        }
        Ok(())
    }

    /// Unpacks a library's source.
    pub fn check_function(&mut self, function: Function<'_>) -> Result<()> {
        match function {
            Function::Library(code) => self.check_strings(&[code]),
            Function::PreGa { name, engine, code } => self.check_strings(&[name, engine, code]),
        }
    }

    /// Unpacks strings.
    pub fn check_strings(&mut self, strings: &[Str<'_>]) -> Result<()> {
        for string in strings {
            string.load(&mut self.text)?;
        }
        Ok(())
    }
}
