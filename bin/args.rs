//! Flags. Parsing only checks; nothing is opened here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use redis_migration::command::encode::{Mode, OnError, OnExist, Settings};
use redis_migration::command::rewrite::LogRules;
use redis_migration::command::target::{Dialect, Target, Version};
use redis_migration::filter::{Filter, patterns};
use redis_migration::pipeline::Checksum;
use redis_migration::transform::Transform;

use crate::values::{Bytes, DbPair, Limit, LogTime, Millis, Moment, PrefixPair, Sizes, Ttls};

/// Moves Redis data that is in files.
///
/// Reads snapshots (dump.rdb) and append-only files of every Redis up to 8.10 and Valkey up to 9.1 and writes them as
/// RESP commands, for redis-cli --pipe, for nc, or for later. Results go to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(name = "redis-migration", version, max_term_width = 110, after_long_help = EXITS)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "\
Exit codes:
  0    all that was asked is done
  1    finished, but something was rejected, or a log ended within a command
  2    wrong usage
  3    input corrupt, truncated or of an unknown version (byte offset and key are named)
  4    destination not reachable, or it refused the login
  5    stopped by policy: output exists, destination not fit for a command or the dialect, a log that is not the
       one of the checkpoint
  74   a local file could not be read or written
  75   --lock FILE is held by another run
  130  interrupted by SIGINT; 143 by SIGTERM
  141  the reader of stdout has gone";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write snapshots and append-only files as RESP commands, to stdout or a file
    ///
    /// Every key of a snapshot becomes the commands that build it again: SET, RPUSH, SADD, ZADD, HSET, XADD …, with
    /// expiry as absolute time. Keys stand in the order of the file, and the output is the same for any number
    /// of threads. The commands of a log pass as they stand, or in words that the destination understands.
    #[command(after_long_help = EXAMPLES)]
    Convert(Box<ConvertArgs>),
    /// Print the completion script of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of the program or of one subcommand
    Man {
        /// The subcommand
        subcommand: Option<String>,
    },
}

const EXAMPLES: &str = "\
Examples:
  redis-migration convert dump.rdb | redis-cli --pipe
  redis-migration convert dump.rdb -o dump.resp
  redis-migration convert --db 0 --key 'user:*' dump.rdb.gz > users.resp
  redis-migration convert appendonlydir -o delta.resp
  redis-migration convert --follow --checkpoint delta.ckpt appendonlydir >> delta.resp
  redis-migration convert --mode restore --target-version 7.0 dump.rdb -o dump.resp
  redis-migration convert --dialect twemproxy dump.rdb | nc -q 1 127.0.0.1 22121

Exit codes are listed by redis-migration --help.";

