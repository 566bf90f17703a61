//! What was found, as one screen a file.

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};
use jiff::Timestamp;
use redis_migration::ErrorKind;
use redis_migration::aof::read::TailKind;
use redis_migration::aof::set::Role;
use redis_migration::check::log::{Ending, Log};
use redis_migration::check::salvage::{Behind, Hole, Salvaged, Why};
use redis_migration::check::set::{Checked, CheckedFile};
use redis_migration::check::snapshot::{Checksum, Snapshot};
use redis_migration::check::{Fault, Verdict, wording};
use redis_migration::error::{KeyName, show_key};

use super::plural;
use super::save::Saved;

/// Databases that are listed one by one.
const DBS_SHOWN: usize = 16;

/// The screen of an input.
pub fn of(checked: &Checked, saved: Option<&Saved>, hide_keys: bool) -> String {
    let mut out = String::new();
    if let Some(manifest) = &checked.manifest {
        let _ = writeln!(out, "{}", checked.name);
        line(&mut out, "kind", "append-only file in parts");
        line(&mut out, "manifest", &manifest.display().to_string());
        for name in &checked.foreign {
            let note = format!("{} lies beside it and is not listed", name.display());
            line(&mut out, "", &note);
        }
        line(&mut out, "verdict", verdict_of_set(checked));
    }
    for file in &checked.files {
        // What needs no salvage may still end within a command.
        let is_saved = saved.is_some_and(|saved| !matches!(saved, Saved::NoNeed));
        of_file(&mut out, file, is_saved, hide_keys);
    }
    match saved {
        Some(Saved::NoNeed) if checked.verdict() != Verdict::Whole => {
            line(&mut out, "saved", "nothing: the snapshot is whole");
        }
        Some(saved) => of_saved(&mut out, saved, hide_keys),
        None => {}
    }
    out
}

fn verdict_of_set(checked: &Checked) -> &'static str {
    match checked.verdict() {
        Verdict::Whole if is_read_in_part(checked) => {
            "whole up to the time asked for; what stands behind it was not read"
        }
        Verdict::Whole => "whole: all AOF files and manifest are valid",
        Verdict::Torn => "ends within a command; servers cut that off and start",
        Verdict::Damaged => "damaged: a server would not start with it",
    }
}

/// Whether it was read up to a time only.
fn is_read_in_part(checked: &Checked) -> bool {
    checked.files.iter().any(|file| {
        file.log
            .as_ref()
            .is_some_and(|log| matches!(log.ending, Ending::Until))
    })
}

fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "  {label:<12} {text}");
}

fn of_file(out: &mut String, file: &CheckedFile, is_saved: bool, hide_keys: bool) {
    let _ = writeln!(out, "{}", file.name);
    line(out, "kind", &kind(file));
    line(
        out,
        "size",
        &format!(
            "{} bytes ({})",
            HumanCount(file.file_bytes),
            HumanBytes(file.file_bytes)
        ),
    );
    if let Some(snapshot) = &file.snapshot {
        of_snapshot(out, snapshot);
    }
    if let Some(log) = &file.log {
        of_log(out, log);
    }
    line(out, "verdict", &verdict(file, hide_keys));
    let faults = file.snapshot.iter().flat_map(|s| &s.faults);
    for fault in faults {
        for text in wording::rdb_error(fault, hide_keys) {
            let _ = writeln!(out, "{text}");
        }
        let _ = writeln!(out, "  {}", fault.error.describe(hide_keys));
    }
    if let Some(snapshot) = &file.snapshot
        && snapshot.more_faults > 0
    {
        let more = HumanCount(snapshot.more_faults);
        let _ = writeln!(out, "  and {more} more; --most N lists more of them");
    }
    if let Some(log) = &file.log {
        let _ = writeln!(out, "{}", log.analyzed(&file.name));
    }
    if !is_saved && let Some(step) = next_step(file) {
        line(out, "next", step);
    }
}

fn kind(file: &CheckedFile) -> String {
    let role = match file.role {
        Role::Alone => "",
        Role::Base => " (base)",
        Role::Incr { .. } => " (incremental)",
    };
    let format = file.snapshot.as_ref().and_then(|s| s.format);
    let kind = match (format, &file.snapshot, &file.log) {
        (Some(format), _, log) => {
            let version = format.version;
            let what = match log {
                Some(_) => "append-only file that begins with a snapshot",
                None => "snapshot",
            };
            format!("{what}, {}, RDB version {version}", format.magic())
        }
        (None, Some(_), _) => "unknown".to_owned(),
        (None, None, Some(_)) => "append-only commands".to_owned(),
        (None, None, None) => "unknown".to_owned(),
    };
    kind + role
}

