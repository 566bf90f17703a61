//! Bitmaps, which are strings.

use super::args::{at, int, is, option};
use super::string::within_limit;
use super::{Handler, State};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] =
    &[("SETBIT", setbit), ("BITFIELD", bitfield), ("BITOP", bitop)];

/// Bits that the longest string holds.
const MOST_BITS: u64 = 512 << 23;

fn setbit(state: &mut State, args: &[&[u8]]) -> Done {
    let offset = u64::try_from(int(args[2])?).map_err(|_| Fail::Refused)?;
    let bit = match int(args[3])? {
        bit @ (0 | 1) => bit as u8,
        _ => return Err(Fail::Refused),
    };
    if offset >= MOST_BITS {
        return Err(Fail::Refused);
    }
    let text = state.keys.make::<Vec<u8>>(args[1])?;
    grow(text, offset / 8 + 1);
    put_bit(text, offset, bit != 0);
    Ok(())
}

fn grow(text: &mut Vec<u8>, len: u64) {
    if (text.len() as u64) < len {
        text.resize(len as usize, 0);
    }
}

fn put_bit(text: &mut [u8], offset: u64, bit: bool) {
    let (byte, mask) = (&mut text[(offset / 8) as usize], 0x80 >> (offset % 8));
    match bit {
        true => *byte |= mask,
        false => *byte &= !mask,
    }
}

/// The type of a bitfield's number.
#[derive(Clone, Copy)]
struct Width {
    signed: bool,
    bits: u32,
}

impl Width {
    fn parse(arg: &[u8]) -> Done<Width> {
        let (signed, digits) = match arg.split_first() {
            Some((b'i', digits)) => (true, digits),
            Some((b'u', digits)) => (false, digits),
            _ => return Err(Fail::Refused),
        };
        let bits = int(digits)?;
        let most = if signed { 64 } else { 63 };
        match (1..=most).contains(&bits) {
            true => Ok(Width {
                signed,
                bits: bits as u32,
            }),
            false => Err(Fail::Refused),
        }
    }

    fn least(self) -> i128 {
        match self.signed {
            true => -(1i128 << (self.bits - 1)),
            false => 0,
        }
    }

    fn most(self) -> i128 {
        (1i128 << (self.bits - u32::from(self.signed))) - 1
    }

    fn read(self, text: &[u8], offset: u64) -> i128 {
        let mut value = 0i128;
        for i in 0..u64::from(self.bits) {
            let byte = text.get(((offset + i) / 8) as usize).copied().unwrap_or(0);
            value = value << 1 | i128::from(byte >> (7 - (offset + i) % 8) & 1);
        }
        match self.signed && value > self.most() {
            true => value - (1i128 << self.bits),
            false => value,
        }
    }

    fn write(self, text: &mut [u8], offset: u64, value: i128) {
        for i in 0..self.bits {
            let bit = value >> (self.bits - 1 - i) & 1 != 0;
            put_bit(text, offset + u64::from(i), bit);
        }
    }
}

#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

