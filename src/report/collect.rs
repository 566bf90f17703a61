//! Goes through a snapshot and counts: each worker by itself, all together at the end.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use super::buckets::Buckets;
use super::largest::{Candidate, KEY_BYTES, Largest};
use super::measure::{Encoding, Measure, largest_element, measure};
use super::prefix::Prefixes;
use super::rows::Rows;
use super::{
    By, DbRow, EncodingRow, InputFacts, LargeKey, MemoryModel, Options, PrefixNode, Report,
    SlotBucket, SlotRow, Slots, Sums, Totals, TypeRow, exact, memory, shown,
};
use crate::command::keys::slot;
use crate::error::{Error, Result};
use crate::filter::Verdict;
use crate::input::Input;
use crate::pipeline::{self, Progress};
use crate::rdb::keys::{Keys, Met, Seen};
use crate::rdb::scan::Task;
use crate::rdb::{Format, key_name, type_name};
use crate::server::slots::SLOTS;
use crate::tally::Tally;
use crate::value::{Kind, Room, Templates};
use crate::walk::{self, Visitor, walk};

/// Types of [`Kind`]; modules have names of their own.
const KINDS: [Kind; 10] = [
    Kind::String,
    Kind::List,
    Kind::Set,
    Kind::Zset,
    Kind::Hash,
    Kind::Stream,
    Kind::Array,
    Kind::Module,
    Kind::Gcra,
    Kind::PathHash,
];

/// More names of modules than these are not told apart.
const MOST_MODULES: usize = 1000;

/// Everything that is counted, of one worker or of all.
#[derive(Debug)]
struct Tallies {
    totals: Totals,
    /// By type and encoding.
    forms: [[Sums; Encoding::ALL.len()]; KINDS.len()],
    /// By name, instead of "module".
    modules: HashMap<String, Sums>,
    dbs: BTreeMap<u64, (u64, Sums)>,
    /// The database of the last key; it goes to the others when another one comes.
    db: (u64, (u64, Sums)),
    prefixes: Prefixes,
    slots: Vec<Sums>,
    buckets: Buckets,
    largest: [Largest; 3],
    functions: u64,
}

/// What the largest keys are ranked by.
const RANKS: [fn(&Sums) -> u64; 3] = [|s| s.bytes, |s| s.memory, |s| s.elements];

impl Tallies {
    fn new(options: &Options, prefixes: usize) -> Tallies {
        Tallies {
            totals: Totals::default(),
            forms: Default::default(),
            modules: HashMap::new(),
            dbs: BTreeMap::new(),
            db: Default::default(),
            prefixes: Prefixes::new(
                &options.separators,
                options.prefix_depth,
                prefixes,
                options.by,
            ),
            slots: vec![Sums::default(); usize::from(SLOTS)],
            buckets: Buckets::default(),
            largest: std::array::from_fn(|_| Largest::new(options.top)),
            functions: 0,
        }
    }

    fn change_db(&mut self, db: u64) {
        let (last, (expiring, sums)) = std::mem::replace(&mut self.db, (db, Default::default()));
        if sums.keys > 0 {
            let into = self.dbs.entry(last).or_default();
            into.0 += expiring;
            into.1.add(&sums);
        }
    }

    fn merge(&mut self, mut other: Tallies) {
        other.change_db(0);
        let (into, from) = (&mut self.totals, &other.totals);
        into.sums.add(&from.sums);
        into.expiring += from.expiring;
        into.expired += from.expired;
        into.filtered += from.filtered;
        into.broken += from.broken;
        for (into, from) in self.forms.iter_mut().zip(&other.forms) {
            for (into, from) in into.iter_mut().zip(from) {
                into.add(from);
            }
        }
        for (name, sums) in other.modules {
            self.module(name, &sums);
        }
        for (db, (expiring, sums)) in other.dbs {
            let into = self.dbs.entry(db).or_default();
            into.0 += expiring;
            into.1.add(&sums);
        }
        self.prefixes.merge(&other.prefixes);
        for (into, from) in self.slots.iter_mut().zip(&other.slots) {
            into.add(from);
        }
        self.buckets.merge(&other.buckets);
        for (into, from) in self.largest.iter_mut().zip(other.largest) {
            into.merge(from);
        }
        self.functions += other.functions;
    }

