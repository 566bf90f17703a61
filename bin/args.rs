//! Flags. Parsing only checks; nothing is opened here.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use redis_migration::command::encode::{Form, Mode, OnError, OnExist, Settings};
use redis_migration::command::rewrite::LogRules;
use redis_migration::command::target::{Dialect, Target, Version};
use redis_migration::filter::{Filter, patterns};
use redis_migration::pipeline::Checksum;
use redis_migration::transform::Transform;

use crate::check::CheckArgs;
use crate::report::ReportArgs;
use crate::values::{
    ByteRate, Bytes, DbPair, HostPort, KeyRate, Limit, LogTime, Millis, Moment, Password,
    PrefixPair, Sizes, Ttls,
};
use crate::verify::VerifyArgs;

/// Moves Redis data that is in files or in live servers.
///
/// Reads snapshots (dump.rdb) and append-only files of every Redis up to 8.10 and Valkey up to 9.1 and writes them as
/// RESP commands, for redis-cli --pipe, for nc, or for later, or sends them straight to a server, a Cluster or a
/// twemproxy. Of a live server it becomes a replica. It compares what a server holds with a file, and tells whether files
/// are whole and what is in them. Results go to stdout, everything else to stderr.
#[derive(Debug, Parser)]
#[command(
    name = "redis-migration",
    version,
    max_term_width = 110,
    after_help = crate::classic::USAGE,
    after_long_help = format!("{}\n\n{EXITS}", crate::classic::USAGE)
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXITS: &str = "\
Exit codes:
  0    all that was asked is done
  1    finished, but something was rejected or differs, a log ended within a command, or a server was started anew
       meanwhile
  2    wrong usage
  3    input corrupt, truncated or of an unknown version (byte offset and key are named)
  4    source or destination not reachable, or it refused the login
  5    stopped by policy: output or a key exists, destination not fit for a command or the dialect, a log that is
       not the one of the checkpoint
  74   a local file could not be read or written
  75   --lock FILE, or a file of the run, is held by another run
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
    /// Send snapshots and append-only files to a Redis, a Valkey, a Cluster or a twemproxy
    ///
    /// What convert would write goes straight to the destination, and every answer is read: a run that ends with exit
    /// code 0 has seen each of them. Where it breaks off, it says what the destination holds and how to go on.
    ///
    /// The destination is named as redis-cli names it, so that -h is the host; at the end of the line it is help.
    #[command(after_help = "-h at the end of the line prints this, --help more.", after_long_help = REPLAY_EXAMPLES)]
    Replay(Box<ReplayArgs>),
    /// Bring a live server over: become its replica, load its snapshot, then follow what it does
    ///
    /// The snapshot and all that the source does meanwhile are received to files first, so that the source never waits
    /// for the destination; then they are sent as replay sends them. When it has caught up it stays online until it is
    /// interrupted, or ends with --until caught-up. Whatever breaks is opened again, and the same command started again
    /// goes on where it was.
    ///
    /// The destination is named by --to, or as redis-cli names it; -h at the end of the line is help.
    #[command(after_help = "-h at the end of the line prints this, --help more.", after_long_help = MIGRATE_EXAMPLES)]
    Migrate(Box<MigrateArgs>),
    /// Compare snapshots and append-only files with what a destination holds now
    #[command(after_help = "-h at the end of the line prints this, --help more.")]
    Verify(Box<VerifyArgs>),
    /// Find out whether files are whole; where not, where they break, and what can be saved
    Check(Box<CheckArgs>),
    /// Tell what is in files: keys, types, sizes, prefixes, expiry
    Report(Box<ReportArgs>),
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

const REPLAY_EXAMPLES: &str = "\
Examples:
  redis-migration replay dump.rdb -h 127.0.0.1 -p 22121
  redis-migration replay appendonlydir -u rediss://app@cache.example:6380 --askpass
  redis-migration replay dump.rdb appendonly.aof --on-exist replace --checkpoint load.ckpt
  redis-migration replay appendonly.aof --follow --checkpoint delta.ckpt -u redis://127.0.0.1:6379
  redis-migration replay dump.rdb -h 127.0.0.1 --dry-run

