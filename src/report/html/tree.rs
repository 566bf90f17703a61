//! The prefixes that the page shows: the largest, each below the one it lengthens.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::table::Cells;
use super::units::name;
use crate::report::{OTHER, PrefixNode, Sums};

/// A prefix as a row of the table, from which the script draws its map.
pub(super) struct PrefixRow {
    /// 0 for all keys.
    pub(super) depth: usize,
    /// The prefix that it lengthens; empty where that is all keys.
    pub(super) up: String,
    /// What it adds to that.
    pub(super) own: String,
    /// Whether it stands for the prefixes that are not shown.
    pub(super) other: bool,
    pub(super) sums: Sums,
    pub(super) cells: Cells,
}

/// A prefix that may be shown. The one with the largest share, of whichever measure, comes first.
struct Candidate<'a> {
    share: f64,
    /// Where it stands among its siblings, and among all that were met before.
    met: Reverse<usize>,
    parent: usize,
    node: &'a PrefixNode,
}

impl Ord for Candidate<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.share.total_cmp(&other.share)).then(self.met.cmp(&other.met))
    }
}

impl PartialOrd for Candidate<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate<'_> {}

struct Kept<'a> {
    node: &'a PrefixNode,
    children: Vec<usize>,
    /// What its children hold that are not shown.
    others: Sums,
}

/// What is to be written next.
enum Step<'a> {
    Prefix {
        at: usize,
        depth: usize,
        up: &'a str,
    },
    Others {
        of: usize,
        depth: usize,
    },
}

/// At most `limit` prefixes, in the order of the tree. Those left out are summed up in an "(other)" of their parent,
/// which does not count for the limit: there is at most one for each prefix shown.
pub(super) fn rows(root: &PrefixNode, limit: usize) -> Vec<PrefixRow> {
    let kept = keep(root, limit);
    let mut rows = Vec::new();
    // Prefixes may be nested as deep as names are long, so that the tree is not walked by recursion.
    let mut steps = vec![Step::Prefix {
        at: 0,
        depth: 0,
        up: "",
    }];
    while let Some(step) = steps.pop() {
        match step {
            Step::Prefix { at, depth, up } => {
                let Kept {
                    node,
                    children,
                    others,
                } = &kept[at];
                rows.push(row(depth, up, node));
                if others.keys > 0 && !children.is_empty() {
                    steps.push(Step::Others {
                        of: at,
                        depth: depth + 1,
                    });
                }
                let up = &node.prefix;
                steps.extend(children.iter().rev().map(|&at| Step::Prefix {
                    at,
                    depth: depth + 1,
                    up,
                }));
            }
            Step::Others { of, depth } => rows.push(PrefixRow {
                depth,
                up: name(&kept[of].node.prefix),
                own: OTHER.to_owned(),
                other: true,
                sums: kept[of].others,
                cells: Cells::of(&kept[of].others),
            }),
        }
    }
    rows
}

/// The root and the largest prefixes below it. None is larger than the one it lengthens, so that each has its parent.
fn keep(root: &PrefixNode, limit: usize) -> Vec<Kept<'_>> {
    let share = |sums: &Sums| {
        let of = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        of(sums.keys, root.sums.keys)
            .max(of(sums.bytes, root.sums.bytes))
            .max(of(sums.memory, root.sums.memory))
    };
    let mut kept: Vec<Kept> = Vec::new();
    let mut met = 0;
    let mut waiting = BinaryHeap::from([Candidate {
        share: 1.0,
        met: Reverse(met),
        parent: 0,
        node: root,
    }]);
    while kept.len() < limit.max(1)
        && let Some(Candidate { parent, node, .. }) = waiting.pop()
    {
        let at = kept.len();
        if at > 0 {
            kept[parent].children.push(at);
        }
        let mut others = Sums::default();
        for child in &node.children {
            if child.prefix == OTHER {
                others.add(&child.sums);
            } else {
                met += 1;
                waiting.push(Candidate {
                    share: share(&child.sums),
                    met: Reverse(met),
                    parent: at,
                    node: child,
                });
            }
        }
        kept.push(Kept {
            node,
            children: Vec::new(),
            others,
        });
    }
    for Candidate { parent, node, .. } in waiting {
        kept[parent].others.add(&node.sums);
    }
    kept
}

fn row(depth: usize, up: &str, node: &PrefixNode) -> PrefixRow {
    let (up, own) = match node.prefix.strip_prefix(up) {
        _ if depth == 0 => ("", "all keys"),
        Some(own) => (up, own),
        None => ("", node.prefix.as_str()),
    };
    PrefixRow {
        depth,
        up: name(up),
        own: if depth == 0 {
            own.to_owned()
        } else {
            name(own)
        },
        other: false,
        sums: node.sums,
        cells: Cells::of(&node.sums),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(prefix: &str, keys: u64, children: Vec<PrefixNode>) -> PrefixNode {
        let sums = Sums {
            keys,
            bytes: keys * 100,
            memory: keys * 200,
            elements: keys,
        };
        PrefixNode {
            prefix: prefix.to_owned(),
            sums,
            children,
        }
    }

    fn shown(root: &PrefixNode, limit: usize) -> Vec<String> {
        let line =
            |row: &PrefixRow| format!("{} {}|{} {}", row.depth, row.up, row.own, row.sums.keys);
        rows(root, limit).iter().map(line).collect()
    }

    #[test]
    fn what_is_left_out_is_summed_up_below_its_parent() {
        let user = node(
            "user:",
            60,
            vec![
                node("user:a:", 50, vec![]),
                node("user:b:", 4, vec![]),
                node(OTHER, 3, vec![]),
            ],
        );
        let root = node(
            "",
            100,
            vec![
                user,
                node("job:", 30, vec![]),
                node("x:", 2, vec![]),
                node(OTHER, 1, vec![]),
            ],
        );
        assert_eq!(
            shown(&root, 4),
            [
                "0 |all keys 100",
                "1 |user: 60",
                "2 user:|a: 50",
                "2 user:|(other) 7",
                "1 |job: 30",
                "1 |(other) 3",
            ]
        );
        // Where no child is shown the parent stands for all of it.
        assert_eq!(
            shown(&root, 2),
            ["0 |all keys 100", "1 |user: 60", "1 |(other) 33"]
        );
        assert_eq!(shown(&root, 0), ["0 |all keys 100"]);
        assert_eq!(shown(&root, 100).len(), 8);
    }

    #[test]
    fn a_prefix_that_is_large_by_one_measure_only_is_kept() {
        let mut heavy = node("heavy:", 1, vec![]);
        heavy.sums.memory = 60_000;
        let mut root = node(
            "",
            100,
            vec![node("a:", 50, vec![]), node("b:", 49, vec![]), heavy],
        );
        root.sums.memory = 79_800;
        assert_eq!(
            shown(&root, 3),
            [
                "0 |all keys 100",
                "1 |heavy: 1",
                "1 |a: 50",
                "1 |(other) 49"
            ]
        );
    }
}
