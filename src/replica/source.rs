//! What a live source is, looked at before anything is received.

use std::fmt;

use crate::error::Result;
use crate::server::connection::Connection;
use crate::server::endpoint::Endpoint;
use crate::server::reply::Reply;

/// What a source was found to be, as far as it tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceFound {
    /// `redis 7.0.15`, `valkey 9.1.0`; empty where it is not told.
    pub version: String,
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
            version => write!(
                f,
                "{version}, {} keys in {} databases",
                indicatif::HumanCount(self.keys),
                self.databases.len()
            ),
        }
    }
}

/// Looks at a source. One that answers no INFO to this user may be a source all the same.
///
/// Errors: `Unreachable` and `Login`, as for any connection.
pub fn look(endpoint: &Endpoint) -> Result<SourceFound> {
    let mut connection = Connection::open(endpoint)?;
    let mut found = SourceFound::default();
    let text = match connection.call(&[b"INFO"])? {
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
        (Some(version), _) => format!("valkey {version}"),
        (None, Some(version)) => format!("redis {version}"),
        (None, None) => String::new(),
    };
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
