//! Commands of a log → commands that mean the same at the destination.
//!
//! The selection and the changes that hold for the keys of a snapshot hold for every key of a command. What a dialect
//! or a version does not know is put in other words where those mean exactly the same, and refused where not. Relative
//! expiries become absolute, because the log may be replayed at any time.

mod expiry;
mod words;
mod write;

use self::words::XaddWords;
use super::encode::Settings;
use super::held::Held;
use super::keys::{NoKeys, for_each_key, slot};
use super::table::{Expiry, Group, Spec, lookup};
use super::target::{Dialect, Feature, Target};
use crate::cursor::At;
use crate::error::{Error, ErrorKind, KEY_SHOWN, KeyName};
use crate::resp::parse::{Command, time_of};
use crate::tally::{Limit, Reject, Tally};

/// How commands are read that a snapshot does not hold.
#[derive(Debug, Clone, Default)]
pub struct LogRules {
    /// Pass on commands that no known server has, as they stand.
    pub pass_unknown: bool,
    /// Tell before each unit where in the log it stands ([`Out::place`](crate::resp::write::Out::place)).
    pub places: bool,
    /// Every command goes through a script on the far side of a proxy: any with one key may be used, except scripts, and
    /// PEXPIREAT with XX on servers that do not know it.
    pub guarded: bool,
}

/// Commands with more arguments than this pass as they stand or not at all.
const MOST_ARGS: u64 = 2 << 20;
/// Memory for held expiries; more go to a temporary file.
const HELD_BYTES: usize = 24 << 20;

/// Runs a command whose key comes first, through a proxy that does not know its name.
const RUN_KEY_FIRST: &str = "return redis.call(ARGV[1],KEYS[1],unpack(ARGV,2))";

/// What becomes of a command.
#[derive(Debug)]
pub struct Decision<'a> {
    what: What<'a>,
    effect: Effect,
    /// What is not carried, or passes with a warning.
    limit: Option<Limit>,
}

#[derive(Debug)]
enum What<'a> {
    AsIs,
    Lines(Vec<Line<'a>>),
    /// SELECT of the source.
    Select(u64),
    Drop,
    Reject(String),
    /// A key of it is longer than the destination takes.
    TooLong(String),
    /// It belongs to a database that the destination does not have.
    OtherDb,
}

/// A command to write.
#[derive(Debug, Default)]
struct Line<'a> {
    args: Vec<Arg<'a>>,
    /// The database at the destination in which it is written, where that is not the present one's.
    db: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Arg<'a> {
    Bytes(&'a [u8]),
    /// A key, not yet renamed.
    Key(&'a [u8]),
    Int(i64),
}

/// Which expiries go on being held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None of those that are; with a number, those to come that are nearer than so many milliseconds.
    None(Option<i64>),
    /// Those that are nearer than so many milliseconds, now and to come: a command that renews one may be on its way.
    Near(i64),
}

/// What a command does to expiries that are held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    None,
    /// Its keys, or their fields, expire at this true time; `None`: never.
    Expires(Option<i64>),
    /// Its keys are gone.
    Gone,
    Rename,
    /// To this database of the destination.
    Copy(u64),
    /// To this database of the destination.
    Move(u64),
    Swap(u64, u64),
    FlushDb,
    FlushAll,
}

impl<'a> Decision<'a> {
    fn lines(lines: Vec<Line<'a>>) -> Self {
        What::Lines(lines).into()
    }

