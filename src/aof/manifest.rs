//! The manifest of a multi-part AOF (Redis 7.0 on, Valkey): which files, in which order.
//!
//! A text of one line a file, such as `file appendonly.aof.1.incr.aof seq 1 type i`. What a server
//! refuses is refused here; beyond that, numbers must be numbers and names must be names of files in
//! the manifest's own directory, because a manifest may come from somewhere else than a server.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cursor::At;
use crate::error::{Error, ErrorKind, Result, show_key};
use crate::input::directory_of;

/// Bytes of a line, with its LF. Servers read lines into a buffer of this size.
const LINE: usize = 1024;

/// Bytes of a manifest that are read at most: some hundred thousand files.
const MANIFEST_MAX: u64 = 16 << 20;

/// Servers end a name with this and never read one that begins with `temp-`.
const SUFFIX: &[u8] = b".manifest";

/// The prefix of files that are not finished yet.
const TEMPORARY: &[u8] = b"temp-";

/// The files of a log, in the order in which they are loaded: the base, then the incr files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// What the log starts from: a snapshot, or commands. A log may do without.
    pub base: Option<Entry>,
    /// The files of commands, by ascending sequence. The last one is the one that grows.
    pub incr: Vec<Entry>,
    /// Files that a rewrite made obsolete and the server has not removed yet. They are not loaded.
    pub history: Vec<Entry>,
}

/// One file of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file's name, without a directory.
    pub name: Vec<u8>,
    /// Its number, above 0. Base and incr files count independently.
    pub seq: u64,
    /// Replication offset of the server when it opened an incr file (Redis 8). Not a place in the
    /// file.
    pub start_offset: Option<u64>,
    /// Replication offset of the server when it closed the log in order (Redis 8).
    pub end_offset: Option<u64>,
}

impl Manifest {
    /// Reads a manifest's text. Errors: `BadManifest` at the first byte of the line.
    pub fn parse(text: &[u8]) -> Result<Manifest> {
        let bad = |line: usize, at: usize, what: String| {
            Error::new(ErrorKind::BadManifest { line, what }, At::file(at as u64))
        };
        if text.is_empty() {
            return Err(bad(1, 0, "the file is empty".to_owned()));
        }
        let mut manifest = Manifest::default();
        let (mut at, mut line) = (0, 1);
        while at < text.len() {
            let window = &text[at..text.len().min(at + LINE)];
            let end = window.iter().position(|&b| b == b'\n');
            let piece = &window[..end.map_or(window.len(), |end| end + 1)];
            // A comment may be longer than the buffer. Servers take what is left of it for a line of
            // its own, and so must we: it may be an entry to them.
            if piece[0] != b'#' {
                manifest
                    .add(piece)
                    .map_err(|what| bad(line, at, what.to_owned()))?;
            }
            at += piece.len();
            line += usize::from(end.is_some());
        }
        Ok(manifest)
    }

    /// Adds the entry of a line. The error says what is wrong with it.
    fn add(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        if line.contains(&0) {
            return Err("the line holds a NUL byte".to_owned());
        }
        if line.last() != Some(&b'\n') {
            return Err(if line.len() < LINE {
                "the line does not end in a line feed".to_owned()
            } else {
                format!("the line is longer than {LINE} bytes")
            });
        }
        let line = trim(line);
        if line.is_empty() {
            return Err("the line is empty".to_owned());
        }
        let words = words(line)?;
        if words.len() < 6 || words.len() % 2 == 1 {
            return Err(format!(
                "{} word{}, where at least 3 pairs of a key and a value belong",
                words.len(),
                if words.len() == 1 { "" } else { "s" }
            ));
        }
        let (mut name, mut seq, mut kind) = (None, None, None);
        let (mut start_offset, mut end_offset) = (None, None);
        // A key that stands twice counts as it stands last.
        for pair in words.chunks_exact(2) {
            let (key, value) = (pair[0].to_ascii_lowercase(), &pair[1]);
            match key.as_slice() {
                b"file" => {
                    if let Some(why) = name_fault(value) {
                        return Err(format!("the file name {} {why}", show_key(value, false)));
                    }
                    name = Some(value.clone());
                }
                b"seq" => match number(value) {
                    Some(n @ 1..) => seq = Some(n),
                    _ => {
                        return Err(format!(
                            "seq {} is not a number above 0",
                            show_key(value, false)
                        ));
                    }
                },
                b"type" => kind = Some(value),
                b"startoffset" => start_offset = Some(offset("startoffset", value)?),
                b"endoffset" => end_offset = Some(offset("endoffset", value)?),
                // What later versions may add.
                _ => {}
            }
        }
        let missing = |key: &str| format!("the line has no {key}");
        let entry = Entry {
            name: name.ok_or_else(|| missing("file"))?,
            seq: seq.ok_or_else(|| missing("seq"))?,
            start_offset,
            end_offset,
        };
        let kind = kind.ok_or_else(|| missing("type"))?;
        match kind.first() {
            Some(b'b') => match &self.base {
                Some(first) => {
                    return Err(format!(
                        "a second base {}, after {}",
                        show_key(&entry.name, false),
                        show_key(&first.name, false)
                    ));
                }
                None => self.base = Some(entry),
            },
            Some(b'h') => self.history.push(entry),
            Some(b'i') => {
                if let Some(last) = self.incr.last()
                    && entry.seq <= last.seq
                {
                    return Err(format!(
                        "incr file {} has seq {}, which is not above the {} before it",
                        show_key(&entry.name, false),
                        entry.seq,
                        last.seq
                    ));
                }
                self.incr.push(entry);
            }
            _ => {
                return Err(format!(
                    "type {} is none of b, i and h",
                    show_key(kind, false)
                ));
            }
        }
        Ok(())
    }

