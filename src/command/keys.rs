//! Which arguments of a command are keys, and which slot of a cluster a key is in.

use thiserror::Error;

use super::table::{Keys, Spec};

/// Why the keys of a command cannot be told. A server refuses such a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoKeys {
    /// Arguments end where a key should be.
    #[error("it has too few arguments")]
    TooShort,
    /// The number of keys is no number, too small, or larger than what follows.
    #[error("its number of keys is wrong")]
    Count,
    /// Servers know no such subcommand.
    #[error("its subcommand is not known")]
    Subcommand,
    /// Options are in the way of the keys: an unknown one, or keys without as many stream ids.
    #[error("its options are wrong")]
    Options,
}

/// Gives every key of a command to `f`, with its index in argv, in the order of argv.
///
/// `args` is all of argv: the name comes first. `spec` may be that of the command or of the subcommand. Nothing is given
/// to `f` if the keys cannot be told. Whether the rest of the command makes sense is not looked at.
///
/// Channels (SPUBLISH) and cursors (CLUSTERSCAN), which have a slot as keys have, are no keys.
#[inline]
pub fn for_each_key<'a>(
    spec: &Spec,
    mut args: impl Iterator<Item = &'a [u8]> + Clone,
    mut f: impl FnMut(usize, &'a [u8]),
) -> Result<(), NoKeys> {
    // The common case: one key in a fixed place.
    if let Keys::Range { first, last, .. } = spec.keys
        && last == first as i8
    {
        let first = usize::from(first);
        f(first, args.nth(first).ok_or(NoKeys::TooShort)?);
        return Ok(());
    }
    if spec.subcommands.is_empty() {
        return several(spec.keys, args, f);
    }
    let Some(arg) = args.clone().nth(1) else {
        // Only COMMAND does without: it lists everything.
        return if spec.arity == -1 {
            Ok(())
        } else {
            Err(NoKeys::TooShort)
        };
    };
    let sub = spec.sub(arg).ok_or(NoKeys::Subcommand)?;
    several(sub.keys, args, f)
}