fn of_snapshot(out: &mut String, snapshot: &Snapshot) {
    let n = HumanCount;
    let info = &snapshot.info;
    let aux = |name: &str| {
        let found = snapshot
            .aux
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value.escape_ascii().to_string())
    };
    if snapshot.format.is_none() {
        return;
    }
    let mut by = vec![
        info.server
            .clone()
            .unwrap_or_else(|| "a server that does not say".to_owned()),
    ];
    by.extend(aux("redis-bits").map(|bits| format!("{bits} bits")));
    by.extend(aux("ctime").map(|time| {
        match time
            .parse()
            .ok()
            .and_then(|t| Timestamp::from_second(t).ok())
        {
            Some(time) => format!("at {time}"),
            None => format!("at {time}"),
        }
    }));
    by.extend(aux("used-mem").map(|bytes| match bytes.parse() {
        Ok(bytes) => format!("holding {} in memory", HumanBytes(bytes)),
        Err(_) => format!("holding {bytes} bytes in memory"),
    }));
    line(out, "written by", &by.join(", "));
    let known = ["redis-ver", "valkey-ver", "redis-bits", "ctime", "used-mem"];
    let others: Vec<String> = snapshot
        .aux
        .iter()
        .filter(|(name, _)| {
            !known
                .iter()
                .any(|k| name.eq_ignore_ascii_case(k.as_bytes()))
        })
        .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
        .collect();
    if !others.is_empty() {
        line(out, "aux", &others.join(", "));
    }
    let dbs: Vec<String> = info
        .dbs
        .iter()
        .map(|(db, counts)| {
            let mut text = format!("db {db}: {}", plural(counts.keys, "key"));
            if counts.expires > 0 {
                let _ = write!(text, ", {} with expiry", n(counts.expires));
            }
            if counts.expired > 0 {
                let _ = write!(text, ", {} of them past", n(counts.expired));
            }
            text
        })
        .collect();
    if dbs.is_empty() {
        line(out, "databases", "no keys");
    }
    for (i, text) in dbs.iter().take(DBS_SHOWN).enumerate() {
        line(out, if i == 0 { "databases" } else { "" }, text);
    }
    if dbs.len() > DBS_SHOWN {
        let all = info.keys;
        line(
            out,
            "",
            &format!(
                "and {} more databases; {} in all",
                n((dbs.len() - DBS_SHOWN) as u64),
                plural(all, "key")
            ),
        );
    }
    if info.functions > 0 {
        line(
            out,
            "functions",
            &plural(info.functions, "library").replace("librarys", "libraries"),
        );
    }
    if snapshot.scripts > 0 {
        line(out, "scripts", &n(snapshot.scripts).to_string());
    }
    if !info.module_aux.is_empty() {
        let modules: Vec<String> = info
            .module_aux
            .iter()
            .map(|(name, count)| format!("{name} ({})", n(*count)))
            .collect();
        line(out, "module aux", &modules.join(", "));
    }
    let checksum = match snapshot.checksum {
        Checksum::BeforeItsTime => "none: this version has none".to_owned(),
        Checksum::None => "none: RDB file was saved with checksum disabled".to_owned(),
        Checksum::Unasked => "not asked".to_owned(),
        Checksum::Matches(value) => format!("matches ({value:016x})"),
        Checksum::Mismatch { stored, computed } => {
            format!("does not match: {stored:016x} is stored, the bytes give {computed:016x}")
        }
        Checksum::NotReached => "not reached".to_owned(),
    };
    line(out, "checksum", &checksum);
    let depth = match snapshot.deep {
        true => "every value to its last byte",
        false => "lengths and checksum",
    };
    line(out, "looked at", depth);
    // What is a fault is told of among these.
    let is_fault = snapshot
        .faults
        .iter()
        .any(|fault| matches!(fault.error.kind(), ErrorKind::Trailing(_)));
    if info.trailing > 0 && !info.commands_follow && !is_fault {
        let note = format!(
            "{} behind its end, which servers ignore",
            plural(info.trailing, "byte")
        );
        line(out, "", &note);
    }
}