    fn module(&mut self, name: String, sums: &Sums) {
        let known = self.modules.len() < MOST_MODULES || self.modules.contains_key(&name);
        let name = if known { name } else { "module".to_owned() };
        self.modules.entry(name).or_default().add(sums);
    }
}

/// A worker.
struct Worker<'a> {
    keys: Keys<'a>,
    options: &'a Options,
    room: Room,
    tallies: Tallies,
    /// The number of the input among all.
    input: usize,
    /// Whether a row is made of each key.
    rows: bool,
    format: Format,
}

/// What a task gives beside what its worker counts.
struct Found {
    rows: Vec<u8>,
    keys: u64,
    /// The first thing that cannot be read, where the rest can.
    broken: Option<Error>,
}

impl Visitor for Worker<'_> {
    type Found = Found;

    fn task(&mut self, task: &Task) -> Result<Found> {
        let Worker {
            keys,
            options,
            room,
            tallies,
            input,
            rows,
            format,
        } = self;
        let mut rows = rows.then(|| Rows::new(options.hide_keys));
        let mut found = Found {
            rows: Vec::new(),
            keys: 0,
            broken: None,
        };
        keys.for_each(task, &options.filter, |met| {
            match met {
                Met::Key(seen) => {
                    found.keys += 1;
                    let mut looking = Looking {
                        options,
                        room,
                        tallies,
                        templates: &task.templates,
                        input: *input,
                        format: *format,
                    };
                    if let Err(error) = looking.key(&seen, rows.as_mut()) {
                        found.broken.get_or_insert(error);
                    }
                }
                Met::Broken(error) => {
                    found.keys += 1;
                    tallies.totals.broken += 1;
                    found.broken.get_or_insert(error);
                }
                Met::BrokenAux(error) => drop(found.broken.get_or_insert(error)),
                Met::Function(_) => tallies.functions += 1,
                Met::Aux { .. } | Met::ModuleAux(_) => {}
            }
            Ok(())
        })?;
        if let Some(rows) = rows {
            found.rows = rows.end();
        }
        Ok(found)
    }
}

/// What is at hand for a key.
struct Looking<'w> {
    options: &'w Options,
    room: &'w mut Room,
    tallies: &'w mut Tallies,
    templates: &'w Templates,
    input: usize,
    format: Format,
}