/// All forms but the most common one.
fn several<'a>(
    keys: Keys,
    args: impl Iterator<Item = &'a [u8]> + Clone,
    mut f: impl FnMut(usize, &'a [u8]),
) -> Result<(), NoKeys> {
    let mut each = args.clone().enumerate();
    match keys {
        Keys::None => {}
        Keys::Range { first, last, step } => {
            let (first, step) = (usize::from(first), usize::from(step));
            let end = match last {
                0.. => {
                    let last = last as usize;
                    args.clone().nth(last).ok_or(NoKeys::TooShort)?;
                    last + 1
                }
                // All to the end: no need to know where that is.
                -1 => {
                    args.clone().nth(first).ok_or(NoKeys::TooShort)?;
                    usize::MAX
                }
                _ => {
                    let end = args.count().saturating_add_signed(isize::from(last) + 1);
                    if end <= first {
                        return Err(NoKeys::TooShort);
                    }
                    end
                }
            };
            each.take(end)
                .skip(first)
                .step_by(step)
                .for_each(|(i, key)| f(i, key));
        }
        Keys::Count {
            at,
            step,
            least,
            destination,
        } => {
            let (at, step) = (usize::from(at), usize::from(step));
            let number = args.clone().nth(at).ok_or(NoKeys::TooShort)?;
            // As large as it likes: only what the arguments can hold is taken.
            let count = std::str::from_utf8(number)
                .ok()
                .and_then(|text| text.parse::<usize>().ok())
                .filter(|count| *count >= usize::from(least))
                .ok_or(NoKeys::Count)?;
            if count > 0 {
                let last = count.checked_mul(step).and_then(|n| n.checked_add(at));
                last.and_then(|last| args.clone().nth(last))
                    .ok_or(NoKeys::Count)?;
            }
            if destination {
                let (i, key) = each.nth(at - 1).ok_or(NoKeys::TooShort)?;
                f(i, key);
            }
            args.enumerate()
                .skip(at + 1)
                .step_by(step)
                .take(count)
                .for_each(|(i, key)| f(i, key));
        }
        Keys::Sort => {
            let key = each.nth(1).ok_or(NoKeys::TooShort)?;
            let mut store = None;
            while let Some((_, option)) = each.next() {
                if option.eq_ignore_ascii_case(b"LIMIT") {
                    each.nth(1);
                } else if option.eq_ignore_ascii_case(b"BY") || option.eq_ignore_ascii_case(b"GET")
                {
                    each.next();
                } else if option.eq_ignore_ascii_case(b"STORE") {
                    store = Some(each.next().ok_or(NoKeys::TooShort)?);
                }
            }
            f(key.0, key.1);
            if let Some((i, key)) = store {
                f(i, key);
            }
        }
        Keys::GeoStore { options } => {
            let key = each.nth(1).ok_or(NoKeys::TooShort)?;
            let mut store = None;
            let mut each = args.enumerate().skip(usize::from(options));
            while let Some((_, option)) = each.next() {
                if option.eq_ignore_ascii_case(b"STORE")
                    || option.eq_ignore_ascii_case(b"STOREDIST")
                {
                    store = Some(each.next().ok_or(NoKeys::TooShort)?);
                }
            }
            f(key.0, key.1);
            if let Some((i, key)) = store {
                f(i, key);
            }
        }
        Keys::Streams => {
            each.next();
            loop {
                let (_, option) = each.next().ok_or(NoKeys::TooShort)?;
                let is = |name: &[u8]| option.eq_ignore_ascii_case(name);
                if is(b"STREAMS") {
                    break;
                } else if is(b"GROUP") {
                    each.nth(1);
                } else if [&b"COUNT"[..], b"BLOCK", b"MAXCOUNT", b"MAXSIZE", b"CLAIM"]
                    .into_iter()
                    .any(is)
                {
                    each.next();
                } else if !is(b"NOACK") {
                    return Err(NoKeys::Options);
                }
            }
            let count = each.clone().count();
            if count == 0 {
                return Err(NoKeys::TooShort);
            }
            if count % 2 == 1 {
                return Err(NoKeys::Options);
            }
            each.take(count / 2).for_each(|(i, key)| f(i, key));
        }
        Keys::Migrate => {
            let (i, key) = each.nth(3).ok_or(NoKeys::TooShort)?;
            each.nth(1); // database, timeout
            let mut many = false;
            while let Some((_, option)) = each.next() {
                if option.eq_ignore_ascii_case(b"AUTH") {
                    each.next();
                } else if option.eq_ignore_ascii_case(b"AUTH2") {
                    each.nth(1);
                } else if option.eq_ignore_ascii_case(b"KEYS") {
                    if !key.is_empty() {
                        return Err(NoKeys::Options);
                    }
                    many = true;
                    break;
                }
            }
            let mut each = each.peekable();
            // A key may have the empty name, and then it is this one.
            if !many || each.peek().is_none() {
                f(i, key);
            }
            each.for_each(|(i, key)| f(i, key));
        }
    }
    Ok(())
}

/// The slot of a key in a cluster, 0…16383. Of a key with a hash tag, `{tag}`, only the tag counts, so that keys with
/// the same tag are in one slot. The tag is what stands between the first `{` and the first `}` after it; an empty one
/// is none.
pub fn slot(key: &[u8]) -> u16 {
    let tag = find(b'{', key)
        .map(|open| &key[open + 1..])
        .and_then(|rest| find(b'}', rest).map(|close| &rest[..close]))
        .filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key)) % 16_384
}