fn of_log(out: &mut String, log: &Log) {
    let n = HumanCount;
    let mut text = n(log.commands).to_string();
    if log.transactions > 0 {
        let _ = write!(
            text,
            ", in them {}",
            plural(log.transactions, "transaction")
        );
    }
    line(out, "commands", &text);
    if let Some((first, last)) = log.times_ms {
        let shown = |ms: i64| match Timestamp::from_millisecond(ms) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{ms} ms"),
        };
        line(out, "#TS", &format!("{} to {}", shown(first), shown(last)));
    }
}

fn verdict(file: &CheckedFile, hide_keys: bool) -> String {
    let n = HumanCount;
    if let Some(error) = &file.error {
        return format!("damaged: {}", error.describe(hide_keys));
    }
    let faults = file
        .snapshot
        .as_ref()
        .map_or(0, |s| s.faults.len() as u64 + s.more_faults);
    if faults > 0 {
        return format!("damaged: {}", plural(faults, "fault"));
    }
    match file.log.as_ref().map(|log| &log.ending) {
        Some(Ending::Broken(error)) => format!("damaged: {}", error.describe(hide_keys)),
        Some(Ending::Torn(tail)) => {
            let what = match tail.kind {
                TailKind::Clean | TailKind::Command => "a command".to_owned(),
                TailKind::Transaction { commands } => {
                    format!(
                        "a transaction of {} without its EXEC",
                        plural(commands, "command")
                    )
                }
            };
            let left = plural(tail.len - tail.whole, "byte");
            let ends = format!(
                "the log ends within {what}: {left} from byte {:#x} on are not whole",
                tail.whole
            );
            match file.is_last() {
                true => format!("torn: {ends}"),
                false => format!("damaged: {ends}, and other files follow it"),
            }
        }
        Some(Ending::Until) => "whole up to the time asked for; the rest was not read".to_owned(),
        Some(Ending::Clean) | None => {
            let keys = file.snapshot.as_ref().map(|s| s.info.keys);
            match (keys, &file.log) {
                (Some(keys), None) => format!("whole, {}", plural(keys, "key")),
                (Some(keys), Some(log)) => {
                    format!(
                        "whole, {} and {} commands",
                        plural(keys, "key"),
                        n(log.commands)
                    )
                }
                (None, _) => "whole".to_owned(),
            }
        }
    }
}

/// What a person can do about it.
fn next_step(file: &CheckedFile) -> Option<&'static str> {
    if file.verdict() == Verdict::Whole {
        return None;
    }
    let snapshot = file
        .snapshot
        .as_ref()
        .filter(|snapshot| !snapshot.is_whole());
    let only_checksum = snapshot.is_some_and(|snapshot| {
        let is_mismatch = |fault: &Fault| matches!(fault.error.kind(), ErrorKind::Checksum { .. });
        snapshot.more_faults == 0 && snapshot.faults.iter().all(is_mismatch)
    });
    let is_unread = snapshot.is_some_and(|snapshot| snapshot.format.is_none());
    match (snapshot, &file.log) {
        _ if is_unread => {
            Some("is it the right file? A newer redis-migration may know a newer version")
        }
        (Some(_), _) if only_checksum => Some(
            "fetch the file again. Every value decodes, so the damage is within one, and nothing tells which",
        ),
        (Some(_), _) => {
            Some("fetch the file again, or save what can be read: check --salvage OUT.rdb")
        }
        (None, Some(_)) => {
            Some("a copy up to there, without touching the file: check --repair OUT")
        }
        (None, None) => Some("is it the right file?"),
    }
}

fn of_saved(out: &mut String, saved: &Saved, hide_keys: bool) {
    match saved {
        Saved::NoNeed => line(out, "saved", "nothing: there is no need"),
        Saved::Log { path, plan } => {
            let kept = plan.keep.iter().sum();
            line(
                out,
                "repaired",
                &format!(
                    "{}: the first {}; {} left out",
                    path.display(),
                    plural(kept, "byte"),
                    plural(plan.bytes_left_out, "byte")
                ),
            );
            for name in &plan.left_out {
                line(
                    out,
                    "",
                    &format!("{name} left out: it comes behind the cut"),
                );
            }
        }
        Saved::Snapshot {
            path,
            salvaged,
            is_whole,
            is_vouched,
            not_in_it,
        } => {
            let whole = match is_whole {
                true => "whole",
                false => "NOT whole: please report this",
            };
            let keys = plural(salvaged.keys, "key");
            line(
                out,
                "salvaged",
                &format!("{keys} to {}, which is {whole}", path.display()),
            );
            for left in not_in_it {
                let text = format!(
                    "{} of commands behind the snapshot (from {:#x} of {}): replay them after it",
                    plural(left.bytes, "byte"),
                    left.from,
                    left.name
                );
                line(out, "NOT in it", &text);
            }
            of_salvaged(out, salvaged, *is_vouched, hide_keys);
        }
    }
}

