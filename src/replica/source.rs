//! What a live source is, looked at before anything is received.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};
use crate::server::connection::Connection;
use crate::server::endpoint::Endpoint;
use crate::server::reply::Reply;

/// What a source was found to be, as far as it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFound {
    /// `Redis 7.0.15`, `Valkey 9.1.0`; empty where it is not told.
    pub version: String,
    /// What else it is: a replica, a node of a cluster; empty where it is neither.
    pub role: String,
    /// Changes whenever it starts anew. Empty where it is not told.
    pub run_id: String,
    /// Keys in all its databases.
    pub keys: u64,
    /// Its databases that are not empty: number and keys.
    pub databases: Vec<(u64, u64)>,
    /// What a person should know, in sentences.
    pub warnings: Vec<String>,
}

impl fmt::Display for SourceFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version[..] {
            "" => f.write_str("a source that does not tell what it is"),
            version => write!(f, "{version}{}, {}", self.role, self.size()),
        }
    }
}

impl SourceFound {
    /// How much it holds, in words.
    pub fn size(&self) -> String {
        let some = |n: u64, what: &str| match n {
            1 => format!("1 {what}"),
            n => format!("{} {what}s", indicatif::HumanCount(n)),
        };
        match self.keys {
            0 => "empty".to_owned(),
            keys => format!(
                "{} in {}",
                some(keys, "key"),
                some(self.databases.len() as u64, "database")
            ),
        }
    }
}

/// Looks at a source. One that answers no INFO to this user may be a source all the same.
///
/// Errors: `Unreachable` and `Login`, as for any connection, and `Unfit` for a Sentinel.
pub fn look(endpoint: &Endpoint) -> Result<SourceFound> {
    let mut connection = Connection::open(endpoint)?;
    let mut found = SourceFound::default();
    let answer = connection
        .call(&[b"INFO"])
        .map_err(|error| match error.kind() {
            // It answers PING, but no INFO.
            ErrorKind::Unreachable { server, why } => Error::plain(ErrorKind::Unreachable {
                server: server.clone(),
                why: format!("{why}; if it is a twemproxy, give each server behind it as a source"),
            }),
            _ => error,
        })?;
    let text = match answer {
        Reply::Bulk(text) => String::from_utf8_lossy(&text).into_owned(),
        Reply::Error(text) => {
            let text = String::from_utf8_lossy(&text).into_owned();
            found.warnings.push(format!(
                "{} does not tell about itself ({text}): whether its databases fit is found out while they are sent",
                endpoint.address
            ));
            return Ok(found);
        }
        _ => return Ok(found),
    };
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    found.version = match (field("valkey_version"), field("redis_version")) {
        (Some(version), _) => format!("Valkey {version}"),
        (None, Some(version)) => format!("Redis {version}"),
        (None, None) => String::new(),
    };
    match (field("server_mode").or(field("redis_mode")), field("role")) {
        (Some("sentinel"), _) => {
            return Err(Error::unfit(format!(
                "{} is a Sentinel, which holds no data; give the address of the master that it watches (SENTINEL MASTERS \
                 lists them)",
                endpoint.address
            )));
        }
        (Some("cluster"), _) => {
            ", a node of a cluster, of which each master is a source of its own"
                .clone_into(&mut found.role);
        }
        (_, Some("slave" | "replica")) => {
            let host = field("master_host").unwrap_or("?");
            let port = field("master_port").unwrap_or("?");
            found.role = match host.contains(':') {
                true => format!(", a replica of [{host}]:{port}"),
                false => format!(", a replica of {host}:{port}"),
            };
        }
        _ => {}
    }
    found.run_id = field("run_id").unwrap_or_default().to_owned();
    for line in text.lines() {
        let Some((db, rest)) = line
            .strip_prefix("db")
            .and_then(|line| line.trim().split_once(":keys="))
        else {
            continue;
        };
        let keys = rest.split(',').next().and_then(|keys| keys.parse().ok());
        if let (Ok(db), Some(keys)) = (db.parse(), keys) {
            found.databases.push((db, keys));
            found.keys += keys;
        }
    }
    Ok(found)
}

/// How far a source has come in its replication stream, where it tells.
pub fn offset(endpoint: &Endpoint) -> Option<u64> {
    let mut connection = Connection::open_unasked(endpoint).ok()?;
    let Ok(Reply::Bulk(text)) = connection.call(&[b"INFO", b"replication"]) else {
        return None;
    };
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .find_map(|line| line.strip_prefix("master_repl_offset:"))
        .and_then(|digits| digits.trim().parse().ok())
}
