//! What was decided is written, and what it does to expiries that are held back is remembered.

use super::expiry::fields_step;
use super::{
    Arg, Decision, Dialect, Effect, Feature, Group, HELD_BYTES, Held, Keep, RUN_KEY_FIRST,
    Rewriter, Spec, What, decimal, lookup, of_other_type_than_hash,
};
use crate::command::keys::for_each_key;
use crate::error::Result;
use crate::resp::parse::Command;
use crate::resp::write::Out;

/// PEXPIREAT … XX for servers that do not know XX yet.
pub(super) const EXPIRE_IF: &str = "if redis.call('PTTL',KEYS[1])>=0 then return redis.call('PEXPIREAT',KEYS[1],ARGV[1]) end return 0";

impl Rewriter<'_> {
    /// Writes a command as it was decided, and remembers what it does.
    ///
    /// Counts it by its fate. `selected` is the database selected at the destination.
    pub fn write(
        &mut self,
        command: &Command<'_>,
        decision: &Decision<'_>,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if let Some(limit) = decision.limit {
            self.tally.limit(limit, 1);
        }
        self.tally.log.read += u64::from(decision.selects().is_none());
        // A source removes what expires at its own pace, also where nobody writes any more.
        let removes = decision.effect == Effect::Gone && is_removal(command.name());
        self.changes += u64::from(decision.is_written() && !removes);
        match &decision.what {
            What::Select(db) => self.db = *db,
            What::Drop => self.tally.log.filtered += 1,
            What::Reject(_) | What::TooLong(_) | What::OtherDb => self.tally.log.rejected += 1,
            What::AsIs => {
                self.tally.log.written += 1;
                self.select(None, selected, out)?;
                if command.shape.canonical && !self.settings.transform.renames() {
                    out.large(command.raw)?;
                    out.end()?;
                } else {
                    self.anew(command, out)?;
                }
            }
            What::Lines(lines) => {
                self.tally.log.written += 1;
                for line in lines {
                    self.select(line.db, selected, out)?;
                    out.array(line.args.len() as u64);
                    for arg in &line.args {
                        match arg {
                            Arg::Bytes(bytes) => out.bulk_any(bytes)?,
                            Arg::Int(n) => out.bulk_int(*n),
                            Arg::Key(key) if self.settings.transform.renames() => {
                                self.settings.transform.rename(key, &mut self.renamed);
                                out.bulk_any(&self.renamed)?;
                            }
                            Arg::Key(key) => out.bulk_any(key)?,
                        }
                    }
                    out.end()?;
                }
            }
        }
        if self.held.is_some() {
            self.remember(command, decision.effect)?;
        }
        Ok(())
    }

    /// Writes SELECT where the destination is in another database.
    pub fn select(
        &mut self,
        db: Option<u64>,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        if self.settings.target.dialect.single_db() {
            return Ok(());
        }
        let db = db.unwrap_or_else(|| self.target_db());
        if *selected != Some(db) {
            let mut digits = itoa::Buffer::new();
            out.command(&[b"SELECT", digits.format(db).as_bytes()])?;
            *selected = Some(db);
        }
        Ok(())
    }

    /// Writes a command argument by argument.
    pub(super) fn anew(&mut self, command: &Command<'_>, out: &mut Out<'_>) -> Result<()> {
        let renames = self.settings.transform.renames();
        let mut keys: Vec<usize> = Vec::new();
        if renames && let Some(spec) = lookup(command.name()) {
            let _ = for_each_key(spec, command.args(), |i, _| keys.push(i));
            // Some commands name them in another order.
            keys.sort_unstable();
        }
        let mut keys = keys.into_iter().peekable();
        out.array(command.argc());
        for (i, arg) in command.args().enumerate() {
            if keys.next_if_eq(&i).is_some() {
                self.settings.transform.rename(arg, &mut self.renamed);
                out.bulk_any(&self.renamed)?;
            } else {
                out.bulk_any(arg)?;
            }
        }
        out.end()
    }

    /// Keeps the held expiries true to what the command did.
    pub(super) fn remember(&mut self, command: &Command<'_>, effect: Effect) -> Result<()> {
        let db = self.target_db();
        let settings = self.settings;
        let waits = matches!(effect, Effect::Expires(Some(at)) if self.hold(at).is_some());
        let Some(held) = &mut self.held else {
            return Ok(());
        };
        if held.is_empty() && !waits {
            return Ok(());
        }
        let name = |key: &[u8], out: &mut Vec<u8>| settings.transform.rename(key, out);
        let spec = lookup(command.name());
        let voids_fields = |spec: &Spec| {
            of_other_type_than_hash(spec.group) || matches!(spec.name, "RESTORE" | "RESTORE-ASKING")
        };
        if self.holds_fields
            && let Some(spec) = spec.filter(|spec| voids_fields(spec))
        {
            let mut result = Ok(());
            let renamed = &mut self.renamed;
            let _ = for_each_key(spec, command.args(), |_, key| {
                if result.is_ok() && settings.filter.chooses(self.db, key, None) {
                    name(key, renamed);
                    result = held.clear_fields(db, renamed);
                }
            });
            result?;
        }
        match effect {
            Effect::None => {}
            Effect::FlushAll => held.flush_all(),
            Effect::FlushDb => held.flush(db),
            Effect::Swap(a, b) => held.swap(a, b),
            Effect::Gone | Effect::Expires(_) => {
                let Some(spec) = spec else { return Ok(()) };
                let fields = fields_of(spec, command);
                self.holds_fields |= waits && fields.is_some();
                let mut result = Ok(());
                let renamed = &mut self.renamed;
                let _ = for_each_key(spec, command.args(), |_, key| {
                    if result.is_err() || !settings.filter.chooses(self.db, key, None) {
                        return;
                    }
                    name(key, renamed);
                    result = match (effect, &fields) {
                        (Effect::Expires(at), Some(fields)) => {
                            fields.clone().try_for_each(|field| match at {
                                Some(at) if waits => held.set(db, renamed, Some(field), at),
                                _ => held.clear(db, renamed, Some(field)),
                            })
                        }
                        (Effect::Expires(Some(at)), None) if waits => {
                            held.set(db, renamed, None, at)
                        }
                        (Effect::Expires(_), None) => held.clear(db, renamed, None),
                        // PERSIST and SET leave fields of a hash alone, or there is no hash any more.
                        _ if spec.name == "PERSIST" => held.clear(db, renamed, None),
                        _ => held.clear_key(db, renamed),
                    };
                });
                result?;
            }
            Effect::Rename | Effect::Copy(_) => {
                let (mut from, mut to) = (Vec::new(), Vec::new());
                name(command.arg(1).unwrap_or_default(), &mut from);
                name(command.arg(2).unwrap_or_default(), &mut to);
                match effect {
                    Effect::Copy(to_db) => held.copy(db, &from, to_db, &to)?,
                    _ => held.rename(db, &from, &to)?,
                }
            }
            Effect::Move(to_db) => {
                name(command.arg(1).unwrap_or_default(), &mut self.renamed);
                held.mv(db, &self.renamed, to_db)?;
            }
        }
        Ok(())
    }

    /// Remembers the true time of a key of a snapshot, or of a field of it, that was written as held.
    pub fn hold_key(
        &mut self,
        db: u64,
        key: &[u8],
        field: Option<&[u8]>,
        at_ms: i64,
    ) -> Result<()> {
        let db = self.settings.transform.db(db);
        self.settings.transform.rename(key, &mut self.renamed);
        self.holds_fields |= field.is_some();
        match &mut self.held {
            Some(held) => held.set(db, &self.renamed, field, at_ms),
            None => Ok(()),
        }
    }

    /// Writes the true times of all expiries that were held back, but for those that `keep` says. The keys have their
    /// names at the destination.
    pub fn settle(
        &mut self,
        keep: Keep,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        let Some(mut held) = self.held.take() else {
            return Ok(());
        };
        self.hold_until_ms = None;
        let mut keep_before = i64::MIN;
        if let Keep::Near(ahead_ms) | Keep::None(Some(ahead_ms)) = keep {
            self.ahead_ms = Some(ahead_ms);
            self.held = Some(Held::new(HELD_BYTES));
            self.roll();
            if let Keep::Near(_) = keep {
                keep_before = self.hold_until_ms.unwrap_or(i64::MIN);
            }
        }
        held.drain(|db, key, field, at_ms| {
            if at_ms < keep_before {
                // It keeps the time that it has at the destination, which is later than this one.
                return match &mut self.held {
                    Some(held) => held.set(db, key, field, at_ms),
                    None => Ok(()),
                };
            }
            self.tally.settled += 1;
            self.select(Some(db), selected, out)?;
            let mut digits = itoa::Buffer::new();
            let at = digits.format(at_ms.max(0)).as_bytes();
            let target = &self.settings.target;
            let forwards = target.dialect != Dialect::Twemproxy;
            match field {
                Some(field) if !forwards => {
                    let run = RUN_KEY_FIRST.as_bytes();
                    let args: [&[u8]; 10] = [
                        b"EVAL",
                        run,
                        b"1",
                        key,
                        b"HPEXPIREAT",
                        at,
                        b"XX",
                        b"FIELDS",
                        b"1",
                        field,
                    ];
                    out.command(&args)
                }
                Some(field) => {
                    out.command(&[b"HPEXPIREAT", key, at, b"XX", b"FIELDS", b"1", field])
                }
                None if target.has(Feature::ExpireIf) && forwards => {
                    out.command(&[b"PEXPIREAT", key, at, b"XX"])
                }
                None => out.command(&[b"EVAL", EXPIRE_IF.as_bytes(), b"1", key, at]),
            }
        })
    }

    /// Passes commands on as they stand, of which [`passes`](Self::passes) was said.
    pub fn pass(
        &mut self,
        raw: &[u8],
        commands: u64,
        selected: &mut Option<u64>,
        out: &mut Out<'_>,
    ) -> Result<()> {
        self.select(None, selected, out)?;
        self.tally.log.read += commands;
        self.tally.log.written += commands;
        self.changes += commands;
        out.large(raw)?;
        out.commands += commands - 1;
        out.end()
    }
}

fn is_removal(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"DEL") || name.eq_ignore_ascii_case(b"UNLINK")
}

/// The hash fields that a command names behind FIELDS; `None` where it is about whole keys.
fn fields_of<'a>(
    spec: &Spec,
    command: &Command<'a>,
) -> Option<impl Iterator<Item = &'a [u8]> + Clone> {
    if spec.group != Group::Hash {
        return None;
    }
    let mut args = command.args();
    args.find(|arg| arg.eq_ignore_ascii_case(b"FIELDS"))?;
    let count = args.next().and_then(decimal).unwrap_or(0).max(0) as usize;
    Some(args.step_by(fields_step(spec)).take(count))
}
