//! A connection to one server: TCP, a Unix socket, or TLS.
//!
//! [`Connection::open`] ends with a server that answers and has let us in, or with a sentence that says why not and
//! what to do. After that there are two ways to use it: [`Connection::call`] for single commands, and
//! [`Connection::read`] and [`Connection::write`], which never wait, for whoever polls several.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustls::ClientConnection;

use super::endpoint::{Address, Endpoint, Secret, Ways};
use super::reply::{BadReply, Finder, Reply, Wrong, parse};
use super::tls;
use crate::error::{Error, ErrorKind, Result};
use crate::resp::write::append_command;

/// Bytes that are asked of the socket at once by [`Connection::call`].
const READ_BYTES: usize = 64 << 10;

/// An answer that [`Connection::call`] waits for is no longer.
pub const REPLY_BYTES: usize = 1 << 30;

/// Bytes that are kept of what is no answer.
const FIRST_BYTES: usize = 1024;

/// Bytes of them that are shown.
const FIRST_SHOWN: usize = 64;

/// Bytes of a server's words that are shown.
const WORDS_SHOWN: usize = 160;

/// An open connection. Dropping it closes it.
pub struct Connection {
    name: String,
    /// A file is any descriptor that can be read and written, whichever family it belongs to.
    socket: File,
    tls: Option<Box<ClientConnection>>,
    /// Bytes that TLS has unpacked and that nobody has read.
    unpacked: usize,
    timeout: Duration,
    /// What `call` has read, of which the first `taken` bytes were answers.
    input: Vec<u8>,
    taken: usize,
    /// After an answer that did not come, or was none, nobody knows which command the next one belongs to.
    lost: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("name", &self.name)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, shakes hands if it is TLS, logs in, and asks for a sign of life. Only AUTH and PING are sent, in the
    /// forms that every server and twemproxy understands. A server that is busy or loads its data is there.
    ///
    /// Errors: [`ErrorKind::Unreachable`], [`ErrorKind::Login`]; [`ErrorKind::Io`] for files of certificates.
    pub fn open(endpoint: &Endpoint) -> Result<Connection> {
        let mut connection = Connection::open_unasked(endpoint)?;
        let ping = connection.login_call(endpoint, &[b"PING"])?;
        connection.check_ping(&ping, endpoint)?;
        Ok(connection)
    }

    /// As [`Connection::open`], but without PING, for users who may not send it: nothing but AUTH is sent, and nothing
    /// at all where there is no password.
    pub fn open_unasked(endpoint: &Endpoint) -> Result<Connection> {
        let mut connection = Connection::connect(endpoint)?;
        // A user without a password may be one that needs none.
        let password = match (&endpoint.password, &endpoint.user) {
            (Some(password), _) => password.expose(),
            (None, Some(_)) => b"",
            (None, None) => return Ok(connection),
        };
        let reply = match &endpoint.user {
            Some(user) => connection.login_call(endpoint, &[b"AUTH", user.as_bytes(), password])?,
            None => connection.login_call(endpoint, &[b"AUTH", password])?,
        };
        connection.check_auth(&reply, endpoint)?;
        Ok(connection)
    }

    fn connect(endpoint: &Endpoint) -> Result<Connection> {
        let name = endpoint.address.to_string();
        let unreachable = |why: String| {
            Error::plain(ErrorKind::Unreachable {
                server: name.clone(),
                why,
            })
        };
        // Files that cannot be read are found before anybody is bothered.
        let tls = match &endpoint.tls {
            Some(tls) => Some(Box::new(tls::client(endpoint, tls)?)),
            None => None,
        };
        let socket = match &endpoint.address {
            Address::Tcp { host, port } => connect_tcp(host, *port, endpoint.timeout),
            Address::Unix(path) => connect_unix(path, endpoint.timeout),
        };
        let mut connection = Connection {
            socket: File::from(socket.map_err(unreachable)?),
            name,
            tls,
            unpacked: 0,
            timeout: endpoint.timeout,
            input: Vec::new(),
            taken: 0,
            lost: false,
        };
        connection.shake_hands(endpoint)?;
        Ok(connection)
    }

