//! One connection and what is on its way over it: bytes that may have to be sent again, and the answers that they wait
//! for, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::{Duration, Instant};

use super::payload::{Payload, Piece};
use crate::error::Result;
use crate::server::connection::Connection;
use crate::server::endpoint::{Address, Endpoint};
use crate::server::import;
use crate::server::reply::{self, Reply, Shape};

/// Bytes that are copied together into one buffer.
const CHUNK_BYTES: usize = 64 << 10;
/// Slices that are written at once.
const SLICES: usize = 32;
/// A window does not shrink below this.
const LEAST_WINDOW: u32 = 8;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;
/// A longer answer belongs to no command that is sent here.
const ANSWER_BYTES: usize = 512 << 20;

/// Something that was sent, or is about to be, and its place among the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    /// Where its bytes end in the stream of this connection, and where they begin.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Answers that it gets.
    pub(super) answers: u32,
    pub(super) kind: Kind,
    /// The lane that waits for it.
    pub(super) lane: u64,
    pub(super) slot: u16,
    pub(super) db: u32,
    pub(super) epoch: u64,
    /// Sent before, without a trustworthy answer.
    pub(super) again: bool,
    /// When that was for the first time.
    pub(super) since: Option<Instant>,
}

impl Item {
    /// An item of one answer, sent for the first time; its place in the stream is found when it is appended.
    pub(super) fn new(kind: Kind, lane: u64, slot: u16, db: u32, epoch: u64) -> Item {
        Item {
            start: 0,
            end: 0,
            answers: 1,
            kind,
            lane,
            slot,
            db,
            epoch,
            again: false,
            since: None,
        }
    }
}

/// What an item is, and with it what its right answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A command of a snapshot whose right answer has this shape.
    Plain(Expect),
    /// EXISTS before the first command of a key: 0 lets the others pass.
    Gate,
    /// A part of a list: its answer is the list's length.
    Push {
        /// Elements that stand before this part.
        before: u64,
        /// Its own elements.
        count: u32,
    },
    /// What adds to a key that was there, each time it is sent: it cannot be sent again.
    Once,
    /// Commands of a log that are applied together or not at all.
    Batch,
    /// SELECT, ASKING and the like: an error ends the run.
    Internal,
    /// What a lane has applied already: GET of its record.
    Applied,
    /// Which server a key leads to, of those that were found behind a proxy.
    Route(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    Status,
    /// `SET … NX`: a status, or nil where the key is there.
    StatusOrNil,
    /// `MSETNX`: 0 where one of the keys is there.
    One,
    Int,
    /// Anything but an error.
    Any,
}

/// What came back for an item.
#[derive(Debug)]
pub(super) enum Answer {
    /// The right kind of thing; a number, where it is one.
    Fine(Shape, i64),
    /// The server's error, and which of the item's answers it was.
    Error(Vec<u8>, u32),
    /// The last of several answers, whole.
    Whole(Reply),
}

#[derive(Debug)]
struct Chunk {
    start: u64,
    piece: Piece,
}

/// See the module.
pub(super) struct Link {
    pub(super) endpoint: Endpoint,
    pub(super) connection: Option<Connection>,
    /// Its number at the server, by which it can be killed there.
    pub(super) client_id: Option<i64>,
    chunks: VecDeque<Chunk>,
    spare: Vec<Vec<u8>>,
    /// Behind the last byte that is answered, written, appended.
    answered: u64,
    written: u64,
    end: u64,
    items: VecDeque<Item>,
    /// Items from the front that may be on their way, and the answers that they get.
    allowed: usize,
    allowed_answers: u32,
    allowed_end: u64,
    /// Answers that may be awaited: at the most, and now.
    window: u32,
    window_now: u32,
    window_bytes: u64,
    /// What is on its way should not be so for longer.
    patience: Option<Duration>,
    /// A place in the stream of which it is measured how long its answer takes, and when it was written.
    measured: Option<(u64, Instant)>,
    input: Vec<u8>,
    from: usize,
    to: usize,
    /// Answers that the front item has got, and the first error among them.
    got: u32,
    error: Option<(Vec<u8>, u32)>,
    /// The database selected behind the last item.
    pub(super) selected: u32,
    /// When the server said something last, or was given something after a silence.
    pub(super) heard: Instant,
    pub(super) down: Option<Down>,
    /// Nothing more is let out.
    pub(super) frozen: bool,
}

/// A connection that is to be opened again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Down {
    pub(super) since: Instant,
    pub(super) until: Instant,
    pub(super) attempts: u32,
}

/// What has to be sent again on another connection, or later.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) item: Item,
    pub(super) payload: Payload,
    /// Whether any of it was sent.
    pub(super) sent: bool,
}

