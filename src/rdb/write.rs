//! Writes a snapshot: what other forms of a data set are brought into before the one decoder reads them.
//!
//! Records come one after the other; the caller sees to their order (FORMAT §2). The checksum is taken along.

use std::io::{self, Write};

use crate::encoding::crc64::Crc64;
use crate::encoding::length::write_length;
use crate::rdb::{Attributes, opcode};

/// Bytes that are gathered before they are written.
const BUFFER: usize = 256 << 10;

/// A snapshot that is being written. What is not finished has no end and no checksum.
pub struct Writer<W: Write> {
    out: W,
    buffer: Vec<u8>,
    crc: Crc64,
    version: u16,
    db: Option<u64>,
}

impl<W: Write> Writer<W> {
    /// Writes the magic: `REDIS` up to version 79, from there on `VALKEY` (FORMAT §1.2).
    pub fn new(out: W, version: u16) -> io::Result<Writer<W>> {
        let mut writer = Writer {
            out,
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            crc: Crc64::new(),
            version,
            db: None,
        };
        let magic = match version {
            80.. => format!("VALKEY{version:03}"),
            _ => format!("REDIS{version:04}"),
        };
        writer.raw(magic.as_bytes())?;
        Ok(writer)
    }

    /// Without a magic: a piece that is put into a snapshot when it is known what stands before it.
    pub fn piece(out: W) -> Writer<W> {
        Writer {
            out,
            buffer: Vec::new(),
            crc: Crc64::new(),
            version: 0,
            db: None,
        }
    }

    /// Gives a piece back.
    pub fn into_piece(mut self) -> io::Result<W> {
        self.flush()?;
        Ok(self.out)
    }

    /// Bytes as they stand.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= BUFFER {
            self.flush()?;
            self.crc.update(bytes);
            return self.out.write_all(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        match self.buffer.len() >= BUFFER {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// A length (FORMAT §2.1).
    pub fn length(&mut self, n: u64) -> io::Result<()> {
        write_length(&mut self.buffer, n);
        Ok(())
    }

    /// A string as it stands, neither packed nor as an integer (FORMAT §2.2).
    pub fn string(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.length(bytes.len() as u64)?;
        self.raw(bytes)
    }

    /// An AUX record.
    pub fn aux(&mut self, name: &[u8], value: &[u8]) -> io::Result<()> {
        self.raw(&[opcode::AUX])?;
        self.string(name)?;
        self.string(value)
    }

    /// A function library, as its source with the first line that names it.
    pub fn function(&mut self, code: &[u8]) -> io::Result<()> {
        self.raw(&[opcode::FUNCTION2])?;
        self.string(code)
    }

    /// Keys that follow are of this database.
    pub fn select(&mut self, db: u64) -> io::Result<()> {
        if self.db != Some(db) {
            self.raw(&[opcode::SELECTDB])?;
            self.length(db)?;
            self.db = Some(db);
        }
        Ok(())
    }

    /// What stands before a value: expiry, idle time and frequency, the type's byte, the name. `meta` is the caller's
    /// to write before.
    pub fn key(&mut self, attributes: &Attributes, ty: u8, name: &[u8]) -> io::Result<()> {
        if let Some(at) = attributes.expire_at_ms {
            self.raw(&[opcode::EXPIRETIME_MS])?;
            self.raw(&at.to_le_bytes())?;
        }
        if let Some(idle) = attributes.idle_secs {
            self.raw(&[opcode::IDLE])?;
            self.length(idle)?;
        }
        if let Some(freq) = attributes.freq {
            self.raw(&[opcode::FREQ, freq])?;
        }
        self.raw(&[ty])?;
        self.string(name)
    }

    /// Ends the file, with its checksum where the version has one, and gives back what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.raw(&[opcode::EOF])?;
        self.flush()?;
        if self.version >= 5 {
            self.out.write_all(&self.crc.value().to_le_bytes())?;
        }
        Ok(self.out)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.crc.update(&self.buffer);
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::scan::{Along, Scanner};

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new(Vec::new(), 11).unwrap();
        writer.aux(b"redis-ver", b"7.2.0").unwrap();
        writer.select(3).unwrap();
        let attributes = Attributes {
            expire_at_ms: Some(1_900_000_000_000),
            idle_secs: Some(77),
            ..Attributes::default()
        };
        writer.key(&attributes, 0, b"name").unwrap();
        writer.string(&vec![b'x'; 1 << 20]).unwrap();
        writer.select(3).unwrap();
        writer.key(&Attributes::default(), 0, b"other").unwrap();
        writer.string(b"").unwrap();
        let file = writer.finish().unwrap();
        let mut scanner = Scanner::new(&file, Along::Check, false, false).unwrap();
        while scanner.next_task().unwrap().is_some() {}
        assert_eq!((scanner.info.keys, scanner.info.trailing), (2, 0));
        assert!(scanner.info.has_checksum);
        assert_eq!(scanner.info.server.as_deref(), Some("Redis 7.2.0"));
    }
}