    /// `host:port`, or the path of the socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The socket, to poll it. See also [`Connection::has_buffered_input`] and [`Connection::wants_write`].
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends one command and waits for its answer, which may be an error. The endpoint's timeout counts anew whenever
    /// bytes move.
    ///
    /// Errors: [`ErrorKind::Unreachable`] if the connection was closed, nothing moved for so long, or what came is no
    /// answer. The connection is of no use then.
    pub fn call(&mut self, args: &[&[u8]]) -> Result<Reply> {
        let mut out = Vec::new();
        append_command(&mut out, args);
        let replies = self
            .exchange(&out, 1, Deadline::Idle)
            .map_err(|failure| self.describe(failure))?;
        // One was asked for, and one came.
        Ok(replies.into_iter().next().unwrap_or(Reply::Nil))
    }

    /// Sends several commands at once and waits for an answer to each. As [`Connection::call`] otherwise.
    pub fn calls(&mut self, commands: &[Vec<&[u8]>]) -> Result<Vec<Reply>> {
        let mut out = Vec::new();
        for args in commands {
            append_command(&mut out, args);
        }
        self.exchange(&out, commands.len(), Deadline::Idle)
            .map_err(|failure| self.describe(failure))
    }

    /// Sends commands that are encoded already and waits for so many answers. As [`Connection::call`] otherwise.
    pub fn calls_encoded(&mut self, commands: &[u8], answers: usize) -> Result<Vec<Reply>> {
        self.exchange(commands, answers, Deadline::Idle)
            .map_err(|failure| self.describe(failure))
    }

