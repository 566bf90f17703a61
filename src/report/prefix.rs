//! Keys by the parts of their names, in bounded memory.
//!
//! Every prefix is a node that counts the keys for which it is the longest; what belongs to shorter ones is added up at
//! the end. Where there are too many nodes the smallest half is given up: what they counted stays with the nodes above
//! them as "other", so that no sum is ever wrong. A prefix that comes again begins anew. So a prefix may be counted too
//! low, by no more than the largest node that was given up each time; that bound is kept and told.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use memchr::{memchr, memchr2, memchr3};

use super::{By, OTHER, PrefixNode, Sums, shown};

/// Longer prefixes than this are not told apart: their keys belong to what stands before.
const LONGEST: usize = 256;

/// Prefixes of the keys that one worker has seen, or of all.
#[derive(Debug)]
pub(super) struct Prefixes {
    nodes: Vec<Node>,
    /// The names of all nodes, one behind the other: most come once, and an allocation for each would cost more than all
    /// the rest.
    names: Vec<u8>,
    /// Open addressing: nodes by the hash of their name; 0, the root, is a free place. At most half are taken.
    places: Vec<u32>,
    hasher: RandomState,
    separators: Vec<u8>,
    depth: usize,
    most: usize,
    by: By,
    /// The prefix of the last key and how many parts it has: the next key often has the same.
    last: (u32, usize),
    /// The most keys that any prefix may have lost.
    pub lost_keys: u64,
    /// The most bytes that any prefix may have lost.
    pub lost_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    /// Index of the node above, which is always smaller; the root is its own.
    parent: u32,
    /// Of the name; enough of it to tell most names apart.
    hash: u32,
    /// Where its name begins.
    start: usize,
    /// Bytes of its name.
    len: u16,
    /// Keys for which this is the longest prefix.
    own: Sums,
    /// Keys of longer prefixes that were given up.
    other: Sums,
}

impl Node {
    const ROOT: Node = Node {
        parent: 0,
        hash: 0,
        start: 0,
        len: 0,
        own: Sums::ZERO,
        other: Sums::ZERO,
    };

    fn name<'n>(&self, names: &'n [u8]) -> &'n [u8] {
        &names[self.start..self.start + usize::from(self.len)]
    }
}

impl Prefixes {
    /// `most`: nodes that are kept; `by`: what the smallest are found by.
    pub fn new(separators: &[u8], depth: usize, most: usize, by: By) -> Prefixes {
        Prefixes {
            nodes: vec![Node::ROOT],
            names: Vec::new(),
            places: vec![0; 64],
            hasher: RandomState::default(),
            separators: separators.to_vec(),
            depth,
            most: most.max(2),
            by,
            last: (0, 0),
            lost_keys: 0,
            lost_bytes: 0,
        }
    }

    /// Counts a key.
    #[inline]
    pub fn add(&mut self, key: &[u8], sums: &Sums) {
        let key = &key[..key.len().min(LONGEST)];
        let (mut node, mut depth) = self.last;
        let mut at = usize::from(self.nodes[node as usize].len);
        if !key.starts_with(self.nodes[node as usize].name(&self.names)) {
            (node, depth, at) = (0, 0, 0);
        }
        while depth < self.depth
            && let Some(found) = self.separator(&key[at..])
        {
            at += found + 1;
            node = self.child(node, &key[..at]);
            depth += 1;
        }
        self.last = (node, depth);
        self.nodes[node as usize].own.add(sums);
        if self.nodes.len() > self.most {
            self.give_up();
        }
    }

    #[inline]
    fn separator(&self, text: &[u8]) -> Option<usize> {
        match self.separators[..] {
            [a] => memchr(a, text),
            [a, b] => memchr2(a, b, text),
            [a, b, c] => memchr3(a, b, c, text),
            _ => text.iter().position(|b| self.separators.contains(b)),
        }
    }

    #[inline]
    fn child(&mut self, parent: u32, name: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(name) as u32;
        let place = self.find(hash, name);
        match self.places[place] {
            0 => self.insert(place, parent, hash, name),
            node => node,
        }
    }

