//! The largest keys, exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A key that may be among the largest.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub db: u64,
    /// Cut at [`KEY_BYTES`].
    pub key: Vec<u8>,
    /// Whether the name is longer than that.
    pub cut: bool,
    pub type_name: String,
    pub encoding: &'static str,
    pub bytes: u64,
    pub memory: u64,
    pub elements: u64,
    pub largest_element: u64,
    pub expires_at_ms: Option<i64>,
}

/// Names are kept up to this many bytes, so that they do not decide how much memory a run takes.
pub(super) const KEY_BYTES: usize = 4 << 10;

/// The keys with the largest of one number. Between equals the one that stands first wins, so that the number of workers
/// changes nothing.
#[derive(Debug)]
pub(super) struct Largest {
    most: usize,
    heap: BinaryHeap<Reverse<Ranked>>,
}

#[derive(Debug)]
struct Ranked {
    rank: (u64, Reverse<(usize, usize)>),
    candidate: Candidate,
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.rank == other.rank
    }
}

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl Largest {
    pub fn new(most: usize) -> Largest {
        Largest {
            most,
            heap: BinaryHeap::new(),
        }
    }

    /// Whether a key of this size is among the largest so far. `place`: number of the input, position of the record.
    #[inline]
    pub fn takes(&self, size: u64, place: (usize, usize)) -> bool {
        match self.heap.peek() {
            Some(Reverse(smallest)) if self.heap.len() >= self.most => {
                (size, Reverse(place)) > smallest.rank
            }
            _ => self.most > 0,
        }
    }

    pub fn add(&mut self, size: u64, place: (usize, usize), candidate: Candidate) {
        self.push(Ranked {
            rank: (size, Reverse(place)),
            candidate,
        });
    }

    fn push(&mut self, ranked: Ranked) {
        self.heap.push(Reverse(ranked));
        if self.heap.len() > self.most {
            self.heap.pop();
        }
    }

    pub fn merge(&mut self, other: Largest) {
        for Reverse(ranked) in other.heap {
            self.push(ranked);
        }
    }

    /// The largest first.
    pub fn into_sorted(self) -> impl Iterator<Item = Candidate> {
        let sorted = self.heap.into_sorted_vec();
        sorted.into_iter().map(|Reverse(ranked)| ranked.candidate)
    }
}
