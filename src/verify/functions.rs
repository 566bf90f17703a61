//! Function libraries of the inputs against those of the servers. They belong to no database and no key: each master has
//! all of them.

use std::collections::HashMap;

use super::{Difference, Kind, Options};
use crate::command::target::{Dialect, Feature, Target};
use crate::encoding::string::Scratch;
use crate::error::Result;
use crate::rdb::Function;
use crate::server::connection::Connection;
use crate::server::endpoint::Endpoint;
use crate::server::reply::Reply;

/// What was found of function libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Libraries {
    /// The inputs hold none.
    None,
    /// They were not compared: how many there are, and why.
    Not(u64, String),
    /// They were compared: how many there are.
    Compared(u64),
}

/// Libraries of the inputs, by name.
#[derive(Debug, Default)]
pub(super) struct Expected(HashMap<Vec<u8>, Vec<u8>>);

impl Expected {
    /// Takes one of an input. A later one of the same name stands in for an earlier one.
    pub(super) fn take(&mut self, function: &Function<'_>, scratch: &mut Scratch) -> Result<()> {
        let code = function.source(scratch)?;
        self.0.insert(name_of(&code).to_vec(), code);
        Ok(())
    }

    /// Compares them with what each server has. What a server has beside them is none of the inputs' business.
    pub(super) fn compare(
        &self,
        options: &Options,
        mut take: impl FnMut(Difference) -> Result<()>,
    ) -> Result<Libraries> {
        let count = self.0.len() as u64;
        if count == 0 {
            return Ok(Libraries::None);
        }
        let not = |why: &str| Ok(Libraries::Not(count, why.to_owned()));
        let destination = &options.destination;
        let target = Target {
            dialect: destination.dialect,
            version: destination.version,
            key_bytes: None,
        };
        if destination.dialect == Dialect::Twemproxy {
            return not("a twemproxy forwards no FUNCTION");
        }
        if !target.has(Feature::Functions) {
            return not("the destination is older than functions");
        }
        for endpoint in masters(options) {
            let mut server = Connection::open(&endpoint)?;
            let reply = server.call(&[b"FUNCTION", b"LIST", b"WITHCODE"])?;
            let Some(found) = libraries(&reply) else {
                let words = reply.error().map(String::from_utf8_lossy);
                return not(&format!(
                    "FUNCTION LIST: {}",
                    words.unwrap_or("an answer that is none".into())
                ));
            };
            let mut names: Vec<&Vec<u8>> = self.0.keys().collect();
            names.sort();
            for name in names {
                let expected = &self.0[name];
                let found = found.get(&name[..]).copied();
                if found == Some(&expected[..]) {
                    continue;
                }
                take(Difference {
                    db: 0,
                    key: name.clone(),
                    kind: Kind::Function,
                    expected: shown(expected),
                    found: match found {
                        Some(code) => format!("{} at {}", shown(code), server.name()),
                        None => String::new(),
                    },
                })?;
            }
        }
        Ok(Libraries::Compared(count))
    }
}

fn masters(options: &Options) -> Vec<Endpoint> {
    match &options.destination.slots {
        None => vec![options.endpoint.clone()],
        Some(slots) => {
            let nodes = slots.nodes().iter().enumerate();
            nodes
                .filter(|(n, _)| slots.holds(*n) > 0)
                .map(|(_, node)| options.endpoint.at(&node.host, node.port))
                .collect()
        }
    }
}

/// The libraries of an answer to FUNCTION LIST WITHCODE, by name.
fn libraries(reply: &Reply) -> Option<HashMap<&[u8], &[u8]>> {
    let mut all = HashMap::new();
    for library in reply.array()? {
        let (mut name, mut code) = (None, None);
        for pair in library.array()?.chunks_exact(2) {
            match pair[0].bytes()? {
                b"library_name" => name = pair[1].bytes(),
                b"library_code" => code = pair[1].bytes(),
                _ => {}
            }
        }
        all.insert(name?, code?);
    }
    Some(all)
}

/// The name in the first line of a library: `#!lua name=…`.
fn name_of(code: &[u8]) -> &[u8] {
    let line = code.split(|b| *b == b'\n').next().unwrap_or_default();
    line.split(|b| b.is_ascii_whitespace())
        .find_map(|word| word.strip_prefix(b"name="))
        .map(unquoted)
        .unwrap_or_default()
}

/// The first line is taken apart as a line of redis-cli is, so that the name may stand in quotes.
fn unquoted(word: &[u8]) -> &[u8] {
    match word {
        [b'"', name @ .., b'"'] | [b'\'', name @ .., b'\''] => name,
        _ => word,
    }
}

/// A library in a word: texts that differ within have other sums.
fn shown(code: &[u8]) -> String {
    let sum = sha1_smol::Sha1::from(code).digest();
    format!("library of {} bytes, SHA-1 {sum}", code.len())
}