    fn with(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Why it cannot be written, if so.
    pub fn refusal(&self) -> Option<&str> {
        match &self.what {
            What::Reject(why) | What::TooLong(why) => Some(why),
            What::OtherDb => Some(
                "the destination has database 0 only; choose a database with --db N and bring it there with --db-map N=0",
            ),
            _ => None,
        }
    }

    /// Whether it belongs to a database that the destination does not have.
    pub fn is_of_other_db(&self) -> bool {
        matches!(self.what, What::OtherDb)
    }

    /// Whether a key of it is longer than the destination takes.
    pub fn is_too_long(&self) -> bool {
        matches!(self.what, What::TooLong(_))
    }

    /// Whether it is a SELECT: where the commands behind it belong.
    pub fn selects(&self) -> Option<u64> {
        match self.what {
            What::Select(db) => Some(db),
            _ => None,
        }
    }

    /// Whether something is written for it.
    pub fn is_written(&self) -> bool {
        matches!(self.what, What::AsIs | What::Lines(_))
    }
}

impl<'a> From<What<'a>> for Decision<'a> {
    fn from(what: What<'a>) -> Self {
        Decision {
            what,
            effect: Effect::None,
            limit: None,
        }
    }
}

fn reject<'a>(why: impl Into<String>) -> Decision<'a> {
    What::Reject(why.into()).into()
}

impl<'a> Line<'a> {
    fn new(name: &'static str) -> Self {
        Line {
            args: vec![Arg::Bytes(name.as_bytes())],
            db: None,
        }
    }

    fn key(mut self, key: &'a [u8]) -> Self {
        self.args.push(Arg::Key(key));
        self
    }

    fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.args.push(Arg::Bytes(bytes));
        self
    }

    fn int(mut self, n: i64) -> Self {
        self.args.push(Arg::Int(n));
        self
    }

    fn all(mut self, args: impl Iterator<Item = &'a [u8]>) -> Self {
        self.args.extend(args.map(Arg::Bytes));
        self
    }
}

/// Turns the commands of one log into others.
pub struct Rewriter<'s> {
    settings: &'s Settings,
    /// Expiries that are written behind the log; `None` where none is held.
    held: Option<Held>,
    /// Whether times of hash fields were ever held: what makes a key another type's voids them.
    holds_fields: bool,
    /// The database selected in the log.
    pub db: u64,
    /// The time that the log told last, in Unix milliseconds.
    pub time_ms: Option<i64>,
    /// The time that relative expiries count from where the log does not tell its own.
    pub clock_ms: Option<i64>,
    /// Counts of commands.
    pub tally: Tally,
    /// Nothing is chosen, renamed or put in other words: most commands pass as they stand.
    open: bool,
    /// Expiries before this time wait, and are written as this time for now.
    hold_until_ms: Option<i64>,
    /// That time is always so far ahead of the clock, once the log was caught up with.
    ahead_ms: Option<i64>,
    /// Commands that were written and did more than remove a key: what is quiet has no new ones.
    pub changes: u64,
    renamed: Vec<u8>,
}

impl<'s> Rewriter<'s> {
    /// For a destination as `settings` has it.
    /// With `transform.hold_until_ms`, expiries are held until [`settle`](Self::settle).
    pub fn new(settings: &'s Settings) -> Self {
        let dialect = settings.target.dialect;
        Rewriter {
            settings,
            held: settings
                .transform
                .hold_until_ms
                .map(|_| Held::new(HELD_BYTES)),
            holds_fields: false,
            hold_until_ms: settings.transform.hold_until_ms,
            ahead_ms: None,
            changes: 0,
            db: 0,
            time_ms: None,
            clock_ms: None,
            tally: Tally::default(),
            open: dialect == Dialect::Redis
                && settings.filter.is_open()
                && !settings.transform.renames()
                && settings.target.version.is_none(),
            renamed: Vec::new(),
        }
    }

    /// Whether a command of this name and number of arguments passes as it stands, whatever its arguments are.
    #[inline]
    pub fn passes(&self, name: &[u8], argc: u64) -> bool {
        if !self.open {
            return false;
        }
        // The most common command, and the only one with options that most often comes without.
        if let [b's' | b'S', b'e' | b'E', b't' | b'T'] = name {
            return argc == 3 && !self.holds_fields;
        }
        lookup(name).is_some_and(|spec| {
            spec.write
                && argc >= u64::from(spec.arity.unsigned_abs())
                && spec.expiry == Expiry::None
                && !(self.holds_fields && of_other_type_than_hash(spec.group))
                && match spec.name {
                    "XADD" | "SPOP" | "SWAPDB" | "MOVE" | "COPY" | "RENAME" | "RENAMENX"
                    | "FLUSHALL" | "FLUSHDB" | "MIGRATE" | "FUNCTION" => false,
                    "DEL" | "UNLINK" | "GETDEL" | "PERSIST" => !self.has_held(),
                    _ => spec.subcommands.is_empty() || spec.name == "XGROUP",
                }
        })
    }

