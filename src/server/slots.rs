//! Which node of a cluster holds which slot, and the redirects by which nodes correct it.

use super::reply::Reply;

/// Slots of a cluster: every key is in one of them ([`crate::command::keys::slot`]).
pub const SLOTS: u16 = 16_384;

/// A master of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Host name or address, never empty.
    pub host: String,
    /// Port for clients.
    pub port: u16,
    /// Its id in the cluster; empty where it is not known (Redis 3, and a node that only a redirect has named).
    pub id: String,
}

/// The slot table of a cluster.
///
/// A node keeps its index for as long as the table lives, also when it has lost its last slot: what belongs to it
/// elsewhere, its connections above all, may be kept under that number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    /// Index of the node that holds each slot, or [`NOBODY`].
    owners: Vec<u16>,
    nodes: Vec<Node>,
}

const NOBODY: u16 = u16::MAX;

impl Slots {
    /// A table from the answer to CLUSTER SLOTS. `asked` is the host that gave the answer: nodes that do not know
    /// their own address leave it out. The error says what is wrong with the answer.
    pub fn parse(answer: &Reply, asked: &str) -> Result<Slots, String> {
        let mut slots = Slots {
            owners: vec![NOBODY; usize::from(SLOTS)],
            nodes: Vec::new(),
        };
        slots.update(answer, asked)?;
        Ok(slots)
    }

    /// Takes a newer answer to CLUSTER SLOTS. Slots that it does not name are nobody's from now on. After an error the
    /// table is what it was before.
    pub fn update(&mut self, answer: &Reply, asked: &str) -> Result<(), String> {
        let Reply::Array(ranges) = answer else {
            return Err(match answer {
                Reply::Error(text) => String::from_utf8_lossy(text).into_owned(),
                _ => "the answer to CLUSTER SLOTS is no list".to_owned(),
            });
        };
        let mut next = Slots {
            owners: vec![NOBODY; usize::from(SLOTS)],
            nodes: self.nodes.clone(),
        };
        for range in ranges {
            // First and last slot, the master, then its replicas.
            let Reply::Array(range) = range else {
                return Err("CLUSTER SLOTS gives a range that is no list".to_owned());
            };
            let [Reply::Int(first), Reply::Int(last), master, ..] = range.as_slice() else {
                return Err(
                    "CLUSTER SLOTS gives a range without slots or without a node".to_owned(),
                );
            };
            let (first, last) = match (u16::try_from(*first), u16::try_from(*last)) {
                (Ok(first), Ok(last)) if first <= last && last < SLOTS => (first, last),
                _ => return Err(format!("CLUSTER SLOTS names slots {first} to {last}")),
            };
            let node = node_of(master, asked)?;
            let index = next.add(node).ok_or("CLUSTER SLOTS names too many nodes")?;
            next.owners[usize::from(first)..=usize::from(last)].fill(index);
        }
        *self = next;
        Ok(())
    }

    /// The node that holds a slot; none where the slot is not covered.
    #[inline]
    pub fn node(&self, slot: u16) -> Option<&Node> {
        self.nodes.get(self.owner(slot)?)
    }

    /// The index in [`Slots::nodes`] of the node that holds a slot.
    #[inline]
    pub fn owner(&self, slot: u16) -> Option<usize> {
        let owner = *self.owners.get(usize::from(slot))?;
        (owner != NOBODY).then_some(usize::from(owner))
    }

    /// All masters that were ever seen to hold a slot; see [`Slots::holds`] for now.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many slots a node holds now.
    pub fn holds(&self, node: usize) -> usize {
        self.owners
            .iter()
            .filter(|owner| **owner != NOBODY && usize::from(**owner) == node)
            .count()
    }

