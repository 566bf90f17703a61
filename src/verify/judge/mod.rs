//! What a worker does: batches of keys are read in few round trips and held against the file. Whatever differs is read
//! again after a pause, and told only if it differs then too.

mod answers;
mod values;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::clock::Expiry;
use super::items::{Fields, Items, Manner, Rows, lists};
use super::pieces::{Can, Pieces};
use super::reach::{Asks, Reach};
use super::stream::{self, Stream};
use super::{
    Counts, Difference, Kind, Mode, Verifier, digest, payload, sample, show_string, vectors,
};
use crate::command::target::{Dialect, Feature, Target};
use crate::cursor::Cursor;
use crate::encoding::string::Scratch;
use crate::encoding::string::string;
use crate::error::{Error, ErrorKind, Result};
use crate::filter::Verdict as Chosen;
use crate::rdb::keys::{Keys, Met, Seen};
use crate::rdb::scan::Task;
use crate::rdb::{Format, Key, key_name, type_name};
use crate::server::preflight::now_ms;
use crate::server::reply::Reply;
use crate::value::{Kind as Type, Room, Templates, TypeByte, module};
use crate::walk::Visitor;

/// Keys of one batch, and bytes of their values.
const BATCH_KEYS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// Strings of one MGET.
const GATHER: usize = 32;
/// Keys that wait for their second reading, and bytes of their names.
const MOST_SUSPECTS: usize = 1 << 16;
const MOST_SUSPECT_BYTES: usize = 16 << 20;

/// Reads tasks, and gives their keys to a judge.
pub(super) struct Worker<'v, 'a> {
    keys: Keys<'a>,
    judge: Judge<'v, 'a>,
}

impl<'v, 'a> Worker<'v, 'a> {
    pub(super) fn new(
        data: &'a [u8],
        format: Format,
        unpack_limit: usize,
        judge: Judge<'v, 'a>,
    ) -> Self {
        Worker {
            keys: Keys::new(data, format, unpack_limit),
            judge,
        }
    }

    pub(super) fn judge(self) -> Judge<'v, 'a> {
        self.judge
    }
}

impl Visitor for Worker<'_, '_> {
    type Found = Vec<Difference>;

    fn task(&mut self, task: &Task) -> Result<Vec<Difference>> {
        let Worker { keys, judge } = self;
        judge.templates = task.templates.clone();
        judge.format = Some(keys.format());
        let filter = &judge.v.options.filter;
        keys.for_each(task, filter, |met| match met {
            Met::Key(seen) => judge.key(&seen),
            Met::Broken(error) | Met::BrokenAux(error) => Err(error),
            Met::Function(function) if judge.v.options.functions => {
                let mut libraries = judge.v.libraries.lock();
                let libraries = libraries.as_mut();
                libraries
                    .expect("nothing panics while it holds them")
                    .take(&function, &mut Scratch::new(1 << 20))
            }
            Met::Function(_) | Met::Aux { .. } | Met::ModuleAux(_) => Ok(()),
        })?;
        judge.flush()?;
        judge.read_again(false)?;
        Ok(judge.take_found())
    }
}

/// A key of the file.
#[derive(Debug, Clone, Copy)]
struct One<'a> {
    /// Database at the destination, and in the file.
    db: u64,
    db_in_file: u64,
    /// Where its name stands in the names of its batch.
    name: (usize, usize),
    record: Key<'a>,
    value: Cursor<'a>,
    value_bytes: usize,
    expire_at_ms: Option<i64>,
}

/// Keys that are looked at together.
#[derive(Debug, Default)]
struct Batch<'a> {
    keys: Vec<One<'a>>,
    names: Vec<u8>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn push(&mut self, one: One<'a>, name: &[u8]) {
        let from = self.names.len();
        self.names.extend_from_slice(name);
        self.bytes += one.value_bytes;
        self.keys.push(One {
            name: (from, self.names.len()),
            ..one
        });
    }

    fn name(&self, n: usize) -> &[u8] {
        let (from, to) = self.keys[n].name;
        &self.names[from..to]
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.names.clear();
        self.bytes = 0;
    }
}

/// What a reading says of a key.
enum Verdict {
    Equal,
    /// Its time has passed, and it is gone.
    Expired,
    /// It has no element, and is not there.
    Empty,
    Different(Vec<(Kind, String, String)>),
}