Exit codes are listed by redis-migration --help.";

const MIGRATE_EXAMPLES: &str = "\
Examples:
  redis-migration migrate --from redis://10.0.0.1 --to redis://10.0.0.2:22121
  redis-migration migrate --from redis://10.0.0.1 --to rediss://app@cache.example --askpass --until caught-up
  redis-migration migrate --from redis://10.0.0.1 -h 10.0.0.2 --rdb /data/dump.rdb --aof /data/delta.aof
  redis-migration migrate --method scan --from rediss://managed.example --to redis://10.0.0.2

The source's user needs ACL +psync +replconf +ping. While a large snapshot is sent the source keeps its changes in memory: \
raise its client-output-buffer-limit for replicas and its repl-backlog-size.

Exit codes are listed by redis-migration --help.";

#[derive(Debug, Clone, Args)]
pub struct ConvertArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub failures: FailureArgs,
    #[command(flatten)]
    pub form: FormArgs,
    #[command(flatten)]
    pub batches: BatchArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub transform: TransformArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

// -h is the host, as with redis-cli; main.rs sees to a bare one at the end. What the shared flags say of outputs that
// are files is said anew.
#[derive(Debug, Clone, Args)]
#[command(
    disable_help_flag = true,
    mut_arg("checksum", |arg| arg.long_help(REPLAY_CHECKSUM)),
    mut_arg("follow", |arg| arg.help(REPLAY_FOLLOW).long_help(format!("{REPLAY_FOLLOW}\n\n{REPLAY_FOLLOW_MORE}"))),
    mut_arg("checkpoint", |arg| {
        arg.help(REPLAY_CHECKPOINT).long_help(format!("{REPLAY_CHECKPOINT}\n\n{REPLAY_CHECKPOINT_MORE}"))
    }),
)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub logs: LogArgs,
    #[command(flatten)]
    pub failures: FailureArgs,
    #[command(flatten)]
    pub batches: BatchArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub transform: TransformArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
    /// The command line was the original's: five connections, a twemproxy unless the destination proves to be a
    /// plain server, and the original's lines of progress.
    #[arg(long, hide = true)]
    pub classic: bool,
    /// Print help; a bare -h at the end prints a shorter one
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

// --to is what replay calls -u.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    mut_arg("uri", |arg| arg.long("to")),
)]
pub struct MigrateArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub spool: SpoolArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Stop when the destination has caught up, instead of staying online
    ///
    /// caught-up: everything that the source had done when the snapshot was loaded and its log caught up with is
    /// acknowledged. Exit code 0.
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Source")]
    pub until: Option<UntilArg>,
    /// Worker threads; default: one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Source")]
    pub threads: Option<u16>,
    /// Commands that no known server has: refuse them, or let them pass as they stand
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "stop",
        help_heading = "Source"
    )]
    pub unknown_commands: UnknownArg,
    /// Expiries nearer than this wait until the destination has caught up
    ///
    /// A key whose time passes at the destination before the command arrives that renews it would be lost. So nearer
    /// expiries are first written as this far ahead; the source's own removals are followed all the while. 0 writes all
    /// times at once.
    #[arg(
        long,
        value_name = "DUR",
        default_value = "1d",
        help_heading = "Source"
    )]
    pub hold: Millis,
    /// Leave import mode of a Valkey alone, and hold expiries back there too
    ///
    /// A Valkey of 8.1 or later whose configuration may be changed is in import mode until the end: nothing there
    /// expires or is evicted meanwhile, and all times are written at once.
    #[arg(long, help_heading = "Source")]
    pub no_import_mode: bool,
    #[command(flatten)]
    pub failures: FailureArgs,
    #[command(flatten)]
    pub batches: BatchArgs,
    #[command(flatten)]
    pub filter: FilterArgs,
    #[command(flatten)]
    pub transform: TransformArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
    /// The command line was the original's: five connections, a twemproxy unless the destination proves to be a
    /// plain server, and the original's lines of progress.
    #[arg(long, hide = true)]
    pub classic: bool,
    /// Print help; a bare -h at the end prints a shorter one
    #[arg(long, action = ArgAction::HelpLong)]
    help: Option<bool>,
}

