//! Import mode, of Valkey from 8.1 on: while it is on, the server removes nothing by itself, neither what has expired nor
//! to make room, and a connection that said so sees what has expired. All others see it as gone.
//!
//! So a command that renews a key finds it, however late it comes, and expiries can be written as they are. The mode is
//! one of the whole server, and outlives whoever turned it on; a restart ends it.

use super::connection::Connection;
use super::endpoint::Endpoint;
use super::reply::Reply;
use crate::error::{Error, ErrorKind, Result};

/// How the connections of all runs are called: this, and the name of the run.
pub const CLIENT_NAME: &str = "redis-migration:";

/// Whether it is on; none where the server does not have it, or does not let us turn it on.
pub fn state(endpoint: &Endpoint) -> Result<Option<bool>> {
    let mut connection = Connection::open(endpoint)?;
    let on = match connection.call(&[b"CONFIG", b"GET", b"import-mode"])? {
        Reply::Array(pair) => match &pair[..] {
            [_, Reply::Bulk(on)] => on == b"yes",
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    // Who may look may not be who may change; this changes nothing.
    let same: &[u8] = if on { b"yes" } else { b"no" };
    match connection.call(&[b"CONFIG", b"SET", b"import-mode", same])? {
        Reply::Error(_) => Ok(None),
        _ => Ok(Some(on)),
    }
}

/// Makes a connection one that sees what has expired, and turns the mode on where it is off.
pub(crate) fn enter(connection: &mut Connection) -> Result<()> {
    let import =
        |connection: &mut Connection| connection.call(&[b"CLIENT", b"IMPORT-SOURCE", b"ON"]);
    if !matches!(import(connection)?, Reply::Error(_)) {
        return Ok(());
    }
    set(connection, true)?;
    match import(connection)? {
        Reply::Error(text) => Err(refused(connection, &text)),
        _ => Ok(()),
    }
}

/// Turns it off, unless a run other than `run` is there in import mode, which turns it off at its own end. Whether it is
/// off now.
pub fn leave(endpoint: &Endpoint, run: &str) -> Result<bool> {
    let mut connection = Connection::open(endpoint)?;
    let own = format!("{CLIENT_NAME}{run}");
    let clients = match connection.call(&[b"CLIENT", b"LIST"])? {
        Reply::Bulk(text) => String::from_utf8_lossy(&text).into_owned(),
        // Who may not look takes it that nobody is there.
        _ => String::new(),
    };
    if clients.lines().any(|client| is_of_another(client, &own)) {
        return Ok(false);
    }
    set(&mut connection, false)?;
    Ok(true)
}

/// Whether a line of CLIENT LIST tells of a run in import mode that is not called `own`. Runs that are not in import mode
/// know nothing of it, and leave it as it is.
fn is_of_another(client: &str, own: &str) -> bool {
    let field = |name: &str| {
        let mut words = client.split_whitespace();
        words.find_map(|word| word.strip_prefix(name))
    };
    let name = field("name=").unwrap_or("");
    let imports = field("flags=").is_some_and(|flags| flags.contains('I'));
    imports && name.starts_with(CLIENT_NAME) && name != own
}

fn set(connection: &mut Connection, on: bool) -> Result<()> {
    let word: &[u8] = if on { b"yes" } else { b"no" };
    match connection.call(&[b"CONFIG", b"SET", b"import-mode", word])? {
        Reply::Error(text) => Err(refused(connection, &text)),
        _ => Ok(()),
    }
}

fn refused(connection: &Connection, text: &[u8]) -> Error {
    Error::plain(ErrorKind::Unfit(format!(
        "import mode of {} cannot be changed: {}",
        connection.name(),
        String::from_utf8_lossy(text)
    )))
}
