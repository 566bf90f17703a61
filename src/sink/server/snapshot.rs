//! Commands of a snapshot: each can be sent again, and those of one key go one after the other.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::answer::{Verdict, verdict};
use super::link::{Answer, Expect, Item, Kind};
use super::payload::Payload;
use super::script::APPEND_IF;
use super::{Group, HEAD_BYTES, Policy, Raw, Seen, ServerSink, Waiting, key_of};
use crate::command::encode::OnError;
use crate::command::table::lookup;
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::parse::Args;
use crate::resp::write::append_command;
use crate::server::reply::Shape;
use crate::tally::Reject;

/// Keys up to so many bytes of commands go in one piece.
const GROUP_BYTES: usize = 16 << 10;

/// The slot of what has none and goes to each node; its lane tells the link.
pub(super) const ONE_NODE: u16 = u16::MAX;

impl ServerSink<'_> {
    pub(super) fn snapshot_command(&mut self, seen: &Seen<'_>, raw: Raw<'_>) -> Result<()> {
        let Some(key) = seen.key else {
            return self.everywhere(raw.into_payload());
        };
        let db = self.db;
        let lane = self.lane_of(db, key);
        let kind = match seen.name {
            b"SET" if seen.argc > 3 && ends_with_nx(&raw) => Kind::Plain(Expect::StatusOrNil),
            b"SET" | b"RESTORE" | b"MSET" | b"HMSET" => Kind::Plain(Expect::Status),
            b"MSETNX" => Kind::Plain(Expect::One),
            b"EXISTS" => Kind::Gate,
            b"DEL" | b"UNLINK" | b"SADD" | b"HSET" | b"ZADD" | b"PEXPIREAT" | b"EXPIREAT"
            | b"SETRANGE" => Kind::Plain(Expect::Int),
            b"RPUSH" if self.o.on_exist != Policy::Merge && !self.o.at_least_once => {
                let count = seen.argc.saturating_sub(2) as u32;
                let before = self
                    .list
                    .filter(|list| list.0 == lane)
                    .map_or(0, |list| list.1);
                Kind::Push { before, count }
            }
            b"RPUSH" if !self.o.at_least_once => Kind::Once,
            _ => Kind::Plain(Expect::Any),
        };
        self.list = match kind {
            Kind::Push { before, count } => Some((lane, before + u64::from(count))),
            _ => None,
        };
        if kind == Kind::Gate {
            let (last_db, last) = self.looked_at.get_or_insert_default();
            *last_db = db;
            last.clear();
            last.extend_from_slice(key);
        }
        // The commands of one key come one after the other.
        if self.current != Some(lane) || kind == Kind::Gate {
            self.dead = false;
            self.current = Some(lane);
        }
        if self.dead {
            return Ok(());
        }
        if let Some(group) = &mut self.group {
            if group.item.lane == lane
                && let Raw::Bytes(bytes) = raw
                && group.bytes.len() + bytes.len() <= GROUP_BYTES
            {
                group.bytes.extend_from_slice(bytes);
                group.item.answers += 1;
                return Ok(());
            }
            self.end_group_of_key();
        }
        let slot = self.slot_of(key);
        let mut raw = raw;
        if self.o.dialect == Dialect::Twemproxy {
            self.check_forwarded(seen)?;
        }
        if let Kind::Push { before, .. } = kind
            && self.o.dialect == Dialect::Twemproxy
        {
            // What the proxy gives up on may still be applied later: only a script can tell.
            raw = Raw::Payload(Payload::Small(append_if(raw.into_payload(), before)));
        }
        let item = Item::new(kind, lane, slot, db, self.epochs.open());
        if let (b"DEL", Raw::Bytes(bytes)) = (seen.name, &raw)
            && self.o.dialect != Dialect::Twemproxy
        {
            let bytes = bytes.to_vec();
            let item = Item {
                kind: Kind::Plain(Expect::Any),
                ..item
            };
            self.group = Some(Group { bytes, item });
            return Ok(());
        }
        self.enter(item, raw);
        Ok(())
    }

    /// A proxy closes the connection at a command that it does not forward, and takes the answers to those before it along.
    pub(super) fn check_forwarded(&self, seen: &Seen<'_>) -> Result<()> {
        let forwarded = lookup(seen.name)
            .and_then(|spec| spec.proxy)
            .is_some_and(|(least, most)| (u64::from(least)..=u64::from(most)).contains(&seen.argc));
        if forwarded {
            return Ok(());
        }
        Err(Error::plain(ErrorKind::Refused {
            server: self.destination(),
            command: String::from_utf8_lossy(seen.name).into_owned(),
            key: seen.key.unwrap_or_default().to_vec(),
            db: u64::from(self.db),
            reply: format!(
                "not sent: twemproxy forwards no such command of {} arguments",
                seen.argc
            ),
        }))
    }

    /// Sends a unit, or lets it wait until its lane is free.
    fn enter(&mut self, item: Item, raw: Raw<'_>) {
        match self.lanes.entry(item.lane) {
            Entry::Occupied(mut busy) => {
                let payload = raw.into_payload();
                self.queued.add(&payload);
                busy.get_mut().push_back(Waiting { payload, item });
            }
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                self.send(item, raw);
            }
        }
    }

    /// A small key is whole, or grew too large for a group: what is there goes.
    pub(super) fn end_group_of_key(&mut self) {
        if let Some(Group { bytes, item }) = self.group.take() {
            self.enter(item, Raw::Bytes(&bytes));
        }
    }

    /// A command without a key: of a cluster every master gets it.
    pub(super) fn everywhere(&mut self, payload: Payload) -> Result<()> {
        self.drain()?;
        // A table that is not the latest may lead to a node that follows another by now, and takes nothing.
        self.slots_asked = None;
        self.refresh_slots(0);
        let targets = match &self.o.slots {
            // A master without slots has no keys that could use it.
            Some(slots) => {
                let masters = self.masters.iter().enumerate();
                let holds = masters.filter(|(index, _)| slots.holds(*index) > 0);
                holds.map(|(_, first)| *first).collect()
            }
            None => vec![0],
        };
        let bytes = payload.into_vec();
        for target in targets {
            let item = Item::new(
                Kind::Plain(Expect::Any),
                u64::MAX - target as u64,
                ONE_NODE,
                self.db,
                self.epochs.open(),
            );
            self.lanes.insert(item.lane, VecDeque::new());
            self.send_over(target, item, Raw::Bytes(&bytes));
        }
        self.drain()
    }

    /// Puts a unit on its way; its lane is its own.
    fn send(&mut self, item: Item, raw: Raw<'_>) {
        let link = self.link_of(item.lane, item.slot);
        self.send_over(link, item, raw);
    }

    pub(super) fn send_over(&mut self, link: usize, item: Item, raw: Raw<'_>) {
        let link = &mut self.links[link];
        if item.db != link.selected && self.o.dialect == Dialect::Redis {
            let mut digits = itoa::Buffer::new();
            let mut select = Vec::new();
            append_command(&mut select, &[b"SELECT", digits.format(item.db).as_bytes()]);
            link.append(&select);
            link.push(Item {
                kind: Kind::Internal,
                answers: 1,
                ..item
            });
            link.selected = item.db;
        }
        match raw {
            Raw::Bytes(bytes) => link.append(bytes),
            Raw::Payload(payload) => link.append_payload(payload),
        }
        link.push(item);
    }

    /// Sends a unit that waited.
    pub(super) fn send_waiting(&mut self, waiting: Waiting) {
        let Waiting { payload, item } = waiting;
        if item.slot == ONE_NODE {
            let link = (u64::MAX - item.lane) as usize;
            return self.send_over(link, item, Raw::Payload(payload));
        }
        self.send(item, Raw::Payload(payload));
    }

    /// The front item of a link was answered. It is still there, with its bytes.
    pub(super) fn plain_answered(&mut self, link: usize, item: Item, answer: Answer) -> Result<()> {
        self.counts.replies += u64::from(item.answers);
        match answer {
            Answer::Error(text, _) => return self.plain_failed(link, item, text),
            Answer::Whole(_) => unreachable!("it is asked for batches and questions only"),
            Answer::Fine(shape, number) => {
                let right = match item.kind {
                    Kind::Plain(Expect::Status) => shape == Shape::Status,
                    Kind::Plain(Expect::StatusOrNil) if shape == Shape::Nil => {
                        return self.exists(link, item);
                    }
                    Kind::Plain(Expect::StatusOrNil) => shape == Shape::Status,
                    Kind::Plain(Expect::One) if shape == Shape::Int && number == 0 => {
                        return self.exists(link, item);
                    }
                    Kind::Plain(Expect::One | Expect::Int) => shape == Shape::Int,
                    Kind::Plain(Expect::Any) => true,
                    Kind::Gate if shape == Shape::Int && number > 0 => {
                        return self.exists(link, item);
                    }
                    Kind::Gate => shape == Shape::Int,
                    Kind::Push { before, count } => {
                        if shape == Shape::Int && number != (before + u64::from(count)) as i64 {
                            return Err(self.refused(
                                link,
                                &item,
                                &format!(
                                    "the list has {number} elements where {} were expected: another client writes to it",
                                    before + u64::from(count)
                                ),
                            ));
                        }
                        shape == Shape::Int
                    }
                    Kind::Once => shape == Shape::Int,
                    Kind::Batch | Kind::Internal | Kind::Applied | Kind::Route(_) => true,
                };
                if !right {
                    return Err(self.refused(
                        link,
                        &item,
                        &format!("it answered with {shape:?}, which is no answer to this command"),
                    ));
                }
            }
        }
        self.done(link, item);
        Ok(())
    }

    /// A unit is acknowledged; the next one of its lane follows.
    fn done(&mut self, link: usize, item: Item) {
        self.links[link].release();
        self.epochs.close(item.epoch);
        self.put_off_since = None;
        self.put_off = 0;
        self.next_of(item.lane);
    }

    fn next_of(&mut self, lane: u64) {
        let Entry::Occupied(mut busy) = self.lanes.entry(lane) else {
            return;
        };
        match busy.get_mut().pop_front() {
            None => drop(busy.remove()),
            Some(next) => {
                self.queued.remove(&next.payload);
                self.send_waiting(next);
            }
        }
    }

    /// Drops what waits for a key of which nothing more is to be sent.
    fn drop_lane(&mut self, lane: u64) {
        if let Some(group) = self.group.take_if(|group| group.item.lane == lane) {
            self.epochs.close(group.item.epoch);
        }
        for waiting in self.lanes.remove(&lane).unwrap_or_default() {
            self.queued.remove(&waiting.payload);
            self.epochs.close(waiting.item.epoch);
        }
        self.dead |= self.current == Some(lane);
    }

    /// The key is there already.
    fn exists(&mut self, link: usize, item: Item) -> Result<()> {
        if item.again && item.kind != Kind::Gate {
            // The first try may have written it. The destination had no key when the run began.
            return self.replace(link, item);
        }
        let place = self.epochs.of(item.epoch);
        if self
            .o
            .doubt_before
            .is_some_and(|before| (place.piece, place.offset) < before)
        {
            let head = self.links[link].head_of(&item, HEAD_BYTES);
            return self.reject_key(
                link,
                item,
                &head,
                "it is there: whether the run that was broken off wrote it, all of it or a part, or whether it was there \
                 before, is not known"
                    .to_owned(),
            );
        }
        match self.o.on_exist {
            Policy::Skip if item.kind == Kind::Plain(Expect::One) => {
                // Some of them are there: one by one.
                let payload = self.links[link].bytes_of(&item).into_vec();
                let mut args = Args::of(&payload);
                args.next();
                let mut singles = Vec::new();
                while let (Some(key), Some(value)) = (args.next(), args.next()) {
                    let mut bytes = Vec::new();
                    append_command(&mut bytes, &[b"SET", key, value, b"NX"]);
                    let lane = self.lane_of(item.db, key);
                    singles.push((lane, bytes));
                }
                for (lane, bytes) in singles {
                    let item = Item {
                        kind: Kind::Plain(Expect::StatusOrNil),
                        epoch: self.epochs.reopen(item.epoch),
                        lane,
                        ..item
                    };
                    // Each is a key of its own from here on; the first one's lane is busy with what they came from.
                    self.enter(item, Raw::Bytes(&bytes));
                }
                self.done(link, item);
                Ok(())
            }
            Policy::Skip => {
                self.counts.existing += 1;
                self.links[link].release();
                self.epochs.close(item.epoch);
                self.drop_lane(item.lane);
                Ok(())
            }
            _ => {
                let mut keys = vec![key_of(&self.links[link].head_of(&item, HEAD_BYTES))];
                if item.kind == Kind::Plain(Expect::One) {
                    let payload = self.links[link].bytes_of(&item).into_vec();
                    keys = Args::of(&payload)
                        .skip(1)
                        .step_by(2)
                        .map(|key| Some(key.to_vec()))
                        .collect();
                }
                let keys: Vec<Vec<u8>> = keys.into_iter().flatten().collect();
                Err(Error::plain(ErrorKind::Exists {
                    server: self.links[link].name(),
                    keys,
                    db: u64::from(item.db),
                }))
            }
        }
    }

    /// Sends a unit again in a form that does not mind what is there.
    fn replace(&mut self, link: usize, item: Item) -> Result<()> {
        let payload = self.links[link].bytes_of(&item);
        self.links[link].release();
        let item = Item {
            kind: Kind::Plain(Expect::Status),
            ..item
        };
        self.send(item, Raw::Payload(without_condition(payload)));
        Ok(())
    }

    fn plain_failed(&mut self, link: usize, item: Item, text: Vec<u8>) -> Result<()> {
        let contains = |word: &[u8]| text.windows(word.len()).any(|w| w == word);
        let did = contains(b"equal or smaller") || text.starts_with(b"BUSYGROUP");
        let loaded = item.slot == ONE_NODE
            && (contains(b"already exists") || contains(b"Library not found"));
        if item.slot == ONE_NODE
            && contains(b"Library not found")
            && !self.epochs.of(item.epoch).in_log
        {
            // Beside a snapshot libraries are deleted that may be there.
            self.done(link, item);
            return Ok(());
        }
        if (item.again || self.o.resumed) && (did || loaded) {
            // The first try did it.
            self.done(link, item);
            return Ok(());
        }
        if loaded && matches!(self.o.on_exist, Policy::Skip | Policy::Merge) {
            self.counts.libraries_there += 1;
            self.done(link, item);
            return Ok(());
        }
        match verdict(&text, self.o.dialect) {
            Verdict::Exists => self.exists(link, item),
            Verdict::Later => {
                self.counts.later += 1;
                self.put_off(link, item, &text, None)
            }
            Verdict::Unknown => {
                self.counts.again += 1;
                self.unknown_at = Some(Instant::now());
                self.doubt_routes();
                let item = self.unknown(item, &String::from_utf8_lossy(&text))?;
                // A DEL that the proxy gave up on may still come, and must not come behind what follows it.
                let head = self.links[link].head_of(&item, 16);
                let wait = head
                    .starts_with(b"*2\r\n$3\r\nDEL")
                    .then(|| self.zombie_time());
                self.put_off(link, item, &text, wait)
            }
            Verdict::Elsewhere => self.redirect(link, item, &text),
            Verdict::Payload => Err(Error::plain(ErrorKind::PayloadVersion {
                server: self.links[link].name(),
                key: key_of(&self.links[link].head_of(&item, HEAD_BYTES)).unwrap_or_default(),
                db: u64::from(item.db),
                reply: String::from_utf8_lossy(&text).into_owned(),
            })),
            Verdict::Login => Err(Error::plain(ErrorKind::Login {
                server: self.links[link].name(),
                why: String::from_utf8_lossy(&text).into_owned(),
            })),
            Verdict::NoScript | Verdict::Aborted | Verdict::Refused => {
                self.counts.errors += 1;
                let said = String::from_utf8_lossy(&text).into_owned();
                if self.o.on_error == OnError::Stop {
                    self.counts.rejected += 1;
                    return Err(self.refused(link, &item, &said));
                }
                let head = self.links[link].head_of(&item, HEAD_BYTES);
                self.reject_key(link, item, &head, said)
            }
        }
    }

    /// A key is counted as refused, and nothing more of it is sent.
    fn reject_key(&mut self, link: usize, item: Item, head: &[u8], error: String) -> Result<()> {
        let key = key_of(head).unwrap_or_default();
        let name = Args::of(head).next().unwrap_or_default();
        self.counts.rejected += 1;
        (self.o.reject)(&Reject {
            db: Some(u64::from(item.db)),
            key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
            type_name: String::new(),
            command: String::from_utf8_lossy(name).into_owned(),
            error,
        })?;
        self.links[link].release();
        self.epochs.close(item.epoch);
        self.drop_lane(item.lane);
        Ok(())
    }

    /// A unit may have been applied or not; it goes once more. Errors: it must not, or it was tried for too long.
    pub(super) fn unknown(&self, item: Item, why: &str) -> Result<Item> {
        let now = Instant::now();
        let since = *item.since.as_ref().unwrap_or(&now);
        let too_long = now.saturating_duration_since(since) > self.o.retry_for;
        if item.kind == Kind::Once || too_long {
            let why = if too_long {
                format!(
                    "{why}; so it went for {} s, each time this was sent",
                    self.o.retry_for.as_secs()
                )
            } else {
                format!(
                    "{why}; whether it was applied is not known, and to send it again could double it: load the keys \
                     again with --on-exist replace"
                )
            };
            return Err(Error::plain(ErrorKind::Lost {
                server: self.destination(),
                why,
            }));
        }
        Ok(Item {
            again: true,
            since: Some(since),
            ..item
        })
    }

    /// A unit that was certainly not applied, or does no harm when it is applied again, goes once more after a while.
    pub(super) fn put_off(
        &mut self,
        link: usize,
        item: Item,
        text: &[u8],
        wait: Option<Duration>,
    ) -> Result<()> {
        let now = Instant::now();
        self.last_error = format!(
            "{}: {}",
            self.links[link].name(),
            String::from_utf8_lossy(text)
        );
        if self.is_out_of_patience(now) {
            return Err(self.refused(
                link,
                &item,
                &format!(
                    "{}, for {} s without anything being taken",
                    String::from_utf8_lossy(text),
                    self.o.retry_for.as_secs()
                ),
            ));
        }
        let payload = self.links[link].bytes_of(&item);
        self.links[link].release();
        self.put_off += 1;
        // The first ones soon, later ones after a second.
        let pause = Duration::from_millis(20 * u64::from(self.put_off.min(50)));
        let until = now + wait.unwrap_or(pause);
        self.queued.add(&payload);
        self.later.push((until, Waiting { payload, item }));
        Ok(())
    }

    /// The error that ends a run.
    pub(super) fn refused(&self, link: usize, item: &Item, said: &str) -> Error {
        let head = self.links[link].head_of(item, HEAD_BYTES);
        let name = Args::of(&head).next().unwrap_or_default();
        Error::plain(ErrorKind::Refused {
            server: self.links[link].name(),
            command: String::from_utf8_lossy(name).into_owned(),
            key: key_of(&head).unwrap_or_default(),
            db: u64::from(item.db),
            reply: said.to_owned(),
        })
    }
}

