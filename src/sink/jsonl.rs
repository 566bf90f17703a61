//! Commands of a log → JSON lines (`src/jsonl/format.md`), on their way into another sink.
//!
//! What comes is RESP as this program writes it, cut anywhere, with `#TS:` lines between the commands. An argument goes
//! out as it comes, so that a large one is never held whole.

use std::sync::atomic::Ordering::Relaxed;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;

use super::Sink;
use crate::error::{Error, ErrorKind, Result};
use crate::jsonl::text::{GIANT, name, uint};
use crate::pipeline::Progress;
use crate::resp::write::Block;

/// Bytes that are handed on at once.
const BLOCK_BYTES: usize = 256 << 10;
/// Bytes of a giant that become base64 at once: a multiple of three.
const PIECE: usize = 48 << 10;
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n";

/// Turns commands into lines.
pub struct JsonLines<'a> {
    sink: &'a mut dyn Sink,
    progress: &'a Progress,
    /// What came and is not understood yet.
    input: Vec<u8>,
    lines: Vec<u8>,
    db: u64,
    at: At,
    /// Lines so far.
    pub count: u64,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum At {
    Record,
    /// An argument; so many are to come, and whether it is the first.
    Argument {
        left: u64,
        first: bool,
    },
    /// The rest of a giant, and how many arguments are to come behind it.
    Giant {
        bytes: usize,
        left: u64,
    },
}

impl<'a> JsonLines<'a> {
    /// In database 0, as a log begins.
    pub fn new(sink: &'a mut dyn Sink, progress: &'a Progress) -> JsonLines<'a> {
        JsonLines {
            sink,
            progress,
            input: Vec::new(),
            lines: Vec::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 4),
            db: 0,
            at: At::Record,
            count: 0,
        }
    }

    /// Writes what is whole.
    pub fn flush(&mut self) -> Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let used = self.lines.len();
        let block = Block::Owned {
            buffer: std::mem::take(&mut self.lines),
            used,
        };
        let result = self.sink.write(std::slice::from_ref(&block));
        self.progress.bytes_out.fetch_add(used as u64, Relaxed);
        if let Block::Owned { mut buffer, .. } = block {
            buffer.clear();
            self.lines = buffer;
        }
        result
    }

    /// Takes what is understood, as far as there is enough of it.
    fn go_on(&mut self) -> Result<()> {
        let input = std::mem::take(&mut self.input);
        let mut pos = 0;
        while let Some(n) = self.step(&input[pos..])? {
            pos += n;
            if self.lines.len() >= BLOCK_BYTES {
                self.flush()?;
            }
        }
        self.input = input;
        self.input.drain(..pos);
        Ok(())
    }

    /// Takes the next piece and gives its length; `None` where more has to come first.
    fn step(&mut self, input: &[u8]) -> Result<Option<usize>> {
        match self.at {
            At::Record => self.record(input),
            At::Argument { left, first } => self.argument(input, left, first),
            At::Giant { bytes, left } => {
                let n = bytes.min(PIECE);
                if input.len() < n {
                    return Ok(None);
                }
                self.lines
                    .extend_from_slice(STANDARD.encode(&input[..n]).as_bytes());
                if n < bytes {
                    let bytes = bytes - n;
                    self.at = At::Giant { bytes, left };
                    return Ok(Some(n));
                }
                if input.len() < n + 2 {
                    // The piece is written again when its line end is there.
                    self.lines.truncate(self.lines.len() - n.div_ceil(3) * 4);
                    return Ok(None);
                }
                self.lines.extend_from_slice(b"\"}");
                self.ended(left);
                Ok(Some(n + 2))
            }
        }
    }

    fn record(&mut self, input: &[u8]) -> Result<Option<usize>> {
        let Some(end) = memchr(b'\n', input) else {
            return Ok(None);
        };
        let line = &input[..end + 1];
        if let Some(time) = line.strip_prefix(b"#TS:") {
            self.lines.extend_from_slice(b"{\"time\":");
            self.lines.extend_from_slice(time.trim_ascii());
            self.lines.extend_from_slice(b"}\n");
            self.count += 1;
            return Ok(Some(line.len()));
        }
        let so_far = input.len().min(SELECT.len());
        if input[..so_far] == SELECT[..so_far] {
            let mut lines = input
                .get(SELECT.len()..)
                .unwrap_or_default()
                .splitn(3, |b| *b == b'\n');
            let (Some(len), Some(db), Some(_)) = (lines.next(), lines.next(), lines.next()) else {
                return Ok(None);
            };
            self.db = number(db)?;
            return Ok(Some(SELECT.len() + len.len() + db.len() + 2));
        }
        let count = line.strip_prefix(b"*").ok_or_else(broken)?;
        self.lines.extend_from_slice(b"{\"db\":");
        uint(&mut self.lines, self.db);
        self.lines.extend_from_slice(b",\"command\":[");
        self.at = At::Argument {
            left: number(count)?,
            first: true,
        };
        Ok(Some(line.len()))
    }

    fn argument(&mut self, input: &[u8], left: u64, first: bool) -> Result<Option<usize>> {
        let Some(end) = memchr(b'\n', input) else {
            return Ok(None);
        };
        let len = number(input[..end].strip_prefix(b"$").ok_or_else(broken)?)? as usize;
        let start = end + 1;
        let separator: &[u8] = if first { b"" } else { b"," };
        if len >= GIANT {
            self.lines.extend_from_slice(separator);
            self.lines.extend_from_slice(b"{\"base64\":\"");
            self.at = At::Giant { bytes: len, left };
            return Ok(Some(start));
        }
        let Some(argument) = input.get(start..start + len + 2) else {
            return Ok(None);
        };
        self.lines.extend_from_slice(separator);
        name(&mut self.lines, &argument[..len]);
        self.ended(left);
        Ok(Some(start + len + 2))
    }

    /// An argument was the next of `left`.
    fn ended(&mut self, left: u64) {
        self.at = match left {
            0 | 1 => {
                self.lines.extend_from_slice(b"]}\n");
                self.count += 1;
                At::Record
            }
            _ => At::Argument {
                left: left - 1,
                first: false,
            },
        };
    }
}