#[derive(Debug, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub transform: TransformArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Input")]
pub struct InputArgs {
    /// Snapshots and append-only files, one after the other; - is stdin
    ///
    /// A file, a manifest, or a directory that holds one. What a file holds is found from its content, never from its
    /// name; gzip and zstd are unpacked on the fly. Command files are read as append-only files are.
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// When to hold the checksum against the file
    ///
    /// first: before the first byte is written. along: while reading, so that a mismatch is found at the end. off:
    /// never. The default is first, and along where -o writes a file that gets its name only when all is well. A
    /// file without a checksum is walked from end to end in its place.
    #[arg(long, value_enum, value_name = "WHEN")]
    pub checksum: Option<ChecksumArg>,
    /// Worker threads; default: one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: Option<u16>,
    /// Copy the input to a temporary file instead of mapping it
    ///
    /// For files that something may shorten or rewrite in place while they are read. Redis does not: it writes a
    /// snapshot aside and renames it.
    #[arg(long)]
    pub no_mmap: bool,
    /// Directory for temporary files; default: TMPDIR, else /tmp
    ///
    /// Compressed inputs, pipes and compressed strings of many megabytes are unpacked there, into files that have
    /// no name and vanish with the program.
    #[arg(long, value_name = "DIR")]
    pub tmp_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Append-only files")]
pub struct LogArgs {
    /// Go on when the end is reached: write what its server appends, until interrupted
    ///
    /// Like tail -F, and it knows the format: nothing but whole commands and whole transactions, each within a tenth of
    /// a second; rewrites and new incremental files are followed without repeating anything. The input may appear
    /// later. With -o, FILE grows and has its name from the start.
    #[arg(long)]
    pub follow: bool,
    /// Remember in FILE how far the log was read; the same command started again goes on there
    ///
    /// It is written when the output is. A log that is not the same any more ends the run with exit code 5. Where the
    /// output is a file, what a killed run wrote behind its last checkpoint is taken back first, so that no command is
    /// lost or doubled in it.
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// Read no further: a byte offset in the last file, or a time, held against the #TS lines
    ///
    /// An offset is a number, also as 0x1f40; a time is RFC 3339, or Unix seconds as @1795392000. Whole commands and
    /// whole transactions only; of a time, what stands before the first #TS that is later.
    #[arg(long, value_name = "TIME|OFFSET")]
    pub until: Option<Limit>,
    /// A log that ends within a command or a transaction is an error (exit code 3)
    ///
    /// Otherwise what is whole is written, as Redis does it, the rest is reported, and the exit code is 1.
    #[arg(long)]
    pub strict: bool,
    /// Read commands as servers do that load a file: line ends and numbers may be sloppy
    #[arg(long)]
    pub lenient: bool,
    /// When relative expiries were logged, where the log has no #TS lines: a time, or mtime for the file's own
    ///
    /// EXPIRE, SETEX and their like count from the moment they were logged. Logs of servers up to 3.0, and command
    /// files, may hold such commands; without this flag they are refused.
    #[arg(long, value_name = "TIME|mtime")]
    pub log_time: Option<LogTime>,
    /// Commands that no known server has: refuse them, or let them pass as they stand
    #[arg(long, value_enum, value_name = "WHAT", default_value = "stop")]
    pub unknown_commands: UnknownArg,
    /// Expiries nearer than this wait until the end of the log
    ///
    /// A log is replayed later than it was written: a key whose time has passed meanwhile would vanish before the
    /// command comes that renews it. So nearer expiries are first written as this far ahead, and their true times
    /// behind the log. It should be longer than it takes until the output is loaded. 0 writes all times at once.
    #[arg(long, value_name = "DUR", default_value = "1d")]
    pub hold: Millis,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Write to FILE instead of stdout
    ///
    /// It is written as FILE.partial and renamed when it is whole. After a failure FILE.partial holds what could be
    /// written.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub force: bool,
    /// What to do about a key that cannot be read, or a command of a log that cannot be written: stop there, or leave
    /// it out and count it
    ///
    /// With continue, everything that can be read is written: a broken key is left out, and what stands before
    /// the place where the file cannot be followed any more is kept. The checksum is then checked at the end.
    #[arg(long, value_enum, value_name = "WHAT", default_value = "stop")]
    pub on_error: OnErrorArg,
    /// List keys that could not be written in FILE
    ///
    /// CSV with the columns db, key, type, command and error.
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the commands")]
pub struct FormArgs {
    /// The form of values
    ///
    /// commands: SET, RPUSH, HSET …, and RESTORE only for values that have no commands, such as those of modules.
    /// restore: RESTORE for every key, which also carries idle times, frequencies and every detail of a stream,
    /// but needs a server that knows the encoding. auto: strings by SET, the rest by RESTORE where the target
    /// takes it, else by commands.
    #[arg(long, value_enum, default_value = "commands")]
    pub mode: ModeArg,
    /// What the destination is
    ///
    /// redis: SELECT between databases. cluster: database 0 only, no SELECT, one key a command. twemproxy: database
    /// 0 only, and only what nutcracker forwards; values without such commands go as RESTORE.
    #[arg(long, value_enum, default_value = "redis")]
    pub dialect: DialectArg,
    /// Version of the destination: X.Y, or valkey-X.Y
    ///
    /// Decides which forms are used. Without it the newest are, and a server that does not know one will say so.
    /// What a version cannot express is rejected by name.
    #[arg(long, value_name = "VERSION")]
    pub target_version: Option<Version>,
    /// Keys that the destination holds already
    ///
    /// replace: DEL before a key of several commands, REPLACE with RESTORE. merge: neither, for destinations that are
    /// known to be empty; the output is smaller. fail: with --mode restore, so that the server refuses.
    #[arg(long, value_enum, default_value = "replace", value_name = "WHAT")]
    pub on_exist: OnExistArg,
    /// Most elements of a command; default: 500, for twemproxy 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=500_000))]
    pub batch_elements: Option<u64>,
    /// Most bytes of a command of several elements; default: 256kb, for twemproxy 64kb
    #[arg(long, value_name = "SIZE", value_parser = batch_bytes)]
    pub batch_bytes: Option<Bytes>,
    /// Leave out function libraries and cached scripts
    #[arg(long)]
    pub no_functions: bool,
}

fn batch_bytes(text: &str) -> Result<Bytes, String> {
    let bytes: Bytes = text.parse()?;
    // A command is built in memory, by every worker.
    if (1..=8 << 20).contains(&bytes.0) {
        Ok(bytes)
    } else {
        Err("from 1 byte to 8mb".to_owned())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Choosing keys")]
pub struct FilterArgs {
    /// Only these databases
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub db: Vec<u64>,
    /// Not these databases
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub not_db: Vec<u64>,
    /// Only keys that match this glob, as KEYS and SCAN understand it; may be given again
    #[arg(long, value_name = "GLOB")]
    pub key: Vec<String>,
    /// Not keys that match this glob
    #[arg(long, value_name = "GLOB")]
    pub not_key: Vec<String>,
    /// Only keys in which this regular expression is found; may be given again
    #[arg(long, value_name = "RE")]
    pub key_regex: Vec<String>,
    /// Not keys in which this regular expression is found
    #[arg(long, value_name = "RE")]
    pub not_key_regex: Vec<String>,
    /// Only these types: string, list, set, zset, hash, stream, array, or a module's own
    #[arg(long = "type", value_name = "T,…", value_delimiter = ',')]
    pub types: Vec<String>,
    /// Not these types
    #[arg(long = "not-type", value_name = "T,…", value_delimiter = ',')]
    pub not_types: Vec<String>,
    /// Only keys whose value takes this many bytes in the file: A..B, A.. or ..B
    #[arg(long, value_name = "A..B")]
    pub size: Option<Sizes>,
    /// Only keys with this much time to live: A..B, A.. or ..B, for example 1h..7d; or none
    #[arg(long, value_name = "A..B|none")]
    pub ttl: Option<Ttls>,
    /// Keys and hash fields whose time has passed: leave them out, or write them all the same
    #[arg(long, value_enum, default_value = "skip", value_name = "WHAT")]
    pub expired: ExpiredArg,
    /// The time that "expired" and --ttl are held against; default: the clock
    #[arg(long, value_name = "TIME")]
    pub now: Option<Moment>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Changing keys")]
pub struct TransformArgs {
    /// Move database A to B; may be given again
    #[arg(long, value_name = "A=B")]
    pub db_map: Vec<DbPair>,
    /// Replace the prefix OLD of keys by NEW; may be given again, the first that fits counts
    #[arg(long, value_name = "OLD=NEW")]
    pub rename_prefix: Vec<PrefixPair>,
    /// Put P before every key
    #[arg(long, value_name = "P", default_value = "", hide_default_value = true)]
    pub add_prefix: String,
    /// Leave out every expiry, of keys and of hash fields
    #[arg(long)]
    pub no_ttl: bool,
    /// Add DUR to every expiry, for example 1h or -30m
    #[arg(long, value_name = "DUR", allow_hyphen_values = true)]
    pub ttl_shift: Option<Millis>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Manners")]
pub struct MannersArgs {
    /// Say nothing but failures
    #[arg(short, long)]
    pub quiet: bool,
    /// Form of the summary on stderr
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    pub summary: SummaryArg,
    /// Write the summary as JSON to FILE too
    #[arg(long, value_name = "FILE")]
    pub summary_file: Option<PathBuf>,
    /// Write counts for Prometheus to FILE at the end (textfile collector)
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Hold FILE locked while running; exit 75 if another run holds it
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Form of log lines on stderr
    #[arg(long, value_enum, default_value = "text", value_name = "FORM")]
    pub log_format: LogFormat,
    /// Time between progress lines where stderr is no terminal
    #[arg(long, value_name = "DUR", default_value = "10s")]
    pub progress_interval: Millis,
    /// Show a hash in place of each key in messages and in --rejects
    #[arg(long)]
    pub hide_keys: bool,
}

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($variant:ident => $value:expr),+ $(,)? } -> $to:ty) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub enum $name { $($variant),+ }
        impl From<$name> for $to {
            fn from(choice: $name) -> $to {
                match choice { $($name::$variant => $value),+ }
            }
        }
    };
}

choice!(ChecksumArg { First => Checksum::First, Along => Checksum::Along, Off => Checksum::Off } -> Checksum);
choice!(OnErrorArg { Stop => OnError::Stop, Continue => OnError::Continue } -> OnError);
choice!(ModeArg { Commands => Mode::Commands, Restore => Mode::Restore, Auto => Mode::Auto } -> Mode);
choice!(DialectArg {
    Redis => Dialect::Redis, Cluster => Dialect::Cluster, Twemproxy => Dialect::Twemproxy
} -> Dialect);
choice!(OnExistArg {
    Replace => OnExist::Replace, Merge => OnExist::Merge, Fail => OnExist::Fail
} -> OnExist);
choice!(UnknownArg { Stop => false, Pass => true } -> bool);
choice!(ExpiredArg { Skip => false, Keep => true } -> bool);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SummaryArg {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl ConvertArgs {
    /// The library's settings. Errors are usage errors.
    pub fn settings(&self, now_ms: i64) -> Result<Settings, String> {
        let (filter, transform, form) = (&self.filter, &self.transform, &self.form);
        let dialect: Dialect = form.dialect.into();
        let (elements, bytes) = match dialect {
            Dialect::Redis | Dialect::Cluster => (500, 256 << 10),
            Dialect::Twemproxy => (100, 64 << 10),
        };
        if form.on_exist == OnExistArg::Fail && form.mode != ModeArg::Restore {
            return Err(
                "--on-exist fail needs --mode restore: plain commands cannot refuse a key"
                    .to_owned(),
            );
        }
        let lower = |list: &[String]| {
            list.iter()
                .map(|t| t.to_ascii_lowercase())
                .collect::<Vec<_>>()
        };
        let some = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
        let wrong = |flag: &'static str| move |e| format!("{flag}: {e}");
        let now_ms = filter.now.map_or(now_ms, |m| m.0);
        Ok(Settings {
            filter: Filter {
                dbs: if filter.db.is_empty() {
                    None
                } else {
                    Some(filter.db.clone())
                },
                not_dbs: filter.not_db.clone(),
                keys: patterns(&filter.key, &filter.key_regex).map_err(wrong("--key-regex"))?,
                not_keys: patterns(&filter.not_key, &filter.not_key_regex)
                    .map_err(wrong("--not-key-regex"))?,
                types: some(lower(&filter.types)),
                not_types: lower(&filter.not_types),
                size: filter.size.map(|Sizes(from, to)| (from, to)),
                ttl: filter.ttl.map(|t| t.0),
                keep_expired: filter.expired.into(),
                now_ms,
            },
            transform: Transform {
                db_map: transform
                    .db_map
                    .iter()
                    .map(|DbPair(from, to)| (*from, *to))
                    .collect(),
                rename_prefix: transform
                    .rename_prefix
                    .iter()
                    .map(|PrefixPair(from, to)| {
                        (from.clone().into_bytes(), to.clone().into_bytes())
                    })
                    .collect(),
                add_prefix: transform.add_prefix.clone().into_bytes(),
                no_ttl: transform.no_ttl,
                ttl_shift_ms: transform.ttl_shift.map_or(0, |m| m.0),
                hold_until_ms: None,
            },
            target: Target {
                dialect,
                version: form.target_version,
            },
            mode: form.mode.into(),
            on_exist: form.on_exist.into(),
            on_error: self.output.on_error.into(),
            batch_elements: form.batch_elements.unwrap_or(elements),
            batch_bytes: form.batch_bytes.map_or(bytes, |b| b.0 as usize),
            no_functions: form.no_functions,
            log: LogRules {
                pass_unknown: self.logs.unknown_commands.into(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }
}