fn bitfield(state: &mut State, args: &[&[u8]]) -> Done {
    let mut steps = Vec::new();
    let (mut overflow, mut end) = (Overflow::Wrap, None);
    let mut i = 2;
    while let Some(word) = args.get(i) {
        if is(word, "OVERFLOW") {
            let how = at(args, i + 1)?;
            overflow = match () {
                () if is(how, "WRAP") => Overflow::Wrap,
                () if is(how, "SAT") => Overflow::Saturate,
                () if is(how, "FAIL") => Overflow::Fail,
                () => return Err(Fail::Refused),
            };
            i += 2;
            continue;
        }
        let width = Width::parse(at(args, i + 1)?)?;
        let offset = bit_offset(at(args, i + 2)?, width)?;
        if is(word, "GET") {
            i += 3;
            continue;
        }
        if !is(word, "SET") && !is(word, "INCRBY") {
            return Err(option(word));
        }
        let number = int(at(args, i + 3)?)?;
        end = end.max(Some((offset + u64::from(width.bits) - 1) / 8 + 1));
        steps.push((is(word, "SET"), width, offset, number, overflow));
        i += 4;
    }
    state.keys.read::<Vec<u8>>(args[1])?;
    let Some(end) = end else { return Ok(()) };
    let text = state.keys.make::<Vec<u8>>(args[1])?;
    grow(text, end);
    for (sets, width, offset, number, overflow) in steps {
        let wanted = match sets {
            true if width.signed => i128::from(number),
            true => i128::from(number as u64),
            false => width.read(text, offset) + i128::from(number),
        };
        let fits = (width.least()..=width.most()).contains(&wanted);
        let value = match overflow {
            _ if fits => wanted,
            // A write takes the lowest bits.
            Overflow::Wrap => wanted,
            // Servers take the distance to the largest number in 64 bits, and what does not fit there for an overflow.
            Overflow::Saturate
                if sets && width.signed && width.most() - wanted > i128::from(i64::MAX) =>
            {
                width.most()
            }
            Overflow::Saturate => wanted.clamp(width.least(), width.most()),
            Overflow::Fail => continue,
        };
        width.write(text, offset, value);
    }
    Ok(())
}

fn bit_offset(arg: &[u8], width: Width) -> Done<u64> {
    let (digits, unit) = match arg.strip_prefix(b"#") {
        Some(digits) => (digits, u64::from(width.bits)),
        None => (arg, 1),
    };
    let n = u64::try_from(int(digits)?).map_err(|_| Fail::Refused)?;
    let offset = n.checked_mul(unit).filter(|offset| *offset < MOST_BITS);
    offset.ok_or(Fail::Refused)
}

fn bitop(state: &mut State, args: &[&[u8]]) -> Done {
    let (word, target, sources) = (args[1], args[2], &args[3..]);
    let mut texts = Vec::new();
    for source in sources {
        let text = state.keys.read::<Vec<u8>>(source)?;
        texts.push(text.map_or(&[][..], |text| text));
    }
    let len = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    within_limit(len)?;
    let byte = |text: &[u8], i: usize| text.get(i).copied().unwrap_or(0);
    let (first, rest) = texts.split_first().ok_or(Fail::Refused)?;
    let any = |texts: &[&[u8]], i: usize| texts.iter().fold(0, |all, text| all | byte(text, i));
    let all = |i: usize| texts.iter().fold(0xff, |all, text| all & byte(text, i));
    let odd = |i: usize| texts.iter().fold(0, |all, text| all ^ byte(text, i));
    let one = |i: usize| {
        let (mut once, mut more) = (0u8, 0u8);
        for text in &texts {
            let byte = byte(text, i);
            more |= once & byte;
            once |= byte;
        }
        once & !more
    };
    let two = !rest.is_empty();
    let made: Vec<u8> = match () {
        () if is(word, "AND") => (0..len).map(all).collect(),
        () if is(word, "OR") => (0..len).map(|i| any(&texts, i)).collect(),
        () if is(word, "XOR") => (0..len).map(odd).collect(),
        () if is(word, "NOT") && !two => (0..len).map(|i| !byte(first, i)).collect(),
        () if is(word, "DIFF") && two => (0..len).map(|i| byte(first, i) & !any(rest, i)).collect(),
        () if is(word, "DIFF1") && two => {
            (0..len).map(|i| !byte(first, i) & any(rest, i)).collect()
        }
        () if is(word, "ANDOR") && two => (0..len).map(|i| byte(first, i) & any(rest, i)).collect(),
        () if is(word, "ONE") => (0..len).map(one).collect(),
        () if ["NOT", "DIFF", "DIFF1", "ANDOR"]
            .iter()
            .any(|known| is(word, known)) =>
        {
            return Err(Fail::Refused);
        }
        () => return Err(option(word)),
    };
    match made.is_empty() {
        true => drop(state.keys.remove(target)),
        false => state.keys.store(target, made),
    }
    Ok(())
}