impl Link {
    /// `patience`: the window shrinks while answers take longer.
    pub(super) fn new(
        endpoint: Endpoint,
        window: u32,
        window_bytes: u64,
        patience: Option<Duration>,
    ) -> Link {
        Link {
            endpoint,
            connection: None,
            client_id: None,
            chunks: VecDeque::new(),
            spare: Vec::new(),
            answered: 0,
            written: 0,
            end: 0,
            items: VecDeque::new(),
            allowed: 0,
            allowed_answers: 0,
            allowed_end: 0,
            window,
            window_now: window,
            window_bytes,
            patience,
            measured: None,
            input: vec![0; READ_BYTES],
            from: 0,
            to: 0,
            got: 0,
            error: None,
            selected: 0,
            heard: Instant::now(),
            down: None,
            frozen: false,
        }
    }

    pub(super) fn name(&self) -> String {
        self.endpoint.address.to_string()
    }

    /// Bytes that are kept.
    pub(super) fn held(&self) -> u64 {
        self.end - self.answered
    }

    pub(super) fn is_idle(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether answers are to come.
    pub(super) fn is_awaiting(&self) -> bool {
        self.connection.is_some() && self.written > self.answered
    }

    /// What is to be answered, sent or not.
    pub(super) fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }

    /// What was sent, over this connection or over the one before, and is not answered.
    pub(super) fn sent_items(&self) -> impl Iterator<Item = Item> {
        let written = self.written;
        let sent = self
            .items
            .iter()
            .filter(move |item| item.start < written || item.again);
        sent.filter(|item| !matches!(item.kind, Kind::Internal | Kind::Applied | Kind::Route(_)))
            .copied()
    }

    /// The host that it leads to.
    pub(super) fn host(&self) -> String {
        match &self.endpoint.address {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix(_) => "127.0.0.1".to_owned(),
        }
    }

    /// Items that are not yet answered.
    pub(super) fn waiting(&self) -> usize {
        self.items.len()
    }

    /// Whether it has more waiting than its window lets out.
    pub(super) fn is_full(&self) -> bool {
        self.allowed < self.items.len()
    }