/// CRC-16/XMODEM: polynomial 0x1021, nothing reflected, starts at 0. Eight bytes at a time, whose tables are asked all at
/// once: byte by byte each would wait for the one before.
fn crc16(bytes: &[u8]) -> u16 {
    let (eights, rest) = bytes.as_chunks::<8>();
    let crc = eights.iter().fold(0u16, |crc, eight| {
        let [high, low] = crc.to_be_bytes();
        let mut next =
            CRC16[7][usize::from(eight[0] ^ high)] ^ CRC16[6][usize::from(eight[1] ^ low)];
        for i in 2..8 {
            next ^= CRC16[7 - i][usize::from(eight[i])];
        }
        next
    });
    rest.iter().fold(crc, |crc, byte| {
        (crc << 8) ^ CRC16[0][usize::from((crc >> 8) as u8 ^ byte)]
    })
}

/// The remainders of each byte with so many zeros behind it.
static CRC16: [[u16; 256]; 8] = {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut zeros = 0;
        while zeros < 8 {
            let mut bit = 0;
            while bit < 8 {
                crc = (crc << 1) ^ if crc & 0x8000 != 0 { 0x1021 } else { 0 };
                bit += 1;
            }
            tables[zeros][byte] = crc;
            zeros += 1;
        }
        byte += 1;
    }
    tables
};

fn find(wanted: u8, bytes: &[u8]) -> Option<usize> {
    memchr::memchr(wanted, bytes)
}

#[cfg(test)]
mod tests {
    use super::super::table::lookup;
    use super::*;

    fn keys(argv: &[&[u8]]) -> Result<Vec<(usize, Vec<u8>)>, NoKeys> {
        let mut keys = Vec::new();
        let spec = lookup(argv[0]).expect("a command");
        let result = for_each_key(spec, argv.iter().copied(), |i, key| {
            assert_eq!(argv[i], key);
            keys.push((i, key.to_vec()));
        });
        assert!(
            result.is_ok() || keys.is_empty(),
            "keys were given and then denied"
        );
        assert!(keys.windows(2).all(|two| two[0].0 < two[1].0));
        result.map(|()| keys)
    }

    /// The indexes of the keys of a command line; `""` is an empty argument.
    fn at(line: &str) -> Result<Vec<usize>, NoKeys> {
        let argv: Vec<&[u8]> = line
            .split(' ')
            .map(|arg| if arg == "\"\"" { "" } else { arg }.as_bytes())
            .collect();
        keys(&argv).map(|keys| keys.into_iter().map(|(i, _)| i).collect())
    }