    /// Reads a manifest in one go: a server replaces it by renaming another one over it. Errors:
    /// `Io`, `BadManifest`, and `OtherKind` for a file that is too large to be one.
    pub fn read(path: &Path) -> Result<Manifest> {
        let failed = |e| Error::io(format!("{} cannot be read", path.display()), e);
        let mut text = Vec::new();
        File::open(path)
            .map_err(failed)?
            .take(MANIFEST_MAX + 1)
            .read_to_end(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MANIFEST_MAX {
            return Err(Error::plain(ErrorKind::OtherKind(
                "no manifest: it has more than 16 MiB",
            )));
        }
        Manifest::parse(&text)
    }

    /// The one manifest of a directory. Errors: `NoManifest`, `SeveralManifests`, `Io`.
    pub fn find(dir: &Path) -> Result<PathBuf> {
        let (mut found, mut other) = (Vec::new(), Vec::new());
        for name in names(dir)? {
            let is_manifest =
                name.as_bytes().ends_with(SUFFIX) && !name.as_bytes().starts_with(TEMPORARY);
            if is_manifest && !dir.join(&name).is_dir() {
                found.push(name);
            } else {
                other.push(name);
            }
        }
        let shown = |names: &[OsString]| names.iter().map(|n| show(n.as_bytes())).collect();
        match &found[..] {
            [name] => Ok(dir.join(name)),
            [] => Err(Error::plain(ErrorKind::NoManifest {
                dir: dir.display().to_string(),
                found: shown(&other),
            })),
            several => Err(Error::plain(ErrorKind::SeveralManifests {
                dir: dir.display().to_string(),
                names: shown(several),
            })),
        }
    }

    /// Where the file of an entry is: beside the manifest. It need not be there. Errors: `BadPart`
    /// for a name with a directory in it or a link that leads out of the manifest's directory.
    pub fn path_of(&self, manifest_path: &Path, entry: &Entry) -> Result<PathBuf> {
        let bad = |why: String| {
            Error::plain(ErrorKind::BadPart {
                name: show(&entry.name),
                why,
            })
        };
        // Parsing saw to it; an entry that was made by hand must not lead elsewhere either.
        if let Some(why) = name_fault(&entry.name) {
            return Err(bad(format!("whose name {why}")));
        }
        let dir = directory_of(manifest_path);
        let path = dir.join(OsStr::from_bytes(&entry.name));
        let failed = |e| Error::io(format!("{} cannot be looked up", path.display()), e);
        match std::fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                let target = path.canonicalize().map_err(failed)?;
                let home = dir.canonicalize().map_err(failed)?;
                if !target.starts_with(home) {
                    return Err(bad(format!(
                        "which is a link that leads out of the directory, to {}",
                        target.display()
                    )));
                }
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        Ok(path)
    }

    /// Files of `dir` that are named as parts of a log and that this manifest does not list, by
    /// name: of another log, or forgotten by a rewrite that failed.
    pub fn foreign(&self, dir: &Path) -> Result<Vec<OsString>> {
        let mut names = names(dir)?;
        names.retain(|name| {
            let name = name.as_bytes();
            let is_part = [&b".base.rdb"[..], b".base.aof", b".incr.aof"]
                .iter()
                .any(|end| name.ends_with(end));
            is_part && !name.starts_with(TEMPORARY) && !self.entries().any(|e| e.name == name)
        });
        Ok(names)
    }

    /// All entries, obsolete ones last.
    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.base.iter().chain(&self.incr).chain(&self.history)
    }
}

