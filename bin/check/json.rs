//! What was found, as JSON.

use jiff::Timestamp;
use redis_migration::aof::set::Role;
use redis_migration::check::log::{Ending, Log};
use redis_migration::check::salvage::{Behind, Why};
use redis_migration::check::set::{Checked, CheckedFile};
use redis_migration::check::snapshot::{Checksum, Snapshot};
use redis_migration::check::{Fault, Verdict};
use redis_migration::error::{KeyName, show_key};
use serde_json::{Map, Value, json};

use super::save::Saved;
use super::{CheckArgs, Outcome};
use crate::outcome::Exit;

/// An input in one object.
pub fn of(checked: &Checked, saved: Option<&Saved>, hide_keys: bool) -> Value {
    json!({
        "name": checked.name,
        "verdict": verdict(checked.verdict()),
        "manifest": checked.manifest.as_ref().map(|path| path.display().to_string()),
        "not_listed": checked.foreign.iter().map(|name| name.display().to_string()).collect::<Vec<_>>(),
        "files": checked.files.iter().map(|file| of_file(file, hide_keys)).collect::<Vec<_>>(),
        "saved": saved.map(|saved| of_saved(saved, hide_keys)),
    })
}

/// A whole run in one object.
pub fn summary(args: &CheckArgs, outcomes: &[Outcome], exit: Exit, seconds: f64) -> Value {
    let hide = args.manners.hide_keys;
    json!({
        "program": "redis-migration",
        "version": env!("CARGO_PKG_VERSION"),
        "time": Timestamp::now().to_string(),
        "exit": exit.code(),
        "seconds": seconds,
        "inputs": outcomes.iter().map(|outcome| match &outcome.result {
            Ok(checked) => of(checked, outcome.saved.as_ref(), hide),
            Err(error) => json!({"name": outcome.name, "error": error.describe(hide)}),
        }).collect::<Vec<_>>(),
    })
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Whole => "whole",
        Verdict::Torn => "torn",
        Verdict::Damaged => "damaged",
    }
}

fn of_file(file: &CheckedFile, hide_keys: bool) -> Value {
    json!({
        "name": file.name,
        "role": match file.role {
            Role::Alone => "alone",
            Role::Base => "base",
            Role::Incr { .. } => "incr",
        },
        "bytes": file.file_bytes,
        "verdict": verdict(file.verdict()),
        "snapshot": file.snapshot.as_ref().map(|snapshot| of_snapshot(snapshot, hide_keys)),
        "log": file.log.as_ref().map(|log| of_log(log, hide_keys)),
        "error": file.error.as_ref().map(|error| error.describe(hide_keys)),
    })
}

fn of_snapshot(snapshot: &Snapshot, hide_keys: bool) -> Value {
    let info = &snapshot.info;
    let aux: Map<String, Value> = snapshot
        .aux
        .iter()
        .map(|(name, value)| {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            (text(name), json!(text(value)))
        })
        .collect();
    let checksum = match snapshot.checksum {
        Checksum::BeforeItsTime | Checksum::None => json!({"state": "none"}),
        Checksum::Unasked => json!({"state": "not asked"}),
        Checksum::Matches(value) => json!({"state": "matches", "stored": format!("{value:016x}")}),
        Checksum::Mismatch { stored, computed } => json!({
            "state": "mismatch",
            "stored": format!("{stored:016x}"),
            "computed": format!("{computed:016x}"),
        }),
        Checksum::NotReached => json!({"state": "not reached"}),
    };
    json!({
        "magic": snapshot.format.map(|format| format.magic()),
        "rdb_version": snapshot.format.map(|format| format.version),
        "server": info.server,
        "aux": aux,
        "scripts": snapshot.scripts,
        "keys": info.keys,
        "databases": info.dbs.iter().map(|(db, counts)| json!({
            "db": db,
            "keys": counts.keys,
            "expires": counts.expires,
            "expired": counts.expired,
        })).collect::<Vec<_>>(),
        "functions": info.functions,
        "module_aux": info.module_aux.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "checksum": checksum,
        "end": info.end,
        "bytes_behind_its_end": info.trailing,
        "deep": snapshot.deep,
        "faults": snapshot.faults.iter().map(|fault| of_fault(fault, hide_keys)).collect::<Vec<_>>(),
        "more_faults": snapshot.more_faults,
    })
}

