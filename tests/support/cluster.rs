//! A cluster of real servers, whose slots can be moved while something is written.

use std::time::{Duration, Instant};

use super::client::{Client, Reply, call};
use super::data::DataSet;
use super::server::{Server, free_port};

/// How many slots a cluster has.
const SLOTS: u16 = 16384;

/// Masters with all slots among them, and their replicas behind them.
pub(crate) struct Cluster {
    nodes: Vec<Server>,
    masters: usize,
}

impl Cluster {
    /// Starts so many masters of `redis-7.0` or another of `target/servers/bin` (6.2 has no port of its own for the
    /// bus, so below 7.0 the bus takes the port 10,000 above).
    pub(crate) fn start(name: &str, masters: usize) -> Cluster {
        Cluster::with_replicas(name, masters, 0)
    }

    /// As [`Cluster::start`], with so many replicas for each master. They stand behind the masters in
    /// [`Cluster::ports`]: first one for each master, then the second ones.
    pub(crate) fn with_replicas(name: &str, masters: usize, replicas: usize) -> Cluster {
        let has_bus_port = !(name.starts_with("redis-5") || name.starts_with("redis-6"));
        let mut buses = Vec::new();
        let nodes: Vec<Server> = (0..masters * (1 + replicas))
            .map(|_| {
                let bus = free_port();
                buses.push(bus);
                let bus = bus.to_string();
                let mut options = vec![
                    "--cluster-enabled",
                    "yes",
                    "--cluster-config-file",
                    "nodes.conf",
                    "--cluster-node-timeout",
                    "2000",
                    "--repl-diskless-sync-delay",
                    "0",
                ];
                if has_bus_port {
                    options.extend(["--cluster-port", &bus]);
                }
                Server::with(name, &options)
            })
            .collect();
        for (i, node) in nodes.iter().enumerate() {
            let epoch = (i + 1).to_string();
            call!(node.client(), "CLUSTER", "SET-CONFIG-EPOCH", epoch);
        }
        for (i, node) in nodes[..masters].iter().enumerate() {
            let bound = |i: usize| (usize::from(SLOTS) * i / masters) as u16;
            let slots: Vec<String> = (bound(i)..bound(i + 1)).map(|s| s.to_string()).collect();
            let mut args: Vec<&[u8]> = vec![b"CLUSTER", b"ADDSLOTS"];
            args.extend(slots.iter().map(|slot| slot.as_bytes()));
            node.client().call(&args);
        }
        let mut first = nodes[0].client();
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let port = node.port.to_string();
            if has_bus_port {
                let bus = bus.to_string();
                call!(first, "CLUSTER", "MEET", "127.0.0.1", port, bus);
            } else {
                call!(first, "CLUSTER", "MEET", "127.0.0.1", port);
            }
        }
        let cluster = Cluster { nodes, masters };
        cluster.wait(|info| {
            info.contains("cluster_state:ok")
                && info.contains(&format!(
                    "cluster_known_nodes:{}\r",
                    masters * (1 + replicas)
                ))
        });
        for i in masters..cluster.nodes.len() {
            let master = call!(cluster.client(i % masters), "CLUSTER", "MYID").text();
            // Until the news of the meeting has come round, the node does not know the master's name.
            until(Duration::from_secs(20), || {
                matches!(
                    cluster
                        .client(i)
                        .try_call(&[b"CLUSTER", b"REPLICATE", master.as_bytes()]),
                    Ok(Reply::Status(_))
                )
            });
        }
        for i in masters..cluster.nodes.len() {
            until(Duration::from_secs(30), || {
                let info = call!(cluster.client(i), "INFO", "replication").text();
                info.contains("master_link_status:up")
            });
        }
        cluster
    }

    fn wait(&self, so: impl Fn(&str) -> bool) {
        for node in &self.nodes {
            until(Duration::from_secs(30), || {
                so(&call!(node.client(), "CLUSTER", "INFO").text())
            });
        }
    }

    /// A connection to a node.
    pub(crate) fn client(&self, i: usize) -> Client {
        self.nodes[i].client()
    }

    /// A connection to the node that has a key's slot.
    pub(crate) fn client_for(&self, key: &[u8]) -> Client {
        let slot = call!(self.client(0), "CLUSTER", "KEYSLOT", key).int() as u16;
        let owner = (0..self.nodes.len()).find(|i| self.slots_of(*i).contains(&slot));
        self.client(owner.expect("a node for each slot"))
    }

    /// Kills a master, and waits until its replica has taken its place.
    pub(crate) fn failover(&self, master: usize) {
        self.nodes[master].kill();
        until(Duration::from_secs(30), || {
            let role = call!(self.client(master + self.masters), "ROLE").array();
            matches!(&role[0], Reply::Bulk(Some(name)) if name == b"master")
        });
        // The others have to hear of it before they answer again.
        for node in self.nodes.iter().filter(|node| node.is_alive()) {
            until(Duration::from_secs(30), || {
                let info = call!(node.client(), "CLUSTER", "INFO").text();
                info.contains("cluster_state:ok")
            });
        }
    }

    /// The ports of all nodes, masters first.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(|node| node.port).collect()
    }

    /// Those nodes that say they are masters now, which a failover changes.
    pub(crate) fn masters(&self) -> Vec<&Server> {
        let is_master = |node: &&Server| {
            Client::connect(node.port).is_ok_and(|mut client| {
                matches!(client.try_call(&[b"ROLE"]), Ok(Reply::Array(Some(role)))
                    if matches!(&role[0], Reply::Bulk(Some(name)) if name == b"master"))
            })
        };
        self.nodes.iter().filter(is_master).collect()
    }

    /// Forgets all keys and functions.
    pub(crate) fn flush(&self) {
        for node in &self.nodes[..self.masters] {
            node.flush();
        }
    }

    /// How many keys all masters hold.
    pub(crate) fn keys(&self) -> i64 {
        let size = |node: &&Server| call!(node.client(), "DBSIZE").int();
        self.masters().iter().map(size).sum()
    }

    /// Everything in all masters.
    pub(crate) fn data(&self) -> DataSet {
        DataSet::read_all(&self.masters())
    }

    /// Moves so many slots from one master to another, with their keys, as `redis-cli --cluster reshard` does.
    pub(crate) fn move_slots(&self, from: usize, to: usize, n: usize) {
        for slot in self.slots_of(from).into_iter().take(n) {
            self.begin_move(from, to, slot);
            self.end_move(from, to, slot);
        }
    }

    /// Opens a slot on both sides: keys that the one does not have are asked of the other.
    pub(crate) fn begin_move(&self, from: usize, to: usize, slot: u16) {
        let (mut source, mut target) = (self.client(from), self.client(to));
        let source_id = call!(source, "CLUSTER", "MYID").text();
        let target_id = call!(target, "CLUSTER", "MYID").text();
        let slot = slot.to_string();
        call!(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source_id);
        call!(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target_id);
    }

    /// Moves the keys of a slot that is open, and closes it.
    pub(crate) fn end_move(&self, from: usize, to: usize, slot: u16) {
        let (mut source, mut target) = (self.client(from), self.client(to));
        let target_id = call!(target, "CLUSTER", "MYID").text();
        let port = self.nodes[to].port.to_string();
        let slot = slot.to_string();
        loop {
            let keys = call!(source, "CLUSTER", "GETKEYSINSLOT", slot, "100").all_bytes();
            if keys.is_empty() {
                break;
            }
            let mut args: Vec<&[u8]> = vec![
                b"MIGRATE",
                b"127.0.0.1",
                port.as_bytes(),
                b"",
                b"0",
                b"20000",
                b"KEYS",
            ];
            args.extend(keys.iter().map(Vec::as_slice));
            source.call(&args);
        }
        // The new owner first: between the two, a client that asks either finds the slot.
        call!(target, "CLUSTER", "SETSLOT", slot, "NODE", target_id);
        call!(source, "CLUSTER", "SETSLOT", slot, "NODE", target_id);
    }

    /// The slots a master says are its own.
    pub(crate) fn slots_of(&self, i: usize) -> Vec<u16> {
        let own = i64::from(self.nodes[i].port);
        let mut slots = Vec::new();
        for range in call!(self.client(i), "CLUSTER", "SLOTS").array() {
            let range = range.array();
            let number = |reply: &Reply| reply.clone().int();
            if number(&range[2].clone().array()[1]) == own {
                slots.extend(number(&range[0]) as u16..=number(&range[1]) as u16);
            }
        }
        slots
    }
}

/// Waits until something is so.
pub(crate) fn until(limit: Duration, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < end, "it did not come about in {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
