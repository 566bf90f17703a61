//! Commands of a log: each exactly once, in order, whatever breaks.
//!
//! - One server: the whole log is one lane. Its commands go in transactions that end with a record of how far they went:
//!   `MULTI … SET __redis-migration:RUN n EXEC`. After a broken connection the record tells what was applied.
//! - A cluster: the same for each slot, with a record in that slot.
//! - A proxy forwards no transactions: a script on the far side runs the commands of one key and remembers the last one's
//!   number in a hash there (`GUARD`).
//!
//! A command's number is its place in the log, so that it is the same in every run.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::answer::{Verdict, verdict};
use super::link::{Answer, Item, Kind};
use super::payload::Payload;
use super::script::{GUARD, sha1};
use super::{HEAD_BYTES, Raw, Seen, ServerSink, Waiting, key_of};
use crate::command::encode::OnError;
use crate::command::keys::{for_each_key, slot};
use crate::command::table::lookup;
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::parse::Args;
use crate::resp::write::{append_bulk, append_command};
use crate::server::reply::Reply;
use crate::tally::Reject;

/// Commands and bytes of one transaction.
const BATCH_COMMANDS: usize = 256;
const BATCH_BYTES: usize = 256 << 10;
/// Arguments of one call of the script, and of one command in it: Lua's `unpack` takes no more than about 8,000.
const SCRIPT_ARGS: u64 = 5_000;
/// Bytes of one call of the script.
const SCRIPT_BYTES: usize = 64 << 10;

/// A command of a log.
#[derive(Debug)]
struct Logged {
    payload: Payload,
    argc: u64,
    seq: u64,
    /// Where its unit begins in the log.
    offset: u64,
    db: u32,
    epoch: u64,
    /// The next one belongs to the same transaction of the log.
    goes_on: bool,
}

impl Logged {
    fn name(&self) -> Option<(u32, Vec<u8>)> {
        Some((self.db, key_of(&self.payload.head(HEAD_BYTES))?))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Idle,
    /// A batch, or the question for the record, is on its way.
    Busy,
    /// It waits for its time.
    Paused,
}

/// What has to stay in order.
#[derive(Debug, Default)]
pub(super) struct LogLane {
    slot: u16,
    queue: VecDeque<Logged>,
    flight: Vec<Logged>,
    /// For each answer between those of MULTI and EXEC the command of the flight that it is for.
    lines: Vec<Option<usize>>,
    /// The number up to which commands are applied; not known after a broken connection.
    applied: Option<u64>,
    state: State,
    /// Commands from the front of the queue that were on their way when their answer was lost.
    in_doubt: usize,
    /// The script goes with its text.
    with_text: bool,
}

impl LogLane {
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flight.is_empty() && self.state == State::Idle
    }

    /// Databases and keys of what is on its way.
    pub(super) fn keys_on_their_way(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.flight.iter().filter_map(Logged::name)
    }

    /// Databases and keys of what waits again and may be applied already.
    pub(super) fn keys_in_doubt(&self) -> impl Iterator<Item = (u32, Vec<u8>)> {
        self.queue
            .iter()
            .take(self.in_doubt)
            .filter_map(Logged::name)
    }

    /// Takes back what was on its way.
    fn take_back(&mut self) {
        for one in self.flight.drain(..).rev() {
            self.queue.push_front(one);
        }
        self.lines.clear();
    }
}