/// The live server that is brought over.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    /// The source as a URI: redis://USER:PASSWORD@HOST:PORT, rediss:// with TLS, or unix://
    #[arg(long, value_name = "URI", required_unless_present = "from_host")]
    pub from: Option<String>,
    /// Its name or address, instead of the URI's
    #[arg(long, value_name = "HOST")]
    pub from_host: Option<String>,
    /// Its port, instead of the URI's; default: 6379
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub from_port: Option<u16>,
    /// Its password; see -a for who can read it. REDIS_MIGRATION_SOURCE_AUTH keeps it out of the list of processes
    #[arg(long, value_name = "PASSWORD", allow_hyphen_values = true)]
    pub from_pass: Option<Password>,
    /// The user to log in as there
    #[arg(long, value_name = "USER")]
    pub from_user: Option<String>,
    /// Ask for its password on the terminal
    #[arg(long, conflicts_with_all = ["from_pass", "from_password_file"])]
    pub from_askpass: bool,
    /// Read its password from the first line of FILE
    #[arg(long, value_name = "FILE", conflicts_with = "from_pass")]
    pub from_password_file: Option<PathBuf>,
    /// Connect to it with TLS
    #[arg(long)]
    pub from_tls: bool,
    /// Trust the certificates in FILE (PEM) for it instead of those of the system
    #[arg(long, value_name = "FILE", conflicts_with = "from_insecure")]
    pub from_cacert: Option<PathBuf>,
    /// Our own certificate (PEM) for it
    #[arg(long, value_name = "FILE")]
    pub from_tls_cert: Option<PathBuf>,
    /// The private key of --from-tls-cert (PEM); default: in the same file
    #[arg(long, value_name = "FILE", requires = "from_tls_cert")]
    pub from_tls_key: Option<PathBuf>,
    /// The name to find in its certificate; default: the host
    #[arg(long, value_name = "NAME")]
    pub from_sni: Option<String>,
    /// Take any certificate of it
    #[arg(long)]
    pub from_insecure: bool,
    /// How long to try again where the source is away
    ///
    /// Counted from the moment when the connection was lost. What was received until then is sent on meanwhile.
    #[arg(long, value_name = "DUR", default_value = "1h", value_parser = no_less_than_nothing)]
    pub from_retry_for: Millis,
    /// How the source is read
    ///
    /// psync: as a replica, with all that it does from then on. scan: by SCAN and DUMP, for servers that take no
    /// replicas (managed services); only the keys as they are found, not what changes meanwhile.
    #[arg(long, value_enum, value_name = "HOW", default_value = "psync")]
    pub method: MethodArg,
}

/// The files that a live source is received to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Files")]
pub struct SpoolArgs {
    /// Where the snapshot is received to
    #[arg(long, value_name = "FILE", default_value = "dump.rdb")]
    pub rdb: PathBuf,
    /// Where the changes are received to: a manifest of append-only files, which lie beside it
    ///
    /// FILE.spool and FILE.checkpoint beside it remember how far the run has come.
    #[arg(long, value_name = "FILE", default_value = "appendonly.aof")]
    pub aof: PathBuf,
    /// Keep everything that was received
    ///
    /// Otherwise what is acknowledged is removed as the run goes on, and all of it when the run ends with nothing left
    /// to do.
    #[arg(long)]
    pub keep_spool: bool,
    /// Replace files of these names that no such run made, or one from another source, or that are damaged
    #[arg(long)]
    pub force: bool,
}

const REPLAY_CHECKSUM: &str = "\
When to hold the checksum against the file

