//! The original's command line: single-dash words without a subcommand, rewritten into those of `migrate`, where there is
//! a source, or of `replay`.

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command, CommandFactory};

use crate::args::Cli;
use crate::target;

/// What `-h` prints among the original's words, and what the help of the program ends with.
pub const USAGE: &str = "\
The original's options work without a subcommand; the next word is the value, in any order:
  -sip HOST      the source, whose replica this becomes; without it, files are sent
  -sport PORT    its port
  -sauth PASS    its password; REDIS_MIGRATION_SOURCE_AUTH keeps it out of the list of processes
  -dip HOST      the destination, a twemproxy or a server
  -dport PORT    its port
  -dauth PASS    its password; REDISCLI_AUTH keeps it out of the list of processes
  -rdb FILE      the snapshot, sent first; with a source it is received to FILE, default: dump.rdb
  -aof FILE      what was done since, sent when the destination has acknowledged the snapshot;
                 with a source it is received to FILE, default: appendonly.aof
  -client N      connections; default: 5
  -h, -v         this text, the version
The long flags of migrate, or of replay, may stand among them, for example --on-exist replace.

  redis-migration -sip 10.0.0.1 -sport 6379 -dip 127.0.0.1 -dport 22121 -client 100
  redis-migration -dip 127.0.0.1 -dport 22121 -rdb dump.rdb -aof appendonly.aof -client 100";

/// The words that take a value. `-h` and `-v` do not, and are not of the original alone.
const WORDS: [&str; 9] = [
    "-sip", "-sport", "-sauth", "-dip", "-dport", "-dauth", "-rdb", "-aof", "-client",
];

/// As many as --connections takes.
const CLIENTS_MAX: u16 = 1024;

/// What the original's words ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Classic {
    /// A replay or a live migration: the words that ask for it today, the program's name before them.
    Today(Vec<OsString>),
    /// The usage text.
    Help,
    /// The version.
    Version,
    /// Nothing that can be done, and the sentence that says so.
    Wrong(String),
}

/// Whether a command line is the original's: it has no subcommand, and one of the original's words.
pub fn is_classic(words: &[OsString]) -> bool {
    let [_, rest @ ..] = words else {
        return false;
    };
    match rest {
        [] => false,
        [word] if word == "-v" => true,
        [first, ..] => {
            let subcommand = first == "help"
                || Cli::command()
                    .get_subcommands()
                    .any(|s| first == s.get_name());
            !subcommand && rest.iter().any(|word| is_word(word))
        }
    }
}

/// Whether a word is one of the original's that take a value.
pub fn is_word(word: &OsStr) -> bool {
    WORDS.iter().any(|known| word == *known)
}

/// Rewrites the original's command line. Passwords appear in no sentence.
pub fn rewrite(words: &[OsString]) -> Classic {
    read(words).unwrap_or_else(Classic::Wrong)
}

