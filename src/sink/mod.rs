//! Where commands go.

pub mod file;

use crate::error::Result;
use crate::resp::write::Block;

/// Takes blocks in order.
pub trait Sink: Send {
    /// Writes all of them.
    fn write(&mut self, blocks: &[Block]) -> Result<()>;
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
