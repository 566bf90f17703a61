//! HyperLogLogs, which are strings: the registers in six bits each, or in runs, behind a header of 16 bytes.
//!
//! The bytes are those that a server of default settings makes: it packs runs in place, and gives up on them where they
//! would take more than 3000 bytes or a register above 32.

use super::{Handler, State};
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] =
    &[("PFADD", pfadd), ("PFCOUNT", pfcount), ("PFMERGE", pfmerge)];

const REGISTERS: usize = 1 << 14;
/// The largest value of a register: the bits of a hash that do not say which register it is, and one.
const MOST: usize = 51;
const HEADER: usize = 16;
const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;
/// `hll-sparse-max-bytes`.
const MOST_SPARSE_BYTES: usize = 3000;
/// The highest value and the longest run that a run of values has room for.
const MOST_RUN_VALUE: u8 = 32;
const MOST_RUN: usize = 4;
const ENCODING: usize = 4;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
/// The cached count: eight bytes, whose highest bit says that it is stale.
const CARD: std::ops::Range<usize> = 8..16;
const STALE: usize = 15;

/// A HyperLogLog without elements: one run of zeros.
fn empty() -> Vec<u8> {
    let mut text = vec![0; HEADER];
    text[..4].copy_from_slice(b"HYLL");
    text[ENCODING] = SPARSE;
    text.extend_from_slice(&[0x7f, 0xff]);
    text
}

fn check(text: &[u8]) -> Done {
    let whole = text.len() >= HEADER
        && text.starts_with(b"HYLL")
        && match text[ENCODING] {
            DENSE => text.len() == DENSE_BYTES,
            // Whether its runs are right shows where they are gone through; servers look no further here either.
            SPARSE => true,
            _ => false,
        };
    match whole {
        true => Ok(()),
        false => Err(Fail::Refused),
    }
}

fn pfadd(state: &mut State, args: &[&[u8]]) -> Done {
    let mut changed = false;
    match state.keys.read::<Vec<u8>>(args[1])? {
        Some(text) => check(text)?,
        None => {
            state.keys.store(args[1], empty());
            changed = true;
        }
    }
    let text = state.keys.make::<Vec<u8>>(args[1])?;
    for element in &args[2..] {
        let (register, value) = place(element);
        changed |= raise(text, register, value)?;
    }
    if changed {
        text[STALE] |= 0x80;
    }
    Ok(())
}

/// PFCOUNT of one key writes the count down in it; servers log it for that.
fn pfcount(state: &mut State, args: &[&[u8]]) -> Done {
    if let [_, key] = args
        && let Some(text) = state.keys.write::<Vec<u8>>(key)?
    {
        check(text)?;
        if text[STALE] & 0x80 != 0 {
            let count = estimate(&registers(text)?);
            text[CARD].copy_from_slice(&count.to_le_bytes());
        }
    }
    Ok(())
}

fn pfmerge(state: &mut State, args: &[&[u8]]) -> Done {
    let mut all = [0; REGISTERS];
    let mut dense = false;
    for key in &args[1..] {
        if let Some(text) = state.keys.read::<Vec<u8>>(key)? {
            check(text)?;
            dense |= text[ENCODING] == DENSE;
            let own = registers(text)?;
            all.iter_mut().zip(own).for_each(|(a, b)| *a = b.max(*a));
        }
    }
    if state.keys.read::<Vec<u8>>(args[1])?.is_none() {
        state.keys.store(args[1], empty());
    }
    let text = state.keys.make::<Vec<u8>>(args[1])?;
    if dense {
        unpack(text)?;
    }
    for (register, value) in all.into_iter().enumerate() {
        if value > 0 {
            raise(text, register, value)?;
        }
    }
    text[STALE] |= 0x80;
    Ok(())
}

/// The register of an element, and the value that it wants there.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur(element);
    let rest = hash >> 14 | 1 << 50;
    (hash as usize % REGISTERS, rest.trailing_zeros() as u8 + 1)
}

/// MurmurHash 2 of 64 bits, with the seed of servers.
fn murmur(bytes: &[u8]) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = 0xadc8_3b19 ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 47;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(M);
    }
    hash ^= hash >> 47;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 47
}

/// Registers of one value that follow one another.
#[derive(Clone, Copy)]
struct Run {
    /// Where it stands, and in how many bytes.
    at: usize,
    bytes: usize,
    value: u8,
    len: usize,
}

/// The run at `at`, if there is one.
fn run(text: &[u8], at: usize) -> Option<Run> {
    let byte = *text.get(at)?;
    let (bytes, value, len) = match byte >> 6 {
        0 => (1, 0, usize::from(byte) + 1),
        1 => {
            let low = *text.get(at + 1)?;
            (2, 0, (usize::from(byte & 0x3f) << 8 | usize::from(low)) + 1)
        }
        _ => (1, (byte >> 2 & 0x1f) + 1, usize::from(byte & 3) + 1),
    };
    Some(Run {
        at,
        bytes,
        value,
        len,
    })
}

