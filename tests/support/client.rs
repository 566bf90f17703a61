//! A client of one server: commands out, typed replies in.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What a server answers, in RESP2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Option<Vec<u8>>),
    Array(Option<Vec<Reply>>),
}

/// A blocking connection.
pub(crate) struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// `call!(client, "GET", key)`: arguments of any type that is bytes.
macro_rules! call {
    ($client:expr, $($arg:expr),+ $(,)?) => {
        $client.call(&[$(AsRef::<[u8]>::as_ref(&$arg)),+])
    };
}
pub(crate) use call;

impl Client {
    pub(crate) fn connect(port: u16) -> std::io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        // A test that waits for an answer which never comes shall fail, not hang.
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        Ok(Client {
            reader: BufReader::new(stream.try_clone()?),
            stream,
        })
    }

    /// Sends one command and returns its answer, an error reply too.
    pub(crate) fn try_call(&mut self, args: &[&[u8]]) -> std::io::Result<Reply> {
        let mut out = Vec::new();
        super::resp::append_command(&mut out, args);
        self.stream.write_all(&out)?;
        self.read_reply()
    }

    /// Sends one command and waits for nothing.
    pub(crate) fn send(&mut self, args: &[&[u8]]) {
        let mut out = Vec::new();
        super::resp::append_command(&mut out, args);
        self.stream.write_all(&out).expect("room in the socket");
    }

    /// Sends what is made of commands already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one command; an error reply fails the test.
    pub(crate) fn call(&mut self, args: &[&[u8]]) -> Reply {
        let name = String::from_utf8_lossy(&args.join(&b' '))
            .chars()
            .take(200)
            .collect::<String>();
        match self.try_call(args) {
            Ok(Reply::Error(text)) => panic!("{name}: {text}"),
            Ok(reply) => reply,
            Err(error) => panic!("{name}: {error}"),
        }
    }

    pub(crate) fn read_reply(&mut self) -> std::io::Result<Reply> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        let Some(body) = line.strip_suffix(b"\r\n") else {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "the connection was closed",
            ));
        };
        let text = || String::from_utf8_lossy(&body[1..]).into_owned();
        let number = || text().parse::<i64>().expect("a number in a reply");
        Ok(match body[0] {
            b'+' => Reply::Status(text()),
            b'-' => Reply::Error(text()),
            b':' => Reply::Int(number()),
            b'$' if number() < 0 => Reply::Bulk(None),
            b'$' => {
                let mut bulk = vec![0; number() as usize + 2];
                self.reader.read_exact(&mut bulk)?;
                bulk.truncate(bulk.len() - 2);
                Reply::Bulk(Some(bulk))
            }
            b'*' if number() < 0 => Reply::Array(None),
            b'*' => Reply::Array(Some(
                (0..number())
                    .map(|_| self.read_reply())
                    .collect::<std::io::Result<_>>()?,
            )),
            other => panic!("a reply begins with {:?}", other as char),
        })
    }

    /// Sends a whole command file while its answers are read, as `redis-cli --pipe` does: a sender that does not
    /// read stops when the server's output has filled the socket.
    ///
    /// `replies` is how many answers there will be, for a proxy that knows no ECHO; without it an ECHO marks the end.
    pub(crate) fn pipe(&mut self, bytes: &[u8], replies: Option<usize>) -> Piped {
        const MARK: &[u8] = b"the end of the file that was piped";
        let mut stream = self.stream.try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The reader reports a connection that was closed; here it would only be the same failure again.
                let _ = stream.write_all(bytes);
                if replies.is_none() {
                    let mut echo = Vec::new();
                    super::resp::append_command(&mut echo, &[b"ECHO", MARK]);
                    let _ = stream.write_all(&echo);
                }
            });
            let mut piped = Piped::default();
            while Some(piped.replies) != replies {
                match self
                    .read_reply()
                    .unwrap_or_else(|error| panic!("after {} replies: {error}", piped.replies))
                {
                    Reply::Bulk(Some(bulk)) if replies.is_none() && bulk == MARK => break,
                    Reply::Error(text) => piped.errors.push(text),
                    _ => {}
                }
                piped.replies += 1;
            }
            piped
        })
    }
}

impl Client {
    /// Sends what comes out of a pipe as it comes, until its writer ends, while the answers are read.
    pub(crate) fn pump(&mut self, mut from: impl Read + Send) -> Piped {
        const MARK: &[u8] = b"the end of the pipe";
        let mut stream = self.stream.try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // The reader reports a connection that was closed.
                let _ = std::io::copy(&mut from, &mut stream);
                let mut echo = Vec::new();
                super::resp::append_command(&mut echo, &[b"ECHO", MARK]);
                let _ = stream.write_all(&echo);
            });
            let mut piped = Piped::default();
            loop {
                match self.read_reply() {
                    Ok(Reply::Bulk(Some(bulk))) if bulk == MARK => return piped,
                    Ok(reply) => piped.count(reply),
                    Err(error) => panic!("after {} replies: {error}", piped.replies),
                }
            }
        })
    }
}

impl Piped {
    /// Counts a reply; errors may stand inside that of EXEC too.
    fn count(&mut self, reply: Reply) {
        self.replies += 1;
        let mut left = vec![reply];
        while let Some(reply) = left.pop() {
            match reply {
                Reply::Error(text) => self.errors.push(text),
                Reply::Array(Some(items)) => left.extend(items),
                _ => {}
            }
        }
    }
}

/// How a server took a command file.
#[derive(Debug, Default)]
pub(crate) struct Piped {
    pub(crate) replies: usize,
    pub(crate) errors: Vec<String>,
}

impl Reply {
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Reply::Bulk(Some(bytes)) => bytes,
            Reply::Status(text) => text.into_bytes(),
            // Some servers answer numbers where others answer their digits.
            Reply::Int(number) => number.to_string().into_bytes(),
            other => panic!("a string was expected, not {other:?}"),
        }
    }

    pub(crate) fn text(self) -> String {
        String::from_utf8(self.bytes()).expect("text")
    }

    pub(crate) fn int(self) -> i64 {
        match self {
            Reply::Int(number) => number,
            other => panic!("a number was expected, not {other:?}"),
        }
    }

    pub(crate) fn array(self) -> Vec<Reply> {
        match self {
            Reply::Array(Some(items)) => items,
            other => panic!("an array was expected, not {other:?}"),
        }
    }

    /// An array of strings.
    pub(crate) fn all_bytes(self) -> Vec<Vec<u8>> {
        self.array().into_iter().map(Reply::bytes).collect()
    }

    /// An array of names and what follows each.
    pub(crate) fn pairs(self) -> BTreeMap<String, Reply> {
        let mut items = self.array().into_iter();
        let mut pairs = BTreeMap::new();
        while let (Some(name), Some(value)) = (items.next(), items.next()) {
            pairs.insert(name.text(), value);
        }
        pairs
    }
}