    /// Notes that a slot is held by another node, as MOVED says. `host` as in [`Redirect::host`], an empty one already
    /// replaced by the host that answered. The index of the node, which is added if it is new; none where the node
    /// cannot be told, and then the table has to be read anew.
    pub fn moved(&mut self, slot: u16, host: &str, port: u16) -> Option<usize> {
        if slot >= SLOTS || matches!(host, "" | "?") {
            return None;
        }
        let index = self.add(Node {
            host: host.to_owned(),
            port,
            id: String::new(),
        })?;
        self.owners[usize::from(slot)] = index;
        Some(usize::from(index))
    }

    /// Whether every slot has a node.
    pub fn covers_all(&self) -> bool {
        !self.owners.contains(&NOBODY)
    }

    /// Ranges of slots that no node holds, first and last, in order.
    pub fn uncovered(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for (slot, owner) in (0u16..).zip(&self.owners) {
            if *owner != NOBODY {
                continue;
            }
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        ranges
    }

    /// The index of a node, which is added if it is new; none where there are too many already.
    fn add(&mut self, node: Node) -> Option<u16> {
        // A cluster has a few dozen nodes at most, so a walk is no cost.
        let known = self
            .nodes
            .iter_mut()
            .position(|known| known.port == node.port && known.host == node.host);
        if let Some(index) = known {
            if !node.id.is_empty() {
                self.nodes[index].id = node.id;
            }
            return u16::try_from(index).ok();
        }
        let index = u16::try_from(self.nodes.len()).ok();
        // More masters than slots there cannot be, but nodes come and go.
        let index = index.filter(|index| *index < NOBODY)?;
        self.nodes.push(node);
        Some(index)
    }
}

/// A node as CLUSTER SLOTS gives it: host, port, since Redis 4.0 its id, since 7.0 a list of further names.
fn node_of(node: &Reply, asked: &str) -> Result<Node, String> {
    let Reply::Array(parts) = node else {
        return Err("CLUSTER SLOTS gives a node that is no list".to_owned());
    };
    let port = match parts.get(1) {
        Some(Reply::Int(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        _ => None,
    };
    let host = match parts.first() {
        // The node does not know its address, or was told not to give it (cluster-preferred-endpoint-type
        // unknown-endpoint): it is where it was asked.
        Some(Reply::Nil) => Some(asked.to_owned()),
        Some(Reply::Bulk(host)) if host.is_empty() => Some(asked.to_owned()),
        // It shall give a host name and has none. Its address then stands behind its id.
        Some(Reply::Bulk(host)) if host == b"?" => further_name(parts.get(3)),
        Some(Reply::Bulk(host)) => String::from_utf8(host.clone()).ok(),
        _ => None,
    };
    let id = match parts.get(2) {
        Some(Reply::Bulk(id)) => String::from_utf8_lossy(id).into_owned(),
        _ => String::new(),
    };
    match (host, port) {
        (Some(host), Some(port)) => Ok(Node { host, port, id }),
        (None, _) => Err(format!(
            "CLUSTER SLOTS gives no host for node {id}; set its cluster-announce-hostname"
        )),
        (_, None) => Err(format!("CLUSTER SLOTS gives no port for node {id}")),
    }
}

/// The address among a node's further names: a list of "ip", address, "hostname", name.
fn further_name(names: Option<&Reply>) -> Option<String> {
    let Some(Reply::Array(names)) = names else {
        return None;
    };
    names.chunks_exact(2).find_map(|pair| match pair {
        [Reply::Bulk(what), Reply::Bulk(name)] if what == b"ip" && !name.is_empty() => {
            String::from_utf8(name.clone()).ok()
        }
        _ => None,
    })
}

/// What a node answers about a key that it does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// ASK: only this command goes to the other node, behind ASKING, and the table stays. Else MOVED: the slot is
    /// held by the other node for good.
    pub ask: bool,
    /// The slot of the key.
    pub slot: u16,
    /// Host of the other node. Empty: the host that answered. `?`: the node does not know its name, so the table has
    /// to be read anew.
    pub host: String,
    /// Port of the other node.
    pub port: u16,
}

/// Reads an error reply, without its `-`; none if it is no redirect.
pub fn redirect(error: &[u8]) -> Option<Redirect> {
    let (ask, rest) = match error.strip_prefix(b"MOVED ") {
        Some(rest) => (false, rest),
        None => (true, error.strip_prefix(b"ASK ")?),
    };
    let mut words = std::str::from_utf8(rest).ok()?.split_ascii_whitespace();
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    // Addresses of IPv6 stand there without brackets: the last colon is that of the port.
    let (host, port) = words.next()?.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    Some(Redirect {
        ask,
        slot,
        host: bare.unwrap_or(host).to_owned(),
        port: port.parse().ok().filter(|port| *port != 0)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::Bulk(text.as_bytes().to_vec())
    }

    fn node(host: &str, port: i64, id: &str) -> Reply {
        Reply::Array(vec![bulk(host), Reply::Int(port), bulk(id)])
    }

    fn range(first: i64, last: i64, nodes: &[Reply]) -> Reply {
        Reply::Array([&[Reply::Int(first), Reply::Int(last)], nodes].concat())
    }

    #[test]
    fn table() {
        let answer = Reply::Array(vec![
            range(
                0,
                5460,
                &[node("10.0.0.1", 6379, "a"), node("10.0.0.9", 6379, "r")],
            ),
            range(5461, 10922, &[node("", 6380, "b")]),
            range(10923, 16382, &[node("::1", 6381, "c")]),
            range(16383, 16383, &[node("10.0.0.1", 6379, "a")]),
        ]);
        let mut slots = Slots::parse(&answer, "asked.example").unwrap();
        let names: Vec<_> = slots.nodes().iter().map(|n| (&*n.host, n.port)).collect();
        // Replicas are no nodes to write to, and a node with two ranges is one node.
        assert_eq!(
            names,
            [("10.0.0.1", 6379), ("asked.example", 6380), ("::1", 6381)]
        );
        assert!(slots.covers_all() && slots.uncovered().is_empty());
        assert_eq!(slots.owner(0), Some(0));
        assert_eq!(slots.node(5460).unwrap().id, "a");
        assert_eq!(slots.owner(5461), Some(1));
        assert_eq!(slots.node(16383).unwrap().id, "a");
        assert_eq!(slots.owner(16384), None);
        assert_eq!(slots.holds(0), 5462);

        assert_eq!(slots.moved(7, "asked.example", 6380), Some(1));
        assert_eq!(slots.moved(8, "10.0.0.4", 6379), Some(3));
        assert_eq!(
            (slots.owner(6), slots.owner(7), slots.owner(8)),
            (Some(0), Some(1), Some(3))
        );
        for (slot, host) in [(16384, "10.0.0.4"), (9, ""), (9, "?")] {
            assert_eq!(slots.moved(slot, host, 6379), None);
        }
        assert_eq!(slots.owner(9), Some(0));

        // A newer answer counts, and nodes keep their numbers, also those without slots.
        let newer = Reply::Array(vec![
            range(0, 99, &[node("10.0.0.4", 6379, "d")]),
            range(200, 16382, &[node("::1", 6381, "c")]),
        ]);
        slots.update(&newer, "asked.example").unwrap();
        assert_eq!((slots.owner(0), slots.owner(300)), (Some(3), Some(2)));
        assert_eq!(slots.nodes()[3].id, "d");
        assert_eq!((slots.nodes().len(), slots.holds(0)), (4, 0));
        assert!(!slots.covers_all() && slots.node(100).is_none());
        assert_eq!(slots.uncovered(), [(100, 199), (16383, 16383)]);
    }

    #[test]
    fn names_of_nodes() {
        let named = |host: Reply, further: &[&str]| {
            let further = Reply::Array(further.iter().map(|text| bulk(text)).collect());
            let node = Reply::Array(vec![host, Reply::Int(1), bulk("id"), further]);
            Slots::parse(&Reply::Array(vec![range(0, 1, &[node])]), "asked")
                .map(|slots| slots.nodes()[0].host.clone())
        };
        assert_eq!(named(Reply::Nil, &["ip", "10.0.0.1"]).unwrap(), "asked");
        assert_eq!(
            named(bulk("one.example"), &["ip", "10.0.0.1"]).unwrap(),
            "one.example"
        );
        assert_eq!(named(bulk("?"), &["ip", "10.0.0.1"]).unwrap(), "10.0.0.1");
        assert!(
            named(bulk("?"), &["hostname", ""])
                .unwrap_err()
                .contains("id")
        );
        // Redis 3 gives no id.
        let old = Reply::Array(vec![bulk("10.0.0.1"), Reply::Int(7000)]);
        let old = Slots::parse(&Reply::Array(vec![range(0, 16383, &[old])]), "asked").unwrap();
        assert_eq!(old.nodes()[0].id, "");
    }

    #[test]
    fn wrong_answers() {
        let good = node("10.0.0.1", 6379, "a");
        let error = Reply::Error(b"ERR This instance has cluster support disabled".to_vec());
        assert!(Slots::parse(&error, "h").unwrap_err().contains("disabled"));
        for bad in [
            Reply::Nil,
            Reply::Array(vec![Reply::Int(0)]),
            Reply::Array(vec![range(0, 1, &[])]),
            Reply::Array(vec![range(0, 16384, std::slice::from_ref(&good))]),
            Reply::Array(vec![range(-1, 1, std::slice::from_ref(&good))]),
            Reply::Array(vec![range(2, 1, std::slice::from_ref(&good))]),
            Reply::Array(vec![range(0, 1, &[node("10.0.0.1", 0, "a")])]),
            Reply::Array(vec![range(0, 1, &[node("10.0.0.1", 65536, "a")])]),
            Reply::Array(vec![range(0, 1, &[Reply::Array(vec![])])]),
        ] {
            assert!(Slots::parse(&bad, "h").is_err(), "{bad:?}");
        }
        // What was known is kept when an answer is no use.
        let mut slots = Slots::parse(&Reply::Array(vec![range(0, 16383, &[good])]), "h").unwrap();
        let half = Reply::Array(vec![range(0, 1, &[node("x", 1, "x")]), Reply::Nil]);
        assert!(slots.update(&half, "h").is_err());
        assert!(slots.covers_all() && slots.nodes().len() == 1);
        // A table without any slot is one.
        assert!(
            !Slots::parse(&Reply::Array(vec![]), "h")
                .unwrap()
                .covers_all()
        );
    }

    #[test]
    fn redirects() {
        let read = |text: &str| redirect(text.as_bytes()).map(|r| (r.ask, r.slot, r.host, r.port));
        let to = |ask, slot, host: &str, port| Some((ask, slot, host.to_owned(), port));
        assert_eq!(
            read("MOVED 1234 10.0.0.1:6379"),
            to(false, 1234, "10.0.0.1", 6379)
        );
        assert_eq!(read("ASK 0 one.example:1"), to(true, 0, "one.example", 1));
        assert_eq!(read("MOVED 16383 ::1:6379"), to(false, 16383, "::1", 6379));
        assert_eq!(read("MOVED 1 [::1]:6379"), to(false, 1, "::1", 6379));
        assert_eq!(read("MOVED 1 :6379"), to(false, 1, "", 6379));
        assert_eq!(read("MOVED 1 ?:6379"), to(false, 1, "?", 6379));
        for other in [
            "",
            "MOVED",
            "MOVED 1",
            "MOVED 1 host",
            "MOVED 1 host:",
            "MOVED 1 host:0",
            "MOVED 1 host:65536",
            "MOVED 16384 host:1",
            "MOVED -1 host:1",
            "MOVEDX 1 host:1",
            "moved 1 host:1",
            "ERR MOVED 1 host:1",
            "TRYAGAIN Multiple keys request during rehashing of slot",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(redirect(b"MOVED 1 \xff:1"), None);
    }
}