    /// How long an answer is waited for from now on. Connecting took the endpoint's timeout.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Reads what is there; `WouldBlock` if nothing is, 0 if the server has closed the connection.
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = &self.input[self.taken..];
        if left.is_empty() {
            return self.receive(buf);
        }
        let n = left.len().min(buf.len());
        buf[..n].copy_from_slice(&left[..n]);
        self.taken += n;
        self.forget_taken();
        Ok(n)
    }

    /// Sends the first bytes of these pieces, as many as are taken now; `WouldBlock` if none are. With TLS, bytes that
    /// were taken may still wait here: see [`Connection::wants_write`].
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.tls.is_none() {
            return retry(|| (&self.socket).write_vectored(pieces));
        }
        if pieces.iter().all(|piece| piece.is_empty()) {
            return Ok(0);
        }
        self.flush()?;
        let Some(tls) = &mut self.tls else {
            return Ok(0);
        };
        match tls.writer().write_vectored(pieces)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            n => {
                self.flush()?;
                Ok(n)
            }
        }
    }

    /// Whether encrypted bytes wait for the socket: poll for writing then, and call [`Connection::flush`].
    pub fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends encrypted bytes that wait; whether none do any more.
    pub fn flush(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return Ok(true);
        };
        while tls.wants_write() {
            match retry(|| tls.write_tls(&mut &self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether [`Connection::read`] has something to give that polling the socket would not tell.
    pub fn has_buffered_input(&self) -> bool {
        self.unpacked > 0 || self.taken < self.input.len()
    }

    /// Reads from the socket, through TLS.
    fn receive(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return retry(|| (&self.socket).read(buf));
        };
        loop {
            match tls.reader().read(buf) {
                Ok(n) => {
                    self.unpacked = self.unpacked.saturating_sub(n);
                    return Ok(n);
                }
                // Closed without a word of TLS. An answer that was cut is noticed by its length.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            // The server's side closed is told by the reader above.
            retry(|| tls.read_tls(&mut &self.socket))?;
            match tls.process_new_packets() {
                Ok(state) => self.unpacked = state.plaintext_bytes_to_read(),
                Err(error) => {
                    // Tell the server, if it still listens.
                    let _ = tls.write_tls(&mut &self.socket);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
    }

    fn forget_taken(&mut self) {
        if self.taken == self.input.len() {
            self.input.clear();
            // One large answer is no reason to hold its memory for good.
            self.input.shrink_to(READ_BYTES);
            self.taken = 0;
        }
    }

    /// Sends `out` and reads so many answers. Both at once: a server that cannot send reads no more either.
    fn exchange(
        &mut self,
        out: &[u8],
        answers: usize,
        kind: Deadline,
    ) -> std::result::Result<Vec<Reply>, Failure> {
        if self.lost {
            return Err(Failure::Lost);
        }
        // Only a whole exchange leaves the connection in a known state.
        self.lost = true;
        let (mut sent, mut replies, mut finder) = (0, Vec::new(), Finder::default());
        let mut write_error = None;
        let mut deadline = after(self.timeout);
        loop {
            while replies.len() < answers {
                let window = &self.input[self.taken..];
                let bad = |bad| Failure::Bad(bad, window[..window.len().min(FIRST_BYTES)].to_vec());
                if finder.next(window).map_err(bad)?.is_none() {
                    break;
                }
                if let Some((reply, len)) = parse(window).map_err(bad)? {
                    replies.push(reply);
                    self.taken += len;
                    deadline = after(self.timeout);
                }
            }
            self.forget_taken();
            if replies.len() == answers {
                if sent == out.len() && !self.wants_write() {
                    self.lost = false;
                    return Ok(replies);
                }
                if write_error.is_some() {
                    // The server said something and closed, before it had read everything. Its words count.
                    return Ok(replies);
                }
            }
            let mut moved = false;
            if write_error.is_none() && (sent < out.len() || self.wants_write()) {
                let written = match sent < out.len() {
                    true => self.write(&[IoSlice::new(&out[sent..])]),
                    false => self.flush().map(|_| 0),
                };
                match written {
                    Ok(n) => {
                        sent += n;
                        moved |= n > 0;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // What the server said before it closed can still be read.
                    Err(error) => write_error = Some(error),
                }
            }
            let held = self.input.len();
            if held - self.taken > REPLY_BYTES {
                return Err(Failure::TooLong);
            }
            let mut input = std::mem::take(&mut self.input);
            input.resize(held + READ_BYTES, 0);
            let received = self.receive(&mut input[held..]);
            input.truncate(held + received.as_ref().map_or(0, |n| *n));
            self.input = input;
            match received {
                Ok(0) => return Err(Failure::Closed(write_error, held > self.taken)),
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if write_error.is_some() {
                        return Err(Failure::Closed(write_error, held > self.taken));
                    }
                }
                Err(error) => return Err(Failure::Closed(Some(error), held > self.taken)),
            }
            if moved {
                if matches!(kind, Deadline::Idle) {
                    deadline = after(self.timeout);
                }
                // Whoever drips bytes shall not be waited for longer than one who is silent.
                if Instant::now() < deadline {
                    continue;
                }
            }
            let writing = sent < out.len() || self.wants_write();
            if !wait(self.socket.as_fd(), writing, deadline) {
                let partial = self.input.len() > self.taken;
                return Err(Failure::TimedOut(partial));
            }
        }
    }

    /// The TLS handshake.
    fn shake_hands(&mut self, endpoint: &Endpoint) -> Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        let server = self.name.clone();
        let fail = |why: String| Err(Error::plain(ErrorKind::Unreachable { server, why }));
        let deadline = after(self.timeout);
        let mut first = Vec::new();
        loop {
            while tls.wants_write() {
                match retry(|| tls.write_tls(&mut &self.socket)) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What the server said before it closed is read below.
                    Err(_) => break,
                }
            }
            if !tls.is_handshaking() && !tls.wants_write() {
                return Ok(());
            }
            let mut buf = [0; 4096];
            match retry(|| (&self.socket).read(&mut buf)) {
                Ok(0) if first.is_empty() => {
                    return fail(
                        "the connection was closed during the TLS handshake; check whether this port speaks TLS and has room for another client"
                            .to_owned(),
                    );
                }
                Ok(0) => {
                    return fail("the connection was closed during the TLS handshake".to_owned());
                }
                Ok(n) => {
                    first.extend_from_slice(&buf[..n.min(FIRST_BYTES.saturating_sub(first.len()))]);
                    let mut bytes = &buf[..n];
                    while !bytes.is_empty() {
                        // Nothing is left over: the whole of a record is taken before it is opened.
                        let taken = tls.read_tls(&mut bytes);
                        let opened = tls.process_new_packets();
                        match (taken, opened) {
                            (Ok(_), Ok(state)) => self.unpacked = state.plaintext_bytes_to_read(),
                            (_, Err(error)) => {
                                let _ = tls.write_tls(&mut &self.socket);
                                return fail(match first.first() {
                                    Some(b'-' | b'+') => format!(
                                        "it speaks no TLS: leave out {}, or write redis:// in place of rediss://; it answered {}",
                                        endpoint.ways.tls,
                                        words(&first[1..], endpoint)
                                    ),
                                    _ => tls::describe(&error, endpoint),
                                });
                            }
                            (Err(error), Ok(_)) => {
                                return fail(format!("the TLS handshake failed: {error}"));
                            }
                        }
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    return fail(format!(
                        "the connection broke during the TLS handshake: {error}; check whether this port speaks TLS"
                    ));
                }
            }
            if !wait(self.socket.as_fd(), tls.wants_write(), deadline) {
                return fail(format!(
                    "no answer to the TLS handshake within {}; a port that speaks no TLS keeps silent like this: then leave out {}",
                    seconds(self.timeout),
                    endpoint.ways.tls
                ));
            }
        }
    }

    /// One command of the login. What goes wrong here is mostly a wrong port.
    fn login_call(&mut self, endpoint: &Endpoint, args: &[&[u8]]) -> Result<Reply> {
        let mut out = Vec::new();
        append_command(&mut out, args);
        let failure = match self.exchange(&out, 1, Deadline::Answer) {
            Ok(replies) => return Ok(replies.into_iter().next().unwrap_or(Reply::Nil)),
            // Whatever it is, it may be one that repeats what it was sent.
            Err(Failure::Bad(bad, first)) => Failure::Bad(bad, without_secret(&first, endpoint)),
            Err(failure) => failure,
        };
        // A server tells only after the handshake that it wanted a certificate.
        if let Failure::Closed(Some(error), _) = &failure
            && let Some(error) = tls_error(error)
        {
            return Err(self.unreachable(tls::describe(error, endpoint)));
        }
        let ways = endpoint.ways;
        let with_tls = self.tls.is_some();
        let tls_hint = match (with_tls, &endpoint.address) {
            (false, Address::Tcp { .. }) => {
                format!("; if it is a port for TLS, {} is missing", ways.tls)
            }
            _ => String::new(),
        };
        let user_hint = match endpoint.user {
            Some(_) => format!("; a twemproxy knows no users: leave out {} then", ways.user),
            None => String::new(),
        };
        let why = match failure {
            Failure::Bad(
                BadReply {
                    pos: 0,
                    what: Wrong::Type(_),
                },
                first,
            ) => not_a_server(&first, ways),
            Failure::Closed(_, false) if with_tls => {
                format!(
                    "the connection was closed without an answer; if it asks for a certificate of ours, {} and {} are missing{user_hint}",
                    ways.cert, ways.key
                )
            }
            Failure::Closed(_, false) => {
                format!("the connection was closed without an answer{tls_hint}{user_hint}")
            }
            Failure::TimedOut(false) => format!(
                "no answer within {}: it hangs, or is no Redis{tls_hint}",
                seconds(self.timeout)
            ),
            other => return Err(self.describe(other)),
        };
        Err(self.unreachable(why))
    }

    fn check_auth(&self, reply: &Reply, endpoint: &Endpoint) -> Result<()> {
        let Some(error) = reply.error() else {
            return match reply.is_ok() {
                true => Ok(()),
                false => Err(self.unreachable("its answer to AUTH is not OK".to_owned())),
            };
        };
        let said = words(error, endpoint);
        let Ways { password, user, .. } = endpoint.ways;
        let why = match error {
            error if error.starts_with(b"WRONGPASS") && endpoint.password.is_none() => format!(
                "the user needs a password: {password}; in a URI, :password@ is a password and user@ a user; it answered {said}"
            ),
            error if error.starts_with(b"WRONGPASS") && endpoint.user.is_some() => format!(
                "user or password is wrong: check {user} and {password}; it answered {said}"
            ),
            error if error.starts_with(b"WRONGPASS") || contains(error, b"invalid password") => {
                format!(
                    "the password is wrong: check {password}, and whether it needs {user}; it answered {said}"
                )
            }
            error
                if contains(error, b"no password is set")
                    || contains(error, b"without any password") =>
            {
                format!(
                    "it has no password set: leave out {password}, if it is the right server; it answered {said}"
                )
            }
            error if contains(error, b"wrong number of arguments") && endpoint.user.is_some() => {
                format!("it knows no users: leave out {user}; it answered {said}")
            }
            _ => match self.check_refusal(error, &said, endpoint.ways) {
                Some(refused) => return Err(refused),
                None if error.starts_with(b"LOADING") => return Ok(()),
                None => format!("it refused the login; it answered {said}"),
            },
        };
        Err(self.login(why))
    }

    /// Whatever it is but a refusal, the server is there: it may be loading, busy, or a replica without its master.
    fn check_ping(&self, reply: &Reply, endpoint: &Endpoint) -> Result<()> {
        let Some(error) = reply.error() else {
            return match reply.text() {
                Some("PONG") => Ok(()),
                _ => Err(self.unreachable("its answer to PING is not PONG".to_owned())),
            };
        };
        let said = words(error, endpoint);
        if error.starts_with(b"NOAUTH") || contains(error, b"operation not permitted") {
            return Err(self.login(format!(
                "it asks for a password: {}; it answered {said}",
                endpoint.ways.password
            )));
        }
        self.check_refusal(error, &said, endpoint.ways)
            .map_or(Ok(()), Err)
    }

    /// What a server says that wants nothing of us, whatever was sent.
    fn check_refusal(&self, error: &[u8], said: &str, ways: &Ways) -> Option<Error> {
        if error.starts_with(b"NOPERM") {
            return Some(self.login(format!(
                "the user lacks a permission: ACL SETUSER on the server gives it, or take another {}; it answered {said}",
                ways.user
            )));
        }
        let why = if error.starts_with(b"DENIED") {
            "it is in protected mode, in which only its own host may connect: set a password there, or protected-mode no"
        } else if contains(error, b"max number of clients") {
            "it takes no more clients: raise maxclients there, or close some"
        } else {
            return None;
        };
        Some(self.unreachable(format!("{why}; it answered {said}")))
    }

    fn unreachable(&self, why: String) -> Error {
        Error::plain(ErrorKind::Unreachable {
            server: self.name.clone(),
            why,
        })
    }

    fn login(&self, why: String) -> Error {
        Error::plain(ErrorKind::Login {
            server: self.name.clone(),
            why,
        })
    }

    fn describe(&self, failure: Failure) -> Error {
        let why = match failure {
            Failure::Closed(None, false) => {
                "the connection was closed while an answer was waited for".to_owned()
            }
            Failure::Closed(None, true) => {
                "the connection was closed in the middle of an answer".to_owned()
            }
            Failure::Closed(Some(error), _) => format!("the connection broke: {error}"),
            Failure::TimedOut(false) => format!("no answer within {}", seconds(self.timeout)),
            Failure::TimedOut(true) => format!(
                "an answer that was begun did not go on within {}",
                seconds(self.timeout)
            ),
            Failure::Bad(bad, first) => {
                format!(
                    "what it answers is no RESP: {bad}, which begins with {}",
                    quoted(&first, FIRST_SHOWN)
                )
            }
            Failure::TooLong => format!("an answer of more than {REPLY_BYTES} bytes"),
            Failure::Lost => {
                "the connection is of no use any more after an answer that did not come".to_owned()
            }
        };
        self.unreachable(why)
    }
}

/// What the time for an answer is counted from.
enum Deadline {
    /// The last answer.
    Answer,
    /// The last byte that moved, in either direction.
    Idle,
}

/// Why an answer did not come.
enum Failure {
    /// Closed, by an error or in order; and whether an answer was begun.
    Closed(Option<io::Error>, bool),
    /// Whether an answer was begun.
    TimedOut(bool),
    /// What came, and its first bytes.
    Bad(BadReply, Vec<u8>),
    TooLong,
    /// An earlier failure.
    Lost,
}

/// Errors are what happened, in words.
fn connect_tcp(host: &str, port: u16, timeout: Duration) -> std::result::Result<OwnedFd, String> {
    let deadline = after(timeout);
    let addresses = resolve(host, port, timeout)?;
    let mut failed = None;
    for (i, address) in addresses.iter().enumerate() {
        // None of them may use up the time of those that come after it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - i) as u32;
        match connect_address(address, share.max(Duration::from_millis(1))) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = Some((address, error)),
        }
    }
    let Some((address, error)) = failed else {
        return Err(format!("the name {host} has no address"));
    };
    let via = match host.parse::<IpAddr>() {
        Ok(_) => String::new(),
        Err(_) => format!(" at {address}"),
    };
    Err(match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("nothing listens there{via}: {error}; check host and port")
        }
        io::ErrorKind::TimedOut => format!(
            "no connection{via} within {}; check the host, and whether a firewall lets it pass",
            seconds(timeout)
        ),
        _ => format!("no connection{via}: {error}"),
    })
}

fn connect_address(address: &SocketAddr, timeout: Duration) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(address, timeout)?;
    // Where nobody listens, the system may choose the very port that is called: a connection to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::Error::from_raw_os_error(
            rustix::io::Errno::CONNREFUSED.raw_os_error(),
        ));
    }
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    // A peer that vanished without a word is noticed in two minutes.
    sockopt::set_socket_keepalive(&stream, true)?;
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    {
        sockopt::set_tcp_keepidle(&stream, Duration::from_secs(60))?;
        sockopt::set_tcp_keepintvl(&stream, Duration::from_secs(15))?;
        sockopt::set_tcp_keepcnt(&stream, 4)?;
    }
    Ok(stream.into())
}