first: before the first byte is sent. along: while reading, so that a mismatch is found when the destination holds the \
keys already. off: never. The default is first. A file without a checksum is walked from end to end in its place.";

const REPLAY_FOLLOW: &str =
    "Go on when the end is reached: send what its server appends, until interrupted";

const REPLAY_FOLLOW_MORE: &str = "\
Like tail -F, and it knows the format: nothing but whole commands and whole transactions, each within a tenth of a \
second; rewrites and new incremental files are followed without repeating anything. The input may appear later.";

const REPLAY_CHECKPOINT: &str = "Remember in FILE what the destination has acknowledged; the same command started again goes on there";

const REPLAY_CHECKPOINT_MORE: &str = "\
It is written as the answers come in, so that no command is lost, and none is sent twice that must not be. A log or \
a snapshot that is not the same any more ends the run with exit code 5.";

#[derive(Debug, Clone, Args)]
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

#[derive(Debug, Clone, Args)]
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
    #[command(flatten)]
    pub reading: LogReadingArgs,
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

/// How a log is read.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Append-only files")]
pub struct LogReadingArgs {
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
}

#[derive(Debug, Clone, Args)]
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
}

/// What convert and replay do about keys and commands that fail.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Failures")]
pub struct FailureArgs {
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

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Form of the commands")]
pub struct FormArgs {
    /// What is written
    ///
    /// resp: commands of RESP, for redis-cli --pipe and for replay. jsonl: a line of JSON for each key, each function and
    /// each command of a log, for jq and for programs that know nothing of Redis; every subcommand reads such lines
    /// again, without loss. Of what is asked for here, nothing else has a meaning for them.
    #[arg(long, value_enum, default_value = "resp")]
    pub format: FormatArg,
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
}

/// What convert and replay have in common in the form of commands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Form of the commands")]
pub struct BatchArgs {
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

/// Where a server is and how to be let in, in redis-cli's own names.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub struct ServerArgs {
    /// Name or address of the server or proxy; default: 127.0.0.1
    #[arg(short = 'h', value_name = "HOST", conflicts_with = "socket")]
    pub host: Option<String>,
    /// Its port; default: 6379
    #[arg(short = 'p', value_name = "PORT", conflicts_with = "socket", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Its Unix socket, instead of host and port
    #[arg(short = 's', value_name = "SOCKET", conflicts_with_all = ["uri", "tls"])]
    pub socket: Option<PathBuf>,
    /// All of it as a URI: redis://, rediss:// or unix://
    ///
    /// redis://USER:PASSWORD@HOST:PORT, rediss:// with TLS, unix://PATH. The flags beside it win over its parts. It
    /// names no database: keys go to the database they were in, or to the one that --db-map says.
    #[arg(short = 'u', value_name = "URI")]
    pub uri: Option<String>,
    /// The password
    ///
    /// Everyone on this machine can read it in the list of processes, and the shell may keep it. REDISCLI_AUTH,
    /// --password-file and --askpass keep it to themselves. Messages never show it.
    #[arg(
        short = 'a',
        long = "pass",
        value_name = "PASSWORD",
        allow_hyphen_values = true
    )]
    pub pass: Option<Password>,
    /// The user to log in as, where the server has users (ACL)
    ///
    /// Without it the password is that of the default user, which is all that servers before 6.0 and twemproxy know.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
    /// Ask for the password on the terminal
    #[arg(long, conflicts_with_all = ["pass", "password_file"])]
    pub askpass: bool,
    /// Read the password from the first line of FILE
    ///
    /// The end of the line is not part of it; every other byte is.
    #[arg(long, value_name = "FILE", conflicts_with = "pass")]
    pub password_file: Option<PathBuf>,
    /// Connect with TLS
    #[arg(long)]
    pub tls: bool,
    /// Trust the certificates in FILE (PEM) instead of those of the system
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub cacert: Option<PathBuf>,
    /// Our own certificate (PEM), for servers that ask for one
    #[arg(
        long,
        visible_alias = "cert",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM); default: in the same file
    ///
    /// redis-cli calls it --key, which chooses keys here.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// The name to ask for in the TLS handshake, and to find in the certificate; default: the host
    #[arg(long, value_name = "NAME")]
    pub sni: Option<String>,
    /// Take any certificate
    ///
    /// The connection is still encrypted, but to whom is not known: whoever stands between can read the password and
    /// every key.
    #[arg(long)]
    pub insecure: bool,
}

