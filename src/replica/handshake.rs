//! How one becomes a replica: PING, REPLCONF, PSYNC, and SYNC for those that know no other.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::wire::{Stop, Wire};
use crate::error::Error;
use crate::server::connection::words;
use crate::server::endpoint::Endpoint;

/// The newest Valkey of which we read snapshots. Valkey sends an older form to those that do not say.
const VALKEY_VERSION: &[u8] = b"9.1.0";

/// Before PSYNC is answered the source may have to wait for a snapshot that it writes already; it gives signs of life
/// every ten seconds.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An INFO section is no longer.
const INFO_BYTES: usize = 256 << 10;

/// What the source is, and what it gives.
#[derive(Debug)]
pub(super) struct Hello {
    /// As `Redis 7.0.15`, if it tells.
    pub(super) version: Option<String>,
    pub(super) answer: Answer,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A snapshot, and what comes after this offset of this history.
    Full { replid: String, offset: u64 },
    /// What comes next; the history may have got another id.
    Continue { replid: Option<String> },
    /// A snapshot and what comes after it, but never again only that. The line that announces the snapshot.
    Sync { announced: Vec<u8> },
}

/// Asks to be a replica; with the id and the offset of what is there already, to go on there.
pub(super) fn shake(
    wire: &mut Wire,
    endpoint: &Endpoint,
    have: Option<(&str, u64)>,
    stop: &AtomicBool,
) -> Result<Hello, Stop> {
    let soon = endpoint.timeout;
    let ask = |wire: &mut Wire, args: &[&[u8]]| {
        wire.send(args)?;
        wire.line(soon, stop)
    };
    let pong = ask(wire, &[b"PING"])?;
    refusal(wire, endpoint, &pong)?;
    if !matches!(pong.first(), Some(b'+' | b'-')) {
        let said = words(&pong, endpoint);
        return Err(wire.lost(&format!("it is no Redis: it answered PING with {said}")));
    }
    let info = ask(wire, &[b"INFO", b"server"])?;
    let info = match info.strip_prefix(b"$").map(std::str::from_utf8) {
        Some(Ok(len)) => match len.parse() {
            Ok(len) if len <= INFO_BYTES => wire.bulk(len, soon, stop)?,
            _ => return Err(wire.lost("its answer to INFO is no such thing")),
        },
        // The user may not ask, or it is a status: there is no need to know.
        _ => Vec::new(),
    };
    let (version, is_valkey) = version(&info);
    // A port of 0 keeps us out of what others are told of replicas.
    for words in [
        &[&b"REPLCONF"[..], b"listening-port", b"0"][..],
        &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
        &[b"REPLCONF", b"version", VALKEY_VERSION],
    ] {
        if words[1] == b"version" && !is_valkey {
            continue;
        }
        let answer = ask(wire, words)?;
        // Old servers do not know all of it, and need not.
        refusal(wire, endpoint, &answer)?;
    }
    let next = have.map(|(_, offset)| (offset + 1).to_string());
    match (have, &next) {
        (Some((id, _)), Some(next)) => wire.send(&[b"PSYNC", id.as_bytes(), next.as_bytes()])?,
        _ => wire.send(&[b"PSYNC", b"?", b"-1"])?,
    }
    let line = wire.line(PATIENCE.max(soon), stop)?;
    refusal(wire, endpoint, &line)?;
    let said = words(&line, endpoint);
    let unclear = format!("its answer to PSYNC is {said}, which is none");
    let text = std::str::from_utf8(&line).map_err(|_| wire.lost(&unclear))?;
    let mut parts = text.split_ascii_whitespace();
    let answer = match parts.next() {
        Some("+FULLRESYNC") => match (parts.next(), parts.next().map(str::parse)) {
            (Some(id), Some(Ok(offset))) if is_id(id) && offset <= i64::MAX as u64 => {
                Answer::Full {
                    replid: id.to_owned(),
                    offset,
                }
            }
            _ => return Err(wire.lost(&unclear)),
        },
        Some("+CONTINUE") if have.is_some() => match parts.next() {
            None => Answer::Continue { replid: None },
            Some(id) if is_id(id) => Answer::Continue {
                replid: Some(id.to_owned()),
            },
            Some(_) => return Err(wire.lost(&unclear)),
        },
        _ if line.starts_with(b"-") => {
            if !text.to_ascii_lowercase().contains("unknown command") {
                return Err(Stop::Fatal(no_replica(wire, &said)));
            }
            // Redis before 2.8 knows SYNC only. No sign of life: it would answer everything we say.
            wire.send(&[b"SYNC"])?;
            let announced = wire.line(PATIENCE.max(soon), stop)?;
            refusal(wire, endpoint, &announced)?;
            if announced.starts_with(b"-") {
                return Err(Stop::Fatal(no_replica(wire, &said)));
            }
            Answer::Sync { announced }
        }
        _ => return Err(wire.lost(&unclear)),
    };
    Ok(Hello { version, answer })
}

/// A replication id is 40 hexadecimal digits; nothing hangs on that, but it goes into files.
fn is_id(id: &str) -> bool {
    id.len() == 40 && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn no_replica(wire: &Wire, said: &str) -> Error {
    Error::unfit(format!(
        "{}: the source does not let us be a replica, as managed services do not; it answered {said}. Take --method scan, or \
         a snapshot file of it",
        wire.name()
    ))
}

/// What a source says that wants nothing of us, or not now.
fn refusal(wire: &Wire, endpoint: &Endpoint, line: &[u8]) -> Result<(), Stop> {
    let Some(error) = line.strip_prefix(b"-") else {
        return Ok(());
    };
    let said = words(error, endpoint);
    let is = |code: &str| error.starts_with(code.as_bytes());
    let holds = |text: &str| memchr::memmem::find(error, text.as_bytes()).is_some();
    if ["LOADING", "NOMASTERLINK", "MASTERDOWN", "BUSY", "TRYAGAIN"]
        .iter()
        .any(|code| is(code))
    {
        return Err(Stop::Later(said));
    }
    let user = endpoint.user.as_deref().unwrap_or("default");
    if is("NOAUTH") || holds("operation not permitted") {
        return Err(wire.login(format!(
            "the source asks for a password; it answered {said}"
        )));
    }
    if is("NOPERM") || is("WRONGPASS") {
        return Err(wire.login(format!(
            "the user may not become a replica: ACL SETUSER {user} +psync +replconf +ping on the source lets it, or take another \
             user; --method scan needs none of them and brings a snapshot only; it answered {said}"
        )));
    }
    if is("DENIED") {
        return Err(wire.lost(&format!(
            "it is in protected mode, in which only its own host may connect: set a password there, or protected-mode no; it \
             answered {said}"
        )));
    }
    if holds("max number of clients") {
        return Err(wire.lost(&format!(
            "it takes no more clients: raise maxclients there, or close some; it answered {said}"
        )));
    }
    Ok(())
}

/// The source's version as it is shown, and whether it is a Valkey.
fn version(info: &[u8]) -> (Option<String>, bool) {
    let text = String::from_utf8_lossy(info);
    let field = |name: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    match (field("valkey_version"), field("redis_version")) {
        (Some(valkey), _) => (Some(format!("Valkey {valkey}")), true),
        (None, Some(redis)) => (Some(format!("Redis {redis}")), false),
        (None, None) => (None, false),
    }
}
