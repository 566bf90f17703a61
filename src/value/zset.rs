//! Sorted sets: types 3 (text scores), 5 (binary scores), 12 (ziplist), 17 (listpack).
//! FORMAT §2.4, §4.1, §4.3, §4.6.

use super::{Room, TypeByte};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::{Boundary, Listpack};
use crate::encoding::string::{blob, string};
use crate::encoding::ziplist::Ziplist;
use crate::error::{ErrorKind, Result};

/// A score as it stands: text is passed on as it is, so that it reads back bit-equal.
#[derive(Debug, Clone, Copy)]
pub enum Score<'a> {
    /// Decimal text, `inf` or `-inf`; known to be a number.
    Text(&'a [u8]),
    /// A double, never NaN.
    Double(f64),
    /// An integer.
    Int(i64),
}

impl Score<'_> {
    /// The number.
    pub fn value(self) -> f64 {
        match self {
            Score::Text(text) => number(text).unwrap_or(f64::NAN),
            Score::Double(value) => value,
            Score::Int(n) => n as f64,
        }
    }
}

/// Pushes member and score of the next `items` items. A score that is no number is an error: ZADD
/// would refuse it, and servers refuse it in most encodings.
#[inline]
pub fn for_each(
    c: &mut Cursor<'_>,
    ty: TypeByte,
    items: u64,
    room: &mut Room,
    boundary: &mut Boundary,
    mut f: impl FnMut(Element<'_>, Score<'_>) -> Result<()>,
) -> Result<()> {
    match ty {
        TypeByte::Zset => {
            for _ in 0..items {
                let member = string(c)?.load(&mut room.one)?;
                let score = text_double(c)?;
                f(member, score)?;
            }
        }
        TypeByte::Zset2 => {
            for _ in 0..items {
                let member = string(c)?.load(&mut room.one)?;
                let at = *c;
                let score = f64::from_le_bytes(c.array()?);
                if score.is_nan() {
                    return Err(at.error(ErrorKind::BadScore("is not a number")));
                }
                f(member, Score::Double(score))?;
            }
        }
        TypeByte::ZsetZiplist => {
            let mut pairs = Ziplist::parse(blob(c, &mut room.one)?)?;
            while let Some(member) = pairs.next()? {
                let at = *pairs.cursor();
                let score = packed_score(pairs.expect()?, &at)?;
                f(member, score)?;
            }
        }
        TypeByte::ZsetListpack => {
            let mut pairs = Listpack::parse(blob(c, &mut room.one)?)?;
            while let Some(member) = pairs.next()? {
                let at = *pairs.cursor();
                let score = packed_score(pairs.expect()?, &at)?;
                f(member, score)?;
            }
            *boundary = pairs.boundary;
        }
        other => unreachable!("{other:?} is no sorted set"),
    }
    Ok(())
}

#[inline]
fn packed_score<'a>(element: Element<'a>, at: &Cursor<'_>) -> Result<Score<'a>> {
    match element {
        Element::Int(n) => Ok(Score::Int(n)),
        Element::Bytes(text) => match is_number(text) {
            true => Ok(Score::Text(text)),
            false => Err(at.error(ErrorKind::BadScore("is not a number"))),
        },
    }
}

/// A text double: one byte of length, or one of three marks, then digits.
#[inline]
fn text_double<'a>(c: &mut Cursor<'a>) -> Result<Score<'a>> {
    let at = *c;
    match c.u8()? {
        253 => Err(at.error(ErrorKind::BadScore("is not a number"))),
        254 => Ok(Score::Double(f64::INFINITY)),
        255 => Ok(Score::Double(f64::NEG_INFINITY)),
        n => {
            let text = c.take(usize::from(n))?;
            match is_number(text) {
                true => Ok(Score::Text(text)),
                false => Err(at.error(ErrorKind::BadScore("is not a number"))),
            }
        }
    }
}

/// Passes over a text double.
#[inline]
pub fn skip_text_double(c: &mut Cursor<'_>) -> Result<()> {
    match c.u8()? {
        253..=255 => Ok(()),
        n => c.skip(u64::from(n)),
    }
}

/// The number that servers would read from this text; `None` for anything else, NaN included.
pub fn number(text: &[u8]) -> Option<f64> {
    match text {
        b"inf" | b"+inf" => Some(f64::INFINITY),
        b"-inf" => Some(f64::NEG_INFINITY),
        _ if is_decimal(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// Whether the text is a number, which costs far less to find out than which one.
#[inline]
fn is_number(text: &[u8]) -> bool {
    is_decimal(text) || matches!(text, b"inf" | b"+inf" | b"-inf")
}

/// Sign, digits with a point, exponent: what both servers and Rust's parser take for a number. Rust's parser
/// also knows words that servers never write.
#[inline]
fn is_decimal(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let n = text
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(text.len());
        (n, &text[n..])
    }
    fn unsigned(text: &[u8]) -> &[u8] {
        text.strip_prefix(b"-")
            .or_else(|| text.strip_prefix(b"+"))
            .unwrap_or(text)
    }
    let (whole, mut rest) = digits(unsigned(text));
    let mut fraction = 0;
    if let Some(behind) = rest.strip_prefix(b".") {
        (fraction, rest) = digits(behind);
    }
    if whole + fraction == 0 {
        return false;
    }
    match rest {
        [] => true,
        [b'e' | b'E', exponent @ ..] => matches!(digits(unsigned(exponent)), (1.., [])),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"3.25"), Some(3.25));
        assert_eq!(number(b"1e-7"), Some(1e-7));
        assert_eq!(number(b"-0").map(f64::to_bits), Some((-0.0f64).to_bits()));
        assert_eq!(number(b"inf"), Some(f64::INFINITY));
        for good in [&b".5"[..], b"5.", b"+1E+20", b"17"] {
            assert!(is_number(good) && number(good).is_some(), "{good:?}");
        }
        for bad in [
            &b"1e"[..],
            b".",
            b"1e5.5",
            b"-",
            b"e5",
            &b"nan"[..],
            b"",
            b"infinity",
            b"0x10",
            b"1 ",
            b"1\0",
            b"--1",
        ] {
            assert!(!is_number(bad) && number(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn nan_is_an_error() {
        let mut room = Room::new(1 << 20);
        let mut b = Boundary::default();
        let text = for_each(
            &mut Cursor::new(b"\x01a\xfd", 0),
            TypeByte::Zset,
            1,
            &mut room,
            &mut b,
            |_, _| Ok(()),
        );
        assert!(matches!(text.unwrap_err().kind(), ErrorKind::BadScore(_)));
        let mut binary = b"\x01a".to_vec();
        binary.extend_from_slice(&f64::NAN.to_le_bytes());
        let binary = for_each(
            &mut Cursor::new(&binary, 0),
            TypeByte::Zset2,
            1,
            &mut room,
            &mut b,
            |_, _| Ok(()),
        );
        assert_eq!(binary.unwrap_err().at().unwrap().offset, 2);
    }
}