impl Looking<'_> {
    /// Counts a key. Errors say what of its value cannot be read; it is counted all the same.
    fn key(&mut self, seen: &Seen<'_, '_>, rows: Option<&mut Rows>) -> Result<()> {
        match seen.verdict {
            Verdict::Pass => {}
            Verdict::Filtered | Verdict::Expired => {
                self.tallies.totals.filtered += 1;
                return Ok(());
            }
        }
        let (ty, value, end) = (seen.record.ty, seen.value, seen.end);
        let expiry = seen.record.attributes.expire_at_ms;
        let measured = measure(value, end, ty, self.templates, self.room);
        let unreadable = Measure {
            encoding: Encoding::Unreadable,
            elements: 0,
            memory: memory::OBJECT + memory::allocated(seen.value_bytes() as u64),
        };
        let found = *measured.as_ref().unwrap_or(&unreadable);
        let mut memory = found.memory + memory::sds(seen.name.len() as u64) + memory::DICT_ENTRY;
        if expiry.is_some() {
            // The name is shared with the table of keys.
            memory += memory::DICT_ENTRY;
        }
        let sums = Sums {
            keys: 1,
            bytes: seen.record_bytes() as u64,
            memory,
            elements: found.elements,
        };
        self.count(seen, found.encoding, &sums);
        let place = (self.input, seen.record.start);
        let takes: [bool; 3] =
            std::array::from_fn(|i| self.tallies.largest[i].takes(RANKS[i](&sums), place));
        let mut result = measured.map(drop);
        if rows.is_none() && takes == [false; 3] {
            return self.named(result, seen);
        }
        let largest_element = match result {
            Ok(()) => largest_element(value, end, ty, self.templates, self.room),
            Err(_) => Ok(0),
        };
        let most = *largest_element.as_ref().unwrap_or(&0);
        result = result.and(largest_element.map(drop));
        if let Some(rows) = rows {
            let type_name = type_name(ty, value);
            rows.add(seen, &type_name, found.encoding, &sums, most)?;
        }
        if takes != [false; 3] {
            let name = &seen.name[..seen.name.len().min(KEY_BYTES)];
            let candidate = Candidate {
                db: seen.db,
                key: name.to_vec(),
                cut: name.len() < seen.name.len(),
                type_name: type_name(ty, value),
                encoding: found.encoding.name(),
                bytes: sums.bytes,
                memory: sums.memory,
                elements: sums.elements,
                largest_element: most,
                expires_at_ms: expiry,
            };
            for i in (0..3).filter(|i| takes[*i]) {
                let rank = RANKS[i](&sums);
                self.tallies.largest[i].add(rank, place, candidate.clone());
            }
        }
        self.named(result, seen)
    }

    fn named(&mut self, result: Result<()>, seen: &Seen<'_, '_>) -> Result<()> {
        result.map_err(|error| {
            self.tallies.totals.broken += 1;
            error.in_key(|| {
                let type_name = type_name(seen.record.ty, seen.value);
                key_name(&seen.record, seen.db, type_name, self.format)
            })
        })
    }

    #[inline]
    fn count(&mut self, seen: &Seen<'_, '_>, encoding: Encoding, sums: &Sums) {
        let tallies = &mut *self.tallies;
        let attributes = &seen.record.attributes;
        let kind = seen.record.ty.kind();
        tallies.totals.sums.add(sums);
        match kind {
            Kind::Module => tallies.module(type_name(seen.record.ty, seen.value), sums),
            _ => tallies.forms[kind as usize][encoding as usize].add(sums),
        }
        let expires = u64::from(attributes.expire_at_ms.is_some());
        let now_ms = self.options.filter.now_ms;
        let expired = tallies
            .buckets
            .expiry(attributes.expire_at_ms, now_ms, sums);
        tallies.totals.expiring += expires;
        tallies.totals.expired += u64::from(expired);
        if tallies.db.0 != seen.db {
            tallies.change_db(seen.db);
        }
        tallies.db.1.0 += expires;
        tallies.db.1.1.add(sums);
        tallies.prefixes.add(seen.name, sums);
        tallies.slots[usize::from(slot(seen.name))].add(sums);
        tallies.buckets.size(seen.value_bytes() as u64, sums);
        if let Some(secs) = attributes.idle_secs {
            tallies.buckets.idle(secs, sums);
        }
        if let Some(counter) = attributes.freq {
            tallies.buckets.freq(counter, sums);
        }
    }
}

/// Counts what is in snapshots, one after the other.
#[derive(Debug)]
pub struct Collection<'a> {
    options: &'a Options,
    inputs: Vec<InputFacts>,
    file_bytes: u64,
    all: Tallies,
}

