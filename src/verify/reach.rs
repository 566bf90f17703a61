//! Questions to a destination, whatever it is: each worker has its own connections, and a question whose answer did not
//! come is simply asked again, for nothing changes by being read.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::Options;
use crate::command::keys::slot;
use crate::command::target::Dialect;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Progress;
use crate::resp::write::append_command;
use crate::server::connection::Connection;
use crate::server::endpoint::{Address, Endpoint};
use crate::server::reply::Reply;
use crate::server::slots::{Slots, redirect};
use crate::sink::server::answer::{Verdict, verdict};

/// Bytes of commands that are sent at once.
const WINDOW_BYTES: usize = 1 << 20;
/// The first pause between two tries, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Commands that only read, ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Asks {
    bytes: Vec<u8>,
    asks: Vec<Ask>,
}

#[derive(Debug, Clone, Copy)]
struct Ask {
    end: usize,
    db: u64,
    slot: u16,
}

impl Asks {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.asks.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.asks.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.asks.is_empty()
    }

    /// Adds a command about `key` and gives its number.
    pub(super) fn push(&mut self, db: u64, key: &[u8], args: &[&[u8]]) -> usize {
        append_command(&mut self.bytes, args);
        self.asks.push(Ask {
            end: self.bytes.len(),
            db,
            slot: slot(key),
        });
        self.asks.len() - 1
    }

    fn encoded(&self, n: usize) -> &[u8] {
        let from = n.checked_sub(1).map_or(0, |before| self.asks[before].end);
        &self.bytes[from..self.asks[n].end]
    }
}

struct Open {
    connection: Connection,
    db: u64,
}

/// The connections of one worker.
pub(super) struct Reach<'s> {
    options: &'s Options,
    pace: &'s Pace,
    progress: &'s Progress,
    slots: Option<Slots>,
    /// By the node's number in the slot table; a server or proxy is number 0.
    open: Vec<Option<Open>>,
    /// Bytes of answers so far, roughly.
    pub(super) bytes: u64,
}

/// What is left of a round.
#[derive(Default)]
struct Left {
    again: Vec<usize>,
    /// To be asked behind ASKING, at this node.
    asking: Vec<(usize, String, u16)>,
    /// Why something has to be waited for.
    why: Option<Error>,
    stale: bool,
}