fn runs(text: &[u8]) -> impl Iterator<Item = Run> {
    std::iter::successors(run(text, HEADER), |last| run(text, last.at + last.bytes))
}

fn value_run(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

fn push_run(out: &mut Vec<u8>, value: u8, len: usize) {
    match (value, len) {
        (_, 0) => {}
        (0, 1..=64) => out.push((len - 1) as u8),
        (0, _) => out.extend_from_slice(&[0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
        (value, len) => out.push(value_run(value, len)),
    }
}

/// Sets a register to a value where it holds less; whether it did.
fn raise(text: &mut Vec<u8>, register: usize, value: u8) -> Done<bool> {
    if text[ENCODING] == SPARSE {
        if let Some(changed) = raise_sparse(text, register, value)? {
            return Ok(changed);
        }
        unpack(text)?;
    }
    let old = dense(text, register);
    if old < value {
        set_dense(text, register, value);
    }
    Ok(old < value)
}

/// The same among runs; `None` where it needs the dense form.
fn raise_sparse(text: &mut Vec<u8>, register: usize, value: u8) -> Done<Option<bool>> {
    if value > MOST_RUN_VALUE {
        return Ok(None);
    }
    let (mut first, mut before) = (0, None);
    let mut found = run(text, HEADER).ok_or(Fail::Refused)?;
    while register >= first + found.len {
        first += found.len;
        before = Some(found.at);
        found = run(text, found.at + found.bytes).ok_or(Fail::Refused)?;
    }
    if found.value >= value {
        return Ok(Some(false));
    }
    if found.len == 1 {
        text[found.at] = value_run(value, 1);
    } else {
        let mut made = Vec::with_capacity(5);
        push_run(&mut made, found.value, register - first);
        push_run(&mut made, value, 1);
        push_run(&mut made, found.value, first + found.len - 1 - register);
        let more = made.len() - found.bytes.min(made.len());
        if more > 0 && text.len() + more > MOST_SPARSE_BYTES {
            return Ok(None);
        }
        text.splice(found.at..found.at + found.bytes, made);
    }
    merge(text, before.unwrap_or(HEADER));
    text[STALE] |= 0x80;
    Ok(Some(true))
}

/// Joins runs of one value, looking at five places from the one before a change on, as servers do.
fn merge(text: &mut Vec<u8>, from: usize) {
    let mut at = from;
    for _ in 0..5 {
        let Some(one) = run(text, at) else { return };
        let next = run(text, at + one.bytes);
        match next {
            Some(next)
                if one.value > 0 && next.value == one.value && one.len + next.len <= MOST_RUN =>
            {
                text[next.at] = value_run(one.value, one.len + next.len);
                text.remove(at);
            }
            _ => at += one.bytes,
        }
    }
}

/// The dense form of a sparse one.
fn unpack(text: &mut Vec<u8>) -> Done {
    if text[ENCODING] == DENSE {
        return Ok(());
    }
    let all = registers(text)?;
    text.truncate(HEADER);
    text[ENCODING] = DENSE;
    text.resize(DENSE_BYTES, 0);
    for (register, value) in all.into_iter().enumerate() {
        set_dense(text, register, value);
    }
    Ok(())
}

fn dense(text: &[u8], register: usize) -> u8 {
    let (byte, shift) = (HEADER + register * 6 / 8, register * 6 % 8);
    let next = text.get(byte + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([text[byte], next]) >> shift & 0x3f) as u8
}

fn set_dense(text: &mut [u8], register: usize, value: u8) {
    let (byte, shift) = (HEADER + register * 6 / 8, register * 6 % 8);
    let mask = 0x3fu16 << shift;
    let bits = u16::from(value) << shift;
    text[byte] = text[byte] & !(mask as u8) | bits as u8;
    if let Some(next) = text.get_mut(byte + 1) {
        *next = *next & !((mask >> 8) as u8) | (bits >> 8) as u8;
    }
}

/// The values of all registers. Errors: the runs are not those of so many.
fn registers(text: &[u8]) -> Done<[u8; REGISTERS]> {
    let mut all = [0; REGISTERS];
    if text[ENCODING] == DENSE {
        all.iter_mut()
            .enumerate()
            .for_each(|(i, to)| *to = dense(text, i));
        return Ok(all);
    }
    let mut first = 0;
    for run in runs(text) {
        let to = all.get_mut(first..first + run.len).ok_or(Fail::Refused)?;
        to.fill(run.value);
        first += run.len;
    }
    match first == REGISTERS {
        true => Ok(all),
        false => Err(Fail::Refused),
    }
}

/// How many elements there are, as servers reckon it: by Ertl's improved estimator, from how many registers hold each
/// value.
fn estimate(registers: &[u8; REGISTERS]) -> u64 {
    let mut histogram = [0u32; 64];
    for value in registers {
        histogram[usize::from(*value)] += 1;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau((m - f64::from(histogram[MOST])) / m);
    for count in histogram[1..MOST].iter().rev() {
        z = (z + f64::from(*count)) * 0.5;
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    // 1 / (2 ln 2)
    (0.721_347_520_444_481_7 * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