/// Whether a SET has NX for its last word.
fn ends_with_nx(raw: &Raw<'_>) -> bool {
    const NX: &[u8] = b"$2\r\nNX\r\n";
    match raw {
        Raw::Bytes(bytes) => bytes.ends_with(NX),
        Raw::Payload(payload) => payload
            .pieces()
            .last()
            .is_some_and(|piece| piece.ends_with(NX)),
    }
}

/// The same command in a form that replaces what is there.
fn without_condition(payload: Payload) -> Payload {
    // MSETNX, SET … NX and RESTORE: only the last may be too large to be put together here.
    if let Payload::Pieces(mut pieces) = payload {
        let mut first = pieces.remove(0).bytes().to_vec();
        let is_restore = Args::of(&first).next() == Some(b"RESTORE");
        let rest = Payload::Pieces(pieces);
        if !is_restore {
            first.extend(rest.into_vec());
            return without_condition(Payload::Small(first));
        }
        let Payload::Pieces(mut pieces) = rest else {
            unreachable!("it was made one line above")
        };
        pieces.insert(0, super::payload::Piece::Owned(with_count(&first, 1)));
        pieces.push(super::payload::Piece::Owned(b"$7\r\nREPLACE\r\n".to_vec()));
        return Payload::Pieces(pieces);
    }
    let bytes = payload.into_vec();
    let args: Vec<&[u8]> = Args::of(&bytes).collect();
    let mut out = Vec::with_capacity(bytes.len() + 16);
    match args.first() {
        Some(&b"MSETNX") => {
            let args: Vec<&[u8]> = [&b"MSET"[..]]
                .into_iter()
                .chain(args[1..].iter().copied())
                .collect();
            append_command(&mut out, &args);
        }
        Some(&b"RESTORE") => {
            let args: Vec<&[u8]> = args.iter().copied().chain([&b"REPLACE"[..]]).collect();
            append_command(&mut out, &args);
        }
        Some(&b"SET") => append_command(&mut out, &args[..args.len() - 1]),
        _ => return Payload::Small(bytes),
    }
    Payload::Small(out)
}

/// The head of a command with more arguments.
fn with_count(head: &[u8], more: u64) -> Vec<u8> {
    let count = Args::of(head).left() + more;
    let first = head
        .iter()
        .position(|b| *b == b'\n')
        .map_or(head.len(), |end| end + 1);
    let mut out = format!("*{count}\r\n").into_bytes();
    out.extend_from_slice(&head[first..]);
    out
}

/// RPUSH as a script that appends once only.
pub(super) fn append_if(payload: Payload, before: u64) -> Vec<u8> {
    let bytes = payload.into_vec();
    let args: Vec<&[u8]> = Args::of(&bytes).collect();
    let digits = before.to_string();
    let mut all: Vec<&[u8]> = vec![
        b"EVAL",
        APPEND_IF.as_bytes(),
        b"1",
        args.get(1).copied().unwrap_or_default(),
        digits.as_bytes(),
    ];
    all.extend(args.iter().skip(2));
    let mut out = Vec::with_capacity(bytes.len() + APPEND_IF.len() + 64);
    append_command(&mut out, &all);
    out
}