/// The system's resolver knows no deadline, so it is asked by a thread that may be left behind.
fn resolve(
    host: &str,
    port: u16,
    timeout: Duration,
) -> std::result::Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    let thread = std::thread::Builder::new().name("resolver".to_owned());
    thread
        .spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs();
            // Nobody listens any more if it took too long.
            let _ = sender.send(found.map(Vec::from_iter));
        })
        .map_err(|error| format!("no thread for looking the name up: {error}"))?;
    match receiver.recv_timeout(timeout) {
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(format!("the name {host} has no address: {error}")),
        Err(_) => Err(format!(
            "the name {host} could not be looked up within {}",
            seconds(timeout)
        )),
    }
}

fn connect_unix(path: &Path, timeout: Duration) -> std::result::Result<OwnedFd, String> {
    let deadline = after(timeout);
    let address = SocketAddrUnix::new(path)
        .map_err(|_| "the path is too long for a Unix socket".to_owned())?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = AddressFamily::UNIX;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
        .map_err(|error| format!("no socket: {}", io::Error::from(error)))?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            Err(rustix::io::Errno::INTR) => {}
            // The server's queue is full, and polling would not tell when it is not.
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::AGAIN) => {
                return Err(format!("no connection within {}", seconds(timeout)));
            }
            Err(rustix::io::Errno::NOENT) => {
                return Err("there is no such socket; unixsocket in the server's configuration tells where it is".to_owned());
            }
            Err(rustix::io::Errno::CONNREFUSED) => {
                return Err("no server listens on this socket".to_owned());
            }
            Err(error) => return Err(format!("no connection: {}", io::Error::from(error))),
        }
    }
}

