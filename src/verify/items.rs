//! The elements of a value on either side, in one piece of memory that is used again for the next value.

use std::cmp::Ordering;

use super::{Kind, show};
use crate::cursor::Cursor;
use crate::encoding::Element;
use crate::encoding::listpack::Boundary;
use crate::error::Result;
use crate::filter::Filter;
use crate::transform::Transform;
use crate::value::array::{self, Value};
use crate::value::hash::{self, Source};
use crate::value::zset;
use crate::value::{Head, Kind as Type, Room, Templates, TypeByte, list, set};

/// Elements, members with scores, fields with values and expiries, entries with fields.
#[derive(Debug, Default)]
pub(super) struct Items {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    name: (usize, usize),
    /// Position behind the value, which stands behind the name.
    end: usize,
    /// Bits of a score, expiry of a field (-1 for none), index.
    number: i64,
}

/// An element with what belongs to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct One<'i> {
    pub(super) name: &'i [u8],
    pub(super) value: &'i [u8],
    pub(super) number: i64,
}

/// Which fields of a hash are to be there, and with which expiry.
#[derive(Clone, Copy)]
pub(super) enum Fields<'s> {
    /// Those of a file, as they are written.
    OfFile {
        filter: &'s Filter,
        transform: &'s Transform,
        /// Fields whose time is no later are gone.
        gone_ms: i64,
    },
    /// As they are.
    There {
        /// Fields whose time is no later are gone.
        gone_ms: i64,
    },
}

impl Fields<'_> {
    /// Whether a field is to be there, and its expiry.
    pub(super) fn expiry(&self, at_ms: Option<i64>) -> Option<Option<i64>> {
        let (at_ms, gone_ms) = match self {
            Fields::There { gone_ms } => (at_ms, *gone_ms),
            Fields::OfFile {
                filter,
                transform,
                gone_ms,
            } => {
                let is_past = at_ms.is_some_and(|at| at <= filter.now_ms);
                if is_past && !filter.keep_expired {
                    return None;
                }
                (transform.true_expiry(at_ms), *gone_ms)
            }
        };
        match at_ms {
            Some(at) if at <= gone_ms => None,
            at => Some(at),
        }
    }
}

impl Items {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        // One large value is no reason to hold its memory for good.
        self.bytes.shrink_to(1 << 20);
        self.items.clear();
        self.items.shrink_to(1 << 16);
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of all names and values.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, name: Element<'_>, value: Option<Element<'_>>, number: i64) {
        let mut digits = itoa::Buffer::new();
        let from = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes(&mut digits));
        let middle = self.bytes.len();
        if let Some(value) = value {
            self.bytes.extend_from_slice(value.as_bytes(&mut digits));
        }
        self.items.push(Item {
            name: (from, middle),
            end: self.bytes.len(),
            number,
        });
    }

    pub(super) fn get(&self, n: usize) -> One<'_> {
        let item = &self.items[n];
        One {
            name: &self.bytes[item.name.0..item.name.1],
            value: &self.bytes[item.name.1..item.end],
            number: item.number,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = One<'_>> {
        (0..self.len()).map(|n| self.get(n))
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.items
            .sort_unstable_by_key(|item| &bytes[item.name.0..item.name.1]);
    }

    /// Takes in the elements of a list, set, sorted set, hash or array.
    pub(super) fn fill(
        &mut self,
        mut c: Cursor<'_>,
        ty: TypeByte,
        templates: &Templates,
        room: &mut Room,
        fields: Fields<'_>,
    ) -> Result<()> {
        self.clear();
        let file = c;
        let head = Head::parse(&mut c, ty, templates)?;
        let n = head.items;
        let mut boundary = Boundary::default();
        match ty.kind() {
            Type::List => list::for_each(&mut c, ty, n, room, &mut boundary, |element| {
                self.push(element, None, 0);
                Ok(())
            }),
            Type::Set => set::for_each(&mut c, ty, n, room, &mut boundary, |member| {
                self.push(member, None, 0);
                Ok(())
            }),
            Type::Zset => zset::for_each(&mut c, ty, n, room, &mut boundary, |member, score| {
                self.push(member, None, score.value().to_bits() as i64);
                Ok(())
            }),
            Type::Hash => {
                let source = Source {
                    file,
                    templates,
                    head,
                };
                hash::for_each(
                    &mut c,
                    ty,
                    n,
                    source,
                    room,
                    &mut boundary,
                    |field, value, at| {
                        if let Some(at) = fields.expiry(at) {
                            self.push(field, Some(value), at.unwrap_or(-1));
                        }
                        Ok(())
                    },
                )
            }
            Type::Array => {
                array::for_each(&mut c, n, &mut room.one, |index, value| {
                    let mut digits = itoa::Buffer::new();
                    let name = Element::Bytes(digits.format(index).as_bytes());
                    match value {
                        Value::Element(element) => self.push(name, Some(element), 0),
                        Value::Double(double) => {
                            let text = array::double_text(double);
                            self.push(name, Some(Element::Bytes(text.as_bytes())), 0);
                        }
                    }
                    Ok(())
                })?;
                let cursor = head.cursor.map_or(-1, |at| at as i64);
                self.push(Element::Bytes(CURSOR), None, cursor);
                Ok(())
            }
            Type::String | Type::Stream | Type::Module | Type::Gcra | Type::PathHash => {
                unreachable!("{ty:?} is compared as a whole, or as a stream")
            }
        }
    }
}

