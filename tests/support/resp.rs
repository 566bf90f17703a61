//! Command files: written, and read back to see what the program put there.

use std::collections::BTreeSet;

/// Appends one command in the form servers read.
pub(crate) fn append_command(out: &mut Vec<u8>, args: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// A log of these lines: a command of words each, or what begins with `#` as it stands.
pub(crate) fn log(lines: &[impl AsRef<str>]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines.iter().map(AsRef::as_ref) {
        if line.starts_with('#') {
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(b"\r\n");
        } else {
            let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
            append_command(&mut out, &words);
        }
    }
    out
}

/// A log of the commands that `|` parts.
pub(crate) fn log_of(script: &str) -> Vec<u8> {
    log(&script.split('|').collect::<Vec<_>>())
}

/// The commands of a file, each as one line of its words.
pub(crate) fn lines(bytes: &[u8]) -> Vec<String> {
    commands(bytes)
        .iter()
        .map(|args| args.join(&b' ').escape_ascii().to_string())
        .collect()
}

/// The commands of a file. Anything that is not a whole command fails the test: a file must never end in half of one.
pub(crate) fn commands(mut bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let count = number(&mut bytes, b'*');
        let mut args = Vec::with_capacity(count);
        for _ in 0..count {
            let len = number(&mut bytes, b'$');
            assert!(bytes.len() >= len + 2, "the file ends inside an argument");
            args.push(bytes[..len].to_vec());
            assert_eq!(
                &bytes[len..len + 2],
                b"\r\n",
                "an argument is longer than it says"
            );
            bytes = &bytes[len + 2..];
        }
        commands.push(args);
    }
    commands
}

fn number(bytes: &mut &[u8], mark: u8) -> usize {
    assert_eq!(
        bytes[0],
        mark,
        "{:?} begins here",
        String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
    );
    let end = bytes
        .iter()
        .position(|b| *b == b'\r')
        .expect("the end of a line");
    let text = std::str::from_utf8(&bytes[1..end]).expect("digits");
    assert_eq!(bytes[end + 1], b'\n');
    *bytes = &bytes[end + 2..];
    text.parse().expect("a number")
}

/// The records of a whole log: where each ends, and a command's name; none for a `#` line. Read here by itself, so that
/// the program's own reading is held against something.
pub(crate) fn records(bytes: &[u8]) -> Vec<(usize, Option<Vec<u8>>)> {
    let line_end = |from: usize| {
        let lf = bytes[from..].iter().position(|b| *b == b'\n');
        from + lf.expect("a line end") + 1
    };
    let number = |from: usize, to: usize| -> usize {
        let digits = std::str::from_utf8(&bytes[from + 1..to - 2]).expect("digits");
        digits.parse().expect("a number")
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = line_end(at);
        if bytes[at] == b'#' {
            at = end;
            found.push((at, None));
            continue;
        }
        let argc = number(at, end);
        let mut name = None;
        at = end;
        for _ in 0..argc {
            let end = line_end(at);
            let len = number(at, end);
            name.get_or_insert_with(|| bytes[end..end + len].to_ascii_uppercase());
            at = end + len + 2;
        }
        found.push((at, name));
    }
    found
}

/// Where a log has nothing unfinished: its beginning, and behind every record that is in no transaction.
pub(crate) fn boundaries(bytes: &[u8]) -> Vec<usize> {
    let mut found = vec![0];
    let mut inside = false;
    for (end, name) in records(bytes) {
        inside = match name.as_deref() {
            Some(b"MULTI") => true,
            Some(b"EXEC") => false,
            _ => inside,
        };
        if !inside {
            found.push(end);
        }
    }
    found
}

/// The keys a command file writes, with their databases.
pub(crate) fn keys(bytes: &[u8]) -> BTreeSet<(u64, Vec<u8>)> {
    let mut db = 0;
    let mut keys = BTreeSet::new();
    for args in commands(bytes) {
        match args[0].as_slice() {
            b"SELECT" => {
                db = std::str::from_utf8(&args[1])
                    .expect("a number")
                    .parse()
                    .expect("a database")
            }
            b"FUNCTION" => {}
            b"XGROUP" => {
                keys.insert((db, args[2].clone()));
            }
            _ => {
                keys.insert((db, args[1].clone()));
            }
        }
    }
    keys
}

/// The keys of database 0 as text, for short expectations.
pub(crate) fn key_names(bytes: &[u8]) -> Vec<String> {
    keys(bytes)
        .into_iter()
        .map(|(_, key)| String::from_utf8_lossy(&key).into_owned())
        .collect()
}