/// What it is that does not answer as a server.
fn not_a_server(first: &[u8], ways: &Ways) -> String {
    let what = match first {
        [b'H', b'T', b'T', b'P', ..] => "an HTTP server",
        [b'H', ..] | [b'<', ..] => "a web server, it seems",
        [b'{', ..] => "a port that gives JSON, such as that for the statistics of a twemproxy",
        [0x15 | 0x16, 3, ..] => {
            return format!(
                "it speaks TLS: {}, or rediss:// in place of redis://",
                ways.tls
            );
        }
        [b'S', b'S', b'H', ..] => "an SSH server",
        [b'E', b'R', b'R', b'O', b'R', ..] => "a memcached, it seems",
        _ => "no Redis",
    };
    format!(
        "this is {what}: it answers {}; check the port",
        quoted(first, FIRST_SHOWN)
    )
}

/// The end of a time that begins now. One that is too long to be counted is as good as a day.
fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout)
        .unwrap_or(now + Duration::from_secs(86_400))
}

/// Waits until the socket can be read or written; whether it can before the deadline.
pub(crate) fn wait(fd: BorrowedFd<'_>, writing: bool, deadline: Instant) -> bool {
    let flags = match writing {
        true => PollFlags::IN | PollFlags::OUT,
        false => PollFlags::IN,
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&timeout)) {
            Ok(0) => {}
            // A failure shows itself again in what was waited for.
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// A signal that arrives is no failure.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What a server said, for a message. Servers repeat what they do not understand, and that may be a password.
pub(crate) fn words(said: &[u8], endpoint: &Endpoint) -> String {
    let said = match find_bytes(said, b", with args beginning with") {
        Some(at) => &said[..at],
        None => said,
    };
    let said = said.strip_suffix(b"\r\n").unwrap_or(said);
    quoted(&without_secret(said, endpoint), WORDS_SHOWN)
}

fn without_secret(text: &[u8], endpoint: &Endpoint) -> Vec<u8> {
    let secret = endpoint.password.as_ref().map(Secret::expose);
    let Some(secret) = secret.filter(|secret| !secret.is_empty()) else {
        return text.to_vec();
    };
    let (mut shown, mut from) = (Vec::new(), 0);
    for at in memchr::memmem::find_iter(text, secret) {
        shown.extend_from_slice(&text[from..at]);
        shown.extend_from_slice(b"***");
        from = at + secret.len();
    }
    shown.extend_from_slice(&text[from..]);
    shown
}

/// So many bytes of a text, in quotes and escaped.
fn quoted(bytes: &[u8], most: usize) -> String {
    let mut text = String::from("\"");
    for &b in &bytes[..bytes.len().min(most)] {
        match b {
            b'"' | b'\\' => text.extend(['\\', b as char]),
            b' '..=b'~' => text.push(b as char),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            _ => text.push_str(&format!("\\x{b:02x}")),
        }
    }
    text.push('"');
    if bytes.len() > most {
        text.push('…');
    }
    text
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    find_bytes(text, part).is_some()
}

fn find_bytes(text: &[u8], part: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, part)
}

fn seconds(timeout: Duration) -> String {
    format!("{} s", timeout.as_secs_f64())
}