impl ServerSink<'_> {
    pub(super) fn log_command(&mut self, seen: &Seen<'_>, raw: Raw<'_>) -> Result<()> {
        let is = |name: &[u8]| seen.name.eq_ignore_ascii_case(name);
        if seen.argc == 1 && is(b"MULTI") {
            self.in_group = true;
            self.open_group = 0;
            return Ok(());
        }
        if seen.argc == 1 && is(b"EXEC") {
            self.in_group = false;
            return self.end_group();
        }
        let seq = self.base + self.at + 1 + self.index;
        self.index += 1;
        self.last_seq = self.last_seq.max(seq);
        if self.passes_over {
            self.counts.passed_over += 1;
            return Ok(());
        }
        let key = self.first_key(seen, &raw);
        let (lane, slot) = match (self.o.dialect, &key) {
            (Dialect::Redis, _) => (0, 0),
            (Dialect::Cluster, Some(key)) => {
                let slot = slot(key);
                (u64::from(slot), slot)
            }
            (Dialect::Twemproxy, Some(key)) => (self.lane_of(0, key), 0),
            (_, None) => return self.everywhere(raw.into_payload()),
        };
        let payloads = if self.o.dialect == Dialect::Twemproxy && seen.argc > SCRIPT_ARGS {
            match split(raw.into_payload()) {
                Some(parts) => parts,
                None => {
                    return Err(Error::plain(ErrorKind::Refused {
                        server: self.links[0].name(),
                        command: String::from_utf8_lossy(seen.name).into_owned(),
                        key: key.unwrap_or_default(),
                        db: u64::from(self.db),
                        reply: format!(
                            "not sent: a command of {} arguments cannot go through a script, and this one cannot be split",
                            seen.argc
                        ),
                    }));
                }
            }
        } else {
            vec![raw.into_payload()]
        };
        let resumed = self.o.resumed;
        for (i, payload) in payloads.into_iter().enumerate() {
            if i > 0 {
                self.index += 1;
            }
            let seq = seq + i as u64;
            self.last_seq = self.last_seq.max(seq);
            let epoch = self.epochs.open();
            self.queued.add(&payload);
            let one = Logged {
                argc: Args::of(&payload.head(32)).left(),
                payload,
                seq,
                offset: self.at,
                db: self.db,
                epoch,
                goes_on: self.in_group && self.o.dialect == Dialect::Redis,
            };
            let lane = self.log_lanes.entry(lane).or_insert_with(|| LogLane {
                slot,
                // A run that was begun before may have applied some of it.
                applied: (!resumed).then_some(0),
                ..LogLane::default()
            });
            lane.queue.push_back(one);
            self.open_group += 1;
        }
        if !self.in_group || self.o.dialect != Dialect::Redis || self.is_overfull() {
            self.send_lane(lane, None)?;
        }
        Ok(())
    }

    /// The transaction of the log is whole: it may be sent.
    fn end_group(&mut self) -> Result<()> {
        if self.o.dialect != Dialect::Redis {
            return Ok(());
        }
        if let Some(lane) = self.log_lanes.get_mut(&0) {
            if let Some(last) = lane.queue.back_mut() {
                last.goes_on = false;
            }
            self.send_lane(0, None)?;
        }
        Ok(())
    }

    /// The first key of a command.
    fn first_key(&self, seen: &Seen<'_>, raw: &Raw<'_>) -> Option<Vec<u8>> {
        if self.o.dialect == Dialect::Redis {
            return None;
        }
        let head;
        let bytes: &[u8] = match raw {
            Raw::Bytes(bytes) => bytes,
            Raw::Payload(payload) => {
                head = payload.head(HEAD_BYTES);
                &head
            }
        };
        let spec = lookup(seen.name)?;
        let mut first = None;
        // Of a command that is not in one piece the keys stand in front, and what is behind them does not matter.
        let _ = for_each_key(spec, Args::of(bytes), |_, key| {
            first.get_or_insert_with(|| key.to_vec());
        });
        first.or_else(|| seen.key.map(<[u8]>::to_vec))
    }

    /// A lane's pause is over.
    pub(super) fn log_lane_due(&mut self, lane: u64) -> Result<()> {
        if let Some(paused) = self.log_lanes.get_mut(&lane) {
            paused.state = State::Idle;
        }
        self.send_lane(lane, None)
    }

    /// Sends what a lane has, if nothing of it is on its way; over `target`, where a node said so.
    fn send_lane(&mut self, id: u64, target: Option<usize>) -> Result<()> {
        let Some(lane) = self.log_lanes.get(&id) else {
            return Ok(());
        };
        if lane.state != State::Idle || lane.queue.is_empty() {
            return Ok(());
        }
        let (slot, applied) = (lane.slot, lane.applied);
        let link = match target {
            Some(target) => target,
            None if self.o.dialect == Dialect::Redis => 0,
            None => self.link_of(id, slot),
        };
        let proxy = self.o.dialect == Dialect::Twemproxy;
        if applied.is_none() && !proxy && !self.o.at_least_once {
            return self.ask_record(id, link);
        }
        self.pass_over_applied(id);
        let several_at_once = self.is_overfull() || self.o.dialect != Dialect::Redis;
        let lane = self.log_lanes.get_mut(&id).expect("it was there");
        if lane.queue.is_empty() {
            return Ok(());
        }
        // Of a transaction that is still being read nothing may go, unless there is no room for the rest of it.
        let held_back = if self.in_group && !several_at_once {
            self.open_group.min(lane.queue.len())
        } else {
            0
        };
        if lane.queue.len() == held_back {
            return Ok(());
        }
        // Whole transactions, and no more than fits.
        let (most, most_bytes) = match (self.o.at_least_once, proxy) {
            (true, _) => (1, usize::MAX),
            (_, true) => (BATCH_COMMANDS, SCRIPT_BYTES),
            _ => (BATCH_COMMANDS, BATCH_BYTES),
        };
        let (mut bytes, mut args, mut group) = (0, 0, false);
        while let Some(next) = lane.queue.front()
            && lane.queue.len() > held_back
        {
            let fits = lane.flight.len() < most
                && bytes + next.payload.len() <= most_bytes
                && (!proxy || args + next.argc <= SCRIPT_ARGS);
            if !fits && !group && !lane.flight.is_empty() {
                break;
            }
            let next = lane.queue.pop_front().expect("it was there");
            bytes += next.payload.len();
            args += next.argc;
            group = next.goes_on;
            self.queued.remove(&next.payload);
            lane.flight.push(next);
        }
        lane.state = State::Busy;
        let first = &lane.flight[0];
        let mut item = Item::new(Kind::Batch, id, slot, first.db, first.epoch);
        lane.lines.clear();
        if self.o.at_least_once {
            // Only through a proxy that runs no scripts.
            let payload = first.payload.clone();
            let head = payload.head(HEAD_BYTES);
            self.check_forwarded(&Seen::of(&head))?;
            self.links[link].append_payload(payload);
        } else if proxy {
            let call = self.call(id);
            self.links[link].append(&call);
        } else {
            item.answers = self.transaction(id, link);
        }
        self.links[link].push(item);
        Ok(())
    }

    /// The call of the script that runs a flight.
    fn call(&self, id: u64) -> Vec<u8> {
        let lane = &self.log_lanes[&id];
        let record = self.record_name();
        let key = key_of(&lane.flight[0].payload.head(HEAD_BYTES));
        let key = self
            .first_key_of(&lane.flight[0].payload)
            .or(key)
            .unwrap_or_default();
        let args: u64 = lane.flight.iter().map(|one| one.argc + 2).sum();
        let mut out = format!("*{}\r\n", args + 5).into_bytes();
        let mut digits = itoa::Buffer::new();
        if lane.with_text {
            append_bulk(&mut out, b"EVAL");
            append_bulk(&mut out, GUARD.as_bytes());
        } else {
            append_bulk(&mut out, b"EVALSHA");
            append_bulk(&mut out, self.guard_sha.as_bytes());
        }
        append_bulk(&mut out, b"1");
        append_bulk(&mut out, &key);
        append_bulk(&mut out, record.as_bytes());
        for one in &lane.flight {
            append_bulk(&mut out, digits.format(one.seq).as_bytes());
            append_bulk(&mut out, digits.format(one.argc).as_bytes());
            // Its arguments stand as they do in the command, behind the line that counts them.
            let mut first = true;
            for piece in one.payload.pieces() {
                let from = if first {
                    piece
                        .iter()
                        .position(|b| *b == b'\n')
                        .map_or(0, |end| end + 1)
                } else {
                    0
                };
                first = false;
                out.extend_from_slice(&piece[from..]);
            }
        }
        out
    }

    fn first_key_of(&self, payload: &Payload) -> Option<Vec<u8>> {
        let head = payload.head(HEAD_BYTES);
        self.first_key(&Seen::of(&head), &Raw::Bytes(&head))
    }

    /// Appends a flight as a transaction with its record. Gives how many answers it gets.
    fn transaction(&mut self, id: u64, link: usize) -> u32 {
        let record = self.record_of(id);
        let several = self.o.dialect == Dialect::Redis;
        let lane = self.log_lanes.get_mut(&id).expect("it has a flight");
        let link = &mut self.links[link];
        let select = |out: &mut Vec<u8>, db: u32| {
            append_command(out, &[b"SELECT", db.to_string().as_bytes()]);
        };
        let mut small = Vec::new();
        if several && link.selected != 0 {
            // A transaction that is given up leaves the database as it was: so it begins and ends in the same one.
            select(&mut small, 0);
            link.append(&small);
            link.push(Item::new(
                Kind::Internal,
                id,
                lane.slot,
                0,
                lane.flight[0].epoch,
            ));
            link.selected = 0;
            small.clear();
        }
        append_command(&mut small, &[b"MULTI"]);
        let swaps = |one: &Logged| {
            let head = one.payload.head(32);
            let name = Args::of(&head).next();
            name.is_some_and(|name| name.eq_ignore_ascii_case(b"SWAPDB"))
        };
        if several && lane.flight.iter().any(swaps) {
            // The record would go along into the other database; it is set anew at the end.
            append_command(&mut small, &[b"DEL", record.as_bytes()]);
            lane.lines.push(None);
        }
        let mut db = 0;
        for (i, one) in lane.flight.iter().enumerate() {
            if several && one.db != db {
                select(&mut small, one.db);
                lane.lines.push(None);
                db = one.db;
            }
            link.append(&small);
            small.clear();
            link.append_payload(one.payload.clone());
            lane.lines.push(Some(i));
        }
        if several && db != 0 {
            select(&mut small, 0);
            lane.lines.push(None);
        }
        let last = lane.flight.last().expect("a flight is not empty").seq;
        append_command(
            &mut small,
            &[b"SET", record.as_bytes(), last.to_string().as_bytes()],
        );
        lane.lines.push(None);
        append_command(&mut small, &[b"EXEC"]);
        link.append(&small);
        lane.lines.len() as u32 + 2
    }

    /// Asks how far a lane was applied.
    fn ask_record(&mut self, id: u64, link: usize) -> Result<()> {
        let record = self.record_of(id);
        let mut bytes = Vec::new();
        append_command(&mut bytes, &[b"GET", record.as_bytes()]);
        let lane = self.log_lanes.get_mut(&id).expect("it was there");
        lane.state = State::Busy;
        let item = Item::new(Kind::Applied, id, lane.slot, 0, lane.queue[0].epoch);
        self.send_over(link, item, Raw::Bytes(&bytes));
        Ok(())
    }

    pub(super) fn applied_answered(
        &mut self,
        link: usize,
        item: Item,
        answer: Answer,
    ) -> Result<()> {
        let applied = match answer {
            Answer::Whole(Reply::Nil) => 0,
            Answer::Whole(Reply::Bulk(digits)) => std::str::from_utf8(&digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(|| {
                    self.refused(link, &item, "the record of this run holds no number")
                })?,
            Answer::Error(text, _) => match verdict(&text, self.o.dialect) {
                Verdict::Elsewhere => {
                    self.log_lane(item.lane).state = State::Idle;
                    return self.redirect_question(link, item, &text);
                }
                Verdict::Later => {
                    self.links[link].release();
                    return self.pause_lane(link, item, &text);
                }
                _ => return Err(self.refused(link, &item, &String::from_utf8_lossy(&text))),
            },
            _ => return Err(self.refused(link, &item, "GET was answered with something else")),
        };
        self.links[link].release();
        let lane = self.log_lane(item.lane);
        lane.applied = Some(applied);
        lane.in_doubt = 0;
        lane.state = State::Idle;
        self.send_lane(item.lane, None)
    }

    /// Drops what the record tells to be applied: what waits now, and what comes later in the same run.
    fn pass_over_applied(&mut self, id: u64) {
        let Some(lane) = self.log_lanes.get_mut(&id) else {
            return;
        };
        let applied = lane.applied.unwrap_or(0);
        while let Some(next) = lane.queue.front()
            && next.seq <= applied
        {
            let one = lane.queue.pop_front().expect("it was there");
            self.queued.remove(&one.payload);
            self.counts.passed_over += 1;
            self.epochs.close(one.epoch);
        }
    }

    /// The record's slot is elsewhere: the question goes there, and the commands after it.
    fn redirect_question(&mut self, link: usize, item: Item, text: &[u8]) -> Result<()> {
        if text.starts_with(b"ASK ") {
            // The slot is on its way: until it has arrived, there is no telling.
            self.links[link].release();
            return self.pause_lane(link, item, text);
        }
        self.redirect(link, item, text)
    }

    fn log_lane(&mut self, id: u64) -> &mut LogLane {
        self.log_lanes.entry(id).or_default()
    }

    pub(super) fn batch_answered(&mut self, link: usize, item: Item, answer: Answer) -> Result<()> {
        let replies = match answer {
            Answer::Error(text, at) => return self.batch_failed(link, item, text, at),
            Answer::Whole(Reply::Array(replies)) => replies,
            Answer::Whole(_) | Answer::Fine(..) if self.o.at_least_once => Vec::new(),
            Answer::Whole(_) | Answer::Fine(..) => {
                return Err(self.refused(
                    link,
                    &item,
                    "it answered a transaction with something else",
                ));
            }
        };
        let lane = self.log_lanes.get_mut(&item.lane).expect("it has a flight");
        let flight = std::mem::take(&mut lane.flight);
        let lines = std::mem::take(&mut lane.lines);
        lane.state = State::Idle;
        lane.with_text = false;
        lane.in_doubt = 0;
        let mut errors: Vec<(usize, String)> = Vec::new();
        if self.o.dialect == Dialect::Twemproxy && !self.o.at_least_once {
            for reply in &replies {
                let text = match reply {
                    Reply::Bulk(text) | Reply::Status(text) => String::from_utf8_lossy(text),
                    _ => continue,
                };
                let (seq, error) = text.split_once(' ').unwrap_or(("", &text));
                let seq: u64 = seq.parse().unwrap_or(0);
                let index = flight.iter().position(|one| one.seq == seq).unwrap_or(0);
                errors.push((index, error.to_owned()));
            }
        } else if !self.o.at_least_once {
            if replies.len() != lines.len() {
                lane.flight = flight;
                return Err(self.refused(
                    link,
                    &item,
                    &format!(
                        "EXEC was answered with {} results for {} commands",
                        replies.len(),
                        lines.len()
                    ),
                ));
            }
            for (line, reply) in lines.iter().zip(&replies) {
                if let Reply::Error(text) = reply {
                    let text = String::from_utf8_lossy(text).into_owned();
                    match line {
                        Some(index) => errors.push((*index, text)),
                        None => {
                            lane.flight = flight;
                            return Err(self.refused(link, &item, &text));
                        }
                    }
                }
            }
        }
        self.links[link].release();
        self.put_off_since = None;
        self.put_off = 0;
        self.counts.replies += flight.len() as u64;
        let mut stop = None;
        for (index, error) in errors {
            let result = self.log_refused(&flight[index], &error);
            stop = stop.or(result.err());
        }
        if let Some(last) = flight.last() {
            self.log_lane(item.lane).applied = Some(last.seq);
        }
        for one in &flight {
            self.epochs.close(one.epoch);
        }
        match stop {
            Some(error) => Err(error),
            None => self.send_lane(item.lane, None),
        }
    }

    /// A command of a log that the server refused for good: the end, or one that is counted and left out.
    fn log_refused(&mut self, one: &Logged, error: &str) -> Result<()> {
        self.counts.errors += 1;
        let head = one.payload.head(HEAD_BYTES);
        let name = String::from_utf8_lossy(Args::of(&head).next().unwrap_or_default()).into_owned();
        let key = key_of(&head).unwrap_or_default();
        let error = format!("{error} (byte {:#x} of the log)", one.offset);
        self.counts.rejected_of_log += 1;
        if self.o.on_error == OnError::Stop {
            return Err(Error::plain(ErrorKind::Refused {
                server: self.o.endpoint.address.to_string(),
                command: name,
                key,
                db: u64::from(one.db),
                reply: error,
            }));
        }
        (self.o.reject)(&Reject {
            db: Some(u64::from(one.db)),
            key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
            type_name: String::new(),
            command: name,
            error,
        })
    }

    fn batch_failed(&mut self, link: usize, item: Item, text: Vec<u8>, at: u32) -> Result<()> {
        let of_transaction = item.answers > 1;
        if of_transaction && at == 0 {
            // Without its MULTI the rest of it was applied command by command, or not: nobody can tell.
            return Err(self.refused(link, &item, &String::from_utf8_lossy(&text)));
        }
        match verdict(&text, self.o.dialect) {
            Verdict::NoScript => {
                self.links[link].release();
                let lane = self.log_lane(item.lane);
                lane.with_text = true;
                self.back_to_queue(item.lane);
                self.log_lane(item.lane).state = State::Idle;
                self.send_lane(item.lane, None)
            }
            // A transaction that was given up without a word of why met something that passes.
            Verdict::Later | Verdict::Aborted => {
                self.counts.later += 1;
                self.links[link].release();
                self.back_to_queue(item.lane);
                self.pause_lane(link, item, &text)
            }
            Verdict::Unknown => {
                self.counts.again += 1;
                self.unknown_at = Some(Instant::now());
                self.doubt_routes();
                self.doubt(item.lane)?;
                self.links[link].release();
                self.back_to_queue(item.lane);
                self.pause_lane(link, item, &text)
            }
            Verdict::Elsewhere => self.redirect(link, item, &text),
            Verdict::Login => Err(Error::plain(ErrorKind::Login {
                server: self.links[link].name(),
                why: String::from_utf8_lossy(&text).into_owned(),
            })),
            Verdict::Exists | Verdict::Payload | Verdict::Refused => {
                let said = String::from_utf8_lossy(&text).into_owned();
                let lane = self.log_lane(item.lane);
                // Which of the commands it was; of a script it is all of them.
                let index = match of_transaction {
                    true => lane.lines.get(at as usize - 1).copied().flatten(),
                    false => Some(0),
                };
                let Some(index) = index else {
                    return Err(self.refused(link, &item, &said));
                };
                if !of_transaction && lane.flight.len() > 1 {
                    return Err(self.refused(link, &item, &said));
                }
                let one = lane.flight.remove(index);
                if let Err(error) = self.log_refused(&one, &said) {
                    self.log_lane(item.lane).flight.insert(index, one);
                    return Err(error);
                }
                self.links[link].release();
                self.epochs.close(one.epoch);
                self.back_to_queue(item.lane);
                self.log_lane(item.lane).state = State::Idle;
                self.send_lane(item.lane, None)
            }
        }
    }

    /// What was on its way waits again.
    fn back_to_queue(&mut self, id: u64) {
        let Some(lane) = self.log_lanes.get_mut(&id) else {
            return;
        };
        for one in &lane.flight {
            self.queued.add(&one.payload);
        }
        lane.take_back();
    }

    /// Lets a lane rest; ends the run where nothing was taken for too long.
    fn pause_lane(&mut self, link: usize, item: Item, text: &[u8]) -> Result<()> {
        let now = Instant::now();
        let said = String::from_utf8_lossy(text).into_owned();
        self.last_error = format!("{}: {said}", self.links[link].name());
        if self.is_out_of_patience(now) {
            let head = self
                .log_lanes
                .get(&item.lane)
                .and_then(|lane| lane.queue.front());
            let head = head.map_or_else(Vec::new, |one| one.payload.head(HEAD_BYTES));
            return Err(Error::plain(ErrorKind::Refused {
                server: self.links[link].name(),
                command: String::from_utf8_lossy(Args::of(&head).next().unwrap_or_default())
                    .into_owned(),
                key: key_of(&head).unwrap_or_default(),
                db: u64::from(item.db),
                reply: format!(
                    "{said}, for {} s without anything being taken",
                    self.o.retry_for.as_secs()
                ),
            }));
        }
        self.put_off += 1;
        let pause = Duration::from_millis(20 * u64::from(self.put_off.min(50)));
        self.rest(item, now + pause);
        Ok(())
    }

    fn rest(&mut self, item: Item, until: Instant) {
        self.log_lane(item.lane).state = State::Paused;
        let item = Item {
            kind: Kind::Batch,
            ..item
        };
        let payload = Payload::Small(Vec::new());
        self.queued.add(&payload);
        self.later.push((until, Waiting { payload, item }));
    }

    /// The answer to what is on its way is lost. Without a record of what was applied it may be so twice.
    fn doubt(&mut self, id: u64) -> Result<()> {
        let at_least_once = self.o.at_least_once;
        let lane = self.log_lane(id);
        lane.in_doubt = lane.in_doubt.max(lane.flight.len());
        if !at_least_once {
            return Ok(());
        }
        let keys: Vec<_> = lane.keys_on_their_way().collect();
        for (db, key) in keys {
            self.counts.doubtful += 1;
            (self.o.reject)(&Reject {
                db: Some(u64::from(db)),
                key,
                type_name: String::new(),
                command: String::new(),
                error: "sent again after its answer was lost: it may have been applied twice"
                    .to_owned(),
            })?;
        }
        Ok(())
    }

    /// A lane's batch, or its question, was on a connection that broke.
    pub(super) fn unsent_batch(&mut self, item: Item, sent: bool) -> Result<()> {
        if item.kind == Kind::Batch && sent {
            self.counts.again += 1;
            self.doubt(item.lane)?;
            if self.o.dialect != Dialect::Twemproxy {
                self.log_lane(item.lane).applied = None;
            }
        }
        self.back_to_queue(item.lane);
        self.rest(item, Instant::now());
        Ok(())
    }

    /// A batch was refused by a node that does not have its slot; ASKING went ahead, where it has to.
    pub(super) fn batch_redirected(&mut self, item: Item, ask: bool, target: usize) -> Result<()> {
        self.back_to_queue(item.lane);
        self.log_lane(item.lane).state = State::Idle;
        self.send_lane(item.lane, ask.then_some(target))
    }

    /// The name of what this run writes down at the destination.
    pub(super) fn record_name(&self) -> String {
        format!("__redis-migration:{}", self.o.run)
    }

    /// The record of a lane: on a cluster it is in the lane's slot.
    pub(super) fn record_of(&mut self, lane: u64) -> String {
        let name = self.record_name();
        if self.o.dialect != Dialect::Cluster {
            return name;
        }
        if self.tags.is_empty() {
            self.tags = tags();
        }
        format!("{name}:{{{}}}", self.tags[lane as usize])
    }
}