/// Stands for an array's cursor among its elements, whose names are digits.
const CURSOR: &[u8] = b"cursor";

/// Differences of one key.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) rows: Vec<(Kind, String, String)>,
    /// How many are told.
    most: usize,
    more: u64,
}

impl Rows {
    pub(super) fn new(most: usize) -> Rows {
        Rows {
            rows: Vec::new(),
            most,
            more: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.more == 0
    }

    /// Whether whatever else is found will only be counted.
    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= self.most
    }

    pub(super) fn push(&mut self, kind: Kind, expected: String, found: String) {
        if self.is_full() {
            self.more += 1;
        } else {
            self.rows.push((kind, expected, found));
        }
    }

    /// All of them, with a last one that counts those that are not told.
    pub(super) fn finish(mut self) -> Vec<(Kind, String, String)> {
        if self.more > 0 {
            let text = format!("{} further differences", self.more);
            self.rows.push((Kind::More, String::new(), text));
        }
        self.rows
    }
}

/// How the elements of a type are compared and named.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) ty: Type,
    pub(super) ttl_tolerance_ms: i64,
}

impl Manner {
    fn text(&self, one: Option<One<'_>>, differs: Kind) -> String {
        let Some(one) = one else {
            return String::new();
        };
        let name = show(one.name);
        match (self.ty, differs) {
            (Type::Hash, Kind::FieldExpiry) => match one.number {
                -1 => format!("{name} never"),
                at => format!("{name} {at}"),
            },
            (Type::Hash, _) => format!("{name} = {}", show(one.value)),
            (Type::Zset, _) => format!("{name} {}", score_text(one.number)),
            (Type::Array, _) if one.name == CURSOR => match one.number {
                -1 => String::new(),
                at => at.to_string(),
            },
            (Type::Array, _) => {
                format!(
                    "[{}] {}",
                    String::from_utf8_lossy(one.name),
                    show(one.value)
                )
            }
            _ => name,
        }
    }

    /// Compares two elements of one name.
    pub(super) fn same(&self, want: One<'_>, got: One<'_>, rows: &mut Rows) {
        let mut tell = |kind| {
            rows.push(
                kind,
                self.text(Some(want), kind),
                self.text(Some(got), kind),
            );
        };
        match self.ty {
            Type::Zset if !same_score(want.number, got.number) => tell(Kind::Score),
            Type::Hash => {
                if want.value != got.value {
                    tell(Kind::Field);
                }
                let (a, b) = (want.number, got.number);
                let is_near = a >= 0 && b >= 0 && (a - b).abs() <= self.ttl_tolerance_ms;
                if a != b && !is_near {
                    tell(Kind::FieldExpiry);
                }
            }
            Type::Array => {
                if want.value != got.value {
                    tell(Kind::Element);
                }
                if want.number != got.number {
                    tell(Kind::Cursor);
                }
            }
            // Their name is all there is to them, or they are compared elsewhere.
            Type::Zset
            | Type::String
            | Type::List
            | Type::Set
            | Type::Stream
            | Type::Module
            | Type::Gcra
            | Type::PathHash => {}
        }
    }

    /// An element that is on one side only.
    pub(super) fn alone(&self, want: Option<One<'_>>, got: Option<One<'_>>, rows: &mut Rows) {
        let kind = match self.ty {
            Type::Hash => Kind::Field,
            Type::Array => Kind::Element,
            Type::String
            | Type::List
            | Type::Set
            | Type::Zset
            | Type::Stream
            | Type::Module
            | Type::Gcra
            | Type::PathHash => Kind::Member,
        };
        rows.push(kind, self.text(want, kind), self.text(got, kind));
    }

