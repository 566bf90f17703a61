//! Inputs as snapshots, for those who look at keys and values: a snapshot as it stands, and where a log is among the
//! inputs, the data set that all of them leave, one after the other.

use std::path::PathBuf;

use indicatif::HumanCount;
use redis_migration::aof::set::{Role, Set};
use redis_migration::dataset::{self, Clock, Dataset};
use redis_migration::input::{Input, Kind, OpenOptions, name_of};
use redis_migration::pipeline::{Checksum, Progress};
use redis_migration::{Error, walk};

use crate::args::{InputArgs, LogReadingArgs};
use crate::job::left_out;
use crate::summary::Log;
use crate::values::LogTime;

/// The largest string that is unpacked in memory.
const UNPACK_LIMIT: usize = 8 << 20;

/// What the inputs hold.
pub struct Snapshots {
    pub inputs: Vec<Input>,
    /// Whether a log ends within a command or a transaction, which was left out.
    pub torn: bool,
}

/// Opens all inputs before any is read: a name that is mistyped is found at once. Errors come with the input's name.
pub fn sets(args: &InputArgs, progress: &Progress) -> Result<Vec<Set>, (String, Error)> {
    let options = OpenOptions {
        no_mmap: args.no_mmap,
    };
    let open = |path: &PathBuf| {
        Set::open(path, &options, &progress.stop).map_err(|error| (name_of(path), error))
    };
    args.inputs.iter().map(open).collect()
}

/// What the inputs hold: each snapshot by itself, or the data set that is left where logs are among them.
pub fn open(
    args: &InputArgs,
    logs: &LogReadingArgs,
    progress: &Progress,
    log: Log,
) -> Result<Snapshots, (String, Error)> {
    let sets = sets(args, progress)?;
    if sets.iter().any(holds_a_log) {
        return data_set(&sets, args, logs, progress, log);
    }
    let pieces = sets.iter().flat_map(|set| &set.pieces);
    let inputs = pieces.map(|piece| {
        let source = &piece.source;
        let input = source.snapshot(false);
        input.map_err(|error| (source.name.clone(), error))
    });
    Ok(Snapshots {
        inputs: inputs.collect::<Result<_, _>>()?,
        torn: false,
    })
}

/// The data set that the inputs leave, one after the other.
pub fn data_set(
    sets: &[Set],
    args: &InputArgs,
    logs: &LogReadingArgs,
    progress: &Progress,
    log: Log,
) -> Result<Snapshots, (String, Error)> {
    let left = dataset::of(sets, &settings(args, logs), progress).map_err(|error| {
        let names: Vec<String> = args.inputs.iter().map(|path| name_of(path)).collect();
        (names.join(", "), error)
    })?;
    let pieces = sets.iter().flat_map(|set| &set.pieces);
    let bytes = pieces.map(|piece| piece.source.file_bytes).sum();
    Ok(tell(left, bytes, log))
}

/// Whether commands are among what the set holds.
pub fn holds_a_log(set: &Set) -> bool {
    set.pieces.iter().any(|piece| match piece.source.kind {
        Kind::Snapshot => piece.role != Role::Alone || piece.preface().is_preamble,
        Kind::Log | Kind::Empty => true,
        Kind::Unknown | Kind::JsonLines | Kind::Manifest | Kind::Directory => {
            piece.role != Role::Alone
        }
    })
}

fn settings(args: &InputArgs, logs: &LogReadingArgs) -> dataset::Options {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    dataset::Options {
        walk: walk::Options {
            threads: args.threads.map_or(cores, usize::from),
            checksum: args.checksum.map_or(Checksum::Along, Into::into),
            lenient: false,
            cut_keys: false,
        },
        lenient: logs.lenient,
        strict: logs.strict,
        clock: match logs.log_time {
            None => Clock::Unknown,
            Some(LogTime::At(moment)) => Clock::At(moment.0),
            Some(LogTime::Mtime) => Clock::Modified,
        },
        version: None,
        unpack_limit: UNPACK_LIMIT,
    }
}

/// Says how the data set came about. `bytes`: of the inputs, which it stands for.
fn tell(left: Dataset, bytes: u64, log: Log) -> Snapshots {
    let Dataset {
        mut input,
        counts,
        torn,
    } = left;
    input.file_bytes = bytes;
    log.info(&format!(
        "{}: the data set that {} commands leave",
        input.name,
        HumanCount(counts.commands)
    ));
    if let Some((name, offset)) = &counts.first_refused {
        log.warning(&format!(
            "{} commands that a server refuses when it loads them change nothing; the first is {name} at byte {offset:#x}",
            HumanCount(counts.refused)
        ));
    }
    if counts.module_aux > 0 {
        log.warning(&format!(
            "{} records of modules that belong to no key are left out",
            HumanCount(counts.module_aux)
        ));
    }
    if let Some(torn) = &torn {
        log.failure(&left_out(&torn.name, torn.tail));
    }
    Snapshots {
        inputs: vec![input],
        torn: torn.is_some(),
    }
}
