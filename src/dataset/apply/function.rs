//! Function libraries.

use super::args::{is, option};
use super::generic::checked;
use super::{Handler, State};
use crate::cursor::Cursor;
use crate::dataset::{Done, Fail};
use crate::encoding::string::{Scratch, string};
use crate::rdb::opcode;

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("FUNCTION|LOAD", |s, a| {
        let (code, options) = a[2..].split_last().ok_or(Fail::Refused)?;
        if let Some(word) = options.iter().find(|word| !is(word, "REPLACE")) {
            return Err(option(word));
        }
        load(s, code, !options.is_empty())
    }),
    ("FUNCTION|DELETE", |s, a| {
        s.functions.remove(a[2]).map(drop).ok_or(Fail::Refused)
    }),
    ("FUNCTION|FLUSH", |s, _| {
        s.functions.clear();
        Ok(())
    }),
    ("FUNCTION|RESTORE", restore),
];

/// The library's name, from the first line of its source.
pub(in crate::dataset) fn name(code: &[u8]) -> Option<&[u8]> {
    let line = code
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let mut words = line.split(|byte| byte.is_ascii_whitespace());
    let name = words.find_map(|word| word.strip_prefix(b"name="))?;
    // Servers take it quoted as well.
    let quoted = name
        .strip_prefix(b"\"")
        .and_then(|name| name.strip_suffix(b"\""));
    Some(quoted.unwrap_or(name))
}

fn load(state: &mut State, code: &[u8], replaces: bool) -> Done {
    let name = name(code).ok_or(Fail::Refused)?;
    if !replaces && state.functions.contains_key(name) {
        return Err(Fail::Refused);
    }
    state.functions.insert(name.into(), code.into());
    Ok(())
}

fn restore(state: &mut State, args: &[&[u8]]) -> Done {
    let (body, _) = checked(args[2])?;
    let (mut flushes, mut replaces) = (false, false);
    if let Some(word) = args.get(3) {
        match () {
            () if is(word, "FLUSH") => flushes = true,
            () if is(word, "REPLACE") => replaces = true,
            () if is(word, "APPEND") => {}
            () => return Err(option(word)),
        }
    }
    let mut c = Cursor::new(body, 0);
    let mut libraries = Vec::new();
    while !c.is_empty() {
        if c.u8().ok() != Some(opcode::FUNCTION2) {
            return Err(Fail::Refused);
        }
        let mut scratch = Scratch::new(state.unpack_limit);
        let code = string(&mut c).and_then(|code| {
            let code = code.load(&mut scratch)?;
            Ok(code.as_bytes(&mut itoa::Buffer::new()).to_vec())
        });
        libraries.push(code.map_err(|_| Fail::Refused)?);
    }
    let known = |code: &Vec<u8>| name(code).is_some_and(|name| state.functions.contains_key(name));
    if !flushes && !replaces && libraries.iter().any(known) {
        return Err(Fail::Refused);
    }
    if flushes {
        state.functions.clear();
    }
    libraries
        .iter()
        .try_for_each(|code| load(state, code, true))
}