impl<'a> Collection<'a> {
    /// Of nothing yet.
    pub fn new(options: &'a Options) -> Collection<'a> {
        Collection {
            options,
            inputs: Vec::new(),
            file_bytes: 0,
            all: Tallies::new(options, options.most_prefixes),
        }
    }

    /// Goes through a snapshot. What stands before damage is counted; the damage is the error that is given back, and is
    /// told in the report too. Keys that are counted are "written" in the tally. Where `rows` is given it gets records of CSV, some at a time, in order of the file.
    pub fn read(
        &mut self,
        input: &Input,
        how: &walk::Options,
        progress: &Progress,
        mut rows: Option<&mut (dyn FnMut(Vec<u8>) -> Result<()> + Send)>,
    ) -> pipeline::Report {
        let options = self.options;
        // Each worker has its share of the prefixes; fewer would tell too little of what it has seen.
        let prefixes =
            (options.most_prefixes / how.threads.max(1)).max(options.most_prefixes.min(4096));
        let number = self.inputs.len();
        let wants_rows = rows.is_some();
        let mut broken = None;
        let walked = walk(
            input,
            how,
            progress,
            |format| {
                Ok(Worker {
                    keys: Keys::new(&input.data, format, options.unpack_limit),
                    options,
                    room: Room::new(options.unpack_limit),
                    tallies: Tallies::new(options, prefixes),
                    input: number,
                    rows: wants_rows,
                    format,
                })
            },
            |found: Found| {
                progress.keys.fetch_add(found.keys, Ordering::Relaxed);
                if broken.is_none() {
                    broken = found.broken;
                }
                match &mut rows {
                    Some(rows) => rows(found.rows),
                    None => Ok(()),
                }
            },
        );
        let before = self.all.totals;
        for worker in walked.visitors {
            self.all.merge(worker.tallies);
        }
        // What cannot be gone on from says more than a value that was passed over.
        let error = walked.error.or(broken);
        let magic = walked.format.map_or(String::new(), |format| format.magic());
        let info = walked.info;
        self.file_bytes += input.file_bytes;
        self.inputs.push(InputFacts {
            name: input.name.clone(),
            bytes: input.file_bytes,
            magic: magic.clone(),
            server: info.server.clone(),
            keys: info.keys,
            trailing_bytes: match info.commands_follow {
                true => 0,
                false => info.trailing,
            },
            has_log: info.commands_follow,
            log_commands: 0,
            damage: error
                .as_ref()
                .map(|error| error.describe(options.hide_keys)),
        });
        let filtered = self.all.totals.filtered - before.filtered;
        let rejected = self.all.totals.broken - before.broken;
        pipeline::Report {
            tally: Tally {
                read: info.keys,
                written: info.keys.saturating_sub(filtered + rejected),
                filtered,
                rejected,
                ..Tally::default()
            },
            info,
            magic,
            error,
        }
    }

    /// Notes how many commands stand behind the snapshot that was read last.
    pub fn note_commands(&mut self, commands: u64) {
        if let Some(input) = self.inputs.last_mut() {
            input.log_commands = commands;
        }
    }

    /// Notes an input that holds commands and no snapshot.
    pub fn note_log(&mut self, name: &str, bytes: u64, commands: u64) {
        self.file_bytes += bytes;
        self.inputs.push(InputFacts {
            name: name.to_owned(),
            bytes,
            magic: String::new(),
            server: None,
            keys: 0,
            trailing_bytes: 0,
            has_log: true,
            log_commands: commands,
            damage: None,
        });
    }

    /// The last input was a data set that was made of a log; `torn`: whose end was left out.
    pub fn is_of_a_log(&mut self, torn: bool) {
        if let Some(input) = self.inputs.last_mut() {
            input.has_log = true;
            if torn {
                let text = "the log ends within a command or a transaction, which is left out";
                input.damage.get_or_insert(text.to_owned());
            }
        }
    }

    /// All that was found.
    pub fn report(self, created: String) -> Report {
        let Collection {
            options,
            inputs,
            file_bytes,
            all,
        } = self;
        let by = options.by;
        let (types, encodings) = forms(&all, by);
        let dbs: Vec<DbRow> = all
            .dbs
            .iter()
            .map(|(db, (expiring, sums))| DbRow {
                db: *db,
                expiring: *expiring,
                sums: *sums,
            })
            .collect();
        let tables = dbs
            .iter()
            .map(|db| memory::buckets(db.sums.keys) + memory::buckets(db.expiring))
            .sum();
        let [by_bytes, by_memory, by_elements] = all.largest.map(|largest| {
            largest
                .into_sorted()
                .map(|key| large_key(key, options.hide_keys))
                .collect()
        });
        Report {
            schema: 1,
            generator: concat!("redis-migration ", env!("CARGO_PKG_VERSION")).to_owned(),
            created,
            inputs,
            memory_model: MemoryModel::of_7_0(),
            totals: Totals {
                file_bytes,
                tables,
                ..all.totals
            },
            types,
            encodings,
            dbs,
            slots: slots(&all.slots, by),
            expiry: all.buckets.expiries(options.filter.now_ms),
            idle: all.buckets.idles(),
            freq: all.buckets.freqs(),
            sizes: all.buckets.sizes(),
            largest_by_bytes: by_bytes,
            largest_by_memory: by_memory,
            largest_by_elements: by_elements,
            functions: all.functions,
            prefixes: super::Prefixes {
                separator: String::from_utf8_lossy(&options.separators).into_owned(),
                approximate: all.prefixes.lost_keys > 0,
                lost_error: all.prefixes.lost_keys,
                lost_bytes: all.prefixes.lost_bytes,
                root: tree(all.prefixes, options),
            },
        }
    }
}

fn tree(prefixes: Prefixes, options: &Options) -> PrefixNode {
    prefixes.tree(options.shown_prefixes, options.hide_keys)
}

/// Rows by type, and by type and encoding; modules by their own names.
fn forms(all: &Tallies, by: By) -> (Vec<TypeRow>, Vec<EncodingRow>) {
    let mut types = Vec::new();
    let mut encodings = Vec::new();
    let mut row = |type_name: &str, encoding: Encoding, sums: &Sums| {
        encodings.push(EncodingRow {
            type_name: type_name.to_owned(),
            encoding: encoding.name().to_owned(),
            sums: *sums,
        });
    };
    for (kind, forms) in KINDS.into_iter().zip(&all.forms) {
        let mut sums = Sums::default();
        for (encoding, form) in Encoding::ALL.into_iter().zip(forms) {
            if form.keys > 0 {
                row(kind.name(), encoding, form);
                sums.add(form);
            }
        }
        if sums.keys > 0 {
            types.push(TypeRow {
                type_name: kind.name().to_owned(),
                sums,
            });
        }
    }
    for (name, sums) in &all.modules {
        row(name, Encoding::Raw, sums);
        types.push(TypeRow {
            type_name: name.clone(),
            sums: *sums,
        });
    }
    types.sort_by(|a, b| {
        let order = by.of(&b.sums).cmp(&by.of(&a.sums));
        order.then_with(|| a.type_name.cmp(&b.type_name))
    });
    encodings.sort_by(|a, b| {
        let name = |row: &EncodingRow| (row.type_name.clone(), row.encoding.clone());
        let order = by.of(&b.sums).cmp(&by.of(&a.sums));
        order.then_with(|| name(a).cmp(&name(b)))
    });
    (types, encodings)
}

fn slots(counts: &[Sums], by: By) -> Slots {
    /// Slots of each range, and how many single ones are named.
    const RANGE: usize = 256;
    const NAMED: usize = 20;
    let mut largest: Vec<SlotRow> = (0u16..)
        .zip(counts)
        .filter(|(_, sums)| sums.keys > 0)
        .map(|(slot, sums)| SlotRow { slot, sums: *sums })
        .collect();
    let used = largest.len() as u64;
    // Stable: of equals the lower slot comes first.
    largest.sort_by_key(|row| std::cmp::Reverse(by.of(&row.sums)));
    largest.truncate(NAMED);
    let buckets = (0u16..).step_by(RANGE).zip(counts.chunks(RANGE));
    Slots {
        used,
        most: largest.first().cloned(),
        buckets: buckets
            .map(|(from, chunk)| {
                let mut sums = Sums::default();
                for slot in chunk {
                    sums.add(slot);
                }
                SlotBucket {
                    from,
                    to: from + (RANGE - 1) as u16,
                    sums,
                }
            })
            .collect(),
        largest,
    }
}

fn large_key(key: Candidate, hide_keys: bool) -> LargeKey {
    let mut text = shown(&key.key, hide_keys);
    if key.cut && !hide_keys {
        text.push('…');
    }
    LargeKey {
        db: key.db,
        key_base64: match hide_keys {
            true => None,
            false => exact(&key.key, &text),
        },
        key: text,
        type_name: key.type_name,
        encoding: key.encoding.to_owned(),
        bytes: key.bytes,
        memory: key.memory,
        elements: key.elements,
        largest_element: key.largest_element,
        expires_at_ms: key.expires_at_ms,
    }
}