    /// What is written for a true expiry that has to wait.
    fn hold(&self, at_ms: i64) -> Option<i64> {
        self.hold_until_ms.filter(|until| at_ms < *until)
    }

    /// Whether expiries are held back at present.
    pub fn holds(&self) -> bool {
        self.hold_until_ms.is_some()
    }

    /// Whether there are any that were held back and have not their true times yet.
    pub fn has_held(&self) -> bool {
        self.held.as_ref().is_some_and(|held| !held.is_empty())
    }

    /// Expiries that are near now are held back, where they are for as long as the log goes on.
    pub fn roll(&mut self) {
        if let Some(ahead_ms) = self.ahead_ms {
            let until = jiff::Timestamp::now()
                .as_millisecond()
                .saturating_add(ahead_ms);
            self.hold_until_ms = self.hold_until_ms.max(Some(until));
        }
    }

    /// Takes note of a `#` line.
    pub fn hear(&mut self, line: &[u8]) {
        if let Some(time_ms) = time_of(line) {
            self.time_ms = Some(time_ms);
        }
    }

    /// Counts a command that is not written although it could be.
    pub fn drop_command(&mut self, decision: &Decision<'_>, rejected: bool) {
        match decision.what {
            What::Select(_) => {}
            _ if rejected => {
                self.tally.log.read += 1;
                self.tally.log.rejected += 1;
            }
            _ => {
                self.tally.log.read += 1;
                self.tally.log.filtered += 1;
            }
        }
    }

    /// The database at the destination in which commands now belong.
    pub fn target_db(&self) -> u64 {
        self.settings.transform.db(self.db)
    }

