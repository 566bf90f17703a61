//! What Redis 7.0 allocates, on a 64-bit machine with jemalloc.
//!
//! Sizes of structures are those that `sizeof` gives in 7.0; what is allocated for them is jemalloc's size class. Both
//! were held against `MEMORY USAGE key SAMPLES 0` and the growth of `used_memory` of a server; `tests/report.rs` does so
//! again. MEMORY USAGE counts an entry of a hash table by its 24 bytes, where 32 are allocated; what is estimated here is
//! what is allocated.

/// Largest error of a sum that was measured against the growth of `used_memory`, in percent.
pub const ERROR_PERCENT: f64 = 5.0;

/// The header of every value (`robj`).
pub const OBJECT: u64 = 16;

/// An entry of a hash table (`dictEntry`, 24 bytes): key, value and the next one.
pub const DICT_ENTRY: u64 = 32;

/// A hash table itself (`dict`, 56 bytes), without its buckets and entries.
pub const DICT: u64 = 64;

/// A `quicklist` (40 bytes), and each of its nodes (40 bytes) without the packed elements.
pub const QUICKLIST: u64 = 48;

/// What a sorted set has beside its table and its nodes: `zset` 16, `zskiplist` 32, and the head of the skip list with its
/// 32 levels: 24 + 32 × 16 = 536, for which 640 are allocated.
pub const ZSET: u64 = 16 + 32 + 640;

/// The most fields of a hash that is one listpack (`hash-max-listpack-entries`).
pub const HASH_MAX_LISTPACK_ENTRIES: u64 = 512;
/// The most members of a sorted set that is one listpack (`zset-max-listpack-entries`).
pub const ZSET_MAX_LISTPACK_ENTRIES: u64 = 128;
/// The longest field, value or member in a listpack (`…-max-listpack-value`).
pub const MAX_LISTPACK_VALUE: u64 = 64;
/// The most members of an intset (`set-max-intset-entries`).
pub const SET_MAX_INTSET_ENTRIES: u64 = 512;
/// The longest string that stands in one allocation with its object.
pub const EMBSTR_MAX: u64 = 44;
/// A quicklist's node takes another element as long as it stays below this (`list-max-listpack-size -2`).
const NODE_MAX: u64 = 8192;
/// Servers reckon with this much for an element's own head.
const NODE_ENTRY_GUESS: u64 = 8;

/// What a listpack has beside its entries: length, count and end mark.
pub const LISTPACK: u64 = 7;

/// What jemalloc gives for so many bytes: multiples of 16 up to 128, then four classes for each doubling.
#[inline]
pub fn allocated(bytes: u64) -> u64 {
    match bytes {
        0..=8 => 8,
        9..=128 => bytes.next_multiple_of(16),
        _ => bytes
            .checked_next_multiple_of(1 << ((bytes - 1).ilog2() - 2))
            .unwrap_or(u64::MAX),
    }
}

/// A string (`sds`): 1, 3, 5, 9 or 17 bytes of head by its length, and a zero behind it.
#[inline]
pub fn sds(len: u64) -> u64 {
    let head = match len {
        // An empty one is made ready to grow.
        0 => 3,
        1..=31 => 1,
        32..=255 => 3,
        256..=65_535 => 5,
        65_536..=0xffff_ffff => 9,
        _ => 17,
    };
    allocated(head + len + 1)
}

/// The buckets of a hash table: a power of two of pointers, four at least.
#[inline]
pub fn buckets(entries: u64) -> u64 {
    match entries {
        0 => 0,
        _ => allocated(
            8 * entries
                .checked_next_power_of_two()
                .unwrap_or(1 << 60)
                .max(4),
        ),
    }
}

/// The nodes of a skip list. A node has 24 bytes and 16 for each of its levels; one in four reaches the next level. By
/// size classes: ¾ × 48 + 3⁄16 × 64 + 3⁄64 × 80 + … = 53.34 bytes on average.
#[inline]
pub fn skiplist_nodes(n: u64) -> u64 {
    (u128::from(n) * 5334 / 100) as u64
}

/// A string value: nothing for the numbers that servers share, else by its length.
#[inline]
pub fn string(len: u64, integer: Option<i64>) -> u64 {
    match integer {
        Some(0..=9999) => 0,
        Some(_) => OBJECT,
        // Object, head of 3 bytes, text and a zero in one.
        None if len <= EMBSTR_MAX => allocated(OBJECT + 3 + len + 1),
        None => OBJECT + sds(len),
    }
}