fn read(words: &[OsString]) -> Result<Classic, String> {
    let mut program = Cli::command();
    program.build();
    let is_live = words.iter().any(|word| {
        ["-sip", "-sport", "-sauth"]
            .iter()
            .any(|live| *word == *live)
    });
    let name = if is_live { "migrate" } else { "replay" };
    let today = program.find_subcommand(name).expect("a subcommand");

    let (mut from_host, mut from_port, mut from_password) = (None, None, None);
    let (mut host, mut port, mut password, mut clients) = (None, None, None, None);
    let (mut rdb, mut aof) = (None, None);
    let mut passed: Vec<OsString> = Vec::new();
    let mut rest = words.iter().skip(1).peekable();
    // What follows a password that was not quoted may be the rest of it.
    let mut behind_password = false;
    while let Some(word) = rest.next() {
        let secret = std::mem::replace(&mut behind_password, false);
        if is_word(word) {
            let name = word.to_str().expect("it equals one of the words");
            let value = value(name, rest.next())?;
            match name {
                "-sip" => from_host = Some(value),
                "-sport" => from_port = Some(number(name, value, u16::MAX)?),
                "-dip" => host = Some(value),
                "-dport" => port = Some(number(name, value, u16::MAX)?),
                "-client" => clients = Some(number(name, value, CLIENTS_MAX)?),
                // Of two values the last one counts, but a file that was named must not be left out.
                "-rdb" if rdb.is_none() => rdb = Some(value),
                "-aof" if aof.is_none() => aof = Some(value),
                "-rdb" | "-aof" => {
                    return Err(format!("{name} is given twice; it takes one file"));
                }
                _ => {
                    behind_password = true;
                    match name {
                        "-dauth" => password = Some(value),
                        _ => from_password = Some(value),
                    }
                }
            }
            continue;
        }
        match word.to_str() {
            // It is the host with redis-cli. A script that meant it so must not take the usage text for success.
            Some("-h") if rest.peek().is_some_and(|next| !is_flag(next)) => {
                return Err(
                    "-h is help here and takes no value; the destination is -dip".to_owned(),
                );
            }
            Some("-h" | "--help") => return Ok(Classic::Help),
            Some("-v" | "-V" | "--version") => return Ok(Classic::Version),
            _ => {}
        }
        match modern(today, word) {
            Some(flag) => {
                passed.push(word.clone());
                if flag.get_action().takes_values() && !word.to_string_lossy().contains('=') {
                    passed.push(value(&word.to_string_lossy(), rest.next())?.clone());
                }
            }
            None if is_flag(word) => {
                // A password may stand in the same word: --pas=…, -a….
                let (shown, _) = target::mask_flag(&word.to_string_lossy());
                let name = shown.split('=').next().unwrap_or_default();
                return Err(format!(
                    "{name} is none of the original's words, and no flag of {}; -h lists them",
                    today.get_name()
                ));
            }
            None if secret => {
                return Err(
                    "a word behind the password belongs to nothing; is the password quoted?"
                        .to_owned(),
                );
            }
            None => {
                return Err(format!(
                    "{} belongs to no word before it; -rdb and -aof name files",
                    word.to_string_lossy()
                ));
            }
        }
    }

    if is_live && from_host.is_none() {
        return Err("-sip is missing: the source's address".to_owned());
    }
    if is_live && from_port.is_none() {
        return Err("-sport is missing: the source's port".to_owned());
    }
    let host = host.ok_or("-dip is missing: the destination's address")?;
    let port = port.ok_or("-dport is missing: the destination's port")?;
    if !is_live && rdb.is_none() && aof.is_none() {
        return Err("-rdb or -aof is missing: the file to send".to_owned());
    }
    let joined = |flag: &str, value: &OsStr| {
        let mut word = OsString::from(flag);
        word.push(value);
        word
    };
    let mut line = vec![
        words[0].clone(),
        name.into(),
        "--classic".into(),
        joined("-h=", host),
        format!("-p={port}").into(),
    ];
    // An empty one is none: scripts pass on a variable that is not set.
    if let Some(password) = password.filter(|p| !p.is_empty()) {
        line.push(joined("--pass=", password));
    }
    if let Some(clients) = clients {
        line.push(format!("--connections={clients}").into());
    }
    let (Some(from_host), Some(from_port)) = (from_host, from_port) else {
        line.append(&mut passed);
        line.push("--".into());
        line.extend(rdb.into_iter().chain(aof).cloned());
        return Ok(Classic::Today(line));
    };
    line.push(joined("--from-host=", from_host));
    line.push(format!("--from-port={from_port}").into());
    if let Some(password) = from_password.filter(|p| !p.is_empty()) {
        line.push(joined("--from-pass=", password));
    }
    line.extend(rdb.map(|rdb| joined("--rdb=", rdb)));
    line.extend(aof.map(|aof| joined("--aof=", aof)));
    line.append(&mut passed);
    Ok(Classic::Today(line))
}

