//! A line as its JSON has it.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Wrong;
use crate::jsonl::text::EXACT;
use crate::value::stream::Id;
use crate::value::zset::number;

/// All fields that a line may have; which of them belong together is seen later.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    #[serde(borrow)]
    pub jsonl: Option<Plain<'a>>,
    pub version: Option<Int>,
    #[serde(borrow)]
    pub rdb: Option<Plain<'a>>,
    #[serde(borrow)]
    pub aux: Option<&'a RawValue>,
    pub db: Option<Int>,
    #[serde(borrow)]
    pub key: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub type_name: Option<Plain<'a>>,
    pub expires_at_ms: Option<Int>,
    pub idle_secs: Option<Int>,
    pub freq: Option<Int>,
    #[serde(borrow)]
    pub meta: Option<Text<'a>>,
    pub cursor: Option<Int>,
    pub part: Option<Int>,
    #[serde(borrow)]
    pub value: Option<&'a RawValue>,
    pub rdb_type: Option<Int>,
    #[serde(borrow)]
    pub raw: Option<Text<'a>>,
    pub more: Option<bool>,
    pub dropped: Option<bool>,
    #[serde(borrow)]
    pub function: Option<Text<'a>>,
    #[serde(borrow)]
    pub script: Option<Text<'a>>,
    #[serde(borrow)]
    pub module_aux: Option<Text<'a>>,
    #[serde(borrow)]
    pub command: Option<&'a RawValue>,
    pub time: Option<Int>,
}

impl Line<'_> {
    /// Its fields' names.
    pub const FIELDS: [&'static str; 24] = [
        "jsonl",
        "version",
        "rdb",
        "aux",
        "db",
        "key",
        "type",
        "expires_at_ms",
        "idle_secs",
        "freq",
        "meta",
        "cursor",
        "part",
        "value",
        "rdb_type",
        "raw",
        "more",
        "dropped",
        "function",
        "script",
        "module_aux",
        "command",
        "time",
        "base64",
    ];
}

/// What a line says of its key, whatever else it says.
#[derive(Deserialize)]
pub(super) struct Name<'a> {
    pub db: Int,
    #[serde(borrow)]
    pub key: Text<'a>,
    #[serde(borrow, rename = "type")]
    pub type_name: Option<Plain<'a>>,
}

/// A text: a string, or bytes in base64, not decoded yet.
#[derive(Debug, Clone)]
pub(super) enum Text<'a> {
    Plain(Cow<'a, str>),
    Base64(Cow<'a, str>),
}

/// Characters that are decoded at once.
const PIECE: usize = 64 << 10;

impl Text<'_> {
    /// Number of bytes that it stands for.
    pub fn len(&self) -> Result<u64, Wrong> {
        match self {
            Text::Plain(text) => Ok(text.len() as u64),
            Text::Base64(text) => {
                let padding = text
                    .bytes()
                    .rev()
                    .take(2)
                    .take_while(|b| *b == b'=')
                    .count();
                if text.len() % 4 != 0 {
                    return Err(Wrong::what("base64 comes in groups of four characters"));
                }
                Ok((text.len() / 4 * 3 - padding) as u64)
            }
        }
    }

    /// Appends its bytes to `out`.
    pub fn write(&self, out: &mut impl Write) -> Result<(), Wrong> {
        match self {
            Text::Plain(text) => out.write_all(text.as_bytes())?,
            Text::Base64(text) => {
                let mut decoded = [0; PIECE / 4 * 3];
                let mut left = self.len()?;
                for piece in text.as_bytes().chunks(PIECE) {
                    let n = STANDARD
                        .decode_slice(piece, &mut decoded)
                        .map_err(|e| Wrong::What(format!("base64: {e}").to_lowercase()))?;
                    out.write_all(&decoded[..n])?;
                    left = left.wrapping_sub(n as u64);
                }
                if left != 0 {
                    return Err(Wrong::what("base64 is padded in its middle"));
                }
            }
        }
        Ok(())
    }

    /// Its bytes.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, Wrong> {
        match self {
            Text::Plain(text) => Ok(Cow::Borrowed(text.as_bytes())),
            Text::Base64(_) => {
                let mut bytes = Vec::new();
                self.write(&mut bytes)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }

    /// Appends it as a string of a snapshot.
    pub fn write_string(&self, out: &mut impl Write) -> Result<(), Wrong> {
        let mut len = Vec::with_capacity(9);
        crate::encoding::length::write_length(&mut len, self.len()?);
        out.write_all(&len)?;
        self.write(out)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"base64\": …}")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text::Plain(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text::Plain(Cow::Owned(text.to_owned())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text<'de>, A::Error> {
                let Some((Tag("base64"), Plain(text))) = map.next_entry()? else {
                    return Err(de::Error::custom("expected {\"base64\": …}"));
                };
                match map.next_key::<Tag<'_>>()? {
                    None => Ok(Text::Base64(text)),
                    Some(_) => Err(de::Error::custom("more than base64 stands in a text")),
                }
            }
        }
        from.deserialize_any(Either)
    }
}