    #[test]
    fn keys_are_where_they_are() {
        let cases: &[(&str, &[usize])] = &[
            // One.
            ("GET k", &[1]),
            ("set k v PXAT 1", &[1]),
            ("APPEND k v", &[1]),
            ("HSET k f v f v", &[1]),
            ("ZADD k 1 m", &[1]),
            ("XADD k 1-1 f v", &[1]),
            ("RESTORE-ASKING k 0 payload", &[1]),
            ("PEXPIREAT k 1", &[1]),
            ("MOVE k 1", &[1]),
            ("SUBSTR k 0 1", &[1]),
            ("GCRASETVALUE k 1", &[1]),
            ("VADD k VALUES 1 1 m", &[1]),
            ("ARMSET k 0 v", &[1]),
            ("HPEXPIREAT k 1 FIELDS 1 f", &[1]),
            ("PFDEBUG GETREG k", &[2]),
            ("SORT_RO k BY p", &[1]),
            // Many.
            ("DEL a", &[1]),
            ("UNLINK a b c", &[1, 2, 3]),
            ("MGET a b", &[1, 2]),
            ("MSET a 1 b 2", &[1, 3]),
            ("MSETNX a 1", &[1]),
            ("RENAME a b", &[1, 2]),
            ("COPY a b DB 1 REPLACE", &[1, 2]),
            ("LMOVE a b LEFT RIGHT", &[1, 2]),
            ("RPOPLPUSH a b", &[1, 2]),
            ("SMOVE a b m", &[1, 2]),
            ("LCS a b LEN", &[1, 2]),
            ("ZRANGESTORE d s 0 1", &[1, 2]),
            ("GEOSEARCHSTORE d s FROMMEMBER m BYRADIUS 1 m", &[1, 2]),
            ("SINTERSTORE d a b", &[1, 2, 3]),
            ("PFMERGE d", &[1]),
            ("PFMERGE d a b", &[1, 2, 3]),
            ("BITOP AND d a b", &[2, 3, 4]),
            ("BLPOP a 0", &[1]),
            ("BZPOPMIN a b c 0", &[1, 2, 3]),
            // Counted.
            ("EVAL s 0", &[]),
            ("EVAL s 0 arg", &[]),
            ("EVALSHA s 2 a b arg", &[3, 4]),
            ("FCALL f 1 a arg", &[3]),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", &[1, 3, 4]),
            ("ZDIFFSTORE d 1 a", &[1, 3]),
            ("ZUNION 2 a b WITHSCORES", &[2, 3]),
            ("SINTERCARD 2 a b LIMIT 1", &[2, 3]),
            ("SDIFFCARD 1 a", &[2]),
            ("LMPOP 2 a b LEFT", &[2, 3]),
            ("BLMPOP 0 2 a b LEFT", &[3, 4]),
            ("BZMPOP 0 1 a MIN", &[3]),
            ("MSETEX 2 a 1 b 2 PXAT 5", &[2, 4]),
            // Between options.
            ("SORT k", &[1]),
            (
                "SORT k BY store GET store LIMIT 0 store ALPHA store d",
                &[1, 11],
            ),
            ("SORT k STORE d STORE e", &[1, 5]),
            ("GEORADIUS k 1 2 3 m", &[1]),
            ("GEORADIUS k 1 2 3 m COUNT 1 store d", &[1, 9]),
            ("GEORADIUS k 1 2 3 m STORE d STOREDIST e", &[1, 9]),
            ("GEORADIUSBYMEMBER k store 3 m STOREDIST d", &[1, 6]),
            ("XREAD STREAMS a b 0 0", &[2, 3]),
            ("XREAD COUNT 1 BLOCK 0 streams streams 0", &[6]),
            ("XREADGROUP GROUP streams streams NOACK STREAMS a >", &[6]),
            ("MIGRATE h 1 k 0 5 AUTH KEYS", &[3]),
            (
                "MIGRATE h 1 \"\" 0 5 REPLACE AUTH2 KEYS KEYS KEYS a b",
                &[11, 12],
            ),
            ("MIGRATE h 1 \"\" 0 5", &[3]),
            // Subcommands.
            ("XGROUP CREATE k g 0", &[2]),
            ("xgroup setid k g 0", &[2]),
            ("XGROUP HELP", &[]),
            ("XINFO STREAM k FULL", &[2]),
            ("OBJECT FREQ k", &[2]),
            ("MEMORY USAGE k", &[2]),
            ("MEMORY DOCTOR", &[]),
            ("HIMPORT SET k set v", &[2]),
            ("HIMPORT PREPARE set f", &[]),
            ("COMMAND", &[]),
            // None.
            ("PING", &[]),
            ("SELECT 1", &[]),
            ("FLUSHALL", &[]),
            ("SWAPDB 0 1", &[]),
            ("PUBLISH c m", &[]),
            ("SPUBLISH c m", &[]),
            ("CLUSTERSCAN 0-{tag}-0", &[]),
            ("SCRIPT LOAD s", &[]),
            ("FUNCTION LOAD code", &[]),
            ("EXEC", &[]),
        ];
        for (line, expected) in cases {
            assert_eq!(at(line).as_deref(), Ok(*expected), "{line}");
        }
    }

    #[test]
    fn the_spec_may_be_the_subcommands() {
        let sub = lookup(b"XGROUP").unwrap().sub(b"create").unwrap();
        let argv = [&b"XGROUP"[..], b"CREATE", b"k", b"g", b"0"];
        let mut found = None;
        assert_eq!(
            for_each_key(sub, argv.into_iter(), |i, key| found = Some((i, key))),
            Ok(())
        );
        assert_eq!(found, Some((2, &b"k"[..])));
    }