/// Where commands are sent, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Destination")]
pub struct TargetArgs {
    #[command(flatten)]
    pub server: ServerArgs,
    /// Connections to the destination; default: 2, twemproxy 4; of a Cluster to each master, default: 1
    ///
    /// A key always goes by the same one, so that its commands keep their order. More than a few help only where
    /// round trips are long.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub connections: Option<u16>,
    /// Most commands that wait for their answer on one connection; default: 512, Cluster and twemproxy 256
    ///
    /// A twemproxy takes memory for each, at least 16 KiB, and gives none back: for it all connections together have
    /// 1024 at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub pipeline: Option<u32>,
    /// Send no more keys a second than this; default: no limit
    ///
    /// For destinations that serve others meanwhile. A command of a log counts as a key.
    #[arg(long, value_name = "KEYS/s")]
    pub rate: Option<KeyRate>,
    /// Send no more bytes a second than this, for example 20mb/s; default: no limit
    #[arg(long, value_name = "SIZE/s")]
    pub rate_bytes: Option<ByteRate>,
    /// How long connecting and the greeting may take
    ///
    /// When it passes the run ends with exit code 4, unless the destination answered before: then --retry-for counts. The
    /// answer to a command may take twelve times as long; then its connection is given up and opened again.
    #[arg(long, value_name = "DUR", default_value = "5s", value_parser = some_time)]
    pub timeout: Millis,
    /// How long to try again where the destination is away, loading or out of memory
    ///
    /// Counted from its last answer; between tries the pauses grow to 5 s. Only what may be sent twice without
    /// changing anything, or what the destination itself guards against it, is sent again. 0 tries once more.
    #[arg(long, visible_alias = "retry", value_name = "DUR", default_value = "60s", value_parser = no_less_than_nothing)]
    pub retry_for: Millis,
    /// The timeout of twemproxy's configuration, after which it drops what it waits for
    ///
    /// Less is sent at once where answers take a quarter of it, so that no command is dropped for those before it.
    #[arg(long, value_name = "DUR", default_value = "400ms", value_parser = some_time)]
    pub proxy_timeout: Millis,
    /// Where twemproxy's statistics are, usually at port 22222
    ///
    /// They tell, before the first key is sent, of settings under which commands change places or servers are left
    /// out, and at the end of what the proxy lost.
    #[arg(long, value_name = "HOST:PORT")]
    pub proxy_stats: Option<HostPort>,
    /// The database that the twemproxy is set to write to (its redis_db)
    ///
    /// It cannot be asked of a twemproxy. With this flag a run ends with exit code 5 before anything is sent, if keys land
    /// in another one: nutcracker 0.5.0 writes to database 0 where its pool has a redis_auth.
    #[arg(long, value_name = "N")]
    pub proxy_db: Option<u64>,
    /// Send again what may have been done already, where nothing guards against doing it twice
    ///
    /// After a connection breaks nobody knows whether the last commands were carried out. Where neither the command
    /// nor the destination makes a second time harmless, the run stops; with this flag it goes on, and the keys that
    /// may be doubled are listed.
    #[arg(long)]
    pub at_least_once: bool,
    /// Look at the inputs and the destination, say what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Values from this size on go in pieces, not as one RESTORE
    ///
    /// A server does nothing else while it takes a value in. In pieces it serves others in between, but for that time
    /// they can see the key half filled.
    #[arg(long, value_name = "SIZE", default_value = "64mb")]
    pub big_key: Bytes,
    /// What the destination is; default: it is asked
    ///
    /// redis: SELECT between databases. cluster: database 0 only, each key to the master of its slot. twemproxy:
    /// database 0 only, and only what nutcracker forwards.
    #[arg(long, visible_alias = "target", value_enum, value_name = "WHAT")]
    pub dialect: Option<DialectArg>,
    /// Version of the destination: X.Y, or valkey-X.Y; default: it is asked
    ///
    /// Decides which forms are used. For proxies that hide it; of servers behind one, give the oldest.
    #[arg(long, value_name = "VERSION")]
    pub target_version: Option<Version>,
    /// The form of values
    ///
    /// commands: SET, RPUSH, HSET …, and RESTORE only for values that have no commands, such as those of modules.
    /// restore: RESTORE for every key, which also carries idle times, frequencies and every detail of a stream,
    /// but needs a server that knows the encoding. auto: strings by SET, the rest by RESTORE where the destination
    /// takes it, else by commands.
    #[arg(long, value_enum, default_value = "auto")]
    pub mode: ModeArg,
    /// Keys that the destination holds already; default: fail
    ///
    /// fail: the first one ends the run with exit code 5, before anything of it is changed. skip: they stay as they
    /// are. replace: they are replaced. merge: they are added to, without a look; for destinations known to be empty.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub on_exist: Option<PresentArg>,
}