    /// What becomes of a command in database `db` of the source.
    pub fn decide<'a>(&self, command: &Command<'a>, db: u64) -> Decision<'a> {
        let name = command.name();
        let Some(spec) = lookup(name) else {
            let settings = self.settings;
            let chooses = settings.filter.chooses_keys() || settings.transform.renames();
            let shown = shown(name);
            return if !settings.log.pass_unknown {
                reject(format!(
                    "{shown} is no command of any known server; --unknown-commands pass lets such commands pass as they stand"
                ))
            } else if chooses || settings.target.dialect.single_db() {
                reject(format!(
                    "{shown} is no command of any known server, so its keys cannot be told"
                ))
            } else if !settings.filter.chooses_db(db) {
                What::Drop.into()
            } else {
                What::AsIs.into()
            };
        };
        let spec = if spec.subcommands.is_empty() {
            spec
        } else {
            command.arg(1).and_then(|arg| spec.sub(arg)).unwrap_or(spec)
        };
        let decision = match self.without_keys(spec, command, db) {
            Some(decision) => decision,
            None => self.with_keys(spec, command, db),
        };
        let settings = self.settings;
        if matches!(decision.what, What::AsIs | What::Lines(_))
            && settings.target.dialect.single_db()
            && settings.transform.db(db) != 0
        {
            return Decision {
                what: What::OtherDb,
                ..decision
            };
        }
        decision
    }

    /// Commands that are about no key, or about all of them.
    fn without_keys<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        db: u64,
    ) -> Option<Decision<'a>> {
        let settings = self.settings;
        let (target, filter) = (&settings.target, &settings.filter);
        let single = target.dialect.single_db();
        Some(match spec.name {
            "SELECT" => match command.arg(1).and_then(decimal) {
                Some(db) if db >= 0 => What::Select(db as u64).into(),
                // A loader ignores the error that a server answers.
                _ => What::Drop.into(),
            },
            // Keep-alive and replication's own words, and messages to clients that have long gone.
            "PING" | "REPLCONF" | "PUBLISH" | "SPUBLISH" => What::Drop.into(),
            _ if spec.name.starts_with("SCRIPT") => {
                if settings.no_functions {
                    What::Drop.into()
                } else if single {
                    Decision {
                        limit: Some(Limit::Scripts),
                        ..What::Drop.into()
                    }
                } else {
                    What::AsIs.into()
                }
            }
            _ if spec.name.starts_with("FUNCTION") => {
                if settings.no_functions {
                    What::Drop.into()
                } else if target.dialect == Dialect::Twemproxy {
                    reject("twemproxy forwards no FUNCTION: load it into each server directly")
                } else if !target.has(Feature::Functions) {
                    self.unknown_there(spec)
                } else {
                    What::AsIs.into()
                }
            }
            "FLUSHALL" | "FLUSHDB" => self.flush(spec, command, db),
            "SWAPDB" => {
                let dbs = command
                    .arg(1)
                    .and_then(decimal)
                    .zip(command.arg(2).and_then(decimal));
                if single {
                    reject(format!("{} knows no SWAPDB", dialect_name(target.dialect)))
                } else if filter.chooses_keys()
                    || filter.dbs.is_some()
                    || !filter.not_dbs.is_empty()
                    || !settings.transform.db_map.is_empty()
                    || settings.transform.renames()
                {
                    reject(
                        "SWAPDB concerns all keys of two databases, and only some keys are chosen or their names or databases change",
                    )
                } else if let Some((a, b)) = dbs {
                    Decision::from(What::AsIs).with(Effect::Swap(a as u64, b as u64))
                } else {
                    What::Drop.into()
                }
            }
            _ => return None,
        })
    }

    fn flush<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (filter, transform) = (&settings.filter, &settings.transform);
        let all = spec.name == "FLUSHALL";
        if !all && !filter.chooses_db(db) {
            return What::Drop.into();
        }
        if settings.target.dialect.single_db() {
            return reject(format!(
                "{} empties what other keys share with these, and {} cannot express it",
                spec.name,
                dialect_name(settings.target.dialect)
            ));
        }
        if filter.chooses_keys() || transform.renames() {
            return reject(format!(
                "{} concerns all keys, and only some are chosen or their names change",
                spec.name
            ));
        }
        let word = command.arg(1).filter(|word| {
            settings.target.version.is_none()
                && (word.eq_ignore_ascii_case(b"ASYNC") || word.eq_ignore_ascii_case(b"SYNC"))
        });
        let line = |name, db| {
            let line = Line {
                db,
                ..Line::new(name)
            };
            match word {
                Some(word) => line.bytes(word),
                None => line,
            }
        };
        if !all {
            return Decision::lines(vec![line("FLUSHDB", None)]).with(Effect::FlushDb);
        }
        if filter.dbs.is_none() && filter.not_dbs.is_empty() && transform.db_map.is_empty() {
            return Decision::lines(vec![line("FLUSHALL", None)]).with(Effect::FlushAll);
        }
        // Which databases there are is known only where they were named.
        let Some(dbs) = &filter.dbs else {
            return reject(
                "FLUSHALL concerns all databases, and only some are chosen or they change; name those that are wanted with --db",
            );
        };
        let mut to: Vec<u64> = dbs
            .iter()
            .filter(|db| filter.chooses_db(**db))
            .map(|db| transform.db(*db))
            .collect();
        to.sort_unstable();
        to.dedup();
        let lines = to.into_iter().map(|db| line("FLUSHDB", Some(db))).collect();
        Decision::lines(lines).with(Effect::FlushAll)
    }

    fn unknown_there<'a>(&self, spec: &Spec) -> Decision<'a> {
        let since = |name: &str, version: Option<(u16, u16, u16)>| {
            version.map(|(major, minor, _)| format!("{name} {major}.{minor}"))
        };
        let needs: Vec<String> = [since("Redis", spec.redis), since("Valkey", spec.valkey)]
            .into_iter()
            .flatten()
            .collect();
        reject(format!(
            "{} needs {}; the target is {}",
            spec.name.replace('|', " "),
            needs.join(" or "),
            self.settings.target.shown()
        ))
    }

    /// Commands that name their keys.
    fn with_keys<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (target, transform) = (&settings.target, &settings.transform);
        let mut seen = Seen::default();
        let type_name = spec.group.type_name();
        let counted = for_each_key(spec, command.args(), |_, key| {
            seen.count += 1;
            if settings.filter.chooses(db, key, type_name) {
                seen.chosen += 1;
            }
            seen.longest = seen.longest.max(key.len());
            if target.dialect.single_db() {
                seen.add_slot(&self.renamed_copy(key));
            }
        });
        if command.argc() < u64::from(spec.arity.unsigned_abs()) {
            return reject(format!("{}: {}", spec.name, NoKeys::TooShort));
        }
        if let Err(why) = counted {
            return reject(format!("{}: {why}", spec.name.replace('|', " ")));
        }
        if seen.count == 0 {
            return self.keyless(spec, db);
        }
        if seen.chosen == 0 {
            return What::Drop.into();
        }
        let acts = spec.write || is_script(spec.name) || spec.name == "PFCOUNT";
        if !acts {
            // Reading has no effect, and no server logs it.
            return What::Drop.into();
        }
        if transform.renames() && seen.longest > super::encode::RENAME_BYTES {
            return reject("its key is too long to be changed");
        }
        if let Some(limit) = target.key_limit()
            && seen.longest + transform.growth() > limit
        {
            return What::TooLong(too_long_for_proxy(seen.longest, target)).into();
        }
        if settings.log.guarded && is_script(spec.name) {
            return reject(
                "a script cannot run inside the script that keeps commands through a proxy from being applied twice",
            );
        }
        // Types 6 and 7 of a payload's first byte are those of modules.
        if settings.no_modules
            && matches!(spec.name, "RESTORE" | "RESTORE-ASKING")
            && matches!(command.arg(3), Some([6 | 7, ..]))
        {
            return reject(super::encode::NO_MODULES);
        }
        let alone = match target.dialect {
            Dialect::Redis => true,
            Dialect::Cluster => seen.one_slot(),
            Dialect::Twemproxy => seen.one_key(),
        };
        let splits = matches!(
            spec.name,
            "DEL" | "UNLINK" | "TOUCH" | "MSET" | "MSETNX" | "MSETEX"
        );
        if splits && (seen.chosen < seen.count || !alone || spec.name == "MSETEX") {
            return self.split(spec, command, db, type_name, alone);
        }
        if seen.chosen < seen.count {
            return reject(format!(
                "only {} of its {} keys are chosen, and {} cannot be split",
                seen.chosen, seen.count, spec.name
            ));
        }
        if !alone {
            return reject(format!(
                "{} with keys {} cannot be expressed for {}",
                spec.name,
                if target.dialect == Dialect::Cluster {
                    "of several slots"
                } else {
                    "that may be on several servers"
                },
                dialect_name(target.dialect)
            ));
        }
        self.one(spec, command, db)
    }

    /// Commands that could have keys and have none, or are about something else.
    fn keyless<'a>(&self, spec: &Spec, db: u64) -> Decision<'a> {
        if !is_script(spec.name) {
            // Whatever it is, it changes no key.
            return if spec.write {
                reject(format!("{} is not understood", spec.name))
            } else {
                What::Drop.into()
            };
        }
        let settings = self.settings;
        if settings.target.dialect.single_db() {
            return reject(format!(
                "{} without keys cannot be expressed for {}: where it belongs is not known",
                spec.name,
                dialect_name(settings.target.dialect)
            ));
        }
        if settings.filter.chooses_keys() || settings.transform.renames() {
            return reject(format!(
                "which keys {} uses cannot be told, and only some are chosen or their names change",
                spec.name
            ));
        }
        if !settings.filter.chooses_db(db) {
            return What::Drop.into();
        }
        Decision {
            limit: Some(Limit::Verbatim),
            ..What::AsIs.into()
        }
    }

    /// A command whose parts, one for each key, mean the same one after the other.
    fn split<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        db: u64,
        type_name: Option<&str>,
        alone: bool,
    ) -> Decision<'a> {
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let args: Vec<&'a [u8]> = command.args().collect();
        let mut keys: Vec<(usize, &'a [u8])> = Vec::new();
        let chosen = for_each_key(spec, args.iter().copied(), |i, key| {
            if self.settings.filter.chooses(db, key, type_name) {
                keys.push((i, key));
            }
        });
        if chosen.is_err() {
            return reject(NoKeys::Count.to_string());
        }
        match spec.name {
            "DEL" | "UNLINK" => {
                let name = if spec.name == "DEL" || !self.knows(spec) {
                    "DEL"
                } else {
                    "UNLINK"
                };
                let lines = if alone {
                    let mut line = Line::new(name);
                    line.args.extend(keys.iter().map(|(_, key)| Arg::Key(key)));
                    vec![line]
                } else {
                    keys.iter()
                        .map(|(_, key)| Line::new(name).key(key))
                        .collect()
                };
                Decision::lines(lines).with(Effect::Gone)
            }
            "TOUCH" => What::Drop.into(),
            // Both were logged because they did what they say, so no key is in the way.
            "MSET" | "MSETNX" => {
                let value = |i: usize| args.get(i + 1).copied().unwrap_or_default();
                let lines = if alone {
                    let mut line = Line::new("MSET");
                    for (i, key) in keys {
                        line = line.key(key).bytes(value(i));
                    }
                    vec![line]
                } else {
                    keys.into_iter()
                        .map(|(i, key)| Line::new("SET").key(key).bytes(value(i)))
                        .collect()
                };
                Decision::lines(lines).with(Effect::Gone)
            }
            _ => {
                let timed = match self.timed(spec, &args) {
                    Ok(timed) => timed,
                    Err(why) => return reject(why),
                };
                let keeps = args
                    .iter()
                    .rev()
                    .take(4)
                    .any(|word| word.eq_ignore_ascii_case(b"KEEPTTL"));
                let mut lines = Vec::new();
                for (i, key) in keys {
                    let value = args.get(i + 1).copied().unwrap_or_default();
                    let line = Line::new("SET").key(key).bytes(value);
                    match timed.as_ref().and_then(|timed| timed.true_ms) {
                        Some(at) => self.set_until(line, key, at, &mut lines),
                        None if keeps => {
                            if !self.settings.target.has(Feature::KeepTtl) {
                                return reject("SET … KEEPTTL needs Redis 6.0");
                            }
                            lines.push(line.bytes(b"KEEPTTL"));
                        }
                        None => lines.push(line),
                    }
                }
                let effect = match timed {
                    Some(timed) => Effect::Expires(timed.true_ms),
                    None if keeps => Effect::None,
                    None => Effect::Gone,
                };
                Decision::lines(lines).with(effect)
            }
        }
    }

    fn knows(&self, spec: &Spec) -> bool {
        self.settings.target.knows(spec.redis, spec.valkey)
    }

    /// A command that goes to one place, with all of its keys.
    fn one<'a>(&self, spec: &Spec, command: &Command<'a>, db: u64) -> Decision<'a> {
        let settings = self.settings;
        let (target, transform) = (&settings.target, &settings.transform);
        let dialect = target.dialect;
        let mut effect = Effect::None;
        let mut limit = None;
        match spec.name {
            "DEL" | "UNLINK" | "GETDEL" | "PERSIST" | "MSET" | "MSETNX" => effect = Effect::Gone,
            "RENAME" | "RENAMENX" => effect = Effect::Rename,
            "MOVE" => {
                let to = command.arg(2).and_then(decimal).filter(|to| *to >= 0);
                return match to {
                    _ if dialect.single_db() => {
                        reject(format!("{} knows no MOVE", dialect_name(dialect)))
                    }
                    Some(to) if settings.filter.chooses_db(to as u64) => {
                        let to = transform.db(to as u64);
                        let key = command.arg(1).unwrap_or_default();
                        if to == transform.db(db) {
                            // Both databases are one at the destination, and the key is there already.
                            return What::Drop.into();
                        }
                        let line = Line::new("MOVE").key(key).int(to as i64);
                        Decision::lines(vec![line]).with(Effect::Move(to))
                    }
                    Some(_) => reject("MOVE leads to a database that is not chosen"),
                    None => What::Drop.into(),
                };
            }
            "COPY" => match self.copy(command, db) {
                Ok(decision) => return decision,
                Err(to) => effect = Effect::Copy(to),
            },
            "SPOP" => limit = Some(Limit::Verbatim),
            "XADD"
                if command
                    .arg(XaddWords::of(command).id)
                    .is_some_and(|id| id.ends_with(b"*")) =>
            {
                limit = Some(Limit::Verbatim);
            }
            _ if is_script(spec.name) => limit = Some(Limit::Verbatim),
            _ => {}
        }
        let mut decision = if spec.expiry == Expiry::None {
            self.untimed(spec, command)
        } else if command.argc() > MOST_ARGS {
            reject(TOO_MANY)
        } else {
            let args: Vec<&'a [u8]> = command.args().collect();
            match self.timed(spec, &args) {
                Ok(timed) => self.with_time(spec, command, args, timed),
                Err(why) => reject(why),
            }
        };
        if effect != Effect::None {
            decision.effect = effect;
        }
        decision.limit = decision.limit.or(limit);
        if dialect == Dialect::Twemproxy && !self.settings.log.guarded {
            self.forwarded(spec, command, decision)
        } else {
            decision
        }
    }

    /// COPY: its decision, or the database at the destination to which it copies as it stands.
    fn copy<'a>(&self, command: &Command<'a>, db: u64) -> std::result::Result<Decision<'a>, u64> {
        let transform = &self.settings.transform;
        let args: Vec<&'a [u8]> = command.args().take(8).collect();
        let place = args
            .iter()
            .skip(3)
            .position(|word| word.eq_ignore_ascii_case(b"DB"));
        let Some(place) = place.map(|i| i + 4) else {
            return Err(transform.db(db));
        };
        let to = args
            .get(place)
            .copied()
            .and_then(decimal)
            .filter(|to| *to >= 0);
        let Some(to) = to.map(|to| to as u64) else {
            return Ok(What::Drop.into());
        };
        if !self.settings.filter.chooses_db(to) {
            return Ok(reject("COPY leads to a database that is not chosen"));
        }
        let to = transform.db(to);
        if self.settings.target.dialect.single_db() && to != transform.db(db) {
            return Ok(reject(
                "COPY leads to another database, and the destination has one",
            ));
        }
        if !self.settings.target.has(Feature::SetPxat) {
            return Ok(reject("COPY needs Redis 6.2"));
        }
        let mut line = Line::new("COPY").key(args[1]).key(args[2]);
        line = line.bytes(b"DB").int(to as i64);
        if args
            .iter()
            .skip(3)
            .any(|word| word.eq_ignore_ascii_case(b"REPLACE"))
        {
            line = line.bytes(b"REPLACE");
        }
        Ok(Decision::lines(vec![line]).with(Effect::Copy(to)))
    }

    /// All arguments of a command, its keys marked.
    fn args<'a>(&self, spec: &Spec, command: &Command<'a>) -> Vec<Arg<'a>> {
        let mut args: Vec<Arg<'a>> = command.args().map(Arg::Bytes).collect();
        // Its keys were found before, so they can be found.
        let _ = for_each_key(spec, command.args(), |i, key| args[i] = Arg::Key(key));
        args
    }

    fn renamed_copy<'k>(&self, key: &'k [u8]) -> std::borrow::Cow<'k, [u8]> {
        if self.settings.transform.renames() {
            let mut renamed = Vec::new();
            self.settings.transform.rename(key, &mut renamed);
            renamed.into()
        } else {
            key.into()
        }
    }

    /// What is known of a command that could not be written, for the list of those.
    pub fn reject(command: &Command<'_>, db: u64, offset: u64, why: &str) -> Reject {
        let key = first_key(command).unwrap_or_default();
        let type_name = lookup(command.name()).and_then(|spec| spec.group.type_name());
        let name = command.name();
        Reject {
            db: Some(db),
            key: key[..key.len().min(Reject::KEY_BYTES)].to_vec(),
            type_name: type_name.unwrap_or("command").to_owned(),
            command: shown(name),
            error: format!("at byte {offset:#x}: {why}"),
        }
    }

    /// The error that stops the run at a command, which stands at byte `offset` and cannot be written.
    pub fn refused(command: &Command<'_>, offset: u64, db: u64, why: &str) -> Error {
        let name = shown(command.name());
        let type_name = lookup(command.name()).and_then(|spec| spec.group.type_name());
        let kind = ErrorKind::Command {
            command: name,
            why: why.to_owned(),
        };
        let error = Error::new(kind, At::file(offset));
        match first_key(command) {
            Some(key) => error.in_key(|| KeyName {
                db,
                key: key[..key.len().min(KEY_SHOWN + 1)].to_vec(),
                type_name: type_name.unwrap_or("any type").to_owned(),
                rdb_version: None,
            }),
            None => error,
        }
    }
}