fn number(text: &[u8]) -> Result<u64> {
    std::str::from_utf8(text.trim_ascii())
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(broken)
}

/// Only what this program wrote itself comes here, so it cannot be.
#[cold]
fn broken() -> Error {
    Error::plain(ErrorKind::OtherKind(
        "commands are not in the form in which they are written",
    ))
}

impl Sink for JsonLines<'_> {
    fn write(&mut self, blocks: &[Block]) -> Result<()> {
        for block in blocks {
            self.input.extend_from_slice(block.bytes());
            self.go_on()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::write::append_command;

    fn lines(input: &[u8], piece: usize) -> String {
        let mut sink = Vec::new();
        let progress = Progress::default();
        let mut lines = JsonLines::new(&mut sink, &progress);
        for piece in input.chunks(piece) {
            let block = Block::Owned {
                buffer: piece.to_vec(),
                used: piece.len(),
            };
            lines.write(&[block]).unwrap();
        }
        lines.flush().unwrap();
        assert!(lines.input.is_empty());
        assert_eq!(progress.bytes_out.load(Relaxed), sink.len() as u64);
        String::from_utf8(sink).unwrap()
    }

    #[test]
    fn commands_become_lines_wherever_they_are_cut() {
        let mut input = Vec::new();
        append_command(&mut input, &[b"SET", b"a\r\n", b"\xff"]);
        input.extend_from_slice(b"#TS:1700000000\r\n");
        append_command(&mut input, &[b"SELECT", b"11"]);
        append_command(&mut input, &[b"MULTI"]);
        append_command(&mut input, &[b"SET", b"", b"$1\r\n"]);
        append_command(&mut input, &[b"EXEC"]);
        append_command(&mut input, &[b"SELECT", b"0"]);
        append_command(&mut input, &[b"DEL", b"SELECT"]);
        let expected = concat!(
            r#"{"db":0,"command":["SET","a\r\n",{"base64":"/w=="}]}"#,
            "\n{\"time\":1700000000}\n",
            r#"{"db":11,"command":["MULTI"]}"#,
            "\n",
            r#"{"db":11,"command":["SET","","$1\r\n"]}"#,
            "\n",
            r#"{"db":11,"command":["EXEC"]}"#,
            "\n",
            r#"{"db":0,"command":["DEL","SELECT"]}"#,
            "\n",
        );
        for piece in 1..input.len() + 1 {
            assert_eq!(lines(&input, piece), expected, "{piece}");
        }
    }

    #[test]
    fn giants_pass_piece_by_piece() {
        for more in [0, 1, 2] {
            let giant: Vec<u8> = (0..GIANT + more).map(|n| n as u8).collect();
            let mut input = Vec::new();
            append_command(&mut input, &[b"SET", &giant, b"v"]);
            let base64 = STANDARD.encode(&giant);
            let expected =
                format!("{{\"db\":0,\"command\":[\"SET\",{{\"base64\":\"{base64}\"}},\"v\"]}}\n");
            for piece in [1000, 49_153, input.len() - 1, input.len()] {
                assert!(lines(&input, piece) == expected, "{more} {piece}");
            }
        }
    }
}
