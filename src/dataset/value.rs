//! Values as they are held in memory while the commands of a log are applied to them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::stream::Stream;
use crate::value::TypeByte;

/// Bytes that are kept as they are: names, elements, members.
pub(super) type Bytes = Box<[u8]>;
/// A table by hash.
pub(super) type Map<K, V> = HashMap<K, V, RandomState>;

/// A key's value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    String(Vec<u8>),
    List(List),
    Set(Set),
    Zset(Zset),
    Hash(Hash),
    Stream(Box<Stream>),
    Array(Array),
    /// What no command here looks into: values of modules, and types that no release of a server writes commands for.
    Opaque {
        ty: TypeByte,
        raw: Bytes,
    },
}

pub(super) type List = VecDeque<Bytes>;
pub(super) type Set = HashSet<Bytes, RandomState>;
pub(super) type Hash = Map<Bytes, Field>;

/// A field of a hash.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub value: Bytes,
    pub expire_at_ms: Option<i64>,
}

/// An array of Redis 8.8: elements as text, and the index that was inserted last.
#[derive(Debug, Clone, Default)]
pub(super) struct Array {
    pub items: BTreeMap<u64, Bytes>,
    pub cursor: Option<u64>,
}

/// A value that the commands of one type work on.
pub(super) trait Typed: Sized {
    fn of(value: &Value) -> Option<&Self>;
    fn of_mut(value: &mut Value) -> Option<&mut Self>;
    fn wrap(self) -> Value;
    /// What a command makes where there is no such key.
    fn new() -> Self;
    /// Whether a server removes the key then.
    fn is_gone(&self) -> bool;
}

macro_rules! typed {
    ($ty:ty, $variant:ident) => {
        impl Typed for $ty {
            fn of(value: &Value) -> Option<&Self> {
                match value {
                    Value::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                match value {
                    Value::$variant(inner) => Some(inner),
                    _ => None,
                }
            }
            fn wrap(self) -> Value {
                Value::$variant(self)
            }
            fn new() -> Self {
                Self::default()
            }
            fn is_gone(&self) -> bool {
                self.is_empty()
            }
        }
    };
}

typed!(List, List);
typed!(Set, Set);
typed!(Zset, Zset);
typed!(Hash, Hash);
typed!(Array, Array);

impl Typed for Vec<u8> {
    fn of(value: &Value) -> Option<&Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
    fn wrap(self) -> Value {
        Value::String(self)
    }
    fn new() -> Self {
        Vec::new()
    }
    /// An empty string is a key like any other.
    fn is_gone(&self) -> bool {
        false
    }
}

impl Typed for Stream {
    fn of(value: &Value) -> Option<&Self> {
        match value {
            Value::Stream(stream) => Some(stream),
            _ => None,
        }
    }
    fn of_mut(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Stream(stream) => Some(stream),
            _ => None,
        }
    }
    fn wrap(self) -> Value {
        Value::Stream(Box::new(self))
    }
    fn new() -> Self {
        Stream::default()
    }
    /// A stream without entries is a key like any other.
    fn is_gone(&self) -> bool {
        false
    }
}

impl Array {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// A score in the order of servers: 0 and -0 are one.
#[derive(Debug, Clone, Copy)]
struct Score(f64);

impl PartialEq for Score {
    fn eq(&self, other: &Score) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Score) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Score) -> std::cmp::Ordering {
        // No score is NaN; adding 0 makes 0 of -0.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

/// Up to so many members a server of default settings keeps a sorted set packed, where -0 becomes 0.
const PACKED: usize = 128;

/// A sorted set. Its order is made when a command first asks for it, and kept from then on.
#[derive(Debug, Clone, Default)]
pub(super) struct Zset {
    scores: Map<Arc<[u8]>, f64>,
    order: Option<BTreeSet<(Score, Arc<[u8]>)>>,
}

impl Zset {
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    pub fn set(&mut self, member: &[u8], score: f64) {
        let score = match score == 0.0 && self.len() <= PACKED {
            true => 0.0,
            false => score,
        };
        if let Some(old) = self.scores.get_mut(member) {
            let old = std::mem::replace(old, score);
            if let Some(order) = &mut self.order
                && Score(old) != Score(score)
            {
                let (_, member) = order
                    .take(&(Score(old), Arc::from(member)))
                    .expect("order holds what scores holds");
                order.insert((Score(score), member));
            }
            return;
        }
        self.load(Arc::from(member), score);
    }

    /// A member that is not there, with its score as it stands in a snapshot.
    pub fn load(&mut self, member: Arc<[u8]>, score: f64) {
        if let Some(order) = &mut self.order {
            order.insert((Score(score), member.clone()));
        }
        self.scores.insert(member, score);
    }

    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let (member, score) = self.scores.remove_entry(member)?;
        if let Some(order) = &mut self.order {
            order.remove(&(Score(score), member));
        }
        Some(score)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<[u8]>, f64)> {
        self.scores.iter().map(|(member, score)| (member, *score))
    }

    /// Members by score, those of one score by their bytes.
    pub fn ordered(&mut self) -> impl DoubleEndedIterator<Item = (&Arc<[u8]>, f64)> {
        let Zset { scores, order } = self;
        let order = order.get_or_insert_with(|| {
            let pairs = scores.iter();
            pairs.map(|(m, score)| (Score(*score), m.clone())).collect()
        });
        order.iter().map(|(score, member)| (member, score.0))
    }
}