pub fn some_time(text: &str) -> Result<Millis, String> {
    match text.parse()? {
        Millis(ms) if ms > 0 => Ok(Millis(ms)),
        _ => Err("more than nothing is needed, for example 5s".to_owned()),
    }
}

pub fn no_less_than_nothing(text: &str) -> Result<Millis, String> {
    match text.parse()? {
        Millis(ms) if ms >= 0 => Ok(Millis(ms)),
        _ => Err("a time cannot be less than nothing".to_owned()),
    }
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

#[derive(Debug, Clone, Args)]
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

#[derive(Debug, Clone, Args)]
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

#[derive(Debug, Clone, Args)]
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
    /// Write counts for Prometheus to FILE at the end, migrate also while it runs (textfile collector)
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
choice!(FormatArg { Resp => Form::Commands, Jsonl => Form::JsonLines } -> Form);
choice!(ModeArg { Commands => Mode::Commands, Restore => Mode::Restore, Auto => Mode::Auto } -> Mode);
choice!(DialectArg {
    Redis => Dialect::Redis, Cluster => Dialect::Cluster, Twemproxy => Dialect::Twemproxy
} -> Dialect);
choice!(OnExistArg {
    Replace => OnExist::Replace, Merge => OnExist::Merge, Fail => OnExist::Fail
} -> OnExist);
choice!(
    /// As [`OnExistArg`], of a destination that can be asked.
    PresentArg {
        Fail => OnExist::Fail,
        // Whoever sends the keys leaves those out that are there. Should one appear in between, RESTORE without
        // REPLACE is refused and changes nothing, which is what was asked for.
        Skip => OnExist::Fail,
        Replace => OnExist::Replace,
        Merge => OnExist::Merge,
    } -> OnExist
);
choice!(UnknownArg { Stop => false, Pass => true } -> bool);
choice!(ExpiredArg { Skip => false, Keep => true } -> bool);

/// When a live migration ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UntilArg {
    CaughtUp,
}

