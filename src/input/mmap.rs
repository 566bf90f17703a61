//! The only file with `unsafe`.
//!
//! The contract: a mapped file must not shrink or be rewritten while it is mapped; a shrunk one ends
//! the program with SIGBUS, a rewritten one changes under the decoder. Redis writes a snapshot aside
//! and renames it, so a save is harmless; a copy onto the same file is not. `--no-mmap` copies first.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;

use memmap2::{Advice, Mmap};

/// A file's bytes, mapped read-only.
#[derive(Debug)]
pub struct Mapped(Option<Mmap>);

impl Mapped {
    /// Maps the whole file; an empty one, which cannot be mapped, is an empty slice.
    pub fn map(file: &File) -> io::Result<Mapped> {
        if file.metadata()?.len() == 0 {
            return Ok(Mapped(None));
        }
        // SAFETY: the module's contract, which callers pass on to the user of `Input::open`.
        let map = unsafe { Mmap::map(file)? };
        // Advice only: where the kernel does not take it, reading is slower and no less right.
        let _ = map.advise(Advice::Sequential);
        Ok(Mapped(Some(map)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}