/// The script's name for EVALSHA.
pub(super) fn guard_sha() -> String {
    sha1(GUARD)
}

/// For each slot a short word that is in it.
fn tags() -> Vec<String> {
    let mut tags = vec![String::new(); 16_384];
    let mut left = tags.len();
    for n in 0u64.. {
        let word = format!("{n:x}");
        let tag = &mut tags[usize::from(slot(word.as_bytes()))];
        if tag.is_empty() {
            *tag = word;
            left -= 1;
        }
        if left == 0 {
            break;
        }
    }
    tags
}

/// A command of many elements as several of fewer, that do the same one after the other.
fn split(payload: Payload) -> Option<Vec<Payload>> {
    let bytes = payload.into_vec();
    let args: Vec<&[u8]> = Args::of(&bytes).collect();
    let name = args.first()?.to_ascii_uppercase();
    let (mut from, step) = match &name[..] {
        b"RPUSH" | b"LPUSH" | b"RPUSHX" | b"LPUSHX" | b"SADD" | b"SREM" | b"HDEL" | b"ZREM"
        | b"PFADD" => (2, 1),
        b"HSET" | b"HMSET" => (2, 2),
        b"ZADD" => (2, 2),
        _ => return None,
    };
    if name == b"ZADD" {
        let is_option = |arg: &&[u8]| {
            [&b"NX"[..], b"XX", b"GT", b"LT", b"CH"]
                .iter()
                .any(|word| arg.eq_ignore_ascii_case(word))
        };
        from += args[2..].iter().take_while(|arg| is_option(arg)).count();
    }
    let most = SCRIPT_ARGS as usize / 2 / step * step;
    let parts = args[from..].chunks(most).map(|part| {
        let mut out = Vec::new();
        append_command(&mut out, &[&args[..from], part].concat());
        Payload::Small(out)
    });
    Some(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_word_of_its_own() {
        for (i, tag) in tags().iter().enumerate() {
            assert_eq!(usize::from(slot(tag.as_bytes())), i);
        }
    }

    #[test]
    fn long_commands_are_split_in_order() {
        let elements: Vec<String> = (0..12_000).map(|n| n.to_string()).collect();
        let mut args: Vec<&[u8]> = vec![b"RPUSH", b"k"];
        args.extend(elements.iter().map(String::as_bytes));
        let mut bytes = Vec::new();
        append_command(&mut bytes, &args);
        let parts = split(Payload::Small(bytes)).expect("it can be split");
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for part in parts {
            let bytes = part.into_vec();
            let args: Vec<&[u8]> = Args::of(&bytes).collect();
            assert!(args.len() < SCRIPT_ARGS as usize);
            assert_eq!(args[..2], [&b"RPUSH"[..], b"k"]);
            seen.extend(args[2..].iter().map(|arg| arg.to_vec()));
        }
        let elements: Vec<Vec<u8>> = elements.into_iter().map(String::into_bytes).collect();
        assert_eq!(seen, elements);
    }
}