/// How a live source is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MethodArg {
    Psync,
    Scan,
}

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
        let form = &self.form;
        if form.format == FormatArg::Jsonl {
            let batches = &self.batches;
            for (given, flag) in [
                (form.mode != ModeArg::Commands, "--mode"),
                (form.dialect != DialectArg::Redis, "--dialect"),
                (form.target_version.is_some(), "--target-version"),
                (form.on_exist != OnExistArg::Replace, "--on-exist"),
                (batches.batch_elements.is_some(), "--batch-elements"),
                (batches.batch_bytes.is_some(), "--batch-bytes"),
            ] {
                if given {
                    return Err(format!(
                        "{flag} is about commands, and --format jsonl writes none: give it to whatever loads the lines"
                    ));
                }
            }
        }
        if form.on_exist == OnExistArg::Fail && form.mode != ModeArg::Restore {
            return Err(
                "--on-exist fail needs --mode restore: plain commands cannot refuse a key"
                    .to_owned(),
            );
        }
        let target = Target {
            dialect: form.dialect.into(),
            version: form.target_version,
            key_bytes: None,
        };
        Ok(Settings {
            form: form.format.into(),
            mode: form.mode.into(),
            on_exist: form.on_exist.into(),
            ..settings(
                &self.filter,
                &self.transform,
                &self.batches,
                &self.failures,
                &self.logs,
                target,
                now_ms,
            )?
        })
    }
}

impl MigrateArgs {
    /// The replay of what is received, while it is.
    pub fn replay(&self, checkpoint: PathBuf) -> ReplayArgs {
        let is_live = self.source.method == MethodArg::Psync;
        let mut inputs = vec![self.spool.rdb.clone()];
        inputs.extend(is_live.then(|| self.spool.aof.clone()));
        ReplayArgs {
            input: InputArgs {
                inputs,
                // It was checked while it was received.
                checksum: Some(ChecksumArg::Off),
                threads: self.threads,
                no_mmap: false,
                tmp_dir: None,
            },
            target: self.target.clone(),
            logs: LogArgs {
                follow: is_live,
                checkpoint: Some(checkpoint),
                until: None,
                reading: LogReadingArgs::default(),
                unknown_commands: self.unknown_commands,
                hold: self.hold,
            },
            failures: self.failures.clone(),
            batches: self.batches.clone(),
            filter: self.filter.clone(),
            transform: self.transform.clone(),
            manners: self.manners.clone(),
            classic: self.classic,
            help: None,
        }
    }
}

impl ReplayArgs {
    /// The library's settings, for a destination that is known by now: what it was found to be, or what --dialect and
    /// --target-version say it is. Errors are usage errors.
    pub fn settings(&self, now_ms: i64, target: Target) -> Result<Settings, String> {
        Ok(Settings {
            mode: self.target.mode.into(),
            on_exist: self.on_exist().into(),
            ..settings(
                &self.filter,
                &self.transform,
                &self.batches,
                &self.failures,
                &self.logs,
                target,
                now_ms,
            )?
        })
    }

    /// What was said about keys that are there, or what holds when nothing was.
    pub fn on_exist(&self) -> PresentArg {
        self.target.on_exist.unwrap_or(PresentArg::Fail)
    }

    /// How many connections were asked for; the original opens 5 unless told otherwise.
    pub fn connections(&self) -> Option<u16> {
        const ORIGINAL: u16 = 5;
        self.target.connections.or(self.classic.then_some(ORIGINAL))
    }
}

impl FilterArgs {
    /// Which keys pass. Errors are usage errors.
    pub fn filter(&self, now_ms: i64) -> Result<Filter, String> {
        let lower = |list: &[String]| {
            list.iter()
                .map(|t| t.to_ascii_lowercase())
                .collect::<Vec<_>>()
        };
        let some = |list: Vec<String>| if list.is_empty() { None } else { Some(list) };
        let wrong = |flag: &'static str| move |e| format!("{flag}: {e}");
        let now_ms = self.now.map_or(now_ms, |m| m.0);
        Ok(Filter {
            dbs: if self.db.is_empty() {
                None
            } else {
                Some(self.db.clone())
            },
            not_dbs: self.not_db.clone(),
            keys: patterns(&self.key, &self.key_regex).map_err(wrong("--key-regex"))?,
            not_keys: patterns(&self.not_key, &self.not_key_regex)
                .map_err(wrong("--not-key-regex"))?,
            types: some(lower(&self.types)),
            not_types: lower(&self.not_types),
            size: self.size.map(|Sizes(from, to)| (from, to)),
            ttl: self.ttl.map(|t| t.0),
            keep_expired: self.expired.into(),
            now_ms,
        })
    }
}

