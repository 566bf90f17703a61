//! The statistics of a twemproxy: they tell what it does not tell to clients, how it is set up.

use std::io::Read;
use std::net::{TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};

/// What nutcracker counts.
#[derive(Debug)]
pub(super) struct Stats {
    /// In the order of their names.
    pools: Vec<Pool>,
}

#[derive(Debug)]
struct Pool {
    name: String,
    server_ejects: u64,
    /// Name, connections, time of the last ejection.
    servers: Vec<(String, u64, u64)>,
    requests: u64,
}

impl Stats {
    pub(super) fn read(host: &str, port: u16, timeout: Duration) -> Result<Stats> {
        /// Far more than the statistics of any proxy.
        const MOST_BYTES: usize = 4 << 20;
        let name = format!("{host}:{port}");
        let failed = |error: std::io::Error| {
            Error::unreachable(
                &name,
                format!("no statistics of twemproxy come from there: {error}"),
            )
        };
        let mut stream = None;
        let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        for address in (host, port).to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(open) => {
                    stream = Some(open);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let Some(mut stream) = stream else {
            return Err(failed(last));
        };
        // The timeout is for all of it, or a server that gives a byte now and then could keep us for days.
        let end = Instant::now() + timeout;
        let mut text = Vec::new();
        let mut part = [0; 16 << 10];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || text.len() > MOST_BYTES {
                return Err(failed(std::io::ErrorKind::TimedOut.into()));
            }
            stream.set_read_timeout(Some(left)).map_err(failed)?;
            match stream.read(&mut part) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Stats::parse(&text).ok_or_else(|| {
            Error::unfit(format!(
                "{name} gives no statistics of twemproxy; the port is that of nutcracker's option -s"
            ))
        })
    }

    /// None where these are not the statistics of nutcracker.
    fn parse(text: &[u8]) -> Option<Stats> {
        let value: Value = serde_json::from_slice(text).ok()?;
        if value.get("service")?.as_str()? != "nutcracker" {
            return None;
        }
        let count = |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).unwrap_or(0);
        let mut pools = Vec::new();
        for (name, pool) in value
            .as_object()?
            .iter()
            .filter(|(_, pool)| pool.is_object())
        {
            let servers = pool.as_object()?.iter().filter(|(_, s)| s.is_object());
            pools.push(Pool {
                name: name.clone(),
                server_ejects: count(pool, "server_ejects"),
                requests: servers.clone().map(|(_, s)| count(s, "requests")).sum(),
                servers: servers
                    .map(|(name, s)| {
                        let connections = count(s, "server_connections");
                        (name.clone(), connections, count(s, "server_ejected_at"))
                    })
                    .collect(),
            });
        }
        Some(Stats { pools })
    }

    /// Statistics that count what was sent meanwhile, where they come soon: the proxy sums up only now and then, every
    /// 30 seconds if it is not told otherwise. And whether they are newer.
    pub(super) fn newer(self, host: &str, port: u16, timeout: Duration) -> Result<(Stats, bool)> {
        let requests = |stats: &Stats| stats.pools.iter().map(|p| p.requests).sum::<u64>();
        let end = Instant::now() + Duration::from_millis(1_500);
        loop {
            let now = Stats::read(host, port, timeout)?;
            let is_newer = requests(&now) != requests(&self);
            if is_newer || Instant::now() >= end {
                return Ok((now, is_newer));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What endangers a load. `found` is the number of servers that keys have led to, 0 if that is not known.
    pub(super) fn warnings(&self, found: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        for pool in &self.pools {
            let name = &pool.name;
            if pool.server_ejects > 0 || pool.servers.iter().any(|(_, _, at)| *at > 0) {
                warnings.push(format!(
                    "pool {name} of the proxy has ejected servers {} times: keys then go to other servers and are not found later; set auto_eject_hosts: false, and timeout to 5000 or more, or leave it out",
                    pool.server_ejects.max(1)
                ));
            }
            let several: Vec<_> = pool.servers.iter().filter(|(_, n, _)| *n > 1).collect();
            if let Some((_, most, _)) = several.iter().max_by_key(|(_, n, _)| *n) {
                warnings.push(format!(
                    "pool {name} of the proxy has up to {most} connections to one server: commands for one key can overtake each other on them; set server_connections: 1"
                ));
            }
        }
        if let [pool] = self.pools.as_slice()
            && found > 0
            && found != pool.servers.len()
        {
            warnings.push(format!(
                "pool {} of the proxy lists {} servers, and keys lead to {found}; see whether one of them is ejected, or listed twice",
                pool.name,
                pool.servers.len()
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        let text = |ejects: u64, first: u64, at: u64| {
            format!(
                r#"{{"service":"nutcracker", "source":"vm", "version":"0.5.0", "uptime":1, "alpha": {{"client_eof":7,
                "server_ejects":{ejects}, "s0": {{"server_connections":{first},"server_ejected_at":{at}, "requests":5}},
                "s1": {{"server_connections":1, "server_ejected_at":0, "requests":1}}}}}}"#
            )
        };
        let read = |text: &str| Stats::parse(text.as_bytes());
        let good = read(&text(0, 1, 0)).unwrap();
        assert_eq!(
            (good.pools[0].requests, good.pools[0].servers.len()),
            (6, 2)
        );
        assert_eq!(good.warnings(2), [""; 0]);
        assert_eq!(good.warnings(0), [""; 0]);
        let told = |text: &str, words: &str| {
            let warnings = read(text).unwrap().warnings(2);
            assert!(
                warnings.len() == 1 && warnings[0].contains(words),
                "{warnings:?}"
            );
        };
        told(&text(3, 1, 0), "ejected servers 3 times");
        told(&text(0, 1, 1_700_000_000), "auto_eject_hosts: false");
        told(&text(0, 4, 0), "up to 4 connections to one server");
        assert!(good.warnings(1)[0].contains("lists 2 servers, and keys lead to 1"));
        for other in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"service":"other"}"#,
            r#"{"service":1}"#,
        ] {
            assert!(read(other).is_none(), "{other}");
        }
    }
}