    /// Compares sets of elements, whose order does not count.
    pub(super) fn sets(&self, want: &mut Items, got: &mut Items, rows: &mut Rows) {
        // What was restored has its order kept, mostly.
        let same_order =
            want.len() == got.len() && want.iter().zip(got.iter()).all(|(w, g)| w.name == g.name);
        if !same_order {
            want.sort();
            got.sort();
        }
        let (mut w, mut g) = (0, 0);
        loop {
            let order = match (w < want.len(), g < got.len()) {
                (false, false) => return,
                (true, false) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (true, true) if same_order => Ordering::Equal,
                (true, true) => want.get(w).name.cmp(got.get(g).name),
            };
            match order {
                Ordering::Less => self.alone(Some(want.get(w)), None, rows),
                Ordering::Greater => self.alone(None, Some(got.get(g)), rows),
                Ordering::Equal => self.same(want.get(w), got.get(g), rows),
            }
            w += usize::from(order != Ordering::Greater);
            g += usize::from(order != Ordering::Less);
        }
    }
}

/// Compares lists, or parts of them that begin at this index.
pub(super) fn lists(want: &Items, got: &Items, from: u64, rows: &mut Rows) {
    for n in 0..want.len().max(got.len()) {
        let text = |items: &Items| {
            let there = n < items.len();
            there.then(|| format!("[{}] {}", from + n as u64, show(items.get(n).name)))
        };
        let same = n < want.len() && n < got.len() && want.get(n).name == got.get(n).name;
        if !same {
            rows.push(
                Kind::Element,
                text(want).unwrap_or_default(),
                text(got).unwrap_or_default(),
            );
        }
    }
}

/// Whether two scores, by their bits, are the same. Servers lose the sign of a zero that they add to a packed sorted
/// set, so that of a -0 in the file a 0 may be left.
fn same_score(want: i64, got: i64) -> bool {
    const MINUS_ZERO: u64 = 1 << 63;
    want == got || (want as u64 == MINUS_ZERO && got == 0)
}

/// A score so that two of them are told apart by their last bit.
fn score_text(bits: i64) -> String {
    let score = f64::from_bits(bits as u64);
    match score {
        _ if score == f64::INFINITY => "inf".to_owned(),
        _ if score == f64::NEG_INFINITY => "-inf".to_owned(),
        _ if score.abs() >= 1e17 || (score != 0.0 && score.abs() < 1e-5) => format!("{score:e}"),
        _ => format!("{score}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(list: &[(&str, &str, i64)]) -> Items {
        let mut items = Items::default();
        for (name, value, number) in list {
            items.push(
                Element::Bytes(name.as_bytes()),
                Some(Element::Bytes(value.as_bytes())),
                *number,
            );
        }
        items
    }

    #[test]
    fn each_difference_of_a_hash_is_named_once() {
        let mut want = items(&[
            ("a", "1", -1),
            ("b", "2", 100),
            ("c", "3", -1),
            ("d", "4", 5),
        ]);
        let mut got = items(&[
            ("c", "3", 7),
            ("b", "2", 102),
            ("a", "x", -1),
            ("e", "5", -1),
        ]);
        let mut rows = Rows::new(10);
        let manner = Manner {
            ty: Type::Hash,
            ttl_tolerance_ms: 2,
        };
        manner.sets(&mut want, &mut got, &mut rows);
        let row = |kind, want: &str, got: &str| (kind, want.to_owned(), got.to_owned());
        assert_eq!(
            rows.finish(),
            [
                row(Kind::Field, "\"a\" = \"1\"", "\"a\" = \"x\""),
                row(Kind::FieldExpiry, "\"c\" never", "\"c\" 7"),
                row(Kind::Field, "\"d\" = \"4\"", ""),
                row(Kind::Field, "", "\"e\" = \"5\""),
            ]
        );
    }

    #[test]
    fn scores_differ_by_their_last_bit() {
        let next = f64::from_bits(0.1f64.to_bits() + 1);
        assert_ne!(
            score_text(0.1f64.to_bits() as i64),
            score_text(next.to_bits() as i64)
        );
        assert!(same_score((-0.0f64).to_bits() as i64, 0));
        assert!(!same_score(0, (-0.0f64).to_bits() as i64));
    }

    #[test]
    fn what_is_not_told_is_counted() {
        let mut rows = Rows::new(1);
        lists(
            &items(&[("a", "", 0), ("b", "", 0)]),
            &items(&[("x", "", 0), ("b", "", 0), ("c", "", 0)]),
            5,
            &mut rows,
        );
        let row = |kind, want: &str, got: &str| (kind, want.to_owned(), got.to_owned());
        assert_eq!(
            rows.finish(),
            [
                row(Kind::Element, "[5] \"a\"", "[5] \"x\""),
                row(Kind::More, "", "1 further differences"),
            ]
        );
    }
}