/// Compares keys, and keeps what lasts from one batch to the next.
pub(super) struct Judge<'v, 'a> {
    v: &'v Verifier<'v>,
    reach: Reach<'v>,
    templates: Arc<Templates>,
    format: Option<Format>,
    room: Room,
    there: Room,
    one: Items,
    two: Items,
    renamed: Vec<u8>,
    asks: Asks,
    batch: Batch<'a>,
    /// Keys that differed, the youngest of which was read at this time.
    suspects: Batch<'a>,
    last_suspect: Instant,
    /// Those before them, that are read again when their pause is over.
    resting: Batch<'a>,
    rest_until: Option<Instant>,
    /// Whether keys are being read for the second time: what is told of them shall be as exact as it can be.
    is_again: bool,
    counts: Counts,
    found: Vec<Difference>,
    can: Can,
    manner: stream::Manner,
}

impl<'v, 'a> Judge<'v, 'a> {
    pub(super) fn new(v: &'v Verifier<'v>, reach: Reach<'v>, unpack_limit: usize) -> Self {
        let destination = &v.options.destination;
        let known = destination.version.is_some();
        let target = Target {
            dialect: destination.dialect,
            version: destination.version,
            ..Target::default()
        };
        let proxy = destination.dialect == Dialect::Twemproxy;
        Judge {
            v,
            reach,
            templates: Arc::default(),
            format: None,
            room: Room::new(unpack_limit),
            there: Room::new(unpack_limit),
            one: Items::default(),
            two: Items::default(),
            renamed: Vec::new(),
            asks: Asks::default(),
            batch: Batch::default(),
            suspects: Batch::default(),
            last_suspect: Instant::now(),
            resting: Batch::default(),
            rest_until: None,
            is_again: false,
            counts: Counts::default(),
            found: Vec::new(),
            can: Can {
                // Both came with the same version.
                many: known && target.has(Feature::CreateConsumer),
                field_expiry: known
                    && target.has(Feature::FieldExpiry)
                    && (!proxy || destination.can_eval),
                by_script: proxy,
                blind: !known || (proxy && !destination.can_eval),
            },
            manner: stream::Manner {
                keeps_idle_consumers: known && target.has(Feature::CreateConsumer),
            },
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            bytes: self.reach.bytes,
            ..self.counts
        }
    }

    pub(super) fn take_found(&mut self) -> Vec<Difference> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn has_suspects(&self) -> bool {
        !(self.suspects.keys.is_empty() && self.resting.keys.is_empty())
    }