    /// Appends bytes of the next item.
    #[inline]
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if let Some(Chunk {
            piece: Piece::Owned(buffer),
            ..
        }) = self.chunks.back_mut()
            && buffer.len() + bytes.len() <= CHUNK_BYTES
        {
            buffer.extend_from_slice(bytes);
        } else {
            let mut buffer = self.spare.pop().unwrap_or_default();
            buffer.reserve(CHUNK_BYTES.max(bytes.len()));
            buffer.extend_from_slice(bytes);
            self.chunks.push_back(Chunk {
                start: self.end,
                piece: Piece::Owned(buffer),
            });
        }
        self.end += bytes.len() as u64;
    }

    /// Appends the bytes of the next item without copying what is large.
    pub(super) fn append_payload(&mut self, payload: Payload) {
        match payload {
            Payload::Small(bytes) => self.append(&bytes),
            Payload::Pieces(pieces) => {
                for piece in pieces {
                    let len = piece.bytes().len();
                    if len <= CHUNK_BYTES / 4 {
                        self.append(piece.bytes());
                        continue;
                    }
                    self.chunks.push_back(Chunk {
                        start: self.end,
                        piece,
                    });
                    self.end += len as u64;
                }
            }
        }
    }

    /// Ends the item whose bytes were appended since the last one.
    #[inline]
    pub(super) fn push(&mut self, mut item: Item) {
        item.start = self.items.back().map_or(self.answered, |last| last.end);
        item.end = self.end;
        self.items.push_back(item);
        self.allow();
    }

    /// Lets out what the window has room for.
    fn allow(&mut self) {
        if self.frozen {
            return;
        }
        while let Some(next) = self.items.get(self.allowed) {
            let fits = self.allowed_answers + next.answers <= self.window_now
                && next.end - self.answered <= self.window_bytes;
            if !fits && self.allowed > 0 {
                break;
            }
            self.allowed += 1;
            self.allowed_answers += next.answers;
            self.allowed_end = next.end;
        }
    }

    /// Writes what may be written. Errors: the connection is gone.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        if self.written == self.answered && self.allowed_end > self.written {
            // A silence begins with the question.
            self.heard = Instant::now();
        }
        while self.written < self.allowed_end {
            let first = self.chunks.partition_point(|chunk| {
                chunk.start + chunk.piece.bytes().len() as u64 <= self.written
            });
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut n = 0;
            let mut pos = self.written;
            for chunk in self.chunks.range(first..) {
                let bytes = chunk.piece.bytes();
                let from = pos.saturating_sub(chunk.start) as usize;
                // The chunk behind the last one that is let out ends the walk.
                let to = (self.allowed_end.saturating_sub(chunk.start) as usize).min(bytes.len());
                if n == SLICES || from >= to {
                    break;
                }
                slices[n] = IoSlice::new(&bytes[from..to]);
                n += 1;
                pos = chunk.start + to as u64;
            }
            match connection.write(&slices[..n]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if connection.wants_write() {
            connection.flush()?;
        }
        if self.patience.is_some() && self.measured.is_none() && self.written > self.answered {
            self.measured = Some((self.written, Instant::now()));
        }
        Ok(())
    }

    /// Fits the window to how long answers take: what a proxy gives up on while it waits would have to be sent again.
    fn measure(&mut self) {
        let (Some(patience), Some((end, written))) = (self.patience, self.measured) else {
            return;
        };
        if self.answered < end {
            return;
        }
        self.measured = None;
        let took = written.elapsed();
        self.window_now = if took > patience {
            (self.window_now / 2).max(LEAST_WINDOW.min(self.window))
        } else if took < patience / 2 {
            (self.window_now + self.window_now / 8 + 1).min(self.window)
        } else {
            self.window_now
        };
    }

    /// Whether there is something to write for which the socket had no room.
    pub(super) fn wants_write(&self) -> bool {
        self.written < self.allowed_end
            || self
                .connection
                .as_ref()
                .is_some_and(Connection::wants_write)
    }

    /// Reads what is there; `false` where nothing was. Errors: the connection is gone.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let Some(connection) = &mut self.connection else {
            return Ok(false);
        };
        if self.from > 0 {
            self.input.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        if self.to == self.input.len() {
            if self.input.len() >= ANSWER_BYTES {
                return Err(io::Error::other("an answer of more than 512 MiB"));
            }
            self.input.resize(self.input.len() * 2, 0);
        }
        loop {
            match connection.read(&mut self.input[self.to..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => {
                    self.to += n;
                    self.heard = Instant::now();
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next item that is answered in full. It stays at the front, with its bytes, until [`release`](Self::release).
    ///
    /// Errors: what came is no answer to anything.
    pub(super) fn answered(&mut self) -> std::result::Result<Option<(Item, Answer)>, String> {
        loop {
            let window = &self.input[self.from..self.to];
            if window.is_empty() {
                return Ok(None);
            }
            let Some(item) = self.items.front().copied() else {
                return Err(format!(
                    "an answer came that nothing was asked for: {}",
                    window[..window.len().min(80)].escape_ascii()
                ));
            };
            let last = self.got + 1 == item.answers;
            if last && matches!(item.kind, Kind::Batch | Kind::Applied | Kind::Route(_)) {
                let Some((whole, len)) = reply::parse(window).map_err(|bad| bad.to_string())?
                else {
                    return Ok(None);
                };
                self.from += len;
                self.got = 0;
                let answer = match (self.error.take(), whole) {
                    (Some((text, at)), _) => Answer::Error(text, at),
                    (None, Reply::Error(text)) => Answer::Error(text, item.answers - 1),
                    (None, whole) => Answer::Whole(whole),
                };
                return Ok(Some((item, answer)));
            }
            let Some(found) = reply::find(window).map_err(|bad| bad.to_string())? else {
                return Ok(None);
            };
            let text = &window[..found.len];
            let number = match found.shape {
                Shape::Int => std::str::from_utf8(&text[1..text.len() - 2])
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .unwrap_or(0),
                _ => 0,
            };
            if found.shape == Shape::Error && self.error.is_none() {
                self.error = Some((text[1..text.len() - 2].to_vec(), self.got));
            }
            self.from += found.len;
            self.got += 1;
            if last {
                self.got = 0;
                let answer = match self.error.take() {
                    Some((text, at)) => Answer::Error(text, at),
                    None => Answer::Fine(found.shape, number),
                };
                return Ok(Some((item, answer)));
            }
        }
    }

    /// A copy of an item's bytes.
    pub(super) fn bytes_of(&self, item: &Item) -> Payload {
        let mut pieces = Vec::new();
        let mut small = Vec::new();
        let first = self
            .chunks
            .partition_point(|chunk| chunk.start + chunk.piece.bytes().len() as u64 <= item.start);
        for chunk in self.chunks.range(first..) {
            let bytes = chunk.piece.bytes();
            let from = item.start.saturating_sub(chunk.start) as usize;
            let to = (item.end.saturating_sub(chunk.start) as usize).min(bytes.len());
            if from >= to {
                break;
            }
            match &chunk.piece {
                Piece::Owned(owned) => small.extend_from_slice(&owned[from..to]),
                Piece::Shared(shared) => {
                    if !small.is_empty() {
                        pieces.push(Piece::Owned(std::mem::take(&mut small)));
                    }
                    pieces.push(Piece::Shared(shared.slice(from..to)));
                }
            }
        }
        if pieces.is_empty() {
            return Payload::Small(small);
        }
        if !small.is_empty() {
            pieces.push(Piece::Owned(small));
        }
        Payload::Pieces(pieces)
    }

    /// The first bytes of the front item: enough for its name and its key.
    pub(super) fn head_of(&self, item: &Item, most: usize) -> Vec<u8> {
        self.bytes_of(&Item {
            end: item.end.min(item.start + most as u64),
            ..*item
        })
        .head(most)
    }

    /// Forgets the front item, if it still is this one.
    pub(super) fn release_if(&mut self, item: &Item) {
        if self
            .items
            .front()
            .is_some_and(|front| front.end == item.end)
        {
            self.release();
        }
    }

    /// Forgets the front item.
    #[inline]
    pub(super) fn release(&mut self) {
        let Some(item) = self.items.pop_front() else {
            return;
        };
        self.answered = item.end;
        self.measure();
        if self.allowed > 0 {
            self.allowed -= 1;
            self.allowed_answers -= item.answers;
        }
        while let Some(chunk) = self.chunks.front()
            && chunk.start + chunk.piece.bytes().len() as u64 <= self.answered
            // The last one is still being filled.
            && (self.chunks.len() > 1 || !matches!(chunk.piece, Piece::Owned(_)) || self.items.is_empty())
        {
            if let Some(Chunk {
                piece: Piece::Owned(mut buffer),
                ..
            }) = self.chunks.pop_front()
                && buffer.capacity() <= 2 * CHUNK_BYTES
                && self.spare.len() < 64
            {
                buffer.clear();
                self.spare.push(buffer);
            }
        }
        self.allow();
    }

    /// Takes everything that is not answered, in order, and begins anew without a connection.
    pub(super) fn fail(&mut self) -> Vec<Unsent> {
        let written = self.written;
        let items = std::mem::take(&mut self.items);
        let unsent = items
            .into_iter()
            .filter(|item| item.kind != Kind::Internal)
            .map(|item| Unsent {
                payload: self.bytes_of(&item),
                sent: item.start < written,
                item,
            })
            .collect();
        self.connection = None;
        self.chunks.clear();
        (self.answered, self.written, self.end) = (0, 0, 0);
        self.measured = None;
        (self.allowed, self.allowed_answers, self.allowed_end) = (0, 0, 0);
        (self.from, self.to, self.got, self.error) = (0, 0, 0, None);
        self.input.truncate(READ_BYTES);
        self.selected = 0;
        unsent
    }

    /// How long the server has been silent although it was asked something.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        (self.connection.is_some() && self.written > self.answered)
            .then(|| now.saturating_duration_since(self.heard))
    }

    /// Opens the connection; where it was open before, the server is made to forget the old one first, so that nothing
    /// of it can be applied behind what is sent now.
    pub(super) fn open(&mut self, kills: bool, imports: bool, name: &str) -> Result<()> {
        let mut connection = Connection::open(&self.endpoint)?;
        if imports {
            import::enter(&mut connection)?;
        }
        if kills {
            // Where this does not come to an end, the next attempt has the same to do.
            if let Some(old) = self.client_id {
                // It is gone already, or may not be killed by us: there is no more that can be done.
                let old = old.to_string();
                let answer = connection.call(&[b"CLIENT", b"KILL", b"ID", old.as_bytes()])?;
                if matches!(&answer, Reply::Error(text) if text.starts_with(b"NOPERM")) {
                    // What is on its way must have arrived, or never will.
                    std::thread::sleep(self.endpoint.timeout);
                }
            }
            self.client_id = match connection.call(&[b"CLIENT", b"ID"])? {
                Reply::Int(id) => Some(id),
                _ => None,
            };
            // By this name a later run finds what this one leaves behind. Who may not have one is not found.
            drop(connection.call(&[b"CLIENT", b"SETNAME", name.as_bytes()])?);
        }
        self.connection = Some(connection);
        // What is selected is as it was: commands may wait here already, and the first of them begin where it does.
        self.heard = Instant::now();
        self.down = None;
        Ok(())
    }
}

/// Closes the connections of an earlier part of a run at a server: what they still have on their way must not arrive behind
/// what is sent now.
pub(super) fn close_those_before(endpoint: &Endpoint, name: &str) -> Result<()> {
    let mut connection = Connection::open(endpoint)?;
    let Reply::Bulk(list) = connection.call(&[b"CLIENT", b"LIST"])? else {
        // Who may not look waits: what is on its way must have arrived, or never will.
        std::thread::sleep(endpoint.timeout);
        return Ok(());
    };
    let wanted = format!("name={name}");
    for line in String::from_utf8_lossy(&list).lines() {
        let mut words = line.split(' ');
        let id = words.find_map(|word| word.strip_prefix("id="));
        if let Some(id) = id
            && words.any(|word| word == wanted)
        {
            // It may be gone by itself.
            drop(connection.call(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()])?);
        }
    }
    Ok(())
}