/// The key by which a person finds a command again. One that is in no table is taken to begin with it.
fn first_key<'a>(command: &Command<'a>) -> Option<&'a [u8]> {
    let Some(spec) = lookup(command.name()) else {
        return command.arg(1);
    };
    let mut first = None;
    // Where its keys cannot be told, there is none to name.
    let _ = for_each_key(spec, command.args(), |_, key| first = first.or(Some(key)));
    first
}

/// A command's name for messages.
fn shown(name: &[u8]) -> String {
    name[..name.len().min(64)].escape_ascii().to_string()
}

const TOO_MANY: &str = "it has more arguments than can be put in other words";

/// What is seen of a command's keys.
#[derive(Default)]
struct Seen {
    count: u64,
    chosen: u64,
    longest: usize,
    slot: Option<u16>,
    several_slots: bool,
    first: Option<Vec<u8>>,
    several_keys: bool,
}

impl Seen {
    fn add_slot(&mut self, key: &[u8]) {
        let slot = slot(key);
        self.several_slots |= self.slot.replace(slot).is_some_and(|other| other != slot);
        match &self.first {
            None => self.first = Some(key.to_vec()),
            Some(first) => self.several_keys |= first != key,
        }
    }

    fn one_slot(&self) -> bool {
        !self.several_slots
    }

    fn one_key(&self) -> bool {
        !self.several_keys
    }
}

/// Whether a key that such a command names is no hash once it is done.
fn of_other_type_than_hash(group: Group) -> bool {
    !matches!(group, Group::Hash | Group::Generic | Group::Other)
}

/// Why a proxy does not forward a key.
pub(crate) fn too_long_for_proxy(bytes: usize, target: &Target) -> String {
    let limit = target.key_limit().unwrap_or_default();
    match target.key_bytes {
        Some(_) => format!("its name has {bytes} bytes; this twemproxy forwards {limit}"),
        None => format!(
            "its name has {bytes} bytes; twemproxy with its default mbuf size forwards {limit}"
        ),
    }
}

fn is_script(name: &str) -> bool {
    matches!(
        name,
        "EVAL" | "EVALSHA" | "EVAL_RO" | "EVALSHA_RO" | "FCALL" | "FCALL_RO"
    )
}

fn dialect_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Redis => "a server",
        Dialect::Cluster => "a cluster",
        Dialect::Twemproxy => "twemproxy",
    }
}

fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