fn of_fault(fault: &Fault, hide_keys: bool) -> Value {
    let error = &fault.error;
    json!({
        "offset": error.at().map(|at| at.offset),
        "inside": error.at().and_then(|at| at.inside),
        "doing": fault.doing.name(),
        "db": error.key().map(|key| key.db),
        "key": error.key().map(|key| match hide_keys {
            true => show_key(&key.key, true),
            false => key.key.escape_ascii().to_string(),
        }),
        "type": error.key().map(|key| key.type_name.clone()),
        "type_byte": fault.type_byte,
        "what": error.kind().to_string(),
        "message": error.describe(hide_keys),
    })
}

fn of_log(log: &Log, hide_keys: bool) -> Value {
    let time = |ms: i64| {
        Timestamp::from_millisecond(ms)
            .map(|time| time.to_string())
            .ok()
    };
    json!({
        "from": log.from,
        "size": log.size,
        "ok_up_to": log.ok_up_to,
        "ok_up_to_line": log.ok_up_to_line,
        "commands": log.commands,
        "transactions": log.transactions,
        "first_time": log.times_ms.and_then(|(first, _)| time(first)),
        "last_time": log.times_ms.and_then(|(_, last)| time(last)),
        "ending": match &log.ending {
            Ending::Clean => "clean",
            Ending::Torn(_) => "torn",
            Ending::Broken(_) => "broken",
            Ending::Until => "until",
        },
        "error": match &log.ending {
            Ending::Broken(error) => Some(error.describe(hide_keys)),
            Ending::Clean | Ending::Torn(_) | Ending::Until => None,
        },
    })
}

fn of_saved(saved: &Saved, hide_keys: bool) -> Value {
    let key = |name: &KeyName| {
        let shown = match hide_keys {
            true => show_key(&name.key, true),
            false => name.key.escape_ascii().to_string(),
        };
        json!({"db": name.db, "key": shown, "type": name.type_name})
    };
    match saved {
        Saved::NoNeed => json!({"state": "no need"}),
        Saved::Log { path, plan } => json!({
            "state": "repaired",
            "path": path.display().to_string(),
            "bytes": plan.keep.iter().sum::<u64>(),
            "bytes_left_out": plan.bytes_left_out,
            "files_left_out": plan.left_out,
        }),
        Saved::Snapshot {
            path,
            salvaged,
            is_whole,
            is_vouched,
            not_in_it,
        } => json!({
            "state": "salvaged",
            "path": path.display().to_string(),
            "whole": is_whole,
            "vouched": is_vouched,
            "keys": salvaged.keys,
            "keys_known_to_be_lost": salvaged.lost,
            "bytes_lost": salvaged.bytes_lost,
            "doubled_keys_left_out": salvaged.doubled,
            "has_end": salvaged.has_end,
            "libraries_may_be_lost": salvaged.is_head_hit,
            "module_values": salvaged.modules,
            "libraries": salvaged.libraries,
            "commands_not_in_it": not_in_it.iter().map(|left| json!({
                "file": left.name,
                "from": left.from,
                "bytes": left.bytes,
            })).collect::<Vec<_>>(),
            "holes": salvaged.holes.iter().map(|hole| json!({
                "from": hole.from,
                "to": hole.to,
                "why": hole.error.describe(hide_keys),
                "keys": hole.keys.iter().map(key).collect::<Vec<_>>(),
                "db_behind": hole.db,
                "behind": match hole.behind {
                    Behind::Lengths => "lengths",
                    Behind::Selected => "selected",
                    Behind::Uncertain { .. } => "uncertain",
                    Behind::End => "end",
                },
            })).collect::<Vec<_>>(),
            "more_holes": salvaged.more_holes,
            "doubtful": salvaged.doubts.iter().map(|doubt| json!({
                "key": key(&doubt.key),
                "offset": doubt.offset,
                "why": match doubt.why {
                    Why::Before => "before a hole",
                    Why::Behind => "behind a hole",
                    Why::Zeros => "zeros",
                    Why::Doubled => "left out, doubled",
                },
            })).collect::<Vec<_>>(),
            "more_doubtful": salvaged.more_doubts,
        }),
    }
}