#[derive(Deserialize)]
struct Tag<'a>(#[serde(borrow)] &'a str);

/// A string, from where it stands if it has no escapes.
#[derive(Debug, Deserialize)]
pub(super) struct Plain<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// An integer: a number, or a string where doubles could not hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Int(i128);

impl Int {
    pub const ZERO: Int = Int(0);

    pub fn of<T: TryFrom<i128>>(self, field: &str) -> Result<T, Wrong> {
        T::try_from(self.0).map_err(|_| Wrong::What(format!("{field}: {} is out of range", self.0)))
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Int;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E>(self, n: i64) -> Result<Int, E> {
                Ok(Int(n.into()))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Int, E> {
                Ok(Int(n.into()))
            }

            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Int, E> {
                // Some writers know doubles only.
                if n.fract() == 0.0 && n.abs() <= EXACT as f64 {
                    return Ok(Int(n as i128));
                }
                Err(de::Error::invalid_type(de::Unexpected::Float(n), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Int, E> {
                match text.parse::<i128>() {
                    Ok(n) if text.len() <= 20 => Ok(Int(n)),
                    _ => Err(de::Error::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(Number)
    }
}

/// A score: a number, or a string for what JSON has no number for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Score(pub f64);

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Score;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a score: a number, \"inf\", \"-inf\" or \"-0\"")
            }

            fn visit_i64<E>(self, n: i64) -> Result<Score, E> {
                Ok(Score(n as f64))
            }

            fn visit_u64<E>(self, n: u64) -> Result<Score, E> {
                Ok(Score(n as f64))
            }

            fn visit_f64<E>(self, n: f64) -> Result<Score, E> {
                Ok(Score(n))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Score, E> {
                number(text.as_bytes())
                    .map(Score)
                    .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(Number)
    }
}

/// A stream id as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdText(pub Id);

impl<'de> Deserialize<'de> for IdText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Pair;
        impl Visitor<'_> for Pair {
            type Value = IdText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a stream id: \"milliseconds-sequence\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<IdText, E> {
                let digits = |text: &str| {
                    let plain = text.bytes().all(|b| b.is_ascii_digit());
                    text.parse().ok().filter(|_| plain)
                };
                text.split_once('-')
                    .and_then(|(ms, seq)| {
                        Some(IdText(Id {
                            ms: digits(ms)?,
                            seq: digits(seq)?,
                        }))
                    })
                    .ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_str(Pair)
    }
}

/// A hash's field with its value and perhaps its expiry.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub name: Text<'a>,
    pub value: Text<'a>,
    pub expires_at_ms: Option<Int>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Two;
        impl<'de> Visitor<'de> for Two {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field: [name, value] or [name, value, expires_at_ms]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field<'de>, A::Error> {
                let few = |n| de::Error::invalid_length(n, &self);
                Ok(Field {
                    name: seq.next_element()?.ok_or_else(|| few(0))?,
                    value: seq.next_element()?.ok_or_else(|| few(1))?,
                    expires_at_ms: seq.next_element::<Option<Int>>()?.flatten(),
                })
            }
        }
        from.deserialize_seq(Two)
    }
}

/// Pushes the elements of an array, one at a time. Errors: of `f`, and of what is no array of such elements.
pub(super) fn for_each<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    mut f: impl FnMut(T) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let mut wrong = None;
    let seed = Each {
        f: &mut f,
        wrong: &mut wrong,
        of: std::marker::PhantomData,
    };
    let mut from = serde_json::Deserializer::from_str(raw.get());
    let result = seed.deserialize(&mut from).and_then(|()| from.end());
    match (wrong, result) {
        (Some(wrong), _) => Err(wrong),
        (None, result) => result.map_err(Wrong::json),
    }
}

struct Each<'f, F, T> {
    f: &'f mut F,
    wrong: &'f mut Option<Wrong>,
    of: std::marker::PhantomData<T>,
}

impl<'de, F, T> DeserializeSeed<'de> for Each<'_, F, T>
where
    F: FnMut(T) -> Result<(), Wrong>,
    T: Deserialize<'de>,
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }
}

impl<'de, F, T> Visitor<'de> for Each<'_, F, T>
where
    F: FnMut(T) -> Result<(), Wrong>,
    T: Deserialize<'de>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(element) = seq.next_element()? {
            if let Err(wrong) = (self.f)(element) {
                *self.wrong = Some(wrong);
                return Err(de::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

/// Reads a whole value.
pub(super) fn whole<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, Wrong> {
    serde_json::from_str(raw.get()).map_err(Wrong::json)
}

impl From<io::Error> for Wrong {
    fn from(error: io::Error) -> Wrong {
        Wrong::Io(error)
    }
}
