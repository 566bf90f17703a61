//! Which keys belong to a sample: those with the smallest hashes of their databases and names, so many as are wanted.
//! The hash is seeded, so that the same seed chooses the same keys, and another one others.

use std::collections::BinaryHeap;
use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use super::Options;
use crate::error::Result;
use crate::filter::{Filter, Verdict};
use crate::input::Input;
use crate::pipeline::{Checksum, Progress};
use crate::rdb::keys::{Keys, Met};
use crate::rdb::scan::Task;
use crate::walk::{self, Visitor, walk};

/// The hash of a key.
pub(super) fn hash(seed: u64, db: u64, name: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(seed).build_hasher();
    hasher.write_u64(db);
    hasher.write(name);
    hasher.finish()
}

struct Smallest<'o, 'a> {
    keys: Keys<'a>,
    filter: &'o Filter,
    seed: u64,
    most: usize,
    /// The largest of the smallest ones first.
    hashes: BinaryHeap<u64>,
}

impl Visitor for Smallest<'_, '_> {
    type Found = ();

    fn task(&mut self, task: &Task) -> Result<()> {
        let (seed, most, hashes) = (self.seed, self.most, &mut self.hashes);
        self.keys.for_each(task, self.filter, |met| {
            if let Met::Key(seen) = met
                && seen.verdict == Verdict::Pass
            {
                keep(hashes, most, hash(seed, seen.db, seen.name));
            }
            Ok(())
        })
    }
}

fn keep(hashes: &mut BinaryHeap<u64>, most: usize, hash: u64) {
    if hashes.len() < most {
        hashes.push(hash);
    } else if let Some(mut largest) = hashes.peek_mut()
        && hash < *largest
    {
        *largest = hash;
    }
}

/// The highest hash of so many keys with the lowest ones. Goes through the inputs once, for nothing but names.
pub(super) fn threshold(
    inputs: &[Input],
    walk_options: &walk::Options,
    options: &Options,
    keys: u64,
    seed: u64,
    progress: &Progress,
) -> Result<u64> {
    let most = usize::try_from(keys).unwrap_or(usize::MAX);
    let mut all = BinaryHeap::new();
    // The checksum is for the comparison that follows.
    let walk_options = walk::Options {
        checksum: Checksum::Off,
        ..*walk_options
    };
    for input in inputs {
        let walked = walk(
            input,
            &walk_options,
            progress,
            |format| {
                Ok(Smallest {
                    keys: Keys::new(&input.data, format, 8 << 20),
                    filter: &options.filter,
                    seed,
                    most,
                    hashes: BinaryHeap::new(),
                })
            },
            |()| Ok(()),
        );
        if let Some(error) = walked.error {
            return Err(error);
        }
        for visitor in walked.visitors {
            for hash in visitor.hashes {
                keep(&mut all, most, hash);
            }
        }
    }
    Ok(all.peek().copied().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_chooses_the_same_keys_again_and_another_seed_others() {
        let chosen = |seed| {
            let name = |n: u32| format!("key:{n}");
            let mut hashes = BinaryHeap::new();
            for n in 0..10_000 {
                keep(&mut hashes, 100, hash(seed, 0, name(n).as_bytes()));
            }
            let up_to = *hashes.peek().expect("a hundred hashes");
            let is_in = |n: &u32| hash(seed, 0, name(*n).as_bytes()) <= up_to;
            (0..10_000).filter(is_in).collect::<Vec<_>>()
        };
        let one = chosen(1);
        assert_eq!(one.len(), 100);
        assert_eq!(one, chosen(1));
        assert_ne!(one, chosen(2));
        // Evenly: each half has its share, give or take what chance takes once in many thousand cases.
        let low = one.iter().filter(|n| **n < 5_000).count();
        assert!((28..=72).contains(&low), "{low}");
    }
}
