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
