//! The bytes of a command that is kept until it is answered.

use bytes::Bytes;

use crate::error::Result;
use crate::input::Spool;

/// A command's bytes: in memory, or as pieces of a mapped file.
#[derive(Debug, Clone)]
pub(super) enum Payload {
    Small(Vec<u8>),
    Pieces(Vec<Piece>),
}

#[derive(Debug, Clone)]
pub(super) enum Piece {
    Owned(Vec<u8>),
    Shared(Bytes),
}

impl Piece {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Piece::Owned(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

impl Payload {
    pub(super) fn len(&self) -> usize {
        match self {
            Payload::Small(bytes) => bytes.len(),
            Payload::Pieces(pieces) => pieces.iter().map(|p| p.bytes().len()).sum(),
        }
    }

    /// Its bytes in order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (one, many) = match self {
            Payload::Small(bytes) => (Some(&bytes[..]), &[][..]),
            Payload::Pieces(pieces) => (None, &pieces[..]),
        };
        one.into_iter().chain(many.iter().map(Piece::bytes))
    }

    /// Its first bytes, at most so many: what names and keys are read from.
    pub(super) fn head(&self, most: usize) -> Vec<u8> {
        let mut head = Vec::new();
        for piece in self.pieces() {
            let room = most - head.len();
            head.extend_from_slice(&piece[..piece.len().min(room)]);
            if head.len() == most {
                break;
            }
        }
        head
    }

    /// All of it in one place, for what is known to be small.
    pub(super) fn into_vec(self) -> Vec<u8> {
        match self {
            Payload::Small(bytes) => bytes,
            pieces => {
                let mut all = Vec::with_capacity(pieces.len());
                for piece in pieces.pieces() {
                    all.extend_from_slice(piece);
                }
                all
            }
        }
    }
}

/// More than this of a command is not kept in memory but in a temporary file.
const SPOOL_FROM: usize = 4 << 20;

/// Puts a command together from pieces that come one after the other.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pieces: Vec<Piece>,
    /// Bytes of the last piece, while it grows.
    open: Vec<u8>,
    spool: Option<(Spool, usize)>,
    len: u64,
}

impl Assembly {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        if let Some((spool, len)) = &mut self.spool {
            spool.write(bytes)?;
            *len += bytes.len();
            return Ok(());
        }
        self.open.extend_from_slice(bytes);
        if self.open.len() > SPOOL_FROM {
            let mut spool = Spool::create()?;
            spool.write(&self.open)?;
            self.spool = Some((spool, self.open.len()));
            self.open = Vec::new();
        }
        Ok(())
    }

    /// Appends bytes that are not copied.
    pub(super) fn share(&mut self, bytes: Bytes) -> Result<()> {
        self.len += bytes.len() as u64;
        self.close()?;
        self.pieces.push(Piece::Shared(bytes));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        if let Some((spool, _)) = self.spool.take() {
            let map = Bytes::from_owner(spool.into_map()?);
            self.pieces.push(Piece::Shared(map));
        }
        if !self.open.is_empty() {
            self.pieces
                .push(Piece::Owned(std::mem::take(&mut self.open)));
        }
        Ok(())
    }

    /// What came together; begins anew.
    pub(super) fn take(&mut self) -> Result<Payload> {
        self.len = 0;
        if self.pieces.is_empty() && self.spool.is_none() {
            return Ok(Payload::Small(std::mem::take(&mut self.open)));
        }
        self.close()?;
        Ok(Payload::Pieces(std::mem::take(&mut self.pieces)))
    }
}