/// A word of a manifest, in quotes where it would not be one without.
pub fn append_word(text: &mut Vec<u8>, word: &[u8]) {
    let plain = |b: &u8| matches!(b, b'!'..=b'~') && !matches!(b, b'"' | b'\'' | b'\\');
    if word.iter().all(plain) {
        return text.extend(word);
    }
    text.push(b'"');
    for &b in word {
        match b {
            b'"' | b'\\' => text.extend([b'\\', b]),
            0..b' ' | 0x7f => text.extend(format!("\\x{b:02x}").bytes()),
            _ => text.push(b),
        }
    }
    text.push(b'"');
}

/// All names of a directory, sorted.
fn names(dir: &Path) -> Result<Vec<OsString>> {
    let failed = |e| Error::io(format!("{} cannot be read", dir.display()), e);
    let mut names = std::fs::read_dir(dir)
        .map_err(failed)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    names.sort();
    Ok(names)
}

/// A name in a message: as it is, or quoted and escaped where it would not be plain to read.
fn show(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(plain) if !plain.is_empty() && !plain.contains(|c: char| c.is_control()) => {
            plain.to_owned()
        }
        _ => show_key(name, false),
    }
}

/// Why a name cannot be one of a file in the manifest's directory.
fn name_fault(name: &[u8]) -> Option<&'static str> {
    match name {
        b"" => Some("is empty"),
        b"." | b".." => Some("is a directory"),
        _ if name.contains(&b'/') || name.contains(&b'\\') => {
            Some("is a path, where a plain name belongs")
        }
        _ if name.contains(&0) => Some("holds a NUL byte"),
        _ => None,
    }
}

/// Digits only, up to what servers can hold: they read a sign and ignore what follows the digits,
/// but none of them writes such a thing.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= i64::MAX as u64).then_some(number)
}

fn offset(key: &str, value: &[u8]) -> std::result::Result<u64, String> {
    number(value).ok_or_else(|| format!("{key} {} is not a number", show_key(value, false)))
}

/// Without blanks and line ends on both sides, as servers do it first: a line may end in CR LF.
fn trim(mut line: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    while let [first, rest @ ..] = line
        && blank(first)
    {
        line = rest;
    }
    while let [rest @ .., last] = line
        && blank(last)
    {
        line = rest;
    }
    line
}