/// The word behind a word. Only passwords may begin like flags, and a lone `-` is stdin.
fn value<'w>(name: &str, next: Option<&'w OsString>) -> Result<&'w OsString, String> {
    let missing = || format!("{name} needs a value: the word behind it");
    let next = next.filter(|next| !is_word(next)).ok_or_else(missing)?;
    let password = matches!(name, "-dauth" | "-sauth" | "-a" | "--pass");
    if !password && (is_flag(next) || next.is_empty() && is_word(OsStr::new(name))) {
        return Err(missing());
    }
    Ok(next)
}

fn number(name: &str, value: &OsStr, most: u16) -> Result<u16, String> {
    let text = value.to_string_lossy();
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!(
            "{name} {text}: a number from 1 to {most} is needed"
        )),
    }
}

fn is_flag(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-") && word != "-"
}

/// The flag of today that a word is.
fn modern<'c>(today: &'c Command, word: &OsStr) -> Option<&'c Arg> {
    let word = word.to_str()?;
    if let Some(long) = word.strip_prefix("--") {
        let name = long.split('=').next()?;
        return today.get_arguments().find(|arg| {
            arg.get_long() == Some(name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|aliases| aliases.contains(&name))
        });
    }
    let mut letters = word.strip_prefix('-')?.chars();
    let letter = letters.next()?;
    if letters.next().is_some() {
        return None;
    }
    today
        .get_arguments()
        .find(|arg| arg.get_short() == Some(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("redis-migration")
            .chain(line.split(' ').filter(|w| !w.is_empty()))
            .map(OsString::from)
            .collect()
    }

    fn rewritten(line: &str) -> String {
        match rewrite(&words(line)) {
            Classic::Today(words) => {
                let words: Vec<_> = words.iter().map(|w| w.to_string_lossy()).collect();
                words[1..].join(" ")
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn wrong(line: &str) -> String {
        match rewrite(&words(line)) {
            Classic::Wrong(text) => text,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_originals_words_are_told_from_todays() {
        for line in [
            "-dip h -dport 1 -rdb f",
            "-q -rdb f",
            "-sip h",
            "-v",
            "nonsense -client 3",
        ] {
            assert!(is_classic(&words(line)), "{line}");
        }
        for line in [
            "",
            "-h",
            "-V",
            "--version",
            "convert -aof",
            "replay f -sauth",
            "help -dip",
        ] {
            assert!(!is_classic(&words(line)), "{line}");
        }
    }

    #[test]
    fn words_come_in_any_order_and_the_snapshot_before_the_log() {
        let want =
            "replay --classic -h=10.0.0.1 -p=22121 --pass=pw --connections=100 -- d.rdb a.aof";
        for line in [
            "-dip 10.0.0.1 -dport 22121 -dauth pw -rdb d.rdb -aof a.aof -client 100",
            "-client 100 -aof a.aof -rdb d.rdb -dauth pw -dport 22121 -dip 10.0.0.1",
        ] {
            assert_eq!(rewritten(line), want);
        }
        assert_eq!(
            rewritten("-dip h -dport 1 -aof -"),
            "replay --classic -h=h -p=1 -- -"
        );
        // The last value counts, except where files would be lost.
        assert_eq!(
            rewritten("-dip h -dport 1 -dport 2 -rdb f"),
            "replay --classic -h=h -p=2 -- f"
        );
        assert!(wrong("-dip h -dport 1 -rdb f -rdb g").contains("-rdb is given twice"));
    }

    #[test]
    fn a_source_makes_it_a_migration() {
        assert_eq!(
            rewritten(
                "-sip 10.0.0.1 -sport 6379 -sauth pw -dip h -dport 1 -rdb /t/d.rdb -aof /t/a.aof -client 100 --keep-spool"
            ),
            "migrate --classic -h=h -p=1 --connections=100 --from-host=10.0.0.1 --from-port=6379 --from-pass=pw \
             --rdb=/t/d.rdb --aof=/t/a.aof --keep-spool"
        );
        assert_eq!(
            rewritten("-dip h -dport 1 -sport 2 -sip s"),
            "migrate --classic -h=h -p=1 --from-host=s --from-port=2"
        );
    }

    #[test]
    fn a_password_may_look_like_anything_and_may_be_empty() {
        assert_eq!(
            rewritten("-dip h -dport 1 -dauth --=-x -rdb f"),
            "replay --classic -h=h -p=1 --pass=--=-x -- f"
        );
        let mut line = words("-dip h -dport 1 -rdb f -dauth");
        line.push(OsString::new());
        let Classic::Today(line) = rewrite(&line) else {
            panic!("not a replay")
        };
        assert!(
            !line
                .iter()
                .any(|w| w.to_string_lossy().starts_with("--pass"))
        );
    }

    #[test]
    fn flags_of_today_pass() {
        assert_eq!(
            rewritten("-q -dip h --on-exist replace -dport 1 --retry=5s -rdb f --target twemproxy"),
            "replay --classic -h=h -p=1 -q --on-exist replace --retry=5s --target twemproxy -- f"
        );
        assert!(wrong("-dip h -dport 1 -rdb f --on-exist").contains("--on-exist needs a value"));
        assert!(wrong("-dip h -dport 1 -rdb f --on-exits skip").contains("--on-exits"));
    }

    #[test]
    fn help_and_version_take_no_value() {
        for line in ["-dip h -h", "-rdb -h", "-rdb f --help", "-h -rdb f"] {
            // -rdb takes the next word, unless that is a flag.
            match line {
                "-rdb -h" => assert!(wrong(line).contains("-rdb needs a value")),
                _ => assert_eq!(rewrite(&words(line)), Classic::Help, "{line}"),
            }
        }
        assert_eq!(rewrite(&words("-sip h -v")), Classic::Version);
        assert!(wrong("-rdb f -h 10.0.0.1 -dport 1").contains("-dip"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("-dport 1 -rdb f", "-dip is missing"),
            ("-dip h -rdb f", "-dport is missing"),
            ("-dip h -dport 1", "-rdb or -aof is missing"),
            ("-dip h -dport 99999 -rdb f", "-dport 99999"),
            ("-dip h -dport 0 -rdb f", "-dport 0"),
            ("-dip h -dport 1 -rdb f -client 0", "-client 0"),
            ("-dip h -dport 1 -rdb f -client 1025", "-client 1025"),
            ("-dip h -dport 1 -rdb", "-rdb needs a value"),
            ("-dip -dport 1 -rdb f", "-dip needs a value"),
            ("-dip h -dport 1 -rdb f -dauth", "-dauth needs a value"),
            ("-dip h -dport 1 -rdb f -flush", "-flush"),
            ("-dip h -dport 1 -rdb f g", "g belongs to no word"),
            ("-sip h -sport 1 -bogus", "no flag of migrate"),
            ("-dip h -dport 1 -rdb f -sauth pw", "-sip is missing"),
            ("-sip h -dip h -dport 1", "-sport is missing"),
            ("-sip h -sport 0 -dip h -dport 1", "-sport 0"),
            ("-sip h -sport 1 -dport 1", "-dip is missing"),
        ] {
            let said = wrong(line);
            assert!(said.contains(word), "{line}: {said}");
        }
        for word in ["-ahunter2", "--pas=hunter2", "-dauth=hunter2"] {
            let said = wrong(&format!("-dip h -dport 1 -rdb f {word}"));
            assert!(!said.contains("hunter2"), "{said}");
            assert!(said.starts_with(&word[..2]), "{said}");
        }
        let said = wrong("-dip h -dport 1 -dauth one hunter2 -rdb f");
        assert!(
            said.contains("password") && !said.contains("hunter2"),
            "{said}"
        );
    }
}