    #[test]
    fn malformed_commands_have_no_keys() {
        for (line, error) in [
            ("GET", NoKeys::TooShort),
            ("MSET", NoKeys::TooShort),
            ("RENAME a", NoKeys::TooShort),
            ("BITOP AND", NoKeys::TooShort),
            ("BLPOP", NoKeys::TooShort),
            ("BLPOP 0", NoKeys::TooShort),
            ("EVAL s", NoKeys::TooShort),
            ("EVAL s x", NoKeys::Count),
            ("EVAL s -1 a", NoKeys::Count),
            ("EVAL s 2 a", NoKeys::Count),
            ("EVAL s 9223372036854775808 a", NoKeys::Count),
            ("EVAL s 18446744073709551615 a", NoKeys::Count),
            ("EVAL s 99999999999999999999999 a", NoKeys::Count),
            ("MSETEX 9223372036854775808 a 1", NoKeys::Count),
            ("MSETEX 18446744073709551615 a 1", NoKeys::Count),
            ("MSETEX 2 a 1 b", NoKeys::Count),
            ("ZUNIONSTORE d 0 a", NoKeys::Count),
            ("ZUNIONSTORE d 3 a b", NoKeys::Count),
            ("LMPOP \"\" a LEFT", NoKeys::Count),
            ("SORT", NoKeys::TooShort),
            ("SORT k STORE", NoKeys::TooShort),
            ("GEORADIUS", NoKeys::TooShort),
            ("GEORADIUS k 1 2 3 m STORE", NoKeys::TooShort),
            ("XREAD", NoKeys::TooShort),
            ("XREAD COUNT 1", NoKeys::TooShort),
            ("XREAD COUNT", NoKeys::TooShort),
            ("XREAD STREAMS", NoKeys::TooShort),
            ("XREAD STREAMS a", NoKeys::Options),
            ("XREAD SOMETHING STREAMS a 0", NoKeys::Options),
            ("MIGRATE h 1", NoKeys::TooShort),
            ("MIGRATE h 1 k 0 5 KEYS a", NoKeys::Options),
            ("XGROUP SOMETHING k", NoKeys::Subcommand),
            ("OBJECT FREQ", NoKeys::TooShort),
            ("XGROUP", NoKeys::TooShort),
        ] {
            assert_eq!(at(line), Err(error), "{line}");
        }
    }

    #[test]
    fn any_arguments_do() {
        let words: Vec<&[u8]> = [
            "",
            "0",
            "1",
            "2",
            "-1",
            "9223372036854775807",
            "STREAMS",
            "STORE",
            "KEYS",
            "k",
            "COUNT",
            "GROUP",
            "LIMIT",
            "\u{ff}",
        ]
        .iter()
        .map(|word| word.as_bytes())
        .collect();
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        for spec in super::super::table::commands() {
            for _ in 0..200 {
                let mut argv = vec![spec.name.as_bytes()];
                if !spec.subcommands.is_empty() && next(4) > 0 {
                    let sub = &spec.subcommands[next(spec.subcommands.len())];
                    argv.push(&sub.name.as_bytes()[spec.name.len() + 1..]);
                }
                argv.extend((0..next(12)).map(|_| words[next(words.len())]));
                let _ = keys(&argv);
            }
        }
    }

    #[test]
    fn slots() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"123456789"), 12_739);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b""), 0);
        for (key, same) in [
            ("{user1000}.following", "user1000"),
            ("{user1000}.followers", "user1000"),
            ("foo{bar}{zap}", "bar"),
            ("foo{{bar}}zap", "{bar"),
            ("a}b{c}", "c"),
        ] {
            assert_eq!(slot(key.as_bytes()), slot(same.as_bytes()), "{key}");
        }
        // No tag: all of the key counts.
        for key in ["foo{}{bar}", "foo{bar", "foo}bar{", "{}"] {
            assert_eq!(
                slot(key.as_bytes()),
                crc16(key.as_bytes()) % 16_384,
                "{key}"
            );
        }
    }
}
