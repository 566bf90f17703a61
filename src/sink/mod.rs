//! Where commands go.

pub mod file;
pub mod jsonl;
pub mod server;

use crate::error::Result;
use crate::resp::write::Block;

/// Takes blocks in order.
pub trait Sink: Send {
    /// Writes all of them.
    fn write(&mut self, blocks: &[Block]) -> Result<()>;

    /// Between two keys of a snapshot: all that stands before byte `offset` of the file was given to
    /// [`write`](Self::write). `db` is the database selected there, `keys` how many keys came before.
    fn reached(&mut self, _offset: u64, _db: u64, _keys: u64) -> Result<()> {
        Ok(())
    }
}

/// Into memory, for tests.
impl Sink for Vec<u8> {
    fn write(&mut self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            self.extend_from_slice(block.bytes());
        }
        Ok(())
    }
}