    /// Takes a key into the batch, if it is to be compared.
    fn key(&mut self, seen: &Seen<'a, '_>) -> Result<()> {
        let options = &self.v.options;
        self.counts.read += 1;
        self.v.progress.keys.fetch_add(1, Ordering::Relaxed);
        match seen.verdict {
            Chosen::Pass => {}
            Chosen::Filtered => {
                self.counts.filtered += 1;
                return Ok(());
            }
            Chosen::Expired => {
                self.counts.expired += 1;
                return Ok(());
            }
        }
        let db = options.transform.db(seen.db);
        if options.destination.dialect.single_db() && db != 0 {
            // Another key of that name may stand in database 0, and would be taken for this one.
            return Err(Error::unfit(format!(
                "the file holds keys of database {}, and the destination has database 0 only; choose one with --db N, and \
                 say with --db-map N=0 where it went",
                seen.db
            )));
        }
        if let (Some(up_to), Mode::Sample { seed, .. }) = (self.v.sample_up_to, options.mode)
            && sample::hash(seed, seen.db, seen.name) > up_to
        {
            self.counts.not_compared.not_sampled += 1;
            return Ok(());
        }
        let name = if options.transform.renames() {
            options.transform.rename(seen.name, &mut self.renamed);
            &self.renamed[..]
        } else {
            seen.name
        };
        let destination = &options.destination;
        if destination.dialect == Dialect::Twemproxy
            && name.len()
                > destination
                    .key_limit
                    .unwrap_or(crate::command::target::TWEMPROXY_KEY_BYTES)
        {
            self.counts.not_compared.too_long += 1;
            return Ok(());
        }
        let one = One {
            db,
            db_in_file: seen.db,
            name: (0, 0),
            record: seen.record,
            value: seen.value,
            value_bytes: seen.value_bytes(),
            expire_at_ms: options
                .transform
                .true_expiry(seen.record.attributes.expire_at_ms),
        };
        if let Some(at) = one.expire_at_ms
            && at < self.v.soonest_ms.load(Ordering::Relaxed)
        {
            self.v.soonest_ms.fetch_min(at, Ordering::Relaxed);
        }
        self.batch.push(one, name);
        if self.batch.keys.len() >= BATCH_KEYS || self.batch.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Reads the batch for the first time.
    fn flush(&mut self) -> Result<()> {
        if self.batch.keys.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(&mut self.batch);
        self.reach
            .wait_for_turn(batch.keys.len() as u64, batch.bytes as u64)?;
        let verdicts = self.read(&batch, 1)?;
        for (n, verdict) in verdicts.into_iter().enumerate() {
            match verdict {
                Verdict::Different(_) => {
                    self.last_suspect = Instant::now();
                    self.suspects.push(batch.keys[n], batch.name(n));
                }
                verdict => self.settle(&batch, n, verdict),
            }
        }
        self.batch = batch;
        self.batch.clear();
        self.read_again(false)
    }

    /// Reads suspects again whose pause is over; with `wait`, all of them. Where there are too many it waits too.
    pub(super) fn read_again(&mut self, wait: bool) -> Result<()> {
        let pause = self.v.options.reread_after;
        loop {
            let most = self.v.options.most;
            let young = &self.suspects;
            let full = young.keys.len() >= MOST_SUSPECTS
                || young.names.len() >= MOST_SUSPECT_BYTES
                || (most > 0 && young.keys.len() as u64 >= most.max(BATCH_KEYS as u64));
            if self.resting.keys.is_empty() {
                if young.keys.is_empty() {
                    return Ok(());
                }
                // From now on they rest, and others are gathered.
                std::mem::swap(&mut self.suspects, &mut self.resting);
            }
            let due = self.last_suspect + pause;
            let due = self.rest_until.get_or_insert(due);
            match due.checked_duration_since(Instant::now()) {
                None => self.read_resting()?,
                Some(left) if wait || full => {
                    self.reach.check_stop()?;
                    std::thread::sleep(left.min(Duration::from_millis(50)));
                }
                Some(_) => return Ok(()),
            }
        }
    }

    fn read_resting(&mut self) -> Result<()> {
        let suspects = std::mem::take(&mut self.resting);
        self.rest_until = None;
        let mut some = Batch::default();
        for n in 0..suspects.keys.len() {
            some.push(suspects.keys[n], suspects.name(n));
            let last = n + 1 == suspects.keys.len();
            if last || some.keys.len() >= BATCH_KEYS || some.bytes >= BATCH_BYTES {
                self.reach.check_stop()?;
                self.is_again = true;
                let verdicts = self.read(&some, self.v.options.most_per_key)?;
                self.is_again = false;
                for (n, verdict) in verdicts.into_iter().enumerate() {
                    self.counts.read_again += 1;
                    self.counts.denied += u64::from(matches!(verdict, Verdict::Equal));
                    self.settle(&some, n, verdict);
                }
                some.clear();
                if self.v.has_enough() {
                    return Err(Error::plain(ErrorKind::Stopped));
                }
            }
        }
        Ok(())
    }

    /// Counts a key about which all is known.
    fn settle(&mut self, batch: &Batch<'a>, n: usize, verdict: Verdict) {
        let counts = &mut self.counts;
        match verdict {
            Verdict::Equal => {
                counts.equal += 1;
                counts.present += 1;
            }
            Verdict::Expired => counts.expired_meanwhile += 1,
            Verdict::Empty => counts.not_compared.empty += 1,
            Verdict::Different(rows) => {
                counts.different += 1;
                let missing = rows.iter().any(|(kind, _, _)| *kind == Kind::Missing);
                counts.present += u64::from(!missing);
                self.v.different.fetch_add(1, Ordering::Relaxed);
                let (db, key) = (batch.keys[n].db, batch.name(n));
                for (kind, expected, found) in rows {
                    self.found.push(Difference {
                        db,
                        key: key.to_vec(),
                        kind,
                        expected,
                        found,
                    });
                }
            }
        }
    }

    /// Adds the key to an error about its value in the file.
    fn named(&self, one: &One<'_>) -> impl Fn(Error) -> Error + use<'a, 'v> {
        let name = self.format.map(|format| {
            let type_name = type_name(one.record.ty, one.value);
            key_name(&one.record, one.db_in_file, type_name, format)
        });
        move |error| match &name {
            Some(name) if error.key().is_none() => error.in_key(|| name.clone()),
            _ => error,
        }
    }

    /// Reads all keys of a batch and says what is with each.
    fn read(&mut self, batch: &Batch<'a>, most: usize) -> Result<Vec<Verdict>> {
        let mut verdicts: Vec<Option<Verdict>> = batch.keys.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..batch.keys.len()).collect();
        if self.v.options.mode == Mode::Digest {
            self.digests(batch, &mut verdicts, &mut open)?;
        }
        self.values(batch, &open, most, &mut verdicts)?;
        Ok(verdicts
            .into_iter()
            .map(|verdict| verdict.expect("every key was read"))
            .collect())
    }

