//! When keys expire at the destination, as exactly as it tells, and what time it is there.

use super::Options;
use super::reach::Asks;
use crate::command::target::{Dialect, Feature, Target};
use crate::error::Result;
use crate::server::connection::Connection;
use crate::server::preflight::{ahead_ms, now_ms, time_of};
use crate::server::reply::Reply;

/// A script on a server before 7.0 reads the clock and then the time to live: so much may pass in between.
const BETWEEN_MS: i64 = 2;
/// How far off our own clock is taken to be where the destination's cannot be asked.
const UNKNOWN_MS: i64 = 2_000;

const EXPIRE_TIME: &[u8] = b"return redis.call('PEXPIRETIME',KEYS[1])";
const TIME_AND_TTL: &[u8] =
    b"local t=redis.call('TIME') return {t[1],t[2],redis.call('PTTL',KEYS[1])}";

/// How the moment is found at which a key expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// PEXPIRETIME.
    Exact,
    /// The same in a script, because a proxy does not forward it.
    ExactByScript,
    /// The clock and PTTL in a script.
    TtlByScript,
    /// PTTL, and our own clock before and after.
    Ttl,
}

/// What was found of a key's expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    /// There is no such key.
    NoKey,
    /// It has none.
    None,
    /// Between these, Unix time in milliseconds.
    At(i64, i64),
}

/// The destination's clocks.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    how: How,
    /// By how much they are ahead of ours, least and most, in milliseconds.
    ahead: (i64, i64),
    known: bool,
}

impl Clock {
    pub(super) fn look(options: &Options) -> Result<Clock> {
        let destination = &options.destination;
        let version = Target {
            version: destination.version,
            ..Target::default()
        };
        // A version that is not told is no reason to trust in a command.
        let exact = destination.version.is_some() && version.has(Feature::Functions);
        let proxy = destination.dialect == Dialect::Twemproxy;
        let how = match (exact, proxy, destination.can_eval) {
            (true, false, _) => How::Exact,
            (true, true, true) => How::ExactByScript,
            (_, _, true) => How::TtlByScript,
            _ => How::Ttl,
        };
        let mut clocks = Vec::new();
        let mut ask = |connection: &mut Connection, key: Option<&[u8]>| -> Result<()> {
            let began = now_ms();
            let ahead = ahead_ms(connection, key)?;
            let took = now_ms() - began + 1;
            clocks.push(ahead.map(|ahead| (ahead - took, ahead + took)));
            Ok(())
        };
        match (&destination.slots, proxy) {
            (Some(slots), _) => {
                for node in slots.nodes() {
                    let endpoint = options.endpoint.at(&node.host, node.port);
                    ask(&mut Connection::open(&endpoint)?, None)?;
                }
            }
            (None, true) => {
                let mut connection = Connection::open(&options.endpoint)?;
                for server in &destination.servers {
                    ask(&mut connection, server.representative.as_deref())?;
                }
            }
            (None, false) => ask(&mut Connection::open(&options.endpoint)?, None)?,
        }
        let known = !clocks.is_empty() && clocks.iter().all(Option::is_some);
        let told = clocks.into_iter().flatten();
        let ahead = told
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .filter(|_| known)
            .unwrap_or((-UNKNOWN_MS, UNKNOWN_MS));
        Ok(Clock { how, ahead, known })
    }

    /// The latest that it can be there now.
    pub(super) fn now_there_ms(&self) -> i64 {
        now_ms() + self.ahead.1
    }

    /// By how much the clocks there are ahead of ours, least and most.
    pub(super) fn ahead_ms(&self) -> (i64, i64) {
        self.ahead
    }

    /// What is not exact about expiries, as a sentence.
    pub(super) fn uncertainty(&self) -> Option<String> {
        let clock = match self.known {
            true => "",
            false => " (its clock cannot be asked: 2 s more)",
        };
        match self.how {
            How::Exact | How::ExactByScript => None,
            How::TtlByScript => Some(format!(
                "expiries are read as times to live, to {BETWEEN_MS} ms; servers tell the moment itself from 7.0 on"
            )),
            How::Ttl => Some(format!(
                "expiries are read as times to live, as exactly as the answer takes{clock}; servers tell the moment itself \
                 from 7.0 on, and scripts to {BETWEEN_MS} ms before"
            )),
        }
    }

    /// Asks when a key expires. `expected`: whether it should at all.
    pub(super) fn ask(&self, asks: &mut Asks, db: u64, key: &[u8], expected: bool) -> usize {
        match self.how {
            How::Exact => asks.push(db, key, &[b"PEXPIRETIME", key]),
            // That there is none, PTTL tells for less.
            How::ExactByScript if expected => {
                asks.push(db, key, &[b"EVAL", EXPIRE_TIME, b"1", key])
            }
            How::TtlByScript if expected => asks.push(db, key, &[b"EVAL", TIME_AND_TTL, b"1", key]),
            How::ExactByScript | How::TtlByScript | How::Ttl => asks.push(db, key, &[b"PTTL", key]),
        }
    }

    /// What the answer says. `asked_ms`: our clock before it was asked. None: that is no answer.
    pub(super) fn read(&self, reply: &Reply, expected: bool, asked_ms: i64) -> Option<Expiry> {
        let ttl = |n: i64, low: i64, high: i64| match n {
            -2 => Expiry::NoKey,
            -1 => Expiry::None,
            n => Expiry::At(low.saturating_add(n), high.saturating_add(n)),
        };
        match (self.how, expected, reply) {
            (How::Exact, _, Reply::Int(n)) | (How::ExactByScript, true, Reply::Int(n)) => {
                Some(ttl(*n, 0, 0))
            }
            (How::TtlByScript, true, Reply::Array(parts)) => {
                let there = time_of(reply)?;
                let n = parts.get(2)?.int()?;
                Some(ttl(n, there, there + BETWEEN_MS))
            }
            (_, _, Reply::Int(n)) => {
                Some(ttl(*n, asked_ms + self.ahead.0, now_ms() + self.ahead.1))
            }
            _ => None,
        }
    }
}