/// An entry of a listpack: integers by value, strings by length, and behind each its own length.
#[inline]
pub fn listpack_entry(len: u64, integer: Option<i64>) -> u64 {
    let size = match integer {
        Some(0..=127) => 1,
        Some(-4096..=4095) => 2,
        Some(n) if i16::try_from(n).is_ok() => 3,
        Some(-8_388_608..=8_388_607) => 4,
        Some(n) if i32::try_from(n).is_ok() => 5,
        Some(_) => 9,
        None if len < 64 => 1 + len,
        None if len < 4096 => 2 + len,
        None => 5 + len,
    };
    size + match size {
        ..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        2_097_152..268_435_456 => 4,
        _ => 5,
    }
}

/// An intset of so many members, of which this is the smallest and the largest.
#[inline]
pub fn intset(members: u64, smallest: i64, largest: i64) -> u64 {
    let fits = |low: i64, high: i64| smallest >= low && largest <= high;
    let width = if fits(i16::MIN.into(), i16::MAX.into()) {
        2
    } else if fits(i32::MIN.into(), i32::MAX.into()) {
        4
    } else {
        8
    };
    OBJECT + allocated(8 + members * width)
}

/// A quicklist as it is filled element by element.
#[derive(Debug, Default)]
pub struct Filling {
    nodes: u64,
    node_bytes: u64,
    full_bytes: u64,
}

impl Filling {
    /// Adds an element at the tail.
    #[inline]
    pub fn push(&mut self, len: u64, integer: Option<i64>) {
        if self.nodes == 0 || self.node_bytes + len + NODE_ENTRY_GUESS > NODE_MAX {
            self.full_bytes += match self.nodes {
                0 => 0,
                _ => allocated(self.node_bytes),
            };
            self.nodes += 1;
            self.node_bytes = LISTPACK;
        }
        self.node_bytes += listpack_entry(len, integer);
    }

    /// The whole list.
    pub fn memory(&self) -> u64 {
        let last = match self.nodes {
            0 => 0,
            _ => allocated(self.node_bytes),
        };
        OBJECT + QUICKLIST + self.nodes * QUICKLIST + self.full_bytes + last
    }
}

/// A stream (`stream`, 80 bytes) with its tree.
pub const STREAM: u64 = OBJECT + 80 + RAX;
/// A tree without entries: `rax` (24 bytes) and its root.
pub const RAX: u64 = 32 + 8;
/// What a tree of listpacks holds for each by its id of 16 bytes: a leaf, what of the id is its own, and its share of the
/// branches. Measured on ids some seconds apart.
pub const RAX_NODE: u64 = 52;
/// A consumer group (`streamCG`, 40 bytes) with its two trees, and its leaf and its share of the tree of groups. Names
/// share most of their bytes; measured.
pub const GROUP: u64 = 48 + 2 * RAX + RAX_NAME;
/// A consumer (`streamConsumer`, 24 bytes) with its tree, and its leaf and its share of the tree of consumers.
pub const CONSUMER: u64 = 32 + RAX + RAX_NAME;
const RAX_NAME: u64 = 36;
/// A pending entry (`streamNACK`, 24 bytes), which stands in the trees of its group and of its consumer: 60 bytes in each,
/// measured on ids less than a second apart.
pub const PENDING: u64 = 32 + 2 * 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes() {
        for (bytes, class) in [
            (1, 8),
            (8, 8),
            (9, 16),
            (24, 32),
            (128, 128),
            (129, 160),
            (160, 160),
            (257, 320),
            (4097, 5120),
            (16_385, 20_480),
        ] {
            assert_eq!(allocated(bytes), class, "{bytes}");
        }
        assert_eq!(allocated(u64::MAX), u64::MAX);
    }

    #[test]
    fn entries_as_listpacks_have_them() {
        // Lengths of entries that a 7.0 server wrote, back length included.
        for (len, integer, size) in [
            (1, Some(7), 2),
            (3, Some(128), 3),
            (4, Some(4096), 4),
            (5, Some(40_000), 5),
            (10, Some(1 << 30), 6),
            (13, Some(1 << 40), 10),
            (0, None, 2),
            (63, None, 65),
            (64, None, 67),
            (5000, None, 5007),
        ] {
            assert_eq!(listpack_entry(len, integer), size, "{len} {integer:?}");
        }
    }
}