impl TransformArgs {
    /// What changes on the way.
    pub fn transform(&self) -> Transform {
        Transform {
            db_map: self
                .db_map
                .iter()
                .map(|DbPair(from, to)| (*from, *to))
                .collect(),
            rename_prefix: self
                .rename_prefix
                .iter()
                .map(|PrefixPair(from, to)| (from.clone().into_bytes(), to.clone().into_bytes()))
                .collect(),
            add_prefix: self.add_prefix.clone().into_bytes(),
            no_ttl: self.no_ttl,
            ttl_shift_ms: self.ttl_shift.map_or(0, |m| m.0),
            hold_until_ms: None,
        }
    }
}

/// What the settings of all subcommands have in common. Mode and existing keys are the caller's to set.
fn settings(
    filter: &FilterArgs,
    transform: &TransformArgs,
    batches: &BatchArgs,
    failures: &FailureArgs,
    logs: &LogArgs,
    target: Target,
    now_ms: i64,
) -> Result<Settings, String> {
    let (elements, bytes) = match target.dialect {
        Dialect::Redis | Dialect::Cluster => (500, 256 << 10),
        Dialect::Twemproxy => (100, 64 << 10),
    };
    Ok(Settings {
        filter: filter.filter(now_ms)?,
        transform: transform.transform(),
        target,
        on_error: failures.on_error.into(),
        batch_elements: batches.batch_elements.unwrap_or(elements),
        batch_bytes: batches.batch_bytes.map_or(bytes, |b| b.0 as usize),
        no_functions: batches.no_functions,
        log: LogRules {
            pass_unknown: logs.unknown_commands.into(),
            ..LogRules::default()
        },
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    fn replay(flags: &[&str]) -> ReplayArgs {
        let words = [&["redis-migration", "replay", "dump.rdb"], flags].concat();
        match Cli::try_parse_from(words).expect("flags").command {
            Command::Replay(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replay_refuses_keys_that_are_there_and_prefers_restore_unless_told_otherwise() {
        let args = replay(&[]);
        assert_eq!(args.on_exist(), PresentArg::Fail);
        assert_eq!(args.connections(), None);
        let settings = args
            .settings(
                7,
                Target {
                    dialect: Dialect::Cluster,
                    ..Target::default()
                },
            )
            .expect("settings");
        assert_eq!(
            (settings.mode, settings.on_exist),
            (Mode::Auto, OnExist::Fail)
        );
        assert_eq!(settings.target.dialect, Dialect::Cluster);
        assert_eq!((settings.batch_elements, settings.filter.now_ms), (500, 7));

        let args = replay(&[
            "--on-exist",
            "merge",
            "--mode",
            "commands",
            "--db-map",
            "1=0",
            "--no-functions",
            "--on-error",
            "continue",
            "--unknown-commands",
            "pass",
        ]);
        let version: Version = "6.2".parse().expect("a version");
        let settings = args
            .settings(
                7,
                Target {
                    dialect: Dialect::Twemproxy,
                    version: Some(version),
                    key_bytes: None,
                },
            )
            .expect("settings");
        assert_eq!(
            (settings.mode, settings.on_exist),
            (Mode::Commands, OnExist::Merge)
        );
        assert_eq!(settings.target.version, Some(version));
        assert_eq!(
            (settings.batch_elements, settings.batch_bytes),
            (100, 64 << 10)
        );
        assert_eq!(settings.transform.db_map.get(&1), Some(&0));
        assert_eq!(settings.on_error, OnError::Continue);
        assert!(settings.no_functions && settings.log.pass_unknown);
    }

    #[test]
    fn the_original_opens_five_connections_unless_told_otherwise() {
        assert_eq!(replay(&["--classic"]).connections(), Some(5));
        assert_eq!(
            replay(&["--classic", "--connections", "9"]).connections(),
            Some(9)
        );
    }
}