/// The words of a line. Within double quotes there are escapes, within single quotes `\'` only; a
/// closing quote must be followed by a blank. A quote may begin inside a word.
fn words(line: &[u8]) -> std::result::Result<Vec<Vec<u8>>, &'static str> {
    // Before a word and after a quote more counts as a blank than what ends a plain word. Valkey 9
    // refuses a vertical tab or a form feed right after a quote; nobody writes any.
    let is_space = |b: u8| matches!(b, b' ' | b'\t'..=b'\r');
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        while let [b, after @ ..] = rest
            && is_space(*b)
        {
            rest = after;
        }
        if rest.is_empty() {
            return Ok(words);
        }
        let mut word = Vec::new();
        let mut quote = None;
        loop {
            let (b, after) = match rest {
                [b, after @ ..] => (*b, after),
                [] if quote.is_some() => return Err("a quote is not closed"),
                [] => break,
            };
            rest = after;
            match (quote, b) {
                (None, b' ' | b'\t' | b'\r' | b'\n') => break,
                (None, b'"' | b'\'') => quote = Some(b),
                (Some(open), close) if open == close => {
                    if rest.first().is_some_and(|&b| !is_space(b)) {
                        return Err("a closing quote is followed by neither a blank nor the end");
                    }
                    break;
                }
                (Some(b'"'), b'\\') => match rest {
                    [b'x', high, low, after @ ..]
                        if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                    {
                        word.push(hex(*high) << 4 | hex(*low));
                        rest = after;
                    }
                    [escaped, after @ ..] => {
                        word.push(match escaped {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'b' => 8,
                            b'a' => 7,
                            other => *other,
                        });
                        rest = after;
                    }
                    [] => return Err("a quote is not closed"),
                },
                (Some(b'\''), b'\\') if rest.first() == Some(&b'\'') => {
                    word.push(b'\'');
                    rest = &rest[1..];
                }
                (_, b) => word.push(b),
            }
        }
        words.push(word);
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, seq: u64) -> Entry {
        Entry {
            name: name.as_bytes().to_vec(),
            seq,
            start_offset: None,
            end_offset: None,
        }
    }

    fn offsets(name: &str, seq: u64, start: u64, end: Option<u64>) -> Entry {
        Entry {
            start_offset: Some(start),
            end_offset: end,
            ..entry(name, seq)
        }
    }

    fn parse(text: &str) -> Manifest {
        Manifest::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text:?}: {e}"))
    }

    /// The message for a text that is refused.
    fn fault(text: impl AsRef<[u8]>) -> String {
        let text = text.as_ref();
        match Manifest::parse(text) {
            Ok(m) => panic!("{}: read as {m:?}", text.escape_ascii()),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::BadManifest { .. }));
                e.to_string()
            }
        }
    }

    /// The name of the only entry, a base.
    fn name(line: &str) -> Vec<u8> {
        parse(line).base.expect("a base").name
    }

    // Files of real servers.

    #[test]
    fn redis_7_and_valkey_with_history() {
        let text = "file appendonly.aof.3.base.rdb seq 3 type b\n\
                    file appendonly.aof.2.incr.aof seq 2 type h\n\
                    file appendonly.aof.2.base.rdb seq 2 type h\n\
                    file appendonly.aof.1.incr.aof seq 1 type h\n\
                    file appendonly.aof.1.base.rdb seq 1 type h\n\
                    file appendonly.aof.3.incr.aof seq 3 type i\n";
        let expected = Manifest {
            base: Some(entry("appendonly.aof.3.base.rdb", 3)),
            incr: vec![entry("appendonly.aof.3.incr.aof", 3)],
            history: vec![
                entry("appendonly.aof.2.incr.aof", 2),
                entry("appendonly.aof.2.base.rdb", 2),
                entry("appendonly.aof.1.incr.aof", 1),
                entry("appendonly.aof.1.base.rdb", 1),
            ],
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn redis_8_with_offsets() {
        let text = "file appendonly.aof.2.base.rdb seq 2 type b\n\
                    file appendonly.aof.2.incr.aof seq 2 type i startoffset 29\n\
                    file appendonly.aof.3.incr.aof seq 3 type i startoffset 30\n\
                    file appendonly.aof.4.incr.aof seq 4 type i startoffset 33 endoffset 39\n";
        let expected = Manifest {
            base: Some(entry("appendonly.aof.2.base.rdb", 2)),
            incr: vec![
                offsets("appendonly.aof.2.incr.aof", 2, 29, None),
                offsets("appendonly.aof.3.incr.aof", 3, 30, None),
                offsets("appendonly.aof.4.incr.aof", 4, 33, Some(39)),
            ],
            history: vec![],
        };
        assert_eq!(parse(text), expected);
    }

    #[test]
    fn redis_8_with_names_that_need_quotes() {
        let text = "file \"my file.aof.2.base.aof\" seq 2 type b\n\
                    file \"my file.aof.2.incr.aof\" seq 2 type i startoffset 2 endoffset 3\n";
        let manifest = parse(text);
        assert_eq!(manifest.base, Some(entry("my file.aof.2.base.aof", 2)));
        let incr = offsets("my file.aof.2.incr.aof", 2, 2, Some(3));
        assert_eq!(manifest.incr, [incr]);
    }

    #[test]
    fn an_upgraded_single_file() {
        let manifest = parse("file appendonly.aof seq 1 type b\n");
        assert_eq!(manifest.base, Some(entry("appendonly.aof", 1)));
        assert!(manifest.incr.is_empty());
    }

    // The grammar.

    #[test]
    fn keys_in_any_case_and_order_and_unknown_ones() {
        assert_eq!(name("tYPE b SEQ 1 file a\n"), b"a");
        assert_eq!(name("file a seq 1 type b later thing\n"), b"a");
        // What stands last counts.
        let twice = parse("file a seq 1 type i file b seq 2 type b\n");
        assert_eq!(twice.base, Some(entry("b", 2)));
    }

    #[test]
    fn the_type_is_its_first_letter() {
        assert!(parse("file a seq 1 type base\n").base.is_some());
        assert_eq!(parse("file a seq 1 type incremental\n").incr.len(), 1);
        assert_eq!(parse("file a seq 1 type h\n").history.len(), 1);
        for kind in ["B", "x", "\"\"", "\"\\x00\""] {
            let text = format!("file a seq 1 type {kind}\n");
            assert!(fault(text).contains("is none of b, i and h"), "{kind}");
        }
    }

    #[test]
    fn comments_are_skipped_and_need_no_line_end() {
        assert_eq!(name("#\n# file x\nfile a seq 1 type b\n#"), b"a");
        assert_eq!(parse("# nothing\n"), Manifest::default());
        assert_eq!(parse("#"), Manifest::default());
        // Only as the first byte.
        assert_eq!(
            fault(" # comment\n"),
            "manifest line 1: 2 words, where at least 3 pairs of a key and a value belong at byte 0x0"
        );
    }

    #[test]
    fn a_comment_longer_than_the_servers_buffer_goes_on_as_a_line() {
        let head = format!("#{}", "-".repeat(LINE - 1));
        assert_eq!(parse(&format!("{head}#more\n")), Manifest::default());
        let manifest = parse(&format!("{head}file a seq 1 type b\n"));
        assert_eq!(manifest.base, Some(entry("a", 1)));
        let text = format!("#\n{head} more\n");
        assert_eq!(
            fault(text),
            "manifest line 2: 1 word, where at least 3 pairs of a key and a value belong at byte 0x402"
        );
    }

    #[test]
    fn line_ends() {
        assert_eq!(name("file a seq 1 type b\r\n"), b"a");
        assert_eq!(name(" \t file a\tseq  1 type b \t \r\r\n"), b"a");
        let why = "does not end in a line feed";
        assert!(fault("file a seq 1 type b").contains(why));
        let second = fault("file a seq 1 type b\nfile b seq 1 type i");
        assert_eq!(
            second,
            "manifest line 2: the line does not end in a line feed at byte 0x14"
        );
    }

    #[test]
    fn empty_files_and_lines() {
        assert!(fault("").contains("the file is empty"));
        for text in ["\n", " \t\r\n", "file a seq 1 type b\n\n", "#\n\n"] {
            assert!(fault(text).contains("the line is empty"), "{text:?}");
        }
        assert!(fault("\x0b\n").contains("0 words"));
    }

    #[test]
    fn the_line_limit_counts_the_line_feed() {
        let line = |len: usize| {
            let start = "file a seq 1 type b x ";
            format!("{start}{}\n", "y".repeat(len - start.len() - 1))
        };
        assert_eq!(name(&line(LINE)), b"a");
        assert!(fault(line(LINE + 1)).contains("longer than 1024 bytes"));
    }

    #[test]
    fn numbers_of_words() {
        for text in [
            "file\n",
            "file a seq 1\n",
            "file a seq 1 type\n",
            "file a seq 1 type b x\n",
        ] {
            assert!(fault(text).contains(" word"), "{text}");
        }
        assert!(fault("file a seq 1 x y\n").contains("no type"));
        assert!(fault("file a type b x y\n").contains("no seq"));
        assert!(fault("type b seq 1 x y\n").contains("no file"));
    }

    #[test]
    fn sequences() {
        for seq in [
            "0",
            "-1",
            "+1",
            "x",
            "1x",
            "\"\"",
            "\" 1\"",
            "9223372036854775808",
        ] {
            let text = format!("file a seq {seq} type b\n");
            assert!(fault(text).contains("is not a number above 0"), "{seq}");
        }
        let most = parse("file a seq 9223372036854775807 type b\n");
        assert_eq!(most.base.map(|b| b.seq), Some(i64::MAX as u64));
        assert_eq!(
            parse("file a seq 007 type b\n").base.map(|b| b.seq),
            Some(7)
        );
        assert!(fault("file a seq 1 type i startoffset x\n").contains("startoffset \"x\""));
        assert!(fault("file a seq 1 type i endoffset -1\n").contains("endoffset \"-1\""));
    }

    #[test]
    fn one_base_and_rising_incr_files() {
        assert_eq!(
            fault("file a seq 1 type b\nfile b seq 2 type b\n"),
            "manifest line 2: a second base \"b\", after \"a\" at byte 0x14"
        );
        let gap = parse("file a seq 2 type i\nfile h seq 1 type h\nfile b seq 9 type i\n");
        assert_eq!(gap.incr.len(), 2);
        for second in [1, 2] {
            let text = format!("file a seq 2 type i\nfile b seq {second} type i\n");
            assert!(fault(text).contains("is not above the 2 before it"));
        }
        // The base counts on its own.
        assert_eq!(
            parse("file a seq 9 type b\nfile b seq 1 type i\n")
                .incr
                .len(),
            1
        );
    }

    #[test]
    fn quotes() {
        let of = |word: &str| name(&format!("file {word} seq 1 type b\n"));
        assert_eq!(of("\"a b\""), b"a b");
        assert_eq!(of(r#""\n\r\t\b\a\q\"\x4A\xfF""#), b"\n\r\t\x08\x07q\"J\xff");
        // Not two digits: an escaped x.
        assert_eq!(of(r#""\x4g""#), b"x4g");
        assert_eq!(of(r#"'a"b\'c d'"#), b"a\"b'c d");
        // A quote begins inside a word as well, and ends it.
        assert_eq!(of("a\"b c\""), b"ab c");
        assert_eq!(of("a'b c'"), b"ab c");
        // A vertical tab belongs to a plain word and is a blank after a quote.
        assert_eq!(of("a\x0bb"), b"a\x0bb");
        assert_eq!(name("file \"a\"\x0bseq 1 type b\n"), b"a");
        // Other words may be quoted, too.
        assert_eq!(name("\"FILE\" a 'seq' \"1\" type 'b'\n"), b"a");
        for word in ["\"a", "'a", "\"a\\\"", "\"a\\", "'a\\'", "a\"", "\"a'"] {
            let text = format!("seq 1 type b file {word}\n");
            assert!(fault(&text).contains("a quote is not closed"), "{text}");
        }
        for word in ["\"a\"b", "'a'b", "\"a\"\"b\"", "'a''b'"] {
            let text = format!("file {word} seq 1 type b\n");
            assert!(fault(&text).contains("followed by neither"), "{text}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere() {
        for (word, why) in [
            ("a/b", "is a path"),
            ("/a", "is a path"),
            ("../a", "is a path"),
            ("a\\b", "is a path"),
            ("\"a\\x2fb\"", "is a path"),
            ("\"a\\\\b\"", "is a path"),
            (".", "is a directory"),
            ("..", "is a directory"),
            ("\"\"", "is empty"),
            ("\"a\\x00b\"", "holds a NUL byte"),
        ] {
            let text = format!("file {word} seq 1 type b\n");
            assert!(fault(&text).contains(why), "{word}: {}", fault(&text));
        }
        // The first one is looked at even if another one follows it.
        assert!(fault("file a/b seq 1 type b file a\n").contains("is a path"));
        assert_eq!(
            fault(&b"file a seq 1 type b\x00\n"[..]),
            "manifest line 1: the line holds a NUL byte at byte 0x0"
        );
    }

    #[test]
    fn no_text_panics() {
        // Numbers that look random and are the same in every run (xorshift).
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let pieces: [&[u8]; 20] = [
            b"file ", b"seq ", b"type ", b"a", b"1", b"b", b"i", b"h", b" ", b"\n", b"\r\n", b"\"",
            b"'", b"\\", b"\\x4", b"#", b"\0", b"/", b"\xff", b"\x0b",
        ];
        let mut read = 0;
        for round in 0..20_000 {
            let mut text = Vec::new();
            if round % 4 == 0 {
                for _ in 0..next() % 3000 {
                    text.push(next() as u8);
                }
            } else {
                for _ in 0..next() % 40 {
                    text.extend_from_slice(pieces[next() as usize % pieces.len()]);
                }
            }
            if let Err(e) = Manifest::parse(&text) {
                let at = e.at().expect("a place").offset;
                assert!(at <= text.len() as u64);
            } else {
                read += 1;
            }
        }
        // Comments at least are texts without a fault.
        assert!(read > 0);
    }

    // Files.

    #[test]
    fn finds_the_one_manifest() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path();
        let message = |path: &Path| Manifest::find(path).expect_err("no manifest").to_string();
        assert!(message(path).ends_with(" holds no *.manifest: it is empty"));
        for name in ["temp-a.manifest", "dump.rdb", "a.manifest.bak"] {
            std::fs::write(path.join(name), "").expect("a file");
        }
        std::fs::create_dir(path.join("dir.manifest")).expect("a directory");
        let text = message(path);
        assert!(
            text.ends_with("it holds a.manifest.bak, dir.manifest, dump.rdb, temp-a.manifest"),
            "{text}"
        );
        std::fs::write(path.join("a.manifest"), "#\n").expect("a file");
        assert_eq!(Manifest::find(path).expect("one"), path.join("a.manifest"));
        std::fs::write(path.join("b.manifest"), "#\n").expect("a file");
        let text = message(path);
        assert!(
            text.ends_with("several manifests: a.manifest, b.manifest"),
            "{text}"
        );
        for i in 0..20 {
            std::fs::write(path.join(format!("c{i:02}.manifest")), "").expect("a file");
        }
        assert!(message(path).ends_with("and 14 more"), "{}", message(path));
        let missing = Manifest::find(&path.join("nowhere")).expect_err("no directory");
        assert!(matches!(missing.kind(), ErrorKind::Io { .. }));
    }

    #[test]
    fn reads_a_file_and_refuses_a_huge_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.manifest");
        assert!(matches!(
            Manifest::read(&path).expect_err("missing").kind(),
            ErrorKind::Io { .. }
        ));
        std::fs::write(&path, "file a seq 1 type b\n").expect("a file");
        assert_eq!(
            Manifest::read(&path).expect("a manifest").base,
            Some(entry("a", 1))
        );
        let file = File::create(&path).expect("a file");
        file.set_len(MANIFEST_MAX + 1).expect("its size");
        let error = Manifest::read(&path).expect_err("too large");
        assert_eq!(error.to_string(), "no manifest: it has more than 16 MiB");
        assert!(Manifest::read(dir.path()).is_err());
    }

    #[test]
    fn parts_stand_beside_the_manifest() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().expect("a directory");
        let dir = root.path().join("aof");
        std::fs::create_dir(&dir).expect("a directory");
        let at = dir.join("a.manifest");
        let manifest = Manifest::default();
        let path = |name: &str| manifest.path_of(&at, &entry(name, 1));
        assert_eq!(path("missing").expect("a path"), dir.join("missing"));
        std::fs::write(dir.join("plain"), "").expect("a file");
        assert_eq!(path("plain").expect("a path"), dir.join("plain"));
        symlink("plain", dir.join("inside")).expect("a link");
        assert_eq!(path("inside").expect("a path"), dir.join("inside"));
        std::fs::write(root.path().join("secret"), "").expect("a file");
        symlink("../secret", dir.join("out")).expect("a link");
        let text = path("out").expect_err("leads out").to_string();
        assert!(
            text.starts_with("the manifest lists out, which is a link that leads out of")
                && text.ends_with("secret"),
            "{text}"
        );
        symlink("out", dir.join("twice")).expect("a link");
        assert!(path("twice").is_err());
        symlink("nowhere", dir.join("dangling")).expect("a link");
        assert!(path("dangling").is_err());
        for name in ["", "..", "a/b", "/etc/passwd", "a\0b"] {
            assert!(path(name).is_err(), "{name}");
        }
        // The directory itself may be reached by a link.
        symlink(&dir, root.path().join("link")).expect("a link");
        let by_link = root.path().join("link");
        let found = manifest.path_of(&by_link.join("a.manifest"), &entry("inside", 1));
        assert_eq!(found.expect("a path"), by_link.join("inside"));
        let here = manifest.path_of(Path::new("a.manifest"), &entry("no such file", 1));
        assert_eq!(here.expect("a path"), Path::new("./no such file"));
    }

    #[test]
    fn parts_that_the_manifest_does_not_list() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in [
            "b.1.incr.aof",
            "a.1.base.rdb",
            "a.2.base.aof",
            "a.1.incr.aof",
            "a.3.incr.aof",
            "temp-a.1.incr.aof",
            "temp-rewriteaof-bg-7.aof",
            "a.manifest",
            "dump.rdb",
        ] {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        let manifest = parse(
            "file a.1.base.rdb seq 1 type h\nfile a.2.base.aof seq 2 type b\nfile a.3.incr.aof seq 3 type i\n",
        );
        assert_eq!(
            manifest.foreign(dir.path()).expect("names"),
            ["a.1.incr.aof", "b.1.incr.aof"]
        );
    }
}