    /// The place of a name: where its node is, or where it would be.
    #[inline]
    fn find(&self, hash: u32, name: &[u8]) -> usize {
        let mask = self.places.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let node = self.places[place];
            if node == 0 {
                return place;
            }
            let known = &self.nodes[node as usize];
            if known.hash == hash && known.name(&self.names) == name {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn insert(&mut self, place: usize, parent: u32, hash: u32, name: &[u8]) -> u32 {
        // The limit on nodes is far below, and so is that on a name's length.
        let node = u32::try_from(self.nodes.len()).expect("fewer nodes than four billions");
        let len = u16::try_from(name.len()).expect("a name of at most 256 bytes");
        self.nodes.push(Node {
            parent,
            hash,
            start: self.names.len(),
            len,
            ..Node::ROOT
        });
        self.names.extend_from_slice(name);
        self.places[place] = node;
        if self.nodes.len() * 2 > self.places.len() {
            self.spread(self.places.len() * 2);
        }
        node
    }

    /// Finds a place for every node anew, among so many.
    fn spread(&mut self, places: usize) {
        self.places.clear();
        self.places.resize(places, 0);
        let mask = places - 1;
        for (i, node) in (0u32..).zip(&self.nodes).skip(1) {
            let mut place = node.hash as usize & mask;
            while self.places[place] != 0 {
                place = (place + 1) & mask;
            }
            self.places[place] = i;
        }
    }

    /// Adds what another worker has seen.
    pub fn merge(&mut self, other: &Prefixes) {
        let mut here: Vec<u32> = Vec::with_capacity(other.nodes.len());
        for node in &other.nodes {
            let place = match here.get(node.parent as usize) {
                Some(parent) => self.child(*parent, node.name(&other.names)),
                // The first is the root, and has nothing above it.
                None => 0,
            };
            here.push(place);
            let into = &mut self.nodes[place as usize];
            into.own.add(&node.own);
            into.other.add(&node.other);
        }
        // A prefix may have lost some in each.
        self.lost_keys += other.lost_keys;
        self.lost_bytes += other.lost_bytes;
        if self.nodes.len() > self.most {
            self.give_up();
        }
    }

    /// What each node and those below it hold.
    fn totals(&self) -> Vec<Sums> {
        let mut totals: Vec<Sums> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let mut sums = node.own;
            sums.add(&node.other);
            totals.push(sums);
        }
        for i in (1..self.nodes.len()).rev() {
            let sums = totals[i];
            totals[self.nodes[i].parent as usize].add(&sums);
        }
        totals
    }

    /// Gives up the smaller half, because there are too many.
    fn give_up(&mut self) {
        let totals = self.totals();
        let ranks = (1u32..).zip(&totals[1..]);
        let mut order: Vec<(u64, u32)> = ranks.map(|(i, sums)| (self.by.of(sums), i)).collect();
        let keep = (self.most / 2).min(order.len());
        // A node is never smaller than one below it and stands before it, so what is kept hangs together.
        order.select_nth_unstable_by_key(keep.saturating_sub(1), |(rank, i)| {
            (std::cmp::Reverse(*rank), *i)
        });
        let given_up = &order[keep..];
        let most = |of: fn(&Sums) -> u64| {
            given_up
                .iter()
                .map(|(_, i)| of(&totals[*i as usize]))
                .max()
                .unwrap_or(0)
        };
        self.lost_keys += most(|sums| sums.keys);
        self.lost_bytes += most(|sums| sums.bytes);
        let mut kept = vec![false; self.nodes.len()];
        kept[0] = true;
        for (_, i) in &order[..keep] {
            kept[*i as usize] = true;
        }
        self.keep(&kept, &totals);
    }

    /// Leaves out all nodes but these; what the others held stays with the nodes above.
    fn keep(&mut self, kept: &[bool], totals: &[Sums]) {
        let mut here = vec![0; self.nodes.len()];
        let nodes = std::mem::take(&mut self.nodes);
        let names = std::mem::take(&mut self.names);
        for (i, mut node) in nodes.into_iter().enumerate() {
            let parent = node.parent as usize;
            if kept[i] {
                here[i] = self.nodes.len() as u32;
                let name = node.name(&names);
                node.parent = here[parent];
                node.start = self.names.len();
                self.names.extend_from_slice(name);
                self.nodes.push(node);
            } else if kept[parent] {
                // What stands above has its place already.
                self.nodes[here[parent] as usize].other.add(&totals[i]);
            }
        }
        self.last = (0, 0);
        self.spread(self.places.len());
    }

    /// The tree, of no more than `most` prefixes.
    pub fn tree(mut self, most: usize, hide_keys: bool) -> PrefixNode {
        let totals = self.totals();
        let mut order: Vec<usize> = (1..self.nodes.len()).collect();
        order.sort_unstable_by(|a, b| {
            let rank = |i: &usize| self.by.of(&totals[*i]);
            let name = |i: &usize| self.nodes[*i].name(&self.names);
            // Names decide between equals, so that the number of workers does not; a shorter one comes first.
            rank(b).cmp(&rank(a)).then_with(|| name(a).cmp(name(b)))
        });
        let mut kept = vec![false; self.nodes.len()];
        kept[0] = true;
        for i in order.iter().take(most) {
            kept[*i] = true;
        }
        self.keep(&kept, &totals);
        let totals = self.totals();
        let by = self.by;
        let mut children: Vec<Vec<PrefixNode>> = Vec::new();
        children.resize_with(self.nodes.len(), Vec::new);
        // From the last to the first: what stands below is whole when its turn comes.
        while let Some(node) = self.nodes.pop() {
            let i = self.nodes.len();
            let mut below = children.pop().expect("each node has a list");
            below.sort_by(|a, b| {
                by.of(&b.sums)
                    .cmp(&by.of(&a.sums))
                    .then_with(|| a.prefix.cmp(&b.prefix))
            });
            if node.other.keys > 0 {
                below.push(PrefixNode {
                    prefix: OTHER.to_owned(),
                    sums: node.other,
                    children: Vec::new(),
                });
            }
            let prefix = match i {
                0 => String::new(),
                _ => shown(node.name(&self.names), hide_keys),
            };
            let made = PrefixNode {
                prefix,
                sums: totals[i],
                children: below,
            };
            match children.get_mut(node.parent as usize) {
                Some(siblings) => siblings.push(made),
                None => return made,
            }
        }
        unreachable!("the root is always there and has nothing above it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: u64) -> Sums {
        Sums {
            keys: 1,
            bytes,
            memory: bytes * 2,
            elements: 3,
        }
    }

    fn adds_up(node: &PrefixNode) {
        let mut below = Sums::default();
        for child in &node.children {
            below.add(&child.sums);
            adds_up(child);
        }
        assert!(below.keys <= node.sums.keys && below.bytes <= node.sums.bytes);
    }

    #[test]
    fn each_key_is_in_all_its_prefixes() {
        let mut prefixes = Prefixes::new(b":", 2, 100, By::Keys);
        for key in ["a:1:x:y", "a:1:z", "a:2", "b:", "c", ""] {
            prefixes.add(key.as_bytes(), &one(10));
        }
        assert_eq!(prefixes.lost_keys, 0);
        let root = prefixes.tree(100, false);
        assert_eq!((root.sums.keys, root.children.len()), (6, 2));
        let a = &root.children[0];
        assert_eq!((&a.prefix[..], a.sums.keys), ("a:", 3));
        let deep = &a.children[0];
        assert_eq!((&deep.prefix[..], deep.sums.keys), ("a:1:", 2));
        assert!(deep.children.is_empty());
        assert_eq!(root.children[1].prefix, "b:");
    }

    #[test]
    fn three_hundred_thousand_prefixes_in_a_thousand_nodes() {
        // Two that are large, among others that come once each and hide them; by two workers.
        let mut workers: Vec<Prefixes> = (0..2)
            .map(|_| Prefixes::new(b":", 3, 1000, By::Keys))
            .collect();
        let (mut large, mut keys) = (0, 0);
        for i in 0..300_000u64 {
            let worker = &mut workers[(i % 2) as usize];
            worker.add(format!("session:{i:x}:data").as_bytes(), &one(i % 7));
            keys += 1;
            if i % 10 < 2 {
                worker.add(format!("user:{}:name", i % 50).as_bytes(), &one(5));
                large += 1;
                keys += 1;
            }
            assert!(worker.nodes.len() <= 1001 && worker.places.len() <= 4096);
        }
        let mut all = Prefixes::new(b":", 3, 1000, By::Keys);
        for worker in workers {
            all.merge(&worker);
        }
        let lost = all.lost_keys;
        assert!(lost > 0 && lost < 3000, "{lost}");
        let root = all.tree(50, false);
        assert_eq!(root.sums.keys, keys);
        adds_up(&root);
        let find = |name: &str| {
            let found = root.children.iter().find(|child| child.prefix == name);
            found.unwrap_or_else(|| panic!("{name} is there"))
        };
        let (user, session) = (find("user:"), find("session:"));
        assert!(user.sums.keys <= large && user.sums.keys + lost >= large);
        assert!(session.sums.keys <= 300_000 && session.sums.keys + lost >= 300_000);
        // All that is not shown is still counted.
        let other = session.children.last().expect("a child");
        assert_eq!(other.prefix, OTHER);
        assert!(other.sums.keys > 250_000);
    }

    #[test]
    fn the_tree_does_not_depend_on_the_order() {
        let names: Vec<String> = (0..50).map(|i| format!("p{}:{i}:", i % 5)).collect();
        let tree = |names: Vec<&String>| {
            let mut prefixes = Prefixes::new(b":", 2, 1000, By::Bytes);
            for name in names {
                prefixes.add(name.as_bytes(), &one(10));
            }
            serde_json::to_string(&prefixes.tree(7, false)).expect("text")
        };
        assert_eq!(
            tree(names.iter().collect()),
            tree(names.iter().rev().collect())
        );
    }
}