    /// Takes those keys from what is open whose digests are the same.
    fn digests(
        &mut self,
        batch: &Batch<'a>,
        verdicts: &mut [Option<Verdict>],
        open: &mut Vec<usize>,
    ) -> Result<()> {
        let options = &self.v.options;
        let mut asks = std::mem::take(&mut self.asks);
        asks.clear();
        let mut asked = Vec::new();
        for &n in open.iter() {
            let one = &batch.keys[n];
            let sizes = options.digest_from..=options.big_key;
            if digest::has(one.record.ty) && sizes.contains(&one.value_bytes) {
                let name = batch.name(n);
                let at = digest::ask(&mut asks, one.db, name, self.can.field_expiry);
                let expected = one.expire_at_ms.is_some() || self.is_again;
                let expiry = self.v.clock.ask(&mut asks, one.db, name, expected);
                asked.push((n, at, expiry));
            }
        }
        let began = now_ms();
        let replies = self.reach.ask(&asks)?;
        self.asks = asks;
        let gone_ms = self.v.clock.now_there_ms();
        for (n, at, expiry) in asked {
            let one = &batch.keys[n];
            let mut rows = Rows::new(1);
            let read = self.v.clock.read(
                &replies[expiry],
                one.expire_at_ms.is_some() || self.is_again,
                began,
            );
            if read == Some(Expiry::NoKey) || read.is_none() {
                continue;
            }
            self.expiry(one, read.unwrap_or(Expiry::None), &mut rows);
            let fields = self.fields(gone_ms);
            let named = self.named(one);
            let want = digest::of(
                one.value,
                one.record.ty,
                &self.templates,
                &mut self.room,
                &mut self.one,
                fields,
            )
            .map_err(named)?;
            if rows.is_empty() && replies[at].bytes() == Some(want.as_bytes()) {
                verdicts[n] = Some(Verdict::Equal);
            }
        }
        open.retain(|n| verdicts[*n].is_none());
        Ok(())
    }

    fn fields(&self, gone_ms: i64) -> Fields<'v> {
        let v: &'v Verifier<'v> = self.v;
        Fields::OfFile {
            filter: &v.options.filter,
            transform: &v.options.transform,
            gone_ms,
        }
    }

    /// What it means that a key is not there.
    fn missing(&mut self, one: &One<'a>) -> Result<Verdict> {
        let gone_ms = self.v.clock.now_there_ms();
        if one.expire_at_ms.is_some_and(|at| at <= gone_ms) {
            return Ok(Verdict::Expired);
        }
        let ty = one.record.ty;
        if matches!(ty.kind(), Type::List | Type::Set | Type::Zset | Type::Hash)
            && one.value_bytes <= self.v.options.big_key
        {
            let (named, fields) = (self.named(one), self.fields(gone_ms));
            self.one
                .fill(one.value, ty, &self.templates, &mut self.room, fields)
                .map_err(named)?;
            // Servers have no keys without elements, nor do they keep one whose fields have all expired.
            if self.one.is_empty() {
                return Ok(Verdict::Empty);
            }
        }
        let want = type_name(ty, one.value);
        Ok(Verdict::Different(vec![(
            Kind::Missing,
            want,
            String::new(),
        )]))
    }

    fn expiry(&self, one: &One<'_>, found: Expiry, rows: &mut Rows) {
        let tolerance = self.v.options.ttl_tolerance_ms;
        let same = match (one.expire_at_ms, found) {
            (None, Expiry::None) => true,
            // Its time may have passed between two questions.
            (_, Expiry::NoKey) => true,
            (Some(at), Expiry::At(low, high)) => {
                at >= low.saturating_sub(tolerance) && at <= high.saturating_add(tolerance)
            }
            (None, Expiry::At(..)) | (Some(_), Expiry::None) => false,
        };
        if !same {
            let want = one.expire_at_ms.map_or(String::new(), |at| at.to_string());
            let got = match found {
                Expiry::NoKey | Expiry::None => String::new(),
                Expiry::At(low, high) if low == high => low.to_string(),
                Expiry::At(low, high) => format!("{low} to {high}"),
            };
            rows.push(Kind::Expiry, want, got);
        }
    }
}
