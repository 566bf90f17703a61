//! The loop: sockets are written and read, answers lead to what follows, lost connections are opened again.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::link::{Answer, Down, Expect, Item, Kind, Unsent};
use super::payload::Payload;
use super::script::FORGET;
use super::snapshot::ONE_NODE;
use super::{QUEUED_BYTES, QUEUED_COMMANDS, SAVE_EVERY, ServerSink, Waiting};
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::write::append_command;
use crate::server::connection::Connection;
use crate::server::endpoint::Address;
use crate::server::preflight::RUN_ID_SCRIPT;
use crate::server::reply::Reply;
use crate::server::slots::{Slots, redirect};

/// The longest wait in one step, so that nothing is overlooked for longer.
const STEP: Duration = Duration::from_millis(100);
/// After a proxy gave up on a server it is asked so often, and at these intervals, where keys lead to.
const ROUTE_CHECKS: u32 = 6;
const ROUTES_EVERY: Duration = Duration::from_millis(300);
/// Between two looks at the slots of a cluster.
const SLOTS_EVERY: Duration = Duration::from_millis(200);
/// The longest pause between two tries to open a connection.
const PAUSE: Duration = Duration::from_secs(5);

impl ServerSink<'_> {
    /// Waits while more is kept than may be.
    pub(super) fn make_room(&mut self) -> Result<()> {
        while self.is_full() {
            self.step(STEP)?;
        }
        Ok(())
    }

    /// Whether more waits in the lanes than may.
    pub(super) fn is_overfull(&self) -> bool {
        self.queued.bytes > QUEUED_BYTES || self.queued.commands > QUEUED_COMMANDS
    }

    /// The destination takes nothing at present. Whether that has been so for too long.
    pub(super) fn is_out_of_patience(&mut self, now: Instant) -> bool {
        let since = *self.put_off_since.get_or_insert(now);
        now.saturating_duration_since(since) > self.o.retry_for
    }

    fn is_full(&self) -> bool {
        self.is_overfull()
            // What a window does not let out yet may wait behind it, up to once more of the same.
            || self.links.iter().any(|link| {
                link.is_full()
                    && (link.held() > 2 * self.o.window_bytes
                        || link.waiting() > 2 * self.o.window as usize)
            })
    }

    /// Waits until everything is acknowledged.
    pub fn drain(&mut self) -> Result<()> {
        self.end_group_of_key();
        while !self.is_idle() {
            self.step(STEP)?;
        }
        Ok(())
    }

    /// Whether everything is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.lanes.is_empty()
            && self.later.is_empty()
            && self.log_lanes.values().all(|lane| lane.is_idle())
            && self.links.iter().all(|link| link.is_idle())
    }

    /// Waits for the answers of what is on its way, for so long at most; nothing else is sent. Then writes down how far
    /// everything is acknowledged.
    pub fn stop(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        self.stopping = true;
        for link in &mut self.links {
            link.frozen = true;
        }
        while Instant::now() < end && self.links.iter().any(|link| link.is_awaiting()) {
            if self.step(STEP.min(limit)).is_err() {
                break;
            }
        }
        // A failure here would hide the one that stopped the run; the next run begins at the older place.
        let _ = self.save(Instant::now());
    }

    /// One round: opens what is due, writes, waits for so long at most, reads, and acts on what came.
    pub(super) fn step(&mut self, wait: Duration) -> Result<()> {
        let now = Instant::now();
        if !self.stopping {
            self.progress.check_stop()?;
            self.open_links(now)?;
            self.send_later(now)?;
            self.ask_routes(now);
        }
        let mut wait = wait;
        for i in 0..self.links.len() {
            if let Err(error) = self.links[i].write() {
                self.lost(i, &error)?;
            }
            if let Some(down) = &self.links[i].down {
                wait = wait.min(down.until.saturating_duration_since(now));
            }
        }
        for (until, _) in &self.later {
            wait = wait.min(until.saturating_duration_since(now));
        }
        let ready = self.poll(wait)?;
        for i in ready {
            self.read(i)?;
        }
        let now = Instant::now();
        for i in 0..self.links.len() {
            if self.links[i]
                .silence(now)
                .is_some_and(|silence| silence > self.o.answer_within)
            {
                let error = io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no answer for {} s", self.o.answer_within.as_secs_f32()),
                );
                self.lost(i, &error)?;
            }
        }
        if now.saturating_duration_since(self.saved) >= SAVE_EVERY {
            self.save(now)?;
        }
        Ok(())
    }

    /// Between two looks at a log that is followed: what came is read, and what is due is written down.
    pub fn tick(&mut self) -> Result<()> {
        self.step(Duration::ZERO)
    }

    /// Writes down how far everything is acknowledged.
    pub fn save_now(&mut self) -> Result<()> {
        self.saved_place = None;
        self.save(Instant::now())
    }

    /// The destination, for messages.
    pub fn destination(&self) -> String {
        self.o.endpoint.address.to_string()
    }

    /// Writes down how far everything is acknowledged, if it is further than the last time.
    fn save(&mut self, now: Instant) -> Result<()> {
        self.saved = now;
        let place = self.epochs.acknowledged();
        if (self.o.resume).is_some_and(|resume| place.is_before(&resume)) {
            // What is only read again is no way back: there the next run would load a snapshot over what the log has done
            // behind it, and pass over the log's commands as applied.
            return Ok(());
        }
        if self.saved_place != Some(place) {
            self.saved_place = Some(place);
            (self.o.save)(&place)?;
        }
        Ok(())
    }

    /// Links that have something to read.
    fn poll(&mut self, wait: Duration) -> Result<Vec<usize>> {
        let mut indexes = Vec::new();
        let mut fds = Vec::new();
        let mut buffered = Vec::new();
        for (i, link) in self.links.iter().enumerate() {
            let Some(connection) = &link.connection else {
                continue;
            };
            if connection.has_buffered_input() {
                buffered.push(i);
            }
            let mut flags = PollFlags::IN;
            if link.wants_write() {
                flags |= PollFlags::OUT;
            }
            indexes.push(i);
            fds.push(PollFd::from_borrowed_fd(connection.fd(), flags));
        }
        if !buffered.is_empty() {
            return Ok(buffered);
        }
        if fds.is_empty() {
            std::thread::sleep(wait);
            return Ok(Vec::new());
        }
        let wait = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match poll(&mut fds, Some(&wait)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(Error::io("the connections cannot be waited for", e.into())),
        }
        Ok(fds
            .iter()
            .zip(indexes)
            .filter(|(fd, _)| {
                fd.revents()
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            })
            .map(|(_, i)| i)
            .collect())
    }

    /// Reads what a link has, and acts on it.
    fn read(&mut self, i: usize) -> Result<()> {
        loop {
            match self.links[i].read() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => return self.lost(i, &error),
            }
            loop {
                match self.links[i].answered() {
                    Ok(None) => break,
                    Ok(Some((item, answer))) => {
                        if let Err(error) = self.act(i, item, answer) {
                            // It has its answer, whatever that was.
                            self.links[i].release_if(&item);
                            return Err(error);
                        }
                    }
                    Err(what) => {
                        let error = io::Error::new(io::ErrorKind::InvalidData, what);
                        return self.lost(i, &error);
                    }
                }
            }
            // What was just acknowledged has made room for more.
            if let Err(error) = self.links[i].write() {
                return self.lost(i, &error);
            }
        }
    }

    /// What follows from an answer.
    fn act(&mut self, i: usize, item: Item, answer: Answer) -> Result<()> {
        match (item.kind, answer) {
            (Kind::Internal, Answer::Error(text, _)) => Err(self.internal_failed(i, &item, &text)),
            (Kind::Internal, _) => {
                self.links[i].release();
                Ok(())
            }
            (Kind::Batch, answer) => self.batch_answered(i, item, answer),
            (Kind::Applied, answer) => self.applied_answered(i, item, answer),
            (Kind::Route(n), answer) => {
                self.links[i].release();
                self.lanes.remove(&item.lane);
                self.epochs.close(item.epoch);
                self.route_answered(usize::from(n), &answer)
            }
            (_, answer) => self.plain_answered(i, item, answer),
        }
    }

    /// A proxy has given up on a server: it may take it out, and send its keys to others. For a while it is asked where
    /// keys lead to.
    pub(super) fn doubt_routes(&mut self) {
        if !self.o.routes.is_empty() {
            let due = self.routes_due.map(|(due, _)| due);
            let soon = Instant::now() + ROUTES_EVERY / 4;
            self.routes_due = Some((due.map_or(soon, |due| due.min(soon)), ROUTE_CHECKS));
        }
    }

    fn ask_routes(&mut self, now: Instant) {
        let Some((_, left)) = self.routes_due.filter(|(due, _)| *due <= now) else {
            return;
        };
        self.routes_due = (left > 1).then(|| (now + ROUTES_EVERY, left - 1));
        for n in 0..self.o.routes.len().min(usize::from(u16::MAX)) {
            let key = self.o.routes[n].0.clone();
            let lane = self.lane_of(u32::MAX, &key);
            if self.lanes.contains_key(&lane) {
                // It was asked and has not been answered yet.
                continue;
            }
            let mut bytes = Vec::new();
            append_command(&mut bytes, &[b"EVAL", RUN_ID_SCRIPT, b"1", &key]);
            let item = Item::new(Kind::Route(n as u16), lane, 0, 0, self.epochs.open());
            self.lanes.insert(lane, Default::default());
            self.send_over(0, item, super::Raw::Bytes(&bytes));
        }
    }

    /// Errors: a key leads to another server than before.
    fn route_answered(&self, n: usize, answer: &Answer) -> Result<()> {
        let Answer::Whole(Reply::Bulk(found)) = answer else {
            // It has no answer now; that alone says nothing.
            return Ok(());
        };
        let (_, known) = &self.o.routes[n];
        let is = |run_id: &str| run_id.as_bytes() == &found[..];
        // A server that was started anew is none of those that were there, and told of at the end.
        let another = self.o.routes.iter().any(|(_, run_id)| is(run_id));
        if is(known) || !another {
            return Ok(());
        }
        Err(Error::plain(ErrorKind::Unfit(format!(
            "{} has ejected a server and sends its keys to others (auto_eject_hosts: true), where nobody will look for them \
             when it is back: set auto_eject_hosts to false, empty the destination, and start over",
            self.destination()
        ))))
    }

    fn internal_failed(&self, i: usize, item: &Item, text: &[u8]) -> Error {
        let said = String::from_utf8_lossy(text).into_owned();
        if said.starts_with("NOPERM") || said.starts_with("NOAUTH") {
            return Error::plain(ErrorKind::Login {
                server: self.links[i].name(),
                why: said,
            });
        }
        self.refused(i, item, &said)
    }

    /// A connection is gone: what it had not answered is sent again, once there is another one.
    pub(super) fn lost(&mut self, i: usize, error: &io::Error) -> Result<()> {
        let now = Instant::now();
        self.last_error = format!("{}: {error}", self.links[i].name());
        self.counts.reconnected += 1;
        if self.o.dialect == Dialect::Twemproxy {
            self.unknown_at = Some(now);
        }
        if self.is_out_of_patience(now) {
            return Err(Error::plain(ErrorKind::Unreachable {
                server: self.links[i].name(),
                why: format!(
                    "{error}; for {} s no connection lasted until anything was acknowledged",
                    self.o.retry_for.as_secs()
                ),
            }));
        }
        let unsent = self.links[i].fail();
        let pause = Duration::from_millis(50);
        self.links[i].down = Some(Down {
            since: now,
            until: now + pause,
            attempts: 0,
        });
        self.requeue(unsent)
    }

    /// Lets what a connection had not answered wait for the next one, in the same order.
    fn requeue(&mut self, unsent: Vec<Unsent>) -> Result<()> {
        let now = Instant::now();
        for Unsent {
            mut item,
            payload,
            sent,
        } in unsent
        {
            match item.kind {
                Kind::Batch | Kind::Applied => {
                    self.unsent_batch(item, sent)?;
                    continue;
                }
                // They are asked again after every trouble.
                Kind::Internal => continue,
                Kind::Route(_) => {
                    self.lanes.remove(&item.lane);
                    self.epochs.close(item.epoch);
                    continue;
                }
                _ => {}
            }
            let mut payload = payload;
            let mut until = now;
            if sent {
                self.counts.again += 1;
                if let (Kind::Push { before, .. }, false) = (item.kind, item.again)
                    && self.o.dialect != Dialect::Twemproxy
                {
                    payload = Payload::Small(super::snapshot::append_if(payload, before));
                }
                item = self.unknown(item, &self.last_error)?;
                if self.o.dialect == Dialect::Twemproxy
                    && payload.head(16).starts_with(b"*2\r\n$3\r\nDEL")
                {
                    until += self.zombie_time();
                }
            }
            self.queued.add(&payload);
            self.later.push((until, Waiting { payload, item }));
        }
        Ok(())
    }

    /// Sends what was put off and is due, if its connection is there.
    fn send_later(&mut self, now: Instant) -> Result<()> {
        if self.later.is_empty() {
            return Ok(());
        }
        let mut due = Vec::new();
        self.later.retain_mut(|(until, waiting)| {
            if *until > now {
                return true;
            }
            due.push(std::mem::replace(
                waiting,
                Waiting {
                    payload: Payload::Small(Vec::new()),
                    item: waiting.item,
                },
            ));
            false
        });
        for waiting in due {
            self.queued.remove(&waiting.payload);
            match waiting.item.kind {
                Kind::Batch => self.log_lane_due(waiting.item.lane)?,
                _ => self.send_waiting(waiting),
            }
        }
        Ok(())
    }

    /// Opens connections that are due.
    fn open_links(&mut self, now: Instant) -> Result<()> {
        let kills = self.kills();
        for i in 0..self.links.len() {
            let Some(down) = self.links[i].down else {
                continue;
            };
            if down.until > now {
                continue;
            }
            let name = self.client_name();
            match self.links[i].open(kills, self.o.imports, &name) {
                Ok(()) => {
                    // Slots may have moved while it was away.
                    if down.attempts > 0 {
                        self.refresh_slots(i);
                    }
                }
                Err(error) => {
                    if matches!(error.kind(), ErrorKind::Login { .. }) {
                        return Err(error);
                    }
                    if now.saturating_duration_since(down.since) > self.o.retry_for {
                        return Err(self.given_up(error));
                    }
                    self.last_error = error.to_string();
                    let pause = Duration::from_millis(100 << down.attempts.min(6)).min(PAUSE);
                    self.links[i].down = Some(Down {
                        until: Instant::now() + pause,
                        attempts: down.attempts + 1,
                        ..down
                    });
                    if self.o.slots.is_some() {
                        self.fail_over(i)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Why a run ends whose server did not come back.
    fn given_up(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Unreachable { server, why } => Error::plain(ErrorKind::Unreachable {
                server: server.clone(),
                why: format!(
                    "the connection was lost, and for {} s it could not be opened again: {why}",
                    self.o.retry_for.as_secs()
                ),
            }),
            _ => error,
        }
    }

    /// A node of the cluster is away: where another one has its slots now, what waits for it goes there.
    fn fail_over(&mut self, i: usize) -> Result<()> {
        let before = self.o.slots.clone();
        self.refresh_slots(0);
        if before == self.o.slots {
            return Ok(());
        }
        let unsent = self.links[i].fail();
        self.requeue(unsent)?;
        let used = self
            .masters
            .iter()
            .any(|first| (*first..*first + self.o.connections.max(1)).contains(&i));
        if !used {
            // It may never come back, and nobody waits for it.
            self.links[i].down = None;
            self.failed_over += 1;
        }
        Ok(())
    }

    /// Asks the cluster where its slots are, the node behind `first` before all others, and no more than five times a
    /// second. What cannot be found out now is asked again later.
    pub(super) fn refresh_slots(&mut self, first: usize) {
        let now = Instant::now();
        let again = self
            .slots_asked
            .is_some_and(|asked| now.saturating_duration_since(asked) < SLOTS_EVERY);
        if self.o.slots.is_none() || again {
            return;
        }
        self.slots_asked = Some(now);
        let (before, from) = self.links.split_at(first);
        let links = from.iter().chain(before);
        let mut endpoints: Vec<_> = links.map(|link| link.endpoint.clone()).collect();
        endpoints.dedup_by_key(|endpoint| endpoint.address.to_string());
        for endpoint in endpoints {
            let Ok(mut connection) = Connection::open(&endpoint) else {
                continue;
            };
            let Ok(Reply::Array(answer)) = connection.call(&[b"CLUSTER", b"SLOTS"]) else {
                continue;
            };
            let Address::Tcp { host, .. } = &endpoint.address else {
                continue;
            };
            let Ok(slots) = Slots::parse(&Reply::Array(answer), host) else {
                continue;
            };
            if slots.covers_all() {
                self.o.slots = Some(slots);
                self.find_masters();
                return;
            }
        }
    }

    /// A node said that another one has the slot.
    pub(super) fn redirect(&mut self, link: usize, item: Item, text: &[u8]) -> Result<()> {
        self.counts.redirected += 1;
        let Some(to) = redirect(text) else {
            return Err(self.refused(link, &item, &String::from_utf8_lossy(text)));
        };
        if self.is_out_of_patience(Instant::now()) {
            return Err(self.refused(
                link,
                &item,
                &format!("{}, again and again", String::from_utf8_lossy(text)),
            ));
        }
        // An empty host is the one that was asked.
        let host = if to.host.is_empty() {
            self.links[link].host()
        } else {
            to.host.clone()
        };
        let payload = self.links[link].bytes_of(&item);
        self.links[link].release();
        let first = self.node(&host, to.port);
        let target = first + (item.lane % self.o.connections.max(1) as u64) as usize;
        if to.ask {
            self.links[target].append(b"*1\r\n$6\r\nASKING\r\n");
            self.links[target].push(Item {
                kind: Kind::Internal,
                answers: 1,
                ..item
            });
        } else if let Some(slots) = &mut self.o.slots {
            slots.moved(to.slot, &host, to.port);
            self.find_masters();
            // Seldom is it one slot alone.
            self.refresh_slots(first);
        }
        match item.kind {
            Kind::Batch => return self.batch_redirected(item, to.ask, target),
            Kind::Applied => return self.log_lane_due(item.lane),
            _ => self.send_over(target, item, super::Raw::Payload(payload)),
        }
        Ok(())
    }

    /// The end of a run that did everything: waits for all answers, then takes away what was written down at the
    /// destination, unless the run shall go on from there.
    pub fn finish(&mut self, representatives: &[Vec<u8>]) -> Result<()> {
        // A server that was taken out a moment ago is still to be found out.
        while !self.is_idle() || self.routes_due.is_some() {
            self.step(STEP)?;
        }
        self.save(Instant::now())?;
        self.forget(representatives)
    }

    /// Removes the records of logs from a destination to which no later run will come back, as far as it can be reached.
    pub fn abandon(&mut self, representatives: &[Vec<u8>]) {
        let mut connections: HashMap<usize, Option<Connection>> = HashMap::new();
        for (key, command) in self.removals(representatives) {
            let link = self.link_of(self.lane_of(0, &key), self.slot_of(&key));
            let endpoint = &self.links[link].endpoint;
            let connection = connections
                .entry(link)
                .or_insert_with(|| Connection::open(endpoint).ok());
            if let Some(connection) = connection {
                let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
                // What cannot be removed stays: it is of no harm to any other run.
                drop(connection.call(&args));
            }
        }
    }

    /// Removes the records of logs at the destination.
    fn forget(&mut self, representatives: &[Vec<u8>]) -> Result<()> {
        for (key, command) in self.removals(representatives) {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            let mut bytes = Vec::new();
            append_command(&mut bytes, &args);
            self.helper(&key, bytes)?;
        }
        self.log_lanes.clear();
        self.drain()
    }

    /// Removes the records of another run, which nobody will go on with, whichever it had.
    pub fn forget_run(&mut self, run: &str, representatives: &[Vec<u8>]) -> Result<()> {
        let own = std::mem::replace(&mut self.o.run, run.to_owned());
        let commands = self.removals_of(self.all_lanes(), representatives);
        self.o.run = own;
        for (key, command) in commands {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            let mut bytes = Vec::new();
            append_command(&mut bytes, &args);
            self.helper(&key, bytes)?;
        }
        self.drain()
    }

    /// The commands that remove the records of logs, each behind the key that leads to its server.
    fn removals(&mut self, representatives: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
        let lanes: Vec<u64> = match self.o.resumed {
            // Which of them an earlier part of the run had is not known.
            true => self.all_lanes(),
            false => self.log_lanes.keys().copied().collect(),
        };
        match lanes.is_empty() {
            true => Vec::new(),
            false => self.removals_of(lanes, representatives),
        }
    }

    /// All lanes that a log may have: the slots of a cluster, or one.
    fn all_lanes(&self) -> Vec<u64> {
        let lanes = match self.o.dialect {
            Dialect::Cluster => 0..16_384,
            Dialect::Redis | Dialect::Twemproxy => 0..1,
        };
        lanes.collect()
    }

    fn removals_of(
        &mut self,
        lanes: Vec<u64>,
        representatives: &[Vec<u8>],
    ) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
        if self.o.dialect == Dialect::Twemproxy {
            let hash = self.record_name().into_bytes();
            let words = |key: &Vec<u8>| {
                let script = FORGET.as_bytes().to_vec();
                vec![
                    b"EVAL".to_vec(),
                    script,
                    b"1".to_vec(),
                    key.clone(),
                    hash.clone(),
                ]
            };
            return representatives
                .iter()
                .map(|key| (key.clone(), words(key)))
                .collect();
        }
        lanes
            .into_iter()
            .map(|lane| {
                let record = self.record_of(lane).into_bytes();
                (record.clone(), vec![b"DEL".to_vec(), record])
            })
            .collect()
    }

    /// Sends a command about a key of our own, in database 0.
    fn helper(&mut self, key: &[u8], bytes: Vec<u8>) -> Result<()> {
        let lane = self.lane_of(0, key);
        let kind = Kind::Plain(Expect::Int);
        let item = Item::new(kind, lane, self.slot_of(key), 0, self.epochs.open());
        debug_assert_ne!(item.slot, ONE_NODE);
        self.lanes.insert(lane, Default::default());
        self.send_waiting(Waiting {
            payload: Payload::Small(bytes),
            item,
        });
        self.counts.replies = self.counts.replies.saturating_sub(1);
        self.make_room()
    }
}