fn of_salvaged(out: &mut String, salvaged: &Salvaged, is_vouched: bool, hide_keys: bool) {
    let n = HumanCount;
    let holes = salvaged.holes.len() as u64 + salvaged.more_holes;
    line(
        out,
        "lost",
        &format!(
            "{} in {}; {} known by name",
            plural(salvaged.bytes_lost, "byte"),
            plural(holes, "hole"),
            plural(salvaged.lost, "key")
        ),
    );
    for hole in &salvaged.holes {
        of_hole(out, hole, hide_keys);
    }
    if salvaged.more_holes > 0 {
        let more = n(salvaged.more_holes);
        line(
            out,
            "",
            &format!("and {more} more; --most N lists more of them"),
        );
    }
    if salvaged.is_head_hit {
        let text = "function libraries stand before the first key: some may have been in a hole";
        line(out, "", text);
    }
    if salvaged.doubled > 0 {
        let keys = plural(salvaged.doubled, "key");
        line(out, "", &format!("{keys} left out that stood there twice"));
    }
    // Where the checksum matches, what decodes is what was written.
    if is_vouched {
        return;
    }
    line(
        out,
        "",
        "what decodes is kept: bytes that were altered within a text show nowhere",
    );
    if salvaged.modules + salvaged.libraries > 0 {
        let libraries = plural(salvaged.libraries, "library").replace("librarys", "libraries");
        let text = format!(
            "{} and {libraries} in it were not looked into: a server may refuse them",
            plural(salvaged.modules, "module value")
        );
        line(out, "", &text);
    }
    for doubt in &salvaged.doubts {
        let why = match doubt.why {
            Why::Before => {
                "the last one before a hole: its value may go on there, or it is none at all"
            }
            Why::Behind => {
                "the first one behind a hole: an expiry of it may have been there, or it is none at all"
            }
            Why::Doubled => {
                "left out: one of its name stands before it; a SELECTDB may have been in a hole between them"
            }
            Why::Zeros => "holds many zero bytes in a row, as lost blocks leave them",
        };
        let key = named(&doubt.key, hide_keys);
        line(
            out,
            "doubtful",
            &format!("{key} at {:#x}, {why}", doubt.offset),
        );
    }
    if salvaged.more_doubts > 0 {
        line(out, "", &format!("and {} more", n(salvaged.more_doubts)));
    }
}

fn of_hole(out: &mut String, hole: &Hole, hide_keys: bool) {
    /// Names of one hole that are listed.
    const NAMES: usize = 8;
    line(
        out,
        "hole",
        &format!(
            "{:#x} to {:#x} ({}): {}",
            hole.from,
            hole.to,
            plural(hole.to - hole.from, "byte"),
            hole.error.describe(hide_keys)
        ),
    );
    for key in hole.keys.iter().take(NAMES) {
        line(out, "", &format!("lost: {}", named(key, hide_keys)));
    }
    if hole.keys.len() > NAMES {
        let more = HumanCount((hole.keys.len() - NAMES) as u64);
        line(out, "", &format!("lost: {more} more known by name"));
    }
    let db = hole.db;
    match hole.behind {
        Behind::Lengths | Behind::Selected => {}
        Behind::Uncertain { too_many: None } => line(
            out,
            "",
            &format!("keys behind it are taken for db {db}; a SELECTDB may have been in it"),
        ),
        Behind::Uncertain {
            too_many: Some((announced, found)),
        } => line(
            out,
            "",
            &format!(
                "keys behind it are taken for db {db}, wrongly in part: RESIZEDB announces {}, and {} were found, so a \
                 SELECTDB was in it, or something was taken for a key that is none",
                HumanCount(announced),
                HumanCount(found)
            ),
        ),
        Behind::End => line(out, "", "nothing behind it could be read"),
    }
}

fn named(key: &KeyName, hide_keys: bool) -> String {
    format!(
        "key {} in db {} ({})",
        show_key(&key.key, hide_keys),
        key.db,
        key.type_name
    )
}
