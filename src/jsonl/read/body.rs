//! A value whose number of elements is known at its end only.

use std::io::{self, Write};

use crate::error::Result;
use crate::input::{Mapped, Spool};

/// A larger value waits in a temporary file.
const IN_MEMORY: usize = 4 << 20;

/// Bytes that wait for what stands before them.
#[derive(Debug, Default)]
pub(super) struct Body {
    buffer: Vec<u8>,
    spool: Option<Spool>,
}

impl Body {
    /// For the next value.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.spool = None;
    }

    /// Gives what was written to `f`.
    pub fn with<T>(&mut self, f: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let Some(mut spool) = self.spool.take() else {
            return Ok(f(&self.buffer));
        };
        spool.write(&self.buffer)?;
        let map: Mapped = spool.into_map()?;
        Ok(f(map.bytes()))
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() > IN_MEMORY {
            let spool = match &mut self.spool {
                Some(spool) => spool,
                none => none.insert(Spool::create().map_err(io::Error::other)?),
            };
            spool.write(&self.buffer).map_err(io::Error::other)?;
            self.buffer.clear();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