impl<'s> Reach<'s> {
    pub(super) fn new(options: &'s Options, pace: &'s Pace, progress: &'s Progress) -> Reach<'s> {
        Reach {
            options,
            pace,
            progress,
            slots: options.destination.slots.clone(),
            open: Vec::new(),
            bytes: 0,
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        self.options.endpoint.address.to_string()
    }

    /// Waits until so many further keys and bytes may be asked for.
    pub(super) fn wait_for_turn(&self, keys: u64, bytes: u64) -> Result<()> {
        self.pace.wait(keys, bytes, self.progress)
    }

    pub(super) fn check_stop(&self) -> Result<()> {
        self.progress.check_stop()
    }

    /// Asks one thing.
    pub(super) fn one(&mut self, db: u64, key: &[u8], args: &[&[u8]]) -> Result<Reply> {
        let mut asks = Asks::default();
        asks.push(db, key, args);
        Ok(self.ask(&asks)?.pop().unwrap_or(Reply::Nil))
    }

    /// Asks all, and gives the answers in the same order. An error that says "not now" or "elsewhere" is not an answer.
    pub(super) fn ask(&mut self, asks: &Asks) -> Result<Vec<Reply>> {
        let mut answers = vec![Reply::Nil; asks.len()];
        let mut open: Vec<usize> = (0..asks.len()).collect();
        let mut last_answer = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            self.progress.check_stop()?;
            let mut left = Left::default();
            let before = open.len();
            self.round(asks, &open, &mut answers, &mut left)?;
            self.follow(asks, &mut answers, &mut left)?;
            if left.again.is_empty() {
                return Ok(answers);
            }
            if left.again.len() < before {
                last_answer = Instant::now();
                pause = PAUSES.0;
            }
            open = std::mem::take(&mut left.again);
            open.sort_unstable();
            if let Some(why) = left.why {
                if last_answer.elapsed() > self.options.retry_for {
                    return Err(why);
                }
                let end = Instant::now() + pause;
                while Instant::now() < end {
                    self.progress.check_stop()?;
                    std::thread::sleep(Duration::from_millis(20).min(pause));
                }
                pause = (pause * 2).min(PAUSES.1);
                left.stale = true;
            }
            if left.stale {
                self.read_slots();
            }
        }
    }

    /// Sends what is open to the nodes to which it belongs.
    fn round(
        &mut self,
        asks: &Asks,
        open: &[usize],
        answers: &mut [Reply],
        left: &mut Left,
    ) -> Result<()> {
        let nodes = self.slots.as_ref().map_or(1, |slots| slots.nodes().len());
        let mut of_node: Vec<Vec<usize>> = vec![Vec::new(); nodes.max(1)];
        for &n in open {
            let node = match &self.slots {
                // A slot that nobody has is asked for anywhere: the answer tells where it is, or to wait.
                Some(slots) => slots.owner(asks.asks[n].slot).unwrap_or(0),
                None => 0,
            };
            of_node[node].push(n);
        }
        for (node, mut rest) in of_node.iter().map(Vec::as_slice).enumerate() {
            while !rest.is_empty() {
                let mut bytes = 0;
                let most = rest.len().min(self.options.window.max(1));
                let some = rest[..most]
                    .iter()
                    .take_while(|n| {
                        let first = bytes == 0;
                        bytes += asks.encoded(**n).len();
                        first || bytes <= WINDOW_BYTES
                    })
                    .count();
                let (now, later) = rest.split_at(some);
                self.window(node, asks, now, answers, left)?;
                rest = later;
            }
        }
        Ok(())
    }

    fn window(
        &mut self,
        node: usize,
        asks: &Asks,
        now: &[usize],
        answers: &mut [Reply],
        left: &mut Left,
    ) -> Result<()> {
        let replies = match self.exchange(node, asks, now) {
            Ok(replies) => replies,
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable { .. }) => {
                self.open[node] = None;
                left.again.extend_from_slice(now);
                left.why = Some(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for (&n, reply) in now.iter().zip(replies) {
            self.bytes += reply.bytes().map_or(8, <[u8]>::len) as u64;
            self.take(n, reply, answers, left)?;
        }
        Ok(())
    }

    fn exchange(&mut self, node: usize, asks: &Asks, now: &[usize]) -> Result<Vec<Reply>> {
        if self.open.len() <= node {
            self.open.resize_with(node + 1, || None);
        }
        if self.open[node].is_none() {
            let endpoint = self.endpoint(node);
            let mut connection = Connection::open(&endpoint)?;
            connection.set_timeout(self.options.answer_within);
            self.open[node] = Some(Open { connection, db: 0 });
        }
        let open = self.open[node].as_mut().expect("it was opened above");
        let selects = !self.options.destination.dialect.single_db();
        let mut out = Vec::new();
        let mut extra = Vec::new();
        for (i, &n) in now.iter().enumerate() {
            let db = asks.asks[n].db;
            if selects && db != open.db {
                append_command(
                    &mut out,
                    &[b"SELECT", itoa::Buffer::new().format(db).as_bytes()],
                );
                extra.push((i + extra.len(), db));
                open.db = db;
            }
            out.extend_from_slice(asks.encoded(n));
        }
        let mut replies = open
            .connection
            .calls_encoded(&out, now.len() + extra.len())?;
        for (at, db) in extra.into_iter().rev() {
            let reply = replies.remove(at);
            if let Some(words) = reply.error()
                && verdict(words, Dialect::Redis) != Verdict::Later
            {
                return Err(Error::unfit(format!(
                    "{} has no database {db}, which holds keys of the input: it answers {}; --db-map says where they are, \
                     --not-db leaves them out",
                    open.connection.name(),
                    String::from_utf8_lossy(words)
                )));
            }
            if reply.error().is_some() {
                // It loads its data: what was asked behind this has such an answer too.
                self.open[node] = None;
                return Err(Error::unreachable(self.name(), "it is loading its data"));
            }
        }
        Ok(replies)
    }

    fn endpoint(&self, node: usize) -> Endpoint {
        let node = self
            .slots
            .as_ref()
            .and_then(|slots| slots.nodes().get(node));
        match node {
            Some(node) => self.options.endpoint.at(&node.host, node.port),
            None => self.options.endpoint.clone(),
        }
    }

    fn take(
        &mut self,
        n: usize,
        reply: Reply,
        answers: &mut [Reply],
        left: &mut Left,
    ) -> Result<()> {
        let Some(words) = reply.error() else {
            answers[n] = reply;
            return Ok(());
        };
        let said = || String::from_utf8_lossy(words).into_owned();
        match verdict(words, self.options.destination.dialect) {
            Verdict::Later | Verdict::Unknown => {
                left.again.push(n);
                left.why = Some(Error::unreachable(
                    self.name(),
                    format!("it goes on answering {}", said()),
                ));
            }
            Verdict::Elsewhere => {
                let Some(to) = redirect(words) else {
                    return Err(super::odd_answer(&self.name(), "a read", &reply));
                };
                if to.ask {
                    left.asking.push((n, to.host, to.port));
                } else {
                    let known = self.slots.as_mut();
                    left.stale |=
                        known.is_none_or(|s| s.moved(to.slot, &to.host, to.port).is_none());
                    left.again.push(n);
                }
            }
            Verdict::Login => {
                return Err(Error::plain(ErrorKind::Login {
                    server: self.name(),
                    why: format!(
                        "the user must be able to read everything (ACL +@read ~*), and with scripts +eval; it answered {}",
                        said()
                    ),
                }));
            }
            Verdict::Exists
            | Verdict::NoScript
            | Verdict::Payload
            | Verdict::Aborted
            | Verdict::Refused => answers[n] = reply,
        }
        Ok(())
    }

    /// What belongs to a slot that is just being moved is asked for at its new node, each behind ASKING.
    fn follow(&mut self, asks: &Asks, answers: &mut [Reply], left: &mut Left) -> Result<()> {
        for (n, host, port) in std::mem::take(&mut left.asking) {
            let host = match (&host[..], &self.options.endpoint.address) {
                ("", Address::Tcp { host, .. }) => host.clone(),
                _ => host,
            };
            let mut out = Vec::new();
            append_command(&mut out, &[b"ASKING"]);
            out.extend_from_slice(asks.encoded(n));
            let replies = Connection::open(&self.options.endpoint.at(&host, port))
                .and_then(|mut connection| connection.calls_encoded(&out, 2));
            match replies {
                Ok(mut replies) => {
                    let reply = replies.pop().unwrap_or(Reply::Nil);
                    self.take(n, reply, answers, left)?;
                    // It may have gone back meanwhile: then it is asked for anew.
                    left.again.extend(left.asking.drain(..).map(|(n, _, _)| n));
                }
                Err(error) => {
                    left.again.push(n);
                    left.why = Some(error);
                }
            }
        }
        Ok(())
    }

    /// Reads the slot table anew, of the first node that answers. What cannot be had is tried again later.
    fn read_slots(&mut self) {
        let Some(slots) = &mut self.slots else {
            return;
        };
        let mut endpoints = vec![self.options.endpoint.clone()];
        let nodes = slots.nodes().iter();
        endpoints.extend(nodes.map(|node| self.options.endpoint.at(&node.host, node.port)));
        for endpoint in endpoints {
            let asked = match &endpoint.address {
                Address::Tcp { host, .. } => host.clone(),
                Address::Unix(_) => "127.0.0.1".to_owned(),
            };
            let answer = Connection::open(&endpoint)
                .and_then(|mut connection| connection.call(&[b"CLUSTER", b"SLOTS"]));
            if answer.is_ok_and(|answer| slots.update(&answer, &asked).is_ok()) {
                return;
            }
        }
    }
}

/// Keeps all workers together to so many keys and bytes in a second.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    rate_bytes: Option<u64>,
    /// Since when, and how much since then.
    taken: Mutex<(Option<Instant>, u64, u64)>,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>, rate_bytes: Option<u64>) -> Pace {
        Pace {
            rate,
            rate_bytes,
            taken: Mutex::new((None, 0, 0)),
        }
    }

    pub(super) fn wait(&self, keys: u64, bytes: u64, progress: &Progress) -> Result<()> {
        if self.rate.is_none() && self.rate_bytes.is_none() {
            return Ok(());
        }
        let due = {
            let mut taken = self.taken.lock().expect("nothing panics that holds it");
            let since = *taken.0.get_or_insert_with(Instant::now);
            let secs =
                |n: u64, rate: Option<u64>| rate.map_or(0.0, |rate| n as f64 / rate.max(1) as f64);
            let due = secs(taken.1, self.rate).max(secs(taken.2, self.rate_bytes));
            taken.1 += keys;
            taken.2 += bytes;
            since + Duration::from_secs_f64(due.min(1e9))
        };
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            progress.check_stop()?;
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        progress.check_stop()
    }
}
