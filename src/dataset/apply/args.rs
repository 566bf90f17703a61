//! Arguments of commands, read as servers read them.

use crate::dataset::{Done, Fail};
use crate::encoding::listpack::canonical_int;

/// Arguments of a command.
pub(super) type Args<'s, 'a> = &'s [&'a [u8]];

/// An integer: canonical decimal and nothing else. Errors: a server refuses the command.
pub(super) fn int(arg: &[u8]) -> Done<i64> {
    canonical_int(arg).ok_or(Fail::Refused)
}

/// An integer of 0 or more.
pub(super) fn count(arg: &[u8]) -> Done<usize> {
    usize::try_from(int(arg)?).map_err(|_| Fail::Refused)
}

/// A number as C reads it, NaN left out.
pub(super) fn float(arg: &[u8]) -> Done<f64> {
    let text = std::str::from_utf8(arg).map_err(|_| Fail::Refused)?;
    let digits = text.trim_start_matches(['+', '-']);
    if digits.len() > 1 && (digits.starts_with("0x") || digits.starts_with("0X")) {
        return Err(Fail::unknown("it has a number in hexadecimal digits"));
    }
    // Rust knows the same words and digits.
    let number: f64 = text.parse().map_err(|_| Fail::Refused)?;
    // C refuses what is too large or too small for a double.
    let mantissa = digits.split(['e', 'E']).next().unwrap_or_default();
    let overflows = number.is_infinite() && digits.starts_with(|c: char| !c.is_alphabetic());
    let underflows = number == 0.0 && mantissa.contains(|c: char| matches!(c, '1'..='9'));
    match number.is_nan() || overflows || underflows {
        true => Err(Fail::Refused),
        false => Ok(number),
    }
}

/// Whether an argument is this word, in any letter case.
pub(super) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// The argument at a place. Errors: there is none, and a server refuses the command.
pub(super) fn at<'a>(args: &[&'a [u8]], i: usize) -> Done<&'a [u8]> {
    args.get(i).copied().ok_or(Fail::Refused)
}

/// An option that is not known here. A newer server may know it, so that what the command did cannot be told.
#[cold]
pub(super) fn option(arg: &[u8]) -> Fail {
    let shown = &arg[..arg.len().min(40)];
    Fail::unknown(format!(
        "it has an option that is not known here: {}",
        shown.escape_ascii()
    ))
}

/// Items from `start` to `stop`, both included and negative from the end, of `len`; `None` for none of them.
pub(super) fn range(start: i64, stop: i64, len: usize) -> Option<(usize, usize)> {
    let len = len as i64;
    let from_end = |i: i64| if i < 0 { (i + len).max(-1) } else { i };
    let (start, stop) = (from_end(start).max(0), from_end(stop).min(len - 1));
    (start <= stop && start < len).then_some((start as usize, stop as usize))
}

/// What follows a number of keys at `at`: the keys, and the arguments behind them.
pub(super) fn counted<'s, 'a>(
    args: &'s [&'a [u8]],
    place: usize,
) -> Done<(Args<'s, 'a>, Args<'s, 'a>)> {
    let n = count(at(args, place)?)?;
    let rest = &args[place + 1..];
    if n == 0 || n > rest.len() {
        return Err(Fail::Refused);
    }
    Ok(rest.split_at(n))
}
